"""What outlives a restart, as records: bindings, calls whose media are agreed, and little else.

The owners of the state make a record of it and are made from one; here are its form and its octets. A record
holds what no peer would say again; what the gateway knows better (its ports) is asked of it. Transactions,
early dialogs and an offer without its answer are in no record: who waits for them finds out by the timers of
SIP. Times are seconds of the wall clock, since no other is the same after a restart.

A checksum stands in front of each: a disk may give back something else than it was given, and half a call is
worse than none.

A call's record has the SRTP keys of its UE, as without them it could not go on. They are in no repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import msgspec
from msgspec import Struct

from agw.iq.messages import Stream
from imsalg.anchor import Side
from imsalg.edge import Origins
from imsalg.policy.association import Association
from imsalg.policy.bundle import Names
from imsalg.policy.decide import Decision
from imsalg.policy.treatment import Mechanism
from imsalg.sdp.attributes import Crypto
from imsalg.sip.dialog import Dialog
from imsalg.sip.hop import Flow

SCHEMA = 5  # of all records; to be raised when one changes its meaning, or loses or renames a field


class BindingRecord(Struct, frozen=True, tag="binding"):
    """See `registration.Binding`. contacts: Contact URI -> when it expires."""

    token: str
    aor: str
    flow: Flow
    contacts: dict[str, float]
    service_route: tuple[str, ...]
    associated: tuple[str, ...]
    mechanisms: frozenset[Mechanism]
    key: tuple[str, str]


class BranchRecord(Struct, frozen=True):
    """A confirmed dialog and its media as agreed; see `negotiation.Negotiation`."""

    dialog: Dialog
    names: Mapping[Side, str]
    origins: Mapping[Side, Origins]
    decisions: tuple[Decision, ...]
    keys: Mapping[int, Crypto]
    associations: Mapping[int, Association]
    streams: Mapping[Side, Mapping[int, Stream]]
    families: Mapping[Side, bool]
    watched: bool
    expires: float | None = None
    named: Names = Names()


class CallRecord(Struct, frozen=True, tag="call"):
    """See `call.Call`. invite: those header fields of its INVITE that are asked for later. recorded: the
    Record-Route values it left with. mechanisms: of its UE's registration."""

    token: str
    aor: str
    caller: Side
    uri: str
    invite: tuple[tuple[str, str], ...]
    recorded: tuple[str, ...]
    flows: dict[Side, Flow]
    started: float
    mechanisms: frozenset[Mechanism]
    branches: tuple[BranchRecord, ...]


class OwnRecord(Struct, frozen=True, tag="own"):
    """The proxy's own. incarnation: of the gateway that has the contexts of the calls. flow_key: what its
    tokens are signed with, see `flowtoken`."""

    incarnation: str
    flow_key: bytes

    def __repr__(self) -> str:
        return f"OwnRecord({self.incarnation!r})"


Record = BindingRecord | CallRecord | OwnRecord

_CHECKSUM = 4  # octets
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes | None:
    """None for what a peer wrote in no UTF-8: that is not kept."""
    try:
        data = _encoder.encode(record)
    except UnicodeEncodeError:
        return None
    return crc32(data).to_bytes(_CHECKSUM, "big") + data


def decode(octets: bytes) -> Record | None:
    """None for what is no record of this schema, or not what was stored."""
    data = octets[_CHECKSUM:]
    if crc32(data) != int.from_bytes(octets[:_CHECKSUM], "big"):
        return None
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
