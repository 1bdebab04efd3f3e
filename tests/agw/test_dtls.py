"""DTLS: both roles of ours with each other over a bad link, OpenSSL's own tools, and whoever means harm."""

import gc
import random
import select
import socket
import subprocess
import time
import weakref
from contextlib import contextmanager
from itertools import pairwise

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agw.certificate import MTU, Certificate
from agw.dtls import (
    HANDSHAKE_LIMIT,
    MAX_DATA,
    MAX_FINISHED,
    MAX_REPEATS,
    Association,
    Closed,
    Data,
    Established,
    Failed,
    State,
)
from agw.records import MAX_MESSAGE

OURS, THEIRS = Certificate(), Certificate()
SECRET = bytes(range(32))
PATIENCE = 20.0


def prints(certificate, name="sha-256"):
    algorithm = {"sha-1": hashes.SHA1, "sha-256": hashes.SHA256, "sha-512": hashes.SHA512}[name]
    return [(name, certificate._x509.fingerprint(algorithm()))]


def association(client, peer=None, mine=None, srtp=True):
    """Of ours where it is the server."""
    mine = mine or (THEIRS if client else OURS)
    return Association(mine, client, peer or prints(OURS if client else THEIRS), srtp, SECRET)


def events(end):
    return list(iter(end.next_event, None))


def carry(one, other, now=0.0, source=b"there"):
    """Until neither has anything to say."""
    for _ in range(20):
        out, back = one.to_send(), other.to_send()
        if not out and not back:
            return
        for datagram in out:
            other.receive(datagram, source, now)
        for datagram in back:
            one.receive(datagram, source, now)
    raise AssertionError("they never end")


def shake(client=None, server=None):
    client, server = client or association(True), server or association(False)
    client.start(0.0)
    carry(client, server)
    return client, server


def established():
    client, server = shake()
    assert [type(event) for event in events(client) + events(server)] == [Established] * 2
    return client, server


def hello():
    client = association(True)
    client.start(0.0)
    return client.to_send()[0]


class LargeCertificate(Certificate):
    """RSA with 4,096 bits: the certificate and what it signs fill several datagrams."""

    __slots__ = ()

    def __init__(self):
        super().__init__()
        self._key = rsa.generate_private_key(65537, 4096)
        self._x509 = (
            x509.CertificateBuilder()
            .subject_name(self._x509.subject)
            .issuer_name(self._x509.subject)
            .public_key(self._key.public_key())
            .serial_number(7)
            .not_valid_before(self._x509.not_valid_before_utc)
            .not_valid_after(self._x509.not_valid_after_utc)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("a" * 60 + ".example")] * 20), False)
            .sign(self._key, hashes.SHA256())
        )
        self.sha256 = self._x509.fingerprint(hashes.SHA256())


@pytest.fixture(scope="module")
def large():
    return LargeCertificate()


# -- between two of ours ---------------------------------------------------------------------------------


def test_both_ends_agree_on_the_best_profile_and_have_each_others_keys():
    client, server = shake()
    (at_client,), (at_server,) = events(client), events(server)
    assert at_client.profile == at_server.profile == "SRTP_AEAD_AES_256_GCM"
    assert (at_client.local, at_client.remote) == (at_server.remote, at_server.local)
    assert len(at_client.local) == 44
    assert at_client.local != at_client.remote
    assert at_client.version == "DTLSv1.2"
    assert at_client.cipher == "ECDHE-ECDSA-AES256-GCM-SHA384"
    assert client.timeout() is server.timeout() is None


def test_keys_are_in_no_repr_p18():
    client, _ = shake()
    (event,) = events(client)
    assert event.local.hex() not in repr(event)
    assert repr(event.local)[2:-1] not in repr(event)


@pytest.mark.parametrize("name", ["sha-1", "sha-256", "sha-512"])
def test_any_of_the_fingerprints_is_enough(name):
    several = prints(OURS, name) + prints(THEIRS, name)
    client, server = shake(association(True, several), association(False, several))
    assert (client.state, server.state) == (State.ESTABLISHED, State.ESTABLISHED)


def test_data_pass_in_records_one_datagram_each_and_without_srtp():
    client, server = shake(association(True, srtp=False), association(False, srtp=False))
    assert [event.profile for event in events(client) + events(server)] == ["", ""]
    for size in (1, 172, 1400, MAX_DATA - 37):
        assert client.send(bytes(size))
        (datagram,) = client.to_send()
        server.receive(datagram, None, 1.0)
        assert events(server) == [Data(bytes(size))]
    assert not client.send(b"")
    assert not client.send(bytes(MAX_DATA + 1))
    assert not association(True).send(b"early")


def test_an_end_that_closes_is_heard_and_says_nothing_more():
    client, server = established()
    client.close()
    server.receive(client.to_send()[0], None, 1.0)
    assert events(server) == [Closed()]
    assert len(server.to_send()) == 1  # its own close_notify
    assert not client.send(b"late")
    assert not server.send(b"late")
    server.close()
    assert server.to_send() == []


def test_an_srtp_association_without_a_common_profile_fails():
    _, server = shake(association(True, srtp=False), association(False, srtp=True))
    (failed,) = events(server)
    assert (failed.reason, server.state) == ("no SRTP profile is agreed", State.ENDED)


def test_a_handshake_that_nobody_answers_ends_after_its_limit():
    client = association(True)
    client.start(5.0)
    assert 5.0 < client.timeout() < 5.0 + HANDSHAKE_LIMIT
    (flight,), sent = client.to_send(), 0
    while client.timeout() < 5.0 + HANDSHAKE_LIMIT:  # by OpenSSL's clock nothing is due
        client.expire(client.timeout())
        again = client.to_send()
        assert set(again) <= {flight}
        sent += len(again)
    assert 10 < sent < 20
    client.expire(5.0 + HANDSHAKE_LIMIT)
    assert events(client) == [Failed("no handshake within 30 s")]
    assert client.timeout() is None


def test_a_server_waits_for_its_client_as_long_as_that_takes():
    server = association(False)
    assert server.timeout() is None
    server.expire(1e6)
    _, server = shake(server=server)
    assert server.state is State.ESTABLISHED


# -- a bad link ------------------------------------------------------------------------------------------


class BadLink:
    """A pair whose datagrams are lost, doubled and swapped, in real time: it is OpenSSL's clock."""

    def __init__(self, seed, loss, client, server):
        self.rng = random.Random(seed)
        self.loss = loss
        self.ends = client, server
        self.longest = 0
        client.start(time.monotonic())

    def step(self, now):
        for end, other in (self.ends, self.ends[::-1]):
            if end.timeout() is not None and end.timeout() <= now:
                end.expire(now)
            out = end.to_send()
            self.longest = max([self.longest, *map(len, out)])
            out = [datagram for datagram in out for _ in range(self.rng.choice((1, 1, 1, 2)))]
            self.rng.shuffle(out)
            for datagram in out:
                if self.rng.random() >= self.loss:
                    other.receive(datagram, b"there", now)

    @property
    def done(self):
        return all(end.state in (State.ESTABLISHED, State.ENDED) for end in self.ends)


def test_it_completes_over_30_percent_loss_also_with_a_4096_bit_rsa_certificate_p10(large):
    links = []
    for seed in range(6):
        links.append(BadLink(seed, 0.3, association(True), association(False)))
        links.append(BadLink(seed, 0.3, association(True, mine=large), association(False, prints(large))))
        links.append(BadLink(seed, 0.3, association(True, prints(large)), association(False, mine=large)))
    end = time.monotonic() + HANDSHAKE_LIMIT
    while not all(link.done for link in links) and time.monotonic() < end:
        for link in links:
            link.step(time.monotonic())
        time.sleep(0.005)
    for link in links:
        (one,), (other,) = events(link.ends[0]), events(link.ends[1])
        assert (one.local, one.remote) == (other.remote, other.local)
    assert max(link.longest for link in links) > MTU * 3 // 4
    assert max(link.longest for link in links) <= MTU


def test_a_large_flight_leaves_in_several_datagrams_cut_between_records_p10(large):
    client, server = association(True), association(False, mine=large)
    client.start(0.0)
    server.receive(client.to_send()[0], None, 0.0)
    flight = server.to_send()
    assert len(flight) >= 3
    for datagram in flight:
        assert len(datagram) <= MTU
        at = 0
        while at < len(datagram):
            at += 13 + int.from_bytes(datagram[at + 11 : at + 13], "big")
        assert at == len(datagram)


# -- who means harm --------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [True, False])
def test_a_wrong_certificate_gets_an_alert_and_no_keys_p09(client):
    ends = association(client, prints(Certificate())), association(not client)
    shake(*(ends if client else ends[::-1]))
    (ours,), (theirs,) = events(ends[0]), events(ends[1])
    assert ours == Failed("the certificate is not the one whose fingerprint was signalled", True)
    assert "alert" in theirs.reason
    assert not ends[0].send(b"data")


def test_a_fingerprint_counts_with_its_own_hash_only_p09():
    (_, digest), *_ = prints(THEIRS, "sha-1")
    server = association(False, [("sha-256", digest + bytes(12))])
    shake(server=server)
    assert events(server)[0].impostor


def test_a_flood_of_spoofed_hellos_costs_no_state_and_is_answered_with_less():
    server, first = association(False), hello()
    for n in range(2000):
        server.receive(first, n.to_bytes(4, "big"), 0.0)
        (answer,) = server.to_send()
        assert len(answer) < len(first)
    assert server.state is State.WAITING
    assert server.timeout() is None
    _, server = shake(server=server)
    assert server.state is State.ESTABLISHED


def test_a_cookie_is_good_for_its_source_and_of_its_gateway_only():
    client, server = association(True), association(False)
    client.start(0.0)
    server.receive(client.to_send()[0], b"here", 0.0)
    client.receive(server.to_send()[0], None, 0.0)
    (with_cookie,) = client.to_send()
    server.receive(with_cookie, b"elsewhere", 0.0)
    assert server.state is State.WAITING
    other = Association(OURS, False, prints(THEIRS), True, bytes(32))
    other.receive(with_cookie, b"here", 0.0)
    assert other.state is State.WAITING
    server.receive(with_cookie, b"here", 0.0)
    assert server.state is State.HANDSHAKE


def test_a_verified_source_needs_no_cookie():
    server = association(False)
    server.receive(hello(), None, 0.0)
    assert server.state is State.HANDSHAKE
    assert sum(map(len, server.to_send())) > 300


def fragments(datagram, *cuts):
    """A ClientHello in several records, each in a datagram of its own (RFC 6347 section 4.2.3)."""
    message, body = datagram[13:25], datagram[25:]
    cuts = [0, *cuts, len(body)]
    for n, (begin, end) in enumerate(pairwise(cuts)):
        part = message[:6] + begin.to_bytes(3, "big") + (end - begin).to_bytes(3, "big") + body[begin:end]
        yield datagram[:5] + n.to_bytes(6, "big") + len(part).to_bytes(2, "big") + part


@pytest.mark.parametrize("order", [1, -1])
def test_a_hello_in_fragments_is_heard_from_a_verified_source_in_any_order(order):
    server = association(False)
    for datagram in list(fragments(hello(), 50, 90))[::order]:
        assert server.to_send() == []
        server.receive(datagram, None, 0.0)
    assert sum(map(len, server.to_send())) > 300


@pytest.mark.parametrize("cut", [68, 100])
def test_a_hello_in_fragments_has_its_cookie_in_the_first(cut):
    client, server = association(True), association(False)
    client.start(0.0)
    for _ in range(2):  # without and with the cookie
        (whole,) = client.to_send()
        first, second = fragments(whole, cut)
        for n in range(300):
            server.receive(first, n.to_bytes(2, "big"), 0.0)
            assert sum(map(len, server.to_send())) <= len(first)
        assert server.state is State.WAITING
        for datagram in (first, second):
            server.receive(datagram, b"there", 0.0)
        for datagram in server.to_send():
            client.receive(datagram, None, 0.0)
    carry(client, server)
    assert server.state is State.ESTABLISHED


def fragment(message, length):
    """The first byte of a handshake message that is to have so many."""
    header = bytes([11]) + length.to_bytes(3, "big") + message.to_bytes(2, "big") + bytes(5) + b"\1"
    return b"\x16\xfe\xfd" + message.to_bytes(8, "big") + (13).to_bytes(2, "big") + header + b"x"


def test_no_room_is_made_for_a_long_message_that_is_announced():
    client, server = association(True), association(False)
    client.start(0.0)
    (hello,) = client.to_send()
    server.receive(hello, None, 0.0)
    for message in range(1, 9):
        server.receive(fragment(message, MAX_MESSAGE + 1), None, 0.0)
    carry(client, server)  # else its certificate would be of another length than announced
    assert [type(event) for event in events(client) + events(server)] == [Established] * 2


def sealed(number, length, kind=22):
    """A record under keys, as far as can be seen."""
    head = bytes([kind]) + b"\xfe\xfd\0\1" + number.to_bytes(6, "big")
    return head + length.to_bytes(2, "big") + bytes(length)


class Listening:
    """OpenSSL's connection, and what it was given."""

    def __init__(self, connection):
        self.connection, self.given = connection, []

    def __getattr__(self, name):
        return getattr(self.connection, name)

    def bio_write(self, data):
        self.given.append(data)
        return self.connection.bio_write(data)


FINISHED = 48  # bytes of it under AES-GCM


@pytest.mark.parametrize("established", [False, True])
def test_no_room_is_made_for_what_is_announced_under_keys(established):
    client, server = association(True), association(False)
    client.start(0.0)
    server.receive(client.to_send()[0], None, 0.0)
    if established:
        carry(client, server)
    server._connection = listening = Listening(server._connection)
    for number in range(100):
        for length in (FINISHED - 1, FINISHED + 1, 1000):
            server.receive(sealed(number, length), None, 0.0)
        if not established:
            server.receive(sealed(number, 100, 23), None, 0.0)  # nor for data before their time
    assert listening.given == []
    for number in range(100, 200):
        server.receive(sealed(number, FINISHED), None, 0.0)
        if not established:
            server.receive(sealed(number, 26, 21), None, 0.0)
    assert len(listening.given) == MAX_FINISHED
    assert server.state is (State.ESTABLISHED if established else State.HANDSHAKE)
    if established:
        client.send(b"data")
        carry(client, server)
        assert events(server)[-1] == Data(b"data")


def test_a_peer_that_misses_the_last_flight_gets_it_again():
    client, server = association(True), association(False)
    client.start(0.0)
    server.receive(client.to_send()[0], None, 0.0)
    for datagram in server.to_send():
        client.receive(datagram, None, 0.0)
    (answer,) = client.to_send()
    server.receive(answer, None, 0.0)
    (last,) = server.to_send()  # and is lost
    for _ in range(MAX_REPEATS + 5):
        server.receive(answer, None, 0.0)
    assert server.to_send() == [last] * MAX_REPEATS
    client.receive(last, None, 0.0)
    assert client.state is State.ESTABLISHED


def test_a_hello_out_of_the_blue_is_ignored_by_an_established_association_p07():
    client, server = established()
    intruder = association(True)
    intruder.start(0.0)
    (fresh,) = intruder.to_send()
    for end in (client, server):
        for source in (None, b"there", b"elsewhere"):
            end.receive(fresh, source, 1.0)
        assert (end.to_send(), events(end), end.state) == ([], [], State.ESTABLISHED)
    client.send(b"still here")
    carry(client, server)
    assert events(server) == [Data(b"still here")]


def test_the_whole_old_handshake_replayed_changes_nothing_p07():
    client, server = association(True), association(False)
    client.start(0.0)
    said = []
    for _ in range(4):
        for end, other in ((client, server), (server, client)):
            for datagram in end.to_send():
                said.append((other, datagram))
                other.receive(datagram, b"there", 0.0)
    events(client), events(server)
    for end, datagram in said * 2:
        end.receive(datagram, b"there", 1.0)
    assert events(client) == events(server) == []
    client.send(b"still here")
    server.receive(client.to_send()[-1], None, 1.0)
    assert events(server) == [Data(b"still here")]


def test_an_alert_in_the_clear_does_not_end_an_established_association():
    _, server = established()
    for epoch in (0, 1):
        for alert in (b"\2\x28", b"\1\0"):
            record = b"\x15\xfe\xfd" + epoch.to_bytes(2, "big") + bytes(5) + b"\x63\0\2" + alert
            server.receive(record, None, 1.0)
    assert (events(server), server.state) == ([], State.ESTABLISHED)


def test_a_fatal_alert_ends_the_handshake():
    client = association(True)
    client.start(0.0)
    client.receive(b"\x15\xfe\xfd" + bytes(8) + b"\0\2\2\x28", None, 0.0)
    (failed,) = events(client)
    assert "alert" in failed.reason
    assert not failed.impostor


def test_garbage_neither_ends_nor_begins_anything_and_no_length_lies():
    rng = random.Random(1)
    fresh = hello()
    waiting = association(False)
    client = association(True)
    client.start(0.0)
    for n in range(3000):
        if n % 3 == 0:
            data = rng.randbytes(rng.randrange(1, 80))
        else:
            data = bytearray(fresh[: rng.randrange(1, len(fresh) + 1)])
            for _ in range(rng.randrange(1, 8)):
                data[rng.randrange(len(data))] = rng.getrandbits(8)
        data = bytes(data)
        waiting.receive(data, b"there", 0.0)
        assert sum(map(len, waiting.to_send())) <= len(data)
        if data[:1] not in (b"\x15", b"\x16"):
            client.receive(data, b"there", 0.0)
    assert waiting.state is State.WAITING
    waiting.receive(bytes(MAX_DATA + 1), None, 0.0)
    client.to_send()
    _, waiting = shake(server=waiting)
    assert waiting.state is State.ESTABLISHED
    for _ in range(3000):
        waiting.receive(bytes([rng.choice((20, 21, 22, 23, 24))]) + rng.randbytes(60), b"there", 0.0)
    assert waiting.state is State.ESTABLISHED
    assert events(client) == []


def test_what_is_wrong_with_one_association_is_nothing_to_another():
    """OpenSSL keeps its errors for the thread, not for the connection."""
    rng, fresh = random.Random(2), hello()
    client, server = established()
    waiting = association(False)
    for _ in range(500):
        data = bytearray(fresh[: rng.randrange(14, len(fresh) + 1)])
        for _ in range(3):
            data[rng.randrange(13, len(data))] = rng.getrandbits(8)
        waiting.receive(bytes(data), b"there", 0.0)
        waiting.to_send()
        server.receive(b"\x17\xfe\xfd\0\1" + bytes(6) + b"\0\x20" + bytes(32), None, 0.0)
        client.send(b"fine")
        carry(client, server)
        assert events(server) == [Data(b"fine")]


def test_nothing_is_left_of_an_association_that_is_dropped():
    gc.disable()
    try:
        client, server = established()
        left = [weakref.ref(end._connection) for end in (client, server)]
        del client, server
        assert [each() for each in left] == [None, None]
    finally:
        gc.enable()


def test_data_are_delivered_once_p07():
    client, server = established()
    client.send(b"once")
    (datagram,) = client.to_send()
    for _ in range(3):
        server.receive(datagram, None, 1.0)
    assert events(server) == [Data(b"once")]


# -- OpenSSL's own client and server -------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory, large):
    """PEM files of certificates that nobody here made in the way ours are."""
    folder = tmp_path_factory.mktemp("pem")
    for name, certificate in (("p256", THEIRS), ("rsa", large)):
        key = certificate._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (folder / f"{name}.pem").write_bytes(key + certificate._x509.public_bytes(serialization.Encoding.PEM))
    return folder


@contextmanager
def openssl(tool, port, *arguments):
    """s_client to, or s_server on, a port of loopback. Its output is in .stdout."""
    where = (
        ("-connect", f"127.0.0.1:{port}") if tool == "s_client" else ("-accept", f"127.0.0.1:{port}", "-4")
    )
    exporting = ("-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", "60")
    command = ("openssl", tool, "-dtls1_2", "-mtu", "1200", *where, *exporting, *arguments)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for port in random.Random().sample(range(31500, 31900), 100):
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def speak(sock, end, peer, until):
    """The shell of one association, until that is true."""
    limit = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < limit, end.state
        for datagram in end.to_send():
            sock.sendto(datagram, peer)
        if select.select([sock], [], [], 0.02)[0]:
            try:
                datagram, peer = sock.recvfrom(4096)
            except ConnectionRefusedError:
                continue
            end.receive(datagram, repr(peer).encode(), time.monotonic())
        if end.timeout() is not None and end.timeout() <= time.monotonic():
            end.expire(time.monotonic())
    for datagram in end.to_send():
        sock.sendto(datagram, peer)


def finish(process):
    out, _ = process.communicate("", timeout=PATIENCE)
    return out


def exported(out):
    (line,) = [line for line in out.splitlines() if "Keying material:" in line]
    return bytes.fromhex(line.split(":")[1].strip())


def run_with(tool, end, *arguments):
    """A handshake with the tool; its output and our events."""
    got = []

    def ended():
        got.extend(events(end))
        return bool(got)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", free_port()))
        ours, theirs = sock.getsockname()[1], free_port()
        with openssl(tool, ours if tool == "s_client" else theirs, *arguments) as process:
            if tool == "s_server":
                for line in process.stdout:
                    if line.startswith("ACCEPT"):
                        break
                end.start(time.monotonic())
            speak(sock, end, ("127.0.0.1", theirs), ended)
            if tool == "s_server" and end.state is State.ESTABLISHED:
                end.close()
                speak(sock, end, ("127.0.0.1", theirs), lambda: True)
                time.sleep(0.2)
            out = finish(process)
    return out, got


@pytest.mark.parametrize("certificate", ["p256", "rsa"])
@pytest.mark.parametrize(
    ("profile", "length"), [("SRTP_AES128_CM_SHA1_80", 60), ("SRTP_AEAD_AES_128_GCM", 56)]
)
def test_openssl_s_client_shakes_hands_and_exports_the_same_keys(files, large, certificate, profile, length):
    end = association(False, prints(large if certificate == "rsa" else THEIRS))
    pem = str(files / f"{certificate}.pem")
    out, got = run_with("s_client", end, "-use_srtp", profile, "-cert", pem, "-key", pem)
    (event,) = got
    assert event.profile == profile
    key = 16
    client, server = event.remote, event.local
    assert exported(out)[:length] == client[:key] + server[:key] + client[key:] + server[key:]
    assert f"SRTP Extension negotiated, profile={profile}" in out


@pytest.mark.parametrize("certificate", ["p256", "rsa"])
def test_openssl_s_server_shakes_hands_and_exports_the_same_keys(files, large, certificate):
    end = association(True, prints(large if certificate == "rsa" else THEIRS))
    pem = str(files / f"{certificate}.pem")
    arguments = (
        "-use_srtp",
        "SRTP_AES128_CM_SHA1_80",
        "-cert",
        pem,
        "-key",
        pem,
        "-Verify",
        "1",
        "-naccept",
        "1",
    )
    out, got = run_with("s_server", end, *arguments)
    (event,) = got
    assert event.profile == "SRTP_AES128_CM_SHA1_80"
    client, server = event.local, event.remote
    assert exported(out) == client[:16] + server[:16] + client[16:] + server[16:]


def test_openssl_s_client_without_a_certificate_gets_no_association_p09():
    out, got = run_with("s_client", association(False), "-use_srtp", "SRTP_AES128_CM_SHA1_80")
    (failed,) = got
    assert failed.reason == "peer did not return a certificate"
    assert "alert" in out


def test_openssl_s_client_with_another_certificate_gets_no_association_p09(files):
    end = association(False, prints(Certificate()))
    pem = str(files / "p256.pem")
    out, got = run_with("s_client", end, "-use_srtp", "SRTP_AES128_CM_SHA1_80", "-cert", pem, "-key", pem)
    (failed,) = got
    assert failed.impostor
    assert "alert" in out


def test_openssl_s_server_with_another_certificate_gets_no_association_p09(files):
    end = association(True, prints(Certificate()))
    pem = str(files / "p256.pem")
    arguments = ("-use_srtp", "SRTP_AES128_CM_SHA1_80", "-cert", pem, "-key", pem, "-naccept", "1")
    out, got = run_with("s_server", end, *arguments)
    (failed,) = got
    assert failed.impostor
    assert "alert" in out


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-SHA", "NULL:@SECLEVEL=0"])
def test_weak_ciphers_and_old_versions_are_refused(files, cipher):
    pem = str(files / "p256.pem")
    _, got = run_with("s_client", association(False), "-cipher", cipher, "-cert", pem, "-key", pem)
    (failed,) = got
    assert failed.reason == "no shared cipher"


def test_an_ecdsa_key_of_another_curve_is_as_good(files):
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = Certificate()
    certificate._key = key
    certificate._x509 = (
        x509.CertificateBuilder()
        .subject_name(certificate._x509.subject)
        .issuer_name(certificate._x509.subject)
        .public_key(key.public_key())
        .serial_number(9)
        .not_valid_before(certificate._x509.not_valid_before_utc)
        .not_valid_after(certificate._x509.not_valid_before_utc.replace(year=1971))  # long ago
        .sign(key, hashes.SHA384())
    )
    client, server = shake(association(True, mine=certificate), association(False, prints(certificate)))
    assert (client.state, server.state) == (State.ESTABLISHED, State.ESTABLISHED)
