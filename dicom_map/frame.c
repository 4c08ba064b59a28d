// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/frame.h"

#include "dicom_map/anatomy.h"
#include "dicom_map/attributes.h"
#include "dicom_map/number.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { DS_DIGITS = 10, MAX_AGENTS = 16, PIXEL_DATA = 0x7FE00010 };

enum { SHARED_GROUPS = 0x52009229, FRAME_GROUPS = 0x52009230 };

// Where Enhanced MR keeps what classic MR has at top level; macro 0: at top level under another tag.
static const struct {
    uint32_t classic, macro, tag;
} places[] = {
    {0x00080008, 0x00189226, 0x00089007}, // Image Type: Frame Type
    {0x0008002A, 0x00209111, 0x00189074}, // Acquisition DateTime: Frame Acquisition DateTime
    {0x00089208, 0x00189226, 0x00089208}, // Complex Image Component
    {0x00180024, 0, 0x00189005},          // Sequence Name: Pulse Sequence Name
    {0x00180050, 0x00289110, 0x00180050}, // Slice Thickness
    {0x00180080, 0x00189112, 0x00180080}, // Repetition Time
    {0x00180081, 0x00189114, 0x00189082}, // Echo Time: Effective Echo Time
    {0x00180082, 0x00189115, 0x00189079}, // Inversion Time: Inversion Times
    {0x00180083, 0x00189119, 0x00180083}, // Number of Averages
    {0x00180084, 0x00189006, 0x00189098}, // Imaging Frequency: Transmitter Frequency
    {0x00180085, 0, 0x00189100},          // Imaged Nucleus: Resonant Nucleus
    {0x00180088, 0x00289110, 0x00180088}, // Spacing Between Slices
    {0x00180089, 0x00189125, 0x00189231}, // Number of Phase Encoding Steps: ... in-plane
    {0x00180091, 0x00189112, 0x00180091}, // Echo Train Length
    {0x00180091, 0x00189112, 0x00189240}, // the same: RF Echo Train Length
    {0x00180093, 0x00189125, 0x00180093}, // Percent Sampling
    {0x00180094, 0x00189125, 0x00180094}, // Percent Phase Field of View
    {0x00180095, 0x00189006, 0x00180095}, // Pixel Bandwidth
    {0x00181060, 0x00189118, 0x00209153}, // Trigger Time: Nominal Cardiac Trigger Delay Time
    {0x00181312, 0x00189125, 0x00181312}, // In-plane Phase Encoding Direction
    {0x00181314, 0x00189112, 0x00181314}, // Flip Angle
    {0x00189087, 0x00189117, 0x00189087}, // Diffusion b-value
    {0x00200012, 0x00209111, 0x00209156}, // Acquisition Number: Frame Acquisition Number
    {0x00200032, 0x00209113, 0x00200032}, // Image Position (Patient)
    {0x00200037, 0x00209116, 0x00200037}, // Image Orientation (Patient)
    {0x00200100, 0x00209111, 0x00209128}, // Temporal Position Identifier: Temporal Position Index
    {0x00280030, 0x00289110, 0x00280030}, // Pixel Spacing
    {0x00281050, 0x00289132, 0x00281050}, // Window Center
    {0x00281051, 0x00289132, 0x00281051}, // Window Width
    {0x00281052, 0x00289145, 0x00281052}, // Rescale Intercept
    {0x00281053, 0x00289145, 0x00281053}, // Rescale Slope
    {0x00281054, 0x00289145, 0x00281054}, // Rescale Type
};

void frame_view_init(struct frame_view *view, const struct dcm_object *object, int frame)
{
    const struct dcm_item *root = dcm_root(object);
    view->root = root;
    view->frame = dcm_get_item(root, FRAME_GROUPS, frame);
    view->shared = dcm_get_item(root, SHARED_GROUPS, 0);
    view->converted = dcm_get_item(view->frame, 0x00209171, 0);
    view->shared_converted = dcm_get_item(view->shared, 0x00209170, 0);
}

const struct dcm_item *frame_group(const struct frame_view *view, uint32_t macro)
{
    const struct dcm_item *found = dcm_get_item(view->frame, macro, 0);
    return found != NULL ? found : dcm_get_item(view->shared, macro, 0);
}

static int has_value(const struct dcm_item *item, uint32_t tag)
{
    char text[8];
    double number = 0;
    return dcm_get_text(item, tag, text, sizeof text) > 0 || dcm_get_number(item, tag, 0, &number) ||
           dcm_get_item(item, tag, 0) != NULL;
}

int frame_find(const struct frame_view *view, uint32_t classic, const struct dcm_item **item, uint32_t *tag)
{
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (places[i].classic != classic)
            continue;
        *item = places[i].macro != 0 ? frame_group(view, places[i].macro) : view->root;
        *tag = places[i].tag;
        if (has_value(*item, *tag))
            return 1;
    }
    if (classic == 0x00200032 || classic == 0x00200037 || classic == 0x00280030)
        return 0;
    // a sequence that is a functional group itself stands in the groups under its own tag
    const struct dcm_item *others[] = {view->frame, view->shared, view->converted, view->shared_converted,
                                       view->root};
    *tag = classic;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        *item = others[i];
        if (has_value(*item, classic))
            return 1;
    }
    return 0;
}

// ---- terms of the pulse sequence

// A text of the groups of the modifiers, of those of the pulse sequence at top level.
static void get_term(const struct frame_view *view, uint32_t macro, uint32_t tag, char *out, size_t size)
{
    const struct dcm_item *group = macro != 0 ? frame_group(view, macro) : NULL;
    if (dcm_get_text(group, tag, out, size) <= 0)
        dcm_get_text(view->root, tag, out, size);
}

static int is_term(const struct frame_view *view, uint32_t macro, uint32_t tag, const char *term)
{
    char text[64];
    get_term(view, macro, tag, text, sizeof text);
    return strcmp(text, term) == 0;
}

// 1 for any value but NONE, NO and nothing.
static int is_applied(const struct frame_view *view, uint32_t macro, uint32_t tag)
{
    char text[64];
    get_term(view, macro, tag, text, sizeof text);
    return text[0] != '\0' && strcmp(text, "NONE") != 0 && strcmp(text, "NO") != 0;
}

static void add(char *out, size_t size, int condition, const char *term)
{
    size_t n = strlen(out);
    if (condition)
        snprintf(out + n, size - n, "%s%s", n > 0 ? "\\" : "", term);
}

enum { PULSE_SEQUENCE = 0, MODIFIER = 0x00189115, IMAGING_MODIFIER = 0x00189006 };

static int is_described(const struct frame_view *view)
{
    char text[64];
    get_term(view, PULSE_SEQUENCE, 0x00189008, text, sizeof text);
    return strcmp(text, "SPIN") == 0 || strcmp(text, "GRADIENT") == 0 || strcmp(text, "BOTH") == 0;
}

int frame_scanning_sequence(const struct frame_view *view, char *out, size_t size)
{
    const struct dcm_item *item = NULL;
    uint32_t tag = 0;
    out[0] = '\0';
    if (!is_described(view))
        return frame_find(view, 0x00180020, &item, &tag) && dcm_get_text(item, tag, out, size) > 0;
    int both = is_term(view, PULSE_SEQUENCE, 0x00189008, "BOTH");
    add(out, size, both || is_term(view, PULSE_SEQUENCE, 0x00189008, "SPIN"), "SE");
    add(out, size, is_term(view, MODIFIER, 0x00189009, "YES"), "IR");
    add(out, size, both || is_term(view, PULSE_SEQUENCE, 0x00189008, "GRADIENT"), "GR");
    add(out, size, is_term(view, PULSE_SEQUENCE, 0x00189018, "YES"), "EP");
    return 1;
}

static void sequence_variant(const struct frame_view *view, char *out, size_t size)
{
    int reversed = is_term(view, PULSE_SEQUENCE, 0x00189017, "TIME_REVERSED");
    out[0] = '\0';
    add(out, size, is_term(view, PULSE_SEQUENCE, 0x00189033, "PARTIAL"), "SK");
    add(out, size, is_applied(view, IMAGING_MODIFIER, 0x00189020), "MTC");
    add(out, size, !reversed && is_applied(view, PULSE_SEQUENCE, 0x00189017), "SS");
    add(out, size, reversed, "TRSS");
    add(out, size, is_applied(view, MODIFIER, 0x00189016), "SP");
    add(out, size, is_term(view, MODIFIER, 0x00189021, "YES"), "MP");
    add(out, size, is_applied(view, PULSE_SEQUENCE, 0x00189029), "OSP");
    add(out, size, out[0] == '\0', "NONE");
}

static void scan_options(const struct frame_view *view, char *out, size_t size)
{
    int partial = is_term(view, MODIFIER, 0x00189081, "YES");
    int both = is_term(view, MODIFIER, 0x00189036, "COMBINATION");
    char suppressed[64];
    out[0] = '\0';
    add(out, size, is_applied(view, MODIFIER, 0x00189010), "FC");
    add(out, size, partial && (both || is_term(view, MODIFIER, 0x00189036, "FREQUENCY")), "PFF");
    add(out, size, partial && (both || is_term(view, MODIFIER, 0x00189036, "PHASE")), "PFP");
    add(out, size, is_applied(view, MODIFIER, 0x00189027), "SP");
    get_term(view, PULSE_SEQUENCE, 0x00189025, suppressed, sizeof suppressed);
    add(out, size, strncmp(suppressed, "FAT", 3) == 0, "FS");
}

void frame_contrast_agent(const struct frame_view *view, char *out, size_t size)
{
    const struct dcm_item *item = NULL, *usage = frame_group(view, 0x00189341);
    uint32_t tag = 0;
    char name[64];
    dcm_get_text(usage, 0x00189342, out, size);
    if (strcmp(out, "NO") == 0) {
        out[0] = '\0';
        return;
    }
    out[0] = '\0';
    if (frame_find(view, 0x00180010, &item, &tag)) {
        dcm_get_text(item, tag, out, size);
        return;
    }
    for (int i = 0; i < MAX_AGENTS && (item = dcm_get_item(view->root, 0x00180012, i)) != NULL; i++)
        if (dcm_get_text(item, 0x00080104, name, sizeof name) > 0 && strlen(out) + strlen(name) + 3 < size)
            snprintf(out + strlen(out), size - strlen(out), "%s%s", out[0] != '\0' ? ", " : "", name);
}

// ---- the header

// A value that stands under another tag, and may be of another VR there.
static int put_converted(struct dcm_item *to, const struct attribute *attribute, const struct dcm_item *item,
                         uint32_t tag, struct fault_note *why)
{
    char text[256];
    double number = 0;
    if (dcm_get_text(item, tag, text, sizeof text) > 0) {
        if (attribute->tag == 0x00181312 && strncmp(text, "COL", 3) == 0)
            snprintf(text, sizeof text, "COL");
        else if (attribute->tag == 0x00181312 && strcmp(text, "ROW") != 0)
            return 0; // OTHER is for Enhanced MR alone
        return dcm_put_text(to, attribute->tag, attribute->vr, text, why);
    }
    if (!dcm_get_number(item, tag, 0, &number) || !isfinite(number))
        return 0;
    if (strcmp(attribute->vr, "IS") != 0) {
        number_ds(number, DS_DIGITS, text);
    } else {
        if (fabs(number) > 2147483647.0 || number != floor(number))
            return 0;
        snprintf(text, sizeof text, "%.0f", number);
    }
    return dcm_put_text(to, attribute->tag, attribute->vr, text, why);
}

static int put_pulse_sequence(struct dcm_item *to, const struct frame_view *view, struct fault_note *why)
{
    char text[128];
    if (!is_described(view)) // what a conversion kept has been copied
        return 0;
    frame_scanning_sequence(view, text, sizeof text);
    int rc = dcm_put_text(to, 0x00180020, "CS", text, why);
    sequence_variant(view, text, sizeof text);
    if (rc == 0)
        rc = dcm_put_text(to, 0x00180021, "CS", text, why);
    scan_options(view, text, sizeof text);
    return rc == 0 ? dcm_put_text(to, 0x00180022, "CS", text, why) : rc;
}

// Acquisition Date and Time of the frame, not of the object.
static int put_acquisition(struct dcm_item *to, const struct frame_view *view, struct fault_note *why)
{
    char text[64], date[9];
    const struct dcm_item *content = frame_group(view, 0x00209111);
    long n = dcm_get_text(content, 0x00189074, text, sizeof text);
    if (n < 14 || strspn(text, "0123456789") < 14)
        return 0;
    snprintf(date, sizeof date, "%.8s", text);
    text[8 + strspn(text + 8, "0123456789.")] = '\0'; // without the offset from UTC
    int rc = dcm_put_text(to, 0x00080022, "DA", date, why);
    return rc == 0 ? dcm_put_text(to, 0x00080032, "TM", text + 8, why) : rc;
}

// Specific Absorption Rate of the whole body.
static int put_sar(struct dcm_item *to, const struct frame_view *view, struct fault_note *why)
{
    const struct dcm_item *timing = frame_group(view, 0x00189112), *item = NULL;
    char text[64];
    double value = 0;
    for (int i = 0; i < MAX_AGENTS && (item = dcm_get_item(timing, 0x00189239, i)) != NULL; i++) {
        dcm_get_text(item, 0x00189179, text, sizeof text);
        if (strcmp(text, "IEC_WHOLE_BODY") != 0 || !dcm_get_number(item, 0x00189181, 0, &value) ||
            !isfinite(value))
            continue;
        number_ds(value, DS_DIGITS, text);
        return dcm_put_text(to, 0x00181316, "DS", text, why);
    }
    return 0;
}

// Frequency rows, frequency columns, phase rows, phase columns; two of them are zero. Which, scanners agree
// on: phase encoded along rows, the second and third are not.
static int put_matrix(struct dcm_item *to, const struct frame_view *view, struct fault_note *why)
{
    const struct dcm_item *geometry = frame_group(view, 0x00189125);
    char direction[32];
    double frequency = 0, phase = 0;
    dcm_get_text(geometry, 0x00181312, direction, sizeof direction);
    int by_rows = strcmp(direction, "ROW") == 0;
    if ((!by_rows && strcmp(direction, "COLUMN") != 0) ||
        !dcm_get_number(geometry, 0x00189058, 0, &frequency) ||
        !dcm_get_number(geometry, 0x00189231, 0, &phase) || has_value(to, 0x00181310))
        return 0;
    const double four[] = {by_rows ? 0 : frequency, by_rows ? frequency : 0, by_rows ? phase : 0,
                           by_rows ? 0 : phase};
    return dcm_put_numbers(to, 0x00181310, "US", four, 4, why);
}

// Where Effective Echo Time is a dimension, its index is the echo's number.
static int put_echo_number(struct dcm_item *to, const struct frame_view *view, struct fault_note *why)
{
    const struct dcm_item *dimension = NULL, *content = frame_group(view, 0x00209111);
    uint32_t pointer = 0;
    double number = 0;
    char text[32];
    for (int i = 0; (dimension = dcm_get_item(view->root, 0x00209222, i)) != NULL; i++) {
        if (!dcm_get_tag(dimension, 0x00209165, &pointer) || pointer != 0x00189082 ||
            !dcm_get_number(content, 0x00209157, i, &number) || has_value(to, 0x00180086))
            continue;
        snprintf(text, sizeof text, "%.0f", number);
        return dcm_put_text(to, 0x00180086, "IS", text, why);
    }
    return 0;
}

// Anatomic Region as a word, where nothing says it as one.
static int put_body_part(struct dcm_item *to, const struct frame_view *view, struct fault_note *why)
{
    char scheme[32] = "", code[32] = "";
    const struct dcm_item *region = dcm_get_item(frame_group(view, 0x00209071), 0x00082218, 0);
    dcm_get_text(region, 0x00080102, scheme, sizeof scheme);
    dcm_get_text(region, 0x00080100, code, sizeof code);
    const struct anatomy *known = anatomy_of_code(scheme, code);
    return known != NULL && !has_value(to, 0x00180015)
               ? dcm_put_text(to, 0x00180015, "CS", known->body_part, why)
               : 0;
}

// What is not one value in one place.
static int put_composed(struct dcm_item *to, const struct frame_view *view, struct fault_note *why)
{
    char text[256];
    int rc = put_pulse_sequence(to, view, why);
    if (rc == 0)
        rc = put_acquisition(to, view, why);
    if (rc == 0)
        rc = put_sar(to, view, why);
    if (rc == 0)
        rc = put_matrix(to, view, why);
    if (rc == 0)
        rc = put_echo_number(to, view, why);
    if (rc == 0)
        rc = put_body_part(to, view, why);
    dcm_get_text(frame_group(view, 0x00209071), 0x00209072, text, sizeof text);
    if (rc == 0 && !has_value(to, 0x00200060) && (strcmp(text, "R") == 0 || strcmp(text, "L") == 0))
        rc = dcm_put_text(to, 0x00200060, "CS", text, why);
    // items of Enhanced MR's agents hold more than those of classic MR may
    frame_contrast_agent(view, text, 65);
    if (rc == 0)
        rc = dcm_remove(to, 0x00180012, why);
    if (rc == 0 && text[0] != '\0')
        rc = dcm_put_text(to, 0x00180010, "LO", text, why);
    else if (rc == 0)
        rc = dcm_remove(to, 0x00180010, why);
    return rc;
}

// What classic MR has no attribute for, and a new Enhanced MR object wants again.
static int put_kept(struct dcm_item *to, const struct frame_view *view, struct fault_note *why)
{
    // Complex Image Component, Acquisition Contrast, Applicable Safety Standard Agency
    static const uint32_t terms[] = {0x00089208, 0x00089209, 0x00189174};
    const struct dcm_item *type = frame_group(view, 0x00189226), *anatomy = frame_group(view, 0x00209071);
    int rc = anatomy != NULL ? dcm_copy_item(to, 0x00209071, anatomy, why) : 0;
    for (int i = 0; rc == 0 && i < 3; i++)
        rc = dcm_copy(to, has_value(type, terms[i]) ? type : view->root, terms[i], why);
    return rc;
}

int frame_flatten(const struct dcm_object *object, int frame, struct dcm_object **classic,
                  struct fault_note *why)
{
    struct frame_view view;
    struct dcm_object *made = NULL;
    frame_view_init(&view, object, frame);
    int rc = dcm_object_new(&made, why);
    for (size_t i = 0; rc == 0 && i < n_attributes; i++) {
        const struct attribute *attribute = &attributes[i];
        const struct dcm_item *item = NULL;
        uint32_t tag = 0;
        if (attribute->rule == ATTRIBUTE_NEVER || attribute->tag == PIXEL_DATA)
            continue;
        if (!frame_find(&view, attribute->tag, &item, &tag))
            rc = dcm_copy(dcm_root(made), view.root, attribute->tag, why); // an empty one, if at all
        else if (tag == attribute->tag && tag != 0x00181312)
            rc = dcm_copy(dcm_root(made), item, tag, why);
        else
            rc = put_converted(dcm_root(made), attribute, item, tag, why);
    }
    if (rc == 0)
        rc = put_composed(dcm_root(made), &view, why);
    if (rc == 0)
        rc = put_kept(dcm_root(made), &view, why);
    if (rc != 0) {
        dcm_object_free(made);
        return rc;
    }
    *classic = made;
    return 0;
}
