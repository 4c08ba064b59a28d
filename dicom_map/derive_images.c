// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/derive_parts.h"

#include "dicom_map/attributes.h"
#include "dicom_map/enhance.h"
#include "dicom_map/identity.h"
#include "dicom_map/number.h"
#include "dicom_map/object_file.h"
#include "dicom_map/terms.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- one plane

enum { POSITION_SIZE = 256 };

static void say_place(const double position[3], char text[POSITION_SIZE])
{
    char three[3][NUMBER_DS_SIZE];
    for (int i = 0; i < 3; i++)
        number_ds(position[i], DS_DIGITS, three[i]);
    snprintf(text, POSITION_SIZE, "%s\\%s\\%s", three[0], three[1], three[2]);
}

// Image Position (Patient) of image `m`. An acquired plane keeps its position to the last digit that the
// source gave.
static void say_position(const struct derivation *d, size_t m, char text[POSITION_SIZE])
{
    double position[3];
    if (d->request->view != VIEW_ACQUIRED) {
        view_position(&d->view, &d->grid, (int)m, position);
        say_place(position, text);
        return;
    }
    const struct derive_plane *plane = &d->request->planes[m];
    if (plane->t != 0 || d->entry->is_cropped ||
        dcm_get_text(derivation_source(d, (size_t)plane->slice), 0x00200032, text, POSITION_SIZE) <= 0 ||
        !attribute_is_legal("DS", text))
        say_place(plane->position, text);
}

// One voxel: linear between its neighbours plus the residual, rounded once, clamped. 1 when it was clamped, 0
// when not, negative a fault. `at` is the pixel within the plane, `n` their number.
static int compute_voxel(const struct derivation *d, size_t k, size_t at, size_t n, int32_t *stored)
{
    const struct derive_request *r = d->request;
    const struct derive_plane *plane = &r->planes[k];
    const float *below = r->voxels + (size_t)plane->slice * n;
    double value = below[at];
    if (plane->t > 0)
        value = (1 - plane->t) * value + plane->t * (double)below[n + at];
    value += (double)r->residual[k * n + at];
    if (!isfinite(value))
        return fault_set(d->why, FAULT_NOT_FINITE, "the value of voxel %zu in plane %zu is not finite", at,
                         k);
    value = rint(value);
    int is_clamped = value < d->least || value > d->most;
    if (is_clamped)
        value = value < d->least ? d->least : d->most;
    *stored = (int32_t)value;
    return is_clamped;
}

// Before anything is written: every object says how many voxels of the series were clamped.
int derivation_count_clamped(struct derivation *d)
{
    const struct derive_request *r = d->request;
    size_t n = (size_t)d->item->height * (size_t)d->item->width;
    d->smallest = d->most;
    d->largest = d->least;
    for (size_t k = 0; k < r->n_planes; k++) {
        const struct derive_plane *plane = &r->planes[k];
        if (plane->slice < 0 || plane->slice >= d->item->depth || !(plane->t >= 0 && plane->t < 1) ||
            (plane->t > 0 && plane->slice + 1 >= d->item->depth))
            return fault_set(d->why, FAULT_INTERNAL, "plane %zu lies at slice %d + %g of %d", k, plane->slice,
                             plane->t, d->item->depth);
        for (size_t i = 0; i < n; i++) {
            int32_t stored = 0;
            int rc = compute_voxel(d, k, i, n, &stored);
            if (rc < 0)
                return rc;
            d->n_clamped += (size_t)rc;
            d->smallest = stored < d->smallest ? stored : d->smallest;
            d->largest = stored > d->largest ? stored : d->largest;
        }
    }
    return 0;
}

// Values of image `m`, and the least and the largest of them.
static int compute_image(struct derivation *d, size_t m, int32_t *smallest, int32_t *largest)
{
    size_t width = (size_t)d->item->width, n = (size_t)d->item->height * width;
    *smallest = d->most;
    *largest = d->least;
    for (int row = 0; row < d->rows; row++)
        for (int column = 0; column < d->columns; column++) {
            int index[3] = {column, row, (int)m};
            if (d->request->view != VIEW_ACQUIRED)
                view_voxel(&d->view, &d->grid, (int)m, row, column, index);
            int32_t stored = 0;
            int rc =
                compute_voxel(d, (size_t)index[2], (size_t)index[1] * width + (size_t)index[0], n, &stored);
            if (rc < 0)
                return rc;
            d->values[(size_t)row * (size_t)d->columns + (size_t)column] = stored;
            *smallest = stored < *smallest ? stored : *smallest;
            *largest = stored > *largest ? stored : *largest;
        }
    return 0;
}

// Where image `m` lies, and its number.
static void put_where(struct derivation *d, size_t m, int direction)
{
    const struct derive_request *r = d->request;
    double view_at[3];
    char text[POSITION_SIZE];
    const double *p = view_at, *n = d->entry->normal;
    if (r->view == VIEW_ACQUIRED) {
        p = r->planes[m].position;
    } else {
        n = d->view.direction[2];
        view_position(&d->view, &d->grid, (int)m, view_at);
    }
    say_position(d, m, text);
    derivation_put(d, 0x00200032, text);
    derivation_put_int(d, 0x00200013, direction > 0 ? (long)m + 1 : (long)(d->n_images - m));
    derivation_put_ds(d, 0x00201041, p[0] * n[0] + p[1] * n[1] + p[2] * n[2], DS_DIGITS);
}

static int write_image(struct derivation *d, size_t m, int direction)
{
    const struct derive_request *r = d->request;
    int32_t smallest = 0, largest = 0;
    char uid[UID_SIZE];
    char name[32];
    void *dataset = NULL;
    size_t size = 0;
    int rc = compute_image(d, m, &smallest, &largest);
    if (rc == 0)
        rc = derive_image_uid(d->series_uid, m, uid, d->why);
    if (rc != 0)
        return rc;
    snprintf(name, sizeof name, "IM%04zu.dcm", m + 1);
    derivation_put(d, 0x00080018, uid);
    put_where(d, m, direction);
    derivation_put_short(d, 0x00280106, d->layout.is_signed, smallest);
    derivation_put_short(d, 0x00280107, d->layout.is_signed, largest);
    size_t n_values = (size_t)d->rows * (size_t)d->columns;
    pixels_pack(&d->layout, d->values, n_values, d->words);
    if (d->rc == 0)
        d->rc = dcm_put_pixels(d->root, d->words, n_values, d->why);
    if (d->rc == 0)
        d->rc = dcm_object_encode(d->made, &dataset, &size, d->why);
    if (d->rc == 0)
        d->rc = object_file_write(r->directory, name, MR_IMAGE_STORAGE, uid, dataset, size, d->why);
    free(dataset);
    return d->rc;
}

// ---- one object with all planes

// Frame Anatomy of the source, where all its frames agree.
static const struct dcm_item *find_anatomy(const struct derivation *d)
{
    const struct dcm_item *anatomy = dcm_get_item(d->first, 0x00209071, 0);
    char laterality[8];
    return dcm_get_item(anatomy, 0x00082218, 0) != NULL && derivation_is_same(d, 0x00209071) &&
                   dcm_get_text(anatomy, 0x00209072, laterality, sizeof laterality) > 0
               ? anatomy
               : NULL;
}

// As Enhanced MR calls it.
static const char *find_component(const struct derivation *d)
{
    static const char *const names[] = {[COMPONENT_MAGNITUDE] = "MAGNITUDE",
                                        [COMPONENT_PHASE] = "PHASE",
                                        [COMPONENT_REAL] = "REAL",
                                        [COMPONENT_IMAGINARY] = "IMAGINARY"};
    return names[terms_component(source_slice(d->request->source, d->request->item, 0))];
}

// A term that all sources have, else another.
static void find_term(const struct derivation *d, uint32_t tag, const char *otherwise, char *out, size_t size)
{
    if (dcm_get_text(d->first, tag, out, size) <= 0 || !derivation_is_same(d, tag) ||
        !attribute_is_legal("CS", out))
        snprintf(out, size, "%s", otherwise);
}

static int dimensions_uid(const char *series_uid, char uid[UID_SIZE], struct fault_note *why)
{
    char name[UID_SIZE + 40];
    snprintf(name, sizeof name, "isoslice/dimensions/1|%s", series_uid);
    return uid_from_name(name, uid, why);
}

// Image `m` that is frame `number`, counted from 1.
static size_t image_of_frame(const struct derivation *d, size_t number, int direction)
{
    return direction > 0 ? number - 1 : d->n_images - number;
}

// Everything but the pixels.
static int build_enhanced(struct derivation *d, const struct enhance *facts, int direction,
                          struct dcm_object *object)
{
    char position[POSITION_SIZE];
    int rc = enhance_common(dcm_root(object), facts, d->why);
    for (size_t number = 1; rc == 0 && number <= d->n_images; number++) {
        say_position(d, image_of_frame(d, number, direction), position);
        rc = enhance_add_frame(dcm_root(object), number, position, d->why);
    }
    return rc;
}

// The head of Pixel Data, the last element, in explicit VR little endian; then the frames.
static int append_frames(struct derivation *d, struct object_file *file, int direction)
{
    size_t n_values = (size_t)d->rows * (size_t)d->columns;
    size_t length = d->n_images * n_values * sizeof *d->words;
    const uint8_t head[] = {0xE0,
                            0x7F,
                            0x10,
                            0x00,
                            'O',
                            'W',
                            0,
                            0,
                            (uint8_t)length,
                            (uint8_t)(length >> 8),
                            (uint8_t)(length >> 16),
                            (uint8_t)(length >> 24)};
    int rc = object_file_append(file, head, sizeof head, d->why);
    for (size_t number = 1; rc == 0 && number <= d->n_images; number++) {
        int32_t smallest = 0, largest = 0;
        rc = compute_image(d, image_of_frame(d, number, direction), &smallest, &largest);
        if (rc != 0)
            break;
        pixels_pack(&d->layout, d->values, n_values, d->words);
        rc = object_file_append(file, d->words, n_values * sizeof *d->words, d->why);
    }
    return rc;
}

static int write_enhanced(struct derivation *d, int direction)
{
    char contrast[32], agency[32];
    struct enhance facts = {.classic = d->root,
                            .anatomy = find_anatomy(d),
                            .complex_component = find_component(d),
                            .acquisition_contrast = contrast,
                            .safety_agency = agency,
                            .study_uid = d->item->study_uid,
                            .n_frames = d->n_images};
    struct dcm_object *object = NULL;
    struct object_file file;
    void *dataset = NULL;
    size_t size = 0;
    find_term(d, 0x00089209, "UNKNOWN", contrast, sizeof contrast);
    find_term(d, 0x00189174, "IEC", agency, sizeof agency);
    derivation_put_short(d, 0x00280106, d->layout.is_signed, d->smallest);
    derivation_put_short(d, 0x00280107, d->layout.is_signed, d->largest);
    int rc = d->rc;
    if (rc == 0)
        rc = derive_image_uid(d->series_uid, 0, facts.sop_uid, d->why);
    if (rc == 0)
        rc = dimensions_uid(d->series_uid, facts.dimensions_uid, d->why);
    if (rc == 0)
        rc = dcm_object_new(&object, d->why);
    if (rc == 0)
        rc = build_enhanced(d, &facts, direction, object);
    if (rc == 0)
        rc = dcm_object_encode(object, &dataset, &size, d->why);
    dcm_object_free(object);
    if (rc == 0)
        rc = object_file_begin(&file, d->request->directory, "IM0001.dcm", ENHANCED_MR_IMAGE_STORAGE,
                               facts.sop_uid, d->why);
    if (rc == 0) {
        rc = object_file_append(&file, dataset, size, d->why);
        if (rc == 0)
            rc = append_frames(d, &file, direction);
        rc = object_file_end(&file, rc, d->why);
    }
    free(dataset);
    return rc;
}

// ---- all of them

int derivation_write(struct derivation *d, int direction)
{
    if (d->request->format == FORMAT_ENHANCED)
        return write_enhanced(d, direction);
    int rc = 0;
    for (size_t m = 0; rc == 0 && m < d->n_images; m++)
        rc = write_image(d, m, direction);
    return rc;
}
