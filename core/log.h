// SPDX-License-Identifier: Apache-2.0
//
// One line per event on stderr: time, level, program, text. Only programs (main files and the daemons' loops)
// log; libraries return faults. Never a patient's name, ID or birth date: queue ids and UIDs only.

#ifndef ISOSLICE_CORE_LOG_H
#define ISOSLICE_CORE_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

// Names the program (borrowed, static) and sets the most detailed level that is printed. Under systemd
// (JOURNAL_STREAM set) lines carry the journal's priority prefix instead of time and level.
void log_init(const char *program, enum log_level level);

// One line. Control characters and bytes from 0x7f on inside the text are written as \xNN, so that text from
// the wire cannot forge lines. Threads: one write(2) per line, lines never mix.
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
