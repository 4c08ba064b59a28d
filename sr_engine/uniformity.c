// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/uniformity.h"

#include <math.h>
#include <stdlib.h>

static const double SIGMA_OF_MEDIAN = 1.4826; // of a normal distribution

struct scratch {
    float *value;          // [H,W]
    float *high;           // [H,W] absolute values of the high-pass, those that count
    unsigned char *counts; // [H,W] of the plane in hand
};

// The k-th smallest; reorders.
static float select_nth(float *v, size_t n, size_t k)
{
    size_t low = 0, high = n - 1;
    while (low < high) {
        float pivot = v[low + (high - low) / 2];
        size_t i = low, j = high;
        for (;;) {
            while (v[i] < pivot)
                i++;
            while (pivot < v[j])
                j--;
            if (i >= j)
                break;
            float other = v[i];
            v[i++] = v[j];
            v[j--] = other;
        }
        // v[low..j] <= pivot <= v[j+1..high]
        if (k <= j)
            high = j;
        else
            low = j + 1;
    }
    return v[k];
}

// Standard deviation of the noise where all four pixels count; 0 where none do.
static double noise_of(const float *v, const struct scratch *scratch, int height, int width)
{
    size_t n = 0, w = (size_t)width;
    for (size_t y = 0; y + 1 < (size_t)height; y++)
        for (size_t x = 0; x + 1 < w; x++) {
            size_t at = y * w + x;
            if (scratch->counts[at] && scratch->counts[at + 1] && scratch->counts[at + w] &&
                scratch->counts[at + w + 1])
                scratch->high[n++] = fabsf(v[at] - v[at + 1] - v[at + w] + v[at + w + 1]) / 2;
        }
    return n > 0 ? SIGMA_OF_MEDIAN * (double)select_nth(scratch->high, n, n / 2) : 0;
}

// Keeps the ratio that is farther from 1 as a factor.
static void keep_worst(double ratio, size_t plane, double *worst, size_t *worst_plane)
{
    if (!(ratio > 0) || !isfinite(ratio) || (!isnan(*worst) && fabs(log(ratio)) <= fabs(log(*worst))))
        return;
    *worst = ratio;
    *worst_plane = plane;
}

static double mean_of_stack(const struct sr_stack *stack)
{
    size_t n = (size_t)stack->depth * (size_t)stack->height * (size_t)stack->width;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)stack->voxels[i];
    return sum / (double)n;
}

static void measure_plane(const struct sr_stack *stack, double low, double mean, const struct sr_plane *at,
                          const float *residual, size_t k, const struct scratch *scratch,
                          struct sr_uniformity *uniformity)
{
    size_t n = (size_t)stack->height * (size_t)stack->width, n_counted = 0;
    const float *a = stack->voxels + (size_t)at->slice * n, *b = at->t > 0 ? a + n : a;
    double sum = 0, expected = 0;
    for (size_t i = 0; i < n; i++) {
        double linear = (1 - at->t) * (double)a[i] + at->t * (double)b[i];
        double value = linear + (double)residual[i];
        scratch->value[i] = (float)value;
        scratch->counts[i] = (double)a[i] > mean && (double)b[i] > mean;
        if (!scratch->counts[i])
            continue;
        sum += value - low;
        expected += linear - low;
        n_counted++;
    }
    if (n_counted < UNIFORMITY_LEAST_PIXELS)
        return;
    keep_worst(sum / expected, k, &uniformity->intensity, &uniformity->intensity_plane);
    double slices = (1 - at->t) * noise_of(a, scratch, stack->height, stack->width);
    if (at->t > 0)
        slices += at->t * noise_of(b, scratch, stack->height, stack->width);
    if (slices > 0)
        keep_worst(noise_of(scratch->value, scratch, stack->height, stack->width) / slices, k,
                   &uniformity->noise, &uniformity->noise_plane);
}

int uniformity_measure(const struct sr_stack *stack, double low, const struct sr_plane *planes,
                       size_t n_planes, const float *residual, struct sr_uniformity *uniformity,
                       struct fault_note *why)
{
    size_t n = (size_t)stack->height * (size_t)stack->width;
    struct scratch scratch = {
        .value = malloc(n * sizeof(float)), .high = malloc(n * sizeof(float)), .counts = malloc(n)};
    int rc = 0;
    if (scratch.value == NULL || scratch.high == NULL || scratch.counts == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory to look at a plane of %zu pixels", n);
    } else {
        double mean = mean_of_stack(stack);
        *uniformity = (struct sr_uniformity){.noise = NAN, .intensity = NAN};
        for (size_t k = 0; k < n_planes; k++)
            measure_plane(stack, low, mean, &planes[k], residual + k * n, k, &scratch, uniformity);
    }
    free(scratch.value);
    free(scratch.high);
    free(scratch.counts);
    return rc;
}
