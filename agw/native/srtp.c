/* The packet transforms. The primitives are OpenSSL's.
 *
 * SHA-1 runs through the low-level calls, deprecated as they are: from the states that a key keeps. EVP can copy a
 * state too, but allocates for it, at each packet.
 *
 * The order of the checks on receive: index, replay, tag; nothing is written into a context before the tag is
 * found right (RFC 3711 section 3.3).
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "srtp_key.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

enum { RTP_HEADER = 12, RTCP_HEADER = 8, INDEX = 4 };
static const uint32_t ENCRYPTED = 0x80000000; /* the E flag before the SRTCP index */
static const uint64_t LAST_INDEX = (UINT64_C(1) << 48) - 1;

/* -- sources ----------------------------------------------------------------------------------------------- */

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

static enum srtp_result run_rtp(struct srtp_key *key, uint8_t *packet, size_t *length, bool *newest) {
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
    *newest = index >= source->index; /* the same: there was none */
    if (*newest)
        source->index = index;
    *length = key->sends ? end + tag : end;
    return SRTP_OK;
}

static enum srtp_result run_rtcp(struct srtp_engine *engine, struct srtp_key *key, uint8_t *packet,
                                 size_t *length, bool *newest) {
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
    *newest = index >= source->rtcp_index;
    if (*newest)
        source->rtcp_index = index;
    *length = key->sends ? end + trailer : end;
    return SRTP_OK;
}

static enum srtp_result run(struct srtp_engine *engine, struct srtp_key *key, bool rtcp, uint8_t *packet,
                            size_t *length, bool *newest) {
    return rtcp ? run_rtcp(engine, key, packet, length, newest) : run_rtp(key, packet, length, newest);
}

enum srtp_result srtp_protect_packet(struct srtp_engine *engine, struct srtp_key *key, bool rtcp, uint8_t *packet,
                              size_t *length) {
    bool newest;
    return run(engine, key, rtcp, packet, length, &newest);
}

enum srtp_result srtp_unprotect_packet(struct srtp_engine *engine, const struct srtp_keys *keys, bool rtcp,
                                uint8_t *packet, size_t *length, bool *newest) {
    struct srtp_key *key = keys->keys[0];
    if (key->mki_length == 0)
        return run(engine, key, rtcp, packet, length, newest);

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
            return run(engine, keys->keys[n], rtcp, packet, length, newest);
        }
    return SRTP_WRONG_MKI;
}
