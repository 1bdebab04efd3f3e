"""The proxy and the gateway under test, as processes; and what must be left of a test: nothing."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.stack import Stack
from tests.system.sipp import HOST, HOST6, Sipp

BASE_PORT = 19900  # the gateway's media are 100 above
PEERS_PORT = BASE_PORT + 6  # an access side whose peers need no registration
REGISTRAR_PORT = BASE_PORT + 8  # SIPp as the home network
T1 = 0.08  # seconds: a transaction that waits 64 times as long ends about with one that waits T4
TRANSACTIONS_END = 15.0  # seconds: T4 or 64 * T1, and what a busy machine adds
GRACE = 6.0  # seconds the gateway keeps the contexts of a proxy that is gone

TABLES = f"""
[[access]]
name = "peers"
listen = "{HOST}:{PEERS_PORT}"
mechanisms = ["sdes-srtp"]
trusted = ["{HOST}"]

[[access]]
name = "six"
listen = "[{HOST6}]:{BASE_PORT}"
mechanisms = ["sdes-srtp"]

[sip]
t1 = {T1}
"""


class World(Stack):
    """The stack with quick transactions, a second access side for peers that need no registration, a third
    for UEs with IPv6, and the home network that SIPp plays if `sipp_registrar`.

    store: whether the proxy keeps what it has over a restart. grace: the gateway's, in seconds."""

    def __init__(
        self,
        base_port: int = BASE_PORT,
        *,
        sipp_registrar: bool = True,
        store: bool = False,
        grace: float = GRACE,
        tables: str = TABLES,
        core: str = f'trusted = ["{HOST}"]',
        **rest: Any,
    ) -> None:
        super().__init__(base_port, tables=tables, core=core, **rest)
        self._store = store
        self._grace = grace
        self._sipp_registrar = sipp_registrar
        self._printed: dict[str, int] = {}
        self.peers_port = PEERS_PORT

    def _write_configurations(self) -> None:
        super()._write_configurations()
        gateway, proxy = self.directory / "gateway.toml", self.directory / "proxy.toml"
        gateway.write_text(f"grace = {self._grace}\n{gateway.read_text()}")
        if self._sipp_registrar:
            proxy.write_text(proxy.read_text().replace(f":{self.lab_port}", f":{REGISTRAR_PORT}"))
        if self._store:
            with proxy.open("a") as file:
                file.write(f'[store]\npath = "{self.directory}/proxy.db"\n')

    def kill(self, name: str) -> None:
        """As a crash would. The proxy has noticed that its gateway is gone."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()
        if name == "gateway" and self.processes["proxy"].poll() is None:
            wait_until(lambda: not self.status()["gateway"])

    def restart(self, *names: str) -> None:
        """Start again what was killed or has left; returns when calls can be made."""
        for name in names:
            self._printed[name] = 0
            self._spawn(name, *self._command(name))
        self._wait_until_ready()

    def second(self, name: str) -> subprocess.Popen[bytes]:
        """The same once more, which should not go well."""
        return subprocess.Popen(self._command(name), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def _command(self, name: str) -> tuple[str | Path, ...]:
        command = self.processes[name].args
        assert isinstance(command, tuple)
        return command

    def crash(self, name: str) -> None:
        """It is killed and comes back."""
        self.kill(name)
        self.restart(name)

    def leave(self, name: str) -> None:
        """As an operator would end it."""
        self.processes[name].send_signal(signal.SIGTERM)
        assert self.processes[name].wait(30.0) == 0

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """It neither ends nor does anything."""
        self.processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[name].send_signal(signal.SIGCONT)

    def print_logs(self) -> None:
        """What the processes have logged since the last time, for pytest to show of a test that failed."""
        for name in self.processes:
            lines = self.log(name)
            print(f"-- {name}", *lines[self._printed.get(name, 0) :], sep="\n")
            self._printed[name] = len(lines)

    def wait_until_kept(self) -> None:
        """What has happened is in the store."""
        wait_until(lambda: not self.status()["store"]["behind"])

    # -- what is left ----------------------------------------------------------------------------------------

    def assert_no_call_left(self, seconds: float = 8.0) -> None:
        """Calls, and what the gateway holds for them, are gone with the last message, or very soon after."""
        _wait_until_empty(self._calls, seconds)

    def assert_nothing_left(self) -> None:
        """Transactions stay for a while after it, to absorb retransmissions."""
        _wait_until_empty(lambda: self._calls() | self._others(), TRANSACTIONS_END)

    def _calls(self) -> dict[str, Any]:
        status, audit = self.status(), self.audit()
        left = {
            "calls": status["calls"],
            "asked": status["asked"],
            "contexts": audit.contexts,
            "ports": sum(used for used, _, _ in audit.ports.values()),
        }
        return {name: value for name, value in left.items() if value}

    def _others(self) -> dict[str, Any]:
        status = self.status()
        return {name: status[name] for name in ("registrations", "transactions", "timers") if status[name]}


@contextmanager
def registrar(directory: Path) -> Iterator[Sipp]:
    """SIPp as the home network of all users, for as long as it is needed."""
    with Sipp(directory, "registrar", port=REGISTRAR_PORT, calls=10_000, seconds=600) as running:
        yield running


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _wait_until_empty(left: Callable[[], dict[str, Any]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (what := left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not what, f"left behind: {what}"
