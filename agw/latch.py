"""Where a peer is: as signalled, and as its packets tell (no IO, no clock)."""

from __future__ import annotations

from typing import Any

Sockaddr = tuple[Any, ...]  # as the socket module has it: (host, port), and two more with IPv6


class Whereabouts:
    """Of one port of a peer.

    target: where to send, None: nowhere yet.
    allowed: the only host to take packets from, None: any.
    latching: a packet that passed every check is to be shown to `learn`.
    """

    __slots__ = ("_authentic", "_filtered", "_signalled", "allowed", "latching", "target")

    def __init__(self) -> None:
        self.target: Sockaddr | None = None
        self.allowed: str | None = None
        self.latching = False
        self._authentic = False
        self._filtered = False
        self._signalled: tuple[Sockaddr | None, bool, bool] = (None, False, False)

    def signal(self, remote: Sockaddr | None, latch: bool, source_filter: bool, authentic: bool) -> None:
        """Go by what is signalled. What was learnt stays while only the filter is another.

        authentic: packets shown to `learn` are authentic.
        """
        if self._signalled != (remote, latch, authentic):
            self._signalled = (remote, latch, authentic)
            self._authentic = authentic
            self.target = remote
            self.latching = latch
        self._filtered = source_filter
        self._filter()

    def learn(self, source: Sockaddr) -> bool:
        """Send to where this packet came from; true if that is elsewhere than before. Where packets are not
        authentic only the first is believed."""
        moved = source != self.target
        self.target = source
        if not self._authentic:
            self.latching = False
            self._filter()
        return moved

    def _filter(self) -> None:
        """Only from where we send to, once that cannot move."""
        known = self._filtered and not self.latching
        self.allowed = self.target[0] if known and self.target else None
