"""Session descriptions for tests, and what to look for in them."""

from __future__ import annotations

import base64

from imsalg.sip.message import Request, Response


def key(letter: str = "k", length: int = 30) -> str:
    """SDES material: `length` times the same letter, in base64."""
    return base64.b64encode(letter.encode() * length).decode()


def crypto(letter: str = "k", tag: int = 1, suite: str = "AES_CM_128_HMAC_SHA1_80", length: int = 30) -> str:
    """An a=crypto line."""
    return f"a=crypto:{tag} {suite} inline:{key(letter, length)}"


def media(port: int = 4000, proto: str = "RTP/AVP", *lines: str, kind: str = "audio") -> str:
    """An m-line with its attribute lines."""
    return "\r\n".join((f"m={kind} {port} {proto} 0", "a=rtpmap:0 PCMU/8000", *lines))


def session(host: str, *lines: str, version: int = 1) -> str:
    """A session description; with no line of its own, one of plain audio."""
    family = "IP6" if ":" in host else "IP4"
    head = ("v=0", f"o=- 7 {version} IN {family} {host}", "s=-", f"c=IN {family} {host}", "t=0 0")
    return "\r\n".join((*head, *(lines or (media(),)), ""))


def protected(host: str, letter: str = "k", *lines: str, port: int = 4000) -> str:
    """What a UE offers under e2ae SDES."""
    return session(host, media(port, "RTP/SAVP", crypto(letter), "a=3ge2ae:requested", *lines))


def material(message: Request | Response) -> bytes:
    """The key of the one a=crypto line a message has."""
    (line,) = lines_of(message, "a=crypto:")
    return base64.b64decode(line.split("inline:")[1])


def lines_of(message: Request | Response, start: str) -> list[str]:
    """The lines of a body that begin so, without that beginning."""
    text = message.body.decode()
    return [line.removeprefix(start) for line in text.splitlines() if line.startswith(start)]
