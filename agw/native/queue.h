/* What a worker tells the caller: notices, and packets of the slow path. The worker writes, the caller reads, neither
 * waits for the other. Each kind has a ring of its own, so that a flood of packets costs no notice. A notice that
 * finds no room is not forgotten: what it tells of stays as it was on the leg, and is told when there is room. */
#ifndef QUEUE_H
#define QUEUE_H

#include "relay.h"

#include <stdatomic.h>

enum { QUEUE_NOTICES = 1024 }; /* a power of two, as RELAY_PACKETS is */

/* Places are counted on and on: from `read` to `written` they are in use, n is the table's n % its size. */
struct ring {
    _Atomic uint32_t written, read;
};

/* What a leg has in the queue. It is given a place while it has less than one RELAY_SHARE-th of those that are free:
 * however many legs are flooded, the more they take the less they get, and one that says little is heard. What it has
 * is counted until its last packet has been read. */
struct queue_share {
    uint32_t packets, end; /* since it had none; the place behind its last */
};

struct queue {
    struct ring told, handed;
    struct relay_notice notices[QUEUE_NOTICES];
    struct {
        struct relay_notice notice;
        uint8_t data[SRTP_MAX_PACKET];
    } packets[RELAY_PACKETS];
};

/* For a notice. */
bool queue_has_room(const struct queue *queue);
/* False: there is no room. */
bool queue_tell(struct queue *queue, const struct relay_notice *notice);
/* The packet of a RELAY_PACKET, notice->value octets. False: there is no room for this leg. */
bool queue_hand(struct queue *queue, struct queue_share *share, const struct relay_notice *notice, const uint8_t *data);

/* The oldest. False: there is none. */
bool queue_notice(struct queue *queue, struct relay_notice *notice);
bool queue_packet(struct queue *queue, struct relay_notice *notice, uint8_t *data);

#endif
