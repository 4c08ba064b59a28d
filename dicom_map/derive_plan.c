// SPDX-License-Identifier: Apache-2.0
//
// Where the planes of a derived series lie (derive_plan of derive.h).
#include "dicom_map/derive.h"

#include "dicom_map/source_parts.h"

#include <math.h>
#include <stdlib.h>

static const double STEP_TOLERANCE = 1e-4; // of a step: positions are rounded decimal texts
static const double RECUR_TOLERANCE =
    1e-3; // of a step: what vendors' positions are off where planes are to recur
static const double MIN_STEP_MM = 0.05;

static int choose_step(const struct source_item *item, const double *z_mm, enum derive_spacing mode,
                       double mm, double *step, struct fault_note *why)
{
    double pixel = fmin(item->row_mm, item->column_mm);
    *step = pixel;
    if (mode == DERIVE_MM)
        *step = mm;
    if (mode == DERIVE_RECUR) {
        double mean = (z_mm[item->depth - 1] - z_mm[0]) / (item->depth - 1);
        *step = mean / fmax(1, round(mean / pixel));
    }
    if (!(*step >= MIN_STEP_MM))
        return fault_set(why, FAULT_USAGE, "a slice spacing of %g mm is less than %g mm", *step, MIN_STEP_MM);
    if (mode == DERIVE_MM && *step > item->slice_mm * (1 + STEP_TOLERANCE))
        return fault_set(why, FAULT_NOTHING_TO_DO,
                         "the slices are %.3f mm apart, closer than the spacing asked for, %g mm",
                         item->slice_mm, *step);
    return 0;
}

int derive_plan(const struct source *source, size_t item, enum derive_spacing mode, double mm,
                struct derive_plane **planes, size_t *n_planes, double *step_mm, struct fault_note *why)
{
    const struct source_item *stack = source_item(source, item);
    if (stack == NULL || stack->verdict != FAULT_OK)
        return fault_set(why, FAULT_INTERNAL, "item %zu is not a stack", item);
    const double *z_mm = stack->z_mm;
    double step = 0;
    int rc = choose_step(stack, z_mm, mode, mm, &step, why);
    if (rc != 0)
        return rc;
    double count = floor((z_mm[stack->depth - 1] - z_mm[0]) / step + STEP_TOLERANCE) + 1;
    if (count > DERIVE_MAX_PLANES)
        return fault_set(why, FAULT_TOO_MANY_PLANES, "%.0f planes of %.3f mm, at most %d", count, step,
                         DERIVE_MAX_PLANES);
    size_t n = (size_t)count;
    struct derive_plane *plan = calloc(n, sizeof *plan);
    if (plan == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold %zu planes", n);
    double snap = step * (mode == DERIVE_RECUR ? RECUR_TOLERANCE : STEP_TOLERANCE);
    int below = 0;
    for (size_t k = 0; k < n; k++) {
        double z = z_mm[0] + (double)k * step;
        while (below + 1 < stack->depth && z >= z_mm[below + 1] - snap)
            below++;
        struct derive_plane *plane = &plan[k];
        plane->slice = below;
        plane->t = 0;
        plane->z_mm = z - z_mm[0];
        const double *from = source_slice(source, item, (size_t)below)->position;
        if (z - z_mm[below] > snap && below + 1 < stack->depth)
            plane->t = (z - z_mm[below]) / (z_mm[below + 1] - z_mm[below]);
        const double *to = plane->t > 0 ? source_slice(source, item, (size_t)below + 1)->position : from;
        for (int axis = 0; axis < 3; axis++)
            plane->position[axis] = from[axis] + plane->t * (to[axis] - from[axis]);
    }
    *planes = plan;
    *n_planes = n;
    *step_mm = step;
    return 0;
}
