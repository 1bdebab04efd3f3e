"""What may become of an m-line, and how the gateway carries each side of it then (TS 33.328 clause 4.1).

`decide` chooses a treatment, `rewrite` makes the SDP say so, the gateway is told the two carriages.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Carriage(StrEnum):
    """What one side of the gateway looks at."""

    NONE = "none"  # nothing passes
    RTP = "rtp"  # RTP and RTCP in the clear
    SRTP = "srtp"  # SRTP and SRTCP, keyed by SDES, terminated in the gateway
    DTLS_SRTP = "dtls-srtp"  # the same, keyed by DTLS, which is terminated in the gateway as well
    DTLS = "dtls"  # DTLS, terminated in the gateway; what it protects is a datagram of the other side
    UDP = "udp"  # datagrams, transparently


class Carried(Struct, frozen=True):
    access: Carriage
    core: Carriage


class Treatment(StrEnum):
    """The names are part of the command line's JSON. Those without a row in TABLE are reserved; `decide` does
    not give them."""

    PLAIN = "plain"
    E2AE_SDES = "e2ae-sdes"
    E2AE_DTLS_SRTP = "e2ae-dtls-srtp"
    E2AE_MSRP = "e2ae-msrp"
    E2AE_BFCP = "e2ae-bfcp"
    E2AE_UDPTL = "e2ae-udptl"
    E2AE_DATACHANNEL = "e2ae-datachannel"
    E2DCE = "e2dce"
    E2E = "e2e"
    REFUSED = "refused"

    def carried(self, proto: str) -> Carried:
        """How an m-line of this protocol, on either side, is carried where it is anchored at all."""
        if self is Treatment.PLAIN and not is_rtp(proto):
            return Carried(Carriage.UDP, Carriage.UDP)
        return TABLE[self]

    @property
    def by_dtls(self) -> bool:
        """Whether DTLS of the UE ends in the gateway."""
        return self in (Treatment.E2AE_DTLS_SRTP, Treatment.E2AE_UDPTL)

    @property
    def e2ae(self) -> bool:
        """Whether what protects the UE's media ends in the gateway."""
        return self is Treatment.E2AE_SDES or self.by_dtls

    @property
    def transparent(self) -> bool:
        """Whether what is above UDP is the ends' own, in SDP as well as on the wire."""
        return self in (Treatment.E2E, Treatment.E2DCE)


class Mechanism(StrEnum):
    """Media plane security a UE and the network announced to each other when it registered
    (TS 24.229 clause 7.2A.7; `dtls-srtp` as seen in the field).

    The last two have no token there: for E2DCE there may be one by configuration, and DATA_CHANNEL is a
    feature tag of the UE's Contact, by which DCMTSI clients are known (TS 33.328 clause N.3.2)."""

    SDES_SRTP = "sdes-srtp"
    DTLS_SRTP = "dtls-srtp"
    MSRP_TLS = "msrp-tls"
    BFCP_TLS = "bfcp-tls"
    UDPTL_DTLS = "udptl-dtls"
    E2DCE = "e2dce"
    DATA_CHANNEL = "data-channel"


TABLE = {
    Treatment.PLAIN: Carried(Carriage.RTP, Carriage.RTP),
    Treatment.E2AE_SDES: Carried(Carriage.SRTP, Carriage.RTP),  # TS 23.334 clause 6.2.10.2
    Treatment.E2AE_DTLS_SRTP: Carried(Carriage.DTLS_SRTP, Carriage.RTP),  # TS 23.334 clause 6.2.10.5
    Treatment.E2AE_UDPTL: Carried(Carriage.DTLS, Carriage.UDP),  # TS 23.334 clause 6.2.10.4
    Treatment.E2DCE: Carried(Carriage.UDP, Carriage.UDP),  # TS 33.328 clause N.3.Y
    Treatment.E2E: Carried(Carriage.UDP, Carriage.UDP),  # TS 23.334 clause 6.2.10A
    Treatment.REFUSED: Carried(Carriage.NONE, Carriage.NONE),
}


class Profile(Struct, frozen=True):
    """A protected protocol that may end in the gateway, and the one that the core knows it by."""

    secured: str
    clear: str
    mechanism: Mechanism
    treatment: Treatment


PROFILES = (  # of two for one clear protocol the first is offered to a UE that has registered both
    Profile("RTP/SAVP", "RTP/AVP", Mechanism.SDES_SRTP, Treatment.E2AE_SDES),
    Profile("RTP/SAVPF", "RTP/AVPF", Mechanism.SDES_SRTP, Treatment.E2AE_SDES),
    Profile("UDP/TLS/RTP/SAVP", "RTP/AVP", Mechanism.DTLS_SRTP, Treatment.E2AE_DTLS_SRTP),
    Profile("UDP/TLS/RTP/SAVPF", "RTP/AVPF", Mechanism.DTLS_SRTP, Treatment.E2AE_DTLS_SRTP),
    Profile("UDP/TLS/UDPTL", "udptl", Mechanism.UDPTL_DTLS, Treatment.E2AE_UDPTL),
)


def is_rtp(proto: str) -> bool:
    return "RTP" in proto.upper().split("/")
