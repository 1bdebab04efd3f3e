"""Offer and answer of one dialog by themselves, without SIP and without a gateway."""

import random

import pytest

from agw.iq.messages import Address, LocalStream, Reserved
from imsalg.anchor import Anchor, Side
from imsalg.negotiation import Negotiation, Terms
from imsalg.networks import Networks
from imsalg.policy.decide import Access, Rules
from imsalg.sip.hop import Flow, Transport
from imsalg.sip.values import Address as Hop
from tests.sim.sdp import media, session

HOSTS = {Side.ACCESS: "192.0.2.1", Side.CORE: "198.51.100.1"}
FLOW = Flow(Transport.UDP, Hop("192.0.2.1", 5060), Hop("192.0.2.10", 5060))
OFFER = session("192.0.2.10", media(4000)).encode()
PREVIEW = session("203.0.113.5", media(7000)).encode()


@pytest.fixture
def negotiation():
    terms = Terms(
        registered=frozenset(),
        access=Access.SIP,
        rules=Rules(),
        realms={side: side.value for side in Side},
        hosts=HOSTS,
        denied=dict.fromkeys(Side, Networks()),
        inactivity=60.0,
        latch_anywhere=False,
    )
    return Negotiation.start(Anchor("call"), terms, random.Random(1), dict.fromkeys(Side, FLOW))


def granted(negotiation, wanted):
    """The gateway has what is wanted."""
    results = tuple(
        Reserved(
            name,
            tuple(
                LocalStream(id, Address("192.0.2.2", 30000), Address("192.0.2.2", 30001))
                for id in termination.streams
            ),
        )
        for name, termination in wanted.items()
    )
    negotiation.anchor.acknowledge(wanted, results)


def previewed(negotiation):
    """An offer, and an answer that nobody acknowledges; the offer."""
    granted(negotiation, negotiation.offer(Side.ACCESS, OFFER))
    negotiation.offered()
    offer = negotiation.pending.offer
    granted(negotiation, negotiation.answer(Side.CORE, PREVIEW, preview=True))
    negotiation.answered()
    return offer


def test_a_preview_of_an_offer_that_is_refused_is_withdrawn_p29(negotiation):
    offer = previewed(negotiation)
    assert negotiation.agreed.streams[Side.CORE]
    negotiation.reopen(offer)
    negotiation.rollback()
    assert not negotiation.agreed.streams
    assert negotiation.latest is None


def test_a_preview_stands_once_a_2xx_without_an_answer_has_come(negotiation):
    offer = previewed(negotiation)
    negotiation.accepted()
    agreed = negotiation.agreed
    negotiation.reopen(offer)
    negotiation.rollback()
    assert negotiation.agreed == agreed
    assert negotiation.latest is not None


def test_silence_counts_once_a_2xx_has_come(negotiation):
    previewed(negotiation)
    assert not negotiation.supervised
    negotiation.accepted()
    assert negotiation.supervised
