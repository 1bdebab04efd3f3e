/* What the caller changes, in the worker's lock. What epoll has told the worker before is nothing to it then: it asks
 * again, and epoll, being level-triggered, says again what still holds. */
#define _GNU_SOURCE
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

static void disconnect(struct relay_leg *leg) {
    if (leg->peer)
        leg->peer->peer = NULL;
    leg->peer = NULL;
}

/* It is watched already. */
static void use_socket(struct port *port, int fd) {
    if (port->fd >= 0)
        epoll_ctl(port->leg->worker->epoll, EPOLL_CTL_DEL, port->fd, NULL);
    port->fd = fd;
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

void worker_change(struct worker *worker, const struct relay_change *changes, size_t count) {
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

/* The socket of change n / 2 that it brings for port n % 2; -1: none. */
static int brought(const struct relay_change *changes, size_t n) {
    return changes[n / 2].removed ? -1 : changes[n / 2].sockets[n % 2];
}

/* Has the sockets watched that the changes bring, all or none. Gives -1, or which could not be (errno). */
static int64_t watch(const struct relay_change *changes, size_t count) {
    for (size_t n = 0; n < 2 * count; n++) {
        struct relay_leg *leg = changes[n / 2].leg;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &leg->ports[n % 2]};
        if (brought(changes, n) < 0 || epoll_ctl(leg->worker->epoll, EPOLL_CTL_ADD, brought(changes, n), &event) == 0)
            continue;
        const int error = errno;
        for (size_t undone = 0; undone < n; undone++)
            if (brought(changes, undone) >= 0)
                epoll_ctl(changes[undone / 2].leg->worker->epoll, EPOLL_CTL_DEL, brought(changes, undone), NULL);
        errno = error;
        return (int64_t)n;
    }
    return -1;
}

int64_t relay_apply(struct relay *relay, const struct relay_change *changes, size_t count) {
    bool meant[RELAY_MAX_WORKERS] = {false};
    for (uint32_t n = 0; n < relay->started; n++) {
        for (size_t at = 0; at < count && !meant[n]; at++)
            meant[n] = changes[at].leg->worker == relay->workers[n];
        if (meant[n])
            worker_interrupt(relay->workers[n]);
    }
    const int64_t failed = watch(changes, count);
    const int error = errno;
    for (uint32_t n = 0; n < relay->started; n++)
        if (meant[n]) {
            if (failed < 0)
                worker_change(relay->workers[n], changes, count);
            worker_resume(relay->workers[n]);
        }
    for (size_t n = 0; failed < 0 && n < count; n++)
        own(relay, &changes[n]);
    errno = error;
    return failed < 0 ? -1 : failed / 2;
}
