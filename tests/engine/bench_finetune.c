// SPDX-License-Identifier: Apache-2.0
//
// What the fine-tune gains on one stack, for comparing recipes.
// usage: bench_finetune STACK.f32 "D H W ROW_MM COLUMN_MM SLICE_MM THICKNESS_MM" WEIGHTS STEPS
//                       [BATCH SLICES TARGETS RATE WARM_UP BETA2 [SEED [THREADS]]]
// STACK.f32: raw floats [D,H,W]. Prints PSNR of every method on both tests, and the seconds of the fine-tune.
#include "sr_engine/finetune.h"
#include "sr_engine/quality.h"
#include "sr_engine/weights.h"
#include "tests/engine/support.h"

#include <time.h>

static double seconds_of(clock_t from)
{
    return (double)(clock() - from) / CLOCKS_PER_SEC;
}

static float *read_stack(const char *path, struct sr_stack *stack)
{
    size_t n = (size_t)stack->depth * (size_t)stack->height * (size_t)stack->width;
    float *voxels = support_read_floats(path, n), low = voxels[0], high = low;
    for (size_t i = 0; i < n; i++) {
        low = voxels[i] < low ? voxels[i] : low;
        high = voxels[i] > high ? voxels[i] : high;
    }
    for (size_t i = 0; i < n; i++)
        voxels[i] = (voxels[i] - low) / (high - low);
    stack->voxels = voxels;
    return voxels;
}

static int show(void *user, const char *phase, double done, double total, const char *detail)
{
    (void)total;
    if (getenv("VERBOSE") != NULL && strcmp((char *)user, detail) != 0) {
        printf("%s %g: %s\n", phase, done, detail);
        snprintf(user, 64, "%s", detail);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct fault_note why = {0};
    struct sr_stack stack = {0};
    struct sr_report report = {0};
    struct model model;
    struct pairs pairs;
    char last[64] = "";
    struct interpolate_limits limits = {.memory_bytes = (size_t)4 << 30, .phase = "check"};
    struct finetune_recipe recipe = finetune_default();
    if (argc < 5 || sscanf(argv[2], "%d %d %d %lf %lf %lf %lf", &stack.depth, &stack.height, &stack.width,
                           &stack.row_mm, &stack.column_mm, &stack.slice_mm, &stack.thickness_mm) != 7) {
        fprintf(stderr, "usage: see the top of bench_finetune.c\n");
        return 2;
    }
    struct sr_options options = {.steps = atoi(argv[4]), .seed = 1, .clip = 1, .progress = show};
    options.progress_user = last;
    if (argc > 10) {
        recipe.batch = atoi(argv[5]);
        recipe.slices = atoi(argv[6]);
        recipe.targets = atoi(argv[7]);
        recipe.rate = recipe.rate_woken = atof(argv[8]);
        recipe.warm_up = atoi(argv[9]);
        recipe.beta2 = atof(argv[10]);
    }
    options.seed = argc > 11 ? (uint64_t)atoi(argv[11]) : 1;
    float *voxels = read_stack(argv[1], &stack);
    CHECK_OK(model_open(&model, support_ops("cpu"), net_config_p0(), argc > 12 ? atoi(argv[12]) : 0, &why));
    float *parameters = support_alloc(model.net.n_parameters * sizeof *parameters);
    CHECK_OK(weights_load(argv[3], &model.net, parameters, NULL, &why));
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    pairs_plan(&pairs, &stack, voxels, recipe.slices);
    for (int method = SR_LINEAR; method < SR_N_METHODS; method++) {
        struct quality_method how = {(enum sr_method)method, &model, 1, &limits};
        if (method == SR_TUNED) {
            clock_t start = clock();
            CHECK_OK(finetune_run(&model, &pairs, &recipe, &options, &limits, &report, &why));
            printf("%d samples of %d x %d x %d, %d targets, factors %d-%d, rate %g: %d steps, best %d, %.1f "
                   "s (%.1f s cpu), "
                   "L1 %.5f -> %.5f\n",
                   recipe.batch, pairs.slices, pairs.rows, pairs.columns, recipe.targets, pairs.factor_min,
                   pairs.factor_max, recipe.rate, report.steps_done, report.step_best,
                   report.seconds_finetune, seconds_of(start), report.loss_first, report.loss_last);
        }
        CHECK_OK(quality_in_plane(&how, &pairs, &report.in_plane, &why));
        CHECK_OK(quality_left_out(&how, &pairs, &report.left_out, &why));
    }
    printf("in plane: linear %.3f, cubic %+.3f, base %+.3f, tuned %+.3f dB;  left out: linear %.3f, cubic "
           "%+.3f, base "
           "%+.3f, tuned %+.3f dB\n",
           report.in_plane.psnr_db[0], report.in_plane.psnr_db[1] - report.in_plane.psnr_db[0],
           report.in_plane.psnr_db[2] - report.in_plane.psnr_db[0],
           report.in_plane.psnr_db[3] - report.in_plane.psnr_db[0], report.left_out.psnr_db[0],
           report.left_out.psnr_db[1] - report.left_out.psnr_db[0],
           report.left_out.psnr_db[2] - report.left_out.psnr_db[0],
           report.left_out.psnr_db[3] - report.left_out.psnr_db[0]);
    model_close(&model);
    free(parameters);
    free(voxels);
    return 0;
}
