"""From a context to its legs, and from one set of legs to another."""

from dataclasses import replace

import pytest

from agw.context import Context, Termination
from agw.dtls import Certificate
from agw.flows import Difference, LegId, difference, legs
from agw.iq.messages import Address, Mode, Stream, Transport

CERTIFICATE = Certificate()


def termination(name, *streams, host="192.0.2.1", base=31000):
    ids = {stream.id: stream for stream in streams}
    return Termination(name, "access", host, ":" in host, ids, {id: base + 2 * id for id in ids}, CERTIFICATE)


def context(*terminations):
    return Context("c", "pcscf", {each.name: each for each in terminations})


def rtp(id=1, **fields):
    return Stream(id, Transport.RTP, **fields)


def test_a_leg_has_its_ports_and_names_its_peer():
    a, b = legs(context(termination("a", rtp()), termination("b", rtp(), base=32000)))
    assert (a.id, b.id) == (LegId("c", "a", 1), LegId("c", "b", 1))
    assert (a.peer, b.peer) == (b.id, a.id)
    assert (a.local_rtp, a.local_rtcp) == (Address("192.0.2.1", 31002), Address("192.0.2.1", 31003))


def test_streams_that_only_one_side_has_and_late_branches_are_without_peer_p26():
    stream = rtp(mode=Mode.SENDRECV)
    found = legs(
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
    (leg,) = legs(context(termination("a", stream)))
    assert leg.remote_rtcp == rtcp


def test_hosts_are_as_sockets_print_them():
    (leg,) = legs(context(termination("a", rtp(remote=Address("2001:DB8:0:0::1", 5000)), host="2001:db8::2")))
    assert leg.remote == Address("2001:db8::1", 5000)
    assert leg.remote_rtcp == Address("2001:db8::1", 5001)


def test_the_difference_leads_from_one_set_to_the_other_and_touches_nothing_else():
    one, two = legs(context(termination("a", rtp(1), rtp(2))))
    three = replace(two, id=LegId("c", "a", 3))
    changed = replace(two, latch=True)
    standing = {leg.id: leg for leg in (one, two)}
    assert difference({}, [one, two]) == Difference(wanted=(one, two))
    assert difference(standing, []) == Difference(removed=(one.id, two.id))
    assert difference(standing, [one, changed, three]) == Difference(wanted=(changed, three))
    assert difference(standing, [three]) == Difference(removed=(one.id, two.id), wanted=(three,))
    assert not difference(standing, [one, two])
