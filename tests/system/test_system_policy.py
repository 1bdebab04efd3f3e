"""Switches that are not at their defaults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.calls import (
    audio,
    call_up,
    keys,
    normal,
    originate,
    refused,
    registered,
    session,
    terminate,
)
from tests.system.sipp import requests, responses
from tests.system.world import TABLES, World, registrar

INACTIVITY, RINGING_LIMIT = 4.0, 5.0  # seconds; more than what a call without a pause takes
SWITCHES = """
[policy]
best_effort_srtp = true
e2ae_unregistered = "grant"
echo_applied = true
answer_without_crypto = "plain"
unknown_media = "refuse"
suites = ["AEAD_AES_256_GCM"]
"""


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    limits = f"[call]\ninactivity = {INACTIVITY}\nringing_limit = {RINGING_LIMIT}\n"
    with registrar(tmp_path_factory.mktemp("registrar")), World(tables=TABLES + limits + SWITCHES) as world:
        yield world
        world.check()
        world.assert_nothing_left()


LINE = "a=crypto:1 AEAD_AES_256_GCM inline:" + "A" * 59 + "="


def test_best_effort_srtp_is_e2ae_and_told_so_p20(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = originate(world, tmp_path, ue=ue, offer=audio(LINE), answer=audio(port=6100))
    (invite,) = requests(call.callee, "INVITE", sent=False)
    (ok,) = responses(call.caller, 200, "INVITE", sent=False)
    assert (keys(invite), len(keys(ok))) == ([], 1)
    assert "a=3ge2ae:applied" in normal(ok)


def test_e2ae_is_granted_to_a_ue_that_did_not_register_it(world: World, tmp_path: Path) -> None:
    offer = audio(LINE, "a=3ge2ae:requested", proto="RTP/SAVP")
    with registered(world, tmp_path, mediasec=False) as ue:
        call = originate(world, tmp_path, ue=ue, offer=offer, answer=audio(port=6100))
    assert keys(requests(call.callee, "INVITE", sent=False)[0]) == []
    assert len(keys(responses(call.caller, 200, "INVITE", sent=False)[0])) == 1


def test_media_without_a_treatment_are_refused(world: World, tmp_path: Path) -> None:
    msrp = session("m=message 6006 TCP/MSRP *", "a=path:msrp://127.0.0.1:6006/abc;tcp")
    response, core = refused(world, tmp_path, 488, at=world.peers_port, offer=msrp)
    assert "refused by policy" in (response.headers.get("Warning") or "")
    assert core == []


def test_a_plain_answer_to_e2ae_is_a_plain_call(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = terminate(world, tmp_path, ue=ue, offer=audio(), answer=audio(port=6100))
    (invite,) = requests(call.callee, "INVITE", sent=False)
    assert "AEAD_AES_256_GCM" in normal(invite)
    assert len(keys(invite)) == 1
    assert "m=audio CORE RTP/AVP 0" in normal(responses(call.caller, 200, "INVITE", sent=False)[0])


def test_a_call_that_rings_too_long_is_cancelled(world: World, tmp_path: Path) -> None:
    call = originate(world, tmp_path, "refused_uac", "cancelled_uas", offer=audio())
    assert len(responses(call.caller, 408, "INVITE", sent=False)) == 1
    assert len(requests(call.callee, "CANCEL", sent=False)) == 1


def test_a_call_without_media_is_ended_on_both_sides(world: World, tmp_path: Path) -> None:
    with call_up(world, tmp_path, audio()) as ends:
        for end in ends:
            assert len(requests(end.finish(), "BYE", sent=False)) == 1
