// SPDX-License-Identifier: Apache-2.0
//
// A storage commitment request and its outcome (PS3.4 annex J), as every part of the node passes it on,
// whoever asks whom. Not here: the network and the files.

#ifndef ISOSLICE_DICOM_MAP_COMMITMENT_H
#define ISOSLICE_DICOM_MAP_COMMITMENT_H

#include "core/digest.h"

#include <stddef.h>

enum { COMMITMENT_MAX_ITEMS = 5000 };

// Failure Reason (0008,1197), PS3.3 C.14.1.1.
enum commitment_reason {
    COMMITMENT_KEPT = 0, // committed: no failure
    COMMITMENT_PROCESSING_FAILURE = 0x0110,
    COMMITMENT_NO_SUCH_INSTANCE = 0x0112,
    COMMITMENT_CLASS_CONFLICT = 0x0119,
    COMMITMENT_CLASS_NOT_SUPPORTED = 0x0122,
};

struct commitment_item {
    char sop_class_uid[UID_SIZE], sop_instance_uid[UID_SIZE];
    unsigned reason; // enum commitment_reason; without meaning in a request
};

// Initialise with zeros.
struct commitment {
    char transaction_uid[UID_SIZE];
    struct commitment_item *items; // [n], owned (free)
    size_t n;
};

#endif
