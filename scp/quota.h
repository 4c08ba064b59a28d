// SPDX-License-Identifier: Apache-2.0
//
// What one sender may take: bytes within 24 hours and series open at a time (conf.h). The queue's rows are
// what counts, so that a restart forgets nothing. The receiving process cannot see the queue: the indexer
// leaves what it needs to know as a small file, beside the associations' folders and in each open one, after
// every round that changed it. The process adds what it has itself received since. So associations of one
// sender that are open at the same time can exceed a quota together by what all but one of them receive
// between two looks of the indexer (two seconds, or as long as a round takes). Not here: the
// disk's reserve (object.h).

#ifndef ISOSLICE_SCP_QUOTA_H
#define ISOSLICE_SCP_QUOTA_H

#include "conf/conf.h"
#include "core/fault.h"
#include "spool/spool.h"

#include <stddef.h>
#include <stdint.h>

#define QUOTA_FILE "usage" // in an association's folder

// ---- in the receiving process

struct quota {
    int64_t daily_bytes, max_open_series; // 0: no limit
    char *told;                           // the file last read, owned; NULL: none
    int64_t used_bytes, n_open;           // from it
    int64_t *sizes;                       // of the objects received, by number - 1; 0: indexed or dropped
    size_t n_sizes, first, room;          // none before `first` counts
    int64_t pending_bytes;                // their sum
    char (*series)[UID_SIZE];             // ours that the file may not know yet
    size_t n_series, series_room;
};

// Begins with what the folder of all associations says. Errors: NO_MEMORY, IO.
int quota_begin(struct quota *quota, const struct conf_sender *sender, const char *incoming,
                struct fault_note *why);

// Before an object, in the association's folder. Errors: NO_SPACE when nothing is left; NO_MEMORY, IO.
int quota_check(struct quota *quota, struct fault_note *why);

// Whether an object of so many bytes still fits. Errors: NO_SPACE.
int quota_fits(const struct quota *quota, int64_t n_bytes, struct fault_note *why);

// Whether an object of this series may be kept. Errors: NO_SPACE, NO_MEMORY.
int quota_admit(struct quota *quota, const char *series_uid, struct fault_note *why);

// An object was kept as "<number>.dcm".
void quota_count(struct quota *quota, unsigned number, int64_t n_bytes);

void quota_done(struct quota *quota);

// ---- in the indexer

// What quotas count for every sender that has one, into the folder of all associations. Returns 0 also when
// nothing has a quota. Errors: QUEUE, IO, NO_SPACE, NO_MEMORY.
int quota_publish(struct spool *spool, const struct conf *conf, int64_t now_us, struct fault_note *why);

// The same, as published, into the folder of an open association. Errors: IO, NO_SPACE, NO_MEMORY.
int quota_pass_on(const struct spool *spool, const struct conf *conf, const char *sender, const char *folder,
                  struct fault_note *why);

#endif
