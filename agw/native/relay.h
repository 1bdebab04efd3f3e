/* The packet loop: UDP from leg to leg, with SRTP on either side. This is all that Python sees of it.
 *
 * A relay has workers, threads with an epoll each. A leg belongs to one worker, and so does its peer: no packet
 * waits for a lock. Everything here but the workers' own work happens on one other thread, the caller's.
 *
 * The caller owns legs, keys and sockets, and hands workers changes of them in `relay_apply`, which returns when
 * they are in force. Until then, and from then on for what was taken away, the worker does not touch them.
 * Notices come back through a bounded queue; what finds no room in it is told later. So do the packets of the slow
 * path, STUN and DTLS and what goes through DTLS: a worker has room for RELAY_PACKETS of them, 524 KiB, of which no
 * leg has more than its share, and what finds none is dropped and counted.
 */
#ifndef RELAY_H
#define RELAY_H

#include "srtp.h"

enum {
    RELAY_MAX_WORKERS = 64,
    RELAY_MAX_HOSTS = 32, /* addresses that sockets are bound to */
    RELAY_RECEIVE = 32, /* packets read from one socket at once */
    RELAY_PACKETS = 256, /* of the slow path, that wait for the caller: of one worker; a power of two */
    RELAY_SHARE = 16, /* one leg may have one of so many places that are free: at most 16 */
};

/* What became of a packet. Each has one outcome, counted on the leg it came to. */
enum relay_outcome {
    RELAY_FORWARDED,
    RELAY_SLOW_PATH,
    RELAY_SLOW_PATH_FULL,
    RELAY_NOT_RTP,
    RELAY_NOT_DTLS,
    RELAY_TOO_LONG,
    RELAY_WRONG_SOURCE,
    RELAY_LOOP,
    RELAY_GATED,
    RELAY_NO_PEER,
    RELAY_NO_REMOTE,
    RELAY_NO_KEY,
    RELAY_SEND_FAILED,
    RELAY_AUTH_FAILED,
    RELAY_REPLAYED,
    RELAY_WRONG_MKI,
    RELAY_MALFORMED,
    RELAY_TOO_MANY_SSRCS,
    RELAY_KEY_EXHAUSTED,
    RELAY_OUTCOMES,
};

enum relay_transport { RELAY_RTP, RELAY_SRTP, RELAY_UDP, RELAY_DTLS };
/* Which packets are handed to the caller: none; STUN and DTLS; all. */
enum relay_slow_path { RELAY_NO_SLOW_PATH, RELAY_SLOW_CONTROL, RELAY_SLOW_ALL };

struct relay;
struct relay_leg;

struct relay_address {
    uint8_t family; /* 4, 6, or 0: none */
    uint8_t host[16];
    uint16_t port;
};

struct relay_settings {
    uint32_t workers;            /* 1 to RELAY_MAX_WORKERS */
    int32_t cores[64];           /* the processor each worker is bound to; -1: any */
    uint64_t coalesce;           /* ns that packets may wait so that one wake-up finds several; 0: none */
    uint32_t srtp_failures;      /* failed authentications on one leg in a minute, above which it is told */
};

/* What a leg shall be; see agw.flows.Leg. Pairs are RTP, RTCP. */
struct relay_change {
    struct relay_leg *leg;
    bool removed;                /* nothing but `leg` counts */
    int32_t sockets[2];          /* bound and not blocking; -1, -1: those that the leg has */
    struct relay_leg *peer;      /* of the same worker, and names this one; NULL: none */
    enum relay_transport transport;
    bool rtcp_mux, receives, sends, latch, source_filter;
    enum relay_slow_path slow_path;
    struct relay_address remotes[2];
    struct relay_address latch_from; /* port: 0 */
    uint64_t inactivity;         /* ns; 0: not watched, for now or ever */
    struct srtp_key *sends_with[2]; /* these may be one and the same for RTP and RTCP */
    const struct srtp_keys *receives_with[2];
    const struct srtp_keys *received_with[2]; /* taken too until a packet under receives_with has come */
};

struct relay_counts {
    uint64_t received, received_octets; /* forwarded; the octets as they came and as they left */
    uint64_t sent, sent_octets;
    uint64_t outcomes[RELAY_OUTCOMES];
    uint64_t idle;               /* ns since the last media packet, or since the leg was made */
    bool broken;                 /* it has lost its sockets */
    bool rekeying[2];            /* received_with is still taken */
};

enum relay_kind {
    RELAY_MEDIA_FIRST,
    RELAY_MEDIA_INACTIVE,
    RELAY_SRTP_FAILURES,         /* value: how many; outcome: the last */
    RELAY_REKEYED,               /* received_with, of RTP or of RTCP, is not used any more */
    RELAY_LATCHED,               /* channel; address: where the peer is now */
    RELAY_PACKET,                /* STUN or DTLS. channel; address: its source; value: its length */
    RELAY_BROKEN,                /* value: errno */
};

struct relay_notice {
    uint64_t leg;                /* its name */
    enum relay_kind kind;
    uint8_t channel;             /* 0: the RTP port; 1: the RTCP port */
    uint32_t value;
    enum relay_outcome outcome;
    struct relay_address address;
};

/* Starts the workers. NULL: errno says why. */
struct relay *relay_open(const struct relay_settings *settings);
/* Ends them. Every leg has been removed. */
void relay_close(struct relay *relay);

/* A leg of a worker, not yet known to it. name: for notices. NULL: no memory. */
struct relay_leg *relay_leg_new(struct relay *relay, uint32_t worker, uint64_t name);
void relay_leg_free(struct relay_leg *leg);

/* Makes all changes true, those of one worker at one moment, between two packets. Gives -1 if that is done;
 * else nothing was done, and it is the index of the change whose sockets could not be watched (errno). */
int64_t relay_apply(struct relay *relay, const struct relay_change *changes, size_t count);
/* What a standing leg has handed up had media in it. */
void relay_hear(struct relay_leg *leg);
/* May be asked at any time, also of a removed leg. */
void relay_count(const struct relay_leg *leg, struct relay_counts *counts);

/* Readable while there are notices or packets. */
int relay_descriptor(const struct relay *relay);
/* The next notice, false if there is none. A RELAY_PACKET comes when nothing else is to be told.
 * packet: SRTP_MAX_PACKET octets, written with the packet of a RELAY_PACKET. */
bool relay_read(struct relay *relay, struct relay_notice *notice, uint8_t *packet);

/* "forwarded", "not_rtp" …: as the Python Plane calls them. */
const char *relay_outcome_name(enum relay_outcome outcome);

#endif
