// SPDX-License-Identifier: Apache-2.0
#include "core/daemon.h"

#include "core/file.h"
#include "core/version.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

volatile int daemon_stop;

static void on_stop(int number)
{
    (void)number;
    daemon_stop = 1;
}

const char *daemon_arguments(int argc, char **argv, const char *name, const char *purpose, int rereads,
                             int *exit_code)
{
    const char *config = NULL;
    *exit_code = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            printf("usage: %s --config FILE\n\n%s\n\n"
                   "  --config FILE  the configuration (see isoslice check-config --help)\n"
                   "  --help         this text\n"
                   "  --version      the version\n\n"
                   "Runs in the foreground until SIGTERM;%s logs to standard error.\n",
                   name, purpose, rereads ? " SIGHUP reads certificates again;" : "");
            return NULL;
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("%s %s\n", name, ISOSLICE_VERSION);
            return NULL;
        }
        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc) {
            config = argv[++i];
            continue;
        }
        fprintf(stderr, "%s: unknown argument '%s'; see %s --help\n", name, argv[i], name);
        *exit_code = 2;
        return NULL;
    }
    if (config == NULL) {
        fprintf(stderr, "%s: missing --config FILE; see %s --help\n", name, name);
        *exit_code = 2;
    }
    return config;
}

void daemon_init(void)
{
    umask(077);
    struct sigaction action = {.sa_handler = on_stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    sigset_t hangup;
    sigemptyset(&hangup);
    sigaddset(&hangup, SIGHUP);
    sigprocmask(SIG_BLOCK, &hangup, NULL);
    file_arm_crash_point();
}

int daemon_follows(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    return getppid() == parent;
}

int daemon_reload_asked(void)
{
    const struct timespec at_once = {0};
    sigset_t hangup;
    sigemptyset(&hangup);
    sigaddset(&hangup, SIGHUP);
    return sigtimedwait(&hangup, NULL, &at_once) == SIGHUP;
}

// For good, and only where a user was named.
static int change_user(const struct daemon_settings *settings, struct fault_note *why)
{
    const struct user *user = &settings->user;
    if (user->name[0] == '\0' && user->uid == 0)
        log_warning("running as root: name another user in node.user, or start this as one");
    if (!user->is_other)
        return 0;
    int rc = user_check_owner(user, settings->spool, why);
    if (rc == 0)
        rc = user_become(user, why);
    if (rc == 0)
        log_info("running as user '%s' from here on", user->name);
    return rc;
}

int daemon_main(int argc, char **argv, const struct daemon *daemon)
{
    struct fault_note why;
    struct daemon_settings settings = {.level = LOG_LEVEL_INFO};
    int exit_code;
    const char *config =
        daemon_arguments(argc, argv, daemon->name, daemon->purpose, daemon->rereads, &exit_code);
    if (config == NULL)
        return exit_code;
    if (daemon->load(daemon->user, config, &settings, &why) != 0) {
        fprintf(stderr, "%s: %s\n", daemon->name, why.text);
        return 2;
    }
    daemon_init();
    log_init(daemon->name, settings.level);
    int rc = daemon->open != NULL ? daemon->open(daemon->user, &why) : 0;
    if (rc == 0)
        rc = change_user(&settings, &why);
    if (rc == 0)
        rc = daemon->run(daemon->user, &why);
    if (rc != 0)
        log_error("cannot go on: %s: %s", fault_name((enum fault)rc), why.text);
    return rc == 0 ? 0 : 1;
}
