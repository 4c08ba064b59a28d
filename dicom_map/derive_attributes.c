// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/derive_parts.h"

#include "core/clock.h"
#include "core/version.h"
#include "dicom_map/attributes.h"
#include "dicom_map/description.h"
#include "dicom_map/identity.h"
#include "dicom_map/number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LO_SIZE = 64, ST_SIZE = 1025 };

static int is_network(const struct derive_request *r)
{
    return strcmp(r->method, "tuned") == 0 || strcmp(r->method, "base") == 0;
}

static void put_in(struct derivation *d, struct dcm_item *item, uint32_t tag, const char *vr,
                   const char *text)
{
    if (d->rc == 0)
        d->rc = dcm_put_text(item, tag, vr, text, d->why);
}

void derivation_put(struct derivation *d, uint32_t tag, const char *text)
{
    const struct attribute *attribute = attribute_find(tag);
    if (d->rc == 0 && (attribute == NULL || attribute->rule == ATTRIBUTE_NEVER))
        d->rc = fault_set(d->why, FAULT_INTERNAL, "(%04x,%04x) is not in the table", tag >> 16, tag & 0xFFFF);
    if (d->rc == 0)
        put_in(d, d->root, tag, attribute->vr, text);
}

void derivation_put_ds(struct derivation *d, uint32_t tag, double value, int digits)
{
    char text[NUMBER_DS_SIZE];
    number_ds(value, digits, text);
    derivation_put(d, tag, text);
}

void derivation_put_int(struct derivation *d, uint32_t tag, long value)
{
    char text[24];
    snprintf(text, sizeof text, "%ld", value);
    derivation_put(d, tag, text);
}

void derivation_put_short(struct derivation *d, uint32_t tag, int is_signed, int value)
{
    if (d->rc == 0)
        d->rc = dcm_put_short(d->root, tag, is_signed, value, d->why);
}

static struct dcm_item *add_item(struct derivation *d, struct dcm_item *to, uint32_t tag)
{
    struct dcm_item *item = NULL;
    if (d->rc == 0)
        d->rc = dcm_add_item(to, tag, &item, d->why);
    return item;
}

static void put_code(struct derivation *d, struct dcm_item *to, uint32_t tag, const char *value,
                     const char *meaning)
{
    struct dcm_item *code = add_item(d, to, tag);
    put_in(d, code, 0x00080100, "SH", value);
    put_in(d, code, 0x00080102, "SH", "DCM");
    put_in(d, code, 0x00080104, "LO", meaning);
}

// ---- copied

int derivation_is_same(const struct derivation *d, uint32_t tag)
{
    for (int i = 1; i < d->item->depth; i++)
        if (!dcm_equal(d->first, derivation_source(d, (size_t)i), tag))
            return 0;
    return 1;
}

// DS of more than 16 characters (some scanners write what a printf gave them), shortened. 1 when it is one.
static int shorten_ds(const char *text, char *out, size_t size)
{
    size_t at = 0;
    double value = 0;
    for (int i = 0; number_at(text, i, &value); i++) {
        char ds[NUMBER_DS_SIZE];
        number_ds(value, DS_DIGITS, ds);
        if (at + strlen(ds) + 2 > size)
            return 0;
        at += (size_t)snprintf(out + at, size - at, "%s%s", i > 0 ? "\\" : "", ds);
    }
    return at > 0 && attribute_is_legal("DS", out);
}

// One attribute of the source as it is, unless its value is not legal in its VR. 1 when it was copied.
static int copy_from(struct derivation *d, struct dcm_item *to, const struct dcm_item *from, uint32_t tag,
                     const char *vr)
{
    char text[1024], shorter[1024];
    if (d->rc != 0 || !dcm_has(from, tag))
        return 0;
    if (dcm_get_text(from, tag, text, sizeof text) > 0 && !attribute_is_legal(vr, text)) {
        if (strcmp(vr, "DS") != 0 || !shorten_ds(text, shorter, sizeof shorter))
            return 0;
        put_in(d, to, tag, vr, shorter);
        return 1;
    }
    d->rc = dcm_copy(to, from, tag, d->why);
    return 1;
}

static int is_empty(const struct dcm_item *item, uint32_t tag)
{
    char text[8];
    return dcm_get_text(item, tag, text, sizeof text) == 0;
}

// Keeps the values of a text that stand in `terms`, each followed by a blank. What vendors add of their own
// belongs to their images.
static void keep_terms(struct derivation *d, uint32_t tag, const char *terms, const char *otherwise)
{
    char text[256], kept[256] = "";
    if (d->rc != 0 || dcm_get_text(d->root, tag, text, sizeof text) <= 0)
        return;
    char *rest = text;
    for (char *value; (value = strsep(&rest, "\\")) != NULL;) {
        char term[32];
        snprintf(term, sizeof term, "%.29s ", value);
        const char *found = strstr(terms, term);
        if (found != NULL && (found == terms || found[-1] == ' ')) {
            size_t at = strlen(kept);
            snprintf(kept + at, sizeof kept - at, "%s%s", at > 0 ? "\\" : "", value);
        }
    }
    derivation_put(d, tag, kept[0] != '\0' ? kept : otherwise);
}

int derivation_has_term(const struct dcm_item *item, uint32_t tag, const char *term)
{
    char text[256];
    size_t n = strlen(term);
    dcm_get_text(item, tag, text, sizeof text);
    for (const char *p = text; p != NULL; p = strchr(p, '\\')) {
        p += *p == '\\';
        if (strncmp(p, term, n) == 0 && (p[n] == '\0' || p[n] == '\\'))
            return 1;
    }
    return 0;
}

// Attributes of type 2C whose condition the source did not mind: PS3.3 C.8.3.1 and C.7.3.1.
static void repair_conditionals(struct derivation *d)
{
    if (d->rc != 0)
        return;
    int inverts = derivation_has_term(d->root, 0x00180020, "IR");
    int repeats =
        !derivation_has_term(d->root, 0x00180020, "EP") || derivation_has_term(d->root, 0x00180021, "SK");
    if (!inverts)
        d->rc = dcm_remove(d->root, 0x00180082, d->why);
    else if (!dcm_has(d->root, 0x00180082))
        derivation_put(d, 0x00180082, "");
    if (repeats && !dcm_has(d->root, 0x00180080))
        derivation_put(d, 0x00180080, "");
    if (!dcm_has(d->root, 0x00185100))
        derivation_put(d, 0x00185100, "");
}

static void copy_attributes(struct derivation *d)
{
    for (size_t i = 0; i < n_attributes; i++) {
        const struct attribute *a = &attributes[i];
        if (a->rule > ATTRIBUTE_COPY_SAME_OR_EMPTY)
            continue;
        int wants_same = a->rule == ATTRIBUTE_COPY_SAME || a->rule == ATTRIBUTE_COPY_SAME_OR_EMPTY;
        // what is empty and optional says nothing about the images; about the patient it is kept, as it was
        int skip = a->rule == ATTRIBUTE_COPY_SAME && is_empty(d->first, a->tag);
        int done = !skip && (!wants_same || derivation_is_same(d, a->tag)) &&
                   copy_from(d, d->root, d->first, a->tag, a->vr);
        if (!done && (a->rule == ATTRIBUTE_COPY_FIRST_OR_EMPTY || a->rule == ATTRIBUTE_COPY_SAME_OR_EMPTY))
            derivation_put(d, a->tag, "");
    }
}

// Texts are copied byte by byte, so what their bytes mean goes with them, also when nobody knows it.
static void repair_charset(struct derivation *d)
{
    char text[256], spelled[256];
    if (d->rc != 0 || dcm_has(d->root, 0x00080005) ||
        dcm_get_text(d->first, 0x00080005, text, sizeof text) <= 0)
        return;
    if (attribute_charset(text, spelled, sizeof spelled))
        derivation_put(d, 0x00080005, spelled);
    else
        d->rc = dcm_copy(d->root, d->first, 0x00080005, d->why);
}

// Of what every object must have and only the source can say: a derived image without it would have no place
// or no size.
static void check_required(struct derivation *d)
{
    char text[8];
    for (size_t i = 0; d->rc == 0 && i < n_attributes; i++)
        if (attributes[i].rule == ATTRIBUTE_COPY_FIRST_OR_FAIL &&
            dcm_get_text(d->root, attributes[i].tag, text, sizeof text) <= 0)
            d->rc = fault_set(d->why, FAULT_INTERNAL,
                              "no derived object can be without %s, and the source's cannot be copied",
                              attributes[i].name);
}

// ---- dates

// The latest time that the sources name, for work that has no record of its own: the same input then gives
// the same bytes. 1900-01-01 where the sources name none.
static void set_source_time(struct derivation *d)
{
    static const uint32_t dates[] = {0x00080023, 0x00080022, 0x00080021, 0x00080020};
    static const uint32_t times[] = {0x00080033, 0x00080032, 0x00080031, 0x00080030};
    char latest[24] = "19000101000000";
    for (int i = 0; i < d->item->depth; i++) {
        for (int k = 0; k < 4; k++) {
            const struct dcm_item *root = dcm_root(d->sources[i]);
            char date[32], time[32], both[24];
            if (dcm_get_text(root, dates[k], date, sizeof date) != 8 || !attribute_is_legal("DA", date))
                continue;
            long n = dcm_get_text(root, times[k], time, sizeof time);
            if (n < 6 || n > 13 || !attribute_is_legal("TM", time))
                snprintf(time, sizeof time, "000000");
            snprintf(both, sizeof both, "%.8s%.13s", date, time);
            if (strcmp(both, latest) > 0)
                memcpy(latest, both, sizeof latest);
            break;
        }
    }
    snprintf(d->date, sizeof d->date, "%.8s", latest);
    snprintf(d->time, sizeof d->time, "%.13s", latest + 8);
}

// Date and time of the job, in the time zone that the source states, else in this machine's.
void derivation_set_job_time(struct derivation *d)
{
    char zone[32];
    int64_t us = d->request->job_time_us;
    if (us == 0) {
        set_source_time(d);
        return;
    }
    clock_dicom(us, d->date, d->time);
    if (dcm_get_text(d->first, 0x00080201, zone, sizeof zone) != 5 || !derivation_is_same(d, 0x00080201) ||
        strspn(zone + 1, "0123456789") != 4 || (zone[0] != '+' && zone[0] != '-'))
        return;
    int hours = (zone[1] - '0') * 10 + zone[2] - '0', minutes = (zone[3] - '0') * 10 + zone[4] - '0';
    int64_t offset_s = (zone[0] == '-' ? -1 : 1) * ((int64_t)hours * 60 + minutes) * 60;
    time_t seconds = (time_t)(us / 1000000 + offset_s);
    struct tm tm;
    if (gmtime_r(&seconds, &tm) == NULL)
        return;
    strftime(d->date, sizeof d->date, "%Y%m%d", &tm);
    strftime(d->time, sizeof d->time, "%H%M%S", &tm);
    char fraction[16];
    snprintf(fraction, sizeof fraction, ".%06d", (int)(us % 1000000));
    memcpy(d->time + 6, fraction, 8);
}

// The earliest acquisition of the stack, of the slices that say one; empty where none does.
static void find_acquisition(const struct derivation *d, char date[9], char time[15], char date_time[27])
{
    char earliest[24] = "";
    date[0] = time[0] = date_time[0] = '\0';
    for (int i = 0; i < d->item->depth; i++) {
        const struct dcm_item *root = derivation_source(d, (size_t)i);
        char da[32], tm[32], dt[64], key[24];
        dcm_get_text(root, 0x00080022, da, sizeof da);
        dcm_get_text(root, 0x00080032, tm, sizeof tm);
        dcm_get_text(root, 0x0008002A, dt, sizeof dt);
        if (!attribute_is_legal("DA", da))
            da[0] = '\0';
        if (!attribute_is_legal("TM", tm))
            tm[0] = '\0';
        // what is not said comes last
        snprintf(key, sizeof key, "%.8s%.13s", da[0] != '\0' ? da : "99999999", tm[0] != '\0' ? tm : "9");
        if (i == 0 || strcmp(key, earliest) < 0) {
            memcpy(earliest, key, sizeof key);
            snprintf(date, 9, "%.8s", da);
            snprintf(time, 15, "%.13s", tm);
        }
        if (strlen(dt) >= 8 && strspn(dt, "0123456789.+-") == strlen(dt) && strlen(dt) <= 26 &&
            (date_time[0] == '\0' || strcmp(dt, date_time) < 0))
            snprintf(date_time, 27, "%.26s", dt);
    }
}

// ---- loss

// Values are steps, one after the other: what a slice went through is their product. 0 where it does not say.
static double loss_of(const struct dcm_item *slice)
{
    char text[256];
    double ratio = 0, product = 1;
    int n = 0;
    dcm_get_text(slice, 0x00282112, text, sizeof text);
    for (; number_at(text, n, &ratio); n++)
        product *= ratio;
    return n > 0 ? product : 0;
}

// The slice that was compressed most; NULL where none was compressed with loss.
static const struct dcm_item *find_lossiest(const struct derivation *d)
{
    const struct dcm_item *found = NULL;
    for (int i = 0; i < d->item->depth; i++) {
        const struct dcm_item *slice = derivation_source(d, (size_t)i);
        if (derivation_has_term(slice, 0x00282110, "01") &&
            (found == NULL || loss_of(slice) > loss_of(found)))
            found = slice;
    }
    return found;
}

// ---- texts

static void put_series_description(struct derivation *d)
{
    static const char *const views[VIEW_N_PLANES] = {"", " SAG", " COR", " AX"};
    const struct derive_request *r = d->request;
    char written[256], charset[256], source[256], spacing[16], late[16] = "",
                                                               text[DESCRIPTION_MOST_BYTES + 1];
    dcm_get_text(d->first, 0x00080005, written, sizeof written);
    attribute_charset(written, charset, sizeof charset);
    dcm_get_text(d->first, 0x0008103E, source, sizeof source);
    source[strcspn(source, "\\")] = '\0';
    snprintf(spacing, sizeof spacing, "%.2f", r->step_mm);
    if (r->n_late > 0)
        snprintf(late, sizeof late, " +%d late", r->n_late % 10000);
    const struct description_parts parts = {.charset = charset,
                                            .source = source,
                                            .kind = is_network(r) ? "SR-AI" : "INTERP",
                                            .method = r->method,
                                            .spacing = spacing,
                                            .view = views[r->view],
                                            .late = late};
    description_make(r->description != NULL ? r->description : DESCRIPTION_DEFAULT, &parts, text);
    derivation_put(d, 0x0008103E, text);
}

static void put_derivation_description(struct derivation *d)
{
    const struct derive_request *r = d->request;
    char text[ST_SIZE], what[400], in_plane[120] = "";
    if (d->entry->resampled != SQUARE_NOTHING)
        snprintf(in_plane, sizeof in_plane, "; %s resampled from %.3f to %.3f mm (cubic B-spline)",
                 d->entry->resampled == SQUARE_ROWS ? "rows" : "columns", d->entry->acquired_mm,
                 d->item->row_mm);
    if (is_network(r))
        snprintf(what, sizeof what,
                 "Inter-slice super-resolution (neural network%s); slice spacing %.3f -> %.3f mm%s; model "
                 "%.64s %.32s "
                 "sha256:%.12s; ISOSLICE %s; acquired planes: reconstructed too",
                 strcmp(r->method, "tuned") == 0 ? ", adapted to this subject" : "", d->item->slice_mm,
                 r->step_mm, in_plane, derive_or_empty(r->model_name), derive_or_empty(r->model_version),
                 derive_or_empty(r->weights_sha256), ISOSLICE_VERSION);
    else
        snprintf(what, sizeof what,
                 "Inter-slice interpolation (%s); slice spacing %.3f -> %.3f mm%s; ISOSLICE %s",
                 strcmp(r->method, "cubic") == 0 ? "cubic B-spline" : r->method, d->item->slice_mm,
                 r->step_mm, in_plane, ISOSLICE_VERSION);
    size_t n_what = strlen(what);
    if (r->view != VIEW_ACQUIRED)
        snprintf(what + n_what, sizeof what - n_what,
                 d->view.is_oblique
                     ? "; shown in the volume's own planes nearest to %s, not resampled for that"
                     : "; shown in %s planes, not resampled for that",
                 view_name(r->view));
    static const char not_diagnosis[] = "Not for primary diagnosis.";
    char end[256];
    snprintf(end, sizeof end, ". Voxels clamped: %zu. ", d->n_clamped);
    const struct dcm_item *worst = find_lossiest(d);
    if (worst != NULL && loss_of(worst) > 0)
        snprintf(end + strlen(end), sizeof end - strlen(end), "Sources compressed with loss, up to %.4g:1. ",
                 loss_of(worst));
    else if (worst != NULL)
        snprintf(end + strlen(end), sizeof end - strlen(end), "Sources compressed with loss. ");
    if (r->n_late > 0)
        snprintf(end + strlen(end), sizeof end - strlen(end),
                 "Made again: %d images came after an earlier series was made. ", r->n_late);
    snprintf(end + strlen(end), sizeof end - strlen(end), "%s", not_diagnosis);
    size_t room = sizeof text - strlen(end) - 1;
    const char *quality = derive_or_empty(r->quality);
    snprintf(text, room, "%s%s%s", what, quality[0] != '\0' ? ". " : "", quality);
    size_t n = strlen(text);
    while (n > 0 && text[n - 1] == '.')
        n--;
    memcpy(text + n, end, strlen(end) + 1);
    derivation_put(d, 0x00082111, text);
}

static void put_image_comments(struct derivation *d)
{
    double pixel = fmin(d->item->row_mm, d->item->column_mm);
    char text[200];
    snprintf(
        text, sizeof text,
        "NOT FOR PRIMARY DIAGNOSIS. Computed %sseries%s; planes between acquired positions are estimated.",
        fabs(d->request->step_mm - pixel) <= 1e-6 * pixel ? "isotropic " : "",
        d->request->view != VIEW_ACQUIRED ? ", reformatted" : "");
    derivation_put(d, 0x00204000, text);
}

// ---- equipment

static void software_versions(const struct derive_request *r, char *out, size_t size)
{
    if (is_network(r))
        snprintf(out, size, "%s\\%.40s %.20s", ISOSLICE_VERSION, derive_or_empty(r->model_name),
                 derive_or_empty(r->model_version));
    else
        snprintf(out, size, "%s", ISOSLICE_VERSION);
}

static void put_equipment(struct derivation *d, struct dcm_item *to)
{
    const struct derive_request *r = d->request;
    char text[160];
    put_in(d, to, 0x00080070, "LO", ISOSLICE_MANUFACTURER);
    put_in(d, to, 0x00081090, "LO", ISOSLICE_MODEL_NAME);
    if (derive_or_empty(r->station_name)[0] != '\0') {
        snprintf(text, sizeof text, "%.16s", r->station_name);
        put_in(d, to, 0x00081010, "SH", text);
    }
    snprintf(text, sizeof text, "%.64s", derive_or_empty(r->site_id));
    if (text[0] != '\0')
        put_in(d, to, 0x00181000, "LO", text);
    software_versions(r, text, sizeof text);
    put_in(d, to, 0x00181020, "LO", text);
}

static void put_contributing_equipment(struct derivation *d, const char *acquired)
{
    const struct derive_request *r = d->request;
    static const struct {
        uint32_t tag;
        const char *vr;
    } scanner[] = {
        {0x00080080, "LO"}, {0x00081010, "SH"}, {0x00081090, "LO"}, {0x00181000, "LO"}, {0x00181020, "LO"}};
    char text[ST_SIZE], number[32];
    struct dcm_item *item = add_item(d, d->root, 0x0018A001);
    put_code(d, item, 0x0040A170, "109101", "Acquisition Equipment");
    if (dcm_get_text(d->first, 0x00080070, text, sizeof text) > 0)
        copy_from(d, item, d->first, 0x00080070, "LO");
    else
        put_in(d, item, 0x00080070, "LO", "UNKNOWN");
    for (size_t i = 0; i < sizeof scanner / sizeof scanner[0]; i++)
        // a name too long for its VR is the scanner's fault in its own image, but would be ours in here
        if (dcm_get_text(d->first, scanner[i].tag, text, sizeof text) > 0 &&
            strlen(text) <= (strcmp(scanner[i].vr, "SH") == 0 ? 16 : LO_SIZE))
            copy_from(d, item, d->first, scanner[i].tag, scanner[i].vr);
    if (acquired[0] != '\0')
        put_in(d, item, 0x0018A002, "DT", acquired);
    if (dcm_get_text(d->first, 0x00200011, number, sizeof number) > 0 && attribute_is_legal("IS", number)) {
        snprintf(text, sizeof text, "Source series %s", number);
        put_in(d, item, 0x0018A003, "ST", text);
    }
    const struct dcm_item *before = NULL;
    if (derivation_is_same(d, 0x0018A001))
        for (int i = 0; d->rc == 0 && (before = dcm_get_item(d->first, 0x0018A001, i)) != NULL; i++)
            d->rc = dcm_copy_item(d->root, 0x0018A001, before, d->why);

    item = add_item(d, d->root, 0x0018A001);
    put_code(d, item, 0x0040A170, "109102", "Processing Equipment");
    put_equipment(d, item);
    snprintf(text, sizeof text, "%s%s", d->date, d->time);
    put_in(d, item, 0x0018A002, "DT", text);
    if (is_network(r))
        snprintf(text, sizeof text,
                 "Inter-slice super-resolution, model %.64s %.32s sha256:%.64s rev %d, method %s, parameters "
                 "%.600s",
                 derive_or_empty(r->model_name), derive_or_empty(r->model_version),
                 derive_or_empty(r->weights_sha256), ISOSLICE_ALGORITHM_REVISION, r->method,
                 derive_or_empty(r->parameters));
    else
        snprintf(text, sizeof text, "Inter-slice interpolation, method %s rev %d, parameters %.600s",
                 r->method, ISOSLICE_ALGORITHM_REVISION, derive_or_empty(r->parameters));
    // a backslash would not end an ST, but parameters have none to lose
    for (char *p = text; *p != '\0'; p++)
        if (*p == '\\' || (unsigned char)*p < 0x20)
            *p = '/';
    put_in(d, item, 0x0018A003, "ST", text);
}

// ---- references

// Which frames of the multi-frame object that plane `at` is of are sources, in order of position, counted
// from 1; only for the first plane of such an object. 0: another plane has said it.
static int list_frames(const struct derivation *d, size_t at, char *out, size_t size)
{
    const struct source *source = d->request->source;
    const char *uid = source_slice(source, d->request->item, at)->sop_uid;
    size_t n = 0;
    for (size_t i = 0; i < (size_t)d->item->depth; i++) {
        const struct slice *slice = source_slice(source, d->request->item, i);
        if (strcmp(slice->sop_uid, uid) != 0)
            continue;
        if (i < at)
            return 0;
        n += (size_t)snprintf(out + n, size - n, "%s%d", n > 0 ? "\\" : "", slice->frame + 1);
    }
    return 1;
}

static void put_references(struct derivation *d)
{
    struct dcm_item *series = add_item(d, d->root, 0x00081115);
    size_t size = (size_t)d->item->depth * 12;
    char *frames = malloc(size);
    if (d->rc == 0 && frames == NULL)
        d->rc = fault_set(d->why, FAULT_NO_MEMORY, "cannot list %d frames", d->item->depth);
    put_in(d, series, 0x0020000E, "UI", d->item->series_uid);
    for (int i = 0; d->rc == 0 && i < d->item->depth; i++) {
        const struct slice *slice = source_slice(d->request->source, d->request->item, (size_t)i);
        if (slice->n_frames > 1 && !list_frames(d, (size_t)i, frames, size))
            continue;
        struct dcm_item *instance = add_item(d, series, 0x0008114A);
        put_in(d, instance, 0x00081150, "UI", slice->sop_class_uid);
        put_in(d, instance, 0x00081155, "UI", slice->sop_uid);
        struct dcm_item *image = add_item(d, d->root, 0x00082112);
        put_in(d, image, 0x00081150, "UI", slice->sop_class_uid);
        put_in(d, image, 0x00081155, "UI", slice->sop_uid);
        if (slice->n_frames > 1)
            put_in(d, image, 0x00081160, "IS", frames);
        put_code(d, image, 0x0040A170, "121322", "Source image for image processing operation");
    }
    free(frames);
    struct dcm_item *related = add_item(d, d->root, 0x00081250);
    put_in(d, related, 0x0020000D, "UI", d->item->study_uid);
    put_in(d, related, 0x0020000E, "UI", d->item->series_uid);
    put_code(d, related, 0x0040A170, "121323", "Source series for image processing operation");
}

// ---- values that depend on the whole stack

static void put_window(struct derivation *d)
{
    size_t depth = (size_t)d->item->depth, n = 0;
    double *centers = malloc(depth * sizeof *centers), *widths = malloc(depth * sizeof *widths);
    if (d->rc == 0 && (centers == NULL || widths == NULL))
        d->rc = fault_set(d->why, FAULT_NO_MEMORY, "cannot hold %zu windows", depth);
    for (size_t i = 0; d->rc == 0 && centers != NULL && widths != NULL && i < depth; i++) {
        const struct slice *slice = source_slice(d->request->source, d->request->item, i);
        if (!(slice->has & SLICE_HAS_WINDOW) || slice->window_width < 1)
            continue;
        centers[n] = slice->window_center;
        widths[n++] = slice->window_width;
    }
    if (d->rc == 0 && n > 0) {
        derivation_put_ds(d, 0x00281050, number_median(centers, n), DS_DIGITS);
        derivation_put_ds(d, 0x00281051, number_median(widths, n), DS_DIGITS);
    }
    free(centers);
    free(widths);
}

static void put_rescale(struct derivation *d)
{
    const struct slice *first = source_slice(d->request->source, d->request->item, 0);
    if (d->entry->rescale_varies) {
        derivation_put_ds(d, 0x00281052, d->entry->intercept, DS_DIGITS);
        derivation_put_ds(d, 0x00281053, d->entry->slope, DS_DIGITS);
    } else if (first->slope != 1 || first->intercept != 0) {
        if (!copy_from(d, d->root, d->first, 0x00281052, "DS"))
            derivation_put(d, 0x00281052, "0");
        copy_from(d, d->root, d->first, 0x00281053, "DS");
    } else {
        return;
    }
    char type[64];
    if (dcm_get_text(d->first, 0x00281054, type, sizeof type) > 0)
        copy_from(d, d->root, d->first, 0x00281054, "LO");
    else
        derivation_put(d, 0x00281054, "US");
}

static void put_lossy(struct derivation *d)
{
    const struct dcm_item *worst = find_lossiest(d);
    int n_not = 0;
    for (int i = 0; i < d->item->depth; i++)
        n_not += derivation_has_term(derivation_source(d, (size_t)i), 0x00282110, "00");
    if (worst != NULL)
        derivation_put(d, 0x00282110, "01");
    else if (n_not == d->item->depth)
        derivation_put(d, 0x00282110, "00");
    // both of one slice: the values of one belong to those of the other
    static const struct {
        uint32_t tag;
        const char *vr;
    } how[] = {{0x00282112, "DS"}, {0x00282114, "CS"}};
    for (int i = 0; i < 2 && worst != NULL; i++)
        if (!is_empty(worst, how[i].tag))
            copy_from(d, d->root, worst, how[i].tag, how[i].vr);
}

// What a viewer of the source shows it by: the Instance Number, in a multi-frame object the frame's.
static int source_number(const struct slice *slice)
{
    return slice->n_frames > 1 ? slice->frame + 1 : slice->instance_number;
}

// 1 or -1: whether the source's numbers rise or fall with position.
int derivation_direction(const struct derivation *d)
{
    double mean_z = 0, mean_number = 0, sum = 0;
    int depth = d->item->depth;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < depth; i++) {
            const struct slice *slice = source_slice(d->request->source, d->request->item, (size_t)i);
            if (slice->n_frames == 1 && !(slice->has & SLICE_HAS_INSTANCE))
                return 1;
            if (pass == 0) {
                mean_z += d->item->z_mm[i] / depth;
                mean_number += (double)source_number(slice) / depth;
            } else {
                sum += (d->item->z_mm[i] - mean_z) * (source_number(slice) - mean_number);
            }
        }
    return sum < 0 ? -1 : 1;
}

static void put_pixel_description(struct derivation *d)
{
    derivation_put_short(d, 0x00280002, 0, 1);
    derivation_put(d, 0x00280004, "MONOCHROME2");
    derivation_put_short(d, 0x00280010, 0, d->rows);
    derivation_put_short(d, 0x00280011, 0, d->columns);
    derivation_put_short(d, 0x00280100, 0,
                         d->layout.bits_allocated); // 16 also where the source has 8: PS3.3 C.8.3.1.1.4
    derivation_put_short(d, 0x00280101, 0, d->layout.bits_stored);
    derivation_put_short(d, 0x00280102, 0, d->layout.bits_stored - 1);
    derivation_put_short(d, 0x00280103, 0, d->layout.is_signed);
}

// The finer of the two spacings, as the source writes it where that is legal.
static void put_square_spacing(struct derivation *d)
{
    char text[64], pair[80], *end = text;
    dcm_get_text(d->first, 0x00280030, text, sizeof text);
    char *row = strsep(&end, "\\"), *column = strsep(&end, "\\");
    const char *fine = d->entry->resampled == SQUARE_ROWS ? column : row;
    char rounded[NUMBER_DS_SIZE];
    if (fine == NULL || !attribute_is_legal("DS", fine)) {
        number_ds(d->item->row_mm, SPACING_DIGITS, rounded);
        fine = rounded;
    }
    snprintf(pair, sizeof pair, "%.16s\\%.16s", fine, fine);
    derivation_put(d, 0x00280030, pair);
}

// What is the same in all images of a view, and not as in the planes.
static void put_view(struct derivation *d)
{
    const struct view *view = &d->view;
    char six[6][NUMBER_DS_SIZE], text[6 * NUMBER_DS_SIZE];
    derivation_put(d, 0x00080008, "DERIVED\\SECONDARY\\MPR\\RESAMPLED");
    put_code(d, d->root, 0x00089215, "113072", "Multiplanar reformatting");
    for (int i = 0; i < 6; i++)
        number_ds(view->direction[i / 3][i % 3], DS_DIGITS, six[i]);
    snprintf(text, sizeof text, "%s\\%s\\%s\\%s\\%s\\%s", six[0], six[1], six[2], six[3], six[4], six[5]);
    derivation_put(d, 0x00200037, text);
    number_ds(view->step_mm[1], SPACING_DIGITS, six[0]);
    number_ds(view->step_mm[0], SPACING_DIGITS, six[1]);
    snprintf(text, sizeof text, "%s\\%s", six[0], six[1]);
    derivation_put(d, 0x00280030, text);
    derivation_put_ds(d, 0x00180050, view->step_mm[2], SPACING_DIGITS);
    derivation_put_ds(d, 0x00180088, view->step_mm[2], SPACING_DIGITS);
    // both speak of the rows and columns of an image as it was acquired
    static const uint32_t of_rows[] = {0x00181310, 0x00181312};
    for (int i = 0; i < 2 && d->rc == 0; i++)
        d->rc = dcm_remove(d->root, of_rows[i], d->why);
}

// Everything that is the same in all planes.
void derivation_build_common(struct derivation *d)
{
    const struct derive_request *r = d->request;
    char uid[UID_SIZE], name[400], date[9], time[15], date_time[27], acquired[32];
    copy_attributes(d);
    repair_charset(d);
    // Defined terms of PS3.3 C.8.3.1; those of cardiac gating would ask for a Trigger Time, which no new
    // plane has
    keep_terms(d, 0x00180022, "PER RG FC PFF PFP SP FS ", "");
    keep_terms(d, 0x00180021, "SK MTC SS TRSS SP MP OSP NONE ", "NONE");
    repair_conditionals(d);
    derivation_put(d, 0x00080008, "DERIVED\\SECONDARY\\OTHER\\RESAMPLED");
    derivation_put(d, 0x00080016, MR_IMAGE_STORAGE);
    derivation_put(d, 0x00080060, "MR");
    derivation_put(d, 0x00189004, "RESEARCH");
    snprintf(name, sizeof name, "isoslice/site/1|%.300s", derive_or_empty(r->site_id));
    if (d->rc == 0)
        d->rc = uid_from_name(name, uid, d->why);
    derivation_put(d, 0x00080014, uid);
    static const uint32_t dates[] = {0x00080012, 0x00080021, 0x00080023},
                          times[] = {0x00080013, 0x00080031, 0x00080033};
    for (int i = 0; i < 3; i++) {
        derivation_put(d, dates[i], d->date);
        derivation_put(d, times[i], d->time);
    }
    find_acquisition(d, date, time, date_time);
    if (date[0] != '\0')
        derivation_put(d, 0x00080022, date);
    if (time[0] != '\0')
        derivation_put(d, 0x00080032, time);
    if (date_time[0] != '\0')
        derivation_put(d, 0x0008002A, date_time);
    snprintf(acquired, sizeof acquired, "%s%s", date, date[0] != '\0' ? time : "");
    derivation_put(d, 0x0020000E, d->series_uid);
    derivation_put_int(d, 0x00200011, derive_series_number(r, d->first));
    put_series_description(d);
    if (d->rc == 0)
        put_equipment(d, d->root);
    put_contributing_equipment(d, acquired);
    put_references(d);
    put_derivation_description(d);
    put_code(d, d->root, 0x00089215, "113085", "Spatial resampling");
    put_image_comments(d);
    put_lossy(d);
    derivation_put_ds(d, 0x00180050, r->step_mm, SPACING_DIGITS);
    derivation_put_ds(d, 0x00180088, r->step_mm, SPACING_DIGITS);
    put_pixel_description(d);
    if (d->entry->resampled != SQUARE_NOTHING)
        put_square_spacing(d);
    put_window(d);
    put_rescale(d);
    if (d->entry->rescale_varies && d->rc == 0)
        d->rc = dcm_remove(d->root, 0x00409096, d->why);
    if (d->request->view != VIEW_ACQUIRED)
        put_view(d);
    check_required(d);
}
