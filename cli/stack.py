"""Gateway, proxy and lab core as three processes on loopback: for lab, demo, system tests and benchmark.
A SIP core that runs already may stand in the lab core's place.

    base port + 0   the proxy's access side, where phones go        (SIP over UDP and TCP)
              + 2   the proxy's core side
              + 4   the lab core
              + 6   the access side for browsers, and + 8 the page with the web phone (imsalg lab)
              + 100 and up: media of the gateway, first its access side, then its core side

Everything they need (configurations, sockets, logs) is in a directory that goes with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from agw.iq.client import Client
from agw.iq.messages import Audited, AuditValue, ErrorReply, Hello, Notice, Reply, Request

HOST = "127.0.0.1"
DOMAIN = "ims.test"
BASE_PORT = 5060
PORTS = click.IntRange(1024, 60000)  # what may be a base port
MEDIA = 100  # from the base port to the first port for media
START = 30.0  # seconds in which all three must be ready
END = 5.0  # seconds one may take to leave
TAIL = 8  # lines of its log that tell why a process died
DYING = 0.5  # seconds between the last answer of a process and its end
ANSWER = 10.0  # seconds for a status document or an audit

GATEWAY = """\
[iq]
listen = {iq}

[[realm]]
name = "access"
ports = [{access_first}, {access_last}]

[[realm]]
name = "core"
ports = [{core_first}, {core_last}]
"""

PROXY = """\
name = "pcscf"
visited_network = "lab.example"

[[access]]
name = "access"
listen = "{host}:{access}"
mechanisms = {mechanisms}
{access_lines}
{tables}

[core]
listen = "{host}:{core}"
next_hop = {next_hop}
{core_lines}

[gateway]
iq = {iq}
timeout = 5.0

[status]
socket = {status}
"""

LAB = """\
listen = "{host}:{lab}"
aliases = ["{host}:{access}"]
domain = "{domain}"
password = {password}
status = {status}

[routes]
{routes}
"""


class StackError(Exception):
    """One or more lines for the user: what does not run, and why."""


class Stack:
    """A context manager, or `start` and `stop`.

    mechanisms: media security of the access side. routes: user -> SIP URI, for peers that do not register.
    access, core: further lines of the proxy's [[access]] and [core] tables; tables: further tables of its
    file. media_ports: of each side of the gateway. next_hop: the URI of a SIP core; without one there is the
    lab core.
    processes: name -> process, in the order in which they were started.
    """

    def __init__(
        self,
        base_port: int = BASE_PORT,
        *,
        password: str = "lab",
        mechanisms: Sequence[str] = ("sdes-srtp",),
        routes: Mapping[str, str] | None = None,
        access: str = "",
        core: str = "",
        tables: str = "",
        media_ports: int = 800,
        log_level: str = "info",
        next_hop: str | None = None,
    ) -> None:
        self.access_port, self.core_port, self.lab_port = base_port, base_port + 2, base_port + 4
        self.password = password
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._mechanisms = mechanisms
        self._routes = routes or {}
        self._access, self._core, self._tables = access, core, tables
        self._media = base_port + MEDIA
        self._media_ports = media_ports
        self._log_level = log_level
        self._next_hop = next_hop

    @property
    def access_uri(self) -> str:
        """Where phones behind the proxy go."""
        return f"sip:{HOST}:{self.access_port}"

    @property
    def access_media(self) -> range:
        """The gateway's ports towards UEs."""
        return range(self._media, self._media + self._media_ports)

    @property
    def lab_uri(self) -> str:
        """Where phones go that know no proxy."""
        return f"sip:{HOST}:{self.lab_port}"

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when calls can be made. Raises StackError, and nothing is left running then."""
        for port in (self.access_port, self.core_port, *([] if self._next_hop else [self.lab_port])):
            _check_free(port)
        self.directory = Path(tempfile.mkdtemp(prefix="imsalg-"))
        try:
            self._write_configurations()
            cli = (sys.executable, "-m", "cli.main")
            log = ("--log", self._log_level)
            self._spawn("gateway", *cli, "gateway", "-c", self.directory / "gateway.toml", *log)
            if self._next_hop is None:
                self._spawn("lab", sys.executable, "-m", "imsalg.lab.server", self.directory / "lab.toml")
            self._spawn("proxy", *cli, "proxy", "-c", self.directory / "proxy.toml", *log)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """The proxy leaves first, as it ends its calls with the help of the others. A second Ctrl-C, or who
        does not leave in time, is no reason to leave anything behind."""
        leaving = [self.processes[name] for name in ("proxy", "lab", "gateway") if name in self.processes]
        try:
            for process in leaving:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END)
        finally:
            for process in leaving:
                process.kill()
                process.wait()
            self.processes.clear()
            shutil.rmtree(self.directory, ignore_errors=True)

    def check(self) -> None:
        """Raises StackError if one of the processes has died, with its last words."""
        for name, process in self.processes.items():
            if (code := process.poll()) is not None:
                how = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
                raise StackError("\n".join([f"the {name} {how}; its last words:", *self.log(name)[-TAIL:]]))

    def log(self, name: str) -> list[str]:
        """The lines that one of the processes has logged."""
        return (self.directory / f"{name}.log").read_text(errors="replace").splitlines()

    def status(self) -> dict[str, Any]:
        """The proxy's status document. Raises StackError when it does not answer, as the next two do."""
        return self._ask("proxy")

    def lab_status(self) -> dict[str, Any]:
        """The lab core's."""
        return self._ask("lab")

    def audit(self) -> Audited:
        """Everything the gateway holds, whoever asked for it."""
        try:
            return asyncio.run(_audit(f"unix:{self.directory}/iq.sock"))
        except TimeoutError:
            raise StackError("the gateway does not answer to an audit") from None

    # -- inside ----------------------------------------------------------------------------------------------

    def _write_configurations(self) -> None:
        files = {name: json.dumps(str(self.directory / f"{name}.sock")) for name in ("iq", "proxy", "lab")}
        iq = json.dumps(f"unix:{self.directory}/iq.sock")
        middle, end = self._media + self._media_ports, self._media + 2 * self._media_ports
        ports = {"access": self.access_port, "core": self.core_port, "lab": self.lab_port, "host": HOST}
        gateway = GATEWAY.format(
            iq=iq, access_first=self._media, access_last=middle - 1, core_first=middle, core_last=end - 1
        )
        next_hop = json.dumps(self._next_hop or self.lab_uri)
        proxy = PROXY.format(
            iq=iq,
            status=files["proxy"],
            mechanisms=json.dumps(self._mechanisms),
            access_lines=self._access,
            core_lines=self._core,
            tables=self._tables,
            next_hop=next_hop,
            **ports,
        )
        routes = "\n".join(f"{json.dumps(user)} = {json.dumps(uri)}" for user, uri in self._routes.items())
        password = json.dumps(self.password)
        lab = LAB.format(domain=DOMAIN, password=password, status=files["lab"], routes=routes, **ports)
        for name, text in (("gateway", gateway), ("proxy", proxy), ("lab", lab)):
            (self.directory / f"{name}.toml").write_text(text)

    def _spawn(self, name: str, *command: str | Path) -> None:
        with open(self.directory / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, who end them in order
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START
        while True:
            self.check()
            try:
                if self._read("proxy")["gateway"] and (self._next_hop is not None or self._read("lab")):
                    return
            except (OSError, ValueError):
                pass  # not yet
            if time.monotonic() > deadline:
                words = [line for name in self.processes for line in self.log(name)[-TAIL:]]
                raise StackError("\n".join([f"not ready after {START:.0f} s; the last words:", *words]))
            time.sleep(0.02)

    def _ask(self, name: str) -> dict[str, Any]:
        try:
            return self._read(name)
        except (OSError, ValueError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.processes[name].wait(DYING)
            self.check()
            raise StackError(f"the {name} does not tell its status: {error}") from None

    def _read(self, name: str) -> dict[str, Any]:
        """What a status socket says. Raises OSError, or ValueError when it breaks off."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER)
            connection.connect(str(self.directory / f"{name}.sock"))
            data = b"".join(iter(lambda: connection.recv(65536), b""))
        document: dict[str, Any] = json.loads(data)
        return document


def _check_free(port: int) -> None:
    """Raises StackError for a port that somebody else has."""
    for kind, name in ((socket.SOCK_DGRAM, "UDP"), (socket.SOCK_STREAM, "TCP")):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                problem = f"{name} port {port} of {HOST} cannot be had: {error.strerror}"
                raise StackError(f"{problem}; --base-port moves all ports") from None


async def _audit(address: str) -> Audited:
    answer: asyncio.Future[Audited] = asyncio.get_running_loop().create_future()

    def ask(_: Hello) -> None:
        client.send(Request(1, "", (AuditValue(),)))

    def take(message: Reply | ErrorReply | Notice) -> None:
        if isinstance(message, Reply) and isinstance(message.results[0], Audited) and not answer.done():
            answer.set_result(message.results[0])

    client = Client(
        address,
        name="audit",
        incarnation=secrets.token_hex(8),
        claims=lambda: (),
        on_up=ask,
        on_down=lambda reason: None,
        on_message=take,
    )
    running = asyncio.create_task(client.run())
    try:
        return await asyncio.wait_for(answer, ANSWER)
    finally:
        await client.close()
        await running
