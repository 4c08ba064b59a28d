// SPDX-License-Identifier: Apache-2.0
//
// Files that a round of the indexer could not take up, and that the next rounds leave alone for a while. Only
// in memory: after a start each is tried at once. Used by the indexer.

#ifndef ISOSLICE_SCP_LATER_H
#define ISOSLICE_SCP_LATER_H

#include <stddef.h>
#include <stdint.h>

// Zeros to begin with.
struct later {
    struct later_file {
        uint64_t path; // a digest of it
        double until_s;
    } * items;
    size_t n, room;
};

// Leaves a file alone for so long. Without memory it is tried again at once.
void later_add(struct later *later, const char *path, double pause_s);

int later_waits(const struct later *later, const char *path);

// Forgets whose time has come. Once a round.
void later_forget(struct later *later);

#endif
