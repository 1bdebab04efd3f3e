"""What the softphone reads from and writes into the text of SIP, SDP and PJSIP's log."""

from __future__ import annotations

from cli.softcall import request_e2ae
from cli.softphone import media_mechanisms, redacted

SDP = "v=0\r\nt=0 0\r\n"
REQUEST = "a=3ge2ae:requested\r\n"


def test_only_protected_and_active_m_lines_ask_for_e2ae() -> None:
    protected = "m=audio 4000 RTP/SAVP 0\r\na=sendrecv\r\n"
    feedback = "m=video 4002/2 RTP/SAVPF 96\r\n"
    others = "m=audio 4004 RTP/AVP 0\r\n" + "m=audio 0 RTP/SAVP 0\r\n" + "m=x 9 UDP/TLS/RTP/SAVP 0\r\n"
    wanted = SDP + protected + REQUEST + others + feedback + REQUEST
    assert request_e2ae(SDP + protected + others + feedback) == wanted
    assert request_e2ae(SDP) == SDP


def test_media_entries_of_all_security_server_lines_p22() -> None:
    message = (
        "SIP/2.0 401 Unauthorized\r\n"
        "Security-Server: ipsec-3gpp;alg=hmac-sha-1-96;q=0.1, sdes-srtp ; mediasec\r\n"
        "security-server : msrp-tls;MediaSec\r\nSecurity-Client: dtls-srtp;mediasec\r\n\r\n"
    )
    assert media_mechanisms(message) == ("sdes-srtp ; mediasec", "msrp-tls;MediaSec")
    assert media_mechanisms("") == ()


def test_keys_leave_the_log_and_the_rest_stays_p18() -> None:
    line = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj|2^20|1:4"
    assert redacted(line) == "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:<redacted>|2^20|1:4"
    assert redacted("TX: AES_CM key=0011aaff") == "TX: AES_CM key=<redacted>"
