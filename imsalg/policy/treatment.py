"""What may become of an m-line, and how the gateway carries each side of it then (TS 33.328 clause 4.1).

`decide` chooses a treatment, `rewrite` makes the SDP say so, the gateway is told the two carriages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Carriage(StrEnum):
    """What one side of the gateway looks at."""

    NONE = "none"  # nothing passes
    RTP = "rtp"  # RTP and RTCP in the clear
    SRTP = "srtp"  # SRTP and SRTCP, keyed by SDES, terminated in the gateway
    UDP = "udp"  # datagrams, transparently


@dataclass(frozen=True, slots=True)
class Carried:
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

    @property
    def carriage(self) -> Carried:
        """How an m-line under this treatment is carried where it is anchored at all."""
        return TABLE[self]


class Mechanism(StrEnum):
    """Media plane security a UE and the network announced to each other when it registered
    (TS 24.229 clause 7.2A.7; `dtls-srtp` as seen in the field)."""

    SDES_SRTP = "sdes-srtp"
    DTLS_SRTP = "dtls-srtp"
    MSRP_TLS = "msrp-tls"
    BFCP_TLS = "bfcp-tls"
    UDPTL_DTLS = "udptl-dtls"


TABLE = {
    Treatment.PLAIN: Carried(Carriage.RTP, Carriage.RTP),
    Treatment.E2AE_SDES: Carried(Carriage.SRTP, Carriage.RTP),  # TS 23.334 clause 6.2.10.2
    Treatment.E2E: Carried(Carriage.UDP, Carriage.UDP),  # TS 23.334 clause 6.2.10A
    Treatment.REFUSED: Carried(Carriage.NONE, Carriage.NONE),
}
