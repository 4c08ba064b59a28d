// SPDX-License-Identifier: Apache-2.0
//
// The inside of a source, for derive.c and tests of this folder only.

#ifndef ISOSLICE_DICOM_MAP_SOURCE_PARTS_H
#define ISOSLICE_DICOM_MAP_SOURCE_PARTS_H

#include "dicom_map/pixels.h"
#include "dicom_map/slice.h"
#include "dicom_map/source.h"
#include "dicom_map/square.h"

struct source_entry {
    struct source_item item;
    size_t *members; // [n_images] into source->slices, by position for a stack; NULL for files not read
    double *z_mm;    // [depth]; item.z_mm points here
    double normal[3];
    int crop_row, crop_column; // first row and column kept
    int is_cropped;
    int kept_height, kept_width; // of the acquired pixels; the item's own where nothing is resampled
    enum square_axis resampled;
    double acquired_mm; // spacing along that axis before
    // Filled by the first look at the pixels, the same every time.
    int is_loaded;
    char (*digests)[DIGEST_HEX_SIZE]; // [depth] of the decoded stored values
    struct pixels_scale *scales;      // [depth]
    int rescale_varies;
    double slope, intercept; // common, where it varies
};

struct source {
    char **paths; // [n_files]
    size_t n_files;
    struct slice *slices;
    size_t n_slices;
    struct source_entry *entries;
    size_t n_entries;
};

// The slices of a stack's planes.
static inline const struct slice *source_slice(const struct source *source, size_t item, size_t plane)
{
    return &source->slices[source->entries[item].members[plane]];
}

static inline struct pixels_layout source_layout(const struct slice *slice)
{
    return (struct pixels_layout){.bits_allocated = slice->bits_allocated,
                                  .bits_stored = slice->bits_stored,
                                  .high_bit = slice->high_bit,
                                  .is_signed = slice->is_signed};
}

// Parses the headers of a stack's slices, by position, as classic MR has them (frame.h); the files are once
// more pre-scanned and compared with what they were. headers [depth] are given to the caller, none on
// failure. Errors: IO (also when a file has changed), those of the pre-scan and of the parser.
int source_parse_headers(const struct source *source, size_t item, struct dcm_object **headers,
                         struct fault_note *why);

// The header of an item's first image as it stands in its file, whatever the verdict. Errors: as above, and
// NOT_FOUND when the item has none that could be read.
int source_parse_first(const struct source *source, size_t item, struct dcm_object **header,
                       struct fault_note *why);

// Makes sure that digests and scales are there. Threads: one at a time for one source.
int source_look_at_pixels(const struct source *source, size_t item, struct fault_note *why);

#endif
