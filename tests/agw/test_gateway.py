"""Commands to replies on a Plane that only remembers."""

import random
from collections import Counter

import pytest
from aioice import stun
from msgspec.structs import replace

from agw.config import GatewayConfig, Limits, Realm
from agw.flows import LegId, OpenError
from agw.gateway import MAX_OPEN_ATTEMPTS, Gateway
from agw.ice import CONSENT
from agw.iq.messages import (
    MAX_COMMANDS,
    MAX_STREAMS,
    MAX_TERMINATIONS,
    Address,
    Audited,
    AuditValue,
    ChangeThroughConnection,
    ConfigureConnectionPoint,
    Done,
    Dtls,
    ErrorCode,
    ErrorReply,
    Event,
    Ice,
    Key,
    Mode,
    Notice,
    Released,
    ReleaseTermination,
    Reply,
    Request,
    ReserveAndConfigureConnectionPoint,
    ReserveConnectionPoint,
    Reserved,
    Stream,
    StreamStatistics,
    Suite,
    Transport,
)

KEY = Key(Suite.AES_CM_128_HMAC_SHA1_80, bytes(30))
REMOTE = Address("192.0.2.9", 5000)
RTP = Stream(1, Transport.RTP)
ACCESS = ReserveConnectionPoint("a", "access", (Stream(1, Transport.SRTP, local_key=KEY),))
CORE = ReserveConnectionPoint("b", "core", (RTP,))
CONFIG = GatewayConfig(
    realms=(
        Realm(name="access", addresses=("192.0.2.1", "2001:db8::1"), ports=(31000, 31039)),
        Realm(name="core", addresses=("198.51.100.1",), ports=(32000, 32019)),
    ),
    limits=Limits(contexts=4),
    grace=30.0,
)


class Memory:
    """A Plane of legs only. taken: ports that are somebody else's."""

    def __init__(self):
        self.events = lambda id, event, detail: None
        self.legs = {}
        self.taken = set()
        self.applied = Counter()
        self.sent = []

    def apply(self, difference):
        self.applied["apply"] += 1
        failed = tuple(
            leg.id
            for leg in difference.wanted
            if leg.local_rtp.port in self.taken and leg.id not in self.legs
        )
        if failed:
            raise OpenError(failed, "Address already in use")
        counts = {id: self.statistics(id) for id in difference.removed}
        for id in difference.removed:
            del self.legs[id]
        self.legs.update({leg.id: leg for leg in difference.wanted})
        for leg in self.legs.values():
            assert leg.peer is None or self.legs[leg.peer].peer == leg.id
        pairs = [leg.local_rtp for leg in self.legs.values()]
        assert len(set(pairs)) == len(pairs)
        return counts

    def send(self, id, channel, target, data):
        assert id in self.legs
        self.sent.append((id, channel, target, data))
        return True

    def hear(self, id):
        assert id in self.legs

    def statistics(self, id):
        assert id in self.legs
        return StreamStatistics(id.stream, 1, 2, 3, 4, {})

    def idle(self, id):
        return 7.0 if id.termination == "a" else 9.0

    def close(self):
        self.legs.clear()


class House:
    """A gateway, its Plane, a clock, and one controller's voice."""

    def __init__(self, config=CONFIG):
        self.plane = Memory()
        self.gateway = Gateway(config, self.plane, random.Random(1))
        self.now = 0.0
        self.id = 0

    def ask(self, *commands, context="c", owner="pcscf"):
        self.id += 1
        answer = self.gateway.execute(owner, Request(self.id, context, commands), self.now)
        assert answer.id == self.id
        return answer

    def do(self, *commands, **where):
        answer = self.ask(*commands, **where)
        assert isinstance(answer, Reply), answer
        assert len(answer.results) == len(commands)
        return answer.results

    def refused(self, *commands, **where):
        before = (dict(self.plane.legs), self.audit())
        answer = self.ask(*commands, **where)
        assert isinstance(answer, ErrorReply), answer
        assert (self.plane.legs, self.audit()) == before
        return answer.code, answer.command

    def audit(self):
        (audited,) = self.do(AuditValue(), context="")
        return audited

    def notices(self):
        return list(iter(self.gateway.next_notice, None))


@pytest.fixture
def house():
    return House()


def test_a_termination_has_one_certificate_as_long_as_it_is_there(house):
    secured = Stream(1, Transport.DTLS_SRTP, dtls=Dtls("1"))
    (first,) = house.do(ReserveConnectionPoint("a", "access", (secured,)))
    told = first.streams[0].fingerprint
    assert told.hash == "sha-256"
    again = (
        replace(secured, dtls=Dtls("2")),
        Stream(2, Transport.DTLS, dtls=Dtls("3")),
        Stream(3, Transport.RTP),
    )
    (second,) = house.do(ConfigureConnectionPoint("a", again))
    assert [stream.fingerprint for stream in second.streams] == [told, told, None]


def test_another_certificate_is_made_after_its_life_and_only_for_new_terminations(house):
    def reserve(name):
        secured = Stream(1, Transport.DTLS_SRTP, dtls=Dtls("1"))
        (result,) = house.do(ReserveConnectionPoint(name, "access", (secured,)))
        return result.streams[0].fingerprint

    first = reserve("a")
    house.now += 86399.0
    assert reserve("b") == first
    house.now += 1.0
    assert reserve("c") != first
    assert reserve("a") == first


ICE = Ice("ours", "our+password+of+22+characters", "them")


def check():
    attributes = {"USERNAME": "ours:them", "PRIORITY": 1, "ICE-CONTROLLING": 7, "USE-CANDIDATE": None}
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes=attributes)
    request.add_message_integrity(ICE.pwd.encode())
    return bytes(request)


def test_what_a_check_tells_becomes_the_legs_and_its_absence_is_told(house):
    leg = LegId("c", "a", 1)
    house.do(ReserveConnectionPoint("a", "access", (replace(RTP, ice=ICE),)), CORE)
    house.now = 10.0
    house.gateway.packet(leg, 0, REMOTE, check(), house.now)
    ((at, channel, target, _),) = house.plane.sent
    assert (at, channel, target) == (leg, 0, REMOTE)
    assert house.plane.legs[leg].remote == REMOTE
    applied = house.plane.applied["apply"]
    for _ in range(5):
        house.now += 5.0
        house.gateway.packet(leg, 0, REMOTE, check(), house.now)
    assert house.plane.applied["apply"] == applied  # nothing has changed
    assert house.gateway.timeout() == house.now + CONSENT
    house.gateway.expire(house.now + CONSENT)
    ((owner, notice),) = house.notices()
    assert (owner, notice.event, notice.termination) == ("pcscf", Event.CONSENT_LOST, "a")
    assert house.gateway.timeout() is None


def test_a_check_that_was_on_its_way_when_ice_ended_is_not_taken_for_a_datagram(house):
    both = {"remote": REMOTE, "mode": Mode.SENDRECV}
    house.do(
        ReserveConnectionPoint("a", "access", (replace(RTP, ice=ICE, **both),)),
        ReserveConnectionPoint("b", "core", (replace(RTP, **both),)),
    )
    house.do(ConfigureConnectionPoint("a", (replace(RTP, **both),)))
    house.gateway.packet(LegId("c", "a", 1), 0, REMOTE, check(), house.now)
    assert house.plane.sent == []


def test_nothing_is_kept_of_a_peer_when_its_leg_goes(house):
    for end in (
        lambda: house.do(ReleaseTermination("a")),
        lambda: house.do(ConfigureConnectionPoint("a", (RTP,))),
        lambda: house.gateway.event(LegId("c", "b", 1), Event.CONTEXT_LOST, "", house.now),
    ):
        house.do(ReserveConnectionPoint("a", "access", (replace(RTP, ice=ICE),)), CORE)
        house.gateway.packet(LegId("c", "a", 1), 0, REMOTE, check(), house.now)
        assert house.gateway.timeout() is not None
        end()
        assert house.gateway.timeout() is None
        assert (house.gateway._peers, house.gateway._learnt) == ({}, {})
        house.gateway.packet(LegId("c", "a", 1), 0, REMOTE, check(), house.now)  # it was on its way
        house.do(ReleaseTermination())
        assert house.gateway._legs == {}


def test_a_call_from_reserve_to_release(house):
    access, _ = house.do(ACCESS, CORE)
    assert isinstance(access, Reserved)
    assert access.streams[0].rtp.host == "192.0.2.1"
    assert access.streams[0].rtcp.port == access.streams[0].rtp.port + 1
    full = Stream(1, Transport.SRTP, REMOTE, local_key=KEY, remote_keys=(KEY,), mode=Mode.SENDRECV)
    again, done = house.do(
        ConfigureConnectionPoint("a", (full,)), ChangeThroughConnection("b", {1: Mode.SENDRECV})
    )
    assert (again, done) == (access, Done())
    leg = house.plane.legs[LegId("c", "a", 1)]
    assert (leg.remote, leg.remote_keys, leg.mode) == (REMOTE, (KEY,), Mode.SENDRECV)
    assert leg.peer == LegId("c", "b", 1)
    assert house.plane.legs[LegId("c", "b", 1)].mode is Mode.SENDRECV
    (released,) = house.do(ReleaseTermination())
    assert released == Released({name: (StreamStatistics(1, 1, 2, 3, 4, {}),) for name in ("a", "b")})
    assert house.plane.legs == {}
    assert house.audit() == Audited((), {"access": (0, 1, 39), "core": (0, 1, 9)})


def test_ip6_is_another_address_of_the_realm(house):
    (reserved,) = house.do(replace(ACCESS, ip6=True))
    assert reserved.streams[0].rtp.host == "2001:db8::1"
    assert house.refused(replace(CORE, ip6=True)) == (ErrorCode.UNSUPPORTED, 0)


def test_repeats_change_nothing(house):
    first = house.do(ACCESS, CORE)
    applied = house.plane.applied["apply"]
    assert house.do(ACCESS, CORE) == first
    configure = ConfigureConnectionPoint("b", (replace(RTP, remote=REMOTE, mode=Mode.SENDRECV),))
    whole = (ACCESS, CORE, configure)
    assert house.do(*whole) == house.do(*whole)
    assert house.plane.applied["apply"] == applied + 1
    house.do(ReleaseTermination("b"))
    assert house.do(ReleaseTermination("b"), ReleaseTermination("b")) == (Released({}), Released({}))
    house.do(ReleaseTermination())
    assert house.do(ReleaseTermination()) == (Released({}),)


def test_configure_adds_and_removes_streams_and_keeps_the_ports_of_those_that_stay(house):
    (one,) = house.do(CORE)
    (two,) = house.do(ConfigureConnectionPoint("b", (Stream(2, Transport.RTP),)))
    assert [stream.id for stream in two.streams] == [1, 2]
    assert two.streams[0] == one.streams[0]
    (three,) = house.do(ConfigureConnectionPoint("b", (), remove=(1, 99)))
    assert ([count.id for count in three.removed], two.removed) == ([1], ())
    assert three.streams == two.streams[1:]
    assert house.audit().ports["core"] == (1, 1, 8)


def test_of_three_terminations_the_active_two_are_joined_p26(house):
    active = replace(RTP, remote=REMOTE, mode=Mode.SENDRECV)
    late = [
        ReserveAndConfigureConnectionPoint(name, "core", (replace(active, mode=mode),))
        for name, mode in (("b1", Mode.INACTIVE), ("b2", Mode.SENDRECV))
    ]
    house.do(ReserveConnectionPoint("a", "access", (replace(RTP, mode=Mode.SENDRECV),)), *late)
    peers = {id.termination: leg.peer and leg.peer.termination for id, leg in house.plane.legs.items()}
    assert peers == {"a": "b2", "b1": None, "b2": "a"}
    house.do(ReleaseTermination("b2"))
    peers = {id.termination: leg.peer and leg.peer.termination for id, leg in house.plane.legs.items()}
    assert peers == {"a": "b1", "b1": "a"}


REFUSALS = [
    (ErrorCode.UNKNOWN_CONTEXT, 0, "x", [ConfigureConnectionPoint("a", ())]),
    (ErrorCode.UNKNOWN_CONTEXT, 0, "x", [ChangeThroughConnection("a", {})]),
    (ErrorCode.UNKNOWN_TERMINATION, 0, "c", [ConfigureConnectionPoint("zz", ())]),
    (ErrorCode.UNKNOWN_TERMINATION, 1, "c", [ReserveConnectionPoint("n", "core", (RTP,)),
                                             ChangeThroughConnection("zz", {})]),
    (ErrorCode.UNKNOWN_REALM, 0, "c", [ReserveConnectionPoint("n", "moon", (RTP,))]),
    (ErrorCode.INVALID, 0, "", [CORE]),
    (ErrorCode.INVALID, 0, "a\nb", [CORE]),
    (ErrorCode.INVALID, 0, "c", [ReserveConnectionPoint("", "core", (RTP,))]),
    (ErrorCode.INVALID, 0, "c", [ReserveConnectionPoint("n", "core", ())]),
    (ErrorCode.INVALID, 0, "c", [ReserveAndConfigureConnectionPoint("n", "core", (RTP,))]),
    (ErrorCode.INVALID, 0, "c", [ReserveConnectionPoint("b", "access", (RTP,))]),
    (ErrorCode.INVALID, 0, "c", [ConfigureConnectionPoint("b", (), remove=(1,))]),
    (ErrorCode.INVALID, 0, "c", [ConfigureConnectionPoint("b", (RTP,), remove=(1,))]),
    (ErrorCode.INVALID, 1, "c", [ReleaseTermination("b"), CORE]),
    (ErrorCode.INVALID, 0, "c", [ChangeThroughConnection("b", {9: Mode.SENDRECV})]),
    (ErrorCode.INVALID, 0, "c", [ChangeThroughConnection("a", {1: Mode.SENDRECV})]),
    (ErrorCode.INVALID, 0, "c", [CORE] * (MAX_COMMANDS + 1)),
    (ErrorCode.UNSUPPORTED, 1, "c", [
        ReserveConnectionPoint("a", "access", (replace(RTP, mode=Mode.RECVONLY),)),
        ConfigureConnectionPoint("b", (Stream(1, Transport.UDP, mode=Mode.SENDONLY),))]),
    (ErrorCode.OVERLOAD, 0, "c", [ReserveConnectionPoint(
        "n", "core", tuple(Stream(n, Transport.RTP) for n in range(MAX_STREAMS + 1)))]),
    (ErrorCode.OVERLOAD, MAX_COMMANDS - 1, "d", None),
    (ErrorCode.NO_PORTS, 0, "d", [ReserveConnectionPoint(
        "n", "core", tuple(Stream(n, Transport.RTP) for n in range(11)))]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "index", "context", "commands"), REFUSALS)
def test_a_refused_request_had_no_effect_at_all(house, code, index, context, commands):
    house.do(ACCESS, CORE)
    if commands is None:  # one termination more than there may be, over two requests
        some = [ReserveConnectionPoint(f"t{n}", "access", (RTP,)) for n in range(MAX_TERMINATIONS)]
        house.do(*some, context=context)
        commands = [AuditValue()] * (MAX_COMMANDS - 1) + [ReserveConnectionPoint("more", "access", (RTP,))]
    assert house.refused(*commands, context=context) == (code, index)


def test_contexts_have_a_limit(house):
    for n in range(4):
        house.do(CORE, context=str(n))
    assert house.refused(CORE, context="5") == (ErrorCode.OVERLOAD, 0)
    house.do(ReleaseTermination(), context="0")
    house.do(CORE, context="5")


def test_a_port_of_somebody_else_is_passed_by(house):
    house.plane.taken = set(range(32000, 32018))
    for _ in range(20):
        answer = house.ask(CORE)
        if isinstance(answer, Reply):
            break
        assert answer.code is ErrorCode.NO_PORTS
        house.now += 0.1
    assert answer.results[0].streams[0].rtp.port == 32018
    used, resting, free = house.audit().ports["core"]
    assert (used, used + resting + free) == (1, 10)


def test_a_plane_that_opens_nothing_is_given_up(house):
    house.plane.taken = set(range(31000, 33000))
    assert house.ask(ACCESS, CORE).code is ErrorCode.NO_PORTS
    assert house.plane.applied["apply"] == MAX_OPEN_ATTEMPTS
    house.now = 5.0
    assert house.audit() == Audited((), {"access": (0, 0, 40), "core": (0, 0, 10)})


def test_a_plane_that_breaks_leaves_no_port_behind(house):
    def broken(difference):
        raise RuntimeError("a bug")

    house.plane.apply = broken
    with pytest.raises(RuntimeError):
        house.ask(ACCESS, CORE)
    del house.plane.apply
    assert house.audit() == Audited((), {"access": (0, 0, 40), "core": (0, 0, 10)})


def test_a_context_of_another_controller_is_not_there_but_for_audit(house):
    house.do(ACCESS, CORE)
    before = dict(house.plane.legs)
    assert house.refused(CORE, owner="other") == (ErrorCode.INVALID, 0)
    assert house.refused(ChangeThroughConnection("b", {}), owner="other") == (ErrorCode.UNKNOWN_CONTEXT, 0)
    assert house.do(ReleaseTermination(), owner="other") == (Released({}),)
    assert house.plane.legs == before
    (audited,) = house.do(AuditValue(), owner="other")
    (context,) = audited.contexts
    assert (context.context, context.owner, context.idle) == ("c", "pcscf", 7.0)
    assert list(context.terminations) == ["a", "b"]
    assert house.do(AuditValue(), context="nowhere")[0].contexts == ()


def test_contexts_of_a_vanished_controller_stay_for_the_grace_time_only_p43(house):
    house.do(ACCESS, CORE)
    house.do(CORE, context="d", owner="other")
    house.gateway.gone("pcscf", (), 100.0)
    assert house.gateway.timeout() == 130.0
    house.gateway.expire(129.9)
    assert len(house.plane.legs) == 3
    house.gateway.expire(130.0)
    assert set(house.plane.legs) == {LegId("d", "b", 1)}
    assert house.gateway.timeout() is None
    house.now = 130.0
    assert house.audit().ports["access"] == (0, 1, 39)


def test_a_controller_that_comes_back_keeps_what_it_claims_and_nothing_else_p43(house):
    for context in ("kept", "left"):
        house.do(CORE, context=context)
    house.do(CORE, context="foreign", owner="other")
    house.gateway.gone("pcscf", (), 100.0)
    house.gateway.greeted("pcscf", ("kept", "lost", "foreign", "lost"), 110.0)
    assert {id.context for id in house.plane.legs} == {"kept", "foreign"}
    assert house.notices() == [
        ("pcscf", Notice(name, Event.CONTEXT_LOST, detail="unknown here")) for name in ("lost", "foreign")
    ]
    house.gateway.expire(1000.0)
    assert {id.context for id in house.plane.legs} == {"kept", "foreign"}


def test_what_the_plane_tells_reaches_the_owner(house):
    house.do(ACCESS, CORE)
    leg = LegId("c", "a", 1)
    house.gateway.event(leg, Event.MEDIA_FIRST, "", 1.0)
    house.gateway.event(LegId("long gone", "a", 1), Event.MEDIA_FIRST, "", 1.0)
    assert house.notices() == [("pcscf", Notice("c", Event.MEDIA_FIRST, "a", 1))]


def test_what_happens_while_the_controller_is_away_is_told_when_it_is_back_p43(house):
    """Silence is told once: a call that fell silent in these seconds would never end."""
    for context in ("kept", "left"):
        house.do(ACCESS, CORE, context=context)
    house.gateway.gone("pcscf", (), 100.0)
    for detail in ("no media", "still none"):
        for context in ("kept", "left"):
            house.gateway.event(LegId(context, "a", 1), Event.MEDIA_INACTIVE, detail, 101.0)
    assert house.notices() == []
    house.gateway.greeted("pcscf", ("kept",), 110.0)
    assert house.notices() == [("pcscf", Notice("kept", Event.MEDIA_INACTIVE, "a", 1, "still none"))]
    house.gateway.greeted("pcscf", ("kept",), 111.0)
    house.gateway.gone("pcscf", (), 112.0)
    house.gateway.event(LegId("kept", "b", 1), Event.MEDIA_INACTIVE, "", 113.0)
    house.gateway.expire(142.0)
    house.gateway.greeted("pcscf", (), 150.0)
    assert house.notices() == []


def test_what_a_controller_may_not_have_read_is_told_again_if_it_still_stands(house):
    for context in ("kept", "left"):
        house.do(ACCESS, CORE, context=context)
    silent, lost = (Notice("kept", event, "a", 1) for event in (Event.MEDIA_INACTIVE, Event.CONSENT_LOST))
    unread = [silent, Notice("left", Event.MEDIA_FIRST, "a", 1), lost, Notice("kept", Event.CONTEXT_LOST)]
    house.gateway.gone("pcscf", unread, 100.0)
    house.gateway.event(LegId("kept", "a", 1), Event.MEDIA_INACTIVE, "again", 101.0)
    house.gateway.greeted("pcscf", ("kept",), 101.0)
    again = Notice("kept", Event.MEDIA_INACTIVE, "a", 1, "again")
    assert house.notices() == [("pcscf", again), ("pcscf", lost)]


def test_a_lost_leg_ends_its_context(house):
    house.do(ACCESS, CORE)
    house.gateway.event(LegId("c", "a", 1), Event.CONTEXT_LOST, "the socket broke", 1.0)
    assert house.notices() == [("pcscf", Notice("c", Event.CONTEXT_LOST, detail="the socket broke"))]
    assert house.plane.legs == {}
    assert house.ask(ChangeThroughConnection("a", {})).code is ErrorCode.UNKNOWN_CONTEXT


def test_a_thousand_random_requests_leave_model_plane_and_ports_in_agreement(house):
    rng = random.Random(11)
    outcomes = Counter()
    for _ in range(1000):
        house.now += rng.random()
        house.plane.taken = {rng.randrange(31000, 33000) for _ in range(300)}
        commands = [random_command(rng) for _ in range(rng.randrange(1, 5))]
        where = {"context": rng.choice("cde"), "owner": rng.choice(["pcscf", "pcscf", "other"])}
        before = dict(house.plane.legs)
        answer = house.ask(*commands, **where)
        outcomes[type(answer)] += 1
        if isinstance(answer, ErrorReply):
            assert house.plane.legs == before
        audited = house.audit()
        told = {
            (each.context, name, local.id): local.rtp
            for each in audited.contexts
            for name, locals in each.terminations.items()
            for local in locals
        }
        assert told == {tuple(leg.id): leg.local_rtp for leg in house.plane.legs.values()}
        assert sum(used for used, _, _ in audited.ports.values()) == len(told)
        assert [sum(each) for each in audited.ports.values()] == [40, 10]
    assert min(outcomes.values()) > 100


def random_command(rng):
    name = rng.choice(["t1", "t2", "t3"])
    streams = tuple(
        Stream(n, Transport.RTP, rng.choice([None, REMOTE]), mode=rng.choice(list(Mode)))
        for n in sorted(rng.sample(range(3), rng.randrange(1, 3)))
    )
    match rng.randrange(5):
        case 0 | 1:
            kind = rng.choice([ReserveConnectionPoint, ReserveAndConfigureConnectionPoint])
            return kind(name, "core" if name == "t1" else "access", streams)
        case 2:
            return ConfigureConnectionPoint(name, streams, remove=(rng.randrange(3),))
        case 3:
            return ChangeThroughConnection(name, {rng.randrange(3): rng.choice(list(Mode))})
        case _:
            return ReleaseTermination(rng.choice([None, name]))
