// SPDX-License-Identifier: Apache-2.0
//
// A set of DICOM files, sorted into what can be processed (stacks) and what cannot (refusals, each with a
// code and a sentence with the numbers). Reads headers only; pixels come from source_load_voxels. Not here:
// the queue, pixels' meaning, writing. C17; DCMTK stays in dicom_map/dcmtk/.

#ifndef ISOSLICE_DICOM_MAP_SOURCE_H
#define ISOSLICE_DICOM_MAP_SOURCE_H

#include "core/digest.h"
#include "core/fault.h"
#include "dicom_map/label.h"

#include <stddef.h>

struct source;

// One stack, or one group of instances that is refused for one reason.
struct source_item {
    char study_uid[UID_SIZE];
    char series_uid[UID_SIZE];         // of the source series
    int stack_index;                   // 0, 1, ... within the series, in order of position
    enum fault verdict;                // FAULT_OK: a stack to process; else why it is refused
    char reason[512];                  // the sentence with the numbers; empty for FAULT_OK
    char warnings[512];                // "; "-joined, empty when there are none; no patient data
    size_t n_images;                   // images (frames) in it
    char labels[N_LABELS][LABEL_SIZE]; // of its first image, bytes in its character set; empty when absent
    // The grid; valid when verdict is FAULT_OK (and zero where unknown otherwise).
    int depth, height, width; // slices, rows, columns
    int resampled_axis;       // 1: rows, 2: columns are resampled in plane (square.h); 0: neither
    double row_mm, column_mm; // Pixel Spacing; of the smaller size where pixels far from square are resampled
    double slice_mm;          // median distance of slice centres
    double thickness_mm;      // Slice Thickness; 0 when absent
    double gap_mm;            // slice_mm - thickness_mm; negative: overlap
    double normal[3];         // of the planes: row x column
    const double *z_mm;       // [depth] positions along the normal, ascending; owned by the source
};

// The largest object that is read; one at a time is in memory as a whole.
#define SOURCE_MAX_BYTES          ((size_t)512 << 20)
#define SOURCE_MAX_ENHANCED_BYTES ((size_t)2 << 30) // of Enhanced MR and Legacy Converted Enhanced MR

// Opens files and folders (folders are searched recursively, names are irrelevant, links to folders not
// followed). What is not DICOM becomes a refusal of its own (NOT_DICOM, one item for all such files, counted
// and the first named). Items are ordered by series UID, then stack index. Errors: IO when a path given
// cannot be read at all, NO_MEMORY, INTERNAL. *source is given to the caller (source_free).
int source_open(const char *const *paths, size_t n_paths, struct source **source, struct fault_note *why);
// The same for training data: thin and three-dimensional stacks serve too (stack.h). Not for derive.h.
int source_open_to_learn(const char *const *paths, size_t n_paths, struct source **source,
                         struct fault_note *why);
void source_free(struct source *source);

size_t source_n_items(const struct source *source);
const struct source_item *source_item(const struct source *source, size_t item);

// Decodes the pixels of a stack. voxels: [depth,height,width] stored values (sign and Bits Stored applied,
// rescale not applied unless it varies over the stack, see pixels.h; between them where pixels are resampled
// in plane, see square.h), caller's storage. Errors: IO, DECODE,
// PIXEL_SIZE, LOSSY, NO_MEMORY.
int source_load_voxels(const struct source *source, size_t item, float *voxels, struct fault_note *why);

// Value that leaves the whole field: keeps only the central rows x columns of every slice from now on
// (adjusting positions), for tests on small parts of real series; counted before resampling in plane. Smaller
// images stay as they are.
int source_crop(struct source *source, size_t item, int rows, int columns, struct fault_note *why);

#endif
