// SPDX-License-Identifier: Apache-2.0
//
// From durable files to rows: looks through the incoming folders, makes the queue's rows, moves the files to
// the store, turns quiet series into jobs, and purges what is old. The only writer of objects' rows; one per
// spool.

#ifndef ISOSLICE_SCP_INDEXER_H
#define ISOSLICE_SCP_INDEXER_H

#include "conf/conf.h"
#include "core/fault.h"
#include "spool/spool.h"

#include <stddef.h>

// What one round did.
struct indexer_round {
    size_t n_new, n_duplicate, n_conflict, n_bad, n_jobs, n_commitments;
    int is_unsettled; // a file took its place and its row does not know: files and rows are to be reconciled
};

// One round over everything there. What cannot be read or moved is said, left, and tried again after some
// seconds; the others go on. Errors end the round, not the data: the next round takes up what is left.
// Errors: QUEUE, NO_SPACE, NO_MEMORY; IO when the folder of all cannot be read.
int indexer_round(struct spool *spool, const struct conf *conf, struct indexer_round *round,
                  struct fault_note *why);

// Rounds until *stop. Ends purges that were begun first; reconciles files and rows after the first round.
// Errors: QUEUE, IO when the spool cannot be opened.
int indexer_run(const struct conf *conf, volatile int *stop, struct fault_note *why);

#endif
