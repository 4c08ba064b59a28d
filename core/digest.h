// SPDX-License-Identifier: Apache-2.0
//
// SHA-256 over bytes, and DICOM UIDs made from names: the same name gives the same UID on every machine, so a
// job that is done again makes the same objects. Needs OpenSSL's libcrypto; not part of the DICOM-less engine
// build.

#ifndef ISOSLICE_CORE_DIGEST_H
#define ISOSLICE_CORE_DIGEST_H

#include "core/fault.h"

#include <stddef.h>

enum { DIGEST_HEX_SIZE = 65, UID_SIZE = 65 };

struct digest; // a running SHA-256

// NULL when memory is exhausted.
struct digest *digest_new(void);
void digest_add(struct digest *digest, const void *data, size_t size);
// Ends the sum: 64 lower-case hex digits and a zero byte. Frees `digest`.
void digest_finish(struct digest *digest, char hex[DIGEST_HEX_SIZE]);
void digest_free(struct digest *digest);

// Of one block of memory.
int digest_of(const void *data, size_t size, char hex[DIGEST_HEX_SIZE], struct fault_note *why);
// Of a whole file. Errors: IO, NO_MEMORY.
int digest_of_file(const char *path, char hex[DIGEST_HEX_SIZE], struct fault_note *why);

// "2.25." and the decimal value of the UUID version 5 (RFC 4122, SHA-1) of `name` in Isoslice's own
// namespace. Source: PS3.5 B.2. At most 44 characters.
int uid_from_name(const char *name, char uid[UID_SIZE], struct fault_note *why);

// 1 when `uid` is what PS3.5 section 9.1 allows: 1..64 characters, digits and dots, no empty component, no
// component of several digits that begins with 0.
int uid_is_valid(const char *uid);

#endif
