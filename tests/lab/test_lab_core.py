"""The lab core with messages and a jumping clock: what it registers, and where it takes requests."""

from __future__ import annotations

import random
import re
from hashlib import md5

import pytest

from imsalg.lab import registrar
from imsalg.lab.core import LabConfig, LabCore
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.message import Request, Response, parse_message
from imsalg.sip.values import Address

HERE = Address("127.0.0.1", 5064)
PROXY = Address("127.0.0.1", 5062)
PHONE = Address("127.0.0.1", 7000)
CALLER = Address("127.0.0.1", 7100)
Message = Request | Response


class Lab:
    """The machine, a clock, and peers that are nothing but addresses."""

    def __init__(self, **config: object) -> None:
        self.core = LabCore(LabConfig(**config), random.Random(7))
        self.now = 1000.0
        self._number = 0

    def send(
        self, text: str, source: Address = CALLER, transport: Transport = Transport.UDP
    ) -> list[Message]:
        """What leaves, without the retransmissions nobody asked for."""
        self.core.receive(text.replace("\n", "\r\n").encode(), Flow(transport, HERE, source), self.now)
        return self.sent()

    def sent(self) -> list[Message]:
        self.flows, messages = [], []
        for flow, data in self.core.to_send():
            self.flows.append(flow)
            messages.append(parse_message(data))
        return messages

    def answer(
        self, request: Message, status: int, lines: str = "", source: Address = PHONE
    ) -> list[Message]:
        assert isinstance(request, Request)
        vias = "".join(f"Via: {via}\n" for via in request.headers.lines("Via"))
        names = ("From", "Call-ID", "CSeq", "Record-Route")
        kept = "".join(f"{name}: {v}\n" for name in names for v in request.headers.lines(name))
        to = request.headers.get("To") or ""
        to += "" if "tag=" in to else f";tag=t{source.port}"
        text = f"SIP/2.0 {status} -\n{vias}{kept}To: {to}\n{lines}Content-Length: 0\n\n"
        return self.send(text, source)

    def jump(self, seconds: float) -> list[Message]:
        """To then, timer by timer."""
        until, messages = self.now + seconds, []
        while (at := self.core.timeout()) is not None and at <= until:
            self.now = at
            self.core.expire(at)
            messages += self.sent()
        self.now = until
        return messages

    def request(
        self, method: str, uri: str, lines: str = "", source: Address = CALLER, to: str | None = None
    ) -> list[Message]:
        self._number += 1
        return self.send(
            f"{method} {uri} SIP/2.0\n"
            f"Via: SIP/2.0/UDP {source};branch=z9hG4bK{self._number};rport\n"
            f"From: <sip:carol@ims.test>;tag=f\nTo: {to or f'<{uri}>'}\nCall-ID: c{self._number}\n"
            f"CSeq: {self._number} {method}\n{lines}Content-Length: 0\n\n",
            source,
        )

    def register(
        self, user: str, contact: str, lines: str = "", source: Address = PHONE, password: str = "lab"
    ) -> Response:
        """The answer to a REGISTER that has passed the challenge, or could not."""
        lines = f"Contact: {contact}\n{lines}"
        to = f"<sip:{user}@ims.test>"
        (first,) = self.request("REGISTER", "sip:ims.test", lines, source, to)
        assert isinstance(first, Response)
        if first.status != 401:
            return first
        credentials = authorization(first, user, password)
        (second,) = self.request("REGISTER", "sip:ims.test", f"{lines}{credentials}", source, to)
        assert isinstance(second, Response)
        return second


def authorization(challenge: Response, user: str, password: str, count: int = 1) -> str:
    nonce = re.search('nonce="([^"]+)"', challenge.headers.get("WWW-Authenticate") or "")[1]  # type: ignore[index]
    one, two = digest(f"{user}:ims.test:{password}"), digest("REGISTER:sip:ims.test")
    proof = digest(f"{one}:{nonce}:{count:08x}:abc:auth:{two}")
    return (
        f'Authorization: Digest username="{user}", realm="ims.test", nonce="{nonce}", uri="sip:ims.test", '
        f'qop=auth, nc={count:08x}, cnonce="abc", response="{proof}", algorithm=MD5\n'
    )


def digest(text: str) -> str:
    return md5(text.encode()).hexdigest()


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def bob(lab: Lab) -> Lab:
    assert lab.register("bob", f"<sip:bob@{PHONE}>").status == 200
    lab.jump(40)
    return lab


# -- registrar


def test_a_register_is_challenged_then_stored_with_path_and_answered_with_the_service_route(lab: Lab) -> None:
    path = "<sip:token@127.0.0.1:5062;lr>"
    lines = f"Path: {path}\nRequire: path\nSupported: path\n"
    (challenge,) = lab.request("REGISTER", "sip:ims.test", lines, to="<sip:alice@ims.test>")
    assert isinstance(challenge, Response)
    assert challenge.status == 401
    assert re.fullmatch(
        'Digest realm="ims.test", nonce="[0-9a-f]{32}", algorithm=MD5, qop="auth"',
        challenge.headers.get("WWW-Authenticate") or "",
    )
    response = lab.register("alice", "<sip:alice@127.0.0.1:7000>;expires=300", lines, PROXY)
    assert (response.status, response.headers.lines("Path")) == (200, [path])
    assert response.headers.lines("Contact") == ["<sip:alice@127.0.0.1:7000>;expires=300"]
    assert response.headers.lines("Service-Route") == ["<sip:orig@127.0.0.1:5064;lr>"]
    assert response.headers.lines("P-Associated-URI") == ["<sip:alice@ims.test>"]
    assert response.to.tag
    assert lab.core.status(lab.now)["registrations"] == [
        {
            "aor": "sip:alice@ims.test",
            "contact": "sip:alice@127.0.0.1:7000",
            "direct": False,
            "expires_in": 300,
        }
    ]


def test_the_empty_credentials_of_an_ims_client_are_challenged(lab: Lab) -> None:
    empty = (
        'Authorization: Digest username="a", realm="ims.test", nonce="", uri="sip:ims.test", response=""\n'
    )
    (answer,) = lab.request("REGISTER", "sip:ims.test", empty, to="<sip:a@ims.test>")
    assert isinstance(answer, Response)
    assert answer.status == 401


def test_a_wrong_password_is_403(lab: Lab) -> None:
    assert lab.register("alice", f"<sip:alice@{PHONE}>", password="no").status == 403
    assert lab.core.status(lab.now)["registrations"] == []


def test_a_response_is_not_good_twice_nor_with_a_forgotten_nonce(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imsalg.lab.digest.MAX_NONCES", 2)
    to = "<sip:alice@ims.test>"

    def register(lines: str = "") -> Response:
        (answer,) = lab.request("REGISTER", "sip:ims.test", lines, to=to)
        assert isinstance(answer, Response)
        return answer

    challenge = register()
    once, again = authorization(challenge, "alice", "lab"), authorization(challenge, "alice", "lab", 2)
    assert [register(once).status, register(again).status] == [200, 200]
    played_again = register(once)
    assert played_again.status == 401
    assert "stale=true" in (played_again.headers.get("WWW-Authenticate") or "")
    register()
    assert register(authorization(challenge, "alice", "lab", 3)).status == 401


def test_a_nonce_grows_old(lab: Lab) -> None:
    (challenge,) = lab.request("REGISTER", "sip:ims.test", to="<sip:alice@ims.test>")
    assert isinstance(challenge, Response)
    lab.jump(601)
    good = authorization(challenge, "alice", "lab")
    (answer,) = lab.request("REGISTER", "sip:ims.test", good, to="<sip:alice@ims.test>")
    assert isinstance(answer, Response)
    assert answer.status == 401


def test_bindings_expire_and_are_refreshed_and_removed(lab: Lab) -> None:
    lab.register("bob", f"<sip:bob@{PHONE}>;expires=100")
    lab.jump(90)
    lab.register("bob", f"<sip:bob@{PHONE};ob>;expires=100")
    lab.jump(90)
    assert len(lab.core.status(lab.now)["registrations"]) == 1
    lab.jump(10)
    assert lab.core.status(lab.now)["registrations"] == []
    lab.register("bob", "<sip:bob@127.0.0.1:7000>, <sip:bob@127.0.0.1:7001>")
    assert len(lab.core.status(lab.now)["registrations"]) == 2
    lab.register("bob", f"<sip:bob@{PHONE}>;expires=0")
    assert len(lab.core.status(lab.now)["registrations"]) == 1
    assert lab.register("bob", "*", "Expires: 0\n").status == 200
    assert lab.core.status(lab.now)["registrations"] == []
    lab.jump(4000)
    assert lab.core.timeout() is None


@pytest.mark.parametrize(
    ("contact", "lines", "status"),
    [
        ("<sip:bob@127.0.0.1:7000>", "Require: outbound\n", 420),
        ("<tel:+1>", "", 400),
        ("<sip:bob@127.0.0.1:7000>", "Path: <nonsense>\n", 400),
        ("*", "", 400),
        (", ".join(f"<sip:bob@127.0.0.1:{port}>" for port in range(7000, 7009)), "", 403),
    ],
)
def test_what_a_registrar_refuses(lab: Lab, contact: str, lines: str, status: int) -> None:
    assert lab.register("bob", contact, lines).status == status
    assert lab.core.status(lab.now)["registrations"] == []


def test_another_domain_is_not_registered_here(lab: Lab) -> None:
    (answer,) = lab.request("REGISTER", "sip:ims.test", to="<sip:bob@elsewhere.example>")
    assert isinstance(answer, Response)
    assert answer.status == 404


def test_users_and_bindings_are_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registrar, "MAX_USERS", 2)
    for port in range(7000, 7010):
        lab.register("bob", f"<sip:bob@127.0.0.1:{port}>")
    contacts = [each["contact"] for each in lab.core.status(lab.now)["registrations"]]
    assert contacts == [f"sip:bob@127.0.0.1:{port}" for port in range(7002, 7010)]
    lab.register("eve", "<sip:eve@127.0.0.1:7000>;expires=60")
    assert lab.register("mallory", f"<sip:mallory@{PHONE}>").status == 503
    lab.jump(61)
    assert lab.register("mallory", f"<sip:mallory@{PHONE}>").status == 200


# -- router


def test_a_request_goes_to_the_contact_by_its_path(lab: Lab) -> None:
    path = "<sip:token@127.0.0.1:5062;lr>"
    lab.register("bob", "<sip:bob@127.0.0.1:7000;ob>", f"Path: {path}\n", PROXY)
    (out,) = lab.request(
        "INVITE", "sip:bob@ims.test", "Route: <sip:orig@127.0.0.1:5064;lr>\nMax-Forwards: 9\n"
    )
    assert isinstance(out, Request)
    assert lab.flows == [Flow(Transport.UDP, HERE, PROXY)]
    assert out.uri == "sip:bob@127.0.0.1:7000;ob"
    assert out.headers.lines("Route") == [path]
    assert out.headers.lines("Record-Route") == ["<sip:127.0.0.1:5064;lr>"]
    assert out.headers.get("Max-Forwards") == "8"


def test_a_call_from_ringing_to_bye(bob: Lab) -> None:
    (invite,) = bob.request("INVITE", "sip:bob@ims.test")
    (ringing,) = bob.answer(invite, 180)
    assert isinstance(ringing, Response)
    assert (ringing.status, bob.flows[0].remote) == (180, CALLER)
    assert len(ringing.headers.lines("Via")) == 1
    (ok,) = bob.answer(invite, 200, f"Contact: <sip:bob@{PHONE}>\n")
    assert isinstance(ok, Response)
    assert ok.status == 200
    routed = "Route: <sip:127.0.0.1:5064;lr>\n"
    to = "<sip:bob@ims.test>;tag=t7000"
    (ack,) = bob.request("ACK", f"sip:bob@{PHONE}", routed, to=to)
    assert isinstance(ack, Request)
    assert (ack.method, ack.headers.lines("Route"), bob.flows[0].remote) == ("ACK", [], PHONE)
    (bye,) = bob.request("BYE", f"sip:bob@{PHONE}", routed, to=to)
    assert isinstance(bye, Request)
    assert "Record-Route" not in bye.headers
    (done,) = bob.answer(bye, 200)
    assert isinstance(done, Response)
    assert done.status == 200
    bob.jump(40)
    assert bob.core.status(bob.now)["transactions"] == 0


def test_in_dialog_requests_go_on_by_route(lab: Lab) -> None:
    routes = "Route: <sip:127.0.0.1:5064;lr>, <sip:t@127.0.0.1:5062;lr>\n"
    lab.request("BYE", "sip:bob@192.0.2.1:9", routes, to="<sip:bob@ims.test>;tag=x")
    assert lab.flows == [Flow(Transport.UDP, HERE, PROXY)]


def fork(lab: Lab) -> tuple[Message, Message]:
    other = "<sip:bob@127.0.0.1:7001>"
    lab.register("bob", f"<sip:bob@{PHONE}>, {other}")
    one, two = lab.request("INVITE", "sip:bob@ims.test")
    return one, two


OTHER = Address("127.0.0.1", 7001)


def test_both_ring_the_first_answer_wins_and_the_other_is_cancelled(lab: Lab) -> None:
    one, two = fork(lab)
    (first,), (second,) = lab.answer(one, 180), lab.answer(two, 183, source=OTHER)
    assert {first.to.tag, second.to.tag} == {"t7000", "t7001"}
    cancel, ok = sorted(lab.answer(two, 200, source=OTHER), key=lambda m: isinstance(m, Response))
    assert isinstance(cancel, Request)
    assert (cancel.method, cancel.uri) == ("CANCEL", "sip:bob@127.0.0.1:7000")
    assert isinstance(ok, Response)
    assert ok.to.tag == "t7001"
    ack = lab.answer(one, 487)
    assert [m.method for m in ack if isinstance(m, Request)] == ["ACK"]
    assert not [m for m in ack if isinstance(m, Response)]


def test_two_2xx_are_both_passed(lab: Lab) -> None:
    one, two = fork(lab)
    lab.answer(one, 200)
    late = [m for m in lab.answer(two, 200, source=OTHER) if isinstance(m, Response)]
    assert [(m.status, m.to.tag) for m in late] == [(200, "t7001")]


@pytest.mark.parametrize(
    ("first", "second", "best"), [(486, 404, 486), (500, 486, 486), (486, 401, 401), (404, 603, 603)]
)
def test_the_best_failure_is_passed_when_all_have_failed(
    lab: Lab, first: int, second: int, best: int
) -> None:
    one, two = fork(lab)
    assert not [m for m in lab.answer(one, first) if isinstance(m, Response)]
    finals = [m for m in lab.answer(two, second, source=OTHER) if isinstance(m, Response)]
    assert [m.status for m in finals] == [best]


def test_a_cancel_goes_to_every_branch(lab: Lab) -> None:
    one, two = fork(lab)
    lab.answer(one, 180)
    number = lab._number
    text = (
        f"CANCEL sip:bob@ims.test SIP/2.0\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bK{number};rport\n"
        f"From: <sip:carol@ims.test>;tag=f\nTo: <sip:bob@ims.test>\nCall-ID: c{number}\n"
        f"CSeq: {number} CANCEL\nContent-Length: 0\n\n"
    )
    out = lab.send(text)
    assert [m.uri for m in out if isinstance(m, Request)] == ["sip:bob@127.0.0.1:7000"]
    held = lab.answer(two, 100, source=OTHER)
    assert [m.uri for m in held if isinstance(m, Request)] == ["sip:bob@127.0.0.1:7001"]
    lab.answer(one, 487)
    finals = [m.status for m in lab.answer(two, 487, source=OTHER) if isinstance(m, Response)]
    assert finals == [487]


def test_no_answer_at_all_is_408_and_nothing_is_left(bob: Lab) -> None:
    bob.request("INVITE", "sip:bob@ims.test")
    finals = {m.status for m in bob.jump(33) if isinstance(m, Response)}
    assert finals == {100, 408}
    bob.jump(100)
    assert bob.core.status(bob.now)["transactions"] == 0


def test_endless_ringing_is_cancelled_by_timer_c(bob: Lab) -> None:
    (invite,) = bob.request("INVITE", "sip:bob@ims.test")
    bob.answer(invite, 180)
    bob.jump(150)
    bob.answer(invite, 180)
    assert not [m for m in bob.jump(150) if isinstance(m, Request)]
    assert "CANCEL" in {m.method for m in bob.jump(51) if isinstance(m, Request)}
    bob.answer(invite, 487)
    bob.jump(100)
    assert bob.core.status(bob.now)["transactions"] == 0


@pytest.mark.parametrize(
    ("uri", "lines", "status"),
    [
        ("sip:nobody@ims.test", "", 404),
        ("sip:nobody@127.0.0.1:5064", "", 404),
        ("sip:ims.test", "", 404),
        ("tel:+123", "", 416),
        ("sips:bob@192.0.2.1", "", 416),
        ("sip:bob@192.0.2.1;transport=ws", "", 416),
        ("sip:bob@ims.test", "Max-Forwards: 0\n", 483),
        ("sip:bob@ims.test", "Max-Forwards: x\n", 400),
        ("sip:bob@ims.test", "Proxy-Require: tricks\n", 420),
        ("sip:bob@ims.test", "Route: <sip:127.0.0.1:5064;lr>, <nonsense>\n", 400),
        ("sip:bob@ims.test", "Via: SIP/2.0/UDP 127.0.0.1:5064;branch=z9hG4bKx\n" * 3, 482),
        ("sip:bob@ims.test", "", 480),
    ],
)
def test_what_a_router_refuses(bob: Lab, uri: str, lines: str, status: int) -> None:
    bob.register("bob", "*", "Expires: 0\n")
    (answer,) = bob.request("INVITE", uri, lines)
    assert isinstance(answer, Response)
    assert answer.status == status
    assert answer.to.tag


def test_a_contact_that_is_ourselves_is_no_loop(lab: Lab) -> None:
    lab.register("bob", f"<sip:bob@{HERE}>, <sip:bob2@{HERE}>")
    (answer,) = lab.request("INVITE", "sip:bob@ims.test")
    assert isinstance(answer, Response)
    assert answer.status == 482


def test_static_routes_need_no_registration() -> None:
    lab = Lab(routes={"uas": "sip:127.0.0.1:6000", "tcp": "sip:service@127.0.0.1:6001;transport=tcp"})
    (out,) = lab.request("INVITE", "sip:uas@ims.test")
    assert isinstance(out, Request)
    assert (out.uri, lab.flows[0].remote.port) == ("sip:uas@127.0.0.1:6000", 6000)
    (out,) = lab.request("INVITE", "sip:tcp@ims.test")
    assert isinstance(out, Request)
    assert (out.uri, lab.flows[0].transport) == ("sip:service@127.0.0.1:6001;transport=tcp", Transport.TCP)
    assert out.headers.lines("Record-Route") == [
        "<sip:127.0.0.1:5064;transport=tcp;lr>",
        "<sip:127.0.0.1:5064;lr>",
    ]


def test_options_to_the_core_itself_is_answered_and_to_a_user_is_passed(bob: Lab) -> None:
    (answer,) = bob.request("OPTIONS", "sip:ims.test")
    assert isinstance(answer, Response)
    assert answer.status == 200
    (out,) = bob.request("OPTIONS", "sip:bob@ims.test")
    assert isinstance(out, Request)


def test_a_message_to_two_phones_is_answered_once(lab: Lab) -> None:
    lab.register("bob", f"<sip:bob@{PHONE}>, <sip:bob@127.0.0.1:7001>")
    one, two = lab.request("MESSAGE", "sip:bob@ims.test")
    assert "Record-Route" not in one.headers
    assert [m.status for m in lab.answer(one, 200) if isinstance(m, Response)] == [200]
    assert lab.answer(two, 200, source=OTHER) == []


def test_a_body_passes_byte_for_byte(bob: Lab) -> None:
    text = (
        f"INVITE sip:bob@ims.test SIP/2.0\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKbody\n"
        "f: <sip:carol@ims.test>;tag=f\nTo: <sip:bob@ims.test>\nCall-ID: b\nCSeq: 1 INVITE\n"
        "Content-Type: application/sdp\nContent-Length: 7\n\nv=0\no=\n"
    )
    (out,) = bob.send(text)
    assert isinstance(out, Request)
    assert out.body == b"v=0\r\no="
    assert out.headers.get("From") == "<sip:carol@ims.test>;tag=f"


def test_damaged_messages_harm_nobody(bob: Lab) -> None:
    rng = random.Random(4)
    good = (
        f"INVITE sip:bob@ims.test SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKX;rport\r\n"
        "From: <sip:carol@ims.test>;tag=f\r\nTo: <sip:bob@ims.test>\r\nCall-ID: X\r\nCSeq: 1 INVITE\r\n"
        "Route: <sip:orig@127.0.0.1:5064;lr>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    register = good.replace("INVITE sip:bob@ims.test", "REGISTER sip:ims.test").replace("INVITE", "REGISTER")
    fields = "Contact: <sip:bob@127.0.0.1:7000>;expires=9\r\nPath: <sip:a@127.0.0.1:5062;lr>\r\n" + (
        'Authorization: Digest username="bob", realm="ims.test", nonce="x", qop=auth, nc=00000001\r\n'
    )
    for number in range(4000):
        text = rng.choice((good, register.replace("Max-Forwards", f"{fields}Max-Forwards")))
        data = bytearray(text.replace("X", str(number)).encode())
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.choice((b"", b"\xff", b",", b"<", b'"', b";", b"9" * 30))
        bob.core.receive(bytes(data), Flow(Transport.UDP, HERE, CALLER), bob.now)
        bob.core.to_send()
    bob.jump(300)
    assert bob.core.status(bob.now)["transactions"] == 0


def test_a_phone_that_takes_the_proxy_for_its_domain_is_served() -> None:
    lab = Lab(aliases=["127.0.0.1:5060"])
    (challenge,) = lab.request("REGISTER", "sip:127.0.0.1:5060", to="<sip:bob@127.0.0.1>", source=PHONE)
    assert isinstance(challenge, Response)
    assert challenge.status == 401
    assert lab.register("bob", f"<sip:bob@{PHONE}>").status == 200
    (invite,) = lab.request("INVITE", "sip:bob@127.0.0.1:5060")
    assert isinstance(invite, Request)
    assert invite.uri == f"sip:bob@{PHONE}"
