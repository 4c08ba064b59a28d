// SPDX-License-Identifier: Apache-2.0
//
// What must be true of the network whatever computes it: derivatives, symmetries, exact zeros, order and
// tiling.
#include "sr_engine/interpolate.h"
#include "sr_engine/random.h"
#include "sr_engine/weights.h"
#include "tests/engine/support.h"

#include <stdint.h>

static const struct net_config toy = {
    .channels = 6, .blocks = 2, .hidden = 9, .hidden_layers = 2, .dilation = 2};

static void open_model(struct model *model, const struct sr_ops *ops, struct net_config config, int threads,
                       uint64_t seed)
{
    struct fault_note why = {0};
    CHECK_OK(model_open(model, ops, config, threads, &why));
    float *parameters = support_parameters(&model->net, seed);
    CHECK_OK(model_set_parameters(model, parameters, &why));
    free(parameters);
}

// A trainer with a random batch; planes at random places in every gap.
static void open_trainer(struct trainer *trainer, struct model *model, struct sr_extent extent, int n_targets,
                         double target_low, double target_high)
{
    struct fault_note why = {0};
    const struct sr_ops *ops = model->ops;
    CHECK_OK(trainer_open(trainer, model, extent, n_targets, 4, &why));
    int n_planes = extent.n * (extent.d - 1) * n_targets;
    size_t image = (size_t)extent.h * (size_t)extent.w;
    float *stack = support_random(1, (size_t)extent.n * (size_t)extent.d * image, 0, 1);
    float *target = support_random(2, (size_t)n_planes * image, target_low, target_high);
    float *planes = support_random(3, (size_t)n_planes * SR_PLANE_FLOATS, 0, 1);
    for (int i = 0; i < n_planes; i++) {
        int gap = i / n_targets, sample = gap / (extent.d - 1);
        float *plane = planes + SR_PLANE_FLOATS * (size_t)i;
        plane[SR_PLANE_STACK] = (float)sample;
        plane[SR_PLANE_SLICE] = (float)(gap % (extent.d - 1));
    }
    CHECK_OK(ops->upload(model->device, trainer->stack, stack, &why));
    CHECK_OK(ops->upload(model->device, trainer->target, target, &why));
    CHECK_OK(ops->upload(model->device, trainer->planes, planes, &why));
    free(stack);
    free(target);
    free(planes);
}

// Mean of y in double precision: the loss up to a constant when every target lies far below.
static double mean_y(struct trainer *trainer)
{
    struct fault_note why = {0};
    struct sr_extent e = trainer->extent;
    size_t n = (size_t)e.n * (size_t)(e.d - 1) * (size_t)trainer->n_targets * (size_t)e.h * (size_t)e.w;
    double sum = 0;
    CHECK_OK(trainer->model->ops->prepare(trainer->model->device, trainer->model->parameters, &why));
    CHECK_OK(trainer_forward(trainer, &why));
    const double *y = ops_ref64_data(trainer->y);
    for (size_t i = 0; i < n; i++)
        sum += y[i];
    return sum / (double)n;
}

// Central differences against the backward pass, some values of every tensor.
static void finite_differences(void)
{
    enum { VALUES_PER_TENSOR = 12 };
    struct fault_note why = {0};
    struct model model;
    struct trainer trainer;
    const double step = 1e-5;
    open_model(&model, ops_ref64(), toy, 1, 5);
    open_trainer(&trainer, &model, (struct sr_extent){1, 3, 8, 9}, 1, -9, -8);
    mean_y(&trainer);
    CHECK_OK(trainer_backward(&trainer, 0, &why));
    double *p = ops_ref64_data(model.parameters), *g = ops_ref64_data(trainer.gradients), worst = 0;
    struct random_stream stream = random_open(1, 1, 1);
    for (int i = 0; i < model.net.n_tensors; i++) {
        const struct net_tensor *tensor = &model.net.tensors[i];
        double most = 0;
        for (size_t k = 0; k < tensor->count; k++)
            most = fabs(g[tensor->offset + k]) > most ? fabs(g[tensor->offset + k]) : most;
        if (tensor->offset != model.net.key.bias)
            CHECK(most > 0);
        for (int k = 0; k < VALUES_PER_TENSOR; k++) {
            size_t at = tensor->offset + (size_t)random_between(&stream, 0, (int)tensor->count - 1);
            double old = p[at];
            p[at] = old + step;
            double above = mean_y(&trainer);
            p[at] = old - step;
            double below = mean_y(&trainer), want = (above - below) / (2 * step);
            p[at] = old;
            double off = fabs(want - g[at]) / (most > 1e-9 ? most : 1);
            if (!(off < 1e-6))
                CHECK_FAIL("%s[%zu]: gradient %.12g, difference %.12g", tensor->name, at - tensor->offset,
                           g[at], want);
            worst = off > worst ? off : worst;
        }
    }
    printf("off by at most %.2g of a tensor's largest gradient\n", worst);
    trainer_close(&trainer);
    model_close(&model);
}

static void key_bias_is_inert(void)
{
    struct fault_note why = {0};
    struct model model;
    struct trainer trainer;
    open_model(&model, ops_ref64(), toy, 1, 6);
    open_trainer(&trainer, &model, (struct sr_extent){1, 3, 8, 9}, 1, -9, -8);
    double before = mean_y(&trainer);
    CHECK_OK(trainer_backward(&trainer, 0, &why));
    double *p = ops_ref64_data(model.parameters), *g = ops_ref64_data(trainer.gradients);
    for (int i = 0; i < toy.channels; i++) {
        CHECK_NEAR(g[model.net.key.bias + (size_t)i], 0, 1e-15);
        p[model.net.key.bias + (size_t)i] += 1 + i;
    }
    CHECK_NEAR(mean_y(&trainer), before, 1e-13);
    trainer_close(&trainer);
    model_close(&model);
}

static float *interpolate(struct model *model, const float *stack, int d, int h, int w,
                          const struct sr_plane *planes, size_t n_planes, size_t memory_bytes)
{
    struct fault_note why = {0};
    struct interpolate_limits limits = {.memory_bytes = memory_bytes, .phase = "test"};
    float *out = support_alloc(n_planes * (size_t)h * (size_t)w * sizeof *out);
    CHECK_OK(interpolate_planes(model, stack, d, h, w, planes, n_planes, &limits, out, &why));
    CHECK(limits.workspace_bytes <= memory_bytes);
    return out;
}

static const size_t plenty = (size_t)4 << 30;

// Planes in any order give the same bits, each alone too.
static void run_order(const char *backend, struct net_config config)
{
    enum { D = 4, H = 11, W = 15, N = 7, SIZE = H * W };
    const struct sr_plane planes[N] = {{0, 0.5}, {2, 0.25}, {0, 0}, {3, 0}, {1, 0.75}, {2, 0.9}, {0, 0.5}};
    struct model model;
    open_model(&model, support_ops(backend), config, 0, 3);
    float *stack = support_random(1, (size_t)D * SIZE, 0, 1);
    float *all = interpolate(&model, stack, D, H, W, planes, N, plenty);
    for (int i = 0; i < N; i++) {
        float *one = interpolate(&model, stack, D, H, W, &planes[i], 1, plenty);
        support_equal("a plane alone", one, all + (size_t)i * SIZE, SIZE);
        free(one);
    }
    free(all);
    free(stack);
    model_close(&model);
}

static void order_ref(void)
{
    run_order("ref", toy);
}

static void order_cpu(void)
{
    run_order("cpu", net_config_p0());
}

// Tiles with their halo against the whole plane at once, with map_bytes for maps and results. limit 0: the
// same bits.
static void run_tiled(const char *backend, struct net_config config, int d, int h, int w, size_t map_bytes,
                      double limit)
{
    const struct sr_plane planes[] = {{0, 0.5}, {1, 0.25}, {d - 1, 0}};
    size_t n = 3 * (size_t)h * (size_t)w;
    struct model model;
    open_model(&model, support_ops(backend), config, 0, 3);
    size_t fixed = model.ops->scratch_bytes(model.device, (struct sr_extent){1, 1, 1, 1}, 1, 0);
    size_t memory_bytes = fixed + model.net.n_parameters * sizeof(float) + map_bytes;
    float *stack = support_random(1, (size_t)d * (size_t)h * (size_t)w, 0, 1);
    float *whole = interpolate(&model, stack, d, h, w, planes, 3, plenty);
    float *tiled = interpolate(&model, stack, d, h, w, planes, 3, memory_bytes);
    struct interpolate_limits limits = {.memory_bytes = plenty, .phase = "test"};
    struct fault_note why = {0};
    CHECK_OK(interpolate_planes(&model, stack, d, h, w, planes, 3, &limits, whole, &why));
    CHECK(limits.workspace_bytes > memory_bytes); // so the other run did have to tile
    if (limit > 0)
        support_close("tiled", tiled, whole, n, limit, 0);
    else
        support_equal("tiled", tiled, whole, n);
    limits.memory_bytes = 1 << 12;
    CHECK_FAULT(interpolate_planes(&model, stack, d, h, w, planes, 3, &limits, whole, &why), FAULT_NO_MEMORY);
    free(whole);
    free(tiled);
    free(stack);
    model_close(&model);
}

static void tiled_ref(void)
{
    struct net_config small = toy; // halo 2*1 + 2 + 6
    small.blocks = 1;
    run_tiled("ref", small, 2, 34, 41, 330 << 10, 0);
}

static void tiled_cpu(void)
{
    run_tiled("cpu", net_config_p0(), 2, 90, 101, (size_t)6 << 20, 1e-5);
}

static void run_zero(const char *backend)
{
    enum { D = 3, H = 10, W = 9 };
    struct fault_note why = {0};
    const struct sr_plane planes[] = {{0, 0.5}, {1, 0.3}, {2, 0}};
    struct model model;
    CHECK_OK(model_open(&model, support_ops(backend), net_config_p0(), 0, &why));
    float *parameters = support_alloc(model.net.n_parameters * sizeof *parameters);
    weights_init(&model.net, 8, parameters);
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    float *stack = support_random(1, (size_t)D * H * W, 0, 1);
    float *r = interpolate(&model, stack, D, H, W, planes, 3, plenty);
    for (int i = 0; i < 3 * H * W; i++)
        if (r[i] != 0)
            CHECK_FAIL("residual %d is %g, not 0", i, (double)r[i]);
    free(r);
    free(stack);
    free(parameters);
    model_close(&model);
}

static void zero_ref(void)
{
    run_zero("ref");
}

static void zero_cpu(void)
{
    run_zero("cpu");
}

// Slices reversed and kernels mirrored along z: the result reversed, except at acquired slices (window
// switch).
static void run_reversal(const char *backend, struct net_config config)
{
    enum { D = 4, H = 9, W = 14, N = 3, SIZE = H * W };
    const struct sr_plane planes[N] = {{0, 0.25}, {1, 0.5}, {2, 0.875}};
    const struct sr_plane mirrored[N] = {{2, 0.75}, {1, 0.5}, {0, 0.125}};
    struct fault_note why = {0};
    struct model model;
    open_model(&model, support_ops(backend), config, 0, 4);
    float *stack = support_random(1, (size_t)D * SIZE, 0, 1), *reversed = support_alloc((size_t)D * SIZE * 4);
    for (int d = 0; d < D; d++)
        memcpy(reversed + (size_t)d * SIZE, stack + (size_t)(D - 1 - d) * SIZE, SIZE * sizeof *stack);
    float *want = interpolate(&model, stack, D, H, W, planes, N, plenty);
    float *p = support_parameters(&model.net, 4);
    for (int i = 0; i < model.net.n_convs; i++) {
        const struct net_conv *conv = &model.net.convs[i];
        for (size_t k = 0; k < (size_t)conv->c_in * (size_t)conv->c_out * 9; k++) { // z is the last axis
            float *taps = p + conv->weight + 3 * k, swap = taps[0];
            taps[0] = taps[2];
            taps[2] = swap;
        }
    }
    CHECK_OK(model_set_parameters(&model, p, &why));
    float *got = interpolate(&model, reversed, D, H, W, mirrored, N, plenty);
    support_close("reversed", got, want, (size_t)N * SIZE, 1e-5, 0);
    free(p);
    free(got);
    free(want);
    free(reversed);
    free(stack);
    model_close(&model);
}

static void reversal_ref(void)
{
    run_reversal("ref", toy);
}

static void reversal_cpu(void)
{
    run_reversal("cpu", net_config_p0());
}

// Slices that are constant in plane give planes that are, away from the borders' zero padding.
static void constant_cpu(void)
{
    enum { D = 3, SIDE = 56, HALO = 24 };
    const struct sr_plane plane = {1, 0.5};
    struct model model;
    open_model(&model, support_ops("cpu"), net_config_p0(), 0, 4);
    float *stack = support_alloc(sizeof *stack * D * SIDE * SIDE);
    for (int d = 0; d < D; d++)
        for (int i = 0; i < SIDE * SIDE; i++)
            stack[d * SIDE * SIDE + i] = 0.2F + 0.3F * (float)d;
    float *r = interpolate(&model, stack, D, SIDE, SIDE, &plane, 1, plenty),
          middle = r[(SIDE + 1) * SIDE / 2];
    double border = 0;
    for (int h = 0; h < SIDE; h++)
        for (int w = 0; w < SIDE; w++) {
            double off = fabs((double)r[h * SIDE + w] - (double)middle);
            if (h >= HALO && h < SIDE - HALO && w >= HALO && w < SIDE - HALO)
                CHECK_NEAR(off, 0, 1e-5);
            border = off > border ? off : border;
        }
    CHECK(border > 1e-4); // the borders do differ
    free(r);
    free(stack);
    model_close(&model);
}

// One patch learnt by heart.
static void overfit_cpu(void)
{
    enum { STEPS = 250 };
    struct fault_note why = {0};
    struct model model;
    struct trainer trainer;
    open_model(&model, support_ops("cpu"), net_config_p0(), 0, 2);
    open_trainer(&trainer, &model, (struct sr_extent){1, 2, 8, 8}, 1, 0, 1);
    float *losses = support_alloc(4 * sizeof *losses), first = 0;
    for (int step = 0; step < STEPS; step++) {
        CHECK_OK(trainer_learn(&trainer, 0, &why));
        double rate = 1e-3 * 0.5 * (1 + cos(acos(-1) * step / STEPS));
        CHECK_OK(trainer_update(&trainer, rate, 0.99, &why));
        if (step == 0) {
            CHECK_OK(model.ops->download(model.device, trainer.losses, losses, &why));
            first = losses[0];
        }
    }
    CHECK_OK(model.ops->download(model.device, trainer.losses, losses, &why));
    printf("L1 %.4f at first, %.6f after %d steps\n", (double)first, (double)losses[0], STEPS);
    CHECK(first > 0.1F);
    CHECK(losses[0] < 1e-3F);
    free(losses);
    trainer_close(&trainer);
    model_close(&model);
}

// In one pass: the same gradients bit by bit, over whole and broken blocks of queries, with and without a
// frozen part; the same loss but for the order of its sum.
static void learning_in_one_pass_is_the_same(void)
{
    static const struct sr_extent extents[] = {{2, 3, 19, 30}, {1, 4, 7, 5}, {1, 2, 64, 64}};
    struct fault_note why = {0};
    for (size_t i = 0; i < sizeof extents / sizeof extents[0]; i++) {
        struct model model;
        struct trainer trainer;
        open_model(&model, support_ops("cpu"), net_config_p0(), 2, 2);
        CHECK(model.ops->decode_learn != NULL);
        open_trainer(&trainer, &model, extents[i], 2, 0, 1);
        trainer.first_conv = i == 1 ? model.net.n_convs : 0;
        size_t n = model.net.n_parameters;
        float *two = support_alloc(n * sizeof *two), *one = support_alloc(n * sizeof *one), losses[4];
        CHECK_OK(trainer_forward(&trainer, &why));
        CHECK_OK(trainer_backward(&trainer, 0, &why));
        CHECK_OK(model.ops->download(model.device, trainer.gradients, two, &why));
        CHECK_OK(model.ops->zero(model.device, trainer.gradients, &why));
        CHECK_OK(trainer_learn(&trainer, 1, &why));
        CHECK_OK(model.ops->download(model.device, trainer.gradients, one, &why));
        CHECK_OK(model.ops->download(model.device, trainer.losses, losses, &why));
        size_t from = i == 1 ? model.net.query.weight : 0, n_zero = 0;
        CHECK(memcmp(one + from, two + from, (n - from) * sizeof *one) == 0);
        for (size_t k = from; k < n; k++)
            n_zero += one[k] == 0;
        CHECK(n_zero < (n - from) / 2);
        CHECK(losses[0] > 0.1F);
        CHECK_NEAR(losses[1] / losses[0], 1, 1e-6);
        free(two);
        free(one);
        trainer_close(&trainer);
        model_close(&model);
    }
}

static float *trained(int threads)
{
    struct fault_note why = {0};
    struct model model;
    struct trainer trainer;
    open_model(&model, support_ops("cpu"), net_config_p0(), threads, 2);
    open_trainer(&trainer, &model, (struct sr_extent){2, 3, 19, 30}, 2, 0, 1);
    for (int step = 0; step < 3; step++) {
        CHECK_OK(trainer_learn(&trainer, 0, &why));
        CHECK_OK(trainer_update(&trainer, 1e-3, 0.99, &why));
    }
    float *parameters = support_alloc(model.net.n_parameters * sizeof *parameters);
    CHECK_OK(model_get_parameters(&model, parameters, &why));
    trainer_close(&trainer);
    model_close(&model);
    return parameters;
}

// Training gives the same bits again, and whatever the number of threads.
static void repeatable_cpu(void)
{
    struct net net;
    net_init(&net, net_config_p0());
    float *one = trained(1), *start = support_parameters(&net, 2);
    CHECK(support_differ(one, start, net.n_parameters));
    for (int threads = 2; threads <= 5; threads += 3) {
        float *other = trained(threads);
        support_equal("parameters after three steps", other, one, net.n_parameters);
        free(other);
    }
    free(one);
    free(start);
}

static const struct test tests[] = {
    {"model.finite_differences.ref64", finite_differences},
    {"model.key_bias_is_inert.ref64", key_bias_is_inert},
    {"model.order_of_planes.ref", order_ref},
    {"model.order_of_planes.cpu", order_cpu},
    {"model.tiled_equals_whole.ref", tiled_ref},
    {"model.tiled_equals_whole.cpu", tiled_cpu},
    {"model.zero_last_layer_adds_nothing.ref", zero_ref},
    {"model.zero_last_layer_adds_nothing.cpu", zero_cpu},
    {"model.reversal.ref", reversal_ref},
    {"model.reversal.cpu", reversal_cpu},
    {"model.constant_in_plane.cpu", constant_cpu},
    {"model.overfits_one_patch.cpu", overfit_cpu},
    {"model.repeatable_for_any_threads.cpu", repeatable_cpu},
    {"model.learning_in_one_pass.cpu", learning_in_one_pass_is_the_same},
};

TEST_MAIN(tests)
