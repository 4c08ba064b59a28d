// SPDX-License-Identifier: Apache-2.0
#include "core/file.h"
#include "spool/db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- jobs

// One, so that each is told of. *id: 0 when there is none.
static int hold_exhausted(struct spool *spool, int max_attempts, int64_t now_us, int64_t *id,
                          struct fault_note *why)
{
    return db_integer(spool, why, id, 0,
                      "UPDATE job SET state='HELD', owner='', changed_us=?1,"
                      " note='held after ' || attempts || ' attempts without an answer; last: ' || note"
                      " WHERE id=(SELECT min(id) FROM job WHERE attempts>=?2"
                      "  AND (state='WAITING' OR (state='LEASED' AND lease_until_us<?1))) RETURNING id",
                      "ii", now_us, (int64_t)max_attempts);
}

int spool_job_take(struct spool *spool, const char *owner, double lease_s, int max_attempts, int64_t now_us,
                   struct spool_job *job, int *found, struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    *found = 0;
    int64_t exhausted = 0;
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    rc = hold_exhausted(spool, max_attempts, now_us, &exhausted, why);
    sqlite3_stmt *statement = NULL;
    if (rc == 0) {
        // One series is in one worker's hands at a time.
        statement = db_prepare(
            spool, why,
            "SELECT id, series_uid, created_us, attempts, steps, generation, " DB_N_LATE_TAKEN ","
            " coalesce((SELECT sender FROM series s WHERE s.series_uid=j.series_uid), '') FROM job j"
            " WHERE ((state='WAITING' AND not_before_us<=?1) OR (state='LEASED' AND lease_until_us<?1))"
            " AND attempts<?2"
            " AND NOT EXISTS(SELECT 1 FROM job o WHERE o.series_uid=j.series_uid AND o.id<>j.id"
            "  AND o.state='LEASED' AND o.lease_until_us>=?1) ORDER BY id LIMIT 1",
            "ii", now_us, (int64_t)max_attempts);
        if (statement == NULL)
            rc = why->fault;
    }
    if (rc == 0)
        rc = db_step(spool, statement, why);
    if (rc == 1) {
        *found = 1;
        memset(job, 0, sizeof *job);
        job->id = sqlite3_column_int64(statement, 0);
        db_text(statement, 1, job->series_uid, sizeof job->series_uid);
        job->created_us = sqlite3_column_int64(statement, 2);
        job->attempts = sqlite3_column_int(statement, 3) + 1;
        job->steps = sqlite3_column_int64(statement, 4);
        job->generation = sqlite3_column_int(statement, 5);
        job->n_late = sqlite3_column_int64(statement, 6);
        db_text(statement, 7, job->sender, sizeof job->sender);
        rc = 0;
    }
    sqlite3_finalize(statement);
    if (rc == 0 && *found)
        rc = db_run(
            spool, why,
            "UPDATE job SET state='LEASED', owner=?2, lease_until_us=?3, changed_us=?4, attempts=attempts+1"
            " WHERE id=?1",
            "itii", job->id, owner, now_us + (int64_t)(lease_s * 1e6), now_us);
    if (rc == 0 && *found)
        rc = db_run(spool, why, "INSERT OR IGNORE INTO late(job_id, n) VALUES(?1,?2)", "ii", job->id,
                    job->n_late);
    job->exhausted = exhausted;
    return db_end(spool, rc, why);
}

int spool_job_renew(struct spool *spool, int64_t job, const char *owner, double lease_s, int64_t now_us,
                    struct fault_note *why)
{
    int rc =
        db_run(spool, why, "UPDATE job SET lease_until_us=?3 WHERE id=?1 AND owner=?2 AND state='LEASED'",
               "iti", job, owner, now_us + (int64_t)(lease_s * 1e6));
    return db_check_owned(spool, rc, "job", job, why);
}

int spool_job_set_steps(struct spool *spool, int64_t job, const char *owner, int64_t steps,
                        struct fault_note *why)
{
    int rc = db_run(spool, why, "UPDATE job SET steps=?3 WHERE id=?1 AND owner=?2 AND state='LEASED'", "iti",
                    job, owner, steps);
    return db_check_owned(spool, rc, "job", job, why);
}

void spool_free_paths(char **paths, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(paths[i]);
    free(paths);
}

int spool_job_files(struct spool *spool, int64_t job, char ***paths, size_t *n, struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    sqlite3_stmt *statement =
        db_prepare(spool, why,
                   "SELECT o.name FROM object o JOIN job j ON j.series_uid=o.series_uid"
                   " WHERE j.id=?1 AND o.id<=j.last_object AND o.place='store' ORDER BY o.id",
                   "i", job);
    if (statement == NULL)
        return why->fault;
    char **list = NULL;
    size_t count = 0, room = 0;
    int rc;
    while ((rc = db_step(spool, statement, why)) == 1) {
        char name[SPOOL_NAME_SIZE], path[SPOOL_PATH_SIZE + SPOOL_NAME_SIZE];
        db_text(statement, 0, name, sizeof name);
        snprintf(path, sizeof path, "%s/%s", spool->folders[SPOOL_STORE], name);
        if (count == room) {
            room = room ? 2 * room : 64;
            char **grown = realloc(list, room * sizeof *list);
            if (grown == NULL) {
                rc = fault_set(why, FAULT_NO_MEMORY, "cannot list %zu files", room);
                break;
            }
            list = grown;
        }
        if (access(path, R_OK) != 0) {
            // Indexed, but not yet moved from incoming: the indexer is about to do it.
            const char *dash = strrchr(name, '-');
            if (dash != NULL)
                snprintf(path, sizeof path, "%s/%.*s/%s", spool->folders[SPOOL_INCOMING], (int)(dash - name),
                         name, dash + 1);
            if (dash == NULL || access(path, R_OK) != 0) {
                rc = fault_set(why, FAULT_LOST_FILE, "file '%s' is missing", name);
                break;
            }
        }
        list[count] = strdup(path);
        if (list[count++] == NULL) {
            rc = fault_set(why, FAULT_NO_MEMORY, "cannot list %zu files", count);
            break;
        }
    }
    sqlite3_finalize(statement);
    if (rc < 0) {
        spool_free_paths(list, count);
        return rc;
    }
    *paths = list;
    *n = count;
    return 0;
}

static int insert_result(struct spool *spool, int64_t job, const struct spool_result *result,
                         const struct spool_destination *destinations, size_t n_destinations, int64_t now_us,
                         struct fault_note *why)
{
    int rc =
        db_run(spool, why,
               "INSERT INTO result(job_id, stack_index, verdict, note, derived_name, derived_uid, n_objects)"
               " VALUES(?1,?2,?3,?4,?5,?6,?7)",
               "iiittti", job, (int64_t)result->stack_index, (int64_t)result->verdict, result->note,
               result->derived_name, result->derived_uid, result->n_objects);
    int64_t id = sqlite3_last_insert_rowid(spool->db);
    int goes_out = result->verdict == FAULT_OK || result->is_notice;
    for (size_t i = 0; i < n_destinations && rc == 0 && goes_out; i++) {
        int is_for = result->is_notice ? destinations[i].gets_notices : destinations[i].form == result->form;
        if (!is_for || (result->not_to >> i & 1) != 0)
            continue;
        rc = db_run(spool, why,
                    "INSERT INTO delivery(result_id, destination, state, created_us, changed_us)"
                    " VALUES(?1,?2,'WAITING',?3,?3)",
                    "iti", id, destinations[i].name, now_us);
    }
    return rc;
}

struct kept {
    const struct spool_result *results;
    size_t n;
};

// "j1-s0", "j1-s0.json" and "j1-s0.png" are of the result "j1-s0".
static int is_of_result(void *user, const char *name)
{
    const struct kept *kept = user;
    for (size_t i = 0; i < kept->n; i++) {
        size_t n = strlen(kept->results[i].derived_name);
        if (n > 0 && strncmp(kept->results[i].derived_name, name, n) == 0 &&
            (name[n] == '\0' || name[n] == '.'))
            return 1;
    }
    return 0;
}

// What no row will name any more: a view that is not made now, and what an attempt had published that ended
// before its rows. Before the rows, so that none is left behind; should these not come about, the job is done
// again.
static int drop_old_folders(struct spool *spool, int64_t job, const struct spool_result *results,
                            size_t n_results, struct fault_note *why)
{
    static const enum spool_folder folders[] = {SPOOL_DERIVED, SPOOL_REPORTS};
    struct kept kept = {results, n_results};
    char name[32];
    int rc = 0;
    snprintf(name, sizeof name, "j%lld", (long long)job);
    for (size_t i = 0; i < sizeof folders / sizeof folders[0] && rc == 0; i++) {
        size_t n_dropped = 0;
        rc = spool_remove_of_job(spool, folders[i], name, is_of_result, &kept, &n_dropped, why);
        if (rc == 0 && n_dropped > 0)
            rc = file_sync_directory(spool->folders[folders[i]], why);
    }
    return rc;
}

int spool_job_finish(struct spool *spool, int64_t job, const char *owner, const struct spool_result *results,
                     size_t n_results, const struct spool_destination *destinations, size_t n_destinations,
                     int64_t now_us, struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    const char *state = "REFUSED", *note = n_results > 0 ? results[0].note : "nothing in it is an image";
    for (size_t i = 0; i < n_results; i++) {
        enum fault_class class = fault_class_of(results[i].verdict);
        if (results[i].is_notice)
            continue;
        if (class == FAULT_CLASS_NONE && strcmp(state, "REFUSED") == 0) {
            state = "DONE";
            note = results[i].note;
        } else if (class != FAULT_CLASS_NONE && class != FAULT_CLASS_REFUSAL) {
            state = "FAILED";
            note = results[i].note;
        }
    }
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    rc = db_run(spool, why,
                "UPDATE job SET state=?3, note=?4, changed_us=?5, owner='', lease_until_us=0"
                " WHERE id=?1 AND owner=?2 AND state='LEASED'",
                "ittti", job, owner, state, note, now_us);
    rc = db_check_owned(spool, rc, "job", job, why);
    if (rc == 0)
        rc = drop_old_folders(spool, job, results, n_results, why);
    if (rc == 0) // done again on a person's wish: the new results stand for the old ones
        rc = db_run(spool, why, "DELETE FROM result WHERE job_id=?1", "i", job);
    for (size_t i = 0; i < n_results && rc == 0; i++)
        rc = insert_result(spool, job, &results[i], destinations, n_destinations, now_us, why);
    return db_end(spool, rc, why);
}

static int replace_notice(struct spool *spool, int64_t job, const struct spool_notice *notice, int64_t now_us,
                          struct fault_note *why)
{
    int rc = db_run(spool, why, "DELETE FROM result WHERE job_id=?1 AND derived_name=?2", "it", job,
                    notice->result->derived_name);
    return rc != 0 ? rc
                   : insert_result(spool, job, notice->result, notice->destinations, notice->n_destinations,
                                   now_us, why);
}

int spool_job_return(struct spool *spool, int64_t job, const char *owner, const struct fault_note *fault,
                     const struct spool_notice *notice, int64_t not_before_us, int64_t now_us,
                     struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    const char *state = "FAILED";
    char note[SPOOL_NOTE_SIZE];
    enum fault_class class = fault_class_of(fault->fault);
    if (class == FAULT_CLASS_TEMP)
        state = "WAITING";
    else if (class == FAULT_CLASS_BUG)
        state = "HELD";
    snprintf(note, sizeof note, "%s: %s", fault_name(fault->fault), fault->text);
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    rc = db_run(
        spool, why,
        "UPDATE job SET state=?3, note=?4, changed_us=?5, not_before_us=?6, owner='', lease_until_us=0,"
        " attempts=attempts-?7 WHERE id=?1 AND owner=?2 AND state='LEASED'",
        "itttiii", job, owner, state, note, now_us, not_before_us,
        (int64_t)(fault->fault == FAULT_CANCELLED));
    rc = db_check_owned(spool, rc, "job", job, why);
    if (rc == 0 && notice != NULL)
        rc = replace_notice(spool, job, notice, now_us, why);
    return db_end(spool, rc, why);
}

// ---- times

// A lease is cut only when its row was written in the future or when no setting can have given it: its holder
// may run with other settings than ours.
static int put_table_right(struct spool *spool, const char *table, const char *leased,
                           const struct spool_longest *longest, int64_t now_us, size_t *n_rows,
                           struct fault_note *why)
{
    const int64_t later_us = now_us + SPOOL_CLOCK_SLACK_S * INT64_C(1000000);
    const int64_t pause_us = (int64_t)(1e6 * longest->pause_s), lease_us = (int64_t)(1e6 * longest->lease_s);
    char sql[512];
    snprintf(sql, sizeof sql,
             "UPDATE %s SET not_before_us=min(not_before_us, ?2+?3), changed_us=min(changed_us, ?2),"
             " lease_until_us=CASE WHEN state='%s' THEN min(lease_until_us, ?2+?4) ELSE lease_until_us END"
             " WHERE changed_us>?1 OR (state='WAITING' AND not_before_us>?1+?3)"
             " OR (state='%s' AND lease_until_us>?1+?5)",
             table, leased, leased);
    int rc = db_run(spool, why, sql, "iiiii", later_us, now_us, pause_us, lease_us,
                    (int64_t)(1e6 * SPOOL_LEASE_MAX_S));
    *n_rows += rc == 0 ? (size_t)sqlite3_changes(spool->db) : 0;
    return rc;
}

int spool_put_times_right(struct spool *spool, const struct spool_longest *longest, int64_t now_us,
                          size_t *n_rows, struct fault_note *why)
{
    struct fault_note local;
    const int64_t later_us = now_us + SPOOL_CLOCK_SLACK_S * INT64_C(1000000);
    why = why ? why : &local;
    *n_rows = 0;
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    rc = put_table_right(spool, "job", "LEASED", longest, now_us, n_rows, why);
    if (rc == 0)
        rc = put_table_right(spool, "delivery", "SENDING", longest, now_us, n_rows, why);
    if (rc == 0)
        rc =
            db_run(spool, why, "UPDATE series SET changed_us=?2 WHERE changed_us>?1", "ii", later_us, now_us);
    if (rc == 0)
        *n_rows += (size_t)sqlite3_changes(spool->db);
    if (rc == 0) // asked again
        rc = db_run(spool, why, "DELETE FROM told WHERE at_us>?1", "i", later_us);
    return db_end(spool, rc, why);
}

// ---- deliveries

int spool_delivery_reclaim(struct spool *spool, const char *destination, int64_t before_us,
                           struct fault_note *why)
{
    return db_run(spool, why,
                  "UPDATE delivery SET state='WAITING', owner='', lease_until_us=0"
                  " WHERE destination=?1 AND state='SENDING' AND lease_until_us<?2",
                  "ti", destination, before_us);
}

int spool_delivery_note(struct spool *spool, const char *id, const char *note, struct fault_note *why)
{
    return db_run(spool, why, "UPDATE delivery SET note=?2 WHERE id=?1 AND state IN ('WAITING','ASKED')",
                  "it", (int64_t)strtoll(id + 1, NULL, 10), note);
}

int spool_delivery_take(struct spool *spool, const char *destination, const char *owner, double lease_s,
                        int64_t now_us, struct spool_delivery *delivery, int *found, struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    *found = 0;
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    sqlite3_stmt *statement =
        db_prepare(spool, why,
                   "SELECT d.id, d.destination, r.derived_name, r.n_objects, d.attempts, d.created_us,"
                   " (SELECT count(*) FROM sent WHERE delivery_id=d.id AND confirmed=1), d.state='ASKED'"
                   " FROM delivery d JOIN result r ON r.id=d.result_id"
                   " WHERE d.destination=?2 AND ((d.state IN ('WAITING','ASKED') AND d.not_before_us<=?1)"
                   "  OR (d.state='SENDING' AND d.lease_until_us<?1)) ORDER BY d.not_before_us, d.id LIMIT 1",
                   "it", now_us, destination);
    if (statement == NULL)
        return db_end(spool, why->fault, why);
    rc = db_step(spool, statement, why);
    if (rc == 1) {
        char name[SPOOL_NAME_SIZE];
        *found = 1;
        memset(delivery, 0, sizeof *delivery);
        delivery->id = sqlite3_column_int64(statement, 0);
        db_text(statement, 1, delivery->destination, sizeof delivery->destination);
        db_text(statement, 2, name, sizeof name);
        rc = file_join(delivery->folder, sizeof delivery->folder, spool->folders[SPOOL_DERIVED], name, why);
        delivery->n_objects = sqlite3_column_int64(statement, 3);
        delivery->attempts = sqlite3_column_int(statement, 4);
        delivery->created_us = sqlite3_column_int64(statement, 5);
        delivery->n_confirmed = sqlite3_column_int64(statement, 6);
        delivery->is_asked = sqlite3_column_int(statement, 7);
    }
    sqlite3_finalize(statement);
    if (rc == 0 && *found)
        rc = db_run(
            spool, why,
            "UPDATE delivery SET state='SENDING', owner=?2, lease_until_us=?3, changed_us=?4 WHERE id=?1",
            "itii", delivery->id, owner, now_us + (int64_t)(lease_s * 1e6), now_us);
    return db_end(spool, rc, why);
}

int spool_delivery_is_sent(struct spool *spool, int64_t delivery, int64_t index, int *sent,
                           struct fault_note *why)
{
    struct fault_note local;
    int64_t confirmed = 0;
    why = why ? why : &local;
    int rc = db_integer(spool, why, &confirmed, -1,
                        "SELECT coalesce((SELECT confirmed FROM sent WHERE delivery_id=d.id AND idx=?2), 0)"
                        " FROM delivery d WHERE d.id=?1 AND d.state='SENDING'",
                        "ii", delivery, index);
    if (rc == 0 && confirmed < 0)
        return fault_set(why, FAULT_LEASE_LOST, "delivery %lld is not being sent any more",
                         (long long)delivery);
    *sent = confirmed > 0;
    return rc;
}

int spool_delivery_record(struct spool *spool, int64_t delivery, const char *owner, int64_t index,
                          unsigned status, int confirmed, double lease_s, int64_t now_us,
                          struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    rc = db_run(spool, why,
                "UPDATE delivery SET lease_until_us=?3 WHERE id=?1 AND owner=?2 AND state='SENDING'", "iti",
                delivery, owner, now_us + (int64_t)(lease_s * 1e6));
    rc = db_check_owned(spool, rc, "delivery", delivery, why);
    if (rc == 0)
        rc = db_run(spool, why,
                    "INSERT OR REPLACE INTO sent(delivery_id, idx, status, confirmed) VALUES(?1,?2,?3,?4)",
                    "iiii", delivery, index, (int64_t)status, (int64_t)confirmed);
    return db_end(spool, rc, why);
}

int spool_delivery_end(struct spool *spool, int64_t delivery, const char *owner,
                       const struct fault_note *fault, int hold, int64_t next_us, int64_t now_us,
                       struct fault_note *why)
{
    const char *state = "SENT";
    char note[SPOOL_NOTE_SIZE] = "";
    if (fault != NULL && fault->fault == FAULT_OK)
        snprintf(note, sizeof note, "%s", fault->text);
    if (fault != NULL && fault->fault != FAULT_OK) {
        int wait = fault_class_of(fault->fault) == FAULT_CLASS_TEMP && !hold;
        state = wait ? "WAITING" : "HELD";
        snprintf(note, sizeof note, "%s: %s", fault_name(fault->fault), fault->text);
    }
    int64_t failed = fault != NULL && fault->fault != FAULT_OK && fault->fault != FAULT_CANCELLED;
    int rc = db_run(
        spool, why,
        "UPDATE delivery SET state=?3, note=?4, changed_us=?5, not_before_us=?6, owner='', lease_until_us=0,"
        " attempts=attempts+?7 WHERE id=?1 AND owner=?2 AND state='SENDING'",
        "itttiii", delivery, owner, state, note, now_us, next_us, failed);
    return db_check_owned(spool, rc, "delivery", delivery, why);
}
