// SPDX-License-Identifier: Apache-2.0
#include "spool/db.h"

#include <stdarg.h>
#include <stdio.h>

static int db_fault(struct spool *spool, struct fault_note *why, const char *sql)
{
    int code = sqlite3_errcode(spool->db);
    enum fault fault = code == SQLITE_FULL    ? FAULT_NO_SPACE
                       : code == SQLITE_NOMEM ? FAULT_NO_MEMORY
                                              : FAULT_QUEUE;
    return fault_set(why, fault, "queue: %s (in '%.60s')", sqlite3_errmsg(spool->db), sql);
}

static sqlite3_stmt *prepare(struct spool *spool, struct fault_note *why, const char *sql, const char *types,
                             va_list args)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(spool->db, sql, -1, &statement, NULL) != SQLITE_OK) {
        db_fault(spool, why, sql);
        return NULL;
    }
    int rc = SQLITE_OK;
    for (int i = 0; types[i] != '\0' && rc == SQLITE_OK; i++) {
        if (types[i] == 'i')
            rc = sqlite3_bind_int64(statement, i + 1, va_arg(args, int64_t));
        else if (types[i] == 'd')
            rc = sqlite3_bind_double(statement, i + 1, va_arg(args, double));
        else
            rc = sqlite3_bind_text(statement, i + 1, va_arg(args, const char *), -1, SQLITE_TRANSIENT);
    }
    if (rc != SQLITE_OK) {
        db_fault(spool, why, sql);
        sqlite3_finalize(statement);
        return NULL;
    }
    return statement;
}

sqlite3_stmt *db_prepare(struct spool *spool, struct fault_note *why, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *statement = prepare(spool, why, sql, types, args);
    va_end(args);
    return statement;
}

int db_step(struct spool *spool, sqlite3_stmt *statement, struct fault_note *why)
{
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        return 1;
    if (rc == SQLITE_DONE)
        return 0;
    return db_fault(spool, why, sqlite3_sql(statement));
}

int db_run(struct spool *spool, struct fault_note *why, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *statement = prepare(spool, why, sql, types, args);
    va_end(args);
    if (statement == NULL)
        return why ? (int)why->fault : FAULT_QUEUE;
    int rc;
    while ((rc = db_step(spool, statement, why)) == 1) {
    }
    sqlite3_finalize(statement);
    return rc;
}

int db_integer(struct spool *spool, struct fault_note *why, int64_t *value, int64_t fallback, const char *sql,
               const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *statement = prepare(spool, why, sql, types, args);
    va_end(args);
    if (statement == NULL)
        return why ? (int)why->fault : FAULT_QUEUE;
    int rc = db_step(spool, statement, why);
    if (rc >= 0)
        *value = rc == 1 && sqlite3_column_type(statement, 0) != SQLITE_NULL
                     ? sqlite3_column_int64(statement, 0)
                     : fallback;
    sqlite3_finalize(statement);
    return rc < 0 ? rc : 0;
}

int db_check_owned(struct spool *spool, int rc, const char *what, int64_t id, struct fault_note *why)
{
    if (rc == 0 && sqlite3_changes(spool->db) == 0)
        return fault_set(why, FAULT_LEASE_LOST, "%s %lld is no longer ours", what, (long long)id);
    return rc;
}

int db_begin(struct spool *spool, struct fault_note *why)
{
    return db_run(spool, why, "BEGIN IMMEDIATE", "");
}

int db_end(struct spool *spool, int rc, struct fault_note *why)
{
    if (rc == 0)
        rc = db_run(spool, why, "COMMIT", "");
    if (rc != 0)
        db_run(spool, NULL, "ROLLBACK", ""); // the first fault is the one to tell
    return rc;
}

void db_text(sqlite3_stmt *statement, int column, char *out, size_t size)
{
    const unsigned char *text = sqlite3_column_text(statement, column);
    snprintf(out, size, "%s", text ? (const char *)text : "");
}

int db_first_text(struct spool *spool, sqlite3_stmt *statement, char *text, size_t size,
                  struct fault_note *why)
{
    text[0] = '\0';
    if (statement == NULL)
        return why->fault;
    int rc = db_step(spool, statement, why);
    if (rc == 1)
        db_text(statement, 0, text, size);
    sqlite3_finalize(statement);
    return rc < 0 ? rc : 0;
}
