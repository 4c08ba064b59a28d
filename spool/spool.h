// SPDX-License-Identifier: Apache-2.0
//
// What the daemons share and nothing else: the spool folder and the queue. Files are the truth of what was
// received; the queue (SQLite, WAL, synchronous=FULL) says what has become of them. States, and what a crash
// in each of them means, stand in README.md beside this file. Not here: DICOM, networking, computing. Another
// database can stand behind this header.

#ifndef ISOSLICE_SPOOL_SPOOL_H
#define ISOSLICE_SPOOL_SPOOL_H

#include "core/digest.h"
#include "core/fault.h"
#include "dicom_map/commitment.h"

#include <stddef.h>
#include <stdint.h>

enum { SPOOL_NAME_SIZE = 96, SPOOL_PATH_SIZE = 1280, SPOOL_OWNER_SIZE = 96, SPOOL_NOTE_SIZE = 768 };

struct spool;

// Opens (and makes, mode 0700) the spool at `root` and its queue. A process opens its own; never used across
// a fork. Errors: IO, NO_SPACE, QUEUE.
int spool_open(const char *root, struct spool **spool, struct fault_note *why);
// The same for who only looks at a node's spool or decides something in it: makes none. Errors: also
// NOT_FOUND where there is none.
int spool_open_existing(const char *root, struct spool **spool, struct fault_note *why);
void spool_close(struct spool *spool); // NULL is fine

// The folders inside.
enum spool_folder {
    SPOOL_INCOMING,    // incoming/<association>/<n>.dcm: durable and acknowledged, not yet in the queue
    SPOOL_STORE,       // store/<name>: in the queue
    SPOOL_ASIDE,       // aside/<name>: other bytes under a known UID
    SPOOL_DERIVED,     // derived/<name>/IM0001.dcm ...: complete derived series
    SPOOL_WORK,        // work/<name>/: half-done derived series; replaced when its job is done again
    SPOOL_REPORTS,     // reports/<name>.json: one per processed stack; <name>.png where pictures are wanted
    SPOOL_COMMITMENTS, // commitments/<association>-<n>.commit: senders' requests, see commitment.h
    SPOOL_N_FOLDERS
};
const char *spool_folder(const struct spool *spool, enum spool_folder folder);

// ---- indexing: from a file to rows

// What an object's header tells about the series being complete.
struct spool_geometry {
    int has_plane;
    double normal[3], z_mm; // of the plane; its position along the normal
    int has_number, has_acquisition;
    int64_t number, acquisition; // Instance Number, Acquisition Number
    int64_t n_expected;          // Images in Acquisition; 0: not told
};

struct spool_object {
    char name[SPOOL_NAME_SIZE]; // file name, unique for ever: "<association>-<n>.dcm"
    char sop_class_uid[UID_SIZE], sop_instance_uid[UID_SIZE], series_uid[UID_SIZE], study_uid[UID_SIZE];
    char digest[DIGEST_HEX_SIZE];
    char sender[17]; // calling AE title
    int64_t size_bytes;
    struct spool_geometry geometry;
};

enum spool_verdict {
    SPOOL_NEW,         // first of its UID: the series gathers (again)
    SPOOL_DUPLICATE,   // same bytes under a known UID: dropped, when what spool_find_twin names is whole
    SPOOL_CONFLICT,    // other bytes under a known UID: keep aside, the series and all that waits is stopped
    SPOOL_KNOWN,       // this very file is in the queue already as new: move it to the store
    SPOOL_KNOWN_ASIDE, // this very file is in the queue already as conflicting: move it aside
    SPOOL_LATER,       // same bytes as of a series that is being removed: to be asked again when it is gone
};

// One transaction, or part of a group's. The caller moves the file once it is committed; done twice, the
// second answer leads to the same move.
int spool_index(struct spool *spool, const struct spool_object *object, int64_t now_us,
                enum spool_verdict *verdict, struct fault_note *why);

// Whether a series is being removed, or purged, and not gone yet. A new image for it ends that: it stays.
int spool_is_going(struct spool *spool, const char *series_uid, int *is_going, struct fault_note *why);

// A group: everything that spool_index is asked in between is one transaction, and one sync. spool_group_end
// commits when `rc` is 0, else nothing of it happened; it returns the first fault.
int spool_group_begin(struct spool *spool, struct fault_note *why);
int spool_group_end(struct spool *spool, int rc, struct fault_note *why);

// Where the kept file lies that makes `object` a duplicate; *is_there = 0: nothing lies there, and `path`, of
// SPOOL_PATH_SIZE + SPOOL_NAME_SIZE bytes, is its place. A file with those bytes may be renamed to `path` at
// any time. Errors: QUEUE; INTERNAL when there is no such row.
int spool_find_twin(struct spool *spool, const struct spool_object *object, char *path, int *is_there,
                    struct fault_note *why);

// After a file of the series that was lost or damaged came again and is durable in its place: when no other
// is missing, a FAILED series, or one whose last job FAILED, is GATHERING again; QUEUED when it had been
// processed before.
int spool_mended(struct spool *spool, const char *series_uid, int64_t now_us, struct fault_note *why);

// The object that is kept under a SOP Instance UID. *found = 0 when there is none; *is_disputed: other bytes
// came under its UID. `path`, of SPOOL_PATH_SIZE + SPOOL_NAME_SIZE bytes: where its file lies, empty when it
// is lost.
int spool_find_object(struct spool *spool, const char *sop_instance_uid, struct spool_object *object,
                      char *path, int *found, int *is_disputed, struct fault_note *why);

// Every object row whose file is neither in the store nor waiting in incoming: its series becomes FAILED
// (LOST_FILE), unless its purge was begun. Returns their number in *n_lost. A FAILED series whose files are
// all there again goes on, as after spool_mended.
int spool_check_files(struct spool *spool, int64_t now_us, size_t *n_lost, struct fault_note *why);

// Files in the store, or aside, that have no row: of a queue that was lost, or set back to an earlier one.
// What is sealed and whole goes back to where it came in, incoming/<association>/<n>.dcm, and is indexed
// again from there; *n_entered counts. *n_left: others, which stay. Errors: IO, NO_SPACE, QUEUE, NO_MEMORY.
int spool_enter_unknown(struct spool *spool, enum spool_folder from, size_t *n_entered, size_t *n_left,
                        struct fault_note *why);

// ---- gathering: when a series is complete

#define SPOOL_SETTLE_S 1.0 // nothing is decided about a series that an object came for within so many seconds
#define SPOOL_AGREE_S  10.0 // answers of the archive that agree count when so far apart

// A series that became a job; texts borrowed during the call.
struct spool_gathered {
    const char *series_uid;
    const char *because; // what made it complete, or what is missing
    int64_t n_objects;   // of the job
    int64_t n_late;      // of them that an earlier derived series lacks; 0: there was none
};

struct spool_rules {
    double quiet_s;      // a series is complete when nothing came for so long and its sender has left
    double incomplete_s; // the same when something is known to be missing, and whatever the sender does
    int (*is_open)(void *user, const char *sender);              // it has an association open
    void (*made)(void *user, const struct spool_gathered *made); // may be NULL; before the rows are committed
    void *user;
};

// Series whose time has come become jobs: at once (but SPOOL_SETTLE_S) when they have as many images as
// Images in Acquisition (0020,1002) announces and no hole; when the sender has left, nothing is known to be
// missing and the archive said that it has as many (spool_told), twice after the last of them came and
// SPOOL_AGREE_S apart, since it may still be receiving itself; after quiet_s when nothing is known to be
// missing; else after incomplete_s. Missing is: fewer images than either count; a hole in the positions along
// a normal or in the Instance Numbers, that is a step of two or more times the usual one. What a series waits
// for stands in its note. *n_jobs counts them.
int spool_gather(struct spool *spool, const struct spool_rules *rules, int64_t now_us, size_t *n_jobs,
                 struct fault_note *why);

struct spool_question {
    char study_uid[UID_SIZE], series_uid[UID_SIZE];
};

// Series that gather, settled, of which the archive was not asked since their last object, not for half a
// minute, or not again SPOOL_AGREE_S after it first said what it says. At most `room`; *n of them.
int spool_to_ask(struct spool *spool, double quiet_s, int64_t now_us, struct spool_question *questions,
                 size_t room, size_t *n, struct fault_note *why);

// What the archive said: `n` images in that series, when asked at asked_us. -1: it does not know.
int spool_told(struct spool *spool, const char *series_uid, int64_t n, int64_t asked_us,
               struct fault_note *why);

// ---- quotas

// What a sender has taken: bytes kept in the 24 hours before `now_us`, and its series that gather, each told
// to `each`. What a clock that ran ahead dated in the future is left out: it would count for as long.
int spool_usage(struct spool *spool, const char *sender, int64_t now_us, int64_t *n_bytes, int64_t *n_open,
                void (*each)(void *user, const char *series_uid), void *user, struct fault_note *why);

// ---- jobs

struct spool_job {
    int64_t id;
    char series_uid[UID_SIZE];
    char sender[17];    // calling AE title of who sent its series last
    int64_t created_us; // dates and times of the derived objects
    int attempts;       // this one included
    int64_t steps;      // recorded step count, 0 when none yet, SR_NO_STEPS when time allowed none
    int generation;     // how often its results were withdrawn; other UIDs for each
    int64_t n_late; // of its objects, those that an earlier derived series lacks; the same in every attempt
    int64_t exhausted; // another that the same call HELD, 0: none. Set, too, when none was found
};

// The next job for `owner`, leased for lease_s; *found = 0 when there is none. A job whose lease ran out
// counts. One that was tried max_attempts times without an answer is HELD instead, one in a call:
// job->exhausted, which wants a line in the log.
int spool_job_take(struct spool *spool, const char *owner, double lease_s, int max_attempts, int64_t now_us,
                   struct spool_job *job, int *found, struct fault_note *why);

// Prolongs the lease. Errors: LEASE_LOST when the job is no longer this owner's.
int spool_job_renew(struct spool *spool, int64_t job, const char *owner, double lease_s, int64_t now_us,
                    struct fault_note *why);

// Paths of the job's files, [n]; *paths given to the caller (spool_free_paths). Errors: LOST_FILE, QUEUE,
// NO_MEMORY.
int spool_job_files(struct spool *spool, int64_t job, char ***paths, size_t *n, struct fault_note *why);
void spool_free_paths(char **paths, size_t n);

// Records the step count that a time budget became, so that the job done again takes the same.
int spool_job_set_steps(struct spool *spool, int64_t job, const char *owner, int64_t steps,
                        struct fault_note *why);

// What became of one stack of a job.
struct spool_result {
    enum fault verdict;         // FAULT_OK: derived
    char note[SPOOL_NOTE_SIZE]; // sentence: refusal with its numbers, or what was delivered
    int stack_index;
    char derived_name[SPOOL_NAME_SIZE]; // folder in derived/, empty when there is none
    char derived_uid[UID_SIZE];
    int64_t n_objects;
    int form;        // goes to the destinations that get this form,
    unsigned not_to; // but not to destination i where bit i is set
    int is_notice; // not a series, but says why there is none, which is its verdict; goes to the destinations
                   // that get notices
};

struct spool_destination {
    const char *name;
    int form; // whoever makes the results knows what it stands for
    int gets_notices;
};

// A notice that goes with a job's fault.
struct spool_notice {
    const struct spool_result *result;
    const struct spool_destination *destinations;
    size_t n_destinations;
};

// Ends a job in one transaction: its results, and a delivery of every derived series to every destination
// that gets its form and is not excepted. Done again, its new results stand for the old ones. Folders and
// reports of the job that are not of these results go, whoever made them. The job becomes DONE, REFUSED
// (nothing to process) or FAILED (a stack failed; what was derived is delivered all the same). Errors:
// LEASE_LOST, QUEUE.
int spool_job_finish(struct spool *spool, int64_t job, const char *owner, const struct spool_result *results,
                     size_t n_results, const struct spool_destination *destinations, size_t n_destinations,
                     int64_t now_us, struct fault_note *why);

// Gives a job back after a fault: TEMP -> WAITING from not_before_us on; anything else -> FAILED or, for a
// bug, HELD. FAULT_CANCELLED does not count as an attempt. `notice` (NULL: none) is delivered in the same
// transaction; of the same folder it stands for an earlier one.
int spool_job_return(struct spool *spool, int64_t job, const char *owner, const struct fault_note *fault,
                     const struct spool_notice *notice, int64_t not_before_us, int64_t now_us,
                     struct fault_note *why);

// ---- times

// By so much a time may lie ahead: a clock read before others were waited for.
enum { SPOOL_CLOCK_SLACK_S = 60 };

#define SPOOL_PAUSE_MAX_S 600.0  // of a job, before it is tried again
#define SPOOL_LEASE_MAX_S 8400.0 // no setting gives a longer one: a delivery's, 2 (600 + 3600) s

struct spool_longest {
    double pause_s, lease_s; // that the settings in force give
};

// Takes back what a clock that ran ahead and was put right left in the future and what would wait until then:
// changes to now, pauses and leases to the longest. A minute is let pass. *n_rows: of series, jobs,
// deliveries.
int spool_put_times_right(struct spool *spool, const struct spool_longest *longest, int64_t now_us,
                          size_t *n_rows, struct fault_note *why);

// ---- deliveries

struct spool_delivery {
    int64_t id;
    char destination[33];
    char folder[SPOOL_PATH_SIZE]; // of the derived series
    int64_t n_objects, n_confirmed;
    int attempts; // failed ones so far
    int64_t created_us;
    int is_asked; // it was asked to commit itself, and has not answered within its time
};

// The next delivery for `destination` that is due, leased.
int spool_delivery_take(struct spool *spool, const char *destination, const char *owner, double lease_s,
                        int64_t now_us, struct spool_delivery *delivery, int *found, struct fault_note *why);

// Gives back what senders to `destination` that are known to be gone still hold, where their lease ended
// before `before_us` (INT64_MAX: all of it).
int spool_delivery_reclaim(struct spool *spool, const char *destination, int64_t before_us,
                           struct fault_note *why);

// Says of a delivery that WAITS, "d5", what it waits for.
int spool_delivery_note(struct spool *spool, const char *id, const char *note, struct fault_note *why);

// Whether object `index` (0 ..) was confirmed by the destination already. Asked before each is sent. Errors:
// LEASE_LOST when the delivery is not being sent any more: its series came into conflict.
int spool_delivery_is_sent(struct spool *spool, int64_t delivery, int64_t index, int *sent,
                           struct fault_note *why);

// Records the destination's answer for one object and prolongs the lease.
int spool_delivery_record(struct spool *spool, int64_t delivery, const char *owner, int64_t index,
                          unsigned status, int confirmed, double lease_s, int64_t now_us,
                          struct fault_note *why);

// Ends an attempt: FAULT_OK -> SENT, with the text as note; TEMP -> WAITING until next_us; anything else ->
// HELD. `fault` may be NULL for OK.
int spool_delivery_end(struct spool *spool, int64_t delivery, const char *owner,
                       const struct fault_note *fault, int hold, int64_t next_us, int64_t now_us,
                       struct fault_note *why);

// ---- storage commitment of a destination: it is asked once every object was confirmed

// Records what it is about to be asked, `request` with its items in the order of the objects, before it is.
// Errors: LEASE_LOST.
int spool_delivery_ask(struct spool *spool, int64_t delivery, const char *owner,
                       const struct commitment *request, struct fault_note *why);

// It took that request: SENDING -> ASKED, and again due at until_us. What it told meanwhile stays so.
int spool_delivery_asked(struct spool *spool, int64_t delivery, const char *owner, int64_t until_us,
                         int64_t now_us, struct fault_note *why);

// The delivery of a transaction that waits for its outcome. *found = 0: none does, any more.
struct spool_promise {
    int64_t delivery;
    char destination[33];
    int attempts;
    int64_t created_us;
};
int spool_promise_find(struct spool *spool, const char *transaction_uid, struct spool_promise *promise,
                       int *found, struct fault_note *why);

// What the destination tells. All committed -> SENT. Else what it did not commit itself to counts as not sent
// any more, and the delivery is WAITING until next_us, or HELD when `hold` is set or a reason says that
// sending again will not help (0119, 0122). *n_missing counts, *is_held. Errors: LEASE_LOST when nothing
// waits for it.
int spool_promise_told(struct spool *spool, const struct spool_promise *promise,
                       const struct commitment *outcome, int hold, int64_t next_us, int64_t now_us,
                       size_t *n_missing, int *is_held, struct fault_note *why);

// ---- for people

// One line of `isoslice queue list`; texts borrowed during the call.
struct spool_row {
    char id[48];      // "j12", "d5", "s3", "c1795389718432163p8512-1"
    const char *kind; // "series", "job", "delivery", "commitment"
    const char *state;
    const char *uid;    // series UID (source for series and jobs, derived for deliveries), transaction UID
    const char *target; // sender or destination
    int64_t n_objects;
    int attempts;
    int64_t changed_us;
    const char *note;
};
typedef void (*spool_row_fn)(void *user, const struct spool_row *row);

// All rows, oldest first; `state` filters unless NULL. Errors: USAGE for a state that nothing can be in.
int spool_list(struct spool *spool, const char *state, spool_row_fn row, void *user, struct fault_note *why);

// How many things of a kind are in a state, and since when the oldest of them; texts borrowed.
struct spool_count {
    const char *kind, *state; // as in a row
    int64_t n, oldest_us;
    int is_stopped; // it goes on only when a person decides
};
// Those that are, kinds in the order of a list.
int spool_count(struct spool *spool, void (*each)(void *user, const struct spool_count *count), void *user,
                struct fault_note *why);

// Everything about one id, as "name: value" lines through `line`. Errors: NOT_FOUND.
int spool_show(struct spool *spool, const char *id,
               void (*line)(void *user, const char *name, const char *value), void *user,
               struct fault_note *why);

// A person's decisions. retry: a job or delivery that FAILED, was REFUSED or is HELD becomes WAITING at once
// (its attempts forgotten); a commitment that is HELD or WAITING is reported at once. hold: WAITING -> HELD.
// release: HELD -> WAITING; of a series in CONFLICT or FAILED: the first version stands; what the conflict
// held goes on, and it gathers again unless a job has all that is kept of it; a job of the same objects is
// taken up again, not made a second time. Errors: NOT_FOUND; USAGE when the state does not allow it, naming
// both, and for retry and release of a job or delivery whose series is in CONFLICT.
int spool_retry(struct spool *spool, const char *id, int64_t now_us, struct fault_note *why);
// A job that is DONE becomes WAITING, to be derived under UIDs that were never used: what it gave was
// withdrawn from an archive, which takes the old ones no more (IHE IOCM). Errors: as above.
int spool_anew(struct spool *spool, const char *id, int64_t now_us, struct fault_note *why);
int spool_hold(struct spool *spool, const char *id, int64_t now_us, struct fault_note *why);
int spool_release(struct spool *spool, const char *id, int64_t now_us, struct fault_note *why);

// A series is to go, with its jobs, what was derived and every file, whatever has become of it: nothing of it
// is done any more, and the next spool_purge_rest ends it. Errors: NOT_FOUND; USAGE for what is no series,
// and while a job of it is being done or a delivery sent.
int spool_remove(struct spool *spool, const char *id, int64_t now_us, struct fault_note *why);

// Goes on with purges that were begun and not ended: by a crash, or by a file that could not be removed.
// Their files are partly gone, so this comes before anything else is done with rows. *n_series counts. Where
// a file cannot be removed its series stays begun and the others go on; the first such fault is returned,
// with the series in its text. Errors: QUEUE, NO_MEMORY end it.
int spool_purge_rest(struct spool *spool, size_t *n_series, struct fault_note *why);

// The same; then forgets and deletes what was wholly delivered (or refused) longer than keep_days ago; 0: for
// ever. *n_series counts.
int spool_purge(struct spool *spool, int64_t keep_days, int64_t now_us, size_t *n_series,
                struct fault_note *why);

#endif
