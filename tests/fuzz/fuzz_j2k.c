// SPDX-License-Identifier: Apache-2.0
//
// JPEG 2000. Input: a byte that says how the rest is taken. Without its highest bit: a layout of samples,
// rows, columns, codestream. With it: two bytes that are skipped, then a codestream, and the DICOM header
// agrees with what that says of itself. With the two highest: parameters of coding, then packets, and
// everything around them is put right, so that the decoder gets them.
#include "dicom_map/j2k.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_SIDE = 256, HEADER_ROOM = 256, TAKE_AS_SAID = 0x80, BUILD = 0xC0 };

struct image {
    struct pixels_layout layout;
    unsigned rows, columns;
};

static void put(uint8_t *out, size_t *n, unsigned v, int bytes)
{
    while (bytes-- > 0)
        out[(*n)++] = (uint8_t)(v >> 8 * bytes);
}

static void lay_out(struct image *image, int bits, int is_signed)
{
    image->layout = (struct pixels_layout){.bits_allocated = bits > 8 ? 16 : 8,
                                           .bits_stored = bits,
                                           .high_bit = bits - 1,
                                           .is_signed = is_signed};
}

// A codestream of one tile around the packets that are left in the input; its size.
static size_t build(struct choices *c, struct image *image, uint8_t *out)
{
    size_t n = 0;
    unsigned bits = 1 + choose_byte(c) % 16, is_signed = bits & 1, levels = choose_byte(c) % 7;
    image->rows = 1 + choose_byte(c) % 64;
    image->columns = 1 + choose_byte(c) % 64;
    lay_out(image, (int)bits, (int)is_signed);
    put(out, &n, 0xFF4FFF51, 4);
    put(out, &n, 41, 2);
    put(out, &n, 0, 2);
    put(out, &n, image->columns, 4);
    put(out, &n, image->rows, 4);
    put(out, &n, 0, 4);
    put(out, &n, 0, 4);
    put(out, &n, image->columns, 4);
    put(out, &n, image->rows, 4);
    put(out, &n, 0, 4);
    put(out, &n, 0, 4);
    put(out, &n, 1, 2);
    put(out, &n, (bits - 1) | is_signed << 7, 1);
    put(out, &n, 0x0101, 2);
    unsigned packets = choose_byte(c) & 7; // precincts; start and end marked
    put(out, &n, 0xFF52, 2);
    put(out, &n, 12 + (packets & 1 ? levels + 1 : 0), 2);
    put(out, &n, packets, 1);
    put(out, &n, choose_byte(c) % 5, 1);
    put(out, &n, 1 + choose_byte(c) % 8, 2);
    put(out, &n, 0, 1);
    put(out, &n, levels, 1);
    put(out, &n, choose_byte(c) % 5, 1);
    put(out, &n, choose_byte(c) % 5, 1);
    put(out, &n, choose_byte(c) & 0x3F, 1);
    put(out, &n, 1, 1);
    for (unsigned i = 0; packets & 1 && i <= levels; i++)
        put(out, &n, choose_byte(c), 1);
    put(out, &n, 0xFF5C, 2);
    put(out, &n, 4 + 3 * levels, 2);
    put(out, &n, choose_byte(c) & 0xE0, 1);
    for (unsigned i = 0; i <= 3 * levels; i++)
        put(out, &n, choose_byte(c) & 0xF8, 1);
    put(out, &n, 0xFF90, 2);
    put(out, &n, 10, 2);
    put(out, &n, 0, 2);
    put(out, &n, (unsigned)c->left + 14, 4);
    put(out, &n, 0x0001, 2);
    put(out, &n, 0xFF93, 2);
    FUZZ_CHECK(n <= HEADER_ROOM);
    if (c->left > 0)
        memcpy(out + n, c->data, c->left);
    n += c->left;
    put(out, &n, 0xFFD9, 2);
    return n;
}

static unsigned side_at(const uint8_t *p)
{
    unsigned v = (unsigned)p[2] << 8 | p[3];
    return p[0] == 0 && p[1] == 0 && v <= MAX_SIDE ? v : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct choices c = {data, size};
    struct fault_note why = {0};
    struct image image = {.rows = 1, .columns = 1};
    unsigned kind = choose_byte(&c);
    size_t n;
    uint8_t *made = malloc(HEADER_ROOM + size + 2);
    FUZZ_CHECK(made != NULL);
    if (kind >= BUILD) {
        n = build(&c, &image, made);
    } else {
        image.rows = 1 + choose_byte(&c) % 64;
        image.columns = 1 + choose_byte(&c) % 64;
        lay_out(&image, 1 + (int)(kind >> 2 & 15) % (kind & 1 ? 16 : 8), (int)(kind >> 1 & 1));
        image.layout.bits_allocated = kind & 1 ? 16 : 8;
        if (kind & 0x40)
            image.layout.high_bit = image.layout.bits_allocated - 1;
        if (kind >= TAKE_AS_SAID && c.left > 43 && side_at(c.data + 8) > 0 && side_at(c.data + 12) > 0) {
            image.columns = side_at(c.data + 8);
            image.rows = side_at(c.data + 12);
            lay_out(&image, (c.data[42] & 15) + 1, c.data[42] >> 7);
        }
        n = c.left;
        if (n > 0)
            memcpy(made, c.data, n);
    }
    uint8_t *samples = malloc((size_t)image.rows * image.columns * (size_t)(image.layout.bits_allocated / 8));
    void *codestream = exact_copy(made, n);
    FUZZ_CHECK(samples != NULL);
    int rc = j2k_decode(codestream, n, &image.layout, (int)image.rows, (int)image.columns, samples, &why);
    FUZZ_CHECK(rc == 0 || (rc == (int)why.fault && why.text[0] != '\0'));
    free(codestream);
    free(samples);
    free(made);
    return 0;
}
