// SPDX-License-Identifier: Apache-2.0
//
// In-plane pairs of one thick-slice stack: along a row or a column the stack is as fine as its pixels, so an
// in-plane axis, blurred and decimated, plays the slice axis, and what was between the retained lines is the
// truth. Here: where pairs may be cut, which tenth of the image is held out for checking, and how a line is
// degraded. Not here: the network. Source: model.md sections 5 and 6.

#ifndef ISOSLICE_SR_ENGINE_PAIRS_H
#define ISOSLICE_SR_ENGINE_PAIRS_H

#include "core/fault.h"
#include "sr_engine/engine.h"
#include "sr_engine/ops.h"
#include "sr_engine/recipe.h"

#include <stddef.h>
#include <stdint.h>

enum { PAIRS_MAX_PLACES = 2, PAIRS_WIDTH = 64 };

struct pairs_dense;

// A rectangle of the image, through all slices.
struct pairs_place {
    int row, column, rows, columns;
};

// One stack as a source of pairs; caller's storage (pairs_done), the voxels are borrowed.
struct pairs {
    const float *voxels; // [depth,height,width], normalised
    int depth, height, width;
    double profile; // FWHM of the slice profile as a share of the slice distance: thickness / spacing, 1 when
                    // unknown
    enum sr_axes axes; // that samples and checks are cut along: the recipe's, less one that was resampled
    int smooth_axis;   // of the stack: that one; 0: none
    int factor[3]; // by axis (1: rows, 2: columns): pixels per slice distance, at least 2; 0: too short to be
                   // used
    int n_places;  // 0: the image is too small to hold anything out
    struct pairs_place places[PAIRS_MAX_PLACES];
    // of the training samples
    int slices;              // retained slices of a sample; 0: no sample can be cut
    int rows, columns;       // of a sample's planes: rows run through the slices, columns across
    int factor_true;         // the largest that fits, at most the true one
    int factor_min;          // from here to factor_true is drawn
    struct sr_recipe recipe; // what is drawn
    int row_step;            // of a check's rows every so-many-th was acquired, the first among them; 1: all
    // A place's surroundings with rows as fine as columns, on which its checks look; NULL: on the stack
    // itself.
    struct pairs_dense *dense[PAIRS_MAX_PLACES];
    double *detail; // [height+1,width+1] gradient magnitude summed over all slices and from the first row
                    // and column on; NULL unless the recipe asks for detail
};

// Plans places and samples: recipe->slices retained slices are wanted per sample, fewer are taken where the
// image is short. Places: two squares of 5 % of the image each, one of middling to high detail, the other far
// from it; the choice depends on the stack alone. An axis that was resampled to finer pixels (smooth_axis)
// serves neither samples nor checks: what it lacks is not known. Errors: NO_MEMORY; nothing is held then.
int pairs_plan(struct pairs *pairs, const struct sr_stack *stack, const float *voxels,
               const struct sr_recipe *recipe, struct fault_note *why);

// The same for a volume [depth,rows,columns] of isotropic voxels that stands for the part of `stack` whose
// first pixel is (row, column): samples keep out of the same places. Errors: as above.
int pairs_plan_volume(struct pairs *pairs, const struct pairs *stack, const float *voxels, int depth, int row,
                      int column, int rows, int columns, struct fault_note *why);

// How far beside a place its checks look, pixels.
int pairs_reach(const struct pairs *pairs);
// Has the checks of a place look at voxels [depth,rows,columns], from (row, column) of the image on,
// whose planes 0, factor[1], 2 factor[1], ... are acquired slices. Owner: voxels become the pairs', also
// on error. Errors: NO_MEMORY.
int pairs_set_dense(struct pairs *pairs, int place, float *voxels, int depth, int row, int column, int rows,
                    int columns, struct fault_note *why);

// FWHM of the slice profile as a share of the slice distance, at most 2; 1 when the thickness is unknown.
double pairs_profile(const struct sr_stack *stack);

// A struct that was zeroed but never planned is fine.
void pairs_done(struct pairs *pairs);

// Sample number `number` under `seed`, with n_targets planes per gap. Its voxels, the tails of its profile
// included, keep out of all held-out places. Factor, axis and place as the recipe has them; flips on every
// axis; patches that are nearly constant are drawn again. pairs->slices must not be 0.
struct sr_cut pairs_draw(const struct pairs *pairs, uint64_t seed, uint64_t number, int n_targets);

// The window of rows x columns with the most detail in the middle slice, searched in steps of 16 pixels.
void pairs_find_window(const struct pairs *pairs, int rows, int columns, int *row, int *column);
// That part of slice z: out [rows,columns].
void pairs_copy_window(const struct pairs *pairs, int z, int row, int column, int rows, int columns,
                       float *out);

// A held-out place as a stack to be interpolated along `axis`; owner: the caller (pairs_check_done).
struct pairs_check {
    float *stack; // [depth,rows,columns], degraded; rows run through the slices of the source
    float *truth; // [n_planes,rows,columns]
    int depth, rows, columns;
    int row_step; // of the rows every so-many-th is scored, from the first on
    size_t n_planes;
    struct sr_plane *planes;     // those asked for, inside the place
    int first_column, n_columns; // what is scored of a row; the rest is margin
};

// Every plane of `place` at the true factor, or with stride > 1 every stride-th of them, or so many more that
// every share of a gap has its turn. Retained ones are among them: in the stack they are blurred, and a
// network is to give them sharp. At most 64 rows. Errors: NO_MEMORY; NOTHING_TO_DO when the place holds no
// whole gap along that axis, or the axis was resampled.
int pairs_check_init(struct pairs_check *check, const struct pairs *pairs, int axis, int place, int stride,
                     struct fault_note *why);
// What leaving every second slice out would be if the slices lay along `axis`: the place blurred by the
// slice's profile, retained at twice the true factor, and midway between them, blurred alike, the truth.
// Errors: as above.
int pairs_control_init(struct pairs_check *check, const struct pairs *pairs, int axis, int place,
                       struct fault_note *why);
void pairs_check_done(struct pairs_check *check);

#endif
