// SPDX-License-Identifier: Apache-2.0
#include "spool/db.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CANDIDATES = 256, ASK_AGAIN_S = 30 };
static const int64_t agree_us = (int64_t)(SPOOL_AGREE_S * 1e6);

// One image as its row has it; NAN where the header does not say.
struct image {
    double acquisition, number, normal[3], z_mm;
    int64_t n_expected;
};

struct images {
    struct image *items;
    size_t n, room;
};

// What is known of a series.
struct standing {
    size_t n;       // images
    int is_reached; // as many as the headers announce, and no hole
    int is_missing; // something is, and `what` says what
    char what[160];
};

// ---- reading

static double column_double(sqlite3_stmt *statement, int column)
{
    return sqlite3_column_type(statement, column) == SQLITE_NULL ? (double)NAN
                                                                 : sqlite3_column_double(statement, column);
}

static int read_images(struct spool *spool, const char *series_uid, struct images *images,
                       struct fault_note *why)
{
    sqlite3_stmt *statement =
        db_prepare(spool, why,
                   "SELECT g.acquisition, g.number, g.nx, g.ny, g.nz, g.z, g.expected FROM object o"
                   " LEFT JOIN geometry g ON g.object_id=o.id WHERE o.series_uid=?1 AND o.place='store'",
                   "t", series_uid);
    if (statement == NULL)
        return why->fault;
    int rc;
    while ((rc = db_step(spool, statement, why)) == 1) {
        if (images->n == images->room) {
            size_t room = images->room ? 2 * images->room : 256;
            struct image *grown = realloc(images->items, room * sizeof *grown);
            if (grown == NULL) {
                rc = fault_set(why, FAULT_NO_MEMORY, "cannot hold %zu images", room);
                break;
            }
            images->items = grown;
            images->room = room;
        }
        images->items[images->n++] = (struct image){
            .acquisition = column_double(statement, 0),
            .number = column_double(statement, 1),
            .normal = {column_double(statement, 2), column_double(statement, 3), column_double(statement, 4)},
            .z_mm = column_double(statement, 5),
            .n_expected = sqlite3_column_int64(statement, 6),
        };
    }
    sqlite3_finalize(statement);
    return rc;
}

// ---- holes

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The first hole among `n` values, which are sorted: a step that is a whole multiple (two or more) of the
// usual one. Steps below `same` are none: images at one place. Returns how many are missing there, 0 when
// there is no hole. `steps` has room for n.
static long find_hole(double *values, size_t n, double same, double *steps, double *after)
{
    size_t n_steps = 0;
    qsort(values, n, sizeof *values, by_value);
    for (size_t i = 1; i < n; i++)
        if (values[i] - values[i - 1] > same)
            steps[n_steps++] = values[i] - values[i - 1];
    if (n_steps < 2)
        return 0;
    qsort(steps, n_steps, sizeof *steps, by_value);
    double usual = steps[(n_steps - 1) / 2];
    for (size_t i = 1; i < n; i++) {
        double ratio = (values[i] - values[i - 1]) / usual;
        if (ratio > 1.5 && fabs(ratio - round(ratio)) < 0.1) {
            *after = values[i - 1];
            return lround(ratio) - 1;
        }
    }
    return 0;
}

static int is_parallel(const double a[3], const double b[3])
{
    return fabs(a[0] - b[0]) < 1e-3 && fabs(a[1] - b[1]) < 1e-3 && fabs(a[2] - b[2]) < 1e-3;
}

// Among planes of one orientation, for each orientation.
static void look_at_positions(const struct images *images, double *values, double *steps, char *done,
                              struct standing *standing)
{
    memset(done, 0, images->n);
    for (size_t i = 0; i < images->n; i++) {
        const struct image *first = &images->items[i];
        double after = 0;
        size_t n = 0;
        if (done[i] || isnan(first->z_mm))
            continue;
        for (size_t j = i; j < images->n; j++)
            if (!isnan(images->items[j].z_mm) && is_parallel(images->items[j].normal, first->normal)) {
                values[n++] = images->items[j].z_mm;
                done[j] = 1;
            }
        long n_missing = find_hole(values, n, 0.01, steps, &after);
        if (n_missing > 0 && !standing->is_missing) {
            standing->is_missing = 1;
            snprintf(standing->what, sizeof standing->what,
                     "%ld positions are missing beyond %.2f mm along the normal", n_missing, after);
        }
    }
}

static void look_at_numbers(const struct images *images, double *values, double *steps,
                            struct standing *standing)
{
    double after = 0;
    size_t n = 0;
    for (size_t i = 0; i < images->n; i++)
        if (!isnan(images->items[i].number))
            values[n++] = images->items[i].number;
    long n_missing = find_hole(values, n, 0.5, steps, &after);
    if (n_missing > 0 && !standing->is_missing) {
        standing->is_missing = 1;
        snprintf(standing->what, sizeof standing->what, "%ld images are missing after Instance Number %.0f",
                 n_missing, after);
    }
}

// Images in Acquisition (0020,1002), per Acquisition Number. More images than announced: the announcement is
// not about images of this series (GE's between-slice interpolation), so it says nothing.
static void look_at_expected(const struct images *images, char *done, struct standing *standing)
{
    int is_told = images->n > 0, is_short = 0;
    memset(done, 0, images->n);
    for (size_t i = 0; i < images->n && is_told; i++) {
        const struct image *first = &images->items[i];
        int64_t n = 0, n_expected = first->n_expected;
        if (done[i])
            continue;
        for (size_t j = i; j < images->n; j++) {
            const struct image *other = &images->items[j];
            if (!(other->acquisition == first->acquisition ||
                  (isnan(other->acquisition) && isnan(first->acquisition))))
                continue;
            done[j] = 1;
            n++;
            is_told = is_told && other->n_expected == n_expected;
        }
        is_told = is_told && n_expected > 0 && n <= n_expected;
        if (is_told && n < n_expected && !is_short) {
            is_short = 1;
            if (!standing->is_missing)
                snprintf(standing->what, sizeof standing->what, "%lld of %lld images of an acquisition came",
                         (long long)n, (long long)n_expected);
        }
    }
    standing->is_reached = is_told && !is_short && !standing->is_missing;
    standing->is_missing = standing->is_missing || (is_told && is_short);
}

static int find_standing(struct spool *spool, const char *series_uid, struct standing *standing,
                         struct fault_note *why)
{
    struct images images = {0};
    memset(standing, 0, sizeof *standing);
    int rc = read_images(spool, series_uid, &images, why);
    double *values = malloc((images.n + 1) * sizeof *values), *steps = malloc((images.n + 1) * sizeof *steps);
    char *done = malloc(images.n + 1);
    if (values == NULL || steps == NULL || done == NULL) {
        rc = rc != 0 ? rc : fault_set(why, FAULT_NO_MEMORY, "cannot order %zu images", images.n);
    } else if (rc == 0) {
        standing->n = images.n;
        look_at_positions(&images, values, steps, done, standing);
        look_at_numbers(&images, values, steps, standing);
        look_at_expected(&images, done, standing);
    }
    free(values);
    free(steps);
    free(done);
    free(images.items);
    return rc;
}

// ---- jobs

// What a person's release of the series takes up: jobs that its conflict held, under their dates and step
// counts, since what they had written may be out under the same UIDs; and one that failed over these very
// objects. A worker that a conflict took the job from knows so when its lease is over.
static int take_up_jobs(struct spool *spool, const char *series_uid, int64_t last_object, int64_t now_us,
                        int *n_taken_up, struct fault_note *why)
{
    int rc =
        db_run(spool, why,
               "UPDATE job SET state='WAITING', attempts=0, not_before_us=lease_until_us, owner='',"
               " changed_us=?3, note='' WHERE series_uid=?1 AND ((state='HELD' AND note='" DB_CONFLICT_NOTE
               "') OR (state='FAILED' AND last_object=?2))",
               "tii", series_uid, last_object, now_us);
    *n_taken_up = rc == 0 ? sqlite3_changes(spool->db) : 0;
    return rc;
}

// Objects join the job that still waits and has given nothing yet; otherwise they make a new one.
static int join_or_insert(struct spool *spool, const char *series_uid, int64_t last_object, int64_t now_us,
                          int64_t *job, struct fault_note *why)
{
    int rc = db_integer(spool, why, job, 0,
                        "SELECT max(id) FROM job j WHERE series_uid=?1 AND state='WAITING'"
                        " AND NOT EXISTS(SELECT 1 FROM result r WHERE r.job_id=j.id)",
                        "t", series_uid);
    if (rc == 0 && *job != 0) {
        rc = db_run(spool, why, "UPDATE job SET last_object=?2, changed_us=?3, steps=0 WHERE id=?1", "iii",
                    *job, last_object, now_us);
        return rc != 0 ? rc : db_run(spool, why, "DELETE FROM late WHERE job_id=?1", "i", *job);
    }
    if (rc == 0)
        rc = db_run(spool, why,
                    "INSERT INTO job(series_uid, state, last_object, created_us, changed_us)"
                    " VALUES(?1,'WAITING',?2,?3,?3)",
                    "tii", series_uid, last_object, now_us);
    *job = sqlite3_last_insert_rowid(spool->db);
    return rc;
}

// *is_made = 0: a job of these very objects stands as it is.
static int make_job(struct spool *spool, const char *series_uid, int64_t now_us, int *is_made,
                    int64_t *n_late, struct fault_note *why)
{
    int64_t last_object = 0, job = 0;
    int n_taken_up = 0;
    int rc = db_integer(spool, why, &last_object, 0,
                        "SELECT max(id) FROM object WHERE series_uid=?1 AND place='store'", "t", series_uid);
    if (rc == 0)
        rc = take_up_jobs(spool, series_uid, last_object, now_us, &n_taken_up, why);
    if (rc == 0) // a second job of the same objects would write other bytes under the same UIDs
        rc = db_integer(spool, why, &job, 0, "SELECT max(id) FROM job WHERE series_uid=?1 AND last_object=?2",
                        "ti", series_uid, last_object);
    *is_made = job == 0 || n_taken_up > 0;
    if (rc == 0 && job == 0)
        rc = join_or_insert(spool, series_uid, last_object, now_us, &job, why);
    if (rc == 0)
        rc = db_integer(spool, why, n_late, 0, "SELECT " DB_N_LATE_TAKEN " FROM job j WHERE id=?1", "i", job);
    if (rc != 0)
        return rc;
    return db_run(spool, why, "UPDATE series SET state='QUEUED', changed_us=?2 WHERE series_uid=?1", "ti",
                  series_uid, now_us);
}

struct candidate {
    char series_uid[UID_SIZE];
    int64_t changed_us;
};

// As many as a round looks at, from where the last one ended: the oldest may be series that wait long for
// missing images, and the others have their turn all the same.
static int read_candidates(struct spool *spool, int64_t until_us, struct candidate *candidates, size_t *n,
                           struct fault_note *why)
{
    int64_t id = -1;
    *n = 0;
    sqlite3_stmt *statement =
        db_prepare(spool, why,
                   "SELECT series_uid, changed_us, id FROM series WHERE state='GATHERING'"
                   " AND changed_us<=?1 AND (changed_us, id)>(?2, ?3) ORDER BY changed_us, id",
                   "iii", until_us, spool->gathered.changed_us, spool->gathered.id);
    if (statement == NULL)
        return why->fault;
    int rc;
    while (*n < MAX_CANDIDATES && (rc = db_step(spool, statement, why)) == 1) {
        db_text(statement, 0, candidates[*n].series_uid, UID_SIZE);
        id = sqlite3_column_int64(statement, 2);
        candidates[(*n)++].changed_us = sqlite3_column_int64(statement, 1);
    }
    if (*n == MAX_CANDIDATES)
        rc = 0; // the others have their turn in the next rounds
    sqlite3_finalize(statement);
    spool->gathered.id = *n == MAX_CANDIDATES ? id : -1;
    spool->gathered.changed_us = *n == MAX_CANDIDATES ? candidates[*n - 1].changed_us : -1;
    return rc;
}

// What the archive said after the last image came; *n_archive = -1: nothing. *is_steady: and still said
// SPOOL_AGREE_S later.
static int read_told(struct spool *spool, const struct candidate *candidate, int64_t *n_archive,
                     int64_t *is_steady, struct fault_note *why)
{
    int rc = db_integer(spool, why, n_archive, -1, "SELECT n FROM told WHERE series_uid=?1 AND at_us>=?2",
                        "ti", candidate->series_uid, candidate->changed_us);
    return rc != 0 ? rc
                   : db_integer(spool, why, is_steady, 0,
                                "SELECT at_us-since_us>=?3 FROM told WHERE series_uid=?1 AND since_us>=?2",
                                "tii", candidate->series_uid, candidate->changed_us, agree_us);
}

// Whether one who sent images of it has an association open.
static int read_open(struct spool *spool, const struct spool_rules *rules, const char *series_uid,
                     int *is_open, struct fault_note *why)
{
    sqlite3_stmt *statement =
        db_prepare(spool, why, "SELECT DISTINCT sender FROM object WHERE series_uid=?1", "t", series_uid);
    if (statement == NULL)
        return why->fault;
    int rc;
    *is_open = 0;
    while ((rc = db_step(spool, statement, why)) == 1 && !*is_open) {
        char sender[17];
        db_text(statement, 0, sender, sizeof sender);
        *is_open = rules->is_open(rules->user, sender);
    }
    sqlite3_finalize(statement);
    return rc < 0 ? rc : 0;
}

// Whether its time has come; *because says why, or, when not, what it waits for ("" for the quiet time).
static int decide(struct spool *spool, const struct spool_rules *rules, const struct candidate *candidate,
                  int64_t now_us, int *is_due, char *because, size_t size, struct fault_note *why)
{
    struct standing standing;
    int64_t n_archive = -1, is_steady = 0;
    double quiet_s = (double)(now_us - candidate->changed_us) * 1e-6;
    int is_quiet = quiet_s >= rules->quiet_s, is_open = 0;
    int is_long = quiet_s >= fmax(rules->incomplete_s, rules->quiet_s);
    int rc = find_standing(spool, candidate->series_uid, &standing, why);
    if (rc == 0)
        rc = read_told(spool, candidate, &n_archive, &is_steady, why);
    if (rc == 0 && (is_quiet || is_steady))
        rc = read_open(spool, rules, candidate->series_uid, &is_open, why);
    if (rc != 0)
        return rc;
    if (n_archive > (int64_t)standing.n && !standing.is_missing) {
        standing.is_missing = 1;
        snprintf(standing.what, sizeof standing.what, "the archive has %lld images, %zu came",
                 (long long)n_archive, standing.n);
    }
    // The archive may be receiving just as this node is: the same number on both sides says little alone.
    int is_whole = is_steady && n_archive == (int64_t)standing.n && !is_open && !standing.is_missing;
    *is_due = 1;
    if (standing.is_reached && n_archive <= (int64_t)standing.n)
        snprintf(because, size, "as many as the acquisition gave");
    else if (is_whole)
        snprintf(because, size, "as many as the archive has");
    else if (is_quiet && !is_open && !standing.is_missing)
        snprintf(because, size, "quiet for %.1f s", quiet_s);
    else if (is_long)
        snprintf(because, size, "%s%s%squiet for %.1f s", standing.is_missing ? "incomplete: " : "",
                 standing.is_missing ? standing.what : "", standing.is_missing ? "; " : "", quiet_s);
    else {
        *is_due = 0;
        snprintf(because, size, "%s%s", standing.is_missing ? "incomplete: " : "",
                 standing.is_missing ? standing.what : "");
    }
    return 0;
}

static int gather_one(struct spool *spool, const struct spool_rules *rules, const struct candidate *candidate,
                      int64_t now_us, size_t *n_jobs, struct fault_note *why)
{
    char because[240] = "";
    int is_due = 0, is_made = 0;
    struct spool_gathered made = {.series_uid = candidate->series_uid, .because = because};
    int rc = decide(spool, rules, candidate, now_us, &is_due, because, sizeof because, why);
    if (rc != 0)
        return rc;
    if (!is_due)
        return db_run(spool, why, "UPDATE series SET note=?2 WHERE series_uid=?1 AND note<>?2", "tt",
                      candidate->series_uid, because);
    rc = make_job(spool, candidate->series_uid, now_us, &is_made, &made.n_late, why);
    if (rc == 0)
        rc = db_run(spool, why, "UPDATE series SET note=?2 WHERE series_uid=?1", "tt", candidate->series_uid,
                    strncmp(because, "incomplete", 10) == 0 ? because : "");
    if (rc == 0)
        rc = db_integer(spool, why, &made.n_objects, 0,
                        "SELECT count(*) FROM object WHERE series_uid=?1 AND place='store'", "t",
                        candidate->series_uid);
    if (rc == 0 && is_made && rules->made != NULL)
        rules->made(rules->user, &made);
    *n_jobs += rc == 0 && is_made;
    return rc;
}

static int64_t settled_us(double quiet_s, int64_t now_us)
{
    return now_us - (int64_t)(1e6 * fmin(quiet_s, SPOOL_SETTLE_S));
}

int spool_gather(struct spool *spool, const struct spool_rules *rules, int64_t now_us, size_t *n_jobs,
                 struct fault_note *why)
{
    struct fault_note local;
    size_t n = 0;
    why = why ? why : &local;
    *n_jobs = 0;
    struct candidate *candidates = malloc(MAX_CANDIDATES * sizeof *candidates);
    if (candidates == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot list what gathers");
    int rc = db_begin(spool, why);
    if (rc == 0) {
        rc = read_candidates(spool, settled_us(rules->quiet_s, now_us), candidates, &n, why);
        for (size_t i = 0; i < n && rc == 0; i++)
            rc = gather_one(spool, rules, &candidates[i], now_us, n_jobs, why);
        rc = db_end(spool, rc, why);
    }
    free(candidates);
    return rc;
}

// ---- asking an archive

int spool_to_ask(struct spool *spool, double quiet_s, int64_t now_us, struct spool_question *questions,
                 size_t room, size_t *n, struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    *n = 0;
    sqlite3_stmt *statement = db_prepare(
        spool, why,
        "SELECT s.series_uid, (SELECT study_uid FROM object o WHERE o.series_uid=s.series_uid LIMIT 1)"
        " FROM series s LEFT JOIN told a ON a.series_uid=s.series_uid WHERE s.state='GATHERING'"
        " AND s.changed_us<=?1 AND (a.at_us IS NULL OR a.at_us<s.changed_us OR a.at_us<?2"
        "  OR (a.at_us-a.since_us<?3 AND a.at_us<=?4-?3))"
        " ORDER BY coalesce(a.at_us, 0), s.id",
        "iiii", settled_us(quiet_s, now_us), now_us - ASK_AGAIN_S * INT64_C(1000000), agree_us, now_us);
    if (statement == NULL)
        return why->fault;
    int rc = 0;
    while (*n < room && (rc = db_step(spool, statement, why)) == 1) {
        db_text(statement, 0, questions[*n].series_uid, UID_SIZE);
        db_text(statement, 1, questions[*n].study_uid, UID_SIZE);
        ++*n;
    }
    sqlite3_finalize(statement);
    return rc < 0 ? rc : 0;
}

int spool_told(struct spool *spool, const char *series_uid, int64_t n, int64_t asked_us,
               struct fault_note *why)
{
    return db_run(spool, why,
                  "INSERT INTO told(series_uid, n, since_us, at_us) VALUES(?1,?2,?3,?3)"
                  " ON CONFLICT(series_uid) DO UPDATE SET n=?2, at_us=?3, since_us=CASE WHEN n=?2"
                  "  AND since_us>=(SELECT changed_us FROM series s WHERE s.series_uid=?1)"
                  "  THEN since_us ELSE ?3 END",
                  "tii", series_uid, n, asked_us);
}
