"""REGISTER through the proxy, and what becomes of it (TS 24.229 clause 5.2.2)."""

import pytest
from msgspec.structs import replace

from imsalg.config import LimitsConfig, SourcesConfig
from imsalg.networks import Networks
from imsalg.policy.treatment import Mechanism
from imsalg.registration import Registrations
from imsalg.sip.hop import Transport
from imsalg.sip.values import Address
from tests.sim.peer import Peer
from tests.sim.sdp import session
from tests.sim.world import ACCESS, BASE, CORE, NETWORK

AUDIO = session("192.0.2.10")


def access(**changes):
    """The access section with these changes."""
    return (replace(BASE["access"][0], **changes),)


def registrations(world):
    return world.core.status(world.now)["registrations"]


def token_of(request):
    return request.headers.get("Path").partition(":")[2].partition("@")[0]


def test_a_register_goes_on_with_path_visited_network_and_charging_vector(world):
    alice = world.ue()
    alice.register("alice", ("Route", f"<sip:{ACCESS};lr>"), ("Supported", "path, outbound"))
    request = world.network.expect("REGISTER")
    headers = request.headers
    assert request.uri == "sip:home.example"
    assert headers.get("Path").endswith(f"@{CORE};lr>")
    assert headers.values("Require") == ["path"]
    assert headers.get("P-Visited-Network-ID") == '"visited.example"'
    assert "icid-value=" in headers.get("P-Charging-Vector")
    assert "Route" not in headers
    assert headers.get("Supported") == "path, outbound"
    assert headers.get("Max-Forwards") == "69"


def test_path_is_required_once(world):
    world.ue().register("alice", ("Require", "Path"))
    assert world.network.expect("REGISTER").headers.values("Require") == ["Path"]


def test_what_the_network_says_about_registrations_cannot_come_from_a_ue(world):
    world.ue().register(
        "alice",
        ("P-Visited-Network-ID", "elsewhere"),
        ("P-Charging-Vector", "icid-value=mine"),
        ("Authorization", 'Digest username="a", integrity-protected="yes", realm="r"'),
    )
    headers = world.network.expect("REGISTER").headers
    assert headers.lines("P-Visited-Network-ID") == ['"visited.example"']
    assert "mine" not in headers.get("P-Charging-Vector")
    assert headers.get("Authorization") == 'Digest username="a", realm="r"'


def test_integrity_protected_is_removed_where_it_comes_first(world):
    world.ue().register("alice", ("Authorization", 'Digest integrity-protected="yes", username="a"'))
    assert world.network.expect("REGISTER").headers.get("Authorization") == 'Digest username="a"'


def test_the_registrar_says_how_long_a_registration_lasts(world):
    alice = world.ue()
    alice.register("alice", expires=3600)
    world.network.accept(world.network.expect("REGISTER"), 100)
    alice.expect(200)
    (status,) = registrations(world)
    assert status["aor"] == "sip:alice@home.example"
    assert status["expires_in"] == 100
    world.advance(101)
    assert not registrations(world)
    alice.invite("sip:bob@home.example", sdp=AUDIO)
    alice.expect(403)


def test_a_refresh_keeps_the_token_and_the_registration_lasts_longer(world):
    alice = world.ue()
    alice.register("alice")
    first = world.network.expect("REGISTER")
    world.network.accept(first, 100)
    world.advance(60)
    alice.register("alice")
    second = world.network.expect("REGISTER")
    world.network.accept(second, 100)
    assert token_of(first) == token_of(second)
    world.advance(60)
    assert len(registrations(world)) == 1
    world.advance(60)
    assert not registrations(world)


def test_a_refresh_from_another_port_with_the_same_instance_keeps_the_token_and_moves_the_flow(world):
    instance = ';+sip.instance="<urn:uuid:1>";reg-id=1'
    alice, moved = world.ue(), world.ue(port=7070)
    alice.register("alice", contact=f"<sip:alice@192.0.2.10>{instance}")
    first = world.network.expect("REGISTER")
    world.network.accept(first)
    moved.register("alice", contact=f"<sip:alice@192.0.2.10:7070>{instance}")
    second = world.network.expect("REGISTER")
    world.network.accept(second)
    assert token_of(first) == token_of(second)
    alice.inbox.clear()
    alice.invite("sip:bob@home.example", sdp=AUDIO)
    alice.expect(403)
    moved.expect(200)
    moved.invite("sip:bob@home.example", sdp=AUDIO)
    world.network.expect("INVITE")


def test_a_401_passes_and_registers_nobody(world):
    alice = world.ue()
    alice.register("alice")
    world.network.reply(world.network.expect("REGISTER"), 401, ("WWW-Authenticate", 'Digest realm="r"'))
    assert alice.expect(401).headers.get("WWW-Authenticate") == 'Digest realm="r"'
    assert not registrations(world)


def test_the_keys_of_aka_in_a_401_stay_here(world):
    alice = world.ue()
    alice.register("alice")
    challenge = 'Digest realm="r", nonce="Xik=", algorithm=AKAv1-MD5, ck="00ff", qop="auth, ck=1", IK="ff00"'
    world.network.reply(world.network.expect("REGISTER"), 401, ("WWW-Authenticate", challenge))
    left = 'Digest realm="r", nonce="Xik=", algorithm=AKAv1-MD5, qop="auth, ck=1"'
    assert alice.expect(401).headers.get("WWW-Authenticate") == left


def test_a_registrar_that_does_not_answer_registers_nobody(world):
    alice = world.ue()
    alice.register("alice")
    world.advance(40)
    assert alice.quiet()  # its own transaction has timed out as well (RFC 4320 section 4.1)
    assert not registrations(world)
    assert any("timeout" in note.text for note in world.notes)


def test_deregistration_takes_the_binding_away(world):
    alice = world.register(world.ue(), "alice")
    alice.register("alice", expires=0)
    assert len(registrations(world)) == 1  # until the registrar has said so
    world.network.accept(world.network.expect("REGISTER"), 0)
    alice.expect(200)
    assert not registrations(world)


def test_a_200_without_the_contact_takes_the_binding_away(world):
    alice = world.register(world.ue(), "alice")
    alice.register("alice", expires=0)
    world.network.reply(world.network.expect("REGISTER"), 200)
    assert not registrations(world)


def test_contact_star_takes_all_bindings_of_the_user_away(world):
    alice = world.register(world.ue(10), "alice")
    world.register(world.ue(11), "alice")
    world.register(world.ue(12), "bob")
    alice.register("alice", expires=0, contact="*")
    world.network.reply(world.network.expect("REGISTER"), 200)
    assert [each["aor"] for each in registrations(world)] == ["sip:bob@home.example"]


def test_contact_star_takes_nothing_away_without_an_expiry_of_zero(world):
    """Nor is a registrar asked, who might see it otherwise."""
    alice = world.register(world.ue(10), "alice")
    for expires in (600, None):
        alice.register("alice", expires=expires, contact="*")
        alice.expect(400)
    assert world.network.quiet()
    assert len(registrations(world)) == 1


def test_contact_star_costs_no_more_where_many_others_are_registered(world, monkeypatch):
    alice = world.register(world.ue(10), "alice")
    for number in range(5):
        world.register(world.ue(20 + number), f"user{number}")
    with monkeypatch.context() as patched:
        patched.delattr(Registrations, "__iter__")  # nobody looks at all of them
        alice.register("alice", expires=0, contact="*")
        world.network.reply(world.network.expect("REGISTER"), 200)
        assert alice.expect(200)
    assert world.core.registrations.by_contact(alice.contact, ()) is None


@pytest.mark.parametrize("to", ["<tel:+4930123456>", "<urn:service:sos>", "<mailto:alice@home.example>"])
def test_only_a_sip_uri_is_registered(world, to):
    """RFC 3261 section 10.2."""
    alice = world.ue(10)
    alice.request("REGISTER", "sip:home.example", ("To", to), ("Expires", "600"))
    alice.expect(400)
    assert world.network.quiet()


def test_a_query_changes_nothing(world):
    alice = world.register(world.ue(10), "alice")
    query = alice.compose("REGISTER", "sip:home.example", ("To", "<sip:alice@home.example>"))
    query.headers.remove("Contact")
    alice.send(query)
    contact = ("Contact", f"<{alice.contact}>;expires=50")
    world.network.reply(world.network.expect("REGISTER"), 200, contact)
    alice.expect(200)
    (status,) = registrations(world)
    assert status["expires_in"] == 3600


def test_a_registrar_may_write_the_contact_in_its_own_way(world):
    alice = world.ue()
    alice.register("alice", contact="<sip:alice@Phone.example;transport=udp;ob>")
    spelt = ("Contact", "<sip:alice@phone.example;ob;transport=UDP>;expires=600")
    world.network.reply(world.network.expect("REGISTER"), 200, spelt)
    alice.expect(200)
    assert [entry["expires_in"] for entry in registrations(world)] == [600]


def test_a_contact_that_is_no_uri_is_400(world):
    alice = world.ue()
    alice.register("alice", contact="<sip:alice@[::1>")
    alice.expect(400)
    assert world.network.quiet()


def test_contacts_of_others_in_the_200_are_not_ours(world):
    alice = world.ue()
    alice.register("alice")
    request = world.network.expect("REGISTER")
    theirs = ("Contact", "<sip:alice@203.0.113.7>;expires=90000")
    world.network.reply(request, 200, theirs, ("Contact", f"<{alice.contact}>;expires=100"))
    (status,) = registrations(world)
    assert (status["contact"], status["expires_in"]) == (alice.contact, 100)


@pytest.mark.parametrize("expires", ["1", "59"])
def test_too_short_an_expiry_is_refused_with_the_shortest(world, expires):
    alice = world.ue()
    alice.register("alice", expires=int(expires))
    assert alice.expect(423).headers.get("Min-Expires") == "60"
    assert world.network.quiet()


def test_a_contact_that_was_given_up_may_be_that_of_another_phone_of_the_user(world):
    """Two phones behind two NATs that begin with the same private address, and learn their public one."""
    private = "sip:alice@192.168.1.2:5060"
    phones = [world.ue(10, port=7010), world.ue(11, port=7011)]
    for phone in phones:
        phone.register("alice", contact=f"<{private}>")
        world.network.accept(world.network.expect("REGISTER"))
        phone.register("alice", contact=f"<{phone.contact}>, <{private}>;expires=0")
        register = world.network.expect("REGISTER")
        phone.path = register.headers.get("Path")
        contacts = [("Contact", f"<{each.contact}>;expires=600") for each in phones if each.path]
        world.network.reply(register, 200, *contacts)
    assert len(registrations(world)) == 2
    for phone in phones:
        world.network.request("MESSAGE", phone.contact, ("Route", phone.path))
        assert phone.expect("MESSAGE")


@pytest.mark.parametrize("gone", [False, True], ids=["all are reached", "one is not"])
def test_one_binding_too_many_of_a_user_ends_the_one_refreshed_longest_ago(worlds, gone):
    """Or one whose connection has gone; a UE without an instance has a new Contact URI for each."""
    world = worlds(sources=SourcesConfig(bindings=3))
    world.register(world.ue(20), "bob")
    phones = [world.register(world.ue(10 + n, transport=Transport.TCP), "alice") for n in range(3)]
    world.register(phones[0], "alice")  # a refresh
    if gone:
        world.core.closed(phones[2].flow, world.now)
    ended = phones[2] if gone else phones[1]
    world.register(world.ue(13), "alice")
    assert len(registrations(world)) == 4
    for phone in phones:
        world.network.request("MESSAGE", phone.contact, ("Route", phone.path))
        if phone is ended:
            world.network.expect(430)
        else:
            phone.reply(phone.expect("MESSAGE"), 200)
            world.network.expect(200)
    world.network.request("MESSAGE", "sip:bob@192.0.2.20:5060")
    assert world.peers[Address("192.0.2.20", 5060)].expect("MESSAGE")


def test_too_long_an_expiry_is_not_believed(world):
    alice = world.ue()
    alice.register("alice")
    world.network.accept(world.network.expect("REGISTER"), 2**40)
    (status,) = registrations(world)
    assert status["expires_in"] <= 600_000


def test_over_the_limit_of_registrations_is_503(worlds):
    world = worlds(limits=LimitsConfig(registrations=1))
    world.register(world.ue(10), "alice")
    bob = world.ue(11)
    bob.register("bob")
    assert bob.expect(503).headers.get("Retry-After")
    world.register(world.peers[Address("192.0.2.10", 5060)], "alice")  # a refresh is no new one


@pytest.mark.parametrize(
    "credentials",
    [
        'Digest\tintegrity-protected="yes", username="a"',
        'Digest\tusername="a",\tintegrity-protected\t= "yes"',
        '\tDigest \t Integrity-Protected=yes, username="a"',
        'Digest,integrity-protected="yes"',
        'Digest username="a\\",integrity-protected="yes"',
        'Digest username=a"b, integrity-protected="yes", c="d',
        'Digest username="a";integrity-protected=yes',
    ],
)
def test_no_way_of_writing_makes_a_ue_say_that_it_was_protected(world, credentials):
    world.ue().register("alice", ("Authorization", credentials))
    request = world.network.expect("REGISTER")
    assert b"integrity-protected" not in bytes(request).lower()
    world.network.reply(request, 403)


def test_a_register_from_the_core_is_refused(world):
    world.network.register("alice")
    world.network.expect(403)


def test_strangers_are_refused(world):
    mallory = world.ue(66)
    for method in ("INVITE", "MESSAGE", "SUBSCRIBE", "OPTIONS", "PUBLISH", "FOO"):
        mallory.request(method, "sip:bob@home.example")
        mallory.expect(403)
    assert world.network.quiet()


def test_only_named_peers_may_speak_on_the_core_side(worlds):
    world = worlds(core=replace(BASE["core"], trusted=Networks([NETWORK.host])))
    alice = world.register(world.ue(), "alice")
    stranger = Peer(world, Address("203.0.113.66", 5060), CORE)
    stranger.call(alice, sdp=AUDIO)
    stranger.expect(403)
    assert alice.quiet()


def test_a_trusted_peer_needs_no_registration(worlds):
    world = worlds(access=access(trusted=Networks(["192.0.2.50/32"])))
    sipp = world.ue(50)
    sipp.invite("sip:bob@home.example", ("P-Preferred-Identity", "<sip:x@y>"), sdp=AUDIO)
    there = world.network.expect("INVITE")
    assert "Route" not in there.headers
    assert "P-Asserted-Identity" not in there.headers
    assert "P-Preferred-Identity" not in there.headers


def test_a_trusted_peer_is_reached_by_its_address(worlds):
    world = worlds(access=access(trusted=Networks(["192.0.2.50/32"])))
    sipp = world.ue(50)
    world.network.invite(f"sip:service@{sipp.address}", sdp=AUDIO)
    sipp.expect("INVITE")


@pytest.mark.parametrize("uri", ["urn:service:sos", "urn:service:sos.fire", "URN:service:SOS"])
def test_emergency_calls_are_let_in_where_the_switch_says_so(worlds, uri):
    world = worlds(access=access(emergency=True))
    world.ue().invite(uri, sdp=AUDIO)
    world.network.expect("INVITE")
    world.ue(11).invite("urn:service:sosx", sdp=AUDIO)
    assert world.network.quiet()


def test_an_unregistered_ue_does_not_say_where_its_emergency_call_goes(worlds):
    world = worlds(access=access(emergency=True))
    elsewhere = Peer(world, Address("203.0.113.77", 5060), CORE)
    world.ue().invite("urn:service:sos", ("Route", f"<sip:{elsewhere.address};lr>"), sdp=AUDIO)
    world.network.expect("INVITE")
    assert elsewhere.quiet()


def test_emergency_calls_are_refused_where_the_switch_does_not_say_so(world):
    alice = world.ue()
    alice.invite("urn:service:sos", sdp=AUDIO)
    alice.expect(403)


def test_two_users_on_one_flow_are_told_apart_by_their_identity(world):
    phone = world.ue()
    for user in ("alice", "bob"):
        phone.register(user)
        route = ("Service-Route", f"<sip:{user}@{NETWORK};lr>")
        world.network.accept(world.network.expect("REGISTER"), 3600, route)
        phone.expect(200)
    for user in ("alice", "bob"):
        preferred = ("P-Preferred-Identity", f"<sip:{user}@home.example>")
        phone.invite("sip:carol@home.example", preferred, sdp=AUDIO)
        headers = world.network.expect("INVITE").headers
        assert headers.get("P-Asserted-Identity") == f"<sip:{user}@home.example>"
        assert headers.get("Route") == f"<sip:{user}@{NETWORK};lr>"


def test_a_request_on_another_flow_of_the_same_host_is_a_strangers(world):
    world.register(world.ue(10, 5060), "alice")
    other = world.ue(10, 9999)
    other.invite("sip:bob@home.example", sdp=AUDIO)
    other.expect(403)


def test_a_ue_on_tcp_is_reached_on_its_connection(world):
    alice = world.register(world.ue(10, 40123, transport=Transport.TCP), "alice")
    world.network.call(alice, sdp=AUDIO)
    there = alice.expect("INVITE")
    assert alice._flows[there.via.branch] == alice.flow
    assert there.via.transport == "TCP"


def test_a_core_without_path_reaches_a_ue_by_its_contact(world):
    alice = world.register(world.ue(), "alice")
    world.network.invite(alice.contact, sdp=AUDIO)
    alice.expect("INVITE")


def test_who_is_not_registered_is_not_found(world):
    world.network.invite("sip:nobody@192.0.2.77", sdp=AUDIO)
    world.network.expect(404)
    world.network.invite("sip:nobody@192.0.2.77", ("Route", f"<sip:0123456789@{CORE};lr>"), sdp=AUDIO)
    world.network.expect(404)


def test_network_policy_may_differ_by_access(worlds):
    other = Address("192.0.2.3", 5060)
    here = BASE["access"][0]
    world = worlds(access=(here, replace(here, name="other", listen=other, mechanisms=())))
    alice = Peer(world, Address("192.0.2.10", 5060), other)
    alice.register("alice", ("Security-Client", "sdes-srtp;mediasec"))
    world.network.accept(world.network.expect("REGISTER"))
    assert "Security-Server" not in alice.expect(200).headers
    assert registrations(world)[0]["mechanisms"] == []
    bob = world.register(world.ue(11), "bob")
    assert bob.quiet()
    assert registrations(world)[1]["mechanisms"] == [Mechanism.SDES_SRTP]


def test_a_ue_that_moves_in_a_call_is_reached_where_it_has_registered_last(world):
    instance = ';+sip.instance="<urn:uuid:1>";reg-id=1'
    alice, moved = world.ue(), world.ue(77)
    alice.register("alice", contact=f"<sip:alice@192.0.2.10>{instance}")
    world.network.accept(world.network.expect("REGISTER"))
    alice.expect(200)
    _, far = world.originate(alice, offer=AUDIO)
    moved.register("alice", contact=f"<sip:alice@192.0.2.77>{instance}")
    world.network.accept(world.network.expect("REGISTER"))
    moved.expect(200)
    far.request("BYE")
    moved.reply(moved.expect("BYE"), 200)
    far.peer.expect(200)


def test_a_ue_that_moves_leaves_the_calls_of_another_user_at_its_old_place(world):
    shared, moved = world.ue(), world.ue(77)
    for user in ("alice", "bob"):
        shared.register(user, contact=f'<sip:{user}@192.0.2.10>;+sip.instance="<urn:uuid:{user}>"')
        world.network.accept(world.network.expect("REGISTER"))
        shared.expect(200)
    _, far = world.originate(shared, offer=AUDIO)  # as bob
    moved.register("alice", contact='<sip:alice@192.0.2.77>;+sip.instance="<urn:uuid:alice>"')
    world.network.accept(world.network.expect("REGISTER"))
    moved.expect(200)
    far.request("BYE")
    shared.reply(shared.expect("BYE"), 200)
    far.peer.expect(200)


def test_a_request_with_a_calls_token_from_elsewhere_is_refused(world):
    alice = world.register(world.ue(), "alice")
    here, far = world.originate(alice)
    stranger = world.ue(99)
    stranger.send(here.compose("BYE"))
    stranger.expect(403)
    assert world.network.quiet()
    here.hang_up(far)
