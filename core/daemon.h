// SPDX-License-Identifier: Apache-2.0
//
// What every daemon's main does alike: --config, --help, --version, umask, the log, and a flag that SIGTERM
// and SIGINT set.

#ifndef ISOSLICE_CORE_DAEMON_H
#define ISOSLICE_CORE_DAEMON_H

#include "core/fault.h"
#include "core/log.h"
#include "core/user.h"

#include <sys/types.h>

// Set by SIGTERM or SIGINT once daemon_init has run.
extern volatile int daemon_stop;

// Reads the command line: returns the configuration file's path, or NULL after it has printed help, version
// or a usage error; *exit_code then says with what to exit. `purpose` is one sentence for --help.
// `rereads`: it has certificates, and SIGHUP reads them again.
const char *daemon_arguments(int argc, char **argv, const char *name, const char *purpose, int rereads,
                             int *exit_code);

// umask 077, signals (SIGPIPE ignored, SIGHUP blocked), crash point of the tests.
void daemon_init(void);

// 1 when SIGHUP came since the last call. It is never delivered, so it interrupts nothing; every process asks
// for its own.
int daemon_reload_asked(void);

// In a process that `parent` has just forked: it gets SIGTERM when that ends. 0 when it has ended already,
// and no signal will come.
int daemon_follows(pid_t parent);

// What daemon_main needs of the configuration.
struct daemon_settings {
    enum log_level level;
    struct user user;  // who to become
    const char *spool; // which must be theirs; borrowed
};

// In what the daemons' mains differ.
struct daemon {
    const char *name;    // of the program
    const char *purpose; // one sentence for --help
    int rereads;         // certificates at SIGHUP, for --help
    // Reads the configuration file into what `user` points at, and what only root may be able to read: keys.
    int (*load)(void *user, const char *path, struct daemon_settings *settings, struct fault_note *why);
    int (*open)(void *user, struct fault_note *why); // what only root may be able to do: ports. May be NULL
    int (*run)(void *user, struct fault_note *why);  // until daemon_stop
    void *user;
};

// The whole of main: arguments, load, daemon_init, log, open, the change of user, run. Returns the exit code:
// 0, 1 when it cannot go on, 2 for usage and configuration.
int daemon_main(int argc, char **argv, const struct daemon *daemon);

#endif
