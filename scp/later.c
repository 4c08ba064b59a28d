// SPDX-License-Identifier: Apache-2.0
#include "scp/later.h"

#include "core/clock.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

void later_add(struct later *later, const char *path, double pause_s)
{
    if (later->n == later->room) {
        size_t room = later->room ? 2 * later->room : 64;
        struct later_file *grown = realloc(later->items, room * sizeof *grown);
        if (grown == NULL)
            return;
        later->items = grown;
        later->room = room;
    }
    later->items[later->n++] = (struct later_file){
        .path = XXH3_64bits(path, strlen(path)),
        .until_s = clock_monotonic_s() + pause_s,
    };
}

int later_waits(const struct later *later, const char *path)
{
    uint64_t wanted = later->n > 0 ? XXH3_64bits(path, strlen(path)) : 0;
    for (size_t i = 0; i < later->n; i++)
        if (later->items[i].path == wanted)
            return 1;
    return 0;
}

void later_forget(struct later *later)
{
    double now_s = clock_monotonic_s();
    size_t n = 0;
    for (size_t i = 0; i < later->n; i++)
        if (later->items[i].until_s > now_s)
            later->items[n++] = later->items[i];
    later->n = n;
}
