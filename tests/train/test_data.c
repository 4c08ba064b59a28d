// SPDX-License-Identifier: Apache-2.0
//
// What training reads and cuts: NIfTI files sound and hostile, clips, packed files, samples.
#include "core/file.h"
#include "tests/engine/support.h"
#include "train/corpus.h"
#include "train/nifti.h"
#include "train/percentile.h"
#include "train/sample.h"
#include "train/video.h"

#include <cairo.h>
#include <spawn.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zlib.h>

extern char **environ;

// --------------------------------------------------------------------------------------------- NIfTI

enum { HEADER = 352, NX = 4, NY = 3, NZ = 2, COUNT = NX * NY * NZ };

static void put16(unsigned char *at, int value, int is_big)
{
    at[is_big] = (unsigned char)(value & 255);
    at[!is_big] = (unsigned char)(value >> 8 & 255);
}

static void put_float(unsigned char *at, float value, int is_big)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    for (int i = 0; i < 4; i++)
        at[is_big ? 3 - i : i] = (unsigned char)(bits >> (8 * i));
}

// A file of COUNT voxels of `type`, voxel i holding i (times 100 where it fits).
static size_t make_nifti(unsigned char *file, int type, int is_big, float slope, float intercept)
{
    const int dims[8] = {3, NX, NY, NZ, 1, 1, 1, 1};
    const float spacing[4] = {1, -0.5F, 0.75F, 3};
    size_t bytes = type == 2 ? 1 : type == 16 ? 4 : 2;
    memset(file, 0, HEADER);
    put16(file + (is_big ? 2 : 0), 348, is_big);
    for (int i = 0; i < 8; i++)
        put16(file + 40 + 2 * (ptrdiff_t)i, dims[i], is_big);
    put16(file + 70, type, is_big);
    for (int i = 0; i < 4; i++)
        put_float(file + 76 + 4 * (ptrdiff_t)i, spacing[i], is_big);
    put_float(file + 108, HEADER, is_big);
    put_float(file + 112, slope, is_big);
    put_float(file + 116, intercept, is_big);
    memcpy(file + 344, "n+1", 4);
    for (int i = 0; i < COUNT; i++) {
        unsigned char *at = file + HEADER + (size_t)i * bytes;
        if (type == 2)
            *at = (unsigned char)i;
        else if (type == 16)
            put_float(at, 100.5F * (float)i, is_big);
        else
            put16(at, type == 4 ? -100 * i : 2700 * i, is_big);
    }
    return HEADER + (size_t)COUNT * bytes;
}

static void read_types(void)
{
    struct fault_note why = {0};
    struct volume volume;
    unsigned char file[1024];
    static const struct {
        int type, is_big;
        float slope, intercept;
        double step; // of neighbouring voxels
    } cases[] = {{2, 0, 0, 0, 1},
                 {4, 0, 0.5F, 7, -50},
                 {512, 1, 1, 0, 2700},
                 {16, 0, 0, 3, 100.5},
                 {16, 1, 2, 0, 201}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (int is_packed = 0; is_packed < 2; is_packed++) {
            size_t size =
                make_nifti(file, cases[c].type, cases[c].is_big, cases[c].slope, cases[c].intercept);
            const char *path = is_packed ? "v.nii.gz" : "v.nii";
            if (is_packed) {
                gzFile gz = gzopen(path, "wb");
                CHECK(gz != NULL && gzwrite(gz, file, (unsigned)size) == (int)size && gzclose(gz) == Z_OK);
            } else {
                CHECK_OK(file_write_atomic(path, file, size, &why));
            }
            CHECK_OK(nifti_read(path, &volume, &why));
            CHECK_INT(volume.size[0], NX);
            CHECK_INT(volume.size[2], NZ);
            CHECK_NEAR(volume.spacing_mm[0], 0.5, 0);
            CHECK_NEAR(volume.spacing_mm[2], 3, 0);
            CHECK_INT(volume.is_bytes, cases[c].type == 2);
            double first = cases[c].slope != 0 ? (double)cases[c].intercept : 0;
            for (int i = 0; i < COUNT; i++)
                CHECK_NEAR((double)volume.voxels[i], first + cases[c].step * i, 1e-6 * 2700 * COUNT);
            volume_done(&volume);
        }
}

static void hostile_nifti(void)
{
    struct fault_note why = {0};
    struct volume volume;
    unsigned char file[1024];
    size_t size = make_nifti(file, 16, 0, 0, 0);
    for (size_t n = 0; n < size; n++) { // cut off anywhere
        CHECK_OK(file_write_atomic("cut.nii", file, n, &why));
        CHECK_FAULT(nifti_read("cut.nii", &volume, &why), FAULT_TRUNCATED);
        CHECK(volume.voxels == NULL);
    }
    static const struct {
        int at, value;
        enum fault fault;
    } cases[] = {{42, 0, FAULT_TOO_LARGE},  {42, 32767, FAULT_TOO_LARGE}, {40, 9, FAULT_BAD_HEADER},
                 {40, 0, FAULT_BAD_HEADER}, {70, 64, FAULT_BAD_HEADER},   {344, 0, FAULT_BAD_HEADER}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        size = make_nifti(file, 16, 0, 0, 0);
        put16(file + cases[c].at, cases[c].value, 0);
        CHECK_OK(file_write_atomic("bad.nii", file, size, &why));
        CHECK_FAULT(nifti_read("bad.nii", &volume, &why), cases[c].fault);
    }
    static const float offsets[] = {-1, 0, 347, 1e30F, NAN};
    for (size_t c = 0; c < sizeof offsets / sizeof offsets[0]; c++) {
        size = make_nifti(file, 16, 0, 0, 0);
        put_float(file + 108, offsets[c], 0);
        CHECK_OK(file_write_atomic("bad.nii", file, size, &why));
        CHECK_FAULT(nifti_read("bad.nii", &volume, &why), FAULT_BAD_HEADER);
    }
    size = make_nifti(file, 16, 0, 0, 0);
    put_float(file + HEADER + 8, NAN, 0);
    CHECK_OK(file_write_atomic("bad.nii", file, size, &why));
    CHECK_FAULT(nifti_read("bad.nii", &volume, &why), FAULT_NOT_FINITE);
}

static void percentiles(void)
{
    float values[1000];
    for (int i = 0; i < 1000; i++)
        values[i] = (float)((i * 617) % 1000); // 0..999 in another order
    CHECK_NEAR(percentile_of(values, 1000, 99.9), 998.001, 1e-9);
    CHECK_NEAR(percentile_of(values, 1000, 0), 0, 0);
    CHECK_NEAR(percentile_of(values, 1000, 100), 999, 0);
    CHECK_NEAR(percentile_of(values, 1000, 50), 499.5, 1e-9);
    float same[] = {3, 3, 3, 3};
    CHECK_NEAR(percentile_of(same, 4, 33), 3, 0);
}

// --------------------------------------------------------------------------------------------- DICOM

// A build without DICOM says so, whether or not there is something else to learn from.
static void dicom_without_a_reader(void)
{
    struct fault_note why = {0};
    struct corpus corpus;
    const char begins[132] = {[128] = 'D', 'I', 'C', 'M'};
    unsigned char file[1024];
    CHECK_OK(file_remove_tree("data", &why));
    CHECK_OK(file_make_directory("data/deep", &why));
    CHECK_OK(file_write_atomic("data/v.nii", file, make_nifti(file, 4, 0, 0, 0), &why));
    CHECK_OK(file_write_atomic("data/deep/v.nii", file, make_nifti(file, 4, 0, 0, 0), &why));
    corpus_init(&corpus, CORPUS_MR);
    CHECK_OK(corpus_add(&corpus, "data", NULL, NULL, &why));
    CHECK_INT(corpus.n_items, 1); // NIfTI files of the folder itself alone
    CHECK_OK(file_write_atomic("data/deep/x", begins, sizeof begins, &why));
    CHECK_FAULT(corpus_add(&corpus, "data", NULL, NULL, &why), FAULT_BACKEND);
    CHECK_STR(why.text,
              "'data/deep/x' is one of 1 DICOM files, and this build reads none: ISOSLICE_DICOM is off");
    CHECK_FAULT(corpus_add(&corpus, "data/deep/x", NULL, NULL, &why), FAULT_BACKEND);
    CHECK_OK(file_make_directory("empty", &why));
    CHECK_FAULT(corpus_add(&corpus, "empty", NULL, NULL, &why), FAULT_NOT_FOUND);
    CHECK_INT(corpus.n_items, 1);
    corpus_done(&corpus);
}

// --------------------------------------------------------------------------------------------- packed files

static void fill_item(struct corpus_item *item, const char *name, int x, int y, int z, int thick_axis)
{
    *item = (struct corpus_item){.size = {x, y, z}, .thick_axis = thick_axis};
    snprintf(item->name, sizeof item->name, "%s", name);
    item->voxels = item->owned = support_alloc((size_t)x * (size_t)y * (size_t)z);
    for (int i = 0; i < x * y * z; i++)
        item->owned[i] = (uint8_t)((i * 7 + x) % 251);
}

static void two_items(struct corpus *corpus)
{
    corpus_init(corpus, CORPUS_MR);
    corpus->items = support_alloc(2 * sizeof *corpus->items);
    fill_item(&corpus->items[0], "one.nii", 5, 6, 7, -1);
    fill_item(&corpus->items[1], "two.nii", 9, 8, 3, 2);
    corpus->n_items = 2;
}

static void pack_round_trip(void)
{
    struct fault_note why = {0};
    struct corpus corpus, back;
    two_items(&corpus);
    CHECK_OK(corpus_save(&corpus, "all.pack", &why));
    corpus_init(&back, CORPUS_MR);
    CHECK_OK(corpus_add(&back, "all.pack", NULL, NULL, &why));
    CHECK_INT(back.n_items, 2);
    for (size_t i = 0; i < 2; i++) {
        const struct corpus_item *a = &corpus.items[i], *b = &back.items[i];
        CHECK_STR(b->name, a->name);
        CHECK(memcmp(a->size, b->size, sizeof a->size) == 0);
        CHECK_INT(b->thick_axis, a->thick_axis);
        CHECK(memcmp(a->voxels, b->voxels, (size_t)(a->size[0] * a->size[1] * a->size[2])) == 0);
        CHECK((uintptr_t)b->voxels % 64 == 0 && b->owned == NULL);
    }
    corpus_done(&back);
    corpus_init(&back, CORPUS_VIDEO);
    CHECK_FAULT(corpus_add(&back, "all.pack", NULL, NULL, &why), FAULT_BAD_HEADER);
    corpus_done(&back);
    corpus_done(&corpus);
}

// Every prefix, and every byte of the index at its largest: refused, or read without leaving the file.
static void hostile_pack(void)
{
    struct fault_note why = {0};
    struct corpus corpus, back;
    void *data;
    size_t size;
    int n_refused = 0;
    two_items(&corpus);
    CHECK_OK(corpus_save(&corpus, "all.pack", &why));
    CHECK_OK(file_read("all.pack", 1 << 20, &data, &size, &why));
    unsigned char *bytes = data;
    corpus_init(&back, CORPUS_MR);
    for (size_t n = 0; n + 64 < size; n += 7) {
        CHECK_OK(file_write_atomic("cut.pack", bytes, n, &why));
        CHECK(corpus_add(&back, "cut.pack", NULL, NULL, &why) != 0);
        corpus_done(&back);
    }
    for (size_t i = 0; i < 256; i++) {
        unsigned char kept = bytes[i];
        bytes[i] = 255;
        CHECK_OK(file_write_atomic("bad.pack", bytes, size, &why));
        if (corpus_add(&back, "bad.pack", NULL, NULL, &why) != 0)
            n_refused++;
        else
            for (size_t k = 0; k < back.n_items; k++) {
                const struct corpus_item *item = &back.items[k];
                size_t n = (size_t)item->size[0] * (size_t)item->size[1] * (size_t)item->size[2];
                const unsigned char *first = back.maps[0].data;
                CHECK(item->voxels >= first && item->voxels + n <= first + back.maps[0].size);
            }
        corpus_done(&back);
        bytes[i] = kept;
    }
    printf("%d of 256 refused\n", n_refused);
    CHECK(n_refused > 40);
    free(data);
    corpus_done(&corpus);
}

// --------------------------------------------------------------------------------------------- clips

static void write_png(const char *path, int width, int height, int shift)
{
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height);
    unsigned char *data = cairo_image_surface_get_data(surface);
    int stride = cairo_image_surface_get_stride(surface);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            uint32_t level = (uint32_t)((x / 8 + shift) % 200), pixel = level << 16 | level << 8 | level;
            memcpy(data + (ptrdiff_t)y * stride + 4 * (ptrdiff_t)x, &pixel, 4);
        }
    cairo_surface_mark_dirty(surface);
    CHECK(cairo_surface_write_to_png(surface, path) == CAIRO_STATUS_SUCCESS);
    cairo_surface_destroy(surface);
}

static void png_folder(void)
{
    struct fault_note why = {0};
    struct corpus corpus;
    CHECK(mkdir("clips", 0700) == 0 && mkdir("clips/000", 0700) == 0);
    for (int i = 0; i < 3; i++) {
        char path[64];
        snprintf(path, sizeof path, "clips/000/%08d.png", 2 - i); // made in another order than their names'
        write_png(path, 1280, 720, 2 - i);
    }
    corpus_init(&corpus, CORPUS_VIDEO);
    CHECK_OK(corpus_add(&corpus, "clips", NULL, NULL, &why));
    CHECK_INT(corpus.n_items, 1);
    const struct corpus_item *clip = &corpus.items[0];
    CHECK_STR(clip->name, "000");
    CHECK_INT(clip->size[0], 160);
    CHECK_INT(clip->size[1], 90);
    CHECK_INT(clip->size[2], 3);
    for (int t = 0; t < 3; t++) // blocks of 8 columns: their means are their levels
        for (int x = 0; x < 160; x++)
            CHECK_INT(clip->voxels[(t * 90 + 44) * 160 + x], x + t);
    corpus_done(&corpus);
    CHECK(mkdir("empty", 0700) == 0);
    CHECK_FAULT(corpus_add(&corpus, "empty", NULL, NULL, &why), FAULT_NOT_FOUND);
    write_png("clips/000/00000009.png", 640, 360, 0); // another size, the same after reduction: fine
    CHECK_OK(corpus_add(&corpus, "clips", NULL, NULL, &why));
    corpus_done(&corpus);
    write_png("clips/000/00000010.png", 640, 480, 0);
    CHECK_FAULT(corpus_add(&corpus, "clips", NULL, NULL, &why), FAULT_DECODE);
    corpus_done(&corpus);
}

static void area_average(void)
{
    const float from[] = {0, 30, 60, 90, 120, 150}; // 3 x 2
    uint8_t to[2];
    video_shrink(from, 3, 2, 2, 1, to); // each pixel: one and a half columns of both rows
    CHECK_INT(to[0], 55);               // (0 + 15 + 90 + 60) / 3
    CHECK_INT(to[1], 95);               // (15 + 60 + 60 + 150) / 3
}

static void run_command(char *const argv[])
{
    pid_t child;
    int status;
    CHECK(posix_spawnp(&child, argv[0], NULL, NULL, argv, environ) == 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_INT(WEXITSTATUS(status), 0);
}

// A name that a shell or an option parser would take for something else.
static void video_file(void)
{
    struct fault_note why = {0};
    struct video video;
    char name[] = "-y ; touch x; $(touch y) 'a'.mkv", url[80];
    snprintf(url, sizeof url, "file:%s", name);
    char *make[] = {
        "ffmpeg", "-v",   "error",    "-f",   "lavfi", "-i", "testsrc=size=320x180:rate=10:duration=2",
        "-c:v",   "ffv1", "-pix_fmt", "gray", url,     NULL};
    run_command(make);
    CHECK_OK(video_read_file(name, &video, &why));
    CHECK_INT(video.width, 160);
    CHECK_INT(video.height, 90);
    CHECK_INT(video.n_frames, 20);
    int low = 255, high = 0;
    for (int i = 0; i < 160 * 90; i++) {
        low = video.frames[i] < low ? video.frames[i] : low;
        high = video.frames[i] > high ? video.frames[i] : high;
    }
    CHECK(low < 20 && high > 235);
    video_done(&video);
    CHECK_OK(file_write_atomic("noise.mp4", "not a video at all", 18, &why));
    CHECK_FAULT(video_read_file("noise.mp4", &video, &why), FAULT_DECODE);
    CHECK(video.frames == NULL);
}

// --------------------------------------------------------------------------------------------- samples

// The weights that the reference trainer's profile_rows gives to voxels 0..n-1 around `centre`.
static void profile_formula(void)
{
    static const double thickness[] = {0.8, 2.4, 4, 7.3, 9.6};
    for (size_t k = 0; k < sizeof thickness / sizeof thickness[0]; k++) {
        struct profile profile;
        double sigma = thickness[k] / 2.354820045;
        profile_init(&profile, PROFILE_GAUSS, thickness[k], 0.5);
        for (int i = -40; i <= 40; i++) {
            double want = abs(i) <= 3 * sigma + 0.5 ? exp(-0.5 * (i / sigma) * (i / sigma)) : 0;
            double got = abs(i) <= profile.reach ? profile.weight[i + profile.reach] : 0;
            CHECK_NEAR(got, want, 1e-9);
        }
    }
    struct profile box;
    profile_init(&box, PROFILE_BOX, 4, 0.5); // -1.5..1.5 whole, one half on either side
    CHECK_INT(box.reach, 2);
    CHECK_NEAR(box.weight[0], 0.5, 0);
    CHECK_NEAR(box.weight[1], 1, 0);
    profile_init(&box, PROFILE_GAUSS, 0, 0.5);
    CHECK_INT(box.reach, 0);
    CHECK_NEAR(box.weight[0], 1, 0);
}

static struct sample_recipe plain_recipe(int batch, int slices, int crop, int factor_min, int factor_max)
{
    struct sample_recipe recipe = sample_default(CORPUS_MR);
    recipe.batch = batch;
    recipe.slices = slices;
    recipe.crop = crop;
    recipe.factor_min = factor_min;
    recipe.factor_max = factor_max;
    recipe.noise = 0;
    return recipe;
}

// A volume that is a plane a + b x + c y + d z is reproduced by any symmetric profile, so each true plane is
// exactly the linear interpolation of its neighbours, whatever axis, flip and offset were drawn; and over
// many draws every axis is used.
static void planes_lie_where_they_say(void)
{
    enum { SIDE = 40, DRAWS = 60 };
    struct fault_note why = {0};
    struct corpus corpus;
    struct sample_source source;
    struct sample_batch batch;
    struct sample_recipe recipe = plain_recipe(2, 4, 12, 2, 5);
    int slopes_seen[6] = {0};
    recipe.thickness_high = 0.75; // the tails stay within the margins: no profile is cut off
    corpus_init(&corpus, CORPUS_MR);
    corpus.items = support_alloc(sizeof *corpus.items);
    fill_item(&corpus.items[0], "ramp", SIDE, SIDE, SIDE, -1);
    corpus.n_items = 1;
    for (int z = 0; z < SIDE; z++)
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x++)
                corpus.items[0].owned[(z * SIDE + y) * SIDE + x] = (uint8_t)(20 + x + 2 * y + 3 * z);
    CHECK_OK(sample_source_init(&source, &corpus, &recipe, &why));
    CHECK_OK(sample_batch_init(&batch, &recipe, &why));
    for (int step = 0; step < DRAWS; step++) {
        CHECK_OK(sample_draw(&source, (uint64_t)step, &batch, &why));
        CHECK_INT(batch.extent.h, 12);
        for (int k = 0; k < 2 * 3; k++) {
            const float *p = batch.planes + (ptrdiff_t)k * SR_PLANE_FLOATS;
            const float *a = batch.stack +
                             ((ptrdiff_t)p[SR_PLANE_STACK] * 4 + (ptrdiff_t)p[SR_PLANE_SLICE]) * 144,
                        *b = a + 144;
            CHECK_INT((int)p[SR_PLANE_STACK], k / 3);
            CHECK_INT((int)p[SR_PLANE_SLICE], k % 3);
            double t = (double)p[SR_PLANE_T];
            CHECK(t >= 0 && t <= 1);
            for (int i = 0; i < 144; i++)
                CHECK_NEAR((double)batch.target[(size_t)k * 144 + (size_t)i],
                           (1 - t) * (double)a[i] + t * (double)b[i], 2e-6);
            int along = (int)lrint(255 * (double)(a[1] - a[0]));
            CHECK(abs(along) >= 1 && abs(along) <= 3);
            slopes_seen[along + (along < 0 ? 3 : 2)]++;
        }
    }
    for (int i = 0; i < 6; i++)
        CHECK(slopes_seen[i] > 0);
    sample_batch_done(&batch);
    sample_source_done(&source);
    corpus_done(&corpus);
}

// Of more places the one with more to see: a quarter of the volume has texture, the rest is even and bright.
static void places_with_more_to_see(void)
{
    enum { SIDE = 64, DRAWS = 200 };
    struct fault_note why = {0};
    struct corpus corpus;
    struct sample_source source;
    struct sample_batch batch;
    struct sample_recipe recipe = plain_recipe(1, 4, 16, 2, 3);
    double mean[2];
    corpus_init(&corpus, CORPUS_MR);
    corpus.items = support_alloc(sizeof *corpus.items);
    fill_item(&corpus.items[0], "corner", SIDE, SIDE, SIDE, -1);
    corpus.n_items = 1;
    for (int i = 0; i < SIDE * SIDE * SIDE; i++)
        if (i % SIDE >= SIDE / 2 || i / SIDE % SIDE >= SIDE / 2)
            corpus.items[0].owned[i] = 200;
    for (int more = 0; more < 2; more++) {
        double sum = 0;
        recipe.places = more ? 4 : 1;
        CHECK_OK(sample_source_init(&source, &corpus, &recipe, &why));
        CHECK_OK(sample_batch_init(&batch, &recipe, &why));
        for (int step = 0; step < DRAWS; step++) {
            CHECK_OK(sample_draw(&source, (uint64_t)step, &batch, &why));
            for (int i = 0; i < 3 * 16 * 16; i++)
                sum += fabs((double)batch.target[i] - 200 / 255.0) > 1e-3;
        }
        mean[more] = sum / (DRAWS * 3 * 16 * 16);
        sample_batch_done(&batch);
        sample_source_done(&source);
    }
    printf("share with texture: %.3f, of four places %.3f\n", mean[0], mean[1]);
    CHECK(mean[1] > 2 * mean[0]);
    recipe.places = 0;
    CHECK_FAULT(sample_source_init(&source, &corpus, &recipe, &why), FAULT_INTERNAL);
    corpus_done(&corpus);
}

// 1 when the retained slices of a sample, all of them constant in plane, are the voxels along z blurred by
// `thickness` at every factor-th place from somewhere on, in either direction.
static int is_cut_from(const uint8_t *along, int length, int factor, double thickness, const float *stack,
                       int slices, size_t plane)
{
    struct profile profile;
    profile_init(&profile, PROFILE_GAUSS, thickness, 0.5);
    for (int from = 0; from < length; from++)
        for (int way = -1; way <= 1; way += 2) {
            int fits = 1;
            for (int d = 0; fits && d < slices; d++) {
                double sum = 0, total = 0;
                for (int i = -profile.reach; i <= profile.reach; i++) {
                    int z = from + way * d * factor + i;
                    if (z < 0 || z >= length)
                        continue;
                    sum += profile.weight[i + profile.reach] * along[z] / 255.0;
                    total += profile.weight[i + profile.reach];
                }
                fits = fabs(sum / total - (double)stack[(size_t)d * plane]) < 1e-5;
            }
            if (fits)
                return 1;
        }
    return 0;
}

// With a recipe that leaves one factor and one thickness, the retained slices are what the profile makes of
// the volume, thin ones as often as asked for. Only z is long enough to be the slice axis.
static void slices_are_blurred(void)
{
    enum { LENGTH = 60, SIDE = 12, SLICES = 7, DRAWS = 60 };
    struct fault_note why = {0};
    struct corpus corpus;
    struct sample_source source;
    struct sample_batch batch;
    corpus_init(&corpus, CORPUS_MR);
    corpus.items = support_alloc(sizeof *corpus.items);
    fill_item(&corpus.items[0], "layers", SIDE, SIDE, LENGTH, -1);
    corpus.n_items = 1;
    uint8_t along[LENGTH];
    for (int z = 0; z < LENGTH; z++) {
        along[z] = (uint8_t)((uint32_t)(z + 1) * 2654435761U >> 11 & 255);
        memset(corpus.items[0].owned + (ptrdiff_t)z * SIDE * SIDE, along[z], (size_t)SIDE * SIDE);
    }
    for (int n = 2; n <= 5; n++) {
        struct sample_recipe recipe = plain_recipe(1, SLICES, SIDE, n, n);
        const double share = 0.5 + 0.1 * n;
        int n_thin = 0;
        recipe.thin_share = 0.3;
        recipe.thickness_low = recipe.thickness_high = share;
        CHECK_OK(sample_source_init(&source, &corpus, &recipe, &why));
        CHECK_OK(sample_batch_init(&batch, &recipe, &why));
        for (int step = 0; step < DRAWS; step++) {
            CHECK_OK(sample_draw(&source, (uint64_t)step, &batch, &why));
            const size_t plane = (size_t)SIDE * SIDE;
            int is_thin = is_cut_from(along, LENGTH, n, 0, batch.stack, SLICES, plane);
            CHECK_INT(is_cut_from(along, LENGTH, n, share * n, batch.stack, SLICES, plane), !is_thin);
            CHECK(!is_cut_from(along, LENGTH, n, 1.02 * share * n, batch.stack, SLICES, plane));
            n_thin += is_thin;
        }
        printf("factor %d: %d of %d thin\n", n, n_thin, DRAWS);
        CHECK(n_thin > 0 && n_thin < DRAWS / 2);
        sample_batch_done(&batch);
        sample_source_done(&source);
    }
    corpus_done(&corpus);
}

// A step's batch is the same whenever it is drawn, and no two steps' are.
static void draws_depend_on_step_alone(void)
{
    struct fault_note why = {0};
    struct corpus corpus;
    struct sample_source source;
    struct sample_batch a, b;
    struct sample_recipe recipe = sample_default(CORPUS_MR);
    recipe.slices = 4;
    recipe.crop = 16;
    recipe.factor_max = 4;
    corpus_init(&corpus, CORPUS_MR);
    corpus.items = support_alloc(sizeof *corpus.items);
    fill_item(&corpus.items[0], "noise", 30, 34, 38, -1);
    corpus.n_items = 1;
    CHECK_OK(sample_source_init(&source, &corpus, &recipe, &why));
    CHECK_OK(sample_batch_init(&a, &recipe, &why));
    CHECK_OK(sample_batch_init(&b, &recipe, &why));
    CHECK_OK(sample_draw(&source, 7, &a, &why));
    CHECK_OK(sample_draw(&source, 8, &b, &why));
    size_t n = (size_t)4 * 16 * 16;
    CHECK(memcmp(a.stack, b.stack, n * sizeof *a.stack) != 0);
    CHECK_OK(sample_draw(&source, 7, &b, &why));
    support_equal("stack", b.stack, a.stack, n);
    support_equal("target", b.target, a.target, n / 4 * 3);
    sample_batch_done(&a);
    sample_batch_done(&b);
    sample_source_done(&source);
    corpus_done(&corpus);
}

// Thick stacks are used in their planes only, half as many rows.
static void stacks_serve_in_plane(void)
{
    struct fault_note why = {0};
    struct corpus corpus;
    struct sample_source source;
    struct sample_batch batch;
    struct sample_recipe recipe = plain_recipe(1, 3, 16, 2, 3);
    corpus_init(&corpus, CORPUS_MR);
    corpus.items = support_alloc(2 * sizeof *corpus.items);
    fill_item(&corpus.items[0], "stack", 40, 40, 12, 2);
    corpus.n_items = 1;
    for (int i = 0; i < 40 * 40 * 12; i++)
        corpus.items[0].owned[i] = (uint8_t)(100 + i / 1600); // the slice's number
    CHECK_OK(sample_source_init(&source, &corpus, &recipe, &why));
    CHECK_INT(source.n_planar, 1);
    CHECK_INT(source.n_whole, 0);
    CHECK_OK(sample_batch_init(&batch, &recipe, &why));
    for (int step = 0; step < 20; step++) {
        CHECK_OK(sample_draw(&source, (uint64_t)step, &batch, &why));
        CHECK_INT(batch.extent.h, 8);
        CHECK_INT(batch.extent.w, 16);
        for (int d = 0; d < 3; d++) // the same slices in all planes: the thick axis is never blurred
            for (int i = 0; i < 8 * 16; i++)
                CHECK_NEAR((double)batch.stack[(size_t)d * 128 + (size_t)i],
                           (double)batch.stack[(size_t)i / 16 * 16], 1e-6);
        CHECK_INT(lrint(255 * fabs((double)(batch.stack[16] - batch.stack[0]))), 1);
    }
    sample_batch_done(&batch);
    sample_source_done(&source);
    recipe.slices = 30;
    CHECK_FAULT(sample_source_init(&source, &corpus, &recipe, &why), FAULT_NOT_FOUND);
    corpus_done(&corpus);
}

// Clips: decimated without blur along time, still ones mostly passed over.
static void clips_are_decimated(void)
{
    enum { T = 60 };
    struct fault_note why = {0};
    struct corpus corpus;
    struct sample_source source;
    struct sample_batch batch;
    struct sample_recipe recipe = sample_default(CORPUS_VIDEO);
    int n_still = 0;
    recipe.slices = 5;
    recipe.crop = 16;
    corpus_init(&corpus, CORPUS_VIDEO);
    corpus.items = support_alloc(2 * sizeof *corpus.items);
    fill_item(&corpus.items[0], "moving", 20, 18, T, -1);
    fill_item(&corpus.items[1], "still", 20, 18, T, -1);
    corpus.n_items = 2;
    for (int i = 0; i < 360 * T; i++) {
        corpus.items[0].owned[i] = (uint8_t)(4 * (i / 360)); // 4 a frame
        corpus.items[1].owned[i] = 255;
    }
    CHECK_OK(sample_source_init(&source, &corpus, &recipe, &why));
    CHECK_OK(sample_batch_init(&batch, &recipe, &why));
    for (int step = 0; step < 100; step++) {
        CHECK_OK(sample_draw(&source, (uint64_t)step, &batch, &why));
        double first = 255 * (double)batch.stack[0], gap = 255 * (double)batch.stack[256] - first;
        if (first > 254.5) {
            n_still++;
            continue;
        }
        int n = abs((int)lrint(gap)) / 4;
        CHECK(n >= 2 && n <= 8);
        for (int k = 0; k < 4; k++) {
            double t = (double)batch.planes[SR_PLANE_FLOATS * k + SR_PLANE_T];
            CHECK_NEAR(255 * (double)batch.target[(size_t)k * 256], first + gap * (k + t), 1e-3);
            CHECK_NEAR(t * n, rint(t * n), 1e-5);
        }
    }
    printf("%d of 100 at rest\n", n_still);
    CHECK(n_still < 20); // half of the draws, of which one in twenty stays: about 5
    sample_batch_done(&batch);
    sample_source_done(&source);
    corpus_done(&corpus);
}

static const struct test tests[] = {
    {"unit.nifti.types", read_types},
    {"unit.nifti.hostile", hostile_nifti},
    {"unit.percentile.as_numpy", percentiles},
    {"unit.corpus.dicom_without_a_reader", dicom_without_a_reader},
    {"unit.corpus.pack_round_trip", pack_round_trip},
    {"unit.corpus.hostile_pack", hostile_pack},
    {"unit.video.png_folder", png_folder},
    {"unit.video.area_average", area_average},
    {"unit.video.file", video_file},
    {"unit.profile.formula", profile_formula},
    {"unit.sample.planes_lie_where_they_say", planes_lie_where_they_say},
    {"unit.sample.places_with_more_to_see", places_with_more_to_see},
    {"unit.sample.slices_are_blurred", slices_are_blurred},
    {"unit.sample.depends_on_step_alone", draws_depend_on_step_alone},
    {"unit.sample.stacks_in_plane", stacks_serve_in_plane},
    {"unit.sample.clips", clips_are_decimated},
};

TEST_MAIN(tests)
