// SPDX-License-Identifier: Apache-2.0
//
// What one index of every kernel computes, as functions of host and device: index arithmetic, borders, sums.
// A body is a struct with its operands and operator()(i); queue_run() calls it for all i. The same bodies run
// on the host in the tests (queue_host.cu), against the reference. Every body writes only what belongs to its
// index, so no atomics are needed and the sums have a fixed order.

#ifndef ISOSLICE_CUDA_HOST_MATH_CUH
#define ISOSLICE_CUDA_HOST_MATH_CUH

extern "C" {
#include "sr_engine/ops.h"
}

#include <math.h>

#ifdef __CUDACC__
#    define HOST_DEVICE __host__ __device__
#else
#    define HOST_DEVICE
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

struct add_body {
    float *to;
    const float *from;
    HOST_DEVICE void operator()(unsigned i) const
    {
        to[i] += from[i];
    }
};

struct fill_body {
    float *to;
    float value;
    HOST_DEVICE void operator()(unsigned i) const
    {
        to[i] = value;
    }
};

// x [rows,n] += bias [n], then with relu the maximum with 0.
struct bias_body {
    float *x;
    const float *bias;
    unsigned n;
    bool relu;
    HOST_DEVICE void operator()(unsigned i) const
    {
        float sum = x[i] + bias[i % n];
        x[i] = relu && sum < 0 ? 0 : sum;
    }
};

// dx is zero where x is not positive.
struct mask_body {
    float *dx;
    const float *x;
    HOST_DEVICE void operator()(unsigned i) const
    {
        if (!(x[i] > 0))
            dx[i] = 0;
    }
};

// [N,C,plane] to [N,plane,C]; index of the result.
struct channels_last_body {
    float *to;
    const float *from;
    unsigned channels, plane;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned c = i % channels, voxel = i / channels;
        to[i] = from[((size_t)(voxel / plane) * channels + c) * plane + voxel % plane];
    }
};

// [N,plane,C] to [N,C,plane]; index of the result.
struct channels_first_body {
    float *to;
    const float *from;
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

// to [i] = sum of partial [i,parts], times factor.
struct sum_parts_body {
    float *to;
    const double *partial;
    unsigned parts;
    double factor;
    HOST_DEVICE void operator()(unsigned i) const
    {
        double sum = 0;
        for (unsigned k = 0; k < parts; k++)
            sum += partial[(size_t)i * parts + k];
        to[i] = (float)(sum * factor);
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
struct interpolate_body {
    queries all;
    const float *features; // [voxels,C]
    float *z;
    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned channels = (unsigned)all.channels, c = i % channels;
        place p = place_of(all, (int)(i / channels));
        size_t a = voxel_of(all.e, p.n, p.slice[0], p.row, p.column),
               b = voxel_of(all.e, p.n, p.slice[1], p.row, p.column);
        z[i] = (1 - p.t) * features[a * channels + c] + p.t * features[b * channels + c];
    }
};

// score [count,98]: x [count,C] times each neighbour's feature.
struct score_body {
    queries all;
    const float *features, *x;
    float *score;
    HOST_DEVICE void operator()(unsigned i) const
    {
        int query = (int)(i / NET_WINDOW_SIZE), m = (int)(i % NET_WINDOW_SIZE);
        place p = place_of(all, query);
        const float *f = features + neighbour_of(all, p, m) * (size_t)all.channels;
        const float *row = x + (size_t)query * (size_t)all.channels;
        float sum = 0;
        for (int c = 0; c < all.channels; c++)
            sum += row[c] * f[c];
        score[i] = sum;
    }
};

// In place over rows of 98; index of the row.
struct softmax_body {
    float *score;
    HOST_DEVICE void operator()(unsigned i) const
    {
        float *row = score + (size_t)i * NET_WINDOW_SIZE, top = row[0], total = 0;
        for (int m = 1; m < NET_WINDOW_SIZE; m++)
            top = row[m] > top ? row[m] : top;
        for (int m = 0; m < NET_WINDOW_SIZE; m++) {
            row[m] = expf(row[m] - top);
            total += row[m];
        }
        for (int m = 0; m < NET_WINDOW_SIZE; m++)
            row[m] /= total;
    }
};

// da becomes ds = a (da - sum a da); index of the row.
struct softmax_back_body {
    const float *a;
    float *da;
    HOST_DEVICE void operator()(unsigned i) const
    {
        const float *weight = a + (size_t)i * NET_WINDOW_SIZE;
        float *row = da + (size_t)i * NET_WINDOW_SIZE;
        float mean = 0;
        for (int m = 0; m < NET_WINDOW_SIZE; m++)
            mean += weight[m] * row[m];
        for (int m = 0; m < NET_WINDOW_SIZE; m++)
            row[m] = weight[m] * (row[m] - mean);
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
        const float *w = weight + (size_t)query * NET_WINDOW_SIZE;
        float sum = 0;
        for (int m = 0; m < NET_WINDOW_SIZE; m++)
            sum += w[m] * features[neighbour_of(all, p, m) * channels + c];
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
struct gather_body {
    queries all;
    const float *dz, *a, *dcontext, *ds, *key;
    float *dfeatures;

    HOST_DEVICE float window_sum(int plane, int slot, int h, int w, unsigned c) const
    {
        int area = all.window.rows * all.window.columns;
        float sum = 0;
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
                        if (query < 0 || query >= all.count)
                            continue;
                        size_t m = (size_t)query * NET_WINDOW_SIZE +
                                   (size_t)((slot * NET_WINDOW + i) * NET_WINDOW + j);
                        size_t at = (size_t)query * (size_t)all.channels + c;
                        sum += a[m] * dcontext[at] + ds[m] * key[at];
                    }
                }
        }
        return sum;
    }

    HOST_DEVICE void operator()(unsigned i) const
    {
        unsigned channels = (unsigned)all.channels, c = i % channels;
        int voxel = (int)(i / channels), w = voxel % all.e.w, h = voxel / all.e.w % all.e.h;
        int d = voxel / all.e.w / all.e.h % all.e.d, n = voxel / all.e.w / all.e.h / all.e.d;
        int area = all.window.rows * all.window.columns;
        int row = h - all.window.row, column = w - all.window.column;
        bool inside = row >= 0 && row < all.window.rows && column >= 0 && column < all.window.columns;
        float sum = 0;
        for (int plane = all.first / area; plane <= (all.first + all.count - 1) / area; plane++) {
            const float *at = all.planes + (size_t)plane * SR_PLANE_FLOATS;
            int slice[2] = {(int)at[SR_PLANE_SLICE], clamp((int)at[SR_PLANE_SLICE] + 1, all.e.d)};
            if ((int)at[SR_PLANE_STACK] != n)
                continue;
            int query = plane * area + row * all.window.columns + column - all.first;
            for (int slot = 0; slot < 2; slot++) {
                if (slice[slot] != d)
                    continue;
                sum += window_sum(plane, slot, h, w, c);
                if (inside && query >= 0 && query < all.count)
                    sum +=
                        (slot == 0 ? 1 - at[SR_PLANE_T] : at[SR_PLANE_T]) * dz[(size_t)query * channels + c];
            }
        }
        dfeatures[i] += sum;
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

struct average_body {
    float *to;
    const float *from;
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
