"""The home network behind a name and TLS: NSD leads to two servers of OpenSSL, and only one of them can show
that it is the domain's."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imsalg.sip.message import Request, make_response, parse_message
from imsalg.transport.tls import TlsFiles
from tests.sim.nsd import Nsd
from tests.system.sipp import HOST, port
from tests.system.world import World
from tests.transport.certificates import Authority

DNS_PORT = 17262
OTHER, HOME = port(), port()
RECORDS = (
    '@ NAPTR 10 10 "s" "SIPS+D2T" "" _sips._tcp',
    f"_sips._tcp SRV 1 0 {OTHER} one",
    f"_sips._tcp SRV 2 0 {HOME} one",
    "one A 127.0.0.1",
)
REGISTER = f"""\
REGISTER sip:home.test SIP/2.0
Via: SIP/2.0/UDP {HOST}:9;branch=z9hG4bKtls;rport
From: <sip:alice@home.test>;tag=1
To: <sip:alice@home.test>
Call-ID: over-tls
CSeq: 1 REGISTER
Contact: <sip:alice@{HOST}:9>
Max-Forwards: 70
Content-Length: 0

"""


class Secure(World):
    """Its core side speaks TLS, and its home network is `home.test`."""

    def __init__(self, files: TlsFiles) -> None:
        super().__init__(sipp_registrar=False, log_level="debug")
        self._files = files

    def _write_configurations(self) -> None:
        super()._write_configurations()
        proxy = self.directory / "proxy.toml"
        before = f'next_hop = "sip:{HOST}:{self.lab_port}"'
        lines = (
            'next_hop = "sip:home.test"',
            'transports = ["TLS"]',
            f'nameserver = ["{HOST}:{DNS_PORT}"]',
            *(f"{name} = {json.dumps(getattr(self._files, name))}" for name in ("cert", "key", "ca")),
        )
        text = proxy.read_text()
        assert before in text
        proxy.write_text(text.replace(before, "\n".join(lines)))


class OpenSsl:
    """`openssl s_server`, which wants a certificate of its peer; a context manager."""

    def __init__(self, port: int, files: TlsFiles) -> None:
        names = ("-cert", files.cert, "-key", files.key, "-CAfile", files.ca)
        self._command = ("openssl", "s_server", "-accept", f"{HOST}:{port}", *names)
        self._port = port

    def __enter__(self) -> OpenSsl:
        self._process = subprocess.Popen(
            (*self._command, "-Verify", "1", "-verify_return_error", "-quiet"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 5.0
        while f":{self._port:04X} " not in Path("/proc/net/tcp").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def read(self, seconds: float) -> bytes:
        """What came in, once something has."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return self._process.stdout.read1(65536) if ready else b""

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[World]:
    with (
        Nsd(tmp_path_factory.mktemp("nsd"), DNS_PORT, *RECORDS),
        Secure(authority.sign("pcscf", HOST, mutual=True)) as world,
    ):
        yield world
        world.check()
        world.assert_nothing_left()


def test_only_a_server_that_shows_the_domain_is_sent_anything(world: World, authority: Authority) -> None:
    with (
        OpenSsl(OTHER, authority.sign("other", "one.home.test", HOST, mutual=True)) as other,
        OpenSsl(HOME, authority.sign("home", "home.test", mutual=True)) as home,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alice,
    ):
        alice.connect((HOST, world.access_port))
        alice.settimeout(5.0)
        alice.send(REGISTER.replace("\n", "\r\n").encode())
        request = parse_message(home.read(5.0))
        assert isinstance(request, Request)
        assert request.via.transport == "TLS"
        assert ";transport=tls;lr>" in (request.headers.get("Path") or "")
        home.write(bytes(make_response(request, 403, to_tag="home")))
        assert alice.recv(65536).startswith(b"SIP/2.0 403 ")
        assert not other.read(0.0)
    assert world.status()["quarantined"] == [f"TLS {HOST}:{OTHER}"]
