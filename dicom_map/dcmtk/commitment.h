// SPDX-License-Identifier: Apache-2.0
//
// The data sets of storage commitment: action information read, event information written (PS3.4 tables
// J.3-1 and J.3-2). For scp.cc and scu.cc, which do the rest.

#ifndef ISOSLICE_DICOM_MAP_DCMTK_COMMITMENT_H
#define ISOSLICE_DICOM_MAP_DCMTK_COMMITMENT_H

#include "core/fault.h"
#include "dicom_map/commitment.h"

#include <stddef.h>

#define DCM_COMMITMENT_CLASS    "1.2.840.10008.1.20.1"
#define DCM_COMMITMENT_INSTANCE "1.2.840.10008.1.20.1.1"

enum { DCM_COMMITMENT_MAX_BYTES = 4 << 20 }; // of a data set that comes

// Reads a data set in that transfer syntax (little endian): of a request, or, with is_outcome, of a report.
// *out is filled and its items are the caller's (free). Errors: BAD_HEADER (not parseable, no items),
// BAD_UID, TOO_LARGE (more than COMMITMENT_MAX_ITEMS), NO_MEMORY.
int dcm_commitment_parse(const void *data, size_t size, const char *transfer_syntax, int is_outcome,
                         struct commitment *out, struct fault_note *why);

// Sends the N-EVENT-REPORT-RQ of an outcome on an association (DCMTK's T_ASC_Association) with this message
// id. Errors: NOT_NEGOTIATED, PEER_ABORTED.
int dcm_commitment_send(void *association, unsigned short message_id, const struct commitment *outcome,
                        struct fault_note *why);

// Sends the N-ACTION-RQ of a request, likewise.
int dcm_commitment_ask(void *association, unsigned short message_id, const struct commitment *request,
                       struct fault_note *why);

// Takes the rest of an N-EVENT-REPORT-RQ, whose command was read: its data set goes to `told`, and what that
// returns decides the answer: 0, or 0115, 0213, 0110. `command` is a T_DIMSE_N_EventReportRQ, timeout_s that
// of a read; `alive`, if not NULL, is called with every fragment. Errors: PEER_ABORTED, TIMEOUT, PROTOCOL:
// the association is of no use any more.
int dcm_commitment_hear(void *association, unsigned char context, const void *command, int timeout_s,
                        void (*alive)(void *user), void *alive_user,
                        int (*told)(void *user, const struct commitment *outcome, struct fault_note *why),
                        void *user, struct fault_note *why);

// The DIMSE status of a request or report with which this went wrong (0: nothing).
unsigned dcm_commitment_status(int rc);

#endif
