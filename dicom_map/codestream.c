// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/codestream.h"

#include <stdint.h>
#include <string.h>

static int check_frame_header(const uint8_t *p, size_t length, int rows, int columns, int bits_allocated,
                              struct fault_note *why)
{
    if (length < 8)
        return fault_set(why, FAULT_DECODE, "a frame header of %zu bytes in the codestream", length);
    int bits = p[2], height = p[3] << 8 | p[4], width = p[5] << 8 | p[6], components = p[7];
    if (height != rows || width != columns || components != 1 || bits > bits_allocated)
        return fault_set(
            why, FAULT_PIXEL_SIZE,
            "the codestream holds %d x %d pixels of %d components and %d bits, the header says %d x %d of "
            "one and %d",
            height, width, components, bits, rows, columns, bits_allocated);
    return 0;
}

static int check_jpeg(const uint8_t *data, size_t size, int rows, int columns, int bits_allocated,
                      struct fault_note *why)
{
    size_t at = 2;
    if (size < 4 || data[0] != 0xFF || data[1] != 0xD8)
        return fault_set(why, FAULT_DECODE, "the codestream does not begin with SOI");
    while (size - at >= 4 && data[at] == 0xFF) {
        unsigned marker = data[at + 1];
        if (marker == 0xFF) { // fill
            at++;
            continue;
        }
        size_t length = (size_t)data[at + 2] << 8 | data[at + 3];
        if (length < 2 || length > size - at - 2)
            return fault_set(why, FAULT_DECODE,
                             "a marker segment of %zu bytes at byte %zu of %zu in the codestream", length, at,
                             size);
        int is_frame =
            (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) ||
            marker == 0xF7;
        if (is_frame)
            return check_frame_header(data + at + 2, length, rows, columns, bits_allocated, why);
        at += 2 + length;
    }
    return fault_set(why, FAULT_DECODE, "there is no frame header in the codestream");
}

static int check_rle(const uint8_t *data, size_t size, int bits_allocated, struct fault_note *why)
{
    uint32_t head[16];
    if (size < sizeof head)
        return fault_set(why, FAULT_DECODE, "an RLE fragment of %zu bytes has no header", size);
    for (size_t i = 0; i < 16; i++)
        head[i] = data[4 * i] | (uint32_t)data[4 * i + 1] << 8 | (uint32_t)data[4 * i + 2] << 16 |
                  (uint32_t)data[4 * i + 3] << 24;
    uint32_t n = head[0];
    if (n != (uint32_t)bits_allocated / 8)
        return fault_set(why, FAULT_DECODE, "%u RLE segments for samples of %d bits", n, bits_allocated);
    for (uint32_t i = 1; i <= n; i++)
        if (head[i] < sizeof head || head[i] >= size || (i > 1 && head[i] <= head[i - 1]))
            return fault_set(why, FAULT_DECODE, "RLE segment %u begins at byte %u of %zu", i, head[i], size);
    return 0;
}

int codestream_check(const char *transfer_syntax, const void *fragment, size_t size, int rows, int columns,
                     int bits_allocated, struct fault_note *why)
{
    if (strcmp(transfer_syntax, "1.2.840.10008.1.2.5") == 0)
        return check_rle(fragment, size, bits_allocated, why);
    if (strncmp(transfer_syntax, "1.2.840.10008.1.2.4.", 20) == 0)
        return check_jpeg(fragment, size, rows, columns, bits_allocated, why);
    return 0;
}
