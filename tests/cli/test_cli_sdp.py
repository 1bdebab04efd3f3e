"""`imsalg sdp`, through click."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.sdp import command

KEY = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj"
HEAD = ["v=0", "o=alice 7 8 IN IP4 10.0.0.1", "s=-", "c=IN IP4 10.0.0.1", "t=0 0"]
E2AE = [
    *("m=audio 4000 RTP/SAVP 0", f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}", "a=3ge2ae:requested"),
]
MSRP = ["m=message 5000 TCP/TLS/MSRP *", "a=path:msrps://10.0.0.1:5000/x;tcp", "a=3ge2ae:requested"]


def sdp(*lines: str) -> str:
    return "".join(f"{line}\r\n" for line in [*HEAD, *lines])


def run(text: str, *args: str) -> Result:
    return CliRunner().invoke(command, args, input=text)


def test_the_text_is_a_table_and_the_sdp_that_would_leave() -> None:
    result = run(sdp(*E2AE, *MSRP), "--registered", "sdes-srtp")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "m  kind     proto         treatment  out      reason",
        "0  audio    RTP/SAVP      e2ae-sdes  RTP/AVP  e2ae SDES, AES_CM_128_HMAC_SHA1_80: 3ge2ae:requested"
        " and sdes-srtp registered (TS 33.328 clause 7.2.1)",
        "1  message  TCP/TLS/MSRP  refused    -        e2ae-msrp requested, which is not served here for"
        " TCP/TLS/MSRP (TS 33.328 clause 7.2.1 step 2)",
        "",
        "v=0",
        "o=alice 7 8 IN IP4 192.0.2.1",
        "s=-",
        "c=IN IP4 192.0.2.1",
        "t=0 0",
        "m=audio 20000 RTP/AVP 0",
        "m=message 0 TCP/TLS/MSRP *",
    ]


def test_json_has_the_agreed_shape() -> None:
    result = run(sdp(*E2AE, *MSRP), "--registered", "sdes-srtp,msrp-tls", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert set(document) == {"status", "media", "sdp_out"}
    assert document["status"] == 200
    assert document["media"] == [
        {
            "index": 0,
            "proto": "RTP/SAVP",
            "treatment": "e2ae-sdes",
            "reason": "e2ae SDES, AES_CM_128_HMAC_SHA1_80: 3ge2ae:requested and sdes-srtp registered"
            " (TS 33.328 clause 7.2.1)",
            "out_proto": "RTP/AVP",
            "out_port": 20000,
        },
        {
            "index": 1,
            "proto": "TCP/TLS/MSRP",
            "treatment": "refused",
            "reason": "e2ae-msrp requested, which is not served here for TCP/TLS/MSRP"
            " (TS 33.328 clause 7.2.1 step 2)",
            "out_proto": "TCP/TLS/MSRP",
            "out_port": 0,
        },
    ]
    assert document["sdp_out"].startswith("v=0\r\no=alice 7 8 IN IP4 192.0.2.1\r\n")


def test_towards_the_ue_the_keys_are_placeholders_that_say_so() -> None:
    offer = sdp("m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVPF 96", "c=IN IP6 2001:db8::10")
    result = run(offer, "--direction", "terminating", "--registered", "sdes-srtp", "--json")
    document = json.loads(result.stdout)
    assert [(m["out_proto"], m["out_port"]) for m in document["media"]] == [
        ("RTP/SAVP", 20000),
        ("RTP/SAVPF", 20004),
    ]
    lines = document["sdp_out"].splitlines()
    keys = [line for line in lines if line.startswith("a=crypto:")]
    assert len(keys) == 8
    assert all("inline:PLACEHOLDER/KEY/PLACEHOLDER" in line for line in keys)
    assert lines.count("a=3ge2ae:applied") == 2
    assert "c=IN IP4 192.0.2.1" in lines
    assert "c=IN IP6 2001:db8::1" in lines


def test_an_offer_of_which_nothing_is_left_is_488_and_leaves_nothing() -> None:
    text = run(sdp(*E2AE))
    assert text.exit_code == 0
    assert text.stdout.splitlines()[-1] == "488 Not Acceptable Here: no SDP leaves"
    document = json.loads(run(sdp(*E2AE), "--json").stdout)
    assert document["status"] == 488
    assert document["sdp_out"] is None
    assert document["media"][0]["treatment"] == "refused"
    assert document["media"][0]["out_port"] == 0
    assert KEY not in text.output


def test_the_access_matters() -> None:
    offer = sdp("m=audio 4000 UDP/TLS/RTP/SAVPF 0", "a=fingerprint:SHA-256 11")
    assert json.loads(run(offer, "--json").stdout)["media"][0]["treatment"] == "e2e"
    assert json.loads(run(offer, "--json", "--access", "webrtc").stdout)["status"] == 488


def test_dtls_and_ice_towards_the_ue_are_placeholders_that_say_so() -> None:
    offer = sdp("m=audio 4000 RTP/AVP 0", "m=image 4002 udptl t38")
    registered = ("--registered", "dtls-srtp,udptl-dtls")
    result = run(offer, "--direction", "terminating", *registered, "--json")
    document = json.loads(result.stdout)
    assert [(m["treatment"], m["out_proto"]) for m in document["media"]] == [
        ("e2ae-dtls-srtp", "UDP/TLS/RTP/SAVP"),
        ("e2ae-udptl", "UDP/TLS/UDPTL"),
    ]
    lines = document["sdp_out"].splitlines()
    assert lines.count("a=setup:actpass") == lines.count("a=tls-id:PLACEHOLDER/TLS-ID/PLACEHOLDER") == 2
    assert lines.count("a=ice-lite") == 1
    assert lines.count("a=3ge2ae:applied") == 2


def test_data_channels_are_shown_as_they_pass() -> None:
    channel = "m=application 4000 UDP/DTLS/SCTP webrtc-datachannel"
    offer = sdp(channel, 'a=dcmap:0 subprotocol="http"', "a=tls-id: abc3de65cddef001be82")
    for registered, treatment in (("", "e2e"), ("data-channel", "e2dce")):
        document = json.loads(run(offer, "--registered", registered, "--json").stdout)
        assert document["media"][0]["treatment"] == treatment
        assert "a=tls-id: abc3de65cddef001be82\r\n" in document["sdp_out"]


def test_a_file_is_read_whatever_its_line_endings(tmp_path: Path) -> None:
    path = tmp_path / "offer.sdp"
    path.write_bytes(sdp("m=audio 4000 RTP/AVP 0").replace("\r\n", "\n").encode() + b"a=x:\xff\n")
    result = CliRunner().invoke(command, [str(path), "--json"])
    assert result.exit_code == 0
    assert "\r" not in json.loads(result.stdout)["sdp_out"]


@pytest.mark.parametrize("bad", ["", "hello\r\n", "v=0\r\n", "v=0\r\no=x\r\ns=-\r\n"])
def test_bad_sdp_is_said_on_stderr_and_ends_with_2(bad: str) -> None:
    result = run(bad)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("imsalg sdp: ")
    assert "Traceback" not in result.stderr
    result = run(bad, "--json")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert set(document) == {"status", "error"}
    assert document["status"] == 400


def test_an_unknown_mechanism_names_the_known_ones() -> None:
    result = run(sdp(), "--registered", "sdes-srtp,sdes")
    assert result.exit_code == 2
    assert "dtls-srtp" in result.stderr


def test_the_rules_come_from_a_proxys_configuration(tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(
        '[[access]]\nname = "access"\nlisten = "127.0.0.1:5060"\n'
        '[core]\nlisten = "127.0.0.1:5062"\nnext_hop = "sip:127.0.0.1:5064"\n'
        '[gateway]\niq = "unix:/run/imsalg/iq.sock"\n'
        '[policy]\ne2ae_unregistered = "grant"\n'
    )
    result = run(sdp(*E2AE), "--config", str(config), "--json")
    assert json.loads(result.stdout)["media"][0]["treatment"] == "e2ae-sdes"
    config.write_text(config.read_text() + "tls_id = false\n")
    plain = sdp("m=audio 4000 RTP/AVP 0")
    to_ue = ("--direction", "terminating", "--registered", "dtls-srtp")
    assert "a=tls-id" in run(plain, *to_ue).stdout
    assert "a=tls-id" not in run(plain, *to_ue, "--config", str(config)).stdout
    config.write_text(config.read_text() + 'colour = "red"\n')
    result = run(sdp(*E2AE), "--config", str(config))
    assert result.exit_code == 2
    assert "policy.colour" in result.stderr
