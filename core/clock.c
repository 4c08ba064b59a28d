// SPDX-License-Identifier: Apache-2.0
#include "core/clock.h"

#include <stdio.h>
#include <time.h>

double clock_monotonic_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t clock_wall_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void clock_dicom(int64_t wall_us, char date[9], char time[14])
{
    time_t seconds = (time_t)(wall_us / 1000000);
    struct tm tm;
    localtime_r(&seconds, &tm);
    strftime(date, 9, "%Y%m%d", &tm);
    char hms[7];
    strftime(hms, sizeof hms, "%H%M%S", &tm);
    snprintf(time, 14, "%s.%06d", hms, (int)((uint64_t)wall_us % 1000000));
}

void clock_iso(int64_t wall_us, char text[25])
{
    time_t seconds = (time_t)(wall_us / 1000000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    char stamp[20];
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text, 25, "%s.%03dZ", stamp, (int)((uint64_t)wall_us / 1000 % 1000));
}
