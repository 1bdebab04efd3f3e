"""How the packet loop is built: cffi reads the face from relay.h, the compiler the rest.

Built with the project (setup.py); by hand, or after a change of the sources: `python -m agw.native.build`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cffi import FFI

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # setuptools runs this file by itself
from agw.native import FACE, HEADERS, HERE, SOURCES, digest

LANGUAGE = (
    *("-std=c11", "-fvisibility=hidden", "-pthread"),
    *("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Wstrict-prototypes"),
    *("-Wformat-security", "-Werror"),
)
# Across files, as if it were one: else a packet costs 50 instructions more.
OPTIMISED = ("-O3", "-flto=auto")
# As Debian hardens what it builds. Sanitizers see more without.
HARDENED = (
    *("-fstack-protector-strong", "-fstack-clash-protection"),
    *("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"),
)
LINKED = ("-pthread", *OPTIMISED, "-Wl,-z,relro,-z,now,-z,noexecstack")

# What cffi itself writes has unused parameters and the like.
_PREAMBLE = f"""
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#include "relay.h"

/* For `agw.native.check`. */
static const char *relay_built_from(void) {{ return "{digest()}"; }}
"""


def face() -> str:
    """The declarations of what Python calls, without what is the preprocessor's."""
    text = "\n".join((HERE / name).read_text(encoding="utf-8") for name in FACE)
    return re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


ffi = FFI()
ffi.cdef(face() + "const char *relay_built_from(void);")
ffi.set_source(
    "agw.native._relay",
    _PREAMBLE,
    sources=[f"agw/native/{name}" for name in SOURCES],
    depends=[f"agw/native/{name}" for name in HEADERS],
    include_dirs=["agw/native"],
    libraries=["crypto"],
    extra_compile_args=[*LANGUAGE, *OPTIMISED, *HARDENED],
    extra_link_args=list(LINKED),
    optional=True,  # without a compiler there is the Python Plane
)

if __name__ == "__main__":
    ffi.compile(tmpdir=str(HERE.parent.parent), verbose=True)
