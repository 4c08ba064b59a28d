// SPDX-License-Identifier: Apache-2.0
#include "train/evaluate.h"

#include "core/clock.h"
#include "core/file.h"
#include "core/page.h"
#include "core/quote.h"
#include "sr_engine/resample.h"

#include <cairo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LANCZOS_LOBES = 3 };

static const char *const kind_names[] = {"linear", "cubic", "lanczos", "base", "tuned"};

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

int evaluate_method_of(const char *text, struct evaluate_method *method, struct fault_note *why)
{
    size_t length = strcspn(text, ":");
    const char *recipe = text[length] != '\0' ? text + length + 1 : NULL;
    memset(method, 0, sizeof *method);
    method->kind = EVALUATE_FILE;
    if (length >= sizeof method->weights)
        return fault_set(why, FAULT_USAGE, "the path of a method is too long");
    memcpy(method->weights, text, length);
    for (int i = 0; i < EVALUATE_FILE; i++)
        if (strcmp(method->weights, kind_names[i]) == 0)
            method->kind = (enum evaluate_kind)i;
    method->recipe = method->kind == EVALUATE_TUNED ? sr_recipe_default() : sr_recipe_bare();
    snprintf(method->name, sizeof method->name, "%.60s%s%.90s", base_name(method->weights),
             recipe != NULL ? ":" : "", recipe != NULL ? recipe : "");
    if (recipe == NULL)
        return 0;
    if (method->kind < EVALUATE_BASE)
        return fault_set(why, FAULT_CONFIG, "method '%s' has no recipe", method->weights);
    return sr_recipe_set(&method->recipe, recipe, why);
}

void evaluate_done(struct evaluation *evaluation)
{
    free(evaluation->cases);
    evaluation->cases = NULL;
    evaluation->n_cases = 0;
}

// --------------------------------------------------------------------------------------------- methods

struct place {
    int slice;
    double t;
};

static struct place place_of(const struct simulate_case *input, int factor, int plane)
{
    struct place place = {plane / factor, (double)(plane % factor) / factor};
    if (plane == input->truth_depth - 1)
        place = (struct place){input->depth - 1, 0};
    return place;
}

static size_t plane_size(const struct simulate_case *input)
{
    return (size_t)input->height * (size_t)input->width;
}

static void linear(const struct simulate_case *input, int factor, float *result)
{
    for (int k = 0; k < input->truth_depth; k++) {
        struct place at = place_of(input, factor, k);
        resample_linear(input->stack, input->depth, plane_size(input), at.slice, at.t,
                        result + (size_t)k * plane_size(input));
    }
}

static int cubic(const struct simulate_case *input, int factor, float *result, struct fault_note *why)
{
    size_t n = plane_size(input);
    double *coefficients = malloc((size_t)input->depth * n * sizeof *coefficients),
           *plane = malloc(n * sizeof *plane);
    int rc;
    if (coefficients == NULL || plane == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for spline coefficients");
        goto out;
    }
    rc = resample_cubic_prepare(input->stack, input->depth, n, coefficients, why);
    for (int k = 0; rc == 0 && k < input->truth_depth; k++) {
        struct place at = place_of(input, factor, k);
        resample_cubic(coefficients, input->depth, n, at.slice, at.t, plane);
        for (size_t i = 0; i < n; i++)
            result[(size_t)k * n + i] = (float)plane[i];
    }
out:
    free(plane);
    free(coefficients);
    return rc;
}

static double sinc(double x)
{
    return fabs(x) < 1e-9 ? 1 : sin(acos(-1) * x) / (acos(-1) * x);
}

static int mirror(int i, int n)
{
    i = i < 0 ? -i : i;
    i = i >= n ? 2 * (n - 1) - i : i;
    return i < 0 ? 0 : i;
}

// Weights divided by their sum, so that a constant stays one; slices beyond the ends mirrored as for the
// spline.
static void lanczos(const struct simulate_case *input, int factor, float *result)
{
    size_t n = plane_size(input);
    for (int k = 0; k < input->truth_depth; k++) {
        struct place at = place_of(input, factor, k);
        double weight[2 * LANCZOS_LOBES], total = 0;
        for (int j = 0; j < 2 * LANCZOS_LOBES; j++) {
            double x = at.t - (j - LANCZOS_LOBES + 1);
            weight[j] = fabs(x) < LANCZOS_LOBES ? sinc(x) * sinc(x / LANCZOS_LOBES) : 0;
            total += weight[j];
        }
        for (size_t i = 0; i < n; i++) {
            double sum = 0;
            for (int j = 0; j < 2 * LANCZOS_LOBES; j++) {
                int slice = mirror(at.slice + j - LANCZOS_LOBES + 1, input->depth);
                sum += weight[j] * (double)input->stack[(size_t)slice * n + i];
            }
            result[(size_t)k * n + i] = (float)(sum / total);
        }
    }
}

static int network(const struct evaluation *evaluation, const struct evaluate_method *method,
                   const struct simulate_case *input, float *result, struct fault_note *why)
{
    const struct simulate_recipe *recipe = &evaluation->recipe;
    struct sr_options options = evaluation->engine;
    struct sr_report report;
    size_t n = (size_t)input->truth_depth * plane_size(input);
    struct sr_stack stack = {.voxels = input->stack,
                             .depth = input->depth,
                             .height = input->height,
                             .width = input->width,
                             .row_mm = input->spacing_mm[1],
                             .column_mm = input->spacing_mm[2],
                             .slice_mm = input->spacing_mm[0] * recipe->factor};
    stack.thickness_mm = stack.slice_mm * (1 - recipe->gap);
    struct sr_plane *planes = malloc((size_t)input->truth_depth * sizeof *planes);
    float *residual = malloc(n * sizeof *residual);
    int rc;
    if (planes == NULL || residual == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for %d planes", input->truth_depth);
        goto out;
    }
    for (int k = 0; k < input->truth_depth; k++) {
        struct place at = place_of(input, recipe->factor, k);
        planes[k] = (struct sr_plane){at.slice, at.t};
    }
    if (method->kind == EVALUATE_FILE)
        options.weights_path = method->weights;
    options.recipe = &method->recipe;
    options.finetune = method->kind == EVALUATE_TUNED;
    options.choose = 0;
    rc = sr_run(&stack, planes, (size_t)input->truth_depth, &options, residual, &report, why);
    if (rc == 0) {
        linear(input, recipe->factor, result);
        for (size_t i = 0; i < n; i++)
            result[i] += residual[i];
    }
out:
    free(residual);
    free(planes);
    return rc;
}

int evaluate_interpolate(const struct evaluation *evaluation, const struct evaluate_method *method,
                         const struct simulate_case *input, float *result, struct fault_note *why)
{
    int factor = evaluation->recipe.factor;
    switch (method->kind) {
    case EVALUATE_LINEAR:
        linear(input, factor, result);
        return 0;
    case EVALUATE_CUBIC:
        return cubic(input, factor, result, why);
    case EVALUATE_LANCZOS:
        lanczos(input, factor, result);
        return 0;
    default:
        return network(evaluation, method, input, result, why);
    }
}

// --------------------------------------------------------------------------------------------- pictures

enum { FONT = 13, LINE = 17, CAPTION = 2 * LINE + 6, GAP = 8, MAX_PANEL = 240 };
static const double error_gain = 4;

// One picture of a cross plane, first slice at the bottom.
struct panel {
    const struct simulate_case *input;
    const float *values,
        *truth; // [truth_depth,height,width]; truth NULL: the values themselves, else their difference
    int along;  // 0: rows are cut, columns run across the picture; 1: the other way round
    double x, y, scale;
    char caption[160], figures[32]; // a line each
};

static int panel_columns(const struct panel *panel)
{
    return panel->along == 0 ? panel->input->width : panel->input->height;
}

// Where column x of plane k lies in the volume: in the middle row, or the middle column.
static size_t panel_index(const struct panel *panel, int k, int x)
{
    const struct simulate_case *input = panel->input;
    int row = panel->along == 0 ? input->height / 2 : x, column = panel->along == 0 ? x : input->width / 2;
    return ((size_t)k * (size_t)input->height + (size_t)row) * (size_t)input->width + (size_t)column;
}

static void fill_panel(const struct panel *panel, unsigned char *data, ptrdiff_t stride)
{
    int height = panel->input->truth_depth;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < panel_columns(panel); x++) {
            size_t i = panel_index(panel, height - 1 - y, x);
            double value = (double)panel->values[i];
            double gray = panel->truth == NULL
                              ? value / SIMULATE_BRIGHT
                              : 0.5 + error_gain * (value - (double)panel->truth[i]) / SIMULATE_BRIGHT;
            uint32_t level = (uint32_t)(255 * fmin(1, fmax(0, gray)));
            uint32_t pixel = level << 16 | level << 8 | level;
            memcpy(data + y * stride + 4 * (ptrdiff_t)x, &pixel, sizeof pixel);
        }
}

// One line of text, in smaller type where it is wider than a panel.
static void draw_line(cairo_t *cr, const char *text, double x, double y)
{
    cairo_text_extents_t extents;
    cairo_set_font_size(cr, FONT);
    cairo_text_extents(cr, text, &extents);
    if (extents.x_advance > MAX_PANEL)
        cairo_set_font_size(cr, FONT * MAX_PANEL / extents.x_advance);
    cairo_move_to(cr, x, y);
    cairo_show_text(cr, text);
}

static void draw_panel(cairo_t *cr, const struct panel *panel)
{
    const struct simulate_case *input = panel->input;
    double across_mm = input->spacing_mm[panel->along == 0 ? 2 : 1];
    cairo_surface_t *surface =
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, panel_columns(panel), input->truth_depth);
    if (cairo_surface_status(surface) == CAIRO_STATUS_SUCCESS) {
        fill_panel(panel, cairo_image_surface_get_data(surface), cairo_image_surface_get_stride(surface));
        cairo_surface_mark_dirty(surface);
    }
    cairo_set_source_rgb(cr, 1, 1, 1);
    draw_line(cr, panel->caption, panel->x, panel->y + LINE);
    draw_line(cr, panel->figures, panel->x, panel->y + 2 * LINE);
    cairo_save(cr);
    cairo_translate(cr, panel->x, panel->y + CAPTION);
    cairo_scale(cr, panel->scale * across_mm, panel->scale * input->spacing_mm[0]);
    cairo_set_source_surface(cr, surface, 0, 0);
    cairo_pattern_set_filter(cairo_get_source(cr), CAIRO_FILTER_NEAREST);
    cairo_paint(cr);
    cairo_restore(cr);
    cairo_surface_destroy(surface);
}

// Both cross planes of one volume, each above its errors (truth NULL: none), in the column that begins at
// panel->x.
static void draw_column(cairo_t *cr, struct panel *panel, const float *values, const float *truth,
                        double row_height)
{
    for (panel->along = 0; panel->along < 2; panel->along++) {
        panel->values = values;
        panel->truth = NULL;
        panel->y = 2 * panel->along * row_height;
        draw_panel(cr, panel);
        panel->caption[0] = panel->figures[0] = '\0';
        panel->truth = truth;
        panel->y += row_height;
        if (truth != NULL)
            draw_panel(cr, panel);
    }
}

// Every plane the acquired slice nearest to it.
static void nearest(const struct simulate_case *input, int factor, float *result)
{
    size_t n = plane_size(input);
    for (int k = 0; k < input->truth_depth; k++) {
        struct place at = place_of(input, factor, k);
        memcpy(result + (size_t)k * n, input->stack + (size_t)(at.slice + (at.t >= 0.5)) * n,
               n * sizeof *result);
    }
}

// results[n_methods]: the truth, the slices as they were acquired, and the results.
static int draw_case(const struct evaluation *evaluation, const struct evaluate_case *scores,
                     const struct simulate_case *input, float *const *results, const char *path,
                     struct fault_note *why)
{
    double broad = fmax(input->width * input->spacing_mm[2], input->height * input->spacing_mm[1]);
    double scale = MAX_PANEL / broad;
    double row_height = scale * input->truth_depth * input->spacing_mm[0] + CAPTION;
    size_t n = evaluation->n_methods;
    float *slices = malloc((size_t)input->truth_depth * plane_size(input) * sizeof *slices);
    if (slices == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for a picture");
    nearest(input, evaluation->recipe.factor, slices);
    cairo_t *cr = page_new((int)ceil(GAP + (double)(n + 2) * (MAX_PANEL + GAP)),
                           (int)ceil(4 * row_height + GAP), (const double[]){0.12, 0.12, 0.14}, FONT);
    struct panel panel = {.input = input, .x = GAP, .scale = scale};
    snprintf(panel.caption, sizeof panel.caption, "truth");
    snprintf(panel.figures, sizeof panel.figures, "below: errors, %g times", error_gain);
    draw_column(cr, &panel, input->truth, NULL, row_height);
    panel.x += MAX_PANEL + GAP;
    snprintf(panel.caption, sizeof panel.caption, "slices as acquired");
    draw_column(cr, &panel, slices, input->truth, row_height);
    for (size_t i = 0; i < n; i++) {
        panel.x += MAX_PANEL + GAP;
        snprintf(panel.caption, sizeof panel.caption, "%s", evaluation->methods[i].name);
        snprintf(panel.figures, sizeof panel.figures, "%.2f dB, %.4f", scores->scores[i].values[SCORE_PSNR],
                 scores->scores[i].values[SCORE_SSIM_3D]);
        draw_column(cr, &panel, results[i], input->truth, row_height);
    }
    free(slices);
    return page_write(cr, path, why);
}

// --------------------------------------------------------------------------------------------- cases

static int score_methods(const struct evaluation *evaluation, const struct simulate_case *input,
                         struct evaluate_case *scores, float *const *results, struct fault_note *why)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < evaluation->n_methods; i++) {
        double start = clock_monotonic_s();
        rc = evaluate_interpolate(evaluation, &evaluation->methods[i], input, results[i], why);
        scores->scores[i].seconds = clock_monotonic_s() - start;
        if (rc == 0)
            rc = score_volumes(input->truth, results[i], input->truth_depth, input->height, input->width,
                               evaluation->recipe.factor, scores->scores[i].values, why);
    }
    return rc;
}

static int add_case(struct evaluation *evaluation, const struct evaluate_case *scores, struct fault_note *why)
{
    struct evaluate_case *larger = realloc(evaluation->cases, (evaluation->n_cases + 1) * sizeof *larger);
    if (larger == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for case %zu", evaluation->n_cases);
    evaluation->cases = larger;
    evaluation->cases[evaluation->n_cases++] = *scores;
    return 0;
}

int evaluate_volume(struct evaluation *evaluation, const struct volume *volume, const char *name,
                    const char *picture, struct fault_note *why)
{
    struct simulate_case input = {0};
    float *results[EVALUATE_MAX_METHODS] = {0};
    int rc = simulate_run(volume, &evaluation->recipe, &input, why);
    if (rc != 0)
        return rc;
    size_t n = (size_t)input.truth_depth * plane_size(&input);
    struct evaluate_case *scores = calloc(1, sizeof *scores);
    if (scores == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for a case");
        goto out;
    }
    snprintf(scores->name, sizeof scores->name, "%s", name);
    for (size_t i = 0; i < evaluation->n_methods; i++)
        if ((results[i] = calloc(n, sizeof *results[i])) == NULL) {
            rc = fault_set(why, FAULT_NO_MEMORY, "no memory for a result of %zu voxels", n);
            goto out;
        }
    rc = score_methods(evaluation, &input, scores, results, why);
    if (rc == 0 && picture != NULL)
        rc = draw_case(evaluation, scores, &input, results, picture, why);
    if (rc == 0)
        rc = add_case(evaluation, scores, why);
out:
    for (int i = 0; i < EVALUATE_MAX_METHODS; i++)
        free(results[i]);
    simulate_done(&input);
    free(scores);
    return rc;
}

// --------------------------------------------------------------------------------------------- tables

void evaluate_mean(const struct evaluation *evaluation, size_t method, enum score_kind kind, double *mean,
                   double *deviation)
{
    double sum = 0, squares = 0, n = 0;
    for (size_t i = 0; i < evaluation->n_cases; i++) {
        double value = evaluation->cases[i].scores[method].values[kind];
        sum += isfinite(value) ? value : 0;
        n += isfinite(value);
    }
    *mean = n > 0 ? sum / n : NAN;
    for (size_t i = 0; i < evaluation->n_cases; i++) {
        double value = evaluation->cases[i].scores[method].values[kind];
        squares += isfinite(value) ? (value - *mean) * (value - *mean) : 0;
    }
    *deviation = n > 1 ? sqrt(squares / (n - 1)) : NAN;
}

static int digits_of(enum score_kind kind)
{
    return kind >= SCORE_SSIM_3D ? 4 : 2;
}

static void put_mean(FILE *out, const struct evaluation *evaluation, size_t method, enum score_kind kind)
{
    double mean, deviation;
    evaluate_mean(evaluation, method, kind, &mean, &deviation);
    fprintf(out, " %.*f", digits_of(kind), mean);
    if (isfinite(deviation))
        fprintf(out, " ± %.*f", digits_of(kind), deviation);
    fputs(" |", out);
}

static void put_setting(FILE *out, const struct evaluation *evaluation)
{
    const struct simulate_recipe *recipe = &evaluation->recipe;
    fprintf(out,
            "%zu volumes, axis %c as slice axis, factor %d, profile %s of width %g voxels, noise %g, seed "
            "%llu.\n\n",
            evaluation->n_cases, "xyz"[recipe->axis], recipe -> factor, profile_name(recipe->profile),
            recipe -> factor *(1 - recipe->gap), recipe -> noise, (unsigned long long)recipe -> seed);
}

static int write_text(const struct evaluation *evaluation, void (*put)(FILE *, const struct evaluation *),
                      const char *path, struct fault_note *why)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory to write '%s'", path);
    put(out, evaluation);
    int rc = fclose(out) != 0 ? fault_set(why, FAULT_NO_MEMORY, "no memory to write '%s'", path)
                              : file_write_atomic(path, text, size, why);
    free(text);
    return rc;
}

static void put_markdown(FILE *out, const struct evaluation *evaluation)
{
    fputs("# Interpolation against truth\n\n", out);
    put_setting(out, evaluation);
    fputs("Range R: 99.9th percentile of the truth, both volumes clipped to [0, R]. PSNR: all voxels; "
          "between: slices\n"
          "between the acquired ones; head: truth above 0.02 R. SSIM: window 7, uniform, K1 0.01, K2 0.03; "
          "planes: mean\n"
          "of every 4th cross plane of either direction. Mean ± standard deviation over the volumes.\n\n"
          "| method | PSNR, dB | PSNR between, dB | PSNR head, dB | SSIM 3D | SSIM planes | s |\n"
          "|---|---|---|---|---|---|---|\n",
          out);
    for (size_t m = 0; m < evaluation->n_methods; m++) {
        double seconds = 0;
        for (size_t i = 0; i < evaluation->n_cases; i++)
            seconds += evaluation->cases[i].scores[m].seconds;
        fprintf(out, "| %s |", evaluation->methods[m].name);
        for (int k = 0; k < SCORE_N; k++)
            put_mean(out, evaluation, m, (enum score_kind)k);
        fprintf(out, " %.1f |\n", evaluation->n_cases > 0 ? seconds / (double)evaluation->n_cases : 0);
    }
    fputs("\n## Each volume\n\n| volume |", out);
    for (size_t m = 0; m < evaluation->n_methods; m++)
        fprintf(out, " %s |", evaluation->methods[m].name);
    fputs("\n|---|", out);
    for (size_t m = 0; m < evaluation->n_methods; m++)
        fputs("---|", out);
    fputc('\n', out);
    for (size_t i = 0; i < evaluation->n_cases; i++) {
        fprintf(out, "| %s |", evaluation->cases[i].name);
        for (size_t m = 0; m < evaluation->n_methods; m++)
            fprintf(out, " %.2f dB, %.4f |", evaluation->cases[i].scores[m].values[SCORE_PSNR],
                    evaluation->cases[i].scores[m].values[SCORE_SSIM_3D]);
        fputc('\n', out);
    }
    fputs("\nPSNR and SSIM 3D.\n", out);
}

static void put_value(FILE *out, const char *name, double value, const char *end)
{
    fprintf(out, "\"%s\": ", name);
    if (isfinite(value))
        fprintf(out, "%.9g%s", value, end);
    else
        fprintf(out, "null%s", end);
}

static void put_json(FILE *out, const struct evaluation *evaluation)
{
    const struct simulate_recipe *recipe = &evaluation->recipe;
    fprintf(out,
            "{\"axis\": %d, \"factor\": %d, \"profile\": \"%s\", \"gap\": %.9g, \"noise\": %.9g,\n "
            "\"methods\": [",
            recipe->axis, recipe->factor, profile_name(recipe->profile), recipe->gap, recipe->noise);
    for (size_t m = 0; m < evaluation->n_methods; m++) {
        fprintf(out, "%s\n  {\"method\": ", m > 0 ? "," : "");
        quote_json(out, evaluation->methods[m].name);
        for (int k = 0; k < SCORE_N; k++) {
            double mean, deviation;
            evaluate_mean(evaluation, m, (enum score_kind)k, &mean, &deviation);
            fprintf(out, ", \"%s\": {", score_name((enum score_kind)k));
            put_value(out, "mean", mean, ", ");
            put_value(out, "sd", deviation, "}");
        }
        fputc('}', out);
    }
    fputs("],\n \"cases\": [", out);
    for (size_t i = 0; i < evaluation->n_cases; i++)
        for (size_t m = 0; m < evaluation->n_methods; m++) {
            const struct evaluate_score *score = &evaluation->cases[i].scores[m];
            fprintf(out, "%s\n  {\"volume\": ", i + m > 0 ? "," : "");
            quote_json(out, evaluation->cases[i].name);
            fputs(", \"method\": ", out);
            quote_json(out, evaluation->methods[m].name);
            fputs(", ", out);
            for (int k = 0; k < SCORE_N; k++)
                put_value(out, score_name((enum score_kind)k), score->values[k], ", ");
            put_value(out, "seconds", score->seconds, "}");
        }
    fputs("]}\n", out);
}

int evaluate_write_markdown(const struct evaluation *evaluation, const char *path, struct fault_note *why)
{
    return write_text(evaluation, put_markdown, path, why);
}

int evaluate_write_json(const struct evaluation *evaluation, const char *path, struct fault_note *why)
{
    return write_text(evaluation, put_json, path, why);
}
