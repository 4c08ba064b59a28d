// SPDX-License-Identifier: Apache-2.0
//
// The gradients of every stage on a batch as that stage draws it: a decimated clip, slices simulated from a
// volume, an in-plane pair of the subject's own stack. The reference in double precision against differences
// of the loss on a toy network, and the CPU backend against PyTorch on the full one.
#include "core/file.h"
#include "sr_engine/pairs.h"
#include "sr_engine/random.h"
#include "sr_engine/weights.h"
#include "tests/engine/support.h"
#include "train/sample.h"

enum stage { STAGE_VIDEO = 1, STAGE_MR, STAGE_SUBJECT };

// Waves in all directions and speckle, so that neighbours differ and no patch is flat; 0..1.
static double texture(struct random_stream *stream, int x, int y, int z)
{
    return 0.5 + 0.2 * sin(0.9 * x + 0.31 * z) + 0.15 * cos(0.7 * y - 0.45 * z) + 0.1 * sin(0.2 * x * y / 9) +
           0.04 * random_unit(stream);
}

// --------------------------------------------------------------------------------------------- batches

static void make_corpus(struct corpus *corpus, enum corpus_kind kind, int x, int y, int z)
{
    struct random_stream stream = random_open(3, 80, 0);
    uint8_t *voxels = support_alloc((size_t)x * (size_t)y * (size_t)z);
    for (int i = 0; i < x * y * z; i++)
        voxels[i] = (uint8_t)(255 * texture(&stream, i % x, i / x % y, i / (x * y)));
    corpus_init(corpus, kind);
    corpus->items = support_alloc(sizeof *corpus->items);
    corpus->n_items = 1;
    corpus->items[0] = (struct corpus_item){
        .name = "made", .size = {x, y, z}, .thick_axis = -1, .voxels = voxels, .owned = voxels};
}

static void open_drawn(struct trainer *trainer, struct model *model, enum corpus_kind kind, int crop)
{
    struct fault_note why = {0};
    struct corpus corpus;
    struct sample_source source;
    struct sample_batch batch;
    struct sample_recipe recipe = sample_default(kind);
    recipe.batch = 2;
    recipe.slices = 3;
    recipe.crop = crop;
    recipe.factor_max = 4;
    recipe.thin_share = 0;
    recipe.places = 1; // the sample that the seeds below were looked for with
    make_corpus(&corpus, kind, 27, 24, 30);
    CHECK_OK(sample_source_init(&source, &corpus, &recipe, &why));
    CHECK_OK(sample_batch_init(&batch, &recipe, &why));
    CHECK_OK(sample_draw(&source, 7, &batch, &why));
    CHECK_OK(trainer_open(trainer, model, batch.extent, 1, 1, &why));
    CHECK_OK(model->ops->upload(model->device, trainer->stack, batch.stack, &why));
    CHECK_OK(model->ops->upload(model->device, trainer->planes, batch.planes, &why));
    CHECK_OK(model->ops->upload(model->device, trainer->target, batch.target, &why));
    sample_batch_done(&batch);
    sample_source_done(&source);
    corpus_done(&corpus);
}

static void open_pairs(struct trainer *trainer, struct model *model, int width)
{
    enum { DEPTH = 9, BATCH = 2, TARGETS = 2 };
    struct fault_note why = {0};
    struct random_stream stream = random_open(4, 80, 0);
    int n_pixels = width * width;
    float *voxels = support_alloc((size_t)DEPTH * (size_t)n_pixels * sizeof *voxels);
    for (int i = 0; i < DEPTH * n_pixels; i++)
        voxels[i] = (float)texture(&stream, i % width, i / width % width, 4 * (i / n_pixels));
    struct sr_stack stack = {.voxels = voxels,
                             .depth = DEPTH,
                             .height = width,
                             .width = width,
                             .row_mm = 1,
                             .column_mm = 1,
                             .slice_mm = 4,
                             .thickness_mm = 3.5};
    struct pairs pairs;
    struct sr_cut cuts[BATCH];
    struct sr_recipe recipe = sr_recipe_default();
    recipe.slices = 3;
    recipe.targets = 1;
    recipe.detail = 0; // the samples for which the weights below keep every sum away from zero
    CHECK_OK(pairs_plan(&pairs, &stack, voxels, &recipe, &why));
    CHECK_INT(pairs.slices, 3);
    for (int i = 0; i < BATCH; i++)
        cuts[i] = pairs_draw(&pairs, 1, (uint64_t)i, TARGETS);
    struct sr_extent extent = {BATCH, pairs.slices, pairs.rows, pairs.columns};
    printf("samples of %d slices, %d x %d\n", extent.d, extent.h, extent.w);
    CHECK_OK(trainer_open(trainer, model, extent, TARGETS, 1, &why));
    struct sr_buffer *volume =
        support_buffer(model->ops, model->device, (struct sr_extent){1, DEPTH, width, width}, 1, voxels);
    CHECK_OK(model->ops->cut(model->device, volume, cuts, BATCH, TARGETS, trainer->stack, trainer->planes,
                             trainer->target, &why));
    model->ops->buffer_free(model->device, volume);
    pairs_done(&pairs);
    free(voxels);
}

// The batch of a stage lies in the trainer; `side` is that of its samples, or of the subject's image.
static void open_stage(struct trainer *trainer, struct model *model, enum stage stage, int side)
{
    if (stage == STAGE_SUBJECT)
        open_pairs(trainer, model, side);
    else
        open_drawn(trainer, model, stage == STAGE_VIDEO ? CORPUS_VIDEO : CORPUS_MR, side);
}

static size_t n_planes_of(const struct trainer *trainer)
{
    return (size_t)trainer->extent.n * (size_t)(trainer->extent.d - 1) * (size_t)trainer->n_targets;
}

static size_t image_of(const struct trainer *trainer)
{
    return (size_t)trainer->extent.h * (size_t)trainer->extent.w;
}

// --------------------------------------------------------------------------------------------- differences

// |y - target| of every voxel, in double precision; the caller frees.
static double *errors_of(struct trainer *trainer)
{
    struct fault_note why = {0};
    size_t n = n_planes_of(trainer) * image_of(trainer);
    double *errors = support_alloc(n * sizeof *errors);
    CHECK_OK(trainer->model->ops->prepare(trainer->model->device, trainer->model->parameters, &why));
    CHECK_OK(trainer_forward(trainer, &why));
    const double *y = ops_ref64_data(trainer->y), *target = ops_ref64_data(trainer->target);
    for (size_t i = 0; i < n; i++)
        errors[i] = fabs(y[i] - target[i]);
    return errors;
}

// Mean of the voxels' own differences: the losses themselves would lose the last digits in their sums.
static double difference_at(struct trainer *trainer, double *value)
{
    const double step = 1e-6, old = *value; // hardly ever takes a voxel past its target, or a unit past zero
    size_t n = n_planes_of(trainer) * image_of(trainer);
    double sum = 0;
    *value = old + step;
    double *above = errors_of(trainer);
    *value = old - step;
    double *below = errors_of(trainer);
    *value = old;
    for (size_t i = 0; i < n; i++)
        sum += above[i] - below[i];
    free(above);
    free(below);
    return sum / (2 * step * (double)n);
}

static void check_tensor(struct trainer *trainer, const struct net_tensor *tensor, const double *gradients,
                         struct random_stream *stream, double *worst)
{
    enum { VALUES_PER_TENSOR = 8 };
    const double *g = gradients + tensor->offset;
    double most = 0;
    for (size_t k = 0; k < tensor->count; k++)
        most = fabs(g[k]) > most ? fabs(g[k]) : most;
    if (tensor->offset != trainer->model->net.key.bias)
        CHECK(most > 0);
    for (int i = 0; i < VALUES_PER_TENSOR; i++) {
        size_t k = (size_t)random_between(stream, 0, (int)tensor->count - 1);
        double want = difference_at(trainer, ops_ref64_data(trainer->model->parameters) + tensor->offset + k);
        double off = fabs(want - g[k]) / (most > 1e-9 ? most : 1);
        if (!(off < 1e-6))
            CHECK_FAIL("%s[%zu]: gradient %.12g, difference %.12g, largest of the tensor %.3g", tensor->name,
                       k, g[k], want, most);
        *worst = off > *worst ? off : *worst;
    }
}

static void run_differences(enum stage stage, int side)
{
    const struct net_config toy = {
        .channels = 5, .blocks = 2, .hidden = 7, .hidden_layers = 2, .dilation = 2};
    struct fault_note why = {0};
    struct model model;
    struct trainer trainer;
    float loss;
    CHECK_OK(model_open(&model, ops_ref64(), toy, 1, &why));
    float *parameters = support_parameters(&model.net, 5);
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    free(parameters);
    open_stage(&trainer, &model, stage, side);
    double *errors = errors_of(&trainer), want = 0, worst = 0;
    size_t n_values = n_planes_of(&trainer) * image_of(&trainer);
    for (size_t i = 0; i < n_values; i++)
        want += errors[i] / (double)n_values;
    free(errors);
    CHECK_OK(trainer_backward(&trainer, 0, &why));
    CHECK_OK(model.ops->download(model.device, trainer.losses, &loss, &why));
    CHECK_NEAR((double)loss, want, 1e-6 * want);
    size_t n = model.net.n_parameters;
    double *gradients = support_alloc(n * sizeof *gradients);
    memcpy(gradients, ops_ref64_data(trainer.gradients), n * sizeof *gradients);
    struct random_stream stream = random_open(1, 81, (uint64_t)stage);
    for (int i = 0; i < model.net.n_tensors; i++)
        check_tensor(&trainer, &model.net.tensors[i], gradients, &stream, &worst);
    printf("loss %.4f; %d tensors off by at most %.2g of their largest gradient\n", want, model.net.n_tensors,
           worst);
    free(gradients);
    trainer_close(&trainer);
    model_close(&model);
}

static void stage1_differences(void)
{
    run_differences(STAGE_VIDEO, 7);
}

static void stage2_differences(void)
{
    run_differences(STAGE_MR, 7);
}

static void stage3_differences(void)
{
    run_differences(STAGE_SUBJECT, 24);
}

// --------------------------------------------------------------------------------------------- PyTorch

static float *take(const struct trainer *trainer, const struct sr_buffer *buffer, size_t n, const char *path)
{
    struct fault_note why = {0};
    float *values = support_values(trainer->model->ops, trainer->model->device, buffer, n);
    if (path != NULL)
        CHECK_OK(file_write_atomic(path, values, n * sizeof *values, &why));
    return values;
}

// `seed` of the weights: one of the first 32 that keeps the inputs of all ReLUs, and y from its target,
// farthest from zero. Nearer than rounding their signs, and so the gradients, would be undecided.
static void run_torch(enum stage stage, int side, uint64_t seed)
{
    struct fault_note why = {0};
    struct model model;
    struct trainer trainer;
    char command[1200];
    const char *shared = support_shared();
    CHECK_OK(model_open(&model, support_ops("cpu"), net_config_p0(), 0, &why));
    size_t n = model.net.n_parameters;
    float *parameters = support_parameters(&model.net, seed), *want = support_alloc(n * sizeof *want);
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    CHECK_OK(weights_save("weights.safetensors", &model.net, parameters, NULL, &why));
    open_stage(&trainer, &model, stage, side);
    CHECK_OK(trainer_forward(&trainer, &why));
    CHECK_OK(trainer_backward(&trainer, 0, &why));
    struct sr_extent e = trainer.extent;
    size_t n_planes = n_planes_of(&trainer), n_values = n_planes * image_of(&trainer);
    size_t n_stack = (size_t)e.n * (size_t)e.d * image_of(&trainer);
    float *stack = take(&trainer, trainer.stack, n_stack, "stack.f32");
    float *planes = take(&trainer, trainer.planes, n_planes * SR_PLANE_FLOATS, "planes.f32");
    float *target = take(&trainer, trainer.target, n_values, "target.f32");
    snprintf(command, sizeof command, "/usr/bin/python3 '%s/torch_batch.py' '%s/bench' %d %d %d %d",
             ISOSLICE_TESTS_ENGINE, shared, e.n, e.d, e.h, e.w);
    CHECK_INT(system(command), 0);
    float *y = take(&trainer, trainer.y, n_values, NULL), *want_y = support_read_floats("y.f32", n_values);
    support_close("y", y, want_y, n_values, 1e-4, 0);
    CHECK_OK(weights_load("gradients.safetensors", &model.net, want, NULL, &why));
    float *got = take(&trainer, trainer.gradients, n, NULL);
    support_close_gradients(&model.net, got, want);
    trainer_close(&trainer);
    model_close(&model);
    float *all[] = {parameters, want, stack, planes, target, y, want_y, got};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

static void stage1_torch(void)
{
    run_torch(STAGE_VIDEO, 10, 27);
}

static void stage2_torch(void)
{
    run_torch(STAGE_MR, 10, 19);
}

static void stage3_torch(void)
{
    run_torch(STAGE_SUBJECT, 24, 3);
}

static const struct test tests[] = {
    {"model.gradient.stage1_differences", stage1_differences},
    {"model.gradient.stage2_differences", stage2_differences},
    {"model.gradient.stage3_differences", stage3_differences},
    {"model.gradient.stage1_torch", stage1_torch},
    {"model.gradient.stage2_torch", stage2_torch},
    {"model.gradient.stage3_torch", stage3_torch},
};

TEST_MAIN(tests)
