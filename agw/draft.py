"""One request on its way: the context as its commands would have it, and the ports drawn for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from agw.certificate import Certificate
from agw.context import Context, PortPair, Termination, check_context, check_streams
from agw.errors import CommandError
from agw.flows import LegId
from agw.iq.messages import (
    MAX_COMMANDS,
    AuditValue,
    ChangeThroughConnection,
    Command,
    ConfigureConnectionPoint,
    ErrorCode,
    Mode,
    ReleaseTermination,
    ReserveAndConfigureConnectionPoint,
    ReserveConnectionPoint,
    Stream,
)
from agw.iq.wire import valid_name
from agw.ports import Realm


class Draft:
    """Of the context `name` for the controller `owner`, from what stands; ends with commit() or forget().

    before: as it stands; None if it is not there, or another controller's.
    context: as it would be; None if nothing is left of it.
    command: index of the one executed last.
    certificate: for what is made now.
    """

    def __init__(
        self,
        realms: Mapping[str, Realm],
        certificate: Certificate,
        standing: Context | None,
        owner: str,
        name: str,
        now: float,
    ) -> None:
        self._foreign = standing is not None and standing.owner != owner
        self.before = None if self._foreign else standing
        self.context = self.before
        self.command = 0
        self._realms = realms
        self._certificate = certificate
        self._owner = owner
        self.name = name
        self._now = now
        self._drawn: set[PortPair] = set()
        self._spoilt: set[PortPair] = set()  # drawn, but somebody else's

    def execute(self, commands: Sequence[Command]) -> None:
        """Raises CommandError; the draft is then good for forget() only."""
        if len(commands) > MAX_COMMANDS:
            raise CommandError(ErrorCode.INVALID, f"more than {MAX_COMMANDS} commands")
        if not valid_name(self.name) and (self.name or any(not isinstance(c, AuditValue) for c in commands)):
            raise CommandError(ErrorCode.INVALID, "no name for a context")
        for self.command, command in enumerate(commands):
            match command:
                case ReserveConnectionPoint():
                    self._reserve(command)
                case ReserveAndConfigureConnectionPoint():
                    if any(stream.remote is None for stream in command.streams):
                        raise CommandError(ErrorCode.INVALID, "a stream without a remote")
                    self._reserve(command)
                case ConfigureConnectionPoint():
                    self._configure(command)
                case ChangeThroughConnection(name, modes):
                    self._change(name, modes)
                case ReleaseTermination(name):
                    self._release(name)
                case AuditValue():
                    pass
        if self.context is not None:
            check_context(self.context)

    def draw_again(self, legs: Sequence[LegId]) -> None:
        """Gives other ports to these legs. Raises CommandError if there are none."""
        assert self.context is not None
        for leg in legs:
            termination = self.context.terminations[leg.termination]
            pair = PortPair(termination.realm, termination.host, termination.ports[leg.stream])
            if pair not in self._drawn:
                raise CommandError(ErrorCode.NO_PORTS, f"port {pair.port} of {pair.host} was lost")
            self._spoilt.add(pair)
            port = self._draw(termination.realm, termination.host)
            self._put(replace(termination, ports={**termination.ports, leg.stream: port}))

    def commit(self) -> None:
        """The draft has become true: what is no longer used rests."""
        after = self.context.ports() if self.context else set()
        before = self.before.ports() if self.before else set()
        self._give_back(self._drawn - after, (before - after) | self._spoilt)

    def forget(self) -> None:
        """Nothing of it has become true."""
        self._give_back(self._drawn, self._spoilt)

    # -- the commands --

    def _reserve(self, command: ReserveConnectionPoint | ReserveAndConfigureConnectionPoint) -> None:
        """Also of a termination that stands, which then becomes what is said: its ports are kept."""
        if self._foreign:
            raise CommandError(ErrorCode.INVALID, "the context is another controller's")
        if not valid_name(command.termination):
            raise CommandError(ErrorCode.INVALID, "no name for a termination")
        if (realm := self._realms.get(command.realm)) is None:
            raise CommandError(ErrorCode.UNKNOWN_REALM, f"no realm {command.realm[:64]!r}")
        old = self._terminations().get(command.termination)
        if old is None:
            if self.before and command.termination in self.before.terminations:
                raise CommandError(ErrorCode.INVALID, "reserved and released in one request")
            host = realm.choose(command.ip6, self._now)
            old = Termination(command.termination, realm.name, host, command.ip6, {}, {}, self._certificate)
        elif (old.realm, old.ip6) != (command.realm, command.ip6):
            raise CommandError(ErrorCode.INVALID, f"{old.name} stands elsewhere")
        self._set_streams(old, {}, command.streams)

    def _configure(self, command: ConfigureConnectionPoint) -> None:
        old = self._standing(command.termination)
        if {stream.id for stream in command.streams} & set(command.remove):
            raise CommandError(ErrorCode.INVALID, "a stream both given and removed")
        kept = {id: stream for id, stream in old.streams.items() if id not in command.remove}
        self._set_streams(old, kept, command.streams)

    def _change(self, name: str, modes: Mapping[int, Mode]) -> None:
        old = self._standing(name)
        if unknown := modes.keys() - old.streams.keys():
            raise CommandError(ErrorCode.INVALID, f"{name} has no stream {min(unknown)}")
        changed = [replace(old.streams[id], mode=mode) for id, mode in modes.items()]
        self._set_streams(old, old.streams, changed)

    def _release(self, name: str | None) -> None:
        left = {key: each for key, each in self._terminations().items() if name not in (None, key)}
        self.context = replace(self.context, terminations=left) if self.context and left else None

    # -- inside --

    def _terminations(self) -> Mapping[str, Termination]:
        return self.context.terminations if self.context else {}

    def _standing(self, name: str) -> Termination:
        if self.context is None:
            raise CommandError(ErrorCode.UNKNOWN_CONTEXT, "no such context")
        if (termination := self.context.terminations.get(name)) is None:
            raise CommandError(ErrorCode.UNKNOWN_TERMINATION, f"no termination {name[:64]!r}")
        return termination

    def _set_streams(self, old: Termination, kept: Mapping[int, Stream], new: Sequence[Stream]) -> None:
        check_streams(new, ip6=old.ip6)
        for stream in new:
            _check_association(old.streams.get(stream.id), stream)
        streams = {**kept, **{stream.id: stream for stream in new}}
        ports = {id: old.ports[id] if id in old.ports else self._draw(old.realm, old.host) for id in streams}
        self._put(replace(old, streams=streams, ports=ports))

    def _put(self, termination: Termination) -> None:
        terminations = {**self._terminations(), termination.name: termination}
        self.context = Context(self.name, self._owner, terminations)

    def _draw(self, realm: str, host: str) -> int:
        port = self._realms[realm].reserve(host, self._now)
        self._drawn.add(PortPair(realm, host, port))
        return port

    def _give_back(self, unused: set[PortPair], used: set[PortPair]) -> None:
        for realm, host, port in unused - self._spoilt:
            self._realms[realm].unreserve(host, port)
        for realm, host, port in used:
            self._realms[realm].release(host, port, self._now)


def _check_association(old: Stream | None, new: Stream) -> None:
    """A role, once known, is an association's for life, and so are the fingerprints (RFC 8842, trap P01)."""
    before, after = old.dtls if old else None, new.dtls
    if before is None or after is None or before.role is None or before.association != after.association:
        return
    if (before.role, before.fingerprints) != (after.role, after.fingerprints):
        text = f"stream {new.id}: another role or other fingerprints need another association"
        raise CommandError(ErrorCode.INVALID, text)
