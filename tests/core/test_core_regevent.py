"""The subscription to a user's registration state, and what its NOTIFYs do (TS 24.229 clauses 5.2.3, 5.2.5.2
and 5.2.8; RFC 6665; RFC 3680)."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsalg.config import RegistrationConfig
from imsalg.errors import PeerError
from imsalg.reginfo import CONTENT_TYPE, MAX_DEPTH, MAX_ELEMENTS, MAX_SIZE, parse_reginfo
from imsalg.sip.dialog import MAX_ROUTES
from imsalg.sip.message import make_response
from imsalg.sip.values import Address
from tests.sim.peer import Peer
from tests.sim.sdp import session
from tests.sim.world import CORE, NETWORK

AUDIO = session("192.0.2.10")
ALICE = "sip:alice@home.example"
DEVICE = ';+sip.instance="<urn:uuid:{}>"'


@pytest.fixture
def world(worlds):
    return worlds(registration=RegistrationConfig(reg_event=True))


def registrations(world):
    return [each["aor"] for each in world.status()["registrations"]]


def contact(uri, event="deactivated", state="terminated"):
    return f'<contact id="c" state="{state}" event="{event}"><uri>{uri}</uri></contact>'


def document(*contacts, state="active", aor=ALICE, version=0, full=True):
    return (
        '<?xml version="1.0"?><reginfo xmlns="urn:ietf:params:xml:ns:reginfo" '
        f'version="{version}" state="{"full" if full else "partial"}">'
        f'<registration aor="{aor}" id="r" state="{state}">{"".join(contacts)}</registration></reginfo>'
    )


class Notifier:
    """The S-CSCF's end of one subscription."""

    def __init__(self, world, expires=4000, accept=True):
        self.world = world
        self.expires = expires
        self.subscribe = world.network.expect("SUBSCRIBE")
        self.talk = world.network.dialog(self.subscribe, make_response(self.subscribe, 200, to_tag="scscf"))
        if accept:
            self.accept()

    def accept(self):
        self.world.network.reply(self.subscribe, 200, ("Expires", str(self.expires)), tag="scscf")

    def notify(self, body="", state="active;expires=4000", status=200, **headers):
        """A NOTIFY, and the answer it must get. headers: "_" stands for "-"."""
        more = {"Event": "reg", "Subscription-State": state}
        if body:
            more["Content-Type"] = CONTENT_TYPE
        more |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.talk.request("NOTIFY", *((name, value) for name, value in more.items() if value), sdp=body)
        return self.world.network.expect(status, "NOTIFY")


def register(world, number=10, user="alice", device="1", expires=3600):
    peer = world.ue(number)
    contact = f"<sip:{user}@{peer.address}>{DEVICE.format(device)}"
    peer.register(user, ("Security-Client", "sdes-srtp;mediasec"), contact=contact, expires=expires)
    request = world.network.expect("REGISTER")
    peer.path = request.headers.get("Path")
    world.network.accept(request, expires)
    peer.expect(200)
    return peer


def deregister(world, peer, device="1"):
    peer.register(peer.user, expires=0, contact=f"<{peer.contact}>{DEVICE.format(device)}")
    world.network.accept(world.network.expect("REGISTER"), 0)
    peer.expect(200)


# -- subscribing


def test_after_the_200_to_a_register_the_registration_state_is_subscribed_to(world):
    alice = register(world)
    request = world.network.expect("SUBSCRIBE")
    headers = request.headers
    assert request.uri == request.to.uri == ALICE
    assert request.to.tag is None
    assert request.from_.uri == f"sip:{CORE}"
    assert headers.get("Event") == "reg"
    assert headers.get("Accept") == CONTENT_TYPE
    assert int(headers.get("Expires")) > 3600
    assert headers.get("P-Asserted-Identity") == alice.path
    assert "icid-value=" in headers.get("P-Charging-Vector")
    assert "Route" not in headers
    assert world.network.quiet()
    assert alice.quiet()


def test_it_is_off_unless_it_is_configured(worlds):
    world = worlds()
    world.register(world.ue(), "alice")
    assert world.network.quiet()


def test_the_default_identity_is_the_one_that_is_subscribed_to(world):
    alice = world.ue()
    alice.register("alice")
    identities = ("P-Associated-URI", "<tel:+4930123>, <sip:first@home.example>, <sip:alice@home.example>")
    world.network.accept(world.network.expect("REGISTER"), 3600, identities)
    assert world.network.expect("SUBSCRIBE").uri == "sip:first@home.example"


def test_there_is_one_for_all_devices_of_a_user_and_it_ends_with_the_last(world):
    first, second = register(world, 10), register(world, 11, device="2")
    notifier = Notifier(world)
    notifier.notify()
    assert world.network.quiet()
    deregister(world, first)
    assert world.network.quiet()
    deregister(world, second, device="2")
    goodbye = world.network.expect("SUBSCRIBE")
    assert goodbye.headers.get("Expires") == "0"
    assert goodbye.to.tag == "scscf"
    assert goodbye.call_id == notifier.subscribe.call_id
    world.network.reply(goodbye, 200, ("Expires", "0"))
    assert world.status()["subscriptions"] == 1
    notifier.notify(state="terminated;reason=timeout")
    assert world.status()["subscriptions"] == 0


@pytest.mark.parametrize("first", ["the 200", "the NOTIFY"])
def test_of_its_route_set_only_so_much_is_kept_as_a_request_can_follow(world, first):
    """The nearest: Max-Forwards brings no request past 70 proxies."""
    alice = register(world)
    notifier = Notifier(world, accept=False)
    near, far = f"<sip:{NETWORK};lr>", [f"<sip:p{number}.example;lr>" for number in range(MAX_ROUTES + 60)]
    if first == "the 200":
        routes = ("Record-Route", ", ".join([*far, near]))
        world.network.reply(notifier.subscribe, 200, ("Expires", "4000"), routes, tag="scscf")
        notifier.notify()
    else:
        notifier.notify(Record_Route=", ".join([near, *far]))
        notifier.accept()
    deregister(world, alice)
    routes = world.network.expect("SUBSCRIBE").headers.values("Route")
    assert (routes[0], len(routes)) == (near, MAX_ROUTES)


def test_a_user_who_goes_before_the_subscription_stands_takes_it_along(world):
    alice = register(world)
    subscribe = world.network.expect("SUBSCRIBE")
    deregister(world, alice)
    assert world.network.quiet()
    world.network.reply(subscribe, 200, ("Expires", "4000"))
    assert world.network.expect("SUBSCRIBE").headers.get("Expires") == "0"


def test_the_last_notify_may_be_lost(world):
    alice = register(world)
    Notifier(world).notify()
    deregister(world, alice)
    world.network.reply(world.network.expect("SUBSCRIBE"), 200)
    world.advance(65)
    assert world.status()["subscriptions"] == 0


def test_who_registers_again_while_the_old_one_ends_gets_a_new_one(world):
    alice = register(world)
    old = Notifier(world)
    old.notify()
    deregister(world, alice)
    world.network.expect("SUBSCRIBE")
    register(world)
    new = world.network.expect("SUBSCRIBE")
    assert new.to.tag is None
    assert new.call_id != old.subscribe.call_id
    old.notify(document(state="terminated"), state="terminated;reason=timeout")
    assert registrations(world) == [ALICE]


def test_a_registration_that_expires_ends_it(world):
    register(world, expires=100)
    Notifier(world).notify(state="active;expires=100000")
    world.advance(101)
    assert registrations(world) == []
    assert world.network.expect("SUBSCRIBE").headers.get("Expires") == "0"


@pytest.mark.parametrize("status", [401, 403, 404, 405, 489, 501])
def test_a_core_that_does_not_want_it_is_not_asked_again(world, status):
    register(world)
    world.network.reply(world.network.expect("SUBSCRIBE"), status)
    alice = register(world)
    world.advance(3000)
    assert world.network.quiet()
    world.originate(alice, offer=AUDIO)
    assert world.status()["subscriptions"] == 1
    world.advance(700)
    assert world.status()["subscriptions"] == 0


@pytest.mark.parametrize(("status", "wait", "headers"), [(503, 200, [("Retry-After", "200")]), (480, 60, [])])
def test_a_core_that_cannot_now_is_asked_again_later(world, status, wait, headers):
    register(world)
    first = world.network.expect("SUBSCRIBE")
    world.network.reply(first, status, *headers)
    world.advance(wait - 1)
    assert world.network.quiet()
    world.advance(2)
    assert world.network.expect("SUBSCRIBE").call_id != first.call_id


def test_a_core_that_does_not_answer_is_asked_again_ever_more_seldom(world):
    register(world, expires=90_000)
    for rest in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        world.network.expect("SUBSCRIBE")
        world.advance(32 + rest - 1)
        assert world.network.quiet()
        world.advance(1)
    assert any("SUBSCRIBE 408" in note.text for note in world.notes)


# -- keeping it


@pytest.mark.parametrize(("granted", "after"), [(4000, 3400), (1201, 601), (1200, 600), (100, 50)])
def test_it_is_refreshed_600_s_before_its_end_or_at_half_time(world, granted, after):
    register(world, expires=9000)
    notifier = Notifier(world, expires=granted)
    notifier.notify(state="active")
    world.advance(after - 1)
    assert world.network.quiet()
    world.advance(1)
    refresh = world.network.expect("SUBSCRIBE")
    assert refresh.call_id == notifier.subscribe.call_id
    assert refresh.to.tag == "scscf"
    assert refresh.uri == world.network.contact
    assert refresh.cseq.number == 2
    assert int(refresh.headers.get("Expires")) > 9000 - after


def test_the_notifier_may_shorten_it_but_not_lengthen_it(world):
    register(world)
    notifier = Notifier(world, expires=1_000_000)
    notifier.notify(state="active;expires=900000")
    world.advance(3601)  # asked for 4,200
    assert world.network.expect("SUBSCRIBE").headers.get("Expires") == "0"  # the registration has expired


def test_a_subscription_of_a_second_is_not_refreshed_every_second(world):
    register(world)
    Notifier(world, expires=1).notify(state="active;expires=1")
    world.advance(9)
    assert world.network.quiet()
    world.advance(1)
    world.network.expect("SUBSCRIBE")


def test_a_refresh_that_is_answered_481_makes_a_new_subscription(world):
    register(world)
    notifier = Notifier(world, expires=1000)
    notifier.notify(state="active")
    world.advance(500)
    world.network.reply(world.network.expect("SUBSCRIBE"), 481)
    new = world.network.expect("SUBSCRIBE")
    assert new.to.tag is None
    assert new.call_id != notifier.subscribe.call_id


def test_a_refresh_that_fails_otherwise_leaves_it_until_its_end(world):
    register(world)
    notifier = Notifier(world, expires=1000)
    notifier.notify(state="active")
    world.advance(500)
    world.network.reply(world.network.expect("SUBSCRIBE"), 500)
    world.advance(499)
    assert world.network.quiet()
    world.advance(1)
    assert world.network.expect("SUBSCRIBE").to.tag is None


def test_without_any_notify_it_has_failed(world):
    register(world)
    first = Notifier(world)
    world.advance(31)
    assert world.network.quiet()
    world.advance(2)
    first.notify(status=481)
    world.advance(60)
    assert world.network.expect("SUBSCRIBE").call_id != first.subscribe.call_id


def test_a_notify_before_the_200_makes_the_dialog(world):
    alice = register(world)
    notifier = Notifier(world, accept=False)
    notifier.notify(document(contact(alice.contact, state="active", event="registered")))
    assert registrations(world) == [ALICE]
    notifier.accept()
    notifier.notify(document(contact(alice.contact)))
    assert registrations(world) == []


@pytest.mark.parametrize("reason", ["deactivated", "timeout", "probation", "giveup", "", "new-reason"])
def test_the_core_ends_it_and_it_is_begun_again_after_a_rest(world, reason):
    register(world)
    notifier = Notifier(world)
    notifier.notify(state=f"terminated;reason={reason};retry-after=90")
    world.advance(89)
    assert world.network.quiet()
    world.advance(1)
    assert world.network.expect("SUBSCRIBE").to.tag is None


@pytest.mark.parametrize("reason", ["rejected", "noresource", "invariant"])
def test_the_core_ends_it_for_good(world, reason):
    register(world)
    Notifier(world).notify(state=f"terminated;reason={reason}")
    world.advance(3000)
    assert world.network.quiet()


def test_after_a_restart_the_next_register_begins_it_again(world):
    register(world)
    notifier = Notifier(world)
    notifier.notify()
    world.save()
    world.restart(1.0)
    notifier.notify(status=481)
    assert world.network.quiet()
    register(world)
    assert world.network.expect("SUBSCRIBE").to.tag is None


# -- deregistered by the network


@pytest.mark.parametrize("body", [document(state="terminated"), document(contact("{contact}"))])
def test_a_deregistered_ue_is_a_strangers_again_and_its_calls_end(world, body):
    alice = register(world)
    notifier = Notifier(world)
    world.originate(alice, offer=AUDIO)
    notifier.notify(body.replace("{contact}", alice.contact))
    alice.reply(alice.expect("BYE"), 200)
    world.network.reply(world.network.expect("BYE"), 200)
    assert registrations(world) == []
    assert world.status()["calls"] == []
    assert not world.legs()
    alice.inbox.clear()
    alice.invite("sip:bob@home.example", sdp=AUDIO)
    alice.expect(403)


@pytest.mark.parametrize("event", ["rejected", "deactivated", "probation", "expired", "unregistered"])
def test_whatever_ended_a_contact_it_is_gone(world, event):
    alice = register(world)
    Notifier(world).notify(document(contact(alice.contact + ";ob", event)))
    assert registrations(world) == []
    assert any(event in note.text for note in world.notes)


@pytest.mark.parametrize(
    "body",
    [
        document(contact("sip:alice@192.0.2.10", "registered", "active")),
        document(contact("sip:alice@192.0.2.99")),
        document(contact("sip:alice@192.0.2.10"), aor="sip:bob@home.example"),
        document(contact("sip:alice@192.0.2.10"), state="init"),
        document(state="terminated", aor="sip:bob@home.example"),
        document(state="terminated", aor="nonsense"),
        document(contact("sip:alice@[::1"), contact("")),
        document().replace("active", "init"),
        '<reginfo xmlns="urn:ietf:params:xml:ns:reginfo" version="0" state="full"/>',
        document(contact("sip:alice@192.0.2.10"))
        .replace("<contact", '<x xmlns="urn:x"><contact')
        .replace("</contact>", "</contact></x>"),
    ],
)
def test_what_is_not_said_to_be_gone_stays(world, body):
    register(world)
    Notifier(world).notify(body)
    assert registrations(world) == [ALICE]


def test_one_device_of_two_is_deregistered_and_the_others_call_goes_on(world):
    first, second = register(world, 10), register(world, 11, device="2")
    notifier = Notifier(world)
    lost, kept = world.originate(first), world.originate(second)
    notifier.notify(document(contact(first.contact), contact(second.contact, "registered", "active")))
    first.reply(first.expect("BYE"), 200)
    world.network.reply(world.network.expect("BYE"), 200)
    assert lost
    assert second.quiet()
    assert [each["contact"] for each in world.status()["registrations"]] == [second.contact]
    kept[0].hang_up(kept[1])


def test_a_call_that_rings_at_a_deregistered_ue_is_cancelled(world):
    alice = register(world)
    notifier = Notifier(world)
    world.network.call(alice, sdp=session("203.0.113.5"))
    invite = alice.expect("INVITE")
    alice.reply(invite, 180)
    world.network.expect(180)
    notifier.notify(document(state="terminated"))
    world.network.expect(480)
    assert any(message.method == "CANCEL" for message in alice.inbox)
    alice.inbox.clear()
    alice.reply(invite, 487)


def test_an_identity_that_is_gone_is_not_asserted_any_more(world):
    alice = world.ue()
    alice.register("alice")
    identities = ("P-Associated-URI", "<sip:alice@home.example>, <sip:second@home.example>")
    world.network.accept(world.network.expect("REGISTER"), 3600, identities)
    alice.expect(200)
    Notifier(world).notify(document(state="terminated", aor="sip:second@home.example"))
    alice.invite("sip:bob@home.example", ("P-Preferred-Identity", "<sip:second@home.example>"), sdp=AUDIO)
    asserted = world.network.expect("INVITE").headers.get("P-Asserted-Identity")
    assert asserted == "<sip:alice@home.example>"


# -- order


def test_an_older_full_document_is_left_alone_and_one_of_the_same_version_is_not(world):
    alice = register(world)
    notifier = Notifier(world)
    notifier.notify(document(version=7))
    notifier.notify(document(state="terminated", version=6))
    assert registrations(world) == [ALICE]
    notifier.notify(document(contact(alice.contact), version=7))
    assert registrations(world) == []


def test_partial_documents_count_and_a_gap_is_filled_by_asking_for_all(world):
    alice = register(world)
    notifier = Notifier(world)
    notifier.notify(document(version=0))
    notifier.notify(document(contact(alice.contact), version=0, full=False))
    assert registrations(world) == [ALICE]
    notifier.notify(document(contact("sip:alice@192.0.2.77"), version=1, full=False))
    assert world.network.quiet()
    notifier.notify(document(contact("sip:alice@192.0.2.77"), version=3, full=False))
    refresh = world.network.expect("SUBSCRIBE")
    assert refresh.to.tag == "scscf"
    notifier.notify(document(contact(alice.contact), version=4, full=False))
    assert registrations(world) == []


def test_a_notify_with_an_older_number_is_500(world):
    register(world)
    notifier = Notifier(world)
    notifier.notify()
    notifier.talk.cseq -= 2
    notifier.notify(document(state="terminated"), status=500)
    assert registrations(world) == [ALICE]


# -- forged and malformed


def test_a_notify_from_the_access_side_is_refused(world):
    alice = register(world)
    notifier = Notifier(world)
    notifier.notify()
    mallory = register(world, 66, user="mallory")
    world.network.expect("SUBSCRIBE")
    stranger = world.ue(67)
    for peer in (mallory, stranger, alice):
        forged = notifier.talk.compose(
            "NOTIFY",
            ("Event", "reg"),
            ("Subscription-State", "active"),
            ("Content-Type", CONTENT_TYPE),
            ("Via", peer.via()),
            sdp=document(state="terminated"),
        )
        peer.send(forged)
        peer.expect(403)
    assert world.network.quiet()
    assert len(registrations(world)) == 2


def test_a_notify_of_another_dialog_is_481(world):
    register(world)
    notifier = Notifier(world)
    notifier.notify()
    elsewhere = Peer(world, Address("198.51.100.66", 5060), CORE)
    for name, value in (
        ("Call-ID", "other"),
        ("To", f"<sip:{CORE}>;tag=other"),
        ("To", f"<sip:{CORE}>"),
        ("From", f"<{ALICE}>;tag=other"),
    ):
        forged = notifier.talk.compose(
            "NOTIFY",
            ("Event", "reg"),
            ("Subscription-State", "active"),
            ("Content-Type", CONTENT_TYPE),
            ("Via", elsewhere.via()),
            (name, value),
            sdp=document(state="terminated"),
        )
        if forged.headers.lines(name) != [value]:
            forged.headers.set(name, value)
        elsewhere.send(forged)
        elsewhere.expect(481)
    assert registrations(world) == [ALICE]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Event": "presence"}, 489),
        ({"Event": ""}, 489),
        ({"Subscription-State": ""}, 400),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_a_notify_that_is_wrong_changes_nothing(world, headers, status):
    register(world)
    Notifier(world).notify(document(state="terminated"), status=status, **headers)
    assert registrations(world) == [ALICE]


DOCTYPE = '<!DOCTYPE reginfo [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("<reginfo", 400),
        ("no XML", 400),
        ("<reginfo/>", 400),
        ('<reginfo xmlns="urn:x" version="0" state="full"/>', 400),
        (document(version="x"), 400),
        (document(version=2**40), 400),
        (document(state="gone"), 400),
        (document().replace("?>", "?>" + DOCTYPE, 1), 400),
        (document().replace("?>", '?><!DOCTYPE reginfo SYSTEM "file:///etc/passwd">', 1), 400),
        (document("<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH), 413),
        (document("<a/>" * MAX_ELEMENTS), 413),
        (document("\0"), 400),
        (document("&undefined;"), 400),
    ],
)
def test_a_document_that_is_wrong_or_hostile_changes_nothing(world, body, status):
    alice = register(world)
    notifier = Notifier(world)
    notifier.notify(body, status=status)
    assert registrations(world) == [ALICE]
    notifier.notify(document(contact(alice.contact)))
    assert registrations(world) == []


def test_a_document_that_is_too_long_is_not_read():
    with pytest.raises(PeerError) as raised:
        parse_reginfo(document(" " * MAX_SIZE).encode())
    assert raised.value.status == 413


@given(st.data())
@settings(max_examples=300)
def test_any_document_is_read_or_refused(data):
    whole = document(contact("sip:alice@192.0.2.10"), contact("sip:b", "active", "registered")).encode()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    middle = data.draw(
        st.binary(max_size=20) | st.sampled_from([b"<a>", b"]]>", b"<!DOCTYPE a>", b"&amp;", b"<?x?>"])
    )
    with suppress(PeerError):
        parse_reginfo(whole[:start] + middle + whole[end:])
