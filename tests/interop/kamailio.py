"""Kamailio as S-CSCF: a process under test, what it knows of its users, and what an operator does to them.
And as a customer's exchange, which is a UE to us."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from imsalg.transport.tls import TlsFiles

HOST = "127.0.0.1"
OUTSIDE = "127.0.0.2"  # where phones are that it serves without a proxy
PASSWORD = "lab"
START = 30.0  # seconds in which it must answer
_TABLES = Path("/usr/share/kamailio/db_sqlite")  # of Debian's kamailio-sqlite-modules
_TLS = """\
[{side}:default]
method = TLSv1.2+
certificate = {files.cert}
private_key = {files.key}
ca_list = {files.ca}
verify_certificate = yes
require_certificate = yes
"""


class Kamailio:
    """A context manager; its files go to `directory`. It trusts who comes from HOST, as proxies do here.

    tls: with these, proxies reach it over mutual TLS. aliases: it takes the `alias` of RFC 5923 from them.
    uri: where phones without a proxy go. next_hop: where proxies do.
    """

    configuration = Path(__file__).with_name("kamailio.cfg")
    tables: tuple[str, ...] = ("standard", "presence")

    def __init__(
        self, directory: Path, port: int, *, tls: TlsFiles | None = None, aliases: bool = False
    ) -> None:
        self.uri = self.next_hop = f"sip:{HOST}:{port}"
        self._directory = directory
        self._listen = [f"udp:{HOST}:{port}", f"tcp:{HOST}:{port}"]
        self._tls = tls
        self.aliases = aliases
        if tls is not None:
            self.next_hop = f"sip:{HOST}:{port + 1};transport=tls"
            self._listen.append(f"tls:{HOST}:{port + 1}")

    def __enter__(self) -> Kamailio:
        events = self._directory / "events.sqlite"
        with closing(sqlite3.connect(events)) as database:
            for name in self.tables:
                database.executescript((_TABLES / f"{name}-create.sql").read_text())
            self._fill(database)
            database.commit()
        values = {
            **self._values(),
            "CONTROL": self._directory / "control",
            "EVENTS": f"sqlite:///{events}",
        }
        if self._tls is not None:
            values["CERTIFICATES"] = self._directory / "tls.cfg"
            values["CERTIFICATES"].write_text(
                "".join(_TLS.format(side=side, files=self._tls) for side in ("server", "client"))
            )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("kamailio", "-DD", "-E", "-m", "32", "-M", "4", "-f", self.configuration),
                    *("-w", self._directory, "-Y", self._directory, "-P", self._directory / "pid"),
                    *(word for address in self._listen for word in ("-l", address)),
                    *(word for name, value in values.items() for word in ("-A", f'{name}="{value}"')),
                    *("-A", f"ALIASES={'yes' if self.aliases else 'no'}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise AssertionError(f"Kamailio does not start:\n{self.log()}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _fill(self, database: sqlite3.Connection) -> None:
        """Its tables, before it starts."""

    def _values(self) -> dict[str, object]:
        """What it is told on its command line, besides where its files are."""
        return {"HERE": self.uri, "PASSWORD": PASSWORD, "PCSCF": HOST}

    @property
    def _log(self) -> Path:
        return self._directory / "kamailio.log"

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def contacts(self, user: str) -> list[dict[str, Any]]:
        """What its registrar holds of one user; of each, Address is the Contact URI."""
        answer = self._ask("ul.lookup", "location", f"{user}@ims.test")
        found = answer.get("result", {}).get("Contacts", [])
        return [each["Contact"] for each in found]

    def deregister(self, user: str, contact: str = "") -> None:
        """As an operator does who takes a user out of service, or one of his devices."""
        aor = f"{user}@ims.test"
        answer = self._ask(
            *(("ul.rm_contact", "location", aor, contact) if contact else ("ul.rm", "location", aor))
        )
        assert "error" not in answer, answer

    def notified(self, user: str) -> int:
        """How many NOTIFYs it has sent of a user's registration state."""
        return len(re.findall(rf"NOTIFY .* on behalf of sip:{user}@ims\.test for event reg", self.log()))

    def tls_peers(self) -> list[int]:
        """Of each TLS connection that is up, the port of the other end, whoever opened it."""
        connections = self._ask("tls.list")["result"]
        return [each["src_port"] for each in connections if each["state"] == "established"]

    def _answers(self) -> bool:
        try:
            return "result" in self._ask("core.version")
        except OSError:
            return False

    def _ask(self, method: str, *parameters: str) -> dict[str, Any]:
        """One JSON-RPC request, and the answer. Raises OSError."""
        question = {"jsonrpc": "2.0", "method": method, "params": parameters, "id": 1}
        ours = self._directory / f"asks.{time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
            control.settimeout(10.0)
            control.bind(str(ours))
            try:
                control.sendto(json.dumps(question).encode(), str(self._directory / "control"))
                answer: dict[str, Any] = json.loads(control.recv(65536))
            finally:
                ours.unlink()
        return answer


class Exchange(Kamailio):
    """A customer's: it registers `user` at `edge`, passes calls for him to `extension`, and calls of his to
    `edge`."""

    configuration = Path(__file__).with_name("exchange.cfg")
    tables = ("standard", "uac")

    def __init__(self, directory: Path, port: int, user: str, edge: str, extension: str) -> None:
        super().__init__(directory, port)
        self._listen = [f"udp:{HOST}:{port}"]
        self._user, self._edge, self._extension = user, edge, extension

    def unregister(self) -> None:
        answer = self._ask("uac.reg_unregister", "l_uuid", self._user)
        assert "error" not in answer, answer

    def _fill(self, database: sqlite3.Connection) -> None:
        row = {
            **{"l_uuid": self._user, "l_username": self._user, "l_domain": "ims.test"},
            **{"r_username": self._user, "r_domain": "ims.test", "realm": "ims.test"},
            **{"auth_username": self._user, "auth_password": PASSWORD},
            **{"auth_proxy": self._edge, "expires": 600},
        }
        marks = ", ".join("?" * len(row))
        database.execute(f"INSERT INTO uacreg ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))

    def _values(self) -> dict[str, object]:
        here = self.uri.removeprefix("sip:")
        return {"HERE": here, "EDGE": self._edge, "EXTENSION": self._extension}
