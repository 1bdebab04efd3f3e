"""What Contact values say of a UE (RFC 3261 section 20.10): for how long, which UE it is, and where."""

from __future__ import annotations

from imsalg.sip.grammar import number
from imsalg.sip.hop import Flow
from imsalg.sip.message import Request, Response
from imsalg.sip.values import Address, NameAddr, Uri

DEFAULT_EXPIRES = 3600  # seconds, where nobody says
MAX_EXPIRES = 2**32 - 1  # RFC 3261 section 20.19

Place = tuple[str, str, str, int | None]
"""Scheme, user, host, port."""


def expires_of(contact: NameAddr, message: Request | Response) -> int:
    """Seconds: the contact's own, else the message's (RFC 3261 section 10.2.1.1)."""
    for text in (contact.param("expires"), message.headers.get("Expires")):
        if text is not None and (seconds := number(text, MAX_EXPIRES)) is not None:
            return seconds
    return DEFAULT_EXPIRES


def instance_of(contact: NameAddr) -> str:
    """What stays the same when a UE registers again from another address (RFC 5626), else its Contact URI."""
    instance = contact.param("+sip.instance")
    return f"{instance};{contact.param('reg-id') or ''}" if instance else contact.uri


def place_of(uri: str) -> Place:
    """What two spellings of a Contact URI have in common (RFC 3261 section 19.1.4): registrars may add
    parameters, drop them, or write the host in their own way. Raises BadMessage."""
    parsed = Uri.parse(uri)
    return parsed.scheme, parsed.user or parsed.opaque, parsed.host.lower(), parsed.port


def is_at(flow: Flow, uri: Uri) -> bool:
    """Whether a UE is seen where its Contact URI says that it is."""
    return flow.remote == Address(uri.host, uri.port or flow.transport.default_port)
