"""`imsalg rtcue`: a UE with DTLS-SRTP or data channels, which `imsalg ue` does not know."""

from __future__ import annotations

import asyncio
import re
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from websockets.exceptions import WebSocketException

from cli.rtcmedia import Media, Wishes, parse_channels
from cli.sipuser import Refused, SipUser
from cli.ue import print_event

FEATURE = '+sip.app-subtype="webrtc-datachannel"'  # of a DCMTSI client (TS 26.114 clause 6.2.10.1)
HANDSHAKE = 10.0  # seconds that ICE and DTLS may take, before what is timed begins

_REGISTRAR = re.compile(r"sip:[^\s:@/]+:[0-9]{1,5}|wss?://\S+")

Emit = Callable[[dict[str, Any]], None]


@click.command(name="rtcue")
@click.option("--user", required=True, help="User part of the public identity.")
@click.option("--domain", default="ims.test", show_default=True, help="Home domain.")
@click.option("--registrar", required=True, metavar="URI", help="sip:HOST:PORT over UDP, ws://… or wss://….")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="Who signed the certificate of wss.")
@click.option("--password", envvar="IMSALG_UE_PASSWORD", show_envvar=True, default="", help="Digest.")
@click.option("--ice", is_flag=True, help="ICE and RTP/SAVPF, as a browser; else as an IMS UE.")
@click.option(
    "--e2ae", is_flag=True, help="Indicate dtls-srtp;mediasec and ask for it with a=3ge2ae:requested."
)
@click.option("--setup", type=click.Choice(["actpass", "active", "passive"]), default="actpass",
              show_default=True, help="Of offers; answers that may choose say active, or this.")  # fmt: skip
@click.option("--channel", "channels", multiple=True, metavar="ID:SUBPROTOCOL",
              help="A data channel, in place of audio; may be repeated.")  # fmt: skip
@click.option("--dcmtsi", is_flag=True, help="Register the feature tag of data channels.")
@click.option("--say", metavar="TEXT", default="", help="Say this on each data channel.")
@click.option("--tone", type=click.IntRange(50, 3400), default=440, metavar="HZ", help="Play this tone.")
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), help="Record the call to this WAV."
)
@click.option("--call", metavar="URI", help="Call this, and leave when the call has ended.")
@click.option("--reoffer-after", type=float, metavar="S", help="Offer the same again so long after.")
@click.option("--duration", type=float, metavar="S", help="Hang up this long after media are there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def command(**options: Any) -> None:
    """A UE around aiortc: registers, calls, answers. One line per event; SIGTERM ends it in good order.

    Exit code 0 when the registration and the call that were asked for succeeded.
    """
    try:
        channels = parse_channels(options["channels"])
    except ValueError:
        raise click.BadParameter("expected ID:SUBPROTOCOL", param_hint="--channel") from None
    wishes = Wishes(
        ice=options["ice"],
        setup=options["setup"],
        lines=("a=3ge2ae:requested",) if options["e2ae"] else (),
        tone=options["tone"],
        record=options["record"],
        channels=channels,
        say=options["say"],
    )

    def emit(event: dict[str, Any]) -> None:
        as_json = options["as_json"]
        lines = {name: value for name, value in event.items() if as_json or name != "sdp"}
        print_event(sys.stdout, lines, as_json)

    if not _REGISTRAR.fullmatch(registrar := options["registrar"]):
        problem = f"expected sip:HOST:PORT, ws://… or wss://…, got {registrar!r}"
        raise click.BadParameter(problem, param_hint="--registrar")
    try:
        done = asyncio.run(RtcUe(wishes, options, emit).run())
    except (OSError, WebSocketException) as error:
        raise click.ClickException(f"{registrar}: {str(error) or 'no answer'}") from None
    sys.exit(0 if done else 1)


class RtcUe:
    """One registration, and one call at a time with its own Media."""

    def __init__(self, wishes: Wishes, options: dict[str, Any], emit: Emit) -> None:
        self._wishes, self._options, self._emit = wishes, options, emit
        self._media: Media | None = None
        self._established = asyncio.Event()
        self._user = SipUser(
            options["user"],
            options["domain"],
            options["password"],
            self._offered,
            contact=f";{FEATURE}" if options["dcmtsi"] else "",
            client="dtls-srtp;mediasec" if options["e2ae"] else "",
        )

    async def run(self) -> bool:
        """Whether all that was asked for succeeded."""
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, over.set)
        options = self._options
        registrar = options["registrar"].replace("sip:", "udp://")
        context = ssl.create_default_context(cafile=options["ca"]) if registrar.startswith("wss:") else None
        await self._user.connect(registrar, context)
        self._emit({"event": "ready"})
        try:
            response = await self._user.register()
            self._emit({"event": "registered", "code": response.status, "security": self._user.security})
            if options["call"]:
                if not await self._call(options["call"], over):
                    return False
            else:
                answering = asyncio.create_task(self._answer_calls())
                await over.wait()
                answering.cancel()
                await self._hang_up()
            await self._user.register(expires=0)
        except Refused as refused:
            self._emit({"event": "refused", "code": refused.response.status})
            return False
        finally:
            await self._end_media()
            await self._user.close()
        return True

    async def _call(self, uri: str, over: asyncio.Event) -> bool:
        """Whether it was answered."""
        media = await self._new_media()
        try:
            await media.accept(await self._user.invite(uri, media.offer()))
        except Refused as refused:
            self._emit({"event": "ended", "code": refused.response.status, "confirmed": False})
            await self._user.register(expires=0)
            return False
        self._tell_media()
        await _first(HANDSHAKE, self._established, over, self._user.ended)
        pause, rest = self._options["reoffer_after"], self._options["duration"]
        if pause is not None:
            await _first(pause, over, self._user.ended)
            await media.accept(await self._user.offer(media.offer()))
            self._emit({"event": "reoffered"})
        await _first(rest, over, self._user.ended)
        await self._hang_up()
        return True

    async def _answer_calls(self) -> None:
        while True:
            await self._user.ended.wait()
            self._user.ended.clear()
            await self._end_media()
            self._emit({"event": "ended", "code": 200, "confirmed": True})

    async def _offered(self, offer: str) -> str | int:
        if self._media is not None:
            return await self._media.answer(offer)
        self._emit({"event": "incoming", "sdp": offer})
        if ("m=application" in offer) != bool(self._wishes.channels) or not offer:
            return 488
        media = await self._new_media()
        answer = await media.answer(offer)
        self._tell_media()
        return answer

    async def _hang_up(self) -> None:
        if self._user.dialog is not None:
            await self._user.bye()
        elif not self._user.ended.is_set():
            return
        await self._end_media()
        self._emit({"event": "ended", "code": 200, "confirmed": True})

    async def _new_media(self) -> Media:
        self._established.clear()
        media = self._media = Media(self._wishes, self._told)
        await media.open()
        return media

    async def _end_media(self) -> None:
        media, self._media = self._media, None
        if media is not None:
            await media.close()

    def _tell_media(self) -> None:
        self._emit({"event": "media", "srtp": not self._wishes.channels})

    def _told(self, what: str, *details: Any) -> None:
        match what, *details:
            case "message", number, text:
                self._emit({"event": "message", "channel": number, "text": text})
            case _:
                self._established.set()
                self._emit({"event": what})


async def _first(seconds: float | None, *events: asyncio.Event) -> None:
    """Wait for the time or one of the events, whatever comes first."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
