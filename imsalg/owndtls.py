"""Our side of DTLS and ICE towards a UE whose media are protected as far as the gateway (RFC 8842, RFC 8445):
the gateway does both, and is told the names and credentials here."""

from __future__ import annotations

import base64
from random import Random

from msgspec import Struct, field

from agw.iq import messages as iq
from agw.iq.messages import Dtls, DtlsRole, Ice
from imsalg.policy import association
from imsalg.policy.association import Association
from imsalg.policy.rules import Rules
from imsalg.sdp.dtls import Setup
from imsalg.sdp.ice import IceCredentials


class OwnDtls(Struct, eq=False):
    """Those of one dialog, by stream. What was offered in vain is offered again (traps P03, P37)."""

    rng: Random
    rules: Rules
    _spare: dict[int, tuple[Association, Ice]] = field(default_factory=dict)

    def fork(self) -> OwnDtls:
        """Those of another dialog."""
        return OwnDtls(self.rng, self.rules)

    def to_offer(self, stream: int) -> Association:
        """The first of a stream."""
        return self._spares(stream)[0]

    def ice_to_offer(self, stream: int) -> Ice:
        """Of a stream that is new."""
        return self._spares(stream)[1]

    def ice_to_answer(self, theirs: IceCredentials, used: Ice | None) -> Ice:
        """Ours to the credentials of an offer; fresh ones if they are (RFC 8839 section 4.4.1.1.1)."""
        ours = used if used is not None and used.remote_ufrag == theirs.ufrag else self._ice()
        return Ice(ours.ufrag, ours.pwd, theirs.ufrag)

    def taken(self) -> None:
        """There is an answer: what it did not take is not offered again."""
        self._spare.clear()

    def for_gateway(self, agreed: Association) -> Dtls:
        """A role is not told without fingerprints, of the best hash function of those there are."""
        said, setup = agreed.peer, agreed.setup
        if said is None or setup is None:
            return Dtls(agreed.name)
        role = DtlsRole.CLIENT if setup is Setup.ACTIVE else DtlsRole.SERVER
        fingerprints = tuple(
            iq.Fingerprint(each.hash, each.digest) for each in said.usable(self.rules.hashes)
        )
        return Dtls(agreed.name, role, fingerprints)

    def fresh(self) -> str:
        """A tls-id: 120 random bits in 20 characters (RFC 8842 section 4)."""
        return base64.urlsafe_b64encode(self.rng.randbytes(15)).decode()

    def _spares(self, stream: int) -> tuple[Association, Ice]:
        if stream not in self._spare:
            self._spare[stream] = association.offered(self.fresh, named=self.rules.tls_id), self._ice()
        return self._spare[stream]

    def _ice(self) -> Ice:
        """24 random bits and 128 are the least (RFC 8839 section 5.4)."""
        ufrag, pwd = (base64.b64encode(self.rng.randbytes(size)).decode() for size in (6, 18))
        return Ice(ufrag, pwd)
