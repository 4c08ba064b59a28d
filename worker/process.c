// SPDX-License-Identifier: Apache-2.0
#include "worker/process.h"

#include "core/file.h"
#include "core/version.h"
#include "dicom_map/description.h"
#include "sr_engine/ops.h"
#include "sr_engine/weights.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void process_images_free(struct process_images *images)
{
    reader_block_free(&images->voxels);
    reader_block_free(&images->residual);
    free(images->planes);
    memset(images, 0, sizeof *images);
}

enum format process_format_for(const struct conf_destination *destination)
{
    enum format format = FORMAT_CLASSIC;
    format_from_name(destination->format, &format);
    return format;
}

unsigned process_formats_for(const struct conf *conf, unsigned to)
{
    unsigned formats = 0;
    for (size_t i = 0; i < conf->n_destinations; i++)
        if ((to >> i & 1) != 0)
            formats |= 1u << process_format_for(&conf->destinations[i]);
    return formats != 0 ? formats : 1u << FORMAT_CLASSIC;
}

int process_options_from_conf(const struct conf *conf, struct process_options *options,
                              struct fault_note *why)
{
    static const enum derive_spacing modes[] = {DERIVE_ISOTROPIC, DERIVE_RECUR, DERIVE_MM};
    int mode;
    memset(options, 0, sizeof *options);
    if (!conf_parse_spacing(conf->spacing, &mode, &options->spacing_mm))
        return fault_set(why, FAULT_CONFIG, "bad spacing '%s'", conf->spacing);
    options->spacing = modes[mode];
    unsigned views;
    if (!conf_parse_views(conf->views, &views))
        return fault_set(why, FAULT_CONFIG, "bad views '%s'", conf->views);
    options->views = views << VIEW_SAGITTAL;
    options->formats = process_formats_for(conf, ~0u);
    if (ops_use_gpu((int)conf->gpu, why) != 0)
        return FAULT_INTERNAL;
    options->recipe = sr_recipe_default();
    struct fault_note bad;
    if (conf->recipe[0] != '\0' && sr_recipe_set(&options->recipe, conf->recipe, &bad) != 0)
        return fault_set(why, FAULT_CONFIG, "bad 'recipe' in 'work': '%s': %.200s", conf->recipe, bad.text);
    options->site_id = conf->site_id;
    options->station_name = conf->station_name;
    options->number_offset = (int)conf->series_number;
    options->description = conf->description;
    options->engine = (struct sr_options){
        .backend = conf->backend,
        .finetune = conf->finetune,
        .choose = 1,
        .clip = 1,
        .steps = (int)conf->steps,
        .budget_s = conf->budget_s,
        .seed = (uint64_t)conf->seed,
        .threads = (int)conf->threads,
        .memory_bytes = (size_t)conf->memory_mb << 20,
    };
    return 0;
}

int process_find_weights(const char *configured, char *path, size_t size, struct fault_note *why)
{
    const char *from_environment = getenv("ISOSLICE_WEIGHTS");
    if (configured != NULL && configured[0] != '\0') {
        snprintf(path, size, "%s", configured);
    } else if (from_environment != NULL) {
        snprintf(path, size, "%s", from_environment);
    } else {
        char program[CONF_PATH_SIZE];
        ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
        program[n > 0 ? n : 0] = '\0';
        char *slash = strrchr(program, '/');
        if (slash != NULL)
            *slash = '\0';
        snprintf(path, size, "%s/../share/isoslice/weights.safetensors", program);
    }
    if (access(path, R_OK) != 0)
        return fault_set(why, FAULT_WEIGHTS, "no weights file at '%s'", path);
    return 0;
}

// ---- what is told about a result

static void say_quality(const char *name, const struct sr_quality *quality, char *out, size_t size)
{
    int n = snprintf(out, size, "%s", name);
    if (!quality->measured) {
        snprintf(out + n, size - (size_t)n, " not measured (%s)", quality->note);
        return;
    }
    for (int method = 0; method < SR_N_METHODS && n > 0 && (size_t)n < size; method++)
        if (isfinite(quality->psnr_db[method]))
            n += snprintf(out + n, size - (size_t)n, " %s %.2f", sr_method_name((enum sr_method)method),
                          quality->psnr_db[method]);
    if (n > 0 && (size_t)n < size)
        snprintf(out + n, size - (size_t)n, " dB");
}

static void say_uniformity(const struct sr_uniformity *uniformity, char *out, size_t size)
{
    char noise[24] = "not measured", intensity[24] = "not measured";
    if (isfinite(uniformity->noise))
        snprintf(noise, sizeof noise, "%.2f", uniformity->noise);
    if (isfinite(uniformity->intensity))
        snprintf(intensity, sizeof intensity, "%.3f", uniformity->intensity);
    snprintf(out, size, "Worst plane against the acquired slices: noise %s, intensity %s.", noise, intensity);
}

// ASCII; goes into the derived objects.
static void say_result(const struct sr_report *report, char *out, size_t size)
{
    char uniformity[120], in_plane[160], left_out[160], control[160];
    say_quality("in-plane patches", &report->in_plane, in_plane, sizeof in_plane);
    say_quality("acquired slices left out", &report->left_out, left_out, sizeof left_out);
    say_quality("the same in plane", &report->control, control, sizeof control);
    say_uniformity(&report->uniformity, uniformity, sizeof uniformity);
    snprintf(out, size, "Delivered: %s. PSNR on this subject's held-out data: %s; %s; %s. %s",
             sr_method_name(report->delivered), in_plane, left_out, control, uniformity);
}

// Without the number of threads: it changes no bit (sr_engine/engine.h), so it may change no UID.
static void say_backend(const char *backend, char *out, size_t size)
{
    const char *last = strrchr(backend, ',');
    size_t n = strlen(backend);
    if (last != NULL && n > 9 && strcmp(backend + n - 9, " threads)") == 0)
        snprintf(out, size, "%.*s)", (int)(last - backend), backend);
    else
        snprintf(out, size, "%s", backend);
}

// Everything that decides what is written and is not source, weights or algorithm revision.
static void say_parameters(const struct process_options *options, double step_mm,
                           const struct sr_report *report, char *out, size_t size)
{
    char recipe[512], backend[sizeof report->backend];
    say_backend(report->backend, backend, sizeof backend);
    if (sr_recipe_say(&options->recipe, recipe, sizeof recipe, NULL) != 0)
        snprintf(recipe, sizeof recipe, "unnamed");
    snprintf(out, size,
             "network=P0;normalisation=minmax;backend=%s;finetune=%d;steps=%d;seed=%llu;choose=%d;clip=%d;"
             "memory_mb=%zu;tiles=%dx%d;step_mm=%.9g%s%s%s;station=%s",
             backend, options->engine.finetune, report->steps_done, (unsigned long long)options->engine.seed,
             options->engine.choose, options->engine.clip, report->memory_bytes >> 20, report->tile_rows,
             report->tile_columns, step_mm, options->spacing == DERIVE_RECUR ? ";spacing=recur" : "",
             recipe[0] != '\0' ? ";recipe=" : "", recipe, options->station_name);
    // no pixels, but other bytes: they may not come under the same UID
    size_t n = strlen(out);
    if (options->number_offset != DERIVE_NUMBER_OFFSET && n < size)
        snprintf(out + n, size - n, ";series_number=%d", options->number_offset);
    n = strlen(out);
    if (strcmp(options->description, DESCRIPTION_DEFAULT) != 0 && n < size)
        snprintf(out + n, size - n, ";description=%s", options->description);
}

// ---- the stack

struct stack_work {
    struct process_images images;
    struct sr_plane *planes;
    struct weights_metadata *metadata;
};

static int load(struct reader *reader, size_t item, const struct process_options *options,
                struct stack_work *work, struct fault_note *why)
{
    const struct source_item *stack = reader_item(reader, item);
    struct process_images *images = &work->images;
    images->depth = stack->depth;
    images->height = stack->height;
    images->width = stack->width;
    images->row_mm = stack->row_mm;
    images->column_mm = stack->column_mm;
    int rc = reader_plan(reader, item, options->spacing, options->spacing_mm, &images->planes,
                         &images->n_planes, &images->step_mm, why);
    if (rc != 0)
        return rc;
    size_t n_pixels = (size_t)stack->height * (size_t)stack->width;
    work->planes = malloc(images->n_planes * sizeof *work->planes);
    work->metadata = calloc(1, sizeof *work->metadata);
    if (work->planes == NULL || work->metadata == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold %zu planes of %zu pixels", images->n_planes,
                         n_pixels);
    for (size_t i = 0; i < images->n_planes; i++)
        work->planes[i] = (struct sr_plane){.slice = images->planes[i].slice, .t = images->planes[i].t};
    rc = reader_block_new(images->n_planes * n_pixels, &images->residual, why);
    return rc == 0 ? reader_load_voxels(reader, item, &images->voxels, why) : rc;
}

static int derive(struct reader *reader, size_t item, const struct process_options *options,
                  const char *directory, const struct stack_work *work, const struct process_outcome *outcome,
                  struct process_series *series, struct fault_note *why)
{
    const char *version = weights_metadata_get(work->metadata, "version");
    struct derive_request request = {
        .planes = work->images.planes,
        .n_planes = work->images.n_planes,
        .step_mm = work->images.step_mm,
        .site_id = options->site_id,
        .job_time_us = options->job_time_us,
        .model_name = "SA-INR",
        .model_version = version ? version : "unnamed",
        .weights_sha256 = outcome->weights_sha256,
        .parameters = outcome->parameters,
        .method = sr_method_name(outcome->report.delivered),
        .quality = outcome->note,
        .generation = options->generation,
        .n_late = options->n_late,
        .view = series->plane,
        .format = series->format,
        .number_offset = options->number_offset,
        .description = options->description,
        .station_name = options->station_name,
        .directory = directory,
    };
    return reader_derive(reader, item, &request, &work->images.voxels, &work->images.residual,
                         &series->derived, why);
}

int process_series_folder(const char *directory, const struct process_outcome *outcome, size_t i, char *path,
                          size_t size, struct fault_note *why)
{
    const struct process_series *series = &outcome->series[i];
    const char *plane = series->plane != VIEW_ACQUIRED ? view_name(series->plane) : "";
    const char *format = i > 0 && series->format == FORMAT_ENHANCED ? "-enhanced" : "";
    if (snprintf(path, size, "%s%s%s%s", directory, plane[0] != '\0' ? "-" : "", plane, format) >= (int)size)
        return fault_set(why, FAULT_INTERNAL, "the path of a series of '%s' is too long", directory);
    return 0;
}

// One more series, into its folder. The stack's own plane, asked for as a view, is passed over.
static int derive_series(struct reader *reader, size_t item, const struct process_options *options,
                         const char *directory, const struct stack_work *work,
                         struct process_outcome *outcome, struct fault_note *why)
{
    char path[CONF_PATH_SIZE + 512];
    size_t i = outcome->n_series;
    struct process_series *series = &outcome->series[i];
    int rc = process_series_folder(directory, outcome, i, path, sizeof path, why);
    if (rc == 0 && i > 0)
        rc = file_make_directory(path, why);
    if (rc == 0)
        rc = derive(reader, item, options, path, work, outcome, series, why);
    if (rc != 0 && i > 0 && (rc == FAULT_NOTHING_TO_DO || rc == FAULT_TOO_LARGE)) {
        series->fault = *why;
        int is_passed_over = rc == FAULT_NOTHING_TO_DO;
        rc = file_remove_tree(path, why);
        if (is_passed_over)
            return rc;
    }
    outcome->n_series += rc == 0;
    return rc;
}

// The planes and the views, each in every format; classic first.
static int derive_all(struct reader *reader, size_t item, const struct process_options *options,
                      const char *directory, const struct stack_work *work, struct process_outcome *outcome,
                      struct fault_note *why)
{
    int rc = 0;
    for (enum view_plane plane = VIEW_ACQUIRED; rc == 0 && plane < VIEW_N_PLANES; plane++) {
        if (plane != VIEW_ACQUIRED && (options->views & 1u << plane) == 0)
            continue;
        for (enum format format = FORMAT_CLASSIC; rc == 0 && format < FORMAT_N; format++) {
            if ((options->formats & 1u << format) == 0 || outcome->n_series == PROCESS_MAX_SERIES)
                continue;
            outcome->series[outcome->n_series] = (struct process_series){.plane = plane, .format = format};
            rc = derive_series(reader, item, options, directory, work, outcome, why);
        }
    }
    return rc;
}

int process_stack(struct reader *reader, size_t item, const struct process_options *options,
                  const char *directory, struct process_outcome *outcome, struct process_images *images,
                  struct fault_note *why)
{
    const struct source_item *stack = reader_item(reader, item);
    struct stack_work work = {0};
    struct net net;
    memset(outcome, 0, sizeof *outcome);
    net_init(&net, net_config_p0());
    int rc = load(reader, item, options, &work, why);
    float *parameters = rc == 0 ? malloc(net.n_parameters * sizeof *parameters) : NULL;
    if (rc == 0 && parameters == NULL)
        rc = fault_set(why, FAULT_NO_MEMORY, "cannot hold %zu parameters", (size_t)net.n_parameters);
    if (rc == 0)
        rc = weights_load(options->engine.weights_path, &net, parameters, work.metadata, why);
    free(parameters);
    if (rc == 0)
        rc = digest_of_file(options->engine.weights_path, outcome->weights_sha256, why);
    if (rc == 0) {
        struct sr_stack in = {
            .voxels = work.images.voxels.data,
            .depth = stack->depth,
            .height = stack->height,
            .width = stack->width,
            .row_mm = stack->row_mm,
            .column_mm = stack->column_mm,
            .slice_mm = stack->slice_mm,
            .thickness_mm = stack->thickness_mm,
            .smooth_axis = stack->resampled_axis,
        };
        struct sr_options engine = options->engine;
        engine.recipe = &options->recipe;
        rc = sr_run(&in, work.planes, work.images.n_planes, &engine, work.images.residual.data,
                    &outcome->report, why);
    }
    if (rc == 0) {
        outcome->n_planes = work.images.n_planes;
        outcome->step_mm = work.images.step_mm;
        say_result(&outcome->report, outcome->note, sizeof outcome->note);
        say_parameters(options, work.images.step_mm, &outcome->report, outcome->parameters,
                       sizeof outcome->parameters);
        rc = derive_all(reader, item, options, directory, &work, outcome, why);
    }
    if (rc == 0) {
        size_t said = strlen(outcome->note); // the derived objects have counted for themselves
        snprintf(outcome->note + said, sizeof outcome->note - said, " %zu voxels clamped.",
                 outcome->series[0].derived.n_clamped);
    }
    if (rc == 0 && images != NULL) {
        *images = work.images;
        memset(&work.images, 0, sizeof work.images);
    }
    process_images_free(&work.images);
    free(work.planes);
    free(work.metadata);
    return rc;
}

// ---- the report

static json_t *number_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *quality_json(const struct sr_quality *quality)
{
    json_t *object = json_object();
    json_object_set_new(object, "measured", json_boolean(quality->measured));
    if (quality->note[0] != '\0')
        json_object_set_new(object, "note", json_string(quality->note));
    json_t *psnr = json_object();
    for (int method = 0; method < SR_N_METHODS && quality->measured; method++)
        json_object_set_new(psnr, sr_method_name((enum sr_method)method),
                            number_or_null(quality->psnr_db[method]));
    json_object_set_new(object, "psnr_db", psnr);
    return object;
}

// "ratio" is 1 where the plane is like the acquired slices.
static json_t *uniformity_json(double ratio, size_t plane)
{
    json_t *object = json_object();
    json_object_set_new(object, "ratio", number_or_null(ratio));
    json_object_set_new(object, "plane", isfinite(ratio) ? json_integer((json_int_t)plane) : json_null());
    return object;
}

// A further series: the voxels in another plane, or the same plane in another format.
static json_t *series_json(const struct process_series *series)
{
    json_t *object =
        json_pack("{ssss}", "plane", view_name(series->plane), "format", format_name(series->format));
    if (series->fault.fault != FAULT_OK) {
        json_object_set_new(object, "verdict", json_string(fault_name(series->fault.fault)));
        json_object_set_new(object, "reason", json_string(series->fault.text));
        return object;
    }
    json_object_set_new(object, "derived_series_uid", json_string(series->derived.series_uid));
    json_object_set_new(object, "images", json_integer((json_int_t)series->derived.n_objects));
    return object;
}

static void add_outcome(json_t *object, const struct process_outcome *outcome)
{
    const struct sr_report *report = &outcome->report;
    json_object_set_new(object, "derived_series_uid", json_string(outcome->series[0].derived.series_uid));
    json_object_set_new(object, "format", json_string(format_name(outcome->series[0].format)));
    json_t *views = json_array();
    for (size_t i = 1; i < outcome->n_series; i++)
        json_array_append_new(views, series_json(&outcome->series[i]));
    json_object_set_new(object, "views", views);
    json_object_set_new(object, "planes", json_integer((json_int_t)outcome->n_planes));
    json_object_set_new(object, "step_mm", json_real(outcome->step_mm));
    json_object_set_new(object, "voxels_clamped",
                        json_integer((json_int_t)outcome->series[0].derived.n_clamped));
    json_object_set_new(object, "delivered", json_string(sr_method_name(report->delivered)));
    json_object_set_new(object, "reason", json_string(report->reason));
    json_object_set_new(object, "backend", json_string(report->backend));
    json_object_set_new(object, "range", json_pack("[ff]", report->range_low, report->range_high));
    json_object_set_new(object, "steps", json_integer(report->steps_done));
    json_object_set_new(object, "best_step", json_integer(report->step_best));
    json_object_set_new(object, "best_share", json_real(report->share_best));
    json_object_set_new(object, "train_factors",
                        json_pack("[ii]", report->factor_train_min, report->factor_train_max));
    json_object_set_new(object, "loss_first", number_or_null(report->loss_first));
    json_object_set_new(object, "loss_last", number_or_null(report->loss_last));
    json_object_set_new(object, "in_plane_patches", quality_json(&report->in_plane));
    json_object_set_new(object, "acquired_slices_left_out", quality_json(&report->left_out));
    json_object_set_new(object, "control_of_left_out", quality_json(&report->control));
    json_object_set_new(object, "worst_plane_noise",
                        uniformity_json(report->uniformity.noise, report->uniformity.noise_plane));
    json_object_set_new(object, "worst_plane_intensity",
                        uniformity_json(report->uniformity.intensity, report->uniformity.intensity_plane));
    json_object_set_new(object, "consistency", json_real(report->consistency));
    json_object_set_new(object, "seconds",
                        json_pack("{sfsfsf}", "finetune", report->seconds_finetune, "check",
                                  report->seconds_check, "interpolate", report->seconds_interpolate));
    json_object_set_new(object, "workspace_mb", json_integer((json_int_t)(report->workspace_bytes >> 20)));
    json_object_set_new(object, "memory_mb", json_integer((json_int_t)(report->memory_bytes >> 20)));
    json_object_set_new(object, "tiles", json_pack("[ii]", report->tile_rows, report->tile_columns));
    json_object_set_new(object, "weights_sha256", json_string(outcome->weights_sha256));
    json_object_set_new(object, "parameters", json_string(outcome->parameters));
    json_object_set_new(object, "version", json_string(ISOSLICE_VERSION));
}

char *process_report(const struct source_item *item, const struct process_outcome *outcome,
                     const struct fault_note *fault)
{
    json_t *object = json_object();
    json_object_set_new(object, "series_uid", json_string(item->series_uid));
    json_object_set_new(object, "stack", json_integer(item->stack_index));
    json_object_set_new(object, "images", json_integer((json_int_t)item->n_images));
    if (item->depth > 0) {
        json_object_set_new(object, "size", json_pack("[iii]", item->depth, item->height, item->width));
        json_object_set_new(object, "slice_mm", json_real(item->slice_mm));
        json_object_set_new(object, "thickness_mm", json_real(item->thickness_mm));
        json_object_set_new(object, "pixel_mm", json_pack("[ff]", item->row_mm, item->column_mm));
    }
    if (item->warnings[0] != '\0')
        json_object_set_new(object, "warnings", json_string(item->warnings));
    if (fault != NULL) {
        json_object_set_new(object, "verdict", json_string(fault_name(fault->fault)));
        json_object_set_new(object, "class", json_string(fault_class_name(fault_class_of(fault->fault))));
        json_object_set_new(object, "reason", json_string(fault->text));
    } else {
        json_object_set_new(object, "verdict", json_string("OK"));
        add_outcome(object, outcome);
    }
    char *text = json_dumps(object, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(object);
    return text;
}
