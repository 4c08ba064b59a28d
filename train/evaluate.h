// SPDX-License-Identifier: Apache-2.0
//
// Methods against truth: every method interpolates the same simulated stacks, every result is scored, and the
// numbers come out as tables and pictures. Not here: how a stack is simulated (simulate.h), what a score is
// (score.h).

#ifndef ISOSLICE_TRAIN_EVALUATE_H
#define ISOSLICE_TRAIN_EVALUATE_H

#include "core/fault.h"
#include "sr_engine/engine.h"
#include "train/score.h"
#include "train/simulate.h"

#include <stddef.h>

enum { EVALUATE_MAX_METHODS = 32 };

enum evaluate_kind {
    EVALUATE_LINEAR,
    EVALUATE_CUBIC,   // interpolating B-spline
    EVALUATE_LANCZOS, // sinc windowed by its own central lobe stretched to 3 slices
    EVALUATE_BASE,    // the network as its weights have it
    EVALUATE_TUNED,   // fine-tuned to the stack
    EVALUATE_FILE,    // the network with other weights
};

struct evaluate_method {
    enum evaluate_kind kind;
    char name[160];          // for tables
    char weights[4096];      // of FILE
    struct sr_recipe recipe; // of the network
};

// The method that `text` names: one of linear, cubic, lanczos, base, tuned, else a weights file; those of the
// network may be followed by ':' and a recipe (sr_recipe_set): "tuned:part=lora:rank=8". Errors: CONFIG for a
// recipe that is none, or of a method that has no use for it; USAGE for text that is too long.
int evaluate_method_of(const char *text, struct evaluate_method *method, struct fault_note *why);

// One case's numbers for one method.
struct evaluate_score {
    double values[SCORE_N];
    double seconds;
};

struct evaluate_case {
    char name[128];
    struct evaluate_score scores[EVALUATE_MAX_METHODS];
};

// All of it; caller's storage, cases owned by evaluate_done.
struct evaluation {
    struct simulate_recipe recipe;
    struct sr_options engine; // weights_path: of BASE and TUNED
    size_t n_methods;
    struct evaluate_method methods[EVALUATE_MAX_METHODS];
    size_t n_cases;
    struct evaluate_case *cases;
};

void evaluate_done(struct evaluation *evaluation);

// Result of one method on a case: result [truth_depth,H,W] in stored values. Errors: those of sr_run,
// NO_MEMORY.
int evaluate_interpolate(const struct evaluation *evaluation, const struct evaluate_method *method,
                         const struct simulate_case *input, float *result, struct fault_note *why);

// Simulates, interpolates and scores a volume with every method and adds it to the cases as `name`. A picture
// of the middle cross plane, truth and all methods and their errors, goes to `picture` (NULL: none). Errors:
// those of the parts.
int evaluate_volume(struct evaluation *evaluation, const struct volume *volume, const char *name,
                    const char *picture, struct fault_note *why);

// Mean and standard deviation (n - 1) of a score over the cases that have it.
void evaluate_mean(const struct evaluation *evaluation, size_t method, enum score_kind kind, double *mean,
                   double *deviation);

// The tables. Errors: IO, NO_SPACE, NO_MEMORY.
int evaluate_write_markdown(const struct evaluation *evaluation, const char *path, struct fault_note *why);
int evaluate_write_json(const struct evaluation *evaluation, const char *path, struct fault_note *why);

#endif
