// SPDX-License-Identifier: Apache-2.0
//
// One association as requestor: echo, and sending of files as they lie on disk. Not here: what is sent when,
// retries. Plain C. dcm_network_init (scp.h) first.

#ifndef ISOSLICE_DICOM_MAP_DCMTK_SCU_H
#define ISOSLICE_DICOM_MAP_DCMTK_SCU_H

#include "core/credentials.h"
#include "core/fault.h"
#include "dicom_map/commitment.h"

#include <stddef.h>
#include <stdint.h>

struct dcm_scu;

struct dcm_scu_options {
    const char *calling_ae; // ours
    const char *called_ae;  // theirs
    const char *host;
    int64_t port;
    double connect_timeout_s;
    double dimse_timeout_s; // for an answer
    // TLS, with connect_timeout_s for its handshake; NULL: none. Borrowed, as are the next two, which say
    // what the peer's certificate must be (credentials_peer_is); both empty: `host`.
    const struct credentials *credentials;
    const char *certificate_sha256, *certificate_name;
    int is_report; // for dcm_scu_report alone
    int is_query;  // for dcm_scu_count alone
    int is_commit; // for dcm_scu_commit alone
};

// Opens an association that proposes Verification, MR Image Storage and Enhanced MR Image Storage (explicit
// VR little endian in one context, implicit in another), or, with is_report, Storage Commitment Push Model
// with ourselves as SCP, or, with is_query, Study Root Query/Retrieve Find, or, with is_commit, Storage
// Commitment Push Model with the peer as SCP. *scu is given to the caller
// (dcm_scu_close). Errors: CONNECT, TLS, ASSOCIATION_REJECTED, NOT_NEGOTIATED when none of ours was accepted.
int dcm_scu_open(const struct dcm_scu_options *options, struct dcm_scu **scu, struct fault_note *why);

// C-ECHO. Errors: NOT_NEGOTIATED, PEER_ABORTED, TIMEOUT, PEER_REFUSED.
int dcm_scu_echo(struct dcm_scu *scu, struct fault_note *why);

// C-STORE of one DICOM file. *status is the peer's answer, 0xffff when there was none. 0 for 0000 and
// warnings (B000, B006, B007). Errors: IO, NOT_DICOM (our file), NOT_NEGOTIATED, PEER_BUSY (A7xx, 0110,
// 0213), PEER_REFUSED (all other statuses), PEER_ABORTED, TIMEOUT.
int dcm_scu_store(struct dcm_scu *scu, const char *path, unsigned *status, struct fault_note *why);

// N-EVENT-REPORT of a commitment's outcome (PS3.4 J.3.3). 0: the peer confirmed it. Errors: NOT_NEGOTIATED,
// PEER_REFUSED, PEER_ABORTED, TIMEOUT.
int dcm_scu_report(struct dcm_scu *scu, const struct commitment *outcome, struct fault_note *why);

// N-ACTION: asks the peer to commit itself to the instances of `request`. 0: it took the request. What comes
// of it the peer tells in a report, on an association of its own or on this one, where it has wait_s for
// that; the latter goes to `told`, which returns 0 only when it is durable. Errors: NOT_NEGOTIATED, PEER_BUSY
// (0110, 0213), PEER_REFUSED (other statuses), PEER_ABORTED, TIMEOUT.
int dcm_scu_commit(struct dcm_scu *scu, const struct commitment *request, double wait_s,
                   int (*told)(void *user, const struct commitment *outcome, struct fault_note *why),
                   void *user, struct fault_note *why);

// How many images the peer has of a series: C-FIND at the SERIES level for Number of Series Related
// Instances, or, where the peer does not give that, one answer for each image. *n = -1: it does not know the
// series. Errors: NOT_NEGOTIATED, PEER_BUSY, PEER_REFUSED, PEER_ABORTED, TIMEOUT.
int dcm_scu_count(struct dcm_scu *scu, const char *study_uid, const char *series_uid, int64_t *n,
                  struct fault_note *why);

// Releases (or aborts, after a failure) the association and frees. NULL is fine.
void dcm_scu_close(struct dcm_scu *scu);

#endif
