"""imsalg: an IMS access edge that protects media.

Try it:

\b
  imsalg demo                    calls between real softphones, on loopback
  imsalg lab                     everything on loopback, for your own softphone or a browser
  imsalg sdp offer.sdp           what would become of an offer, and why
"""

from __future__ import annotations

import importlib
import logging
import resource

import click

# In the order of use. Each lives in cli/NAME.py and exports `command`; it is imported only when it is needed.
COMMANDS = {
    "demo": "Run protected calls between softphones on loopback.",
    "lab": "Run gateway, proxy and a small SIP core on loopback.",
    "ue": "Register, call and answer as a softphone.",
    "rtcue": "The same with DTLS-SRTP or data channels.",
    "sdp": "Show what becomes of an SDP offer, and why.",
    "check": "Validate a configuration file.",
    "proxy": "Run the P-CSCF with IMS-ALG.",
    "gateway": "Run the IMS-AGW.",
}


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"cli.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Commands, help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imsalg", message="%(prog)s %(version)s")
def main() -> None:
    pass


def log_to_stderr(level: str) -> None:
    """One aligned line per event. level: a name of `logging`, any case."""
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s.%(msecs)03d %(levelname)-7s %(name)-24s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )


def take_all_files() -> None:
    """As many open files as we may have, instead of the usual 1024: a connection is one, a stream of a call
    four in the gateway."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


LEVELS = click.Choice(["debug", "info", "warning", "error"], case_sensitive=False)

if __name__ == "__main__":
    main()
