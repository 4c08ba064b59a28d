// SPDX-License-Identifier: Apache-2.0
#include "train/simulate.h"

#include "sr_engine/random.h"
#include "train/percentile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RANDOM_NOISE = 19, MAX_STORED = 4095 };

struct grid {
    int axis[3]; // of the file: slices, rows, columns
    int first[3], size[3];
    ptrdiff_t stride[3];
};

static void lay_grid(const struct volume *volume, const struct simulate_recipe *recipe, struct grid *grid)
{
    const ptrdiff_t strides[] = {1, volume->size[0], (ptrdiff_t)volume->size[0] * volume->size[1]};
    grid->axis[0] = recipe->axis;
    grid->axis[2] = recipe->axis == 0 ? 1 : 0;
    grid->axis[1] = 3 - grid->axis[0] - grid->axis[2];
    for (int i = 0; i < 3; i++) {
        int axis = grid->axis[i], last = recipe->last[axis], size = volume->size[axis];
        last = last <= 0 || last > size ? size : last;
        grid->first[i] = recipe->first[axis] < last ? recipe->first[axis] : last;
        grid->size[i] = last - grid->first[i];
        grid->stride[i] = strides[axis];
    }
}

// The used part as [D,H,W], least value 0, SIMULATE_BRIGHT at the 99.95th percentile.
static float *take_part(const struct volume *volume, const struct grid *grid)
{
    size_t n = (size_t)grid->size[0] * (size_t)grid->size[1] * (size_t)grid->size[2], i = 0;
    float *part = calloc(n + 1, sizeof *part), *copy = calloc(n + 1, sizeof *copy), low = HUGE_VALF;
    if (part == NULL || copy == NULL) {
        free(part);
        free(copy);
        return NULL;
    }
    for (int z = 0; z < grid->size[0]; z++)
        for (int y = 0; y < grid->size[1]; y++)
            for (int x = 0; x < grid->size[2]; x++, i++) {
                part[i] = volume->voxels[(grid->first[0] + z) * grid->stride[0] +
                                         (grid->first[1] + y) * grid->stride[1] +
                                         (grid->first[2] + x) * grid->stride[2]];
                low = part[i] < low ? part[i] : low;
            }
    for (i = 0; i < n; i++)
        copy[i] = part[i] -= low;
    float scale = (float)(SIMULATE_BRIGHT / fmax(percentile_of(copy, n, 99.95), 1e-6));
    free(copy);
    for (i = 0; i < n; i++)
        part[i] *= scale;
    return part;
}

static double normal(struct random_stream *stream)
{
    double u = 1 - random_unit(stream), v = random_unit(stream);
    return sqrt(-2 * log(u)) * cos(2 * acos(-1) * v);
}

static void acquire(const float *part, int length, const struct simulate_recipe *recipe,
                    struct simulate_case *out)
{
    struct profile profile;
    size_t plane = (size_t)out->height * (size_t)out->width;
    struct random_stream stream = random_open(recipe->seed, RANDOM_NOISE, 0);
    // every tap up to 3 sigma rounded up
    profile_init(&profile, recipe->profile, recipe->factor * (1 - recipe->gap), 1 - 1e-9);
    for (int d = 0; d < out->depth; d++) {
        int centre = recipe->factor / 2 + d * recipe->factor;
        int from = centre < profile.reach ? -centre : -profile.reach;
        int to = length - 1 - centre < profile.reach ? length - 1 - centre : profile.reach;
        double total = 0;
        for (int i = from; i <= to; i++)
            total += profile.weight[i + profile.reach];
        for (size_t k = 0; k < plane; k++) {
            double sum = 0;
            for (int i = from; i <= to; i++)
                sum += profile.weight[i + profile.reach] * (double)part[(size_t)(centre + i) * plane + k];
            double value = sum / total;
            if (recipe->noise > 0)
                value += recipe->noise * SIMULATE_BRIGHT * normal(&stream);
            out->stack[(size_t)d * plane + k] = (float)fmin(MAX_STORED, fmax(0, rint(value)));
        }
    }
}

int simulate_run(const struct volume *volume, const struct simulate_recipe *recipe, struct simulate_case *out,
                 struct fault_note *why)
{
    struct grid grid;
    int first = recipe->factor / 2, rc = 0;
    memset(out, 0, sizeof *out);
    lay_grid(volume, recipe, &grid);
    out->depth = grid.size[0] > first ? (grid.size[0] - 1 - first) / recipe->factor + 1 : 0;
    if (out->depth < 3 || grid.size[1] < 8 || grid.size[2] < 8)
        return fault_set(why, FAULT_NOTHING_TO_DO, "%d x %d x %d voxels give %d slices, which is too few",
                         grid.size[0], grid.size[1], grid.size[2], out->depth);
    out->truth_depth = (out->depth - 1) * recipe->factor + 1;
    out->height = grid.size[1];
    out->width = grid.size[2];
    for (int i = 0; i < 3; i++)
        out->spacing_mm[i] = volume->spacing_mm[grid.axis[i]];
    size_t plane = (size_t)out->height * (size_t)out->width, n = (size_t)out->truth_depth * plane;
    float *part = take_part(volume, &grid);
    out->stack = malloc((size_t)out->depth * plane * sizeof *out->stack);
    out->truth = malloc(n * sizeof *out->truth);
    if (part == NULL || out->stack == NULL || out->truth == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for a case of %zu voxels", n);
        simulate_done(out);
    } else {
        memcpy(out->truth, part + (size_t)first * plane, n * sizeof *part);
        acquire(part, grid.size[0], recipe, out);
    }
    free(part);
    return rc;
}

void simulate_done(struct simulate_case *out)
{
    free(out->stack);
    free(out->truth);
    out->stack = out->truth = NULL;
}
