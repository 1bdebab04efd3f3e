"""One m-line of the SDP for the other side: address and ports, what protects it, ICE.

What may stand at the session level as well is done to a section. document: the SDP as it came; out: as it
leaves.
"""

from __future__ import annotations

from msgspec import Struct

from imsalg.policy.treatment import is_rtp
from imsalg.sdp.attributes import Connection, Crypto, Direction, E2aeIndication, RtcpAttribute, fields
from imsalg.sdp.document import Document, Media, Origin, Section
from imsalg.sdp.dtls import Fingerprint, Setup
from imsalg.sdp.ice import Candidate, IceCredentials, components


class Local(Struct, frozen=True):
    """Where the gateway receives an m-line's media, on the side the SDP goes to. addrtype: "IP4" or "IP6".
    ice: ours, where connectivity checks are answered."""

    addrtype: str
    address: str
    rtp_port: int
    rtcp_port: int
    ice: IceCredentials | None = None

    @property
    def connection(self) -> Connection:
        """The c= that says so."""
        return Connection(self.addrtype, self.address)


class DtlsLines(Struct, frozen=True):
    """What an m-line of ours says where DTLS ends in the gateway. tls_id: None: nothing."""

    fingerprint: Fingerprint
    setup: Setup
    tls_id: str | None


Protection = tuple[Crypto, ...] | DtlsLines
"""What protects an m-line of ours: never both (trap P17)."""

# other addresses, too (RFC 6947, RFC 4570, RFC 8839 section 5.2)
_ELSEWHERE = frozenset(("altc", "source-filter", "remote-candidates"))
ICE = frozenset(
    (
        *("candidate", "end-of-candidates", "ice-lite", "ice-mismatch", "ice-options", "ice-pacing"),
        *("ice-pwd", "ice-ufrag", *_ELSEWHERE),
    )
)
_KEYING = frozenset(
    (
        *("crypto", "key-mgmt", "fingerprint", "setup", "connection", "tls-id"),
        "identity",  # RFC 8827 section 5: it vouches for fingerprints that are taken away
    )
)
_TRANSPORT = ICE | {"bundle-only"}
# Header extensions of one side: those that are encrypted; and the name of the m-line (RFC 9143 section 15),
# which may be another on the other side: WebRTC clients drop packets with a name that they do not know.
_ONE_SIDED = frozenset(("urn:ietf:params:rtp-hdrext:encrypt", "urn:ietf:params:rtp-hdrext:sdes:mid"))


def anchor(out: Document, document: Document, index: int, local: Local) -> None:
    """Address and ports of an m-line that is ours."""
    _place(out, document, index, local)
    out.media[index].remove_attributes(_TRANSPORT)


def carry(out: Document, document: Document, index: int, local: Local) -> None:
    """Address and ports, and nothing else (trap P40). The ends' checks pass the gateway like all they send,
    so its address is their one candidate; what they say of their own would lead around it. It is theirs, too,
    if their own are all to come (RFC 8840 section 4.1.1)."""
    _place(out, document, index, local)
    media = out.media[index]
    ports = {1: local.rtp_port, 2: local.rtcp_port}
    said = components(media)
    if not said and _trickles(document, document.media[index]):
        said = frozenset((1,) if media.has("rtcp-mux") or not is_rtp(media.proto) else (1, 2))
    found = [
        str(Candidate.host(component, local.address, ports[component]))
        for component in sorted(said & ports.keys())
    ]
    if found:
        media.set_attribute("candidate", found[0])
        for value in found[1:]:
            media.add_attribute("candidate", value)
    else:
        media.remove_attributes({"candidate"})
    lead_here(media)


def _trickles(document: Document, media: Media) -> bool:
    options = [*media.attributes("ice-options"), *document.session.attributes("ice-options")]
    return any("trickle" in fields(value) for value in options)


def lead_here(section: Section) -> None:
    """No addresses beside ours, now or later: candidates come in descriptions only (RFC 8840 section 4.1)."""
    section.remove_attributes(_ELSEWHERE)
    options = [option for value in section.attributes("ice-options") for option in fields(value)]
    if "trickle" in options:
        options = [option for option in options if option != "trickle"]
        if options:
            section.set_attribute("ice-options", " ".join(options))
        else:
            section.remove_attributes({"ice-options"})


def _place(out: Document, document: Document, index: int, local: Local) -> None:
    media, was = out.media[index], document.media[index]
    media.port = local.rtp_port
    if media.has_connection or out.session.connection != local.connection:
        media.set_connection(local.connection)
    if media.has("rtcp") or (is_rtp(was.proto) and local.rtcp_port != local.rtp_port + 1):  # RFC 3605
        media.set_attribute("rtcp", str(RtcpAttribute(local.rtcp_port)))
    connection = document.connection_of(was)
    # with ICE, 0.0.0.0 is no hold but a placeholder (RFC 8840 section 4.1.1)
    if connection is not None and connection.unspecified and IceCredentials.of(document, was) is None:
        _hold(media, document.direction_of(was))


def _hold(media: Media, direction: Direction) -> None:
    """c=0.0.0.0 says "do not send to me" (RFC 3264 section 8.4)."""
    held = {
        Direction.SENDRECV: Direction.SENDONLY,
        Direction.RECVONLY: Direction.INACTIVE,
    }
    if direction in held:
        media.remove_attributes({each.value for each in Direction})
        media.add_attribute(held[direction])


def unprotect(media: Media, proto: str) -> None:
    """What protects the media ends in the gateway, and so does the multiplexing of RTCP."""
    if not proto.upper().endswith("F") and media.proto.upper().endswith("F"):
        media.remove_attributes({"rtcp-fb"})  # RFC 4585 section 4.2: of AVPF and SAVPF only
    media.proto = proto
    remove_keys(media)
    show_headers(media)
    media.remove_attributes({"rtcp-mux-only"})  # RFC 8858 asks for what this side may not do, and need not


def show_headers(section: Section) -> None:
    """RTP headers are not encrypted where SRTP ends in the gateway (RFC 6904 section 4, RFC 9335 section 4),
    and name no m-line."""
    section.remove_attributes({"cryptex"})
    section.remove_attributes_where("extmap", lambda value: not _ONE_SIDED.isdisjoint(fields(value)))


def protect(media: Media, protection: Protection) -> None:
    """What protects the media begins in the gateway."""
    if isinstance(protection, DtlsLines):
        media.add_attribute("setup", protection.setup)
        if protection.tls_id is not None:
            media.add_attribute("tls-id", protection.tls_id)
        media.add_attribute("fingerprint", str(protection.fingerprint))
        return
    for line in protection:
        media.add_attribute("crypto", str(line))


def tell_applied(media: Media, attribute: str) -> None:
    """attribute: what the indication is called; "": there is none."""
    if attribute:
        media.add_attribute(attribute, E2aeIndication.APPLIED)


def check_here(out: Document, media: Media, local: Local, one_port: bool) -> None:
    """Our side of ICE: a lite agent with one host candidate for each component (RFC 8839 section 5.3)."""
    if local.ice is None:
        return
    if not out.session.has("ice-lite"):
        out.session.add_attribute("ice-lite")
    media.add_attribute("ice-options", "ice2")  # RFC 8445 section 10
    media.add_attribute("ice-ufrag", local.ice.ufrag)
    media.add_attribute("ice-pwd", local.ice.pwd)
    media.add_attribute("candidate", str(Candidate.host(1, local.address, local.rtp_port)))
    if not one_port:
        media.add_attribute("candidate", str(Candidate.host(2, local.address, local.rtcp_port)))


def identify(media: Media, asked: Media, insists: bool) -> None:
    """An answer has the offer's names (RFC 5888 section 9.1), if any; WebRTC clients insist on them (RFC 9429
    section 5.3.1)."""
    mid = asked.attribute("mid")
    if mid is None:
        media.remove_attributes({"mid"})
    elif insists or media.has("mid"):
        media.set_attribute("mid", mid)


def mux(media: Media, asked: Media) -> None:
    """RTCP is multiplexed if the offerer asked for it, whatever the other side does (trap P34)."""
    if not asked.has("rtcp-mux"):
        media.remove_attributes({"rtcp-mux"})
        return
    media.remove_attributes({"rtcp"})  # RFC 5761 section 5.1.3: the RTP port it is
    if not media.has("rtcp-mux"):
        media.add_attribute("rtcp-mux")


def clear(media: Media, proto: str, origin: Origin) -> None:
    """Refused or disabled: its place and its name stay, and nothing that was meant for somebody. What else
    such a line says counts for nothing (RFC 3264 section 6)."""
    if media.port:
        media.port = 0
    media.proto = proto
    addressed = media.has_connection
    media.strip("mid")
    if addressed:
        media.set_connection(placeholder(origin))


def remove_keys(section: Section) -> None:
    """What speaks of keys, whatever the kind."""
    section.remove_attributes(_KEYING)
    section.remove_lines("k")  # RFC 4566 section 5.12, which may hold a key in the clear


def placeholder(origin: Origin) -> Connection:
    """Where nothing flows, our address takes the place of the peer's."""
    return Connection(origin.addrtype, origin.address)
