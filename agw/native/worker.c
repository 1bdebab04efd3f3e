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
 */
#define _GNU_SOURCE
#include "worker.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { TOGETHER = 8 }; /* packets that one wake-up shall find */
static const uint64_t WATCH_PERIOD = SECOND / 100; /* between two looks for silent legs, at least */

/* -- packets, in batches --------------------------------------------------------------------------------------- */

/* How many of them were sent, or -1. */
static int send_run(const struct port *way, struct mmsghdr *messages, int count) {
    if (count > 1)
        return sendmmsg(way->fd, messages, (unsigned)count, MSG_DONTWAIT);
    const struct iovec *at = messages->msg_hdr.msg_iov;
    return sendto(way->fd, at->iov_base, at->iov_len, MSG_DONTWAIT, &way->target.any, size_of(&way->target)) < 0
               ? -1
               : 1;
}

/* Sends what packet_take has forwarded, all from one leg: lengths[n] is what packet n had when it came. */
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
            packet_take(port, &worker->packets[n], &length, &worker->sources[n], &worker->ways[out]);
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

/* -- the round ------------------------------------------------------------------------------------------------- */

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

/* Between two sockets and not once a round: the caller waits, and a round of a flood takes tens of milliseconds. */
static void take_changes(struct worker *worker) {
    const struct relay_change *changes = atomic_load_explicit(&worker->changes, memory_order_acquire);
    if (!changes)
        return;
    worker_change(worker, changes, worker->change_count);
    atomic_store_explicit(&worker->changes, NULL, memory_order_relaxed);
    sem_post(&worker->done);
}

static void *work(void *argument) {
    struct worker *worker = argument;
    prctl(PR_SET_NAME, "relay");
    prctl(PR_SET_TIMERSLACK, 1UL);
    while (!atomic_load_explicit(&worker->end, memory_order_acquire)) {
        worker->ready = epoll_wait(worker->epoll, worker->events, WORKER_EVENTS, timeout(worker));
        const uint64_t woken_before = worker->now;
        worker->now = clock_now();
        worker->round++;
        worker->behind = worker->ready == WORKER_EVENTS;
        for (worker->served = 0; worker->served < worker->ready;) {
            const struct epoll_event event = worker->events[worker->served++];
            if (event.data.ptr) /* else the bell */
                serve(worker, event.data.ptr, event.events);
            take_changes(worker);
        }
        if (atomic_load_explicit(&worker->opened, memory_order_relaxed))
            hear_opened(worker);
        if (worker->watch_at <= worker->now)
            look_after_legs(worker);
        if (worker->ready > 0)
            coalesce(worker, woken_before, (uint64_t)worker->ready);
    }
    return NULL;
}

/* -- its life -------------------------------------------------------------------------------------------------- */

void worker_free(struct worker *worker) {
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

struct worker *worker_new(struct relay *relay) {
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

int worker_start(struct worker *worker, int core) {
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
