"""Which DTLS association an offer and its answer are about: the one that stands, or a new one (RFC 8842).

This is the one place where our role is chosen (trap P01). A new association is one whose

    setup roles     are others than those of the one that stands, or
    fingerprints    are, as a set, or
    tls-id          is, or, where the peer sends none, its address or port (RFC 8842 sections 3.1 and 4).

With ICE a change of address or of the ICE credentials says nothing of DTLS (trap P05); nor does a hold. The
roles of an association stay: an `actpass` in an offer leaves them as they are, whoever says it.
Nothing happens on an offer (trap P02): all is asked when there is an answer.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from imsalg.errors import BadSdp
from imsalg.sdp.dtls import DtlsAttributes, Setup


class Association(Struct, frozen=True):
    """A DTLS association between a UE and the gateway.

    name: what the gateway knows it by; each has its own.
    tls_id: ours, as the UE has been told it; None where the UE has offered without (RFC 8842 section 5.3).
    setup: ours, ACTIVE or PASSIVE; None as long as it is only offered.
    peer: what the UE has said. where: the address and port it said, "" where that means nothing.
    """

    name: str
    tls_id: str | None
    setup: Setup | None = None
    peer: DtlsAttributes | None = None
    where: str = ""


def offered(fresh: Callable[[], str], *, named: bool = True) -> Association:
    """One of our offer, where none stands; else that one is offered again, as we never want another. fresh:
    gives a new tls-id, 120 random bits or more. named: whether the peer is told it."""
    name = fresh()
    return Association(name, name if named else None)


def answered(ours: Association, said: DtlsAttributes, where: str, fresh: Callable[[], str]) -> Association:
    """Of our offer, and the answer to it. Raises BadSdp if nobody would begin."""
    match said.setup:
        case Setup.ACTIVE:
            setup = Setup.PASSIVE
        case Setup.PASSIVE | None:  # RFC 4145 section 4.1
            setup = Setup.ACTIVE
        case _:
            raise BadSdp("an answer with neither a=setup:active nor passive (RFC 8842 section 5.3)")
    new = replace(ours, setup=setup, peer=said, where=where)
    if ours.setup is None:
        return new
    if _is_new(ours, setup, said, where):
        return replace(new, name=fresh())
    return _confirmed(ours, said, where)


def answering(
    standing: Association | None,
    said: DtlsAttributes,
    where: str,
    fresh: Callable[[], str],
    *,
    named: bool = True,
) -> Association:
    """Of an offer of the peer's, which we answer. Where we may choose we are the server: that works through
    NATs, and sends nothing to where nobody has spoken from. Raises BadSdp if nobody would begin."""
    stands = standing.setup if standing is not None else None
    match said.setup:
        case Setup.ACTIVE | None:  # RFC 4145 section 4.1
            setup = Setup.PASSIVE
        case Setup.PASSIVE:
            setup = Setup.ACTIVE
        case Setup.ACTPASS:
            setup = stands or Setup.PASSIVE
        case _:
            raise BadSdp("an offer with a=setup:holdconn (RFC 8842 section 5.1)")
    if standing is None or _is_new(standing, setup, said, where):
        name = fresh()
        return Association(name, name if named and said.tls_id else None, setup, said, where)
    return _confirmed(standing, said, where)


def _is_new(standing: Association, setup: Setup, said: DtlsAttributes, where: str) -> bool:
    before = standing.peer
    if before is None or setup is not standing.setup:
        return True
    if set(said.fingerprints) != set(before.fingerprints):
        return True
    if said.tls_id is not None:
        return said.tls_id != before.tls_id
    return bool(where and standing.where) and where != standing.where


def _confirmed(standing: Association, said: DtlsAttributes, where: str) -> Association:
    """It stands, with the fingerprints it has, in their order; the rest counts for the next time."""
    if (before := standing.peer) is not None:
        said = replace(said, fingerprints=before.fingerprints, tls_id=said.tls_id or before.tls_id)
    return replace(standing, peer=said, where=where or standing.where)
