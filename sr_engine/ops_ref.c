// SPDX-License-Identifier: Apache-2.0
//
// The reference backend: every operation as its formula reads, in the plainest loops, sums in double. The
// definition of truth for all others; used for real work only where nothing better is built. Compiled twice:
// with REF_REAL float as "ref", with double for finite differences.
#include "sr_engine/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef REF_DOUBLE
typedef double real;
#else
typedef float real;
#endif

struct sr_device {
    struct net net;
    const real *parameters; // borrowed from the buffer given to prepare
};

struct sr_buffer {
    struct sr_extent extent;
    int channels;
    size_t count;
    real *data; // [N,C,D,H,W]
};

static int no_memory(struct fault_note *why)
{
    fault_set(why, FAULT_NO_MEMORY, "no memory for the reference backend");
    return FAULT_NO_MEMORY;
}

static int clamp(int i, int n)
{
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

static int ref_usable(struct fault_note *why)
{
    (void)why;
    return 1;
}

static int ref_open(const struct net *net, int threads, struct sr_device **device, struct fault_note *why)
{
    (void)threads;
    struct sr_device *made = calloc(1, sizeof *made);
    if (made == NULL)
        return no_memory(why);
    made->net = *net;
    *device = made;
    return 0;
}

static void ref_close(struct sr_device *device)
{
    free(device);
}

static const char *ref_describe(const struct sr_device *device)
{
    (void)device;
    return sizeof(real) == sizeof(double) ? "ref (plain loops, double precision)" : "ref (plain loops)";
}

static int ref_buffer_new(struct sr_device *device, struct sr_extent extent, int channels,
                          struct sr_buffer **buffer, struct fault_note *why)
{
    (void)device;
    struct sr_buffer *made = calloc(1, sizeof *made);
    if (made == NULL)
        return no_memory(why);
    made->extent = extent;
    made->channels = channels;
    made->count =
        (size_t)extent.n * (size_t)channels * (size_t)extent.d * (size_t)extent.h * (size_t)extent.w;
    made->data = calloc(made->count ? made->count : 1, sizeof(real));
    if (made->data == NULL) {
        free(made);
        return no_memory(why);
    }
    *buffer = made;
    return 0;
}

static void ref_buffer_free(struct sr_device *device, struct sr_buffer *buffer)
{
    (void)device;
    if (buffer != NULL)
        free(buffer->data);
    free(buffer);
}

static size_t ref_scratch_bytes(const struct sr_device *device, struct sr_extent encode, size_t n_queries,
                                int keep)
{
    (void)keep;
    size_t voxels = (size_t)encode.n * (size_t)encode.d * (size_t)encode.h * (size_t)encode.w;
    return (4 * voxels * (size_t)device->net.config.channels + 0 * n_queries) * sizeof(real);
}

static int ref_upload(struct sr_device *device, struct sr_buffer *to, const float *from,
                      struct fault_note *why)
{
    (void)device, (void)why;
    for (size_t i = 0; i < to->count; i++)
        to->data[i] = (real)from[i];
    return 0;
}

static int ref_download(struct sr_device *device, const struct sr_buffer *from, float *to,
                        struct fault_note *why)
{
    (void)device, (void)why;
    for (size_t i = 0; i < from->count; i++)
        to[i] = (float)from->data[i];
    return 0;
}

static int ref_nothing(struct sr_device *device, struct fault_note *why)
{
    (void)device, (void)why;
    return 0;
}

static int ref_zero(struct sr_device *device, struct sr_buffer *to, struct fault_note *why)
{
    (void)device, (void)why;
    memset(to->data, 0, to->count * sizeof(real));
    return 0;
}

static int ref_copy(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                    struct fault_note *why)
{
    (void)device, (void)why;
    memcpy(to->data, from->data, to->count * sizeof(real));
    return 0;
}

static int ref_add(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                   struct fault_note *why)
{
    (void)device, (void)why;
    for (size_t i = 0; i < to->count; i++)
        to->data[i] += from->data[i];
    return 0;
}

static int ref_prepare(struct sr_device *device, const struct sr_buffer *parameters, struct fault_note *why)
{
    (void)why;
    device->parameters = parameters->data;
    return 0;
}

// --------------------------------------------------------------------------------------------- convolution

static size_t voxel(struct sr_extent e, int channels, int n, int c, int d, int h, int w)
{
    return ((((size_t)n * (size_t)channels + (size_t)c) * (size_t)e.d + (size_t)d) * (size_t)e.h +
            (size_t)h) *
               (size_t)e.w +
           (size_t)w;
}

// Kernel taps as the file orders them: [out,in,x,y,z] with x along columns, y along rows, z along slices.
static size_t tap(const struct net_conv *conv, int out, int in, int x, int y, int z)
{
    return conv->weight +
           ((((size_t)out * (size_t)conv->c_in + (size_t)in) * 3 + (size_t)x) * 3 + (size_t)y) * 3 +
           (size_t)z;
}

static size_t plane_of(struct sr_extent e)
{
    return (size_t)e.d * (size_t)e.h * (size_t)e.w;
}

static double conv_at(const struct net_conv *conv, const real *p, const struct sr_buffer *x, int n, int out,
                      int d, int h, int w)
{
    struct sr_extent e = x->extent;
    double sum = (double)p[conv->bias + (size_t)out];
    for (int kd = 0; kd < 3; kd++)
        for (int kh = 0; kh < 3; kh++)
            for (int kw = 0; kw < 3; kw++) {
                int sd = d + kd - 1, sh = h + kh - 1, sw = w + kw - 1;
                if (sd < 0 || sd >= e.d || sh < 0 || sh >= e.h || sw < 0 || sw >= e.w)
                    continue;
                const real *weight = p + tap(conv, out, 0, kw, kh, kd);
                const real *value = x->data + voxel(e, conv->c_in, n, 0, sd, sh, sw);
                for (int in = 0; in < conv->c_in; in++)
                    sum += (double)weight[(size_t)in * 27] * (double)value[(size_t)in * plane_of(e)];
            }
    return sum;
}

static int ref_conv_forward(struct sr_device *device, int index, const struct sr_buffer *x, unsigned flags,
                            struct sr_buffer *y, struct fault_note *why)
{
    (void)why;
    const struct net_conv *conv = &device->net.convs[index];
    struct sr_extent e = x->extent;
    for (int n = 0; n < e.n; n++)
        for (int out = 0; out < conv->c_out; out++)
            for (int d = 0; d < e.d; d++)
                for (int h = 0; h < e.h; h++)
                    for (int w = 0; w < e.w; w++) {
                        real *to = &y->data[voxel(e, conv->c_out, n, out, d, h, w)];
                        double sum = conv_at(conv, device->parameters, x, n, out, d, h, w);
                        if (flags & SR_CONV_ADD)
                            sum += (double)*to;
                        *to = (real)(flags & SR_CONV_RELU && sum < 0 ? 0 : sum);
                    }
    return 0;
}

static double conv_back_at(const struct net_conv *conv, const real *p, const struct sr_buffer *dy, int n,
                           int in, int d, int h, int w)
{
    struct sr_extent e = dy->extent;
    double sum = 0;
    for (int kd = 0; kd < 3; kd++)
        for (int kh = 0; kh < 3; kh++)
            for (int kw = 0; kw < 3; kw++) {
                int td = d - kd + 1, th = h - kh + 1, tw = w - kw + 1;
                if (td < 0 || td >= e.d || th < 0 || th >= e.h || tw < 0 || tw >= e.w)
                    continue;
                const real *weight = p + tap(conv, 0, in, kw, kh, kd);
                const real *value = dy->data + voxel(e, conv->c_out, n, 0, td, th, tw);
                for (int out = 0; out < conv->c_out; out++)
                    sum += (double)weight[(size_t)out * (size_t)conv->c_in * 27] *
                           (double)value[(size_t)out * plane_of(e)];
            }
    return sum;
}

static double tap_gradient(const struct net_conv *conv, const struct sr_buffer *x, const struct sr_buffer *dy,
                           int out, int in, int kd, int kh, int kw)
{
    struct sr_extent e = x->extent;
    int left = kw == 0, right = kw == 2; // columns whose neighbour lies outside
    double sum = 0;
    for (int n = 0; n < e.n; n++)
        for (int d = 0; d < e.d; d++)
            for (int h = 0; h < e.h; h++) {
                int sd = d + kd - 1, sh = h + kh - 1;
                if (sd < 0 || sd >= e.d || sh < 0 || sh >= e.h)
                    continue;
                const real *g = dy->data + voxel(e, conv->c_out, n, out, d, h, 0);
                const real *value = x->data + voxel(e, conv->c_in, n, in, sd, sh, 0);
                for (int w = left; w < e.w - right; w++)
                    sum += (double)g[w] * (double)value[w + kw - 1];
            }
    return sum;
}

static int ref_conv_backward(struct sr_device *device, int index, const struct sr_buffer *x,
                             const struct sr_buffer *dy, unsigned flags, struct sr_buffer *dx,
                             struct sr_buffer *gradients, struct fault_note *why)
{
    (void)why;
    const struct net_conv *conv = &device->net.convs[index];
    struct sr_extent e = x->extent;
    for (int out = 0; out < conv->c_out; out++) {
        double bias = 0;
        for (int n = 0; n < e.n; n++)
            for (int d = 0; d < e.d; d++)
                for (int h = 0; h < e.h; h++)
                    for (int w = 0; w < e.w; w++)
                        bias += (double)dy->data[voxel(e, conv->c_out, n, out, d, h, w)];
        gradients->data[conv->bias + (size_t)out] = (real)bias;
        for (int in = 0; in < conv->c_in; in++)
            for (int kd = 0; kd < 3; kd++)
                for (int kh = 0; kh < 3; kh++)
                    for (int kw = 0; kw < 3; kw++)
                        gradients->data[tap(conv, out, in, kw, kh, kd)] =
                            (real)tap_gradient(conv, x, dy, out, in, kd, kh, kw);
    }
    for (int n = 0; dx != NULL && n < e.n; n++)
        for (int in = 0; in < conv->c_in; in++)
            for (int d = 0; d < e.d; d++)
                for (int h = 0; h < e.h; h++)
                    for (int w = 0; w < e.w; w++) {
                        size_t at = voxel(e, conv->c_in, n, in, d, h, w);
                        double sum = conv_back_at(conv, device->parameters, dy, n, in, d, h, w);
                        if (flags & SR_CONV_ADD)
                            sum += (double)dx->data[at];
                        dx->data[at] = (real)(flags & SR_CONV_MASK_X && !(x->data[at] > 0) ? 0 : sum);
                    }
    return 0;
}

// --------------------------------------------------------------------------------------------- decoding

// y = W x + b for one point.
static void linear_forward(const struct net_linear *linear, const real *p, const real *x, real *y)
{
    for (int out = 0; out < linear->n_out; out++) {
        double sum = (double)p[linear->bias + (size_t)out];
        for (int in = 0; in < linear->n_in; in++)
            sum +=
                (double)p[linear->weight + (size_t)out * (size_t)linear->n_in + (size_t)in] * (double)x[in];
        y[out] = (real)sum;
    }
}

// dW += dy x^T, db += dy, dx = W^T dy (dx may be NULL).
static void linear_backward(const struct net_linear *linear, const real *p, const real *x, const real *dy,
                            real *g, real *dx)
{
    for (int out = 0; out < linear->n_out; out++) {
        g[linear->bias + (size_t)out] += dy[out];
        for (int in = 0; in < linear->n_in; in++)
            g[linear->weight + (size_t)out * (size_t)linear->n_in + (size_t)in] += dy[out] * x[in];
    }
    for (int in = 0; dx != NULL && in < linear->n_in; in++) {
        double sum = 0;
        for (int out = 0; out < linear->n_out; out++)
            sum +=
                (double)p[linear->weight + (size_t)out * (size_t)linear->n_in + (size_t)in] * (double)dy[out];
        dx[in] = (real)sum;
    }
}

// Everything that one query computes on its way; rows of [channels] or [hidden].
struct query {
    int n, slice[2], row, column;
    real t;
    real *z, *q, *g;                      // interpolated feature, query, after attention
    real *hidden[NET_MAX_LINEARS];        // outputs of the decoder's layers
    real weight[NET_WINDOW_SIZE];         // attention
    int from[NET_WINDOW_SIZE];            // index of each neighbour's voxel, channel 0 being its place
    real *dz, *dq, *dg, *dv, *dhidden[2]; // gradients, scratch
    real *memory;
};

static int query_init(struct query *query, const struct net *net)
{
    size_t c = (size_t)net->config.channels, hidden = (size_t)net->config.hidden,
           widest = hidden > c ? hidden : c;
    size_t count = 7 * c + (NET_MAX_LINEARS + 2) * widest;
    memset(query, 0, sizeof *query);
    query->memory = calloc(count, sizeof(real));
    if (query->memory == NULL)
        return 0;
    real *at = query->memory;
    real **rows[] = {&query->z, &query->q, &query->g, &query->dz, &query->dq, &query->dg, &query->dv};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++, at += c)
        *rows[i] = at;
    for (int i = 0; i < NET_MAX_LINEARS; i++, at += widest)
        query->hidden[i] = at;
    for (int i = 0; i < 2; i++, at += widest)
        query->dhidden[i] = at;
    return 1;
}

// Keys and values of every voxel, point-wise: out [voxels,channels].
static void project(const struct net *net, const struct net_linear *linear, const real *p,
                    const struct sr_buffer *features, real *out)
{
    struct sr_extent e = features->extent;
    size_t c = (size_t)net->config.channels, plane = (size_t)e.d * (size_t)e.h * (size_t)e.w;
    for (size_t i = 0; i < (size_t)e.n * plane; i++)
        for (size_t o = 0; o < c; o++) {
            double sum = (double)p[linear->bias + o];
            for (size_t k = 0; k < c; k++)
                sum += (double)p[linear->weight + o * c + k] *
                       (double)features->data[(i / plane * c + k) * plane + i % plane];
            out[i * c + o] = (real)sum;
        }
}

static void query_place(struct query *query, const struct sr_buffer *planes, struct sr_extent e, int dilation,
                        int plane, int row, int column)
{
    const real *p = planes->data + (size_t)plane * SR_PLANE_FLOATS;
    query->n = (int)p[SR_PLANE_STACK];
    query->slice[0] = (int)p[SR_PLANE_SLICE];
    query->slice[1] = clamp(query->slice[0] + 1, e.d);
    query->t = p[SR_PLANE_T];
    query->row = row;
    query->column = column;
    int m = 0;
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < NET_WINDOW; i++)
            for (int j = 0; j < NET_WINDOW; j++)
                query->from[m++] = ((query->n * e.d + query->slice[s]) * e.h +
                                    clamp(row + (i - NET_WINDOW / 2) * dilation, e.h)) *
                                       e.w +
                                   clamp(column + (j - NET_WINDOW / 2) * dilation, e.w);
}

static double query_forward(struct query *query, const struct net *net, const real *p,
                            const struct sr_buffer *features, const real *keys, const real *values)
{
    struct sr_extent e = features->extent;
    int c = net->config.channels;
    double score[NET_WINDOW_SIZE], most = -HUGE_VAL, total = 0;
    for (int k = 0; k < c; k++)
        query->z[k] =
            (1 - query->t) *
                features->data[voxel(e, c, query->n, k, query->slice[0], query->row, query->column)] +
            query->t * features->data[voxel(e, c, query->n, k, query->slice[1], query->row, query->column)];
    linear_forward(&net->query, p, query->z, query->q);
    for (int m = 0; m < NET_WINDOW_SIZE; m++) {
        const real *key = keys + (size_t)query->from[m] * (size_t)c;
        score[m] = 0;
        for (int k = 0; k < c; k++)
            score[m] += (double)query->q[k] * (double)key[k];
        most = score[m] > most ? score[m] : most;
    }
    for (int m = 0; m < NET_WINDOW_SIZE; m++)
        total += score[m] = exp(score[m] - most);
    for (int m = 0; m < NET_WINDOW_SIZE; m++)
        query->weight[m] = (real)(score[m] / total);
    for (int k = 0; k < c; k++) {
        double sum = (double)query->z[k];
        for (int m = 0; m < NET_WINDOW_SIZE; m++)
            sum += (double)query->weight[m] * (double)values[(size_t)query->from[m] * (size_t)c + (size_t)k];
        query->g[k] = (real)sum;
    }
    const real *x = query->g;
    for (int i = 0; i < net->n_linears; i++) {
        linear_forward(&net->linears[i], p, x, query->hidden[i]);
        for (int k = 0; i + 1 < net->n_linears && k < net->linears[i].n_out; k++)
            query->hidden[i][k] = query->hidden[i][k] > 0 ? query->hidden[i][k] : 0;
        x = query->hidden[i];
    }
    return (double)x[0];
}

static int ref_decode_forward(struct sr_device *device, const struct sr_buffer *features,
                              const struct sr_buffer *stack, const struct sr_buffer *planes,
                              struct sr_window window, int keep, struct sr_buffer *y, struct fault_note *why)
{
    (void)keep;
    const struct net *net = &device->net;
    struct sr_extent e = features->extent;
    size_t voxels = features->count / (size_t)net->config.channels;
    real *keys = malloc(features->count * sizeof(real)), *values = malloc(features->count * sizeof(real));
    struct query query;
    int ok = query_init(&query, net);
    int rc = ok && keys != NULL && values != NULL && voxels > 0 ? 0 : no_memory(why);
    if (rc == 0) {
        project(net, &net->key, device->parameters, features, keys);
        project(net, &net->value, device->parameters, features, values);
        size_t at = 0;
        for (int plane = 0; plane < planes->extent.h; plane++)
            for (int row = window.row; row < window.row + window.rows; row++)
                for (int column = window.column; column < window.column + window.columns; column++) {
                    query_place(&query, planes, e, net->config.dilation, plane, row, column);
                    double r = query_forward(&query, net, device->parameters, features, keys, values);
                    if (stack != NULL)
                        r += (1 - (double)query.t) *
                                 (double)stack->data[voxel(e, 1, query.n, 0, query.slice[0], row, column)] +
                             (double)query.t *
                                 (double)stack->data[voxel(e, 1, query.n, 0, query.slice[1], row, column)];
                    y->data[at++] = (real)r;
                }
    }
    free(query.memory);
    free(values);
    free(keys);
    return rc;
}

// What one query hands back: dkeys, dvalues [voxels,channels] and dfeatures are added to.
static void query_backward(struct query *query, const struct net *net, const real *p, real dy,
                           const real *keys, const real *values, real *g, real *dkeys, real *dvalues,
                           struct sr_buffer *dfeatures)
{
    struct sr_extent e = dfeatures->extent;
    int c = net->config.channels, last = net->n_linears - 1;
    real *dh = query->dhidden[0], *next = query->dhidden[1];
    dh[0] = dy;
    for (int i = last; i >= 0; i--) {
        const struct net_linear *linear = &net->linears[i];
        for (int k = 0; i < last && k < linear->n_out; k++)
            dh[k] = query->hidden[i][k] > 0 ? dh[k] : 0;
        linear_backward(linear, p, i == 0 ? query->g : query->hidden[i - 1], dh, g, next);
        real *swap = dh;
        dh = next;
        next = swap;
    }
    const real *dg = dh;
    double da[NET_WINDOW_SIZE], mean = 0;
    for (int m = 0; m < NET_WINDOW_SIZE; m++) {
        size_t from = (size_t)query->from[m] * (size_t)c;
        da[m] = 0;
        for (int k = 0; k < c; k++) {
            da[m] += (double)dg[k] * (double)values[from + (size_t)k];
            dvalues[from + (size_t)k] += query->weight[m] * dg[k];
        }
        mean += (double)query->weight[m] * da[m];
    }
    memset(query->dq, 0, (size_t)c * sizeof(real));
    for (int m = 0; m < NET_WINDOW_SIZE; m++) {
        size_t from = (size_t)query->from[m] * (size_t)c;
        real ds = (real)((double)query->weight[m] * (da[m] - mean));
        for (int k = 0; k < c; k++) {
            query->dq[k] += ds * keys[from + (size_t)k];
            dkeys[from + (size_t)k] += ds * query->q[k];
        }
    }
    linear_backward(&net->query, p, query->z, query->dq, g, query->dz);
    for (int k = 0; k < c; k++) {
        real dz = query->dz[k] + dg[k];
        dfeatures->data[voxel(e, c, query->n, k, query->slice[0], query->row, query->column)] +=
            (1 - query->t) * dz;
        dfeatures->data[voxel(e, c, query->n, k, query->slice[1], query->row, query->column)] +=
            query->t * dz;
    }
}

// Back through project(): gradients of its weights, and dfeatures.
static void project_backward(const struct net *net, const struct net_linear *linear, const real *p,
                             const struct sr_buffer *features, const real *dout, real *g, real *row,
                             struct sr_buffer *dfeatures)
{
    struct sr_extent e = features->extent;
    size_t c = (size_t)net->config.channels, plane = (size_t)e.d * (size_t)e.h * (size_t)e.w;
    real *x = row, *dx = row + c;
    for (size_t i = 0; i < (size_t)e.n * plane; i++) {
        size_t at = i / plane * c * plane + i % plane;
        for (size_t k = 0; k < c; k++)
            x[k] = features->data[at + k * plane];
        linear_backward(linear, p, x, dout + i * c, g, dx);
        for (size_t k = 0; k < c; k++)
            dfeatures->data[at + k * plane] += dx[k];
    }
}

static void clear_linear(const struct net_linear *linear, real *g)
{
    memset(g + linear->weight, 0, (size_t)linear->n_in * (size_t)linear->n_out * sizeof *g);
    memset(g + linear->bias, 0, (size_t)linear->n_out * sizeof *g);
}

static int ref_decode_backward(struct sr_device *device, const struct sr_buffer *features,
                               const struct sr_buffer *planes, struct sr_window window,
                               const struct sr_buffer *dy, struct sr_buffer *dfeatures,
                               struct sr_buffer *gradients, struct fault_note *why)
{
    const struct net *net = &device->net;
    const real *p = device->parameters;
    real *g = gradients->data, *maps = calloc(4 * features->count, sizeof(real));
    struct query query;
    int ok = query_init(&query, net);
    int rc = ok && maps != NULL ? 0 : no_memory(why);
    if (rc == 0) {
        real *keys = maps, *values = keys + features->count, *dkeys = values + features->count,
             *dvalues = dkeys + features->count;
        project(net, &net->key, p, features, keys);
        project(net, &net->value, p, features, values);
        clear_linear(&net->query, g);
        clear_linear(&net->key, g);
        clear_linear(&net->value, g);
        for (int i = 0; i < net->n_linears; i++)
            clear_linear(&net->linears[i], g);
        memset(dfeatures->data, 0, dfeatures->count * sizeof(real));
        size_t at = 0;
        for (int plane = 0; plane < planes->extent.h; plane++)
            for (int row = window.row; row < window.row + window.rows; row++)
                for (int column = window.column; column < window.column + window.columns; column++) {
                    query_place(&query, planes, features->extent, net->config.dilation, plane, row, column);
                    query_forward(&query, net, p, features, keys, values);
                    query_backward(&query, net, p, dy->data[at++], keys, values, g, dkeys, dvalues,
                                   dfeatures);
                }
        project_backward(net, &net->key, p, features, dkeys, g, query.memory, dfeatures);
        project_backward(net, &net->value, p, features, dvalues, g, query.memory, dfeatures);
    }
    free(query.memory);
    free(maps);
    return rc;
}

// --------------------------------------------------------------------------------------------- training

static int ref_loss_l1(struct sr_device *device, const struct sr_buffer *y, const struct sr_buffer *target,
                       struct sr_buffer *dy, struct sr_buffer *losses, int index, struct fault_note *why)
{
    (void)device, (void)why;
    double sum = 0;
    for (size_t i = 0; i < y->count; i++) {
        double off = (double)y->data[i] - (double)target->data[i];
        sum += fabs(off);
        dy->data[i] = (real)(((off > 0) - (off < 0)) / (double)y->count);
    }
    losses->data[index] = (real)(sum / (double)y->count);
    return 0;
}

static int ref_adam(struct sr_device *device, struct sr_adam adam, const struct sr_buffer *gradients,
                    struct sr_buffer *moment1, struct sr_buffer *moment2, struct sr_buffer *parameters,
                    struct fault_note *why)
{
    (void)device, (void)why;
    double correct1 = 1 - pow((double)adam.beta1, adam.step),
           correct2 = 1 - pow((double)adam.beta2, adam.step);
    for (size_t i = adam.first; i < parameters->count; i++) {
        double g = (double)gradients->data[i];
        double m = (double)adam.beta1 * (double)moment1->data[i] + (1 - (double)adam.beta1) * g;
        double v = (double)adam.beta2 * (double)moment2->data[i] + (1 - (double)adam.beta2) * g * g;
        moment1->data[i] = (real)m;
        moment2->data[i] = (real)v;
        parameters->data[i] -=
            (real)((double)adam.rate * (m / correct1) / (sqrt(v / correct2) + (double)adam.epsilon));
    }
    return 0;
}

static int ref_average(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                       float keep, struct fault_note *why)
{
    (void)device, (void)why;
    for (size_t i = 0; i < to->count; i++)
        to->data[i] = (real)keep * to->data[i] + (1 - (real)keep) * from->data[i];
    return 0;
}

// The volume's value at `along` on the cut's axis and (row, column) of its plane.
static double volume_at(const struct sr_buffer *volume, int axis, int along, int row, int column)
{
    int d = axis == 0 ? along : row, h = axis == 0 ? row : axis == 1 ? along : column;
    int w = axis == 2 ? along : column;
    return (double)volume->data[voxel(volume->extent, 1, 0, 0, d, h, w)];
}

static double blurred_at(const struct sr_buffer *volume, const struct sr_cut *cut, int along, int row,
                         int column)
{
    const int sizes[] = {volume->extent.d, volume->extent.h, volume->extent.w};
    double sigma = (double)cut->fwhm / (2 * sqrt(2 * log(2))), sum = 0, total = 0;
    if (!(sigma > 0))
        return volume_at(volume, cut->axis, along, row, column);
    int reach = (int)floor(3 * sigma + 0.5);
    for (int i = along - reach; i <= along + reach; i++) {
        if (i < 0 || i >= sizes[cut->axis])
            continue;
        double weight = exp(-0.5 * (i - along) * (i - along) / (sigma * sigma));
        sum += weight * volume_at(volume, cut->axis, i, row, column);
        total += weight;
    }
    return sum / total;
}

static int ref_cut(struct sr_device *device, const struct sr_buffer *volume, const struct sr_cut *cuts, int n,
                   int n_targets, struct sr_buffer *stack, struct sr_buffer *planes, struct sr_buffer *target,
                   struct fault_note *why)
{
    (void)device, (void)why;
    struct sr_extent e = stack->extent;
    int n_gaps = e.d - 1;
    for (int i = 0; i < n; i++) {
        const struct sr_cut *cut = &cuts[i];
        for (int h = 0; h < e.h; h++)
            for (int w = 0; w < e.w; w++) {
                int row = cut->row + (cut->flip_rows ? e.h - 1 - h : h);
                int column = cut->column + (cut->flip_columns ? e.w - 1 - w : w);
                for (int d = 0; d < e.d; d++) {
                    int slice = cut->flip_slices ? e.d - 1 - d : d;
                    stack->data[voxel(e, 1, i, 0, d, h, w)] =
                        (real)blurred_at(volume, cut, cut->first + slice * cut->factor, row, column);
                }
                for (int gap = 0; gap < n_gaps; gap++)
                    for (int k = 0; k < n_targets; k++) {
                        int from = cut->flip_slices ? n_gaps - 1 - gap : gap, at = cut->position[from][k];
                        int plane = (i * n_gaps + gap) * n_targets + k;
                        real *p = planes->data + (size_t)plane * SR_PLANE_FLOATS;
                        p[SR_PLANE_STACK] = (real)i;
                        p[SR_PLANE_SLICE] = (real)gap;
                        p[SR_PLANE_T] = (real)(cut->flip_slices ? cut->factor - at : at) / (real)cut->factor;
                        target->data[((size_t)plane * (size_t)e.h + (size_t)h) * (size_t)e.w + (size_t)w] =
                            (real)volume_at(volume, cut->axis, cut->first + from * cut->factor + at, row,
                                            column);
                    }
            }
    }
    return 0;
}

static const struct sr_ops table = {
    .name = sizeof(real) == sizeof(double) ? "ref64" : "ref",
    .usable = ref_usable,
    .open = ref_open,
    .close = ref_close,
    .describe = ref_describe,
    .buffer_new = ref_buffer_new,
    .buffer_free = ref_buffer_free,
    .scratch_bytes = ref_scratch_bytes,
    .upload = ref_upload,
    .download = ref_download,
    .synchronize = ref_nothing,
    .zero = ref_zero,
    .copy = ref_copy,
    .add = ref_add,
    .prepare = ref_prepare,
    .step_begin = ref_nothing,
    .step_end = ref_nothing,
    .conv_forward = ref_conv_forward,
    .conv_backward = ref_conv_backward,
    .decode_forward = ref_decode_forward,
    .decode_backward = ref_decode_backward,
    .loss_l1 = ref_loss_l1,
    .adam = ref_adam,
    .average = ref_average,
    .cut = ref_cut,
};

#ifdef REF_DOUBLE
const struct sr_ops *ops_ref64(void)
{
    return &table;
}

double *ops_ref64_data(struct sr_buffer *buffer)
{
    return buffer->data;
}
#else
const struct sr_ops *ops_ref(void)
{
    return &table;
}
#endif
