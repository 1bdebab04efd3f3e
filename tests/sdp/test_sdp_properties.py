"""Properties: nothing is lost, an edit stays where it belongs, and hostile input raises BadSdp or nothing."""

import random
import re
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from imsalg.errors import BadSdp
from imsalg.sdp import document
from imsalg.sdp.attributes import Connection, Crypto, InlineKey, RtcpAttribute, e2ae_indication
from imsalg.sdp.document import Document, Media, Origin

ENDINGS = st.sampled_from([b"\r\n", b"\n", b"\r"])
VALUES = st.binary(max_size=30).map(lambda value: value.translate(None, b"\r\n\0"))
NAMES = st.sampled_from(
    [b"crypto", b"rtcp", b"rtcp-mux", b"3ge2ae", b"sendonly", b"Crypto ", b"key-mgmt", b"x"]
)
ATTRIBUTES = st.one_of(NAMES, st.tuples(NAMES, VALUES).map(b":".join)).map(b"a=".__add__)
ADDRESSES = st.sampled_from([b"c=IN IP4 192.0.2.1", b"c=IN IP6 2001:db8::1", b"c=IN IP4 0.0.0.0"])
OTHERS = st.tuples(st.sampled_from([b"i", b"b", b"t", b"k", b"y"]), VALUES).map(b"=".join)
LINES = st.lists(st.one_of(ATTRIBUTES, ADDRESSES, OTHERS, st.just(b""), st.just(b" ")), max_size=6)
MEDIA_LINES = st.tuples(
    st.sampled_from([b"m=audio", b"m=video ", b"m= message"]),
    st.sampled_from([b"0", b"9", b"49170", b"49170/2", b"65535"]),
    st.sampled_from([b"RTP/AVP", b"RTP/SAVPF", b"TCP/TLS/MSRP"]),
    st.sampled_from([b"0", b"*", b"0 8  97 "]),
).map(b" ".join)
CRYPTO = re.compile(rb"a=crypto *(?=[:\r\n]|\Z)", re.IGNORECASE)
SECTIONS = st.tuples(MEDIA_LINES, LINES).map(lambda section: [section[0], *section[1]])


@st.composite
def descriptions(draw: Callable[..., list]) -> bytes:
    lines = [b"v=0", b"o=- 1 1 IN IP4 192.0.2.1", b"s=-", *draw(LINES)]
    for section in draw(st.lists(SECTIONS, max_size=4)):
        lines += section
    text = b"".join(line + draw(ENDINGS) for line in lines[:-1])
    return text + lines[-1] + draw(st.sampled_from([b"\r\n", b"\n", b""]))


@st.composite
def mangled(draw: Callable[..., list]) -> bytes:
    data = bytearray(draw(descriptions()))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=4))
    return bytes(data)


@given(descriptions())
def test_what_is_not_edited_leaves_as_it_came(data: bytes) -> None:
    assert bytes(Document(data)) == data
    assert bytes(Document(data).copy()) == data


@given(st.one_of(mangled(), st.binary(max_size=300)))
def test_hostile_bytes_raise_bad_sdp_or_are_kept(data: bytes) -> None:
    with suppress(BadSdp):
        doc = Document(data)
        assert bytes(doc) == data
        read(doc)


@given(descriptions(), st.data())
def test_an_edit_of_one_section_leaves_the_others_byte_for_byte(data: bytes, draw: st.DataObject) -> None:
    doc = Document(data)
    assume(doc.media)
    index = draw.draw(st.integers(0, len(doc.media) - 1))
    before = [pieces(section) for section in (doc.session, *doc.media)]
    edit(doc.media[index])
    after = [pieces(section) for section in (doc.session, *doc.media)]
    assert len(before) == len(after)
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        assert old == new or i == index + 1
    assert bytes(doc) == bytes(Document(bytes(doc)))


@given(descriptions())
def test_removing_leaves_the_rest_of_the_section_byte_for_byte(data: bytes) -> None:
    doc = Document(data)
    for section in (doc.session, *doc.media):
        kept = [line for line in pieces(section) if not CRYPTO.match(line)]
        section.remove_attributes({"crypto"})
        assert pieces(section) == kept
    assert not any(section.has("crypto") for section in (doc.session, *doc.media))


@given(descriptions(), st.sampled_from(["IP4", "IP6"]))
def test_setting_and_reading_agree(data: bytes, addrtype: str) -> None:
    doc = Document(data)
    connection = Connection(addrtype, "host.example")
    origin = Origin("-", "1", 2, "IN", addrtype, "host.example")
    doc.origin = origin
    doc.session.set_connection(connection)
    for media in doc.media:
        media.port, media.proto = 30000, "UDP/TLS/RTP/SAVPF"
        media.set_attribute("x", "y")
        media.remove_lines("c")
    again = Document(bytes(doc))
    assert again.origin == origin
    for media in again.media:
        assert (media.port, media.proto) == (30000, "UDP/TLS/RTP/SAVPF")
        assert media.attributes("x") == ["y"]
        assert again.connection_of(media) == connection


@given(
    st.integers(0, 999999999),
    st.lists(st.binary(min_size=30, max_size=30), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(1, 2**48)),
    st.integers(1, 128),
)
def test_crypto_lines_survive_writing_and_parsing(
    tag: int, materials: list[bytes], lifetime: int | None, mki_length: int
) -> None:
    several = len(materials) > 1
    keys = tuple(
        InlineKey(material, lifetime, i.to_bytes(mki_length) if several else None)
        for i, material in enumerate(materials)
    )
    crypto = Crypto(tag, "AES_CM_128_HMAC_SHA1_80", keys)
    assert Crypto.parse(str(crypto)) == crypto


@given(st.text(max_size=80))
@pytest.mark.parametrize(
    "parse", [Crypto.parse, InlineKey.parse, RtcpAttribute.parse, Connection.parse, Origin.parse]
)
def test_values_raise_bad_sdp_or_nothing(parse: Callable[[str], object], value: str) -> None:
    with suppress(BadSdp):
        parse(value)
    with suppress(BadSdp):
        parse(f"1 AES_CM_128_HMAC_SHA1_80 inline:{value}")
    e2ae_indication([value])


@pytest.mark.parametrize(
    "data",
    [
        b"a=" + b"x:" * 32767,
        b"\r" * document.MAX_SIZE,
        b"m" * document.MAX_SIZE,
        b"a=x\n" * 16384,
        b"v=0\no=- 1 1 IN IP4 x\ns=-\nm=" + b" " * 8000 + b"x",
        b"v=0\no=- 1 1 IN IP4 x\ns=-\nm=audio" + b" " * 8000,
        b"v=0\no=- 1 1 IN IP4 x\ns=-\nm=audio 1 " + b"x " * 4000,
        b"v=0\no=" + b"x " * 4000 + b"\ns=-\n",
        b"v=0\no=- 1 1 IN IP4 x\ns=-\nb=" + b" " * 8000 + b"\n",
    ],
)
def test_the_worst_shapes_for_the_patterns_are_served_or_refused(data: bytes) -> None:
    with suppress(BadSdp):
        read(Document(data))


def test_mutations_of_real_offers_do_no_harm() -> None:
    """A small fuzzer: seeded, and bounded to two seconds wherever it runs."""
    rng = random.Random(20240607)
    end = time.monotonic() + 2
    rounds = 0
    while rounds < 5000 and time.monotonic() < end:
        data = bytearray(rng.choice(SEEDS))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(5):
                case 0:
                    data[at : at + 1] = rng.randbytes(1)
                case 1:
                    del data[at : at + rng.randint(1, 20)]
                case 2:
                    data[at:at] = rng.choice(
                        [b"\r", b"\n", b"\0", b" ", b"=", b":", b"|", b";", b"\xff", b"m=", b"/9"]
                    )
                case 3:
                    other = rng.randrange(len(data) + 1)
                    data[at:at] = data[other : other + 40]
                case 4:
                    data[at:at] = data[at : at + 10] * rng.randint(1, 50)
        with suppress(BadSdp):
            doc = Document(bytes(data))
            assert bytes(doc) == data
            read(doc)
            for media in doc.media:
                edit(media)
            assert bytes(Document(bytes(doc))) == bytes(doc)
        rounds += 1


def pieces(section: document.Section) -> list[bytes]:
    """Its lines, with their endings."""
    return section.text.encode("utf-8", "surrogateescape").splitlines(keepends=True)


def edit(media: Media) -> None:
    media.port = 30000
    media.proto = "RTP/SAVP"
    media.set_connection(Connection("IP4", "198.51.100.1"))
    media.remove_attributes({"crypto", "3ge2ae"})
    media.add_attribute("rtcp", "30001")


def read(doc: Document) -> None:
    """Everything that can be asked."""
    assert doc.origin.version >= 0
    for section in (doc.session, *doc.media):
        for value in section.attributes("crypto"):
            with suppress(BadSdp):
                assert repr(Crypto.parse(value))
        for value in section.attributes("rtcp"):
            with suppress(BadSdp):
                RtcpAttribute.parse(value)
        e2ae_indication(section.attributes("3ge2ae"))
    for media in doc.media:
        assert media.kind
        assert media.proto
        assert media.formats or not media.port
        doc.direction_of(media)
        with suppress(BadSdp):
            doc.key_mgmt_of(media)
        if media.port:
            doc.connection_of(media)


SEEDS = [
    b"v=0\r\no=alice 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
    b"m=audio 49170 RTP/SAVP 0 101\r\n"
    b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^20|1:4 WSH=64\r\n"
    b"a=3ge2ae:requested\r\na=rtcp:49171 IN IP4 192.0.2.1\r\na=rtcp-mux\r\na=sendrecv\r\n",
    b"v=0\no=- 5 7 IN IP6 2001:db8::1\ns=-\nt=0 0\na=key-mgmt:mikey AQAFgM0XflABAAAA\n"
    b"m=video 0/2 RTP/SAVPF 96\n"
    b"m=message 9 TCP/TLS/MSRP *\nc=IN IP6 2001:db8::1\nb=AS:80\na=path:msrps://h:9/x;tcp\na=setup:active",
]
