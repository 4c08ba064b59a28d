// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/rle.h"

#include <stdint.h>
#include <string.h>

enum { HEADER_BYTES = 64, NO_RUN = 0x80 };

static uint32_t get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

// Unpacks bytes [at, end) of `data` into n bytes, each `stride` after the one before.
static int unpack_segment(const uint8_t *data, size_t at, size_t end, uint8_t *out, size_t n, size_t stride,
                          int number, struct fault_note *why)
{
    size_t done = 0;
    while (done < n) {
        if (at >= end)
            return fault_set(why, FAULT_DECODE, "RLE segment %d ends after %zu of %zu bytes", number, done,
                             n);
        unsigned head = data[at++];
        if (head == NO_RUN)
            continue;
        int is_literal = head < NO_RUN;
        size_t length = is_literal ? head + 1U : 257U - head, taken = is_literal ? length : 1;
        if (taken > end - at)
            return fault_set(why, FAULT_DECODE, "RLE segment %d ends inside a run at byte %zu of %zu", number,
                             at - 1, end);
        if (length > n - done)
            return fault_set(why, FAULT_DECODE,
                             "RLE segment %d has a run of %zu bytes at byte %zu where %zu are left to fill",
                             number, length, at - 1, n - done);
        for (size_t i = 0; i < length; i++)
            out[(done + i) * stride] = data[at + (is_literal ? i : 0)];
        at += taken;
        done += length;
    }
    while (at < end && data[at] == NO_RUN)
        at++;
    if (end - at > 1 || (end - at == 1 && data[at] != 0))
        return fault_set(why, FAULT_DECODE,
                         "RLE segment %d goes on for %zu bytes after its %zu bytes are full", number,
                         end - at, n);
    return 0;
}

int rle_decode(const void *codestream, size_t size, size_t n_samples, int sample_bytes, void *samples,
               struct fault_note *why)
{
    const uint8_t *data = codestream;
    if (size < HEADER_BYTES)
        return fault_set(why, FAULT_DECODE, "an RLE frame of %zu bytes has no header", size);
    uint32_t n_segments = get32(data);
    if (n_segments != (uint32_t)sample_bytes)
        return fault_set(why, FAULT_DECODE, "%u RLE segments for samples of %d bits", n_segments,
                         8 * sample_bytes);
    size_t last = HEADER_BYTES;
    for (uint32_t i = 1; i <= n_segments; i++) {
        size_t begin = get32(data + 4 * (size_t)i);
        if (begin >= size || begin < last)
            return fault_set(why, FAULT_DECODE, "RLE segment %u begins at byte %zu of %zu", i, begin, size);
        last = begin + 1;
    }
    for (int i = 1; i <= sample_bytes; i++) {
        size_t begin = get32(data + 4 * (size_t)i);
        size_t end = i < sample_bytes ? get32(data + 4 * (size_t)(i + 1)) : size;
        int rc = unpack_segment(data, begin, end, (uint8_t *)samples + (sample_bytes - i), n_samples,
                                (size_t)sample_bytes, i, why);
        if (rc != 0)
            return rc;
    }
    return 0;
}
