// SPDX-License-Identifier: Apache-2.0
#include "scu/promise.h"

#include "core/clock.h"
#include "core/log.h"
#include "dicom_map/dcmtk/scu.h"
#include "dicom_map/prescan.h"
#include "scu/deliver.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

// Seconds that a destination has to tell on the association that asked. Most open another.
static const double wait_s = 2;

int promise_settle(struct spool *spool, const struct conf *conf, const struct spool_promise *promise,
                   const struct commitment *outcome, struct fault_note *why)
{
    int64_t now_us = clock_wall_us();
    int64_t next_us = now_us + (int64_t)(1e6 * conf_pause_s(conf, promise->attempts));
    int hold = (double)(next_us - promise->created_us) > conf->give_up_h * 3600e6;
    size_t n_missing;
    int is_held;
    int rc = spool_promise_told(spool, promise, outcome, hold, next_us, now_us, &n_missing, &is_held, why);
    if (rc != 0)
        return rc;
    if (n_missing == 0)
        log_info("delivery d%lld: committed by '%s'", (long long)promise->delivery, promise->destination);
    else if (is_held)
        log_error("delivery d%lld to '%s' is held: %zu objects are not committed",
                  (long long)promise->delivery, promise->destination, n_missing);
    else
        log_warning("delivery d%lld: '%s' does not commit itself to %zu objects, they will be sent again",
                    (long long)promise->delivery, promise->destination, n_missing);
    return 0;
}

// ---- asking

// A UID that no other request has or will have.
static int make_transaction(const struct spool_delivery *delivery, char uid[UID_SIZE], struct fault_note *why)
{
    unsigned long long random[2];
    char name[160];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return fault_set(why, FAULT_IO, "cannot read random numbers");
    snprintf(name, sizeof name, "commitment d%lld %lld %016llx%016llx", (long long)delivery->id,
             (long long)clock_wall_us(), random[0], random[1]);
    return uid_from_name(name, uid, why);
}

// The request for all objects of a delivery, in their order; its items are the caller's (free).
static int make_request(const struct spool_delivery *delivery, struct commitment *request,
                        struct fault_note *why)
{
    if (delivery->n_objects > COMMITMENT_MAX_ITEMS)
        return fault_set(why, FAULT_TOO_LARGE, "%lld objects, at most %d are asked for at a time",
                         (long long)delivery->n_objects, COMMITMENT_MAX_ITEMS);
    int rc = make_transaction(delivery, request->transaction_uid, why);
    request->items = calloc((size_t)delivery->n_objects + 1, sizeof *request->items);
    if (rc == 0 && request->items == NULL)
        rc = fault_set(why, FAULT_NO_MEMORY, "cannot hold a commitment request");
    for (int64_t i = 0; i < delivery->n_objects && rc == 0; i++) {
        char path[SPOOL_PATH_SIZE + 32];
        struct prescan scan;
        deliver_path(delivery, i, path, sizeof path);
        rc = prescan_file(path, SIZE_MAX, &scan, why); // our own
        if (rc != 0)
            break;
        struct commitment_item *item = &request->items[request->n++];
        snprintf(item->sop_class_uid, sizeof item->sop_class_uid, "%s", scan.sop_class_uid);
        snprintf(item->sop_instance_uid, sizeof item->sop_instance_uid, "%s", scan.sop_instance_uid);
    }
    return rc;
}

struct listener {
    struct spool *spool;
    const struct conf *conf;
    const struct spool_delivery *delivery;
    int is_told;
};

// What comes on the association that asked may be about an earlier request.
static int hear(void *user, const struct commitment *outcome, struct fault_note *why)
{
    struct listener *listener = user;
    struct spool_promise promise;
    int found;
    int rc = spool_promise_find(listener->spool, outcome->transaction_uid, &promise, &found, why);
    if (rc == 0 && (!found || strcmp(promise.destination, listener->delivery->destination) != 0))
        log_info("'%s' reports about transaction '%s', which nobody waits for",
                 listener->delivery->destination, outcome->transaction_uid);
    else if (rc == 0)
        rc = promise_settle(listener->spool, listener->conf, &promise, outcome, why);
    listener->is_told |= rc == 0 && found && promise.delivery == listener->delivery->id;
    return rc;
}

// Whether a destination that answered so can be left unasked: it has confirmed every object.
static int may_do_without(const struct conf_destination *destination, enum fault fault)
{
    return strcmp(destination->commitment, "required") != 0 &&
           (fault == FAULT_NOT_NEGOTIATED || fault == FAULT_PEER_REFUSED || fault == FAULT_TOO_LARGE);
}

int promise_ask(struct spool *spool, const struct conf *conf, const struct conf_destination *destination,
                const struct credentials *credentials, const char *owner,
                const struct spool_delivery *delivery, enum promise_answer *answer,
                struct fault_note *outcome, struct fault_note *why)
{
    struct dcm_scu_options options = deliver_options(conf, destination, credentials);
    struct commitment request = {0};
    struct dcm_scu *scu = NULL;
    options.is_commit = 1;
    *answer = PROMISE_FAILED;
    int queue_rc = 0, rc = make_request(delivery, &request, outcome);
    struct listener listener = {.spool = spool, .conf = conf, .delivery = delivery};
    if (rc == 0)
        rc = dcm_scu_open(&options, &scu, outcome);
    if (rc == 0)
        queue_rc = spool_delivery_ask(spool, delivery->id, owner, &request, why);
    if (rc == 0 && queue_rc == 0)
        log_info("delivery d%lld: asking '%s' to commit itself, transaction '%s'", (long long)delivery->id,
                 delivery->destination, request.transaction_uid);
    if (rc == 0 && queue_rc == 0)
        rc = dcm_scu_commit(scu, &request, wait_s, hear, &listener, outcome);
    dcm_scu_close(scu);
    if (listener.is_told) {
        *answer = PROMISE_TOLD;
    } else if (rc == 0 && queue_rc == 0) {
        int64_t now_us = clock_wall_us();
        *answer = PROMISE_ASKED;
        queue_rc = spool_delivery_asked(spool, delivery->id, owner,
                                        now_us + (int64_t)(conf->commitment_h * 3600e6), now_us, why);
    } else if (queue_rc == 0 && may_do_without(destination, outcome->fault)) {
        struct fault_note last = *outcome;
        *answer = PROMISE_DONE;
        fault_set(outcome, FAULT_OK, "not committed: %.480s", last.text);
    }
    free(request.items);
    return queue_rc;
}
