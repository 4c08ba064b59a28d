// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/codestream.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    ITEM_HEADER = 8,
    ITEM_LOW = 0xFFFE,
    ITEM_HIGH = 0xE000,
    SOF_LOSSLESS = 0xC3,
    SOF_JPEG_LS = 0xF7,
    SOS = 0xDA,
};

static uint32_t get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

// Length of the fragment whose item begins at `at`; SIZE_MAX when none begins there.
static size_t fragment_at(const uint8_t *data, size_t at, size_t end)
{
    if (at > end || end - at < ITEM_HEADER || (data[at] | data[at + 1] << 8) != ITEM_LOW ||
        (data[at + 2] | data[at + 3] << 8) != ITEM_HIGH)
        return SIZE_MAX;
    size_t length = get32(data + at + 4);
    return length <= end - at - ITEM_HEADER ? length : SIZE_MAX;
}

// Where the items of a frame's fragments begin and end.
struct range {
    size_t begin, end;
};

// Does a fragment begin at `wanted`, or do they end there, when walked from the one at `at`?
static int is_fragment_start(const uint8_t *data, size_t at, size_t end, size_t wanted)
{
    for (size_t length; at < wanted && (length = fragment_at(data, at, end)) != SIZE_MAX;)
        at += ITEM_HEADER + length;
    return at == wanted;
}

// By the offset table, which counts from the first fragment's item.
static int range_by_table(const uint8_t *data, const struct prescan *scan, uint32_t frame,
                          const struct range *all, struct range *range, struct fault_note *why)
{
    size_t n = scan->offset_table_size / 4;
    if (scan->offset_table_size % 4 != 0 || n != scan->frames || scan->offset_table_size > all->begin)
        return fault_set(why, FAULT_DECODE, "an offset table of %zu bytes for %u frames",
                         scan->offset_table_size, scan->frames);
    const uint8_t *table = data + all->begin - scan->offset_table_size;
    range->begin = all->begin + get32(table + 4 * (size_t)frame);
    range->end = frame + 1 < n ? all->begin + get32(table + 4 * ((size_t)frame + 1)) : all->end;
    if (range->begin >= range->end || range->end > all->end || (frame == 0 && range->begin != all->begin) ||
        !is_fragment_start(data, all->begin, all->end, range->begin) ||
        !is_fragment_start(data, range->begin, all->end, range->end))
        return fault_set(why, FAULT_DECODE, "the offset table puts frame %u where no fragment begins",
                         frame + 1);
    return 0;
}

// One fragment for each frame.
static int range_by_number(const uint8_t *data, const struct prescan *scan, uint32_t frame,
                           const struct range *all, struct range *range, struct fault_note *why)
{
    size_t length, n = 0;
    for (size_t at = all->begin; (length = fragment_at(data, at, all->end)) != SIZE_MAX; n++) {
        if (n == frame)
            *range = (struct range){at, at + ITEM_HEADER + length};
        at += ITEM_HEADER + length;
    }
    if (n != scan->frames)
        return fault_set(why, FAULT_DECODE, "%zu fragments for %u frames, and no offset table", n,
                         scan->frames);
    return 0;
}

int codestream_join(const void *object, size_t object_size, const struct prescan *scan, uint32_t frame,
                    void **codestream, size_t *size, struct fault_note *why)
{
    const uint8_t *data = object;
    size_t length, total = 0;
    struct range all = {.begin = scan->fragment_offset - ITEM_HEADER,
                        .end = scan->dataset_end < object_size ? scan->dataset_end : object_size};
    if (scan->fragment_offset < ITEM_HEADER || frame >= scan->frames ||
        fragment_at(data, all.begin, all.end) == SIZE_MAX)
        return fault_set(why, FAULT_DECODE, "there is no fragment of compressed pixel data");
    size_t limit = all.end;
    for (all.end = all.begin; (length = fragment_at(data, all.end, limit)) != SIZE_MAX;)
        all.end += ITEM_HEADER + length;
    struct range range = all;
    int rc = 0;
    if (scan->frames > 1 && scan->offset_table_size > 0)
        rc = range_by_table(data, scan, frame, &all, &range, why);
    else if (scan->frames > 1)
        rc = range_by_number(data, scan, frame, &all, &range, why);
    if (rc != 0)
        return rc;
    for (size_t at = range.begin; (length = fragment_at(data, at, range.end)) != SIZE_MAX;
         at += ITEM_HEADER + length)
        total += length;
    uint8_t *joined = malloc(total + 1);
    if (joined == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold %zu bytes of compressed pixel data", total);
    *codestream = joined;
    *size = total;
    for (size_t at = range.begin; (length = fragment_at(data, at, range.end)) != SIZE_MAX;
         at += ITEM_HEADER + length) {
        memcpy(joined, data + at + ITEM_HEADER, length);
        joined += length;
    }
    return 0;
}

struct marker {
    unsigned code;
    const uint8_t *segment; // begins with its length
    size_t length;
};

// The marker segment at *at, which moves behind it.
static int next_marker(const uint8_t *data, size_t size, size_t *at, struct marker *marker,
                       struct fault_note *why)
{
    while (size - *at >= 2 && data[*at] == 0xFF && data[*at + 1] == 0xFF) // fill
        (*at)++;
    if (size - *at < 4 || data[*at] != 0xFF)
        return fault_set(why, FAULT_DECODE, "no marker at byte %zu of %zu in the codestream", *at, size);
    marker->code = data[*at + 1];
    marker->segment = data + *at + 2;
    marker->length = (size_t)marker->segment[0] << 8 | marker->segment[1];
    if (marker->length < 2 || marker->length > size - *at - 2)
        return fault_set(why, FAULT_DECODE,
                         "a marker segment of %zu bytes at byte %zu of %zu in the codestream", marker->length,
                         *at, size);
    *at += 2 + marker->length;
    return 0;
}

static int is_frame_header(unsigned marker)
{
    return (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) ||
           marker == SOF_JPEG_LS;
}

static int check_frame_header(const struct marker *frame, int rows, int columns, int bits_allocated,
                              struct fault_note *why)
{
    const uint8_t *p = frame->segment;
    if (frame->length < 8)
        return fault_set(why, FAULT_DECODE, "a frame header of %zu bytes in the codestream", frame->length);
    int bits = p[2], height = p[3] << 8 | p[4], width = p[5] << 8 | p[6], components = p[7];
    if (height != rows || width != columns || components != 1 || bits > bits_allocated)
        return fault_set(
            why, FAULT_PIXEL_SIZE,
            "the codestream holds %d x %d pixels of %d components and %d bits, the header says %d x %d of "
            "one and %d",
            height, width, components, bits, rows, columns, bits_allocated);
    return 0;
}

static int check_scan_header(const struct marker *scan, int is_jpeg_ls, struct fault_note *why)
{
    const uint8_t *p = scan->segment;
    if (scan->length < 8 || p[2] != 1)
        return fault_set(why, FAULT_DECODE, "a scan header of %zu bytes and %d components in the codestream",
                         scan->length, scan->length > 2 ? p[2] : 0);
    int near = is_jpeg_ls ? p[5] : 0, shift = p[7] & 15;
    if (near != 0 || shift != 0)
        return fault_set(why, FAULT_LOSSY,
                         "the codestream is lossy (NEAR %d, point transform %d) under a lossless transfer "
                         "syntax",
                         near, shift);
    return 0;
}

int codestream_check(const char *transfer_syntax, const void *codestream, size_t size, int rows, int columns,
                     int bits_allocated, struct fault_note *why)
{
    const uint8_t *data = codestream;
    int is_jpeg_ls = strcmp(transfer_syntax, SYNTAX_JPEG_LS) == 0;
    unsigned wanted = is_jpeg_ls ? SOF_JPEG_LS : SOF_LOSSLESS;
    size_t at = 2;
    if (size < 4 || data[0] != 0xFF || data[1] != 0xD8)
        return fault_set(why, FAULT_DECODE, "the codestream does not begin with SOI");
    for (int n_frames = 0;;) {
        struct marker marker = {0};
        int rc = next_marker(data, size, &at, &marker, why);
        if (rc != 0)
            return rc;
        if (marker.code == SOS)
            return n_frames == 1
                       ? check_scan_header(&marker, is_jpeg_ls, why)
                       : fault_set(why, FAULT_DECODE, "a scan without a frame header in the codestream");
        if (!is_frame_header(marker.code))
            continue;
        if (++n_frames > 1)
            return fault_set(why, FAULT_DECODE, "a second frame header in the codestream");
        if (marker.code != wanted)
            return fault_set(why, FAULT_LOSSY,
                             "the codestream is coded by frame type 0x%02x, not by the lossless 0x%02x of "
                             "its transfer syntax",
                             marker.code, wanted);
        rc = check_frame_header(&marker, rows, columns, bits_allocated, why);
        if (rc != 0)
            return rc;
    }
}
