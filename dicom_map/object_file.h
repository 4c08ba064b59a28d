// SPDX-License-Identifier: Apache-2.0
//
// An MR object as a file: preamble and file meta information in front of an encoded data set, written
// durably.

#ifndef ISOSLICE_DICOM_MAP_OBJECT_FILE_H
#define ISOSLICE_DICOM_MAP_OBJECT_FILE_H

#include "core/fault.h"

#include <stddef.h>

#define MR_IMAGE_STORAGE "1.2.840.10008.5.1.4.1.1.4"

// Writes `directory`/`name` through a temporary file beside it: the bytes are synced before the name appears.
// The folder itself is not: the caller syncs it once, after the last object. The data set is in explicit VR
// little endian. Errors: IO, NO_SPACE; nothing is left under either name.
int object_file_write(const char *directory, const char *name, const char *sop_instance_uid,
                      const void *dataset, size_t size, struct fault_note *why);

#endif
