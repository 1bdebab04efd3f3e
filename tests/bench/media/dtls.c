/* The floor under the DTLS benchmark: handshakes between two ends in memory, and what the server's end costs.
 *
 * dtls CERTIFICATE.pem COUNT   prints {"count": N, "cpu": seconds of the server's calls, "profile": "..."}
 *
 * As a gateway does it: P-256 and ECDSA, ECDHE with AES-GCM, both show a certificate, a new SSL for each, the keys of
 * SRTP exported. The cookie exchange is not in it.
 */
#define _POSIX_C_SOURCE 200809L
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/srtp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double cpu(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int accept_any(int ok, X509_STORE_CTX *store) {
    (void)ok, (void)store;
    return 1;
}

static void check(int ok, const char *what) {
    if (ok)
        return;
    fprintf(stderr, "%s: ", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static SSL_CTX *context(const char *pem) {
    SSL_CTX *context = SSL_CTX_new(DTLS_method());
    check(SSL_CTX_use_certificate_file(context, pem, SSL_FILETYPE_PEM) == 1, "certificate");
    check(SSL_CTX_use_PrivateKey_file(context, pem, SSL_FILETYPE_PEM) == 1, "key");
    check(SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM") == 1, "ciphers");
    check(SSL_CTX_set_tlsext_use_srtp(context, "SRTP_AEAD_AES_256_GCM") == 0, "profiles");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, accept_any);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_QUERY_MTU);
    return context;
}

static SSL *end(SSL_CTX *context) {
    SSL *ssl = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(in, -1);
    BIO_set_mem_eof_return(out, -1);
    SSL_set_bio(ssl, in, out);
    SSL_set_mtu(ssl, 1200);
    return ssl;
}

static void carry(SSL *from, SSL *to) {
    char buffer[16384];
    int length;
    while ((length = BIO_read(SSL_get_wbio(from), buffer, sizeof buffer)) > 0)
        BIO_write(SSL_get_rbio(to), buffer, length);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    SSL_CTX *ours = context(argv[1]), *theirs = context(argv[1]);
    const long count = atol(argv[2]);
    const char *profile = "";
    double spent = 0;
    for (long n = 0; n < count; n++) {
        SSL *client = end(theirs);
        SSL_set_connect_state(client);
        double begin = cpu();
        SSL *server = end(ours);
        SSL_set_accept_state(server);
        spent += cpu() - begin;
        for (int turn = 0; turn < 6 && !(SSL_is_init_finished(client) && SSL_is_init_finished(server)); turn++) {
            SSL_do_handshake(client);
            carry(client, server);
            begin = cpu();
            SSL_do_handshake(server);
            spent += cpu() - begin;
            carry(server, client);
        }
        check(SSL_is_init_finished(client) && SSL_is_init_finished(server), "handshake");
        profile = SSL_get_selected_srtp_profile(server)->name;
        unsigned char keys[88];
        begin = cpu();
        check(SSL_export_keying_material(server, keys, sizeof keys, "EXTRACTOR-dtls_srtp", 19, NULL, 0, 0) == 1, "keys");
        SSL_free(server);
        spent += cpu() - begin;
        SSL_free(client);
    }
    printf("{\"count\": %ld, \"cpu\": %.6f, \"profile\": \"%s\"}\n", count, spent, profile);
    return 0;
}
