"""DTLS (RFC 6347) of one association, without IO."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec


class Certificate:
    """A new P-256 key and a certificate for it, signed by itself. A peer looks at its fingerprint and at
    nothing in it, so that says nothing of us. sha256: the fingerprint."""

    __slots__ = ("key", "sha256", "x509")

    def __init__(self) -> None:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "media")])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.x509 = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(1970, 1, 1, tzinfo=UTC))
            .not_valid_after(
                datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
            )  # RFC 5280 section 4.1.2.5: no end
            .sign(self.key, hashes.SHA256())
        )
        self.sha256 = self.x509.fingerprint(hashes.SHA256())
