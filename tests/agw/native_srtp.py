"""The transforms of `agw.native` in the shape of `agw.srtp`, so that one set of tests does for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agw.native._relay import ffi, lib

from agw.iq.messages import Key
from agw.relay import _key, _key_set
from agw.srtp import Failure, SrtpError

FAILURES = {
    lib.SRTP_AUTH_FAILED: Failure.AUTH_FAILED,
    lib.SRTP_REPLAYED: Failure.REPLAYED,
    lib.SRTP_WRONG_MKI: Failure.WRONG_MKI,
    lib.SRTP_MALFORMED: Failure.MALFORMED,
    lib.SRTP_TOO_LONG: Failure.TOO_LONG,
    lib.SRTP_TOO_MANY_SSRCS: Failure.TOO_MANY_SSRCS,
    lib.SRTP_KEY_EXHAUSTED: Failure.KEY_EXHAUSTED,
}
ENGINE = ffi.gc(lib.srtp_engine_new(), lib.srtp_engine_free)


class Protector:
    def __init__(self, key: Key) -> None:
        self.key = key
        self._key = _key(key, sends=True)

    def protect(self, packet: bytes, rtcp: bool) -> bytes:
        return run(lib.srtp_protect_packet, self._key, packet, rtcp)


class Unprotector:
    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(keys)
        self._keys = _key_set(self.keys, {})
        self.newest = False

    def unprotect(self, packet: bytes, rtcp: bool) -> bytes:
        plain = run(lib.srtp_unprotect_packet, self._keys.shown, packet, rtcp, _newest)
        self.newest = bool(_newest[0])
        return plain


_buffer = ffi.new("uint8_t[]", 4 * lib.SRTP_MAX_PACKET)
_octets = ffi.buffer(_buffer)
_length = ffi.new("size_t *")
_newest = ffi.new("bool *")


def run(function: Any, keys: Any, packet: bytes, rtcp: bool, *told: Any) -> bytes:
    _octets[: len(packet)] = packet
    _length[0] = len(packet)
    if result := function(ENGINE, keys, rtcp, _buffer, _length, *told):
        raise SrtpError(FAILURES[result])
    return bytes(_octets[: _length[0]])
