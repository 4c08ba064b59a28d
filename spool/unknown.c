// SPDX-License-Identifier: Apache-2.0
#include "core/file.h"
#include "spool/db.h"
#include "spool/seal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// "A-N.dcm" came as "A/N.dcm". 0 for what the indexer would not find there.
static int place_in_incoming(const struct spool *spool, const char *name, char folder[SPOOL_PATH_SIZE],
                             char path[SPOOL_PATH_SIZE + SPOOL_NAME_SIZE])
{
    const char *dash = strrchr(name, '-');
    if (name[0] != 'a' || dash == NULL || dash - name > 63 || strlen(dash + 1) > 24)
        return 0;
    int n = snprintf(folder, SPOOL_PATH_SIZE, "%s/%.*s", spool_folder(spool, SPOOL_INCOMING),
                     (int)(dash - name), name);
    if (n < 0 || n >= SPOOL_PATH_SIZE)
        return 0;
    snprintf(path, SPOOL_PATH_SIZE + SPOOL_NAME_SIZE, "%s/%s", folder, dash + 1);
    return 1;
}

// One file without a row. Only what is sealed and whole was ever acknowledged; the indexer finds the rest in
// it. The move needs no sync: in either place the next start finds it.
static int enter(const struct spool *spool, enum spool_folder from, const char *name, int *is_entered,
                 struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE + 280], folder[SPOOL_PATH_SIZE], to[SPOOL_PATH_SIZE + SPOOL_NAME_SIZE];
    *is_entered = 0;
    snprintf(path, sizeof path, "%s/%s", spool_folder(spool, from), name);
    if (!place_in_incoming(spool, name, folder, to) || access(to, F_OK) == 0)
        return 0;
    int rc = seal_is_whole(path, why);
    if (rc <= 0)
        return rc == FAULT_NO_MEMORY ? rc : 0;
    rc = file_make_directory(folder, why);
    if (rc == 0 && file_ops.rename(path, to) != 0)
        rc = fault_set_errno(why, errno, "cannot move '%s'", path);
    *is_entered = rc == 0;
    return rc;
}

static int has_row(struct spool *spool, sqlite3_stmt *statement, const char *name, int *has,
                   struct fault_note *why)
{
    sqlite3_reset(statement);
    sqlite3_bind_text(statement, 1, name, -1, SQLITE_TRANSIENT);
    int rc = db_step(spool, statement, why);
    *has = rc == 1;
    return rc < 0 ? rc : 0;
}

int spool_enter_unknown(struct spool *spool, enum spool_folder from, size_t *n_entered, size_t *n_left,
                        struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    *n_entered = *n_left = 0;
    DIR *dir = opendir(spool_folder(spool, from));
    if (dir == NULL)
        return fault_set_errno(why, errno, "cannot open directory '%s'", spool_folder(spool, from));
    // One statement for all of them: there may be a hundred thousand.
    sqlite3_stmt *statement = db_prepare(spool, why, "SELECT 1 FROM object WHERE name=?1", "");
    int rc = statement != NULL ? 0 : (int)why->fault;
    struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        int is_known = 0, is_entered = 0;
        if (entry->d_name[0] == '.')
            continue;
        rc = has_row(spool, statement, entry->d_name, &is_known, why);
        if (rc != 0 || is_known)
            continue;
        rc = enter(spool, from, entry->d_name, &is_entered, why);
        *n_entered += (size_t)is_entered;
        *n_left += rc == 0 && !is_entered;
    }
    sqlite3_finalize(statement);
    closedir(dir);
    return rc;
}
