"""The dialogs of one call, each with its media: branches, told apart by the callee's tag.

Before the first response there is only the root, which holds the offer of the INVITE; every early dialog
forks from it, with an address and a key of its own on the offerer's side (traps P13, P26).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from random import Random

from msgspec import Struct, field
from msgspec.structs import replace

from imsalg.anchor import Anchor, Side, Termination, Wanted
from imsalg.crossing import Crossing
from imsalg.exchange import Agreed
from imsalg.negotiation import Negotiation, Terms
from imsalg.records import BranchRecord
from imsalg.sdp.document import Document
from imsalg.sip.dialog import MAX_ROUTES, Dialog, Party, contact_uri
from imsalg.sip.hop import Flow
from imsalg.sip.message import Request, Response
from imsalg.sip.timers import earliest
from imsalg.sip.values import NameAddr

MAX_PASSED = 4  # of (side, INVITE): whose descriptions are known again
MAX_BRANCHES = 7  # at a time; the gateway has a limit of terminations in a context


class Branch(Struct):
    """One dialog and its media. offered: the offer in a response to an INVITE, which PRACK or ACK answers
    (RFC 3261 section 13.2.1, RFC 3262 section 5). expires: when the session is over if nobody
    refreshes it; None while it has not begun."""

    dialog: Dialog
    media: Negotiation
    _passed: dict[tuple[Side, int], dict[bytes, bytes]] = field(default_factory=dict)
    offered: Document | None = None
    expires: float | None = None

    def __repr__(self) -> str:
        return f"Branch({self.dialog!r}, {self.media!r})"  # what has passed may have keys

    def passed(self, side: Side, invite: int) -> dict[bytes, bytes]:
        """What has come from a side in responses or the ACK to the INVITE of this number: description
        received -> passed on. These are sent again and then mean the same."""
        if (side, invite) not in self._passed and len(self._passed) >= MAX_PASSED:
            del self._passed[next(iter(self._passed))]
        return self._passed.setdefault((side, invite), {})

    def awaits(self, side: Side) -> bool:
        """Whether a request from that side is to bring the answer to `offered`."""
        pending = self.media.pending
        return pending is not None and pending.side is not side and pending.offer is self.offered

    @property
    def agreed(self) -> bool:
        """Confirmed, and no first answer is missing."""
        return self.dialog.confirmed and (bool(self.media.firm.decisions) or self.media.pending is None)

    def record(self, epoch: float) -> BranchRecord:
        media, agreed = self.media, self.media.firm
        return BranchRecord(
            self.dialog,
            {side: edge.name for side, edge in media.edges.items()},
            {side: edge.origin for side, edge in media.edges.items()},
            agreed.decisions,
            agreed.keys,
            agreed.associations,
            agreed.streams,
            {side: edge.ip6 for side, edge in media.edges.items()},
            media.watched,
            None if self.expires is None else self.expires + epoch,
            agreed.named,
        )


class Branches:
    """invite: the INVITE of the call; its sender is the caller. closed: the last dialog is over,
    and there will be no other."""

    def __init__(
        self, invite: Crossing, anchor: Anchor, terms: Terms, rng: Random, flows: Mapping[Side, Flow]
    ) -> None:
        self.invite = invite
        self.closed = False
        self.caller = invite.side
        self._by_tag: dict[str, Branch] = {}
        self._over: dict[str, Dialog] = {}  # ended, their media released
        self._heard: list[Negotiation] = []  # the last is heard, and when it ends the one before
        self._forks = 0
        self._open = True  # another callee may still answer
        self._start = partial(Negotiation.start, anchor, terms, rng, flows)
        self.root = self._start()

    def __iter__(self) -> Iterator[Branch]:
        return iter(list(self._by_tag.values()))

    def __bool__(self) -> bool:
        return bool(self._by_tag)

    @property
    def established(self) -> bool:
        return any(branch.dialog.confirmed for branch in self)

    @property
    def expires(self) -> float | None:
        """When the first session is over unless it is refreshed."""
        return earliest(*[branch.expires for branch in self._by_tag.values()])

    def expired(self, now: float) -> list[tuple[str, Dialog]]:
        """The dialogs whose sessions were not refreshed, by tag."""
        return [
            (tag, branch.dialog)
            for tag, branch in self._by_tag.items()
            if branch.expires is not None and branch.expires <= now
        ]

    def tag_of(self, message: Request | Response, side: Side) -> str:
        """The callee's tag in a request from one side or a response to it."""
        return (message.to.tag if side is self.caller else message.from_.tag) or ""

    def of(self, message: Request | Response, side: Side) -> Branch | None:
        """The branch of a request from one side, or of a response to it."""
        return self._by_tag.get(self.tag_of(message, side))

    def made_by(self, response: Response) -> Branch | None:
        """The branch of a response to the INVITE, made now if its tag is new. None: there are too many."""
        tag = response.to.tag or ""
        branch = self._by_tag.get(tag)
        if branch is None and len(self._by_tag) < MAX_BRANCHES:
            self._forks += 1
            media = self.root.fork(self._forks) if self.root.pending else self._start(number=self._forks)
            branch = self._by_tag[tag] = Branch(self.dialog(response), media)
        return branch

    def ended(self, response: Response) -> bool:
        """Whether a response to the INVITE is of a dialog that is over."""
        return (response.to.tag or "") in self._over

    def dialog(self, response: Response) -> Dialog:
        """The dialog a response to the INVITE makes, or made before: a BYE of ours follows the numbers used
        in it. Between us and the callee stand the proxies that recorded themselves above us in it."""
        if (before := self._over.get(response.to.tag or "")) is not None:
            return before
        invite = self.invite.request
        ours = self.invite.outgoing.headers.values("Record-Route")
        above = response.headers.values("Record-Route")[: -len(ours) or None]
        caller = Party(
            invite.headers.get("From") or "",
            contact_uri(invite.headers) or invite.from_.uri,
            tuple(invite.headers.values("Record-Route")[:MAX_ROUTES]),
        )
        callee = Party(
            response.headers.get("To") or "",
            contact_uri(response.headers) or invite.uri,
            tuple(reversed(above[-MAX_ROUTES:])),
            cseq=invite.cseq.number,
        )
        return Dialog(invite.call_id, caller, callee)

    def hear(self, chosen: Negotiation) -> Wanted:
        """What the gateway shall have for this dialog's media to be heard, and those of the others not."""
        self._heard = [*(media for media in self._heard if media is not chosen), chosen]
        return self.wanted()

    def hears(self, termination: str) -> bool:
        """Whether it is one of the dialog that is heard."""
        return bool(self._heard) and termination in self._heard[-1].names

    def wanted(self, changed: Negotiation | None = None) -> Wanted:
        """What the gateway shall have as it is now. changed: whose media count while none are heard."""
        heard = self._heard[-1] if self._heard else changed
        if heard is None:
            return {}
        wanted: dict[str, Termination | None] = {}
        for branch in self:
            if branch.media is not heard:
                for name, termination in branch.media.wanted().items():
                    if name not in heard.names and termination is not None:
                        wanted[name] = termination.muted()
        wanted |= heard.wanted()
        if self._open and (pending := self.root.pending) is not None:
            answerer = pending.side.other
            name = self.root.edges[answerer].name
            if (told := wanted.get(name)) is not None:  # and so have other callees, of all its ports
                kept = self.root.parked(answerer, pending.reserved)
                wanted[name] = replace(told, streams={**kept, **told.streams})
        return wanted

    def confirm(self, chosen: Branch) -> Wanted:
        """A 2xx has come for it: the early dialogs beside it are over."""
        self._open = False
        over = [tag for tag, each in self._by_tag.items() if each is not chosen and not each.dialog.confirmed]
        gone = [self._take(tag).media for tag in over]
        released = dict.fromkeys(name for media in gone for name in media.names)
        stands = any(each is chosen for each in self)  # else a BYE was quicker
        return {**released, **(self.hear(chosen.media) if stands else self.wanted())}

    def drop(self, tag: str) -> Wanted | None:
        """A dialog is over; if it was heard, the one before it is again. Gives its own terminations, which
        go; None: there was no such dialog."""
        if tag not in self._by_tag:
            return None
        gone = self._take(tag)
        media = [self.root, *(branch.media for branch in self)]
        used = {name for negotiation in media for name in negotiation.names}
        return dict.fromkeys(name for name in gone.media.names if name not in used)

    def agreed(self) -> list[Branch]:
        """Those that go on after a restart, the one that is heard last."""
        return sorted((branch for branch in self if branch.agreed), key=lambda b: b.media in self._heard[-1:])

    def resume(self, records: Iterable[BranchRecord], epoch: float, latest: float) -> None:
        """Go on with the dialogs of these records. latest: when their sessions are over unless they are
        refreshed, whatever was done to the clock."""
        for record in records:
            edges = {
                side: replace(
                    edge,
                    name=record.names[side],
                    origin=record.origins[side],
                    ip6=record.families[side],
                )
                for side, edge in self.root.edges.items()
            }
            agreed = Agreed(record.decisions, record.keys, record.associations, record.streams, record.named)
            media = replace(self._start(), edges=edges, agreed=agreed, watched=record.watched)
            tag = NameAddr.parse(record.dialog.callee.address).param("tag") or ""
            expires = None if record.expires is None else min(record.expires - epoch, latest)
            self._by_tag[tag] = Branch(record.dialog, media, expires=expires)
            self._heard.append(media)

    def _take(self, tag: str) -> Branch:
        branch = self._by_tag.pop(tag)
        self._heard = [media for media in self._heard if media is not branch.media]
        self._over[tag] = branch.dialog
        if len(self._over) > MAX_BRANCHES:
            del self._over[next(iter(self._over))]
        return branch

    def close(self) -> None:
        """The call stays for a while, for what comes late; what was offered need not."""
        self.closed = True
        for tag in list(self._by_tag):
            self._take(tag)
        self.root.rollback()
        self.invite.offer = None
