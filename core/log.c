// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include "core/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *log_program = "isoslice";
static enum log_level log_limit = LOG_LEVEL_INFO;
static int log_to_journal;

void log_init(const char *program, enum log_level level)
{
    log_program = program;
    log_limit = level;
    log_to_journal = getenv("JOURNAL_STREAM") != NULL;
}

void log_line(enum log_level level, const char *format, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    static const int priorities[] = {3, 4, 6, 7};
    if (level > log_limit)
        return;
    char text[2048], line[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    int n;
    if (log_to_journal) {
        n = snprintf(line, sizeof line, "<%d>", priorities[level]);
    } else {
        char stamp[25];
        clock_iso(clock_wall_us(), stamp);
        n = snprintf(line, sizeof line, "%s %s %s[%d]: ", stamp, names[level], log_program, (int)getpid());
    }
    size_t at = n > 0 ? (size_t)n : 0;
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0' && at < sizeof line - 6; p++) {
        if (*p < 0x20 || *p >= 0x7f)
            at += (size_t)snprintf(line + at, 5, "\\x%02x", *p);
        else
            line[at++] = (char)*p;
    }
    line[at++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, at);
    (void)written; // there is nowhere left to report it
}
