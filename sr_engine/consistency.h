// SPDX-License-Identifier: Apache-2.0
//
// Agreement with what was measured: blurred by the slice profile and taken at the slices' places, an
// interpolated volume should give the acquired slices again, but for their noise. The correction is the
// smallest one that makes it so, V += w A^T (A A^T)^-1 (y - A V), A being profile and sampling along the
// slice axis, the same for every column of pixels; w is the share of the misfit y - A V that is not noise
// (Wiener's). Source: model.md 7.3. Not here: whether to use it (recipe.h).

#ifndef ISOSLICE_SR_ENGINE_CONSISTENCY_H
#define ISOSLICE_SR_ENGINE_CONSISTENCY_H

#include "core/fault.h"
#include "sr_engine/engine.h"

#include <stddef.h>

// Standard deviation of what is noise in the misfit of residual [n_planes,height,width], which stands on top
// of linear interpolation of stack [depth,height,width]: 1.4826 times the median size of the diagonal detail
// (a - b - c + d) / 2 of 2 x 2 pixels of the misfit where all four of the stack are above a twentieth of its
// largest value. What the network got wrong has the shapes of tissue and little such detail; noise is all
// detail. 0 where no such pixels are. `profile` as below. Errors: NO_MEMORY, NOT_FINITE. Source of the
// estimator: Donoho, Johnstone, Biometrika 81, 1994.
int consistency_noise(const float *stack, int depth, int height, int width, const struct sr_plane *planes,
                      size_t n_planes, double profile, const float *residual, double *sigma,
                      struct fault_note *why);

// Adds the correction, times `share`, to residual [n_planes,plane_size], which stands on top of linear
// interpolation of stack [depth,plane_size]; *share becomes share times w, or 0 where no slice is compared.
// `profile`: FWHM of the Gaussian slice profile as a share of the slice distance; its weights over the planes
// within 3 sigma are divided by their sum. Slices of whose profile less than nine tenths lie between the
// first plane and the last are left out: the outermost ones, and any that no plane is near. `noise`: of the
// misfit, as above; 0: w is 1. Errors: NO_MEMORY; NOT_FINITE when the planes determine no correction.
int consistency_apply(const float *stack, int depth, size_t plane_size, const struct sr_plane *planes,
                      size_t n_planes, double profile, double noise, double *share, float *residual,
                      struct fault_note *why);

#endif
