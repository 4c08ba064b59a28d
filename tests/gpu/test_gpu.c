// SPDX-License-Identifier: Apache-2.0
//
// What the tests of single operations do not show of the cuda backend: whole training steps against the
// reference, more points than the decoder takes at a time, the same bits twice, and memory that runs out.
// Each for the GPU and, as loops, for the host.
#include "tests/engine/support.h"

const struct sr_ops *ops_cuda_on_host(void);

enum { N = 2, D = 3, H = 5, W = 9, STEPS = 3, GPU_CHUNK = 1 << 16 };

static const struct sr_ops *backend(const char *name)
{
    const struct sr_ops *ops;
    struct fault_note why = {0};
    if (strcmp(name, "cuda_on_host") == 0)
        return ops_cuda_on_host();
    if (ops_find(name, &ops, &why) != 0)
        SKIP("no GPU: %s", why.text);
    return ops;
}

// What is left after some steps; the caller frees.
struct trained {
    float *y, *gradients, *parameters, losses[STEPS];
    size_t n_y, n_parameters;
};

static struct net_config small_net(void)
{
    return (struct net_config){.channels = 8, .blocks = 2, .hidden = 12, .hidden_layers = 2, .dilation = 2};
}

static struct trained train(const struct sr_ops *ops, struct net_config config)
{
    struct fault_note why = {0};
    struct model model;
    struct trainer trainer;
    struct trained out = {0};
    struct sr_extent whole = {1, 14, 17, 19}, batch = {N, D, H, W};
    CHECK_OK(model_open(&model, ops, config, 0, &why));
    float *parameters = support_parameters(&model.net, 3),
          *voxels = support_random(4, (size_t)14 * 17 * 19, 0, 1);
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    CHECK_OK(trainer_open(&trainer, &model, batch, 2, STEPS, &why));
    struct sr_buffer *volume = support_buffer(ops, model.device, whole, 1, voxels);
    for (int step = 0; step < STEPS; step++) {
        struct sr_cut cuts[N] = {
            {.axis = 1, .first = step, .factor = 4, .fwhm = 3.5F, .row = 2, .column = 3, .flip_rows = 1},
            {.axis = 2, .first = 1, .factor = 5, .fwhm = 4, .row = step, .column = 1, .flip_slices = 1}};
        for (int i = 0; i < N; i++)
            for (int gap = 0; gap < D - 1; gap++)
                for (int k = 0; k < 2; k++)
                    cuts[i].position[gap][k] = (unsigned char)(gap + 1 + 2 * k);
        CHECK_OK(ops->step_begin(model.device, &why));
        CHECK_OK(
            ops->cut(model.device, volume, cuts, N, 2, trainer.stack, trainer.planes, trainer.target, &why));
        CHECK_OK(trainer_forward(&trainer, &why));
        CHECK_OK(trainer_backward(&trainer, step, &why));
        CHECK_OK(trainer_update(&trainer, 1e-4, 0.999, &why));
        CHECK_OK(ops->step_end(model.device, &why));
    }
    out.n_y = (size_t)N * (D - 1) * 2 * H * W;
    out.n_parameters = model.net.n_parameters;
    out.y = support_values(ops, model.device, trainer.y, out.n_y);
    out.gradients = support_values(ops, model.device, trainer.gradients, out.n_parameters);
    out.parameters = support_values(ops, model.device, model.parameters, out.n_parameters);
    CHECK_OK(ops->download(model.device, trainer.losses, out.losses, &why));
    ops->buffer_free(model.device, volume);
    trainer_close(&trainer);
    model_close(&model);
    free(parameters);
    free(voxels);
    return out;
}

static void free_trained(struct trained *trained)
{
    free(trained->y);
    free(trained->gradients);
    free(trained->parameters);
}

// Parameters have a wider limit: Adam makes a whole step of a gradient that is zero but for its rounding.
static void check_training(const char *name)
{
    struct trained got = train(backend(name), small_net()), want = train(support_ops("ref"), small_net());
    CHECK_INT(got.n_parameters, want.n_parameters);
    support_close("losses", got.losses, want.losses, STEPS, 1e-4, 0);
    support_close("y", got.y, want.y, got.n_y, 1e-4, 0);
    support_close("gradients", got.gradients, want.gradients, got.n_parameters, 1e-4, 0);
    support_close("parameters", got.parameters, want.parameters, got.n_parameters, 1e-3, 0);
    free_trained(&got);
    free_trained(&want);
}

static void check_repeatable(const char *name)
{
    struct net_config config = strcmp(name, "cuda") == 0 ? net_config_p0() : small_net();
    struct trained a = train(backend(name), config), b = train(backend(name), config);
    support_equal("losses", a.losses, b.losses, STEPS);
    support_equal("gradients", a.gradients, b.gradients, a.n_parameters);
    support_equal("parameters", a.parameters, b.parameters, a.n_parameters);
    free_trained(&a);
    free_trained(&b);
}

// One plane that is longer than a chunk and one more: borders of the chunks lie within rows. A volume
// constant along the columns makes every value of a row the same, but for the chunk that it went through.
static void check_chunks(const char *name)
{
    struct fault_note why = {0};
    const struct sr_ops *ops = backend(name);
    struct model model;
    struct sr_extent e = {1, 2, 9, GPU_CHUNK / 9 + 77};
    CHECK_OK(model_open(&model, ops, small_net(), 0, &why));
    float *parameters = support_parameters(&model.net, 5),
          *rows = support_random(6, (size_t)8 * 2 * 9, -1, 1);
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    size_t width = (size_t)e.w, n = width * 8 * 2 * 9, n_y = width * 2 * 9;
    float *features = support_alloc(n * sizeof *features), planes[] = {0, 0, 0.25F, 0, 1, 0};
    for (size_t i = 0; i < n; i++)
        features[i] = rows[i / width];
    struct sr_buffer *from = support_buffer(ops, model.device, e, 8, features);
    struct sr_buffer *places =
        support_buffer(ops, model.device, (struct sr_extent){1, 1, 2, SR_PLANE_FLOATS}, 1, planes);
    struct sr_buffer *y = support_buffer(ops, model.device, (struct sr_extent){1, 2, e.h, e.w}, 1, NULL);
    CHECK_OK(ops->decode_forward(model.device, from, NULL, places, (struct sr_window){0, 0, e.h, e.w}, 0, y,
                                 &why));
    float *values = support_values(ops, model.device, y, n_y), *want = support_alloc(n_y * sizeof *want);
    for (size_t i = 0; i < n_y; i++)
        want[i] = values[i / width * width];
    CHECK(support_differ(values, values + width, width)); // rows differ, so the comparison can fail
    support_close("y", values, want, n_y, 1e-5, 0);
    ops->buffer_free(model.device, from);
    ops->buffer_free(model.device, places);
    ops->buffer_free(model.device, y);
    free(parameters);
    free(rows);
    free(features);
    free(values);
    free(want);
    model_close(&model);
}

// Too much memory is a fault with the call's name, and the device goes on working.
static void check_out_of_memory(const char *name)
{
    struct fault_note why = {0};
    const struct sr_ops *ops = backend(name);
    struct model model;
    struct sr_buffer *taken[64], *over = NULL;
    int n = 0, rc = 0;
    CHECK_OK(model_open(&model, ops, small_net(), 0, &why));
    CHECK_FAULT(ops->buffer_new(model.device, (struct sr_extent){64, 512, 512, 512}, 64, &over, &why),
                FAULT_NO_MEMORY);
    CHECK_CONTAINS(why.text, "2147483647");
    CHECK(over == NULL);
    if (strcmp(name, "cuda") == 0) {
        struct sr_extent most = {1, 1, 1, 2147483647};
        while (n < 64 && (rc = ops->buffer_new(model.device, most, 1, &taken[n], &why)) == 0)
            n++;
        CHECK_INT(rc, FAULT_NO_MEMORY);
        CHECK_CONTAINS(why.text, "cudaMalloc");
    }
    while (n > 0)
        ops->buffer_free(model.device, taken[--n]);
    float values[] = {1, 2, 3}, back[3];
    struct sr_buffer *small = support_buffer(ops, model.device, (struct sr_extent){1, 1, 1, 3}, 1, values);
    CHECK_OK(ops->add(model.device, small, small, &why));
    CHECK_OK(ops->download(model.device, small, back, &why));
    CHECK_NEAR(back[2], 6, 0);
    ops->buffer_free(model.device, small);
    model_close(&model);
}

#define BOTH(name)                                                                                           \
    static void name##_cuda(void)                                                                            \
    {                                                                                                        \
        check_##name("cuda");                                                                                \
    }                                                                                                        \
    static void name##_on_host(void)                                                                         \
    {                                                                                                        \
        check_##name("cuda_on_host");                                                                        \
    }
BOTH(training)
BOTH(repeatable)
BOTH(chunks)
BOTH(out_of_memory)

static const struct test tests[] = {
    {"model.gpu.training.cuda", training_cuda},
    {"model.gpu.training.cuda_on_host", training_on_host},
    {"model.gpu.repeatable.cuda", repeatable_cuda},
    {"model.gpu.repeatable.cuda_on_host", repeatable_on_host},
    {"model.gpu.chunks.cuda", chunks_cuda},
    {"model.gpu.chunks.cuda_on_host", chunks_on_host},
    {"model.gpu.out_of_memory.cuda", out_of_memory_cuda},
    {"model.gpu.out_of_memory.cuda_on_host", out_of_memory_on_host},
};

TEST_MAIN(tests)
