// SPDX-License-Identifier: Apache-2.0
//
// Every operation of every backend against the reference, forward and backward, on shapes that do not fit
// anything: one slice, one voxel, sides below the attention window, no multiples of a tile or a vector.
#include "sr_engine/random.h"
#include "tests/engine/support.h"

// cuda's kernels and all that calls them, run as loops on the host (cuda/queue_host.cu).
const struct sr_ops *ops_cuda_on_host(void);
const struct sr_ops *ops_cuda16_on_host(void);
// The same with the calls that they make of CUDA's libraries, over stand-ins (stand_in.cu).
const struct sr_ops *ops_cuda_stand_in(void);
const struct sr_ops *ops_cuda16_stand_in(void);

// The contract's limit for tensors of random values.
static const double limit = 1e-4;

static int is_bf16(const char *backend)
{
    return strncmp(backend, "cuda16", 6) == 0;
}

// cuda16 stores what it computes in bf16, with 8 bits of mantissa: each time a value is rounded it moves by
// up to 2^-8 of itself. A sum of many such terms is off by no larger a share, as its own size and its error
// both grow with the root of their number. The roundings that a result has gone through, one after the other,
// add up as independent steps do, by the root of their number; twice that holds for the worst of some
// thousand values. What stays fp32 has no rounding and the contract's limit.
static double limit_of(const char *backend, int roundings)
{
    return is_bf16(backend) && roundings > 0 ? 2 * sqrt(roundings) / 256 : limit;
}

static const struct sr_extent shapes[] = {
    {1, 1, 1, 1}, {1, 1, 5, 7}, {1, 2, 13, 6}, {2, 3, 9, 17}, {1, 5, 4, 33}};

// The backend under test and the reference, side by side.
struct pair {
    struct model model[2]; // 0: under test, 1: reference
    float *parameters;
    struct sr_extent extent;
    size_t voxels;
    double limit; // as a share of the largest value
};

static const struct sr_ops *backend_ops(const char *name)
{
    const struct sr_ops *ops;
    struct fault_note why = {0};
    if (strcmp(name, "cuda_on_host") == 0)
        return ops_cuda_on_host();
    if (strcmp(name, "cuda16_on_host") == 0)
        return ops_cuda16_on_host();
    if (strstr(name, "_stand_in") != NULL) {
#if ISOSLICE_HAVE_CUDA
        return is_bf16(name) ? ops_cuda16_stand_in() : ops_cuda_stand_in();
#else
        SKIP("built without CUDA's headers");
#endif
    }
    if (strncmp(name, "cuda", 4) == 0 && ops_find(name, &ops, &why) != 0)
        SKIP("no GPU: %s", why.text);
    return support_ops(name);
}

// roundings: see limit_of().
static void open_pair(struct pair *pair, const char *backend, struct sr_extent extent, int roundings)
{
    struct fault_note why = {0};
    const char *names[2] = {backend, "ref"};
    memset(pair, 0, sizeof *pair);
    pair->limit = limit_of(backend, roundings);
    for (int i = 0; i < 2; i++)
        CHECK_OK(model_open(&pair->model[i], backend_ops(names[i]), net_config_p0(), 0, &why));
    pair->parameters = support_parameters(&pair->model[0].net, 11);
    for (int i = 0; i < 2; i++)
        CHECK_OK(model_set_parameters(&pair->model[i], pair->parameters, &why));
    pair->extent = extent;
    pair->voxels = (size_t)extent.n * (size_t)extent.d * (size_t)extent.h * (size_t)extent.w;
}

static void close_pair(struct pair *pair)
{
    free(pair->parameters);
    model_close(&pair->model[0]);
    model_close(&pair->model[1]);
}

static void free_two(struct pair *pair, struct sr_buffer *buffers[2])
{
    for (int i = 0; i < 2; i++)
        pair->model[i].ops->buffer_free(pair->model[i].device, buffers[i]);
}

static void make_two(struct pair *pair, struct sr_extent extent, int channels, const float *from,
                     struct sr_buffer *buffers[2])
{
    for (int i = 0; i < 2; i++)
        buffers[i] = support_buffer(pair->model[i].ops, pair->model[i].device, extent, channels, from);
}

static void compare_two(struct pair *pair, const char *what, struct sr_buffer *buffers[2], size_t n)
{
    float *got = support_values(pair->model[0].ops, pair->model[0].device, buffers[0], n);
    float *want = support_values(pair->model[1].ops, pair->model[1].device, buffers[1], n);
    support_close(what, got, want, n, pair->limit, 0);
    free(got);
    free(want);
}

// Only the named tensors of the gradients' arena.
static void compare_gradients(struct pair *pair, struct sr_buffer *gradients[2], const char *prefix)
{
    const struct net *net = &pair->model[0].net;
    float *got = support_values(pair->model[0].ops, pair->model[0].device, gradients[0], net->n_parameters);
    float *want = support_values(pair->model[1].ops, pair->model[1].device, gradients[1], net->n_parameters);
    int seen = 0;
    for (int i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *tensor = &net->tensors[i];
        // the true gradient of the key's bias is zero; where all neighbours are one voxel, that of all scores
        // is
        int inert = tensor->offset == net->key.bias ||
                    (pair->voxels == 1 && (strncmp(tensor->name, "attentionLayer.q", 16) == 0 ||
                                           strncmp(tensor->name, "attentionLayer.k", 16) == 0));
        if (strncmp(tensor->name, prefix, strlen(prefix)) != 0)
            continue;
        support_close(tensor->name, got + tensor->offset, want + tensor->offset, tensor->count,
                      inert ? 0 : pair->limit, inert ? 1e-6 : 0);
        seen++;
    }
    CHECK(seen > 0);
    free(got);
    free(want);
}

static void check_conv(const char *backend, struct sr_extent extent, int index, unsigned flags)
{
    struct fault_note why = {0};
    struct pair pair;
    struct sr_buffer *x[2], *y[2];
    // x, kernels, their sum, the old y, y; of one channel x, kernels and sum are fp32
    open_pair(&pair, backend, extent, index == 0 ? 2 : 5);
    int c_in = pair.model[0].net.convs[index].c_in;
    float *in = support_random(1, pair.voxels * (size_t)c_in, -1, 1),
          *out = support_random(2, pair.voxels * 64, -1, 1);
    make_two(&pair, extent, c_in, in, x);
    make_two(&pair, extent, 64, out, y);
    for (int i = 0; i < 2; i++)
        CHECK_OK(pair.model[i].ops->conv_forward(pair.model[i].device, index, x[i], flags, y[i], &why));
    compare_two(&pair, "y", y, pair.voxels * 64);
    free_two(&pair, x);
    free_two(&pair, y);
    free(in);
    free(out);
    close_pair(&pair);
}

static void check_conv_back(const char *backend, struct sr_extent extent, int index, unsigned flags)
{
    struct fault_note why = {0};
    struct pair pair;
    struct sr_buffer *x[2], *dy[2], *dx[2], *gradients[2];
    // dy, kernels, the old dx, dx; dy, x, their sum
    open_pair(&pair, backend, extent, index == 0 ? 1 : 4);
    const struct net *net = &pair.model[0].net;
    int c_in = net->convs[index].c_in;
    float *in = support_random(3, pair.voxels * (size_t)c_in, -1, 1),
          *out = support_random(4, pair.voxels * 64, -1, 1);
    float *old = support_random(5, pair.voxels * (size_t)c_in, -1, 1);
    make_two(&pair, extent, c_in, in, x);
    make_two(&pair, extent, 64, out, dy);
    make_two(&pair, extent, c_in, old, dx);
    make_two(&pair, (struct sr_extent){1, 1, 1, (int)net->n_parameters}, 1, NULL, gradients);
    for (int i = 0; i < 2; i++)
        CHECK_OK(pair.model[i].ops->conv_backward(pair.model[i].device, index, x[i], dy[i], flags,
                                                  index == 0 ? NULL : dx[i], gradients[i], &why));
    if (index > 0)
        compare_two(&pair, "dx", dx, pair.voxels * 64);
    compare_gradients(&pair, gradients, index == 0 ? "encoder.head" : "encoder.body.0.body.0");
    free_two(&pair, x);
    free_two(&pair, dy);
    free_two(&pair, dx);
    free_two(&pair, gradients);
    free(in);
    free(out);
    free(old);
    close_pair(&pair);
}

// Planes in no helpful order: every slice of every stack, several between the same two slices, one twice.
static float *make_planes(struct sr_extent extent, int *n)
{
    struct random_stream stream = random_open(9, 9, 9);
    float *planes = support_alloc(sizeof *planes * SR_PLANE_FLOATS * (size_t)(extent.n * extent.d * 2 + 2));
    *n = 0;
    for (int stack = 0; stack < extent.n; stack++)
        for (int slice = 0; slice < extent.d; slice++)
            for (int k = 0; k < (slice + 1 < extent.d ? 2 : 1); k++) {
                float *plane = planes + SR_PLANE_FLOATS * (size_t)(*n)++;
                plane[0] = (float)stack;
                plane[1] = (float)slice;
                plane[2] = slice + 1 < extent.d && k > 0 ? (float)random_unit(&stream) : 0;
            }
    memcpy(planes + SR_PLANE_FLOATS * (size_t)(*n)++, planes, SR_PLANE_FLOATS * sizeof *planes);
    return planes;
}

// features; z; the query's weights, sum, bias; the key's, its sum; the context; the value's weights, sum,
// bias, z again; weights, sum and bias of the hidden layers; weights of the last.
enum { DECODE_ROUNDINGS = 12 + 3 * 4 + 1 };
// Back: dy; weights and sum of five layers, of value, key and query; the weighted sum, dz, dfeatures.
enum { DECODE_BACK_ROUNDINGS = DECODE_ROUNDINGS + 1 + 2 * 8 + 3 };

// Parameters that do not magnify a rounding, so that limit_of() holds for gradients. Hidden units far from
// zero, every other one below it: a unit whose sum is zero to rounding passes its gradient on one side and
// not on the other. Scores within one unit instead of 70, which off by 2^-8 of themselves move the weights,
// their exponentials, by a quarter.
static void calm_parameters(struct pair *pair)
{
    struct fault_note why = {0};
    const struct net *net = &pair->model[0].net;
    for (int i = 0; i + 1 < net->n_linears; i++) {
        size_t n_weights = (size_t)net->linears[i].n_in * (size_t)net->linears[i].n_out;
        for (int unit = 0; unit < net->linears[i].n_out; unit++)
            pair->parameters[net->linears[i].bias + (size_t)unit] = unit % 2 ? -4.0F : 4.0F;
        for (size_t k = 0; k < n_weights; k++)
            pair->parameters[net->linears[i].weight + k] /= 4;
    }
    for (size_t i = 0; i < (size_t)net->query.n_in * (size_t)net->query.n_out; i++) {
        pair->parameters[net->query.weight + i] /= 8;
        pair->parameters[net->key.weight + i] /= 8;
    }
    for (int i = 0; i < 2; i++)
        CHECK_OK(model_set_parameters(&pair->model[i], pair->parameters, &why));
}

static void check_decode(const char *backend, struct sr_extent extent, int back, int whole)
{
    struct fault_note why = {0};
    struct pair pair;
    struct sr_buffer *features[2], *stack[2], *places[2], *y[2], *dfeatures[2], *gradients[2];
    struct sr_window window = {0, 0, extent.h, extent.w};
    int n_planes;
    open_pair(&pair, backend, extent, back ? DECODE_BACK_ROUNDINGS : DECODE_ROUNDINGS);
    if (back && is_bf16(backend))
        calm_parameters(&pair);
    if (!whole)
        window = (struct sr_window){extent.h / 3, extent.w / 4, (extent.h + 1) / 2, (extent.w + 1) / 2};
    const struct net *net = &pair.model[0].net;
    float *f = support_random(6, pair.voxels * 64, -1, 1), *s = support_random(7, pair.voxels, 0, 1);
    float *planes = make_planes(extent, &n_planes);
    size_t n = (size_t)n_planes * (size_t)window.rows * (size_t)window.columns;
    float *dy = support_random(8, n, -1, 1);
    make_two(&pair, extent, 64, f, features);
    make_two(&pair, extent, 1, s, stack);
    make_two(&pair, (struct sr_extent){1, 1, n_planes, SR_PLANE_FLOATS}, 1, planes, places);
    make_two(&pair, (struct sr_extent){1, n_planes, window.rows, window.columns}, 1, NULL, y);
    for (int i = 0; i < 2; i++)
        CHECK_OK(pair.model[i].ops->decode_forward(pair.model[i].device, features[i], whole ? stack[i] : NULL,
                                                   places[i], window, back, y[i], &why));
    compare_two(&pair, "y", y, n);
    if (back) {
        make_two(&pair, extent, 64, NULL, dfeatures);
        make_two(&pair, (struct sr_extent){1, 1, 1, (int)net->n_parameters}, 1, NULL, gradients);
        for (int i = 0; i < 2; i++) {
            const struct sr_ops *ops = pair.model[i].ops;
            CHECK_OK(ops->upload(pair.model[i].device, y[i], dy, &why)); // y is done with: it takes dy
            CHECK_OK(ops->decode_backward(pair.model[i].device, features[i], places[i], window, y[i],
                                          dfeatures[i], gradients[i], &why));
        }
        compare_two(&pair, "dfeatures", dfeatures, pair.voxels * 64);
        compare_gradients(&pair, gradients, "attentionLayer");
        compare_gradients(&pair, gradients, "imnet");
        free_two(&pair, dfeatures);
        free_two(&pair, gradients);
    }
    free_two(&pair, features);
    free_two(&pair, stack);
    free_two(&pair, places);
    free_two(&pair, y);
    free(f);
    free(s);
    free(planes);
    free(dy);
    close_pair(&pair);
}

static void check_loss(const char *backend, struct sr_extent extent)
{
    struct fault_note why = {0};
    struct pair pair;
    struct sr_buffer *y[2], *target[2], *dy[2], *losses[2];
    open_pair(&pair, backend, extent, 0);
    float *a = support_random(1, pair.voxels, 0, 1), *b = support_random(2, pair.voxels, 0, 1);
    b[0] = a[0]; // no difference: no gradient
    make_two(&pair, extent, 1, a, y);
    make_two(&pair, extent, 1, b, target);
    make_two(&pair, extent, 1, NULL, dy);
    make_two(&pair, (struct sr_extent){1, 1, 1, 3}, 1, NULL, losses);
    for (int i = 0; i < 2; i++)
        CHECK_OK(
            pair.model[i].ops->loss_l1(pair.model[i].device, y[i], target[i], dy[i], losses[i], 1, &why));
    compare_two(&pair, "dy", dy, pair.voxels);
    compare_two(&pair, "losses", losses, 3);
    free_two(&pair, y);
    free_two(&pair, target);
    free_two(&pair, dy);
    free_two(&pair, losses);
    free(a);
    free(b);
    close_pair(&pair);
}

static void check_average(const char *backend, struct sr_extent extent)
{
    struct fault_note why = {0};
    struct pair pair;
    struct sr_buffer *to[2], *from[2];
    open_pair(&pair, backend, extent, 0);
    float *a = support_random(1, pair.voxels, -1, 1), *b = support_random(2, pair.voxels, -1, 1);
    make_two(&pair, extent, 1, a, to);
    make_two(&pair, extent, 1, b, from);
    for (int i = 0; i < 2; i++)
        CHECK_OK(pair.model[i].ops->average(pair.model[i].device, to[i], from[i], 0.75F, &why));
    compare_two(&pair, "average", to, pair.voxels);
    float *after = support_values(pair.model[0].ops, pair.model[0].device, to[0], pair.voxels);
    CHECK_NEAR(after[3], 0.75F * a[3] + 0.25F * b[3], 1e-6);
    free(after);
    free_two(&pair, to);
    free_two(&pair, from);
    free(a);
    free(b);
    close_pair(&pair);
}

static void check_adam(const char *backend, struct sr_extent extent)
{
    struct fault_note why = {0};
    struct pair pair;
    struct sr_buffer *m[2], *v[2], *g[2];
    open_pair(&pair, backend, extent, 0);
    size_t n = pair.model[0].net.n_parameters;
    struct sr_extent arena = {1, 1, 1, (int)n};
    float *gradients = support_random(1, n, -1e-3, 1e-3);
    make_two(&pair, arena, 1, NULL, m);
    make_two(&pair, arena, 1, NULL, v);
    make_two(&pair, arena, 1, gradients, g);
    for (int step = 1; step <= 3; step++)
        for (int i = 0; i < 2; i++)
            CHECK_OK(pair.model[i].ops->adam(pair.model[i].device,
                                             (struct sr_adam){1e-2F, 0.9F, 0.999F, 1e-8F, step, 4}, g[i],
                                             m[i], v[i], pair.model[i].parameters, &why));
    compare_two(&pair, "moment1", m, n);
    compare_two(&pair, "moment2", v, n);
    struct sr_buffer *parameters[2] = {pair.model[0].parameters, pair.model[1].parameters};
    compare_two(&pair, "parameters", parameters, n);
    // three equal gradients: each step goes one rate against their sign
    float *after = support_values(pair.model[0].ops, pair.model[0].device, parameters[0], n);
    CHECK_NEAR(after[5], pair.parameters[5] - 0.03F * (gradients[5] > 0 ? 1 : -1), 1e-4);
    CHECK_NEAR(after[3], pair.parameters[3], 0); // before the first that is trained
    free(after);
    free_two(&pair, m);
    free_two(&pair, v);
    free_two(&pair, g);
    free(gradients);
    close_pair(&pair);
}

static void check_cut(const char *backend, struct sr_extent extent)
{
    enum { SLICES = 3, TARGETS = 2, SAMPLES = 3 };
    struct fault_note why = {0};
    struct pair pair;
    struct sr_buffer *volume[2], *stack[2], *planes[2], *target[2];
    struct sr_extent whole = {1, 11, 14, 13}, sample = {SAMPLES, SLICES, 6, 5};
    struct sr_cut cuts[SAMPLES] = {
        {.axis = 1, .first = 0, .factor = 4, .fwhm = 3.1F, .row = 2, .column = 3, .flip_slices = 1},
        {.axis = 2,
         .first = 3,
         .factor = 3,
         .fwhm = 3.0F,
         .row = 5,
         .column = 8,
         .flip_rows = 1,
         .flip_columns = 1},
        {.axis = 0, .first = 2, .factor = 2, .fwhm = 0, .row = 1, .column = 0},
    };
    (void)extent; // the samples bring their own
    for (int i = 0; i < SAMPLES; i++)
        for (int gap = 0; gap < SLICES - 1; gap++)
            for (int k = 0; k < TARGETS; k++)
                cuts[i].position[gap][k] = (unsigned char)((i + gap + 2 * k) % (cuts[i].factor + 1));
    open_pair(&pair, backend, whole, 0);
    int n_planes = SAMPLES * (SLICES - 1) * TARGETS;
    float *voxels = support_random(1, pair.voxels, 0, 1);
    make_two(&pair, whole, 1, voxels, volume);
    make_two(&pair, sample, 1, NULL, stack);
    make_two(&pair, (struct sr_extent){1, 1, n_planes, SR_PLANE_FLOATS}, 1, NULL, planes);
    make_two(&pair, (struct sr_extent){1, n_planes, sample.h, sample.w}, 1, NULL, target);
    for (int i = 0; i < 2; i++)
        CHECK_OK(pair.model[i].ops->cut(pair.model[i].device, volume[i], cuts, SAMPLES, TARGETS, stack[i],
                                        planes[i], target[i], &why));
    compare_two(&pair, "stack", stack, (size_t)SAMPLES * SLICES * 30);
    compare_two(&pair, "planes", planes, (size_t)n_planes * SR_PLANE_FLOATS);
    compare_two(&pair, "target", target, (size_t)n_planes * 30);
    free_two(&pair, volume);
    free_two(&pair, stack);
    free_two(&pair, planes);
    free_two(&pair, target);
    free(voxels);
    close_pair(&pair);
}

static void check_copies(const char *backend, struct sr_extent extent)
{
    struct fault_note why = {0};
    struct pair pair;
    struct sr_buffer *a[2], *b[2];
    open_pair(&pair, backend, extent, 3); // both values, their sum
    size_t n = pair.voxels * 64;
    float *values = support_random(1, n, -1, 1);
    make_two(&pair, extent, 64, values, a);
    make_two(&pair, extent, 64, NULL, b);
    float *back = support_values(pair.model[0].ops, pair.model[0].device, a[0], n);
    if (is_bf16(backend))
        for (size_t i = 0; i < n; i++)
            CHECK_NEAR(back[i], values[i], fabsf(values[i]) / 256);
    else
        support_equal("uploaded and downloaded", back, values, n);
    free(back);
    for (int i = 0; i < 2; i++) {
        const struct sr_ops *ops = pair.model[i].ops;
        struct sr_device *device = pair.model[i].device;
        CHECK_OK(ops->copy(device, b[i], a[i], &why));
        CHECK_OK(ops->add(device, b[i], a[i], &why));
    }
    compare_two(&pair, "sum", b, n);
    for (int i = 0; i < 2; i++)
        CHECK_OK(pair.model[i].ops->zero(pair.model[i].device, a[i], &why));
    back = support_values(pair.model[0].ops, pair.model[0].device, a[0], n);
    for (size_t i = 0; i < n; i++)
        CHECK(back[i] == 0);
    free(back);
    free_two(&pair, a);
    free_two(&pair, b);
    free(values);
    close_pair(&pair);
}

// The operations, by name; each is run for every backend and shape listed.
static void op_conv_head(const char *backend, struct sr_extent e)
{
    check_conv(backend, e, 0, 0);
    check_conv(backend, e, 0, SR_CONV_ADD);
}

static void op_conv_relu(const char *backend, struct sr_extent e)
{
    check_conv(backend, e, 1, SR_CONV_RELU);
}

static void op_conv_add(const char *backend, struct sr_extent e)
{
    check_conv(backend, e, 2, SR_CONV_ADD);
    check_conv(backend, e, 17, 0);
}

static void op_conv_head_back(const char *backend, struct sr_extent e)
{
    check_conv_back(backend, e, 0, 0);
}

static void op_conv_back(const char *backend, struct sr_extent e)
{
    check_conv_back(backend, e, 1, SR_CONV_ADD);
    check_conv_back(backend, e, 1, SR_CONV_MASK_X);
}

static void op_decode(const char *backend, struct sr_extent e)
{
    check_decode(backend, e, 0, 1);
    check_decode(backend, e, 0, 0);
}

static void op_decode_back(const char *backend, struct sr_extent e)
{
    check_decode(backend, e, 1, 1);
    check_decode(backend, e, 1, 0);
}

// Until a GPU has run the cuda backend it must be asked for by name.
static void auto_passes_cuda_over(void)
{
    CHECK_STR(support_ops("auto")->name, "cpu");
}

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value != NULL ? value : "(unset)";
}

static void gpu_is_chosen(void)
{
    struct fault_note why = {0};
    CHECK(setenv("CUDA_VISIBLE_DEVICES", "5", 1) == 0);
    CHECK_OK(ops_use_gpu(-1, &why));
    CHECK_STR(variable("CUDA_VISIBLE_DEVICES"), "5");
    CHECK_OK(ops_use_gpu(2, &why));
    CHECK_STR(variable("CUDA_VISIBLE_DEVICES"), "2");
    CHECK_STR(variable("CUDA_DEVICE_ORDER"), "PCI_BUS_ID");
}

// Built without it, no driver, no device, no library: one sentence each, and nothing breaks.
static void check_why_not(const char *name)
{
    const struct sr_ops *ops = NULL;
    struct fault_note why = {0};
    char start[32];
    if (ops_find(name, &ops, &why) == 0) {
        CHECK_STR(ops->name, name);
        return;
    }
    snprintf(start, sizeof start, "no backend '%s': ", name);
    CHECK_INT(why.fault, FAULT_BACKEND);
    CHECK_CONTAINS(why.text, start);
    CHECK(strlen(why.text) > strlen(start));
    printf("%s\n", why.text);
#if ISOSLICE_HAVE_CUDA
    struct net net;
    struct sr_device *device = NULL;
    const struct sr_ops *table = is_bf16(name) ? ops_cuda16() : ops_cuda();
    net_init(&net, net_config_p0());
    CHECK(!table->usable(NULL));
    CHECK_FAULT(table->open(&net, 0, &device, &why), FAULT_BACKEND);
    CHECK(device == NULL);
#endif
}

static void cuda_says_why_not(void)
{
    check_why_not("cuda");
    check_why_not("cuda16");
}

// cuda16 reads eights of channels and has room for the window of a small dilation only.
static void cuda16_refuses_odd_nets(void)
{
    static const struct net_config odd[] = {{12, 1, 16, 1, 2}, {8, 1, 16, 1, 4}};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        struct fault_note why = {0};
        struct net net;
        struct sr_device *device = NULL;
        net_init(&net, odd[i]);
        CHECK_FAULT(ops_cuda16_on_host()->open(&net, 0, &device, &why), FAULT_BACKEND);
        CHECK_CONTAINS(why.text, "eights of channels");
        CHECK(device == NULL);
    }
}

#define RUN(op, backend, i)                                                                                  \
    static void op##_##backend##_##i(void)                                                                   \
    {                                                                                                        \
        op(#backend, shapes[i]);                                                                             \
    }
#define RUN_SHAPES(op, backend)                                                                              \
    RUN(op, backend, 0) RUN(op, backend, 1) RUN(op, backend, 2) RUN(op, backend, 3) RUN(op, backend, 4)
#define RUN_ALL(backend)                                                                                     \
    RUN_SHAPES(op_conv_head, backend)                                                                        \
    RUN_SHAPES(op_conv_relu, backend)                                                                        \
    RUN_SHAPES(op_conv_add, backend)                                                                         \
    RUN_SHAPES(op_conv_head_back, backend)                                                                   \
    RUN_SHAPES(op_conv_back, backend)                                                                        \
    RUN_SHAPES(op_decode, backend)                                                                           \
    RUN_SHAPES(op_decode_back, backend)                                                                      \
    RUN(check_loss, backend, 3)                                                                              \
    RUN(check_adam, backend, 0)                                                                              \
    RUN(check_average, backend, 3)                                                                           \
    RUN(check_cut, backend, 0)                                                                               \
    RUN(check_copies, backend, 3)

// Only what calls a library: on one shape that the stand-ins' first choice takes, and one that it refuses.
#define RUN_TWO(op, backend) RUN(op, backend, 2) RUN(op, backend, 3)
#define RUN_LIBRARIES(backend)                                                                               \
    RUN_TWO(op_conv_head, backend)                                                                           \
    RUN_TWO(op_conv_relu, backend)                                                                           \
    RUN_TWO(op_conv_add, backend)                                                                            \
    RUN_TWO(op_conv_head_back, backend)                                                                      \
    RUN_TWO(op_conv_back, backend)                                                                           \
    RUN_TWO(op_decode, backend)                                                                              \
    RUN_TWO(op_decode_back, backend)

#define NAME_TWO(name, op, backend)                                                                          \
    {"op." name "." #backend ".1x2x13x6", op##_##backend##_2},                                               \
        {"op." name "." #backend ".2x3x9x17", op##_##backend##_3},
#define NAME_LIBRARIES(backend)                                                                              \
    NAME_TWO("conv_head", op_conv_head, backend)                                                             \
    NAME_TWO("conv_relu", op_conv_relu, backend)                                                             \
    NAME_TWO("conv_add", op_conv_add, backend)                                                               \
    NAME_TWO("conv_head_back", op_conv_head_back, backend)                                                   \
    NAME_TWO("conv_back", op_conv_back, backend)                                                             \
    NAME_TWO("decode", op_decode, backend)                                                                   \
    NAME_TWO("decode_back", op_decode_back, backend)

#define NAME_SHAPES(name, op, backend)                                                                       \
    {"op." name "." #backend ".1x1x1x1", op##_##backend##_0},                                                \
        {"op." name "." #backend ".1x1x5x7", op##_##backend##_1},                                            \
        {"op." name "." #backend ".1x2x13x6", op##_##backend##_2},                                           \
        {"op." name "." #backend ".2x3x9x17", op##_##backend##_3},                                           \
        {"op." name "." #backend ".1x5x4x33", op##_##backend##_4},
#define NAME_ALL(backend)                                                                                    \
    NAME_SHAPES("conv_head", op_conv_head, backend)                                                          \
    NAME_SHAPES("conv_relu", op_conv_relu, backend)                                                          \
    NAME_SHAPES("conv_add", op_conv_add, backend)                                                            \
    NAME_SHAPES("conv_head_back", op_conv_head_back, backend)                                                \
    NAME_SHAPES("conv_back", op_conv_back, backend)                                                          \
    NAME_SHAPES("decode", op_decode, backend)                                                                \
    NAME_SHAPES("decode_back", op_decode_back, backend){"op.loss_l1." #backend ".2x3x9x17",                  \
                                                        check_loss_##backend##_3},                           \
        {"op.adam." #backend ".arena", check_adam_##backend##_0},                                            \
        {"op.average." #backend ".2x3x9x17", check_average_##backend##_3},                                   \
        {"op.cut." #backend ".3x3x6x5", check_cut_##backend##_0},                                            \
        {"op.copies." #backend ".2x3x9x17", check_copies_##backend##_3},

RUN_ALL(cpu)
RUN_ALL(cuda)
RUN_ALL(cuda_on_host)
RUN_ALL(cuda16)
RUN_ALL(cuda16_on_host)
RUN_LIBRARIES(cuda_stand_in)
RUN_LIBRARIES(cuda16_stand_in)

static const struct test tests[] = {
    NAME_ALL(cpu) NAME_ALL(cuda) NAME_ALL(cuda_on_host) NAME_ALL(cuda16) NAME_ALL(cuda16_on_host)
        NAME_LIBRARIES(cuda_stand_in)
            NAME_LIBRARIES(cuda16_stand_in){"unit.ops.auto_passes_cuda_over", auto_passes_cuda_over},
    {"unit.ops.cuda_says_why_not", cuda_says_why_not},
    {"unit.ops.cuda16_refuses_odd_nets", cuda16_refuses_odd_nets},
    {"unit.ops.gpu_is_chosen", gpu_is_chosen}};

TEST_MAIN(tests)
