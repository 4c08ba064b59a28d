// SPDX-License-Identifier: Apache-2.0
//
// The CUDA backend: struct sr_ops over a queue (queue.cuh) and bodies (host_math.cuh), everything in fp32.
// Buffers hold [N,C,D,H,W] as the host does; the decoder turns the features to [voxels,C] once a call.
// Queries go through the decoder in chunks, so scratch memory does not grow with the number of planes, and
// the backward pass computes each chunk again instead of keeping it. Attention is folded (no key and value
// maps): with q the query, q' = Wk^T q scores the raw features and the value's matrix acts on their weighted
// sum. Compiled a second time for the host, where the tests hold it against the reference (queue_host.cu).
#include "cuda/host_math.cuh"
#include "cuda/queue.cuh"

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

using namespace host_math;
using namespace QUEUE_NAMESPACE;

// Points that go through the decoder at a time, and shares of a long sum. Small on the host, so that its
// tests have several chunks.
#ifdef ISOSLICE_CUDA_ON_HOST
enum { CHUNK = 101, PARTS = 3 };
#else
enum { CHUNK = 1 << 16, PARTS = 512 };
#endif

enum { TAPS = 27, ALIGN = 64 }; // floats; cuDNN and cuBLAS are faster on aligned operands

struct sr_buffer {
    struct sr_extent extent;
    int channels;
    size_t count;
    float *data; // on the device, [N,C,D,H,W]
};

struct sr_device {
    struct net net;
    struct queue *queue;
    const float *parameters; // borrowed from the buffer given to prepare
    float *kernels;          // all convolutions' kernels as [out,in,d,h,w]
    size_t kernels_at[NET_MAX_CONVS];
    float *dkernels; // of one convolution
    float *ones;     // [CHUNK]
    float *partial;  // doubles of sums in parts
    float *scratch;  // grows to what a call needs
    size_t scratch_count;
};

// Memory within the scratch, handed out in order.
struct bump {
    float *base; // NULL: only counting
    size_t used;
    float *take(size_t n)
    {
        float *at = base == NULL ? NULL : base + used;
        used += (n + ALIGN - 1) / ALIGN * ALIGN;
        return at;
    }
};

static size_t count_of(struct sr_extent e)
{
    return (size_t)e.n * (size_t)e.d * (size_t)e.h * (size_t)e.w;
}

static int cuda_usable(struct fault_note *why)
{
    return queue_usable(why);
}

static void cuda_close(struct sr_device *device)
{
    if (device == NULL)
        return;
    if (device->queue != NULL) {
        float *all[] = {device->kernels, device->dkernels, device->ones, device->partial, device->scratch};
        for (float *data : all)
            queue_free(device->queue, data);
        queue_close(device->queue);
    }
    free(device);
}

static int open_memory(struct sr_device *device, struct fault_note *why)
{
    size_t total = 0, widest = 0;
    for (int i = 0; i < device->net.n_convs; i++) {
        size_t n = (size_t)device->net.convs[i].c_in * (size_t)device->net.convs[i].c_out * TAPS;
        device->kernels_at[i] = total;
        total += (n + ALIGN - 1) / ALIGN * ALIGN;
        widest = n > widest ? n : widest;
    }
    size_t channels = (size_t)device->net.config.channels;
    int rc = queue_new(device->queue, total, &device->kernels, why);
    if (rc == 0)
        rc = queue_new(device->queue, widest, &device->dkernels, why);
    if (rc == 0)
        rc = queue_new(device->queue, CHUNK, &device->ones, why);
    if (rc == 0)
        rc = queue_run(device->queue, "fill", CHUNK, fill_body{device->ones, 1}, why);
    if (rc == 0)
        rc = queue_new(device->queue, 2 * PARTS * channels, &device->partial, why);
    return rc;
}

static int cuda_open(const struct net *net, int threads, struct sr_device **device, struct fault_note *why)
{
    (void)threads;
    struct sr_device *made = (struct sr_device *)calloc(1, sizeof *made);
    if (made == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for the cuda backend");
    made->net = *net;
    int rc = queue_open(&made->queue, why);
    if (rc == 0)
        rc = open_memory(made, why);
    if (rc != 0)
        cuda_close(made);
    else
        *device = made;
    return rc;
}

static const char *cuda_describe(const struct sr_device *device)
{
    return queue_describe(device->queue);
}

static void cuda_buffer_free(struct sr_device *device, struct sr_buffer *buffer)
{
    if (buffer != NULL)
        queue_free(device->queue, buffer->data);
    free(buffer);
}

static int cuda_buffer_new(struct sr_device *device, struct sr_extent extent, int channels,
                           struct sr_buffer **buffer, struct fault_note *why)
{
    size_t count = count_of(extent) * (size_t)channels;
    // bodies count voxels and values in 32 bits
    if (count > INT_MAX)
        return fault_set(why, FAULT_NO_MEMORY, "a buffer of %zu values is more than the cuda backend's %d",
                         count, INT_MAX);
    struct sr_buffer *made = (struct sr_buffer *)calloc(1, sizeof *made);
    if (made == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for the cuda backend");
    made->extent = extent;
    made->channels = channels;
    made->count = count;
    int rc = queue_new(device->queue, count, &made->data, why);
    if (rc != 0)
        free(made);
    else
        *buffer = made;
    return rc;
}

static int cuda_upload(struct sr_device *device, struct sr_buffer *to, const float *from,
                       struct fault_note *why)
{
    return queue_upload(device->queue, to->data, from, to->count, why);
}

static int cuda_download(struct sr_device *device, const struct sr_buffer *from, float *to,
                         struct fault_note *why)
{
    return queue_download(device->queue, from->data, to, from->count, why);
}

static int cuda_synchronize(struct sr_device *device, struct fault_note *why)
{
    return queue_synchronize(device->queue, why);
}

static int cuda_zero(struct sr_device *device, struct sr_buffer *to, struct fault_note *why)
{
    return queue_zero(device->queue, to->data, to->count, why);
}

static int cuda_copy(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                     struct fault_note *why)
{
    return queue_copy(device->queue, to->data, from->data, to->count, why);
}

static int cuda_add(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                    struct fault_note *why)
{
    return queue_run(device->queue, "add", to->count, add_body{to->data, from->data}, why);
}

static int cuda_prepare(struct sr_device *device, const struct sr_buffer *parameters, struct fault_note *why)
{
    int rc = 0;
    device->parameters = parameters->data;
    for (int i = 0; rc == 0 && i < device->net.n_convs; i++) {
        const struct net_conv *conv = &device->net.convs[i];
        rc = queue_run(
            device->queue, "turn_kernels", (size_t)conv->c_in * (size_t)conv->c_out * TAPS,
            turn_kernels_body{device->kernels + device->kernels_at[i], device->parameters + conv->weight},
            why);
    }
    return rc;
}

static int cuda_step(struct sr_device *device, struct fault_note *why)
{
    (void)device, (void)why;
    return 0;
}

// ----------------------------------------------------------------------------------------- convolution

static conv_shape shape_of(const struct net_conv *conv, struct sr_extent e)
{
    return conv_shape{e.n, conv->c_in, conv->c_out, e.d, e.h, e.w};
}

static int cuda_conv_forward(struct sr_device *device, int index, const struct sr_buffer *x, unsigned flags,
                             struct sr_buffer *y, struct fault_note *why)
{
    const struct net_conv *conv = &device->net.convs[index];
    unsigned plane = (unsigned)(count_of(x->extent) / (size_t)x->extent.n);
    int rc = queue_conv_forward(device->queue, shape_of(conv, x->extent), x->data,
                                device->kernels + device->kernels_at[index], flags & SR_CONV_ADD ? 1 : 0,
                                y->data, why);
    if (rc != 0)
        return rc;
    return queue_run(device->queue, "conv_finish", y->count,
                     conv_finish_body{y->data, device->parameters + conv->bias, (unsigned)conv->c_out, plane,
                                      (flags & SR_CONV_RELU) != 0},
                     why);
}

static int conv_bias_gradient(struct sr_device *device, const struct net_conv *conv,
                              const struct sr_buffer *dy, float *to, struct fault_note *why)
{
    double *partial = (double *)(void *)device->partial;
    struct sr_extent e = dy->extent;
    unsigned channels = (unsigned)conv->c_out, plane = (unsigned)(count_of(e) / (size_t)e.n);
    int rc = queue_run(device->queue, "channel_part", (size_t)channels * PARTS,
                       channel_part_body{partial, dy->data, (unsigned)e.n, channels, plane, PARTS}, why);
    if (rc != 0)
        return rc;
    return queue_run(device->queue, "sum_parts", channels, sum_parts_body{to, partial, PARTS, 1}, why);
}

static int cuda_conv_backward(struct sr_device *device, int index, const struct sr_buffer *x,
                              const struct sr_buffer *dy, unsigned flags, struct sr_buffer *dx,
                              struct sr_buffer *gradients, struct fault_note *why)
{
    const struct net_conv *conv = &device->net.convs[index];
    conv_shape shape = shape_of(conv, x->extent);
    size_t n_kernels = (size_t)conv->c_in * (size_t)conv->c_out * TAPS;
    int rc = conv_bias_gradient(device, conv, dy, gradients->data + conv->bias, why);
    if (rc == 0)
        rc = queue_conv_kernels(device->queue, shape, x->data, dy->data, device->dkernels, why);
    if (rc == 0)
        rc = queue_run(device->queue, "turn_kernels", n_kernels,
                       turn_kernels_body{gradients->data + conv->weight, device->dkernels}, why);
    if (rc != 0 || dx == NULL)
        return rc;
    rc = queue_conv_data(device->queue, shape, dy->data, device->kernels + device->kernels_at[index],
                         flags & SR_CONV_ADD ? 1 : 0, dx->data, why);
    if (rc == 0 && flags & SR_CONV_MASK_X)
        rc = queue_run(device->queue, "mask", dx->count, mask_body{dx->data, x->data}, why);
    return rc;
}

// ----------------------------------------------------------------------------------------- decoding

// A chunk of queries on its way, rows of channels or hidden units; the second half only for the way back.
struct decoding {
    float *features;                           // [voxels,C]
    float *z, *q, *key, *weight, *context, *g; // key: q', weight: [CHUNK,98]
    float *hidden[NET_MAX_LINEARS];            // outputs of the layers, the last without its bias
    float *dfeatures;                          // [voxels,C]
    float *dhidden[2], *dcontext, *dweight, *dkey, *dq, *dz;
};

static int widest_of(const struct net *net)
{
    return most(net->config.hidden, net->config.channels);
}

static decoding lay_out(bump *memory, const struct net *net, size_t voxels, size_t n, bool back)
{
    size_t c = (size_t)net->config.channels, widest = (size_t)widest_of(net);
    decoding to = {};
    to.features = memory->take(voxels * c);
    float **rows[] = {&to.z, &to.q, &to.key, &to.context, &to.g};
    for (float **row : rows)
        *row = memory->take(n * c);
    to.weight = memory->take(n * NET_WINDOW_SIZE);
    for (int i = 0; i < net->n_linears; i++) // without a way back two take turns
        to.hidden[i] = back || i < 2 ? memory->take(n * widest) : to.hidden[i - 2];
    if (!back)
        return to;
    to.dfeatures = memory->take(voxels * c);
    float **back_rows[] = {&to.dcontext, &to.dkey, &to.dq, &to.dz};
    for (float **row : back_rows)
        *row = memory->take(n * c);
    to.dweight = memory->take(n * NET_WINDOW_SIZE);
    for (float *&row : to.dhidden)
        row = memory->take(n * widest);
    return to;
}

static size_t cuda_scratch_bytes(const struct sr_device *device, struct sr_extent encode, size_t n_queries,
                                 int keep)
{
    bump memory = {};
    lay_out(&memory, &device->net, count_of(encode), n_queries < (size_t)CHUNK ? n_queries : (size_t)CHUNK,
            keep != 0);
    return memory.used * sizeof(float) + QUEUE_WORKSPACE_BYTES;
}

static int reserve(struct sr_device *device, size_t count, struct fault_note *why)
{
    if (count <= device->scratch_count)
        return 0;
    queue_free(device->queue, device->scratch);
    device->scratch = NULL;
    device->scratch_count = 0;
    int rc = queue_new(device->queue, count, &device->scratch, why);
    if (rc == 0)
        device->scratch_count = count;
    return rc;
}

static int linear_forward(struct sr_device *device, const struct net_linear *linear, int n, const float *x,
                          float beta, float *y, struct fault_note *why)
{
    return queue_gemm(device->queue, false, true, n, linear->n_out, linear->n_in, x,
                      device->parameters + linear->weight, beta, y, why);
}

static int add_bias(struct sr_device *device, const struct net_linear *linear, int n, bool relu, float *y,
                    struct fault_note *why)
{
    return queue_run(device->queue, "bias", (size_t)n * (size_t)linear->n_out,
                     bias_body{y, device->parameters + linear->bias, (unsigned)linear->n_out, relu}, why);
}

// dW += dy^T x, db += the column sums of dy.
static int linear_gradients(struct sr_device *device, const struct net_linear *linear, int n, const float *x,
                            const float *dy, float *gradients, struct fault_note *why)
{
    int rc = queue_gemm(device->queue, true, false, linear->n_out, linear->n_in, n, dy, x, 1,
                        gradients + linear->weight, why);
    if (rc != 0)
        return rc;
    return queue_gemm(device->queue, false, false, 1, linear->n_out, n, device->ones, dy, 1,
                      gradients + linear->bias, why);
}

// dx = dy W + beta dx.
static int linear_backward(struct sr_device *device, const struct net_linear *linear, int n, const float *dy,
                           float beta, float *dx, struct fault_note *why)
{
    return queue_gemm(device->queue, false, false, n, linear->n_in, linear->n_out, dy,
                      device->parameters + linear->weight, beta, dx, why);
}

static int attend(struct sr_device *device, const queries &all, const decoding &to, struct fault_note *why)
{
    const struct net *net = &device->net;
    struct queue *queue = device->queue;
    int n = all.count, c = all.channels;
    size_t rows = (size_t)n, values = rows * (size_t)c;
    int rc = queue_run(queue, "interpolate", values, interpolate_body{all, to.features, to.z}, why);
    if (rc == 0)
        rc = linear_forward(device, &net->query, n, to.z, 0, to.q, why);
    if (rc == 0)
        rc = add_bias(device, &net->query, n, false, to.q, why);
    if (rc == 0)
        rc = linear_backward(device, &net->key, n, to.q, 0, to.key, why); // q' = Wk^T q
    if (rc == 0)
        rc = queue_run(queue, "score", rows * NET_WINDOW_SIZE,
                       score_body{all, to.features, to.key, to.weight}, why);
    if (rc == 0)
        rc = queue_run(queue, "softmax", rows, softmax_body{to.weight}, why);
    if (rc == 0)
        rc = queue_run(queue, "weigh", values, weigh_body{all, to.features, to.weight, to.context}, why);
    if (rc == 0)
        rc = queue_copy(queue, to.g, to.z, values, why);
    if (rc == 0)
        rc = linear_forward(device, &net->value, n, to.context, 1, to.g, why);
    if (rc == 0)
        rc = add_bias(device, &net->value, n, false, to.g, why);
    return rc;
}

static int decode_chunk(struct sr_device *device, const queries &all, const decoding &to,
                        struct fault_note *why)
{
    const struct net *net = &device->net;
    int rc = attend(device, all, to, why);
    const float *x = to.g;
    for (int i = 0; rc == 0 && i < net->n_linears; i++) {
        rc = linear_forward(device, &net->linears[i], all.count, x, 0, to.hidden[i], why);
        if (rc == 0 && i + 1 < net->n_linears)
            rc = add_bias(device, &net->linears[i], all.count, true, to.hidden[i], why);
        x = to.hidden[i];
    }
    return rc;
}

static int check_planes(const struct sr_buffer *planes, struct sr_window window, struct fault_note *why)
{
    size_t n = (size_t)planes->extent.h * (size_t)window.rows * (size_t)window.columns;
    if (n <= INT_MAX)
        return 0;
    return fault_set(why, FAULT_NO_MEMORY, "%zu points in one decode are more than the cuda backend's %d", n,
                     INT_MAX);
}

static queries queries_of(const struct sr_device *device, const struct sr_buffer *features,
                          const struct sr_buffer *planes, struct sr_window window)
{
    queries all = {};
    all.planes = planes->data;
    all.e = features->extent;
    all.window = window;
    all.channels = device->net.config.channels;
    all.dilation = device->net.config.dilation;
    all.count = planes->extent.h * window.rows * window.columns;
    return all;
}

// Scratch memory for a decode of n points at a time, with the features turned into it.
static int start_decoding(struct sr_device *device, const struct sr_buffer *features, size_t n, bool back,
                          decoding *to, struct fault_note *why)
{
    size_t voxels = count_of(features->extent);
    bump memory = {};
    lay_out(&memory, &device->net, voxels, n, back);
    int rc = reserve(device, memory.used, why);
    if (rc != 0)
        return rc;
    memory = bump{device->scratch, 0};
    *to = lay_out(&memory, &device->net, voxels, n, back);
    unsigned channels = (unsigned)device->net.config.channels,
             plane = (unsigned)(voxels / (size_t)features->extent.n);
    return queue_run(device->queue, "channels_last", features->count,
                     channels_last_body{to->features, features->data, channels, plane}, why);
}

static int cuda_decode_forward(struct sr_device *device, const struct sr_buffer *features,
                               const struct sr_buffer *stack, const struct sr_buffer *planes,
                               struct sr_window window, int keep, struct sr_buffer *y, struct fault_note *why)
{
    (void)keep; // nothing is: the backward pass computes it again
    const struct net *net = &device->net;
    const struct net_linear *last = &net->linears[net->n_linears - 1];
    decoding to;
    int rc = check_planes(planes, window, why);
    if (rc != 0)
        return rc;
    queries all = queries_of(device, features, planes, window);
    int total = all.count;
    rc = start_decoding(device, features, (size_t)least(total, CHUNK), false, &to, why);
    for (all.first = 0; rc == 0 && all.first < total; all.first += all.count) {
        all.count = least(CHUNK, total - all.first);
        rc = decode_chunk(device, all, to, why);
        if (rc == 0)
            rc = queue_run(device->queue, "decode_finish", (size_t)all.count,
                           decode_finish_body{all, to.hidden[net->n_linears - 1],
                                              device->parameters + last->bias,
                                              stack == NULL ? NULL : stack->data, y->data},
                           why);
    }
    return rc;
}

// Back through the MLP: gradients added to; *dg is where the gradient of g lies.
static int layers_backward(struct sr_device *device, const queries &all, const decoding &to, const float *dy,
                           float *gradients, float **dg, struct fault_note *why)
{
    const struct net *net = &device->net;
    const float *dout = dy;
    int rc = 0, n = all.count;
    for (int i = net->n_linears - 1; rc == 0 && i >= 0; i--) {
        const struct net_linear *linear = &net->linears[i];
        const float *x = i == 0 ? to.g : to.hidden[i - 1];
        float *dx = to.dhidden[i % 2];
        rc = linear_gradients(device, linear, n, x, dout, gradients, why);
        if (rc == 0)
            rc = linear_backward(device, linear, n, dout, 0, dx, why);
        if (rc == 0 && i > 0)
            rc = queue_run(device->queue, "mask", (size_t)n * (size_t)linear->n_in, mask_body{dx, x}, why);
        dout = dx;
        *dg = dx;
    }
    return rc;
}

static int attend_backward(struct sr_device *device, const queries &all, const decoding &to, const float *dg,
                           float *gradients, struct fault_note *why)
{
    const struct net *net = &device->net;
    struct queue *queue = device->queue;
    int n = all.count, c = all.channels;
    size_t rows = (size_t)n, values = rows * (size_t)c, voxels = count_of(all.e);
    int rc = linear_gradients(device, &net->value, n, to.context, dg, gradients, why);
    if (rc == 0)
        rc = linear_backward(device, &net->value, n, dg, 0, to.dcontext, why);
    if (rc == 0)
        rc = queue_run(queue, "score", rows * NET_WINDOW_SIZE,
                       score_body{all, to.features, to.dcontext, to.dweight}, why);
    if (rc == 0)
        rc = queue_run(queue, "softmax_back", rows, softmax_back_body{to.weight, to.dweight}, why);
    if (rc == 0)
        rc = queue_run(queue, "weigh", values, weigh_body{all, to.features, to.dweight, to.dkey}, why);
    if (rc == 0) // dWk += q dq'^T
        rc = queue_gemm(queue, true, false, c, c, n, to.q, to.dkey, 1, gradients + net->key.weight, why);
    if (rc == 0)
        rc = linear_forward(device, &net->key, n, to.dkey, 0, to.dq, why); // dq = Wk dq'
    if (rc == 0)
        rc = linear_gradients(device, &net->query, n, to.z, to.dq, gradients, why);
    if (rc == 0)
        rc = queue_copy(queue, to.dz, dg, values, why);
    if (rc == 0)
        rc = linear_backward(device, &net->query, n, to.dq, 1, to.dz, why);
    if (rc == 0)
        rc =
            queue_run(queue, "gather", voxels * (size_t)c,
                      gather_body{all, to.dz, to.weight, to.dcontext, to.dweight, to.key, to.dfeatures}, why);
    return rc;
}

static int clear_gradients(struct sr_device *device, float *gradients, struct fault_note *why)
{
    const struct net *net = &device->net;
    int rc = 0;
    for (int i = 0; rc == 0 && i < 3 + net->n_linears; i++) {
        const struct net_linear *linear = i == 0   ? &net->query
                                          : i == 1 ? &net->key
                                          : i == 2 ? &net->value
                                                   : &net->linears[i - 3];
        rc = queue_zero(device->queue, gradients + linear->weight,
                        (size_t)linear->n_in * (size_t)linear->n_out, why);
        if (rc == 0)
            rc = queue_zero(device->queue, gradients + linear->bias, (size_t)linear->n_out, why);
    }
    return rc;
}

static int cuda_decode_backward(struct sr_device *device, const struct sr_buffer *features,
                                const struct sr_buffer *planes, struct sr_window window,
                                const struct sr_buffer *dy, struct sr_buffer *dfeatures,
                                struct sr_buffer *gradients, struct fault_note *why)
{
    decoding to;
    int rc = check_planes(planes, window, why);
    if (rc != 0)
        return rc;
    queries all = queries_of(device, features, planes, window);
    int total = all.count;
    rc = start_decoding(device, features, (size_t)least(total, CHUNK), true, &to, why);
    if (rc == 0)
        rc = clear_gradients(device, gradients->data, why);
    if (rc == 0)
        rc = queue_zero(device->queue, to.dfeatures, features->count, why);
    for (all.first = 0; rc == 0 && all.first < total; all.first += all.count) {
        float *dg = NULL;
        all.count = least(CHUNK, total - all.first);
        rc = decode_chunk(device, all, to, why);
        if (rc == 0)
            rc = layers_backward(device, all, to, dy->data + all.first, gradients->data, &dg, why);
        if (rc == 0)
            rc = attend_backward(device, all, to, dg, gradients->data, why);
    }
    if (rc != 0)
        return rc;
    unsigned channels = (unsigned)device->net.config.channels,
             plane = (unsigned)(count_of(features->extent) / (size_t)features->extent.n);
    return queue_run(device->queue, "channels_first", dfeatures->count,
                     channels_first_body{dfeatures->data, to.dfeatures, channels, plane}, why);
}

// ----------------------------------------------------------------------------------------- training

static int cuda_loss_l1(struct sr_device *device, const struct sr_buffer *y, const struct sr_buffer *target,
                        struct sr_buffer *dy, struct sr_buffer *losses, int index, struct fault_note *why)
{
    double *partial = (double *)(void *)device->partial;
    int rc = queue_run(device->queue, "loss", PARTS,
                       loss_body{y->data, target->data, dy->data, partial, y->count, PARTS}, why);
    if (rc != 0)
        return rc;
    return queue_run(device->queue, "sum_parts", 1,
                     sum_parts_body{losses->data + index, partial, PARTS, 1 / (double)y->count}, why);
}

static int cuda_adam(struct sr_device *device, struct sr_adam adam, const struct sr_buffer *gradients,
                     struct sr_buffer *moment1, struct sr_buffer *moment2, struct sr_buffer *parameters,
                     struct fault_note *why)
{
    double correct1 = 1 - pow((double)adam.beta1, adam.step),
           correct2 = 1 - pow((double)adam.beta2, adam.step);
    adam_body body = {};
    body.gradients = gradients->data + adam.first;
    body.moment1 = moment1->data + adam.first;
    body.moment2 = moment2->data + adam.first;
    body.parameters = parameters->data + adam.first;
    body.beta1 = adam.beta1;
    body.rest1 = (float)(1 - (double)adam.beta1);
    body.beta2 = adam.beta2;
    body.rest2 = (float)(1 - (double)adam.beta2);
    body.rate = (float)((double)adam.rate / correct1);
    body.root2 = (float)sqrt(correct2);
    body.epsilon = adam.epsilon;
    return queue_run(device->queue, "adam", parameters->count - adam.first, body, why);
}

static int cuda_average(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                        float keep, struct fault_note *why)
{
    return queue_run(device->queue, "average", to->count, average_body{to->data, from->data, keep}, why);
}

static int cuda_cut(struct sr_device *device, const struct sr_buffer *volume, const struct sr_cut *cuts,
                    int n, int n_targets, struct sr_buffer *stack, struct sr_buffer *planes,
                    struct sr_buffer *target, struct fault_note *why)
{
    struct sr_extent e = stack->extent;
    size_t area = (size_t)e.h * (size_t)e.w;
    int rc = 0;
    for (int i = 0; rc == 0 && i < n; i++) {
        double sigma = (double)cuts[i].fwhm / (2 * sqrt(2 * log(2.0)));
        cut_view view = {volume->data, volume->extent, cuts[i], i, n_targets, e};
        cut_stack_body blur = {view, stack->data, 0, 0};
        if (sigma > 0) {
            blur.slope = (float)(-0.5 / (sigma * sigma));
            blur.reach = (int)floor(3 * sigma + 0.5);
        }
        rc = queue_run(device->queue, "cut_stack", (size_t)e.d * area, blur, why);
        if (rc == 0)
            rc = queue_run(device->queue, "cut_target", (size_t)(e.d - 1) * (size_t)n_targets * area,
                           cut_target_body{view, planes->data, target->data}, why);
    }
    return rc;
}

static struct sr_ops make_table(const char *name)
{
    struct sr_ops table = {};
    table.name = name;
    table.usable = cuda_usable;
    table.open = cuda_open;
    table.close = cuda_close;
    table.describe = cuda_describe;
    table.buffer_new = cuda_buffer_new;
    table.buffer_free = cuda_buffer_free;
    table.scratch_bytes = cuda_scratch_bytes;
    table.upload = cuda_upload;
    table.download = cuda_download;
    table.synchronize = cuda_synchronize;
    table.zero = cuda_zero;
    table.copy = cuda_copy;
    table.add = cuda_add;
    table.prepare = cuda_prepare;
    table.step_begin = cuda_step;
    table.step_end = cuda_step;
    table.conv_forward = cuda_conv_forward;
    table.conv_backward = cuda_conv_backward;
    table.decode_forward = cuda_decode_forward;
    table.decode_backward = cuda_decode_backward;
    table.loss_l1 = cuda_loss_l1;
    table.adam = cuda_adam;
    table.average = cuda_average;
    table.cut = cuda_cut;
    return table;
}

#ifdef ISOSLICE_CUDA_ON_HOST
extern "C" const struct sr_ops *ops_cuda_on_host(void);

extern "C" const struct sr_ops *ops_cuda_on_host(void)
{
    static const struct sr_ops table = make_table("cuda_on_host");
    return &table;
}
#else
extern "C" const struct sr_ops *ops_cuda(void)
{
    static const struct sr_ops table = make_table("cuda");
    return &table;
}
#endif
