"""From speech to fax and back, between two SIPps and through the real gateway (T.38, trap P33)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.calls import audio, keys, originate, registered, session, terminate
from tests.system.sipp import requests, responses, sdp
from tests.system.world import World

KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
E2AE = (f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}", "a=3ge2ae:requested")


def secured(version: int = 1) -> str:
    return audio(*E2AE, proto="RTP/SAVP", version=version)


def plain(version: int = 1) -> str:
    return audio(port=6100, version=version)


def fax(port: int) -> str:
    return session(f"m=image {port} udptl t38", "a=T38FaxVersion:0", version=2)


@pytest.mark.parametrize("originating", [True, False])
def test_speech_becomes_fax_and_speech_again_p33(world: World, tmp_path: Path, originating: bool) -> None:
    near, far = (secured, plain) if originating else (plain, secured)
    ports = (6200, 6300) if originating else (6300, 6200)
    with registered(world, tmp_path) as ue:
        call = (originate if originating else terminate)(
            world,
            tmp_path,
            "reinvite_uac",
            "reinvite_uas",
            ue=ue,
            offer=near(),
            hold=fax(ports[0]),
            resume=near(3),
            answer=far(),
            hold_answer=fax(ports[1]),
            resume_answer=far(3),
        )
    invites = requests(call.callee, "INVITE", sent=False)
    oks = responses(call.caller, 200, "INVITE", sent=False)
    for messages, protected in ((invites, not originating), (oks, originating)):
        lines = [sdp(message).media[0] for message in messages]
        speech = "RTP/SAVP" if protected else "RTP/AVP"
        assert [(line.kind, line.proto) for line in lines] == [
            ("audio", speech),
            ("image", "udptl"),
            ("audio", speech),
        ]
        assert lines[1].port not in (lines[0].port, lines[2].port)
        assert [sdp(message).origin.version for message in messages] == [1, 2, 3]
        first, image, again = map(keys, messages)
        assert bool(first) == bool(again) == protected
        assert not image
        assert not protected or not {*first} & {*again}


def test_refused_fax_leaves_speech_as_it_was_p33(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = originate(
            world,
            tmp_path,
            "reinvite_refused_uac",
            "reinvite_refused_uas",
            ue=ue,
            offer=secured(),
            hold=fax(6200),
            resume=secured(),
            answer=plain(),
            resume_answer=plain(),
        )
    assert len(responses(call.caller, 488, "INVITE", sent=False)) == 1
    first, again = responses(call.caller, 200, "INVITE", sent=False)
    assert first.body == again.body
    speech, image, back = (sdp(invite).media[0] for invite in requests(call.callee, "INVITE", sent=False))
    assert (image.kind, image.proto) == ("image", "udptl")
    assert speech.text == back.text
