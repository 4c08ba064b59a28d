// SPDX-License-Identifier: Apache-2.0
#include "spool/spool.h"

#include "core/file.h"
#include "spool/db.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const char *const folder_names[SPOOL_N_FOLDERS] = {"incoming", "store",   "aside",      "derived",
                                                          "work",     "reports", "commitments"};

#define DELIVERY_COLUMNS                                                                                     \
    "(id INTEGER PRIMARY KEY AUTOINCREMENT,"                                                                 \
    " result_id INTEGER NOT NULL REFERENCES result(id) ON DELETE CASCADE, destination TEXT NOT NULL,"        \
    " state TEXT NOT NULL CHECK(state IN ('WAITING','SENDING','SENT','HELD','ASKED')),"                      \
    " created_us INTEGER NOT NULL, changed_us INTEGER NOT NULL, not_before_us INTEGER NOT NULL DEFAULT 0,"   \
    " owner TEXT NOT NULL DEFAULT '', lease_until_us INTEGER NOT NULL DEFAULT 0,"                            \
    " attempts INTEGER NOT NULL DEFAULT 0, note TEXT NOT NULL DEFAULT '',"                                   \
    " transaction_uid TEXT NOT NULL DEFAULT '');"

static const char *const schema =
    "CREATE TABLE IF NOT EXISTS object(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,"
    " sop_class TEXT NOT NULL, sop_uid TEXT NOT NULL, series_uid TEXT NOT NULL, study_uid TEXT NOT NULL,"
    " digest TEXT NOT NULL, sender TEXT NOT NULL, size INTEGER NOT NULL, received_us INTEGER NOT NULL,"
    " place TEXT NOT NULL CHECK(place IN ('store','aside')));"
    "CREATE UNIQUE INDEX IF NOT EXISTS object_uid ON object(sop_uid) WHERE place='store';"
    "CREATE INDEX IF NOT EXISTS object_sop ON object(sop_uid);" // the one above knows the store only
    "CREATE INDEX IF NOT EXISTS object_series ON object(series_uid);"
    "CREATE INDEX IF NOT EXISTS object_taken ON object(sender, received_us, size);"
    "CREATE TABLE IF NOT EXISTS geometry(object_id INTEGER PRIMARY KEY REFERENCES object(id) ON DELETE "
    "CASCADE,"
    " acquisition REAL, number REAL, expected INTEGER NOT NULL, nx REAL, ny REAL, nz REAL, z REAL);"
    "DROP TABLE IF EXISTS asked;" // as told, before it had since_us
    "CREATE TABLE IF NOT EXISTS told(series_uid TEXT PRIMARY KEY, n INTEGER NOT NULL,"
    " since_us INTEGER NOT NULL, at_us INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS series(id INTEGER PRIMARY KEY AUTOINCREMENT, series_uid TEXT NOT NULL UNIQUE,"
    " sender TEXT NOT NULL, state TEXT NOT NULL CHECK(state IN ('GATHERING','QUEUED','CONFLICT','FAILED')),"
    " changed_us INTEGER NOT NULL, note TEXT NOT NULL DEFAULT '');"
    "CREATE TABLE IF NOT EXISTS purging(series_uid TEXT PRIMARY KEY);" // begun, perhaps not ended
    "CREATE TABLE IF NOT EXISTS job(id INTEGER PRIMARY KEY AUTOINCREMENT, series_uid TEXT NOT NULL,"
    " state TEXT NOT NULL CHECK(state IN ('WAITING','LEASED','DONE','REFUSED','FAILED','HELD')),"
    " last_object INTEGER NOT NULL, created_us INTEGER NOT NULL, changed_us INTEGER NOT NULL,"
    " not_before_us INTEGER NOT NULL DEFAULT 0, owner TEXT NOT NULL DEFAULT '',"
    " lease_until_us INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,"
    " steps INTEGER NOT NULL DEFAULT 0, generation INTEGER NOT NULL DEFAULT 0, note TEXT NOT NULL DEFAULT "
    "'');"
    "CREATE INDEX IF NOT EXISTS job_state ON job(state);"
    "CREATE INDEX IF NOT EXISTS job_series ON job(series_uid);"
    "CREATE TABLE IF NOT EXISTS late(job_id INTEGER PRIMARY KEY REFERENCES job(id) ON DELETE CASCADE,"
    " n INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS result(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " job_id INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE, stack_index INTEGER NOT NULL,"
    " verdict INTEGER NOT NULL, note TEXT NOT NULL, derived_name TEXT NOT NULL, derived_uid TEXT NOT NULL,"
    " n_objects INTEGER NOT NULL);"
    "CREATE INDEX IF NOT EXISTS result_job ON result(job_id);"
    "CREATE TABLE IF NOT EXISTS delivery" DELIVERY_COLUMNS
    "CREATE INDEX IF NOT EXISTS delivery_state ON delivery(state);"
    "CREATE INDEX IF NOT EXISTS delivery_result ON delivery(result_id);"
    "CREATE INDEX IF NOT EXISTS delivery_transaction ON delivery(transaction_uid);"
    "CREATE TABLE IF NOT EXISTS sent(delivery_id INTEGER NOT NULL REFERENCES delivery(id) ON DELETE CASCADE,"
    " idx INTEGER NOT NULL, status INTEGER NOT NULL, confirmed INTEGER NOT NULL, PRIMARY KEY(delivery_id, "
    "idx));"
    // what a destination was asked to commit itself to, and has not yet
    "CREATE TABLE IF NOT EXISTS promised(delivery_id INTEGER NOT NULL REFERENCES delivery(id) ON DELETE "
    "CASCADE,"
    " sop_uid TEXT NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY(delivery_id, sop_uid)) WITHOUT ROWID;";

// A queue from before there was the state ASKED: its table is made again around the same rows. Foreign keys
// are not enforced yet, so that nothing hangs on the old one (sqlite.org/lang_altertable.html, section 7).
static const char *const new_deliveries =
    "ALTER TABLE delivery ADD COLUMN transaction_uid TEXT NOT NULL DEFAULT '';"
    "CREATE TABLE renewed" DELIVERY_COLUMNS
    "INSERT INTO renewed SELECT id, result_id, destination, state, created_us, changed_us, not_before_us,"
    " owner, lease_until_us, attempts, note, transaction_uid FROM delivery;"
    "DROP TABLE delivery;"
    "ALTER TABLE renewed RENAME TO delivery;";

static int run_script(struct spool *spool, const char *script, struct fault_note *why)
{
    char *message = NULL;
    int rc = 0;
    if (sqlite3_exec(spool->db, script, NULL, NULL, &message) != SQLITE_OK)
        rc = fault_set(why, FAULT_QUEUE, "cannot make the queue's tables: %s",
                       message ? message : "no memory");
    sqlite3_free(message);
    return rc;
}

static int make_tables(struct spool *spool, struct fault_note *why)
{
    int64_t is_old = 0;
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    rc = db_integer(spool, why, &is_old, 0,
                    "SELECT count(*) FROM sqlite_master WHERE type='table' AND name='delivery'"
                    " AND sql NOT LIKE '%''ASKED''%'",
                    "");
    if (rc == 0 && is_old)
        rc = run_script(spool, new_deliveries, why);
    if (rc == 0)
        rc = run_script(spool, schema, why);
    return db_end(spool, rc, why);
}

static int open_queue(struct spool *spool, struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE];
    int rc = file_join(path, sizeof path, spool->root, "queue.db", why);
    if (rc != 0)
        return rc;
    if (sqlite3_open_v2(path, &spool->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        return fault_set(why, FAULT_QUEUE, "cannot open queue '%s': %s", path,
                         spool->db ? sqlite3_errmsg(spool->db) : "no memory");
    sqlite3_busy_timeout(spool->db, 30000);
    rc = db_run(spool, why, "PRAGMA journal_mode=WAL", "");
    if (rc == 0)
        rc = db_run(spool, why, "PRAGMA synchronous=FULL", "");
    if (rc == 0)
        rc = db_run(spool, why, "PRAGMA foreign_keys=OFF", "");
    if (rc == 0)
        rc = make_tables(spool, why);
    return rc == 0 ? db_run(spool, why, "PRAGMA foreign_keys=ON", "") : rc;
}

// The change to a write-ahead log does not wait for a busy database, and all daemons may start at once on a
// new spool: one opens at a time.
static int open_queue_alone(struct spool *spool, struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE];
    int rc = file_join(path, sizeof path, spool->root, "queue.lock", why);
    if (rc != 0)
        return rc;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return fault_set_errno(why, errno, "cannot open '%s'", path);
    if (flock(fd, LOCK_EX) != 0)
        rc = fault_set_errno(why, errno, "cannot lock '%s'", path);
    else
        rc = open_queue(spool, why);
    close(fd); // and with it the lock
    return rc;
}

int spool_open(const char *root, struct spool **spool, struct fault_note *why)
{
    struct spool *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot open the spool");
    int rc = 0;
    opened->gathered.changed_us = opened->gathered.id = -1;
    int n = snprintf(opened->root, sizeof opened->root, "%s", root);
    if (n < 0 || (size_t)n >= sizeof opened->root)
        rc = fault_set(why, FAULT_CONFIG, "spool path too long: %d bytes", n);
    for (int i = 0; i < SPOOL_N_FOLDERS && rc == 0; i++) {
        rc = file_join(opened->folders[i], sizeof opened->folders[i], root, folder_names[i], why);
        if (rc == 0)
            rc = file_make_directory(opened->folders[i], why);
    }
    if (rc == 0)
        rc = open_queue_alone(opened, why);
    if (rc != 0) {
        spool_close(opened);
        return rc;
    }
    *spool = opened;
    return 0;
}

int spool_open_existing(const char *root, struct spool **spool, struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE];
    int rc = file_join(path, sizeof path, root, "queue.db", why);
    if (rc == 0 && access(path, F_OK) != 0)
        rc = errno == ENOENT
                 ? fault_set(why, FAULT_NOT_FOUND,
                             "there is no spool at '%s': the daemons make it when they start", root)
                 : fault_set_errno(why, errno, "cannot look for '%s'", path);
    return rc != 0 ? rc : spool_open(root, spool, why);
}

void spool_close(struct spool *spool)
{
    if (spool == NULL)
        return;
    sqlite3_close(spool->db);
    free(spool);
}

const char *spool_folder(const struct spool *spool, enum spool_folder folder)
{
    return spool->folders[folder];
}

// ---- indexing

// Looks an object up; *found = 1 fills digest, place, name.
static int find_by_uid(struct spool *spool, const struct spool_object *object, enum spool_verdict *verdict,
                       char series_uid[UID_SIZE], struct fault_note *why)
{
    sqlite3_stmt *statement = db_prepare(spool, why,
                                         "SELECT digest, place, name, series_uid FROM object WHERE sop_uid=?1"
                                         " ORDER BY place='store' DESC, id",
                                         "t", object->sop_instance_uid);
    if (statement == NULL)
        return why->fault;
    int rc;
    *verdict = SPOOL_NEW;
    while ((rc = db_step(spool, statement, why)) == 1) {
        char digest[DIGEST_HEX_SIZE], place[8], name[SPOOL_NAME_SIZE];
        db_text(statement, 0, digest, sizeof digest);
        db_text(statement, 1, place, sizeof place);
        db_text(statement, 2, name, sizeof name);
        int is_store = strcmp(place, "store") == 0;
        if (*verdict == SPOOL_NEW) {
            db_text(statement, 3, series_uid, UID_SIZE);
            *verdict = SPOOL_CONFLICT;
        }
        if (strcmp(name, object->name) == 0) {
            *verdict = is_store ? SPOOL_KNOWN : SPOOL_KNOWN_ASIDE;
            rc = 0;
            break;
        }
        if (strcmp(digest, object->digest) == 0) {
            *verdict = SPOOL_DUPLICATE;
            // Not the end: this very file may still be among the rows.
        }
    }
    sqlite3_finalize(statement);
    return rc;
}

static int insert_object(struct spool *spool, const struct spool_object *object, const char *place,
                         int64_t now_us, struct fault_note *why)
{
    return db_run(spool, why,
                  "INSERT INTO object(name, sop_class, sop_uid, series_uid, study_uid, digest, sender, size,"
                  " received_us, place) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)",
                  "tttttttiit", object->name, object->sop_class_uid, object->sop_instance_uid,
                  object->series_uid, object->study_uid, object->digest, object->sender, object->size_bytes,
                  now_us, place);
}

static int insert_geometry(struct spool *spool, const struct spool_geometry *geometry, struct fault_note *why)
{
    const double none = (double)NAN; // NULL to SQLite
    return db_run(
        spool, why,
        "INSERT INTO geometry(object_id, acquisition, number, expected, nx, ny, nz, z)"
        " VALUES(last_insert_rowid(),?1,?2,?3,?4,?5,?6,?7)",
        "ddidddd", geometry->has_acquisition ? (double)geometry->acquisition : none,
        geometry->has_number ? (double)geometry->number : none, geometry->n_expected,
        geometry->has_plane ? geometry->normal[0] : none, geometry->has_plane ? geometry->normal[1] : none,
        geometry->has_plane ? geometry->normal[2] : none, geometry->has_plane ? geometry->z_mm : none);
}

static int mark_conflict(struct spool *spool, const char *series_uid, int64_t now_us, struct fault_note *why)
{
    int rc = db_run(spool, why,
                    "UPDATE series SET state='CONFLICT', changed_us=?2,"
                    " note='other bytes came under a known SOP Instance UID' WHERE series_uid=?1",
                    "ti", series_uid, now_us);
    if (rc != 0)
        return rc;
    rc = db_run(spool, why,
                "UPDATE job SET state='HELD', changed_us=?2, note='" DB_CONFLICT_NOTE "'"
                " WHERE series_uid=?1 AND state IN ('WAITING','LEASED')",
                "ti", series_uid, now_us);
    if (rc != 0)
        return rc;
    // What is being sent ends its object: the sender asks before each, and finds that it is not its own.
    return db_run(spool, why,
                  "UPDATE delivery SET state='HELD', owner='', lease_until_us=0, changed_us=?2,"
                  " note='" DB_CONFLICT_NOTE "' WHERE state IN ('WAITING','SENDING','ASKED') AND result_id IN"
                  " (SELECT r.id FROM result r JOIN job j ON j.id=r.job_id WHERE j.series_uid=?1)",
                  "ti", series_uid, now_us);
}

static int touch_series(struct spool *spool, const struct spool_object *object, int64_t now_us,
                        struct fault_note *why)
{
    return db_run(spool, why,
                  "INSERT INTO series(series_uid, sender, state, changed_us) VALUES(?1,?2,'GATHERING',?3)"
                  " ON CONFLICT(series_uid) DO UPDATE SET sender=?2, changed_us=?3,"
                  " note=CASE state WHEN 'CONFLICT' THEN note ELSE '' END,"
                  " state=CASE state WHEN 'CONFLICT' THEN 'CONFLICT' ELSE 'GATHERING' END",
                  "tti", object->series_uid, object->sender, now_us);
}

// Something came for it: a purge that failed half-way is not gone on with.
static int keep_series(struct spool *spool, const char *series_uid, struct fault_note *why)
{
    return db_run(spool, why, "DELETE FROM purging WHERE series_uid=?1", "t", series_uid);
}

int spool_is_going(struct spool *spool, const char *series_uid, int *is_going, struct fault_note *why)
{
    struct fault_note local;
    int64_t n = 0;
    int rc = db_integer(spool, why ? why : &local, &n, 0, "SELECT count(*) FROM purging WHERE series_uid=?1",
                        "t", series_uid);
    *is_going = n > 0;
    return rc;
}

// A duplicate of what is about to go would go with it, though it was acknowledged after a person had decided.
static int look_at_duplicate(struct spool *spool, const struct spool_object *object,
                             enum spool_verdict *verdict, struct fault_note *why)
{
    int is_going = 0;
    int rc = spool_is_going(spool, object->series_uid, &is_going, why);
    if (rc == 0 && is_going)
        *verdict = SPOOL_LATER;
    return rc;
}

int spool_index(struct spool *spool, const struct spool_object *object, int64_t now_us,
                enum spool_verdict *verdict, struct fault_note *why)
{
    struct fault_note local;
    char known_series[UID_SIZE] = "";
    why = why ? why : &local;
    int rc = spool->in_group ? 0 : db_begin(spool, why);
    if (rc != 0)
        return rc;
    rc = find_by_uid(spool, object, verdict, known_series, why);
    if (rc == 0 && *verdict == SPOOL_NEW) {
        rc = insert_object(spool, object, "store", now_us, why);
        if (rc == 0)
            rc = insert_geometry(spool, &object->geometry, why);
        if (rc == 0)
            rc = touch_series(spool, object, now_us, why);
    } else if (rc == 0 && *verdict == SPOOL_CONFLICT) {
        rc = insert_object(spool, object, "aside", now_us, why);
        if (rc == 0)
            rc = touch_series(spool, object, now_us, why);
        if (rc == 0)
            rc = mark_conflict(spool, known_series, now_us, why);
        if (rc == 0)
            rc = mark_conflict(spool, object->series_uid, now_us, why);
        if (rc == 0)
            rc = keep_series(spool, known_series, why);
    }
    if (rc == 0 && *verdict == SPOOL_DUPLICATE)
        rc = look_at_duplicate(spool, object, verdict, why);
    if (rc == 0 && (*verdict == SPOOL_NEW || *verdict == SPOOL_CONFLICT))
        rc = keep_series(spool, object->series_uid, why);
    return spool->in_group ? rc : db_end(spool, rc, why);
}

int spool_group_begin(struct spool *spool, struct fault_note *why)
{
    int rc = db_begin(spool, why);
    spool->in_group = rc == 0;
    return rc;
}

int spool_group_end(struct spool *spool, int rc, struct fault_note *why)
{
    spool->in_group = 0;
    return db_end(spool, rc, why);
}

enum { FILE_PATH_SIZE = SPOOL_PATH_SIZE + SPOOL_NAME_SIZE };

static void place_of(const struct spool *spool, const char *name, const char *place,
                     char path[FILE_PATH_SIZE])
{
    snprintf(path, FILE_PATH_SIZE, "%s/%s",
             spool->folders[strcmp(place, "store") == 0 ? SPOOL_STORE : SPOOL_ASIDE], name);
}

// What cannot be looked at is not lost.
static int is_there(const char *path)
{
    return access(path, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

// Finds the file of an object row where one may be; "A-N.dcm" waits as "A/N.dcm". 1 when it is there.
static int find_file(const struct spool *spool, const char *name, const char *place,
                     char path[FILE_PATH_SIZE])
{
    place_of(spool, name, place, path);
    if (is_there(path))
        return 1;
    const char *dash = strrchr(name, '-');
    if (dash == NULL)
        return 0;
    snprintf(path, FILE_PATH_SIZE, "%s/%.*s/%s", spool->folders[SPOOL_INCOMING], (int)(dash - name), name,
             dash + 1);
    return is_there(path);
}

// The same, or as "A/N.tmp", which a crash left and which could not be read so far.
static int is_kept(const struct spool *spool, const char *name, const char *place)
{
    char path[FILE_PATH_SIZE];
    if (find_file(spool, name, place, path))
        return 1;
    char *suffix = strrchr(path, '.');
    if (suffix == NULL || strcmp(suffix, ".dcm") != 0)
        return 0;
    memcpy(suffix, ".tmp", 4);
    return is_there(path);
}

int spool_find_object(struct spool *spool, const char *sop_instance_uid, struct spool_object *object,
                      char *path, int *found, int *is_disputed, struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    sqlite3_stmt *statement = db_prepare(spool, why,
                                         "SELECT name, sop_class, digest, place, sender, size FROM object"
                                         " WHERE sop_uid=?1 ORDER BY place='aside', id",
                                         "t", sop_instance_uid);
    if (statement == NULL)
        return why->fault;
    int rc;
    *found = *is_disputed = 0;
    path[0] = '\0';
    while ((rc = db_step(spool, statement, why)) == 1) {
        char place[8];
        db_text(statement, 3, place, sizeof place);
        if (strcmp(place, "store") != 0) {
            *is_disputed = 1;
            continue;
        }
        *found = 1;
        memset(object, 0, sizeof *object);
        snprintf(object->sop_instance_uid, sizeof object->sop_instance_uid, "%s", sop_instance_uid);
        db_text(statement, 0, object->name, sizeof object->name);
        db_text(statement, 1, object->sop_class_uid, sizeof object->sop_class_uid);
        db_text(statement, 2, object->digest, sizeof object->digest);
        db_text(statement, 4, object->sender, sizeof object->sender);
        object->size_bytes = sqlite3_column_int64(statement, 5);
        if (!find_file(spool, object->name, place, path))
            path[0] = '\0';
    }
    sqlite3_finalize(statement);
    return rc;
}

int spool_find_twin(struct spool *spool, const struct spool_object *object, char *path, int *is_there,
                    struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    sqlite3_stmt *statement = db_prepare(spool, why,
                                         "SELECT name, place FROM object WHERE sop_uid=?1 AND digest=?2"
                                         " ORDER BY place='aside' LIMIT 1",
                                         "tt", object->sop_instance_uid, object->digest);
    if (statement == NULL)
        return why->fault;
    int rc = db_step(spool, statement, why);
    if (rc == 1) {
        char name[SPOOL_NAME_SIZE], place[8];
        db_text(statement, 0, name, sizeof name);
        db_text(statement, 1, place, sizeof place);
        *is_there = find_file(spool, name, place, path);
        if (!*is_there)
            place_of(spool, name, place, path);
        rc = 0;
    } else if (rc == 0)
        rc = fault_set(why, FAULT_INTERNAL, "no row has the bytes of '%s'", object->name);
    sqlite3_finalize(statement);
    return rc;
}

static int count_missing(struct spool *spool, const char *series_uid, size_t *n, struct fault_note *why)
{
    sqlite3_stmt *statement =
        db_prepare(spool, why, "SELECT name, place FROM object WHERE series_uid=?1", "t", series_uid);
    if (statement == NULL)
        return why->fault;
    int rc;
    *n = 0;
    while ((rc = db_step(spool, statement, why)) == 1) {
        char name[SPOOL_NAME_SIZE], place[8];
        db_text(statement, 0, name, sizeof name);
        db_text(statement, 1, place, sizeof place);
        *n += !is_kept(spool, name, place);
    }
    sqlite3_finalize(statement);
    return rc;
}

// A series that was kept from being processed by a file goes on, unless another is missing. One that had
// been processed whole is not processed again: it would be delivered twice.
static int go_on(struct spool *spool, const char *series_uid, int64_t now_us, struct fault_note *why)
{
    size_t n_missing = 0;
    int rc = count_missing(spool, series_uid, &n_missing, why);
    if (rc != 0 || n_missing > 0)
        return rc;
    return db_run(spool, why,
                  "UPDATE series SET note='', changed_us=?2, state=CASE WHEN EXISTS(SELECT 1 FROM job j"
                  "  WHERE j.series_uid=?1 AND j.state IN ('DONE','REFUSED') AND j.last_object>="
                  "  (SELECT max(id) FROM object o WHERE o.series_uid=?1 AND o.place='store'))"
                  " THEN 'QUEUED' ELSE 'GATHERING' END WHERE series_uid=?1 AND (state='FAILED' OR"
                  "  (state='QUEUED' AND (SELECT j.state FROM job j WHERE j.series_uid=?1"
                  "   ORDER BY j.id DESC LIMIT 1)='FAILED'))",
                  "ti", series_uid, now_us);
}

int spool_mended(struct spool *spool, const char *series_uid, int64_t now_us, struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    // What came again stays as long as what came now.
    rc = db_run(spool, why, "UPDATE series SET changed_us=?2 WHERE series_uid=?1 AND state='QUEUED'", "ti",
                series_uid, now_us);
    if (rc == 0)
        rc = keep_series(spool, series_uid, why);
    if (rc == 0)
        rc = go_on(spool, series_uid, now_us, why);
    return db_end(spool, rc, why);
}

// FAILED series, each asked whether its files are back: by a hand, or by a sender just before a crash.
static int revive(struct spool *spool, int64_t now_us, struct fault_note *why)
{
    int64_t id = 0;
    for (;;) {
        char series_uid[UID_SIZE] = "";
        sqlite3_stmt *statement =
            db_prepare(spool, why,
                       "SELECT id, series_uid FROM series WHERE state='FAILED' AND id>?1"
                       " AND series_uid NOT IN (SELECT series_uid FROM purging) ORDER BY id LIMIT 1",
                       "i", id);
        if (statement == NULL)
            return why->fault;
        int rc = db_step(spool, statement, why);
        if (rc == 1) {
            id = sqlite3_column_int64(statement, 0);
            db_text(statement, 1, series_uid, sizeof series_uid);
        }
        sqlite3_finalize(statement);
        if (rc == 1)
            rc = go_on(spool, series_uid, now_us, why);
        else
            return rc;
        if (rc != 0)
            return rc;
    }
}

int spool_check_files(struct spool *spool, int64_t now_us, size_t *n_lost, struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    *n_lost = 0;
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    sqlite3_stmt *statement = db_prepare(spool, why,
                                         "SELECT name, place, series_uid FROM object"
                                         " WHERE series_uid NOT IN (SELECT series_uid FROM purging)",
                                         "");
    if (statement == NULL)
        return db_end(spool, why->fault, why);
    while ((rc = db_step(spool, statement, why)) == 1) {
        char name[SPOOL_NAME_SIZE], place[8], series_uid[UID_SIZE];
        db_text(statement, 0, name, sizeof name);
        db_text(statement, 1, place, sizeof place);
        db_text(statement, 2, series_uid, sizeof series_uid);
        if (is_kept(spool, name, place))
            continue;
        ++*n_lost;
        rc = db_run(spool, why,
                    "UPDATE series SET state='FAILED', note='LOST_FILE: ' || ?2 WHERE series_uid=?1 AND "
                    "state<>'CONFLICT'",
                    "tt", series_uid, name);
        if (rc != 0)
            break;
    }
    sqlite3_finalize(statement);
    if (rc == 0)
        rc = revive(spool, now_us, why);
    return db_end(spool, rc, why);
}

// ---- quotas

int spool_usage(struct spool *spool, const char *sender, int64_t now_us, int64_t *n_bytes, int64_t *n_open,
                void (*each)(void *user, const char *series_uid), void *user, struct fault_note *why)
{
    static const int64_t day_us = 86400 * INT64_C(1000000);
    struct fault_note local;
    why = why ? why : &local;
    *n_open = 0;
    int rc = db_integer(spool, why, n_bytes, 0,
                        "SELECT sum(size) FROM object WHERE sender=?1 AND received_us>?2 AND received_us<=?3",
                        "tii", sender, now_us - day_us, now_us + SPOOL_CLOCK_SLACK_S * INT64_C(1000000));
    if (rc != 0)
        return rc;
    sqlite3_stmt *statement = db_prepare(
        spool, why, "SELECT series_uid FROM series WHERE state='GATHERING' AND sender=?1 ORDER BY id", "t",
        sender);
    if (statement == NULL)
        return why->fault;
    while ((rc = db_step(spool, statement, why)) == 1) {
        char series_uid[UID_SIZE];
        db_text(statement, 0, series_uid, sizeof series_uid);
        each(user, series_uid);
        ++*n_open;
    }
    sqlite3_finalize(statement);
    return rc;
}

// ---- purging

static int remove_named(struct spool *spool, enum spool_folder folder, const char *name,
                        struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE + 280];
    snprintf(path, sizeof path, "%s/%s", spool->folders[folder], name);
    return file_remove_tree(path, why);
}

// Runs `sql` (one text column: a name) and removes each.
static int remove_all(struct spool *spool, const char *sql, const char *series_uid,
                      int (*each)(struct spool *spool, const char *name, struct fault_note *why),
                      struct fault_note *why)
{
    sqlite3_stmt *statement = db_prepare(spool, why, sql, "t", series_uid);
    if (statement == NULL)
        return why->fault;
    int rc;
    while ((rc = db_step(spool, statement, why)) == 1) {
        char name[SPOOL_NAME_SIZE];
        db_text(statement, 0, name, sizeof name);
        rc = each(spool, name, why);
        if (rc < 0)
            break;
    }
    sqlite3_finalize(statement);
    return rc;
}

static int remove_store(struct spool *spool, const char *name, struct fault_note *why)
{
    return remove_named(spool, SPOOL_STORE, name, why);
}

static int remove_aside(struct spool *spool, const char *name, struct fault_note *why)
{
    return remove_named(spool, SPOOL_ASIDE, name, why);
}

int spool_remove_of_job(struct spool *spool, enum spool_folder folder, const char *job,
                        int (*is_kept)(void *user, const char *name), void *user, size_t *n_removed,
                        struct fault_note *why)
{
    DIR *dir = opendir(spool->folders[folder]);
    size_t n = strlen(job);
    struct dirent *entry;
    int rc = 0;
    if (dir == NULL)
        return fault_set_errno(why, errno, "cannot open directory '%s'", spool->folders[folder]);
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (strncmp(entry->d_name, job, n) != 0 || entry->d_name[n] != '-')
            continue;
        if (is_kept != NULL && is_kept(user, entry->d_name))
            continue;
        rc = remove_named(spool, folder, entry->d_name, why);
        *n_removed += rc == 0;
    }
    closedir(dir);
    return rc;
}

// All that a job made, with a row or without: a worker publishes before it writes the rows, and may end in
// between.
static int remove_made(struct spool *spool, const char *name, struct fault_note *why)
{
    static const enum spool_folder folders[] = {SPOOL_DERIVED, SPOOL_REPORTS, SPOOL_WORK};
    size_t n = 0;
    int rc = 0;
    for (size_t i = 0; i < sizeof folders / sizeof folders[0] && rc == 0; i++)
        rc = spool_remove_of_job(spool, folders[i], name, NULL, NULL, &n, why);
    return rc;
}

// Its files first, gone for good before its rows are: the other way round files of patients would stay for
// ever. A crash in between leaves the series in `purging`, to be gone on with.
static int purge_series(struct spool *spool, const char *series_uid, struct fault_note *why)
{
    static const struct {
        const char *names; // a query
        int (*each)(struct spool *spool, const char *name, struct fault_note *why);
    } files[] = {
        {"SELECT 'j' || id FROM job WHERE series_uid=?1", remove_made},
        {"SELECT name FROM object WHERE series_uid=?1 AND place='store'", remove_store},
        {"SELECT name FROM object WHERE series_uid=?1 AND place='aside'", remove_aside},
    };
    static const enum spool_folder folders[] = {SPOOL_DERIVED, SPOOL_REPORTS, SPOOL_WORK, SPOOL_STORE,
                                                SPOOL_ASIDE};
    static const char *const tables[] = {"object", "told", "job", "series", "purging"};
    int rc = 0;
    for (size_t i = 0; i < sizeof files / sizeof files[0] && rc == 0; i++)
        rc = remove_all(spool, files[i].names, series_uid, files[i].each, why);
    for (size_t i = 0; i < sizeof folders / sizeof folders[0] && rc == 0; i++)
        rc = file_sync_directory(spool->folders[folders[i]], why);
    if (rc == 0)
        rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0] && rc == 0; i++) {
        char sql[64];
        snprintf(sql, sizeof sql, "DELETE FROM %s WHERE series_uid=?1", tables[i]);
        rc = db_run(spool, why, sql, "t", series_uid);
    }
    return db_end(spool, rc, why);
}

// Whether a fault is of one series only, and others can still be purged.
static int is_of_one(int rc)
{
    return rc != 0 && rc != FAULT_QUEUE && rc != FAULT_NO_MEMORY;
}

// One of which a file cannot be removed stays, and keeps no other: *failed is the first such fault.
static int purge_or_note(struct spool *spool, const char *series_uid, size_t *n_series,
                         struct fault_note *failed, struct fault_note *why)
{
    int rc = purge_series(spool, series_uid, why);
    *n_series += rc == 0;
    if (is_of_one(rc)) {
        if (failed->fault == FAULT_OK)
            fault_set(failed, (enum fault)rc, "series '%s': %.300s", series_uid, why->text);
        rc = 0;
    }
    return rc;
}

static int purge_begun(struct spool *spool, size_t *n_series, struct fault_note *failed,
                       struct fault_note *why)
{
    char series_uid[UID_SIZE] = "";
    for (;;) {
        sqlite3_stmt *next = db_prepare(
            spool, why, "SELECT series_uid FROM purging WHERE series_uid>?1 ORDER BY series_uid LIMIT 1", "t",
            series_uid);
        int rc = db_first_text(spool, next, series_uid, sizeof series_uid, why);
        if (rc != 0 || series_uid[0] == '\0')
            return rc;
        rc = purge_or_note(spool, series_uid, n_series, failed, why);
        if (rc != 0)
            return rc;
    }
}

// Quiet for long enough, every job answered, every delivery confirmed, nothing in conflict: goes into
// `purging`. series_uid is empty when there is none.
static int begin_purge(struct spool *spool, int64_t before_us, char series_uid[UID_SIZE],
                       struct fault_note *why)
{
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    sqlite3_stmt *next =
        db_prepare(spool, why,
                   "SELECT series_uid FROM series s WHERE state='QUEUED' AND changed_us<?1"
                   " AND series_uid NOT IN (SELECT series_uid FROM purging)"
                   " AND NOT EXISTS(SELECT 1 FROM job j WHERE j.series_uid=s.series_uid"
                   "  AND (j.state NOT IN ('DONE','REFUSED') OR j.changed_us>=?1))"
                   " AND NOT EXISTS(SELECT 1 FROM job j JOIN result r ON r.job_id=j.id JOIN delivery d"
                   "  ON d.result_id=r.id WHERE j.series_uid=s.series_uid"
                   "  AND (d.state<>'SENT' OR d.changed_us>=?1)) LIMIT 1",
                   "i", before_us);
    rc = db_first_text(spool, next, series_uid, UID_SIZE, why);
    if (rc == 0 && series_uid[0] != '\0')
        rc = db_run(spool, why, "INSERT INTO purging VALUES(?1)", "t", series_uid);
    return db_end(spool, rc, why);
}

static int end_purge(int rc, const struct fault_note *failed, struct fault_note *why)
{
    return rc == 0 && failed->fault != FAULT_OK ? fault_set(why, failed->fault, "%s", failed->text) : rc;
}

int spool_purge_rest(struct spool *spool, size_t *n_series, struct fault_note *why)
{
    struct fault_note local, failed = {0};
    why = why ? why : &local;
    *n_series = 0;
    return end_purge(purge_begun(spool, n_series, &failed, why), &failed, why);
}

int spool_purge(struct spool *spool, int64_t keep_days, int64_t now_us, size_t *n_series,
                struct fault_note *why)
{
    struct fault_note local, failed = {0};
    char series_uid[UID_SIZE] = "";
    why = why ? why : &local;
    *n_series = 0;
    int rc = purge_begun(spool, n_series, &failed, why);
    while (rc == 0 && keep_days > 0) {
        rc = begin_purge(spool, now_us - keep_days * 86400 * 1000000, series_uid, why);
        if (rc != 0 || series_uid[0] == '\0')
            break;
        rc = purge_or_note(spool, series_uid, n_series, &failed, why);
    }
    return end_purge(rc, &failed, why);
}
