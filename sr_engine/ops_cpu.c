// SPDX-License-Identifier: Apache-2.0
//
// The "cpu" backend: memory, packing and the sharing of work between threads; the inner loops are
// cpu_kernels.c. No sum is split by the number of threads, so results do not depend on it: tiles and queries
// are independent, the convolution's weight gradient is shared out by transformed point, the decoder's over a
// fixed number of shares.
#include "sr_engine/cpu_kernels.h"
#include "sr_engine/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#    include <omp.h>
#endif

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

static int thread_number(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
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
    made->threads = 1;
#ifdef _OPENMP
    made->threads = threads > 0 ? threads : omp_get_num_procs();
#endif
    snprintf(made->description, sizeof made->description, "cpu (%s, %d threads)", made->kernels->name,
             made->threads);
    made->packed = alloc_floats(packed_floats(net));
    int rc = made->packed != NULL ? 0 : no_memory(packed_floats(net), why);
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

static float *thread_scratch(const struct sr_device *device)
{
    return device->per_thread.data + (size_t)thread_number() * per_thread_floats(device);
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

static int cpu_copy(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                    struct fault_note *why)
{
    (void)why;
    size_t n = to->count;
    float *out = to->data;
    const float *in = from->data;
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (size_t i = 0; i < n; i++)
        out[i] = in[i];
    return 0;
}

static int cpu_add(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                   struct fault_note *why)
{
    (void)why;
    size_t n = to->count;
    float *out = to->data;
    const float *in = from->data;
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (size_t i = 0; i < n; i++)
        out[i] += in[i];
    return 0;
}

// --------------------------------------------------------------------------------------------- packing

static void pack_convs(struct sr_device *device, int back)
{
    enum { INPUTS_PER_TASK = 16, TASKS = C / INPUTS_PER_TASK };
    const struct net *net = &device->net;
#pragma omp parallel for num_threads(device->threads) schedule(dynamic)
    for (int task = 0; task < (net->n_convs - 1) * TASKS; task++) {
        int i = 1 + task / TASKS;
        device->kernels->conv_pack(device->parameters + net->convs[i].weight, back,
                                   task % TASKS * INPUTS_PER_TASK, INPUTS_PER_TASK,
                                   back ? device->conv_back[i] : device->conv[i]);
    }
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

static void run_head(struct sr_device *device, const struct sr_buffer *x, unsigned flags, struct sr_buffer *y)
{
    struct sr_extent e = x->extent;
    int lines = e.n * e.d * e.h;
    const float *bias = device->parameters + device->net.convs[0].bias;
#pragma omp parallel for num_threads(device->threads) schedule(dynamic)
    for (int first = 0; first < lines; first += LINES_PER_TASK)
        device->kernels->head_rows(x->data, e, device->head, bias, (flags & SR_CONV_ADD) != 0, first,
                                   lines - first < LINES_PER_TASK ? lines - first : LINES_PER_TASK, y->data);
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

static void run_conv(struct sr_device *device, const struct cpu_conv *conv)
{
    struct sr_extent e = conv->extent;
    int tiles = n_tiles_of(e), per_task = tiles_per_task(device, e),
        tasks = (tiles + per_task - 1) / per_task;
#pragma omp parallel for num_threads(device->threads) schedule(dynamic)
    for (int task = 0; task < e.n * tasks; task++) {
        int first = task % tasks * per_task, n = tiles - first < per_task ? tiles - first : per_task;
        device->kernels->conv_tiles(conv, task / tasks, first, n, thread_scratch(device));
    }
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

static void head_backward(struct sr_device *device, const struct sr_buffer *x, const struct sr_buffer *dy,
                          float *g)
{
    const struct net_conv *head = &device->net.convs[0];
    float taps[HEAD_TAPS * C];
#pragma omp parallel for num_threads(device->threads) schedule(dynamic)
    for (int i = 0; i < 9; i++)
        device->kernels->head_gradient(x->data, x->extent, dy->data, i / 3, i % 3, taps + (size_t)i * 3 * C,
                                       i == 4 ? g + head->bias : NULL);
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

static int weight_gradient(struct sr_device *device, const struct net_conv *conv, const struct sr_buffer *x,
                           const struct sr_buffer *dy, float *g, struct fault_note *why)
{
    enum { TILES_PER_TASK = 16 };
    const struct cpu_kernels *kernels = device->kernels;
    struct sr_extent e = x->extent;
    int rc = need(&device->transformed, transformed_floats(e), why);
    if (rc != 0)
        return rc;
    size_t point = point_stride(e);
    float *v = device->transformed.data, *z = v + CPU_POINTS * point, *du = z + CPU_POINTS * point;
    int tiles = n_tiles_of(e), per_slice = (tiles + TILES_PER_TASK - 1) / TILES_PER_TASK;
#pragma omp parallel num_threads(device->threads)
    {
#pragma omp for schedule(dynamic)
        for (int task = 0; task < 2 * e.n * e.d * per_slice; task++) {
            int slice = task / 2 / per_slice, first = task / 2 % per_slice * TILES_PER_TASK;
            int n = tiles - first < TILES_PER_TASK ? tiles - first : TILES_PER_TASK;
            size_t at = ((size_t)slice * (size_t)tiles + (size_t)first) * C;
            if (task % 2)
                kernels->transform_input(x->data, e, slice / e.d, slice % e.d, first, n, point, v + at);
            else
                kernels->transform_gradient(dy->data, e, slice / e.d, slice % e.d, first, n, point, z + at);
        }
#pragma omp for schedule(dynamic)
        for (int task = 0; task < 3 * CPU_POINTS + 1; task++) {
            if (task > 0) {
                point_gradient(device, e, v, z, (task - 1) / 3, (task - 1) % 3, du);
                continue;
            }
            float *bias = g + conv->bias;
            const float *sums = z + CPU_SUM_POINT * point;
            memset(bias, 0, C * sizeof *bias);
            for (size_t i = 0; i < (size_t)e.n * (size_t)e.d * (size_t)tiles; i++)
                for (int c = 0; c < C; c++)
                    bias[c] += sums[i * C + (size_t)c];
        }
#pragma omp for schedule(static)
        for (int in = 0; in < C; in++)
            kernels->conv_gradient(du, in, g + conv->weight);
    }
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

static struct cpu_decode decode_of(const struct sr_device *device, const struct sr_buffer *features,
                                   const struct sr_buffer *stack, struct sr_window window)
{
    return (struct cpu_decode){.extent = features->extent,
                               .dilation = device->net.config.dilation,
                               .features = features->data,
                               .stack = stack != NULL ? stack->data : NULL,
                               .weights = &device->weights,
                               .window = window};
}

static int cpu_decode_forward(struct sr_device *device, const struct sr_buffer *features,
                              const struct sr_buffer *stack, const struct sr_buffer *planes,
                              struct sr_window window, int keep, struct sr_buffer *y, struct fault_note *why)
{
    (void)keep; // the backward pass computes its blocks again: cheaper than keeping them in main memory
    int n_groups, rc = parse_planes(device, planes, features->extent, &n_groups, why);
    if (rc != 0)
        return rc;
    struct cpu_decode decode = decode_of(device, features, stack, window);
    int pixels = window.rows * window.columns, blocks = (pixels + CPU_QUERIES - 1) / CPU_QUERIES;
#pragma omp parallel for num_threads(device->threads) schedule(dynamic)
    for (int task = 0; task < n_groups * blocks; task++) {
        int from = device->groups[task / blocks], to = device->groups[task / blocks + 1];
        int first = task % blocks * CPU_QUERIES,
            n = pixels - first < CPU_QUERIES ? pixels - first : CPU_QUERIES;
        device->kernels->decode(&decode, device->planes + from, to - from, first, n, thread_scratch(device),
                                y->data);
    }
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

static void sum_shares(const struct sr_device *device, struct cpu_gradients *shares)
{
    enum { FLOATS = sizeof(struct cpu_gradients) / sizeof(float), CHUNK = 4096 };
    float *sum = (float *)shares;
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int chunk = 0; chunk < FLOATS; chunk += CHUNK)
        for (int share = 1; share < SHARES; share++)
            for (int i = chunk; i < chunk + CHUNK && i < FLOATS; i++)
                sum[i] += sum[(size_t)share * FLOATS + (size_t)i];
}

static int cpu_decode_backward(struct sr_device *device, const struct sr_buffer *features,
                               const struct sr_buffer *planes, struct sr_window window,
                               const struct sr_buffer *dy, struct sr_buffer *dfeatures,
                               struct sr_buffer *gradients, struct fault_note *why)
{
    struct sr_extent e = features->extent;
    int n_planes = planes->extent.h, n_groups, rc = parse_planes(device, planes, e, &n_groups, why);
    int pixels = window.rows * window.columns, blocks = (pixels + CPU_QUERIES - 1) / CPU_QUERIES;
    size_t n_queries = (size_t)n_planes * (size_t)pixels;
    if (rc == 0)
        rc = need(&device->kept, kept_floats(n_queries), why);
    if (rc == 0)
        rc = need(&device->shares, SHARES * sizeof(struct cpu_gradients) / sizeof(float), why);
    if (rc != 0)
        return rc;
    prepare_back(device);
    struct cpu_decode decode = decode_of(device, features, NULL, window);
    struct cpu_kept kept;
    float *at = device->kept.data;
    kept.attention = take(&at, n_queries * CPU_SCORES);
    kept.dscore = take(&at, n_queries * CPU_SCORES);
    kept.dcontext = take(&at, n_queries * C);
    kept.fold = take(&at, n_queries * C);
    kept.dz = take(&at, n_queries * C);
    struct cpu_gradients *shares = (struct cpu_gradients *)device->shares.data;
    long tasks = (long)n_planes * blocks;
#pragma omp parallel num_threads(device->threads)
    {
#pragma omp for schedule(dynamic)
        for (int share = 0; share < SHARES; share++) {
            memset(&shares[share], 0, sizeof shares[share]);
            for (long task = tasks * share / SHARES; task < tasks * (share + 1) / SHARES; task++) {
                int first = (int)(task % blocks) * CPU_QUERIES;
                int n = pixels - first < CPU_QUERIES ? pixels - first : CPU_QUERIES;
                device->kernels->decode_back(&decode, &device->planes[task / blocks], first, n, dy->data,
                                             thread_scratch(device), &kept, &shares[share]);
            }
        }
#pragma omp for schedule(dynamic)
        for (int line = 0; line < e.n * e.d * e.h; line++)
            device->kernels->gather(&decode, device->planes, n_planes, &kept, line / e.h / e.d,
                                    line / e.h % e.d, line % e.h, dfeatures->data);
    }
    sum_shares(device, shares);
    put_gradients(&device->net, &shares[0], gradients->data);
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
        dy->data[i] = off > 0 ? share : off < 0 ? -share : 0;
    }
    losses->data[index] = (float)(sum / (double)y->count);
    return 0;
}

static int cpu_adam(struct sr_device *device, struct sr_adam adam, const struct sr_buffer *gradients,
                    struct sr_buffer *moment1, struct sr_buffer *moment2, struct sr_buffer *parameters,
                    struct fault_note *why)
{
    (void)why;
    enum { CHUNK = 1 << 15 };
    const float scalars[] = {(float)((double)adam.rate / (1 - pow((double)adam.beta1, adam.step))),
                             adam.beta1, adam.beta2, adam.epsilon,
                             (float)(1 / sqrt(1 - pow((double)adam.beta2, adam.step)))};
    size_t count = parameters->count;
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (size_t i = 0; i < count; i += CHUNK)
        device->kernels->adam(scalars, gradients->data + i, moment1->data + i, moment2->data + i,
                              parameters->data + i, count - i < CHUNK ? count - i : CHUNK);
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

static int cpu_cut(struct sr_device *device, const struct sr_buffer *volume, const struct sr_cut *cuts, int n,
                   int n_targets, struct sr_buffer *stack, struct sr_buffer *planes, struct sr_buffer *target,
                   struct fault_note *why)
{
    (void)why;
    struct sr_extent e = stack->extent;
    size_t size = (size_t)e.h * (size_t)e.w;
    int n_gaps = e.d - 1;
#pragma omp parallel for num_threads(device->threads) schedule(dynamic)
    for (int task = 0; task < n * e.d; task++) {
        const struct sr_cut *cut = &cuts[task / e.d];
        int d = task % e.d;
        cut_slice(volume, cut, e, d, stack->data + (size_t)task * size);
        for (int k = 0; d < n_gaps && k < n_targets; k++) {
            int from = cut->flip_slices ? n_gaps - 1 - d : d, at = cut->position[from][k];
            int plane = (task / e.d * n_gaps + d) * n_targets + k;
            float *p = planes->data + (size_t)plane * SR_PLANE_FLOATS;
            p[SR_PLANE_STACK] = (float)(task / e.d);
            p[SR_PLANE_SLICE] = (float)d;
            p[SR_PLANE_T] = (float)(cut->flip_slices ? cut->factor - at : at) / (float)cut->factor;
            cut_target(volume, cut, e, cut->first + from * cut->factor + at,
                       target->data + (size_t)plane * size);
        }
    }
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
    .adam = cpu_adam,
    .cut = cpu_cut,
};

const struct sr_ops *ops_cpu(void)
{
    return &table;
}
