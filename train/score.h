// SPDX-License-Identifier: Apache-2.0
//
// How near a result is to the truth. Range R: the 99.9th percentile of the truth; both volumes are clipped to
// [0, R] first. Agrees with scikit-image 0.19 to rounding.

#ifndef ISOSLICE_TRAIN_SCORE_H
#define ISOSLICE_TRAIN_SCORE_H

#include "core/fault.h"

#include <stddef.h>

enum score_kind {
    SCORE_PSNR,
    SCORE_PSNR_BETWEEN,
    SCORE_PSNR_HEAD,
    SCORE_SSIM_3D,
    SCORE_SSIM_PLANES,
    SCORE_N
};

// "psnr", "psnr_between", "psnr_head", "ssim3d", "ssim_planes"
const char *score_name(enum score_kind kind);

// truth, result [depth,height,width]; every `factor`-th slice from the first was acquired. values[SCORE_N]:
//   psnr          10 log10(R^2 / mean squared difference), dB
//   psnr_between  of the slices between the acquired ones
//   psnr_head     of the voxels whose truth is above 0.02 R
//   ssim3d        mean structural similarity, cube of 7, uniform weights, sample covariance, inside the
//   border of 3 ssim_planes   the same in two dimensions, mean over every 4th plane [depth,width] and
//   [depth,height]
// A similarity is NaN where an axis is shorter than 7. Errors: NO_MEMORY. Source: Wang et al., IEEE TIP
// 13(4), 2004, with K1 = 0.01 and K2 = 0.03.
int score_volumes(const float *truth, const float *result, int depth, int height, int width, int factor,
                  double values[SCORE_N], struct fault_note *why);

// Mean structural similarity of x and y [depth,height,width] with a window of 7 on every axis (1 along an
// axis of length 1). Errors: NO_MEMORY.
int score_ssim(const double *x, const double *y, int depth, int height, int width, double range, double *mean,
               struct fault_note *why);

#endif
