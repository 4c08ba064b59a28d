// SPDX-License-Identifier: Apache-2.0
//
// Samples as they lie in an object to the values that they mean, and back. Not here: decompression
// (dcmtk/object.h).

#ifndef ISOSLICE_DICOM_MAP_PIXELS_H
#define ISOSLICE_DICOM_MAP_PIXELS_H

#include <stddef.h>
#include <stdint.h>

// How stored values lie in their samples: PS3.5 section 8.1.1.
struct pixels_layout {
    int bits_allocated; // 8 or 16
    int bits_stored;    // 1 .. bits_allocated
    int high_bit;       // bits_stored - 1 .. bits_allocated - 1
    int is_signed;
};

// Smallest and largest stored value that fits.
void pixels_range(const struct pixels_layout *layout, int32_t *least, int32_t *most);

// Stored values of `n` little-endian samples: shifted down from the high bit, bits above masked (old
// overlays), sign extended.
void pixels_unpack(const struct pixels_layout *layout, const void *samples, size_t n, int32_t *values);

// The way back into 16-bit words, high bit = bits stored - 1.
void pixels_pack(const struct pixels_layout *layout, const int32_t *values, size_t n, uint16_t *words);

// One slice's share in a common scale.
struct pixels_scale {
    double slope, intercept; // real = slope * stored + intercept
    int32_t least, most;     // stored values that occur in it
};

// Where the rescale varies from slice to slice (Philips): one slope and intercept for all, in which every
// value that occurs fits into the stored range. The slope is not finer than the coarsest slice's. Both are
// rounded to what a DS holds, so that what is written is what was computed with.
void pixels_common_scale(const struct pixels_scale *slices, size_t n, const struct pixels_layout *layout,
                         double *slope, double *intercept);

// values (stored in the slice's own scale) -> stored in the common one, not rounded.
void pixels_convert(float *values, size_t n, const struct pixels_scale *from, double slope, double intercept);

#endif
