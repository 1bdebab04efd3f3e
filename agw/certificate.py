"""The certificate that we show in DTLS, and what OpenSSL is told for all associations that show it."""

from __future__ import annotations

import hmac
import weakref
from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto

MTU = 1200  # bytes of a datagram, without UDP and IP
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280 section 4.1.2.5
_DTLS_1_2 = 0xFEFD
_CIPHERS = b"ECDHE+AESGCM"

# RFC 5764 section 4.1.2, RFC 7714 section 14.2: bytes of master key and of master salt; the best first.
PROFILES = {
    "SRTP_AEAD_AES_256_GCM": (32, 12),
    "SRTP_AEAD_AES_128_GCM": (16, 12),
    "SRTP_AES128_CM_SHA1_80": (16, 14),
}


class Asked(Protocol):
    """An association, as OpenSSL asks it in the midst of a handshake."""

    def cookie(self) -> bytes:
        """Of the source that is heard just now."""
        ...

    def is_peer(self, certificate: crypto.X509) -> bool: ...


class Certificate:
    """A new P-256 key and a certificate for it, signed by itself. A peer looks at its fingerprint and at
    nothing in it, so that says nothing of us. sha256: the fingerprint."""

    __slots__ = ("_contexts", "_key", "_x509", "sha256")

    def __init__(self) -> None:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "media")])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._x509 = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_EVER)
            .not_valid_after(_NEVER)
            .sign(self._key, hashes.SHA256())
        )
        self.sha256 = self._x509.fingerprint(hashes.SHA256())
        self._contexts: dict[bool, SSL.Context] = {}

    def connection(self, association: Asked, srtp: bool) -> SSL.Connection:
        """What speaks DTLS as this certificate's owner."""
        if srtp not in self._contexts:
            self._contexts[srtp] = self._context(srtp)
        connection = SSL.Connection(self._contexts[srtp], None)
        connection.set_app_data(weakref.ref(association))  # it holds the connection: no circle
        connection.set_ciphertext_mtu(MTU)
        return connection

    def _context(self, srtp: bool) -> SSL.Context:
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_min_proto_version(_DTLS_1_2)
        context.set_max_proto_version(_DTLS_1_2)
        context.set_cipher_list(_CIPHERS)
        context.set_options(
            SSL.OP_NO_QUERY_MTU | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION
        )
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # 8 KiB of each association
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.use_certificate(self._x509)
        context.use_privatekey(self._key)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
        context.set_cookie_generate_callback(lambda connection: _asked(connection).cookie())
        context.set_cookie_verify_callback(
            lambda connection, cookie: hmac.compare_digest(cookie, _asked(connection).cookie())
        )
        if srtp:
            context.set_tlsext_use_srtp(b":".join(name.encode() for name in PROFILES))
        return context


def _verify(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """Asked at least once for each certificate of a chain; only the first, at depth 0, is the peer's. Nothing
    else is wrong with it, not even its dates (RFC 5763 section 5)."""
    return depth > 0 or _asked(connection).is_peer(certificate)


def _asked(connection: SSL.Connection) -> Asked:
    association: Asked | None = connection.get_app_data()()
    assert association is not None
    return association
