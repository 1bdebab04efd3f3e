"""A UE is reached over its own flow only (RFC 5626): what becomes of requests when that has gone."""

import random

import pytest

from imsalg.flowtoken import KEY, FlowTokens
from imsalg.sip.hop import Transport
from tests.sim.sdp import protected, session

FAR = session("203.0.113.5")
STREAMS = [Transport.TCP, Transport.TLS, Transport.WS, Transport.WSS]
INSTANCE = '+sip.instance="<urn:uuid:1>"'


def token_of(path):
    return path.partition(":")[2].partition("@")[0]


def close(world, peer):
    """The peer's connection ends."""
    world.core.closed(peer.flow, world.now)
    world.settle()
    world.peers.pop(peer.address, None)


@pytest.fixture(params=STREAMS)
def alice(world, request):
    return world.register(world.ue(10, 40123, transport=request.param), "alice")


def register(world, peer, *params):
    """As alice, with these parameters of the Contact."""
    peer.user = "alice"
    contact = ";".join((f"<{peer.contact}>", *params))
    peer.register("alice", ("Security-Client", "sdes-srtp;mediasec"), contact=contact)
    request = world.network.expect("REGISTER")
    peer.path = request.headers.get("Path")
    world.network.accept(request)
    peer.expect(200)


def test_a_request_for_a_ue_whose_connection_has_gone_is_430_at_once(world, alice):
    close(world, alice)
    world.network.call(alice, sdp=FAR)
    world.network.expect(430)
    world.network.request("MESSAGE", alice.contact, ("Route", alice.path))
    world.network.expect(430)
    assert not alice.inbox


@pytest.mark.parametrize("ringing", [False, True])
def test_a_call_that_waits_for_the_ue_is_430_when_its_connection_goes(world, alice, ringing):
    world.network.call(alice, sdp=FAR)
    invite = alice.expect("INVITE")
    if ringing:
        alice.reply(invite, 180)
        world.network.expect(180)
    close(world, alice)
    world.network.expect(430)
    world.finish()


def test_an_answer_for_a_ue_whose_connection_has_gone_is_nobody_else_s(world, alice):
    """RFC 5626 section 3.1: its keys shall not go to whom the NAT has given the port, nor to where the Via
    says that somebody listens (RFC 3261 section 18.2.2 would have a connection opened there)."""
    alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    close(world, alice)
    mallory = world.register(world.ue(10, 40123, transport=alice.flow.transport), "mallory")
    ok = world.network.reply(there, 200, sdp=FAR)
    world.network.expect("ACK")
    world.network.reply(world.network.expect("BYE"), 200)
    world.network.send(ok, world.network.flow)  # and again
    world.network.expect("ACK")
    assert mallory.quiet()
    assert not world.status()["calls"]
    world.finish()


@pytest.mark.parametrize("ringing", [False, True])
def test_a_call_whose_caller_has_lost_its_connection_is_cancelled(world, alice, ringing):
    """Nobody can answer it, so nobody's phone shall ring for it (TS 24.229 clause 5.2.8.1.1)."""
    alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    if ringing:
        world.network.reply(there, 180)
    close(world, alice)
    assert not world.plane.legs
    if not ringing:
        world.network.reply(there, 180)  # before that there is nothing to cancel (RFC 3261 section 9.1)
    cancel = world.network.expect("CANCEL")
    assert cancel.headers.lines("Reason") == ['SIP;cause=503;text="Service Unavailable"']
    world.network.reply(cancel, 200)
    world.network.reply(there, 487)
    assert not world.status()["calls"]
    world.finish()


def test_a_call_whose_caller_loses_its_connection_while_the_gateway_is_asked_goes_nowhere(world, alice):
    world.held = True
    alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    close(world, alice)
    world.answer_gateway()
    assert world.network.quiet()
    assert not world.status()["calls"]


def test_a_call_stands_when_its_ue_loses_the_connection_and_its_change_is_cancelled(world):
    alice = world.ue(10, 40123, transport=Transport.TLS)
    register(world, alice, INSTANCE)
    here, far = world.originate(alice)
    here.request("INVITE", sdp=protected("192.0.2.10", port=4444))
    there = world.network.expect("INVITE")
    world.network.reply(there, 180)
    before = world.legs()
    close(world, alice)
    world.network.reply(world.network.expect("CANCEL"), 200)
    world.network.reply(there, 487)
    again = world.ue(10, 40555, transport=Transport.TLS)
    register(world, again, INSTANCE)
    here.peer = again
    here.exchange(far, "INVITE", protected("192.0.2.10"), FAR)
    assert world.legs().keys() == before.keys()
    far.request("BYE")
    again.reply(again.expect("BYE"), 200)
    world.network.expect(200)
    world.finish()


def test_who_comes_from_the_same_address_and_port_later_is_not_that_ue(world, alice):
    close(world, alice)
    mallory = world.ue(10, 40123, transport=alice.flow.transport)
    mallory.user = "alice"
    mallory.invite("sip:bob@home.example", sdp=FAR)
    mallory.expect(403)
    world.register(mallory, "mallory")
    world.network.call(alice, sdp=FAR)
    world.network.expect(430)
    assert not mallory.inbox


def test_a_ue_that_registers_over_another_connection_is_reached_there_also_in_its_call(world):
    alice = world.ue(10, 40123, transport=Transport.TLS)
    register(world, alice, INSTANCE)
    here, far = world.terminate(alice)
    close(world, alice)
    again = world.ue(10, 40555, transport=Transport.TLS)
    register(world, again, INSTANCE)
    assert again.path == alice.path
    bye = far.request("BYE")
    again.reply(again.expect("BYE"), 200)
    world.network.expect(200)
    assert bye
    assert here
    world.finish()


def test_a_ue_that_says_which_contact_it_had_before_is_followed_without_an_instance(world):
    """As PJSIP does where the registrar's 200 has no `Require: outbound` (RFC 5626 section 6)."""
    alice = world.ue(10, 40123, transport=Transport.TLS)
    register(world, alice, INSTANCE, "reg-id=1")
    _, far = world.terminate(alice)
    close(world, alice)
    again = world.ue(10, 40555, transport=Transport.TLS)
    again.user = "alice"
    gone = f"<{alice.contact}>;expires=0;{INSTANCE};reg-id=1"
    again.register("alice", contact=f"<{again.contact}>, {gone}")
    request = world.network.expect("REGISTER")
    assert request.headers.get("Path") == alice.path
    world.network.reply(request, 200, ("Contact", f"<{again.contact}>;expires=600"))
    again.expect(200)
    (binding,) = world.core.registrations
    assert list(binding.contacts) == [again.contact]
    far.request("BYE")
    again.reply(again.expect("BYE"), 200)
    world.network.expect(200)
    register(world, again)  # a refresh
    assert token_of(again.path) == token_of(alice.path)
    others = world.ue(10, 40777, transport=Transport.TLS)
    for user, expires in (("mallory", 0), ("alice", 600)):  # another user; another UE, which gives up nothing
        others.register(user, contact=f"<sip:x@192.0.2.9>, <{again.contact}>;expires={expires}")
        assert token_of(world.network.expect("REGISTER").headers.get("Path")) != token_of(alice.path)
    world.finish()


def test_a_binding_that_has_gone_is_430_and_an_invented_token_is_not_found(world):
    alice = world.register(world.ue(), "alice", expires=60)
    world.advance(61)
    world.network.call(alice, sdp=FAR)
    world.network.expect(430)
    invented = alice.path.replace(alice.path[5:9], "0000")
    world.network.request("MESSAGE", "sip:alice@elsewhere.example", ("Route", invented))
    world.network.expect(404)


@pytest.mark.parametrize(
    ("params", "vias", "outbound"),
    [
        ((INSTANCE, "reg-id=1"), 1, True),
        ((INSTANCE, "reg-id=1"), 2, False),  # somebody stands between: it is not our flow
        ((INSTANCE,), 1, False),
        (("reg-id=1",), 1, False),
    ],
)
def test_ob_stands_in_path_for_a_ue_that_registers_its_flows_and_is_next_to_us(world, params, vias, outbound):
    alice = world.ue()
    more = (("Via", "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx"),) if vias == 2 else ()
    alice.user = "alice"
    register = alice.compose("REGISTER", "sip:home.example", ("To", "<sip:alice@home.example>"), *more)
    if more:
        register.headers.prepend("Via", alice.via())
    register.headers.set("Contact", f"<{alice.contact}>;" + ";".join(params))
    alice.send(register)
    path = world.network.expect("REGISTER").headers.get("Path")
    assert path.endswith(";lr;ob>" if outbound else ";lr>")


def test_two_flows_of_one_ue_are_two_bindings(world):
    first, second = (world.ue(10, port, transport=Transport.TLS) for port in (40001, 40002))
    for number, peer in enumerate((first, second), 1):
        register(world, peer, INSTANCE, f"reg-id={number}")
    assert first.path != second.path
    close(world, first)
    world.network.call(first, sdp=FAR)
    world.network.expect(430)
    world.network.call(second, sdp=FAR)
    second.expect("INVITE")


def test_a_ue_that_moves_leaves_no_contact_behind(world):
    """RFC 5626 section 6: the registrar replaces what has the same instance and reg-id."""
    here, there = (world.ue(10, port, transport=Transport.TLS) for port in (40001, 40002))
    for peer in (here, there):
        register(world, peer, INSTANCE, "reg-id=1")
    (binding,) = world.core.registrations
    assert list(binding.contacts) == [there.contact]


def test_tokens_are_signed():
    tokens, others = FlowTokens(b"k" * KEY), FlowTokens(b"o" * KEY)
    token = tokens.mint(random.Random(1))
    assert tokens.is_ours(token)
    assert not others.is_ours(token)
    for wrong in ("", "zz", token[:-2], token + "00", f"{int(token, 16) ^ 1:044x}", token[24:], "ü" * 44):
        assert not tokens.is_ours(wrong)
