"""Documents: what is read, what an edit touches, what is refused."""

import pytest

from imsalg.errors import BadSdp, UsageError
from imsalg.sdp import document
from imsalg.sdp.attributes import Connection, Direction
from imsalg.sdp.document import Document, Origin

HEAD = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\n"
OFFER = (
    b"v=0\r\n"
    b"o=alice 2890844526 2890844527 IN IP4 192.0.2.1\r\n"
    b"s=A call\r\n"
    b"c=IN IP4 192.0.2.1\r\n"
    b"b=AS:80\r\n"
    b"t=0 0\r\n"
    b"a=sendonly\r\n"
    b"m=audio 49170/2 RTP/AVP 0 8 97\r\n"
    b"a=rtpmap:97 AMR-WB/16000\r\n"
    b"a=ptime:20\r\n"
    b"m=video 0 RTP/AVP 31\r\n"
    b"c=IN IP6 2001:db8::1\r\n"
    b"a=recvonly\r\n"
)


def edited(before: bytes, after: bytes) -> list[tuple[str, bytes]]:
    """The lines taken away and put in, by position from both ends."""
    old, new = before.splitlines(True), after.splitlines(True)
    while old and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    return [("-", line) for line in old] + [("+", line) for line in new]


def test_reads_the_fields_of_every_section() -> None:
    doc = Document(OFFER)
    audio, video = doc.media
    assert doc.origin == Origin("alice", "2890844526", 2890844527, "IN", "IP4", "192.0.2.1")
    assert (audio.kind, audio.port, audio.proto) == ("audio", 49170, "RTP/AVP")
    assert audio.formats == ("0", "8", "97")
    assert (video.kind, video.port, video.formats) == ("video", 0, ("31",))
    assert doc.connection_of(audio) == Connection("IP4", "192.0.2.1")
    assert doc.connection_of(video) == Connection("IP6", "2001:db8::1")
    assert doc.direction_of(audio) is Direction.SENDONLY
    assert doc.direction_of(video) is Direction.RECVONLY
    assert audio.attributes("rtpmap") == ["97 AMR-WB/16000"]
    assert not doc.session.has("rtpmap")


def test_direction_is_sendrecv_when_nobody_says() -> None:
    doc = Document(HEAD + b"m=audio 4000 RTP/AVP 0\r\n")
    assert doc.direction_of(doc.media[0]) is Direction.SENDRECV
    assert doc.connection_of(doc.media[0]) is None


def test_attributes_are_found_whatever_their_case_and_blanks() -> None:
    media = Document(
        HEAD + b"m=audio 4000 RTP/AVP 0\na=Crypto: x\na= crypto :y\na=RTCP-MUX \na=cryptos:z\n"
    ).media[0]
    assert media.attributes("crypto") == [" x", "y"]
    assert media.attribute("rtcp-mux") == ""
    media.remove_attributes({"crypto", "rtcp-mux"})
    assert media.text == "m=audio 4000 RTP/AVP 0\na=cryptos:z\n"


def test_an_attribute_flag_differs_from_an_empty_value() -> None:
    doc = Document(HEAD)
    doc.session.add_attribute("flag")
    doc.session.add_attribute("empty", "")
    assert bytes(doc) == HEAD + b"a=flag\r\na=empty:\r\n"


def test_one_assignment_changes_one_field() -> None:
    doc = Document(HEAD + b"m=audio\t 49170/2  RTP/AVP \t0  8 \r\na=x\r\n")
    doc.media[0].proto = "RTP/SAVP"
    assert bytes(doc) == HEAD + b"m=audio\t 49170/2  RTP/SAVP \t0  8 \r\na=x\r\n"
    doc.media[0].port = 30000
    assert bytes(doc) == HEAD + b"m=audio\t 30000  RTP/SAVP \t0  8 \r\na=x\r\n"


def test_new_lines_stand_where_rfc_8866_wants_them() -> None:
    doc = Document(HEAD + b"i=info\r\nt=0 0\r\nk=clear:x\r\na=a\r\nm=audio 1 RTP/AVP 0\r\ni=title\r\na=b\r\n")
    for section in (doc.session, doc.media[0]):
        section.set_connection(Connection("IP4", "198.51.100.1"))
        section.add_attribute("c", "d")
    assert bytes(doc) == (
        HEAD + b"i=info\r\nc=IN IP4 198.51.100.1\r\nt=0 0\r\nk=clear:x\r\na=a\r\na=c:d\r\n"
        b"m=audio 1 RTP/AVP 0\r\ni=title\r\nc=IN IP4 198.51.100.1\r\na=b\r\na=c:d\r\n"
    )


def test_an_address_goes_before_lines_of_unknown_type() -> None:
    doc = Document(HEAD + b"m=video 1 RTP/AVP 96\r\ny=0100000001\r\nf=\r\n")
    doc.media[0].set_connection(Connection("IP4", "198.51.100.1"))
    doc.media[0].add_attribute("x")
    assert bytes(doc).endswith(b"96\r\nc=IN IP4 198.51.100.1\r\ny=0100000001\r\nf=\r\na=x\r\n")


def test_set_connection_keeps_the_place_and_leaves_one_line() -> None:
    source = (
        HEAD + b"m=audio 1 RTP/AVP 0\r\na=x\r\nc=IN IP4 224.2.1.1/127\r\na=y\r\nc=IN IP4 224.2.1.2/127\r\n"
    )
    doc = Document(source)
    assert doc.media[0].connection == Connection("IP4", "224.2.1.1/127")
    doc.media[0].set_connection(Connection("IP6", "2001:db8::9"))
    assert bytes(doc) == HEAD + b"m=audio 1 RTP/AVP 0\r\na=x\r\nc=IN IP6 2001:db8::9\r\na=y\r\n"
    doc.media[0].remove_lines("c")
    assert bytes(doc) == HEAD + b"m=audio 1 RTP/AVP 0\r\na=x\r\na=y\r\n"


def test_set_attribute_replaces_the_first_and_removes_the_others() -> None:
    doc = Document(HEAD + b"a=x:1\r\na=y\r\na=x:2\r\n")
    doc.session.set_attribute("x", "3")
    doc.session.set_attribute("z")
    assert bytes(doc) == HEAD + b"a=x:3\r\na=y\r\na=z\r\n"


def test_attributes_are_removed_by_predicate() -> None:
    doc = Document(HEAD + b"a=ssrc:1 cname:x\r\na=ssrc:2 label:y\r\na=mid:0\r\n")
    doc.session.remove_attributes_where("ssrc", lambda value: "cname" in value)
    assert bytes(doc) == HEAD + b"a=ssrc:2 label:y\r\na=mid:0\r\n"


def test_origin_is_replaced_alone() -> None:
    doc = Document(OFFER)
    doc.origin = Origin("-", "7", 9, "IN", "IP6", "2001:db8::2")
    assert edited(OFFER, bytes(doc)) == [
        ("-", b"o=alice 2890844526 2890844527 IN IP4 192.0.2.1\r\n"),
        ("+", b"o=- 7 9 IN IP6 2001:db8::2\r\n"),
    ]


def test_origin_tolerates_blanks_in_the_user_name() -> None:
    assert Origin.parse("John  Q Doe 1 2 IN IP4 host.example").username == "John Q Doe"


@pytest.mark.parametrize("value", ["", "- 1 1 IN IP4", "1 1 IN IP4 x", "- 1 x IN IP4 x", "- 1 ² IN IP4 x"])
def test_a_broken_origin_is_refused(value: str) -> None:
    with pytest.raises(BadSdp, match="o= line") as caught:
        Origin.parse(value)
    assert caught.value.status == 400


def test_new_lines_take_the_prevailing_ending_and_old_ones_keep_theirs() -> None:
    doc = Document(HEAD.replace(b"\r\n", b"\n") + b"a=x\r\nm=audio 1 RTP/AVP 0\na=y")
    doc.session.add_attribute("new")
    doc.media[0].port = 2
    assert bytes(doc).endswith(b"s=-\na=x\r\na=new\nm=audio 2 RTP/AVP 0\na=y")


def test_a_last_line_without_ending_gets_one_only_when_something_follows() -> None:
    doc = Document(HEAD + b"a=x")
    doc.session.set_attribute("x", "1")
    assert bytes(doc) == HEAD + b"a=x:1"
    doc.session.add_attribute("y")
    assert bytes(doc) == HEAD + b"a=x:1\r\na=y\r\n"


def test_attributes_are_added_before_trailing_blank_lines() -> None:
    doc = Document(HEAD + b"m=audio 1 RTP/AVP 0\r\n\r\n \r\n")
    doc.media[0].add_attribute("x")
    assert bytes(doc).endswith(b"RTP/AVP 0\r\na=x\r\n\r\n \r\n")


def test_a_copy_is_independent() -> None:
    doc = Document(OFFER)
    twin = doc.copy()
    twin.media[0].port = 1
    twin.session.add_attribute("x")
    twin.media.pop()
    assert bytes(doc) == OFFER
    assert bytes(twin) != OFFER


@pytest.mark.parametrize(
    "tail",
    [
        b"m=audio 0 RTP/AVP 0",
        b"m=audio 0 RTP/AVP *",
        b"m=audio 0 RTP/AVP 255",
        b"m=audio 0/2 RTP/AVP 0",
        b"m=audio 0 RTP/AVP",
        b"m=audio 0 RTP/AVP 0\r\nc=nonsense",
        b"m=image 0 udptl t38\r\nm=audio 4000/2 RTP/AVP 0",
    ],
)
def test_odd_lines_with_port_zero_are_accepted_p32(tail: bytes) -> None:
    doc = Document(HEAD + tail)
    assert doc.media[0].port == 0
    assert bytes(doc) == HEAD + tail


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"hello",
        b"v=0\r\n",
        b"v=1\r\no=- 1 1 IN IP4 x\r\ns=-\r\n",
        b"o=- 1 1 IN IP4 x\r\nv=0\r\ns=-\r\n",
        b"v=0\r\ns=-\r\n",
        b"v=0\r\no=- 1 1 IN IP4 x\r\n",
        b"v=0\r\no=- 1 1 IN IP4 x\r\nm=audio 1 RTP/AVP 0\r\ns=-\r\n",
        HEAD + HEAD,
        HEAD + b"o=- 1 1 IN IP4 x\r\n",
        HEAD + b"v=0\r\n",
        HEAD + b"c=IN IP4\r\n",
        HEAD + b"c=TN E164 +12\r\n",
        HEAD + b"c=IN IP4 192.0.2.1\r\nc=IN\r\n",
        HEAD + b"m=audio 1 RTP/AVP 0\r\nc=IN IP5 x\r\n",
        HEAD + b"m=\r\n",
        HEAD + b"m=audio\r\n",
        HEAD + b"m=audio 1\r\n",
        HEAD + b"m=audio 1 RTP/AVP\r\n",
        HEAD + b"m=audio 1 RTP/AVP \t\r\n",
        HEAD + b"m=audio x RTP/AVP 0\r\n",
        HEAD + b"m=audio -1 RTP/AVP 0\r\n",
        HEAD + b"m=audio 65536 RTP/AVP 0\r\n",
        HEAD + b"m=audio 999999 RTP/AVP 0\r\n",
        HEAD + b"m=audio 1/0 RTP/AVP 0\r\n",
        HEAD + b"m=audio 1/ RTP/AVP 0\r\n",
        HEAD + "m=audio ٣ RTP/AVP 0\r\n".encode(),
        HEAD + b" a=crypto:1 hidden from a strict eye\r\n",
        HEAD + b"a crypto\r\n",
        HEAD + b"=x\r\n",
        b"\xef\xbb\xbf" + HEAD,
        b"\x00" * 100,
        b"\xff" * 100,
    ],
)
def test_what_breaks_the_grammar_is_answered_400(data: bytes) -> None:
    with pytest.raises(BadSdp) as caught:
        Document(data)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"a=x\n" * (document.MAX_LINES - 2), 413),
        (HEAD + b"a=" + b"x" * (document.MAX_LINE - 3) + b"\r\n", 413),
        (HEAD + b"a=" + b"x" * document.MAX_LINE, 413),
        (b"x" * (document.MAX_SIZE + 1), 413),
        (HEAD + b"m=audio 0 RTP/AVP 0\n" * (document.MAX_MEDIA + 1), 488),
        (HEAD + b"a=key-mgmt:mikey " + b"A" * 2040 + b"\n" + b"m=audio 0 RTP/AVP 0\n" * 32, 413),
        (HEAD + b"a=ice-options:x\n" * 1800 + b"m=audio 0 RTP/AVP 0\n" * 3, 413),
    ],
)
def test_what_is_too_much_is_refused_by_its_kind(data: bytes, status: int) -> None:
    with pytest.raises(BadSdp) as caught:
        Document(data)
    assert caught.value.status == status


def test_the_bounds_themselves_are_served() -> None:
    for data in (
        HEAD + b"a=x\n" * (document.MAX_LINES - 3),
        HEAD + b"a=" + b"x" * (document.MAX_LINE - 4) + b"\r\n",
        HEAD + b"m=audio 0 RTP/AVP 0\n" * document.MAX_MEDIA,
        HEAD + b"a=key-mgmt:mikey " + b"A" * 2032 + b"\n" + b"m=audio 0 RTP/AVP 0\n" * 32,
        HEAD + b"a=ice-options:x\n" * 1800 + b"m=audio 0 RTP/AVP 0\n" * 2,
    ):
        assert bytes(Document(data)) == data


def test_configuration_may_lower_the_number_of_media() -> None:
    data = HEAD + b"m=audio 1 RTP/AVP 0\r\n" * 3
    assert len(Document(data, max_media=3).media) == 3
    with pytest.raises(BadSdp, match="more than 2"):
        Document(data, max_media=2)


@pytest.mark.parametrize("kind", [b"au\x1bdio", b"x" * 65, b"inline:x", "ä".encode()])
def test_kind_and_protocol_are_short_tokens(kind: bytes) -> None:
    for line in (b"m=%b 4000 RTP/AVP 0\r\n" % kind, b"m=audio 4000 RTP/%b 0\r\n" % kind):
        with pytest.raises(BadSdp) as caught:
            _ = Document(HEAD + line).media[0].kind
        assert caught.value.status == 400


def test_nul_is_refused() -> None:
    with pytest.raises(BadSdp) as caught:
        Document(HEAD + b"a=crypto\x00:1\r\n")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "tail", [b"a=\x01\x1f\r\n", b"a=\xff\xfe:\x80\r\n", b"y=\r\n", b"a=\xc2\x85\xe2\x80\xa8z\r\n"]
)
def test_strange_bytes_are_kept(tail: bytes) -> None:
    data = HEAD + tail
    doc = Document(data)
    doc.session.add_attribute("x")
    assert bytes(doc) == data + b"a=x\r\n"


def test_a_lone_carriage_return_ends_a_line_and_so_hides_nothing() -> None:
    doc = Document(HEAD + b"m=audio 1 RTP/AVP 0\r\na=x\ra=crypto:1\r\n")
    assert doc.media[0].has("crypto")
    doc.media[0].remove_attributes({"crypto"})
    assert bytes(doc).endswith(b"a=x\r")


def test_key_management_is_found_at_either_level() -> None:
    data = (
        HEAD
        + b"a=key-mgmt: mikey AQAF\r\nm=audio 1 RTP/SAVP 0\r\n"
        + b"m=audio 1 RTP/SAVP 0\r\na=key-mgmt:x-KM AA==\r\n"
    )
    doc = Document(data)
    assert [doc.key_mgmt_of(media) for media in doc.media] == [("mikey",), ("x-km",)]
    assert Document(OFFER).key_mgmt_of(Document(OFFER).media[0]) == ()
    doc.session.set_attribute("key-mgmt", "mikey")
    with pytest.raises(BadSdp, match="key-mgmt"):
        doc.key_mgmt_of(doc.media[0])


def test_our_own_mistakes_are_no_peers() -> None:
    media = Document(OFFER).media[0]
    for text in ("x\r\nm=audio 1 RTP/AVP 0", "x\ny", "x\ry"):
        with pytest.raises(UsageError):
            media.add_attribute("x", text)
        with pytest.raises(UsageError):
            media.set_attribute("ptime", text)
        with pytest.raises(UsageError):
            media.proto = text
    for port in (-1, 65536):
        with pytest.raises(UsageError):
            media.port = port
    with pytest.raises(UsageError):
        media.remove_lines("m")


def test_keys_of_the_old_k_line_can_be_taken_away() -> None:
    doc = Document(HEAD + b"k=base64:c2VjcmV0\r\nm=audio 1 RTP/SAVP 0\r\nk=clear:secret\r\n")
    for section in (doc.session, *doc.media):
        section.remove_lines("k")
    assert bytes(doc) == HEAD + b"m=audio 1 RTP/SAVP 0\r\n"


def test_no_repr_shows_a_line_p18() -> None:
    key = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz"
    doc = Document(HEAD + f"k=clear:{key}\r\nm=audio 1 RTP/SAVP 0\r\na=crypto:1 X inline:{key}\r\n".encode())
    shown = repr((doc, doc.session, doc.media)) + str((doc, doc.session, *doc.media))
    assert key not in shown


def test_no_exception_shows_a_line_p18() -> None:
    for bad in (b"m=SECRET x RTP/AVP 0", b"o=SECRET", b"c=SECRET", b"SECRET", b"v=SECRET"):
        with pytest.raises(BadSdp) as caught:
            Document(HEAD + bad)
        assert "SECRET" not in str(caught.value)


def test_a_line_that_came_without_an_ending_gets_one_for_good_when_another_follows() -> None:
    media = (doc := Document(HEAD + b"m=audio 4000 RTP/AVP 0")).media[0]
    media.add_attribute("rtcp", "1")
    media.port = 5000
    assert bytes(doc) == HEAD + b"m=audio 5000 RTP/AVP 0\r\na=rtcp:1\r\n"
