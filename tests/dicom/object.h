// SPDX-License-Identifier: Apache-2.0
//
// Builds DICOM objects byte by byte for tests, right or wrong on purpose. No DICOM library.

#ifndef ISOSLICE_TESTS_DICOM_OBJECT_H
#define ISOSLICE_TESTS_DICOM_OBJECT_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct object {
    uint8_t *data;
    size_t size, room;
    int explicit_vr;
};

static inline void put_bytes(struct object *o, const void *data, size_t size)
{
    if (o->size + size > o->room) {
        o->room = 2 * (o->size + size) + 1024;
        o->data = realloc(o->data, o->room);
        if (o->data == NULL)
            abort();
    }
    if (size > 0)
        memcpy(o->data + o->size, data, size);
    o->size += size;
}

static inline void put16(struct object *o, unsigned v)
{
    uint8_t b[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    put_bytes(o, b, 2);
}

static inline void put32(struct object *o, uint32_t v)
{
    put16(o, v & 0xFFFF);
    put16(o, v >> 16);
}

static inline void put_tag(struct object *o, uint32_t tag)
{
    put16(o, tag >> 16);
    put16(o, tag & 0xFFFF);
}

// Only the header of an element; `length` as it stands.
static inline void put_header(struct object *o, uint32_t tag, const char *vr, uint32_t length)
{
    put_tag(o, tag);
    if (!o->explicit_vr || tag >> 16 == 0xFFFE) {
        put32(o, length);
        return;
    }
    put_bytes(o, vr, 2);
    if (strstr("OB OD OF OL OV OW SQ SV UC UN UR UT UV", vr) != NULL) {
        put16(o, 0);
        put32(o, length);
    } else {
        put16(o, length);
    }
}

static inline void put_element(struct object *o, uint32_t tag, const char *vr, const void *value, size_t size)
{
    put_header(o, tag, vr, (uint32_t)(size + (size & 1)));
    put_bytes(o, value, size);
    if (size & 1)
        put_bytes(o, strcmp(vr, "UI") == 0 ? "" : " ", 1);
}

static inline void put_text(struct object *o, uint32_t tag, const char *vr, const char *text)
{
    put_element(o, tag, vr, text, strlen(text));
}

static inline void put_us(struct object *o, uint32_t tag, unsigned v)
{
    uint8_t b[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    put_element(o, tag, "US", b, 2);
}

// Preamble and file meta information.
static inline void object_begin(struct object *o, const char *transfer_syntax)
{
    static const uint8_t preamble[128] = {0};
    *o = (struct object){.explicit_vr = 1};
    put_bytes(o, preamble, sizeof preamble);
    put_bytes(o, "DICM", 4);
    struct object meta = {.explicit_vr = 1};
    put_element(&meta, 0x00020001, "OB", "\0\1", 2);
    put_text(&meta, 0x00020010, "UI", transfer_syntax);
    put_text(&meta, 0x00020016, "AE", "SCANNER1");
    put_header(o, 0x00020000, "UL", 4);
    put32(o, (uint32_t)meta.size);
    put_bytes(o, meta.data, meta.size);
    free(meta.data);
    o->explicit_vr = strcmp(transfer_syntax, "1.2.840.10008.1.2") != 0;
}

static inline void object_free(struct object *o)
{
    free(o->data);
    *o = (struct object){0};
}

#endif
