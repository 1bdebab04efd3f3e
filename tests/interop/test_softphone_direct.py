"""Two `imsalg ue` call each other with nothing between: the softphone is proved before it proves anything."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

import pytest

from cli.tone import tone_seconds
from tests.interop.ue_process import Ue
from tests.interop.wire import Capture, Kind, between, sdes_keys, tone_in, tone_share, unprotect

ALICE, ALICE_RTP, ALICE_TONE = 15010, 15020, 1000
BOB, BOB_RTP, BOB_TONE = 15110, 15120, 440
on_the_wire = pytest.mark.skipif(os.geteuid() != 0, reason="a capture needs root")


def alice(directory: Path, *options: object, quiet: bool = True) -> Ue:
    sound = ("--tone", ALICE_TONE, "--record", directory / "alice.wav")
    return Ue("--user", "alice", "--port", ALICE, "--rtp-port", ALICE_RTP, *sound, *options, quiet=quiet)


def bob(directory: Path, *options: object) -> Ue:
    sound = ("--tone", BOB_TONE, "--record", directory / "bob.wav")
    return Ue("--user", "bob", "--port", BOB, "--rtp-port", BOB_RTP, *sound, *options)


def assert_both_heard(directory: Path, seconds: float = 1.0) -> None:
    assert tone_seconds(directory / "bob.wav", ALICE_TONE) >= seconds
    assert tone_seconds(directory / "alice.wav", BOB_TONE) >= seconds
    assert tone_seconds(directory / "bob.wav", BOB_TONE) == 0.0


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_tones_in_both_directions_over_rtp(tmp_path: Path, transport: str) -> None:
    common = ("--transport", transport)
    with bob(tmp_path, *common) as callee:
        with alice(tmp_path, *common, "--call", callee.uri, "--duration", 2) as caller:
            assert caller.ended() == 0
        ended = callee.wait_for("ended", confirmed=True)
    assert caller.wait_for("media")["srtp"] is False
    assert caller.wait_for("ended", code=200)
    assert min(ended["received"], ended["sent"]) > 75
    assert_both_heard(tmp_path)


@on_the_wire
@pytest.mark.parametrize(
    "suite",
    [
        "AES_CM_128_HMAC_SHA1_80",
        "AES_CM_128_HMAC_SHA1_32",
        "AES_256_CM_HMAC_SHA1_80",
        "AES_256_CM_HMAC_SHA1_32",
    ],
)
def test_tones_in_both_directions_over_srtp_seen_on_the_wire(tmp_path: Path, suite: str) -> None:
    with Capture({ALICE, BOB, ALICE_RTP, BOB_RTP}) as capture:
        with bob(tmp_path, "--srtp", "mandatory") as callee:
            options = ("--srtp", "mandatory", "--suite", suite, "--call", callee.uri, "--duration", 2)
            with alice(tmp_path, *options) as caller:
                assert caller.ended() == 0
        seen = capture.drain()
    for ue in (caller, callee):
        media = ue.wait_for("media")
        assert (media["srtp"], media["suite"]) == (True, suite)
    assert_both_heard(tmp_path)
    keys = {source[1]: (used, key) for source, used, key in sdes_keys(seen)}
    assert keys.keys() == {ALICE, BOB}
    for rtp_port, sip_port, hz in ((ALICE_RTP, ALICE, ALICE_TONE), (BOB_RTP, BOB, BOB_TONE)):
        srtp = between(seen, rtp_port, None, Kind.RTP)
        plain, refused = unprotect(srtp, *keys[sip_port])
        assert len(plain) > 75
        assert refused == 0
        assert tone_in(plain, hz) > 1.0
        assert tone_share((packet.payload for packet in srtp), hz) < 0.1


@on_the_wire
def test_rtp_on_the_wire_is_decodable_as_the_tone(tmp_path: Path) -> None:
    with Capture({ALICE_RTP}) as capture:
        with (
            bob(tmp_path) as callee,
            alice(tmp_path, "--call", callee.uri, "--duration", 1.5) as caller,
        ):
            assert caller.ended() == 0
        seen = capture.drain()
    for source, hz in ((ALICE_RTP, ALICE_TONE), (BOB_RTP, BOB_TONE)):
        assert tone_in((packet.payload for packet in between(seen, source, None, Kind.RTP)), hz) > 1.0


@on_the_wire
def test_e2ae_is_requested_in_offers_and_only_there(tmp_path: Path) -> None:
    with Capture({ALICE}) as capture:
        with (
            bob(tmp_path, "--e2ae") as callee,
            alice(tmp_path, "--e2ae", "--call", callee.uri, "--duration", 2, "--hold-after", 0.5) as caller,
        ):
            assert caller.ended() == 0
        seen = capture.drain()
    described = {p.payload for p in seen if b"m=audio" in p.payload}  # one that comes again is the same
    offers = [payload for payload in described if payload.startswith((b"INVITE", b"UPDATE"))]
    answers = [payload for payload in described if payload.startswith(b"SIP/2.0 200")]
    assert len(offers) == len(answers) == 3
    assert all(offer.count(b"a=3ge2ae:requested") == 1 and b" RTP/SAVP " in offer for offer in offers)
    assert not any(b"3ge2ae" in answer for answer in answers)
    assert callee.wait_for("media", direction="recvonly")
    assert caller.wait_for("media", status="local hold")


def test_a_plain_phone_refuses_savp_and_the_caller_says_so(tmp_path: Path) -> None:
    with bob(tmp_path) as callee, alice(tmp_path, "--srtp", "mandatory", "--call", callee.uri) as caller:
        assert caller.ended() == 1
    assert caller.wait_for("ended", confirmed=False)["code"] in (406, 488)


def test_a_busy_phone_and_the_exit_code(tmp_path: Path) -> None:
    with bob(tmp_path, "--answer-code", 486) as callee, alice(tmp_path, "--call", callee.uri) as caller:
        assert caller.ended() == 1
    assert caller.wait_for("ended")["code"] == 486


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_hangs_up_a_call(tmp_path: Path, number: int) -> None:
    with bob(tmp_path) as callee:
        with alice(tmp_path, "--call", callee.uri) as caller:
            caller.wait_for("call", state="CONFIRMED")
            assert caller.stop(number) == 0
        assert callee.wait_for("ended", confirmed=True)


def test_the_time_is_over_while_it_rings(tmp_path: Path) -> None:
    with bob(tmp_path, "--no-answer") as callee:
        with alice(tmp_path, "--call", callee.uri, "--for", 1) as caller:
            assert caller.ended() == 1
        assert callee.wait_for("ended", code=487, confirmed=False)


def test_two_calls_at_once_are_answered(tmp_path: Path) -> None:
    carol = ("--user", "carol", "--port", 15210, "--rtp-port", 15220, "--duration", 1)
    with (
        bob(tmp_path) as callee,
        alice(tmp_path, "--call", callee.uri, "--duration", 1) as first,
        Ue(*carol, "--call", callee.uri) as second,
    ):
        assert first.ended() == second.ended() == 0


@on_the_wire
def test_the_log_at_its_loudest_tells_no_key(tmp_path: Path) -> None:
    with bob(tmp_path, "--e2ae") as callee, Capture({ALICE}) as capture:
        loud = ("--e2ae", "--call", callee.uri, "--duration", 1, "--log-level", 6)
        with alice(tmp_path, *loud, quiet=False) as caller:
            assert caller.ended() == 0
        keys = [key for _, _, key in sdes_keys(capture.drain())]
    assert "a=3ge2ae:requested" in caller.log
    assert len(keys) > 1
    for key in keys:
        assert base64.b64encode(key).decode() not in caller.log
        assert key.hex() not in caller.log.lower()
