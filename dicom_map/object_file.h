// SPDX-License-Identifier: Apache-2.0
//
// An object as a file: preamble and file meta information in front of an encoded data set, written
// durably.

#ifndef ISOSLICE_DICOM_MAP_OBJECT_FILE_H
#define ISOSLICE_DICOM_MAP_OBJECT_FILE_H

#include "core/fault.h"
#include "dicom_map/identity.h"

#include <stddef.h>

// A file that is being written: under a temporary name beside its own until it is committed.
struct object_file {
    int fd; // -1: none
    char path[4096], temporary[4096 + 4];
};

// Begins `directory`/`name`. The data set that follows is in explicit VR little endian. Errors: IO, NO_SPACE;
// nothing is then left.
int object_file_begin(struct object_file *file, const char *directory, const char *name,
                      const char *sop_class_uid, const char *sop_instance_uid, struct fault_note *why);
// Appends to the data set. Errors: IO, NO_SPACE, TOO_LARGE.
int object_file_append(struct object_file *file, const void *data, size_t size, struct fault_note *why);
// Ends it, whatever `rc` was so far: when that is 0 the bytes are synced and the name appears, else nothing
// is left under either. Returns `rc` or the first fault. The folder is not synced: the caller does it once,
// after the last object. Errors: IO, NO_SPACE.
int object_file_end(struct object_file *file, int rc, struct fault_note *why);

// All three for an object in memory.
int object_file_write(const char *directory, const char *name, const char *sop_class_uid,
                      const char *sop_instance_uid, const void *dataset, size_t size, struct fault_note *why);

#endif
