/* A worker, its legs, and what a packet needs of them: what the files of the packet loop share.
 *
 * worker.c     the round: wait, read, send, take over changes, look after silent legs
 * packet.c     what becomes of one packet
 * changes.c    what the caller changes, on its side and on the worker's
 * relay.c      the rest of the face that Python sees, relay.h
 */
#ifndef WORKER_H
#define WORKER_H

#include "address.h"
#include "queue.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

static const uint64_t SECOND = 1000000000;
static const uint64_t NEVER = UINT64_MAX;

typedef _Atomic uint64_t counter;

/* Whose a port of ours is. One that latches sends to wherever a packet comes from. */
enum owner { NOBODY, FIXED, LATCHING };
typedef _Atomic uint8_t place;

/* One of the two sockets of a leg, and where the peer is, as agw/latch.py has it. */
struct port {
    struct relay_leg *leg;
    int fd; /* -1: none */
    uint8_t channel; /* 0: RTP, with rtcp_mux RTCP too; 1: RTCP */
    bool latching, latch, source_filter, authentic;
    uint32_t round; /* when it was last ready */
    union address signalled, latch_from, target; /* family 0: none */
};

struct relay_leg {
    struct worker *worker;
    struct relay_leg *peer;
    enum relay_transport transport;
    enum relay_slow_path slow_path;
    bool rtcp_mux, receives, sends;
    bool seen, watched;          /* media, ever; for silence, now */
    bool failures_told;          /* in this FAILURE_PERIOD */
    atomic_bool flowing, opened; /* media, and none was missed since; the caller has heard some */
    struct srtp_key *sends_with[2]; /* RTP, RTCP */
    const struct srtp_keys *receives_with[2];
    _Atomic(const struct srtp_keys *) received_with[2];
    struct port ports[2];
    place *places[2]; /* the caller's: where it stands among the ports */
    counter received_octets, sent, sent_octets, outcomes[RELAY_OUTCOMES];
    counter heard; /* the last media, or when the leg was made */
    atomic_bool broken;
    uint64_t inactivity, watched_since, failed_since, latched_at;
    uint32_t failures;
    uint32_t broken_by; /* errno, while it is not told */
    struct queue_share share;
    uint64_t name;
    struct relay_leg *next, **link; /* of the worker's list */
};

/* An address that legs' sockets are bound to. */
struct host {
    union address address;
    place ports[65536]; /* enum owner */
};

struct packet {
    uint8_t data[SRTP_MAX_PACKET + SRTP_MAX_TRAILER + 12]; /* room to be read too long, and to grow */
};

enum { WORKER_EVENTS = 256 }; /* sockets taken from epoll at once */

struct worker {
    struct relay *relay;
    int epoll, bell;
    pthread_t thread;
    struct srtp_engine *engine;
    struct relay_leg *legs;
    uint64_t now, watch_at;
    uint64_t apart; /* ns between two packets, by and large */
    uint32_t round;
    bool behind; /* more sockets are ready than it looks at in one round */
    struct epoll_event events[WORKER_EVENTS];
    int served, ready; /* of these, in this round */
    /* The batch in hand. */
    struct mmsghdr in[RELAY_RECEIVE], out[RELAY_RECEIVE];
    struct iovec in_at[RELAY_RECEIVE], out_at[RELAY_RECEIVE];
    union address sources[RELAY_RECEIVE];
    struct port *ways[RELAY_RECEIVE];
    size_t lengths[RELAY_RECEIVE];
    struct packet packets[RELAY_RECEIVE], kept;
    /* From the caller. */
    _Atomic(const struct relay_change *) changes;
    size_t change_count;
    sem_t done;
    atomic_bool end, opened; /* of a leg */
    struct queue queue; /* to the caller */
};

struct relay {
    struct relay_settings settings;
    int told; /* an eventfd */
    uint32_t started, turn;
    _Atomic uint32_t host_count;
    struct host *hosts[RELAY_MAX_HOSTS];
    struct worker *workers[RELAY_MAX_WORKERS];
};

static inline void add(counter *to, uint64_t more) {
    atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + more, memory_order_release);
}

static inline uint64_t clock_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static inline void count(struct relay_leg *leg, enum relay_outcome outcome) { add(&leg->outcomes[outcome], 1); }

/* False: there is no room. */
static inline bool tell(const struct relay_leg *leg, struct relay_notice notice) {
    notice.leg = leg->name;
    if (!queue_tell(&leg->worker->queue, &notice))
        return false;
    eventfd_write(leg->worker->relay->told, 1);
    return true;
}

static inline void watch_by(struct worker *worker, uint64_t at) {
    if (at < worker->watch_at)
        worker->watch_at = at;
}

static inline void watch_from(struct relay_leg *leg, uint64_t now) {
    leg->watched = true;
    leg->watched_since = now;
    watch_by(leg->worker, now + leg->inactivity);
}

/* What finds no room to be told has not happened: the next packet finds it so again. */
static inline void heard_media(struct relay_leg *leg) {
    const uint64_t now = leg->worker->now;
    atomic_store_explicit(&leg->heard, now, memory_order_relaxed);
    if (atomic_load_explicit(&leg->flowing, memory_order_relaxed))
        return;
    if (!leg->watched && leg->inactivity)
        watch_from(leg, now);
    if (!leg->seen)
        leg->seen = tell(leg, (struct relay_notice){.kind = RELAY_MEDIA_FIRST});
    atomic_store_explicit(&leg->flowing, leg->seen, memory_order_relaxed);
}

/* NULL: errno says why. */
struct worker *worker_new(struct relay *relay);
void worker_free(struct worker *worker);
/* Gives an errno. core: the processor that it is bound to; -1: any. */
int worker_start(struct worker *worker, int core);

/* What becomes of a packet. FORWARDED: it has its new form and length, and leaves by *way. */
enum relay_outcome packet_take(struct port *port, struct packet *packet, size_t *length, const union address *source,
                               struct port **way);

/* All at one moment, on the worker's thread. */
void worker_change(struct worker *worker, const struct relay_change *changes, size_t count);

#endif
