// SPDX-License-Identifier: Apache-2.0
//
// A whole job: faults, exact zeros, clipping, repeatability, the checks and the choice.
#include "core/clock.h"
#include "sr_engine/consistency.h"
#include "sr_engine/engine.h"
#include "sr_engine/estimate.h"
#include "sr_engine/interpolate.h"
#include "sr_engine/pairs.h"
#include "sr_engine/pool.h"
#include "sr_engine/quality.h"
#include "sr_engine/random.h"
#include "sr_engine/resample.h"
#include "sr_engine/uniformity.h"
#include "sr_engine/weights.h"
#include "tests/engine/support.h"

#include <stdatomic.h>
#include <stdint.h>

enum { D = 13, H = 60, W = 66, SIZE = H * W, N_PLANES = 4 };

static const struct sr_plane wanted[N_PLANES] = {{0, 0.5}, {3, 0.25}, {12, 0}, {2, 0}};

// Smooth waves between 100 and 900, turning round at the first and the last slice as a mirrored spline does.
static float *phantom(struct sr_stack *stack)
{
    float *voxels = support_alloc(sizeof *voxels * D * SIZE);
    for (int d = 0; d < D; d++)
        for (int h = 0; h < H; h++)
            for (int w = 0; w < W; w++)
                voxels[(d * H + h) * W + w] =
                    (float)(500 + (250 * sin(0.9 * h) + 150 * cos(0.55 * w + 0.1 * h)) *
                                      (0.6 + 0.4 * cos(acos(-1) * d / 4)));
    *stack = (struct sr_stack){.voxels = voxels, .depth = D, .height = H, .width = W};
    stack->row_mm = stack->column_mm = 1;
    stack->slice_mm = 3;
    stack->thickness_mm = 3;
    return voxels;
}

static struct sr_options default_options(void)
{
    return (struct sr_options){.backend = "cpu", .weights_path = "start.safetensors", .clip = 1, .seed = 1};
}

static void write_start(void)
{
    struct fault_note why = {0};
    CHECK_OK(sr_write_start_weights("start.safetensors", 1, &why));
}

// Weights that do something: the last layer times `gain`, everything times `all`.
static void write_loud_all(double gain, double all)
{
    struct fault_note why = {0};
    struct net net;
    net_init(&net, net_config_p0());
    float *p = support_parameters(&net, 1);
    const struct net_linear *last = &net.linears[net.n_linears - 1];
    for (int i = 0; i < last->n_in; i++)
        p[last->weight + (size_t)i] *= (float)gain;
    for (size_t i = 0; i < net.n_parameters; i++)
        p[i] *= (float)all;
    CHECK_OK(weights_save("loud.safetensors", &net, p, NULL, &why));
    free(p);
}

static void write_loud(double gain)
{
    write_loud_all(gain, 1);
}

static void start_weights_add_nothing(void)
{
    struct fault_note why = {0};
    struct sr_stack stack;
    struct sr_report report;
    struct sr_options options = default_options();
    float *voxels = phantom(&stack), *residual = support_random(1, (size_t)N_PLANES * SIZE, 1, 2);
    write_start();
    CHECK_OK(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why));
    for (int i = 0; i < N_PLANES * SIZE; i++)
        if (residual[i] != 0)
            CHECK_FAIL("residual %d is %g, not 0", i, (double)residual[i]);
    CHECK_INT(report.delivered, SR_BASE);
    CHECK_CONTAINS(report.backend, "cpu (");
    CHECK(report.range_low < 110 && report.range_high > 890);
    CHECK(report.workspace_bytes > 1 << 20);
    CHECK_INT(report.in_plane.measured, 0);
    CHECK(isnan(report.in_plane.psnr_db[SR_LINEAR]));
    free(residual);
    free(voxels);
}

static void faults(void)
{
    struct fault_note why = {0};
    struct sr_stack stack;
    struct sr_report report;
    struct sr_options options = default_options();
    float *voxels = phantom(&stack), *residual = support_alloc(sizeof *residual * N_PLANES * SIZE);
    write_start();
    options.backend = "abacus";
    CHECK_FAULT(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why), FAULT_BACKEND);
    CHECK_CONTAINS(why.text, "no backend 'abacus': it is auto, cpu, cuda, cuda16 or ref");
#if !ISOSLICE_HAVE_CUDA
    options.backend = "cuda";
    CHECK_FAULT(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why), FAULT_BACKEND);
    CHECK_CONTAINS(why.text, "no backend 'cuda': ");
#endif
    options.backend = "cpu";
    options.weights_path = "absent.safetensors";
    CHECK_FAULT(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why), FAULT_IO);
    options = default_options();
    options.memory_bytes = 1 << 20;
    CHECK_FAULT(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why), FAULT_NO_MEMORY);
    options = default_options();
    struct sr_plane outside = {D - 1, 0.5};
    CHECK_FAULT(sr_run(&stack, &outside, 1, &options, residual, &report, &why), FAULT_INTERNAL);
    outside = (struct sr_plane){-1, 0};
    CHECK_FAULT(sr_run(&stack, &outside, 1, &options, residual, &report, &why), FAULT_INTERNAL);
    voxels[777] = NAN;
    CHECK_FAULT(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why), FAULT_NOT_FINITE);
    free(residual);
    free(voxels);
}

// Finite weights that overflow on the way: found in the result.
static void overflow_is_found(void)
{
    struct fault_note why = {0};
    struct sr_stack stack;
    struct sr_report report;
    struct sr_options options = default_options();
    float *voxels = phantom(&stack), *residual = support_alloc(sizeof *residual * N_PLANES * SIZE);
    write_loud_all(1, 1e6);
    options.weights_path = "loud.safetensors";
    CHECK_FAULT(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why), FAULT_NOT_FINITE);
    free(residual);
    free(voxels);
}

static void constant_stack(void)
{
    struct fault_note why = {0};
    struct sr_stack stack;
    struct sr_report report;
    struct sr_options options = default_options();
    float *voxels = phantom(&stack), *residual = support_random(1, (size_t)N_PLANES * SIZE, 1, 2);
    for (int i = 0; i < D * SIZE; i++)
        voxels[i] = 37;
    write_loud(1);
    options.weights_path = "loud.safetensors";
    options.finetune = options.choose = 1;
    options.steps = 2;
    CHECK_OK(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why));
    CHECK_INT(report.delivered, SR_LINEAR);
    for (int i = 0; i < N_PLANES * SIZE; i++)
        CHECK_NEAR(residual[i], 0, 0);
    free(residual);
    free(voxels);
}

static void clipping(void)
{
    struct fault_note why = {0};
    struct sr_stack stack;
    struct sr_report report;
    struct sr_options options = default_options();
    float *voxels = phantom(&stack), *residual = support_alloc(sizeof *residual * N_PLANES * SIZE);
    float *linear = support_alloc(sizeof *linear * SIZE);
    write_loud(200);
    options.weights_path = "loud.safetensors";
    for (options.clip = 0; options.clip < 2; options.clip++) {
        double low = HUGE_VAL, high = -HUGE_VAL;
        CHECK_OK(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why));
        for (int k = 0; k < N_PLANES; k++) {
            resample_linear(voxels, D, SIZE, wanted[k].slice, wanted[k].t, linear);
            for (int i = 0; i < SIZE; i++) {
                double value = (double)linear[i] + (double)residual[k * SIZE + i];
                low = value < low ? value : low;
                high = value > high ? value : high;
            }
        }
        double slack = 1e-3;
        if (options.clip)
            CHECK(low >= report.range_low - slack && high <= report.range_high + slack);
        else
            CHECK(low < report.range_low - 10 || high > report.range_high + 10);
    }
    free(linear);
    free(residual);
    free(voxels);
}

static int stop_at(void *user, const char *phase, double done, double total, const char *detail)
{
    (void)detail;
    CHECK(done >= 0 && done <= total);
    return strcmp(phase, user) == 0;
}

static void cancelled(void)
{
    char *const phases[] = {"fine-tune", "check", "interpolate"};
    struct sr_stack stack;
    struct sr_report report;
    struct sr_options options = default_options();
    float *voxels = phantom(&stack), *residual = support_alloc(sizeof *residual * N_PLANES * SIZE);
    write_loud(1);
    options.weights_path = "loud.safetensors";
    options.finetune = options.choose = 1;
    options.steps = 1;
    options.progress = stop_at;
    for (int i = 0; i < 3; i++) {
        struct fault_note why = {0};
        options.progress_user = phases[i];
        options.choose = i < 2; // the last one: the network is delivered, whatever the numbers
        CHECK_FAULT(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why), FAULT_CANCELLED);
        CHECK_CONTAINS(why.text, phases[i]);
    }
    free(residual);
    free(voxels);
}

static float *tuned(const struct sr_stack *stack, struct sr_options options, struct sr_report *report)
{
    struct fault_note why = {0};
    float *residual = support_alloc(sizeof *residual * N_PLANES * SIZE);
    options.finetune = 1;
    CHECK_OK(sr_run(stack, wanted, N_PLANES, &options, residual, report, &why));
    CHECK_INT(report->delivered, SR_TUNED);
    return residual;
}

static void finetune_is_repeatable(void)
{
    struct sr_stack stack;
    struct sr_report report;
    struct sr_options options = default_options();
    float *voxels = phantom(&stack);
    write_loud(0.05);
    options.weights_path = "loud.safetensors";
    options.steps = 3;
    float *one = tuned(&stack, options, &report);
    CHECK_INT(report.steps_done, 3);
    CHECK_INT(report.factor_train_max, 3);
    CHECK(report.loss_first > 0 && report.loss_last > 0 && report.seconds_finetune > 0);
    options.threads = 3;
    float *two = tuned(&stack, options, &report);
    support_equal("the same job again, on other threads", two, one, (size_t)N_PLANES * SIZE);
    options.seed = 2;
    float *other = tuned(&stack, options, &report);
    CHECK(report.step_best == 0 || support_differ(other, one, (size_t)N_PLANES * SIZE));
    free(one);
    free(two);
    free(other);
    free(voxels);
}

static void budget_becomes_steps(void)
{
    struct sr_stack stack;
    struct sr_report first = {0}, second = {0};
    struct sr_options options = default_options();
    float *voxels = phantom(&stack);
    struct fault_note why = {0};
    struct sr_recipe recipe = sr_recipe_default();
    // quick steps, so that a busy machine makes some
    CHECK_OK(sr_recipe_set(&recipe, "batch=1:slices=2:targets=1:second-round=0", &why));
    options.recipe = &recipe;
    write_loud(0.05);
    options.weights_path = "loud.safetensors";
    options.finetune = 1;
    float *one = support_alloc(sizeof *one * N_PLANES * SIZE);
    // on a busy machine, or under sanitizers, a budget may be over before the first step is
    for (options.budget_s = 4; options.budget_s <= 256; options.budget_s *= 2) {
        CHECK_OK(sr_run(&stack, wanted, N_PLANES, &options, one, &first, &why));
        printf("%d steps in %.1f of %.1f s\n", first.steps_done, first.seconds_finetune, options.budget_s);
        if (first.steps_done > 0)
            break;
        CHECK_INT(first.delivered, SR_BASE);
    }
    CHECK_INT(first.delivered, SR_TUNED);
    options.steps = first.steps_done;
    float *two = tuned(&stack, options, &second);
    CHECK_INT(second.steps_done, first.steps_done);
    CHECK_INT(second.step_best, first.step_best);
    support_equal("repeated with the step count", two, one, (size_t)N_PLANES * SIZE);
    free(one);
    free(two);
    free(voxels);
}

// A job that had time for no step takes none when it is repeated, however fast the machine then is.
static void no_step_again(void)
{
    struct sr_stack stack;
    struct sr_report report = {0};
    struct sr_options options = default_options();
    float *voxels = phantom(&stack);
    struct fault_note why = {0};
    write_loud(0.05);
    options.weights_path = "loud.safetensors";
    options.finetune = 1;
    options.budget_s = 1e-6;
    float *one = support_alloc(sizeof *one * N_PLANES * SIZE);
    CHECK_OK(sr_run(&stack, wanted, N_PLANES, &options, one, &report, &why));
    CHECK_INT(report.steps_done, 0);
    CHECK_INT(report.steps_planned, SR_NO_STEPS);
    CHECK_INT(report.delivered, SR_BASE);
    options.budget_s = 1e6;
    options.steps = report.steps_planned;
    float *two = support_alloc(sizeof *two * N_PLANES * SIZE);
    CHECK_OK(sr_run(&stack, wanted, N_PLANES, &options, two, &report, &why));
    CHECK_INT(report.steps_done, 0);
    CHECK_INT(report.steps_planned, SR_NO_STEPS);
    support_equal("repeated without a step", two, one, (size_t)N_PLANES * SIZE);
    free(one);
    free(two);
    free(voxels);
}

static int stop_and_note_total(void *user, const char *phase, double done, double total, const char *detail)
{
    (void)done;
    (void)detail;
    if (strcmp(phase, "fine-tune") != 0)
        return 0;
    *(double *)user = total;
    return 1;
}

// A day's budget, or a very fast machine's two minutes.
static void budget_has_most_steps(void)
{
    struct sr_stack stack;
    struct sr_report report;
    struct sr_options options = default_options();
    struct fault_note why = {0};
    double n_steps = 0;
    float *voxels = phantom(&stack), *residual = support_alloc(sizeof *residual * N_PLANES * SIZE);
    write_start();
    options.finetune = 1;
    options.budget_s = 86400;
    options.progress = stop_and_note_total;
    options.progress_user = &n_steps;
    CHECK_FAULT(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why), FAULT_CANCELLED);
    CHECK_NEAR(n_steps, SR_PLANNED_STEPS, 0);
    options.steps = SR_PLANNED_STEPS + 1;
    CHECK_FAULT(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why), FAULT_CANCELLED);
    CHECK_NEAR(n_steps, SR_PLANNED_STEPS + 1, 0);
    free(residual);
    free(voxels);
}

// On smooth waves the spline is best, and untrained weights are linear: the choice must find that out.
static void choice_is_cubic(void)
{
    struct fault_note why = {0};
    struct sr_stack stack;
    struct sr_report report;
    struct sr_options options = default_options();
    float *voxels = phantom(&stack), *residual = support_alloc(sizeof *residual * N_PLANES * SIZE);
    double *coefficients = support_alloc(sizeof *coefficients * D * SIZE),
           *cubic = support_alloc(sizeof *cubic * SIZE);
    float *linear = support_alloc(sizeof *linear * SIZE);
    write_start();
    options.choose = 1;
    CHECK_OK(sr_run(&stack, wanted, N_PLANES, &options, residual, &report, &why));
    printf("in plane %.2f %.2f %.2f, left out %.2f %.2f %.2f: %s\n", report.in_plane.psnr_db[0],
           report.in_plane.psnr_db[1], report.in_plane.psnr_db[2], report.left_out.psnr_db[0],
           report.left_out.psnr_db[1], report.left_out.psnr_db[2], report.reason);
    CHECK_INT(report.in_plane.measured, 1);
    CHECK_INT(report.left_out.measured, 1);
    CHECK_NEAR(report.in_plane.psnr_db[SR_BASE], report.in_plane.psnr_db[SR_LINEAR], 1e-9);
    CHECK(report.in_plane.psnr_db[SR_CUBIC] > report.in_plane.psnr_db[SR_LINEAR]);
    CHECK(isnan(report.in_plane.psnr_db[SR_TUNED]));
    CHECK_INT(report.delivered, SR_CUBIC);
    CHECK_CONTAINS(report.reason, "worth most over linear");
    CHECK_OK(resample_cubic_prepare(voxels, D, SIZE, coefficients, &why));
    for (int k = 0; k < N_PLANES; k++) {
        resample_linear(voxels, D, SIZE, wanted[k].slice, wanted[k].t, linear);
        resample_cubic(coefficients, D, SIZE, wanted[k].slice, wanted[k].t, cubic);
        for (int i = 0; i < SIZE; i++) {
            CHECK_NEAR((double)linear[i] + (double)residual[k * SIZE + i], cubic[i], 1e-3);
            if (wanted[k].t == 0)
                CHECK_NEAR(residual[k * SIZE + i], 0, 0);
        }
    }
    free(linear);
    free(cubic);
    free(coefficients);
    free(residual);
    free(voxels);
}

// Two slices of a small image: nothing can be measured, nothing can be trained, linear is delivered.
static void too_small_to_measure(void)
{
    struct fault_note why = {0};
    struct sr_report report;
    struct sr_options options = default_options();
    const struct sr_plane plane = {0, 0.5};
    float *voxels = support_random(1, (size_t)2 * 9 * 7, 0, 1), residual[63];
    struct sr_stack stack = {
        .voxels = voxels, .depth = 2, .height = 9, .width = 7, .row_mm = 1, .column_mm = 1};
    stack.slice_mm = 5;
    write_loud(1);
    options.weights_path = "loud.safetensors";
    options.finetune = options.choose = 1;
    options.steps = 4;
    CHECK_OK(sr_run(&stack, &plane, 1, &options, residual, &report, &why));
    CHECK_INT(report.steps_done, 0);
    CHECK_INT(report.in_plane.measured, 0);
    CHECK_CONTAINS(report.in_plane.note, "too small");
    CHECK_INT(report.left_out.measured, 0);
    CHECK_CONTAINS(report.left_out.note, "too few");
    CHECK_INT(report.delivered, SR_LINEAR);
    CHECK_CONTAINS(report.reason, "nothing could be measured");
    for (int i = 0; i < 63; i++)
        CHECK_NEAR(residual[i], 0, 0);
    free(voxels);
}

// --------------------------------------------------------------------------------------------- the choice

static enum sr_method choose(const double in_plane[SR_N_METHODS], const double left_out[SR_N_METHODS],
                             char *reason)
{
    struct sr_report report = {0};
    report.in_plane.measured = in_plane != NULL;
    report.left_out.measured = left_out != NULL;
    for (int i = 0; i < SR_N_METHODS; i++) {
        report.in_plane.psnr_db[i] = in_plane != NULL ? in_plane[i] : NAN;
        report.left_out.psnr_db[i] = left_out != NULL ? left_out[i] : NAN;
    }
    quality_choose(&report);
    snprintf(reason, sizeof report.reason, "%s", report.reason);
    return report.delivered;
}

static void choice(void)
{
    static const struct {
        double in_plane[SR_N_METHODS], left_out[SR_N_METHODS];
        enum sr_method want;
    } cases[] = {
        {{30, 31, 32, 33}, {25, 25.1, 25.2, 25.3}, SR_TUNED},
        {{30, 31, 32, 33},
         {25, 25.1, 25.2, 24.8},
         SR_TUNED}, // a small loss over twice the distance is no veto
        {{30, 31, 32, 35}, {25, 25.1, 25.2, 24.49}, SR_BASE}, // a large one is
        {{30, 31, 32, 29.9}, {25, 25, 25, 29}, SR_BASE},      // below linear in plane is
        {{30, 31, 30.5, 33}, {25, 25, 25.2, 24}, SR_CUBIC},
        {{30, 31, 32, 33}, {25, 24, 24, 24}, SR_LINEAR},      // real series with banding
        {{30, 30.2, 30, NAN}, {25, 25.1, 25, NAN}, SR_CUBIC}, // no fine-tune
        {{30, 30, 30, 30}, {25, 25, 25, 25}, SR_LINEAR},      // no gain: the simplest
        {{30, 30.4, 30.9, 30.5},
         {25, 25.8, 25.1, 25.6},
         SR_CUBIC}, // the largest mean, not the largest on one
        {{30, 30.4, NAN, NAN}, {25, NAN, 26, NAN}, SR_LINEAR},
    };
    char reason[160];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        CHECK_INT(choose(cases[i].in_plane, cases[i].left_out, reason), cases[i].want);
    CHECK_INT(choose(cases[0].in_plane, NULL, reason), SR_TUNED);
    CHECK_INT(choose(NULL, cases[5].left_out, reason), SR_LINEAR);
    CHECK_CONTAINS(reason, "the test that could be made");
    CHECK_INT(choose(NULL, NULL, reason), SR_LINEAR);
    CHECK_CONTAINS(reason, "nothing could be measured");
}

// What a method loses on the slices left out counts only beyond what it loses on the same test in plane.
static void choice_with_control(void)
{
    static const struct {
        double in_plane[SR_N_METHODS], left_out[SR_N_METHODS], control[SR_N_METHODS];
        enum sr_method want;
    } cases[] = {
        {{30, 31, 32, 35}, {25, 24, 24, 23}, {26, 25, 25, 24}, SR_TUNED},    // lost as expected
        {{30, 31, 32, 33}, {25, 25, 24.8, 21}, {26, 26, 26, 25.9}, SR_BASE}, // tuned falls short by 3.9
        {{30, 31, 32, 33}, {25, 22, 22, 21}, {26, 26, 26, 26}, SR_LINEAR}, // all fall short: banding, motion
        {{30, 31, 32, 32.5},
         {25, 25, 29, 25},
         {26, 26, 26, 26},
         SR_TUNED}, // more than expected is no bonus ...
        {{30, 31, 31.9, 33}, {25, 25, 29, 25.9}, {26, 26, 26, 26.9}, SR_TUNED}, // ... but no loss either
        {{30, 29.9, 30, 29}, {25, 27, 25, 27}, {26, 26, 26, 26}, SR_LINEAR},  // below linear in plane is out
        {{30, 31, 32, NAN}, {25, 25, 24, NAN}, {26, 26, 25.5, NAN}, SR_BASE}, // no fine-tune
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sr_report report = {.in_plane.measured = 1, .left_out.measured = 1, .control.measured = 1};
        for (int m = 0; m < SR_N_METHODS; m++) {
            report.in_plane.psnr_db[m] = cases[i].in_plane[m];
            report.left_out.psnr_db[m] = cases[i].left_out[m];
            report.control.psnr_db[m] = cases[i].control[m];
        }
        quality_choose(&report);
        printf("%zu: %s, %s\n", i, sr_method_name(report.delivered), report.reason);
        CHECK_INT(report.delivered, cases[i].want);
    }
}

static void psnr(void)
{
    CHECK_NEAR(quality_psnr(1), 0, 1e-12);
    CHECK_NEAR(quality_psnr(1e-3), 30, 1e-12);
    CHECK_NEAR(quality_psnr(0), QUALITY_MOST_DB, 1e-9);
}

// --------------------------------------------------------------------------------------------- pairs

static int meets(const struct pairs *pairs, const struct sr_cut *cut, const struct pairs_place *place)
{
    int reach = (int)floor(3 * (double)cut->fwhm / 2.354820045 + 0.5);
    int from = cut->first - reach, to = cut->first + (pairs->slices - 1) * cut->factor + reach;
    int row = cut->axis == 1 ? from : cut->column,
        last_row = cut->axis == 1 ? to : cut->column + pairs->columns - 1;
    int column = cut->axis == 1 ? cut->column : from;
    int last_column = cut->axis == 1 ? cut->column + pairs->columns - 1 : to;
    return row < place->row + place->rows && last_row >= place->row &&
           column < place->column + place->columns && last_column >= place->column;
}

static int same_cut(const struct sr_cut *a, const struct sr_cut *b)
{
    return a->axis == b->axis && a->first == b->first && a->factor == b->factor && a->row == b->row &&
           a->column == b->column && a->flip_slices == b->flip_slices && a->flip_rows == b->flip_rows &&
           a->flip_columns == b->flip_columns && memcmp(a->position, b->position, sizeof a->position) == 0;
}
// ------------------------------------------------------------------------------------------- uniformity

enum { EVEN_SIDE = 128, EVEN_SIZE = EVEN_SIDE * EVEN_SIDE, EVEN_DEPTH = 5 };

// White noise of standard deviation 20 (sums of four uniform numbers) on tissue of 1000 that fills half of
// every slice; the other half is air, 0.
static float *noisy_stack(struct sr_stack *stack)
{
    float *parts = support_random(7, (size_t)4 * EVEN_DEPTH * EVEN_SIZE, -1, 1);
    float *voxels = support_alloc(sizeof *voxels * EVEN_DEPTH * EVEN_SIZE);
    for (size_t i = 0; i < (size_t)EVEN_DEPTH * EVEN_SIZE; i++)
        voxels[i] = i % EVEN_SIDE < EVEN_SIDE / 2
                        ? (float)(1000 + 20 * sqrt(0.75) *
                                             (double)(parts[4 * i] + parts[4 * i + 1] + parts[4 * i + 2] +
                                                      parts[4 * i + 3]))
                        : 0;
    free(parts);
    *stack = (struct sr_stack){
        .voxels = voxels, .depth = EVEN_DEPTH, .height = EVEN_SIDE, .width = EVEN_SIDE, .slice_mm = 3};
    return voxels;
}

static void uniformity_of_linear(void)
{
    struct fault_note why = {0};
    struct sr_stack stack;
    struct sr_uniformity found;
    const struct sr_plane planes[] = {{0, 0}, {1, 0.25}, {2, 0.5}, {4, 0}};
    float *voxels = noisy_stack(&stack), *residual = support_alloc(sizeof *residual * 4 * EVEN_SIZE);
    memset(residual, 0, sizeof *residual * 4 * EVEN_SIZE);
    CHECK_OK(uniformity_measure(&stack, 0, planes, 4, residual, &found, &why));
    CHECK_NEAR(found.intensity, 1, 1e-12);
    CHECK_NEAR(found.noise, sqrt(0.5), 0.03); // of 8000 values: 1.5 % is one standard error
    CHECK_INT(found.noise_plane, 2);
    CHECK_OK(uniformity_measure(&stack, 0, planes, 1, residual, &found, &why));
    CHECK_NEAR(found.noise, 1, 1e-12);
    free(residual);
    free(voxels);
}

static void uniformity_finds_the_worst(void)
{
    struct fault_note why = {0};
    struct sr_stack stack;
    struct sr_uniformity found;
    const struct sr_plane planes[] = {{0, 0}, {1, 0}, {2, 0}, {3, 0}};
    float *voxels = noisy_stack(&stack), *residual = support_alloc(sizeof *residual * 4 * EVEN_SIZE);
    memset(residual, 0, sizeof *residual * 4 * EVEN_SIZE);
    for (int i = 0; i < EVEN_SIZE; i++) {
        // a plane 3 % brighter, one 5 % darker, and in air anything
        residual[1 * EVEN_SIZE + i] = i % EVEN_SIDE < EVEN_SIDE / 2 ? 33 : 5000;
        residual[3 * EVEN_SIZE + i] = i % EVEN_SIDE < EVEN_SIDE / 2 ? -45 : (float)(i % 7) * 100;
        // half of the noise, and further down three times as much, which is farther from 1
        float noise = voxels[2 * EVEN_SIZE + i] - 1000;
        residual[2 * EVEN_SIZE + i] = i % EVEN_SIDE < EVEN_SIDE / 2 ? -noise / 2 : 0;
    }
    CHECK_OK(uniformity_measure(&stack, 100, planes, 4, residual, &found, &why));
    CHECK_NEAR(found.intensity, 1 - 45. / 900, 1e-3);
    CHECK_INT(found.intensity_plane, 3);
    CHECK_NEAR(found.noise, 0.5, 1e-3);
    CHECK_INT(found.noise_plane, 2);
    for (int i = 0; i < EVEN_SIZE; i++)
        residual[i] = i % EVEN_SIDE < EVEN_SIDE / 2 ? 2 * (voxels[i] - 1000) : 0;
    CHECK_OK(uniformity_measure(&stack, 100, planes, 4, residual, &found, &why));
    CHECK_NEAR(found.noise, 3, 1e-3);
    CHECK_INT(found.noise_plane, 0);
    free(residual);
    free(voxels);
}

static void uniformity_cannot(void)
{
    struct fault_note why = {0};
    struct sr_stack stack;
    struct sr_uniformity found;
    const struct sr_plane plane = {1, 0};
    float *voxels = noisy_stack(&stack), *residual = support_alloc(sizeof *residual * EVEN_SIZE);
    memset(residual, 0, sizeof *residual * EVEN_SIZE);
    stack.height = 2 * UNIFORMITY_LEAST_PIXELS / EVEN_SIDE - 1; // 64 pixels of tissue in a row
    CHECK_OK(uniformity_measure(&stack, 0, &plane, 1, residual, &found, &why));
    CHECK(isnan(found.noise) && isnan(found.intensity));
    stack.height++;
    CHECK_OK(uniformity_measure(&stack, 0, &plane, 1, residual, &found, &why));
    CHECK_NEAR(found.noise, 1, 1e-12);
    CHECK_NEAR(found.intensity, 1, 1e-12);
    for (size_t i = 0; i < (size_t)EVEN_DEPTH * EVEN_SIZE; i++)
        voxels[i] = voxels[i] > 0 ? 1000 : 0;
    CHECK_OK(uniformity_measure(&stack, 0, &plane, 1, residual, &found, &why));
    CHECK(isnan(found.noise));
    CHECK_NEAR(found.intensity, 1, 1e-12);
    free(residual);
    free(voxels);
}

// The engine's report is of its own planes, whatever is delivered.
static void uniformity_of_a_job(void)
{
    struct fault_note why = {0};
    struct sr_stack stack;
    struct sr_report report;
    struct sr_uniformity found;
    const struct sr_plane planes[] = {{0, 0.5}, {2, 0}, {3, 0.25}};
    float *voxels = noisy_stack(&stack), *residual = support_alloc(sizeof *residual * 3 * EVEN_SIZE);
    stack.row_mm = stack.column_mm = 1;
    stack.thickness_mm = 3;
    write_loud(2);
    struct sr_options options = default_options();
    options.weights_path = "loud.safetensors";
    CHECK_OK(sr_run(&stack, planes, 3, &options, residual, &report, &why));
    CHECK_OK(uniformity_measure(&stack, report.range_low, planes, 3, residual, &found, &why));
    CHECK(fabs(log(found.noise)) > 1e-3 && fabs(log(found.intensity)) > 1e-6);
    CHECK_NEAR(report.uniformity.noise, found.noise, 0);
    CHECK_NEAR(report.uniformity.intensity, found.intensity, 0);
    CHECK_INT(report.uniformity.noise_plane, found.noise_plane);
    CHECK_INT(report.uniformity.intensity_plane, found.intensity_plane);
    free(residual);
    free(voxels);
}

static void draws_keep_out(void)
{
    enum { DEPTH = 7, DRAWS = 3000, TARGETS = 2 };
    static const int sizes[][2] = {{256, 224}, {90, 300}, {512, 384}, {64, 64}};
    struct fault_note why = {0};
    struct sr_recipe recipe = sr_recipe_default();
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        struct pairs pairs;
        struct sr_stack stack = {.depth = DEPTH, .height = sizes[k][0], .width = sizes[k][1], .row_mm = 0.9};
        size_t size = (size_t)stack.height * (size_t)stack.width;
        float *voxels = support_random(k, DEPTH * size, 0, 1);
        int seen[65] = {0}, axes[3] = {0}, flips = 0;
        stack.column_mm = 0.9;
        stack.slice_mm = 6.5;
        stack.thickness_mm = 5;
        CHECK_OK(pairs_plan(&pairs, &stack, voxels, &recipe, &why));
        CHECK_INT(pairs.factor[1], 7);
        CHECK(pairs.slices >= 2 && pairs.n_places >= 1);
        double held = 0;
        for (int i = 0; i < pairs.n_places; i++)
            held += pairs.places[i].rows * pairs.places[i].columns;
        printf("%d x %d: %d samples' slices, %d wide, factors %d-%d, %.1f %% held out\n", stack.height,
               stack.width, pairs.slices, pairs.columns, pairs.factor_min, pairs.factor_true,
               100 * held / (double)size);
        CHECK(held > 0.04 * (double)size && held < 0.13 * (double)size);
        for (uint64_t i = 0; i < DRAWS; i++) {
            struct sr_cut cut = pairs_draw(&pairs, 5, i, TARGETS), again = pairs_draw(&pairs, 5, i, TARGETS);
            int length = cut.axis == 1 ? stack.height : stack.width,
                across = cut.axis == 1 ? stack.width : stack.height;
            CHECK(same_cut(&cut, &again));
            CHECK(cut.first >= 0 && cut.first + (pairs.slices - 1) * cut.factor < length);
            CHECK(cut.column >= 0 && cut.column + pairs.columns <= across);
            CHECK(cut.row >= 0 && cut.row + pairs.rows <= DEPTH);
            CHECK_NEAR(cut.fwhm, cut.factor * 5 / 6.5, 1e-5);
            for (int p = 0; p < pairs.n_places; p++)
                CHECK(!meets(&pairs, &cut, &pairs.places[p]));
            for (int gap = 0; gap + 1 < pairs.slices; gap++)
                for (int t = 0; t < TARGETS; t++) {
                    int at = cut.flip_slices ? cut.factor - cut.position[gap][t] : cut.position[gap][t];
                    CHECK(at >= 0 && at < cut.factor);
                }
            CHECK(cut.factor >= pairs.factor_min && cut.factor <= pairs.factor_true);
            seen[cut.factor]++;
            axes[cut.axis]++;
            flips += cut.flip_rows + cut.flip_columns + cut.flip_slices;
        }
        CHECK(seen[pairs.factor_true] > DRAWS * 0.5 && seen[pairs.factor_min] > 0);
        CHECK_INT(axes[1], DRAWS / 2);
        CHECK(flips > DRAWS * 1.4 && flips < DRAWS * 1.6);
        pairs_done(&pairs);
        free(voxels);
    }
}

static int open_check_of(int i, struct pairs_check *check, const struct pairs *pairs, struct fault_note *why)
{
    return i < 2 ? pairs_check_init(check, pairs, 1 + i % 2, 1, 1, why)
                 : pairs_control_init(check, pairs, 1 + i % 2, 1, why);
}

// A check of a place looks at an estimate, whose rows are as far apart as pixels; those at acquired slices
// alone are scored. All of them are the network's, and what linear interpolation gives where it adds nothing.
static void rows_between(const float *parameters, int is_linear)
{
    enum { DEPTH = 9, SIDE = 96, FACTOR = 4 };
    struct fault_note why;
    struct model model;
    struct sr_stack stack = {
        .depth = DEPTH, .height = SIDE, .width = SIDE, .row_mm = 1, .column_mm = 1, .slice_mm = FACTOR};
    struct interpolate_limits limits = {.memory_bytes = (size_t)1 << 30, .phase = "test"};
    struct quality_method linear = {SR_LINEAR, NULL, 1, &limits};
    struct sr_recipe recipe = sr_recipe_default();
    struct pairs pairs;
    struct pairs_check plain[4], dense;
    float *voxels = support_random(3, (size_t)DEPTH * SIDE * SIDE, 0, 1);
    CHECK_OK(model_open(&model, support_ops("cpu"), net_config_p0(), 0, &why));
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    CHECK_OK(pairs_plan(&pairs, &stack, voxels, &recipe, &why));
    for (int i = 0; i < 4; i++)
        CHECK_OK(open_check_of(i, &plain[i], &pairs, &why));
    CHECK_OK(estimate_places(&model, &pairs, &limits, &why));
    for (int i = 0; i < 4; i++) {
        CHECK_OK(open_check_of(i, &dense, &pairs, &why));
        CHECK_INT(dense.row_step, FACTOR);
        CHECK_INT(dense.rows, (DEPTH - 1) * FACTOR + 1);
        CHECK_INT(dense.depth, plain[i].depth);
        CHECK_INT(dense.columns, plain[i].columns);
        CHECK_INT((int)dense.n_planes, (int)plain[i].n_planes);
        size_t wide = (size_t)dense.columns;
        double off[2] = {
            0}; // of the acquired row from itself, of the row midway from the mean of its neighbours
        for (size_t d = 0; d < (size_t)dense.depth; d++)
            for (size_t at = 0; at < (DEPTH - 1) * wide; at++) {
                const float *was = plain[i].stack + d * DEPTH * wide + at;
                const float *is =
                    dense.stack + d * (size_t)dense.rows * wide + at / wide * FACTOR * wide + at % wide;
                off[0] = fmax(off[0], fabs((double)is[0] - (double)was[0]));
                off[1] =
                    fmax(off[1], fabs((double)is[2 * wide] - 0.5 * ((double)was[0] + (double)was[wide])));
            }
        printf("at most %.3g from acquired rows, %.3g from linear between them\n", off[0], off[1]);
        for (int k = 0; k < 2; k++)
            CHECK(is_linear ? off[k] < 1e-6 : off[k] > 1e-3);
        double sum[2] = {0}, count[2] = {0};
        CHECK_OK(quality_check(&linear, &plain[i], &sum[0], &count[0], &why));
        CHECK_OK(quality_check(&linear, &dense, &sum[1], &count[1], &why));
        CHECK_NEAR(count[1], count[0], 0);
        if (is_linear)
            CHECK_NEAR(sum[1], sum[0], 1e-5 * sum[0]);
        pairs_check_done(&dense);
        pairs_check_done(&plain[i]);
    }
    pairs_done(&pairs);
    model_close(&model);
    free(voxels);
}

static void checks_have_rows_between(void)
{
    struct net net;
    net_init(&net, net_config_p0());
    float *p = support_alloc(net.n_parameters * sizeof *p);
    weights_init(&net, 1, p);
    rows_between(p, 1);
    free(p);
    p = support_parameters(&net, 1);
    rows_between(p, 0);
    free(p);
}

// Along an axis that was resampled to finer pixels nothing is learnt and nothing checked, whatever the recipe
// says.
static void resampled_axis_is_left_out(void)
{
    enum { DEPTH = 6, SIDE = 96 };
    struct fault_note why;
    struct sr_stack stack = {
        .depth = DEPTH, .height = SIDE, .width = SIDE, .row_mm = 1, .column_mm = 1, .slice_mm = 4};
    float *voxels = support_random(3, (size_t)DEPTH * SIDE * SIDE, 0, 1);
    for (int smooth = 1; smooth <= 2; smooth++)
        for (int axes = SR_AXES_BOTH; axes <= SR_AXES_COLUMNS; axes++) {
            struct sr_recipe recipe = sr_recipe_default();
            struct pairs pairs;
            struct pairs_check check;
            recipe.axes = axes;
            stack.smooth_axis = smooth;
            CHECK_OK(pairs_plan(&pairs, &stack, voxels, &recipe, &why));
            CHECK(pairs.slices >= 2 && pairs.n_places > 0);
            for (uint64_t i = 0; i < 50; i++)
                CHECK_INT(pairs_draw(&pairs, 5, i, 2).axis, 3 - smooth);
            CHECK_INT(pairs_check_init(&check, &pairs, smooth, 0, 1, &why), FAULT_NOTHING_TO_DO);
            CHECK_INT(pairs_control_init(&check, &pairs, smooth, 0, &why), FAULT_NOTHING_TO_DO);
            CHECK_OK(pairs_check_init(&check, &pairs, 3 - smooth, 0, 1, &why));
            pairs_check_done(&check);
            pairs_done(&pairs);
        }
    free(voxels);
}

// A check's stack is the volume blurred and decimated: constant stays constant, the truth is the volume
// itself.
static void checks_are_degraded(void)
{
    enum { DEPTH = 5, SIDE = 80 };
    struct fault_note why = {0};
    struct pairs pairs;
    struct pairs_check check;
    struct sr_stack stack = {
        .depth = DEPTH, .height = SIDE, .width = SIDE, .row_mm = 1, .column_mm = 1, .slice_mm = 4};
    float *voxels = support_alloc(sizeof *voxels * DEPTH * SIDE * SIDE);
    for (int z = 0; z < DEPTH; z++)
        for (int h = 0; h < SIDE; h++)
            for (int w = 0; w < SIDE; w++)
                voxels[(z * SIDE + h) * SIDE + w] = (float)h; // a slope along the rows
    stack.slice_mm = 4;
    struct sr_recipe recipe = sr_recipe_default();
    CHECK_OK(pairs_plan(&pairs, &stack, voxels, &recipe, &why));
    for (int axis = 1; axis <= 2; axis++) {
        CHECK_OK(pairs_check_init(&check, &pairs, axis, 0, 1, &why));
        CHECK_INT(check.rows, DEPTH);
        size_t plane = (size_t)check.rows * (size_t)check.columns;
        for (size_t k = 0; k < check.n_planes; k++) {
            const struct sr_plane *at = &check.planes[k];
            CHECK(at->slice + 1 < check.depth);
            float *linear = support_alloc(plane * sizeof *linear);
            resample_linear(check.stack, check.depth, plane, at->slice, at->t, linear);
            // away from the image's border a symmetric profile leaves a slope as it is, and so does linear
            if (axis == 2 || (at->slice > 0 && at->slice + 2 < check.depth))
                for (size_t i = 0; i < plane; i++)
                    CHECK_NEAR(linear[i], check.truth[k * plane + i], 1e-3);
            free(linear);
        }
        CHECK(check.n_planes > 3);
        pairs_check_done(&check);
    }
    for (int axis = 1; axis <= 2;
         axis++) { // the control: midway between lines twice as far apart, blurred alike
        CHECK_OK(pairs_control_init(&check, &pairs, axis, 0, &why));
        CHECK(check.n_planes > 0);
        size_t plane = (size_t)check.rows * (size_t)check.columns;
        for (size_t k = 0; k < check.n_planes; k++) {
            const struct sr_plane *at = &check.planes[k];
            CHECK_NEAR(at->t, 0.5, 0);
            if (axis == 1 && at->slice > 0 && at->slice + 2 < check.depth) // a slope of 8 lines between them
                for (size_t i = 0; i < plane; i++) {
                    double low = (double)check.stack[(size_t)at->slice * plane + i];
                    CHECK_NEAR(check.truth[k * plane + i], low + 4, 1e-3);
                    CHECK_NEAR(check.stack[((size_t)at->slice + 1) * plane + i], low + 8, 1e-3);
                }
        }
        pairs_check_done(&check);
    }
    pairs_done(&pairs);
    free(voxels);
}

// However many planes are left out to save time, those that stay are of every share of a gap alike.
static void checks_see_every_share(void)
{
    enum { DEPTH = 5, SIDE = 200, MOST = 12 };
    float *voxels = support_random(3, (size_t)DEPTH * SIDE * SIDE, 0, 1);
    for (int factor = 2; factor <= MOST; factor++)
        for (int stride = 1; stride <= 3; stride++) {
            struct fault_note why = {0};
            struct pairs pairs;
            struct pairs_check check;
            struct sr_recipe recipe = sr_recipe_default();
            struct sr_stack stack = {.depth = DEPTH,
                                     .height = SIDE,
                                     .width = SIDE,
                                     .row_mm = 1,
                                     .column_mm = 1,
                                     .slice_mm = factor};
            int seen[MOST] = {0}, most = 0, least = SIDE;
            CHECK_OK(pairs_plan(&pairs, &stack, voxels, &recipe, &why));
            CHECK_OK(pairs_check_init(&check, &pairs, 1, 0, stride, &why));
            for (size_t k = 0; k < check.n_planes; k++)
                seen[(int)lround(check.planes[k].t * factor)]++;
            for (int i = 0; i < factor; i++) {
                most = seen[i] > most ? seen[i] : most;
                least = seen[i] < least ? seen[i] : least;
            }
            CHECK(most - least <= 1 && most > 0);
            pairs_check_done(&check);
            pairs_done(&pairs);
        }
    free(voxels);
}

// --------------------------------------------------------------------------------------------- small things

enum { LOOPS = 2000, TASKS = 37 };

struct counter {
    atomic_int runs[TASKS];
    atomic_int busy[4]; // threads that are inside a task
};

static void count_task(void *user, int task, int thread)
{
    struct counter *counter = user;
    CHECK(thread >= 0 && thread < 4);
    CHECK_INT(atomic_fetch_add(&counter->busy[thread], 1), 0);
    atomic_fetch_add(&counter->runs[task], 1);
    atomic_fetch_sub(&counter->busy[thread], 1);
}

static void pool_runs_every_task_once(void)
{
    struct fault_note why = {0};
    struct pool *pool;
    static struct counter counter;
    CHECK_OK(pool_open(4, &pool, &why));
    CHECK_INT(pool_threads(pool), 4);
    for (int loop = 1; loop <= LOOPS; loop++) {
        pool_run(pool, TASKS, count_task, &counter);
        for (int i = 0; i < TASKS; i++)
            CHECK_INT(atomic_load(&counter.runs[i]), loop);
    }
    pool_close(pool);
}

static void random_is_uniform(void)
{
    enum { N = 200000, BINS = 10 };
    struct random_stream a = random_open(1, 2, 3), b = random_open(1, 2, 3), c = random_open(1, 2, 4);
    int bins[BINS] = {0}, same = 0;
    for (int i = 0; i < N; i++) {
        uint64_t x = random_next(&a);
        CHECK(x == random_next(&b));
        same += x == random_next(&c);
        bins[random_between(&a, 0, BINS - 1)]++;
        b = a;
    }
    CHECK_INT(same, 0);
    for (int i = 0; i < BINS; i++)
        CHECK_NEAR(bins[i], (double)N / BINS, 5 * sqrt((double)N / BINS));
}

// The default recipe moves the network's result towards the slices, by half of what is not noise; nothing is
// moved for the bare network, nor where slices overlap so far that the correction would be ill-conditioned.
static void agrees_with_the_slices(void)
{
    enum { N = 4 * (D - 1) + 1, ALL = N * SIZE };
    static struct sr_plane planes[N];
    struct fault_note why = {0};
    struct sr_stack stack;
    struct sr_report report;
    struct sr_options options = default_options();
    struct sr_recipe recipe = sr_recipe_default();
    recipe.ensemble = 1; // the correction alone
    float *voxels = phantom(&stack), *bare = support_alloc(sizeof *bare * ALL),
          *got = support_alloc(sizeof *got * ALL);
    for (int k = 0; k < N; k++)
        planes[k] = (struct sr_plane){k / 4, (k % 4) / 4.0};
    write_loud(1);
    options.weights_path = "loud.safetensors";
    options.clip = 0;
    CHECK_OK(sr_run(&stack, planes, N, &options, bare, &report, &why));
    CHECK_NEAR(report.consistency, 0, 0);
    options.recipe = &recipe;
    CHECK_OK(sr_run(&stack, planes, N, &options, got, &report, &why));
    double noise, share = 0.5, scale = report.range_high - report.range_low, off = 0;
    for (int i = 0; i < D * SIZE; i++)
        voxels[i] = (float)(((double)voxels[i] - report.range_low) / scale);
    for (int i = 0; i < ALL; i++)
        bare[i] = (float)((double)bare[i] / scale);
    CHECK_OK(consistency_noise(voxels, D, H, W, planes, N, 1, bare, &noise, &why));
    CHECK_OK(consistency_apply(voxels, D, SIZE, planes, N, 1, noise, &share, bare, &why));
    printf("noise %.3g, %.3g of the correction\n", noise, share);
    CHECK(share > 0.1 && share < 0.5);
    CHECK_NEAR(report.consistency, share, 1e-5);
    for (int i = 0; i < ALL; i++)
        off = fmax(off, fabs((double)got[i] - scale * (double)bare[i]));
    printf("off by %.3g of %.3g\n", off, scale);
    CHECK(off < 1e-5 * scale);
    free(voxels);
    voxels = phantom(&stack);
    stack.thickness_mm = 1.26 * stack.slice_mm;
    CHECK_OK(sr_run(&stack, planes, N, &options, got, &report, &why));
    CHECK_NEAR(report.consistency, 0, 0);
    options.recipe = NULL;
    CHECK_OK(sr_run(&stack, planes, N, &options, bare, &report, &why));
    support_equal("overlapping slices", got, bare, ALL);
    free(got);
    free(bare);
    free(voxels);
}

static void method_names(void)
{
    CHECK_STR(sr_method_name(SR_LINEAR), "linear");
    CHECK_STR(sr_method_name(SR_CUBIC), "cubic");
    CHECK_STR(sr_method_name(SR_BASE), "base");
    CHECK_STR(sr_method_name(SR_TUNED), "tuned");
}

static const struct test tests[] = {
    {"unit.engine.start_weights_add_nothing", start_weights_add_nothing},
    {"unit.engine.faults", faults},
    {"unit.engine.overflow_is_found", overflow_is_found},
    {"unit.engine.constant_stack", constant_stack},
    {"unit.engine.clipping", clipping},
    {"unit.engine.cancelled", cancelled},
    {"unit.engine.finetune_is_repeatable", finetune_is_repeatable},
    {"unit.engine.budget_becomes_steps", budget_becomes_steps},
    {"unit.engine.no_step_again", no_step_again},
    {"unit.engine.budget_has_most_steps", budget_has_most_steps},
    {"unit.engine.choice_is_cubic", choice_is_cubic},
    {"unit.engine.agrees_with_the_slices", agrees_with_the_slices},
    {"unit.engine.too_small_to_measure", too_small_to_measure},
    {"unit.engine.method_names", method_names},
    {"unit.quality.choice", choice},
    {"unit.quality.choice_with_control", choice_with_control},
    {"unit.quality.psnr", psnr},
    {"unit.uniformity.linear_is_smooth_midway", uniformity_of_linear},
    {"unit.uniformity.finds_the_worst_plane", uniformity_finds_the_worst},
    {"unit.uniformity.says_when_it_cannot", uniformity_cannot},
    {"unit.uniformity.is_of_what_is_delivered", uniformity_of_a_job},
    {"unit.pairs.draws_keep_out", draws_keep_out},
    {"unit.pairs.checks_are_degraded", checks_are_degraded},
    {"unit.pairs.checks_see_every_share", checks_see_every_share},
    {"unit.pairs.checks_have_rows_between", checks_have_rows_between},
    {"unit.pairs.resampled_axis_is_left_out", resampled_axis_is_left_out},
    {"unit.pool.every_task_once", pool_runs_every_task_once},
    {"unit.random.uniform", random_is_uniform},
};

TEST_MAIN(tests)
