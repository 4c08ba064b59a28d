// SPDX-License-Identifier: Apache-2.0
//
// Time, in the three forms that are needed: monotonic seconds for durations, wall-clock microseconds for rows
// in the queue, and DICOM's DA and TM texts. Everybody may include this.

#ifndef ISOSLICE_CORE_CLOCK_H
#define ISOSLICE_CORE_CLOCK_H

#include <stdint.h>

// Seconds since some fixed moment; never goes back.
double clock_monotonic_s(void);

// Microseconds since 1970-01-01 UTC.
int64_t clock_wall_us(void);

// Local date and time of `wall_us` as DA (YYYYMMDD) and TM (HHMMSS.FFFFFF), PS3.5 table 6.2-1.
void clock_dicom(int64_t wall_us, char date[9], char time[14]);

// ISO 8601 in UTC, "2026-01-05T10:15:00.123Z".
void clock_iso(int64_t wall_us, char text[25]);

#endif
