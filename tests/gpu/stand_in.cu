// SPDX-License-Identifier: Apache-2.0
//
// Stand-ins for what queue_cuda.cu calls of CUDA's runtime, cuBLAS, cuBLASLt and cuDNN: what their
// documentation says that a call computes, from its arguments alone, in plain loops. Shown with them are
// operand orders, strides, transposes, layouts and arithmetic asked for, and the ways round a refusal, of
// which there are more than on any GPU. Not shown: what a GPU does. Memory holds no numbers at first.
#include "cuda/bf16.cuh"

#include <cublas_v2.h>
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <cudnn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: a library would not take this: %s\n", __FILE__, __LINE__, #condition);   \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

namespace
{

// Descriptors are handed out as the libraries' own pointers.
template <class Made, class Handle> void make(Handle *to)
{
    MUST((*to = (Handle)calloc(1, sizeof(Made))) != NULL);
}

struct array {
    const void *data;
    bool is_bf16;

    double at(int64_t i) const
    {
        return is_bf16 ? (float)((const bf16 *)data)[i] : ((const float *)data)[i];
    }
    void set(int64_t i, double value) const
    {
        if (is_bf16)
            ((bf16 *)data)[i] = (float)value;
        else
            ((float *)data)[i] = (float)value;
    }
};

// ----------------------------------------------------------------------------------------- products

struct matrix { // columns one after the other
    array values;
    bool transposed;
    int64_t stride;

    double at(int64_t row, int64_t column) const
    {
        return values.at(transposed ? column + row * stride : row + column * stride);
    }
};

array array_of(const void *data, cudaDataType_t type)
{
    MUST(type == CUDA_R_16BF || type == CUDA_R_32F);
    MUST((uintptr_t)data % (type == CUDA_R_16BF ? 2 : 4) == 0);
    return array{data, type == CUDA_R_16BF};
}

// d [m,n] = a b + beta c, plus a bias for every row, then with relu the maximum with 0.
void multiply(int64_t m, int64_t n, int64_t k, const matrix &a, const matrix &b, double beta, const matrix &c,
              const matrix &d, const array *bias, bool relu)
{
    MUST(m > 0 && n > 0 && k > 0 && a.stride >= (a.transposed ? k : m) &&
         b.stride >= (b.transposed ? n : k) && c.stride >= m && d.stride >= m);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = bias != NULL ? bias->at(i) : 0;
            for (int64_t l = 0; l < k; l++)
                sum += a.at(i, l) * b.at(l, j);
            sum += beta != 0 ? beta * c.at(i, j) : 0;
            d.values.set(i + j * d.stride, relu && sum < 0 ? 0 : sum);
        }
}

struct layout {
    cudaDataType_t type;
    int64_t rows, columns, stride;
};

struct product {
    cublasOperation_t transpose_a;
    cublasLtEpilogue_t epilogue;
    const void *bias;
};

// ----------------------------------------------------------------------------------------- convolutions

struct tensor {
    bool is_bf16;
    int size[5]; // [N,C,D,H,W], or of kernels [out,in,D,H,W]
    int64_t stride[5];

    int64_t count() const
    {
        return (int64_t)size[0] * size[1] * size[2] * size[3] * size[4];
    }
    int64_t place(int n, int c, int d, int h, int w) const
    {
        return n * stride[0] + c * stride[1] + d * stride[2] + h * stride[3] + w * stride[4];
    }
};

struct convolution {
    cudnnMathType_t math;
};

void describe(void *descriptor, cudnnTensorFormat_t format, cudnnDataType_t type, int n, const int *size)
{
    static const int last[] = {1, 4, 3, 2, 0}, first[] = {4, 3, 2, 1, 0}; // the innermost axis to the left
    tensor *to = (tensor *)descriptor;
    int64_t stride = 1;
    MUST(n == 5 && (type == CUDNN_DATA_BFLOAT16 || type == CUDNN_DATA_FLOAT));
    to->is_bf16 = type == CUDNN_DATA_BFLOAT16;
    memcpy(to->size, size, sizeof to->size);
    for (int axis : format == CUDNN_TENSOR_NHWC ? last : first) {
        to->stride[axis] = stride;
        stride *= size[axis];
    }
}

// Calls visit(place in x, place in the kernels, place in y) for every product.
template <class Visit> void each_product(const tensor &x, const tensor &k, const tensor &y, Visit visit)
{
    MUST(x.size[1] == k.size[1] && y.size[1] == k.size[0] && x.size[0] == y.size[0]);
    MUST(memcmp(x.size + 2, y.size + 2, 3 * sizeof(int)) == 0);
    for (int n = 0; n < x.size[0]; n++)
        for (int out = 0; out < k.size[0]; out++)
            for (int in = 0; in < k.size[1]; in++)
                for (int d = 0; d < y.size[2]; d++)
                    for (int h = 0; h < y.size[3]; h++)
                        for (int w = 0; w < y.size[4]; w++)
                            for (int tap = 0; tap < 27; tap++) {
                                int a = tap / 9, b = tap / 3 % 3, c = tap % 3;
                                int dx = d + a - 1, hx = h + b - 1, wx = w + c - 1;
                                if (dx >= 0 && dx < x.size[2] && hx >= 0 && hx < x.size[3] && wx >= 0 &&
                                    wx < x.size[4])
                                    visit(x.place(n, in, dx, hx, wx), k.place(out, in, a, b, c),
                                          y.place(n, out, d, h, w));
                            }
}

// The algorithms: one that is not repeatable, one that needs more memory than there is, one that has no
// workspace for odd widths and does not add, and one that does all.
enum { HASTY, GREEDY, PICKY, ABLE, N_ALGORITHMS };

int number_of(int kind)
{
    return N_ALGORITHMS - 1 - kind;
}

cudnnMathType_t math_of(const tensor &x, int kind)
{
    return !x.is_bf16 ? CUDNN_FMA_MATH : kind == ABLE ? CUDNN_DEFAULT_MATH : CUDNN_TENSOR_OP_MATH;
}

template <class Performance>
cudnnStatus_t list_algorithms(const void *x_, const void *conv, int most, int *n, Performance *list)
{
    const tensor &x = *(const tensor *)x_;
    // no other arithmetic may be offered than the descriptor allows
    MUST(((const convolution *)conv)->math == (x.is_bf16 ? CUDNN_TENSOR_OP_MATH : CUDNN_FMA_MATH));
    MUST(most >= N_ALGORITHMS);
    memset(list, 0, N_ALGORITHMS * sizeof *list);
    for (int kind = 0; kind < N_ALGORITHMS; kind++) {
        list[kind].algo = (decltype(list->algo))number_of(kind);
        list[kind].status = CUDNN_STATUS_SUCCESS;
        list[kind].memory = kind == GREEDY ? (size_t)1 << 50 : 1;
        list[kind].determinism = kind == HASTY ? CUDNN_NON_DETERMINISTIC : CUDNN_DETERMINISTIC;
        list[kind].mathType = math_of(x, kind);
    }
    *n = N_ALGORITHMS;
    return CUDNN_STATUS_SUCCESS;
}

size_t bytes_of(int number)
{
    return (size_t)number * 1000 + 8;
}

cudnnStatus_t size_workspace(const void *x_, const void *conv, int number, size_t *bytes)
{
    const tensor &x = *(const tensor *)x_;
    int kind = number_of(number);
    MUST((kind == PICKY || kind == ABLE) && ((const convolution *)conv)->math == math_of(x, kind));
    *bytes = bytes_of(number);
    return kind == PICKY && x.size[4] % 2 != 0 ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
}

// `to` = alpha * the sums that visit() makes of products + beta * `to`.
template <class Visit>
cudnnStatus_t convolve(const tensor &x, const tensor &k, const tensor &y, const void *conv, int number,
                       void *workspace, size_t bytes, const void *alpha, const void *beta_, const tensor &to,
                       void *data, Visit visit)
{
    float beta = *(const float *)beta_;
    int kind = number_of(number);
    MUST((kind == PICKY || kind == ABLE) && ((const convolution *)conv)->math == math_of(x, kind));
    MUST(bytes == bytes_of(number) && *(const float *)alpha == 1);
    memset(workspace, 0xff, bytes);
    if (kind == PICKY && beta != 0)
        return CUDNN_STATUS_NOT_SUPPORTED_LAYOUT;
    double *sums = (double *)calloc((size_t)to.count(), sizeof *sums);
    MUST(sums != NULL);
    each_product(x, k, y, [&](int64_t in, int64_t by, int64_t out) { visit(sums, in, by, out); });
    array old = {data, to.is_bf16};
    for (int64_t i = 0; i < to.count(); i++)
        old.set(i, sums[i] + (beta != 0 ? beta * old.at(i) : 0));
    free(sums);
    return CUDNN_STATUS_SUCCESS;
}

} // namespace

extern "C" {

// ----------------------------------------------------------------------------------------- the runtime

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr, int)
{
    *value = 9;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *, const void *)
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int)
{
    memset(properties, 0, sizeof *properties);
    strcpy(properties->name, "stand-in");
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

const char *cudaGetErrorName(cudaError_t)
{
    return "an error";
}

const char *cudaGetErrorString(cudaError_t)
{
    return "an error";
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    make<int>(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (*memory == NULL)
        return cudaErrorMemoryAllocation;
    memset(*memory, 0xff, bytes);
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t)
{
    memset(to, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t)
{
    memcpy(to, from, bytes);
    return cudaSuccess;
}

// ----------------------------------------------------------------------------------------- cuBLAS

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle)
{
    make<int>(handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t)
{
    return "a status";
}

cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t, cudaStream_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void *, size_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx_64(cublasHandle_t, cublasOperation_t transpose_a, cublasOperation_t transpose_b,
                               int64_t m, int64_t n, int64_t k, const void *alpha, const void *a,
                               cudaDataType type_a, int64_t stride_a, const void *b, cudaDataType type_b,
                               int64_t stride_b, const void *beta, void *c, cudaDataType type_c,
                               int64_t stride_c, cublasComputeType_t, cublasGemmAlgo_t)
{
    matrix to = {array_of(c, type_c), false, stride_c};
    MUST(*(const float *)alpha == 1);
    multiply(m, n, k, matrix{array_of(a, type_a), transpose_a == CUBLAS_OP_T, stride_a},
             matrix{array_of(b, type_b), transpose_b == CUBLAS_OP_T, stride_b}, *(const float *)beta, to, to,
             NULL, false);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t transpose_a,
                              cublasOperation_t transpose_b, int m, int n, int k, const float *alpha,
                              const float *a, int stride_a, const float *b, int stride_b, const float *beta,
                              float *c, int stride_c)
{
    return cublasGemmEx_64(handle, transpose_a, transpose_b, m, n, k, alpha, a, CUDA_R_32F, stride_a, b,
                           CUDA_R_32F, stride_b, beta, c, CUDA_R_32F, stride_c, CUBLAS_COMPUTE_32F,
                           CUBLAS_GEMM_DEFAULT);
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    make<int>(handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *to, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    MUST(compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F);
    make<product>(to);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product)
{
    free(product);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t to_, cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t bytes)
{
    product *to = (product *)to_;
    void *place = what == CUBLASLT_MATMUL_DESC_TRANSA         ? (void *)&to->transpose_a
                  : what == CUBLASLT_MATMUL_DESC_EPILOGUE     ? (void *)&to->epilogue
                  : what == CUBLASLT_MATMUL_DESC_BIAS_POINTER ? (void *)&to->bias
                                                              : NULL;
    MUST(place != NULL && bytes == (what == CUBLASLT_MATMUL_DESC_BIAS_POINTER ? 8 : 4));
    memcpy(place, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *to)
{
    make<int>(to);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    free(preference);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t what, const void *,
                                                    size_t bytes)
{
    MUST(bytes == (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4));
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *to, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t stride)
{
    make<layout>(to);
    *(layout *)*to = layout{type, (int64_t)rows, (int64_t)columns, stride};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    free(layout);
    return CUBLAS_STATUS_SUCCESS;
}

// Nothing for an odd number of rows.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t x, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                              cublasLtMatmulHeuristicResult_t *result, int *n)
{
    memset(result, 0, sizeof *result);
    *n = ((const layout *)x)->columns % 2 == 0;
    return *n == 1 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

// What adds is offered and then refused.
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product_, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_, const void *b,
                              cublasLtMatrixLayout_t b_, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_, void *d, cublasLtMatrixLayout_t d_,
                              const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t)
{
    const product *by = (const product *)product_;
    const layout *of_a = (const layout *)a_, *of_b = (const layout *)b_, *of_c = (const layout *)c_,
                 *of_d = (const layout *)d_;
    bool transposed = by->transpose_a == CUBLAS_OP_T;
    int64_t m = transposed ? of_a->columns : of_a->rows, k = transposed ? of_a->rows : of_a->columns;
    MUST(of_b->rows == k && of_d->rows == m && of_d->columns == of_b->columns && of_c->rows == m);
    MUST(*(const float *)alpha == 1 && (by->epilogue & CUBLASLT_EPILOGUE_BIAS) != 0);
    MUST((uintptr_t)by->bias % 16 == 0); // kernels may read it so
    if (*(const float *)beta != 0)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    array bias = array_of(by->bias, of_d->type);
    multiply(m, of_b->columns, k, matrix{array_of(a, of_a->type), transposed, of_a->stride},
             matrix{array_of(b, of_b->type), false, of_b->stride}, 0,
             matrix{array_of(c, of_c->type), false, of_c->stride},
             matrix{array_of(d, of_d->type), false, of_d->stride}, &bias,
             (by->epilogue & CUBLASLT_EPILOGUE_RELU) != 0);
    return CUBLAS_STATUS_SUCCESS;
}

// ----------------------------------------------------------------------------------------- cuDNN

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    make<int>(handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    free(handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t)
{
    return CUDNN_STATUS_SUCCESS;
}

size_t cudnnGetVersion(void)
{
    return CUDNN_VERSION;
}

const char *cudnnGetErrorString(cudnnStatus_t)
{
    return "a status";
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *to)
{
    make<tensor>(to);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t descriptor)
{
    free(descriptor);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetTensorNdDescriptorEx(cudnnTensorDescriptor_t to, cudnnTensorFormat_t format,
                                           cudnnDataType_t type, int n, const int *size)
{
    describe(to, format, type, n, size);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *to)
{
    make<tensor>(to);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t descriptor)
{
    free(descriptor);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t to, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int n, const int *size)
{
    describe(to, format, type, n, size);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *to)
{
    make<convolution>(to);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t descriptor)
{
    free(descriptor);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionNdDescriptor(cudnnConvolutionDescriptor_t, int n, const int *pad,
                                              const int *stride, const int *dilation,
                                              cudnnConvolutionMode_t mode, cudnnDataType_t compute)
{
    MUST(n == 3 && mode == CUDNN_CROSS_CORRELATION && compute == CUDNN_DATA_FLOAT);
    for (int i = 0; i < n; i++)
        MUST(pad[i] == 1 && stride[i] == 1 && dilation[i] == 1);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t to, cudnnMathType_t math)
{
    ((convolution *)to)->math = math;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t x,
                                                     const cudnnFilterDescriptor_t,
                                                     const cudnnConvolutionDescriptor_t conv,
                                                     const cudnnTensorDescriptor_t, const int most, int *n,
                                                     cudnnConvolutionFwdAlgoPerf_t *list)
{
    return list_algorithms(x, conv, most, n, list);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t, const cudnnFilterDescriptor_t,
                                                          const cudnnTensorDescriptor_t,
                                                          const cudnnConvolutionDescriptor_t conv,
                                                          const cudnnTensorDescriptor_t x, const int most,
                                                          int *n, cudnnConvolutionBwdDataAlgoPerf_t *list)
{
    return list_algorithms(x, conv, most, n, list);
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t x,
                                                            const cudnnTensorDescriptor_t,
                                                            const cudnnConvolutionDescriptor_t conv,
                                                            const cudnnFilterDescriptor_t, const int most,
                                                            int *n, cudnnConvolutionBwdFilterAlgoPerf_t *list)
{
    return list_algorithms(x, conv, most, n, list);
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t x,
                                                      const cudnnFilterDescriptor_t,
                                                      const cudnnConvolutionDescriptor_t conv,
                                                      const cudnnTensorDescriptor_t,
                                                      cudnnConvolutionFwdAlgo_t by, size_t *bytes)
{
    return size_workspace(x, conv, by, bytes);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, const cudnnFilterDescriptor_t,
                                                           const cudnnTensorDescriptor_t,
                                                           const cudnnConvolutionDescriptor_t conv,
                                                           const cudnnTensorDescriptor_t x,
                                                           cudnnConvolutionBwdDataAlgo_t by, size_t *bytes)
{
    return size_workspace(x, conv, by, bytes);
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t x,
                                                             const cudnnTensorDescriptor_t,
                                                             const cudnnConvolutionDescriptor_t conv,
                                                             const cudnnFilterDescriptor_t,
                                                             cudnnConvolutionBwdFilterAlgo_t by,
                                                             size_t *bytes)
{
    return size_workspace(x, conv, by, bytes);
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t, const void *alpha, const cudnnTensorDescriptor_t x_,
                                      const void *x, const cudnnFilterDescriptor_t k_, const void *k,
                                      const cudnnConvolutionDescriptor_t conv, cudnnConvolutionFwdAlgo_t by,
                                      void *workspace, size_t bytes, const void *beta,
                                      const cudnnTensorDescriptor_t y_, void *y)
{
    const tensor &of_x = *(const tensor *)x_, &of_k = *(const tensor *)k_, &of_y = *(const tensor *)y_;
    const array in = {x, of_x.is_bf16}, kernels = {k, of_k.is_bf16};
    return convolve(
        of_x, of_k, of_y, conv, by, workspace, bytes, alpha, beta, of_y, y,
        [&](double *sums, int64_t i, int64_t j, int64_t o) { sums[o] += in.at(i) * kernels.at(j); });
}

cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t, const void *alpha, const cudnnFilterDescriptor_t k_,
                                           const void *k, const cudnnTensorDescriptor_t y_, const void *dy,
                                           const cudnnConvolutionDescriptor_t conv,
                                           cudnnConvolutionBwdDataAlgo_t by, void *workspace, size_t bytes,
                                           const void *beta, const cudnnTensorDescriptor_t x_, void *dx)
{
    const tensor &of_x = *(const tensor *)x_, &of_k = *(const tensor *)k_, &of_y = *(const tensor *)y_;
    const array out = {dy, of_y.is_bf16}, kernels = {k, of_k.is_bf16};
    return convolve(
        of_x, of_k, of_y, conv, by, workspace, bytes, alpha, beta, of_x, dx,
        [&](double *sums, int64_t i, int64_t j, int64_t o) { sums[i] += out.at(o) * kernels.at(j); });
}

cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t, const void *alpha,
                                             const cudnnTensorDescriptor_t x_, const void *x,
                                             const cudnnTensorDescriptor_t y_, const void *dy,
                                             const cudnnConvolutionDescriptor_t conv,
                                             cudnnConvolutionBwdFilterAlgo_t by, void *workspace,
                                             size_t bytes, const void *beta, const cudnnFilterDescriptor_t k_,
                                             void *dk)
{
    const tensor &of_x = *(const tensor *)x_, &of_k = *(const tensor *)k_, &of_y = *(const tensor *)y_;
    const array in = {x, of_x.is_bf16}, out = {dy, of_y.is_bf16};
    return convolve(of_x, of_k, of_y, conv, by, workspace, bytes, alpha, beta, of_k, dk,
                    [&](double *sums, int64_t i, int64_t j, int64_t o) { sums[j] += in.at(i) * out.at(o); });
}
}
