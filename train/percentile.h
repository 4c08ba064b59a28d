// SPDX-License-Identifier: Apache-2.0
//
// Percentiles of many values without sorting them. Plain functions; everything may include this.

#ifndef ISOSLICE_TRAIN_PERCENTILE_H
#define ISOSLICE_TRAIN_PERCENTILE_H

#include <stddef.h>

// The value below which `percent` of the n values lie, linear between neighbours in order; n > 0, 0..100.
// The values are reordered. Source: numpy.percentile, method 'linear'.
double percentile_of(float *values, size_t n, double percent);

#endif
