// SPDX-License-Identifier: Apache-2.0
#include "scp/commitment.h"

#include "core/clock.h"
#include "core/file.h"
#include "core/log.h"
#include "scp/complaint.h"
#include "scp/object.h"
#include "scu/promise.h"
#include "spool/commitment.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Seconds between two lines about requests that cannot be read or written.
static const double trouble_interval_s = 600;
// Seconds that an instance unknown to the queue is waited for, and that an open association has to tell an
// outcome.
static const double unknown_wait_s = 5, offer_s = 10;
// Seconds of one round for checking one request, and all of them: meanwhile nothing is indexed.
static const double slice_s = 0.1, round_s = 0.5;

struct round {
    struct spool *spool;
    const struct conf *conf;
    int (*is_open)(void *user, const char *association);
    void *user;
    int64_t now_us;
    double until_s; // monotonic; no check is begun later
    size_t n_checked;
};

static struct complaint trouble; // with single requests, of the round in hand

// ---- between an association's folder and the spool

static int remove_file(const char *path, struct fault_note *why)
{
    if (file_ops.unlink(path) != 0 && errno != ENOENT)
        return fault_set_errno(why, errno, "cannot remove '%s'", path);
    return 0;
}

// "A/7.reported" belongs to "A-7.commit".
static void spool_path(const struct spool *spool, const char *association, const char *file,
                       char path[SPOOL_PATH_SIZE + 128])
{
    snprintf(path, SPOOL_PATH_SIZE + 128, "%s/%s-%.*s%s", spool_folder(spool, SPOOL_COMMITMENTS), association,
             (int)strcspn(file, "."), file, COMMITMENT_REQUEST_SUFFIX);
}

// Written whole or not at all, so that what cannot be read is somebody's hand: kept, and said.
static int put_aside(const char *path, const struct fault_note *note, struct fault_note *why)
{
    char bad[SPOOL_PATH_SIZE + 284];
    log_error("a commitment cannot be read, kept as '.bad': %s", note->text);
    snprintf(bad, sizeof bad, "%s.bad", path);
    return file_ops.rename(path, bad) == 0 ? 0 : fault_set_errno(why, errno, "cannot rename '%s'", path);
}

int commitment_take(const struct spool *spool, const char *association, const char *folder, const char *file,
                    struct fault_note *why)
{
    char from[SPOOL_PATH_SIZE + 280], to[SPOOL_PATH_SIZE + 128];
    struct spool_commitment request, known;
    snprintf(from, sizeof from, "%s/%s", folder, file);
    spool_path(spool, association, file, to);
    int rc = spool_commitment_read(from, &request, why);
    if (rc == FAULT_BAD_HEADER)
        return put_aside(from, why, why);
    if (rc != 0)
        return rc;
    if (spool_commitment_read(to, &known, NULL) == 0) // from before a crash
        spool_commitment_done(&known);
    else
        rc = spool_commitment_write(to, &request, why);
    if (rc == 0)
        rc = remove_file(from, why);
    if (rc == 0)
        log_info("commitment %s-%.*s: '%s' asks for %zu instances, transaction '%s'", association,
                 (int)strcspn(file, "."), file, request.sender, request.request.n,
                 request.request.transaction_uid);
    spool_commitment_done(&request);
    return rc;
}

// The delivery that a report is about, if it came from whom it is of.
static int find_promise(struct spool *spool, const struct conf *conf, const char *association,
                        const struct spool_commitment *report, struct spool_promise *promise, int *found,
                        struct fault_note *why)
{
    int rc = spool_promise_find(spool, report->request.transaction_uid, promise, found, why);
    if (rc != 0)
        return rc;
    if (!*found) {
        log_info("association %s: a report of '%s' is about transaction '%s', which nobody waits for",
                 association, report->sender, report->request.transaction_uid);
        return 0;
    }
    const struct conf_destination *destination = conf_find_destination(conf, promise->destination);
    if (destination == NULL || strcmp(destination->ae_title, report->sender) != 0) {
        log_warning("association %s: '%s' reports a commitment that '%s' was asked for; not believed",
                    association, report->sender, promise->destination);
        *found = 0;
    }
    return 0;
}

int commitment_told(struct spool *spool, const struct conf *conf, const char *association, const char *folder,
                    const char *file, struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE + 280];
    struct spool_commitment report;
    struct spool_promise promise;
    struct fault_note note = {0};
    int found = 0;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int rc = spool_commitment_read(path, &report, &note);
    if (rc == FAULT_BAD_HEADER)
        return put_aside(path, &note, why);
    if (rc != 0)
        return fault_set(why, (enum fault)rc, "%s", note.text);
    rc = find_promise(spool, conf, association, &report, &promise, &found, why);
    if (rc == 0 && found)
        rc = promise_settle(spool, conf, &promise, &report.request, why);
    if (rc == FAULT_LEASE_LOST) // a person's hand was between
        rc = 0;
    if (rc == 0)
        rc = remove_file(path, why);
    spool_commitment_done(&report);
    return rc;
}

int commitment_end(const struct spool *spool, const char *association, const char *folder, const char *file,
                   struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE + 280], request[SPOOL_PATH_SIZE + 128];
    int n = (int)strcspn(file, ".");
    spool_path(spool, association, file, request);
    int rc = remove_file(request, why);
    snprintf(path, sizeof path, "%s/%.*s%s", folder, n, file, COMMITMENT_OUTCOME_SUFFIX);
    if (rc == 0)
        rc = remove_file(path, why);
    snprintf(path, sizeof path, "%s/%s", folder, file);
    if (rc == 0)
        rc = remove_file(path, why); // last: until then it is done again
    if (rc == 0)
        log_info("commitment %s-%.*s: reported on its own association", association, n, file);
    return rc;
}

// ---- checking

// Whether what lies on the disk is what was received.
static int is_intact(const struct round *round, const struct spool_object *object, const char *path)
{
    struct fault_note why;
    int is_right = object_has_digest(path, (size_t)conf_largest_object(round->conf), object->digest, &why);
    if (is_right != 1)
        log_error("kept object '%s' is damaged: %s", object->name, why.text);
    return is_right == 1;
}

// Fills the item's reason. *waits: the instance is unknown, and may still come.
static int check_item(const struct round *round, struct commitment_item *item, int *waits,
                      struct fault_note *why)
{
    struct spool_object object;
    char path[SPOOL_PATH_SIZE + SPOOL_NAME_SIZE];
    int found, is_disputed;
    int rc =
        spool_find_object(round->spool, item->sop_instance_uid, &object, path, &found, &is_disputed, why);
    if (rc != 0)
        return rc;
    *waits = !found;
    if (!found || path[0] == '\0')
        item->reason = COMMITMENT_NO_SUCH_INSTANCE;
    else if (strcmp(object.sop_class_uid, item->sop_class_uid) != 0)
        item->reason = COMMITMENT_CLASS_CONFLICT;
    else if (is_disputed || !is_intact(round, &object, path)) // a person decides which bytes stand
        item->reason = COMMITMENT_PROCESSING_FAILURE;
    else
        item->reason = COMMITMENT_KEPT;
    return 0;
}

// The next slice of a request: every file is read again, and a request may name ten thousand. *is_done = 0:
// to be gone on with; *has_moved: something to remember.
static int check(const struct round *round, struct spool_commitment *commitment, int *is_done, int *has_moved,
                 struct fault_note *why)
{
    struct commitment *request = &commitment->request;
    int may_wait = (double)(round->now_us - commitment->created_us) < unknown_wait_s * 1e6;
    double until_s = clock_monotonic_s() + slice_s;
    int rc = 0, waits = 0;
    *is_done = *has_moved = 0;
    while (commitment->n_checked < request->n && clock_monotonic_s() < until_s) {
        rc = check_item(round, &request->items[commitment->n_checked], &waits, why);
        if (rc != 0 || (waits && may_wait))
            return rc;
        commitment->n_checked++;
        *has_moved = 1;
    }
    *is_done = commitment->n_checked == request->n;
    return 0;
}

static size_t n_failed(const struct commitment *outcome)
{
    size_t n = 0;
    for (size_t i = 0; i < outcome->n; i++)
        n += outcome->items[i].reason != COMMITMENT_KEPT;
    return n;
}

// "A-7.commit" as association "A" and "7".
static int split_name(const char *name, char association[SPOOL_NAME_SIZE], char number[16])
{
    const char *dash = strchr(name, '-');
    if (dash == NULL || dash - name >= SPOOL_NAME_SIZE)
        return 0;
    snprintf(association, SPOOL_NAME_SIZE, "%.*s", (int)(dash - name), name);
    snprintf(number, 16, "%.*s", (int)strcspn(dash + 1, "."), dash + 1);
    return 1;
}

// isoslice-send passes over it in silence.
static int not_read(int rc, const char *path, const struct fault_note *why)
{
    if (rc == FAULT_NO_MEMORY || (access(path, F_OK) != 0 && errno == ENOENT)) // gone meanwhile
        return rc == FAULT_NO_MEMORY ? rc : 0;
    complaint_add(&trouble, "a commitment request cannot be read, nothing is done about it: %s", why->text);
    return 0;
}

// A slice of the check, and at its end what becomes of the request: offered to the open association, or told
// elsewhere.
static int go_on_checking(struct round *round, const char *path, const char *association, const char *number,
                          int is_open, struct spool_commitment *commitment, struct fault_note *why)
{
    char outcome[SPOOL_PATH_SIZE + 128];
    int is_done = 0, has_moved = 0;
    int rc = check(round, commitment, &is_done, &has_moved, why);
    if (rc == 0 && has_moved && !is_done)
        rc = spool_commitment_write(path, commitment, why);
    if (rc != 0 || !is_done)
        return rc;
    commitment->state = is_open ? SPOOL_COMMITMENT_OFFERED : SPOOL_COMMITMENT_WAITING;
    commitment->changed_us = round->now_us;
    rc = spool_commitment_write(path, commitment, why);
    snprintf(outcome, sizeof outcome, "%s/%s/%s%s", spool_folder(round->spool, SPOOL_INCOMING), association,
             number, COMMITMENT_OUTCOME_SUFFIX);
    if (rc == 0 && is_open && spool_commitment_write(outcome, commitment, why) != 0)
        log_warning("commitment %s-%s: %s", association, number, why->text); // told elsewhere then
    if (rc == 0)
        log_info("commitment %s-%s: %zu of %zu instances are kept", association, number,
                 commitment->request.n - n_failed(&commitment->request), commitment->request.n);
    round->n_checked++;
    return rc;
}

static int look_at(struct round *round, const char *path, const char *name, double *idle_s,
                   struct fault_note *why)
{
    struct spool_commitment commitment;
    char association[SPOOL_NAME_SIZE], number[16];
    if (!split_name(name, association, number))
        return 0;
    int rc = spool_commitment_read(path, &commitment, why);
    if (rc != 0)
        return not_read(rc, path, why);
    int is_open = round->is_open(round->user, association);
    int is_ours =
        commitment.state == SPOOL_COMMITMENT_CHECKING || commitment.state == SPOOL_COMMITMENT_OFFERED;
    if (is_ours && spool_commitment_put_times_right(&commitment, round->conf->retry_max_s, round->now_us))
        rc = spool_commitment_write(path, &commitment, why);
    if (rc == 0 && commitment.state == SPOOL_COMMITMENT_CHECKING) {
        if (clock_monotonic_s() < round->until_s)
            rc = go_on_checking(round, path, association, number, is_open, &commitment, why);
    } else if (rc == 0 && commitment.state == SPOOL_COMMITMENT_OFFERED &&
               (!is_open || (double)(round->now_us - commitment.changed_us) > offer_s * 1e6)) {
        commitment.state = SPOOL_COMMITMENT_WAITING;
        commitment.changed_us = round->now_us;
        rc = spool_commitment_write(path, &commitment, why);
    } else if (!is_ours) {
        *idle_s = INFINITY; // it is with isoslice-send
    }
    spool_commitment_done(&commitment);
    return rc;
}

// One whose file cannot be written keeps no other.
static int one_request(void *user, const char *path, const char *name, double *idle_s, struct fault_note *why)
{
    int rc = look_at(user, path, name, idle_s, why);
    if (rc != FAULT_IO)
        return rc;
    complaint_add(&trouble, "commitment %.*s: %s", (int)strcspn(name, "."), name, why->text);
    return 0;
}

int commitment_round(struct spool *spool, const struct conf *conf,
                     int (*is_open)(void *user, const char *association), void *user, size_t *n_checked,
                     struct fault_note *why)
{
    struct round round = {
        .spool = spool, .conf = conf, .is_open = is_open, .user = user, .now_us = clock_wall_us()};
    round.until_s = clock_monotonic_s() + round_s;
    trouble.n = 0;
    static struct spool_idle idle; // there is one indexer
    int rc = spool_commitment_round(spool, &idle, clock_monotonic_s(), one_request, &round, why);
    complaint_say(&trouble, LOG_LEVEL_ERROR, trouble_interval_s);
    *n_checked = round.n_checked;
    return rc;
}
