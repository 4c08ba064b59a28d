// SPDX-License-Identifier: Apache-2.0
//
// The CUDA backends: struct sr_ops over a queue (queue.cuh) and bodies (host_math.cuh, attention.cuh). Two of
// them, one source: T is what feature maps and the decoder's rows are stored in.
//   cuda    float; feature maps [N,C,D,H,W] as the host has them.
//   cuda16  bf16; feature maps [N,D,H,W,C], kernels [out,d,h,w,in]: what tensor cores take. Images, planes,
//           targets, losses, softmax, parameters, moments and gradients of parameters stay fp32, as do all
//           sums; prepare() makes bf16 copies of the parameters.
// The decoder works on [voxels,C]. Queries go through it in chunks, so scratch memory does not grow with the
// number of planes; for a backward pass all chunks are kept where KEEP_BYTES hold them, else it computes each
// again. Attention is folded (no key and value maps): with q the query, q' = Wk^T q scores the raw features
// and the value's matrix acts on their weighted sum. Compiled a second time for the host, where the tests
// hold it against the reference (queue_host.cu).
#include "cuda/attention.cuh"
#include "cuda/host_math.cuh"
#include "cuda/queue.cuh"

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <type_traits>

using namespace host_math;
using namespace QUEUE_NAMESPACE;

// Points that go through the decoder at a time, shares of a long sum, how many of them are added up at a
// time, and most memory for what a backward pass finds ready. Small on the host, so that its tests have
// several chunks, and some that are not kept.
#ifdef ISOSLICE_CUDA_ON_HOST
enum { CHUNK = 101, PARTS = 4, FOLD = 2, KEEP_BYTES = 2 << 20 };
#else
enum { CHUNK = 1 << 16, PARTS = 512, FOLD = 32, KEEP_BYTES = 2000 << 20 };
#endif

// The loss is one sum, with threads enough for the whole device; others have PARTS for each of many results.
enum { LOSS_PARTS = PARTS * FOLD };

enum { TAPS = 27, ALIGN_BYTES = 256 }; // cuDNN and cuBLAS are faster on aligned operands

template <class T> constexpr bool IS_BF16 = std::is_same<T, bf16>::value;

struct sr_buffer {
    struct sr_extent extent;
    int channels;
    size_t count, bytes;
    void *data; // on the device: a feature map is of T, with one channel it is of float
};

// The decode whose chunks lie in the scratch; features NULL: none.
struct kept_decode {
    const struct sr_buffer *features, *planes;
    struct sr_window window;
};

struct sr_device {
    struct net net;
    struct queue *queue;
    const float *parameters; // borrowed from the buffer given to prepare
    bf16 *parameters16;      // the arena in bf16; float: NULL
    void *kernels;           // of T, all convolutions', in the queue's order
    size_t kernels_at[NET_MAX_CONVS];
    void *dkernels;  // of T, of one convolution
    void *ones;      // of T, [CHUNK]
    double *partial; // of sums in parts; behind them room for those that are folded
    size_t n_partial;
    void *scratch; // grows to what a call needs
    size_t scratch_bytes;
    struct kept_decode kept;
};

// Memory within the scratch, handed out in order.
struct bump {
    char *base; // NULL: only counting
    size_t used;
    template <class T> void take(size_t n, T **to)
    {
        *to = base == NULL ? NULL : (T *)(void *)(base + used);
        used += (n * sizeof(T) + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    }
};

template <class T> static T *map_of(const struct sr_buffer *buffer)
{
    return (T *)buffer->data;
}

static float *image_of(const struct sr_buffer *buffer)
{
    return (float *)buffer->data;
}

static size_t count_of(struct sr_extent e)
{
    return (size_t)e.n * (size_t)e.d * (size_t)e.h * (size_t)e.w;
}

template <class T> static int cuda_usable(struct fault_note *why)
{
    return queue_usable<T>(why);
}

static void cuda_close(struct sr_device *device)
{
    if (device == NULL)
        return;
    if (device->queue != NULL) {
        void *all[] = {device->parameters16, device->kernels, device->dkernels,
                       device->ones,         device->partial, device->scratch};
        for (void *data : all)
            queue_free(device->queue, data);
        queue_close(device->queue);
    }
    free(device);
}

template <class T> static int open_memory(struct sr_device *device, struct fault_note *why)
{
    const size_t align = ALIGN_BYTES / sizeof(T);
    size_t total = 0, widest = 0;
    for (int i = 0; i < device->net.n_convs; i++) {
        size_t n = (size_t)device->net.convs[i].c_in * (size_t)device->net.convs[i].c_out * TAPS;
        device->kernels_at[i] = total;
        total += (n + align - 1) / align * align;
        widest = n > widest ? n : widest;
    }
    T *kernels, *dkernels, *ones;
    int rc = queue_new(device->queue, total, &kernels, why);
    if (rc == 0) {
        device->kernels = kernels;
        rc = queue_new(device->queue, widest, &dkernels, why);
    }
    if (rc == 0) {
        device->dkernels = dkernels;
        rc = queue_new(device->queue, CHUNK, &ones, why);
    }
    if (rc == 0) {
        device->ones = ones;
        rc = queue_run(device->queue, "fill", CHUNK, fill_body<T>{ones, 1}, why);
    }
    size_t sums = (size_t)device->net.config.channels * (IS_BF16<T> ? TAPS : 1);
    device->n_partial = PARTS * sums > LOSS_PARTS ? PARTS * sums : (size_t)LOSS_PARTS;
    if (rc == 0)
        rc = queue_new(device->queue, device->n_partial + device->n_partial / FOLD, &device->partial, why);
    if (rc == 0 && IS_BF16<T>)
        rc = queue_new(device->queue, device->net.n_parameters, &device->parameters16, why);
    return rc;
}

template <class T>
static int cuda_open(const struct net *net, int threads, struct sr_device **device, struct fault_note *why)
{
    (void)threads;
    if (IS_BF16<T> && (net->config.channels % 8 != 0 || net->config.dilation > MOST_DILATION))
        return fault_set(
            why, FAULT_BACKEND,
            "no backend 'cuda16' for a net of %d channels and dilation %d: it works on eights of "
            "channels and a dilation of up to %d",
            net->config.channels, net->config.dilation, MOST_DILATION);
    struct sr_device *made = (struct sr_device *)calloc(1, sizeof *made);
    if (made == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for the cuda backend");
    made->net = *net;
    int rc = queue_open<T>(&made->queue, why);
    if (rc == 0)
        rc = open_memory<T>(made, why);
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

template <class T>
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
    made->bytes = count * (channels > 1 ? sizeof(T) : sizeof(float));
    int rc = queue_new_bytes(device->queue, made->bytes, &made->data, why);
    if (rc != 0)
        free(made);
    else
        *buffer = made;
    return rc;
}

// What was in the scratch is lost.
static int reserve(struct sr_device *device, size_t bytes, struct fault_note *why)
{
    device->kept.features = NULL;
    if (bytes <= device->scratch_bytes)
        return 0;
    queue_free(device->queue, device->scratch);
    device->scratch = NULL;
    device->scratch_bytes = 0;
    int rc = queue_new_bytes(device->queue, bytes, &device->scratch, why);
    if (rc == 0)
        device->scratch_bytes = bytes;
    return rc;
}

// run(n) with n values of a row at a time, as a type: eight in bf16 where the rows divide so.
template <class T, class Run> static int by_lanes(int columns, Run run)
{
    if constexpr (IS_BF16<T>)
        if (columns % 8 == 0)
            return run(std::integral_constant<int, 8>());
    (void)columns;
    return run(std::integral_constant<int, 1>());
}

static unsigned plane_of(struct sr_extent e)
{
    return (unsigned)(count_of(e) / (size_t)e.n);
}

template <class T>
static int cuda_upload(struct sr_device *device, struct sr_buffer *to, const float *from,
                       struct fault_note *why)
{
    if (!IS_BF16<T> || to->channels == 1)
        return queue_upload(device->queue, image_of(to), from, to->count, why);
    int rc = reserve(device, to->count * sizeof(float), why);
    if (rc == 0)
        rc = queue_upload(device->queue, (float *)device->scratch, from, to->count, why);
    if (rc != 0)
        return rc;
    return queue_run(device->queue, "channels_last", to->count,
                     channels_last_body<T>{map_of<T>(to), (const float *)device->scratch,
                                           (unsigned)to->channels, plane_of(to->extent)},
                     why);
}

template <class T>
static int cuda_download(struct sr_device *device, const struct sr_buffer *from, float *to,
                         struct fault_note *why)
{
    if (!IS_BF16<T> || from->channels == 1)
        return queue_download(device->queue, image_of(from), to, from->count, why);
    int rc = reserve(device, from->count * sizeof(float), why);
    if (rc == 0)
        rc = queue_run(device->queue, "channels_first", from->count,
                       channels_first_body<T>{(float *)device->scratch, map_of<T>(from),
                                              (unsigned)from->channels, plane_of(from->extent)},
                       why);
    return rc != 0 ? rc : queue_download(device->queue, (const float *)device->scratch, to, from->count, why);
}

static int cuda_synchronize(struct sr_device *device, struct fault_note *why)
{
    return queue_synchronize(device->queue, why);
}

static int cuda_zero(struct sr_device *device, struct sr_buffer *to, struct fault_note *why)
{
    return queue_zero(device->queue, to->data, to->bytes, why);
}

static int cuda_copy(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                     struct fault_note *why)
{
    return queue_copy(device->queue, to->data, from->data, to->bytes, why);
}

template <class T>
static int cuda_add(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                    struct fault_note *why)
{
    if (to->channels == 1)
        return queue_run(device->queue, "add", to->count, add_body<float, 1>{image_of(to), image_of(from)},
                         why);
    return by_lanes<T>(to->channels, [&](auto n) {
        return queue_run(device->queue, "add", to->count / n,
                         add_body<T, decltype(n)::value>{map_of<T>(to), map_of<T>(from)}, why);
    });
}

// x [rows,columns] += bias, then with relu the maximum with 0.
template <class T>
static int run_bias(struct sr_device *device, size_t rows, int columns, const float *bias, bool relu, T *x,
                    struct fault_note *why)
{
    return by_lanes<T>(columns, [&](auto n) {
        return queue_run(device->queue, "bias", rows * (size_t)columns / n,
                         bias_body<T, decltype(n)::value>{x, bias, (unsigned)columns, relu}, why);
    });
}

// dx [rows,columns] is zero where x is not positive.
template <class T>
static int run_mask(struct sr_device *device, size_t rows, int columns, T *dx, const T *x,
                    struct fault_note *why)
{
    return by_lanes<T>(columns, [&](auto n) {
        return queue_run(device->queue, "mask", rows * (size_t)columns / n,
                         mask_body<T, decltype(n)::value>{dx, x}, why);
    });
}

template <class T> static T *kernels_of(const struct sr_device *device, int index)
{
    return (T *)device->kernels + device->kernels_at[index];
}

// What the matrix products read: the arena itself or its copy.
template <class T> static const T *weights_of(const struct sr_device *device)
{
    if constexpr (IS_BF16<T>)
        return device->parameters16;
    else
        return device->parameters;
}

template <class T>
static int cuda_prepare(struct sr_device *device, const struct sr_buffer *parameters, struct fault_note *why)
{
    int rc = 0;
    device->parameters = image_of(parameters);
    if constexpr (IS_BF16<T>)
        rc = queue_run(device->queue, "round", parameters->count,
                       round_body<T>{device->parameters16, device->parameters}, why);
    for (int i = 0; rc == 0 && i < device->net.n_convs; i++) {
        const struct net_conv *conv = &device->net.convs[i];
        size_t n = (size_t)conv->c_in * (size_t)conv->c_out * TAPS;
        const float *from = device->parameters + conv->weight;
        if constexpr (IS_BF16<T>)
            rc = queue_run(device->queue, "kernels_last", n,
                           kernels_last_body{kernels_of<T>(device, i), from, (unsigned)conv->c_in}, why);
        else
            rc = queue_run(device->queue, "turn_kernels", n,
                           turn_kernels_body{kernels_of<T>(device, i), from}, why);
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

// Of one channel: by an own body, where there is nothing for a tensor core to do.
static int thin_forward(struct sr_device *device, const struct net_conv *conv, const struct sr_buffer *x,
                        unsigned flags, struct sr_buffer *y, struct fault_note *why)
{
    const int n = 8;
    return queue_run(device->queue, "thin_conv", y->count / n,
                     thin_conv_body<n>{map_of<bf16>(y), image_of(x), device->parameters + conv->weight,
                                       device->parameters + conv->bias, x->extent, (unsigned)conv->c_out,
                                       (flags & SR_CONV_ADD) != 0, (flags & SR_CONV_RELU) != 0},
                     why);
}

// Bias and ReLU follow the convolution in a pass of their own: cuDNN's header does not say whether
// cudnnConvolutionBiasActivationForward takes three dimensions in bf16, and by its traffic the pass is about
// a twentieth of what a layer costs a training step.
template <class T>
static int conv_finish(struct sr_device *device, const struct net_conv *conv, unsigned flags,
                       struct sr_buffer *y, struct fault_note *why)
{
    const float *bias = device->parameters + conv->bias;
    bool relu = (flags & SR_CONV_RELU) != 0;
    if constexpr (IS_BF16<T>)
        return run_bias(device, count_of(y->extent), conv->c_out, bias, relu, map_of<T>(y), why);
    else
        return queue_run(
            device->queue, "conv_finish", y->count,
            conv_finish_body{image_of(y), bias, (unsigned)conv->c_out, plane_of(y->extent), relu}, why);
}

template <class T>
static int cuda_conv_forward(struct sr_device *device, int index, const struct sr_buffer *x, unsigned flags,
                             struct sr_buffer *y, struct fault_note *why)
{
    const struct net_conv *conv = &device->net.convs[index];
    if (IS_BF16<T> && conv->c_in == 1)
        return thin_forward(device, conv, x, flags, y, why);
    int rc = queue_conv_forward(device->queue, shape_of(conv, x->extent), (const T *)map_of<T>(x),
                                (const T *)kernels_of<T>(device, index), flags & SR_CONV_ADD ? 1.0F : 0.0F,
                                map_of<T>(y), why);
    return rc != 0 ? rc : conv_finish<T>(device, conv, flags, y, why);
}

// to [n] = sums of device->partial [n,parts], times factor: FOLD at a time, in an order that is always the
// same.
static int sum_parts(struct sr_device *device, size_t n, unsigned parts, double factor, float *to,
                     struct fault_note *why)
{
    double *from = device->partial, *folded = device->partial + device->n_partial;
    for (; parts > FOLD; parts /= FOLD) {
        int rc = queue_run(device->queue, "fold_parts", n * (parts / FOLD),
                           sum_parts_body<double>{folded, from, FOLD, 1}, why);
        if (rc != 0)
            return rc;
        double *last = from;
        from = folded;
        folded = last;
    }
    return queue_run(device->queue, "sum_parts", n, sum_parts_body<float>{to, from, parts, factor}, why);
}

template <class T>
static int conv_bias_gradient(struct sr_device *device, const struct net_conv *conv,
                              const struct sr_buffer *dy, float *to, struct fault_note *why)
{
    struct sr_extent e = dy->extent;
    unsigned channels = (unsigned)conv->c_out;
    int rc;
    if constexpr (IS_BF16<T>)
        rc = queue_run(
            device->queue, "channel_part", (size_t)channels * PARTS,
            channel_part_last_body{device->partial, map_of<T>(dy), (unsigned)count_of(e), channels, PARTS},
            why);
    else
        rc = queue_run(
            device->queue, "channel_part", (size_t)channels * PARTS,
            channel_part_body{device->partial, image_of(dy), (unsigned)e.n, channels, plane_of(e), PARTS},
            why);
    if (rc != 0)
        return rc;
    return sum_parts(device, channels, PARTS, 1, to, why);
}

static int thin_gradient(struct sr_device *device, const struct net_conv *conv, const struct sr_buffer *x,
                         const struct sr_buffer *dy, float *to, struct fault_note *why)
{
    size_t n = (size_t)conv->c_out * TAPS;
    int rc = queue_run(device->queue, "thin_part", n * PARTS,
                       thin_part_body{device->partial, image_of(x), map_of<bf16>(dy), x->extent,
                                      (unsigned)conv->c_out, PARTS},
                       why);
    if (rc != 0)
        return rc;
    return sum_parts(device, n, PARTS, 1, to, why);
}

// In bf16 the kernels' gradient is summed in fp32 and rounded once, to 0.4 % of each value: cuDNN offers no
// other result for bf16 operands (PSEUDO_BFLOAT16_CONFIG of cudnnConvolutionBackwardFilter).
template <class T>
static int conv_gradient(struct sr_device *device, const struct net_conv *conv, const struct sr_buffer *x,
                         const struct sr_buffer *dy, float *to, struct fault_note *why)
{
    T *dkernels = (T *)device->dkernels;
    size_t n = (size_t)conv->c_in * (size_t)conv->c_out * TAPS;
    if (IS_BF16<T> && conv->c_in == 1)
        return thin_gradient(device, conv, x, dy, to, why);
    int rc = queue_conv_kernels(device->queue, shape_of(conv, x->extent), (const T *)map_of<T>(x),
                                (const T *)map_of<T>(dy), dkernels, why);
    if (rc != 0)
        return rc;
    if constexpr (IS_BF16<T>)
        return queue_run(device->queue, "kernels_first", n,
                         kernels_first_body{to, dkernels, (unsigned)conv->c_in}, why);
    else
        return queue_run(device->queue, "turn_kernels", n, turn_kernels_body{to, dkernels}, why);
}

template <class T>
static int cuda_conv_backward(struct sr_device *device, int index, const struct sr_buffer *x,
                              const struct sr_buffer *dy, unsigned flags, struct sr_buffer *dx,
                              struct sr_buffer *gradients, struct fault_note *why)
{
    const struct net_conv *conv = &device->net.convs[index];
    int rc = conv_bias_gradient<T>(device, conv, dy, image_of(gradients) + conv->bias, why);
    if (rc == 0)
        rc = conv_gradient<T>(device, conv, x, dy, image_of(gradients) + conv->weight, why);
    if (rc != 0 || dx == NULL)
        return rc;
    if (IS_BF16<T> && conv->c_in == 1)
        return fault_set(why, FAULT_INTERNAL, "the cuda16 backend has no gradient of an image");
    rc = queue_conv_data(device->queue, shape_of(conv, x->extent), (const T *)map_of<T>(dy),
                         (const T *)kernels_of<T>(device, index), flags & SR_CONV_ADD ? 1.0F : 0.0F,
                         map_of<T>(dx), why);
    if (rc == 0 && flags & SR_CONV_MASK_X)
        rc = run_mask<T>(device, count_of(x->extent), conv->c_in, map_of<T>(dx), map_of<T>(x), why);
    return rc;
}

// ----------------------------------------------------------------------------------------- decoding

// Queries on their way, rows of channels or hidden units; the second half only for the way back, one chunk.
template <class T> struct decoding {
    const T *features;            // [voxels,C]
    T *turned;                    // the features' memory where the map is not in that order
    T *z, *q, *key, *context, *g; // key: q'
    float *weight;                // [98,CHUNK]
    T *hidden[NET_MAX_LINEARS];   // outputs of the layers but the last
    float *residual;              // of the last, without its bias
    float *dfeatures;             // [voxels,C]
    T *dy, *dhidden[2], *dcontext, *dkey, *dq, *dz;
    float *dweight;
};

static size_t widest_of(const struct net *net)
{
    return (size_t)most(net->config.hidden, net->config.channels);
}

// How a decode uses the scratch.
struct scratch_plan {
    size_t voxels;
    size_t n_kept; // rows of what the way back needs: all, or one chunk
    size_t n;      // rows of the rest: one chunk
    bool back;     // there is a way back
};

template <class T> static decoding<T> lay_out(bump *memory, const struct net *net, const scratch_plan &plan)
{
    size_t c = (size_t)net->config.channels, widest = widest_of(net);
    decoding<T> to = {};
    if (!IS_BF16<T>)
        memory->take(plan.voxels * c, &to.turned);
    T **rows[] = {&to.z, &to.q, &to.key, &to.context, &to.g};
    for (T **row : rows)
        memory->take(plan.n_kept * c, row);
    memory->take(plan.n_kept * NET_WINDOW_SIZE, &to.weight);
    for (int i = 0; i + 1 < net->n_linears; i++) // without a way back two take turns
        if (plan.back || i < 2)
            memory->take(plan.n_kept * widest, &to.hidden[i]);
        else
            to.hidden[i] = to.hidden[i - 2];
    memory->take(plan.n_kept, &to.residual);
    if (!plan.back)
        return to;
    memory->take(plan.voxels * c, &to.dfeatures);
    T **back_rows[] = {&to.dcontext, &to.dkey, &to.dq, &to.dz};
    for (T **row : back_rows)
        memory->take(plan.n * c, row);
    memory->take(plan.n * NET_WINDOW_SIZE, &to.dweight);
    memory->take(plan.n, &to.dy);
    for (T *&row : to.dhidden)
        memory->take(plan.n * widest, &row);
    return to;
}

// Where the kept rows of the chunk from `first` on lie.
template <class T> static decoding<T> from_row(decoding<T> to, const struct net *net, size_t first)
{
    T **rows[] = {&to.z, &to.q, &to.key, &to.context, &to.g};
    for (T **row : rows)
        *row += first * (size_t)net->config.channels;
    to.weight += first * NET_WINDOW_SIZE;
    for (int i = 0; i + 1 < net->n_linears; i++)
        to.hidden[i] += first * widest_of(net);
    to.residual += first;
    return to;
}

template <class T> static size_t bytes_of(const struct net *net, const scratch_plan &plan)
{
    bump memory = {};
    lay_out<T>(&memory, net, plan);
    return memory.used;
}

// With all rows kept where that is wanted and possible; *keeps says whether.
template <class T>
static scratch_plan plan_scratch(const struct net *net, size_t voxels, size_t n_queries, bool back, bool keep,
                                 bool *keeps)
{
    size_t n = n_queries < (size_t)CHUNK ? n_queries : (size_t)CHUNK;
    scratch_plan plan = {voxels, n_queries, n, true};
    *keeps = keep && bytes_of<T>(net, plan) <= (size_t)KEEP_BYTES;
    return *keeps ? plan : scratch_plan{voxels, n, n, back};
}

template <class T>
static size_t cuda_scratch_bytes(const struct sr_device *device, struct sr_extent encode, size_t n_queries,
                                 int keep)
{
    bool keeps;
    scratch_plan plan =
        plan_scratch<T>(&device->net, count_of(encode), n_queries, keep != 0, keep != 0, &keeps);
    return bytes_of<T>(&device->net, plan) + QUEUE_WORKSPACE_BYTES;
}

// y = W x + bias, plus add where there is one, then with relu the maximum with 0.
template <class T>
static int linear_forward(struct sr_device *device, const struct net_linear *linear, int n, const T *x,
                          const T *add, bool relu, T *y, struct fault_note *why)
{
    const T *weights = weights_of<T>(device);
    return queue_linear(device->queue, n, linear->n_in, linear->n_out, x, weights + linear->weight,
                        weights + linear->bias, add, relu, y, why);
}

// y = W x
template <class T, class Out>
static int linear_product(struct sr_device *device, const struct net_linear *linear, int n, const T *x,
                          Out *y, struct fault_note *why)
{
    return queue_gemm(device->queue, false, true, n, linear->n_out, linear->n_in, x,
                      weights_of<T>(device) + linear->weight, 0, y, why);
}

// dW += dy^T x, db += the column sums of dy.
template <class T>
static int linear_gradients(struct sr_device *device, const struct net_linear *linear, int n, const T *x,
                            const T *dy, float *gradients, struct fault_note *why)
{
    int rc = queue_gemm(device->queue, true, false, linear->n_out, linear->n_in, n, dy, x, 1,
                        gradients + linear->weight, why);
    if (rc != 0)
        return rc;
    return queue_gemm(device->queue, false, false, 1, linear->n_out, n, (const T *)device->ones, dy, 1,
                      gradients + linear->bias, why);
}

// dx = dy W + beta dx.
template <class T>
static int linear_backward(struct sr_device *device, const struct net_linear *linear, int n, const T *dy,
                           float beta, T *dx, struct fault_note *why)
{
    return queue_gemm(device->queue, false, false, n, linear->n_in, linear->n_out, dy,
                      weights_of<T>(device) + linear->weight, beta, dx, why);
}

// A tile's shared memory holds 16 channels where they are a multiple of that.
template <int n>
static int score_tiles(struct sr_device *device, const queries &all, const bf16 *features, const bf16 *x,
                       float *score, struct fault_note *why)
{
    tiling over = tiling_of(all);
    return queue_run_tiles(device->queue, "score", (size_t)over.count() * 2,
                           score_tile_body<n>{over, features, x, score}, why);
}

template <class T>
static int run_score(struct sr_device *device, const queries &all, const T *features, const T *x,
                     float *score, struct fault_note *why)
{
    if constexpr (IS_BF16<T>)
        return all.channels % 16 == 0 ? score_tiles<2>(device, all, features, x, score, why)
                                      : score_tiles<1>(device, all, features, x, score, why);
    else
        return queue_run(device->queue, "score", (size_t)all.count * NET_WINDOW_SIZE,
                         score_body{all, features, x, score}, why);
}

template <int n>
static int weigh_tiles(struct sr_device *device, const queries &all, const bf16 *features,
                       const float *weight, bf16 *out, struct fault_note *why)
{
    weigh_tile_body<n> body = {tiling_of(all), features, weight, out};
    return queue_run_tiles(device->queue, "weigh", (size_t)body.over.count() * body.n_shares(), body, why);
}

template <class T>
static int run_weigh(struct sr_device *device, const queries &all, const T *features, const float *weight,
                     T *out, struct fault_note *why)
{
    if constexpr (IS_BF16<T>)
        return all.channels % 16 == 0 ? weigh_tiles<2>(device, all, features, weight, out, why)
                                      : weigh_tiles<1>(device, all, features, weight, out, why);
    else
        return queue_run(device->queue, "weigh", (size_t)all.count * (size_t)all.channels,
                         weigh_body{all, features, weight, out}, why);
}

template <class T>
static int attend(struct sr_device *device, const queries &all, const decoding<T> &to, struct fault_note *why)
{
    const struct net *net = &device->net;
    struct queue *queue = device->queue;
    int n = all.count, c = all.channels;
    size_t rows = (size_t)n, values = rows * (size_t)c;
    int rc = by_lanes<T>(c, [&](auto n_lanes) {
        return queue_run(queue, "interpolate", values / n_lanes,
                         interpolate_body<T, decltype(n_lanes)::value>{all, to.features, to.z}, why);
    });
    if (rc == 0)
        rc = linear_forward<T>(device, &net->query, n, to.z, NULL, false, to.q, why);
    if (rc == 0)
        rc = linear_backward<T>(device, &net->key, n, to.q, 0, to.key, why); // q' = Wk^T q
    if (rc == 0)
        rc = run_score<T>(device, all, to.features, to.key, to.weight, why);
    if (rc == 0)
        rc = queue_run(queue, "softmax", rows, softmax_body{to.weight, (unsigned)n}, why);
    if (rc == 0)
        rc = run_weigh<T>(device, all, to.features, to.weight, to.context, why);
    if (rc == 0)
        rc = linear_forward<T>(device, &net->value, n, to.context, to.z, false, to.g, why);
    return rc;
}

template <class T>
static int decode_chunk(struct sr_device *device, const queries &all, const decoding<T> &to,
                        struct fault_note *why)
{
    const struct net *net = &device->net;
    int rc = attend(device, all, to, why), last = net->n_linears - 1;
    const T *x = to.g;
    for (int i = 0; rc == 0 && i < last; i++) {
        rc = linear_forward<T>(device, &net->linears[i], all.count, x, NULL, true, to.hidden[i], why);
        x = to.hidden[i];
    }
    return rc != 0 ? rc : linear_product(device, &net->linears[last], all.count, x, to.residual, why);
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
    all.planes = image_of(planes);
    all.e = features->extent;
    all.window = window;
    all.channels = device->net.config.channels;
    all.dilation = device->net.config.dilation;
    all.count = planes->extent.h * window.rows * window.columns;
    return all;
}

template <class T>
static decoding<T> find_rows(const struct sr_device *device, const struct sr_buffer *features,
                             const scratch_plan &plan)
{
    bump memory = {(char *)device->scratch, 0};
    decoding<T> to = lay_out<T>(&memory, &device->net, plan);
    to.features = IS_BF16<T> ? map_of<T>(features) : to.turned;
    return to;
}

// Scratch memory for a decode, with the features in the decoder's order.
template <class T>
static int start_decoding(struct sr_device *device, const struct sr_buffer *features,
                          const scratch_plan &plan, decoding<T> *to, struct fault_note *why)
{
    int rc = reserve(device, bytes_of<T>(&device->net, plan), why);
    if (rc != 0)
        return rc;
    *to = find_rows<T>(device, features, plan);
    if (IS_BF16<T>)
        return 0;
    return queue_run(device->queue, "channels_last", features->count,
                     channels_last_body<T>{to->turned, image_of(features),
                                           (unsigned)device->net.config.channels, plane_of(features->extent)},
                     why);
}

template <class T>
static int cuda_decode_forward(struct sr_device *device, const struct sr_buffer *features,
                               const struct sr_buffer *stack, const struct sr_buffer *planes,
                               struct sr_window window, int keep, struct sr_buffer *y, struct fault_note *why)
{
    const struct net *net = &device->net;
    const struct net_linear *last = &net->linears[net->n_linears - 1];
    decoding<T> rows;
    bool keeps;
    int rc = check_planes(planes, window, why);
    if (rc != 0)
        return rc;
    queries all = queries_of(device, features, planes, window);
    int total = all.count;
    scratch_plan plan =
        plan_scratch<T>(net, count_of(features->extent), (size_t)total, false, keep != 0, &keeps);
    rc = start_decoding(device, features, plan, &rows, why);
    for (all.first = 0; rc == 0 && all.first < total; all.first += all.count) {
        decoding<T> to = keeps ? from_row(rows, net, (size_t)all.first) : rows;
        all.count = least(CHUNK, total - all.first);
        rc = decode_chunk(device, all, to, why);
        if (rc == 0)
            rc = queue_run(device->queue, "decode_finish", (size_t)all.count,
                           decode_finish_body{all, to.residual, device->parameters + last->bias,
                                              stack == NULL ? NULL : image_of(stack), image_of(y)},
                           why);
    }
    if (rc == 0 && keeps)
        device->kept = kept_decode{features, planes, window};
    return rc;
}

// Back through the MLP: gradients added to; *dg is where the gradient of g lies.
template <class T>
static int layers_backward(struct sr_device *device, const queries &all, const decoding<T> &to,
                           const float *dy, float *gradients, const T **dg, struct fault_note *why)
{
    const struct net *net = &device->net;
    const T *dout = to.dy;
    int n = all.count, rc = queue_run(device->queue, "round", (size_t)n, round_body<T>{to.dy, dy}, why);
    for (int i = net->n_linears - 1; rc == 0 && i >= 0; i--) {
        const struct net_linear *linear = &net->linears[i];
        const T *x = i == 0 ? to.g : to.hidden[i - 1];
        T *dx = to.dhidden[i % 2];
        rc = linear_gradients(device, linear, n, x, dout, gradients, why);
        if (rc == 0)
            rc = linear_backward(device, linear, n, dout, 0, dx, why);
        if (rc == 0 && i > 0)
            rc = run_mask<T>(device, (size_t)n, linear->n_in, dx, x, why);
        dout = dx;
    }
    *dg = dout;
    return rc;
}

template <class T>
static int run_gather(struct sr_device *device, const queries &all, const decoding<T> &to,
                      struct fault_note *why)
{
    const int n = IS_BF16<T> ? 8 : 1;
    return queue_run(device->queue, "gather", count_of(all.e) * (size_t)(all.channels / n),
                     gather_body<T, n>{all, to.dz, to.weight, to.dcontext, to.dweight, to.key, to.dfeatures},
                     why);
}

template <class T>
static int attend_backward(struct sr_device *device, const queries &all, const decoding<T> &to, const T *dg,
                           float *gradients, struct fault_note *why)
{
    const struct net *net = &device->net;
    struct queue *queue = device->queue;
    int n = all.count, c = all.channels;
    size_t rows = (size_t)n, values = rows * (size_t)c;
    int rc = linear_gradients<T>(device, &net->value, n, to.context, dg, gradients, why);
    if (rc == 0)
        rc = linear_backward(device, &net->value, n, dg, 0, to.dcontext, why);
    if (rc == 0)
        rc = run_score<T>(device, all, to.features, to.dcontext, to.dweight, why);
    if (rc == 0)
        rc = queue_run(queue, "softmax_back", rows, softmax_back_body{to.weight, to.dweight, (unsigned)n},
                       why);
    if (rc == 0)
        rc = run_weigh<T>(device, all, to.features, to.dweight, to.dkey, why);
    if (rc == 0) // dWk += q dq'^T
        rc = queue_gemm(queue, true, false, c, c, n, (const T *)to.q, (const T *)to.dkey, 1,
                        gradients + net->key.weight, why);
    if (rc == 0)
        rc = linear_product<T>(device, &net->key, n, to.dkey, to.dq, why); // dq = Wk dq'
    if (rc == 0)
        rc = linear_gradients<T>(device, &net->query, n, to.z, to.dq, gradients, why);
    if (rc == 0)
        rc = queue_copy(queue, to.dz, dg, values * sizeof(T), why);
    if (rc == 0)
        rc = linear_backward<T>(device, &net->query, n, to.dq, 1, to.dz, why);
    return rc != 0 ? rc : run_gather(device, all, to, why);
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
                        (size_t)linear->n_in * (size_t)linear->n_out * sizeof *gradients, why);
        if (rc == 0)
            rc = queue_zero(device->queue, gradients + linear->bias,
                            (size_t)linear->n_out * sizeof *gradients, why);
    }
    return rc;
}

template <class T>
static int finish_dfeatures(struct sr_device *device, const float *from, struct sr_buffer *to,
                            struct fault_note *why)
{
    if constexpr (IS_BF16<T>)
        return queue_run(device->queue, "round", to->count, round_body<T>{map_of<T>(to), from}, why);
    else
        return queue_run(device->queue, "channels_first", to->count,
                         channels_first_body<T>{image_of(to), from, (unsigned)device->net.config.channels,
                                                plane_of(to->extent)},
                         why);
}

static bool is_kept(const struct sr_device *device, const struct sr_buffer *features,
                    const struct sr_buffer *planes, struct sr_window window)
{
    const struct kept_decode *kept = &device->kept;
    return kept->features == features && kept->planes == planes && kept->window.row == window.row &&
           kept->window.column == window.column && kept->window.rows == window.rows &&
           kept->window.columns == window.columns;
}

template <class T>
static int cuda_decode_backward(struct sr_device *device, const struct sr_buffer *features,
                                const struct sr_buffer *planes, struct sr_window window,
                                const struct sr_buffer *dy, struct sr_buffer *dfeatures,
                                struct sr_buffer *gradients, struct fault_note *why)
{
    const struct net *net = &device->net;
    decoding<T> rows;
    bool kept = is_kept(device, features, planes, window);
    int rc = check_planes(planes, window, why);
    if (rc != 0)
        return rc;
    queries all = queries_of(device, features, planes, window);
    int total = all.count;
    scratch_plan plan = plan_scratch<T>(net, count_of(features->extent), (size_t)total, true, kept, &kept);
    if (kept)
        rows = find_rows<T>(device, features, plan);
    else
        rc = start_decoding(device, features, plan, &rows, why);
    if (rc == 0)
        rc = clear_gradients(device, image_of(gradients), why);
    if (rc == 0)
        rc = queue_zero(device->queue, rows.dfeatures, features->count * sizeof *rows.dfeatures, why);
    for (all.first = 0; rc == 0 && all.first < total; all.first += all.count) {
        decoding<T> to = kept ? from_row(rows, net, (size_t)all.first) : rows;
        const T *dg = NULL;
        all.count = least(CHUNK, total - all.first);
        if (!kept)
            rc = decode_chunk(device, all, to, why);
        if (rc == 0)
            rc = layers_backward(device, all, to, image_of(dy) + all.first, image_of(gradients), &dg, why);
        if (rc == 0)
            rc = attend_backward(device, all, to, dg, image_of(gradients), why);
    }
    return rc != 0 ? rc : finish_dfeatures<T>(device, rows.dfeatures, dfeatures, why);
}

// ----------------------------------------------------------------------------------------- training

static int cuda_loss_l1(struct sr_device *device, const struct sr_buffer *y, const struct sr_buffer *target,
                        struct sr_buffer *dy, struct sr_buffer *losses, int index, struct fault_note *why)
{
    int rc = queue_run(
        device->queue, "loss", LOSS_PARTS,
        loss_body{image_of(y), image_of(target), image_of(dy), device->partial, y->count, LOSS_PARTS}, why);
    if (rc != 0)
        return rc;
    return sum_parts(device, 1, LOSS_PARTS, 1 / (double)y->count, image_of(losses) + index, why);
}

static int cuda_adam(struct sr_device *device, struct sr_adam adam, const struct sr_buffer *gradients,
                     struct sr_buffer *moment1, struct sr_buffer *moment2, struct sr_buffer *parameters,
                     struct fault_note *why)
{
    double correct1 = 1 - pow((double)adam.beta1, adam.step),
           correct2 = 1 - pow((double)adam.beta2, adam.step);
    adam_body body = {};
    body.gradients = image_of(gradients) + adam.first;
    body.moment1 = image_of(moment1) + adam.first;
    body.moment2 = image_of(moment2) + adam.first;
    body.parameters = image_of(parameters) + adam.first;
    body.beta1 = adam.beta1;
    body.rest1 = (float)(1 - (double)adam.beta1);
    body.beta2 = adam.beta2;
    body.rest2 = (float)(1 - (double)adam.beta2);
    body.rate = (float)((double)adam.rate / correct1);
    body.root2 = (float)sqrt(correct2);
    body.epsilon = adam.epsilon;
    return queue_run(device->queue, "adam", parameters->count - adam.first, body, why);
}

template <class T>
static int cuda_average(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                        float keep, struct fault_note *why)
{
    if (to->channels > 1)
        return queue_run(device->queue, "average", to->count,
                         average_body<T>{map_of<T>(to), map_of<T>(from), keep}, why);
    return queue_run(device->queue, "average", to->count,
                     average_body<float>{image_of(to), image_of(from), keep}, why);
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
        cut_view view = {image_of(volume), volume->extent, cuts[i], i, n_targets, e};
        cut_stack_body blur = {view, image_of(stack), 0, 0};
        if (sigma > 0) {
            blur.slope = (float)(-0.5 / (sigma * sigma));
            blur.reach = (int)floor(3 * sigma + 0.5);
        }
        rc = queue_run(device->queue, "cut_stack", (size_t)e.d * area, blur, why);
        if (rc == 0)
            rc = queue_run(device->queue, "cut_target", (size_t)(e.d - 1) * (size_t)n_targets * area,
                           cut_target_body{view, image_of(planes), image_of(target)}, why);
    }
    return rc;
}

template <class T> static struct sr_ops make_table(const char *name)
{
    struct sr_ops table = {};
    table.name = name;
    table.usable = cuda_usable<T>;
    table.open = cuda_open<T>;
    table.close = cuda_close;
    table.describe = cuda_describe;
    table.buffer_new = cuda_buffer_new<T>;
    table.buffer_free = cuda_buffer_free;
    table.scratch_bytes = cuda_scratch_bytes<T>;
    table.upload = cuda_upload<T>;
    table.download = cuda_download<T>;
    table.synchronize = cuda_synchronize;
    table.zero = cuda_zero;
    table.copy = cuda_copy;
    table.add = cuda_add<T>;
    table.prepare = cuda_prepare<T>;
    table.step_begin = cuda_step;
    table.step_end = cuda_step;
    table.conv_forward = cuda_conv_forward<T>;
    table.conv_backward = cuda_conv_backward<T>;
    table.decode_forward = cuda_decode_forward<T>;
    table.decode_backward = cuda_decode_backward<T>;
    table.loss_l1 = cuda_loss_l1;
    table.adam = cuda_adam;
    table.average = cuda_average<T>;
    table.cut = cuda_cut;
    return table;
}

#ifdef ISOSLICE_CUDA_ON_HOST
#    define TABLE(call) call##_on_host
#    define NAME(name)  name "_on_host"
#elif defined ISOSLICE_CUDA_STAND_IN
#    pragma GCC visibility push(default) // all else is hidden: it has the libraries' names
#    define TABLE(call) call##_stand_in
#    define NAME(name)  name "_stand_in"
#else
#    define TABLE(call) call
#    define NAME(name)  name
#endif

extern "C" const struct sr_ops *TABLE(ops_cuda)(void);
extern "C" const struct sr_ops *TABLE(ops_cuda16)(void);

extern "C" const struct sr_ops *TABLE(ops_cuda)(void)
{
    static const struct sr_ops table = make_table<float>(NAME("cuda"));
    return &table;
}

extern "C" const struct sr_ops *TABLE(ops_cuda16)(void)
{
    static const struct sr_ops table = make_table<bf16>(NAME("cuda16"));
    return &table;
}
