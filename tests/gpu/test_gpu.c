// SPDX-License-Identifier: Apache-2.0
//
// What the tests of single operations do not show of the cuda backends: whole training steps against the
// reference, more points than the decoder takes at a time, the same bits twice, and memory that runs out.
// Each for the GPU and, as loops, for the host; the first also over stand-ins for CUDA's libraries
// (stand_in.cu), with widths that are no eights.
#include "sr_engine/engine.h"
#include "tests/engine/support.h"

const struct sr_ops *ops_cuda_on_host(void);
const struct sr_ops *ops_cuda16_on_host(void);
const struct sr_ops *ops_cuda_stand_in(void);
const struct sr_ops *ops_cuda16_stand_in(void);

enum { N = 2, D = 3, H = 5, W = 9, STEPS = 3, LONG_STEPS = 60, STARTS = 5, GPU_CHUNK = 1 << 16 };

static int is_on_host(const char *name)
{
    return strstr(name, "_on_host") != NULL;
}

static const struct sr_ops *backend(const char *name)
{
    const struct sr_ops *ops;
    struct fault_note why = {0};
    if (strcmp(name, "cuda_on_host") == 0)
        return ops_cuda_on_host();
    if (strcmp(name, "cuda16_on_host") == 0)
        return ops_cuda16_on_host();
    if (strstr(name, "_stand_in") != NULL) {
#if ISOSLICE_HAVE_CUDA
        return strncmp(name, "cuda16", 6) == 0 ? ops_cuda16_stand_in() : ops_cuda_stand_in();
#else
        SKIP("built without CUDA's headers");
#endif
    }
    if (ops_find(name, &ops, &why) != 0)
        SKIP("no GPU: %s", why.text);
    return ops;
}

// What is left after some steps; the caller frees.
struct trained {
    float *y, *gradients, *parameters, losses[LONG_STEPS];
    size_t n_y, n_parameters;
};

static struct net_config small_net(void)
{
    return (struct net_config){.channels = 8, .blocks = 2, .hidden = 12, .hidden_layers = 2, .dilation = 2};
}

// Noise, or a pattern that planes between the slices can be learnt from.
static float *make_volume(struct sr_extent e, int is_pattern)
{
    size_t n = (size_t)e.d * (size_t)e.h * (size_t)e.w;
    float *voxels = support_random(4, n, 0, 1);
    for (size_t i = 0; is_pattern && i < n; i++) {
        size_t row = i / (size_t)e.w, slice = row / (size_t)e.h;
        double w = (double)(i % (size_t)e.w), h = (double)(row % (size_t)e.h), d = (double)slice;
        voxels[i] = (float)(0.5 + 0.25 * sin(1.1 * d + 0.4 * h) + 0.25 * cos(0.9 * w - 0.7 * h));
    }
    return voxels;
}

// A few steps over noise, each with other samples, or many over one pair of samples that can be learnt.
static struct trained train(const struct sr_ops *ops, struct net_config config, int steps, uint64_t start)
{
    int is_long = steps > STEPS;
    struct fault_note why = {0};
    struct model model;
    struct trainer trainer;
    struct trained out = {0};
    struct sr_extent whole = {1, 14, 17, 19}, batch = {N, D, H, W};
    CHECK_OK(model_open(&model, ops, config, 0, &why));
    float *parameters = support_parameters(&model.net, start), *voxels = make_volume(whole, is_long);
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    CHECK_OK(trainer_open(&trainer, &model, batch, 2, steps, &why));
    struct sr_buffer *volume = support_buffer(ops, model.device, whole, 1, voxels);
    for (int step = 0; step < steps; step++) {
        int at = is_long ? 0 : step;
        struct sr_cut cuts[N] = {
            {.axis = 1, .first = at, .factor = 4, .fwhm = 3.5F, .row = 2, .column = 3, .flip_rows = 1},
            {.axis = 2, .first = 1, .factor = 5, .fwhm = 4, .row = at, .column = 1, .flip_slices = 1}};
        for (int i = 0; i < N; i++)
            for (int gap = 0; gap < D - 1; gap++)
                for (int k = 0; k < 2; k++)
                    cuts[i].position[gap][k] = (unsigned char)(gap + 1 + 2 * k);
        CHECK_OK(ops->step_begin(model.device, &why));
        CHECK_OK(
            ops->cut(model.device, volume, cuts, N, 2, trainer.stack, trainer.planes, trainer.target, &why));
        CHECK_OK(trainer_forward(&trainer, &why));
        CHECK_OK(trainer_backward(&trainer, step, &why));
        CHECK_OK(trainer_update(&trainer, is_long ? 1e-3 : 1e-4, 0.999, &why));
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
    struct trained got = train(backend(name), small_net(), STEPS, 3),
                   want = train(support_ops("ref"), small_net(), STEPS, 3);
    CHECK_INT(got.n_parameters, want.n_parameters);
    support_close("losses", got.losses, want.losses, STEPS, 1e-4, 0);
    support_close("y", got.y, want.y, got.n_y, 1e-4, 0);
    support_close("gradients", got.gradients, want.gradients, got.n_parameters, 1e-4, 0);
    support_close("parameters", got.parameters, want.parameters, got.n_parameters, 1e-3, 0);
    free_trained(&got);
    free_trained(&want);
}

// The cosine of the angle between two vectors.
static double cosine(const float *a, const float *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

// The same for feature maps in bf16. y is the stack's interpolation in fp32 and a residual of a tenth of its
// size: some 40 roundings of 2^-8, one after the other, move it by 2 sqrt(40) / 256 / 10, and the loss by no
// more. The error of a unit's sum also decides for some 2 % of them, those within it of zero, whether they
// pass their gradient, so gradients are off by sqrt(2 * 0.02) = 0.2 of their length: a cosine of 0.98.
static void check_training16(const char *name)
{
    struct trained got = train(backend(name), small_net(), STEPS, 3),
                   want = train(support_ops("ref"), small_net(), STEPS, 3);
    support_close("losses", got.losses, want.losses, STEPS, 0.005, 0);
    support_close("y", got.y, want.y, got.n_y, 0.005, 0);
    CHECK(support_differ(got.y, want.y, got.n_y)); // else nothing was rounded
    double alike = cosine(got.gradients, want.gradients, got.n_parameters);
    printf("cosine of the gradients %.6f\n", alike);
    CHECK(alike > 0.98);
    // Adam goes at most three rates of 1e-4 either way
    support_close("parameters", got.parameters, want.parameters, got.n_parameters, 0, 2 * STEPS * 1.01e-4);
    free_trained(&got);
    free_trained(&want);
}

// Sixty steps from each of five starts: the loss falls as far as fp32's. From one start they come to differ
// by a tenth of the fall either way, as steps of this rate do that are ever so slightly disturbed; of the
// mean of five twice the standard deviation is again a tenth.
static void check_learning(const char *name)
{
    enum { LAST = 10 };
    double first = 0, want_last = 0, got_last = 0;
    for (int start = 3; start < 3 + STARTS; start++) {
        struct trained got = train(backend(name), small_net(), LONG_STEPS, (uint64_t)start),
                       want = train(support_ops("ref"), small_net(), LONG_STEPS, (uint64_t)start);
        CHECK_NEAR(got.losses[0], want.losses[0], 0.005 * (double)want.losses[0]);
        first += (double)want.losses[0] / STARTS;
        for (int i = LONG_STEPS - LAST; i < LONG_STEPS; i++) {
            want_last += (double)want.losses[i] / STARTS / LAST;
            got_last += (double)got.losses[i] / STARTS / LAST;
        }
        free_trained(&got);
        free_trained(&want);
    }
    printf("loss %.6f to %.6f with fp32, %.6f here\n", first, want_last, got_last);
    CHECK(want_last < 0.8 * first);
    CHECK_NEAR(got_last, want_last, 0.1 * (first - want_last));
}

static void check_repeatable(const char *name)
{
    struct net_config config = is_on_host(name) ? small_net() : net_config_p0();
    struct trained a = train(backend(name), config, STEPS, 3), b = train(backend(name), config, STEPS, 3);
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
    // sums of a product may come in another order in another part of it: in bf16 that can move a rounding
    support_close("y", values, want, n_y, strncmp(name, "cuda16", 6) == 0 ? 1.0 / 256 : 1e-5, 0);
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
    if (!is_on_host(name)) {
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

// A phantom of known values: blobs with edges and a fine pattern, cut into slices four voxels apart.
enum { FACTOR = 4, SLICES = 13, SIDE = 96, AREA = SIDE * SIDE, BETWEEN = (SLICES - 1) * (FACTOR - 1) };

static double truth_at(double z, int h, int w)
{
    double value = 100 + 40 * sin(0.8 * h + 0.3 * z) * cos(0.7 * w - 0.5 * z);
    for (int i = 0; i < 12; i++) {
        double dz = z - 4.1 * i, dh = h - SIDE / 2.0 - 30 * cos(2.4 * i),
               dw = w - SIDE / 2.0 - 30 * sin(2.4 * i);
        double r = sqrt(2 * dz * dz + dh * dh + dw * dw), size = 10 + i % 4 * 2;
        value += 60 * (i % 3 + 1) / (1 + exp(3 * (r - size)));
    }
    return value;
}

static float *make_slices(void)
{
    float *voxels = support_alloc(sizeof *voxels * SLICES * AREA);
    for (int d = 0; d < SLICES; d++)
        for (int i = 0; i < AREA; i++) {
            double sum = 0, total = 0;
            for (int k = -5; k <= 5; k++) { // a Gaussian whose full width at half maximum is the distance
                double weight = exp(-4 * log(2) * k * k / (FACTOR * FACTOR));
                sum += weight * truth_at(d * FACTOR + k, i / SIDE, i % SIDE);
                total += weight;
            }
            voxels[d * AREA + i] = (float)(sum / total);
        }
    return voxels;
}

// PSNR in dB of what a backend makes of the planes between the slices; steps 0: without a fine-tune.
static double psnr_of(const char *name, const float *voxels, int steps)
{
    struct fault_note why = {0};
    struct sr_plane planes[BETWEEN];
    struct sr_report report;
    struct sr_stack stack = {.voxels = voxels, .depth = SLICES, .height = SIDE, .width = SIDE};
    struct sr_options options = {.backend = name,
                                 .weights_path = ISOSLICE_TESTS_ENGINE "/../../models/weights.safetensors",
                                 .clip = 1,
                                 .seed = 1,
                                 .finetune = steps > 0,
                                 .steps = steps};
    float *residual = support_alloc(sizeof *residual * BETWEEN * AREA);
    double square = 0;
    stack.row_mm = stack.column_mm = 1;
    stack.slice_mm = stack.thickness_mm = FACTOR;
    for (int i = 0; i < BETWEEN; i++)
        planes[i] = (struct sr_plane){i / (FACTOR - 1), (1.0 + i % (FACTOR - 1)) / FACTOR};
    CHECK_OK(sr_run(&stack, planes, BETWEEN, &options, residual, &report, &why));
    for (int i = 0; i < BETWEEN; i++)
        for (int k = 0; k < AREA; k++) {
            const float *low = voxels + (size_t)planes[i].slice * AREA + k;
            double linear = (1 - planes[i].t) * (double)low[0] + planes[i].t * (double)low[AREA];
            double off = linear + (double)residual[i * AREA + k] -
                         truth_at((planes[i].slice + planes[i].t) * FACTOR, k / SIDE, k % SIDE);
            square += off * off / BETWEEN / AREA;
        }
    free(residual);
    return 10 * log10(report.range_high * report.range_high / square);
}

// What the network is for: bf16 costs no picture more than 0.02 dB, nor does it cost a fine-tune that.
static void quality_cuda16(void)
{
    struct fault_note why = {0};
    const struct sr_ops *ops;
    if (ops_find("cuda16", &ops, &why) != 0)
        SKIP("no GPU: %s", why.text);
    float *voxels = make_slices();
    for (int steps = 0; steps <= 200; steps += 200) {
        double want = psnr_of("cuda", voxels, steps), got = psnr_of("cuda16", voxels, steps);
        printf("%d steps: cuda %.4f dB, cuda16 %.4f dB\n", steps, want, got);
        CHECK_NEAR(got, want, 0.02);
    }
    free(voxels);
}

#define BOTH(name, check, backend)                                                                           \
    static void name##_##backend(void)                                                                       \
    {                                                                                                        \
        check_##check(#backend);                                                                             \
    }                                                                                                        \
    static void name##_##backend##_on_host(void)                                                             \
    {                                                                                                        \
        check_##check(#backend "_on_host");                                                                  \
    }
BOTH(training, training, cuda)
BOTH(training, training16, cuda16)
BOTH(learning, learning, cuda)
BOTH(learning, learning, cuda16)
BOTH(repeatable, repeatable, cuda)
BOTH(repeatable, repeatable, cuda16)
BOTH(chunks, chunks, cuda)
BOTH(chunks, chunks, cuda16)
BOTH(out_of_memory, out_of_memory, cuda)
BOTH(out_of_memory, out_of_memory, cuda16)

static void training_cuda_stand_in(void)
{
    check_training("cuda_stand_in");
}

static void training_cuda16_stand_in(void)
{
    check_training16("cuda16_stand_in");
}

#define NAMES(name, backend)                                                                                 \
    {"model.gpu." #name "." #backend, name##_##backend},                                                     \
        {"model.gpu." #name "." #backend "_on_host", name##_##backend##_on_host},

static const struct test tests[] = {
    NAMES(training, cuda) NAMES(training, cuda16) NAMES(learning, cuda) NAMES(learning, cuda16)
        NAMES(repeatable, cuda) NAMES(repeatable, cuda16) NAMES(chunks, cuda) NAMES(chunks, cuda16)
            NAMES(out_of_memory, cuda)
                NAMES(out_of_memory, cuda16){"model.gpu.quality.cuda16", quality_cuda16},
    {"model.gpu.training.cuda_stand_in", training_cuda_stand_in},
    {"model.gpu.training.cuda16_stand_in", training_cuda16_stand_in}};

TEST_MAIN(tests)
