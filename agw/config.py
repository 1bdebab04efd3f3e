"""The gateway's configuration: TOML into frozen records; whatever is wrong is named by its path."""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
import typing
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agw.iq.connection import Certificates, TlsAddress, parse_address
from agw.iq.wire import valid_name

MAX_CORES = 64
MAX_COALESCE = 0.0009
MAX_ADDRESSES = 32  # of all realms together: so many are looked at to know our own ports, for each packet


class ConfigError(Exception):
    """One line: the file, the path in it, and what is wrong there."""


def _can_be_told(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """An IPv6 address of one link means nothing to a peer without its zone, which SDP cannot say."""
    if isinstance(address, ipaddress.IPv6Address) and (address.is_link_local or address.ipv4_mapped):
        return False
    return not (address.is_multicast or address.is_unspecified)


class Iq(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """listen: "unix:PATH" or "tls:HOST:PORT"; the latter needs all three PEM files."""

    listen: str = "unix:/run/imsalg/iq.sock"
    cert: str = ""
    key: str = ""
    ca: str = ""

    def __post_init__(self) -> None:
        if isinstance(parse_address(self.listen), TlsAddress) and not (self.cert and self.key and self.ca):
            raise ValueError("listening with tls needs cert, key and ca")

    @property
    def certificates(self) -> Certificates:
        return Certificates(self.cert, self.key, self.ca)


class Realm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An IP realm. addresses: numeric, at most MAX_ADDRESSES in all realms. ports: first and last, both
    included. rest: seconds until a released pair is used again."""

    name: str
    addresses: tuple[str, ...] = ("127.0.0.1", "::1")
    ports: tuple[int, int] = (30000, 39999)
    rest: float = 5.0

    def __post_init__(self) -> None:
        if not valid_name(self.name):
            raise ValueError("name: 1 to 128 printable ASCII characters")
        if not self.addresses or len(set(self.addresses)) != len(self.addresses):
            raise ValueError("addresses: at least one, and none twice")
        for address in self.addresses:
            if not _can_be_told(ipaddress.ip_address(address)):
                raise ValueError(f"addresses: {address} cannot be told to a peer")
        first, last = self.ports
        if not 1024 <= first < last <= 65535 or last - first - first % 2 < 1:
            raise ValueError("ports: first and last, from 1024 to 65535, with an even port and the next")
        if not 0.0 <= self.rest <= 3600.0:
            raise ValueError("rest: 0 to 3600 seconds")


class Dtls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """certificate_life: seconds after which another certificate is made for the terminations to come."""

    certificate_life: float = 86400.0

    def __post_init__(self) -> None:
        if not 60.0 <= self.certificate_life <= 31536000.0:
            raise ValueError("certificate_life: 60 to 31536000 seconds")


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """contexts: all controllers' together. srtp_failures: packets of one stream that may fail authentication
    in a minute before the controller is told."""

    contexts: int = 10000
    srtp_failures: int = 100

    def __post_init__(self) -> None:
        if not (0 < self.contexts <= 1_000_000 and 0 < self.srtp_failures <= 1_000_000):
            raise ValueError("limits are from 1 to 1000000")


class GatewayConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """name: told to controllers. grace: seconds until the contexts of a vanished controller are dropped.

    plane: what moves the packets; the native one where it is built, else the Python one, which the log says.
    For the native one: cores, the processors that have a thread each, none for one thread on any; coalesce,
    seconds a packet may wait at most so that one wake-up finds several.
    """

    name: str = "agw"
    grace: float = 30.0
    plane: Literal["native", "python"] = "native"
    cores: tuple[int, ...] = ()
    coalesce: float = 0.0002
    iq: Iq = Iq()
    realms: tuple[Realm, ...] = msgspec.field(
        name="realm",
        default=(Realm(name="access", ports=(30000, 34999)), Realm(name="core", ports=(35000, 39999))),
    )
    dtls: Dtls = Dtls()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not valid_name(self.name):
            raise ValueError("name: 1 to 128 printable ASCII characters")
        if not 0.0 <= self.grace <= 3600.0:
            raise ValueError("grace: 0 to 3600 seconds")
        if len(self.cores) > MAX_CORES or len(set(self.cores)) != len(self.cores):
            raise ValueError(f"cores: at most {MAX_CORES}, and none twice")
        if not all(0 <= core < 1024 for core in self.cores):
            raise ValueError("cores: 0 to 1023")
        if not 0.0 <= self.coalesce <= MAX_COALESCE:
            raise ValueError(f"coalesce: 0 to {MAX_COALESCE} seconds")
        if not self.realms or len({realm.name for realm in self.realms}) != len(self.realms):
            raise ValueError("realm: at least one, and no name twice")
        if len({address for realm in self.realms for address in realm.addresses}) > MAX_ADDRESSES:
            raise ValueError(f"realm: more than {MAX_ADDRESSES} addresses in all")
        for one, other in combinations(self.realms, 2):
            shared = set(one.addresses) & set(other.addresses)
            if shared and one.ports[0] <= other.ports[1] and other.ports[0] <= one.ports[1]:
                raise ValueError(f"realms {one.name} and {other.name} share ports of {min(shared)}")


def load(path: Path | str) -> GatewayConfig:
    """Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text in UTF-8 (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    return decode(document, str(path))


def decode(document: dict[str, Any], source: str = "configuration") -> GatewayConfig:
    """Raises ConfigError."""
    if unknown := _unknown_key(document, GatewayConfig, ""):
        raise ConfigError(f"{source}: {unknown}")
    try:
        return msgspec.convert(document, GatewayConfig)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        raise ConfigError(f"{source}: {where.strip('.`') or 'whole file'}: {problem}") from None


def _unknown_key(value: object, type_: Any, path: str) -> str | None:
    """What to say of the first key that has no place, with the nearest that has."""
    if isinstance(value, list):
        (item, *_) = typing.get_args(type_) or (None,)
        found = (_unknown_key(each, item, f"{path}[{index}]") for index, each in enumerate(value))
        return next(filter(None, found), None)
    if not (isinstance(value, dict) and isinstance(type_, type) and issubclass(type_, Struct)):
        return None
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(type_)}
    for key, each in value.items():
        where = f"{path}.{key}" if path else key
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            right = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(fields)}"
            return f"{where}: unknown key; {right}"
        if deeper := _unknown_key(each, fields[key], where):
            return deeper
    return None
