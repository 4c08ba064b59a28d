// SPDX-License-Identifier: Apache-2.0
//
// Reads one volume from a NIfTI-1 file, plain or compressed. Files come from people: every size is checked
// before it is used. Not here: orientation in the patient (training needs the grid alone), writing.

#ifndef ISOSLICE_TRAIN_NIFTI_H
#define ISOSLICE_TRAIN_NIFTI_H

#include "train/volume.h"

// Reads the first volume of `path` (.nii or .nii.gz): uint8, int16, uint16 or float32, scl_slope and
// scl_inter applied, either byte order. Errors: IO, NO_MEMORY, TOO_LARGE, TRUNCATED, BAD_HEADER, NOT_FINITE,
// DECODE; nothing is held then. Source: NIfTI-1 data format, nifti1.h.
int nifti_read(const char *path, struct volume *volume, struct fault_note *why);

// Whether a file of this name is read as NIfTI.
int nifti_is_name(const char *name);

#endif
