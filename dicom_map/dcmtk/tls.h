// SPDX-License-Identifier: Apache-2.0
//
// TLS below an association: DCMTK's transport layer with its non-downgrading BCP 195 profile, our
// credentials, and a time limit on everything that waits for the peer (DCMTK's own handshake and reads have
// none). For scp.cc and scu.cc.

#ifndef ISOSLICE_DICOM_MAP_DCMTK_TLS_H
#define ISOSLICE_DICOM_MAP_DCMTK_TLS_H

#include "core/credentials.h"
#include "core/fault.h"

struct dcm_tls;

// What a connection must keep to.
struct dcm_tls_options {
    const struct credentials *credentials; // borrowed
    int is_acceptor;
    double handshake_timeout_s, io_timeout_s; // for all of the handshake; for one read or write
    // As requestor: the host that was called, and what its certificate must be (credentials_peer_is). The
    // acceptor checks when it knows who calls. Borrowed.
    const char *host, *certificate_sha256, *certificate_name;
};

// One layer makes one connection at a time. *tls is given to the caller and outlives the association. Errors:
// TLS, NO_MEMORY.
int dcm_tls_open(const struct dcm_tls_options *options, struct dcm_tls **tls, struct fault_note *why);
void dcm_tls_close(struct dcm_tls *tls); // NULL is fine

// DCMTK's DcmTransportLayer, for ASC_setTransportLayer without ownership.
void *dcm_tls_layer(struct dcm_tls *tls);

// The peer's certificate once the handshake has succeeded, else NULL. Borrowed until dcm_tls_close.
const struct x509_st *dcm_tls_peer(const struct dcm_tls *tls);

// What went wrong in the handshake or after it, as a sentence; empty: nothing.
const char *dcm_tls_trouble(const struct dcm_tls *tls);

#endif
