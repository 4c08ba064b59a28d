// SPDX-License-Identifier: Apache-2.0
//
// JPEG 2000 codestreams (transfer syntax 1.2.840.10008.1.2.4.90, lossless) to samples. OpenJPEG decodes;
// everything that the codestream claims is checked before it gets a byte. Not here: fragments (codestream.h),
// JP2 files, other components than one, part 2, high throughput coding.

#ifndef ISOSLICE_DICOM_MAP_J2K_H
#define ISOSLICE_DICOM_MAP_J2K_H

#include "core/fault.h"
#include "dicom_map/pixels.h"

#include <stddef.h>

// What a codestream may ask for; more is refused.
enum {
    J2K_MAX_TILES = 1024,
    J2K_MAX_LEVELS = 16,          // of decomposition
    J2K_MAX_LAYERS = 256,         // of quality
    J2K_MAX_PRECINCTS = 16 << 20, // times layers, which the decoder keeps a table of
};

// Walks the main header and all tile-parts and allocates nothing. The image must be rows x columns, one
// component, of the sign that the header gives; as many bits as Bits Allocated, or, where stored values begin
// at bit 0, at most Bits Stored. Every tile must be there, every coding style be reversible (the 5/3
// wavelet), and packets in one order with their headers. Source: ITU-T T.800 annex A.
// Errors: PIXEL_SIZE (size, components, bits, sign), LOSSY, DECODE.
int j2k_check(const void *codestream, size_t size, const struct pixels_layout *layout, int rows, int columns,
              struct fault_note *why);

// Checks as above, then decodes, twice: every packet must be there. What cannot be seen is an encoder that
// left out the lowest bits of a code block. samples: [rows, columns] of Bits Allocated, little endian,
// caller's storage, unspecified on failure. Whatever the decoder complains of is a fault. Errors: as above,
// NO_MEMORY.
int j2k_decode(const void *codestream, size_t size, const struct pixels_layout *layout, int rows, int columns,
               void *samples, struct fault_note *why);

#endif
