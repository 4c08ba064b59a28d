// SPDX-License-Identifier: Apache-2.0
//
// One derivation at work, for the files derive*.c only: derive.c begins and ends it, derive_attributes.c
// builds the header that all its objects share, derive_images.c computes the voxels and writes the objects.

#ifndef ISOSLICE_DICOM_MAP_DERIVE_PARTS_H
#define ISOSLICE_DICOM_MAP_DERIVE_PARTS_H

#include "dicom_map/derive.h"
#include "dicom_map/source_parts.h"

#include <stddef.h>
#include <stdint.h>

enum { DS_DIGITS = 10, SPACING_DIGITS = 15 }; // significant ones of a decimal string

struct derivation {
    const struct derive_request *request;
    const struct source_entry *entry;
    const struct source_item *item;
    struct dcm_object **sources; // [depth] headers, by position
    const struct dcm_item *first;
    struct dcm_object *made; // everything but what changes from plane to plane
    struct dcm_item *root;
    struct pixels_layout layout;
    int32_t least, most; // that it can hold
    char series_uid[UID_SIZE];
    char date[9], time[14];    // of the job
    size_t n_clamped;          // in all planes
    int32_t smallest, largest; // of all planes
    struct view_grid grid;     // of the derived volume
    struct view view;          // of it, unless request->view is VIEW_ACQUIRED
    int rows, columns;         // of the derived images
    size_t n_images;
    int32_t *values; // [rows,columns]
    uint16_t *words;
    struct fault_note *why;
    int rc; // the first failure of a put
};

static inline const struct dcm_item *derivation_source(const struct derivation *d, size_t plane)
{
    return dcm_root(d->sources[plane]);
}

static inline const char *derive_or_empty(const char *text)
{
    return text != NULL ? text : "";
}

// UID of object `k` of a series. Errors: those of uid_from_name.
int derive_image_uid(const char *series_uid, size_t k, char uid[UID_SIZE], struct fault_note *why);

// Series Number of what is made from stack `stack` of the series that `first`, the header of a source, is of:
// place 0 for its planes, ten times the offset further on for each place after it, or tens where the source's
// number is a large one.
int derive_number(const struct dcm_item *first, int number_offset, int stack, int place);
int derive_series_number(const struct derive_request *request, const struct dcm_item *first);

// Put an attribute of the table (attributes.h) into d->root. They do nothing after a failure, which stays in
// d->rc, so that building reads as a list.
void derivation_put(struct derivation *d, uint32_t tag, const char *text);
void derivation_put_ds(struct derivation *d, uint32_t tag, double value, int digits);
void derivation_put_int(struct derivation *d, uint32_t tag, long value);
void derivation_put_short(struct derivation *d, uint32_t tag, int is_signed, int value);

// Non-zero when all sources have the same under `tag`, or none has anything.
int derivation_is_same(const struct derivation *d, uint32_t tag);

// Non-zero when `term` is one of the values of `tag`.
int derivation_has_term(const struct dcm_item *item, uint32_t tag, const char *term);

// Date and time of the job, into d.
void derivation_set_job_time(struct derivation *d);

// Fills d->root with all that does not change from image to image. Errors stay in d->rc; INTERNAL where
// something of type 1 is missing.
void derivation_build_common(struct derivation *d);

// 1 when the images are numbered in the order of their positions along the normal, -1 when against it: as the
// sources are.
int derivation_direction(const struct derivation *d);

// Checks the planes and computes all voxels once: d->n_clamped, smallest, largest. Errors: INTERNAL,
// NOT_FINITE.
int derivation_count_clamped(struct derivation *d);

// Writes all objects of the series, in the form that was asked for. Errors: those of object_file.h,
// NOT_FINITE, NO_MEMORY.
int derivation_write(struct derivation *d, int direction);

#endif
