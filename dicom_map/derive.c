// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/derive_parts.h"

#include "core/file.h"
#include "core/version.h"
#include "dicom_map/description.h"
#include "dicom_map/identity.h"
#include "dicom_map/number.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- what the series is called

struct uid_and_digest {
    const char *uid, *digest;
    const struct slice *slice;
    int frame; // from 0; -1: of an object that has but one
};

static int compare_by_uid(const void *a, const void *b)
{
    const struct uid_and_digest *x = a, *y = b;
    int order = strcmp(x->uid, y->uid);
    return order != 0 ? order : (x->frame > y->frame) - (x->frame < y->frame);
}

static void add_text(struct digest *digest, const char *text)
{
    digest_add(digest, text, strlen(text) + 1);
}

// What of a header decides pixels and places: the same values elsewhere are another image.
static void add_place(struct digest *digest, const struct slice *slice)
{
    char text[400];
    int n = 0;
    for (int i = 0; i < 3; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%.17g,%.17g,%.17g,", slice->position[i],
                      slice->row[i], slice->column[i]);
    snprintf(text + n, sizeof text - (size_t)n, "%.17g,%.17g,%.17g", slice->row_mm, slice->column_mm,
             slice->has & SLICE_HAS_THICKNESS ? slice->thickness_mm : 0);
    add_text(digest, text);
}

// SHA-256 over the patient and the study, and the sources, their stored values and places in order of UID.
static int digest_sources(const struct derive_request *r, char hex[DIGEST_HEX_SIZE], struct fault_note *why)
{
    int rc = source_look_at_pixels(r->source, r->item, why);
    if (rc != 0)
        return rc;
    const struct source_entry *entry = &r->source->entries[r->item];
    size_t depth = (size_t)entry->item.depth;
    struct uid_and_digest *sorted = malloc(depth * sizeof *sorted);
    struct digest *digest = digest_new();
    if (sorted == NULL || digest == NULL) {
        free(sorted);
        digest_free(digest);
        return fault_set(why, FAULT_NO_MEMORY, "cannot sum %zu slices", depth);
    }
    for (size_t i = 0; i < depth; i++) {
        const struct slice *slice = source_slice(r->source, r->item, i);
        sorted[i] = (struct uid_and_digest){slice->sop_uid, entry->digests[i], slice,
                                            slice->n_frames > 1 ? slice->frame : -1};
    }
    qsort(sorted, depth, sizeof *sorted, compare_by_uid);
    add_text(digest, sorted[0].slice->patient_digest);
    add_text(digest, sorted[0].slice->study_uid);
    for (size_t i = 0; i < depth; i++) {
        char frame[24];
        add_text(digest, sorted[i].uid);
        add_text(digest, sorted[i].digest);
        add_place(digest, sorted[i].slice);
        if (sorted[i].frame >= 0) {
            snprintf(frame, sizeof frame, "frame=%d", sorted[i].frame);
            add_text(digest, frame);
        }
    }
    digest_finish(digest, hex);
    free(sorted);
    return 0;
}

int derive_series_uid(const struct derive_request *r, char series_uid[UID_SIZE], struct fault_note *why)
{
    const struct source_item *stack = source_item(r->source, r->item);
    char sources[DIGEST_HEX_SIZE], parameters[DIGEST_HEX_SIZE];
    if (stack == NULL || stack->verdict != FAULT_OK)
        return fault_set(why, FAULT_INTERNAL, "item %zu is not a stack", r->item);
    int rc = digest_sources(r, sources, why);
    if (rc == 0)
        rc = digest_of(derive_or_empty(r->parameters), strlen(derive_or_empty(r->parameters)), parameters,
                       why);
    if (rc != 0)
        return rc;
    char *name = NULL;
    if (asprintf(&name, "isoslice/series/1|%s|%s|%d|%s|model=%s|rev=%d|params=%s|kind=%s-mr/%s%s%s|gen=%d",
                 derive_or_empty(r->site_id), stack->series_uid, stack->stack_index, sources,
                 derive_or_empty(r->weights_sha256), ISOSLICE_ALGORITHM_REVISION, parameters,
                 format_name(r->format), r->method, r->view != VIEW_ACQUIRED ? "/" : "",
                 r->view != VIEW_ACQUIRED ? view_name(r->view) : "", r->generation) < 0)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold the name of a series");
    rc = uid_from_name(name, series_uid, why);
    free(name);
    return rc;
}

int derive_image_uid(const char *series_uid, size_t k, char uid[UID_SIZE], struct fault_note *why)
{
    char name[UID_SIZE + 60];
    snprintf(name, sizeof name, "isoslice/image/1|%s|%zu", series_uid, k);
    return uid_from_name(name, uid, why);
}

int derive_number(const struct dcm_item *first, int number_offset, int stack, int place)
{
    char text[32];
    double number = 0;
    double offset = number_offset > 0 ? number_offset : DERIVE_NUMBER_OFFSET;
    double made = 9 * offset + 1 + stack + 10 * offset * place;
    if (dcm_get_text(first, 0x00200011, text, sizeof text) > 0 && number_at(text, 0, &number) && number >= 0)
        made = number < offset ? number + offset * (1 + stack + 10 * place)
                               : number * 100 + 1 + stack + 10 * place;
    return made >= 2147483647.0 ? 2147483647 : (int)made;
}

// Views follow the series that they are views of, and enhanced series the views.
int derive_series_number(const struct derive_request *r, const struct dcm_item *first)
{
    int place = (int)r->view + (r->format == FORMAT_ENHANCED ? VIEW_N_PLANES : 0);
    return derive_number(first, r->number_offset, source_item(r->source, r->item)->stack_index, place);
}

// ---- the series

static const uint64_t MOST_PIXEL_BYTES = 0xFFFFFFFE; // of one element; PS3.5 7.1.1, and even

// Pixel Data of all frames in one element.
static int check_size(const struct derivation *d)
{
    uint64_t size = (uint64_t)d->n_images * (uint64_t)d->rows * (uint64_t)d->columns * sizeof *d->words;
    if (d->request->format != FORMAT_ENHANCED || size <= MOST_PIXEL_BYTES)
        return 0;
    return fault_set(d->why, FAULT_TOO_LARGE,
                     "one object of %zu frames of %d x %d pixels would hold %llu bytes of them, at most %llu",
                     d->n_images, d->rows, d->columns, (unsigned long long)size,
                     (unsigned long long)MOST_PIXEL_BYTES);
}

static int check_request(const struct derive_request *r, struct fault_note *why)
{
    const struct source_item *item = source_item(r->source, r->item);
    if (item == NULL || item->verdict != FAULT_OK)
        return fault_set(why, FAULT_INTERNAL, "item %zu is not a stack", r->item);
    if (r->n_planes < 1 || r->n_planes > DERIVE_MAX_PLANES || r->planes == NULL || r->voxels == NULL ||
        r->residual == NULL || r->method == NULL || r->directory == NULL || !(r->step_mm > 0) ||
        r->view < VIEW_ACQUIRED || r->view >= VIEW_N_PLANES || r->format < FORMAT_CLASSIC ||
        r->format >= FORMAT_N || (r->description != NULL && !description_is_valid(r->description))) {
        fault_set(why, FAULT_INTERNAL, "a request for %zu planes is not complete", r->n_planes);
        return FAULT_INTERNAL;
    }
    return 0;
}

// How many images of what size, and where the volume lies.
static int set_images(struct derivation *d)
{
    const struct derive_request *r = d->request;
    const struct slice *first = source_slice(r->source, r->item, 0);
    d->rows = d->item->height;
    d->columns = d->item->width;
    d->n_images = r->n_planes;
    if (r->view == VIEW_ACQUIRED)
        return 0;
    d->grid = (struct view_grid){.step_mm = {d->item->column_mm, d->item->row_mm, r->step_mm},
                                 .n = {d->item->width, d->item->height, (int)r->n_planes}};
    memcpy(d->grid.origin, r->planes[0].position, sizeof d->grid.origin);
    memcpy(d->grid.axis[0], first->row, sizeof d->grid.axis[0]);
    memcpy(d->grid.axis[1], first->column, sizeof d->grid.axis[1]);
    memcpy(d->grid.axis[2], d->entry->normal, sizeof d->grid.axis[2]);
    if (!view_init(&d->grid, r->view, &d->view))
        return fault_set(d->why, FAULT_NOTHING_TO_DO, "the stack's own planes are %s", view_name(r->view));
    d->columns = d->view.n[0];
    d->rows = d->view.n[1];
    d->n_images = (size_t)d->view.n[2];
    return 0;
}

static int open_sources(struct derivation *d)
{
    size_t depth = (size_t)d->item->depth;
    size_t n = (size_t)d->rows * (size_t)d->columns;
    d->sources = calloc(depth, sizeof(struct dcm_object *));
    d->values = n > 0 ? malloc(n * sizeof *d->values) : NULL;
    d->words = n > 0 ? malloc(n * sizeof *d->words) : NULL;
    if (d->sources == NULL || d->values == NULL || d->words == NULL)
        return fault_set(d->why, FAULT_NO_MEMORY, "cannot hold a plane of %zu pixels", n);
    int rc = source_parse_headers(d->request->source, d->request->item, d->sources, d->why);
    if (rc == 0)
        rc = dcm_object_new(&d->made, d->why);
    if (rc != 0)
        return rc;
    d->first = derivation_source(d, 0);
    d->root = dcm_root(d->made);
    d->layout = source_layout(source_slice(d->request->source, d->request->item, 0));
    d->layout.bits_allocated = 16;
    pixels_range(&d->layout, &d->least, &d->most);
    return 0;
}

int derive_write(const struct derive_request *request, struct derive_result *result, struct fault_note *why)
{
    int rc = check_request(request, why);
    if (rc != 0)
        return rc;
    struct derivation d = {.request = request,
                           .entry = &request->source->entries[request->item],
                           .item = source_item(request->source, request->item),
                           .why = why};
    struct derive_result made = {0};
    rc = set_images(&d);
    if (rc == 0)
        rc = check_size(&d);
    if (rc == 0)
        rc = derive_series_uid(request, d.series_uid, why);
    if (rc == 0)
        rc = open_sources(&d);
    if (rc == 0)
        rc = derivation_count_clamped(&d);
    if (rc == 0) {
        derivation_set_job_time(&d);
        derivation_build_common(&d);
        rc = d.rc;
    }
    int direction = rc == 0 && request->view == VIEW_ACQUIRED ? derivation_direction(&d) : 1;
    if (rc == 0)
        rc = derivation_write(&d, direction);
    if (rc == 0)
        rc = file_sync_directory(request->directory, why);
    if (rc == 0) {
        memcpy(made.series_uid, d.series_uid, UID_SIZE);
        made.n_objects = request->format == FORMAT_ENHANCED ? 1 : d.n_images;
        made.n_clamped = d.n_clamped;
        made.series_number = derive_series_number(request, d.first);
        *result = made;
    }
    for (int i = 0; d.sources != NULL && i < d.item->depth; i++)
        dcm_object_free(d.sources[i]);
    dcm_object_free(d.made);
    free(d.sources);
    free(d.values);
    free(d.words);
    return rc;
}
