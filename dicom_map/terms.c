// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/terms.h"

#include <stddef.h>
#include <string.h>

int terms_have(const char *values, const char *term)
{
    size_t n = strlen(term);
    for (const char *p = values; p != NULL; p = strchr(p, '\\')) {
        if (*p == '\\')
            p++;
        if (strncmp(p, term, n) == 0 && (p[n] == '\0' || p[n] == '\\'))
            return 1;
    }
    return 0;
}

// In order of what is believed first: phases are harmed most by being taken for something else.
static const struct {
    const char *term;
    enum slice_text text;
    enum component component;
} components[] = {
    {"PHASE", SLICE_COMPLEX_COMPONENT, COMPONENT_PHASE},
    {"GE 1", SLICE_COMPLEX_COMPONENT, COMPONENT_PHASE},
    {"P", SLICE_IMAGE_TYPE, COMPONENT_PHASE},
    {"PHASE", SLICE_IMAGE_TYPE, COMPONENT_PHASE},
    {"PHASE MAP", SLICE_IMAGE_TYPE, COMPONENT_PHASE},
    {"PHASE_MAP", SLICE_IMAGE_TYPE, COMPONENT_PHASE},
    {"VELOCITY MAP", SLICE_IMAGE_TYPE, COMPONENT_PHASE}, // of Philips: the phase of phase contrast
    {"MAGNITUDE", SLICE_COMPLEX_COMPONENT, COMPONENT_MAGNITUDE},
    {"REAL", SLICE_COMPLEX_COMPONENT, COMPONENT_REAL},
    {"IMAGINARY", SLICE_COMPLEX_COMPONENT, COMPONENT_IMAGINARY},
    {"GE 0", SLICE_COMPLEX_COMPONENT, COMPONENT_MAGNITUDE},
    {"GE 2", SLICE_COMPLEX_COMPONENT, COMPONENT_REAL},
    {"GE 3", SLICE_COMPLEX_COMPONENT, COMPONENT_IMAGINARY},
    {"M", SLICE_IMAGE_TYPE, COMPONENT_MAGNITUDE},
    {"R", SLICE_IMAGE_TYPE, COMPONENT_REAL},
    {"REAL", SLICE_IMAGE_TYPE, COMPONENT_REAL},
    {"I", SLICE_IMAGE_TYPE, COMPONENT_IMAGINARY},
    {"IMAGINARY", SLICE_IMAGE_TYPE, COMPONENT_IMAGINARY},
};

enum component terms_component(const struct slice *slice)
{
    for (size_t i = 0; i < sizeof components / sizeof components[0]; i++)
        if (terms_have(slice->texts[components[i].text], components[i].term))
            return components[i].component;
    return COMPONENT_MAGNITUDE;
}
