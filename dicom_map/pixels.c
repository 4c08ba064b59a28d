// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/pixels.h"

#include "dicom_map/number.h"

#include <math.h>

enum { DS_DIGITS = 10 };

void pixels_range(const struct pixels_layout *layout, int32_t *least, int32_t *most)
{
    int32_t span = (int32_t)1 << layout->bits_stored;
    *least = layout->is_signed ? -span / 2 : 0;
    *most = *least + span - 1;
}

void pixels_unpack(const struct pixels_layout *layout, const void *samples, size_t n, int32_t *values)
{
    const uint8_t *bytes = samples;
    uint32_t mask = ((uint32_t)1 << layout->bits_stored) - 1;
    uint32_t sign = layout->is_signed ? (uint32_t)1 << (layout->bits_stored - 1) : 0;
    int shift = layout->high_bit - layout->bits_stored + 1;
    for (size_t i = 0; i < n; i++) {
        uint32_t sample =
            layout->bits_allocated == 8 ? bytes[i] : bytes[2 * i] | (uint32_t)bytes[2 * i + 1] << 8;
        uint32_t value = sample >> shift & mask;
        values[i] = (int32_t)(value ^ sign) - (int32_t)sign;
    }
}

void pixels_pack(const struct pixels_layout *layout, const int32_t *values, size_t n, uint16_t *words)
{
    uint32_t mask = ((uint32_t)1 << layout->bits_stored) - 1;
    for (size_t i = 0; i < n; i++)
        words[i] = (uint16_t)((uint32_t)values[i] & mask);
}

void pixels_common_scale(const struct pixels_scale *slices, size_t n, const struct pixels_layout *layout,
                         double *slope, double *intercept)
{
    int32_t least = 0, most = 0;
    pixels_range(layout, &least, &most);
    double coarsest = 0, low = HUGE_VAL, high = -HUGE_VAL;
    for (size_t i = 0; i < n; i++) {
        double a = slices[i].slope * slices[i].least + slices[i].intercept;
        double b = slices[i].slope * slices[i].most + slices[i].intercept;
        coarsest = fmax(coarsest, fabs(slices[i].slope));
        low = fmin(low, fmin(a, b));
        high = fmax(high, fmax(a, b));
    }
    *slope = number_rounded(coarsest, DS_DIGITS);
    *intercept = 0;
    if (low >= *slope * least && high <= *slope * most)
        return;
    // a little wider than needed, so that rounding to DS cannot push the ends out
    double needed = (high - low) / ((double)most - least) * (1 + 1e-6);
    *slope = number_rounded(fmax(coarsest, needed), DS_DIGITS);
    *intercept = number_rounded(low - *slope * least, DS_DIGITS);
}

void pixels_convert(float *values, size_t n, const struct pixels_scale *from, double slope, double intercept)
{
    for (size_t i = 0; i < n; i++)
        values[i] = (float)((from->slope * (double)values[i] + from->intercept - intercept) / slope);
}
