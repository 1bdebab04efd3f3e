"""The web phone's page in a browser, as a phone under test."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from cli.stack import DOMAIN
from cli.tone import write_tone
from tests.interop.browser import Browser, BrowserError

OUT = Path(__file__).resolve().parents[2] / "out"  # where screenshots are kept
RATE = 48000
LOUD = -40.0  # dB of full scale: the least level of a tone that counts as heard
# What a browser does to speech would make an end of a tone.
RAW = "{echoCancellation: false, noiseSuppression: false, autoGainControl: false}"


class WebPhone(Browser):
    """A context manager. tone: what its microphone hears, in Hz. server: the WebSocket it registers over."""

    def __init__(
        self, port: int, directory: Path, *, user: str, tone: int, server: str, trusted: str = ""
    ) -> None:
        sound = directory / f"{user}-{tone}.wav"
        write_tone(sound, tone, rate=RATE)
        super().__init__(port, sound=sound, trusted=trusted)
        self.user, self.tone, self.server = user, tone, server

    def register(self, page: str, password: str) -> None:
        """Opens the page anew and registers. Raises BrowserError when that is refused."""
        self.open(page)
        self.run(f"phone.microphone = {RAW}")
        self.do("register", self.server, self.user, DOMAIN, password)

    def hurry(self) -> None:
        """From now on its descriptions leave before it has looked for candidates; they are in `said`. JsSIP
        does not trickle, but sends at once what is complete."""
        complete = "{get: () => 'complete'}"
        self.run(f"void(Object.defineProperty(RTCPeerConnection.prototype, 'iceGatheringState', {complete}))")
        note = "({originator, sdp}) => originator === 'local' && window.said.push(sdp)"
        self.run("void(window.said = [])")
        self.run(f"void(phone.ua.on('newRTCSession', ({{session}}) => session.on('sdp', {note})))")

    def do(self, what: str, *arguments: object) -> Any:
        """One of the page's methods, when its promise is kept; raises BrowserError when it is broken."""
        return self.run("phone[args[0]](...args.slice(1))", what, *arguments)

    def begin(self, what: str, *arguments: object) -> None:
        """The same, without waiting; `finish` does that."""
        self.run("void(window.begun = phone[args[0]](...args.slice(1)))", what, *arguments)

    def finish(self) -> Any:
        return self.run("window.begun")

    def wait_for_call(self, state: str) -> None:
        self.wait_until("phone.call.startsWith(args[0])", state)

    def wait_for_tone(self, hz: int, seconds: float = 10.0) -> None:
        """Until WebAudio hears this, and loud."""
        self._wait_to_hear(lambda heard, level: abs(heard - hz) < 10 and level > LOUD, f"{hz} Hz", seconds)

    def wait_for_silence(self, seconds: float = 10.0) -> None:
        self._wait_to_hear(lambda _, level: level <= LOUD, "nothing", seconds)

    def stats(self) -> dict[str, Any]:
        return dict(self.do("stats"))

    def wait_for_packets(self, count: int, seconds: float = 5.0) -> None:
        """Until it has received and sent so many RTP packets more."""
        before, deadline = self.stats(), time.monotonic() + seconds
        while True:
            after = self.stats()
            if min(after[way] - before[way] for way in ("received", "sent")) >= count:
                return
            if time.monotonic() > deadline:
                raise BrowserError(f"{self.user} had {before} and has {after}")
            time.sleep(0.1)

    def keep_picture(self, name: str) -> None:
        """A screenshot in OUT."""
        OUT.mkdir(exist_ok=True)
        self.screenshot(OUT / f"{name.replace(' ', '-').translate(str.maketrans('[', '-', ']'))}.png")

    def _wait_to_hear(self, expected: Any, what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            heard = self.do("hears")
            level = -math.inf if heard["level"] is None else heard["level"]
            if expected(heard["hz"], level):
                return
            if time.monotonic() > deadline:
                raise BrowserError(f"{self.user} hears {heard}, not {what}; stats: {self.stats()}")
            time.sleep(0.1)
