"""What an m-line says of data channels: SCTP over DTLS (RFC 8841), and what runs in it (RFC 8864)."""

from __future__ import annotations

import re

from imsalg.sdp.document import Media

MAX_STREAMS = 256  # looked at in one section
FIRST_APPLICATION = 1000  # stream ids below are of bootstrap channels: 0, 10, 100, 110 (TS 24.186 clause 9)


def over_udp(proto: str) -> bool:
    """Today's protocol, and that of the drafts, which has the SCTP port for a format (trap P41)."""
    return proto.upper() in ("UDP/DTLS/SCTP", "DTLS/SCTP")


def stream_ids(media: Media) -> frozenset[int]:
    """Of the `a=dcmap` lines that can be read (RFC 8864 section 5.1.1)."""
    found = (_DCMAP.match(value) for value in media.attributes("dcmap")[:MAX_STREAMS])
    return frozenset(int(match[1]) for match in found if match)


def only_bootstrap(media: Media) -> bool:
    """Whether there are channels, and none of them an application's."""
    ids = stream_ids(media)
    return bool(ids) and max(ids) < FIRST_APPLICATION


_DCMAP = re.compile(r"[ \t]*([0-9]{1,5})(?:[ \t]|$)")
