"""`imsalg ue` at a scripted registrar: what it indicates, what it says back, and how it leaves."""

from __future__ import annotations

import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.interop.ue_process import Ue

ANNOUNCED = ("sdes-srtp;mediasec", "msrp-tls;mediasec")
CHALLENGE = 'WWW-Authenticate: Digest realm="ims.test", nonce="n1", algorithm=MD5, qop="auth"\r\n'
SERVER = "".join(f"Security-Server: {entry}\r\n" for entry in ANNOUNCED)


class Registrar:
    """Answers each REGISTER with the status and header lines that `policy` gives, and keeps what it got."""

    def __init__(self, port: int, policy: Callable[[str], tuple[int, str]]) -> None:
        self.requests: list[str] = []
        self.uri = f"sip:127.0.0.1:{port}"
        self._policy = policy
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while data := self._socket.recvfrom(65535):
            text, peer = data[0].decode(), data[1]
            if not text:
                return
            self.requests.append(text)
            status, lines = self._policy(text)
            kept = "".join(re.findall(r"(?m)^(?:Via|From|Call-ID|CSeq):.*\n", text))
            to = header(text, "To")[0]
            contact = f"Contact: {header(text, 'Contact')[0]};expires={expires(text)}\r\n"
            answer = (
                f"SIP/2.0 {status} -\r\n{kept}To: {to};tag=r\r\n{contact}{lines}Content-Length: 0\r\n\r\n"
            )
            self._socket.sendto(answer.encode(), peer)


def header(message: str, name: str) -> list[str]:
    return [value.strip() for value in re.findall(rf"(?im)^{name}:(.*)$", message)]


def expires(message: str) -> int:
    return int(header(message, "Expires")[0])


def challenging(message: str) -> tuple[int, str]:
    return (200, SERVER) if header(message, "Authorization") else (401, CHALLENGE + SERVER)


@pytest.fixture
def registrar(request: pytest.FixtureRequest) -> Iterator[Registrar]:
    server = Registrar(15300, request.param)
    yield server
    server.close()


@pytest.mark.parametrize("registrar", [challenging], indirect=True)
def test_security_verify_says_back_what_the_401_announced_p23(registrar: Registrar) -> None:
    with Ue(
        "--user", "alice", "--registrar", registrar.uri, "--port", 15301, "--password", "x", "--e2ae"
    ) as ue:
        assert ue.wait_for("registered")["security"] == list(ANNOUNCED)
    for request in registrar.requests:
        assert header(request, "Security-Client") == ["sdes-srtp;mediasec"]
    authorised = [request for request in registrar.requests if header(request, "Authorization")]
    assert authorised
    for request in authorised:
        assert header(request, "Security-Verify") == list(ANNOUNCED)
    assert header(registrar.requests[0], "Security-Verify") == []
    assert [e["event"] for e in ue.events] == ["ready", "registered", "unregistered"]


@pytest.mark.parametrize("registrar", [challenging], indirect=True)
def test_without_e2ae_no_security_header_is_sent(registrar: Registrar) -> None:
    with Ue("--user", "bob", "--registrar", registrar.uri, "--port", 15302, "--password", "x") as ue:
        ue.wait_for("registered", code=200)
    assert not any("Security-" in request for request in registrar.requests)
    assert [expires(request) > 0 for request in registrar.requests][:2] == [True, True]
    assert expires(registrar.requests[-1]) == 0


@pytest.mark.parametrize("registrar", [lambda message: (200, SERVER)], indirect=True)
def test_a_registrar_that_never_challenges_is_enough(registrar: Registrar) -> None:
    with Ue("--user", "alice", "--registrar", registrar.uri, "--port", 15303, "--e2ae") as ue:
        assert ue.wait_for("registered")["security"] == list(ANNOUNCED)
    assert ue.stop() == 0


@pytest.mark.parametrize("registrar", [lambda message: (403, "")], indirect=True)
def test_a_refused_registration_is_exit_code_1(registrar: Registrar) -> None:
    with Ue("--user", "mallory", "--registrar", registrar.uri, "--port", 15304, "--e2ae") as ue:
        ue.wait_for("refused", code=403)
        assert ue.ended() == 1


@pytest.mark.parametrize("registrar", [challenging], indirect=True)
def test_a_wrong_password_ends_and_does_not_loop(registrar: Registrar) -> None:
    registrar._policy = lambda message: (401, CHALLENGE + SERVER)
    with Ue(
        "--user", "alice", "--registrar", registrar.uri, "--port", 15305, "--password", "x", "--e2ae"
    ) as ue:
        ue.wait_for("refused")
        assert ue.ended() == 1


@pytest.mark.parametrize("registrar", [challenging], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unregisters(registrar: Registrar, number: int) -> None:
    with Ue("--user", "alice", "--registrar", registrar.uri, "--port", 15306, "--password", "x") as ue:
        ue.wait_for("registered")
        assert ue.stop(number) == 0
    assert ue.wait_for("unregistered")
    assert expires(registrar.requests[-1]) == 0
