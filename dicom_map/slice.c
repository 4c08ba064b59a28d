// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/slice.h"

#include "dicom_map/frame.h"
#include "dicom_map/identity.h"
#include "dicom_map/number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FRAMES = 20000 };

static int is_enhanced(const struct prescan *scan)
{
    return strcmp(scan->sop_class_uid, ENHANCED_MR_IMAGE_STORAGE) == 0 ||
           strcmp(scan->sop_class_uid, LEGACY_ENHANCED_MR_IMAGE_STORAGE) == 0;
}

void slice_init(struct slice *slice)
{
    memset(slice, 0, sizeof *slice);
    slice->n_frames = 1;
    slice->samples = 1;
    slice->slope = 1;
    for (int i = 0; i < SLICE_N_NUMBERS; i++)
        slice->numbers[i] = NAN;
}

// `n` values of a DS or IS, or of a binary number. 1 when all are there.
static int get_numbers(const struct dcm_item *item, uint32_t tag, double *out, int n)
{
    char text[512];
    double found[6];
    long length = dcm_get_text(item, tag, text, sizeof text);
    for (int i = 0; i < n; i++)
        if (!(length > 0 ? number_at(text, i, &found[i]) : dcm_get_number(item, tag, i, &found[i])) ||
            !isfinite(found[i]))
            return 0;
    memcpy(out, found, (size_t)n * sizeof *out);
    return 1;
}

static int get_int(const struct dcm_item *item, uint32_t tag, int *out)
{
    double value = 0;
    if (!get_numbers(item, tag, &value, 1) || fabs(value) > 2147483647.0 || value != floor(value))
        return 0;
    *out = (int)value;
    return 1;
}

// What splits a series: classic attributes.
static const struct {
    enum slice_number number;
    uint32_t tag;
} keys[] = {
    {SLICE_ECHO_TIME, 0x00180081},      {SLICE_REPETITION_TIME, 0x00180080},
    {SLICE_INVERSION_TIME, 0x00180082}, {SLICE_FLIP_ANGLE, 0x00181314},
    {SLICE_TRIGGER_TIME, 0x00181060},   {SLICE_TEMPORAL_POSITION, 0x00200100},
    {SLICE_ECHO_NUMBER, 0x00180086},
};
static const uint32_t text_tags[SLICE_N_TEXTS] = {0x00080008, 0x00089208, 0x00180024, 0x00181030, 0x00180010};
static const uint32_t label_tags[N_LABELS] = {0x00080070, 0x00081090, 0x00081010, 0x00080080, 0x00180015,
                                              0x00081030, 0x0008103E, 0x00181030, 0x00180024, 0x00080008};

static void read_geometry(const struct dcm_item *position, const struct dcm_item *orientation,
                          const struct dcm_item *measures, struct slice *s)
{
    double six[6], two[2];
    if (get_numbers(position, 0x00200032, s->position, 3))
        s->has |= SLICE_HAS_POSITION;
    if (get_numbers(orientation, 0x00200037, six, 6)) {
        memcpy(s->row, six, sizeof s->row);
        memcpy(s->column, six + 3, sizeof s->column);
        s->has |= SLICE_HAS_ORIENTATION;
    }
    if (get_numbers(measures, 0x00280030, two, 2)) {
        s->row_mm = s->numbers[SLICE_ROW_MM] = two[0];
        s->column_mm = s->numbers[SLICE_COLUMN_MM] = two[1];
        s->has |= SLICE_HAS_SPACING;
    }
    if (get_numbers(measures, 0x00180050, &s->thickness_mm, 1))
        s->has |= SLICE_HAS_THICKNESS;
    if (get_numbers(measures, 0x00180088, &s->spacing_between_mm, 1))
        s->has |= SLICE_HAS_SPACING_BETWEEN;
}

static void read_rescale(const struct dcm_item *item, struct slice *s)
{
    double slope = 1, intercept = 0;
    if (!get_numbers(item, 0x00281053, &slope, 1) || slope == 0)
        return;
    get_numbers(item, 0x00281052, &intercept, 1);
    s->slope = slope;
    s->intercept = intercept;
    s->has |= SLICE_HAS_RESCALE;
}

// Is it ours? By any of the marks we leave.
static int is_own(const struct dcm_item *root)
{
    char text[128];
    dcm_get_text(root, 0x00080070, text, sizeof text);
    if (strcmp(text, ISOSLICE_MANUFACTURER) == 0)
        return 1;
    for (int i = 0; i < 100; i++) {
        const struct dcm_item *item = dcm_get_item(root, 0x0018A001, i);
        if (item == NULL)
            return 0;
        dcm_get_text(item, 0x00081090, text, sizeof text);
        if (strcmp(text, ISOSLICE_MODEL_NAME) == 0)
            return 1;
    }
    return 0;
}

static int names_diffusion(const char *sequence_name)
{
    // Siemens: "*ep_b1000t", "*ep_b50#2", "*re_b0"; b0 alone does not make a diffusion-weighted image.
    const char *p = strstr(sequence_name, "_b");
    if (sequence_name[0] != '*' || p == NULL)
        return 0;
    return strtol(p + 2, NULL, 10) > 0;
}

static int digest_patient(const struct dcm_item *root, struct slice *s, struct fault_note *why)
{
    char id[1024], issuer[1024];
    dcm_get_text(root, 0x00100020, id, sizeof id);
    dcm_get_text(root, 0x00100021, issuer, sizeof issuer);
    char both[2050];
    int n = snprintf(both, sizeof both, "%s%c%s", id, '\n', issuer);
    return digest_of(both, (size_t)n, s->patient_digest, why);
}

// What holds for the whole object.
static int read_object(const struct dcm_item *root, const struct prescan *scan, struct slice *s,
                       struct fault_note *why)
{
    char text[64];
    slice_init(s);
    s->enhanced = is_enhanced(scan);
    s->n_frames = (int)scan->frames;
    if (scan->has_pixel_data)
        s->has |= SLICE_HAS_PIXELS;
    memcpy(s->sop_class_uid, scan->sop_class_uid, UID_SIZE);
    memcpy(s->sop_uid, scan->sop_instance_uid, UID_SIZE);
    memcpy(s->study_uid, scan->study_uid, UID_SIZE);
    memcpy(s->series_uid, scan->series_uid, UID_SIZE);
    memcpy(s->transfer_syntax, scan->transfer_syntax, UID_SIZE);
    memcpy(s->digest, scan->digest, DIGEST_HEX_SIZE);
    int rc = digest_patient(root, s, why);
    if (rc != 0)
        return rc;
    if (dcm_get_text(root, 0x00200052, text, sizeof text) > 0 && uid_is_valid(text))
        snprintf(s->frame_of_reference_uid, UID_SIZE, "%s", text);
    dcm_get_text(root, 0x00080060, s->modality, sizeof s->modality);
    dcm_get_text(root, 0x00280004, s->photometric, sizeof s->photometric);
    dcm_get_text(root, 0x00180023, s->acquisition_type, sizeof s->acquisition_type);
    dcm_get_text(root, 0x00080032, s->acquisition_time, sizeof s->acquisition_time);
    dcm_get_text(root, 0x00280301, text, sizeof text);
    s->burned_in = strcmp(text, "YES") == 0;
    s->own_output = is_own(root);
    s->n_rows = (int)scan->rows;
    s->n_columns = (int)scan->columns;
    s->samples = (int)scan->samples;
    s->bits_allocated = (int)scan->bits_allocated;
    s->bits_stored = s->bits_allocated;
    get_int(root, 0x00280101, &s->bits_stored);
    s->high_bit = s->bits_stored - 1;
    get_int(root, 0x00280102, &s->high_bit);
    get_int(root, 0x00280103, &s->is_signed);
    if (get_int(root, 0x00200012, &s->acquisition_number))
        s->has |= SLICE_HAS_ACQUISITION;
    if (get_int(root, 0x00200013, &s->instance_number))
        s->has |= SLICE_HAS_INSTANCE;
    if (get_int(root, 0x00200100, &s->temporal_position))
        s->has |= SLICE_HAS_TEMPORAL;
    if (get_numbers(root, 0x00281050, &s->window_center, 1) &&
        get_numbers(root, 0x00281051, &s->window_width, 1))
        s->has |= SLICE_HAS_WINDOW;
    read_geometry(root, root, root, s);
    read_rescale(root, s);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        get_numbers(root, keys[i].tag, &s->numbers[keys[i].number], 1);
    for (int i = 0; i < SLICE_N_TEXTS; i++)
        dcm_get_text(root, text_tags[i], s->texts[i], SLICE_TEXT_SIZE);
    for (int i = 0; i < N_LABELS; i++)
        dcm_get_text(root, label_tags[i], s->labels[i], LABEL_SIZE);
    // GE says in (0043,102F) what kind of image it is: 0 magnitude, 1 phase, 2 real, 3 imaginary.
    int kind = 0;
    if (s->texts[SLICE_COMPLEX_COMPONENT][0] == '\0' && get_int(root, 0x0043102F, &kind))
        snprintf(s->texts[SLICE_COMPLEX_COMPONENT], SLICE_TEXT_SIZE, "GE %d", kind);
    return 0;
}

static void read_diffusion(const struct dcm_item *item, const struct dcm_item *direction, struct slice *s)
{
    if (get_numbers(item, 0x00189087, &s->numbers[SLICE_B_VALUE], 1))
        s->has |= SLICE_HAS_B_VALUE;
    if (get_numbers(direction, 0x00189089, s->direction, 3))
        s->has |= SLICE_HAS_DIRECTION;
    s->diffusion = s->numbers[SLICE_B_VALUE] > 0 || names_diffusion(s->texts[SLICE_SEQUENCE_NAME]);
}

// `n` values of a classic attribute, wherever the frame has it. 1 when all are there.
static int find_numbers(const struct frame_view *view, uint32_t classic, double *out, int n)
{
    const struct dcm_item *item = NULL;
    uint32_t tag = 0;
    return frame_find(view, classic, &item, &tag) && get_numbers(item, tag, out, n);
}

static int find_text(const struct frame_view *view, uint32_t classic, char *out, size_t size)
{
    const struct dcm_item *item = NULL;
    uint32_t tag = 0;
    return frame_find(view, classic, &item, &tag) && dcm_get_text(item, tag, out, size) > 0;
}

// What the frame's functional groups say; what only the object says is there already.
static void read_frame(const struct dcm_object *object, const struct prescan *scan, int index,
                       struct slice *s)
{
    struct frame_view view;
    char text[64];
    double number = 0;
    frame_view_init(&view, object, index);
    s->frame = index;
    s->has &= ~(unsigned)(SLICE_HAS_POSITION | SLICE_HAS_ORIENTATION | SLICE_HAS_SPACING);
    if (view.frame != NULL && slice_n_frames(object, scan) == s->n_frames)
        s->has |= SLICE_HAS_GROUPS;
    if (frame_scanning_sequence(&view, text, sizeof text))
        s->has |= SLICE_HAS_SEQUENCE;
    const struct dcm_item *measures = frame_group(&view, 0x00289110);
    read_geometry(frame_group(&view, 0x00209113), frame_group(&view, 0x00209116), measures, s);
    read_rescale(frame_group(&view, 0x00289145), s);
    if (find_numbers(&view, 0x00281050, &s->window_center, 1) &&
        find_numbers(&view, 0x00281051, &s->window_width, 1))
        s->has |= SLICE_HAS_WINDOW;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        find_numbers(&view, keys[i].tag, &s->numbers[keys[i].number], 1);
    double temporal = s->numbers[SLICE_TEMPORAL_POSITION];
    if (isfinite(temporal) && fabs(temporal) < 1e9) {
        s->temporal_position = (int)temporal;
        s->has |= SLICE_HAS_TEMPORAL;
    }
    // numbers of the object say nothing about one of its frames
    if (s->n_frames > 1)
        s->has &= ~(unsigned)(SLICE_HAS_ACQUISITION | SLICE_HAS_INSTANCE);
    if (get_numbers(frame_group(&view, 0x00209111), 0x00209156, &number, 1) && fabs(number) < 1e9) {
        s->acquisition_number = (int)number;
        s->has |= SLICE_HAS_ACQUISITION;
    }
    if (dcm_get_text(frame_group(&view, 0x00209111), 0x00209056, text, sizeof text) > 0)
        number_at(text, 0, &s->numbers[SLICE_STACK_ID]);
    for (int i = 0; i < SLICE_N_TEXTS; i++)
        find_text(&view, text_tags[i], s->texts[i], SLICE_TEXT_SIZE);
    frame_contrast_agent(&view, s->texts[SLICE_CONTRAST_AGENT], SLICE_TEXT_SIZE);
    find_text(&view, 0x00180023, s->acquisition_type, sizeof s->acquisition_type);
    const struct dcm_item *diffusion = frame_group(&view, 0x00189117);
    read_diffusion(diffusion, dcm_get_item(diffusion, 0x00189076, 0), s);
}

int slice_n_frames(const struct dcm_object *object, const struct prescan *scan)
{
    if (!is_enhanced(scan) || scan->frames > MAX_FRAMES ||
        dcm_get_item(dcm_root(object), 0x52009230, (int)scan->frames - 1) == NULL)
        return 1;
    return (int)scan->frames;
}

int slice_read(const struct dcm_object *object, const struct prescan *scan, struct slice *slices, int n,
               struct fault_note *why)
{
    const struct dcm_item *root = dcm_root(object);
    int rc = read_object(root, scan, &slices[0], why);
    if (rc != 0)
        return rc;
    read_diffusion(root, root, &slices[0]);
    if (!slices[0].enhanced || n != slice_n_frames(object, scan))
        return 0;
    for (int i = n - 1; i >= 0; i--) {
        slices[i] = slices[0];
        read_frame(object, scan, i, &slices[i]);
    }
    return 0;
}
