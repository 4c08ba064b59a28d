// SPDX-License-Identifier: Apache-2.0
//
// What a fine-tune costs in multiplications, and what follows from it: how often it looks at the held-out
// place and how large a part of the stack it estimates for its second round. Both would eat a short run, so
// either gets a share of what the steps cost. No measured time goes in: the same number of steps does the
// same wherever it is repeated. Not here: how many steps a time allows (finetune.h).

#ifndef ISOSLICE_SR_ENGINE_FINETUNE_COST_H
#define ISOSLICE_SR_ENGINE_FINETUNE_COST_H

#include "sr_engine/estimate.h"
#include "sr_engine/pairs.h"

enum {
    FINETUNE_CHECKS = 8,
    FINETUNE_BLENDS = 3,
    FINETUNE_SIDE = 176, // pixels of the part that is estimated, margins included
    FINETUNE_SIDE_LEAST = 112,
};

// Multiplications of forward and backward of a step, by round, and forward of one look at the held-out place.
struct finetune_cost {
    double first, second, check;
};

// What `n_steps` steps come with.
struct finetune_extras {
    int n_checks; // 1 to FINETUNE_CHECKS, evenly over the steps, the last one after the last step
    int n_blends; // FINETUNE_BLENDS where the looks' share allows all of them besides the checks, else 0
    int side;     // of the estimated part, FINETUNE_SIDE_LEAST to FINETUNE_SIDE pixels; smaller images whole
};

// `checks` [n_checks] are the held-out place along one axis each.
struct finetune_cost finetune_cost(const struct pairs *pairs, const struct pairs_check *checks, int n_checks);

// Looks may cost a quarter of what the steps do, the estimate half. `second_share`: of the steps in the
// second round.
struct finetune_extras finetune_extras(const struct pairs *pairs, struct finetune_cost cost,
                                       double second_share, int n_steps);

// The part of the stack with the most detail, at most `side` pixels wide and high with its margins.
struct estimate_part finetune_part(const struct pairs *pairs, int side);

// Multiplications of the estimate of that part.
double finetune_estimate_cost(const struct pairs *pairs, int side);

// Multiplications of the steps, without what they come with.
double finetune_steps_cost(struct finetune_cost cost, double second_share, int n_steps);

#endif
