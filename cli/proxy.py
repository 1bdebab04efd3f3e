"""imsalg proxy: the P-CSCF with IMS-ALG, in the foreground."""

from __future__ import annotations

import sys

import click
import uvloop

from cli.main import LEVELS, log_to_stderr, take_all_files
from imsalg.configfile import ConfigError, load_proxy
from imsalg.server import serve


@click.command()
@click.option(
    "-c", "--config", "path", required=True, type=click.Path(), help="configs/proxy.toml is an example."
)
@click.option("--log", "level", type=LEVELS, default="info", show_default=True, help="How much to tell.")
def command(path: str, level: str) -> None:
    """Run the P-CSCF with IMS-ALG until Ctrl-C or SIGTERM; calls are ended before it leaves."""
    log_to_stderr(level)
    take_all_files()
    try:
        config = load_proxy(path)
    except ConfigError as error:
        click.echo(f"imsalg proxy: {error}", err=True)
        sys.exit(2)
    try:
        uvloop.run(serve(config))
    except OSError as error:
        click.echo(f"imsalg proxy: {error.strerror or error}", err=True)
        sys.exit(1)
