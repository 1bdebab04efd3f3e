"""The network's policy: the [policy] section of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from imsalg.policy.treatment import Mechanism

SuiteName = Literal[
    "AES_CM_128_HMAC_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32",
    "AES_256_CM_HMAC_SHA1_80",
    "AEAD_AES_128_GCM",
    "AEAD_AES_256_GCM",
]
HashName = Literal["sha-1", "sha-256", "sha-384", "sha-512"]
Token = Annotated[str, Meta(pattern="^[a-z0-9-]{0,32}$")]


class E2dce(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Data channels protected between the UE and the Data Channel Media Function (TS 33.328 clauses 7.2.4 and
    7.3.X). Stage 3 has no tokens for it, so there are none here by default.

    mechanism: what stands in Security-Client, with `mediasec`, for its support; "": nothing.
    attribute: of the m-line, with the values of a=3ge2ae; "": none, and on the wire it is as end to end.
    implicit: a UE whose Contact has the feature tag of data channels wants it for its bootstrap channels.
    """

    mechanism: Token = ""
    attribute: Token = ""
    implicit: bool = True

    def __post_init__(self) -> None:
        if self.mechanism in {each.value for each in Mechanism if each is not Mechanism.E2DCE}:
            raise ValueError(f"mechanism: {self.mechanism} has its meaning already")
        if self.attribute == "3ge2ae":
            raise ValueError("attribute: 3ge2ae has its meaning already")


class Rules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """suites: SDES suites served, in the order in which UEs are offered them. In a UE's offer the UE's order
        counts: the first line with one of these is taken.
    hashes: hash functions of fingerprints served, the best first (RFC 8122 section 5).
    e2ae_unregistered: e2ae or e2DCe requested by a UE that has not registered it (TS 33.328 clause 7.2.1 NOTE
        2a, clause 7.2.4 NOTE 2).
    unknown_media: m-lines that have no treatment here.
    best_effort_srtp: RTP/AVP with a=crypto from a UE is e2ae (trap P20); else its a=crypto is dropped.
    echo_applied: a=3ge2ae:applied in answers to the UE, too; TS 33.328 clause 7.2.1 NOTE 3 does without.
    answer_without_crypto: a UE answers RTP/AVP to e2ae: the answer is not accepted, or the stream is plain.
    feedback: what e2ae from a UE with RTCP feedback becomes in the core: RTP/AVPF (TS 23.334 clause
        5.11.2.4), or RTP/AVP without a=rtcp-fb, for peers that refuse what they do not know.
    tls_id: a=tls-id stands in our offers, and in answers to offers with one (RFC 8842); off for UEs that
        cannot bear it (trap P04).
    """

    suites: Annotated[tuple[SuiteName, ...], Meta(min_length=1)] = (
        "AES_CM_128_HMAC_SHA1_80",
        "AES_256_CM_HMAC_SHA1_80",
        "AEAD_AES_128_GCM",
        "AEAD_AES_256_GCM",
    )
    hashes: Annotated[tuple[HashName, ...], Meta(min_length=1)] = ("sha-256", "sha-384", "sha-512")
    e2ae_unregistered: Literal["reject", "grant"] = "reject"
    unknown_media: Literal["pass", "refuse"] = "pass"
    best_effort_srtp: bool = False
    echo_applied: bool = False
    answer_without_crypto: Literal["reject", "plain"] = "reject"
    feedback: Literal["keep", "drop"] = "keep"
    tls_id: bool = True
    e2dce: E2dce = E2dce()
