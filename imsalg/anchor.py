"""What a call wants of the gateway, and what has to be asked for it.

A call has one context. The negotiations of its dialogs say which streams each termination shall have; `plan`
compares that with what the gateway has acknowledged and gives the commands that lie between, none if nothing
changed. So a refresh asks nothing, and a repeated answer costs nothing (trap P30).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address

from msgspec import Struct, field
from msgspec.structs import replace

from agw.iq.messages import (
    ChangeThroughConnection,
    Command,
    ConfigureConnectionPoint,
    LocalStream,
    Mode,
    ReleaseTermination,
    ReserveAndConfigureConnectionPoint,
    ReserveConnectionPoint,
    Reserved,
    Result,
    Stream,
)
from imsalg.sdp.document import MAX_MEDIA


class Side(Enum):
    """The two sides of the proxy: the UE's (Gm) and the home network's (Mw)."""

    __hash__ = object.__hash__  # a key wherever there are two of something; Enum's own is a Python function

    ACCESS = "access"
    CORE = "core"

    @property
    def other(self) -> Side:
        return Side.CORE if self is Side.ACCESS else Side.ACCESS


def m_line(stream: int) -> int:
    """The index of the m-line that a stream is of. There may be two streams of one, as when fax takes the
    place of speech: the one in use stays as it is until the other is agreed on (trap P33)."""
    return (stream - 1) % MAX_MEDIA


class Termination(Struct, frozen=True):
    """One termination as it is wanted: its realm, address family, and streams by id."""

    realm: str
    ip6: bool
    streams: Mapping[int, Stream]

    def muted(self) -> Termination:
        """The same with every gate closed."""
        return Termination(
            self.realm,
            self.ip6,
            {id: _with_mode(stream, Mode.INACTIVE) for id, stream in self.streams.items()},
        )


Wanted = Mapping[str, Termination | None]
"""Termination name -> what it shall be; None: released. Names that are absent stay as they are."""


class Anchor(Struct):
    """A context as the gateway last acknowledged it."""

    context: str
    _have: dict[str, Termination] = field(default_factory=dict)
    _local: dict[str, dict[int, LocalStream]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether the gateway holds anything of this call."""
        return bool(self._have)

    def local(self, termination: str) -> Mapping[int, LocalStream]:
        """Where the gateway receives the streams of a termination."""
        return self._local.get(termination, {})

    def have(self, termination: str) -> Termination | None:
        return self._have.get(termination)

    def plan(self, wanted: Wanted) -> tuple[Command, ...]:
        """The commands that lead from what is to what is wanted. Releases come first: they free ports."""
        releases: list[Command] = []
        others: list[Command] = []
        for name, termination in wanted.items():
            have = self._have.get(name)
            if termination is None or not termination.streams:
                if have is not None:
                    releases.append(ReleaseTermination(name))
            elif have is None:
                others.append(_reserve(name, termination))
            else:
                others += _change(name, have, termination)
        return (*releases, *others)

    def restate(
        self, wanted: Wanted, there: Mapping[str, tuple[LocalStream, ...]]
    ) -> tuple[Command, ...] | None:
        """The commands that have the gateway hold what is wanted, where all that is known is the names of its
        terminations and streams. What is so already is not touched by them. None: something is missing there.
        """
        commands: list[Command] = []
        for name in dict.fromkeys((*wanted, *there)):
            termination = wanted.get(name)
            ids = {stream.id for stream in there.get(name, ())}
            if termination is None or not termination.streams:
                commands += [ReleaseTermination(name)] * (name in there)
            elif ids >= termination.streams.keys():
                gone = tuple(sorted(ids - termination.streams.keys()))
                commands.append(ConfigureConnectionPoint(name, tuple(termination.streams.values()), gone))
            else:
                return None
        return tuple(commands)

    def acknowledge(self, wanted: Wanted, results: tuple[Result, ...]) -> bool:
        """The gateway did what `plan(wanted)` said. False: by what it says of its addresses it did not."""
        for name, termination in wanted.items():
            if termination is None or not termination.streams:
                self._have.pop(name, None)
                self._local.pop(name, None)
            else:
                self._have[name] = termination
        for result in results:
            if isinstance(result, Reserved):
                self._local[result.termination] = {stream.id: stream for stream in result.streams}
        return all(
            _is_at_home(self.local(name).get(id), stream, termination.ip6)
            for name, termination in wanted.items()
            if termination is not None
            for id, stream in termination.streams.items()
        )

    def forget(self) -> None:
        """The gateway has nothing of this call any more."""
        self._have.clear()
        self._local.clear()


def _is_at_home(local: LocalStream | None, wanted: Stream, ip6: bool) -> bool:
    """Whether there is such a stream, at addresses that an SDP may name, with the fingerprint it needs."""
    if local is None or (wanted.dtls is not None and local.fingerprint is None):
        return False
    return all(
        0 < address.port < 65536 and _family(address.host) == (6 if ip6 else 4)
        for address in (local.rtp, local.rtcp)
    )


@lru_cache(1024)
def _family(host: str) -> int:
    """4 or 6; 0 for what is no numeric address, or one with a zone."""
    try:
        return 0 if "%" in host else ip_address(host).version
    except ValueError:
        return 0


def _reserve(name: str, wanted: Termination) -> Command:
    streams = tuple(wanted.streams.values())
    if all(stream.remote for stream in streams):
        return ReserveAndConfigureConnectionPoint(name, wanted.realm, streams, wanted.ip6)
    return ReserveConnectionPoint(name, wanted.realm, streams, wanted.ip6)


def _change(name: str, have: Termination, wanted: Termination) -> list[Command]:
    changed = tuple(stream for id, stream in wanted.streams.items() if have.streams.get(id) != stream)
    gone = tuple(id for id in have.streams if id not in wanted.streams)
    if not changed and not gone:
        return []
    if not gone and all(
        stream.id in have.streams and _with_mode(have.streams[stream.id], stream.mode) == stream
        for stream in changed
    ):
        return [ChangeThroughConnection(name, {stream.id: stream.mode for stream in changed})]
    return [ConfigureConnectionPoint(name, changed, gone)]


def _with_mode(stream: Stream, mode: Mode) -> Stream:
    return stream if stream.mode is mode else replace(stream, mode=mode)
