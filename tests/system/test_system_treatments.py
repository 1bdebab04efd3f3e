"""What becomes of session descriptions on their way through both processes, exactly, at both ends."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.calls import (
    Call,
    audio,
    keys,
    normal,
    originate,
    refused,
    registered,
    session,
    terminate,
)
from tests.system.sipp import requests, responses
from tests.system.world import World

CM = "AES_CM_128_HMAC_SHA1_80"
CM_256 = "AES_256_CM_HMAC_SHA1_80"
GCM = "AEAD_AES_128_GCM"
GCM_256 = "AEAD_AES_256_GCM"
UE_KEY, UE_KEY_2, PEER_KEY = (base64.b64encode(bytes([byte]) * 30).decode() for byte in (1, 2, 3))
GCM_KEY = base64.b64encode(bytes([4]) * 28).decode()
MIKEY = "AQAFgM0XflABAAAAAAAAAAAAAAsAyONQ6gAAAAAGEEoo2pee4hp2"
REQUESTED = "a=3ge2ae:requested"


def crypto(tag: int, suite: str, key: str = "KEY", params: str = "") -> str:
    return f"a=crypto:{tag} {suite} inline:{key}{params}"


def ours(message_text: str, own: list[str]) -> str:
    """The text with each of our keys, which are different every time, as KEY."""
    for key in own:
        message_text = message_text.replace(key, "KEY")
    return message_text


@dataclass(frozen=True)
class Row:
    """offer -> what the callee sees; its answer -> what the caller sees."""

    offer: str
    offered: str
    answer: str
    answered: str


def local(port: str, *lines: str, proto: str = "RTP/AVP", rest: tuple[str, ...] = ()) -> str:
    """The description that has one m=audio at the gateway's `port`."""
    text = session(f"m=audio {port} {proto} 0", "a=rtpmap:0 PCMU/8000", *lines, *rest)
    return text.replace("o=- 1 1", "o=- ID 1")


def assert_as_in(row: Row, call: Call, foreign: set[str]) -> None:
    """foreign: the keys of the ends themselves, which are to be told from ours."""
    invite, ok = (
        requests(call.callee, "INVITE", sent=False)[0],
        responses(call.caller, 200, "INVITE", sent=False)[0],
    )
    for message, wanted in ((invite, row.offered), (ok, row.answered)):
        own = [key for key in keys(message) if key not in foreign]
        assert len(own) == len(set(own))
        assert ours(normal(message), own) == wanted
    assert not set(keys(invite)) & set(keys(ok)) - foreign


FOREIGN = {UE_KEY, UE_KEY_2, PEER_KEY, GCM_KEY}

MSRP = session(
    "m=message 6006 TCP/TLS/MSRP *",
    "a=path:msrps://127.0.0.1:6006/abc;tcp",
    "a=accept-types:text/plain",
    f"a=key-mgmt:mikey {MIKEY}",
)
PLAIN = Row(audio("a=ptime:20"), local("CORE", "a=ptime:20"), audio(port=6100), local("ACCESS"))

ORIGINATING = {
    "e2ae SDES: one line selected, the core sees no security": Row(
        audio(
            crypto(1, "F8_128_HMAC_SHA1_80", UE_KEY),
            crypto(2, CM, UE_KEY_2, "|2^20|1:4"),
            REQUESTED,
            proto="RTP/SAVP",
        ),
        local("CORE"),
        audio(port=6100),
        local("ACCESS", crypto(2, CM), proto="RTP/SAVP"),
    ),
    "e2ae SDES with GCM and feedback": Row(
        audio(crypto(1, GCM, GCM_KEY), "a=rtcp-fb:* nack", REQUESTED, proto="RTP/SAVPF"),
        local("CORE", "a=rtcp-fb:* nack", proto="RTP/AVPF"),
        audio(port=6100, proto="RTP/AVPF"),
        local("ACCESS", crypto(1, GCM), proto="RTP/SAVPF"),
    ),
    "e2e SDES: not asked to the access edge, so nothing but addresses changes": Row(
        audio(crypto(1, CM, UE_KEY, "|2^20|1:4"), proto="RTP/SAVP"),
        local("CORE", crypto(1, CM, UE_KEY, "|2^20|1:4"), proto="RTP/SAVP"),
        audio(crypto(1, CM, PEER_KEY), port=6100, proto="RTP/SAVP"),
        local("ACCESS", crypto(1, CM, PEER_KEY), proto="RTP/SAVP"),
    ),
    "e2e KMS: a=key-mgmt passes untouched": Row(
        audio(f"a=key-mgmt:mikey {MIKEY}", proto="RTP/SAVP"),
        local("CORE", f"a=key-mgmt:mikey {MIKEY}", proto="RTP/SAVP"),
        audio(f"a=key-mgmt:mikey {MIKEY}", port=6100, proto="RTP/SAVP"),
        local("ACCESS", f"a=key-mgmt:mikey {MIKEY}", proto="RTP/SAVP"),
    ),
    "e2e KMS for MSRP: untouched": Row(
        MSRP, MSRP.replace("o=- 1 1", "o=- ID 1"), MSRP, MSRP.replace("o=- 1 1", "o=- ID 1")
    ),
    "plain": PLAIN,
    "best effort is plain while policy says so p20": Row(
        audio(crypto(1, CM, UE_KEY)), local("CORE"), audio(port=6100), local("ACCESS")
    ),
    "applied is no request, and passes to nobody p19": Row(
        audio(crypto(1, CM, UE_KEY), "a=3ge2ae:applied", proto="RTP/SAVP"),
        local("CORE", crypto(1, CM, UE_KEY), proto="RTP/SAVP"),
        audio(crypto(1, CM, PEER_KEY), "a=3ge2ae:applied", port=6100, proto="RTP/SAVP"),
        local("ACCESS", crypto(1, CM, PEER_KEY), proto="RTP/SAVP"),
    ),
    "four m-lines, each with its own treatment, one of them refused": Row(
        session(
            "m=audio 6000 RTP/SAVP 0",
            "a=rtpmap:0 PCMU/8000",
            crypto(1, CM, UE_KEY),
            REQUESTED,
            "m=video 6002 RTP/SAVP 97",
            "a=rtpmap:97 H264/90000",
            crypto(1, "F8_128_HMAC_SHA1_80", UE_KEY_2),
            REQUESTED,
            "m=text 6004 RTP/AVP 98",
            "a=rtpmap:98 t140/1000",
            "m=message 6006 TCP/MSRP *",
            "c=IN IP4 127.0.0.1",
            "a=path:msrp://127.0.0.1:6006/abc;tcp",
        ),
        local(
            "CORE",
            rest=(
                "m=video 0 RTP/SAVP 97",
                "m=text CORE RTP/AVP 98",
                "a=rtpmap:98 t140/1000",
                "m=message 6006 TCP/MSRP *",
                "c=IN IP4 127.0.0.1",
                "a=path:msrp://127.0.0.1:6006/abc;tcp",
            ),
        ),
        session(
            "m=audio 6100 RTP/AVP 0",
            "a=rtpmap:0 PCMU/8000",
            "m=video 0 RTP/SAVP 97",
            "m=text 6104 RTP/AVP 98",
            "m=message 0 TCP/MSRP *",
        ),
        session(
            "m=audio ACCESS RTP/SAVP 0",
            "a=rtpmap:0 PCMU/8000",
            crypto(1, CM),
            "m=video 0 RTP/SAVP 97",
            "m=text ACCESS RTP/AVP 98",
            "m=message 0 TCP/MSRP *",
        ).replace("o=- 1 1", "o=- ID 1"),
    ),
}

APPLIED = "a=3ge2ae:applied"
OFFERED = local(
    "ACCESS",
    *(crypto(tag, suite) for tag, suite in enumerate((CM, CM_256, GCM, GCM_256), start=1)),
    APPLIED,
    proto="RTP/SAVP",
)
TERMINATING = {
    "e2ae SDES: a key of ours for each suite, the UE selects one": Row(
        audio(),
        OFFERED,
        audio(crypto(1, CM, UE_KEY), port=6100, proto="RTP/SAVP"),
        local("CORE"),
    ),
    "e2ae SDES: the UE selects the third": Row(
        audio(),
        OFFERED,
        audio(crypto(3, GCM, GCM_KEY), port=6100, proto="RTP/SAVP"),
        local("CORE"),
    ),
    "e2ae SDES: a wrong tag, but one suite fits p12": Row(
        audio(),
        OFFERED,
        audio(crypto(9, CM, UE_KEY), port=6100, proto="RTP/SAVP"),
        local("CORE"),
    ),
    "e2e SDES from the core is never protected twice": Row(
        audio(crypto(1, CM, PEER_KEY), proto="RTP/SAVP"),
        local("ACCESS", crypto(1, CM, PEER_KEY), proto="RTP/SAVP"),
        audio(crypto(1, CM, UE_KEY), port=6100, proto="RTP/SAVP"),
        local("CORE", crypto(1, CM, UE_KEY), proto="RTP/SAVP"),
    ),
    "e2e KMS": Row(
        audio(f"a=key-mgmt:mikey {MIKEY}", proto="RTP/SAVP"),
        local("ACCESS", f"a=key-mgmt:mikey {MIKEY}", proto="RTP/SAVP"),
        audio(f"a=key-mgmt:mikey {MIKEY}", port=6100, proto="RTP/SAVP"),
        local("CORE", f"a=key-mgmt:mikey {MIKEY}", proto="RTP/SAVP"),
    ),
    "an indication that the core wrote is taken away p19": Row(
        audio(crypto(1, CM, PEER_KEY), APPLIED, proto="RTP/SAVP"),
        local("ACCESS", crypto(1, CM, PEER_KEY), proto="RTP/SAVP"),
        audio(crypto(1, CM, UE_KEY), port=6100, proto="RTP/SAVP"),
        local("CORE", crypto(1, CM, UE_KEY), proto="RTP/SAVP"),
    ),
}


@pytest.mark.parametrize("row", ORIGINATING.values(), ids=ORIGINATING)
def test_offers_of_a_registered_ue(world: World, tmp_path: Path, row: Row) -> None:
    with registered(world, tmp_path) as ue:
        assert_as_in(row, originate(world, tmp_path, ue=ue, offer=row.offer, answer=row.answer), FOREIGN)


@pytest.mark.parametrize("row", TERMINATING.values(), ids=TERMINATING)
def test_offers_to_a_registered_ue(world: World, tmp_path: Path, row: Row) -> None:
    with registered(world, tmp_path) as ue:
        assert_as_in(row, terminate(world, tmp_path, ue=ue, offer=row.offer, answer=row.answer), FOREIGN)


def test_a_ue_that_indicated_nothing_is_called_plainly(world: World, tmp_path: Path) -> None:
    row = Row(audio(), local("ACCESS"), audio(port=6100), local("CORE"))
    with registered(world, tmp_path, mediasec=False) as ue:
        for by_path in (True, False):
            call = terminate(world, tmp_path, ue=ue, by_path=by_path, offer=row.offer, answer=row.answer)
            assert_as_in(row, call, FOREIGN)


@pytest.mark.parametrize(
    ("mediasec", "suite", "reason"),
    [
        (False, CM, "sdes-srtp is not registered"),
        (True, "F8_128_HMAC_SHA1_80", "no a=crypto can be accepted (RFC 4568 section 5.1.2)"),
    ],
)
def test_what_cannot_be_protected_is_refused_and_goes_nowhere(
    world: World, tmp_path: Path, mediasec: bool, suite: str, reason: str
) -> None:
    offer = audio(crypto(1, suite, UE_KEY), REQUESTED, proto="RTP/SAVP")
    with registered(world, tmp_path, mediasec=mediasec) as ue:
        refusal, core = refused(world, tmp_path, 488, ue=ue, offer=offer)
    assert reason in (refusal.headers.get("Warning") or "")
    assert core == []


def test_an_answer_that_gives_up_protection_ends_the_call(world: World, tmp_path: Path) -> None:
    with registered(world, tmp_path) as ue:
        call = terminate(world, tmp_path, "refused_uac", ue=ue, offer=audio(), answer=audio(port=6100))
    assert responses(call.caller, 488, "INVITE", sent=False)


def test_the_logs_at_their_loudest_tell_no_key_p18(world: World, tmp_path: Path) -> None:
    secrets: set[str] = set()
    with registered(world, tmp_path) as ue:
        for way, rows in ((originate, ORIGINATING), (terminate, TERMINATING)):
            for row in [row for name, row in rows.items() if "SDES" in name]:
                call = way(world, tmp_path, ue=ue, offer=row.offer, answer=row.answer)
                for traced in (*call.caller, *call.callee):
                    secrets.update(keys(traced.message))
    logs = [world.log(name) for name in ("proxy", "gateway")]
    assert all(len(log) > 20 for log in logs)
    assert len(secrets - FOREIGN) > 10
    for text in ("\n".join(log) for log in logs):
        assert MIKEY not in text
        for secret in secrets:
            raw = base64.b64decode(secret)
            assert secret not in text
            assert raw.hex() not in text.lower()
            assert repr(raw)[2:-1] not in text
