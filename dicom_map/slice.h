// SPDX-License-Identifier: Apache-2.0
//
// What stacking and refusing need to know of one image (one frame of a multi-frame object), as plain numbers
// and texts. Filled by slice_read from an object, or by tests by hand. No patient data: the patient is a
// digest.

#ifndef ISOSLICE_DICOM_MAP_SLICE_H
#define ISOSLICE_DICOM_MAP_SLICE_H

#include "core/digest.h"
#include "core/fault.h"
#include "dicom_map/dcmtk/object.h"
#include "dicom_map/label.h"
#include "dicom_map/prescan.h"

#include <stddef.h>

// Which of the optional facts are there.
enum slice_has {
    SLICE_HAS_PIXELS = 1 << 0,
    SLICE_HAS_POSITION = 1 << 1,
    SLICE_HAS_ORIENTATION = 1 << 2,
    SLICE_HAS_SPACING = 1 << 3,
    SLICE_HAS_THICKNESS = 1 << 4,
    SLICE_HAS_SPACING_BETWEEN = 1 << 5,
    SLICE_HAS_B_VALUE = 1 << 6,
    SLICE_HAS_DIRECTION = 1 << 7,
    SLICE_HAS_RESCALE = 1 << 8,
    SLICE_HAS_TEMPORAL = 1 << 9,
    SLICE_HAS_ACQUISITION = 1 << 10,
    SLICE_HAS_INSTANCE = 1 << 11,
    SLICE_HAS_WINDOW = 1 << 12,
    SLICE_HAS_GROUPS = 1 << 13,   // functional groups of the frame
    SLICE_HAS_SEQUENCE = 1 << 14, // of Enhanced MR: what Scanning Sequence is made of
};

// Numbers that split a series where they differ by more than 1e-3 of their size; NAN when absent.
enum slice_number {
    SLICE_ECHO_TIME,
    SLICE_REPETITION_TIME,
    SLICE_INVERSION_TIME,
    SLICE_FLIP_ANGLE,
    SLICE_ROW_MM,
    SLICE_COLUMN_MM,
    SLICE_B_VALUE,
    SLICE_TRIGGER_TIME,
    SLICE_TEMPORAL_POSITION,
    SLICE_ECHO_NUMBER,
    SLICE_STACK_ID, // of Enhanced MR
    SLICE_N_NUMBERS
};

// Texts that split a series where they differ; empty when absent.
enum slice_text {
    SLICE_IMAGE_TYPE, // all values
    SLICE_COMPLEX_COMPONENT,
    SLICE_SEQUENCE_NAME,
    SLICE_PROTOCOL_NAME,
    SLICE_CONTRAST_AGENT,
    SLICE_N_TEXTS
};
enum { SLICE_TEXT_SIZE = 132 };

struct slice {
    size_t file;    // which file, as the reader counts them
    int frame;      // from 0
    int n_frames;   // of the object it is in
    unsigned has;   // enum slice_has
    int enhanced;   // from an Enhanced MR or Legacy Converted Enhanced MR object
    int own_output; // made by Isoslice
    int burned_in;  // Burned In Annotation is YES
    int diffusion;  // b-value > 0 or a diffusion sequence's name
    int n_rows, n_columns, samples;
    int bits_allocated, bits_stored, high_bit, is_signed;
    double position[3];       // Image Position (Patient), mm
    double row[3], column[3]; // direction cosines of Image Orientation (Patient)
    double row_mm, column_mm; // Pixel Spacing: between rows, between columns
    double thickness_mm, spacing_between_mm;
    double direction[3];     // of diffusion
    double slope, intercept; // 1 and 0 when absent
    double window_center, window_width;
    int acquisition_number, instance_number, temporal_position;
    double numbers[SLICE_N_NUMBERS];
    char texts[SLICE_N_TEXTS][SLICE_TEXT_SIZE];
    char sop_class_uid[UID_SIZE];
    char sop_uid[UID_SIZE];
    char study_uid[UID_SIZE];
    char series_uid[UID_SIZE];
    char frame_of_reference_uid[UID_SIZE]; // empty when absent
    char transfer_syntax[UID_SIZE];
    char digest[DIGEST_HEX_SIZE];         // of the data set
    char patient_digest[DIGEST_HEX_SIZE]; // of Patient ID and its issuer
    char modality[17];
    char photometric[17];
    char acquisition_type[17]; // "2D", "3D" or empty
    char acquisition_time[17]; // TM text
    char labels[N_LABELS][LABEL_SIZE];
};

// A slice with nothing known: numbers NAN, slope 1, texts empty.
void slice_init(struct slice *slice);

// Fills slices[0 .. n) with the n frames of an object whose header was parsed; n is 1 or what slice_n_frames
// says. What is malformed counts as absent. `scan` is the pre-scan of the same bytes. Errors: INTERNAL (a
// digest).
int slice_read(const struct dcm_object *object, const struct prescan *scan, struct slice *slices, int n,
               struct fault_note *why);

// How many slices slice_read makes of it: frames of Enhanced MR with functional groups for each, else 1.
int slice_n_frames(const struct dcm_object *object, const struct prescan *scan);

#endif
