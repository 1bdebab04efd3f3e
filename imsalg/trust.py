"""What may cross the trust boundary between UE and home network (TS 24.229 clause 5.2.6, RFC 3325, RFC
7315)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from imsalg.errors import BadMessage
from imsalg.sip.headers import Headers
from imsalg.sip.values import NameAddr, Uri

_AMONG_NETWORKS = (  # of TS 24.229 clause 4.4, what no UE says or is told
    "Attestation-Info",
    "Origination-Id",
    "Relayed-Charge",
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
_PROTECTED = r'integrity-protected\s*=\s*(?:"[^"]*"|[^,\s]*)'
_INTEGRITY = re.compile(rf",\s*{_PROTECTED}|{_PROTECTED}\s*,?\s*", re.IGNORECASE)


def from_ue(headers: Headers) -> None:
    """Take away what only the network may say; P-Preferred-Identity has its own function."""
    headers.remove(*_NETWORK_ONLY)
    for name in ("P-Access-Network-Info", "Cellular-Network-Info"):
        values = headers.values(name)
        if any("network-provided" in value.lower() for value in values):
            headers.set(name, *(v for v in values if "network-provided" not in v.lower()))
    # only the P-CSCF may tell the S-CSCF that a registration was protected (TS 24.229 clause 5.2.2.1)
    authorization = headers.lines("Authorization")
    if any("integrity-protected" in value.lower() for value in authorization):
        headers.set("Authorization", *(_INTEGRITY.sub("", value) for value in authorization))


def to_ue(headers: Headers) -> None:
    """Take away what the UE is not to see; an asserted identity too, if privacy is asked for (RFC 3325 clause
    7)."""
    headers.remove(*_NOT_FOR_UES)
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
