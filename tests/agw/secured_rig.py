"""A call through the whole gateway: a UE with DTLS, in the test's process, and a plain peer."""

import asyncio

from agw.certificate import Certificate
from agw.config import GatewayConfig, Iq, Realm
from agw.dtls import Association, Established
from agw.iq.messages import (
    AuditValue,
    ConfigureConnectionPoint,
    Dtls,
    DtlsRole,
    Event,
    Fingerprint,
    Key,
    Mode,
    ReleaseTermination,
    Reply,
    ReserveAndConfigureConnectionPoint,
    ReserveConnectionPoint,
    Stream,
    Suite,
    Transport,
)
from agw.srtp import Protector, Unprotector
from tests.agw.gateway_rig import PATIENCE, controlling, serving, udp

CLIENT, SERVER = DtlsRole.CLIENT, DtlsRole.SERVER
SUITES = {
    "SRTP_AEAD_AES_256_GCM": Suite.AEAD_AES_256_GCM,
    "SRTP_AEAD_AES_128_GCM": Suite.AEAD_AES_128_GCM,
    "SRTP_AES128_CM_SHA1_80": Suite.AES_CM_128_HMAC_SHA1_80,
}


def config_of(plane, path):
    return GatewayConfig(
        plane=plane,
        iq=Iq(listen=f"unix:{path}/iq.sock"),
        realms=(
            Realm(name="access", addresses=("127.0.0.1",), ports=(31100, 31199), rest=0.0),
            Realm(name="core", addresses=("127.0.0.1",), ports=(32100, 32199), rest=0.0),
        ),
    )


def rtp(sequence, payload=b"\xab" * 160):
    return bytes([0x80, 0]) + sequence.to_bytes(2, "big") + bytes([0, 0, 0, 160, 1, 2, 3, 4]) + payload


RTCP = bytes([0x80, 201, 0, 1, 1, 2, 3, 4])


class Socket(asyncio.DatagramProtocol):
    """One UDP port of a peer. heard: what comes and is no DTLS for `association`, in order."""

    @classmethod
    async def open(cls):
        sock, address = udp()
        _, self = await asyncio.get_running_loop().create_datagram_endpoint(cls, sock=sock)
        self.address = address
        return self

    def __init__(self):
        self.heard = asyncio.Queue()
        self.association = None
        self.there = None
        self.said = []
        self.timer = None

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, source):
        if self.association is not None and 20 <= data[0] <= 63:
            self.association.receive(data, None, asyncio.get_running_loop().time())
            self.flush()
        else:
            self.heard.put_nowait(data)

    def send(self, data, there):
        self.transport.sendto(data, (there.host, there.port))

    def associate(self, association, there, start):
        self.association, self.there, self.said = association, there, []
        if start:
            association.start(asyncio.get_running_loop().time())
        self.flush()

    def flush(self):
        loop = asyncio.get_running_loop()
        for datagram in self.association.to_send():
            self.send(datagram, self.there)
        self.said += iter(self.association.next_event, None)
        if self.timer:
            self.timer.cancel()
        if (at := self.association.timeout()) is not None:
            self.timer = loop.call_at(at, self.expire)

    def expire(self):
        self.association.expire(asyncio.get_running_loop().time())
        self.flush()

    async def hear(self):
        return await asyncio.wait_for(self.heard.get(), PATIENCE)

    async def until(self, kind):
        async with asyncio.timeout(PATIENCE):
            while not any(isinstance(said, kind) for said in self.said):
                await asyncio.sleep(0.005)
        return next(said for said in self.said if isinstance(said, kind))


def print_of(certificate):
    return Fingerprint("sha-256", certificate.sha256)


class Call:
    """A context of a protected termination `a` and a plain one `b`, and their peers."""

    def __init__(self, ask, ue, core, core_rtcp):
        self.ask, self.ue, self.core, self.core_rtcp = ask, ue, core, core_rtcp
        self.certificate = Certificate()
        self.protector = self.unprotector = None

    def stream(self, name="1", role=SERVER, certificate=None, **fields):
        prints = (print_of(certificate or self.certificate),) if role else ()
        fields = {
            "transport": Transport.DTLS_SRTP,
            "mode": Mode.SENDRECV if role else Mode.INACTIVE,
            **fields,
        }
        fields = {"remote": self.ue.address, "rtcp_mux": True, **fields}
        return Stream(1, dtls=Dtls(name, role, prints), **fields)

    async def begin(self, stream, plain=Transport.RTP):
        core = Stream(1, plain, self.core.address, self.core_rtcp.address, mode=Mode.SENDRECV)
        reply = await self.ask(
            "c",
            ReserveConnectionPoint("a", "access", (stream,)),
            ReserveAndConfigureConnectionPoint("b", "core", (core,)),
        )
        (self.a,), (self.b,) = (result.streams for result in reply.results)

    async def configure(self, stream):
        answer = await self.ask("c", ConfigureConnectionPoint("a", (stream,)))
        assert isinstance(answer, Reply), answer
        assert answer.results[0].streams == (self.a,)

    def associate(self, client=True, certificate=None, port=None, there=None, srtp=True):
        """Of the UE."""
        prints = [(self.a.fingerprint.hash, self.a.fingerprint.digest)]
        association = Association(certificate or self.certificate, client, prints, srtp, bytes(32))
        (port or self.ue).associate(association, there or self.a.rtp, client)
        return association

    async def told(self, event, detail=""):
        """The next notice but those that media have come."""
        while (notice := await self.ask.notice()).event is Event.MEDIA_FIRST:
            pass
        assert notice.event is event, notice
        assert detail in notice.detail
        assert (notice.context, notice.termination, notice.stream) == ("c", "a", 1)
        return notice

    def key_by(self, event):
        suite = SUITES[event.profile]
        self.protector = Protector(Key(suite, event.local))
        self.unprotector = Unprotector([Key(suite, event.remote)])

    async def establish(self, **fields):
        self.associate(**fields)
        self.key_by(await self.ue.until(Established))
        await self.told(
            Event.DTLS_ESTABLISHED, "DTLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384 SRTP_AEAD_AES_256_GCM"
        )

    async def media_flow(self, first=1):
        for n in range(first, first + 3):
            self.ue.send(self.protector.protect(rtp(n), False), self.a.rtp)
            assert await self.core.hear() == rtp(n)
            self.core.send(rtp(n + 100), self.b.rtp)
            assert self.unprotector.unprotect(await self.ue.hear(), False) == rtp(n + 100)
        self.ue.send(self.protector.protect(RTCP, True), self.a.rtp)
        assert await self.core_rtcp.hear() == RTCP
        self.core_rtcp.send(RTCP, self.b.rtcp)
        assert self.unprotector.unprotect(await self.ue.hear(), True) == RTCP

    async def dropped(self, name):
        """What was dropped on a termination: its counts, on release."""
        released = (await self.ask("c", ReleaseTermination())).results[0]
        return released.terminations[name][0].dropped


def scenario(play):
    """Make a test of a coroutine function of a Call; the fixture `config` says with which Plane."""

    def test(config):
        async def run():
            async with serving(config), controlling(config) as ask:
                call = Call(ask, *[await Socket.open() for _ in range(3)])
                await asyncio.wait_for(play(call), 3 * PATIENCE)
                audited = (await ask("", AuditValue())).results[0]
                if audited.contexts:
                    await ask("c", ReleaseTermination())

        asyncio.run(run())

    test.__name__ = play.__name__
    return test
