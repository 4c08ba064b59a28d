// SPDX-License-Identifier: Apache-2.0
//
// How evenly the wanted planes look: whether noise and intensity stay those of the acquired slices from plane
// to plane. Two numbers, both of what is delivered against what was acquired; no truth is needed. Not here:
// how right the planes are (quality.h).
//
// Of one plane, both over the pixels that lie above the stack's mean in both neighbouring slices: air has
// another noise, and where an object ends between two slices nothing says what its planes should be.
//   intensity  mean of (value - low), over that of linear interpolation; low is the stack's least value
//   noise      1.4826 times the median of |v(y,x) - v(y,x+1) - v(y+1,x) + v(y+1,x+1)| / 2, which is the
//              standard deviation of white noise and hardly sees anatomy; over the mean of the two
//              neighbouring slices' own, weighted as linear interpolation weighs them
// Both are 1 where planes are like slices. Linear interpolation has intensity 1 by definition and, midway, a
// noise of 0.71, which is the striping along the slices that readers know of it.

#ifndef ISOSLICE_SR_ENGINE_UNIFORMITY_H
#define ISOSLICE_SR_ENGINE_UNIFORMITY_H

#include "core/fault.h"
#include "sr_engine/engine.h"

#include <stddef.h>

// Pixels above the mean that a plane must have to be counted.
enum { UNIFORMITY_LEAST_PIXELS = 512 };

// The plane farthest from 1 (as a factor, either way) for each of the two, into *uniformity. residual is
// [n_planes,H,W] in stored units, as sr_run gives it; low as in struct sr_report. Where no plane has enough
// pixels, or slices have no noise (a drawing), the number is NaN. Errors: NO_MEMORY.
int uniformity_measure(const struct sr_stack *stack, double low, const struct sr_plane *planes,
                       size_t n_planes, const float *residual, struct sr_uniformity *uniformity,
                       struct fault_note *why);

#endif
