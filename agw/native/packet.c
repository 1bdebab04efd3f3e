/* What becomes of one packet. Its way, in `packet_take`, is that of agw/pyrelay.py, which says what is right. */
#define _GNU_SOURCE
#include "worker.h"

#include <string.h>

static const uint64_t FAILURE_PERIOD = 60 * SECOND; /* failed authentications are told at most once in it */
static const uint64_t LATCH_PERIOD = 1 * SECOND;    /* so are changes of address */

/* -- what is learnt from it: where there is no room to tell, it is not yet learnt ---------------------------------- */

/* Only from where we send to, once that cannot move; before, from where it may move to. */
static bool is_wrong_source(const struct port *port, const union address *source) {
    if (!port->latching)
        return port->source_filter && port->target.any.sa_family && !same_host(source, &port->target);
    return !port->authentic && port->latch_from.any.sa_family && !same_host(source, &port->latch_from) &&
           !same_host(source, &port->signalled);
}

/* Send to where this packet came from. Where packets are not authentic only the first is believed; where they are
 * only the newest: one that was long on its way from where the peer has been says nothing (as in RFC 9146 section 6). */
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

/* -- what it is -------------------------------------------------------------------------------------------------- */

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

/* RFC 5761 section 4: the types of RTCP are from 192 to 223. */
static bool is_rtcp(const uint8_t *data) { return data[1] >= 192 && data[1] <= 223; }

static enum kind kind_of_rtp(const uint8_t *data, size_t length, const struct port *port) {
    const bool rtcp_port = port->channel == 1;
    if (length < 8 || data[0] < 128 || data[0] > 191) /* RFC 7983 section 7 */
        return port->leg->slow_path == RELAY_SLOW_CONTROL && is_slow(data, length) ? SLOW : NEITHER;
    /* Where the ports are apart, such an octet on the RTP port is a payload type with the marker bit. */
    if (is_rtcp(data) && (port->leg->rtcp_mux || rtcp_port))
        return CONTROL;
    return length >= 12 && !rtcp_port ? MEDIA : NEITHER;
}

static enum kind kind_of(const uint8_t *data, size_t length, const struct port *port) {
    const enum kind whole = port->channel == 1 && !port->leg->rtcp_mux ? CONTROL : MEDIA;
    const bool all_slow = port->leg->slow_path == RELAY_SLOW_ALL;
    switch (port->leg->transport) {
    case RELAY_DTLS:
        return !all_slow ? whole : is_slow(data, length) ? SLOW : NEITHER; /* what is in it the caller sees */
    case RELAY_UDP:
        return !all_slow ? whole : port->channel == 0 ? SLOW_MEDIA : SLOW;
    default:
        return all_slow ? SLOW : kind_of_rtp(data, length, port);
    }
}

/* Only media obey the mode (trap P35). RTCP goes on whatever the direction is (RFC 3264 section 5.1), and so do the
 * checks without which either end has to stop sending (RFC 7675 section 5.1): transparent legs know them by sight. */
static bool obeys_mode(const uint8_t *data, size_t length, const struct relay_leg *leg) {
    if (leg->transport != RELAY_UDP)
        return true;
    const bool rtp = length >= 8 && data[0] >= 128 && data[0] <= 191;
    return !is_stun(data, length) && !(rtp && leg->rtcp_mux && is_rtcp(data));
}

/* -- its way ----------------------------------------------------------------------------------------------------- */

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

/* The keys of RTP and RTCP may be the same: then one packet has shown the new ones at work for both. */
static void forget_received_with(struct relay_leg *leg, bool rtcp) {
    if (!queue_has_room(&leg->worker->queue))
        return;
    for (int n = 0; n < 2; n++)
        if (leg->receives_with[n] == leg->receives_with[rtcp])
            atomic_store_explicit(&leg->received_with[n], NULL, memory_order_release);
    tell(leg, (struct relay_notice){.kind = RELAY_REKEYED});
}

static enum srtp_result unprotect(struct relay_leg *leg, bool rtcp, struct packet *packet, size_t *length,
                                  bool *newest) {
    struct worker *worker = leg->worker;
    const struct srtp_keys *keys = leg->receives_with[rtcp];
    const struct srtp_keys *before = atomic_load_explicit(&leg->received_with[rtcp], memory_order_relaxed);
    if (!before)
        return srtp_unprotect_packet(worker->engine, keys, rtcp, packet->data, length, newest);
    const size_t kept = *length;
    memcpy(worker->kept.data, packet->data, kept);
    enum srtp_result result = srtp_unprotect_packet(worker->engine, keys, rtcp, packet->data, length, newest);
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
        return srtp_unprotect_packet(worker->engine, before, rtcp, packet->data, length, newest);
    }
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

static enum owner owner_of(const struct relay *relay, const union address *source) {
    const uint32_t hosts = atomic_load_explicit(&relay->host_count, memory_order_acquire);
    for (uint32_t n = 0; n < hosts; n++)
        if (same_host(source, &relay->hosts[n]->address))
            return atomic_load_explicit(&relay->hosts[n]->ports[ntohs(source->in.sin_port)], memory_order_relaxed);
    return NOBODY;
}

enum relay_outcome packet_take(struct port *port, struct packet *packet, size_t *length, const union address *source,
                               struct port **way) {
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

    bool newest = true;
    if (leg->transport == RELAY_SRTP) {
        if (!leg->receives_with[rtcp])
            return RELAY_NO_KEY;
        const enum srtp_result result = unprotect(leg, rtcp, packet, length, &newest);
        if (result != SRTP_OK) {
            failed(leg, OUTCOME_OF[result]);
            return OUTCOME_OF[result];
        }
    }

    if (port->latching && newest)
        learn(port, source);
    if (!rtcp)
        heard_media(leg);

    struct relay_leg *peer = leg->peer;
    if (!peer)
        return RELAY_NO_PEER;
    if (!rtcp && !(leg->receives && peer->sends) && obeys_mode(packet->data, *length, leg))
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
