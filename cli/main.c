// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"
#include "core/file.h"
#include "core/log.h"
#include "core/version.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"run", command_run, "turn a folder of DICOM files into isotropic derived series"},
    {"inspect", command_inspect, "say what would become of DICOM files, and why"},
    {"node", command_node, "receive, work and send, all three daemons as children"},
    {"queue", command_queue,
     "look at the queue and decide: list, status, show, retry, anew, hold, release, remove"},
    {"rules", command_rules, "say which rule decides on DICOM files, and what it decides"},
    {"echo", command_echo, "ask a destination whether it answers (C-ECHO)"},
    {"check-config", command_check_config, "check a configuration file, print it or a sample"},
    {"phantom", command_phantom, "write a computed thick-slice MR series to try things with"},
    {"train", command_train, "train the network on video or high-resolution volumes"},
    {"eval", command_eval, "compare methods with the truth on simulated thick slices"},
    {"bench", command_bench, "how fast the engine is here, beside the machine's peak"},
    {"convert-weights", command_convert_weights,
     "PyTorch checkpoint to safetensors and back; the mean of several"},
    {"new-weights", command_new_weights, "write untrained weights whose result is linear interpolation"},
};

int command_usage_error(const char *command, const char *format, ...)
{
    va_list args;
    fprintf(stderr, "isoslice %s: ", command);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "; see isoslice %s --help\n", command);
    return 2;
}

int command_fault(const char *command, const struct fault_note *why)
{
    fprintf(stderr, "isoslice %s: %s: %s\n", command, fault_name(why->fault), why->text);
    return why->fault == FAULT_USAGE || why->fault == FAULT_CONFIG ? 2 : 1;
}

int command_parse_int(const char *text, long long min, long long max, long long *value)
{
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return *text != '\0' && *end == '\0' && errno == 0 && *value >= min && *value <= max;
}

int command_parse_real(const char *text, double min, double max, double *value)
{
    char *end;
    errno = 0;
    *value = strtod(text, &end);
    return *text != '\0' && *end == '\0' && errno == 0 && isfinite(*value) && *value >= min && *value <= max;
}

static void print_help(FILE *out)
{
    fputs(
        "usage: isoslice COMMAND ...\n\n"
        "Turns thick-slice 2D MR series into isotropic ones: as a DICOM node beside a PACS, or on files.\n\n",
        out);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(out, "  %-17s%s\n", commands[i].name, commands[i].help);
    fputs("\nisoslice COMMAND --help explains each; isoslice --version prints the version.\n"
          "Not for primary diagnosis.\n",
          out);
}

int command_is_backend(const char *text)
{
    static const char *const names[] = {"auto", "cpu", "cuda", "cuda16", "ref"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(text, names[i]) == 0)
            return 1;
    return 0;
}

int main(int argc, char **argv)
{
    umask(077); // everything we write may hold patient data
    signal(SIGPIPE, SIG_IGN);
    log_init("isoslice", LOG_LEVEL_INFO);
    file_arm_crash_point();
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("isoslice %s\n", ISOSLICE_VERSION);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "isoslice: unknown command '%s'; see isoslice --help\n", argv[1]);
    return 2;
}
