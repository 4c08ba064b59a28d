// SPDX-License-Identifier: Apache-2.0
//
// DICOM at arm's length: the same results, nothing believed, and a dead process is a fault with a name.
#include "core/clock.h"
#include "core/confine.h"
#include "core/file.h"
#include "dicom_map/phantom.h"
#include "reader/reader.h"
#include "tests/support/check.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>

static struct fault_note why;

static const struct phantom_options small = {
    .width = 48, .height = 40, .n_slices = 8, .pixel_mm = 4, .slice_mm = 14, .thickness_mm = 12, .seed = 3};

static const char *const in[] = {"in"};

static void make_source(void)
{
    CHECK_OK(file_make_directory("in", &why));
    CHECK_OK(file_make_directory("out", &why));
    CHECK_OK(phantom_write("in", &small, &why));
}

// From here on readers are ones that do this.
static void misread(const char *what)
{
    char here[4096], path[sizeof here + 64];
    CHECK(getcwd(here, sizeof here) != NULL);
    CHECK(symlink(MISREAD, what) == 0 || errno == EEXIST);
    snprintf(path, sizeof path, "%s/%s", here, what);
    setenv("ISOSLICE_READER", path, 1);
}

// Of what is asked for.
static enum format format = FORMAT_CLASSIC;
static enum view_plane view = VIEW_ACQUIRED;

static void fill_request(struct derive_request *request, const char *directory)
{
    *request = (struct derive_request){.site_id = "test",
                                       .job_time_us = 1700000000000000,
                                       .model_name = "SA-INR",
                                       .model_version = "1",
                                       .weights_sha256 = "00",
                                       .parameters = "steps=1",
                                       .method = "base",
                                       .quality = "none",
                                       .view = view,
                                       .format = format,
                                       .station_name = "STATION",
                                       .directory = directory};
}

static void fill_residual(float *residual, size_t n)
{
    for (size_t i = 0; i < n; i++)
        residual[i] = (float)(i % 7) - 3;
}

// The same series by a reader into out/there, and in this process into here.
static void derive_here(const struct source *source, struct derive_result *result)
{
    const struct source_item *item = source_item(source, 0);
    struct derive_request request;
    struct derive_plane *planes;
    size_t n_pixels = (size_t)item->height * (size_t)item->width;
    CHECK_OK(file_make_directory("here", &why));
    fill_request(&request, "here");
    CHECK_OK(derive_plan(source, 0, DERIVE_ISOTROPIC, 0, &planes, &request.n_planes, &request.step_mm, &why));
    float *voxels = malloc((size_t)item->depth * n_pixels * sizeof *voxels);
    float *residual = malloc(request.n_planes * n_pixels * sizeof *residual);
    CHECK_OK(source_load_voxels(source, 0, voxels, &why));
    fill_residual(residual, request.n_planes * n_pixels);
    request.source = source;
    request.planes = planes;
    request.voxels = voxels;
    request.residual = residual;
    CHECK_OK(derive_write(&request, result, &why));
    free(planes);
    free(voxels);
    free(residual);
}

static void derive_there(struct reader *reader, struct derive_result *result, int *rc)
{
    const struct source_item *item = reader_item(reader, 0);
    struct derive_request request;
    struct derive_plane *planes;
    struct reader_block voxels = READER_BLOCK_NONE, residual = READER_BLOCK_NONE;
    CHECK_OK(file_make_directory("out/there", &why));
    fill_request(&request, "out/there");
    CHECK_OK(reader_plan(reader, 0, DERIVE_ISOTROPIC, 0, &planes, &request.n_planes, &request.step_mm, &why));
    CHECK_OK(reader_load_voxels(reader, 0, &voxels, &why));
    CHECK_OK(
        reader_block_new(request.n_planes * (size_t)item->height * (size_t)item->width, &residual, &why));
    fill_residual(residual.data, residual.n);
    request.planes = planes;
    *rc = reader_derive(reader, 0, &request, &voxels, &residual, result, &why);
    free(planes);
    reader_block_free(&voxels);
    reader_block_free(&residual);
}

static void compare_folders(const char *a, const char *b, size_t n_files)
{
    char path[64];
    for (size_t i = 1; i <= n_files; i++) {
        void *x = NULL, *y = NULL;
        size_t n_x = 0, n_y = 1;
        snprintf(path, sizeof path, "%s/IM%04zu.dcm", a, i);
        CHECK_OK(file_read(path, 1 << 24, &x, &n_x, &why));
        snprintf(path, sizeof path, "%s/IM%04zu.dcm", b, i);
        CHECK_OK(file_read(path, 1 << 24, &y, &n_y, &why));
        CHECK_INT(n_x, n_y);
        CHECK_INT(memcmp(x, y, n_x), 0);
        free(x);
        free(y);
    }
}

static void same_as_without_it(void)
{
    struct source *source;
    struct reader *reader;
    const struct reader_options options = {.output = "out"};
    struct derive_result here, there;
    struct reader_block voxels = READER_BLOCK_NONE;
    int rc;
    make_source();
    CHECK_OK(source_open(in, 1, &source, &why));
    CHECK_OK(reader_open(in, 1, &options, &reader, &why));
    CHECK_INT(reader_n_items(reader), source_n_items(source));
    const struct source_item *a = source_item(source, 0), *b = reader_item(reader, 0);
    CHECK_STR(b->series_uid, a->series_uid);
    CHECK_INT(b->depth, a->depth);
    for (int i = 0; i < a->depth; i++)
        CHECK_NEAR(b->z_mm[i], a->z_mm[i], 0);
    CHECK_OK(reader_load_voxels(reader, 0, &voxels, &why));
    float *want = malloc(voxels.n * sizeof *want);
    CHECK_OK(source_load_voxels(source, 0, want, &why));
    CHECK_INT(memcmp(voxels.data, want, voxels.n * sizeof *want), 0);
    derive_here(source, &here);
    derive_there(reader, &there, &rc);
    CHECK_OK(rc);
    CHECK_STR(there.series_uid, here.series_uid);
    CHECK_INT(there.n_objects, here.n_objects);
    CHECK_INT(there.n_clamped, here.n_clamped);
    compare_folders("here", "out/there", here.n_objects);
    free(want);
    reader_block_free(&voxels);
    source_free(source);
    reader_free(reader);
}

static void same_in_every_form(void)
{
    format = FORMAT_ENHANCED;
    same_as_without_it();
    CHECK(access("here/IM0002.dcm", F_OK) != 0);
    view = VIEW_CORONAL;
    CHECK_OK(file_remove_tree("here", &why));
    CHECK_OK(file_remove_tree("out", &why));
    same_as_without_it();
    CHECK(access("here/IM0001.dcm", F_OK) == 0 && access("here/IM0002.dcm", F_OK) != 0);
}

// One object of Enhanced MR of almost 2 GB, the most that is read; the process gets the memory for it. A
// classic one of more than 512 MB is refused, and one of Enhanced MR of more than 2 GB.
static void large_objects(void)
{
    static const struct {
        const char *arguments, *fault;
    } cases[] = {{"enhanced 57", "OK"}, {"classic 17", "TOO_LARGE"}, {"enhanced 65", "TOO_LARGE"}};
    static const char *const paths[] = {"large.dcm"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char command[512];
        struct reader *reader;
        snprintf(command, sizeof command, "/usr/bin/python3 -W ignore %s/make_large.py large.dcm %s",
                 TEST_SOURCE_DIR, cases[i].arguments);
        CHECK_INT(system(command), 0);
        CHECK_OK(reader_open(paths, 1, NULL, &reader, &why));
        CHECK_INT(reader_n_items(reader), 1);
        const struct source_item *item = reader_item(reader, 0);
        CHECK_STR(fault_name(item->verdict), cases[i].fault);
        if (item->verdict == FAULT_OK)
            CHECK_INT(item->depth, 57);
        reader_free(reader);
    }
    CHECK_INT(unlink("large.dcm"), 0);
}

// What it gave cannot be changed any more, by nobody.
static void voxels_are_sealed(void)
{
    struct reader *reader;
    struct reader_block voxels = READER_BLOCK_NONE;
    make_source();
    CHECK_OK(reader_open(in, 1, NULL, &reader, &why));
    CHECK_OK(reader_load_voxels(reader, 0, &voxels, &why));
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, voxels.fd, 0) == MAP_FAILED);
    CHECK(ftruncate(voxels.fd, 0) != 0);
    float x = 1;
    CHECK_INT(pwrite(voxels.fd, &x, sizeof x, 0), -1);
    CHECK_INT(errno, EPERM);
    reader_block_free(&voxels);
    reader_free(reader);
}

// Links to files are read as before; what lies elsewhere and was not given is not.
static void links_are_followed(void)
{
    struct reader *reader;
    make_source();
    CHECK_OK(file_make_directory("linked", &why));
    for (int i = 1; i <= small.n_slices; i++) {
        char from[64], to[64];
        snprintf(from, sizeof from, "../in/IM%04d.dcm", i);
        snprintf(to, sizeof to, "linked/%d", i);
        CHECK_INT(symlink(from, to), 0);
    }
    const char *linked[] = {"linked"};
    CHECK_OK(reader_open(linked, 1, NULL, &reader, &why));
    CHECK_INT(reader_n_items(reader), 1);
    CHECK_INT(reader_item(reader, 0)->verdict, FAULT_OK);
    CHECK_INT(reader_item(reader, 0)->depth, small.n_slices);
    reader_free(reader);
    const char *nowhere[] = {"nowhere"};
    CHECK_FAULT(reader_open(nowhere, 1, NULL, &reader, &why), FAULT_IO);
    CHECK_CONTAINS(why.text, "nowhere");
}

// A folder that it was not given is out of its reach.
static void writes_its_output_only(void)
{
    struct reader *reader;
    struct derive_result result;
    int rc;
    make_source();
    CHECK_OK(file_make_directory("elsewhere", &why));
    const struct reader_options options = {.output = "elsewhere"};
    CHECK_OK(reader_open(in, 1, &options, &reader, &why));
    derive_there(reader, &result, &rc);
    CHECK_INT(rc, FAULT_IO);
    CHECK_CONTAINS(why.text, "Permission denied");
    CHECK_INT(rmdir("out/there"), 0); // empty
    reader_free(reader);
}

static int load(struct reader *reader)
{
    struct reader_block voxels = READER_BLOCK_NONE;
    int rc = reader_load_voxels(reader, 0, &voxels, &why);
    reader_block_free(&voxels);
    return rc;
}

static void killed_between_calls(void)
{
    struct reader *reader;
    make_source();
    CHECK_OK(reader_open(in, 1, NULL, &reader, &why));
    CHECK_OK(load(reader));
    CHECK_INT(kill(reader_pid(reader), SIGKILL), 0);
    CHECK_FAULT(load(reader), FAULT_READER);
    CHECK_CONTAINS(why.text, "died of signal 9");
    CHECK_INT(reader_pid(reader), 0);
    CHECK_OK(load(reader)); // by another one
    reader_free(reader);
}

static void misbehaves_while_decoding(void)
{
    static const char *const cases[][2] = {
        {"segfault", "died of signal 11"},
        {"quit", "died of signal 9"}, // hung up without ending
#if !CONFINE_IS_SANITIZED
        {"memory", "died of signal 6"},
        {"socket", "a system call that it must not make"},
        {"exec", "a system call that it must not make"},
#endif
    };
    make_source();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct reader *reader;
        const struct reader_options options = {.memory_bytes = 512u << 20};
        misread(cases[i][0]);
        CHECK_OK(reader_open(in, 1, &options, &reader, &why));
        int rc = load(reader);
        if (rc != FAULT_READER)
            CHECK_FAIL("%s gave %s, not READER", cases[i][0], fault_name((enum fault)rc));
        fprintf(stderr, "%s: %s\n", cases[i][0], why.text);
#if !CONFINE_IS_SANITIZED // which ends with an exit code and a report
        CHECK_CONTAINS(why.text, cases[i][1]);
        CHECK_CONTAINS(why.text, "while it decoded the pixels");
#endif
        reader_free(reader);
    }
    setenv("ISOSLICE_READER", READ, 1);
}

static void too_long_and_dead_while_opening(void)
{
    struct reader *reader;
    make_source();
    misread("spin");
    double start_s = clock_monotonic_s();
    const struct reader_options options = {.cpu_s = 1};
    CHECK_FAULT(reader_open(in, 1, &options, &reader, &why), FAULT_READER);
    CHECK_CONTAINS(why.text, "used up its processor time while it opened the files");
    CHECK(clock_monotonic_s() - start_s < 60);
    misread("openfault");
    CHECK_FAULT(reader_open(in, 1, NULL, &reader, &why), FAULT_READER);
}

#if !CONFINE_IS_SANITIZED
// A series that needs more than there is, is a fault of its own rather than a machine out of memory.
static void memory_is_limited(void)
{
    struct reader *reader;
    make_source();
    int fd = open("in/large", O_WRONLY | O_CREAT, 0600);
    CHECK(fd >= 0 && ftruncate(fd, 300 << 20) == 0 && close(fd) == 0);
    const struct reader_options options = {.memory_bytes = 250u << 20};
    CHECK_FAULT(reader_open(in, 1, &options, &reader, &why), FAULT_READER);
    CHECK_CONTAINS(why.text, "needed more than its 250 MB while it opened the files");
    CHECK_OK(reader_open(in, 1, NULL, &reader, &why)); // with the usual limit it is one bad file
    CHECK_INT(reader_n_items(reader), 2);
    reader_free(reader);
}
#endif

static void lies_are_refused(void)
{
    static const char *const opening[] = {"items-depth", "items-width", "items-spacing", "items-verdict",
                                          "items-short"};
    static const char *const planning[] = {"planes-slice", "planes-share", "planes-number", "fault", "size"};
    struct reader *reader;
    struct derive_plane *planes = NULL;
    size_t n_planes = 0;
    double step_mm = 0;
    make_source();
    for (size_t i = 0; i < sizeof opening / sizeof opening[0]; i++) {
        misread(opening[i]);
        int rc = reader_open(in, 1, NULL, &reader, &why);
        if (rc != FAULT_READER)
            CHECK_FAIL("%s gave %s, not READER", opening[i], fault_name((enum fault)rc));
    }
    for (size_t i = 0; i < sizeof planning / sizeof planning[0]; i++) {
        misread(planning[i]);
        CHECK_OK(reader_open(in, 1, NULL, &reader, &why));
        int rc = reader_plan(reader, 0, DERIVE_ISOTROPIC, 0, &planes, &n_planes, &step_mm, &why);
        if (rc != FAULT_READER || planes != NULL || n_planes != 0)
            CHECK_FAIL("%s gave %s, not READER", planning[i], fault_name((enum fault)rc));
        reader_free(reader);
    }
}

static void texts_are_cleaned(void)
{
    struct reader *reader;
    struct derive_plane *planes;
    size_t n_planes;
    double step_mm;
    make_source();
    misread("text");
    CHECK_OK(reader_open(in, 1, NULL, &reader, &why));
    CHECK_FAULT(reader_plan(reader, 0, DERIVE_ISOTROPIC, 0, &planes, &n_planes, &step_mm, &why), FAULT_IO);
    CHECK_STR(why.text, "a line?and ?[31manother");
    reader_free(reader);
}

// Its answer names a folder of ours.
static void series_uid_is_checked(void)
{
    struct reader *reader;
    struct derive_result result = {.series_uid = "untouched"};
    const struct reader_options options = {.output = "out"};
    int rc;
    make_source();
    misread("series");
    CHECK_OK(reader_open(in, 1, &options, &reader, &why));
    derive_there(reader, &result, &rc);
    CHECK_INT(rc, FAULT_READER);
    CHECK_STR(result.series_uid, "untouched");
    reader_free(reader);
}

// The same of a notice; and who asks for one has to give its pixels.
static void notice_is_checked(void)
{
    struct reader *reader;
    struct reader_block pixels = READER_BLOCK_NONE, few = READER_BLOCK_NONE;
    struct derive_result result = {.series_uid = "untouched"};
    const struct reader_options options = {.output = "out"};
    const struct notice_request request = {
        .job_time_us = 1, .code = "IO", .sentence = "no", .directory = "out"};
    make_source();
    CHECK_OK(reader_block_new((size_t)NOTICE_ROWS * NOTICE_COLUMNS, &pixels, &why));
    CHECK_OK(reader_block_new(7, &few, &why));
    misread("series");
    CHECK_OK(reader_open(in, 1, &options, &reader, &why));
    CHECK_FAULT(reader_notice(reader, 0, &request, &few, &result, &why), FAULT_INTERNAL);
    CHECK_FAULT(reader_notice(reader, 7, &request, &pixels, &result, &why), FAULT_INTERNAL);
    CHECK_FAULT(reader_notice(reader, 0, &request, &pixels, &result, &why), FAULT_READER);
    CHECK_STR(result.series_uid, "untouched");
    reader_free(reader);
    reader_block_free(&few);
    reader_block_free(&pixels);
}

// What a job pays for it, said rather than judged: the machine may be busy.
static void cost(void)
{
    struct reader *reader;
    enum { N = 10 };
    make_source();
    double start_s = clock_monotonic_s();
    for (int i = 0; i < N; i++) {
        CHECK_OK(reader_open(in, 1, NULL, &reader, &why));
        reader_free(reader);
    }
    double there_s = (clock_monotonic_s() - start_s) / N;
    start_s = clock_monotonic_s();
    for (int i = 0; i < N; i++) {
        struct source *source;
        CHECK_OK(source_open(in, 1, &source, &why));
        source_free(source);
    }
    double here_s = (clock_monotonic_s() - start_s) / N;
    fprintf(stderr, "opening 8 files: %.1f ms by a reader, %.1f ms without\n", 1e3 * there_s, 1e3 * here_s);
    CHECK(there_s < 5);
}

static const struct test tests[] = {
    {"unit.reader.same_as_without_it", same_as_without_it},
    {"unit.reader.same_in_every_form", same_in_every_form},
    {"unit.reader.large_objects", large_objects},
    {"unit.reader.voxels_are_sealed", voxels_are_sealed},
    {"unit.reader.links_are_followed", links_are_followed},
    {"unit.reader.writes_its_output_only", writes_its_output_only},
    {"unit.reader.killed_between_calls", killed_between_calls},
    {"unit.reader.misbehaves_while_decoding", misbehaves_while_decoding},
    {"unit.reader.too_long_and_dead_while_opening", too_long_and_dead_while_opening},
#if !CONFINE_IS_SANITIZED
    {"unit.reader.memory_is_limited", memory_is_limited},
#endif
    {"unit.reader.lies_are_refused", lies_are_refused},
    {"unit.reader.texts_are_cleaned", texts_are_cleaned},
    {"unit.reader.series_uid_is_checked", series_uid_is_checked},
    {"unit.reader.notice_is_checked", notice_is_checked},
    {"unit.reader.cost", cost},
};
TEST_MAIN(tests)
