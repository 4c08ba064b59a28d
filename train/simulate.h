// SPDX-License-Identifier: Apache-2.0
//
// A thick-slice stack made from a high-resolution volume, with the truth that belongs to it. Not here: what
// is done with the stack.

#ifndef ISOSLICE_TRAIN_SIMULATE_H
#define ISOSLICE_TRAIN_SIMULATE_H

#include "core/fault.h"
#include "train/profile.h"
#include "train/volume.h"

#include <stdint.h>

enum { SIMULATE_MAX_FACTOR = 32 };
#define SIMULATE_BRIGHT 2000.0 // stored value of the volume's 99.95th percentile

// How slices are acquired.
struct simulate_recipe {
    int axis;                  // of the file: 0 x, 1 y, 2 z
    int factor;                // 2..SIMULATE_MAX_FACTOR, voxels from slice to slice
    enum profile_kind profile; // full width factor * (1 - gap)
    double gap;                // share of the spacing that no slice covers, 0..0.95
    double noise;              // sigma of Gaussian noise on the stack, as a share of SIMULATE_BRIGHT
    uint64_t seed;             // of the noise
    int first[3], last[3];     // part of the file that is used: first <= i < last; last 0: to the end
};

// Caller's storage. [D,H,W]: slices along the axis; of the other two the first in the file gives columns.
struct simulate_case {
    int depth, truth_depth, height, width; // truth_depth = (depth - 1) * factor + 1
    double spacing_mm[3];                  // of the truth: slices, rows, columns
    float *stack;                          // [depth,H,W] stored values: whole numbers 0..4095
    float *truth; // [truth_depth,H,W] stored values at the planes from first to last slice
};

// Errors: NOTHING_TO_DO when fewer than 3 slices come out, NO_MEMORY; nothing is held then.
int simulate_run(const struct volume *volume, const struct simulate_recipe *recipe, struct simulate_case *out,
                 struct fault_note *why);
void simulate_done(struct simulate_case *out);

#endif
