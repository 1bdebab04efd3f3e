#define OPENSSL_SUPPRESS_DEPRECATED
#define _GNU_SOURCE
#include "srtp_key.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <sys/mman.h>

const struct suite SUITES[SRTP_SUITES] = {
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

static const size_t MORE = (SRTP_MAX_SSRCS - SOURCES_HERE) * sizeof(struct source);

/* AES in counter mode under the master key. The cipher is set once for all that is derived: OpenSSL looks it up each
 * time, which costs more than all the rest. */
static EVP_CIPHER_CTX *prf_new(const struct suite *suite, const uint8_t *material) {
    EVP_CIPHER_CTX *prf = EVP_CIPHER_CTX_new();
    const EVP_CIPHER *cipher = suite->key == 16 ? EVP_aes_128_ctr() : EVP_aes_256_ctr();
    if (prf && EVP_EncryptInit_ex(prf, cipher, NULL, material, NULL) == 1)
        return prf;
    EVP_CIPHER_CTX_free(prf);
    return NULL;
}

/* RFC 3711 section 4.3.1 with a key derivation rate of 0; the short salt as in RFC 7714 section 11. */
static bool derive(EVP_CIPHER_CTX *prf, const struct suite *suite, const uint8_t *salt, uint8_t label, uint8_t *to,
                   int length) {
    static const uint8_t zeros[32];
    uint8_t iv[16] = {0};
    memcpy(iv, salt, suite->salt);
    iv[7] ^= label;
    int written;
    return EVP_EncryptInit_ex(prf, NULL, NULL, NULL, iv) == 1 &&
           EVP_EncryptUpdate(prf, to, &written, zeros, length) == 1;
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

static bool derive_session(EVP_CIPHER_CTX *prf, const struct suite *suite, const uint8_t *salt, uint8_t first_label,
                           struct session_keys *keys) {
    uint8_t authentication[HMAC_KEY];
    bool done = derive(prf, suite, salt, first_label, keys->cipher, suite->key) &&
                derive(prf, suite, salt, first_label + 1, authentication, HMAC_KEY) &&
                derive(prf, suite, salt, first_label + 2, keys->salt, suite->salt);
    after_first_block(authentication, 0x36, keys->inner);
    after_first_block(authentication, 0x5c, keys->outer);
    OPENSSL_cleanse(authentication, sizeof authentication);
    return done;
}

static bool derive_all(struct srtp_key *key, const uint8_t *material) {
    const uint8_t *salt = material + key->suite->key;
    EVP_CIPHER_CTX *prf = prf_new(key->suite, material);
    const bool done = prf && derive_session(prf, key->suite, salt, 0, &key->rtp) &&
                      derive_session(prf, key->suite, salt, 3, &key->rtcp);
    EVP_CIPHER_CTX_free(prf); /* wipes */
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
    if (!key->more || !key->aes || !derive_all(key, material) ||
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
