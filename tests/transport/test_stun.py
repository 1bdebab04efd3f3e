"""Keep-alives of UDP flows (RFC 5626 section 4.4.2)."""

from __future__ import annotations

import asyncio
import random
import socket
from ipaddress import ip_address

import pytest

from imsalg.sip.values import Address
from imsalg.transport.stun import MAX_REQUEST, answer, is_stun
from tests.transport.test_shell import Site, Strict, looped, options, ports, until

COOKIE = bytes.fromhex("2112a442")
TRANSACTION = bytes(range(12))
SOFTWARE = bytes.fromhex("80220003") + b"ue \0"


def request(attributes: bytes = b"") -> bytes:
    return b"\0\1" + len(attributes).to_bytes(2, "big") + COOKIE + TRANSACTION + attributes


# The addresses and the transaction of RFC 5769 sections 2.2 and 2.3, with the attribute written there.
@pytest.mark.parametrize(
    ("source", "attribute"),
    [
        (Address("192.0.2.1", 32853), "002000080001a147e112a643"),
        (
            Address("2001:db8:1234:5678:11:2233:4455:6677", 32853),
            "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9",
        ),
    ],
)
def test_the_answer_says_where_the_request_came_from(source: Address, attribute: str) -> None:
    transaction = bytes.fromhex("b7e7a701bc34d686fa87dfae")
    asked = b"\0\1\0\0" + COOKIE + transaction
    said = bytes.fromhex(attribute)
    length = len(said).to_bytes(2, "big")
    assert answer(asked, source) == b"\1\1" + length + COOKIE + transaction + said


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_keep_alive_among_the_sip_is_answered(host: str) -> None:
    @looped
    async def run() -> None:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        async with Site(host) as site:
            with socket.socket(family, socket.SOCK_DGRAM) as peer:
                peer.bind((host, next(ports)))
                peer.setblocking(False)
                for sent in (request(), options(via="UDP x"), request(SOFTWARE)):
                    peer.sendto(sent, site.address)
                got = [await asyncio.wait_for(loop.sock_recv(peer, 65535), 5) for _ in range(3)]
                port = peer.getsockname()[1]
            mapped = [data for data in got if data.startswith(b"\1\1")]
            assert len(mapped) == 2
            mask = COOKIE + TRANSACTION
            assert int.from_bytes(mapped[0][26:28], "big") ^ 0x2112 == port
            own = bytes(a ^ b for a, b in zip(mapped[0][28:], mask, strict=False))
            assert own == ip_address(host).packed
            assert site.shell.drops["stun"] == 2
            assert len(site.machine.requests) == 1

    run()


@pytest.mark.parametrize(
    "data",
    [
        b"\0\x11" + request()[2:],
        request()[:2] + b"\0\4" + request()[4:],
        request(bytes.fromhex("00060004") + b"user"),  # ICE, which is not for here
        request(bytes.fromhex("80220008") + b"shrt"),
        request(bytes.fromhex("8022")),
        request(bytes.fromhex("80220100") + bytes(MAX_REQUEST)),
    ],
    ids=["an indication", "wrong length", "more is asked", "beyond the end", "half an attribute", "long"],
)
def test_what_is_no_keep_alive_is_not_answered(data: bytes) -> None:
    assert is_stun(data)
    assert answer(data, Address("192.0.2.1", 5060)) is None


def test_noise_does_no_harm() -> None:
    rng = random.Random(1)
    for _ in range(5000):
        data = request(rng.randbytes(rng.randrange(0, 40) & ~rng.randrange(4)))
        assert is_stun(data)
        answer(data, Address("192.0.2.1", 5060))
    assert not is_stun(b"")
    assert not is_stun(bytes(19))
    assert not is_stun(bytes(40))


def test_keep_alives_count_and_who_is_not_heard_is_not_answered() -> None:
    """The address they seem to come from may be somebody else's."""

    @looped
    async def run() -> None:
        async with Site(judge=Strict(10)) as site:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.bind(("127.0.0.1", next(ports)))
                for _ in range(30):
                    peer.sendto(request(), site.address)
            await until(lambda: site.shell.drops["stun_too_many"] == 20)
            assert site.shell.drops["stun"] == 10

    run()
