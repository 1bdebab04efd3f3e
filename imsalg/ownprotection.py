"""What protects media between a UE and the gateway, in one dialog: our part of SDES, of DTLS and of ICE."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from agw.iq.messages import Ice, Stream, Transport
from imsalg.anchor import Anchor, Side, m_line
from imsalg.edge import Edge
from imsalg.errors import UsageError
from imsalg.exchange import Agreed, Exchange
from imsalg.owndtls import OwnDtls
from imsalg.ownkeys import OwnKeys, for_gateway
from imsalg.policy import association
from imsalg.policy.association import Association
from imsalg.policy.check import AnswerLine, Own
from imsalg.policy.decide import Decision
from imsalg.policy.mline import Protection
from imsalg.policy.rules import Rules
from imsalg.policy.treatment import Treatment
from imsalg.sdp.attributes import Crypto
from imsalg.sdp.dtls import Setup


class OwnProtection(Struct, eq=False):
    keys: OwnKeys
    dtls: OwnDtls

    @classmethod
    def start(cls, rng: Random, rules: Rules) -> Self:
        return cls(OwnKeys(rng, rules.suites), OwnDtls(rng, rules))

    def fork(self) -> OwnProtection:
        """That of another dialog."""
        return OwnProtection(self.keys.fork(), self.dtls.fork())

    def beside(self, own: Mapping[int, Own]) -> dict[int, Own]:
        """What was offered once, for another dialog that it makes: its associations are others."""
        return {
            index: replace(each, name=self.dtls.fresh()) if isinstance(each, Association) else each
            for index, each in own.items()
        }

    def taken(self) -> None:
        """There is an answer: what it did not take is not offered again."""
        self.keys.taken()
        self.dtls.taken()

    # -- in an offer to the UE

    def to_offer(self, id: int, decision: Decision, agreed: Agreed) -> Own:
        """What the m-line of a stream is offered with."""
        if decision.treatment.by_dtls:
            return agreed.association(id) or self.dtls.to_offer(id)
        return self.keys.to_offer(m_line(id), agreed.keys.get(m_line(id)))

    def reserve(self, id: int, carriage: Transport, own: Own | None) -> Stream:
        """A new stream, as an offer needs it."""
        if isinstance(own, Association):
            return Stream(id, carriage, dtls=self.dtls.for_gateway(own), ice=self.dtls.ice_to_offer(id))
        return Stream(id, carriage)

    def offered(self, exchange: Exchange, edge: Edge, anchor: Anchor) -> dict[int, Protection]:
        """How the SDP of the offer says it."""
        return {
            index: edge.dtls(anchor, exchange.ids[index], Setup.ACTPASS, ours.tls_id)
            if isinstance(ours, Association)
            else ours
            for index, ours in exchange.own.items()
        }

    # -- with an answer, whoever gives it

    def protect(
        self, stream: Stream, index: int, exchange: Exchange, line: AnswerLine, agreed: Agreed
    ) -> tuple[Stream, Crypto | Association | None]:
        """The UE's stream with all that protects it, and what of ours does. agreed: before this exchange."""
        if line.decision.treatment is Treatment.E2AE_SDES:
            ours, theirs = self._crypto(index, exchange, line, agreed)
            keys = for_gateway(ours), for_gateway(theirs)
            return replace(stream, local_key=keys[0][0], remote_keys=keys[1]), ours
        if not line.decision.treatment.by_dtls:
            return stream, None
        named = self._association(index, exchange, line, agreed)
        ice = self._ice(index, exchange, agreed)
        return replace(stream, dtls=self.dtls.for_gateway(named), ice=ice, latch=ice is None), named

    def answered(
        self, exchange: Exchange, agreed: Agreed, edge: Edge, anchor: Anchor
    ) -> dict[int, Protection]:
        """How the SDP of our answer to the UE says it. Without a tls-id to an offer without (RFC 8842
        section 5.3)."""
        lines: dict[int, Protection] = {index: (line,) for index, line in agreed.keys.items()}
        for index, ours in agreed.associations.items():
            said = exchange.decisions[index].dtls
            tls_id = ours.tls_id if said is not None and said.tls_id else None
            lines[index] = edge.dtls(anchor, exchange.ids[index], ours.setup or Setup.PASSIVE, tls_id)
        return lines

    def _crypto(
        self, index: int, exchange: Exchange, line: AnswerLine, agreed: Agreed
    ) -> tuple[Crypto, Crypto]:
        """Our line and the UE's."""
        if exchange.side is Side.CORE:
            if line.own is None or line.crypto is None:
                raise UsageError("an accepted e2ae answer without a crypto line")
            return line.own, line.crypto
        theirs = line.decision.crypto
        if theirs is None:
            raise UsageError("an e2ae offer without a selected crypto line")
        return self.keys.to_answer(theirs, agreed.keys.get(index)), theirs

    def _association(self, index: int, exchange: Exchange, line: AnswerLine, agreed: Agreed) -> Association:
        remote, _ = exchange.remote(index, Side.ACCESS)
        where = f"{remote.host} {remote.port}" if remote else ""
        standing = agreed.association(exchange.ids[index])
        if exchange.side is Side.ACCESS:
            if line.decision.dtls is None:
                raise UsageError("an offer of DTLS that says nothing of it")
            named = self.dtls.rules.tls_id
            return association.answering(standing, line.decision.dtls, where, self.dtls.fresh, named=named)
        ours = standing or exchange.own[index]
        if line.dtls is None or not isinstance(ours, Association):
            raise UsageError("an accepted answer to DTLS that says nothing of it")
        return association.answered(ours, line.dtls, where, self.dtls.fresh)

    def _ice(self, index: int, exchange: Exchange, agreed: Agreed) -> Ice | None:
        """Ours towards the UE; None where it does not check."""
        theirs = exchange.checks(index)
        if theirs is None:
            return None
        id = exchange.ids[index]
        before = agreed.stream(Side.ACCESS, id)
        used = before.ice if before is not None else None
        if exchange.side is Side.ACCESS:
            return self.dtls.ice_to_answer(theirs, used)
        ours = exchange.reserved[id].ice if id in exchange.reserved else used
        return Ice(ours.ufrag, ours.pwd, theirs.ufrag) if ours else None
