// SPDX-License-Identifier: Apache-2.0
//
// One frame of Enhanced MR as if it were a classic MR image: where each classic attribute stands in the
// functional groups, and a header made of them, so that whoever works with classic headers need not know. Not
// here: pixels, the decision whether a frame is wanted (stack.h).

#ifndef ISOSLICE_DICOM_MAP_FRAME_H
#define ISOSLICE_DICOM_MAP_FRAME_H

#include "core/fault.h"
#include "dicom_map/dcmtk/object.h"

#include <stddef.h>
#include <stdint.h>

// Where to look; all borrowed from the object, NULL where there is none.
struct frame_view {
    const struct dcm_item *root;
    const struct dcm_item *frame, *shared;               // functional groups: of this frame, of all
    const struct dcm_item *converted, *shared_converted; // classic attributes that a conversion kept as they
                                                         // were (Legacy Converted Enhanced MR)
};

// The frame counts from 0.
void frame_view_init(struct frame_view *view, const struct dcm_object *object, int frame);

// A functional group macro: the frame's own, else the shared one, else NULL.
const struct dcm_item *frame_group(const struct frame_view *view, uint32_t macro);

// Where the value of a classic attribute stands: *item and *tag. Looked for in the functional groups, in what
// a conversion kept, at top level; position, orientation and pixel spacing in the groups alone. 1 when there
// is a value. Source: PS3.3 C.7.6.16, C.8.13, A.71.
int frame_find(const struct frame_view *view, uint32_t classic, const struct dcm_item **item, uint32_t *tag);

// Scanning Sequence (0018,0020) in the terms of PS3.3 C.8.3.1, from Echo Pulse Sequence and its kin. 0 when
// nothing says how the frame was acquired.
int frame_scanning_sequence(const struct frame_view *view, char *out, size_t size);

// Contrast/Bolus Agent (0018,0010): the agents' names, empty where none was given for this frame.
void frame_contrast_agent(const struct frame_view *view, char *out, size_t size);

// A header with every attribute of the table in attributes.h that the frame has, as classic MR holds it; also
// Frame Anatomy, Complex Image Component, Acquisition Contrast and Applicable Safety Standard Agency, for who
// makes Enhanced MR of it (derive.c). *classic is given to the caller (dcm_object_free). Errors: NO_MEMORY,
// INTERNAL, CONFIG.
int frame_flatten(const struct dcm_object *object, int frame, struct dcm_object **classic,
                  struct fault_note *why);

#endif
