"""What the phones of a walk say of their media: session descriptions that can be told apart."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from imsalg.sdp.attributes import Crypto, Direction
from imsalg.sdp.document import Document
from imsalg.sdp.dtls import Fingerprint


@dataclass(frozen=True, slots=True)
class Said:
    """A session description with one audio line. mark: its own number, which passes the proxy. host: "" where
    it is read and does not count. key: b"" for plain RTP; with a setup the fingerprint under DTLS-SRTP."""

    mark: int
    host: str
    port: int
    direction: Direction
    key: bytes
    setup: str = ""

    @property
    def sends(self) -> bool:
        return self.direction in (Direction.SENDRECV, Direction.SENDONLY)

    @property
    def receives(self) -> bool:
        return self.direction in (Direction.SENDRECV, Direction.RECVONLY) and self.host != "0.0.0.0"

    def __bytes__(self) -> bytes:
        proto, secured = self._protection()
        lines = (
            *("v=0", f"o=- 7 {self.mark} IN IP4 192.0.2.99", "s=-", f"c=IN IP4 {self.host}", "t=0 0"),
            f"m=audio {self.port} {proto} 0",
            *secured,
            *(f"a={self.direction.value}", f"a=mark:{self.mark}", ""),
        )
        return "\r\n".join(lines).encode()

    def _protection(self) -> tuple[str, tuple[str, ...]]:
        """The protocol, and the lines that belong to it."""
        if not self.key:
            return "RTP/AVP", ()
        if not self.setup:
            key = base64.b64encode(self.key).decode()
            lines = (f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}",)
            return "RTP/SAVP", (*lines, "a=3ge2ae:requested")
        lines = (
            f"a=setup:{self.setup}",
            f"a=fingerprint:{Fingerprint('sha-256', self.key)}",
            f"a=tls-id:{self.key.hex()[:20]}",
        )
        return "UDP/TLS/RTP/SAVP", (*lines, "a=3ge2ae:requested")

    @classmethod
    def read(cls, body: bytes) -> Said:
        document = Document(body)
        (audio,) = document.media
        crypto = audio.attribute("crypto")
        fingerprint, setup = audio.attribute("fingerprint"), audio.attribute("setup") or ""
        key = Crypto.parse(crypto).keys[0].material if crypto else b""
        if fingerprint:
            key = Fingerprint.parse(fingerprint).digest
        mark, direction = int(audio.attribute("mark") or -1), document.direction_of(audio)
        return cls(mark, "", audio.port, direction, key, setup)


ANSWERS = {
    Direction.SENDRECV: (Direction.SENDRECV, Direction.SENDRECV, Direction.RECVONLY, Direction.INACTIVE),
    Direction.SENDONLY: (Direction.RECVONLY, Direction.RECVONLY, Direction.INACTIVE),
    Direction.RECVONLY: (Direction.SENDONLY, Direction.INACTIVE),
    Direction.INACTIVE: (Direction.INACTIVE,),
}
