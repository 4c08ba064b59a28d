// SPDX-License-Identifier: Apache-2.0
//
// The queue on a GPU: one stream, cuBLAS for matrix products, cuDNN for convolutions. Opened for float, all
// in fp32 without TF32; for bf16, operands in bf16 on tensor cores with sums in fp32. Both libraries are
// loaded when the backend is first asked for: a program that does not use it starts without them, and
// quickly. Convolution algorithms come from cuDNN's heuristics, not from timing, and only repeatable ones are
// taken, so that two runs give the same bits.
#include "cuda/host_math.cuh"
#include "cuda/queue.cuh"

#include <cublas_v2.h>
#include <cublasLt.h>
#include <cudnn.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <type_traits>

#define TEXT_OF_(x) #x
#define TEXT_OF(x)  TEXT_OF_(x)

namespace QUEUE_NAMESPACE
{

enum {
    MAX_PLANS = 64,
    CONV_BYTES = 256 << 20, // limit of one convolution's workspace
    CUBLAS_BYTES = 32 << 20,
    MAX_ALGORITHMS = 16,
};
static_assert((size_t)CONV_BYTES + CUBLAS_BYTES <= QUEUE_WORKSPACE_BYTES, "the workspaces are announced");

// ----------------------------------------------------------------------------------------- libraries

#define CUBLAS_CALLS(X)                                                                                      \
    X(cublasCreate_v2)                                                                                       \
    X(cublasDestroy_v2)                                                                                      \
    X(cublasGemmEx_64)                                                                                       \
    X(cublasGetStatusString)                                                                                 \
    X(cublasSetMathMode)                                                                                     \
    X(cublasSetStream_v2)                                                                                    \
    X(cublasSetWorkspace_v2)                                                                                 \
    X(cublasSgemm_v2)

#define CUBLASLT_CALLS(X)                                                                                    \
    X(cublasLtCreate)                                                                                        \
    X(cublasLtDestroy)                                                                                       \
    X(cublasLtMatmul)                                                                                        \
    X(cublasLtMatmulAlgoGetHeuristic)                                                                        \
    X(cublasLtMatmulDescCreate)                                                                              \
    X(cublasLtMatmulDescDestroy)                                                                             \
    X(cublasLtMatmulDescSetAttribute)                                                                        \
    X(cublasLtMatmulPreferenceCreate)                                                                        \
    X(cublasLtMatmulPreferenceDestroy)                                                                       \
    X(cublasLtMatmulPreferenceSetAttribute)                                                                  \
    X(cublasLtMatrixLayoutCreate)                                                                            \
    X(cublasLtMatrixLayoutDestroy)

#define CUDNN_CALLS(X)                                                                                       \
    X(cudnnConvolutionBackwardData)                                                                          \
    X(cudnnConvolutionBackwardFilter)                                                                        \
    X(cudnnConvolutionForward)                                                                               \
    X(cudnnCreate)                                                                                           \
    X(cudnnCreateConvolutionDescriptor)                                                                      \
    X(cudnnCreateFilterDescriptor)                                                                           \
    X(cudnnCreateTensorDescriptor)                                                                           \
    X(cudnnDestroy)                                                                                          \
    X(cudnnDestroyConvolutionDescriptor)                                                                     \
    X(cudnnDestroyFilterDescriptor)                                                                          \
    X(cudnnDestroyTensorDescriptor)                                                                          \
    X(cudnnGetConvolutionBackwardDataAlgorithm_v7)                                                           \
    X(cudnnGetConvolutionBackwardDataWorkspaceSize)                                                          \
    X(cudnnGetConvolutionBackwardFilterAlgorithm_v7)                                                         \
    X(cudnnGetConvolutionBackwardFilterWorkspaceSize)                                                        \
    X(cudnnGetConvolutionForwardAlgorithm_v7)                                                                \
    X(cudnnGetConvolutionForwardWorkspaceSize)                                                               \
    X(cudnnGetErrorString)                                                                                   \
    X(cudnnGetVersion)                                                                                       \
    X(cudnnSetConvolutionMathType)                                                                           \
    X(cudnnSetConvolutionNdDescriptor)                                                                       \
    X(cudnnSetFilterNdDescriptor)                                                                            \
    X(cudnnSetStream)                                                                                        \
    X(cudnnSetTensorNdDescriptorEx)

struct libraries {
    char absent[256]; // why there are none; empty: all are there
#define POINTER(call) decltype(&::call) call;
    CUBLAS_CALLS(POINTER)
    CUBLASLT_CALLS(POINTER)
    CUDNN_CALLS(POINTER)
#undef POINTER
};

#ifdef ISOSLICE_CUDA_STAND_IN

static libraries load_libraries()
{
    libraries all = {};
#    define TAKE(name) all.name = ::name;
    CUBLAS_CALLS(TAKE)
    CUBLASLT_CALLS(TAKE)
    CUDNN_CALLS(TAKE)
#    undef TAKE
    return all;
}

#else

// By name as the loader finds it, else from the folder in which it was when this program was built.
static void *open_library(const char *name, const char *folder, char absent[256])
{
    char path[512];
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library != NULL)
        return library;
    snprintf(absent, 256, "%s", dlerror());
    snprintf(path, sizeof path, "%s/%s", folder, name);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library != NULL)
        absent[0] = '\0';
    return library;
}

static void *find_call(void *library, const char *name, char absent[256])
{
    void *call = library == NULL ? NULL : dlsym(library, name);
    if (call == NULL && absent[0] == '\0')
        snprintf(absent, 256, "'%s' is missing", name);
    return call;
}

// The libraries stay loaded: they do not unload cleanly.
static libraries load_libraries()
{
    libraries all = {};
    void *cublas = NULL, *cudnn = NULL;
    // it comes with cuBLAS and is opened first: cuBLAS needs it, the loader may not know where it is
    void *cublaslt =
        open_library("libcublasLt.so." TEXT_OF(CUBLAS_VER_MAJOR), ISOSLICE_CUBLAS_FOLDER, all.absent);
    if (cublaslt != NULL)
        cublas = open_library("libcublas.so." TEXT_OF(CUBLAS_VER_MAJOR), ISOSLICE_CUBLAS_FOLDER, all.absent);
    if (cublas != NULL)
        cudnn = open_library("libcudnn.so." TEXT_OF(CUDNN_MAJOR), ISOSLICE_CUDNN_FOLDER, all.absent);
#    define FIND(library, name) all.name = (decltype(all.name))find_call(library, #    name, all.absent);
#    define FIND_CUBLAS(name)   FIND(cublas, name)
#    define FIND_CUBLASLT(name) FIND(cublaslt, name)
#    define FIND_CUDNN(name)    FIND(cudnn, name)
    CUBLAS_CALLS(FIND_CUBLAS)
    CUBLASLT_CALLS(FIND_CUBLASLT)
    CUDNN_CALLS(FIND_CUDNN)
#    undef FIND_CUBLAS
#    undef FIND_CUBLASLT
#    undef FIND_CUDNN
#    undef FIND
    return all;
}

#endif

static const libraries &lib()
{
    static const libraries all = load_libraries();
    return all;
}

// ----------------------------------------------------------------------------------------- faults

static int cuda_fault(cudaError_t status, const char *call, struct fault_note *why)
{
    if (status == cudaSuccess)
        return 0;
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError(); // else the next launch would report it again
        return fault_set(why, FAULT_NO_MEMORY, "%s: the GPU's memory is exhausted", call);
    }
    return fault_set(why, FAULT_DEVICE, "%s: %s: %s", call, cudaGetErrorName(status),
                     cudaGetErrorString(status));
}

static int cudnn_fault(cudnnStatus_t status, const char *call, struct fault_note *why)
{
    if (status == CUDNN_STATUS_SUCCESS)
        return 0;
    int memory = status == CUDNN_STATUS_ALLOC_FAILED ||
                 status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ||
                 status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    return fault_set(why, memory ? FAULT_NO_MEMORY : FAULT_DEVICE, "%s: %s", call,
                     lib().cudnnGetErrorString(status));
}

static int cublas_fault(cublasStatus_t status, const char *call, struct fault_note *why)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    return fault_set(why, status == CUBLAS_STATUS_ALLOC_FAILED ? FAULT_NO_MEMORY : FAULT_DEVICE, "%s: %s",
                     call, lib().cublasGetStatusString(status));
}

#define CUDA(call, ...)   cuda_fault(call(__VA_ARGS__), #call, why)
#define CUDNN(call, ...)  cudnn_fault(lib().call(__VA_ARGS__), #call, why)
#define CUBLAS(call, ...) cublas_fault(lib().call(__VA_ARGS__), #call, why)

// ----------------------------------------------------------------------------------------- queue

// What may compute one direction of a convolution: those of cuDNN's algorithms that are wanted here, the
// fastest by its estimate first. Asked for when first wanted.
struct conv_choice {
    bool asked, sized;
    int n_listed, n, at; // those before `at` would not run
    struct {
        int algorithm;
        cudnnMathType_t math;
    } list[MAX_ALGORITHMS];
    size_t bytes; // workspace of the one at `at`, where sized
};

// What cuDNN needs to know about one shape.
struct conv_plan {
    bool used;
    conv_shape shape;
    cudnnTensorDescriptor_t x, y;
    cudnnFilterDescriptor_t kernels;
    cudnnConvolutionDescriptor_t conv;
    conv_choice forward[2], data[2], by_kernels; // [1]: adds to the old values
};

// A fused layer of the decoder in bf16: what cuBLASLt needs to know about one shape.
struct linear_shape {
    int rows, n_in, n_out;
    bool has_add, relu;
    uint32_t alignment; // bytes, of all operands
};

struct linear_plan {
    bool used, refused; // refused: cuBLASLt has nothing for this shape
    linear_shape shape;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t weight, x, y;
    cublasLtMatmulAlgo_t algorithm;
};

struct queue {
    bool is_bf16; // what it was opened for
    cudaStream_t stream;
    cublasHandle_t cublas;
    cublasLtHandle_t cublaslt;
    cudnnHandle_t cudnn;
    void *cublas_workspace, *conv_workspace;
    size_t conv_workspace_bytes;
    conv_plan plans[MAX_PLANS];
    int next_plan; // to be replaced when all are used
    linear_plan linears[MAX_PLANS];
    int next_linear;
    char description[320];
};

template <class T> constexpr bool IS_BF16 = std::is_same<T, bf16>::value;

static int no_backend(struct fault_note *why, bool is_bf16, const char *cause)
{
    fault_set(why, FAULT_BACKEND, "no backend '%s': %s", is_bf16 ? "cuda16" : "cuda", cause);
    return 0;
}

template <class T> int queue_usable(struct fault_note *why)
{
    const bool is_bf16 = IS_BF16<T>;
    const int least_major = 8; // the first with bf16 in its tensor cores
    char cause[400];
    int driver = 0, n_devices = 0, major = 0, minor = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return no_backend(why, is_bf16, "there is no NVIDIA driver");
    cudaError_t status = cudaGetDeviceCount(&n_devices);
    if (status == cudaErrorInsufficientDriver) {
        snprintf(cause, sizeof cause, "the NVIDIA driver is for CUDA %d.%d, this program needs %d.%d",
                 driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
        return no_backend(why, is_bf16, cause);
    }
    if (status == cudaErrorNoDevice || (status == cudaSuccess && n_devices == 0))
        return no_backend(why, is_bf16, "there is no GPU");
    if (status == cudaSuccess)
        status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    if (status == cudaSuccess)
        status = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    cudaFuncAttributes attributes;
    if (status == cudaSuccess)
        status = cudaFuncGetAttributes(&attributes, (const void *)run_body<host_math::fill_body<T>>);
    if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction) {
        cudaGetLastError();
        snprintf(cause, sizeof cause, "this program holds no code for a GPU of compute capability %d.%d",
                 major, minor);
        return no_backend(why, is_bf16, cause);
    }
    if (status != cudaSuccess) {
        cudaGetLastError();
        snprintf(cause, sizeof cause, "%s: %s", cudaGetErrorName(status), cudaGetErrorString(status));
        return no_backend(why, is_bf16, cause);
    }
    if (is_bf16 && major < least_major) {
        snprintf(cause, sizeof cause, "the GPU has compute capability %d.%d, bf16 needs %d.0", major, minor,
                 least_major);
        return no_backend(why, is_bf16, cause);
    }
    return lib().absent[0] == '\0' ? 1 : no_backend(why, is_bf16, lib().absent);
}

static int open_handles(struct queue *queue, struct fault_note *why)
{
    int rc = CUDA(cudaStreamCreateWithFlags, &queue->stream, cudaStreamNonBlocking);
    if (rc == 0)
        rc = CUDA(cudaMalloc, &queue->cublas_workspace, CUBLAS_BYTES);
    if (rc == 0)
        rc = CUBLAS(cublasCreate_v2, &queue->cublas);
    if (rc == 0)
        rc = CUBLAS(cublasSetStream_v2, queue->cublas, queue->stream);
    if (rc == 0) // a workspace of our own: products are then repeatable
        rc = CUBLAS(cublasSetWorkspace_v2, queue->cublas, queue->cublas_workspace, CUBLAS_BYTES);
    if (rc == 0) // fp32: no TF32, no emulation; bf16: sums stay fp32 to their end
        rc = CUBLAS(cublasSetMathMode, queue->cublas,
                    queue->is_bf16 ? CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION : CUBLAS_PEDANTIC_MATH);
    if (rc == 0 && queue->is_bf16)
        rc = CUBLAS(cublasLtCreate, &queue->cublaslt);
    if (rc == 0)
        rc = CUDNN(cudnnCreate, &queue->cudnn);
    if (rc == 0)
        rc = CUDNN(cudnnSetStream, queue->cudnn, queue->stream);
    return rc;
}

static void describe(struct queue *queue)
{
    cudaDeviceProp properties;
    size_t version = lib().cudnnGetVersion();
    const char *name = cudaGetDeviceProperties(&properties, 0) == cudaSuccess ? properties.name : "a GPU";
    snprintf(queue->description, sizeof queue->description, "%s (%s, cuDNN %zu.%zu.%zu, %s)",
             queue->is_bf16 ? "cuda16" : "cuda", name, version / 10000, version / 100 % 100, version % 100,
             queue->is_bf16 ? "bf16" : "fp32");
}

template <class T> int queue_open(struct queue **queue, struct fault_note *why)
{
    if (!queue_usable<T>(why))
        return FAULT_BACKEND;
    struct queue *made = (struct queue *)calloc(1, sizeof *made);
    if (made == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for a queue");
    made->is_bf16 = IS_BF16<T>;
    int rc = open_handles(made, why);
    if (rc != 0) {
        queue_close(made);
        return rc;
    }
    describe(made);
    *queue = made;
    return 0;
}

static void drop_plan(conv_plan *plan)
{
    if (plan->x != NULL)
        lib().cudnnDestroyTensorDescriptor(plan->x);
    if (plan->y != NULL)
        lib().cudnnDestroyTensorDescriptor(plan->y);
    if (plan->kernels != NULL)
        lib().cudnnDestroyFilterDescriptor(plan->kernels);
    if (plan->conv != NULL)
        lib().cudnnDestroyConvolutionDescriptor(plan->conv);
    *plan = conv_plan{};
}

static void drop_linear(linear_plan *plan)
{
    cublasLtMatrixLayout_t layouts[] = {plan->weight, plan->x, plan->y};
    if (plan->product != NULL)
        lib().cublasLtMatmulDescDestroy(plan->product);
    for (cublasLtMatrixLayout_t layout : layouts)
        if (layout != NULL)
            lib().cublasLtMatrixLayoutDestroy(layout);
    *plan = linear_plan{};
}

void queue_close(struct queue *queue)
{
    if (queue == NULL)
        return;
    if (queue->stream != NULL)
        cudaStreamSynchronize(queue->stream);
    for (conv_plan &plan : queue->plans)
        drop_plan(&plan);
    for (linear_plan &plan : queue->linears)
        drop_linear(&plan);
    if (queue->cudnn != NULL)
        lib().cudnnDestroy(queue->cudnn);
    if (queue->cublaslt != NULL)
        lib().cublasLtDestroy(queue->cublaslt);
    if (queue->cublas != NULL)
        lib().cublasDestroy_v2(queue->cublas);
    cudaFree(queue->conv_workspace);
    cudaFree(queue->cublas_workspace);
    if (queue->stream != NULL)
        cudaStreamDestroy(queue->stream);
    free(queue);
}

const char *queue_describe(const struct queue *queue)
{
    return queue->description;
}

cudaStream_t queue_stream(struct queue *queue)
{
    return queue->stream;
}

int queue_launched(const char *what, struct fault_note *why)
{
    cudaError_t status = cudaGetLastError();
    if (status == cudaSuccess)
        return 0;
    char call[64];
    snprintf(call, sizeof call, "launch of '%s'", what);
    return cuda_fault(status, call, why);
}

int queue_new_bytes(struct queue *queue, size_t bytes, void **data, struct fault_note *why)
{
    void *memory = NULL;
    char call[64];
    bytes = bytes != 0 ? bytes : 1;
    snprintf(call, sizeof call, "cudaMalloc of %zu MB", bytes >> 20);
    int rc = cuda_fault(cudaMalloc(&memory, bytes), call, why);
    if (rc == 0)
        rc = CUDA(cudaMemsetAsync, memory, 0, bytes, queue->stream);
    if (rc != 0) {
        cudaFree(memory);
        return rc;
    }
    *data = memory;
    return 0;
}

void queue_free(struct queue *queue, void *data)
{
    if (data == NULL)
        return;
    cudaStreamSynchronize(queue->stream); // an error stays and comes out of the next call
    cudaFree(data);
}

int queue_zero(struct queue *queue, void *to, size_t bytes, struct fault_note *why)
{
    return CUDA(cudaMemsetAsync, to, 0, bytes, queue->stream);
}

int queue_copy(struct queue *queue, void *to, const void *from, size_t bytes, struct fault_note *why)
{
    return CUDA(cudaMemcpyAsync, to, from, bytes, cudaMemcpyDeviceToDevice, queue->stream);
}

int queue_upload(struct queue *queue, float *to, const float *from, size_t n, struct fault_note *why)
{
    // from pageable memory: the call returns when `from` has been read
    return CUDA(cudaMemcpyAsync, to, from, n * sizeof *to, cudaMemcpyHostToDevice, queue->stream);
}

int queue_download(struct queue *queue, const float *from, float *to, size_t n, struct fault_note *why)
{
    int rc = CUDA(cudaMemcpyAsync, to, from, n * sizeof *to, cudaMemcpyDeviceToHost, queue->stream);
    return rc != 0 ? rc : queue_synchronize(queue, why);
}

int queue_synchronize(struct queue *queue, struct fault_note *why)
{
    return CUDA(cudaStreamSynchronize, queue->stream);
}

template <class T, class Out>
int queue_gemm(struct queue *queue, bool transpose_a, bool transpose_b, int m, int n, int k, const T *a,
               const T *b, float beta, Out *c, struct fault_note *why)
{
    const float one = 1;
    // cuBLAS reads columns where we write rows: it is asked for the transposed product
    const cublasOperation_t first = transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                            second = transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int first_stride = transpose_b ? k : n, second_stride = transpose_a ? m : k;
    if constexpr (IS_BF16<T>)
        return CUBLAS(cublasGemmEx_64, queue->cublas, first, second, n, m, k, &one, b, CUDA_R_16BF,
                      first_stride, a, CUDA_R_16BF, second_stride, &beta, c,
                      IS_BF16<Out> ? CUDA_R_16BF : CUDA_R_32F, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    else
        return CUBLAS(cublasSgemm_v2, queue->cublas, first, second, n, m, k, &one, b, first_stride, a,
                      second_stride, &beta, c, n);
}

// ----------------------------------------------------------------------------------------- fused layers

static int describe_linear(linear_plan *plan, const linear_shape &s, struct fault_note *why)
{
    const cublasOperation_t transpose = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = s.relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
    const uint64_t rows = (uint64_t)s.rows, n_in = (uint64_t)s.n_in, n_out = (uint64_t)s.n_out;
    int rc = CUBLAS(cublasLtMatmulDescCreate, &plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (rc == 0) // columns where we write rows: y^T = weight x^T
        rc = CUBLAS(cublasLtMatmulDescSetAttribute, plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                    sizeof transpose);
    if (rc == 0)
        rc = CUBLAS(cublasLtMatmulDescSetAttribute, plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                    sizeof epilogue);
    if (rc == 0)
        rc = CUBLAS(cublasLtMatrixLayoutCreate, &plan->weight, CUDA_R_16BF, n_in, n_out, s.n_in);
    if (rc == 0)
        rc = CUBLAS(cublasLtMatrixLayoutCreate, &plan->x, CUDA_R_16BF, n_in, rows, s.n_in);
    if (rc == 0)
        rc = CUBLAS(cublasLtMatrixLayoutCreate, &plan->y, CUDA_R_16BF, n_out, rows, s.n_out);
    return rc;
}

static int point_at_bias(const linear_plan *plan, const void *bias, struct fault_note *why)
{
    return CUBLAS(cublasLtMatmulDescSetAttribute, plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                  sizeof bias);
}

// What an algorithm may use and rely on. Without partial sums of its own: the same bits each time.
static int describe_preference(cublasLtMatmulPreference_t preference, uint32_t alignment,
                               struct fault_note *why)
{
    const uint64_t bytes = CUBLAS_BYTES;
    const uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
    const cublasLtMatmulPreferenceAttributes_t operands[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    int rc = CUBLAS(cublasLtMatmulPreferenceSetAttribute, preference,
                    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    if (rc == 0)
        rc = CUBLAS(cublasLtMatmulPreferenceSetAttribute, preference,
                    CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &scheme, sizeof scheme);
    for (cublasLtMatmulPreferenceAttributes_t operand : operands)
        if (rc == 0)
            rc = CUBLAS(cublasLtMatmulPreferenceSetAttribute, preference, operand, &alignment,
                        sizeof alignment);
    return rc;
}

// The fastest by cuBLASLt's estimate, not by timing.
static int choose_linear(struct queue *queue, linear_plan *plan, struct fault_note *why)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    int n = 0, rc = CUBLAS(cublasLtMatmulPreferenceCreate, &preference);
    if (rc == 0)
        rc = describe_preference(preference, plan->shape.alignment, why);
    if (rc == 0) {
        cublasStatus_t status =
            lib().cublasLtMatmulAlgoGetHeuristic(queue->cublaslt, plan->product, plan->weight, plan->x,
                                                 plan->y, plan->y, preference, 1, &result, &n);
        plan->refused = status == CUBLAS_STATUS_NOT_SUPPORTED ||
                        (status == CUBLAS_STATUS_SUCCESS && (n == 0 || result.state != status));
        if (!plan->refused)
            rc = cublas_fault(status, "cublasLtMatmulAlgoGetHeuristic", why);
    }
    if (rc == 0 && !plan->refused)
        plan->algorithm = result.algo;
    if (preference != NULL)
        lib().cublasLtMatmulPreferenceDestroy(preference);
    return rc;
}

static bool is_same(const linear_shape &a, const linear_shape &b)
{
    return a.rows == b.rows && a.n_in == b.n_in && a.n_out == b.n_out && a.has_add == b.has_add &&
           a.relu == b.relu && a.alignment == b.alignment;
}

// The plan for a shape, set for this bias.
static int find_linear(struct queue *queue, const linear_shape &s, const void *bias, linear_plan **found,
                       struct fault_note *why)
{
    for (linear_plan &plan : queue->linears)
        if (plan.used && is_same(plan.shape, s)) {
            *found = &plan;
            return point_at_bias(&plan, bias, why);
        }
    linear_plan *plan = &queue->linears[queue->next_linear];
    queue->next_linear = (queue->next_linear + 1) % MAX_PLANS;
    drop_linear(plan);
    plan->shape = s;
    int rc = describe_linear(plan, s, why);
    if (rc == 0)
        rc = point_at_bias(plan, bias, why);
    if (rc == 0)
        rc = choose_linear(queue, plan, why);
    plan->used = rc == 0;
    if (rc != 0)
        drop_linear(plan);
    *found = plan;
    return rc;
}

// The largest power of two, up to 256, that divides all addresses.
static uint32_t alignment_of(const void *const *addresses, int n)
{
    uintptr_t all = 256;
    for (int i = 0; i < n; i++)
        all |= (uintptr_t)addresses[i];
    return (uint32_t)(all & (~all + 1));
}

// Product, then bias and ReLU in a pass of their own.
template <class T>
static int linear_in_parts(struct queue *queue, const linear_shape &s, const T *x, const T *weight,
                           const T *bias, const T *add, T *y, struct fault_note *why)
{
    size_t n = (size_t)s.rows * (size_t)s.n_out;
    int rc = add != NULL ? queue_copy(queue, y, add, n * sizeof *y, why) : 0;
    if (rc == 0)
        rc = queue_gemm(queue, false, true, s.rows, s.n_out, s.n_in, x, weight, add != NULL ? 1.0F : 0.0F, y,
                        why);
    if (rc == 0)
        rc = queue_run(queue, "bias", n, host_math::bias_body<T, 1, T>{y, bias, (unsigned)s.n_out, s.relu},
                       why);
    return rc;
}

template <class T>
int queue_linear(struct queue *queue, int rows, int n_in, int n_out, const T *x, const T *weight,
                 const T *bias, const T *add, bool relu, T *y, struct fault_note *why)
{
    const float one = 1, by_add = add != NULL ? 1.0F : 0.0F;
    const T *c = add != NULL ? add : y;
    const void *const operands[] = {x, weight, bias, c, y};
    const linear_shape shape = {rows, n_in, n_out, add != NULL, relu, alignment_of(operands, 5)};
    // by eights only: cuBLASLt is told nothing of the bias's alignment and may read 16 bytes of it at once
    const bool is_whole = shape.alignment >= sizeof(eight) && n_in % 8 == 0 && n_out % 8 == 0;
    linear_plan *plan = NULL;
    int rc = IS_BF16<T> && is_whole ? find_linear(queue, shape, bias, &plan, why) : 0;
    if (rc == 0 && (plan == NULL || plan->refused))
        return linear_in_parts(queue, shape, x, weight, bias, add, y, why);
    if (rc != 0)
        return rc;
    cublasStatus_t status = lib().cublasLtMatmul(
        queue->cublaslt, plan->product, &one, weight, plan->weight, x, plan->x, &by_add, c, plan->y, y,
        plan->y, &plan->algorithm, queue->cublas_workspace, CUBLAS_BYTES, queue->stream);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED)
        return cublas_fault(status, "cublasLtMatmul", why);
    plan->refused = true; // though it was offered
    return linear_in_parts(queue, shape, x, weight, bias, add, y, why);
}

// ----------------------------------------------------------------------------------------- convolution

static int describe_tensor(cudnnTensorDescriptor_t *to, bool is_bf16, const conv_shape &s, int channels,
                           struct fault_note *why)
{
    const int size[5] = {s.n, channels, s.d, s.h, s.w};
    int rc = CUDNN(cudnnCreateTensorDescriptor, to);
    return rc != 0 ? rc
                   : CUDNN(cudnnSetTensorNdDescriptorEx, *to, is_bf16 ? CUDNN_TENSOR_NHWC : CUDNN_TENSOR_NCHW,
                           is_bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT, 5, size);
}

static int fill_plan(conv_plan *plan, bool is_bf16, const conv_shape &s, struct fault_note *why)
{
    const int kernels[5] = {s.c_out, s.c_in, 3, 3, 3}, ones[3] = {1, 1, 1};
    plan->shape = s;
    int rc = describe_tensor(&plan->x, is_bf16, s, s.c_in, why);
    if (rc == 0)
        rc = describe_tensor(&plan->y, is_bf16, s, s.c_out, why);
    if (rc == 0)
        rc = CUDNN(cudnnCreateFilterDescriptor, &plan->kernels);
    if (rc == 0)
        rc =
            CUDNN(cudnnSetFilterNdDescriptor, plan->kernels, is_bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT,
                  is_bf16 ? CUDNN_TENSOR_NHWC : CUDNN_TENSOR_NCHW, 5, kernels);
    if (rc == 0)
        rc = CUDNN(cudnnCreateConvolutionDescriptor, &plan->conv);
    if (rc == 0)
        rc = CUDNN(cudnnSetConvolutionNdDescriptor, plan->conv, 3, ones, ones, ones, CUDNN_CROSS_CORRELATION,
                   CUDNN_DATA_FLOAT);
    plan->used = rc == 0;
    if (rc != 0)
        drop_plan(plan);
    return rc;
}

static int find_plan(struct queue *queue, const conv_shape &s, conv_plan **found, struct fault_note *why)
{
    for (conv_plan &plan : queue->plans)
        if (plan.used && memcmp(&plan.shape, &s, sizeof s) == 0) {
            *found = &plan;
            return 0;
        }
    conv_plan *plan = &queue->plans[queue->next_plan];
    queue->next_plan = (queue->next_plan + 1) % MAX_PLANS;
    drop_plan(plan);
    *found = plan;
    return fill_plan(plan, queue->is_bf16, s, why);
}

// Keeps what is repeatable and works in fp32 where that is asked for. Within the limit of memory; beyond it
// only the least, for when nothing else would run.
template <class Performance>
static void sift(conv_choice *choice, const Performance *list, int n, bool is_bf16)
{
    const Performance *beyond = NULL;
    auto keep = [&](const Performance &one) {
        choice->list[choice->n].algorithm = one.algo;
        // cuDNN takes an algorithm with the kind of arithmetic that it was listed for, and no other
        choice->list[choice->n++].math = is_bf16 ? one.mathType : CUDNN_FMA_MATH;
    };
    for (int i = 0; i < n; i++) {
        bool is_fp32 = list[i].mathType == CUDNN_FMA_MATH || list[i].mathType == CUDNN_DEFAULT_MATH;
        if (list[i].status != CUDNN_STATUS_SUCCESS || list[i].determinism != CUDNN_DETERMINISTIC ||
            !(is_bf16 || is_fp32))
            continue;
        if (list[i].memory <= (size_t)CONV_BYTES)
            keep(list[i]);
        else if (beyond == NULL || list[i].memory < beyond->memory)
            beyond = &list[i];
    }
    if (beyond != NULL)
        keep(*beyond);
    choice->n_listed = n;
    choice->asked = true;
}

static int reserve_workspace(struct queue *queue, size_t bytes, struct fault_note *why)
{
    if (bytes <= queue->conv_workspace_bytes)
        return 0;
    int rc = CUDA(cudaStreamSynchronize, queue->stream);
    cudaFree(queue->conv_workspace);
    queue->conv_workspace = NULL;
    queue->conv_workspace_bytes = 0;
    if (rc == 0)
        rc = CUDA(cudaMalloc, &queue->conv_workspace, bytes);
    if (rc == 0)
        queue->conv_workspace_bytes = bytes;
    return rc;
}

// By the first algorithm of the choice that takes the job. ask(list, &n), size(algorithm, &bytes) and
// run(algorithm, workspace, bytes) are cuDNN's calls for one direction, `call` is the last one's name.
template <class Performance, class Ask, class Size, class Run>
static int convolve(struct queue *queue, conv_plan *plan, conv_choice *choice, const char *call, Ask ask,
                    Size size, Run run, struct fault_note *why)
{
    cudnnStatus_t status = CUDNN_STATUS_NOT_SUPPORTED;
    const conv_shape &s = plan->shape;
    int rc = 0;
    if (!choice->asked) {
        Performance list[MAX_ALGORITHMS];
        int n = 0;
        // what the list may hold; fp32: no TF32
        rc = CUDNN(cudnnSetConvolutionMathType, plan->conv,
                   queue->is_bf16 ? CUDNN_TENSOR_OP_MATH : CUDNN_FMA_MATH);
        if (rc == 0)
            rc = cudnn_fault(ask(list, &n), "cuDNN's list of algorithms", why);
        if (rc == 0)
            sift(choice, list, n, queue->is_bf16);
    }
    for (; rc == 0 && choice->at < choice->n; choice->at++, choice->sized = false) {
        auto algorithm = (decltype(Performance::algo))choice->list[choice->at].algorithm;
        rc = CUDNN(cudnnSetConvolutionMathType, plan->conv, choice->list[choice->at].math);
        status = choice->sized ? CUDNN_STATUS_SUCCESS : size(algorithm, &choice->bytes);
        choice->sized = status == CUDNN_STATUS_SUCCESS;
        if (rc == 0 && choice->sized)
            rc = reserve_workspace(queue, choice->bytes, why);
        if (rc == 0 && choice->sized)
            status = run(algorithm, queue->conv_workspace, choice->bytes);
        // one that is listed may still not be there for these operands: the next one is as right
        if (rc == 0 && CUDNN_STATUS_CATEGORY(status) != CUDNN_STATUS_NOT_SUPPORTED)
            return cudnn_fault(status, call, why);
    }
    if (rc != 0)
        return rc;
    return fault_set(why, FAULT_DEVICE,
                     "%s: no repeatable algorithm in %s for %dx%dx%dx%d, %d to %d: %d listed, %d fit, %s",
                     call, queue->is_bf16 ? "bf16" : "fp32", s.n, s.d, s.h, s.w, s.c_in, s.c_out,
                     choice->n_listed, choice->n, lib().cudnnGetErrorString(status));
}

template <class T>
int queue_conv_forward(struct queue *queue, conv_shape shape, const T *x, const T *kernels, float beta, T *y,
                       struct fault_note *why)
{
    typedef cudnnConvolutionFwdAlgoPerf_t performance;
    typedef cudnnConvolutionFwdAlgo_t algorithm;
    const float one = 1;
    conv_plan *p;
    int rc = find_plan(queue, shape, &p, why);
    if (rc != 0)
        return rc;
    return convolve<performance>(
        queue, p, &p->forward[beta != 0], "cudnnConvolutionForward",
        [&](performance *list, int *n) {
            return lib().cudnnGetConvolutionForwardAlgorithm_v7(queue->cudnn, p->x, p->kernels, p->conv, p->y,
                                                                MAX_ALGORITHMS, n, list);
        },
        [&](algorithm by, size_t *bytes) {
            return lib().cudnnGetConvolutionForwardWorkspaceSize(queue->cudnn, p->x, p->kernels, p->conv,
                                                                 p->y, by, bytes);
        },
        [&](algorithm by, void *workspace, size_t bytes) {
            return lib().cudnnConvolutionForward(queue->cudnn, &one, p->x, x, p->kernels, kernels, p->conv,
                                                 by, workspace, bytes, &beta, p->y, y);
        },
        why);
}

template <class T>
int queue_conv_data(struct queue *queue, conv_shape shape, const T *dy, const T *kernels, float beta, T *dx,
                    struct fault_note *why)
{
    typedef cudnnConvolutionBwdDataAlgoPerf_t performance;
    typedef cudnnConvolutionBwdDataAlgo_t algorithm;
    const float one = 1;
    conv_plan *p;
    int rc = find_plan(queue, shape, &p, why);
    if (rc != 0)
        return rc;
    return convolve<performance>(
        queue, p, &p->data[beta != 0], "cudnnConvolutionBackwardData",
        [&](performance *list, int *n) {
            return lib().cudnnGetConvolutionBackwardDataAlgorithm_v7(queue->cudnn, p->kernels, p->y, p->conv,
                                                                     p->x, MAX_ALGORITHMS, n, list);
        },
        [&](algorithm by, size_t *bytes) {
            return lib().cudnnGetConvolutionBackwardDataWorkspaceSize(queue->cudnn, p->kernels, p->y, p->conv,
                                                                      p->x, by, bytes);
        },
        [&](algorithm by, void *workspace, size_t bytes) {
            return lib().cudnnConvolutionBackwardData(queue->cudnn, &one, p->kernels, kernels, p->y, dy,
                                                      p->conv, by, workspace, bytes, &beta, p->x, dx);
        },
        why);
}

template <class T>
int queue_conv_kernels(struct queue *queue, conv_shape shape, const T *x, const T *dy, T *dkernels,
                       struct fault_note *why)
{
    typedef cudnnConvolutionBwdFilterAlgoPerf_t performance;
    typedef cudnnConvolutionBwdFilterAlgo_t algorithm;
    const float one = 1, zero = 0;
    conv_plan *p;
    int rc = find_plan(queue, shape, &p, why);
    if (rc != 0)
        return rc;
    return convolve<performance>(
        queue, p, &p->by_kernels, "cudnnConvolutionBackwardFilter",
        [&](performance *list, int *n) {
            return lib().cudnnGetConvolutionBackwardFilterAlgorithm_v7(queue->cudnn, p->x, p->y, p->conv,
                                                                       p->kernels, MAX_ALGORITHMS, n, list);
        },
        [&](algorithm by, size_t *bytes) {
            return lib().cudnnGetConvolutionBackwardFilterWorkspaceSize(queue->cudnn, p->x, p->y, p->conv,
                                                                        p->kernels, by, bytes);
        },
        [&](algorithm by, void *workspace, size_t bytes) {
            return lib().cudnnConvolutionBackwardFilter(queue->cudnn, &one, p->x, x, p->y, dy, p->conv, by,
                                                        workspace, bytes, &zero, p->kernels, dkernels);
        },
        why);
}

INSTANTIATE_QUEUE(float)
INSTANTIATE_QUEUE(bf16)
template int queue_gemm(struct queue *, bool, bool, int, int, int, const bf16 *, const bf16 *, float, float *,
                        struct fault_note *);

} // namespace QUEUE_NAMESPACE
