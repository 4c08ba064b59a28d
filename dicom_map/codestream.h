// SPDX-License-Identifier: Apache-2.0
//
// A look at compressed pixel data before a decoder gets them: what the codestream says of its own size must
// be what the DICOM header says, or the decoder would write elsewhere or leave values unset. Not here:
// decoding.

#ifndef ISOSLICE_DICOM_MAP_CODESTREAM_H
#define ISOSLICE_DICOM_MAP_CODESTREAM_H

#include "core/fault.h"

#include <stddef.h>

// Checks the first fragment of a single-frame image. JPEG and JPEG-LS: one component of rows x columns and at
// most `bits_allocated` bits (ITU-T T.81 B.2.2, T.87 C.2.2). RLE: as many segments as bytes in a sample,
// inside the fragment, in order (PS3.5 G.5). Errors: DECODE, PIXEL_SIZE.
int codestream_check(const char *transfer_syntax, const void *fragment, size_t size, int rows, int columns,
                     int bits_allocated, struct fault_note *why);

#endif
