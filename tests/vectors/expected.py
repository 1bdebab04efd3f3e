"""What becomes of the torture messages of RFC 4475 and RFC 5118, which are in the folders beside this file as
they go over the wire.

They are the RFCs' own, byte for byte, but for three Content-Lengths of RFC 5118 that do not fit the bodies it
prints (sections 4.6, 4.8, 4.9). They are sent to the access side by a peer that it trusts, so that what an
unregistered UE is refused for does not hide what the message is about; the home network behind answers 404 to
everything.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
PASSES = 404  # it reaches the home network, and the answer comes back


class Dropped(Enum):
    """Not answered, and counted by this name."""

    MALFORMED = "malformed"
    UNMATCHED = "response-unmatched"


class WAITS(Enum):
    """On a stream, the rest of the body is waited for."""

    FOREVER = ""


Outcome = int | Dropped | WAITS


class Vector(NamedTuple):
    """refused: by the parser, with the status that is in the exception; 0: accepted. stream: what the proxy
    does with it on a stream, one outcome for each message there, where that differs from `datagram`."""

    name: str
    section: str
    datagram: Outcome
    refused: int = 0
    stream: tuple[Outcome, ...] | None = None

    @property
    def data(self) -> bytes:
        folder = "rfc5118" if self.section.startswith("4.") else "rfc4475"
        return (FOLDER / folder / f"{self.name}.sip").read_bytes()

    @property
    def on_stream(self) -> tuple[Outcome, ...]:
        return (self.datagram,) if self.stream is None else self.stream


VECTORS = (
    # RFC 4475
    Vector("wsinv", "3.1.1.1", 481),  # its To has a tag, and there is no such dialog
    Vector("intmeth", "3.1.1.2", Dropped.MALFORMED, 400),  # NUL is refused (see parse_head)
    Vector("esc01", "3.1.1.3", PASSES),
    Vector("escnull", "3.1.1.4", PASSES),
    Vector("esc02", "3.1.1.5", PASSES),
    Vector("lwsdisp", "3.1.1.6", PASSES),
    Vector("longreq", "3.1.1.7", PASSES),
    Vector("dblreq", "3.1.1.8", PASSES, stream=(PASSES, 400)),  # the second one's SDP is broken
    Vector("semiuri", "3.1.1.9", PASSES),
    Vector("transports", "3.1.1.10", PASSES),
    Vector("mpart01", "3.1.1.11", PASSES),
    Vector("unreason", "3.1.1.12", Dropped.UNMATCHED),
    Vector("noreason", "3.1.1.13", Dropped.UNMATCHED),
    Vector("badinv01", "3.1.2.1", Dropped.MALFORMED, 400),  # the way back cannot be read
    Vector("clerr", "3.1.2.2", 400, 400, (WAITS.FOREVER,)),
    Vector("ncl", "3.1.2.3", 400, 400),
    Vector("scalar02", "3.1.2.4", 400, 400),
    Vector("scalarlg", "3.1.2.5", Dropped.MALFORMED, 400),
    Vector("quotbal", "3.1.2.6", 400, 400),
    Vector("ltgtruri", "3.1.2.7", 400, 400),
    Vector("lwsruri", "3.1.2.8", 400, 400),
    Vector("lwsstart", "3.1.2.9", 400, 400),
    Vector("trws", "3.1.2.10", 400, 400),
    Vector("escruri", "3.1.2.11", 400),
    Vector("baddate", "3.1.2.12", PASSES),  # Date is the ends' business
    Vector("regbadct", "3.1.2.13", 400),
    Vector("badaspec", "3.1.2.14", 400, 400),
    Vector("baddn", "3.1.2.15", 400, 400),
    Vector("badvers", "3.1.2.16", 505, 505),
    Vector("mismatch01", "3.1.2.17", 400, 400),
    Vector("mismatch02", "3.1.2.18", 400, 400),
    Vector("bigcode", "3.1.2.19", Dropped.MALFORMED, 400),
    Vector("badbranch", "3.2.1", PASSES),
    Vector("insuf", "3.3.1", Dropped.MALFORMED, 400),  # an answer would say nothing of whose it is
    Vector("unkscm", "3.3.2", 416),
    Vector("novelsc", "3.3.3", 416),
    Vector("unksm2", "3.3.4", 400),  # what a registrar would say, and we keep registrations as well
    Vector("bext01", "3.3.5", 420),
    Vector("invut", "3.3.6", PASSES),
    Vector("regaut01", "3.3.7", PASSES),
    Vector("multi01", "3.3.8", 400, 400),
    Vector("mcl01", "3.3.9", 400, 400),
    Vector("bcast", "3.3.10", Dropped.UNMATCHED),
    Vector("zeromf", "3.3.11", 483),
    Vector("cparam01", "3.3.12", PASSES),
    Vector("cparam02", "3.3.13", PASSES),
    Vector("regescrt", "3.3.14", PASSES),
    Vector("sdp01", "3.3.15", PASSES),
    Vector("inv2543", "3.4.1", PASSES, stream=(400,)),  # a stream needs a Content-Length
    # RFC 5118
    Vector("ipv6-good", "4.1", PASSES),
    Vector("ipv6-bad", "4.2", 400),
    Vector("port-ambiguous", "4.3", PASSES),
    Vector("port-unambiguous", "4.4", PASSES),
    Vector("via-received-param-with-delim", "4.5", 481),
    Vector("via-received-param-no-delim", "4.5", PASSES),
    Vector("ipv6-in-sdp", "4.6", PASSES),
    Vector("mult-ip-in-header", "4.7", 481),
    Vector("mult-ip-in-sdp", "4.8", 488),  # the gateway has one family for each side
    Vector("ipv4-mapped-ipv6", "4.9", 488),  # no media address
    Vector("ipv6-bug-abnf-3-colons", "4.10", 400),
    Vector("ipv6-correct-abnf-2-colons", "4.10", PASSES),
)
