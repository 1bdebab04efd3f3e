/* SRTP and SRTCP packets (RFC 3711, RFC 6188, RFC 7714): one master key, one direction.
 *
 * A key finds its cryptographic contexts by SSRC (RFC 3711 section 3.2.3), so a stream may hold several sources
 * and a source may change its SSRC at any time. The context of an SSRC is made by its first packet, on receive
 * only if that packet was authentic.
 *
 * A key and an engine are used by one thread at a time. Nothing here allocates but what is called `new`.
 */
#ifndef SRTP_H
#define SRTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SRTP_MAX_PACKET = 2048, /* bytes, before a packet is protected and before it is unprotected */
    SRTP_MAX_TRAILER = 20,  /* bytes by which a packet may grow: tag and SRTCP index */
    SRTP_MAX_SSRCS = 64,    /* contexts of one key */
    SRTP_MAX_KEYS = 16,     /* of one direction, told apart by MKI */
    SRTP_MAX_MKI = 128,     /* bytes, RFC 4568 section 6.1 */
    SRTP_WINDOW = 512,      /* packets; RFC 3711 section 3.3.2 wants at least 64 */
    SRTCP_WINDOW = 128,
};

enum srtp_suite {
    SRTP_AES_CM_128_HMAC_SHA1_80,
    SRTP_AES_CM_128_HMAC_SHA1_32,
    SRTP_AES_256_CM_HMAC_SHA1_80,
    SRTP_AEAD_AES_128_GCM,
    SRTP_AEAD_AES_256_GCM,
    SRTP_SUITES,
};

enum srtp_result {
    SRTP_OK,
    SRTP_AUTH_FAILED,
    SRTP_REPLAYED, /* or older than the window; on sending: this index was used (RFC 3711 section 9.1) */
    SRTP_WRONG_MKI,
    SRTP_MALFORMED,
    SRTP_TOO_LONG,
    SRTP_TOO_MANY_SSRCS,
    SRTP_KEY_EXHAUSTED, /* RFC 3711 section 9.2: 2^48 SRTP or 2^31 SRTCP packets */
};

struct srtp_key;
struct srtp_engine;

/* The keys of one direction that are in force together: one suite, different MKIs of one length. */
struct srtp_keys {
    uint32_t count; /* 1 to SRTP_MAX_KEYS */
    struct srtp_key *keys[];
};

/* What a thread works with. NULL: no memory. */
struct srtp_engine *srtp_engine_new(void);
void srtp_engine_free(struct srtp_engine *engine);

/* material: master key and master salt, of the suite's length. mki: stripped on receive, never sent.
 * NULL: another length, or no memory. */
struct srtp_key *srtp_key_new(enum srtp_suite suite, const uint8_t *material, size_t material_length,
                              const uint8_t *mki, size_t mki_length, bool sends);
/* Wipes it. */
void srtp_key_free(struct srtp_key *key);

/* RTP to SRTP or a compound RTCP packet to SRTCP, in place. packet has room for SRTP_MAX_TRAILER more bytes.
 * A packet that fails leaves no trace in the key; what its bytes are then is not said. */
enum srtp_result srtp_protect_packet(struct srtp_engine *engine, struct srtp_key *key, bool rtcp, uint8_t *packet,
                              size_t *length);
/* SRTP to RTP or SRTCP to RTCP, in place, with the same words. newest: its index is above those of all packets of
 * its SSRC that came before; written where it is authentic. */
enum srtp_result srtp_unprotect_packet(struct srtp_engine *engine, const struct srtp_keys *keys, bool rtcp,
                                uint8_t *packet, size_t *length, bool *newest);

#endif
