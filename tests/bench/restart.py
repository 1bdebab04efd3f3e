"""How long a proxy takes to serve again: after a cold start, and after `kill -9` with registrations stored.

Run as `python tests/bench/restart.py [--registrations 10000] [--trials 3] [--base-port 21900] [--json]`.
"answer" is the time from the start of the process to its first answer, to an OPTIONS that is sent again every
2 ms; "reached" the time until a MESSAGE from the core has come through to the UE that registered last. The
start of Python itself and the import of the modules are in both. The registrations are written to the store
by the code that the proxy uses. It does not judge: it exits 0 unless it could not run.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from imsalg.policy.treatment import Mechanism
from imsalg.records import BindingRecord, encode
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.values import Address
from imsalg.store import SqliteStore

HOST = "127.0.0.1"
AGAIN = 0.002  # seconds between two attempts
LIMIT = 30.0  # seconds until it is given up

PROXY = """
[[access]]
name = "access"
listen = "{host}:{access}"
mechanisms = ["sdes-srtp"]
[core]
listen = "{host}:{core}"
next_hop = "sip:{host}:{peer}"
[gateway]
iq = "unix:{directory}/none.sock"
[limits]
registrations = {limit}
[store]
path = "{directory}/proxy.db"
"""

REQUEST = """\
{method} {uri} SIP/2.0\r
Via: SIP/2.0/UDP {host}:{peer};branch=z9hG4bK{branch};rport\r
Max-Forwards: 70\r
From: <sip:bench@ims.test>;tag=1\r
To: <{uri}>\r
Call-ID: {branch}\r
CSeq: 1 {method}\r
Content-Length: 0\r
\r
"""


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process. reached: None where there is nobody to reach."""

    registrations: int
    answer: float
    reached: float | None


class Bench:
    """Everything about one store with so many registrations; base: the first of four ports."""

    def __init__(self, directory: Path, base: int, registrations: int) -> None:
        self.registrations = registrations
        self._access, self._core, self._peer, self._ue = range(base, base + 8, 2)
        self._file = directory / "proxy.toml"
        ports = {"access": self._access, "core": self._core, "peer": self._peer}
        limit = max(registrations, 1)
        self._file.write_text(PROXY.format(host=HOST, directory=directory, limit=limit, **ports))
        (directory / "proxy.db").unlink(missing_ok=True)
        if registrations:
            store = SqliteStore(str(directory / "proxy.db"))
            records = {f"binding {number:024x}": self._record(number) for number in range(registrations)}
            store.save(True, records)
            store.close()

    def start(self) -> Start:
        """Starts the proxy, measures, and kills it."""
        with _socket(self._peer) as peer, _socket(self._ue) as ue:
            began = time.monotonic()
            command = (sys.executable, "-m", "cli.main", "proxy", "-c", self._file, "--log", "error")
            proxy = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                answer = self._until(peer, "OPTIONS", f"sip:{HOST}:{self._access}", peer) - began
                reached = None
                if self.registrations:
                    last = self._contact(self.registrations - 1)
                    reached = self._until(peer, "MESSAGE", last, ue) - began
            finally:
                proxy.send_signal(signal.SIGKILL)
                proxy.wait()
        return Start(self.registrations, answer, reached)

    def _until(self, sender: socket.socket, method: str, uri: str, there: socket.socket) -> float:
        """Sends a request to the proxy's core side until something of it comes; when it came."""
        branch = f"{os.urandom(8).hex()}"
        text = REQUEST.format(method=method, uri=uri, host=HOST, peer=self._peer, branch=branch)
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            sender.sendto(text.encode(), (HOST, self._core))
            if select.select([there], [], [], AGAIN)[0] and branch.encode() in there.recv(65535):
                return time.monotonic()
        raise SystemExit(f"no answer to {method} within {LIMIT:.0f} s")

    def _record(self, number: int) -> bytes | None:
        aor = f"sip:user{number}@ims.test"
        flow = Flow(Transport.UDP, Address(HOST, self._access), Address(HOST, self._ue))
        return encode(
            BindingRecord(
                f"{number:024x}",
                aor,
                flow,
                {self._contact(number): time.time() + 3600.0},
                (f"<sip:orig@{HOST}:{self._peer};lr>",),
                (f"<{aor}>", f"<tel:+49{number:010}>"),
                frozenset((Mechanism.SDES_SRTP,)),
                (aor, f'"<urn:uuid:00000000-0000-1000-8000-{number:012x}>";1'),
            )
        )

    def _contact(self, number: int) -> str:
        return f"sip:user{number}@{HOST}:{self._ue}"


def _socket(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((HOST, port))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--registrations", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--base-port", type=int, default=21900)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    starts = []
    with tempfile.TemporaryDirectory(prefix="imsalg-") as directory:
        for registrations in dict.fromkeys((0, arguments.registrations)):
            bench = Bench(Path(directory), arguments.base_port, registrations)
            starts += [bench.start() for _ in range(arguments.trials)]
    if arguments.json:
        print(json.dumps([asdict(start) for start in starts]))
        return
    print("seconds from the start of the process; median of", arguments.trials)
    for registrations in dict.fromkeys(start.registrations for start in starts):
        of = [start for start in starts if start.registrations == registrations]
        answer = statistics.median(start.answer for start in of)
        reached = [start.reached for start in of if start.reached is not None]
        told = f", the last of them reached after {statistics.median(reached):.2f}" if reached else ""
        print(f"{registrations:6} registrations stored: first answer after {answer:.2f}{told}")


if __name__ == "__main__":
    main()
