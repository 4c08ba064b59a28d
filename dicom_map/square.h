// SPDX-License-Identifier: Apache-2.0
//
// Pixels far from square: the coarser in-plane axis is resampled to the finer one's spacing when pixels are
// loaded, so that all else sees square ones. The first row and column stay where they are, the last do not
// pass the last acquired centre. Not here: the slice axis.

#ifndef ISOSLICE_DICOM_MAP_SQUARE_H
#define ISOSLICE_DICOM_MAP_SQUARE_H

#include "core/fault.h"

// Up to the first ratio of the two spacings pixels are kept as they are; up to the second they are resampled;
// beyond, they are refused (NON_SQUARE_PIXELS), as where more than SQUARE_MAX_SIDE rows or columns come out.
#define SQUARE_KEPT_RATIO 1.5
#define SQUARE_MAX_RATIO  4.0
enum { SQUARE_MAX_SIDE = 4096 };

// How many samples `fine_mm` apart fit between the first and the last centre of n that lie `coarse_mm` apart.
int square_size(int n, double coarse_mm, double fine_mm);

enum square_axis { SQUARE_NOTHING, SQUARE_ROWS, SQUARE_COLUMNS };

// Resamples a plane along one axis: more rows, or more columns. in [height,width]; out [n,width] or
// [height,n], sample k at k * step of the old distance, n as square_size gave it, caller's storage, not `in`.
// Interpolating cubic B-spline, ends mirrored on the first and last sample, kept within the plane's least and
// greatest value. Errors: NO_MEMORY. Source: scipy.ndimage.map_coordinates(order=3, mode='mirror').
int square_resample(const float *in, int height, int width, enum square_axis axis, int n, double step,
                    float *out, struct fault_note *why);

#endif
