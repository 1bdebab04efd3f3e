"""One call of the softphone, around pjsua2.Call: answers, sounds, holds and ends it, and tells of it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pjsua2 as pj

if TYPE_CHECKING:
    from cli.softphone import Settings

Emit = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Progress:
    """How far a call has come. Unlike PJSUA2's own object it may be kept after the library is gone."""

    confirmed: bool = False
    ended: bool = False


class Call(pj.Call):  # type: ignore[misc]
    """A call from its first message to its last; `play` is the WAV file that the peer hears."""

    def __init__(
        self,
        account: pj.Account,
        settings: Settings,
        play: Path | None,
        emit: Emit,
        number: int = pj.PJSUA_INVALID_ID,
    ) -> None:
        super().__init__(account, number)
        self.progress = Progress()
        self.ended_at = math.inf
        self._settings = settings
        self._play = play
        self._emit = emit
        self._peer = ""
        self._plan: list[tuple[float, Callable[[], None]]] = []  # what is due when, once the call is up
        self._player: Any = None
        self._recorder: Any = None
        self._ended: dict[str, Any] = {}
        self._packets = {"received": 0, "sent": 0}  # of streams that have ended

    def place(self, uri: str, verify: tuple[str, ...]) -> None:
        """Send INVITE with these Security-Verify entries (TS 24.229 clause 5.1.2A.1.1)."""
        self._peer = uri
        prm = pj.CallOpParam(True)
        prm.opt.videoCount = 0
        for entry in verify:
            prm.txOption.headers.append(header("Security-Verify", entry))
        self.makeCall(uri, prm)

    def arrive(self) -> None:
        """Tell of a call that has come in."""
        info = self.getInfo()
        self._peer = info.remoteUri
        self._emit({"event": "incoming", "peer": self._peer, "call_id": info.callIdString})

    def ring(self) -> None:
        """Answer 180, then what the settings say: the final code, or nothing more."""
        for code in (180, self._settings.answer_code) if self._settings.answer else (180,):
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

    def close(self) -> None:
        """After it has ended, and not within a callback: what it played and recorded is destroyed here."""
        self._plan.clear()
        self._player = self._recorder = None  # the recording gets its length now
        self._emit({**self._ended, **self._packets})

    def onCallSdpCreated(self, prm: Any) -> None:  # noqa: N802
        if self._settings.e2ae and not prm.remSdp.wholeSdp:
            prm.sdp.wholeSdp = request_e2ae(prm.sdp.wholeSdp)

    def onCallState(self, prm: Any) -> None:  # noqa: N802
        info = self.getInfo()
        if info.state == pj.PJSIP_INV_STATE_DISCONNECTED:
            self.progress.ended = True
            self.ended_at = time.monotonic()
            report = {"code": info.lastStatusCode, "reason": info.lastReason, "peer": self._peer}
            self._ended = {"event": "ended", **report, "confirmed": self.progress.confirmed}
            return
        if info.state == pj.PJSIP_INV_STATE_CONFIRMED and not self.progress.confirmed:
            self.progress.confirmed = True
            self._plan = self._planned(time.monotonic())
        self._emit({"event": "call", "state": info.stateText, "peer": self._peer})

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
                self._emit({"event": "media", "peer": self._peer, **self._media_report(media)})

    def _planned(self, now: float) -> list[tuple[float, Callable[[], None]]]:
        settings = self._settings
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
        if self._play is not None:
            if self._player is None:
                self._player = pj.AudioMediaPlayer()
                self._player.createPlayer(str(self._play))
            self._player.startTransmit(audio)
        if self._settings.record is not None:
            if self._recorder is None:
                self._recorder = pj.AudioMediaRecorder()
                self._recorder.createRecorder(str(self._settings.record))
            audio.startTransmit(self._recorder)

    def _media_report(self, media: Any) -> dict[str, Any]:
        suite = re.search(r"SRTP status: Active Crypto-suite: (\S+)", self.dump(True, ""))
        report = {
            "index": media.index,
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


def header(name: str, value: str) -> Any:
    header = pj.SipHeader()
    header.hName = name
    header.hValue = value
    return header


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
