"""SIPp as a process under test: a scenario with its blanks filled in, its exit code, and what it saw.

A scenario in scenarios/ is SIPp's XML; `@name@` in it is a blank, filled from the keyword of that name (SIPp
itself cannot put a file, a status or a header line there). SIPp checks the order of messages and what its
<ereg> say; everything finer is asserted on the messages of its trace, parsed with the code of the project.
"""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from imsalg.sdp.document import Document
from imsalg.sip.message import Request, Response, parse_message
from imsalg.sip.values import Address

SCENARIOS = Path(__file__).with_name("scenarios")
HOST, HOST6 = "127.0.0.1", "::1"
BLOCK = 8  # ports for one SIPp: SIP, control, then media
_blocks = itertools.cycle(range(19100, 19900 - BLOCK, BLOCK))
_TRACED = re.compile(
    rb"(?m)^-{20,} [0-9-]+ [0-9:.]+\n\w+ message (sent|received) [\[(](\d+)(?:\]| bytes\)|\] bytes) ?:\n\n"
)
_BLANKS = {"gap": "", "headers": "X-Test: none", "ring": 0, "talk": 0, "wait": 0, "user": "sipp"}
# SIPp would take the ACK to an earlier INVITE, which comes again, for the one to this.
_ACK = """<label id="ack{0}"/>
  <recv request="ACK"><action>
    <ereg regexp="^ *{0} ACK" search_in="hdr" header="CSeq:" assign_to="is{0}"/>
  </action></recv>
  <nop test="is{0}" next="acked{0}"/>
  <nop next="ack{0}"/>
  <label id="acked{0}"/>"""
_ACKS = {f"ack{number}": _ACK.format(number) for number in (2, 3, 4)}
GAP = '<recv request="INFO"/>'  # in a scenario; see Sipp.go_on


def port() -> int:
    """A SIP port of its own for a SIPp that is started later."""
    return next(_blocks)


@dataclass(frozen=True, slots=True)
class Traced:
    """A message as SIPp saw it. again: a retransmission, as it is byte for byte what was there before."""

    sent: bool
    again: bool
    message: Request | Response


class Sipp:
    """A running SIPp; a context manager that ends it.

    host: its own address. remote: our port where all it sends goes; a UAS answers to where a request came
    from. echo: RTP that comes goes back, from the port 2 above its own.
    """

    def __init__(
        self,
        directory: Path,
        scenario: str,
        *,
        remote: int | None = None,
        port: int | None = None,
        host: str = HOST,
        tcp: bool = False,
        echo: bool = False,
        calls: int = 1,
        seconds: int = 40,
        **blanks: object,
    ) -> None:
        self.port = port or next(_blocks)
        self._files = directory / f"{scenario}.{self.port}.{time.monotonic_ns()}"
        self._name = scenario
        filled = (SCENARIOS / f"{scenario}.xml").read_text()
        keys: tuple[str, ...] = ()
        for name, value in {**_BLANKS, **_ACKS, **blanks}.items():
            said = str(value).strip()
            if "[::" in said:  # no keyword of SIPp's, which would take it for one
                keys += ("-key", name, said)
                said = f"[{name}]"
            filled = filled.replace(f"@{name}@", said)
        if left := re.search(r"@\w+@", filled):
            raise ValueError(f"{scenario}: the blank {left[0]} was not filled")
        self._file(".xml").write_text(filled)
        options: dict[str, object] = {
            "-sf": self._file(".xml"),
            "-i": host,
            "-p": self.port,
            "-cp": self.port + 1,
            "-mp": self.port + 2,
            "-t": "t1" if tcp else "u1",
            "-m": calls,
            "-timeout": seconds,
            "-message_file": self._file(".messages"),
            "-error_file": self._file(".errors"),
        }
        with self._file(".screen").open("wb") as screen:
            self._process = subprocess.Popen(
                [
                    "sipp",
                    *([str(Address(HOST6 if ":" in host else HOST, remote))] if remote else []),
                    *(str(word) for option in options.items() for word in option),
                    *(["-rtp_echo"] if echo else []),
                    *("-nostdin", "-timeout_error", "-trace_msg", "-trace_err"),
                    *keys,
                ],
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=subprocess.STDOUT,
            )
        if remote is None:
            self._wait_until_bound(f"/proc/net/{'tcp' if tcp else 'udp'}{'6' if ':' in host else ''}")

    def __enter__(self) -> Sipp:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if kind is not None:  # for pytest to show: what fails at one end has its cause at the other
            print(f"-- {self._name} on {self.port}", self._told(), sep="\n")

    def finish(self, seconds: float = 50.0) -> list[Traced]:
        """Wait until it has ended and see that all went as its scenario says; the messages it saw."""
        code = self._process.wait(seconds)
        assert code == 0, f"{self._name} on {self.port}: exit code {code}\n{self._told()}"
        return self.traced()

    def traced(self) -> list[Traced]:
        """The messages it has seen so far."""
        path = self._file(".messages")
        data = path.read_bytes() if path.exists() else b""
        found: list[Traced] = []
        seen: set[tuple[bool, bytes]] = set()
        position = 0
        while head := _TRACED.search(data, position):
            position = head.end() + int(head[2])
            if position > len(data):
                break  # it is being written
            raw, sent = data[head.end() : position], head[1] == b"sent"
            found.append(Traced(sent, (sent, raw) in seen, parse_message(raw)))
            seen.add((sent, raw))
        return found

    def wait_for(
        self, what: str | int, seconds: float = 20.0, *, nth: int = 1, again: bool = False
    ) -> Request | Response:
        """Wait until a request with this method, or a response with this status, has come, for the nth
        time; or `again`, which is not counted else."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            came = [
                traced.message
                for traced in self.traced()
                if not traced.sent
                and traced.again is again
                and what in (getattr(traced.message, "method", None), getattr(traced.message, "status", None))
            ]
            if len(came) >= nth:
                return came[nth - 1]
            time.sleep(0.02)
        raise AssertionError(f"{self._name} on {self.port}: no {what} came\n{self._told()}")

    def go_on(self) -> None:
        """The end of a GAP. It looks like the last message that came, from which SIPp takes its headers, or
        the one that began the call."""
        seen = self.traced()
        last = [each for each in seen if not each.sent or each is seen[0]][-1].message
        lines = [f"{name}: {last.headers.get(name)}" for name in ("From", "To", "Call-ID")]
        number = time.monotonic_ns()  # else it would be the same again, which SIPp takes no notice of
        via = f"Via: SIP/2.0/UDP {HOST}:9;branch=z9hG4bK{number}"
        head = "\r\n".join(("INFO sip:sipp SIP/2.0", via, *lines, "CSeq: 1 INFO", "Content-Length: 0"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(f"{head}\r\n\r\n".encode(), (HOST, self.port))

    def _wait_until_bound(self, table: str) -> None:
        wanted = f":{self.port:04X} "
        deadline = time.monotonic() + 20.0
        while wanted not in Path(table).read_text():
            alive = time.monotonic() < deadline and self._process.poll() is None
            assert alive, f"{self._name}: SIPp did not start\n{self._told()}"
            time.sleep(0.01)

    def _file(self, suffix: str) -> Path:
        return self._files.with_name(self._files.name + suffix)

    def _told(self) -> str:
        screen = self._file(".screen").read_bytes().decode("ascii", "replace")[-1500:]
        errors = self._file(".errors")
        said = errors.read_text(errors="replace") if errors.exists() else screen
        lines = [
            f"{'->' if t.sent else '<-'} {bytes(t.message).splitlines()[0].decode('latin-1')}"
            for t in self.traced()
        ]
        return "\n".join([*lines, said])


# -- what was seen -----------------------------------------------------------------------------------------


def requests(traced: list[Traced], method: str, *, sent: bool) -> list[Request]:
    """The requests of one method in one direction, without retransmissions."""
    return [
        t.message
        for t in traced
        if t.sent is sent and not t.again and isinstance(t.message, Request) and t.message.method == method
    ]


def responses(traced: list[Traced], status: int, method: str, *, sent: bool) -> list[Response]:
    """The responses with one status to one method in one direction, without retransmissions."""
    return [
        t.message
        for t in traced
        if t.sent is sent
        and not t.again
        and isinstance(t.message, Response)
        and (t.message.status, t.message.cseq.method) == (status, method)
    ]


def sdp(message: Request | Response) -> Document:
    """The session description a message carries."""
    assert message.headers.get("Content-Type") == "application/sdp"
    return Document(message.body)
