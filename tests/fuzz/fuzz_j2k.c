// SPDX-License-Identifier: Apache-2.0
//
// JPEG 2000. Input: a layout of samples, rows, columns, codestream. With the highest bit of the first byte
// the header agrees with what the codestream says of itself, so that more of them reach the decoder.
#include "dicom_map/j2k.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_SIDE = 256 };

static unsigned side_at(const uint8_t *p)
{
    unsigned v = (unsigned)p[2] << 8 | p[3];
    return p[0] == 0 && p[1] == 0 && v <= MAX_SIDE ? v : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct choices c = {data, size};
    struct fault_note why = {0};
    unsigned kind = choose_byte(&c), rows = 1 + choose_byte(&c) % 64, columns = 1 + choose_byte(&c) % 64;
    struct pixels_layout layout = {.bits_allocated = kind & 1 ? 16 : 8, .is_signed = kind >> 1 & 1};
    layout.bits_stored = 1 + (int)(kind >> 2 & 15) % layout.bits_allocated;
    layout.high_bit = kind & 0x40 ? layout.bits_allocated - 1 : layout.bits_stored - 1;
    if (kind & 0x80 && c.left > 43 && side_at(c.data + 8) > 0 && side_at(c.data + 12) > 0) {
        columns = side_at(c.data + 8);
        rows = side_at(c.data + 12);
        layout.bits_stored = (c.data[42] & 15) + 1;
        layout.bits_allocated = layout.bits_stored > 8 ? 16 : 8;
        layout.high_bit = layout.bits_stored - 1;
        layout.is_signed = c.data[42] >> 7;
    }
    size_t n = (size_t)rows * columns * (size_t)(layout.bits_allocated / 8);
    uint8_t *samples = malloc(n);
    void *codestream = exact_copy(c.data, c.left);
    FUZZ_CHECK(samples != NULL);
    int rc = j2k_decode(codestream, c.left, &layout, (int)rows, (int)columns, samples, &why);
    FUZZ_CHECK(rc == 0 || (rc == (int)why.fault && why.text[0] != '\0'));
    free(codestream);
    free(samples);
    return 0;
}
