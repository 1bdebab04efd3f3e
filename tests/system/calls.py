"""Calls between two SIPps through the proxy, and UEs that register first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imsalg.sdp.document import Document
from imsalg.sip.message import Request, Response
from imsalg.sip.values import Address
from tests.system.sipp import HOST, Sipp, Traced, port, responses
from tests.system.world import World

MEDIASEC = "Security-Client: sdes-srtp;mediasec\nRequire: mediasec\nProxy-Require: mediasec"
BOB = "sip:bob@ims.test"


@dataclass(frozen=True, slots=True)
class Ue:
    """A UE at `port`. home: the port its Service-Route leads to. path: what its registrar reaches it by."""

    user: str
    port: int
    home: int
    path: str
    host: str = HOST

    @property
    def contact(self) -> str:
        return f"sip:{self.user}@{Address(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class Call:
    """What the two ends of a call saw."""

    caller: list[Traced]
    callee: list[Traced]


def register(
    world: World,
    directory: Path,
    *,
    mediasec: bool = True,
    mechanism: str = "sdes-srtp",
    challenged: bool = False,
    expires: int = 600,
    ue: Ue | None = None,
    host: str = HOST,
    params: str = "",
) -> tuple[Ue, list[Traced]]:
    """Register from a port of its own, or again; and what that looked like to the UE. mediasec: whether it
    indicates media security, by this mechanism, upon which it must be told what there is. params: of its
    Contact."""
    home = ue.home if ue else port()
    user = ue.user if ue else f"{'challenged' if challenged else 'ue'}{home}"
    with Sipp(
        directory,
        "register",
        remote=world.access_port,
        port=ue.port if ue else None,
        host=host,
        user=user,
        mechanism=mechanism,
        indication=MEDIASEC.replace("sdes-srtp", mechanism) if mediasec else "Supported: path",
        verify=f"Security-Verify: {mechanism};mediasec" if mediasec else "Supported: gruu",
        check="check_it" if mediasec else "check_it_inverse",
        expires=expires,
        params=params,
    ) as phone:
        traced = phone.finish()
    path = responses(traced, 200, "REGISTER", sent=False)[0].headers.get("Path") or ""
    return Ue(user, phone.port, home, path, host), traced


@contextmanager
def registered(world: World, directory: Path, **how: Any) -> Iterator[Ue]:
    """A UE that is registered, and not any more afterwards."""
    ue, _ = register(world, directory, **how)
    try:
        yield ue
    finally:
        how.pop("challenged", None)
        register(world, directory, ue=ue, expires=0, **how)


@contextmanager
def originated(
    world: World,
    directory: Path,
    caller: str = "call_uac",
    callee: str = "call_uas",
    *,
    ue: Ue | None = None,
    tcp: tuple[bool, bool] = (False, False),
    **blanks: object,
) -> Iterator[tuple[Sipp, Sipp]]:
    """The two ends, caller and callee, of a call from the access side to the core. ue: without it, a trusted
    peer calls. tcp: of each end."""
    with (
        Sipp(directory, callee, port=ue.home if ue else None, tcp=tcp[1], **blanks) as core,
        Sipp(
            directory,
            caller,
            remote=world.access_port if ue else world.peers_port,
            port=ue.port if ue else None,
            host=ue.host if ue else HOST,
            tcp=tcp[0],
            user=ue.user if ue else "peer",
            ruri=BOB,
            route=f"<sip:{HOST}:{core.port};lr{';transport=tcp' if tcp[1] and not ue else ''}>",
            **blanks,
        ) as access,
    ):
        yield access, core


@contextmanager
def terminated(
    world: World,
    directory: Path,
    caller: str = "call_uac",
    callee: str = "call_uas",
    *,
    ue: Ue,
    by_path: bool = True,
    **blanks: object,
) -> Iterator[tuple[Sipp, Sipp]]:
    """The two ends, caller and callee, of a call from the core to a registered UE, routed by its Path, or by
    its Contact alone."""
    route = ue.path if by_path else f"<sip:{HOST}:{world.core_port};lr>"
    with (
        Sipp(directory, callee, port=ue.port, host=ue.host, **blanks) as access,
        Sipp(
            directory,
            caller,
            remote=world.core_port,
            ruri=ue.contact,
            route=route,
            **blanks,
        ) as core,
    ):
        yield core, access


def originate(world: World, directory: Path, *scenarios: str, **how: Any) -> Call:
    """A whole call from the access side to the core; see `originated`."""
    with originated(world, directory, *scenarios, **how) as (caller, callee):
        return Call(caller.finish(), callee.finish())


def terminate(world: World, directory: Path, *scenarios: str, **how: Any) -> Call:
    """A whole call from the core to a registered UE; see `terminated`."""
    with terminated(world, directory, *scenarios, **how) as (caller, callee):
        return Call(caller.finish(), callee.finish())


def call_on_a_connection(world: World, directory: Path, host: str = HOST) -> tuple[Ue, Call]:
    """A UE registers and calls on one TCP connection."""
    home = port()
    user = f"ue{home}"
    with (
        Sipp(directory, "call_uas", port=home, answer=RTP) as core,
        Sipp(
            directory,
            "tcp_ue_uac",
            remote=world.access_port,
            host=host,
            tcp=True,
            user=user,
            headers=MEDIASEC,
            ruri=BOB,
            route=f"<sip:{HOST}:9;lr>",
            offer=audio(*E2AE, proto="RTP/SAVP", host=host),
        ) as access,
    ):
        return Ue(user, access.port, home, "", host), Call(access.finish(), core.finish())


def refused(
    world: World,
    directory: Path,
    status: int,
    *,
    ue: Ue | None = None,
    at: int | None = None,
    **blanks: object,
) -> tuple[Response, list[Traced]]:
    """A call that must not get as far as the core: the final response to it, and what the core saw of it.

    at: the port of the proxy that is called; that of the UE's access side if none is named.
    """
    with (
        Sipp(directory, "call_uas", port=ue.home if ue else None, answer="") as core,
        Sipp(
            directory,
            "refused_uac",
            remote=at or world.access_port,
            port=ue.port if ue else None,
            ruri=BOB,
            route=f"<sip:{HOST}:{core.port};lr>",
            **blanks,
        ) as access,
    ):
        (response,) = responses(access.finish(), status, "INVITE", sent=False)
        return response, core.traced()


@contextmanager
def call_up(world: World, directory: Path, description: str) -> Iterator[tuple[Sipp, Sipp]]:
    """The two ends, caller and callee, of a call that neither will hang up. description: of both."""
    with (
        Sipp(directory, "call_uas", answer=description) as core,
        Sipp(
            directory,
            "ended_uac",
            remote=world.peers_port,
            ruri=BOB,
            route=f"<sip:{HOST}:{core.port};lr>",
            offer=description,
        ) as access,
    ):
        core.wait_for("ACK")
        yield access, core


# -- session descriptions ------------------------------------------------------------------------------------


def audio(*lines: str, proto: str = "RTP/AVP", port: int = 6000, version: int = 1, host: str = HOST) -> str:
    """A session description with one m=audio and these further lines of it."""
    return session(f"m=audio {port} {proto} 0", "a=rtpmap:0 PCMU/8000", *lines, version=version, host=host)


def session(*lines: str, version: int = 1, host: str = HOST) -> str:
    address = f"IN {'IP6' if ':' in host else 'IP4'} {host}"
    head = ("v=0", f"o=- 1 {version} {address}", "s=-", f"c={address}", "t=0 0")
    return "\n".join((*head, *lines))


RTP = audio(port=6100)
KEY = "AQEB" * 10
CRYPTO = f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}"
E2AE = (CRYPTO, "a=3ge2ae:requested")
SRTP = audio(*E2AE, proto="RTP/SAVP")


def normal(message: Request | Response) -> str:
    """A session description as it is asserted: what the proxy and the gateway chose has a name instead.

    ACCESS, CORE: a port of the gateway's on that side (even). KEY: inline keys of ours. ID: our o= session.
    """
    assert message.headers.get("Content-Type") == "application/sdp"
    text = bytes(Document(message.body)).decode().replace("\r\n", "\n").rstrip("\n")
    text = re.sub(r"(?m)^o=(\S+) \d{3,} ", r"o=\1 ID ", text)
    return re.sub(r"(?m)^(m=\w+ )(2[01]\d{3}) ", lambda found: f"{found[1]}{_realm(int(found[2]))} ", text)


def keys(message: Request | Response) -> list[str]:
    """The inline keys in a message, in order."""
    return re.findall(r"inline:([^|\s]+)", message.body.decode())


def _realm(port: int) -> str:
    assert port % 2 == 0
    return "ACCESS" if port < 20800 else "CORE"
