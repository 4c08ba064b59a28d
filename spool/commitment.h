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
    SPOOL_COMMITMENT_CHECKING, // not looked at yet, or not at all of it
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
    size_t n_checked;           // CHECKING: of its items, the first so many have their reason
    char note[SPOOL_NOTE_SIZE]; // one line
    struct commitment request;  // and its outcome from OFFERED on
};

// "CHECKING" and so on.
const char *spool_commitment_state_name(enum spool_commitment_state state);

// Reads a file. *out is filled; spool_commitment_done frees what it holds. Errors: IO, BAD_HEADER, NO_MEMORY.
int spool_commitment_read(const char *path, struct spool_commitment *out, struct fault_note *why);
void spool_commitment_done(struct spool_commitment *commitment);

// Writes it durably under that name, over an earlier version. Errors: IO, NO_SPACE, NO_MEMORY.
int spool_commitment_write(const char *path, const struct spool_commitment *commitment,
                           struct fault_note *why);

// Takes back what a clock that ran ahead and was put right left in the future: changes count as now, a pause
// is longest_pause_s at most. A minute is let pass. Returns 1 when something was: to be written by whoever
// writes that state.
int spool_commitment_put_times_right(struct spool_commitment *commitment, double longest_pause_s,
                                     int64_t now_us);

// Whether an id names a commitment: "c<time>p<process>-<number>", as `isoslice queue list` prints it. Then
// `path`, of SPOOL_PATH_SIZE + 128 bytes, is its file, which may not be there.
int spool_commitment_path(const struct spool *spool, const char *id, char *path);

// A person's decision: one that is HELD or WAITING is reported at once, its attempts forgotten. Errors:
// NOT_FOUND; USAGE in another state; those of reading and writing.
int spool_commitment_retry(const struct spool *spool, const char *id, int64_t now_us, struct fault_note *why);

// Calls `each` with the path and the name of every request in the spool, oldest first, until it returns
// non-zero, which is then returned. Errors: IO, NO_MEMORY.
int spool_commitment_list(const struct spool *spool,
                          int (*each)(void *user, const char *path, const char *name, struct fault_note *why),
                          void *user, struct fault_note *why);

// What who looks at them again and again remembers between two rounds, so that it does not read thousands of
// files for nothing. Initialise with zeros; spool_idle_done frees.
struct spool_idle {
    struct spool_idle_entry *entries; // [n], as listed
    size_t n;
};
void spool_idle_done(struct spool_idle *idle);

// The same, but leaves out a request for which `each` has put into *idle_s (0 when called) for how many
// seconds it has nothing to do there, a minute at the most; one whose file is another since is not left out.
// `now_s`: clock_monotonic_s. A fault of `each` does not end the round, since one file that cannot be written
// would keep all later ones from their turn; the first of them is returned in the end.
int spool_commitment_round(const struct spool *spool, struct spool_idle *idle, double now_s,
                           int (*each)(void *user, const char *path, const char *name, double *idle_s,
                                       struct fault_note *why),
                           void *user, struct fault_note *why);

#endif
