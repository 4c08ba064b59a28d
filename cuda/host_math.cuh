// SPDX-License-Identifier: Apache-2.0
//
// What one index of every kernel computes, as functions of host and device: index arithmetic, borders, sums.
// A body is a struct with its operands and operator()(i); queue_run() calls it for all i. The same bodies run
// on the host in the tests (queue_host.cu), against the reference. Every body writes only what belongs to its
// index, so no atomics are needed and the sums have a fixed order. T is what feature maps and what is
// computed from them are stored in: float, or bf16 with sums in float. Maps of float are [N,C,D,H,W], of bf16
// [N,D,H,W,C]: bodies named ..._last work on the latter. Bodies with an n take n values of a row at an index.

#ifndef ISOSLICE_CUDA_HOST_MATH_CUH
#define ISOSLICE_CUDA_HOST_MATH_CUH

extern "C" {
#include "sr_engine/ops.h"
}

#include "cuda/bf16.cuh"

#include <math.h>

// An array stays in registers where the compiler knows every index, and loads run ahead of a sum.
#ifdef __CUDA_ARCH__
#    define UNROLL    _Pragma("unroll")
#    define UNROLL_16 _Pragma("unroll 16")
#else
#    define UNROLL
#    define UNROLL_16
#endif

namespace host_math
{

HOST_DEVICE inline int least(int a, int b)
{
    return a < b ? a : b;
}

HOST_DEVICE inline int most(int a, int b)
{
    return a > b ? a : b;
}

HOST_DEVICE inline int clamp(int i, int n)
{
    return most(0, least(i, n - 1));
}

// ----------------------------------------------------------------------------------------- plain arrays

template <class T, int n> HOST_DEVICE inline lanes<T, n> *lanes_at(T *values, size_t i)
{
    return reinterpret_cast<lanes<T, n> *>(values) + i;
}

template <class T, int n> HOST_DEVICE inline const lanes<T, n> *lanes_at(const T *values, size_t i)
{
    return reinterpret_cast<const lanes<T, n> *>(values) + i;
}

template <class T, int n> struct add_body {
    T *to;
    const T *from;
    HOST_DEVICE void operator()(unsigned i) const
    {
        lanes<T, n> sum = *lanes_at<T, n>(to, i), more = *lanes_at<T, n>(from, i);
        for (int k = 0; k < n; k++)
            sum.at[k] = sum.at[k] + more.at[k];
        *lanes_at<T, n>(to, i) = sum;
    }
};

template <class T> struct fill_body {
    T *to;
    float value;
    HOST_DEVICE void operator()(unsigned i) const
    {
        to[i] = value;
    }
};

template <class T> struct round_body {
    T *to;
    const float *from;
    HOST_DEVICE void operator()(unsigned i) const
    {
        to[i] = from[i];
    }
};

// x [rows,columns] += bias [columns], then with relu the maximum with 0.
template <class T, int n, class Bias = float> struct bias_body {
    T *x;
    const Bias *bias;
    unsigned columns;
    bool relu;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned first = i % (columns / n) * n;
        lanes<T, n> row = *lanes_at<T, n>(x, i);
        for (int k = 0; k < n; k++) {
            float sum = row.at[k] + bias[first + (unsigned)k];
            row.at[k] = relu && sum < 0 ? 0 : sum;
        }
        *lanes_at<T, n>(x, i) = row;
    }
};

// dx is zero where x is not positive.
template <class T, int n> struct mask_body {
    T *dx;
    const T *x;
    HOST_DEVICE void operator()(unsigned i) const
    {
        lanes<T, n> row = *lanes_at<T, n>(dx, i), by = *lanes_at<T, n>(x, i);
        for (int k = 0; k < n; k++)
            if (!(by.at[k] > 0))
                row.at[k] = 0;
        *lanes_at<T, n>(dx, i) = row;
    }
};

// [N,C,plane] to [N,plane,C]; index of the result.
template <class T> struct channels_last_body {
    T *to;
    const float *from;
    unsigned channels, plane;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned c = i % channels, voxel = i / channels;
        to[i] = from[((size_t)(voxel / plane) * channels + c) * plane + voxel % plane];
    }
};

// [N,plane,C] to [N,C,plane]; index of the result.
template <class T> struct channels_first_body {
    float *to;
    const T *from;
    unsigned channels, plane;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned at = i % plane, c = i / plane % channels, n = i / plane / channels;
        to[i] = from[((size_t)n * plane + at) * channels + c];
    }
};

// ----------------------------------------------------------------------------------------- convolution

// The file's kernels [out,in,x,y,z] and the library's [out,in,z,y,x]: the same exchange both ways.
struct turn_kernels_body {
    float *to;
    const float *from;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned tap = i % 27, a = tap / 9, b = tap / 3 % 3, c = tap % 3;
        to[i] = from[i - tap + c * 9 + b * 3 + a];
    }
};

// The same between the file and bf16's [out,z,y,x,in]; index of [out,in,tap] there, and of the result.
HOST_DEVICE inline unsigned turned(unsigned tap)
{
    return tap % 3 * 9 + tap / 3 % 3 * 3 + tap / 9;
}

struct kernels_last_body {
    bf16 *to;
    const float *from;
    unsigned c_in;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned in = i % c_in, tap = i / c_in % 27, out = i / c_in / 27;
        to[i] = from[(out * c_in + in) * 27 + turned(tap)];
    }
};

struct kernels_first_body {
    float *to;
    const bf16 *from;
    unsigned c_in;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned tap = i % 27, in = i / 27 % c_in, out = i / 27 / c_in;
        to[i] = from[(out * 27 + turned(tap)) * c_in + in];
    }
};

// y [N,C,plane] += bias [C], then with relu the maximum with 0.
struct conv_finish_body {
    float *y;
    const float *bias;
    unsigned channels, plane;
    bool relu;
    HOST_DEVICE void operator()(unsigned i) const
    {
        float sum = y[i] + bias[i / plane % channels];
        y[i] = relu && sum < 0 ? 0 : sum;
    }
};

// partial [C,parts]: sums over dy [N,C,plane] in the order of the batch and the plane.
struct channel_part_body {
    double *partial;
    const float *dy;
    unsigned n, channels, plane, parts;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned part = i % parts, c = i / parts;
        double sum = 0;
        for (unsigned k = 0; k < n; k++) {
            const float *from = dy + ((size_t)k * channels + c) * plane;
            for (size_t at = part; at < plane; at += parts)
                sum += (double)from[at];
        }
        partial[i] = sum;
    }
};

// The same over dy [voxels,C]; index [part,C].
struct channel_part_last_body {
    double *partial;
    const bf16 *dy;
    unsigned voxels, channels, parts;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned c = i % channels, part = i / channels;
        double sum = 0;
        UNROLL_16
        for (size_t at = part; at < voxels; at += parts)
            sum += (double)(float)dy[at * channels + c];
        partial[(size_t)c * parts + part] = sum;
    }
};

// A convolution of one channel, too thin for a tensor core: x [N,1,D,H,W] in fp32 to y [voxels,C] with bias,
// weight [C,1,x,y,z] as in the file; with add += the old y, with relu the maximum with 0.
template <int n> struct thin_conv_body {
    bf16 *y;
    const float *x, *weight, *bias;
    struct sr_extent e;
    unsigned channels;
    bool add, relu;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned c = i % (channels / n) * n;
        int voxel = (int)(i / (channels / n));
        int w = voxel % e.w, h = voxel / e.w % e.h, d = voxel / e.w / e.h % e.d;
        float sum[n];
        lanes<bf16, n> row = *lanes_at<bf16, n>(y, i);
        for (int k = 0; k < n; k++)
            sum[k] = bias[c + (unsigned)k] + (add ? (float)row.at[k] : 0.0F);
        for (int tap = 0; tap < 27; tap++) {
            int dw = tap / 9 - 1, dh = tap / 3 % 3 - 1, dd = tap % 3 - 1;
            if (w + dw < 0 || w + dw >= e.w || h + dh < 0 || h + dh >= e.h || d + dd < 0 || d + dd >= e.d)
                continue;
            float at = x[voxel + (dd * e.h + dh) * e.w + dw];
            for (int k = 0; k < n; k++)
                sum[k] += weight[(c + (unsigned)k) * 27 + (unsigned)tap] * at;
        }
        for (int k = 0; k < n; k++)
            row.at[k] = relu && sum[k] < 0 ? 0 : sum[k];
        *lanes_at<bf16, n>(y, i) = row;
    }
};

// Its weight gradient: partial [C * 27,parts] in the order of the file, each over some rows of voxels. Index
// [part,tap,C].
struct thin_part_body {
    double *partial;
    const float *x;
    const bf16 *dy;
    struct sr_extent e;
    unsigned channels, parts;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned c = i % channels, tap = i / channels % 27, part = i / channels / 27;
        int dw = (int)(tap / 9) - 1, dh = (int)(tap / 3 % 3) - 1, dd = (int)(tap % 3) - 1;
        double sum = 0;
        for (unsigned row = part; row < (unsigned)(e.n * e.d * e.h); row += parts) {
            int h = (int)row % e.h + dh, d = (int)row / e.h % e.d + dd;
            if (h < 0 || h >= e.h || d < 0 || d >= e.d)
                continue;
            int from = ((int)row + dd * e.h + dh) * e.w + dw;
            const bf16 *to = dy + (size_t)row * (size_t)e.w * channels + c;
            for (int w = dw < 0 ? 1 : 0; w < (dw > 0 ? e.w - 1 : e.w); w++)
                sum += (double)(x[from + w] * to[(size_t)w * channels]);
        }
        partial[((size_t)c * 27 + tap) * parts + part] = sum;
    }
};

// to [i] = sum of partial [i,parts], times factor. T: double on the way, float at the end.
template <class T> struct sum_parts_body {
    T *to;
    const double *partial;
    unsigned parts;
    double factor;
    HOST_DEVICE void operator()(unsigned i) const
    {
        double sum = 0;
        UNROLL_16
        for (unsigned k = 0; k < parts; k++)
            sum += partial[(size_t)i * parts + k];
        to[i] = (T)(sum * factor);
    }
};

// ----------------------------------------------------------------------------------------- decoding

// Queries first .. first + count - 1 of the planes' windows, in the order plane, row, column.
struct queries {
    const float *planes; // [n_planes,SR_PLANE_FLOATS]
    struct sr_extent e;  // of the features
    struct sr_window window;
    int channels, dilation;
    int first, count;
};

struct place {
    int n, slice[2], row, column;
    float t;
};

HOST_DEVICE inline place place_of(const queries &all, int query)
{
    int area = all.window.rows * all.window.columns, at = all.first + query;
    const float *plane = all.planes + (size_t)(at / area) * SR_PLANE_FLOATS;
    place p;
    p.n = (int)plane[SR_PLANE_STACK];
    p.slice[0] = (int)plane[SR_PLANE_SLICE];
    p.slice[1] = clamp(p.slice[0] + 1, all.e.d);
    p.t = plane[SR_PLANE_T];
    p.row = all.window.row + at % area / all.window.columns;
    p.column = all.window.column + at % area % all.window.columns;
    return p;
}

HOST_DEVICE inline size_t voxel_of(const struct sr_extent &e, int n, int d, int h, int w)
{
    return (((size_t)n * (size_t)e.d + (size_t)d) * (size_t)e.h + (size_t)h) * (size_t)e.w + (size_t)w;
}

// Neighbour m of the attention window: slice, row, column; each index clamped to the volume.
HOST_DEVICE inline size_t neighbour_of(const queries &all, const place &p, int m)
{
    int s = m / (NET_WINDOW * NET_WINDOW), i = m / NET_WINDOW % NET_WINDOW, j = m % NET_WINDOW;
    return voxel_of(all.e, p.n, p.slice[s], clamp(p.row + (i - NET_WINDOW / 2) * all.dilation, all.e.h),
                    clamp(p.column + (j - NET_WINDOW / 2) * all.dilation, all.e.w));
}

struct span {
    int low, high; // both inside
};

// The inverse of the clamping: those of first .. first + count - 1 whose neighbour at `offset`, clamped to 0
// .. size - 1, is `at`.
HOST_DEVICE inline span sources_of(int at, int size, int offset, int first, int count)
{
    span s = {at - offset, at - offset};
    if (at == 0)
        s.low = first;
    if (at == size - 1)
        s.high = first + count - 1;
    s.low = most(s.low, first);
    s.high = least(s.high, first + count - 1);
    return s;
}

// z [count,C]: features between the two slices.
template <class T, int n> struct interpolate_body {
    queries all;
    const T *features; // [voxels,C]
    T *z;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned groups = (unsigned)all.channels / n, group = i % groups;
        place p = place_of(all, (int)(i / groups));
        size_t a = voxel_of(all.e, p.n, p.slice[0], p.row, p.column),
               b = voxel_of(all.e, p.n, p.slice[1], p.row, p.column);
        lanes<T, n> low = *lanes_at<T, n>(features, a * groups + group),
                    high = *lanes_at<T, n>(features, b * groups + group);
        for (int k = 0; k < n; k++)
            low.at[k] = (1 - p.t) * low.at[k] + p.t * high.at[k];
        *lanes_at<T, n>(z, i) = low;
    }
};

// score [98,count]: x [count,C] times each neighbour's feature.
struct score_body {
    queries all;
    const float *features, *x;
    float *score;
    HOST_DEVICE void operator()(unsigned i) const
    {
        int query = (int)i % all.count, m = (int)i / all.count;
        place p = place_of(all, query);
        const float *f = features + neighbour_of(all, p, m) * (size_t)all.channels;
        const float *row = x + (size_t)query * (size_t)all.channels;
        float sum = 0;
        for (int c = 0; c < all.channels; c++)
            sum += row[c] * f[c];
        score[i] = sum;
    }
};

// In place over the columns of [98,count]; index of the column.
struct softmax_body {
    float *score;
    unsigned count;
    HOST_DEVICE void operator()(unsigned i) const
    {
        const size_t end = (size_t)NET_WINDOW_SIZE * count;
        float top = score[i], total = 0;
        for (size_t m = i; m < end; m += count)
            top = score[m] > top ? score[m] : top;
        for (size_t m = i; m < end; m += count) {
            score[m] = expf(score[m] - top);
            total += score[m];
        }
        for (size_t m = i; m < end; m += count)
            score[m] /= total;
    }
};

// da becomes ds = a (da - sum a da); index of the column.
struct softmax_back_body {
    const float *a;
    float *da;
    unsigned count;
    HOST_DEVICE void operator()(unsigned i) const
    {
        const size_t end = (size_t)NET_WINDOW_SIZE * count;
        float mean = 0;
        for (size_t m = i; m < end; m += count)
            mean += a[m] * da[m];
        for (size_t m = i; m < end; m += count)
            da[m] = a[m] * (da[m] - mean);
    }
};

// out [count,C]: the neighbours' features, weighted.
struct weigh_body {
    queries all;
    const float *features, *weight;
    float *out;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned channels = (unsigned)all.channels, query = i / channels, c = i % channels;
        place p = place_of(all, (int)query);
        float sum = 0;
        for (int m = 0; m < NET_WINDOW_SIZE; m++)
            sum += weight[(size_t)m * (size_t)all.count + query] *
                   features[neighbour_of(all, p, m) * channels + c];
        out[i] = sum;
    }
};

// y [all queries] = residual [count] + bias, plus the stack's linear interpolation where there is a stack.
struct decode_finish_body {
    queries all;
    const float *residual, *bias, *stack; // stack [voxels] or NULL
    float *y;
    HOST_DEVICE void operator()(unsigned i) const
    {
        float sum = residual[i] + bias[0];
        if (stack != NULL) {
            place p = place_of(all, (int)i);
            sum += (1 - p.t) * stack[voxel_of(all.e, p.n, p.slice[0], p.row, p.column)] +
                   p.t * stack[voxel_of(all.e, p.n, p.slice[1], p.row, p.column)];
        }
        y[(size_t)all.first + i] = sum;
    }
};

// dfeatures [voxels,C] += what these queries hand back to one voxel and channel: through the slice
// interpolation (dz), the attention's sum (a, dcontext) and its scores (ds, key). Gathered: each voxel looks
// for the queries whose window, clamped, holds it.
// n channels at a time; index [voxel,C / n].
template <class T, int n> struct gather_body {
    queries all;
    const T *dz;
    const float *a;
    const T *dcontext;
    const float *ds;
    const T *key;
    float *dfeatures;

    HOST_DEVICE static lanes<T, n> row(const T *from, int query, unsigned group, unsigned groups)
    {
        return *lanes_at<T, n>(from, (size_t)query * groups + group);
    }

    HOST_DEVICE void add_query(int query, int m, unsigned group, float sum[n]) const
    {
        unsigned groups = (unsigned)all.channels / n;
        size_t at = (size_t)m * (size_t)all.count + (size_t)query;
        lanes<T, n> by_weight = row(dcontext, query, group, groups),
                    by_score = row(key, query, group, groups);
        for (int k = 0; k < n; k++)
            sum[k] += a[at] * by_weight.at[k] + ds[at] * by_score.at[k];
    }

    HOST_DEVICE void add_window(int plane, int slot, int h, int w, unsigned group, float sum[n]) const
    {
        int area = all.window.rows * all.window.columns;
        for (int i = 0; i < NET_WINDOW; i++) {
            span rows =
                sources_of(h, all.e.h, (i - NET_WINDOW / 2) * all.dilation, all.window.row, all.window.rows);
            for (int row = rows.low; row <= rows.high; row++)
                for (int j = 0; j < NET_WINDOW; j++) {
                    span columns = sources_of(w, all.e.w, (j - NET_WINDOW / 2) * all.dilation,
                                              all.window.column, all.window.columns);
                    for (int column = columns.low; column <= columns.high; column++) {
                        int query = plane * area + (row - all.window.row) * all.window.columns + column -
                                    all.window.column - all.first;
                        if (query >= 0 && query < all.count)
                            add_query(query, (slot * NET_WINDOW + i) * NET_WINDOW + j, group, sum);
                    }
                }
        }
    }

    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned groups = (unsigned)all.channels / n, group = i % groups;
        int voxel = (int)(i / groups), w = voxel % all.e.w, h = voxel / all.e.w % all.e.h;
        int d = voxel / all.e.w / all.e.h % all.e.d, stack = voxel / all.e.w / all.e.h / all.e.d;
        int area = all.window.rows * all.window.columns;
        int h_in = h - all.window.row, w_in = w - all.window.column;
        bool inside = h_in >= 0 && h_in < all.window.rows && w_in >= 0 && w_in < all.window.columns;
        float sum[n] = {};
        for (int plane = all.first / area; plane <= (all.first + all.count - 1) / area; plane++) {
            const float *at = all.planes + (size_t)plane * SR_PLANE_FLOATS;
            int slice[2] = {(int)at[SR_PLANE_SLICE], clamp((int)at[SR_PLANE_SLICE] + 1, all.e.d)};
            if ((int)at[SR_PLANE_STACK] != stack)
                continue;
            int query = plane * area + h_in * all.window.columns + w_in - all.first;
            for (int slot = 0; slot < 2; slot++) {
                if (slice[slot] != d)
                    continue;
                add_window(plane, slot, h, w, group, sum);
                if (!inside || query < 0 || query >= all.count)
                    continue;
                lanes<T, n> direct = row(dz, query, group, groups);
                float share = slot == 0 ? 1 - at[SR_PLANE_T] : at[SR_PLANE_T];
                for (int k = 0; k < n; k++)
                    sum[k] += share * direct.at[k];
            }
        }
        for (int k = 0; k < n; k++)
            dfeatures[(size_t)i * n + (unsigned)k] += sum[k];
    }
};

// ----------------------------------------------------------------------------------------- training

// dy = sign(y - target) / count; partial [parts]: sums of |y - target|.
struct loss_body {
    const float *y, *target;
    float *dy;
    double *partial;
    size_t count;
    unsigned parts;
    HOST_DEVICE void operator()(unsigned i) const
    {
        double sum = 0;
        float step = 1.0F / (float)count;
        for (size_t k = i; k < count; k += parts) {
            float off = y[k] - target[k];
            sum += (double)fabsf(off);
            dy[k] = off > 0 ? step : off < 0 ? -step : 0;
        }
        partial[i] = sum;
    }
};

struct adam_body {
    const float *gradients;
    float *moment1, *moment2, *parameters;
    float beta1, rest1, beta2, rest2; // rest: 1 - beta
    float rate, root2, epsilon;       // rate / (1 - beta1^step), sqrt(1 - beta2^step)
    HOST_DEVICE void operator()(unsigned i) const
    {
        float g = gradients[i];
        float m = beta1 * moment1[i] + rest1 * g, v = beta2 * moment2[i] + rest2 * g * g;
        moment1[i] = m;
        moment2[i] = v;
        parameters[i] -= rate * m / (sqrtf(v) / root2 + epsilon);
    }
};

template <class T> struct average_body {
    T *to;
    const T *from;
    float keep;
    HOST_DEVICE void operator()(unsigned i) const
    {
        to[i] = keep * to[i] + (1 - keep) * from[i];
    }
};

// One sample of a batch, at place `index` of it; see struct sr_cut.
struct cut_view {
    const float *volume;
    struct sr_extent size; // of the volume
    struct sr_cut cut;
    int index, n_targets;
    struct sr_extent e; // of the stacks
};

HOST_DEVICE inline float volume_at(const cut_view &view, int along, int h, int w)
{
    const struct sr_cut &cut = view.cut;
    int row = cut.row + (cut.flip_rows ? view.e.h - 1 - h : h);
    int column = cut.column + (cut.flip_columns ? view.e.w - 1 - w : w);
    int z = cut.axis == 0 ? along : row, y = cut.axis == 0 ? row : cut.axis == 1 ? along : column;
    return view.volume[voxel_of(view.size, 0, z, y, cut.axis == 2 ? along : column)];
}

// The sample's stack; index [d,h,w].
struct cut_stack_body {
    cut_view view;
    float *stack;
    float slope; // -1 / (2 sigma^2), per squared voxel
    int reach;   // taps on each side; 0: no profile
    HOST_DEVICE void operator()(unsigned i) const
    {
        int w = (int)i % view.e.w, h = (int)i / view.e.w % view.e.h, d = (int)i / view.e.w / view.e.h;
        int slice = view.cut.flip_slices ? view.e.d - 1 - d : d, axis = view.cut.axis;
        int centre = view.cut.first + slice * view.cut.factor;
        int length = axis == 0 ? view.size.d : axis == 1 ? view.size.h : view.size.w;
        float sum = 0, total = 0;
        for (int k = most(0, centre - reach); k <= least(length - 1, centre + reach); k++) {
            float weight = expf(slope * (float)((k - centre) * (k - centre)));
            sum += weight * volume_at(view, k, h, w);
            total += weight;
        }
        stack[voxel_of(view.e, view.index, d, h, w)] = sum / total;
    }
};

// The sample's planes and targets; index [gap,target,h,w].
struct cut_target_body {
    cut_view view;
    float *planes, *target;
    HOST_DEVICE void operator()(unsigned i) const
    {
        const struct sr_cut &cut = view.cut;
        int area = view.e.h * view.e.w, w = (int)i % view.e.w, h = (int)i / view.e.w % view.e.h;
        int k = (int)i / area % view.n_targets, gap = (int)i / area / view.n_targets;
        int n_gaps = view.e.d - 1, from = cut.flip_slices ? n_gaps - 1 - gap : gap;
        int at = cut.position[from][k], plane = (view.index * n_gaps + gap) * view.n_targets + k;
        target[(size_t)plane * (size_t)area + i % (unsigned)area] =
            volume_at(view, cut.first + from * cut.factor + at, h, w);
        if (i % (unsigned)area != 0)
            return;
        float *p = planes + (size_t)plane * SR_PLANE_FLOATS;
        p[SR_PLANE_STACK] = (float)view.index;
        p[SR_PLANE_SLICE] = (float)gap;
        p[SR_PLANE_T] = (float)(cut.flip_slices ? cut.factor - at : at) / (float)cut.factor;
    }
};

} // namespace host_math

#endif
