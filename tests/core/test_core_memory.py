"""What is over is freed by its last reference: to look for garbage, which stops everything, finds nothing.

Each way a call can end, and whatever else comes, is gone through with the collector switched off."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType

import pytest

from agw.iq.messages import ErrorCode, Event
from imsalg.body import Found
from imsalg.config import CallConfig, RegistrationConfig
from imsalg.core import Core
from imsalg.sip.hop import Flow, Transport
from tests.core.test_core_chaos import Chaos
from tests.core.test_core_finding_chaos import Searching
from tests.sim.peer import Peer
from tests.sim.sdp import protected, session
from tests.sim.world import ACCESS, World

OFFER = protected("192.0.2.10")
FAR = session("203.0.113.5")
BOB = "sip:bob@home.example"
OVER = 500.0  # seconds after which all timers have fired


@contextmanager
def no_garbage(*packages: str) -> Iterator[None]:
    """Nothing of these packages becomes garbage that only the collector finds."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [each if isinstance(each, type) else type(each) for each in gc.garbage]
        left = Counter(f"{each.__module__}.{each.__qualname__}" for each in found)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()
    assert {name: count for name, count in left.items() if name.startswith(packages)} == {}


def test_of_a_call_that_is_over_only_what_late_responses_need_is_kept(worlds):
    world = worlds()
    alice = world.register(world.ue(10), "alice")
    here, far = world.originate(alice)
    assert reached(world) >= {"Call", "Document", "Negotiation", "Crossing"}
    here.hang_up(far)
    assert "Call" in reached(world)
    assert reached(world).isdisjoint({"Document", "Exchange", "Search"})
    world.advance(OVER)
    assert reached(world).isdisjoint({"Call", "Negotiation", "Crossing"})


def test_nothing_that_is_kept_of_a_call_shows_a_key_p18(worlds):
    world = worlds()
    alice = world.register(world.ue(10), "alice")
    talks = world.originate(alice), world.terminate(alice)
    kept = [each for each in led_to(world.core) if type(each).__module__.startswith(("imsalg", "agw"))]
    assert {type(each).__qualname__ for each in kept} >= {"Branch", "Crypto", "InlineKey", "Agreed"}
    assert world.secrets
    shown = {type(each) for each in kept if any(secret in repr(each) for secret in world.secrets)}
    assert not shown
    assert "inline" not in repr(Found(b"", OFFER.encode(), b""))
    for here, far in talks:
        here.hang_up(far)


def reached(world: World) -> set[str]:
    """What kinds of things the transactions lead to."""
    return {type(each).__qualname__ for each in led_to(world.core.endpoint._transactions, Core)}


def led_to(start: object, *but: type) -> Iterator[object]:
    """All things that one leads to, though not by way of these, or of what is no data."""
    seen: dict[int, object] = {}
    todo = [start]
    while todo:
        each = todo.pop()
        if id(each) not in seen and not isinstance(each, (type, ModuleType, FunctionType, *but)):
            seen[id(each)] = each
            yield each
            todo += gc.get_referents(each)


# -- how a call may end


def hung_up(world: World, alice: Peer) -> None:
    for way in (world.originate, world.terminate):
        for who in (0, 1):
            ends = way(alice)
            ends[who].hang_up(ends[1 - who])


def hung_up_after_long(world: World, alice: Peer) -> None:
    """The transactions of its INVITE have ended before it."""
    here, far = world.originate(alice)
    world.advance(OVER)
    far.hang_up(here)


def changed(world: World, alice: Peer) -> None:
    here, far = world.originate(alice)
    here.exchange(far, "INVITE", OFFER, FAR)
    far.exchange(here, "UPDATE", session("203.0.113.6"), protected("192.0.2.10"))
    here.request("INVITE", sdp=OFFER)
    world.network.reply(world.network.expect("INVITE"), 488)
    alice.expect(488)
    here.hang_up(far)


def cancelled(world: World, alice: Peer) -> None:
    for late in (487, 200):  # crosses the CANCEL, and is hung up
        invite = alice.invite(BOB, sdp=OFFER)
        there = world.network.expect("INVITE")
        world.network.reply(there, 180)
        alice.cancel(invite)
        world.network.reply(world.network.expect("CANCEL"), 200)
        alice.expect(487)
        world.network.reply(there, late, sdp=FAR if late == 200 else "")
    world.network.expect("ACK")
    world.network.reply(world.network.expect("BYE"), 200)


def refused(world: World, alice: Peer) -> None:
    for status in (486, 503, 407):  # after the last it might come again
        alice.invite(BOB, sdp=OFFER)
        world.network.reply(world.network.expect("INVITE"), status)
        alice.expect(status)


def forked(world: World, alice: Peer) -> None:
    """One of three is taken, and another answers as well."""
    invite = alice.invite(BOB, sdp=OFFER)
    there = world.network.expect("INVITE")
    for number in (1, 2, 3):
        world.network.reply(there, 183, sdp=FAR, tag=f"fork{number}")
        alice.expect(183)
    ok = world.network.reply(there, 200, sdp=FAR, tag="fork1")
    here = alice.dialog(invite, alice.expect(200))
    here.ack()
    world.network.expect("ACK")
    world.network.reply(there, 200, sdp=FAR, tag="fork2")
    world.network.reply(world.network.expect("BYE"), 200)
    here.hang_up(world.network.dialog(there, ok))


def left_early(world: World, alice: Peer) -> None:
    invite = alice.invite(BOB, sdp=OFFER)
    there = world.network.expect("INVITE")
    world.network.reply(there, 183, sdp=FAR)
    alice.dialog(invite, alice.expect(183)).request("BYE")
    world.network.reply(world.network.expect("BYE"), 200)
    world.network.reply(there, 487)


def not_answered(world: World, alice: Peer) -> None:
    alice.invite(BOB, sdp=OFFER)
    world.advance(OVER)  # nobody is there
    alice.expect(408)
    alice.invite(BOB, sdp=OFFER)
    world.network.reply(world.network.expect("INVITE"), 180)
    world.advance(OVER)  # it rings
    alice.expect(408)


def silent(world: World, alice: Peer) -> None:
    alice.answers_bye = world.network.answers_bye = True
    world.originate(alice)
    world.plane.silent = 100.0
    world.media(Event.MEDIA_INACTIVE)
    assert not world.plane.legs


def without_the_gateway(world: World, alice: Peer) -> None:
    world.fail.append(ErrorCode.NO_PORTS)
    alice.invite(BOB, sdp=OFFER)
    alice.expect(503)
    world.held = True  # it does not answer
    alice.invite(BOB, sdp=OFFER)
    world.advance(OVER)
    world.answer_gateway()
    alice.expect(503)
    world.originate(alice)
    world.disconnect()  # and is gone for too long
    alice.answers_bye = world.network.answers_bye = True
    world.advance(OVER)
    world.connect()


ENDINGS = (
    hung_up, hung_up_after_long, changed, cancelled, refused, forked, left_early, not_answered, silent,
    without_the_gateway,
)  # fmt: skip


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_call_is_freed_however_it_ends(worlds, ending, transport):
    world = worlds(call=CallConfig(ringing_limit=60.0, inactivity=30.0))
    alice = world.register(world.ue(10, 40123, transport=transport), "alice")
    with no_garbage("imsalg.", "agw."):
        for _ in range(3):
            ending(world, alice)
            world.advance(OVER)


def test_registrations_requests_and_what_is_refused_are_freed(worlds):
    world = worlds(registration=RegistrationConfig(reg_event=True))
    with no_garbage("imsalg.", "agw."):
        for number in (10, 11, 12):
            phone = world.register(world.ue(number), f"user{number}", expires=600)
            world.network.reply(world.network.expect("SUBSCRIBE"), 200, ("Expires", "600"))
            phone.request("MESSAGE", BOB)
            world.network.reply(world.network.expect("MESSAGE"), 200)
            stranger = world.ue(number + 100)
            for method in ("INVITE", "MESSAGE", "BYE", "ACK", "CANCEL"):
                stranger.request(method, BOB, sdp=OFFER)
            flow = Flow(Transport.UDP, ACCESS, stranger.address)
            for data in (
                b"INVITE",
                b"OPTIONS sip:a SIP/2.0\r\n\r\n",
                b"SIP/2.0 200 OK\r\n\r\n",
                b"\xff" * 50,
            ):
                world.receive(data, flow)
        world.network.answers_bye = True
        world.advance(10_000.0)  # they expire


@pytest.mark.parametrize("make", [Chaos, Searching])
@pytest.mark.parametrize("seed", range(4000, 4008))
def test_whatever_happens_is_freed(make, seed):
    chaos = make(seed)
    with no_garbage("imsalg."):
        chaos.run()
