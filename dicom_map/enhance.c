// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/enhance.h"

#include "dicom_map/anatomy.h"
#include "dicom_map/attributes.h"
#include "dicom_map/number.h"
#include "dicom_map/object_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHARED_GROUPS = 0x52009229, FRAME_GROUPS = 0x52009230, STACK_ID = 0x00209056, IN_STACK = 0x00209057 };

static const char image_type[] = "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED";

// Where values of the classic form go. Group 0: at top level, under another tag.
static const struct {
    uint32_t classic, group, tag;
    char vr[3];
} places[] = {
    {0x00180050, 0x00289110, 0x00180050, "DS"}, // Pixel Measures: Slice Thickness
    {0x00180088, 0x00289110, 0x00180088, "DS"}, // Spacing Between Slices
    {0x00280030, 0x00289110, 0x00280030, "DS"}, // Pixel Spacing
    {0x00200037, 0x00209116, 0x00200037, "DS"}, // Plane Orientation
    {0x00281050, 0x00289132, 0x00281050, "DS"}, // Frame VOI LUT: Window Center
    {0x00281051, 0x00289132, 0x00281051, "DS"}, // Window Width
    {0x00180081, 0x00189114, 0x00189082, "FD"}, // MR Echo: Effective Echo Time
    {0x00180083, 0x00189119, 0x00180083, "DS"}, // MR Averages: Number of Averages
    {0x00180085, 0, 0x00189100, "CS"},          // Resonant Nucleus
};

// Further rows of the classic form's table that have no place at top level here: composed below (dates of
// acquisition, derivation, contrast agent, rescale, anatomy), each frame's, of classic MR alone, or of macros
// that want to be whole (MR Timing, MR Modifier, MR Imaging Modifier, MR FOV/Geometry, MR Pulse Sequence):
// they say how frames were acquired, these were not, and classic sources do not say half of what is wanted.
static const uint32_t not_at_top[] = {
    0x00080022, 0x00080032, 0x00081140, 0x00082111, 0x00082112, 0x00089215, 0x00180010, 0x00180012,
    0x00180014, 0x00180020, 0x00180021, 0x00180022, 0x00180023, 0x00180024, 0x00180025, 0x00180080,
    0x00180082, 0x00180084, 0x00180086, 0x00180089, 0x00180091, 0x00180093, 0x00180094, 0x00180095,
    0x00181040, 0x00181041, 0x00181042, 0x00181043, 0x00181044, 0x00181046, 0x00181047, 0x00181048,
    0x00181049, 0x00181310, 0x00181312, 0x00181314, 0x00181316, 0x00200032, 0x00200060, 0x00201041,
    0x00281052, 0x00281053, 0x00281054, 0x00409096,
};

struct enhancement {
    const struct enhance *facts;
    struct dcm_item *root, *shared;
    struct fault_note *why;
    int rc; // the first failure of a put
};

// The put functions do nothing after a failure, so that building reads as a list.
static void put(struct enhancement *e, struct dcm_item *to, uint32_t tag, const char *vr, const char *text)
{
    if (e->rc == 0)
        e->rc = dcm_put_text(to, tag, vr, text, e->why);
}

static void put_number(struct enhancement *e, struct dcm_item *to, uint32_t tag, const char *vr, double value)
{
    if (e->rc == 0)
        e->rc = dcm_put_numbers(to, tag, vr, &value, 1, e->why);
}

static void put_tag(struct enhancement *e, struct dcm_item *to, uint32_t tag, uint32_t value)
{
    if (e->rc == 0)
        e->rc = dcm_put_tag(to, tag, value, e->why);
}

static struct dcm_item *add_item(struct enhancement *e, struct dcm_item *to, uint32_t tag)
{
    struct dcm_item *item = NULL;
    if (e->rc == 0)
        e->rc = dcm_add_item(to, tag, &item, e->why);
    return item;
}

static void put_code(struct enhancement *e, struct dcm_item *to, uint32_t tag, const char *value,
                     const char *scheme, const char *meaning)
{
    struct dcm_item *code = add_item(e, to, tag);
    put(e, code, 0x00080100, "SH", value);
    put(e, code, 0x00080102, "SH", scheme);
    put(e, code, 0x00080104, "LO", meaning);
}

static void copy(struct enhancement *e, struct dcm_item *to, uint32_t tag)
{
    if (e->rc == 0)
        e->rc = dcm_copy(to, e->facts->classic, tag, e->why);
}

// The shared item of a functional group, made when it is not there.
static struct dcm_item *group(struct enhancement *e, uint32_t macro)
{
    const struct dcm_item *found = dcm_get_item(e->shared, macro, 0);
    return found != NULL ? (struct dcm_item *)found : add_item(e, e->shared, macro);
}

static long get(const struct enhancement *e, uint32_t tag, char *out, size_t size)
{
    return dcm_get_text(e->facts->classic, tag, out, size);
}

// ---- top level

static int is_at_top(uint32_t tag)
{
    for (size_t i = 0; i < sizeof not_at_top / sizeof not_at_top[0]; i++)
        if (not_at_top[i] == tag)
            return 0;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (places[i].classic == tag)
            return 0;
    return 1;
}

static void put_description(struct enhancement *e, struct dcm_item *to)
{
    put(e, to, 0x00089205, "CS", "MONOCHROME");
    put(e, to, 0x00089206, "CS", "VOLUME");
    put(e, to, 0x00089207, "CS", "NONE");
    put(e, to, 0x00089208, "CS", e->facts->complex_component);
    put(e, to, 0x00089209, "CS", e->facts->acquisition_contrast);
}

static void put_acquisition_time(struct enhancement *e)
{
    char date[32], time[32], both[80];
    if (dcm_has(e->facts->classic, 0x0008002A) || get(e, 0x00080022, date, sizeof date) != 8)
        return;
    get(e, 0x00080032, time, sizeof time);
    snprintf(both, sizeof both, "%s%s", date, time);
    put(e, e->root, 0x0008002A, "DT", both);
}

// Every source instance by study and series, which Source Image Sequence asks for.
static void put_evidence(struct enhancement *e)
{
    const struct dcm_item *series = dcm_get_item(e->facts->classic, 0x00081115, 0), *instance;
    char uid[UID_SIZE];
    struct dcm_item *study = add_item(e, e->root, 0x00089154);
    put(e, study, 0x0020000D, "UI", e->facts->study_uid);
    struct dcm_item *listed = add_item(e, study, 0x00081115);
    dcm_get_text(series, 0x0020000E, uid, sizeof uid);
    put(e, listed, 0x0020000E, "UI", uid);
    for (int i = 0; e->rc == 0 && (instance = dcm_get_item(series, 0x0008114A, i)) != NULL; i++)
        e->rc = dcm_copy_item(listed, 0x00081199, instance, e->why);
}

static void put_dimension(struct enhancement *e, uint32_t pointer, const char *label)
{
    struct dcm_item *index = add_item(e, e->root, 0x00209222);
    put(e, index, 0x00209164, "UI", e->facts->dimensions_uid);
    put_tag(e, index, 0x00209165, pointer);
    put_tag(e, index, 0x00209167, 0x00209111);
    put(e, index, 0x00209421, "LO", label);
}

static void put_top(struct enhancement *e)
{
    char text[64];
    for (size_t i = 0; i < n_attributes; i++)
        if (is_at_top(attributes[i].tag))
            copy(e, e->root, attributes[i].tag);
    put(e, e->root, 0x00080008, "CS", image_type);
    put(e, e->root, 0x00080016, "UI", ENHANCED_MR_IMAGE_STORAGE);
    put(e, e->root, 0x00080018, "UI", e->facts->sop_uid);
    put(e, e->root, 0x00200013, "IS", "1");
    put_description(e, e->root);
    put_acquisition_time(e);
    put_evidence(e);
    // of type 1 here: a source with burned-in annotation is refused, one that is silent about loss has none
    put(e, e->root, 0x00280301, "CS", "NO");
    if (get(e, 0x00282110, text, sizeof text) <= 0)
        put(e, e->root, 0x00282110, "CS", "00");
    if (get(e, 0x00181000, text, sizeof text) <= 0)
        put(e, e->root, 0x00181000, "LO", "UNKNOWN");
    // of the scanner's limits; type 1 for people, and no classic header names it
    put(e, e->root, 0x00189174, "CS", e->facts->safety_agency);
    put(e, e->root, 0x20500020, "CS", "IDENTITY");
    put(e, e->root, 0x00400555, "SQ", "");
    snprintf(text, sizeof text, "%zu", e->facts->n_frames);
    put(e, e->root, 0x00280008, "IS", text);
    put(e, e->root, 0x00209311, "CS", "3D");
    put(e, add_item(e, e->root, 0x00209221), 0x00209164, "UI", e->facts->dimensions_uid);
    put_dimension(e, STACK_ID, "Stack ID");
    put_dimension(e, IN_STACK, "In-Stack Position Number");
}

// ---- groups that all frames share

static void put_place(struct enhancement *e, size_t i)
{
    char text[256];
    double value = 0;
    if (get(e, places[i].classic, text, sizeof text) <= 0)
        return;
    if (places[i].group == 0) { // a text there, a term here
        if (attribute_is_legal("CS", text))
            put(e, e->root, places[i].tag, places[i].vr, text);
    } else if (strcmp(places[i].vr, "FD") != 0) {
        put(e, group(e, places[i].group), places[i].tag, places[i].vr, text);
    } else if (number_at(text, 0, &value)) {
        put_number(e, group(e, places[i].group), places[i].tag, places[i].vr, value);
    }
}

// A part of the body, where nothing says which, or the table has no code of it.
static void put_anatomy(struct enhancement *e)
{
    char scheme[32] = "", code[32] = "", text[64];
    const struct dcm_item *known = e->facts->anatomy, *kept = dcm_get_item(known, 0x00082218, 0);
    dcm_get_text(kept, 0x00080102, scheme, sizeof scheme);
    dcm_get_text(kept, 0x00080100, code, sizeof code);
    get(e, 0x00180015, text, sizeof text);
    const struct anatomy *region = known != NULL ? anatomy_of_code(scheme, code) : anatomy_of_body_part(text);
    if (known != NULL && region == NULL) {
        if (e->rc == 0)
            e->rc = dcm_copy_item(e->shared, 0x00209071, known, e->why);
        return;
    }
    struct dcm_item *to = add_item(e, e->shared, 0x00209071);
    if (region != NULL)
        put_code(e, to, 0x00082218, region->code, "SCT", region->meaning);
    else
        put_code(e, to, 0x00082218, "123037004", "SCT", "Anatomical Structure");
    get(e, 0x00200060, text, sizeof text);
    if (known != NULL)
        dcm_get_text(known, 0x00209072, text, sizeof text);
    int is_side = strcmp(text, "R") == 0 || strcmp(text, "L") == 0 || strcmp(text, "B") == 0;
    put(e, to, 0x00209072, "CS", is_side ? text : "U");
}

static void put_pixel_value(struct enhancement *e)
{
    // PS3.3 C.11.1.1.2; what vendors call their units besides is unspecified here
    static const char units[] = " OD HU US MGML Z_EFF ED EDW HU_MOD PCT ";
    char text[80], unit[80];
    struct dcm_item *to = add_item(e, e->shared, 0x00289145);
    put(e, to, 0x00281052, "DS", get(e, 0x00281052, text, sizeof text) > 0 ? text : "0");
    put(e, to, 0x00281053, "DS", get(e, 0x00281053, text, sizeof text) > 0 ? text : "1");
    get(e, 0x00281054, text, sizeof text);
    snprintf(unit, sizeof unit, " %.64s ", text);
    put(e, to, 0x00281054, "LO", strlen(unit) > 2 && strstr(units, unit) != NULL ? text : "US");
}

static void put_derivation(struct enhancement *e)
{
    struct dcm_item *to = add_item(e, e->shared, 0x00089124);
    copy(e, to, 0x00082111);
    copy(e, to, 0x00089215);
    copy(e, to, 0x00082112);
}

// An agent whose code the source has, or one with no more to say of it than that there was one: its name is a
// text in classic MR.
static void put_contrast(struct enhancement *e)
{
    char text[80];
    const struct dcm_item *known = dcm_get_item(e->facts->classic, 0x00180012, 0);
    const struct dcm_item *route = dcm_get_item(e->facts->classic, 0x00180014, 0);
    if (known == NULL && get(e, 0x00180010, text, sizeof text) <= 0)
        return;
    struct dcm_item *agent = add_item(e, e->root, 0x00180012);
    static const uint32_t parts[] = {0x00080100, 0x00080102, 0x00080104};
    static const char *const vrs[] = {"SH", "SH", "LO"}, *const others[] = {"7140000", "SCT",
                                                                            "Contrast agent"};
    int is_coded = dcm_has(known, parts[0]) && dcm_has(known, parts[1]) && dcm_has(known, parts[2]);
    for (int i = 0; i < 3 && e->rc == 0; i++)
        if (is_coded)
            e->rc = dcm_copy(agent, known, parts[i], e->why);
        else
            put(e, agent, parts[i], vrs[i], others[i]);
    put_number(e, agent, 0x00189337, "US", 1);
    if (route != NULL && e->rc == 0)
        e->rc = dcm_copy_item(agent, 0x00180014, route, e->why);
    else
        put_code(e, agent, 0x00180014, "261665006", "SCT", "Unknown");
    put(e, agent, 0x00189338, "SQ", "");
    put(e, agent, 0x00181041, "DS", get(e, 0x00181041, text, sizeof text) > 0 ? text : "");
    put(e, agent, 0x00181049, "DS", get(e, 0x00181049, text, sizeof text) > 0 ? text : "");
    struct dcm_item *usage = add_item(e, e->shared, 0x00189341);
    put_number(e, usage, 0x00189337, "US", 1);
    put(e, usage, 0x00189342, "CS", "YES");
    put(e, usage, 0x00189343, "CS", "");
}

static void put_shared(struct enhancement *e)
{
    e->shared = add_item(e, e->root, SHARED_GROUPS);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        put_place(e, i);
    struct dcm_item *type = add_item(e, e->shared, 0x00189226);
    put(e, type, 0x00089007, "CS", image_type);
    put_description(e, type);
    put_anatomy(e);
    put_pixel_value(e);
    put_derivation(e);
    put_contrast(e);
    copy(e, e->shared, 0x00409096);
}

int enhance_common(struct dcm_item *root, const struct enhance *enhance, struct fault_note *why)
{
    struct enhancement e = {.facts = enhance, .root = root, .why = why};
    put_top(&e);
    put_shared(&e);
    return e.rc;
}

// ---- groups of one frame

int enhance_add_frame(struct dcm_item *root, size_t number, const char *position, struct fault_note *why)
{
    struct enhancement e = {.root = root, .why = why};
    const double index[] = {1, (double)number};
    struct dcm_item *frame = add_item(&e, root, FRAME_GROUPS);
    struct dcm_item *content = add_item(&e, frame, 0x00209111);
    put(&e, content, STACK_ID, "SH", "1");
    put_number(&e, content, IN_STACK, "UL", (double)number);
    if (e.rc == 0)
        e.rc = dcm_put_numbers(content, 0x00209157, "UL", index, 2, why);
    put(&e, add_item(&e, frame, 0x00209113), 0x00200032, "DS", position);
    return e.rc;
}
