"""The media-plane security indications at registration (TS 24.229 clause 7.2A.7)."""

import pytest
from msgspec.structs import replace

from imsalg.policy.treatment import Mechanism
from tests.sim.sdp import protected, session
from tests.sim.world import BASE

SERVER = ["sdes-srtp;mediasec", "msrp-tls;mediasec"]
CLIENT = ("Security-Client", "sdes-srtp;mediasec")
BOTH = (Mechanism.SDES_SRTP, Mechanism.MSRP_TLS)


@pytest.fixture
def world(worlds):
    return worlds(access=(replace(BASE["access"][0], mechanisms=BOTH),))


def mechanisms(world):
    return [each["mechanisms"] for each in world.core.status(world.now)["registrations"]]


def register(world, *headers, peer=None):
    """The request as it came to the registrar, and the 200 as it came to the UE."""
    alice = peer or world.ue()
    alice.register("alice", *headers)
    request = world.network.expect("REGISTER")
    world.network.accept(request)
    return request, alice.expect(200)


@pytest.mark.parametrize("status", [200, 401, 407])
def test_our_mechanisms_are_announced_one_per_line_without_q_p23(world, status):
    alice = world.ue()
    alice.register("alice", CLIENT)
    world.network.reply(world.network.expect("REGISTER"), status, ("Security-Server", "tls;q=0.1"))
    assert alice.expect(status).headers.lines("Security-Server") == [
        "sdes-srtp;mediasec",
        "msrp-tls;mediasec",
    ]


def test_other_responses_announce_nothing(world):
    alice = world.ue()
    alice.register("alice", CLIENT)
    world.network.reply(world.network.expect("REGISTER"), 403)
    assert "Security-Server" not in alice.expect(403).headers


def test_who_does_not_speak_of_it_hears_nothing_of_it(world):
    _, response = register(world)
    assert "Security-Server" not in response.headers
    assert mechanisms(world) == [[]]


def test_the_option_tag_alone_is_answered_but_registers_no_mechanism(world):
    _, response = register(world, ("Require", "mediasec"))
    assert response.headers.lines("Security-Server") == SERVER
    assert mechanisms(world) == [[]]


@pytest.mark.parametrize(
    "headers",
    [
        (("Security-Client", "sdes-srtp;mediasec"),),
        (("Security-Client", "SDES-SRTP ; mediasec"),),
        (("Security-Client", 'sdes-srtp;mediasec="sdes-srtp"'),),
        (("Security-Client", "sdes-srtp;q=0.5;mediasec, bfcp-tls;mediasec"),),
        (("Security-Client", "bfcp-tls;mediasec"), ("Security-Client", "sdes-srtp;mediasec")),
        (
            ("Security-Client", "ipsec-3gpp;alg=hmac-sha-1-96;spi-c=1;spi-s=2;port-c=3;port-s=4,tls"),
            ("Security-Client", "sdes-srtp;mediasec"),
        ),
    ],
)
def test_all_ways_to_write_the_client_list_are_understood_p22(world, headers):
    request, _ = register(world, *headers)
    assert mechanisms(world) == [["sdes-srtp"]]
    assert "Security-Client" not in request.headers


def test_a_mechanism_without_the_parameter_is_not_about_media_p22(world):
    register(world, ("Security-Client", "sdes-srtp"), ("Security-Client", "tls;mediasec-not"))
    assert mechanisms(world) == [[]]


@pytest.mark.parametrize(
    "verify",
    [
        ("sdes-srtp;mediasec", "msrp-tls;mediasec"),
        ("msrp-tls;mediasec, sdes-srtp;mediasec",),
        ("sdes-srtp;mediasec;q=0.1, sdes-srtp;mediasec, msrp-tls;mediasec",),
        ("SDES-SRTP;mediasec",),
        ("tls;q=0.2", "sdes-srtp;mediasec"),
        ("ipsec-3gpp;alg=hmac-md5-96;spi-c=1;spi-s=2",),
    ],
)
def test_security_verify_is_compared_as_a_set_and_a_subset_will_do_p23(world, verify):
    request, _ = register(world, CLIENT, *(("Security-Verify", line) for line in verify))
    assert "Security-Verify" not in request.headers


def test_a_changed_security_verify_is_494_with_our_list(world):
    alice = world.ue()
    alice.register("alice", CLIENT, ("Security-Verify", "sdes-srtp;mediasec, dtls-srtp;mediasec"))
    response = alice.expect(494)
    assert response.headers.lines("Security-Server") == SERVER
    assert world.network.quiet()


def test_a_ue_that_only_mirrors_our_list_after_a_494_has_registered_it_p23(world):
    register(world, ("Security-Verify", "sdes-srtp;mediasec"))
    assert mechanisms(world) == [["sdes-srtp"]]


def test_who_mirrors_our_whole_list_has_registered_what_its_security_client_says_p23(world):
    register(world, CLIENT, ("Security-Verify", "sdes-srtp;mediasec, msrp-tls;mediasec"))
    assert mechanisms(world) == [["sdes-srtp"]]


def test_a_changed_security_verify_in_a_call_is_494_too(world):
    alice = world.register(world.ue(), "alice")
    alice.invite(
        "sip:bob@home.example", ("Security-Verify", "dtls-srtp;mediasec"), sdp=protected("192.0.2.10")
    )
    alice.expect(494)
    assert world.network.quiet()


def test_option_tags_of_ours_are_stripped_and_others_stay_p24(world):
    alice = world.register(world.ue(), "alice")
    alice.invite(
        "sip:bob@home.example",
        ("Require", "100rel, mediasec"),
        ("Proxy-Require", "mediasec"),
        ("Security-Verify", "sdes-srtp;mediasec"),
        sdp=session("192.0.2.10"),
    )
    headers = world.network.expect("INVITE").headers
    assert headers.values("Require") == ["100rel"]
    assert "Proxy-Require" not in headers
    assert not [name for name, _ in headers if name.lower().startswith("security-")]


def test_sec_agree_without_verify_is_494(world):
    alice = world.ue()
    alice.register("alice", CLIENT, ("Require", "sec-agree"), ("Proxy-Require", "sec-agree"))
    assert alice.expect(494).headers.lines("Security-Server")


@pytest.mark.parametrize(
    "headers", [(("Require", "sec-agree"),), (("Security-Verify", "sdes-srtp;mediasec"),)]
)
def test_where_there_is_nothing_to_agree_on_no_empty_list_is_offered_but_sec_agree_declined(worlds, headers):
    world = worlds(access=(replace(BASE["access"][0], mechanisms=()),))
    alice = world.ue()
    alice.register("alice", CLIENT, *headers)
    response = alice.expect(420)
    assert response.headers.values("Unsupported") == ["sec-agree"]
    assert "Security-Server" not in response.headers
    assert world.network.quiet()


def test_a_register_without_the_client_list_withdraws_it_p25(world):
    alice = world.ue()
    register(world, CLIENT, peer=alice)
    assert mechanisms(world) == [["sdes-srtp"]]
    register(world, peer=alice)
    assert mechanisms(world) == [[]]
    alice.invite("sip:bob@home.example", sdp=protected("192.0.2.10"))
    alice.expect(488)


def test_a_mechanism_the_access_does_not_announce_is_not_registered(worlds):
    world = worlds(access=(replace(BASE["access"][0], mechanisms=(Mechanism.MSRP_TLS,)),))
    register(world, ("Security-Client", "sdes-srtp;mediasec, msrp-tls;mediasec"))
    assert mechanisms(world) == [["msrp-tls"]]


def test_each_binding_of_a_user_has_its_own_p25(world):
    register(world, CLIENT, peer=world.ue(10))
    register(world, peer=world.ue(11))
    assert mechanisms(world) == [["sdes-srtp"], []]


def test_a_security_server_of_the_core_never_reaches_a_ue(world):
    alice = world.register(world.ue(), "alice")
    alice.invite("sip:bob@home.example", sdp=session("192.0.2.10"))
    world.network.reply(world.network.expect("INVITE"), 486, ("Security-Server", "dtls-srtp;mediasec"))
    assert "Security-Server" not in alice.expect(486).headers
