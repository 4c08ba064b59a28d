// SPDX-License-Identifier: Apache-2.0
#include "core/page.h"

#include <cairo.h>

cairo_t *page_new(int width, int height, const double colour[3], double font_size)
{
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height);
    cairo_t *page = cairo_create(surface);
    cairo_surface_destroy(surface); // the page holds it
    cairo_set_source_rgb(page, colour[0], colour[1], colour[2]);
    cairo_paint(page);
    cairo_select_font_face(page, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(page, font_size);
    return page;
}

int page_write(cairo_t *page, const char *path, struct fault_note *why)
{
    cairo_status_t status = cairo_status(page);
    if (status == CAIRO_STATUS_SUCCESS)
        status = cairo_surface_write_to_png(cairo_get_target(page), path);
    cairo_destroy(page);
    if (status == CAIRO_STATUS_SUCCESS)
        return 0;
    return fault_set(why, status == CAIRO_STATUS_NO_MEMORY ? FAULT_NO_MEMORY : FAULT_IO,
                     "cannot write picture '%s': %s", path, cairo_status_to_string(status));
}
