"""The media of a UE that nobody here wrote: aiortc's ICE, DTLS, SRTP and SCTP, and one m-line that says so.

With ICE it is as a browser would be; without, as an IMS UE (TS 26.114): DTLS over the addresses that the
session description names. Audio is PCMU, data channels are those that `a=dcmap` lists (RFC 8864).
"""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import re
import secrets
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aioice.ice
from aiortc import (
    RTCCertificate,
    RTCDataChannel,
    RTCDataChannelParameters,
    RTCDtlsTransport,
    RTCIceGatherer,
    RTCIceTransport,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCSctpTransport,
)
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcicetransport import RTCIceParameters
from aiortc.rtcrtpparameters import (
    RTCRtcpParameters,
    RTCRtpCodecParameters,
    RTCRtpReceiveParameters,
    RTCRtpSendParameters,
)
from aiortc.rtcrtpreceiver import RemoteStreamTrack
from aiortc.sdp import candidate_from_sdp, candidate_to_sdp
from av import AudioFrame

from cli.tone import RATE, tone_samples, write_wav

PCMU = RTCRtpCodecParameters(mimeType="audio/PCMU", clockRate=8000, channels=1, payloadType=0)
FRAME = 160  # samples, 20 ms
SCTP_PORT = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """ice: as a browser. setup: of an offer, and of an answer to actpass, which else is active.
    lines: further attributes of an offer. tone: in Hz. record: what is heard, as a WAV.
    channels: stream ids and subprotocols of data channels, in place of audio. say: on each of them."""

    address: str = "127.0.0.1"
    ice: bool = False
    setup: str = "actpass"
    lines: tuple[str, ...] = ()
    tone: int = 440
    record: Path | None = None
    channels: tuple[tuple[int, str], ...] = ()
    say: str = ""


class Media:
    """One stream. open(), then offer() and accept(), or answer().

    told: called with "established", with "failed", and with "message", its stream id and its text."""

    def __init__(self, wishes: Wishes, told: Callable[..., None]) -> None:
        self._wishes, self._told = wishes, told
        self._tls_id = secrets.token_hex(12)
        self._version = 0
        self._session = secrets.randbelow(1 << 32)
        self._setup = ""  # ours, once both have said theirs
        self._heard = array("h")
        self._started: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._sender: Any = None
        self._receiver: Any = None
        self._sctp: Any = None

    async def open(self) -> None:
        if self._wishes.ice:
            # aioice leaves loopback out where it looks for host candidates.
            aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [self._wishes.address]
            gatherer = RTCIceGatherer(iceServers=[])
            await gatherer.gather()
            self._transport: Any = RTCIceTransport(gatherer)
            self._port = gatherer.getLocalCandidates()[0].port
        else:
            self._transport = _PlainTransport()
            self._port = await self._transport.open(self._wishes.address)
        self._dtls: Any = RTCDtlsTransport(self._transport, [RTCCertificate.generateCertificate()])

    def offer(self) -> str:
        return self._describe(self._setup or self._wishes.setup, offer=True)

    async def answer(self, offer: str) -> str:
        theirs = _attribute(offer, "setup")
        if not self._setup:
            mine = {"active": "passive", "passive": "active"}.get(theirs)
            self._setup = mine or ("passive" if self._wishes.setup == "passive" else "active")
            self._start(offer, controlling="a=ice-lite" in offer)
        return self._describe(self._setup, offer=False, mid=_attribute(offer, "mid"))

    async def accept(self, answer: str) -> None:
        """Later ones change nothing here."""
        if not self._setup:
            self._setup = "passive" if _attribute(answer, "setup") == "active" else "active"
            self._start(answer, controlling=True)

    async def close(self) -> None:
        for task in (self._started, self._listening):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await task
        for each in (self._sender, self._receiver, self._sctp, self._dtls, self._transport):
            if each is not None:
                with contextlib.suppress(ConnectionError):
                    await each.stop()
        if self._wishes.record is not None and not self._wishes.channels:
            write_wav(self._wishes.record, self._heard)

    # -- what is said ----------------------------------------------------------------------------------------

    def _describe(self, setup: str, *, offer: bool, mid: str = "0") -> str:
        wishes = self._wishes
        self._version += 1
        fingerprint = next(
            f for f in self._dtls.getLocalParameters().fingerprints if f.algorithm == "sha-256"
        )
        if wishes.channels:
            m_line = f"m=application {self._port} UDP/DTLS/SCTP webrtc-datachannel"
            media = [f"a=sctp-port:{SCTP_PORT}", "a=max-message-size:65536"]
            media += [f'a=dcmap:{number} subprotocol="{name}"' for number, name in wishes.channels]
        else:
            m_line = f"m=audio {self._port} UDP/TLS/RTP/SAVP{'F' if wishes.ice else ''} 0"
            media = ["a=rtpmap:0 PCMU/8000", "a=sendrecv", "a=rtcp-mux"]
        if wishes.ice:
            parameters = self._transport.iceGatherer.getLocalParameters()
            candidates = self._transport.iceGatherer.getLocalCandidates()
            media += [f"a=mid:{mid or 0}"]
            media += [f"a=ice-ufrag:{parameters.usernameFragment}", f"a=ice-pwd:{parameters.password}"]
            media += [f"a=candidate:{candidate_to_sdp(candidate)}" for candidate in candidates]
        lines = [
            "v=0",
            f"o=- {self._session} {self._version} IN IP4 {wishes.address}",
            "s=-",
            f"c=IN IP4 {wishes.address}",
            "t=0 0",
            m_line,
            *media,
            f"a=setup:{setup}",
            f"a=fingerprint:{fingerprint.algorithm} {fingerprint.value}",
            f"a=tls-id:{self._tls_id}",
            *(wishes.lines if offer else ()),
        ]
        return "\r\n".join([*lines, ""])

    # -- what is done ----------------------------------------------------------------------------------------

    def _start(self, remote: str, *, controlling: bool) -> None:
        self._dtls._set_role("client" if self._setup == "active" else "server")
        self._started = asyncio.create_task(self._connect(remote, controlling))

    async def _connect(self, remote: str, controlling: bool) -> None:
        if self._wishes.ice:
            self._transport._connection.ice_controlling = controlling
            for line in re.findall(r"(?m)^a=candidate:(.*?)\r?$", remote):
                await self._transport.addRemoteCandidate(candidate_from_sdp(line))
            await self._transport.addRemoteCandidate(None)
            ufrag, pwd = _attribute(remote, "ice-ufrag"), _attribute(remote, "ice-pwd")
            await self._transport.start(
                RTCIceParameters(usernameFragment=ufrag, password=pwd, iceLite="a=ice-lite" in remote)
            )
        else:
            host, port = (
                re.findall(r"(?m)^c=IN IP4 (\S+)", remote)[-1],
                re.findall(r"(?m)^m=\S+ (\d+)", remote)[0],
            )
            self._transport.remote = (host, int(port))
        algorithm, value = _attribute(remote, "fingerprint").split()
        await self._dtls.start(RTCDtlsParameters([RTCDtlsFingerprint(algorithm.lower(), value)]))
        self._told("established" if self._dtls.state == "connected" else "failed")
        if self._dtls.state != "connected":
            return
        if self._wishes.channels:
            await self._open_channels()
        else:
            await self._play()

    async def _play(self) -> None:
        self._sender = RTCRtpSender(_Tone(self._wishes.tone), self._dtls)
        self._receiver = RTCRtpReceiver("audio", self._dtls)
        self._receiver._track = RemoteStreamTrack(kind="audio")
        rtcp = RTCRtcpParameters(cname=secrets.token_hex(8), mux=True)
        await self._receiver.receive(RTCRtpReceiveParameters(codecs=[PCMU], rtcp=rtcp))
        await self._sender.send(RTCRtpSendParameters(codecs=[PCMU], rtcp=rtcp))
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        with contextlib.suppress(MediaStreamError):  # it has ended
            while True:
                frame = await self._receiver.track.recv()
                self._heard.frombytes(bytes(frame.planes[0])[: 2 * frame.samples])

    async def _open_channels(self) -> None:
        self._sctp = RTCSctpTransport(self._dtls, SCTP_PORT)
        for number, name in self._wishes.channels:
            parameters = RTCDataChannelParameters(
                label=str(number), protocol=name, negotiated=True, id=number
            )
            channel = RTCDataChannel(self._sctp, parameters)
            channel.on("open", lambda channel=channel: channel.send(self._wishes.say))
            channel.on("message", lambda text, number=number: self._told("message", number, text))
        await self._sctp.start(RTCSctpTransport.getCapabilities(), SCTP_PORT)


class _Tone(AudioStreamTrack):
    """20 ms of a sine every 20 ms; it repeats every second."""

    def __init__(self, hz: int) -> None:
        super().__init__()
        self._second = array("h", tone_samples(hz)).tobytes()
        self._begun: float | None = None
        self._sent = 0

    async def recv(self) -> AudioFrame:
        if self._begun is None:
            self._begun = time.monotonic()
        await asyncio.sleep(self._begun + self._sent / RATE - time.monotonic())
        at = 2 * (self._sent % RATE)
        frame = AudioFrame(format="s16", layout="mono", samples=FRAME)
        frame.planes[0].update(self._second[at : at + 2 * FRAME])
        frame.pts, frame.sample_rate, frame.time_base = self._sent, RATE, fractions.Fraction(1, RATE)
        self._sent += FRAME
        return frame


class _PlainTransport(asyncio.DatagramProtocol):
    """What aiortc's DTLS wants of an ICE transport, over one socket and without ICE. remote: where the peer
    has said it is; what is to be sent before waits."""

    role, state = "controlling", "completed"

    def __init__(self) -> None:
        self.remote: tuple[str, int] | None = None
        self._came: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def open(self, address: str) -> int:
        loop = asyncio.get_running_loop()
        self._socket, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(address, 0))
        return int(self._socket.get_extra_info("sockname")[1])

    def datagram_received(self, data: bytes, _: object) -> None:
        self._came.put_nowait(data)

    async def _recv(self) -> bytes:
        if (data := await self._came.get()) is None:
            raise ConnectionError
        return data

    async def _send(self, data: bytes) -> None:
        self._socket.sendto(data, self.remote)

    async def stop(self) -> None:
        self._came.put_nowait(None)
        self._socket.close()


def _attribute(sdp: str, name: str) -> str:
    """Of the session or of its one m-line; "" for none."""
    found = re.search(rf"(?m)^a={name}:(.*?)\r?$", sdp)
    return found[1].strip() if found else ""


def parse_channels(texts: Sequence[str]) -> tuple[tuple[int, str], ...]:
    """ "0:http" -> (0, "http"). Raises ValueError."""
    pairs = (text.partition(":") for text in texts)
    return tuple((int(number), name) for number, _, name in pairs)
