"""The tokens in our Path URIs (RFC 5626 section 5.2): a random name, signed.

A name stands for a binding, and that knows the flow its UE is reached over; so it stays the same when the UE
registers again over another flow, and dialogs that were recorded with it go on. The signature says that a
name is one of ours although nothing is known of it any more: then the flow has gone (430), and the home
network may try another.
"""

from __future__ import annotations

from hmac import compare_digest, digest
from random import Random

KEY = 32  # octets
NAME = 12
SIGNATURE = 10  # 80 bits, as in RFC 5626 section 5.2


class FlowTokens:
    """key: KEY octets that nobody else knows; tokens are good for as long as it is the same."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def mint(self, rng: Random) -> str:
        name = rng.randbytes(NAME)
        return (name + self._sign(name)).hex()

    def is_ours(self, token: str) -> bool:
        try:
            octets = bytes.fromhex(token)
        except ValueError:
            return False
        return compare_digest(octets[NAME:], self._sign(octets[:NAME]))

    def _sign(self, name: bytes) -> bytes:
        return digest(self.key, name, "sha256")[:SIGNATURE]
