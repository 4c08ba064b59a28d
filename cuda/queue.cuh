// SPDX-License-Identifier: Apache-2.0
//
// What ops_cuda.cu stands on: memory, a queue that runs bodies (host_math.cuh) once per index, matrix
// products and convolutions. Two fillers: queue_cuda.cu (one stream, cuBLAS, cuDNN) and queue_host.cu (plain
// loops), so that everything above this header is tested where there is no GPU. Not here: what is computed.
//
// All data are fp32 and row-major. Every call that returns int gives 0 or NO_MEMORY, DEVICE. On the device,
// calls only queue work, but for allocation, queue_download and queue_synchronize.

#ifndef ISOSLICE_CUDA_QUEUE_CUH
#define ISOSLICE_CUDA_QUEUE_CUH

extern "C" {
#include "core/fault.h"
#include "sr_engine/ops.h"
}

#include <stddef.h>

#ifdef ISOSLICE_CUDA_ON_HOST
#    define QUEUE_NAMESPACE cuda_on_host
#else
#    define QUEUE_NAMESPACE cuda_on_device
#    include <cuda_runtime.h>
#endif

namespace QUEUE_NAMESPACE
{

struct queue;

// A 3x3x3 convolution with padding 1 of [n,c_in,d,h,w] to [n,c_out,d,h,w]; kernels [c_out,c_in,d,h,w].
struct conv_shape {
    int n, c_in, c_out, d, h, w;
};

// Most memory that the libraries take beside what queue_new gives out.
enum { QUEUE_WORKSPACE_BYTES = 320 << 20 };

// 1, or 0 and why (BACKEND): no driver, no device, no code for it, libraries missing.
int queue_usable(struct fault_note *why);
int queue_open(struct queue **queue, struct fault_note *why);
void queue_close(struct queue *queue); // NULL is fine
const char *queue_describe(const struct queue *queue);

// n zeros. Owner: *data is the caller's (queue_free).
int queue_new(struct queue *queue, size_t n, float **data, struct fault_note *why);
void queue_free(struct queue *queue, float *data); // NULL is fine; after all queued work
int queue_zero(struct queue *queue, float *to, size_t n, struct fault_note *why);
int queue_copy(struct queue *queue, float *to, const float *from, size_t n, struct fault_note *why);
int queue_upload(struct queue *queue, float *to, const float *from, size_t n, struct fault_note *why);
int queue_download(struct queue *queue, const float *from, float *to, size_t n, struct fault_note *why);
int queue_synchronize(struct queue *queue, struct fault_note *why);

// c [m,n] = op(a) op(b) + beta c with op(a) [m,k]; transposed operands are stored [k,m] and [n,k]. Dense.
int queue_gemm(struct queue *queue, bool transpose_a, bool transpose_b, int m, int n, int k, const float *a,
               const float *b, float beta, float *c, struct fault_note *why);

// y = conv(x) + beta y, without bias.
int queue_conv_forward(struct queue *queue, conv_shape shape, const float *x, const float *kernels,
                       float beta, float *y, struct fault_note *why);
// dx = the adjoint of conv on dy + beta dx.
int queue_conv_data(struct queue *queue, conv_shape shape, const float *dy, const float *kernels, float beta,
                    float *dx, struct fault_note *why);
// dkernels is written.
int queue_conv_kernels(struct queue *queue, conv_shape shape, const float *x, const float *dy,
                       float *dkernels, struct fault_note *why);

#ifdef ISOSLICE_CUDA_ON_HOST

template <class Body>
int queue_run(struct queue *queue, const char *what, size_t n, Body body, struct fault_note *why)
{
    (void)queue, (void)what, (void)why;
    // from the far end: a body that leans on the order of the indices shows
    for (size_t i = n; i-- > 0;)
        body((unsigned)i);
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

#endif

} // namespace QUEUE_NAMESPACE

#endif
