"""`imsalg lab`: gateway, proxy and lab core on loopback, for softphones of all kinds."""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click

from cli.page import Page
from cli.stack import BASE_PORT, DOMAIN, HOST, PORTS, Stack, StackError

MECHANISMS = ("sdes-srtp", "dtls-srtp")
WEB, PAGE = 6, 8  # from the base port: the access side for browsers, and where they get the web phone
# Browsers let a page of loopback have the microphone, and let it use a WebSocket without TLS.
TABLES = '[[access]]\nname = "web"\nlisten = "{host}:{port}"\ntransports = ["WS"]\ntype = "webrtc"\n'
LOOK = 0.5  # seconds between two looks at the proxy


@click.command(name="lab")
@click.option("--base-port", type=PORTS, default=BASE_PORT, show_default=True, metavar="N",
              help="Phones come to N, browsers to N+6; see cli/stack.py for the others.")  # fmt: skip
@click.option("--password", default="lab", show_default=True, help="Every user's.")
@click.option("--route", "routes", multiple=True, metavar="USER=URI",
              help="Calls to USER go to this SIP URI, without registration; may be repeated.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def command(base_port: int, password: str, routes: tuple[str, ...], as_json: bool) -> None:
    """Run gateway, proxy and a small SIP core on loopback until Ctrl-C or SIGTERM.

    Prints what to type into a softphone and where a browser finds the web phone, and registrations and calls
    whenever they change.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tables = TABLES.format(host=HOST, port=base_port + WEB)
        with (
            Stack(
                base_port,
                password=password,
                mechanisms=MECHANISMS,
                routes=_parse_routes(routes),
                tables=tables,
            ) as stack,
            _web_phone(stack) as page,
        ):
            click.echo(
                json.dumps({"event": "ready", **_places(stack, page)}) if as_json else _welcome(stack, page)
            )
            _watch(stack, as_json)
    except StackError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:  # SIGTERM as well
        if not as_json:
            click.echo("lab: ended")


def _parse_routes(routes: Sequence[str]) -> dict[str, str]:
    parsed = {}
    for route in routes:
        user, equals, uri = route.partition("=")
        if not (user and equals and uri.startswith("sip:")):
            raise click.BadParameter(f"expected USER=sip:HOST:PORT, got {route!r}", param_hint="--route")
        parsed[user] = uri
    return parsed


def _web_phone(stack: Stack) -> AbstractContextManager[Page | None]:
    """Raises StackError."""
    if not Page.is_built():
        return nullcontext()
    server = f"ws://{HOST}:{stack.access_port + WEB}/"
    account = {"server": server, "user": "carol", "domain": DOMAIN, "password": stack.password}
    try:
        return Page(HOST, stack.access_port + PAGE, account)
    except OSError as error:
        problem = f"TCP port {stack.access_port + PAGE} of {HOST} cannot be had: {error.strerror}"
        raise StackError(f"{problem}; --base-port moves all ports") from None


def _watch(stack: Stack, as_json: bool) -> None:
    """Print what is there whenever it changes; ends by an exception only."""
    before = None
    while True:
        stack.check()
        status, core = stack.status(), stack.lab_status()
        direct = [each for each in core["registrations"] if each["direct"]]
        registrations, calls = status["registrations"] + direct, status["calls"]
        now = [_lasting(each) for each in registrations], [_lasting(each) for each in calls]
        if now != before:
            before = now
            if as_json:
                click.echo(json.dumps({"event": "change", "registrations": registrations, "calls": calls}))
            elif registrations or calls:
                click.echo(_tables(registrations, calls))
            else:
                click.echo(f"\n{time.strftime('%H:%M:%S')}  nobody is registered, no calls")
        time.sleep(LOOK)


def _lasting(entry: dict[str, Any]) -> dict[str, Any]:
    """Without what changes by itself."""
    return {name: value for name, value in entry.items() if name not in ("age", "expires_in")}


# -- text ----------------------------------------------------------------------------------------------------


def _places(stack: Stack, page: Page | None) -> dict[str, str]:
    return {
        **({"page": page.url} if page else {}),
        "access": f"{HOST}:{stack.access_port}",
        "core": f"{HOST}:{stack.core_port}",
        "lab": f"{HOST}:{stack.lab_port}",
        "domain": DOMAIN,
        "password": stack.password,
        "directory": str(stack.directory),
    }


def _welcome(stack: Stack, page: Page | None) -> str:
    web = page.url if page else "not here: JsSIP is missing; ./run lab gets it through npm"
    password = f"--password {shlex.quote(stack.password)}"
    return f"""\
Gateway, proxy and lab core are running; Ctrl-C ends them.

Type this into a softphone (UDP or TCP):
  domain            {DOMAIN}
  user              any, such as alice
  password          {stack.password}
  outbound proxy    {HOST}:{stack.access_port}   behind the proxy, which protects media on request
               or   {HOST}:{stack.lab_port}   straight at the core: a plain peer

Or open the web phone in a browser of this machine, register and call:
  {web}

Or use the softphone that is here, in two further terminals:
  ./run ue --user bob --registrar {stack.lab_uri} {password} --tone 440
  ./run ue --user alice --registrar {stack.access_uri} {password} --e2ae --call sip:bob@{DOMAIN}

Logs and configurations are in {stack.directory}."""


def _tables(registrations: Sequence[dict[str, Any]], calls: Sequence[dict[str, Any]]) -> str:
    people = [
        (
            each["aor"],
            each["contact"],
            "no proxy" if each.get("direct") else each["flow"],
            " ".join(each.get("mechanisms", ())) or "-",
            f"{each['expires_in']} s",
        )
        for each in registrations
    ]
    talks = [
        (
            each["caller"],
            each["callee"],
            each["direction"],
            " ".join(each["treatments"]) or "-",
            each["state"],
            f"{each['age']:.0f} s",
        )
        for each in calls
    ]
    lines = [f"\n{time.strftime('%H:%M:%S')}  {len(people)} registered, {len(talks)} calls"]
    if people:
        lines += _aligned(("registered", "contact", "over", "security", "for"), people)
    if talks:
        lines += _aligned(("caller", "callee", "direction", "treatment", "state", "age"), talks)
    return "\n".join(lines)


def _aligned(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
