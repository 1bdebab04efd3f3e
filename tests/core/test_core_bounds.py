"""What one peer may send and hold, and what is refused when there is no more room."""

import pytest
from msgspec.structs import replace

from agw.config import GatewayConfig as AgwConfig
from agw.config import Realm
from imsalg.config import AccessConfig, CoreConfig, LimitsConfig, SourcesConfig
from imsalg.gatelink import FULL
from imsalg.intake import Standing
from imsalg.networks import Networks
from imsalg.sip.dialog import MAX_ROUTES
from imsalg.sip.glance import Kind
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.values import Address
from imsalg.sources import MUCH
from tests.sim.peer import Peer
from tests.sim.sdp import crypto, media, protected, session
from tests.sim.world import ACCESS, BASE, CORE, NETWORK

OFFER = protected("192.0.2.10")


def flow(host, port=5060, local=ACCESS):
    return Flow(Transport.UDP, local, Address(host, port))


def standings(world, flow, count, kind=Kind.OTHER):
    return [world.core.standing(flow, kind, world.now) for _ in range(count)]


@pytest.fixture
def few(worlds):
    """Ten messages at once, one a second."""
    return worlds(sources=SourcesConfig(rate=1, burst=10, penalty=30))


def test_a_stranger_over_its_rate_is_refused_then_ignored_then_heard_again(few):
    assert standings(few, flow("203.0.113.1"), 25) == [
        *[Standing.STRANGER] * 10,
        *[Standing.REFUSED] * 10,
        *[Standing.IGNORED] * 5,
    ]
    few.settle()
    few.advance(32)
    assert [note.text for note in few.notes] == ["203.0.113.1:5060 sends too much and is not heard for 30 s"]
    assert standings(few, flow("203.0.113.1"), 1) == [Standing.STRANGER]


def test_ports_do_not_make_a_stranger_another_one(few):
    assert [standings(few, flow("203.0.113.1", port), 1)[0] for port in range(1, 12)].count(
        Standing.STRANGER
    ) == 10


def test_no_route_set_is_longer_than_any_way_can_be(world):
    """Ten thousand in each early dialog of a call were megabytes."""
    alice = world.register(world.ue(10), "alice")
    many = ("Record-Route", ",".join([f"<sip:{NETWORK};lr>"] * 500))
    world.network.call(alice, many, sdp=session("203.0.113.5"))
    there = alice.expect("INVITE")
    there.headers.prepend(*many)
    alice.reply(there, 200, sdp=session("192.0.2.10", media(4000, "RTP/SAVP", crypto())))
    world.network.expect(200)
    world.core.shutdown(world.now)
    world.settle()
    for end in (alice, world.network):
        assert len(end.expect("BYE").headers.values("Route")) == MAX_ROUTES


def test_ues_behind_one_nat_do_not_answer_for_each_other_or_for_strangers(few):
    good = few.register(few.ue(10, port=4001), "alice")
    bad = few.register(few.ue(10, port=4002), "mallory")
    assert Standing.IGNORED in standings(few, bad.flow, 30)
    assert Standing.IGNORED in standings(few, flow("192.0.2.10", 4003), 30)
    assert standings(few, good.flow, 5) == [Standing.KNOWN] * 5


def test_a_user_has_one_share_however_often_he_has_registered(worlds):
    """Else one subscriber had all the transactions there are, by twenty flows."""
    world = worlds(sources=SourcesConfig(rate=1, burst=10, penalty=30, calls=1, transactions=8))
    phones = [world.register(world.ue(10 + n), "alice") for n in range(3)]
    assert Standing.IGNORED in standings(world, phones[0].flow, 30)
    assert standings(world, phones[1].flow, 1) == [Standing.IGNORED]
    world.originate(phones[0])
    phones[1].invite("sip:bob@home.example", sdp=OFFER)
    phones[1].expect(503)
    for phone in phones:
        for _ in range(4):
            phone.request("MESSAGE", "sip:bob@home.example")
    assert world.core.endpoint.drops["too-many-transactions-of-source"]
    bob = world.register(world.ue(20), "bob")
    assert standings(world, bob.flow, 1) == [Standing.KNOWN]


def test_emergency_calls_of_a_host_are_counted_apart(few):
    standings(few, flow("203.0.113.1"), 30)
    assert standings(few, flow("203.0.113.1"), 3, Kind.EMERGENCY) == [Standing.STRANGER] * 3
    assert Standing.IGNORED in standings(few, flow("203.0.113.1"), 30, Kind.EMERGENCY)


def test_emergency_calls_of_strangers_go_first_only_where_they_are_let_in(worlds):
    let_in = replace(BASE["access"][0], emergency=True)
    for access, standing in ((BASE["access"][0], Standing.STRANGER), (let_in, Standing.KNOWN)):
        world = worlds(access=(access,))
        assert standings(world, flow("203.0.113.1"), 1, Kind.EMERGENCY) == [standing]
        assert standings(world, flow("203.0.113.1"), 1, Kind.CALL) == [Standing.STRANGER]


def test_a_ue_that_has_said_much_at_once_is_hasty_until_the_rate_has_let_it_in(worlds):
    world = worlds(sources=SourcesConfig(rate=100, burst=1000))
    alice = world.register(world.ue(10), "alice")
    world.advance(10.0)
    said = standings(world, alice.flow, MUCH + 10)
    assert said == [Standing.KNOWN] * MUCH + [Standing.HASTY] * 10
    assert standings(world, alice.flow, 10, Kind.EMERGENCY) == [Standing.KNOWN] * 10
    assert standings(world, flow("203.0.113.1"), MUCH + 10) == [Standing.STRANGER] * (MUCH + 10)
    world.advance(0.5)
    assert standings(world, alice.flow, 1) == [Standing.KNOWN]


def test_trusted_peers_and_the_core_side_are_not_limited(worlds):
    access = AccessConfig(name="access", listen=ACCESS, trusted=Networks(["192.0.2.64/28"]))
    world = worlds(access=(access,), sources=SourcesConfig(rate=1, burst=1))
    assert set(standings(world, flow("192.0.2.65"), 50)) == {Standing.KNOWN}
    assert set(standings(world, Flow(Transport.UDP, CORE, NETWORK), 50)) == {Standing.KNOWN}


def test_there_is_no_room_for_a_call_at_the_limit_or_while_the_gateway_is_behind(worlds):
    world = worlds(limits=LimitsConfig(calls=1))
    alice = world.register(world.ue(10), "alice")
    assert not world.core.is_full(world.now)
    world.held = True
    alice.invite("sip:bob@home.example", sdp=OFFER)
    assert world.core.is_full(world.now)
    world = worlds()
    alice = world.register(world.ue(10), "alice")
    world.held = True
    alice.invite("sip:bob@home.example", sdp=OFFER)
    assert not world.core.is_full(world.now)
    world.advance(0.3)
    assert world.core.is_full(world.now)
    world.answer_gateway()
    assert not world.core.is_full(world.now)


def test_a_gateway_without_ports_is_an_overload_for_a_moment(worlds):
    agw = AgwConfig(
        realms=(
            Realm(name="access", addresses=("192.0.2.2",), ports=(30000, 30001), rest=0.0),
            Realm(name="core", addresses=("198.51.100.2",), ports=(40000, 40001), rest=0.0),
        )
    )
    world = worlds(agw=agw)
    alice = world.register(world.ue(10), "alice")
    here, far = world.originate(alice)
    assert not world.core.is_full(world.now)
    alice.invite("sip:bob@home.example", sdp=OFFER)
    assert alice.expect(503).headers.get("Retry-After")
    assert world.core.is_full(world.now)
    here.hang_up(far)
    world.advance(FULL)
    assert not world.core.is_full(world.now)
    here, far = world.originate(alice)
    here.hang_up(far)


# -- what one may hold


def trusting(*networks):
    return (AccessConfig(name="access", listen=ACCESS, trusted=Networks(networks)),)


def strange_registers(world, count, host=66):
    """REGISTERs of somebody nobody knows; the registrar is silent."""
    for n in range(count):
        world.ue(host, port=1024 + n).register(f"user{n}")


def test_strangers_cannot_make_it_hold_more_transactions_than_their_share(worlds):
    world = worlds(sources=SourcesConfig(transactions=20))
    strange_registers(world, 50)
    assert world.status()["transactions"] == 40  # each has one on either side
    assert world.status()["drops"]["too-many-transactions-of-source"] == 30
    assert len(world.network.inbox) == 20
    strange_registers(world, 50, host=67)
    assert world.status()["transactions"] == 80
    alice = world.ue(10)
    alice.register("alice")
    world.network.inbox[:] = world.network.inbox[-1:]
    world.network.accept(world.network.expect("REGISTER"))
    alice.expect(200)
    world.advance(70)
    assert world.status()["transactions"] == 0
    strange_registers(world, 3)
    assert len(world.network.inbox) == 3


def test_invites_messages_and_byes_of_strangers_leave_no_state(world):
    for n in range(50):
        stranger = world.ue(66, port=1024 + n)
        stranger.invite("sip:bob@home.example", sdp=OFFER)
        stranger.request("MESSAGE", "sip:bob@home.example")
        stranger.request("BYE", "sip:bob@home.example", ("To", "<sip:bob@home.example>;tag=1"))
        assert {message.status for message in stranger.inbox} == {403, 481}
    status = world.status()
    assert (status["transactions"], status["timers"], status["calls"]) == (0, 0, [])
    assert world.network.quiet()


def test_registrations_of_one_host_are_limited_but_not_of_trusted_ones(worlds):
    access = trusting("192.0.2.77")
    world = worlds(sources=SourcesConfig(registrations=2), access=access)
    for port, user in ((1, "a"), (2, "b")):
        world.register(world.ue(10, port=port), user)
    third = world.ue(10, port=3)
    third.register("c")
    assert third.expect(503).headers.get("Retry-After")
    world.register(world.ue(11), "c")
    for port in range(1, 5):
        world.register(world.ue(77, port=port), f"t{port}")
    assert len(world.core.registrations) == 7
    world.advance(4000)
    world.register(third, "c")


def test_registrations_that_were_under_way_together_do_not_pass_the_limit_either(worlds):
    world = worlds(limits=LimitsConfig(registrations=1))
    one, other = world.ue(10), world.ue(11)
    one.register("one")
    other.register("other")
    first, second = world.network.expect("REGISTER"), world.network.expect("REGISTER")
    world.network.accept(first)
    world.network.accept(second)
    one.expect(200)
    other.expect(503)
    assert [binding.aor for binding in world.core.registrations] == ["sip:one@home.example"]


def test_the_contacts_of_one_binding_are_limited(world):
    alice = world.ue(10)
    for n in range(20):
        contact = f'<sip:alice{n}@192.0.2.10>;+sip.instance="<urn:uuid:1>"'
        alice.register("alice", ("Contact", contact))
        bound = ", ".join(f"<sip:alice{each}@192.0.2.10>;expires=3600" for each in range(n + 1))
        world.network.accept(world.network.expect("REGISTER"), 3600, ("Contact", bound))
        alice.expect(200)
    (binding,) = world.core.registrations
    assert list(binding.contacts) == [f"sip:alice{n}@192.0.2.10" for n in range(12, 20)]


def test_calls_that_one_peer_has_begun_are_limited(worlds):
    world = worlds(sources=SourcesConfig(calls=2))
    alice, bob = world.register(world.ue(10), "alice"), world.register(world.ue(11), "bob")
    first = world.originate(alice)
    world.originate(alice)
    alice.invite("sip:bob@home.example", sdp=OFFER)
    alice.expect(503)
    world.terminate(alice)  # what others begin is not alice's
    world.originate(bob, protected("192.0.2.11"))
    first[0].hang_up(first[1])
    world.originate(alice)


def test_an_emergency_call_finds_room_where_others_do_not(worlds):
    world = worlds(limits=LimitsConfig(calls=1))
    alice, bob = world.register(world.ue(10), "alice"), world.register(world.ue(11), "bob")
    world.originate(alice)
    bob.invite("sip:alice@home.example", sdp=protected("192.0.2.11"))
    bob.expect(503)
    bob.invite("urn:service:sos", sdp=protected("192.0.2.11"))
    world.network.reply(world.network.expect("INVITE"), 486)
    bob.expect(486)


# -- who may have what


def test_a_contact_that_another_has_claimed_does_not_lead_to_it(world):
    """For a core without Path: it is the UE that is seen there."""
    bob = world.register(world.ue(20), "bob")
    mallory = world.ue(66)
    mallory.register("mallory", ("Contact", f"<{bob.contact}>"))
    world.network.accept(world.network.expect("REGISTER"))
    mallory.expect(200)
    world.network.request("MESSAGE", bob.contact, ("To", "<sip:mallory@home.example>"))
    bob.reply(bob.expect("MESSAGE"), 200)
    assert mallory.quiet()


def behind_nat(world, number, user):
    """A UE whose Contact is a private address that others have as well."""
    ue = world.ue(number)
    ue.register(user, ("Contact", "<sip:ue@10.0.0.5:5060>"))
    request = world.network.expect("REGISTER")
    ue.path = request.headers.get("Path")
    world.network.accept(request)
    ue.expect(200)
    return ue


@pytest.mark.parametrize("first", ["bob", "mallory"])
def test_of_two_with_one_private_contact_the_one_who_is_called_is_reached(world, first):
    second = "mallory" if first == "bob" else "bob"
    ues = {first: behind_nat(world, 20, first), second: behind_nat(world, 21, second)}
    for headers in (
        [("To", "<sip:bob@home.example>")],
        [("To", "<sip:forwarded@home.example>"), ("P-Called-Party-ID", "<sip:bob@home.example>")],
    ):
        world.network.request("MESSAGE", "sip:ue@10.0.0.5:5060", *headers)
        ues["bob"].reply(ues["bob"].expect("MESSAGE"), 200)
        world.network.expect(200)
    world.network.request("MESSAGE", "sip:ue@10.0.0.5:5060", ("To", "<sip:other@home.example>"))
    world.network.expect(404)
    path = ("Route", ues["mallory"].path)
    world.network.request("MESSAGE", "sip:ue@10.0.0.5:5060", path, ("To", "<sip:bob@home.example>"))
    ues["mallory"].reply(ues["mallory"].expect("MESSAGE"), 200)  # the Path says whom the core means
    assert ues["bob"].quiet()


# -- where media may go


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "169.254.1.1", "0.0.0.7", "250.1.1.1", "::1", "fe80::1", "224.0.0.1"]
)
@pytest.mark.parametrize("rtcp", [False, True])
def test_media_are_not_sent_to_where_no_phone_is(world, host, rtcp):
    alice = world.register(world.ue(10), "alice")
    line = f"a=rtcp:4001 IN {'IP6' if ':' in host else 'IP4'} {host}"
    near = "2001:db8::5" if ":" in host else "192.0.2.10"
    offer = session(near, media(4000, "RTP/AVP", line)) if rtcp else session(host)
    alice.invite("sip:bob@home.example", sdp=offer)
    alice.expect(488)
    assert world.network.quiet()
    alice.invite("sip:bob@home.example", sdp=session("192.0.2.10"))
    world.network.reply(world.network.expect("INVITE"), 200, sdp=offer)
    alice.expect(488)


def test_each_side_has_its_own_networks_for_media(worlds):
    access = AccessConfig(name="access", listen=ACCESS, media_deny=Networks(["10.0.0.0/8"]))
    world = worlds(access=(access,), core=CoreConfig(listen=CORE, next_hop=f"sip:{NETWORK}"))
    alice = world.plain(20)
    alice.invite("sip:bob@home.example", sdp=session("10.1.1.1"))
    alice.expect(488)
    world.originate(alice, session("192.0.2.20"), session("10.1.1.1"))


def test_on_loopback_media_may_go_to_loopback():
    here, there = Address("127.0.0.1", 5060), Address("192.0.2.1", 5060)
    assert "127.0.0.1" not in AccessConfig(name="a", listen=here).denied
    assert "127.0.0.1" in AccessConfig(name="a", listen=there).denied
    assert "169.254.0.1" in AccessConfig(name="a", listen=here).denied


def test_who_is_not_trusted_on_the_core_side_is_refused_without_state_and_has_a_rate(worlds):
    core = replace(BASE["core"], trusted=Networks([NETWORK.host]))
    world = worlds(core=core, sources=SourcesConfig(rate=1, burst=10, penalty=30))
    stranger = Peer(world, Address("203.0.113.66", 5060), CORE)
    for method in ("INVITE", "MESSAGE", "NOTIFY", "REGISTER", "BYE", "FOO"):
        stranger.request(method, f"sip:{CORE}")
        assert stranger.expect(403)
        assert not world.status()["transactions"]
    assert set(standings(world, stranger.flow, 25)) == {Standing.STRANGER, Standing.REFUSED, Standing.IGNORED}
    emergency = world.core.standing(flow("203.0.113.67", local=CORE), Kind.EMERGENCY, world.now)
    assert emergency is Standing.STRANGER
    assert standings(world, world.network.flow, 25) == [Standing.KNOWN] * 25
    world.register(world.ue(), "alice")
