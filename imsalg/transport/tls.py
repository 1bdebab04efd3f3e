"""TLS around a connection, without IO: ciphertext in, plaintext out, and the other way (OpenSSL, through
`ssl`).

The certificate is in files, and read again when they change: when a new connection comes, at most once in
`LOOK_EVERY` seconds, or on request. Connections that are up keep what they were made with. Files that cannot
be used change nothing but the log: the old certificate stays until they can.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import ssl
import time
from dataclasses import dataclass
from ipaddress import ip_address

from imsalg.errors import BadMessage
from imsalg.sip.values import Uri

LOOK_EVERY = 5.0  # seconds
READ = 65536  # octets of plaintext taken at once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: our certificate with its chain, its private key, and who signs the peers'.

    Without `ca`, the peers that connect show no certificate; with it, they must.
    """

    cert: str
    key: str
    ca: str = ""


class Credentials:
    """Files, and the two contexts made of them."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises OSError that names the file which cannot be used."""
        self._files = files
        self._looked = time.monotonic()
        self._seen = self._stamps()
        self._server, self._client = self._load()

    def server(self) -> ssl.SSLContext:
        """For a connection that is accepted now."""
        self._look()
        return self._server

    def client(self) -> ssl.SSLContext:
        """For one that is opened now: the peer's certificate must be signed by `ca`, and `shows` the name
        that it is opened to."""
        self._look()
        return self._client

    def reload(self) -> None:
        seen = self._stamps()
        try:
            self._server, self._client = self._load()
        except OSError as error:
            log.error("the old certificate stays: %s", error.strerror)
            return
        self._seen = seen
        log.info("certificate %s was read again", self._files.cert)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            if self._stamps() != self._seen:
                self.reload()

    def _stamps(self) -> list[tuple[int, int, int]]:
        """What changes when a file is written or replaced."""
        stamps = []
        for path in (self._files.cert, self._files.key, self._files.ca):
            try:
                found = os.stat(path)
            except OSError:
                stamps.append((0, 0, 0))
            else:
                stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return stamps

    def _load(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False  # OpenSSL takes wildcards, and knows no SIP URI: instead,
        client.sslobject_class = _ToNamed
        client.verify_mode = ssl.CERT_REQUIRED
        for context in (server, client):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.options |= ssl.OP_NO_RENEGOTIATION
            path = self._files.cert
            try:
                context.load_cert_chain(path, self._files.key, password=_no_password)
                if path := self._files.ca:
                    context.load_verify_locations(path)
            except OSError as error:  # ssl.SSLError is one
                what = _reason(error) if isinstance(error, ssl.SSLError) else error.strerror
                raise OSError(errno.EINVAL, f"{path} or its key cannot be used: {what}") from None
        if self._files.ca:
            server.verify_mode = ssl.CERT_REQUIRED
        return server, client


def _no_password() -> str:
    """Else OpenSSL asks for one on the terminal."""
    return ""


class TlsError(OSError):
    """The peer or its certificate is not accepted, or what came is no TLS; in one line."""


class Tls:
    """One connection. `receive` what came and `send` plaintext; each time, `take` what is to go out.

    up: the handshake is done. ended: the peer has said that nothing more comes.
    """

    def __init__(self, context: ssl.SSLContext, server_name: str | None = None) -> None:
        """server_name: whom we connect to, a name or a numeric address, which the certificate must name,
        as a context of `Credentials.client` sees to; None: we were connected to."""
        self.up = False
        self.ended = False
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._in, self._out, server_side=server_name is None, server_hostname=server_name
        )
        if server_name is not None:
            self._shake()

    def receive(self, data: bytes) -> bytes:
        """Plaintext. Raises TlsError; there may be an alert to take and send even then."""
        self._in.write(data)
        if not self.up:
            self._shake()
        plaintext = bytearray()
        try:
            while self.up and not self.ended:
                got = self._object.read(READ)
                self.ended = not got
                plaintext += got
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise TlsError(_reason(error)) from None
        return bytes(plaintext)

    def send(self, plaintext: bytes) -> None:
        """Only when `up`. Raises TlsError."""
        try:
            self._object.write(plaintext)
        except ssl.SSLError as error:
            raise TlsError(_reason(error)) from None

    def close(self) -> None:
        """Say that nothing more comes."""
        with contextlib.suppress(ssl.SSLError):  # the peer has not said it yet
            self._object.unwrap()

    def take(self) -> bytes:
        return self._out.read()

    def shows(self, name: str) -> bool:
        """Whether the peer's certificate names this domain or address."""
        return shows(self._object, name)

    def _shake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise TlsError(_reason(error)) from None
        self.up = True


class _ToNamed(ssl.SSLObject):
    """A client's: no handshake is done whose peer does not show that it is whom we want (RFC 5922 section
    7.3)."""

    def do_handshake(self) -> None:
        super().do_handshake()
        if not shows(self, self.server_hostname or ""):
            raise TlsError(f"certificate refused: it does not name {self.server_hostname}")


def shows(peer: ssl.SSLObject, name: str) -> bool:
    """Whether a peer's verified certificate names this domain or address; none does if it showed none.

    A domain stands in a sip URI without a user, or, if no such URI is there, as a DNS name; the subject does
    not count (RFC 5922 section 7.1), and a name is compared as a whole: a wildcard is nobody's (section 7.2).
    An address, of which that RFC does not speak, stands as one (RFC 9525 section 6.5)."""
    try:
        certificate = peer.getpeercert() or {}
    except ValueError:  # not even text
        return False
    names: dict[str, set[str]] = {"URI": set(), "DNS": set(), "IP Address": set()}
    for pair in certificate.get("subjectAltName", ()):
        match pair:
            case ("URI", str() as uri) if domain := _sip_domain(uri):
                names["URI"].add(_plain(domain))
            case ("DNS" | "IP Address" as kind, str() as value):
                names[kind].add(_plain(value))
    return _plain(name) in (names["URI"] or names["DNS"]) | names["IP Address"]


def _sip_domain(text: str) -> str:
    """ "" for a URI that stands for none."""
    try:
        uri = Uri.parse(text)
    except BadMessage:
        return ""
    return uri.host if uri.scheme == "sip" and uri.user is None else ""


def _plain(name: str) -> str:
    """A domain or an address in the one way it is compared in."""
    try:
        return str(ip_address(name))
    except ValueError:
        return name.lower()


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()
