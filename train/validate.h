// SPDX-License-Identifier: Apache-2.0
//
// How well weights do on volumes kept aside: factor 4, Gaussian profile of full width 4, all planes between
// the retained ones, in the middle of each volume. A number to watch while training; evaluation proper is
// score.h.

#ifndef ISOSLICE_TRAIN_VALIDATE_H
#define ISOSLICE_TRAIN_VALIDATE_H

#include "core/fault.h"
#include "sr_engine/interpolate.h"
#include "sr_engine/model.h"
#include "train/corpus.h"

enum { VALIDATE_FACTOR = 4, VALIDATE_CROP = 96 };

// PSNR in dB, range: the 99.9th percentile of the crop, nothing clipped; means over the volumes.
struct validate_result {
    int n_volumes;
    double network_db, linear_db;
};

// Along z of every volume of `corpus` that is no thick stack, in its middle `crop` voxels on every axis.
// Errors: NOT_FOUND when none is large enough, those of interpolate_planes.
int validate_run(struct model *model, const struct corpus *corpus, int crop,
                 struct interpolate_limits *limits, struct validate_result *result, struct fault_note *why);

#endif
