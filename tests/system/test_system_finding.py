"""The home network behind names: NSD serves NAPTR, SRV and A, and SIPps are its servers: one that is not
there, one that is overloaded, one that is too late, and one that works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.nsd import Nsd
from tests.system.calls import BOB, audio, register, registered
from tests.system.sipp import HOST, Sipp, port, requests, responses
from tests.system.world import REGISTRAR_PORT, World, registrar

DNS_PORT = 19090
PATIENCE = 1.5  # seconds; more than a server takes that is there
NOBODY, BUSY, LATE, WELL = port(), port(), port(), port()
RECORDS = (
    '@ NAPTR 10 10 "s" "SIPS+D2T" "" _sips._tcp',
    '@ NAPTR 20 10 "s" "SIP+D2U" "" _sip._udp',
    f"_sip._udp SRV 1 0 {NOBODY} one",
    f"_sip._udp SRV 2 0 {BUSY} one",
    f"_sip._udp SRV 3 0 {REGISTRAR_PORT} one",
    "one A 127.0.0.1",
    f"_sip._tcp.calls SRV 1 0 {NOBODY} two",
    f"_sip._tcp.calls SRV 2 0 {WELL} two",
    "two CNAME one",
    f"_sip._udp.late SRV 1 0 {LATE} one",
    f"_sip._udp.late SRV 2 0 {WELL} one",
    "_sip._udp.none SRV 0 0 0 .",
    "loop1 CNAME loop2",
    "loop2 CNAME loop1",
    *(f"_sip._udp.many SRV {number} 0 {NOBODY} {number}.one" for number in range(1000)),
)
RTP = audio()


class Named(World):
    """Its home network is `home.test`."""

    def _write_configurations(self) -> None:
        super()._write_configurations()
        proxy = self.directory / "proxy.toml"
        before = f'next_hop = "sip:{HOST}:{REGISTRAR_PORT}"'
        after = f'next_hop = "sip:home.test"\nnameserver = ["{HOST}:{DNS_PORT}"]\npatience = {PATIENCE}'
        text = proxy.read_text()
        assert before in text
        proxy.write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        Nsd(tmp_path_factory.mktemp("nsd"), DNS_PORT, *RECORDS),
        registrar(tmp_path_factory.mktemp("registrar")),
        Named(log_level="debug") as world,
    ):
        yield world
        world.check()
        world.assert_nothing_left()


def call(world: World, directory: Path, host: str, scenario: str = "call_uac", **blanks: object) -> Sipp:
    """A trusted peer calls by the way of a name."""
    return Sipp(
        directory,
        scenario,
        remote=world.peers_port,
        ruri=BOB,
        route=f"<sip:{host};lr>",
        offer=RTP,
        **blanks,
    )


def test_a_ue_registers_past_a_server_that_is_not_there_and_one_that_is_overloaded(
    world: World, tmp_path: Path
) -> None:
    with Sipp(tmp_path, "overloaded", port=BUSY, method="REGISTER", headers="Retry-After: 60") as busy:
        ue, traced = register(world, tmp_path)
        (asked,) = requests(busy.finish(), "REGISTER", sent=False)
    assert responses(traced, 200, "REGISTER", sent=False)
    assert len(asked.headers.values("Via")) == 2
    assert world.status()["quarantined"] == [f"UDP {HOST}:{NOBODY}", f"UDP {HOST}:{BUSY}"]
    register(world, tmp_path, ue=ue, expires=0)  # straight to the one that works: nobody is at the others


def test_a_call_goes_past_a_server_whose_port_is_closed(world: World, tmp_path: Path) -> None:
    with (
        Sipp(tmp_path, "call_uas", port=WELL, tcp=True, answer=RTP) as callee,
        call(world, tmp_path, "calls.home.test;transport=tcp") as caller,
    ):
        caller.finish()
        (invite,) = requests(callee.finish(), "INVITE", sent=False)
    ours, _ = invite.headers.values("Record-Route")
    assert "transport=tcp" in ours


def test_who_answers_too_late_is_hung_up_and_the_call_stands(world: World, tmp_path: Path) -> None:
    with (
        Sipp(tmp_path, "too_late_uas", port=LATE, wait=int(2500 * PATIENCE), answer=RTP) as late,
        Sipp(tmp_path, "call_uas", port=WELL, ring=int(2000 * PATIENCE), answer=RTP) as callee,
        call(world, tmp_path, "late.home.test", talk=300) as caller,
    ):
        (answered,) = responses(caller.finish(), 200, "INVITE", sent=False)
        first, second = late.finish(), callee.finish()
    assert "late" not in (answered.to.tag or "")
    (given_up,), (taken,) = (requests(seen, "INVITE", sent=False) for seen in (first, second))
    assert given_up.call_id == taken.call_id
    assert given_up.via.branch != taken.via.branch


@pytest.mark.parametrize(
    "host", ["none.home.test", "loop1.home.test", "nowhere.home.test", "elsewhere.invalid"]
)
def test_a_name_that_leads_nowhere_is_503(world: World, tmp_path: Path, host: str) -> None:
    with call(world, tmp_path, host, "refused_uac") as caller:
        assert responses(caller.finish(), 503, "INVITE", sent=False)


def test_a_name_of_a_thousand_servers_without_address_is_503(world: World, tmp_path: Path) -> None:
    with call(world, tmp_path, "many.home.test", "refused_uac") as caller:
        assert responses(caller.finish(), 503, "INVITE", sent=False)


def test_a_registered_ue_calls_by_its_numeric_service_route(world: World, tmp_path: Path) -> None:
    with (
        registered(world, tmp_path) as ue,
        Sipp(tmp_path, "call_uas", port=ue.home, answer=RTP) as callee,
        Sipp(
            tmp_path,
            "call_uac",
            remote=world.access_port,
            port=ue.port,
            user=ue.user,
            ruri=BOB,
            route="<sip:nowhere.home.test;lr>",
            offer=RTP,
        ) as caller,
    ):
        caller.finish()
        callee.finish()
