"""Attribute values: SDES above all, with what peers really send."""

import base64
import traceback

import pytest

from agw.iq.messages import Suite
from imsalg.errors import BadSdp
from imsalg.sdp.attributes import (
    MATERIAL_LENGTH,
    MAX_KEYS,
    Connection,
    Crypto,
    E2aeIndication,
    InlineKey,
    RtcpAttribute,
    e2ae_indication,
    key_mgmt_protocol,
)

SUITE = "AES_CM_128_HMAC_SHA1_80"
MATERIAL = bytes(range(30))
KEY = base64.b64encode(MATERIAL).decode()


def inline(rest: str = "") -> InlineKey:
    (key,) = Crypto.parse(f"1 {SUITE} inline:{KEY}{rest}").keys
    return key


def test_a_crypto_line_is_parsed_and_written() -> None:
    crypto = Crypto.parse(f"1 {SUITE} inline:{KEY}")
    assert crypto == Crypto(1, SUITE, (InlineKey(MATERIAL),))
    assert crypto.known
    assert crypto.plain_srtp
    assert str(crypto) == f"1 {SUITE} inline:{KEY}"


def test_blanks_around_the_fields_are_tolerated_p11() -> None:
    assert Crypto.parse(f" \t7  {SUITE}\tinline:{KEY}   WSH=64 ").tag == 7


@pytest.mark.parametrize(
    ("rest", "lifetime", "mki"),
    [
        ("", None, None),
        ("|2^20", 2**20, None),
        ("|2^48", 2**48, None),
        ("|2^0", 1, None),
        ("|1048576", 2**20, None),
        ("|281474976710656", 2**48, None),
        ("|1:4", None, b"\0\0\0\1"),
        ("|2^31|1:4", 2**31, b"\0\0\0\1"),
        ("|4096|66051:3", 4096, b"\1\2\3"),
        ("|255:1", None, b"\xff"),
        ("|0:1", None, b"\0"),
        ("|1:128", None, bytes(127) + b"\1"),
        ("|1:004", None, b"\0\0\0\1"),
    ],
)
def test_lifetime_and_mki_p11(rest: str, lifetime: int | None, mki: bytes | None) -> None:
    key = inline(rest)
    assert (key.material, key.lifetime, key.mki) == (MATERIAL, lifetime, mki)
    assert InlineKey.parse(str(key)) == key


@pytest.mark.parametrize(
    "rest",
    [
        "|",
        "||",
        "||1:4",
        "|2^20|",
        "|2^49",
        "|2^999999999",
        "|0",
        "|281474976710657",
        "|9999999999999999",
        "|-1",
        "|2^",
        "|3^2",
        "|0x10",
        "|²",
        "|1:0",
        "|1:129",
        "|1:",
        "|:4",
        "|256:1",
        "|-1:4",
        "|" + "9" * 400 + ":128",
        "|1:4|2^20",
        "|2^20|1:4|x",
        "|2^20|2^20",
    ],
)
def test_a_bad_lifetime_or_mki_refuses_the_line_p16(rest: str) -> None:
    with pytest.raises(BadSdp):
        inline(rest)


def test_several_keys_are_told_apart_by_their_mki_p11() -> None:
    crypto = Crypto.parse(f"1 {SUITE} inline:{KEY}|2^20|1:2;inline:{KEY}|2^20|2:2; INLINE:{KEY}|3:2 WSH=128")
    assert [key.mki for key in crypto.keys] == [b"\0\1", b"\0\2", b"\0\3"]
    assert crypto.session_params == ("WSH=128",)
    assert Crypto.parse(str(crypto)) == crypto


@pytest.mark.parametrize(
    "keys",
    [
        f"inline:{KEY};inline:{KEY}",
        f"inline:{KEY}|1:2;inline:{KEY}",
        f"inline:{KEY}|1:2;inline:{KEY}|2:4",
        f"inline:{KEY}|1:2;inline:{KEY}|1:2",
        f"inline:{KEY}|1:2;",
        ";".join(f"inline:{KEY}|{mki}:2" for mki in range(MAX_KEYS + 1)),
    ],
)
def test_several_keys_without_distinct_mkis_refuse_the_line_p16(keys: str) -> None:
    with pytest.raises(BadSdp):
        Crypto.parse(f"1 {SUITE} {keys}")


@pytest.mark.parametrize("suite", MATERIAL_LENGTH)
@pytest.mark.parametrize("padding", ["", "=", "==", "===="])
def test_padding_may_be_missing_or_too_much_p11(suite: str, padding: str) -> None:
    material = bytes(range(MATERIAL_LENGTH[suite]))
    bare = base64.b64encode(material).decode().rstrip("=")
    crypto = Crypto.parse(f"1 {suite} inline:{bare}{padding}")
    assert crypto.keys == (InlineKey(material),)
    assert Crypto.parse(str(crypto)) == crypto


@pytest.mark.parametrize("suite", MATERIAL_LENGTH)
def test_the_key_has_the_length_of_its_suite_p11(suite: str) -> None:
    for wrong in (0, 16, MATERIAL_LENGTH[suite] - 1, MATERIAL_LENGTH[suite] + 1):
        with pytest.raises(BadSdp):
            Crypto.parse(f"1 {suite} inline:{base64.b64encode(bytes(wrong)).decode()}")


def test_the_suites_of_the_gateway_are_known_with_the_same_lengths() -> None:
    assert {suite.value: suite.material_length for suite in Suite}.items() <= MATERIAL_LENGTH.items()


def test_a_suite_is_known_whatever_its_case() -> None:
    assert Crypto.parse(f"1 {SUITE.lower()} inline:{KEY}").suite == SUITE


def test_an_unknown_suite_is_parsed_and_can_be_skipped_p11() -> None:
    crypto = Crypto.parse("2 AES_CM_512_Whirlpool inline:AAAA|2^20|1:4")
    assert (crypto.suite, crypto.known) == ("AES_CM_512_Whirlpool", False)


@pytest.mark.parametrize(
    "param",
    [
        "KDR=0",
        "KDR=24",
        "UNENCRYPTED_SRTP",
        "UNENCRYPTED_SRTCP",
        "UNAUTHENTICATED_SRTP",
        "unauthenticated_srtp",
        "FEC_ORDER=FEC_SRTP",
        "FEC_ORDER=SRTP_FEC",
        f"FEC_KEY=inline:{KEY}|2^20|1:4",
    ],
)
def test_session_parameters_that_change_srtp_are_seen_p11(param: str) -> None:
    crypto = Crypto.parse(f"1 {SUITE} inline:{KEY} WSH=64 {param}")
    assert crypto.session_params == ("WSH=64", param)
    assert not crypto.plain_srtp


def test_a_window_size_and_ignorable_parameters_change_nothing_p11() -> None:
    crypto = Crypto.parse(f"1 {SUITE} inline:{KEY} -KDR=9 WSH=10000 -x")
    assert crypto.session_params == ("WSH=10000",)
    assert crypto.plain_srtp


@pytest.mark.parametrize(
    "param",
    ["KDR=25", "KDR", "KDR=-1", "FEC_ORDER=x", "FEC_KEY=clear:x", "WSH=", "UNENCRYPTED_SRTPX", "X=1", "x"],
)
def test_an_unknown_session_parameter_refuses_the_line_p11(param: str) -> None:
    with pytest.raises(BadSdp):
        Crypto.parse(f"1 {SUITE} inline:{KEY} {param}")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        f"1 {SUITE}",
        f"x {SUITE} inline:{KEY}",
        f"-1 {SUITE} inline:{KEY}",
        f"1234567890 {SUITE} inline:{KEY}",
        f"² {SUITE} inline:{KEY}",
        f"1 inline:{KEY} inline:{KEY}",
        f"1 {SUITE} uri:{KEY}",
        f"1 {SUITE} {KEY}",
        f"1 {SUITE} inline:",
        f"1 {SUITE} inline:{KEY[:-1]}!",
        f"1 {SUITE} inline:{KEY[:-2]}=A",
        f"1 {SUITE} inline:{KEY}A",
        f"1 {SUITE} inline:{'é' * 40}",
        f"1 {SUITE} inline:\udcff",
        f"1 {SUITE} inline:{KEY}\x00",
    ],
)
def test_a_malformed_line_is_refused(value: str) -> None:
    with pytest.raises(BadSdp):
        Crypto.parse(value)


def test_no_repr_shows_a_key_p18() -> None:
    crypto = Crypto.parse(f"1 {SUITE} inline:{KEY}|77:1 FEC_KEY=inline:{KEY}")
    shown = repr((crypto, crypto.keys, str(crypto.keys)))
    assert KEY not in shown
    assert repr(MATERIAL)[2:8] not in shown
    assert "77" not in shown


@pytest.mark.parametrize(
    "value",
    [
        f"1 {SUITE} inline:{KEY}A",
        f"1 {SUITE} inline:{KEY}|x",
        f"1 {SUITE} inline:{KEY} FEC_KEY={KEY}",
        f"{KEY}",
    ],
)
def test_no_exception_shows_a_key_p18(value: str) -> None:
    with pytest.raises(BadSdp) as caught:
        Crypto.parse(value)
    assert KEY not in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_rtcp() -> None:
    assert RtcpAttribute.parse("53020") == RtcpAttribute(53020)
    full = RtcpAttribute.parse(" 53020 IN IP6 2001:db8::1 ")
    assert full == RtcpAttribute(53020, Connection("IP6", "2001:db8::1"))
    assert str(full) == "53020 IN IP6 2001:db8::1"
    assert str(RtcpAttribute(9)) == "9"


@pytest.mark.parametrize(
    "value", ["", "x", "65536", "-1", "1 IN", "1 IN IP4", "1 IN IP4 a b", "1 TN RFC2543 1", "³"]
)
def test_a_bad_rtcp_is_refused(value: str) -> None:
    with pytest.raises(BadSdp):
        RtcpAttribute.parse(value)


def test_connections() -> None:
    assert Connection.parse(" in  ip4 224.2.1.1/127/3 ") == Connection("IP4", "224.2.1.1/127/3")
    assert Connection("IP4", "224.2.1.1/127/3").host == "224.2.1.1"
    assert str(Connection("IP6", "::1")) == "IN IP6 ::1"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "0:0:0:0:0:0:0:0"])
def test_the_unspecified_address_is_recognised_p35(address: str) -> None:
    assert Connection("IP4", address).unspecified


@pytest.mark.parametrize("address", ["192.0.2.1", "::1", "host.example", "", "0"])
def test_other_addresses_are_not_unspecified(address: str) -> None:
    assert not Connection("IP4", address).unspecified


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        (["requested"], E2aeIndication.REQUESTED),
        (["applied"], E2aeIndication.APPLIED),
        ([" \tRequested "], E2aeIndication.REQUESTED),
        (["offered"], None),
        ([""], None),
        (["requestedx"], None),
        (["requested applied"], None),
        (["offered", "applied", "requested"], E2aeIndication.APPLIED),
    ],
)
def test_the_e2ae_indication_ignores_other_tokens_p19(
    values: list[str], expected: E2aeIndication | None
) -> None:
    assert e2ae_indication(values) is expected


def test_key_management() -> None:
    assert key_mgmt_protocol(" MIKEY AQAFgM0XflABAAAAAAAAAAAAAAsAyO") == "mikey"
    for bad in ("", "mikey", "mikey a b"):
        with pytest.raises(BadSdp):
            key_mgmt_protocol(bad)
