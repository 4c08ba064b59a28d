// SPDX-License-Identifier: Apache-2.0
//
// A daemon's credentials over the months it runs: read again when it is asked to, kept when the new files are
// broken, and warned of before they run out. Logs, for the daemons' loops.

#ifndef ISOSLICE_CORE_KEEPER_H
#define ISOSLICE_CORE_KEEPER_H

#include "core/credentials.h"

// Initialise with the first two and zeros.
struct keeper {
    const char *whose;               // for the log: "reception", a destination's name; borrowed
    struct credentials *credentials; // in use; NULL: no TLS, and then the calls below do nothing
    double next_warning_s;           // clock_monotonic_s
};

// Call this often. `reload`: the files are read again. Warns at the first call, after a reload and daily.
void keeper_tick(struct keeper *keeper, int reload);

#endif
