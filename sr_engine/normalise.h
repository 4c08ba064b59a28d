// SPDX-License-Identifier: Apache-2.0
//
// The one normalisation rule, in training on a subject, checking and use: x = (stored - low) / (high - low),
// low and high being the least and the largest value of the whole stack.

#ifndef ISOSLICE_SR_ENGINE_NORMALISE_H
#define ISOSLICE_SR_ENGINE_NORMALISE_H

#include "core/fault.h"

#include <stddef.h>

// values [n], n > 0. A constant stack has low == high. Errors: NOT_FINITE with the first such voxel.
int normalise_range(const float *values, size_t n, double *low, double *high, struct fault_note *why);

// out [n], caller's; low < high.
void normalise(const float *values, size_t n, double low, double high, float *out);

#endif
