// SPDX-License-Identifier: Apache-2.0
//
// DICOM series as training data: the same voxels as from NIfTI, thin series too, and no stack left out in
// silence.
#include "core/file.h"
#include "dicom_map/phantom.h"
#include "dicom_map/source.h"
#include "tests/support/check.h"
#include "train/corpus.h"
#include "train/series.h"

#include <stdint.h>
#include <unistd.h>

static struct fault_note why;

// A height that is not the width, a seed that makes the two sides differ: an exchange of axes shows.
static const struct phantom_options thick = {
    .width = 48, .height = 40, .n_slices = 9, .pixel_mm = 4, .slice_mm = 14, .thickness_mm = 12, .seed = 3};

static void make(const char *folder, struct phantom_options options)
{
    CHECK_OK(file_remove_tree(folder, &why));
    CHECK_OK(file_make_directory(folder, &why));
    CHECK_OK(phantom_write(folder, &options, &why));
}

// What was left out.
struct heard {
    int n;
    char name[4][80], reason[4][700];
};

static void hear(void *user, const char *name, const char *reason)
{
    struct heard *heard = user;
    CHECK(heard->n < 4);
    snprintf(heard->name[heard->n], sizeof heard->name[0], "%s", name);
    snprintf(heard->reason[heard->n++], sizeof heard->reason[0], "%s", reason);
    fprintf(stderr, "'%s' left out: %s\n", name, reason);
}

static void init(struct corpus *corpus, struct heard *heard)
{
    memset(heard, 0, sizeof *heard);
    corpus_init(corpus, CORPUS_MR);
    corpus->series = series_read;
    corpus->left_out = hear;
    corpus->left_out_user = heard;
}

static void write_nifti(const char *path, const int *size, const double *spacing_mm, const float *voxels)
{
    const int16_t dims[8] = {3, (int16_t)size[0], (int16_t)size[1], (int16_t)size[2], 1, 1, 1, 1};
    const int16_t type[2] = {16, 32};
    const float pixdim[4] = {1, (float)spacing_mm[0], (float)spacing_mm[1], (float)spacing_mm[2]};
    const float offset = 352;
    const int32_t header = 348;
    size_t n = (size_t)size[0] * (size_t)size[1] * (size_t)size[2];
    unsigned char *file = calloc(352 + 4 * n, 1);
    CHECK(file != NULL);
    memcpy(file, &header, 4);
    memcpy(file + 40, dims, sizeof dims);
    memcpy(file + 70, type, sizeof type);
    memcpy(file + 76, pixdim, sizeof pixdim);
    memcpy(file + 108, &offset, 4);
    memcpy(file + 344, "n+1", 4);
    memcpy(file + 352, voxels, 4 * n);
    CHECK_OK(file_write_atomic(path, file, 352 + 4 * n, &why));
    free(file);
}

// The thick stack as NIfTI, by the way that `isoslice run` reads it.
static void convert(const char *folder, const char *path)
{
    struct source *source = NULL;
    CHECK_OK(source_open(&folder, 1, &source, &why));
    const struct source_item *item = source_item(source, 0);
    const int size[3] = {item->width, item->height, item->depth};
    const double spacing_mm[3] = {item->column_mm, item->row_mm, item->slice_mm};
    static float voxels[48 * 40 * 9];
    CHECK_INT(item->width * item->height * item->depth, 48 * 40 * 9);
    CHECK_OK(source_load_voxels(source, 0, voxels, &why));
    write_nifti(path, size, spacing_mm, voxels);
    source_free(source);
}

static void same_as_from_nifti(void)
{
    struct corpus corpus;
    struct heard heard;
    CHECK_OK(file_remove_tree("both", &why));
    make("both/deep/er", thick);
    convert("both", "both/thick.nii"); // both kinds in one folder
    init(&corpus, &heard);
    CHECK_OK(corpus_add(&corpus, "both", NULL, NULL, &why));
    CHECK_INT(corpus.n_items, 2);
    CHECK_INT(heard.n, 0);
    const struct corpus_item *nifti = &corpus.items[0], *series = &corpus.items[1];
    CHECK_STR(nifti->name, "thick.nii");
    CHECK_CONTAINS(series->name, "#0");
    const int size[3] = {48, 40, 9};
    for (int i = 0; i < 3; i++) {
        CHECK_INT(series->size[i], size[i]);
        CHECK_INT(nifti->size[i], size[i]);
    }
    CHECK_INT(series->thick_axis, 2); // 14 mm are more than 2.5 times 4 mm
    CHECK_INT(nifti->thick_axis, 2);
    int most = 0;
    for (int i = 0; i < 48 * 40 * 9; i++) {
        CHECK_INT(series->voxels[i], nifti->voxels[i]);
        most = series->voxels[i] > most ? series->voxels[i] : most;
    }
    CHECK_INT(most, 255);
    corpus_done(&corpus);
}

// What `isoslice run` has nothing to do with is what stage 2 learns from.
static void thin_series_serve(void)
{
    struct corpus corpus;
    struct heard heard;
    struct phantom_options thin = thick;
    struct source *source = NULL;
    const char *path = "thin";
    thin.is_isotropic = 1;
    make("thin", thin);
    CHECK_OK(source_open(&path, 1, &source, &why));
    CHECK_STR(fault_name(source_item(source, 0)->verdict), "NOTHING_TO_DO");
    source_free(source);
    init(&corpus, &heard);
    CHECK_OK(corpus_add(&corpus, "thin", NULL, NULL, &why));
    CHECK_INT(corpus.n_items, 1);
    CHECK_INT(heard.n, 0);
    CHECK_INT(corpus.items[0].size[2], 29); // (9 - 1) * 14 / 4 + 1
    CHECK_INT(corpus.items[0].thick_axis, -1);
    corpus_done(&corpus);
}

static void refused_stacks_are_named(void)
{
    struct corpus corpus;
    struct heard heard;
    struct phantom_options other = thick;
    CHECK_OK(file_remove_tree("data", &why));
    make("data/good", thick);
    other.seed = 4;
    make("data/hole", other);
    CHECK_INT(unlink("data/hole/IM0004.dcm"), 0);
    other.seed = 5;
    make("data/few", other);
    for (int i = 5; i <= 9; i++) {
        char name[64];
        snprintf(name, sizeof name, "data/few/IM%04d.dcm", i);
        CHECK_INT(unlink(name), 0);
    }
    CHECK_OK(file_write_atomic("data/readme.txt", "words", 5, &why)); // not data, not a refusal
    init(&corpus, &heard);
    CHECK_OK(corpus_add(&corpus, "data", NULL, NULL, &why));
    CHECK_INT(corpus.n_items, 1);
    CHECK_INT(heard.n, 2);
    int hole = strstr(heard.reason[0], "MISSING_SLICES") != NULL ? 0 : 1;
    CHECK_CONTAINS(heard.reason[hole], "MISSING_SLICES: 1 missing (1 after slice 3)");
    CHECK_CONTAINS(heard.reason[1 - hole], "NOTHING_TO_DO: 4 slices");
    CHECK_CONTAINS(heard.name[0], "#0");
    CHECK(strcmp(heard.name[0], heard.name[1]) != 0);
    CHECK_FAULT(corpus_add(&corpus, "data/few", NULL, NULL, &why), FAULT_NOT_FOUND);
    CHECK_CONTAINS(why.text, "none of 4 DICOM files in 'data/few'");
    CHECK_INT(corpus.n_items, 1);
    CHECK_INT(heard.n, 3);
    corpus_done(&corpus);
}

// An object that ends early, and a file that only begins like one, are left out by name too.
static void damaged_files_are_named(void)
{
    struct corpus corpus;
    struct heard heard;
    const char begins[132] = {[128] = 'D', 'I', 'C', 'M'};
    make("data", thick);
    CHECK_OK(file_write_atomic("data/other", begins, sizeof begins, &why));
    CHECK_INT(truncate("data/IM0009.dcm", 3000), 0);
    init(&corpus, &heard);
    CHECK_OK(corpus_add(&corpus, "data", NULL, NULL, &why));
    CHECK_INT(corpus.n_items, 1);
    CHECK_INT(corpus.items[0].size[2], 8);
    CHECK_INT(heard.n, 2);
    CHECK_CONTAINS(heard.reason[0], "IM0009.dcm");
    CHECK_CONTAINS(heard.reason[1], "other");
    corpus_done(&corpus);
}

static const struct test tests[] = {
    {"unit.corpus.series_same_as_from_nifti", same_as_from_nifti},
    {"unit.corpus.thin_series_serve", thin_series_serve},
    {"unit.corpus.refused_stacks_are_named", refused_stacks_are_named},
    {"unit.corpus.damaged_files_are_named", damaged_files_are_named},
};
TEST_MAIN(tests)
