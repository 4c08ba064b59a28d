// SPDX-License-Identifier: Apache-2.0
// What counts as complete, from rows alone. The running node's tests are in test_gather.py.
#include "core/file.h"
#include "spool/spool.h"
#include "tests/support/check.h"

#include <math.h>
#include <string.h>

static struct fault_note why;
static struct spool *spool;
static const int64_t second_us = 1000000;
static int n_added;
static char because[256];

static void open_spool(void)
{
    CHECK_OK(file_remove_tree("sp", &why));
    CHECK_OK(spool_open("sp", &spool, &why));
    n_added = 0;
}

// An image along z; z_mm NAN: no position; number < 0: none.
static void add(const double normal[3], double z_mm, int number, int acquisition, int n_expected)
{
    struct spool_object object = {
        .sop_class_uid = "1.2", .study_uid = "1.9", .series_uid = "1.5", .sender = "MR1"};
    enum spool_verdict verdict;
    n_added++;
    snprintf(object.name, sizeof object.name, "a1p1-%d.dcm", n_added);
    snprintf(object.sop_instance_uid, sizeof object.sop_instance_uid, "1.2.%d", n_added);
    snprintf(object.digest, sizeof object.digest, "%d", n_added);
    object.geometry = (struct spool_geometry){.has_plane = !isnan(z_mm),
                                              .normal = {normal[0], normal[1], normal[2]},
                                              .z_mm = z_mm,
                                              .has_number = number >= 0,
                                              .number = number,
                                              .has_acquisition = 1,
                                              .acquisition = acquisition,
                                              .n_expected = n_expected};
    CHECK_OK(spool_index(spool, &object, 0, &verdict, &why));
    CHECK_INT(verdict, SPOOL_NEW);
}

static const double axial[3] = {0, 0, 1}, sagittal[3] = {1, 0, 0};

static int nobody(void *user, const char *sender)
{
    (void)user;
    CHECK_STR(sender, "MR1");
    return 0;
}

static int somebody(void *user, const char *sender)
{
    (void)user;
    CHECK_STR(sender, "MR1");
    return 1;
}

static void made(void *user, const struct spool_gathered *series)
{
    (void)user;
    snprintf(because, sizeof because, "%s", series->because);
}

static int gathers_at(double s, int is_open)
{
    const struct spool_rules rules = {
        .quiet_s = 60, .incomplete_s = 900, .is_open = is_open ? somebody : nobody, .made = made};
    size_t n;
    because[0] = '\0';
    CHECK_OK(spool_gather(spool, &rules, (int64_t)(s * (double)second_us), &n, &why));
    CHECK(n <= 1);
    return (int)n;
}

// Complete: at the quiet time, not before.
static void check_complete(void)
{
    CHECK_INT(gathers_at(59, 0), 0);
    CHECK_INT(gathers_at(61, 1), 0);
    CHECK_INT(gathers_at(61, 0), 1);
    CHECK(strstr(because, "incomplete") == NULL);
    spool_close(spool);
}

static void check_incomplete(const char *what)
{
    CHECK_INT(gathers_at(61, 0), 0);
    CHECK_INT(gathers_at(899, 0), 0);
    CHECK_INT(gathers_at(901, 1), 1); // whatever is open
    CHECK_CONTAINS(because, what);
    spool_close(spool);
}

static void even_positions(void)
{
    static const double noise[] = {0, 1e-5, -1e-5, 3e-6, 0, 1e-5};
    open_spool();
    for (int k = 5; k >= 0; k--) // the order does not matter
        add(axial, 5 * k + noise[k], k, 1, 0);
    check_complete();
}

static void uneven_positions(void)
{
    static const double z[] = {0, 6.958, 14.029, 21.0, 28.05, 35.1}; // as a real series has them
    open_spool();
    for (int k = 0; k < 6; k++)
        add(axial, z[k], k, 1, 0);
    check_complete();
}

static void several_volumes(void)
{
    open_spool();
    for (int k = 0; k < 12; k++) // two images at each place
        add(axial, 5 * (k % 6), k, 1, 0);
    check_complete();
}

static void several_orientations(void)
{
    open_spool();
    for (int k = 0; k < 4; k++) {
        add(axial, 5 * k, 2 * k, 1, 0);
        add(sagittal, 7 * k + 100, 2 * k + 1, 1, 0);
    }
    check_complete();
}

static void separate_blocks(void)
{
    static const double z[] = {0, 4, 8, 12, 30.7, 34.7, 38.7}; // discs: no whole multiple
    open_spool();
    for (int k = 0; k < 7; k++)
        add(axial, z[k], k, 1, 0);
    check_complete();
}

static void numbers_by_twos(void)
{
    open_spool();
    for (int k = 0; k < 6; k++)
        add(axial, (double)NAN, 2 * k + 1, 1, 0);
    check_complete();
}

static void nothing_told(void)
{
    open_spool();
    for (int k = 0; k < 6; k++)
        add(axial, (double)NAN, -1, 1, 0);
    check_complete();
}

static void position_missing(void)
{
    open_spool();
    for (int k = 0; k < 8; k++)
        if (k != 3 && k != 4)
            add(axial, 5 * k, -1, 1, 0);
    check_incomplete("2 positions are missing beyond 10.00 mm");
}

static void position_missing_in_one_orientation(void)
{
    open_spool();
    for (int k = 0; k < 6; k++) {
        add(axial, 5 * k, -1, 1, 0);
        if (k != 2)
            add(sagittal, 5 * k, -1, 1, 0);
    }
    check_incomplete("1 positions are missing beyond 5.00 mm");
}

static void number_missing(void)
{
    static const int numbers[] = {1, 2, 3, 5, 6};
    open_spool();
    for (int k = 0; k < 5; k++)
        add(axial, 5 * k, numbers[k], 1, 0);
    check_incomplete("1 images are missing after Instance Number 3");
}

static void count_reached(void)
{
    open_spool();
    for (int k = 0; k < 5; k++)
        add(axial, 5 * k, k, 1, 6);
    CHECK_INT(gathers_at(61, 0), 0);
    add(axial, 25, 5, 1, 6); // at time 0, as the others
    CHECK_INT(gathers_at(0.9, 1), 0);
    CHECK_INT(gathers_at(1.1, 1), 1);
    CHECK_STR(because, "as many as the acquisition gave");
    CHECK_INT(gathers_at(2000, 0), 0); // never twice
    spool_close(spool);
}

static void count_with_hole(void)
{
    open_spool();
    for (int k = 0; k < 6; k++)
        add(axial, 5 * (k + (k > 2)), k, 1, 6);
    check_incomplete("1 positions are missing beyond 10.00 mm");
}

static void count_exceeded(void)
{
    open_spool();
    for (int k = 0; k < 7; k++)
        add(axial, 5 * k, k, 1, 6);
    CHECK_INT(gathers_at(2, 0), 0);
    check_complete();
}

static void archive_answers(void)
{
    struct spool_question questions[4];
    size_t n;
    open_spool();
    for (int k = 0; k < 5; k++)
        add(axial, 5 * k, k, 1, 0);
    CHECK_OK(spool_to_ask(spool, 60, second_us / 2, questions, 4, &n, &why));
    CHECK_INT(n, 0); // not settled
    CHECK_OK(spool_to_ask(spool, 60, 2 * second_us, questions, 4, &n, &why));
    CHECK_INT(n, 1);
    CHECK_STR(questions[0].series_uid, "1.5");
    CHECK_STR(questions[0].study_uid, "1.9");
    CHECK_OK(spool_told(spool, "1.5", 9, 2 * second_us, &why));
    CHECK_OK(spool_to_ask(spool, 60, 3 * second_us, questions, 4, &n, &why));
    CHECK_INT(n, 0);
    CHECK_INT(gathers_at(61, 0), 0); // it has more
    CHECK_OK(spool_to_ask(spool, 60, 40 * second_us, questions, 4, &n, &why));
    CHECK_INT(n, 1); // again
    CHECK_OK(spool_told(spool, "1.5", 3, 40 * second_us, &why));
    CHECK_INT(gathers_at(41, 1), 0); // fewer than came: that says nothing
    CHECK_OK(spool_told(spool, "1.5", 5, 50 * second_us, &why));
    CHECK_INT(gathers_at(51, 0), 0); // once: it may be receiving
    CHECK_OK(spool_to_ask(spool, 60, 59 * second_us, questions, 4, &n, &why));
    CHECK_INT(n, 0);
    CHECK_OK(spool_to_ask(spool, 60, 60 * second_us, questions, 4, &n, &why));
    CHECK_INT(n, 1); // sooner than half a minute, to be sure
    CHECK_OK(spool_told(spool, "1.5", 5, 59 * second_us, &why));
    CHECK_INT(gathers_at(59.5, 0), 0); // too soon after the first
    CHECK_OK(spool_told(spool, "1.5", 5, 60 * second_us, &why));
    CHECK_OK(spool_to_ask(spool, 60, 75 * second_us, questions, 4, &n, &why));
    CHECK_INT(n, 0);
    CHECK_INT(gathers_at(59.9, 1), 0); // the sender has not left
    CHECK_INT(gathers_at(59.9, 0), 1);
    CHECK_STR(because, "as many as the archive has");
    spool_close(spool);
}

// Archive and node got a series at the same time, image by image, odd slices first. Whenever both had as
// many, what had come was taken for the series: of 12 slices four derived series were made, two of them of
// every other slice. What headers and gaps say is missing is missing, and an archive that receives says
// nothing.
static void archive_receives_too(void)
{
    open_spool();
    for (int k = 0; k < 12; k += 2)
        add(axial, 5 * k, k, 1, 12);
    CHECK_OK(spool_told(spool, "1.5", 6, 2 * second_us, &why));
    CHECK_OK(spool_told(spool, "1.5", 6, 13 * second_us, &why));
    CHECK_INT(gathers_at(14, 0), 0); // 6 of 12 by their headers
    CHECK_INT(gathers_at(899, 0), 0);
    spool_close(spool);

    open_spool();
    for (int k = 0; k < 12; k++)
        if (k < 6 || k == 7)
            add(axial, 5 * k, k, 1, 0);
    CHECK_OK(spool_told(spool, "1.5", 7, 2 * second_us, &why));
    CHECK_OK(spool_told(spool, "1.5", 7, 13 * second_us, &why));
    CHECK_INT(gathers_at(14, 0), 0); // 6 is missing
    spool_close(spool);

    open_spool();
    for (int k = 0; k < 6; k++)
        add(axial, 5 * k, k, 1, 0);
    CHECK_OK(spool_told(spool, "1.5", 6, 2 * second_us, &why));
    CHECK_INT(gathers_at(3, 0), 0);
    CHECK_OK(spool_told(spool, "1.5", 7, 13 * second_us, &why));
    CHECK_OK(spool_told(spool, "1.5", 6, 24 * second_us, &why)); // other answers in between
    CHECK_INT(gathers_at(25, 0), 0);
    struct spool_object object = {.sop_class_uid = "1.2",
                                  .study_uid = "1.9",
                                  .series_uid = "1.5",
                                  .sender = "MR1",
                                  .name = "a1p1-7.dcm",
                                  .sop_instance_uid = "1.2.7",
                                  .digest = "7"};
    enum spool_verdict verdict;
    CHECK_OK(spool_told(spool, "1.5", 7, 26 * second_us, &why));
    CHECK_OK(spool_index(spool, &object, 36 * second_us, &verdict, &why));
    CHECK_OK(spool_told(spool, "1.5", 7, 37 * second_us, &why)); // the first of them before the last image
    CHECK_INT(gathers_at(38, 0), 0);
    CHECK_OK(spool_told(spool, "1.5", 7, 47 * second_us, &why));
    CHECK_INT(gathers_at(48, 0), 1);
    spool_close(spool);
}

// Series that waited for missing images, as many as a round looks at and older, kept a whole one from ever
// becoming a job.
static void many_incomplete_keep_no_other(void)
{
    enum { N = 256 };
    static const int numbers[] = {1, 2, 4};
    open_spool();
    CHECK_OK(spool_group_begin(spool, &why));
    for (int i = 0; i <= N; i++)
        for (int j = 0; j < 3; j++) {
            struct spool_object object = {.sop_class_uid = "1.2", .study_uid = "1.9", .sender = "MR1"};
            enum spool_verdict verdict;
            snprintf(object.series_uid, sizeof object.series_uid, "1.5.%d", i);
            snprintf(object.name, sizeof object.name, "a%dp1-%d.dcm", i, j);
            snprintf(object.sop_instance_uid, sizeof object.sop_instance_uid, "1.2.%d.%d", i, j);
            snprintf(object.digest, sizeof object.digest, "%d.%d", i, j);
            object.geometry.has_number = 1;
            object.geometry.number = i < N ? numbers[j] : j + 1;
            CHECK_OK(spool_index(spool, &object, i < N ? 0 : second_us, &verdict, &why));
        }
    CHECK_OK(spool_group_end(spool, 0, &why));
    for (int round = 0; round < 3; round++)
        CHECK_INT(gathers_at(62 + round, 0), round == 1);
    // Begun anew: each has its turn again.
    const struct spool_rules rules = {.quiet_s = 60, .incomplete_s = 900, .is_open = nobody};
    size_t n, n_all = 0;
    for (int round = 0; round < 2; round++, n_all += n)
        CHECK_OK(spool_gather(spool, &rules, 901 * second_us, &n, &why));
    CHECK_INT(n_all, N);
    spool_close(spool);
}

static const struct test tests[] = {
    {"unit.gather.even_positions", even_positions},
    {"unit.gather.uneven_positions", uneven_positions},
    {"unit.gather.several_volumes", several_volumes},
    {"unit.gather.several_orientations", several_orientations},
    {"unit.gather.separate_blocks", separate_blocks},
    {"unit.gather.numbers_by_twos", numbers_by_twos},
    {"unit.gather.nothing_told", nothing_told},
    {"unit.gather.position_missing", position_missing},
    {"unit.gather.position_missing_in_one_orientation", position_missing_in_one_orientation},
    {"unit.gather.number_missing", number_missing},
    {"unit.gather.rule_count_reached", count_reached},
    {"unit.gather.rule_count_with_hole", count_with_hole},
    {"unit.gather.rule_count_exceeded", count_exceeded},
    {"unit.gather.archive_answers", archive_answers},
    {"unit.gather.archive_receives_too", archive_receives_too},
    {"unit.gather.many_incomplete_keep_no_other", many_incomplete_keep_no_other},
};
TEST_MAIN(tests)
