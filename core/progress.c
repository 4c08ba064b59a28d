// SPDX-License-Identifier: Apache-2.0
#include "core/progress.h"

#include "core/clock.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR_WIDTH = 30, PLAIN_STEP_PERCENT = 10 };
static const double plain_interval_s = 15.0, bar_interval_s = 0.1;

void progress_init(struct progress *progress, volatile int *stop)
{
    memset(progress, 0, sizeof *progress);
    progress->is_terminal = isatty(STDERR_FILENO);
    progress->stop = stop;
}

static void format_left(char *out, size_t size, double seconds)
{
    if (seconds >= 3600)
        snprintf(out, size, "%d:%02d h left", (int)(seconds / 3600), (int)(seconds / 60) % 60);
    else if (seconds >= 60)
        snprintf(out, size, "%d:%02d min left", (int)(seconds / 60), (int)seconds % 60);
    else
        snprintf(out, size, "%d s left", (int)(seconds + 0.5));
}

static void show_bar(const struct progress *progress, double share, const char *left, const char *detail)
{
    char bar[BAR_WIDTH + 1];
    int full = (int)(share * BAR_WIDTH + 0.5);
    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < full ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r\033[K%-14s [%s] %3d %%  %s%s%s", progress->phase, bar, (int)(share * 100), left,
            detail ? "  " : "", detail ? detail : "");
    fflush(stderr);
}

int progress_show(void *user, const char *phase, double done, double total, const char *detail)
{
    struct progress *progress = user;
    double now = clock_monotonic_s();
    double share = total > 0 ? done / total : 1;
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    int percent = (int)(share * 100);
    int finished = share >= 1;
    if (strncmp(progress->phase, phase, sizeof progress->phase - 1) != 0) {
        progress_done(progress);
        snprintf(progress->phase, sizeof progress->phase, "%s", phase);
        progress->phase_start_s = now;
        progress->phase_start_share = share;
        progress->last_shown_s = 0;
        progress->last_percent = -PLAIN_STEP_PERCENT;
    }
    char left[32] = "";
    if (finished)
        snprintf(left, sizeof left, "%.1f s", now - progress->phase_start_s);
    else if (share > progress->phase_start_share)
        format_left(left, sizeof left,
                    (now - progress->phase_start_s) * (1 - share) / (share - progress->phase_start_share));
    if (progress->is_terminal) {
        if (finished || now - progress->last_shown_s >= bar_interval_s) {
            show_bar(progress, share, left, detail);
            progress->last_shown_s = now;
        }
    } else if (percent != progress->last_percent &&
               (finished || percent >= progress->last_percent + PLAIN_STEP_PERCENT ||
                now - progress->last_shown_s >= plain_interval_s)) {
        fprintf(stderr, "%s: %d %%%s%s%s%s\n", progress->phase, percent, *left ? ", " : "", left,
                detail ? ", " : "", detail ? detail : "");
        progress->last_percent = percent;
        progress->last_shown_s = now;
    }
    return progress->stop != NULL && *progress->stop;
}

void progress_done(struct progress *progress)
{
    if (progress->is_terminal && progress->phase[0] != '\0')
        fputc('\n', stderr);
    progress->phase[0] = '\0';
}
