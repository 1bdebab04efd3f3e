/* How it works.
 *
 * The primitives are OpenSSL's. AES runs through EVP, which alone has the fast implementations; a key holds one
 * EVP context for SRTP, and SRTCP, which is rare, sets its key in a context of the engine for each packet: that
 * costs 50 to 150 ns there and saves a third of the memory of a stream.
 *
 * SHA-1 runs through the low-level calls, deprecated as they are. HMAC (RFC 2104) begins with one block that
 * depends on the key only, inside and outside: the two states after it are kept, 20 bytes each, and copied for
 * each packet. EVP can copy a state too, but allocates for it, at each packet.
 *
 * The order of the checks on receive: index, replay, tag; nothing is written into a context before the tag is
 * found right (RFC 3711 section 3.3).
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#define _GNU_SOURCE
#include "srtp.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { RTP_HEADER = 12, RTCP_HEADER = 8, INDEX = 4, SALT = 14, AEAD_SALT = 12, AEAD_TAG = 16, HMAC_KEY = 20 };
enum { SOURCES_HERE = 1 }; /* a stream mostly has one */
static const uint32_t ENCRYPTED = 0x80000000; /* the E flag before the SRTCP index */
static const uint64_t LAST_INDEX = (UINT64_C(1) << 48) - 1;

static const struct suite {
    bool aead;
    uint8_t key, salt;          /* bytes */
    uint8_t rtp_tag, rtcp_tag;  /* only SRTP has the short one (RFC 4568 section 6.2.2) */
} SUITES[SRTP_SUITES] = {
    [SRTP_AES_CM_128_HMAC_SHA1_80] = {false, 16, SALT, 10, 10},
    [SRTP_AES_CM_128_HMAC_SHA1_32] = {false, 16, SALT, 4, 10},
    [SRTP_AES_256_CM_HMAC_SHA1_80] = {false, 32, SALT, 10, 10},
    [SRTP_AEAD_AES_128_GCM] = {true, 16, AEAD_SALT, AEAD_TAG, AEAD_TAG},
    [SRTP_AEAD_AES_256_GCM] = {true, 32, AEAD_SALT, AEAD_TAG, AEAD_TAG},
};

static const EVP_CIPHER *cipher_of(const struct suite *suite) {
    if (suite->aead)
        return suite->key == 16 ? EVP_aes_128_gcm() : EVP_aes_256_gcm();
    return suite->key == 16 ? EVP_aes_128_ctr() : EVP_aes_256_ctr();
}

/* What is known of one SSRC: the highest index and, as rings of bits, which of the last ones were there. */
struct source {
    uint32_t ssrc;
    uint32_t rtcp_index;
    uint64_t index; /* ROC and sequence number */
    uint64_t rtcp_window[SRTCP_WINDOW / 64];
    uint64_t window[SRTP_WINDOW / 64];
};

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

static const size_t MORE = (SRTP_MAX_SSRCS - SOURCES_HERE) * sizeof(struct source);

/* -- keys ----------------------------------------------------------------------------------------------- */

/* RFC 3711 section 4.3.1 with a key derivation rate of 0; the short salt as in RFC 7714 section 11. */
static bool derive(const struct suite *suite, const uint8_t *material, uint8_t label, uint8_t *to, int length) {
    static const uint8_t zeros[32];
    uint8_t iv[16] = {0};
    memcpy(iv, material + suite->key, suite->salt);
    iv[7] ^= label;
    EVP_CIPHER_CTX *prf = EVP_CIPHER_CTX_new();
    const EVP_CIPHER *cipher = suite->key == 16 ? EVP_aes_128_ctr() : EVP_aes_256_ctr();
    int written;
    bool done = prf && EVP_EncryptInit_ex(prf, cipher, NULL, material, iv) == 1 &&
                EVP_EncryptUpdate(prf, to, &written, zeros, length) == 1;
    EVP_CIPHER_CTX_free(prf);
    return done;
}

static void after_first_block(const uint8_t *key, uint8_t pad, uint32_t state[5]) {
    uint8_t block[SHA_CBLOCK];
    memset(block, pad, sizeof block);
    for (int n = 0; n < HMAC_KEY; n++)
        block[n] ^= key[n];
    SHA_CTX sha;
    SHA1_Init(&sha);
    SHA1_Update(&sha, block, sizeof block);
    uint32_t reached[5] = {sha.h0, sha.h1, sha.h2, sha.h3, sha.h4};
    memcpy(state, reached, sizeof reached);
    OPENSSL_cleanse(block, sizeof block);
    OPENSSL_cleanse(&sha, sizeof sha);
    OPENSSL_cleanse(reached, sizeof reached);
}

static bool derive_session(const struct suite *suite, const uint8_t *material, uint8_t first_label,
                           struct session_keys *keys) {
    uint8_t authentication[HMAC_KEY];
    bool done = derive(suite, material, first_label, keys->cipher, suite->key) &&
                derive(suite, material, first_label + 1, authentication, HMAC_KEY) &&
                derive(suite, material, first_label + 2, keys->salt, suite->salt);
    after_first_block(authentication, 0x36, keys->inner);
    after_first_block(authentication, 0x5c, keys->outer);
    OPENSSL_cleanse(authentication, sizeof authentication);
    return done;
}

struct srtp_key *srtp_key_new(enum srtp_suite name, const uint8_t *material, size_t material_length,
                              const uint8_t *mki, size_t mki_length, bool sends) {
    const struct suite *suite = &SUITES[name < SRTP_SUITES ? name : 0];
    if (name >= SRTP_SUITES || material_length != (size_t)suite->key + suite->salt || mki_length > SRTP_MAX_MKI)
        return NULL;
    struct srtp_key *key = calloc(1, sizeof *key + mki_length);
    if (!key)
        return NULL;
    key->suite = suite;
    key->sends = sends;
    key->mki_length = (uint8_t)mki_length;
    if (mki_length)
        memcpy(key->mki, mki, mki_length);
    void *more = mmap(NULL, MORE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    key->more = more == MAP_FAILED ? NULL : more;
    key->aes = EVP_CIPHER_CTX_new();
    if (!key->more || !key->aes || !derive_session(suite, material, 0, &key->rtp) ||
        !derive_session(suite, material, 3, &key->rtcp) ||
        EVP_CipherInit_ex(key->aes, cipher_of(suite), NULL, key->rtp.cipher, NULL, sends || !suite->aead) != 1) {
        srtp_key_free(key);
        return NULL;
    }
    return key;
}

void srtp_key_free(struct srtp_key *key) {
    if (!key)
        return;
    EVP_CIPHER_CTX_free(key->aes); /* wipes */
    if (key->more)
        munmap(key->more, MORE);
    OPENSSL_cleanse(key, sizeof *key + key->mki_length);
    free(key);
}

struct srtp_engine *srtp_engine_new(void) {
    struct srtp_engine *engine = calloc(1, sizeof *engine);
    for (int n = 0; engine && n < SRTP_SUITES; n++) {
        engine->aes[n] = EVP_CIPHER_CTX_new();
        if (!engine->aes[n] || EVP_CipherInit_ex(engine->aes[n], cipher_of(&SUITES[n]), NULL, NULL, NULL, 1) != 1) {
            srtp_engine_free(engine);
            return NULL;
        }
    }
    return engine;
}

void srtp_engine_free(struct srtp_engine *engine) {
    for (int n = 0; engine && n < SRTP_SUITES; n++)
        EVP_CIPHER_CTX_free(engine->aes[n]);
    free(engine);
}

/* -- sources and their windows --------------------------------------------------------------------------- */

static const struct source UNHEARD;

static struct source *source_at(struct srtp_key *key, unsigned n) {
    return n < SOURCES_HERE ? &key->here[n] : &key->more[n - SOURCES_HERE];
}

static struct source *find(struct srtp_key *key, uint32_t ssrc) {
    for (unsigned n = 0; n < key->sources; n++) {
        struct source *source = source_at(key, n);
        if (source->ssrc == ssrc)
            return source;
    }
    return NULL;
}

static struct source *remember(struct srtp_key *key, uint32_t ssrc) {
    struct source *source = source_at(key, key->sources++);
    source->ssrc = ssrc;
    return source;
}

static bool is_fresh(const uint64_t *window, uint64_t size, uint64_t highest, uint64_t index) {
    if (index > highest)
        return true;
    return highest - index < size && !(window[index % size / 64] >> index % 64 & 1);
}

static void tick_off(uint64_t *window, uint64_t size, uint64_t highest, uint64_t index) {
    if (index > highest && index - highest >= size)
        memset(window, 0, size / 8);
    else
        for (uint64_t between = highest + 1; between <= index; between++)
            window[between % size / 64] &= ~(UINT64_C(1) << between % 64);
    window[index % size / 64] |= UINT64_C(1) << index % 64;
}

/* RFC 3711 section 3.3.1 and appendix A, but there is no index before 0: what would lie there is ahead. */
static uint64_t guess_index(uint64_t highest, uint16_t sequence) {
    uint64_t roc = highest >> 16;
    uint16_t last = (uint16_t)highest;
    if (last < 0x8000) {
        if (sequence - last > 0x8000 && roc > 0)
            roc--;
    } else if (last - 0x8000 > sequence)
        roc++;
    return roc << 16 | sequence;
}

/* -- the transforms ---------------------------------------------------------------------------------------- */

static uint32_t read_32(const uint8_t *from) {
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static void write_32(uint8_t *to, uint32_t value) {
    to[0] = (uint8_t)(value >> 24);
    to[1] = (uint8_t)(value >> 16);
    to[2] = (uint8_t)(value >> 8);
    to[3] = (uint8_t)value;
}

/* Where the payload begins: behind header, CSRCs and extension (RFC 3550 section 5). 0: not within the packet. */
static size_t payload_of(const uint8_t *packet, size_t length) {
    size_t at = RTP_HEADER + 4 * (size_t)(packet[0] & 0x0f);
    if (packet[0] & 0x10) {
        if (length < at + 4)
            return 0;
        at += 4 + 4 * ((size_t)packet[at + 2] << 8 | packet[at + 3]);
    }
    return at <= length ? at : 0;
}

/* index: 48 bits, or the 31 of SRTCP. RFC 3711 section 4.1.1: salt * 2^16 XOR SSRC * 2^64 XOR index * 2^16;
 * RFC 7714 sections 8.1 and 9.1: salt XOR two zeros, SSRC, index. */
static void make_iv(uint8_t iv[16], const struct suite *suite, const uint8_t *salt, uint32_t ssrc,
                    uint64_t index) {
    memset(iv, 0, 16);
    uint8_t *at = iv + (suite->aead ? 2 : 4);
    write_32(at, ssrc);
    write_32(at + 4, (uint32_t)(index >> 16));
    at[8] = (uint8_t)(index >> 8);
    at[9] = (uint8_t)index;
    for (int n = 0; n < suite->salt; n++)
        iv[n] ^= salt[n];
}

static bool apply_aes(EVP_CIPHER_CTX *aes, const uint8_t iv[16], uint8_t *data, size_t length) {
    int written;
    return EVP_CipherInit_ex(aes, NULL, NULL, NULL, iv, -1) == 1 &&
           EVP_CipherUpdate(aes, data, &written, data, (int)length) == 1;
}

/* The tag stands behind the data: written there, or compared with what is there. */
static bool apply_gcm(EVP_CIPHER_CTX *aes, const uint8_t iv[16], bool sends, const uint8_t *header,
                       size_t header_length, const uint8_t *trailer, size_t trailer_length, uint8_t *data,
                       size_t length) {
    int written;
    uint8_t rest[16];
    return EVP_CipherInit_ex(aes, NULL, NULL, NULL, iv, -1) == 1 &&
           (sends || EVP_CIPHER_CTX_ctrl(aes, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG, data + length) == 1) &&
           EVP_CipherUpdate(aes, NULL, &written, header, (int)header_length) == 1 &&
           (!trailer_length || EVP_CipherUpdate(aes, NULL, &written, trailer, (int)trailer_length) == 1) &&
           (!length || EVP_CipherUpdate(aes, data, &written, data, (int)length) == 1) &&
           EVP_CipherFinal_ex(aes, rest, &written) == 1 &&
           (!sends || EVP_CIPHER_CTX_ctrl(aes, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG, data + length) == 1);
}

static void resume(SHA_CTX *sha, const uint32_t state[5]) {
    sha->h0 = state[0];
    sha->h1 = state[1];
    sha->h2 = state[2];
    sha->h3 = state[3];
    sha->h4 = state[4];
    sha->Nl = SHA_CBLOCK * 8; /* bits so far */
    sha->Nh = 0;
    sha->num = 0;
}

static void hmac(const struct session_keys *keys, const uint8_t *data, size_t length, const uint8_t *roc,
                 uint8_t tag[SHA_DIGEST_LENGTH]) {
    SHA_CTX sha;
    resume(&sha, keys->inner);
    SHA1_Update(&sha, data, length);
    if (roc)
        SHA1_Update(&sha, roc, 4);
    SHA1_Final(tag, &sha);
    resume(&sha, keys->outer);
    SHA1_Update(&sha, tag, SHA_DIGEST_LENGTH);
    SHA1_Final(tag, &sha);
}

/* RFC 3711 section 3.1, RFC 7714 section 8: `end` is where the tag is or will be. */
static enum srtp_result crypt_rtp(struct srtp_key *key, uint8_t *packet, size_t end, size_t payload,
                                  uint32_t ssrc, uint64_t index) {
    const struct suite *suite = key->suite;
    uint8_t iv[16], roc[4], tag[SHA_DIGEST_LENGTH];
    make_iv(iv, suite, key->rtp.salt, ssrc, index);
    if (suite->aead)
        return apply_gcm(key->aes, iv, key->sends, packet, payload, NULL, 0, packet + payload, end - payload)
                   ? SRTP_OK
                   : SRTP_AUTH_FAILED;
    write_32(roc, (uint32_t)(index >> 16));
    if (key->sends && !apply_aes(key->aes, iv, packet + payload, end - payload))
        return SRTP_MALFORMED;
    hmac(&key->rtp, packet, end, roc, tag);
    if (key->sends)
        memcpy(packet + end, tag, suite->rtp_tag);
    else if (CRYPTO_memcmp(packet + end, tag, suite->rtp_tag) != 0)
        return SRTP_AUTH_FAILED;
    else if (!apply_aes(key->aes, iv, packet + payload, end - payload))
        return SRTP_MALFORMED;
    return SRTP_OK;
}

/* RFC 3711 section 3.4: header, encrypted part up to `end`, index, tag; RFC 7714 section 9: the tag comes
 * before the index. trailer: E flag and index. */
static enum srtp_result crypt_rtcp(struct srtp_engine *engine, struct srtp_key *key, uint8_t *packet, size_t end,
                                   uint32_t ssrc, uint32_t index) {
    const struct suite *suite = key->suite;
    EVP_CIPHER_CTX *aes = engine->aes[suite - SUITES];
    uint8_t iv[16], trailer[INDEX], tag[SHA_DIGEST_LENGTH];
    make_iv(iv, suite, key->rtcp.salt, ssrc, index);
    write_32(trailer, ENCRYPTED | index);
    if (EVP_CipherInit_ex(aes, NULL, NULL, key->rtcp.cipher, NULL, key->sends || !suite->aead) != 1)
        return SRTP_MALFORMED;
    uint8_t *data = packet + RTCP_HEADER;
    if (suite->aead) {
        if (!apply_gcm(aes, iv, key->sends, packet, RTCP_HEADER, trailer, INDEX, data, end - RTCP_HEADER))
            return SRTP_AUTH_FAILED;
        memcpy(packet + end + AEAD_TAG, trailer, INDEX);
        return SRTP_OK;
    }
    if (key->sends && !apply_aes(aes, iv, data, end - RTCP_HEADER))
        return SRTP_MALFORMED;
    memcpy(packet + end, trailer, INDEX);
    hmac(&key->rtcp, packet, end + INDEX, NULL, tag);
    if (key->sends)
        memcpy(packet + end + INDEX, tag, suite->rtcp_tag);
    else if (CRYPTO_memcmp(packet + end + INDEX, tag, suite->rtcp_tag) != 0)
        return SRTP_AUTH_FAILED;
    else if (!apply_aes(aes, iv, data, end - RTCP_HEADER))
        return SRTP_MALFORMED;
    return SRTP_OK;
}

static enum srtp_result run_rtp(struct srtp_key *key, uint8_t *packet, size_t *length) {
    const size_t tag = key->suite->rtp_tag, inwards = key->sends ? 0 : tag;
    if (*length < RTP_HEADER + inwards)
        return SRTP_MALFORMED;
    if (*length > SRTP_MAX_PACKET)
        return SRTP_TOO_LONG;
    const uint32_t ssrc = read_32(packet + 8);
    struct source *source = find(key, ssrc);
    if (!source && key->sources == SRTP_MAX_SSRCS)
        return SRTP_TOO_MANY_SSRCS;
    const size_t payload = payload_of(packet, *length), end = *length - inwards;
    if (!payload)
        return SRTP_MALFORMED;
    const struct source *known = source ? source : &UNHEARD;
    const uint64_t index = guess_index(known->index, (uint16_t)(packet[2] << 8 | packet[3]));
    if (index > LAST_INDEX)
        return SRTP_KEY_EXHAUSTED;
    if (!is_fresh(known->window, SRTP_WINDOW, known->index, index))
        return SRTP_REPLAYED;
    if (payload > end)
        return SRTP_MALFORMED;
    enum srtp_result result = crypt_rtp(key, packet, end, payload, ssrc, index);
    if (result != SRTP_OK)
        return result;
    if (!source)
        source = remember(key, ssrc);
    tick_off(source->window, SRTP_WINDOW, source->index, index);
    if (index > source->index)
        source->index = index;
    *length = key->sends ? end + tag : end;
    return SRTP_OK;
}

static enum srtp_result run_rtcp(struct srtp_engine *engine, struct srtp_key *key, uint8_t *packet,
                                 size_t *length) {
    const size_t trailer = (size_t)INDEX + key->suite->rtcp_tag, inwards = key->sends ? 0 : trailer;
    if (*length < RTCP_HEADER + inwards)
        return SRTP_MALFORMED;
    if (*length > SRTP_MAX_PACKET)
        return SRTP_TOO_LONG;
    const uint32_t ssrc = read_32(packet + 4);
    struct source *source = find(key, ssrc);
    if (!source && key->sources == SRTP_MAX_SSRCS)
        return SRTP_TOO_MANY_SSRCS;
    const struct source *known = source ? source : &UNHEARD;
    const size_t end = *length - inwards;
    uint32_t index;
    if (key->sends) {
        if (known->rtcp_index == ~ENCRYPTED)
            return SRTP_KEY_EXHAUSTED;
        index = known->rtcp_index + 1;
    } else {
        const uint32_t word = read_32(packet + *length - (key->suite->aead ? INDEX : trailer));
        index = word & ~ENCRYPTED;
        if (!(word & ENCRYPTED))
            return SRTP_AUTH_FAILED; /* encryption was agreed */
        if (!is_fresh(known->rtcp_window, SRTCP_WINDOW, known->rtcp_index, index))
            return SRTP_REPLAYED;
    }
    enum srtp_result result = crypt_rtcp(engine, key, packet, end, ssrc, index);
    if (result != SRTP_OK)
        return result;
    if (!source)
        source = remember(key, ssrc);
    tick_off(source->rtcp_window, SRTCP_WINDOW, source->rtcp_index, index);
    if (index > source->rtcp_index)
        source->rtcp_index = index;
    *length = key->sends ? end + trailer : end;
    return SRTP_OK;
}

static enum srtp_result run(struct srtp_engine *engine, struct srtp_key *key, bool rtcp, uint8_t *packet,
                            size_t *length) {
    return rtcp ? run_rtcp(engine, key, packet, length) : run_rtp(key, packet, length);
}

enum srtp_result srtp_protect_packet(struct srtp_engine *engine, struct srtp_key *key, bool rtcp, uint8_t *packet,
                              size_t *length) {
    return run(engine, key, rtcp, packet, length);
}

enum srtp_result srtp_unprotect_packet(struct srtp_engine *engine, const struct srtp_keys *keys, bool rtcp,
                                uint8_t *packet, size_t *length) {
    struct srtp_key *key = keys->keys[0];
    if (key->mki_length == 0)
        return run(engine, key, rtcp, packet, length);

    /* Behind the MKI stands the tag; that of AEAD is part of the ciphertext (RFC 7714 sections 8.2 and 9.2). */
    const struct suite *suite = key->suite;
    const size_t behind = suite->aead ? 0 : rtcp ? suite->rtcp_tag : suite->rtp_tag;
    const size_t mki_length = key->mki_length;
    if (*length < RTCP_HEADER + mki_length + behind)
        return SRTP_MALFORMED;
    uint8_t *mki = packet + *length - behind - mki_length;
    for (uint32_t n = 0; n < keys->count; n++)
        if (memcmp(keys->keys[n]->mki, mki, mki_length) == 0) {
            /* The tag does not cover the MKI (RFC 3711 section 3.1): the rest is a packet without one. */
            memmove(mki, mki + mki_length, behind);
            *length -= mki_length;
            return run(engine, keys->keys[n], rtcp, packet, length);
        }
    return SRTP_WRONG_MKI;
}
