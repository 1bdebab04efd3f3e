"""A fax machine behind DTLS that is OpenSSL's command line, and plain UDP ports for the rest of a call."""

from __future__ import annotations

import hashlib
import re
import select
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

from tests.system.sipp import HOST

PATIENCE = 10.0  # seconds
_REQUEST = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=fax")


class Port:
    """A UDP port; a context manager. 0: any."""

    def __init__(self, number: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((HOST, number))
        self.socket.settimeout(PATIENCE)
        self.number: int = self.socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes, number: int) -> None:
        self.socket.sendto(data, (HOST, number))

    def hear(self) -> bytes:
        return self.socket.recv(65535)


class FaxMachine:
    """UDPTL over DTLS (RFC 7345) at a port, by `openssl s_client` where it is active, `s_server` where it is
    passive; a context manager. Between openssl and the port this passes datagrams on and keeps them.

    fingerprint: a value of a=fingerprint. wire: the datagrams of both ways, in order.
    """

    def __init__(self, directory: Path, port: int, *, active: bool) -> None:
        self.wire: list[bytes] = []
        self._active = active
        self._pem, self._out = directory / "fax.pem", directory / "fax.out"
        made = [*_REQUEST, "-keyout", self._pem, "-out", directory / "fax.crt"]
        subprocess.run(made, check=True, capture_output=True)
        certificate = (directory / "fax.crt").read_text()
        with self._pem.open("a") as file:
            file.write(certificate)
        self.fingerprint = _fingerprint(certificate)
        self._port, self._inside = Port(port), Port()
        self._gateway = self._tool = 0  # ports
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._pass_on)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._thread.join()
        self._port.socket.close()
        self._inside.socket.close()

    def begin(self, gateway: int) -> None:
        """Take part in the handshake, with this port of the gateway."""
        self._gateway = gateway
        where = ["s_client", "-connect", f"{HOST}:{self._inside.number}"]
        if not self._active:
            with Port() as free:
                self._tool = free.number
            where = ["s_server", "-accept", f"{HOST}:{self._tool}", "-4", "-Verify", "1", "-naccept", "1"]
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(
                ["openssl", *where, "-dtls1_2", "-cert", self._pem, "-key", self._pem],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.DEVNULL,
            )
        self._thread.start()

    def send(self, data: bytes) -> None:
        """Not to begin with a letter, which may be a command to openssl."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def hear(self, data: bytes) -> None:
        """Wait until this has come."""
        self._wait_for(re.compile(re.escape(data)))

    def peer(self) -> str:
        """The fingerprint of the other side's certificate."""
        shown = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n")
        return _fingerprint(self._wait_for(shown).decode())

    def _wait_for(self, what: re.Pattern[bytes]) -> bytes:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if found := what.search(self._out.read_bytes()):
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"openssl has not said {what.pattern!r}, but {self._out.read_bytes()[-2000:]!r}")

    def _pass_on(self) -> None:
        outside, inside = self._port.socket, self._inside.socket
        while not self._over.is_set():
            for sock in select.select([outside, inside], [], [], 0.05)[0]:
                data, source = sock.recvfrom(65535)
                self.wire.append(data)
                if sock is outside:
                    self._inside.send(data, self._tool)
                else:
                    self._tool = source[1]
                    self._port.send(data, self._gateway)


def _fingerprint(pem: str) -> str:
    return f"sha-256 {hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest().hex(':').upper()}"
