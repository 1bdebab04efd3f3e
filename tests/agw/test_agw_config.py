"""The gateway's configuration: what it says by default, and what it says of mistakes."""

import re
import tomllib
from pathlib import Path

import pytest
from agw.native._relay import lib

from agw.config import MAX_ADDRESSES, ConfigError, GatewayConfig, decode, load

HOSTS = [f"192.0.2.{n}" for n in range(33)]
FILE = Path(__file__).parents[2] / "configs" / "gateway.toml"


def test_the_file_says_nothing_and_all_its_comments_are_the_defaults():
    assert load(FILE) == GatewayConfig()
    values = re.sub(r"^#(?! )", "", FILE.read_text(), flags=re.M)
    document = tomllib.loads(values)
    assert decode(document) == GatewayConfig()
    assert document.keys() == {"name", "grace", "plane", "cores", "coalesce", "iq", "realm", "dtls", "limits"}
    assert all(len(each) == 4 for each in (document["iq"], *document["realm"]))
    assert len(document["limits"]) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nmae = 'x'", "nmae: unknown key; did you mean 'name'?"),
        ("visited_network = 'x'", "visited_network: unknown key; known are name, "),
        ("[iq]\nlisten_on = 'unix:x'", "iq.listen_on: unknown key; did you mean 'listen'?"),
        ("[[realm]]\nname='a'\nadresses=[]", "realm[0].adresses: unknown key; did you mean 'addresses'?"),
        ("grace = '1'", "grace: Expected `float`, got `str`"),
        ("grace = -1", "whole file: grace: 0 to 3600"),
        ("grace = nan", "whole file: grace: 0 to 3600"),
        ("name = ''", "whole file: name:"),
        ("[dtls]\ncertificate_life = 1", "dtls: certificate_life: 60 to 31536000 seconds"),
        ("[dtls]\ncertificate_life = inf", "dtls: certificate_life: 60 to 31536000 seconds"),
        ("[limits]\ncontexts = 0", "limits: limits are from 1"),
        ("[limits]\ncontexts = true", "limits.contexts: Expected `int`, got `bool`"),
        ("[iq]\nlisten = 'tcp:x'", "neither \"unix:PATH\" nor \"tls:HOST:PORT\""),
        ("[iq]\nlisten = 'tls:127.0.0.1:99999'", "iq: 'tls:127.0.0.1:99999' is neither"),
        ("[iq]\nlisten = 'tls:127.0.0.1:2944'\ncert='c'\nkey='k'", "iq: listening with tls needs"),
        ("[[realm]]\naddresses = ['127.0.0.1']", "realm[0]: Object missing required field `name`"),
        ("[[realm]]\nname='a'\naddresses=['here']", "realm[0]: 'here' does not appear to be an IPv4"),
        ("[[realm]]\nname='a'\naddresses=['0.0.0.0']", "0.0.0.0 cannot be told to a peer"),
        ("[[realm]]\nname='a'\naddresses=['fe80::1']", "fe80::1 cannot be told to a peer"),
        ("[[realm]]\nname='a'\naddresses=['fe80::1%lo']", "fe80::1%lo cannot be told to a peer"),
        ("[[realm]]\nname='a'\naddresses=['::ffff:192.0.2.1']", "192.0.2.1 cannot be told to a peer"),
        (f"[[realm]]\nname='a'\naddresses={HOSTS}", "whole file: realm: more than 32 addresses in all"),
        ("[[realm]]\nname='a'\naddresses=[]", "realm[0]: addresses: at least one"),
        ("[[realm]]\nname='a'\nports=[31001, 31002]", "realm[0]: ports:"),
        ("[[realm]]\nname='a'\nports=[1, 2, 3]", "realm[0].ports: Expected `array` of length 2"),
        ("[[realm]]\nname='a'\nrest=-1", "realm[0]: rest:"),
        ("[[realm]]\nname='a'\n[[realm]]\nname='a'", "whole file: realm: at least one, and no name twice"),
        ("[[realm]]\nname='a'\n[[realm]]\nname='b'", "realms a and b share ports of 127.0.0.1"),
        ("realm = []", "whole file: realm: at least one"),
        ("realm = 3", "realm: Expected `array`, got `int`"),
        ("name = ", "Invalid value"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_file_path_and_nearest_right_key(tmp_path, text, says):
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_the_packet_loop_knows_its_own_ports_at_as_many_addresses_as_there_may_be():
    assert MAX_ADDRESSES == lib.RELAY_MAX_HOSTS


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"not a text in UTF-8 \(byte 0\)$"):
        load(tmp_path / "binary.toml")


@pytest.mark.parametrize("listen", ["tls:127.0.0.1:2944", "tls:[2001:db8::1]:2944", "tls:gw.example:2944"])
def test_tls_has_three_files(listen):
    config = decode({"iq": {"listen": listen, "cert": "c", "key": "k", "ca": "a"}})
    assert (config.iq.certificates.cert, config.iq.certificates.ca) == ("c", "a")
