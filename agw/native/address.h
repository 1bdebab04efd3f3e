/* Addresses of sockets, as the kernel has them and as the caller is shown them. */
#ifndef ADDRESS_H
#define ADDRESS_H

#include "relay.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

static inline socklen_t size_of(const union address *address) {
    return address->any.sa_family == AF_INET6 ? sizeof address->in6 : sizeof address->in;
}

static inline bool same_host(const union address *one, const union address *other) {
    if (one->any.sa_family != other->any.sa_family)
        return false;
    if (one->any.sa_family == AF_INET)
        return one->in.sin_addr.s_addr == other->in.sin_addr.s_addr;
    return memcmp(&one->in6.sin6_addr, &other->in6.sin6_addr, sizeof one->in6.sin6_addr) == 0 &&
           one->in6.sin6_scope_id == other->in6.sin6_scope_id;
}

/* The port is at the same place in both families. */
static inline bool same_address(const union address *one, const union address *other) {
    if (!one->any.sa_family || !other->any.sa_family)
        return one->any.sa_family == other->any.sa_family;
    return one->in.sin_port == other->in.sin_port && same_host(one, other);
}

static inline union address from_outside(const struct relay_address *outside) {
    union address address = {0};
    if (outside->family == 4) {
        address.in.sin_family = AF_INET;
        address.in.sin_port = htons(outside->port);
        memcpy(&address.in.sin_addr, outside->host, 4);
    } else if (outside->family == 6) {
        address.in6.sin6_family = AF_INET6;
        address.in6.sin6_port = htons(outside->port);
        memcpy(&address.in6.sin6_addr, outside->host, 16);
    }
    return address;
}

static inline struct relay_address to_outside(const union address *address) {
    struct relay_address outside = {.port = ntohs(address->in.sin_port)};
    if (address->any.sa_family == AF_INET6) {
        outside.family = 6;
        memcpy(outside.host, &address->in6.sin6_addr, 16);
    } else {
        outside.family = 4;
        memcpy(outside.host, &address->in.sin_addr, 4);
    }
    return outside;
}

#endif
