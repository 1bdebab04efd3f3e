"""Where in a SIP message the session description is: the body, or one part of a multipart body (RFC 5621).

A description that is overlooked would pass with its keys and addresses unchanged, so what cannot be read is
refused."""

from __future__ import annotations

import re
from itertools import pairwise

from msgspec import Struct

from imsalg.errors import PeerError
from imsalg.sip.message import Request, Response

NEGOTIATING = frozenset(("INVITE", "ACK", "PRACK", "UPDATE"))
"""The methods whose messages negotiate media. In others a description is of no use but to leak (OPTIONS may
do without, RFC 3261 section 11.2), so there it does not pass."""

_SDP = re.compile(r"\s*application/sdp\s*(;|$)", re.IGNORECASE)
_CANDIDATES = re.compile(r"\s*application/trickle-ice-sdpfrag\s*(;|$)", re.IGNORECASE)  # RFC 8840 section 9
_MULTIPART = re.compile(r"\s*multipart/", re.IGNORECASE)
_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_PART_TYPE = re.compile(
    rb"(?:^|\r?\n)(?:content-type|c)[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)", re.IGNORECASE
)  # folded, and the compact form that some parsers take here as well

_ENCODED = re.compile(
    rb"(?:^|\r?\n)(?:e|content-encoding|content-transfer-encoding"
    rb"(?![ \t]*:[ \t]*(?:7bit|8bit|binary)))[ \t]*:",
    re.IGNORECASE,
)


class Found(Struct, frozen=True):
    """A session description within a body, with its surroundings: the other parts. What stands before the
    first boundary and behind the last one means nothing (RFC 2046 section 5.1.1) and is left out."""

    before: bytes
    sdp: bytes
    after: bytes

    def __repr__(self) -> str:
        return f"Found({len(self.sdp)} bytes)"  # they may have keys

    def replace(self, message: Request | Response, sdp: bytes) -> None:
        """Put another description in its place."""
        message.set_body(self.before + sdp + self.after, message.headers.get("Content-Type"))


def find_sdp(message: Request | Response) -> Found | None:
    """The description a message carries; None if it has none. Raises PeerError 415 for an encoded body, 400
    for one without a type, for a multipart one that is broken, and for one with two descriptions."""
    if not message.body.strip():
        return None
    content_type = message.headers.get("Content-Type")
    if content_type is None:
        raise PeerError("a body without Content-Type", 400)
    encoding = message.headers.get("Content-Encoding")
    if _SDP.match(content_type):
        if encoding is not None and encoding.lower() != "identity":
            raise PeerError("an encoded session description", 415)
        return Found(b"", message.body, b"")
    if not _MULTIPART.match(content_type):
        return None
    if encoding is not None and encoding.lower() != "identity":
        raise PeerError("an encoded multipart body", 415)
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        raise PeerError("a multipart body without boundary", 400)
    return _in_parts(message.body, (boundary[1] or boundary[2]).encode("utf-8", "surrogateescape"))


def drop_sdp(message: Request | Response) -> None:
    """Take the body away if it has a description, or may have one, or has addresses and passwords for one:
    candidates come in descriptions only."""
    try:
        if find_sdp(message) is None and not _CANDIDATES.match(message.headers.get("Content-Type") or ""):
            return
    except PeerError:
        pass
    message.set_body(b"")


def _in_parts(body: bytes, boundary: bytes) -> Found | None:
    marks = [
        (found.start(), found.end())
        for found in re.finditer(rb"(?:^|\r?\n)--" + re.escape(boundary) + rb"(?:--)?[ \t]*(?=\r?\n|$)", body)
    ]
    if len(marks) < 2:
        raise PeerError("a multipart body without its parts", 400)
    result: Found | None = None
    for (_, start), (end, _) in pairwise(marks):
        part = body[start:end]
        blank = re.search(rb"\r?\n\r?\n", part)
        if blank is None:
            continue
        kind = _PART_TYPE.search(part[: blank.start()])
        name = kind[1].decode("ascii", "replace") if kind else "text/plain"
        if _MULTIPART.match(name):
            raise PeerError("a multipart body within a multipart body", 415)
        if not _SDP.match(name):
            continue
        if _ENCODED.search(part[: blank.start()]):
            raise PeerError("an encoded session description", 415)
        if result is not None:
            raise PeerError("two session descriptions", 400)
        cut = start + blank.end()
        result = Found(body[marks[0][0] : cut], body[cut:end], body[end : marks[-1][1]] + b"\r\n")
    return result
