// SPDX-License-Identifier: Apache-2.0
#include "worker/notice.h"

#include "core/clock.h"
#include "core/page.h"
#include "core/version.h"

#include <cairo.h>
#include <stdio.h>
#include <string.h>

enum { MARGIN = 40, TOP = 20, LEADING = 8 };

int notice_is_due(enum fault fault)
{
    switch (fault) {
    case FAULT_OK:
    case FAULT_CANCELLED:
    case FAULT_LEASE_LOST:
    case FAULT_NOT_MR:
    case FAULT_OWN_OUTPUT:
    case FAULT_DERIVED:
    case FAULT_MOSAIC:
    case FAULT_LOCALIZER:
    case FAULT_DIFFUSION:
    case FAULT_PHASE:
    case FAULT_MIXED_PATIENT:
    case FAULT_SKIP_3D:
    case FAULT_NOTHING_TO_DO:
    case FAULT_NO_PIXELS:
    case FAULT_BY_RULE:
        return 0;
    default:
        return 1;
    }
}

// ---- the picture

struct line {
    double y, size, gray;
};

static void next_line(cairo_t *cr, struct line *line)
{
    line->y += line->size + LEADING;
    cairo_move_to(cr, MARGIN, line->y);
}

// Text broken between words to the width of the page; what is below its end is left out.
static void write_text(cairo_t *cr, struct line *line, const char *text)
{
    char row[256] = "";
    cairo_text_extents_t extents;
    cairo_set_font_size(cr, line->size);
    cairo_set_source_rgb(cr, line->gray, line->gray, line->gray);
    while (*text != '\0') {
        size_t n = strlen(row), word = strcspn(text, " ");
        char longer[512];
        snprintf(longer, sizeof longer, "%s%s%.*s", row, n > 0 ? " " : "", (int)(word < 200 ? word : 200),
                 text);
        cairo_text_extents(cr, longer, &extents);
        if (n > 0 && extents.x_advance > NOTICE_COLUMNS - 2 * MARGIN) {
            next_line(cr, line);
            cairo_show_text(cr, row);
            row[0] = '\0';
            continue;
        }
        snprintf(row, sizeof row, "%.255s", longer);
        text += word + strspn(text + word, " ");
    }
    next_line(cr, line);
    cairo_show_text(cr, row);
}

// 'T2 TSE SAG', or nothing where it is not plain ASCII: its character set is not looked at here.
static void say_description(const struct source_item *item, char *out, size_t size)
{
    const char *description = item->labels[LABEL_SERIES_DESCRIPTION];
    out[0] = '\0';
    for (const char *p = description; *p != '\0'; p++)
        if (*p < ' ' || *p > '~')
            return;
    if (description[0] != '\0')
        snprintf(out, size, "'%s'", description);
}

static void draw(cairo_t *cr, const struct source_item *item, int is_one_of_many,
                 const struct process_options *options, const struct fault_note *why_not)
{
    char text[1024], called[LABEL_SIZE + 3], date[9], time[14];
    struct line line = {.y = TOP, .size = 40, .gray = 1};
    clock_dicom(options->job_time_us, date, time);
    say_description(item, called, sizeof called);
    write_text(cr, &line, "No series was derived by Isoslice");
    line.size = 20;
    line.gray = 0.75;
    line.y += LEADING;
    char some[40] = "";
    if (is_one_of_many)
        snprintf(some, sizeof some, "%zu images of ", item->n_images);
    snprintf(text, sizeof text, "from %sseries %s%s%s%s of this study. Nothing was changed in the archive.",
             some, called, called[0] != '\0' ? " (" : "", item->series_uid, called[0] != '\0' ? ")" : "");
    write_text(cr, &line, text);
    line.size = 28;
    line.gray = 1;
    line.y += 2 * LEADING;
    write_text(cr, &line, fault_name(why_not->fault));
    line.size = 24;
    snprintf(text, sizeof text, "%s: %s", fault_text(why_not->fault), why_not->text);
    write_text(cr, &line, text);
    line.size = 18;
    line.gray = 0.75;
    line.y += 2 * LEADING;
    snprintf(text, sizeof text,
             "What can be done is listed under that word in the operator's manual (docs/REFUSALS.md). "
             "%.4s-%.2s-%.2s %.2s:%.2s, %s, Isoslice %s.",
             date, date + 4, date + 6, time, time + 2,
             options->station_name != NULL && options->station_name[0] != '\0' ? options->station_name
                                                                               : "Isoslice",
             ISOSLICE_VERSION);
    write_text(cr, &line, text);
}

static int draw_pixels(const struct source_item *item, int is_one_of_many,
                       const struct process_options *options, const struct fault_note *why_not,
                       struct reader_block *pixels, struct fault_note *why)
{
    int rc = reader_block_new((size_t)NOTICE_ROWS * NOTICE_COLUMNS, pixels, why);
    if (rc != 0)
        return rc;
    cairo_t *cr = page_new(NOTICE_COLUMNS, NOTICE_ROWS, (const double[]){0, 0, 0}, 20);
    draw(cr, item, is_one_of_many, options, why_not);
    cairo_surface_t *surface = cairo_get_target(cr);
    cairo_surface_flush(surface);
    const unsigned char *data = cairo_image_surface_get_data(surface);
    int stride = cairo_image_surface_get_stride(surface);
    if (data == NULL)
        rc = fault_set(why, FAULT_NO_MEMORY, "cannot draw a notice");
    else if (cairo_status(cr) != CAIRO_STATUS_SUCCESS)
        rc = fault_set(why, FAULT_NO_MEMORY, "cannot draw a notice: %s",
                       cairo_status_to_string(cairo_status(cr)));
    for (int row = 0; rc == 0 && data != NULL && row < NOTICE_ROWS; row++)
        for (int column = 0; column < NOTICE_COLUMNS; column++)
            pixels->data[row * NOTICE_COLUMNS + column] =
                (float)data[(ptrdiff_t)row * stride + 4 * (ptrdiff_t)column];
    cairo_destroy(cr);
    if (rc != 0)
        reader_block_free(pixels);
    return rc;
}

int notice_make(struct reader *reader, size_t item, const struct process_options *options,
                const struct fault_note *why_not, const char *directory, struct derive_result *result,
                struct fault_note *why)
{
    struct reader_block pixels = READER_BLOCK_NONE;
    const struct notice_request request = {.site_id = options->site_id,
                                           .station_name = options->station_name,
                                           .job_time_us = options->job_time_us,
                                           .code = fault_name(why_not->fault),
                                           .sentence = why_not->text,
                                           .number_offset = options->number_offset,
                                           .directory = directory};
    int rc =
        draw_pixels(reader_item(reader, item), reader_n_items(reader) > 1, options, why_not, &pixels, why);
    if (rc == 0)
        rc = reader_notice(reader, item, &request, &pixels, result, why);
    reader_block_free(&pixels);
    return rc;
}
