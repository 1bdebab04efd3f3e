"""The command line: what it says without being set up, and how it ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent.parent

PROXY = """
[[access]]
name = "access"
listen = "127.0.0.1:16900"
[core]
listen = "127.0.0.1:16902"
next_hop = "sip:127.0.0.1:16904"
[gateway]
iq = "unix:{0}/iq.sock"
[status]
socket = "{0}/status.sock"
"""
GATEWAY = """
name = "agw"
[iq]
listen = "unix:{0}/iq.sock"
[[realm]]
name = "access"
addresses = ["127.0.0.1"]
ports = [16910, 16949]
[[realm]]
name = "core"
addresses = ["127.0.0.1"]
ports = [16950, 16989]
"""


def imsalg(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_help_lists_the_commands_by_use_and_imports_none() -> None:
    code = (
        "import sys; from cli.main import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"agw", "imsalg"} & set(said.stdout.splitlines()[-1].split())
    listed = [
        line.split()[0] for line in said.stdout.partition("Commands:")[2].splitlines()[:-1] if line.strip()
    ]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_does(name: str) -> None:
    code, said = imsalg(name, "--help")
    assert code == 0
    assert said.splitlines()[2].startswith("  "), "behind the usage line it is told what the command does"


def test_an_unknown_command_is_a_usage_error() -> None:
    assert imsalg("gatway")[0] == 2


@pytest.mark.parametrize(("text", "kind"), [(PROXY, "proxy"), (GATEWAY, "gateway")], ids=["proxy", "gateway"])
def test_check_knows_whose_file_it_is(text: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text.format(tmp_path))
    assert imsalg("check", str(path)) == (0, f"{path}: right ({kind})\n")


@pytest.mark.parametrize(
    ("text", "right", "wrong", "place", "nearest"),
    [
        (PROXY, "next_hop", "nexthop", "core.nexthop", "next_hop"),
        (PROXY, "[gateway]", "[gatewai]", "gatewai", "gateway"),
        (
            PROXY,
            "[status]",
            "[policy]\nunknown_media = 'refused'\n[status]",
            "policy.unknown_media",
            "refuse",
        ),
        (GATEWAY, "listen", "lisen", "iq.lisen", "listen"),
        (GATEWAY, "ports", "port", "realm[0].port", "ports"),
        (GATEWAY, "[[realm]]", "[[realms]]", "realms", "realm"),
    ],
)
def test_check_names_the_path_and_the_nearest_right_word(
    text: str, right: str, wrong: str, place: str, nearest: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text.format(tmp_path).replace(right, wrong))
    code, said = imsalg("check", str(path))
    assert code == 2
    assert f"{path}: {place}" in said
    assert nearest in said.replace(place, "")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_the_shipped_files_are_right(path: Path) -> None:
    code, said = imsalg("check", str(path))
    assert code == 0, said


def test_check_knows_a_proxys_file_by_its_misspelt_table(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[acess]\n")
    assert imsalg("check", str(path)) == (2, f"{path}: acess: unknown key; did you mean 'access'?\n")


@pytest.mark.parametrize("line", ["cores = [0, 1]", "plane = 'python'", "[dtls]", "coalesce = 0.0001"])
def test_check_knows_a_gateways_file_by_any_line_of_it(line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(line)
    assert imsalg("check", str(path)) == (0, f"{path}: right (gateway)\n")


@pytest.mark.parametrize("text", ["", "# cores = [0, 1]\n"])
def test_check_says_of_an_empty_file_what_it_was_taken_for(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    code, said = imsalg("check", str(path))
    assert code == 0
    assert said.startswith(f"{path}: right (gateway), but it sets nothing: all defaults; a proxy's needs ")


@pytest.mark.parametrize("line", ["[sources]", "[store]\npath = ''"])
def test_check_knows_a_proxys_file_by_any_line_of_it(line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(line)
    code, said = imsalg("check", str(path))
    assert code == 2
    assert said.endswith(": is needed\n")


@pytest.mark.parametrize(
    ("kind", "text", "name"),
    [("gateway", GATEWAY, "iq"), ("proxy", PROXY, "status")],
    ids=["the gateway's Iq", "the proxy's status"],
)
def test_who_cannot_listen_names_the_socket_and_says_what_to_do(
    kind: str, text: str, name: str, tmp_path: Path
) -> None:
    path, folder = tmp_path / "x.toml", tmp_path / "none"
    path.write_text(text.format(folder))
    code, said = imsalg(kind, "-c", str(path))
    assert code == 1
    problem = f"cannot listen on {folder}/{name}.sock: its directory is not there; make it first"
    assert said.splitlines()[-1] == f"imsalg {kind}: {problem}"


@pytest.mark.parametrize(
    ("registrar", "code", "says"),
    [
        ("127.0.0.1", 2, "--registrar: expected sip:HOST:PORT, ws://… or wss://…, got '127.0.0.1'"),
        ("sip:127.0.0.1", 2, "expected sip:HOST:PORT"),
        ("ws://127.0.0.1:1/", 1, "ws://127.0.0.1:1/: "),
        ("sip:nobody.invalid:5060", 1, "sip:nobody.invalid:5060: "),
    ],
)
def test_a_ue_that_reaches_nobody_says_so(registrar: str, code: int, says: str) -> None:
    exited, said = imsalg("rtcue", "--user", "alice", "--registrar", registrar)
    assert exited == code
    assert says in said.splitlines()[-1]


def test_check_of_what_cannot_be_read_exits_with_2(tmp_path: Path) -> None:
    assert imsalg("check", str(tmp_path / "none.toml"))[0] == 2
    (tmp_path / "broken.toml").write_text("[[")
    assert imsalg("check", str(tmp_path / "broken.toml"))[0] == 2


@pytest.mark.parametrize("name", ["proxy", "gateway"])
def test_a_wrong_configuration_keeps_a_server_from_starting(name: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("nonsense = 1")
    code, said = imsalg(name, "-c", str(tmp_path / "wrong.toml"))
    assert code == 2
    assert "nonsense" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_servers_start_talk_and_end_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    """Both processes; the proxy's status tells that they found each other. They take the files they may."""
    servers = []
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = ["bash", "-c", 'ulimit -Sn 256; exec "$@"', "few"]
    for name, text in (("gateway", GATEWAY), ("proxy", PROXY)):
        path = tmp_path / f"{name}.toml"
        path.write_text(text.format(tmp_path))
        command = [*few, sys.executable, "-m", "cli.main", name, "-c", str(path)]
        with open(tmp_path / f"{name}.log", "w") as log:
            servers.append(subprocess.Popen(command, cwd=ROOT, stderr=log))
    try:
        until = time.monotonic() + 30
        status: dict[str, object] = {}
        while not status.get("gateway") and time.monotonic() < until:
            time.sleep(0.05)
            with socket.socket(socket.AF_UNIX) as peer:
                try:
                    peer.connect(str(tmp_path / "status.sock"))
                except OSError:
                    continue
                with peer.makefile("rb") as stream:
                    status = json.loads(stream.read())
        assert status["gateway"]
        for server in servers:
            assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (most, most)
    finally:
        for server in reversed(servers):
            server.send_signal(number)
        codes = [server.wait(30) for server in servers]
    said = {name: (tmp_path / f"{name}.log").read_text() for name in ("gateway", "proxy")}
    assert codes == [0, 0], said
    assert "Traceback" not in said["gateway"] + said["proxy"]
    assert not os.path.exists(tmp_path / "status.sock")
    assert not os.path.exists(tmp_path / "iq.sock")
