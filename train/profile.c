// SPDX-License-Identifier: Apache-2.0
#include "train/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[PROFILE_N_KINDS] = {"gauss", "box", "none"};

const char *profile_name(enum profile_kind kind)
{
    return names[kind];
}

int profile_parse(const char *text, enum profile_kind *kind)
{
    for (int i = 0; i < PROFILE_N_KINDS; i++)
        if (strcmp(text, names[i]) == 0) {
            *kind = (enum profile_kind)i;
            return 1;
        }
    return 0;
}

void profile_init(struct profile *profile, enum profile_kind kind, double thickness, double slack)
{
    double sigma = thickness / (2 * sqrt(2 * log(2))), reach = 0;
    memset(profile, 0, sizeof *profile);
    if (thickness > 0 && kind == PROFILE_GAUSS)
        reach = floor(3 * sigma + slack);
    else if (thickness > 0 && kind == PROFILE_BOX)
        reach = ceil(thickness / 2);
    profile->reach = (int)fmin(reach, PROFILE_MAX_TAPS / 2.0 - 0.5);
    for (int i = -profile->reach; i <= profile->reach; i++) {
        double weight = 1;
        if (profile->reach > 0)
            weight = kind == PROFILE_GAUSS ? exp(-0.5 * i * i / (sigma * sigma))
                                           : fmin(1, fmax(0, thickness / 2 + 0.5 - abs(i)));
        profile->weight[i + profile->reach] = weight;
    }
}
