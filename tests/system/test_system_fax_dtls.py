"""Fax over DTLS (RFC 7345): a UE's fax machine that is openssl, a plain one in the core, and between them the
proxy and the gateway as processes. Speech becomes fax and speech again (trap P33)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imsalg.sdp.document import Media
from tests.system.calls import audio, originated, registered, session, terminated
from tests.system.faxmachine import FaxMachine, Port
from tests.system.sipp import GAP, Sipp, sdp
from tests.system.world import World, registrar

UE_SPEECH, CORE_SPEECH, UE_FAX, CORE_FAX = 6000, 6100, 6200, 6300
UDPTL = [  # sequence number, IFP packet, redundant ones (ITU-T T.38 clause 9.1)
    bytes.fromhex("0000 06 c0 01 80 00 00 ff 00 01 01 02"),
    bytes.fromhex("0001") + bytes(range(256)) * 3,
]
SPEECH = bytes.fromhex("8000 0001 00000000 01020304") + b"\xd5" * 160


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        registrar(tmp_path_factory.mktemp("registrar")),
        World(mechanisms=("udptl-dtls",), log_level="debug") as world,
    ):
        yield world
        world.check()
        world.assert_nothing_left()


def speech(port: int, version: int = 1) -> str:
    return audio(port=port, version=version)


def fax(port: int, *lines: str, proto: str = "udptl") -> str:
    return session(f"m=image {port} {proto} t38", "a=T38FaxVersion:0", *lines, version=2)


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("originating", [True, False])
def test_speech_becomes_fax_over_dtls_and_speech_again_p33(
    world: World, tmp_path: Path, originating: bool, active: bool
) -> None:
    with (
        registered(world, tmp_path, mechanism="udptl-dtls") as ue,
        FaxMachine(tmp_path, UE_FAX, active=active) as machine,
        Port(CORE_FAX) as far_machine,
        Port(UE_SPEECH) as mouth,
        Port(CORE_SPEECH) as far_mouth,
    ):
        setup = "active" if active else "passive"
        if originating:
            lines = (f"a=setup:{'actpass' if active else setup}", "a=3ge2ae:requested")
        else:
            lines = (f"a=setup:{setup}",)
        near = (
            speech(UE_SPEECH),
            fax(UE_FAX, f"a=fingerprint:{machine.fingerprint}", *lines, proto="UDP/TLS/UDPTL"),
            speech(UE_SPEECH, 3),
        )
        far = (speech(CORE_SPEECH), fax(CORE_FAX), speech(CORE_SPEECH, 3))
        offers, answers = (near, far) if originating else (far, near)
        names = ("offer", "hold", "resume", "answer", "hold_answer", "resume_answer")
        descriptions: dict[str, Any] = dict(zip(names, (*offers, *answers), strict=True))
        call = originated if originating else terminated
        with call(world, tmp_path, "reinvite_uac", "reinvite_uas", ue=ue, gap=GAP, **descriptions) as (
            caller,
            callee,
        ):
            talk(mouth, far_mouth, *lines_of(caller, callee, 1, originating))
            caller.go_on()

            access, core = lines_of(caller, callee, 2, originating)
            assert [(line.kind, line.proto) for line in (access, core)] == [
                ("image", "UDP/TLS/UDPTL"),
                ("image", "udptl"),
            ]
            ours = ("passive" if active else "active") if originating else "actpass"
            assert access.attribute("setup") == ours
            assert not core.has("fingerprint")
            machine.begin(access.port)
            assert machine.peer() == access.attribute("fingerprint")
            for datagram in UDPTL:
                machine.send(datagram)
                assert far_machine.hear() == datagram
                far_machine.send(datagram[::-1], core.port)
                machine.hear(datagram[::-1])
            records = [datagram for datagram in machine.wire if datagram[0] == 0x17]
            assert len(records) == 2 * len(UDPTL)
            for datagram in UDPTL:
                assert not any(datagram in seen or datagram[::-1] in seen for seen in machine.wire)
            caller.go_on()

            talk(mouth, far_mouth, *lines_of(caller, callee, 3, originating))
            caller.go_on()
            caller.finish()
            callee.finish()


def lines_of(caller: Sipp, callee: Sipp, nth: int, originating: bool) -> tuple[Media, Media]:
    """The m-line that the UE, and the one that the core got in the nth exchange, once that is done."""
    callee.wait_for("ACK", nth=nth)
    offered = sdp(callee.wait_for("INVITE", nth=nth)).media[0]
    answered = sdp(caller.wait_for(200, nth=nth)).media[0]
    return (answered, offered) if originating else (offered, answered)


def talk(mouth: Port, far_mouth: Port, access: Media, core: Media) -> None:
    """Plain speech passes both ways."""
    assert (access.proto, core.proto) == ("RTP/AVP", "RTP/AVP")
    mouth.send(SPEECH, access.port)
    assert far_mouth.hear() == SPEECH
    far_mouth.send(SPEECH, core.port)
    assert mouth.hear() == SPEECH
