// SPDX-License-Identifier: Apache-2.0
#include "worker/worker.h"

#include "core/clock.h"
#include "core/file.h"
#include "core/log.h"
#include "core/notify.h"
#include "spool/seal.h"
#include "spool/spool.h"
#include "worker/notice.h"
#include "worker/preview.h"
#include "worker/process.h"
#include "worker/rules.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { POLL_MS = 300 };

struct worker {
    const struct conf *conf;
    struct spool *spool;
    char owner[SPOOL_OWNER_SIZE];
    char weights[CONF_PATH_SIZE + 64];
    struct process_options options;
    volatile int *stop;
    struct spool_job job;
    const struct conf_rule *rule;                 // that decides on the item in hand; NULL: none
    char work[SPOOL_PATH_SIZE + SPOOL_NAME_SIZE]; // folder of the job in hand: all that its reader can write
};

// ---- the lease of the job in hand, kept by a thread with a queue connection of its own

struct keeper {
    const struct conf *conf;
    int64_t job;
    const char *owner;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    int done;          // under mutex
    volatile int lost; // read by the working thread
};

static void *keep_lease(void *user)
{
    struct keeper *keeper = user;
    struct spool *spool = NULL;
    struct fault_note why;
    if (spool_open(keeper->conf->spool, &spool, &why) != 0)
        log_error("job j%lld: cannot keep its lease: %s", (long long)keeper->job, why.text);
    pthread_mutex_lock(&keeper->mutex);
    while (!keeper->done) {
        int64_t wake_us = clock_wall_us() + (int64_t)(keeper->conf->lease_s / 3 * 1e6);
        struct timespec at = {.tv_sec = wake_us / 1000000, .tv_nsec = wake_us % 1000000 * 1000};
        pthread_cond_timedwait(&keeper->wake, &keeper->mutex, &at);
        if (keeper->done || spool == NULL)
            continue;
        int rc =
            spool_job_renew(spool, keeper->job, keeper->owner, keeper->conf->lease_s, clock_wall_us(), &why);
        if (rc == FAULT_LEASE_LOST)
            keeper->lost = 1;
        else if (rc != 0)
            log_warning("job j%lld: %s", (long long)keeper->job, why.text);
        notify_manager("WATCHDOG=1");
    }
    pthread_mutex_unlock(&keeper->mutex);
    spool_close(spool);
    return NULL;
}

static int keeper_start(struct keeper *keeper, struct fault_note *why)
{
    pthread_mutex_init(&keeper->mutex, NULL);
    pthread_cond_init(&keeper->wake, NULL);
    int failed = pthread_create(&keeper->thread, NULL, keep_lease, keeper);
    return failed ? fault_set_errno(why, failed, "cannot start a thread") : 0;
}

static void keeper_stop(struct keeper *keeper)
{
    pthread_mutex_lock(&keeper->mutex);
    keeper->done = 1;
    pthread_cond_signal(&keeper->wake);
    pthread_mutex_unlock(&keeper->mutex);
    pthread_join(keeper->thread, NULL);
    pthread_cond_destroy(&keeper->wake);
    pthread_mutex_destroy(&keeper->mutex);
}

// ---- progress into the log, and the stop flag back into the engine

struct report_state {
    const struct worker *worker;
    const struct keeper *keeper;
    char phase[32];
    int tenth;
};

static int on_progress(void *user, const char *phase, double done, double total, const char *detail)
{
    struct report_state *state = user;
    int tenth = total > 0 ? (int)(10 * done / total) : 10;
    if (strncmp(state->phase, phase, sizeof state->phase - 1) != 0) {
        snprintf(state->phase, sizeof state->phase, "%s", phase);
        state->tenth = -1;
    }
    if (tenth != state->tenth)
        log_info("job j%lld: %s %d %%%s%s", (long long)state->worker->job.id, phase, 10 * tenth,
                 detail ? ", " : "", detail ? detail : "");
    state->tenth = tenth;
    return *state->worker->stop || state->keeper->lost;
}

// ---- one stack

static int publish(struct worker *worker, const char *work, const char *name, struct fault_note *why)
{
    char to[SPOOL_PATH_SIZE + SPOOL_NAME_SIZE];
    int rc = file_join(to, sizeof to, spool_folder(worker->spool, SPOOL_DERIVED), name, why);
    if (rc == 0) // who has slept past the lease must not touch what the next worker has published
        rc = spool_job_renew(worker->spool, worker->job.id, worker->owner, worker->conf->lease_s,
                             clock_wall_us(), why);
    if (rc == 0)
        rc = file_remove_tree(to, why); // of an attempt that ended between here and its transaction
    if (rc == 0)
        rc = file_sync_directory(work, why);
    if (rc == 0 && file_ops.rename(work, to) != 0)
        rc = fault_set_errno(why, errno, "cannot move '%s'", work);
    if (rc == 0)
        rc = file_sync_directory(spool_folder(worker->spool, SPOOL_DERIVED), why);
    return rc;
}

static int write_report(struct worker *worker, const char *name, const struct source_item *item,
                        const struct process_outcome *outcome, const struct process_images *images,
                        struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE + SPOOL_NAME_SIZE], caption[64];
    snprintf(path, sizeof path, "%s/%s.json", spool_folder(worker->spool, SPOOL_REPORTS), name);
    char *text = process_report(item, outcome, NULL);
    if (text == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot write the report");
    int rc = file_write_atomic(path, text, strlen(text), why);
    free(text);
    if (rc != 0 || !worker->conf->preview)
        return rc;
    snprintf(path, sizeof path, "%s/%s.png", spool_folder(worker->spool, SPOOL_REPORTS), name);
    snprintf(caption, sizeof caption, "Isoslice (%s)", sr_method_name(outcome->report.delivered));
    struct fault_note why_not;
    if (preview_write(images, caption, path, &why_not) != 0) // no reason to withhold the series
        log_warning("job j%lld: no picture: %s", (long long)worker->job.id, why_not.text);
    return 0;
}

// What of the outcome's further series people are told.
static void say_series(const struct process_series *series, char *out, size_t size)
{
    const char *object = series->format == FORMAT_ENHANCED ? " as one Enhanced MR object" : "";
    if (series->fault.fault != FAULT_OK)
        snprintf(out, size, "%s: %s", fault_name(series->fault.fault), series->fault.text);
    else if (series->plane == VIEW_ACQUIRED)
        snprintf(out, size, "The same voxels%s.", object);
    else
        snprintf(out, size, "The same voxels in %s planes%s.", view_name(series->plane), object);
}

// The further series of an item, published and noted each as a result of its own; those that could not be
// made are noted only.
static int publish_series(struct worker *worker, const char *work, const char *name,
                          const struct process_outcome *outcome, struct spool_result *results,
                          size_t *n_results, struct fault_note *why)
{
    char folder[SPOOL_PATH_SIZE + 3 * SPOOL_NAME_SIZE];
    int rc = 0;
    for (size_t i = 1; rc == 0 && i < outcome->n_series; i++) {
        const struct process_series *series = &outcome->series[i];
        struct spool_result *result = &results[*n_results];
        memset(result, 0, sizeof *result);
        result->stack_index = results[0].stack_index;
        result->verdict = series->fault.fault;
        result->form = (int)series->format;
        say_series(series, result->note, sizeof result->note);
        *n_results += 1;
        if (result->verdict != FAULT_OK) {
            log_error("job j%lld: a derived series was not made: %s", (long long)worker->job.id,
                      result->note);
            continue;
        }
        rc = process_series_folder(work, outcome, i, folder, sizeof folder, why);
        if (rc == 0)
            rc = process_series_folder(name, outcome, i, result->derived_name, sizeof result->derived_name,
                                       why);
        if (rc == 0)
            rc = publish(worker, folder, result->derived_name, why);
        snprintf(result->derived_uid, sizeof result->derived_uid, "%s", series->derived.series_uid);
        result->n_objects = (int64_t)series->derived.n_objects;
        if (rc == 0)
            log_info("job j%lld: derived series '%s', %zu %s %s objects", (long long)worker->job.id,
                     result->derived_uid, series->derived.n_objects, view_name(series->plane),
                     format_name(series->format));
    }
    return rc;
}

static size_t list_destinations(const struct conf *conf, struct spool_destination *destinations)
{
    for (size_t i = 0; i < conf->n_destinations; i++)
        destinations[i] = (struct spool_destination){.name = conf->destinations[i].name,
                                                     .form = (int)process_format_for(&conf->destinations[i]),
                                                     .gets_notices = conf->destinations[i].notices};
    return conf->n_destinations;
}

// Destinations of whoever gets notices; bits as in conf_rule.to.
static unsigned notices_to(const struct conf *conf)
{
    unsigned to = 0;
    for (size_t i = 0; i < conf->n_destinations && i < CONF_MAX_DESTINATIONS; i++)
        to |= conf->destinations[i].notices ? 1u << i : 0;
    return to;
}

// A notice is a help, not a duty: where it cannot be made the log says so and the job goes on. 1 when it was.
static int add_notice(struct worker *worker, struct reader *reader, size_t item, const char *name,
                      const struct fault_note *why_not, struct spool_result *result)
{
    char work[SPOOL_PATH_SIZE + 2 * SPOOL_NAME_SIZE];
    struct process_options options = worker->options;
    struct derive_result made;
    struct fault_note why;
    options.job_time_us = worker->job.created_us;
    int rc = file_join(work, sizeof work, worker->work, name, &why);
    if (rc == 0)
        rc = file_make_directory(work, &why);
    if (rc == 0)
        rc = notice_make(reader, item, &options, why_not, work, &made, &why);
    if (rc == 0)
        rc = publish(worker, work, name, &why);
    if (rc != 0) {
        file_remove_tree(work, NULL);
        log_warning("job j%lld: no notice of %s: %s: %s", (long long)worker->job.id,
                    fault_name(why_not->fault), fault_name((enum fault)rc), why.text);
        return 0;
    }
    *result = (struct spool_result){.verdict = why_not->fault,
                                    .stack_index = reader_item(reader, item)->stack_index,
                                    .n_objects = 1,
                                    .is_notice = 1};
    snprintf(result->note, sizeof result->note, "%s: an image says so in the archive",
             fault_name(why_not->fault));
    snprintf(result->derived_name, sizeof result->derived_name, "%s", name);
    snprintf(result->derived_uid, sizeof result->derived_uid, "%s", made.series_uid);
    log_info("job j%lld: notice '%s' of %s", (long long)worker->job.id, result->derived_uid,
             fault_name(why_not->fault));
    return 1;
}

// Processes item `i` of the job; results[0] is filled for refusals and permanent faults too, those after it
// with the further series. A temporary fault, or one of ours, is returned: the whole job is then given back.
static int do_item(struct worker *worker, struct reader *reader, size_t i, struct keeper *keeper,
                   struct spool_result *results, size_t *n_results, struct fault_note *why)
{
    struct spool_result *result = &results[0];
    const struct source_item *item = reader_item(reader, i);
    struct process_outcome outcome;
    struct process_images images = {0};
    memset(result, 0, sizeof *result);
    *n_results = 1;
    result->stack_index = item->stack_index;
    result->verdict = item->verdict;
    if (item->verdict != FAULT_OK) {
        snprintf(result->note, sizeof result->note, "%s: %s", fault_name(item->verdict), item->reason);
        log_info("job j%lld: refused: %s", (long long)worker->job.id, result->note);
        return 0;
    }
    if (worker->rule != NULL && worker->rule->to == 0) {
        result->verdict = FAULT_BY_RULE;
        snprintf(result->note, sizeof result->note, "%s: rule '%s' leaves it alone",
                 fault_name(FAULT_BY_RULE), worker->rule->name);
        log_info("job j%lld: %s", (long long)worker->job.id, result->note);
        return 0;
    }
    char name[SPOOL_NAME_SIZE], work[SPOOL_PATH_SIZE + 2 * SPOOL_NAME_SIZE];
    snprintf(name, sizeof name, "j%lld-s%zu", (long long)worker->job.id, i);
    int rc = file_join(work, sizeof work, worker->work, name, why);
    if (rc == 0)
        rc = file_make_directory(work, why);
    if (rc != 0)
        return rc;
    struct report_state state = {.worker = worker, .keeper = keeper};
    struct process_options options = worker->options;
    options.generation = worker->job.generation;
    options.n_late = (int)worker->job.n_late;
    if (worker->rule != NULL) {
        log_info("job j%lld: stack %zu goes by rule '%s'", (long long)worker->job.id, i, worker->rule->name);
        options.formats = process_formats_for(worker->conf, worker->rule->to);
    }
    options.job_time_us = worker->job.created_us;
    options.engine.progress = on_progress;
    options.engine.progress_user = &state;
    if (worker->job.steps != 0)
        options.engine.steps = (int)worker->job.steps;
    rc = process_stack(reader, i, &options, work, &outcome, &images, why);
    if (rc == 0 && options.engine.finetune && worker->job.steps == 0) {
        worker->job.steps = outcome.report.steps_planned;
        rc = spool_job_set_steps(worker->spool, worker->job.id, worker->owner, worker->job.steps, why);
    }
    if (rc == 0)
        rc = write_report(worker, name, item, &outcome, &images, why);
    process_images_free(&images);
    if (rc == 0)
        rc = publish(worker, work, name, why);
    if (rc == FAULT_READER && *worker->stop) // whoever stops us may have stopped it too
        rc = fault_set(why, FAULT_CANCELLED, "stopped");
    if (rc != 0) {
        file_remove_tree(work, NULL);
        enum fault_class class = fault_class_of((enum fault)rc);
        if (class == FAULT_CLASS_TEMP || class == FAULT_CLASS_BUG)
            return rc;
        result->verdict = (enum fault)rc;
        snprintf(result->note, sizeof result->note, "%s: %s", fault_name((enum fault)rc), why->text);
        if (class == FAULT_CLASS_REFUSAL) // found only when planes were planned
            log_info("job j%lld: refused: %s", (long long)worker->job.id, result->note);
        else
            log_error("job j%lld: stack %zu failed: %s", (long long)worker->job.id, i, result->note);
        return 0;
    }
    snprintf(result->note, sizeof result->note, "%s", outcome.note);
    snprintf(result->derived_name, sizeof result->derived_name, "%s", name);
    snprintf(result->derived_uid, sizeof result->derived_uid, "%s", outcome.series[0].derived.series_uid);
    result->n_objects = (int64_t)outcome.series[0].derived.n_objects;
    result->form = (int)outcome.series[0].format;
    log_info("job j%lld: derived series '%s', %zu planes %.4g mm apart. %s", (long long)worker->job.id,
             result->derived_uid, outcome.n_planes, outcome.step_mm, outcome.note);
    return publish_series(worker, work, name, &outcome, results, n_results, why);
}

// ---- one job

// A file that is no image at all has an item of its own, without a series. Here it was accepted as an image
// of this series, so the series is not whole without it.
static int check_items(const struct reader *reader, struct fault_note *why)
{
    for (size_t i = 0; i < reader_n_items(reader); i++) {
        const struct source_item *item = reader_item(reader, i);
        if (item->verdict != FAULT_OK && item->series_uid[0] == '\0')
            return fault_set(why, item->verdict, "%s", item->reason);
    }
    return 0;
}

// The sentence of a note that begins with a fault's name, as those of items do that gave no series.
static const char *sentence_of(const char *note)
{
    const char *colon = strstr(note, ": ");
    return colon != NULL ? colon + 2 : note;
}

// The notice of an item that gave no series, to the destinations that would have got it. `result`: the first
// of the item's.
static int tell_of_item(struct worker *worker, struct reader *reader, size_t i,
                        const struct spool_result *result, struct spool_result *notice)
{
    const struct source_item *item = reader_item(reader, i);
    const unsigned to = notices_to(worker->conf) & rules_allow(worker->conf, worker->job.sender, item);
    char name[SPOOL_NAME_SIZE];
    struct fault_note why_not = {.fault = result->verdict};
    if (to == 0 || !notice_is_due(result->verdict) || item->n_images == 0)
        return 0;
    snprintf(why_not.text, sizeof why_not.text, "%.*s", (int)sizeof why_not.text - 1,
             sentence_of(result->note));
    snprintf(name, sizeof name, "j%lld-s%zu-notice", (long long)worker->job.id, i);
    if (!add_notice(worker, reader, i, name, &why_not, notice))
        return 0;
    notice->not_to = ~to;
    return 1;
}

static int do_stacks(struct worker *worker, struct reader *reader, struct keeper *keeper,
                     struct fault_note *why)
{
    size_t n = reader_n_items(reader), n_results = 0;
    struct spool_destination destinations[CONF_MAX_DESTINATIONS];
    struct spool_result *results = calloc((n ? n : 1) * PROCESS_MAX_SERIES + 1, sizeof *results);
    if (results == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold %zu results", n);
    int rc = check_items(reader, why), is_told = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        size_t n_made = 0;
        worker->rule = rules_find(worker->conf, worker->job.sender, reader_item(reader, i));
        rc = do_item(worker, reader, i, keeper, &results[n_results], &n_made, why);
        for (size_t k = 0; worker->rule != NULL && k < n_made; k++)
            results[n_results + k].not_to = ~worker->rule->to;
        n_results += n_made;
        if (rc == 0 && !is_told) { // once for a job: a series may fall apart into many
            is_told = tell_of_item(worker, reader, i, &results[n_results - n_made], &results[n_results]);
            n_results += (size_t)is_told;
        }
    }
    if (rc == 0)
        rc = spool_job_finish(worker->spool, worker->job.id, worker->owner, results, n_results, destinations,
                              list_destinations(worker->conf, destinations), clock_wall_us(), why);
    free(results);
    return rc;
}

// One for each attempt: a worker that has lost its lease and does not know it yet cleans up its own, not the
// next one's. What attempts before left there goes.
static int make_work_folder(struct worker *worker, struct fault_note *why)
{
    char name[SPOOL_NAME_SIZE];
    int rc = 0;
    for (int attempt = 1; rc == 0 && attempt <= worker->job.attempts; attempt++) {
        snprintf(name, sizeof name, "j%lld-%d", (long long)worker->job.id, attempt);
        rc = file_join(worker->work, sizeof worker->work, spool_folder(worker->spool, SPOOL_WORK), name, why);
        if (rc == 0)
            rc = file_remove_tree(worker->work, why);
    }
    return rc == 0 ? file_make_directory(worker->work, why) : rc;
}

// Nobody will do the job again unless a person says so.
static int is_given_up(const struct worker *worker, enum fault fault)
{
    enum fault_class class = fault_class_of(fault);
    if (class == FAULT_CLASS_TEMP)
        return fault != FAULT_CANCELLED && worker->job.attempts >= (int)worker->conf->max_attempts;
    return class == FAULT_CLASS_PERM || class == FAULT_CLASS_BUG;
}

// The notice of a job that is given up, by what one of its images says of patient and study. 1 when there is
// one.
static int tell_of_job(struct worker *worker, const struct fault_note *fault, struct spool_result *notice)
{
    enum { TRIES = 3 }; // images: the first may be what it was given up for
    struct fault_note why = {0};
    char **paths = NULL, name[SPOOL_NAME_SIZE];
    size_t n_paths = 0;
    unsigned to = notices_to(worker->conf);
    int is_made = 0;
    if (to == 0 || !notice_is_due(fault->fault) || !is_given_up(worker, fault->fault))
        return 0;
    snprintf(name, sizeof name, "j%lld-notice", (long long)worker->job.id);
    int rc = spool_job_files(worker->spool, worker->job.id, &paths, &n_paths, &why);
    if (rc == 0)
        rc = make_work_folder(worker, &why);
    for (size_t i = 0; rc == 0 && i < n_paths && i < TRIES && !is_made && to != 0; i++) {
        struct reader *reader = NULL;
        const struct reader_options options = {.output = worker->work};
        if (reader_open((const char *const *)&paths[i], 1, &options, &reader, &why) != 0)
            continue;
        const struct source_item *item = reader_n_items(reader) > 0 ? reader_item(reader, 0) : NULL;
        if (item != NULL && item->n_images > 0)
            to = notices_to(worker->conf) & rules_allow(worker->conf, worker->job.sender, item);
        if (item != NULL && item->n_images > 0 && to != 0)
            is_made = add_notice(worker, reader, 0, name, fault, notice);
        reader_free(reader);
    }
    notice->not_to = ~to;
    if (!is_made && to != 0)
        log_warning("job j%lld: no notice of %s", (long long)worker->job.id, fault_name(fault->fault));
    file_remove_tree(worker->work, NULL);
    spool_free_paths(paths, n_paths);
    return is_made;
}

static void give_back(struct worker *worker, const struct fault_note *fault)
{
    struct spool_destination destinations[CONF_MAX_DESTINATIONS];
    struct spool_result told;
    struct spool_notice notice = {&told, destinations, list_destinations(worker->conf, destinations)};
    struct fault_note why;
    int64_t now_us = clock_wall_us(), not_before_us = now_us;
    if (fault->fault == FAULT_LEASE_LOST) {
        log_warning("job j%lld: %s", (long long)worker->job.id, fault->text);
        return;
    }
    if (fault->fault != FAULT_CANCELLED) {
        double pause_s = fmin(SPOOL_PAUSE_MAX_S, worker->conf->retry_min_s * ldexp(1, worker->job.attempts));
        not_before_us += (int64_t)(pause_s * 1e6);
        enum fault_class class = fault_class_of(fault->fault);
        int goes_on = class == FAULT_CLASS_TEMP && !is_given_up(worker, fault->fault);
        log_line(goes_on ? LOG_LEVEL_WARNING : LOG_LEVEL_ERROR, "job j%lld: %s fault: %s: %s",
                 (long long)worker->job.id, fault_class_name(class), fault_name(fault->fault), fault->text);
    }
    int is_told = tell_of_job(worker, fault, &told);
    if (spool_job_return(worker->spool, worker->job.id, worker->owner, fault, is_told ? &notice : NULL,
                         not_before_us, now_us, &why) != 0)
        log_error("job j%lld: cannot give it back: %s", (long long)worker->job.id, why.text);
}

// Every image was whole when it was acknowledged. One that is not any more is not left out: a series from the
// others would look complete.
static int check_files(char *const *paths, size_t n, struct fault_note *why)
{
    int is_whole = 1;
    for (size_t i = 0; i < n && is_whole == 1; i++) {
        is_whole = seal_is_whole(paths[i], why);
        if (is_whole == 0)
            return fault_set(why, FAULT_DAMAGED_FILE, "kept object '%s' is not what was received",
                             strrchr(paths[i], '/') + 1);
    }
    return is_whole < 0 ? is_whole : 0;
}

static void do_job(struct worker *worker)
{
    struct fault_note why = {0};
    struct reader *reader = NULL;
    char **paths = NULL;
    size_t n_paths = 0;
    struct keeper keeper = {.conf = worker->conf, .job = worker->job.id, .owner = worker->owner};
    log_info("job j%lld: series '%s', attempt %d", (long long)worker->job.id, worker->job.series_uid,
             worker->job.attempts);
    int rc = keeper_start(&keeper, &why);
    if (rc != 0) {
        give_back(worker, &why);
        return;
    }
    rc = spool_job_files(worker->spool, worker->job.id, &paths, &n_paths, &why);
    if (rc == 0)
        rc = check_files(paths, n_paths, &why);
    if (rc == 0)
        rc = make_work_folder(worker, &why);
    const struct reader_options options = {.output = worker->work};
    if (rc == 0)
        rc = reader_open((const char *const *)paths, n_paths, &options, &reader, &why);
    if (rc == 0)
        rc = do_stacks(worker, reader, &keeper, &why);
    if (rc == FAULT_READER && *worker->stop)
        rc = fault_set(&why, FAULT_CANCELLED, "stopped");
    reader_free(reader);
    file_remove_tree(worker->work, NULL);
    spool_free_paths(paths, n_paths);
    keeper_stop(&keeper);
    if (keeper.lost)
        rc = fault_set(&why, FAULT_LEASE_LOST, "its lease was lost");
    if (rc != 0)
        give_back(worker, &why);
}

static int open_worker(struct worker *worker, struct fault_note *why)
{
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    snprintf(worker->owner, sizeof worker->owner, "%s:%d:%lld", host, (int)getpid(),
             (long long)clock_wall_us());
    int rc = process_options_from_conf(worker->conf, &worker->options, why);
    if (rc == 0)
        rc = process_find_weights(worker->conf->weights, worker->weights, sizeof worker->weights, why);
    if (rc == 0)
        rc = spool_open(worker->conf->spool, &worker->spool, why);
    worker->options.engine.weights_path = worker->weights;
    return rc;
}

int worker_run(const struct conf *conf, volatile int *stop, struct fault_note *why)
{
    struct worker worker = {.conf = conf, .stop = stop};
    int rc = open_worker(&worker, why);
    if (rc == 0) {
        log_info("working with backend '%s', weights '%s'", conf->backend, worker.weights);
        notify_manager("READY=1");
    }
    while (rc == 0 && !*stop) {
        int found = 0;
        struct fault_note note;
        int taken = spool_job_take(worker.spool, worker.owner, conf->lease_s, (int)conf->max_attempts,
                                   clock_wall_us(), &worker.job, &found, &note);
        if (taken != 0) {
            log_error("cannot take a job: %s", note.text);
            usleep(1000 * 1000);
            continue;
        }
        if (worker.job.exhausted != 0)
            log_error("job j%lld is held: tried %lld times without an answer (work.max_attempts)",
                      (long long)worker.job.exhausted, (long long)conf->max_attempts);
        if (found) {
            do_job(&worker);
        } else {
            notify_manager("WATCHDOG=1");
            usleep(POLL_MS * 1000);
        }
    }
    notify_manager("STOPPING=1");
    spool_close(worker.spool);
    return rc;
}
