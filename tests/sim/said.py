"""What the phones of a walk say of their media: session descriptions that can be told apart."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from imsalg.sdp.attributes import Crypto, Direction
from imsalg.sdp.document import Document


@dataclass(frozen=True, slots=True)
class Said:
    """A session description with one audio line. mark: its own number, which passes the proxy. host: "" where
    it is read and does not count. key: b"" for plain RTP."""

    mark: int
    host: str
    port: int
    direction: Direction
    key: bytes

    @property
    def sends(self) -> bool:
        return self.direction in (Direction.SENDRECV, Direction.SENDONLY)

    @property
    def receives(self) -> bool:
        return self.direction in (Direction.SENDRECV, Direction.RECVONLY) and self.host != "0.0.0.0"

    def __bytes__(self) -> bytes:
        key = base64.b64encode(self.key).decode()
        secured = f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}", "a=3ge2ae:requested"
        lines = (
            *("v=0", f"o=- 7 {self.mark} IN IP4 192.0.2.99", "s=-", f"c=IN IP4 {self.host}", "t=0 0"),
            f"m=audio {self.port} RTP/{'S' if self.key else ''}AVP 0",
            *(secured if self.key else ()),
            *(f"a={self.direction.value}", f"a=mark:{self.mark}", ""),
        )
        return "\r\n".join(lines).encode()

    @classmethod
    def read(cls, body: bytes) -> Said:
        document = Document(body)
        (audio,) = document.media
        crypto = audio.attribute("crypto")
        key = Crypto.parse(crypto).keys[0].material if crypto else b""
        return cls(int(audio.attribute("mark") or -1), "", audio.port, document.direction_of(audio), key)


ANSWERS = {
    Direction.SENDRECV: (Direction.SENDRECV, Direction.SENDRECV, Direction.RECVONLY, Direction.INACTIVE),
    Direction.SENDONLY: (Direction.RECVONLY, Direction.RECVONLY, Direction.INACTIVE),
    Direction.RECVONLY: (Direction.SENDONLY, Direction.INACTIVE),
    Direction.INACTIVE: (Direction.INACTIVE,),
}
