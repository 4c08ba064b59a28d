// SPDX-License-Identifier: Apache-2.0
//
// One job: a stack of thick slices in, the network's contribution on every wanted plane out, with the numbers
// that say why this result was chosen. This is the only header of sr_engine that the node includes. Not here:
// DICOM, queues, rounding to stored values.

#ifndef ISOSLICE_SR_ENGINE_ENGINE_H
#define ISOSLICE_SR_ENGINE_ENGINE_H

#include "core/fault.h"
#include "core/progress.h"
#include "sr_engine/recipe.h"

#include <stddef.h>
#include <stdint.h>

// A stack of slices that form one grid. All fields are the caller's; the engine borrows them for the call.
struct sr_stack {
    const float *voxels;      // [D,H,W] stored values, W fastest, slices ordered along the normal
    int depth, height, width; // D >= 2 slices, H rows, W columns
    double row_mm;            // distance of neighbouring rows' centres
    double column_mm;         // distance of neighbouring columns' centres
    double slice_mm;          // median distance of neighbouring slices' centres
    double thickness_mm;      // nominal slice thickness; < slice_mm means a gap; 0 when unknown
    int smooth_axis; // 1: rows, 2: columns were resampled to finer ones, nothing is learnt along it; 0:
                     // neither
};

// Where one wanted plane lies: between slices `slice` and `slice + 1`, at share `t` of the way, 0 <= t < 1;
// the last acquired plane is {depth - 1, 0}.
struct sr_plane {
    int slice;
    double t;
};

enum sr_method { SR_LINEAR, SR_CUBIC, SR_BASE, SR_TUNED, SR_N_METHODS };
const char *sr_method_name(enum sr_method method); // "linear", "cubic", "base", "tuned"

// Workspace that a job takes at most unless more is asked for: enough for large tiles, and the job stays
// below 4 GiB.
#define SR_MEMORY_MOST ((size_t)3 << 30)
// Most optimiser steps that a time budget is turned into: what more of them gain was not measured
// (docs/RESULTS.md), and on a GPU a budget made for a CPU would be minutes of them.
enum { SR_PLANNED_STEPS = 600, SR_NO_STEPS = -1 };

struct sr_options {
    const char *backend;      // "auto", "cpu", "cuda", "cuda16" or "ref"
    const char *weights_path; // safetensors file, see weights.h
    int finetune;             // non-zero: adapt to this subject (stage 3)
    int choose;          // non-zero: deliver the best of the methods on held-out data; zero: SR_TUNED when
                         // fine-tuned, else SR_BASE, whatever the numbers
    int clip;            // non-zero: clip the network's result to the stack's own range [min, max]
    int steps;           // optimiser steps of the fine-tune; 0: as many as budget_s allows, at most
                         // SR_PLANNED_STEPS; SR_NO_STEPS: none, as when it allowed none
    double budget_s;     // wall-clock limit of the fine-tune when steps == 0
    uint64_t seed;       // of patches and order
    int threads;         // 0: all processors allowed to this process
    size_t memory_bytes; // limit of the engine's own workspace; 0: SR_MEMORY_MOST, halved until at most half
                         // of the memory that is available now is left of it
    const struct sr_recipe *recipe; // of the fine-tune and of use; NULL: sr_recipe_default(), and
                                    // sr_recipe_bare() where neither fine-tune nor choice is asked for
    progress_fn progress;           // may be NULL
    void *progress_user;
};

// One way to measure, on this subject's own data. PSNR in dB over the stack's normalised range [0,1].
struct sr_quality {
    int measured;                 // zero: not done, and why in `note`
    double psnr_db[SR_N_METHODS]; // NaN where the method was not run
    char note[128];
};

// How evenly the wanted planes look, as uniformity.h defines it: the worst plane's ratio to the acquired
// slices, 1 being like them; NaN where it could not be measured.
struct sr_uniformity {
    double noise, intensity;
    size_t noise_plane, intensity_plane; // index into the wanted planes
};

// Everything worth keeping about a job; plain data.
struct sr_report {
    char backend[32];             // what computed it
    double range_low, range_high; // normalisation: x = (stored - low) / (high - low)
    enum sr_method delivered;
    char reason[160];                       // one sentence: why this method
    int factor_train_min, factor_train_max; // in-plane factors drawn in the fine-tune
    int steps_done;                         // optimiser steps taken
    int steps_planned; // what a repeated job passes as `steps`; 0: no pair could be cut, nothing was decided
    int step_best;     // the step whose weights were kept; 0: those of the file
    double share_best; // how far from the file's weights to that step's they lie; 1: they are that step's
    double loss_first, loss_last;    // mean L1 of the first and the last tenth of the steps
    struct sr_quality in_plane;      // held-out in-plane patches
    struct sr_quality left_out;      // every second acquired slice left out and predicted
    struct sr_quality control;       // the same in plane, where nothing differs from slice to slice
    struct sr_uniformity uniformity; // of what is delivered
    double consistency; // share of the correction towards the slices that was applied, see consistency.h
    double seconds_finetune, seconds_check, seconds_interpolate;
    size_t workspace_bytes;      // most that was held at once
    size_t memory_bytes;         // the limit of it. It decides the tiles, and tiles the last digits
    int tile_rows, tile_columns; // tiles of the interpolation; 0 where no network gave it
};

// Runs one job.
//   planes    [n_planes], any order
//   residual  [n_planes,H,W], caller's; filled with what is to be *added to linear interpolation of the
//   stored
//             values*, in stored units: delivered value = linear + residual. All zeros when linear is
//             delivered.
// Repeatable: same stack, planes, options with steps not 0, backend, memory_bytes and tiles give the same
// bits (with any thread count the same backend must keep its order of summation). Errors: WEIGHTS, BACKEND,
// NO_MEMORY, NOT_FINITE, CANCELLED, DEVICE, INTERNAL; residual and *report are then unspecified.
int sr_run(const struct sr_stack *stack, const struct sr_plane *planes, size_t n_planes,
           const struct sr_options *options, float *residual, struct sr_report *report,
           struct fault_note *why);

// Writes the start weights: network P0 with PyTorch's default initialisation from `seed`, last layer
// zero, so that the network's residual is exactly 0 (linear interpolation). Errors: IO, NO_SPACE.
int sr_write_start_weights(const char *path, uint64_t seed, struct fault_note *why);

#endif
