"""What is not ours passes byte for byte (trap P36): Contact, Route, Record-Route and Path of others, however
they are written; and a URI that says `transport=ws` is one like any other."""

import pytest

from tests.sim.sdp import media, protected, session

FAR = session("203.0.113.5", media(7000))
WS = "sip:df7jal23ls0d.invalid;transport=ws"
CONTACTS = (
    f'"Älice \\"A\\"" <{WS};ob> ; +sip.instance="<urn:uuid:00000000-0000-1000-8000-000A95A0E128>";reg-id=1',
    '<sip:alice@192.0.2.10:5060;transport=WS;x=%41>;q=0.50;+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service"',
    "sip:alice@192.0.2.10;transport=wss",
    "<sips:alice@[2001:db8::10]:5061;transport=ws>;audio;Expires=77",
)
RECORDED = (
    "<sip:b.example;lr;transport=ws;x=%2C>;p=1 , <sip:c.example:5070;lr=on>",
    '"c, d"<sip:d@d.example;lr>',
)


@pytest.fixture
def alice(world):
    return world.register(world.ue(10), "alice")


@pytest.mark.parametrize("contact", CONTACTS)
def test_a_contact_passes_as_it_was_written_p36(world, alice, contact):
    invite = alice.invite("sip:bob@home.example", ("Contact", contact), sdp=protected("192.0.2.10"))
    there = world.network.expect("INVITE")
    assert there.headers.lines("Contact") == [contact]
    world.network.reply(there, 200, ("Contact", contact), sdp=FAR)
    got = alice.expect(200)
    assert got.headers.lines("Contact") == [contact]
    alice.dialog(invite, got).ack()


def test_what_others_recorded_passes_as_it_was_written_p36(world, alice):
    recorded = tuple(("Record-Route", line) for line in RECORDED)
    world.network.call(alice, *recorded, sdp=FAR)
    there = alice.expect("INVITE")
    ours, *theirs = there.headers.lines("Record-Route")[-1 - len(RECORDED) :]
    assert "192.0.2.1" in ours or "198.51.100.1" in ours
    assert tuple(theirs) == RECORDED
    alice.reply(there, 200, sdp=session("192.0.2.10", media(4000, "RTP/SAVP")))
    world.network.inbox.clear()
    alice.inbox.clear()


def test_routes_beyond_us_pass_as_they_were_written_p36(world, alice):
    beyond = "<sip:e.example;lr;transport=ws;y>;z=1"
    world.network.invite(alice.contact, ("Route", f"{alice.path}, {beyond}"), sdp=FAR)
    there = alice.expect("INVITE")
    assert there.headers.lines("Route") == [beyond]


@pytest.mark.parametrize("contact", CONTACTS[:3])
def test_path_and_contact_of_a_register_pass_as_they_were_written_p36(world, contact):
    alice = world.ue(10)
    path = '<sip:edge.example;lr;ob;transport=ws>;p="a,b"'
    alice.register("alice", ("Path", path), ("Supported", "path, outbound"), contact=contact)
    there = world.network.expect("REGISTER")
    assert there.headers.lines("Contact") == [contact]
    assert there.headers.lines("Path")[-1] == path
    assert len(there.headers.values("Path")) == 2
    world.network.reply(there, 200, ("Path", path), ("Contact", f"{contact};expires=60"))
    got = alice.expect(200)
    assert (got.headers.lines("Path"), got.headers.lines("Contact")) == ([path], [f"{contact};expires=60"])


def test_a_ue_whose_contact_says_ws_is_reached_where_it_registered_from_p36(world):
    """RFC 7118: the host of such a Contact is invented, and only the connection leads there."""
    alice = world.ue(10)
    alice.register("alice", contact=f"<{WS}>")
    request = world.network.expect("REGISTER")
    world.network.accept(request)
    alice.expect(200)
    invite = world.network.invite(WS, ("Route", request.headers.get("Path") or ""), sdp=FAR)
    there = alice.expect("INVITE")
    assert there.uri == WS
    alice.reply(there, 200, ("Contact", f"<{WS}>"), sdp=session("192.0.2.10"))
    talk = world.network.dialog(invite, world.network.expect(200))
    talk.ack()
    assert alice.expect("ACK").uri == WS
    talk.request("BYE")
    assert alice.expect("BYE").uri == WS
