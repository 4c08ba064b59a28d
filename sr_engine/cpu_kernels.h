// SPDX-License-Identifier: Apache-2.0
//
// The inner loops of the "cpu" backend, for one thread each: convolution by Winograd's algorithm, matrix
// products, and the window attention. Compiled once per instruction set from one source; cpu_kernels_best()
// picks. Feature maps are channels-last, [N,D,H,W,64], so that a voxel is one contiguous row of every loop.
// Only ops_cpu.c includes this.
//
// Convolution: F(4x4,3x3) in plane, direct along slices: 4x4 outputs take 36 products instead of 144, and the
// three slice taps are one long sum. Source: Lavin and Gray, arXiv 1509.09308; the weight gradient is the
// adjoint of the same bilinear form. Rounding is some 1e-6 of the largest value, far inside the contract's
// 1e-4.

#ifndef ISOSLICE_SR_ENGINE_CPU_KERNELS_H
#define ISOSLICE_SR_ENGINE_CPU_KERNELS_H

#include "sr_engine/net.h"
#include "sr_engine/ops.h"

#include <stddef.h>

enum {
    CPU_CHANNELS = 64,
    CPU_HIDDEN = 256,
    CPU_LAYERS = 5,     // of the decoder: 64 -> 256 -> 256 -> 256 -> 256 -> 1
    CPU_EDGE = 4,       // outputs of a tile along rows and columns
    CPU_PATCH = 6,      // inputs of a tile
    CPU_POINTS = 36,    // of the transformed domain
    CPU_SUM_POINT = 7,  // the point at which a transformed gradient is the tile's plain sum
    CPU_MAX_TILES = 24, // tiles that one call of conv_tiles takes
    CPU_PAD = 16,       // floats between rows that would otherwise fall on the same cache lines
    CPU_SLICE_FLOATS = CPU_POINTS * (CPU_MAX_TILES * CPU_CHANNELS + CPU_PAD),
    CPU_CONV_SCRATCH = 4 * CPU_SLICE_FLOATS,
    CPU_CONV_PACKED = CPU_POINTS * 3 * CPU_CHANNELS * CPU_CHANNELS,
    CPU_QUERIES = 96, // decoded together, so that their activations stay in the cache
    CPU_LD = CPU_CHANNELS + CPU_PAD,
    CPU_LDH = CPU_HIDDEN + CPU_PAD,
    CPU_SCORES = 112, // NET_WINDOW_SIZE rounded up to whole vectors
};

// C [m,n] = A [m,k] B [k,n] (+ bias) (+ C), then a ReLU if asked for. n is a multiple of CPU_PAD * 2.
struct cpu_gemm {
    int m, n, k;
    const float *a;
    size_t a_row, a_step; // distance of A's rows and of its columns
    const float *b;       // packed by `pack`, or plain rows when b_row > 0
    size_t b_row;         // distance of B's rows; 0: packed
    const float *bias;    // [n] or NULL
    int add, relu;
    float *c;
    size_t c_row;
};

// A convolution 64 -> 64 over a batch. Pointers are borrowed.
struct cpu_conv {
    struct sr_extent extent;
    const float *x;
    const float *u;    // packed kernels
    const float *bias; // [64] or NULL
    const float *mask; // like y: the result is zero where this is not positive; NULL: none
    int relu, add;
    float *y;
};

// The decoder's and attention's weights, packed for products from the left ("forward") and the transposed
// ones.
struct cpu_weights {
    const float *fold, *fold_bias;                           // q' = fold z + fold_bias
    const float *query, *query_bias, *query_back, *key_back; // q = Wq z + bq; dz += dq Wq; dq = dq' Wk^T
    const float *value, *value_bias, *value_back;
    const float *layer[CPU_LAYERS], *layer_bias[CPU_LAYERS],
        *layer_back[CPU_LAYERS]; // the last is a plain [256] row
};

// One plane of the planes to decode.
struct cpu_plane {
    int stack, slice, index; // index: its place in y
    float t;
};

// A call of decode over a batch.
struct cpu_decode {
    struct sr_extent extent; // of features
    int dilation;
    const float *features;
    const float *stack; // [N,D,H,W] or NULL
    const struct cpu_weights *weights;
    struct sr_window window;
};

// What the backward pass begins with, [n_planes,rows,columns] each.
struct cpu_loss {
    const float *dy;     // the gradient of y, or
    const float *target; // NULL: dy is given. Else dy is share * sign(y - target), and |y - target| is summed
    float share;
};

// What a query hands from decode_back to gather, one row a query of all planes; each [n_queries, ...].
struct cpu_kept {
    float *attention, *dscore;   // [CPU_SCORES]
    float *dcontext, *fold, *dz; // [64]
};

// Gradients of one share of the queries, in the shapes of the arena; summed over shares afterwards.
struct cpu_gradients {
    float query[CPU_CHANNELS * CPU_CHANNELS], query_bias[CPU_CHANNELS];
    float key[CPU_CHANNELS * CPU_CHANNELS];
    float value[CPU_CHANNELS * CPU_CHANNELS], value_bias[CPU_CHANNELS];
    float layer0[CPU_HIDDEN * CPU_CHANNELS], layer[3][CPU_HIDDEN * CPU_HIDDEN], layer4[CPU_HIDDEN];
    float bias[4][CPU_HIDDEN], bias4;
};

struct cpu_kernels {
    const char *name; // "AVX-512"
    void (*gemm)(const struct cpu_gemm *gemm);
    // B [k,n] for gemm.b; element (i,j) is read at b[i * row + j * column]. out [k*n]
    void (*pack)(const float *b, size_t row, size_t column, int k, int n, float *out);

    // Kernel w [out,in,x,y,z] (64 x 64) for conv_tiles, inputs first_in .. first_in + n_in - 1 of 64; with
    // `back` the mirrored and transposed kernel of the backward pass. u [CPU_CONV_PACKED]
    void (*conv_pack)(const float *w, int back, int first_in, int n_in, float *u);
    // Tiles first .. first + n - 1 (row by row) of all slices of stack `stack`. scratch [CPU_CONV_SCRATCH]
    void (*conv_tiles)(const struct cpu_conv *conv, int stack, int first, int n, float *scratch);
    // Transformed inputs (V) and output gradients (Z) of tiles of one slice, each [CPU_POINTS][rows,64] with
    // `point` floats from point to point; `out` is where the first tile's row of point 0 lies.
    void (*transform_input)(const float *x, struct sr_extent extent, int stack, int slice, int first, int n,
                            size_t point, float *out);
    void (*transform_gradient)(const float *dy, struct sr_extent extent, int stack, int slice, int first,
                               int n, size_t point, float *out);
    // Gradient of the kernel [out,in,x,y,z] for one input channel from du [CPU_POINTS][3][64 in][64 out].
    void (*conv_gradient)(const float *du, int in, float *dw);
    // The head, 1 -> 64, over rows [first, first + n) of all N*D*H rows: w [27][64] in the order z,y,x.
    void (*head_rows)(const float *x, struct sr_extent extent, const float *w, const float *bias, int add,
                      int first, int n, float *y);
    // Gradient of the taps (z,y,*) of the head: dw [3][64]. With z = y = 1 also the bias', else dbias is
    // NULL.
    void (*head_gradient)(const float *x, struct sr_extent extent, const float *dy, int z, int y, float *dw,
                          float *dbias);

    // Decodes pixels first .. first + n - 1 (row by row of the window, n <= CPU_QUERIES) on the planes of one
    // stack and slice. scratch [decode_scratch floats]
    void (*decode)(const struct cpu_decode *decode, const struct cpu_plane *planes, int n_planes, int first,
                   int n, float *scratch, float *y);
    // The backward pass of the same for one plane, computing the forward one again or, from a target, at all:
    // adds to `gradients` and to *sum, fills `kept`.
    void (*decode_back)(const struct cpu_decode *decode, const struct cpu_plane *plane, int first, int n,
                        const struct cpu_loss *loss, double *sum, float *scratch, const struct cpu_kept *kept,
                        struct cpu_gradients *gradients);
    // Gradient of one row of features from all queries that saw it. planes [n_planes] of this stack.
    void (*gather)(const struct cpu_decode *decode, const struct cpu_plane *planes, int n_planes,
                   const struct cpu_kept *kept, int stack, int slice, int row, float *dfeatures);
    size_t decode_scratch;

    // Elementwise over [from, to).
    void (*adam)(const float *scalars, const float *g, float *m, float *v, float *p, size_t n);
};

// The table for this processor. Owner: static.
const struct cpu_kernels *cpu_kernels_best(void);

#endif
