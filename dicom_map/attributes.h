// SPDX-License-Identifier: Apache-2.0
//
// The one table of attributes of a derived object: what is copied from the source, what is new, what is never
// there. A derived object is built from nothing; what is not in this table does not get in. Not here: the
// values.

#ifndef ISOSLICE_DICOM_MAP_ATTRIBUTES_H
#define ISOSLICE_DICOM_MAP_ATTRIBUTES_H

#include <stddef.h>
#include <stdint.h>

// "Same" means the same bytes in every slice of the stack: not for what is only alike in all of them by a
// tolerance (stack.h), such as spacings and orientations. "Or empty" is for type 2: empty where there is
// none. "Or fail" is for type 1, which every source of a stack has: nothing is written without it.
enum attribute_rule {
    ATTRIBUTE_COPY_FIRST, // from the first slice, whatever the others say
    ATTRIBUTE_COPY_FIRST_OR_EMPTY,
    ATTRIBUTE_COPY_FIRST_OR_FAIL,
    ATTRIBUTE_COPY_SAME, // only if it is the same in all
    ATTRIBUTE_COPY_SAME_OR_EMPTY,
    ATTRIBUTE_NEW,        // derive.c gives the value
    ATTRIBUTE_RECOMPUTED, // derive.c computes the value from the sources'
    ATTRIBUTE_NEVER,      // kept out, and worth saying so
};

struct attribute {
    uint32_t tag;
    char vr[3];
    enum attribute_rule rule;
    const char *name;
};

// In order of tags.
extern const struct attribute attributes[];
extern const size_t n_attributes;

// NULL when the tag is not in the table.
const struct attribute *attribute_find(uint32_t tag);

// 1 when the text is a legal value of that VR (PS3.5 table 6.2-1), as far as de-identification and old
// scanners break it: AS CS DA DS IS TM UI; all other VRs pass.
int attribute_is_legal(const char *vr, const char *text);

// A Specific Character Set as PS3.3 C.12.1.1.2 spells it: archives and scanners write "ISO-IR 100", "iso_ir
// 100" or "UTF-8", and readers take what they mean. What is not recognised stays as it is. 1 when every value
// is legal then.
int attribute_charset(const char *text, char *out, size_t size);

#endif
