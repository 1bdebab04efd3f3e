"""A configuration is right as a whole, or refused with its path and the nearest right word."""

import re
from pathlib import Path

import pytest

from agw.iq.messages import VERSION, Hello
from agw.iq.wire import encode
from imsalg.config import MAX_CALLS
from imsalg.configfile import ConfigError, load_proxy, parse_proxy
from imsalg.networks import Networks
from imsalg.policy.decide import Access, Rules
from imsalg.policy.treatment import Mechanism
from imsalg.sip.hop import Transport
from imsalg.sip.values import Address

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

GOOD = """
name = "pcscf"
[[access]]
name = "access"
listen = "127.0.0.1:5060"
mechanisms = ["sdes-srtp"]
trusted = ["10.0.0.0/8", "2001:db8::/32"]
[core]
listen = "[::1]:5062"
next_hop = "sip:127.0.0.1:5064"
[gateway]
iq = "unix:/run/iq.sock"
"""


def test_values_arrive_parsed() -> None:
    config = parse_proxy(GOOD)
    access = config.access[0]
    assert access.listen == Address("127.0.0.1", 5060)
    assert access.type is Access.SIP
    assert access.mechanisms == (Mechanism.SDES_SRTP,)
    assert "10.1.2.3" in access.trusted
    assert "2001:db8::7" in access.trusted
    assert "192.0.2.1" not in access.trusted
    assert config.core.listen == Address("::1", 5062)
    assert not config.core.trusted
    assert config.policy == Rules()


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        ("mechanisms", "mechanism", "access[0].mechanism: unknown key; did you mean 'mechanisms'?"),
        ("[core]", "[coer]", "coer: unknown key; did you mean 'core'?"),
        ("[gateway]", "[gateway]\ntimeuot = 1.0", "gateway.timeuot: unknown key; did you mean 'timeout'?"),
        (
            '["sdes-srtp"]',
            '["sdes-strp"]',
            "access[0].mechanisms[0]: unknown value 'sdes-strp'; did you mean 'sdes-srtp'?",
        ),
        (
            "[core]",
            "[policy]\nunknown_media = 'pas'\n[core]",
            "policy.unknown_media: unknown value 'pas'; did you",
        ),
        ("10.0.0.0/8", "10.0.0/8", "access[0].trusted: '10.0.0/8' does not appear to be"),
        ('["10.0.0.0/8", "2001:db8::/32"]', "3", "access[0].trusted: expected a list of IP networks"),
        ("127.0.0.1:5060", "127.0.0.1", "access[0].listen: expected host:port or [IPv6]:port"),
        ("127.0.0.1:5060", "127.0.0.1:65536", "access[0].listen: expected host:port"),
        ("127.0.0.1:5060", "0.0.0.0:5060", "access[0].listen: expected one numeric address of ours"),
        ("[::1]:5062", "edge.example:5062", "core.listen: expected one numeric address of ours"),
        ("[::1]:5062", "127.0.0.1:5060", "access: two sides listen on the same address"),
        ("sip:127.0.0.1:5064", "tel:+4930", "core.next_hop: expected a sip URI"),
        ("sip:127.0.0.1:5064", "sip:a b", "core.next_hop: "),
        ("unix:/run/iq.sock", "nix:/run", "gateway.iq: 'nix:/run' is neither"),
        ("unix:/run/iq.sock", "tls:[::1]:2944", "gateway.iq: tls needs cert, key and ca"),
        ("[gateway]", "[gateway]\ntimeout = 0", "gateway.timeout: Expected `float` > 0.0"),
        ("[gateway]", "[call]\nringing_limit = 'x'\n[gateway]", "call.ringing_limit: Expected `float`"),
        (
            "[gateway]",
            "[registration]\nmin_expires = 700000\n[gateway]",
            "registration.min_expires: is greater",
        ),
        (
            "[gateway]",
            "[call]\nsession_expires = 800\nsession_limit = 600\n[gateway]",
            "call.session_expires: is greater than session_limit",
        ),
        (
            "[gateway]",
            "[limits]\nwrite_buffers = 1000\n[gateway]",
            "limits.write_buffer: is greater than write_",
        ),
        ("[gateway]", "[call]\nsession_expires = 89\n[gateway]", "call.session_expires: 0, or at least 90"),
        ('name = "access"\n', "", "access[0].name: is needed"),
        ('[gateway]\niq = "unix:/run/iq.sock"', "", "gateway: is needed"),
        (
            "[gateway]",
            "[policy.e2dce]\nmechanism = 'sdes-srtp'\n[gateway]",
            "policy.e2dce.mechanism: sdes-srtp has",
        ),
        (
            "[gateway]",
            "[policy.e2dce]\nattribute = '3ge2ae'\n[gateway]",
            "policy.e2dce.attribute: 3ge2ae has",
        ),
        ("[[access]]", "[access]", "access: Expected `array`, got `object`"),
        ('name = "pcscf"', "name = ", "Invalid value (at line 2"),
    ],
)
def test_a_mistake_is_named_with_its_path(right: str, wrong: str, error: str) -> None:
    assert right in GOOD
    with pytest.raises(ConfigError) as caught:
        parse_proxy(GOOD.replace(right, wrong, 1), "proxy.toml")
    assert str(caught.value).startswith(f"proxy.toml: {error}")


def test_a_file_that_cannot_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file or directory$"):
        load_proxy(tmp_path / "none.toml")
    (tmp_path / "latin1.toml").write_bytes(b"name = '\xe4'")
    with pytest.raises(ConfigError, match=r"not a text in UTF-8 \(byte [0-9]+\)$"):
        load_proxy(tmp_path / "latin1.toml")


@pytest.mark.parametrize("name", ["proxy.toml", "lab.toml"])
def test_the_shipped_files_are_right(name: str) -> None:
    load_proxy(CONFIGS / name)


def test_each_commented_value_of_the_example_is_the_default() -> None:
    text = (CONFIGS / "proxy.toml").read_text()
    told = "\n".join(
        line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
        for line in text.splitlines()
    )
    told = re.sub(r'(cert|key|ca) = "\w.*"', "", told)  # they have none
    told = told.replace('socket = "/run/imsalg/status.sock"', 'socket = ""')
    assert parse_proxy(told) == parse_proxy(text)


def test_networks_know_numeric_hosts_only() -> None:
    networks = Networks(["192.0.2.1/24"])
    assert "192.0.2.200" in networks
    assert "host.example" not in networks
    assert "::1" not in networks


TLS = GOOD.replace("mechanisms =", 'transports = ["UDP", "TLS"]\ncert = "a.pem"\nkey = "a.key"\nmechanisms =')


def test_transports_arrive_and_need_what_they_need() -> None:
    access = parse_proxy(TLS).access[0]
    assert access.transports == (Transport.UDP, Transport.TLS)
    core = 'next_hop = "sips:[::1]"\ntransports = ["TLS"]\ncert = "a.pem"\nkey = "a.key"\nca = "b.pem"'
    assert parse_proxy(GOOD.replace('next_hop = "sip:127.0.0.1:5064"', core)).core.ca == "b.pem"


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        ('"UDP", "TLS"', "", "access[0].transports: at least one"),
        ('"UDP", "TLS"', '"TCP", "TLS"', "access[0].transports: one port serves UDP and one of"),
        ('"UDP", "TLS"', '"UDP", "UDP"', "access[0].transports: one is named twice"),
        ('"UDP", "TLS"', '"UDP", "TSL"', "access[0].transports[1]: unknown value 'TSL'; did you mean 'TLS'?"),
        ('key = "a.key"', "", "access[0].transports: TLS and WSS need cert and key"),
        ("[core]", '[core]\ntransports = ["WS"]', "core.transports: WebSocket is for UEs only"),
        ("[core]", '[core]\ntransports = ["TLS"]', "core.transports: TLS needs cert, key and ca"),
        (":5064", ":5064;transport=tls", "core.next_hop: TLS is not among the transports"),
        (":5064", ":5064;transport=sctp", "core.next_hop: its transport is not among the transports"),
    ],
)
def test_transports_that_cannot_be_served_are_refused(right: str, wrong: str, error: str) -> None:
    assert right in TLS
    with pytest.raises(ConfigError) as refused:
        parse_proxy(TLS.replace(right, wrong))
    assert error in str(refused.value)


def test_the_greeting_on_iq_can_name_all_the_calls_there_may_be():
    claims = (bytes(12).hex(),) * (MAX_CALLS + MAX_CALLS // 10)
    encode(Hello(VERSION, "p" * 64, "1" * 16, claims=claims))
