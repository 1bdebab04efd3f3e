"""imsalg check: is a configuration file right?"""

from __future__ import annotations

import difflib
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path

import click
from msgspec.structs import fields

import agw.config
import imsalg.config
import imsalg.configfile

_GATEWAYS, _PROXYS = (
    {field.encode_name for field in fields(config)}
    for config in (agw.config.GatewayConfig, imsalg.config.ProxyConfig)
)


@click.command()
@click.argument("path", metavar="FILE", type=click.Path())
def command(path: str) -> None:
    """Validate a proxy's or gateway's configuration FILE.

    Exits with 0 and one line when it is right. Otherwise with 2 and what is wrong: where it stands in the
    file, and the nearest right key or value.
    """
    keys = _keys_of(path)
    kind = _kind_of(keys)
    try:
        if kind == "gateway":
            agw.config.load(path)
        else:
            imsalg.configfile.load_proxy(path)
    except (agw.config.ConfigError, imsalg.configfile.ConfigError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    if keys:
        click.echo(f"{path}: right ({kind})")
    else:
        needs = "[[access]], [core] and [gateway]"
        click.echo(f"{path}: right ({kind}), but it sets nothing: all defaults; a proxy's needs {needs}")


def _keys_of(path: str) -> Collection[str] | None:
    """None: it cannot be read."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8")).keys()
    except (OSError, ValueError):
        return None


def _kind_of(keys: Collection[str] | None) -> str:
    """A proxy cannot do without sides and a gateway; a gateway's file may leave all out. What cannot be
    read goes to the proxy's loader, which says why."""
    if keys is None:
        return "proxy"
    if not (_GATEWAYS - _PROXYS).isdisjoint(keys):
        return "gateway"
    near = [key for key in keys if difflib.get_close_matches(key, _PROXYS - _GATEWAYS, n=1)]
    return "proxy" if near else "gateway"
