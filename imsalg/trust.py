"""What may cross the trust boundary between UE and home network (TS 24.229 clause 5.2.6, RFC 3325, RFC
7315)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from imsalg.errors import BadMessage
from imsalg.sip.grammar import LWS, split_commas
from imsalg.sip.headers import Headers
from imsalg.sip.values import NameAddr, Uri

_AMONG_NETWORKS = (  # of TS 24.229 clause 4.4, what no UE says or is told
    "Attestation-Info",
    "Origination-Id",
    "Priority-Verstat",
    "Relayed-Charge",
    "Response-Source",
    "Restoration-Info",
    "Service-Interact-Info",
)
_NETWORK_ONLY = (
    *_AMONG_NETWORKS,
    "Feature-Caps",
    "P-Asserted-Identity",
    "P-Asserted-Service",
    "P-Charging-Vector",
    "P-Charging-Function-Addresses",
    "P-Private-Network-Indication",
    "P-Profile-Key",
    "P-Served-User",
    "P-User-Database",
    "P-Visited-Network-ID",
    "P-Associated-URI",
    "P-Called-Party-ID",
    "Service-Route",
)
_NOT_FOR_UES = (
    *_AMONG_NETWORKS,
    "P-Charging-Vector",
    "P-Charging-Function-Addresses",
    "P-Private-Network-Indication",
    "P-Profile-Key",
    "P-Served-User",
    "P-User-Database",
    "P-Visited-Network-ID",
    "P-Preferred-Identity",
)


def from_ue(headers: Headers) -> None:
    """Take away what only the network may say; P-Preferred-Identity has its own function."""
    headers.remove(*_NETWORK_ONLY)
    for name in ("P-Access-Network-Info", "Cellular-Network-Info"):
        headers.discard(name, lambda value: "network-provided" in value.lower())
    # only the P-CSCF may tell the S-CSCF that a registration was protected (TS 24.229 clause 5.2.2.1)
    _discard_parameters(headers, "Authorization", "integrity-protected")
    credentials = headers.lines("Authorization")
    honest = [line for line in credentials if "integrity-protected" not in line.lower()]
    if honest != credentials:  # written so oddly that others may read it as what it is not here
        headers.set("Authorization", *honest)


def to_ue(headers: Headers) -> None:
    """Take away what the UE is not to see; an asserted identity too, if privacy is asked for (RFC 3325 clause
    7)."""
    headers.remove(*_NOT_FOR_UES)
    # the keys of IMS AKA are for the P-CSCF; on the air they would be everyone's (TS 24.229 clause 5.2.2.2)
    _discard_parameters(headers, "WWW-Authenticate", "ck", "ik")
    privacy = {token.strip().lower() for value in headers.lines("Privacy") for token in value.split(";")}
    if "id" in privacy:
        headers.remove("P-Asserted-Identity")


def assert_identity(headers: Headers, identities: Sequence[str]) -> None:
    """Set P-Asserted-Identity: the preferred one if it is the UE's own, else its default, the first
    (TS 24.229 clause 5.2.6.3.3). identities: the P-Associated-URI of its registration, values as received."""
    preferred = headers.values("P-Preferred-Identity")
    headers.remove("P-Preferred-Identity")
    own = {user_of(value): value for value in identities}
    chosen = [own[user] for value in preferred if (user := user_of(value)) in own]
    headers.set("P-Asserted-Identity", *(chosen[:2] or identities[:1]))


def charge(headers: Headers, icid: str, host: str) -> None:
    """Set P-Charging-Vector: a charging identity of ours for what goes to the core (RFC 7315 section 4.6)."""
    headers.set("P-Charging-Vector", f'icid-value="{icid}";icid-generated-at={host}')


_SCHEME = re.compile(rf"[{LWS}]*+([^{LWS}]*+)[{LWS}]*+")


def _discard_parameters(headers: Headers, name: str, *parameters: str) -> None:
    """Take parameters out of a challenge or of credentials; lines without them keep their bytes."""
    lines = headers.lines(name)
    kept = []
    for line in lines:
        start = _SCHEME.match(line)
        assert start is not None  # it matches nothing, too
        scheme, given = start[1], split_commas(line[start.end() :])
        stay = [each for each in given if each.partition("=")[0].strip(LWS).lower() not in parameters]
        kept.append(line if len(stay) == len(given) else f"{scheme} {', '.join(stay)}")
    if kept != lines:
        headers.set(name, *kept)


def user_of(value: str) -> str | None:
    """The user that an identity in a header field names, as `same_user`; None if it cannot be read."""
    try:
        return same_user(NameAddr.parse(value).uri)
    except BadMessage:
        return None


def same_user(uri: str) -> str:
    """A URI in the form in which two that name the same user are equal: no parameters, lower-case host."""
    parsed = Uri.parse(uri)
    if parsed.scheme not in ("sip", "sips"):
        return f"{parsed.scheme}:{parsed.opaque.partition(';')[0]}"
    return f"{parsed.scheme}:{parsed.user or ''}@{parsed.host.lower()}"
