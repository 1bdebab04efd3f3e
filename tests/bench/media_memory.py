"""What a stream costs a Plane in memory: the Plane alone, without the gateway around it and without packets.

Run as `python tests/bench/media_memory.py [--plane native|python] [--streams 1000] [--suite NAME]`. A stream
has two legs, SRTP and RTP, with four sockets. `C heap` is what malloc has given out (mallinfo2(3)): the
native Plane's legs and keys, with OpenSSL's contexts. `resident` has Python's objects as well, and what the
heap wastes.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agw.flows import Difference, Leg, LegId, Plane
from agw.iq.messages import Address, Mode, Suite, Transport
from tests.bench.media_relays import resident
from tests.bench.media_rig import new_key

HOST = "127.0.0.1"


class Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def heap() -> int:
    """Bytes that malloc has given out."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    now = mallinfo2()
    return int(now.uordblks + now.hblkhd)


def legs(number: int, base: int, suite: Suite) -> tuple[Leg, Leg]:
    first = base + 4 * number
    access, core = LegId(f"call{number}", "access", 0), LegId(f"call{number}", "core", 0)
    peer = Address(HOST, base - 2)
    return (
        Leg(
            id=access,
            local_rtp=Address(HOST, first),
            local_rtcp=Address(HOST, first + 1),
            transport=Transport.SRTP,
            remote=peer,
            remote_rtcp=peer,
            local_key=new_key(suite),
            remote_keys=(new_key(suite),),
            mode=Mode.SENDRECV,
            latch=True,
            inactivity=60.0,
            peer=core,
        ),
        Leg(
            id=core,
            local_rtp=Address(HOST, first + 2),
            local_rtcp=Address(HOST, first + 3),
            transport=Transport.RTP,
            remote=peer,
            remote_rtcp=peer,
            mode=Mode.SENDRECV,
            source_filter=True,
            inactivity=60.0,
            peer=access,
        ),
    )


def open_plane(name: str) -> Plane:
    if name == "native":
        from agw.relay import NativePlane

        return NativePlane()
    from agw.pyrelay import PythonPlane

    return PythonPlane()


async def measure(name: str, streams: int, base: int, suite: Suite) -> tuple[float, float]:
    """KiB per stream: (C heap, resident)."""
    plane = open_plane(name)
    plane.apply(Difference(wanted=legs(0, base, suite)))  # what the first one needs, libraries and tables
    changes = [Difference(wanted=legs(number, base, suite)) for number in range(1, streams + 1)]
    gc.collect()
    before = heap() / 1024, resident(os.getpid())
    for change in changes:
        plane.apply(change)
    gc.collect()
    after = heap() / 1024, resident(os.getpid())
    plane.close()
    return (after[0] - before[0]) / streams, (after[1] - before[1]) / streams


def main() -> None:
    parser = argparse.ArgumentParser(description="What a stream costs a Plane in memory.")
    parser.add_argument("--plane", choices=("native", "python"), default="native")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--suite", type=Suite, choices=list(Suite), default=Suite.AES_CM_128_HMAC_SHA1_80)
    parser.add_argument("--base-port", type=int, default=10002)
    options = parser.parse_args()
    used = asyncio.run(measure(options.plane, options.streams, options.base_port, options.suite))
    print("KiB per stream: C heap {:.2f}, resident {:.2f}".format(*used))


if __name__ == "__main__":
    main()
