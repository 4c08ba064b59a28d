// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/stack.h"

#include "dicom_map/number.h"
#include "dicom_map/square.h"
#include "dicom_map/terms.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double UNIT_TOLERANCE = 1e-3;     // of a direction cosine's length, and of their product
static const double SAME_ORIENTATION = 8.7e-4; // radian; vendors' noise is 1e-8
static const double LOCALIZER_COSINE = 0.866;  // 30 degrees apart
static const double SAME_NUMBER = 1e-3;        // relative, of times and angles
static const double OFFSET_MM = 0.1;           // of slices against each other in plane; also in pixels
static const double SAME_POSITION_MM = 0.01;   // or 1 % of the distance
static const double BLOCK_GAP = 2.5;           // times the median distance
static const double DRIFT = 0.05;              // of the distance, accepted with a warning
static const double EVEN = 0.01;               // of the distance, accepted in silence
static const double BETWEEN = 0.2;             // of the distance; nearer, a slice lies beside another
static const double MOVED_MM = 10;          // in plane, from slice to slice of one acquisition that follows a
static const double MOVED_COSINE = 0.99939; // patient, and 2 degrees
static const double MIN_RATIO = 1.3;        // slice distance to pixel
static const double MIN_RATIO_UNTOLD = 1.5; // the same, where nothing says that the acquisition is 2D

enum { N_CLASSES = SLICE_N_NUMBERS + 2 }; // one for the numbers each, pixels and texts, orientation

struct classed {
    unsigned class[N_CLASSES];
    size_t rank, slice;
};

struct sorter {
    const struct slice *slices;
    const struct classed *classed; // [n_classed] what may make stacks, group after group
    size_t n_classed;
    const struct classed *group; // the first of the group at hand
    enum stack_use use;
    struct stack *stacks;
    size_t n_stacks, room;
    size_t dropped; // exact copies
    struct fault_note *why;
};

// ---- small helpers

static void note(char *out, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

// Appends a warning.
static void note(char *out, size_t size, const char *format, ...)
{
    size_t n = strlen(out);
    va_list args;
    va_start(args, format);
    if (n > 0 && n + 2 < size)
        n += (size_t)snprintf(out + n, size - n, "; ");
    vsnprintf(out + n, size - n, format, args);
    va_end(args);
}

static double dot(const double a[3], const double b[3])
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

static void normal_of(const struct slice *s, double n[3])
{
    n[0] = s->row[1] * s->column[2] - s->row[2] * s->column[1];
    n[1] = s->row[2] * s->column[0] - s->row[0] * s->column[2];
    n[2] = s->row[0] * s->column[1] - s->row[1] * s->column[0];
    double length = sqrt(dot(n, n));
    for (int i = 0; i < 3; i++)
        n[i] /= length;
}

static double pixel_mm(const struct slice *s)
{
    return fmin(s->row_mm, s->column_mm);
}

// qsort has no argument for the caller, so keys are sorted together with what they belong to.
struct keyed {
    double key;
    size_t rank;  // decides ties: place in the canonical order
    size_t slice; // index into the slices
};

static int compare_keyed(const void *a, const void *b)
{
    const struct keyed *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

struct ordered {
    const struct slice *slice;
};

static int compare_canonical(const void *a, const void *b)
{
    const struct slice *x = ((const struct ordered *)a)->slice, *y = ((const struct ordered *)b)->slice;
    int order = strcmp(x->sop_uid, y->sop_uid);
    if (order == 0)
        order = (x->frame > y->frame) - (x->frame < y->frame);
    if (order == 0)
        order = strcmp(x->digest, y->digest);
    if (order == 0)
        order = (x->file > y->file) - (x->file < y->file);
    return order;
}

// ---- results

// Takes over nothing; copies members and positions.
static int emit(struct sorter *s, enum fault verdict, const size_t *members, size_t n, const double *z_mm,
                const char *warnings, const char *reason)
{
    if (s->n_stacks == s->room) {
        size_t room = 2 * s->room + 8;
        struct stack *more = realloc(s->stacks, room * sizeof *more);
        if (more == NULL)
            return fault_set(s->why, FAULT_NO_MEMORY, "cannot hold %zu stacks", room);
        s->stacks = more;
        s->room = room;
    }
    struct stack *stack = &s->stacks[s->n_stacks];
    *stack = (struct stack){.verdict = verdict, .n = n};
    stack->members = malloc(n * sizeof *members);
    stack->z_mm = z_mm != NULL ? malloc(n * sizeof *z_mm) : NULL;
    s->n_stacks++;
    if (stack->members == NULL || (z_mm != NULL && stack->z_mm == NULL))
        return fault_set(s->why, FAULT_NO_MEMORY, "cannot hold a stack of %zu slices", n);
    memcpy(stack->members, members, n * sizeof *members);
    if (z_mm != NULL)
        memcpy(stack->z_mm, z_mm, n * sizeof *z_mm);
    snprintf(stack->warnings, sizeof stack->warnings, "%s", warnings);
    snprintf(stack->reason, sizeof stack->reason, "%s", reason);
    return 0;
}

static int refuse(struct sorter *s, enum fault verdict, const size_t *members, size_t n, const char *format,
                  ...) __attribute__((format(printf, 5, 6)));

static int refuse(struct sorter *s, enum fault verdict, const size_t *members, size_t n, const char *format,
                  ...)
{
    char reason[512];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    return emit(s, verdict, members, n, NULL, "", reason);
}

// ---- what one image lacks

static int reject(char *reason, size_t size, enum fault fault, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static int reject(char *reason, size_t size, enum fault fault, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(reason, size, format, args);
    va_end(args);
    return fault;
}

static int judge_geometry(const struct slice *s, char *reason, size_t size)
{
    double row = sqrt(dot(s->row, s->row)), column = sqrt(dot(s->column, s->column));
    double product = dot(s->row, s->column);
    if (!(fabs(row - 1) <= UNIT_TOLERANCE && fabs(column - 1) <= UNIT_TOLERANCE &&
          fabs(product) <= UNIT_TOLERANCE))
        return reject(reason, size, FAULT_BAD_GEOMETRY,
                      "the direction cosines have lengths %.6f and %.6f and product %.6f", row, column,
                      product);
    if (!(s->row_mm >= 0.05 && s->row_mm <= 20 && s->column_mm >= 0.05 && s->column_mm <= 20))
        return reject(reason, size, FAULT_BAD_GEOMETRY,
                      "pixel spacing %g x %g mm is not within 0.05 and 20 mm", s->row_mm, s->column_mm);
    for (int i = 0; i < 3; i++)
        if (!(fabs(s->position[i]) < 1e5))
            return reject(reason, size, FAULT_BAD_GEOMETRY, "a position of %g mm is not within 100 m",
                          s->position[i]);
    return 0;
}

static int judge_pixels(const struct slice *s, char *reason, size_t size)
{
    if (s->samples != 1 || strcmp(s->photometric, "MONOCHROME2") != 0)
        return reject(reason, size, FAULT_PHOTOMETRIC,
                      "%d samples per pixel, '%s'; one and MONOCHROME2 are needed", s->samples,
                      s->photometric);
    if ((s->bits_allocated != 8 && s->bits_allocated != 16) || s->bits_stored < 1 ||
        s->bits_stored > s->bits_allocated || s->high_bit < s->bits_stored - 1 ||
        s->high_bit >= s->bits_allocated || (s->is_signed != 0 && s->is_signed != 1))
        return reject(reason, size, FAULT_PHOTOMETRIC,
                      "bits allocated %d, stored %d, high bit %d, representation %d", s->bits_allocated,
                      s->bits_stored, s->high_bit, s->is_signed);
    if (s->n_rows < 1 || s->n_rows > 4096 || s->n_columns < 1 || s->n_columns > 4096)
        return reject(reason, size, FAULT_PIXEL_SIZE, "%d x %d pixels are not within 1 and 4096", s->n_rows,
                      s->n_columns);
    return 0;
}

static int is_readable(const char *transfer_syntax)
{
    static const char *const known[] = {
        "",                  // by hand
        "1.2.840.10008.1.2", // implicit VR
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.4.57", // JPEG lossless
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80", // JPEG-LS lossless
        "1.2.840.10008.1.2.4.90", // JPEG 2000 lossless
        "1.2.840.10008.1.2.5",    // RLE
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(transfer_syntax, known[i]) == 0)
            return 1;
    return 0;
}

// 0, or the fault for which this image is left out.
static int judge_slice(const struct slice *s, char *reason, size_t size)
{
    const char *type = s->texts[SLICE_IMAGE_TYPE];
    int is_mr = strcmp(s->sop_class_uid, "1.2.840.10008.5.1.4.1.1.4") == 0 || s->enhanced;
    if (!is_mr || strcmp(s->modality, "MR") != 0)
        return reject(reason, size, FAULT_NOT_MR, "SOP class %s, modality '%s'", s->sop_class_uid,
                      s->modality);
    if (!(s->has & SLICE_HAS_PIXELS))
        return reject(reason, size, FAULT_NO_PIXELS, "there is no pixel data");
    if (s->own_output)
        return reject(reason, size, FAULT_OWN_OUTPUT, "made by Isoslice itself; it is not processed again");
    if (strncmp(type, "DERIVED", 7) == 0 || terms_have(type, "PROJECTION IMAGE"))
        return reject(reason, size, FAULT_DERIVED, "Image Type is '%s'", type);
    if (terms_have(type, "MOSAIC") || terms_have(type, "VFRAME"))
        return reject(reason, size, FAULT_MOSAIC,
                      "Image Type is '%s': one image of %d x %d holds a whole volume", type, s->n_rows,
                      s->n_columns);
    if (terms_have(type, "LOCALIZER"))
        return reject(reason, size, FAULT_LOCALIZER, "Image Type is '%s'", type);
    if (terms_component(s) == COMPONENT_PHASE)
        return reject(reason, size, FAULT_PHASE,
                      "Image Type is '%s', Complex Image Component '%s': between two phases there is no mean",
                      type, s->texts[SLICE_COMPLEX_COMPONENT]);
    if (s->burned_in)
        return reject(reason, size, FAULT_BURNED_IN, "Burned In Annotation is YES");
    int rc = judge_pixels(s, reason, size);
    if (rc != 0)
        return rc;
    if (s->n_frames > 1 && !s->enhanced)
        return reject(reason, size, FAULT_MULTIFRAME, "%d frames in a classic MR object", s->n_frames);
    if (s->enhanced && !(s->has & SLICE_HAS_GROUPS))
        return reject(reason, size, FAULT_MULTIFRAME, "%d frames without functional groups for each",
                      s->n_frames);
    if (!(s->has & SLICE_HAS_POSITION) || !(s->has & SLICE_HAS_ORIENTATION) || !(s->has & SLICE_HAS_SPACING))
        return reject(reason, size, FAULT_NO_POSITION, "missing:%s%s%s",
                      s->has & SLICE_HAS_POSITION ? "" : " Image Position (Patient)",
                      s->has & SLICE_HAS_ORIENTATION ? "" : " Image Orientation (Patient)",
                      s->has & SLICE_HAS_SPACING ? "" : " Pixel Spacing");
    if (s->frame_of_reference_uid[0] == '\0')
        return reject(reason, size, FAULT_NO_FRAME_OF_REFERENCE,
                      "the Frame of Reference UID is missing or malformed");
    rc = judge_geometry(s, reason, size);
    if (rc != 0)
        return rc;
    if (s->enhanced && !(s->has & SLICE_HAS_SEQUENCE))
        return reject(reason, size, FAULT_MULTIFRAME,
                      "neither Echo Pulse Sequence nor Scanning Sequence says how the %d frames were "
                      "acquired, which classic MR has to say",
                      s->n_frames);
    if (!is_readable(s->transfer_syntax))
        return reject(reason, size, FAULT_TRANSFER_SYNTAX, "pixels in transfer syntax %s cannot be read",
                      s->transfer_syntax);
    return 0;
}

// ---- classes of equal slices

// Class of every slice for one number: equal where neighbours in size differ by no more than `tolerance`.
// Those without one are a class of their own.
static int classify_number(struct sorter *s, const size_t *members, size_t n, enum slice_number number,
                           double tolerance, unsigned *class)
{
    struct keyed *keys = malloc(n * sizeof *keys);
    if (keys == NULL)
        return fault_set(s->why, FAULT_NO_MEMORY, "cannot sort %zu slices", n);
    for (size_t i = 0; i < n; i++) {
        double value = s->slices[members[i]].numbers[number];
        keys[i] = (struct keyed){.key = isfinite(value) ? value : -HUGE_VAL, .rank = i, .slice = i};
    }
    qsort(keys, n, sizeof *keys, compare_keyed);
    unsigned current = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && keys[i].key != keys[i - 1].key &&
            (!isfinite(keys[i - 1].key) ||
             !(keys[i].key - keys[i - 1].key <= tolerance * fmax(fabs(keys[i].key), fabs(keys[i - 1].key)))))
            current++;
        class[keys[i].slice] = current;
    }
    free(keys);
    return 0;
}

static int same_pixels_and_texts(const struct slice *a, const struct slice *b)
{
    for (int i = 0; i < SLICE_N_TEXTS; i++)
        if (strcmp(a->texts[i], b->texts[i]) != 0)
            return 0;
    return a->n_rows == b->n_rows && a->n_columns == b->n_columns && a->bits_allocated == b->bits_allocated &&
           a->bits_stored == b->bits_stored && a->high_bit == b->high_bit && a->is_signed == b->is_signed &&
           strcmp(a->acquisition_type, b->acquisition_type) == 0 && a->enhanced == b->enhanced;
}

static int same_orientation(const struct slice *a, const struct slice *b)
{
    double row[3], column[3];
    for (int i = 0; i < 3; i++) {
        row[i] = a->row[i] - b->row[i];
        column[i] = a->column[i] - b->column[i];
    }
    return sqrt(dot(row, row)) <= SAME_ORIENTATION && sqrt(dot(column, column)) <= SAME_ORIENTATION;
}

// Class of every slice by the first slice that it is like; `n_classes` counts them.
static size_t classify(const struct slice *slices, const size_t *members, size_t n, unsigned *class,
                       int (*same)(const struct slice *, const struct slice *), size_t *firsts)
{
    size_t n_classes = 0;
    for (size_t i = 0; i < n; i++) {
        size_t c = 0;
        while (c < n_classes && !same(&slices[firsts[c]], &slices[members[i]]))
            c++;
        if (c == n_classes)
            firsts[n_classes++] = members[i];
        class[i] = (unsigned)c;
    }
    return n_classes;
}

// ---- one group of like slices: positions

static int judge_stack(struct sorter *s, const struct keyed *slices, size_t n);

static int emit_keyed(struct sorter *s, enum fault verdict, const struct keyed *slices, size_t n, int with_z,
                      const char *warnings, const char *reason)
{
    size_t *members = malloc(n * sizeof *members);
    double *z_mm = malloc(n * sizeof *z_mm);
    if (members == NULL || z_mm == NULL) {
        free(members);
        free(z_mm);
        return fault_set(s->why, FAULT_NO_MEMORY, "cannot hold a stack of %zu slices", n);
    }
    for (size_t i = 0; i < n; i++) {
        members[i] = slices[i].slice;
        z_mm[i] = slices[i].key;
    }
    int rc = emit(s, verdict, members, n, with_z ? z_mm : NULL, warnings, reason);
    free(members);
    free(z_mm);
    return rc;
}

static double median_distance(const struct keyed *slices, size_t n, double smallest, double *scratch)
{
    size_t count = 0;
    for (size_t i = 1; i < n; i++)
        if (slices[i].key - slices[i - 1].key > smallest)
            scratch[count++] = slices[i].key - slices[i - 1].key;
    return count > 0 ? number_median(scratch, count) : 0;
}

// Distance of each slice's corner from the line through the first along the normal, in the first's own axes.
static void offset_of(const struct slice *first, const struct slice *s, double *u, double *v)
{
    double d[3];
    for (int i = 0; i < 3; i++)
        d[i] = s->position[i] - first->position[i];
    *u = dot(d, first->row);
    *v = dot(d, first->column);
}

// Largest distance from the line that fits best through (z, value).
static double residual_of_line(const struct keyed *slices, const double *value, size_t n, double *drift)
{
    double sz = 0, sv = 0, szz = 0, szv = 0;
    for (size_t i = 0; i < n; i++) {
        double z = slices[i].key - slices[0].key;
        sz += z, sv += value[i], szz += z * z, szv += z * value[i];
    }
    double divisor = (double)n * szz - sz * sz;
    double slope = divisor > 0 ? ((double)n * szv - sz * sv) / divisor : 0;
    double start = (sv - slope * sz) / (double)n;
    double worst = 0;
    for (size_t i = 0; i < n; i++)
        worst = fmax(worst, fabs(value[i] - start - slope * (slices[i].key - slices[0].key)));
    *drift = slope * (slices[n - 1].key - slices[0].key);
    return worst;
}

static int judge_volumes(struct sorter *s, struct keyed *slices, size_t n);

// Slices that are shifted in plane: parallel stacks side by side, or one sheared stack.
static int judge_offsets(struct sorter *s, struct keyed *slices, size_t n)
{
    const struct slice *first = &s->slices[slices[0].slice];
    double tolerance = fmax(OFFSET_MM, OFFSET_MM * pixel_mm(first));
    double *u = malloc(2 * n * sizeof *u);
    struct keyed *part = malloc(n * sizeof *part);
    unsigned *class = calloc(n, sizeof *class);
    int rc = 0;
    if (u == NULL || part == NULL || class == NULL) {
        rc = fault_set(s->why, FAULT_NO_MEMORY, "cannot compare %zu slices", n);
        goto out;
    }
    double *v = u + n;
    double reach = 0;
    for (size_t i = 0; i < n; i++) {
        offset_of(first, &s->slices[slices[i].slice], &u[i], &v[i]);
        reach = fmax(reach, hypot(u[i], v[i]));
    }
    if (reach <= tolerance) {
        rc = judge_volumes(s, slices, n);
        goto out;
    }
    double drift_u = 0, drift_v = 0;
    double residual =
        hypot(residual_of_line(slices, u, n, &drift_u), residual_of_line(slices, v, n, &drift_v));
    unsigned n_classes = 0;
    size_t smallest = n;
    for (size_t i = 0; i < n; i++) {
        if (class[i] != 0)
            continue;
        size_t count = 0;
        n_classes++;
        for (size_t j = i; j < n; j++)
            if (class[j] == 0 && hypot(u[j] - u[i], v[j] - v[i]) <= tolerance) {
                class[j] = n_classes;
                count++;
            }
        smallest = count < smallest ? count : smallest;
    }
    if (residual <= tolerance || smallest < 2) {
        char reason[512];
        snprintf(reason, sizeof reason,
                 "the slices are shifted in plane by up to %.2f mm (tolerance %.2f mm), %.2f mm over the "
                 "stack along "
                 "a line",
                 reach, tolerance, hypot(drift_u, drift_v));
        rc = emit_keyed(s, FAULT_SHEARED, slices, n, 0, "", reason);
        goto out;
    }
    for (unsigned c = 1; rc == 0 && c <= n_classes; c++) {
        size_t count = 0;
        for (size_t i = 0; i < n; i++)
            if (class[i] == c)
                part[count++] = slices[i];
        rc = judge_volumes(s, part, count);
    }
out:
    free(u);
    free(part);
    free(class);
    return rc;
}

static int judge_blocks(struct sorter *s, const struct keyed *slices, size_t n);

// What may tell volumes at the same positions apart; the value of one slice. 0: it does not say.
static int volume_key(const struct slice *s, int which, double *key)
{
    switch (which) {
    case 0:
        *key = s->temporal_position;
        return (s->has & SLICE_HAS_TEMPORAL) != 0;
    case 1:
        *key = s->acquisition_number;
        return (s->has & SLICE_HAS_ACQUISITION) != 0;
    case 2:
        return number_at(s->acquisition_time, 0, key);
    default:
        *key = s->instance_number;
        return (s->has & SLICE_HAS_INSTANCE) != 0;
    }
}

// Sorts by the key, cuts into `m` volumes and checks that each has every position once. `place` gives the
// position's number of each slice. On success `sorted` holds volume after volume, each by position.
static int split_volumes(const struct sorter *s, const struct keyed *slices, const size_t *place, size_t n,
                         size_t m, int which, struct keyed *sorted, unsigned char *seen)
{
    for (size_t i = 0; i < n; i++) {
        sorted[i] = (struct keyed){.rank = i, .slice = i};
        if (!volume_key(&s->slices[slices[i].slice], which, &sorted[i].key))
            return 0;
    }
    qsort(sorted, n, sizeof *sorted, compare_keyed);
    size_t n_places = n / m;
    for (size_t volume = 0; volume < m; volume++) {
        struct keyed *part = sorted + volume * n_places;
        // numbers that are the same within a volume and differ between volumes; Instance Numbers come in
        // blocks
        if (which != 3 && part[0].key != part[n_places - 1].key)
            return 0;
        if (volume > 0 && part[0].key == part[-1].key)
            return 0;
        memset(seen, 0, n_places);
        for (size_t i = 0; i < n_places; i++)
            if (seen[place[part[i].slice]]++ != 0)
                return 0;
    }
    for (size_t i = 0; i < n; i++)
        sorted[i] = slices[sorted[i].slice];
    for (size_t volume = 0; volume < m; volume++)
        qsort(sorted + volume * n_places, n_places, sizeof *sorted, compare_keyed);
    return 1;
}

// Several slices at one position.
static int judge_volumes(struct sorter *s, struct keyed *slices, size_t n)
{
    double *scratch = malloc(n * sizeof *scratch);
    size_t *place = malloc(n * sizeof *place);
    struct keyed *sorted = malloc(n * sizeof *sorted);
    unsigned char *seen = malloc(n);
    int rc = 0;
    if (scratch == NULL || place == NULL || sorted == NULL || seen == NULL) {
        rc = fault_set(s->why, FAULT_NO_MEMORY, "cannot compare %zu slices", n);
        goto out;
    }
    double median = median_distance(slices, n, SAME_POSITION_MM, scratch);
    double tolerance = fmax(SAME_POSITION_MM, 0.01 * median);
    size_t n_places = 1, most = 1, least = n, here = 1;
    place[0] = 0;
    for (size_t i = 1; i < n; i++) {
        if (slices[i].key - slices[i - 1].key >= tolerance) {
            n_places++;
            least = here < least ? here : least;
            here = 0;
        }
        here++;
        most = here > most ? here : most;
        place[i] = n_places - 1;
    }
    least = here < least ? here : least;
    if (most == 1) {
        rc = judge_blocks(s, slices, n);
        goto out;
    }
    if (most == least)
        for (int which = 0; which < 4; which++)
            if (split_volumes(s, slices, place, n, most, which, sorted, seen)) {
                for (size_t volume = 0; rc == 0 && volume < most; volume++)
                    rc = judge_blocks(s, sorted + volume * n_places, n_places);
                goto out;
            }
    char reason[512];
    snprintf(reason, sizeof reason,
             "%zu images at %zu positions, %zu to %zu at each, and nothing tells them apart into volumes", n,
             n_places, least, most);
    rc = emit_keyed(s, FAULT_DUPLICATE_POSITIONS, slices, n, 0, "", reason);
out:
    free(scratch);
    free(place);
    free(sorted);
    free(seen);
    return rc;
}

// Packages with a wide gap between them.
static int judge_blocks(struct sorter *s, const struct keyed *slices, size_t n)
{
    double *scratch = malloc(n * sizeof *scratch);
    if (scratch == NULL)
        return fault_set(s->why, FAULT_NO_MEMORY, "cannot compare %zu slices", n);
    double median = median_distance(slices, n, 0, scratch);
    free(scratch);
    int rc = 0;
    size_t start = 0;
    for (size_t i = 1; rc == 0 && i <= n; i++) {
        double ratio = i < n && median > 0 ? (slices[i].key - slices[i - 1].key) / median : 0;
        // a whole number of distances is a hole in one stack, not a new one
        if (i == n || (ratio > BLOCK_GAP && fabs(ratio - round(ratio)) > DRIFT)) {
            rc = judge_stack(s, slices + start, i - start);
            start = i;
        }
    }
    return rc;
}

// ---- one stack

// 0 or the fault; `reason` and `warnings` are filled as it goes.
static int judge_regularity(const struct keyed *slices, size_t n, double m, char *reason, size_t reason_size,
                            char *warnings, size_t warnings_size)
{
    double least = HUGE_VAL, most = 0, off_multiple = 0;
    size_t n_missing = 0;
    char list[160] = "";
    for (size_t i = 1; i < n; i++) {
        double dz = slices[i].key - slices[i - 1].key;
        double times = fmax(1, round(dz / m));
        least = fmin(least, dz);
        most = fmax(most, dz);
        off_multiple = fmax(off_multiple, fabs(dz - times * m));
        if (times > 1) {
            n_missing += (size_t)times - 1;
            if (strlen(list) < 100)
                note(list, sizeof list, "%.0f after slice %zu", times - 1, i);
        }
    }
    double deviation = fmax(most - m, m - least);
    if (deviation <= fmax(SAME_POSITION_MM, EVEN * m))
        return 0;
    if (deviation <= DRIFT * m) {
        note(warnings, warnings_size,
             "slice distances are uneven, %.3f to %.3f mm (%.1f %%); the true positions are used", least,
             most, 100 * deviation / m);
        return 0;
    }
    if (n_missing > 0 && off_multiple <= DRIFT * m)
        return reject(reason, reason_size, FAULT_MISSING_SLICES,
                      "%zu missing (%s) at a slice distance of %.3f mm", n_missing, list, m);
    return reject(reason, reason_size, FAULT_NON_UNIFORM,
                  "slice distances of %.3f to %.3f mm differ by more than %.0f %% from their median %.3f mm",
                  least, most, 100 * DRIFT, m);
}

static int judge_number(size_t n, char *reason, size_t size)
{
    if (n < STACK_MIN_SLICES)
        return reject(reason, size, FAULT_NOTHING_TO_DO, "%zu slice%s, at least %d are needed", n,
                      n == 1 ? "" : "s", STACK_MIN_SLICES);
    if (n > STACK_MAX_SLICES)
        return reject(reason, size, FAULT_TOO_MANY_PLANES, "%zu slices, at most %d", n, STACK_MAX_SLICES);
    return 0;
}

static int judge_worth(const struct slice *first, double m, char *reason, size_t size)
{
    double px = pixel_mm(first), wide = fmax(first->row_mm, first->column_mm);
    if (m / px < MIN_RATIO)
        return reject(reason, size, FAULT_NOTHING_TO_DO,
                      "a slice distance of %.3f mm is %.2f times the pixel of %.3f mm, less than %.1f", m,
                      m / px, px, MIN_RATIO);
    if (wide / px > SQUARE_MAX_RATIO)
        return reject(reason, size, FAULT_NON_SQUARE_PIXELS, "pixels of %.3f x %.3f mm, at most 1 : %.1f",
                      first->row_mm, first->column_mm, SQUARE_MAX_RATIO);
    int side = square_size(first->row_mm > first->column_mm ? first->n_rows : first->n_columns, wide, px);
    if (wide / px > SQUARE_KEPT_RATIO && side > SQUARE_MAX_SIDE)
        return reject(reason, size, FAULT_NON_SQUARE_PIXELS,
                      "pixels of %.3f x %.3f mm would become %d of %.3f mm on one side, at most %d",
                      first->row_mm, first->column_mm, side, px, SQUARE_MAX_SIDE);
    return 0;
}

static int judge_dimension(const struct slice *first, double m, char *reason, size_t size)
{
    const char *type = first->acquisition_type;
    double px = pixel_mm(first);
    double thickness = first->has & SLICE_HAS_THICKNESS ? first->thickness_mm : m;
    if (strcmp(type, "2D") == 0)
        return 0;
    if (strcmp(type, "3D") == 0)
        return reject(reason, size, FAULT_SKIP_3D,
                      "MR Acquisition Type is 3D; slice distance %.3f mm, pixel %.3f mm", m, px);
    if (m / px >= MIN_RATIO_UNTOLD && thickness / px >= MIN_RATIO_UNTOLD)
        return 0;
    return reject(
        reason, size, FAULT_SKIP_3D,
        "MR Acquisition Type is '%s', and a distance of %.3f mm, thickness %.3f mm and pixel of %.3f mm do "
        "not look like thick slices",
        type, m, thickness, px);
}

// Every second slice of a stack (or every third ...) is as even as the whole: only the header tells. Some
// vendors write the gap as Spacing Between Slices. A gap of half the distance between slices as thick as that
// cannot be told from half of a stack without gaps, so that is refused as well.
static int judge_wholeness(const struct slice *first, double m, char *reason, size_t size)
{
    double spacing = first->has & SLICE_HAS_SPACING_BETWEEN ? fabs(first->spacing_between_mm) : 0;
    if (!(spacing > 0))
        return 0;
    double times = round(m / spacing);
    double thickness = first->has & SLICE_HAS_THICKNESS ? first->thickness_mm : 0;
    if (times < 2 || fabs(m - times * spacing) > DRIFT * m || thickness > (1 + DRIFT) * m / 2)
        return 0;
    char thick[40] = "unknown thickness";
    if (thickness > 0)
        snprintf(thick, sizeof thick, "%.3f mm", thickness);
    return reject(reason, size, FAULT_MISSING_SLICES,
                  "the positions are %.3f mm apart, %.0f times the Spacing Between Slices of %.3f mm, and "
                  "slices of %s leave room for %.0f more in every gap",
                  m, times, spacing, thick, times - 1);
}

// What parts two groups of slices, by the first that differs.
static const char *difference_of(const struct classed *a, const struct classed *b, const struct slice *x,
                                 const struct slice *y)
{
    static const char *const numbers[SLICE_N_NUMBERS] = {
        "Echo Time", "Repetition Time", "Inversion Time",    "Flip Angle",  "Pixel Spacing", "Pixel Spacing",
        "b-value",   "Trigger Time",    "Temporal Position", "Echo Number", "Stack ID"};
    static const char *const texts[SLICE_N_TEXTS] = {"Image Type", "Complex Image Component", "Sequence Name",
                                                     "Protocol Name", "Contrast/Bolus Agent"};
    for (int i = 0; i < SLICE_N_NUMBERS; i++)
        if (a->class[i] != b->class[i])
            return numbers[i];
    for (int i = 0; i < SLICE_N_TEXTS; i++)
        if (strcmp(x->texts[i], y->texts[i]) != 0)
            return texts[i];
    if (a->class[SLICE_N_NUMBERS] != b->class[SLICE_N_NUMBERS])
        return "bits or acquisition type";
    return a->class[SLICE_N_NUMBERS + 1] != b->class[SLICE_N_NUMBERS + 1] ? "orientation"
                                                                          : "position in plane";
}

static void centre_of(const struct slice *s, double centre[3])
{
    for (int i = 0; i < 3; i++)
        centre[i] = s->position[i] + s->row[i] * s->column_mm * (s->n_columns - 1) / 2 +
                    s->column[i] * s->row_mm * (s->n_rows - 1) / 2;
}

// A slice that could be of the same acquisition as this stack's: as many pixels of the same size, turned and
// shifted in plane by no more than a patient moves who is followed.
static int shares_grid(const struct sorter *s, const struct slice *first, const struct classed *other)
{
    const struct slice *slice = &s->slices[other->slice];
    double here[3], there[3], off[3];
    if (slice->n_rows != first->n_rows || slice->n_columns != first->n_columns ||
        other->class[SLICE_ROW_MM] != s->group->class[SLICE_ROW_MM] ||
        other->class[SLICE_COLUMN_MM] != s->group->class[SLICE_COLUMN_MM] ||
        dot(slice->row, first->row) < MOVED_COSINE || dot(slice->column, first->column) < MOVED_COSINE)
        return 0;
    centre_of(first, here);
    centre_of(slice, there);
    for (int i = 0; i < 3; i++)
        off[i] = there[i] - here[i];
    return hypot(dot(off, first->row), dot(off, first->column)) <= MOVED_MM;
}

// The gap that holds z: slices[gap - 1] and slices[gap] are around it. 0: it lies outside.
static size_t gap_of(const struct keyed *slices, size_t n, double z)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (slices[middle].key < z)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n ? low : 0;
}

// Slices between this stack's that are not in it: one acquisition in turns (triggered, in packages, following
// a patient who moves), each of them as even as a stack. Echoes, phases and volumes share positions instead,
// or lie a little beside them where the patient moved.
static int judge_turns(const struct sorter *s, const struct keyed *slices, size_t n, double m, char *reason,
                       size_t size)
{
    const struct slice *first = &s->slices[slices[0].slice];
    double normal[3];
    const struct classed *found = NULL;
    size_t count = 0;
    normal_of(first, normal);
    for (size_t i = 0; i < s->n_classed; i++) {
        const struct classed *other = &s->classed[i];
        if (!shares_grid(s, first, other))
            continue;
        double centre[3];
        centre_of(&s->slices[other->slice], centre);
        double z = dot(centre, normal); // of a slice of this orientation that of every pixel
        size_t gap = gap_of(slices, n, z);
        if (gap == 0 || fmin(z - slices[gap - 1].key, slices[gap].key - z) < BETWEEN * m)
            continue;
        count++;
        if (found == NULL)
            found = other;
    }
    if (found == NULL)
        return 0;
    return reject(reason, size, FAULT_MISSING_SLICES,
                  "%zu image%s of the same pixels between these %zu slices, %.3f mm apart, and unlike them "
                  "in %s: these "
                  "are not a whole stack",
                  count, count == 1 ? "" : "s", n, m,
                  difference_of(s->group, found, first, &s->slices[found->slice]));
}

// Whether two groups are alike in all but Trigger Time.
static int differ_in_trigger(const struct classed *a, const struct classed *b)
{
    for (int i = 0; i < N_CLASSES; i++)
        if (i != SLICE_TRIGGER_TIME && a->class[i] != b->class[i])
            return 0;
    return a->class[SLICE_TRIGGER_TIME] != b->class[SLICE_TRIGGER_TIME];
}

// Too few slices because each has a Trigger Time of its own: not phases, which lie at the same positions.
static int judge_triggers(const struct sorter *s, const struct keyed *slices, size_t n, char *reason,
                          size_t size)
{
    const struct slice *first = &s->slices[slices[0].slice];
    double normal[3];
    size_t count = 0;
    if (n >= STACK_MIN_SLICES)
        return 0;
    normal_of(first, normal);
    for (size_t i = 0; i < s->n_classed; i++) {
        const struct classed *other = &s->classed[i];
        if (!differ_in_trigger(s->group, other) || !shares_grid(s, first, other))
            continue;
        double z = dot(s->slices[other->slice].position, normal), nearest = HUGE_VAL;
        for (size_t k = 0; k < n; k++)
            nearest = fmin(nearest, fabs(z - slices[k].key));
        count += nearest > SAME_POSITION_MM;
    }
    if (n + count < STACK_MIN_SLICES)
        return 0;
    return reject(reason, size, FAULT_MISSING_SLICES,
                  "%zu slice%s of an acquisition in which %zu more, at other positions, are alike in all but "
                  "Trigger Time: what was acquired at different times of the heart beat is not put together",
                  n, n == 1 ? "" : "s", count);
}

static void cross_check(const struct slice *first, double m, char *warnings, size_t size)
{
    if (first->has & SLICE_HAS_SPACING_BETWEEN && fabs(fabs(first->spacing_between_mm) - m) > 0.05 * m)
        note(warnings, size, "Spacing Between Slices says %.3f mm, the positions %.3f mm",
             first->spacing_between_mm, m);
    if (first->has & SLICE_HAS_THICKNESS && first->thickness_mm > 1.01 * m)
        note(warnings, size, "slices of %.3f mm overlap by %.3f mm", first->thickness_mm,
             first->thickness_mm - m);
    if (!(first->has & SLICE_HAS_THICKNESS))
        note(warnings, size, "Slice Thickness is missing");
}

static int judge_stack(struct sorter *s, const struct keyed *slices, size_t n)
{
    const struct slice *first = &s->slices[slices[0].slice];
    char reason[512] = "", warnings[512] = "";
    double *scratch = malloc(n * sizeof *scratch);
    if (scratch == NULL)
        return fault_set(s->why, FAULT_NO_MEMORY, "cannot compare %zu slices", n);
    double m = median_distance(slices, n, 0, scratch);
    free(scratch);
    int verdict = judge_triggers(s, slices, n, reason, sizeof reason);
    if (verdict == 0)
        verdict = judge_number(n, reason, sizeof reason);
    if (verdict == 0 && s->use == STACK_TO_DERIVE)
        verdict = judge_worth(first, m, reason, sizeof reason);
    if (verdict == 0)
        verdict = judge_regularity(slices, n, m, reason, sizeof reason, warnings, sizeof warnings);
    if (verdict == 0 && s->use == STACK_TO_DERIVE)
        verdict = judge_dimension(first, m, reason, sizeof reason);
    if (verdict == 0)
        verdict = judge_turns(s, slices, n, m, reason, sizeof reason);
    if (verdict == 0)
        verdict = judge_wholeness(first, m, reason, sizeof reason);
    if (verdict == 0)
        cross_check(first, m, warnings, sizeof warnings);
    if (verdict == 0 && s->dropped > 0)
        note(warnings, sizeof warnings, "%zu exact cop%s of images dropped", s->dropped,
             s->dropped == 1 ? "y" : "ies");
    int rc =
        emit_keyed(s, (enum fault)verdict, slices, n, verdict == 0, verdict == 0 ? warnings : "", reason);
    if (rc != 0)
        return rc;
    struct stack *made = &s->stacks[s->n_stacks - 1];
    normal_of(first, made->normal);
    made->slice_mm = verdict == 0 ? m : 0;
    return 0;
}

// One group of slices with the same keys and orientation.
static int judge_group(struct sorter *s, const size_t *members, size_t n)
{
    struct keyed *slices = malloc(n * sizeof *slices);
    if (slices == NULL)
        return fault_set(s->why, FAULT_NO_MEMORY, "cannot sort %zu slices", n);
    double normal[3];
    normal_of(&s->slices[members[0]], normal);
    for (size_t i = 0; i < n; i++)
        slices[i] = (struct keyed){
            .key = dot(s->slices[members[i]].position, normal), .rank = i, .slice = members[i]};
    qsort(slices, n, sizeof *slices, compare_keyed);
    int rc = judge_offsets(s, slices, n);
    free(slices);
    return rc;
}

// ---- the whole series

// Leaves out what is refused image by image, one refusal per fault; `members` keeps the rest.
static int exclude(struct sorter *s, size_t *members, size_t *n)
{
    enum fault *verdicts = calloc(*n, sizeof *verdicts);
    size_t *refused = malloc(*n * sizeof *refused);
    if (verdicts == NULL || refused == NULL) {
        free(verdicts);
        free(refused);
        return fault_set(s->why, FAULT_NO_MEMORY, "cannot judge %zu images", *n);
    }
    int rc = 0;
    char reason[400];
    for (size_t i = 0; i < *n; i++)
        verdicts[i] = (enum fault)judge_slice(&s->slices[members[i]], reason, sizeof reason);
    for (size_t i = 0; rc == 0 && i < *n; i++) {
        if (verdicts[i] == FAULT_OK)
            continue;
        enum fault fault = verdicts[i];
        size_t count = 0;
        judge_slice(&s->slices[members[i]], reason, sizeof reason);
        for (size_t j = i; j < *n; j++)
            if (verdicts[j] == fault) {
                refused[count++] = members[j];
                verdicts[j] = FAULT_OK;
                members[j] = SIZE_MAX;
            }
        rc = refuse(s, fault, refused, count, "%zu image%s: %s", count, count == 1 ? "" : "s", reason);
    }
    size_t kept = 0;
    for (size_t i = 0; rc == 0 && i < *n; i++)
        if (members[i] != SIZE_MAX)
            members[kept++] = members[i];
    if (rc == 0)
        *n = kept;
    free(verdicts);
    free(refused);
    return rc;
}

// Canonical order, exact copies dropped. Sets *conflict when one UID has several contents.
static int order_canonically(struct sorter *s, size_t n, size_t *members, size_t *kept, const char **conflict)
{
    struct ordered *order = malloc(n * sizeof *order);
    if (order == NULL)
        return fault_set(s->why, FAULT_NO_MEMORY, "cannot sort %zu images", n);
    for (size_t i = 0; i < n; i++)
        order[i].slice = &s->slices[i];
    qsort(order, n, sizeof *order, compare_canonical);
    *kept = 0;
    for (size_t i = 0; i < n; i++) {
        int again = i > 0 && strcmp(order[i].slice->sop_uid, order[i - 1].slice->sop_uid) == 0 &&
                    order[i].slice->frame == order[i - 1].slice->frame;
        if (again && strcmp(order[i].slice->digest, order[i - 1].slice->digest) == 0) {
            s->dropped++;
            continue;
        }
        if (again)
            *conflict = order[i].slice->sop_uid;
        members[(*kept)++] = (size_t)(order[i].slice - s->slices);
    }
    free(order);
    return 0;
}

// Faults of the series as a whole; FAULT_OK when there is none.
static enum fault judge_series(const struct slice *slices, const size_t *members, size_t n, char *reason,
                               size_t size)
{
    const struct slice *first = &slices[members[0]];
    size_t n_diffusion = 0;
    for (size_t i = 0; i < n; i++) {
        const struct slice *s = &slices[members[i]];
        const char *what = strcmp(s->patient_digest, first->patient_digest) != 0 ? "Patient ID"
                           : strcmp(s->study_uid, first->study_uid) != 0         ? "Study Instance UID"
                           : strcmp(s->frame_of_reference_uid, first->frame_of_reference_uid) != 0
                               ? "Frame of Reference UID"
                               : NULL;
        if (what != NULL)
            return (enum fault)reject(reason, size, FAULT_MIXED_PATIENT,
                                      "the %s is not the same in all %zu images of the series", what, n);
        n_diffusion += s->diffusion != 0;
    }
    if (n_diffusion > 0)
        return (enum fault)reject(reason, size, FAULT_DIFFUSION, "%zu of %zu images are diffusion weighted",
                                  n_diffusion, n);
    return FAULT_OK;
}

// Three planes of a few slices each: nothing in the header need say so.
static int is_localizer(const struct sorter *s, const size_t *firsts, size_t n_orientations,
                        const unsigned *class, size_t n, char *reason, size_t size)
{
    int apart = 0;
    size_t most = 0;
    char counts[120] = "";
    for (size_t a = 0; a < n_orientations; a++) {
        double x[3], y[3];
        size_t count = 0;
        for (size_t i = 0; i < n; i++)
            count += class[i] == a;
        most = count > most ? count : most;
        if (strlen(counts) < 80)
            snprintf(counts + strlen(counts), sizeof counts - strlen(counts), "%s%zu", a > 0 ? ", " : "",
                     count);
        normal_of(&s->slices[firsts[a]], x);
        for (size_t b = 0; b < a; b++) {
            normal_of(&s->slices[firsts[b]], y);
            apart |= fabs(dot(x, y)) < LOCALIZER_COSINE;
        }
    }
    if (!apart || most >= STACK_LOCALIZER_SLICES)
        return 0;
    snprintf(reason, size, "%zu orientations more than 30 degrees apart with %s slices, none with %d or more",
             n_orientations, counts, STACK_LOCALIZER_SLICES);
    return 1;
}

static int compare_classed(const void *a, const void *b)
{
    const struct classed *x = a, *y = b;
    for (int i = 0; i < N_CLASSES; i++)
        if (x->class[i] != y->class[i])
            return x->class[i] < y->class[i] ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

static double tolerance_of(enum slice_number number)
{
    int exact = number == SLICE_TRIGGER_TIME || number == SLICE_TEMPORAL_POSITION ||
                number == SLICE_ECHO_NUMBER || number == SLICE_STACK_ID;
    return exact ? 0 : SAME_NUMBER;
}

static int judge_groups(struct sorter *s, size_t *members, size_t n)
{
    struct classed *classed = malloc(n * sizeof *classed);
    unsigned *class = calloc(n, sizeof *class);
    size_t *firsts = malloc(n * sizeof *firsts);
    int rc = 0;
    if (classed == NULL || class == NULL || firsts == NULL) {
        rc = fault_set(s->why, FAULT_NO_MEMORY, "cannot sort %zu slices", n);
        goto out;
    }
    for (int number = 0; number < SLICE_N_NUMBERS; number++) {
        rc = classify_number(s, members, n, (enum slice_number)number,
                             tolerance_of((enum slice_number)number), class);
        if (rc != 0)
            goto out;
        for (size_t i = 0; i < n; i++)
            classed[i].class[number] = class[i];
    }
    classify(s->slices, members, n, class, same_pixels_and_texts, firsts);
    for (size_t i = 0; i < n; i++)
        classed[i].class[SLICE_N_NUMBERS] = class[i];
    size_t n_orientations = classify(s->slices, members, n, class, same_orientation, firsts);
    char reason[512];
    if (is_localizer(s, firsts, n_orientations, class, n, reason, sizeof reason)) {
        rc = refuse(s, FAULT_LOCALIZER, members, n, "%s", reason);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        classed[i].class[SLICE_N_NUMBERS + 1] = class[i];
        classed[i].rank = i;
        classed[i].slice = members[i];
    }
    qsort(classed, n, sizeof *classed, compare_classed);
    size_t start = 0;
    s->classed = classed;
    s->n_classed = n;
    for (size_t i = 0; i < n; i++)
        members[i] = classed[i].slice;
    for (size_t i = 1; rc == 0 && i <= n; i++)
        if (i == n || memcmp(classed[i].class, classed[start].class, sizeof classed[i].class) != 0) {
            s->group = &classed[start];
            rc = judge_group(s, members + start, i - start);
            start = i;
        }
out:
    s->n_classed = 0;
    free(classed);
    free(class);
    free(firsts);
    return rc;
}

static int compare_stacks(const void *a, const void *b, void *user)
{
    const struct slice *slices = user;
    const struct stack *x = a, *y = b;
    if (x->verdict != y->verdict)
        return x->verdict == FAULT_OK ? -1 : y->verdict == FAULT_OK ? 1 : x->verdict > y->verdict ? -1 : 1;
    const struct slice *p = &slices[x->members[0]], *q = &slices[y->members[0]];
    double zx = dot(p->position, x->normal), zy = dot(q->position, y->normal);
    if (x->verdict == FAULT_OK && fabs(zx - zy) > SAME_POSITION_MM)
        return zx < zy ? -1 : 1;
    for (int i = 0; i < SLICE_N_NUMBERS; i++)
        if (p->numbers[i] != q->numbers[i] && isfinite(p->numbers[i]) && isfinite(q->numbers[i]))
            return p->numbers[i] < q->numbers[i] ? -1 : 1;
    struct ordered left = {p}, right = {q};
    return compare_canonical(&left, &right);
}

int stack_sort(const struct slice *slices, size_t n, enum stack_use use, struct stack **stacks,
               size_t *n_stacks, struct fault_note *why)
{
    struct sorter s = {.slices = slices, .use = use, .why = why};
    size_t *members = malloc((n ? n : 1) * sizeof *members);
    const char *conflict = NULL;
    size_t kept = 0;
    if (members == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot sort %zu images", n);
    int rc = 0;
    if (n > 0)
        rc = order_canonically(&s, n, members, &kept, &conflict);
    if (rc == 0 && conflict != NULL) {
        rc = refuse(&s, FAULT_IN_CONFLICT, members, kept, "different contents came under SOP Instance UID %s",
                    conflict);
        kept = 0;
    }
    if (rc == 0 && kept > 0)
        rc = exclude(&s, members, &kept);
    char reason[512];
    if (rc == 0 && kept > 0) {
        enum fault fault = judge_series(slices, members, kept, reason, sizeof reason);
        rc = fault != FAULT_OK ? refuse(&s, fault, members, kept, "%s", reason)
                               : judge_groups(&s, members, kept);
    }
    free(members);
    if (rc != 0) {
        stack_free(s.stacks, s.n_stacks);
        return rc;
    }
    if (s.n_stacks > 1)
        qsort_r(s.stacks, s.n_stacks, sizeof *s.stacks, compare_stacks, (void *)slices);
    *stacks = s.stacks;
    *n_stacks = s.n_stacks;
    return 0;
}

void stack_free(struct stack *stacks, size_t n_stacks)
{
    for (size_t i = 0; i < n_stacks; i++) {
        free(stacks[i].members);
        free(stacks[i].z_mm);
    }
    free(stacks);
}
