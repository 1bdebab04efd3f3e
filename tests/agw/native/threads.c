/* Workers among packets while the caller changes everything there is, for ThreadSanitizer and AddressSanitizer:
 * what the threads share, and what outlives what it is lent to.
 *
 * Calls of two legs come, change and go; strangers flood their ports with what looks like media, RTCP, STUN and DTLS,
 * and legs send to each other's ports. In between the caller reads notices and counts. Then all that was counted must
 * add up. `threads ROUNDS SEED`. */
#define _GNU_SOURCE
#include "changes.c"
#include "packet.c"
#include "queue.c"
#include "relay.c"
#include "srtp.c"
#include "srtp_key.c"
#include "worker.c"

#include <assert.h>
#include <stdio.h>

enum { CALLS = 16, STRANGERS = 2, WORKERS = 2 };

/* What a leg has been lent. */
struct lent {
    int sockets[2];
    struct srtp_key *sends, *receives;
    struct srtp_keys *shown;
};

struct side {
    struct relay_leg *leg;
    struct lent lent;
    struct srtp_key *before; /* what it received with until the last change of keys */
    struct srtp_keys *shown_before;
};

static struct side sides[CALLS][2];
static _Atomic uint16_t ports[CALLS][2][2]; /* that legs have or had */
static atomic_bool over;
static uint64_t received, sent, state;

static uint32_t random_of(uint64_t *from) { /* splitmix64 */
    uint64_t z = *from += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)(z >> 32);
}

static bool one_in(uint32_t many) { return random_of(&state) % many == 0; }

static int open_socket(uint16_t *port) {
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    union address here = {.in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof here;
    assert(fd >= 0 && bind(fd, &here.any, size_of(&here)) == 0 && getsockname(fd, &here.any, &length) == 0);
    *port = ntohs(here.in.sin_port);
    return fd;
}

/* Packets of every kind to every port; some of them rightly protected: all keys are made of zeros. */
static void *flood(void *seed) {
    uint64_t from = (uintptr_t)seed;
    uint16_t mine, sequence = 0;
    const int fd = open_socket(&mine);
    struct srtp_engine *engine = srtp_engine_new();
    struct srtp_key *key = srtp_key_new(0, (const uint8_t[30]){0}, 30, NULL, 0, true);
    while (!atomic_load(&over)) {
        const uint32_t to = random_of(&from), what = random_of(&from);
        uint8_t data[SRTP_MAX_PACKET] = {0x80, what & 1 ? 200 : 8, (uint8_t)(++sequence >> 8), (uint8_t)sequence};
        size_t length = 20 + what % 170;
        data[11] = data[7] = what & 2 ? 7 : (uint8_t)(what >> 8);
        if (what % 8 == 7) { /* STUN or DTLS */
            const uint8_t rest = (uint8_t)((length = 20 + what % 16 * 4) - (what & 8 ? STUN_HEADER : DTLS_HEADER));
            memcpy(data, what & 8 ? (const uint8_t[]){0, 1, 0, rest, 0x21, 0x12, 0xa4, 0x42}
                                  : (const uint8_t[]){22, 0xfe, 0xfd, 0, 0, 0, 0, 0}, 8);
            data[12] = what & 8 ? 0 : rest;
        } else if (what & 4)
            srtp_protect_packet(engine, key, what & 1, data, &length);
        const union address there = {.in = {
            .sin_family = AF_INET,
            .sin_port = htons(atomic_load(&ports[to % CALLS][to >> 8 & 1][to >> 9 & 1])),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        }};
        sendto(fd, data, length, 0, &there.any, size_of(&there));
        while (recv(fd, data, sizeof data, 0) > 0) {
        }
    }
    srtp_key_free(key);
    srtp_engine_free(engine);
    close(fd);
    return NULL;
}

static void free_receiving(struct srtp_key **key, struct srtp_keys **shown) {
    srtp_key_free(*key);
    free(*shown);
    *key = NULL;
    *shown = NULL;
}

static void make_keys(struct lent *lent) {
    const uint8_t material[30] = {one_in(4)};
    lent->sends = srtp_key_new(0, material, sizeof material, NULL, 0, true);
    lent->receives = srtp_key_new(0, material, sizeof material, NULL, 0, false);
    lent->shown = calloc(1, sizeof *lent->shown + sizeof lent->receives);
    *lent->shown = (struct srtp_keys){.count = 1};
    lent->shown->keys[0] = lent->receives;
}

static struct relay_address somewhere(void) {
    const uint32_t to = random_of(&state);
    const uint16_t port = !one_in(4) ? 9 : atomic_load(&ports[to % CALLS][to >> 8 & 1][to >> 9 & 1]);
    return (struct relay_address){4, {127, 0, 0, 1}, port};
}

static void close_sockets(const int fds[2]) {
    for (int n = 0; n < 2; n++)
        if (fds[n] >= 0)
            close(fds[n]);
}

static void count_up(const struct relay_leg *leg) {
    struct relay_counts counts;
    relay_count(leg, &counts);
    received += counts.received;
    sent += counts.sent;
}

static void remove_call(struct relay *relay, struct side call[2]) {
    const struct relay_change changes[2] = {{.leg = call[0].leg, .removed = true}, {.leg = call[1].leg, .removed = true}};
    assert(relay_apply(relay, changes, 2) == -1);
    for (int n = 0; n < 2; n++) {
        count_up(call[n].leg);
        relay_leg_free(call[n].leg);
        close_sockets(call[n].lent.sockets);
        srtp_key_free(call[n].lent.sends);
        free_receiving(&call[n].lent.receives, &call[n].lent.shown);
        free_receiving(&call[n].before, &call[n].shown_before);
        call[n] = (struct side){0};
    }
}

/* A new call, or another form of one that stands: other keys, sockets, gates, peers' addresses. */
static void change_call(struct relay *relay, struct side call[2], uint32_t number) {
    const bool fresh = !call[0].leg, secured = one_in(2), joined = !one_in(8);
    const enum relay_transport transport = one_in(3) ? one_in(2) ? RELAY_UDP : RELAY_DTLS : RELAY_RTP;
    struct relay_change changes[2];
    struct lent before[2], now[2];
    for (int n = 0; fresh && n < 2; n++)
        call[n].leg = relay_leg_new(relay, number % WORKERS, 2 * number + (uint32_t)n);
    for (int n = 0; n < 2; n++) {
        before[n] = now[n] = call[n].lent;
        if (fresh || one_in(2))
            make_keys(&now[n]);
        const bool moves = fresh || one_in(4);
        for (int channel = 0; moves && channel < 2; channel++) {
            uint16_t port;
            now[n].sockets[channel] = open_socket(&port);
            atomic_store(&ports[number][n][channel], port);
        }
        changes[n] = (struct relay_change){
            .leg = call[n].leg,
            .sockets = {moves ? now[n].sockets[0] : -1, moves ? now[n].sockets[1] : -1},
            .peer = joined ? call[!n].leg : NULL,
            .transport = transport == RELAY_RTP && secured && !n ? RELAY_SRTP : transport,
            .rtcp_mux = one_in(2),
            .receives = !one_in(4),
            .sends = !one_in(4),
            .latch = one_in(2),
            .source_filter = one_in(4),
            .slow_path = random_of(&state) % 3,
            .remotes = {somewhere(), somewhere()},
            .inactivity = one_in(2) ? SECOND / 50 : 0,
            .sends_with = {now[n].sends, now[n].sends},
            .receives_with = {now[n].shown, now[n].shown},
            .received_with = {before[n].shown, before[n].shown},
        };
    }
    assert(relay_apply(relay, changes, 2) == -1);
    for (int n = 0; n < 2; n++) {
        if (!fresh && now[n].sockets[0] != before[n].sockets[0])
            close_sockets(before[n].sockets);
        if (!fresh && now[n].sends != before[n].sends) {
            srtp_key_free(before[n].sends);
            free_receiving(&call[n].before, &call[n].shown_before);
            call[n].before = before[n].receives;
            call[n].shown_before = before[n].shown;
        }
        call[n].lent = now[n];
    }
}

/* A change that cannot be made, as one of its sockets is none: nothing has happened. */
static void fail(struct relay *relay) {
    uint16_t port;
    struct relay_leg *legs[2] = {relay_leg_new(relay, 0, 0), relay_leg_new(relay, 1, 0)};
    const int fds[2] = {open_socket(&port), open_socket(&port)};
    const struct relay_change changes[2] = {
        {.leg = legs[0], .sockets = {fds[0], fds[1]}},
        {.leg = legs[1], .sockets = {INT32_MAX, INT32_MAX}},
    };
    assert(relay_apply(relay, changes, 2) == 1);
    for (int n = 0; n < 2; n++)
        relay_leg_free(legs[n]);
    close_sockets(fds);
}

static void hear_notices(struct relay *relay) {
    static uint8_t data[SRTP_MAX_PACKET];
    struct relay_notice notice;
    for (int n = 0; n < 64 && relay_read(relay, &notice, data); n++) {
        struct side *side = &sides[notice.leg / 2][notice.leg % 2];
        struct relay_counts counts;
        if (notice.kind == RELAY_PACKET && side->leg)
            relay_hear(side->leg);
        if (notice.kind != RELAY_REKEYED || !side->leg)
            continue;
        relay_count(side->leg, &counts);
        if (!counts.rekeying[0] && !counts.rekeying[1]) /* the worker is done with them */
            free_receiving(&side->before, &side->shown_before);
    }
}

int main(int count_of, char **names) {
    const struct relay_settings settings = {
        .workers = WORKERS,
        .cores = {-1, -1},
        .coalesce = SECOND / 5000,
        .srtp_failures = 5,
    };
    struct relay *relay = relay_open(&settings);
    pthread_t strangers[STRANGERS];
    const uint32_t rounds = count_of > 1 ? (uint32_t)strtoul(names[1], NULL, 10) : 1000;
    state = count_of > 2 ? strtoull(names[2], NULL, 10) : 1;
    assert(relay);
    for (uintptr_t n = 0; n < STRANGERS; n++)
        pthread_create(&strangers[n], NULL, flood, (void *)(n + 1 + state));
    for (uint32_t round = 0; round < rounds; round++) {
        const uint32_t number = random_of(&state) % CALLS;
        struct side *call = sides[number];
        if (call[0].leg && one_in(4))
            remove_call(relay, call);
        else
            change_call(relay, call, number);
        if (one_in(16))
            fail(relay);
        hear_notices(relay);
    }
    atomic_store(&over, true);
    for (int n = 0; n < STRANGERS; n++)
        pthread_join(strangers[n], NULL);
    for (int n = 0; n < CALLS; n++)
        if (sides[n][0].leg)
            remove_call(relay, sides[n]);
    relay_close(relay);
    printf("%llu forwarded\n", (unsigned long long)received);
    assert(received && received == sent);
    return 0;
}
