// SPDX-License-Identifier: Apache-2.0
//
// The samples of one frame of an object in memory: native ones as they lie, compressed ones by the decoder of
// their transfer syntax after the checks of codestream.h. Not here: files, what samples mean (pixels.h).

#ifndef ISOSLICE_DICOM_MAP_DECODE_H
#define ISOSLICE_DICOM_MAP_DECODE_H

#include "core/fault.h"
#include "dicom_map/pixels.h"
#include "dicom_map/prescan.h"

#include <stddef.h>
#include <stdint.h>

// `object` is the whole file, `scan` what prescan_memory found in it, `layout` what its header says of the
// samples; the frame counts from 0. samples: [rows,columns] of Bits Allocated, little endian, caller's
// storage, unspecified on failure. Errors: DECODE, PIXEL_SIZE, LOSSY, NO_MEMORY.
int decode_frame(const void *object, size_t size, const struct prescan *scan, uint32_t frame,
                 const struct pixels_layout *layout, void *samples, struct fault_note *why);

#endif
