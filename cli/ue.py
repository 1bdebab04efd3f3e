"""`imsalg ue`: a softphone for the command line, the demo and the tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from cli.softphone import Softphone

SUITES = (
    "AES_CM_128_HMAC_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32",
    "AES_256_CM_HMAC_SHA1_80",
    "AES_256_CM_HMAC_SHA1_32",
)  # those that the pjsua2-python wheel knows


@click.command(name="ue")
@click.option("--user", required=True, help="User part of the public identity.")
@click.option("--domain", default="ims.test", show_default=True, help="Home domain.")
@click.option(
    "--registrar", metavar="URI", help="The P-CSCF, as sip:HOST:PORT. Without it: straight to the peer."
)
@click.option("--no-register", is_flag=True, help="Send calls through --registrar without registering there.")
@click.option("--transport", type=click.Choice(["udp", "tcp", "tls"]), default="udp", show_default=True)
@click.option("--address", help="Own address; by default the one that reaches the registrar or the peer.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Own SIP port; 0: any.", show_default=True
)
@click.option(
    "--rtp-port",
    type=click.IntRange(1024, 65534),
    default=4000,
    show_default=True,
    help="First port tried for RTP.",
)
@click.option("--password", envvar="IMSALG_UE_PASSWORD", show_envvar=True, help="For digest authentication.")
@click.option("--e2ae/--no-e2ae", help="Indicate sdes-srtp;mediasec and ask for it with a=3ge2ae:requested.")
@click.option(
    "--srtp",
    type=click.Choice(["none", "optional", "mandatory"]),
    help="RTP/AVP, RTP/AVP with a=crypto, or RTP/SAVP; by default mandatory with --e2ae, else none.",
)
@click.option(
    "--suite", "suites", multiple=True, type=click.Choice(SUITES), help="Offer only these, in this order."
)
@click.option("--call", metavar="URI", help="Call this, and leave when the call has ended.")
@click.option("--answer/--no-answer", default=True, help="Answer calls, or let them ring.", show_default=True)
@click.option(
    "--answer-code",
    type=click.IntRange(200, 699),
    default=200,
    show_default=True,
    help="Final response to calls.",
)
@click.option(
    "--play", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Play this WAV, in a loop."
)
@click.option("--tone", type=click.IntRange(50, 3400), metavar="HZ", help="Play a tone instead.")
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), help="Record the latest call to this WAV."
)
@click.option("--duration", type=float, metavar="S", help="Hang up this long after the answer.")
@click.option(
    "--hold-after", type=float, metavar="S", help="Hold this long after the answer, resume as long after."
)
@click.option("--for", "lifetime", type=float, metavar="S", help="Leave after this long in any case.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option(
    "--log-level",
    type=click.IntRange(0, 6),
    default=0,
    show_default=True,
    help="PJSIP's own log, on standard error; without keys; from 4 on with whole SIP messages.",
)
def command(
    registrar: str | None,
    no_register: bool,
    address: str | None,
    srtp: str | None,
    e2ae: bool,
    call: str | None,
    play: Path | None,
    tone: int | None,
    lifetime: float | None,
    as_json: bool,
    **rest: Any,
) -> None:
    """A softphone (PJSUA2): registers, calls, answers, plays and records.

    Prints one line per event. Exit code 0 when the registration and the call that were asked for succeeded.
    Ctrl-C or SIGTERM hang up and unregister first.
    """
    try:
        from cli.softphone import Error, Settings, Softphone, Srtp
    except ImportError as error:
        raise click.ClickException(f"the softphone needs the package pjsua2-python ({error})") from None
    if play and tone:
        raise click.UsageError("--play and --tone exclude each other")
    if no_register and not registrar:
        raise click.UsageError("--no-register needs --registrar")
    address = address or own_address(registrar or call)
    if ":" in address:
        raise click.UsageError("this build of PJSIP has IPv4 only")
    settings = Settings(
        registrar=registrar,
        register=not no_register,
        address=address,
        srtp=Srtp[(srtp or ("mandatory" if e2ae else "none")).upper()],
        e2ae=e2ae,
        play=play,
        tone=tone,
        **rest,
    )
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(number))
    deadline = float("inf") if lifetime is None else time.monotonic() + lifetime
    events = keep_stdout(quiet=settings.log_level == 0)
    try:
        with Softphone(settings, lambda event: print_event(events, event, as_json)) as phone:
            succeeded = run(phone, call, lambda: bool(stopped) or time.monotonic() >= deadline)
    except Error as error:
        raise click.ClickException(f"{error.title}: {error.reason}") from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # else one that comes while Python ends would kill it
    sys.exit(0 if succeeded else 1)


def run(phone: Softphone, call: str | None, over: Callable[[], bool]) -> bool:
    """Register if asked, then place the call or wait for calls; whether all that was asked succeeded."""
    if phone.registers:
        phone.poll_until(lambda: phone.registration is not None or over())
        if phone.registration != 200:
            return False
    if call is None:
        phone.poll_until(over)
        return not phone.registers or phone.registration == 200
    placed = phone.call(call)
    phone.poll_until(lambda: placed.ended or over())
    return placed.confirmed


def own_address(uri: str | None) -> str:
    """The local address from which the host of this SIP URI is reached; 127.0.0.1 where no host is named."""
    host = re.search(r"sips?:(?:[^@]*@)?(\[[^\]]+\]|[^:;?>]+)", uri or "")
    if host is None:
        return "127.0.0.1"
    try:
        family, _, _, _, remote = socket.getaddrinfo(host[1].strip("[]"), 5060, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(remote)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise click.ClickException(f"no way to {host[1]}: {error.strerror}; see --address") from None


def keep_stdout(*, quiet: bool) -> TextIO:
    """The real standard output, for events alone: what PJSIP prints goes to standard error, or nowhere."""
    sys.stdout.flush()
    events = os.fdopen(os.dup(1), "w")
    target = os.open(os.devnull, os.O_WRONLY) if quiet else os.dup(2)
    os.dup2(target, 1)
    os.close(target)
    return events


def print_event(out: TextIO, event: dict[str, Any], as_json: bool) -> None:
    """One line for one event, at once; nobody listening any more is no error."""
    if as_json:
        line = json.dumps(event)
    else:
        details = " ".join(f"{name}={value}" for name, value in event.items() if name != "event")
        line = f"{time.strftime('%H:%M:%S')}  {event['event']:<12}  {details}"
    with contextlib.suppress(BrokenPipeError):
        print(line, file=out, flush=True)
