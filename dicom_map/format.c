// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/format.h"

#include <string.h>

static const char *const names[FORMAT_N] = {"classic", "enhanced"};

const char *format_name(enum format format)
{
    return names[format];
}

int format_from_name(const char *text, enum format *format)
{
    for (int i = 0; i < FORMAT_N; i++)
        if (strcmp(names[i], text) == 0) {
            *format = (enum format)i;
            return 1;
        }
    return 0;
}
