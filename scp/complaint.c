// SPDX-License-Identifier: Apache-2.0
#include "scp/complaint.h"

#include "core/clock.h"

#include <stdarg.h>
#include <stdio.h>

void complaint_add(struct complaint *complaint, const char *format, ...)
{
    if (complaint->n++ > 0)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(complaint->text, sizeof complaint->text, format, args);
    va_end(args);
}

void complaint_say(struct complaint *complaint, enum log_level level, double every_s)
{
    if (complaint->n == 0 || clock_monotonic_s() < complaint->next_s)
        return;
    if (complaint->n == 1)
        log_line(level, "%s", complaint->text);
    else
        log_line(level, "%s; and %zu more like it", complaint->text, complaint->n - 1);
    complaint->n = 0;
    complaint->next_s = clock_monotonic_s() + every_s;
}
