"""Our crypto lines towards a UE whose media are protected as far as the gateway (SDES, RFC 4568)."""

from __future__ import annotations

from random import Random

from msgspec import Struct, field
from msgspec.structs import replace

from agw.iq.messages import Key, Suite
from imsalg.sdp.attributes import MATERIAL_LENGTH, Crypto, InlineKey


class OwnKeys(Struct, eq=False):
    """Those of one dialog, by m-line. A line in use goes on to be used while its suite does (trap P14); one
    that was offered in vain is offered again (trap P37)."""

    rng: Random
    suites: tuple[str, ...]
    _spare: dict[int, tuple[Crypto, ...]] = field(default_factory=dict)

    def fork(self) -> OwnKeys:
        """Those of another dialog."""
        return OwnKeys(self.rng, self.suites)

    def to_offer(self, index: int, used: Crypto | None) -> tuple[Crypto, ...]:
        """The line in use, or a fresh one for each suite we like."""
        if used is not None:
            return (used,)
        if index not in self._spare:
            self._spare[index] = tuple(
                self._fresh(tag, suite) for tag, suite in enumerate(self.suites, start=1)
            )
        return self._spare[index]

    def to_answer(self, theirs: Crypto, used: Crypto | None) -> Crypto:
        """Ours to the line that was chosen of the UE's offer."""
        if used is not None and used.suite == theirs.suite:
            return replace(used, tag=theirs.tag)
        return self._fresh(theirs.tag, theirs.suite)

    def taken(self) -> None:
        """There is an answer: what it did not choose is not offered again."""
        self._spare.clear()

    def _fresh(self, tag: int, suite: str) -> Crypto:
        """A new key of ours; lifetime and MKI are left out (TS 33.328 clause 7.2.1 step 7)."""
        return Crypto(tag, suite, (InlineKey(self.rng.randbytes(MATERIAL_LENGTH[suite]), None, None),), ())


def for_gateway(crypto: Crypto | None) -> tuple[Key, ...]:
    """The keys of a crypto line as the gateway wants them."""
    if crypto is None:
        return ()
    return tuple(Key(Suite(crypto.suite), key.material, key.mki or b"") for key in crypto.keys)
