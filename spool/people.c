// SPDX-License-Identifier: Apache-2.0
#include "core/clock.h"
#include "spool/commitment.h"
#include "spool/db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct listing {
    const char *state; // NULL: all
    spool_row_fn row;
    void *user;
};

static int list_commitment(void *user, const char *path, const char *name, struct fault_note *why)
{
    const struct listing *listing = user;
    struct spool_commitment commitment;
    int rc = spool_commitment_read(path, &commitment, why);
    if (rc != 0)
        return rc == FAULT_NO_MEMORY ? rc : 0; // gone meanwhile; the indexer says what cannot be read
    const char *state = spool_commitment_state_name(commitment.state);
    struct spool_row line = {.kind = "commitment",
                             .state = state,
                             .uid = commitment.request.transaction_uid,
                             .target = commitment.sender,
                             .n_objects = (int64_t)commitment.request.n,
                             .attempts = commitment.attempts,
                             .changed_us = commitment.changed_us,
                             .note = commitment.note};
    snprintf(line.id, sizeof line.id, "c%.*s", (int)strcspn(name + 1, "."), name + 1);
    if (listing->state == NULL || strcmp(listing->state, state) == 0)
        listing->row(listing->user, &line);
    spool_commitment_done(&commitment);
    return 0;
}

static const char states[] =
    " GATHERING QUEUED CONFLICT FAILED WAITING LEASED DONE REFUSED HELD SENDING ASKED SENT CHECKING "
    "OFFERED ";

static int is_state(const char *state)
{
    char padded[20];
    return snprintf(padded, sizeof padded, " %s ", state) < (int)sizeof padded &&
           strchr(state, ' ') == NULL && strstr(states, padded) != NULL;
}

int spool_list(struct spool *spool, const char *state, spool_row_fn row, void *user, struct fault_note *why)
{
    static const struct {
        const char *kind;
        char letter;
        const char *sql;
    } queries[] = {
        {"series", 's',
         "SELECT id, state, series_uid, sender, (SELECT count(*) FROM object o WHERE "
         "o.series_uid=s.series_uid),"
         " 0, changed_us, note FROM series s WHERE ?1 IS NULL OR state=?1 ORDER BY id"},
        {"job", 'j',
         "SELECT id, state, series_uid, owner, (SELECT count(*) FROM object o WHERE o.series_uid=j.series_uid"
         " AND o.id<=j.last_object AND o.place='store'), attempts, changed_us, note FROM job j"
         " WHERE ?1 IS NULL OR state=?1 ORDER BY id"},
        {"delivery", 'd',
         "SELECT d.id, d.state, r.derived_uid, d.destination, r.n_objects, d.attempts, d.changed_us, d.note"
         " FROM delivery d JOIN result r ON r.id=d.result_id WHERE ?1 IS NULL OR d.state=?1 ORDER BY d.id"},
    };
    struct fault_note local;
    why = why ? why : &local;
    if (state != NULL && !is_state(state))
        return fault_set(why, FAULT_USAGE, "bad state '%.32s': must be one of%.*s", state,
                         (int)sizeof states - 2, states);
    for (size_t i = 0; i < sizeof queries / sizeof queries[0]; i++) {
        sqlite3_stmt *statement = db_prepare(spool, why, queries[i].sql, "t", state);
        if (statement == NULL)
            return why->fault;
        int rc;
        while ((rc = db_step(spool, statement, why)) == 1) {
            struct spool_row line = {.kind = queries[i].kind};
            char row_state[16], uid[UID_SIZE], target[SPOOL_OWNER_SIZE], note[SPOOL_NOTE_SIZE];
            snprintf(line.id, sizeof line.id, "%c%lld", queries[i].letter,
                     sqlite3_column_int64(statement, 0));
            db_text(statement, 1, row_state, sizeof row_state);
            db_text(statement, 2, uid, sizeof uid);
            db_text(statement, 3, target, sizeof target);
            db_text(statement, 7, note, sizeof note);
            line.state = row_state;
            line.uid = uid;
            line.target = target;
            line.note = note;
            line.n_objects = sqlite3_column_int64(statement, 4);
            line.attempts = sqlite3_column_int(statement, 5);
            line.changed_us = sqlite3_column_int64(statement, 6);
            row(user, &line);
        }
        sqlite3_finalize(statement);
        if (rc < 0)
            return rc;
    }
    struct listing listing = {.state = state, .row = row, .user = user};
    return spool_commitment_list(spool, list_commitment, &listing, why);
}

static int is_stopped(const char *state)
{
    return strcmp(state, "HELD") == 0 || strcmp(state, "FAILED") == 0 || strcmp(state, "CONFLICT") == 0;
}

struct counting { // of commitments, by enum spool_commitment_state
    int64_t n[SPOOL_COMMITMENT_HELD + 1], oldest_us[SPOOL_COMMITMENT_HELD + 1];
};

static int count_commitment(void *user, const char *path, const char *name, struct fault_note *why)
{
    struct counting *counting = user;
    struct spool_commitment commitment;
    (void)name;
    int rc = spool_commitment_read(path, &commitment, why);
    if (rc != 0)
        return rc == FAULT_NO_MEMORY ? rc : 0;
    int64_t *oldest_us = &counting->oldest_us[commitment.state];
    if (counting->n[commitment.state]++ == 0 || commitment.changed_us < *oldest_us)
        *oldest_us = commitment.changed_us;
    spool_commitment_done(&commitment);
    return 0;
}

int spool_count(struct spool *spool, void (*each)(void *user, const struct spool_count *count), void *user,
                struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    sqlite3_stmt *statement = db_prepare(
        spool, why,
        "SELECT 'series', state, count(*), min(changed_us), 1 AS place FROM series GROUP BY state UNION ALL"
        " SELECT 'job', state, count(*), min(changed_us), 2 FROM job GROUP BY state UNION ALL"
        " SELECT 'delivery', state, count(*), min(changed_us), 3 FROM delivery GROUP BY state"
        " ORDER BY place, state",
        "");
    if (statement == NULL)
        return why->fault;
    int rc;
    while ((rc = db_step(spool, statement, why)) == 1) {
        char kind[16], state[16];
        db_text(statement, 0, kind, sizeof kind);
        db_text(statement, 1, state, sizeof state);
        const struct spool_count count = {.kind = kind,
                                          .state = state,
                                          .n = sqlite3_column_int64(statement, 2),
                                          .oldest_us = sqlite3_column_int64(statement, 3),
                                          .is_stopped = is_stopped(state)};
        each(user, &count);
    }
    sqlite3_finalize(statement);
    struct counting counting = {{0}, {0}};
    if (rc == 0)
        rc = spool_commitment_list(spool, count_commitment, &counting, why);
    for (int i = 0; rc == 0 && i <= SPOOL_COMMITMENT_HELD; i++) {
        const char *state = spool_commitment_state_name((enum spool_commitment_state)i);
        const struct spool_count count = {"commitment", state, counting.n[i], counting.oldest_us[i],
                                          is_stopped(state)};
        if (count.n > 0)
            each(user, &count);
    }
    return rc;
}

// "j12" into its table and number.
static int parse_id(const char *id, const char **table, int64_t *number, struct fault_note *why)
{
    const char *found = id[0] == 'j' ? "job" : id[0] == 'd' ? "delivery" : id[0] == 's' ? "series" : "";
    char *end = NULL;
    int64_t value = found[0] != '\0' ? strtoll(id + 1, &end, 10) : 0;
    if (end == NULL || end == id + 1 || *end != '\0')
        return fault_set(why, FAULT_USAGE,
                         "bad id '%s': s, j, d or c and a number, as 'isoslice queue list' prints it", id);
    *table = found;
    *number = value;
    return 0;
}

static int state_of(struct spool *spool, const char *id, const char *table, int64_t number, char *state,
                    size_t size, struct fault_note *why)
{
    char sql[96];
    snprintf(sql, sizeof sql, "SELECT state FROM %s WHERE id=?1", table);
    int rc = db_first_text(spool, db_prepare(spool, why, sql, "i", number), state, size, why);
    if (rc == 0 && state[0] == '\0') // no row has an empty one
        return fault_set(why, FAULT_NOT_FOUND, "no such thing in the queue: '%s'", id);
    return rc;
}

// Prints every column of every row that a query gives; columns whose names end in _us as times.
static int show_rows(struct spool *spool, const char *sql, int64_t number, const char *prefix,
                     void (*line)(void *user, const char *name, const char *value), void *user,
                     struct fault_note *why)
{
    sqlite3_stmt *statement = db_prepare(spool, why, sql, "i", number);
    if (statement == NULL)
        return why->fault;
    int rc;
    while ((rc = db_step(spool, statement, why)) == 1) {
        for (int i = 0; i < sqlite3_column_count(statement); i++) {
            char name[64], value[SPOOL_NOTE_SIZE];
            const char *column = sqlite3_column_name(statement, i);
            size_t n = strlen(column);
            snprintf(name, sizeof name, "%s%s", prefix, column);
            if (n > 3 && strcmp(column + n - 3, "_us") == 0) {
                name[strlen(name) - 3] = '\0';
                if (sqlite3_column_int64(statement, i) == 0)
                    continue;
                clock_iso(sqlite3_column_int64(statement, i), value);
            } else if (strcmp(column, "verdict") == 0) {
                snprintf(value, sizeof value, "%s", fault_name((enum fault)sqlite3_column_int(statement, i)));
            } else {
                db_text(statement, i, value, sizeof value);
            }
            line(user, name, value);
        }
    }
    sqlite3_finalize(statement);
    return rc;
}

static void show_time(int64_t us, const char *name,
                      void (*line)(void *user, const char *name, const char *value), void *user)
{
    char text[25];
    clock_iso(us, text);
    if (us != 0)
        line(user, name, text);
}

static int show_commitment(const char *id, const char *path,
                           void (*line)(void *user, const char *name, const char *value), void *user,
                           struct fault_note *why)
{
    struct spool_commitment commitment;
    char text[UID_SIZE + 64];
    if (access(path, F_OK) != 0)
        return fault_set(why, FAULT_NOT_FOUND, "no such thing in the queue: '%s'", id);
    int rc = spool_commitment_read(path, &commitment, why);
    if (rc != 0)
        return rc;
    line(user, "transaction", commitment.request.transaction_uid);
    line(user, "sender", commitment.sender);
    line(user, "address", commitment.address);
    line(user, "state", spool_commitment_state_name(commitment.state));
    show_time(commitment.created_us, "created", line, user);
    show_time(commitment.changed_us, "changed", line, user);
    show_time(commitment.not_before_us, "not_before", line, user);
    snprintf(text, sizeof text, "%d", commitment.attempts);
    line(user, "attempts", text);
    line(user, "note", commitment.note);
    for (size_t i = 0; i < commitment.request.n; i++) {
        const struct commitment_item *item = &commitment.request.items[i];
        if (commitment.state == SPOOL_COMMITMENT_CHECKING)
            snprintf(text, sizeof text, "%s", item->sop_instance_uid);
        else if (item->reason == COMMITMENT_KEPT)
            snprintf(text, sizeof text, "%s kept", item->sop_instance_uid);
        else
            snprintf(text, sizeof text, "%s failed, reason 0x%04x", item->sop_instance_uid, item->reason);
        line(user, "instance", text);
    }
    spool_commitment_done(&commitment);
    return 0;
}

int spool_show(struct spool *spool, const char *id,
               void (*line)(void *user, const char *name, const char *value), void *user,
               struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    const char *table = "";
    int64_t number = 0;
    char state[16] = "", path[SPOOL_PATH_SIZE + 128];
    if (spool_commitment_path(spool, id, path))
        return show_commitment(id, path, line, user, why);
    int rc = parse_id(id, &table, &number, why);
    if (rc == 0)
        rc = state_of(spool, id, table, number, state, sizeof state, why);
    if (rc != 0)
        return rc;
    if (table[0] == 's') {
        rc = show_rows(spool, "SELECT series_uid, sender, state, changed_us, note FROM series WHERE id=?1",
                       number, "", line, user, why);
        if (rc == 0)
            rc = show_rows(
                spool,
                "SELECT o.sop_uid, o.place, o.name FROM object o JOIN series s ON s.series_uid=o.series_uid"
                " WHERE s.id=?1 ORDER BY o.id",
                number, "object ", line, user, why);
    } else if (table[0] == 'j') {
        rc = show_rows(
            spool,
            "SELECT series_uid, state, created_us, changed_us, not_before_us, owner, attempts, steps,"
            " generation, note, " DB_N_LATE_TAKEN " AS 'late images' FROM job j WHERE id=?1",
            number, "", line, user, why);
        if (rc == 0)
            rc = show_rows(
                spool,
                "SELECT stack_index, verdict, note, derived_uid, derived_name, n_objects FROM result"
                " WHERE job_id=?1 ORDER BY id",
                number, "stack ", line, user, why);
    } else {
        rc = show_rows(
            spool,
            "SELECT d.destination, d.state, r.derived_uid, r.derived_name, r.n_objects, d.created_us,"
            " d.changed_us, d.not_before_us, d.attempts, d.note,"
            " (SELECT count(*) FROM sent WHERE delivery_id=d.id AND confirmed=1) AS confirmed,"
            " d.transaction_uid AS 'commitment'"
            " FROM delivery d JOIN result r ON r.id=d.result_id WHERE d.id=?1",
            number, "", line, user, why);
        if (rc == 0)
            rc = show_rows(spool,
                           "SELECT idx+1 AS object, printf('0x%04x', status) AS status FROM sent"
                           " WHERE delivery_id=?1 AND confirmed=0 ORDER BY idx",
                           number, "not confirmed ", line, user, why);
    }
    return rc;
}

// The first version stands: what was derived from it may go, and a job that has all that is kept of the
// series is done. Then it does not gather: another job would make and send the same UIDs again.
static int end_conflict(struct spool *spool, int64_t number, int64_t now_us, struct fault_note *why)
{
    static const char *const steps[] = {
        "UPDATE delivery SET state='WAITING', attempts=0, not_before_us=0, created_us=?2, changed_us=?2, "
        "note=''"
        " WHERE state='HELD' AND note='" DB_CONFLICT_NOTE "' AND result_id IN (SELECT r.id FROM result r"
        "  JOIN job j ON j.id=r.job_id JOIN series s ON s.series_uid=j.series_uid WHERE s.id=?1)",
        "UPDATE job SET state='WAITING', attempts=0, not_before_us=lease_until_us, owner='', changed_us=?2, "
        "note=''"
        " WHERE state='HELD' AND note='" DB_CONFLICT_NOTE "'"
        " AND series_uid=(SELECT series_uid FROM series WHERE id=?1) AND last_object>=(SELECT max(o.id)"
        "  FROM object o WHERE o.series_uid=job.series_uid AND o.place='store')",
        "UPDATE series SET state='QUEUED', changed_us=?2 WHERE id=?1 AND EXISTS(SELECT 1 FROM job j"
        "  WHERE j.series_uid=series.series_uid AND j.state IN ('WAITING','DONE','REFUSED') AND "
        "j.last_object>="
        "  (SELECT max(o.id) FROM object o WHERE o.series_uid=series.series_uid AND o.place='store'))",
    };
    int rc = 0;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && rc == 0; i++)
        rc = db_run(spool, why, steps[i], "ii", number, now_us);
    return rc;
}

// A job or delivery of a series in CONFLICT goes on when that is decided, not around it.
static int check_conflict(struct spool *spool, const char *id, const char *verb, const char *table,
                          int64_t number, struct fault_note *why)
{
    const char *sql = table[0] == 'j' ? "SELECT s.id FROM series s JOIN job j ON j.series_uid=s.series_uid"
                                        " WHERE j.id=?1 AND s.state='CONFLICT'"
                                      : "SELECT s.id FROM series s JOIN job j ON j.series_uid=s.series_uid"
                                        " JOIN result r ON r.job_id=j.id JOIN delivery d ON d.result_id=r.id"
                                        " WHERE d.id=?1 AND s.state='CONFLICT'";
    int64_t series = 0;
    int rc = db_integer(spool, why, &series, 0, sql, "i", number);
    if (rc == 0 && series != 0)
        return fault_set(why, FAULT_USAGE,
                         "cannot %s '%s': its series 's%lld' is in CONFLICT, which is to be decided first "
                         "('release s%lld')",
                         verb, id, (long long)series, (long long)series);
    return rc;
}

// One person's decision: `from` lists the states it is allowed in, space separated on both sides.
static int decide(struct spool *spool, const char *id, const char *verb, const char *from_job,
                  const char *from_delivery, const char *from_series, const char *to, const char *extra,
                  int64_t now_us, struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    const char *table = "";
    int64_t number = 0;
    char state[16] = "", padded[20];
    int rc = parse_id(id, &table, &number, why);
    if (rc == 0)
        rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    rc = state_of(spool, id, table, number, state, sizeof state, why);
    const char *from = table[0] == 'j' ? from_job : table[0] == 'd' ? from_delivery : from_series;
    snprintf(padded, sizeof padded, " %s ", state);
    if (rc == 0 && (from == NULL || strstr(from, padded) == NULL))
        rc = fault_set(why, FAULT_USAGE, "cannot %s '%s': it is %s%s%s", verb, id, state,
                       from ? ", must be one of" : ", which has nothing to decide", from ? from : "");
    if (rc == 0 && table[0] != 's' && strcmp(to, "WAITING") == 0)
        rc = check_conflict(spool, id, verb, table, number, why);
    if (rc == 0) {
        char sql[256];
        snprintf(sql, sizeof sql, "UPDATE %s SET state='%s', changed_us=?2%s%s WHERE id=?1", table,
                 table[0] == 's' ? "GATHERING" : to, table[0] == 's' ? ", note=''" : extra,
                 table[0] == 'd' ? ", created_us=?2" : ""); // the time to give up counts anew
        rc = db_run(spool, why, sql, "ii", number, now_us);
    }
    if (rc == 0 && table[0] == 'd' && strcmp(verb, "retry") == 0) // sent again means all of it
        rc = db_run(spool, why, "DELETE FROM sent WHERE delivery_id=?1", "i", number);
    if (rc == 0 && table[0] == 's' && strcmp(state, "CONFLICT") == 0)
        rc = end_conflict(spool, number, now_us, why);
    return db_end(spool, rc, why);
}

int spool_retry(struct spool *spool, const char *id, int64_t now_us, struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE + 128];
    if (spool_commitment_path(spool, id, path))
        return spool_commitment_retry(spool, id, now_us, why);
    return decide(spool, id, "retry", " FAILED REFUSED HELD DONE ", " HELD SENT WAITING ASKED ", NULL,
                  "WAITING", ", attempts=0, not_before_us=0, owner='', note=''", now_us, why);
}

int spool_anew(struct spool *spool, const char *id, int64_t now_us, struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE + 128];
    if (spool_commitment_path(spool, id, path))
        return fault_set(why, FAULT_USAGE, "cannot make '%s' anew: it is a commitment, not a job", id);
    return decide(spool, id, "make anew", " DONE ", NULL, NULL, "WAITING",
                  ", attempts=0, not_before_us=0, owner='', note='', generation=generation+1", now_us, why);
}

int spool_hold(struct spool *spool, const char *id, int64_t now_us, struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE + 128];
    if (spool_commitment_path(spool, id, path))
        return fault_set(
            why, FAULT_USAGE,
            "cannot hold '%s': a commitment only reports what is kept; nothing waits for a person", id);
    return decide(spool, id, "hold", " WAITING ", " WAITING ASKED ", NULL, "HELD",
                  ", note='held by a person'", now_us, why);
}

int spool_release(struct spool *spool, const char *id, int64_t now_us, struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE + 128];
    if (spool_commitment_path(spool, id, path))
        return spool_commitment_retry(spool, id, now_us, why);
    return decide(spool, id, "release", " HELD ", " HELD ", " CONFLICT FAILED ", "WAITING",
                  ", attempts=0, not_before_us=0, note=''", now_us, why);
}

// What of a series is in somebody's hands: "j3", "d5", or empty.
static int find_busy(struct spool *spool, int64_t series, int64_t now_us, char id[32], struct fault_note *why)
{
    sqlite3_stmt *statement = db_prepare(
        spool, why,
        "SELECT 'j' || j.id FROM job j JOIN series s ON s.series_uid=j.series_uid WHERE s.id=?1"
        " AND j.state='LEASED' AND j.lease_until_us>=?2 UNION ALL"
        " SELECT 'd' || d.id FROM delivery d JOIN result r ON r.id=d.result_id JOIN job j ON j.id=r.job_id"
        " JOIN series s ON s.series_uid=j.series_uid WHERE s.id=?1 AND d.state='SENDING'"
        " AND d.lease_until_us>=?2 LIMIT 1",
        "ii", series, now_us);
    if (statement == NULL)
        return why->fault;
    int rc = db_step(spool, statement, why);
    id[0] = '\0';
    if (rc == 1)
        db_text(statement, 0, id, 32);
    sqlite3_finalize(statement);
    return rc < 0 ? rc : 0;
}

int spool_remove(struct spool *spool, const char *id, int64_t now_us, struct fault_note *why)
{
    // FAILED gathers no more; a CONFLICT stays one, should an image come before it is gone
    static const char *const steps[] = {
        "UPDATE job SET state='HELD', owner='', changed_us=?2, note='to be removed' WHERE state IN"
        " ('WAITING','LEASED') AND series_uid=(SELECT series_uid FROM series WHERE id=?1)",
        "UPDATE delivery SET state='HELD', owner='', changed_us=?2, note='to be removed'"
        " WHERE state IN ('WAITING','SENDING','ASKED') AND result_id IN (SELECT r.id FROM result r"
        "  JOIN job j ON j.id=r.job_id JOIN series s ON s.series_uid=j.series_uid WHERE s.id=?1)",
        "UPDATE series SET state=CASE state WHEN 'CONFLICT' THEN state ELSE 'FAILED' END, changed_us=?2,"
        " note='to be removed' WHERE id=?1",
    };
    struct fault_note local;
    const char *table = "";
    int64_t number = 0;
    char state[16] = "", busy[32] = "";
    why = why ? why : &local;
    if (id[0] != 's')
        return fault_set(why, FAULT_USAGE, "cannot remove '%s': only a series, with all that is of it", id);
    int rc = parse_id(id, &table, &number, why);
    if (rc == 0)
        rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    rc = state_of(spool, id, table, number, state, sizeof state, why);
    if (rc == 0)
        rc = find_busy(spool, number, now_us, busy, why);
    if (rc == 0 && busy[0] != '\0')
        rc = fault_set(why, FAULT_USAGE, "cannot remove '%s': '%s' is being %s", id, busy,
                       busy[0] == 'j' ? "done" : "sent");
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && rc == 0; i++)
        rc = db_run(spool, why, steps[i], "ii", number, now_us);
    if (rc == 0)
        rc = db_run(spool, why, "INSERT OR IGNORE INTO purging SELECT series_uid FROM series WHERE id=?1",
                    "i", number);
    return db_end(spool, rc, why);
}
