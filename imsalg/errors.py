"""The two error families: the peer is wrong (what to answer is inside), and the caller is wrong."""

from __future__ import annotations


class PeerError(Exception):
    """Something that came from the network cannot be served.

    status: the SIP status code to answer with (RFC 3261 section 21).
    reason: one line for the log and the Warning header field; never key material.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class BadMessage(PeerError):
    """Bytes that are no SIP message, or a message that breaks a rule every element must check."""


class BadSdp(PeerError):
    """A body that is no session description, or one this element cannot serve (488 by default)."""

    def __init__(self, reason: str, status: int = 488) -> None:
        super().__init__(reason, status)


class UsageError(Exception):
    """Our own caller broke a precondition; nothing from the network can cause it."""
