// SPDX-License-Identifier: Apache-2.0
#include "scp/indexer.h"

#include "core/clock.h"
#include "core/file.h"
#include "core/log.h"
#include "dicom_map/prescan.h"
#include "scp/association.h"
#include "scp/commitment.h"
#include "scp/complaint.h"
#include "scp/later.h"
#include "scp/object.h"
#include "scp/quota.h"
#include "spool/seal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    POLL_MS = 200,
    PURGE_INTERVAL_S = 3600,
    HIDDEN_KEEP_S = 3600,
    GROUP_FILES = 128,
    BUSY_US = 300 * 1000,
    BUSY_ROUNDS = 10,
    USAGE_INTERVAL_S = 10,
    TIMES_INTERVAL_S = 5,
    REMOVE_INTERVAL_S = 2,
    RETRY_S = 5,
    TROUBLE_INTERVAL_S = 60
};

static struct complaint trouble; // with single files, of the round in hand
static struct later later;

// One association's folder as a round finds it.
struct folder {
    char name[64];
    char path[SPOOL_PATH_SIZE];
    char sender[ASSOCIATION_SENDER_SIZE];
    int is_open; // its process holds the lock
};

struct folders {
    struct folder *items;
    size_t n;
};

// What is wrong with one file or folder is said and keeps no other: it is tried again after a while. What is
// wrong with the queue, the disk's room or memory ends the round.
static int pass_over(int rc, const char *path, const struct fault_note *why)
{
    if (rc == 0 || rc == FAULT_QUEUE || rc == FAULT_NO_SPACE || rc == FAULT_NO_MEMORY)
        return rc;
    complaint_add(&trouble, "indexing: %s: %s; it is tried again, the others go on",
                  fault_name((enum fault)rc), why->text);
    if (path != NULL)
        later_add(&later, path, RETRY_S);
    return 0;
}

static void read_folder(struct folder *folder)
{
    char path[SPOOL_PATH_SIZE + 16];
    void *sender = NULL;
    size_t size;
    int fd = open(folder->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        folder->is_open = flock(fd, LOCK_EX | LOCK_NB) != 0;
        close(fd);
    }
    snprintf(path, sizeof path, "%s/%s", folder->path, ASSOCIATION_SENDER_FILE);
    if (file_read(path, ASSOCIATION_SENDER_SIZE - 1, &sender, &size, NULL) == 0)
        snprintf(folder->sender, sizeof folder->sender, "%s", (const char *)sender);
    free(sender);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct folder *)a)->name, ((const struct folder *)b)->name);
}

// A folder whose association died before it had its name: it never held an object.
static void remove_old_hidden(const char *incoming, const char *name)
{
    char path[SPOOL_PATH_SIZE];
    struct stat st;
    if (file_join(path, sizeof path, incoming, name, NULL) == 0 && stat(path, &st) == 0 &&
        clock_wall_us() / 1000000 - (int64_t)st.st_mtime > HIDDEN_KEEP_S)
        file_remove_tree(path, NULL); // tried again next round if it fails
}

static int list_folders(const struct spool *spool, struct folders *folders, struct fault_note *why)
{
    const char *incoming = spool_folder(spool, SPOOL_INCOMING);
    DIR *dir = opendir(incoming);
    if (dir == NULL)
        return fault_set_errno(why, errno, "cannot open directory '%s'", incoming);
    int rc = 0;
    size_t room = 0;
    struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (strncmp(entry->d_name, ".a", 2) == 0)
            remove_old_hidden(incoming, entry->d_name);
        if (entry->d_name[0] != 'a' || strlen(entry->d_name) >= sizeof folders->items->name)
            continue;
        if (folders->n == room) {
            room = room ? 2 * room : 16;
            struct folder *grown = realloc(folders->items, room * sizeof *grown);
            if (grown == NULL) {
                rc = fault_set(why, FAULT_NO_MEMORY, "cannot list %zu folders", room);
                break;
            }
            folders->items = grown;
        }
        struct folder *folder = &folders->items[folders->n];
        memset(folder, 0, sizeof *folder);
        snprintf(folder->name, sizeof folder->name, "%s", entry->d_name);
        rc = file_join(folder->path, sizeof folder->path, incoming, entry->d_name, why);
        read_folder(folder);
        folders->n++;
    }
    closedir(dir);
    if (rc == 0 && folders->n > 1)
        qsort(folders->items, folders->n, sizeof *folders->items, by_name);
    return rc;
}

static int is_open(void *user, const char *sender)
{
    const struct folders *folders = user;
    for (size_t i = 0; i < folders->n; i++)
        if (folders->items[i].is_open && strcmp(folders->items[i].sender, sender) == 0)
            return 1;
    return 0;
}

// What came again takes the place of what was lost or damaged: the bytes first, then the row. A crash before
// the rename leaves it where it is found again; after it, reconciliation finds the series whole.
static int replace_kept(struct spool *spool, const char *path, const struct spool_object *object, char *kept,
                        struct indexer_round *round, struct fault_note *why)
{
    if (file_ops.rename(path, kept) != 0)
        return fault_set_errno(why, errno, "cannot move '%s'", path);
    *strrchr(kept, '/') = '\0';
    int rc = file_sync_directory(kept, why);
    if (rc == 0)
        rc = spool_mended(spool, object->series_uid, clock_wall_us(), why);
    round->is_unsettled |= rc != 0;
    return rc;
}

// A duplicate may be the only copy: it is dropped when the kept one has been read and is right.
static int settle_duplicate(struct spool *spool, const struct conf *conf, const char *path,
                            const struct spool_object *object, struct indexer_round *round,
                            struct fault_note *why)
{
    char kept[SPOOL_PATH_SIZE + SPOOL_NAME_SIZE];
    struct fault_note wrong = {0};
    int is_there = 0;
    int rc = spool_find_twin(spool, object, kept, &is_there, why);
    if (rc != 0)
        return rc;
    int is_right =
        is_there ? object_has_digest(kept, (size_t)conf_largest_object(conf), object->digest, &wrong) : 0;
    if (is_right < 0)
        return fault_set(why, wrong.fault, "%s", wrong.text);
    if (is_right)
        return file_ops.unlink(path) == 0 || errno == ENOENT
                   ? 0
                   : fault_set_errno(why, errno, "cannot remove '%s'", path);
    rc = replace_kept(spool, path, object, kept, round, why);
    if (rc == 0 && !is_there)
        log_warning("series '%s': instance '%s', which was lost, came again", object->series_uid,
                    object->sop_instance_uid);
    else if (rc == 0)
        log_error("series '%s': instance '%s', which was damaged (%s), came again; what was derived from it "
                  "before may be wrong, 'isoslice queue retry' of the job makes it anew",
                  object->series_uid, object->sop_instance_uid, wrong.text);
    return rc;
}

// Where an indexed file belongs. Moving needs no sync: found in the old place after a crash, it is moved
// again.
static int move_file(struct spool *spool, const struct conf *conf, const char *path,
                     const struct spool_object *object, enum spool_verdict verdict,
                     struct indexer_round *round, struct fault_note *why)
{
    char to[SPOOL_PATH_SIZE + SPOOL_NAME_SIZE];
    if (verdict == SPOOL_DUPLICATE)
        return settle_duplicate(spool, conf, path, object, round, why);
    int aside = verdict == SPOOL_CONFLICT || verdict == SPOOL_KNOWN_ASIDE;
    int rc =
        file_join(to, sizeof to, spool_folder(spool, aside ? SPOOL_ASIDE : SPOOL_STORE), object->name, why);
    if (rc == 0 && file_ops.rename(path, to) != 0)
        rc = fault_set_errno(why, errno, "cannot move '%s'", path);
    return rc;
}

// Files that were read and become rows together, and are moved together.
struct group {
    struct pending {
        char path[SPOOL_PATH_SIZE + 280];
        struct spool_object object;
        enum spool_verdict verdict;
        int was_going; // its series was being removed
    } items[GROUP_FILES];
    size_t n;
};

static int index_pending(struct spool *spool, struct pending *pending, struct fault_note *why)
{
    int rc = spool_is_going(spool, pending->object.series_uid, &pending->was_going, why);
    return rc != 0 ? rc : spool_index(spool, &pending->object, clock_wall_us(), &pending->verdict, why);
}

static void say_indexed(const struct pending *pending, struct indexer_round *round)
{
    const struct spool_object *object = &pending->object;
    round->n_new += pending->verdict == SPOOL_NEW;
    round->n_duplicate += pending->verdict == SPOOL_DUPLICATE;
    round->n_conflict += pending->verdict == SPOOL_CONFLICT;
    if (pending->verdict == SPOOL_CONFLICT)
        log_error("conflict: other bytes came under the known SOP Instance UID '%s'; kept aside, series '%s' "
                  "is held",
                  object->sop_instance_uid, object->series_uid);
    if (pending->was_going && (pending->verdict == SPOOL_NEW || pending->verdict == SPOOL_CONFLICT))
        log_error("series '%s' was to be removed, but another image of it came before it was gone: it stays, "
                  "'isoslice queue remove' removes all of it",
                  object->series_uid);
}

static int end_group(struct spool *spool, const struct conf *conf, struct group *group,
                     struct indexer_round *round, struct fault_note *why)
{
    size_t n = group->n;
    group->n = 0;
    int rc = n > 0 ? spool_group_begin(spool, why) : 0;
    if (n == 0 || rc != 0)
        return rc;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = index_pending(spool, &group->items[i], why);
    rc = spool_group_end(spool, rc, why);
    for (size_t i = 0; i < n && rc == 0; i++) {
        const struct pending *pending = &group->items[i];
        say_indexed(pending, round);
        if (pending->verdict == SPOOL_LATER) {
            later_add(&later, pending->path, REMOVE_INTERVAL_S);
            continue;
        }
        rc = move_file(spool, conf, pending->path, &pending->object, pending->verdict, round, why);
        rc = pass_over(rc, pending->path, why);
    }
    return rc;
}

static int index_file(struct spool *spool, const struct conf *conf, const struct folder *folder,
                      const char *file, struct group *group, struct indexer_round *round,
                      struct fault_note *why)
{
    struct pending *pending = &group->items[group->n];
    struct spool_object *object = &pending->object;
    struct prescan scan;
    struct stat st;
    memset(pending, 0, sizeof *pending);
    snprintf(pending->path, sizeof pending->path, "%s/%s", folder->path, file);
    snprintf(object->name, sizeof object->name, "%s-%.24s", folder->name, file);
    int rc = prescan_file(pending->path, (size_t)conf_largest_object(conf), &scan, why);
    if (rc == FAULT_IO || rc == FAULT_NO_MEMORY)
        return rc;
    if (rc != 0) { // it was sound when it was acknowledged: kept, and said
        char bad[SPOOL_PATH_SIZE + 284];
        log_error("received object '%s' can no longer be read, kept as '.bad': %s", object->name, why->text);
        snprintf(bad, sizeof bad, "%s.bad", pending->path);
        round->n_bad++;
        return file_ops.rename(pending->path, bad) == 0
                   ? 0
                   : fault_set_errno(why, errno, "cannot rename '%s'", pending->path);
    }
    snprintf(object->sop_class_uid, sizeof object->sop_class_uid, "%s", scan.sop_class_uid);
    snprintf(object->sop_instance_uid, sizeof object->sop_instance_uid, "%s", scan.sop_instance_uid);
    snprintf(object->series_uid, sizeof object->series_uid, "%s", scan.series_uid);
    snprintf(object->study_uid, sizeof object->study_uid, "%s", scan.study_uid);
    snprintf(object->digest, sizeof object->digest, "%s", scan.digest);
    snprintf(object->sender, sizeof object->sender, "%s",
             scan.source_ae[0] ? scan.source_ae : folder->sender);
    object->geometry = (struct spool_geometry){
        .has_plane = scan.has_plane,
        .normal = {scan.normal[0], scan.normal[1], scan.normal[2]},
        .z_mm = scan.z_mm,
        .has_number = scan.has_number,
        .number = scan.number,
        .has_acquisition = scan.has_acquisition,
        .acquisition = scan.acquisition,
        .n_expected = scan.images_in_acquisition,
    };
    object->size_bytes = stat(pending->path, &st) == 0 ? (int64_t)st.st_size : 0;
    group->n++;
    return group->n == GROUP_FILES ? end_group(spool, conf, group, round, why) : 0;
}

// A temporary file of an association that is over. Whole, it may have been acknowledged and lost its final
// name in a crash: it gets it again, and the next round finds it. Else it never was.
static int settle_temporary(const struct folder *folder, const char *file, int *is_kept,
                            struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE + 280], final[SPOOL_PATH_SIZE + 280];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", folder->path, file);
    snprintf(final, sizeof final, "%s/%.*s.dcm", folder->path, (int)(strlen(file) - strlen(".tmp")), file);
    int rc = stat(path, &st) == 0 && st.st_size > 0 ? seal_is_whole(path, why) : 0;
    if (rc < 0)
        return rc;
    *is_kept = rc;
    if (rc == 0) {
        file_ops.unlink(path); // tried again next round if it fails
        return 0;
    }
    log_info("association %s: '%s' is whole, taken over after a crash", folder->name, file);
    return file_ops.rename(path, final) == 0 ? 0 : fault_set_errno(why, errno, "cannot rename '%s'", path);
}

static int has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0;
}

// One name in an association's folder; *is_left = 1 when it stays there for now.
static int index_entry(struct spool *spool, const struct conf *conf, const struct folder *folder,
                       const char *name, struct group *group, struct indexer_round *round, int *is_left,
                       struct fault_note *why)
{
    if (has_suffix(name, ".dcm"))
        return index_file(spool, conf, folder, name, group, round, why);
    if (has_suffix(name, COMMITMENT_REQUEST_SUFFIX))
        return commitment_take(spool, folder->name, folder->path, name, why);
    if (has_suffix(name, COMMITMENT_REPORTED_SUFFIX))
        return commitment_end(spool, folder->name, folder->path, name, why);
    if (has_suffix(name, COMMITMENT_TOLD_SUFFIX))
        return commitment_told(spool, conf, folder->name, folder->path, name, why);
    if (!folder->is_open && has_suffix(name, ".tmp"))
        return settle_temporary(folder, name, is_left, why);
    if (!folder->is_open && (has_suffix(name, COMMITMENT_OUTCOME_SUFFIX) ||
                             strcmp(name, ASSOCIATION_SENDER_FILE) == 0 || strcmp(name, QUOTA_FILE) == 0)) {
        char path[SPOOL_PATH_SIZE + 280];
        snprintf(path, sizeof path, "%s/%s", folder->path, name);
        file_ops.unlink(path); // of no use any more; tried again next round if it fails
        return 0;
    }
    *is_left = 1;
    return 0;
}

static int index_folder(struct spool *spool, const struct conf *conf, const struct folder *folder,
                        struct group *group, struct indexer_round *round, struct fault_note *why)
{
    if (later_waits(&later, folder->path))
        return 0;
    DIR *dir = opendir(folder->path);
    if (dir == NULL && errno == ENOENT)
        return 0;
    if (dir == NULL)
        return pass_over(fault_set_errno(why, errno, "cannot open directory '%s'", folder->path),
                         folder->path, why);
    int rc = 0, n_left = 0;
    struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        char path[SPOOL_PATH_SIZE + 280];
        int is_left = 0;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder->path, entry->d_name);
        if (later_waits(&later, path))
            is_left = 1;
        else
            rc = pass_over(index_entry(spool, conf, folder, entry->d_name, group, round, &is_left, why), path,
                           why);
        n_left += is_left;
    }
    closedir(dir);
    if (rc == 0)
        rc = end_group(spool, conf, group, round, why);
    if (rc == 0 && !folder->is_open && n_left == 0)
        rmdir(folder->path); // not empty after all: next round
    return rc;
}

static int association_is_open(void *user, const char *name)
{
    const struct folders *folders = user;
    for (size_t i = 0; i < folders->n; i++)
        if (strcmp(folders->items[i].name, name) == 0)
            return folders->items[i].is_open;
    return 0;
}

static void say_made(void *user, const struct spool_gathered *made)
{
    (void)user;
    log_info("series '%s': %lld images become a job: %s", made->series_uid, (long long)made->n_objects,
             made->because);
    if (made->n_late > 0)
        log_warning(
            "series '%s': %lld images are late: an earlier job went without them, this one makes another "
            "derived series",
            made->series_uid, (long long)made->n_late);
}

// A clock that was put right: what waits for the future would wait long, and in silence.
static int put_times_right(struct spool *spool, const struct conf *conf, struct fault_note *why)
{
    static double next_s;
    const struct spool_longest longest = {
        .pause_s = fmax(SPOOL_PAUSE_MAX_S, conf->retry_max_s),
        .lease_s = fmax(conf->lease_s, 2 * (conf->connect_timeout_s + conf->dimse_timeout_s))};
    size_t n_rows;
    if (clock_monotonic_s() < next_s)
        return 0;
    int rc = spool_put_times_right(spool, &longest, clock_wall_us(), &n_rows, why);
    if (rc == 0)
        next_s = clock_monotonic_s() + TIMES_INTERVAL_S;
    if (rc == 0 && n_rows > 0)
        log_warning("the clock was put back: %zu rows of the queue lay in the future, and wait from now on",
                    n_rows);
    return rc;
}

static int gather(struct spool *spool, const struct conf *conf, struct folders *folders,
                  struct indexer_round *round, struct fault_note *why)
{
    const struct spool_rules rules = {.quiet_s = conf->quiet_s,
                                      .incomplete_s = conf->incomplete_s,
                                      .is_open = is_open,
                                      .made = say_made,
                                      .user = folders};
    return spool_gather(spool, &rules, clock_wall_us(), &round->n_jobs, why);
}

// After what may have changed it, and now and then because a day goes by.
static int publish_usage(struct spool *spool, const struct conf *conf, const struct folders *folders,
                         const struct indexer_round *round, struct fault_note *why)
{
    static double next_s;
    if (clock_monotonic_s() < next_s && round->n_new + round->n_conflict + round->n_jobs == 0)
        return 0;
    int rc = quota_publish(spool, conf, clock_wall_us(), why);
    for (size_t i = 0; i < folders->n && rc == 0; i++)
        if (folders->items[i].is_open)
            rc = quota_pass_on(spool, conf, folders->items[i].sender, folders->items[i].path, why);
    if (rc == 0)
        next_s = clock_monotonic_s() + USAGE_INTERVAL_S;
    return rc;
}

// A folder that files come into right now has its turn every BUSY_ROUNDS rounds only: rows can wait, the
// processor is the senders'.
static int is_busy(const struct folder *folder)
{
    struct stat st;
    if (!folder->is_open || stat(folder->path, &st) != 0)
        return 0;
    int64_t age_us = clock_wall_us() - ((int64_t)st.st_mtim.tv_sec * 1000000 + st.st_mtim.tv_nsec / 1000);
    return age_us >= 0 && age_us < BUSY_US;
}

int indexer_round(struct spool *spool, const struct conf *conf, struct indexer_round *round,
                  struct fault_note *why)
{
    // Open or not is read first: a folder seen closed shows all of its files below.
    struct folders folders = {0};
    struct group *group = calloc(1, sizeof *group);
    memset(round, 0, sizeof *round);
    trouble.n = 0;
    later_forget(&later);
    if (group == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold a group of objects");
    int rc = list_folders(spool, &folders, why);
    static unsigned n_rounds;
    int all = n_rounds++ % BUSY_ROUNDS == 0;
    for (size_t i = 0; i < folders.n && rc == 0; i++)
        if (all || !is_busy(&folders.items[i]))
            rc = index_folder(spool, conf, &folders.items[i], group, round, why);
    free(group);
    if (rc == 0)
        rc = put_times_right(spool, conf, why);
    if (rc == 0)
        rc = gather(spool, conf, &folders, round, why);
    if (rc == 0)
        rc = pass_over(publish_usage(spool, conf, &folders, round, why), NULL, why);
    if (rc == 0)
        rc = pass_over(
            commitment_round(spool, conf, association_is_open, &folders, &round->n_commitments, why), NULL,
            why);
    complaint_say(&trouble, LOG_LEVEL_ERROR, TROUBLE_INTERVAL_S);
    free(folders.items);
    return rc;
}

// Files without rows. Those of the store first: what is aside came after it, and must find its row.
static int enter_unknown(struct spool *spool, size_t *n_entered, struct fault_note *why)
{
    static const enum spool_folder folders[] = {SPOOL_STORE, SPOOL_ASIDE};
    int rc = 0;
    *n_entered = 0;
    for (size_t i = 0; i < sizeof folders / sizeof folders[0] && rc == 0 && *n_entered == 0; i++) {
        size_t n_left = 0;
        rc = spool_enter_unknown(spool, folders[i], n_entered, &n_left, why);
        if (*n_entered > 0)
            log_error(
                "%zu files in '%s' are not in the queue: it was lost, or set back; they are taken up again",
                *n_entered, spool_folder(spool, folders[i]));
        if (n_left > 0 && *n_entered == 0) // once
            log_error("%zu files in '%s' are not in the queue and not what was received; they stay there",
                      n_left, spool_folder(spool, folders[i]));
    }
    return rc;
}

// Rows against files, once what a crash left in the incoming folders has been taken up. Not done with while
// files are on their way back into the queue: they may be those that a row misses.
static int reconcile(struct spool *spool, int *is_done, struct fault_note *why)
{
    size_t n_lost, n_entered;
    double start_s = clock_monotonic_s();
    int rc = enter_unknown(spool, &n_entered, why);
    if (rc != 0 || n_entered > 0)
        return rc;
    rc = spool_check_files(spool, clock_wall_us(), &n_lost, why);
    if (rc != 0)
        return rc;
    *is_done = 1;
    log_info("files and rows reconciled in %.1f s", clock_monotonic_s() - start_s);
    if (n_lost > 0)
        log_error("%zu received objects are in the queue but not on the disk; their series are FAILED",
                  n_lost);
    return rc;
}

// What a person wants removed. Looked for often; what cannot be removed is tried again with it, which takes
// no more than a twentieth of the time, and is said once an hour.
static void remove_wanted(struct spool *spool)
{
    static double next_s, next_said_s;
    static char said[sizeof((struct fault_note *)0)->text];
    struct fault_note why;
    size_t n;
    double start_s = clock_monotonic_s();
    if (start_s < next_s)
        return;
    int rc = spool_purge_rest(spool, &n, &why);
    double now_s = clock_monotonic_s();
    next_s = now_s + fmax(REMOVE_INTERVAL_S, 20 * (now_s - start_s));
    if (n > 0)
        log_info("%zu series removed, as a person wanted", n);
    if (rc != 0 && (now_s >= next_said_s || strcmp(said, why.text) != 0)) {
        log_error("a series that is to be removed cannot be: %s", why.text);
        snprintf(said, sizeof said, "%s", why.text);
        next_said_s = now_s + PURGE_INTERVAL_S;
    }
}

// One whose files cannot be removed is no reason to stop: the next purge tries it again.
static int purge(struct spool *spool, const struct conf *conf, size_t *n_purged, struct fault_note *why)
{
    int rc = spool_purge(spool, conf->keep_days, clock_wall_us(), n_purged, why);
    if (rc != FAULT_IO)
        return rc;
    log_error("a series cannot be purged: %s", why->text);
    return 0;
}

int indexer_run(const struct conf *conf, volatile int *stop, struct fault_note *why)
{
    struct spool *spool = NULL;
    struct complaint stopped = {0};
    int is_reconciled = 0;
    double next_purge_s = 0;
    size_t n_rest = 0;
    int rc = spool_open(conf->spool, &spool, why);
    // First of all: to anything else its rows without files look like a loss.
    if (rc == 0 && spool_purge_rest(spool, &n_rest, why) != 0)
        log_error("a purge cannot be ended: %s", why->text);
    if (n_rest > 0)
        log_info("%zu series purged that a stop had left half-way", n_rest);
    while (rc == 0 && !*stop) {
        struct indexer_round round;
        size_t n_purged = 0;
        remove_wanted(spool); // before it could become a job
        int round_rc = indexer_round(spool, conf, &round, why);
        if (round_rc == 0 && clock_monotonic_s() >= next_purge_s) {
            next_purge_s = clock_monotonic_s() + PURGE_INTERVAL_S;
            round_rc = purge(spool, conf, &n_purged, why);
        }
        is_reconciled = is_reconciled && !round.is_unsettled;
        if (round_rc == 0 && !is_reconciled) // after the purge: what was to go anyway is no loss
            round_rc = reconcile(spool, &is_reconciled, why);
        if (round_rc != 0) {
            is_reconciled = 0; // what was put in its place without its row is found so
            complaint_add(&stopped, "indexing: %s: %s", fault_name((enum fault)round_rc), why->text);
            usleep(1000 * 1000);
        }
        complaint_say(&stopped, LOG_LEVEL_ERROR, TROUBLE_INTERVAL_S);
        if (round.n_new + round.n_duplicate + round.n_conflict + round.n_jobs + n_purged > 0)
            log_info("indexed: %zu new, %zu again, %zu in conflict, %zu series complete, %zu purged",
                     round.n_new, round.n_duplicate, round.n_conflict, round.n_jobs, n_purged);
        usleep(POLL_MS * 1000);
    }
    spool_close(spool);
    return rc;
}
