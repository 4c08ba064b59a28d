// SPDX-License-Identifier: Apache-2.0
#include "train/percentile.h"

#include <math.h>

// Reorders values [low, high] until values[k] is the one that sorting would put there, with none larger
// before it and none smaller after it. Source: Hoare's selection, as Wirth gives it.
static void select_kth(float *values, size_t n, size_t k)
{
    ptrdiff_t low = 0, high = (ptrdiff_t)n - 1, at = (ptrdiff_t)k;
    while (low < high) {
        float pivot = values[at];
        ptrdiff_t i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot)
                i++;
            while (pivot < values[j])
                j--;
            if (i <= j) {
                float swap = values[i];
                values[i++] = values[j];
                values[j--] = swap;
            }
        }
        if (j < at)
            low = i;
        if (at < i)
            high = j;
    }
}

double percentile_of(float *values, size_t n, double percent)
{
    double place = percent / 100 * (double)(n - 1);
    size_t below = (size_t)floor(place);
    double share = place - (double)below;
    select_kth(values, n, below);
    double value = (double)values[below];
    if (below + 1 >= n || share == 0)
        return value;
    float above = values[below + 1];
    for (size_t i = below + 2; i < n; i++)
        above = values[i] < above ? values[i] : above;
    return value + share * ((double)above - value);
}
