"""Kamailio as a UE: a customer's exchange that registers as one user (its module `uac`) and stands, as a
proxy, between the edge and an extension, which is SIPp."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.kamailio import HOST, Exchange, Kamailio
from tests.interop.phones import direct, next_port
from tests.system.calls import audio
from tests.system.sipp import GAP, Sipp, requests, responses, sdp
from tests.system.world import World, wait_until

USER = "exchange"
EXTENSION = next_port()  # its RTP's is 2 above
KEY = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + "AQEB" * 10
ASKED = audio(KEY, "a=3ge2ae:requested", proto="RTP/SAVP", port=EXTENSION + 2)
SECURED = audio(KEY, proto="RTP/SAVP", port=EXTENSION + 2)


@pytest.fixture
def exchange(pcscf: World, scscf: Kamailio, tmp_path: Path) -> Iterator[Exchange]:
    """It has registered, and has not any more afterwards."""
    (tmp_path / "exchange").mkdir()
    extension = f"sip:extension@{HOST}:{EXTENSION}"
    with Exchange(tmp_path / "exchange", next_port(), USER, pcscf.access_uri, extension) as running:
        wait_until(lambda: bool(pcscf.status()["registrations"]))
        yield running
        assert "ERROR" not in running.log(), running.log()
        running.unregister()  # upon which it complains of a 200 without Contact
        wait_until(lambda: not pcscf.status()["registrations"])
        assert scscf.contacts(USER) == []


def test_it_registers_with_digest_and_media_security(
    pcscf: World, scscf: Kamailio, exchange: Exchange
) -> None:
    (contact,) = scscf.contacts(USER)
    assert contact["Address"] == f"sip:{USER}@{exchange.uri.removeprefix('sip:')}"
    assert contact["Path"].endswith(f"@{HOST}:{pcscf.core_port};lr>")
    (registration,) = pcscf.status()["registrations"]
    assert (registration["aor"], registration["mechanisms"]) == (f"sip:{USER}@ims.test", ["sdes-srtp"])


def test_its_extension_calls_with_e2ae(
    pcscf: World, scscf: Kamailio, exchange: Exchange, tmp_path: Path
) -> None:
    """Requests of a dialog pass the exchange as they do any proxy: by its Record-Route, and with its Via."""
    with (
        direct(scscf, tmp_path) as bob,
        Sipp(
            tmp_path,
            "call_uac",
            remote=int(exchange.uri.rpartition(":")[2]),
            port=EXTENSION,
            user="extension",
            ruri="sip:bob@ims.test",
            route=f"<{exchange.uri};lr>",
            offer=ASKED,
            gap=GAP,
        ) as extension,
    ):
        bob.wait_for("call", state="CONFIRMED")
        (call,) = pcscf.status()["calls"]
        assert (call["direction"], call["treatments"]) == ("originating", ["e2ae-sdes"])
        extension.go_on()
        (ok,) = responses(extension.finish(), 200, "INVITE", sent=False)
        assert bob.wait_for("ended", confirmed=True)
    assert bob.wait_for("media")["srtp"] is False
    (line,) = sdp(ok).media
    assert (line.proto, len(line.attributes("crypto"))) == ("RTP/SAVP", 1)
    assert len(ok.headers.values("Record-Route")) == 4  # of the core, twice of the edge, and of the exchange


def test_its_extension_is_called_with_e2ae(
    pcscf: World, scscf: Kamailio, exchange: Exchange, tmp_path: Path
) -> None:
    with (
        Sipp(tmp_path, "call_uas", port=EXTENSION, answer=SECURED) as extension,
        direct(scscf, tmp_path, "--call", f"sip:{USER}@ims.test", "--duration", 3) as bob,
    ):
        bob.wait_for("call", state="CONFIRMED")
        (call,) = pcscf.status()["calls"]
        assert (call["direction"], call["treatments"]) == ("terminating", ["e2ae-sdes"])
        assert bob.ended() == 0
        (invite,) = requests(extension.finish(), "INVITE", sent=False)
    (line,) = sdp(invite).media
    assert line.proto == "RTP/SAVP"
    assert line.attributes("3ge2ae") == ["applied"]
