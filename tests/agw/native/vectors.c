/* The vectors of RFC 3711 appendix B, RFC 6188 and RFC 7714 at the functions they are about, and the indices at
 * their ends. Exits 0 if all is right; says what is not. */
#include "srtp_key.c"

#include "srtp.c"

#include <stdio.h>

static int wrong;
static bool newest; /* of the last packet */

static void is(const char *what, const uint8_t *found, const char *expected) {
    for (size_t n = 0; expected[2 * n]; n++) {
        unsigned octet;
        sscanf(expected + 2 * n, "%2x", &octet);
        if (found[n] != octet) {
            printf("%s: octet %zu is %02x, not %02x\n", what, n, found[n], octet);
            wrong++;
            return;
        }
    }
}

static void holds(const char *what, bool true_) {
    if (!true_) {
        printf("not so: %s\n", what);
        wrong++;
    }
}

static size_t octets(const char *hex, uint8_t *to) {
    size_t length = 0;
    for (unsigned octet; hex[0] && sscanf(hex, "%2x", &octet) == 1; hex += 2)
        to[length++] = (uint8_t)octet;
    return length;
}

static struct srtp_key *key_of(enum srtp_suite suite, bool sends) {
    static const uint8_t material[46];
    return srtp_key_new(suite, material, (size_t)SUITES[suite].key + SUITES[suite].salt, NULL, 0, sends);
}

/* RFC 3711 B.3, and RFC 6188 section 7.4 for 256 bits. */
static void derivation(void) {
    static const struct {
        enum srtp_suite suite;
        const char *material, *cipher, *salt, *authentication;
    } CASES[] = {
        {SRTP_AES_CM_128_HMAC_SHA1_80, "e1f97a0d3e018be0d64fa32c06de41390ec675ad498afeebb6960b3aabe6",
         "c61e7a93744f39ee10734afe3ff7a087", "30cbbc08863d8c85d49db34a9ae1",
         "cebe321f6ff7716b6fd4ab49af256a156d38baa4"},
        {SRTP_AES_256_CM_HMAC_SHA1_80,
         "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b63b04803de51ee7c96423ab5b78d2",
         "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4", "fa31791685ca444a9e07c6c64e93",
         "fd9c32d39ed5fbb5a9dc96b30818454d1313dc05"},
    };
    for (size_t n = 0; n < sizeof CASES / sizeof *CASES; n++) {
        uint8_t material[64], found[32];
        octets(CASES[n].material, material);
        const struct suite *suite = &SUITES[CASES[n].suite];
        const uint8_t *salt = material + suite->key;
        EVP_CIPHER_CTX *prf = prf_new(suite, material);
        holds("derived", prf && derive(prf, suite, salt, 0, found, suite->key));
        is("cipher key", found, CASES[n].cipher);
        derive(prf, suite, salt, 1, found, HMAC_KEY);
        is("authentication key", found, CASES[n].authentication);
        derive(prf, suite, salt, 2, found, suite->salt);
        is("salt", found, CASES[n].salt);
        EVP_CIPHER_CTX_free(prf);
    }
}

/* RFC 3711 B.2 and RFC 6188 section 7.1: SSRC and index 0, the session salt as the IV. */
static void keystream(void) {
    static const struct {
        enum srtp_suite suite;
        const char *key, *stream;
    } CASES[] = {
        {SRTP_AES_CM_128_HMAC_SHA1_80, "2b7e151628aed2a6abf7158809cf4f3c",
         "e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab41e95b3bb0a2e8dd477901e4fca894c0"},
        {SRTP_AES_256_CM_HMAC_SHA1_80, "57f82fe3613fd170a85ec93c40b1f0922ec4cb0dc025b58272147cc438944a98",
         "92bdd28a93c3f52511c677d08b5515a49da71b2378a854f67050756ded165bac63c4868b7096d88421b563b8c94c9a31"},
    };
    for (size_t n = 0; n < sizeof CASES / sizeof *CASES; n++) {
        struct srtp_key *key = key_of(CASES[n].suite, true);
        uint8_t cipher[32], salt[SALT], iv[16], stream[48] = {0};
        octets(CASES[n].key, cipher);
        octets("f0f1f2f3f4f5f6f7f8f9fafbfcfd", salt);
        make_iv(iv, key->suite, salt, 0, 0);
        EVP_CipherInit_ex(key->aes, NULL, NULL, cipher, NULL, 1);
        holds("encrypted", apply_aes(key->aes, iv, stream, sizeof stream));
        is("keystream", stream, CASES[n].stream);
        srtp_key_free(key);
    }
}

/* RFC 7714 section 16.1 and 16.2: SRTP from session keys, there and back. */
static void aead_rtp(void) {
    static const struct {
        enum srtp_suite suite;
        const char *key, *protected;
    } CASES[] = {
        {SRTP_AEAD_AES_128_GCM, "000102030405060708090a0b0c0d0e0f",
         "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833"
         "899d7f27beb16a9152cf765ee4390cce"},
        {SRTP_AEAD_AES_256_GCM, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
         "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b"
         "7aa3db36dfffd6b0f9bb7878d7a76c13"},
    };
    static const char PLAIN[] =
        "8040f17b8041f8d35501a0b247616c6c696120657374206f6d6e697320646976697361"
        "20696e207061727465732074726573";
    for (size_t n = 0; n < sizeof CASES / sizeof *CASES; n++) {
        uint8_t packet[128];
        size_t length = octets(PLAIN, packet);
        for (int sends = 1; sends >= 0; sends--) {
            struct srtp_key *key = key_of(CASES[n].suite, sends);
            uint8_t cipher[32];
            octets(CASES[n].key, cipher);
            memcpy(key->rtp.salt, "Quid pro quo", AEAD_SALT);
            EVP_CipherInit_ex(key->aes, NULL, NULL, cipher, NULL, sends);
            holds("taken", run_rtp(key, packet, &length, &newest) == SRTP_OK);
            is(sends ? "protected" : "unprotected", packet, sends ? CASES[n].protected : PLAIN);
            srtp_key_free(key);
        }
    }
}

/* RFC 7714 section 17: SRTCP from session keys, index 0x5d4. */
static void aead_rtcp(void) {
    static const struct {
        enum srtp_suite suite;
        const char *key, *protected;
    } CASES[] = {
        {SRTP_AEAD_AES_128_GCM, "000102030405060708090a0b0c0d0e0f",
         "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded0bb9"
         "275bc84aa45896cf4d2fc5abf87245d9eade800005d4"},
        {SRTP_AEAD_AES_256_GCM, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
         "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61de0476f1b"
         "6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4"},
    };
    static const char PLAIN[] =
        "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61deadbeefdeadbeefdeadbeefdeadbeefdeadbeef";
    struct srtp_engine *engine = srtp_engine_new();
    for (size_t n = 0; n < sizeof CASES / sizeof *CASES; n++) {
        uint8_t packet[128];
        size_t length = octets(PLAIN, packet);
        for (int sends = 1; sends >= 0; sends--) {
            struct srtp_key *key = key_of(CASES[n].suite, sends);
            octets(CASES[n].key, key->rtcp.cipher);
            memcpy(key->rtcp.salt, "Quid pro quo", AEAD_SALT);
            if (sends)
                remember(key, read_32(packet + 4))->rtcp_index = 0x5d3;
            holds("taken", run_rtcp(engine, key, packet, &length, &newest) == SRTP_OK);
            is(sends ? "protected" : "unprotected", packet, sends ? CASES[n].protected : PLAIN);
            srtp_key_free(key);
        }
    }
    srtp_engine_free(engine);
}

/* RFC 2202, the third case, cut to the 20 octets of key that SRTP has; there is the ROC behind the data. */
static void authentication(void) {
    uint8_t key[HMAC_KEY], data[50], tag[SHA_DIGEST_LENGTH];
    struct session_keys keys = {0};
    memset(key, 0xaa, sizeof key);
    memset(data, 0xdd, sizeof data);
    after_first_block(key, 0x36, keys.inner);
    after_first_block(key, 0x5c, keys.outer);
    hmac(&keys, data, sizeof data, NULL, tag);
    is("HMAC", tag, "125d7342b9ac11cd91a39af48aa17b4f63f175d3");
    hmac(&keys, data, sizeof data - 4, data, tag);
    is("HMAC in two parts", tag, "125d7342b9ac11cd91a39af48aa17b4f63f175d3");
}

/* RFC 3711 appendix A, at its edges. */
static void indices(void) {
    holds("the next", guess_index(0x1FFFE, 0xFFFF) == 0x1FFFF);
    holds("past the end", guess_index(0x1FFFF, 0) == 0x20000);
    holds("late, from before the end", guess_index(0x20000, 0xFFFF) == 0x1FFFF);
    holds("half round is ahead", guess_index(0x10000, 0x8000) == 0x18000);
    holds("a little more is behind", guess_index(0x10000, 0x8001) == 0x8001);
    holds("there is none before 0", guess_index(0, 0xFFFF) == 0xFFFF);
    holds("half round back", guess_index(0x18000, 0) == 0x10000);
    holds("a little more is ahead", guess_index(0x18001, 0) == 0x20000);
}

/* RFC 3711 section 9.2: the last index is used, none comes after it. */
static void ends(void) {
    struct srtp_engine *engine = srtp_engine_new();
    for (int suite = 0; suite < SRTP_SUITES; suite++) {
        struct srtp_key *key = key_of((enum srtp_suite)suite, true);
        uint8_t packet[64] = {0x80};
        size_t length = RTP_HEADER;
        struct source *source = remember(key, 0);
        source->index = LAST_INDEX - 1;
        source->rtcp_index = ~ENCRYPTED - 1;
        packet[2] = packet[3] = 0xff;
        holds("the last SRTP", run_rtp(key, packet, &length, &newest) == SRTP_OK);
        packet[2] = packet[3] = 0;
        length = RTP_HEADER;
        holds("no SRTP after it", run_rtp(key, packet, &length, &newest) == SRTP_KEY_EXHAUSTED);
        length = RTCP_HEADER;
        holds("the last SRTCP", run_rtcp(engine, key, packet, &length, &newest) == SRTP_OK);
        length = RTCP_HEADER;
        holds("no SRTCP after it", run_rtcp(engine, key, packet, &length, &newest) == SRTP_KEY_EXHAUSTED);
        srtp_key_free(key);
    }
    srtp_engine_free(engine);
}

static long allocations;

static void *counted(size_t size, const char *file, int line) {
    (void)file, (void)line;
    allocations++;
    return malloc(size);
}

static void *counted_again(void *at, size_t size, const char *file, int line) {
    (void)file, (void)line;
    allocations++;
    return realloc(at, size);
}

static void released(void *at, const char *file, int line) {
    (void)file, (void)line;
    free(at);
}

/* Nothing is allocated where packets go: OpenSSL's own allocator says so. */
static void no_allocation(void) {
    struct srtp_engine *engine = srtp_engine_new();
    for (int suite = 0; suite < SRTP_SUITES; suite++) {
        struct srtp_key *sends = key_of((enum srtp_suite)suite, true);
        struct srtp_keys *receives = calloc(1, sizeof *receives + sizeof sends);
        receives->keys[receives->count++] = key_of((enum srtp_suite)suite, false);
        const long before = allocations;
        for (int n = 0; n < 200; n++) {
            uint8_t packet[256] = {0x80, 0, 0, (uint8_t)(n / 2)};
            size_t length = 172;
            const bool rtcp = n % 2;
            holds("sent", srtp_protect_packet(engine, sends, rtcp, packet, &length) == SRTP_OK);
            holds("received",
                  srtp_unprotect_packet(engine, receives, rtcp, packet, &length, &newest) == SRTP_OK && newest);
        }
        holds("no allocation", allocations == before);
        srtp_key_free(sends);
        srtp_key_free(receives->keys[0]);
        free(receives);
    }
    srtp_engine_free(engine);
    holds("allocations are counted", allocations > 0);
}

int main(void) {
    CRYPTO_set_mem_functions(counted, counted_again, released);
    no_allocation();
    derivation();
    keystream();
    aead_rtp();
    aead_rtcp();
    authentication();
    indices();
    ends();
    return wrong != 0;
}
