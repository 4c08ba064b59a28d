// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/finetune_cost.h"

#include <math.h>

enum { SIDE_STEP = 16 };
static const double looks_share = 0.25, estimate_share = 0.5;
// Multiplications of a voxel in the encoder and of a query in the decoder. Source: model.md section 3.
static const double voxel_cost = 1881792, query_cost = 238080;

static double cost_of(double voxels, double queries)
{
    return voxels * voxel_cost + queries * query_cost;
}

struct finetune_cost finetune_cost(const struct pairs *pairs, const struct pairs_check *checks, int n_checks)
{
    const struct sr_recipe *recipe = &pairs->recipe;
    double sample = (double)recipe->batch * pairs->rows * pairs->columns;
    double first = 3 * cost_of(sample * pairs->slices, sample * (pairs->slices - 1) * recipe->targets);
    double rows = fmin(PAIRS_WIDTH, estimate_depth(pairs, pairs->depth));
    struct finetune_cost cost = {first, first * fmax(1, rows / pairs->rows), 0};
    for (int i = 0; i < n_checks; i++) {
        double plane = (double)checks[i].rows * checks[i].columns;
        cost.check += cost_of(plane * checks[i].depth, plane * (double)checks[i].n_planes);
    }
    return cost;
}

double finetune_steps_cost(struct finetune_cost cost, double second_share, int n_steps)
{
    return n_steps * ((1 - second_share) * cost.first + second_share * cost.second);
}

static int seen_side(int image, int side)
{
    return image < side ? image : side;
}

double finetune_estimate_cost(const struct pairs *pairs, int side)
{
    double pixels = (double)seen_side(pairs->height, side) * seen_side(pairs->width, side);
    return cost_of(pixels * pairs->depth, pixels * estimate_depth(pairs, pairs->depth));
}

struct finetune_extras finetune_extras(const struct pairs *pairs, struct finetune_cost cost,
                                       double second_share, int n_steps)
{
    struct finetune_extras extras = {FINETUNE_CHECKS, 0, FINETUNE_SIDE};
    double steps = finetune_steps_cost(cost, second_share, n_steps);
    double looks = cost.check > 0 ? steps * looks_share / cost.check : HUGE_VAL;
    if (looks < FINETUNE_CHECKS)
        extras.n_checks = looks < 1 ? 1 : (int)looks;
    if (looks >= FINETUNE_CHECKS + FINETUNE_BLENDS)
        extras.n_blends = FINETUNE_BLENDS;
    while (extras.side > FINETUNE_SIDE_LEAST &&
           finetune_estimate_cost(pairs, extras.side) > estimate_share * steps)
        extras.side -= SIDE_STEP;
    return extras;
}

// One axis: where the border is not the image's own, a margin is seen but not used.
static void trim(int whole, int *first, int *size)
{
    int before = *first > 0 ? ESTIMATE_MARGIN : 0, after = *first + *size < whole ? ESTIMATE_MARGIN : 0;
    *first += before;
    *size -= before + after;
}

struct estimate_part finetune_part(const struct pairs *pairs, int side)
{
    struct estimate_part part = {.slices = pairs->depth,
                                 .rows = seen_side(pairs->height, side),
                                 .columns = seen_side(pairs->width, side)};
    pairs_find_window(pairs, part.rows, part.columns, &part.row, &part.column);
    trim(pairs->height, &part.row, &part.rows);
    trim(pairs->width, &part.column, &part.columns);
    return part;
}
