// SPDX-License-Identifier: Apache-2.0
//
// One object on its way from the wire to its commit point. Its file has a name that was made durable
// beforehand
// ("<n>.tmp", many at a time), begins with our own file meta information, passes the pre-scan, and is sealed:
// the preamble holds a checksum of all that follows. One fdatasync of the sealed file is the commit point.
// The rename to "<n>.dcm" that follows only tells the indexer; where a crash undoes it, the seal says that
// the object is whole. Works in the current directory, so that a receiving process needs no other. Not here:
// the network, the queue.

#ifndef ISOSLICE_SCP_OBJECT_H
#define ISOSLICE_SCP_OBJECT_H

#include "core/fault.h"

#include <stddef.h>
#include <stdint.h>

// What bounds an object. Set once per association.
struct object_limits {
    int64_t max_bytes;          // of one object
    int64_t max_enhanced_bytes; // of one of Enhanced MR
    int64_t reserve_bytes;      // that must stay free on the disk
    // Whether an object of this series, otherwise sound, may be kept; its fault refuses it. NULL: it may.
    int (*admit)(void *user, const char *series_uid, struct fault_note *why);
    void *admit_user;
};

// An object being received. Initialise with zeros but limits and fd; number counts objects of this
// association from 1.
// Most objects are held until their last byte and go to the file in one piece, sealed; a larger one is
// written as it comes, and only its seal waits for the last byte.
struct object {
    struct object_limits limits;
    unsigned number; // of the object in hand or the last one
    unsigned n_made,
        n_names;           // files that exist for objects to come, and those of them whose names are durable
    int is_committed;      // the object in hand, which is not settled yet
    int fd;                // -1 when none is open
    int64_t max_bytes;     // of the object in hand
    int64_t n_bytes;       // so far, file meta information included
    int64_t n_written;     // of them in the file
    unsigned char *buffer; // [OBJECT_BUFFER_BYTES] the first bytes
    struct XXH3_state_s *sum; // of all but the preamble, so far
    char temporary[32], final[32];
};

enum { OBJECT_BUFFER_BYTES = 1 << 20 };

// What the command says about it.
struct object_command {
    const char *sop_class_uid, *sop_instance_uid, *transfer_syntax, *calling_ae;
};

// Whether the file at `path` still has the data set of that digest (prescan.h): 1, or 0 with what is wrong in
// *why. Errors: NO_MEMORY.
int object_has_digest(const char *path, size_t limit, const char *digest, struct fault_note *why);

// Whether the disk of `folder` is below its reserve: NO_SPACE. What cannot be told is not.
int object_disk_is_low(const char *folder, const struct object_limits *limits, struct fault_note *why);

// Opens the next file and makes the file meta information (PS3.10 section 7.1). Errors: IO, NO_SPACE (also
// when the reserve is reached), NO_MEMORY.
int object_begin(struct object *object, const struct object_command *command, struct fault_note *why);

// The next bytes of the data set. Errors: IO, NO_SPACE, TOO_LARGE.
int object_write(struct object *object, const void *data, size_t size, struct fault_note *why);

// The commit point: 0 means that file and name are durable. Errors: those of the pre-scan, SOP_MISMATCH when
// data set and command disagree, that of limits.admit, IO, NO_SPACE.
int object_commit(struct object *object, const struct object_command *command, struct fault_note *why);

// What need not delay the answer: offers the committed object to the indexer, makes files for the next ones.
void object_settle(struct object *object);

// Drops what was begun; fine when nothing was.
void object_cancel(struct object *object);

// After the last object: gives back the memory and the names that were not used.
void object_finish(struct object *object);

#endif
