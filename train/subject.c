// SPDX-License-Identifier: Apache-2.0
#include "train/subject.h"

#include "core/clock.h"
#include "core/file.h"
#include "sr_engine/estimate.h"
#include "sr_engine/finetune.h"
#include "sr_engine/normalise.h"
#include "sr_engine/quality.h"
#include "sr_engine/weights.h"
#include "train/history.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 4096 };

struct sitting {
    const struct subject_job *job;
    struct subject_report *report;
    struct model model;
    float *voxels; // normalised
    struct pairs pairs;
    struct sr_report engine;
    struct interpolate_limits limits;
    struct finetune tune;
    int is_open; // tune
    struct history history;
    double start_s, minutes_before, saved_s;
    int saved_step, logged_step;
};

static double minutes_of(const struct sitting *sitting)
{
    return sitting->minutes_before + (clock_monotonic_s() - sitting->start_s) / 60;
}

static double psnr_of(const struct finetune *tune, double error)
{
    return tune->n_checks > 0 ? quality_psnr(error) : NAN;
}

// --------------------------------------------------------------------------------------------- opening

static int open_model(struct sitting *sitting, struct fault_note *why)
{
    const struct sr_options *options = sitting->job->options;
    const struct sr_ops *ops;
    int rc = ops_find(options->backend, &ops, why);
    if (rc == 0)
        rc = model_open(&sitting->model, ops, net_config_p0(), options->threads, why);
    if (rc != 0)
        return rc;
    snprintf(sitting->report->backend, sizeof sitting->report->backend, "%s",
             ops->describe(sitting->model.device));
    float *parameters = malloc(sitting->model.net.n_parameters * sizeof *parameters);
    if (parameters == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for the weights");
    rc = weights_load(options->weights_path, &sitting->model.net, parameters, NULL, why);
    if (rc == 0)
        rc = model_set_parameters(&sitting->model, parameters, why);
    free(parameters);
    return rc;
}

static int plan_pairs(struct sitting *sitting, struct fault_note *why)
{
    const struct sr_stack *stack = sitting->job->stack;
    const struct sr_recipe *recipe = sitting->job->options->recipe;
    struct sr_recipe normal = sr_recipe_default();
    size_t n = (size_t)stack->depth * (size_t)stack->height * (size_t)stack->width;
    double low, high;
    int rc = normalise_range(stack->voxels, n, &low, &high, why);
    if (rc == 0 && !(high > low))
        rc = fault_set(why, FAULT_NOTHING_TO_DO, "the stack is constant: there is nothing to learn from it");
    if (rc != 0)
        return rc;
    sitting->voxels = malloc(n * sizeof *sitting->voxels);
    if (sitting->voxels == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for a stack of %zu voxels", n);
    normalise(stack->voxels, n, low, high, sitting->voxels);
    rc = pairs_plan(&sitting->pairs, stack, sitting->voxels, recipe != NULL ? recipe : &normal, why);
    if (rc == 0 && sitting->pairs.slices == 0)
        rc = fault_set(why, FAULT_NOTHING_TO_DO, "images of %d x %d are too small to cut a pair from",
                       stack->height, stack->width);
    return rc;
}

// Linear interpolation on the places that the checks use.
static int measure_linear(struct sitting *sitting, struct fault_note *why)
{
    struct quality_method method = {SR_LINEAR, NULL, 1, &sitting->limits};
    double sum = 0, count = 0;
    int rc = 0;
    for (int i = 0; rc == 0 && i < sitting->tune.n_checks; i++)
        rc = quality_check(&method, &sitting->tune.checks[i], &sum, &count, why);
    sitting->report->linear_db = count > 0 ? quality_psnr(sum / count) : NAN;
    return rc;
}

static int log_row(struct sitting *sitting, struct fault_note *why)
{
    struct finetune *tune = &sitting->tune;
    struct history_row row = {.step = tune->step,
                              .minutes = minutes_of(sitting),
                              .rate = tune->step > 0 ? finetune_rate(tune, tune->step - 1) : 0,
                              .loss = NAN,
                              .network_db = psnr_of(tune, tune->last_error),
                              .linear_db = sitting->report->linear_db};
    int rc = 0;
    if (tune->step > sitting->logged_step)
        rc = finetune_loss(tune, sitting->logged_step, tune->step, &row.loss, why);
    if (rc != 0)
        return rc;
    sitting->logged_step = tune->step;
    if (isfinite(row.loss))
        sitting->report->loss = row.loss;
    return history_add(&sitting->history, &row, why);
}

static int begin(struct sitting *sitting, struct fault_note *why)
{
    const struct subject_job *job = sitting->job;
    struct finetune *tune = &sitting->tune;
    char path[PATH_SIZE];
    int found = 0;
    int rc = estimate_places(&sitting->model, &sitting->pairs, &sitting->limits, why);
    if (rc != 0)
        return rc;
    sitting->is_open = 1;
    rc = finetune_open(tune, &sitting->model, &sitting->pairs, job->options, &sitting->limits,
                       &sitting->engine, why);
    if (rc == 0)
        rc = measure_linear(sitting, why);
    sitting->report->start_db = psnr_of(tune, tune->last_error);
    if (rc == 0)
        rc = finetune_load(tune, job->out, &found, &sitting->minutes_before, why);
    if (rc == 0 && found) {
        sitting->report->resumed_at = sitting->logged_step = sitting->saved_step = tune->step;
        rc = file_join(path, sizeof path, job->out, "log.csv", why);
        return rc != 0 ? rc : history_load(&sitting->history, path, tune->step, why);
    }
    if (rc == 0)
        rc = finetune_plan(tune, job->options->budget_s, why);
    if (rc == 0 && tune->n_steps == 0)
        rc = fault_set(why, FAULT_NOTHING_TO_DO, "%g seconds allow no step", job->options->budget_s);
    if (rc == 0)
        rc = finetune_begin(tune, why);
    sitting->start_s = clock_monotonic_s();
    return rc != 0 ? rc : log_row(sitting, why);
}

// --------------------------------------------------------------------------------------------- going on

static int save(struct sitting *sitting, struct fault_note *why)
{
    const struct subject_job *job = sitting->job;
    char path[PATH_SIZE];
    int rc = finetune_save(&sitting->tune, job->out, minutes_of(sitting), why);
    if (rc == 0)
        rc = file_join(path, sizeof path, job->out, "log.csv", why);
    if (rc == 0)
        rc = history_save(&sitting->history, path, why);
    if (rc == 0)
        rc = file_join(path, sizeof path, job->out, "loss.png", why);
    if (rc == 0)
        rc = history_draw(&sitting->history, "subject", path, why);
    sitting->saved_s = clock_monotonic_s();
    sitting->saved_step = sitting->tune.step;
    return rc;
}

static int is_save_due(const struct sitting *sitting)
{
    const struct subject_job *job = sitting->job;
    if (job->every_steps > 0)
        return sitting->tune.step - sitting->saved_step >= job->every_steps;
    return clock_monotonic_s() - sitting->saved_s >= 60 * job->every_minutes;
}

static int report_progress(const struct sitting *sitting, struct fault_note *why)
{
    const struct sr_options *options = sitting->job->options;
    const struct finetune *tune = &sitting->tune;
    char detail[96];
    snprintf(detail, sizeof detail, "step %d, L1 %.5f, held out %.2f dB, best %.2f at step %d", tune->step,
             sitting->report->loss, psnr_of(tune, tune->last_error), psnr_of(tune, tune->best_error),
             sitting->engine.step_best);
    if (options->progress == NULL ||
        options->progress(options->progress_user, "fine-tune", tune->step, tune->n_steps, detail) == 0)
        return 0;
    return fault_set(why, FAULT_CANCELLED, "stopped on request after %d of %d steps", tune->step,
                     tune->n_steps);
}

static int go(struct sitting *sitting, struct fault_note *why)
{
    struct finetune *tune = &sitting->tune;
    int rc = report_progress(sitting, why);
    while (rc == 0 && tune->step < tune->n_steps) {
        rc = finetune_step(tune, why);
        int due = rc == 0 && is_save_due(sitting);
        if (rc == 0 && (due || tune->step % sitting->job->log_steps == 0 || tune->step == tune->n_steps))
            rc = log_row(sitting, why);
        if (rc == 0 && due)
            rc = save(sitting, why);
        if (rc == 0)
            rc = report_progress(sitting, why);
    }
    return rc;
}

static int sit(struct sitting *sitting, struct fault_note *why)
{
    struct finetune *tune = &sitting->tune;
    struct fault_note later;
    int rc = begin(sitting, why);
    if (rc != 0)
        return rc;
    sitting->saved_s = clock_monotonic_s();
    rc = go(sitting, why);
    if (rc != 0 && rc != FAULT_CANCELLED)
        return rc;
    int failed = tune->step > sitting->logged_step ? log_row(sitting, &later) : 0;
    if (failed == 0)
        failed = save(sitting, &later);
    if (failed == 0)
        return rc;
    if (why != NULL)
        *why = later;
    return failed;
}

static void fill_report(const struct sitting *sitting)
{
    struct subject_report *report = sitting->report;
    const struct finetune *tune = &sitting->tune;
    report->n_steps = tune->n_steps;
    report->step = tune->step;
    report->step_best = sitting->engine.step_best;
    report->share_best = sitting->engine.share_best;
    report->minutes = minutes_of(sitting);
    report->best_db = psnr_of(tune, tune->best_error);
}

int subject_run(const struct subject_job *job, struct subject_report *report, struct fault_note *why)
{
    struct sitting sitting = {.job = job, .report = report};
    memset(report, 0, sizeof *report);
    report->loss = NAN;
    sitting.start_s = clock_monotonic_s();
    sitting.limits = (struct interpolate_limits){
        .memory_bytes = job->options->memory_bytes > 0 ? job->options->memory_bytes : (size_t)2 << 30,
        .use = job->options->recipe};
    int rc = file_make_directory(job->out, why);
    if (rc == 0)
        rc = open_model(&sitting, why);
    if (rc == 0)
        rc = plan_pairs(&sitting, why);
    if (rc == 0)
        rc = sit(&sitting, why);
    if (sitting.is_open) {
        fill_report(&sitting);
        finetune_close(&sitting.tune);
    }
    history_done(&sitting.history);
    pairs_done(&sitting.pairs);
    free(sitting.voxels);
    model_close(&sitting.model);
    return rc;
}
