/* How it works.
 *
 * A worker goes round: wait for sockets that have packets, read them, send what is forwarded, take over changes,
 * look after silent legs. A packet is transformed where it was received; nothing is copied but while a key changes and
 * where the caller is handed one (STUN, DTLS), and nothing is allocated.
 *
 * Streams send packets one by one, so that a socket mostly has one. That is read with recvfrom and sent with sendto,
 * which are 0.2 µs each cheaper than recvmmsg and sendmmsg of one packet; a socket that is ready again in the very
 * next round has more, and is read and sent from in batches. So is every socket once more of them are ready than a
 * round looks at: then packets wait, and the fewer calls for each the better. Epoll is level-triggered: edges would
 * need a second read to find the socket empty, which costs more than epoll's own look.
 *
 * Where packets come one by one, waking up for each costs more than all the rest. So when they come so fast that
 * TOGETHER of them are there within `coalesce`, the worker sleeps that long after a wake-up, as network cards do
 * with interrupts: the faster they come, the shorter. When they come more slowly none waits, and none where a
 * wake-up has found enough as it is.
 *
 * Counters have one writer, the worker, and are read at any time: relaxed atomics, which cost nothing. A packet's
 * outcome is counted last, with release, so that who has seen it counted sees all that it has brought.
 *
 * The way of a packet, in `take`, is that of agw/pyrelay.py, which says what is right.
 */
#define _GNU_SOURCE
#include "relay.h"

#include "address.h"
#include "queue.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS = 256,   /* sockets taken from epoll at once */
    TOGETHER = 8,   /* packets that one wake-up shall find */
};
static const uint64_t SECOND = 1000000000;
static const uint64_t NEVER = UINT64_MAX;
static const uint64_t FAILURE_PERIOD = 60 * SECOND; /* failed authentications are told at most once in it */
static const uint64_t LATCH_PERIOD = 1 * SECOND;    /* so are changes of address */
static const uint64_t WATCH_PERIOD = SECOND / 100;  /* between two looks for silent legs, at least */

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

static void add(counter *to, uint64_t more) {
    atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + more, memory_order_release);
}

static uint64_t clock_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

/* -- what the caller is told ------------------------------------------------------------------------------- */

/* False: there is no room. */
static bool tell(const struct relay_leg *leg, struct relay_notice notice) {
    notice.leg = leg->name;
    if (!queue_tell(&leg->worker->queue, &notice))
        return false;
    eventfd_write(leg->worker->relay->told, 1);
    return true;
}

static enum relay_outcome hand_up(struct relay_leg *leg, uint8_t channel, const struct packet *packet, size_t length,
                                  const union address *source) {
    const struct relay_notice notice = {
        .leg = leg->name,
        .kind = RELAY_PACKET,
        .channel = channel,
        .value = (uint32_t)length,
        .address = to_outside(source),
    };
    if (!queue_hand(&leg->worker->queue, &leg->share, &notice, packet->data))
        return RELAY_SLOW_PATH_FULL;
    eventfd_write(leg->worker->relay->told, 1);
    return RELAY_SLOW_PATH;
}

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

/* -- what is learnt from a packet -------------------------------------------------------------------------- */

/* What finds no room to be told has not happened: the next packet finds it so again. */

static void watch_by(struct worker *worker, uint64_t at) {
    if (at < worker->watch_at)
        worker->watch_at = at;
}

static void watch_from(struct relay_leg *leg, uint64_t now) {
    leg->watched = true;
    leg->watched_since = now;
    watch_by(leg->worker, now + leg->inactivity);
}

static void heard_media(struct relay_leg *leg) {
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

/* Only from where we send to, once that cannot move; before, from where it may move to. */
static bool is_wrong_source(const struct port *port, const union address *source) {
    if (!port->latching)
        return port->source_filter && port->target.any.sa_family && !same_host(source, &port->target);
    return !port->authentic && port->latch_from.any.sa_family && !same_host(source, &port->latch_from) &&
           !same_host(source, &port->signalled);
}

/* Send to where this packet came from. Where packets are not authentic only the first is believed. */
static void learn(struct port *port, const union address *source) {
    struct relay_leg *leg = port->leg;
    port->latching = port->authentic;
    if (same_address(&port->target, source))
        return;
    port->target = *source;
    if (leg->latched_at && leg->worker->now - leg->latched_at < LATCH_PERIOD)
        return;
    const struct relay_notice notice = {
        .kind = RELAY_LATCHED,
        .channel = port->channel,
        .address = to_outside(source),
    };
    if (tell(leg, notice)) /* else the next move is, if there is one: it is for the log only */
        leg->latched_at = leg->worker->now;
}

static void failed(struct relay_leg *leg, enum relay_outcome outcome) {
    if (outcome != RELAY_AUTH_FAILED && outcome != RELAY_WRONG_MKI)
        return;
    if (leg->worker->now - leg->failed_since >= FAILURE_PERIOD) {
        leg->failed_since = leg->worker->now;
        leg->failures = 0;
        leg->failures_told = false;
    }
    leg->failures++;
    const struct relay_notice notice = {.kind = RELAY_SRTP_FAILURES, .value = leg->failures, .outcome = outcome};
    if (leg->failures > leg->worker->relay->settings.srtp_failures && !leg->failures_told)
        leg->failures_told = tell(leg, notice);
}

/* -- a packet ------------------------------------------------------------------------------------------------ */

static const enum relay_outcome OUTCOME_OF[] = {
    [SRTP_OK] = RELAY_FORWARDED,
    [SRTP_AUTH_FAILED] = RELAY_AUTH_FAILED,
    [SRTP_REPLAYED] = RELAY_REPLAYED,
    [SRTP_WRONG_MKI] = RELAY_WRONG_MKI,
    [SRTP_MALFORMED] = RELAY_MALFORMED,
    [SRTP_TOO_LONG] = RELAY_TOO_LONG,
    [SRTP_TOO_MANY_SSRCS] = RELAY_TOO_MANY_SSRCS,
    [SRTP_KEY_EXHAUSTED] = RELAY_KEY_EXHAUSTED,
};

enum kind { MEDIA, CONTROL, SLOW, SLOW_MEDIA, NEITHER };

enum { STUN_HEADER = 20, DTLS_HEADER = 13 };
static const uint8_t STUN_COOKIE[] = {0x21, 0x12, 0xa4, 0x42};

static size_t read_length(const uint8_t *from) { return (size_t)from[0] << 8 | from[1]; }

/* RFC 8489 section 5. */
static bool is_stun(const uint8_t *data, size_t length) {
    return length >= STUN_HEADER && data[0] <= 3 && length % 4 == 0 &&
           STUN_HEADER + read_length(data + 2) == length && memcmp(data + 4, STUN_COOKIE, sizeof STUN_COOKIE) == 0;
}

/* A whole record, by RFC 6347 section 4.1, of DTLS 1.2 or, as ClientHellos begin, 1.0. */
static bool is_dtls(const uint8_t *data, size_t length) {
    return length >= DTLS_HEADER && data[0] >= 20 && data[0] <= 63 && data[1] == 0xfe &&
           (data[2] == 0xfd || data[2] == 0xff) && DTLS_HEADER + read_length(data + 11) <= length;
}

/* Told apart by RFC 7983 section 7. What only begins like them is not worth the caller's time. */
static bool is_slow(const uint8_t *data, size_t length) { return is_stun(data, length) || is_dtls(data, length); }

static enum kind kind_of_rtp(const uint8_t *data, size_t length, const struct port *port) {
    const bool rtcp_port = port->channel == 1;
    if (length < 8 || data[0] < 128 || data[0] > 191) /* RFC 7983 section 7 */
        return port->leg->slow_path == RELAY_SLOW_CONTROL && is_slow(data, length) ? SLOW : NEITHER;
    /* RFC 5761 section 4: RTCP has types from 192 to 223. Where the ports are apart, such an octet on the RTP
     * port is a payload type with the marker bit. */
    if (data[1] >= 192 && data[1] <= 223 && (port->leg->rtcp_mux || rtcp_port))
        return CONTROL;
    return length >= 12 && !rtcp_port ? MEDIA : NEITHER;
}

static enum kind kind_of(const uint8_t *data, size_t length, const struct port *port) {
    const enum kind whole = port->channel == 1 ? CONTROL : MEDIA;
    const bool all_slow = port->leg->slow_path == RELAY_SLOW_ALL;
    switch (port->leg->transport) {
    case RELAY_DTLS:
        return !all_slow ? whole : is_slow(data, length) ? SLOW : NEITHER; /* what is in it the caller sees */
    case RELAY_UDP:
        return !all_slow ? whole : whole == MEDIA ? SLOW_MEDIA : SLOW;
    default:
        return all_slow ? SLOW : kind_of_rtp(data, length, port);
    }
}

/* The keys of RTP and RTCP may be the same: then one packet has shown the new ones at work for both. */
static void forget_received_with(struct relay_leg *leg, bool rtcp) {
    if (!queue_has_room(&leg->worker->queue))
        return;
    for (int n = 0; n < 2; n++)
        if (leg->receives_with[n] == leg->receives_with[rtcp])
            atomic_store_explicit(&leg->received_with[n], NULL, memory_order_release);
    tell(leg, (struct relay_notice){.kind = RELAY_REKEYED});
}

static enum srtp_result unprotect(struct relay_leg *leg, bool rtcp, struct packet *packet, size_t *length) {
    struct worker *worker = leg->worker;
    const struct srtp_keys *keys = leg->receives_with[rtcp];
    const struct srtp_keys *before = atomic_load_explicit(&leg->received_with[rtcp], memory_order_relaxed);
    if (!before)
        return srtp_unprotect_packet(worker->engine, keys, rtcp, packet->data, length);
    const size_t kept = *length;
    memcpy(worker->kept.data, packet->data, kept);
    enum srtp_result result = srtp_unprotect_packet(worker->engine, keys, rtcp, packet->data, length);
    switch (result) {
    case SRTP_OK:
        forget_received_with(leg, rtcp);
        return result;
    case SRTP_REPLAYED:
    case SRTP_TOO_MANY_SSRCS:
        return result;
    default:
        memcpy(packet->data, worker->kept.data, kept);
        *length = kept;
        return srtp_unprotect_packet(worker->engine, before, rtcp, packet->data, length);
    }
}

static enum owner owner_of(const struct relay *relay, const union address *source) {
    const uint32_t hosts = atomic_load_explicit(&relay->host_count, memory_order_acquire);
    for (uint32_t n = 0; n < hosts; n++)
        if (same_host(source, &relay->hosts[n]->address))
            return atomic_load_explicit(&relay->hosts[n]->ports[ntohs(source->in.sin_port)], memory_order_relaxed);
    return NOBODY;
}

/* What becomes of a packet. FORWARDED: it has its new form and length, and leaves by *way. */
static enum relay_outcome take(struct port *port, struct packet *packet, size_t *length,
                               const union address *source, struct port **way) {
    struct relay_leg *leg = port->leg;
    if (*length > SRTP_MAX_PACKET)
        return RELAY_TOO_LONG;
    const enum kind kind = kind_of(packet->data, *length, port);
    if (kind == NEITHER)
        return leg->transport == RELAY_DTLS ? RELAY_NOT_DTLS : RELAY_NOT_RTP;
    const bool rtcp = kind == CONTROL;
    if (is_wrong_source(port, source))
        return RELAY_WRONG_SOURCE;
    /* Two peers who each name our own address as theirs would have a packet go round for ever. Contexts are chained
     * only where they do not latch (a call that passes twice): that cannot close a circle. */
    const enum owner owner = owner_of(leg->worker->relay, source);
    if (owner == LATCHING || (owner == FIXED && port->latch))
        return RELAY_LOOP;
    if (kind == SLOW_MEDIA)
        heard_media(leg);
    if (kind == SLOW || kind == SLOW_MEDIA)
        return hand_up(leg, port->channel, packet, *length, source);

    if (leg->transport == RELAY_SRTP) {
        if (!leg->receives_with[rtcp])
            return RELAY_NO_KEY;
        const enum srtp_result result = unprotect(leg, rtcp, packet, length);
        if (result != SRTP_OK) {
            failed(leg, OUTCOME_OF[result]);
            return OUTCOME_OF[result];
        }
    }

    if (port->latching)
        learn(port, source);
    if (!rtcp)
        heard_media(leg);

    struct relay_leg *peer = leg->peer;
    if (!peer)
        return RELAY_NO_PEER;
    if (!rtcp && !(leg->receives && peer->sends)) /* only media obey the mode (trap P35) */
        return RELAY_GATED;
    *way = &peer->ports[rtcp && !peer->rtcp_mux];
    if (!(*way)->target.any.sa_family || (*way)->fd < 0)
        return RELAY_NO_REMOTE;
    if (peer->transport == RELAY_SRTP) {
        struct srtp_key *key = peer->sends_with[rtcp];
        if (!key)
            return RELAY_NO_KEY;
        return OUTCOME_OF[srtp_protect_packet(leg->worker->engine, key, rtcp, packet->data, length)];
    }
    return RELAY_FORWARDED;
}

static void count(struct relay_leg *leg, enum relay_outcome outcome) { add(&leg->outcomes[outcome], 1); }

/* How many of them were sent, or -1. */
static int send_run(const struct port *way, struct mmsghdr *messages, int count) {
    if (count > 1)
        return sendmmsg(way->fd, messages, (unsigned)count, MSG_DONTWAIT);
    const struct iovec *at = messages->msg_hdr.msg_iov;
    return sendto(way->fd, at->iov_base, at->iov_len, MSG_DONTWAIT, &way->target.any, size_of(&way->target)) < 0
               ? -1
               : 1;
}

/* Sends what take has forwarded, all from one leg: lengths[n] is what packet n had when it came. */
static void send_out(struct worker *worker, struct relay_leg *leg, int count_out) {
    for (int begin = 0; begin < count_out;) {
        struct port *way = worker->ways[begin];
        int end = begin + 1;
        while (end < count_out && worker->ways[end] == way)
            end++;
        const int sent = send_run(way, worker->out + begin, end - begin);
        if (sent <= 0) {
            count(leg, RELAY_SEND_FAILED);
            begin++;
            continue;
        }
        for (end = begin + sent; begin < end; begin++) {
            add(&way->leg->sent, 1);
            add(&way->leg->sent_octets, worker->out_at[begin].iov_len);
            add(&leg->received_octets, worker->lengths[begin]);
            count(leg, RELAY_FORWARDED);
        }
    }
}

static void break_off(struct relay_leg *leg, int error) {
    for (int n = 0; n < 2; n++)
        if (leg->ports[n].fd >= 0) {
            epoll_ctl(leg->worker->epoll, EPOLL_CTL_DEL, leg->ports[n].fd, NULL);
            leg->ports[n].fd = -1;
        }
    atomic_store_explicit(&leg->broken, true, memory_order_release);
    leg->broken_by = (uint32_t)error;
    watch_by(leg->worker, leg->worker->now);
}

/* Reads into the batch: how many packets, or -1. */
static int read_run(struct worker *worker, const struct port *port, bool many) {
    if (many)
        return recvmmsg(port->fd, worker->in, RELAY_RECEIVE, MSG_DONTWAIT, NULL);
    struct mmsghdr *in = &worker->in[0];
    const ssize_t length = recvfrom(port->fd, worker->packets[0].data, SRTP_MAX_PACKET + 1, MSG_DONTWAIT,
                                    &worker->sources[0].any, &in->msg_hdr.msg_namelen);
    in->msg_len = (unsigned)length;
    return length < 0 ? -1 : 1;
}

static void receive(struct worker *worker, struct port *port, bool many) {
    const int got = read_run(worker, port, many);
    if (got < 0 && errno != EAGAIN && errno != EINTR)
        break_off(port->leg, errno);
    int out = 0;
    for (int n = 0; n < got; n++) {
        struct mmsghdr *in = &worker->in[n];
        const size_t came = in->msg_len;
        size_t length = came;
        in->msg_hdr.msg_namelen = sizeof worker->sources[n];
        const enum relay_outcome outcome =
            take(port, &worker->packets[n], &length, &worker->sources[n], &worker->ways[out]);
        if (outcome != RELAY_FORWARDED) {
            count(port->leg, outcome);
            continue;
        }
        union address *target = &worker->ways[out]->target;
        worker->lengths[out] = came;
        worker->out_at[out] = (struct iovec){worker->packets[n].data, length};
        worker->out[out].msg_hdr = (struct msghdr){
            .msg_name = target,
            .msg_namelen = size_of(target),
            .msg_iov = &worker->out_at[out],
            .msg_iovlen = 1,
        };
        out++;
    }
    send_out(worker, port->leg, out);
}

static void serve(struct worker *worker, struct port *port, uint32_t events) {
    if (port->fd < 0) /* it broke in this round */
        return;
    if (events & EPOLLHUP) {
        break_off(port->leg, ENOTCONN);
        return;
    }
    receive(worker, port, worker->behind || worker->round - port->round == 1);
    port->round = worker->round;
}

/* -- changes, on the worker ------------------------------------------------------------------------------------ */

static void disconnect(struct relay_leg *leg) {
    if (leg->peer)
        leg->peer->peer = NULL;
    leg->peer = NULL;
}

static void use_socket(struct port *port, int fd) {
    const int epoll = port->leg->worker->epoll;
    if (port->fd >= 0)
        epoll_ctl(epoll, EPOLL_CTL_DEL, port->fd, NULL);
    port->fd = fd;
    if (fd >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = port};
        epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
    }
}

/* What was learnt stays while only the filter is another. */
static void signal_remote(struct port *port, const struct relay_change *change) {
    const union address remote = from_outside(&change->remotes[port->channel]);
    const union address latch_from = from_outside(&change->latch_from);
    const bool authentic = change->transport == RELAY_SRTP;
    if (!same_address(&port->signalled, &remote) || !same_address(&port->latch_from, &latch_from) ||
        port->latch != change->latch || port->authentic != authentic) {
        port->signalled = port->target = remote;
        port->latch_from = latch_from;
        port->latching = port->latch = change->latch;
        port->authentic = authentic;
    }
    port->source_filter = change->source_filter;
}

static void remove_leg(struct relay_leg *leg) {
    disconnect(leg);
    for (int n = 0; n < 2; n++)
        use_socket(&leg->ports[n], -1);
    if (leg->link) {
        *leg->link = leg->next;
        if (leg->next)
            leg->next->link = leg->link;
        leg->link = NULL;
    }
}

static void change_leg(const struct relay_change *change) {
    struct relay_leg *leg = change->leg;
    struct worker *worker = leg->worker;
    if (!leg->link) {
        leg->next = worker->legs;
        leg->link = &worker->legs;
        if (leg->next)
            leg->next->link = &leg->next;
        worker->legs = leg;
    }
    leg->transport = change->transport;
    leg->rtcp_mux = change->rtcp_mux && (change->transport == RELAY_RTP || change->transport == RELAY_SRTP);
    leg->receives = change->receives;
    leg->sends = change->sends;
    leg->slow_path = change->slow_path;
    for (int n = 0; n < 2; n++) {
        leg->sends_with[n] = change->sends_with[n];
        if (leg->receives_with[n] != change->receives_with[n]) {
            leg->receives_with[n] = change->receives_with[n];
            atomic_store_explicit(&leg->received_with[n], change->received_with[n], memory_order_release);
        }
        if (change->sockets[n] >= 0)
            use_socket(&leg->ports[n], change->sockets[n]);
        signal_remote(&leg->ports[n], change);
    }
    if (change->sockets[0] >= 0) {
        atomic_store_explicit(&leg->broken, false, memory_order_release);
        leg->broken_by = 0;
    }
    if (leg->inactivity != change->inactivity) {
        leg->inactivity = change->inactivity;
        leg->watched = false;
        if (leg->inactivity)
            watch_from(leg, worker->now);
    }
}

static void change_all(struct worker *worker, const struct relay_change *changes, size_t count) {
    for (size_t n = 0; n < count; n++)
        if (changes[n].leg->worker == worker) {
            if (changes[n].removed)
                remove_leg(changes[n].leg);
            else
                change_leg(&changes[n]);
        }
    for (size_t n = 0; n < count; n++)
        if (changes[n].leg->worker == worker && !changes[n].removed)
            disconnect(changes[n].leg);
    for (size_t n = 0; n < count; n++)
        if (changes[n].leg->worker == worker && !changes[n].removed && changes[n].peer) {
            changes[n].leg->peer = changes[n].peer;
            changes[n].peer->peer = changes[n].leg;
        }
}

/* -- the worker -------------------------------------------------------------------------------------------------- */

/* Tells what no packet brings up. False: there is no room for it. */
static bool look_after(struct relay_leg *leg) {
    struct worker *worker = leg->worker;
    if (leg->broken_by) {
        if (!tell(leg, (struct relay_notice){.kind = RELAY_BROKEN, .value = leg->broken_by}))
            return false;
        leg->broken_by = 0;
    }
    if (!leg->watched)
        return true;
    const uint64_t heard = atomic_load_explicit(&leg->heard, memory_order_relaxed);
    const uint64_t silent = (heard > leg->watched_since ? heard : leg->watched_since) + leg->inactivity;
    if (silent > worker->now) {
        watch_by(worker, silent < worker->now + WATCH_PERIOD ? worker->now + WATCH_PERIOD : silent);
        return true;
    }
    if (!tell(leg, (struct relay_notice){.kind = RELAY_MEDIA_INACTIVE}))
        return false;
    leg->watched = false;
    atomic_store_explicit(&leg->flowing, false, memory_order_relaxed);
    return true;
}

/* Media come faster than legs fall silent, so the next look is seldom: it is when the first leg could be. */
static void look_after_legs(struct worker *worker) {
    worker->watch_at = NEVER;
    for (struct relay_leg *leg = worker->legs; leg; leg = leg->next)
        if (!look_after(leg)) { /* who is not told now is told later: nothing else ends such a call */
            watch_by(worker, worker->now + WATCH_PERIOD);
            return;
        }
}

/* Media that the caller has found in what it was handed. */
static void hear_opened(struct worker *worker) {
    atomic_exchange_explicit(&worker->opened, false, memory_order_acquire); /* before the legs are asked */
    for (struct relay_leg *leg = worker->legs; leg; leg = leg->next)
        if (atomic_exchange_explicit(&leg->opened, false, memory_order_acquire))
            heard_media(leg);
}

static int timeout(const struct worker *worker) {
    if (worker->watch_at == NEVER)
        return -1;
    if (worker->watch_at <= worker->now)
        return 0;
    const uint64_t left = (worker->watch_at - worker->now) / (SECOND / 1000) + 1;
    return left < 60000 ? (int)left : 60000;
}

static void coalesce(struct worker *worker, uint64_t woken_before, uint64_t ready) {
    uint64_t apart = (worker->now - woken_before) / ready;
    if (apart > SECOND)
        apart = SECOND;
    worker->apart = (7 * worker->apart + apart) / 8;
    const uint64_t wait = TOGETHER * worker->apart, until = worker->now + wait;
    if (ready >= 2 * TOGETHER || wait > worker->relay->settings.coalesce || clock_now() >= until)
        return;
    struct timespec at = {.tv_sec = (time_t)(until / SECOND), .tv_nsec = (long)(until % SECOND)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

static void *work(void *argument) {
    struct worker *worker = argument;
    struct epoll_event events[EVENTS];
    prctl(PR_SET_NAME, "relay");
    prctl(PR_SET_TIMERSLACK, 1UL);
    while (!atomic_load_explicit(&worker->end, memory_order_acquire)) {
        const int ready = epoll_wait(worker->epoll, events, EVENTS, timeout(worker));
        const uint64_t woken_before = worker->now;
        worker->now = clock_now();
        worker->round++;
        worker->behind = ready == EVENTS;
        for (int n = 0; n < ready; n++)
            if (events[n].data.ptr) /* else the bell */
                serve(worker, events[n].data.ptr, events[n].events);
        const struct relay_change *changes = atomic_load_explicit(&worker->changes, memory_order_acquire);
        if (changes) {
            change_all(worker, changes, worker->change_count);
            atomic_store_explicit(&worker->changes, NULL, memory_order_relaxed);
            sem_post(&worker->done);
        }
        if (atomic_load_explicit(&worker->opened, memory_order_relaxed))
            hear_opened(worker);
        if (worker->watch_at <= worker->now)
            look_after_legs(worker);
        if (ready > 0)
            coalesce(worker, woken_before, (uint64_t)ready);
    }
    return NULL;
}

/* -- the face ------------------------------------------------------------------------------------------------------ */

static void worker_free(struct worker *worker) {
    if (!worker)
        return;
    if (worker->epoll >= 0)
        close(worker->epoll);
    if (worker->bell >= 0)
        close(worker->bell);
    srtp_engine_free(worker->engine);
    sem_destroy(&worker->done);
    OPENSSL_cleanse(worker->packets, sizeof worker->packets);
    OPENSSL_cleanse(&worker->kept, sizeof worker->kept);
    free(worker);
}

static struct worker *worker_new(struct relay *relay) {
    struct worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return NULL;
    worker->relay = relay;
    worker->watch_at = NEVER;
    worker->apart = SECOND;
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    worker->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    worker->engine = srtp_engine_new();
    sem_init(&worker->done, 0, 0);
    for (int n = 0; n < RELAY_RECEIVE; n++) {
        worker->in_at[n] = (struct iovec){worker->packets[n].data, SRTP_MAX_PACKET + 1};
        worker->in[n].msg_hdr = (struct msghdr){
            .msg_name = &worker->sources[n],
            .msg_namelen = sizeof worker->sources[n],
            .msg_iov = &worker->in_at[n],
            .msg_iovlen = 1,
        };
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    if (!worker->engine || worker->epoll < 0 || worker->bell < 0 ||
        epoll_ctl(worker->epoll, EPOLL_CTL_ADD, worker->bell, &event) < 0) {
        worker_free(worker);
        return NULL;
    }
    return worker;
}

static int start(struct worker *worker, int core) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    if (core >= 0) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        CPU_SET((unsigned)core % CPU_SETSIZE, &cores);
        pthread_attr_setaffinity_np(&attributes, sizeof cores, &cores);
    }
    sigset_t all, before; /* signals are for the caller's threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&worker->thread, &attributes, work, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error;
}

struct relay *relay_open(const struct relay_settings *settings) {
    struct relay *relay = calloc(1, sizeof *relay);
    if (!relay)
        return NULL;
    relay->settings = *settings;
    relay->told = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = relay->told < 0 ? errno : 0;
    for (uint32_t n = 0; !error && n < settings->workers && n < RELAY_MAX_WORKERS; n++) {
        struct worker *worker = worker_new(relay);
        error = worker ? start(worker, settings->cores[n]) : errno ? errno : ENOMEM;
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

/* Where a socket stands among the ports; NULL: it cannot be told, and loops by it are not seen. */
static place *place_of(struct relay *relay, int fd) {
    union address address = {0};
    socklen_t length = sizeof address;
    if (getsockname(fd, &address.any, &length) < 0)
        return NULL;
    uint32_t n = 0, hosts = atomic_load_explicit(&relay->host_count, memory_order_relaxed);
    while (n < hosts && !same_host(&address, &relay->hosts[n]->address))
        n++;
    if (n == hosts) {
        struct host *host = n < RELAY_MAX_HOSTS ? calloc(1, sizeof *host) : NULL;
        if (!host)
            return NULL;
        host->address = address;
        relay->hosts[n] = host;
        atomic_store_explicit(&relay->host_count, n + 1, memory_order_release);
    }
    return &relay->hosts[n]->ports[ntohs(address.in.sin_port)];
}

static void own(struct relay *relay, const struct relay_change *change) {
    for (int n = 0; n < 2; n++) {
        place **at = &change->leg->places[n];
        if (*at && (change->removed || change->sockets[n] >= 0)) {
            atomic_store_explicit(*at, NOBODY, memory_order_relaxed);
            *at = NULL;
        }
        if (!change->removed && change->sockets[n] >= 0)
            *at = place_of(relay, change->sockets[n]);
        if (*at)
            atomic_store_explicit(*at, change->latch ? LATCHING : FIXED, memory_order_relaxed);
    }
}

int64_t relay_apply(struct relay *relay, const struct relay_change *changes, size_t count) {
    /* What can fail is done here: the worker only has to open its eyes. */
    for (size_t n = 0; n < 2 * count; n++) {
        const struct relay_change *change = &changes[n / 2];
        if (change->removed || change->sockets[n % 2] < 0)
            continue;
        struct epoll_event blind = {.events = 0, .data.ptr = &change->leg->ports[n % 2]};
        if (epoll_ctl(change->leg->worker->epoll, EPOLL_CTL_ADD, change->sockets[n % 2], &blind) == 0)
            continue;
        const int error = errno;
        for (size_t undone = 0; undone < n; undone++) {
            const struct relay_change *added = &changes[undone / 2];
            if (!added->removed && added->sockets[undone % 2] >= 0)
                epoll_ctl(added->leg->worker->epoll, EPOLL_CTL_DEL, added->sockets[undone % 2], NULL);
        }
        errno = error;
        return (int64_t)(n / 2);
    }
    bool asked[RELAY_MAX_WORKERS] = {false};
    for (uint32_t n = 0; n < relay->started; n++) {
        struct worker *worker = relay->workers[n];
        for (size_t at = 0; at < count && !asked[n]; at++)
            asked[n] = changes[at].leg->worker == worker;
        if (!asked[n])
            continue;
        worker->change_count = count;
        atomic_store_explicit(&worker->changes, changes, memory_order_release);
        eventfd_write(worker->bell, 1);
    }
    for (uint32_t n = 0; n < relay->started; n++)
        while (asked[n] && sem_wait(&relay->workers[n]->done) < 0) {
        }
    for (size_t n = 0; n < count; n++)
        own(relay, &changes[n]);
    return -1;
}

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
    for (int n = 0; n < RELAY_OUTCOMES; n++) /* first: see the head of this file */
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
