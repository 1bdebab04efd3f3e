"""Sessions between two SIPps (RFC 4028): refreshed once and then no more; for longer than anybody needs."""

from __future__ import annotations

import time
from pathlib import Path

from tests.system.calls import CRYPTO, audio, originate, registered, terminate
from tests.system.sipp import requests, responses
from tests.system.world import World

RTP, HELD = audio(), audio("a=inactive")
SECURED = audio(CRYPTO, "a=inactive", proto="RTP/SAVP")  # what a UE answers to e2ae
WAIT = 1.0  # seconds until the refresh
EXPIRES = 4


def test_a_call_on_hold_that_is_refreshed_no_more_is_ended_towards_both(world: World, tmp_path: Path) -> None:
    ended = world.status()["ended"].get("408", 0)
    with registered(world, tmp_path) as ue:
        for calls, answer in ((originate, HELD), (terminate, SECURED)):
            began = time.monotonic()
            call = calls(
                world,
                tmp_path,
                "timed_uac",
                "timed_uas",
                ue=ue,
                offer=HELD,
                answer=answer,
                wait=round(WAIT * 1000),
                expires=EXPIRES,
            )
            assert time.monotonic() - began > WAIT + EXPIRES
            (invite,) = requests(call.callee, "INVITE", sent=False)
            assert invite.headers.get("Session-Expires") == "1800"
            (ok,) = responses(call.caller, 200, "INVITE", sent=False)
            assert ok.headers.lines("Session-Expires") == [f"{EXPIRES};refresher=uac"]
            for end in (call.caller, call.callee):
                (bye,) = requests(end, "BYE", sent=False)
                assert bye.headers.get("Reason") == 'SIP;cause=408;text="Request Timeout"'
    assert world.status()["ended"]["408"] == ended + 2


def test_a_ue_that_asks_for_136_years_is_given_half_a_day(world: World, tmp_path: Path) -> None:
    """RFC 4028 section 8.1."""
    with registered(world, tmp_path) as ue:
        said = "Supported: timer\nSession-Expires: 4294967295;refresher=uac"
        call = originate(world, tmp_path, ue=ue, headers=said, offer=RTP, answer=RTP)
    (invite,) = requests(call.callee, "INVITE", sent=False)
    assert invite.headers.lines("Session-Expires") == ["43200;refresher=uac"]
    (ok,) = responses(call.caller, 200, "INVITE", sent=False)
    assert ok.headers.lines("Session-Expires") == ["43200;refresher=uac"]  # its callee knows no timers
