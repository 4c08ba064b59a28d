// SPDX-License-Identifier: Apache-2.0
#include "scu/report.h"

#include "core/clock.h"
#include "core/file.h"
#include "core/log.h"
#include "dicom_map/dcmtk/scu.h"
#include "scu/deliver.h"
#include "spool/commitment.h"

#include <arpa/inet.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { POLL_MS = 300 };

struct reporter {
    const struct conf *conf;
    struct keeper *keeper;
    volatile int *stop;
    int is_start; // the held ones get another chance, as the configuration may be another
    // Whom a report could not be told is left alone for a while, whatever waits for it: one that does not
    // answer then delays the others by one attempt (connect_timeout_s and dimse_timeout_s) in a pause.
    struct target {
        char sender[17];
        int n_failed; // in a row
        double not_before_s;
    } targets[CONF_MAX_SENDERS];
};

// The sender's entry, or a free one, or NULL.
static struct target *find_target(struct reporter *reporter, const char *sender)
{
    struct target *target = reporter->targets, *end = target + CONF_MAX_SENDERS;
    while (target < end && target->sender[0] != '\0' && strcmp(target->sender, sender) != 0)
        target++;
    if (target == end)
        return NULL;
    snprintf(target->sender, sizeof target->sender, "%s", sender);
    return target;
}

static void note_attempt(struct reporter *reporter, const char *sender, int failed)
{
    struct target *target = find_target(reporter, sender);
    if (target == NULL)
        return;
    target->not_before_s = failed ? clock_monotonic_s() + conf_pause_s(reporter->conf, target->n_failed) : 0;
    target->n_failed = failed ? target->n_failed + 1 : 0;
}

// For how many seconds yet.
static double left_alone_s(struct reporter *reporter, const char *sender)
{
    const struct target *target = find_target(reporter, sender);
    return target != NULL ? fmax(0, target->not_before_s - clock_monotonic_s()) : 0;
}

// The entry to report by: one of that AE title whose network the request came from, else any of that title,
// since a peer may be called at another address than it calls from.
static const struct conf_sender *find_route(const struct conf *conf,
                                            const struct spool_commitment *commitment)
{
    struct in_addr address = {0};
    const struct conf_sender *sender = NULL;
    inet_pton(AF_INET, commitment->address, &address);
    while ((sender = conf_find_sender(conf, commitment->sender, ntohl(address.s_addr), sender)) != NULL)
        if (sender->report_port != 0)
            return sender;
    for (size_t i = 0; i < conf->n_senders; i++)
        if (conf->senders[i].report_port != 0 && strcmp(conf->senders[i].ae_title, commitment->sender) == 0)
            return &conf->senders[i];
    return NULL;
}

static int send_report(const struct reporter *reporter, const struct conf_sender *sender,
                       const struct spool_commitment *commitment, struct fault_note *why)
{
    const struct conf *conf = reporter->conf;
    struct dcm_scu *scu = NULL;
    struct dcm_scu_options options = {
        .calling_ae = conf->ae_title,
        .called_ae = commitment->sender,
        .host = sender->report_host[0] != '\0' ? sender->report_host : commitment->address,
        .port = sender->report_port,
        .connect_timeout_s = conf->connect_timeout_s,
        .dimse_timeout_s = conf->dimse_timeout_s,
        .credentials = sender->report_tls ? reporter->keeper->credentials : NULL,
        .certificate_sha256 = sender->certificate_sha256,
        .certificate_name = sender->certificate_name,
        .is_report = 1,
    };
    int rc = sender->report_tls ? keeper_check(reporter->keeper, why) : 0;
    if (rc == 0)
        rc = dcm_scu_open(&options, &scu, why);
    if (rc == 0)
        rc = dcm_scu_report(scu, &commitment->request, why);
    dcm_scu_close(scu);
    return rc;
}

static int end(const char *path, const char *name, const struct spool_commitment *commitment,
               struct fault_note *why)
{
    if (file_ops.unlink(path) != 0) // told once more then
        return fault_set(why, FAULT_IO, "cannot remove '%s'", path);
    log_info("commitment %.*s: reported to '%s'", (int)strcspn(name, "."), name, commitment->sender);
    return 0;
}

// Notes a failed attempt: again later, or given up.
static int postpone(const struct reporter *reporter, const char *path, const char *name,
                    struct spool_commitment *commitment, const struct fault_note *fault, int hold,
                    struct fault_note *why)
{
    const struct conf *conf = reporter->conf;
    int64_t now_us = clock_wall_us();
    commitment->not_before_us = now_us + (int64_t)(1e6 * conf_pause_s(conf, commitment->attempts));
    commitment->attempts++;
    if ((double)(commitment->not_before_us - commitment->created_us) > conf->give_up_h * 3600e6)
        hold = 1;
    commitment->state = hold ? SPOOL_COMMITMENT_HELD : SPOOL_COMMITMENT_WAITING;
    commitment->changed_us = now_us;
    snprintf(commitment->note, sizeof commitment->note, "%s: %s", fault_name(fault->fault), fault->text);
    if (hold)
        log_error("commitment %.*s of '%s' is held: %s", (int)strcspn(name, "."), name, commitment->sender,
                  fault->text);
    else
        log_warning("commitment %.*s: report to '%s' will be tried again: %s", (int)strcspn(name, "."), name,
                    commitment->sender, fault->text);
    return spool_commitment_write(path, commitment, why);
}

// What the indexer does not write any more.
static int is_ours(const struct spool_commitment *commitment)
{
    return commitment->state == SPOOL_COMMITMENT_WAITING || commitment->state == SPOOL_COMMITMENT_HELD;
}

static int one_request(void *user, const char *path, const char *name, double *idle_s, struct fault_note *why)
{
    struct reporter *reporter = user;
    struct spool_commitment commitment;
    struct fault_note fault = {0};
    if (*reporter->stop || spool_commitment_read(path, &commitment, &fault) != 0)
        return 0; // the indexer says what cannot be read
    int64_t now_us = clock_wall_us();
    int rc = 0;
    if (is_ours(&commitment) &&
        spool_commitment_put_times_right(&commitment, reporter->conf->retry_max_s, now_us))
        rc = spool_commitment_write(path, &commitment, why);
    int is_due = commitment.state == SPOOL_COMMITMENT_WAITING && commitment.not_before_us <= now_us;
    if (rc == 0 && commitment.state == SPOOL_COMMITMENT_HELD && reporter->is_start) {
        is_due = 1;
        commitment.attempts = 0;
        commitment.created_us = now_us; // of the new chance
        commitment.state = SPOOL_COMMITMENT_WAITING;
        rc = spool_commitment_write(path, &commitment, why);
    }
    if (!is_due && commitment.state == SPOOL_COMMITMENT_HELD && reporter->conf->keep_days > 0 &&
        now_us - commitment.changed_us > reporter->conf->keep_days * 86400 * 1000000) {
        if (file_ops.unlink(path) == 0)
            log_info("commitment %.*s of '%s' is forgotten: held for %lld days", (int)strcspn(name, "."),
                     name, commitment.sender, (long long)reporter->conf->keep_days);
    } else if (!is_due) {
        *idle_s = commitment.state == SPOOL_COMMITMENT_WAITING
                      ? (double)(commitment.not_before_us - now_us) / 1e6
                      : INFINITY;
    } else if (rc == 0 && (*idle_s = left_alone_s(reporter, commitment.sender)) == 0) {
        const struct conf_sender *sender = find_route(reporter->conf, &commitment);
        if (sender == NULL) {
            fault_set(&fault, FAULT_CONFIG, "no entry of this sender has a report_port");
            rc = postpone(reporter, path, name, &commitment, &fault, 1, why);
        } else if (send_report(reporter, sender, &commitment, &fault) == 0) {
            note_attempt(reporter, commitment.sender, 0);
            rc = end(path, name, &commitment, why);
        } else {
            note_attempt(reporter, commitment.sender, 1);
            rc = postpone(reporter, path, name, &commitment, &fault, 0, why);
        }
    }
    spool_commitment_done(&commitment);
    return rc;
}

int report_run(const struct conf *conf, struct keeper *keeper, int (*reload_asked)(void), volatile int *stop,
               struct fault_note *why)
{
    struct spool *spool = NULL;
    struct spool_idle idle = {0};
    struct reporter reporter = {.conf = conf, .keeper = keeper, .stop = stop, .is_start = 1};
    int rc = spool_open(conf->spool, &spool, why);
    int lock = rc == 0 ? deliver_lock(conf, "reports", why) : -1;
    if (rc == 0 && lock < 0)
        rc = lock;
    while (rc == 0 && !*stop) {
        keeper_tick(keeper, reload_asked());
        if (spool_commitment_round(spool, &idle, clock_monotonic_s(), one_request, &reporter, why) != 0) {
            log_error("reporting storage commitment: %s", why->text);
            usleep(1000 * 1000);
        }
        reporter.is_start = 0;
        usleep(POLL_MS * 1000);
    }
    spool_idle_done(&idle);
    if (lock >= 0)
        close(lock);
    spool_close(spool);
    return rc;
}
