// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/phantom.h"

#include "core/file.h"
#include "dicom_map/source.h"
#include "tests/support/check.h"

static struct fault_note why;

static const struct phantom_options small = {
    .width = 48, .height = 40, .n_slices = 9, .pixel_mm = 4, .slice_mm = 7, .thickness_mm = 6};

static void make(const char *folder, struct phantom_options options)
{
    CHECK_OK(file_remove_tree(folder, &why));
    CHECK_OK(file_make_directory(folder, &why));
    CHECK_OK(phantom_write(folder, &options, &why));
}

static void is_a_plain_stack(void)
{
    make("p", small);
    struct source *source = NULL;
    const char *path = "p";
    CHECK_OK(source_open(&path, 1, &source, &why));
    CHECK_INT(source_n_items(source), 1);
    const struct source_item *item = source_item(source, 0);
    CHECK_STR(fault_name(item->verdict), "OK");
    CHECK_STR(item->warnings, "");
    CHECK_INT(item->depth, 9);
    CHECK_INT(item->height, 40);
    CHECK_INT(item->width, 48);
    CHECK_NEAR(item->slice_mm, 7, 1e-6);
    CHECK_NEAR(item->gap_mm, 1, 1e-6);
    static float voxels[9 * 40 * 48];
    CHECK_OK(source_load_voxels(source, 0, voxels, &why));
    // the middle of the head is brain or fluid, the corners are air
    CHECK(voxels[(4 * 40 + 20) * 48 + 24] > 300);
    CHECK(voxels[(4 * 40 + 0) * 48 + 0] < 40);
    source_free(source);
}

static void same_options_same_bytes(void)
{
    make("a", small);
    make("b", small);
    CHECK_INT(system("diff -r a b"), 0);
    struct phantom_options other = small;
    other.seed = 2;
    make("c", other);
    CHECK_INT(system("test $(ls a | wc -l) = 9 && ! cmp -s a/IM0005.dcm c/IM0005.dcm && test $(dcmdump +P "
                     "SOPInstanceUID "
                     "a/*.dcm c/*.dcm | grep 0008,0018 | sort -u | wc -l) = 18"),
              0);
}

// A thick slice is the mean of what the thin ones see: profile-integrated, not a sample.
static void slices_are_averages(void)
{
    struct phantom_options thin = small;
    thin.is_isotropic = 1;
    make("thin", thin);
    struct source *source = NULL;
    const char *path = "thin";
    CHECK_OK(source_open(&path, 1, &source, &why));
    CHECK_STR(fault_name(source_item(source, 0)->verdict), "NOTHING_TO_DO");
    CHECK_INT(source_item(source, 0)->n_images, 15); // (9 - 1) * 7 / 4 + 1
    source_free(source);
    double point = phantom_signal(1, 3, 40, -20), mean = 0;
    for (int i = 0; i < 100; i++)
        mean += phantom_signal(1, 3, 40, -20 + 6 * ((i + 0.5) / 100 - 0.5)) / 100;
    CHECK(fabs(point - mean) > 1e-4);
    CHECK_NEAR(phantom_signal(1, 200, 0, 0), 0, 0);
}

static void refuses_nonsense(void)
{
    struct phantom_options bad = small;
    bad.width = 5000;
    CHECK_FAULT(phantom_write(".", &bad, &why), FAULT_USAGE);
    bad = small;
    bad.pixel_mm = -1;
    CHECK_FAULT(phantom_write(".", &bad, &why), FAULT_USAGE);
    CHECK_FAULT(phantom_write("not/here", &small, &why), FAULT_IO);
}

static void derives_cleanly(void)
{
    make("in", small);
    CHECK_OK(file_remove_tree("out", &why));
    CHECK_OK(file_make_directory("out", &why));
    CHECK_INT(system(DERIVE_SERIES " in out && " TEST_SOURCE_DIR "/check_derived.sh in out"), 0);
}

static const struct test tests[] = {
    {"unit.phantom.is_a_plain_stack", is_a_plain_stack},
    {"unit.phantom.same_options_same_bytes", same_options_same_bytes},
    {"unit.phantom.slices_are_averages", slices_are_averages},
    {"unit.phantom.refuses_nonsense", refuses_nonsense},
    {"peer.derive.phantom", derives_cleanly},
};
TEST_MAIN(tests)
