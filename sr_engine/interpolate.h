// SPDX-License-Identifier: Apache-2.0
//
// The network over a whole stack: tiles in plane so that a limit of memory is kept, encodes each tile once
// and decodes the wanted planes from it. A tile carries a halo of 24 voxels, the reach of encoder (18) and
// attention window (6), so that tiles join without a trace. Not here: units, clipping, choices (engine.c).

#ifndef ISOSLICE_SR_ENGINE_INTERPOLATE_H
#define ISOSLICE_SR_ENGINE_INTERPOLATE_H

#include "core/fault.h"
#include "core/progress.h"
#include "sr_engine/engine.h"
#include "sr_engine/model.h"

#include <stddef.h>

// What a run may use and whom it tells; caller's storage.
struct interpolate_limits {
    size_t memory_bytes;  // of buffers and scratch
    progress_fn progress; // may be NULL
    void *progress_user;
    const char *phase;           // name given to progress
    const struct sr_recipe *use; // ensemble and acquired planes; NULL: one pass, one window
    size_t workspace_bytes;      // out: most that was held at once; only raised
    int tile_rows, tile_columns; // out: tiles along rows and columns that the last result was made of
};

// stack [depth,height,width] normalised values; residual [n_planes,height,width],
// in normalised units, in the order of `planes`; with limits->use the mean over flipped passes and attention
// windows that it asks for. Where the device refuses memory within the limit, smaller tiles are tried.
// Errors: NO_MEMORY when not even the smallest tile fits the limit or the device, CANCELLED, those of the
// ops.
int interpolate_planes(struct model *model, const float *stack, int depth, int height, int width,
                       const struct sr_plane *planes, size_t n_planes, struct interpolate_limits *limits,
                       float *residual, struct fault_note *why);

#endif
