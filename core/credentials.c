// SPDX-License-Identifier: Apache-2.0
#include "core/credentials.h"

#include "core/digest.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECURITY_LEVEL = 2 }; // RSA 2048, SHA-256

struct credentials {
    struct credentials_files files;
    X509 *certificate;
    STACK_OF(X509) * chain; // ours excluded
    EVP_PKEY *key;
    STACK_OF(X509) * ca;
    STACK_OF(X509_CRL) * crl; // empty: not asked for
};

static const char *openssl_reason(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return reason ? reason : "unknown reason";
}

// ---- reading

static int open_for_reading(const char *path, const char *what, FILE **file, struct fault_note *why)
{
    if (path[0] == '\0')
        return fault_set(why, FAULT_CONFIG, "no %s is named", what);
    *file = fopen(path, "rbe");
    if (*file == NULL)
        return fault_set(why, FAULT_CONFIG, "cannot open %s '%s': %s", what, path, strerror(errno));
    return 0;
}

// All certificates of a file, in their order.
static int read_certificates(const char *path, const char *what, STACK_OF(X509) * *out,
                             struct fault_note *why)
{
    FILE *file = NULL;
    int rc = open_for_reading(path, what, &file, why);
    if (rc != 0)
        return rc;
    *out = sk_X509_new_null();
    X509 *certificate;
    while (*out != NULL && (certificate = PEM_read_X509(file, NULL, NULL, NULL)) != NULL)
        sk_X509_push(*out, certificate);
    fclose(file);
    int at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    if (!at_end || sk_X509_num(*out) < 1)
        return fault_set(why, FAULT_CONFIG, "%s '%s' holds no readable certificate: %s", what, path,
                         openssl_reason());
    ERR_clear_error();
    return 0;
}

static int read_crl(const char *path, STACK_OF(X509_CRL) * *out, struct fault_note *why)
{
    FILE *file = NULL;
    *out = sk_X509_CRL_new_null();
    if (path[0] == '\0')
        return 0;
    int rc = open_for_reading(path, "revocation list", &file, why);
    if (rc != 0)
        return rc;
    X509_CRL *crl;
    while (*out != NULL && (crl = PEM_read_X509_CRL(file, NULL, NULL, NULL)) != NULL)
        sk_X509_CRL_push(*out, crl);
    fclose(file);
    int at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    if (!at_end || sk_X509_CRL_num(*out) < 1)
        return fault_set(why, FAULT_CONFIG, "'%s' holds no readable revocation list: %s", path,
                         openssl_reason());
    ERR_clear_error();
    return 0;
}

static int no_password(char *buffer, int size, int writing, void *user)
{
    (void)buffer, (void)size, (void)writing, (void)user;
    return -1;
}

// The permissions are those of the file that is then read, not of a name that may change meanwhile.
static int read_key(const struct credentials_files *files, EVP_PKEY **key, struct fault_note *why)
{
    FILE *file = NULL;
    struct stat st;
    int rc = open_for_reading(files->key, "private key", &file, why);
    if (rc != 0)
        return rc;
    if (fstat(fileno(file), &st) != 0)
        rc = fault_set(why, FAULT_CONFIG, "cannot look at private key '%s': %s", files->key, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = fault_set(why, FAULT_CONFIG, "private key '%s' is not a file", files->key);
    else if ((st.st_mode & 077) != 0)
        rc = fault_set(why, FAULT_CONFIG,
                       "private key '%s' can be used by others: its mode is %04o, which must be 0600 or 0400",
                       files->key, (unsigned)st.st_mode & 07777u);
    else if (st.st_uid != 0 && st.st_uid != files->user)
        rc = fault_set(why, FAULT_CONFIG,
                       "private key '%s' belongs to user %u, which must be 0 (root) or %u (who runs this)",
                       files->key, (unsigned)st.st_uid, (unsigned)files->user);
    else if ((*key = PEM_read_PrivateKey(file, NULL, no_password, NULL)) == NULL)
        rc = fault_set(why, FAULT_CONFIG, "private key '%s' cannot be read, or is encrypted: %s", files->key,
                       openssl_reason());
    fclose(file);
    return rc;
}

// Seconds from now_us to `when`; negative: past.
static int64_t seconds_until(const ASN1_TIME *when, int64_t now_us)
{
    int days = 0, seconds = 0;
    ASN1_TIME *now = ASN1_TIME_set(NULL, (time_t)(now_us / 1000000));
    int ok = now != NULL && when != NULL && ASN1_TIME_diff(&days, &seconds, now, when);
    ASN1_TIME_free(now);
    return ok ? (int64_t)days * 86400 + seconds : -1;
}

static void time_text(const ASN1_TIME *when, char *text, size_t size)
{
    struct tm parts;
    if (when == NULL || !ASN1_TIME_to_tm(when, &parts) ||
        strftime(text, size, "%Y-%m-%d %H:%M UTC", &parts) == 0)
        snprintf(text, size, "an unreadable time");
}

int credentials_check_time(const struct credentials *credentials, int64_t now_us, struct fault_note *why)
{
    const char *path = credentials->files.certificate;
    const ASN1_TIME *first = X509_get0_notBefore(credentials->certificate);
    const ASN1_TIME *last = X509_get0_notAfter(credentials->certificate);
    char when[64];
    if (seconds_until(last, now_us) < 0) {
        time_text(last, when, sizeof when);
        return fault_set(why, FAULT_TLS, "certificate '%s' has expired: it was valid until %s", path, when);
    }
    if (seconds_until(first, now_us) > 0) {
        time_text(first, when, sizeof when);
        return fault_set(why, FAULT_TLS, "certificate '%s' is not valid yet: it will be from %s", path, when);
    }
    return 0;
}

static int check_own(const struct credentials *credentials, struct fault_note *why)
{
    if (X509_check_private_key(credentials->certificate, credentials->key) != 1) {
        ERR_clear_error();
        return fault_set(why, FAULT_CONFIG, "private key '%s' is not that of certificate '%s'",
                         credentials->files.key, credentials->files.certificate);
    }
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    int rc = context == NULL ? fault_set(why, FAULT_NO_MEMORY, "cannot start TLS: %s", openssl_reason())
                             : credentials_use(credentials, context, 1, why);
    SSL_CTX_free(context);
    return rc;
}

int credentials_load(const struct credentials_files *files, struct credentials **credentials,
                     struct fault_note *why)
{
    OPENSSL_init_ssl(0, NULL); // while files can still be read
    struct credentials *loaded = calloc(1, sizeof *loaded);
    if (loaded == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold the keys");
    loaded->files = *files;
    ERR_clear_error();
    int rc = read_certificates(files->certificate, "certificate", &loaded->chain, why);
    if (rc == 0)
        loaded->certificate = sk_X509_shift(loaded->chain);
    if (rc == 0)
        rc = read_key(files, &loaded->key, why);
    if (rc == 0)
        rc = read_certificates(files->ca, "CA certificate", &loaded->ca, why);
    if (rc == 0)
        rc = read_crl(files->crl, &loaded->crl, why);
    if (rc == 0)
        rc = check_own(loaded, why);
    if (rc != 0) {
        credentials_free(loaded);
        return rc;
    }
    *credentials = loaded;
    return 0;
}

int credentials_refresh(struct credentials **credentials, int64_t now_us, struct fault_note *why)
{
    struct credentials *fresh = NULL;
    int rc = credentials_load(&(*credentials)->files, &fresh, why);
    if (rc != 0 || fresh == NULL)
        return rc;
    rc = credentials_check_time(fresh, now_us, why);
    if (rc != 0) {
        credentials_free(fresh);
        return rc;
    }
    credentials_free(*credentials);
    *credentials = fresh;
    return 0;
}

int credentials_can_reload(const struct credentials *credentials)
{
    return access(credentials->files.key, R_OK) == 0;
}

void credentials_free(struct credentials *credentials)
{
    if (credentials == NULL)
        return;
    X509_free(credentials->certificate);
    sk_X509_pop_free(credentials->chain, X509_free);
    EVP_PKEY_free(credentials->key);
    sk_X509_pop_free(credentials->ca, X509_free);
    sk_X509_CRL_pop_free(credentials->crl, X509_CRL_free);
    free(credentials);
}

// ---- use

static int use_own(const struct credentials *credentials, SSL_CTX *context, struct fault_note *why)
{
    SSL_CTX_set_security_level(context, SECURITY_LEVEL);
    if (SSL_CTX_use_certificate(context, credentials->certificate) != 1)
        return fault_set(why, FAULT_CONFIG, "certificate '%s' cannot be used: %s",
                         credentials->files.certificate, openssl_reason());
    if (SSL_CTX_use_PrivateKey(context, credentials->key) != 1)
        return fault_set(why, FAULT_CONFIG, "private key '%s' cannot be used: %s", credentials->files.key,
                         openssl_reason());
    for (int i = 0; i < sk_X509_num(credentials->chain); i++)
        if (SSL_CTX_add1_chain_cert(context, sk_X509_value(credentials->chain, i)) != 1)
            return fault_set(why, FAULT_CONFIG, "certificate %d of '%s' cannot be used: %s", i + 2,
                             credentials->files.certificate, openssl_reason());
    return 0;
}

int credentials_use(const struct credentials *credentials, SSL_CTX *context, int is_acceptor,
                    struct fault_note *why)
{
    int rc = use_own(credentials, context, why);
    if (rc != 0)
        return rc;
    X509_STORE *store = X509_STORE_new(); // none but ours: the system's roots do not count
    if (store == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold the CA certificates");
    SSL_CTX_set_cert_store(context, store);
    int ok = 1;
    for (int i = 0; i < sk_X509_num(credentials->ca) && ok; i++) {
        ok = X509_STORE_add_cert(store, sk_X509_value(credentials->ca, i)) == 1;
        if (ok && is_acceptor)
            ok = SSL_CTX_add_client_CA(context, sk_X509_value(credentials->ca, i)) == 1;
    }
    for (int i = 0; i < sk_X509_CRL_num(credentials->crl) && ok; i++)
        ok = X509_STORE_add_crl(store, sk_X509_CRL_value(credentials->crl, i)) == 1;
    if (ok && sk_X509_CRL_num(credentials->crl) > 0)
        ok = X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK) == 1;
    if (!ok)
        return fault_set(why, FAULT_CONFIG, "CA certificates '%s' cannot be used: %s", credentials->files.ca,
                         openssl_reason());
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_session_cache_mode(context,
                                   SSL_SESS_CACHE_OFF); // a resumed session would show no certificate
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    return 0;
}

struct warning {
    int64_t now_us;
    void (*say)(void *user, int is_over, const char *text);
    void *user;
};

static void warn_of(const struct warning *warning, const ASN1_TIME *when, const char *what, const char *path)
{
    if (when == NULL)
        return;
    int64_t left_s = seconds_until(when, warning->now_us);
    char text[512], date[64];
    if (left_s > (int64_t)CREDENTIALS_WARNING_DAYS * 86400)
        return;
    time_text(when, date, sizeof date);
    if (left_s < 0)
        snprintf(text, sizeof text, "%s '%.300s' has expired: it was valid until %s", what, path, date);
    else
        snprintf(text, sizeof text, "%s '%.300s' expires in %lld days, at %s", what, path,
                 (long long)(left_s / 86400), date);
    warning->say(warning->user, left_s < 0, text);
}

void credentials_warn(const struct credentials *credentials, int64_t now_us,
                      void (*say)(void *user, int is_over, const char *text), void *user)
{
    struct warning warning = {now_us, say, user};
    const struct credentials_files *files = &credentials->files;
    warn_of(&warning, X509_get0_notAfter(credentials->certificate), "certificate", files->certificate);
    for (int i = 0; i < sk_X509_num(credentials->chain); i++)
        warn_of(&warning, X509_get0_notAfter(sk_X509_value(credentials->chain, i)),
                "an intermediate certificate of", files->certificate);
    for (int i = 0; i < sk_X509_num(credentials->ca); i++)
        warn_of(&warning, X509_get0_notAfter(sk_X509_value(credentials->ca, i)), "CA certificate", files->ca);
    for (int i = 0; i < sk_X509_CRL_num(credentials->crl); i++) {
        // A list lives for days or weeks: only one that is over is worth a word.
        const ASN1_TIME *next = X509_CRL_get0_nextUpdate(sk_X509_CRL_value(credentials->crl, i));
        if (next != NULL && seconds_until(next, now_us) < 0)
            warn_of(&warning, next, "revocation list", files->crl);
    }
}

// ---- peers

// The next fingerprint of a list as 64 lower-case digits; *text moves on. 1, 0 at the end, -1 when it is
// none.
static int next_sha256(const char **text, char hex[DIGEST_HEX_SIZE])
{
    size_t n = 0;
    const char *p = *text + strspn(*text, " ,");
    if (*p == '\0')
        return 0;
    for (; *p != '\0' && *p != ' ' && *p != ','; p++) {
        if (*p == ':' && n > 0)
            continue;
        if (!isxdigit((unsigned char)*p) || n == DIGEST_HEX_SIZE - 1)
            return -1;
        hex[n++] = (char)tolower((unsigned char)*p);
    }
    hex[n] = '\0';
    *text = p;
    return n == DIGEST_HEX_SIZE - 1 ? 1 : -1;
}

int credentials_sha256_is_valid(const char *text)
{
    char hex[DIGEST_HEX_SIZE];
    int n = 0, found;
    while ((found = next_sha256(&text, hex)) == 1)
        n++;
    return found == 0 && n > 0;
}

static void fingerprint_of(const X509 *certificate, char hex[DIGEST_HEX_SIZE])
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    hex[0] = '\0';
    if (X509_digest(certificate, EVP_sha256(), sum, &n) != 1 || 2 * n >= DIGEST_HEX_SIZE)
        return;
    for (unsigned i = 0; i < n; i++)
        snprintf(hex + 2 * (size_t)i, 3, "%02x", sum[i]);
}

static void subject_of(const X509 *certificate, char *text, size_t size)
{
    BIO *memory = BIO_new(BIO_s_mem());
    int n = 0;
    if (memory != NULL &&
        X509_NAME_print_ex(memory, X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) >= 0)
        n = BIO_read(memory, text, (int)size - 1);
    text[n > 0 ? n : 0] = '\0';
    BIO_free(memory);
}

static int name_is(const X509 *certificate, const char *name)
{
    if (strchr(name, '=') != NULL) {
        char subject[1024];
        subject_of(certificate, subject, sizeof subject);
        return strcmp(subject, name) == 0;
    }
    X509 *unchanged = (X509 *)certificate; // OpenSSL's checks take it without const
    return X509_check_host(unchanged, name, 0, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL) == 1 ||
           X509_check_ip_asc(unchanged, name, 0) == 1;
}

int credentials_peer_is(const X509 *certificate, const char *sha256, const char *name)
{
    if (sha256[0] != '\0') {
        char got[DIGEST_HEX_SIZE], want[DIGEST_HEX_SIZE];
        int found = 0;
        fingerprint_of(certificate, got);
        while (!found && next_sha256(&sha256, want) == 1)
            found = strcmp(got, want) == 0;
        if (!found)
            return 0;
    }
    return name[0] == '\0' || name_is(certificate, name);
}

void credentials_describe(const X509 *certificate, char *text, size_t size)
{
    char subject[256], hex[DIGEST_HEX_SIZE];
    subject_of(certificate, subject, sizeof subject);
    fingerprint_of(certificate, hex);
    snprintf(text, size, "'%s', sha256 %s", subject, hex);
}
