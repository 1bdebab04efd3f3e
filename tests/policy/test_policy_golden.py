"""Every row of the decision tables (TS 33.328 clauses 7.2 and 7.3), each direction, offer and answer.

A golden file has a head and two sections, `--- offer` and `--- answer`. A section shows two documents,
the one that came and the one that leaves: "- " marks a line that only came, "+ " one that only leaves. What
is not marked has passed unchanged, so the changes are seen at a glance. The head:

    direction, registered, access, rules (JSON), status   as in `decide`; by default none, sip, {}, 200
    running     treatments in force before, as this is a re-offer
    m           for each m-line: treatment, and the whole reason
    answered    for each m-line of the answer: accepted or not, and the whole reason; left out: all accepted

The UE is 192.0.2.10, the peer in the core 192.0.2.20. Towards the UE we are 198.51.100.1 and the gateway is
198.51.100.2, ports 30000, 30010 …; towards the core 203.0.113.1, 203.0.113.2, ports 40000, 40010 …
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from imsalg.policy.association import Association
from imsalg.policy.check import check_answer
from imsalg.policy.decide import Access, Decision, Direction, Rules, decide, status
from imsalg.policy.mline import DtlsLines, Local, Protection
from imsalg.policy.rewrite import answer, offer
from imsalg.policy.treatment import Mechanism, Treatment
from imsalg.sdp.attributes import MATERIAL_LENGTH, Crypto, InlineKey
from imsalg.sdp.document import Document, Origin
from imsalg.sdp.dtls import Fingerprint, Setup
from imsalg.sdp.ice import IceCredentials, is_lite

FILES = sorted((Path(__file__).parent / "golden").glob("*.sdp"))


@dataclass(frozen=True)
class Golden:
    head: dict[str, list[str]]
    sections: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> Golden:
        head: dict[str, list[str]] = {}
        sections: dict[str, list[str]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("--- "):
                sections[line[4:]] = []
            elif sections:
                list(sections.values())[-1].append(line)
            elif line and not line.startswith("#"):
                key, _, value = line.partition(":")
                head.setdefault(key, []).append(value.strip())
        return cls(head, sections)

    def one(self, key: str, default: str) -> str:
        return self.head.get(key, [default])[0]

    def document(self, section: str, without: str) -> bytes:
        """The lines of a section as SDP. without: "+" for what came, "-" for what leaves."""
        lines = [line[2:] for line in self.sections[section] if line[:1] != without]
        return "".join(f"{line}\r\n" for line in lines).encode()


def local(towards_ue: bool, index: int, ice: bool) -> Local:
    host, port = ("198.51.100.2", 30000) if towards_ue else ("203.0.113.2", 40000)
    ours = IceCredentials("OURS", "OURSOURSOURSOURSOURSOURS") if ice else None
    return Local("IP4", host, port + 10 * index, port + 10 * index + 1, ours)


def origin(of: Document, towards_ue: bool) -> Origin:
    return replace(of.origin, addrtype="IP4", address="198.51.100.1" if towards_ue else "203.0.113.1")


def own_line(tag: int, suite: str) -> Crypto:
    return Crypto(tag, suite, (InlineKey(base64.b64decode("OURS" * 16)[: MATERIAL_LENGTH[suite]]),))


def dtls_lines(setup: Setup, tls_id: bool) -> DtlsLines:
    return DtlsLines(Fingerprint("sha-256", b"\xaa" * 32), setup, "OURSOURSOURSOURSOURS" if tls_id else None)


def offered(decision: Decision, rules: Rules) -> Protection:
    """Ours in an offer to the UE."""
    if decision.treatment.by_dtls:
        return dtls_lines(Setup.ACTPASS, tls_id=True)
    return tuple(own_line(tag, suite) for tag, suite in enumerate(rules.suites, 1))


def answered(decision: Decision) -> Protection:
    """Ours in an answer to the UE."""
    if decision.dtls is not None:
        setup = Setup.ACTIVE if decision.dtls.setup is Setup.PASSIVE else Setup.PASSIVE
        return dtls_lines(setup, tls_id=decision.dtls.tls_id is not None)
    return (own_line(decision.crypto.tag, decision.crypto.suite),) if decision.crypto else ()


def checks(document: Document, decision: Decision, index: int) -> bool:
    """Whether the UE that wrote this gets ICE of ours."""
    credentials = IceCredentials.of(document, document.media[index])
    return decision.treatment.by_dtls and credentials is not None and not is_lite(document)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_sdp_that_leaves_is_the_golden_one(path: Path) -> None:
    golden = Golden.read(path)
    direction = Direction(golden.one("direction", ""))
    rules = msgspec.json.decode(golden.one("rules", "{}"), type=Rules)
    came = Document(golden.document("offer", "+"))
    decisions = decide(
        came,
        direction,
        frozenset(Mechanism(name) for name in golden.one("registered", "").split()),
        Access(golden.one("access", "sip")),
        rules,
        [Decision(Treatment(name), "", "", True) for name in golden.one("running", "").split()],
    )
    assert [f"{d.treatment} | {d.reason}" for d in decisions] == golden.head["m"]
    assert status(decisions) == int(golden.one("status", "200"))
    if status(decisions) == 488:
        return

    to_ue = direction is Direction.TERMINATING
    indices = range(len(decisions))
    protections = {i: offered(decisions[i], rules) for i in indices if to_ue}
    locals_ = {i: local(to_ue, i, to_ue and decisions[i].treatment.by_dtls) for i in indices}
    access, leaves = Access(golden.one("access", "sip")), origin(came, to_ue)
    sent = offer(came, decisions, direction, locals_, protections, leaves, rules, access)
    assert bytes(sent).decode() == golden.document("offer", "-").decode()
    if not to_ue:
        no_secret_reaches_the_core(sent, decisions)

    back = Document(golden.document("answer", "+"))
    own = {
        i: Association("ours", "ours") if isinstance(lines, DtlsLines) else lines
        for i, lines in protections.items()
        if decisions[i].treatment.e2ae
    }
    checked = check_answer(sent, back, decisions, own, rules)
    found = [f"{'accepted' if line.accepted else 'not accepted'} | {line.reason}" for line in checked]
    assert found == golden.head.get("answered", found)
    decisions = tuple(line.decision for line in checked)
    protections = {i: answered(decision) for i, decision in enumerate(decisions)}
    locals_ = {i: local(not to_ue, i, not to_ue and checks(came, decisions[i], i)) for i in indices}
    returned = answer(back, came, decisions, direction, locals_, protections, origin(back, not to_ue), rules)
    assert bytes(returned).decode() == golden.document("answer", "-").decode()
    if to_ue:
        no_secret_reaches_the_core(returned, decisions)


def no_secret_reaches_the_core(document: Document, decisions: tuple[Decision, ...]) -> None:
    for section in (document.session, *document.media):
        assert not section.has("3ge2ae")
    for media, decision in zip(document.media, decisions, strict=True):
        if not decision.treatment.transparent:
            assert not media.has("crypto")
            assert not media.has("fingerprint")
