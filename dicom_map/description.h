// SPDX-License-Identifier: Apache-2.0
//
// Series Description from a template. Not here: where its parts come from. No DICOM library.

#ifndef ISOSLICE_DICOM_MAP_DESCRIPTION_H
#define ISOSLICE_DICOM_MAP_DESCRIPTION_H

#include <stddef.h>

#define DESCRIPTION_DEFAULT "{source} [{kind} {spacing}mm{view} NFPD{late}]"
enum { DESCRIPTION_MOST_BYTES = 64 }; // of the result; PS3.5 table 6.2-1 counts characters, archives bytes

// What stands for {source}, {kind}, {method}, {spacing}, {view} and {late}. Those that may be empty bring
// their own blank before them.
struct description_parts {
    const char *charset; // Specific Character Set of the source, as its value is written; "" when absent
    const char *source;  // the source's Series Description, in that set
    const char *kind;    // "SR-AI" or "INTERP"
    const char *method;  // "tuned", "base", "cubic", "linear"
    const char *spacing; // "0.60"
    const char *view;    // "", " SAG", " COR", " AX"
    const char *late;    // "", " +2 late"
};

// 1 when the template is printable ASCII without backslash, names placeholders that exist and {source} at
// most once, says NFPD (not for primary diagnosis), and leaves the 64 bytes enough whatever stands for the
// others.
int description_is_valid(const char *template);

// Fills it in. The source's text is cut, at a character, to what room the rest leaves; where it cannot be cut
// without following escape sequences, or is empty, it is left out with one blank beside it. `template` is a
// valid one.
void description_make(const char *template, const struct description_parts *parts,
                      char out[DESCRIPTION_MOST_BYTES + 1]);

#endif
