"""As much of rtpengine's control protocol as the benchmarks need: bencode over UDP, offer, answer."""

from __future__ import annotations

import base64
import re
import socket
from dataclasses import dataclass

from agw.iq.messages import Key, Suite
from tests.bench.peers.systems import CannotRun

Value = int | str | list["Value"] | dict[str, "Value"]


class Ng:
    """One control socket. Raises CannotRun if something is refused or not answered."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(5.0)
        self._socket.connect((host, port))
        self._host = host
        self._cookie = 0

    def close(self) -> None:
        self._socket.close()

    def ask(self, command: str, **fields: Value) -> dict[str, Value]:
        self._cookie += 1
        cookie = b"media%d " % self._cookie  # one seen before would get the former answer
        question = {"command": command} | {name.replace("_", "-"): value for name, value in fields.items()}
        try:
            self._socket.send(cookie + encode(question))
            while not (answer := self._socket.recv(65535)).startswith(cookie):
                pass
        except OSError as error:
            raise CannotRun(f"rtpengine: {command}: {error}") from None
        said, _ = decode(answer, len(cookie))
        assert isinstance(said, dict)
        if said["result"] not in ("ok", "pong"):
            raise CannotRun(f"rtpengine: {command}: {said.get('error-reason', said['result'])}")
        return said

    def call(self, name: str, ue_port: int, peer_port: int, ue_key: Key) -> tuple[int, int, Key]:
        """Join a UE with SRTP and a peer with RTP: rtpengine's ports towards the UE and the peer, and the key
        of what it sends to the UE."""
        offer = self._sdp(ue_port, "RTP/SAVP", crypto_line(ue_key))
        common: dict[str, Value] = {"call_id": name, "from_tag": "ue", "ICE": "remove", "DTLS": "off"}
        offered = self.ask("offer", sdp=offer, transport_protocol="RTP/AVP", **common)
        answered = self.ask("answer", sdp=self._sdp(peer_port, "RTP/AVP"), to_tag="peer", **common)
        return port(answered["sdp"]), port(offered["sdp"]), key(answered["sdp"])

    def secured_call(self, name: str, ue_port: int, peer_port: int, sha256: bytes) -> Secured:
        """Join a UE with DTLS-SRTP and ICE, which begins the handshake, and a peer with RTP."""
        attributes = (
            "a=setup:active",
            f"a=fingerprint:sha-256 {sha256.hex(':').upper()}",
            "a=rtcp-mux",
            *("a=ice-ufrag:them", "a=ice-pwd:their+password+of+22+chars"),
            f"a=candidate:1 1 UDP 2130706431 {self._host} {ue_port} typ host",
        )
        offer = self._sdp(ue_port, "UDP/TLS/RTP/SAVP", *attributes)
        common: dict[str, Value] = {"call_id": name, "from_tag": "ue"}
        plain: dict[str, Value] = {"transport_protocol": "RTP/AVP", "ICE": "remove", "DTLS": "off"}
        offered = self.ask("offer", sdp=offer, rtcp_mux=["demux"], **plain, **common)
        answer = self._sdp(peer_port, "RTP/AVP")
        secured: dict[str, Value] = {"ICE": "force", "DTLS": "passive"}
        sdp = str(self.ask("answer", sdp=answer, to_tag="peer", **secured, **common)["sdp"])
        return Secured(
            port(sdp),
            port(offered["sdp"]),
            bytes.fromhex(attribute(sdp, "fingerprint:sha-256 ").replace(":", "")),
            attribute(sdp, "ice-ufrag:"),
            attribute(sdp, "ice-pwd:"),
        )

    def _sdp(self, port: int, profile: str, *attributes: str) -> str:
        lines = (
            "v=0",
            f"o=- 1 1 IN IP4 {self._host}",
            "s=-",
            f"c=IN IP4 {self._host}",
            "t=0 0",
            f"m=audio {port} {profile} 0",
            "a=sendrecv",
            *attributes,
        )
        return "".join(f"{line}\r\n" for line in lines)


@dataclass(frozen=True)
class Secured:
    """A call with DTLS-SRTP and ICE as the relay has it: its ports towards the UE and the peer, its
    fingerprint and credentials."""

    access_port: int
    core_port: int
    sha256: bytes
    ufrag: str
    pwd: str


# -- SDP, as rtpengine writes it ---------------------------------------------------------------------------


def crypto_line(key: Key) -> str:
    return f"a=crypto:1 {key.suite.value} inline:{base64.b64encode(key.material).decode()}"


def port(sdp: Value) -> int:
    return int(re.search(r"^m=audio (\d+)", str(sdp), re.MULTILINE)[1])


def attribute(sdp: str, begin: str) -> str:
    found = re.search(rf"^a={re.escape(begin)}(\S+)", sdp, re.MULTILINE | re.IGNORECASE)
    if found is None:
        raise CannotRun(f"rtpengine: no a={begin} in the answer:\n{sdp}")
    return found[1]


def key(sdp: Value) -> Key:
    found = re.search(r"^a=crypto:\d+ (\w+) inline:([\w+/=]+)", str(sdp), re.MULTILINE)
    if found is None:
        raise CannotRun("rtpengine: no crypto line in the answer")
    encoded = found[2].rstrip("=")
    return Key(Suite(found[1]), base64.b64decode(encoded + "=" * (-len(encoded) % 4)))


# -- bencode -----------------------------------------------------------------------------------------------


def encode(value: Value) -> bytes:
    match value:
        case int():
            return b"i%de" % value
        case str():
            return b"%d:%s" % (len(value.encode()), value.encode())
        case list():
            return b"l" + b"".join(map(encode, value)) + b"e"
        case dict():
            return b"d" + b"".join(encode(name) + encode(each) for name, each in sorted(value.items())) + b"e"


def decode(data: bytes, at: int = 0) -> tuple[Value, int]:
    """The value that begins at `at`, and where it ends."""
    match data[at : at + 1]:
        case b"i":
            end = data.index(b"e", at)
            return int(data[at + 1 : end]), end + 1
        case b"l" | b"d" as kind:
            values: list[Value] = []
            at += 1
            while data[at : at + 1] != b"e":
                value, at = decode(data, at)
                values.append(value)
            return values if kind == b"l" else dict(zip(values[::2], values[1::2], strict=True)), at + 1
        case _:
            colon = data.index(b":", at)
            end = colon + 1 + int(data[at:colon])
            return data[colon + 1 : end].decode(), end
