"""The far end of a leg, with a jumping clock: whom it believes, what it keeps, and what it tells."""

from unittest.mock import Mock

import pytest
from aioice import stun
from msgspec.structs import replace

from agw.certificate import Certificate
from agw.dtls import HANDSHAKE_LIMIT, Association, Established, State
from agw.flows import Keys
from agw.ice import CONSENT
from agw.iq.messages import Address, Dtls, DtlsRole, Event, Fingerprint, Ice, Stream, Transport
from agw.peer import MAX_KEPT, MAX_STRANGERS, Data, Packet, Peer, Told

OURS, THEIRS = Certificate(), Certificate()
PRINT = Fingerprint("sha-256", THEIRS.sha256)
UE, RTCP, OTHER = Address("192.0.2.1", 4000), Address("192.0.2.1", 4001), Address("198.51.100.1", 5000)
ICE = Ice("ours", "our+password+of+22+characters", "them")


def stream(name="1", role=DtlsRole.SERVER, **fields):
    fields = {"remote": UE, "rtcp_mux": True, **fields}
    return Stream(1, Transport.DTLS_SRTP, dtls=Dtls(name, role, (PRINT,) if role else ()), **fields)


def peer_of(signalled, now=0.0):
    peer = Peer(OURS, bytes(32))
    peer.signal(signalled, now)
    return peer


def said(peer):
    return list(iter(peer.next, None))


def told(peer):
    return [each for each in said(peer) if isinstance(each, Told)]


class Ue:
    """An association at an address."""

    def __init__(self, address=UE, certificate=THEIRS, client=True, channel=0, srtp=True):
        prints = [("sha-256", OURS.sha256)]
        self.association = Association(certificate, client, prints, srtp, bytes(32))
        self.address, self.channel = address, channel
        if client:
            self.association.start(0.0)

    def talk(self, peer, now=0.0):
        """Until neither says anything; what the peer told."""
        kept = []
        for _ in range(20):
            for datagram in self.association.to_send():
                peer.receive(self.channel, self.address, datagram, now)
            packets = said(peer)
            if not packets:
                return kept
            for each in packets:
                if isinstance(each, Packet):
                    assert (each.channel, each.target) == (self.channel, self.address)
                    self.association.receive(each.data, None, now)
                else:
                    kept.append(each)
        raise AssertionError("they never end")

    @property
    def event(self):
        return self.association.next_event()


def check(ice=ICE, nominate=True):
    attributes = {"USERNAME": f"{ice.ufrag}:{ice.remote_ufrag}", "PRIORITY": 1, "ICE-CONTROLLING": 7}
    if nominate:
        attributes["USE-CANDIDATE"] = None
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes=attributes)
    request.add_message_integrity(ice.pwd.encode())
    return bytes(request)


def test_keys_and_the_address_are_learnt_from_a_handshake():
    peer, ue = peer_of(stream()), Ue(OTHER)
    (established,) = ue.talk(peer)
    assert established.event is Event.DTLS_ESTABLISHED
    event = ue.event
    assert isinstance(event, Established)
    rtp, rtcp = peer.learnt.keys
    assert (rtp.local.material, rtp.remote[0].material) == (event.remote, event.local)
    assert rtcp == Keys()
    assert peer.learnt.remotes == (OTHER, None)
    peer.signal(stream(), 1.0)
    assert peer.learnt.remotes == (OTHER, None)
    peer.signal(stream(remote=RTCP), 1.0)  # it has moved, says signalling
    assert peer.learnt.remotes == (None, None)
    assert peer.learnt.keys[0] == rtp


def test_a_flood_while_the_role_is_unknown_is_kept_within_bounds_p06():
    peer = peer_of(stream(role=None))
    (hello,) = Ue().association.to_send()
    for port in range(1024, 3000):
        peer.receive(0, Address("203.0.113.9", port), hello, 0.0)
    assert said(peer) == []
    peer.signal(stream(), 1.0)
    assert len(said(peer)) == MAX_KEPT  # a HelloVerifyRequest each
    assert peer.timeout() is None
    assert len(Ue().talk(peer)) == 1


def test_a_hello_before_the_answer_is_heard_when_the_answer_has_no_ice_p06():
    peer, ue = peer_of(stream(role=None, ice=ICE)), Ue()
    assert ue.talk(peer) == []
    peer.signal(stream(), 1.0)
    (established,) = ue.talk(peer)  # which repeats nothing: no time has passed for it
    assert established.event is Event.DTLS_ESTABLISHED


def test_a_hello_before_the_answer_is_not_heard_without_a_check_where_the_answer_has_ice_p06():
    peer, ue = peer_of(stream(role=None, ice=ICE)), Ue()
    assert ue.talk(peer) == []
    peer.signal(stream(ice=ICE), 1.0)
    assert said(peer) == []


def test_what_was_kept_for_one_association_is_not_heard_by_another_that_stands_p06_p07():
    peer = peer_of(stream())
    Ue().talk(peer)
    keys = peer.learnt.keys
    peer.signal(stream("2", None), 1.0)
    peer.receive(0, UE, Ue().association.to_send()[0], 1.0)
    peer.signal(stream("1"), 2.0)  # the offer was refused
    assert said(peer) == []
    assert peer.learnt.keys == keys


@pytest.mark.parametrize("first", [b"\x16", b"\x17", b"\x00", b"\x80", b""])
def test_a_packet_of_an_unknown_kind_is_nothing(first):
    for signalled in (stream(), stream(role=None), stream(ice=ICE), Stream(1, Transport.RTP, ice=ICE)):
        peer = peer_of(signalled)
        peer.receive(0, UE, first, 0.0)
        peer.receive(1, UE, first + bytes(30), 0.0)
        assert said(peer) == []


def test_without_ice_a_stranger_with_a_wrong_certificate_is_nobodys_failure_p09():
    peer = peer_of(stream())
    for _ in range(3):
        assert Ue(OTHER, Certificate()).talk(peer) == []
    (established,) = Ue().talk(peer)
    assert established.event is Event.DTLS_ESTABLISHED


def test_strangers_do_not_keep_us_busy_with_handshakes_for_ever():
    peer = peer_of(stream())
    for _ in range(MAX_STRANGERS):
        stranger = Ue(OTHER, Certificate())
        stranger.talk(peer)
        assert stranger.association.state is State.ENDED  # by our alert
    stranger = Ue(OTHER, Certificate())
    stranger.talk(peer)
    assert stranger.association.state is State.HANDSHAKE  # not even a cookie
    assert Ue().talk(peer)[0].event is Event.DTLS_ESTABLISHED


def test_without_ice_the_signalled_host_is_believed_and_told_when_it_is_wrong_p09():
    peer = peer_of(stream())
    (failed,) = Ue(RTCP, Certificate()).talk(peer)
    assert failed.event is Event.DTLS_FAILED
    assert Ue().talk(peer) == []  # that association has failed; another needs another name
    peer.signal(stream(), 1.0)
    assert Ue().talk(peer) == []
    peer.signal(stream("2"), 1.0)
    assert Ue().talk(peer)[0].event is Event.DTLS_ESTABLISHED


def test_where_no_host_is_signalled_any_is_believed_p09():
    peer = peer_of(stream(remote=None))
    (failed,) = Ue(OTHER, Certificate()).talk(peer)
    assert failed.event is Event.DTLS_FAILED
    peer = peer_of(stream(remote=None, latch_from=UE.host))
    assert Ue(OTHER, Certificate()).talk(peer) == []


def test_a_handshake_that_is_not_finished_is_told_after_its_limit():
    peer = peer_of(stream(role=DtlsRole.CLIENT))
    assert any(isinstance(each, Packet) and each.target == UE for each in said(peer))
    while peer.timeout() < HANDSHAKE_LIMIT:
        peer.expire(peer.timeout())
        assert not told(peer)
    peer.expire(HANDSHAKE_LIMIT)
    assert told(peer) == [Told(Event.DTLS_FAILED, "RTP: no handshake within 30 s")]
    assert peer.timeout() is None


def test_a_peer_that_does_nothing_on_its_rtcp_port_has_not_failed_but_an_impostor_has_p09():
    signalled = stream(role=DtlsRole.CLIENT, rtcp_mux=False)
    peer = peer_of(signalled)
    assert {each.target for each in said(peer)} == {UE, RTCP}
    peer.expire(HANDSHAKE_LIMIT)
    assert told(peer) == [Told(Event.DTLS_FAILED, "RTP: no handshake within 30 s")]
    peer = peer_of(replace(signalled, dtls=Dtls("1", DtlsRole.SERVER, (PRINT,))))
    (failed,) = Ue(RTCP, Certificate(), channel=1).talk(peer)
    assert failed.detail.startswith("RTCP: the certificate is not")


@pytest.mark.parametrize("channel", [0, 1])
def test_what_fails_beside_one_that_stands_is_told_apart_on_each_port_p02_p09(channel):
    """Others stand for nothing: neither that of the other port, nor one that was before another stream."""
    peer, where = peer_of(stream(rtcp_mux=False)), (UE, RTCP)[channel]
    (established,) = Ue((UE, RTCP)[not channel], channel=1 - channel).talk(peer)
    assert established.event is Event.DTLS_ESTABLISHED
    (failed,) = Ue(where, Certificate(), channel=channel).talk(peer)
    assert failed.event is Event.DTLS_FAILED
    peer = peer_of(stream(rtcp_mux=False))
    Ue(where, channel=channel).talk(peer)
    peer.signal(stream("2", rtcp_mux=False), 1.0)
    (failed,) = Ue(where, Certificate(), channel=channel).talk(peer)
    assert failed.event is Event.DTLS_KEPT
    peer.signal(replace(stream(), transport=Transport.RTP, dtls=None), 2.0)
    peer.signal(stream("3", rtcp_mux=False), 3.0)
    (failed,) = Ue(where, Certificate(), channel=channel).talk(peer)
    assert failed.event is Event.DTLS_FAILED


def test_with_mux_the_port_of_rtcp_has_no_association():
    peer = peer_of(stream())
    assert Ue(RTCP, channel=1).talk(peer) == []


def test_a_handshake_follows_its_peer_to_the_address_that_is_signalled_anew_p05():
    peer = peer_of(stream(role=DtlsRole.CLIENT))
    assert {each.target for each in said(peer)} == {UE}
    peer.signal(stream(role=DtlsRole.CLIENT, remote=OTHER), 1.0)
    peer.expire(peer.timeout())
    assert {each.target for each in said(peer)} == {OTHER}


def finished(number):
    """A record that may be a Finished, as far as can be seen."""
    return b"\x16\xfe\xfd\0\1" + number.to_bytes(6, "big") + (48).to_bytes(2, "big") + bytes(48)


def test_who_is_elsewhere_does_not_use_up_what_is_heard_of_a_peer_that_missed_our_last_flight():
    peer = peer_of(stream())
    Ue(OTHER).talk(peer)  # not where it was signalled: known by its handshake
    association = peer._ports[0]._standing.association
    association._connection = listening = Mock(wraps=association._connection)
    for number in range(100):
        peer.receive(0, UE, finished(number), 0.0)
    listening.bio_write.assert_not_called()
    peer.receive(0, OTHER, finished(100), 0.0)
    listening.bio_write.assert_called_once_with(finished(100))


def test_data_go_to_the_address_that_is_signalled_anew_for_the_same_association():
    fax = Stream(1, Transport.DTLS, UE, rtcp_mux=True, dtls=Dtls("1", DtlsRole.SERVER, (PRINT,)))
    peer, ue = peer_of(fax), Ue(srtp=False)
    ue.talk(peer)
    peer.signal(replace(fax, remote=OTHER), 1.0)
    peer.send(b"t38")
    assert [packet.target for packet in said(peer)] == [OTHER]


def test_a_late_record_does_not_move_the_address_back_p15():
    fax = Stream(1, Transport.DTLS, UE, rtcp_mux=True, latch=True, dtls=Dtls("1", DtlsRole.SERVER, (PRINT,)))
    peer, ue = peer_of(fax), Ue(srtp=False)
    ue.talk(peer)
    for data in (b"late", b"new", b"newer"):
        ue.association.send(data)
    late, new, newer = ue.association.to_send()
    for source, record, there in ((OTHER, new, OTHER), (UE, late, OTHER), (UE, newer, UE)):
        peer.receive(0, source, record, 0.0)
        assert peer.learnt.remotes[0] == there
    assert said(peer) == [Data(b"new"), Data(b"late"), Data(b"newer")]


def test_who_puts_a_record_of_its_own_before_an_authentic_one_does_not_stay_the_newest_p15():
    fax = Stream(1, Transport.DTLS, UE, rtcp_mux=True, latch=True, dtls=Dtls("1", DtlsRole.SERVER, (PRINT,)))
    peer, ue = peer_of(fax), Ue(srtp=False)
    ue.talk(peer)
    for data in (b"caught", b"next"):
        ue.association.send(data)
    caught, following = ue.association.to_send()
    forged = b"\x17\xfe\xfd\0\1" + bytes([255] * 6) + (40).to_bytes(2, "big") + bytes(40)
    for source, datagram, there in ((OTHER, forged + caught, OTHER), (UE, following, UE)):
        peer.receive(0, source, datagram, 0.0)
        assert peer.learnt.remotes[0] == there
    assert said(peer) == [Data(b"caught"), Data(b"next")]


def test_a_stream_that_is_no_longer_protected_forgets_its_keys():
    peer = peer_of(stream())
    Ue().talk(peer)
    peer.signal(Stream(1, Transport.RTP, UE, ice=ICE), 1.0)
    assert peer.learnt.keys == (Keys(), Keys())
    assert Ue().talk(peer) == []


def test_ice_tells_where_a_client_begins_and_where_all_goes():
    peer = peer_of(stream(role=DtlsRole.CLIENT, ice=ICE))
    assert said(peer) == []
    peer.receive(0, OTHER, check(nominate=False), 0.0)
    (answer,) = said(peer)
    assert answer.target == OTHER
    peer.receive(0, OTHER, check(), 0.0)
    answer, hello = said(peer)
    assert (hello.target, hello.data[0]) == (OTHER, 22)
    assert peer.learnt.remotes == (OTHER, None)
    peer.receive(0, UE, check(), 0.0)  # it has moved: so does what is repeated
    said(peer)
    peer.expire(peer.timeout())
    assert {each.target for each in said(peer)} == {UE}


def test_with_ice_only_who_has_made_a_check_is_heard():
    peer, ue = peer_of(stream(ice=ICE)), Ue()
    assert ue.talk(peer) == []
    assert peer.learnt.keys == (Keys(), Keys())
    peer.receive(0, UE, check(), 0.0)
    said(peer)
    assert Ue().talk(peer)[0].event is Event.DTLS_ESTABLISHED


def test_the_loss_of_consent_is_told_once_and_for_media_only():
    peer = peer_of(stream(ice=ICE, rtcp_mux=False))
    for channel, source in ((0, UE), (1, RTCP)):
        peer.receive(channel, source, check(), 10.0)
    said(peer)
    assert peer.timeout() == 10.0 + CONSENT
    peer.expire(10.0 + CONSENT)
    assert told(peer) == [Told(Event.CONSENT_LOST, "no connectivity check for 30 s")]
    assert peer.timeout() is None
    peer.receive(0, UE, check(), 50.0)
    assert peer.timeout() == 50.0 + CONSENT
