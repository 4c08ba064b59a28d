// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/notice.h"

#include "core/clock.h"
#include "core/file.h"
#include "core/version.h"
#include "dicom_map/attributes.h"
#include "dicom_map/derive_parts.h"
#include "dicom_map/object_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_SIZE = 1024, LO_MOST = 64 };
enum { PLACE = VIEW_N_PLANES * FORMAT_N }; // after all of derive_series_number

// Patient and study: PS3.3 C.7.1.1, C.7.2.1; the character set that they are in; and the body part, without
// which it is not decided whether Laterality may be absent (C.7.3.1). Type 2 may be empty.
static const struct {
    uint32_t tag;
    char vr[3];
    int is_type_2;
} copied[] = {
    {0x00080005, "CS", 0}, {0x00080020, "DA", 1}, {0x00080030, "TM", 1}, {0x00080050, "SH", 1},
    {0x00080090, "PN", 1}, {0x00080201, "SH", 0}, {0x00081030, "LO", 0}, {0x00100010, "PN", 1},
    {0x00100020, "LO", 1}, {0x00100021, "LO", 0}, {0x00100030, "DA", 1}, {0x00100040, "CS", 1},
    {0x00180015, "CS", 0}, {0x00200060, "CS", 0}, {0x0020000D, "UI", 0}, {0x00200010, "SH", 1},
};

struct writing {
    const struct notice_request *request;
    const struct source_item *item;
    const struct dcm_item *source; // header of the first image
    struct dcm_object *made;
    struct dcm_item *root;
    char series_uid[UID_SIZE], uid[UID_SIZE];
    int series_number;
    struct fault_note *why;
    int rc; // the first failure of a put
};

static void put(struct writing *w, uint32_t tag, const char *vr, const char *text)
{
    if (w->rc == 0)
        w->rc = dcm_put_text(w->root, tag, vr, text, w->why);
}

static void put_short(struct writing *w, uint32_t tag, int value)
{
    if (w->rc == 0)
        w->rc = dcm_put_short(w->root, tag, 0, value, w->why);
}

static void copy_patient_and_study(struct writing *w)
{
    for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++) {
        char text[TEXT_SIZE];
        long n = dcm_get_text(w->source, copied[i].tag, text, sizeof text);
        if (n > 0 && copied[i].tag == 0x00080005 && !attribute_is_legal(copied[i].vr, text)) {
            char spelled[TEXT_SIZE]; // the texts below are in it
            attribute_charset(text, spelled, sizeof spelled);
            put(w, copied[i].tag, copied[i].vr, spelled);
        } else if (n > 0 && attribute_is_legal(copied[i].vr, text)) {
            if (w->rc == 0)
                w->rc = dcm_copy(w->root, w->source, copied[i].tag, w->why);
        } else if (copied[i].is_type_2) {
            put(w, copied[i].tag, copied[i].vr, "");
        }
    }
}

static void put_times(struct writing *w)
{
    static const uint32_t dates[] = {0x00080012, 0x00080021, 0x00080023, 0x00181012},
                          times[] = {0x00080013, 0x00080031, 0x00080033, 0x00181014};
    char date[9], time[14];
    clock_dicom(w->request->job_time_us, date, time);
    for (size_t i = 0; i < sizeof dates / sizeof dates[0]; i++) {
        put(w, dates[i], "DA", date);
        put(w, times[i], "TM", time);
    }
}

static void put_equipment(struct writing *w)
{
    const struct notice_request *r = w->request;
    char text[LO_MOST + 1];
    put(w, 0x00080070, "LO", ISOSLICE_MANUFACTURER);
    put(w, 0x00081090, "LO", ISOSLICE_MODEL_NAME);
    snprintf(text, sizeof text, "%.16s", derive_or_empty(r->station_name));
    if (text[0] != '\0')
        put(w, 0x00081010, "SH", text);
    snprintf(text, sizeof text, "%.64s", derive_or_empty(r->site_id));
    if (text[0] != '\0')
        put(w, 0x00181000, "LO", text);
    put(w, 0x00181020, "LO", ISOSLICE_VERSION);
}

// As long as an LT can be said in one line; PS3.5 6.2.
static void put_comments(struct writing *w)
{
    char text[TEXT_SIZE + 256];
    snprintf(text, sizeof text,
             "Isoslice made no series of series %s: %s: %s. The acquired images are unchanged.",
             w->item->series_uid, w->request->code, w->request->sentence);
    for (char *p = text; *p != '\0'; p++)
        if (*p < ' ' || *p > '~' || *p == '\\')
            *p = '?';
    put(w, 0x00204000, "LT", text);
    snprintf(text, sizeof text, "ISOSLICE: no result: %s", w->request->code);
    text[LO_MOST] = '\0';
    put(w, 0x0008103E, "LO", text);
}

// Two pixels a word; PS3.5 8.1.1 and annex A.2.
static void put_pixels(struct writing *w)
{
    enum { N_WORDS = NOTICE_ROWS * NOTICE_COLUMNS / 2 };
    uint16_t *words = malloc(N_WORDS * sizeof *words);
    if (w->rc == 0 && words == NULL)
        w->rc = fault_set(w->why, FAULT_NO_MEMORY, "cannot hold the pixels of a notice");
    for (size_t i = 0; words != NULL && i < N_WORDS; i++) {
        unsigned low = (unsigned)lrintf(fminf(fmaxf(w->request->pixels[2 * i], 0), 255)),
                 high = (unsigned)lrintf(fminf(fmaxf(w->request->pixels[2 * i + 1], 0), 255));
        words[i] = (uint16_t)(low | high << 8);
    }
    put_short(w, 0x00280002, 1);
    put(w, 0x00280004, "CS", "MONOCHROME2");
    put_short(w, 0x00280010, NOTICE_ROWS);
    put_short(w, 0x00280011, NOTICE_COLUMNS);
    put_short(w, 0x00280100, 8);
    put_short(w, 0x00280101, 8);
    put_short(w, 0x00280102, 7);
    put_short(w, 0x00280103, 0);
    put(w, 0x00280301, "CS", "NO"); // nothing in it says whose it is
    if (w->rc == 0)
        w->rc = dcm_put_pixels(w->root, words, N_WORDS, w->why);
    free(words);
}

// All of PS3.3 A.8.1.3 that is mandatory, and who says it.
static void build(struct writing *w)
{
    char number[16];
    snprintf(number, sizeof number, "%d", w->series_number);
    copy_patient_and_study(w);
    put(w, 0x00080008, "CS", "DERIVED\\SECONDARY");
    put(w, 0x00080016, "UI", SECONDARY_CAPTURE_STORAGE);
    put(w, 0x00080018, "UI", w->uid);
    put(w, 0x00080060, "CS", "OT");
    put(w, 0x00080064, "CS", "WSD");
    put(w, 0x0020000E, "UI", w->series_uid);
    put(w, 0x00200011, "IS", number);
    put(w, 0x00200013, "IS", "1");
    put(w, 0x00200020, "CS", "");
    put_times(w);
    put_equipment(w);
    put_comments(w);
    put_pixels(w);
}

static int find_uids(struct writing *w)
{
    char *name = NULL;
    if (asprintf(&name, "isoslice/notice/1|%s|%s|%d|%s|%s", derive_or_empty(w->request->site_id),
                 w->item->series_uid, w->item->stack_index, w->request->code, w->request->sentence) < 0)
        return fault_set(w->why, FAULT_NO_MEMORY, "cannot hold the name of a notice");
    int rc = uid_from_name(name, w->series_uid, w->why);
    free(name);
    return rc == 0 ? derive_image_uid(w->series_uid, 0, w->uid, w->why) : rc;
}

int notice_write(const struct notice_request *request, struct derive_result *result, struct fault_note *why)
{
    struct writing w = {.request = request, .item = source_item(request->source, request->item), .why = why};
    struct dcm_object *header = NULL;
    void *dataset = NULL;
    size_t size = 0;
    if (w.item == NULL || request->code == NULL || request->sentence == NULL || request->pixels == NULL ||
        request->directory == NULL)
        return fault_set(why, FAULT_INTERNAL, "a request for a notice is not complete");
    int rc = source_parse_first(request->source, request->item, &header, why);
    if (rc == 0)
        rc = find_uids(&w);
    if (rc == 0)
        rc = dcm_object_new(&w.made, why);
    if (rc == 0) {
        w.source = dcm_root(header);
        w.root = dcm_root(w.made);
        w.series_number = derive_number(w.source, request->number_offset, w.item->stack_index, PLACE);
        build(&w);
        rc = w.rc;
    }
    if (rc == 0)
        rc = dcm_object_encode(w.made, &dataset, &size, why);
    if (rc == 0)
        rc = object_file_write(request->directory, "IM0001.dcm", SECONDARY_CAPTURE_STORAGE, w.uid, dataset,
                               size, why);
    if (rc == 0)
        rc = file_sync_directory(request->directory, why);
    if (rc == 0) {
        *result = (struct derive_result){.n_objects = 1, .series_number = w.series_number};
        memcpy(result->series_uid, w.series_uid, UID_SIZE);
    }
    free(dataset);
    dcm_object_free(w.made);
    dcm_object_free(header);
    return rc;
}
