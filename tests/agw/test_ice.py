"""ICE lite: aioice as the peer that checks, and checks that are wrong on purpose."""

import asyncio
import itertools
import random
import struct

import aioice
import aioice.ice
import pytest
from aioice import stun

from agw.ice import CONSENT, MAX_TRANSACTIONS, MAX_VERIFIED, Agent, Credentials

OURS = Credentials("ours", "our-password-of-22-chars", "them")
HERE, THERE = ("192.0.2.1", 1000), ("2001:db8::2", 2000)


def check(credentials=OURS, nominate=True, key=None, username=None, **more):
    """A check as a full agent sends it; its attributes in order, without those that are None."""
    attributes = {
        "USERNAME": username or f"{credentials.ufrag}:{credentials.remote_ufrag or 'them'}",
        "PRIORITY": 1,
        "ICE-CONTROLLING": 7,
        **({"USE-CANDIDATE": None} if nominate else {}),
        **more,
    }
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes=attributes)
    message.add_message_integrity((key or credentials.pwd).encode())
    return bytes(message)


def error_of(answer):
    message = stun.parse_message(answer)
    assert message.message_class == stun.Class.ERROR
    return message.attributes["ERROR-CODE"][0]


def unsigned(*attributes, fingerprint=True, kind=1):
    """A request of these raw (type, value)s."""
    body = b"".join(struct.pack("!HH", type_, len(v)) + v + bytes(-len(v) % 4) for type_, v in attributes)
    message = struct.pack("!HHI12s", kind, len(body), stun.COOKIE, bytes(12)) + body
    if fingerprint:
        message += struct.pack("!HHI", 0x8028, 4, stun.message_fingerprint(message))
        message = stun.set_body_length(message, len(message) - 20)
    return message


def signed(*attributes, key=OURS.pwd):
    """The same with MESSAGE-INTEGRITY."""
    message = unsigned(*attributes, fingerprint=False)
    integrity = stun.message_integrity(message, key.encode())
    return unsigned(*attributes, (0x0008, integrity))


USER = (0x0006, b"ours:them")


@pytest.fixture
def agent():
    return Agent(OURS)


@pytest.mark.parametrize("source", [HERE, THERE])
def test_a_check_is_answered_with_where_it_came_from(agent, source):
    answer = stun.parse_message(agent.receive(check(nominate=False), source, 0.0))
    assert answer.message_class == stun.Class.RESPONSE
    assert answer.attributes["XOR-MAPPED-ADDRESS"] == source
    assert answer.check_message_integrity(OURS.pwd.encode())
    assert "FINGERPRINT" in answer.attributes
    assert agent.verified(source)
    assert agent.selected is None


def test_the_latest_nomination_selects(agent):
    for source in (HERE, THERE, HERE):
        assert agent.receive(check(), source, 0.0)
        assert agent.selected == source
    agent.receive(check(nominate=False), THERE, 0.0)
    assert agent.selected == HERE


def test_a_check_that_is_repeated_from_elsewhere_is_answered_and_moves_nothing(agent):
    first, second = check(), check()
    for request, source in ((first, HERE), (second, THERE), (first, HERE), (first, ("192.0.2.9", 9))):
        answer = stun.parse_message(agent.receive(request, source, 0.0))
        assert answer.attributes["XOR-MAPPED-ADDRESS"] == source
    assert agent.selected == THERE
    assert not agent.verified(("192.0.2.9", 9))


def test_a_repeated_check_is_no_sign_of_life_and_as_many_are_known_as_come_in_some_minutes(agent):
    repeated = check()
    for second in range(0, 5 * MAX_TRANSACTIONS, 5):
        agent.receive(repeated if second == 0 else check(), HERE, float(second))
    at = agent.timeout()
    agent.receive(repeated, THERE, at - 1.0)
    assert (agent.selected, agent.timeout()) == (HERE, at)
    for _ in range(MAX_TRANSACTIONS):
        agent.receive(check(key="another password of it"), HERE, at)  # takes no place
    agent.receive(repeated, THERE, at)
    assert agent.selected == HERE


def test_a_check_may_come_before_the_ufrag_of_the_peer_is_known():
    agent = Agent(Credentials("ours", OURS.pwd))
    agent.receive(check(username="ours:whoever"), HERE, 0.0)
    assert agent.selected == HERE
    agent.signal(OURS)
    assert error_of(agent.receive(check(username="ours:whoever"), HERE, 0.0)) == 401
    assert agent.selected == HERE


@pytest.mark.parametrize(
    ("code", "request_"),
    [
        (400, unsigned()),
        (400, unsigned(USER)),
        (400, unsigned((0x0006, b"\xff\xfe"))),
        (400, unsigned((0x0024, b"1"), (0x0020, b"123"), (0x0009, b""))),
        (400, signed()),
        (401, check(key="another password of it")),
        (401, check(username="other:them")),
        (401, check(username="ours:other")),
        (401, check(username="ours")),
        (401, signed((0x0006, b""))),
        (401, check(username=":")),
        (401, unsigned(USER, (0x0008, b"short"))),
        (401, unsigned(USER, (0x0008, b""))),
        (420, signed(USER, (0x0025, b""), (0x7FFF, b"what"))),
        (420, signed(USER, (0x0002, b""), (0x0025, b""))),
        (487, check(**{"ICE-CONTROLLED": 1 << 63})),
        (487, check(**{"ICE-CONTROLLED": 0})),
    ],
    ids=itertools.count(),
)
def test_what_is_wrong_is_told_and_selects_nothing(agent, code, request_):
    answer = agent.receive(request_, HERE, 0.0)
    assert error_of(answer) == code
    assert stun.parse_message(answer).check_message_integrity(OURS.pwd.encode()) is (code in (420, 487))
    assert agent.selected is None
    assert not agent.verified(HERE)
    assert len(answer) <= len(request_) + 8


def test_what_is_not_understood_is_named(agent):
    answer = agent.receive(signed(USER, (0x7FFF, b"what"), (0x0033, b""), (0xFFFF, b"")), HERE, 0.0)
    assert struct.pack("!HH2H", 0x000A, 4, 0x7FFF, 0x0033) in answer


def test_optional_attributes_are_passed_over(agent):
    agent.receive(signed(USER, (0x0025, b""), (0xC057, b"\0\1\0\1"), (0x8022, b"a browser")), HERE, 0.0)
    assert agent.selected == HERE


def test_what_follows_the_integrity_is_not_believed(agent):
    whole = signed(USER, (0x0024, b"\0\0\0\1"))
    spliced = whole[:-8] + struct.pack("!HH", 0x0025, 0)
    spliced = stun.set_body_length(spliced, len(spliced) - 20)
    spliced += struct.pack("!HHI", 0x8028, 4, stun.message_fingerprint(spliced))
    spliced = stun.set_body_length(spliced, len(spliced) - 20)
    agent.receive(spliced, HERE, 0.0)
    assert agent.selected is None


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        bytes(19),
        bytes(20),
        unsigned(USER, fingerprint=False),  # no FINGERPRINT
        check()[:-1] + b"\0",
        check() + bytes(4),
        check()[:-4],
        unsigned(USER, kind=0x0011),  # an indication
        unsigned(USER, kind=0x0101),  # a response nobody asked for
        unsigned(USER, kind=0x0111),
        unsigned(USER, kind=0x0003),  # TURN
        unsigned(USER, kind=0x3FFF),
        unsigned(*[(0x8022, b"")] * 40),
        check()[:-8] + unsigned()[20:],  # the FINGERPRINT of something else
        check()[:2] + b"\xff\xff" + check()[4:],
        check()[:22] + b"\xff\xff" + check()[24:],
    ],
    ids=itertools.count(),
)
def test_what_is_no_check_gets_no_answer(agent, datagram):
    assert agent.receive(datagram, HERE, 0.0) is None
    assert agent.selected is None


def test_changed_checks_never_select_and_never_raise(agent):
    rng = random.Random(4)
    for _ in range(4000):
        whole = check()
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.getrandbits(8)
        if rng.random() < 0.5:  # one that has to be looked into
            data = data[:-8]
            data = stun.set_body_length(bytes(data), len(data) - 20)
            data += struct.pack("!HHI", 0x8028, 4, stun.message_fingerprint(data))
            data = stun.set_body_length(data, len(data) - 20)
        if data != whole:
            agent.receive(bytes(data), HERE, 0.0)
    assert agent.selected is None


def test_sources_are_remembered_within_bounds_and_the_selected_one_always(agent):
    agent.receive(check(), HERE, 0.0)
    for port in range(2000, 2000 + 3 * MAX_VERIFIED):
        agent.receive(check(nominate=False), ("192.0.2.9", port), 0.0)
    assert agent.verified(HERE)
    assert agent.verified(("192.0.2.9", 1999 + 3 * MAX_VERIFIED))
    assert not agent.verified(("192.0.2.9", 2000))
    assert len(agent._verified) == MAX_VERIFIED


def test_after_a_restart_both_generations_are_answered_until_the_new_one_is_used(agent):
    new = Credentials("anew", "another-password-of-22-c", "then")
    agent.receive(check(), HERE, 0.0)
    agent.signal(new)
    assert agent.selected == HERE
    answer = agent.receive(check(), HERE, 1.0)
    assert stun.parse_message(answer).check_message_integrity(OURS.pwd.encode())
    answer = agent.receive(check(new, nominate=False), THERE, 1.0)
    assert stun.parse_message(answer).check_message_integrity(new.pwd.encode())
    assert agent.selected == HERE
    agent.receive(check(new), THERE, 1.0)
    assert agent.selected == THERE
    assert error_of(agent.receive(check(), HERE, 1.0)) == 401
    assert not agent.verified(HERE)


def test_a_restart_that_another_overtakes_leaves_the_credentials_in_use(agent):
    agent.receive(check(), HERE, 0.0)
    first, second = (Credentials(name, "another-password-of-22-c", "then") for name in ("first", "second"))
    for credentials in (first, second, OURS, second):  # one of them was refused
        agent.signal(credentials)
        assert agent.receive(check(nominate=False), HERE, 1.0)[:2] == b"\x01\x01"
    agent.receive(check(second), THERE, 1.0)
    assert agent.selected == THERE
    for gone in (OURS, first):
        assert error_of(agent.receive(check(gone), HERE, 1.0)) == 401


def test_the_same_credentials_again_are_no_restart(agent):
    agent.receive(check(), HERE, 0.0)
    agent.signal(Credentials(OURS.ufrag, OURS.pwd, "them"))
    assert agent.verified(HERE)
    assert agent.receive(check(username="ours:them"), HERE, 0.0)


def test_consent_is_watched_once_there_is_a_pair_and_its_loss_is_told_once(agent):
    assert agent.timeout() is None
    agent.receive(check(), HERE, 100.0)
    assert agent.timeout() == 100.0 + CONSENT
    agent.receive(check(nominate=False), HERE, 110.0)
    assert not agent.expire(100.0 + CONSENT)
    agent.receive(check(nominate=False), THERE, 120.0)  # another pair is no consent for this one
    assert agent.timeout() == 110.0 + CONSENT
    assert agent.expire(110.0 + CONSENT)
    assert agent.timeout() is None
    assert not agent.expire(500.0)
    assert agent.selected == HERE
    agent.receive(check(nominate=False), HERE, 501.0)
    assert agent.timeout() == 501.0 + CONSENT


def test_no_password_is_shown_p18():
    assert OURS.pwd not in repr(OURS)


# -- aioice -----------------------------------------------------------------------------------------------


class Port(asyncio.DatagramProtocol):
    """The shell of one agent."""

    def __init__(self, agent):
        self.agent = agent
        self.data = asyncio.Queue()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, source):
        if data[0] > 3:
            self.data.put_nowait((data, source))
        elif answer := self.agent.receive(data, source, asyncio.get_running_loop().time()):
            self.transport.sendto(answer, source)


async def connect(port, credentials, controlling=True):
    peer = aioice.Connection(ice_controlling=controlling, local_username="them", local_password="p" * 24)
    await peer.gather_candidates()
    peer.remote_is_lite = True
    peer.remote_username, peer.remote_password = credentials.ufrag, credentials.pwd
    host, number = port.transport.get_extra_info("sockname")[:2]
    await peer.add_remote_candidate(aioice.Candidate("1", 1, "udp", 1, host, number, "host"))
    await peer.add_remote_candidate(None)
    await asyncio.wait_for(peer.connect(), 15)
    return peer


@pytest.mark.parametrize("controlling", [True, False])
def test_aioice_connects_and_is_heard_at_the_selected_address(monkeypatch, controlling):
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])

    async def run():
        loop = asyncio.get_running_loop()
        _, port = await loop.create_datagram_endpoint(lambda: Port(Agent(OURS)), ("127.0.0.1", 0))
        peer = await connect(port, OURS, controlling)
        await peer.send(b"\x80 media")
        data, source = await asyncio.wait_for(port.data.get(), 5)
        assert (data, source) == (b"\x80 media", port.agent.selected)
        port.transport.sendto(b"\x80 back", port.agent.selected)
        assert await asyncio.wait_for(peer.recv(), 5) == b"\x80 back"
        await peer.close()
        port.transport.close()

    asyncio.run(run())
