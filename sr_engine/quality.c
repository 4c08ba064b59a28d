// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/quality.h"

#include "sr_engine/resample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_DEPTH = 5, MAX_KEPT = 9, MAX_SIDE = 96, SIDE_MARGIN = 16 };

double quality_psnr(double mean_square)
{
    double least = pow(10, -QUALITY_MOST_DB / 10);
    return -10 * log10(mean_square > least ? mean_square : least);
}

static double clip_unit(double value)
{
    return value < 0 ? 0 : value > 1 ? 1 : value;
}

// Squared errors of one plane's scored part; prediction = linear + added (NULL: nothing).
static void score_plane(const struct quality_method *method, const struct pairs_check *check, size_t plane,
                        const float *linear, const float *network, const double *cubic, double *sum,
                        double *count)
{
    const float *truth = check->truth + plane * (size_t)check->rows * (size_t)check->columns;
    for (int row = 0; row < check->rows; row += check->row_step)
        for (int column = check->first_column; column < check->first_column + check->n_columns; column++) {
            size_t at = (size_t)row * (size_t)check->columns + (size_t)column;
            double value = cubic != NULL ? cubic[at] : (double)linear[at];
            if (network != NULL)
                value += (double)network[at];
            if (network != NULL && method->clip)
                value = clip_unit(value);
            *sum += (value - (double)truth[at]) * (value - (double)truth[at]);
            *count += 1;
        }
}

// Memory for the planes of one check; only what the method needs.
struct scratch {
    float *linear, *residual;
    double *cubic, *coefficients;
};

static int scratch_open(struct scratch *scratch, enum sr_method method, const struct pairs_check *check,
                        struct fault_note *why)
{
    size_t plane = (size_t)check->rows * (size_t)check->columns;
    int network = method == SR_BASE || method == SR_TUNED, spline = method == SR_CUBIC;
    memset(scratch, 0, sizeof *scratch);
    scratch->linear = malloc(plane * sizeof *scratch->linear);
    if (network)
        scratch->residual = malloc(check->n_planes * plane * sizeof *scratch->residual);
    if (spline) {
        scratch->cubic = malloc(plane * sizeof *scratch->cubic);
        scratch->coefficients = malloc((size_t)check->depth * plane * sizeof *scratch->coefficients);
    }
    if (scratch->linear != NULL && (!network || scratch->residual != NULL) &&
        (!spline || (scratch->cubic != NULL && scratch->coefficients != NULL)))
        return 0;
    fault_set(why, FAULT_NO_MEMORY, "no memory to check %zu planes", check->n_planes);
    return FAULT_NO_MEMORY;
}

static void scratch_close(struct scratch *scratch)
{
    free(scratch->linear);
    free(scratch->residual);
    free(scratch->cubic);
    free(scratch->coefficients);
}

int quality_check(const struct quality_method *method, const struct pairs_check *check, double *sum,
                  double *count, struct fault_note *why)
{
    size_t plane = (size_t)check->rows * (size_t)check->columns;
    struct scratch scratch;
    int rc = scratch_open(&scratch, method->method, check, why);
    if (rc == 0 && scratch.residual != NULL)
        rc = interpolate_planes(method->model, check->stack, check->depth, check->rows, check->columns,
                                check->planes, check->n_planes, method->limits, scratch.residual, why);
    if (rc == 0 && scratch.coefficients != NULL)
        rc = resample_cubic_prepare(check->stack, check->depth, plane, scratch.coefficients, why);
    for (size_t k = 0; rc == 0 && k < check->n_planes; k++) {
        const struct sr_plane *at = &check->planes[k];
        resample_linear(check->stack, check->depth, plane, at->slice, at->t, scratch.linear);
        if (scratch.coefficients != NULL)
            resample_cubic(scratch.coefficients, check->depth, plane, at->slice, at->t, scratch.cubic);
        score_plane(method, check, k, scratch.linear,
                    scratch.residual != NULL ? scratch.residual + k * plane : NULL, scratch.cubic, sum,
                    count);
    }
    if (rc == 0 && !isfinite(*sum))
        rc = fault_set(why, FAULT_NOT_FINITE, "a prediction of method '%s' is not finite",
                       sr_method_name(method->method));
    scratch_close(&scratch);
    return rc;
}

static void say_places(const struct pairs *pairs, int times, double count, struct sr_quality *quality)
{
    size_t size = sizeof quality->note;
    int smooth = pairs->smooth_axis;
    if (count <= 0)
        snprintf(quality->note, size, "the image is too small to hold %d places out", PAIRS_MAX_PLACES);
    else if (smooth != 0)
        snprintf(quality->note, size,
                 "%d places, %.0f values, factor %d; none along the %s, which were resampled",
                 pairs->n_places, count, times * pairs->factor[3 - smooth], smooth == 1 ? "rows" : "columns");
    else
        snprintf(quality->note, size, "%d places, %.0f values, factors %d and %d", pairs->n_places, count,
                 times * pairs->factor[1], times * pairs->factor[2]);
}

// All held-out places along both axes.
static int check_places(const struct quality_method *method, const struct pairs *pairs, int is_control,
                        struct sr_quality *quality, struct fault_note *why)
{
    double sum = 0, count = 0;
    for (int place = 0; place < pairs->n_places; place++)
        for (int axis = 1; axis <= 2; axis++) {
            struct pairs_check check;
            int rc = is_control ? pairs_control_init(&check, pairs, axis, place, why)
                                : pairs_check_init(&check, pairs, axis, place, 1, why);
            if (rc == FAULT_NOTHING_TO_DO)
                continue;
            if (rc == 0)
                rc = quality_check(method, &check, &sum, &count, why);
            pairs_check_done(&check);
            if (rc != 0)
                return rc;
        }
    quality->measured = count > 0;
    if (count > 0)
        quality->psnr_db[method->method] = quality_psnr(sum / count);
    say_places(pairs, is_control ? 2 : 1, count, quality);
    return 0;
}

int quality_in_plane(const struct quality_method *method, const struct pairs *pairs,
                     struct sr_quality *quality, struct fault_note *why)
{
    return check_places(method, pairs, 0, quality, why);
}

int quality_control(const struct quality_method *method, const struct pairs *pairs,
                    struct sr_quality *quality, struct fault_note *why)
{
    return check_places(method, pairs, 1, quality, why);
}

// --------------------------------------------------------------------------------------------- slices left
// out

static int left_out_init(struct pairs_check *check, const struct pairs *pairs, struct fault_note *why)
{
    int kept = (pairs->depth + 1) / 2, row = 0, column = 0;
    kept = kept > MAX_KEPT ? MAX_KEPT : kept;
    int most = MAX_SIDE + 2 * SIDE_MARGIN, first = (pairs->depth - (2 * kept - 1)) / 2;
    memset(check, 0, sizeof *check);
    check->depth = kept;
    check->rows = pairs->height < most ? pairs->height : most;
    check->columns = pairs->width < most ? pairs->width : most;
    int margin = check->columns == most ? SIDE_MARGIN : 0;
    check->first_column = margin;
    check->n_columns = check->columns - 2 * margin;
    check->n_planes = (size_t)kept - 1;
    check->row_step = 1;
    size_t plane = (size_t)check->rows * (size_t)check->columns;
    check->stack = malloc((size_t)kept * plane * sizeof *check->stack);
    check->truth = calloc(check->n_planes * plane, sizeof *check->truth);
    check->planes = calloc(check->n_planes, sizeof *check->planes);
    if (check->stack == NULL || check->truth == NULL || check->planes == NULL) {
        pairs_check_done(check);
        fault_set(why, FAULT_NO_MEMORY, "no memory to leave %d slices out", kept - 1);
        return FAULT_NO_MEMORY;
    }
    pairs_find_window(pairs, check->rows, check->columns, &row, &column);
    for (int i = 0; i < kept; i++) {
        pairs_copy_window(pairs, first + 2 * i, row, column, check->rows, check->columns,
                          check->stack + (size_t)i * plane);
        if (i + 1 == kept)
            break;
        pairs_copy_window(pairs, first + 2 * i + 1, row, column, check->rows, check->columns,
                          check->truth + (size_t)i * plane);
        check->planes[i] = (struct sr_plane){i, 0.5};
    }
    return 0;
}

int quality_left_out(const struct quality_method *method, const struct pairs *pairs,
                     struct sr_quality *quality, struct fault_note *why)
{
    struct pairs_check check;
    double sum = 0, count = 0;
    if (pairs->depth < MIN_DEPTH) {
        quality->measured = 0;
        snprintf(quality->note, sizeof quality->note, "%d slices are too few to leave any out: %d are needed",
                 pairs->depth, MIN_DEPTH);
        return 0;
    }
    int rc = left_out_init(&check, pairs, why);
    if (rc == 0)
        rc = quality_check(method, &check, &sum, &count, why);
    if (rc == 0) {
        quality->measured = 1;
        quality->psnr_db[method->method] = quality_psnr(sum / count);
        snprintf(quality->note, sizeof quality->note, "%zu slices predicted on %d x %d pixels",
                 check.n_planes, check.rows, check.n_columns);
    }
    pairs_check_done(&check);
    return rc;
}

// --------------------------------------------------------------------------------------------- the choice

// Gain over linear on one test; 0 where it was not measured.
static double gain_of(const struct sr_quality *quality, enum sr_method method)
{
    return quality->measured ? quality->psnr_db[method] - quality->psnr_db[SR_LINEAR] : 0;
}

// How far below linear a method may be on the slices left out where there is no control, dB; see quality.h.
static const double LEFT_OUT_TOLERANCE_DB = 0.5;

// What a method is worth, dB over linear; minus infinity when it was not run or is out.
static double worth_of(const struct sr_report *report, enum sr_method method)
{
    double in_plane = gain_of(&report->in_plane, method), left_out = gain_of(&report->left_out, method);
    if (!(in_plane >= 0) || isnan(left_out))
        return -HUGE_VAL;
    if (report->left_out.measured && report->control.measured && report->in_plane.measured)
        return in_plane + fmin(0, left_out - gain_of(&report->control, method));
    if (left_out < -LEFT_OUT_TOLERANCE_DB)
        return -HUGE_VAL;
    return (in_plane + left_out) / ((report->in_plane.measured != 0) + (report->left_out.measured != 0));
}

void quality_choose(struct sr_report *report)
{
    int n_tests = (report->in_plane.measured != 0) + (report->left_out.measured != 0);
    enum sr_method best = SR_LINEAR;
    double most = 0;
    for (enum sr_method method = SR_CUBIC; n_tests > 0 && method < SR_N_METHODS; method++) {
        double worth = worth_of(report, method);
        if (worth > most) {
            most = worth;
            best = method;
        }
    }
    report->delivered = best;
    if (n_tests == 0)
        snprintf(report->reason, sizeof report->reason,
                 "nothing could be measured on this stack: linear is safe");
    else if (best == SR_LINEAR)
        snprintf(report->reason, sizeof report->reason, "no other method gained over linear on %s",
                 n_tests == 2 ? "the two tests together" : "the test that could be made");
    else
        snprintf(report->reason, sizeof report->reason,
                 "worth most over linear, %.2f dB (in plane %+.2f, left out %+.2f, of which expected %+.2f)",
                 most, gain_of(&report->in_plane, best), gain_of(&report->left_out, best),
                 gain_of(&report->control, best));
}
