// SPDX-License-Identifier: Apache-2.0
//
// The choices that a job leaves open: what the fine-tune learns from and changes, and how the network is used
// afterwards. One table names them all, for command lines, reports and the parameters that a derived series
// is identified by. Not here: which of them are worth it (docs/RESULTS.md has the measurements behind the
// defaults). Everything may include this.

#ifndef ISOSLICE_SR_ENGINE_RECIPE_H
#define ISOSLICE_SR_ENGINE_RECIPE_H

#include "core/fault.h"

#include <stddef.h>

// What of the network is trained.
enum sr_part {
    SR_PART_ALL,     // every parameter
    SR_PART_DECODER, // attention and MLP; the encoder stays as it is
    SR_PART_TAIL,    // the encoder's last convolution as well
    SR_PART_LORA,    // a correction of low rank to every matrix, see lora.h
};

enum sr_axes { SR_AXES_BOTH, SR_AXES_ROWS, SR_AXES_COLUMNS };

// What stands on planes where a slice was acquired.
enum sr_acquired {
    SR_ACQUIRED_ONE,  // the network, its attention window towards the next slice: the method as published
    SR_ACQUIRED_BOTH, // the mean over the windows towards either side
    SR_ACQUIRED_KEPT, // the slice itself
};

struct sr_recipe {
    // the fine-tune's steps
    int batch;         // samples per step; even, so that both axes are in every step
    int slices;        // retained slices of a sample
    int targets;       // planes per gap
    double rate;       // highest learning rate for trained weights
    double rate_woken; // the same for weights that were never trained, see weights_wake()
    double rate_end;   // last learning rate, as a share of the highest
    double beta2;      // decay of Adam's second moment
    int warm_up;       // steps of rising rate, at most a tenth of all
    double average; // decay of the moving average of the weights, which is then what is checked and kept; 0:
                    // none
    int part;       // enum sr_part
    int rank;       // of SR_PART_LORA
    // its samples
    int axes;            // enum sr_axes: along which pairs are cut
    double factor_low;   // least drawn factor, as a share of the true one, which is the largest
    double true_share;   // share of samples with exactly the true factor
    int detail;          // non-zero: places are drawn in proportion to the gradient they hold
    double second_round; // share of the steps, the last ones, whose pairs are cut from an isotropic estimate;
                         // of weights that were never trained at most half
    int blend;           // non-zero: weights part of the way from the first to the last are tried, too
    // use
    int ensemble;       // passes over flipped stacks that are averaged: 1, 2 (slices), 4 (and rows), 8 (and
                        // columns)
    int acquired;       // enum sr_acquired
    double consistency; // share of the correction that makes the result, blurred, agree with the slices; none
                        // is made where slices overlap by more than a quarter of their distance
};

struct sr_recipe sr_recipe_default(void);

// The same for who asks for a network as its weights file has it: one pass and nothing done to its result.
struct sr_recipe sr_recipe_bare(void);

// Sets what `text` says: "name=value" or several of them with ':' between. Errors: CONFIG with the name, the
// range or the choices; *recipe is then unspecified.
int sr_recipe_set(struct sr_recipe *recipe, const char *text, struct fault_note *why);

// What differs from the defaults, in the order of the table and in sr_recipe_set's own notation; "" for none.
// Returns 0, or CONFIG when it does not fit.
int sr_recipe_say(const struct sr_recipe *recipe, char *out, size_t size, struct fault_note *why);

// One line of help for entry `index`: name, values, default and meaning. 0 past the end of the table.
int sr_recipe_help(size_t index, char *out, size_t size);

#endif
