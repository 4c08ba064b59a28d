// SPDX-License-Identifier: Apache-2.0
//
// Storage commitment of a destination (PS3.4 annex J, we are the SCU): asks it for a delivery of which every
// object was confirmed, and records what it tells. It may tell on the association that asked, or on one of
// its own to isoslice-receive. Not here: who listens.

#ifndef ISOSLICE_SCU_PROMISE_H
#define ISOSLICE_SCU_PROMISE_H

#include "conf/conf.h"
#include "core/credentials.h"
#include "core/fault.h"
#include "spool/spool.h"

// What followed from asking.
enum promise_answer {
    PROMISE_TOLD,   // the destination has told already: the queue has what follows
    PROMISE_ASKED,  // it took the request: the queue waits for it
    PROMISE_DONE,   // it does not commit itself and need not: `outcome` is 0 with a text that says why
    PROMISE_FAILED, // `outcome` says what went wrong; an attempt like any other
};

// Asks the destination about a delivery that `owner` holds, over an association of its own. Returns 0 when
// the queue could be written.
int promise_ask(struct spool *spool, const struct conf *conf, const struct conf_destination *destination,
                const struct credentials *credentials, const char *owner,
                const struct spool_delivery *delivery, enum promise_answer *answer,
                struct fault_note *outcome, struct fault_note *why);

// Records what the destination tells of a promise, in queue and log: committed, to be sent again, or given
// up. Errors: those of spool_promise_told.
int promise_settle(struct spool *spool, const struct conf *conf, const struct spool_promise *promise,
                   const struct commitment *outcome, struct fault_note *why);

#endif
