// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/consistency.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 256, // pixels at a time: all slices' sums of them stay in the cache
    MOST_DETAILS = 1 << 17,
};

// Two planes of one place, such as acquired slices that are asked for twice, give A A^T no new rank; this
// much on its diagonal keeps it invertible and changes no digit that is delivered.
static const double diagonal = 1e-9;
static const double foreground = 0.05;      // of the largest value: less is background
static const double normal_median = 1.4826; // standard deviation by median size of a normal variable
// Of a slice's profile, what must lie between the first plane and the last. The rest was measured where no
// plane is: weights over less would have to make up for it, with twice the noise at half a profile.
static const double least_inside = 0.9;

struct projector {
    int depth; // of the stack
    int n_rows;
    size_t n_planes;
    int *slice;       // [n_rows] the slice that a row is of
    float *weights;   // [n_rows,n_planes] A
    double *cholesky; // [n_rows,n_rows] lower triangle of A A^T
};

static void projector_close(struct projector *a)
{
    free(a->slice);
    free(a->weights);
    free(a->cholesky);
}

// The part of a Gaussian profile around `centre` that lies between the first plane and the last.
static double share_inside(const struct sr_plane *planes, size_t n_planes, double centre, double sigma)
{
    double low = INFINITY, high = -INFINITY;
    for (size_t k = 0; k < n_planes; k++) {
        low = fmin(low, planes[k].slice + planes[k].t);
        high = fmax(high, planes[k].slice + planes[k].t);
    }
    return 0.5 * (erf((high - centre) / (sigma * sqrt(2))) - erf((low - centre) / (sigma * sqrt(2))));
}

static void fill_weights(struct projector *a, const struct sr_plane *planes, double profile)
{
    double sigma = profile / (2 * sqrt(2 * log(2)));
    for (int d = 0; d < a->depth; d++) {
        float *row = a->weights + (size_t)a->n_rows * a->n_planes;
        double total = 0;
        if (share_inside(planes, a->n_planes, d, sigma) < least_inside)
            continue;
        for (size_t k = 0; k < a->n_planes; k++) {
            double off = planes[k].slice + planes[k].t - d;
            double weight = fabs(off) <= 3 * sigma ? exp(-0.5 * off * off / (sigma * sigma)) : 0;
            row[k] = (float)weight;
            total += weight;
        }
        if (!(total > 0))
            continue;
        for (size_t k = 0; k < a->n_planes; k++)
            row[k] = (float)((double)row[k] / total);
        a->slice[a->n_rows++] = d;
    }
}

static int factorise(const struct projector *a)
{
    size_t n = (size_t)a->n_rows;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = i == j ? diagonal : 0;
            for (size_t k = 0; k < a->n_planes; k++)
                sum += (double)a->weights[i * a->n_planes + k] * (double)a->weights[j * a->n_planes + k];
            for (size_t k = 0; k < j; k++)
                sum -= a->cholesky[i * n + k] * a->cholesky[j * n + k];
            if (i == j && !(sum > 0))
                return 0;
            a->cholesky[i * n + j] = i == j ? sqrt(sum) : sum / a->cholesky[j * n + j];
        }
    return 1;
}

// What is missing, y - A V, of `count` pixels from `first`: missing [n_rows,CHUNK].
static void find_missing(const struct projector *a, const float *stack, size_t plane_size,
                         const struct sr_plane *planes, const float *residual, size_t first, size_t count,
                         double *missing)
{
    for (int row = 0; row < a->n_rows; row++)
        for (size_t i = 0; i < count; i++)
            missing[(size_t)row * CHUNK + i] = (double)stack[(size_t)a->slice[row] * plane_size + first + i];
    for (size_t k = 0; k < a->n_planes; k++) {
        const float *low = stack + (size_t)planes[k].slice * plane_size + first;
        const float *high = planes[k].slice + 1 < a->depth ? low + plane_size : low;
        const float *added = residual + k * plane_size + first;
        double t = planes[k].t;
        for (int row = 0; row < a->n_rows; row++) {
            double weight = (double)a->weights[(size_t)row * a->n_planes + k];
            double *to = missing + (size_t)row * CHUNK;
            for (size_t i = 0; weight > 0 && i < count; i++)
                to[i] -= weight * ((1 - t) * (double)low[i] + t * (double)high[i] + (double)added[i]);
        }
    }
}

// Both triangular systems, in place.
static void solve(const struct projector *a, size_t count, double *values)
{
    size_t n = (size_t)a->n_rows;
    for (size_t step = 0; step < 2 * n; step++) {
        size_t row = step < n ? step : 2 * n - 1 - step;
        double *to = values + row * CHUNK;
        size_t from = step < n ? 0 : row + 1, end = step < n ? row : n;
        for (size_t k = from; k < end; k++) {
            double share = step < n ? a->cholesky[row * n + k] : a->cholesky[k * n + row];
            for (size_t i = 0; share != 0 && i < count; i++)
                to[i] -= share * values[k * CHUNK + i];
        }
        for (size_t i = 0; i < count; i++)
            to[i] /= a->cholesky[row * n + row];
    }
}

static void add_back(const struct projector *a, const double *values, size_t plane_size, size_t first,
                     size_t count, double share, float *residual)
{
    for (size_t k = 0; k < a->n_planes; k++)
        for (int row = 0; row < a->n_rows; row++) {
            double weight = share * (double)a->weights[(size_t)row * a->n_planes + k];
            float *to = residual + k * plane_size + first;
            for (size_t i = 0; weight != 0 && i < count; i++)
                to[i] += (float)(weight * values[(size_t)row * CHUNK + i]);
        }
}

// Mean square of the misfit over the pixels that are not background.
static double misfit_of(const struct projector *a, const float *stack, size_t plane_size,
                        const struct sr_plane *planes, const float *residual, double *values)
{
    double sum = 0, count = 0, least = 0;
    for (size_t i = 0; i < (size_t)a->depth * plane_size; i++)
        least = fmax(least, foreground * (double)stack[i]);
    for (size_t first = 0; first < plane_size; first += CHUNK) {
        size_t n = plane_size - first < CHUNK ? plane_size - first : CHUNK;
        find_missing(a, stack, plane_size, planes, residual, first, n, values);
        for (int row = 0; row < a->n_rows; row++)
            for (size_t i = 0; i < n; i++)
                if ((double)stack[(size_t)a->slice[row] * plane_size + first + i] > least) {
                    double off = values[(size_t)row * CHUNK + i];
                    sum += off * off;
                    count += 1;
                }
    }
    return count > 0 ? sum / count : 0;
}

static int projector_open(struct projector *a, int depth, const struct sr_plane *planes, size_t n_planes,
                          double profile, struct fault_note *why)
{
    size_t n = (size_t)depth;
    *a = (struct projector){.depth = depth, .n_planes = n_planes};
    a->slice = malloc(n * sizeof *a->slice);
    a->weights = malloc(n * n_planes * sizeof *a->weights);
    a->cholesky = calloc(n * n, sizeof *a->cholesky);
    if (a->slice == NULL || a->weights == NULL || a->cholesky == NULL) {
        fault_set(why, FAULT_NO_MEMORY, "no memory to compare %zu planes with %d slices", n_planes, depth);
        return FAULT_NO_MEMORY;
    }
    fill_weights(a, planes, profile);
    if (!factorise(a))
        return fault_set(why, FAULT_NOT_FINITE, "%zu planes do not determine what %d slices should be",
                         n_planes, depth);
    return 0;
}

int consistency_apply(const float *stack, int depth, size_t plane_size, const struct sr_plane *planes,
                      size_t n_planes, double profile, double noise, double *share, float *residual,
                      struct fault_note *why)
{
    struct projector a;
    double *values = malloc((size_t)depth * CHUNK * sizeof *values);
    int rc = projector_open(&a, depth, planes, n_planes, profile, why);
    if (rc == 0 && values == NULL) {
        fault_set(why, FAULT_NO_MEMORY, "no memory to correct %d slices", depth);
        rc = FAULT_NO_MEMORY;
    }
    if (rc == 0 && a.n_rows == 0)
        *share = 0;
    if (rc == 0 && noise > 0 && *share > 0) {
        double misfit = misfit_of(&a, stack, plane_size, planes, residual, values);
        *share *= misfit > noise * noise ? 1 - noise * noise / misfit : 0;
    }
    for (size_t first = 0; rc == 0 && *share > 0 && first < plane_size; first += CHUNK) {
        size_t count = plane_size - first < CHUNK ? plane_size - first : CHUNK;
        find_missing(&a, stack, plane_size, planes, residual, first, count, values);
        solve(&a, count, values);
        add_back(&a, values, plane_size, first, count, *share, residual);
    }
    projector_close(&a);
    free(values);
    return rc;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

// Details of 2 x 2 blocks of misfit [n_rows,height,width], every stride-th block of those where the stack is
// no background; returns how many.
static size_t take_details(const struct projector *a, const float *misfit, const float *stack, int height,
                           int width, size_t stride, double least, float *details)
{
    size_t n = 0, seen = 0, line = (size_t)width, plane_size = (size_t)height * line;
    for (int z = 0; z < a->n_rows; z++)
        for (int row = 0; row + 1 < height; row += 2)
            for (int column = 0; column + 1 < width; column += 2) {
                size_t at = (size_t)row * line + (size_t)column;
                const float *v = misfit + (size_t)z * plane_size + at,
                            *tissue = stack + (size_t)a->slice[z] * plane_size + at;
                if (seen++ % stride != 0)
                    continue;
                if ((double)tissue[0] > least && (double)tissue[1] > least && (double)tissue[line] > least &&
                    (double)tissue[line + 1] > least)
                    details[n++] = fabsf(v[0] - v[1] - v[line] + v[line + 1]) / 2;
            }
    return n;
}

static double median_detail(const struct projector *a, const float *misfit, const float *stack, int height,
                            int width, float *details)
{
    size_t n_voxels = (size_t)a->depth * (size_t)height * (size_t)width,
           stride = n_voxels / 4 / MOST_DETAILS + 1;
    double least = 0;
    for (size_t i = 0; i < n_voxels; i++)
        least = fmax(least, foreground * (double)stack[i]);
    size_t n = take_details(a, misfit, stack, height, width, stride, least, details);
    qsort(details, n, sizeof *details, by_size);
    return n > 0 ? (double)details[n / 2] : 0;
}

int consistency_noise(const float *stack, int depth, int height, int width, const struct sr_plane *planes,
                      size_t n_planes, double profile, const float *residual, double *sigma,
                      struct fault_note *why)
{
    struct projector a;
    size_t plane_size = (size_t)height * (size_t)width, n = (size_t)depth;
    double *values = malloc(n * CHUNK * sizeof *values);
    float *misfit = malloc(n * plane_size * sizeof *misfit),
          *details = malloc(((size_t)MOST_DETAILS + 2) * 2 * sizeof *details);
    int rc = projector_open(&a, depth, planes, n_planes, profile, why);
    if (rc == 0 && (values == NULL || misfit == NULL || details == NULL)) {
        fault_set(why, FAULT_NO_MEMORY, "no memory to estimate the noise");
        rc = FAULT_NO_MEMORY;
    }
    for (size_t first = 0; rc == 0 && first < plane_size; first += CHUNK) {
        size_t count = plane_size - first < CHUNK ? plane_size - first : CHUNK;
        find_missing(&a, stack, plane_size, planes, residual, first, count, values);
        for (int row = 0; row < a.n_rows; row++)
            for (size_t i = 0; i < count; i++)
                misfit[(size_t)row * plane_size + first + i] = (float)values[(size_t)row * CHUNK + i];
    }
    if (rc == 0)
        *sigma = normal_median * median_detail(&a, misfit, stack, height, width, details);
    projector_close(&a);
    free(values);
    free(misfit);
    free(details);
    return rc;
}
