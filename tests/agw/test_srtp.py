"""SRTP against three others: the vectors of the RFCs, a second implementation from their text, and the
`Session` of pylibsrtp where it has the suite. All of it both with libsrtp and with the native transforms."""

from __future__ import annotations

import hmac
import logging
import random
from collections.abc import Callable
from contextlib import suppress

import pylibsrtp
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agw.errors import UsageError
from agw.iq.messages import Key, Suite
from agw.srtp import MAX_PACKET, MAX_SSRCS, REPLAY_WINDOW, Failure, Protector, SrtpError, Unprotector
from tests.agw import native_srtp


@pytest.fixture(autouse=True, params=["libsrtp", "native"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "native":
        monkeypatch.setitem(globals(), "Protector", native_srtp.Protector)
        monkeypatch.setitem(globals(), "Unprotector", native_srtp.Unprotector)
    return request.param


# Changes of keys are packet.c's with the native Plane: test_planes.py has them.
libsrtp_only = pytest.mark.parametrize("implementation", ["libsrtp"], indirect=True)

ALL = list(Suite)
AEAD = (Suite.AEAD_AES_128_GCM, Suite.AEAD_AES_256_GCM)
KINDS = [pytest.param(False, id="srtp"), pytest.param(True, id="srtcp")]
PROFILES = {
    Suite.AES_CM_128_HMAC_SHA1_80: pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    Suite.AES_CM_128_HMAC_SHA1_32: pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    Suite.AEAD_AES_128_GCM: pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    Suite.AEAD_AES_256_GCM: pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}
TAGS = {suite: 4 if suite.endswith("_32") else 16 if suite in AEAD else 10 for suite in Suite}
RNG = random.Random(3711)


def key_of(suite: Suite, mki: bytes = b"") -> Key:
    return Key(suite, RNG.randbytes(suite.material_length), mki)


def rtp(sequence: int, ssrc: int = 0xCAFEBABE, payload: bytes = b"\xab" * 160) -> bytes:
    return b"\x80\x00" + sequence.to_bytes(2, "big") + bytes(4) + ssrc.to_bytes(4, "big") + payload


def rtcp(ssrc: int = 0xCAFEBABE, payload: bytes = b"\xab" * 20) -> bytes:
    return b"\x80\xc8" + ((len(payload) + 4) // 4).to_bytes(2, "big") + ssrc.to_bytes(4, "big") + payload


def a_packet(is_rtcp: bool) -> bytes:
    return rtcp() if is_rtcp else rtp(1)


def failure(call: Callable[[], object]) -> Failure:
    with pytest.raises(SrtpError) as caught:
        call()
    return caught.value.failure


# -- a second implementation, from RFC 3711, RFC 6188 and RFC 7714 ---------------------------------


def keystream(key: bytes, iv: int, length: int) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(iv.to_bytes(16, "big"))).encryptor().update(bytes(length))


def derive(key: bytes, salt: bytes, label: int, length: int) -> bytes:
    """RFC 3711 section 4.3.1 with a key derivation rate of 0; RFC 7714 section 11 for the short salt."""
    return keystream(key, (int.from_bytes(salt.ljust(14, b"\0"), "big") ^ label << 48) << 16, length)


def exclusive_or(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def reference(key: Key, packet: bytes, index: int, is_rtcp: bool) -> bytes:
    """index: roll-over counter and sequence number (48 bits), or the SRTCP index (31 bits)."""
    salt_length = 12 if key.suite in AEAD else 14
    master, salt = key.material[:-salt_length], key.material[-salt_length:]
    labels = (3, 4, 5) if is_rtcp else (0, 1, 2)
    k_e, k_a = derive(master, salt, labels[0], len(master)), derive(master, salt, labels[1], 20)
    k_s = derive(master, salt, labels[2], salt_length)
    head, ssrc = (8, packet[4:8]) if is_rtcp else (12, packet[8:12])
    trailer = (1 << 31 | index).to_bytes(4, "big") if is_rtcp else b""
    if key.suite in AEAD:
        iv = exclusive_or(k_s, bytes(2) + ssrc + index.to_bytes(6, "big"))
        return packet[:head] + AESGCM(k_e).encrypt(iv, packet[head:], packet[:head] + trailer) + trailer
    iv_number = int.from_bytes(k_s, "big") << 16 ^ int.from_bytes(ssrc, "big") << 64 ^ index << 16
    stream = keystream(k_e, iv_number, len(packet) - head)
    protected = packet[:head] + exclusive_or(packet[head:], stream) + trailer
    rollover = b"" if is_rtcp else (index >> 16).to_bytes(4, "big")
    tag = 10 if is_rtcp else TAGS[key.suite]
    return protected + hmac.digest(k_a, protected + rollover, "sha1")[:tag]


@pytest.mark.parametrize(
    ("master", "salt", "k_e", "k_s", "k_a"),
    [
        pytest.param(
            "e1f97a0d3e018be0d64fa32c06de4139",
            "0ec675ad498afeebb6960b3aabe6",
            "c61e7a93744f39ee10734afe3ff7a087",
            "30cbbc08863d8c85d49db34a9ae1",
            "cebe321f6ff7716b6fd4ab49af256a156d38baa4",
            id="RFC 3711 B.3",
        ),
        pytest.param(
            "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6",
            "3b04803de51ee7c96423ab5b78d2",
            "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4",
            "fa31791685ca444a9e07c6c64e93",
            "fd9c32d39ed5fbb5a9dc96b30818454d1313dc05",
            id="RFC 6188 7.2",
        ),
    ],
)
def test_the_reference_derives_the_keys_of_the_rfcs(
    master: str, salt: str, k_e: str, k_s: str, k_a: str
) -> None:
    key, of = bytes.fromhex(master), bytes.fromhex(salt)
    assert derive(key, of, 0, len(key)).hex() == k_e
    assert derive(key, of, 1, 20).hex() == k_a
    assert derive(key, of, 2, 14).hex() == k_s


def test_the_reference_makes_the_keystream_of_rfc_3711_b_2() -> None:
    key, iv = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"), 0xF0F1F2F3F4F5F6F7F8F9FAFBFCFD0000
    assert keystream(key, iv, 48).hex() == (
        "e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab41e95b3bb0a2e8dd477901e4fca894c0"
    )


# The packets of libsrtp's own test driver, made with the master keys of RFC 3711 B.3 and RFC 6188 7.2.
KEY_128 = Key(
    Suite.AES_CM_128_HMAC_SHA1_80,
    bytes.fromhex("e1f97a0d3e018be0d64fa32c06de41390ec675ad498afeebb6960b3aabe6"),
)
KEY_256 = Key(
    Suite.AES_256_CM_HMAC_SHA1_80,
    bytes.fromhex(
        "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b63b04803de51ee7c96423ab5b78d2"
    ),
)
PLAIN_RTP = bytes.fromhex("800f1234decafbadcafebabe" + "ab" * 16)
PLAIN_RTCP = bytes.fromhex("81c8000bcafebabe" + "ab" * 16)


@pytest.mark.parametrize(
    ("key", "is_rtcp", "protected"),
    [
        (KEY_128, False, "4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb"),
        (KEY_128, True, "7128035be487b9bdbef89041f977a5a880000001993e08cd54d6c1230798"),
        (KEY_256, False, "f1d9de17ff251ff1aa007774b0b4b40da08d9d9a5b3a55d8873b"),
    ],
)
def test_known_packets_are_made_and_read(key: Key, is_rtcp: bool, protected: str) -> None:
    plain = PLAIN_RTCP if is_rtcp else PLAIN_RTP
    expected = plain[: 8 if is_rtcp else 12] + bytes.fromhex(protected)
    assert Protector(key).protect(plain, is_rtcp) == expected
    assert Unprotector([key]).unprotect(expected, is_rtcp) == plain


@pytest.mark.parametrize(
    ("key", "protected"),
    [
        (
            "000102030405060708090a0b0c0d0e0f",
            "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833"
            "899d7f27beb16a9152cf765ee4390cce",
        ),
        (
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b"
            "7aa3db36dfffd6b0f9bb7878d7a76c13",
        ),
    ],
)
def test_rfc_7714_section_16_1_is_what_the_reference_does_with_session_keys(key: str, protected: str) -> None:
    # The RFC's vectors begin at session keys, which libsrtp does not take; the reference stands between.
    header = bytes.fromhex("8040f17b8041f8d35501a0b2")
    iv = exclusive_or(b"Quid pro quo", bytes(2) + header[8:12] + bytes(4) + header[2:4])
    made = AESGCM(bytes.fromhex(key)).encrypt(iv, b"Gallia est omnis divisa in partes tres", header)
    assert made.hex() == protected


@pytest.mark.parametrize("suite", ALL)
def test_srtp_is_as_the_reference_makes_it_also_past_the_end_of_the_sequence_numbers(suite: Suite) -> None:
    key = key_of(suite)
    protector, unprotector = Protector(key), Unprotector([key])
    for index in (0xFFFE, 0xFFFF, 0x10000, 0x10001):
        plain = rtp(index & 0xFFFF, payload=RNG.randbytes(RNG.randrange(1400)))
        protected = reference(key, plain, index, False)
        assert protector.protect(plain, False) == protected
        assert unprotector.unprotect(protected, False) == plain


@pytest.mark.parametrize("suite", ALL)
def test_srtcp_is_as_the_reference_makes_it(suite: Suite) -> None:
    key = key_of(suite)
    protector, unprotector = Protector(key), Unprotector([key])
    for index in (1, 2, 3):  # libsrtp begins with 1
        plain = rtcp(payload=RNG.randbytes(4 * RNG.randrange(1, 100)))
        protected = reference(key, plain, index, True)
        assert protector.protect(plain, True) == protected
        assert unprotector.unprotect(protected, True) == plain


@pytest.mark.parametrize("is_rtcp", KINDS)
def test_a_packet_is_the_newest_if_none_of_its_source_was_ahead_of_it(is_rtcp: bool) -> None:
    key = key_of(Suite.AEAD_AES_128_GCM)
    protector, unprotector = Protector(key), Unprotector([key])
    for ssrc in (1, 2):
        wire = [
            protector.protect(rtcp(ssrc) if is_rtcp else rtp(0xFFFE + n & 0xFFFF, ssrc), is_rtcp)
            for n in range(6)
        ]
        newest = []
        for n in (0, 2, 1, 4, 3, 5):  # 2 is past the end of the sequence numbers
            unprotector.unprotect(wire[n], is_rtcp)
            newest.append(unprotector.newest)
        assert newest == [True, True, False, True, False, True]


@pytest.mark.parametrize("suite", PROFILES)
def test_an_independent_pylibsrtp_session_reads_and_writes_the_same(suite: Suite) -> None:
    key = key_of(suite)

    def session(direction: int) -> pylibsrtp.Session:
        policy = pylibsrtp.Policy(key=key.material, ssrc_type=direction, srtp_profile=PROFILES[suite])
        return pylibsrtp.Session(policy)

    sends, receives = (
        session(way) for way in (pylibsrtp.Policy.SSRC_ANY_OUTBOUND, pylibsrtp.Policy.SSRC_ANY_INBOUND)
    )
    protector, unprotector = Protector(key), Unprotector([key])
    for sequence in range(50):
        plain = rtp(sequence, ssrc=sequence % 3)
        assert receives.unprotect(protector.protect(plain, False)) == plain
        assert unprotector.unprotect(sends.protect(plain), False) == plain
        assert receives.unprotect_rtcp(protector.protect(rtcp(), True)) == rtcp()
        assert unprotector.unprotect(sends.protect_rtcp(rtcp()), True) == rtcp()


# -- MKI -------------------------------------------------------------------------------------------


def with_mki(packet: bytes, suite: Suite, mki: bytes, is_rtcp: bool) -> bytes:
    tag = 0 if suite in AEAD else 10 if is_rtcp else TAGS[suite]
    return packet[: len(packet) - tag] + mki + packet[len(packet) - tag :]


@pytest.mark.parametrize("is_rtcp", KINDS)
@pytest.mark.parametrize("length", [1, 4, 128])
@pytest.mark.parametrize("suite", ALL)
def test_the_mki_selects_the_key_and_is_stripped_p16(suite: Suite, length: int, is_rtcp: bool) -> None:
    keys = [key_of(suite, bytes([n]) * length) for n in (1, 2)]
    unprotector = Unprotector(keys)
    plain = a_packet(is_rtcp)
    for key in (keys[1], keys[0]):
        protected = with_mki(reference(key, plain, 1, is_rtcp), suite, key.mki, is_rtcp)
        assert unprotector.unprotect(protected, is_rtcp) == plain
    unknown = with_mki(reference(keys[0], plain, 2, is_rtcp), suite, b"\x03" * length, is_rtcp)
    assert failure(lambda: unprotector.unprotect(unknown, is_rtcp)) is Failure.WRONG_MKI
    swapped = with_mki(reference(keys[0], rtp(2), 2, False), suite, keys[1].mki, False)
    assert failure(lambda: unprotector.unprotect(swapped, False)) is Failure.AUTH_FAILED


@pytest.mark.parametrize("suite", ALL)
def test_a_packet_without_the_agreed_mki_is_refused_p16(suite: Suite) -> None:
    key = key_of(suite, b"\x00\x01")
    unprotector = Unprotector([key])
    assert (
        failure(lambda: unprotector.unprotect(reference(key, rtp(1), 1, False), False)) is Failure.WRONG_MKI
    )
    assert failure(lambda: unprotector.unprotect(b"\x80" + bytes(8), False)) is Failure.MALFORMED


# -- what must not pass ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_rtcp", KINDS)
@pytest.mark.parametrize("suite", ALL)
def test_another_key_and_every_changed_octet_fail(suite: Suite, is_rtcp: bool) -> None:
    key = key_of(suite)
    protected = Protector(key).protect(a_packet(is_rtcp), is_rtcp)
    assert failure(lambda: Unprotector([key_of(suite)]).unprotect(protected, is_rtcp)) is Failure.AUTH_FAILED
    unprotector = Unprotector([key])
    for place in range(len(protected)):
        forged = bytearray(protected)
        forged[place] ^= 0x01
        with pytest.raises(SrtpError):
            unprotector.unprotect(bytes(forged), is_rtcp)
    assert unprotector.unprotect(protected, is_rtcp) == a_packet(is_rtcp)


@pytest.mark.parametrize("is_rtcp", KINDS)
@pytest.mark.parametrize("suite", ALL)
def test_every_truncation_fails(suite: Suite, is_rtcp: bool) -> None:
    key = key_of(suite)
    protected = Protector(key).protect(a_packet(is_rtcp), is_rtcp)
    unprotector = Unprotector([key])
    for length in range(len(protected)):
        with pytest.raises(SrtpError):
            unprotector.unprotect(protected[:length], is_rtcp)
    assert unprotector.unprotect(protected, is_rtcp) == a_packet(is_rtcp)


@pytest.mark.parametrize("suite", ALL)
def test_noise_is_refused_with_an_srtp_error_only(suite: Suite) -> None:
    unprotector = Unprotector([key_of(suite)])
    protector = Protector(key_of(suite))
    for _ in range(2000):
        noise = bytes([RNG.choice((0x80, 0x90, 0xBF, RNG.getrandbits(8)))]) + RNG.randbytes(RNG.randrange(64))
        for is_rtcp in (False, True):
            with pytest.raises(SrtpError):
                unprotector.unprotect(noise, is_rtcp)
            with suppress(SrtpError):
                protector.protect(noise, is_rtcp)


@pytest.mark.parametrize("is_rtcp", KINDS)
@pytest.mark.parametrize("suite", ALL)
def test_a_packet_is_taken_once(suite: Suite, is_rtcp: bool) -> None:
    key = key_of(suite)
    protected = Protector(key).protect(a_packet(is_rtcp), is_rtcp)
    unprotector = Unprotector([key])
    unprotector.unprotect(protected, is_rtcp)
    assert failure(lambda: unprotector.unprotect(protected, is_rtcp)) is Failure.REPLAYED


def test_late_packets_within_the_window_are_taken_and_older_ones_not_p15() -> None:
    key = key_of(Suite.AES_CM_128_HMAC_SHA1_80)
    packets = {n: reference(key, rtp(n), n, False) for n in (1, 2, 2 + REPLAY_WINDOW - 1)}
    unprotector = Unprotector([key])
    unprotector.unprotect(packets[2 + REPLAY_WINDOW - 1], False)
    assert unprotector.unprotect(packets[2], False) == rtp(2)
    assert failure(lambda: unprotector.unprotect(packets[1], False)) is Failure.REPLAYED


@pytest.mark.parametrize("suite", ALL)
def test_a_sequence_number_is_encrypted_once(suite: Suite) -> None:
    protector = Protector(key_of(suite))
    protector.protect(rtp(7), False)
    assert failure(lambda: protector.protect(rtp(7, payload=b"other"), False)) is Failure.REPLAYED


@pytest.mark.parametrize("suite", ALL)
def test_a_jump_of_the_sequence_and_a_new_ssrc_need_nothing_p15(suite: Suite) -> None:
    key = key_of(suite)
    protector, unprotector = Protector(key), Unprotector([key])
    for sequence, ssrc in ((1, 1), (30000, 1), (60000, 1), (5, 2), (60001, 1), (6, 2)):
        plain = rtp(sequence, ssrc)
        assert unprotector.unprotect(protector.protect(plain, False), False) == plain


def test_only_so_many_sources_are_remembered_and_forged_ones_are_not() -> None:
    key = key_of(Suite.AES_CM_128_HMAC_SHA1_80)
    protector, unprotector = Protector(key), Unprotector([key])
    for ssrc in range(10 * MAX_SSRCS):
        with pytest.raises(SrtpError):
            unprotector.unprotect(rtp(1, ssrc), False)
    for ssrc in range(MAX_SSRCS):
        unprotector.unprotect(protector.protect(rtp(1, ssrc), False), False)
    assert failure(lambda: protector.protect(rtp(1, MAX_SSRCS), False)) is Failure.TOO_MANY_SSRCS
    another = reference(key, rtp(1, MAX_SSRCS), 1, False)
    assert failure(lambda: unprotector.unprotect(another, False)) is Failure.TOO_MANY_SSRCS
    assert unprotector.unprotect(protector.protect(rtp(2, 0), False), False) == rtp(2, 0)


@pytest.mark.parametrize("suite", ALL)
def test_the_longest_packet_is_carried_and_a_longer_one_refused(suite: Suite) -> None:
    key = key_of(suite)
    protector = Protector(key)
    longest = rtp(1, payload=bytes(MAX_PACKET - TAGS[suite] - 12))
    assert Unprotector([key]).unprotect(protector.protect(longest, False), False) == longest
    assert failure(lambda: protector.protect(rtp(2, payload=bytes(MAX_PACKET)), False)) is Failure.TOO_LONG


# -- keys that change ------------------------------------------------------------------------------


@libsrtp_only
def test_a_new_key_takes_over_with_its_first_packet_and_none_is_lost_p14() -> None:
    old, new = key_of(Suite.AES_CM_128_HMAC_SHA1_80), key_of(Suite.AEAD_AES_256_GCM)
    before, after = Protector(old), Protector(new)
    unprotector = Unprotector([old])
    for sequence in (1, 2):
        unprotector.unprotect(before.protect(rtp(sequence), False), False)
    unprotector = unprotector.rekeyed([new])
    late = before.protect(rtp(3), False)
    assert unprotector.unprotect(before.protect(rtp(4), False), False) == rtp(4)
    assert unprotector.unprotect(after.protect(rtp(5), False), False) == rtp(5)
    assert failure(lambda: unprotector.unprotect(late, False)) is Failure.AUTH_FAILED


@libsrtp_only
def test_a_key_that_stays_keeps_its_replay_window_and_roll_over_counter_p14() -> None:
    key = key_of(Suite.AES_CM_128_HMAC_SHA1_80)
    unprotector = Unprotector([key])
    for index in (0xFFFF, 0x10000):
        unprotector.unprotect(reference(key, rtp(index & 0xFFFF), index, False), False)
    successor = unprotector.rekeyed([key])
    assert (
        failure(lambda: successor.unprotect(reference(key, rtp(0), 0x10000, False), False))
        is Failure.REPLAYED
    )
    assert successor.unprotect(reference(key, rtp(1), 0x10001, False), False) == rtp(1)


@libsrtp_only
def test_a_change_that_is_taken_back_leaves_all_as_it_was_p29() -> None:
    old, never = key_of(Suite.AES_CM_128_HMAC_SHA1_80), key_of(Suite.AES_CM_128_HMAC_SHA1_80)
    unprotector = Unprotector([old])
    for index in (0xFFFF, 0x10000):
        unprotector.unprotect(reference(old, rtp(index & 0xFFFF), index, False), False)
    restored = unprotector.rekeyed([never]).rekeyed([old])
    assert (
        failure(lambda: restored.unprotect(reference(old, rtp(0), 0x10000, False), False)) is Failure.REPLAYED
    )
    assert restored.unprotect(reference(old, rtp(1), 0x10001, False), False) == rtp(1)


@libsrtp_only
def test_a_second_change_before_the_first_was_seen_still_takes_the_key_that_works_p14() -> None:
    keys = [key_of(Suite.AES_CM_128_HMAC_SHA1_80) for _ in range(3)]
    protector = Protector(keys[0])
    unprotector = Unprotector(keys[:1])
    unprotector.unprotect(protector.protect(rtp(1), False), False)
    unprotector = unprotector.rekeyed(keys[1:2]).rekeyed(keys[2:])
    assert unprotector.unprotect(protector.protect(rtp(2), False), False) == rtp(2)


# -- what callers get wrong, and what nobody may see -----------------------------------------------


@pytest.mark.parametrize("suite", ALL)
def test_material_of_another_length_is_refused(suite: Suite) -> None:
    for length in (0, suite.material_length - 1, suite.material_length + 1):
        key = Key(suite, bytes(length))
        with pytest.raises(UsageError):
            Protector(key)
        with pytest.raises(UsageError):
            Unprotector([key])


def test_keys_that_cannot_be_told_apart_are_refused() -> None:
    suite = Suite.AES_CM_128_HMAC_SHA1_80
    for keys in (
        [],
        [key_of(suite), key_of(suite)],
        [key_of(suite, b"1"), key_of(suite, b"1")],
        [key_of(suite, b"1"), key_of(suite, b"22")],
        [key_of(suite, b"1"), key_of(Suite.AEAD_AES_128_GCM, b"2")],
    ):
        with pytest.raises(UsageError):
            Unprotector(keys)


def test_no_key_is_shown_p18(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = Key(Suite.AES_CM_128_HMAC_SHA1_80, b"SECRETSECRETSECRETSECRETSECRET")
    unprotector = Unprotector([key])
    with pytest.raises(SrtpError) as failed:
        unprotector.unprotect(rtp(1), False)
    with pytest.raises(UsageError) as refused:
        Protector(Key(Suite.AEAD_AES_128_GCM, key.material))
    shown = [
        repr(key),
        repr(unprotector),
        repr(Protector(key)),
        repr(failed.value),
        repr(refused.value),
        caplog.text,
    ]
    assert not [text for text in shown if "SECRET" in text or key.material.hex() in text]
