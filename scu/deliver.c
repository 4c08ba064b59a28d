// SPDX-License-Identifier: Apache-2.0
#include "scu/deliver.h"

#include "core/clock.h"
#include "core/file.h"
#include "core/log.h"
#include "scu/promise.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { POLL_MS = 300 };

int deliver_credentials(const struct conf *conf, const struct conf_destination *destination, uid_t user,
                        struct credentials **credentials, struct fault_note *why)
{
    struct fault_note note;
    struct credentials_files files = conf_destination_files(conf, destination, user);
    *credentials = NULL;
    if (!destination->tls)
        return 0;
    int rc = credentials_load(&files, credentials, &note);
    return rc == 0 ? 0
                   : fault_set(why, (enum fault)rc, "destination '%s': %.450s", destination->name, note.text);
}

struct dcm_scu_options deliver_options(const struct conf *conf, const struct conf_destination *destination,
                                       const struct credentials *credentials)
{
    return (struct dcm_scu_options){
        .calling_ae = conf->ae_title,
        .called_ae = destination->ae_title,
        .host = destination->host,
        .port = destination->port,
        .connect_timeout_s = conf->connect_timeout_s,
        .dimse_timeout_s = conf->dimse_timeout_s,
        .credentials = destination->tls ? credentials : NULL,
        .certificate_sha256 = destination->certificate_sha256,
        .certificate_name = destination->certificate_name,
    };
}

static double lease_s(const struct conf *conf)
{
    return 2 * (conf->connect_timeout_s + conf->dimse_timeout_s);
}

void deliver_path(const struct spool_delivery *delivery, int64_t index, char *path, size_t size)
{
    snprintf(path, size, "%s/IM%04lld.dcm", delivery->folder, (long long)index + 1);
}

// Sends what is not confirmed. A permanent answer to one object does not keep the others from being sent; a
// temporary one ends the association.
static int send_objects(struct spool *spool, const struct conf *conf, struct dcm_scu *scu, const char *owner,
                        const struct spool_delivery *delivery, volatile int *stop, struct fault_note *outcome,
                        struct fault_note *why)
{
    for (int64_t i = 0; i < delivery->n_objects; i++) {
        char path[SPOOL_PATH_SIZE + 32];
        int sent;
        unsigned status;
        struct fault_note note = {0};
        int rc = spool_delivery_is_sent(spool, delivery->id, i, &sent, why);
        if (rc != 0)
            return rc;
        if (sent)
            continue;
        if (*stop) {
            fault_set(outcome, FAULT_CANCELLED, "stopped after %lld of %lld objects", (long long)i,
                      (long long)delivery->n_objects);
            return 0;
        }
        deliver_path(delivery, i, path, sizeof path);
        int fault = dcm_scu_store(scu, path, &status, &note);
        rc = spool_delivery_record(spool, delivery->id, owner, i, status, fault == 0, lease_s(conf),
                                   clock_wall_us(), why);
        if (rc != 0)
            return rc;
        if (fault == 0) {
            if (status != 0)
                log_warning("delivery d%lld: object %lld stored with warning 0x%04x", (long long)delivery->id,
                            (long long)i + 1, status);
            continue;
        }
        fault_set(outcome, (enum fault)fault, "object %lld of %lld: %s", (long long)i + 1,
                  (long long)delivery->n_objects, note.text);
        if (fault != FAULT_PEER_REFUSED)
            return 0;
    }
    return 0;
}

static void tell(const struct spool_delivery *delivery, const struct fault_note *outcome, int gave_up)
{
    if (outcome->fault == FAULT_OK)
        log_info("delivery d%lld: %lld objects confirmed by '%s'%s%s", (long long)delivery->id,
                 (long long)delivery->n_objects, delivery->destination, outcome->text[0] ? "; " : "",
                 outcome->text);
    else if (fault_class_of(outcome->fault) == FAULT_CLASS_TEMP && !gave_up)
        log_warning("delivery d%lld to '%s' will be tried again: %s", (long long)delivery->id,
                    delivery->destination, outcome->text);
    else
        log_error("delivery d%lld to '%s' is held: %s: %s", (long long)delivery->id, delivery->destination,
                  fault_name(outcome->fault), outcome->text);
}

// Asks for the commitment; when there is no time left for an answer, that is the outcome.
static int ask(struct spool *spool, const struct conf *conf, const struct conf_destination *destination,
               const struct credentials *credentials, const char *owner,
               const struct spool_delivery *delivery, enum promise_answer *answer, struct fault_note *outcome,
               struct fault_note *why)
{
    *answer = PROMISE_FAILED;
    if (delivery->is_asked && (double)(clock_wall_us() - delivery->created_us) > conf->give_up_h * 3600e6) {
        fault_set(outcome, FAULT_NOT_COMMITTED, "the destination took the request and has not answered it");
        return 0;
    }
    return promise_ask(spool, conf, destination, credentials, owner, delivery, answer, outcome, why);
}

// What follows from an attempt, in queue and log. `may_end`: every object is confirmed, and a destination
// that cannot be brought to commit itself is not waited for beyond give_up_h.
static int end_attempt(struct spool *spool, const struct conf *conf, const char *owner,
                       const struct spool_delivery *delivery, int may_end, struct fault_note *outcome,
                       struct fault_note *why)
{
    int64_t now_us = clock_wall_us(), next_us = now_us;
    int failed = outcome->fault != FAULT_OK && outcome->fault != FAULT_CANCELLED;
    if (failed)
        next_us += (int64_t)(1e6 * conf_pause_s(conf, delivery->attempts));
    int give_up = failed && fault_class_of(outcome->fault) == FAULT_CLASS_TEMP &&
                  (double)(next_us - delivery->created_us) > conf->give_up_h * 3600e6;
    struct fault_note last = *outcome;
    if (give_up && may_end) {
        fault_set(outcome, FAULT_OK, "not committed within %g h: %.440s", conf->give_up_h, last.text);
        log_warning("delivery d%lld: '%s' has confirmed every object but not committed itself: %s",
                    (long long)delivery->id, delivery->destination, last.text);
    } else if (give_up) {
        fault_set(outcome, last.fault,
                  "given up after %g h (send.give_up_h); the last of %d attempts: %.380s", conf->give_up_h,
                  delivery->attempts + 1, last.text);
    }
    int rc = spool_delivery_end(spool, delivery->id, owner, outcome, give_up, next_us, now_us, why);
    if (rc == 0)
        tell(delivery, outcome, give_up);
    return rc;
}

int deliver_one(struct spool *spool, const struct conf *conf, const struct conf_destination *destination,
                const struct keeper *keeper, const char *owner, const struct spool_delivery *delivery,
                volatile int *stop, struct fault_note *outcome, struct fault_note *why)
{
    struct dcm_scu_options options = deliver_options(conf, destination, keeper->credentials);
    struct dcm_scu *scu = NULL;
    enum promise_answer answer = PROMISE_DONE;
    int rc = 0, is_confirmed = delivery->n_confirmed == delivery->n_objects;
    memset(outcome, 0, sizeof *outcome);
    int may_call = keeper_check(keeper, outcome) == 0;
    if (may_call && !is_confirmed) {
        if (dcm_scu_open(&options, &scu, outcome) == 0)
            rc = send_objects(spool, conf, scu, owner, delivery, stop, outcome, why);
        dcm_scu_close(scu);
        is_confirmed = outcome->fault == FAULT_OK;
    }
    if (rc == 0 && may_call && is_confirmed && conf_asks_commitment(conf, destination))
        rc = ask(spool, conf, destination, keeper->credentials, owner, delivery, &answer, outcome, why);
    if (rc != 0 || answer == PROMISE_TOLD || answer == PROMISE_ASKED)
        return rc;
    int may_end = is_confirmed && strcmp(destination->commitment, "required") != 0;
    return end_attempt(spool, conf, owner, delivery, may_end, outcome, why);
}

int deliver_lock(const struct conf *conf, const char *name, struct fault_note *why)
{
    char path[CONF_PATH_SIZE + 96];
    snprintf(path, sizeof path, "%s/send-%s.lock", conf->spool, name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return fault_set_errno(why, errno, "cannot open '%s'", path);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        return fault_set(why, FAULT_IO, "another process has '%s' already", path);
    }
    return fd; // held until the process ends
}

// In hexadecimal: a name may hold what a file name must not, or be "reports".
static int lock_destination(const struct conf *conf, const struct conf_destination *destination,
                            struct fault_note *why)
{
    char name[2 * sizeof destination->name] = "";
    for (size_t i = 0; destination->name[i] != '\0'; i++)
        snprintf(name + 2 * i, sizeof name - 2 * i, "%02x", (unsigned char)destination->name[i]);
    return deliver_lock(conf, name, why);
}

int deliver_run(const struct conf *conf, const struct conf_destination *destination, struct keeper *keeper,
                int (*reload_asked)(void), volatile int *stop, struct fault_note *why)
{
    struct spool *spool = NULL;
    char owner[SPOOL_OWNER_SIZE];
    snprintf(owner, sizeof owner, "send:%d", (int)getpid());
    int rc = spool_open(conf->spool, &spool, why);
    int lock = rc == 0 ? lock_destination(conf, destination, why) : -1;
    if (rc == 0 && lock < 0)
        rc = lock;
    if (rc == 0)
        rc = spool_delivery_reclaim(spool, destination->name, INT64_MAX, why);
    while (rc == 0 && !*stop) {
        struct spool_delivery delivery;
        struct fault_note outcome;
        int found;
        keeper_tick(keeper, reload_asked());
        rc = spool_delivery_take(spool, destination->name, owner, lease_s(conf), clock_wall_us(), &delivery,
                                 &found, why);
        if (rc == 0 && found) {
            rc = deliver_one(spool, conf, destination, keeper, owner, &delivery, stop, &outcome, why);
        } else if (rc == 0)
            usleep(POLL_MS * 1000);
        if (rc == FAULT_LEASE_LOST || rc == FAULT_QUEUE || rc == FAULT_NO_SPACE) {
            log_error("sending to '%s': %s", destination->name, why->text);
            usleep(1000 * 1000);
            rc = 0;
        }
    }
    if (lock >= 0)
        close(lock);
    spool_close(spool);
    return rc;
}
