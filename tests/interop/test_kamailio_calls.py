"""Real softphones behind imsalg, with Kamailio as their S-CSCF: registration, calls with a phone that
Kamailio serves directly, and calls that cross two proxies. Protected media end at the gateway; beyond it, to
the other gateway or to Kamailio's own phone, they are plain RTP."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.stack import MEDIA
from imsalg.anchor import Side
from tests.interop.conftest import EDGE_MEDIA
from tests.interop.kamailio import Kamailio
from tests.interop.phones import ALICE, BOB, TONES, assert_both_heard, direct, next_port, protected
from tests.interop.ue_process import Ue
from tests.interop.wire import Capture, Kind, classify, tone_in, tone_share
from tests.system.world import World

TALK = 3.0  # seconds


def media_ports(edge: World, side: Side) -> range:
    """Those of its gateway on one side."""
    first = edge.access_port + MEDIA + (EDGE_MEDIA if side is Side.CORE else 0)
    return range(first, first + EDGE_MEDIA)


def test_registration_with_digest_keeps_the_path_and_deregistration_leaves_nothing(
    pcscf: World, scscf: Kamailio, tmp_path: Path
) -> None:
    with protected(pcscf, tmp_path) as alice:
        assert alice.wait_for("registered")["security"] == ["sdes-srtp;mediasec"]
        (contact,) = scscf.contacts(ALICE)
        assert contact["Path"].endswith(f"@127.0.0.1:{pcscf.core_port};lr>")
        (registration,) = pcscf.status()["registrations"]
        assert registration["aor"] == "sip:alice@ims.test"
        assert registration["contact"] == contact["Address"]
    assert alice.wait_for("unregistered", code=200)
    assert scscf.contacts(ALICE) == []
    assert pcscf.status()["registrations"] == []


def test_a_wrong_password_is_refused(pcscf: World, scscf: Kamailio) -> None:
    port = next_port()
    with Ue(
        *("--user", ALICE, "--registrar", pcscf.access_uri, "--port", port, "--password", "wrong", "--e2ae")
    ) as alice:
        assert alice.wait_for("refused")["code"] == 401
        assert alice.ended() == 1
    assert scscf.contacts(ALICE) == []
    assert pcscf.status()["registrations"] == []


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("caller", [ALICE, BOB])
def test_a_protected_phone_and_a_plain_one_hear_each_other(
    pcscf: World, scscf: Kamailio, tmp_path: Path, caller: str, transport: str
) -> None:
    options: dict[str, tuple[object, ...]] = {ALICE: (), BOB: ()}
    callee = BOB if caller == ALICE else ALICE
    options[caller] = ("--call", f"sip:{callee}@ims.test", "--duration", TALK)
    phones = {}

    def alice() -> Ue:
        return protected(pcscf, tmp_path, "--transport", transport, *options[ALICE])

    def bob() -> Ue:
        return direct(scscf, tmp_path, *options[BOB])

    first, second = (bob, alice) if caller == ALICE else (alice, bob)
    with first() as phones[callee], second() as phones[caller]:
        assert phones[caller].ended() == 0
        ended = phones[callee].wait_for("ended", confirmed=True)
    assert phones[ALICE].wait_for("media")["srtp"] is True
    assert phones[BOB].wait_for("media")["srtp"] is False
    assert min(ended["received"], ended["sent"]) > 75
    assert_both_heard(tmp_path)


def test_each_holds_and_resumes(pcscf: World, scscf: Kamailio, tmp_path: Path) -> None:
    """Bob, then Alice, with re-INVITEs from either side; in the end both are heard again."""
    call = ("--call", "sip:bob@ims.test", "--duration", 7, "--hold-after", 2.4)
    with (
        direct(scscf, tmp_path, "--hold-after", 0.8) as bob,
        protected(pcscf, tmp_path, *call) as alice,
    ):
        assert alice.ended(20) == 0
        bob.wait_for("ended", confirmed=True)
    for ue in (alice, bob):
        told = [event["status"] for event in ue.events if event["event"] == "media"]
        assert "local hold" in told
        assert told[-1] == "active"
        assert ue.wait_for("media", direction="recvonly") or ue.wait_for("media", direction="inactive")
    assert all(event["srtp"] for event in alice.events if event["event"] == "media")
    assert_both_heard(tmp_path, 2.0)


def test_the_callee_hangs_up(pcscf: World, scscf: Kamailio, tmp_path: Path) -> None:
    with (
        direct(scscf, tmp_path, "--duration", 1) as bob,
        protected(pcscf, tmp_path, "--call", "sip:bob@ims.test") as alice,
    ):
        assert alice.ended() == 0
        assert bob.wait_for("ended", confirmed=True)


def test_a_caller_who_gives_up_while_it_rings(pcscf: World, scscf: Kamailio, tmp_path: Path) -> None:
    with protected(pcscf, tmp_path, "--no-answer") as alice:
        with direct(scscf, tmp_path, "--call", "sip:alice@ims.test", "--for", 1.5) as bob:
            alice.wait_for("incoming")
            assert bob.ended() == 1
        assert alice.wait_for("ended", code=487, confirmed=False)


def test_nobody_by_that_name_is_404(pcscf: World, tmp_path: Path) -> None:
    with protected(pcscf, tmp_path, "--call", "sip:nobody@ims.test") as alice:
        assert alice.ended() == 1
    assert alice.wait_for("ended", confirmed=False)["code"] == 404


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_call_crosses_two_proxies_and_kamailio(
    pcscf: World, other_pcscf: World, tmp_path: Path, transport: str
) -> None:
    """SRTP from either phone to its own gateway, RTP between the gateways; hold and resume on the way."""
    common = ("--transport", transport)
    call = ("--call", "sip:bob@ims.test", "--duration", 4, "--hold-after", 1)
    with protected(other_pcscf, tmp_path, *common, user=BOB) as bob:
        with protected(pcscf, tmp_path, *common, *call) as alice:
            alice.wait_for("call", state="CONFIRMED")
            for world, direction in ((pcscf, "originating"), (other_pcscf, "terminating")):
                (passing,) = world.status()["calls"]
                assert (passing["direction"], passing["treatments"]) == (direction, ["e2ae-sdes"])
                assert len(world.audit().contexts) == 1
            assert alice.ended() == 0
        assert bob.wait_for("ended", confirmed=True)
        for world in (pcscf, other_pcscf):
            world.assert_no_call_left()
    for ue, edge in ((alice, pcscf), (bob, other_pcscf)):
        media = [event for event in ue.events if event["event"] == "media"]
        assert all(event["srtp"] for event in media)
        assert media[-1]["status"] == "active"
        assert int(media[-1]["remote"].rpartition(":")[2]) in media_ports(edge, Side.ACCESS)
    assert_both_heard(tmp_path, 1.5)


@pytest.mark.skipif(os.geteuid() != 0, reason="a capture needs root")
def test_between_two_gateways_the_tones_are_plain_and_nowhere_else(
    pcscf: World, other_pcscf: World, tmp_path: Path
) -> None:
    core, access = media_ports(pcscf, Side.CORE), media_ports(pcscf, Side.ACCESS)
    other = media_ports(other_pcscf, Side.CORE)
    call = ("--call", "sip:bob@ims.test", "--duration", TALK)
    with Capture((*core, *access)) as capture:
        with protected(other_pcscf, tmp_path, user=BOB), protected(pcscf, tmp_path, *call) as alice:
            assert alice.ended() == 0
        seen = [packet for packet in capture.drain() if classify(packet.payload) is Kind.RTP]
    outward = [p.payload for p in seen if p.source[1] in core and p.destination[1] in other]
    inward = [p.payload for p in seen if p.source[1] in other and p.destination[1] in core]
    assert tone_in(outward, TONES[ALICE]) > 1.0
    assert tone_in(inward, TONES[BOB]) > 1.0
    protected_ones = [p for p in seen if {p.source[1], p.destination[1]} & {*access}]
    assert len(protected_ones) > 150
    for source, hz in (("from alice", TONES[ALICE]), ("to alice", TONES[BOB])):
        payloads = [p.payload for p in protected_ones if (p.source[1] in access) == (source == "to alice")]
        assert tone_share(payloads, hz) < 0.1, source
