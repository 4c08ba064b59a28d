// SPDX-License-Identifier: Apache-2.0
//
// The subcommands of isoslice: each a function with main's contract, argv[0] being the subcommand's name.
// Exit codes: 0 done; 1 internal; 2 usage; more where a command's help says so.

#ifndef ISOSLICE_CLI_COMMAND_H
#define ISOSLICE_CLI_COMMAND_H

#include "core/fault.h"
#include "core/version.h"

#define COMMAND_CONFIG_FILE ISOSLICE_CONFIG_FILE // without --config

int command_run(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_rules(int argc, char **argv);
int command_node(int argc, char **argv);
int command_queue(int argc, char **argv);
int command_echo(int argc, char **argv);
int command_check_config(int argc, char **argv);
int command_phantom(int argc, char **argv);
int command_new_weights(int argc, char **argv);
int command_train(int argc, char **argv);
int command_train_subject(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_convert_weights(int argc, char **argv);
int command_bench(int argc, char **argv);

// Prints "isoslice COMMAND: TEXT; see isoslice COMMAND --help" and returns 2.
int command_usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Prints "isoslice COMMAND: FAULT: text" and returns the exit code that goes with it: 2 for USAGE and CONFIG,
// else 1.
int command_fault(const char *command, const struct fault_note *why);

// A whole number from `text` within [min, max], or a real one; 0 when it is none.
int command_parse_int(const char *text, long long min, long long max, long long *value);
int command_parse_real(const char *text, double min, double max, double *value);

// 1 for the names that --backend takes: auto, cpu, cuda, cuda16, ref.
int command_is_backend(const char *text);

#endif
