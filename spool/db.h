// SPDX-License-Identifier: Apache-2.0
//
// Inside the spool only: the open database and a few lines around SQLite so that statements read as one line
// each.

#ifndef ISOSLICE_SPOOL_DB_H
#define ISOSLICE_SPOOL_DB_H

#include "spool/spool.h"

#include <sqlite3.h>

// Why a job or delivery is HELD which the release of its series gives back.
#define DB_CONFLICT_NOTE "the series is in conflict"

struct spool {
    sqlite3 *db;
    int in_group; // one transaction around several calls is open
    struct {
        int64_t changed_us, id; // of the last series that spool_gather looked at; -1: it begins anew
    } gathered;
    char root[SPOOL_PATH_SIZE];
    char folders[SPOOL_N_FOLDERS][SPOOL_PATH_SIZE];
};

// Removes what a folder has of a job, "j1-..." of "j1", whether a row names it or not, but what is_kept
// (NULL: nothing) says is kept. *n_removed grows.
int spool_remove_of_job(struct spool *spool, enum spool_folder folder, const char *job,
                        int (*is_kept)(void *user, const char *name), void *user, size_t *n_removed,
                        struct fault_note *why);

// A statement with its values bound: `types` has one letter per value, 'i' int64_t, 'd' double (NAN binds
// NULL), 't' const char * (copied; NULL binds NULL). NULL on failure, `why` filled.
sqlite3_stmt *db_prepare(struct spool *spool, struct fault_note *why, const char *sql, const char *types,
                         ...);

// An expression over a job `j`: those of its objects that came after the newest object of an earlier job that
// made a derived series, or is at it. A job that gave none left no series for the objects to be late for.
#define DB_N_LATE                                                                                            \
    "(SELECT count(*) FROM object o WHERE o.series_uid=j.series_uid AND o.place='store'"                     \
    " AND o.id<=j.last_object AND o.id>(SELECT max(p.last_object) FROM job p"                                \
    "  WHERE p.series_uid=j.series_uid AND p.last_object<j.last_object AND (p.state='LEASED'"                \
    "   OR EXISTS(SELECT 1 FROM result r WHERE r.job_id=p.id AND r.verdict=0))))"
// The same as it was when the job was first taken: done again later, it writes the same.
#define DB_N_LATE_TAKEN "coalesce((SELECT n FROM late WHERE job_id=j.id), " DB_N_LATE ")"

// Steps once: 1 a row, 0 done, negative fault. The caller finalizes.
int db_step(struct spool *spool, sqlite3_stmt *statement, struct fault_note *why);

// Prepares, runs to the end and finalizes.
int db_run(struct spool *spool, struct fault_note *why, const char *sql, const char *types, ...);

// The same for a query that gives one integer; `fallback` when there is no row.
int db_integer(struct spool *spool, struct fault_note *why, int64_t *value, int64_t fallback, const char *sql,
               const char *types, ...);

// After an UPDATE guarded by owner and state, whose outcome is `rc`: LEASE_LOST unless a row changed.
int db_check_owned(struct spool *spool, int rc, const char *what, int64_t id, struct fault_note *why);

int db_begin(struct spool *spool, struct fault_note *why); // BEGIN IMMEDIATE
// COMMIT when rc is 0, else ROLLBACK; returns the first fault.
int db_end(struct spool *spool, int rc, struct fault_note *why);

// Text of a column, never NULL, copied.
void db_text(sqlite3_stmt *statement, int column, char *out, size_t size);

// The text that a query gives first; empty when it gives none. Finalizes the statement; NULL is one that
// db_prepare refused, and its fault is returned.
int db_first_text(struct spool *spool, sqlite3_stmt *statement, char *text, size_t size,
                  struct fault_note *why);

#endif
