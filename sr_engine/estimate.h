// SPDX-License-Identifier: Apache-2.0
//
// Parts of a stack at isotropic spacing, as a network estimates them. In use the network sees planes that are
// fine in both directions; pairs cut from the stack itself have rows as far apart as the slices. So the
// second round of the fine-tune cuts its pairs from an estimate, and held-out places are checked on one,
// where only the rows at acquired slices count. Acquired slices do not stand in an estimate as they are: they
// are blurred and the planes between are not, and on that mixture the network before the fine-tune looked 0.3
// dB better than after it where the truth had it the other way round (docs/RESULTS.md). Not here: pairs
// (pairs.h).
// Source: model.md section 6, P1.

#ifndef ISOSLICE_SR_ENGINE_ESTIMATE_H
#define ISOSLICE_SR_ENGINE_ESTIMATE_H

#include "core/fault.h"
#include "sr_engine/interpolate.h"
#include "sr_engine/model.h"
#include "sr_engine/pairs.h"

#include <stddef.h>

// Pixels beside a part, where the image goes on, that are estimated with it and not used: zero padding has
// touched them.
enum { ESTIMATE_MARGIN = 16 };

// A part of the stack, all slices from the first to the last of it.
struct estimate_part {
    int slice, row, column, slices, rows, columns;
};

// Planes of the estimate of so many slices: from the first slice to the last, as far apart as rows are.
int estimate_depth(const struct pairs *pairs, int slices);

// Interpolates the part with the weights in the model, to [estimate_depth,rows,columns], normalised, clipped
// to [0,1]; caller's storage. Errors: NO_MEMORY, those of interpolate_planes.
int estimate_make(struct model *model, const struct pairs *pairs, struct estimate_part part,
                  struct interpolate_limits *limits, float *to, struct fault_note *why);

// Estimates the surroundings of every held-out place, for the checks (pairs_set_dense). Errors: as above.
int estimate_places(struct model *model, struct pairs *pairs, const struct interpolate_limits *limits,
                    struct fault_note *why);

#endif
