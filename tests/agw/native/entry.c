/* The packet entry under a fuzzer: a script of packets and changes through `packet_take`, without a socket.
 *
 * An input is read octet by octet: what happens next, to which leg, how long, with which octets; where it ends,
 * zeros follow. Packets may be protected rightly before they come, since no fuzzer guesses a tag. What must hold
 * is asserted: each packet has one outcome, what is forwarded is not too long, and what leaves protected is read
 * by the other side as what came. Beyond its end a packet is poisoned.
 *
 * With -fsanitize=fuzzer and WITH_LIBFUZZER it is a target of libFuzzer. Alone it runs random inputs, for so many
 * seconds of CPU: `entry SECONDS SEED`. */
#define _GNU_SOURCE
#include "changes.c"
#include "packet.c"
#include "queue.c"
#include "relay.c"
#include "srtp.c"
#include "srtp_key.c"
#include "worker.c"

#include <assert.h>
#include <limits.h>
#include <stdio.h>

#ifndef __has_feature
#define __has_feature(what) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, length) ((void)(at), (void)(length))
#define ASAN_UNPOISON_MEMORY_REGION(at, length) ((void)(at), (void)(length))
#endif

enum { LEGS = 8, MKIS = 2, LEG_PACKETS = RELAY_PACKETS / RELAY_SHARE };

struct script {
    const uint8_t *at;
    size_t left;
};

static uint8_t next(struct script *script) {
    if (!script->left)
        return 0;
    script->left--;
    return *script->at++;
}

/* A leg, and its peer in the world: the same keys the other way round. */
struct side {
    struct relay_leg *leg;
    enum srtp_suite suite;
    struct srtp_keys *receives, *received, *reads; /* reads: what the leg sends */
    struct srtp_key *sends, *writes[MKIS];
    uint8_t generation;
    struct relay_change change;
    uint32_t handed, taken; /* packets of the slow path, to the caller and by it */
    struct end {
        size_t length;
        uint8_t last;
    } ends[LEG_PACKETS];
};

static struct relay *relay;
static struct worker *worker;

static struct srtp_key *make_key(enum srtp_suite suite, uint8_t generation, int mki, bool sends, size_t mki_length) {
    uint8_t material[46], name[2] = {(uint8_t)mki, 7};
    memset(material, generation * 16 + mki, sizeof material);
    return srtp_key_new(suite, material, (size_t)SUITES[suite].key + SUITES[suite].salt, name, mki_length, sends);
}

static struct srtp_keys *keys_of(uint32_t count) { return calloc(1, sizeof(struct srtp_keys) + count * sizeof(void *)); }

static void free_keys(struct srtp_keys *keys) {
    for (uint32_t n = 0; keys && n < keys->count; n++)
        srtp_key_free(keys->keys[n]);
    free(keys);
}

static bool has_mki(const struct side *side) { return side->leg->name % 2; }

/* New keys for what the leg receives; the ones before stay as `received`. */
static void rekey(struct side *side) {
    const uint32_t count = has_mki(side) ? MKIS : 1;
    const size_t mki_length = has_mki(side) ? 2 : 0;
    struct srtp_keys *oldest = side->received;
    side->received = side->receives;
    side->receives = keys_of(count);
    side->generation++;
    for (uint32_t n = 0; n < count; n++) {
        side->receives->keys[side->receives->count++] =
            make_key(side->suite, side->generation, (int)n, false, mki_length);
        srtp_key_free(side->writes[n]);
        side->writes[n] = make_key(side->suite, side->generation, (int)n, true, 0);
    }
    for (int n = 0; n < 2; n++) {
        side->change.receives_with[n] = side->receives;
        side->change.received_with[n] = side->received;
    }
    worker_change(worker, &side->change, 1);
    free_keys(oldest);
}

static enum relay_slow_path slow_path_of(bool some, bool all) {
    return !some ? RELAY_NO_SLOW_PATH : all ? RELAY_SLOW_ALL : RELAY_SLOW_CONTROL;
}

static void open_side(struct side *side, uint64_t name, uint8_t octet) {
    side->leg = relay_leg_new(relay, 0, name);
    side->suite = (enum srtp_suite)(octet % SRTP_SUITES);
    side->change = (struct relay_change){
        .leg = side->leg,
        .sockets = {-1, -1},
        .transport = name < 6        ? octet & 0x80 || name < 4 ? RELAY_SRTP : RELAY_RTP
                     : octet & 0x80 ? RELAY_DTLS
                                    : RELAY_UDP,
        .rtcp_mux = octet & 0x08,
        .receives = true,
        .sends = true,
        .latch = octet & 0x10,
        .source_filter = octet & 0x20,
        .slow_path = slow_path_of(octet & 0x04, octet & 0x02),
        .remotes = {{4, {127, 0, 0, 1}, 5000}, {4, {127, 0, 0, 1}, 5001}},
        .inactivity = octet & 0x40 ? 1000 : 0,
    };
    if (side->change.transport == RELAY_SRTP) {
        side->sends = make_key(side->suite, 255, 0, true, 0);
        side->reads = keys_of(1);
        side->reads->keys[side->reads->count++] = make_key(side->suite, 255, 0, false, 0);
        side->change.sends_with[0] = side->change.sends_with[1] = side->sends;
        rekey(side);
    }
    worker_change(worker, &side->change, 1);
    side->leg->ports[0].fd = side->leg->ports[1].fd = INT32_MAX; /* never used: nothing is sent here */
}

static void close_side(struct side *side) {
    side->leg->ports[0].fd = side->leg->ports[1].fd = -1;
    struct relay_change change = {.leg = side->leg, .removed = true};
    worker_change(worker, &change, 1);
    relay_leg_free(side->leg);
    srtp_key_free(side->sends);
    for (int n = 0; n < MKIS; n++)
        srtp_key_free(side->writes[n]);
    free_keys(side->receives);
    free_keys(side->received);
    free_keys(side->reads);
}

static bool secured(const struct side *side) { return side->leg->transport == RELAY_SRTP; }

/* As the world's peer protects it, with the MKI where it belongs. False: it cannot be. */
static bool protect(struct side *side, int mki, bool rtcp, uint8_t *data, size_t *length) {
    if (*length > 1800 || srtp_protect_packet(worker->engine, side->writes[mki], rtcp, data, length) != SRTP_OK)
        return false;
    if (has_mki(side)) {
        const struct suite *suite = &SUITES[side->suite];
        const size_t behind = suite->aead ? 0 : rtcp ? suite->rtcp_tag : suite->rtp_tag;
        memmove(data + *length - behind + 2, data + *length - behind, behind);
        data[*length - behind] = (uint8_t)mki;
        data[*length - behind + 1] = 7;
        *length += 2;
    }
    return true;
}

static void one_packet(struct side *sides, struct script *script, uint8_t what, struct packet *packet) {
    struct side *side = &sides[what % LEGS], *peer = &sides[(what % LEGS) ^ 1];
    const uint8_t how = next(script);
    struct port *port = &side->leg->ports[how & 1], *way = NULL;
    size_t length = (size_t)next(script) << (how & 2 ? 3 : 0);
    if (length + SRTP_MAX_TRAILER > SRTP_MAX_PACKET) /* else the reader below could miss one and lose count */
        length = SRTP_MAX_PACKET + 1;
    for (size_t n = 0; n < length; n++)
        packet->data[n] = n < 48 ? next(script) : (uint8_t)n;
    if (how & 4 && length) { /* more like RTP */
        packet->data[0] = 0x80 | (packet->data[0] & 0x3f);
        memset(packet->data + 8, packet->data[length > 8 ? 8 : 0] & 3, length > 12 ? 4 : 0);
    } else if (length >= STUN_HEADER && packet->data[1] & 1) { /* or like STUN or DTLS */
        const bool stun = packet->data[0] <= 3;
        const size_t rest = length - (stun ? STUN_HEADER : DTLS_HEADER);
        uint8_t *at = packet->data + (stun ? 2 : 11);
        at[0] = (uint8_t)(rest >> 8);
        at[1] = (uint8_t)rest;
        memcpy(packet->data + (stun ? 4 : 1), stun ? STUN_COOKIE : (const uint8_t[]){0xfe, 0xfd}, stun ? 4 : 2);
    }
    uint8_t plain[sizeof packet->data];
    size_t plain_length = 0;
    const enum kind kind = kind_of(packet->data, length, port);
    if (secured(side) && how & 8 && (kind == MEDIA || kind == CONTROL)) {
        memcpy(plain, packet->data, length);
        plain_length = length;
        if (!protect(side, has_mki(side) ? how >> 7 : 0, kind == CONTROL, packet->data, &length))
            plain_length = 0;
        else if (how & 16) { /* damaged after all */
            packet->data[next(script) * length / 256] ^= (uint8_t)(1 << (how >> 5));
            plain_length = 0;
        } else if (how & 32) /* cut */
            length -= length % (1 + next(script) % 32u);
    }
    const union address source = {.in = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)(5000 + (how >> 6))),
        .sin_addr.s_addr = htonl(how & 0x80 ? 0x7f000002 : 0x7f000001),
    }};
    worker->now += next(script) * 100u;

    const size_t came = length, room = secured(peer) ? SRTP_MAX_TRAILER : 0;
    const size_t poisoned = (came + room + 7) & ~(size_t)7;
    if (poisoned < sizeof packet->data)
        ASAN_POISON_MEMORY_REGION(packet->data + poisoned, sizeof packet->data - poisoned);
    const enum relay_outcome outcome = packet_take(port, packet, &length, &source, &way);
    ASAN_UNPOISON_MEMORY_REGION(packet->data, sizeof packet->data);
    count(side->leg, outcome);
    assert(outcome < RELAY_OUTCOMES);
    if (outcome == RELAY_SLOW_PATH || outcome == RELAY_SLOW_PATH_FULL)
        assert(length == came && (side->change.slow_path == RELAY_SLOW_ALL ||
                                  (side->change.slow_path == RELAY_SLOW_CONTROL && is_slow(packet->data, length))));
    if (outcome == RELAY_SLOW_PATH) {
        assert(side->handed - side->taken < LEG_PACKETS);
        side->ends[side->handed++ % LEG_PACKETS] = (struct end){length, length ? packet->data[length - 1] : 0};
    }
    if (outcome != RELAY_FORWARDED)
        return;
    assert(way && way->leg == peer->leg && length <= SRTP_MAX_PACKET + SRTP_MAX_TRAILER);
    if (!secured(peer)) {
        assert(length <= came);
        assert(!plain_length || !secured(side) || how & 32 ||
               (length == plain_length && memcmp(packet->data, plain, length) == 0));
        return;
    }
    const bool rtcp = kind_of(packet->data, length, port) == CONTROL; /* its header is in the clear */
    bool newest;
    const enum srtp_result result =
        srtp_unprotect_packet(worker->engine, peer->reads, rtcp, packet->data, &length, &newest);
    assert(result == SRTP_OK);
    assert(!plain_length || how & 32 || (length == plain_length && memcmp(packet->data, plain, length) == 0));
}

/* What the caller is told, so many times at most: the packets of a leg in order. */
static void read_queue(struct side *sides, unsigned times, uint8_t *data) {
    struct relay_notice notice;
    while (times-- && pop(relay, &notice, data)) {
        assert(notice.leg < LEGS);
        if (notice.kind != RELAY_PACKET)
            continue;
        struct side *side = &sides[notice.leg];
        assert(side->taken != side->handed);
        const struct end *end = &side->ends[side->taken++ % LEG_PACKETS];
        assert(notice.value == end->length && notice.channel < 2);
        assert(!end->length || data[end->length - 1] == end->last);
    }
}

static void one_change(struct side *side, uint8_t how) {
    struct relay_change *change = &side->change;
    change->receives = how & 1;
    change->sends = how & 2;
    change->rtcp_mux = how & 4;
    change->latch = how & 8;
    change->source_filter = how & 16;
    change->slow_path = slow_path_of(how & 128, how & 32);
    change->remotes[0].family = how & 32 ? 0 : 4;
    change->inactivity = how & 64 ? 500 : 0;
    worker_change(worker, change, 1);
}

static void set_up(void) {
    relay = calloc(1, sizeof *relay);
    relay->settings = (struct relay_settings){.workers = 1, .srtp_failures = 10};
    relay->told = -1;
    relay->workers[relay->started++] = worker = worker_new(relay);
    assert(worker);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!relay)
        set_up();
    struct script script = {data, size};
    struct side sides[LEGS] = {0};
    uint64_t packets = 0, outcomes = 0;
    const uint8_t first = next(&script);
    for (uint64_t n = 0; n < LEGS; n++)
        open_side(&sides[n], n, n / 2 % 2 ? (uint8_t)(first >> n) : next(&script));
    for (int n = 0; n < LEGS; n++) {
        sides[n].change.peer = sides[n ^ 1].leg;
        worker_change(worker, &sides[n].change, 1);
    }
    struct packet *packet = malloc(sizeof *packet);
    while (script.left) {
        const uint8_t what = next(&script);
        struct side *side = &sides[what % LEGS];
        if (what >= 0xf0 && secured(side))
            rekey(side);
        else if (what >= 0xe0)
            one_change(side, next(&script));
        else if (what >= 0xd8)
            read_queue(sides, next(&script), packet->data);
        else {
            one_packet(sides, &script, what, packet);
            packets++;
        }
        if (worker->watch_at <= worker->now)
            look_after_legs(worker);
    }
    read_queue(sides, UINT_MAX, packet->data);
    free(packet);
    for (int n = 0; n < LEGS; n++)
        assert(sides[n].handed == sides[n].taken && sides[n].handed == sides[n].leg->outcomes[RELAY_SLOW_PATH]);
    for (int n = 0; n < LEGS; n++)
        for (int outcome = 0; outcome < RELAY_OUTCOMES; outcome++)
            outcomes += sides[n].leg->outcomes[outcome];
    assert(outcomes == packets);
    for (int n = 0; n < LEGS; n++)
        close_side(&sides[n]);
    assert(!worker->legs);
    worker->watch_at = NEVER;
    return 0;
}

#ifndef WITH_LIBFUZZER
static uint64_t state;

static uint8_t random_octet(void) { /* splitmix64 */
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint8_t)(z >> 56);
}

int main(int count_of, char **names) {
    uint8_t input[4096];
    uint64_t runs = 0;
    const clock_t until = clock() + (count_of > 1 ? strtol(names[1], NULL, 10) : 1) * CLOCKS_PER_SEC;
    state = count_of > 2 ? strtoull(names[2], NULL, 10) : 1;
    while (clock() < until) {
        const size_t size = (size_t)(random_octet() + 1) << random_octet() % 5;
        for (size_t n = 0; n < size; n++)
            input[n] = random_octet();
        LLVMFuzzerTestOneInput(input, size);
        runs++;
    }
    worker_free(worker);
    free(relay);
    printf("%llu inputs\n", (unsigned long long)runs);
    return 0;
}
#endif
