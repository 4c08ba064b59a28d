// SPDX-License-Identifier: Apache-2.0
//
// Body Part Examined, a word, and Anatomic Region, a code: which belongs to which, for the regions that MR is
// made of and where there is but one answer. Not here: attributes.

#ifndef ISOSLICE_DICOM_MAP_ANATOMY_H
#define ISOSLICE_DICOM_MAP_ANATOMY_H

// A region. Source: PS3.16 annex L (Body Part Examined), CID 4031.
struct anatomy {
    const char *body_part; // defined term of Body Part Examined (0018,0015)
    const char *code;      // SNOMED CT (coding scheme SCT)
    const char *old_code;  // SNOMED CT in earlier editions of CID 4031; NULL: the same
    const char *srt;       // SNOMED RT (coding scheme SRT), as older objects have it
    const char *meaning;
};

// NULL where the table has none.
const struct anatomy *anatomy_of_body_part(const char *body_part);
const struct anatomy *anatomy_of_code(const char *scheme, const char *code);

#endif
