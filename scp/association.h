// SPDX-License-Identifier: Apache-2.0
//
// One association in a process of its own: access list, its incoming folder, and the callbacks that take
// objects to their commit point. The folder is locked (flock) as long as the association is open, so that the
// indexer knows.

#ifndef ISOSLICE_SCP_ASSOCIATION_H
#define ISOSLICE_SCP_ASSOCIATION_H

#include "conf/conf.h"
#include "core/fault.h"

#include <stdint.h>

enum { ASSOCIATION_SENDER_SIZE = 17 };
#define ASSOCIATION_SENDER_FILE "sender" // in the folder: the calling AE title

struct association_request {
    const struct conf *conf;
    const char *incoming;                  // folder of all associations
    uint32_t address;                      // of the peer, IPv4, host byte order
    int is_full;                           // non-zero: reject as a local limit
    const struct credentials *credentials; // TLS; NULL: none
};

// Serves the connected socket `fd` (taken) to its end. Logs what happened. Returns 0 or the fault that ended
// it.
int association_serve(int fd, const struct association_request *request);

#endif
