// SPDX-License-Identifier: Apache-2.0
//
// How fast the engine is on this machine: one training step by its parts, and encoding and decoding of a
// stack. usage: bench_engine [BACKEND [N D H W [THREADS]]]
#include "core/clock.h"
#include "tests/engine/support.h"

enum { REPEATS = 5 };

static double best(double *seconds)
{
    double least = seconds[0];
    for (int i = 1; i < REPEATS; i++)
        least = seconds[i] < least ? seconds[i] : least;
    return least;
}

int main(int argc, char **argv)
{
    struct fault_note why = {0};
    struct model model;
    struct trainer trainer;
    const struct sr_ops *ops = support_ops(argc > 1 ? argv[1] : "cpu");
    struct sr_extent e = {1, 4, 64, 64};
    if (argc > 5)
        e = (struct sr_extent){atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), atoi(argv[5])};
    CHECK_OK(model_open(&model, ops, net_config_p0(), argc > 6 ? atoi(argv[6]) : 0, &why));
    float *parameters = support_parameters(&model.net, 1);
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    CHECK_OK(trainer_open(&trainer, &model, e, 1, 1, &why));
    size_t voxels = (size_t)e.n * (size_t)e.d * (size_t)e.h * (size_t)e.w,
           n_planes = (size_t)e.n * (size_t)(e.d - 1);
    float *stack = support_random(1, voxels, 0, 1),
          *planes = support_alloc(n_planes * SR_PLANE_FLOATS * sizeof *planes);
    float *target = support_random(2, n_planes * (size_t)e.h * (size_t)e.w, 0, 1);
    for (size_t i = 0; i < n_planes; i++) {
        size_t sample = i / (size_t)(e.d - 1);
        planes[SR_PLANE_FLOATS * i] = (float)sample;
        planes[SR_PLANE_FLOATS * i + 1] = (float)(i % (size_t)(e.d - 1));
        planes[SR_PLANE_FLOATS * i + 2] = 0.3F;
    }
    CHECK_OK(ops->upload(model.device, trainer.stack, stack, &why));
    CHECK_OK(ops->upload(model.device, trainer.planes, planes, &why));
    CHECK_OK(ops->upload(model.device, trainer.target, target, &why));
    double encode[REPEATS], forward[REPEATS], backward[REPEATS], update[REPEATS], conv_back[REPEATS];
    struct sr_window window = {0, 0, e.h, e.w};
    for (int i = 0; i < REPEATS; i++) {
        double t0 = clock_monotonic_s();
        CHECK_OK(trainer_forward(&trainer, &why));
        CHECK_OK(ops->synchronize(model.device, &why));
        double t1 = clock_monotonic_s();
        CHECK_OK(trainer_backward(&trainer, 0, &why));
        CHECK_OK(ops->synchronize(model.device, &why));
        double t2 = clock_monotonic_s();
        CHECK_OK(trainer_update(&trainer, 1e-4, 0.999, &why));
        CHECK_OK(ops->synchronize(model.device, &why));
        double t3 = clock_monotonic_s();
        CHECK_OK(ops->decode_forward(model.device, trainer.features, trainer.stack, trainer.planes, window, 1,
                                     trainer.y, &why));
        CHECK_OK(ops->synchronize(model.device, &why));
        encode[i] = clock_monotonic_s() - t3;
        CHECK_OK(ops->conv_backward(model.device, 1, trainer.h[0], trainer.dh, SR_CONV_ADD, trainer.dr,
                                    trainer.gradients, &why)); // repacks
        double t4 = clock_monotonic_s();
        CHECK_OK(ops->conv_backward(model.device, 1, trainer.h[0], trainer.dh, SR_CONV_ADD, trainer.dr,
                                    trainer.gradients, &why));
        CHECK_OK(ops->synchronize(model.device, &why));
        double t5 = clock_monotonic_s();
        forward[i] = t1 - t0;
        backward[i] = t2 - t1;
        update[i] = t3 - t2;
        conv_back[i] = t5 - t4;
    }
    double conv_gflop = 2.0 * 1881792 * (double)voxels * 1e-9;
    double query_gflop = 2.0 * (213248 + 24832) * (double)n_planes * e.h * e.w * 1e-9;
    double f = best(forward), b = best(backward), u = best(update), d = best(encode), c = best(conv_back);
    printf("%s, batch %d x %d x %d x %d\n", ops->describe(model.device), e.n, e.d, e.h, e.w);
    printf(
        "step %.1f ms: forward %.1f (of it decode %.1f), backward %.1f (a layer of it %.1f), update %.1f\n",
        1e3 * (f + b + u), 1e3 * f, 1e3 * d, 1e3 * b, 1e3 * c, 1e3 * u);
    printf("encode %.0f GFLOP/s, decode %.0f, whole step %.0f (counted as direct convolutions)\n",
           conv_gflop / (f - d), query_gflop / d, 3 * (conv_gflop + query_gflop) / (f + b + u));
    trainer_close(&trainer);
    model_close(&model);
    free(target);
    free(planes);
    free(stack);
    free(parameters);
    return 0;
}
