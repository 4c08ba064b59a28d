// SPDX-License-Identifier: Apache-2.0
//
// The "cpu" backend: memory, packing and the sharing of work between threads; the inner loops are
// cpu_kernels.c. No sum is split by the number of threads, so results do not depend on it: tiles and queries
// are independent, the convolution's weight gradient is shared out by transformed point, the decoder's over a
// fixed number of shares.
#include "sr_engine/cpu_kernels.h"
#include "sr_engine/ops.h"
#include "sr_engine/pool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// products of these constants and of a tile's sizes are far below 2^31
// NOLINTBEGIN(bugprone-implicit-widening-of-multiplication-result)

enum { ALIGN = 64, SHARES = 16, C = CPU_CHANNELS, H = CPU_HIDDEN, HEAD_TAPS = 27, LINES_PER_TASK = 16 };

struct sr_buffer {
    struct sr_extent extent;
    int channels;
    size_t count;
    float *data; // [N,D,H,W,channels]
};

// Memory that grows to the largest size asked for.
struct scratch {
    float *data;
    size_t count;
};

struct sr_device {
    struct net net;
    const struct cpu_kernels *kernels;
    struct pool *pool;
    int threads;
    char description[64];
    const float *parameters; // borrowed from the buffer given to prepare
    float *packed;           // everything below, one block
    float *conv[NET_MAX_CONVS], *conv_back[NET_MAX_CONVS];
    float *head; // [27][64]
    struct cpu_weights weights;
    int back_ready; // the backward half of the packing is of the current parameters
    struct scratch per_thread, transformed, kept, shares;
    struct cpu_plane *planes; // parsed and grouped; room for n_planes_room
    int *groups;
    int n_planes_room;
};

static int no_memory(size_t count, struct fault_note *why)
{
    return fault_set(why, FAULT_NO_MEMORY, "no memory for %zu MB on the cpu backend",
                     count * sizeof(float) >> 20);
}

static float *alloc_floats(size_t count)
{
    size_t bytes = (count * sizeof(float) + ALIGN) / ALIGN * ALIGN;
    float *data = aligned_alloc(ALIGN, bytes);
    if (data != NULL)
        memset(data, 0, bytes);
    return data;
}

static int need(struct scratch *scratch, size_t count, struct fault_note *why)
{
    if (count <= scratch->count)
        return 0;
    free(scratch->data);
    scratch->count = 0;
    scratch->data = alloc_floats(count);
    if (scratch->data == NULL)
        return no_memory(count, why);
    scratch->count = count;
    return 0;
}

// --------------------------------------------------------------------------------------------- device and
// buffers

static int cpu_usable(struct fault_note *why)
{
    (void)why;
    return 1;
}

static size_t per_thread_floats(const struct sr_device *device)
{
    size_t decode = device->kernels->decode_scratch, conv = CPU_CONV_SCRATCH;
    return ((decode > conv ? decode : conv) + ALIGN) / ALIGN * ALIGN;
}

static size_t packed_floats(const struct net *net)
{
    size_t convs = (size_t)net->n_convs - 1, linears = 6 * C * C + 2 * (C * H + 3 * H * H) + C;
    return 2 * convs * CPU_CONV_PACKED + HEAD_TAPS * C + linears;
}

static float *take(float **at, size_t count)
{
    float *taken = *at;
    *at += count;
    return taken;
}

static void lay_out_packed(struct sr_device *device)
{
    float *at = device->packed;
    for (int i = 1; i < device->net.n_convs; i++) {
        device->conv[i] = take(&at, CPU_CONV_PACKED);
        device->conv_back[i] = take(&at, CPU_CONV_PACKED);
    }
    device->head = take(&at, HEAD_TAPS * C);
    struct cpu_weights *w = &device->weights;
    const float **square[] = {&w->fold, &w->query, &w->query_back, &w->key_back, &w->value, &w->value_back};
    for (size_t i = 0; i < sizeof square / sizeof square[0]; i++)
        *square[i] = take(&at, C * C);
    for (int i = 0; i < CPU_LAYERS - 1; i++) {
        w->layer[i] = take(&at, (size_t)(i == 0 ? C : H) * H);
        w->layer_back[i] = take(&at, (size_t)(i == 0 ? C : H) * H);
    }
    w->fold_bias = take(&at, C);
}

static void cpu_close(struct sr_device *device)
{
    if (device == NULL)
        return;
    pool_close(device->pool);
    free(device->packed);
    free(device->per_thread.data);
    free(device->transformed.data);
    free(device->kept.data);
    free(device->shares.data);
    free(device->planes);
    free(device->groups);
    free(device);
}

static int cpu_open(const struct net *net, int threads, struct sr_device **device, struct fault_note *why)
{
    if (net->config.channels != C || net->config.hidden != H || net->n_linears != CPU_LAYERS)
        return fault_set(why, FAULT_BACKEND,
                         "the cpu backend is made for %d channels and 4 x %d hidden units", C, H);
    struct sr_device *made = calloc(1, sizeof *made);
    if (made == NULL)
        return no_memory(0, why);
    made->net = *net;
    made->kernels = cpu_kernels_best();
    int rc = pool_open(threads, &made->pool, why);
    if (rc != 0) {
        free(made);
        return rc;
    }
    made->threads = pool_threads(made->pool);
    snprintf(made->description, sizeof made->description, "cpu (%s, %d threads)", made->kernels->name,
             made->threads);
    made->packed = alloc_floats(packed_floats(net));
    rc = made->packed != NULL ? 0 : no_memory(packed_floats(net), why);
    if (rc == 0)
        rc = need(&made->per_thread, per_thread_floats(made) * (size_t)made->threads, why);
    if (rc != 0) {
        cpu_close(made);
        return rc;
    }
    lay_out_packed(made);
    *device = made;
    return 0;
}

static const char *cpu_describe(const struct sr_device *device)
{
    return device->description;
}

static float *thread_scratch(const struct sr_device *device, int thread)
{
    return device->per_thread.data + (size_t)thread * per_thread_floats(device);
}

static int cpu_buffer_new(struct sr_device *device, struct sr_extent extent, int channels,
                          struct sr_buffer **buffer, struct fault_note *why)
{
    (void)device;
    struct sr_buffer *made = calloc(1, sizeof *made);
    if (made == NULL)
        return no_memory(0, why);
    made->extent = extent;
    made->channels = channels;
    made->count =
        (size_t)extent.n * (size_t)channels * (size_t)extent.d * (size_t)extent.h * (size_t)extent.w;
    made->data = alloc_floats(made->count);
    if (made->data == NULL) {
        size_t count = made->count;
        free(made);
        return no_memory(count, why);
    }
    *buffer = made;
    return 0;
}

static void cpu_buffer_free(struct sr_device *device, struct sr_buffer *buffer)
{
    (void)device;
    if (buffer != NULL)
        free(buffer->data);
    free(buffer);
}

static int n_tiles_of(struct sr_extent e)
{
    return (e.h + CPU_EDGE - 1) / CPU_EDGE * ((e.w + CPU_EDGE - 1) / CPU_EDGE);
}

// Floats from point to point of transformed maps; padded, or all points would share a few cache lines.
static size_t point_stride(struct sr_extent e)
{
    return (size_t)e.n * (size_t)e.d * (size_t)n_tiles_of(e) * C + 5 * CPU_PAD;
}

static size_t transformed_floats(struct sr_extent e)
{
    return 2 * CPU_POINTS * point_stride(e) + CPU_CONV_PACKED + CPU_POINTS * C;
}

static size_t kept_floats(size_t n_queries)
{
    return n_queries * (2 * CPU_SCORES + 3 * C);
}

static size_t cpu_scratch_bytes(const struct sr_device *device, struct sr_extent encode, size_t n_queries,
                                int keep)
{
    size_t floats = packed_floats(&device->net) + per_thread_floats(device) * (size_t)device->threads;
    if (keep)
        floats +=
            transformed_floats(encode) + kept_floats(n_queries) + SHARES * sizeof(struct cpu_gradients) / 4;
    return floats * sizeof(float);
}

static int cpu_upload(struct sr_device *device, struct sr_buffer *to, const float *from,
                      struct fault_note *why)
{
    (void)device, (void)why;
    size_t c = (size_t)to->channels, plane = to->count / c / (size_t)to->extent.n;
    if (c == 1) {
        memcpy(to->data, from, to->count * sizeof *from);
        return 0;
    }
    for (size_t n = 0; n < (size_t)to->extent.n; n++)
        for (size_t k = 0; k < c; k++)
            for (size_t i = 0; i < plane; i++)
                to->data[(n * plane + i) * c + k] = from[(n * c + k) * plane + i];
    return 0;
}

static int cpu_download(struct sr_device *device, const struct sr_buffer *from, float *to,
                        struct fault_note *why)
{
    (void)device, (void)why;
    size_t c = (size_t)from->channels, plane = from->count / c / (size_t)from->extent.n;
    if (c == 1) {
        memcpy(to, from->data, from->count * sizeof *to);
        return 0;
    }
    for (size_t n = 0; n < (size_t)from->extent.n; n++)
        for (size_t k = 0; k < c; k++)
            for (size_t i = 0; i < plane; i++)
                to[(n * c + k) * plane + i] = from->data[(n * plane + i) * c + k];
    return 0;
}

static int cpu_nothing(struct sr_device *device, struct fault_note *why)
{
    (void)device, (void)why;
    return 0;
}

static int cpu_zero(struct sr_device *device, struct sr_buffer *to, struct fault_note *why)
{
    (void)device, (void)why;
    memset(to->data, 0, to->count * sizeof *to->data);
    return 0;
}

enum { CHUNK = 1 << 15 }; // floats that an elementwise task takes

// An elementwise loop: out = in or out += in.
struct elementwise {
    float *out;
    const float *in;
    size_t count;
    int add;
};

static void elementwise_task(void *user, int task, int thread)
{
    const struct elementwise *job = user;
    size_t from = (size_t)task * CHUNK, to = from + CHUNK < job->count ? from + CHUNK : job->count;
    (void)thread;
    if (!job->add)
        memcpy(job->out + from, job->in + from, (to - from) * sizeof *job->out);
    for (size_t i = from; job->add && i < to; i++)
        job->out[i] += job->in[i];
}

static int n_chunks(size_t count)
{
    return (int)((count + CHUNK - 1) / CHUNK);
}

static int cpu_copy(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                    struct fault_note *why)
{
    (void)why;
    struct elementwise job = {to->data, from->data, to->count, 0};
    pool_run(device->pool, n_chunks(to->count), elementwise_task, &job);
    return 0;
}

static int cpu_add(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                   struct fault_note *why)
{
    (void)why;
    struct elementwise job = {to->data, from->data, to->count, 1};
    pool_run(device->pool, n_chunks(to->count), elementwise_task, &job);
    return 0;
}

// --------------------------------------------------------------------------------------------- packing

struct packing {
    struct sr_device *device;
    int back;
};

enum { INPUTS_PER_TASK = 16, PACK_TASKS = C / INPUTS_PER_TASK };

static void pack_task(void *user, int task, int thread)
{
    const struct packing *job = user;
    struct sr_device *device = job->device;
    int i = 1 + task / PACK_TASKS;
    (void)thread;
    device->kernels->conv_pack(device->parameters + device->net.convs[i].weight, job->back,
                               task % PACK_TASKS * INPUTS_PER_TASK, INPUTS_PER_TASK,
                               job->back ? device->conv_back[i] : device->conv[i]);
}

static void pack_convs(struct sr_device *device, int back)
{
    struct packing job = {device, back};
    pool_run(device->pool, (device->net.n_convs - 1) * PACK_TASKS, pack_task, &job);
}

// dst is const in struct cpu_weights because only this file's packing may write it.
static void pack_linear(const struct sr_device *device, const float *from, size_t row, size_t column, int k,
                        int n, const float *dst)
{
    device->kernels->pack(from, row, column, k, n, device->packed + (dst - device->packed));
}

static void pack_fold(struct sr_device *device)
{
    const float *key = device->parameters + device->net.key.weight;
    const float *query = device->parameters + device->net.query.weight;
    const float *bias = device->parameters + device->net.query.bias;
    float fold[C * C], *fold_bias = device->packed + (device->weights.fold_bias - device->packed);
    for (int j = 0; j < C; j++) {
        double sum = 0;
        for (int r = 0; r < C; r++)
            sum += (double)key[r * C + j] * (double)bias[r];
        fold_bias[j] = (float)sum;
        for (int k = 0; k < C; k++) {
            sum = 0;
            for (int r = 0; r < C; r++)
                sum += (double)key[r * C + j] * (double)query[r * C + k];
            fold[j * C + k] = (float)sum;
        }
    }
    pack_linear(device, fold, 1, C, C, C, device->weights.fold);
}

static int cpu_prepare(struct sr_device *device, const struct sr_buffer *parameters, struct fault_note *why)
{
    (void)why;
    const struct net *net = &device->net;
    const float *p = device->parameters = parameters->data;
    struct cpu_weights *w = &device->weights;
    device->back_ready = 0;
    pack_convs(device, 0);
    const float *head = p + net->convs[0].weight; // [out,1,x,y,z]
    for (int i = 0; i < HEAD_TAPS; i++)
        for (int out = 0; out < C; out++)
            device->head[i * C + out] = head[out * HEAD_TAPS + (i % 3 * 3 + i / 3 % 3) * 3 + i / 9];
    pack_fold(device);
    pack_linear(device, p + net->value.weight, 1, C, C, C, w->value);
    w->value_bias = p + net->value.bias;
    w->query_bias = p + net->query.bias;
    for (int i = 0; i < CPU_LAYERS; i++) {
        const struct net_linear *linear = &net->linears[i];
        w->layer_bias[i] = p + linear->bias;
        if (i == CPU_LAYERS - 1)
            w->layer[i] = p + linear->weight;
        else
            pack_linear(device, p + linear->weight, 1, (size_t)linear->n_in, linear->n_in, linear->n_out,
                        w->layer[i]);
    }
    return 0;
}

static void prepare_back(struct sr_device *device)
{
    const struct net *net = &device->net;
    const float *p = device->parameters;
    struct cpu_weights *w = &device->weights;
    if (device->back_ready)
        return;
    pack_convs(device, 1);
    pack_linear(device, p + net->query.weight, 1, C, C, C, w->query);
    pack_linear(device, p + net->query.weight, C, 1, C, C, w->query_back);
    pack_linear(device, p + net->key.weight, 1, C, C, C, w->key_back);
    pack_linear(device, p + net->value.weight, C, 1, C, C, w->value_back);
    for (int i = 0; i < CPU_LAYERS - 1; i++) {
        const struct net_linear *linear = &net->linears[i];
        pack_linear(device, p + linear->weight, (size_t)linear->n_in, 1, linear->n_out, linear->n_in,
                    w->layer_back[i]);
    }
    device->back_ready = 1;
}

// --------------------------------------------------------------------------------------------- convolution

struct head_job {
    struct sr_device *device;
    const struct sr_buffer *x, *dy;
    int add;
    float *y;
};

static void head_task(void *user, int task, int thread)
{
    const struct head_job *job = user;
    struct sr_extent e = job->x->extent;
    int lines = e.n * e.d * e.h, first = task * LINES_PER_TASK;
    (void)thread;
    job->device->kernels->head_rows(job->x->data, e, job->device->head,
                                    job->device->parameters + job->device->net.convs[0].bias, job->add, first,
                                    lines - first < LINES_PER_TASK ? lines - first : LINES_PER_TASK, job->y);
}

static void run_head(struct sr_device *device, const struct sr_buffer *x, unsigned flags, struct sr_buffer *y)
{
    struct head_job job = {.device = device, .x = x, .add = (flags & SR_CONV_ADD) != 0, .y = y->data};
    int lines = x->extent.n * x->extent.d * x->extent.h;
    pool_run(device->pool, (lines + LINES_PER_TASK - 1) / LINES_PER_TASK, head_task, &job);
}

// Tiles per task: as many as keep all threads busy to the end; how tiles are shared out never changes a sum.
static int tiles_per_task(const struct sr_device *device, struct sr_extent e)
{
    static const int choices[] = {24, 20, 16, 12};
    int tiles = n_tiles_of(e), best = choices[0];
    double least = HUGE_VAL;
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
        int tasks = e.n * ((tiles + choices[i] - 1) / choices[i]);
        int rounds = (tasks + device->threads - 1) / device->threads;
        double cost = rounds * (choices[i] + 1.0);
        if (cost < least) {
            least = cost;
            best = choices[i];
        }
    }
    return best;
}

struct conv_job {
    struct sr_device *device;
    const struct cpu_conv *conv;
    int tiles, per_task, tasks; // of one stack
};

static void conv_task(void *user, int task, int thread)
{
    const struct conv_job *job = user;
    int first = task % job->tasks * job->per_task;
    int n = job->tiles - first < job->per_task ? job->tiles - first : job->per_task;
    job->device->kernels->conv_tiles(job->conv, task / job->tasks, first, n,
                                     thread_scratch(job->device, thread));
}

static void run_conv(struct sr_device *device, const struct cpu_conv *conv)
{
    struct conv_job job = {.device = device, .conv = conv, .tiles = n_tiles_of(conv->extent)};
    job.per_task = tiles_per_task(device, conv->extent);
    job.tasks = (job.tiles + job.per_task - 1) / job.per_task;
    pool_run(device->pool, conv->extent.n * job.tasks, conv_task, &job);
}

static int cpu_conv_forward(struct sr_device *device, int index, const struct sr_buffer *x, unsigned flags,
                            struct sr_buffer *y, struct fault_note *why)
{
    (void)why;
    if (index == 0) {
        run_head(device, x, flags, y);
        return 0;
    }
    struct cpu_conv conv = {.extent = x->extent, .x = x->data, .u = device->conv[index], .y = y->data};
    conv.bias = device->parameters + device->net.convs[index].bias;
    conv.add = (flags & SR_CONV_ADD) != 0;
    conv.relu = (flags & SR_CONV_RELU) != 0;
    run_conv(device, &conv);
    return 0;
}

// Three taps along a row at a time; the middle ones see every voxel and sum up the bias' gradient.
static void head_back_task(void *user, int task, int thread)
{
    const struct head_job *job = user;
    (void)thread;
    job->device->kernels->head_gradient(job->x->data, job->x->extent, job->dy->data, task / 3, task % 3,
                                        job->y + (size_t)task * 3 * C,
                                        task == 4 ? job->y + HEAD_TAPS * C : NULL);
}

static void head_backward(struct sr_device *device, const struct sr_buffer *x, const struct sr_buffer *dy,
                          float *g)
{
    const struct net_conv *head = &device->net.convs[0];
    float taps[(HEAD_TAPS + 1) * C];
    struct head_job job = {.device = device, .x = x, .dy = dy, .y = taps};
    pool_run(device->pool, 9, head_back_task, &job);
    memcpy(g + head->bias, taps + (size_t)HEAD_TAPS * C, C * sizeof *g);
    for (int i = 0; i < HEAD_TAPS; i++)
        for (int out = 0; out < C; out++)
            g[head->weight + (size_t)(out * HEAD_TAPS + (i % 3 * 3 + i / 3 % 3) * 3 + i / 9)] =
                taps[i * C + out];
}

// du[point][slice tap] = V^T Z over all tiles and slices, as one product per point, tap and stack of the
// batch.
static void point_gradient(const struct sr_device *device, struct sr_extent e, const float *v, const float *z,
                           int point, int tap, float *du)
{
    int tiles = n_tiles_of(e), slices = e.d - (tap == 1 ? 0 : 1);
    struct cpu_gemm gemm = {
        .m = C, .n = C, .k = slices * tiles, .a_row = 1, .a_step = C, .b_row = C, .c_row = C};
    gemm.c = du + ((size_t)point * 3 + (size_t)tap) * C * C;
    memset(gemm.c, 0, (size_t)C * C * sizeof *gemm.c);
    gemm.add = 1;
    for (int n = 0; n < e.n && slices > 0; n++) {
        size_t at = (size_t)point * point_stride(e) + (size_t)n * (size_t)e.d * (size_t)tiles * C;
        gemm.a = v + at + (tap == 2 ? (size_t)tiles * C : 0);
        gemm.b = z + at + (tap == 0 ? (size_t)tiles * C : 0);
        device->kernels->gemm(&gemm);
    }
}

enum { TILES_PER_TASK = 16 };

struct gradient_job {
    const struct sr_device *device;
    const struct sr_buffer *x, *dy;
    int tiles, per_slice; // tiles and tasks of a slice
    size_t point;
    float *v, *z, *du, *dw, *dbias;
};

static void transform_task(void *user, int task, int thread)
{
    const struct gradient_job *job = user;
    const struct cpu_kernels *kernels = job->device->kernels;
    struct sr_extent e = job->x->extent;
    int slice = task / 2 / job->per_slice, first = task / 2 % job->per_slice * TILES_PER_TASK;
    int n = job->tiles - first < TILES_PER_TASK ? job->tiles - first : TILES_PER_TASK;
    size_t at = ((size_t)slice * (size_t)job->tiles + (size_t)first) * C;
    (void)thread;
    if (task % 2)
        kernels->transform_input(job->x->data, e, slice / e.d, slice % e.d, first, n, job->point,
                                 job->v + at);
    else
        kernels->transform_gradient(job->dy->data, e, slice / e.d, slice % e.d, first, n, job->point,
                                    job->z + at);
}

static void bias_gradient(const struct gradient_job *job)
{
    struct sr_extent e = job->x->extent;
    const float *sums = job->z + CPU_SUM_POINT * job->point;
    double total[C] = {0};
    for (size_t i = 0; i < (size_t)e.n * (size_t)e.d * (size_t)job->tiles; i++)
        for (int c = 0; c < C; c++)
            total[c] += (double)sums[i * C + (size_t)c];
    for (int c = 0; c < C; c++)
        job->dbias[c] = (float)total[c];
}

static void point_task(void *user, int task, int thread)
{
    const struct gradient_job *job = user;
    (void)thread;
    if (task == 0)
        bias_gradient(job);
    else
        point_gradient(job->device, job->x->extent, job->v, job->z, (task - 1) / 3, (task - 1) % 3, job->du);
}

static void taps_task(void *user, int task, int thread)
{
    const struct gradient_job *job = user;
    (void)thread;
    job->device->kernels->conv_gradient(job->du, task, job->dw);
}

static int weight_gradient(struct sr_device *device, const struct net_conv *conv, const struct sr_buffer *x,
                           const struct sr_buffer *dy, float *g, struct fault_note *why)
{
    struct sr_extent e = x->extent;
    int rc = need(&device->transformed, transformed_floats(e), why);
    if (rc != 0)
        return rc;
    struct gradient_job job = {.device = device, .x = x, .dy = dy, .tiles = n_tiles_of(e)};
    job.per_slice = (job.tiles + TILES_PER_TASK - 1) / TILES_PER_TASK;
    job.point = point_stride(e);
    job.v = device->transformed.data;
    job.z = job.v + CPU_POINTS * job.point;
    job.du = job.z + CPU_POINTS * job.point;
    job.dw = g + conv->weight;
    job.dbias = g + conv->bias;
    pool_run(device->pool, 2 * e.n * e.d * job.per_slice, transform_task, &job);
    pool_run(device->pool, 3 * CPU_POINTS + 1, point_task, &job);
    pool_run(device->pool, C, taps_task, &job);
    return 0;
}

static int cpu_conv_backward(struct sr_device *device, int index, const struct sr_buffer *x,
                             const struct sr_buffer *dy, unsigned flags, struct sr_buffer *dx,
                             struct sr_buffer *gradients, struct fault_note *why)
{
    if (index == 0 && dx != NULL)
        return fault_set(why, FAULT_INTERNAL,
                         "the head has no gradient towards the stack on the cpu backend");
    if (index == 0) {
        head_backward(device, x, dy, gradients->data);
        return 0;
    }
    int rc = weight_gradient(device, &device->net.convs[index], x, dy, gradients->data, why);
    if (rc != 0 || dx == NULL)
        return rc;
    prepare_back(device);
    struct cpu_conv conv = {.extent = x->extent, .x = dy->data, .u = device->conv_back[index], .y = dx->data};
    conv.add = (flags & SR_CONV_ADD) != 0;
    conv.mask = flags & SR_CONV_MASK_X ? x->data : NULL;
    run_conv(device, &conv);
    return 0;
}

// --------------------------------------------------------------------------------------------- decoding

// Planes as a list; *n_groups runs of planes that lie between the same two slices, groups[i] being where run
// i begins.
static int parse_planes(struct sr_device *device, const struct sr_buffer *planes, struct sr_extent e,
                        int *n_groups, struct fault_note *why)
{
    int n = planes->extent.h;
    if (n > device->n_planes_room) {
        free(device->planes);
        free(device->groups);
        device->planes = malloc((size_t)n * sizeof *device->planes);
        device->groups = malloc(((size_t)n + 1) * sizeof *device->groups);
        device->n_planes_room = device->planes != NULL && device->groups != NULL ? n : 0;
        if (device->n_planes_room == 0)
            return no_memory((size_t)n, why);
    }
    *n_groups = 0;
    for (int i = 0; i < n; i++) {
        const float *p = planes->data + (size_t)i * SR_PLANE_FLOATS;
        struct cpu_plane *plane = &device->planes[i];
        plane->stack = (int)p[SR_PLANE_STACK];
        plane->slice = (int)p[SR_PLANE_SLICE];
        plane->t = p[SR_PLANE_T];
        plane->index = i;
        if (plane->stack < 0 || plane->stack >= e.n || plane->slice < 0 || plane->slice >= e.d)
            return fault_set(why, FAULT_INTERNAL, "plane %d lies outside its stack", i);
        if (i == 0 || plane->stack != plane[-1].stack || plane->slice != plane[-1].slice)
            device->groups[(*n_groups)++] = i;
    }
    device->groups[*n_groups] = n;
    return 0;
}

struct decode_job {
    const struct sr_device *device;
    struct cpu_decode decode;
    int pixels, blocks, n_planes; // blocks of queries on one plane
    struct cpu_loss loss;
    double sums[SHARES]; // of each share's losses
    struct cpu_kept kept;
    struct cpu_gradients *shares;
    float *out;
};

static struct decode_job decode_job_of(const struct sr_device *device, const struct sr_buffer *features,
                                       const struct sr_buffer *stack, const struct sr_buffer *planes,
                                       struct sr_window window)
{
    int pixels = window.rows * window.columns;
    return (struct decode_job){.device = device,
                               .decode = {.extent = features->extent,
                                          .dilation = device->net.config.dilation,
                                          .features = features->data,
                                          .stack = stack != NULL ? stack->data : NULL,
                                          .weights = &device->weights,
                                          .window = window},
                               .pixels = pixels,
                               .blocks = (pixels + CPU_QUERIES - 1) / CPU_QUERIES,
                               .n_planes = planes->extent.h};
}

static int block_size(const struct decode_job *job, int first)
{
    return job->pixels - first < CPU_QUERIES ? job->pixels - first : CPU_QUERIES;
}

static void decode_task(void *user, int task, int thread)
{
    const struct decode_job *job = user;
    const struct sr_device *device = job->device;
    int from = device->groups[task / job->blocks], to = device->groups[task / job->blocks + 1];
    int first = task % job->blocks * CPU_QUERIES;
    device->kernels->decode(&job->decode, device->planes + from, to - from, first, block_size(job, first),
                            thread_scratch(device, thread), job->out);
}

static int cpu_decode_forward(struct sr_device *device, const struct sr_buffer *features,
                              const struct sr_buffer *stack, const struct sr_buffer *planes,
                              struct sr_window window, int keep, struct sr_buffer *y, struct fault_note *why)
{
    (void)keep; // the backward pass computes its blocks again: cheaper than keeping them in main memory
    int n_groups, rc = parse_planes(device, planes, features->extent, &n_groups, why);
    if (rc != 0)
        return rc;
    struct decode_job job = decode_job_of(device, features, stack, planes, window);
    job.out = y->data;
    pool_run(device->pool, n_groups * job.blocks, decode_task, &job);
    return 0;
}

// The arena's places of a share's arrays.
static void put_gradients(const struct net *net, const struct cpu_gradients *from, float *g)
{
    const struct {
        const float *from;
        size_t to, count;
    } all[] = {
        {from->query, net->query.weight, C * C},
        {from->query_bias, net->query.bias, C},
        {from->key, net->key.weight, C * C},
        {from->value, net->value.weight, C * C},
        {from->value_bias, net->value.bias, C},
        {from->layer0, net->linears[0].weight, C * H},
        {from->layer[0], net->linears[1].weight, H * H},
        {from->layer[1], net->linears[2].weight, H * H},
        {from->layer[2], net->linears[3].weight, H * H},
        {from->layer4, net->linears[4].weight, H},
        {from->bias[0], net->linears[0].bias, H},
        {from->bias[1], net->linears[1].bias, H},
        {from->bias[2], net->linears[2].bias, H},
        {from->bias[3], net->linears[3].bias, H},
        {&from->bias4, net->linears[4].bias, 1},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        memcpy(g + all[i].to, all[i].from, all[i].count * sizeof *g);
    memset(g + net->key.bias, 0, C * sizeof *g); // inert: it moves all scores alike
}

enum { GRADIENT_FLOATS = sizeof(struct cpu_gradients) / sizeof(float) };

static void sum_task(void *user, int task, int thread)
{
    const struct decode_job *job = user;
    float *sum = (float *)job->shares;
    (void)thread;
    for (int share = 1; share < SHARES; share++)
        for (int i = task * CHUNK; i < (task + 1) * CHUNK && i < GRADIENT_FLOATS; i++)
            sum[i] += sum[(size_t)share * GRADIENT_FLOATS + (size_t)i];
}

static void decode_back_task(void *user, int share, int thread)
{
    struct decode_job *job = user;
    const struct sr_device *device = job->device;
    long tasks = (long)job->n_planes * job->blocks;
    memset(&job->shares[share], 0, sizeof job->shares[share]);
    for (long task = tasks * share / SHARES; task < tasks * (share + 1) / SHARES; task++) {
        int first = (int)(task % job->blocks) * CPU_QUERIES;
        device->kernels->decode_back(&job->decode, &device->planes[task / job->blocks], first,
                                     block_size(job, first), &job->loss, &job->sums[share],
                                     thread_scratch(device, thread), &job->kept, &job->shares[share]);
    }
}

static void gather_task(void *user, int line, int thread)
{
    const struct decode_job *job = user;
    struct sr_extent e = job->decode.extent;
    (void)thread;
    job->device->kernels->gather(&job->decode, job->device->planes, job->n_planes, &job->kept,
                                 line / e.h / e.d, line / e.h % e.d, line % e.h, job->out);
}

// The backward pass from job->loss; planes are parsed.
static int run_decode_back(struct sr_device *device, struct decode_job *job, struct sr_buffer *dfeatures,
                           struct sr_buffer *gradients, struct fault_note *why)
{
    struct sr_extent e = job->decode.extent;
    size_t n_queries = (size_t)job->n_planes * (size_t)job->pixels;
    int rc = need(&device->kept, kept_floats(n_queries), why);
    if (rc == 0)
        rc = need(&device->shares, (size_t)SHARES * GRADIENT_FLOATS, why);
    if (rc != 0)
        return rc;
    prepare_back(device);
    float *at = device->kept.data;
    job->kept.attention = take(&at, n_queries * CPU_SCORES);
    job->kept.dscore = take(&at, n_queries * CPU_SCORES);
    job->kept.dcontext = take(&at, n_queries * C);
    job->kept.fold = take(&at, n_queries * C);
    job->kept.dz = take(&at, n_queries * C);
    job->shares = (struct cpu_gradients *)device->shares.data;
    job->out = dfeatures->data;
    pool_run(device->pool, SHARES, decode_back_task, job);
    pool_run(device->pool, e.n * e.d * e.h, gather_task, job);
    pool_run(device->pool, n_chunks(GRADIENT_FLOATS), sum_task, job);
    put_gradients(&device->net, &job->shares[0], gradients->data);
    return 0;
}

static int cpu_decode_backward(struct sr_device *device, const struct sr_buffer *features,
                               const struct sr_buffer *planes, struct sr_window window,
                               const struct sr_buffer *dy, struct sr_buffer *dfeatures,
                               struct sr_buffer *gradients, struct fault_note *why)
{
    int n_groups, rc = parse_planes(device, planes, features->extent, &n_groups, why);
    struct decode_job job = decode_job_of(device, features, NULL, planes, window);
    job.loss.dy = dy->data;
    return rc == 0 ? run_decode_back(device, &job, dfeatures, gradients, why) : rc;
}

static int cpu_decode_learn(struct sr_device *device, const struct sr_buffer *features,
                            const struct sr_buffer *stack, const struct sr_buffer *planes,
                            struct sr_window window, const struct sr_buffer *target, struct sr_buffer *losses,
                            int index, struct sr_buffer *dfeatures, struct sr_buffer *gradients,
                            struct fault_note *why)
{
    int n_groups, rc = parse_planes(device, planes, features->extent, &n_groups, why);
    struct decode_job job = decode_job_of(device, features, stack, planes, window);
    double count = (double)job.n_planes * job.pixels, sum = 0;
    job.loss.target = target->data;
    job.loss.share = (float)(1 / count);
    if (rc == 0)
        rc = run_decode_back(device, &job, dfeatures, gradients, why);
    if (rc != 0)
        return rc;
    for (int i = 0; i < SHARES; i++)
        sum += job.sums[i];
    losses->data[index] = (float)(sum / count);
    return 0;
}

// --------------------------------------------------------------------------------------------- training

static int cpu_loss_l1(struct sr_device *device, const struct sr_buffer *y, const struct sr_buffer *target,
                       struct sr_buffer *dy, struct sr_buffer *losses, int index, struct fault_note *why)
{
    (void)device, (void)why;
    double sum = 0;
    float share = (float)(1 / (double)y->count);
    for (size_t i = 0; i < y->count; i++) {
        float off = y->data[i] - target->data[i];
        sum += fabs((double)off);
        dy->data[i] = off > 0 ? share : off < 0 ? -share : off; // no difference: 0; a NaN stays one
    }
    losses->data[index] = (float)(sum / (double)y->count);
    return 0;
}

struct adam_job {
    const struct cpu_kernels *kernels;
    float scalars[5];
    const float *g;
    float *m, *v, *p;
    size_t count;
};

static void adam_task(void *user, int task, int thread)
{
    const struct adam_job *job = user;
    size_t i = (size_t)task * CHUNK, n = job->count - i < CHUNK ? job->count - i : CHUNK;
    (void)thread;
    job->kernels->adam(job->scalars, job->g + i, job->m + i, job->v + i, job->p + i, n);
}

static int cpu_adam(struct sr_device *device, struct sr_adam adam, const struct sr_buffer *gradients,
                    struct sr_buffer *moment1, struct sr_buffer *moment2, struct sr_buffer *parameters,
                    struct fault_note *why)
{
    (void)why;
    struct adam_job job = {.kernels = device->kernels,
                           .scalars = {(float)((double)adam.rate / (1 - pow((double)adam.beta1, adam.step))),
                                       adam.beta1, adam.beta2, adam.epsilon,
                                       (float)(1 / sqrt(1 - pow((double)adam.beta2, adam.step)))},
                           .g = gradients->data + adam.first,
                           .m = moment1->data + adam.first,
                           .v = moment2->data + adam.first,
                           .p = parameters->data + adam.first,
                           .count = parameters->count - adam.first};
    pool_run(device->pool, n_chunks(job.count), adam_task, &job);
    return 0;
}

static int cpu_average(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                       float keep, struct fault_note *why)
{
    (void)device, (void)why;
    for (size_t i = 0; i < to->count; i++)
        to->data[i] = keep * to->data[i] + (1 - keep) * from->data[i];
    return 0;
}

// Distances in floats along a cut's axis, its rows and its columns.
struct cut_steps {
    size_t along, row, column;
};

static struct cut_steps steps_of(struct sr_extent e, int axis)
{
    size_t d = (size_t)e.h * (size_t)e.w, h = (size_t)e.w;
    return axis == 0   ? (struct cut_steps){d, h, 1}
           : axis == 1 ? (struct cut_steps){h, d, 1}
                       : (struct cut_steps){1, d, h};
}

static void cut_slice(const struct sr_buffer *volume, const struct sr_cut *cut, struct sr_extent e, int d,
                      float *out)
{
    const int sizes[] = {volume->extent.d, volume->extent.h, volume->extent.w};
    struct cut_steps steps = steps_of(volume->extent, cut->axis);
    int along = cut->first + (cut->flip_slices ? e.d - 1 - d : d) * cut->factor;
    double sigma = (double)cut->fwhm / (2 * sqrt(2 * log(2)));
    int reach = sigma > 0 ? (int)floor(3 * sigma + 0.5) : 0, from = along - reach, to = along + reach;
    from = from < 0 ? 0 : from;
    to = to >= sizes[cut->axis] ? sizes[cut->axis] - 1 : to;
    double total = 0;
    memset(out, 0, (size_t)e.h * (size_t)e.w * sizeof *out);
    for (int i = from; i <= to; i++)
        total += reach > 0 ? exp(-0.5 * (i - along) * (i - along) / (sigma * sigma)) : 1;
    for (int i = from; i <= to; i++) {
        float weight =
            (float)((reach > 0 ? exp(-0.5 * (i - along) * (i - along) / (sigma * sigma)) : 1) / total);
        for (int h = 0; h < e.h; h++) {
            const float *line = volume->data + (size_t)i * steps.along +
                                (size_t)(cut->row + (cut->flip_rows ? e.h - 1 - h : h)) * steps.row;
            for (int w = 0; w < e.w; w++)
                out[h * e.w + w] +=
                    weight *
                    line[(size_t)(cut->column + (cut->flip_columns ? e.w - 1 - w : w)) * steps.column];
        }
    }
}

static void cut_target(const struct sr_buffer *volume, const struct sr_cut *cut, struct sr_extent e,
                       int along, float *out)
{
    struct cut_steps steps = steps_of(volume->extent, cut->axis);
    for (int h = 0; h < e.h; h++) {
        const float *line = volume->data + (size_t)along * steps.along +
                            (size_t)(cut->row + (cut->flip_rows ? e.h - 1 - h : h)) * steps.row;
        for (int w = 0; w < e.w; w++)
            out[h * e.w + w] =
                line[(size_t)(cut->column + (cut->flip_columns ? e.w - 1 - w : w)) * steps.column];
    }
}

struct cut_job {
    const struct sr_buffer *volume;
    const struct sr_cut *cuts;
    int n_targets;
    struct sr_buffer *stack, *planes, *target;
};

// One retained slice of one sample, and the planes of the gap after it.
static void cut_task(void *user, int task, int thread)
{
    const struct cut_job *job = user;
    struct sr_extent e = job->stack->extent;
    size_t size = (size_t)e.h * (size_t)e.w;
    int sample = task / e.d;
    const struct sr_cut *cut = &job->cuts[sample];
    int d = task % e.d, n_gaps = e.d - 1;
    (void)thread;
    cut_slice(job->volume, cut, e, d, job->stack->data + (size_t)task * size);
    for (int k = 0; d < n_gaps && k < job->n_targets; k++) {
        int from = cut->flip_slices ? n_gaps - 1 - d : d, at = cut->position[from][k];
        int plane = (sample * n_gaps + d) * job->n_targets + k;
        float *p = job->planes->data + (size_t)plane * SR_PLANE_FLOATS;
        p[SR_PLANE_STACK] = (float)sample;
        p[SR_PLANE_SLICE] = (float)d;
        p[SR_PLANE_T] = (float)(cut->flip_slices ? cut->factor - at : at) / (float)cut->factor;
        cut_target(job->volume, cut, e, cut->first + from * cut->factor + at,
                   job->target->data + (size_t)plane * size);
    }
}

static int cpu_cut(struct sr_device *device, const struct sr_buffer *volume, const struct sr_cut *cuts, int n,
                   int n_targets, struct sr_buffer *stack, struct sr_buffer *planes, struct sr_buffer *target,
                   struct fault_note *why)
{
    (void)why;
    struct cut_job job = {volume, cuts, n_targets, stack, planes, target};
    pool_run(device->pool, n * stack->extent.d, cut_task, &job);
    return 0;
}

static const struct sr_ops table = {
    .name = "cpu",
    .usable = cpu_usable,
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .buffer_new = cpu_buffer_new,
    .buffer_free = cpu_buffer_free,
    .scratch_bytes = cpu_scratch_bytes,
    .upload = cpu_upload,
    .download = cpu_download,
    .synchronize = cpu_nothing,
    .zero = cpu_zero,
    .copy = cpu_copy,
    .add = cpu_add,
    .prepare = cpu_prepare,
    .step_begin = cpu_nothing,
    .step_end = cpu_nothing,
    .conv_forward = cpu_conv_forward,
    .conv_backward = cpu_conv_backward,
    .decode_forward = cpu_decode_forward,
    .decode_backward = cpu_decode_backward,
    .loss_l1 = cpu_loss_l1,
    .decode_learn = cpu_decode_learn,
    .adam = cpu_adam,
    .average = cpu_average,
    .cut = cpu_cut,
};

const struct sr_ops *ops_cpu(void)
{
    return &table;
}
// NOLINTEND(bugprone-implicit-widening-of-multiplication-result)
