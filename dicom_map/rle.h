// SPDX-License-Identifier: Apache-2.0
//
// RLE pixel data to samples: PackBits in segments, one per byte of a sample, high byte first (PS3.5 annex G).
// Not here: fragments (codestream.h).

#ifndef ISOSLICE_DICOM_MAP_RLE_H
#define ISOSLICE_DICOM_MAP_RLE_H

#include "core/fault.h"

#include <stddef.h>

// Decodes one frame of `n_samples` samples of `sample_bytes` (1 or 2) bytes. samples: [n_samples] little
// endian, caller's storage, unspecified on failure. Every segment must hold exactly its bytes: one byte of
// zero may follow (even length), and runs of nothing (0x80). Errors: DECODE, naming segment and byte.
int rle_decode(const void *codestream, size_t size, size_t n_samples, int sample_bytes, void *samples,
               struct fault_note *why);

#endif
