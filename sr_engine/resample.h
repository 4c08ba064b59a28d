// SPDX-License-Identifier: Apache-2.0
//
// Interpolation along the slice axis without a network: linear and cubic B-spline, in the stack's own units,
// positions in slice index space. Plain functions on host memory.

#ifndef ISOSLICE_SR_ENGINE_RESAMPLE_H
#define ISOSLICE_SR_ENGINE_RESAMPLE_H

#include "core/fault.h"

#include <stddef.h>

// The plane at `slice` + t of voxels [depth,plane_size], 0 <= t < 1 (t = 0 at the last slice): out
// [plane_size].
void resample_linear(const float *voxels, int depth, size_t plane_size, int slice, double t, float *out);

// Coefficients of the interpolating cubic B-spline along the slice axis, ends mirrored on the first and last
// slice: coefficients [depth,plane_size], may not be `voxels`. depth >= 2. Errors: NO_MEMORY. Source:
// scipy.ndimage.spline_filter1d(order=3, mode='mirror'), solved exactly as a tridiagonal system.
int resample_cubic_prepare(const float *voxels, int depth, size_t plane_size, double *coefficients,
                           struct fault_note *why);
// The plane at `slice` + t, as scipy.ndimage.map_coordinates(order=3, mode='mirror', prefilter=False).
void resample_cubic(const double *coefficients, int depth, size_t plane_size, int slice, double t,
                    double *out);

#endif
