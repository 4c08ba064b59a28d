// SPDX-License-Identifier: Apache-2.0
//
// Storage commitment on the indexer's side: takes senders' requests out of the associations' folders, checks
// what they ask for against what is kept, and offers the outcome. A request is "<n>.commit" in its
// association's folder, its outcome "<n>.outcome", and "<n>.reported" says that the peer was told there.
// "<n>.told" is the other way round, what a destination tells of a request of ours. Not here: the network;
// what an association no longer tells is left to isoslice-send.

#ifndef ISOSLICE_SCP_COMMITMENT_H
#define ISOSLICE_SCP_COMMITMENT_H

#include "conf/conf.h"
#include "core/fault.h"
#include "spool/spool.h"

#define COMMITMENT_REQUEST_SUFFIX  ".commit"
#define COMMITMENT_OUTCOME_SUFFIX  ".outcome"
#define COMMITMENT_REPORTED_SUFFIX ".reported"
#define COMMITMENT_TOLD_SUFFIX     ".told"

// A request file `file` in an association's folder: made the spool's own, then removed. Done twice it changes
// nothing. Errors: IO, NO_SPACE, NO_MEMORY.
int commitment_take(const struct spool *spool, const char *association, const char *folder, const char *file,
                    struct fault_note *why);

// A mark `file` that an outcome was told: the request is over. Errors: IO.
int commitment_end(const struct spool *spool, const char *association, const char *folder, const char *file,
                   struct fault_note *why);

// A report `file` of a destination in an association's folder: what follows for the delivery is recorded,
// then the file is removed. One that nobody waits for, or of another sender than the destination, is logged
// and changes nothing. Errors: IO, NO_MEMORY, QUEUE.
int commitment_told(struct spool *spool, const struct conf *conf, const char *association, const char *folder,
                    const char *file, struct fault_note *why);

// One round over all requests, after the objects were indexed: checks what is new, and leaves to
// isoslice-send what its association has not told. An instance that is not known yet is waited for, some
// seconds. `is_open(user, association)`: its process still runs. *n_checked counts. Errors: those of the
// spool.
int commitment_round(struct spool *spool, const struct conf *conf,
                     int (*is_open)(void *user, const char *association), void *user, size_t *n_checked,
                     struct fault_note *why);

#endif
