// SPDX-License-Identifier: Apache-2.0
#include "worker/preview.h"

#include "core/page.h"

#include <cairo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 12, CAPTION = 34, PANEL_MIN_WIDTH = 460 };

enum axis { AXIS_ROW, AXIS_COLUMN }; // the in-plane direction that runs to the right in a cross plane

struct window {
    double low, high;
};

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

// 1st and 99.7th percentile of the acquired voxels.
static int find_window(const struct process_images *images, struct window *window, struct fault_note *why)
{
    size_t n = (size_t)images->depth * (size_t)images->height * (size_t)images->width;
    size_t stride = n / 200000 + 1, m = 0;
    float *sample = malloc((n / stride + 1) * sizeof *sample);
    if (sample == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot sample %zu voxels", n);
    for (size_t i = 0; i < n; i += stride)
        sample[m++] = images->voxels.data[i];
    qsort(sample, m, sizeof *sample, compare_floats);
    window->low = sample[(size_t)(0.01 * (double)(m - 1))];
    window->high = sample[(size_t)(0.997 * (double)(m - 1))];
    if (window->high <= window->low)
        window->high = window->low + 1;
    free(sample);
    return 0;
}

static double value_at(const struct process_images *images, size_t plane, int row, int column,
                       int with_residual)
{
    const struct derive_plane *at = &images->planes[plane];
    size_t n = (size_t)images->height * (size_t)images->width;
    size_t pixel = (size_t)row * (size_t)images->width + (size_t)column;
    const float *below = images->voxels.data + (size_t)at->slice * n;
    double value = below[pixel];
    if (at->t > 0)
        value = (1 - at->t) * value + at->t * below[n + pixel];
    return with_residual ? value + images->residual.data[plane * n + pixel] : value;
}

// The cross plane through the middle as an 8-bit picture: derived planes from top (last) to bottom (first).
static cairo_surface_t *cross_plane(const struct process_images *images, enum axis axis, int with_residual,
                                    const struct window *window)
{
    int width = axis == AXIS_ROW ? images->width : images->height, height = (int)images->n_planes;
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height);
    if (cairo_surface_status(surface) != CAIRO_STATUS_SUCCESS)
        return surface;
    unsigned char *data = cairo_image_surface_get_data(surface);
    int stride = cairo_image_surface_get_stride(surface);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            int row = axis == AXIS_ROW ? images->height / 2 : x,
                column = axis == AXIS_ROW ? x : images->width / 2;
            double value = value_at(images, (size_t)(height - 1 - y), row, column, with_residual);
            double gray = 255 * (value - window->low) / (window->high - window->low);
            uint32_t level = (uint32_t)fmin(255, fmax(0, gray + 0.5));
            uint32_t pixel = level << 16 | level << 8 | level;
            memcpy(data + (ptrdiff_t)y * stride + 4 * (ptrdiff_t)x, &pixel, sizeof pixel);
        }
    }
    cairo_surface_mark_dirty(surface);
    return surface;
}

struct panel {
    enum axis axis;
    int with_residual;
    double x, y, width, height;
    char caption[96];
};

static void draw_panel(cairo_t *cr, const struct process_images *images, const struct panel *panel,
                       const struct window *window)
{
    cairo_surface_t *picture = cross_plane(images, panel->axis, panel->with_residual, window);
    cairo_set_source_rgb(cr, 1, 1, 1);
    cairo_move_to(cr, panel->x, panel->y + CAPTION - 12);
    cairo_show_text(cr, panel->caption);
    cairo_save(cr);
    cairo_translate(cr, panel->x, panel->y + CAPTION);
    cairo_scale(cr, panel->width / cairo_image_surface_get_width(picture),
                panel->height / cairo_image_surface_get_height(picture));
    cairo_set_source_surface(cr, picture, 0, 0);
    cairo_pattern_set_filter(cairo_get_source(cr),
                             CAIRO_FILTER_NEAREST); // what is in the pixels, nothing smoothed
    cairo_paint(cr);
    cairo_restore(cr);
    cairo_surface_destroy(picture);
}

int preview_write(const struct process_images *images, const char *method, const char *path,
                  struct fault_note *why)
{
    struct window window = {0};
    int rc = find_window(images, &window, why);
    if (rc != 0)
        return rc;
    double depth_mm = (double)images->n_planes * images->step_mm;
    double row_width_mm = images->width * images->column_mm,
           column_width_mm = images->height * images->row_mm;
    double scale = fmax(PANEL_MIN_WIDTH / fmin(row_width_mm, column_width_mm), 1);
    double widest = scale * fmax(row_width_mm, column_width_mm), high = scale * depth_mm;
    struct panel panels[4];
    for (int i = 0; i < 4; i++) {
        struct panel *panel = &panels[i];
        panel->axis = i < 2 ? AXIS_ROW : AXIS_COLUMN;
        panel->with_residual = i % 2;
        panel->width = scale * (panel->axis == AXIS_ROW ? row_width_mm : column_width_mm);
        panel->height = high;
        panel->x = GAP + (i % 2) * (widest + GAP);
        panel->y = GAP + (i < 2 ? 0 : high + CAPTION + GAP);
        snprintf(panel->caption, sizeof panel->caption, "%s, %s cross plane",
                 panel->with_residual ? method : "linear interpolation",
                 panel->axis == AXIS_ROW ? "row" : "column");
    }
    cairo_t *cr = page_new((int)ceil(2 * widest + 3 * GAP), (int)ceil(2 * (high + CAPTION + GAP) + GAP),
                           (const double[]){0.12, 0.12, 0.14}, 17);
    for (int i = 0; i < 4; i++)
        draw_panel(cr, images, &panels[i], &window);
    return page_write(cr, path, why);
}
