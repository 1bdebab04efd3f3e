#include "queue.h"

#include <string.h>

/* The place to write; false: all of them are in use. */
static bool free_place(const struct ring *ring, uint32_t size, uint32_t *at) {
    *at = atomic_load_explicit(&ring->written, memory_order_relaxed);
    return *at - atomic_load_explicit(&ring->read, memory_order_acquire) < size;
}

/* The place to read; false: none is in use. */
static bool used_place(const struct ring *ring, uint32_t *at) {
    *at = atomic_load_explicit(&ring->read, memory_order_relaxed);
    return *at != atomic_load_explicit(&ring->written, memory_order_acquire);
}

static void advance(_Atomic uint32_t *end, uint32_t at) {
    atomic_store_explicit(end, at + 1, memory_order_release);
}

bool queue_has_room(const struct queue *queue) {
    uint32_t at;
    return free_place(&queue->told, QUEUE_NOTICES, &at);
}

bool queue_tell(struct queue *queue, const struct relay_notice *notice) {
    uint32_t at;
    if (!free_place(&queue->told, QUEUE_NOTICES, &at))
        return false;
    queue->notices[at % QUEUE_NOTICES] = *notice;
    advance(&queue->told.written, at);
    return true;
}

bool queue_hand(struct queue *queue, struct queue_share *share, const struct relay_notice *notice,
                const uint8_t *data) {
    const uint32_t at = atomic_load_explicit(&queue->handed.written, memory_order_relaxed);
    const uint32_t read = atomic_load_explicit(&queue->handed.read, memory_order_acquire);
    if (share->end - read - 1 >= RELAY_PACKETS) /* its last is not among those to be read */
        share->packets = 0;
    if (share->packets * RELAY_SHARE >= RELAY_PACKETS - (at - read))
        return false;
    queue->packets[at % RELAY_PACKETS].notice = *notice;
    memcpy(queue->packets[at % RELAY_PACKETS].data, data, notice->value);
    advance(&queue->handed.written, at);
    share->packets++;
    share->end = at + 1;
    return true;
}

bool queue_notice(struct queue *queue, struct relay_notice *notice) {
    uint32_t at;
    if (!used_place(&queue->told, &at))
        return false;
    *notice = queue->notices[at % QUEUE_NOTICES];
    advance(&queue->told.read, at);
    return true;
}

bool queue_packet(struct queue *queue, struct relay_notice *notice, uint8_t *data) {
    uint32_t at;
    if (!used_place(&queue->handed, &at))
        return false;
    *notice = queue->packets[at % RELAY_PACKETS].notice;
    memcpy(data, queue->packets[at % RELAY_PACKETS].data, notice->value);
    advance(&queue->handed.read, at);
    return true;
}
