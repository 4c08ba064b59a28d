// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/prescan.h"

#include "core/file.h"
#include "dicom_map/number.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PREAMBLE = 128, MAX_FRAMES = 1000000, BOMB_BYTES = 64 << 20, BOMB_RATIO = 1000 };
static const uint32_t UNDEFINED = 0xFFFFFFFFu;

enum tag {
    TAG_ITEM = 0xFFFEE000,
    TAG_ITEM_END = 0xFFFEE00D,
    TAG_SEQUENCE_END = 0xFFFEE0DD,
    TAG_PIXEL_DATA = 0x7FE00010,
};

// What we are inside of. A guess is an element of known length whose VR is not told (implicit VR, or UN) and
// whose value begins like a sequence: a library with a dictionary may descend into it, so its nesting counts,
// but a value that only looks like a sequence must not condemn the object.
enum level_kind { LEVEL_ELEMENTS, LEVEL_SEQUENCE, LEVEL_FRAGMENTS };

struct level {
    size_t end; // one past its last byte; the parent's end when the length is undefined
    enum level_kind kind;
    int undefined;
    int explicit_vr;
    int guess;
    uint32_t n_items;
};

struct walk {
    const uint8_t *data;
    size_t size;
    size_t at;
    struct level levels[2 + 2 * PRESCAN_MAX_DEPTH];
    int top;
    int depth; // sequences among the levels
    uint32_t n_elements;
    uint32_t last_tag; // at top level
    int encapsulated;
    uint64_t pixel_bytes; // length of native pixel data, or of all fragments
    int seen_dimensions;  // one bit each: rows, columns, bits
    double position[3], orientation[6];
    int seen_plane; // one bit each: position, orientation
    struct prescan *out;
    struct fault_note *why;
};

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint32_t get_tag(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

// 2 or 4 bytes of length field; 0 when the VR is not one of PS3.5 section 6.2.
static int vr_length_size(const uint8_t *vr)
{
    static const char small[] = "AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US ";
    static const char large[] = "OB OD OF OL OV OW SQ SV UC UN UR UT UV ";
    for (const char *p = small; *p != '\0'; p += 3)
        if (p[0] == (char)vr[0] && p[1] == (char)vr[1])
            return 2;
    for (const char *p = large; *p != '\0'; p += 3)
        if (p[0] == (char)vr[0] && p[1] == (char)vr[1])
            return 4;
    return 0;
}

struct element {
    uint32_t tag;
    char vr[3]; // empty in implicit VR
    uint32_t length;
    size_t value; // where it begins
};

// Reads tag, VR and length at `at`, all inside `end`.
static int read_element(const uint8_t *data, size_t at, size_t end, int explicit_vr, struct element *e,
                        struct fault_note *why)
{
    if (end - at < 8)
        return fault_set(why, FAULT_TRUNCATED, "the object ends inside an element header at byte %zu of %zu",
                         at, end);
    e->tag = get_tag(data + at);
    e->vr[0] = '\0';
    if (!explicit_vr || e->tag >> 16 == 0xFFFE) {
        e->length = get32(data + at + 4);
        e->value = at + 8;
        return 0;
    }
    int size = vr_length_size(data + at + 4);
    if (size == 0)
        return fault_set(why, FAULT_BAD_HEADER,
                         "element (%04x,%04x) at byte %zu has an unknown VR 0x%02x%02x", e->tag >> 16,
                         e->tag & 0xFFFF, at, data[at + 4], data[at + 5]);
    memcpy(e->vr, data + at + 4, 2);
    e->vr[2] = '\0';
    if (size == 2) {
        e->length = get16(data + at + 6);
        e->value = at + 8;
        return 0;
    }
    if (end - at < 12)
        return fault_set(why, FAULT_TRUNCATED, "the object ends inside an element header at byte %zu of %zu",
                         at, end);
    e->length = get32(data + at + 8);
    e->value = at + 12;
    return 0;
}

static int check_length(const struct walk *w, const struct element *e, size_t end)
{
    if (e->length <= end - e->value)
        return 0;
    if (end == w->size)
        return fault_set(w->why, FAULT_TRUNCATED,
                         "element (%04x,%04x) at byte %zu is %u bytes long, but only %zu are left",
                         e->tag >> 16, e->tag & 0xFFFF, e->value, e->length, end - e->value);
    return fault_set(w->why, FAULT_BAD_HEADER,
                     "element (%04x,%04x) at byte %zu is %u bytes long, its parent has only %zu left",
                     e->tag >> 16, e->tag & 0xFFFF, e->value, e->length, end - e->value);
}

static void copy_text(char *out, size_t size, const uint8_t *value, size_t length)
{
    while (length > 0 && (value[length - 1] == '\0' || value[length - 1] == ' '))
        length--;
    while (length > 0 && *value == ' ')
        value++, length--;
    if (length >= size)
        length = size - 1;
    memcpy(out, value, length);
    for (size_t i = 0; i < length; i++)
        if (value[i] < 0x20 || value[i] >= 0x7F)
            out[i] = '?';
    out[length] = '\0';
}

// A UID's text goes out only when it is one: nothing from the wire becomes a file name by accident.
static int copy_uid(const struct walk *w, char out[UID_SIZE], const struct element *e)
{
    char text[UID_SIZE];
    const uint8_t *value = w->data + e->value;
    size_t length = e->length;
    while (length > 0 && (value[length - 1] == '\0' || value[length - 1] == ' '))
        length--;
    int fits = length < sizeof text && memchr(value, '\0', length) == NULL;
    if (fits) {
        memcpy(text, value, length);
        text[length] = '\0';
    }
    if (!fits || !uid_is_valid(text))
        return fault_set(w->why, FAULT_BAD_UID, "element (%04x,%04x) of %u bytes is not a valid UID",
                         e->tag >> 16, e->tag & 0xFFFF, e->length);
    memcpy(out, text, length + 1);
    return 0;
}

static int get_us(const struct walk *w, const struct element *e, uint32_t *out)
{
    if ((e->vr[0] != '\0' && strcmp(e->vr, "US") != 0) || e->length != 2)
        return fault_set(w->why, FAULT_BAD_HEADER,
                         "element (%04x,%04x) is not one US value (%u bytes, VR '%s')", e->tag >> 16,
                         e->tag & 0xFFFF, e->length, e->vr);
    *out = get16(w->data + e->value);
    return 0;
}

static int get_frames(const struct walk *w, const struct element *e)
{
    uint32_t frames = 0;
    char text[16];
    copy_text(text, sizeof text, w->data + e->value, e->length);
    if (text[0] == '\0')
        return 0;
    const char *p = text[0] == '+' ? text + 1 : text;
    for (; *p >= '0' && *p <= '9' && frames <= MAX_FRAMES; p++)
        frames = frames * 10 + (uint32_t)(*p - '0');
    if (*p != '\0' || frames < 1 || frames > MAX_FRAMES)
        return fault_set(w->why, FAULT_BAD_HEADER, "number of frames is not within 1 and %d", MAX_FRAMES);
    w->out->frames = frames;
    return 0;
}

// `n` numbers of a DS or IS element; 1 when all are there.
static int get_numbers(const struct walk *w, const struct element *e, int n, double *out)
{
    char text[128];
    if (e->length >= sizeof text)
        return 0;
    copy_text(text, sizeof text, w->data + e->value, e->length);
    for (int i = 0; i < n; i++)
        if (!number_at(text, i, &out[i]) || fabs(out[i]) > 1e9)
            return 0;
    return 1;
}

static int get_whole(const struct walk *w, const struct element *e, int32_t *out)
{
    double value;
    if (!get_numbers(w, e, 1, &value) || value != floor(value))
        return 0;
    *out = (int32_t)value;
    return 1;
}

// Normal of the image plane and position along it. Source: PS3.3 C.7.6.2.1.1.
static void find_plane(const struct walk *w)
{
    struct prescan *out = w->out;
    const double *row = w->orientation, *column = w->orientation + 3;
    if (w->seen_plane != 3)
        return;
    double normal[3] = {row[1] * column[2] - row[2] * column[1], row[2] * column[0] - row[0] * column[2],
                        row[0] * column[1] - row[1] * column[0]};
    double length = sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]);
    if (!(fabs(length - 1) < 0.01))
        return;
    out->has_plane = 1;
    for (int i = 0; i < 3; i++) {
        out->normal[i] = normal[i] / length;
        out->z_mm += out->normal[i] * w->position[i];
    }
}

static int note_top_level(struct walk *w, const struct element *e)
{
    if (e->length == UNDEFINED)
        return 0;
    switch (e->tag) {
    case 0x00080016:
        return copy_uid(w, w->out->sop_class_uid, e);
    case 0x00080018:
        return copy_uid(w, w->out->sop_instance_uid, e);
    case 0x0020000D:
        return copy_uid(w, w->out->study_uid, e);
    case 0x0020000E:
        return copy_uid(w, w->out->series_uid, e);
    case 0x00200012:
        w->out->has_acquisition = get_whole(w, e, &w->out->acquisition);
        return 0;
    case 0x00200013:
        w->out->has_number = get_whole(w, e, &w->out->number);
        return 0;
    case 0x00200032:
        w->seen_plane |= get_numbers(w, e, 3, w->position);
        return 0;
    case 0x00200037:
        w->seen_plane |= get_numbers(w, e, 6, w->orientation) ? 2 : 0;
        return 0;
    case 0x00201002:
        if (!get_whole(w, e, &w->out->images_in_acquisition) || w->out->images_in_acquisition < 0)
            w->out->images_in_acquisition = 0;
        return 0;
    case 0x00280002:
        return get_us(w, e, &w->out->samples);
    case 0x00280008:
        return get_frames(w, e);
    case 0x00280010:
        w->seen_dimensions |= 1;
        return get_us(w, e, &w->out->rows);
    case 0x00280011:
        w->seen_dimensions |= 2;
        return get_us(w, e, &w->out->columns);
    case 0x00280100:
        w->seen_dimensions |= 4;
        return get_us(w, e, &w->out->bits_allocated);
    default:
        return 0;
    }
}

static int push(struct walk *w, enum level_kind kind, size_t end, int undefined, int explicit_vr, int guess)
{
    if (kind != LEVEL_ELEMENTS && ++w->depth > PRESCAN_MAX_DEPTH)
        return fault_set(w->why, FAULT_BAD_HEADER, "sequences are nested deeper than %d at byte %zu",
                         PRESCAN_MAX_DEPTH, w->at);
    w->levels[++w->top] = (struct level){
        .end = end, .kind = kind, .undefined = undefined, .explicit_vr = explicit_vr, .guess = guess};
    return 0;
}

static void pop(struct walk *w)
{
    if (w->levels[w->top].kind != LEVEL_ELEMENTS)
        w->depth--;
    w->top--;
}

static int only_zeros_follow(const struct walk *w)
{
    for (size_t i = w->at; i < w->size; i++)
        if (w->data[i] != 0)
            return 0;
    return 1;
}

// An element inside a data set or an item.
static int walk_element(struct walk *w)
{
    struct level *level = &w->levels[w->top];
    struct element e = {0};
    int rc = read_element(w->data, w->at, level->end, level->explicit_vr, &e, w->why);
    if (rc != 0)
        return rc;
    if (e.tag == TAG_ITEM_END && level->undefined && w->top > 0) {
        if (e.length != 0)
            return fault_set(w->why, FAULT_BAD_HEADER, "an item delimiter at byte %zu has a length", w->at);
        w->at = e.value;
        pop(w);
        return 0;
    }
    if (e.tag >> 16 == 0xFFFE)
        return fault_set(w->why, FAULT_BAD_HEADER,
                         "a delimiter (%04x,%04x) at byte %zu stands outside a sequence", e.tag >> 16,
                         e.tag & 0xFFFF, w->at);
    if (++w->n_elements > PRESCAN_MAX_ELEMENTS)
        return fault_set(w->why, FAULT_BAD_HEADER, "there are more than %d elements", PRESCAN_MAX_ELEMENTS);
    int is_top = w->top == 0;
    // Zeros after the end of a file become an element (0000,0000), which senders built on DCMTK put first.
    int is_padding = is_top && e.tag == 0 && w->n_elements == 1 && e.length <= 4;
    if (is_top && !is_padding) {
        if (e.tag <= w->last_tag || e.tag >> 16 < 4)
            return fault_set(w->why, FAULT_BAD_HEADER, "element (%04x,%04x) at byte %zu is out of order",
                             e.tag >> 16, e.tag & 0xFFFF, w->at);
        w->last_tag = e.tag;
    }
    int is_pixels = e.tag == TAG_PIXEL_DATA;
    int is_un = strcmp(e.vr, "UN") == 0;
    int is_sequence = strcmp(e.vr, "SQ") == 0;
    if (e.length == UNDEFINED) {
        w->at = e.value;
        if (is_pixels && !is_sequence) {
            if (!w->encapsulated)
                return fault_set(w->why, FAULT_BAD_HEADER,
                                 "pixel data at byte %zu have no length, but the transfer "
                                 "syntax is not an encapsulated one",
                                 e.value);
            if (is_top)
                w->out->has_pixel_data = 1;
            return push(w, LEVEL_FRAGMENTS, level->end, 1, 1, 0);
        }
        if (e.vr[0] != '\0' && !is_un && !is_sequence)
            return fault_set(w->why, FAULT_BAD_HEADER, "element (%04x,%04x) of VR %s has no length",
                             e.tag >> 16, e.tag & 0xFFFF, e.vr);
        // A sequence sent as UN is in implicit VR inside: PS3.5 6.2.2 note 2.
        return push(w, LEVEL_SEQUENCE, level->end, 1, is_sequence, 0);
    }
    rc = check_length(w, &e, level->end);
    if (rc != 0)
        return rc;
    if (is_sequence) {
        w->at = e.value;
        return push(w, LEVEL_SEQUENCE, e.value + e.length, 0, 1, 0);
    }
    if (is_pixels && is_top) {
        if (w->encapsulated)
            return fault_set(
                w->why, FAULT_BAD_HEADER,
                "pixel data have a length of %u bytes, but the transfer syntax is an encapsulated one",
                e.length);
        w->out->has_pixel_data = 1;
        w->pixel_bytes = e.length;
        w->out->pixel_offset = e.value;
    } else if ((is_un || e.vr[0] == '\0') && !is_pixels && e.length >= 8 &&
               get_tag(w->data + e.value) == TAG_ITEM) {
        w->at = e.value;
        return push(w, LEVEL_SEQUENCE, e.value + e.length, 0, 0, 1);
    } else if (!is_pixels && e.length > PRESCAN_MAX_VALUE) {
        return fault_set(w->why, FAULT_BAD_HEADER, "element (%04x,%04x) is %u bytes long, more than %d",
                         e.tag >> 16, e.tag & 0xFFFF, e.length, PRESCAN_MAX_VALUE);
    }
    if (is_top) {
        rc = note_top_level(w, &e);
        if (rc != 0)
            return rc;
    }
    w->at = e.value + e.length;
    return 0;
}

// An item of a sequence, or a fragment of encapsulated pixel data.
static int walk_item(struct walk *w)
{
    struct level *level = &w->levels[w->top];
    struct element e = {0};
    int rc = read_element(w->data, w->at, level->end, 0, &e, w->why);
    if (rc != 0)
        return rc;
    if (e.tag == TAG_SEQUENCE_END && level->undefined) {
        if (e.length != 0)
            return fault_set(w->why, FAULT_BAD_HEADER, "a sequence delimiter at byte %zu has a length",
                             w->at);
        w->at = e.value;
        pop(w);
        return 0;
    }
    if (e.tag != TAG_ITEM)
        return fault_set(w->why, FAULT_BAD_HEADER, "(%04x,%04x) at byte %zu stands where an item is due",
                         e.tag >> 16, e.tag & 0xFFFF, w->at);
    int is_fragment = level->kind == LEVEL_FRAGMENTS;
    uint32_t limit = PRESCAN_MAX_ITEMS * (is_fragment ? 100u : 1u);
    if (++level->n_items > limit)
        return fault_set(w->why, FAULT_BAD_HEADER, "a sequence has more than %u items", limit);
    if (e.length == UNDEFINED && !is_fragment) {
        w->at = e.value;
        return push(w, LEVEL_ELEMENTS, level->end, 1, level->explicit_vr, 0);
    }
    rc = check_length(w, &e, level->end);
    if (rc != 0)
        return rc;
    if (is_fragment) {
        if (w->top == 1 && level->n_items > 1) // the first is the offset table
            w->pixel_bytes += e.length;
        if (w->top == 1 && level->n_items == 1)
            w->out->offset_table_size = e.length;
        if (w->top == 1 && level->n_items == 2) {
            w->out->fragment_offset = e.value;
            w->out->fragment_size = e.length;
        }
        w->at = e.value + e.length;
        return 0;
    }
    w->at = e.value;
    return push(w, LEVEL_ELEMENTS, e.value + e.length, 0, level->explicit_vr, 0);
}

// The innermost guess that we are inside of; 0 when there is none.
static int guess_level(const struct walk *w)
{
    int level = w->top;
    while (level > 0 && !w->levels[level].guess)
        level--;
    return level;
}

static int walk_dataset(struct walk *w, int explicit_vr)
{
    w->levels[0] = (struct level){.end = w->size, .kind = LEVEL_ELEMENTS, .explicit_vr = explicit_vr};
    for (;;) {
        struct level *level = &w->levels[w->top];
        if (w->at == level->end && !level->undefined) {
            if (w->top == 0)
                return 0;
            pop(w);
            continue;
        }
        if (w->top == 0 && w->last_tag >= TAG_PIXEL_DATA && w->data[w->at] == 0 && only_zeros_follow(w))
            return 0;
        int rc = level->kind == LEVEL_ELEMENTS ? walk_element(w) : walk_item(w);
        if (rc == 0)
            continue;
        // A wrong guess: the value was no sequence. Limits count all the same.
        int guess = guess_level(w);
        if (w->depth > PRESCAN_MAX_DEPTH || w->n_elements > PRESCAN_MAX_ELEMENTS || guess == 0)
            return rc;
        w->at = w->levels[guess].end;
        while (w->top >= guess)
            pop(w);
    }
}

// Group 2, always in explicit VR little endian: PS3.10 section 7.1.
static int walk_meta(struct walk *w)
{
    struct prescan *out = w->out;
    size_t group_end = 0;
    uint32_t last_tag = 0;
    w->at = PREAMBLE + 4;
    while (w->size - w->at >= 8 && get16(w->data + w->at) == 2) {
        struct element e = {0};
        int rc = read_element(w->data, w->at, w->size, 1, &e, w->why);
        if (rc == 0)
            rc = check_length(w, &e, w->size);
        if (rc != 0)
            return rc;
        if (e.tag <= last_tag || e.length > PRESCAN_MAX_VALUE || strcmp(e.vr, "SQ") == 0)
            return fault_set(w->why, FAULT_BAD_HEADER,
                             "file meta element (%04x,%04x) of %u bytes is not in order", e.tag >> 16,
                             e.tag & 0xFFFF, e.length);
        last_tag = e.tag;
        if (e.tag == 0x00020000) {
            if (e.length != 4)
                return fault_set(w->why, FAULT_BAD_HEADER, "the file meta group length is %u bytes long",
                                 e.length);
            group_end = e.value + 4 + (size_t)get32(w->data + e.value);
        } else if (e.tag == 0x00020010) {
            rc = copy_uid(w, out->transfer_syntax, &e);
            if (rc != 0)
                return rc;
        } else if (e.tag == 0x00020016) {
            copy_text(out->source_ae, sizeof out->source_ae, w->data + e.value, e.length);
        }
        w->at = e.value + e.length;
    }
    if (last_tag == 0)
        return fault_set(w->why, FAULT_NOT_DICOM, "there is no file meta information after the preamble");
    if (group_end != 0 && group_end != w->at)
        return fault_set(w->why, group_end > w->size ? FAULT_TRUNCATED : FAULT_BAD_HEADER,
                         "the file meta information ends at byte %zu, its group length says %zu", w->at,
                         group_end);
    if (out->transfer_syntax[0] == '\0')
        return fault_set(w->why, FAULT_BAD_HEADER, "the file meta information has no transfer syntax");
    return 0;
}

static int judge_transfer_syntax(const char *uid, int *explicit_vr, int *encapsulated, struct fault_note *why)
{
    static const char jpeg_family[] = "1.2.840.10008.1.2.4.";
    *explicit_vr = strcmp(uid, "1.2.840.10008.1.2") != 0;
    *encapsulated =
        strcmp(uid, "1.2.840.10008.1.2.5") == 0 ||
        (strncmp(uid, jpeg_family, sizeof jpeg_family - 1) == 0 &&
         strcmp(uid, "1.2.840.10008.1.2.4.95") != 0 && strcmp(uid, "1.2.840.10008.1.2.4.94") != 0);
    if (!*explicit_vr || *encapsulated || strcmp(uid, "1.2.840.10008.1.2.1") == 0)
        return 0;
    return fault_set(why, FAULT_TRANSFER_SYNTAX,
                     "transfer syntax '%s' is not little endian, uncompressed or encapsulated", uid);
}

static int judge_pixels(const struct walk *w)
{
    const struct prescan *p = w->out;
    if (!p->has_pixel_data)
        return 0;
    if (w->seen_dimensions != 7 || p->rows < 1 || p->columns < 1 || p->samples < 1 || p->samples > 4 ||
        p->bits_allocated < 1 || p->bits_allocated > 64)
        return fault_set(w->why, FAULT_PIXEL_SIZE,
                         "pixel data without usable dimensions: %u rows, %u columns, %u samples, %u bits",
                         p->rows, p->columns, p->samples, p->bits_allocated);
    uint64_t want =
        (uint64_t)p->rows * p->columns * p->samples * ((p->bits_allocated + 7) / 8) * p->frames; // < 2^57
    if (!w->encapsulated && w->pixel_bytes != want && w->pixel_bytes != want + (want & 1))
        return fault_set(
            w->why, FAULT_PIXEL_SIZE,
            "pixel data are %llu bytes, but %u x %u x %u samples of %u bits in %u frames are %llu",
            (unsigned long long)w->pixel_bytes, p->rows, p->columns, p->samples, p->bits_allocated, p->frames,
            (unsigned long long)want);
    if (w->encapsulated && (w->pixel_bytes == 0 || (want > BOMB_BYTES && w->pixel_bytes < want / BOMB_RATIO)))
        return fault_set(w->why, FAULT_PIXEL_SIZE, "%llu bytes of compressed pixel data cannot hold %llu",
                         (unsigned long long)w->pixel_bytes, (unsigned long long)want);
    return 0;
}

// At the first byte of data, with nothing found; NULL and why: no memory. Owner: the caller's (free).
static struct walk *walk_new(const void *data, size_t size, struct prescan *found, struct fault_note *why)
{
    struct walk *w = calloc(1, sizeof *w);
    if (w == NULL) {
        fault_set(why, FAULT_NO_MEMORY, "cannot hold the state of a scan");
        return NULL;
    }
    *found = (struct prescan){.samples = 1, .frames = 1};
    w->data = data;
    w->size = size;
    w->out = found;
    w->why = why;
    return w;
}

int prescan_structure(const void *data, size_t size, struct prescan *out, struct fault_note *why)
{
    struct prescan found;
    struct walk *w = walk_new(data, size, &found, why);
    if (w == NULL)
        return FAULT_NO_MEMORY;
    int rc = 0;
    int explicit_vr = 0;
    if (size < PREAMBLE + 4 || memcmp(w->data + PREAMBLE, "DICM", 4) != 0)
        rc = fault_set(why, FAULT_NOT_DICOM, "there is no 'DICM' after a preamble of %d bytes", PREAMBLE);
    if (rc == 0)
        rc = walk_meta(w);
    if (rc == 0)
        rc = judge_transfer_syntax(found.transfer_syntax, &explicit_vr, &w->encapsulated, why);
    if (rc == 0) {
        found.dataset_offset = w->at;
        rc = walk_dataset(w, explicit_vr);
    }
    const char *missing = found.sop_class_uid[0] == '\0'      ? "SOP Class"
                          : found.sop_instance_uid[0] == '\0' ? "SOP Instance"
                          : found.study_uid[0] == '\0'        ? "Study Instance"
                          : found.series_uid[0] == '\0'       ? "Series Instance"
                                                              : NULL;
    if (rc == 0 && missing != NULL)
        rc = fault_set(why, FAULT_BAD_UID, "the %s UID is missing", missing);
    found.dataset_end = w->at;
    find_plane(w);
    if (rc == 0)
        rc = judge_pixels(w);
    if (rc == 0)
        *out = found;
    free(w);
    return rc;
}

int prescan_memory(const void *data, size_t size, struct prescan *out, struct fault_note *why)
{
    struct prescan found = {0};
    int rc = prescan_structure(data, size, &found, why);
    if (rc == 0)
        rc = digest_of((const char *)data + found.dataset_offset, size - found.dataset_offset, found.digest,
                       why);
    if (rc == 0)
        *out = found;
    return rc;
}

int prescan_dataset(const void *data, size_t size, int explicit_vr, struct fault_note *why)
{
    struct prescan found;
    struct walk *w = walk_new(data, size, &found, why);
    if (w == NULL)
        return FAULT_NO_MEMORY;
    int rc = walk_dataset(w, explicit_vr);
    free(w);
    return rc;
}

int prescan_file(const char *path, size_t limit, struct prescan *out, struct fault_note *why)
{
    void *data = NULL;
    size_t size = 0;
    int rc = file_read(path, limit, &data, &size, why);
    if (rc == 0)
        rc = prescan_memory(data, size, out, why);
    free(data);
    return rc;
}
