// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/square.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

static const double STEP_TOLERANCE = 1e-4; // of a step: spacings are rounded decimal texts

int square_size(int n, double coarse_mm, double fine_mm)
{
    return (int)floor((n - 1) * coarse_mm / fine_mm + STEP_TOLERANCE) + 1;
}

// Coefficients of the spline through line[0 .. n), in place: (c[i-1] + 4 c[i] + c[i+1]) / 6 = line[i] with
// c[-1] = c[1] and c[n] = c[n-2]. `above` is scratch [n].
static void to_coefficients(double *line, int n, double *above)
{
    if (n < 2)
        return;
    above[0] = 0.5;
    line[0] *= 1.5;
    for (int i = 1; i < n; i++) {
        double below = i == n - 1 ? 2 : 1, pivot = 4 - below * above[i - 1];
        above[i] = 1 / pivot;
        line[i] = (6 * line[i] - below * line[i - 1]) / pivot;
    }
    for (int i = n - 2; i >= 0; i--)
        line[i] -= above[i] * line[i + 1];
}

static double spline_at(const double *c, int n, double at)
{
    int i = (int)floor(at);
    if (i >= n - 1)
        i = n - 2;
    double t = at - i, u = 1 - t;
    double before = c[i > 0 ? i - 1 : 1], after = c[i + 2 < n ? i + 2 : n - 2];
    return (u * u * u * before + (3 * t * t * t - 6 * t * t + 4) * c[i] +
            (3 * u * u * u - 6 * u * u + 4) * c[i + 1] + t * t * t * after) /
           6;
}

int square_resample(const float *in, int height, int width, enum square_axis axis, int n, double step,
                    float *out, struct fault_note *why)
{
    int is_rows = axis == SQUARE_ROWS;
    int n_lines = is_rows ? width : height, n_old = is_rows ? height : width;
    // from one sample of a line to the next, and from one line to the next
    size_t along = is_rows ? (size_t)width : 1, across = is_rows ? 1 : (size_t)width;
    size_t out_across = is_rows ? 1 : (size_t)n;
    double *line = calloc(2 * (size_t)n_old, sizeof *line);
    if (line == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold a line of %d pixels", n_old);
    float least = in[0], most = in[0];
    for (size_t i = 0; i < (size_t)height * (size_t)width; i++) {
        least = fminf(least, in[i]);
        most = fmaxf(most, in[i]);
    }
    for (int l = 0; l < n_lines; l++) {
        for (int i = 0; i < n_old; i++)
            line[i] = in[(size_t)l * across + (size_t)i * along];
        to_coefficients(line, n_old, line + n_old);
        for (int k = 0; k < n; k++) {
            double value = n_old > 1 ? spline_at(line, n_old, fmin(k * step, n_old - 1)) : line[0];
            out[(size_t)l * out_across + (size_t)k * along] = (float)fmin(most, fmax(least, value));
        }
    }
    free(line);
    return 0;
}
