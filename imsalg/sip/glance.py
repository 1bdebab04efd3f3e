"""What a message is, told from its bytes without parsing it, and a refusal made of the same bytes.

For what has to be decided before a message is worth its parsing, which costs ten times as much: when there is
more to do than can be done. A glance may be wrong about a message that is written in an odd way. So what it
says decides only when a message is looked at, and which ones are put off.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from imsalg.sip.grammar import number
from imsalg.sip.hop import MAGIC, Key, Transport
from imsalg.sip.message import REASONS, Request, Response
from imsalg.sip.values import Address


class Kind(Enum):
    CALL = auto()  # an INVITE that begins one
    EMERGENCY = auto()  # the same for a service of RFC 5031
    OTHER = auto()  # another request outside of dialogs: REGISTER, MESSAGE, SUBSCRIBE …
    ONGOING = auto()  # what belongs to something: a response, ACK, CANCEL, a To tag; and what is no message


def glance(data: bytes) -> Kind:
    start = _START.match(data)
    if start is None or start[1] in (b"ACK", b"CANCEL") or _TAGGED.search(data, 0, _end(data)):
        return Kind.ONGOING
    if start[1] != b"INVITE":
        return Kind.OTHER
    return Kind.EMERGENCY if start[2] else Kind.CALL


def kind_of(message: Request | Response) -> Kind:
    """The same of a message that is parsed already."""
    if isinstance(message, Response) or message.method in ("ACK", "CANCEL") or message.to.tag is not None:
        return Kind.ONGOING
    if message.method != "INVITE":
        return Kind.OTHER
    return Kind.EMERGENCY if _SOS.match(message.uri) else Kind.CALL


def key_of(data: bytes) -> Key | None:
    """What the server transaction of a request is found by (`hop.server_key`); None if that cannot be told at
    a glance."""
    start, via = _START.match(data), _VIA.search(data, 0, _end(data))
    branch = _BRANCH.match(data, via.end()) if via else None
    if start is None or via is None or branch is None or not branch[1].startswith(_MAGIC):
        return None
    port = number(via[3].decode(), 65535) if via[3] else None
    method = "INVITE" if start[1] in (b"ACK", b"CANCEL") else start[1].decode("utf-8", "surrogateescape")
    return branch[1].decode("utf-8", "surrogateescape"), _host(via), port, method


def refusal(
    data: bytes, source: Address, status: int, tag: bytes, more: bytes
) -> tuple[bytes, Address] | None:
    """The response to a request that came from `source` as a datagram, and where it goes (RFC 3261 sections
    8.2.6.2 and 18.2.2, RFC 3581). None if that cannot be told at a glance. tag: for To. more: header fields,
    each line with its CRLF."""
    lines = [b"SIP/2.0 %d %s" % (status, REASONS[status].encode())]
    via: re.Match[bytes] | None = None
    to = source
    missing = {b"v", b"f", b"t", b"i", b"cseq"}
    for line in data[: _end(data)].split(b"\r\n")[1:]:
        if (initial := line[:1]) not in _INITIALS:
            continue
        if initial in b" \t":
            return None  # folded
        if (key := _COPIED.get(line[: line.find(b":")].strip().lower())) is None:
            continue
        if key == b"v" and via is None:
            via = _VIA.match(b"\r\n" + line)
            if via is None:
                return None
            rest, asked = _RPORT.subn(b"", via.string[via.end() :], 1)
            stamp = b";received=" + source.host.encode()
            if asked:
                stamp += b";rport=%d" % source.port
            else:
                to = Address(source.host, int(via[3]) if via[3] else Transport.UDP.default_port)
            line = via[0][2:] + stamp + rest
        elif key == b"t":
            line += b";tag=" + tag
        missing.discard(key)
        lines.append(line)
    if missing or not 0 < to.port < 65536:
        return None
    return b"\r\n".join((*lines, more + b"Content-Length: 0\r\n\r\n")), to


def _end(data: bytes) -> int:
    """Where the header fields end."""
    end = data.find(b"\r\n\r\n")
    return end if end >= 0 else len(data)


def _host(via: re.Match[bytes]) -> str:
    return via[2].decode().strip("[]").lower()


_SOS = re.compile(r"urn:service:sos(?:\.|\Z)", re.IGNORECASE)
_START = re.compile(
    rb"[\r\n]*+([^\x00-\x20]++) (urn:service:sos(?=[. ]))?[^\x00-\x20]*+ SIP/2\.0\r\n", re.IGNORECASE
)
_TAGGED = re.compile(
    rb"\r\n(?:to|t)[ \t]*+:(?:[^\r\n<]*+<[^\r\n>]*+>)?[^\r\n<]*?;[ \t]*+tag[ \t]*+=", re.IGNORECASE
)
_VIA = re.compile(
    rb"\r\n(via|v)[ \t]*+:[ \t]*+SIP/2\.0/[A-Z]++[ \t]++(\[[0-9a-f:.]++\]|[a-z0-9._\-]++)(?::([0-9]{1,5}))?"
    rb"(?=[;, \t]|\r|\Z)",
    re.IGNORECASE,
)
_BRANCH = re.compile(rb"[^\r\n,]*?;[ \t]*+branch=([^\x00-\x20;,]++)", re.IGNORECASE)
_RPORT = re.compile(rb";rport(?=[;,]|\Z)", re.IGNORECASE)
_MAGIC = MAGIC.encode()
_COPIED = {
    **dict.fromkeys((b"via", b"v"), b"v"),
    **dict.fromkeys((b"from", b"f"), b"f"),
    **dict.fromkeys((b"to", b"t"), b"t"),
    **dict.fromkeys((b"call-id", b"i"), b"i"),
    b"cseq": b"cseq",
}
_INITIALS = frozenset(
    (b"", b" ", b"\t", *(name[:1] for name in _COPIED), *(name[:1].upper() for name in _COPIED))
)
