/* A master key and what is derived from it: what the transforms of srtp.c work with.
 *
 * AES runs through EVP, which alone has the fast implementations; a key holds one EVP context for SRTP, and SRTCP,
 * which is rare, sets its key in a context of the engine for each packet: that costs 50 to 150 ns there and saves a
 * third of the memory of a stream.
 *
 * HMAC (RFC 2104) begins with one block that depends on the key only, inside and outside: the two states of SHA-1
 * after it are kept, 20 bytes each, and copied for each packet.
 */
#ifndef SRTP_KEY_H
#define SRTP_KEY_H

#include "source.h"

#include <openssl/evp.h>

enum { SALT = 14, AEAD_SALT = 12, AEAD_TAG = 16, HMAC_KEY = 20 };
enum { SOURCES_HERE = 1 }; /* a stream mostly has one */

struct suite {
    bool aead;
    uint8_t key, salt;          /* bytes */
    uint8_t rtp_tag, rtcp_tag;  /* only SRTP has the short one (RFC 4568 section 6.2.2) */
};

extern const struct suite SUITES[SRTP_SUITES];

/* RFC 3711 section 4.3: what is derived for SRTP, and again for SRTCP. */
struct session_keys {
    uint8_t cipher[32];
    uint8_t salt[SALT];
    uint32_t inner[5], outer[5]; /* SHA-1 after the first block of HMAC */
};

struct srtp_key {
    const struct suite *suite;
    bool sends;
    uint8_t mki_length;
    uint8_t sources; /* in use, in the order in which they came */
    EVP_CIPHER_CTX *aes;
    struct session_keys rtp, rtcp;
    struct source here[SOURCES_HERE];
    struct source *more; /* SRTP_MAX_SSRCS - SOURCES_HERE of them, on pages that are not there until used */
    uint8_t mki[];
};

struct srtp_engine {
    EVP_CIPHER_CTX *aes[SRTP_SUITES]; /* for SRTCP */
};

#endif
