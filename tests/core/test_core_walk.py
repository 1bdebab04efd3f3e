"""Random walks of two well-behaved parties over a lossy link, the whole core and the real gateway between
them: whatever they do at the same time, both hold the same offer and answer for the last, the gateway does
what these say, and nothing is left when they have hung up. (`test_core_chaos` has the ill-behaved ones.)"""

import random

import pytest
from msgspec.structs import replace

from agw.gateway import Gateway
from agw.iq.messages import VERSION, DtlsRole, Fingerprint, Hello, Mode
from imsalg.config import ProxyConfig
from imsalg.core import Core
from imsalg.policy.treatment import Mechanism
from imsalg.sip.values import Address
from tests.sim.link import Link
from tests.sim.phone import Phone
from tests.sim.world import ACCESS, AGW, BASE, CORE, NETWORK, REALMS, Memory

SEEDS = 120
PHONE = Address("192.0.2.10", 5060)


class Proxy:
    """The core with its gateway as one machine of a Link; a command takes a moment."""

    def __init__(self, link):
        self.link = link
        access = replace(BASE["access"][0], mechanisms=(Mechanism.SDES_SRTP, Mechanism.DTLS_SRTP))
        self.core = Core(ProxyConfig(**{**BASE, "access": (access,)}), link.rng)
        self.told = {}  # (context, termination) -> the last stream that the gateway was told of there
        self.plane = Memory()
        self.gateway = Gateway(AGW, self.plane, link.rng)
        self._clear_at = 0.0
        self.gateway.greeted("pcscf", (), link.now)
        self.core.gateway_up(Hello(VERSION, "agw", "1", REALMS), link.now)
        link.attach(self, ACCESS, CORE)
        for name in ("receive", "transport_failed", "expire", "timeout"):
            setattr(self, name, getattr(self.core, name))

    def to_send(self):
        for request in self.core.iq_to_send():
            when = max(self._clear_at, self.link.now + self.link.rng.choice((0.0, 0.01, 0.2)))
            self._clear_at = when
            self.link.call_at(when, lambda request=request: self._execute(request))
        while self.core.next_note() is not None:
            pass
        return self.core.to_send()

    def _execute(self, request):
        reply = self.gateway.execute("pcscf", request, self.link.now)
        assert type(reply).__name__ == "Reply", reply
        for command in request.commands:
            for stream in getattr(command, "streams", ()):
                self.told[request.context, command.termination] = stream
        self.core.gateway_message(reply, self.link.now)


class Walk:
    def __init__(self, seed, dtls):
        self.rng = random.Random(seed)
        loss = self.rng.choice((0.0, 0.0, 0.1, 0.2))
        self.link = Link(random.Random(seed), loss=loss, duplicate=loss / 2, delay=(0.001, 0.02))
        self.proxy = Proxy(self.link)
        self.ue = Phone(self.link, self.rng, PHONE, ACCESS, secured=True, dtls=dtls)
        self.far = Phone(self.link, self.rng, NETWORK, CORE, secured=False)
        self.phones = self.ue, self.far

    def run(self):
        self.ue.register()
        self.link.run(self.link.now + 40)
        assert self.ue.registered
        for _ in range(2):
            if self.rng.random() < 0.5:
                self.ue.call("sip:bob@home.example")
            else:
                self.far.call(self.ue.contact, self.far.path)
            for _ in range(self.rng.randrange(25)):
                self.link.run(self.link.now + self.rng.choice((0.01, 0.05, 0.5, 3.0)))
                self.act()
        self.link.run(self.link.now + 300)
        self.compare()
        for phone in self.phones:
            for end in phone.ends.values():
                if end.confirmed:
                    end.bye()
        self.link.run(self.link.now + 600)
        self.nothing_left()

    def act(self):
        phone = self.rng.choice(self.phones)
        if phone.attempts and self.rng.random() < 0.05:
            self.rng.choice(phone.attempts).cancel()
        if phone.ends:
            end = self.rng.choice(list(phone.ends.values()))
            does = (*[end.update, end.reinvite] * 8, *[end.info] * 3, end.bye)
            self.rng.choice(does)()

    def compare(self):
        """Each dialog that stands: what both ends hold, and what the gateway does."""
        ends = {}
        for end in self.ue.ends.values():
            if end.confirmed and not end.over:
                (other,) = [each for each in self.far.of(end.call_id) if self.joined(end, each)]
                assert other.confirmed
                assert not other.over
                ends.setdefault(end.call_id, []).append((end, other))
        standing = {call.invite.request.call_id: token for token, call in self.proxy.core.calls.items()}
        assert set(standing) == set(ends)
        for call_id, pairs in ends.items():
            for near, far in pairs:
                assert near.pending is far.pending is None
                for one, two in ((near, far), (far, near)):
                    assert one.agreed[0].mark == two.agreed[1].mark
            if len(pairs) == 1:
                self.compare_gateway(standing[call_id], *pairs[0])

    @staticmethod
    def joined(end, other):
        tags = [text.rsplit("tag=")[1] for text in (end.here, end.there, other.there, other.here)]
        return tags[:2] == tags[2:]

    def compare_gateway(self, token, near, far):
        legs = [leg for id, leg in self.proxy.plane.legs.items() if id.context == token]
        access, core = sorted(legs, key=lambda leg: leg.id.termination)
        assert access.peer == core.id
        assert core.peer == access.id
        for leg, end in ((access, near), (core, far)):
            mine, theirs = end.agreed
            assert leg.local_rtp.port == theirs.port
            if mine.host != "0.0.0.0":
                assert leg.remote.port == mine.port
        mine, theirs = near.agreed
        if near.phone.dtls:
            self.compare_dtls(self.proxy.told[token, access.id.termination].dtls, mine, theirs)
        else:
            assert [key.material for key in access.remote_keys] == [mine.key]
            assert access.local_key.material == theirs.key
        there = mine.sends and far.agreed[0].receives
        back = far.agreed[0].sends and mine.receives
        assert access.mode is MODES[there, back]
        assert core.mode is MODES[back, there]

    @staticmethod
    def compare_dtls(told, mine, theirs):
        assert told.fingerprints == (Fingerprint("sha-256", mine.key),)
        ue_begins = mine.setup == "active" if theirs.setup == "actpass" else theirs.setup == "passive"
        assert told.role is (DtlsRole.SERVER if ue_begins else DtlsRole.CLIENT)

    def nothing_left(self):
        core = self.proxy.core
        status = core.status(self.link.now)
        assert not status["calls"]
        assert not status["transactions"]
        assert not status["asked"]
        assert not self.proxy.plane.legs


MODES = {
    (True, True): Mode.SENDRECV,
    (True, False): Mode.RECVONLY,
    (False, True): Mode.SENDONLY,
    (False, False): Mode.INACTIVE,
}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_both_ends_and_the_gateway_agree_whatever_crosses_p26_p27_p28_p29_p35_p37(seed):
    Walk(seed, dtls=False).run()


@pytest.mark.parametrize("seed", range(SEEDS, SEEDS + SEEDS // 2))
def test_the_same_where_dtls_protects_p01_p02_p03_p26_p27_p29_p35(seed):
    Walk(seed, dtls=True).run()
