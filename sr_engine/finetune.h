// SPDX-License-Identifier: Apache-2.0
//
// Stage 3: adapts the network to one subject on in-plane pairs of its own stack: Adam from fresh moments, L1,
// warm-up and cosine decay; the last weights are kept unless others, those of the file included, do better on
// held-out places by more than a tenth of a decibel.
// What is trained and on which pairs is the recipe's. Not here: what the numbers mean for the result
// (quality.h). Source: model.md sections 4 to 6.
//
// One run is open, plan, begin, step n_steps times, end, close; finetune_run() does it all. Between steps it
// can be saved, and a run that is loaded goes on to the same bits.

#ifndef ISOSLICE_SR_ENGINE_FINETUNE_H
#define ISOSLICE_SR_ENGINE_FINETUNE_H

#include "core/fault.h"
#include "sr_engine/engine.h"
#include "sr_engine/finetune_cost.h"
#include "sr_engine/interpolate.h"
#include "sr_engine/lora.h"
#include "sr_engine/model.h"
#include "sr_engine/pairs.h"

// The second round: an estimate of the stack at isotropic spacing, made by the weights `maker`, from which
// pairs are cut as from the stack itself.
struct finetune_estimate {
    float *maker;       // [n_parameters]; NULL before the round begins
    float *voxels;      // [depth,rows,columns]
    struct pairs pairs; //
    struct sr_buffer *volume;
    struct trainer trainer; // beside the first round's
};

// A run; caller's storage. Fields are for reading.
struct finetune {
    struct model *model; // borrowed, as all pointers to here are
    const struct pairs *pairs;
    const struct sr_options *options;
    struct sr_report *report;
    struct sr_recipe recipe;
    struct sr_recipe use;             // of the network in checks and estimates
    struct interpolate_limits limits; // silent: a check is too short to be reported
    int n_steps, step;                // planned, taken
    struct finetune_cost cost;
    struct finetune_extras extras; // of n_steps, from begin on
    int first_step;                // the first of this sitting
    int round_start;               // the step at which the second round begins; n_steps: there is none
    double best_error, last_error; // mean squared error on the held-out places
    float *best;                   // [n_parameters] the weights that did best
    float *origin;                 // [n_parameters] those it began with
    // its own
    struct pairs_check checks[2]; // the first place, along both axes
    int n_checks, is_woken;
    double seconds_check;
    struct sr_buffer *volume;
    struct trainer trainer;
    struct finetune_estimate estimate;
    struct sr_buffer *averaged, *spare; // NULL: the recipe does not average
    struct lora lora;
    float *host; // [n_parameters]
    uint64_t source,
        start; // fingerprints of stack and start weights, so that a checkpoint is not taken for another's
};

// Opens a run and checks the weights that `model` holds. `pairs` was planned, its slices not 0. Fills the
// fine-tune's fields of `report` as it goes. Errors: NO_MEMORY, DEVICE, NOT_FINITE; CONFIG for corrections of
// low rank to weights that were never trained. close it in any case.
int finetune_open(struct finetune *run, struct model *model, const struct pairs *pairs,
                  const struct sr_options *options, const struct interpolate_limits *limits,
                  struct sr_report *report, struct fault_note *why);
void finetune_close(struct finetune *run);

// Decides on n_steps: options->steps > 0: as many, SR_NO_STEPS: none; else as many as `seconds` allow by the
// measured time of a step, checks and second round included, at most SR_PLANNED_STEPS; perhaps 0.
int finetune_plan(struct finetune *run, double seconds, struct fault_note *why);
// Gets ready for n_steps steps, at most 100,000.
int finetune_begin(struct finetune *run, struct fault_note *why);
// One step, and the check that may be due after it (finetune_cost.h); after the last one its
// weights are kept unless others did better by more than 0.1 dB; then weights between the first and the last
// are tried, too, where the recipe says so and the run is long enough. Errors: those of the ops, NOT_FINITE.
int finetune_step(struct finetune *run, struct fault_note *why);
// Mean L1 of steps `from` (counted from 0) to before `to`, all of this sitting. Errors: DEVICE, NO_MEMORY.
int finetune_loss(struct finetune *run, int from, int to, double *loss, struct fault_note *why);
// The learning rate of a step, counted from 0.
double finetune_rate(const struct finetune *run, int step);
// Leaves the best weights in the model.
int finetune_end(struct finetune *run, struct fault_note *why);

// Writes and reads a checkpoint, see checkpoint.h; `weights` in it are the best. save: after begin. load: in
// place of plan and begin; *found is 0 when there is none. Errors: IO, NO_SPACE, NO_MEMORY, WEIGHTS,
// BAD_HEADER; CONFIG when it is of another stack, start, seed, recipe or number of steps.
int finetune_save(struct finetune *run, const char *directory, double minutes, struct fault_note *why);
int finetune_load(struct finetune *run, const char *directory, int *found, double *minutes,
                  struct fault_note *why);

// The whole run. Where no pair can be cut, or the budget allows no step, steps_done is 0 and the model is as
// it was. Errors: NO_MEMORY, DEVICE, NOT_FINITE, CONFIG, CANCELLED.
int finetune_run(struct model *model, const struct pairs *pairs, const struct sr_options *options,
                 struct interpolate_limits *limits, struct sr_report *report, struct fault_note *why);

#endif
