// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/finetune.h"

#include "core/clock.h"
#include "sr_engine/checkpoint.h"
#include "sr_engine/estimate.h"
#include "sr_engine/quality.h"
#include "sr_engine/random.h"
#include "sr_engine/resample.h"
#include "sr_engine/weights.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHECK_STRIDE = 3,
    TIMED_STEPS = 3,
    MAX_STEPS = 100000,
    MAX_BATCH = 8,
    AVERAGE_HEAD_START = 10,
};
// The last weights are kept unless others do better on the held-out place by more than this.
static const double keep_last_db = 0.1;

static uint64_t fingerprint_of(const float *values, size_t n)
{
    uint64_t sum = n;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        sum = random_mix(sum ^ bits);
    }
    return sum;
}

static size_t n_parameters(const struct finetune *run)
{
    return run->model->net.n_parameters;
}

static struct sr_extent extent_of(const struct finetune *run, const struct pairs *pairs)
{
    return (struct sr_extent){run->recipe.batch, pairs->slices, pairs->rows, pairs->columns};
}

// --------------------------------------------------------------------------------------------- checks

// Puts the averaged weights in the place of the last ones, and those back.
static int show_averaged(struct finetune *run, int shown, struct fault_note *why)
{
    const struct sr_ops *ops = run->model->ops;
    struct sr_device *device = run->model->device;
    struct sr_buffer *now = run->model->parameters;
    if (run->averaged == NULL)
        return 0;
    int rc = shown ? ops->copy(device, run->spare, now, why) : ops->copy(device, now, run->spare, why);
    if (rc == 0 && shown)
        rc = ops->copy(device, now, run->averaged, why);
    return rc != 0 ? rc : ops->prepare(device, now, why);
}

static int measure(struct finetune *run, struct fault_note *why)
{
    struct quality_method method = {SR_TUNED, run->model, run->options->clip, &run->limits};
    double sum = 0, count = 0;
    int rc = 0;
    for (int i = 0; rc == 0 && i < run->n_checks; i++)
        rc = quality_check(&method, &run->checks[i], &sum, &count, why);
    double error = run->last_error = count > 0 ? sum / count : 0;
    // nothing held out: the last weights are kept
    if (rc == 0 && (run->step == 0 || run->n_checks == 0 || error < run->best_error)) {
        run->best_error = error;
        run->report->step_best = run->step;
        run->report->share_best = 1;
        rc = model_get_parameters(run->model, run->best, why);
    }
    return rc;
}

// Mean squared error on the held-out places; weights that do better than all before are kept.
static int check_now(struct finetune *run, struct fault_note *why)
{
    double start = clock_monotonic_s();
    int rc = show_averaged(run, 1, why);
    if (rc == 0)
        rc = measure(run, why);
    if (rc == 0)
        rc = show_averaged(run, 0, why);
    run->seconds_check = clock_monotonic_s() - start;
    return rc;
}

// The held-out place is a twentieth of the image: small differences there say less than that the last weights
// have learnt most, at the lowest rate.
static int prefer_last(struct finetune *run, struct fault_note *why)
{
    if (run->report->step_best == run->step || run->last_error > run->best_error * pow(10, keep_last_db / 10))
        return 0;
    run->best_error = run->last_error;
    run->report->step_best = run->step;
    run->report->share_best = 1;
    int rc = show_averaged(run, 1, why);
    if (rc == 0)
        rc = model_get_parameters(run->model, run->best, why);
    return rc != 0 ? rc : show_averaged(run, 0, why);
}

// Weights part of the way from the first to the last: a run that went too far may have gone in the right
// direction. Source: Wortsman et al., arXiv 2109.01903.
static int try_blends(struct finetune *run, struct fault_note *why)
{
    static const double shares[FINETUNE_BLENDS] = {0.75, 0.5, 0.25};
    struct model *model = run->model;
    size_t n = n_parameters(run);
    float *last = malloc(n * sizeof *last);
    if (last == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory to blend weights");
    double last_error = run->last_error;
    int rc = show_averaged(run, 1, why);
    if (rc == 0)
        rc = model_get_parameters(model, last, why);
    for (size_t k = 0; rc == 0 && k < FINETUNE_BLENDS; k++) {
        for (size_t i = 0; i < n; i++)
            run->host[i] = run->origin[i] + (float)shares[k] * (last[i] - run->origin[i]);
        double before = run->best_error;
        rc = model_set_parameters(model, run->host, why);
        if (rc == 0)
            rc = measure(run, why);
        if (run->best_error < before)
            run->report->share_best = shares[k];
    }
    if (rc == 0)
        rc = model_set_parameters(model, last, why);
    if (rc == 0)
        rc = show_averaged(run, 0, why);
    run->last_error = last_error;
    free(last);
    return rc;
}

// --------------------------------------------------------------------------------------------- opening

static int open_parts(struct finetune *run, struct fault_note *why)
{
    const struct sr_ops *ops = run->model->ops;
    struct sr_device *device = run->model->device;
    struct sr_extent arena = {1, 1, 1, (int)n_parameters(run)};
    int rc = 0;
    if (run->recipe.average > 0) {
        rc = ops->buffer_new(device, arena, 1, &run->averaged, why);
        if (rc == 0)
            rc = ops->buffer_new(device, arena, 1, &run->spare, why);
        if (rc == 0)
            rc = ops->copy(device, run->averaged, run->model->parameters, why);
    }
    if (rc != 0 || run->recipe.part != SR_PART_LORA)
        return rc;
    if (run->is_woken)
        return fault_set(why, FAULT_CONFIG,
                         "part=lora corrects trained weights, and these have a last layer of zeros");
    return lora_open(&run->lora, &run->model->net, run->recipe.rank, run->options->seed, run->best, why);
}

static int open_memory(struct finetune *run, struct fault_note *why)
{
    const struct pairs *pairs = run->pairs;
    struct model *model = run->model;
    struct sr_extent volume = {1, pairs->depth, pairs->height, pairs->width};
    int rc = model->ops->buffer_new(model->device, volume, 1, &run->volume, why);
    if (rc == 0)
        rc = model->ops->upload(model->device, run->volume, pairs->voxels, why);
    for (int axis = 1; rc == 0 && axis <= 2 && pairs->n_places > 0; axis++) {
        rc = pairs_check_init(&run->checks[run->n_checks], pairs, axis, 0, CHECK_STRIDE, why);
        if (rc == 0)
            run->n_checks++;
        rc = rc == FAULT_NOTHING_TO_DO ? 0 : rc;
    }
    run->best = malloc(n_parameters(run) * sizeof *run->best);
    run->host = malloc(n_parameters(run) * sizeof *run->host);
    run->origin = malloc(n_parameters(run) * sizeof *run->origin);
    if (rc == 0 && (run->best == NULL || run->origin == NULL || run->host == NULL))
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory to keep the best weights");
    return rc;
}

int finetune_open(struct finetune *run, struct model *model, const struct pairs *pairs,
                  const struct sr_options *options, const struct interpolate_limits *limits,
                  struct sr_report *report, struct fault_note *why)
{
    memset(run, 0, sizeof *run);
    run->model = model;
    run->pairs = pairs;
    run->options = options;
    run->report = report;
    run->recipe = pairs->recipe;
    run->use = run->recipe;
    run->use.ensemble = 1; // which weights are better is told by one pass as well
    run->limits = *limits;
    run->limits.progress = NULL;
    run->limits.use = &run->use;
    report->factor_train_min = pairs->factor_min;
    report->factor_train_max = pairs->factor_true;
    int rc = open_memory(run, why);
    run->cost = finetune_cost(pairs, run->checks, run->n_checks);
    if (rc == 0)
        rc = model_get_parameters(model, run->best, why);
    if (rc != 0)
        return rc;
    run->source =
        fingerprint_of(pairs->voxels, (size_t)pairs->depth * (size_t)pairs->height * (size_t)pairs->width);
    run->start = fingerprint_of(run->best, n_parameters(run));
    run->is_woken = weights_wake(&model->net, run->best);
    if (run->is_woken)
        rc = model_set_parameters(model, run->best, why);
    memcpy(run->origin, run->best, n_parameters(run) * sizeof *run->origin);
    if (rc == 0)
        rc = open_parts(run, why);
    return rc != 0 ? rc : check_now(run, why);
}

static void close_estimate(struct finetune *run)
{
    struct finetune_estimate *estimate = &run->estimate;
    trainer_close(&estimate->trainer);
    run->model->ops->buffer_free(run->model->device, estimate->volume);
    pairs_done(&estimate->pairs);
    free(estimate->voxels);
    free(estimate->maker);
}

void finetune_close(struct finetune *run)
{
    struct model *model = run->model;
    close_estimate(run);
    trainer_close(&run->trainer);
    lora_close(&run->lora);
    model->ops->buffer_free(model->device, run->averaged);
    model->ops->buffer_free(model->device, run->spare);
    model->ops->buffer_free(model->device, run->volume);
    for (int i = 0; i < run->n_checks; i++)
        pairs_check_done(&run->checks[i]);
    free(run->best);
    free(run->origin);
    free(run->host);
}

static int open_trainer(struct finetune *run, int n_losses, struct fault_note *why)
{
    const struct net *net = &run->model->net;
    trainer_close(&run->trainer);
    int rc = trainer_open(&run->trainer, run->model, extent_of(run, run->pairs), run->recipe.targets,
                          n_losses, why);
    run->trainer.first_conv = run->recipe.part == SR_PART_DECODER ? net->n_convs
                              : run->recipe.part == SR_PART_TAIL  ? net->n_convs - 1
                                                                  : 0;
    return rc;
}

// Weights that were never trained estimate no better than linear interpolation.
static double second_share(const struct finetune *run)
{
    return run->is_woken ? fmin(run->recipe.second_round, 0.5) : run->recipe.second_round;
}

int finetune_begin(struct finetune *run, struct fault_note *why)
{
    double share = second_share(run);
    run->round_start = run->n_steps - (int)(share * run->n_steps);
    run->extras = finetune_extras(run->pairs, run->cost, share, run->n_steps);
    return open_trainer(run, run->n_steps, why);
}

// --------------------------------------------------------------------------------------------- second round

// Where the estimate is too small to cut a pair from, the first round's pairs serve on.
static int open_estimate(struct finetune *run, struct fault_note *why)
{
    struct finetune_estimate *estimate = &run->estimate;
    struct model *model = run->model;
    struct estimate_part part = finetune_part(run->pairs, run->extras.side);
    int depth = estimate_depth(run->pairs, part.slices);
    estimate->voxels =
        malloc((size_t)depth * (size_t)part.rows * (size_t)part.columns * sizeof *estimate->voxels);
    if (estimate->voxels == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for an estimate of %d planes", depth);
    int rc = model_get_parameters(model, run->host, why);
    if (rc == 0)
        rc = model_set_parameters(model, estimate->maker, why);
    if (rc == 0)
        rc = estimate_make(model, run->pairs, part, &run->limits, estimate->voxels, why);
    if (rc == 0)
        rc = model_set_parameters(model, run->host, why);
    if (rc == 0)
        rc = pairs_plan_volume(&estimate->pairs, run->pairs, estimate->voxels, depth, part.row, part.column,
                               part.rows, part.columns, why);
    if (rc != 0 || estimate->pairs.slices == 0)
        return rc;
    rc = model->ops->buffer_new(model->device, (struct sr_extent){1, depth, part.rows, part.columns}, 1,
                                &estimate->volume, why);
    if (rc == 0)
        rc = model->ops->upload(model->device, estimate->volume, estimate->voxels, why);
    return rc != 0 ? rc
                   : trainer_open_beside(&estimate->trainer, &run->trainer, extent_of(run, &estimate->pairs),
                                         run->recipe.targets, run->n_steps, why);
}

static int begin_second_round(struct finetune *run, struct fault_note *why)
{
    size_t size = n_parameters(run) * sizeof(float);
    run->estimate.maker = malloc(size);
    if (run->estimate.maker == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for the first round's weights");
    int rc = run->step > 0 ? check_now(run, why) : 0; // opening the run has looked already
    memcpy(run->estimate.maker, run->best, size);
    return rc != 0 ? rc : open_estimate(run, why);
}

// --------------------------------------------------------------------------------------------- steps

// In the second round samples come from the estimate, where there is one.
static int is_second_round(const struct finetune *run, int step)
{
    return step >= run->round_start && run->estimate.trainer.model != NULL;
}

static struct trainer *trainer_at(struct finetune *run, int step)
{
    return is_second_round(run, step) ? &run->estimate.trainer : &run->trainer;
}

static int take_gradient(struct finetune *run, int step, struct fault_note *why)
{
    struct trainer *trainer = trainer_at(run, step);
    int is_second = is_second_round(run, step), n = run->recipe.batch, targets = run->recipe.targets;
    const struct pairs *pairs = is_second ? &run->estimate.pairs : run->pairs;
    const struct sr_ops *ops = run->model->ops;
    struct sr_cut cuts[MAX_BATCH];
    for (int i = 0; i < n; i++)
        cuts[i] = pairs_draw(pairs, run->options->seed, (uint64_t)step * (uint64_t)n + (uint64_t)i, targets);
    int rc = ops->cut(run->model->device, is_second ? run->estimate.volume : run->volume, cuts, n, targets,
                      trainer->stack, trainer->planes, trainer->target, why);
    return rc != 0 ? rc : trainer_learn(trainer, step < trainer->n_losses ? step : 0, why);
}

// A straight rise, then half a cosine.
double finetune_rate(const struct finetune *run, int step)
{
    const struct sr_recipe *recipe = &run->recipe;
    double rate = run->is_woken ? recipe->rate_woken : recipe->rate, end = recipe->rate_end;
    int n = run->n_steps, rise = recipe->warm_up < n / 10 ? recipe->warm_up : n / 10;
    if (step < rise)
        return rate * (step + 1) / (rise + 1);
    double share = n > rise + 1 ? (double)(step - rise) / (n - rise - 1) : 1;
    return rate * (end + (1 - end) * 0.5 * (1 + cos(acos(-1) * share)));
}

static int update_lora(struct finetune *run, struct trainer *trainer, struct fault_note *why)
{
    struct sr_adam adam = {.rate = (float)finetune_rate(run, run->step),
                           .beta1 = 0.9F,
                           .beta2 = (float)run->recipe.beta2,
                           .epsilon = 1e-8F,
                           .step = run->step + 1};
    int rc = run->model->ops->download(run->model->device, trainer->gradients, run->host, why);
    if (rc != 0)
        return rc;
    lora_step(&run->lora, adam, run->host);
    lora_apply(&run->lora, run->host);
    return model_set_parameters(run->model, run->host, why);
}

static int update(struct finetune *run, struct fault_note *why)
{
    struct trainer *trainer = trainer_at(run, run->step);
    int rc;
    trainer->step = run->step;
    if (run->recipe.part == SR_PART_LORA)
        rc = update_lora(run, trainer, why);
    else
        rc = trainer_update(trainer, finetune_rate(run, run->step), run->recipe.beta2, why);
    if (rc != 0 || run->averaged == NULL)
        return rc;
    double keep = fmin(run->recipe.average, (run->step + 1.0) / (run->step + 1 + AVERAGE_HEAD_START));
    return run->model->ops->average(run->model->device, run->averaged, run->model->parameters, (float)keep,
                                    why);
}

static int is_check_due(const struct finetune *run)
{
    int64_t step = run->step, checks = run->extras.n_checks;
    return step == run->n_steps || step * checks / run->n_steps != (step - 1) * checks / run->n_steps;
}

// After the last step.
static int settle(struct finetune *run, struct fault_note *why)
{
    if (run->n_checks == 0)
        return 0;
    int rc = prefer_last(run, why);
    if (rc == 0 && run->report->step_best != run->step && run->recipe.blend && !run->is_woken &&
        run->extras.n_blends > 0)
        rc = try_blends(run, why);
    return rc;
}

int finetune_step(struct finetune *run, struct fault_note *why)
{
    const struct sr_ops *ops = run->model->ops;
    struct sr_device *device = run->model->device;
    int rc = run->step == run->round_start ? begin_second_round(run, why) : 0;
    if (rc == 0)
        rc = ops->step_begin(device, why);
    if (rc == 0)
        rc = take_gradient(run, run->step, why);
    if (rc == 0)
        rc = update(run, why);
    if (rc == 0)
        rc = ops->step_end(device, why);
    if (rc != 0)
        return rc;
    run->step++;
    rc = is_check_due(run) ? check_now(run, why) : 0;
    return rc == 0 && run->step == run->n_steps ? settle(run, why) : rc;
}

int finetune_loss(struct finetune *run, int from, int to, double *loss, struct fault_note *why)
{
    float *losses = malloc((size_t)run->n_steps * sizeof *losses);
    double sum = 0;
    int rc = 0, at = from;
    if (losses == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for %d losses", run->n_steps);
    while (rc == 0 && at < to) {
        int is_second = is_second_round(run, at);
        struct trainer *trainer = trainer_at(run, at);
        rc = run->model->ops->download(run->model->device, trainer->losses, losses, why);
        while (rc == 0 && at < to && is_second_round(run, at) == is_second)
            sum += (double)losses[at++];
    }
    free(losses);
    *loss = sum / (to - from);
    if (rc == 0 && !isfinite(sum))
        rc = fault_set(why, FAULT_NOT_FINITE, "the loss is not finite after %d steps", to);
    return rc;
}

int finetune_end(struct finetune *run, struct fault_note *why)
{
    int n = run->n_steps, first = run->first_step, tenth = (n - first + 9) / 10, rc = 0;
    if (n > first)
        rc = finetune_loss(run, first, first + tenth, &run->report->loss_first, why);
    if (rc == 0 && n > first)
        rc = finetune_loss(run, n - tenth, n, &run->report->loss_last, why);
    if (rc != 0)
        return rc;
    run->report->steps_done = n;
    return model_set_parameters(run->model, run->best, why);
}

// --------------------------------------------------------------------------------------------- planning

// Seconds of one gradient: a few are computed and timed, no weight is changed.
static int time_gradient(struct finetune *run, double *seconds, struct fault_note *why)
{
    const struct sr_ops *ops = run->model->ops;
    int rc = open_trainer(run, 1, why);
    run->round_start = TIMED_STEPS;
    *seconds = HUGE_VAL;
    for (int i = 0; rc == 0 && i < TIMED_STEPS; i++) {
        double before = clock_monotonic_s();
        rc = take_gradient(run, i, why);
        if (rc == 0)
            rc = ops->prepare(run->model->device, run->model->parameters, why);
        if (rc == 0)
            rc = ops->synchronize(run->model->device, why);
        if (i > 0) // the first one also prepares
            *seconds = fmin(*seconds, clock_monotonic_s() - before);
    }
    return rc;
}

// Seconds that so many steps take with all that comes with them; `gradient`: of one of the first round.
static double seconds_of(const struct finetune *run, double gradient, int n_steps)
{
    double share = second_share(run);
    struct finetune_extras extras = finetune_extras(run->pairs, run->cost, share, n_steps);
    double work = finetune_steps_cost(run->cost, share, n_steps);
    if (share > 0)
        work += finetune_estimate_cost(run->pairs, extras.side);
    int looks = run->n_checks == 0 ? 0 : extras.n_checks + extras.n_blends + (share > 0 && share < 1);
    return work / run->cost.first * gradient * 1.05 + looks * run->seconds_check;
}

// The step count alone decides all that follows, so a job that is repeated with it gives the same bits.
int finetune_plan(struct finetune *run, double seconds, struct fault_note *why)
{
    double start = clock_monotonic_s(), gradient;
    run->n_steps = run->options->steps > 0 ? run->options->steps : 0;
    if (run->options->steps != 0)
        return 0;
    int rc = time_gradient(run, &gradient, why);
    if (rc != 0)
        return rc;
    double left = seconds - (clock_monotonic_s() - start);
    run->n_steps = SR_PLANNED_STEPS;
    while (run->n_steps > 0 && seconds_of(run, gradient, run->n_steps) > left)
        run->n_steps--;
    return 0;
}

static int report_progress(const struct finetune *run, struct fault_note *why)
{
    const struct sr_options *options = run->options;
    char detail[64] = "";
    if (run->n_checks > 0)
        snprintf(detail, sizeof detail, "held out %.2f dB, best %.2f at step %d",
                 quality_psnr(run->last_error), quality_psnr(run->best_error), run->report->step_best);
    if (options->progress == NULL ||
        options->progress(options->progress_user, "fine-tune", run->step, run->n_steps, detail) == 0)
        return 0;
    return fault_set(why, FAULT_CANCELLED, "stopped on request during 'fine-tune' at step %d", run->step);
}

static void note_workspace(const struct finetune *run, struct interpolate_limits *limits)
{
    struct sr_extent extent = extent_of(run, run->pairs);
    size_t queries = (size_t)extent.n * (size_t)(extent.d - 1) * (size_t)run->recipe.targets *
                     (size_t)extent.h * (size_t)extent.w;
    size_t bytes = trainer_bytes(&run->model->net, extent, run->recipe.targets) +
                   run->model->ops->scratch_bytes(run->model->device, extent, queries, 1);
    limits->workspace_bytes = bytes > limits->workspace_bytes ? bytes : limits->workspace_bytes;
    if (run->limits.workspace_bytes > limits->workspace_bytes)
        limits->workspace_bytes = run->limits.workspace_bytes;
}

static int go(struct finetune *run, double start, struct fault_note *why)
{
    int rc = finetune_plan(run, run->options->budget_s - (clock_monotonic_s() - start), why);
    run->report->steps_planned = run->n_steps > 0 ? run->n_steps : SR_NO_STEPS;
    if (rc != 0 || run->n_steps == 0)
        return rc;
    rc = finetune_begin(run, why);
    while (rc == 0 && run->step < run->n_steps) {
        rc = report_progress(run, why);
        if (rc == 0)
            rc = finetune_step(run, why);
    }
    if (rc == 0)
        rc = finetune_end(run, why);
    return rc == 0 ? report_progress(run, why) : rc;
}

int finetune_run(struct model *model, const struct pairs *pairs, const struct sr_options *options,
                 struct interpolate_limits *limits, struct sr_report *report, struct fault_note *why)
{
    double start = clock_monotonic_s();
    struct finetune run;
    if (pairs->slices == 0)
        return 0;
    int rc = finetune_open(&run, model, pairs, options, limits, report, why);
    if (rc == 0)
        rc = go(&run, start, why);
    note_workspace(&run, limits);
    finetune_close(&run);
    report->seconds_finetune = clock_monotonic_s() - start;
    return rc;
}

// --------------------------------------------------------------------------------------------- checkpoints

enum { MAX_PARTS = 7 };

static int list_parts(struct finetune *run, float *memory, int has_maker, struct checkpoint_part *parts)
{
    const struct net *net = &run->model->net;
    int n = 0, is_lora = run->recipe.part == SR_PART_LORA;
    parts[n++] = (struct checkpoint_part){"weights", net, run->best};
    parts[n++] = (struct checkpoint_part){"raw", net, run->host};
    if (is_lora) {
        parts[n++] = (struct checkpoint_part){"lora", &run->lora.net, run->lora.factors};
        parts[n++] = (struct checkpoint_part){"adam_m", &run->lora.net, run->lora.moment1};
        parts[n++] = (struct checkpoint_part){"adam_v", &run->lora.net, run->lora.moment2};
    } else {
        parts[n++] = (struct checkpoint_part){"adam_m", net, memory};
        parts[n++] = (struct checkpoint_part){"adam_v", net, memory + net->n_parameters};
    }
    if (run->averaged != NULL)
        parts[n++] = (struct checkpoint_part){"averaged", net, memory + 2 * net->n_parameters};
    if (has_maker)
        parts[n++] = (struct checkpoint_part){"maker", net, run->estimate.maker};
    return n;
}

// The arenas that live on the device, to or from `memory` [3 * n_parameters].
static int move_parts(struct finetune *run, float *memory, int is_save, struct fault_note *why)
{
    const struct sr_ops *ops = run->model->ops;
    struct sr_device *device = run->model->device;
    int is_lora = run->recipe.part == SR_PART_LORA, rc = 0;
    struct sr_buffer *buffers[] = {is_lora ? NULL : run->trainer.moment1,
                                   is_lora ? NULL : run->trainer.moment2, run->averaged};
    for (size_t i = 0; rc == 0 && i < sizeof buffers / sizeof buffers[0]; i++) {
        float *values = memory + i * n_parameters(run);
        if (buffers[i] != NULL)
            rc = is_save ? ops->download(device, buffers[i], values, why)
                         : ops->upload(device, buffers[i], values, why);
    }
    if (rc == 0)
        rc = is_save ? model_get_parameters(run->model, run->host, why)
                     : model_set_parameters(run->model, run->host, why);
    return rc;
}

static float *take_memory(const struct finetune *run, struct fault_note *why)
{
    float *memory = malloc(3 * n_parameters(run) * sizeof *memory);
    if (memory == NULL)
        fault_set(why, FAULT_NO_MEMORY, "no memory for a checkpoint");
    return memory;
}

int finetune_save(struct finetune *run, const char *directory, double minutes, struct fault_note *why)
{
    struct checkpoint_state state = {
        .stage = "subject", .step = run->step, .minutes = minutes, .seed = run->options->seed};
    struct checkpoint_part parts[MAX_PARTS];
    char recipe[512];
    int rc = sr_recipe_say(&run->recipe, recipe, sizeof recipe, why);
    float *memory = rc == 0 ? take_memory(run, why) : NULL;
    if (memory == NULL)
        return rc != 0 ? rc : FAULT_NO_MEMORY;
    snprintf(
        state.extra, sizeof state.extra,
        "steps %d\nbest_step %d\nbest_share %.17g\nbest_error %.17g\nlast_error %.17g\nsource %016" PRIx64
        "\nstart %016" PRIx64 "\nrecipe %s\n",
        run->n_steps, run->report->step_best, run->report->share_best, run->best_error, run->last_error,
        run->source, run->start, recipe);
    rc = move_parts(run, memory, 1, why);
    if (rc == 0)
        rc = checkpoint_save(directory, &state, parts,
                             list_parts(run, memory, run->estimate.maker != NULL, parts), why);
    free(memory);
    return rc;
}

// What a checkpoint says about its run.
struct saved {
    int n_steps, best_step;
    double best_share, best_error, last_error;
    uint64_t source, start;
    char recipe[512];
};

static int read_extra(const char *text, struct saved *saved)
{
    saved->recipe[0] = '\0';
    return sscanf(text,
                  "steps %d best_step %d best_share %lf best_error %lf last_error %lf source %" SCNx64
                  " start %" SCNx64 " recipe %511[^\n]",
                  &saved->n_steps, &saved->best_step, &saved->best_share, &saved->best_error,
                  &saved->last_error, &saved->source, &saved->start, saved->recipe) >= 7 &&
           saved->n_steps > 0 && saved->n_steps <= MAX_STEPS;
}

static int is_same_run(const struct finetune *run, const char *directory,
                       const struct checkpoint_state *state, const struct saved *saved,
                       struct fault_note *why)
{
    char recipe[512];
    if (sr_recipe_say(&run->recipe, recipe, sizeof recipe, why) != 0)
        return 0;
    const char *other = strcmp(state->stage, "subject") != 0 ? "of another stage"
                        : saved->source != run->source       ? "of another stack"
                        : saved->start != run->start         ? "from other weights"
                        : state->seed != run->options->seed  ? "with another seed"
                        : strcmp(saved->recipe, recipe) != 0 ? "with another recipe"
                        : run->options->steps > 0 && run->options->steps != saved->n_steps
                            ? "with another number of steps"
                            : NULL;
    if (other != NULL)
        fault_set(why, FAULT_CONFIG, "'%s' holds a run %s", directory, other);
    return other == NULL;
}

static int take_up(struct finetune *run, const char *directory, const struct checkpoint_state *state,
                   struct fault_note *why)
{
    struct checkpoint_part parts[MAX_PARTS];
    int has_maker = run->recipe.second_round > 0 && state->step > run->round_start;
    float *memory = take_memory(run, why);
    if (memory == NULL)
        return FAULT_NO_MEMORY;
    if (has_maker)
        run->estimate.maker = malloc(n_parameters(run) * sizeof *run->estimate.maker);
    int rc = has_maker && run->estimate.maker == NULL
                 ? fault_set(why, FAULT_NO_MEMORY, "no memory for the first round's weights")
                 : checkpoint_load(directory, state, parts, list_parts(run, memory, has_maker, parts), why);
    if (rc == 0)
        rc = move_parts(run, memory, 0, why);
    free(memory);
    return rc == 0 && has_maker ? open_estimate(run, why) : rc;
}

int finetune_load(struct finetune *run, const char *directory, int *found, double *minutes,
                  struct fault_note *why)
{
    struct checkpoint_state state;
    struct saved saved;
    int rc = checkpoint_read_state(directory, &state, found, why);
    if (rc != 0 || !*found)
        return rc;
    if (!read_extra(state.extra, &saved) || state.step > saved.n_steps)
        return fault_set(why, FAULT_BAD_HEADER, "'%s/state' is not that of a fine-tune", directory);
    if (!is_same_run(run, directory, &state, &saved, why))
        return FAULT_CONFIG;
    run->n_steps = saved.n_steps;
    rc = finetune_begin(run, why);
    if (rc == 0)
        rc = take_up(run, directory, &state, why);
    run->step = run->first_step = (int)state.step;
    run->best_error = saved.best_error;
    run->last_error = saved.last_error;
    run->report->step_best = saved.best_step;
    run->report->share_best = saved.best_share;
    *minutes = state.minutes;
    return rc;
}
