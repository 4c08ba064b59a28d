// SPDX-License-Identifier: Apache-2.0
//
// Training batches of stages 1 and 2, cut on the host: thick slices simulated from a volume or taken from a
// clip, and the true planes between them. Every batch is a pure function of (corpus, recipe, step), so a run
// that is taken up again draws what it would have drawn. Source: model.md section 5 (profile, then exact
// decimation at a random offset; weights renormalised inside the volume).

#ifndef ISOSLICE_TRAIN_SAMPLE_H
#define ISOSLICE_TRAIN_SAMPLE_H

#include "core/fault.h"
#include "sr_engine/ops.h"
#include "train/corpus.h"
#include "train/profile.h"

#include <stdint.h>

enum { SAMPLE_MAX_FACTOR = 16 };

// What is drawn.
struct sample_recipe {
    int batch;                  // samples
    int slices;                 // retained slices of each, >= 2
    int crop;                   // rows and columns; across a thick axis half as many
    int factor_min, factor_max; // spacing of retained slices, voxels or frames, 1..SAMPLE_MAX_FACTOR
    int places;                 // drawn for a sample, of which the one with most to see is taken, >= 1
    uint64_t seed;              //
    enum profile_kind profile;  // MR; clips are only decimated
    double thickness_low;       // thickness as a share of the spacing, drawn evenly
    double thickness_high;      //
    double thin_share;          // share of samples without a profile
    double noise;               // highest sigma of Gaussian noise on half of the stacks, of the range
    double planar_share;        // share of batches from the planes of thick stacks, where there are any
    double still_limit;         // clips: crops whose retained frames differ by less are mostly rejected
};

struct sample_recipe sample_default(enum corpus_kind kind);

// A batch on the host, in the layout of trainer.stack, .planes and .target with one target a gap.
struct sample_batch {
    struct sr_extent extent;
    float *stack, *planes, *target;
};

// Buffers for the largest batch of `recipe`. Errors: NO_MEMORY.
int sample_batch_init(struct sample_batch *batch, const struct sample_recipe *recipe, struct fault_note *why);
void sample_batch_done(struct sample_batch *batch);

// Checks recipe and corpus against each other once: which items can serve. Errors: NOT_FOUND with a sentence
// when none can; INTERNAL for a recipe out of range.
struct sample_source {
    const struct corpus *corpus; // borrowed
    struct sample_recipe recipe;
    size_t n_whole, n_planar; // usable items
    size_t *whole, *planar;   // their indices; owner: sample_source_done
    double *weight;           // of whole items, running sum of the frames (clips)
};
int sample_source_init(struct sample_source *source, const struct corpus *corpus,
                       const struct sample_recipe *recipe, struct fault_note *why);
void sample_source_done(struct sample_source *source);

// The batch of step `step`. Errors: NOT_FOUND when a thousand tries found nothing (a corpus of stills).
int sample_draw(const struct sample_source *source, uint64_t step, struct sample_batch *batch,
                struct fault_note *why);

#endif
