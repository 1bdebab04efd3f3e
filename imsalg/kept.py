"""What of the core is to be stored, and what becomes of it after a restart.

The owners say what has changed, by key; the shell asks for the records now and then. What changes ten times
in between is one record, and a call that comes and goes in between is none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from imsalg.anchor import Side
from imsalg.call import Call
from imsalg.calls import Calls
from imsalg.config import ProxyConfig
from imsalg.crossing import Note
from imsalg.flowtoken import FlowTokens
from imsalg.gatelink import GatewayLink
from imsalg.records import BindingRecord, CallRecord, OwnRecord, decode, encode
from imsalg.registration import Binding, Registrations

MAX_CHANGES = 100_000  # keys remembered; with more, everything is told


class Changes(Struct, frozen=True):
    """records: key -> record, None where there is none any more. whole: what has another key goes as well."""

    whole: bool
    records: Mapping[str, bytes | None]


class Kept:
    """note: for the log. epochs: what the wall clock shows at zero of the clock that `now` is of. Without a
    store, nothing is remembered of what has changed."""

    def __init__(
        self,
        config: ProxyConfig,
        registrations: Registrations,
        calls: Calls,
        gateway: GatewayLink,
        note: Callable[[Note], None],
    ) -> None:
        self._access = {each.listen: each for each in config.access}
        self._registrations = registrations
        self._calls = calls
        self._gateway = gateway
        self._note = note
        self._changed: dict[str, None] = {}
        self._whole = False
        self._own: OwnRecord | None = None  # as stored
        if config.store.path:
            registrations.followers.append(lambda token: self._change(f"binding {token}"))
            calls.followers.append(lambda token: self._change(f"call {token}"))

    def everything(self) -> None:
        """What is stored is not known any more."""
        self._whole = True
        self._changed.clear()

    @property
    def changed(self) -> bool:
        return bool(self._changed) or self._whole or not self._own_is_stored()

    def to_store(self, epoch: float) -> Changes:
        """What has changed since this was asked last."""
        whole, keys = self._whole, list(self._changed)
        self._whole = False
        self._changed.clear()
        if whole:
            keys = [f"binding {binding.token}" for binding in self._registrations]
            keys += [f"call {token}" for token in self._calls]
        records = {}
        for key in keys:
            call = self._calls.get(key.partition(" ")[2])
            if call is None or call.settled or whole:  # else it will change again, very soon
                records[key] = self._record(key, epoch)
        if whole or not self._own_is_stored():
            self._own = OwnRecord(self._gateway.incarnation, self._registrations.tokens.key)
            records["own"] = encode(self._own)
        return Changes(whole, records)

    def restore(self, values: Iterable[bytes], now: float, epoch: float) -> None:
        """Take up what these records tell of."""
        calls: list[Call] = []
        over = unread = 0
        self._gateway.resume("", now)
        for value in values:
            match record := decode(value):
                case None:
                    unread += 1
                case OwnRecord():
                    self._own = record
                    self._registrations.tokens = FlowTokens(record.flow_key)
                    self._gateway.resume(record.incarnation, now)
                case BindingRecord() | CallRecord():
                    try:
                        resumed = self._resume(record, now, epoch)
                    except Exception as error:  # our fault; it shall not keep us from starting, each time
                        what = f"{record.__struct_config__.tag} {record.token}"
                        self._note(Note(logging.ERROR, f"{what} is not restored: {type(error).__name__}"))
                        unread += 1
                        continue
                    if isinstance(resumed, Call):
                        calls.append(resumed)
                    elif resumed is None:
                        over += 1
                        self._change(f"{record.__struct_config__.tag} {record.token}")
        text = f"restored: {len(self._registrations)} registrations, {len(calls)} calls"
        self._note(Note(logging.INFO, f"{text}; {over} over meanwhile"))
        if unread:
            self.everything()
            self._note(Note(logging.WARNING, f"{unread} stored records cannot be read and are dropped"))
        for call in calls:  # now that their UEs are known
            self._calls.keep(call)

    def _resume(self, record: BindingRecord | CallRecord, now: float, epoch: float) -> Binding | Call | None:
        """None: it is over, or came by an access that is configured no more."""
        flow = record.flow if isinstance(record, BindingRecord) else record.flows[Side.ACCESS]
        access = self._access.get(flow.local)
        if access is None:
            return None
        if isinstance(record, BindingRecord):
            return self._registrations.restore(record, access, now, epoch)
        return self._calls.resume(record, access, now, epoch)

    def _own_is_stored(self) -> bool:
        own = self._own
        return (
            own is not None
            and own.incarnation == self._gateway.incarnation
            and own.flow_key == self._registrations.tokens.key
        )

    def _change(self, key: str) -> None:
        if len(self._changed) < MAX_CHANGES:
            self._changed[key] = None
        else:
            self.everything()

    def _record(self, key: str, epoch: float) -> bytes | None:
        kind, _, token = key.partition(" ")
        owner = self._calls.get(token) if kind == "call" else self._registrations.find(token)
        try:
            record = owner.record(epoch) if owner is not None else None
            return encode(record) if record is not None else None
        except Exception as error:  # our fault; it shall not keep all the others from being stored
            self._note(Note(logging.ERROR, f"{key} cannot be stored: {type(error).__name__}"))
            return None
