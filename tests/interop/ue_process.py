"""`imsalg ue` or `imsalg rtcue` as a process under test: its events as they come, its exit code, its log."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any


class Ue:
    """A running UE; a context manager that ends it with SIGTERM and sees that it ended well.

    command: which of `imsalg` it is. A quiet one must write nothing on standard error; of any, that is in
    `log` once it has ended.
    """

    def __init__(self, *options: object, quiet: bool = True, command: str = "ue") -> None:
        self.events: list[dict[str, Any]] = []
        self.log = ""
        self._quiet = quiet
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long-lived as the process)
        python = (sys.executable, "-c", f"from cli.{command} import command; command()")
        self._process = subprocess.Popen(
            [*python, "--json", *map(str, options)], stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._arriving: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Ue:
        self.wait_for("ready")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stop()
        else:
            self._process.kill()
            self._process.wait()

    @property
    def uri(self) -> str:
        return str(self.wait_for("ready")["uri"])

    def wait_for(self, event: str, seconds: float = 30.0, **fields: object) -> dict[str, Any]:
        """The first event with this name and these fields, past or coming; AssertionError when none comes."""
        deadline = time.monotonic() + seconds
        seen = 0
        while True:
            for candidate in self.events[seen:]:
                if candidate["event"] == event and fields.items() <= candidate.items():
                    return candidate
            seen = len(self.events)
            try:
                self.events.append(self._arriving.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"no {event} {fields} among {self.events}") from None

    def ended(self, seconds: float = 40.0) -> int:
        """The exit code, when it has ended by itself."""
        code = self._process.wait(seconds)
        self._reader.join(seconds)
        while not self._arriving.empty():
            self.events.append(self._arriving.get())
        self._errors.seek(0)
        self.log = self._errors.read()
        assert not (self._quiet and self.log), self.log
        return code

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal if it still runs; the exit code. A crash is an AssertionError."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        code = self.ended()
        assert code >= 0, f"ended by signal {-code}"
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._arriving.put(json.loads(line))
