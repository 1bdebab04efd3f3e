"""Through the whole gateway, on both Planes: DTLS with OpenSSL, the media after it, and what goes wrong."""

import asyncio
import socket
import subprocess
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from agw.certificate import Certificate
from agw.dtls import Closed, Data, Established, Failed, State
from agw.iq.messages import (
    Address,
    ConfigureConnectionPoint,
    Dtls,
    Event,
    Fingerprint,
    Mode,
    ReleaseTermination,
    Transport,
)
from agw.srtp import SrtpError
from tests.agw.gateway_rig import PATIENCE
from tests.agw.secured_rig import CLIENT, RTCP, SERVER, Socket, config_of, rtp, scenario


@pytest.fixture(params=["python", "native"])
def config(request, tmp_path):
    return config_of(request.param, tmp_path)


# -- openssl ------------------------------------------------------------------------------------------------


class Tool:
    """s_client or s_server behind the socket of a UE: what it says leaves from there, and DTLS that comes
    there goes to it."""

    def __init__(self, near, where):
        self.near, self.where = near, where  # towards the tool, and where that is
        heard = near.datagram_received

        def hear(data, source):
            self.where = source
            heard(data, source)

        near.datagram_received = hear

    async def speak(self, ue, there):
        while True:
            ue.send(await self.near.heard.get(), there)

    def receive(self, data, source, now):
        self.near.transport.sendto(data, self.where)

    to_send = staticmethod(list)
    timeout = next_event = staticmethod(lambda: None)


@asynccontextmanager
async def openssl(tool, pem, *options):
    """The process, and the Tool."""
    near = await Socket.open()
    port = near.address.port
    where = ["-connect", f"127.0.0.1:{port}"]
    if tool == "s_server":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        where = ["-accept", f"127.0.0.1:{port}", "-4", "-Verify", "1", "-naccept", "1"]
    process = await asyncio.create_subprocess_exec(
        *("openssl", tool, *where, "-dtls1_2", "-cert", pem, "-key", pem, *options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        if tool == "s_server":
            await bound(port)
        yield process, Tool(near, ("127.0.0.1", port))
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def bound(port):
    async with asyncio.timeout(PATIENCE):
        while f":{port:04X} " not in Path("/proc/net/udp").read_text():
            await asyncio.sleep(0.01)


async def line_of(process, text):
    async with asyncio.timeout(PATIENCE):
        while line := await process.stdout.readline():
            if text in line:
                return line.decode()
    raise AssertionError(f"it does not say {text}")


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    file = tmp_path_factory.mktemp("pem") / "ue.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ue"]
    subprocess.run([*request, "-keyout", file, "-out", f"{file}.crt"], check=True, capture_output=True)
    with file.open("ab") as whole:
        whole.write(Path(f"{file}.crt").read_bytes())
    shown = f"openssl x509 -in {file}.crt -noout -fingerprint -sha256".split()
    out = subprocess.run(shown, check=True, capture_output=True, text=True).stdout
    return str(file), Fingerprint("sha-256", bytes.fromhex(out.split("=")[1].strip().replace(":", "")))


TOOLS = pytest.mark.parametrize(("name", "role"), [("s_client", SERVER), ("s_server", CLIENT)])


@TOOLS
def test_openssl_shakes_hands_and_media_flow_under_the_keys_it_exports(config, pem, name, role):
    file, fingerprint = pem

    async def play(call):
        srtp = ("-use_srtp", "SRTP_AES128_CM_SHA1_80")
        exporting = ("-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", "60")
        async with openssl(name, file, *srtp, *exporting) as (process, tool):
            call.ue.association = tool
            stream = call.stream(role=role)
            await call.begin(replace(stream, dtls=Dtls("1", role, (fingerprint,))))
            speaking = asyncio.create_task(tool.speak(call.ue, call.a.rtp))
            keys = bytes.fromhex((await line_of(process, b"Keying material:")).split(":")[1].strip())
            await call.told(Event.DTLS_ESTABLISHED, "SRTP_AES128_CM_SHA1_80")
            client, server = keys[:16] + keys[32:46], keys[16:32] + keys[46:60]
            local, remote = (client, server) if name == "s_client" else (server, client)
            call.key_by(Established("", "", "SRTP_AES128_CM_SHA1_80", local, remote))
            await call.media_flow()
            speaking.cancel()

    scenario(play)(config)


UDPTL = [  # sequence number, IFP packet, redundant ones (ITU-T T.38 clause 9.1); of these no byte is text
    bytes.fromhex("0000 01 02 00 00"),
    bytes.fromhex("0001 06 c0 01 80 00 00 ff 00 01 01 02"),
    bytes.fromhex("0002") + bytes(range(256)) * 3,
]


@TOOLS
def test_datagrams_of_a_fax_pass_both_ways_through_openssl(config, pem, name, role):
    file, fingerprint = pem

    async def play(call):
        async with openssl(name, file, "-quiet") as (process, tool):
            call.ue.association = tool
            fax = call.stream(role=role, transport=Transport.DTLS)
            await call.begin(replace(fax, dtls=Dtls("1", role, (fingerprint,))), Transport.UDP)
            speaking = asyncio.create_task(tool.speak(call.ue, call.a.rtp))
            await call.told(Event.DTLS_ESTABLISHED, "RTP: DTLSv1.2")
            for datagram in UDPTL:
                process.stdin.write(datagram)
                assert await call.core.hear() == datagram
                call.core.send(datagram[::-1], call.b.rtp)
                async with asyncio.timeout(PATIENCE):
                    assert await process.stdout.readexactly(len(datagram)) == datagram[::-1]
            speaking.cancel()

    scenario(play)(config)


@TOOLS
def test_nothing_of_a_fax_passes_where_the_certificate_of_openssl_is_not_the_signalled_one_p09(
    config, pem, name, role
):
    async def play(call):
        async with openssl(name, pem[0], "-quiet") as (process, tool):
            call.ue.association = tool
            fax = call.stream(role=role, transport=Transport.DTLS)  # with the fingerprint of another
            await call.begin(fax, Transport.UDP)
            speaking = asyncio.create_task(tool.speak(call.ue, call.a.rtp))
            await call.told(Event.DTLS_FAILED, "fingerprint")
            process.stdin.write(UDPTL[0])
            call.core.send(UDPTL[0], call.b.rtp)
            async with asyncio.timeout(PATIENCE):
                assert await process.stdout.read() == b""  # until it gives up
            assert call.core.heard.empty()
            speaking.cancel()

    scenario(play)(config)


# -- ours on the other side ------------------------------------------------------------------------------


@scenario
async def test_media_flow_both_ways_once_the_keys_are_agreed(call):
    await call.begin(call.stream())
    call.core.send(rtp(1), call.b.rtp)  # before: there is no key to protect it with
    await call.establish()
    await call.media_flow()
    released = (await call.ask("c", ReleaseTermination())).results[0]
    (a,), (b,) = released.terminations["a"], released.terminations["b"]
    assert (a.received, b.received, a.slow_path) == (4, 4, 3)
    assert b.dropped == {"no_key": 1}


@scenario
async def test_the_gateway_is_client_as_soon_as_it_knows_where_the_peer_is(call):
    await call.begin(call.stream(role=CLIENT, remote=None))
    call.associate(client=False)
    await call.configure(call.stream(role=CLIENT))
    call.key_by(await call.ue.until(Established))
    await call.told(Event.DTLS_ESTABLISHED)
    await call.media_flow()


@scenario
async def test_a_command_that_is_repeated_changes_nothing_p03(call):
    await call.begin(call.stream())
    await call.establish()
    await call.media_flow()
    for _ in range(3):
        await call.configure(call.stream())
        await call.configure(call.stream(mode=Mode.SENDONLY))
    await call.configure(call.stream())
    await call.media_flow(first=10)


@scenario
async def test_a_hello_before_the_role_is_known_is_kept_and_heard_later_p06(call):
    await call.begin(call.stream(role=None))
    association = call.associate()
    call.ue.timer.cancel()  # what it has said it does not repeat
    await asyncio.sleep(0.2)
    assert association.state is State.HANDSHAKE
    assert call.ue.heard.empty()
    await call.configure(call.stream())
    call.key_by(await call.ue.until(Established))
    await call.told(Event.DTLS_ESTABLISHED)
    await call.media_flow()


@scenario
async def test_another_association_takes_over_when_its_handshake_is_done_and_not_before_p02(call):
    await call.begin(call.stream())
    await call.establish()
    await call.media_flow()
    await call.configure(call.stream("2"))
    await call.media_flow(first=10)
    old = call.protector
    await call.establish()
    await call.media_flow(first=20)
    call.ue.send(old.protect(rtp(30), False), call.a.rtp)
    await call.media_flow(first=40)
    assert (await call.dropped("a"))["auth_failed"] == 1


@scenario
async def test_another_association_with_another_certificate_from_another_port_p02(call):
    await call.begin(call.stream())
    await call.establish()
    await call.media_flow()
    other, call.ue = call.ue, await Socket.open()
    new = Certificate()
    await call.configure(call.stream("2", certificate=new))
    call.ue, fresh = other, call.ue
    await call.configure(call.stream("2", certificate=new))
    await call.media_flow(first=10)
    call.ue = fresh
    await call.configure(call.stream("2", certificate=new))
    await call.establish(certificate=new)
    await call.media_flow(first=20)


@scenario
async def test_a_restart_that_fails_leaves_the_old_association_as_it_was_p02(call):
    await call.begin(call.stream())
    await call.establish()
    await call.media_flow()
    standing = call.ue.association
    await call.configure(call.stream("2", certificate=Certificate()))
    call.associate()
    assert "alert" in (await call.ue.until(Failed)).reason
    await call.told(Event.DTLS_KEPT, "fingerprint")
    await call.media_flow(first=10)
    await call.configure(call.stream("1"))
    call.ue.association = standing
    await call.media_flow(first=20)


@scenario
async def test_the_role_of_an_association_does_not_change_p01(call):
    await call.begin(call.stream())
    for stream in (call.stream(role=CLIENT), call.stream(role=None), call.stream(certificate=Certificate())):
        refused = await call.ask("c", ConfigureConnectionPoint("a", (stream,)))
        assert "another association" in refused.text
    await call.establish()


@scenario
async def test_an_unannounced_hello_gets_nothing_and_disturbs_nothing_p07(call):
    await call.begin(call.stream())
    await call.establish()
    stranger = await Socket.open()
    for port in (stranger, call.ue):
        kept = port.association
        association = call.associate(port=port)
        await asyncio.sleep(0.1)
        assert (association.state, port.said) == (State.HANDSHAKE, [])
        port.timer.cancel()
        port.association = kept
    await call.media_flow()


@pytest.mark.parametrize("client", [True, False])
def test_a_wrong_certificate_means_no_media_and_a_notice_p09(config, client):
    async def play(call):
        await call.begin(
            call.stream(role=SERVER if client else CLIENT, remote=call.ue.address if client else None)
        )
        call.associate(client, Certificate())
        if not client:
            await call.configure(call.stream(role=CLIENT))
        await call.told(Event.DTLS_FAILED, "fingerprint")
        assert "alert" in (await call.ue.until(Failed)).reason
        call.core.send(rtp(1), call.b.rtp)
        call.ue.send(rtp(1), call.a.rtp)
        await asyncio.sleep(0.1)
        assert call.ue.heard.empty()
        assert call.core.heard.empty()

    scenario(play)(config)


@scenario
async def test_a_stranger_who_is_quicker_makes_way_for_the_host_that_is_signalled(call):
    """Without ICE whoever finds the port may begin a handshake: a wrong one, or one without an end."""
    await call.begin(call.stream(remote=Address("127.0.0.1", call.ue.address.port)))
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.2", 0))
    _, stranger = await asyncio.get_running_loop().create_datagram_endpoint(Socket, sock=sock)
    call.associate(certificate=Certificate(), port=stranger)
    assert "alert" in (await stranger.until(Failed)).reason
    stranger.datagram_received = lambda data, source: (
        data[13] == 3 and answer(data, source)
    )  # never beyond it
    answer = Socket.datagram_received.__get__(stranger)
    stalling = call.associate(certificate=Certificate(), port=stranger)
    await asyncio.sleep(0.1)
    assert stalling.state is State.HANDSHAKE
    await call.establish()
    await call.media_flow()


@scenario
async def test_a_flood_of_hellos_does_not_keep_the_peer_out(call):
    await call.begin(call.stream())
    stranger = await Socket.open()
    association = call.associate(port=stranger)
    (hello,) = association._flight

    async def flood():
        while True:
            for _ in range(20):
                stranger.send(hello, call.a.rtp)
            await asyncio.sleep(0.001)

    stranger.association = None
    flooding = asyncio.create_task(flood())
    await asyncio.sleep(0.1)
    await call.establish()
    await call.media_flow()
    flooding.cancel()
    assert set(await call.dropped("a")) <= {"slow_path_full"}


@scenario
async def test_garbage_of_every_kind_changes_nothing(call):
    await call.begin(call.stream())
    for first in range(256):
        call.ue.send(bytes([first]) * 40, call.a.rtp)
        call.ue.send(bytes([first]), call.a.rtp)
        if first % 8 == 7:
            await asyncio.sleep(0.002)
    await call.establish()
    for first in range(256):
        call.ue.send(bytes([first]) * 40, call.a.rtp)
        if first % 8 == 7:
            await asyncio.sleep(0.002)
    await call.media_flow()


@scenario
async def test_a_peer_that_closes_ends_its_media(call):
    await call.begin(call.stream())
    await call.establish()
    await call.media_flow()
    call.ue.association.close()
    call.ue.flush()
    call.ue.association = None
    assert (await call.ue.hear())[0] == 21  # it says so, too
    for n in range(50, 60):
        call.ue.send(call.protector.protect(rtp(n), False), call.a.rtp)
        call.core.send(rtp(n), call.b.rtp)
    await asyncio.sleep(0.1)
    assert call.core.heard.empty()
    assert call.ue.heard.empty()


@scenario
async def test_a_peer_hears_of_the_end_on_both_ports(call):
    rtcp = await Socket.open()
    await call.begin(call.stream(rtcp_mux=False, remote_rtcp=rtcp.address))
    call.associate()
    call.associate(port=rtcp, there=call.a.rtcp)
    for port in (call.ue, rtcp):
        await port.until(Established)
    await call.ask("c", ReleaseTermination())
    for port in (call.ue, rtcp):
        await port.until(Closed)


@scenario
async def test_a_peer_that_moves_keeps_its_association_and_keys_p05(call):
    await call.begin(call.stream())
    await call.establish()
    await call.media_flow()
    call.ue = await Socket.open()
    await call.configure(call.stream())
    await call.media_flow(first=10)
    assert call.ue.association is None


# -- two ports -------------------------------------------------------------------------------------------


@scenario
async def test_without_mux_rtcp_has_an_association_and_keys_of_its_own(call):
    rtcp = await Socket.open()
    await call.begin(call.stream(rtcp_mux=False, remote_rtcp=rtcp.address))
    call.associate()
    call.key_by(await call.ue.until(Established))
    await call.told(Event.DTLS_ESTABLISHED, "RTP:")
    media, unmedia = call.protector, call.unprotector
    call.core_rtcp.send(RTCP, call.b.rtcp)  # no key for it yet
    call.associate(port=rtcp, there=call.a.rtcp)
    call.key_by(await rtcp.until(Established))
    await call.told(Event.DTLS_ESTABLISHED, "RTCP:")
    rtcp.send([media.protect(RTCP, True) for _ in range(5)][-1], call.a.rtcp)
    rtcp.send(call.protector.protect(RTCP, True), call.a.rtcp)
    assert await call.core_rtcp.hear() == RTCP
    call.core_rtcp.send(RTCP, call.b.rtcp)
    packet = await rtcp.hear()
    with pytest.raises(SrtpError):
        unmedia.unprotect(packet, True)
    assert call.unprotector.unprotect(packet, True) == RTCP
    call.ue.send(media.protect(rtp(1), False), call.a.rtp)
    assert await call.core.hear() == rtp(1)
    released = (await call.ask("c", ReleaseTermination())).results[0]
    assert released.terminations["a"][0].dropped == {"auth_failed": 1}
    assert released.terminations["b"][0].dropped == {"no_key": 1}


# -- UDPTL --------------------------------------------------------------------------------------------------


@scenario
async def test_datagrams_of_a_fax_pass_in_records_and_obey_the_modes_p33(call):
    fax = {"transport": Transport.DTLS, "rtcp_mux": False}
    await call.begin(call.stream(**fax), Transport.UDP)
    call.core.send(b"too early", call.b.rtp)
    call.associate(srtp=False)
    await call.ue.until(Established)
    await call.told(Event.DTLS_ESTABLISHED, "RTP: DTLSv1.2")
    for n in (0, 1, 300):
        datagram = n.to_bytes(2, "big") + bytes(n)
        assert call.ue.association.send(datagram)
        call.ue.flush()
        assert await call.core.hear() == datagram
        call.core.send(datagram, call.b.rtp)
        assert (await call.ue.until(Data)).data == datagram
        call.ue.said.clear()
    await call.configure(call.stream(**fax, mode=Mode.SENDONLY))
    call.ue.association.send(b"gated")
    call.ue.flush()
    call.core.send(b"passes", call.b.rtp)
    assert (await call.ue.until(Data)).data == b"passes"
    assert call.core.heard.empty()


@scenario
async def test_only_what_a_record_held_is_media_of_a_fax(call):
    """Else anybody could keep a dead call alive."""
    fax = {"transport": Transport.DTLS, "inactivity": 0.2}
    await call.begin(call.stream(**fax), Transport.UDP)
    call.associate(srtp=False)
    await call.ue.until(Established)
    stranger = await Socket.open()

    async def pretend():
        while True:
            for port in (call.ue, stranger):
                port.send(b"\x17\xfe\xfd\0\1" + bytes(6) + b"\0\x20" + bytes(32), call.a.rtp)
            await asyncio.sleep(0.01)

    async def until_silent():
        events = []
        while Event.MEDIA_INACTIVE not in events:
            events.append((await call.ask.notice()).event)
        return events

    pretending = asyncio.create_task(pretend())
    assert Event.MEDIA_FIRST not in await until_silent()
    assert call.ue.association.send(b"fax")
    call.ue.flush()
    assert Event.MEDIA_FIRST in await until_silent()
    assert await call.core.hear() == b"fax"
    pretending.cancel()


@scenario
async def test_a_fax_machine_behind_a_nat_is_followed_when_its_data_are_authentic(call):
    fax = {"transport": Transport.DTLS, "rtcp_mux": False, "latch": True}
    await call.begin(call.stream(**fax), Transport.UDP)
    call.associate(srtp=False)
    await call.ue.until(Established)
    moved = await Socket.open()
    call.ue.association.send(b"from elsewhere")
    moved.association, moved.there, call.ue.association = call.ue.association, call.a.rtp, None
    moved.flush()
    assert await call.core.hear() == b"from elsewhere"
    call.core.send(b"to elsewhere", call.b.rtp)
    assert (await moved.until(Data)).data == b"to elsewhere"
