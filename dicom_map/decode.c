// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/decode.h"

#include "dicom_map/codestream.h"
#include "dicom_map/dcmtk/object.h"
#include "dicom_map/j2k.h"
#include "dicom_map/rle.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD_ROOM = 256 }; // of the elements before and after the codestream

static int copy_native(const uint8_t *data, size_t size, const struct prescan *scan, uint32_t frame,
                       size_t n_bytes, void *samples, struct fault_note *why)
{
    size_t begin = scan->pixel_offset + frame * n_bytes;
    if (scan->pixel_offset == 0 || frame >= scan->frames || begin > size || n_bytes > size - begin)
        return fault_set(why, FAULT_PIXEL_SIZE, "frame %u of %u is not in the pixel data", frame + 1,
                         scan->frames);
    memcpy(samples, data + begin, n_bytes);
    return 0;
}

// ---- an object of one frame around a codestream, for the library to decode

struct bytes {
    uint8_t *data;
    size_t n;
};

static void put(struct bytes *b, const void *data, size_t n)
{
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put16(struct bytes *b, unsigned value)
{
    put(b, (uint8_t[]){(uint8_t)value, (uint8_t)(value >> 8)}, 2);
}

static void put_tag(struct bytes *b, uint32_t tag)
{
    put16(b, tag >> 16);
    put16(b, tag & 0xFFFF);
}

static void put_us(struct bytes *b, uint32_t tag, unsigned value)
{
    put_tag(b, tag);
    put(b, "US\2", 4);
    put16(b, value);
}

static void put_item(struct bytes *b, uint32_t tag, size_t length)
{
    put_tag(b, tag);
    put16(b, length & 0xFFFF);
    put16(b, (unsigned)(length >> 16));
}

// The library gets what was checked and nothing else of the file.
static int decode_by_library(const struct prescan *scan, const struct pixels_layout *layout,
                             const void *codestream, size_t size, size_t n_bytes, void *samples,
                             struct fault_note *why)
{
    static const char monochrome[] = "CS\14\0MONOCHROME2 ";
    struct bytes b = {.data = malloc(size + 1 + HEAD_ROOM)};
    struct dcm_object *object = NULL;
    if (b.data == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold a codestream of %zu bytes", size);
    put_us(&b, 0x00280002, 1);
    put_tag(&b, 0x00280004);
    put(&b, monochrome, sizeof monochrome - 1);
    put_us(&b, 0x00280010, scan->rows);
    put_us(&b, 0x00280011, scan->columns);
    put_us(&b, 0x00280100, (unsigned)layout->bits_allocated);
    put_us(&b, 0x00280101, (unsigned)layout->bits_stored);
    put_us(&b, 0x00280102, (unsigned)layout->high_bit);
    put_us(&b, 0x00280103, (unsigned)layout->is_signed);
    put_tag(&b, 0x7FE00010);
    put(&b, "OB\0\0\xFF\xFF\xFF\xFF", 8);
    put_item(&b, 0xFFFEE000, 0);
    put_item(&b, 0xFFFEE000, size + (size & 1));
    put(&b, codestream, size);
    put(&b, "", size & 1);
    put_item(&b, 0xFFFEE0DD, 0);
    int rc = dcm_object_parse(b.data, b.n, scan->transfer_syntax, 0, &object, why);
    free(b.data);
    if (rc == 0)
        rc = dcm_object_decode(object, samples, n_bytes, why);
    dcm_object_free(object);
    return rc;
}

int decode_frame(const void *object, size_t size, const struct prescan *scan, uint32_t frame,
                 const struct pixels_layout *layout, void *samples, struct fault_note *why)
{
    const char *syntax = scan->transfer_syntax;
    int sample_bytes = layout->bits_allocated / 8, rows = (int)scan->rows, columns = (int)scan->columns;
    size_t n = (size_t)scan->rows * scan->columns, n_bytes = n * (size_t)sample_bytes, codestream_size = 0;
    void *codestream = NULL;
    if (scan->fragment_offset == 0)
        return copy_native(object, size, scan, frame, n_bytes, samples, why);
    int rc = codestream_join(object, size, scan, frame, &codestream, &codestream_size, why);
    if (rc == 0 && strcmp(syntax, SYNTAX_RLE) == 0) {
        rc = rle_decode(codestream, codestream_size, n, sample_bytes, samples, why);
    } else if (rc == 0 && strcmp(syntax, SYNTAX_JPEG_2000) == 0) {
        rc = j2k_decode(codestream, codestream_size, layout, rows, columns, samples, why);
    } else if (rc == 0) {
        rc =
            codestream_check(syntax, codestream, codestream_size, rows, columns, layout->bits_allocated, why);
        if (rc == 0)
            rc = decode_by_library(scan, layout, codestream, codestream_size, n_bytes, samples, why);
    }
    free(codestream);
    return rc;
}
