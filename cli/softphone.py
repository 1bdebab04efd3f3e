"""A UE that nobody here wrote: a thin coat around PJSUA2, with what TS 24.229 adds for media security.

Everything happens in the thread that calls `poll`: PJSUA2 has no worker threads here, its callbacks arrive
inside `libHandleEvents`, and they only take note; what would change or destroy the object they came from
waits for the loop. The sound device is the null device, which keeps time without hardware: the audio is real.

PJSIP answers a 401 by itself and with the headers of the refused REGISTER, but what Security-Verify must say
is known only after that 401 (RFC 3329 section 2.3.1). With e2ae, therefore, the first REGISTER goes out
without credentials; its 401 gives the Security-Verify that the next REGISTER, its digest answer and all
refreshes carry. That is one REGISTER and one 401 more than a stack made for it would need. Where the first
REGISTER is accepted without a challenge, Security-Verify is said in INVITE only: PJSIP fixes the headers of a
registration when it begins.

The wheel (pjsua2-python 2.15.1) knows SDES with the AES-CM suites, IPv4, and at most four calls.
"""

from __future__ import annotations

import gc
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import pjsua2 as pj

from cli.softcall import Call, Emit, Progress, header
from cli.tone import RATE, write_tone

Error = pj.Error

MAX_CALLS = 4
TRANSPORTS = {
    "udp": pj.PJSIP_TRANSPORT_UDP,
    "tcp": pj.PJSIP_TRANSPORT_TCP,
    "tls": pj.PJSIP_TRANSPORT_TLS,  # of whatever certificate
}
CODECS = ("PCMU/8000", "PCMA/8000")
GOODBYE = 2.0  # seconds that the end of all calls and the answer to the last REGISTER are waited for, each
SETTLE = 0.1  # seconds for PJMEDIA's clock, a thread of its own, to let go of what a call played and recorded
LINGER = 0.2  # seconds for the answer to a BYE, which PJSUA2 does not report


class Srtp(IntEnum):
    """Whether media is RTP, either (RTP/AVP with a=crypto), or RTP/SAVP only. The values are PJMEDIA's."""

    NONE = 0
    OPTIONAL = 1
    MANDATORY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a softphone is and does.

    registrar: the P-CSCF as a SIP URI, also the outbound proxy; None means straight to the peer.
    tone: hertz, played in place of the file `play`. record: written anew by each call.
    duration, hold_after: seconds after the answer; a held call is resumed after as many seconds again.
    """

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


class Softphone:
    """One account and its calls; a context manager that ends both before the library is taken down.

    Each thing that happens is given to `emit` as a JSON-able dict whose "event" is one of ready, registered,
    refused, unregistered, incoming, call, media, ended. Keys of SRTP are in none of them, nor in the log.
    """

    def __init__(self, settings: Settings, emit: Emit) -> None:
        self.settings = settings
        self.emit = emit
        self.registration: int | None = None  # the status of the latest REGISTER that was final
        self.calls: list[Call] = []  # those that have not ended
        self._closed_at = 0.0  # when one was destroyed last
        self._verify: tuple[str, ...] = ()  # Security-Server's media entries, to be said back
        self._introduced = False  # the network has answered our Security-Client once
        self._later: list[Callable[[], None]] = []
        self._files = tempfile.TemporaryDirectory(prefix="imsalg-ue-")

    @property
    def registers(self) -> bool:
        return self.settings.registrar is not None and self.settings.register

    def __enter__(self) -> Softphone:
        self._play = self.settings.play
        if self.settings.tone is not None:
            self._play = Path(self._files.name) / "tone.wav"
            write_tone(self._play, self.settings.tone)
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
        """Place a call. Raises Error when the URI is none or four calls are up already."""
        call = Call(self._account, self.settings, self._play, self.emit)
        call.place(uri, self._verify)
        self.calls.append(call)
        return call.progress

    def poll(self, seconds: float = 0.02) -> None:
        """Let the library work for at most about this long, then do what its callbacks left to be done."""
        self._endpoint.libHandleEvents(round(seconds * 1000))
        while self._later:
            self._later.pop(0)()
        now = time.monotonic()
        gone = next((c for c in self.calls if now >= max(c.ended_at, self._closed_at) + SETTLE), None)
        if gone is not None:
            gone.close()
            self.calls.remove(gone)
            self._closed_at = now
        for call in self.calls:
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
        self._log = _Log()
        self._log.thisown = False  # the library takes it and frees it
        config.logConfig.writer = self._log
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
        number = self._endpoint.transportCreate(TRANSPORTS[s.transport], transport)
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
            config.regConfig.randomRetryIntervalSec = 0  # when its connection breaks: again at once
        if self.registers and s.e2ae:  # TS 24.229 clause 5.1.1.2.1 item i
            config.regConfig.headers.append(header("Security-Client", "sdes-srtp;mediasec"))
        else:
            self._give_credentials()
        return config

    def _give_credentials(self) -> None:
        if self.settings.password is not None:
            credentials = pj.AuthCredInfo("digest", "*", self.settings.user, 0, self.settings.password)
            self._config.sipConfig.authCreds.append(credentials)

    def _on_registration(self, code: int, reason: str, expires: int, message: str) -> None:
        security = media_mechanisms(message)
        self._verify = security or self._verify
        if self.settings.e2ae and not self._introduced:
            self._introduced = True
            challenged = code in (401, 407, 494)
            self._later.append(lambda: self._speak_securely(challenged))
            if challenged:
                return
        ended = code == 200 and expires <= 0
        self.registration = 0 if ended else code
        event = "unregistered" if ended else "registered" if code == 200 else "refused"
        report = {"expires": expires, "security": list(security)} if event == "registered" else {}
        self.emit({"event": event, "code": code, "reason": reason, **report})

    def _speak_securely(self, again: bool) -> None:
        for entry in self._verify:  # RFC 3329 section 2.3.1; one mechanism per line
            self._config.regConfig.headers.append(header("Security-Verify", entry))
        self._give_credentials()
        self._account.modify(self._config)
        if again:
            self._account.setRegistration(True)

    def _on_incoming(self, number: int) -> None:
        call = Call(self._account, self.settings, self._play, self.emit, number)
        self.calls.append(call)
        call.arrive()
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


class _Log(pj.LogWriter):  # type: ignore[misc]
    def write(self, entry: Any) -> None:
        sys.stderr.write(redacted(entry.msg))


class _Account(pj.Account):  # type: ignore[misc]
    def __init__(self, phone: Softphone) -> None:
        super().__init__()
        self._phone = phone

    def onRegState(self, prm: Any) -> None:  # noqa: N802
        self._phone._on_registration(prm.code, prm.reason, prm.expiration, prm.rdata.wholeMsg)

    def onIncomingCall(self, prm: Any) -> None:  # noqa: N802
        self._phone._on_incoming(prm.callId)


def redacted(text: str) -> str:
    """A piece of PJSIP's log without the keys of SRTP: those of SDP, and those it tells of by itself."""
    return re.sub(r"(inline:|key=)[\w+/=]+", r"\1<redacted>", text)


def media_mechanisms(message: str) -> tuple[str, ...]:
    """The Security-Server entries of a message with `mediasec` (TS 24.229 clause 7.2A.7), as they came."""
    lines = re.findall(r"(?im)^Security-Server[ \t]*:(.*)$", message)
    entries = (entry.strip() for line in lines for entry in line.split(","))
    return tuple(e for e in entries if any(p.strip().lower() == "mediasec" for p in e.split(";")[1:]))


def _loose(uri: str, transport: str) -> str:
    """The registrar's URI as a loose route over this transport; PJSIP wants both said."""
    for parameter in (f"transport={transport}", "lr"):
        if not re.search(rf"(?i);{parameter.split('=')[0]}\b", uri):
            uri += ";" + parameter
    return uri
