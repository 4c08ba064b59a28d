// SPDX-License-Identifier: Apache-2.0
//
// The queue on the host, for the tests: plain loops in the order of the calls. Compiled as C++, without CUDA.
// Sums are kept in float or double and rounded to what they are stored in at their end, as on the device.
#include "cuda/queue.cuh"

#include <stdlib.h>
#include <string.h>
#include <type_traits>

namespace QUEUE_NAMESPACE
{

struct queue {
    int unused;
};

template <class T> int queue_usable(struct fault_note *why)
{
    (void)why;
    return 1;
}

template <class T> int queue_open(struct queue **queue, struct fault_note *why)
{
    *queue = (struct queue *)calloc(1, sizeof **queue);
    return *queue != NULL ? 0 : fault_set(why, FAULT_NO_MEMORY, "no memory for a queue");
}

void queue_close(struct queue *queue)
{
    free(queue);
}

const char *queue_describe(const struct queue *queue)
{
    (void)queue;
    return "cuda's kernels as loops on the host";
}

int queue_new_bytes(struct queue *queue, size_t bytes, void **data, struct fault_note *why)
{
    (void)queue;
    // as aligned as the device's memory
    size_t whole = (bytes + 255) / 256 * 256;
    *data = aligned_alloc(256, whole != 0 ? whole : 256);
    if (*data == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for %zu bytes", bytes);
    memset(*data, 0, whole);
    return 0;
}

void queue_free(struct queue *queue, void *data)
{
    (void)queue;
    free(data);
}

int queue_zero(struct queue *queue, void *to, size_t bytes, struct fault_note *why)
{
    (void)queue, (void)why;
    memset(to, 0, bytes);
    return 0;
}

int queue_copy(struct queue *queue, void *to, const void *from, size_t bytes, struct fault_note *why)
{
    (void)queue, (void)why;
    memcpy(to, from, bytes);
    return 0;
}

int queue_upload(struct queue *queue, float *to, const float *from, size_t n, struct fault_note *why)
{
    return queue_copy(queue, to, from, n * sizeof *to, why);
}

int queue_download(struct queue *queue, const float *from, float *to, size_t n, struct fault_note *why)
{
    return queue_copy(queue, to, from, n * sizeof *to, why);
}

int queue_synchronize(struct queue *queue, struct fault_note *why)
{
    (void)queue, (void)why;
    return 0;
}

template <class T, class Out>
int queue_gemm(struct queue *queue, bool transpose_a, bool transpose_b, int m, int n, int k, const T *a,
               const T *b, float beta, Out *c, struct fault_note *why)
{
    (void)queue, (void)why;
    size_t rows = (size_t)m, columns = (size_t)n, depth = (size_t)k;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            double sum = 0;
            for (size_t l = 0; l < depth; l++)
                sum += (double)(float)(transpose_a ? a[l * rows + i] : a[i * depth + l]) *
                       (double)(float)(transpose_b ? b[j * depth + l] : b[l * columns + j]);
            double old = beta != 0 ? (double)beta * (double)(float)c[i * columns + j] : 0;
            c[i * columns + j] = (float)(sum + old);
        }
    return 0;
}

template <class T>
int queue_linear(struct queue *queue, int rows, int n_in, int n_out, const T *x, const T *weight,
                 const T *bias, const T *add, bool relu, T *y, struct fault_note *why)
{
    (void)queue, (void)why;
    size_t depth = (size_t)n_in, columns = (size_t)n_out;
    for (size_t i = 0; i < (size_t)rows; i++)
        for (size_t j = 0; j < columns; j++) {
            double sum = (double)(float)bias[j] + (add != NULL ? (double)(float)add[i * columns + j] : 0);
            for (size_t l = 0; l < depth; l++)
                sum += (double)(float)x[i * depth + l] * (double)(float)weight[j * depth + l];
            y[i * columns + j] = relu && sum < 0 ? 0 : (float)sum;
        }
    return 0;
}

// Calls visit(x's voxel, y's voxel, tap) for every product of a convolution within one pair of channels; a
// tap at a time, so that the innermost loop goes along both volumes and the compiler can make vectors of it.
template <class Visit> static void each_product(const conv_shape &s, Visit visit)
{
    auto first = [](int shift) { return shift < 0 ? -shift : 0; };
    auto end = [](int size, int shift) { return shift > 0 ? size - shift : size; };
    for (int tap = 0; tap < 27; tap++) {
        int dz = tap / 9 - 1, dy = tap / 3 % 3 - 1, dx = tap % 3 - 1;
        for (int d = first(dz); d < end(s.d, dz); d++)
            for (int h = first(dy); h < end(s.h, dy); h++) {
                size_t from = ((size_t)(d + dz) * (size_t)s.h + (size_t)(h + dy)) * (size_t)s.w;
                size_t to = ((size_t)d * (size_t)s.h + (size_t)h) * (size_t)s.w;
                size_t low = (size_t)first(dx), high = (size_t)end(s.w, dx);
                for (size_t w = low; w < high; w++)
                    visit(from + w + (size_t)dx, to + w, (size_t)tap);
            }
    }
}

// Calls visit(offset of x's channel, offset of y's channel, offset of the kernel) for every pair.
template <class Visit> static void each_pair(const conv_shape &s, Visit visit)
{
    size_t plane = (size_t)s.d * (size_t)s.h * (size_t)s.w, in = (size_t)s.c_in, out = (size_t)s.c_out;
    for (size_t n = 0; n < (size_t)s.n; n++)
        for (size_t o = 0; o < out; o++)
            for (size_t i = 0; i < in; i++)
                visit((n * in + i) * plane, (n * out + o) * plane, (o * in + i) * 27);
}

// An operand [outer,channels,inner] as floats; bf16 has it as [outer,inner,channels].
template <class T> struct operand {
    size_t outer, channels, inner;
    T *stored;
    float *values;

    size_t place(size_t i) const
    {
        if (!std::is_same<T, bf16>::value)
            return i;
        return (i / inner / channels * inner + i % inner) * channels + i / inner % channels;
    }
    size_t count() const
    {
        return outer * channels * inner;
    }
    void store() const
    {
        for (size_t i = 0; i < count(); i++)
            stored[place(i)] = values[i];
    }
};

// The stored values times factor; NULL: no memory. The caller frees `values`.
template <class T>
static operand<T> open_operand(size_t outer, int channels, size_t inner, const T *stored, float factor)
{
    operand<T> o = {outer, (size_t)channels, inner, const_cast<T *>(stored), NULL};
    o.values = (float *)calloc(o.count(), sizeof *o.values);
    for (size_t i = 0; o.values != NULL && factor != 0 && i < o.count(); i++)
        o.values[i] = factor * stored[o.place(i)];
    return o;
}

// x, kernels and y of a convolution; what is a result has a factor for its old values.
template <class T> struct operands {
    operand<T> x, kernels, y;

    operands(const conv_shape &s, const T *x_, float x_factor, const T *k_, float k_factor, const T *y_,
             float y_factor)
    {
        size_t n = (size_t)s.n, plane = (size_t)s.d * (size_t)s.h * (size_t)s.w;
        x = open_operand(n, s.c_in, plane, x_, x_factor);
        kernels = open_operand((size_t)s.c_out, s.c_in, 27, k_, k_factor);
        y = open_operand(n, s.c_out, plane, y_, y_factor);
    }
    ~operands()
    {
        free(x.values);
        free(kernels.values);
        free(y.values);
    }
    int check(struct fault_note *why) const
    {
        if (x.values != NULL && kernels.values != NULL && y.values != NULL)
            return 0;
        return fault_set(why, FAULT_NO_MEMORY, "no memory for a convolution");
    }
};

template <class T>
int queue_conv_forward(struct queue *queue, conv_shape shape, const T *x, const T *kernels, float beta, T *y,
                       struct fault_note *why)
{
    (void)queue;
    operands<T> all(shape, x, 1, kernels, 1, y, beta);
    int rc = all.check(why);
    if (rc != 0)
        return rc;
    const float *from = all.x.values, *k = all.kernels.values;
    each_pair(shape, [&](size_t in, size_t out, size_t kernel) {
        each_product(shape, [&](size_t a, size_t b, size_t tap) {
            all.y.values[out + b] += from[in + a] * k[kernel + tap];
        });
    });
    all.y.store();
    return 0;
}

template <class T>
int queue_conv_data(struct queue *queue, conv_shape shape, const T *dy, const T *kernels, float beta, T *dx,
                    struct fault_note *why)
{
    (void)queue;
    operands<T> all(shape, dx, beta, kernels, 1, dy, 1);
    int rc = all.check(why);
    if (rc != 0)
        return rc;
    const float *from = all.y.values, *k = all.kernels.values;
    each_pair(shape, [&](size_t in, size_t out, size_t kernel) {
        each_product(shape, [&](size_t a, size_t b, size_t tap) {
            all.x.values[in + a] += from[out + b] * k[kernel + tap];
        });
    });
    all.x.store();
    return 0;
}

template <class T>
int queue_conv_kernels(struct queue *queue, conv_shape shape, const T *x, const T *dy, T *dkernels,
                       struct fault_note *why)
{
    (void)queue;
    operands<T> all(shape, x, 1, dkernels, 0, dy, 1);
    int rc = all.check(why);
    if (rc != 0)
        return rc;
    const float *a_values = all.x.values, *b_values = all.y.values;
    each_pair(shape, [&](size_t in, size_t out, size_t kernel) {
        each_product(shape, [&](size_t a, size_t b, size_t tap) {
            all.kernels.values[kernel + tap] += a_values[in + a] * b_values[out + b];
        });
    });
    all.kernels.store();
    return 0;
}

INSTANTIATE_QUEUE(float)
INSTANTIATE_QUEUE(bf16)
template int queue_gemm(struct queue *, bool, bool, int, int, int, const bf16 *, const bf16 *, float, float *,
                        struct fault_note *);

} // namespace QUEUE_NAMESPACE
