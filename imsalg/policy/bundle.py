"""Names and groups of m-lines (RFC 5888), and BUNDLE (RFC 9143) where no two streams share a port: the
gateway's are one stream's each.

A WebRTC client may insist on a group (`max-bundle`, RFC 9429 section 4.1.1). It is offered and answered one
of a single m-line; every other line keeps a transport of its own, and what has none (`bundle-only`, port 0)
stays refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Self

from msgspec import Struct

from imsalg.policy.treatment import is_rtp
from imsalg.sdp.attributes import fields
from imsalg.sdp.document import Document, Media

MAX_GROUPS = 32  # of those whose names change


class Names(Struct, frozen=True):
    """What a description calls its m-lines (RFC 5888 section 4). mids: of each, "" for none. grouped: those
    in its BUNDLE groups."""

    mids: tuple[str, ...] = ()
    grouped: tuple[str, ...] = ()

    @classmethod
    def of(cls, document: Document) -> Self:
        mids = tuple(_mid(media) for media in document.media)
        groups = [value for value in document.session.attributes("group") if _is_bundle(value)]
        grouped = {mid for value in groups for mid in fields(value)[1:]}
        return cls(mids, tuple(mid for mid in mids if mid in grouped))


def name(document: Document, standing: Names) -> tuple[str, ...]:
    """Every m-line gets a mid: that of the answer in force, else its own, else one that is free."""
    names = [*standing.mids, *[""] * len(document.media)][: len(document.media)]
    for index, media in enumerate(document.media):
        if not names[index]:
            own = _mid(media)
            free = (mid for n in count() if (mid := f"m{n}") not in names)
            names[index] = own if own and own not in names else next(free)
        media.set_attribute("mid", names[index])
    return tuple(names)


def ungroup(document: Document) -> None:
    document.session.remove_attributes_where("group", _is_bundle)


def rename(out: Document, document: Document) -> None:
    """Groups have the names of the m-lines as they leave, and of no line with port 0 (RFC 5888 section 9.2).
    document: the SDP as it came."""
    names = {_mid(was): _mid(now) for was, now in zip(document.media, out.media, strict=True) if now.port}
    groups = [fields(value) for value in out.session.attributes("group")]
    renamed = [
        [*each[:1], *dict.fromkeys(names[mid] for mid in each[1:] if names.get(mid))] for each in groups
    ]
    if renamed != groups:
        out.session.remove_attributes({"group"})
        for each in renamed[:MAX_GROUPS]:
            if each[1:]:
                out.session.add_attribute("group", " ".join(each))


def group(document: Document, members: Iterable[int], standing: Names, among: Sequence[str]) -> None:
    """One of these m-lines: that of the group in force, which browsers let no line leave, else the first.
    among: the mids it may have. RTCP is multiplexed in a group (RFC 9143 section 9.3)."""
    sections = [document.media[index] for index in members]
    muxed = [media for media in sections if media.has("rtcp-mux") or not is_rtp(media.proto)]
    mids = [mid for media in muxed if (mid := _mid(media)) in among]
    if mids:
        mid = next((mid for mid in mids if mid in standing.grouped), mids[0])
        document.session.add_attribute("group", f"BUNDLE {mid}")


def _mid(media: Media) -> str:
    value = (media.attribute("mid") or "").strip(" \t")
    return value if _MID.fullmatch(value) else ""


def _is_bundle(value: str) -> bool:
    return fields(value)[:1] == ["BUNDLE"]


_MID = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]{1,64}")  # a token (RFC 5888 section 4), and short
