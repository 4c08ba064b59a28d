// SPDX-License-Identifier: Apache-2.0
//
// How far long work has come: a bar with the time left when stderr is a terminal, a plain line now and then
// when it is not. Not a log: what must be found again later goes through log.h. Programs include this,
// libraries only take the callback type.

#ifndef ISOSLICE_CORE_PROGRESS_H
#define ISOSLICE_CORE_PROGRESS_H

// Called by long work. `phase` is a short name ("fine-tune"), `done` of `total` units (total > 0), `detail` a
// few words or NULL. Returns 0 to go on, anything else to stop: the work then ends with FAULT_CANCELLED.
// Threads: called from one thread at a time.
typedef int (*progress_fn)(void *user, const char *phase, double done, double total, const char *detail);

// State of the terminal reporter; caller's storage.
struct progress {
    char phase[48];           // phase being shown, empty before the first
    double phase_start_s;     // monotonic time at which it began
    double phase_start_share; // what was done by then
    double last_shown_s;      // monotonic time of the last line
    int last_percent;         // last percentage printed as a plain line
    int is_terminal;          // stderr is a terminal
    volatile int *stop;       // borrowed; non-zero asks the work to stop; may be NULL
};

// `stop` may be NULL; a signal handler may set it.
void progress_init(struct progress *progress, volatile int *stop);

// A progress_fn; `user` is a struct progress *.
int progress_show(void *user, const char *phase, double done, double total, const char *detail);

// Ends the line of a bar, if one is open.
void progress_done(struct progress *progress);

#endif
