// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/estimate.h"

#include <stdlib.h>
#include <string.h>

enum {
    SLICE_MARGIN = 2, // slices beside a part that are seen with it
    DENSE_ROWS = 64,  // of a place's estimate, at most
};

int estimate_depth(const struct pairs *pairs, int slices)
{
    return (slices - 1) * pairs->factor[1] + 1;
}

// [*first, *first + *n) grown by `margin` on either side, inside [0, whole).
static void grow(int margin, int whole, int *first, int *n)
{
    int end = *first + *n + margin;
    *first = *first > margin ? *first - margin : 0;
    *n = (end < whole ? end : whole) - *first;
}

static struct estimate_part seen_with(const struct pairs *pairs, struct estimate_part part)
{
    grow(SLICE_MARGIN, pairs->depth, &part.slice, &part.slices);
    grow(ESTIMATE_MARGIN, pairs->height, &part.row, &part.rows);
    grow(ESTIMATE_MARGIN, pairs->width, &part.column, &part.columns);
    return part;
}

// Linear interpolation plus what the network adds, clipped, of plane k of the part.
static void finish_plane(const struct pairs *pairs, const struct estimate_part *seen,
                         const struct estimate_part *part, int k, const float *stack, const float *residual,
                         float *to)
{
    size_t plane = (size_t)seen->rows * (size_t)seen->columns;
    int slice = part->slice - seen->slice + k / pairs->factor[1];
    double t = (double)(k % pairs->factor[1]) / pairs->factor[1];
    const float *low = stack + (size_t)slice * plane, *high = slice + 1 < seen->slices ? low + plane : low;
    for (int row = 0; row < part->rows; row++)
        for (int column = 0; column < part->columns; column++) {
            size_t at = (size_t)(part->row - seen->row + row) * (size_t)seen->columns +
                        (size_t)(part->column - seen->column + column);
            double value = (1 - t) * (double)low[at] + t * (double)high[at] + (double)residual[at];
            *to++ = (float)(value < 0 ? 0 : value > 1 ? 1 : value);
        }
}

int estimate_make(struct model *model, const struct pairs *pairs, struct estimate_part part,
                  struct interpolate_limits *limits, float *to, struct fault_note *why)
{
    struct estimate_part seen = seen_with(pairs, part);
    int factor = pairs->factor[1], n = estimate_depth(pairs, part.slices);
    size_t plane = (size_t)seen.rows * (size_t)seen.columns;
    size_t used = (size_t)part.rows * (size_t)part.columns;
    float *stack = malloc((size_t)seen.slices * plane * sizeof *stack);
    float *residual = malloc((size_t)n * plane * sizeof *residual);
    struct sr_plane *planes = malloc((size_t)n * sizeof *planes);
    int rc = 0;
    if (stack == NULL || residual == NULL || planes == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for an estimate of %d planes", n);
        goto out;
    }
    for (int z = 0; z < seen.slices; z++)
        pairs_copy_window(pairs, seen.slice + z, seen.row, seen.column, seen.rows, seen.columns,
                          stack + (size_t)z * plane);
    for (int k = 0; k < n; k++)
        planes[k] = (struct sr_plane){part.slice - seen.slice + k / factor, (double)(k % factor) / factor};
    rc = interpolate_planes(model, stack, seen.slices, seen.rows, seen.columns, planes, (size_t)n, limits,
                            residual, why);
    for (int k = 0; rc == 0 && k < n; k++)
        finish_plane(pairs, &seen, &part, k, stack, residual + (size_t)k * plane, to + (size_t)k * used);
out:
    free(planes);
    free(residual);
    free(stack);
    return rc;
}

// What the checks of a place look at, in as many slices from the middle as DENSE_ROWS rows hold.
static struct estimate_part around(const struct pairs *pairs, int place)
{
    struct pairs_place held = pairs->places[place];
    int margin = pairs_reach(pairs), slices = (DENSE_ROWS - 1) / pairs->factor[1] + 1;
    slices = slices < 2 ? 2 : slices;
    slices = slices < pairs->depth ? slices : pairs->depth;
    struct estimate_part part = {
        (pairs->depth - slices) / 2, held.row, held.column, slices, held.rows, held.columns};
    grow(margin, pairs->height, &part.row, &part.rows);
    grow(margin, pairs->width, &part.column, &part.columns);
    return part;
}

int estimate_places(struct model *model, struct pairs *pairs, const struct interpolate_limits *limits,
                    struct fault_note *why)
{
    struct interpolate_limits silent = *limits;
    int rc = 0;
    silent.progress = NULL;
    for (int place = 0; rc == 0 && place < pairs->n_places; place++) {
        struct estimate_part part = around(pairs, place);
        int depth = estimate_depth(pairs, part.slices);
        float *voxels = malloc((size_t)depth * (size_t)part.rows * (size_t)part.columns * sizeof *voxels);
        if (voxels == NULL)
            return fault_set(why, FAULT_NO_MEMORY, "no memory for an estimate of %d planes", depth);
        rc = estimate_make(model, pairs, part, &silent, voxels, why);
        if (rc == 0)
            rc = pairs_set_dense(pairs, place, voxels, depth, part.row, part.column, part.rows, part.columns,
                                 why);
        else
            free(voxels);
    }
    return rc;
}
