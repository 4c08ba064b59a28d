// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/resample.h"

#include <stdlib.h>

void resample_linear(const float *voxels, int depth, size_t plane_size, int slice, double t, float *out)
{
    const float *a = voxels + (size_t)slice * plane_size;
    const float *b = voxels + (size_t)(slice + 1 < depth ? slice + 1 : slice) * plane_size;
    for (size_t i = 0; i < plane_size; i++)
        out[i] = (float)((1 - t) * (double)a[i] + t * (double)b[i]);
}

// Rows of the system: c[i-1] + 4 c[i] + c[i+1] = 6 f[i], with c[-1] = c[1] and c[depth] = c[depth-2].
int resample_cubic_prepare(const float *voxels, int depth, size_t plane_size, double *coefficients,
                           struct fault_note *why)
{
    double *ratio = malloc((size_t)depth * sizeof *ratio);
    if (ratio == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for spline coefficients of %d slices", depth);
    for (int k = 0; k < depth; k++) {
        double below = k == 0 ? 0 : k == depth - 1 ? 2 : 1, above = k == 0 ? 2 : 1;
        double pivot = 4 - below * (k == 0 ? 0 : ratio[k - 1]);
        ratio[k] = above / pivot;
        double *c = coefficients + (size_t)k * plane_size;
        const float *f = voxels + (size_t)k * plane_size;
        for (size_t i = 0; i < plane_size; i++)
            c[i] = (6 * (double)f[i] - (k == 0 ? 0 : below * (c - plane_size)[i])) / pivot;
    }
    for (int k = depth - 2; k >= 0; k--) {
        double *c = coefficients + (size_t)k * plane_size;
        for (size_t i = 0; i < plane_size; i++)
            c[i] -= ratio[k] * c[plane_size + i];
    }
    free(ratio);
    return 0;
}

static int mirror(int i, int n)
{
    i = i < 0 ? -i : i;
    return i >= n ? 2 * (n - 1) - i : i;
}

void resample_cubic(const double *coefficients, int depth, size_t plane_size, int slice, double t,
                    double *out)
{
    double u = 1 - t;
    const double weight[4] = {u * u * u / 6, (4 - 6 * t * t + 3 * t * t * t) / 6,
                              (4 - 6 * u * u + 3 * u * u * u) / 6, t * t * t / 6};
    const double *c[4];
    for (int k = 0; k < 4; k++)
        c[k] = coefficients + (size_t)mirror(slice - 1 + k, depth) * plane_size;
    for (size_t i = 0; i < plane_size; i++)
        out[i] = weight[0] * c[0][i] + weight[1] * c[1][i] + weight[2] * c[2][i] + weight[3] * c[3][i];
}
