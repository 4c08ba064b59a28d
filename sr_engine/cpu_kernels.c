// SPDX-License-Identifier: Apache-2.0
//
// Compiled once for each instruction set, with CPU_KERNELS naming the table. Vectors are the compiler's own
// (vector_size), so the same source becomes AVX-512, AVX2, SSE or NEON.
#include "sr_engine/cpu_kernels.h"

#include <math.h>
#include <string.h>

#if defined(__AVX512F__)
enum { VL = 16, MR = 12 };
#    define KERNEL_NAME "AVX-512"
#elif defined(__AVX2__) && defined(__FMA__)
enum { VL = 8, MR = 6 };
#    define KERNEL_NAME "AVX2"
#else
enum { VL = 4, MR = 6 };
#    define KERNEL_NAME "baseline"
#endif
enum {
    NR = 2 * VL,
    C = CPU_CHANNELS,
    H = CPU_HIDDEN,
    WINDOW = NET_WINDOW,
    HALF = NET_WINDOW_SIZE / 2,
    K3 = 3 * C
};

typedef float vec __attribute__((vector_size(4 * VL)));
typedef int ivec __attribute__((vector_size(4 * VL)));
typedef float vec_at __attribute__((vector_size(4 * VL), aligned(4), may_alias));

// offsets inside a tile, a block or the few matrices of a layer are far below 2^31
// NOLINTBEGIN(bugprone-implicit-widening-of-multiplication-result)

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE vec load(const float *from)
{
    return *(const vec_at *)from;
}

INLINE void store(float *to, vec value)
{
    *(vec_at *)to = value;
}

INLINE vec splat(float value)
{
    return value - (vec){0};
}

// a where the mask's lane is set, else b
INLINE vec where(ivec mask, vec a, vec b)
{
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}

INLINE vec positive(vec value)
{
    return where(value < 0, (vec){0}, value); // a NaN stays one
}

INLINE float sum_of(vec value)
{
    float parts[VL], sum = 0;
    store(parts, value);
    for (int width = VL / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            parts[i] += parts[i + width];
    sum = parts[0];
    return sum;
}

// --------------------------------------------------------------------------------------------- matrix
// products

// mr rows and two vectors of columns of a product, its sum running over up to three parts of k steps each. mr
// is a constant after inlining, so the accumulators are registers.
struct tile {
    int n_parts, k;
    const float *a[3], *b[3];
    size_t a_row, a_step, b_row;
    const float *bias;
    int add, relu;
    float *c;
    size_t c_row;
};

INLINE void tile_run(const int mr, const struct tile *tile)
{
    vec acc[MR][2];
    const size_t a_row = tile->a_row, a_step = tile->a_step, b_row = tile->b_row, c_row = tile->c_row;
    vec bias0 = {0}, bias1 = {0};
    if (tile->bias != NULL) {
        bias0 = load(tile->bias);
        bias1 = load(tile->bias + VL);
    }
    UNROLL
    for (int i = 0; i < mr; i++) {
        acc[i][0] = bias0;
        acc[i][1] = bias1;
    }
    for (int part = 0; part < tile->n_parts; part++) {
        const float *a = tile->a[part], *b = tile->b[part];
        for (int k = 0; k < tile->k; k++, a += a_step, b += b_row) {
            vec b0 = load(b), b1 = load(b + VL);
            UNROLL
            for (int i = 0; i < mr; i++) {
                vec ai = splat(a[(size_t)i * a_row]);
                acc[i][0] += ai * b0;
                acc[i][1] += ai * b1;
            }
        }
    }
    float *c = tile->c;
    if (tile->add) {
        UNROLL
        for (int i = 0; i < mr; i++) {
            acc[i][0] += load(c + (size_t)i * c_row);
            acc[i][1] += load(c + (size_t)i * c_row + VL);
        }
    }
    if (tile->relu) {
        UNROLL
        for (int i = 0; i < mr; i++) {
            acc[i][0] = positive(acc[i][0]);
            acc[i][1] = positive(acc[i][1]);
        }
    }
    UNROLL
    for (int i = 0; i < mr; i++) {
        store(c + (size_t)i * c_row, acc[i][0]);
        store(c + (size_t)i * c_row + VL, acc[i][1]);
    }
}

#define TILE_CASE(mr)                                                                                        \
    case mr:                                                                                                 \
        tile_run(mr, tile);                                                                                  \
        break;

static void tile_any(int mr, const struct tile *tile)
{
    switch (mr) {
        TILE_CASE(1)
        TILE_CASE(2)
        TILE_CASE(3)
        TILE_CASE(4)
        TILE_CASE(5)
        TILE_CASE(6)
#if defined(__AVX512F__)
        TILE_CASE(7)
        TILE_CASE(8)
        TILE_CASE(9)
        TILE_CASE(10)
        TILE_CASE(11)
        TILE_CASE(12)
#endif
    }
}

// All rows of one panel of columns, in blocks of as even a height as possible.
static void panel_run(int m, struct tile *tile)
{
    int blocks = (m + MR - 1) / MR;
    const float *a[3] = {tile->a[0], tile->a[1], tile->a[2]};
    float *c = tile->c;
    for (int i = 0, row = 0; i < blocks; i++) {
        int rows = (m - row + blocks - i - 1) / (blocks - i);
        for (int part = 0; part < tile->n_parts; part++)
            tile->a[part] = a[part] + (size_t)row * tile->a_row;
        tile->c = c + (size_t)row * tile->c_row;
        tile_any(rows, tile);
        row += rows;
    }
}

static void gemm(const struct cpu_gemm *gemm)
{
    for (int n = 0; n < gemm->n; n += NR) {
        struct tile tile = {.n_parts = 1, .k = gemm->k, .a_row = gemm->a_row, .a_step = gemm->a_step};
        tile.a[0] = gemm->a;
        tile.b[0] = gemm->b + (gemm->b_row > 0 ? (size_t)n : (size_t)n * (size_t)gemm->k);
        tile.b_row = gemm->b_row > 0 ? gemm->b_row : NR;
        tile.bias = gemm->bias != NULL ? gemm->bias + n : NULL;
        tile.add = gemm->add;
        tile.relu = gemm->relu;
        tile.c = gemm->c + n;
        tile.c_row = gemm->c_row;
        panel_run(gemm->m, &tile);
    }
}

static void pack(const float *b, size_t row, size_t column, int k, int n, float *out)
{
    for (int j = 0; j < n; j += NR)
        for (int i = 0; i < k; i++)
            for (int v = 0; v < NR; v++)
                *out++ = b[(size_t)i * row + (size_t)(j + v) * column];
}

// --------------------------------------------------------------------------------------------- Winograd
// transforms

// B^T x: six inputs to six points.
INLINE void input_points(const vec *x, vec *v, int step)
{
    vec a = x[4 * step] - 4 * x[2 * step], b = x[3 * step] - 4 * x[step];
    vec c = x[4 * step] - x[2 * step], d = 2 * (x[3 * step] - x[step]);
    v[0] = 4 * x[0] - 5 * x[2 * step] + x[4 * step];
    v[1] = a + b;
    v[2] = a - b;
    v[3] = c + d;
    v[4] = c - d;
    v[5] = 4 * x[step] - 5 * x[3 * step] + x[5 * step];
}

// A^T m: six points to four outputs.
INLINE void output_values(const vec *m, vec *y, int step)
{
    vec s1 = m[step] + m[2 * step], d1 = m[step] - m[2 * step];
    vec s2 = m[3 * step] + m[4 * step], d2 = m[3 * step] - m[4 * step];
    y[0] = m[0] + s1 + s2;
    y[1] = d1 + 2 * d2;
    y[2] = s1 + 4 * s2;
    y[3] = d1 + 8 * d2 + m[5 * step];
}

// A y: four output gradients to six points.
INLINE void gradient_points(const vec *y, vec *z, int step)
{
    vec even = y[0] + y[2 * step], odd = y[step] + y[3 * step];
    vec even4 = y[0] + 4 * y[2 * step], odd4 = 2 * y[step] + 8 * y[3 * step];
    z[0] = y[0];
    z[1] = even + odd;
    z[2] = even - odd;
    z[3] = even4 + odd4;
    z[4] = even4 - odd4;
    z[5] = y[3 * step];
}

// G g: three taps to six points.
INLINE void kernel_points(const vec *g, vec *u, int step)
{
    vec even = g[0] + g[2 * step], even4 = g[0] / 24 + g[2 * step] / 6;
    u[0] = g[0] / 4;
    u[1] = -(even + g[step]) / 6;
    u[2] = -(even - g[step]) / 6;
    u[3] = even4 + g[step] / 12;
    u[4] = even4 - g[step] / 12;
    u[5] = g[2 * step];
}

// G^T u: six points to three taps.
INLINE void kernel_taps(const vec *u, vec *g, int step)
{
    vec s1 = u[step] + u[2 * step], s2 = u[3 * step] + u[4 * step];
    g[0] = u[0] / 4 - s1 / 6 + s2 / 24;
    g[1] = (u[2 * step] - u[step]) / 6 + (u[3 * step] - u[4 * step]) / 12;
    g[2] = (s2 - s1) / 6 + u[5 * step];
}

static const float zeros[C];

INLINE int tiles_across(int size)
{
    return (size + CPU_EDGE - 1) / CPU_EDGE;
}

static void transform_input(const float *x, struct sr_extent e, int stack, int slice, int first, int n,
                            size_t point, float *out)
{
    int across = tiles_across(e.w);
    const float *plane = x + ((size_t)stack * (size_t)e.d + (size_t)slice) * (size_t)e.h * (size_t)e.w * C;
    for (int tile = 0; tile < n; tile++, out += C) {
        int row = (first + tile) / across * CPU_EDGE - 1, column = (first + tile) % across * CPU_EDGE - 1;
        const float *from[CPU_POINTS];
        for (int i = 0; i < CPU_POINTS; i++) {
            int h = row + i / CPU_PATCH, w = column + i % CPU_PATCH;
            from[i] = h >= 0 && h < e.h && w >= 0 && w < e.w
                          ? plane + ((size_t)h * (size_t)e.w + (size_t)w) * C
                          : zeros;
        }
        for (int c = 0; c < C; c += VL) {
            vec half[CPU_POINTS];
            for (int i = 0; i < CPU_PATCH; i++) { // along rows, then along columns
                vec in[CPU_PATCH];
                UNROLL
                for (int j = 0; j < CPU_PATCH; j++)
                    in[j] = load(from[i * CPU_PATCH + j] + c);
                input_points(in, half + i * CPU_PATCH, 1);
            }
            for (int j = 0; j < CPU_PATCH; j++) {
                vec v[CPU_PATCH];
                input_points(half + j, v, CPU_PATCH);
                UNROLL
                for (int i = 0; i < CPU_PATCH; i++)
                    store(out + (size_t)(i * CPU_PATCH + j) * point + c, v[i]);
            }
        }
    }
}

static void transform_gradient(const float *dy, struct sr_extent e, int stack, int slice, int first, int n,
                               size_t point, float *out)
{
    int across = tiles_across(e.w);
    const float *plane = dy + ((size_t)stack * (size_t)e.d + (size_t)slice) * (size_t)e.h * (size_t)e.w * C;
    for (int tile = 0; tile < n; tile++, out += C) {
        int row = (first + tile) / across * CPU_EDGE, column = (first + tile) % across * CPU_EDGE;
        const float *from[CPU_EDGE * CPU_EDGE];
        for (int i = 0; i < CPU_EDGE * CPU_EDGE; i++) {
            int h = row + i / CPU_EDGE, w = column + i % CPU_EDGE;
            from[i] = h < e.h && w < e.w ? plane + ((size_t)h * (size_t)e.w + (size_t)w) * C : zeros;
        }
        for (int c = 0; c < C; c += VL) {
            vec half[CPU_EDGE * CPU_PATCH];
            for (int i = 0; i < CPU_EDGE; i++) {
                vec in[CPU_EDGE];
                UNROLL
                for (int j = 0; j < CPU_EDGE; j++)
                    in[j] = load(from[i * CPU_EDGE + j] + c);
                gradient_points(in, half + i * CPU_PATCH, 1);
            }
            for (int j = 0; j < CPU_PATCH; j++) {
                vec z[CPU_PATCH];
                gradient_points(half + j, z, CPU_PATCH);
                UNROLL
                for (int i = 0; i < CPU_PATCH; i++)
                    store(out + (size_t)(i * CPU_PATCH + j) * point + c, z[i]);
            }
        }
    }
}

// One tile's 36 points back to 4x4 voxels of y.
static void transform_output(const struct cpu_conv *conv, size_t plane, int tile, const float *m,
                             size_t point)
{
    struct sr_extent e = conv->extent;
    int across = tiles_across(e.w);
    int row = tile / across * CPU_EDGE, column = tile % across * CPU_EDGE;
    for (int c = 0; c < C; c += VL) {
        vec half[CPU_PATCH * CPU_EDGE], bias = conv->bias != NULL ? load(conv->bias + c) : (vec){0};
        for (int i = 0; i < CPU_PATCH; i++) {
            vec in[CPU_PATCH];
            UNROLL
            for (int j = 0; j < CPU_PATCH; j++)
                in[j] = load(m + (size_t)(i * CPU_PATCH + j) * point + c);
            output_values(in, half + i * CPU_EDGE, 1);
        }
        for (int j = 0; j < CPU_EDGE && column + j < e.w; j++) {
            vec y[CPU_EDGE];
            output_values(half + j, y, CPU_EDGE);
            for (int i = 0; i < CPU_EDGE && row + i < e.h; i++) {
                size_t at = (plane + (size_t)(row + i) * (size_t)e.w + (size_t)(column + j)) * C + (size_t)c;
                vec value = y[i] + bias;
                if (conv->add)
                    value += load(conv->y + at);
                if (conv->relu)
                    value = positive(value);
                if (conv->mask != NULL)
                    value = where(load(conv->mask + at) > 0, value, (vec){0});
                store(conv->y + at, value);
            }
        }
    }
}

static void conv_tiles(const struct cpu_conv *conv, int stack, int first, int n, float *scratch)
{
    struct sr_extent e = conv->extent;
    const size_t point = (size_t)n * C + CPU_PAD;
    float *slices[3] = {scratch, scratch + CPU_SLICE_FLOATS, scratch + 2 * CPU_SLICE_FLOATS};
    float *product = scratch + 3 * CPU_SLICE_FLOATS;
    transform_input(conv->x, e, stack, 0, first, n, point, slices[0]);
    for (int d = 0; d < e.d; d++) {
        if (d + 1 < e.d)
            transform_input(conv->x, e, stack, d + 1, first, n, point, slices[(d + 1) % 3]);
        for (int p = 0; p < CPU_POINTS; p++)
            for (int panel = 0; panel < C / NR; panel++) {
                const float *u = conv->u + ((size_t)p * (C / NR) + (size_t)panel) * K3 * NR;
                struct tile tile = {.k = C, .a_row = C, .a_step = 1, .b_row = NR, .c_row = C};
                for (int z = d == 0 ? 1 : 0; z < 3 && d + z - 1 < e.d; z++) {
                    tile.a[tile.n_parts] = slices[(d + z - 1) % 3] + (size_t)p * point;
                    tile.b[tile.n_parts++] = u + (size_t)z * C * NR;
                }
                tile.c = product + (size_t)p * point + (size_t)panel * NR;
                panel_run(n, &tile);
            }
        size_t plane = ((size_t)stack * (size_t)e.d + (size_t)d) * (size_t)e.h * (size_t)e.w;
        for (int i = 0; i < n; i++)
            transform_output(conv, plane, first + i, product + (size_t)i * C, point);
    }
}

// u[point][panel][slice tap, in][NR out], one vector of outputs at a time.
static void conv_pack(const float *w, int back, int first_in, int n_in, float *u)
{
    for (int in = first_in; in < first_in + n_in; in++)
        for (int out = 0; out < C; out += VL) {
            float taps[27][VL]; // [z,y,x][out]
            for (int v = 0; v < VL; v++) {
                // the backward pass sums over the outputs and runs through the taps the other way round
                const float *from =
                    w + ((size_t)(back ? in : out + v) * C + (size_t)(back ? out + v : in)) * 27;
                for (int i = 0; i < 27; i++) {
                    int xyz = i % 3 * 9 + i / 3 % 3 * 3 + i / 9;
                    taps[i][v] = from[back ? 26 - xyz : xyz];
                }
            }
            float *to = u + (size_t)(out / NR) * K3 * NR + (size_t)in * NR + (size_t)(out % NR);
            for (int z = 0; z < 3; z++) {
                vec g[9], half[18];
                for (int i = 0; i < 9; i++)
                    g[i] = load(taps[z * 9 + i]);
                for (int y = 0; y < 3; y++)
                    kernel_points(g + y * 3, half + y * 6, 1);
                for (int j = 0; j < CPU_PATCH; j++) {
                    vec points[CPU_PATCH];
                    kernel_points(half + j, points, CPU_PATCH);
                    for (int i = 0; i < CPU_PATCH; i++)
                        store(to + (size_t)(i * CPU_PATCH + j) * K3 * C + (size_t)z * C * NR, points[i]);
                }
            }
        }
}

static void conv_gradient(const float *du, int in, float *dw)
{
    for (int out = 0; out < C; out += VL) {
        float taps[27][VL]; // [x,y,z][out]
        for (int z = 0; z < 3; z++) {
            vec half[18];
            for (int j = 0; j < CPU_PATCH; j++) {
                vec points[CPU_PATCH], column[3];
                for (int i = 0; i < CPU_PATCH; i++)
                    points[i] =
                        load(du + (((size_t)(i * CPU_PATCH + j) * 3 + (size_t)z) * C + (size_t)in) * C + out);
                kernel_taps(points, column, 1);
                for (int y = 0; y < 3; y++)
                    half[y * CPU_PATCH + j] = column[y];
            }
            for (int y = 0; y < 3; y++) {
                vec g[3];
                kernel_taps(half + y * CPU_PATCH, g, 1);
                for (int x = 0; x < 3; x++)
                    store(taps[(x * 3 + y) * 3 + z], g[x]);
            }
        }
        for (int v = 0; v < VL; v++)
            for (int i = 0; i < 27; i++)
                dw[((size_t)(out + v) * C + (size_t)in) * 27 + (size_t)i] = taps[i][v];
    }
}

// --------------------------------------------------------------------------------------------- head

INLINE const float *head_line(const float *x, struct sr_extent e, int nd, int h, int z, int y)
{
    int d = nd % e.d + z - 1, row = h + y - 1;
    if (d < 0 || d >= e.d || row < 0 || row >= e.h)
        return NULL;
    return x + ((size_t)(nd + z - 1) * (size_t)e.h + (size_t)row) * (size_t)e.w;
}

static void head_rows(const float *x, struct sr_extent e, const float *w, const float *bias, int add,
                      int first, int n, float *y)
{
    for (int line = first; line < first + n; line++) {
        const float *lines[9];
        for (int i = 0; i < 9; i++)
            lines[i] = head_line(x, e, line / e.h, line % e.h, i / 3, i % 3);
        float *to = y + (size_t)line * (size_t)e.w * C;
        for (int column = 0; column < e.w; column++, to += C) {
            vec acc[C / VL];
            UNROLL
            for (int c = 0; c < C / VL; c++)
                acc[c] = load(bias + c * VL);
            for (int i = 0; i < 9; i++)
                for (int k = 0; lines[i] != NULL && k < 3; k++) {
                    int at = column + k - 1;
                    if (at < 0 || at >= e.w)
                        continue;
                    vec value = splat(lines[i][at]);
                    UNROLL
                    for (int c = 0; c < C / VL; c++)
                        acc[c] += value * load(w + (size_t)(i * 3 + k) * C + c * VL);
                }
            UNROLL
            for (int c = 0; c < C / VL; c++)
                store(to + c * VL, add ? acc[c] + load(to + c * VL) : acc[c]);
        }
    }
}

static void head_gradient(const float *x, struct sr_extent e, const float *dy, int z, int y, float *dw,
                          float *dbias)
{
    for (int c = 0; c < C; c += VL) {
        vec acc[3] = {{0}}, sum = {0};
        for (int line = 0; line < e.n * e.d * e.h; line++) {
            const float *from = head_line(x, e, line / e.h, line % e.h, z, y);
            const float *g = dy + (size_t)line * (size_t)e.w * C + c;
            vec line_acc[3] = {{0}}, line_sum = {0}; // sums of rows first: their rounding stays small
            for (int column = 0; column < e.w; column++, g += C) {
                vec value = load(g);
                line_sum += value;
                for (int k = 0; from != NULL && k < 3; k++) {
                    int at = column + k - 1;
                    if (at >= 0 && at < e.w)
                        line_acc[k] += splat(from[at]) * value;
                }
            }
            sum += line_sum;
            for (int k = 0; k < 3; k++)
                acc[k] += line_acc[k];
        }
        for (int k = 0; k < 3; k++)
            store(dw + k * C + c, acc[k]);
        if (dbias != NULL)
            store(dbias + c, sum);
    }
}

// --------------------------------------------------------------------------------------------- window
// attention

INLINE vec exp_of(vec x)
{
    // 2^n e^r with |r| <= ln(2)/2; a polynomial of degree 6 (Cephes' coefficients), relative error below 2e-7
    x = where(x < -87.0F, splat(-87.0F), x);
    const float shift = 12582912.0F; // 1.5 * 2^23: adding it rounds to a whole number
    vec n = (x * 1.44269504F + shift) - shift;
    vec r = x - n * 0.693359375F + n * 2.12194440e-4F;
    vec p = splat(1.9875691500e-4F);
    p = p * r + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    p = p * r * r + r + 1;
    ivec bits = (__builtin_convertvector(n, ivec) + 127) << 23;
    return p * (vec)bits;
}

// Where the window of one pixel lies: rows of the two slices, and column offsets, all clamped.
struct neighbours {
    const float *row[2 * WINDOW];
    size_t column[WINDOW];
};

INLINE int clamp(int i, int n)
{
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

static const float *slice_of(const struct cpu_decode *decode, const struct cpu_plane *plane, int second)
{
    struct sr_extent e = decode->extent;
    int slice = clamp(plane->slice + second, e.d);
    return decode->features +
           ((size_t)plane->stack * (size_t)e.d + (size_t)slice) * (size_t)e.h * (size_t)e.w * C;
}

static void find_neighbours(const struct cpu_decode *decode, const struct cpu_plane *plane, int row,
                            int column, struct neighbours *near)
{
    struct sr_extent e = decode->extent;
    for (int i = 0; i < WINDOW; i++) {
        size_t line = (size_t)clamp(row + (i - WINDOW / 2) * decode->dilation, e.h) * (size_t)e.w * C;
        near->row[i] = slice_of(decode, plane, 0) + line;
        near->row[WINDOW + i] = slice_of(decode, plane, 1) + line;
        near->column[i] = (size_t)clamp(column + (i - WINDOW / 2) * decode->dilation, e.w) * C;
    }
}

// out_a[m] = a.f_m, out_b[m] = b.f_m over the window; the padding is left alone.
INLINE void window_dots(const struct neighbours *near, const float *a, const float *b, float *out_a,
                        float *out_b)
{
    vec va[C / VL], vb[C / VL];
    UNROLL
    for (int c = 0; c < C / VL; c++) {
        va[c] = load(a + c * VL);
        vb[c] = load(b + c * VL);
    }
    int m = 0;
    for (int i = 0; i < 2 * WINDOW; i++)
        for (int j = 0; j < WINDOW; j++, m++) {
            const float *f = near->row[i] + near->column[j];
            vec sa = {0}, sb = {0};
            UNROLL
            for (int c = 0; c < C / VL; c++) {
                vec value = load(f + c * VL);
                sa += va[c] * value;
                sb += vb[c] * value;
            }
            out_a[m] = sum_of(sa);
            if (out_b != NULL)
                out_b[m] = sum_of(sb);
        }
}

// out = sum_m weight[m] f_m
static void window_mean(const struct neighbours *near, const float *weight, float *out)
{
    vec acc[C / VL] = {{0}};
    for (int i = 0; i < 2 * WINDOW; i++)
        for (int j = 0; j < WINDOW; j++) {
            const float *f = near->row[i] + near->column[j];
            vec a = splat(*weight++);
            UNROLL
            for (int c = 0; c < C / VL; c++)
                acc[c] += a * load(f + c * VL);
        }
    UNROLL
    for (int c = 0; c < C / VL; c++)
        store(out + c * VL, acc[c]);
}

// The scores are affine in t: a [CPU_SCORES] is the softmax of the blend, zero in the padding.
static void blend_softmax(const float *s0, const float *s1, float t, float *a)
{
    vec most = splat(-HUGE_VALF), total = {0}, most_of_all;
    for (int m = 0; m < CPU_SCORES; m += VL) {
        vec s = (1 - t) * load(s0 + m) + t * load(s1 + m);
        store(a + m, s);
        most = where(s > most, s, most);
    }
    float parts[VL], top;
    store(parts, most);
    top = parts[0];
    for (int i = 1; i < VL; i++)
        top = parts[i] > top ? parts[i] : top;
    most_of_all = splat(top);
    for (int m = 0; m < CPU_SCORES; m += VL)
        store(a + m, exp_of(load(a + m) - most_of_all));
    for (int m = NET_WINDOW_SIZE; m < CPU_SCORES; m++)
        a[m] = 0;
    for (int m = 0; m < CPU_SCORES; m += VL)
        total += load(a + m);
    vec scale = splat(1 / sum_of(total));
    for (int m = 0; m < CPU_SCORES; m += VL)
        store(a + m, load(a + m) * scale);
}

// --------------------------------------------------------------------------------------------- decoding

// Scratch of one block of queries; rows are padded (CPU_LD, CPU_LDH).
struct block {
    float f[2][CPU_QUERIES * CPU_LD];    // features of the pixel on both slices
    float fold[2][CPU_QUERIES * CPU_LD]; // q' there
    float score[2][CPU_QUERIES * CPU_SCORES];
    float z[CPU_QUERIES * CPU_LD], context[CPU_QUERIES * CPU_LD], g[CPU_QUERIES * CPU_LD];
    float hidden[4][CPU_QUERIES * CPU_LDH];
    // of the backward pass
    float dhidden[2][CPU_QUERIES * CPU_LDH];
    float dg[CPU_QUERIES * CPU_LD], dcontext[CPU_QUERIES * CPU_LD], dfold[CPU_QUERIES * CPU_LD];
    float q[CPU_QUERIES * CPU_LD], dq[CPU_QUERIES * CPU_LD], dz[CPU_QUERIES * CPU_LD];
    struct neighbours near[CPU_QUERIES];
};

static void product(int m, int n, int k, const float *a, size_t a_row, const float *b, const float *bias,
                    int flags, float *c, size_t c_row)
{
    struct cpu_gemm job = {.m = m, .n = n, .k = k, .a = a, .a_row = a_row, .a_step = 1, .b = b, .bias = bias};
    job.add = flags & 1;
    job.relu = flags >> 1;
    job.c = c;
    job.c_row = c_row;
    gemm(&job);
}

// dw [n_out,n_in] += dy^T x over the block's rows; dbias += column sums of dy.
static void product_gradient(int rows, int n_out, const float *dy, size_t dy_row, int n_in, const float *x,
                             size_t x_row, float *dw, float *dbias)
{
    struct cpu_gemm job = {.m = n_out, .n = n_in, .k = rows, .a = dy, .a_row = 1, .a_step = dy_row, .b = x};
    job.b_row = x_row;
    job.add = 1;
    job.c = dw;
    job.c_row = (size_t)n_in;
    gemm(&job);
    for (int c = 0; dbias != NULL && c < n_out; c += VL) {
        vec sum = {0};
        for (int i = 0; i < rows; i++)
            sum += load(dy + (size_t)i * dy_row + c);
        store(dbias + c, load(dbias + c) + sum);
    }
}

// Features, folded queries and scores of a block; the same for all planes between two slices.
static void block_scores(const struct cpu_decode *decode, const struct cpu_plane *plane, int first, int n,
                         struct block *block)
{
    const struct cpu_weights *w = decode->weights;
    for (int i = 0; i < n; i++) {
        int row = decode->window.row + (first + i) / decode->window.columns;
        int column = decode->window.column + (first + i) % decode->window.columns;
        size_t at = ((size_t)row * (size_t)decode->extent.w + (size_t)column) * C;
        find_neighbours(decode, plane, row, column, &block->near[i]);
        for (int s = 0; s < 2; s++)
            memcpy(block->f[s] + (size_t)i * CPU_LD, slice_of(decode, plane, s) + at, C * sizeof(float));
    }
    for (int s = 0; s < 2; s++)
        product(n, C, C, block->f[s], CPU_LD, w->fold, w->fold_bias, 0, block->fold[s], CPU_LD);
    for (int i = 0; i < n; i++) {
        float *s0 = block->score[0] + (size_t)i * CPU_SCORES, *s1 = block->score[1] + (size_t)i * CPU_SCORES;
        window_dots(&block->near[i], block->fold[0] + (size_t)i * CPU_LD, block->fold[1] + (size_t)i * CPU_LD,
                    s0, s1);
        for (int m = NET_WINDOW_SIZE; m < CPU_SCORES; m++)
            s0[m] = s1[m] = -1e30F;
    }
}

// The block on one plane up to the last hidden layer; attention [n,CPU_SCORES].
static void block_hidden(const struct cpu_decode *decode, float t, int n, struct block *block,
                         float *attention)
{
    const struct cpu_weights *w = decode->weights;
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * CPU_LD;
        float *a = attention + (size_t)i * CPU_SCORES;
        blend_softmax(block->score[0] + (size_t)i * CPU_SCORES, block->score[1] + (size_t)i * CPU_SCORES, t,
                      a);
        window_mean(&block->near[i], a, block->context + at);
        for (int c = 0; c < C; c += VL) {
            vec z = (1 - t) * load(block->f[0] + at + c) + t * load(block->f[1] + at + c);
            store(block->z + at + c, z);
            store(block->g + at + c, z);
        }
    }
    product(n, C, C, block->context, CPU_LD, w->value, w->value_bias, 1, block->g, CPU_LD);
    product(n, H, C, block->g, CPU_LD, w->layer[0], w->layer_bias[0], 2, block->hidden[0], CPU_LDH);
    for (int i = 1; i < 4; i++)
        product(n, H, H, block->hidden[i - 1], CPU_LDH, w->layer[i], w->layer_bias[i], 2, block->hidden[i],
                CPU_LDH);
}

// The last layer, and linear interpolation where it is added: to [n].
static void block_result(const struct cpu_decode *decode, const struct cpu_plane *plane, int first, int n,
                         const struct block *block, float *to)
{
    const struct cpu_weights *w = decode->weights;
    struct sr_extent e = decode->extent;
    for (int i = 0; i < n; i++) {
        const float *h = block->hidden[3] + (size_t)i * CPU_LDH;
        vec sum = {0};
        for (int c = 0; c < H; c += VL)
            sum += load(h + c) * load(w->layer[4] + c);
        to[i] = sum_of(sum) + w->layer_bias[4][0];
        if (decode->stack == NULL)
            continue;
        int row = decode->window.row + (first + i) / decode->window.columns;
        int column = decode->window.column + (first + i) % decode->window.columns;
        size_t at = (size_t)row * (size_t)e.w + (size_t)column, size = (size_t)e.h * (size_t)e.w;
        const float *x = decode->stack + (size_t)plane->stack * (size_t)e.d * size + at;
        to[i] += (1 - plane->t) * x[(size_t)plane->slice * size] +
                 plane->t * x[(size_t)clamp(plane->slice + 1, e.d) * size];
    }
}

static void decode(const struct cpu_decode *decode, const struct cpu_plane *planes, int n_planes, int first,
                   int n, float *scratch, float *y)
{
    struct block *block = (struct block *)scratch;
    float *attention = block->dhidden[0]; // free in the forward pass, and large enough
    block_scores(decode, planes, first, n, block);
    for (int p = 0; p < n_planes; p++) {
        const struct cpu_plane *plane = &planes[p];
        block_hidden(decode, plane->t, n, block, attention);
        block_result(decode, plane, first, n, block,
                     y + (size_t)plane->index * (size_t)decode->window.rows * (size_t)decode->window.columns +
                         first);
    }
}

// From dy back to the gradient after the attention, block->dg.
static void block_mlp_back(const struct cpu_decode *decode, int n, const float *dy, struct block *block,
                           struct cpu_gradients *g)
{
    const struct cpu_weights *w = decode->weights;
    float *dh = block->dhidden[0], *next = block->dhidden[1];
    for (int i = 0; i < n; i++) {
        const float *h = block->hidden[3] + (size_t)i * CPU_LDH;
        g->bias4 += dy[i];
        for (int c = 0; c < H; c += VL) {
            vec value = load(h + c), d = splat(dy[i]) * load(w->layer[4] + c);
            store(g->layer4 + c, load(g->layer4 + c) + splat(dy[i]) * value);
            store(dh + (size_t)i * CPU_LDH + c, where(value > 0, d, (vec){0}));
        }
    }
    for (int layer = 3; layer > 0; layer--) {
        const float *x = block->hidden[layer - 1];
        product_gradient(n, H, dh, CPU_LDH, H, x, CPU_LDH, g->layer[layer - 1], g->bias[layer]);
        product(n, H, H, dh, CPU_LDH, w->layer_back[layer], NULL, 0, next, CPU_LDH);
        for (int i = 0; i < n; i++)
            for (int c = 0; c < H; c += VL) {
                size_t at = (size_t)i * CPU_LDH + (size_t)c;
                store(next + at, where(load(x + at) > 0, load(next + at), (vec){0}));
            }
        float *swap = dh;
        dh = next;
        next = swap;
    }
    product_gradient(n, H, dh, CPU_LDH, C, block->g, CPU_LD, g->layer0, g->bias[0]);
    product(n, C, H, dh, CPU_LDH, w->layer_back[0], NULL, 0, block->dg, CPU_LD);
}

// Scores' gradients and dq' of one query.
static void attention_back(const struct neighbours *near, const float *a, const float *dcontext, float *ds,
                           float *dfold)
{
    vec total = {0};
    window_dots(near, dcontext, dcontext, ds, NULL);
    for (int m = NET_WINDOW_SIZE; m < CPU_SCORES; m++)
        ds[m] = 0;
    for (int m = 0; m < CPU_SCORES; m += VL)
        total += load(a + m) * load(ds + m);
    vec mean = splat(sum_of(total));
    for (int m = 0; m < CPU_SCORES; m += VL)
        store(ds + m, load(a + m) * (load(ds + m) - mean));
    window_mean(near, ds, dfold);
}

// From the block's result to its gradient. No difference: 0; a NaN stays one.
static void block_loss(const struct cpu_loss *loss, size_t at, int n, const float *y, float *dy, double *sum)
{
    for (int i = 0; i < n; i++) {
        float off = y[i] - loss->target[at + (size_t)i];
        *sum += fabs((double)off);
        dy[i] = off > 0 ? loss->share : off < 0 ? -loss->share : off;
    }
}

static void decode_back(const struct cpu_decode *decode, const struct cpu_plane *plane, int first, int n,
                        const struct cpu_loss *loss, double *sum, float *scratch, const struct cpu_kept *kept,
                        struct cpu_gradients *g)
{
    struct block *block = (struct block *)scratch;
    const struct cpu_weights *w = decode->weights;
    size_t at =
        (size_t)plane->index * (size_t)decode->window.rows * (size_t)decode->window.columns + (size_t)first;
    block_scores(decode, plane, first, n, block);
    block_hidden(decode, plane->t, n, block, kept->attention + at * CPU_SCORES);
    float y[CPU_QUERIES], dy[CPU_QUERIES];
    if (loss->target != NULL) {
        block_result(decode, plane, first, n, block, y);
        block_loss(loss, at, n, y, dy, sum);
    }
    block_mlp_back(decode, n, loss->target != NULL ? dy : loss->dy + at, block, g);
    product_gradient(n, C, block->dg, CPU_LD, C, block->context, CPU_LD, g->value, g->value_bias);
    product(n, C, C, block->dg, CPU_LD, w->value_back, NULL, 0, block->dcontext, CPU_LD);
    for (int i = 0; i < n; i++) {
        size_t query = at + (size_t)i, row = (size_t)i * CPU_LD;
        attention_back(&block->near[i], kept->attention + query * CPU_SCORES, block->dcontext + row,
                       kept->dscore + query * CPU_SCORES, block->dfold + row);
        for (int c = 0; c < C; c += VL) {
            vec fold =
                (1 - plane->t) * load(block->fold[0] + row + c) + plane->t * load(block->fold[1] + row + c);
            store(kept->fold + query * C + c, fold);
            store(kept->dcontext + query * C + c, load(block->dcontext + row + c));
            store(block->dz + row + c, load(block->dg + row + c));
        }
    }
    product(n, C, C, block->z, CPU_LD, w->query, w->query_bias, 0, block->q, CPU_LD);
    product_gradient(n, C, block->q, CPU_LD, C, block->dfold, CPU_LD, g->key, NULL);
    product(n, C, C, block->dfold, CPU_LD, w->key_back, NULL, 0, block->dq, CPU_LD);
    product_gradient(n, C, block->dq, CPU_LD, C, block->z, CPU_LD, g->query, g->query_bias);
    product(n, C, C, block->dq, CPU_LD, w->query_back, NULL, 1, block->dz, CPU_LD);
    for (int i = 0; i < n; i++)
        memcpy(kept->dz + (at + (size_t)i) * C, block->dz + (size_t)i * CPU_LD, C * sizeof(float));
}

// Indices q in [first, first + n) whose neighbour at `offset`, clamped to [0, size), is `target`.
static void preimage(int target, int offset, int size, int first, int n, int *from, int *to)
{
    *from = target == 0 ? first : target - offset;
    *to = target == size - 1 ? first + n - 1 : target - offset;
    if (target == 0 && size > 1)
        *to = -offset;
    if (target == size - 1 && size > 1)
        *from = size - 1 - offset;
    *from = *from < first ? first : *from;
    *to = *to > first + n - 1 ? first + n - 1 : *to;
}

// What the queries of one plane give to one voxel through window slot `half` (0: first slice, 1: second).
static void gather_voxel(const struct cpu_decode *decode, const struct cpu_plane *plane,
                         const struct cpu_kept *kept, int half, int row, int column, vec *acc)
{
    struct sr_window window = decode->window;
    size_t base = (size_t)plane->index * (size_t)window.rows * (size_t)window.columns;
    for (int i = 0; i < WINDOW; i++) {
        int top, bottom;
        preimage(row, (i - WINDOW / 2) * decode->dilation, decode->extent.h, window.row, window.rows, &top,
                 &bottom);
        for (int h = top; h <= bottom; h++)
            for (int j = 0; j < WINDOW; j++) {
                int left, right;
                preimage(column, (j - WINDOW / 2) * decode->dilation, decode->extent.w, window.column,
                         window.columns, &left, &right);
                for (int w = left; w <= right; w++) {
                    size_t query = base + (size_t)(h - window.row) * (size_t)window.columns +
                                   (size_t)(w - window.column);
                    size_t m = query * CPU_SCORES + (size_t)(half * HALF + i * WINDOW + j);
                    vec a = splat(kept->attention[m]), ds = splat(kept->dscore[m]);
                    UNROLL
                    for (int c = 0; c < C / VL; c++)
                        acc[c] += a * load(kept->dcontext + query * C + c * VL) +
                                  ds * load(kept->fold + query * C + c * VL);
                }
            }
    }
}

static void gather(const struct cpu_decode *decode, const struct cpu_plane *planes, int n_planes,
                   const struct cpu_kept *kept, int stack, int slice, int row, float *dfeatures)
{
    struct sr_extent e = decode->extent;
    struct sr_window window = decode->window;
    float *to = dfeatures +
                (((size_t)stack * (size_t)e.d + (size_t)slice) * (size_t)e.h + (size_t)row) * (size_t)e.w * C;
    for (int column = 0; column < e.w; column++, to += C) {
        vec acc[C / VL] = {{0}};
        int inside = row >= window.row && row < window.row + window.rows && column >= window.column &&
                     column < window.column + window.columns;
        for (int p = 0; p < n_planes; p++) {
            const struct cpu_plane *plane = &planes[p];
            for (int half = 0; half < 2; half++) {
                if (plane->stack != stack || clamp(plane->slice + half, e.d) != slice)
                    continue;
                gather_voxel(decode, plane, kept, half, row, column, acc);
                if (!inside)
                    continue;
                size_t query = ((size_t)plane->index * (size_t)window.rows + (size_t)(row - window.row)) *
                                   (size_t)window.columns +
                               (size_t)(column - window.column);
                vec share = splat(half ? plane->t : 1 - plane->t);
                UNROLL
                for (int c = 0; c < C / VL; c++)
                    acc[c] += share * load(kept->dz + query * C + c * VL);
            }
        }
        UNROLL
        for (int c = 0; c < C / VL; c++)
            store(to + c * VL, acc[c]);
    }
}

// scalars: rate / (1 - beta1^step), beta1, beta2, epsilon, 1 / sqrt(1 - beta2^step)
static void adam(const float *scalars, const float *g, float *m, float *v, float *p, size_t n)
{
    const float rate = scalars[0], beta1 = scalars[1], beta2 = scalars[2], epsilon = scalars[3],
                correct = scalars[4];
    for (size_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + (1 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
        p[i] -= rate * m[i] / (sqrtf(v[i]) * correct + epsilon);
    }
}

extern const struct cpu_kernels CPU_KERNELS;
const struct cpu_kernels CPU_KERNELS = {
    .name = KERNEL_NAME,
    .gemm = gemm,
    .pack = pack,
    .conv_pack = conv_pack,
    .conv_tiles = conv_tiles,
    .transform_input = transform_input,
    .transform_gradient = transform_gradient,
    .conv_gradient = conv_gradient,
    .head_rows = head_rows,
    .head_gradient = head_gradient,
    .decode = decode,
    .decode_back = decode_back,
    .gather = gather,
    .decode_scratch = sizeof(struct block) / sizeof(float) + 1,
    .adam = adam,
};
// NOLINTEND(bugprone-implicit-widening-of-multiplication-result)
