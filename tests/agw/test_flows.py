"""From a context to its legs, and from one set of legs to another."""

import pytest
from msgspec.structs import replace

from agw.certificate import Certificate
from agw.context import Context, Termination
from agw.flows import Difference, Keys, Learnt, LegId, SlowPath, difference, legs
from agw.iq.messages import Address, Dtls, Ice, Key, Mode, Stream, Suite, Transport

CERTIFICATE = Certificate()


def termination(name, *streams, host="192.0.2.1", base=31000):
    ids = {stream.id: stream for stream in streams}
    return Termination(name, "access", host, ":" in host, ids, {id: base + 2 * id for id in ids}, CERTIFICATE)


def context(*terminations):
    return Context("c", "pcscf", {each.name: each for each in terminations})


def legs_of(context, learnt=None):
    return legs(context, learnt or {})


def rtp(id=1, **fields):
    return Stream(id, Transport.RTP, **fields)


def test_a_leg_has_its_ports_and_names_its_peer():
    a, b = legs_of(context(termination("a", rtp()), termination("b", rtp(), base=32000)))
    assert (a.id, b.id) == (LegId("c", "a", 1), LegId("c", "b", 1))
    assert (a.peer, b.peer) == (b.id, a.id)
    assert (a.local_rtp, a.local_rtcp) == (Address("192.0.2.1", 31002), Address("192.0.2.1", 31003))


def test_streams_that_only_one_side_has_and_late_branches_are_without_peer_p26():
    stream = rtp(mode=Mode.SENDRECV)
    found = legs_of(
        context(
            termination("a", stream, rtp(2), base=31000),
            termination("b", rtp(), base=31100),
            termination("c", stream, base=31200),
        )
    )
    peers = {(leg.id.termination, leg.id.stream): leg.peer for leg in found}
    assert peers == {
        ("a", 1): LegId("c", "c", 1),
        ("c", 1): LegId("c", "a", 1),
        ("b", 1): None,
        ("a", 2): None,
    }


REMOTE = Address("192.0.2.9", 5000)


@pytest.mark.parametrize(
    ("stream", "rtcp"),
    [
        (rtp(), None),
        (rtp(remote=REMOTE), Address("192.0.2.9", 5001)),
        (rtp(remote=REMOTE, remote_rtcp=Address("192.0.2.8", 7)), Address("192.0.2.8", 7)),
        (rtp(remote=REMOTE, rtcp_mux=True), REMOTE),
        (rtp(remote=REMOTE, rtcp_mux=True, remote_rtcp=Address("192.0.2.8", 7)), REMOTE),
        (rtp(remote=Address("192.0.2.9", 65535)), None),
    ],
)
def test_where_rtcp_goes_p34(stream, rtcp):
    (leg,) = legs_of(context(termination("a", stream)))
    assert leg.remote_rtcp == rtcp


def test_hosts_are_as_sockets_print_them():
    (leg,) = legs_of(
        context(termination("a", rtp(remote=Address("2001:DB8:0:0::1", 5000)), host="2001:db8::2"))
    )
    assert leg.remote == Address("2001:db8::1", 5000)
    assert leg.remote_rtcp == Address("2001:db8::1", 5001)


def test_the_difference_leads_from_one_set_to_the_other_and_touches_nothing_else():
    one, two = legs_of(context(termination("a", rtp(1), rtp(2))))
    three = replace(two, id=LegId("c", "a", 3))
    changed = replace(two, latch=True)
    standing = {leg.id: leg for leg in (one, two)}
    assert difference({}, [one, two]) == Difference(wanted=(one, two))
    assert difference(standing, []) == Difference(removed=(one.id, two.id))
    assert difference(standing, [one, changed, three]) == Difference(wanted=(changed, three))
    assert difference(standing, [three]) == Difference(removed=(one.id, two.id), wanted=(three,))
    assert not difference(standing, [one, two])


THERE, THERE_TOO = Address("198.51.100.7", 7000), Address("198.51.100.7", 7005)
KEYS, RTCP_KEYS = (
    Keys(Key(Suite.AEAD_AES_128_GCM, bytes([n] * 28)), (Key(Suite.AEAD_AES_128_GCM, bytes([n + 1] * 28)),))
    for n in (1, 3)
)
ICE = Ice("abcd", "0123456789012345678901")


def secured(**fields):
    return Stream(1, Transport.DTLS_SRTP, REMOTE, dtls=Dtls("1"), **fields)


def leg_of(stream, learnt):
    (leg,) = legs_of(context(termination("a", stream)), {LegId("c", "a", 1): learnt})
    return leg


def test_dtls_srtp_is_srtp_whose_keys_are_learnt_and_not_there_before():
    leg = leg_of(secured(), Learnt())
    assert (leg.transport, leg.local_key, leg.remote_keys) == (Transport.SRTP, None, ())
    assert leg.slow_path is SlowPath.CONTROL
    leg = leg_of(secured(), Learnt(keys=(KEYS, RTCP_KEYS)))
    assert (leg.local_key, leg.remote_keys, leg.rtcp_keys) == (*KEYS, RTCP_KEYS)
    leg = leg_of(secured(rtcp_mux=True), Learnt(keys=(KEYS, Keys())))
    assert (leg.local_key, leg.remote_keys, leg.rtcp_keys) == (*KEYS, None)


def test_where_the_peer_was_found_is_before_where_it_was_signalled():
    leg = leg_of(secured(), Learnt((THERE, None)))
    assert (leg.remote, leg.remote_rtcp) == (THERE, Address(REMOTE.host, 5001))
    assert leg_of(secured(), Learnt((None, THERE_TOO))).remote_rtcp == THERE_TOO
    assert leg_of(secured(rtcp_mux=True), Learnt((THERE, THERE_TOO))).remote_rtcp == THERE
    assert leg_of(secured(), Learnt()).remote == REMOTE


def test_checks_come_from_anywhere_so_there_is_no_source_filter_with_ice():
    leg = leg_of(rtp(ice=ICE, source_filter=True), Learnt())
    assert (leg.slow_path, leg.source_filter) == (SlowPath.CONTROL, False)


def test_what_dtls_carries_goes_through_the_gateway_on_both_sides():
    fax = Stream(1, Transport.DTLS, REMOTE, dtls=Dtls("1"))
    a, b = legs_of(context(termination("a", fax), termination("b", Stream(1, Transport.UDP))))
    assert (a.transport, b.transport) == (Transport.DTLS, Transport.UDP)
    assert a.slow_path is b.slow_path is SlowPath.ALL
    a, b = legs_of(context(termination("a", rtp()), termination("b", rtp())))
    assert a.slow_path is b.slow_path is SlowPath.NONE


def test_what_a_peer_told_counts_while_it_is_one_that_speaks():
    told = {LegId("c", "a", 1): Learnt((Address("192.0.2.7", 7), None))}
    ice = Ice("ours", "our+password+of+22+characters")
    (checked,) = legs_of(context(termination("a", rtp(remote=REMOTE, rtcp_mux=True, ice=ice))), told)
    (plain,) = legs_of(context(termination("a", rtp(remote=REMOTE, rtcp_mux=True))), told)
    assert (checked.remote, plain.remote) == (Address("192.0.2.7", 7), REMOTE)
