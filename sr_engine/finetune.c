// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/finetune.h"

#include "core/clock.h"
#include "sr_engine/quality.h"
#include "sr_engine/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECKS = 8, CHECK_STRIDE = 3, TIMED_STEPS = 3, MAX_STEPS = 100000, MAX_BATCH = 8 };

struct tuning {
    struct model *model;
    const struct pairs *pairs;
    const struct finetune_recipe *recipe;
    const struct sr_options *options;
    struct sr_report *report;
    struct sr_buffer *volume;
    struct trainer trainer;
    struct pairs_check checks[2]; // the first place, along both axes
    int n_checks, n_steps, is_woken;
    struct interpolate_limits limits; // silent: a check is too short to be reported
    float *best;                      // parameters
    double best_error, last_error, seconds_check;
};

struct finetune_recipe finetune_default(void)
{
    return (struct finetune_recipe){.batch = 2,
                                    .slices = 4,
                                    .targets = 1,
                                    .rate = 2e-4,
                                    .rate_woken = 4e-4,
                                    .rate_end = 0.02,
                                    .beta2 = 0.999,
                                    .warm_up = 10};
}

static int open_tuning(struct tuning *tuning, struct fault_note *why)
{
    const struct pairs *pairs = tuning->pairs;
    struct model *model = tuning->model;
    struct sr_extent volume = {1, pairs->depth, pairs->height, pairs->width};
    int rc = model->ops->buffer_new(model->device, volume, 1, &tuning->volume, why);
    if (rc == 0)
        rc = model->ops->upload(model->device, tuning->volume, pairs->voxels, why);
    for (int axis = 1; rc == 0 && axis <= 2 && pairs->n_places > 0; axis++) {
        rc = pairs_check_init(&tuning->checks[tuning->n_checks], pairs, axis, 0, CHECK_STRIDE, why);
        if (rc == 0)
            tuning->n_checks++;
        rc = rc == FAULT_NOTHING_TO_DO ? 0 : rc;
    }
    tuning->best = malloc(model->net.n_parameters * sizeof *tuning->best);
    if (rc == 0 && tuning->best == NULL)
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory to keep the best weights");
    if (rc == 0)
        rc = model_get_parameters(model, tuning->best, why);
    if (rc == 0)
        tuning->is_woken = weights_wake(&model->net, tuning->best);
    return rc == 0 && tuning->is_woken ? model_set_parameters(model, tuning->best, why) : rc;
}

static void close_tuning(struct tuning *tuning)
{
    struct model *model = tuning->model;
    trainer_close(&tuning->trainer);
    model->ops->buffer_free(model->device, tuning->volume);
    for (int i = 0; i < tuning->n_checks; i++)
        pairs_check_done(&tuning->checks[i]);
    free(tuning->best);
}

static int open_trainer(struct tuning *tuning, int n_losses, struct fault_note *why)
{
    const struct pairs *pairs = tuning->pairs;
    struct sr_extent extent = {tuning->recipe->batch, pairs->slices, pairs->rows, pairs->columns};
    trainer_close(&tuning->trainer);
    return trainer_open(&tuning->trainer, tuning->model, extent, tuning->recipe->targets, n_losses, why);
}

// Mean squared error on the held-out places; weights that do better than all before are kept.
static int check_now(struct tuning *tuning, struct fault_note *why)
{
    struct quality_method method = {SR_TUNED, tuning->model, tuning->options->clip, &tuning->limits};
    double start = clock_monotonic_s(), sum = 0, count = 0;
    int rc = 0;
    for (int i = 0; rc == 0 && i < tuning->n_checks; i++)
        rc = quality_check(&method, &tuning->checks[i], &sum, &count, why);
    double error = tuning->last_error = count > 0 ? sum / count : 0;
    // nothing held out: the last weights are kept
    if (rc == 0 && (tuning->trainer.step == 0 || tuning->n_checks == 0 || error < tuning->best_error)) {
        tuning->best_error = error;
        tuning->report->step_best = tuning->trainer.step;
        rc = model_get_parameters(tuning->model, tuning->best, why);
    }
    tuning->seconds_check = clock_monotonic_s() - start;
    return rc;
}

static int take_gradient(struct tuning *tuning, int step, struct fault_note *why)
{
    struct trainer *trainer = &tuning->trainer;
    const struct sr_ops *ops = tuning->model->ops;
    struct sr_cut cuts[MAX_BATCH];
    int n = tuning->recipe->batch;
    for (int i = 0; i < n; i++)
        cuts[i] = pairs_draw(tuning->pairs, tuning->options->seed, (uint64_t)step * (uint64_t)n + (uint64_t)i,
                             tuning->recipe->targets);
    int rc = ops->cut(tuning->model->device, tuning->volume, cuts, n, tuning->recipe->targets, trainer->stack,
                      trainer->planes, trainer->target, why);
    if (rc == 0)
        rc = trainer_forward(trainer, why);
    return rc != 0 ? rc : trainer_backward(trainer, step < trainer->n_losses ? step : 0, why);
}

// The learning rate of a step: a straight rise, then half a cosine.
static double rate_at(const struct tuning *tuning, int step)
{
    const struct finetune_recipe *recipe = tuning->recipe;
    double rate = tuning->is_woken ? recipe->rate_woken : recipe->rate;
    int n = tuning->n_steps;
    int rise = recipe->warm_up < n / 10 ? recipe->warm_up : n / 10;
    double end = recipe->rate_end;
    if (step < rise)
        return rate * (step + 1) / (rise + 1);
    double share = n > rise + 1 ? (double)(step - rise) / (n - rise - 1) : 1;
    return rate * (end + (1 - end) * 0.5 * (1 + cos(acos(-1) * share)));
}

// Steps that the budget allows: a few gradients are computed and timed, no weight is changed. The count alone
// decides all that follows, so a job that is repeated with it gives the same bits.
static int plan_steps(struct tuning *tuning, double start, struct fault_note *why)
{
    double least = HUGE_VAL;
    const struct sr_ops *ops = tuning->model->ops;
    int rc = open_trainer(tuning, 1, why);
    for (int i = 0; rc == 0 && i < TIMED_STEPS; i++) {
        double before = clock_monotonic_s();
        rc = take_gradient(tuning, i, why);
        if (rc == 0)
            rc = ops->prepare(tuning->model->device, tuning->model->parameters, why);
        if (rc == 0)
            rc = ops->synchronize(tuning->model->device, why);
        double took = clock_monotonic_s() - before;
        if (i > 0 && took < least) // the first one also prepares
            least = took;
    }
    if (rc != 0)
        return rc;
    double left = tuning->options->budget_s - (clock_monotonic_s() - start) - CHECKS * tuning->seconds_check;
    double steps = left > 0 ? left / (least * 1.05) : 0;
    tuning->n_steps = steps < MAX_STEPS ? (int)steps : MAX_STEPS;
    return 0;
}

static int report_progress(const struct tuning *tuning, int step, struct fault_note *why)
{
    const struct sr_options *options = tuning->options;
    char detail[64] = "";
    if (tuning->n_checks > 0)
        snprintf(detail, sizeof detail, "held out %.2f dB, best %.2f at step %d",
                 quality_psnr(tuning->last_error), quality_psnr(tuning->best_error),
                 tuning->report->step_best);
    if (options->progress == NULL ||
        options->progress(options->progress_user, "fine-tune", step, tuning->n_steps, detail) == 0)
        return 0;
    return fault_set(why, FAULT_CANCELLED, "stopped on request during 'fine-tune' at step %d", step);
}

static int is_check_due(int step, int n)
{
    return step == n || (int64_t)step * CHECKS / n != ((int64_t)step - 1) * CHECKS / n;
}

static double mean_of(const float *values, int from, int to)
{
    double sum = 0;
    for (int i = from; i < to; i++)
        sum += (double)values[i];
    return sum / (to - from);
}

static int read_losses(struct tuning *tuning, struct fault_note *why)
{
    int n = tuning->n_steps, tenth = (n + 9) / 10;
    float *losses = malloc((size_t)n * sizeof *losses);
    if (losses == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for %d losses", n);
    int rc = tuning->model->ops->download(tuning->model->device, tuning->trainer.losses, losses, why);
    if (rc == 0) {
        tuning->report->loss_first = mean_of(losses, 0, tenth);
        tuning->report->loss_last = mean_of(losses, n - tenth, n);
        if (!isfinite(tuning->report->loss_last))
            rc = fault_set(why, FAULT_NOT_FINITE, "the loss is not finite after %d steps", n);
    }
    free(losses);
    return rc;
}

static int run_steps(struct tuning *tuning, struct fault_note *why)
{
    const struct sr_ops *ops = tuning->model->ops;
    struct sr_device *device = tuning->model->device;
    int n = tuning->n_steps, rc = open_trainer(tuning, n, why);
    for (int step = 0; rc == 0 && step < n; step++) {
        rc = report_progress(tuning, step, why);
        if (rc == 0)
            rc = ops->step_begin(device, why);
        if (rc == 0)
            rc = take_gradient(tuning, step, why);
        if (rc == 0)
            rc = trainer_update(&tuning->trainer, rate_at(tuning, step), tuning->recipe->beta2, why);
        if (rc == 0)
            rc = ops->step_end(device, why);
        if (rc == 0 && is_check_due(step + 1, n))
            rc = check_now(tuning, why);
    }
    if (rc == 0)
        rc = read_losses(tuning, why);
    if (rc == 0)
        rc = report_progress(tuning, n, why);
    if (rc == 0)
        tuning->report->steps_done = n;
    return rc;
}

int finetune_run(struct model *model, const struct pairs *pairs, const struct finetune_recipe *recipe,
                 const struct sr_options *options, struct interpolate_limits *limits,
                 struct sr_report *report, struct fault_note *why)
{
    double start = clock_monotonic_s();
    struct tuning tuning = {
        .model = model, .pairs = pairs, .recipe = recipe, .options = options, .report = report};
    if (pairs->slices == 0)
        return 0;
    tuning.limits = *limits;
    tuning.limits.progress = NULL;
    report->factor_train_min = pairs->factor_min;
    report->factor_train_max = pairs->factor_max;
    tuning.n_steps = options->steps;
    int rc = open_tuning(&tuning, why);
    if (rc == 0)
        rc = check_now(&tuning, why);
    if (rc == 0 && options->steps <= 0)
        rc = plan_steps(&tuning, start, why);
    if (rc == 0 && tuning.n_steps > 0)
        rc = run_steps(&tuning, why);
    if (rc == 0)
        rc = model_set_parameters(model, tuning.best, why);
    struct sr_extent extent = {recipe->batch, pairs->slices, pairs->rows, pairs->columns};
    size_t queries = (size_t)recipe->batch * (size_t)(pairs->slices - 1) * (size_t)recipe->targets *
                     (size_t)pairs->rows * (size_t)pairs->columns;
    size_t bytes = trainer_bytes(&model->net, extent, recipe->targets) +
                   model->ops->scratch_bytes(model->device, extent, queries, 1);
    limits->workspace_bytes = bytes > limits->workspace_bytes ? bytes : limits->workspace_bytes;
    if (tuning.limits.workspace_bytes > limits->workspace_bytes)
        limits->workspace_bytes = tuning.limits.workspace_bytes;
    close_tuning(&tuning);
    report->seconds_finetune = clock_monotonic_s() - start;
    return rc;
}
