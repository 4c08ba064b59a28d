// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"
#include "conf/conf.h"
#include "core/clock.h"
#include "core/daemon.h"
#include "core/log.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_DAEMONS = 3, STOP_GRACE_S = 30, PATH_SIZE = CONF_PATH_SIZE + 32 };
// One that ends soon after its start is started again after a pause, which doubles as long as it does.
static const double soon_s = 10, pause_min_s = 1, pause_max_s = 60;

struct child {
    const char *name;
    pid_t pid; // 0: not running
    double started_s, pause_s, not_before_s;
};

static int has_program(const char *folder, const struct child *child, struct fault_note *why)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", folder, child->name);
    return access(path, X_OK) == 0
               ? 0
               : fault_set_errno(why, errno, "cannot run '%s', which belongs beside isoslice", path);
}

static void start(struct child *child, const char *folder, const char *config)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", folder, child->name);
    child->started_s = clock_monotonic_s();
    child->not_before_s = child->started_s + pause_min_s;
    pid_t parent = getpid();
    child->pid = fork();
    if (child->pid == 0) {
        if (!daemon_follows(parent)) // nothing of ours outlives the node
            _exit(0);
        execl(path, child->name, "--config", config, (char *)NULL);
        log_error("cannot start '%s'", path);
        _exit(127);
    }
    if (child->pid > 0)
        log_info("started %s as process %d", child->name, (int)child->pid);
}

static void ended(struct child *child, int status)
{
    double now_s = clock_monotonic_s();
    int was_soon = now_s - child->started_s < soon_s;
    child->pid = 0;
    child->pause_s = was_soon ? fmin(pause_max_s, fmax(pause_min_s, 2 * child->pause_s)) : 0;
    child->not_before_s = fmax(child->not_before_s, now_s + child->pause_s);
    log_error("%s ended (%s %d); starting it again in %.0f s", child->name,
              WIFSIGNALED(status) ? "signal" : "exit code",
              WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), child->pause_s);
}

static void stop(struct child *children)
{
    double until_s = clock_monotonic_s() + STOP_GRACE_S;
    int left = 0;
    for (int i = 0; i < N_DAEMONS; i++) {
        if (children[i].pid > 0) {
            kill(children[i].pid, SIGTERM);
            left++;
        }
    }
    while (left > 0) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0)
            break;
        if (pid == 0) {
            usleep(50 * 1000);
            if (clock_monotonic_s() > until_s)
                for (int i = 0; i < N_DAEMONS; i++)
                    if (children[i].pid > 0)
                        kill(children[i].pid, SIGKILL);
            continue;
        }
        for (int i = 0; i < N_DAEMONS; i++)
            if (children[i].pid == pid) {
                children[i].pid = 0;
                left--;
            }
    }
}

int command_node(int argc, char **argv)
{
    struct child children[N_DAEMONS] = {
        {.name = "isoslice-receive"}, {.name = "isoslice-work"}, {.name = "isoslice-send"}};
    char folder[CONF_PATH_SIZE];
    int exit_code;
    static struct conf conf;
    struct fault_note why;
    const char *config =
        daemon_arguments(argc, argv, "isoslice node",
                         "The whole node: isoslice-receive, isoslice-work and isoslice-send as children,\n"
                         "each started again when it ends, after a pause where it ends at once.",
                         1, &exit_code);
    if (config == NULL)
        return exit_code;
    struct user user; // this stays root, to start daemons again; they change
    if (conf_load(config, &conf, &why) != 0 || user_find(conf.user, &user, &why) != 0)
        return command_fault("node", &why);
    ssize_t n = readlink("/proc/self/exe", folder, sizeof folder - 1);
    folder[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash != NULL)
        *slash = '\0';
    for (int i = 0; i < N_DAEMONS; i++)
        if (has_program(folder, &children[i], &why) != 0)
            return command_fault("node", &why);
    daemon_init();
    log_init("isoslice-node", conf_log_level(&conf));
    while (!daemon_stop) {
        int status;
        pid_t pid;
        for (int i = 0; i < N_DAEMONS; i++)
            if (children[i].pid <= 0 && clock_monotonic_s() >= children[i].not_before_s)
                start(&children[i], folder, config);
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
            for (int i = 0; i < N_DAEMONS; i++)
                if (children[i].pid == pid)
                    ended(&children[i], status);
        if (daemon_reload_asked())
            for (int i = 0; i < N_DAEMONS; i++)
                if (children[i].pid > 0)
                    kill(children[i].pid, SIGHUP);
        usleep(100 * 1000);
    }
    log_info("stopping");
    stop(children);
    return 0;
}
