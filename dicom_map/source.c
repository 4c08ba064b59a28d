// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/source.h"

#include "core/file.h"
#include "dicom_map/decode.h"
#include "dicom_map/frame.h"
#include "dicom_map/identity.h"
#include "dicom_map/prescan.h"
#include "dicom_map/source_parts.h"
#include "dicom_map/square.h"
#include "dicom_map/stack.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_FOLDER_DEPTH = 32 };

// A file that is not an object that can be read.
struct bad_file {
    enum fault fault;
    char *name;
    char text[384];
};

struct reader {
    struct source *source;
    enum stack_use use;
    size_t room_files, room_slices;
    struct bad_file *bad;
    size_t n_bad, room_bad;
    struct fault_note *why;
};

// The array with room for more than `n`: itself, or moved and twice as large; NULL when memory is exhausted.
static void *grown(void *array, size_t *room, size_t n, size_t size, struct fault_note *why)
{
    if (array != NULL && n < *room)
        return array;
    size_t more = 2 * (*room < n ? n : *room) + 64;
    void *moved = realloc(array, more * size);
    if (moved == NULL)
        fault_set(why, FAULT_NO_MEMORY, "cannot hold %zu entries", more);
    else
        *room = more;
    return moved;
}

// ---- reading files

// A whole object, pre-scanned. Its class decides how large it may be.
static int read_object(const char *path, void **data, size_t *size, struct prescan *scan,
                       struct fault_note *why)
{
    int rc = file_read(path, SOURCE_MAX_ENHANCED_BYTES, data, size, why);
    if (rc == 0)
        rc = prescan_memory(*data, *size, scan, why);
    if (rc == 0 && *size > SOURCE_MAX_BYTES && strcmp(scan->sop_class_uid, ENHANCED_MR_IMAGE_STORAGE) != 0 &&
        strcmp(scan->sop_class_uid, LEGACY_ENHANCED_MR_IMAGE_STORAGE) != 0)
        rc = fault_set(why, FAULT_TOO_LARGE, "%zu bytes, at most %zu unless it is Enhanced MR", *size,
                       SOURCE_MAX_BYTES);
    return rc;
}

static int add_bad(struct reader *r, const char *path, enum fault fault, const char *text)
{
    struct bad_file *list = grown(r->bad, &r->room_bad, r->n_bad, sizeof *r->bad, r->why);
    if (list == NULL)
        return FAULT_NO_MEMORY;
    r->bad = list;
    const char *slash = strrchr(path, '/');
    struct bad_file *bad = &r->bad[r->n_bad];
    bad->fault = fault;
    bad->name = strdup(slash != NULL ? slash + 1 : path);
    if (bad->name == NULL)
        return fault_set(r->why, FAULT_NO_MEMORY, "cannot hold a name");
    snprintf(bad->text, sizeof bad->text, "%s", text);
    r->n_bad++;
    return 0;
}

static int add_slices(struct reader *r, const char *path, const struct dcm_object *object,
                      const struct prescan *scan)
{
    struct source *source = r->source;
    int n = slice_n_frames(object, scan);
    struct slice *slices =
        grown(source->slices, &r->room_slices, source->n_slices + (size_t)n, sizeof *source->slices, r->why);
    if (slices == NULL)
        return FAULT_NO_MEMORY;
    source->slices = slices;
    char **paths = grown(source->paths, &r->room_files, source->n_files, sizeof(char *), r->why);
    if (paths == NULL)
        return FAULT_NO_MEMORY;
    source->paths = paths;
    int rc = slice_read(object, scan, source->slices + source->n_slices, n, r->why);
    if (rc != 0)
        return rc;
    source->paths[source->n_files] = strdup(path);
    if (source->paths[source->n_files] == NULL)
        return fault_set(r->why, FAULT_NO_MEMORY, "cannot hold a path");
    for (int i = 0; i < n; i++)
        source->slices[source->n_slices + (size_t)i].file = source->n_files;
    source->n_files++;
    source->n_slices += (size_t)n;
    return 0;
}

static int read_one(struct reader *r, const char *path)
{
    struct fault_note note = {0};
    struct prescan scan;
    struct dcm_object *object = NULL;
    void *data = NULL;
    size_t size = 0;
    const char *slash = strrchr(path, '/');
    if (strcmp(slash != NULL ? slash + 1 : path, "DICOMDIR") == 0)
        return add_bad(r, path, FAULT_NOT_MR, "an index of files, not an image");
    int rc = read_object(path, &data, &size, &scan, &note);
    if (rc == 0)
        rc =
            dcm_object_parse((const char *)data + scan.dataset_offset, scan.dataset_end - scan.dataset_offset,
                             scan.transfer_syntax, 1, &object, &note);
    free(data);
    if (rc == FAULT_NO_MEMORY || rc == FAULT_CONFIG)
        return fault_set(r->why, (enum fault)rc, "%s", note.text);
    if (rc != 0)
        return add_bad(r, path, (enum fault)rc, note.text);
    rc = add_slices(r, path, object, &scan);
    dcm_object_free(object);
    return rc;
}

static int read_path(struct reader *r, const char *path, int depth);

static int read_folder(struct reader *r, const char *path, int depth)
{
    struct dirent **names = NULL;
    if (depth >= MAX_FOLDER_DEPTH)
        return fault_set(r->why, FAULT_IO, "folders are nested deeper than %d at '%s'", MAX_FOLDER_DEPTH,
                         path);
    int n = scandir(path, &names, NULL, alphasort);
    if (n < 0 && depth > 0)
        return add_bad(r, path, FAULT_IO, strerror(errno));
    if (n < 0)
        return fault_set_errno(r->why, errno, "cannot read folder '%s'", path);
    int rc = 0;
    for (int i = 0; i < n; i++) {
        char inner[4096];
        if (rc == 0 && strcmp(names[i]->d_name, ".") != 0 && strcmp(names[i]->d_name, "..") != 0) {
            rc = file_join(inner, sizeof inner, path, names[i]->d_name, r->why);
            if (rc == 0)
                rc = read_path(r, inner, depth + 1);
        }
        free(names[i]);
    }
    free(names);
    return rc;
}

static int read_path(struct reader *r, const char *path, int depth)
{
    struct stat st, link;
    if (lstat(path, &link) != 0 || stat(path, &st) != 0) {
        if (depth > 0)
            return add_bad(r, path, FAULT_IO, strerror(errno));
        return fault_set_errno(r->why, errno, "cannot look at '%s'", path);
    }
    if (S_ISDIR(st.st_mode))
        return depth > 0 && S_ISLNK(link.st_mode) ? 0 : read_folder(r, path, depth);
    if (!S_ISREG(st.st_mode))
        return add_bad(r, path, FAULT_NOT_DICOM, "not a regular file");
    return read_one(r, path);
}

// ---- items

static int new_entry(struct reader *r, size_t *room, struct source_entry **entry)
{
    struct source *source = r->source;
    struct source_entry *entries = grown(source->entries, room, source->n_entries, sizeof *entries, r->why);
    if (entries == NULL)
        return FAULT_NO_MEMORY;
    source->entries = entries;
    *entry = &source->entries[source->n_entries++];
    memset(*entry, 0, sizeof **entry);
    return 0;
}

// One item per kind of fault, in the order in which they came.
static int list_bad_files(struct reader *r, size_t *room)
{
    for (size_t i = 0; i < r->n_bad; i++) {
        if (r->bad[i].fault == FAULT_OK)
            continue;
        size_t count = 1;
        for (size_t j = i + 1; j < r->n_bad; j++)
            if (r->bad[j].fault == r->bad[i].fault) {
                r->bad[j].fault = FAULT_OK;
                count++;
            }
        struct source_entry *entry = NULL;
        int rc = new_entry(r, room, &entry);
        if (rc != 0)
            return rc;
        entry->item.verdict = r->bad[i].fault;
        entry->item.n_images = count;
        entry->item.stack_index = (int)source_n_items(r->source) - 1;
        snprintf(entry->item.reason, sizeof entry->item.reason, "%zu file%s, the first '%.80s': %s", count,
                 count == 1 ? "" : "s", r->bad[i].name, r->bad[i].text);
    }
    return 0;
}

static int compare_series(const void *a, const void *b)
{
    const struct slice *x = a, *y = b;
    return strcmp(x->series_uid, y->series_uid);
}

// The item's grid from the pixels that are kept: the coarser axis resampled where they are far from square.
static void set_grid(struct source_entry *entry, const struct slice *first, enum stack_use use)
{
    struct source_item *item = &entry->item;
    double pixel = fmin(first->row_mm, first->column_mm), wide = fmax(first->row_mm, first->column_mm);
    item->height = entry->kept_height;
    item->width = entry->kept_width;
    item->row_mm = first->row_mm;
    item->column_mm = first->column_mm;
    entry->resampled = SQUARE_NOTHING;
    item->resampled_axis = 0;
    if (use != STACK_TO_DERIVE || wide <= SQUARE_KEPT_RATIO * pixel)
        return;
    entry->acquired_mm = wide;
    item->row_mm = item->column_mm = pixel;
    entry->resampled = first->row_mm > pixel ? SQUARE_ROWS : SQUARE_COLUMNS;
    item->resampled_axis = entry->resampled == SQUARE_ROWS ? 1 : 2;
    if (entry->resampled == SQUARE_ROWS)
        item->height = square_size(entry->kept_height, wide, pixel);
    else
        item->width = square_size(entry->kept_width, wide, pixel);
}

// Fills an item from a stack and takes its arrays. `base` is where the series begins among the slices.
static void take_stack(const struct source *source, enum stack_use use, struct stack *stack, size_t base,
                       int index, struct source_entry *entry)
{
    for (size_t i = 0; i < stack->n; i++)
        stack->members[i] += base;
    const struct slice *first = &source->slices[stack->members[0]];
    struct source_item *item = &entry->item;
    snprintf(item->study_uid, UID_SIZE, "%s", first->study_uid);
    snprintf(item->series_uid, UID_SIZE, "%s", first->series_uid);
    item->stack_index = index;
    item->verdict = stack->verdict;
    snprintf(item->reason, sizeof item->reason, "%s", stack->reason);
    snprintf(item->warnings, sizeof item->warnings, "%s", stack->warnings);
    item->n_images = stack->n;
    memcpy(item->labels, first->labels, sizeof item->labels);
    entry->members = stack->members;
    entry->z_mm = stack->z_mm;
    memcpy(entry->normal, stack->normal, sizeof entry->normal);
    memcpy(item->normal, stack->normal, sizeof item->normal);
    stack->members = NULL;
    stack->z_mm = NULL;
    if (stack->verdict != FAULT_OK)
        return;
    item->depth = (int)stack->n;
    entry->kept_height = first->n_rows;
    entry->kept_width = first->n_columns;
    set_grid(entry, first, use);
    size_t n = strlen(item->warnings);
    if (entry->resampled != SQUARE_NOTHING)
        snprintf(
            item->warnings + n, sizeof item->warnings - n,
            "%spixels of %.3f x %.3f mm are resampled in plane to %.3f mm: no plane keeps its stored values",
            n > 0 ? "; " : "", first->row_mm, first->column_mm, item->row_mm);
    item->slice_mm = stack->slice_mm;
    item->thickness_mm = first->has & SLICE_HAS_THICKNESS ? first->thickness_mm : 0;
    item->gap_mm = item->slice_mm - item->thickness_mm;
    item->z_mm = entry->z_mm;
    for (size_t i = 0; i < stack->n; i++) {
        const struct slice *slice = &source->slices[entry->members[i]];
        entry->rescale_varies |= slice->slope != first->slope || slice->intercept != first->intercept;
    }
}

static int list_series(struct reader *r, size_t *room)
{
    struct source *source = r->source;
    int rc = 0;
    if (source->n_slices > 0)
        qsort(source->slices, source->n_slices, sizeof *source->slices, compare_series);
    for (size_t start = 0, end = 0; rc == 0 && start < source->n_slices; start = end) {
        for (end = start + 1; end < source->n_slices; end++)
            if (strcmp(source->slices[end].series_uid, source->slices[start].series_uid) != 0)
                break;
        struct stack *stacks = NULL;
        size_t n_stacks = 0;
        rc = stack_sort(source->slices + start, end - start, r->use, &stacks, &n_stacks, r->why);
        for (size_t i = 0; rc == 0 && i < n_stacks; i++) {
            struct source_entry *entry = NULL;
            rc = new_entry(r, room, &entry);
            if (rc == 0)
                take_stack(source, r->use, &stacks[i], start, (int)i, entry);
        }
        stack_free(stacks, n_stacks);
    }
    return rc;
}

static int open_for(enum stack_use use, const char *const *paths, size_t n_paths, struct source **source,
                    struct fault_note *why)
{
    struct reader r = {.use = use, .why = why};
    size_t room = 0;
    int rc = dcm_setup(why);
    if (rc != 0)
        return rc;
    r.source = calloc(1, sizeof *r.source);
    if (r.source == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold a source");
    for (size_t i = 0; rc == 0 && i < n_paths; i++)
        rc = read_path(&r, paths[i], 0);
    if (rc == 0)
        rc = list_bad_files(&r, &room);
    if (rc == 0)
        rc = list_series(&r, &room);
    for (size_t i = 0; i < r.n_bad; i++)
        free(r.bad[i].name);
    free(r.bad);
    if (rc != 0) {
        source_free(r.source);
        return rc;
    }
    *source = r.source;
    return 0;
}

int source_open(const char *const *paths, size_t n_paths, struct source **source, struct fault_note *why)
{
    return open_for(STACK_TO_DERIVE, paths, n_paths, source, why);
}

int source_open_to_learn(const char *const *paths, size_t n_paths, struct source **source,
                         struct fault_note *why)
{
    return open_for(STACK_TO_LEARN, paths, n_paths, source, why);
}

void source_free(struct source *source)
{
    if (source == NULL)
        return;
    for (size_t i = 0; i < source->n_entries; i++) {
        free(source->entries[i].members);
        free(source->entries[i].z_mm);
        free(source->entries[i].digests);
        free(source->entries[i].scales);
    }
    for (size_t i = 0; i < source->n_files; i++)
        free(source->paths[i]);
    free(source->entries);
    free(source->paths);
    free(source->slices);
    free(source);
}

size_t source_n_items(const struct source *source)
{
    return source->n_entries;
}

const struct source_item *source_item(const struct source *source, size_t item)
{
    return item < source->n_entries ? &source->entries[item].item : NULL;
}

// ---- pixels

// A file read again: kept from slice to slice, for a multi-frame object holds many.
struct open_file {
    void *data; // NULL: none
    size_t file, size;
    struct prescan scan;
    struct dcm_object *header; // NULL until it is asked for
};

static void close_file(struct open_file *open)
{
    free(open->data);
    dcm_object_free(open->header);
    *open = (struct open_file){0};
}

// The file that a slice came from, pre-scanned and compared with what it was.
static int read_again(const struct source *source, const struct slice *slice, struct open_file *open,
                      struct fault_note *why)
{
    if (open->data != NULL && open->file == slice->file)
        return 0;
    close_file(open);
    open->file = slice->file;
    int rc = read_object(source->paths[slice->file], &open->data, &open->size, &open->scan, why);
    if (rc == 0 && strcmp(open->scan.digest, slice->digest) != 0)
        rc = fault_set(why, FAULT_IO, "the file of SOP Instance UID %s has changed since it was opened",
                       slice->sop_uid);
    if (rc != 0)
        close_file(open);
    return rc;
}

static int parse_header(struct open_file *open, struct dcm_object **header, struct fault_note *why)
{
    const struct prescan *scan = &open->scan;
    return dcm_object_parse((const char *)open->data + scan->dataset_offset,
                            scan->dataset_end - scan->dataset_offset, scan->transfer_syntax, 1, header, why);
}

int source_parse_first(const struct source *source, size_t item, struct dcm_object **header,
                       struct fault_note *why)
{
    const struct source_entry *entry = &source->entries[item];
    struct open_file open = {0};
    if (entry->members == NULL || entry->item.n_images == 0)
        return fault_set(why, FAULT_NOT_FOUND, "item %zu has no image", item);
    int rc = read_again(source, &source->slices[entry->members[0]], &open, why);
    if (rc == 0)
        rc = parse_header(&open, header, why);
    close_file(&open);
    return rc;
}

int source_parse_headers(const struct source *source, size_t item, struct dcm_object **headers,
                         struct fault_note *why)
{
    const struct source_entry *entry = &source->entries[item];
    size_t depth = (size_t)entry->item.depth, n = 0;
    struct open_file open = {0};
    int rc = 0;
    while (rc == 0 && n < depth) {
        const struct slice *slice = &source->slices[entry->members[n]];
        rc = read_again(source, slice, &open, why);
        if (rc == 0 && !slice->enhanced)
            rc = parse_header(&open, &headers[n], why);
        else if (rc == 0 && open.header == NULL)
            rc = parse_header(&open, &open.header, why);
        if (rc == 0 && slice->enhanced)
            rc = frame_flatten(open.header, slice->frame, &headers[n], why);
        if (rc == 0)
            n++;
    }
    close_file(&open);
    while (rc != 0 && n > 0) {
        dcm_object_free(headers[--n]);
        headers[n] = NULL;
    }
    return rc;
}

struct plane_scratch {
    int32_t *whole;   // [n_rows,n_columns]
    uint8_t *samples; // the same, two bytes each
    float *kept;      // what is kept of it, before it is resampled
};

// Stored values of the part of one slice that is kept, and their digest.
static int load_slice(const struct source *source, struct source_entry *entry, size_t plane,
                      struct open_file *open, const struct plane_scratch *scratch, float *voxels,
                      struct fault_note *why)
{
    const struct slice *slice = &source->slices[entry->members[plane]];
    struct pixels_layout layout = source_layout(slice);
    size_t n = (size_t)slice->n_rows * (size_t)slice->n_columns;
    size_t n_kept = (size_t)entry->kept_height * (size_t)entry->kept_width;
    int32_t *whole = scratch->whole;
    uint8_t *samples = scratch->samples;
    float *kept = entry->resampled != SQUARE_NOTHING ? scratch->kept : voxels;
    int rc = read_again(source, slice, open, why);
    if (rc == 0)
        rc = decode_frame(open->data, open->size, &open->scan, (uint32_t)slice->frame, &layout, samples, why);
    if (rc != 0)
        return rc;
    pixels_unpack(&layout, samples, n, whole);
    struct pixels_scale *scale = &entry->scales[plane];
    *scale = (struct pixels_scale){
        .slope = slice->slope, .intercept = slice->intercept, .least = INT32_MAX, .most = INT32_MIN};
    size_t at = 0;
    for (int row = 0; row < entry->kept_height; row++)
        for (int column = 0; column < entry->kept_width; column++, at++) {
            int32_t value = whole[(size_t)(row + entry->crop_row) * (size_t)slice->n_columns +
                                  (size_t)(column + entry->crop_column)];
            scale->least = value < scale->least ? value : scale->least;
            scale->most = value > scale->most ? value : scale->most;
            if (voxels != NULL)
                kept[at] = (float)value;
            // over the samples, which are at least as large as what is kept: the bytes to be summed
            samples[2 * at] = (uint8_t)value;
            samples[2 * at + 1] = (uint8_t)((uint32_t)value >> 8);
        }
    struct digest *digest = digest_new();
    if (digest == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot start a digest");
    digest_add(digest, samples, 2 * n_kept);
    if (entry->rescale_varies) {
        char text[80];
        int length =
            snprintf(text, sizeof text, "slope=%.17g;intercept=%.17g", slice->slope, slice->intercept);
        digest_add(digest, text, (size_t)length);
    }
    digest_finish(digest, entry->digests[plane]);
    if (voxels == NULL || entry->resampled == SQUARE_NOTHING)
        return 0;
    int n_new = entry->resampled == SQUARE_ROWS ? entry->item.height : entry->item.width;
    return square_resample(kept, entry->kept_height, entry->kept_width, entry->resampled, n_new,
                           entry->item.row_mm / entry->acquired_mm, voxels, why);
}

// Decodes all planes; `voxels` may be NULL when only digests and scales are wanted.
static int load_planes(const struct source *source, size_t item, float *voxels, struct fault_note *why)
{
    if (item >= source->n_entries || source->entries[item].item.verdict != FAULT_OK)
        return fault_set(why, FAULT_INTERNAL, "item %zu is not a stack", item);
    struct source_entry *entry = &source->entries[item];
    const struct slice *first = &source->slices[entry->members[0]];
    size_t depth = (size_t)entry->item.depth;
    size_t n = (size_t)first->n_rows * (size_t)first->n_columns;
    size_t n_kept = (size_t)entry->item.height * (size_t)entry->item.width;
    struct plane_scratch scratch = {
        .whole = malloc(n * sizeof(int32_t)), .samples = malloc(2 * n), .kept = malloc(n * sizeof(float))};
    if (entry->digests == NULL)
        entry->digests = calloc(depth, sizeof *entry->digests);
    if (entry->scales == NULL)
        entry->scales = calloc(depth, sizeof *entry->scales);
    if (scratch.whole == NULL || scratch.samples == NULL || scratch.kept == NULL || entry->digests == NULL ||
        entry->scales == NULL) {
        free(scratch.whole);
        free(scratch.samples);
        free(scratch.kept);
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold a slice of %zu pixels", n);
    }
    int rc = 0;
    struct open_file open = {0};
    for (size_t plane = 0; rc == 0 && plane < depth; plane++)
        rc = load_slice(source, entry, plane, &open, &scratch,
                        voxels != NULL ? voxels + plane * n_kept : NULL, why);
    close_file(&open);
    free(scratch.whole);
    free(scratch.samples);
    free(scratch.kept);
    if (rc != 0)
        return rc;
    if (entry->rescale_varies) {
        struct pixels_layout layout = source_layout(first);
        pixels_common_scale(entry->scales, depth, &layout, &entry->slope, &entry->intercept);
        for (size_t plane = 0; voxels != NULL && plane < depth; plane++)
            pixels_convert(voxels + plane * n_kept, n_kept, &entry->scales[plane], entry->slope,
                           entry->intercept);
    }
    entry->is_loaded = 1;
    return 0;
}

int source_load_voxels(const struct source *source, size_t item, float *voxels, struct fault_note *why)
{
    return load_planes(source, item, voxels, why);
}

int source_look_at_pixels(const struct source *source, size_t item, struct fault_note *why)
{
    if (item < source->n_entries && source->entries[item].is_loaded)
        return 0;
    return load_planes(source, item, NULL, why);
}

int source_crop(struct source *source, size_t item, int rows, int columns, struct fault_note *why)
{
    if (item >= source->n_entries || source->entries[item].item.verdict != FAULT_OK || rows < 1 ||
        columns < 1)
        return fault_set(why, FAULT_INTERNAL, "item %zu cannot be cropped to %d x %d", item, rows, columns);
    struct source_entry *entry = &source->entries[item];
    int cut_rows = entry->kept_height > rows ? (entry->kept_height - rows) / 2 : 0;
    int cut_columns = entry->kept_width > columns ? (entry->kept_width - columns) / 2 : 0;
    if (entry->kept_height > rows)
        entry->kept_height = rows;
    if (entry->kept_width > columns)
        entry->kept_width = columns;
    set_grid(entry, &source->slices[entry->members[0]],
             entry->resampled != SQUARE_NOTHING ? STACK_TO_DERIVE : STACK_TO_LEARN);
    entry->crop_row += cut_rows;
    entry->crop_column += cut_columns;
    entry->is_loaded = 0;
    entry->is_cropped |= cut_rows > 0 || cut_columns > 0;
    for (size_t i = 0; i < entry->item.n_images; i++) {
        struct slice *slice = &source->slices[entry->members[i]];
        for (int axis = 0; axis < 3; axis++)
            slice->position[axis] += slice->row[axis] * cut_columns * slice->column_mm +
                                     slice->column[axis] * cut_rows * slice->row_mm;
    }
    return 0;
}
