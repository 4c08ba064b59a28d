// SPDX-License-Identifier: Apache-2.0
//
// Stage 3: adapts the network to one subject on in-plane pairs of its own stack. All parameters, Adam from
// fresh moments, L1, warm-up and cosine decay; the weights that do best on held-out places are kept, those of
// the file included. Not here: what the numbers mean for the result (quality.h). Source: model.md sections 4
// to 6.

#ifndef ISOSLICE_SR_ENGINE_FINETUNE_H
#define ISOSLICE_SR_ENGINE_FINETUNE_H

#include "core/fault.h"
#include "sr_engine/engine.h"
#include "sr_engine/interpolate.h"
#include "sr_engine/model.h"
#include "sr_engine/pairs.h"

// How the fine-tune learns; finetune_default() is what sr_run uses.
struct finetune_recipe {
    int batch;         // samples per step; even, so that both axes are in every step
    int slices;        // retained slices of a sample
    int targets;       // planes per gap
    double rate;       // highest learning rate for trained weights
    double rate_woken; // the same for weights that were never trained, see weights_wake()
    double rate_end;   // last learning rate, as a share of the highest
    double beta2;      // decay of Adam's second moment
    int warm_up;       // steps of rising rate, at most a tenth of all
};

struct finetune_recipe finetune_default(void);

// Adapts `model`, whose parameters on return are the best that were seen. `pairs` was planned with
// recipe->slices. Fills the fine-tune's fields of `report`. options->steps > 0: as many; else as many as
// options->budget_s allows by the measured time of a step, checks included. Where no pair can be cut, or the
// budget allows no step, steps_done is 0 and the model is as it was. Errors: NO_MEMORY, DEVICE, NOT_FINITE,
// CANCELLED.
int finetune_run(struct model *model, const struct pairs *pairs, const struct finetune_recipe *recipe,
                 const struct sr_options *options, struct interpolate_limits *limits,
                 struct sr_report *report, struct fault_note *why);

#endif
