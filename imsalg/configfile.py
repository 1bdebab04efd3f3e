"""From a TOML file to the proxy's configuration, with errors that help.

A file is right as a whole or refused as a whole: an unknown key, a wrong type and a value out of its range
are `ConfigError`s that name the file, the path in it, and the nearest right word.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from imsalg.config import ProxyConfig, parse_address
from imsalg.errors import UsageError
from imsalg.networks import Networks


class ConfigError(UsageError):
    """A configuration file that cannot be used: `FILE: PATH: what is wrong`."""


def load_proxy(path: str | Path) -> ProxyConfig:
    """The configuration in a file. Raises ConfigError, for an unreadable file as well."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text in UTF-8 (byte {error.start})") from None
    return parse_proxy(text, str(path))


def parse_proxy(text: str, source: str = "configuration") -> ProxyConfig:
    """The configuration in a text; `source` is what errors call it. Raises ConfigError."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: {error}") from None
    try:
        _check_keys(tree, msgspec.inspect.type_info(ProxyConfig), "")
        _read_listen_addresses(tree)
        return msgspec.convert(tree, ProxyConfig, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_place(str(error))}") from None
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None


def _check_keys(tree: Any, kind: msgspec.inspect.Type, path: str) -> None:
    """Unknown keys and words, with the nearest right one; msgspec alone would not tell it."""
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            _check_keys(tree, inner, path)
        case msgspec.inspect.VarTupleType(item_type=inner) if isinstance(tree, list):
            for index, item in enumerate(tree):
                _check_keys(item, inner, f"{path}[{index}]")
        case msgspec.inspect.StructType(fields=fields) if isinstance(tree, dict):
            known = {field.encode_name: field.type for field in fields}
            for key, value in tree.items():
                here = f"{path}.{key}".lstrip(".")
                if key not in known:
                    raise ValueError(f"{here}: unknown key{_nearest(key, known)}")
                _check_keys(value, known[key], here)
        case msgspec.inspect.EnumType(cls=members) if isinstance(tree, str):
            _check_word(tree, [str(member.value) for member in members], path)
        case msgspec.inspect.LiteralType(values=words) if isinstance(tree, str):
            _check_word(tree, [str(word) for word in words], path)


def _check_word(word: str, known: Sequence[str], path: str) -> None:
    if word not in known:
        raise ValueError(f"{path}: unknown value {word!r}{_nearest(word, known)}")


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


def _read_listen_addresses(tree: dict[str, Any]) -> None:
    """An Address is a tuple of two to msgspec; in the file it is one string."""
    access = tree.get("access")
    tables = {f"access[{i}]": table for i, table in enumerate(access)} if isinstance(access, list) else {}
    for path, table in {**tables, "core": tree.get("core")}.items():
        if isinstance(table, dict) and "listen" in table:
            address = parse_address(str(table["listen"]), f"{path}.listen: ")
            try:
                usable = not ip_address(address.host).is_unspecified
            except ValueError:
                usable = False
            if not usable:  # it stands in Via, Path and Record-Route as well
                raise ValueError(f"{path}.listen: expected one numeric address of ours, got {address.host!r}")
            table["listen"] = address


def _decode(kind: type, value: Any) -> Any:
    if kind is Networks and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return Networks(value)
    raise ValueError("expected a list of IP networks")


def _place(message: str) -> str:
    """msgspec's "what - at `$.a.b`" as "a.b: what"; our own checks begin with the key they are about."""
    what, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    what = re.sub("^Object missing required field `(.+)`$", r"\1: is needed", what)
    key = re.match(r"([a-z_]+): ", what)
    if key:
        return f"{path}.{what}".lstrip(".")
    return f"{path}: {what}" if path else what
