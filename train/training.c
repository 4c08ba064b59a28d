// SPDX-License-Identifier: Apache-2.0
#include "train/training.h"

#include "core/clock.h"
#include "core/file.h"
#include "sr_engine/checkpoint.h"
#include "sr_engine/random.h"
#include "sr_engine/weights.h"
#include "train/validate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANDOM_LAST_LAYER = 18, PATH_SIZE = 4096, AVERAGE_HEAD_START = 50 };
static const double last_layer_share = 0.1, norm_floor = 1e-6;

struct training_recipe training_default(void)
{
    return (struct training_recipe){
        .rate = 1e-4, .rate_end = 0.02, .beta2 = 0.999, .clip_norm = 1, .average = 0.999, .warm_up = 200};
}

double training_rate(const struct training_recipe *recipe, long step, double gone)
{
    double rise = recipe->warm_up > 0 ? fmin(1, (double)(step + 1) / recipe->warm_up) : 1;
    double share = fmin(1, fmax(0, gone));
    return recipe->rate * rise *
           (recipe->rate_end + (1 - recipe->rate_end) * 0.5 * (1 + cos(acos(-1) * share)));
}

// --------------------------------------------------------------------------------------------- steps

// The trainer of the other shape of batch works on the first one's optimiser.
static int open_planar(struct training *training, struct sr_extent extent, struct fault_note *why)
{
    extent.h /= 2;
    return trainer_open_beside(&training->planar, &training->whole, extent, 1, 1, why);
}

int training_open(struct training *training, const char *backend, int threads, struct net_config config,
                  const struct sample_recipe *sample, const struct training_recipe *recipe,
                  struct fault_note *why)
{
    const struct sr_ops *ops;
    struct sr_extent extent = {sample->batch, sample->slices, sample->crop, sample->crop};
    memset(training, 0, sizeof *training);
    training->recipe = *recipe;
    int rc = ops_find(backend, &ops, why);
    if (rc == 0)
        rc = model_open(&training->model, ops, config, threads, why);
    if (rc != 0)
        return rc;
    size_t bytes = training->model.net.n_parameters * sizeof(float);
    training->raw = calloc(1, bytes);
    training->averaged = calloc(1, bytes);
    training->scratch = calloc(1, bytes);
    if (training->raw == NULL || training->averaged == NULL || training->scratch == NULL)
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for three copies of the weights");
    if (rc == 0)
        rc = trainer_open(&training->whole, &training->model, extent, 1, 1, why);
    if (rc == 0 && sample->planar_share > 0)
        rc = open_planar(training, extent, why);
    if (rc != 0)
        training_close(training);
    return rc;
}

void training_close(struct training *training)
{
    trainer_close(&training->planar);
    trainer_close(&training->whole);
    model_close(&training->model);
    free(training->raw);
    free(training->averaged);
    free(training->scratch);
    training->raw = training->averaged = training->scratch = NULL;
}

void training_start_weights(const struct net *net, uint64_t seed, float *parameters)
{
    const struct net_linear *last = &net->linears[net->n_linears - 1];
    struct random_stream stream = random_open(seed, RANDOM_LAST_LAYER, 0);
    double bound = last_layer_share / sqrt(last->n_in);
    weights_init(net, seed, parameters);
    for (int i = 0; i < last->n_in * last->n_out; i++)
        parameters[last->weight + (size_t)i] = (float)(bound * (2 * random_unit(&stream) - 1));
}

int training_set_weights(struct training *training, const float *parameters, struct fault_note *why)
{
    const struct sr_ops *ops = training->model.ops;
    struct sr_device *device = training->model.device;
    size_t bytes = training->model.net.n_parameters * sizeof *parameters;
    memcpy(training->raw, parameters, bytes);
    memcpy(training->averaged, parameters, bytes);
    training->step = 0;
    int rc = model_set_parameters(&training->model, parameters, why);
    if (rc == 0)
        rc = ops->zero(device, training->whole.moment1, why);
    return rc != 0 ? rc : ops->zero(device, training->whole.moment2, why);
}

// Scales all gradients so that their norm is at most the recipe's. Source: torch.nn.utils.clip_grad_norm_.
static int clip_gradients(struct training *training, struct fault_note *why)
{
    const struct model *model = &training->model;
    size_t n = model->net.n_parameters;
    double sum = 0;
    int rc = model->ops->download(model->device, training->whole.gradients, training->scratch, why);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < n; i++)
        sum += (double)training->scratch[i] * (double)training->scratch[i];
    double scale = training->recipe.clip_norm / (sqrt(sum) + norm_floor);
    if (!isfinite(sum))
        return fault_set(why, FAULT_NOT_FINITE, "the gradient is not finite at step %ld", training->step + 1);
    if (scale >= 1)
        return 0;
    for (size_t i = 0; i < n; i++)
        training->scratch[i] *= (float)scale;
    return model->ops->upload(model->device, training->whole.gradients, training->scratch, why);
}

static void average_weights(struct training *training)
{
    double most = training->recipe.average,
           keep = fmin(most, (double)training->step / (double)(training->step + AVERAGE_HEAD_START));
    float old = (float)keep, new = (float)(1 - keep);
    for (size_t i = 0; i < training->model.net.n_parameters; i++)
        training->averaged[i] = old * training->averaged[i] + new * training->raw[i];
}

int training_step(struct training *training, const struct sample_batch *batch, double rate, double *loss,
                  struct fault_note *why)
{
    struct trainer *trainer =
        batch->extent.h == training->whole.extent.h ? &training->whole : &training->planar;
    const struct sr_ops *ops = training->model.ops;
    struct sr_device *device = training->model.device;
    float value;
    if (trainer->model == NULL || memcmp(&batch->extent, &trainer->extent, sizeof batch->extent) != 0)
        return fault_set(why, FAULT_INTERNAL, "a batch of %d x %d x %d x %d has no trainer", batch->extent.n,
                         batch->extent.d, batch->extent.h, batch->extent.w);
    int rc = ops->upload(device, trainer->stack, batch->stack, why);
    if (rc == 0)
        rc = ops->upload(device, trainer->planes, batch->planes, why);
    if (rc == 0)
        rc = ops->upload(device, trainer->target, batch->target, why);
    if (rc == 0)
        rc = trainer_learn(trainer, 0, why);
    if (rc == 0)
        rc = ops->download(device, trainer->losses, &value, why);
    if (rc == 0 && !isfinite(value))
        rc = fault_set(why, FAULT_NOT_FINITE, "the loss is not finite at step %ld", training->step + 1);
    if (rc == 0 && training->recipe.clip_norm > 0)
        rc = clip_gradients(training, why);
    trainer->step = (int)training->step;
    if (rc == 0)
        rc = trainer_update(trainer, rate, training->recipe.beta2, why);
    if (rc == 0)
        rc = model_get_parameters(&training->model, training->raw, why);
    if (rc != 0)
        return rc;
    training->step++;
    average_weights(training);
    *loss = (double)value;
    return 0;
}

// --------------------------------------------------------------------------------------------- checkpoints

enum { PART_AVERAGED, PART_RAW, PART_MOMENT1, PART_MOMENT2, N_PARTS };
static const char *const part_names[N_PARTS] = {"weights", "raw", "adam_m", "adam_v"};

// The arenas of a checkpoint; `memory` [2 * n_parameters] is for the moments.
static void list_parts(const struct training *training, float *memory, struct checkpoint_part *parts)
{
    const struct net *net = &training->model.net;
    float *values[N_PARTS] = {training->averaged, training->raw, memory, memory + net->n_parameters};
    for (int i = 0; i < N_PARTS; i++)
        parts[i] = (struct checkpoint_part){part_names[i], net, values[i]};
}

static float *take_moments(const struct training *training, struct fault_note *why)
{
    float *memory = malloc(2 * training->model.net.n_parameters * sizeof *memory);
    if (memory == NULL)
        fault_set(why, FAULT_NO_MEMORY, "no memory for the optimiser's moments");
    return memory;
}

int training_save(struct training *training, const char *directory, const char *stage, double minutes,
                  uint64_t seed, struct fault_note *why)
{
    struct checkpoint_state state = {.step = training->step, .minutes = minutes, .seed = seed};
    struct checkpoint_part parts[N_PARTS];
    const struct model *model = &training->model;
    float *memory = take_moments(training, why);
    if (memory == NULL)
        return FAULT_NO_MEMORY;
    snprintf(state.stage, sizeof state.stage, "%s", stage);
    list_parts(training, memory, parts);
    int rc = model->ops->download(model->device, training->whole.moment1, parts[PART_MOMENT1].values, why);
    if (rc == 0)
        rc = model->ops->download(model->device, training->whole.moment2, parts[PART_MOMENT2].values, why);
    if (rc == 0)
        rc = checkpoint_save(directory, &state, parts, N_PARTS, why);
    free(memory);
    return rc;
}

static int load_parts(struct training *training, const char *directory, const struct checkpoint_state *state,
                      float *memory, struct fault_note *why)
{
    struct checkpoint_part parts[N_PARTS];
    struct model *model = &training->model;
    list_parts(training, memory, parts);
    int rc = checkpoint_load(directory, state, parts, N_PARTS, why);
    if (rc == 0)
        rc = model_set_parameters(model, training->raw, why);
    if (rc == 0)
        rc = model->ops->upload(model->device, training->whole.moment1, parts[PART_MOMENT1].values, why);
    return rc != 0
               ? rc
               : model->ops->upload(model->device, training->whole.moment2, parts[PART_MOMENT2].values, why);
}

int training_load(struct training *training, const char *directory, const char *stage, int *found,
                  double *minutes, uint64_t *seed, struct fault_note *why)
{
    struct checkpoint_state state;
    int rc = checkpoint_read_state(directory, &state, found, why);
    if (rc != 0 || !*found)
        return rc;
    if (strcmp(state.stage, stage) != 0)
        return fault_set(why, FAULT_CONFIG, "'%s' holds a run of stage '%s', not '%s'", directory,
                         state.stage, stage);
    float *memory = take_moments(training, why);
    if (memory == NULL)
        return FAULT_NO_MEMORY;
    rc = load_parts(training, directory, &state, memory, why);
    free(memory);
    if (rc != 0)
        return rc;
    training->step = state.step;
    *minutes = state.minutes;
    *seed = state.seed;
    return 0;
}

// --------------------------------------------------------------------------------------------- a run

struct run {
    const struct training_job *job;
    struct training_report *report;
    struct training training;
    struct sample_source source;
    struct sample_batch batch;
    struct history history;
    double start_s, minutes_before, saved_s;
    long saved_step;
    double loss_sum; // since the last row of the log
    long loss_count;
};

static double minutes_of(const struct run *run)
{
    return run->minutes_before + (clock_monotonic_s() - run->start_s) / 60;
}

static double share_gone(const struct run *run)
{
    const struct training_job *job = run->job;
    return job->steps > 0 ? (double)run->training.step / (double)job->steps : minutes_of(run) / job->minutes;
}

static int validate(struct run *run, double *network_db, double *linear_db, struct fault_note *why)
{
    struct training *training = &run->training;
    struct interpolate_limits limits = {.memory_bytes = (size_t)2 << 30,
                                        .progress = run->job->progress,
                                        .progress_user = run->job->progress_user,
                                        .phase = "validate"};
    struct validate_result result;
    *network_db = *linear_db = NAN;
    if (run->job->validation == NULL)
        return 0;
    int rc = model_set_parameters(&training->model, training->averaged, why);
    if (rc == 0)
        rc = validate_run(&training->model, run->job->validation, run->job->validate_crop, &limits, &result,
                          why);
    int back = model_set_parameters(&training->model, training->raw, rc == 0 ? why : NULL);
    if (rc != 0 || back != 0)
        return rc != 0 ? rc : back;
    *network_db = result.network_db;
    *linear_db = result.linear_db;
    return 0;
}

static int log_row(struct run *run, double rate, double network_db, double linear_db, struct fault_note *why)
{
    struct history_row row = {.step = run->training.step,
                              .minutes = minutes_of(run),
                              .rate = rate,
                              .loss = run->loss_count > 0 ? run->loss_sum / (double)run->loss_count : NAN,
                              .network_db = network_db,
                              .linear_db = linear_db};
    if (run->loss_count > 0)
        run->report->loss = row.loss;
    run->loss_sum = 0;
    run->loss_count = 0;
    return history_add(&run->history, &row, why);
}

static int save(struct run *run, struct fault_note *why)
{
    const struct training_job *job = run->job;
    char path[PATH_SIZE];
    int rc = training_save(&run->training, job->out, job->stage, minutes_of(run), job->sample.seed, why);
    if (rc == 0)
        rc = file_join(path, sizeof path, job->out, "log.csv", why);
    if (rc == 0)
        rc = history_save(&run->history, path, why);
    if (rc == 0)
        rc = file_join(path, sizeof path, job->out, "loss.png", why);
    if (rc == 0)
        rc = history_draw(&run->history, job->stage, path, why);
    run->saved_s = clock_monotonic_s();
    run->saved_step = run->training.step;
    return rc;
}

static int is_save_due(const struct run *run)
{
    const struct training_job *job = run->job;
    if (job->every_steps > 0)
        return run->training.step - run->saved_step >= job->every_steps;
    return clock_monotonic_s() - run->saved_s >= 60 * job->every_minutes;
}

static int begin(struct run *run, struct fault_note *why)
{
    const struct training_job *job = run->job;
    struct training *training = &run->training;
    char path[PATH_SIZE];
    int found = 0;
    uint64_t seed = 0;
    int rc = training_load(training, job->out, job->stage, &found, &run->minutes_before, &seed, why);
    if (rc != 0)
        return rc;
    if (found) {
        if (seed != job->sample.seed)
            return fault_set(why, FAULT_CONFIG, "'%s' holds a run with seed %" PRIu64 ", not %" PRIu64,
                             job->out, seed, job->sample.seed);
        run->report->resumed_at = training->step;
        rc = file_join(path, sizeof path, job->out, "log.csv", why);
        return rc != 0 ? rc : history_load(&run->history, path, training->step, why);
    }
    if (checkpoint_has_part(job->out, part_names[PART_RAW]))
        return fault_set(why, FAULT_CONFIG, "'%s' holds %s.safetensors without the state of its run",
                         job->out, part_names[PART_RAW]);
    if (job->init != NULL)
        rc = weights_load(job->init, &training->model.net, training->scratch, NULL, why);
    else if (job->plain_start)
        training_start_weights(&training->model.net, job->sample.seed, training->scratch);
    else
        weights_init(&training->model.net, job->sample.seed, training->scratch);
    if (rc == 0)
        weights_wake(&training->model.net, training->scratch);
    return rc != 0 ? rc : training_set_weights(training, training->scratch, why);
}

static int report_progress(const struct run *run, double network_db, struct fault_note *why)
{
    const struct training_job *job = run->job;
    char detail[96];
    double loss = run->loss_count > 0 ? run->loss_sum / (double)run->loss_count : run->report->loss;
    int n = snprintf(detail, sizeof detail, "step %ld, L1 %.5f", run->training.step, loss);
    if (isfinite(network_db))
        snprintf(detail + n, sizeof detail - (size_t)n, ", validation %.3f dB", network_db);
    double total = job->steps > 0 ? (double)job->steps : job->minutes;
    if (job->progress == NULL ||
        job->progress(job->progress_user, "train", total * fmin(1, share_gone(run)), total, detail) == 0)
        return 0;
    return fault_set(why, FAULT_CANCELLED, "stopped on request after %ld steps", run->training.step);
}

static int one_step(struct run *run, double *rate, struct fault_note *why)
{
    double loss = 0;
    *rate = training_rate(&run->job->recipe, run->training.step, share_gone(run));
    int rc = sample_draw(&run->source, (uint64_t)run->training.step, &run->batch, why);
    if (rc == 0)
        rc = training_step(&run->training, &run->batch, *rate, &loss, why);
    if (rc != 0)
        return rc;
    run->loss_sum += loss;
    run->loss_count++;
    return 0;
}

// Steps until the run is over; what was done when a fault came is saved.
static int go(struct run *run, struct fault_note *why)
{
    double network_db = NAN, linear_db, rate = 0;
    int rc = 0;
    while (rc == 0 && share_gone(run) < 1) {
        rc = one_step(run, &rate, why);
        if (rc != 0)
            return rc;
        int due = is_save_due(run) && share_gone(run) < 1, is_logged = 0;
        if (due) {
            rc = validate(run, &network_db, &linear_db, why);
            if (rc == 0)
                rc = log_row(run, rate, network_db, linear_db, why);
            if (rc == 0)
                rc = save(run, why);
            is_logged = 1;
        }
        if (rc == 0 && !is_logged && run->training.step % run->job->log_steps == 0)
            rc = log_row(run, rate, NAN, NAN, why);
        if (rc == 0)
            rc = report_progress(run, network_db, why);
    }
    return rc;
}

static int finish(struct run *run, int rc, struct fault_note *why)
{
    struct training_report *report = run->report;
    double network_db = NAN, linear_db = NAN;
    struct fault_note later;
    if (rc == 0)
        rc = validate(run, &network_db, &linear_db, why);
    if (rc != 0 && rc != FAULT_CANCELLED)
        return rc;
    int failed = 0;
    if (run->loss_count > 0 || isfinite(network_db))
        failed = log_row(run, training_rate(&run->job->recipe, run->training.step, share_gone(run)),
                         network_db, linear_db, &later);
    if (failed == 0)
        failed = save(run, &later);
    report->validated = isfinite(network_db);
    report->network_db = network_db;
    report->linear_db = linear_db;
    report->step = run->training.step;
    report->minutes = minutes_of(run);
    if (failed == 0)
        return rc;
    if (why != NULL)
        *why = later;
    return failed;
}

int training_run(const struct training_job *job, struct training_report *report, struct fault_note *why)
{
    struct run run = {.job = job, .report = report};
    struct sample_recipe sample = job->sample;
    memset(report, 0, sizeof *report);
    int rc = file_make_directory(job->out, why);
    if (rc == 0)
        rc = sample_source_init(&run.source, job->corpus, &sample, why);
    if (rc == 0)
        rc = sample_batch_init(&run.batch, &sample, why);
    if (run.source.n_planar == 0)
        sample.planar_share = 0; // no second trainer
    if (rc == 0)
        rc =
            training_open(&run.training, job->backend, job->threads, job->config, &sample, &job->recipe, why);
    if (rc == 0) {
        snprintf(report->backend, sizeof report->backend, "%s",
                 run.training.model.ops->describe(run.training.model.device));
        rc = begin(&run, why);
        run.start_s = clock_monotonic_s();
        run.saved_step = run.training.step;
        if (rc == 0)
            rc = validate(&run, &report->start_network_db, &report->start_linear_db, why);
        run.start_s = run.saved_s = clock_monotonic_s(); // the first look is not of the run's own time
        if (rc == 0 && run.training.step == 0)
            rc = log_row(&run, 0, report->start_network_db, report->start_linear_db, why);
        if (rc == 0)
            rc = finish(&run, go(&run, why), why);
        training_close(&run.training);
    }
    history_done(&run.history);
    sample_batch_done(&run.batch);
    sample_source_done(&run.source);
    return rc;
}
