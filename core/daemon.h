// SPDX-License-Identifier: Apache-2.0
//
// What every daemon's main does alike: --config, --help, --version, umask, and a flag that SIGTERM and SIGINT
// set.

#ifndef ISOSLICE_CORE_DAEMON_H
#define ISOSLICE_CORE_DAEMON_H

// Set by SIGTERM or SIGINT once daemon_init has run.
extern volatile int daemon_stop;

// Reads the command line: returns the configuration file's path, or NULL after it has printed help, version
// or a usage error; *exit_code then says with what to exit. `purpose` is one sentence for --help.
const char *daemon_arguments(int argc, char **argv, const char *name, const char *purpose, int *exit_code);

// umask 077, signals (SIGPIPE ignored), crash point of the tests.
void daemon_init(void);

#endif
