"""The gateway's process as a whole: Iq at one end, UDP at the other."""

import asyncio
import logging
import socket

import pytest

from agw.config import GatewayConfig, Iq, Realm
from agw.iq.messages import (
    Address,
    AuditValue,
    ErrorCode,
    ErrorReply,
    Event,
    Key,
    Mode,
    Notice,
    ReleaseTermination,
    ReserveAndConfigureConnectionPoint,
    ReserveConnectionPoint,
    Stream,
    Suite,
    Transport,
)
from agw.server import serve
from tests.agw.gateway_rig import PATIENCE, controlling, serving, udp

PACKET = bytes([0x80, 0, 0, 1, 0, 0, 0, 160, 1, 2, 3, 4]) + bytes(160)
SECRET = bytes(range(65, 95))


@pytest.fixture
def config(tmp_path):
    return GatewayConfig(
        iq=Iq(listen=f"unix:{tmp_path}/iq.sock"),
        realms=(
            Realm(name="access", addresses=("127.0.0.1", "::1"), ports=(31000, 31099), rest=0.0),
            Realm(name="core", addresses=("127.0.0.1", "::1"), ports=(32000, 32099), rest=0.0),
        ),
        grace=0.2,
    )


def reserve(name, realm, remote, **fields):
    stream = Stream(1, Transport.RTP, remote, mode=Mode.SENDRECV, **fields)
    return ReserveAndConfigureConnectionPoint(name, realm, (stream,), ip6=":" in remote.host)


@pytest.mark.parametrize(("access", "core"), [("127.0.0.1", "127.0.0.1"), ("::1", "127.0.0.1")])
def test_a_call_goes_through_and_is_counted(config, access, core):
    async def scenario():
        loop = asyncio.get_running_loop()
        alice, alice_address = udp(access)
        bob, bob_address = udp(core)
        async with serving(config), controlling(config) as ask:
            reply = await ask(
                "call-1", reserve("a", "access", alice_address), reserve("b", "core", bob_address)
            )
            a, b = (result.streams[0] for result in reply.results)
            alice.sendto(PACKET, (a.rtp.host, a.rtp.port))
            assert await asyncio.wait_for(loop.sock_recv(bob, 2048), PATIENCE) == PACKET
            assert await ask.notice() == Notice("call-1", Event.MEDIA_FIRST, "a", 1)
            bob.sendto(PACKET, (b.rtp.host, b.rtp.port))
            assert await asyncio.wait_for(loop.sock_recv(alice, 2048), PATIENCE) == PACKET
            audited = (await ask("", AuditValue())).results[0]
            assert audited.contexts[0].terminations == {"a": (a,), "b": (b,)}
            assert audited.ports == {"access": (1, 0, 99), "core": (1, 0, 99)}
            released = (await ask("call-1", ReleaseTermination())).results[0]
            for name in "ab":
                (counts,) = released.terminations[name]
                assert (counts.received, counts.sent, counts.dropped) == (1, 1, {})
            audited = (await ask("", AuditValue())).results[0]
            assert (audited.contexts, audited.ports["core"]) == ((), (0, 0, 100))
        alice.close()
        bob.close()

    asyncio.run(scenario())


def test_ports_of_other_programs_are_passed_by(config):
    held = []
    for port in range(32000, 32099, 2):
        if port != 32044:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.1", port + port // 2 % 2))  # the even or the odd one
            held.append(sock)

    async def scenario():
        _, remote = udp()
        async with serving(config), controlling(config) as ask:
            while isinstance(answer := await ask("c", reserve("b", "core", remote)), ErrorReply):
                assert answer.code is ErrorCode.NO_PORTS
            assert answer.results[0].streams[0].rtp.port == 32044

    asyncio.run(scenario())
    for sock in held:
        sock.close()


def test_a_vanished_controllers_contexts_are_dropped_after_the_grace_time_p43(config):
    async def scenario():
        _, remote = udp()
        async with serving(config), controlling(config, "other") as other:
            async with controlling(config) as ask:
                await ask("c", reserve("b", "core", remote))
            assert len((await other("", AuditValue())).results[0].contexts) == 1
            while (audited := (await other("", AuditValue())).results[0]).contexts:
                await asyncio.sleep(0.02)
            assert audited.ports["core"] == (0, 0, 100)

    asyncio.run(scenario())


def test_a_restarted_gateway_says_which_claimed_contexts_are_lost_p43(config):
    async def scenario():
        async with serving(config), controlling(config, claims=("c1", "c2")) as ask:
            assert {(await ask.notice()).context for _ in range(2)} == {"c1", "c2"}

    asyncio.run(scenario())


def test_a_signal_ends_it_and_no_socket_file_is_left(config, tmp_path):
    async def scenario():
        async with serving(config), controlling(config) as ask:
            _, remote = udp()
            reply = await ask("c", reserve("b", "core", remote))
        port = reply.results[0].streams[0].rtp.port
        assert list(tmp_path.iterdir()) == []
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", port))  # nobody holds it any more
        sock.close()

    asyncio.run(scenario())


def test_it_does_not_start_where_somebody_listens(config, tmp_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/iq.sock")
        other.listen()
        with pytest.raises(OSError, match="somebody listens"):
            asyncio.run(serve(config))


def test_the_log_has_one_line_for_each_event_and_no_key_p18(config, caplog):
    caplog.set_level(logging.DEBUG, "agw")
    key = Key(Suite.AES_CM_128_HMAC_SHA1_80, SECRET)
    stream = Stream(1, Transport.SRTP, Address("127.0.0.1", 9), local_key=key, remote_keys=(key,))

    async def scenario():
        async with serving(config), controlling(config) as ask:
            await ask("c", ReserveConnectionPoint("a", "access", (stream,)))
            await ask("c\nd", ReserveConnectionPoint("a", "access", (stream,)))
            await ask("c", ReleaseTermination())

    asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records]
    said = [line.split()[0] for line in lines]
    assert said == ["plane", "listen", "up", "done", "refused", "done", "down", "end"]
    assert not any("\n" in line for line in lines)
    for form in (SECRET.decode(), SECRET.hex(), repr(SECRET)[2:-1]):
        assert form[:8] not in caplog.text
