"""SRTP and SRTCP (RFC 3711) for one direction of one leg, over libsrtp as pylibsrtp carries it.

`Protector` has one key and sends; `Unprotector` has the keys of the peer and receives. Both find the
cryptographic context by SSRC (RFC 3711 section 3.2.3), so a stream may hold several sources and a source may
change its SSRC at any time (trap P15). A context for an SSRC is made by its first packet, on receive only if
that packet was authentic.

Where pylibsrtp stops short: it has no profile for AES_256_CM_HMAC_SHA1_80, so the policy is written over; it
has no call for MKIs, so they are cut out before libsrtp sees the packet; the buffer of its `Session` refuses
packets over 1,356 bytes, so libsrtp is called past it.

One thread only: all contexts work in the same buffer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pylibsrtp import Policy
from pylibsrtp._binding import ffi, lib

from agw.errors import UsageError
from agw.iq.messages import Key, Suite

MAX_PACKET = 2048  # bytes, before and after
MAX_SSRCS = 64  # per context: nobody can make us remember more
REPLAY_WINDOW = 512  # packets; RFC 3711 section 3.3.2 wants at least 64


class Failure(StrEnum):
    """Why a packet could not be protected or unprotected."""

    AUTH_FAILED = "auth_failed"
    REPLAYED = "replayed"  # or older than the replay window
    WRONG_MKI = "wrong_mki"
    MALFORMED = "malformed"
    TOO_LONG = "too_long"
    TOO_MANY_SSRCS = "too_many_ssrcs"
    KEY_EXHAUSTED = "key_exhausted"  # RFC 3711 section 9.2: 2^48 SRTP or 2^31 SRTCP packets
    NO_KEY = "no_key"


class SrtpError(Exception):
    """The packet is to be dropped."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.value)
        self.failure = failure


class Protector:
    """What one side sends. The context, with its roll-over counters, lives as long as the object.

    raises UsageError: the key is not one of its suite.
    """

    __slots__ = ("_session", "key")

    def __init__(self, key: Key) -> None:
        self.key = key
        self._session = _Session(key, lib.ssrc_any_outbound)

    def protect(self, packet: bytes, rtcp: bool) -> bytes:
        """RTP to SRTP, or a compound RTCP packet to SRTCP.

        raises SrtpError: REPLAYED where the sequence number was used before: to encrypt twice with the same
        index is to give the plaintext away (RFC 3711 section 9.1).
        """
        if rtcp:
            return self._session.run(lib.srtp_protect_rtcp, packet, packet[4:8], 8)
        return self._session.run(lib.srtp_protect, packet, packet[8:12], 12)


class Unprotector:
    """What one side receives: one key, or several told apart by MKI (RFC 3711 section 3.1, trap P16).

    raises UsageError: no key, a key that is not one of its suite, or several keys that differ in suite or in
    the length of the MKI, or share an MKI.
    newest: the index of the last packet is above those of all packets of its SSRC that came before it.
    """

    __slots__ = ("_current", "_previous", "keys", "newest")

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(keys)
        self._current = _KeySet(self.keys, {})
        self._previous: _KeySet | None = None
        self.newest = False

    def rekeyed(self, keys: Sequence[Key]) -> Unprotector:
        """Its successor: a key that was there keeps its contexts, another has new ones (trap P14). So that
        none is lost, packets under the keys that worked before are taken until one under the new keys came.
        """
        kept = {**(self._previous.sessions if self._previous else {}), **self._current.sessions}
        successor = Unprotector.__new__(Unprotector)
        successor.keys = tuple(keys)
        successor._current = _KeySet(successor.keys, kept)
        successor._previous = self._previous or self._current
        successor.newest = False
        return successor

    def unprotect(self, packet: bytes, rtcp: bool) -> bytes:
        """SRTP to RTP, or SRTCP to RTCP.

        raises SrtpError: nothing has changed.
        """
        try:
            plain, self.newest = self._current.unprotect(packet, rtcp)
        except SrtpError as error:
            if self._previous is None or error.failure in (Failure.REPLAYED, Failure.TOO_MANY_SSRCS):
                raise
            plain, self.newest = self._previous.unprotect(packet, rtcp)
            return plain
        self._previous = None
        return plain


class _KeySet:
    """Keys that are in force together."""

    __slots__ = ("_by_mki", "_mki_length", "_only", "_tag_lengths", "sessions")

    def __init__(self, keys: tuple[Key, ...], kept: dict[Key, _Session]) -> None:
        mkis = {key.mki for key in keys}
        if len({(key.suite, len(key.mki)) for key in keys}) != 1 or len(mkis) != len(keys):
            raise UsageError("the keys of one direction have one suite, and different MKIs of one length")
        self.sessions = {key: kept.get(key) or _Session(key, lib.ssrc_any_inbound) for key in keys}
        self._by_mki = {key.mki: session for key, session in self.sessions.items()}
        self._mki_length = len(keys[0].mki)
        self._only = self.sessions[keys[0]]
        self._tag_lengths = _TAGS_BEHIND_MKI[keys[0].suite]

    def unprotect(self, packet: bytes, rtcp: bool) -> tuple[bytes, bool]:
        """The packet, and whether it is the newest."""
        session = self._only
        if self._mki_length:
            start = len(packet) - self._tag_lengths[rtcp] - self._mki_length
            end = start + self._mki_length
            if start < 8:
                raise SrtpError(Failure.MALFORMED)
            found = self._by_mki.get(packet[start:end])
            if found is None:
                raise SrtpError(Failure.WRONG_MKI)
            # The tag does not cover the MKI (RFC 3711 section 3.1), so the rest is a packet without one.
            session, packet = found, packet[:start] + packet[end:]
        if rtcp:
            plain = session.run(lib.srtp_unprotect_rtcp, packet, packet[4:8], session.shortest_srtcp)
            at = len(packet) - self._tag_lengths[True] - 4
            index = int.from_bytes(packet[at : at + 4], "big") & 0x7FFFFFFF
            return plain, session.advance((packet[4:8], True), index)
        plain = session.run(lib.srtp_unprotect, packet, packet[8:12], session.shortest_srtp)
        source, sequence = (packet[8:12], False), int.from_bytes(packet[2:4], "big")
        return plain, session.advance(source, guess_index(session.highest.get(source, 0), sequence))


class _Session:
    """One key in libsrtp: a template from which it makes a context for each SSRC."""

    __slots__ = ("_handle", "_srtp", "_ssrcs", "highest", "shortest_srtcp", "shortest_srtp")

    def __init__(self, key: Key, direction: int) -> None:
        policy = _policy(key, direction)
        handle = ffi.new("srtp_t *")
        if lib.srtp_create(handle, policy._policy) != lib.srtp_err_status_ok:
            raise UsageError(f"libsrtp does not take a key of {key.suite.value}")
        self._handle = ffi.gc(handle, _dealloc)
        self._srtp = handle[0]
        self._ssrcs: set[bytes] = set()
        self.highest: dict[tuple[bytes, bool], int] = {}  # index of an SSRC's SRTP, or SRTCP, that has come
        rtp_tag, rtcp_tag = _TAGS[key.suite]
        self.shortest_srtp = 12 + rtp_tag
        self.shortest_srtcp = 8 + 4 + rtcp_tag

    def run(self, function: Any, packet: bytes, ssrc: bytes, shortest: int) -> bytes:
        """One packet through one of libsrtp's functions, which work in place."""
        length = len(packet)
        if length < shortest:
            raise SrtpError(Failure.MALFORMED)
        if length > MAX_PACKET:
            raise SrtpError(Failure.TOO_LONG)
        known = ssrc in self._ssrcs
        if not known and len(self._ssrcs) >= MAX_SSRCS:
            raise SrtpError(Failure.TOO_MANY_SSRCS)
        _octets[0:length] = packet
        _length[0] = length
        status = function(self._srtp, _buffer, _length)
        if status:
            raise SrtpError(_FAILURES.get(status, Failure.MALFORMED))
        if not known:
            self._ssrcs.add(ssrc)
        result: bytes = _octets[0 : _length[0]]
        return result

    def advance(self, source: tuple[bytes, bool], index: int) -> bool:
        """A packet with this index has come; whether none was above it."""
        newest = index >= self.highest.get(source, 0)
        if newest:
            self.highest[source] = index
        return newest


def guess_index(highest: int, sequence: int) -> int:
    """RFC 3711 section 3.3.1 and appendix A, but there is no index before 0: what would be is ahead."""
    roc, last = highest >> 16, highest & 0xFFFF
    if last < 0x8000:
        roc -= sequence - last > 0x8000 and roc > 0
    else:
        roc += last - 0x8000 > sequence
    return roc << 16 | sequence


def _policy(key: Key, direction: int) -> Policy:
    if len(key.material) != key.suite.material_length:
        raise UsageError(f"a key of {key.suite.value} has {key.suite.material_length} bytes")
    policy = Policy(key=key.material, ssrc_type=direction, srtp_profile=_PROFILES[key.suite])
    policy.window_size = REPLAY_WINDOW
    if key.suite is Suite.AES_256_CM_HMAC_SHA1_80:
        for part in (policy._policy.rtp, policy._policy.rtcp):
            ffi.buffer(ffi.addressof(part))[:] = _AES_256_CM_HMAC_SHA1_80
    return policy


def _dealloc(handle: Any) -> None:
    lib.srtp_dealloc(handle[0])


_PROFILES = {
    Suite.AES_CM_128_HMAC_SHA1_80: Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    Suite.AES_CM_128_HMAC_SHA1_32: Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    Suite.AES_256_CM_HMAC_SHA1_80: Policy.SRTP_PROFILE_AES128_CM_SHA1_80,  # then overwritten
    Suite.AEAD_AES_128_GCM: Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    Suite.AEAD_AES_256_GCM: Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}

# srtp_crypto_policy_t: cipher type (AES_ICM_256), key length with salt, authentication type (HMAC_SHA1), its
# key length, tag length, services (both).
_AES_256_CM_HMAC_SHA1_80 = struct.pack("6i", 5, 46, 3, 20, 10, 3)

# Bytes of the authentication tag of SRTP and of SRTCP; only SRTP has the short one (RFC 4568 section 6.2.2).
_TAGS = {
    Suite.AES_CM_128_HMAC_SHA1_80: (10, 10),
    Suite.AES_CM_128_HMAC_SHA1_32: (4, 10),
    Suite.AES_256_CM_HMAC_SHA1_80: (10, 10),
    Suite.AEAD_AES_128_GCM: (16, 16),
    Suite.AEAD_AES_256_GCM: (16, 16),
}

# What stands behind the MKI: the tag, but AEAD's is part of the ciphertext (RFC 7714 sections 8.2 and 9.2).
_TAGS_BEHIND_MKI = {
    suite: (0, 0) if suite in (Suite.AEAD_AES_128_GCM, Suite.AEAD_AES_256_GCM) else tags
    for suite, tags in _TAGS.items()
}

_FAILURES = {  # srtp_err_status_t; what is not here can only come from a packet that breaks the format
    7: Failure.AUTH_FAILED,
    8: Failure.AUTH_FAILED,  # AEAD
    9: Failure.REPLAYED,
    10: Failure.REPLAYED,
    14: Failure.AUTH_FAILED,  # SRTCP with a clear E bit where encryption was agreed
    15: Failure.KEY_EXHAUSTED,
}

_buffer = ffi.new("unsigned char[]", MAX_PACKET + 32)  # room for tag and SRTCP index
_octets = ffi.buffer(_buffer)
_length = ffi.new("int *")
