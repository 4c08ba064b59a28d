// SPDX-License-Identifier: Apache-2.0
//
// Compressed pixel data, whole and broken: RLE, JPEG 2000 (encoded here by OpenJPEG, so that every field of
// the codestream can be chosen), headers of JPEG and JPEG-LS, fragments.
#include "dicom_map/codestream.h"
#include "dicom_map/j2k.h"
#include "dicom_map/rle.h"
#include "tests/dicom/object.h"
#include "tests/support/check.h"

#include <openjpeg.h>
#include <sys/resource.h>
#include <time.h>

static struct fault_note why;

// ---- RLE

static int unpack(const void *packed, size_t n_packed, size_t n_samples, uint8_t *out)
{
    // one segment, in a block of exactly its size so that reading past it is seen
    uint8_t *data = calloc(1, 64 + n_packed);
    CHECK(data != NULL);
    data[0] = 1;
    data[4] = 64;
    memcpy(data + 64, packed, n_packed);
    int rc = rle_decode(data, 64 + n_packed, n_samples, 1, out, &why);
    free(data);
    return rc;
}

#define UNPACK(text, n, out) unpack(text, sizeof(text) - 1, n, out)

static void rle_unpacks(void)
{
    uint8_t out[300];
    CHECK_OK(UNPACK("\x02"
                    "abc\xFEx",
                    6, out));
    CHECK_INT(memcmp(out, "abcxxx", 6), 0);
    CHECK_OK(UNPACK("\x80\xFF\x07\x80\x00\x01\x80\x80", 3, out)); // 0x80 is nothing, before and after
    CHECK_INT(memcmp(out, "\7\7\1", 3), 0);
    CHECK_OK(UNPACK("\x81z", 128, out)); // the longest run
    CHECK_INT(out[127], 'z');
    uint8_t literal[129] = {127};
    memset(literal + 1, 'q', 128);
    CHECK_OK(unpack(literal, sizeof literal, 128, out)); // the longest literal
    CHECK_INT(out[127], 'q');
    CHECK_OK(UNPACK("\x00v\x00", 1, out)); // filled up to even length
}

static void rle_puts_bytes_together(void)
{
    uint8_t frame[64 + 8] = {2, 0, 0, 0, 64, 0, 0, 0, 68};
    static const uint8_t segments[] = {0xFE, 0x12, 0, 0 /* high bytes */, 2, 0x34, 0x56, 0x78};
    memcpy(frame + 64, segments, sizeof segments);
    uint8_t out[6];
    // the zero at the end of the first segment is one too many: it is a literal's head
    CHECK_FAULT(rle_decode(frame, sizeof frame, 3, 2, out, &why), FAULT_DECODE);
    CHECK_CONTAINS(why.text, "segment 1 goes on for 2 bytes");
    frame[66] = 0x80;
    CHECK_OK(rle_decode(frame, sizeof frame, 3, 2, out, &why));
    CHECK_INT(memcmp(out, "\x34\x12\x56\x12\x78\x12", 6), 0);
}

static void rle_faults_are_named(void)
{
    uint8_t out[300];
    CHECK_FAULT(UNPACK("\x01"
                       "ab",
                       3, out),
                FAULT_DECODE);
    CHECK_CONTAINS(why.text, "segment 1 ends after 2 of 3 bytes");
    CHECK_FAULT(UNPACK("\x05"
                       "ab",
                       6, out),
                FAULT_DECODE);
    CHECK_CONTAINS(why.text, "ends inside a run at byte 64 of 67");
    CHECK_FAULT(UNPACK("\xFE", 3, out), FAULT_DECODE); // a run without its value
    CHECK_CONTAINS(why.text, "ends inside a run");
    CHECK_FAULT(UNPACK("\xF0x", 5, out), FAULT_DECODE);
    CHECK_CONTAINS(why.text, "run of 17 bytes at byte 64 where 5 are left");
    CHECK_FAULT(UNPACK("\x06"
                       "abcdefg",
                       5, out),
                FAULT_DECODE);
    CHECK_CONTAINS(why.text, "run of 7 bytes at byte 64 where 5 are left");
    CHECK_FAULT(UNPACK("\xFFx\xFFy", 2, out), FAULT_DECODE);
    CHECK_CONTAINS(why.text, "goes on for 2 bytes after its 2 bytes are full");
    CHECK_FAULT(UNPACK("\xFFx\x01", 2, out), FAULT_DECODE); // one byte too many, and not zero
    CHECK_CONTAINS(why.text, "goes on for 1 bytes");
    uint8_t frame[80] = {0};
    CHECK_FAULT(rle_decode(frame, 63, 4, 1, out, &why), FAULT_DECODE);
    CHECK_CONTAINS(why.text, "63 bytes has no header");
    static const uint32_t bad[][3] = {
        // segments, offsets; for samples of two bytes
        {0, 64, 70}, {1, 64, 70}, {15, 64, 70}, {0xFFFFFFFF, 64, 70}, {2, 63, 70}, {2, 64, 64},
        {2, 70, 64}, {2, 64, 80}, {2, 64, 0},   {2, 0xFFFFFFFF, 70},  {2, 0, 70},  {2, 64, 0x80000000},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fprintf(stderr, "header %zu\n", i);
        for (int k = 0; k < 12; k++)
            frame[k] = (uint8_t)(bad[i][k / 4] >> 8 * (k % 4));
        CHECK_FAULT(rle_decode(frame, sizeof frame, 4, 2, out, &why), FAULT_DECODE);
    }
}

// Every frame that is cut short or goes on too long is refused, wherever.
static void rle_every_length_counts(void)
{
    uint8_t frame[64 + 5] = {1, 0, 0, 0, 64}, out[6];
    static const uint8_t segment[] = {0xFE, 1, 1, 2, 3};
    memcpy(frame + 64, segment, sizeof segment);
    CHECK_OK(rle_decode(frame, sizeof frame, 5, 1, out, &why));
    for (size_t n = 0; n < 8; n++)
        if (n != 5)
            CHECK_FAULT(rle_decode(frame, sizeof frame, n, 1, out, &why), FAULT_DECODE);
    for (size_t size = 0; size < sizeof frame; size++) {
        uint8_t *cut = malloc(size + 1);
        CHECK(cut != NULL);
        memcpy(cut, frame, size);
        CHECK_FAULT(rle_decode(cut, size, 5, 1, out, &why), FAULT_DECODE);
        free(cut);
    }
}

// ---- JPEG 2000

struct coded {
    uint8_t data[65536];
    size_t size, at;
};

static OPJ_SIZE_T coded_write(void *data, OPJ_SIZE_T n, void *user)
{
    struct coded *coded = user;
    CHECK(coded->at + n <= sizeof coded->data);
    memcpy(coded->data + coded->at, data, n);
    coded->at += n;
    coded->size = coded->at > coded->size ? coded->at : coded->size;
    return n;
}

static OPJ_OFF_T coded_skip(OPJ_OFF_T n, void *user)
{
    ((struct coded *)user)->at += (size_t)n;
    return n;
}

static OPJ_BOOL coded_seek(OPJ_OFF_T at, void *user)
{
    ((struct coded *)user)->at = (size_t)at;
    return OPJ_TRUE;
}

enum { ROWS = 21, COLUMNS = 35 };

static const size_t n_pixels = (size_t)ROWS * COLUMNS;

static const struct pixels_layout twelve = {16, 12, 11, 0}, full = {16, 16, 15, 1}, eight = {8, 8, 7, 0};

// Value of pixel i: a slope, its ends, and rubbish.
static int32_t value_at(size_t i, int bits, int is_signed)
{
    uint32_t value = i % 7 == 0 ? 0 : i % 11 == 0 ? 0xFFFFFFFFu : (uint32_t)(i * 2654435761u >> 7);
    return (int32_t)(value & ((1u << bits) - 1)) - (is_signed ? 1 << (bits - 1) : 0);
}

static void default_parameters(opj_cparameters_t *parameters)
{
    opj_set_default_encoder_parameters(parameters);
    parameters->numresolution = 3; // a tile of 8 has no more
}

static void encode(struct coded *coded, int bits, int is_signed, int n_components,
                   const opj_cparameters_t *chosen)
{
    opj_cparameters_t parameters;
    default_parameters(&parameters);
    if (chosen != NULL)
        parameters = *chosen;
    parameters.tcp_numlayers = 1;
    parameters.cp_disto_alloc = 1;
    parameters.tcp_mct = 0;
    opj_image_cmptparm_t component[3];
    memset(component, 0, sizeof component);
    for (int c = 0; c < 3; c++)
        component[c] = (opj_image_cmptparm_t){.dx = 1,
                                              .dy = 1,
                                              .w = COLUMNS,
                                              .h = ROWS,
                                              .prec = (OPJ_UINT32)bits,
                                              .bpp = (OPJ_UINT32)bits,
                                              .sgnd = (OPJ_UINT32)is_signed};
    opj_image_t *image = opj_image_create((OPJ_UINT32)n_components, component, OPJ_CLRSPC_GRAY);
    CHECK(image != NULL);
    image->x1 = COLUMNS;
    image->y1 = ROWS;
    for (int c = 0; c < n_components; c++)
        for (size_t i = 0; i < n_pixels; i++)
            image->comps[c].data[i] = value_at(i, bits, is_signed);
    coded->size = coded->at = 0;
    opj_codec_t *codec = opj_create_compress(OPJ_CODEC_J2K);
    opj_stream_t *stream = opj_stream_create(4096, OPJ_STREAM_WRITE);
    opj_stream_set_user_data(stream, coded, NULL);
    opj_stream_set_write_function(stream, coded_write);
    opj_stream_set_skip_function(stream, coded_skip);
    opj_stream_set_seek_function(stream, coded_seek);
    CHECK(opj_setup_encoder(codec, &parameters, image) && opj_start_compress(codec, image, stream) &&
          opj_encode(codec, stream) && opj_end_compress(codec, stream));
    opj_stream_destroy(stream);
    opj_destroy_codec(codec);
    opj_image_destroy(image);
}

static uint8_t decoded[2 * ROWS * COLUMNS];

// From a block of exactly its size.
static int decode(const struct coded *coded, const struct pixels_layout *layout, int rows, int columns)
{
    uint8_t *exact = malloc(coded->size + 1);
    CHECK(exact != NULL);
    memcpy(exact, coded->data, coded->size);
    int rc = j2k_decode(exact, coded->size, layout, rows, columns, decoded, &why);
    free(exact);
    return rc;
}

static void expect_exact(const struct pixels_layout *layout, const struct coded *coded, int bits)
{
    CHECK_OK(decode(coded, layout, ROWS, COLUMNS));
    for (size_t i = 0; i < n_pixels; i++) {
        uint32_t want = (uint32_t)value_at(i, bits, layout->is_signed);
        if (layout->bits_allocated == 8)
            CHECK_INT(decoded[i], want & 0xFF);
        else
            CHECK_INT(decoded[2 * i] | decoded[2 * i + 1] << 8, want & 0xFFFF);
    }
}

static struct coded coded;

static void j2k_is_exact(void)
{
    static const struct pixels_layout layouts[] = {{8, 8, 7, 0},    {8, 8, 7, 1},    {8, 5, 4, 0},
                                                   {16, 12, 11, 0}, {16, 12, 11, 1}, {16, 16, 15, 0},
                                                   {16, 16, 15, 1}};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        fprintf(stderr, "layout %zu\n", i);
        encode(&coded, layouts[i].bits_stored, layouts[i].is_signed, 1, NULL);
        expect_exact(&layouts[i], &coded, layouts[i].bits_stored);
    }
    // the whole of Bits Allocated coded, whatever is stored in it and where
    encode(&coded, 16, 0, 1, NULL);
    expect_exact(&twelve, &coded, 16);
    expect_exact(&(struct pixels_layout){16, 12, 15, 0}, &coded, 16);
    // fewer bits than stored
    encode(&coded, 10, 0, 1, NULL);
    expect_exact(&twelve, &coded, 10);
    // one byte to an even length
    encode(&coded, 12, 0, 1, NULL);
    coded.data[coded.size++] = 0;
    expect_exact(&twelve, &coded, 12);
}

static void j2k_tiles_and_levels(void)
{
    opj_cparameters_t p;
    default_parameters(&p);
    p.tile_size_on = OPJ_TRUE;
    p.cp_tdx = p.cp_tdy = 8;
    encode(&coded, 12, 0, 1, &p);
    expect_exact(&twelve, &coded, 12);
    for (int levels = 1; levels < 6; levels++) {
        default_parameters(&p);
        p.numresolution = levels;
        p.prog_order = (OPJ_PROG_ORDER)(levels % 5);
        p.csty = levels & 1 ? 0x6 : 0; // SOP and EPH markers
        encode(&coded, 12, 0, 1, &p);
        expect_exact(&twelve, &coded, 12);
    }
}

static void j2k_lossy_is_refused(void)
{
    opj_cparameters_t p;
    default_parameters(&p);
    p.irreversible = 1;
    encode(&coded, 12, 0, 1, &p);
    CHECK_FAULT(decode(&coded, &twelve, ROWS, COLUMNS), FAULT_LOSSY);
    CHECK_CONTAINS(why.text, "wavelet 0, not the reversible 5/3");
    CHECK_STR(fault_name(FAULT_LOSSY), "LOSSY");
}

static void j2k_header_must_agree(void)
{
    encode(&coded, 12, 0, 1, NULL);
    CHECK_FAULT(decode(&coded, &twelve, COLUMNS, ROWS), FAULT_PIXEL_SIZE);
    CHECK_CONTAINS(why.text, "holds 21 x 35 pixels of 1 components, the header says 35 x 21");
    CHECK_FAULT(decode(&coded, &twelve, ROWS, COLUMNS - 1), FAULT_PIXEL_SIZE);
    CHECK_FAULT(decode(&coded, &eight, ROWS, COLUMNS), FAULT_PIXEL_SIZE);
    CHECK_CONTAINS(why.text, "holds 12 bits, the header says 8 allocated");
    CHECK_FAULT(decode(&coded, &(struct pixels_layout){16, 10, 9, 0}, ROWS, COLUMNS), FAULT_PIXEL_SIZE);
    CHECK_FAULT(decode(&coded, &(struct pixels_layout){16, 12, 15, 0}, ROWS, COLUMNS), FAULT_PIXEL_SIZE);
    CHECK_FAULT(decode(&coded, &full, ROWS, COLUMNS), FAULT_PIXEL_SIZE);
    CHECK_CONTAINS(why.text, "codestream is unsigned, the header says signed");
    encode(&coded, 16, 1, 1, NULL);
    CHECK_FAULT(decode(&coded, &(struct pixels_layout){16, 16, 15, 0}, ROWS, COLUMNS), FAULT_PIXEL_SIZE);
    encode(&coded, 8, 0, 3, NULL);
    CHECK_FAULT(decode(&coded, &eight, ROWS, COLUMNS), FAULT_PIXEL_SIZE);
    CHECK_CONTAINS(why.text, "of 3 components");
}

static size_t find(unsigned marker)
{
    for (size_t at = 0; at + 1 < coded.size; at++)
        if (coded.data[at] == marker >> 8 && coded.data[at + 1] == (marker & 0xFF))
            return at;
    CHECK_FAIL("there is no marker %04x", marker);
}

static void patch(unsigned marker, size_t shift, const char *bytes, size_t n)
{
    encode(&coded, 12, 0, 1, NULL);
    memcpy(coded.data + find(marker) + shift, bytes, n);
}

#define PATCH(marker, shift, text) patch(marker, shift, text, sizeof(text) - 1)

static void expect_refusal(const char *part)
{
    CHECK_FAULT(decode(&coded, &twelve, ROWS, COLUMNS), FAULT_DECODE);
    fprintf(stderr, "%s\n", why.text);
    CHECK_CONTAINS(why.text, part);
}

// What a codestream asks for is bounded before the decoder sees it.
static void j2k_limits(void)
{
    enum { SIZ = 0xFF51, COD = 0xFF52, SOT = 0xFF90, EOC = 0xFFD9 };
    PATCH(SIZ, 22, "\0\0\0\1\0\0\0\1"); // tiles of one pixel: 735 are allowed, but not there
    expect_refusal("tile 1 of 735 is missing");
    PATCH(SIZ, 22, "\0\0\0\0\0\0\0\1");
    expect_refusal("0 tiles, not 1 to 1024");
    PATCH(SIZ, 4, "\x40\x00"); // high throughput
    expect_refusal("capabilities 0x4000 beyond part 1");
    PATCH(COD, 9, "\x20");
    expect_refusal("32 decompositions");
    PATCH(COD, 6, "\xFF\xFF");
    expect_refusal("65535 layers");
    PATCH(COD, 10, "\x08\x08");
    expect_refusal("code blocks of size 8, 8");
    PATCH(COD, 12, "\x40");
    expect_refusal("style 0x40");
    PATCH(COD, 4, "\x01"); // says that precincts follow
    expect_refusal("0 bytes of precinct sizes for 2");
    PATCH(COD, 0, "\xFF\x50");
    expect_refusal("marker 0xff50 at byte");
    PATCH(COD, 0, "\xFF\x5F"); // packets in another order
    expect_refusal("marker 0xff5f at byte");
    PATCH(COD, 0, "\xFF\x64"); // a comment instead
    expect_refusal("no coding style");
    PATCH(SOT, 4, "\0\1");
    expect_refusal("tile-part of tile 1");
    PATCH(SOT, 6, "\xFF\xFF\xFF\xFF");
    expect_refusal("tile-part of tile 0 with 4294967295 bytes");
    PATCH(SOT, 6, "\0\0\0\1");
    expect_refusal("tile-part of tile 0 with 1 bytes");
    encode(&coded, 12, 0, 1, NULL);
    coded.size -= 2;
    expect_refusal("does not end with EOC");
    encode(&coded, 12, 0, 1, NULL);
    coded.data[0] = 0;
    expect_refusal("does not begin with SOC and SIZ");
    // a large image with precincts of a pixel and many layers: the table would take gigabytes
    struct pixels_layout layout = twelve;
    static const uint8_t bomb[] = {
        0xFF, 0x4F, 0xFF, 0x51, 0,    41, 0,  0,    0,    0, 16, 0,  0, 0, 16,  0,    0,    0,    0,
        0,    0,    0,    0,    0,    0,  0,  16,   0,    0, 0,  16, 0, 0, 0,   0,    0,    0,    0,
        0,    0,    0,    1,    11,   1,  1,  0xFF, 0x52, 0, 13, 1,  0, 0, 200, 0,    0,    4,    4,
        0,    1,    0x00, 0xFF, 0x90, 0,  10, 0,    0,    0, 0,  0,  0, 0, 1,   0xFF, 0x93, 0xFF, 0xD9};
    CHECK_FAULT(j2k_check(bomb, sizeof bomb, &layout, 4096, 4096, &why), FAULT_DECODE);
    CHECK_CONTAINS(why.text, "16785409 precincts in 200 layers");
}

// Any byte changed, and any cut: a fault or other pixels, never anything worse. Cuts are always faults.
static void j2k_damage(void)
{
    opj_cparameters_t p;
    default_parameters(&p);
    p.tile_size_on = OPJ_TRUE;
    p.cp_tdx = p.cp_tdy = 16;
    encode(&coded, 12, 0, 1, &p);
    static struct coded whole;
    whole = coded;
    int refused = 0;
    for (size_t size = 0; size < whole.size; size++) {
        coded.size = size;
        int rc = decode(&coded, &twelve, ROWS, COLUMNS);
        CHECK(rc == FAULT_DECODE || rc == FAULT_PIXEL_SIZE);
    }
    for (size_t at = 0; at < whole.size; at++) {
        coded = whole;
        coded.data[at] ^= (uint8_t)(1 + at % 255);
        int rc = decode(&coded, &twelve, ROWS, COLUMNS);
        CHECK(rc == 0 || rc == FAULT_DECODE || rc == FAULT_PIXEL_SIZE || rc == FAULT_LOSSY);
        refused += rc != 0;
    }
    printf("%d of %zu changed bytes were noticed\n", refused, whole.size);
    CHECK(refused > 100);
}

// Packets that end early, in a codestream that says so throughout: what is missing must not be made up.
static void expect_all_packets(const opj_cparameters_t *parameters)
{
    encode(&coded, 12, 0, 1, parameters);
    static struct coded whole;
    whole = coded;
    size_t sot = find(0xFF90), first = find(0xFF93) + 2, last = whole.size - 2;
    expect_exact(&twelve, &coded, 12);
    for (size_t end = first; end < last; end++) {
        coded = whole;
        uint32_t length = (uint32_t)(end - sot);
        for (int i = 0; i < 4; i++)
            coded.data[sot + 6 + (size_t)i] = (uint8_t)(length >> (24 - 8 * i));
        coded.data[end] = 0xFF;
        coded.data[end + 1] = 0xD9;
        coded.size = end + 2;
        int rc = decode(&coded, &twelve, ROWS, COLUMNS);
        if (rc != FAULT_DECODE)
            CHECK_FAIL("%zu of %zu bytes of packets are taken for all: %d", end - first, last - first, rc);
    }
}

static void j2k_missing_packets(void)
{
    opj_cparameters_t p;
    for (int order = 0; order < 5; order++)
        for (int style = 0; style < 4; style++) {
            default_parameters(&p);
            p.prog_order = (OPJ_PROG_ORDER)order;
            p.csty = style << 1; // marks around packets
            p.cblockw_init = p.cblockh_init = style & 1 ? 16 : 64;
            expect_all_packets(&p);
        }
}

// ---- JPEG and JPEG-LS: headers only

struct jpeg {
    int frame, rows, columns, components, bits, near, shift;
};

static int check_jpeg(const char *syntax, struct jpeg j)
{
    const uint8_t data[] = {0xFF,
                            0xD8,
                            0xFF,
                            0xE0,
                            0,
                            4,
                            1,
                            2,
                            0xFF,
                            (uint8_t)j.frame,
                            0,
                            11,
                            (uint8_t)j.bits,
                            (uint8_t)(j.rows >> 8),
                            (uint8_t)j.rows,
                            (uint8_t)(j.columns >> 8),
                            (uint8_t)j.columns,
                            (uint8_t)j.components,
                            1,
                            0x11,
                            0,
                            0xFF,
                            0xDA,
                            0,
                            8,
                            1,
                            1,
                            0,
                            (uint8_t)j.near,
                            0,
                            (uint8_t)j.shift,
                            0x55,
                            0xFF,
                            0xD9};
    uint8_t *exact = malloc(sizeof data);
    CHECK(exact != NULL);
    memcpy(exact, data, sizeof data);
    int rc = codestream_check(syntax, exact, sizeof data, 300, 200, 16, &why);
    for (size_t size = 0; size < sizeof data - 3; size++)
        CHECK(codestream_check(syntax, exact, size, 300, 200, 16, NULL) != 0);
    free(exact);
    return rc;
}

static void jpeg_headers(void)
{
    static const struct jpeg good = {0xC3, 300, 200, 1, 12, 1, 0}, good_ls = {0xF7, 300, 200, 1, 12, 0, 0};
    CHECK_OK(check_jpeg(SYNTAX_JPEG_SV1, good));
    CHECK_OK(check_jpeg(SYNTAX_JPEG, good));
    CHECK_OK(check_jpeg(SYNTAX_JPEG_LS, good_ls));
    struct jpeg j = good;
    j.frame = 0xC1; // DCT
    CHECK_FAULT(check_jpeg(SYNTAX_JPEG_SV1, j), FAULT_LOSSY);
    CHECK_CONTAINS(why.text, "frame type 0xc1");
    CHECK_FAULT(check_jpeg(SYNTAX_JPEG, good_ls), FAULT_LOSSY);
    CHECK_FAULT(check_jpeg(SYNTAX_JPEG_LS, good), FAULT_LOSSY);
    j = good;
    j.shift = 2; // the two lowest bits are gone
    CHECK_FAULT(check_jpeg(SYNTAX_JPEG, j), FAULT_LOSSY);
    CHECK_CONTAINS(why.text, "point transform 2");
    j = good_ls;
    j.near = 3;
    CHECK_FAULT(check_jpeg(SYNTAX_JPEG_LS, j), FAULT_LOSSY);
    CHECK_CONTAINS(why.text, "NEAR 3");
    j = good_ls;
    j.rows = j.columns = 65535;
    CHECK_FAULT(check_jpeg(SYNTAX_JPEG_LS, j), FAULT_PIXEL_SIZE);
    CHECK_CONTAINS(why.text, "65535 x 65535");
    j = good;
    j.components = 3;
    CHECK_FAULT(check_jpeg(SYNTAX_JPEG, j), FAULT_PIXEL_SIZE);
    j = good;
    j.bits = 17;
    CHECK_FAULT(check_jpeg(SYNTAX_JPEG, j), FAULT_PIXEL_SIZE);
    static const uint8_t two[] = {0xFF, 0xD8, 0xFF, 0xC3, 0,    11,   12,   1,    44, 0, 200,
                                  1,    1,    0x11, 0,    0xFF, 0xC3, 0,    11,   12, 1, 44,
                                  0,    200,  1,    1,    0x11, 0,    0xFF, 0xDA, 0,  8, 1};
    CHECK_FAULT(codestream_check(SYNTAX_JPEG, two, sizeof two, 300, 200, 16, &why), FAULT_DECODE);
    CHECK_CONTAINS(why.text, "second frame header");
}

// ---- fragments

static void put_fragment(struct object *o, const char *bytes)
{
    put_header(o, 0xFFFEE000, "", (uint32_t)strlen(bytes));
    put_bytes(o, bytes, strlen(bytes));
}

static void build(struct object *o, const char *syntax, int rows, int columns, int with_table)
{
    object_begin(o, syntax);
    put_text(o, 0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.4");
    put_text(o, 0x00080018, "UI", "1.2.3.1");
    put_text(o, 0x0020000D, "UI", "1.2.3.2");
    put_text(o, 0x0020000E, "UI", "1.2.3.3");
    put_us(o, 0x00280002, 1);
    put_us(o, 0x00280010, (unsigned)rows);
    put_us(o, 0x00280011, (unsigned)columns);
    put_us(o, 0x00280100, 8);
    put_header(o, 0x7FE00010, "OB", 0xFFFFFFFFu);
    put_header(o, 0xFFFEE000, "", with_table ? 4 : 0);
    if (with_table)
        put32(o, 0);
}

static void fragments_are_joined(void)
{
    for (int with_table = 0; with_table < 2; with_table++)
        for (int padded = 0; padded < 2; padded++) {
            struct object o;
            build(&o, SYNTAX_JPEG, 4, 4, with_table);
            put_fragment(&o, "ab");
            put_fragment(&o, "");
            put_fragment(&o, "cdef");
            put_fragment(&o, "gh");
            put_header(&o, 0xFFFEE0DD, "", 0);
            if (padded)
                put_bytes(&o, "\0\0\0\0\0\0\0\0\0", 9);
            struct prescan scan;
            void *codestream = NULL;
            size_t size = 0;
            CHECK_OK(prescan_memory(o.data, o.size, &scan, &why));
            CHECK_OK(codestream_join(o.data, o.size, &scan, 0, &codestream, &size, &why));
            CHECK_INT(size, 8);
            CHECK_INT(memcmp(codestream, "abcdefgh", 8), 0);
            free(codestream);
            // what the scan says of another object is not believed
            CHECK_FAULT(
                codestream_join(o.data, (size_t)scan.fragment_offset - 4, &scan, 0, &codestream, &size, &why),
                FAULT_DECODE);
            scan.fragment_offset = 0;
            CHECK_FAULT(codestream_join(o.data, o.size, &scan, 0, &codestream, &size, &why), FAULT_DECODE);
            object_free(&o);
        }
}

// Which fragments are a frame's: by the offset table, or one for each. `want` names the three frames' bytes;
// NULL: a fault.
static void expect_frames(const uint32_t *table, size_t n_table, const char *const *fragments,
                          const char *const *want)
{
    struct object o;
    object_begin(&o, SYNTAX_JPEG);
    put_text(&o, 0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.4.1");
    put_text(&o, 0x00080018, "UI", "1.2.3.1");
    put_text(&o, 0x0020000D, "UI", "1.2.3.2");
    put_text(&o, 0x0020000E, "UI", "1.2.3.3");
    put_us(&o, 0x00280002, 1);
    put_text(&o, 0x00280008, "IS", "3");
    put_us(&o, 0x00280010, 4);
    put_us(&o, 0x00280011, 4);
    put_us(&o, 0x00280100, 8);
    put_header(&o, 0x7FE00010, "OB", 0xFFFFFFFFu);
    put_header(&o, 0xFFFEE000, "", (uint32_t)(4 * n_table));
    for (size_t i = 0; i < n_table; i++)
        put32(&o, table[i]);
    for (; *fragments != NULL; fragments++)
        put_fragment(&o, *fragments);
    put_header(&o, 0xFFFEE0DD, "", 0);
    struct prescan scan;
    CHECK_OK(prescan_memory(o.data, o.size, &scan, &why));
    CHECK_INT(scan.offset_table_size, 4 * n_table);
    void *codestream = NULL;
    size_t size = 0;
    int n_faults = 0;
    for (uint32_t frame = 0; frame < 3; frame++) {
        int rc = codestream_join(o.data, o.size, &scan, frame, &codestream, &size, &why);
        if (want == NULL) {
            n_faults += rc == FAULT_DECODE;
            if (rc == 0)
                free(codestream);
            continue;
        }
        CHECK_OK(rc);
        CHECK_INT(size, strlen(want[frame]));
        CHECK_INT(memcmp(codestream, want[frame], size), 0);
        free(codestream);
    }
    if (want == NULL)
        CHECK(n_faults > 0);
    CHECK_FAULT(codestream_join(o.data, o.size, &scan, 3, &codestream, &size, &why), FAULT_DECODE);
    object_free(&o);
}

static void frames_are_told_apart(void)
{
    static const char *const one_each[] = {"ab", "cdef", "gh", NULL}, *const four[] = {"ab", "cd", "ef", "gh",
                                                                                       NULL};
    static const char *const want[] = {"ab", "cdef", "gh"};
    expect_frames(NULL, 0, one_each, want);
    expect_frames((const uint32_t[]){0, 10, 22}, 3, one_each, want);
    expect_frames((const uint32_t[]){0, 10, 30}, 3, four, want);
    expect_frames(NULL, 0, four, NULL);
    expect_frames((const uint32_t[]){0, 10}, 2, one_each, NULL);
    expect_frames((const uint32_t[]){0, 10, 22, 32}, 4, four, NULL);
    expect_frames((const uint32_t[]){0, 10, 10}, 3, one_each, NULL);
    expect_frames((const uint32_t[]){0, 22, 10}, 3, one_each, NULL);
    expect_frames((const uint32_t[]){10, 10, 22}, 3, one_each, NULL);
    expect_frames((const uint32_t[]){0, 12, 22}, 3, one_each, NULL);
    expect_frames((const uint32_t[]){0, 10, 32}, 3, one_each, NULL);
    expect_frames((const uint32_t[]){0, 10, 0xFFFFFFF0u}, 3, one_each, NULL);
}

// Objects of a few hundred bytes that announce gigabytes are refused by the first look, in no time and
// memory.
static void bombs_are_refused(void)
{
    static const struct {
        const char *syntax;
        size_t pixel_bytes;
    } bombs[] = {{SYNTAX_RLE, 536}, {SYNTAX_JPEG_LS, 562}, {SYNTAX_JPEG_2000, 600}, {SYNTAX_JPEG_SV1, 600}};
    clock_t start = clock();
    for (size_t i = 0; i < sizeof bombs / sizeof bombs[0]; i++) {
        struct object o;
        build(&o, bombs[i].syntax, 65535, 65535, 0);
        char text[601] = "";
        memset(text, 'x', bombs[i].pixel_bytes);
        put_fragment(&o, text);
        put_header(&o, 0xFFFEE0DD, "", 0);
        struct prescan scan;
        CHECK_FAULT(prescan_memory(o.data, o.size, &scan, &why), FAULT_PIXEL_SIZE);
        CHECK_CONTAINS(why.text, "cannot hold 4294836225");
        object_free(&o);
    }
    // and by the second: codestreams of that size under any header
    static uint8_t out[16];
    uint8_t rle[536] = {1, 0, 0, 0, 64};
    CHECK_FAULT(rle_decode(rle, sizeof rle, 16, 1, out, &why), FAULT_DECODE);
    struct jpeg j = {0xF7, 65535, 65535, 1, 16, 0, 0};
    CHECK_FAULT(check_jpeg(SYNTAX_JPEG_LS, j), FAULT_PIXEL_SIZE);
    encode(&coded, 12, 0, 1, NULL);
    memcpy(coded.data + 8, "\0\0\xFF\xFF\0\0\xFF\xFF", 8);
    CHECK_FAULT(decode(&coded, &twelve, ROWS, COLUMNS), FAULT_PIXEL_SIZE);
    CHECK_CONTAINS(why.text, "65535 x 65535");
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("%.3f s, %ld kB\n", (double)(clock() - start) / CLOCKS_PER_SEC, usage.ru_maxrss);
    CHECK((double)(clock() - start) / CLOCKS_PER_SEC < 2);
}

static const struct test tests[] = {
    {"unit.rle.unpacks", rle_unpacks},
    {"unit.rle.puts_bytes_together", rle_puts_bytes_together},
    {"unit.rle.faults_are_named", rle_faults_are_named},
    {"unit.rle.every_length_counts", rle_every_length_counts},
    {"unit.j2k.is_exact", j2k_is_exact},
    {"unit.j2k.tiles_and_levels", j2k_tiles_and_levels},
    {"unit.j2k.lossy_is_refused", j2k_lossy_is_refused},
    {"unit.j2k.header_must_agree", j2k_header_must_agree},
    {"unit.j2k.limits", j2k_limits},
    {"unit.j2k.damage", j2k_damage},
    {"unit.j2k.missing_packets", j2k_missing_packets},
    {"unit.codestream.jpeg_headers", jpeg_headers},
    {"unit.codestream.fragments_are_joined", fragments_are_joined},
    {"unit.codestream.frames_are_told_apart", frames_are_told_apart},
    {"unit.codestream.bombs_are_refused", bombs_are_refused},
};
TEST_MAIN(tests)
