// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"
#include "conf/conf.h"
#include "core/clock.h"
#include "spool/spool.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void print_help(void)
{
    puts("usage: isoslice queue [--config FILE] list [STATE]\n"
         "       isoslice queue [--config FILE] status\n"
         "       isoslice queue [--config FILE] show|retry|anew|hold|release|remove ID ...\n\n"
         "list     every series (s1, ...), job (j1, ...), delivery (d1, ...) and storage commitment that a "
         "sender\n"
         "         asked for (c<time>-<number>), or those in STATE\n"
         "status   how many there are in each state, and since when the oldest of them; for who watches a "
         "node\n"
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
    int is_list = strcmp(verb, "list") == 0, is_status = strcmp(verb, "status") == 0;
    int is_verb = is_list || is_status;
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        is_verb = is_verb || strcmp(verb, verbs[i]) == 0;
    if (!is_verb)
        return command_usage_error("queue", "unknown action '%s'", verb);
    if (is_status ? argc > at : is_list ? argc - at > 1 : argc == at)
        return command_usage_error("queue", is_status ? "status takes nothing more"
                                            : is_list ? "list takes at most one state"
                                                      : "needs an id");
    struct user user = {0};
    int rc = conf_load(config, &conf, &why);
    if (rc == 0 && geteuid() == 0) // what this writes must stay the daemons'
        rc = user_find(conf.user, &user, &why);
    if (rc == 0)
        rc = user_become(&user, &why);
    if (rc == 0)
        rc = spool_open(conf.spool, &spool, &why);
    if (rc == 0 && is_list) {
        size_t n_rows = 0;
        rc = spool_list(spool, at < argc ? argv[at] : NULL, print_row, &n_rows, &why);
        if (rc == 0 && n_rows == 0)
            puts("nothing");
    }
    int code = rc == 0 ? 0 : command_fault("queue", &why);
    if (rc == 0 && is_status)
        code = print_status(spool, &why);
    for (; rc == 0 && !is_list && !is_status && at < argc;
         at++) // one that cannot be does not stop the others
        if (decide(spool, verb, argv[at], &why) != 0)
            code = command_fault("queue", &why);
    spool_close(spool);
    return code;
}
