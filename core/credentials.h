// SPDX-License-Identifier: Apache-2.0
//
// What one end of TLS connections is and whom it trusts: certificate, private key, CA certificates and
// revocation lists, read from PEM files once and then held in memory, so that a process that can no longer
// read files can still use them. Also: whether a peer's certificate is the one that a configuration names.
// Not here: connections.

#ifndef ISOSLICE_CORE_CREDENTIALS_H
#define ISOSLICE_CORE_CREDENTIALS_H

#include "core/fault.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct credentials;
struct ssl_ctx_st; // OpenSSL's SSL_CTX
struct x509_st;    // OpenSSL's X509

enum { CREDENTIALS_WARNING_DAYS = 30, CREDENTIALS_SHA256_SIZE = 512 };

// Where they lie; the texts are borrowed as long as the credentials live. PEM.
struct credentials_files {
    const char *certificate; // ours first, then those between it and a root
    const char *key;         // not encrypted; a file that only its owner can read
    const char *ca;          // who may vouch for a peer; nobody else may
    const char *crl;         // revocation lists of those; "": none are asked for
    uid_t user;              // may own the key, besides root
};

// Reads and checks all but the time. *credentials is given to the caller. Errors: CONFIG with the file and
// what is wrong: it cannot be read, others may read the key, key and certificate are no pair, ours is weaker
// than OpenSSL's security level 2 (RSA 2048, SHA-256).
int credentials_load(const struct credentials_files *files, struct credentials **credentials,
                     struct fault_note *why);

// Whether our certificate is valid at this time. Errors: TLS: it has expired, or is not valid yet, as on a
// machine whose clock is not set.
int credentials_check_time(const struct credentials *credentials, int64_t now_us, struct fault_note *why);

// Reads the same files again. On a fault, of the time too, what was there stays in use.
int credentials_refresh(struct credentials **credentials, int64_t now_us, struct fault_note *why);

// Whether credentials_refresh could read the key as who this process is now: not when root read it and became
// somebody else since.
int credentials_can_reload(const struct credentials *credentials);

// NULL is fine.
void credentials_free(struct credentials *credentials);

// Installs them in an OpenSSL context, which afterwards demands a certificate of every peer. `is_acceptor`:
// also names the CAs to the peer. Errors: INTERNAL.
int credentials_use(const struct credentials *credentials, struct ssl_ctx_st *context, int is_acceptor,
                    struct fault_note *why);

// One call of `say` for each thing that has run out or will within CREDENTIALS_WARNING_DAYS: our certificate,
// a CA's, a revocation list. `is_over`: it has, and peers are refused or refuse us.
void credentials_warn(const struct credentials *credentials, int64_t now_us,
                      void (*say)(void *user, int is_over, const char *text), void *user);

// 1 when `text` is one or more SHA-256 fingerprints, 64 hexadecimal digits each, colons between digits
// ignored, separated by spaces or commas.
int credentials_sha256_is_valid(const char *text);

// Whether a peer's certificate is the expected one. `sha256`: its fingerprint is among these; `name`: a DNS
// name or IP address among its subject alternative names (its common name where it has no DNS name), or, when
// it contains '=', its whole subject as RFC 2253 writes it. An empty text asks for nothing; both given: both
// must hold. Returns 1 or 0.
int credentials_peer_is(const struct x509_st *certificate, const char *sha256, const char *name);

// Subject and fingerprint, for logs.
void credentials_describe(const struct x509_st *certificate, char *text, size_t size);

#endif
