// SPDX-License-Identifier: Apache-2.0
//
// A spool in "sp" and the steps that tests of it have in common. Only for test programs, one of which has one
// spool open.

#ifndef ISOSLICE_TESTS_NODE_SPOOL_SUPPORT_H
#define ISOSLICE_TESTS_NODE_SPOOL_SUPPORT_H

#include "core/file.h"
#include "spool/spool.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <string.h>

static struct fault_note why;
static struct spool *spool;
static const int64_t second_us = 1000000;

static inline struct spool_object object_of(const char *name, const char *sop_uid, const char *series,
                                            const char *digest)
{
    struct spool_object object = {
        .sop_class_uid = "1.2", .study_uid = "1.9", .sender = "MR1", .size_bytes = 10};
    snprintf(object.name, sizeof object.name, "%s", name);
    snprintf(object.sop_instance_uid, sizeof object.sop_instance_uid, "%s", sop_uid);
    snprintf(object.series_uid, sizeof object.series_uid, "%s", series);
    snprintf(object.digest, sizeof object.digest, "%s", digest);
    return object;
}

// Indexes an object and puts a file where the queue says it lies.
static inline enum spool_verdict index_at(const char *name, const char *sop_uid, const char *series,
                                          const char *digest, int64_t now_us)
{
    struct spool_object object = object_of(name, sop_uid, series, digest);
    enum spool_verdict verdict;
    char path[SPOOL_PATH_SIZE + SPOOL_NAME_SIZE];
    CHECK_OK(spool_index(spool, &object, now_us, &verdict, &why));
    if (verdict == SPOOL_NEW) {
        snprintf(path, sizeof path, "%s/%s", spool_folder(spool, SPOOL_STORE), name);
        CHECK_OK(file_write_atomic(path, "x", 1, &why));
    }
    return verdict;
}

static inline int never_open(void *user, const char *sender)
{
    (void)user;
    CHECK_STR(sender, "MR1");
    return 0;
}

static inline size_t gather(double quiet_s, int64_t now_us)
{
    size_t n;
    const struct spool_rules rules = {.quiet_s = quiet_s, .incomplete_s = 900, .is_open = never_open};
    CHECK_OK(spool_gather(spool, &rules, now_us, &n, &why));
    return n;
}

static inline void open_spool(void)
{
    CHECK_OK(file_remove_tree("sp", &why));
    CHECK_OK(spool_open("sp", &spool, &why));
}

// Takes the only job and finishes it with one derived series and one refusal.
static inline void finish_one(const struct spool_destination *destinations, size_t n_destinations,
                              int64_t now_us)
{
    struct spool_job job;
    int found;
    struct spool_result results[2] = {{.verdict = FAULT_OK, .n_objects = 2},
                                      {.verdict = FAULT_LOCALIZER, .stack_index = 1}};
    snprintf(results[0].derived_name, sizeof results[0].derived_name, "j1-s0");
    snprintf(results[0].derived_uid, sizeof results[0].derived_uid, "2.25.1");
    CHECK_OK(spool_job_take(spool, "w", 10, 3, now_us, &job, &found, &why));
    CHECK_INT(found, 1);
    CHECK_OK(spool_job_finish(spool, job.id, "w", results, 2, destinations, n_destinations, now_us, &why));
}

// ---- one row's state and note, by its id

struct wanted {
    const char *id;
    char state[16], note[SPOOL_NOTE_SIZE];
};

static inline void pick(void *user, const struct spool_row *row)
{
    struct wanted *wanted = user;
    if (strcmp(row->id, wanted->id) == 0) {
        snprintf(wanted->state, sizeof wanted->state, "%s", row->state);
        snprintf(wanted->note, sizeof wanted->note, "%s", row->note);
    }
}

static inline struct wanted row_of(const char *id)
{
    struct wanted wanted = {.id = id};
    CHECK_OK(spool_list(spool, NULL, pick, &wanted, &why));
    return wanted;
}

#endif
