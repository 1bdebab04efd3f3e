"""What crosses the trust boundary between UE and home network (TS 24.229 clause 5.2.6, RFC 3325)."""

import pytest

from tests.sim.sdp import session
from tests.sim.world import NETWORK

AUDIO = session("192.0.2.10")
PRIVATE = (
    ("P-Charging-Vector", "icid-value=1"),
    ("P-Charging-Function-Addresses", "ccf=1.2.3.4"),
    ("P-Served-User", "<sip:x@y>"),
    ("P-User-Database", "<aaa://x>"),
    ("P-Visited-Network-ID", "there"),
    ("P-Profile-Key", "<sip:x@y>"),
    ("Attestation-Info", "attestation=full"),
    ("Relayed-Charge", 'msc;"x"'),
    ("Response-Source", "<urn:3gpp:fe:p-cscf.orig>"),
    ("Priority-Verstat", "Verified"),
)


@pytest.fixture
def alice(world):
    """Registered with two identities of her own."""
    peer = world.ue(10)
    peer.register("alice")
    request = world.network.expect("REGISTER")
    peer.path = request.headers.get("Path")
    own = ("P-Associated-URI", '"Alice" <sip:alice@home.example>, <tel:+4930123>')
    world.network.accept(request, 3600, own)
    peer.expect(200)
    return peer


def asserted(world, alice, *headers):
    alice.invite("sip:bob@home.example", *headers, sdp=AUDIO)
    headers = world.network.expect("INVITE").headers
    assert "P-Preferred-Identity" not in headers
    return headers.values("P-Asserted-Identity")


def test_the_default_identity_is_asserted(world, alice):
    assert asserted(world, alice) == ['"Alice" <sip:alice@home.example>']


@pytest.mark.parametrize("preferred", ["<tel:+4930123>", "<tel:+4930123;phone-context=x>"])
def test_a_preferred_identity_of_its_own_is_asserted(world, alice, preferred):
    assert asserted(world, alice, ("P-Preferred-Identity", preferred)) == ["<tel:+4930123>"]


def test_both_preferred_identities_are_asserted(world, alice):
    preferred = ("P-Preferred-Identity", "<tel:+4930123>, <sip:alice@HOME.example;user=phone>")
    assert asserted(world, alice, preferred) == ["<tel:+4930123>", '"Alice" <sip:alice@home.example>']


def test_somebody_elses_identity_is_not_asserted(world, alice):
    preferred = ("P-Preferred-Identity", "<sip:bob@home.example>")
    assert asserted(world, alice, preferred) == ['"Alice" <sip:alice@home.example>']


def test_an_asserted_identity_from_a_ue_counts_for_nothing(world, alice):
    forged = ("P-Asserted-Identity", "<sip:king@home.example>")
    assert asserted(world, alice, forged) == ['"Alice" <sip:alice@home.example>']


def test_a_malformed_preferred_identity_is_400(world, alice):
    alice.invite("sip:bob@home.example", ("P-Preferred-Identity", "king"), sdp=AUDIO)
    alice.expect(400)
    assert world.network.quiet()


def test_private_headers_of_a_ue_do_not_reach_the_core(world, alice):
    alice.invite(
        "sip:bob@home.example",
        *PRIVATE,
        ("P-Access-Network-Info", "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=1"),
        ("P-Access-Network-Info", "3GPP-E-UTRAN;network-provided"),
        ("Cellular-Network-Info", "3GPP-E-UTRAN;network-provided"),
        ("Feature-Caps", "*;+g.3gpp.srvcc"),
        sdp=AUDIO,
    )
    headers = world.network.expect("INVITE").headers
    for name, _ in PRIVATE[1:]:
        assert name not in headers
    assert "icid-value=1" not in headers.get("P-Charging-Vector")
    assert headers.values("P-Access-Network-Info") == ["3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=1"]
    assert "Cellular-Network-Info" not in headers
    assert "Feature-Caps" not in headers


def test_what_a_ue_says_of_its_access_leaves_no_longer_than_it_came(world, alice):
    """A line for each of its elements made ten times as much of it, over a connection that all share."""
    many = ("P-Access-Network-Info", ",".join("a" * 8000))
    alice.request("MESSAGE", "sip:bob@home.example", many, (many[0], "b, c;network-provided"))
    headers = world.network.expect("MESSAGE").headers
    assert headers.lines(many[0]) == [many[1], "b"]


def test_private_headers_of_the_core_do_not_reach_a_ue(world, alice):
    world.network.call(alice, *PRIVATE, ("P-Asserted-Identity", "<sip:bob@home.example>"), sdp=AUDIO)
    there = alice.expect("INVITE")
    for name, _ in PRIVATE:
        assert name not in there.headers
    assert there.headers.get("P-Asserted-Identity") == "<sip:bob@home.example>"
    alice.reply(there, 180, *PRIVATE, ("P-Preferred-Identity", "<tel:+4930123>"))
    headers = world.network.expect(180).headers
    for name, _ in PRIVATE:
        assert name not in headers
    assert headers.get("P-Asserted-Identity") == "<tel:+4930123>"


def test_the_core_is_told_nothing_private_in_responses_to_a_ue(world, alice):
    alice.invite("sip:bob@home.example", sdp=AUDIO)
    there = world.network.expect("INVITE")
    world.network.reply(there, 180, *PRIVATE, ("P-Asserted-Identity", "<sip:bob@home.example>"))
    headers = alice.expect(180).headers
    for name, _ in PRIVATE:
        assert name not in headers
    assert headers.get("P-Asserted-Identity") == "<sip:bob@home.example>"


@pytest.mark.parametrize("privacy", ["id", "ID", "user;id", "header; id ;critical"])
def test_privacy_id_hides_the_asserted_identity_from_a_ue(world, alice, privacy):
    known = ("P-Asserted-Identity", "<sip:bob@home.example>")
    world.network.call(alice, ("Privacy", privacy), known, sdp=AUDIO)
    headers = alice.expect("INVITE").headers
    assert "P-Asserted-Identity" not in headers
    assert headers.get("Privacy") == privacy


def test_privacy_none_hides_nothing(world, alice):
    known = ("P-Asserted-Identity", "<sip:bob@home.example>")
    world.network.call(alice, ("Privacy", "none"), known, sdp=AUDIO)
    assert "P-Asserted-Identity" in alice.expect("INVITE").headers


def test_the_service_route_of_the_registration_is_forced(world, alice):
    alice.invite("sip:bob@home.example", ("Route", "<sip:evil.example;lr>"), sdp=AUDIO)
    assert world.network.expect("INVITE").headers.values("Route") == [f"<sip:orig@{NETWORK};lr>"]
