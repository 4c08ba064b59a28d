// SPDX-License-Identifier: Apache-2.0
#include "spool/db.h"

#include <stdio.h>
#include <string.h>

int spool_delivery_ask(struct spool *spool, int64_t delivery, const char *owner,
                       const struct commitment *request, struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    rc = db_run(spool, why,
                "UPDATE delivery SET transaction_uid=?3 WHERE id=?1 AND owner=?2 AND state='SENDING'", "itt",
                delivery, owner, request->transaction_uid);
    rc = db_check_owned(spool, rc, "delivery", delivery, why);
    if (rc == 0)
        rc = db_run(spool, why, "DELETE FROM promised WHERE delivery_id=?1", "i", delivery);
    for (size_t i = 0; i < request->n && rc == 0; i++)
        rc = db_run(spool, why, "INSERT INTO promised(delivery_id, sop_uid, idx) VALUES(?1,?2,?3)", "iti",
                    delivery, request->items[i].sop_instance_uid, (int64_t)i);
    return db_end(spool, rc, why);
}

int spool_delivery_asked(struct spool *spool, int64_t delivery, const char *owner, int64_t until_us,
                         int64_t now_us, struct fault_note *why)
{
    return db_run(spool, why,
                  "UPDATE delivery SET state='ASKED', owner='', lease_until_us=0, not_before_us=?3,"
                  " changed_us=?4, note='every object was confirmed; its commitment is waited for'"
                  " WHERE id=?1 AND owner=?2 AND state='SENDING'",
                  "itii", delivery, owner, until_us, now_us);
}

int spool_promise_find(struct spool *spool, const char *transaction_uid, struct spool_promise *promise,
                       int *found, struct fault_note *why)
{
    struct fault_note local;
    why = why ? why : &local;
    *found = 0;
    sqlite3_stmt *statement = db_prepare(spool, why,
                                         "SELECT id, destination, attempts, created_us FROM delivery"
                                         " WHERE transaction_uid=?1 AND state IN ('SENDING','ASKED')",
                                         "t", transaction_uid);
    if (statement == NULL)
        return why->fault;
    int rc = db_step(spool, statement, why);
    if (rc == 1) {
        *found = 1;
        promise->delivery = sqlite3_column_int64(statement, 0);
        db_text(statement, 1, promise->destination, sizeof promise->destination);
        promise->attempts = sqlite3_column_int(statement, 2);
        promise->created_us = sqlite3_column_int64(statement, 3);
        rc = 0;
    }
    sqlite3_finalize(statement);
    return rc;
}

// What sending the same bytes again does not change (PS3.3 C.14.1.1).
static int is_lasting(unsigned reason)
{
    return reason == COMMITMENT_CLASS_CONFLICT || reason == COMMITMENT_CLASS_NOT_SUPPORTED;
}

// Takes what is committed out of the promised rows. *reason: of the others, the first that is given, a
// lasting one before all; 0: none is.
static int settle(struct spool *spool, int64_t delivery, const struct commitment *outcome, unsigned *reason,
                  struct fault_note *why)
{
    int rc = 0;
    *reason = 0;
    for (size_t i = 0; i < outcome->n && rc == 0; i++) {
        const struct commitment_item *item = &outcome->items[i];
        if (item->reason == COMMITMENT_KEPT)
            rc = db_run(spool, why, "DELETE FROM promised WHERE delivery_id=?1 AND sop_uid=?2", "it",
                        delivery, item->sop_instance_uid);
        else if (*reason == 0 || (is_lasting(item->reason) && !is_lasting(*reason)))
            *reason = item->reason;
    }
    return rc;
}

int spool_promise_told(struct spool *spool, const struct spool_promise *promise,
                       const struct commitment *outcome, int hold, int64_t next_us, int64_t now_us,
                       size_t *n_missing, int *is_held, struct fault_note *why)
{
    struct fault_note local;
    char note[SPOOL_NOTE_SIZE] = "committed by the destination";
    int64_t n = 0, n_all = 0;
    unsigned reason = 0;
    why = why ? why : &local;
    int rc = db_begin(spool, why);
    if (rc != 0)
        return rc;
    rc = db_integer(spool, why, &n_all, 0,
                    "SELECT count(*) FROM promised p JOIN delivery d ON d.id=p.delivery_id WHERE d.id=?1"
                    " AND d.transaction_uid=?2 AND d.state IN ('SENDING','ASKED')",
                    "it", promise->delivery, outcome->transaction_uid);
    if (rc == 0 && n_all == 0)
        rc = fault_set(why, FAULT_LEASE_LOST, "delivery %lld waits for no such commitment",
                       (long long)promise->delivery);
    if (rc == 0)
        rc = settle(spool, promise->delivery, outcome, &reason, why);
    if (rc == 0)
        rc = db_integer(spool, why, &n, 0, "SELECT count(*) FROM promised WHERE delivery_id=?1", "i",
                        promise->delivery);
    hold = n > 0 && (hold || is_lasting(reason));
    if (n > 0 && reason != 0)
        snprintf(note, sizeof note, "%s: %lld of %lld objects are not committed, reason 0x%04x",
                 fault_name(FAULT_NOT_COMMITTED), (long long)n, (long long)n_all, reason);
    else if (n > 0)
        snprintf(note, sizeof note, "%s: of %lld objects the report says nothing of %lld",
                 fault_name(FAULT_NOT_COMMITTED), (long long)n_all, (long long)n);
    if (rc == 0) // sent again when its time has come
        rc = db_run(spool, why,
                    "DELETE FROM sent WHERE delivery_id=?1 AND idx IN (SELECT idx FROM promised WHERE "
                    "delivery_id=?1)",
                    "i", promise->delivery);
    if (rc == 0)
        rc = db_run(spool, why, "DELETE FROM promised WHERE delivery_id=?1", "i", promise->delivery);
    if (rc == 0)
        rc = db_run(spool, why,
                    "UPDATE delivery SET state=?2, note=?3, changed_us=?4, not_before_us=?5, owner='',"
                    " lease_until_us=0, attempts=attempts+?6 WHERE id=?1",
                    "ittiii", promise->delivery,
                    n == 0 ? "SENT"
                    : hold ? "HELD"
                           : "WAITING",
                    note, now_us, n == 0 ? now_us : next_us, (int64_t)(n > 0));
    rc = db_end(spool, rc, why);
    if (rc == 0) {
        *n_missing = (size_t)n;
        *is_held = hold;
    }
    return rc;
}
