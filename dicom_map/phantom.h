// SPDX-License-Identifier: Apache-2.0
//
// A made-up head as a plain 2D T2 series in DICOM, for demonstrations and for tests that have no real data.
// Computed from formulas: ellipsoids for scalp, skull, fluid, brain and ventricles, folds from trigonometric
// functions, thin oblique vessels. Every slice is the average over its thickness, as a scanner's is. No
// patient.

#ifndef ISOSLICE_DICOM_MAP_PHANTOM_H
#define ISOSLICE_DICOM_MAP_PHANTOM_H

#include "core/fault.h"

#include <stdint.h>

// A zero in any field means the default.
struct phantom_options {
    int width, height;   // pixels; 192
    int n_slices;        // 20
    double pixel_mm;     // 1.0
    double slice_mm;     // distance of slice centres; 5.5
    double thickness_mm; // 5.0
    uint32_t seed;       // folds, vessels, noise and UIDs; 1
    int is_isotropic;    // 1: thin slices at pixel distance through the same range, the truth to compare with
};

// Writes IM0001.dcm ... into an existing folder. The same options give the same bytes. Errors: USAGE for
// options out of range, IO, NO_SPACE, NO_MEMORY.
int phantom_write(const char *directory, const struct phantom_options *options, struct fault_note *why);

// The phantom's signal at a point, mm in the patient's axes from the centre of the head; 0 to about 1.1. For
// tests.
double phantom_signal(uint32_t seed, double x, double y, double z);

#endif
