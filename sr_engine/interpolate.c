// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/interpolate.h"

#include <stdlib.h>
#include <string.h>

enum {
    MIN_CORE = 8, // rows and columns of the smallest tile without its halo
    MAX_TILES_PER_AXIS = 64,
    QUERIES_PER_CALL = 1 << 21, // points decoded at a time: 8 MB of results
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
    const struct sr_plane *planes;
    const size_t *order; // planes sorted by place
    size_t n_planes;
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

// The cheapest tiling within the limit: the fewest voxels that are encoded twice.
static int choose_tiling(struct job *job, struct fault_note *why)
{
    size_t least = SIZE_MAX;
    int found = 0;
    for (int rows = 1; rows <= MAX_TILES_PER_AXIS && (rows == 1 || job->height / rows >= MIN_CORE); rows++)
        for (int columns = 1;
             columns <= MAX_TILES_PER_AXIS && (columns == 1 || job->width / columns >= MIN_CORE); columns++) {
            struct tiling tiling;
            plan_tiles(job, rows, columns, &tiling);
            least = tiling.bytes < least ? tiling.bytes : least;
            if (tiling.bytes > job->limits->memory_bytes)
                continue;
            if (!found || cost_of(&tiling) < cost_of(&job->tiling))
                job->tiling = tiling;
            found = 1;
        }
    if (found)
        return 0;
    fault_set(why, FAULT_NO_MEMORY, "no tile of a stack of %dx%dx%d fits: the smallest needs %zu of %zu MB",
              job->depth, job->height, job->width, least >> 20, job->limits->memory_bytes >> 20);
    return FAULT_NO_MEMORY;
}

static int report_progress(const struct job *job, double done, struct fault_note *why)
{
    const struct interpolate_limits *limits = job->limits;
    double total = (double)job->tiling.rows * job->tiling.columns;
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
        for (int h = 0; h < tiling->tile_height; h++, to += tiling->tile_width)
            memcpy(to,
                   job->stack + ((size_t)d * (size_t)job->height + (size_t)(top + h)) * (size_t)job->width +
                       (size_t)left,
                   (size_t)tiling->tile_width * sizeof *to);
    int rc = job->model->ops->upload(job->model->device, job->tile, job->host, why);
    return rc != 0 ? rc : model_encode(job->model, job->tile, job->maps, why);
}

// Planes first .. first + planes_per_call - 1 of the order; a call past the end repeats the last plane.
static int decode_planes(struct job *job, size_t first, int row, int column, struct sr_window window,
                         struct fault_note *why)
{
    const struct sr_ops *ops = job->model->ops;
    int n = job->tiling.planes_per_call;
    for (int i = 0; i < n; i++) {
        size_t at = first + (size_t)i < job->n_planes ? first + (size_t)i : job->n_planes - 1;
        const struct sr_plane *plane = &job->planes[job->order[at]];
        float *place = job->host_places + (size_t)i * SR_PLANE_FLOATS;
        place[SR_PLANE_STACK] = 0;
        place[SR_PLANE_SLICE] = (float)plane->slice;
        place[SR_PLANE_T] = (float)plane->t;
    }
    int rc = ops->upload(job->model->device, job->places, job->host_places, why);
    if (rc == 0)
        rc = ops->decode_forward(job->model->device, job->maps[1], NULL, job->places, window, 0, job->y, why);
    if (rc == 0)
        rc = ops->download(job->model->device, job->y, job->host, why);
    if (rc != 0)
        return rc;
    size_t plane_size = (size_t)job->height * (size_t)job->width;
    const float *from = job->host;
    for (int i = 0; i < n && first + (size_t)i < job->n_planes; i++) {
        float *to = job->residual + job->order[first + (size_t)i] * plane_size;
        for (int h = 0; h < window.rows; h++, from += window.columns)
            memcpy(to + (size_t)(row + h) * (size_t)job->width + (size_t)column, from,
                   (size_t)window.columns * sizeof *to);
    }
    return 0;
}

static int clamp_start(int start, int size, int limit)
{
    return start < 0 ? 0 : start + size > limit ? limit - size : start;
}

// One tile. The core is moved inwards at the far edges instead of being cut, so every tile has the same
// shape.
static int run_tile(struct job *job, int i, int j, struct fault_note *why)
{
    const struct tiling *tiling = &job->tiling;
    int halo = halo_of(&job->model->net);
    int row = clamp_start(i * tiling->core_height, tiling->core_height, job->height);
    int column = clamp_start(j * tiling->core_width, tiling->core_width, job->width);
    int top = clamp_start(row - halo, tiling->tile_height, job->height);
    int left = clamp_start(column - halo, tiling->tile_width, job->width);
    struct sr_window window = {row - top, column - left, tiling->core_height, tiling->core_width};
    double before = (double)i * tiling->columns + j; // tiles done
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
}

struct place {
    struct sr_plane plane;
    size_t index;
};

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->plane.slice != y->plane.slice)
        return x->plane.slice < y->plane.slice ? -1 : 1;
    if (x->plane.t != y->plane.t)
        return x->plane.t < y->plane.t ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static size_t *sort_planes(const struct sr_plane *planes, size_t n)
{
    struct place *places = malloc(n * sizeof *places);
    size_t *order = malloc(n * sizeof *order);
    if (places != NULL && order != NULL) {
        for (size_t i = 0; i < n; i++)
            places[i] = (struct place){planes[i], i};
        qsort(places, n, sizeof *places, by_place);
        for (size_t i = 0; i < n; i++)
            order[i] = places[i].index;
    } else {
        free(order);
        order = NULL;
    }
    free(places);
    return order;
}

int interpolate_planes(struct model *model, const float *stack, int depth, int height, int width,
                       const struct sr_plane *planes, size_t n_planes, struct interpolate_limits *limits,
                       float *residual, struct fault_note *why)
{
    struct job job = {.model = model, .stack = stack, .depth = depth, .height = height, .width = width};
    if (n_planes == 0)
        return 0;
    job.planes = planes;
    job.n_planes = n_planes;
    job.limits = limits;
    job.residual = residual;
    int rc = choose_tiling(&job, why);
    if (rc != 0)
        return rc;
    size_t *order = sort_planes(planes, n_planes);
    if (order == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory to order %zu planes", n_planes);
    job.order = order;
    rc = open_buffers(&job, why);
    if (rc == 0)
        rc = report_progress(&job, 0, why);
    for (int i = 0; rc == 0 && i < job.tiling.rows; i++)
        for (int j = 0; rc == 0 && j < job.tiling.columns; j++)
            rc = run_tile(&job, i, j, why);
    if (rc == 0 && job.tiling.bytes > limits->workspace_bytes)
        limits->workspace_bytes = job.tiling.bytes;
    close_buffers(&job);
    free(order);
    return rc;
}
