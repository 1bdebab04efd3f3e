"""A UE that nobody here wrote: a thin coat around PJSUA2, with what TS 24.229 adds to SIP for media security.

Everything happens in the thread that calls `poll`: PJSUA2 has no worker threads here, its callbacks arrive inside
`libHandleEvents`, and they only take note; what would destroy or change an object they came from waits for the loop.
The sound device is the null device, which keeps time without hardware, so audio is real: WAV files in, WAV files out.

PJSIP answers a 401 by itself and with the headers of the refused REGISTER, but Security-Verify is known only after
that 401 (RFC 3329 section 2.3.1). With e2ae and a password, therefore, the first REGISTER goes out without
credentials; its 401 gives the Security-Verify that the next one, its digest answer and all refreshes carry. That is
one REGISTER and one 401 more than a stack of its own would need. A registrar that never challenges is told
Security-Verify in INVITE only, since PJSIP fixes the headers of a registration when it begins.
"""

from __future__ import annotations

import gc
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import pjsua2 as pj

from cli.tone import RATE, write_tone

MAX_CALLS = 4  # compiled into the pjsua2-python wheel
CODECS = ("PCMU/8000", "PCMA/8000")
GOODBYE = 2.0  # seconds that the end of all calls and the answer to the last REGISTER are waited for, each
LINGER = 0.2  # seconds for the answer to a BYE, which PJSUA2 does not report

Emit = Callable[[dict[str, Any]], None]


class Srtp(IntEnum):
    """Whether media is RTP, either (RTP/AVP with a=crypto), or RTP/SAVP only. The values are PJMEDIA's."""

    NONE = 0
    OPTIONAL = 1
    MANDATORY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a softphone is and does. `registrar` is the P-CSCF as a SIP URI; None means calls go straight to the peer."""

    user: str
    domain: str
    registrar: str | None = None
    register: bool = True
    transport: str = "udp"
    address: str = "127.0.0.1"
    port: int = 0
    rtp_port: int = 4000
    password: str | None = None
    e2ae: bool = False
    srtp: Srtp = Srtp.NONE
    suites: tuple[str, ...] = ()
    answer: bool = True
    answer_code: int = 200
    play: Path | None = None
    tone: int | None = None
    record: Path | None = None
    duration: float | None = None
    hold_after: float | None = None
    log_level: int = 0


@dataclass(slots=True)
class Progress:
    """How far a call has come. Unlike PJSUA2's own object it may be kept after the library is gone."""

    confirmed: bool = False
    ended: bool = False


class Softphone:
    """One account and its calls; a context manager that ends both before the library is taken down.

    Each thing that happens is given to `emit` as a JSON-able dict whose "event" is one of ready, registered,
    refused, unregistered, incoming, call, media, hold, ended, error. Keys of SRTP are in none of them.
    """

    def __init__(self, settings: Settings, emit: Emit) -> None:
        self.settings = settings
        self.emit = emit
        self.registration: int | None = None  # the status of the latest REGISTER that was final
        self.calls: list[_Call] = []  # those that have not ended
        self.verify: tuple[str, ...] = ()  # Security-Server's media entries, to be said back
        self._later: list[Callable[[], None]] = []
        self._challenged = False
        self._files = tempfile.TemporaryDirectory(prefix="imsalg-ue-")

    @property
    def registers(self) -> bool:
        return self.settings.registrar is not None and self.settings.register

    def __enter__(self) -> Softphone:
        self.play = self.settings.play
        if self.settings.tone is not None:
            self.play = Path(self._files.name) / "tone.wav"
            write_tone(self.play, self.settings.tone)
        self._endpoint = pj.Endpoint()
        self._endpoint.libCreate()
        try:
            self._start()
        except BaseException:
            self._destroy()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()
        self.poll_until(lambda: not self.calls, GOODBYE)
        self.poll_until(lambda: False, LINGER)
        if self.registers and self.registration == 200:
            self._account.setRegistration(False)
            self.poll_until(lambda: self.registration != 200, GOODBYE)
        self._destroy()

    def call(self, uri: str) -> Progress:
        """Place a call; pjsua2.Error when the URI is none or four calls are up already."""
        call = _Call(self, uri)
        prm = pj.CallOpParam(True)
        prm.opt.videoCount = 0
        for entry in self.verify:
            prm.txOption.headers.append(_header("Security-Verify", entry))
        call.makeCall(uri, prm)
        self.calls.append(call)
        return call.progress

    def poll(self, seconds: float = 0.02) -> None:
        """Let the library work for at most about this long, then do what its callbacks left to be done."""
        self._endpoint.libHandleEvents(round(seconds * 1000))
        while self._later:
            self._later.pop(0)()
        for call in list(self.calls):
            call.keep_time(time.monotonic())

    def poll_until(self, happened: Callable[[], bool], seconds: float | None = None) -> bool:
        """Poll until it happened (True) or the time is over (False)."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not happened():
            if deadline is not None and time.monotonic() >= deadline:
                return False
            self.poll()
        return True

    def _start(self) -> None:
        s = self.settings
        config = pj.EpConfig()
        config.logConfig.level = config.logConfig.consoleLevel = s.log_level
        config.logConfig.msgLogging = int(s.log_level >= 4)
        config.uaConfig.mainThreadOnly = True
        config.uaConfig.threadCnt = 0
        config.uaConfig.maxCalls = MAX_CALLS
        config.uaConfig.userAgent = "imsalg ue"
        config.medConfig.clockRate = config.medConfig.sndClockRate = RATE
        config.medConfig.noVad = True
        config.medConfig.ecTailLen = 0
        self._endpoint.libInit(config)
        transport = pj.TransportConfig()
        transport.boundAddress = s.address
        transport.port = s.port
        kind = "PJSIP_TRANSPORT_" + s.transport.upper() + ("6" if ":" in s.address else "")
        number = self._endpoint.transportCreate(getattr(pj, kind), transport)
        self._endpoint.libStart()
        self._endpoint.audDevManager().setNullDev()
        for codec in self._endpoint.codecEnum2():
            rank = next((i for i, name in enumerate(CODECS) if codec.codecId.startswith(name)), None)
            self._endpoint.codecSetPriority(codec.codecId, 0 if rank is None else 255 - rank)
        local = self._endpoint.transportGetInfo(number).localName
        self._account = _Account(self)
        self.emit({"event": "ready", "uri": f"sip:{s.user}@{local}", "transport": s.transport})
        self._account.create(self._account_config(number))

    def _account_config(self, transport: int) -> Any:
        s = self.settings
        config = self._config = pj.AccountConfig()
        config.idUri = f"sip:{s.user}@{s.domain}"
        config.sipConfig.transportId = transport
        config.natConfig.contactRewriteUse = 0
        config.natConfig.viaRewriteUse = 0
        config.mediaConfig.transportConfig.boundAddress = s.address
        config.mediaConfig.transportConfig.port = s.rtp_port
        config.mediaConfig.ipv6Use = int(":" in s.address)
        config.mediaConfig.lockCodecEnabled = False
        config.mediaConfig.srtpUse = int(s.srtp)
        config.mediaConfig.srtpSecureSignaling = 0
        for suite in s.suites:
            crypto = pj.SrtpCrypto()
            crypto.name = suite
            config.mediaConfig.srtpOpt.cryptos.append(crypto)
        if s.registrar is not None:
            config.sipConfig.proxies.append(_loose(s.registrar, s.transport))
        if self.registers:
            config.regConfig.registrarUri = f"sip:{s.domain}"
            config.regConfig.disableRegOnModify = True
            if s.e2ae:  # TS 24.229 clause 5.1.1.2.1 item i
                config.regConfig.headers.append(_header("Security-Client", "sdes-srtp;mediasec"))
            else:
                self._give_credentials()
        return config

    def _give_credentials(self) -> None:
        if self.settings.password is not None:
            credentials = pj.AuthCredInfo("digest", "*", self.settings.user, 0, self.settings.password)
            self._config.sipConfig.authCreds.append(credentials)

    def _on_registration(self, code: int, reason: str, expires: int, message: str) -> None:
        security = media_mechanisms(message)
        if security:
            self.verify = security
        if code in (401, 407, 494) and self.settings.e2ae and not self._challenged:
            self._challenged = True
            self._later.append(self._register_again)
            return
        ended = code == 200 and expires <= 0
        self.registration = 0 if ended else code
        name = "unregistered" if ended else "registered" if code == 200 else "refused"
        report = {"event": name, "code": code, "reason": reason}
        if name == "registered":
            report |= {"expires": expires, "security": list(security)}
        self.emit(report)

    def _register_again(self) -> None:
        for entry in self.verify:  # RFC 3329 section 2.3.1; one mechanism per line
            self._config.regConfig.headers.append(_header("Security-Verify", entry))
        self._give_credentials()
        self._account.modify(self._config)
        self._account.setRegistration(True)

    def _on_incoming(self, number: int) -> None:
        call = _Call(self, "", number)
        call.peer = call.getInfo().remoteUri
        self.calls.append(call)
        self.emit({"event": "incoming", "peer": call.peer, "call": call.getInfo().callIdString})
        self._later.append(call.ring)

    def _hang_up(self) -> None:
        for call in self.calls:
            call.end()

    def _destroy(self) -> None:
        # PJSUA2's objects call into the library when they die, so they must die before it does.
        self._later.clear()
        self.calls.clear()
        if hasattr(self, "_account"):
            self._account.shutdown()
            del self._account
        gc.collect()
        self._endpoint.libDestroy(pj.PJSUA_DESTROY_NO_NETWORK)
        del self._endpoint
        self._files.cleanup()


class _Account(pj.Account):
    def __init__(self, phone: Softphone) -> None:
        super().__init__()
        self._phone = phone

    def onRegState(self, prm: Any) -> None:  # noqa: N802
        self._phone._on_registration(prm.code, prm.reason, prm.expiration, prm.rdata.wholeMsg)

    def onIncomingCall(self, prm: Any) -> None:  # noqa: N802
        self._phone._on_incoming(prm.callId)


class _Call(pj.Call):
    """A call from its first message to its last."""

    def __init__(self, phone: Softphone, peer: str, number: int = pj.PJSUA_INVALID_ID) -> None:
        super().__init__(phone._account, number)
        self.peer = peer
        self.progress = Progress()
        self._phone = phone
        self._plan: list[tuple[float, Callable[[], None]]] = []  # what is due when, once the call is up
        self._player: Any = None
        self._recorder: Any = None
        self._packets = {"received": 0, "sent": 0}  # of streams that have ended

    def ring(self) -> None:
        """Answer 180, then what the settings say: the final code, or nothing more."""
        settings = self._phone.settings
        for code in (180, settings.answer_code) if settings.answer else (180,):
            if not self.progress.ended:
                prm = pj.CallOpParam()
                prm.statusCode = code
                self.answer(prm)

    def end(self) -> None:
        """CANCEL, BYE or 603, whichever fits."""
        if not self.progress.ended:
            self.hangup(pj.CallOpParam())

    def keep_time(self, now: float) -> None:
        """Hold, resume and end when they are due."""
        while self._plan and not self.progress.ended and now >= self._plan[0][0]:
            self._plan.pop(0)[1]()

    def onCallSdpCreated(self, prm: Any) -> None:  # noqa: N802
        if self._phone.settings.e2ae and not prm.remSdp.wholeSdp:
            prm.sdp.wholeSdp = request_e2ae(prm.sdp.wholeSdp)

    def onCallState(self, prm: Any) -> None:  # noqa: N802
        info = self.getInfo()
        if info.state == pj.PJSIP_INV_STATE_DISCONNECTED:
            self.progress.ended = True
            report = {"code": info.lastStatusCode, "reason": info.lastReason, "peer": self.peer}
            self._plan.clear()
            self._player = self._recorder = None  # the recording gets its length now
            self._phone.emit({"event": "ended", **report, "confirmed": self.progress.confirmed, **self._packets})
            self._phone._later.append(lambda: self._phone.calls.remove(self))
            return
        if info.state == pj.PJSIP_INV_STATE_CONFIRMED and not self.progress.confirmed:
            self.progress.confirmed = True
            self._plan = self._planned(time.monotonic())
        self._phone.emit({"event": "call", "state": info.stateText, "peer": self.peer})

    def onStreamDestroyed(self, prm: Any) -> None:  # noqa: N802
        flow = self.getStreamStat(prm.streamIdx).rtcp
        self._packets["received"] += flow.rxStat.pkt
        self._packets["sent"] += flow.txStat.pkt

    def onCallMediaState(self, prm: Any) -> None:  # noqa: N802
        info = self.getInfo()  # to be kept: what it holds dies with it
        for media in info.media:
            if media.type == pj.PJMEDIA_TYPE_AUDIO:
                if media.status in (pj.PJSUA_CALL_MEDIA_ACTIVE, pj.PJSUA_CALL_MEDIA_REMOTE_HOLD):
                    self._connect(media.index)
                self._phone.emit({"event": "media", "index": media.index, **self._media_report(media)})

    def _planned(self, now: float) -> list[tuple[float, Callable[[], None]]]:
        settings = self._phone.settings
        plan: list[tuple[float, Callable[[], None]]] = []
        if settings.hold_after is not None:
            plan += [(now + settings.hold_after, self._hold), (now + 2 * settings.hold_after, self._resume)]
        if settings.duration is not None:
            plan.append((now + settings.duration, self.end))
        return sorted(plan, key=lambda entry: entry[0])

    def _hold(self) -> None:
        self.setHold(pj.CallOpParam(True))

    def _resume(self) -> None:
        prm = pj.CallOpParam(True)
        prm.opt.flag = pj.PJSUA_CALL_UNHOLD
        prm.opt.videoCount = 0
        self.reinvite(prm)

    def _connect(self, index: int) -> None:
        audio = self.getAudioMedia(index)
        if self._phone.play is not None:
            if self._player is None:
                self._player = pj.AudioMediaPlayer()
                self._player.createPlayer(str(self._phone.play))
            self._player.startTransmit(audio)
        if self._phone.settings.record is not None:
            if self._recorder is None:
                self._recorder = pj.AudioMediaRecorder()
                self._recorder.createRecorder(str(self._phone.settings.record))
            audio.startTransmit(self._recorder)

    def _media_report(self, media: Any) -> dict[str, Any]:
        suite = re.search(r"SRTP status: Active Crypto-suite: (\S+)", self.dump(True, ""))
        report = {
            "status": _MEDIA_STATUS.get(media.status, str(media.status)),
            "direction": _DIRECTION.get(media.dir, str(media.dir)),
            "srtp": suite is not None,
            "suite": suite and suite[1],
        }
        if media.status != pj.PJSUA_CALL_MEDIA_NONE:
            stream = self.getStreamInfo(media.index)
            report["codec"] = stream.codecName
            report["local"] = self.getMedTransportInfo(media.index).localRtpName
            report["remote"] = stream.remoteRtpAddress
        return report


def request_e2ae(sdp: str) -> str:
    """The offer with `a=3ge2ae:requested` under each m-line that is protected (TS 24.229 clause 7.5.2)."""
    sections = re.split(r"(?m)^(?=m=)", sdp)
    protected = re.compile(r"m=\S+ [1-9]\S* RTP/SAVPF? ")
    return "".join(s + "a=3ge2ae:requested\r\n" if protected.match(s) else s for s in sections)


def media_mechanisms(message: str) -> tuple[str, ...]:
    """The entries of all Security-Server lines of a message that carry `mediasec` (TS 24.229 clause 7.2A.7), as they came."""
    lines = re.findall(r"(?im)^Security-Server[ \t]*:(.*)$", message)
    entries = (entry.strip() for line in lines for entry in line.split(","))
    return tuple(e for e in entries if any(p.strip().lower() == "mediasec" for p in e.split(";")[1:]))


def _header(name: str, value: str) -> Any:
    header = pj.SipHeader()
    header.hName = name
    header.hValue = value
    return header


def _loose(uri: str, transport: str) -> str:
    """The registrar's URI as a loose route over this transport; PJSIP wants both said."""
    for parameter in (f"transport={transport}", "lr"):
        if not re.search(rf"(?i);{parameter.split('=')[0]}\b", uri):
            uri += ";" + parameter
    return uri


_MEDIA_STATUS = {
    pj.PJSUA_CALL_MEDIA_NONE: "none",
    pj.PJSUA_CALL_MEDIA_ACTIVE: "active",
    pj.PJSUA_CALL_MEDIA_LOCAL_HOLD: "local hold",
    pj.PJSUA_CALL_MEDIA_REMOTE_HOLD: "remote hold",
    pj.PJSUA_CALL_MEDIA_ERROR: "error",
}
_DIRECTION = {
    pj.PJMEDIA_DIR_NONE: "inactive",
    pj.PJMEDIA_DIR_ENCODING: "sendonly",
    pj.PJMEDIA_DIR_DECODING: "recvonly",
    pj.PJMEDIA_DIR_ENCODING_DECODING: "sendrecv",
}
