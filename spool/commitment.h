// SPDX-License-Identifier: Apache-2.0
//
// Storage commitment requests of senders, each a text file of its own, from the moment it is acknowledged
// until its outcome was confirmed. States and what a crash in each means stand in README.md. Not here: who
// checks and who reports.

#ifndef ISOSLICE_SPOOL_COMMITMENT_H
#define ISOSLICE_SPOOL_COMMITMENT_H

#include "dicom_map/commitment.h"
#include "spool/spool.h"

enum spool_commitment_state {
    SPOOL_COMMITMENT_CHECKING, // not looked at yet
    SPOOL_COMMITMENT_OFFERED,  // checked; the association that asked may still be told
    SPOOL_COMMITMENT_WAITING,  // checked; to be reported on an association of its own, from not_before_us on
    SPOOL_COMMITMENT_HELD,     // given up
};

struct spool_commitment {
    char sender[17];  // calling AE title
    char address[16]; // where it called from, IPv4
    enum spool_commitment_state state;
    int64_t created_us, changed_us, not_before_us;
    int attempts;
    char note[SPOOL_NOTE_SIZE]; // one line
    struct commitment request;  // and its outcome from OFFERED on
};

// Reads a file. *out is filled; spool_commitment_done frees what it holds. Errors: IO, BAD_HEADER, NO_MEMORY.
int spool_commitment_read(const char *path, struct spool_commitment *out, struct fault_note *why);
void spool_commitment_done(struct spool_commitment *commitment);

// Writes it durably under that name, over an earlier version. Errors: IO, NO_SPACE, NO_MEMORY.
int spool_commitment_write(const char *path, const struct spool_commitment *commitment,
                           struct fault_note *why);

// Calls `each` with the path and the name of every request in the spool, oldest first, until it returns
// non-zero, which is then returned. Errors: IO, NO_MEMORY.
int spool_commitment_list(const struct spool *spool,
                          int (*each)(void *user, const char *path, const char *name, struct fault_note *why),
                          void *user, struct fault_note *why);

#endif
