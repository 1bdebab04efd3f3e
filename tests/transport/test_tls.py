"""TLS over real loopback sockets: between two shells, and with openssl's s_client and s_server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from imsalg.sip.hop import Transport
from imsalg.sip.values import Address
from imsalg.transport import tls
from imsalg.transport.connection import ConnectionLimits
from imsalg.transport.tls import Credentials, TlsFiles
from tests.transport.certificates import Authority
from tests.transport.test_shell import Site, connected, looped, options, ports, read_message, until

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def secure(files: TlsFiles, host: str = "127.0.0.1", limits: ConnectionLimits | None = None) -> Site:
    return Site(host, limits, transports=(Transport.TLS,), tls=files, opens_tls=True)


def trusting(authority: Authority, files: TlsFiles | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca))
    if files is not None:
        context.load_cert_chain(files.cert, files.key)
    return context


@contextlib.asynccontextmanager
async def secured(
    address: Address, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_requests_over_mutual_tls_share_one_connection_in_both_directions(
    authority: Authority, host: str
) -> None:
    files = authority.sign("both", *LOOPBACK, mutual=True)

    @looped
    async def run() -> None:
        async with secure(files, host) as one, secure(files, host) as two:
            for body in (b"", b"x" * 60_000):
                one.request(one.flow(two.address, Transport.TLS), body)
            await until(lambda: len(one.machine.responses) == 2)
            accepted = two.machine.requests[0].flow
            assert accepted.transport is Transport.TLS
            assert two.machine.requests[0].request.via.transport == "TLS"
            two.request(accepted)
            await until(lambda: two.machine.responses)
            assert one.shell.connections == two.shell.connections == 1

    run()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken(authority: Authority, version: ssl.TLSVersion) -> None:
    files, context = authority.sign("edge", *LOOPBACK), trusting(authority)
    context.minimum_version = context.maximum_version = version

    @looped
    async def run() -> None:
        async with secure(files) as site, secured(site.address, context) as (reader, writer):
            writer.write(b"\r\n\r\n" + options(via="TLS 127.0.0.1:9"))
            assert (await read_message(reader)).startswith(b"\r\nSIP/2.0 200")

    run()


def test_older_versions_are_not(authority: Authority) -> None:
    files, context = authority.sign("edge", *LOOPBACK), trusting(authority)
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")

    @looped
    async def run() -> None:
        async with secure(files) as site:
            with pytest.raises(ssl.SSLError):
                await asyncio.open_connection(*site.address, ssl=context)
            await until(lambda: not site.shell.connections)
            assert site.shell.drops["tls_failed"] == 1

    run()


def test_who_must_show_a_certificate_is_not_served_without(authority: Authority, tmp_path: Path) -> None:
    files = authority.sign("edge", *LOOPBACK, mutual=True)
    mine = authority.sign("mine", "ue.example")
    (tmp_path / "else").mkdir()
    foreign = Authority(tmp_path / "else", "another").sign("foreign", "ue.example")

    @looped
    async def run() -> None:
        async with secure(files) as site:
            for shown in (None, foreign):
                with contextlib.suppress(OSError):  # TLS 1.3 tells it with the first thing read
                    async with secured(site.address, trusting(authority, shown)) as (reader, writer):
                        writer.write(options())
                        assert await reader.read() == b""
            await until(lambda: site.shell.drops["tls_failed"] == 2)
            assert not site.machine.requests
            async with secured(site.address, trusting(authority, mine)) as (reader, writer):
                writer.write(options())
                assert (await read_message(reader)).startswith(b"SIP/2.0 200")

    run()


@pytest.mark.parametrize("names", [("core.example",), ("127.0.0.2",), ()])
def test_a_server_that_is_not_whom_we_want_gets_nothing(authority: Authority, names: tuple[str, ...]) -> None:
    ours, theirs = authority.sign("ours", mutual=True), authority.sign("theirs", *names, mutual=True)

    @looped
    async def run() -> None:
        async with secure(ours) as one, secure(theirs) as two:
            one.request(one.flow(two.address, Transport.TLS))
            await until(lambda: one.machine.failures)
            why = "TLS: certificate refused: it does not name 127.0.0.1"
            assert one.machine.failures[0].detail == why
            assert not two.machine.requests
            await until(lambda: one.shell.connections == 0)

    run()


def test_a_server_is_known_by_the_domain_that_was_looked_up(authority: Authority) -> None:
    files = authority.sign("core", "core.example", mutual=True)

    @looped
    async def run() -> None:
        async with secure(files) as one, secure(files) as two:
            one.request(one.flow(two.address, Transport.TLS)._replace(domain="core.example"))
            await until(lambda: one.machine.responses)
            one.request(one.flow(two.address, Transport.TLS)._replace(domain="other.example"))
            await until(lambda: one.machine.failures)

    run()


@pytest.mark.parametrize(
    ("names", "said", "domain", "reached"),
    [
        (("peer.example",), ";alias", "peer.example", True),
        (("127.0.0.1",), ";alias", "", True),
        (("::1",), ";alias", "", True),
        (("sip:peer.example",), ";alias", "peer.example", True),
        (("peer.example",), "", "peer.example", False),
        (("peer.example",), ";alias", "", False),
        (("*.example", "sip:x@peer.example", "sips:peer.example"), ";alias", "peer.example", False),
        ((), ";alias", "peer.example", False),
    ],
)
def test_who_connected_and_says_alias_is_reached_there_as_whom_its_certificate_names(
    authority: Authority, names: tuple[str, ...], said: str, domain: str, reached: bool
) -> None:
    ours, theirs = authority.sign("ours", *LOOPBACK, mutual=True), authority.sign("theirs", *names)
    host = "::1" if names == ("::1",) else "127.0.0.1"

    @looped
    async def run() -> None:
        async with secure(ours, host) as site:
            flow = site.flow(Address(host, 9), Transport.TLS)._replace(domain=domain)
            async with secured(site.address, trusting(authority, theirs)) as (reader, writer):
                writer.write(options(via=f"TLS somewhere.example:9{said}"))
                await read_message(reader)
                site.request(flow)
                if reached:
                    assert (await read_message(reader)).startswith(b"OPTIONS")
                else:
                    await until(lambda: site.machine.failures)
            await until(lambda: not site.shell.connections)
            site.machine.failures.clear()
            site.request(flow)
            await until(lambda: site.machine.failures)

    run()


def test_nobody_has_an_alias_where_no_connections_are_opened(authority: Authority) -> None:
    files = authority.sign("edge", *LOOPBACK, mutual=True)

    @looped
    async def run() -> None:
        async with (
            Site(transports=(Transport.TLS,), tls=files) as site,
            secured(site.address, trusting(authority, files)) as (reader, writer),
        ):
            writer.write(options(via="TLS 127.0.0.1:9;alias"))
            await read_message(reader)
            site.request(site.flow(Address("127.0.0.1", 9), Transport.TLS))
            assert [failure.cause for failure in site.machine.failures] == ["transport"]

    run()


def test_no_connection_is_opened_where_peers_are_reached_over_their_own(authority: Authority) -> None:
    files = authority.sign("edge", *LOOPBACK)

    @looped
    async def run() -> None:
        async with Site(transports=(Transport.TLS,), tls=files) as site:
            site.request(site.flow(Address("127.0.0.1", next(ports)), Transport.TLS))
            assert [failure.cause for failure in site.machine.failures] == ["transport"]
            assert site.shell.drops["no_connection"] == 1

    run()


def test_what_a_peer_was_asked_fails_when_its_connection_is_gone(authority: Authority) -> None:
    files = authority.sign("edge", *LOOPBACK)

    @looped
    async def run() -> None:
        async with secure(files) as site:
            async with secured(site.address, trusting(authority)) as (reader, writer):
                writer.write(options())
                await read_message(reader)
                site.request(site.machine.requests[0].flow)
                await read_message(reader)
            await until(lambda: site.machine.failures)
            assert site.machine.failures[0].detail == "connection closed by peer"

    run()


# -- hostile peers


GARBAGE = [b"GET / HTTP/1.1\r\n\r\n", options(), b"\x16\x03\x01\xff\xff", random.Random(0).randbytes(3000)]


@pytest.mark.parametrize("garbage", GARBAGE, ids=["http", "sip", "oversize record", "noise"])
def test_garbage_instead_of_a_handshake_is_closed(authority: Authority, garbage: bytes) -> None:
    files = authority.sign("edge", *LOOPBACK)

    @looped
    async def run() -> None:
        async with secure(files) as site, connected(site.address) as (reader, writer):
            writer.write(garbage + bytes(20_000))
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 5)  # to its end
            await until(lambda: not site.shell.connections)
            assert site.shell.drops["tls_failed"] == 1
            assert site.shell.drops["machine_error"] == 0

    run()


def test_a_handshake_that_is_not_finished_in_time_is_closed_also_octet_by_octet(authority: Authority) -> None:
    files = authority.sign("edge", *LOOPBACK)
    hello, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting(authority).wrap_bio(hello, out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    octets = out.read()

    @looped
    async def run() -> None:
        limits = ConnectionLimits(first=0.3)
        async with (
            secure(files, limits=limits) as site,
            connected(site.address) as (slow, to_slow),
            connected(site.address) as (half, to_half),
            connected(site.address) as (mute, _),
        ):
            to_half.write(octets)  # a whole ClientHello, and nothing more
            sent = iter(octets)
            ends = asyncio.gather(slow.read(), half.read(), mute.read())
            while not ends.done():
                with contextlib.suppress(ConnectionError):
                    to_slow.write(bytes([next(sent)]))
                await asyncio.sleep(0.01)
            assert site.shell.drops["tcp_idle_closed"] == 3
            assert site.shell.connections == 0

    run()


# -- certificates that change


def test_a_certificate_is_read_again_on_request_and_an_unusable_one_changes_nothing(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.sign("edge", *LOOPBACK)

    async def shown(address: Address) -> bytes:
        async with secured(address, trusting(authority)) as (_, writer):
            certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
            return certificate

    @looped
    async def run() -> None:
        async with secure(files) as site, secured(site.address, trusting(authority)) as (reader, writer):
            first = await shown(site.address)
            authority.sign("edge", *LOOPBACK)
            assert await shown(site.address) == first
            site.shell.reload()
            second = await shown(site.address)
            assert second != first
            Path(files.key).write_text("no key")
            site.shell.reload()
            assert await shown(site.address) == second
            writer.write(options())  # what is up stays up
            assert (await read_message(reader)).startswith(b"SIP/2.0 200")

    run()
    assert f"the old certificate stays: {files.cert} or its key cannot be used" in caplog.text


def test_changed_files_are_noticed_by_a_later_connection(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(tls.time, "monotonic", lambda: clock[0])
    files = authority.sign("edge")
    credentials = Credentials(files)
    first = credentials.server()
    clock[0] += tls.LOOK_EVERY
    assert credentials.server() is first
    authority.sign("edge")
    assert credentials.server() is first  # looked a moment ago
    clock[0] += tls.LOOK_EVERY
    assert credentials.server() is not first


@pytest.mark.parametrize("which", ["cert", "key", "ca"])
def test_a_file_that_cannot_be_used_is_named(authority: Authority, which: str) -> None:
    files = replace(authority.sign("edge", mutual=True), **{which: "/no/such.pem"})
    with pytest.raises(OSError, match="cannot be used: No such file"):
        Credentials(files)


# -- peers nobody here wrote


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_as_a_client(authority: Authority, version: str) -> None:
    files, mine = authority.sign("edge", *LOOPBACK, mutual=True), authority.sign("mine", "ue.example")

    @looped
    async def run() -> None:
        async with secure(files) as site:
            process = await asyncio.create_subprocess_exec(
                *("openssl", "s_client", "-quiet", "-verify_return_error", version),
                *("-connect", str(site.address), "-CAfile", str(authority.ca)),
                *("-cert", mine.cert, "-key", mine.key),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert process.stdin
            assert process.stdout
            process.stdin.write(options(via="TLS 127.0.0.1:9"))
            assert (await read_message(process.stdout)).startswith(b"SIP/2.0 200")
            process.kill()
            await process.wait()

    run()


@contextlib.asynccontextmanager
async def openssl_server(
    authority: Authority, theirs: TlsFiles
) -> AsyncIterator[tuple[Address, asyncio.StreamReader]]:
    """It demands our certificate, and prints the requests it is sent."""
    there = Address("127.0.0.1", next(ports))
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_server", "-accept", str(there)),
        *("-cert", theirs.cert, "-key", theirs.key, "-CAfile", str(authority.ca)),
        *("-Verify", "1", "-verify_return_error"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    await asyncio.wait_for(process.stdout.readuntil(b"ACCEPT\n"), 5)
    try:
        yield there, process.stdout
    finally:
        process.kill()
        await process.wait()


CORE = "core.example"


@pytest.mark.parametrize(
    ("names", "domain", "accepted"),
    [
        (("sip:core.example",), CORE, True),
        (("SIP:CORE.example:5061;transport=tls",), CORE, True),  # the host part
        (("sip:other.example", "sip:core.example"), CORE, True),
        (("core.example",), CORE, True),
        (("other.example", "Core.Example"), CORE, True),
        (
            ("sip:alice@core.example", "core.example"),
            CORE,
            True,
        ),  # a user is no domain, and no SIP domain is there
        (("sip:other.example", "core.example"), CORE, False),  # where one is, DNS names do not count
        (("sip:alice@core.example",), CORE, False),
        (("sips:core.example", "https://core.example"), CORE, False),
        (("*.example", "*", "*.core.example", "c*.example", "sip:*.example"), CORE, False),  # section 7.2
        ((".example", "example", "x.core.example", "core.example.org"), CORE, False),
        ((), CORE, False),  # the subject names it
        (("127.0.0.1",), CORE, False),
        (("127.0.0.1",), "", True),
        (("sip:core.example", "127.0.0.1"), "", True),
        (("sip:127.0.0.1",), "", True),
        (("127.0.0.2", "core.example"), "", False),
    ],
)
def test_openssl_as_a_server_is_asked_only_if_its_certificate_names_whom_we_want(
    authority: Authority, names: tuple[str, ...], domain: str, accepted: bool
) -> None:
    """RFC 5922 sections 7.1 to 7.3."""
    ours, theirs = authority.sign("ours", mutual=True), authority.sign(CORE, *names)

    @looped
    async def run() -> None:
        async with openssl_server(authority, theirs) as (there, said), secure(ours) as site:
            site.request(site.flow(there, Transport.TLS)._replace(domain=domain))
            if accepted:
                told = await asyncio.wait_for(said.readuntil(b"\r\n\r\n"), 5)
                assert b"OPTIONS sip:x@example SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:" in told
            else:
                await until(lambda: site.machine.failures)
                why = f"TLS: certificate refused: it does not name {domain or '127.0.0.1'}"
                assert site.machine.failures[0].detail == why
                await until(lambda: site.shell.connections == 0)

    run()


def test_what_was_sent_by_the_name_of_a_domain_fails_with_its_connection(authority: Authority) -> None:
    """In TLS 1.3 a server says only after the handshake that it does not take our certificate."""
    (Path(authority.ca).parent / "else").mkdir()
    files = authority.sign("core", "core.example", mutual=True)
    foreign = Authority(Path(authority.ca).parent / "else", "another").sign("foreign")
    ours = replace(files, cert=foreign.cert, key=foreign.key)

    @looped
    async def run() -> None:
        async with secure(ours) as one, secure(files) as two:
            one.request(one.flow(two.address, Transport.TLS)._replace(domain="core.example"))
            await until(lambda: one.machine.failures)
            assert one.machine.failures[0].detail.startswith("TLS: ")
            assert not two.machine.requests

    run()


def test_a_connection_is_not_used_by_another_name_before_it_is_ready(authority: Authority) -> None:
    files = authority.sign("core", "core.example", *LOOPBACK, mutual=True)

    @looped
    async def run() -> None:
        async with secure(files) as one, secure(files) as two:
            flow = one.flow(two.address, Transport.TLS)
            one.request(flow._replace(domain="core.example"))
            while one.shell.connections < 2:  # an opening, and then its connection within the handshake
                await asyncio.sleep(0)
            one.request(flow)
            await until(lambda: len(one.machine.responses) == 2)
            assert not one.machine.failures

    run()
