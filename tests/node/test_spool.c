// SPDX-License-Identifier: Apache-2.0
#include "spool/commitment.h"
#include "tests/node/spool_support.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static int always_open(void *user, const char *sender)
{
    (void)user;
    (void)sender;
    return 1;
}

static void verdicts(void)
{
    open_spool();
    CHECK_INT(index_at("a1p1-1.dcm", "1.1", "1.5", "aa", 0), SPOOL_NEW);
    CHECK_INT(index_at("a1p1-2.dcm", "1.1", "1.5", "aa", 0), SPOOL_DUPLICATE);
    CHECK_INT(index_at("a1p1-1.dcm", "1.1", "1.5", "aa", 0),
              SPOOL_KNOWN); // a crash before the file was moved
    CHECK_INT(index_at("a1p1-3.dcm", "1.1", "1.5", "bb", 0), SPOOL_CONFLICT);
    CHECK_INT(index_at("a1p1-3.dcm", "1.1", "1.5", "bb", 0), SPOOL_KNOWN_ASIDE);
    CHECK_INT(index_at("a1p1-4.dcm", "1.1", "1.5", "bb", 0), SPOOL_DUPLICATE);
    CHECK_INT(gather(0, second_us), 0); // in conflict
    CHECK_FAULT(spool_release(spool, "s9", 0, &why), FAULT_NOT_FOUND);
    CHECK_FAULT(spool_release(spool, "x1", 0, &why), FAULT_USAGE);
    CHECK_OK(spool_release(spool, "s1", 0, &why));
    CHECK_INT(gather(0, second_us), 1);
    spool_close(spool);
}

// The same SOP Instance UID in another series puts both in conflict.
static void conflict_across_series(void)
{
    open_spool();
    CHECK_INT(index_at("a-1.dcm", "1.1", "1.5", "aa", 0), SPOOL_NEW);
    CHECK_INT(index_at("a-2.dcm", "1.2", "1.6", "cc", 0), SPOOL_NEW);
    CHECK_INT(index_at("a-3.dcm", "1.1", "1.6", "dd", 0), SPOOL_CONFLICT);
    CHECK_INT(gather(0, second_us), 0);
    spool_close(spool);
}

static void gathers_when_quiet_and_closed(void)
{
    size_t n;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 10 * second_us);
    CHECK_INT(gather(5, 14 * second_us), 0);
    const struct spool_rules rules = {.quiet_s = 5, .incomplete_s = 900, .is_open = always_open};
    CHECK_OK(spool_gather(spool, &rules, 16 * second_us, &n, &why));
    CHECK_INT(n, 0);
    CHECK_INT(gather(5, 15 * second_us), 1);
    CHECK_INT(gather(5, 30 * second_us), 0);                 // never twice
    index_at("a-2.dcm", "1.2", "1.5", "bb", 40 * second_us); // late: joins the job that waits
    CHECK_INT(gather(5, 50 * second_us), 1);
    struct spool_job job;
    int found;
    char **paths;
    CHECK_OK(spool_job_take(spool, "w", 10, 3, 50 * second_us, &job, &found, &why));
    CHECK_INT(found, 1);
    CHECK_OK(spool_job_files(spool, job.id, &paths, &n, &why));
    CHECK_INT(n, 2);
    spool_free_paths(paths, n);
    CHECK_OK(spool_job_take(spool, "w2", 10, 3, 50 * second_us, &job, &found, &why));
    CHECK_INT(found, 0);
    spool_close(spool);
}

static void leases_run_out_and_are_lost(void)
{
    struct spool_job job;
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    CHECK_OK(spool_job_take(spool, "w1", 10, 2, 10 * second_us, &job, &found, &why));
    CHECK_INT(found, 1);
    CHECK_INT(job.attempts, 1);
    CHECK_OK(spool_job_renew(spool, job.id, "w1", 10, 15 * second_us, &why));
    CHECK_OK(spool_job_take(spool, "w2", 10, 2, 24 * second_us, &job, &found, &why));
    CHECK_INT(found, 0);
    CHECK_OK(spool_job_take(spool, "w2", 10, 2, 26 * second_us, &job, &found, &why));
    CHECK_INT(found, 1);
    CHECK_INT(job.attempts, 2);
    CHECK_FAULT(spool_job_renew(spool, job.id, "w1", 10, 27 * second_us, &why), FAULT_LEASE_LOST);
    CHECK_FAULT(spool_job_finish(spool, job.id, "w1", NULL, 0, NULL, 0, 27 * second_us, &why),
                FAULT_LEASE_LOST);
    // Twice without an answer is all it gets.
    CHECK_OK(spool_job_take(spool, "w3", 10, 2, 60 * second_us, &job, &found, &why));
    CHECK_INT(found, 0);
    CHECK_INT(job.exhausted, 1);
    CHECK_OK(spool_job_take(spool, "w3", 10, 2, 60 * second_us, &job, &found, &why));
    CHECK_INT(job.exhausted, 0);
    CHECK_OK(spool_release(spool, "j1", 61 * second_us, &why));
    CHECK_OK(spool_job_take(spool, "w3", 10, 2, 62 * second_us, &job, &found, &why));
    CHECK_INT(found, 1);
    CHECK_INT(job.attempts, 1);
    CHECK_OK(spool_job_set_steps(spool, job.id, "w3", 77, &why));
    struct fault_note fault = {FAULT_CANCELLED, "stopped"};
    CHECK_OK(spool_job_return(spool, job.id, "w3", &fault, NULL, 62 * second_us, 62 * second_us, &why));
    CHECK_OK(spool_job_take(spool, "w4", 10, 2, 63 * second_us, &job, &found, &why));
    CHECK_INT(job.attempts, 1);
    CHECK_INT(job.steps, 77);
    fault = (struct fault_note){FAULT_WEIGHTS, "bad"};
    CHECK_OK(spool_job_return(spool, job.id, "w4", &fault, NULL, 0, 63 * second_us, &why));
    CHECK_OK(spool_job_take(spool, "w5", 10, 2, 99 * second_us, &job, &found, &why));
    CHECK_INT(found, 0);
    CHECK_OK(spool_retry(spool, "j1", 99 * second_us, &why));
    CHECK_OK(spool_job_take(spool, "w5", 10, 2, 99 * second_us, &job, &found, &why));
    CHECK_INT(found, 1);
    // Made anew: another generation, the same steps; only of what is done.
    CHECK_FAULT(spool_anew(spool, "j1", 100 * second_us, &why), FAULT_USAGE);
    CHECK_CONTAINS(why.text, "cannot make anew 'j1': it is LEASED, must be one of DONE");
    CHECK_FAULT(spool_anew(spool, "s1", 100 * second_us, &why), FAULT_USAGE);
    struct spool_result done = {.n_objects = 1, .derived_name = "j1-s0"};
    CHECK_OK(spool_job_finish(spool, job.id, "w5", &done, 1, NULL, 0, 100 * second_us, &why));
    CHECK_INT(job.generation, 0);
    CHECK_OK(spool_anew(spool, "j1", 101 * second_us, &why));
    CHECK_OK(spool_job_take(spool, "w6", 10, 2, 102 * second_us, &job, &found, &why));
    CHECK_INT(found, 1);
    CHECK_INT(job.generation, 1);
    CHECK_INT(job.steps, 77);
    spool_close(spool);
}

static void count_job(void *user, const struct spool_row *row)
{
    *(int *)user += strcmp(row->kind, "job") == 0;
}

static int count_jobs(const char *state)
{
    int n = 0;
    CHECK_OK(spool_list(spool, state, count_job, &n, &why));
    return n;
}

// A release made a second job of the same objects: other dates and step count, so that all derived objects
// went out once more under their UIDs with other bytes; and the job that the conflict had held stayed so for
// ever, with nothing to dismiss it, and kept the series from being purged.
static void release_takes_the_job_up_again(void)
{
    struct spool_job job;
    struct spool_result derived = {.n_objects = 2};
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    CHECK_INT(index_at("a-2.dcm", "1.1", "1.5", "bb", 2 * second_us), SPOOL_CONFLICT);
    CHECK_INT(count_jobs("HELD"), 1);
    CHECK_OK(spool_release(spool, "s1", 3 * second_us, &why));
    CHECK_INT(count_jobs("WAITING"), 1); // by the release itself: nothing is left to gather
    CHECK_INT(gather(0, 5 * second_us), 0);
    CHECK_INT(count_jobs(NULL), 1);
    CHECK_OK(spool_job_take(spool, "w", 20, 3, 10 * second_us, &job, &found, &why));
    CHECK_INT(found, 1);
    CHECK_INT(job.id, 1);
    CHECK_INT(job.created_us, second_us);
    CHECK_OK(spool_job_set_steps(spool, 1, "w", 77, &why));

    // In a worker's hands: taken from it, and not given out again while it may still write.
    CHECK_INT(index_at("a-3.dcm", "1.1", "1.5", "cc", 11 * second_us), SPOOL_CONFLICT);
    CHECK_FAULT(spool_job_renew(spool, 1, "w", 20, 12 * second_us, &why), FAULT_LEASE_LOST);
    CHECK_OK(spool_release(spool, "s1", 13 * second_us, &why));
    CHECK_INT(gather(0, 15 * second_us), 0);
    CHECK_OK(spool_job_take(spool, "v", 20, 3, 29 * second_us, &job, &found, &why));
    CHECK_INT(found, 0);
    CHECK_FAULT(spool_job_finish(spool, 1, "w", NULL, 0, NULL, 0, 29 * second_us, &why), FAULT_LEASE_LOST);
    CHECK_OK(spool_job_take(spool, "v", 20, 3, 31 * second_us, &job, &found, &why));
    CHECK_INT(job.id, 1);
    CHECK_INT(job.steps, 77);
    CHECK_INT(job.created_us, second_us);
    CHECK_OK(spool_job_finish(spool, 1, "v", &derived, 1, NULL, 0, 32 * second_us, &why));

    // Done: what went out stands.
    CHECK_INT(index_at("a-4.dcm", "1.1", "1.5", "dd", 33 * second_us), SPOOL_CONFLICT);
    CHECK_OK(spool_release(spool, "s1", 34 * second_us, &why));
    CHECK_INT(gather(0, 36 * second_us), 0);
    CHECK_INT(count_jobs(NULL), 1);
    CHECK_INT(count_jobs("DONE"), 1);
    CHECK_INT(gather(0, 99 * second_us), 0);

    // Held by a person: stays so.
    CHECK_OK(spool_retry(spool, "j1", 100 * second_us, &why));
    CHECK_OK(spool_hold(spool, "j1", 100 * second_us, &why));
    CHECK_INT(index_at("a-5.dcm", "1.1", "1.5", "ee", 101 * second_us), SPOOL_CONFLICT);
    CHECK_OK(spool_release(spool, "s1", 102 * second_us, &why));
    CHECK_INT(gather(0, 104 * second_us), 0);
    CHECK_INT(count_jobs("HELD"), 1);
    spool_close(spool);
}

// More of the series came while it was in conflict: the job that waited before it takes them in, and none is
// left held.
static void release_with_more_objects(void)
{
    struct spool_job job;
    char **paths;
    size_t n;
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    CHECK_INT(index_at("a-2.dcm", "1.1", "1.5", "bb", 2 * second_us), SPOOL_CONFLICT);
    index_at("a-3.dcm", "1.3", "1.5", "cc", 3 * second_us);
    CHECK_OK(spool_release(spool, "s1", 4 * second_us, &why));
    CHECK_INT(gather(0, 6 * second_us), 1);
    CHECK_INT(count_jobs(NULL), 1);
    CHECK_OK(spool_job_take(spool, "w", 20, 3, 10 * second_us, &job, &found, &why));
    CHECK_INT(found, 1);
    CHECK_OK(spool_job_files(spool, job.id, &paths, &n, &why));
    CHECK_INT(n, 2);
    spool_free_paths(paths, n);
    spool_close(spool);
}

// Images were called late, in the log and in what the derived series says of itself, though the job before
// had given nothing that they could be missing from: too few slices, refused.
static void late_for_a_derived_series(void)
{
    struct spool_result refused = {.verdict = FAULT_MISSING_SLICES, .note = "no"}, derived = {.n_objects = 2};
    struct spool_job job;
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    CHECK_OK(spool_job_take(spool, "w", 10, 3, second_us, &job, &found, &why));
    CHECK_OK(spool_job_finish(spool, job.id, "w", &refused, 1, NULL, 0, 2 * second_us, &why));
    index_at("a-2.dcm", "1.2", "1.5", "bb", 3 * second_us);
    gather(0, 5 * second_us);
    CHECK_OK(spool_job_take(spool, "w", 10, 3, 5 * second_us, &job, &found, &why));
    CHECK_INT(job.id, 2);
    CHECK_INT(job.n_late, 0);
    CHECK_OK(spool_job_finish(spool, job.id, "w", &derived, 1, NULL, 0, 6 * second_us, &why));
    index_at("a-3.dcm", "1.3", "1.5", "cc", 7 * second_us);
    gather(0, 9 * second_us);
    CHECK_OK(spool_job_take(spool, "w", 10, 3, 9 * second_us, &job, &found, &why));
    CHECK_INT(job.id, 3);
    CHECK_INT(job.n_late, 1);
    CHECK_OK(spool_job_finish(spool, job.id, "w", &derived, 1, NULL, 0, 10 * second_us, &why));
    // The first job done after all: the second, done again under the same UIDs, must say what it said.
    CHECK_OK(spool_retry(spool, "j1", 11 * second_us, &why));
    CHECK_OK(spool_job_take(spool, "w", 10, 3, 11 * second_us, &job, &found, &why));
    CHECK_INT(job.id, 1);
    CHECK_OK(spool_job_finish(spool, job.id, "w", &derived, 1, NULL, 0, 12 * second_us, &why));
    CHECK_OK(spool_retry(spool, "j2", 13 * second_us, &why));
    CHECK_OK(spool_job_take(spool, "w", 10, 3, 13 * second_us, &job, &found, &why));
    CHECK_INT(job.id, 2);
    CHECK_INT(job.n_late, 0);
    spool_close(spool);
}

// The clock was a day ahead when a series came, a job was taken, one was to wait and a delivery failed; put
// right, all of it waited for a day, and nothing said so.
static void clock_put_back(void)
{
    static const struct spool_destination destinations[] = {{"pacs", 0, 0}};
    static const struct spool_longest longest = {.pause_s = 900, .lease_s = 60};
    const int64_t ahead_us = 86400 * second_us, now_us = 1000 * second_us;
    struct fault_note fault = {FAULT_NO_MEMORY, "later"}, busy = {FAULT_PEER_BUSY, "0xa700"};
    struct spool_delivery delivery;
    struct spool_job job;
    size_t n;
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    finish_one(destinations, 1, 2 * second_us);
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, now_us, &delivery, &found, &why));
    CHECK_OK(spool_delivery_end(spool, delivery.id, "s", &busy, 0, now_us + ahead_us, now_us, &why));
    index_at("a-2.dcm", "1.2", "1.6", "bb", 3 * second_us);
    index_at("a-3.dcm", "1.3", "1.7", "cc", 3 * second_us);
    CHECK_INT(gather(0, 5 * second_us), 2);
    CHECK_OK(spool_job_take(spool, "w", 60, 3, now_us + ahead_us, &job, &found, &why));
    CHECK_INT(found, 1);
    CHECK_OK(spool_job_return(spool, job.id, "w", &fault, NULL, now_us + ahead_us + second_us,
                              now_us + ahead_us, &why));
    CHECK_OK(spool_job_take(spool, "w", 60, 3, now_us + ahead_us, &job, &found, &why));
    CHECK_INT(found, 1);
    index_at("a-4.dcm", "1.4", "1.8", "dd", now_us + ahead_us);
    CHECK_OK(spool_told(spool, "1.8", 1, now_us + ahead_us, &why));

    CHECK_INT(gather(5, now_us + 10 * second_us), 0);
    CHECK_OK(spool_put_times_right(spool, &longest, now_us, &n, &why));
    CHECK_INT(n, 4);
    CHECK_OK(spool_put_times_right(spool, &longest, now_us, &n, &why));
    CHECK_INT(n, 0); // once
    CHECK_INT(gather(5, now_us + 4 * second_us), 0);
    CHECK_INT(gather(5, now_us + 6 * second_us), 1);
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, now_us + 899 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 0);
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, now_us + 901 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 1);
    CHECK_OK(spool_job_take(spool, "v", 60, 3, now_us + 59 * second_us, &job, &found, &why));
    CHECK_INT(job.id, 4); // the one that gathered last
    CHECK_OK(spool_job_take(spool, "v", 60, 3, now_us + 59 * second_us, &job, &found, &why));
    CHECK_INT(found, 0);
    CHECK_OK(spool_job_take(spool, "v", 60, 3, now_us + 61 * second_us, &job, &found, &why));
    CHECK_INT(found, 1);
    CHECK_OK(spool_job_take(spool, "v", 3600, 3, now_us + 901 * second_us, &job, &found, &why));
    CHECK_INT(found, 1);
    // A lease that other settings gave is left alone.
    CHECK_OK(spool_put_times_right(spool, &longest, now_us + 900 * second_us, &n, &why));
    CHECK_INT(n, 0);
    spool_close(spool);
}

static void deliveries(void)
{
    static const struct spool_destination destinations[] = {{"pacs", 0, 0}, {"other", 0, 0}};
    struct spool_delivery delivery;
    int found, sent;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    finish_one(destinations, 2, 10 * second_us);
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 10 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 1);
    CHECK_INT(delivery.n_objects, 2);
    CHECK_CONTAINS(delivery.folder, "derived/j1-s0");
    CHECK_OK(spool_delivery_is_sent(spool, delivery.id, 0, &sent, &why));
    CHECK_INT(sent, 0);
    CHECK_OK(spool_delivery_record(spool, delivery.id, "s", 0, 0, 1, 10, 11 * second_us, &why));
    CHECK_FAULT(spool_delivery_record(spool, delivery.id, "x", 1, 0, 1, 10, 11 * second_us, &why),
                FAULT_LEASE_LOST);
    struct fault_note busy = {FAULT_PEER_BUSY, "0xa700"}, refused = {FAULT_PEER_REFUSED, "0xc000"};
    CHECK_OK(spool_delivery_end(spool, delivery.id, "s", &busy, 0, 20 * second_us, 12 * second_us, &why));
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 19 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 0);
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 21 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 1);
    CHECK_INT(delivery.attempts, 1);
    CHECK_OK(spool_delivery_is_sent(spool, delivery.id, 0, &sent, &why));
    CHECK_INT(sent, 1);
    CHECK_OK(spool_delivery_end(spool, delivery.id, "s", NULL, 0, 0, 22 * second_us, &why));
    CHECK_FAULT(spool_hold(spool, "d1", 0, &why), FAULT_USAGE);
    CHECK_CONTAINS(why.text, "it is SENT");
    // Taken back from a sender that is gone, of that destination, and not before its lease is over.
    CHECK_OK(spool_delivery_take(spool, "other", "s", 10, 22 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 1);
    CHECK_OK(spool_delivery_reclaim(spool, "other", 32 * second_us, &why));
    CHECK_OK(spool_delivery_reclaim(spool, "pacs", INT64_MAX, &why));
    CHECK_OK(spool_delivery_take(spool, "other", "s", 10, 22 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 0);
    CHECK_OK(spool_delivery_reclaim(spool, "other", 33 * second_us, &why));
    // The other destination answers for good.
    CHECK_OK(spool_delivery_take(spool, "other", "s", 10, 23 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 1);
    CHECK_OK(spool_delivery_end(spool, delivery.id, "s", &refused, 0, 0, 24 * second_us, &why));
    CHECK_OK(spool_delivery_take(spool, "other", "s", 10, 99 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 0);
    CHECK_OK(spool_retry(spool, "d2", 99 * second_us, &why));
    CHECK_OK(spool_delivery_take(spool, "other", "s", 10, 99 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 1);
    spool_close(spool);
}

static struct commitment_item asked_for[2] = {{.sop_instance_uid = "2.25.8"}, {.sop_instance_uid = "2.25.9"}};

// Takes the delivery, whose objects are confirmed, and asks; the transaction is `uid`.
static void ask_for_promise(const char *uid, int64_t until_us, int64_t now_us)
{
    struct commitment request = {.items = asked_for, .n = 2};
    struct spool_delivery delivery;
    int found;
    snprintf(request.transaction_uid, sizeof request.transaction_uid, "%s", uid);
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, now_us, &delivery, &found, &why));
    CHECK_INT(found, 1);
    for (int64_t i = 0; i < 2; i++)
        CHECK_OK(spool_delivery_record(spool, delivery.id, "s", i, 0, 1, 10, now_us, &why));
    CHECK_FAULT(spool_delivery_ask(spool, delivery.id, "x", &request, &why), FAULT_LEASE_LOST);
    CHECK_OK(spool_delivery_ask(spool, delivery.id, "s", &request, &why));
    CHECK_OK(spool_delivery_asked(spool, delivery.id, "s", until_us, now_us, &why));
}

// From the request to SENT, past everything that may come between: a late answer to an earlier request, an
// answer for one object only, a conflict, a person.
static void promises(void)
{
    static const struct spool_destination destinations[] = {{"pacs", 0, 0}};
    struct spool_promise promise;
    struct spool_delivery delivery;
    struct commitment outcome = {.transaction_uid = "2.25.100", .items = asked_for, .n = 1};
    size_t n_missing;
    int found, is_held, sent;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    finish_one(destinations, 1, 10 * second_us);
    ask_for_promise("2.25.100", 20 * second_us, 11 * second_us);
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 19 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 0);
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 21 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 1); // no answer within its time
    CHECK_INT(delivery.is_asked, 1);
    CHECK_INT(delivery.n_confirmed, 2);
    struct fault_note busy = {FAULT_PEER_BUSY, "0x0213"};
    CHECK_OK(spool_delivery_end(spool, 1, "s", &busy, 0, 22 * second_us, 21 * second_us, &why));
    CHECK_OK(spool_promise_find(spool, "2.25.100", &promise, &found, &why));
    CHECK_INT(found, 0); // it waits to be asked again, not for this
    ask_for_promise("2.25.101", 40 * second_us, 23 * second_us);
    CHECK_OK(spool_promise_find(spool, "2.25.100", &promise, &found, &why));
    CHECK_INT(found, 0);
    CHECK_OK(spool_promise_find(spool, "2.25.101", &promise, &found, &why));
    CHECK_INT(found, 1);
    CHECK_STR(promise.destination, "pacs");
    CHECK_FAULT(
        spool_promise_told(spool, &promise, &outcome, 0, 0, 24 * second_us, &n_missing, &is_held, &why),
        FAULT_LEASE_LOST);
    snprintf(outcome.transaction_uid, sizeof outcome.transaction_uid, "2.25.101");
    CHECK_OK(spool_promise_told(spool, &promise, &outcome, 0, 30 * second_us, 24 * second_us, &n_missing,
                                &is_held, &why));
    CHECK_INT(n_missing, 1);
    CHECK_INT(is_held, 0);
    CHECK_FAULT(
        spool_promise_told(spool, &promise, &outcome, 0, 0, 24 * second_us, &n_missing, &is_held, &why),
        FAULT_LEASE_LOST); // the same again
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 29 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 0);
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 31 * second_us, &delivery, &found, &why));
    CHECK_INT(delivery.n_confirmed, 1);
    CHECK_INT(delivery.is_asked, 0);
    CHECK_OK(spool_delivery_is_sent(spool, 1, 0, &sent, &why));
    CHECK_INT(sent, 1);
    CHECK_OK(spool_delivery_is_sent(spool, 1, 1, &sent, &why));
    CHECK_INT(sent, 0);
    CHECK_OK(spool_delivery_end(spool, 1, "s", &busy, 0, 32 * second_us, 31 * second_us, &why));
    // What comes into conflict meanwhile is not sent again whatever the answer is.
    ask_for_promise("2.25.102", 50 * second_us, 33 * second_us);
    CHECK_INT(index_at("a-2.dcm", "1.1", "1.5", "bb", 34 * second_us), SPOOL_CONFLICT);
    CHECK_OK(spool_promise_find(spool, "2.25.102", &promise, &found, &why));
    CHECK_INT(found, 0);
    CHECK_FAULT(spool_retry(spool, "d1", 35 * second_us, &why), FAULT_USAGE);
    CHECK_OK(spool_release(spool, "s1", 35 * second_us, &why));
    ask_for_promise("2.25.103", 60 * second_us, 36 * second_us);
    CHECK_OK(spool_hold(spool, "d1", 37 * second_us, &why));
    CHECK_OK(spool_release(spool, "d1", 38 * second_us, &why));
    ask_for_promise("2.25.104", 60 * second_us, 39 * second_us);
    outcome.n = 2;
    snprintf(outcome.transaction_uid, sizeof outcome.transaction_uid, "2.25.104");
    CHECK_OK(spool_promise_find(spool, "2.25.104", &promise, &found, &why));
    CHECK_INT(found, 1);
    CHECK_OK(spool_promise_told(spool, &promise, &outcome, 0, 0, 40 * second_us, &n_missing, &is_held, &why));
    CHECK_INT(n_missing, 0);
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 999 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 0);
    CHECK_FAULT(spool_hold(spool, "d1", 0, &why), FAULT_USAGE);
    CHECK_CONTAINS(why.text, "it is SENT");
    spool_close(spool);
}

// A destination gets the series of its form; one that is refused goes to nobody.
static void forms_go_to_who_gets_them(void)
{
    static const struct spool_destination destinations[] = {{"pacs", 0, 0}, {"other", 7, 0}, {"third", 7, 0}};
    struct spool_result results[3] = {
        {.n_objects = 36}, {.n_objects = 1, .form = 7}, {.verdict = FAULT_TOO_LARGE, .form = 7}};
    struct spool_delivery delivery;
    struct spool_job job;
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    for (int i = 0; i < 3; i++)
        snprintf(results[i].derived_name, sizeof results[i].derived_name, "j1-%d", i);
    CHECK_OK(spool_job_take(spool, "w", 10, 3, 0, &job, &found, &why));
    CHECK_OK(spool_job_finish(spool, job.id, "w", results, 3, destinations, 3, second_us, &why));
    for (int i = 0; i < 3; i++) {
        const char *name = destinations[i].name;
        CHECK_OK(spool_delivery_take(spool, name, "s", 10, second_us, &delivery, &found, &why));
        CHECK_INT(found, 1);
        CHECK_INT(delivery.n_objects, i == 0 ? 36 : 1);
        CHECK_CONTAINS(delivery.folder, i == 0 ? "derived/j1-0" : "derived/j1-1");
        CHECK_OK(spool_delivery_take(spool, name, "s", 10, second_us, &delivery, &found, &why));
        CHECK_INT(found, 0);
    }
    // done again when a rule keeps them from the first and from the third
    for (int i = 0; i < 3; i++)
        results[i].not_to = ~2u;
    CHECK_OK(spool_retry(spool, "j1", second_us, &why));
    CHECK_OK(spool_job_take(spool, "w", 10, 3, second_us, &job, &found, &why));
    CHECK_STR(job.sender, "MR1");
    CHECK_OK(spool_job_finish(spool, job.id, "w", results, 3, destinations, 3, 2 * second_us, &why));
    for (int i = 0; i < 3; i++) {
        CHECK_OK(spool_delivery_take(spool, destinations[i].name, "s", 10, 3 * second_us, &delivery, &found,
                                     &why));
        CHECK_INT(found, i == 1);
    }
    spool_close(spool);
}

static void purges_only_what_is_done(void)
{
    static const struct spool_destination destinations[] = {{"pacs", 0, 0}};
    const int64_t day_us = 86400 * second_us;
    struct spool_delivery delivery;
    int found;
    size_t n;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    finish_one(destinations, 1, 2 * second_us);
    CHECK_OK(file_make_directory("sp/derived/j1-s0", &why));
    CHECK_OK(file_write_atomic("sp/derived/j1-s0/IM0001.dcm", "x", 1, &why));
    CHECK_OK(spool_purge(spool, 14, 100 * day_us, &n, &why));
    CHECK_INT(n, 0); // not delivered
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 3 * second_us, &delivery, &found, &why));
    CHECK_OK(spool_delivery_end(spool, delivery.id, "s", NULL, 0, 0, 4 * second_us, &why));
    CHECK_OK(spool_purge(spool, 14, 13 * day_us, &n, &why));
    CHECK_INT(n, 0); // too young
    CHECK_OK(spool_purge(spool, 0, 100 * day_us, &n, &why));
    CHECK_INT(n, 0); // for ever
    CHECK_OK(spool_purge(spool, 14, 15 * day_us, &n, &why));
    CHECK_INT(n, 1);
    CHECK(access("sp/derived/j1-s0", F_OK) != 0);
    CHECK(access("sp/store/a-1.dcm", F_OK) != 0);
    CHECK_INT(index_at("b-1.dcm", "1.1", "1.5", "aa", 0), SPOOL_NEW);
    spool_close(spool);
}

static void missing_files_are_found(void)
{
    size_t n;
    char **paths;
    struct spool_job job;
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    index_at("a-2.dcm", "1.2", "1.5", "bb", 0);
    CHECK_OK(spool_check_files(spool, second_us, &n, &why));
    CHECK_INT(n, 0);
    gather(0, second_us);
    CHECK_OK(spool_job_take(spool, "w", 10, 3, second_us, &job, &found, &why));
    CHECK_INT(unlink("sp/store/a-2.dcm"), 0);
    CHECK_FAULT(spool_job_files(spool, job.id, &paths, &n, &why), FAULT_LOST_FILE);
    CHECK_OK(file_make_directory("sp/incoming/a", &why)); // indexed, but not yet moved: not lost
    CHECK_OK(file_write_atomic("sp/incoming/a/2.dcm", "x", 1, &why));
    CHECK_OK(spool_check_files(spool, second_us, &n, &why));
    CHECK_INT(n, 0);
    CHECK_INT(unlink("sp/incoming/a/2.dcm"), 0);
    CHECK_OK(spool_check_files(spool, second_us, &n, &why));
    CHECK_INT(n, 1);
    spool_close(spool);
}

// What the indexer does with an object that comes again: its file takes the place that the row names.
static void comes_again(const char *name, const char *sop_uid, const char *digest, int was_there,
                        int64_t now_us)
{
    struct spool_object object = object_of(name, sop_uid, "1.5", digest);
    char path[SPOOL_PATH_SIZE + SPOOL_NAME_SIZE];
    int is_there;
    CHECK_INT(index_at(name, sop_uid, "1.5", digest, now_us), SPOOL_DUPLICATE);
    CHECK_OK(spool_find_twin(spool, &object, path, &is_there, &why));
    CHECK_INT(is_there, was_there);
    CHECK_OK(file_write_atomic(path, "x", 1, &why));
    CHECK_OK(spool_mended(spool, "1.5", now_us, &why));
}

// A series whose files were lost stayed FAILED for ever: what came again was a duplicate.
static void lost_files_come_again(void)
{
    size_t n;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    index_at("a-2.dcm", "1.2", "1.5", "bb", 0);
    index_at("a-3.dcm", "1.3", "1.5", "cc", 0);
    CHECK_INT(unlink("sp/store/a-1.dcm"), 0);
    CHECK_INT(unlink("sp/store/a-3.dcm"), 0);
    CHECK_OK(spool_check_files(spool, second_us, &n, &why));
    CHECK_INT(n, 2);
    comes_again("b-1.dcm", "1.1", "aa", 0, second_us);
    CHECK_INT(access("sp/store/a-1.dcm", F_OK), 0);
    CHECK_STR(row_of("s1").state, "FAILED"); // another is missing
    comes_again("b-2.dcm", "1.2", "bb", 1, second_us);
    CHECK_STR(row_of("s1").state, "FAILED");
    comes_again("b-3.dcm", "1.3", "cc", 0, second_us);
    CHECK_STR(row_of("s1").state, "GATHERING");
    CHECK_STR(row_of("s1").note, "");
    CHECK_INT(gather(0, 2 * second_us), 1);
    // Processed whole, then lost: nothing is left to do but to keep it.
    finish_one(NULL, 0, 3 * second_us);
    CHECK_INT(unlink("sp/store/a-2.dcm"), 0);
    CHECK_OK(spool_check_files(spool, 4 * second_us, &n, &why));
    CHECK_STR(row_of("s1").state, "FAILED");
    comes_again("c-2.dcm", "1.2", "bb", 0, 5 * second_us);
    CHECK_STR(row_of("s1").state, "QUEUED");
    CHECK_INT(gather(0, 9 * second_us), 0);
    spool_close(spool);
}

// A crash between the file and its row, or a hand that puts it back.
static void files_that_are_back_are_found(void)
{
    size_t n;
    struct spool_job job;
    struct fault_note lost = {FAULT_LOST_FILE, "missing"};
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    CHECK_INT(unlink("sp/store/a-1.dcm"), 0);
    CHECK_INT(gather(0, second_us), 1);
    CHECK_OK(spool_job_take(spool, "w", 10, 3, second_us, &job, &found, &why));
    CHECK_OK(spool_job_return(spool, job.id, "w", &lost, NULL, 0, second_us, &why));
    CHECK_OK(spool_check_files(spool, 2 * second_us, &n, &why));
    CHECK_STR(row_of("s1").state, "FAILED");
    CHECK_OK(file_write_atomic("sp/store/a-1.dcm", "x", 1, &why));
    CHECK_OK(spool_check_files(spool, 3 * second_us, &n, &why));
    CHECK_INT(n, 0);
    CHECK_STR(row_of("s1").state, "GATHERING");
    CHECK_INT(gather(0, 4 * second_us), 1);
    // The file was lost while the node ran: only its job knows.
    CHECK_INT(unlink("sp/store/a-1.dcm"), 0);
    CHECK_OK(spool_job_take(spool, "w", 10, 3, 5 * second_us, &job, &found, &why));
    CHECK_INT(found, 1);
    CHECK_OK(spool_job_return(spool, job.id, "w", &lost, NULL, 0, 5 * second_us, &why));
    CHECK_STR(row_of("s1").state, "QUEUED");
    comes_again("b-1.dcm", "1.1", "aa", 0, 6 * second_us);
    CHECK_STR(row_of("s1").state, "GATHERING");
    spool_close(spool);
}

// Derived from bytes that are now disputed, and not sent yet: it went out all the same.
static void a_conflict_holds_what_waits_to_be_sent(void)
{
    static const struct spool_destination destinations[] = {{"pacs", 0, 0}, {"other", 0, 0}, {"third", 0, 0}};
    struct spool_delivery delivery;
    int found, sent;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    index_at("o-1.dcm", "2.1", "2.5", "oo", 0);
    gather(0, second_us);
    finish_one(destinations, 3, 2 * second_us); // d1 to d3
    finish_one(destinations, 1, 2 * second_us); // d4, of the other series
    CHECK_OK(spool_delivery_take(spool, "pacs", "s", 10, 3 * second_us, &delivery, &found, &why));
    CHECK_INT(delivery.id, 1);
    CHECK_OK(spool_delivery_is_sent(spool, 1, 0, &sent, &why));
    CHECK_OK(spool_hold(spool, "d3", 3 * second_us, &why));
    CHECK_INT(index_at("a-2.dcm", "1.1", "1.5", "bb", 4 * second_us), SPOOL_CONFLICT);
    CHECK_STR(row_of("s1").state, "CONFLICT");
    CHECK_STR(row_of("d1").state, "HELD");
    CHECK_STR(row_of("d1").note, "the series is in conflict");
    CHECK_STR(row_of("d2").state, "HELD");
    CHECK_STR(row_of("d4").state, "WAITING");
    // No further object of what is being sent.
    CHECK_FAULT(spool_delivery_record(spool, 1, "s", 0, 0, 1, 10, 5 * second_us, &why), FAULT_LEASE_LOST);
    CHECK_FAULT(spool_delivery_is_sent(spool, 1, 1, &sent, &why), FAULT_LEASE_LOST);
    CHECK_FAULT(spool_delivery_end(spool, 1, "s", NULL, 0, 0, 5 * second_us, &why), FAULT_LEASE_LOST);
    CHECK_OK(spool_delivery_take(spool, "other", "s", 10, 99 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 0);
    // A retry of all that is held, or of the job, once sent it in spite of the conflict.
    CHECK_FAULT(spool_retry(spool, "d1", 90 * second_us, &why), FAULT_USAGE);
    CHECK_CONTAINS(why.text, "release s1");
    CHECK_FAULT(spool_release(spool, "d2", 90 * second_us, &why), FAULT_USAGE);
    CHECK_FAULT(spool_release(spool, "d3", 90 * second_us, &why), FAULT_USAGE);
    CHECK_FAULT(spool_retry(spool, "j1", 90 * second_us, &why), FAULT_USAGE);
    CHECK_CONTAINS(why.text, "release s1");
    CHECK_OK(spool_delivery_take(spool, "other", "s", 10, 99 * second_us, &delivery, &found, &why));
    CHECK_INT(found, 0);
    CHECK_STR(row_of("j1").state, "DONE");
    CHECK_OK(spool_retry(spool, "d4", 99 * second_us, &why)); // of the other series
    CHECK_OK(spool_release(spool, "s1", 100 * second_us, &why));
    CHECK_STR(row_of("d1").state, "WAITING");
    CHECK_STR(row_of("d2").state, "WAITING");
    CHECK_STR(row_of("d3").state, "HELD"); // a person's
    CHECK_STR(row_of("d3").note, "held by a person");
    CHECK_OK(spool_release(spool, "d3", 100 * second_us, &why));
    // Its job has all that is kept: another would send the same UIDs again.
    CHECK_STR(row_of("s1").state, "QUEUED");
    CHECK_INT(gather(0, 200 * second_us), 0);
    CHECK_INT(index_at("a-3.dcm", "1.2", "1.5", "cc", 300 * second_us), SPOOL_NEW);
    CHECK_INT(gather(0, 301 * second_us), 1);
    spool_close(spool);
}

// The job that waited when the conflict came is the one that is done; held for ever, it kept its series from
// the purge.
static void a_release_gives_the_job_back(void)
{
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    index_at("a-2.dcm", "1.1", "1.5", "bb", 2 * second_us);
    CHECK_STR(row_of("j1").state, "HELD");
    CHECK_OK(spool_release(spool, "s1", 3 * second_us, &why));
    CHECK_STR(row_of("j1").state, "WAITING");
    CHECK_STR(row_of("s1").state, "QUEUED");
    CHECK_INT(gather(0, 4 * second_us), 0);
    // A late one during the conflict: the job has not all, so the series gathers.
    index_at("a-3.dcm", "1.1", "1.5", "cc", 5 * second_us);
    index_at("a-4.dcm", "1.2", "1.5", "dd", 6 * second_us);
    CHECK_OK(spool_release(spool, "s1", 7 * second_us, &why));
    CHECK_STR(row_of("s1").state, "GATHERING");
    CHECK_STR(row_of("j1").state, "HELD");
    CHECK_INT(gather(0, 8 * second_us), 1);
    spool_close(spool);
}

// Many processes that find no spool at all make one together.
static void opened_by_many_at_once(void)
{
    enum { N = 24 };
    for (int round = 0; round < 40; round++) {
        pid_t pids[N];
        CHECK_OK(file_remove_tree("sp", &why));
        for (int i = 0; i < N; i++) {
            pids[i] = fork();
            CHECK(pids[i] >= 0);
            if (pids[i] == 0)
                _exit(spool_open("sp", &spool, &why) == 0 ? 0 : 1);
        }
        for (int i = 0; i < N; i++) {
            int status;
            CHECK_INT(waitpid(pids[i], &status, 0), pids[i]);
            CHECK(WIFEXITED(status));
            CHECK_INT(WEXITSTATUS(status), 0);
        }
    }
}

// 'queue list held' said "nothing" while deliveries were HELD, and so did any slip of the pen.
static void unknown_states_are_errors(void)
{
    static const char *const bad[] = {"held", "HELD ", "", "HEL", "HELD SENT", "GATHERINGS"};
    open_spool();
    CHECK_INT(index_at("a1p1-1.dcm", "1.1", "1.5", "aa", 0), SPOOL_NEW);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_FAULT(spool_list(spool, bad[i], count_job, NULL, &why), FAULT_USAGE);
    CHECK_CONTAINS(why.text, "GATHERING");
    static const char *const good[] = {"GATHERING", "QUEUED",   "CONFLICT", "FAILED", "WAITING",
                                       "LEASED",    "DONE",     "REFUSED",  "HELD",   "SENDING",
                                       "SENT",      "CHECKING", "OFFERED",  "ASKED"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        CHECK_INT(count_jobs(good[i]), 0);
    spool_close(spool);
}

static int has_delivery(const char *destination, int64_t now_us, struct spool_delivery *delivery)
{
    int found;
    CHECK_OK(spool_delivery_take(spool, destination, "s", 10, now_us, delivery, &found, &why));
    return found;
}

// A notice changes nothing of what a job has become, and goes to those who get notices, whatever their form.
// With a fault it is there when the fault is; the next one of the same job stands for it.
static void notices(void)
{
    static const struct spool_destination destinations[] = {{"pacs", 0, 0}, {"told", 0, 1}, {"other", 7, 1}};
    struct spool_result results[3] = {
        {.verdict = FAULT_MISSING_SLICES},
        {.verdict = FAULT_MISSING_SLICES, .n_objects = 1, .is_notice = 1, .derived_name = "j1-s0-notice"},
        {.n_objects = 36, .derived_name = "j1-s1"}};
    struct spool_result told = {
        .verdict = FAULT_READER, .n_objects = 1, .is_notice = 1, .derived_name = "j1-notice"};
    const struct spool_notice notice = {&told, destinations, 3};
    const struct fault_note fault = {FAULT_READER, "it died"};
    struct spool_delivery delivery;
    struct spool_job job;
    int found;
    open_spool();
    index_at("a-1.dcm", "1.1", "1.5", "aa", 0);
    gather(0, second_us);
    CHECK_OK(spool_job_take(spool, "w", 10, 3, 0, &job, &found, &why));
    CHECK_FAULT(spool_job_return(spool, job.id, "x", &fault, &notice, 0, second_us, &why), FAULT_LEASE_LOST);
    CHECK(!has_delivery("told", second_us, &delivery)); // not even a row of it
    CHECK_OK(spool_job_finish(spool, job.id, "w", results, 2, destinations, 3, second_us, &why));
    CHECK_STR(row_of("j1").state, "REFUSED");
    CHECK(!has_delivery("pacs", second_us, &delivery));
    CHECK(has_delivery("other", second_us, &delivery));
    CHECK(has_delivery("told", second_us, &delivery));
    CHECK_CONTAINS(delivery.folder, "derived/j1-s0-notice");

    CHECK_OK(spool_retry(spool, "j1", second_us, &why)); // and now a stack of it can be derived
    CHECK_OK(spool_job_take(spool, "w", 10, 3, second_us, &job, &found, &why));
    results[1].not_to = ~2u;
    CHECK_OK(spool_job_finish(spool, job.id, "w", results, 3, destinations, 3, 2 * second_us, &why));
    CHECK_STR(row_of("j1").state, "DONE");
    CHECK(has_delivery("pacs", 2 * second_us, &delivery));
    CHECK(!has_delivery("other", 2 * second_us, &delivery));
    CHECK(has_delivery("told", 2 * second_us, &delivery) && has_delivery("told", 2 * second_us, &delivery));

    for (int i = 3; i < 5; i++) {
        CHECK_OK(spool_retry(spool, "j1", i * second_us, &why));
        CHECK_OK(spool_job_take(spool, "w", 10, 3, i * second_us, &job, &found, &why));
        CHECK_OK(spool_job_return(spool, job.id, "w", &fault, &notice, 0, i * second_us, &why));
        CHECK_STR(row_of("j1").state, "FAILED");
        CHECK(has_delivery("told", i * second_us, &delivery));
        CHECK_CONTAINS(delivery.folder, "derived/j1-notice");
        CHECK(!has_delivery("told", i * second_us, &delivery));
    }
    spool_close(spool);
}

static double idle_s; // what count_round says of a request whose transaction ends in 9
static int count_round(void *user, const char *path, const char *name, double *out, struct fault_note *note)
{
    struct spool_commitment commitment;
    int *n_read = user;
    (void)name;
    CHECK_OK(spool_commitment_read(path, &commitment, note));
    const char *uid = commitment.request.transaction_uid;
    *out = uid[strlen(uid) - 1] == '9' ? idle_s : 0;
    spool_commitment_done(&commitment);
    ++*n_read;
    return 0;
}

static int read_in_round(struct spool_idle *idle, double now_s)
{
    int n_read = 0;
    CHECK_OK(spool_commitment_round(spool, idle, now_s, count_round, &n_read, &why));
    return n_read;
}

// Thousands of requests that wait for a person once were read and parsed several times a second, by two
// processes. What needs nothing is left alone, until its file is another or a minute is over.
static void idle_commitments_are_left_alone(void)
{
    static struct commitment_item item = {.sop_class_uid = "1.2", .sop_instance_uid = "1.3"};
    struct spool_commitment commitment = {.sender = "MR1",
                                          .address = "192.0.2.1",
                                          .state = SPOOL_COMMITMENT_HELD,
                                          .request = {.items = &item, .n = 1}};
    static const char *const uids[] = {"1.2.9", "1.2.8", "1.3.9"};
    char paths[3][SPOOL_PATH_SIZE + 32];
    struct spool_idle idle = {0};
    open_spool();
    for (int i = 0; i < 3; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/a%d-1.commit", spool_folder(spool, SPOOL_COMMITMENTS), i);
        snprintf(commitment.request.transaction_uid, UID_SIZE, "%s", uids[i]);
        CHECK_OK(spool_commitment_write(paths[i], &commitment, &why));
    }
    idle_s = 3600;
    CHECK_INT(read_in_round(&idle, 100), 3);
    CHECK_INT(read_in_round(&idle, 101), 1);
    CHECK_OK(spool_commitment_write(paths[2], &commitment, &why)); // the same bytes, another file
    CHECK_INT(read_in_round(&idle, 102), 2);
    CHECK_INT(read_in_round(&idle, 103), 1);
    CHECK_INT(unlink(paths[0]), 0);
    CHECK_INT(read_in_round(&idle, 104), 1);
    CHECK_INT(read_in_round(&idle, 163), 2);
    idle_s = 5;
    CHECK_INT(read_in_round(&idle, 224), 2);
    CHECK_INT(read_in_round(&idle, 228), 1);
    CHECK_INT(read_in_round(&idle, 229), 2);
    spool_idle_done(&idle);
    spool_close(spool);
}

// Fails for the first request it is called with.
static int fail_first(void *user, const char *path, const char *name, double *out, struct fault_note *note)
{
    int *n_called = user;
    (void)path;
    *out = 3600;
    return ++*n_called == 1 ? fault_set(note, FAULT_IO, "no luck with '%s'", name) : 0;
}

// A request whose file cannot be written kept all later ones from being reported.
static void one_fault_leaves_the_others_their_turn(void)
{
    static struct commitment_item item = {.sop_class_uid = "1.2", .sop_instance_uid = "1.3"};
    struct spool_commitment commitment = {
        .sender = "MR1", .address = "192.0.2.1", .request = {.items = &item, .n = 1}};
    struct spool_idle idle = {0};
    int n_called = 0;
    open_spool();
    for (int i = 0; i < 3; i++) {
        char path[SPOOL_PATH_SIZE + 32];
        snprintf(path, sizeof path, "%s/a%d-1.commit", spool_folder(spool, SPOOL_COMMITMENTS), i);
        snprintf(commitment.request.transaction_uid, UID_SIZE, "1.2.%d", i + 1);
        CHECK_OK(spool_commitment_write(path, &commitment, &why));
    }
    CHECK_FAULT(spool_commitment_round(spool, &idle, 100, fail_first, &n_called, &why), FAULT_IO);
    CHECK_CONTAINS(why.text, "a0-1.commit");
    CHECK_INT(n_called, 3);
    CHECK_OK(spool_commitment_round(spool, &idle, 101, fail_first, &n_called, &why));
    CHECK_INT(n_called, 4); // the others said that they have nothing to do
    spool_idle_done(&idle);
    spool_close(spool);
}

static const struct test tests[] = {
    {"unit.spool.unknown_states_are_errors", unknown_states_are_errors},
    {"unit.spool.opened_by_many_at_once", opened_by_many_at_once},
    {"unit.spool.verdicts", verdicts},
    {"unit.spool.conflict_across_series", conflict_across_series},
    {"unit.spool.gathers_when_quiet_and_closed", gathers_when_quiet_and_closed},
    {"unit.spool.leases_run_out_and_are_lost", leases_run_out_and_are_lost},
    {"unit.spool.release_takes_the_job_up_again", release_takes_the_job_up_again},
    {"unit.spool.release_with_more_objects", release_with_more_objects},
    {"unit.spool.late_for_a_derived_series", late_for_a_derived_series},
    {"unit.spool.clock_put_back", clock_put_back},
    {"unit.spool.deliveries", deliveries},
    {"unit.spool.promises", promises},
    {"unit.spool.forms_go_to_who_gets_them", forms_go_to_who_gets_them},
    {"unit.spool.notices", notices},
    {"unit.spool.purges_only_what_is_done", purges_only_what_is_done},
    {"unit.spool.missing_files_are_found", missing_files_are_found},
    {"unit.spool.a_conflict_holds_what_waits_to_be_sent", a_conflict_holds_what_waits_to_be_sent},
    {"unit.spool.a_release_gives_the_job_back", a_release_gives_the_job_back},
    {"unit.spool.idle_commitments_are_left_alone", idle_commitments_are_left_alone},
    {"unit.spool.one_fault_leaves_the_others_their_turn", one_fault_leaves_the_others_their_turn},
    {"unit.spool.lost_files_come_again", lost_files_come_again},
    {"unit.spool.files_that_are_back_are_found", files_that_are_back_are_found},
};
TEST_MAIN(tests)
