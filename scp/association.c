// SPDX-License-Identifier: Apache-2.0
#include "scp/association.h"

#include "core/clock.h"
#include "core/confine.h"
#include "core/file.h"
#include "core/log.h"
#include "dicom_map/dcmtk/scp.h"
#include "scp/commitment.h"
#include "scp/object.h"
#include "scp/quota.h"
#include "spool/commitment.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_REQUESTS = 1000 }; // of storage commitment, in one association

struct association {
    const struct association_request *request;
    char name[64];   // of the folder
    int incoming_fd; // the folder of all, to sync its name; -1: done
    struct object object;
    struct quota quota;
    char object_uid[UID_SIZE]; // as the command has it
    unsigned n_stored, n_failed;
    char sender[17];
    int n_requests, n_told; // of storage commitment: numbers 1 .. n_requests; up to n_told the peer was told
    int n_reports;          // that it told us
    double until_s;         // it may last; monotonic
};

// Only tells the indexer who has an association open.
static int write_sender(const char *calling_ae, struct fault_note *why)
{
    int fd = file_ops.open(ASSOCIATION_SENDER_FILE, O_WRONLY | O_CREAT, 0600);
    if (fd < 0)
        return fault_set_errno(why, errno, "cannot create '%s'", ASSOCIATION_SENDER_FILE);
    int rc = file_write_all(fd, calling_ae, strlen(calling_ae), ASSOCIATION_SENDER_FILE, why);
    if (file_ops.close(fd) != 0 && rc == 0)
        rc = fault_set_errno(why, errno, "cannot close '%s'", ASSOCIATION_SENDER_FILE);
    return rc;
}

static int keep_to_folder(const char *folder, struct fault_note *why)
{
    int rules;
    int rc = confine_files_begin(&rules, why);
    if (rc == 0)
        rc = confine_files_add(rules, folder, CONFINE_WRITE, why);
    return rc == 0 ? confine_files_enforce(rules, why) : rc;
}

// Gives up all that receiving does not need, before the peer's first byte is read. Memory: what the program
// takes, and the largest object, which is mapped as a whole to be scanned.
static int confine(const struct association_request *request, int64_t max_bytes, struct fault_note *why)
{
    const struct confine_limits limits = {
        .memory_bytes = ((uint64_t)256 << 20) + (uint64_t)max_bytes,
        .file_bytes = (uint64_t)max_bytes + (1 << 20),
        .n_files = 64,
    };
    int rc = confine_resources(&limits, why);
    if (rc == 0)
        rc = confine_privileges(why);
    if (rc == 0)
        rc = keep_to_folder(request->incoming, why);
    if (rc == 0)
        rc = confine_calls(CONFINE_RECEIVER, why);
    return rc;
}

// ---- time limits: when one is over the connection is shut, and what reads from it ends in order

enum { CLEANUP_S = 5 };
static int alarm_socket = -1;
static volatile sig_atomic_t is_late;

static void on_alarm(int number)
{
    (void)number;
    static const struct linger reset = {.l_onoff = 1}; // or a peer that only writes would wait for ever
    is_late = 1;
    setsockopt(alarm_socket, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    shutdown(alarm_socket, SHUT_RDWR);
    signal(SIGALRM, SIG_DFL); // for what does not end in order
    alarm(CLEANUP_S);
}

static void peer_is_due(void *user, int is_due)
{
    const struct association *association = user;
    double left_s = association->until_s - clock_monotonic_s();
    double limit_s = association->request->conf->dimse_timeout_s + 1; // those of single reads come first
    if (is_due && limit_s < left_s)
        left_s = limit_s;
    if (!is_late)
        alarm(left_s > 1 ? (unsigned)ceil(left_s) : 1);
}

// Makes, locks and enters the folder of this association, and gives up everything else. The folder gets the
// name that the indexer looks for once it is locked: unlocked and empty it would be taken for a finished one
// and removed. Nothing is synced yet: most associations that only ask for an echo never need it.
static int enter_folder(struct association *association, const struct dcm_peer *peer, struct fault_note *why)
{
    char hidden[CONF_PATH_SIZE + 128], path[CONF_PATH_SIZE + 128];
    const char *incoming = association->request->incoming;
    snprintf(association->name, sizeof association->name, "a%lldp%d", (long long)clock_wall_us(),
             (int)getpid());
    snprintf(hidden, sizeof hidden, "%s/.%s", incoming, association->name);
    int rc = file_join(path, sizeof path, incoming, association->name, why);
    if (rc != 0)
        return rc;
    association->incoming_fd = open(incoming, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (association->incoming_fd < 0 || file_ops.mkdir(hidden, 0700) != 0)
        return fault_set_errno(why, errno, "cannot make '%s'", hidden);
    int fd =
        open(hidden, O_RDONLY | O_DIRECTORY | O_CLOEXEC); // held, and so the lock, until the process ends
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0 || chdir(hidden) != 0)
        return fault_set_errno(why, errno, "cannot enter '%s'", hidden);
    rc = write_sender(peer->calling_ae, why);
    if (rc == 0 && file_ops.rename(hidden, path) != 0)
        rc = fault_set_errno(why, errno, "cannot rename '%s'", hidden);
    if (rc == 0)
        rc = keep_to_folder(".", why);
    return rc;
}

// Before the first thing that is kept: the folder's own name.
static int sync_folder(struct association *association, struct fault_note *why)
{
    if (association->incoming_fd < 0)
        return 0;
    if (file_ops.fsync(association->incoming_fd) != 0)
        return fault_set_errno(why, errno, "cannot sync the folder of associations");
    close(association->incoming_fd);
    association->incoming_fd = -1;
    return 0;
}

// Among the listed senders of this AE title and address, one whose certificate it is.
static enum dcm_answer find_sender(const struct association_request *request, const struct dcm_peer *peer,
                                   const struct conf_sender **found)
{
    const struct conf *conf = request->conf;
    const struct conf_sender *sender = NULL;
    enum dcm_answer answer = DCM_ANSWER_CALLING_UNKNOWN;
    while ((*found = sender = conf_find_sender(conf, peer->calling_ae, request->address, sender)) != NULL) {
        if (!conf_sender_is_pinned(sender))
            return DCM_ANSWER_ACCEPT;
        if (peer->certificate == NULL)
            answer = DCM_ANSWER_NEEDS_TLS;
        else if (credentials_peer_is(peer->certificate, sender->certificate_sha256, sender->certificate_name))
            return DCM_ANSWER_ACCEPT;
        else
            answer = DCM_ANSWER_OTHER_CERTIFICATE;
    }
    return answer;
}

static enum dcm_answer associate(void *user, const struct dcm_peer *peer, struct fault_note *why)
{
    struct association *association = user;
    const struct association_request *request = association->request;
    const struct conf *conf = request->conf;
    const struct conf_sender *sender;
    if (strcmp(peer->called_ae, conf->ae_title) != 0)
        return DCM_ANSWER_CALLED_UNKNOWN;
    enum dcm_answer answer = find_sender(request, peer, &sender);
    if (answer != DCM_ANSWER_ACCEPT)
        return answer;
    if (request->is_full)
        return DCM_ANSWER_LOCAL_LIMIT;
    int rc = object_disk_is_low(request->incoming, &association->object.limits, why);
    if (rc == 0)
        rc = quota_begin(&association->quota, sender, request->incoming, why);
    if (rc == 0 && (rc = enter_folder(association, peer, why)) != 0) {
        char hidden[CONF_PATH_SIZE + 128];
        snprintf(hidden, sizeof hidden, "%s/.%s", request->incoming, association->name);
        file_remove_tree(hidden, NULL); // else the indexer does, some time
        association->name[0] = '\0';
    }
    if (rc != 0)
        return DCM_ANSWER_CONGESTION;
    snprintf(association->sender, sizeof association->sender, "%s", peer->calling_ae);
    association->until_s = clock_monotonic_s() + conf->association_limit_s;
    peer_is_due(association, 0);
    log_info("association %s from '%s'%s", association->name, peer->calling_ae,
             peer->certificate ? " with TLS" : "");
    return DCM_ANSWER_ACCEPT;
}

static struct object_command command_of(const struct dcm_store_request *request)
{
    return (struct object_command){
        .sop_class_uid = request->sop_class_uid,
        .sop_instance_uid = request->sop_instance_uid,
        .transfer_syntax = request->transfer_syntax,
        .calling_ae = request->peer->calling_ae,
    };
}

static int refuse_object(const struct association *association, const char *uid, const struct fault_note *why)
{
    log_warning("association %s: object '%s' refused: %s: %s", association->name,
                uid_is_valid(uid) ? uid : "(no valid UID)", fault_name(why->fault), why->text);
    return (int)why->fault;
}

static int admit(void *user, const char *series_uid, struct fault_note *why)
{
    struct association *association = user;
    return quota_admit(&association->quota, series_uid, why);
}

static int store_begin(void *user, const struct dcm_store_request *request, struct fault_note *why)
{
    struct association *association = user;
    struct object_command command = command_of(request);
    int rc = 0;
    if (!uid_is_valid(request->sop_instance_uid))
        rc = fault_set(why, FAULT_BAD_UID, "bad Affected SOP Instance UID");
    else if (strcmp(request->sop_class_uid, request->context_class) != 0)
        rc = fault_set(why, FAULT_SOP_MISMATCH, "SOP class is not that of the presentation context");
    else
        rc = quota_check(&association->quota, why);
    if (rc == 0)
        rc = sync_folder(association, why);
    if (rc == 0)
        rc = object_begin(&association->object, &command, why);
    snprintf(association->object_uid, sizeof association->object_uid, "%s", request->sop_instance_uid);
    if (rc != 0) {
        association->n_failed++;
        refuse_object(association, request->sop_instance_uid, why);
    }
    return rc;
}

static int store_data(void *user, const void *data, size_t size, struct fault_note *why)
{
    struct association *association = user;
    int rc = quota_fits(&association->quota, association->object.n_bytes + (int64_t)size, why);
    if (rc == 0)
        rc = object_write(&association->object, data, size, why);
    return rc == 0 ? 0 : refuse_object(association, association->object_uid, why);
}

static int store_end(void *user, const struct dcm_store_request *request, struct fault_note *why)
{
    struct association *association = user;
    struct object_command command = command_of(request);
    int rc = object_commit(&association->object, &command, why);
    if (rc == 0) {
        association->n_stored++;
        quota_count(&association->quota, association->object.number, association->object.n_bytes);
    } else
        refuse_object(association, request->sop_instance_uid, why);
    return rc;
}

static void store_cancel(void *user)
{
    struct association *association = user;
    association->n_failed++;
    object_cancel(&association->object);
}

static void store_settle(void *user)
{
    struct association *association = user;
    object_settle(&association->object);
}

// Makes a file of what the peer asks or tells, durable when it returns 0.
static int keep_commitment(struct association *association, const struct commitment *content, int *number,
                           const char *suffix, struct fault_note *why)
{
    uint32_t address = association->request->address;
    char path[32];
    if (*number >= MAX_REQUESTS)
        return fault_set(why, FAULT_TOO_LARGE, "more than %d of them in one association", MAX_REQUESTS);
    if (object_disk_is_low(".", &association->object.limits, why) != 0)
        return FAULT_NO_SPACE;
    struct spool_commitment file = {
        .state = SPOOL_COMMITMENT_CHECKING, .created_us = clock_wall_us(), .request = *content};
    file.changed_us = file.created_us;
    snprintf(file.sender, sizeof file.sender, "%s", association->sender);
    snprintf(file.address, sizeof file.address, "%u.%u.%u.%u", address >> 24, address >> 16 & 255u,
             address >> 8 & 255u, address & 255u);
    snprintf(path, sizeof path, "%d%s", ++*number, suffix);
    int rc = sync_folder(association, why);
    return rc == 0 ? spool_commitment_write(path, &file, why) : rc;
}

static int commit_request(void *user, const struct commitment *request, int *number, struct fault_note *why)
{
    struct association *association = user;
    int rc = keep_commitment(association, request, &association->n_requests, COMMITMENT_REQUEST_SUFFIX, why);
    *number = association->n_requests;
    if (rc != 0)
        log_warning("association %s: commitment request refused: %s", association->name, why->text);
    return rc;
}

static int commit_told(void *user, const struct commitment *outcome, struct fault_note *why)
{
    struct association *association = user;
    int rc = keep_commitment(association, outcome, &association->n_reports, COMMITMENT_TOLD_SUFFIX, why);
    if (rc != 0)
        log_warning("association %s: commitment report refused: %s", association->name, why->text);
    return rc;
}

// The indexer writes an outcome beside the request that it took away.
static int commit_outcome(void *user, int *number, struct commitment *outcome)
{
    struct association *association = user;
    for (int i = association->n_told + 1; i <= association->n_requests; i++) {
        char path[32];
        struct spool_commitment file;
        snprintf(path, sizeof path, "%d%s", i, COMMITMENT_OUTCOME_SUFFIX);
        if (access(path, F_OK) != 0 || spool_commitment_read(path, &file, NULL) != 0)
            continue;
        *outcome = file.request; // its items with it
        *number = i;
        association->n_told = i;
        return 1;
    }
    return 0;
}

static void commit_reported(void *user, int number)
{
    struct association *association = user;
    struct fault_note why;
    char path[32];
    snprintf(path, sizeof path, "%d%s", number, COMMITMENT_REPORTED_SUFFIX);
    if (file_write_atomic(path, "", 0, &why) != 0) // then it is reported once more
        log_warning("association %s: %s", association->name, why.text);
}

// Whether any destination is asked to commit itself.
static int is_reported_to(const struct conf *conf)
{
    for (size_t i = 0; i < conf->n_destinations; i++)
        if (conf_asks_commitment(conf, &conf->destinations[i]))
            return 1;
    return 0;
}

int association_serve(int fd, const struct association_request *request)
{
    const struct conf *conf = request->conf;
    struct association association = {
        .request = request,
        .incoming_fd = -1,
        .object = {.fd = -1,
                   .limits = {.max_bytes = conf->max_object_mb << 20,
                              .max_enhanced_bytes = conf->max_enhanced_mb << 20,
                              .reserve_bytes = conf->disk_reserve_mb << 20}},
    };
    association.object.limits.admit = admit;
    association.object.limits.admit_user = &association;
    struct dcm_scp_options options = {.commitment = conf->commitment,
                                      .reports = is_reported_to(conf),
                                      .acse_timeout_s = conf->acse_timeout_s,
                                      .dimse_timeout_s = conf->dimse_timeout_s,
                                      .credentials = request->credentials};
    struct dcm_scp_callbacks callbacks = {
        .user = &association,
        .associate = associate,
        .peer_is_due = peer_is_due,
        .store_begin = store_begin,
        .store_data = store_data,
        .store_end = store_end,
        .store_cancel = store_cancel,
        .store_settle = store_settle,
        .commit_request = commit_request,
        .commit_outcome = commit_outcome,
        .commit_reported = commit_reported,
        .commit_told = commit_told,
    };
    struct fault_note why = {0};
    signal(SIGXFSZ, SIG_IGN); // EFBIG instead
    alarm_socket = dup(fd);   // DCMTK closes its own
    signal(SIGALRM, on_alarm);
    alarm((unsigned)ceil(conf->acse_timeout_s * (request->credentials ? 2 : 1)) + 1);
    int rc = confine(request, conf_largest_object(conf), &why);
    if (rc != 0) {
        log_error("association dropped: cannot confine its process: %s", why.text);
        close(fd);
        return rc;
    }
    rc = dcm_scp_serve(fd, &options, &callbacks, &why);
    object_finish(&association.object);
    if (rc != 0 && is_late)
        rc = fault_set(&why, FAULT_TIMEOUT, "the peer was not done within its time: %s",
                       association.until_s == 0                         ? "receive.acse_timeout_s"
                       : clock_monotonic_s() + 1 >= association.until_s ? "receive.association_limit_s"
                                                                        : "receive.dimse_timeout_s");
    quota_done(&association.quota);
    const char *name = association.name;
    if (rc != 0 && name[0] == '\0')
        log_warning("no association with %u.%u.%u.%u: %s: %s", request->address >> 24,
                    request->address >> 16 & 255u, request->address >> 8 & 255u, request->address & 255u,
                    fault_name((enum fault)rc), why.text);
    else if (rc != 0)
        log_warning("association %s ended: %s: %s; %u stored, %u failed", name, fault_name((enum fault)rc),
                    why.text, association.n_stored, association.n_failed);
    else
        log_info("association %s released: %u stored, %u failed", name, association.n_stored,
                 association.n_failed);
    return rc;
}
