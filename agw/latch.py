"""Where a peer is: as signalled, and as its packets tell (no IO, no clock)."""

from __future__ import annotations

from typing import Any

Sockaddr = tuple[Any, ...]  # as the socket module has it: (host, port), and two more with IPv6


class Whereabouts:
    """Of one port of a peer.

    target: where to send, None: nowhere yet.
    allowed: the only hosts to take packets from, None: any.
    latching: a packet that passed every check is to be shown to `learn`, but none older than one before: what
    was long on its way from where the peer has been says nothing (as in RFC 9146 section 6).
    """

    __slots__ = ("_authentic", "_filtered", "_signalled", "allowed", "latching", "target")

    def __init__(self) -> None:
        self.target: Sockaddr | None = None
        self.allowed: tuple[str, ...] | None = None
        self.latching = False
        self._authentic = False
        self._filtered = False
        self._signalled: tuple[Sockaddr | None, bool, str | None, bool] = (None, False, None, False)

    def signal(
        self,
        remote: Sockaddr | None,
        latch: bool,
        latch_from: str | None,
        source_filter: bool,
        authentic: bool,
    ) -> None:
        """Go by what is signalled. What was learnt stays while only the filter is another.

        authentic: packets shown to `learn` are authentic. latch_from: where they are not, the first counts
        only from this host or the signalled one, or whoever is quicker than the peer has its media ("RTP
        bleed"); None: from anywhere.
        """
        signalled = (remote, latch, latch_from, authentic)
        if self._signalled != signalled:
            self._signalled = signalled
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
        """Only from where we send to, once that cannot move; before, from where it may move to."""
        remote, _, latch_from, authentic = self._signalled
        if self.latching:
            hosts = (latch_from, remote[0] if remote else latch_from) if latch_from else None
            self.allowed = None if authentic else hosts
        else:
            self.allowed = (self.target[0],) if self._filtered and self.target else None
