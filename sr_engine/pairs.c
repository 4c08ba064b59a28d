// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/pairs.h"

#include "sr_engine/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    RANDOM_PATCH = 2,
    MAX_ROWS = 64,
    MAX_FACTOR = 64,
    TRIES = 64,
    MARGIN = 8,         // pixels beside a held-out place that the network sees but that are not scored
    CONTEXT_SLICES = 2, // retained slices beyond a held-out place
    WINDOW_STEP = 16,   // pixels
    CANDIDATES = 8,     // places that one is chosen from in proportion to their gradient
};
static const double place_share = 0.05;   // of the image, each
static const double flat_contrast = 0.05; // a patch of less is drawn again

struct pairs_dense {
    float *voxels;
    struct pairs view; // of them
};

static double sigma_of(double fwhm)
{
    return fwhm / (2 * sqrt(2 * log(2)));
}

static int reach_of(double fwhm)
{
    return (int)floor(3 * sigma_of(fwhm) + 0.5);
}

static int length_of(const struct pairs *pairs, int axis)
{
    return axis == 1 ? pairs->height : pairs->width;
}

static float voxel_at(const struct pairs *pairs, int z, int row, int column)
{
    return pairs
        ->voxels[((size_t)z * (size_t)pairs->height + (size_t)row) * (size_t)pairs->width + (size_t)column];
}

// --------------------------------------------------------------------------------------------- places

// Sum of differences between neighbouring pixels in a place, over all slices.
static double detail_of(const struct pairs *pairs, struct pairs_place place)
{
    double sum = 0;
    for (int z = 0; z < pairs->depth; z++)
        for (int row = place.row; row + 1 < place.row + place.rows; row++)
            for (int column = place.column; column + 1 < place.column + place.columns; column++) {
                double here = (double)voxel_at(pairs, z, row, column);
                sum += fabs((double)voxel_at(pairs, z, row + 1, column) - here) +
                       fabs((double)voxel_at(pairs, z, row, column + 1) - here);
            }
    return sum;
}

struct candidate {
    struct pairs_place place;
    double detail;
};

static int by_detail(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->detail != y->detail)
        return x->detail > y->detail ? -1 : 1;
    if (x->place.row != y->place.row)
        return x->place.row < y->place.row ? -1 : 1;
    return (x->place.column > y->place.column) - (x->place.column < y->place.column);
}

static int overlap(struct pairs_place a, struct pairs_place b)
{
    return a.row < b.row + b.rows && b.row < a.row + a.rows && a.column < b.column + b.columns &&
           b.column < a.column + a.columns;
}

static void plan_places(struct pairs *pairs)
{
    enum { MAX_CANDIDATES = 400 };
    struct candidate candidates[MAX_CANDIDATES];
    int n = 0, side = (int)sqrt(place_share * pairs->height * pairs->width), step = side / 2;
    int longest = pairs->factor[1] > pairs->factor[2] ? pairs->factor[1] : pairs->factor[2];
    side = side < longest + 2 ? longest + 2 : side;
    pairs->n_places = 0;
    if (step < 1 || 2 * side > pairs->height || 2 * side > pairs->width)
        return;
    for (int row = 0; row + side <= pairs->height; row += step)
        for (int column = 0; column + side <= pairs->width && n < MAX_CANDIDATES; column += step) {
            struct pairs_place place = {row, column, side, side};
            candidates[n++] = (struct candidate){place, detail_of(pairs, place)};
        }
    qsort(candidates, (size_t)n, sizeof candidates[0], by_detail);
    // the first: in the middle of the richer half; the second: of that half, the farthest from the first
    struct pairs_place first = candidates[n / 4].place, second = first;
    int far = -1;
    for (int i = 0; i <= n / 2 && i < n; i++) {
        struct pairs_place other = candidates[i].place;
        int distance = abs(other.row - first.row) + abs(other.column - first.column);
        if (!overlap(other, first) && distance > far) {
            far = distance;
            second = other;
        }
    }
    pairs->places[pairs->n_places++] = first;
    if (far >= 0)
        pairs->places[pairs->n_places++] = second;
}

// --------------------------------------------------------------------------------------------- samples

// 1 when a sample of `factor` along `axis` that begins at (first, across) keeps out of the held-out places.
static int is_free(const struct pairs *pairs, int axis, int factor, int first, int across)
{
    int reach = reach_of(pairs->profile * factor), length = (pairs->slices - 1) * factor + 1;
    struct pairs_place box = {first - reach, across, length + 2 * reach, pairs->columns};
    if (axis == 2)
        box = (struct pairs_place){across, first - reach, pairs->columns, length + 2 * reach};
    for (int i = 0; i < pairs->n_places; i++)
        if (overlap(box, pairs->places[i]))
            return 0;
    return 1;
}

// How many places a sample can begin at along its axis and across it.
static void room_of(const struct pairs *pairs, int axis, int factor, int *along, int *across)
{
    *along = length_of(pairs, axis) - (pairs->slices - 1) * factor;
    *across = length_of(pairs, 3 - axis) - pairs->columns + 1;
}

static int any_free(const struct pairs *pairs, int axis, int factor)
{
    int along, across;
    room_of(pairs, axis, factor, &along, &across);
    for (int i = 0; i < along; i++)
        for (int j = 0; j < across; j++)
            if (is_free(pairs, axis, factor, i, j))
                return 1;
    return 0;
}

// Room for samples of the present size along the axes that are used.
static int has_room(const struct pairs *pairs, int factor)
{
    enum sr_axes axes = pairs->axes;
    return (axes == SR_AXES_COLUMNS || any_free(pairs, 1, factor)) &&
           (axes == SR_AXES_ROWS || any_free(pairs, 2, factor));
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

// Shrinks what is wanted until it fits: first the width, then the retained slices, then the factor.
static void plan_samples(struct pairs *pairs, int slices)
{
    pairs->rows = smaller(MAX_ROWS, pairs->depth);
    int wanted = pairs->axes == SR_AXES_ROWS      ? pairs->factor[1]
                 : pairs->axes == SR_AXES_COLUMNS ? pairs->factor[2]
                                                  : smaller(pairs->factor[1], pairs->factor[2]);
    for (pairs->factor_true = wanted; pairs->factor_true >= 2; pairs->factor_true--)
        for (pairs->slices = slices; pairs->slices >= 2; pairs->slices--)
            for (pairs->columns = smaller(PAIRS_WIDTH, smaller(pairs->height, pairs->width));
                 pairs->columns >= 16; pairs->columns -= 8)
                if (has_room(pairs, pairs->factor_true)) {
                    int low = (int)floor(pairs->recipe.factor_low * pairs->factor_true);
                    pairs->factor_min = low < 2 ? 2 : low;
                    return;
                }
    pairs->slices = 0;
    pairs->factor_true = pairs->factor_min = 0;
}

// --------------------------------------------------------------------------------------------- detail

// Central differences along rows and columns, summed over the slices.
static double gradient_at(const struct pairs *pairs, int row, int column)
{
    int up = row > 0 ? row - 1 : 0, down = row + 1 < pairs->height ? row + 1 : row;
    int left = column > 0 ? column - 1 : 0, right = column + 1 < pairs->width ? column + 1 : column;
    double sum = 0;
    for (int z = 0; z < pairs->depth; z++)
        sum += hypot((double)voxel_at(pairs, z, down, column) - (double)voxel_at(pairs, z, up, column),
                     (double)voxel_at(pairs, z, row, right) - (double)voxel_at(pairs, z, row, left));
    return sum;
}

static int sum_detail(struct pairs *pairs, struct fault_note *why)
{
    size_t line = (size_t)pairs->width + 1;
    pairs->detail = calloc(((size_t)pairs->height + 1) * line, sizeof *pairs->detail);
    if (pairs->detail == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for a map of %d x %d gradients", pairs->height,
                         pairs->width);
    for (int row = 0; row < pairs->height; row++)
        for (int column = 0; column < pairs->width; column++) {
            double *at = pairs->detail + ((size_t)row + 1) * line + (size_t)column + 1;
            *at = gradient_at(pairs, row, column) + at[-1] + *(at - line) - *(at - line - 1);
        }
    return 0;
}

static double detail_in(const struct pairs *pairs, int row, int column, int rows, int columns)
{
    size_t line = (size_t)pairs->width + 1;
    const double *top = pairs->detail + (size_t)row * line + (size_t)column;
    const double *bottom = top + (size_t)rows * line;
    return bottom[columns] - bottom[0] - top[columns] + top[0];
}

// --------------------------------------------------------------------------------------------- plans

static void drop_dense(struct pairs *pairs, int place)
{
    if (pairs->dense[place] != NULL)
        free(pairs->dense[place]->voxels);
    free(pairs->dense[place]);
    pairs->dense[place] = NULL;
}

double pairs_profile(const struct sr_stack *stack)
{
    double profile =
        stack->thickness_mm > 0 && stack->slice_mm > 0 ? stack->thickness_mm / stack->slice_mm : 1;
    return profile > 2 ? 2 : profile;
}

void pairs_done(struct pairs *pairs)
{
    free(pairs->detail);
    pairs->detail = NULL;
    for (int i = 0; i < PAIRS_MAX_PLACES; i++)
        drop_dense(pairs, i);
}

static int factor_of(double slice_mm, double pixel_mm)
{
    double ratio = pixel_mm > 0 ? slice_mm / pixel_mm : 0;
    int factor = ratio < MAX_FACTOR ? (int)floor(ratio + 0.5) : MAX_FACTOR;
    return factor < 2 ? 2 : factor;
}

int pairs_plan(struct pairs *pairs, const struct sr_stack *stack, const float *voxels,
               const struct sr_recipe *recipe, struct fault_note *why)
{
    memset(pairs, 0, sizeof *pairs);
    pairs->voxels = voxels;
    pairs->recipe = *recipe;
    pairs->depth = stack->depth;
    pairs->height = stack->height;
    pairs->width = stack->width;
    pairs->profile = pairs_profile(stack);
    pairs->row_step = 1;
    pairs->smooth_axis = stack->smooth_axis;
    pairs->axes = stack->smooth_axis == 1   ? SR_AXES_COLUMNS
                  : stack->smooth_axis == 2 ? SR_AXES_ROWS
                                            : (enum sr_axes)recipe->axes;
    pairs->factor[1] = factor_of(stack->slice_mm, stack->row_mm);
    pairs->factor[2] = factor_of(stack->slice_mm, stack->column_mm);
    plan_places(pairs);
    plan_samples(pairs, smaller(recipe->slices, SR_CUT_MAX_SLICES));
    return recipe->detail ? sum_detail(pairs, why) : 0;
}

static struct pairs part_of(const struct pairs *stack, const float *voxels, int depth, int row, int column,
                            int rows, int columns)
{
    struct pairs part = *stack;
    part.detail = NULL;
    memset(part.dense, 0, sizeof part.dense);
    part.voxels = voxels;
    part.depth = depth;
    part.height = rows;
    part.width = columns;
    for (int i = 0; i < part.n_places; i++) {
        part.places[i].row -= row;
        part.places[i].column -= column;
    }
    return part;
}

int pairs_set_dense(struct pairs *pairs, int place, float *voxels, int depth, int row, int column, int rows,
                    int columns, struct fault_note *why)
{
    struct pairs_dense *dense = malloc(sizeof *dense);
    if (dense == NULL) {
        free(voxels);
        return fault_set(why, FAULT_NO_MEMORY, "no memory for a place's surroundings");
    }
    dense->voxels = voxels;
    dense->view = part_of(pairs, voxels, depth, row, column, rows, columns);
    dense->view.row_step = pairs->factor[1];
    drop_dense(pairs, place);
    pairs->dense[place] = dense;
    return 0;
}

int pairs_plan_volume(struct pairs *pairs, const struct pairs *stack, const float *voxels, int depth, int row,
                      int column, int rows, int columns, struct fault_note *why)
{
    *pairs = part_of(stack, voxels, depth, row, column, rows, columns);
    plan_samples(pairs, smaller(pairs->recipe.slices, SR_CUT_MAX_SLICES));
    return pairs->recipe.detail ? sum_detail(pairs, why) : 0;
}

static double contrast_of(const struct pairs *pairs, const struct sr_cut *cut)
{
    enum { STEP = 3 };
    float low = HUGE_VALF, high = -HUGE_VALF;
    int length = (pairs->slices - 1) * cut->factor + 1;
    for (int z = cut->row; z < cut->row + pairs->rows; z += STEP)
        for (int i = cut->first; i < cut->first + length; i += STEP)
            for (int j = cut->column; j < cut->column + pairs->columns; j += STEP) {
                float value = cut->axis == 1 ? voxel_at(pairs, z, i, j) : voxel_at(pairs, z, j, i);
                low = value < low ? value : low;
                high = value > high ? value : high;
            }
    return (double)(high - low);
}

// A free place: drawn, and where that fails too often, the next one after a drawn one.
static void draw_place(const struct pairs *pairs, struct random_stream *stream, struct sr_cut *cut)
{
    int along, across;
    room_of(pairs, cut->axis, cut->factor, &along, &across);
    int room = along * across, start = 0;
    for (int i = 0; i < TRIES + room; i++) {
        if (i <= TRIES)
            start = random_between(stream, 0, room - 1);
        int at = (start + (i > TRIES ? i - TRIES : 0)) % room;
        cut->first = at % along;
        cut->column = at / along;
        if (is_free(pairs, cut->axis, cut->factor, cut->first, cut->column))
            break;
    }
    cut->row = random_between(stream, 0, pairs->depth - pairs->rows);
}

// One of several drawn places, each with a chance in proportion to the gradient it holds.
static void draw_detailed_place(const struct pairs *pairs, struct random_stream *stream, struct sr_cut *cut)
{
    struct sr_cut candidates[CANDIDATES];
    double upto[CANDIDATES], total = 0;
    int length = (pairs->slices - 1) * cut->factor + 1;
    for (int i = 0; i < CANDIDATES; i++) {
        candidates[i] = *cut;
        draw_place(pairs, stream, &candidates[i]);
        const struct sr_cut *at = &candidates[i];
        total += at->axis == 1 ? detail_in(pairs, at->first, at->column, length, pairs->columns)
                               : detail_in(pairs, at->column, at->first, pairs->columns, length);
        upto[i] = total;
    }
    double drawn = total * random_unit(stream);
    int i = 0;
    while (i + 1 < CANDIDATES && upto[i] <= drawn)
        i++;
    *cut = candidates[i];
}

static int axis_of(const struct pairs *pairs, uint64_t number)
{
    enum sr_axes axes = pairs->axes;
    return axes == SR_AXES_ROWS ? 1 : axes == SR_AXES_COLUMNS ? 2 : 1 + (int)(number % 2);
}

struct sr_cut pairs_draw(const struct pairs *pairs, uint64_t seed, uint64_t number, int n_targets)
{
    struct random_stream stream = random_open(seed, RANDOM_PATCH, number);
    const struct sr_recipe *recipe = &pairs->recipe;
    struct sr_cut cut = {.axis = axis_of(pairs, number)};
    cut.factor = random_unit(&stream) >= 1 - recipe->true_share
                     ? pairs->factor_true
                     : random_between(&stream, pairs->factor_min, pairs->factor_true);
    cut.fwhm = (float)(pairs->profile * cut.factor);
    for (int i = 0; i < TRIES; i++) {
        if (pairs->detail != NULL)
            draw_detailed_place(pairs, &stream, &cut);
        else
            draw_place(pairs, &stream, &cut);
        if (contrast_of(pairs, &cut) >= flat_contrast)
            break;
    }
    cut.flip_slices = random_between(&stream, 0, 1);
    cut.flip_rows = random_between(&stream, 0, 1);
    cut.flip_columns = random_between(&stream, 0, 1);
    // t = 0 is drawn like any other position, as in use; reversed samples end up at t = 0 from the other side
    for (int gap = 0; gap + 1 < pairs->slices; gap++)
        for (int k = 0; k < n_targets; k++)
            cut.position[gap][k] =
                (unsigned char)(random_between(&stream, 0, cut.factor - 1) + (cut.flip_slices ? 1 : 0));
    return cut;
}

// --------------------------------------------------------------------------------------------- windows

static double detail_at(const struct pairs *pairs, int z, int row, int column, int rows, int columns)
{
    double sum = 0;
    const float *plane = pairs->voxels + (size_t)z * (size_t)pairs->height * (size_t)pairs->width;
    for (int i = row; i + 1 < row + rows; i++)
        for (int j = column; j + 1 < column + columns; j++) {
            const float *at = plane + (size_t)i * (size_t)pairs->width + (size_t)j;
            sum += fabs((double)at[1] - (double)at[0]) + fabs((double)at[pairs->width] - (double)at[0]);
        }
    return sum;
}

void pairs_find_window(const struct pairs *pairs, int rows, int columns, int *row, int *column)
{
    double most = -1;
    for (int i = 0; i + rows <= pairs->height; i += WINDOW_STEP)
        for (int j = 0; j + columns <= pairs->width; j += WINDOW_STEP) {
            double detail = detail_at(pairs, pairs->depth / 2, i, j, rows, columns);
            if (detail > most) {
                most = detail;
                *row = i;
                *column = j;
            }
        }
}

void pairs_copy_window(const struct pairs *pairs, int z, int row, int column, int rows, int columns,
                       float *out)
{
    for (int i = 0; i < rows; i++, out += columns)
        memcpy(out,
               pairs->voxels +
                   ((size_t)z * (size_t)pairs->height + (size_t)(row + i)) * (size_t)pairs->width +
                   (size_t)column,
               (size_t)columns * sizeof *out);
}

// --------------------------------------------------------------------------------------------- checks

// One blurred plane of a check's stack: rows through the slices, columns across.
static void degrade_plane(const struct pairs *pairs, int axis, int along, int first_column, int n_columns,
                          int rows, float *out)
{
    double fwhm = pairs->profile * pairs->factor[axis], sigma = sigma_of(fwhm);
    int reach = reach_of(fwhm), from = along - reach, to = along + reach, last = length_of(pairs, axis) - 1;
    from = from < 0 ? 0 : from;
    to = to > last ? last : to;
    int top = (pairs->depth - rows) / 2;
    for (int z = 0; z < rows; z++)
        for (int j = 0; j < n_columns; j++) {
            double sum = 0, total = 0;
            for (int i = from; i <= to; i++) {
                double weight =
                    sigma > 0 ? exp(-0.5 * (i - along) * (i - along) / (sigma * sigma)) : i == along;
                float value = axis == 1 ? voxel_at(pairs, top + z, i, first_column + j)
                                        : voxel_at(pairs, top + z, first_column + j, i);
                sum += weight * (double)value;
                total += weight;
            }
            *out++ = (float)(sum / total);
        }
}

static void copy_plane(const struct pairs *pairs, int axis, int along, int first_column, int n_columns,
                       int rows, float *out)
{
    int top = (pairs->depth - rows) / 2;
    for (int z = 0; z < rows; z++)
        for (int j = 0; j < n_columns; j++)
            *out++ = axis == 1 ? voxel_at(pairs, top + z, along, first_column + j)
                               : voxel_at(pairs, top + z, first_column + j, along);
}

int pairs_reach(const struct pairs *pairs)
{
    int longest = pairs->factor[1] > pairs->factor[2] ? pairs->factor[1] : pairs->factor[2];
    return 2 * longest * CONTEXT_SLICES + reach_of(pairs->profile * longest); // of the control, the longest
}

// Where the checks of a place look.
static const struct pairs *view_of(const struct pairs *pairs, int place)
{
    return pairs->dense[place] != NULL ? &pairs->dense[place]->view : pairs;
}

// Where a check lies along its axis: retained slices first, first + factor, ...; the place itself is [from,
// to].
struct span {
    int first, depth, from, to;
};

static struct span find_span(const struct pairs *pairs, int axis, struct pairs_place place, int factor)
{
    int length = length_of(pairs, axis);
    struct span span = {.from = axis == 1 ? place.row : place.column};
    span.to = span.from + (axis == 1 ? place.rows : place.columns) - 1;
    int before = CONTEXT_SLICES, after = CONTEXT_SLICES;
    while (before > 0 && span.from - before * factor < 0)
        before--;
    span.first = span.from - before * factor;
    int inside = (span.to - span.from) / factor;
    while (after > 0 && span.from + (inside + after) * factor >= length)
        after--;
    span.depth = before + inside + after + 1;
    span.to = span.from + inside * factor;
    return span;
}

// Room for a check whose slices lie `factor` pixels apart; what to fill in lies in *span and *from, the first
// column.
static int open_check(struct pairs_check *check, const struct pairs *pairs, int axis, int place, int factor,
                      struct span *span, int *from_column, struct fault_note *why)
{
    struct pairs_place held = pairs->places[place];
    int across = length_of(pairs, 3 - axis);
    int from = axis == 1 ? held.column : held.row, size = axis == 1 ? held.columns : held.rows;
    int left = from < MARGIN ? from : MARGIN,
        right = across - from - size < MARGIN ? across - from - size : MARGIN;
    *span = find_span(pairs, axis, held, factor);
    *from_column = from - left;
    memset(check, 0, sizeof *check);
    if (axis == pairs->smooth_axis)
        return fault_set(why, FAULT_NOTHING_TO_DO, "%s were resampled to finer ones",
                         axis == 1 ? "rows" : "columns");
    if (span->to <= span->from) {
        fault_set(why, FAULT_NOTHING_TO_DO, "a held-out place holds no gap of %d pixels", factor);
        return FAULT_NOTHING_TO_DO;
    }
    check->depth = span->depth;
    check->rows = smaller(MAX_ROWS, pairs->depth);
    check->row_step = pairs->row_step;
    check->columns = left + size + right;
    check->first_column = left;
    check->n_columns = size;
    size_t plane = (size_t)check->rows * (size_t)check->columns, most = (size_t)(span->to - span->from);
    check->stack = malloc((size_t)check->depth * plane * sizeof *check->stack);
    check->truth = malloc(most * plane * sizeof *check->truth);
    check->planes = malloc(most * sizeof *check->planes);
    if (check->stack == NULL || check->truth == NULL || check->planes == NULL) {
        pairs_check_done(check);
        fault_set(why, FAULT_NO_MEMORY, "no memory for a check of %zu planes", most);
        return FAULT_NO_MEMORY;
    }
    for (int d = 0; d < check->depth; d++)
        degrade_plane(pairs, axis, span->first + d * factor, *from_column, check->columns, check->rows,
                      check->stack + (size_t)d * plane);
    return 0;
}

// Where stride and factor have one, every stride-th plane falls on the same few shares of a gap.
static int has_common_divisor(int a, int b)
{
    for (int i = 2; i <= a && i <= b; i++)
        if (a % i == 0 && b % i == 0)
            return 1;
    return 0;
}

int pairs_check_init(struct pairs_check *check, const struct pairs *pairs, int axis, int place, int stride,
                     struct fault_note *why)
{
    struct span span;
    int factor = pairs->factor[axis], column;
    pairs = view_of(pairs, place);
    int rc = open_check(check, pairs, axis, place, factor, &span, &column, why);
    if (rc != 0)
        return rc;
    while (has_common_divisor(stride, factor))
        stride++;
    for (int along = span.from; along < span.to; along += stride) {
        int off = along - span.first;
        check->planes[check->n_planes] = (struct sr_plane){off / factor, (double)(off % factor) / factor};
        copy_plane(pairs, axis, along, column, check->columns, check->rows,
                   check->truth + check->n_planes * (size_t)check->rows * (size_t)check->columns);
        check->n_planes++;
    }
    return 0;
}

int pairs_control_init(struct pairs_check *check, const struct pairs *pairs, int axis, int place,
                       struct fault_note *why)
{
    struct span span;
    int factor = 2 * pairs->factor[axis], column;
    pairs = view_of(pairs, place);
    int rc = open_check(check, pairs, axis, place, factor, &span, &column, why);
    if (rc != 0)
        return rc;
    for (int along = span.from + factor / 2; along < span.to; along += factor) {
        check->planes[check->n_planes] = (struct sr_plane){(along - span.first) / factor, 0.5};
        degrade_plane(pairs, axis, along, column, check->columns, check->rows,
                      check->truth + check->n_planes * (size_t)check->rows * (size_t)check->columns);
        check->n_planes++;
    }
    return 0;
}

void pairs_check_done(struct pairs_check *check)
{
    free(check->stack);
    free(check->truth);
    free(check->planes);
    memset(check, 0, sizeof *check);
}
