// SPDX-License-Identifier: Apache-2.0
//
// Compressed pixel data before a decoder gets them: the fragments put together, and a look at what the
// codestream says of itself. That must be what the DICOM header says, or a decoder would write elsewhere,
// leave values unset or take memory for an image that is not there. Not here: decoding (rle.h, j2k.h,
// dcmtk/object.h).

#ifndef ISOSLICE_DICOM_MAP_CODESTREAM_H
#define ISOSLICE_DICOM_MAP_CODESTREAM_H

#include "core/fault.h"
#include "dicom_map/prescan.h"

#include <stddef.h>
#include <stdint.h>

// The transfer syntaxes with compressed pixels that are accepted, all lossless.
#define SYNTAX_JPEG      "1.2.840.10008.1.2.4.57"
#define SYNTAX_JPEG_SV1  "1.2.840.10008.1.2.4.70"
#define SYNTAX_JPEG_LS   "1.2.840.10008.1.2.4.80"
#define SYNTAX_JPEG_2000 "1.2.840.10008.1.2.4.90"
#define SYNTAX_RLE       "1.2.840.10008.1.2.5"

// Puts the fragments of frame number `frame` (from 0) together, the offset table left out. `object` is the
// whole file and `scan` what prescan_memory found in it. All fragments are a single frame's; those of several
// frames are told apart by the Basic Offset Table, or, where it is empty, there must be one for each frame.
// *codestream is given to the caller (free). Source: PS3.5 A.4. Errors: DECODE where there is no fragment, or
// where table, fragments and number of frames do not agree; NO_MEMORY.
int codestream_join(const void *object, size_t object_size, const struct prescan *scan, uint32_t frame,
                    void **codestream, size_t *size, struct fault_note *why);

// Checks the headers of a JPEG or JPEG-LS codestream up to its first scan: coded without loss as the transfer
// syntax says (SOF3 without point transform; SOF55 with NEAR 0), one component of rows x columns and at most
// `bits_allocated` bits. Source: ITU-T T.81 B.2, T.87 C.2. Errors: DECODE, PIXEL_SIZE, LOSSY.
int codestream_check(const char *transfer_syntax, const void *codestream, size_t size, int rows, int columns,
                     int bits_allocated, struct fault_note *why);

#endif
