// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/description.h"

#include <stdio.h>
#include <string.h>

enum place { SOURCE, KIND, METHOD, SPACING, VIEW, LATE, N_PLACES };

static const struct {
    const char *name;
    size_t most; // bytes that stand for it at most; of {source}: as many as are left
} places[N_PLACES] = {{"{source}", 0},  {"{kind}", 6}, {"{method}", 6},
                      {"{spacing}", 5}, {"{view}", 4}, {"{late}", 11}};

// The placeholder at `p`; N_PLACES when there is none.
static enum place place_at(const char *p)
{
    for (enum place i = 0; i < N_PLACES; i++)
        if (strncmp(p, places[i].name, strlen(places[i].name)) == 0)
            return i;
    return N_PLACES;
}

int description_is_valid(const char *template)
{
    size_t n = 0;
    int n_sources = 0;
    for (const char *p = template; *p != '\0';) {
        enum place place = place_at(p);
        if (place != N_PLACES) {
            n += places[place].most;
            n_sources += place == SOURCE;
            p += strlen(places[place].name);
            continue;
        }
        if (*p < 0x20 || *p > 0x7e || *p == '\\' || *p == '{' || *p == '}')
            return 0;
        n++;
        p++;
    }
    return n > 0 && n <= DESCRIPTION_MOST_BYTES && n_sources <= 1 && strstr(template, "NFPD") != NULL;
}

// How much of `text` can be kept within `room` bytes without cutting a character of the source's set in two;
// -1 when that cannot be said without following its escape sequences.
static long bytes_that_fit(const char *charset, const char *text, size_t room)
{
    size_t n = strlen(text);
    if (n <= room)
        return (long)n;
    if (strcmp(charset, "ISO_IR 192") == 0) {
        while (room > 0 && ((unsigned char)text[room] & 0xC0) == 0x80)
            room--;
        return (long)room;
    }
    int single_byte =
        charset[0] == '\0' || (strncmp(charset, "ISO_IR ", 7) == 0 && strchr(charset, '\\') == NULL);
    return single_byte ? (long)room : -1;
}

void description_make(const char *template, const struct description_parts *parts,
                      char out[DESCRIPTION_MOST_BYTES + 1])
{
    const char *texts[N_PLACES] = {"", parts->kind, parts->method, parts->spacing, parts->view, parts->late};
    char before[DESCRIPTION_MOST_BYTES + 1] = "", after[DESCRIPTION_MOST_BYTES + 1] = "";
    char *part = before;
    for (const char *p = template; *p != '\0';) {
        enum place place = place_at(p);
        size_t at = strlen(part), room = sizeof before - at;
        if (place == SOURCE)
            part = after;
        else if (place != N_PLACES)
            snprintf(part + at, room, "%s", texts[place]);
        else
            snprintf(part + at, room, "%c", *p);
        p += place != N_PLACES ? strlen(places[place].name) : 1;
    }
    size_t n_before = strlen(before), n_rest = n_before + strlen(after);
    long keep = 0;
    if (part == after && n_rest < DESCRIPTION_MOST_BYTES)
        keep = bytes_that_fit(parts->charset, parts->source, DESCRIPTION_MOST_BYTES - n_rest);
    int skip = keep <= 0 && after[0] == ' ' && (n_before == 0 || before[n_before - 1] == ' ');
    snprintf(out, DESCRIPTION_MOST_BYTES + 1, "%s%.*s%s", before, keep > 0 ? (int)keep : 0, parts->source,
             after + skip);
}
