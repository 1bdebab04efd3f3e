"""The few rules of RFC 3261 section 25 that everything else is cut with: tokens, quotes, lists, parameters.

Text here is a header field value that is already unfolded: white space is SP and HTAB only. Patterns repeat
single sets possessively, and no group around them matches in two ways: each function is linear in its input,
so that no message can make one slow. (No group is possessive: wrong before CPython 3.11.5, gh-106052.)
"""

from __future__ import annotations

import ipaddress
import re

from imsalg.errors import BadMessage

Params = tuple[tuple[str, str | None], ...]
"""Parameters in the order and spelling they came; the value of a flag is None, quotes stay."""

MAX_PARAMS = 128  # on one value; bounds what the caches of values.py can be made to hold

LWS = " \t\r\n"
URI_CHARS = r'[^<>"\x00-\x20\x7f]'  # wide: what stands for an address is passed on, not judged
TOKEN = r"[A-Za-z0-9\-.!%*_+`'~]"
QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*"'

_TOKEN = re.compile(f"{TOKEN}+")
_PARAM = re.compile(
    rf'[ \t]*+;[ \t]*+({TOKEN}++)(?:[ \t]*+=[ \t]*+({QUOTED}|[^\x00-\x20\x7f;,"<>]++))?[ \t]*+', re.DOTALL
)
# An unclosed quote or bracket runs to the end, so that nothing is looked at twice.
_COMMA = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*"?|<[^>]*+>?|(,)', re.DOTALL)
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]++)\]|([A-Za-z0-9._\-]++))(?:[ \t]*+:[ \t]*+([0-9]++))?")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def is_token(text: str) -> bool:
    """Whether `text` is one token: a method, header field name, option tag or parameter name."""
    return _TOKEN.fullmatch(text) is not None


def unfold(text: str) -> str:
    """The value without folding and outer white space: a fold becomes one SP (RFC 3261 section 7.3.1)."""
    if "\r\n" not in text:
        return text.strip(" \t")
    return " ".join(part.strip(" \t") for part in text.split("\r\n")).strip(" ")


def first_comma(text: str) -> int:
    """Where the first element of a comma list ends: the index of its comma, or -1. See split_commas()."""
    for match in _COMMA.finditer(text):
        if match[1]:
            return match.start()
    return -1


def split_commas(text: str) -> list[str]:
    """The stripped elements of a comma list without empty ones; commas in quotes and <> do not separate."""
    if "," not in text:
        parts = [text]
    elif '"' not in text and "<" not in text:
        parts = text.split(",")
    else:
        parts, start = [], 0
        for match in _COMMA.finditer(text):
            if match[1]:
                parts.append(text[start : match.start()])
                start = match.end()
        parts.append(text[start:])
    return [element for part in parts if (element := part.strip(LWS))]


def parse_params(text: str) -> Params:
    """`;name=value;flag` to its parameters; raises BadMessage for anything else, an empty parameter too."""
    params: list[tuple[str, str | None]] = []
    at = 0
    while at < len(text):
        match = _PARAM.match(text, at)
        if match is None:
            raise BadMessage("malformed parameters")
        if len(params) == MAX_PARAMS:
            raise BadMessage("too many parameters")
        params.append((match[1], match[2]))
        at = match.end()
    return tuple(params)


def format_params(params: Params) -> str:
    """The reverse of parse_params(), without white space."""
    return "".join(f";{name}" if value is None else f";{name}={value}" for name, value in params)


def find_param(params: Params, name: str) -> str | None:
    """The value of the first parameter of that name (any case), "" for a flag, None if there is none."""
    name = name.lower()
    length = len(name)
    for key, value in params:
        if len(key) == length and key.lower() == name:
            return value or ""
    return None


def quote(text: str) -> str:
    """`text` as a quoted-string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unquote(text: str) -> str:
    """What a quoted-string says; other text is returned as it is."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return _ESCAPED.sub(r"\1", text[1:-1])
    return text


def printable(text: str) -> str:
    """For a log or a terminal: what would move a cursor, end a line or is no UTF-8 as its escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def number(text: str, maximum: int) -> int | None:
    """The decimal number `text` says if it is one and at most `maximum`, else None."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > 20 or int(digits) > maximum:
        return None
    return int(digits)


def split_host_port(text: str) -> tuple[str, int | None]:
    """`host[:port]` to its parts, an IPv6 reference without its brackets; raises BadMessage."""
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise BadMessage("malformed host or port")
    ipv6, name, digits = match.groups()
    if ipv6 is not None:
        try:
            ipaddress.IPv6Address(ipv6)
        except ValueError:
            raise BadMessage("malformed IPv6 reference") from None
    port = None if digits is None else number(digits, 65535)
    if digits is not None and not port:
        raise BadMessage("port out of range")
    return ipv6 or name, port


def format_host_port(host: str, port: int | None) -> str:
    """The reverse of split_host_port()."""
    reference = f"[{host}]" if ":" in host else host
    return reference if port is None else f"{reference}:{port}"
