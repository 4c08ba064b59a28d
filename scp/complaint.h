// SPDX-License-Identifier: Apache-2.0
//
// What goes wrong again and again is said at once and then now and then, with how much of it there is: a line
// each time would bury the log. Not here: what is done about it.

#ifndef ISOSLICE_SCP_COMPLAINT_H
#define ISOSLICE_SCP_COMPLAINT_H

#include "core/log.h"

#include <stddef.h>

// Zeros to begin with.
struct complaint {
    size_t n;       // noted and not said; the caller may begin to count anew
    double next_s;  // monotonic: not said before
    char text[640]; // of the first of them
};

void complaint_add(struct complaint *complaint, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

// One line, when something was noted and none was said within every_s.
void complaint_say(struct complaint *complaint, enum log_level level, double every_s);

#endif
