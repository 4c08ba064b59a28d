// SPDX-License-Identifier: Apache-2.0
//
// A daemon's credentials over the months it runs: read again when it is asked to, kept when the new files are
// broken, and warned of before they run out. A daemon starts with a certificate that is not valid at that
// time, so that one of them stops nothing else, and does without until it is. Logs, for the daemons' loops.

#ifndef ISOSLICE_CORE_KEEPER_H
#define ISOSLICE_CORE_KEEPER_H

#include "core/credentials.h"

// Initialise with the first two and zeros.
struct keeper {
    const char *whose;               // for the log: "reception", a destination's name; borrowed
    struct credentials *credentials; // in use; NULL: no TLS, and then the calls below do nothing
    double next_warning_s;           // clock_monotonic_s
    double next_try_s;               // the same: while they are not in use, the files are read again
    int is_in_use;                   // they were valid once. They stay so when they expire: peers judge
};

// Call this often. `reload`: the files are read again. Warns at the first call, after a reload and daily.
// Credentials that are not in use come into use when their time has come, or others lie in the files.
void keeper_tick(struct keeper *keeper, int reload);

// 0 where there is no TLS, or the credentials are in use. Errors: TLS, and why they are not.
int keeper_check(const struct keeper *keeper, struct fault_note *why);

#endif
