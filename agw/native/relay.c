/* The face, but for `relay_apply`. */
#define _GNU_SOURCE
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct relay *relay_open(const struct relay_settings *settings) {
    struct relay *relay = calloc(1, sizeof *relay);
    if (!relay)
        return NULL;
    relay->settings = *settings;
    relay->told = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = relay->told < 0 ? errno : 0;
    for (uint32_t n = 0; !error && n < settings->workers && n < RELAY_MAX_WORKERS; n++) {
        struct worker *worker = worker_new(relay);
        error = worker ? worker_start(worker, settings->cores[n]) : errno ? errno : ENOMEM;
        if (error)
            worker_free(worker);
        else
            relay->workers[relay->started++] = worker;
    }
    if (error) {
        relay_close(relay);
        errno = error;
        return NULL;
    }
    return relay;
}

void relay_close(struct relay *relay) {
    for (uint32_t n = 0; n < relay->started; n++) {
        struct worker *worker = relay->workers[n];
        atomic_store_explicit(&worker->end, true, memory_order_release);
        eventfd_write(worker->bell, 1);
        pthread_join(worker->thread, NULL);
        worker_free(worker);
    }
    if (relay->told >= 0)
        close(relay->told);
    for (uint32_t n = 0; n < relay->host_count; n++)
        free(relay->hosts[n]);
    free(relay);
}

struct relay_leg *relay_leg_new(struct relay *relay, uint32_t worker, uint64_t name) {
    struct relay_leg *leg = worker < relay->started ? calloc(1, sizeof *leg) : NULL;
    if (!leg)
        return NULL;
    leg->worker = relay->workers[worker];
    leg->name = name;
    atomic_store_explicit(&leg->heard, clock_now(), memory_order_relaxed);
    for (uint8_t n = 0; n < 2; n++)
        leg->ports[n] = (struct port){.leg = leg, .fd = -1, .channel = n};
    return leg;
}

void relay_leg_free(struct relay_leg *leg) { free(leg); }

static bool pop(struct relay *relay, struct relay_notice *notice, uint8_t *packet) {
    for (uint32_t n = 0; n < relay->started; n++)
        if (queue_notice(&relay->workers[n]->queue, notice))
            return true;
    for (uint32_t n = 0; n < relay->started; n++) /* in turn: one worker's may never run dry */
        if (queue_packet(&relay->workers[relay->turn++ % relay->started]->queue, notice, packet))
            return true;
    return false;
}

bool relay_read(struct relay *relay, struct relay_notice *notice, uint8_t *packet) {
    if (pop(relay, notice, packet))
        return true;
    eventfd_t told;
    eventfd_read(relay->told, &told); /* what is told after this makes it readable again */
    return pop(relay, notice, packet);
}

int relay_descriptor(const struct relay *relay) { return relay->told; }

/* The worker has to look for it at the first only, and after silence. */
void relay_hear(struct relay_leg *leg) {
    atomic_store_explicit(&leg->heard, clock_now(), memory_order_relaxed);
    if (atomic_load_explicit(&leg->flowing, memory_order_relaxed))
        return;
    atomic_store_explicit(&leg->opened, true, memory_order_release);
    atomic_store_explicit(&leg->worker->opened, true, memory_order_release);
    eventfd_write(leg->worker->bell, 1);
}

void relay_count(const struct relay_leg *leg, struct relay_counts *counts) {
    for (int n = 0; n < RELAY_OUTCOMES; n++) /* first: see the head of worker.c */
        counts->outcomes[n] = atomic_load_explicit(&leg->outcomes[n], memory_order_acquire);
    counts->received = counts->outcomes[RELAY_FORWARDED];
    counts->received_octets = atomic_load_explicit(&leg->received_octets, memory_order_relaxed);
    counts->sent = atomic_load_explicit(&leg->sent, memory_order_relaxed);
    counts->sent_octets = atomic_load_explicit(&leg->sent_octets, memory_order_relaxed);
    const uint64_t now = clock_now(), heard = atomic_load_explicit(&leg->heard, memory_order_relaxed);
    counts->idle = now > heard ? now - heard : 0;
    counts->broken = atomic_load_explicit(&leg->broken, memory_order_acquire);
    for (int n = 0; n < 2; n++)
        counts->rekeying[n] = atomic_load_explicit(&leg->received_with[n], memory_order_acquire) != NULL;
}

const char *relay_outcome_name(enum relay_outcome outcome) {
    static const char *const NAMES[RELAY_OUTCOMES] = {
        [RELAY_FORWARDED] = "forwarded",
        [RELAY_SLOW_PATH] = "slow_path",
        [RELAY_SLOW_PATH_FULL] = "slow_path_full",
        [RELAY_NOT_RTP] = "not_rtp",
        [RELAY_NOT_DTLS] = "not_dtls",
        [RELAY_TOO_LONG] = "too_long",
        [RELAY_WRONG_SOURCE] = "wrong_source",
        [RELAY_LOOP] = "loop",
        [RELAY_GATED] = "gated",
        [RELAY_NO_PEER] = "no_peer",
        [RELAY_NO_REMOTE] = "no_remote",
        [RELAY_NO_KEY] = "no_key",
        [RELAY_SEND_FAILED] = "send_failed",
        [RELAY_AUTH_FAILED] = "auth_failed",
        [RELAY_REPLAYED] = "replayed",
        [RELAY_WRONG_MKI] = "wrong_mki",
        [RELAY_MALFORMED] = "malformed",
        [RELAY_TOO_MANY_SSRCS] = "too_many_ssrcs",
        [RELAY_KEY_EXHAUSTED] = "key_exhausted",
    };
    return outcome < RELAY_OUTCOMES ? NAMES[outcome] : "unknown";
}
