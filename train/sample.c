// SPDX-License-Identifier: Apache-2.0
#include "train/sample.h"

#include "sr_engine/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RANDOM_BATCH = 16, RANDOM_SAMPLE = 17, MAX_TRIES = 1000 };

static const double noisy_share = 0.5, acquired_share = 0.1;
static const double dark_mean = 0.05, dark_rejected = 0.9, still_rejected = 0.95;

// One sample before it is cut: a box of an item, its axes named by what they become.
struct box {
    const struct corpus_item *item;
    int axis[3]; // of the item: columns, rows, slices
    int first[3];
    int size[3];                   // columns, rows, length along the slices without margins
    int factor;                    //
    struct profile profile;        //
    float noise;                   // sigma
    int flip[3];                   // columns, rows, slices
    int offset[SR_CUT_MAX_SLICES]; // per gap: voxels past the retained slice
};

struct sample_recipe sample_default(enum corpus_kind kind)
{
    struct sample_recipe recipe = {.batch = 1,
                                   .slices = 16,
                                   .crop = 64,
                                   .factor_min = 2,
                                   .factor_max = 8,
                                   .places = 1,
                                   .seed = 1,
                                   .profile = PROFILE_NONE};
    if (kind == CORPUS_MR) {
        recipe.profile = PROFILE_GAUSS;
        recipe.thickness_low = 0.6;
        recipe.thickness_high = 1.2;
        recipe.thin_share = 0.05;
        recipe.noise = 0.02;
        recipe.planar_share = 0.25;
        recipe.slices = 8; // what learns most in the same time: docs/RESULTS.md
        recipe.places = 3;
    } else {
        recipe.still_limit = 0.008;
    }
    return recipe;
}

int sample_batch_init(struct sample_batch *batch, const struct sample_recipe *recipe, struct fault_note *why)
{
    size_t plane = (size_t)recipe->crop * (size_t)recipe->crop, n = (size_t)recipe->batch,
           gaps = (size_t)recipe->slices - 1;
    memset(batch, 0, sizeof *batch);
    batch->stack = malloc(n * (size_t)recipe->slices * plane * sizeof *batch->stack);
    batch->planes = malloc(n * gaps * SR_PLANE_FLOATS * sizeof *batch->planes);
    batch->target = malloc(n * gaps * plane * sizeof *batch->target);
    if (batch->stack != NULL && batch->planes != NULL && batch->target != NULL)
        return 0;
    sample_batch_done(batch);
    return fault_set(why, FAULT_NO_MEMORY, "no memory for a batch of %d samples", recipe->batch);
}

void sample_batch_done(struct sample_batch *batch)
{
    free(batch->stack);
    free(batch->planes);
    free(batch->target);
    memset(batch, 0, sizeof *batch);
}

// --------------------------------------------------------------------------------------------- what can
// serve

// Voxels beside the outermost retained slices, so that a profile finds its tails.
static int margin_of(const struct sample_source *source)
{
    return source->corpus->kind == CORPUS_MR ? source->recipe.factor_max : 0;
}

static int length_of(const struct sample_recipe *recipe, int factor)
{
    return (recipe->slices - 1) * factor + 1;
}

static int fits(const struct sample_source *source, const struct corpus_item *item, const int axis[3],
                int rows)
{
    return item->size[axis[0]] >= source->recipe.crop && item->size[axis[1]] >= rows &&
           item->size[axis[2]] >=
               length_of(&source->recipe, source->recipe.factor_min) + 2 * margin_of(source);
}

// The axes of an item when `slices` is its slice axis. Columns come first in memory; of a thick stack the
// thick axis gives the rows.
static void name_axes(const struct corpus_item *item, int slices, int axis[3])
{
    axis[0] = slices == 0 ? 1 : 0;
    axis[1] = 3 - slices - axis[0];
    axis[2] = slices;
    if (item->thick_axis == axis[0]) {
        axis[0] = axis[1];
        axis[1] = item->thick_axis;
    }
}

static int rows_of(const struct sample_source *source, const struct corpus_item *item)
{
    return item->thick_axis >= 0 ? source->recipe.crop / 2 : source->recipe.crop;
}

// Bit i: axis i can be the slice axis.
static unsigned usable_axes(const struct sample_source *source, const struct corpus_item *item)
{
    unsigned usable = 0;
    for (int slices = source->corpus->kind == CORPUS_MR ? 0 : 2; slices < 3; slices++) {
        int axis[3];
        name_axes(item, slices, axis);
        if (slices != item->thick_axis && fits(source, item, axis, rows_of(source, item)))
            usable |= 1U << slices;
    }
    return usable;
}

static int check_recipe(const struct sample_recipe *recipe, struct fault_note *why)
{
    if (recipe->batch < 1 || recipe->slices < 2 || recipe->slices > SR_CUT_MAX_SLICES || recipe->crop < 4 ||
        recipe->factor_min < 1 || recipe->factor_max > SAMPLE_MAX_FACTOR ||
        recipe->factor_min > recipe->factor_max || recipe->places < 1)
        return fault_set(why, FAULT_INTERNAL,
                         "a recipe of %d samples, %d slices, crop %d, factors %d to %d, %d places",
                         recipe->batch, recipe->slices, recipe->crop, recipe->factor_min, recipe->factor_max,
                         recipe->places);
    return 0;
}

int sample_source_init(struct sample_source *source, const struct corpus *corpus,
                       const struct sample_recipe *recipe, struct fault_note *why)
{
    memset(source, 0, sizeof *source);
    int rc = check_recipe(recipe, why);
    if (rc != 0)
        return rc;
    source->corpus = corpus;
    source->recipe = *recipe;
    size_t n = corpus->n_items + 1;
    source->whole = calloc(n, sizeof *source->whole);
    source->planar = calloc(n, sizeof *source->planar);
    source->weight = calloc(n, sizeof *source->weight);
    if (source->whole == NULL || source->planar == NULL || source->weight == NULL) {
        sample_source_done(source);
        return fault_set(why, FAULT_NO_MEMORY, "no memory to list %zu items", n);
    }
    double sum = 0;
    for (size_t i = 0; i < corpus->n_items; i++) {
        const struct corpus_item *item = &corpus->items[i];
        if (usable_axes(source, item) == 0)
            continue;
        if (item->thick_axis >= 0) {
            source->planar[source->n_planar++] = i;
            continue;
        }
        sum += corpus->kind == CORPUS_VIDEO ? item->size[2] : 1; // a long clip has more to show
        source->weight[source->n_whole] = sum;
        source->whole[source->n_whole++] = i;
    }
    if (source->n_whole + source->n_planar > 0)
        return 0;
    sample_source_done(source);
    return fault_set(why, FAULT_NOT_FOUND,
                     "none of %zu items holds a sample of %d slices, factor %d, crop %d with margins",
                     corpus->n_items, recipe->slices, recipe->factor_min, recipe->crop);
}

void sample_source_done(struct sample_source *source)
{
    free(source->whole);
    free(source->planar);
    free(source->weight);
    memset(source, 0, sizeof *source);
}

// --------------------------------------------------------------------------------------------- one sample

static double between(struct random_stream *stream, double low, double high)
{
    return low + (high - low) * random_unit(stream);
}

static int chance(struct random_stream *stream, double share)
{
    return random_unit(stream) < share;
}

static double normal(struct random_stream *stream)
{
    double u = 1 - random_unit(stream), v = random_unit(stream);
    return sqrt(-2 * log(u)) * cos(2 * acos(-1) * v);
}

static const struct corpus_item *draw_item(const struct sample_source *source, struct random_stream *stream,
                                           int planar)
{
    const struct corpus *corpus = source->corpus;
    if (planar)
        return &corpus->items[source->planar[random_between(stream, 0, (int)source->n_planar - 1)]];
    double at = random_unit(stream) * source->weight[source->n_whole - 1];
    size_t i = 0;
    while (i + 1 < source->n_whole && source->weight[i] <= at)
        i++;
    return &corpus->items[source->whole[i]];
}

static void draw_size(const struct sample_source *source, struct random_stream *stream, struct box *box)
{
    const struct sample_recipe *recipe = &source->recipe;
    const struct corpus_item *item = box->item;
    unsigned usable = usable_axes(source, item);
    int slices, margin = margin_of(source);
    do
        slices = source->corpus->kind == CORPUS_MR ? random_between(stream, 0, 2) : 2;
    while (!(usable >> slices & 1));
    name_axes(item, slices, box->axis);
    if (source->corpus->kind == CORPUS_MR && item->thick_axis < 0 && chance(stream, 0.5)) {
        int swap = box->axis[0];
        box->axis[0] = box->axis[1];
        box->axis[1] = swap;
    }
    int most = recipe->factor_max;
    while (most > recipe->factor_min && length_of(recipe, most) + 2 * margin > item->size[slices])
        most--;
    box->factor = random_between(stream, recipe->factor_min, most);
    box->size[0] = recipe->crop;
    box->size[1] = rows_of(source, item);
    box->size[2] = length_of(recipe, box->factor);
}

static ptrdiff_t stride_of(const struct corpus_item *item, int axis)
{
    return axis == 0 ? 1 : axis == 1 ? item->size[0] : (ptrdiff_t)item->size[0] * item->size[1];
}

// The first voxel of the row of columns at (row, slice) of the box.
static const uint8_t *row_at(const struct box *box, int row, int slice)
{
    return box->item->voxels + box->first[0] * stride_of(box->item, box->axis[0]) +
           (box->first[1] + row) * stride_of(box->item, box->axis[1]) +
           (box->first[2] + slice) * stride_of(box->item, box->axis[2]);
}

static double mean_of(const struct box *box)
{
    ptrdiff_t step = stride_of(box->item, box->axis[0]);
    uint64_t sum = 0;
    for (int slice = 0; slice < box->size[2]; slice++)
        for (int row = 0; row < box->size[1]; row++) {
            const uint8_t *at = row_at(box, row, slice);
            for (int column = 0; column < box->size[0]; column++)
                sum += at[column * step];
        }
    return (double)sum / (255.0 * box->size[0] * box->size[1] * box->size[2]);
}

// Mean difference of neighbouring retained frames.
static double motion_of(const struct box *box)
{
    int gaps = (box->size[2] - 1) / box->factor;
    uint64_t sum = 0;
    for (int gap = 0; gap < gaps; gap++)
        for (int row = 0; row < box->size[1]; row++) {
            const uint8_t *a = row_at(box, row, gap * box->factor),
                          *b = row_at(box, row, (gap + 1) * box->factor);
            for (int column = 0; column < box->size[0]; column++)
                sum += (uint64_t)abs(a[column] - b[column]);
        }
    return (double)sum / (255.0 * gaps * box->size[0] * box->size[1]);
}

static void draw_first(const struct sample_source *source, struct random_stream *stream, struct box *box)
{
    for (int i = 0; i < 3; i++) {
        int beside = i == 2 ? margin_of(source) : 0, length = box->item->size[box->axis[i]];
        box->first[i] = beside + random_between(stream, 0, length - box->size[i] - 2 * beside);
    }
}

// Where the box lies, once item, axes and factor are known: of some places the one whose retained slices
// differ most, since in many others there is little that linear interpolation would not do.
static void draw_place(const struct sample_source *source, struct random_stream *stream, struct box *box)
{
    draw_first(source, stream, box);
    if (source->recipe.places == 1)
        return;
    struct box other = *box;
    double most = motion_of(box);
    for (int i = 1; i < source->recipe.places; i++) {
        draw_first(source, stream, &other);
        double motion = motion_of(&other);
        if (motion <= most)
            continue;
        most = motion;
        memcpy(box->first, other.first, sizeof box->first);
    }
}

static int is_dull(const struct sample_source *source, struct random_stream *stream, const struct box *box)
{
    if (source->corpus->kind == CORPUS_MR)
        return mean_of(box) < dark_mean && chance(stream, dark_rejected);
    return motion_of(box) < source->recipe.still_limit && chance(stream, still_rejected);
}

static void draw_looks(const struct sample_recipe *recipe, struct random_stream *stream, struct box *box)
{
    double thickness = 0;
    if (recipe->profile != PROFILE_NONE && !chance(stream, recipe->thin_share))
        thickness = box->factor * between(stream, recipe->thickness_low, recipe->thickness_high);
    profile_init(&box->profile, recipe->profile, thickness, 0.5);
    box->noise =
        recipe->noise > 0 && chance(stream, noisy_share) ? (float)between(stream, 0, recipe->noise) : 0;
}

static void draw_targets(const struct sample_recipe *recipe, struct random_stream *stream, struct box *box)
{
    int n = box->factor, acquired = chance(stream, acquired_share); // thick slices are blurred there too
    for (int gap = 0; gap + 1 < recipe->slices; gap++)
        box->offset[gap] = acquired ? random_between(stream, 0, n)
                           : n > 1  ? random_between(stream, 1, n - 1)
                                    : 0;
    for (int i = 0; i < 3; i++)
        box->flip[i] = chance(stream, 0.5);
}

static int draw_box(const struct sample_source *source, struct random_stream *stream, int planar,
                    struct box *box, struct fault_note *why)
{
    for (int i = 0; i < MAX_TRIES; i++) {
        box->item = draw_item(source, stream, planar);
        draw_size(source, stream, box);
        draw_place(source, stream, box);
        if (is_dull(source, stream, box))
            continue;
        draw_looks(&source->recipe, stream, box);
        draw_targets(&source->recipe, stream, box);
        return 0;
    }
    return fault_set(why, FAULT_NOT_FOUND, "%d places were drawn and all are dark or at rest", MAX_TRIES);
}

// --------------------------------------------------------------------------------------------- cutting

// The plane at `slice` of the box: blurred by the profile, or as it is (profile NULL). out [rows,columns],
// flipped.
static void cut_plane(const struct box *box, int slice, const struct profile *profile, float *out)
{
    ptrdiff_t step = stride_of(box->item, box->axis[0]);
    int reach = profile != NULL ? profile->reach : 0, columns = box->size[0], rows = box->size[1];
    int centre = box->first[2] + slice, last = box->item->size[box->axis[2]] - 1;
    int from = centre - reach < 0 ? -centre : -reach, to = centre + reach > last ? last - centre : reach;
    double total = 0;
    for (int i = from; i <= to; i++)
        total += profile != NULL ? profile->weight[i + reach] : 1;
    for (int row = 0; row < rows; row++) {
        float *to_row = out + (ptrdiff_t)(box->flip[1] ? rows - 1 - row : row) * columns;
        memset(to_row, 0, (size_t)columns * sizeof *to_row);
        for (int i = from; i <= to; i++) {
            const uint8_t *at = row_at(box, row, slice + i);
            // a stored byte is a value from 0 to 1
            float weight = (float)((profile != NULL ? profile->weight[i + reach] : 1) / total / 255);
            for (int column = 0; column < columns; column++)
                to_row[box->flip[0] ? columns - 1 - column : column] += weight * (float)at[column * step];
        }
    }
}

static void cut_sample(const struct box *box, int n, int slices, struct random_stream *stream,
                       struct sample_batch *batch)
{
    size_t plane = (size_t)box->size[0] * (size_t)box->size[1];
    int gaps = slices - 1;
    float *stack = batch->stack + (size_t)n * (size_t)slices * plane;
    for (int d = 0; d < slices; d++) {
        int from = box->flip[2] ? gaps - d : d;
        cut_plane(box, from * box->factor, &box->profile, stack + (size_t)d * plane);
    }
    for (size_t i = 0; box->noise > 0 && i < (size_t)slices * plane; i++)
        stack[i] += box->noise * (float)normal(stream);
    for (int gap = 0; gap < gaps; gap++) {
        int from = box->flip[2] ? gaps - 1 - gap : gap, at = box->offset[from];
        size_t k = (size_t)n * (size_t)gaps + (size_t)gap;
        cut_plane(box, from * box->factor + at, NULL, batch->target + k * plane);
        batch->planes[k * SR_PLANE_FLOATS + SR_PLANE_STACK] = (float)n;
        batch->planes[k * SR_PLANE_FLOATS + SR_PLANE_SLICE] = (float)gap;
        batch->planes[k * SR_PLANE_FLOATS + SR_PLANE_T] =
            (float)(box->flip[2] ? box->factor - at : at) / (float)box->factor;
    }
}

int sample_draw(const struct sample_source *source, uint64_t step, struct sample_batch *batch,
                struct fault_note *why)
{
    const struct sample_recipe *recipe = &source->recipe;
    struct random_stream stream = random_open(recipe->seed, RANDOM_BATCH, step);
    int planar = source->n_planar > 0 && (source->n_whole == 0 || chance(&stream, recipe->planar_share));
    batch->extent = (struct sr_extent){recipe->batch, recipe->slices,
                                       planar ? recipe->crop / 2 : recipe->crop, recipe->crop};
    for (int n = 0; n < recipe->batch; n++) {
        struct box box = {0};
        struct random_stream own =
            random_open(recipe->seed, RANDOM_SAMPLE, step * (uint64_t)recipe->batch + (uint64_t)n);
        int rc = draw_box(source, &own, planar, &box, why);
        if (rc != 0)
            return rc;
        cut_sample(&box, n, recipe->slices, &own, batch);
    }
    return 0;
}
