"""Header field values as records: each with parse(text), which raises BadMessage, and str() for the way back.

Header lines that nobody touches never pass through here (see headers.py), so str() may normalise white space.
parse() is cached on the text: the parts of one message are looked at many times, and peers repeat themselves.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

from imsalg.errors import BadMessage
from imsalg.sip.grammar import (
    MAX_PARAMS,
    QUOTED,
    TOKEN,
    URI_CHARS,
    Params,
    find_param,
    format_host_port,
    format_params,
    number,
    parse_params,
    quote,
    split_host_port,
    unquote,
)

MAX_CSEQ = 2**31 - 1  # RFC 3261 section 8.1.1.5
MAX_RSEQ = 2**32 - 1  # RFC 3262 section 7.1


class Address(NamedTuple):
    """A transport address; `host` is a numeric address without brackets, or a DNS name."""

    host: str
    port: int

    def __str__(self) -> str:
        return format_host_port(self.host, self.port)


class _Parameterised:
    """Something that ends in `;name=value` parameters."""

    __slots__ = ()
    params: Params

    def param(self, name: str) -> str | None:
        """The value of the first parameter of that name, as written; "" for a flag, None if absent."""
        return find_param(self.params, name)


class Uri(_Parameterised, Struct, frozen=True):
    """A URI (RFC 3261 section 19.1): sip and sips in full, every other scheme as `scheme` and `opaque`.

    user: as written, still %-escaped, with a password if there is one; None if there is none.
    host: without brackets, "" for an opaque URI. headers: what follows "?", as written.
    """

    scheme: str
    user: str | None = None
    host: str = ""
    port: int | None = None
    params: Params = ()
    headers: str = ""
    opaque: str = ""

    @classmethod
    def parse(cls, text: str) -> Uri:
        return _parse_uri(text)

    def __str__(self) -> str:
        if self.opaque:
            return f"{self.scheme}:{self.opaque}"
        user = "" if self.user is None else f"{self.user}@"
        headers = f"?{self.headers}" if self.headers else ""
        host = format_host_port(self.host, self.port)
        return f"{self.scheme}:{user}{host}{format_params(self.params)}{headers}"


class NameAddr(_Parameterised, Struct, frozen=True):
    """The value of From, To, Contact, Route … (RFC 3261 section 20.10): `"display" <uri>;params`.

    display: without quotes and escapes, "" if absent. uri: as it came, unchecked beyond the scheme.
    """

    display: str
    uri: str
    params: Params = ()

    @classmethod
    def parse(cls, text: str) -> NameAddr:
        return _parse_name_addr(text)

    @property
    def tag(self) -> str | None:
        """None if there is none, or an empty one."""
        return self.param("tag") or None

    @property
    def parsed_uri(self) -> Uri:
        """Raises BadMessage if `uri` is a broken SIP URI."""
        return _parse_uri(self.uri)

    def __str__(self) -> str:
        display = f"{quote(self.display)} " if self.display else ""
        return f"{display}<{self.uri}>{format_params(self.params)}"


class Via(_Parameterised, Struct, frozen=True):
    """One Via value (RFC 3261 section 20.42). transport: upper case. host: without brackets. version: another
    one than 2.0 is only seen in a request that is refused for it."""

    transport: str
    host: str
    port: int | None
    params: Params = ()
    version: str = "2.0"

    @classmethod
    def parse(cls, text: str) -> Via:
        return _parse_via(text)

    @property
    def branch(self) -> str | None:
        """None if there is none, or an empty one."""
        return self.param("branch") or None

    @property
    def received(self) -> str | None:
        """The address the sender was seen at, without brackets."""
        value = self.param("received")
        return value.strip("[]") or None if value else None

    @property
    def rport(self) -> int | None:
        """The port the sender was seen at; None also for the bare `;rport` that asks (RFC 3581 section 3)."""
        return number(self.param("rport") or "", 65535)

    def __str__(self) -> str:
        where = format_host_port(self.host, self.port)
        return f"SIP/{self.version}/{self.transport} {where}{format_params(self.params)}"


class CSeq(Struct, frozen=True):
    """RFC 3261 section 20.16."""

    number: int
    method: str

    @classmethod
    def parse(cls, text: str) -> CSeq:
        return _parse_cseq(text)

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


class RAck(Struct, frozen=True):
    """RFC 3262 section 7.2."""

    rseq: int
    cseq: int
    method: str

    @classmethod
    def parse(cls, text: str) -> RAck:
        match = _RACK.fullmatch(text)
        rseq = number(match[1], MAX_RSEQ) if match else None
        cseq = number(match[2], MAX_CSEQ) if match else None
        if match is None or rseq is None or cseq is None:
            raise BadMessage("malformed RAck")
        return cls(rseq, cseq, match[3])

    def __str__(self) -> str:
        return f"{self.rseq} {self.cseq} {self.method}"


_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*+"
_URI = re.compile(rf"({_SCHEME}):({URI_CHARS}++)")
_SIP_URI = re.compile(r'(?:([^@<>"]++)@)?([^@;?<>"]++)((?:;[^;?@<>"]++)*)(?:\?([^@<>"]++))?')
_NAME_ADDR = re.compile(rf'[ \t]*+({QUOTED}|[^"<>,;:@]*+)[ \t]*+<({_SCHEME}:{URI_CHARS}++)>', re.DOTALL)
_ADDR_SPEC = re.compile(rf'[ \t]*+({_SCHEME}:[^<>",;?\x00-\x20\x7f]++)')
_VIA = re.compile(
    rf"[ \t]*+SIP[ \t]*+/[ \t]*+([0-9]++\.[0-9]++)[ \t]*+/[ \t]*+({TOKEN}++)[ \t]++([^;]++)",
    re.ASCII | re.IGNORECASE,
)
_CSEQ = re.compile(rf"([0-9]++)[ \t]++({TOKEN}++)")
_RACK = re.compile(rf"([0-9]++)[ \t]++([0-9]++)[ \t]++({TOKEN}++)")


@lru_cache(maxsize=512)
def _parse_uri(text: str) -> Uri:
    match = _URI.fullmatch(text)
    if match is None:
        raise BadMessage("malformed URI")
    scheme, rest = match[1].lower(), match[2]
    if scheme not in ("sip", "sips"):
        return Uri(scheme, opaque=rest)
    sip = _SIP_URI.fullmatch(rest)
    if sip is None:
        raise BadMessage("malformed SIP URI")
    user, host_port, tail, headers = sip.groups()
    host, port = split_host_port(host_port)
    params: list[tuple[str, str | None]] = []
    if tail.count(";") > MAX_PARAMS:
        raise BadMessage("too many SIP URI parameters")
    for part in tail.split(";")[1:]:
        name, equals, value = part.partition("=")
        if not name:
            raise BadMessage("malformed SIP URI parameter")
        params.append((name, value if equals else None))
    return Uri(scheme, user, host, port, tuple(params), headers or "")


@lru_cache(maxsize=512)
def _parse_name_addr(text: str) -> NameAddr:
    match = _NAME_ADDR.match(text)
    if match is not None:
        return NameAddr(
            unquote(match[1].strip(" \t")), match[2], parse_params(text[match.end() :].strip(" \t"))
        )
    match = _ADDR_SPEC.match(text)  # RFC 3261 section 20.10: without <> the parameters are the header field's
    if match is None:
        raise BadMessage("malformed address")
    return NameAddr("", match[1], parse_params(text[match.end() :].strip(" \t")))


@lru_cache(maxsize=512)
def _parse_via(text: str) -> Via:
    match = _VIA.match(text)
    if match is None:
        raise BadMessage("malformed Via")
    host, port = split_host_port(match[3].strip(" \t"))
    return Via(match[2].upper(), host, port, parse_params(text[match.end() :]), match[1])


@lru_cache(maxsize=256)
def _parse_cseq(text: str) -> CSeq:
    match = _CSEQ.fullmatch(text)
    value = number(match[1], MAX_CSEQ) if match else None
    if match is None or value is None:
        raise BadMessage("malformed CSeq")
    return CSeq(value, match[2])
