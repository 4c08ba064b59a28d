// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"
#include "conf/conf.h"
#include "core/clock.h"
#include "core/file.h"
#include "core/version.h"
#include "spool/spool.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void print_help(void)
{
    puts("usage: isoslice queue [--config FILE] list [STATE]\n"
         "       isoslice queue [--config FILE] status|metrics\n"
         "       isoslice queue [--config FILE] show|retry|anew|hold|release|remove ID ...\n\n"
         "list     every series (s1, ...), job (j1, ...), delivery (d1, ...) and storage commitment that a "
         "sender\n"
         "         asked for (c<time>-<number>), or those in STATE\n"
         "status   how many there are in each state, and since when the oldest of them; for who watches a "
         "node\n"
         "metrics  the same, the age of the oldest, and the space left, as Prometheus reads it (its text "
         "format), "
         "states\n"
         "         without any with 0; nothing in it tells of a patient\n"
         "show     everything about one\n"
         "retry    do a job, a delivery or a commitment's report again, now\n"
         "anew     do a job that is DONE again, under new UIDs: when what it gave was withdrawn from an "
         "archive,\n"
         "         which does not take the old ones back\n"
         "hold     keep a waiting job or delivery from being done\n"
         "release  let a held one go on; of a series in CONFLICT: the first version of its images stands,\n"
         "         and what was held for it is sent; until then nothing of it can be retried or released\n"
         "remove   take a series out of the spool, with its jobs, deliveries and every file, wherever it "
         "stands;\n"
         "         isoslice-receive does it within seconds. What destinations have got stays there\n\n"
         "States: series GATHERING QUEUED CONFLICT FAILED; jobs WAITING LEASED DONE REFUSED FAILED HELD;\n"
         "deliveries WAITING SENDING ASKED SENT HELD; commitments CHECKING OFFERED WAITING HELD.\n\n"
         "  --config FILE  default " COMMAND_CONFIG_FILE "\n\n"
         "Exit code: 0 done; 1 fault; 2 usage; of status also 3: something waits for a person (HELD, FAILED, "
         "CONFLICT).");
}

static void print_row(void *user, const struct spool_row *row)
{
    char changed[25];
    clock_iso(row->changed_us, changed);
    if (++*(size_t *)user == 1)
        printf("%-6s %-10s %-9s %6s %5s  %-24s %-16s %s\n", "ID", "KIND", "STATE", "IMAGES", "TRIES",
               "CHANGED", "WITH", "SERIES / NOTE");
    printf("%-6s %-10s %-9s %6lld %5d  %-24s %-16.16s %s\n", row->id, row->kind, row->state,
           (long long)row->n_objects, row->attempts, changed, row->target, row->uid);
    if (row->note[0] != '\0')
        printf("       %s\n", row->note);
}

static void print_line(void *user, const char *name, const char *value)
{
    (void)user;
    printf("%-16s %s\n", name, value);
}

struct status {
    size_t n_lines;
    int64_t n_stopped;
};

static void print_count(void *user, const struct spool_count *count)
{
    struct status *status = user;
    char oldest[25];
    clock_iso(count->oldest_us, oldest);
    if (++status->n_lines == 1)
        printf("%-10s %-9s %8s  %s\n", "KIND", "STATE", "NUMBER", "OLDEST SINCE");
    printf("%-10s %-9s %8lld  %s\n", count->kind, count->state, (long long)count->n, oldest);
    status->n_stopped += count->is_stopped ? count->n : 0;
}

// The exit code: 3 when something waits for a person.
static int print_status(struct spool *spool, struct fault_note *why)
{
    struct status status = {0};
    if (spool_count(spool, print_count, &status, why) != 0)
        return command_fault("queue", why);
    printf("waiting for a person: %lld\n", (long long)status.n_stopped);
    return status.n_stopped > 0 ? 3 : 0;
}

// ---- metrics

// Every state there is, so that one that nobody is in says 0 rather than nothing.
static const struct {
    const char *kind, *state;
} all_states[] = {
    {"series", "GATHERING"},   {"series", "QUEUED"},      {"series", "CONFLICT"},  {"series", "FAILED"},
    {"job", "WAITING"},        {"job", "LEASED"},         {"job", "DONE"},         {"job", "REFUSED"},
    {"job", "FAILED"},         {"job", "HELD"},           {"delivery", "WAITING"}, {"delivery", "SENDING"},
    {"delivery", "ASKED"},     {"delivery", "SENT"},      {"delivery", "HELD"},    {"commitment", "CHECKING"},
    {"commitment", "OFFERED"}, {"commitment", "WAITING"}, {"commitment", "HELD"}};
enum { N_STATES = sizeof all_states / sizeof all_states[0] };

struct metrics {
    int64_t n[N_STATES], oldest_us[N_STATES], n_stopped;
};

static void take_count(void *user, const struct spool_count *count)
{
    struct metrics *metrics = user;
    for (size_t i = 0; i < N_STATES; i++)
        if (strcmp(count->kind, all_states[i].kind) == 0 && strcmp(count->state, all_states[i].state) == 0) {
            metrics->n[i] = count->n;
            metrics->oldest_us[i] = count->oldest_us;
        }
    metrics->n_stopped += count->is_stopped ? count->n : 0;
}

static void print_family(const char *name, const char *help)
{
    printf("# HELP %s %s\n# TYPE %s gauge\n", name, help, name);
}

// Source: the text-based exposition format of Prometheus, version 0.0.4.
static int print_metrics(struct spool *spool, const char *folder, struct fault_note *why)
{
    struct metrics metrics = {0};
    const int64_t now_us = clock_wall_us();
    if (spool_count(spool, take_count, &metrics, why) != 0)
        return command_fault("queue", why);
    print_family("isoslice_queue", "Series, jobs, deliveries and commitments in each state.");
    for (size_t i = 0; i < N_STATES; i++)
        printf("isoslice_queue{kind=\"%s\",state=\"%s\"} %lld\n", all_states[i].kind, all_states[i].state,
               (long long)metrics.n[i]);
    print_family("isoslice_queue_oldest_seconds",
                 "Since the oldest of them came into its state; 0: there is none.");
    for (size_t i = 0; i < N_STATES; i++)
        printf("isoslice_queue_oldest_seconds{kind=\"%s\",state=\"%s\"} %.3f\n", all_states[i].kind,
               all_states[i].state,
               metrics.n[i] > 0 && metrics.oldest_us[i] < now_us
                   ? 1e-6 * (double)(now_us - metrics.oldest_us[i])
                   : 0);
    print_family("isoslice_queue_stopped", "Those of them that wait for a person.");
    printf("isoslice_queue_stopped %lld\n", (long long)metrics.n_stopped);
    print_family("isoslice_spool_free_bytes", "Space left where the spool lies.");
    printf("isoslice_spool_free_bytes %lld\n", (long long)file_free_bytes(folder));
    print_family("isoslice_info", "The version that says this.");
    printf("isoslice_info{version=\"%s\"} 1\n", ISOSLICE_VERSION);
    return 0;
}

static int decide(struct spool *spool, const char *verb, const char *id, struct fault_note *why)
{
    int64_t now_us = clock_wall_us();
    if (strcmp(verb, "show") == 0)
        return spool_show(spool, id, print_line, NULL, why);
    if (strcmp(verb, "retry") == 0)
        return spool_retry(spool, id, now_us, why);
    if (strcmp(verb, "anew") == 0)
        return spool_anew(spool, id, now_us, why);
    if (strcmp(verb, "hold") == 0)
        return spool_hold(spool, id, now_us, why);
    if (strcmp(verb, "remove") == 0)
        return spool_remove(spool, id, now_us, why);
    return spool_release(spool, id, now_us, why);
}

int command_queue(int argc, char **argv)
{
    static const char *const verbs[] = {"show", "retry", "anew", "hold", "release", "remove"};
    const char *config = COMMAND_CONFIG_FILE;
    static struct conf conf;
    struct fault_note why;
    struct spool *spool = NULL;
    int at = 1;
    if (at < argc && (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0)) {
        print_help();
        return 0;
    }
    if (at + 1 < argc && strcmp(argv[at], "--config") == 0) {
        config = argv[at + 1];
        at += 2;
    }
    const char *verb = at < argc ? argv[at++] : "";
    int is_list = strcmp(verb, "list") == 0, is_metrics = strcmp(verb, "metrics") == 0;
    int is_status = is_metrics || strcmp(verb, "status") == 0;
    int is_verb = is_list || is_status;
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        is_verb = is_verb || strcmp(verb, verbs[i]) == 0;
    if (!is_verb)
        return command_usage_error("queue", "unknown action '%s'", verb);
    if (is_status ? argc > at : is_list ? argc - at > 1 : argc == at)
        return command_usage_error("queue", is_status ? "status and metrics take nothing more"
                                            : is_list ? "list takes at most one state"
                                                      : "needs an id");
    struct user user = {0};
    int rc = conf_load(config, &conf, &why);
    if (rc == 0 && geteuid() == 0) // what this writes must stay the daemons'
        rc = user_find_for(conf.user, conf.spool, &user, &why);
    if (rc == 0)
        rc = user_become(&user, &why);
    if (rc == 0)
        rc = spool_open_existing(conf.spool, &spool, &why);
    if (rc == 0 && is_list) {
        size_t n_rows = 0;
        rc = spool_list(spool, at < argc ? argv[at] : NULL, print_row, &n_rows, &why);
        if (rc == 0 && n_rows == 0)
            puts("nothing");
    }
    int code = rc == 0 ? 0 : command_fault("queue", &why);
    if (rc == 0 && is_status)
        code = is_metrics ? print_metrics(spool, conf.spool, &why) : print_status(spool, &why);
    for (; rc == 0 && !is_list && !is_status && at < argc;
         at++) // one that cannot be does not stop the others
        if (decide(spool, verb, argv[at], &why) != 0)
            code = command_fault("queue", &why);
    spool_close(spool);
    return code;
}
