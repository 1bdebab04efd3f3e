"""What a stream costs a Plane in memory: the Plane alone, without the gateway around it and without packets.

Run as `python tests/bench/media_memory.py [--plane native|python] [--streams 1000] [--suite NAME]`. A stream
has two legs, SRTP and RTP, with four sockets. `relay` is what malloc has given out (mallinfo2(3)) for legs
and keys of the packet loop, with OpenSSL's contexts; `C heap` has those of Python's objects that lie there as
well, `resident` all of them and what the heap wastes.
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


def relay_alone(streams: int, suite: Suite) -> float:
    """KiB per stream: two legs of the packet loop and a key each way."""
    from agw.native._relay import ffi, lib

    relay = lib.relay_open(ffi.new("struct relay_settings *", {"workers": 1, "cores": [-1]}))
    name, length = getattr(lib, f"SRTP_{suite.name}"), suite.material_length
    made: list[object] = [None] * (4 * streams)
    lib.srtp_key_free(lib.srtp_key_new(name, bytes(length), length, b"", 0, True))  # what the first one needs
    before = heap()
    for at in range(0, len(made), 4):
        made[at] = lib.relay_leg_new(relay, 0, at)
        made[at + 1] = lib.relay_leg_new(relay, 0, at + 1)
        made[at + 2] = lib.srtp_key_new(name, bytes(length), length, b"", 0, True)
        made[at + 3] = lib.srtp_key_new(name, bytes(length), length, b"", 0, False)
    used = (heap() - before) / 1024 / streams
    for at in range(0, len(made), 4):
        lib.relay_leg_free(made[at])
        lib.relay_leg_free(made[at + 1])
        lib.srtp_key_free(made[at + 2])
        lib.srtp_key_free(made[at + 3])
    lib.relay_close(relay)
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description="What a stream costs a Plane in memory.")
    parser.add_argument("--plane", choices=("native", "python"), default="native")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--suite", type=Suite, choices=list(Suite), default=Suite.AES_CM_128_HMAC_SHA1_80)
    parser.add_argument("--base-port", type=int, default=10002)
    options = parser.parse_args()
    used = asyncio.run(measure(options.plane, options.streams, options.base_port, options.suite))
    line = "C heap {:.2f}, resident {:.2f}".format(*used)
    if options.plane == "native":
        line = f"relay {relay_alone(options.streams, options.suite):.2f}, {line}"
    print(f"KiB per stream: {line}")


if __name__ == "__main__":
    main()
