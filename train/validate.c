// SPDX-License-Identifier: Apache-2.0
#include "train/validate.h"

#include "sr_engine/resample.h"
#include "train/percentile.h"
#include "train/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// One volume's middle, degraded.
struct check {
    int size[3]; // columns, rows, length
    int depth;   // retained slices, the first at VALIDATE_FACTOR
    size_t plane;
    float *truth, *stack, *residual, *linear;
    struct sr_plane *planes;
    size_t n_planes;
};

static void check_done(struct check *check)
{
    free(check->truth);
    free(check->stack);
    free(check->residual);
    free(check->linear);
    free(check->planes);
}

static int cut(struct check *check, const struct corpus_item *item, int crop, struct fault_note *why)
{
    int first[3];
    for (int i = 0; i < 3; i++) {
        check->size[i] = item->size[i] < crop ? item->size[i] : crop;
        first[i] = (item->size[i] - check->size[i]) / 2;
    }
    check->plane = (size_t)check->size[0] * (size_t)check->size[1];
    check->depth = (check->size[2] - 2 * VALIDATE_FACTOR - 1) / VALIDATE_FACTOR + 1;
    check->n_planes = (size_t)(check->depth - 1) * (VALIDATE_FACTOR - 1);
    check->truth = calloc((size_t)check->size[2] * check->plane, sizeof *check->truth);
    check->stack = calloc((size_t)check->depth * check->plane, sizeof *check->stack);
    check->residual = malloc(check->n_planes * check->plane * sizeof *check->residual);
    check->linear = malloc(check->plane * sizeof *check->linear);
    check->planes = malloc(check->n_planes * sizeof *check->planes);
    if (check->truth == NULL || check->stack == NULL || check->residual == NULL || check->linear == NULL ||
        check->planes == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory to validate on '%s'", item->name);
    float *to = check->truth;
    for (int z = first[2]; z < first[2] + check->size[2]; z++)
        for (int y = first[1]; y < first[1] + check->size[1]; y++) {
            const uint8_t *at =
                item->voxels + ((size_t)z * (size_t)item->size[1] + (size_t)y) * (size_t)item->size[0];
            for (int x = first[0]; x < first[0] + check->size[0]; x++)
                *to++ = (float)at[x] / 255.0F;
        }
    return 0;
}

static void degrade(struct check *check)
{
    struct profile profile;
    profile_init(&profile, PROFILE_GAUSS, VALIDATE_FACTOR, 0.5);
    for (int d = 0; d < check->depth; d++) {
        int centre = (d + 1) * VALIDATE_FACTOR;
        float *to = check->stack + (size_t)d * check->plane;
        double total = 0;
        for (int i = -profile.reach; i <= profile.reach; i++)
            if (centre + i >= 0 && centre + i < check->size[2])
                total += profile.weight[i + profile.reach];
        for (int i = -profile.reach; i <= profile.reach; i++) {
            if (centre + i < 0 || centre + i >= check->size[2])
                continue;
            float weight = (float)(profile.weight[i + profile.reach] / total);
            const float *from = check->truth + (size_t)(centre + i) * check->plane;
            for (size_t k = 0; k < check->plane; k++)
                to[k] += weight * from[k];
        }
    }
    size_t n = 0;
    for (int d = 0; d + 1 < check->depth; d++)
        for (int k = 1; k < VALIDATE_FACTOR; k++)
            check->planes[n++] = (struct sr_plane){d, (double)k / VALIDATE_FACTOR};
}

// Adds this volume's PSNR to both sums; reorders its truth.
static void score(struct check *check, struct validate_result *result)
{
    double network = 0, linear = 0;
    size_t count = check->n_planes * check->plane;
    for (size_t n = 0; n < check->n_planes; n++) {
        const struct sr_plane *plane = &check->planes[n];
        int at = (plane->slice + 1) * VALIDATE_FACTOR + (int)lrint(plane->t * VALIDATE_FACTOR);
        const float *truth = check->truth + (size_t)at * check->plane,
                    *r = check->residual + n * check->plane;
        resample_linear(check->stack, check->depth, check->plane, plane->slice, plane->t, check->linear);
        for (size_t i = 0; i < check->plane; i++) {
            double off = (double)check->linear[i] - (double)truth[i];
            linear += off * off;
            network += (off + (double)r[i]) * (off + (double)r[i]);
        }
    }
    double range = percentile_of(check->truth, (size_t)check->size[2] * check->plane, 99.9);
    result->network_db += 10 * log10(range * range * (double)count / fmax(network, 1e-12));
    result->linear_db += 10 * log10(range * range * (double)count / fmax(linear, 1e-12));
    result->n_volumes++;
}

static int validate_item(struct model *model, const struct corpus_item *item, int crop,
                         struct interpolate_limits *limits, struct validate_result *result,
                         struct fault_note *why)
{
    struct check check = {0};
    int rc = cut(&check, item, crop, why);
    if (rc == 0) {
        degrade(&check);
        rc = interpolate_planes(model, check.stack, check.depth, check.size[1], check.size[0], check.planes,
                                check.n_planes, limits, check.residual, why);
    }
    if (rc == 0)
        score(&check, result);
    check_done(&check);
    return rc;
}

int validate_run(struct model *model, const struct corpus *corpus, int crop,
                 struct interpolate_limits *limits, struct validate_result *result, struct fault_note *why)
{
    struct validate_result sum = {0};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < corpus->n_items; i++) {
        const struct corpus_item *item = &corpus->items[i];
        int length = item->size[2] < crop ? item->size[2] : crop;
        if (item->thick_axis < 0 && length >= 3 * VALIDATE_FACTOR + 1)
            rc = validate_item(model, item, crop, limits, &sum, why);
    }
    if (rc == 0 && sum.n_volumes == 0)
        rc = fault_set(why, FAULT_NOT_FOUND, "no volume to validate on is %d voxels long",
                       3 * VALIDATE_FACTOR + 1);
    if (rc != 0)
        return rc;
    sum.network_db /= sum.n_volumes;
    sum.linear_db /= sum.n_volumes;
    *result = sum;
    return 0;
}
