// SPDX-License-Identifier: Apache-2.0
//
// The network against PyTorch: forward values and the gradient of every parameter, on shapes smaller and
// larger than the attention window, and a whole sr_run against the reference's interpolate().
#include "sr_engine/engine.h"
#include "sr_engine/resample.h"
#include "sr_engine/weights.h"
#include "tests/engine/support.h"

enum { N = 2, D = 3, H = 9, W = 17, PLANES = 6, VOLUME = 4 * 13 * 10, POSITIONS = 7, PLANE = 13 * 10 };

static void make_golden(void)
{
    char command[1200];
    snprintf(command, sizeof command, "/usr/bin/python3 '%s/torch_golden.py' '%s/bench' .",
             ISOSLICE_TESTS_ENGINE, support_shared());
    CHECK_INT(system(command), 0);
}

static void run_gradients(const char *backend)
{
    struct fault_note why = {0};
    struct model model;
    struct trainer trainer;
    struct sr_extent extent = {N, D, H, W};
    make_golden();
    const struct sr_ops *ops = support_ops(backend);
    CHECK_OK(model_open(&model, ops, net_config_p0(), 0, &why));
    size_t n = model.net.n_parameters;
    CHECK_INT(n, 2109697);
    float *parameters = support_alloc(n * sizeof *parameters), *want = support_alloc(n * sizeof *want);
    struct weights_metadata metadata = {0};
    CHECK_OK(weights_load("weights.safetensors", &model.net, parameters, &metadata, &why));
    CHECK_STR(weights_metadata_get(&metadata, "note"), "golden \"\u00e9\" \\ test");
    CHECK_OK(weights_load("gradients.safetensors", &model.net, want, NULL, &why));
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    // the golden planes are not one per gap: the buffers of the batch are exchanged for some of their number
    CHECK_OK(trainer_open(&trainer, &model, extent, 2, 1, &why));
    ops->buffer_free(model.device, trainer.planes);
    ops->buffer_free(model.device, trainer.target);
    ops->buffer_free(model.device, trainer.y);
    ops->buffer_free(model.device, trainer.dy);
    float *planes = support_read_floats("planes.f32", (size_t)PLANES * SR_PLANE_FLOATS);
    float *target = support_read_floats("target.f32", (size_t)PLANES * H * W);
    float *stack = support_read_floats("stack.f32", (size_t)N * D * H * W);
    trainer.planes =
        support_buffer(ops, model.device, (struct sr_extent){1, 1, PLANES, SR_PLANE_FLOATS}, 1, planes);
    trainer.target = support_buffer(ops, model.device, (struct sr_extent){1, PLANES, H, W}, 1, target);
    trainer.y = support_buffer(ops, model.device, (struct sr_extent){1, PLANES, H, W}, 1, NULL);
    trainer.dy = support_buffer(ops, model.device, (struct sr_extent){1, PLANES, H, W}, 1, NULL);
    CHECK_OK(ops->upload(model.device, trainer.stack, stack, &why));
    CHECK_OK(trainer_forward(&trainer, &why));
    CHECK_OK(trainer_backward(&trainer, 0, &why));
    float *y = support_values(ops, model.device, trainer.y, (size_t)PLANES * H * W);
    float *want_y = support_read_floats("y.f32", (size_t)PLANES * H * W);
    support_close("y", y, want_y, (size_t)PLANES * H * W, 1e-4, 0);
    float *got = support_values(ops, model.device, trainer.gradients, n);
    support_close_gradients(&model.net, got, want);
    trainer_close(&trainer);
    model_close(&model);
    float *all[] = {parameters, want, planes, target, stack, y, want_y, got};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

static void run_interpolate(const char *backend)
{
    struct fault_note why = {0};
    struct sr_report report;
    make_golden();
    float *volume = support_read_floats("volume.f32", VOLUME);
    float *positions = support_read_floats("positions.f32", POSITIONS);
    float *want = support_read_floats("result.f32", (size_t)POSITIONS * PLANE);
    float *residual = support_alloc(sizeof *residual * POSITIONS * PLANE);
    struct sr_plane planes[POSITIONS];
    for (int i = 0; i < POSITIONS; i++) {
        planes[i].slice = (int)positions[i];
        planes[i].t = (double)positions[i] - planes[i].slice;
    }
    struct sr_stack stack = {
        .voxels = volume, .depth = 4, .height = 13, .width = 10, .row_mm = 1, .column_mm = 1};
    stack.slice_mm = 4;
    struct sr_options options = {.backend = backend, .weights_path = "weights.safetensors", .clip = 1};
    CHECK_OK(sr_run(&stack, planes, POSITIONS, &options, residual, &report, &why));
    CHECK_INT(report.delivered, SR_BASE);
    for (int k = 0; k < POSITIONS; k++)
        for (int i = 0; i < PLANE; i++) {
            float a = volume[planes[k].slice * PLANE + i];
            float b = planes[k].slice < 3 ? volume[(planes[k].slice + 1) * PLANE + i] : a;
            residual[k * PLANE + i] += (float)((1 - planes[k].t) * (double)a + planes[k].t * (double)b);
        }
    support_close("interpolated", residual, want, (size_t)POSITIONS * PLANE, 1e-4, 0);
    free(residual);
    free(want);
    free(positions);
    free(volume);
}

// The cubic method against scipy's order-3 spline with mirrored ends.
static void spline(void)
{
    struct fault_note why = {0};
    make_golden();
    float *volume = support_read_floats("volume.f32", VOLUME),
          *got = support_alloc(sizeof *got * POSITIONS * PLANE);
    float *positions = support_read_floats("positions.f32", POSITIONS);
    float *want = support_read_floats("spline.f32", (size_t)POSITIONS * PLANE);
    double *coefficients = support_alloc(sizeof *coefficients * VOLUME), plane[PLANE];
    CHECK_OK(resample_cubic_prepare(volume, 4, PLANE, coefficients, &why));
    for (int k = 0; k < POSITIONS; k++) {
        int slice = (int)positions[k];
        resample_cubic(coefficients, 4, PLANE, slice, (double)positions[k] - slice, plane);
        for (int i = 0; i < PLANE; i++)
            got[k * PLANE + i] = (float)plane[i];
    }
    support_close("spline", got, want, (size_t)POSITIONS * PLANE, 1e-6, 0);
    free(coefficients);
    free(want);
    free(positions);
    free(got);
    free(volume);
}

static void gradients_ref(void)
{
    run_gradients("ref");
}

static void interpolate_ref(void)
{
    run_interpolate("ref");
}

static void gradients_cpu(void)
{
    run_gradients("cpu");
}

static void interpolate_cpu(void)
{
    run_interpolate("cpu");
}

static const struct test tests[] = {
    {"model.torch.gradients.ref", gradients_ref}, {"model.torch.interpolate.ref", interpolate_ref},
    {"model.torch.gradients.cpu", gradients_cpu}, {"model.torch.interpolate.cpu", interpolate_cpu},
    {"model.scipy.cubic_spline", spline},
};

TEST_MAIN(tests)
