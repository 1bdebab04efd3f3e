"""The packet loop in C: what it is compiled from, and whether what was compiled is still that."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from agw.errors import StaleBuild

HERE = Path(__file__).resolve().parent
SOURCES = ("relay.c", "changes.c", "worker.c", "packet.c", "queue.c", "srtp.c", "srtp_key.c")
FACE = ("srtp.h", "relay.h")
HEADERS = (*FACE, "address.h", "queue.h", "worker.h", "srtp_key.h", "source.h")


def digest() -> str | None:
    """Of all that is compiled, in sixteen digits; None where only the result is installed."""
    whole = sha256()
    for name in ("build.py", *SOURCES, *HEADERS):
        try:
            whole.update((HERE / name).read_bytes())
        except OSError:
            return None
    return whole.hexdigest()[:16]


def check(built: str) -> None:
    """Raises StaleBuild unless that is what was compiled. Another loop than Python takes it for would show
    only when calls come."""
    if digest() not in (None, built):
        raise StaleBuild("the packet loop was compiled from other sources: run python -m agw.native.build")
