// SPDX-License-Identifier: Apache-2.0
//
// How a thick slice comes out of thin ones: the slice profile along one axis. The same weights serve training
// and evaluation. Not here: where slices lie.

#ifndef ISOSLICE_TRAIN_PROFILE_H
#define ISOSLICE_TRAIN_PROFILE_H

enum profile_kind { PROFILE_GAUSS, PROFILE_BOX, PROFILE_NONE, PROFILE_N_KINDS };

enum { PROFILE_MAX_TAPS = 257 };

// Weights of the voxels at -reach..reach around a slice's centre, not normalised: those inside the volume are
// to be divided by their sum.
struct profile {
    int reach;
    double weight[PROFILE_MAX_TAPS]; // [2 * reach + 1]
};

// A profile of full width `thickness` (Gaussian: at half maximum), in voxels; support of the Gaussian:
// distances up to 3 sigma + `slack`, so that 0.5 takes the voxel that 3 sigma ends in, and 1 all that begin
// there. thickness <= 0 or PROFILE_NONE: the centre alone. The reach is cut to what the struct holds.
void profile_init(struct profile *profile, enum profile_kind kind, double thickness, double slack);

// "gauss", "box", "none"; parse gives 0 for another word.
const char *profile_name(enum profile_kind kind);
int profile_parse(const char *text, enum profile_kind *kind);

#endif
