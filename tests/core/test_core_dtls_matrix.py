"""RFC 8842 with the real gateway: each cell of the matrix is a call with DTLS-SRTP, a re-offer by either
side, and the handshakes that follow. What is expected is written down in `tests.policy.test_association`.

The UE is a DTLS endpoint without sockets. In each cell keys stay, or they are those of the new handshake;
they change when that is done and not before (trap P02), and a handshake that nobody announced is not heard
(trap P07).
"""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from agw.dtls import Association, Certificate, Established
from agw.iq.messages import Address, Event
from imsalg.policy.treatment import Mechanism
from imsalg.sdp.dtls import Fingerprint, Setup
from tests.policy.test_association import is_new, role
from tests.sim.sdp import lines_of, media, session
from tests.sim.world import BASE, World

FAR = session("203.0.113.5", media(7000))
TLS_ID = {
    "same": "a=tls-id:abc3de65cddef001be82",
    "same after a blank": "a=tls-id: abc3de65cddef001be82",
    "changed": "a=tls-id:fff3de65cddef001be82",
    "absent": None,
}
PORT = {"same port": 4000, "new port": 4002}
OFFERED = list(itertools.product(["actpass", "active", "passive"], TLS_ID, PORT, ["same", "changed"]))
ANSWERED = list(itertools.product(["active", "passive"], TLS_ID, PORT, ["same", "changed"]))


@pytest.fixture(scope="module")
def certificates() -> tuple[Certificate, Certificate]:
    """The UE's, and its next one."""
    return Certificate(), Certificate()


class Ue:
    """What a UE has of a call: its DTLS, at an address and port."""

    def __init__(self, world: World, certificate: Certificate) -> None:
        self.world = world
        self.certificate = certificate
        self.port = 4000
        self.endpoints: list[Association] = []
        self.established: Established | None = None

    def says(self, setup: str, tls_id: str | None) -> str:
        lines = [f"a=setup:{setup}", f"a=fingerprint:{Fingerprint('sha-256', self.certificate.sha256)}"]
        lines += [tls_id] if tls_id else []
        line = media(self.port, "UDP/TLS/RTP/SAVP", *lines, "a=rtcp-mux", "a=3ge2ae:requested")
        return session("192.0.2.10", line)

    def shake_hands(self, ours: Setup, fingerprint: str) -> None:
        """Until nobody has anything to say. ours: the gateway's role. fingerprint: as the SDP has it."""
        theirs = Fingerprint.parse(fingerprint)
        client = ours is Setup.PASSIVE
        new = Association(self.certificate, client, [(theirs.hash, theirs.digest)], True, bytes(32))
        self.endpoints.append(new)
        if client:
            new.start(self.world.now)
        self.pump()

    def pump(self) -> None:
        world, sent = self.world, self.world.plane.sent
        moved = True
        while moved:
            moved = False
            for endpoint in self.endpoints:
                for data in endpoint.to_send():
                    moved = True
                    source = Address("192.0.2.10", self.port)
                    world.gateway.packet(world.leg("access").id, 0, source, data, world.now)
                    world.settle()
                while (event := endpoint.next_event()) is not None:
                    assert isinstance(event, Established), event
                    self.established = event
            while sent:
                moved = True
                _, channel, target, data = sent.popleft()
                assert (channel, target) == (0, Address("192.0.2.10", self.port))
                self.endpoints[-1].receive(data, None, world.now)

    def holds(self) -> bool:
        """Whether the gateway's keys are those of the last handshake."""
        leg, keys = self.world.leg("access"), self.established
        if keys is None or leg.local_key is None:
            return False
        return (leg.local_key.material, leg.remote_keys[0].material) == (keys.remote, keys.local)


@pytest.fixture
def ue(worlds, certificates):
    world = worlds(access=(replace(BASE["access"][0], mechanisms=(Mechanism.DTLS_SRTP,)),))
    alice = world.ue(10)
    alice.register("alice", ("Security-Client", "dtls-srtp;mediasec"))
    request = world.network.expect("REGISTER")
    alice.path = request.headers.get("Path") or ""
    world.network.accept(request)
    alice.expect(200)
    found = Ue(world, certificates[0])
    found.peer = alice
    return found


def fingerprint(message):
    return lines_of(message, "a=fingerprint:")[0]


@pytest.mark.parametrize("stands", [Setup.ACTIVE, Setup.PASSIVE], ids=["client", "server"])
@pytest.mark.parametrize(("setup", "tls_id", "port", "changes"), OFFERED)
def test_a_re_offer_of_the_ue_p01_p02_p04_p05_p07(ue, certificates, stands, setup, tls_id, port, changes):
    world, first = ue.world, "active" if stands is Setup.PASSIVE else "passive"
    here, far = world.originate(ue.peer, ue.says(first, TLS_ID["same"]), FAR)
    ue.shake_hands(stands, fingerprint(here.response))
    assert ue.holds()
    ue.port = PORT[port]
    ue.certificate = certificates[changes == "changed"]
    _, got = here.exchange(far, "INVITE", ue.says(setup, TLS_ID[tls_id]), FAR)
    negotiated = role(setup, stands, answer=False)
    assert lines_of(got, "a=setup:") == [negotiated.value]
    assert bool(lines_of(got, "a=tls-id:")) == (tls_id != "absent")
    expect(ue, is_new(negotiated, stands, tls_id, port, changes), negotiated, got)


@pytest.mark.parametrize("stands", [Setup.ACTIVE, Setup.PASSIVE], ids=["client", "server"])
@pytest.mark.parametrize(("setup", "tls_id", "port", "changes"), ANSWERED)
def test_an_answer_to_a_re_offer_p01_p02_p04_p05_p07(ue, certificates, stands, setup, tls_id, port, changes):
    world, first = ue.world, "active" if stands is Setup.PASSIVE else "passive"
    here, far = world.terminate(ue.peer, FAR, ue.says(first, TLS_ID["same"]))
    ue.shake_hands(stands, fingerprint(here.invite))
    assert ue.holds()
    ue.port = PORT[port]
    ue.certificate = certificates[changes == "changed"]
    there, _ = far.exchange(here, "INVITE", FAR, ue.says(setup, TLS_ID[tls_id]))
    assert lines_of(there, "a=setup:") == ["actpass"]
    for name in ("a=tls-id:", "a=fingerprint:"):
        assert lines_of(there, name) == lines_of(here.invite, name)
    negotiated = role(setup, stands, answer=True)
    expect(ue, is_new(negotiated, stands, tls_id, port, changes), negotiated, there)


def expect(ue: Ue, new: bool, negotiated: Setup, message: object) -> None:
    before = ue.world.leg("access").local_key
    assert before is not None
    assert ue.holds()  # the old ones, as nobody has spoken yet
    if new:
        ue.shake_hands(negotiated, fingerprint(message))
        assert ue.world.leg("access").local_key != before
        assert ue.holds()
        told = [note.text for note in ue.world.notes if Event.DTLS_ESTABLISHED.value in note.text]
        assert len(told) == 2
        return
    assert not ue.world.plane.sent  # the gateway begins nothing
    uncalled = Association(ue.certificate, True, [("sha-256", bytes(32))], True, bytes(32))
    uncalled.start(ue.world.now)
    ue.endpoints.append(uncalled)
    ue.pump()
    assert ue.world.leg("access").local_key == before


# -- what is not in the matrix --------------------------------------------------------------------------


def test_a_client_hello_before_the_answer_is_heard_when_it_comes_p06(ue):
    world = ue.world
    invite = world.network.call(ue.peer, sdp=FAR)
    there = ue.peer.expect("INVITE")
    ue.shake_hands(Setup.PASSIVE, fingerprint(there))
    assert ue.established is None
    ue.peer.reply(there, 200, sdp=ue.says("active", TLS_ID["same"]))
    world.network.dialog(invite, world.network.expect(200)).ack()
    ue.peer.expect("ACK")
    ue.pump()
    assert ue.holds()


def test_another_certificate_than_was_signalled_gets_no_keys_and_ends_the_call_p09(ue, certificates):
    here, _ = ue.world.originate(ue.peer, ue.says("active", TLS_ID["same"]), FAR)
    ue.certificate = certificates[1]
    with pytest.raises(AssertionError, match="Failed"):
        ue.shake_hands(Setup.PASSIVE, fingerprint(here.response))
    ue.world.settle()
    assert not ue.world.plane.legs
    for peer in (ue.peer, ue.world.network):
        peer.reply(peer.expect("BYE"), 200)


def test_a_restart_that_fails_leaves_the_association_and_the_call_p02(ue, certificates):
    world = ue.world
    here, far = world.originate(ue.peer, ue.says("active", TLS_ID["same"]), FAR)
    ue.shake_hands(Setup.PASSIVE, fingerprint(here.response))
    before = world.leg("access").local_key
    _, got = here.exchange(far, "INVITE", ue.says("active", TLS_ID["changed"]), FAR)
    ue.certificate = certificates[1]
    with pytest.raises(AssertionError, match="Failed"):
        ue.shake_hands(Setup.PASSIVE, fingerprint(got))
    world.settle()
    assert world.leg("access").local_key == before
    assert ue.peer.quiet()
    here.hang_up(far)


def test_a_stream_that_comes_again_has_nothing_to_fall_back_on_p09_p33(ue, certificates):
    """Fax took the place of speech, whose association went with its stream."""
    world = ue.world
    here, far = world.originate(ue.peer, ue.says("active", TLS_ID["same"]), FAR)
    ue.shake_hands(Setup.PASSIVE, fingerprint(here.response))
    fax = (session(host, "m=image 4500 udptl t38") for host in ("192.0.2.10", "203.0.113.5"))
    here.exchange(far, "INVITE", *fax)
    _, got = here.exchange(far, "INVITE", ue.says("active", TLS_ID["changed"]), FAR)
    world.plane.sent.clear()  # the close_notify of the first
    ue.endpoints.clear()
    ue.certificate = certificates[1]
    with pytest.raises(AssertionError, match="Failed"):
        ue.shake_hands(Setup.PASSIVE, fingerprint(got))
    world.settle()
    for peer in (ue.peer, world.network):
        peer.reply(peer.expect("BYE"), 200)
