// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"
#include "conf/conf.h"
#include "reader/reader.h"

#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_SOMETHING = 0, EXIT_NOTHING = 3 };

struct inspect {
    const char *const *paths;
    size_t n_paths;
    enum derive_spacing spacing;
    double spacing_mm;
    int as_json;
};

// What would become of one item.
struct prospect {
    const struct source_item *item;
    enum fault verdict;
    char reason[512];
    size_t n_planes;
    double step_mm;
};

static void print_help(void)
{
    puts(
        "usage: isoslice inspect [options] PATH ...\n\n"
        "Says what isoslice run, or the node, would do with the DICOM files below the PATHs, and why: every\n"
        "stack with its grid and what would be derived from it, every refusal with its code and the "
        "numbers.\n"
        "Reads headers only and changes nothing. docs/REFUSALS.md explains the codes.\n\n"
        "  --spacing S       isotropic (default: exactly the in-plane spacing), recur, or millimetres\n"
        "  --json            an array with one object per stack or refusal instead of the table: uids, "
        "images, verdict,\n"
        "                    class, reason, warnings; of a stack also columns, rows, slices, pixel_mm, "
        "slice_mm,\n"
        "                    thickness_mm, gap_mm, normal, positions_mm, planes, step_mm\n\n"
        "Exit code: 0 something would be derived; 3 nothing; 2 usage; 1 internal fault.");
}

static int parse(struct inspect *inspect, int argc, char **argv)
{
    static const struct option options[] = {{"spacing", required_argument, NULL, 's'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    static const enum derive_spacing modes[] = {DERIVE_ISOTROPIC, DERIVE_RECUR, DERIVE_MM};
    int c, mode;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 's':
            if (!conf_parse_spacing(optarg, &mode, &inspect->spacing_mm))
                return command_usage_error("inspect", "bad value '%s'", optarg);
            inspect->spacing = modes[mode];
            break;
        case 'j':
            inspect->as_json = 1;
            break;
        case 'h':
            print_help();
            return -1;
        default:
            return command_usage_error("inspect", "bad arguments");
        }
    }
    if (optind == argc)
        return command_usage_error("inspect", "needs a PATH");
    inspect->paths = (const char *const *)argv + optind;
    inspect->n_paths = (size_t)(argc - optind);
    return 0;
}

// The verdict on a stack may still be that its planes cannot be laid out.
static int look_ahead(const struct inspect *inspect, struct reader *reader, size_t i,
                      struct prospect *prospect, struct fault_note *why)
{
    const struct source_item *item = reader_item(reader, i);
    *prospect = (struct prospect){.item = item, .verdict = item->verdict};
    snprintf(prospect->reason, sizeof prospect->reason, "%s", item->reason);
    if (item->verdict != FAULT_OK)
        return 0;
    struct derive_plane *planes = NULL;
    int rc = reader_plan(reader, i, inspect->spacing, inspect->spacing_mm, &planes, &prospect->n_planes,
                         &prospect->step_mm, why);
    free(planes);
    if (rc != 0 && fault_class_of((enum fault)rc) == FAULT_CLASS_REFUSAL) {
        prospect->verdict = (enum fault)rc;
        snprintf(prospect->reason, sizeof prospect->reason, "%s", why->text);
        rc = 0;
    }
    return rc;
}

// The anatomical plane that a stack lies nearest to (PS3.3 C.7.6.2: +x left, +y posterior, +z head), with
// "oblique" beyond 10 degrees.
static const char *plane_of(const double normal[3])
{
    static const char *const names[3][2] = {
        {"sagittal", "oblique sagittal"}, {"coronal", "oblique coronal"}, {"axial", "oblique axial"}};
    int best = 0;
    for (int i = 1; i < 3; i++)
        if (fabs(normal[i]) > fabs(normal[best]))
            best = i;
    return names[best][fabs(normal[best]) < cos(10 * M_PI / 180)];
}

// ---- the table

static void print_prospect(const struct prospect *prospect)
{
    const struct source_item *item = prospect->item;
    printf("%s stack %d\n", item->series_uid[0] ? item->series_uid : "(no series)", item->stack_index);
    if (item->depth > 0)
        printf("  %-10s %dx%dx%d %s, pixels %.4g x %.4g mm, slices %.4g mm apart, %.4g mm thick\n", "grid",
               item->width, item->height, item->depth, plane_of(item->normal), item->column_mm, item->row_mm,
               item->slice_mm, item->thickness_mm);
    else
        printf("  %-10s %zu\n", "images", item->n_images);
    if (prospect->verdict == FAULT_OK)
        printf("  %-10s %zu planes, %.6g mm apart\n", "derives", prospect->n_planes, prospect->step_mm);
    else
        printf("  %-10s %s: %s\n",
               fault_class_of(prospect->verdict) == FAULT_CLASS_REFUSAL ? "refused" : "fails",
               fault_name(prospect->verdict), prospect->reason);
    if (item->warnings[0] != '\0')
        printf("  %-10s %s\n", "warning", item->warnings);
}

// ---- JSON

// Refusals quote file names and header texts, which need not be UTF-8; bytes that are not are shown as '?'.
static json_t *text_json(const char *text)
{
    json_t *value = json_string(text);
    if (value != NULL)
        return value;
    char copy[1024];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *p = copy; *p != '\0'; p++)
        if ((unsigned char)*p > 126)
            *p = '?';
    return json_string(copy);
}

static void add_grid(json_t *object, const struct prospect *prospect)
{
    const struct source_item *item = prospect->item;
    json_t *positions = json_array();
    for (int i = 0; i < item->depth; i++)
        json_array_append_new(positions, json_real(item->z_mm[i]));
    json_object_set_new(object, "columns", json_integer(item->width));
    json_object_set_new(object, "rows", json_integer(item->height));
    json_object_set_new(object, "slices", json_integer(item->depth));
    json_object_set_new(object, "pixel_mm", json_pack("[ff]", item->row_mm, item->column_mm));
    json_object_set_new(object, "slice_mm", json_real(item->slice_mm));
    json_object_set_new(object, "thickness_mm", json_real(item->thickness_mm));
    json_object_set_new(object, "gap_mm", json_real(item->gap_mm));
    json_object_set_new(object, "normal",
                        json_pack("[fff]", item->normal[0], item->normal[1], item->normal[2]));
    json_object_set_new(object, "plane", json_string(plane_of(item->normal)));
    json_object_set_new(object, "positions_mm", positions);
    if (prospect->verdict == FAULT_OK) {
        json_object_set_new(object, "planes", json_integer((json_int_t)prospect->n_planes));
        json_object_set_new(object, "step_mm", json_real(prospect->step_mm));
    }
}

static json_t *prospect_json(const struct prospect *prospect)
{
    const struct source_item *item = prospect->item;
    json_t *object = json_object();
    json_object_set_new(object, "study_uid", text_json(item->study_uid));
    json_object_set_new(object, "series_uid", text_json(item->series_uid));
    json_object_set_new(object, "stack", json_integer(item->stack_index));
    json_object_set_new(object, "images", json_integer((json_int_t)item->n_images));
    json_object_set_new(object, "verdict", json_string(fault_name(prospect->verdict)));
    json_object_set_new(object, "class", json_string(fault_class_name(fault_class_of(prospect->verdict))));
    json_object_set_new(object, "reason", text_json(prospect->reason));
    json_object_set_new(object, "warnings", text_json(item->warnings));
    if (item->depth > 0)
        add_grid(object, prospect);
    return object;
}

static int print_all(const struct inspect *inspect, struct reader *reader, size_t *n_derived,
                     struct fault_note *why)
{
    size_t n = reader_n_items(reader);
    json_t *array = inspect->as_json ? json_array() : NULL;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        struct prospect prospect;
        rc = look_ahead(inspect, reader, i, &prospect, why);
        if (rc != 0)
            break;
        *n_derived += prospect.verdict == FAULT_OK;
        if (array != NULL)
            json_array_append_new(array, prospect_json(&prospect));
        else
            print_prospect(&prospect);
    }
    if (rc == 0 && array != NULL) {
        json_dumpf(array, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
        putchar('\n');
    } else if (rc == 0) {
        printf("%zu to derive, %zu not\n", *n_derived, n - *n_derived);
    }
    json_decref(array);
    return rc;
}

int command_inspect(int argc, char **argv)
{
    struct inspect inspect = {.spacing = DERIVE_ISOTROPIC};
    struct fault_note why;
    struct reader *reader = NULL;
    const struct reader_options options = {.memory_bytes = READER_MEMORY_BYTES_ANY,
                                           .cpu_s = READER_OPEN_S_ANY};
    size_t n_derived = 0;
    int code = parse(&inspect, argc, argv);
    if (code != 0)
        return code < 0 ? 0 : code;
    int rc = reader_open(inspect.paths, inspect.n_paths, &options, &reader, &why);
    if (rc == 0)
        rc = print_all(&inspect, reader, &n_derived, &why);
    reader_free(reader);
    if (rc != 0)
        return command_fault("inspect", &why);
    return n_derived > 0 ? EXIT_SOMETHING : EXIT_NOTHING;
}
