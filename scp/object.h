// SPDX-License-Identifier: Apache-2.0
//
// One object on its way from the wire to its commit point: a temporary file of our own with our own file meta
// information, then pre-scan, fsync, rename, fsync of the directory. The same code for every association;
// works in the current directory, so that a receiving process needs no other. Not here: the network, the
// queue.

#ifndef ISOSLICE_SCP_OBJECT_H
#define ISOSLICE_SCP_OBJECT_H

#include "core/fault.h"

#include <stddef.h>
#include <stdint.h>

// What bounds an object. Set once per association.
struct object_limits {
    int64_t max_bytes;     // of one object
    int64_t reserve_bytes; // that must stay free on the disk
};

// An object being received. Initialise with zeros; number counts objects of this association from 1.
struct object {
    struct object_limits limits;
    unsigned number;
    int fd;          // -1 when none is open
    int64_t n_bytes; // written so far, file meta information included
    char temporary[32], final[32];
};

// What the command says about it.
struct object_command {
    const char *sop_class_uid, *sop_instance_uid, *transfer_syntax, *calling_ae;
};

// Opens the next temporary file and writes the file meta information (PS3.10 section 7.1). Errors: IO,
// NO_SPACE (also when the reserve is reached).
int object_begin(struct object *object, const struct object_command *command, struct fault_note *why);

// The next bytes of the data set. Errors: IO, NO_SPACE, TOO_LARGE.
int object_write(struct object *object, const void *data, size_t size, struct fault_note *why);

// The commit point: 0 means file and name are durable. Errors: those of the pre-scan, SOP_MISMATCH when data
// set and command disagree, IO, NO_SPACE.
int object_commit(struct object *object, const struct object_command *command, struct fault_note *why);

// Drops what was begun; fine when nothing was.
void object_cancel(struct object *object);

#endif
