/* What the caller changes. It is handed over in `relay_apply`; the worker takes it over between two packets. */
#define _GNU_SOURCE
#include "worker.h"

#include <errno.h>
#include <stdlib.h>

/* -- on the worker -------------------------------------------------------------------------------------------- */

static void disconnect(struct relay_leg *leg) {
    if (leg->peer)
        leg->peer->peer = NULL;
    leg->peer = NULL;
}

/* What was seen of the port before is of another socket, or of a leg that is gone. */
static void forget_events(const struct port *port) {
    struct worker *worker = port->leg->worker;
    for (int n = worker->served; n < worker->ready; n++)
        if (worker->events[n].data.ptr == port)
            worker->events[n].data.ptr = NULL;
}

static void use_socket(struct port *port, int fd) {
    const int epoll = port->leg->worker->epoll;
    forget_events(port);
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
    leg->rtcp_mux = change->rtcp_mux;
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

/* -- on the caller's thread ----------------------------------------------------------------------------------- */

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
