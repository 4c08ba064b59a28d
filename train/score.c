// SPDX-License-Identifier: Apache-2.0
#include "train/score.h"

#include "train/percentile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 7, N_SUMS = 5, PLANE_STEP = 4 };
static const double head_share = 0.02, least_error = 1e-12, k1 = 0.01, k2 = 0.03;

const char *score_name(enum score_kind kind)
{
    static const char *const names[SCORE_N] = {"psnr", "psnr_between", "psnr_head", "ssim3d", "ssim_planes"};
    return names[kind];
}

// Sums of x, y, xx, yy, xy over the in-plane window, for every place where it fits: sums
// [N_SUMS][rows*columns].
static void sum_plane(const double *x, const double *y, int height, int width, double *columns, double *sums)
{
    int rows = height - WINDOW + 1, across = width - WINDOW + 1;
    size_t n = (size_t)rows * (size_t)across;
    for (int row = 0; row < rows; row++) {
        memset(columns, 0, N_SUMS * (size_t)width * sizeof *columns);
        for (int i = row; i < row + WINDOW; i++)
            for (int c = 0; c < width; c++) {
                double a = x[(size_t)i * (size_t)width + (size_t)c],
                       b = y[(size_t)i * (size_t)width + (size_t)c];
                double *to = columns + (size_t)c * N_SUMS;
                to[0] += a;
                to[1] += b;
                to[2] += a * a;
                to[3] += b * b;
                to[4] += a * b;
            }
        for (int c = 0; c < across; c++)
            for (int k = 0; k < N_SUMS; k++) {
                double sum = 0;
                for (int i = c; i < c + WINDOW; i++)
                    sum += columns[(size_t)i * N_SUMS + (size_t)k];
                sums[(size_t)k * n + (size_t)row * (size_t)across + (size_t)c] = sum;
            }
    }
}

static double similarity(const double sums[N_SUMS], double count, double range)
{
    double c1 = k1 * range * k1 * range, c2 = k2 * range * k2 * range, sample = count / (count - 1);
    double ux = sums[0] / count, uy = sums[1] / count;
    double vx = sample * (sums[2] / count - ux * ux), vy = sample * (sums[3] / count - uy * uy);
    double vxy = sample * (sums[4] / count - ux * uy);
    return (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux * ux + uy * uy + c1) * (vx + vy + c2));
}

int score_ssim(const double *x, const double *y, int depth, int height, int width, double range, double *mean,
               struct fault_note *why)
{
    int deep = depth == 1 ? 1 : WINDOW;
    *mean = NAN;
    if (depth < deep || height < WINDOW || width < WINDOW)
        return 0;
    size_t plane = (size_t)height * (size_t)width;
    size_t n = (size_t)(height - WINDOW + 1) * (size_t)(width - WINDOW + 1);
    double *ring = malloc((size_t)deep * N_SUMS * n * sizeof *ring),
           *columns = malloc(N_SUMS * (size_t)width * sizeof *columns), total = 0,
           count = (double)deep * WINDOW * WINDOW;
    if (ring == NULL || columns == NULL) {
        free(ring);
        free(columns);
        return fault_set(why, FAULT_NO_MEMORY, "no memory to compare planes of %d x %d", height, width);
    }
    for (int d = 0; d < depth; d++) {
        sum_plane(x + (size_t)d * plane, y + (size_t)d * plane, height, width, columns,
                  ring + (size_t)(d % deep) * N_SUMS * n);
        if (d + 1 < deep)
            continue;
        for (size_t i = 0; i < n; i++) {
            double sums[N_SUMS] = {0};
            for (int s = 0; s < deep; s++)
                for (int k = 0; k < N_SUMS; k++)
                    sums[k] += ring[((size_t)s * N_SUMS + (size_t)k) * n + i];
            total += similarity(sums, count, range);
        }
    }
    *mean = total / ((double)n * (depth - deep + 1));
    free(ring);
    free(columns);
    return 0;
}

struct pair {
    double *truth, *result; // clipped
    int depth, height, width;
    double range;
};

static void psnr(const struct pair *pair, int factor, double values[SCORE_N])
{
    double sum[3] = {0}, count[3] = {0};
    size_t plane = (size_t)pair->height * (size_t)pair->width;
    for (int d = 0; d < pair->depth; d++)
        for (size_t i = (size_t)d * plane; i < ((size_t)d + 1) * plane; i++) {
            double off = pair->truth[i] - pair->result[i];
            int in[3] = {1, d % factor != 0, pair->truth[i] > head_share * pair->range};
            for (int k = 0; k < 3; k++) {
                sum[k] += in[k] * off * off;
                count[k] += in[k];
            }
        }
    for (int k = 0; k < 3; k++)
        values[SCORE_PSNR + k] =
            count[k] > 0 ? 10 * log10(pair->range * pair->range / fmax(sum[k] / count[k], least_error)) : NAN;
}

// Similarity of the cross plane at `at`: rows fixed ([depth,width]) or columns fixed ([depth,height]).
static int cross_ssim(const struct pair *pair, int is_row, int at, double *planes, double *sum,
                      struct fault_note *why)
{
    int width = is_row ? pair->width : pair->height;
    size_t n = (size_t)pair->depth * (size_t)width, i = 0;
    double *a = planes, *b = planes + n, mean;
    for (int d = 0; d < pair->depth; d++)
        for (int k = 0; k < width; k++, i++) {
            int row = is_row ? at : k, column = is_row ? k : at;
            size_t from =
                ((size_t)d * (size_t)pair->height + (size_t)row) * (size_t)pair->width + (size_t)column;
            a[i] = pair->truth[from];
            b[i] = pair->result[from];
        }
    int rc = score_ssim(a, b, 1, pair->depth, width, pair->range, &mean, why);
    *sum += mean;
    return rc;
}

static int planes_ssim(const struct pair *pair, double *value, struct fault_note *why)
{
    int longest = pair->width > pair->height ? pair->width : pair->height, rc = 0, n = 0;
    double *planes = malloc(2 * (size_t)pair->depth * (size_t)longest * sizeof *planes), sum = 0;
    if (planes == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for cross planes");
    for (int row = 0; rc == 0 && row < pair->height; row += PLANE_STEP, n++)
        rc = cross_ssim(pair, 1, row, planes, &sum, why);
    for (int column = 0; rc == 0 && column < pair->width; column += PLANE_STEP, n++)
        rc = cross_ssim(pair, 0, column, planes, &sum, why);
    *value = sum / n;
    free(planes);
    return rc;
}

int score_volumes(const float *truth, const float *result, int depth, int height, int width, int factor,
                  double values[SCORE_N], struct fault_note *why)
{
    struct pair pair = {.depth = depth, .height = height, .width = width};
    size_t n = (size_t)depth * (size_t)height * (size_t)width;
    float *copy = malloc(n * sizeof *copy);
    pair.truth = calloc(n, sizeof *pair.truth);
    pair.result = calloc(n, sizeof *pair.result);
    int rc = 0;
    if (copy == NULL || pair.truth == NULL || pair.result == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory to compare %zu voxels", n);
        goto out;
    }
    memcpy(copy, truth, n * sizeof *copy);
    pair.range = percentile_of(copy, n, 99.9);
    for (size_t i = 0; i < n; i++) {
        pair.truth[i] = fmin(pair.range, fmax(0, (double)truth[i]));
        pair.result[i] = fmin(pair.range, fmax(0, (double)result[i]));
    }
    psnr(&pair, factor, values);
    rc = score_ssim(pair.truth, pair.result, depth, height, width, pair.range, &values[SCORE_SSIM_3D], why);
    if (rc == 0)
        rc = planes_ssim(&pair, &values[SCORE_SSIM_PLANES], why);
out:
    free(copy);
    free(pair.truth);
    free(pair.result);
    return rc;
}
