"""DTLS records (RFC 6347 section 4.1), so far as they can be seen from outside (no IO, no OpenSSL)."""

from __future__ import annotations

from collections.abc import Iterator

MAX_MESSAGE = 1 << 14  # bytes of a handshake message

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE = 20, 21, 22  # the first octet of a record
_HEADER = 13  # of a record
_MESSAGE_HEADER = 12  # of a handshake message, or a fragment of one
_CLIENT_HELLO = 1
_FINISHED = _HEADER + 8 + _MESSAGE_HEADER + 12 + 16  # RFC 5246 section 7.4.9, under AES-GCM (RFC 5288)


def records(datagram: bytes) -> Iterator[bytes]:
    """Those of a datagram; what is cut off at its end is none."""
    at = 0
    while at + _HEADER <= len(datagram):
        end = at + _HEADER + int.from_bytes(datagram[at + 11 : at + 13], "big")
        if end > len(datagram):
            return
        yield datagram[at:end]
        at = end


def epoch(record: bytes) -> int:
    """0: in the clear."""
    return int.from_bytes(record[3:5], "big")


def record_number(record: bytes) -> int:
    """Of an association's, each has a higher one than those that were sent before it."""
    return int.from_bytes(record[3:11], "big")  # epoch and sequence number


def fits(record: bytes) -> bool:
    """Of a record in the clear: it belongs in a handshake, and no message or fragment in it tells of one that
    is too long. (At others in the clear OpenSSL gives up.)"""
    if record[0] != HANDSHAKE:
        return record[0] in (CHANGE_CIPHER_SPEC, ALERT)
    at = _HEADER
    while at + _MESSAGE_HEADER <= len(record):  # RFC 6347 section 4.2.2
        if int.from_bytes(record[at + 1 : at + 4], "big") > MAX_MESSAGE:
            return False
        at += _MESSAGE_HEADER + int.from_bytes(record[at + 9 : at + 12], "big")
    return True


def may_be_finished(record: bytes) -> bool:
    """Of a record under keys."""
    return record[0] == HANDSHAKE and len(record) == _FINISHED


def is_client_hello(datagram: bytes) -> bool:
    """A handshake record in the clear, whose first message is one."""
    return (
        len(datagram) > _HEADER
        and datagram[0] == HANDSHAKE
        and datagram[1] == 0xFE
        and not epoch(datagram)
        and datagram[_HEADER] == _CLIENT_HELLO
    )
