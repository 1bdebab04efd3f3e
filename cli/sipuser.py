"""The signalling of a UE: registers, and has one call at a time, over UDP or WebSocket. Session descriptions
are texts that somebody else makes and reads.

It speaks through whom it registers with and to nobody else, so it needs no routing of its own; of the
transaction layer there is what a client of one proxy needs (RFC 3261 section 17): requests and the 2xx of an
INVITE are repeated over UDP until they are answered, what comes again is answered again.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from hashlib import md5

from cli.sipwire import Wire, open_wire
from imsalg.sip.message import Request, Response, make_response, parse_message

T1 = 0.5  # seconds until a request is repeated, then twice as long, over UDP
ANSWER = 15.0  # seconds for a final response
SDP = "application/sdp"

Offered = Callable[[str], Awaitable[str | int]]  # an offer -> the answer, or the status that refuses it


class Refused(Exception):
    """The final response was none of success."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"{response.status} {response.reason}")
        self.response = response


@dataclass(slots=True)
class Dialog:
    """As RFC 3261 section 12 has it. local, remote: From/To values with tags; routes: nearest first."""

    call_id: str
    local: str
    remote: str
    target: str
    routes: tuple[str, ...]
    number: int = 0


class SipUser:
    """offered: called with the offer of each call that comes, and of each re-INVITE. contact: parameters of
    the Contact, such as a feature tag. client: what Security-Client says at registration.

    security: what Security-Server said of media, to be said back (RFC 3329 section 2.3.1). dialog: the call
    that is up. ended: set when the peer has hung up.
    """

    def __init__(
        self, user: str, domain: str, password: str, offered: Offered, *, contact: str = "", client: str = ""
    ) -> None:
        self.aor = f"sip:{user}@{domain}"
        self.dialog: Dialog | None = None
        self.ended = asyncio.Event()
        self.security: tuple[str, ...] = ()
        self._user, self._domain, self._password = user, domain, password
        self._offered = offered
        self._parameters, self._client = contact, client
        self._answers: dict[str, asyncio.Queue[Response]] = {}  # by branch
        self._said: dict[tuple[str, str], bytes] = {}  # our responses, by branch and method
        self._acks: dict[tuple[str, int], bytes] = {}  # by Call-ID and CSeq
        self._acknowledged: dict[int, asyncio.Event] = {}  # by CSeq of the INVITE
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self, uri: str, context: ssl.SSLContext | None = None) -> None:
        """uri: udp://HOST:PORT, ws://… or wss://…. Raises OSError."""
        self._wire: Wire = await open_wire(uri, context, self._receive)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._wire.close()

    @property
    def contact(self) -> str:
        transport = ";transport=ws" if self._wire.transport != "UDP" else ""
        return f"<sip:{self._user}@{self._wire.address}{transport}>{self._parameters}"

    # -- what the user wants ---------------------------------------------------------------------------------

    async def register(self, expires: int = 600) -> Response:
        """Raises Refused, also for a wrong password."""
        uri, call_id = f"sip:{self._domain}", secrets.token_hex(8)
        mine: tuple[str, ...] = ("Supported: path, outbound", f"Expires: {expires}")
        if self._client:
            mine += (f"Security-Client: {self._client}",)
        credentials: tuple[str, ...] = ()
        for number in (1, 2):
            verify = tuple(f"Security-Verify: {entry}" for entry in self.security)
            request = self._request(
                "REGISTER", uri, (), self._address(call_id), f"<{self.aor}>", call_id, number,
                f"Contact: {self.contact}", *mine, *verify, *credentials,
            )  # fmt: skip
            response = await self._ask(request)
            told = [entry.strip() for entry in response.headers.values("Security-Server")]
            self.security = tuple(entry for entry in told if "mediasec" in entry) or self.security
            if response.status != 401 or credentials:
                break
            credentials = (self._proof(response.headers.get("WWW-Authenticate") or "", uri),)
        return _good(response)

    async def invite(self, uri: str, offer: str, *headers: str) -> str:
        """The answer of who takes the call. Raises Refused."""
        call_id = secrets.token_hex(8)
        verify = tuple(f"Security-Verify: {entry}" for entry in self.security)
        self.dialog = Dialog(call_id, self._address(call_id), f"<{uri}>", uri, ())
        self.ended.clear()
        return await self._invite(self.dialog, offer, *headers, *verify)

    async def offer(self, offer: str) -> str:
        """The answer to a re-INVITE. Raises Refused."""
        assert self.dialog is not None
        return await self._invite(self.dialog, offer)

    async def bye(self) -> None:
        assert self.dialog is not None
        request, self.dialog = self._within(self.dialog, "BYE"), None
        await self._ask(request)

    # -- requests --------------------------------------------------------------------------------------------

    async def _invite(self, dialog: Dialog, offer: str, *headers: str) -> str:
        request = self._within(dialog, "INVITE", f"Contact: {self.contact}", *headers, sdp=offer)
        response = _good(await self._ask(request))
        dialog.remote = response.headers.get("To") or ""
        dialog.target = _uri(response.headers.get("Contact")) or dialog.target
        if not dialog.routes:
            dialog.routes = tuple(reversed(response.headers.values("Record-Route")))
        number = response.cseq.number
        ack = bytes(self._within(dialog, "ACK", number=number))
        self._acks[dialog.call_id, number] = ack
        self._wire.send(ack)
        return response.body.decode()

    def _within(
        self, dialog: Dialog, method: str, *headers: str, number: int | None = None, sdp: str = ""
    ) -> Request:
        if number is None:
            dialog.number += 1
        parties = (dialog.local, dialog.remote, dialog.call_id, number or dialog.number)
        return self._request(method, dialog.target, dialog.routes, *parties, *headers, sdp=sdp)

    def _request(
        self,
        method: str,
        uri: str,
        routes: Iterable[str],
        sender: str,
        to: str,
        call_id: str,
        number: int,
        *headers: str,
        sdp: str = "",
    ) -> Request:
        branch = f"z9hG4bK{secrets.token_hex(8)}"
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/{self._wire.transport} {self._wire.address};branch={branch};rport",
            *(f"Route: {route}" for route in routes),
            "Max-Forwards: 70",
            f"From: {sender}",
            f"To: {to}",
            f"Call-ID: {call_id}",
            f"CSeq: {number} {method}",
            *headers,
            *([f"Content-Type: {SDP}"] if sdp else []),
            f"Content-Length: {len(sdp.encode())}",
            "",
            sdp,
        ]
        request = parse_message("\r\n".join(lines).encode())
        assert isinstance(request, Request)
        return request

    def _address(self, call_id: str) -> str:
        return f"<{self.aor}>;tag={call_id[:8]}"

    async def _ask(self, request: Request) -> Response:
        """The final response; an ACK goes to one that is none of success. Raises TimeoutError."""
        branch, data, pause = request.via.branch or "", bytes(request), T1
        answers = self._answers[branch] = asyncio.Queue()
        self._wire.send(data)
        heard = self._wire.transport != "UDP"
        try:
            async with asyncio.timeout(ANSWER):
                while True:
                    try:
                        response = await asyncio.wait_for(answers.get(), None if heard else pause)
                    except TimeoutError:
                        pause *= 2
                        self._wire.send(data)
                        continue
                    heard = True
                    if response.status >= 200:
                        break
        finally:
            del self._answers[branch]
        if request.method == "INVITE" and response.status >= 300:
            request.headers.set("To", response.headers.get("To") or "")
            request.headers.set("CSeq", f"{request.cseq.number} ACK")
            request.headers.remove("Content-Type")
            ack = Request("ACK", request.uri, request.headers, b"")
            ack.set_body(b"")
            self._wire.send(bytes(ack))
        return response

    def _proof(self, challenge: str, uri: str) -> str:
        """RFC 2617 section 3.2.2, MD5 with qop=auth."""
        given = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        one = _hash(f"{self._user}:{given['realm']}:{self._password}")
        cnonce = secrets.token_hex(4)
        two = _hash(f"{one}:{given['nonce']}:00000001:{cnonce}:auth:{_hash(f'REGISTER:{uri}')}")
        return (
            f'Authorization: Digest username="{self._user}", realm="{given["realm"]}", uri="{uri}", '
            f'nonce="{given["nonce"]}", nc=00000001, cnonce="{cnonce}", response="{two}", qop=auth'
        )

    # -- what comes ------------------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        if not data.strip():
            return
        message = parse_message(data)
        if isinstance(message, Response):
            if (answers := self._answers.get(message.via.branch or "")) is not None:
                answers.put_nowait(message)
            elif message.cseq.method == "INVITE" and 200 <= message.status < 300:
                self._wire.send(self._acks.get((message.call_id, message.cseq.number), b""))
        elif message.method == "ACK":
            if acknowledged := self._acknowledged.get(message.cseq.number):
                acknowledged.set()
        elif said := self._said.get((message.via.branch or "", message.method)):
            self._wire.send(said)
        else:
            task = asyncio.get_running_loop().create_task(self._serve(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, request: Request) -> None:
        match request.method:
            case "INVITE":
                await self._serve_invite(request)
            case "BYE":
                self.dialog = None
                self._say(request, 200)
                self.ended.set()
            case _:
                self._say(request, 200 if request.method in ("OPTIONS", "CANCEL") else 501)

    async def _serve_invite(self, request: Request) -> None:
        tag = request.to.tag or secrets.token_hex(4)
        if request.to.tag is None and self.dialog is not None:
            return self._say(request, 486, tag)
        self._say(request, 100, tag)
        answer = await self._offered(request.body.decode())
        if isinstance(answer, int):
            return self._say(request, answer, tag)
        if self.dialog is None:
            routes = tuple(request.headers.values("Record-Route"))
            target = _uri(request.headers.get("Contact")) or ""
            sender, to = request.headers.get("From") or "", f"{request.headers.get('To')};tag={tag}"
            self.dialog = Dialog(request.call_id, to, sender, target, routes)
            self.ended.clear()
        acknowledged = self._acknowledged[request.cseq.number] = asyncio.Event()
        pause = T1
        self._say(request, 200, tag, answer)
        while self._wire.transport == "UDP" and not acknowledged.is_set() and pause < 4.0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(acknowledged.wait(), pause)
                break
            self._wire.send(self._said[request.via.branch or "", "INVITE"])
            pause *= 2
        return None

    def _say(self, request: Request, status: int, tag: str | None = None, sdp: str = "") -> None:
        response = make_response(request, status, to_tag=tag)
        if request.method == "INVITE":
            response.headers.append("Contact", self.contact)
        if sdp:
            response.set_body(sdp.encode(), SDP)
        data = bytes(response)
        self._said[request.via.branch or "", request.method] = data
        self._wire.send(data)


def _good(response: Response) -> Response:
    if response.status >= 300:
        raise Refused(response)
    return response


def _uri(contact: str | None) -> str | None:
    found = re.search(r"<([^>]*)>", contact or "")
    return found[1] if found else contact and contact.partition(";")[0].strip()


def _hash(text: str) -> str:
    return md5(text.encode()).hexdigest()
