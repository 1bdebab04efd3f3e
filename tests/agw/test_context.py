"""What must hold between contexts, terminations and streams."""

import pytest

from agw.certificate import Certificate
from agw.context import Context, Termination, check_context, check_streams
from agw.errors import CommandError
from agw.iq.messages import (
    MAX_STREAMS,
    MAX_TERMINATIONS,
    Address,
    Dtls,
    DtlsRole,
    Fingerprint,
    Ice,
    Key,
    Mode,
    Stream,
    Suite,
    Transport,
)

KEY = Key(Suite.AES_CM_128_HMAC_SHA1_80, bytes(30))
REMOTE = Address("192.0.2.9", 5000)
CERTIFICATE = Certificate()
PRINT = Fingerprint("sha-256", bytes(32))
AGREED = Dtls("1", DtlsRole.SERVER, (PRINT,))
ICE = Ice("abcd", "0123456789012345678901")


def keyed(mki: bytes, suite=Suite.AES_CM_128_HMAC_SHA1_80):
    return Key(suite, bytes(suite.material_length), mki)


def srtp(**fields):
    return Stream(1, Transport.SRTP, **fields)


def rtp(**fields):
    return Stream(1, Transport.RTP, **fields)


def dtls(dtls, **fields):
    return Stream(1, Transport.DTLS_SRTP, dtls=dtls, **fields)


GOOD = [
    rtp(),
    rtp(remote=REMOTE, remote_rtcp=Address("192.0.2.8", 1), rtcp_mux=True, mode=Mode.SENDRECV),
    Stream(0, Transport.UDP, REMOTE, mode=Mode.SENDRECV),
    Stream(65535, Transport.RTP, inactivity=60.0, latch=True, source_filter=True),
    srtp(),
    srtp(local_key=KEY),
    srtp(local_key=KEY, remote_keys=(KEY,), mode=Mode.SENDRECV),
    srtp(local_key=KEY, remote_keys=(keyed(b"\1"), keyed(b"\2")), mode=Mode.RECVONLY),
    *(srtp(local_key=Key(suite, bytes(suite.material_length))) for suite in Suite),
    dtls(Dtls("1")),
    dtls(Dtls("1", fingerprints=(PRINT,))),
    dtls(AGREED, mode=Mode.SENDRECV),
    dtls(Dtls("1", DtlsRole.CLIENT, (PRINT, Fingerprint("sha-256", bytes(range(32)))))),
    dtls(Dtls("1", DtlsRole.CLIENT, (Fingerprint("sha-1", bytes(20)),))),
    Stream(1, Transport.DTLS, REMOTE, dtls=AGREED, mode=Mode.SENDRECV, latch=True),
    dtls(AGREED, ice=ICE),
    rtp(ice=Ice("a" * 256, "b+/9" * 64, "c" * 256)),
]

BAD = [
    ("out of range", Stream(-1, Transport.RTP)),
    ("out of range", Stream(65536, Transport.RTP)),
    ("not numeric", rtp(remote=Address("example.com", 5000))),
    ("not numeric", rtp(remote=Address("192.0.2.1\n", 5000))),
    ("not numeric", rtp(remote=Address("192.0.2.010", 5000))),
    ("other family", rtp(remote=Address("2001:db8::1", 5000))),
    ("unspecified", rtp(remote=Address("0.0.0.0", 5000))),
    ("multicast", rtp(remote=Address("224.0.0.1", 5000))),
    ("broadcast", rtp(remote=Address("255.255.255.255", 5000))),
    ("port out of range", rtp(remote=Address("192.0.2.1", 0))),
    ("port out of range", rtp(remote=Address("192.0.2.1", 65536))),
    ("multicast", rtp(remote=REMOTE, remote_rtcp=Address("224.0.0.1", 5000))),
    ("without remote", rtp(remote_rtcp=REMOTE)),
    ("inactivity", rtp(inactivity=-1.0)),
    ("inactivity", rtp(inactivity=float("nan"))),
    ("inactivity", rtp(inactivity=float("inf"))),
    ("keys on RTP/AVP", rtp(local_key=KEY)),
    ("keys on UDP", Stream(1, Transport.UDP, remote_keys=(KEY,))),
    ("a key of 29 bytes", srtp(local_key=Key(Suite.AES_CM_128_HMAC_SHA1_80, bytes(29)))),
    ("a key of 30 bytes", srtp(remote_keys=(Key(Suite.AEAD_AES_256_GCM, bytes(30)),))),
    ("more than 128", srtp(remote_keys=(keyed(bytes(129)),))),
    ("MKI in local_key", srtp(local_key=keyed(b"\1"))),
    ("without MKIs", srtp(remote_keys=(KEY, KEY))),
    ("of one length", srtp(remote_keys=(keyed(b"\1"), keyed(b"\0\1")))),
    ("with one MKI", srtp(remote_keys=(keyed(b"\1"), keyed(b"\1")))),
    ("several suites", srtp(remote_keys=(keyed(b"\1"), keyed(b"\2", Suite.AEAD_AES_128_GCM)))),
    ("more than 16", srtp(remote_keys=tuple(keyed(bytes([n])) for n in range(17)))),
    ("before both keys", srtp(mode=Mode.SENDRECV)),
    ("before both keys", srtp(local_key=KEY, mode=Mode.SENDONLY)),
    ("before both keys", srtp(remote_keys=(KEY,), mode=Mode.RECVONLY)),
    ("without dtls", dtls(None)),
    ("dtls on RTP/SAVP", srtp(dtls=AGREED)),
    ("dtls on UDP", Stream(1, Transport.UDP, dtls=AGREED)),
    ("keys on UDP/TLS/RTP/SAVP", dtls(AGREED, local_key=KEY)),
    ("keys on UDP/DTLS", Stream(1, Transport.DTLS, dtls=AGREED, remote_keys=(KEY,))),
    ("no name", dtls(Dtls(""))),
    ("no name", dtls(Dtls("a\nb"))),
    ("without fingerprints", dtls(Dtls("1", DtlsRole.CLIENT))),
    ("before the DTLS role", dtls(Dtls("1", fingerprints=(PRINT,)), mode=Mode.SENDONLY)),
    ("more than 16", dtls(Dtls("1", None, (PRINT,) * 17))),
    ("several hash", dtls(Dtls("1", None, (PRINT, Fingerprint("sha-1", bytes(20)))))),
    ("by 'md5'", dtls(Dtls("1", None, (Fingerprint("md5", bytes(16)),)))),
    ("of 31 bytes", dtls(Dtls("1", None, (Fingerprint("sha-256", bytes(31)),)))),
    ("transparent", Stream(1, Transport.UDP, ice=ICE)),
    ("ice and latch", rtp(ice=ICE, latch=True)),
    ("ICE ufrag", rtp(ice=Ice("abc", ICE.pwd))),
    ("ICE ufrag", rtp(ice=Ice("a" * 257, ICE.pwd))),
    ("ICE ufrag", rtp(ice=Ice("", ICE.pwd))),
    ("ICE ufrag", rtp(ice=Ice("abc:", ICE.pwd))),
    ("ICE ufrag", rtp(ice=Ice("abcd", ICE.pwd, "a b c d"))),
    ("ICE pwd", rtp(ice=Ice("abcd", ICE.pwd[1:]))),
    ("ICE pwd", rtp(ice=Ice("abcd", ICE.pwd + "ä"))),
]


@pytest.mark.parametrize("stream", GOOD)
def test_a_stream_that_makes_sense_is_taken(stream):
    check_streams((stream,), ip6=False)


@pytest.mark.parametrize(("why", "stream"), BAD)
def test_a_stream_that_makes_no_sense_is_invalid_and_no_key_is_told_p18(why, stream):
    with pytest.raises(CommandError, match=why) as caught:
        check_streams((stream,), ip6=False)
    assert caught.value.code == "invalid"
    assert "\\x00" not in str(caught.value)


@pytest.mark.parametrize("host", ["::", "ff02::1", "fe80::1%eth0", "::ffff:192.0.2.1", "192.0.2.1"])
def test_an_ipv6_remote_is_an_ordinary_one(host):
    check_streams((rtp(remote=Address("2001:DB8:0::1", 5000)),), ip6=True)
    with pytest.raises(CommandError):
        check_streams((rtp(remote=Address(host, 5000)),), ip6=True)


def test_a_stream_is_given_once_in_a_command():
    with pytest.raises(CommandError, match="twice"):
        check_streams((rtp(), rtp()), ip6=False)


def termination(name, *streams):
    ids = {stream.id: stream for stream in streams}
    return Termination(
        name, "access", "192.0.2.1", False, ids, {id: 31000 + 2 * id for id in ids}, CERTIFICATE
    )


def context(*terminations):
    return Context("c", "pcscf", {each.name: each for each in terminations})


def modes(**by_name):
    return context(*(termination(name, rtp(mode=mode)) for name, mode in by_name.items()))


ON, OFF = Mode.SENDRECV, Mode.INACTIVE


@pytest.mark.parametrize(
    ("joined", "which"),
    [
        (modes(a=ON), None),
        (modes(a=OFF, b=OFF), ("a", "b")),
        (modes(b=ON, a=ON), ("b", "a")),
        (modes(a=OFF, b=OFF, c=OFF), None),
        (modes(a=ON, b=OFF, c=OFF), None),
        (modes(a=ON, b=OFF, c=Mode.RECVONLY), ("a", "c")),
        (modes(a=ON, b=ON, c=ON), ("a", "b")),
        (context(termination("a", rtp()), termination("b", Stream(1, Transport.UDP))), None),
        (context(termination("a", rtp(mode=ON)), termination("b", Stream(1, Transport.UDP))), None),
    ],
)
def test_two_that_fit_are_joined_and_of_more_the_first_two_active_p26(joined, which):
    assert joined.connected(1) == which


@pytest.mark.parametrize(
    "datagrams", [Stream(1, Transport.UDP, mode=ON), Stream(1, Transport.DTLS, dtls=AGREED, mode=ON)]
)
def test_a_transparent_side_is_joined_with_its_like_only(datagrams):
    check_context(context(termination("a", datagrams), termination("b", Stream(1, Transport.UDP, mode=ON))))
    for media in (rtp(mode=ON), dtls(AGREED, mode=ON)):
        with pytest.raises(CommandError) as caught:
            check_context(context(termination("a", datagrams), termination("b", media)))
        assert caught.value.code == "unsupported"


def test_what_goes_through_dtls_is_sent_to_where_is_signalled():
    fax = termination("a", Stream(1, Transport.DTLS, dtls=AGREED, latch=True, mode=ON))
    check_context(context(fax, termination("b", Stream(1, Transport.UDP, mode=ON))))
    with pytest.raises(CommandError, match="cannot latch"):
        check_context(context(fax, termination("b", Stream(1, Transport.UDP, latch=True, mode=ON))))


def test_the_fingerprint_of_our_certificate_is_told_where_there_is_dtls():
    one = termination("a", rtp(), Stream(2, Transport.DTLS, dtls=AGREED))
    assert one.local(1).fingerprint is None
    assert one.local(2).fingerprint == Fingerprint("sha-256", CERTIFICATE.sha256)


def test_bounds():
    check_context(context(*(termination(str(n), rtp()) for n in range(MAX_TERMINATIONS))))
    many = [Stream(n, Transport.RTP) for n in range(MAX_STREAMS + 1)]
    for crowd in [
        context(*(termination(str(n), rtp()) for n in range(MAX_TERMINATIONS + 1))),
        context(termination("a", *many)),
    ]:
        with pytest.raises(CommandError) as caught:
            check_context(crowd)
        assert caught.value.code == "overload"
    with pytest.raises(CommandError, match="more than 32 streams"):
        check_streams(many, ip6=False)
    with pytest.raises(CommandError, match="without a stream"):
        check_context(context(termination("a")))
