"""`imsalg ue` or `imsalg rtcue` as a child process: its events as they come."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import deque
from typing import Any

END = 8.0  # seconds a phone may take to hang up, unregister and leave


class PhoneError(Exception):
    """One line: what did not happen."""


class Phone:
    """An async context manager: within it the phone runs, and it leaves in good order at the end; raises
    PhoneError where it does not.

    events: what it has told so far, each a dict as cli.softphone.Softphone describes; `imsalg rtcue` has a
    few of its own.
    """

    def __init__(self, user: str, password: str, *options: object, command: str = "ue") -> None:
        self.user = user
        self.events: list[dict[str, Any]] = []
        self._arguments = (command, "--json", "--user", user, *map(str, options))
        self._environment = {**os.environ, "IMSALG_UE_PASSWORD": password}
        self._news = asyncio.Condition()
        self._over = False
        self._complaints: deque[str] = deque(maxlen=3)

    @property
    def runs(self) -> bool:
        return not self._over

    async def __aenter__(self) -> Phone:
        command = (sys.executable, "-m", "cli.main", *self._arguments)
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=self._environment, start_new_session=True
        )
        self._readers = asyncio.gather(self._read_events(), self._read_complaints())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.runs:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            code = await asyncio.wait_for(self._process.wait(), END)
        except TimeoutError:
            raise PhoneError(f"{self.user}: does not leave") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._readers
        if code < 0 and code != -signal.SIGTERM:
            raise PhoneError(f"{self.user}: killed by signal {-code}")

    async def wait_for(self, *names: str, seconds: float = 10.0, **fields: object) -> dict[str, Any]:
        """The first event with one of these names and all these fields, past or coming. Raises PhoneError."""

        def found() -> dict[str, Any] | None:
            told = (event for event in self.events if event["event"] in names)
            return next((event for event in told if fields.items() <= event.items()), None)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: found() or self._over)
        if (event := found()) is not None:
            return event
        last = self.events[-1] if self.events else "nothing"
        why = "; ".join([f"it told {last}", *self._complaints])
        raise PhoneError(f"{self.user}: {' or '.join(names)} did not come; {why}")

    async def _read_events(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._news:
                self.events.append(json.loads(line))
                self._news.notify_all()
        async with self._news:
            self._over = True
            self._news.notify_all()

    async def _read_complaints(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._complaints.append(line.decode(errors="replace").strip())
