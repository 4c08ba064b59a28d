// SPDX-License-Identifier: Apache-2.0
//
// One association as acceptor, from the connected socket to the release. DIMSE and the upper layer are
// DCMTK's; what becomes of the bytes is the caller's. Nothing of a data set is parsed here but that of a
// commitment request or report, pre-scanned first, of at most 4 MB. Not here:
// listening, files, access lists. Plain C; called in a process of its own per association.

#ifndef ISOSLICE_DICOM_MAP_DCMTK_SCP_H
#define ISOSLICE_DICOM_MAP_DCMTK_SCP_H

#include "core/credentials.h"
#include "core/digest.h"
#include "core/fault.h"
#include "dicom_map/commitment.h"

#include <stddef.h>

// Who asks for an association.
struct dcm_peer {
    char calling_ae[17];
    char called_ae[17];
    char address[64];                  // as DCMTK found it; for logs
    const struct x509_st *certificate; // that our CA vouched for; NULL: no TLS
};

// What the caller answers an association request. Codes: PS3.8 table 9-21.
enum dcm_answer {
    DCM_ANSWER_ACCEPT,
    DCM_ANSWER_CALLED_UNKNOWN,    // rejected permanent, service user, 7
    DCM_ANSWER_CALLING_UNKNOWN,   // rejected permanent, service user, 3
    DCM_ANSWER_NEEDS_TLS,         // the same
    DCM_ANSWER_OTHER_CERTIFICATE, // the same
    DCM_ANSWER_LOCAL_LIMIT,       // rejected transient, service provider, 2
    DCM_ANSWER_CONGESTION,        // rejected transient, service provider, 1
};

// A C-STORE request, as the command gives it.
struct dcm_store_request {
    char sop_class_uid[UID_SIZE];
    char sop_instance_uid[UID_SIZE];
    char transfer_syntax[UID_SIZE];
    char context_class[UID_SIZE]; // what its presentation context was negotiated for
    const struct dcm_peer *peer;
};

// All are called in the calling process, in this order: associate, then per object store_begin, store_data
// (any number of times), store_end, store_settle.
struct dcm_scp_callbacks {
    void *user;
    // *why is filled for DCM_ANSWER_CONGESTION.
    enum dcm_answer (*associate)(void *user, const struct dcm_peer *peer, struct fault_note *why);
    // From now on (is_due) the next message or fragment of one must be there within dimse_timeout_s, or
    // nothing is expected of the peer. Said again with every fragment. DCMTK's own time limits are per read,
    // so that a byte now and then would pass them for ever.
    void (*peer_is_due)(void *user, int is_due);
    // An object begins. A fault here does not stop the transfer: its bytes are read and dropped, and the
    // fault decides the status.
    int (*store_begin)(void *user, const struct dcm_store_request *request, struct fault_note *why);
    // The next bytes of its data set. After the first fault no more calls for this object.
    int (*store_data)(void *user, const void *data, size_t size, struct fault_note *why);
    // The data set is complete. 0 only when object and name are durable: 0000 is answered. Else the fault's
    // status, with `why` as Error Comment.
    int (*store_end)(void *user, const struct dcm_store_request *request, struct fault_note *why);
    // The object begun came to nothing (a fault above, or the association broke); clean up.
    void (*store_cancel)(void *user);
    // The peer has its answer, whatever it was: time for what need not delay it.
    void (*store_settle)(void *user);
    // The next three are for storage commitment and may be NULL without it.
    // A request. 0 only when it is durable; *number is how the next two call it.
    int (*commit_request)(void *user, const struct commitment *request, int *number, struct fault_note *why);
    // While nothing else happens: a request whose outcome is known. Returns 1 and fills *number and *outcome
    // (its items are given: free), or 0.
    int (*commit_outcome)(void *user, int *number, struct commitment *outcome);
    // The peer confirmed the report of that outcome.
    void (*commit_reported)(void *user, int number);
    // What a destination tells of a request of ours; NULL without `reports`. 0 only when it is durable.
    int (*commit_told)(void *user, const struct commitment *outcome, struct fault_note *why);
};

struct dcm_scp_options {
    int commitment;                        // accept Storage Commitment Push Model (as SCP)
    int reports;                           // and its reports (as SCU)
    double acse_timeout_s;                 // for the association request
    double dimse_timeout_s;                // between messages and PDVs
    const struct credentials *credentials; // TLS, with acse_timeout_s for its handshake; NULL: none. Borrowed
};

// Serves one association on the connected socket `fd` (taken: closed at the end). Verification and MR Image,
// Enhanced MR Image, Legacy Converted Enhanced MR Image Storage, each in the first of: explicit, implicit VR
// little endian, JPEG lossless SV1, JPEG lossless, JPEG-LS lossless, RLE, JPEG 2000 lossless. Lossy ones,
// deflated, big endian and video are refused (result 4). Returns 0 after a release; else PEER_ABORTED,
// PROTOCOL, TIMEOUT, ACCESS (rejected by `associate`, or its own fault), TLS (no trusted connection),
// NOT_NEGOTIATED (released, but none of its presentation contexts was ours), NO_MEMORY, INTERNAL.
int dcm_scp_serve(int fd, const struct dcm_scp_options *options, const struct dcm_scp_callbacks *callbacks,
                  struct fault_note *why);

// Once per process, before dcm_scp_serve and before any fork: dictionary loaded, log quiet, Nagle off, no
// reverse DNS. Errors: INTERNAL when DCMTK's dictionary is missing.
int dcm_network_init(struct fault_note *why);

#endif
