// SPDX-License-Identifier: Apache-2.0
#include "train/history.h"

#include "core/file.h"
#include "core/page.h"

#include <cairo.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_FILE_BYTES = 1 << 28 };
static const char head[] = "step,minutes,rate,loss,val_psnr_db,val_linear_psnr_db\n";

int history_add(struct history *history, const struct history_row *row, struct fault_note *why)
{
    if (history->n_rows == history->room) {
        size_t room = history->room == 0 ? 256 : 2 * history->room;
        struct history_row *larger = realloc(history->rows, room * sizeof *larger);
        if (larger == NULL)
            return fault_set(why, FAULT_NO_MEMORY, "no memory for %zu rows of the log", room);
        history->rows = larger;
        history->room = room;
    }
    history->rows[history->n_rows++] = *row;
    return 0;
}

void history_done(struct history *history)
{
    free(history->rows);
    memset(history, 0, sizeof *history);
}

// The number before the next comma or line end; an empty field is NaN.
static double next_field(const char **at, int *ok)
{
    char *end;
    double value = **at == ',' || **at == '\n' ? NAN : strtod(*at, &end);
    if (**at != ',' && **at != '\n') {
        *ok &= end != *at;
        *at = end;
    }
    *ok &= **at == ',' || **at == '\n';
    if (**at == ',')
        ++*at;
    return value;
}

static int parse(struct history *history, const char *text, const char *path, long last_step,
                 struct fault_note *why)
{
    int rc = 0, ok = 1;
    if (strncmp(text, head, sizeof head - 1) != 0)
        return fault_set(why, FAULT_BAD_HEADER, "'%s' is not the log of a training run", path);
    for (const char *at = text + sizeof head - 1; rc == 0 && *at != '\0'; at++) {
        struct history_row row;
        double *fields[] = {&row.minutes, &row.rate, &row.loss, &row.network_db, &row.linear_db};
        double step = next_field(&at, &ok);
        for (size_t i = 0; ok && i < sizeof fields / sizeof fields[0]; i++)
            *fields[i] = next_field(&at, &ok);
        if (!ok || *at != '\n' || !(step >= 0 && step < 1e15))
            return fault_set(why, FAULT_BAD_HEADER, "'%s' has a damaged row after step %ld", path,
                             history->n_rows > 0 ? history->rows[history->n_rows - 1].step : 0L);
        row.step = (long)step;
        if (row.step <= last_step)
            rc = history_add(history, &row, why);
    }
    return rc;
}

int history_load(struct history *history, const char *path, long last_step, struct fault_note *why)
{
    void *text = NULL;
    size_t size;
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return 0;
    int rc = file_read(path, MAX_FILE_BYTES, &text, &size, why);
    if (rc == 0)
        rc = parse(history, text, path, last_step, why);
    free(text);
    return rc;
}

static void put_number(FILE *out, const char *format, double value)
{
    fputc(',', out);
    if (isfinite(value))
        fprintf(out, format, value);
}

int history_save(const struct history *history, const char *path, struct fault_note *why)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory to write '%s'", path);
    fputs(head, out);
    for (size_t i = 0; i < history->n_rows; i++) {
        const struct history_row *row = &history->rows[i];
        fprintf(out, "%ld", row->step);
        put_number(out, "%.3f", row->minutes);
        put_number(out, "%.6g", row->rate);
        put_number(out, "%.6g", row->loss);
        put_number(out, "%.4f", row->network_db);
        put_number(out, "%.4f", row->linear_db);
        fputc('\n', out);
    }
    int rc = fclose(out) != 0 ? fault_set(why, FAULT_NO_MEMORY, "no memory to write '%s'", path)
                              : file_write_atomic(path, text, size, why);
    free(text);
    return rc;
}

// --------------------------------------------------------------------------------------------- picture

enum { WIDTH = 900, PANEL_HEIGHT = 300, LEFT = 80, RIGHT = 20, TOP = 40, BOTTOM = 40 };

struct panel {
    double top;         // of the plotting area, pixels
    double first, last; // steps
    double low, high;   // values
    int is_logarithmic; //
};

typedef double (*value_fn)(const struct history_row *row);

static double loss_of(const struct history_row *row)
{
    return row->loss;
}

static double network_of(const struct history_row *row)
{
    return row->network_db;
}

static double linear_of(const struct history_row *row)
{
    return row->linear_db;
}

static double scaled(const struct panel *panel, double value)
{
    return panel->is_logarithmic ? log10(fmax(value, 1e-9)) : value;
}

static void widen(struct panel *panel, const struct history *history, value_fn value)
{
    for (size_t i = 0; i < history->n_rows; i++) {
        double v = scaled(panel, value(&history->rows[i]));
        if (isfinite(value(&history->rows[i]))) {
            panel->low = fmin(panel->low, v);
            panel->high = fmax(panel->high, v);
        }
    }
}

static double x_of(const struct panel *panel, double step)
{
    return LEFT + (WIDTH - LEFT - RIGHT) * (step - panel->first) / (panel->last - panel->first);
}

static double y_of(const struct panel *panel, double v)
{
    return panel->top + PANEL_HEIGHT * (1 - (v - panel->low) / (panel->high - panel->low));
}

static void draw_frame(cairo_t *cr, struct panel *panel, const char *caption)
{
    enum { TICKS = 5 };
    char text[32];
    if (!(panel->high > panel->low)) {
        panel->low = isfinite(panel->low) ? panel->low - 0.5 : 0;
        panel->high = panel->low + 1;
    }
    cairo_set_source_rgb(cr, 0.2, 0.2, 0.2);
    cairo_move_to(cr, LEFT, panel->top - 8);
    cairo_show_text(cr, caption);
    for (int i = 0; i < TICKS; i++) {
        double share = (double)i / (TICKS - 1), v = panel->low + share * (panel->high - panel->low);
        double step = panel->first + share * (panel->last - panel->first);
        cairo_set_source_rgb(cr, 0.85, 0.85, 0.85);
        cairo_move_to(cr, LEFT, y_of(panel, v));
        cairo_line_to(cr, WIDTH - RIGHT, y_of(panel, v));
        cairo_stroke(cr);
        cairo_set_source_rgb(cr, 0.2, 0.2, 0.2);
        snprintf(text, sizeof text, "%.4g", panel->is_logarithmic ? pow(10, v) : v);
        cairo_move_to(cr, 8, y_of(panel, v) + 4);
        cairo_show_text(cr, text);
        snprintf(text, sizeof text, "%.0f", step);
        cairo_move_to(cr, x_of(panel, step) - 12, panel->top + PANEL_HEIGHT + 18);
        cairo_show_text(cr, text);
    }
}

static void draw_line(cairo_t *cr, const struct panel *panel, const struct history *history, value_fn value)
{
    int is_drawing = 0;
    for (size_t i = 0; i < history->n_rows; i++) {
        double v = value(&history->rows[i]), x, y;
        if (!isfinite(v))
            continue;
        x = x_of(panel, (double)history->rows[i].step);
        y = y_of(panel, scaled(panel, v));
        if (is_drawing)
            cairo_line_to(cr, x, y);
        else
            cairo_move_to(cr, x, y);
        is_drawing = 1;
    }
    cairo_stroke(cr);
}

int history_draw(const struct history *history, const char *title, const char *path, struct fault_note *why)
{
    char caption[160];
    if (history->n_rows == 0)
        return 0;
    struct panel loss = {.top = TOP, .low = HUGE_VAL, .high = -HUGE_VAL, .is_logarithmic = 1};
    loss.first = (double)history->rows[0].step;
    loss.last = fmax((double)history->rows[history->n_rows - 1].step, loss.first + 1);
    struct panel psnr = loss;
    psnr.top += PANEL_HEIGHT + TOP + BOTTOM;
    psnr.is_logarithmic = 0;
    widen(&loss, history, loss_of);
    widen(&psnr, history, network_of);
    widen(&psnr, history, linear_of);
    cairo_t *cr = page_new(WIDTH, 2 * (PANEL_HEIGHT + TOP + BOTTOM), (const double[]){1, 1, 1}, 13);
    cairo_set_line_width(cr, 1.2);
    snprintf(caption, sizeof caption, "%.60s: mean L1 over steps", title);
    draw_frame(cr, &loss, caption);
    draw_frame(cr, &psnr, "validation PSNR, dB: network (blue), linear interpolation (gray)");
    cairo_set_source_rgb(cr, 0.1, 0.3, 0.8);
    draw_line(cr, &loss, history, loss_of);
    draw_line(cr, &psnr, history, network_of);
    cairo_set_source_rgb(cr, 0.5, 0.5, 0.5);
    draw_line(cr, &psnr, history, linear_of);
    return page_write(cr, path, why);
}
