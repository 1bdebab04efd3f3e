"""What the Python Plane carries: calls with SRTP on the access side and RTP on the core side, on loopback.

Run as `python tests/bench/pyrelay_load.py [--calls 100] [--seconds 20] [--suite NAME] [--json]`, at most 250
calls. The Plane has one core, the load generator, in a process of its own, another. It does not judge.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import select
import socket
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agw.flows import Difference, Leg, LegId
from agw.iq.messages import Address, Key, Mode, Suite, Transport
from agw.pyrelay import PythonPlane
from agw.srtp import Protector, SrtpError, Unprotector

HOST = "127.0.0.1"
PLANE_PORTS = 33000  # four for each call
PEER_PORTS = 34000  # two for each call
PAYLOAD = bytes(160)  # G.711, 20 ms
INTERVAL = 0.020
TICKS = 20  # in which the calls of one interval are sent, so that they do not come as one burst
DRAIN = 1.0  # seconds waited for the last packets


def main() -> None:
    parser = argparse.ArgumentParser(description="What the Python Plane carries.")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--suite", type=Suite, choices=list(Suite), default=Suite.AES_CM_128_HMAC_SHA1_80)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = uvloop.run(measure(options.calls, options.seconds, options.suite))
    print(json.dumps(result, indent=2) if options.json else table(result))


async def measure(calls: int, seconds: float, suite: Suite) -> dict[str, object]:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    keys = [(_key(suite), _key(suite)) for _ in range(calls)]
    plane = PythonPlane()
    plane.apply(Difference(wanted=tuple(leg for call in range(calls) for leg in legs(call, *keys[call]))))
    ours, theirs = multiprocessing.Pipe()
    generator = multiprocessing.get_context("spawn").Process(
        target=generate, args=(theirs, cores[-1], seconds, keys)
    )
    generator.start()
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, ours.recv)  # the generator is about to begin
    cpu, wall = time.process_time(), time.monotonic()
    load = await loop.run_in_executor(None, ours.recv)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    generator.join()
    dropped: dict[str, int] = {}
    forwarded = 0
    for call in range(calls):
        for side in ("access", "core"):
            counts = plane.statistics(LegId(str(call), side, 0))
            forwarded += counts.sent
            for cause, count in counts.dropped.items():
                dropped[cause] = dropped.get(cause, 0) + count
    plane.close()
    return {
        "calls": calls,
        "seconds": seconds,
        "suite": suite.value,
        "cores": [cores[0], cores[-1]],
        "directions": load,
        "forwarded": forwarded,
        "dropped": dropped,
        "cpu_seconds": round(cpu, 3),
        "cpu_share": round(cpu / wall, 3),
        "cpu_us_per_packet": round(cpu / max(forwarded, 1) * 1e6, 2),
    }


def legs(call: int, ue_key: Key, our_key: Key) -> tuple[Leg, Leg]:
    access, core = LegId(str(call), "access", 0), LegId(str(call), "core", 0)
    port = PLANE_PORTS + 4 * call
    ue, peer = Address(HOST, PEER_PORTS + 2 * call), Address(HOST, PEER_PORTS + 2 * call + 1)
    return (
        Leg(
            id=access,
            local_rtp=Address(HOST, port),
            local_rtcp=Address(HOST, port + 1),
            transport=Transport.SRTP,
            remote=ue,
            remote_rtcp=ue,
            local_key=our_key,
            remote_keys=(ue_key,),
            mode=Mode.SENDRECV,
            latch=True,
            inactivity=60.0,
            peer=core,
        ),
        Leg(
            id=core,
            local_rtp=Address(HOST, port + 2),
            local_rtcp=Address(HOST, port + 3),
            transport=Transport.RTP,
            remote=peer,
            remote_rtcp=peer,
            mode=Mode.SENDRECV,
            source_filter=True,
            inactivity=60.0,
            peer=access,
        ),
    )


def generate(report: Connection, core: int, seconds: float, keys: list[tuple[Key, Key]]) -> None:
    """The UEs and their peers. Every packet that arrives is checked: SRTP authentic, RTP as it was sent."""
    os.sched_setaffinity(0, {core})
    calls = len(keys)
    sockets = [_socket(PEER_PORTS + n) for n in range(2 * calls)]  # even: UE, odd: peer
    protectors = [Protector(ue_key) for ue_key, _ in keys]
    unprotectors = [Unprotector([our_key]) for _, our_key in keys]
    poll = select.epoll()
    index = {}
    for n, sock in enumerate(sockets):
        poll.register(sock, select.EPOLLIN)
        index[sock.fileno()] = n
    sent, received, bad = [0, 0], [0, 0], [0, 0]  # access to core, core to access

    def take(timeout: float) -> None:
        for descriptor, _ in poll.poll(timeout, 4 * calls):
            n = index[descriptor]
            packet = sockets[n].recv(2048)
            toward_ue = n % 2 == 0
            try:
                if toward_ue:
                    packet = unprotectors[n // 2].unprotect(packet, False)
                good = packet[12:] == PAYLOAD
            except SrtpError:
                good = False
            (received if good else bad)[toward_ue] += 1

    report.send("begin")
    began = time.monotonic()
    tick = 0
    while (due := began + tick * INTERVAL / TICKS) < began + seconds:
        while (left := due - time.monotonic()) > 0:
            take(left)
        sequence = tick // TICKS & 0xFFFF
        header = b"\x80\x00" + sequence.to_bytes(2, "big") + (sequence * 160).to_bytes(4, "big")
        for call in range(tick % TICKS, calls, TICKS):
            packet = header + call.to_bytes(4, "big") + PAYLOAD
            sockets[2 * call].sendto(protectors[call].protect(packet, False), (HOST, PLANE_PORTS + 4 * call))
            sockets[2 * call + 1].sendto(packet, (HOST, PLANE_PORTS + 4 * call + 2))
            sent[0] += 1
            sent[1] += 1
        tick += 1
        take(0)
    end = time.monotonic() + DRAIN
    while (left := end - time.monotonic()) > 0:
        take(left)
    report.send(
        [
            {
                "direction": name,
                "sent": sent[way],
                "received": received[way],
                "bad": bad[way],
                "lost": sent[way] - received[way] - bad[way],
            }
            for way, name in enumerate(("access to core", "core to access"))
        ]
    )


def table(result: dict[str, object]) -> str:
    directions = result["directions"]
    assert isinstance(directions, list)
    rows = [list(directions[0]), *(list(row.values()) for row in directions)]
    lines = [
        f"{name:<16}{sent:>10}{received:>10}{bad:>8}{lost:>8}" for name, sent, received, bad, lost in rows
    ]
    lines.append("")
    for name in ("calls", "seconds", "suite", "cores", "forwarded", "dropped"):
        lines.append(f"{name:<20}{result[name]}")
    for name in ("cpu_seconds", "cpu_share", "cpu_us_per_packet"):
        lines.append(f"{name:<20}{result[name]}")
    return "\n".join(lines)


def _socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.setblocking(False)
    sock.bind((HOST, port))
    return sock


def _key(suite: Suite) -> Key:
    return Key(suite, os.urandom(suite.material_length))


if __name__ == "__main__":
    main()
