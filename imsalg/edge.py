"""What one side of a dialog sees of us in its media: our termination there and our o= line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from agw.iq.messages import Stream
from imsalg.anchor import Anchor, Side, Termination
from imsalg.errors import BadSdp, UsageError
from imsalg.exchange import remote
from imsalg.networks import Networks
from imsalg.policy.decide import Decision
from imsalg.policy.mline import DtlsLines, Local
from imsalg.sdp.document import Document, Origin
from imsalg.sdp.dtls import Fingerprint, Setup
from imsalg.sdp.ice import IceCredentials


class Origins(Struct):
    """Our o= line towards one side: the version rises by one when, and only when, the SDP changed (trap
    P31)."""

    session_id: str
    version: int
    host: str
    last: bytes = b""

    def __repr__(self) -> str:
        return f"Origins({self.session_id}, {self.version})"  # `last` may have keys

    def write(self, build: Callable[[Origin], Document]) -> Document:
        """What is built; `last` has it as bytes. All but the version is the same for good, whatever the other
        side calls itself (RFC 3264 section 8)."""
        addrtype = "IP6" if ":" in self.host else "IP4"
        origin = Origin("-", self.session_id, self.version, "IN", addrtype, self.host)
        document = build(origin)
        body = bytes(document)
        if self.last and body != self.last:
            self.version += 1
            document = build(replace(origin, version=self.version))
            body = bytes(document)
        self.last = body
        return document


class Edge(Struct):
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

    def locals(self, anchor: Anchor, ids: Sequence[int]) -> dict[int, Local]:
        """Where the side is to send its media, by m-line. ids: their streams."""
        locals, have = anchor.local(self.name), anchor.have(self.name)
        streams = have.streams if have is not None else {}
        return {
            index: Local(
                "IP6" if ":" in local.rtp.host else "IP4",
                local.rtp.host,
                local.rtp.port,
                local.rtcp.port,
                IceCredentials(stream.ice.ufrag, stream.ice.pwd) if stream.ice else None,
            )
            for index, id in enumerate(ids)
            if (local := locals.get(id)) and (stream := streams.get(id))
        }

    def dtls(self, anchor: Anchor, id: int, setup: Setup, tls_id: str | None) -> DtlsLines:
        """What we say of DTLS in the m-line of a stream."""
        fingerprint = anchor.local(self.name)[id].fingerprint
        if fingerprint is None:
            raise UsageError(f"stream {id} has no fingerprint")
        return DtlsLines(Fingerprint(fingerprint.hash, fingerprint.digest), setup, tls_id)

    def family(self, side: Side, anchor: Anchor, document: Document, decisions: Sequence[Decision]) -> bool:
        """Whether the side's media are on IPv6, as its description says. One termination has one family, for
        good: what the gateway could never send to is refused before anybody is called. Raises BadSdp."""
        lines = {i: d for i, d in enumerate(decisions) if d.active and d.anchored}
        said_remotes = [remote(side, document, index, decision) for index, decision in lines.items()]
        hosts = {address.host for remotes in said_remotes for address in remotes if address}
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
        if said:
            return said.pop()
        media = document.media[next(iter(lines))]
        held = document.connection_of(media)
        if held is None or IceCredentials.of(document, media) is not None:
            return self.ip6  # with ICE: the family of the signalling
        return ":" in held.host


def _name(side: Side, number: int) -> str:
    return f"{side.value}.{number}" if number else side.value
