// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/interpolate.h"

#include "sr_engine/recipe.h"

#include <stdlib.h>
#include <string.h>

enum {
    MIN_CORE = 8, // rows and columns of the smallest tile without its halo
    MAX_TILES_PER_AXIS = 64,
    QUERIES_PER_CALL = 1 << 21, // points decoded at a time: 8 MB of results
};

static const double shrink = 0.7; // of what a tiling needed that the device had no memory for

// A pass over the stack turned over: any of these together; an ensemble of n does the first n.
enum { FLIP_SLICES = 1, FLIP_ROWS = 2, FLIP_COLUMNS = 4 };

// One decoded plane: where it lies, which wanted plane it is for and what share of that it makes up.
struct entry {
    struct sr_plane plane;
    size_t index;
    float share;
};

// Tiles of equal size, so that one set of buffers and of prepared primitives serves all.
struct tiling {
    int rows, columns;           // number of tiles
    int tile_height, tile_width; // with halo
    int core_height, core_width;
    int planes_per_call;
    size_t bytes;
};

struct job {
    struct model *model;
    const float *stack;
    int depth, height, width;
    const struct entry *entries; // sorted by place
    size_t n_planes;             // entries
    int n_passes, flip;          // flips of a tile; the one under way
    int fresh_row, fresh_column; // what lies before them was written by the tiles before
    struct interpolate_limits *limits;
    float *residual;
    struct tiling tiling;
    struct sr_buffer *tile, *maps[2], *places, *y;
    float *host; // a tile's stack, and a call's results
    float *host_places;
};

static int halo_of(const struct net *net)
{
    return 2 * net->config.blocks + 2 + NET_WINDOW / 2 * net->config.dilation;
}

static void cut_axis(int size, int n_tiles, int halo, int *core, int *tile)
{
    *core = (size + n_tiles - 1) / n_tiles;
    *tile = *core + 2 * halo < size ? *core + 2 * halo : size;
}

static void plan_tiles(const struct job *job, int rows, int columns, struct tiling *tiling)
{
    const struct net *net = &job->model->net;
    int halo = halo_of(net);
    tiling->rows = rows;
    tiling->columns = columns;
    cut_axis(job->height, rows, halo, &tiling->core_height, &tiling->tile_height);
    cut_axis(job->width, columns, halo, &tiling->core_width, &tiling->tile_width);
    size_t core = (size_t)tiling->core_height * (size_t)tiling->core_width;
    size_t voxels = (size_t)job->depth * (size_t)tiling->tile_height * (size_t)tiling->tile_width;
    size_t n = QUERIES_PER_CALL / core;
    n = n < 1 ? 1 : n > job->n_planes ? job->n_planes : n;
    size_t n_calls =
        (job->n_planes + n - 1) / n; // evened out: the last call would be filled up with repetitions
    n = (job->n_planes + n_calls - 1) / n_calls;
    tiling->planes_per_call = (int)n;
    struct sr_extent extent = {1, job->depth, tiling->tile_height, tiling->tile_width};
    tiling->bytes = sizeof(float) * (2 * voxels * (size_t)net->config.channels + 2 * voxels + 2 * n * core +
                                     net->n_parameters) +
                    job->model->ops->scratch_bytes(job->model->device, extent, n * core, 0);
}

static double cost_of(const struct tiling *tiling)
{
    return (double)tiling->rows * tiling->columns * tiling->tile_height * tiling->tile_width;
}

// The cheapest tiling of at most `most` bytes: the fewest voxels that are encoded twice.
static int choose_tiling(struct job *job, size_t most, struct fault_note *why)
{
    size_t least = SIZE_MAX;
    int found = 0;
    for (int rows = 1; rows <= MAX_TILES_PER_AXIS && (rows == 1 || job->height / rows >= MIN_CORE); rows++)
        for (int columns = 1;
             columns <= MAX_TILES_PER_AXIS && (columns == 1 || job->width / columns >= MIN_CORE); columns++) {
            struct tiling tiling;
            plan_tiles(job, rows, columns, &tiling);
            least = tiling.bytes < least ? tiling.bytes : least;
            if (tiling.bytes > most)
                continue;
            if (!found || cost_of(&tiling) < cost_of(&job->tiling))
                job->tiling = tiling;
            found = 1;
        }
    if (found)
        return 0;
    fault_set(why, FAULT_NO_MEMORY, "no tile of a stack of %dx%dx%d fits: the smallest needs %zu of %zu MB",
              job->depth, job->height, job->width, least >> 20, most >> 20);
    return FAULT_NO_MEMORY;
}

static int report_progress(const struct job *job, double done, struct fault_note *why)
{
    const struct interpolate_limits *limits = job->limits;
    double total = (double)job->tiling.rows * job->tiling.columns * job->n_passes;
    if (limits->progress == NULL ||
        limits->progress(limits->progress_user, limits->phase, done, total, NULL) == 0)
        return 0;
    return fault_set(why, FAULT_CANCELLED, "stopped on request during '%s'", limits->phase);
}

static int load_tile(struct job *job, int top, int left, struct fault_note *why)
{
    const struct tiling *tiling = &job->tiling;
    float *to = job->host;
    for (int d = 0; d < job->depth; d++)
        for (int h = 0; h < tiling->tile_height; h++, to += tiling->tile_width) {
            int slice = job->flip & FLIP_SLICES ? job->depth - 1 - d : d;
            int row = top + (job->flip & FLIP_ROWS ? tiling->tile_height - 1 - h : h);
            const float *from = job->stack +
                                ((size_t)slice * (size_t)job->height + (size_t)row) * (size_t)job->width +
                                (size_t)left;
            for (int w = 0; w < tiling->tile_width; w++)
                to[w] = from[job->flip & FLIP_COLUMNS ? tiling->tile_width - 1 - w : w];
        }
    int rc = job->model->ops->upload(job->model->device, job->tile, job->host, why);
    return rc != 0 ? rc : model_encode(job->model, job->tile, job->maps, why);
}

// The same place counted from the other end of the stack; at an acquired slice the attention then looks to
// the slice before it.
static struct sr_plane reverse_plane(struct sr_plane plane, int depth)
{
    return plane.t > 0 ? (struct sr_plane){depth - 2 - plane.slice, 1 - plane.t}
                       : (struct sr_plane){depth - 1 - plane.slice, 0};
}

// The part of the flipped tile that is the given part of the tile.
static struct sr_window flip_window(const struct job *job, struct sr_window window)
{
    if (job->flip & FLIP_ROWS)
        window.row = job->tiling.tile_height - window.row - window.rows;
    if (job->flip & FLIP_COLUMNS)
        window.column = job->tiling.tile_width - window.column - window.columns;
    return window;
}

// A decoded part's share of its plane, turned back, added to the result at (row, column).
static void add_part(const struct job *job, const struct entry *entry, struct sr_window window, int row,
                     int column, const float *from)
{
    float share = entry->share / (float)job->n_passes;
    float *plane = job->residual + entry->index * (size_t)job->height * (size_t)job->width;
    for (int h = 0; h < window.rows; h++, from += window.columns) {
        int at = row + (job->flip & FLIP_ROWS ? window.rows - 1 - h : h);
        float *to = plane + (size_t)at * (size_t)job->width + (size_t)column;
        int skip = at < job->fresh_row ? window.columns : job->fresh_column - column;
        for (int w = skip; w < window.columns; w++)
            to[w] += share * from[job->flip & FLIP_COLUMNS ? window.columns - 1 - w : w];
    }
}

// Entries first .. first + planes_per_call - 1; a call past the end repeats the last one.
static int decode_planes(struct job *job, size_t first, int row, int column, struct sr_window window,
                         struct fault_note *why)
{
    const struct sr_ops *ops = job->model->ops;
    int n = job->tiling.planes_per_call;
    for (int i = 0; i < n; i++) {
        size_t at = first + (size_t)i < job->n_planes ? first + (size_t)i : job->n_planes - 1;
        struct sr_plane plane = job->entries[at].plane;
        if (job->flip & FLIP_SLICES)
            plane = reverse_plane(plane, job->depth);
        float *place = job->host_places + (size_t)i * SR_PLANE_FLOATS;
        place[SR_PLANE_STACK] = 0;
        place[SR_PLANE_SLICE] = (float)plane.slice;
        place[SR_PLANE_T] = (float)plane.t;
    }
    int rc = ops->upload(job->model->device, job->places, job->host_places, why);
    if (rc == 0)
        rc = ops->decode_forward(job->model->device, job->maps[1], NULL, job->places,
                                 flip_window(job, window), 0, job->y, why);
    if (rc == 0)
        rc = ops->download(job->model->device, job->y, job->host, why);
    if (rc != 0)
        return rc;
    size_t part = (size_t)window.rows * (size_t)window.columns;
    for (int i = 0; i < n && first + (size_t)i < job->n_planes; i++)
        add_part(job, &job->entries[first + (size_t)i], window, row, column, job->host + (size_t)i * part);
    return 0;
}

static int clamp_start(int start, int size, int limit)
{
    return start < 0 ? 0 : start + size > limit ? limit - size : start;
}

// One pass over one tile. The core is moved inwards at the far edges instead of being cut, so every tile has
// the same shape; what two cores cover is computed twice and taken from the first.
static int run_tile(struct job *job, int i, int j, double before, struct fault_note *why)
{
    const struct tiling *tiling = &job->tiling;
    int halo = halo_of(&job->model->net);
    int row = clamp_start(i * tiling->core_height, tiling->core_height, job->height);
    int column = clamp_start(j * tiling->core_width, tiling->core_width, job->width);
    int top = clamp_start(row - halo, tiling->tile_height, job->height);
    int left = clamp_start(column - halo, tiling->tile_width, job->width);
    struct sr_window window = {row - top, column - left, tiling->core_height, tiling->core_width};
    job->fresh_row = i * tiling->core_height;
    job->fresh_column = j * tiling->core_width;
    int rc = load_tile(job, top, left, why);
    for (size_t first = 0; rc == 0 && first < job->n_planes; first += (size_t)tiling->planes_per_call) {
        rc = decode_planes(job, first, row, column, window, why);
        if (rc == 0)
            rc = report_progress(job, before + 0.5 + 0.5 * (double)first / (double)job->n_planes, why);
    }
    return rc != 0 ? rc : report_progress(job, before + 1, why);
}

static int open_buffers(struct job *job, struct fault_note *why)
{
    const struct tiling *tiling = &job->tiling;
    const struct sr_ops *ops = job->model->ops;
    struct sr_device *device = job->model->device;
    int channels = job->model->net.config.channels, n = tiling->planes_per_call;
    struct sr_extent tile = {1, job->depth, tiling->tile_height, tiling->tile_width};
    size_t voxels = (size_t)tile.d * (size_t)tile.h * (size_t)tile.w;
    size_t results = (size_t)n * (size_t)tiling->core_height * (size_t)tiling->core_width;
    int rc = ops->buffer_new(device, tile, 1, &job->tile, why);
    for (int i = 0; rc == 0 && i < 2; i++)
        rc = ops->buffer_new(device, tile, channels, &job->maps[i], why);
    if (rc == 0)
        rc = ops->buffer_new(device, (struct sr_extent){1, 1, n, SR_PLANE_FLOATS}, 1, &job->places, why);
    if (rc == 0)
        rc = ops->buffer_new(device, (struct sr_extent){1, n, tiling->core_height, tiling->core_width}, 1,
                             &job->y, why);
    job->host = malloc((voxels > results ? voxels : results) * sizeof *job->host);
    job->host_places = malloc((size_t)n * SR_PLANE_FLOATS * sizeof *job->host_places);
    if (rc == 0 && (job->host == NULL || job->host_places == NULL))
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for a tile of %zu voxels", voxels);
    return rc;
}

static void close_buffers(struct job *job)
{
    const struct sr_ops *ops = job->model->ops;
    struct sr_device *device = job->model->device;
    ops->buffer_free(device, job->tile);
    ops->buffer_free(device, job->maps[0]);
    ops->buffer_free(device, job->maps[1]);
    ops->buffer_free(device, job->places);
    ops->buffer_free(device, job->y);
    free(job->host);
    free(job->host_places);
    job->tile = job->maps[0] = job->maps[1] = job->places = job->y = NULL;
    job->host = job->host_places = NULL;
}

static int by_place(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->plane.slice != y->plane.slice)
        return x->plane.slice < y->plane.slice ? -1 : 1;
    if (x->plane.t != y->plane.t)
        return x->plane.t < y->plane.t ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

// Adds what has to be decoded for one wanted plane.
static size_t list_plane(struct entry *entries, struct sr_plane plane, size_t index, int depth, int acquired)
{
    int is_acquired = plane.t == 0;
    if (is_acquired && acquired == SR_ACQUIRED_KEPT)
        return 0;
    entries[0] = (struct entry){plane, index, 1};
    if (!is_acquired || acquired == SR_ACQUIRED_ONE || plane.slice == 0)
        return 1;
    struct sr_plane before = {plane.slice - 1, 1};
    if (plane.slice == depth - 1) { // nothing follows: only the window before it
        entries[0].plane = before;
        return 1;
    }
    entries[0].share = 0.5F;
    entries[1] = (struct entry){before, index, 0.5F};
    return 2;
}

static struct entry *list_planes(const struct sr_plane *planes, size_t n_planes, int depth,
                                 const struct sr_recipe *use, size_t *n)
{
    struct entry *entries = malloc(2 * n_planes * sizeof *entries);
    *n = 0;
    for (size_t i = 0; entries != NULL && i < n_planes; i++)
        *n += list_plane(entries + *n, planes[i], i, depth, use != NULL ? use->acquired : SR_ACQUIRED_ONE);
    if (entries != NULL)
        qsort(entries, *n, sizeof *entries, by_place);
    return entries;
}

static int run_tiles(struct job *job, struct fault_note *why)
{
    const struct tiling *tiling = &job->tiling;
    double done = 0;
    int rc = report_progress(job, 0, why);
    for (int i = 0; rc == 0 && i < tiling->rows; i++)
        for (int j = 0; rc == 0 && j < tiling->columns; j++)
            for (job->flip = 0; rc == 0 && job->flip < job->n_passes; job->flip++)
                rc = run_tile(job, i, j, done++, why);
    return rc;
}

static int run_tiling(struct job *job, struct fault_note *why)
{
    int rc = open_buffers(job, why);
    if (rc == 0)
        rc = run_tiles(job, why);
    if (rc == 0 && job->tiling.bytes > job->limits->workspace_bytes)
        job->limits->workspace_bytes = job->tiling.bytes;
    job->limits->tile_rows = job->tiling.rows;
    job->limits->tile_columns = job->tiling.columns;
    close_buffers(job);
    return rc;
}

// Others may take the device's memory while the job runs: what it refuses is tried again in smaller tiles,
// and the first refusal is told when none is small enough.
static int run_within(struct job *job, size_t n_values, struct fault_note *why)
{
    size_t most = job->limits->memory_bytes;
    int rc = choose_tiling(job, most, why);
    if (rc == 0)
        rc = run_tiling(job, why);
    while (rc == FAULT_NO_MEMORY && job->tiling.bytes > 0) {
        struct fault_note smaller = {0};
        most = (size_t)((double)job->tiling.bytes * shrink);
        job->tiling.bytes = 0;
        if (choose_tiling(job, most, &smaller) != 0)
            break;
        memset(job->residual, 0, n_values * sizeof *job->residual);
        rc = run_tiling(job, &smaller);
        if (rc != 0 && rc != FAULT_NO_MEMORY)
            *why = smaller;
    }
    return rc;
}

int interpolate_planes(struct model *model, const float *stack, int depth, int height, int width,
                       const struct sr_plane *planes, size_t n_planes, struct interpolate_limits *limits,
                       float *residual, struct fault_note *why)
{
    struct job job = {.model = model, .stack = stack, .depth = depth, .height = height, .width = width};
    memset(residual, 0, n_planes * (size_t)height * (size_t)width * sizeof *residual);
    struct entry *entries = list_planes(planes, n_planes, depth, limits->use, &job.n_planes);
    if (entries == NULL && n_planes > 0)
        return fault_set(why, FAULT_NO_MEMORY, "no memory to order %zu planes", n_planes);
    job.entries = entries;
    job.n_passes = limits->use != NULL ? limits->use->ensemble : 1;
    job.limits = limits;
    job.residual = residual;
    int rc = job.n_planes > 0 ? run_within(&job, n_planes * (size_t)height * (size_t)width, why) : 0;
    free(entries);
    return rc;
}
