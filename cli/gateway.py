"""imsalg gateway: the IMS-AGW, in the foreground."""

from __future__ import annotations

import sys

import click
import uvloop

from agw.config import ConfigError, load
from agw.server import serve
from cli.main import LEVELS, log_to_stderr, take_all_files


@click.command()
@click.option(
    "-c", "--config", "path", required=True, type=click.Path(), help="configs/gateway.toml is an example."
)
@click.option("--log", "level", type=LEVELS, default="info", show_default=True, help="How much to tell.")
def command(path: str, level: str) -> None:
    """Run the IMS-AGW until Ctrl-C or SIGTERM."""
    log_to_stderr(level)
    take_all_files()
    try:
        config = load(path)
    except ConfigError as error:
        click.echo(f"imsalg gateway: {error}", err=True)
        sys.exit(2)
    try:
        uvloop.run(serve(config))
    except OSError as error:
        click.echo(f"imsalg gateway: {error.strerror or error}", err=True)
        sys.exit(1)
