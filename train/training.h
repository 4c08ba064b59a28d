// SPDX-License-Identifier: Apache-2.0
//
// Stages 1 and 2: Adam on L1 with warm-up and cosine decay, averaged weights, checkpoints that survive a kill
// at any moment and are taken up exactly. Not here: samples (sample.h), stage 3 (sr_engine/finetune.h).
//
// A folder of a run: weights.safetensors (averaged, for use), raw.safetensors, adam_m.safetensors,
// adam_v.safetensors, state (stage, step, minutes, seed: the point of commitment), log.csv, loss.png. Batches
// are a function of seed and step, so the step is all the state that the random numbers have.

#ifndef ISOSLICE_TRAIN_TRAINING_H
#define ISOSLICE_TRAIN_TRAINING_H

#include "core/fault.h"
#include "core/progress.h"
#include "sr_engine/model.h"
#include "train/corpus.h"
#include "train/history.h"
#include "train/sample.h"

#include <stdint.h>

// How a run learns; training_default() has the values of the paper's set-up as far as it is known.
struct training_recipe {
    double rate;      // highest learning rate
    double rate_end;  // last learning rate, as a share of the highest
    double beta2;     // decay of Adam's second moment
    double clip_norm; // gradients longer than this are shortened to it; 0: never
    double average;   // highest decay of the averaged weights; step s uses at most s / (s + 50)
    int warm_up;      // steps of rising rate
};

struct training_recipe training_default(void);

// The rate of step `step` (from 0) when `gone` of the run is behind it.
double training_rate(const struct training_recipe *recipe, long step, double gone);

// Network, optimiser and averaged weights; caller's storage, zeroed before.
struct training {
    struct model model;
    struct training_recipe recipe;
    int slices, batch;
    struct trainer whole, planar; // two shapes of batch; the second borrows the first's optimiser
    int n_threads;                //
    long step;                    // optimiser steps taken
    float *raw, *averaged;        // [n_parameters]
    float *scratch;               // [n_parameters]
};

// Opens the backend for batches of at most the shape that `sample` has, parameters zero. Errors: those of
// ops_find, model_open, trainer_open.
int training_open(struct training *training, const char *backend, int threads, struct net_config config,
                  const struct sample_recipe *sample, const struct training_recipe *recipe,
                  struct fault_note *why);
void training_close(struct training *training);

// Random start as in the reference trainer: PyTorch's defaults, the last layer a tenth of its, without bias,
// so that the start is near linear interpolation. parameters [n_parameters].
void training_start_weights(const struct net *net, uint64_t seed, float *parameters);
// Weights to begin with; averaged weights and optimiser start afresh.
int training_set_weights(struct training *training, const float *parameters, struct fault_note *why);

// One step on `batch` at learning rate `rate`; *loss is its mean L1 before the update. Errors: NOT_FINITE,
// those of the ops.
int training_step(struct training *training, const struct sample_batch *batch, double rate, double *loss,
                  struct fault_note *why);

// Writes and reads a checkpoint in `directory`: it is the old one or the new one, never a mixture, whenever
// the process dies. `minutes` and `seed` are kept with it. load: *found is 0 when there is none. Errors: IO,
// NO_SPACE; WEIGHTS and BAD_HEADER for a damaged one; CONFIG for one of another stage.
int training_save(struct training *training, const char *directory, const char *stage, double minutes,
                  uint64_t seed, struct fault_note *why);
int training_load(struct training *training, const char *directory, const char *stage, int *found,
                  double *minutes, uint64_t *seed, struct fault_note *why);

// A whole run.
struct training_job {
    const char *stage;             // "video" or "mr"
    const char *out;               // folder
    const char *init;              // weights file to begin with; NULL: random
    int plain_start;               // the random start of training_start_weights, not one that learns at once
    const char *backend;           // as for ops_find
    int threads;                   //
    struct net_config config;      //
    struct sample_recipe sample;   // its seed is also that of the start weights
    struct training_recipe recipe; //
    long steps;                    // 0: as many as `minutes` allows
    double minutes;                // wall clock of all sittings together, when steps == 0
    double every_minutes;          // between checkpoints
    long every_steps;              // between checkpoints; 0: by the clock
    long log_steps;                // between rows of the log
    int validate_crop;             // voxels
    const struct corpus *corpus;   //
    const struct corpus *validation; // NULL: none
    progress_fn progress;            // may be NULL
    void *progress_user;
};

// What came of it.
struct training_report {
    char backend[64];
    long step, resumed_at; // 0: begun now
    double minutes, loss;  // loss: of the last row of the log
    int validated;
    double network_db, linear_db;             // at the end
    double start_network_db, start_linear_db; // before this sitting's first step
};

// Runs until the end or until `progress` asks to stop; saves either way. Errors: CANCELLED after saving;
// CONFIG when the folder holds a run of another stage or seed; those of all the parts.
int training_run(const struct training_job *job, struct training_report *report, struct fault_note *why);

#endif
