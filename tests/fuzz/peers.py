"""The gateway's far end of a leg, told everything that a UE and its enemies may say, in any order."""

from __future__ import annotations

import random
from functools import cache

from aioice import stun

from agw.certificate import Certificate
from agw.dtls import MAX_DATA, Association
from agw.flows import Keys
from agw.iq.messages import Address, Dtls, DtlsRole, Event, Fingerprint, Ice, Stream, Transport
from agw.peer import MAX_KEPT, Data, Packet, Peer, Told
from tests.fuzz import mutations

ICE = (Ice("ours", "our+password+of+22+characters", "them"), Ice("anew", "new+password+of+22+characters"))
PLACES = tuple(
    Address(host, port) for host in ("192.0.2.1", "2001:db8::1", "203.0.113.9") for port in (4000, 4001)
)


@cache
def certificates() -> tuple[Certificate, Certificate, Certificate]:
    """Ours, the UE's, somebody's."""
    return Certificate(), Certificate(), Certificate()


def peer(rng: random.Random) -> None:
    """It never raises, says no more than it should, and has keys only where the right UE was there."""
    ours, theirs, somebodys = certificates()
    peer, said = Peer(ours, bytes(32)), [bytes(20)]
    ends: list[Association] = []
    now, honest = 0.0, False
    peer.signal(_stream(rng), now)
    for _ in range(rng.randrange(1, 120)):
        now += rng.choice((*[0.0] * 20, 0.3, 3.0, 31.0))
        match rng.randrange(20):
            case 0:
                peer.signal(_stream(rng), now)
            case 1:
                owner = theirs if rng.random() < 0.8 else somebodys
                client = rng.random() < 0.7
                end = Association(owner, client, [("sha-256", ours.sha256)], rng.random() < 0.9, bytes(32))
                if client:
                    end.start(now)
                ends.append(end)
                honest = honest or owner is theirs
            case 2:
                peer.receive(rng.randrange(2), rng.choice(PLACES), _check(rng), now)
            case 3:
                peer.receive(rng.randrange(2), rng.choice(PLACES), rng.randbytes(rng.randrange(60)), now)
            case 4:
                peer.expire(now)
            case 5:
                peer.send(rng.randbytes(rng.choice((1, 200, MAX_DATA, MAX_DATA + 1))))
            case _:
                data = rng.choice((said[-1], said[-1], *said[-6:]))
                if rng.random() < 0.1:
                    data = mutations.change_bytes(rng, data)
                peer.receive(int(rng.random() < 0.1), rng.choice(PLACES[:2]), data, now)
        for packet in _drain(peer):
            for end in ends[-2:]:
                end.receive(packet, None, now)
        for end in ends[-2:]:
            said += end.to_send()
        assert honest or peer.learnt.keys == (Keys(), Keys())
        assert all(len(port._kept) <= MAX_KEPT for port in peer._ports)


def _drain(peer: Peer) -> list[bytes]:
    packets = []
    while (said := peer.next()) is not None:
        match said:
            case Packet(channel, target, data):
                assert channel in (0, 1)
                assert target in PLACES
                assert 0 < len(data) <= MAX_DATA + 64
                packets.append(data)
            case Told(event, detail):
                assert isinstance(event, Event)
                assert detail.isprintable()
            case Data(data):
                assert len(data) <= MAX_DATA
    assert len(packets) <= 16
    return packets


def _stream(rng: random.Random) -> Stream:
    _, theirs, _ = certificates()
    role = rng.choice((None, *DtlsRole))
    prints = (Fingerprint("sha-256", theirs.sha256),) if role else ()
    return Stream(
        1,
        rng.choice((Transport.DTLS_SRTP, Transport.DTLS)),
        rng.choice((None, PLACES[0])),
        rtcp_mux=rng.random() < 0.7,
        latch=rng.random() < 0.5,
        latch_from=rng.choice((None, PLACES[0].host)),
        dtls=None if rng.random() < 0.1 else Dtls(rng.choice(("1", "1", "2")), role, prints),
        ice=rng.choice((None, None, *ICE)),
    )


def _check(rng: random.Random) -> bytes:
    ice = rng.choice(ICE)
    attributes = {"USERNAME": f"{ice.ufrag}:them", "PRIORITY": 1, "ICE-CONTROLLING": 7}
    if rng.random() < 0.7:
        attributes["USE-CANDIDATE"] = None
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, rng.randbytes(12), attributes)
    request.add_message_integrity(ice.pwd.encode())
    data = bytes(request)
    return data if rng.random() < 0.6 else mutations.change_bytes(rng, data)
