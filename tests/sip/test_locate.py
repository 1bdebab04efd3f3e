"""From a URI to servers, without a network: what is asked, what is tried, and in which order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from imsalg.sip.hop import Transport
from imsalg.sip.locate import Naptr, Question, Record, Srv, by_weight, leaves_by, locate
from imsalg.sip.values import Address, Uri

HERE = Address("198.51.100.1", 5060)
UDP, TCP, TLS = Transport.UDP, Transport.TCP, Transport.TLS
Zone = Mapping[tuple[str, str], Sequence[Record]]


def walk(
    uri: str, zone: Zone, transports: Sequence[Transport] = (UDP, TCP), seed: int = 1, here: Address = HERE
) -> list[str]:
    """Every step to the end, as text."""
    steps = []
    servers = locate(Uri.parse(uri), dict.fromkeys(transports, here), random.Random(seed))
    answer: Sequence[Record] = ()
    while True:
        try:
            step = servers.send(answer) if steps else next(servers)
        except StopIteration:
            return steps
        if isinstance(step, Question):
            steps.append(f"{step.kind} {step.name}")
            answer = zone.get((step.name, step.kind.value), ())
        else:
            steps.append(f"{step.transport} {step.remote}{' as ' + step.domain if step.domain else ''}")
            answer = ()


@pytest.mark.parametrize(
    ("uri", "steps"),
    [
        ("sip:192.0.2.1", ["UDP 192.0.2.1:5060"]),
        ("sip:192.0.2.1:5070", ["UDP 192.0.2.1:5070"]),
        ("sip:192.0.2.1;transport=tcp", ["TCP 192.0.2.1:5060"]),
        ("sip:[2001:db8::1]:5062;transport=TCP", ["TCP [2001:db8::1]:5062"]),
        ("sip:h.example:5070", ["A h.example", "UDP 192.0.2.7:5070"]),
        ("sip:H.Example.:5070;transport=tcp", ["A h.example", "TCP 192.0.2.7:5070"]),
        ("sip:192.0.2.1;transport=sctp", []),
        ("sips:192.0.2.1", []),
        ("tel:+491234", []),
    ],
)
def test_what_is_numeric_or_has_a_port_is_not_searched_for(uri, steps):
    assert walk(uri, {("h.example", "A"): ["192.0.2.7"]}) == steps


def test_naptr_says_the_transport_and_srv_the_server():
    zone = {
        ("example.org", "NAPTR"): [
            Naptr(50, 50, "s", "sips+d2t", "_sips._tcp.example.org"),
            Naptr(100, 20, "s", "sip+d2u", "udp.example.org"),
            Naptr(100, 10, "s", "sip+d2t", "tcp.example.org"),
            Naptr(10, 10, "s", "sip+d2s", "sctp.example.org"),
            Naptr(10, 10, "u", "sip+d2u", "no.example.org"),
        ],
        ("tcp.example.org", "SRV"): [Srv(0, 0, 5070, "a.example.org")],
        ("udp.example.org", "SRV"): [Srv(0, 0, 5080, "a.example.org")],
        ("a.example.org", "A"): ["192.0.2.7"],
    }
    assert walk("sip:example.org", zone) == [
        "NAPTR example.org",
        "SRV tcp.example.org",
        "A a.example.org",
        "TCP 192.0.2.7:5070",
        "SRV udp.example.org",
        "A a.example.org",
        "UDP 192.0.2.7:5080",
    ]


def test_without_naptr_srv_is_asked_for_each_transport_we_have():
    zone = {
        ("_sip._tcp.example.org", "SRV"): [Srv(0, 0, 5070, "a.example.org")],
        ("a.example.org", "A"): ["192.0.2.7"],
    }
    assert walk("sip:example.org", zone) == [
        "NAPTR example.org",
        "SRV _sip._udp.example.org",
        "SRV _sip._tcp.example.org",
        "A a.example.org",
        "TCP 192.0.2.7:5070",
    ]


def test_without_srv_the_name_itself_is_the_server():
    assert walk("sip:example.org", {("example.org", "A"): ["192.0.2.7"]})[-2:] == [
        "A example.org",
        "UDP 192.0.2.7:5060",
    ]
    assert walk("sip:example.org;transport=tcp", {("example.org", "A"): ["192.0.2.7"]}) == [
        "SRV _sip._tcp.example.org",
        "A example.org",
        "TCP 192.0.2.7:5060",
    ]


def test_servers_of_our_address_family_are_looked_for():
    here = Address("2001:db8::2", 5060)
    assert walk("sip:h.example:5070", {("h.example", "AAAA"): ["2001:db8::7"]}, here=here) == [
        "AAAA h.example",
        "UDP [2001:db8::7]:5070",
    ]


def test_tls_is_for_the_domain_that_was_asked_for():
    """RFC 5922 section 7.1: the DNS may send us anywhere; the certificate must be the domain's."""
    zone = {
        ("_sips._tcp.example.org", "SRV"): [Srv(0, 0, 5071, "host.elsewhere.example")],
        ("host.elsewhere.example", "A"): ["192.0.2.7"],
        ("example.org", "NAPTR"): [
            Naptr(1, 1, "s", "sip+d2u", "udp.example.org"),
            Naptr(2, 1, "s", "sips+d2t", "_sips._tcp.example.org"),
        ],
    }
    by_srv = ["SRV _sips._tcp.example.org", "A host.elsewhere.example", "TLS 192.0.2.7:5071 as example.org"]
    assert walk("sips:example.org", zone, (UDP, TLS)) == ["NAPTR example.org", *by_srv]
    assert walk("sip:example.org;transport=tls", zone, (UDP, TLS)) == by_srv
    assert walk("sips:192.0.2.7", zone, (UDP, TLS)) == ["TLS 192.0.2.7:5061"]


@pytest.mark.parametrize(
    "records",
    [
        [Srv(0, 0, 5060, "")],  # RFC 2782: decidedly not available
        [Srv(0, 0, 0, "a.example.org")],
        [Srv(0, 0, 5060, "nowhere.example.org")],
        [Srv(0, 0, 5060, "alias.example.org")],
    ],
)
def test_a_service_that_is_not_to_be_had_is_not_sought_elsewhere(records):
    zone = {("_sip._tcp.example.org", "SRV"): records, ("example.org", "A"): ["192.0.2.7"]}
    assert not [step for step in walk("sip:example.org;transport=tcp", zone) if step.startswith("TCP")]


def test_priorities_come_in_order():
    records = [Srv(2, 9, 1, "c"), Srv(1, 0, 1, "b"), Srv(0, 1, 1, "a"), Srv(7, 0, 1, "d")]
    assert [srv.target for srv in by_weight(records, random.Random(1))] == ["a", "b", "c", "d"]


def test_weights_are_shares():
    """RFC 2782: within one priority, the chance to come first is weight over the sum of weights."""
    rng = random.Random(7)
    records = [Srv(0, 60, 1, "a"), Srv(0, 30, 1, "b"), Srv(0, 10, 1, "c"), Srv(0, 0, 1, "seldom")]
    orders = [[srv.target for srv in by_weight(records, rng)] for _ in range(5000)]
    first = Counter(order[0] for order in orders)
    assert first["a"] / 5000 == pytest.approx(0.60, abs=0.03)
    assert first["b"] / 5000 == pytest.approx(0.30, abs=0.03)
    assert first["c"] / 5000 == pytest.approx(0.10, abs=0.02)
    assert 0 < first["seldom"] / 5000 < 0.03
    second = Counter(order[1] for order in orders if order[0] == "a")
    assert second["b"] / second.total() == pytest.approx(0.75, abs=0.04)
    assert all(sorted(order) == ["a", "b", "c", "seldom"] for order in orders)


@pytest.mark.parametrize("weight", [0, 5])
def test_equal_weights_are_equal_shares(weight):
    rng = random.Random(7)
    records = [Srv(0, weight, 1, name) for name in "abc"]
    first = Counter(next(by_weight(records, rng)).target for _ in range(3000))
    assert all(count == pytest.approx(1000, abs=120) for count in first.values())


def test_addresses_of_one_name_share_the_load():
    zone = {("h.example", "A"): ["192.0.2.1", "192.0.2.2"]}
    first = Counter(walk("sip:h.example:5060", zone, seed=seed)[1] for seed in range(200))
    assert len(first) == 2
    assert min(first.values()) > 60


def test_what_the_dns_answers_may_be_anything():
    odd: list[Record] = ["192.0.2.9", Srv(0, 0, 1, "x.example"), Naptr(0, 0, "s", "sip+d2u", "")]
    zone = dict.fromkeys(
        [
            ("example.org", "NAPTR"),
            ("_sip._udp.example.org", "SRV"),
            ("_sip._tcp.example.org", "SRV"),
            ("x.example", "A"),
        ],
        odd,
    )
    assert walk("sip:example.org", zone) == [
        "NAPTR example.org",
        "SRV _sip._udp.example.org",
        "A x.example",
        "UDP 192.0.2.9:1",
        "SRV _sip._tcp.example.org",
        "A x.example",
        "TCP 192.0.2.9:1",
    ]


def test_where_a_uri_may_leave_by_is_known_before_any_look_up():
    assert leaves_by(Uri.parse("sip:example.org"), (UDP, TCP)) == [UDP, TCP]
    assert leaves_by(Uri.parse("sip:example.org:5060"), (UDP, TCP)) == [UDP]
    assert leaves_by(Uri.parse("sip:192.0.2.1"), (TCP,)) == []
    assert leaves_by(Uri.parse("sips:example.org"), (UDP, TCP)) == []
    assert leaves_by(Uri.parse("sip:192.0.2.1;transport=ws"), (UDP, Transport.WS)) == []
