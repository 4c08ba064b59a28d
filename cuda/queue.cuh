// SPDX-License-Identifier: Apache-2.0
//
// What ops_cuda.cu stands on: memory, a queue that runs bodies (host_math.cuh) once per index, matrix
// products and convolutions. Two fillers: queue_cuda.cu (one stream, cuBLAS, cuDNN) and queue_host.cu (plain
// loops), so that everything above this header is tested where there is no GPU; with ISOSLICE_CUDA_STAND_IN
// the former too, over the libraries of tests/gpu/stand_in.cu and the latter's loops. Not here: what is
// computed.
//
// All data are row-major. T is float or bf16: what a queue was opened for. Sums are in fp32 either way. Every
// call that returns int gives 0 or NO_MEMORY, DEVICE. On the device, calls only queue work, but for
// allocation, queue_download and queue_synchronize.

#ifndef ISOSLICE_CUDA_QUEUE_CUH
#define ISOSLICE_CUDA_QUEUE_CUH

extern "C" {
#include "core/fault.h"
#include "sr_engine/ops.h"
}

#include "cuda/bf16.cuh"

#include <stddef.h>
#include <string.h>

#ifdef ISOSLICE_CUDA_ON_HOST
#    define QUEUE_NAMESPACE cuda_on_host
#else
#    define QUEUE_NAMESPACE cuda_on_device
#    include <cuda_runtime.h>
#endif

namespace QUEUE_NAMESPACE
{

struct queue;

// A 3x3x3 convolution with padding 1. For float: of [n,c_in,d,h,w] to [n,c_out,d,h,w], kernels
// [c_out,c_in,d,h,w]; for bf16: of [n,d,h,w,c_in] to [n,d,h,w,c_out], kernels [c_out,d,h,w,c_in].
struct conv_shape {
    int n, c_in, c_out, d, h, w;
};

// Most memory that the libraries take beside what queue_new gives out; more only where cuDNN has nothing that
// needs less.
enum { QUEUE_WORKSPACE_BYTES = 320 << 20 };

// 1, or 0 and why (BACKEND): no driver, no device, no code for it, libraries missing, for bf16 a device
// without it.
template <class T> int queue_usable(struct fault_note *why);
template <class T> int queue_open(struct queue **queue, struct fault_note *why);
void queue_close(struct queue *queue); // NULL is fine
const char *queue_describe(const struct queue *queue);

// Zeros. Owner: *data is the caller's (queue_free).
int queue_new_bytes(struct queue *queue, size_t bytes, void **data, struct fault_note *why);
void queue_free(struct queue *queue, void *data); // NULL is fine; after all queued work
int queue_zero(struct queue *queue, void *to, size_t bytes, struct fault_note *why);
int queue_copy(struct queue *queue, void *to, const void *from, size_t bytes, struct fault_note *why);
int queue_upload(struct queue *queue, float *to, const float *from, size_t n, struct fault_note *why);
int queue_download(struct queue *queue, const float *from, float *to, size_t n, struct fault_note *why);
int queue_synchronize(struct queue *queue, struct fault_note *why);

template <class T> int queue_new(struct queue *queue, size_t n, T **data, struct fault_note *why)
{
    void *made;
    int rc = queue_new_bytes(queue, n * sizeof(T), &made, why);
    if (rc == 0)
        *data = (T *)made;
    return rc;
}

// c [m,n] = op(a) op(b) + beta c with op(a) [m,k]; transposed operands are stored [k,m] and [n,k]. Dense.
// Out is T or float.
template <class T, class Out>
int queue_gemm(struct queue *queue, bool transpose_a, bool transpose_b, int m, int n, int k, const T *a,
               const T *b, float beta, Out *c, struct fault_note *why);

// y [rows,n_out] = x [rows,n_in] weight^T + bias [n_out], plus add [rows,n_out] where there is one, then with
// relu the maximum with 0. weight [n_out,n_in]. In bf16 y is rounded once.
template <class T>
int queue_linear(struct queue *queue, int rows, int n_in, int n_out, const T *x, const T *weight,
                 const T *bias, const T *add, bool relu, T *y, struct fault_note *why);

// y = conv(x) + beta y, without bias.
template <class T>
int queue_conv_forward(struct queue *queue, conv_shape shape, const T *x, const T *kernels, float beta, T *y,
                       struct fault_note *why);
// dx = the adjoint of conv on dy + beta dx.
template <class T>
int queue_conv_data(struct queue *queue, conv_shape shape, const T *dy, const T *kernels, float beta, T *dx,
                    struct fault_note *why);
// dkernels is written.
template <class T>
int queue_conv_kernels(struct queue *queue, conv_shape shape, const T *x, const T *dy, T *dkernels,
                       struct fault_note *why);

// The calls above for one T, in a filler.
#define INSTANTIATE_QUEUE(T)                                                                                 \
    template int queue_usable<T>(struct fault_note *);                                                       \
    template int queue_open<T>(struct queue **, struct fault_note *);                                        \
    template int queue_gemm(struct queue *, bool, bool, int, int, int, const T *, const T *, float, T *,     \
                            struct fault_note *);                                                            \
    template int queue_linear(struct queue *, int, int, int, const T *, const T *, const T *, const T *,     \
                              bool, T *, struct fault_note *);                                               \
    template int queue_conv_forward(struct queue *, conv_shape, const T *, const T *, float, T *,            \
                                    struct fault_note *);                                                    \
    template int queue_conv_data(struct queue *, conv_shape, const T *, const T *, float, T *,               \
                                 struct fault_note *);                                                       \
    template int queue_conv_kernels(struct queue *, conv_shape, const T *, const T *, T *,                   \
                                    struct fault_note *);

// What a tile's block may have in shared memory on every device.
enum { QUEUE_SHARED_BYTES = 48 << 10 };

#ifdef ISOSLICE_CUDA_STAND_IN
cudaStream_t queue_stream(struct queue *queue);
int queue_launched(const char *what, struct fault_note *why);
// What the runtime is asked about.
template <class Body> void run_body(Body, size_t)
{
}
#endif

#if defined ISOSLICE_CUDA_ON_HOST || defined ISOSLICE_CUDA_STAND_IN

template <class Body>
int queue_run(struct queue *queue, const char *what, size_t n, Body body, struct fault_note *why)
{
    (void)queue, (void)what, (void)why;
    // from the far end: a body that leans on the order of the indices shows
    for (size_t i = n; i-- > 0;)
        body((unsigned)i);
    return 0;
}

// The body's threads one after the other, phase by phase.
template <class Body>
int queue_run_tiles(struct queue *queue, const char *what, size_t n, Body body, struct fault_note *why)
{
    static_assert(sizeof(eight) * Body::most_entries <= QUEUE_SHARED_BYTES, "a block's shared memory");
    eight shared[Body::most_entries];
    typename Body::state state[Body::threads];
    (void)queue, (void)what, (void)why;
    for (size_t block = n; block-- > 0;) {
        if (body.is_idle((unsigned)block))
            continue;
        for (int thread = 0; thread < Body::threads; thread++)
            body.begin(state[thread]);
        for (int phase = 0; phase < body.n_phases(); phase++) {
            memset((void *)shared, 0xff,
                   sizeof shared); // no numbers: what is read without being filled shows
            for (int i = 0; i < body.n_entries(); i++)
                body.fill((unsigned)block, phase, i, shared);
            for (int thread = 0; thread < Body::threads; thread++)
                body.work((unsigned)block, phase, thread, shared, state[thread]);
        }
        for (int thread = 0; thread < Body::threads; thread++)
            body.end((unsigned)block, thread, state[thread]);
    }
    return 0;
}

#else

cudaStream_t queue_stream(struct queue *queue);
// The fault of a launch just made; `what` names it.
int queue_launched(const char *what, struct fault_note *why);

template <class Body> __global__ void run_body(Body body, size_t n)
{
    size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        body((unsigned)i);
}

// body(i) for every i below n <= 2^32, in any order and at the same time.
template <class Body>
int queue_run(struct queue *queue, const char *what, size_t n, Body body, struct fault_note *why)
{
    const size_t threads = 256, most_blocks = 1 << 20;
    if (n == 0)
        return 0;
    size_t blocks = (n + threads - 1) / threads;
    blocks = blocks < most_blocks ? blocks : most_blocks;
    run_body<<<(unsigned)blocks, (unsigned)threads, 0, queue_stream(queue)>>>(body, n);
    return queue_launched(what, why);
}

template <class Body> __global__ void __launch_bounds__(Body::threads) run_tile(Body body)
{
    extern __shared__ eight shared[];
    if (body.is_idle(blockIdx.x))
        return;
    typename Body::state state;
    body.begin(state);
    for (int phase = 0; phase < body.n_phases(); phase++) {
        for (int i = (int)threadIdx.x; i < body.n_entries(); i += Body::threads)
            body.fill(blockIdx.x, phase, i, shared);
        __syncthreads();
        body.work(blockIdx.x, phase, (int)threadIdx.x, shared, state);
        __syncthreads();
    }
    body.end(blockIdx.x, (int)threadIdx.x, state);
}

// n blocks of Body::threads threads with n_entries() entries of shared memory. In each phase fill() writes
// every entry once, then work() is called for every thread; a thread keeps its state from begin() to end().
template <class Body>
int queue_run_tiles(struct queue *queue, const char *what, size_t n, Body body, struct fault_note *why)
{
    static_assert(sizeof(eight) * Body::most_entries <= QUEUE_SHARED_BYTES, "a block's shared memory");
    if (n == 0)
        return 0;
    run_tile<<<(unsigned)n, (unsigned)Body::threads, sizeof(eight) * (size_t)body.n_entries(),
               queue_stream(queue)>>>(body);
    return queue_launched(what, why);
}

#endif

} // namespace QUEUE_NAMESPACE

#endif
