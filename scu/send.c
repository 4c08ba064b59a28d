// SPDX-License-Identifier: Apache-2.0
//
// isoslice-send: one process per destination, so that a dead PACS delays nobody else.

#include "conf/conf.h"
#include "core/clock.h"
#include "core/daemon.h"
#include "core/log.h"
#include "core/notify.h"
#include "dicom_map/dcmtk/scp.h"
#include "scu/ask.h"
#include "scu/deliver.h"
#include "scu/report.h"
#include "spool/spool.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RESTART_S = 1, STOP_GRACE_S = 10 };
static const double orphans_interval_s = 60; // or the longest pause between attempts, if that is shorter

struct sender { // of deliveries to one destination, of commitment reports, or of questions
    const struct conf_destination *destination; // NULL: reports
    int asks;
    pid_t pid; // 0: not running
    double not_before_s;
    struct keeper keeper;
};

struct sending {
    struct conf conf;
    struct sender senders[CONF_MAX_DESTINATIONS + 2]; // as the destinations, then questions and reports
    size_t n_senders;
};

static const char *const reports_name = "commitment reports";

static void start(const struct conf *conf, struct sender *sender)
{
    sender->not_before_s = clock_monotonic_s() + RESTART_S;
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        log_error("cannot start the process that sends to '%s': %s; trying again", sender->keeper.whose,
                  strerror(errno));
    sender->pid = pid > 0 ? pid : 0;
    if (pid != 0)
        return;
    struct fault_note why;
    if (!daemon_follows(parent))
        _exit(0);
    int rc;
    if (sender->asks)
        rc = ask_run(conf, sender->destination, &sender->keeper, daemon_reload_asked, &daemon_stop, &why);
    else if (sender->destination != NULL)
        rc = deliver_run(conf, sender->destination, &sender->keeper, daemon_reload_asked, &daemon_stop, &why);
    else
        rc = report_run(conf, &sender->keeper, daemon_reload_asked, &daemon_stop, &why);
    if (rc != 0)
        log_error("sending to '%s' ended: %s: %s", sender->keeper.whose, fault_name((enum fault)rc),
                  why.text);
    _exit(rc == 0 ? 0 : 1);
}

struct orphans {
    const struct conf *conf;
    struct spool *spool;
    int hold; // else they are only noted
};

static const char *const orphan_note =
    "waits for nobody: isoslice-send was started with a configuration without this destination";

// A delivery whose destination is not in the configuration waits for nobody. At the start it is held; later
// it may be that the worker has read a newer file, which this program will at its next start.
static void tell_orphan(void *user, const struct spool_row *row)
{
    const struct orphans *orphans = user;
    struct fault_note why;
    int is_noted = strcmp(row->note, orphan_note) == 0;
    if (strcmp(row->kind, "delivery") != 0)
        return;
    if (conf_find_destination(orphans->conf, row->target) != NULL) {
        if (is_noted)
            spool_delivery_note(orphans->spool, row->id, "", &why); // its next attempt says more
        return;
    }
    if (orphans->hold) {
        if (spool_hold(orphans->spool, row->id, clock_wall_us(), &why) == 0)
            log_error("delivery %s is held: destination '%s' is not in the configuration", row->id,
                      row->target);
    } else if (!is_noted && spool_delivery_note(orphans->spool, row->id, orphan_note, &why) == 0) {
        log_error("delivery %s waits for nobody: destination '%s' is not in the configuration that "
                  "isoslice-send was started with; start it again",
                  row->id, row->target);
    }
}

// One that was being sent when its sender was killed, and whose destination then left the configuration: no
// sender of that name starts and takes it back. Until its lease is over, one of an earlier start may hold it.
static void reclaim_orphan(void *user, const struct spool_row *row)
{
    const struct orphans *orphans = user;
    struct fault_note why;
    if (strcmp(row->kind, "delivery") != 0 || conf_find_destination(orphans->conf, row->target) != NULL)
        return;
    if (spool_delivery_reclaim(orphans->spool, row->target, clock_wall_us(), &why) != 0)
        log_error("delivery %s: %s", row->id, why.text);
}

static int look_for_orphans(const struct conf *conf, int hold, struct fault_note *why)
{
    struct orphans orphans = {.conf = conf, .hold = hold};
    int rc = spool_open(conf->spool, &orphans.spool, why); // makes it where there is none
    if (rc != 0)
        return rc;
    rc = spool_list(orphans.spool, "SENDING", reclaim_orphan, &orphans, why);
    if (rc == 0)
        rc = spool_list(orphans.spool, "WAITING", tell_orphan, &orphans, why);
    if (rc == 0)
        rc = spool_list(orphans.spool, "ASKED", tell_orphan, &orphans, why);
    spool_close(orphans.spool); // before the next fork
    return rc;
}

// The parent keeps its own, for the processes it may have to start again; the others are asked to.
static void reload(struct sending *sending)
{
    struct fault_note why;
    for (size_t i = 0; i < sending->n_senders; i++) {
        struct sender *sender = &sending->senders[i];
        if (sender->keeper.credentials != NULL)
            credentials_refresh(&sender->keeper.credentials, clock_wall_us(), &why); // its process says how
        if (sender->pid > 0)
            kill(sender->pid, SIGHUP);
    }
}

static void signal_senders(const struct sending *sending, int number)
{
    for (size_t i = 0; i < sending->n_senders; i++)
        if (sending->senders[i].pid > 0)
            kill(sending->senders[i].pid, number);
}

// A peer that does not answer would hold up the stop for receive.dimse_timeout_s, and whoever asked for it
// would end everything first. What is killed in the middle is taken again at the next start.
static void stop_senders(struct sending *sending)
{
    double until_s = clock_monotonic_s() + STOP_GRACE_S;
    pid_t pid;
    signal_senders(sending, SIGTERM);
    while ((pid = waitpid(-1, NULL, WNOHANG)) >= 0) {
        for (size_t i = 0; i < sending->n_senders && pid > 0; i++)
            if (sending->senders[i].pid == pid)
                sending->senders[i].pid = 0;
        if (pid > 0)
            continue;
        if (clock_monotonic_s() > until_s) {
            log_warning("stopped while a peer had not answered for %d s", STOP_GRACE_S);
            signal_senders(sending, SIGKILL);
            until_s = INFINITY;
        }
        usleep(50 * 1000);
    }
}

static int run(void *user, struct fault_note *why)
{
    struct sending *sending = user;
    const struct conf *conf = &sending->conf;
    struct sender *senders = sending->senders;
    const double interval_s = fmin(orphans_interval_s, fmax(1, conf->retry_max_s));
    double next_s = clock_monotonic_s() + interval_s;
    int rc = look_for_orphans(conf, 1, why);
    if (rc != 0)
        return rc;
    if (conf->n_destinations == 0)
        log_warning("no destination is configured: derived series stay in the spool");
    log_info("sending to %zu destinations", conf->n_destinations);
    notify_manager("READY=1");
    while (!daemon_stop) {
        int status;
        pid_t pid;
        for (size_t i = 0; i < sending->n_senders; i++)
            if (senders[i].pid == 0 && clock_monotonic_s() >= senders[i].not_before_s)
                start(conf, &senders[i]);
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
            for (size_t i = 0; i < sending->n_senders; i++)
                if (senders[i].pid == pid) {
                    senders[i].pid = 0;
                    log_error("the process that sends to '%s' ended (status 0x%x); starting it again",
                              senders[i].keeper.whose, (unsigned)status);
                }
        if (daemon_reload_asked())
            reload(sending);
        if (clock_monotonic_s() >= next_s) {
            next_s = clock_monotonic_s() + interval_s;
            if (look_for_orphans(conf, 0, why) != 0)
                log_error("looking for deliveries without a destination: %s", why->text);
        }
        notify_manager("WATCHDOG=1");
        usleep(200 * 1000);
    }
    notify_manager("STOPPING=1");
    stop_senders(sending);
    return 0;
}

static int load_destination(struct sending *sending, const struct conf_destination *destination, int asks,
                            uid_t user, struct fault_note *why)
{
    struct sender *sender = &sending->senders[sending->n_senders++];
    sender->destination = destination;
    sender->asks = asks;
    sender->keeper.whose = destination->name;
    return deliver_credentials(&sending->conf, destination, user, &sender->keeper.credentials, why);
}

static int load_reports(struct sending *sending, uid_t user, struct fault_note *why)
{
    struct keeper *keeper = &sending->senders[sending->n_senders++].keeper;
    int with_tls = 0;
    keeper->whose = reports_name;
    for (size_t i = 0; i < sending->conf.n_senders; i++)
        with_tls = with_tls || sending->conf.senders[i].report_tls;
    if (!with_tls)
        return 0;
    struct credentials_files files = conf_node_files(&sending->conf, user);
    return credentials_load(&files, &keeper->credentials, why);
}

static int load(void *user, const char *path, struct daemon_settings *settings, struct fault_note *why)
{
    struct sending *sending = user;
    int rc = conf_load_daemon(&sending->conf, path, settings, why);
    if (rc == 0)
        rc = dcm_network_init(why);
    uid_t user_id = settings->user.uid;
    for (size_t i = 0; i < sending->conf.n_destinations && rc == 0; i++)
        rc = load_destination(sending, &sending->conf.destinations[i], 0, user_id, why);
    for (size_t i = 0; i < sending->conf.n_destinations && rc == 0; i++)
        if (sending->conf.destinations[i].query)
            rc = load_destination(sending, &sending->conf.destinations[i], 1, user_id, why);
    return rc == 0 && sending->conf.commitment ? load_reports(sending, user_id, why) : rc;
}

int main(int argc, char **argv)
{
    static struct sending sending;
    const struct daemon daemon = {
        .name = "isoslice-send",
        .purpose = "Storage SCU: sends derived series to every configured destination.",
        .rereads = 1,
        .load = load,
        .run = run,
        .user = &sending,
    };
    int exit_code = daemon_main(argc, argv, &daemon);
    for (size_t i = 0; i < sending.n_senders; i++)
        credentials_free(sending.senders[i].keeper.credentials);
    return exit_code;
}
