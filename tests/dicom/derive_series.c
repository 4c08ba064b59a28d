// SPDX-License-Identifier: Apache-2.0
//
// derive_series SOURCE OUT [key=value ...]: derives a series from the first stack in SOURCE with a residual
// of zero, so that its values are those of linear interpolation. Keys: crop (pixels, 0 = whole), spacing
// (iso, recur or mm), method, residual (added to every value), item, site, generation, parameters, weights,
// time_us, view, format, number_offset, description. Prints one line per fact. For the tests of this folder
// and check_derived.sh.
#include "core/file.h"
#include "dicom_map/derive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *option(int argc, char **argv, const char *key, const char *otherwise)
{
    size_t n = strlen(key);
    for (int i = 3; i < argc; i++)
        if (strncmp(argv[i], key, n) == 0 && argv[i][n] == '=')
            return argv[i] + n + 1;
    return otherwise;
}

static int fail(int rc, const struct fault_note *why)
{
    fprintf(stderr, "%s: %s\n", fault_name((enum fault)rc), why->text);
    return 1;
}

int main(int argc, char **argv)
{
    struct fault_note why = {0};
    struct source *source = NULL;
    if (argc < 3)
        return 2;
    file_arm_crash_point();
    const char *path = argv[1];
    int rc = source_open(&path, 1, &source, &why);
    if (rc != 0)
        return fail(rc, &why);
    size_t item = (size_t)atoi(option(argc, argv, "item", "0"));
    while (item + 1 < source_n_items(source) && source_item(source, item)->verdict != FAULT_OK)
        item++;
    const struct source_item *stack = source_item(source, item);
    printf("verdict %s\nreason %s\nwarnings %s\n", fault_name(stack->verdict), stack->reason,
           stack->warnings);
    int crop = atoi(option(argc, argv, "crop", "0"));
    if (crop > 0 && (rc = source_crop(source, item, crop, crop, &why)) != 0)
        return fail(rc, &why);
    const char *spacing = option(argc, argv, "spacing", "iso");
    enum derive_spacing mode = strcmp(spacing, "iso") == 0     ? DERIVE_ISOTROPIC
                               : strcmp(spacing, "recur") == 0 ? DERIVE_RECUR
                                                               : DERIVE_MM;
    enum view_plane view = VIEW_ACQUIRED;
    view_from_name(option(argc, argv, "view", "none"), &view);
    enum format format = FORMAT_CLASSIC;
    format_from_name(option(argc, argv, "format", "classic"), &format);
    struct derive_request request = {
        .source = source,
        .item = item,
        .site_id = option(argc, argv, "site", "test-site"),
        .job_time_us = atoll(option(argc, argv, "time_us", "1767607200123456")),
        .model_name = "SA-INR",
        .model_version = "1.0",
        .weights_sha256 =
            option(argc, argv, "weights", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"),
        .parameters = option(argc, argv, "parameters", "steps=0;seed=1"),
        .method = option(argc, argv, "method", "linear"),
        .quality = "left-out slices: linear 30.1 dB, cubic 29.9 dB",
        .generation = atoi(option(argc, argv, "generation", "0")),
        .view = view,
        .format = format,
        .number_offset = atoi(option(argc, argv, "number_offset", "0")),
        .description = option(argc, argv, "description", NULL),
        .station_name = "NODE1",
        .directory = argv[2],
    };
    struct derive_plane *planes = NULL;
    rc = derive_plan(source, item, mode, atof(spacing), &planes, &request.n_planes, &request.step_mm, &why);
    if (rc != 0) {
        source_free(source);
        return fail(rc, &why);
    }
    request.planes = planes;
    size_t n = (size_t)stack->height * (size_t)stack->width;
    float *voxels = malloc(n * (size_t)stack->depth * sizeof *voxels);
    float *residual = calloc(n * request.n_planes, sizeof *residual);
    if (voxels == NULL || residual == NULL) {
        free(voxels);
        free(residual);
        return 1;
    }
    float added = strtof(option(argc, argv, "residual", "0"), NULL);
    for (size_t i = 0; i < n * request.n_planes; i++)
        residual[i] = added;
    request.voxels = voxels;
    request.residual = residual;
    struct derive_result result = {0};
    char uid[UID_SIZE] = "";
    rc = source_load_voxels(source, item, voxels, &why);
    if (rc == 0)
        rc = derive_series_uid(&request, uid, &why);
    if (rc == 0)
        rc = derive_write(&request, &result, &why);
    if (rc != 0)
        fail(rc, &why);
    else
        printf("series %s\npromised %s\nobjects %zu\nclamped %zu\nnumber %d\nstep %.17g\n", result.series_uid,
               uid, result.n_objects, result.n_clamped, result.series_number, request.step_mm);
    free(voxels);
    free(residual);
    free(planes);
    source_free(source);
    return rc != 0;
}
