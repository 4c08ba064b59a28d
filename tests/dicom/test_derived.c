// SPDX-License-Identifier: Apache-2.0
//
// Whole series: the verdict on every folder of the shared data, and derived series judged by peers (dciodvfy,
// dcentvfy, dcm2niix, pydicom) and by attribute.
#include "dicom_map/derive.h"
#include "dicom_map/description.h"
#include "dicom_map/source.h"
#include "dicom_map/source_parts.h"
#include "tests/support/check.h"

#include "core/file.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

static struct fault_note why;

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void run(const char *format, ...)
{
    char command[8192];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    fflush(NULL);
    int rc = system(command);
    if (rc != 0)
        CHECK_FAIL("exit %d of: %s", rc, command);
}

// The folder of a real series; skips when there is none.
static const char *shared(const char *series)
{
    static char path[1024];
    const char *root = getenv("ISOSLICE_SHARED");
    struct stat st;
    snprintf(path, sizeof path, "%s/data/dicom", root != NULL ? root : ISOSLICE_SHARED_DEFAULT);
    if (stat(path, &st) != 0)
        SKIP("no shared data");
    snprintf(path, sizeof path, "%s/data/dicom/%s", root != NULL ? root : ISOSLICE_SHARED_DEFAULT, series);
    return path;
}

static void clear(const char *folder)
{
    CHECK_OK(file_remove_tree(folder, &why));
    CHECK_OK(file_make_directory(folder, &why));
}

// ---- verdicts

static struct source *open_one(const char *path)
{
    struct source *source = NULL;
    CHECK_OK(source_open(&path, 1, &source, &why));
    for (size_t i = 0; i < source_n_items(source); i++)
        fprintf(stderr, "%zu: %s n=%zu %s | %s\n", i, fault_name(source_item(source, i)->verdict),
                source_item(source, i)->n_images, source_item(source, i)->reason,
                source_item(source, i)->warnings);
    return source;
}

struct want {
    const char *folder;
    size_t n_items;
    enum fault verdict; // of every item
    const char *reason; // contained in it; for a stack, in its warnings
    int depth, height, width;
    double pixel_mm, slice_mm, thickness_mm;
};

static void judge(const struct want *want)
{
    struct source *source = open_one(shared(want->folder));
    CHECK_INT(source_n_items(source), want->n_items);
    for (size_t i = 0; i < want->n_items; i++) {
        const struct source_item *item = source_item(source, i);
        CHECK_STR(fault_name(item->verdict), fault_name(want->verdict));
        CHECK_INT(item->stack_index, i);
        if (want->verdict != FAULT_OK) {
            CHECK_CONTAINS(item->reason, want->reason);
            continue;
        }
        CHECK_STR(item->reason, "");
        CHECK_CONTAINS(item->warnings, want->reason);
        CHECK_INT(item->depth, want->depth);
        CHECK_INT(item->height, want->height);
        CHECK_INT(item->width, want->width);
        CHECK_NEAR(item->row_mm, want->pixel_mm, 5e-4);
        CHECK_NEAR(item->slice_mm, want->slice_mm, 2e-4);
        CHECK_NEAR(item->thickness_mm, want->thickness_mm, 1e-6);
        CHECK_NEAR(item->gap_mm, want->slice_mm - want->thickness_mm, 2e-4);
        for (int z = 1; z < item->depth; z++)
            CHECK_NEAR(item->z_mm[z] - item->z_mm[z - 1], want->slice_mm, 0.05 * want->slice_mm);
    }
    source_free(source);
}

#define SOURCE_TEST(name, ...)                                                                               \
    static void source_##name(void)                                                                          \
    {                                                                                                        \
        static const struct want want = {#name, __VA_ARGS__};                                                \
        judge(&want);                                                                                        \
    }

SOURCE_TEST(siemens_t1_sag_jpegll, 1, FAULT_OK, "", 19, 512, 512, 0.449, 6.5, 5)
SOURCE_TEST(siemens_t1_ax_jpegll, 1, FAULT_OK, "", 23, 512, 384, 0.449, 6.5, 5)
SOURCE_TEST(siemens_t2_ax_jpegll, 1, FAULT_OK, "", 23, 256, 224, 0.898, 6.5, 5)
SOURCE_TEST(siemens_flair_ax_jpegll, 1, FAULT_OK, "", 23, 256, 224, 0.898, 6.5, 5)
SOURCE_TEST(siemens_t1_sag, 1, FAULT_OK, "", 35, 256, 256, 1.016, 4.8, 4)
SOURCE_TEST(philips_t1_phantom, 1, FAULT_OK, "", 24, 256, 256, 1.0, 5.5, 5)
SOURCE_TEST(ge_pd_oblique_uneven, 1, FAULT_OK, "uneven, 6.958 to 7.071 mm", 20, 256, 256, 0.859, 6.97179, 5)
SOURCE_TEST(philips_t1_phantom_enhanced, 1, FAULT_OK, "", 24, 256, 256, 1.0, 5.5, 5)
SOURCE_TEST(siemens_localizer, 1, FAULT_LOCALIZER, "5, 3, 3 slices", 0, 0, 0, 0, 0, 0)
SOURCE_TEST(siemens_mosaic, 1, FAULT_MOSAIC, "MOSAIC", 0, 0, 0, 0, 0, 0)
SOURCE_TEST(uih_vframe, 1, FAULT_MOSAIC, "VFRAME", 0, 0, 0, 0, 0, 0)
SOURCE_TEST(siemens_diffusion_trace, 1, FAULT_DIFFUSION, "23 of 23", 0, 0, 0, 0, 0, 0)
SOURCE_TEST(canon_dti_80, 1, FAULT_DIFFUSION, "40 of 80", 0, 0, 0, 0, 0, 0)
SOURCE_TEST(hitachi_shoulder_4slices_1, 1, FAULT_NO_FRAME_OF_REFERENCE, "4 images", 0, 0, 0, 0, 0, 0)
SOURCE_TEST(hitachi_shoulder_4slices_2, 1, FAULT_NO_FRAME_OF_REFERENCE, "4 images", 0, 0, 0, 0, 0, 0)
SOURCE_TEST(philips_two_orientations_1, 1, FAULT_NO_FRAME_OF_REFERENCE, "2 images", 0, 0, 0, 0, 0, 0)
SOURCE_TEST(philips_two_orientations_2, 1, FAULT_NO_FRAME_OF_REFERENCE, "2 images", 0, 0, 0, 0, 0, 0)
SOURCE_TEST(enhanced_philips, 2, FAULT_NOTHING_TO_DO, "4.000 mm is 1.00 times", 0, 0, 0, 0, 0, 0)
SOURCE_TEST(enhanced_siemens, 4, FAULT_NOTHING_TO_DO, "0.71 times", 0, 0, 0, 0, 0, 0)

// ---- what is in a folder besides images

static void write_text(const char *path, const char *text)
{
    CHECK_OK(file_write_atomic(path, text, strlen(text), &why));
}

static void make_series(const char *variant, const char *folder)
{
    CHECK_OK(file_remove_tree(folder, &why));
    run("/usr/bin/python3 -W ignore %s/make_series.py %s %s", TEST_SOURCE_DIR, variant, folder);
}

static void folders_and_rubbish(void)
{
    clear("in");
    make_series("bare", "in/a/b");
    CHECK_OK(file_make_directory("in/c", &why));
    write_text("in/c/notes.txt", "not an image");
    write_text("in/c/empty", "");
    write_text("in/DICOMDIR", "whatever");
    run("head -c 700 in/a/b/1.dcm > in/c/cut.dcm");
    CHECK_INT(symlink("..", "in/c/loop"), 0);
    CHECK_INT(symlink("nowhere", "in/c/dangling"), 0);
    struct source *source = open_one("in");
    int seen[5] = {0};
    for (size_t i = 0; i < source_n_items(source); i++) {
        const struct source_item *item = source_item(source, i);
        switch (item->verdict) {
        case FAULT_OK:
            seen[0]++;
            CHECK_INT(item->depth, 8);
            break;
        case FAULT_NOT_DICOM:
            seen[1]++;
            CHECK_INT(item->n_images, 2);
            CHECK_CONTAINS(item->reason, "2 files, the first 'empty'");
            break;
        case FAULT_TRUNCATED:
            seen[2]++;
            CHECK_CONTAINS(item->reason, "cut.dcm");
            break;
        case FAULT_NOT_MR:
            seen[3]++;
            break;
        case FAULT_IO:
            seen[4]++;
            CHECK_CONTAINS(item->reason, "dangling");
            break;
        default:
            CHECK_FAIL("unexpected verdict %s", fault_name(item->verdict));
        }
    }
    for (int i = 0; i < 5; i++)
        CHECK_INT(seen[i], 1);
    source_free(source);
    const char *nowhere = "not/here";
    CHECK_FAULT(source_open(&nowhere, 1, &source, &why), FAULT_IO);
}

static void changed_file_is_noticed(void)
{
    make_series("bare", "in");
    struct source *source = open_one("in");
    float voxels[8 * 20 * 24];
    CHECK_OK(source_load_voxels(source, 0, voxels, &why));
    make_series("full", "other");
    run("cp other/3.dcm in/3.dcm");
    CHECK_FAULT(source_load_voxels(source, 0, voxels, &why), FAULT_IO);
    CHECK_CONTAINS(why.text, "has changed");
    source_free(source);
}

static void own_output_is_not_taken(void)
{
    make_series("bare", "in");
    clear("out");
    run("%s in out", DERIVE_SERIES);
    struct source *source = open_one("out");
    CHECK_INT(source_n_items(source), 1);
    CHECK_STR(fault_name(source_item(source, 0)->verdict), "OWN_OUTPUT");
    source_free(source);
}

// Every way to encode the same pixels gives the same voxels.
static void transfer_syntaxes(void)
{
    static const char *const commands[] = {"dcmconv +ti", "dcmcrle", "dcmcjpeg +e1", "dcmcjpeg +el",
                                           "dcmcjpls +el"};
    static float plain[8 * 20 * 24], other[8 * 20 * 24];
    static const char *const variants[] = {"bare", "signed"};
    for (int v = 0; v < 2; v++) {
        make_series(variants[v], "in");
        struct source *source = open_one("in");
        CHECK_OK(source_load_voxels(source, 0, plain, &why));
        source_free(source);
        for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
            // lossless JPEG of 16 bits with a sign is beyond what DCMTK's encoder takes
            if (v == 1 && strncmp(commands[i], "dcmcjpeg", 8) == 0)
                continue;
            clear("coded");
            run("for f in in/*.dcm; do %s $f coded/$(basename $f) || exit 1; done", commands[i]);
            source = open_one("coded");
            CHECK_INT(source_item(source, 0)->verdict, FAULT_OK);
            memset(other, 0xFF, sizeof other);
            CHECK_OK(source_load_voxels(source, 0, other, &why));
            for (size_t k = 0; k < sizeof plain / sizeof plain[0]; k++)
                CHECK_NEAR(other[k], plain[k], 0);
            source_free(source);
        }
    }
}

// Damages one coded file with a shell command and expects this fault on loading.
static void expect_damage(const char *coder, const char *damage, enum fault fault)
{
    static float voxels[8 * 20 * 24];
    clear("coded");
    run("for f in in/*.dcm; do %s $f coded/$(basename $f) || exit 1; done", coder);
    run("cd coded && %s", damage);
    struct source *source = open_one("coded");
    CHECK_INT(source_item(source, 0)->verdict, FAULT_OK);
    CHECK_FAULT(source_load_voxels(source, 0, voxels, &why), fault);
    fprintf(stderr, "%s\n", why.text);
    source_free(source);
}

// Patches `with` `shift` bytes after the first `mark` (a Python bytes literal) in 4.dcm.
#define PATCH(mark, shift, with)                                                                             \
    "/usr/bin/python3 -c \"d = bytearray(open('4.dcm', 'rb').read()); i = d.rfind(" mark ") + " shift        \
    "; d[i:i + len(" with ")] = " with "; open('4.dcm', 'wb').write(d)\""

static void damaged_pixels_fail(void)
{
    make_series("bare", "in");
    // rows of the codestream: more, fewer; columns; components
    expect_damage("dcmcjpeg +e1", PATCH("b'\\xff\\xc3\\x00'", "5", "b'\\x08\\x00'"), FAULT_PIXEL_SIZE);
    expect_damage("dcmcjpeg +e1", PATCH("b'\\xff\\xc3\\x00'", "5", "b'\\x00\\x04'"), FAULT_PIXEL_SIZE);
    expect_damage("dcmcjpeg +e1", PATCH("b'\\xff\\xc3\\x00'", "7", "b'\\x00\\x10'"), FAULT_PIXEL_SIZE);
    expect_damage("dcmcjpeg +e1", PATCH("b'\\xff\\xc3\\x00'", "9", "b'\\x03'"), FAULT_PIXEL_SIZE);
    expect_damage("dcmcjpeg +e1", PATCH("b'\\xff\\xc3\\x00'", "0", "b'\\x00'"), FAULT_DECODE);
    expect_damage("dcmcjpeg +e1", PATCH("b'\\xff\\xd8\\xff'", "0", "b'\\x00'"), FAULT_DECODE);
    expect_damage("dcmcjpls +el", PATCH("b'\\xff\\xf7\\x00'", "5", "b'\\xff\\xff'"), FAULT_PIXEL_SIZE);
    // RLE: 64 bytes of header that begin with the number of segments
    expect_damage("dcmcrle", PATCH("b'\\x02\\x00\\x00\\x00\\x40\\x00\\x00\\x00'", "0", "b'\\x0f'"),
                  FAULT_DECODE);
    expect_damage("dcmcrle", PATCH("b'\\x02\\x00\\x00\\x00\\x40\\x00\\x00\\x00'", "8", "b'\\xff\\xff\\xff'"),
                  FAULT_DECODE);
    // the end of the entropy-coded data becomes zero bytes
    expect_damage(
        "dcmcjpeg +e1",
        "s=$(stat -c %s 4.dcm); dd if=/dev/zero of=4.dcm bs=1 seek=$((s - 408)) count=400 conv=notrunc 2>&1",
        FAULT_DECODE);
}

// ---- plans

static void plans(void)
{
    make_series("bare", "in");
    struct source *source = open_one("in");
    struct derive_plane *planes = NULL;
    size_t n = 0;
    double step = 0;
    const double *z = source_item(source, 0)->z_mm;
    CHECK_OK(derive_plan(source, 0, DERIVE_ISOTROPIC, 0, &planes, &n, &step, &why));
    CHECK_NEAR(step, 0.8, 0);
    CHECK_INT(n, 36);
    CHECK_INT(planes[0].slice, 0);
    CHECK_NEAR(planes[0].t, 0, 0);
    for (size_t k = 0; k < n; k++) {
        CHECK(planes[k].t >= 0 && planes[k].t < 1);
        CHECK_NEAR(planes[k].z_mm, 0.8 * (double)k, 1e-9);
        if (planes[k].t > 0)
            CHECK_NEAR(z[planes[k].slice] + planes[k].t * (z[planes[k].slice + 1] - z[planes[k].slice]) -
                           z[0],
                       planes[k].z_mm, 1e-9);
    }
    for (size_t k = 0; k < n; k += 5) // 0.8 divides 4: acquired planes recur
        CHECK_NEAR(planes[k].t, 0, 0);
    free(planes);
    CHECK_OK(derive_plan(source, 0, DERIVE_MM, 1.5, &planes, &n, &step, &why));
    CHECK_INT(n, 19); // 27 mm of 28
    CHECK_INT(planes[18].slice, 6);
    CHECK_NEAR(planes[18].t, 0.75, 1e-6);
    free(planes);
    CHECK_OK(derive_plan(source, 0, DERIVE_MM, 4, &planes, &n, &step, &why));
    CHECK_INT(n, 8);
    free(planes);
    // positions 4 mm apart, as decimal texts say it
    CHECK_OK(derive_plan(source, 0, DERIVE_MM, 4.0001, &planes, &n, &step, &why));
    free(planes);
    // a node whose spacing is 4.1 mm has nothing to do with this stack; once its job FAILED
    CHECK_FAULT(derive_plan(source, 0, DERIVE_MM, 4.1, &planes, &n, &step, &why), FAULT_NOTHING_TO_DO);
    CHECK_FAULT(derive_plan(source, 0, DERIVE_MM, 0.04, &planes, &n, &step, &why), FAULT_USAGE);
    CHECK_FAULT(derive_plan(source, 0, DERIVE_MM, -1, &planes, &n, &step, &why), FAULT_USAGE);
    CHECK_OK(derive_plan(source, 0, DERIVE_MM, 0.0501, &planes, &n, &step, &why));
    free(planes);
    CHECK_FAULT(derive_plan(source, 9, DERIVE_ISOTROPIC, 0, &planes, &n, &step, &why), FAULT_INTERNAL);
    source_free(source);
}

static void recurring_planes(void)
{
    struct source *source = open_one(shared("siemens_t1_sag"));
    struct derive_plane *planes = NULL;
    size_t n = 0;
    double step = 0;
    CHECK_OK(derive_plan(source, 0, DERIVE_RECUR, 0, &planes, &n, &step, &why));
    CHECK_NEAR(step, 0.96, 1e-5); // 4.8 / 5
    CHECK_INT(n, 34 * 5 + 1);
    for (size_t k = 0; k < n; k += 5) {
        CHECK_INT(planes[k].slice, k / 5);
        CHECK_NEAR(planes[k].t, 0, 0);
    }
    free(planes);
    source_free(source);
}

// ---- derived series

static void derive_real(const char *series)
{
    const char *path = shared(series);
    clear("out");
    run("%s %s out crop=64", DERIVE_SERIES, path);
    run("%s/check_derived.sh %s out crop=64", TEST_SOURCE_DIR, path);
}

#define DERIVE_TEST(name)                                                                                    \
    static void derive_##name(void)                                                                          \
    {                                                                                                        \
        derive_real(#name);                                                                                  \
    }

DERIVE_TEST(siemens_t1_sag_jpegll)
DERIVE_TEST(siemens_t1_ax_jpegll)
DERIVE_TEST(siemens_t2_ax_jpegll)
DERIVE_TEST(siemens_flair_ax_jpegll)
DERIVE_TEST(siemens_t1_sag)
DERIVE_TEST(philips_t1_phantom)
DERIVE_TEST(ge_pd_oblique_uneven)
DERIVE_TEST(philips_t1_phantom_enhanced)

static void derive_made(const char *variant)
{
    make_series(variant, "in");
    clear("out");
    run("%s in out", DERIVE_SERIES);
    run("%s/check_derived.sh in out", TEST_SOURCE_DIR);
    run("/usr/bin/python3 -W ignore %s/check_attributes.py %s in out", TEST_SOURCE_DIR, variant);
}

#define MADE_TEST(name)                                                                                      \
    static void made_##name(void)                                                                            \
    {                                                                                                        \
        derive_made(#name);                                                                                  \
    }

MADE_TEST(bare)
MADE_TEST(full)
MADE_TEST(utf8)
MADE_TEST(misspelt)
MADE_TEST(unsaid)
MADE_TEST(iso2022)
MADE_TEST(ascii)
MADE_TEST(varies)
MADE_TEST(signed)
MADE_TEST(eight)
MADE_TEST(high)
MADE_TEST(gated)
MADE_TEST(reversed)

static void residual_is_added_and_clamped(void)
{
    make_series("bare", "in");
    clear("out");
    run("%s in out residual=-700.25 > facts", DERIVE_SERIES);
    run("%s/check_derived.sh in out residual=-700.25", TEST_SOURCE_DIR);
    run("grep -q 'clamped [1-9]' facts");
    // every object says how many
    run("test $(grep -al \"Voxels clamped: $(sed -n 's/^clamped //p' facts)\\.\" out/*.dcm | wc -l) = "
        "$(ls out/*.dcm | wc -l)");
    run("%s in out residual=0 > facts", DERIVE_SERIES);
    run("grep -q 'clamped 0' facts");
    run("! %s in out residual=nan 2> facts", DERIVE_SERIES);
    run("grep -q '^NOT_FINITE' facts");
}

// ---- the same volume in other planes

// Exactly two of three planes are to be had; the third is the stack's own.
static void check_views(const char *source, const char *crop)
{
    static const char *const names[] = {"sagittal", "coronal", "axial"};
    int n_views = 0;
    clear("out");
    run("%s %s out residual=0.3 %s", DERIVE_SERIES, source, crop);
    for (int i = 0; i < 3; i++) {
        clear("view");
        run("%s %s view residual=0.3 %s view=%s > facts 2>&1 || true", DERIVE_SERIES, source, crop, names[i]);
        if (system("grep -q \"^NOTHING_TO_DO: the stack's own planes are\" facts") == 0) {
            run("test -z \"$(ls view)\"");
            continue;
        }
        n_views++;
        run("/usr/bin/python3 -W ignore %s/check_views.py %s out view %s", TEST_SOURCE_DIR, source, names[i]);
        // the series is what was promised, and the same when it is made again
        run("test \"$(sed -n 's/^series //p' facts)\" = \"$(sed -n 's/^promised //p' facts)\"");
        clear("again");
        run("%s %s again residual=0.3 %s view=%s > facts", DERIVE_SERIES, source, crop, names[i]);
        run("diff -r view again");
    }
    CHECK_INT(n_views, 2);
}

static void views_made(void)
{
    make_series("full", "in");
    check_views("in", "");
    make_series("signed", "in");
    check_views("in", "");
    make_series("eight", "in");
    check_views("in", "");
}

static void views_sagittal_stack(void)
{
    check_views(shared("siemens_t1_sag"), "crop=64");
}

static void views_axial_stack(void)
{
    check_views(shared("philips_t1_phantom"), "crop=48");
}

static void views_bent_stack(void)
{
    check_views(shared("ge_pd_oblique_uneven"), "crop=48");
}

// Every grid has three planes whose images are across three different axes, one of them the stack's, however
// it is turned: also at 45 degrees, where the nearest is anybody's.
static void view_planes_of_any_grid(void)
{
    for (int turn = 0; turn < 64; turn++) {
        double a = turn * acos(-1) / 8, b = floor(turn / 8.) * acos(-1) / 4;
        struct view_grid grid = {.axis = {{cos(a), sin(a), 0},
                                          {-sin(a) * cos(b), cos(a) * cos(b), sin(b)},
                                          {sin(a) * sin(b), -cos(a) * sin(b), cos(b)}},
                                 .origin = {1, 2, 3},
                                 .step_mm = {0.5, 0.6, 0.7},
                                 .n = {5, 6, 7}};
        int n = 0, across = 0;
        for (enum view_plane plane = VIEW_SAGITTAL; plane <= VIEW_AXIAL; plane++) {
            struct view view;
            if (!view_init(&grid, plane, &view))
                continue;
            n++;
            across |= 1 << view.axis[2];
            CHECK_INT(view.axis[0] + view.axis[1] + view.axis[2], 3);
            CHECK_INT(view.n[0] * view.n[1] * view.n[2], 5 * 6 * 7);
            double first[3], last[3];
            view_position(&view, &grid, 0, first);
            view_position(&view, &grid, view.n[2] - 1, last);
            for (int k = 0; k < 3; k++)
                CHECK_NEAR(last[k] - first[k], (view.n[2] - 1) * view.step_mm[2] * view.direction[2][k],
                           1e-12);
            // images go the way that readers expect
            CHECK(last[plane - VIEW_SAGITTAL] - first[plane - VIEW_SAGITTAL] >= -1e-12);
        }
        CHECK_INT(n, 2);
        CHECK_INT(across, 3);
    }
    struct view view = {.plane = VIEW_N_PLANES};
    struct view_grid upright = {.axis = {{0, 1, 0}, {0, 0, -1}, {-1, 0, 0}}};
    CHECK_INT(view_init(&upright, VIEW_SAGITTAL, &view), 0);
    CHECK_INT(view_init(&upright, VIEW_ACQUIRED, &view), 0);
    CHECK_INT(view.plane, VIEW_N_PLANES);
    CHECK_INT(view_init(&upright, VIEW_CORONAL, &view), 1);
    CHECK_INT(view.is_oblique, 0);
    upright.axis[0][2] = sin(0.002), upright.axis[0][1] = cos(0.002);
    upright.axis[1][1] = sin(0.002), upright.axis[1][2] = -cos(0.002);
    CHECK_INT(view_init(&upright, VIEW_AXIAL, &view), 1);
    CHECK_INT(view.is_oblique, 1);
}

// ---- as one object

// Against the classic series of the same stack.
static void check_enhanced(const char *source, const char *arguments)
{
    clear("out");
    clear("made");
    run("%s %s out %s", DERIVE_SERIES, source, arguments);
    run("%s %s made format=enhanced %s > facts", DERIVE_SERIES, source, arguments);
    run("test \"$(sed -n 's/^series //p' facts)\" = \"$(sed -n 's/^promised //p' facts)\"");
    run("/usr/bin/python3 -W ignore %s/check_enhanced.py %s out made", TEST_SOURCE_DIR, source);
}

static void enhanced_made(void)
{
    static const char *const variants[] = {"bare",   "full",  "utf8", "iso2022", "varies",
                                           "signed", "eight", "high", "gated",   "reversed"};
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        make_series(variants[i], "in");
        check_enhanced("in", "residual=0.3");
    }
}

static void enhanced_views(void)
{
    make_series("reversed", "in"); // coronal
    check_enhanced("in", "view=sagittal");
    check_enhanced("in", "view=axial");
}

static void enhanced_siemens_t1_sag(void)
{
    check_enhanced(shared("siemens_t1_sag"), "crop=64");
}

static void enhanced_ge_pd_oblique_uneven(void)
{
    check_enhanced(shared("ge_pd_oblique_uneven"), "crop=64");
}

static void enhanced_philips_t1_phantom(void)
{
    check_enhanced(shared("philips_t1_phantom"), "crop=64");
}

static void enhanced_philips_t1_phantom_enhanced(void)
{
    check_enhanced(shared("philips_t1_phantom_enhanced"), "crop=64");
}

static void enhanced_siemens_flair_ax_jpegll(void)
{
    check_enhanced(shared("siemens_flair_ax_jpegll"), "crop=64");
}

static void enhanced_same_request_same_bytes(void)
{
    make_series("full", "in");
    clear("out");
    clear("again");
    run("%s in out format=enhanced > facts", DERIVE_SERIES);
    run("TZ=Asia/Tokyo LC_ALL=C.UTF-8 %s in again format=enhanced > facts2", DERIVE_SERIES);
    run("diff -r out again && diff facts facts2");
    // another kind of output is another series
    clear("again");
    run("%s in again > facts2", DERIVE_SERIES);
    run("! grep -qF \"$(sed -n 's/^series //p' facts)\" facts2");
}

// What routing brings back is not derived from again.
static void enhanced_is_own_output(void)
{
    make_series("full", "in");
    clear("made");
    run("%s in made format=enhanced", DERIVE_SERIES);
    struct source *source = open_one("made");
    CHECK_INT(source_n_items(source), 1);
    CHECK_STR(fault_name(source_item(source, 0)->verdict), "OWN_OUTPUT");
    CHECK_INT(source_item(source, 0)->n_images, 36);
    source_free(source);
}

// With our marks taken off, both forms are the same stack to who reads them.
static void enhanced_reads_back(void)
{
    static const char *const names[] = {"out", "made"};
    struct source *sources[2] = {NULL, NULL};
    float *voxels[2] = {NULL, NULL};
    make_series("reversed", "in");
    for (int i = 0; i < 2; i++) {
        clear(names[i]);
        run("%s in %s residual=0.3 format=%s", DERIVE_SERIES, names[i], i == 0 ? "classic" : "enhanced");
        run("/usr/bin/python3 -W ignore %s/disown.py %s", TEST_SOURCE_DIR, names[i]);
        CHECK_OK(source_open_to_learn(&names[i], 1, &sources[i], &why));
        CHECK_INT(source_n_items(sources[i]), 1);
        const struct source_item *item = source_item(sources[i], 0);
        if (item->verdict != FAULT_OK)
            CHECK_FAIL("%s: %s", fault_name(item->verdict), item->reason);
        size_t n = (size_t)item->depth * (size_t)item->height * (size_t)item->width;
        voxels[i] = malloc(n * sizeof(float));
        CHECK(voxels[i] != NULL);
        CHECK_OK(source_load_voxels(sources[i], 0, voxels[i], &why));
    }
    const struct source_item *classic = source_item(sources[0], 0), *made = source_item(sources[1], 0);
    CHECK_INT(made->depth, 36);
    CHECK_INT(made->depth, classic->depth);
    CHECK_INT(made->height, classic->height);
    CHECK_INT(made->width, classic->width);
    CHECK_NEAR(made->row_mm, classic->row_mm, 1e-4);
    CHECK_NEAR(made->thickness_mm, classic->thickness_mm, 1e-4);
    for (int z = 0; z < made->depth; z++) {
        CHECK_NEAR(made->z_mm[z], classic->z_mm[z], 1e-4);
        for (int axis = 0; axis < 3; axis++)
            CHECK_NEAR(source_slice(sources[1], 0, (size_t)z)->position[axis],
                       source_slice(sources[0], 0, (size_t)z)->position[axis], 1e-4);
    }
    for (int i = 0; i < made->depth * made->height * made->width; i++)
        CHECK_NEAR(voxels[1][i], voxels[0][i], 0);
    for (int i = 0; i < 2; i++) {
        free(voxels[i]);
        source_free(sources[i]);
    }
}

// 560 frames of 2048 x 2048 are more than the length of one element can say; nothing is read for it.
static void enhanced_too_large(void)
{
    struct source *source = NULL;
    const char *path = "in";
    const float nothing = 0;
    struct derive_plane *planes = NULL;
    struct derive_result result;
    make_series("bare", "in");
    run("/usr/bin/python3 -W ignore %s/enlarge.py in 2048", TEST_SOURCE_DIR);
    clear("made");
    CHECK_OK(source_open(&path, 1, &source, &why));
    struct derive_request request = {.source = source,
                                     .site_id = "site",
                                     .voxels = &nothing,
                                     .residual = &nothing,
                                     .method = "linear",
                                     .format = FORMAT_ENHANCED,
                                     .directory = "made"};
    CHECK_OK(derive_plan(source, 0, DERIVE_MM, 0.05, &planes, &request.n_planes, &request.step_mm, &why));
    request.planes = planes;
    CHECK_INT(request.n_planes, 561);
    CHECK_FAULT(derive_write(&request, &result, &why), FAULT_TOO_LARGE);
    CHECK_CONTAINS(why.text, "561 frames of 2048 x 2048 pixels would hold 4706009088 bytes");
    run("test -z \"$(ls made)\"");
    free(planes);
    source_free(source);
}

// As every_file_call_may_fail, of one object.
static void enhanced_file_call_may_fail(void)
{
    static const char *const ways[] = {"", ":28", ":5"};
    make_series("bare", "in");
    for (int way = 0; way < 3; way++)
        for (int n = 1;; n++) {
            char command[512];
            clear("out");
            snprintf(command, sizeof command,
                     "ISOSLICE_CRASH_AT=%d%s %s in out spacing=4 format=enhanced > facts 2> faults", n,
                     ways[way], DERIVE_SERIES);
            int rc = system(command);
            // under its own name it is whole
            run("test ! -e out/IM0001.dcm || test $(dcmdump -q +P PixelData +L out/IM0001.dcm | grep -c "
                "'OW.*# *7680,') = 1");
            if (rc == 0) {
                run("test \"$(ls out)\" = IM0001.dcm && grep -q '^objects 1' facts");
                CHECK(n > 8 + 5);
                break;
            }
            if (way > 0)
                run("grep -qE '^%s' faults && ! ls out/*.tmp 2> /dev/null", way == 1 ? "NO_SPACE" : "IO");
        }
}

// ---- what the series is called

static void description_templates(void)
{
    static const char *const bad[] = {
        "",         "NFPD {patient}", "{source} {source} NFPD",
        "{source}", "NFPD \\",        "NFPD {",
        "N\tFPD",   "NFPD \xc3\xa4",  "{kind} 1234567890123456789012345678901234567890123456789012345 NFPD"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (description_is_valid(bad[i]))
            CHECK_FAIL("'%s' is taken", bad[i]);
    CHECK_INT(description_is_valid(DESCRIPTION_DEFAULT), 1);
    CHECK_INT(description_is_valid("{kind} 123456789012345678901234567890123456789012345678901 NFPD"), 1);
}

static void description_parts(void)
{
    const struct description_parts full = {"ISO_IR 192", "t2 \xc3\xa4\xc3\xa4",
                                           "SR-AI",      "tuned",
                                           "0.60",       " COR",
                                           " +2 late"},
                                   bare = {"", "", "INTERP", "cubic", "20.00", "", ""};
    static const struct {
        const char *template, *full, *bare;
    } cases[] = {
        {DESCRIPTION_DEFAULT, "t2 \xc3\xa4\xc3\xa4 [SR-AI 0.60mm COR NFPD +2 late]", "[INTERP 20.00mm NFPD]"},
        {"NFPD", "NFPD", "NFPD"},
        {"NFPD {source}", "NFPD t2 \xc3\xa4\xc3\xa4", "NFPD "},
        {"NFPD {method} {source} {kind}", "NFPD tuned t2 \xc3\xa4\xc3\xa4 SR-AI", "NFPD cubic INTERP"},
        {"({source}) NFPD", "(t2 \xc3\xa4\xc3\xa4) NFPD", "() NFPD"},
    };
    char text[DESCRIPTION_MOST_BYTES + 1];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_INT(description_is_valid(cases[i].template), 1);
        description_make(cases[i].template, &full, text);
        CHECK_STR(text, cases[i].full);
        description_make(cases[i].template, &bare, text);
        CHECK_STR(text, cases[i].bare);
    }
}

// 64 bytes, whatever the source says and wherever it stands; never half a character.
static void description_is_cut(void)
{
    char source[201], text[DESCRIPTION_MOST_BYTES + 1];
    static const char *const templates[] = {DESCRIPTION_DEFAULT, "{source} NFPD", "NFPD {source}",
                                            "NFPD{source}x"};
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++)
        for (int n = 0; n <= 100; n++) {
            struct description_parts parts = {"", source, "INTERP", "linear", "20.00", " COR", " +9999 late"};
            memset(source, 'a', (size_t)n);
            source[n] = '\0';
            description_make(templates[i], &parts, text);
            CHECK(strlen(text) <= 64 && strstr(text, "NFPD") != NULL);
            CHECK(n < 64 || strlen(text) == 64);
            source[0] = '\0';
            for (int k = 0; k < n; k++)
                snprintf(source + (size_t)k * 2, 3, "%s", "\xc3\xa4");
            parts.charset = "ISO_IR 192";
            description_make(templates[i], &parts, text);
            CHECK(strlen(text) <= 64);
            int lead = 0, trail = 0;
            for (const char *p = text; *p != '\0'; p++) {
                lead += (unsigned char)*p == 0xc3;
                trail += (unsigned char)*p == 0xa4;
            }
            CHECK_INT(lead, trail);
            parts.charset = "\\ISO 2022 IR 87"; // cannot be cut, so it is there whole or not at all
            description_make(templates[i], &parts, text);
            CHECK((strstr(text, source) != NULL) == (n == 0 || strstr(text, "\xc3") != NULL));
        }
}

// The offset and the template reach the objects; numbers of stacks, views and large sources keep apart.
static void names_as_asked_for(void)
{
    static const struct {
        const char *variant, *arguments, *number, *description;
    } cases[] = {
        {"full", "", "1007", "[INTERP 0.80mm NFPD]"},
        {"full", "number_offset=5000", "5007", NULL},
        {"full", "number_offset=5000 view=sagittal", "55007", "[INTERP 0.80mm SAG NFPD]"},
        {"full", "format=enhanced", "41007", "[INTERP 0.80mm NFPD]"},
        {"full", "format=enhanced number_offset=5000 view=sagittal", "255007", NULL},
        {"ascii", "format=enhanced view=axial", "123471", NULL},
        {"ascii", "number_offset=5000", "6234", NULL}, // 1234
        {"ascii", "", "123401", NULL},
        {"ascii", "view=axial", "123431", NULL},
        {"ascii", "'description={method}: {source} NFPD'", NULL,
         "linear: DDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDD NFPD"},
        // 54 bytes that cannot be cut: they fit, or they do not
        {"iso2022", "'description={source} 12345 NFPD'", NULL, "12345 NFPD"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make_series(cases[i].variant, "in");
        clear("out");
        run("%s in out %s > facts", DERIVE_SERIES, cases[i].arguments);
        if (cases[i].number != NULL)
            run("test \"$(dcmdump -q +P SeriesNumber out/IM0001.dcm | cut -d[ -f2 | cut -d] -f1)\" = '%s'",
                cases[i].number);
        if (cases[i].description != NULL)
            run("dcmdump -q +P SeriesDescription out/IM0001.dcm | grep -aF '[%s] ' > found",
                cases[i].description);
    }
    run("! %s in out 'description={source}' 2> facts", DERIVE_SERIES);
}

static void same_request_same_bytes(void)
{
    make_series("full", "in");
    clear("out");
    clear("again");
    run("%s in out > facts", DERIVE_SERIES);
    run("TZ=Asia/Tokyo LC_ALL=C.UTF-8 %s in again > facts2",
        DERIVE_SERIES); // the source states its time zone
    run("diff -r out again && diff facts facts2");
    // without a record of the job: the latest time in the sources, whenever and wherever it runs
    clear("out");
    clear("again");
    run("%s in out time_us=0 > facts", DERIVE_SERIES);
    run("TZ=Asia/Tokyo %s in again time_us=0 > facts2", DERIVE_SERIES);
    run("diff -r out again && dcmdump out/IM0001.dcm | grep -q '0008,0033) TM .101040.25. '");
}

static void uid_changes_on(void)
{
    static const char *const options[] = {"",           "site=other",   "generation=1", "parameters=steps=9",
                                          "weights=ff", "method=cubic", "crop=16"};
    make_series("bare", "in");
    CHECK_OK(file_remove_tree("uids", &why));
    CHECK_OK(file_remove_tree("moved", &why));
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        clear("out");
        run("%s in out %s | grep -E '^(series|promised)' | cut -d' ' -f2 | sort -u >> uids", DERIVE_SERIES,
            options[i]);
    }
    // other pixels under the same UIDs
    run("/usr/bin/python3 -W ignore -c \"import pydicom; d = pydicom.dcmread('in/3.dcm'); "
        "d.PixelData = b'\\x01' + d.PixelData[1:]; d.save_as('in/3.dcm')\"");
    clear("out");
    run("%s in out | grep ^promised | cut -d' ' -f2 >> uids", DERIVE_SERIES);
    // time, names and file names do not matter
    run("cp -r in moved && mv moved/3.dcm moved/z && %s moved out time_us=1767607299000000 | grep ^promised "
        "| "
        "cut -d' ' -f2 >> uids",
        DERIVE_SERIES);
    run("cat uids >&2; test $(wc -l < uids) = 9 && test $(sort -u uids | wc -l) = 8");
}

static void network_says_so(void)
{
    make_series("bare", "in");
    clear("out");
    run("%s in out method=tuned", DERIVE_SERIES);
    run("%s/check_derived.sh in out", TEST_SOURCE_DIR);
    run("dcmdump +L out/IM0001.dcm > dump; grep -q 'SR-AI 0.80mm NFPD' dump && "
        "grep -q 'neural network, adapted to this subject' dump && "
        "grep -q 'sha256:001122334455;' dump && grep -q 'SA-INR 1.0' dump");
    clear("out");
    run("%s in out method=cubic", DERIVE_SERIES);
    run("dcmdump +L out/IM0001.dcm > dump; grep -q 'cubic B-spline' dump && ! grep -qE "
        "'neural|SR-AI|SA-INR|super-res' dump");
}

static void failed_write_is_reported(void)
{
    make_series("bare", "in");
    clear("out");
    run("! %s in not/there 2> facts && grep -q '^IO' facts", DERIVE_SERIES);
    run("ls out | wc -l | grep -qx 0");
}

// The n-th file call fails or ends the process, for every n: never success without all files, never a half
// file under a final name.
static void every_file_call_may_fail(void)
{
    static const char *const ways[] = {"", ":28", ":5"};
    make_series("bare", "in");
    for (int way = 0; way < 3; way++)
        for (int n = 1;; n++) {
            char command[512];
            clear("out");
            snprintf(command, sizeof command, "ISOSLICE_CRASH_AT=%d%s %s in out spacing=4 > facts 2> faults",
                     n, ways[way], DERIVE_SERIES);
            int rc = system(command);
            run("for f in out/*.dcm; do test ! -e $f || dcmdump -q $f > dump || exit 1; done");
            if (rc == 0) {
                run("test $(ls out/*.dcm | wc -l) = 8 && ! ls out/*.tmp 2> /dev/null && grep -q '^objects 8' "
                    "facts");
                CHECK(n > 8 * 5);
                break;
            }
            if (way > 0)
                run("grep -qE '^%s' faults && ! ls out/*.tmp 2> /dev/null", way == 1 ? "NO_SPACE" : "IO");
        }
}

static const struct test tests[] = {
    {"peer.source.siemens_t1_sag_jpegll", source_siemens_t1_sag_jpegll},
    {"peer.source.siemens_t1_ax_jpegll", source_siemens_t1_ax_jpegll},
    {"peer.source.siemens_t2_ax_jpegll", source_siemens_t2_ax_jpegll},
    {"peer.source.siemens_flair_ax_jpegll", source_siemens_flair_ax_jpegll},
    {"peer.source.siemens_t1_sag", source_siemens_t1_sag},
    {"peer.source.philips_t1_phantom", source_philips_t1_phantom},
    {"peer.source.ge_pd_oblique_uneven", source_ge_pd_oblique_uneven},
    {"peer.source.philips_t1_phantom_enhanced", source_philips_t1_phantom_enhanced},
    {"peer.source.siemens_localizer", source_siemens_localizer},
    {"peer.source.siemens_mosaic", source_siemens_mosaic},
    {"peer.source.uih_vframe", source_uih_vframe},
    {"peer.source.siemens_diffusion_trace", source_siemens_diffusion_trace},
    {"peer.source.canon_dti_80", source_canon_dti_80},
    {"peer.source.hitachi_shoulder_4slices_1", source_hitachi_shoulder_4slices_1},
    {"peer.source.hitachi_shoulder_4slices_2", source_hitachi_shoulder_4slices_2},
    {"peer.source.philips_two_orientations_1", source_philips_two_orientations_1},
    {"peer.source.philips_two_orientations_2", source_philips_two_orientations_2},
    {"peer.source.enhanced_philips", source_enhanced_philips},
    {"peer.source.enhanced_siemens", source_enhanced_siemens},
    {"unit.source.folders_and_rubbish", folders_and_rubbish},
    {"unit.source.changed_file_is_noticed", changed_file_is_noticed},
    {"unit.source.own_output_is_not_taken", own_output_is_not_taken},
    {"unit.source.transfer_syntaxes", transfer_syntaxes},
    {"unit.source.damaged_pixels_fail", damaged_pixels_fail},
    {"unit.derive.plans", plans},
    {"unit.derive.recurring_planes", recurring_planes},
    {"peer.derive.siemens_t1_sag_jpegll", derive_siemens_t1_sag_jpegll},
    {"peer.derive.siemens_t1_ax_jpegll", derive_siemens_t1_ax_jpegll},
    {"peer.derive.siemens_t2_ax_jpegll", derive_siemens_t2_ax_jpegll},
    {"peer.derive.siemens_flair_ax_jpegll", derive_siemens_flair_ax_jpegll},
    {"peer.derive.siemens_t1_sag", derive_siemens_t1_sag},
    {"peer.derive.philips_t1_phantom", derive_philips_t1_phantom},
    {"peer.derive.ge_pd_oblique_uneven", derive_ge_pd_oblique_uneven},
    {"peer.derive.philips_t1_phantom_enhanced", derive_philips_t1_phantom_enhanced},
    {"peer.derive.attributes_bare", made_bare},
    {"peer.derive.attributes_full", made_full},
    {"peer.derive.charset_utf8", made_utf8},
    {"peer.derive.charset_iso2022", made_iso2022},
    {"peer.derive.charset_misspelt", made_misspelt},
    {"peer.derive.acquired_who_knows_how", made_unsaid},
    {"peer.derive.description_cut", made_ascii},
    {"peer.derive.rescale_varies", made_varies},
    {"peer.derive.signed_16", made_signed},
    {"peer.derive.eight_bit", made_eight},
    {"peer.derive.high_bit", made_high},
    {"peer.derive.gated", made_gated},
    {"peer.derive.reversed_numbers", made_reversed},
    {"unit.description.templates", description_templates},
    {"unit.description.parts", description_parts},
    {"unit.description.is_cut", description_is_cut},
    {"peer.derive.names_as_asked_for", names_as_asked_for},
    {"unit.view.planes_of_any_grid", view_planes_of_any_grid},
    {"peer.derive.views_made", views_made},
    {"peer.derive.views_sagittal_stack", views_sagittal_stack},
    {"peer.derive.views_axial_stack", views_axial_stack},
    {"peer.derive.views_bent_stack", views_bent_stack},
    {"peer.enhance.made", enhanced_made},
    {"peer.enhance.views", enhanced_views},
    {"peer.enhance.siemens_t1_sag", enhanced_siemens_t1_sag},
    {"peer.enhance.ge_pd_oblique_uneven", enhanced_ge_pd_oblique_uneven},
    {"peer.enhance.philips_t1_phantom", enhanced_philips_t1_phantom},
    {"peer.enhance.philips_t1_phantom_enhanced", enhanced_philips_t1_phantom_enhanced},
    {"peer.enhance.siemens_flair_ax_jpegll", enhanced_siemens_flair_ax_jpegll},
    {"unit.enhance.same_request_same_bytes", enhanced_same_request_same_bytes},
    {"unit.enhance.is_own_output", enhanced_is_own_output},
    {"unit.enhance.reads_back", enhanced_reads_back},
    {"unit.enhance.too_large", enhanced_too_large},
    {"crash.enhance.every_file_call_may_fail", enhanced_file_call_may_fail},
    {"peer.derive.residual_is_added_and_clamped", residual_is_added_and_clamped},
    {"unit.derive.same_request_same_bytes", same_request_same_bytes},
    {"unit.derive.uid_changes_on", uid_changes_on},
    {"unit.derive.network_says_so", network_says_so},
    {"crash.derive.every_file_call_may_fail", every_file_call_may_fail},
    {"unit.derive.failed_write_is_reported", failed_write_is_reported},
};
TEST_MAIN(tests)
