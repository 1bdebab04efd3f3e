/* SRTP's packet transforms (RFC 3711 section 4.1.1, RFC 7714 section 8) over OpenSSL, for the benchmark's two
 * programs alone: no code in common with the gateway. Packets have RTP's fixed header of 12 bytes and nothing
 * before the payload. No replay list. */

#define OPENSSL_SUPPRESS_DEPRECATED /* SHA_CTX: a state that is copied by assignment */

#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 12, MAX_TAG = 16 };

enum suite { PLAIN, CM_80, GCM };

/* One key, for one way. */
struct key {
    enum suite suite;
    EVP_CIPHER_CTX *cipher;
    SHA_CTX inner, outer; /* HMAC after its padded key */
    uint8_t salt[14];
};

static void must(int good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

/* RFC 3711 section 4.3.1 with a key derivation rate of 0; RFC 7714 section 11 pads the salt of 12 bytes. */
static void derive(const uint8_t *master, const uint8_t salt[14], uint8_t label, uint8_t *out, int length)
{
    uint8_t iv[16] = {0}, zeros[32] = {0};
    memcpy(iv, salt, 14);
    iv[7] ^= label;
    EVP_CIPHER_CTX *prf = EVP_CIPHER_CTX_new();
    int got;
    must(prf && EVP_EncryptInit_ex(prf, EVP_aes_128_ctr(), NULL, master, iv) &&
             EVP_EncryptUpdate(prf, out, &got, zeros, length), "key derivation");
    EVP_CIPHER_CTX_free(prf);
}

/* text: "-" for no protection, else the suite's letter and master key and salt in hexadecimal. */
static struct key read_key(const char *text, int sealing)
{
    struct key key = {.suite = PLAIN};
    if (text[0] == '-')
        return key;
    uint8_t material[32] = {0}, salt[14] = {0}, session[16], pad[64], auth[20];
    size_t length;
    must(OPENSSL_hexstr2buf_ex(material, sizeof material, &length, text + 1, 0), "key");
    key.suite = text[0] == 'G' ? GCM : CM_80;
    memcpy(salt, material + 16, key.suite == GCM ? 12 : 14);
    derive(material, salt, 0, session, sizeof session);
    derive(material, salt, 1, auth, sizeof auth);
    derive(material, salt, 2, key.salt, key.suite == GCM ? 12 : 14);
    key.cipher = EVP_CIPHER_CTX_new();
    const EVP_CIPHER *cipher = key.suite == GCM ? EVP_aes_128_gcm() : EVP_aes_128_ctr();
    must(key.cipher && EVP_CipherInit_ex(key.cipher, cipher, NULL, session, NULL, sealing), "cipher");
    for (int outer = 0; outer <= 1; outer++) { /* RFC 2104 section 2 */
        memset(pad, outer ? 0x5c : 0x36, sizeof pad);
        for (size_t i = 0; i < sizeof auth; i++)
            pad[i] ^= auth[i];
        SHA1_Init(outer ? &key.outer : &key.inner);
        SHA1_Update(outer ? &key.outer : &key.inner, pad, sizeof pad);
    }
    return key;
}

/* The packet's index nearest to `near` (RFC 3711 appendix A). */
static uint64_t index_near(uint64_t near, const uint8_t *packet)
{
    uint16_t sequence = (uint16_t)(packet[2] << 8 | packet[3]);
    int64_t index = (int64_t)near + (int16_t)(sequence - (uint16_t)near);
    return index < 0 ? sequence : (uint64_t)index;
}

static void start(struct key *key, const uint8_t *packet, uint64_t index)
{
    uint8_t iv[16] = {0};
    int at = key->suite == GCM ? 2 : 4; /* of the SSRC; the index follows it */
    memcpy(iv, key->salt, key->suite == GCM ? 12 : 14);
    for (int i = 0; i < 4; i++)
        iv[at + i] ^= packet[8 + i];
    for (int i = 0; i < 6; i++)
        iv[at + 4 + i] ^= (uint8_t)(index >> (40 - 8 * i));
    EVP_CipherInit_ex(key->cipher, NULL, NULL, NULL, iv, -1);
}

static void authenticate(const struct key *key, const uint8_t *packet, int length, uint64_t index, uint8_t tag[20])
{
    uint32_t roc = htonl((uint32_t)(index >> 16));
    SHA_CTX state = key->inner;
    SHA1_Update(&state, packet, (size_t)length);
    SHA1_Update(&state, &roc, sizeof roc);
    SHA1_Final(tag, &state);
    state = key->outer;
    SHA1_Update(&state, tag, 20);
    SHA1_Final(tag, &state);
}

/* In place, with room for MAX_TAG behind. Gives the new length. */
static int protect(struct key *key, uint8_t *packet, int length, uint64_t index)
{
    int done;
    uint8_t tag[20];
    if (key->suite == PLAIN)
        return length;
    start(key, packet, index);
    if (key->suite == GCM) {
        EVP_EncryptUpdate(key->cipher, NULL, &done, packet, HEADER);
        EVP_EncryptUpdate(key->cipher, packet + HEADER, &done, packet + HEADER, length - HEADER);
        EVP_EncryptFinal_ex(key->cipher, packet + length, &done);
        EVP_CIPHER_CTX_ctrl(key->cipher, EVP_CTRL_AEAD_GET_TAG, 16, packet + length);
        return length + 16;
    }
    EVP_EncryptUpdate(key->cipher, packet + HEADER, &done, packet + HEADER, length - HEADER);
    authenticate(key, packet, length, index, tag);
    memcpy(packet + length, tag, 10);
    return length + 10;
}

/* In place. Gives the new length, -1 if the packet is not authentic. */
static int unprotect(struct key *key, uint8_t *packet, int length, uint64_t index)
{
    int done;
    uint8_t tag[20];
    if (key->suite == PLAIN)
        return length;
    length -= key->suite == GCM ? 16 : 10;
    if (length < HEADER)
        return -1;
    if (key->suite == GCM) {
        start(key, packet, index);
        EVP_CIPHER_CTX_ctrl(key->cipher, EVP_CTRL_AEAD_SET_TAG, 16, packet + length);
        EVP_DecryptUpdate(key->cipher, NULL, &done, packet, HEADER);
        EVP_DecryptUpdate(key->cipher, packet + HEADER, &done, packet + HEADER, length - HEADER);
        return EVP_DecryptFinal_ex(key->cipher, packet + length, &done) > 0 ? length : -1;
    }
    authenticate(key, packet, length, index, tag);
    if (CRYPTO_memcmp(tag, packet + length, 10))
        return -1;
    start(key, packet, index);
    EVP_DecryptUpdate(key->cipher, packet + HEADER, &done, packet + HEADER, length - HEADER);
    return length;
}
