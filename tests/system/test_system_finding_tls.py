"""The home network behind a name and TLS: NSD leads to two servers of OpenSSL, and only one of them can show
that it is the domain's. And one that listens nowhere, but has connected to us (RFC 5923)."""

from __future__ import annotations

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
from tests.system.world import BASE_PORT, World
from tests.transport.certificates import Authority, tls_core

DNS_PORT = 19092
OTHER, HOME = port(), port()
RECORDS = (
    '@ NAPTR 10 10 "s" "SIPS+D2T" "" _sips._tcp',
    f"_sips._tcp SRV 1 0 {OTHER} one",
    f"_sips._tcp SRV 2 0 {HOME} one",
    "one A 127.0.0.1",
)
OPTIONS = f"""\
OPTIONS sip:{HOST}:{BASE_PORT + 2} SIP/2.0
Via: SIP/2.0/TLS {HOST}:{HOME};branch=z9hG4bKalias%s;alias
From: <sip:home.test>;tag=1
To: <sip:{HOST}>
Call-ID: alias%s
CSeq: 1 OPTIONS
Max-Forwards: 70
Content-Length: 0

"""
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


class OpenSsl:
    """`openssl s_server` or `s_client`, which wants a certificate of its peer; a context manager."""

    def __init__(self, files: TlsFiles, *command: str | int) -> None:
        names = ("-cert", files.cert, "-key", files.key, "-CAfile", files.ca)
        self._command = ("openssl", *map(str, command), *names, "-verify_return_error", "-quiet")

    def __enter__(self) -> OpenSsl:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
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


def server(files: TlsFiles, port: int) -> OpenSsl:
    return OpenSsl(files, "s_server", "-accept", f"{HOST}:{port}", "-Verify", 1)


def wait_for_listeners(*ports: int) -> None:
    deadline = time.monotonic() + 20.0
    while not all(f":{port:04X} " in Path("/proc/net/tcp").read_text() for port in ports):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[World]:
    core = f'nameserver = ["{HOST}:{DNS_PORT}"]\n{tls_core(authority.sign("pcscf", HOST, mutual=True))}'
    with (
        Nsd(tmp_path_factory.mktemp("nsd"), DNS_PORT, *RECORDS),
        World(sipp_registrar=False, next_hop="sip:home.test", core=core, log_level="debug") as world,
    ):
        yield world
        world.check()
        world.assert_nothing_left()


def test_only_a_server_that_shows_the_domain_is_sent_anything(world: World, authority: Authority) -> None:
    with (
        server(authority.sign("other", "one.home.test", HOST, mutual=True), OTHER) as other,
        server(authority.sign("home", "home.test", mutual=True), HOME) as home,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alice,
    ):
        wait_for_listeners(OTHER, HOME)
        alice.connect((HOST, world.access_port))
        alice.settimeout(15.0)
        alice.send(REGISTER.replace("\n", "\r\n").encode())
        request = parse_message(home.read(15.0))
        assert isinstance(request, Request)
        assert request.via.transport == "TLS"
        assert ";transport=tls;lr>" in (request.headers.get("Path") or "")
        home.write(bytes(make_response(request, 403, to_tag="home")))
        assert alice.recv(65536).startswith(b"SIP/2.0 403 ")
        assert not other.read(0.0)
    assert world.status()["quarantined"] == [f"TLS {HOST}:{OTHER}"]


def test_a_domain_that_has_connected_to_us_is_reached_over_its_connection(
    world: World, authority: Authority
) -> None:
    """Where nobody listens; the other one, who claims the same, cannot show the domain."""
    to_us = ("s_client", "-connect", f"{HOST}:{world.core_port}")
    with (
        OpenSsl(authority.sign("home", "home.test", mutual=True), *to_us) as home,
        OpenSsl(authority.sign("other", "home.test.example", HOST, mutual=True), *to_us) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alice,
    ):
        alice.connect((HOST, world.access_port))
        alice.settimeout(15.0)
        for number, (peer, reached) in enumerate(((other, False), (home, True))):
            peer.write((OPTIONS % (number, number)).replace("\n", "\r\n").encode())
            assert peer.read(15.0).startswith(b"SIP/2.0 ")
            again = REGISTER.replace("over-tls", f"a{number}").replace("z9hG4bKtls", f"z9hG4bKa{number}")
            alice.send(again.replace("\n", "\r\n").encode())
            if reached:
                request = parse_message(home.read(15.0))
                assert isinstance(request, Request)
                assert request.via.param("alias") == ""
                home.write(bytes(make_response(request, 200, to_tag="home")))
            status = alice.recv(65536)[:12]
            assert status == (b"SIP/2.0 200 " if reached else b"SIP/2.0 503 ")
        assert not other.read(0.0)
