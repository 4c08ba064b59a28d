// SPDX-License-Identifier: Apache-2.0
//
// Stage 3 as a run of its own: the fine-tune that the worker does (sr_engine/finetune.h), with checkpoints, a
// log and a picture of it, and the tuned weights as a file. Not here: where the stack comes from.
//
// A folder of a run: weights.safetensors (the best so far, for use), raw.safetensors, the optimiser's
// moments, state (the point of commitment), log.csv, loss.png.

#ifndef ISOSLICE_TRAIN_SUBJECT_H
#define ISOSLICE_TRAIN_SUBJECT_H

#include "core/fault.h"
#include "sr_engine/engine.h"

struct subject_job {
    const struct sr_stack *stack; // borrowed, as all of it
    const struct sr_options
        *options;         // backend, weights_path, recipe, steps or budget_s, seed, threads, progress ...
    const char *out;      // folder
    double every_minutes; // between checkpoints
    int every_steps;      // between checkpoints; 0: by the clock
    int log_steps;        // between rows of the log
};

// What came of it. PSNR in dB on the held-out place, over the stack's range [0,1]; NaN where nothing could be
// held out.
struct subject_report {
    char backend[64];
    int n_steps, step, resumed_at, step_best; // resumed_at 0: begun now
    double share_best;                        // see struct sr_report
    double minutes, loss;                     // of all sittings; of the last row of the log
    double linear_db, start_db, best_db;      // linear interpolation, the weights before and the best ones
};

// Runs until the end or until options->progress asks to stop; saves either way. Errors: CANCELLED after
// saving; NOTHING_TO_DO when the stack is constant, no pair can be cut from it or the budget allows no step;
// CONFIG when the folder holds a run of something else; those of the engine.
int subject_run(const struct subject_job *job, struct subject_report *report, struct fault_note *why);

#endif
