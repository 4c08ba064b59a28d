// SPDX-License-Identifier: Apache-2.0
//
// The seal of a kept object: a checksum of the file's bytes in its own preamble, which is ours to use (PS3.10
// section 7.1). It tells a whole file from one that a crash tore or a disk spoiled, not from one that
// somebody made: XXH3 with 128 bits, a tenth of SHA-256's time, which would be a third of what an answer
// waits for besides the disk. Not here: when a file is sealed (scp/object.h).

#ifndef ISOSLICE_SPOOL_SEAL_H
#define ISOSLICE_SPOOL_SEAL_H

#include "core/fault.h"

#include <xxhash.h>

enum { SEAL_SIZE = 128 }; // the preamble

// The preamble of a file whose other bytes have the checksum `sum`.
void seal_make(XXH128_hash_t sum, char seal[SEAL_SIZE]);

// 1 when the file is sealed and its bytes are those that were; 0 when not; a fault when that cannot be told.
// Errors: IO, NO_MEMORY.
int seal_is_whole(const char *path, struct fault_note *why);

#endif
