"""The media-plane security indications of a registration (TS 24.229 clause 7.2A.7, over the headers of RFC
3329).

`Security-Client`, `Security-Server` and `Security-Verify` list mechanisms; those with the parameter
`mediasec` are about media, are all usable side by side, and take no part in choosing how signalling is
protected (trap P22).

Data channels have a feature tag instead (RFC 5688, TS 26.114 clause 6.2.10.1), and perhaps a token of the
network's own (`policy.rules.E2dce`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from imsalg.policy.rules import E2dce
from imsalg.policy.treatment import Mechanism
from imsalg.sip.headers import Headers
from imsalg.sip.values import NameAddr

HEADERS = ("Security-Client", "Security-Server", "Security-Verify")
OPTION_TAG = "mediasec"
FEATURE = "webrtc-datachannel"
AGREEMENT = "sec-agree"  # the option tag of RFC 3329


def entries(headers: Headers, name: str) -> frozenset[str]:
    """The media mechanisms in one of the headers: all lines, commas, any case, `mediasec` with or without
    value."""
    return frozenset(
        mechanism.strip().lower()
        for mechanism, *params in (value.split(";") for value in headers.values(name))
        if any(param.partition("=")[0].strip().lower() == OPTION_TAG for param in params)
    )


def served(mechanisms: Iterable[Mechanism], e2dce: E2dce) -> dict[Mechanism, str]:
    """What a UE may register, and the token of each: what we announce. The feature tag has none."""
    tokens = {mechanism: mechanism.value for mechanism in mechanisms}
    return tokens | ({Mechanism.E2DCE: e2dce.mechanism} if e2dce.mechanism else {})


def allowed(mechanisms: Iterable[Mechanism], e2dce: E2dce) -> frozenset[Mechanism]:
    """What may be registered, the feature tag included."""
    found = frozenset(served(mechanisms, e2dce))
    return found | {Mechanism.DATA_CHANNEL} if e2dce.implicit else found


def supported(headers: Headers, tokens: Mapping[Mechanism, str]) -> frozenset[Mechanism]:
    """What the UE says it supports of what is served: in Security-Client, or else in Security-Verify, which
    is all a UE sends after a 494. Beside Security-Client that says nothing of the UE, as it is the whole of
    our list (RFC 3329 section 2.3.1)."""
    said = entries(headers, "Security-Client") or entries(headers, "Security-Verify")
    return frozenset(mechanism for mechanism, token in tokens.items() if token in said)


def has_data_channels(contact: NameAddr) -> bool:
    """Whether a Contact has the feature tag of a DCMTSI client (TS 33.328 clause N.3.2)."""
    value = contact.param("+sip.app-subtype") or ""
    return FEATURE in (word.strip().lower() for word in value.strip('"').split(","))


def speaks(headers: Headers) -> bool:
    """Whether the UE knows of these indications at all."""
    return bool(
        entries(headers, "Security-Client")
        or entries(headers, "Security-Verify")
        or OPTION_TAG in (tag.lower() for tag in headers.values("Require") + headers.values("Proxy-Require"))
    )


def verified(headers: Headers, announced: Iterable[str]) -> bool:
    """Whether Security-Verify names nothing we did not announce. Compared as a set, and a subset is right:
    clients drop what they do not know, q values and order (trap P23). Otherwise somebody changed the list:
    494."""
    return entries(headers, "Security-Verify") <= set(announced)


def announce(headers: Headers, tokens: Iterable[str]) -> None:
    """Our list in a response: one mechanism per line, without q. Any other list there goes."""
    headers.set("Security-Server", *(f"{token};mediasec" for token in tokens))


def strip(headers: Headers) -> None:
    """Between the UE and us only: off before the request goes on (RFC 3329 section 2.3.1, trap P24)."""
    headers.remove(*HEADERS)
    for name in ("Require", "Proxy-Require"):
        headers.discard_token(name, OPTION_TAG)
        headers.discard_token(name, AGREEMENT)
