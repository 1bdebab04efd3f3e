"""A phone that speaks SIP over secure WebSocket as a browser would: the client of the websockets library, and
as little SIP as one registration and one call at a time take."""

from __future__ import annotations

import re
import ssl
from hashlib import md5
from itertools import count
from typing import Any

from websockets.sync.client import connect
from websockets.typing import Subprotocol

from imsalg.sip.message import Request, Response, make_response, parse_message

ANSWER = 10.0  # seconds
_numbers = count(1)


class WebPhone:
    """Its Contact is a name nobody can look up, as RFC 7118 section 5 has it: it is reached over its
    connection or not at all. flow: its reg-id, if this is one of several connections (RFC 5626)."""

    def __init__(
        self, url: str, context: ssl.SSLContext, user: str, domain: str, password: str, flow: int = 0
    ) -> None:
        self._opened = connect(url, ssl=context, subprotocols=[Subprotocol("sip")], proxy=None)
        self._connection = self._opened.__enter__()
        self._aor = f"sip:{user}@{domain}"
        self._user, self._domain, self._password = user, domain, password
        self.contact = f"<sip:{user}@df7jal23ls0d.invalid;transport=ws>"
        if flow:
            self.contact = f"<sip:{user}{flow}@df7jal23ls0d.invalid;transport=ws>"
            self.contact += f';+sip.instance="<urn:uuid:{user}>";reg-id={flow}'

    def close(self) -> None:
        self._opened.__exit__(None, None, None)

    def receive(self, what: str | int) -> Any:
        """The next message that is this; what comes before it is not asked for."""
        while True:
            data = self._connection.recv(ANSWER)
            message = parse_message(data.encode() if isinstance(data, str) else data)
            if what == (message.method if isinstance(message, Request) else message.status):
                return message

    def send(self, message: Request | Response) -> None:
        self._connection.send(bytes(message).decode())

    def request(self, method: str, uri: str, to: str, *headers: str, sdp: str = "") -> Request:
        number = next(_numbers)
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bKweb{number}",
            "Max-Forwards: 70",
            f"From: <{self._aor}>;tag=web{number}",
            f"To: {to}",
            f"Call-ID: web{number}@df7jal23ls0d.invalid",
            f"CSeq: {number} {method}",
            f"Contact: {self.contact}",
            *headers,
            *(["Content-Type: application/sdp"] if sdp else []),
            f"Content-Length: {len(sdp)}",
            "",
            sdp,
        ]
        request = parse_message("\r\n".join(lines).encode())
        assert isinstance(request, Request)
        self.send(request)
        return request

    def register(self) -> Response:
        """With digest authentication; the 200."""
        uri = f"sip:{self._domain}"
        self.request("REGISTER", uri, f"<{self._aor}>", "Expires: 600", "Supported: path, outbound")
        challenge = self.receive(401).headers.get("WWW-Authenticate")
        nonce, realm = (re.search(f'{name}="([^"]+)"', challenge)[1] for name in ("nonce", "realm"))  # type: ignore[index]
        ours = _hash(f"{self._user}:{realm}:{self._password}")
        proof = _hash(f"{ours}:{nonce}:00000001:c:auth:{_hash(f'REGISTER:{uri}')}")
        self.request(
            "REGISTER",
            uri,
            f"<{self._aor}>",
            "Expires: 600",
            f'Authorization: Digest username="{self._user}", realm="{realm}", nonce="{nonce}", uri="{uri}", '
            f'response="{proof}", algorithm=MD5, qop=auth, nc=00000001, cnonce="c"',
        )
        registered: Response = self.receive(200)
        return registered

    def call(self, uri: str, sdp: str) -> tuple[Request, Response]:
        """The INVITE and its 200, acknowledged."""
        invite = self.request("INVITE", uri, f"<{uri}>", sdp=sdp)
        answered = self.receive(200)
        self._within("ACK", invite, answered)
        return invite, answered

    def hang_up(self, invite: Request, answered: Response) -> None:
        self._within("BYE", invite, answered)
        self.receive(200)

    def answer(self, sdp: str) -> Request:
        """Take the call that comes; its INVITE, acknowledged."""
        invite: Request = self.receive("INVITE")
        self.send(make_response(invite, 180, to_tag="webtag"))
        response = make_response(invite, 200, to_tag="webtag")
        response.headers.copy_lines(invite.headers, "Record-Route")
        response.headers.append("Contact", self.contact)
        response.set_body(sdp.encode(), "application/sdp")
        self.send(response)
        self.receive("ACK")
        return invite

    def _within(self, method: str, invite: Request, answered: Response) -> None:
        number = invite.cseq.number + (method == "BYE")
        target = re.search("<(.*)>", answered.headers.get("Contact") or "")
        assert target
        lines = [
            f"{method} {target[1]} SIP/2.0",
            f"Via: SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bKweb{method}{number}",
            *(f"Route: {value}" for value in reversed(answered.headers.values("Record-Route"))),
            "Max-Forwards: 70",
            f"From: {invite.headers.get('From')}",
            f"To: {answered.headers.get('To')}",
            f"Call-ID: {invite.call_id}",
            f"CSeq: {number} {method}",
            "Content-Length: 0",
            "",
            "",
        ]
        self._connection.send("\r\n".join(lines))


def _hash(text: str) -> str:
    return md5(text.encode()).hexdigest()
