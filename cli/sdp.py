"""`imsalg sdp`: what the proxy would make of an offer. Addresses and keys are placeholders."""

from __future__ import annotations

import base64
import json
import sys
from typing import BinaryIO, NoReturn

import click
from msgspec.structs import replace

from imsalg.errors import BadSdp
from imsalg.policy.decide import Access, Decision, Direction, Rules, decide, status
from imsalg.policy.mline import DtlsLines, Local, Protection
from imsalg.policy.rewrite import offer
from imsalg.policy.treatment import Mechanism, Treatment
from imsalg.sdp.attributes import MATERIAL_LENGTH, Crypto, InlineKey
from imsalg.sdp.document import Document, Media
from imsalg.sdp.dtls import Fingerprint, Setup
from imsalg.sdp.ice import IceCredentials

# RFC 5737 and RFC 3849: addresses for documentation
ADDRESSES = {"IP4": "192.0.2.1", "IP6": "2001:db8::1"}


def _mechanisms(ctx: click.Context, param: click.Parameter, value: str) -> frozenset[Mechanism]:
    try:
        return frozenset(Mechanism(word.strip()) for word in value.split(",") if word.strip())
    except ValueError:
        raise click.BadParameter(f"{value!r}; known are {', '.join(Mechanism)}") from None


@click.command("sdp", short_help="Show what becomes of an SDP offer.")
@click.option(
    "--direction",
    type=click.Choice([d.value for d in Direction]),
    default=Direction.ORIGINATING.value,
    show_default=True,
    help="Who offers: the UE (originating) or the core (terminating).",
)
@click.option(
    "--registered",
    callback=_mechanisms,
    default="",
    metavar="LIST",
    help=f"What the UE has registered, with commas between: {', '.join(Mechanism)}.",
)
@click.option(
    "--access",
    type=click.Choice([a.value for a in Access]),
    default=Access.SIP.value,
    show_default=True,
    help="What kind of client the UE is.",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    help="Take the rules from the [policy] section of a proxy's configuration.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("sdp", type=click.File("rb"), default="-")
def command(
    direction: str,
    registered: frozenset[Mechanism],
    access: str,
    config: str | None,
    as_json: bool,
    sdp: BinaryIO,
) -> None:
    """Show what becomes of an SDP offer from a file or from standard input: for each m-line the treatment
    and the reason with its clause, and the SDP that would leave. Its addresses and keys are placeholders."""
    rules = _rules(config)
    try:
        document = Document(sdp.read())
        side = Direction(direction)
        decisions = decide(document, side, registered, Access(access), rules)
    except BadSdp as error:
        _fail(error, as_json)
    out = _rewritten(document, decisions, side, rules, Access(access)) if status(decisions) == 200 else None
    if as_json:
        click.echo(json.dumps(_as_json(document, decisions, out), indent=2))
        return
    for line in _table(document, decisions):
        click.echo(line)
    click.echo()
    if out is None:
        click.echo("488 Not Acceptable Here: no SDP leaves")
    else:
        click.echo(_text(out).replace("\r\n", "\n"), nl=False)


def _rules(config: str | None) -> Rules:
    if config is None:
        return Rules()
    from imsalg.configfile import ConfigError, load_proxy  # most uses do without

    try:
        return load_proxy(config).policy
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _fail(error: BadSdp, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"status": error.status, "error": error.reason}))
    else:
        click.echo(f"imsalg sdp: {error.reason} ({error.status})", err=True)
    sys.exit(2)


def _rewritten(
    document: Document,
    decisions: tuple[Decision, ...],
    direction: Direction,
    rules: Rules,
    access: Access,
) -> Document:
    to_ue = direction is Direction.TERMINATING
    return offer(
        document,
        decisions,
        direction,
        {
            index: _local(document, media, index, ice=to_ue and decision.treatment.by_dtls)
            for index, (media, decision) in enumerate(zip(document.media, decisions, strict=True))
        },
        {index: _protection(decision, rules) for index, decision in enumerate(decisions)},
        replace(document.origin, nettype="IN", addrtype="IP4", address=ADDRESSES["IP4"]),
        rules,
        access,
    )


def _local(document: Document, media: Media, index: int, *, ice: bool) -> Local:
    connection = document.connection_of(media) if media.port else None
    addrtype = connection.addrtype if connection else "IP4"
    port = 20000 + 4 * index
    credentials = IceCredentials("PLACEHOLDER", "PLACEHOLDER/PASSWORD/PLACEHOLDER") if ice else None
    return Local(addrtype, ADDRESSES[addrtype], port, port + 1, credentials)


def _protection(decision: Decision, rules: Rules) -> Protection:
    if decision.treatment.by_dtls:
        tls_id = "PLACEHOLDER/TLS-ID/PLACEHOLDER" if rules.tls_id else None
        return DtlsLines(Fingerprint("sha-256", bytes(32)), Setup.ACTPASS, tls_id)
    return tuple(
        Crypto(tag, suite, (InlineKey(_placeholder_key(MATERIAL_LENGTH[suite])),))
        for tag, suite in enumerate(rules.suites, 1)
    )


def _placeholder_key(length: int) -> bytes:
    """Reads PLACEHOLDER/KEY/PLACEHOLDER/... in an a=crypto line."""
    return base64.b64decode("PLACEHOLDER/KEY/" * 4)[:length]


def _as_json(document: Document, decisions: tuple[Decision, ...], out: Document | None) -> dict[str, object]:
    return {
        "status": status(decisions),
        "media": [
            {
                "index": index,
                "proto": media.proto,
                "treatment": decision.treatment.value,
                "reason": decision.reason,
                "out_proto": decision.proto_out,
                "out_port": out.media[index].port if out else 0,
            }
            for index, (media, decision) in enumerate(zip(document.media, decisions, strict=True))
        ],
        "sdp_out": _text(out) if out else None,
    }


def _table(document: Document, decisions: tuple[Decision, ...]) -> list[str]:
    rows = [("m", "kind", "proto", "treatment", "out", "reason")]
    for index, (media, decision) in enumerate(zip(document.media, decisions, strict=True)):
        out = "-" if decision.treatment is Treatment.REFUSED else decision.proto_out
        rows.append((str(index), media.kind, media.proto, decision.treatment.value, out, decision.reason))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:5], widths, strict=True)), row[5]])
        for row in rows
    ]


def _text(document: Document) -> str:
    return bytes(document).decode("utf-8", "replace")
