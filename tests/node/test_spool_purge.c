// SPDX-License-Identifier: Apache-2.0
//
// What leaves the spool: the purge, a person's removal, folders of jobs; and what must stay.
#include "tests/node/spool_support.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static int count_in(const char *folder)
{
    int n = 0;
    struct dirent *entry;
    DIR *dir = opendir(folder);
    CHECK(dir != NULL);
    while ((entry = readdir(dir)) != NULL)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static int count_patient_files(void)
{
    return count_in("sp/store") + count_in("sp/aside") + count_in("sp/derived") + count_in("sp/reports");
}

static const int64_t long_after_us = INT64_C(100) * 86400 * 1000000;

// A series that was in conflict and released, derived and delivered, with all its files; the purge may have
// it.
static void make_purgeable(void)
{
    static const struct spool_destination destinations[] = {{"pacs", 0, 0}};
    struct spool_delivery delivery;
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    index_at("a-2.dcm", "1.2", "1.5", "bb", 0);
    CHECK_INT(index_at("a-3.dcm", "1.1", "1.5", "cc", 0), SPOOL_CONFLICT);
    CHECK_OK(file_write_atomic("sp/aside/a-3.dcm", "x", 1, &why));
    CHECK_OK(spool_release(spool, "s1", 0, &why));
    gather(0, second_us);
    finish_one(destinations, 1, 2 * second_us);
    CHECK_OK(file_make_directory("sp/derived/j1-s0", &why));
    CHECK_OK(file_write_atomic("sp/derived/j1-s0/IM0001.dcm", "x", 1, &why));
    CHECK_OK(file_write_atomic("sp/reports/j1-s0.json", "x", 1, &why));
    CHECK_OK(file_write_atomic("sp/reports/j1-s0.png", "x", 1, &why));
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 3 * second_us, &delivery, &found, &why));
    CHECK_OK(spool_delivery_end(spool, delivery.id, "s", NULL, 0, 0, 4 * second_us, &why));
    CHECK_INT(count_patient_files(), 6);
}

// Purges in a process of its own with a crash point; returns its exit status, -1 when it was killed.
static int purge_with(const char *crash_at)
{
    int status;
    size_t n;
    spool_close(spool);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        setenv("ISOSLICE_CRASH_AT", crash_at, 1);
        file_arm_crash_point();
        if (spool_open("sp", &spool, &why) != 0)
            _exit(2);
        _exit(spool_purge(spool, 14, long_after_us, &n, &why) == 0 ? 0 : 1);
    }
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK_OK(spool_open("sp", &spool, &why));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// A purge that was killed left rows without files: at the next start a loss, FAILED for ever. And files of
// conflicts were never removed.
static void purge_ends_after_any_file_call(void)
{
    size_t n;
    int n_stopped = 0;
    for (int fails = 0; fails < 2; fails++) {
        int status = 1;
        for (int call = 1; status != 0; call += fails ? 4 : 1) {
            char crash_at[32];
            snprintf(crash_at, sizeof crash_at, "%d%s", call, fails ? ":5" : "");
            make_purgeable();
            status = purge_with(crash_at);
            CHECK(status == 0 || status == (fails ? 1 : -1));
            n_stopped += status != 0;
            CHECK_OK(spool_check_files(spool, long_after_us, &n, &why));
            CHECK_INT(n, 0); // going, not lost
            CHECK_OK(spool_purge_rest(spool, &n, &why));
            CHECK_INT(n, status != 0);
            CHECK_INT(count_patient_files(), 0);
            CHECK_STR(row_of("s1").state, "");
            CHECK_STR(row_of("j1").state, "");
            CHECK_INT(index_at("b-1.dcm", "1.1", "1.5", "aa", 0), SPOOL_NEW);
            spool_close(spool);
        }
    }
    CHECK(n_stopped > 2 * 6);
}

// A person may remove a series wherever it stands, but not from under somebody's hands.
static void a_person_removes_a_series(void)
{
    static const struct spool_destination destinations[] = {{"pacs", 0, 0}};
    struct spool_delivery delivery;
    struct spool_job job;
    size_t n;
    int found;
    make_purgeable();                                             // done and delivered
    char left[SPOOL_PATH_SIZE + 16], other[SPOOL_PATH_SIZE + 16]; // of this job and of another
    snprintf(left, sizeof left, "%s/j1-3", spool_folder(spool, SPOOL_WORK));
    snprintf(other, sizeof other, "%s/j11-1", spool_folder(spool, SPOOL_WORK));
    CHECK_OK(file_make_directory(left, &why));
    CHECK_OK(file_make_directory(other, &why));
    CHECK_FAULT(spool_remove(spool, "j1", second_us, &why), FAULT_USAGE);
    CHECK_FAULT(spool_remove(spool, "s7", second_us, &why), FAULT_NOT_FOUND);
    CHECK_OK(spool_remove(spool, "s1", 5 * second_us, &why));
    CHECK_OK(spool_check_files(spool, 5 * second_us, &n, &why)); // does not gather again
    CHECK_STR(row_of("s1").state, "FAILED");
    CHECK_INT((int)gather(0, 99 * second_us), 0);
    CHECK_OK(spool_purge_rest(spool, &n, &why));
    CHECK_INT(n, 1);
    CHECK_INT(count_patient_files(), 0);
    CHECK_STR(row_of("s1").state, "");
    CHECK_INT(access(left, F_OK), -1);
    CHECK_INT(access(other, F_OK), 0);
    spool_close(spool);

    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    CHECK_OK(spool_job_take(spool, "w", 10, 3, 2 * second_us, &job, &found, &why));
    CHECK_FAULT(spool_remove(spool, "s1", 3 * second_us, &why), FAULT_USAGE);
    CHECK_CONTAINS(why.text, "'j1' is being done");
    CHECK_STR(row_of("s1").state, "QUEUED");
    CHECK_OK(spool_remove(spool, "s1", 13 * second_us, &why)); // its worker is gone
    CHECK_STR(row_of("j1").state, "HELD");
    CHECK_FAULT(spool_job_renew(spool, 1, "w", 10, 13 * second_us, &why), FAULT_LEASE_LOST);
    CHECK_OK(spool_job_take(spool, "w", 10, 3, 99 * second_us, &job, &found, &why));
    CHECK_INT(found, 0);
    spool_close(spool);

    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    finish_one(destinations, 1, 2 * second_us);
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 3 * second_us, &delivery, &found, &why));
    CHECK_FAULT(spool_remove(spool, "s1", 4 * second_us, &why), FAULT_USAGE);
    CHECK_CONTAINS(why.text, "'d1' is being sent");
    struct fault_note busy = {FAULT_PEER_BUSY, "0xa700"};
    CHECK_OK(spool_delivery_end(spool, 1, "s", &busy, 0, 5 * second_us, 4 * second_us, &why));
    CHECK_OK(spool_remove(spool, "s1", 4 * second_us, &why));
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 99 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 0);
    // An image comes before it is gone: the series stays, and is a series like any other.
    index_at("b-2.dcm", "1.2", "1.5", "cc", 6 * second_us);
    CHECK_OK(spool_purge_rest(spool, &n, &why));
    CHECK_INT(n, 0);
    CHECK_STR(row_of("s1").state, "GATHERING");
    CHECK_INT(index_at("b-3.dcm", "1.1", "1.5", "xx", 7 * second_us), SPOOL_CONFLICT);
    CHECK_OK(spool_remove(spool, "s1", 8 * second_us, &why));
    index_at("b-4.dcm", "1.4", "1.5", "dd", 9 * second_us);
    CHECK_STR(row_of("s1").state, "CONFLICT");
    CHECK_OK(spool_remove(spool, "s1", 10 * second_us, &why));
    CHECK_OK(spool_purge_rest(spool, &n, &why));
    CHECK_INT(n, 1);
    CHECK_STR(row_of("s1").state, "");
    spool_close(spool);
}

static int no_unlink(const char *path)
{
    (void)path;
    errno = EIO;
    return -1;
}

static int no_unlink_of_one(const char *path)
{
    return strstr(path, "a-2.dcm") != NULL || strstr(path, "kept") != NULL ? no_unlink(path) : unlink(path);
}

// One file that could not be removed kept every other series from the purge, and from a person's removal.
static void purge_goes_on_past_what_stays(void)
{
    const struct file_ops real = file_ops;
    size_t n;
    open_spool();
    for (int i = 1; i <= 3; i++) {
        char name[16], uid[16], series[16], id[16];
        snprintf(name, sizeof name, "a-%d.dcm", i);
        snprintf(uid, sizeof uid, "1.%d", i);
        snprintf(series, sizeof series, "2.%d", i);
        snprintf(id, sizeof id, "s%d", i);
        index_at(name, uid, series, "aa", 0);
        CHECK_OK(spool_remove(spool, id, second_us, &why));
    }
    for (int i = 4; i <= 6; i++) {
        char name[16], uid[16], series[16];
        snprintf(name, sizeof name, "%s-%d.dcm", i == 4 ? "kept" : "a", i);
        snprintf(uid, sizeof uid, "1.%d", i);
        snprintf(series, sizeof series, "2.%d", i);
        index_at(name, uid, series, "aa", 0);
        gather(0, second_us);
        finish_one(NULL, 0, 2 * second_us);
    }
    file_ops.unlink = no_unlink_of_one;
    CHECK_FAULT(spool_purge_rest(spool, &n, &why), FAULT_IO);
    CHECK_INT(n, 2);
    CHECK_CONTAINS(why.text, "series '2.2': cannot remove");
    CHECK_FAULT(spool_purge(spool, 14, long_after_us, &n, &why), FAULT_IO);
    CHECK_INT(n, 2);
    file_ops = real;
    CHECK_INT(count_in("sp/store"), 2);
    CHECK_OK(spool_purge(spool, 0, long_after_us, &n, &why));
    CHECK_INT(count_in("sp/store"), 0);
    spool_close(spool);
}

// What comes for a series whose purge failed half-way is not purged with it: a new image keeps the series,
// the same one waits until it is gone.
static void purge_leaves_what_came_meanwhile(void)
{
    const struct file_ops real = file_ops;
    size_t n;
    for (int again = 0; again < 2; again++) {
        make_purgeable();
        CHECK_INT(unlink("sp/store/a-2.dcm"), 0); // as far as it came
        file_ops.unlink = no_unlink;
        CHECK_FAULT(spool_purge(spool, 14, long_after_us, &n, &why), FAULT_IO);
        CHECK_FAULT(spool_purge_rest(spool, &n, &why), FAULT_IO);
        file_ops = real;
        if (again)
            CHECK_INT(index_at("b-2.dcm", "1.2", "1.5", "bb", long_after_us), SPOOL_LATER);
        else
            CHECK_INT(index_at("b-9.dcm", "1.9", "1.5", "ii", long_after_us), SPOOL_NEW);
        CHECK_OK(spool_purge(spool, 14, long_after_us + second_us, &n, &why));
        CHECK_INT(n, again);
        CHECK_STR(row_of("s1").state, again ? "" : "GATHERING");
        CHECK_INT(access("sp/store/b-9.dcm", F_OK), again ? -1 : 0);
        if (again)
            CHECK_INT(index_at("b-2.dcm", "1.2", "1.5", "bb", long_after_us), SPOOL_NEW);
        spool_close(spool);
    }
}

// Images that were sent again right after a person's removal were dropped as duplicates of what then went.
static void what_comes_again_outlives_the_removal(void)
{
    size_t n;
    int is_going;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    CHECK_OK(spool_is_going(spool, "1.5", &is_going, &why));
    CHECK_INT(is_going, 0);
    CHECK_OK(spool_remove(spool, "s1", second_us, &why));
    CHECK_OK(spool_is_going(spool, "1.5", &is_going, &why));
    CHECK_INT(is_going, 1);
    CHECK_INT(index_at("b-1.dcm", "1.1", "1.5", "aa", 2 * second_us), SPOOL_LATER);
    CHECK_INT(index_at("b-1.dcm", "1.1", "1.5", "aa", 3 * second_us), SPOOL_LATER);
    CHECK_OK(spool_purge_rest(spool, &n, &why));
    CHECK_INT(n, 1);
    CHECK_INT(index_at("b-1.dcm", "1.1", "1.5", "aa", 4 * second_us), SPOOL_NEW);
    CHECK_STR(row_of("s2").state, "GATHERING");
    // One that is new keeps the series: then the same ones are duplicates like any other.
    CHECK_OK(spool_remove(spool, "s2", 5 * second_us, &why));
    CHECK_INT(index_at("c-1.dcm", "1.1", "1.5", "aa", 6 * second_us), SPOOL_LATER);
    CHECK_INT(index_at("c-3.dcm", "1.3", "1.5", "cc", 6 * second_us), SPOOL_NEW);
    CHECK_INT(index_at("c-1.dcm", "1.1", "1.5", "aa", 7 * second_us), SPOOL_DUPLICATE);
    CHECK_OK(spool_purge_rest(spool, &n, &why));
    CHECK_INT(n, 0);
    spool_close(spool);
}

// The folder of a view that is not made any more had no row, so that no purge found it.
static void job_done_again_drops_old_folders(void)
{
    struct spool_result results[2] = {{.n_objects = 2}, {.n_objects = 2}};
    struct spool_job job;
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    for (int i = 0; i < 2; i++) {
        snprintf(results[i].derived_name, SPOOL_NAME_SIZE, "j1-s0%s", i ? "-coronal" : "");
        char path[SPOOL_NAME_SIZE + 32];
        snprintf(path, sizeof path, "sp/derived/%s", results[i].derived_name);
        CHECK_OK(file_make_directory(path, &why));
    }
    CHECK_OK(file_write_atomic("sp/derived/j1-s0-coronal/IM0001.dcm", "x", 1, &why));
    CHECK_OK(file_write_atomic("sp/reports/j1-s0.json", "x", 1, &why));
    CHECK_OK(spool_job_take(spool, "w", 10, 3, second_us, &job, &found, &why));
    CHECK_OK(spool_job_finish(spool, job.id, "w", results, 2, NULL, 0, second_us, &why));
    CHECK_INT(count_in("sp/derived"), 2);
    CHECK_OK(spool_retry(spool, "j1", second_us, &why));
    CHECK_OK(spool_job_take(spool, "w", 10, 3, second_us, &job, &found, &why));
    CHECK_FAULT(spool_job_finish(spool, job.id, "x", results, 1, NULL, 0, second_us, &why), FAULT_LEASE_LOST);
    CHECK_INT(count_in("sp/derived"), 2);
    CHECK_OK(spool_job_finish(spool, job.id, "w", results, 1, NULL, 0, second_us, &why));
    CHECK_INT(count_in("sp/derived"), 1);
    CHECK_INT(access("sp/derived/j1-s0", F_OK), 0);
    CHECK_INT(count_in("sp/reports"), 1);
    spool_close(spool);
}

static void publish(const char *name)
{
    char path[SPOOL_NAME_SIZE + 32];
    snprintf(path, sizeof path, "sp/derived/%s", name);
    CHECK_OK(file_make_directory(path, &why));
    snprintf(path, sizeof path, "sp/derived/%s/IM0001.dcm", name);
    CHECK_OK(file_write_atomic(path, "x", 1, &why));
    snprintf(path, sizeof path, "sp/reports/%s.json", name);
    CHECK_OK(file_write_atomic(path, "x", 1, &why));
    snprintf(path, sizeof path, "sp/reports/%s.png", name);
    CHECK_OK(file_write_atomic(path, "x", 1, &why));
}

// A worker was killed between its files and their rows: the person's removal left the patient's derived
// images and pictures behind for ever. So did a stack that failed, or was refused, after it had been
// published.
static void what_has_no_row_goes_too(void)
{
    struct spool_result results[2] = {{.n_objects = 2, .derived_name = "j1-s1"},
                                      {.verdict = FAULT_INTERNAL, .stack_index = 1}};
    struct spool_job job;
    size_t n;
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    CHECK_OK(spool_job_take(spool, "w", 10, 3, second_us, &job, &found, &why));
    publish("j1-s0");
    publish("j11-s0");
    CHECK_OK(spool_remove(spool, "s1", 99 * second_us, &why));
    CHECK_OK(spool_purge_rest(spool, &n, &why));
    CHECK_INT(n, 1);
    CHECK_INT(count_in("sp/derived"), 1);
    CHECK_INT(count_in("sp/reports"), 2);
    CHECK_INT(access("sp/derived/j11-s0", F_OK), 0); // of another job
    spool_close(spool);

    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    publish("j1-s1");
    publish("j1-s10");
    publish("j1-s2-coronal");
    publish("j11-s0");
    CHECK_OK(spool_job_take(spool, "w", 10, 3, second_us, &job, &found, &why));
    CHECK_OK(spool_job_finish(spool, 1, "w", results, 2, NULL, 0, second_us, &why));
    CHECK_INT(count_in("sp/derived"), 2);
    CHECK_INT(count_in("sp/reports"), 4);
    CHECK_INT(access("sp/reports/j1-s1.png", F_OK), 0);
    CHECK_OK(spool_retry(spool, "j1", second_us, &why)); // and now all of it is refused
    CHECK_OK(spool_job_take(spool, "w", 10, 3, second_us, &job, &found, &why));
    results[0] = (struct spool_result){.verdict = FAULT_LOCALIZER};
    CHECK_OK(spool_job_finish(spool, 1, "w", results, 1, NULL, 0, second_us, &why));
    CHECK_INT(count_in("sp/derived"), 1);
    CHECK_INT(count_in("sp/reports"), 2);
    spool_close(spool);
}

static const struct test tests[] = {
    {"crash.spool.purge_ends_after_any_file_call", purge_ends_after_any_file_call},
    {"unit.spool.a_person_removes_a_series", a_person_removes_a_series},
    {"unit.spool.purge_goes_on_past_what_stays", purge_goes_on_past_what_stays},
    {"unit.spool.what_comes_again_outlives_the_removal", what_comes_again_outlives_the_removal},
    {"unit.spool.purge_leaves_what_came_meanwhile", purge_leaves_what_came_meanwhile},
    {"unit.spool.job_done_again_drops_old_folders", job_done_again_drops_old_folders},
    {"unit.spool.what_has_no_row_goes_too", what_has_no_row_goes_too},
};
TEST_MAIN(tests)
