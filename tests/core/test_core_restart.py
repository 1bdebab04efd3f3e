"""The proxy is killed and comes back: what outlives it, and what does not."""

import pytest
from msgspec.structs import replace

from agw.iq.messages import ErrorCode, Mode
from imsalg.call import Call
from imsalg.config import CallConfig, RegistrationConfig, StoreConfig
from imsalg.records import decode
from imsalg.regevent import PACE
from imsalg.sip.hop import Transport
from imsalg.sip.values import Address
from tests.sim.sdp import crypto, key, lines_of, media, protected, session
from tests.sim.world import BASE, EPOCH, World


@pytest.fixture
def alice(world):
    return world.register(world.ue(), "alice")


def restart(world, away=1.0):
    world.save()
    world.restart(away)


def asked(world, since):
    """What the gateway was asked to change since."""
    return [
        type(command).__name__
        for request in world.asked[since:]
        for command in request.commands
        if type(command).__name__ != "AuditValue"
    ]


# -- registrations


def test_a_registered_ue_is_reached_and_may_call_without_registering_again(world, alice):
    restart(world)
    here, far = world.terminate(alice)
    here.hang_up(far)
    world.originate(alice)


def test_a_binding_is_restored_as_it_was(world, alice):
    before = world.status()["registrations"]
    restart(world, 10.0)
    (after,) = world.status()["registrations"]
    assert after == {**before[0], "expires_in": before[0]["expires_in"] - 10}


def test_a_refresh_after_a_restart_keeps_the_token(world, alice):
    restart(world)
    path = alice.path
    world.register(alice, "alice")
    assert alice.path == path
    assert len(world.status()["registrations"]) == 1


def test_what_expired_while_the_proxy_was_away_is_gone_and_forgotten(world, alice):
    bob = world.register(world.ue(11), "bob", expires=60)
    restart(world, 100.0)
    assert [each["aor"] for each in world.status()["registrations"]] == ["sip:alice@home.example"]
    world.network.call(bob, sdp=session("203.0.113.5"))
    assert world.network.expect(430)  # its token is known for one of ours
    world.save()
    assert len([key for key in world.stored if key.startswith("binding")]) == 1


def test_a_binding_expires_in_its_time_after_a_restart(world):
    world.register(world.ue(11), "bob", expires=60)
    restart(world, 30.0)
    world.advance(29.0)
    assert world.status()["registrations"]
    world.advance(2.0)
    assert not world.status()["registrations"]


def test_a_clock_that_was_set_back_makes_no_binding_live_for_ever():
    world = World(registration=RegistrationConfig(max_expires=7200))
    world.register(world.ue(), "alice")
    world.save()
    world.kill()
    world.core.restore(list(world.stored.values()), world.now, 0.0)
    assert world.status()["registrations"][0]["expires_in"] == 7200


def test_a_clock_that_was_set_back_makes_no_session_last_for_ever(worlds):
    world = worlds(call=CallConfig(session_limit=3600, inactivity=0))
    alice = world.register(world.ue(), "alice")
    world.originate(alice)
    world.save()
    world.kill()
    world.core.restore(list(world.stored.values()), world.now, EPOCH - 1e9)
    world.connect()
    world.advance(3500)
    assert world.status()["calls"]
    world.advance(200)
    world.network.expect("BYE")
    assert not world.status()["calls"]


def test_without_a_store_nothing_is_collected_for_it(worlds):
    world = worlds(store=StoreConfig())
    alice = world.register(world.ue(10), "alice")
    here, far = world.originate(alice)
    assert set(world.core.to_store(EPOCH).records) == {"own"}
    here.hang_up(far)


def test_a_ue_of_an_access_that_is_configured_no_more_is_not_restored(world, alice):
    world.save()
    elsewhere = replace(BASE["access"][0], listen=Address("192.0.2.3", 5060))
    world.config = replace(world.config, access=(elsewhere,))
    world.restart()
    assert not world.status()["registrations"]
    world.save()
    assert not [key for key in world.stored if key.startswith("binding")]


def test_what_cannot_be_read_is_dropped_and_told(world, alice):
    world.save()
    world.stored["binding x"] = b"\x81\xa4type\xa3foo"
    world.stored["call x"] = b"\xc1"
    world.restart()
    assert "2 stored records cannot be read and are dropped" in [note.text for note in world.notes]
    assert len(world.status()["registrations"]) == 1
    world.save()
    assert not {"binding x", "call x"} & world.stored.keys()


def test_whatever_bit_of_a_record_a_disk_has_changed_it_is_dropped_and_the_others_are_restored(world, alice):
    world.register(world.ue(11), "bob")
    world.save()
    (key, record), *_ = [each for each in world.stored.items() if each[0].startswith("binding")]
    for bit in range(8 * len(record)):
        octets = bytearray(record)
        octets[bit // 8] ^= 1 << bit % 8
        assert decode(bytes(octets)) is None
    for left in (0, 1, 3, 4, 5, len(record) - 1):
        assert decode(record[:left]) is None
    world.stored[key] = bytes(octets)
    world.restart()
    assert "1 stored records cannot be read and are dropped" in [note.text for note in world.notes]
    assert [each["aor"] for each in world.status()["registrations"]] == ["sip:bob@home.example"]


@pytest.mark.parametrize("gone", ["own", "gateway"])
def test_without_the_record_of_which_gateway_it_was_calls_go_on_if_it_has_them_and_nothing_is_left_there(
    world, alice, gone
):
    here, far = world.originate(alice)
    world.save()
    world.stored["own"] = b"damaged"
    world.kill()
    if gone == "gateway":
        world.restart_gateway()
    world.core.restore(list(world.stored.values()), world.now, EPOCH)
    world.settle()
    world.connect()
    if gone == "gateway":
        assert any("the gateway has lost the context" in note.text for note in world.notes)
    else:
        alice.path = ""  # it is of another key now
        here.hang_up(far)
    assert not world.plane.legs


def test_without_the_record_of_which_gateway_it_was_its_grace_is_over_in_time(world, alice):
    world.originate(alice)
    world.save()
    world.stored["own"] = b"damaged"
    world.restart(connected=False)
    assert world.status()["calls"]
    world.advance(40.0)
    assert not world.status()["calls"]


@pytest.mark.parametrize("refused", ["AuditValue", "ConfigureConnectionPoint"])
def test_a_gateway_that_refuses_what_it_is_asked_after_a_restart_is_left_with_nothing(world, alice, refused):
    world.originate(alice)
    world.save()
    world.restart(connected=False)
    if refused == "AuditValue":
        world.fail.append(ErrorCode.OVERLOAD)
        world.connect()
    else:
        world.held = True
        world.connect()
        world.fail.append(ErrorCode.OVERLOAD)
        world.answer_gateway()
    assert type(world.asked[-2].commands[0]).__name__ == refused
    assert any("ended: the gateway: the test says so" in note.text for note in world.notes)
    assert not world.plane.legs


def test_what_cannot_be_made_a_record_of_keeps_nothing_else_from_being_stored(world, alice, monkeypatch):
    """A fault of ours; nothing at all was stored from then on."""
    here, far = world.originate(alice)
    with monkeypatch.context() as patched:
        patched.setattr(Call, "record", lambda call, epoch: 1 / 0)
        world.save()
    world.settle()
    assert sorted({key.partition(" ")[0] for key in world.stored}) == ["binding", "own"]
    assert any(note.text.endswith(" cannot be stored: ZeroDivisionError") for note in world.notes)
    here.hang_up(far)


def test_a_record_that_cannot_be_taken_up_is_dropped_and_the_others_are_restored(world, alice, monkeypatch):
    """A fault of ours, which must not come again at each start."""
    world.originate(alice)
    world.save()
    monkeypatch.setattr(Call, "resume", lambda call, record, epoch: 1 / 0)
    world.restart()
    assert any(note.text.endswith(" is not restored: ZeroDivisionError") for note in world.notes)
    assert len(world.status()["registrations"]) == 1
    assert not world.status()["calls"]
    world.save()
    assert not [key for key in world.stored if key.startswith("call")]


def test_what_is_not_saved_in_time_is_lost_and_nothing_else(world, alice):
    world.save()
    world.register(world.ue(11), "bob")
    world.restart()
    assert [each["aor"] for each in world.status()["registrations"]] == ["sip:alice@home.example"]


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS, Transport.WS, Transport.WSS])
def test_a_ue_on_a_connection_is_reached_again_once_it_registers_over_another(world, transport):
    alice = world.register(world.ue(10, 40001, transport=transport), "alice")
    here, far = world.originate(alice)
    restart(world)
    del world.peers[alice.address]
    world.network.call(alice, sdp=session("203.0.113.5"))
    assert world.network.expect(430)
    again = world.ue(10, 40002, transport=transport)
    here.peer = world.register(again, "alice")
    here.hang_up(far)
    world.terminate(again)


def test_a_ue_on_a_connection_may_go_on_with_its_call_before_it_registers(world):
    alice = world.register(world.ue(10, 40001, transport=Transport.TCP), "alice")
    here, far = world.originate(alice)
    restart(world)
    stranger = world.ue(66, 40001, transport=Transport.TCP)
    here.peer = stranger
    here.request("BYE")
    assert stranger.expect(403)
    again = world.ue(10, 40002, transport=Transport.TCP)
    again.user = "alice"
    here.peer = again
    here.hang_up(far)


def test_who_was_subscribed_to_is_again_one_user_after_the_other(worlds):
    world = worlds(registration=RegistrationConfig(reg_event=True))
    for number, user in enumerate(("alice", "bob", "carol"), start=10):
        world.register(world.ue(number), user)
        world.network.reply(world.network.expect("SUBSCRIBE"), 200, ("Expires", "4000"))
    restart(world)
    subscribed = []
    for _ in range(3):
        world.advance(1.001 * PACE if subscribed else 0.0)
        request = world.network.expect("SUBSCRIBE")
        world.network.reply(request, 200, ("Expires", "4000"))
        subscribed.append(request.uri)
        assert world.network.quiet()
    assert sorted(subscribed) == [f"sip:{user}@home.example" for user in ("alice", "bob", "carol")]


# -- calls


@pytest.fixture(params=["originate", "terminate"])
def call(request, world, alice):
    """(UE's end, network's end) of a protected call that has been through a restart."""
    if request.param == "originate":
        ends = world.originate(alice)
    else:
        ends = world.terminate(alice)
    legs = dict(world.plane.legs)
    since = len(world.asked)
    restart(world)
    assert world.plane.legs == legs  # the media were not touched
    assert set(asked(world, since)) == {"ConfigureConnectionPoint"}
    assert world.status()["calls"][0]["state"] == "established"
    return ends


@pytest.mark.parametrize("first", [0, 1])
def test_a_call_goes_on_and_either_end_may_hang_up(world, call, first):
    call[first].hang_up(call[1 - first])
    assert not world.status()["calls"]
    assert not world.plane.legs


HOSTS = ("192.0.2.10", "203.0.113.5")  # of the UE's media, and of the network's


def says(side, *lines):
    """The UE's or the network's usual description (0, 1), with these attributes."""
    secured = media(4000, "RTP/SAVP", crypto(), *lines), media(4000, "RTP/AVP", *lines)
    return session(HOSTS[side], secured[side])


def reoffer(ends, first, method="INVITE", *, held=False):
    """An offer from one end, accepted by the other: what each of the two, UE and network, is told."""
    one, other = ends[first], ends[1 - first]
    request = one.request(method, sdp=says(first, *["a=sendonly"] * held))
    there = other.peer.expect(method)
    other.peer.reply(there, 200, sdp=says(1 - first, *["a=recvonly"] * held))
    got = one.peer.expect(200)
    if method == "INVITE":
        one.ack(request)
        other.peer.expect("ACK")
    return (got, there) if first == 0 else (there, got)


def told_first(end):
    """What told an end of a call where the media are, when the call was made."""
    return end.invite if end.called else end.response


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_refresh_changes_neither_ports_nor_keys_p14_p30(world, call, first, method):
    legs = dict(world.plane.legs)
    for end, told in zip(call, reoffer(call, first, method), strict=True):
        assert lines_of(told, "m=")[0].split()[1] == lines_of(told_first(end), "m=")[0].split()[1]
        assert set(lines_of(told, "a=crypto:")) <= set(lines_of(told_first(end), "a=crypto:"))
        assert lines_of(told, "o=")[0].split()[1] == lines_of(told_first(end), "o=")[0].split()[1]
    assert world.plane.legs == legs


@pytest.mark.parametrize("first", [0, 1])
def test_hold_and_resume_work_after_a_restart_p35(world, call, first):
    reoffer(call, first, held=True)
    restart(world)
    assert {leg.mode for leg in world.plane.legs.values()} == {Mode.SENDONLY, Mode.RECVONLY}
    reoffer(call, first)
    assert {leg.mode for leg in world.plane.legs.values()} == {Mode.SENDRECV}
    call[first].hang_up(call[1 - first])


def test_the_version_in_o_goes_on_counting_p31(world, alice):
    ends = world.originate(alice)
    before = [lines_of(message, "o=")[0].split()[2] for message in reoffer(ends, 0, held=True)]
    restart(world)
    after = [lines_of(message, "o=")[0].split()[2] for message in reoffer(ends, 0)]
    assert [int(number) for number in after] == [int(number) + 1 for number in before]


def test_a_bye_of_the_proxy_has_the_next_number_after_a_restart(world, alice):
    here, far = world.originate(alice)
    far.request("INFO")
    alice.reply(alice.expect("INFO"), 200)
    world.network.expect(200)
    restart(world)
    world.core.shutdown(world.now)
    world.settle()
    assert world.network.expect("BYE").cseq.number == here.invite.cseq.number + 1
    assert alice.expect("BYE").cseq.number == far.cseq + 1


def test_a_peer_without_route_sets_is_recognised_after_a_restart(world, alice):
    here, far = world.originate(alice)
    restart(world)
    here.routes = []
    here.hang_up(far)


def test_a_ue_that_registers_from_elsewhere_keeps_its_call_over_a_restart(world, alice):
    _, far = world.originate(alice)
    contact = '<sip:alice@192.0.2.10>;+sip.instance="<urn:uuid:1>"'
    alice.register("alice", contact=contact)
    world.network.accept(world.network.expect("REGISTER"))
    moved = world.ue(99)
    moved.register("alice", contact=contact)
    world.network.accept(world.network.expect("REGISTER"))
    restart(world)
    far.request("BYE")
    assert moved.expect("BYE")


# -- what the gateway has to say about it


def test_a_request_that_comes_before_the_gateway_waits_for_it(world, alice):
    here, far = world.originate(alice)
    world.save()
    world.restart(connected=False)
    invite = here.request("INVITE", sdp=says(0))
    assert not [message for message in world.network.inbox if message.cseq.number == invite.cseq.number]
    world.connect()
    assert world.network.expect("INVITE")
    far.request("BYE")
    assert alice.expect("BYE")


def test_a_call_ends_before_the_gateway_is_back_and_the_gateway_is_told_then(world, alice):
    here, far = world.originate(alice)
    world.save()
    world.restart(connected=False)
    here.hang_up(far)
    assert not world.status()["calls"]
    world.connect()
    assert not world.plane.legs


def test_a_gateway_that_does_not_come_back_costs_the_calls(world, alice):
    world.originate(alice)
    world.save()
    world.restart(connected=False)
    world.advance(5.1)
    assert alice.expect("BYE")
    assert world.network.expect("BYE")
    world.connect()


def test_a_gateway_that_was_restarted_meanwhile_costs_the_calls_p43(world, alice):
    world.originate(alice)
    world.save()
    world.kill()
    world.restart_gateway()
    world.restart()
    assert alice.expect("BYE")
    assert world.network.expect("BYE")


def test_a_context_that_the_gateway_gave_up_meanwhile_costs_its_call_p43(world, alice):
    world.originate(alice)
    restart(world, 100.0)
    assert not world.plane.legs
    assert alice.expect("BYE")
    assert world.network.expect("BYE")


def test_media_that_fell_silent_meanwhile_end_the_call(world, alice):
    world.originate(alice)
    world.plane.silent = 1000.0
    restart(world)
    assert alice.expect("BYE")
    assert world.network.expect("BYE")
    assert not world.plane.legs


def test_a_call_on_hold_may_be_silent_over_a_restart(world, alice):
    ends = world.originate(alice)
    reoffer(ends, 0, held=True)
    world.plane.silent = 1000.0
    restart(world)
    assert world.status()["calls"]


def test_a_second_loss_of_the_gateway_is_no_restart_of_ours(world, alice):
    world.originate(alice)
    restart(world)
    world.disconnect()
    world.advance(1.0)
    since = len(world.asked)
    world.connect()
    assert not asked(world, since)
    assert world.status()["calls"]


# -- what is not kept


def test_a_call_that_rings_is_gone_and_its_context_as_well(world, alice):
    alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, sdp=session("203.0.113.5"))
    assert alice.expect(183)
    restart(world)
    assert not world.status()["calls"]
    assert not world.plane.legs


def test_a_change_that_has_no_answer_yet_is_forgotten_and_the_media_are_as_before(world, alice):
    here, far = world.originate(alice)
    legs = dict(world.plane.legs)
    here.request("INVITE", sdp=says(0) + media(4010, kind="video") + "\r\n")
    assert world.network.expect("INVITE")
    assert world.plane.legs != legs
    restart(world)
    assert world.plane.legs == legs
    reoffer((here, far), 0)


def test_a_change_that_has_no_answer_yet_does_not_cost_the_call_that_was_restored_before(world, alice):
    here, far = world.originate(alice)
    legs = dict(world.plane.legs)
    for direction in ("sendonly", "inactive"):
        restart(world)
        here.request("INVITE", sdp=says(0, f"a={direction}"))
        assert world.network.expect("INVITE")
    restart(world)
    assert world.plane.legs == legs
    here.hang_up(far)


@pytest.mark.parametrize("port", [0, 7100])
def test_a_change_that_has_a_preview_of_its_answer_only_is_forgotten_p29(world, alice, port):
    here, _ = world.originate(alice)
    legs = dict(world.plane.legs)
    here.request("INVITE", sdp=says(0))
    world.network.reply(world.network.expect("INVITE"), 183, sdp=session("203.0.113.5", media(port)))
    assert alice.expect(183)
    assert world.plane.legs != legs
    restart(world)
    assert world.plane.legs == legs


def test_a_late_offer_without_its_answer_is_no_call_yet(world, alice):
    alice.invite("sip:bob@home.example")
    there = world.network.expect("INVITE")
    world.network.reply(there, 200, sdp=session("203.0.113.5"))
    assert alice.expect(200)
    restart(world)
    assert not world.status()["calls"]
    assert not world.plane.legs


def test_a_call_that_is_over_before_it_is_saved_leaves_no_record(world, alice):
    here, far = world.originate(alice)
    here.hang_up(far)
    world.save()
    assert not [key for key in world.stored if key.startswith("call")]


# -- the records


def test_no_record_shows_a_key_p18(world, alice):
    world.originate(alice)
    world.save()
    records = [decode(value) for value in world.stored.values()]
    assert len(records) == 3
    shown = repr(records)
    assert "inline" not in shown
    assert "kkkk" not in shown
    assert key()[:8] not in shown
    assert repr(world.core.registrations.tokens.key) not in shown


def test_what_is_not_utf8_is_not_kept_and_harms_nothing(world):
    alice = world.ue()
    alice.user = "alice"
    alice.register("alice", contact="<sip:al\udce4ice@192.0.2.10>")
    world.network.accept(world.network.expect("REGISTER"))
    world.register(world.ue(11), "bob")
    restart(world)
    assert [each["aor"] for each in world.status()["registrations"]] == ["sip:bob@home.example"]


def test_what_was_not_stored_is_told_again_with_everything(world, alice):
    world.originate(alice)
    world.save()
    told = dict(world.stored)
    world.stored = {"binding stale": b""}
    world.core.store_failed()
    world.save()
    assert world.stored == told


def test_nothing_is_to_be_stored_where_nothing_changed(world, alice):
    world.save()
    assert not world.core.has_to_store
    world.advance(30.0)
    assert not world.core.has_to_store
