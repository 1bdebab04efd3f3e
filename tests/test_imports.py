"""Who may import whom: the rules of the README's map, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("imsalg", "agw", "cli")

# What a part may import of ours, beside itself; parts are named by their longest prefix here.
MAY_IMPORT = {
    "imsalg.errors": (),
    "imsalg.sip": ("imsalg.errors",),
    "imsalg.sdp": ("imsalg.errors",),
    "imsalg.policy": ("imsalg.errors", "imsalg.sdp"),
    "imsalg": ("imsalg", "agw.iq"),
    "agw.errors": (),
    "agw.iq": ("agw.errors",),
    "agw.ports": ("agw.errors",),
    "agw.certificate": (),
    "agw.records": (),
    "agw.dtls": ("agw.errors", "agw.certificate", "agw.records"),
    "agw.ice": ("agw.errors",),
    "agw.msrp": ("agw.errors",),
    "agw": ("agw",),
    "cli": ("imsalg", "agw"),
}

# Sockets, clocks and randomness live here; everywhere else `now` and `rng` are arguments.
WORLDLY = (
    "agw.iq.client",
    "agw.iq.connection",
    "agw.iq.listener",
    "agw.iq.server",
    "agw.pyrelay",
    "agw.relay",
    "agw.native.build",
    "agw.server",
    "agw.sockets",
    "agw.streams",
    "cli",
    "imsalg.lab.server",
    "imsalg.server",
    "imsalg.store",
    "imsalg.transport",
)
WORLD = {
    *("asyncio", "select", "selectors", "socket", "socketserver", "ssl", "uvloop"),
    *("concurrent", "multiprocessing", "os", "signal", "subprocess", "threading"),
    *("datetime", "time"),
    *("random", "secrets", "uuid"),
}


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def sources() -> dict[str, Path]:
    found = {}
    for top in OURS:
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = sources()


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in it. `from a import b` is a.b if that is a module, else a."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                assert module, f"{path}: relative imports are not used here"
                assert level == 0, f"{path}: relative imports are not used here"
                for name in names:
                    whole = f"{module}.{name.name}"
                    yield whole if whole in SOURCES else module


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_imports_what_its_part_may(module: str) -> None:
    part = max((part for part in MAY_IMPORT if within(module, part)), key=len)
    allowed = (part, *MAY_IMPORT[part])
    for imported in imports(SOURCES[module]):
        if any(within(imported, top) for top in OURS):
            assert any(within(imported, other) for other in allowed), f"{module} imports {imported}"


@pytest.mark.parametrize("module", SOURCES)
def test_sockets_clocks_and_randomness_stay_where_they_live(module: str) -> None:
    if any(within(module, part) for part in WORLDLY):
        return
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    worldly = {name for name in imports(SOURCES[module]) if name.split(".")[0] in WORLD}
    if any(isinstance(node, ast.ImportFrom) and only_the_type(node) for node in ast.walk(tree)):
        made = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and "Random" in ast.unparse(node.func)
        ]
        assert not made, f"{module} makes a Random of its own"
        worldly.discard("random")
    if "datetime" in worldly:
        calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        asked = [call for call in calls if call.rpartition(".")[2] in ("now", "utcnow", "today")]
        assert not asked, f"{module} asks {asked} for the time"
        worldly.discard("datetime")  # dates that stand in the text are no clock
    assert not worldly, f"{module} imports {worldly}"


def only_the_type(node: ast.ImportFrom) -> bool:
    """`from random import Random`, for the annotation of an `rng` argument."""
    return node.module == "random" and [name.name for name in node.names] == ["Random"]


def test_the_native_loop_has_one_importer_and_the_gateway_is_handed_its_plane() -> None:
    for module, path in SOURCES.items():
        for imported in imports(path):
            if within(imported, "agw.native"):
                assert within(module, "agw.native") or module == "agw.relay", module
            if imported in ("agw.relay", "agw.pyrelay"):
                assert module in ("agw.server", "agw.relay", "agw.pyrelay"), f"{module} imports {imported}"


def test_every_package_is_installed() -> None:
    """setuptools is told the packages one by one."""
    told = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = [path.parent for top in OURS for path in (ROOT / top).rglob("__init__.py")]
    for package in packages:
        name = ".".join(package.relative_to(ROOT).parts)
        assert f'"{name}"' in told, f"{name} is missing in pyproject.toml"
