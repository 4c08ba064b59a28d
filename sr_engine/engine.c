// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/engine.h"

#include "core/clock.h"
#include "sr_engine/consistency.h"
#include "sr_engine/estimate.h"
#include "sr_engine/finetune.h"
#include "sr_engine/interpolate.h"
#include "sr_engine/model.h"
#include "sr_engine/normalise.h"
#include "sr_engine/pairs.h"
#include "sr_engine/quality.h"
#include "sr_engine/resample.h"
#include "sr_engine/uniformity.h"
#include "sr_engine/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A job between its steps. Everything is freed by run_done().
struct run {
    const struct sr_stack *stack;
    const struct sr_plane *planes;
    size_t n_planes, plane_size;
    const struct sr_options *options;
    struct sr_recipe recipe;
    struct sr_report *report;
    size_t memory_bytes;
    struct model model;
    float *parameters; // of the weights file
    float *tuned;      // after the fine-tune; NULL when there was none
    float *normalised; // [D,H,W]
    struct pairs pairs;
    float *residual; // caller's
};

const char *sr_method_name(enum sr_method method)
{
    static const char *const names[SR_N_METHODS] = {"linear", "cubic", "base", "tuned"};
    return method >= 0 && method < SR_N_METHODS ? names[method] : "unknown";
}

// Of few sizes, so that a little more or less of free memory changes no tile, and so no digit.
static size_t default_memory(void)
{
    static const size_t LEAST_MEMORY = (size_t)64 << 20;
    size_t kilobytes = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "MemAvailable:", 13) == 0)
            kilobytes = strtoull(line + 13, NULL, 10);
    if (file != NULL)
        fclose(file);
    size_t half = kilobytes > 0 ? kilobytes * 512 : (size_t)1 << 29, limit = SR_MEMORY_MOST;
    while (limit > half && limit > LEAST_MEMORY)
        limit /= 2;
    return limit;
}

static int check_input(const struct run *run, struct fault_note *why)
{
    const struct sr_stack *stack = run->stack;
    if (stack->depth < 2 || stack->height < 1 || stack->width < 1)
        return fault_set(why, FAULT_INTERNAL, "a stack of %dx%dx%d cannot be interpolated", stack->depth,
                         stack->height, stack->width);
    for (size_t i = 0; i < run->n_planes; i++) {
        const struct sr_plane *plane = &run->planes[i];
        int last = plane->slice == stack->depth - 1;
        if (plane->slice < 0 || plane->slice >= stack->depth || !(plane->t >= 0 && plane->t < 1) ||
            (last && plane->t != 0))
            return fault_set(why, FAULT_INTERNAL,
                             "plane %zu at slice %d + %g lies outside a stack of %d slices", i, plane->slice,
                             plane->t, stack->depth);
    }
    return 0;
}

static int prepare(struct run *run, struct fault_note *why)
{
    size_t n = (size_t)run->stack->depth * run->plane_size;
    run->normalised = malloc(n * sizeof *run->normalised);
    if (run->normalised == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for a stack of %zu voxels", n);
    normalise(run->stack->voxels, n, run->report->range_low, run->report->range_high, run->normalised);
    return 0;
}

static int open_model(struct run *run, struct fault_note *why)
{
    const struct sr_ops *ops;
    int rc = ops_find(run->options->backend, &ops, why);
    if (rc == 0)
        rc = model_open(&run->model, ops, net_config_p0(), run->options->threads, why);
    if (rc != 0)
        return rc;
    const struct net *net = &run->model.net;
    snprintf(run->report->backend, sizeof run->report->backend, "%s", ops->describe(run->model.device));
    run->parameters = malloc(net->n_parameters * sizeof *run->parameters);
    if (run->parameters == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for the weights");
    rc = weights_load(run->options->weights_path, net, run->parameters, NULL, why);
    return rc != 0 ? rc : model_set_parameters(&run->model, run->parameters, why);
}

// From normalised to stored units, clipped where asked for.
static int finish_network(struct run *run, struct fault_note *why)
{
    const struct sr_stack *stack = run->stack;
    double low = run->report->range_low, high = run->report->range_high, scale = high - low;
    for (size_t k = 0; k < run->n_planes; k++) {
        const struct sr_plane *plane = &run->planes[k];
        const float *a = stack->voxels + (size_t)plane->slice * run->plane_size;
        const float *b = plane->slice + 1 < stack->depth ? a + run->plane_size : a;
        float *r = run->residual + k * run->plane_size;
        for (size_t i = 0; i < run->plane_size; i++) {
            if (!isfinite(r[i]))
                return fault_set(why, FAULT_NOT_FINITE, "the network's result on plane %zu is not finite", k);
            if (r[i] == 0)
                continue;
            double linear = (1 - plane->t) * (double)a[i] + plane->t * (double)b[i];
            double value = linear + scale * (double)r[i];
            if (run->options->clip)
                value = value < low ? low : value > high ? high : value;
            r[i] = (float)(value - linear);
        }
    }
    return 0;
}

static struct interpolate_limits limits_of(const struct run *run, const char *phase)
{
    return (struct interpolate_limits){.memory_bytes = run->memory_bytes,
                                       .progress = run->options->progress,
                                       .progress_user = run->options->progress_user,
                                       .phase = phase,
                                       .use = &run->recipe};
}

static void note_workspace(struct run *run, const struct interpolate_limits *limits)
{
    if (limits->workspace_bytes > run->report->workspace_bytes)
        run->report->workspace_bytes = limits->workspace_bytes;
}

// Slices that overlap by more determine each other so closely that a little misfit asks for a large
// correction.
static const double widest_to_agree = 1.25;

static int agree(struct run *run, struct fault_note *why)
{
    const struct sr_stack *stack = run->stack;
    double noise, share = run->recipe.consistency, profile = pairs_profile(stack);
    if (!(share > 0) || profile > widest_to_agree)
        return 0;
    int rc = consistency_noise(run->normalised, stack->depth, stack->height, stack->width, run->planes,
                               run->n_planes, profile, run->residual, &noise, why);
    if (rc == 0)
        rc = consistency_apply(run->normalised, stack->depth, run->plane_size, run->planes, run->n_planes,
                               profile, noise, &share, run->residual, why);
    run->report->consistency = share;
    return rc;
}

static int deliver_network(struct run *run, struct fault_note *why)
{
    const struct sr_stack *stack = run->stack;
    struct interpolate_limits limits = limits_of(run, "interpolate");
    int rc = 0;
    if (run->tuned != NULL) // the checks may have left either set of weights behind
        rc = model_set_parameters(&run->model,
                                  run->report->delivered == SR_TUNED ? run->tuned : run->parameters, why);
    if (rc == 0)
        rc = interpolate_planes(&run->model, run->normalised, stack->depth, stack->height, stack->width,
                                run->planes, run->n_planes, &limits, run->residual, why);
    note_workspace(run, &limits);
    run->report->tile_rows = limits.tile_rows;
    run->report->tile_columns = limits.tile_columns;
    if (rc == 0)
        rc = agree(run, why);
    return rc != 0 ? rc : finish_network(run, why);
}

static int add_cubic(struct run *run, double *coefficients, double *value, struct fault_note *why)
{
    const struct sr_stack *stack = run->stack;
    int rc = resample_cubic_prepare(stack->voxels, stack->depth, run->plane_size, coefficients, why);
    for (size_t k = 0; rc == 0 && k < run->n_planes; k++) {
        const struct sr_plane *at = &run->planes[k];
        if (at->t == 0) // the spline goes through the acquired slices
            continue;
        const float *a = stack->voxels + (size_t)at->slice * run->plane_size, *b = a + run->plane_size;
        resample_cubic(coefficients, stack->depth, run->plane_size, at->slice, at->t, value);
        for (size_t i = 0; i < run->plane_size; i++) {
            double linear = (1 - at->t) * (double)a[i] + at->t * (double)b[i];
            run->residual[k * run->plane_size + i] = (float)(value[i] - linear);
        }
    }
    return rc;
}

static int deliver_cubic(struct run *run, struct fault_note *why)
{
    size_t n = (size_t)run->stack->depth * run->plane_size;
    double *coefficients = malloc(n * sizeof *coefficients), *value = malloc(run->plane_size * sizeof *value);
    int rc = FAULT_NO_MEMORY;
    if (coefficients != NULL && value != NULL)
        rc = add_cubic(run, coefficients, value, why);
    else
        fault_set(why, FAULT_NO_MEMORY, "no memory for spline coefficients of %zu voxels", n);
    free(value);
    free(coefficients);
    return rc;
}

static int deliver(struct run *run, struct fault_note *why)
{
    double start = clock_monotonic_s();
    int rc = 0;
    memset(run->residual, 0, run->n_planes * run->plane_size * sizeof *run->residual);
    if (run->report->delivered == SR_CUBIC)
        rc = deliver_cubic(run, why);
    else if (run->report->delivered != SR_LINEAR)
        rc = deliver_network(run, why);
    if (rc == 0)
        rc = uniformity_measure(run->stack, run->report->range_low, run->planes, run->n_planes, run->residual,
                                &run->report->uniformity, why);
    run->report->seconds_interpolate = clock_monotonic_s() - start;
    return rc;
}

static void run_done(struct run *run)
{
    model_close(&run->model);
    free(run->parameters);
    free(run->tuned);
    free(run->normalised);
    pairs_done(&run->pairs);
}

static void clear_report(struct sr_report *report)
{
    memset(report, 0, sizeof *report);
    for (int i = 0; i < SR_N_METHODS; i++)
        report->in_plane.psnr_db[i] = report->left_out.psnr_db[i] = report->control.psnr_db[i] = NAN;
    report->uniformity.noise = report->uniformity.intensity = NAN;
    snprintf(report->in_plane.note, sizeof report->in_plane.note, "not asked for");
    snprintf(report->left_out.note, sizeof report->left_out.note, "not asked for");
    snprintf(report->control.note, sizeof report->control.note, "not asked for");
}

static int finetune(struct run *run, struct fault_note *why)
{
    struct interpolate_limits limits = limits_of(run, "fine-tune");
    int rc = finetune_run(&run->model, &run->pairs, run->options, &limits, run->report, why);
    note_workspace(run, &limits);
    if (rc != 0 || run->report->steps_done == 0)
        return rc;
    run->tuned = malloc(run->model.net.n_parameters * sizeof *run->tuned);
    if (run->tuned == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for the tuned weights");
    return model_get_parameters(&run->model, run->tuned, why);
}

static int report_check(const struct run *run, int done, int total, struct fault_note *why)
{
    const struct sr_options *options = run->options;
    if (options->progress == NULL ||
        options->progress(options->progress_user, "check", done, total, NULL) == 0)
        return 0;
    return fault_set(why, FAULT_CANCELLED, "stopped on request during 'check'");
}

// Both tests with every method there is.
static int check(struct run *run, struct fault_note *why)
{
    double start = clock_monotonic_s();
    struct interpolate_limits limits = limits_of(run, "check");
    int n_methods = run->tuned != NULL ? SR_N_METHODS : SR_TUNED, rc = 0;
    limits.progress = NULL;
    for (enum sr_method method = SR_LINEAR; rc == 0 && (int)method < n_methods; method++) {
        struct quality_method how = {method, &run->model, run->options->clip, &limits};
        rc = report_check(run, (int)method, n_methods, why);
        if (rc == 0 && method >= SR_BASE)
            rc = model_set_parameters(&run->model, method == SR_TUNED ? run->tuned : run->parameters, why);
        if (rc == 0)
            rc = quality_in_plane(&how, &run->pairs, &run->report->in_plane, why);
        if (rc == 0)
            rc = quality_left_out(&how, &run->pairs, &run->report->left_out, why);
        if (rc == 0)
            rc = quality_control(&how, &run->pairs, &run->report->control, why);
    }
    note_workspace(run, &limits);
    run->report->seconds_check = clock_monotonic_s() - start;
    return rc != 0 ? rc : report_check(run, n_methods, n_methods, why);
}

static void take_asked(struct run *run)
{
    struct sr_report *report = run->report;
    report->delivered = run->tuned != NULL ? SR_TUNED : SR_BASE;
    snprintf(report->reason, sizeof report->reason, "%s",
             run->tuned != NULL       ? "the fine-tuned network was asked for, whatever the numbers"
             : run->options->finetune ? "the network was asked for, and this stack allowed no fine-tune"
                                      : "the network as its weights file has it was asked for");
}

static int plan_pairs(struct run *run, struct fault_note *why)
{
    struct interpolate_limits limits = limits_of(run, "check");
    int rc = pairs_plan(&run->pairs, run->stack, run->normalised, &run->recipe, why);
    return rc != 0 ? rc : estimate_places(&run->model, &run->pairs, &limits, why);
}

static int work(struct run *run, struct fault_note *why)
{
    struct sr_report *report = run->report;
    int rc = check_input(run, why);
    if (rc == 0)
        rc = open_model(run, why);
    if (rc == 0)
        rc = normalise_range(run->stack->voxels, (size_t)run->stack->depth * run->plane_size,
                             &report->range_low, &report->range_high, why);
    if (rc != 0)
        return rc;
    if (!(report->range_high > report->range_low)) {
        report->delivered = SR_LINEAR;
        snprintf(report->reason, sizeof report->reason, "the stack is constant: nothing can be added");
        return deliver(run, why);
    }
    rc = prepare(run, why);
    if (rc == 0 && (run->options->finetune || run->options->choose))
        rc = plan_pairs(run, why);
    // NOLINTNEXTLINE(clang-analyzer-unix.Malloc): run_done() frees what prepare() took
    if (rc == 0 && run->options->finetune)
        rc = finetune(run, why);
    if (rc == 0 && run->options->choose)
        rc = check(run, why);
    if (rc != 0)
        return rc;
    if (run->options->choose)
        quality_choose(report);
    else
        take_asked(run);
    return deliver(run, why);
}

int sr_run(const struct sr_stack *stack, const struct sr_plane *planes, size_t n_planes,
           const struct sr_options *options, float *residual, struct sr_report *report,
           struct fault_note *why)
{
    struct run run = {.stack = stack, .planes = planes, .n_planes = n_planes, .options = options};
    run.plane_size = (size_t)stack->height * (size_t)stack->width;
    run.recipe = options->recipe != NULL                ? *options->recipe
                 : options->finetune || options->choose ? sr_recipe_default()
                                                        : sr_recipe_bare();
    run.residual = residual;
    run.report = report;
    run.memory_bytes = options->memory_bytes > 0 ? options->memory_bytes : default_memory();
    clear_report(report);
    report->memory_bytes = run.memory_bytes;
    int rc = work(&run, why);
    run_done(&run);
    return rc;
}
