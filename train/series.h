// SPDX-License-Identifier: Apache-2.0
//
// DICOM series as volumes for training and evaluation: where dicom_map and train/ meet. A library of its own
// (isoslice_series), so that train/ itself builds without DICOM.

#ifndef ISOSLICE_TRAIN_SERIES_H
#define ISOSLICE_TRAIN_SERIES_H

#include "train/volume.h"

// A volume_series_fn. One volume a stack, x = column, y = row, z = slice, stored values (one scale where the
// rescale varies). Stacks are found and refused as `isoslice run` does, except that thin and
// three-dimensional ones serve. What is refused, or cannot be decoded, goes to reader->left_out with its
// reason. Errors: IO, NO_MEMORY, INTERNAL, those of take.
int series_read(const char *const *paths, size_t n_paths, const struct volume_reader *reader,
                struct fault_note *why);

#endif
