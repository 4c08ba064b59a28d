// SPDX-License-Identifier: Apache-2.0
//
// The header of a derived series as one Enhanced MR object: what classic MR has at top level goes where
// Enhanced MR keeps it, and what only classic MR has stays out. Pure header work. Not here: pixels, files,
// and what the values are (derive.c makes them, in the classic form).

#ifndef ISOSLICE_DICOM_MAP_ENHANCE_H
#define ISOSLICE_DICOM_MAP_ENHANCE_H

#include "core/digest.h"
#include "core/fault.h"
#include "dicom_map/dcmtk/object.h"

#include <stddef.h>

// What the object is made of; borrowed for the call.
struct enhance {
    // What all planes have in common, as the derived classic images have it (attributes.h), with Series
    // Instance UID, references and texts of this series.
    const struct dcm_item *classic;
    // The source's Frame Anatomy (an item of (0020,9071)), when it is Enhanced MR and all frames agree; else
    // NULL: Body Part Examined and Laterality say it.
    const struct dcm_item *anatomy;
    const char *complex_component;    // Complex Image Component (0008,9208)
    const char *acquisition_contrast; // Acquisition Contrast (0008,9209)
    const char *safety_agency;        // Applicable Safety Standard Agency (0018,9174)
    const char *study_uid;            // of the sources
    char sop_uid[UID_SIZE], dimensions_uid[UID_SIZE];
    size_t n_frames;
};

// Fills `root`, an empty data set, with everything but Pixel Data and the frames' own groups. Errors:
// NO_MEMORY, INTERNAL. Source: PS3.3 A.36.2, C.7.6.16, C.7.6.17, C.8.13; Image Type DERIVED, so that most
// macros of how it was acquired may be left out, and are put in as far as the sources say.
int enhance_common(struct dcm_item *root, const struct enhance *enhance, struct fault_note *why);

// The groups of the next frame, `number` counted from 1: its place in the stack and its position, as
// Image Position (Patient) is written.
int enhance_add_frame(struct dcm_item *root, size_t number, const char *position, struct fault_note *why);

#endif
