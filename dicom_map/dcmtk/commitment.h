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

// Reads a data set in that transfer syntax (little endian). *out is filled and its items are the caller's
// (free). Errors: BAD_HEADER (not parseable, no items), BAD_UID, TOO_LARGE (more than COMMITMENT_MAX_ITEMS),
// NO_MEMORY.
int dcm_commitment_parse(const void *data, size_t size, const char *transfer_syntax, struct commitment *out,
                         struct fault_note *why);

// Sends the N-EVENT-REPORT-RQ of an outcome on an association (DCMTK's T_ASC_Association) with this message
// id. Errors: NOT_NEGOTIATED, PEER_ABORTED.
int dcm_commitment_send(void *association, unsigned short message_id, const struct commitment *outcome,
                        struct fault_note *why);

#endif
