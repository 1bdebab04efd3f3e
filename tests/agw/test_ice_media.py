"""ICE through the whole gateway, on both Planes: aiortc as a browser would, restarts, and consent."""

import asyncio

import aioice.ice
import aiortc
import pytest
from aioice import stun
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceParameters
from msgspec.structs import replace

import agw.ice
from agw.dtls import Established
from agw.iq.messages import Dtls, DtlsRole, Event, Fingerprint, Ice
from tests.agw.gateway_rig import PATIENCE
from tests.agw.secured_rig import RTCP, Call, Socket, config_of, rtp, scenario

ICE = Ice("ours", "our-password-of-22-characters".replace("-", "+"), "them")


@pytest.fixture(params=["python", "native"])
def config(request, tmp_path):
    return config_of(request.param, tmp_path)


class Checking(Socket):
    """The socket of a UE that makes checks, and keeps their answers apart."""

    def __init__(self):
        super().__init__()
        self.answers = asyncio.Queue()

    def datagram_received(self, data, source):
        if data[0] <= 3:
            self.answers.put_nowait(stun.parse_message(data))
        else:
            super().datagram_received(data, source)

    async def check(self, there, ice=ICE, nominate=True):
        attributes = {"USERNAME": f"{ice.ufrag}:{ice.remote_ufrag}", "PRIORITY": 1, "ICE-CONTROLLING": 7}
        if nominate:
            attributes["USE-CANDIDATE"] = None
        request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes=attributes)
        request.add_message_integrity(ice.pwd.encode())
        self.send(bytes(request), there)
        answer = await asyncio.wait_for(self.answers.get(), PATIENCE)
        assert answer.check_message_integrity(ice.pwd.encode())
        return answer.attributes.get("XOR-MAPPED-ADDRESS")


async def checking(call):
    call.ue = await Checking.open()
    return call


@scenario
async def test_nothing_but_checks_is_heard_from_an_address_that_made_none(call):
    await checking(call)
    await call.begin(call.stream(ice=ICE, remote=None))
    call.associate()
    await asyncio.sleep(0.2)
    assert call.ue.said == []
    mapped = await call.ue.check(call.a.rtp)
    assert mapped == (call.ue.address.host, call.ue.address.port)
    call.ue.expire()
    call.key_by(await call.ue.until(Established))
    await call.told(Event.DTLS_ESTABLISHED)
    await call.media_flow()


@scenario
async def test_media_follow_the_nomination_and_an_ice_restart_is_no_dtls_restart_p05(call):
    await checking(call)
    await call.begin(call.stream(ice=ICE, remote=None))
    await call.ue.check(call.a.rtp)
    await call.establish()
    await call.media_flow()
    new = Ice("anew", "another+password+of+22+or+more", "then")
    await call.configure(call.stream(ice=new, remote=None))
    await call.ue.check(call.a.rtp)  # the old ones are as good
    await call.media_flow(first=10)
    first, call.ue = call.ue, await Checking.open()
    await call.ue.check(call.a.rtp, new, nominate=False)
    call.core.send(rtp(500), call.b.rtp)
    assert call.unprotector.unprotect(await first.hear(), False) == rtp(500)
    await call.ue.check(call.a.rtp, new)
    await call.media_flow(first=20)
    assert call.ue.association is None  # no handshake was needed


@scenario
async def test_rtcp_has_its_own_checks_and_association_where_it_has_its_own_port(call):
    await checking(call)
    rtcp = await Checking.open()
    await call.begin(call.stream(ice=ICE, remote=None, rtcp_mux=False))
    for port, there in ((call.ue, call.a.rtp), (rtcp, call.a.rtcp)):
        await port.check(there)
        call.associate(port=port, there=there)
        call.key_by(await port.until(Established))
        await call.told(Event.DTLS_ESTABLISHED)
    call.core_rtcp.send(RTCP, call.b.rtcp)
    assert call.unprotector.unprotect(await rtcp.hear(), True) == RTCP


def test_the_loss_of_consent_is_told(config, monkeypatch):
    monkeypatch.setattr(agw.ice, "CONSENT", 0.6)

    async def play(call):
        await checking(call)
        await call.begin(call.stream(ice=ICE, remote=None))
        await call.ue.check(call.a.rtp)
        await call.establish()
        for _ in range(3):
            await asyncio.sleep(0.25)
            await call.ue.check(call.a.rtp, nominate=False)
        await call.media_flow()
        await call.told(Event.CONSENT_LOST, "no connectivity check for 0.6 s")
        await call.media_flow(first=10)

    scenario(play)(config)


# -- aiortc ------------------------------------------------------------------------------------------------


class Browser:
    """aiortc's ICE and DTLS transports. heard: what came, unprotected."""

    def __init__(self, role):
        self.certificate = aiortc.RTCCertificate.generateCertificate()
        self.gatherer = RTCIceGatherer(iceServers=[], local_username="them", local_password="p" * 24)
        self.ice = aiortc.RTCIceTransport(self.gatherer)
        self.ice._connection.ice_controlling = True
        self.dtls = aiortc.RTCDtlsTransport(self.ice, [self.certificate])
        self.dtls._set_role(role)
        self.heard = asyncio.Queue()

        async def hear(data, arrival_time_ms):
            self.heard.put_nowait(data)

        self.dtls._handle_rtp_data = hear

    @property
    def fingerprint(self):
        (found,) = [each for each in self.certificate.getFingerprints() if each.algorithm == "sha-256"]
        return Fingerprint("sha-256", bytes.fromhex(found.value.replace(":", "")))

    async def connect(self, local, ice):
        await self.gatherer.gather()
        candidate = aiortc.RTCIceCandidate(1, "1", local.rtp.host, local.rtp.port, 1, "udp", "host")
        await self.ice.addRemoteCandidate(candidate)
        await self.ice.addRemoteCandidate(None)
        await self.ice.start(RTCIceParameters(ice.ufrag, ice.pwd, iceLite=True))
        value = ":".join(f"{octet:02X}" for octet in local.fingerprint.digest)
        await self.dtls.start(RTCDtlsParameters([RTCDtlsFingerprint("sha-256", value)]))
        assert self.dtls.state == "connected"

    async def close(self):
        await self.dtls.stop()
        await self.ice.stop()


@pytest.mark.parametrize("role", ["client", "server"])
def test_aiortc_connects_and_media_flow(config, monkeypatch, role):
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])

    async def play(call: Call):
        browser = Browser(role)
        ours = DtlsRole.SERVER if role == "client" else DtlsRole.CLIENT
        stream = call.stream(role=ours, ice=ICE, remote=None)
        await call.begin(replace(stream, dtls=Dtls("1", ours, (browser.fingerprint,))))
        await asyncio.wait_for(browser.connect(call.a, ICE), PATIENCE)
        await call.told(Event.DTLS_ESTABLISHED, "DTLSv1.2 ECDHE-ECDSA")
        for n in range(5):
            await browser.dtls._send_rtp(rtp(n))
            assert await call.core.hear() == rtp(n)
            call.core.send(rtp(n + 100), call.b.rtp)
            assert await asyncio.wait_for(browser.heard.get(), PATIENCE) == rtp(n + 100)
        await browser.close()

    scenario(play)(config)
