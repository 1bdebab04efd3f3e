"""Where a peer is: as signalled, and as its packets tell (no IO, no clock)."""

from __future__ import annotations

from typing import Any, NamedTuple

Sockaddr = tuple[Any, ...]  # as the socket module has it: (host, port), and two more with IPv6


class Whereabouts:
    """Of one port of a peer.

    target: where to send, None: nowhere yet.
    allowed: the only host to take packets from, None: any.
    latching: a packet that passed every check is to be shown to `learn`.
    """

    __slots__ = ("_signalled", "allowed", "latching", "target")

    def __init__(self) -> None:
        self.target: Sockaddr | None = None
        self.allowed: str | None = None
        self.latching = False
        self._signalled = _Signalled(None, False, False, False)

    def signal(self, remote: Sockaddr | None, latch: bool, source_filter: bool, authentic: bool) -> None:
        """Go by what is signalled. What was learnt stays if the same was signalled before.

        authentic: packets shown to `learn` are authentic.
        """
        signalled = _Signalled(remote, latch, source_filter, authentic)
        if signalled == self._signalled:
            return
        self._signalled = signalled
        self.target = remote
        self.allowed = remote[0] if remote and source_filter and not latch else None
        self.latching = latch

    def learn(self, source: Sockaddr) -> None:
        """Send to where this packet came from. Where packets are not authentic only the first is believed."""
        self.target = source
        if not self._signalled.authentic:
            self.latching = False
            if self._signalled.source_filter:
                self.allowed = source[0]


class _Signalled(NamedTuple):
    remote: Sockaddr | None
    latch: bool
    source_filter: bool
    authentic: bool
