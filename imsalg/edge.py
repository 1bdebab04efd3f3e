"""What one side of a dialog sees of us in its media: our termination there and our o= line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agw.iq.messages import Stream
from imsalg.anchor import Anchor, Side, Termination
from imsalg.config import Networks
from imsalg.errors import BadSdp
from imsalg.exchange import remote
from imsalg.policy.decide import Decision
from imsalg.policy.rewrite import Local
from imsalg.sdp.document import Document, Origin


@dataclass(slots=True)
class Origins:
    """Our o= line towards one side: the version rises by one when, and only when, the SDP changed (trap
    P31)."""

    session_id: str
    version: int
    host: str
    last: bytes = field(default=b"", repr=False)  # it may have keys

    def write(self, username: str, build: Callable[[Origin], Document]) -> Document:
        """What is built; `last` has it as bytes."""
        addrtype = "IP6" if ":" in self.host else "IP4"
        origin = Origin(username, self.session_id, self.version, "IN", addrtype, self.host)
        document = build(origin)
        body = bytes(document)
        if self.last and body != self.last:
            self.version += 1
            document = build(replace(origin, version=self.version))
            body = bytes(document)
        self.last = body
        return document


@dataclass(slots=True)
class Edge:
    """name: of the termination. denied: networks that no media go to. ip6: its address family; that of our
    signalling, until the side has said which it wants."""

    name: str
    realm: str
    denied: Networks
    origin: Origins
    ip6: bool

    @classmethod
    def of(cls, side: Side, number: int, realm: str, denied: Networks, origin: Origins) -> Edge:
        """number: tells the dialogs of a call apart."""
        return cls(_name(side, number), realm, denied, origin, ":" in origin.host)

    def shared(self) -> Edge:
        """The same termination, in another early dialog of the same INVITE."""
        return replace(self, origin=replace(self.origin))

    def beside(self, side: Side, number: int) -> Edge:
        """A termination of its own, in another early dialog of the same INVITE."""
        return replace(self, name=_name(side, number), origin=replace(self.origin, last=b""))

    def termination(self, streams: Mapping[int, Stream]) -> Termination:
        return Termination(self.realm, self.ip6, streams)

    def locals(self, anchor: Anchor) -> dict[int, Local]:
        """Where the side is to send its media, by m-line."""
        return {
            id - 1: Local(
                "IP6" if ":" in local.rtp.host else "IP4", local.rtp.host, local.rtp.port, local.rtcp.port
            )
            for id, local in anchor.local(self.name).items()
        }

    def family(self, anchor: Anchor, document: Document, decisions: Sequence[Decision]) -> bool:
        """Whether the side's media are on IPv6, as its description says. One termination has one family, for
        good: what the gateway could never send to is refused before anybody is called. Raises BadSdp."""
        lines = [m for m, d in zip(document.media, decisions, strict=True) if d.active and d.anchored]
        hosts = {address.host for media in lines for address in remote(document, media) if address}
        if any(host in self.denied for host in hosts):
            raise BadSdp("a media address in a network that media are not sent to here")
        said = {":" in host for host in hosts}
        if len(said) > 1:
            raise BadSdp("media addresses of both families; the gateway has one for each side")
        stands = anchor.have(self.name)
        if stands is not None and said and said != {stands.ip6}:
            raise BadSdp("media addresses of another family than before")
        if stands is not None or not lines:
            return self.ip6
        held = document.connection_of(lines[0])
        return said.pop() if said else held is not None and ":" in held.host


def _name(side: Side, number: int) -> str:
    return f"{side.value}.{number}" if number else side.value
