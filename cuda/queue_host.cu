// SPDX-License-Identifier: Apache-2.0
//
// The queue on the host, for the tests: plain loops in the order of the calls. Compiled as C++, without CUDA.
#include "cuda/queue.cuh"

#include <stdlib.h>
#include <string.h>

namespace QUEUE_NAMESPACE
{

struct queue {
    int unused;
};

int queue_usable(struct fault_note *why)
{
    (void)why;
    return 1;
}

int queue_open(struct queue **queue, struct fault_note *why)
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

int queue_new(struct queue *queue, size_t n, float **data, struct fault_note *why)
{
    (void)queue;
    *data = (float *)calloc(n ? n : 1, sizeof **data);
    return *data != NULL ? 0 : fault_set(why, FAULT_NO_MEMORY, "no memory for %zu values", n);
}

void queue_free(struct queue *queue, float *data)
{
    (void)queue;
    free(data);
}

int queue_zero(struct queue *queue, float *to, size_t n, struct fault_note *why)
{
    (void)queue, (void)why;
    memset(to, 0, n * sizeof *to);
    return 0;
}

int queue_copy(struct queue *queue, float *to, const float *from, size_t n, struct fault_note *why)
{
    (void)queue, (void)why;
    memcpy(to, from, n * sizeof *to);
    return 0;
}

int queue_upload(struct queue *queue, float *to, const float *from, size_t n, struct fault_note *why)
{
    return queue_copy(queue, to, from, n, why);
}

int queue_download(struct queue *queue, const float *from, float *to, size_t n, struct fault_note *why)
{
    return queue_copy(queue, to, from, n, why);
}

int queue_synchronize(struct queue *queue, struct fault_note *why)
{
    (void)queue, (void)why;
    return 0;
}

int queue_gemm(struct queue *queue, bool transpose_a, bool transpose_b, int m, int n, int k, const float *a,
               const float *b, float beta, float *c, struct fault_note *why)
{
    (void)queue, (void)why;
    size_t rows = (size_t)m, columns = (size_t)n, depth = (size_t)k;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            double sum = 0;
            for (size_t l = 0; l < depth; l++)
                sum += (double)(transpose_a ? a[l * rows + i] : a[i * depth + l]) *
                       (double)(transpose_b ? b[j * depth + l] : b[l * columns + j]);
            c[i * columns + j] = (float)(sum + (beta != 0 ? (double)beta * (double)c[i * columns + j] : 0));
        }
    return 0;
}

// Calls visit(x's voxel, y's voxel, tap) for every product of a convolution within one pair of channels.
template <class Visit> static void each_product(const conv_shape &s, Visit visit)
{
    for (int d = 0; d < s.d; d++)
        for (int h = 0; h < s.h; h++)
            for (int w = 0; w < s.w; w++)
                for (int tap = 0; tap < 27; tap++) {
                    int z = d + tap / 9 - 1, y = h + tap / 3 % 3 - 1, x = w + tap % 3 - 1;
                    if (z >= 0 && z < s.d && y >= 0 && y < s.h && x >= 0 && x < s.w)
                        visit(((size_t)z * (size_t)s.h + (size_t)y) * (size_t)s.w + (size_t)x,
                              ((size_t)d * (size_t)s.h + (size_t)h) * (size_t)s.w + (size_t)w, (size_t)tap);
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

static void scale(float *y, size_t n, float beta)
{
    for (size_t i = 0; i < n; i++)
        y[i] = beta != 0 ? beta * y[i] : 0;
}

static size_t values_of(const conv_shape &s, int channels)
{
    return (size_t)s.n * (size_t)channels * (size_t)s.d * (size_t)s.h * (size_t)s.w;
}

int queue_conv_forward(struct queue *queue, conv_shape shape, const float *x, const float *kernels,
                       float beta, float *y, struct fault_note *why)
{
    (void)queue, (void)why;
    scale(y, values_of(shape, shape.c_out), beta);
    each_pair(shape, [&](size_t in, size_t out, size_t kernel) {
        each_product(
            shape, [&](size_t a, size_t b, size_t tap) { y[out + b] += x[in + a] * kernels[kernel + tap]; });
    });
    return 0;
}

int queue_conv_data(struct queue *queue, conv_shape shape, const float *dy, const float *kernels, float beta,
                    float *dx, struct fault_note *why)
{
    (void)queue, (void)why;
    scale(dx, values_of(shape, shape.c_in), beta);
    each_pair(shape, [&](size_t in, size_t out, size_t kernel) {
        each_product(shape, [&](size_t a, size_t b, size_t tap) {
            dx[in + a] += dy[out + b] * kernels[kernel + tap];
        });
    });
    return 0;
}

int queue_conv_kernels(struct queue *queue, conv_shape shape, const float *x, const float *dy,
                       float *dkernels, struct fault_note *why)
{
    (void)queue, (void)why;
    memset(dkernels, 0, (size_t)shape.c_in * (size_t)shape.c_out * 27 * sizeof *dkernels);
    each_pair(shape, [&](size_t in, size_t out, size_t kernel) {
        each_product(shape, [&](size_t a, size_t b, size_t tap) {
            dkernels[kernel + tap] += x[in + a] * dy[out + b];
        });
    });
    return 0;
}

} // namespace QUEUE_NAMESPACE
