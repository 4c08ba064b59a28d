// SPDX-License-Identifier: Apache-2.0
//
// The process that reads: takes paths, gives up everything else, and then answers what reader.c asks until
// the other end hangs up. Not here: what it is believed (reader.h).

#ifndef ISOSLICE_READER_SERVE_H
#define ISOSLICE_READER_SERVE_H

#include "dicom_map/source.h"
#include "reader/wire.h"

// Called with every request once the process is confined; `item` is NULL before the files are open. For
// tests, whose process is to misbehave.
struct serve_hook {
    void *user;
    void (*called)(void *user, enum wire_kind kind, const struct source_item *item);
};

// The whole of main: argv[1] is the process that started this one, WIRE_FD the socket. Returns the exit code:
// 0 when the other end hung up, 1 when it cannot begin, 2 for a usage error. `hook` may be NULL.
int serve_main(int argc, char **argv, const struct serve_hook *hook);

#endif
