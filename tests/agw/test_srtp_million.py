"""A million packets through the native transforms and through libsrtp, over a link that loses, reorders,
repeats and damages: packet by packet the same bytes, or the same refusal, on both ends of both ways."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from agw import srtp
from agw.iq.messages import Key, Suite
from agw.srtp import SrtpError
from tests.agw import native_srtp

PACKETS = 100_000  # sent by each of two ends, for each of five suites
SSRCS = (1, 0xCAFEBABE, 0xFFFFFFFF)


def plain_packets(rng: random.Random) -> Iterator[tuple[bytes, bool]]:
    """Three sources, each soon past the end of its sequence numbers and then time and again, now and then
    out of order, or twice, as the core may send them."""
    sequence = {ssrc: rng.choice((0, 0xFF00, 0x7FFF, 0x8000, 0xFFFF)) for ssrc in SSRCS}
    for _ in range(PACKETS):
        ssrc = rng.choice(SSRCS)
        length = rng.choice((0, 1, 15, 16, 17, 20, 160, 160, 160, 160, 1200))
        if rng.random() < 0.05:
            begin = b"\x80\xc8" + bytes(2) + ssrc.to_bytes(4, "big")
            yield begin + rng.randbytes(length), True
        else:
            sequence[ssrc] += rng.choices((1, 0, -1, 3, -40, 600, 9000), (200, 1, 2, 5, 1, 1, 4))[0]
            number = (sequence[ssrc] & 0xFFFF).to_bytes(2, "big")
            yield b"\x80\x00" + number + bytes(4) + ssrc.to_bytes(4, "big") + rng.randbytes(length), False


def link(rng: random.Random, packets: Iterator[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """Loss, damage, duplicates at once and much later, and packets that overtake others."""
    held: list[tuple[bytes, bool]] = []
    for packet, rtcp in packets:
        chance = rng.random()
        if chance < 0.02:
            continue
        if chance < 0.03:
            place = rng.randrange(len(packet))
            yield packet[:place] + bytes([packet[place] ^ 1 << rng.randrange(8)]) + packet[place + 1 :], rtcp
        elif chance < 0.08:
            held.append((packet, rtcp))
            continue
        yield packet, rtcp
        if chance > 0.97:
            held.append((packet, rtcp))
        while len(held) > 60 or (held and rng.random() < 0.05):
            yield held.pop(rng.randrange(len(held)))


def attempt(function: object, packet: bytes, rtcp: bool) -> object:
    try:
        return function(packet, rtcp)  # type: ignore[operator]
    except SrtpError as error:
        return error.failure


@pytest.mark.parametrize("sender", ["libsrtp", "native"])
@pytest.mark.parametrize("suite", Suite)
def test_a_million_packets_are_the_same_on_both_ends(suite: Suite, sender: str) -> None:
    rng = random.Random(f"{suite} {sender}")
    key = Key(suite, rng.randbytes(suite.material_length))
    ours, theirs = native_srtp.Protector(key).protect, srtp.Protector(key).protect
    own, other = native_srtp.Unprotector([key]).unprotect, srtp.Unprotector([key]).unprotect
    if sender == "libsrtp":
        ours, theirs = theirs, ours
    refused: Counter[object] = Counter()

    def protected() -> Iterator[tuple[bytes, bool]]:
        for packet, rtcp in plain_packets(rng):
            made = attempt(ours, packet, rtcp)
            assert made == attempt(theirs, packet, rtcp)
            if isinstance(made, bytes):
                yield made, rtcp
            else:
                refused[made] += 1

    for packet, rtcp in link(rng, protected()):
        read = attempt(own, packet, rtcp)
        assert read == attempt(other, packet, rtcp)
        refused[read if isinstance(read, str) else "none"] += 1
    assert refused["none"] > 0.8 * PACKETS
    assert min(refused["replayed"], refused["auth_failed"]) > 0.01 * PACKETS
