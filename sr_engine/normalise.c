// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/normalise.h"

#include <math.h>

int normalise_range(const float *values, size_t n, double *low, double *high, struct fault_note *why)
{
    float least = values[0], most = least;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i]))
            return fault_set(why, FAULT_NOT_FINITE, "voxel %zu of the stack is not finite", i);
        least = values[i] < least ? values[i] : least;
        most = values[i] > most ? values[i] : most;
    }
    *low = (double)least;
    *high = (double)most;
    return 0;
}

void normalise(const float *values, size_t n, double low, double high, float *out)
{
    double scale = 1 / (high - low);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(((double)values[i] - low) * scale);
}
