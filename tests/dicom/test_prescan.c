// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/prescan.h"
#include "tests/dicom/object.h"
#include "tests/support/check.h"

#include <dirent.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

static struct fault_note why;

#define EXPLICIT_LE "1.2.840.10008.1.2.1"
#define IMPLICIT_LE "1.2.840.10008.1.2"
#define JPEG_LL     "1.2.840.10008.1.2.4.70"
#define NOWHERE     0xFFFFFFFFu

// What one test wants to be wrong or odd.
struct oddity {
    const char *transfer_syntax;
    const char *sop_uid;
    unsigned rows, columns, bits, samples;
    const char *frames;
    long pixel_bytes;                        // -1: as the dimensions say
    void (*before_pixels)(struct object *o); // elements in groups 0029 to 7FDF
    void (*after_uids)(struct object *o);    // elements from (0020,000F) to group 0027
};

static void build(struct object *o, struct oddity odd)
{
    object_begin(o, odd.transfer_syntax ? odd.transfer_syntax : EXPLICIT_LE);
    put_text(o, 0x00080005, "CS", "ISO_IR 100");
    put_text(o, 0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.4");
    put_text(o, 0x00080018, "UI", odd.sop_uid ? odd.sop_uid : "1.2.3.4");
    put_text(o, 0x00080060, "CS", "MR");
    put_text(o, 0x0020000D, "UI", "1.2.3");
    put_text(o, 0x0020000E, "UI", "1.2.3.1");
    if (odd.after_uids != NULL)
        odd.after_uids(o);
    unsigned rows = odd.rows ? odd.rows : 4, columns = odd.columns ? odd.columns : 6;
    unsigned bits = odd.bits ? odd.bits : 16, samples = odd.samples ? odd.samples : 1;
    put_us(o, 0x00280002, samples);
    if (odd.frames != NULL)
        put_text(o, 0x00280008, "IS", odd.frames);
    put_us(o, 0x00280010, rows);
    put_us(o, 0x00280011, columns);
    put_us(o, 0x00280100, bits);
    if (odd.before_pixels != NULL)
        odd.before_pixels(o);
    size_t bytes = odd.pixel_bytes >= 0 ? (size_t)odd.pixel_bytes
                                        : (size_t)rows * columns * samples * ((bits + 7) / 8) *
                                              (odd.frames ? (size_t)atoi(odd.frames) : 1);
    uint8_t *pixels = calloc(1, bytes + 1);
    CHECK(pixels != NULL);
    if (odd.transfer_syntax != NULL && strncmp(odd.transfer_syntax, "1.2.840.10008.1.2.4", 19) == 0) {
        put_header(o, 0x7FE00010, "OB", NOWHERE);
        put_header(o, 0xFFFEE000, "", 0);
        put_header(o, 0xFFFEE000, "", (uint32_t)bytes);
        put_bytes(o, pixels, bytes);
        put_header(o, 0xFFFEE0DD, "", 0);
    } else {
        put_element(o, 0x7FE00010, "OW", pixels, bytes);
    }
    free(pixels);
}

static int scan(struct oddity odd, struct prescan *out)
{
    struct object o;
    build(&o, odd);
    int rc = prescan_memory(o.data, o.size, out, &why);
    object_free(&o);
    return rc;
}

static void reads_what_it_passes(void)
{
    struct prescan p;
    CHECK_OK(scan((struct oddity){.pixel_bytes = -1}, &p));
    CHECK_STR(p.transfer_syntax, EXPLICIT_LE);
    CHECK_STR(p.sop_class_uid, "1.2.840.10008.5.1.4.1.1.4");
    CHECK_STR(p.sop_instance_uid, "1.2.3.4");
    CHECK_STR(p.study_uid, "1.2.3");
    CHECK_STR(p.series_uid, "1.2.3.1");
    CHECK_STR(p.source_ae, "SCANNER1");
    CHECK_INT(p.rows, 4);
    CHECK_INT(p.columns, 6);
    CHECK_INT(p.bits_allocated, 16);
    CHECK_INT(p.frames, 1);
    CHECK_INT(p.has_pixel_data, 1);
    struct object o;
    build(&o, (struct oddity){.pixel_bytes = -1});
    char want[DIGEST_HEX_SIZE];
    CHECK_OK(digest_of(o.data + p.dataset_offset, o.size - p.dataset_offset, want, &why));
    CHECK_STR(p.digest, want);
    CHECK(memcmp(o.data + p.dataset_offset, "\x08\x00\x05\x00", 4) == 0);
    object_free(&o);
    CHECK_OK(scan((struct oddity){.transfer_syntax = IMPLICIT_LE, .pixel_bytes = -1}, &p));
    CHECK_STR(p.transfer_syntax, IMPLICIT_LE);
    CHECK_OK(scan((struct oddity){.transfer_syntax = JPEG_LL, .pixel_bytes = 40}, &p));
    CHECK_INT(p.has_pixel_data, 1);
    CHECK_OK(scan((struct oddity){.frames = "3", .pixel_bytes = -1}, &p));
    CHECK_INT(p.frames, 3);
}

static void refuses_transfer_syntaxes(void)
{
    struct prescan p;
    static const char *const refused[] = {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2",
                                          "1.2.840.113619.5.2"};
    for (size_t i = 0; i < 3; i++)
        CHECK_FAULT(scan((struct oddity){.transfer_syntax = refused[i], .pixel_bytes = -1}, &p),
                    FAULT_TRANSFER_SYNTAX);
}

static void refuses_wrong_pixel_size(void)
{
    struct prescan p;
    CHECK_FAULT(scan((struct oddity){.rows = 512, .columns = 512, .pixel_bytes = 20}, &p), FAULT_PIXEL_SIZE);
    CHECK_CONTAINS(why.text, "20 bytes");
    CHECK_CONTAINS(why.text, "524288");
    CHECK_FAULT(scan((struct oddity){.pixel_bytes = 46}, &p), FAULT_PIXEL_SIZE);
    CHECK_FAULT(scan((struct oddity){.pixel_bytes = 50}, &p), FAULT_PIXEL_SIZE);
    CHECK_FAULT(scan((struct oddity){.samples = 5, .pixel_bytes = -1}, &p), FAULT_PIXEL_SIZE);
    CHECK_FAULT(scan((struct oddity){.bits = 65, .pixel_bytes = -1}, &p), FAULT_PIXEL_SIZE);
    CHECK_FAULT(scan((struct oddity){.frames = "0", .pixel_bytes = 48}, &p), FAULT_BAD_HEADER);
    CHECK_FAULT(scan((struct oddity){.frames = "9999999", .pixel_bytes = 48}, &p), FAULT_BAD_HEADER);
    CHECK_FAULT(scan((struct oddity){.frames = "1x", .pixel_bytes = 48}, &p), FAULT_BAD_HEADER);
    // 8 bit, odd count: one byte of padding belongs
    CHECK_OK(scan((struct oddity){.rows = 3, .columns = 3, .bits = 8, .pixel_bytes = -1}, &p));
    // a few hundred compressed bytes for 8 GB
    CHECK_FAULT(
        scan((struct oddity){.transfer_syntax = JPEG_LL, .rows = 65535, .columns = 65535, .pixel_bytes = 536},
             &p),
        FAULT_PIXEL_SIZE);
    CHECK_FAULT(scan((struct oddity){.transfer_syntax = JPEG_LL, .pixel_bytes = 0}, &p), FAULT_PIXEL_SIZE);
}

// Story: GE images came with 19 images' worth of zero bytes after the pixel data.
static void lets_zeros_after_pixels_pass(void)
{
    struct object o;
    struct prescan p;
    static const uint8_t zeros[1001] = {0};
    build(&o, (struct oddity){.pixel_bytes = -1});
    size_t end = o.size;
    put_bytes(&o, zeros, sizeof zeros);
    CHECK_OK(prescan_memory(o.data, o.size, &p, &why));
    CHECK_INT(p.dataset_end, end);
    o.data[o.size - 1] = 1;
    CHECK(prescan_memory(o.data, o.size, &p, &why) != 0);
    object_free(&o);
    object_begin(&o, EXPLICIT_LE);
    put_text(&o, 0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.4");
    put_bytes(&o, zeros, sizeof zeros);
    CHECK(prescan_memory(o.data, o.size, &p, &why) != 0);
    object_free(&o);
}

static void refuses_bad_uids(void)
{
    struct prescan p;
    static const char *const bad[] = {"../../../../tmp/x",
                                      "1.2.03",
                                      "1..2",
                                      "1.2.",
                                      "1.2.3a",
                                      ".1",
                                      "1/2",
                                      "1.2.3.4567890123456789012345678901234567890123456789012345678901234"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_FAULT(scan((struct oddity){.sop_uid = bad[i], .pixel_bytes = -1}, &p), FAULT_BAD_UID);
    struct object o;
    object_begin(&o, EXPLICIT_LE);
    put_text(&o, 0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.4");
    CHECK_FAULT(prescan_memory(o.data, o.size, &p, &why), FAULT_BAD_UID);
    CHECK_CONTAINS(why.text, "SOP Instance");
    object_free(&o);
    object_begin(&o, EXPLICIT_LE);
    put_element(&o, 0x00080018, "UI", "1.2\0.3", 6); // a zero byte inside
    CHECK_FAULT(prescan_memory(o.data, o.size, &p, &why), FAULT_BAD_UID);
    object_free(&o);
}

// ---- nesting

static int nest_depth;
static int nest_undefined;
static const char *nest_vr;

static void put_nest(struct object *o)
{
    // Explicit lengths from the inside out would be quadratic to build: compute them from the depth instead.
    size_t sequence_header = o->explicit_vr ? 12 : 8;
    uint32_t whole = (uint32_t)((sequence_header + 8) * (size_t)nest_depth);
    for (int i = 0; i < nest_depth; i++) {
        whole -= (uint32_t)sequence_header;
        put_header(o, 0x00400275, nest_vr, nest_undefined ? NOWHERE : whole);
        whole -= 8;
        put_header(o, 0xFFFEE000, "", nest_undefined ? NOWHERE : whole);
    }
    for (int i = 0; nest_undefined && i < nest_depth; i++) {
        put_header(o, 0xFFFEE00D, "", 0);
        put_header(o, 0xFFFEE0DD, "", 0);
    }
}

static int scan_nest(const char *transfer_syntax, const char *vr, int depth, int undefined)
{
    struct prescan p;
    nest_depth = depth;
    nest_undefined = undefined;
    nest_vr = vr;
    return scan(
        (struct oddity){.transfer_syntax = transfer_syntax, .before_pixels = put_nest, .pixel_bytes = -1},
        &p);
}

static void bounds_nesting(void)
{
    static const char *const syntaxes[] = {EXPLICIT_LE, IMPLICIT_LE};
    for (int s = 0; s < 2; s++)
        for (int undefined = 0; undefined < 2; undefined++) {
            CHECK_OK(scan_nest(syntaxes[s], "SQ", PRESCAN_MAX_DEPTH, undefined));
            CHECK_FAULT(scan_nest(syntaxes[s], "SQ", PRESCAN_MAX_DEPTH + 1, undefined), FAULT_BAD_HEADER);
            CHECK_CONTAINS(why.text, "deeper than 16");
            CHECK_FAULT(scan_nest(syntaxes[s], "SQ", 20000, undefined), FAULT_BAD_HEADER);
        }
}

static void put_un_nest(struct object *o)
{
    put_header(o, 0x00400275, "UN", NOWHERE);
    o->explicit_vr = 0; // inside a UN sequence
    put_header(o, 0xFFFEE000, "", NOWHERE);
    put_nest(o);
    put_header(o, 0xFFFEE00D, "", 0);
    put_header(o, 0xFFFEE0DD, "", 0);
    o->explicit_vr = 1;
}

static void bounds_nesting_in_un(void)
{
    struct prescan p;
    nest_undefined = 1;
    nest_depth = 15;
    CHECK_OK(scan((struct oddity){.before_pixels = put_un_nest, .pixel_bytes = -1}, &p));
    nest_depth = 16;
    CHECK_FAULT(scan((struct oddity){.before_pixels = put_un_nest, .pixel_bytes = -1}, &p), FAULT_BAD_HEADER);
    nest_depth = 20000;
    CHECK_FAULT(scan((struct oddity){.before_pixels = put_un_nest, .pixel_bytes = -1}, &p), FAULT_BAD_HEADER);
}

static void put_looks_like_sequence(struct object *o)
{
    // Opaque bytes that begin like an item, twice nested and then nonsense.
    static const char value[] =
        "\xFE\xFF\x00\xE0\x20\x00\x00\x00\x40\x00\x75\x02\x10\x00\x00\x00\xFE\xFF\x00\xE0"
        "\xFF\xFF\xFF\xFFnonsense, not a sequence";
    put_element(o, 0x00431029, "UN", value, sizeof value - 1);
}

static void accepts_values_that_look_like_sequences(void)
{
    struct prescan p;
    CHECK_OK(scan((struct oddity){.before_pixels = put_looks_like_sequence, .pixel_bytes = -1}, &p));
    CHECK_OK(scan((struct oddity){.transfer_syntax = IMPLICIT_LE,
                                  .before_pixels = put_looks_like_sequence,
                                  .pixel_bytes = -1},
                  &p));
    CHECK_INT(p.has_pixel_data, 1);
}

// ---- lengths, order, delimiters

static uint32_t odd_length;

static void put_odd_length(struct object *o)
{
    put_header(o, 0x00400254, "UT", odd_length);
}

static void put_item_longer_than_sequence(struct object *o)
{
    put_header(o, 0x00400275, "SQ", 16);
    put_header(o, 0xFFFEE000, "", 64);
    put_text(o, 0x00400007, "LO", "12345678");
}

static void put_unknown_vr(struct object *o)
{
    put_header(o, 0x00400254, "ZZ", 0);
}

static void put_backwards(struct object *o)
{
    put_text(o, 0x00080060, "CS", "MR");
}

static void put_stray_delimiter(struct object *o)
{
    put_header(o, 0xFFFEE0DD, "", 0);
}

static void put_open_sequence(struct object *o)
{
    put_header(o, 0x00400275, "SQ", NOWHERE);
    put_header(o, 0xFFFEE000, "", NOWHERE);
    put_header(o, 0xFFFEE00D, "", 0);
}

static void put_long_delimiter(struct object *o)
{
    put_header(o, 0x00400275, "SQ", NOWHERE);
    put_header(o, 0xFFFEE0DD, "", 4);
}

static void put_many_items(struct object *o)
{
    put_header(o, 0x00400275, "SQ", NOWHERE);
    for (int i = 0; i <= PRESCAN_MAX_ITEMS; i++)
        put_header(o, 0xFFFEE000, "", 0);
    put_header(o, 0xFFFEE0DD, "", 0);
}

static void put_long_value(struct object *o)
{
    size_t size = PRESCAN_MAX_VALUE + 2;
    void *value = calloc(1, size);
    CHECK(value != NULL);
    put_element(o, 0x00431029, "OB", value, size);
    free(value);
}

static void put_text_without_length(struct object *o)
{
    put_header(o, 0x00400254, "UT", NOWHERE);
}

static void refuses_broken_encodings(void)
{
    static const struct {
        void (*put)(struct object *o);
        enum fault fault;
        uint32_t length;
    } cases[] = {
        {put_odd_length, FAULT_TRUNCATED, 0xFFFFFFF0u},
        {put_odd_length, FAULT_TRUNCATED, 0x7FFFFFFFu},
        {put_item_longer_than_sequence, FAULT_BAD_HEADER, 0},
        {put_unknown_vr, FAULT_BAD_HEADER, 0},
        {put_backwards, FAULT_BAD_HEADER, 0},
        {put_stray_delimiter, FAULT_BAD_HEADER, 0},
        {put_open_sequence, FAULT_BAD_HEADER, 0},
        {put_long_delimiter, FAULT_BAD_HEADER, 0},
        {put_many_items, FAULT_BAD_HEADER, 0},
        {put_long_value, FAULT_BAD_HEADER, 0},
        {put_text_without_length, FAULT_BAD_HEADER, 0},
    };
    struct prescan p;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        odd_length = cases[i].length;
        fprintf(stderr, "case %zu\n", i);
        CHECK_FAULT(scan((struct oddity){.before_pixels = cases[i].put, .pixel_bytes = -1}, &p),
                    cases[i].fault);
    }
}

static void put_long_pixel_data(struct object *o)
{
    put_header(o, 0x7FE00010, "OW", 0xFFFFFFF0u);
}

static void refuses_lengths_beyond_the_file(void)
{
    struct prescan p;
    CHECK_FAULT(scan((struct oddity){.before_pixels = put_long_pixel_data, .pixel_bytes = -1}, &p),
                FAULT_TRUNCATED);
    // a fragment that says more than there is
    struct object o;
    build(&o, (struct oddity){.transfer_syntax = JPEG_LL, .pixel_bytes = 40});
    o.data[o.size - 8 - 40 - 4] = 200;
    CHECK_FAULT(prescan_memory(o.data, o.size, &p, &why), FAULT_TRUNCATED);
    object_free(&o);
}

static void refuses_what_is_not_dicom(void)
{
    struct prescan p;
    CHECK_FAULT(prescan_memory("", 0, &p, &why), FAULT_NOT_DICOM);
    char zeros[400] = {0};
    CHECK_FAULT(prescan_memory(zeros, sizeof zeros, &p, &why), FAULT_NOT_DICOM);
    static const char mark[4] = {'D', 'I', 'C', 'M'};
    memcpy(zeros + 128, mark, sizeof mark);
    CHECK_FAULT(prescan_memory(zeros, sizeof zeros, &p, &why), FAULT_NOT_DICOM);
    struct object o;
    build(&o, (struct oddity){.pixel_bytes = -1});
    o.data[140] ^= 2; // the group length of the file meta information
    CHECK_FAULT(prescan_memory(o.data, o.size, &p, &why), FAULT_BAD_HEADER);
    object_free(&o);
}

static void leaves_output_untouched(void)
{
    struct prescan p;
    memset(&p, 7, sizeof p);
    CHECK_FAULT(scan((struct oddity){.pixel_bytes = 20}, &p), FAULT_PIXEL_SIZE);
    for (size_t i = 0; i < sizeof p; i++)
        CHECK_INT(((unsigned char *)&p)[i], 7);
    CHECK_FAULT(prescan_file("/nowhere/at/all", 1 << 20, &p, &why), FAULT_IO);
}

static void file_limit_holds(void)
{
    struct object o;
    build(&o, (struct oddity){.pixel_bytes = -1});
    FILE *file = fopen("a.dcm", "wb");
    CHECK(file != NULL);
    CHECK_INT(fwrite(o.data, 1, o.size, file), o.size);
    CHECK_INT(fclose(file), 0);
    struct prescan p;
    CHECK_OK(prescan_file("a.dcm", o.size, &p, &why));
    CHECK_STR(p.sop_instance_uid, "1.2.3.4");
    CHECK_FAULT(prescan_file("a.dcm", o.size - 1, &p, &why), FAULT_TOO_LARGE);
    object_free(&o);
}

// ---- fuzz

static void put_everything(struct object *o)
{
    put_header(o, 0x00400275, "SQ", NOWHERE);
    put_header(o, 0xFFFEE000, "", NOWHERE);
    put_text(o, 0x00400007, "LO", "step");
    put_header(o, 0x00400008, "SQ", 8 + 16);
    put_header(o, 0xFFFEE000, "", 16);
    put_text(o, 0x00080100, "SH", o->explicit_vr ? "C123456" : "C1234567");
    put_header(o, 0xFFFEE00D, "", 0);
    put_header(o, 0xFFFEE0DD, "", 0);
    put_looks_like_sequence(o);
}

static uint32_t random_state;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static const struct oddity fuzz_seeds[] = {
    {.transfer_syntax = EXPLICIT_LE, .before_pixels = put_everything, .pixel_bytes = -1},
    {.transfer_syntax = IMPLICIT_LE, .before_pixels = put_everything, .pixel_bytes = -1},
    {.transfer_syntax = JPEG_LL, .before_pixels = put_everything, .frames = "2", .pixel_bytes = 60},
};

// An exact copy on the heap, so that a sanitizer sees one byte too far.
static int scan_copy(const uint8_t *data, size_t size, struct prescan *p)
{
    uint8_t *copy = malloc(size ? size : 1);
    CHECK(copy != NULL);
    memcpy(copy, data, size);
    int rc = prescan_memory(copy, size, p, &why);
    free(copy);
    return rc;
}

static void truncations(void)
{
    for (size_t s = 0; s < 3; s++) {
        struct object o;
        build(&o, fuzz_seeds[s]);
        struct prescan p;
        CHECK_OK(scan_copy(o.data, o.size, &p));
        int accepted = 0;
        for (size_t n = 0; n < o.size; n++)
            if (scan_copy(o.data, n, &p) == 0) {
                // Only a cut between two elements can leave a whole object, then one without pixel data.
                CHECK_INT(p.has_pixel_data, 0);
                accepted++;
            }
        CHECK(accepted < 30);
        object_free(&o);
    }
}

static void mutations(void)
{
    static const uint32_t nasty[] = {0,      1,          0x7F,       0x80,       0xFF,
                                     0xFFFF, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF, 0xE00DFFFE};
    random_state = 20261122;
    int accepted = 0, refused = 0;
    for (int round = 0; round < 60000; round++) {
        struct object o;
        build(&o, fuzz_seeds[round % 3]);
        unsigned n = 1 + next_random() % 6;
        for (unsigned i = 0; i < n; i++) {
            size_t at = 128 + next_random() % (o.size - 128);
            switch (next_random() % 5) {
            case 0:
                o.data[at] ^= (uint8_t)(1u << next_random() % 8);
                break;
            case 1:
                o.data[at] = (uint8_t)next_random();
                break;
            case 2: {
                uint32_t v = nasty[next_random() % 10];
                if (at + 4 <= o.size)
                    memcpy(o.data + at, &v, 4);
                break;
            }
            case 3: { // a piece somewhere else
                size_t from = 128 + next_random() % (o.size - 128), length = next_random() % 40;
                size_t room = o.size - (at > from ? at : from);
                memmove(o.data + at, o.data + from, length < room ? length : room);
                break;
            }
            default:
                if (at > 200)
                    o.size = at;
            }
        }
        struct prescan p;
        int rc = scan_copy(o.data, o.size, &p);
        if (rc == 0) {
            accepted++;
            CHECK(uid_is_valid(p.sop_instance_uid) && uid_is_valid(p.series_uid));
            CHECK(p.dataset_offset <= o.size);
        } else {
            refused++;
            CHECK(rc == FAULT_NOT_DICOM || rc == FAULT_TRUNCATED || rc == FAULT_BAD_HEADER ||
                  rc == FAULT_BAD_UID || rc == FAULT_PIXEL_SIZE || rc == FAULT_TRANSFER_SYNTAX);
            CHECK_INT(why.fault, rc);
        }
        object_free(&o);
    }
    printf("accepted %d, refused %d\n", accepted, refused);
    CHECK(accepted > 1000 && refused > 1000);
}

// ---- real files

static int scan_folder(const char *folder, double *bytes)
{
    int n = 0;
    DIR *dir = opendir(folder);
    CHECK(dir != NULL);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[2048];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] == '.' || stat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode)) {
            n += scan_folder(path, bytes);
            continue;
        }
        struct prescan p;
        int rc = prescan_file(path, 64 << 20, &p, &why);
        if (rc != 0)
            CHECK_FAIL("%s: %s: %s", path, fault_name((enum fault)rc), why.text);
        CHECK_INT(p.has_pixel_data, 1);
        *bytes += (double)st.st_size;
        n++;
    }
    closedir(dir);
    return n;
}

static void accepts_real_files(void)
{
    const char *shared = getenv("ISOSLICE_SHARED");
    char folder[1024];
    snprintf(folder, sizeof folder, "%s/data/dicom", shared ? shared : ISOSLICE_SHARED_DEFAULT);
    struct stat st;
    if (stat(folder, &st) != 0)
        SKIP("no shared data");
    double bytes = 0;
    clock_t start = clock();
    int n = scan_folder(folder, &bytes);
    printf("%d files, %.0f MB, %.2f s\n", n, bytes / 1e6, (double)(clock() - start) / CLOCKS_PER_SEC);
    CHECK_INT(n, 318);
}

static void put_oblique(struct object *o)
{
    put_text(o, 0x00200012, "IS", " 3 ");
    put_text(o, 0x00200013, "IS", "+17");
    put_text(o, 0x00200032, "DS", "10\\-20.5\\ 3e1");
    put_text(o, 0x00200037, "DS", "1\\0\\0\\0\\0.6\\0.8");
    put_text(o, 0x00201002, "IS", "24");
}

static void put_nonsense(struct object *o)
{
    put_text(o, 0x00200012, "IS", "first");
    put_text(o, 0x00200013, "IS", "1.5");
    put_text(o, 0x00200032, "DS", "10\\-20.5\\nan");
    put_text(o, 0x00200037, "DS", "1\\0\\0\\1\\0\\0"); // parallel axes have no normal
    put_text(o, 0x00201002, "IS", "-4");
}

static void put_too_much(struct object *o)
{
    static char long_text[4000];
    memset(long_text, '1', sizeof long_text - 1);
    put_text(o, 0x00200013, "IS", "99999999999");
    put_text(o, 0x00200032, "DS", "10\\20");
    put_text(o, 0x00200037, "LO", long_text);
    put_text(o, 0x00201002, "IS", "");
}

// What tells whether a series is complete; what is no number is absent and refuses nothing.
static void reads_place_and_numbers(void)
{
    struct prescan p;
    CHECK_OK(scan((struct oddity){.pixel_bytes = -1, .after_uids = put_oblique}, &p));
    CHECK_INT(p.has_acquisition, 1);
    CHECK_INT(p.acquisition, 3);
    CHECK_INT(p.has_number, 1);
    CHECK_INT(p.number, 17);
    CHECK_INT(p.images_in_acquisition, 24);
    CHECK_INT(p.has_plane, 1);
    CHECK_NEAR(p.normal[0], 0, 1e-12);
    CHECK_NEAR(p.normal[1], -0.8, 1e-12);
    CHECK_NEAR(p.normal[2], 0.6, 1e-12);
    CHECK_NEAR(p.z_mm, 0.8 * 20.5 + 0.6 * 30, 1e-9);
    static void (*const odd[])(struct object *) = {NULL, put_nonsense, put_too_much};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        CHECK_OK(scan((struct oddity){.pixel_bytes = -1, .after_uids = odd[i]}, &p));
        CHECK_INT(p.has_acquisition + p.has_number + p.has_plane, 0);
        CHECK_INT(p.images_in_acquisition, 0);
    }
}

static const struct test tests[] = {
    {"unit.prescan.reads_place_and_numbers", reads_place_and_numbers},
    {"unit.prescan.reads_what_it_passes", reads_what_it_passes},
    {"unit.prescan.refuses_transfer_syntaxes", refuses_transfer_syntaxes},
    {"unit.prescan.refuses_wrong_pixel_size", refuses_wrong_pixel_size},
    {"unit.prescan.lets_zeros_after_pixels_pass", lets_zeros_after_pixels_pass},
    {"unit.prescan.refuses_bad_uids", refuses_bad_uids},
    {"unit.prescan.bounds_nesting", bounds_nesting},
    {"unit.prescan.bounds_nesting_in_un", bounds_nesting_in_un},
    {"unit.prescan.accepts_values_that_look_like_sequences", accepts_values_that_look_like_sequences},
    {"unit.prescan.refuses_broken_encodings", refuses_broken_encodings},
    {"unit.prescan.refuses_lengths_beyond_the_file", refuses_lengths_beyond_the_file},
    {"unit.prescan.refuses_what_is_not_dicom", refuses_what_is_not_dicom},
    {"unit.prescan.leaves_output_untouched", leaves_output_untouched},
    {"unit.prescan.file_limit_holds", file_limit_holds},
    {"fuzz.prescan.truncations", truncations},
    {"fuzz.prescan.mutations", mutations},
    {"peer.prescan.accepts_real_files", accepts_real_files},
};
TEST_MAIN(tests)
