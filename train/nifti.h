// SPDX-License-Identifier: Apache-2.0
//
// Reads one volume from a NIfTI-1 file, plain or compressed. Files come from people: every size is checked
// before it is used. Not here: orientation in the patient (training needs the grid alone), writing.

#ifndef ISOSLICE_TRAIN_NIFTI_H
#define ISOSLICE_TRAIN_NIFTI_H

#include "core/fault.h"

#include <stddef.h>
#include <stdint.h>

// A volume; caller's storage.
struct nifti {
    int size[3];          // x, y, z; x fastest in memory
    double spacing_mm[3]; // absolute values
    int is_bytes;         // stored as uint8 without scaling
    float *voxels;        // owner: nifti_done
};

// Reads the first volume of `path` (.nii or .nii.gz): uint8, int16, uint16 or float32, scl_slope and
// scl_inter applied, either byte order. Errors: IO, NO_MEMORY, TOO_LARGE, TRUNCATED, BAD_HEADER, NOT_FINITE;
// nothing is held then. Source: NIfTI-1 data format, nifti1.h.
int nifti_read(const char *path, struct nifti *nifti, struct fault_note *why);
void nifti_done(struct nifti *nifti);

// 8 bits a voxel: bytes as they are stored; other types stretched from the least value to the 99.95th
// percentile. bytes [n voxels], caller's. Errors: NO_MEMORY.
int nifti_to_bytes(const struct nifti *nifti, uint8_t *bytes, struct fault_note *why);

size_t nifti_count(const struct nifti *nifti);

#endif
