// SPDX-License-Identifier: Apache-2.0
//
// isoslice-receive: a listener that only accepts, a process per association, and the indexer as a child. The
// listener reads nothing from a connection, so one silent peer delays nobody.

#include "conf/conf.h"
#include "core/clock.h"
#include "core/confine.h"
#include "core/daemon.h"
#include "core/file.h"
#include "core/keeper.h"
#include "core/log.h"
#include "core/notify.h"
#include "dicom_map/dcmtk/scp.h"
#include "scp/association.h"
#include "scp/complaint.h"
#include "scp/indexer.h"
#include "spool/spool.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    N_REJECTING = 16, // processes beyond the limit that only say so; beyond those we hang up
    STOP_GRACE_S = 10,
    INDEXER_NICE = 10,
    HUNG_UP_INTERVAL_S = 60 // between two lines about it
};

struct child {
    pid_t pid; // 0: free
    uint32_t address;
    int is_rejecting; // does not count: it only says no, and may wait for the peer to hang up
};

struct listener {
    struct conf conf;
    char incoming[SPOOL_PATH_SIZE];
    int fd, tls_fd;       // -1: no such port
    int is_tls_open;      // it listens at tls_fd
    struct keeper keeper; // of tls_fd
    pid_t indexer;
    struct child *children;
    size_t n_children; // slots
    struct complaint hung_up;
};

static void on_child(int number)
{
    (void)number; // only to wake ppoll
}

static int bind_at(const struct conf *conf, int64_t port, struct fault_note *why)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, conf->bind, &address.sin_addr);
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fault_set_errno(why, errno, "cannot make a socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int saved = errno;
        close(fd);
        return fault_set_errno(why, saved, "cannot listen at %s:%lld", conf->bind, (long long)port);
    }
    return fd;
}

// Only with a certificate that is valid. Until then nobody is let in there, and the port is ours all the
// same.
static void listen_with_tls(struct listener *listener)
{
    const struct conf *conf = &listener->conf;
    if (listener->is_tls_open || listener->tls_fd < 0 || !listener->keeper.is_in_use)
        return;
    listener->is_tls_open = listen(listener->tls_fd, SOMAXCONN) == 0;
    if (listener->is_tls_open)
        log_info("listening as '%s' at %s:%lld with TLS", conf->ae_title, conf->bind,
                 (long long)conf->tls_port);
    else
        log_error("cannot listen at %s:%lld: %s", conf->bind, (long long)conf->tls_port, strerror(errno));
}

static void close_listening(struct listener *listener)
{
    if (listener->fd >= 0)
        close(listener->fd);
    if (listener->tls_fd >= 0)
        close(listener->tls_fd);
    listener->fd = listener->tls_fd = -1;
}

static void start_indexer(struct listener *listener)
{
    pid_t parent = getpid();
    listener->indexer = fork();
    if (listener->indexer != 0)
        return;
    struct fault_note why;
    if (!daemon_follows(parent))
        _exit(0);
    signal(SIGCHLD, SIG_DFL);
    close_listening(listener);
    credentials_free(listener->keeper.credentials); // it has no use for a key
    setpriority(PRIO_PROCESS, 0, INDEXER_NICE);     // rows can wait, senders should not
    int rc = indexer_run(&listener->conf, &daemon_stop, &why);
    if (rc != 0)
        log_error("indexer: %s: %s", fault_name((enum fault)rc), why.text);
    _exit(rc == 0 ? 0 : 1);
}

static void reap(struct listener *listener)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == listener->indexer) {
            listener->indexer = 0;
            if (!daemon_stop)
                log_error("the indexer ended (status 0x%x); starting it again", (unsigned)status);
            continue;
        }
        for (size_t i = 0; i < listener->n_children; i++)
            if (listener->children[i].pid == pid)
                listener->children[i].pid = 0;
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
            log_warning("association process %d ended: TIMEOUT: it lasted longer than allowed", (int)pid);
        else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
            log_error(
                "association process %d ended: CRASHED: it tried a system call that it must not make; what "
                "it had acknowledged is kept",
                (int)pid);
        else if (WIFSIGNALED(status))
            log_error("association process %d ended: CRASHED: it died of signal %d; what it had acknowledged "
                      "is kept",
                      (int)pid, WTERMSIG(status));
    }
}

// A place for a further process, and whether it may only say no. NULL: there are enough that say no; their
// places are their own, so that one address that knocks without end takes none from the others.
static struct child *find_place(struct listener *listener, uint32_t address, int *is_full)
{
    const struct conf *conf = &listener->conf;
    struct child *slot = NULL;
    int64_t n_serving = 0, n_address = 0, n_rejecting = 0;
    for (size_t i = 0; i < listener->n_children; i++) {
        struct child *child = &listener->children[i];
        if (child->pid == 0) {
            slot = slot ? slot : child;
            continue;
        }
        n_rejecting += child->is_rejecting;
        n_serving += !child->is_rejecting;
        n_address += !child->is_rejecting && child->address == address;
    }
    *is_full = n_serving >= conf->max_associations || n_address >= conf->max_associations_per_address;
    return *is_full && n_rejecting >= N_REJECTING ? NULL : slot;
}

static void hang_up(struct listener *listener, int fd, const struct sockaddr_in *peer)
{
    char address[INET_ADDRSTRLEN] = "";
    inet_ntop(AF_INET, &peer->sin_addr, address, sizeof address);
    complaint_add(&listener->hung_up,
                  "hung up on %s: too many associations, and %d are being told so already", address,
                  N_REJECTING);
    close(fd);
}

static void accept_one(struct listener *listener, int is_tls)
{
    struct sockaddr_in peer = {0};
    socklen_t size = sizeof peer;
    int fd = accept4(is_tls ? listener->tls_fd : listener->fd, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC);
    if (fd < 0)
        return; // gone again, or out of descriptors: the next round tries
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    uint32_t address = ntohl(peer.sin_addr.s_addr);
    int is_full = 0;
    struct child *slot = find_place(listener, address, &is_full);
    if (slot == NULL) {
        hang_up(listener, fd, &peer);
        return;
    }
    struct association_request request = {
        .conf = &listener->conf,
        .incoming = listener->incoming,
        .address = address,
        .is_full = is_full,
        .credentials = is_tls ? listener->keeper.credentials : NULL,
    };
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGCHLD, SIG_DFL);
        signal(SIGTERM, SIG_DFL); // an association in flight is finished; the parent ends it after a grace
        signal(SIGINT, SIG_IGN);
        close_listening(listener);
        if (!is_tls)
            credentials_free(listener->keeper.credentials);
        _exit(association_serve(fd, &request) == 0 ? 0 : 1);
    }
    close(fd);
    if (pid < 0) {
        log_error("cannot start a process for an association: %s", strerror(errno));
        return;
    }
    slot->pid = pid;
    slot->address = address;
    slot->is_rejecting = request.is_full;
}

static size_t n_running(const struct listener *listener)
{
    size_t n = 0;
    for (size_t i = 0; i < listener->n_children; i++)
        n += listener->children[i].pid != 0;
    return n;
}

static void stop_children(struct listener *listener)
{
    double until_s = clock_monotonic_s() + STOP_GRACE_S;
    while (n_running(listener) > 0 && clock_monotonic_s() < until_s) {
        usleep(50 * 1000);
        reap(listener);
    }
    for (size_t i = 0; i < listener->n_children; i++)
        if (listener->children[i].pid != 0)
            kill(listener->children[i].pid, SIGKILL);
    if (listener->indexer > 0) { // last, so that it sees everything
        kill(listener->indexer, SIGTERM);
        waitpid(listener->indexer, NULL, 0);
    }
}

static int open_ports(void *user, struct fault_note *why)
{
    struct listener *listener = user;
    const struct conf *conf = &listener->conf;
    listener->fd = listener->tls_fd = -1;
    if (conf->port != 0 && (listener->fd = bind_at(conf, conf->port, why)) < 0)
        return listener->fd;
    if (conf->tls_port != 0 && (listener->tls_fd = bind_at(conf, conf->tls_port, why)) < 0)
        return listener->tls_fd;
    if (listener->fd >= 0 && listen(listener->fd, SOMAXCONN) != 0)
        return fault_set_errno(why, errno, "cannot listen at %s:%lld", conf->bind, (long long)conf->port);
    return 0;
}

static int run(void *user, struct fault_note *why)
{
    struct listener *listener = user;
    struct spool *spool;
    int rc = spool_open(listener->conf.spool, &spool, why); // makes the folders; the indexer opens its own
    if (rc != 0)
        return rc;
    snprintf(listener->incoming, sizeof listener->incoming, "%s", spool_folder(spool, SPOOL_INCOMING));
    spool_close(spool);
    listener->n_children = (size_t)listener->conf.max_associations + N_REJECTING;
    listener->children = calloc(listener->n_children, sizeof *listener->children);
    if (listener->children == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold %zu associations", listener->n_children);
    const struct conf *conf = &listener->conf;
    if (!confine_has_landlock())
        log_warning("this kernel or container offers no Landlock: what an association may reach among the "
                    "files is up to their modes alone");
    tzset(); // before processes lose sight of the zone files

    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    struct sigaction action = {.sa_handler = on_child};
    sigaction(SIGCHLD, &action, NULL);
    if (conf->port != 0)
        log_info("listening as '%s' at %s:%lld", conf->ae_title, conf->bind, (long long)conf->port);
    keeper_tick(&listener->keeper, 0);
    listen_with_tls(listener);
    notify_manager("READY=1");
    double next_start_s = 0;
    while (!daemon_stop) {
        if (listener->indexer <= 0 && clock_monotonic_s() >= next_start_s) {
            start_indexer(listener);
            next_start_s = clock_monotonic_s() + 1;
        }
        keeper_tick(&listener->keeper, daemon_reload_asked());
        listen_with_tls(listener);
        int tls_fd = listener->is_tls_open ? listener->tls_fd : -1;
        struct pollfd poll_fds[2] = {{.fd = listener->fd, .events = POLLIN},
                                     {.fd = tls_fd, .events = POLLIN}}; // -1 is passed over
        struct timespec timeout = {.tv_sec = 1};
        sigprocmask(SIG_BLOCK, &blocked, &before);
        int n = daemon_stop ? 0 : ppoll(poll_fds, 2, &timeout, &before);
        sigprocmask(SIG_SETMASK, &before, NULL);
        reap(listener);
        for (int i = 0; n > 0 && i < 2; i++)
            if (poll_fds[i].revents != 0)
                accept_one(listener, i == 1);
        complaint_say(&listener->hung_up, LOG_LEVEL_WARNING, HUNG_UP_INTERVAL_S);
        notify_manager("WATCHDOG=1");
    }
    log_info("stopping: %zu associations open", n_running(listener));
    notify_manager("STOPPING=1");
    close_listening(listener);
    stop_children(listener);
    return 0;
}

static int load(void *user, const char *path, struct daemon_settings *settings, struct fault_note *why)
{
    struct listener *listener = user;
    int rc = conf_load_daemon(&listener->conf, path, settings, why);
    if (rc == 0)
        rc = dcm_network_init(why);
    listener->keeper.whose = "reception";
    if (rc == 0 && listener->conf.tls_port != 0) {
        struct credentials_files files = conf_node_files(&listener->conf, settings->user.uid);
        rc = credentials_load(&files, &listener->keeper.credentials, why);
    }
    return rc;
}

int main(int argc, char **argv)
{
    static struct listener listener;
    const struct daemon daemon = {
        .name = "isoslice-receive",
        .purpose = "Storage SCP: receives MR images, makes each durable, then acknowledges it.",
        .rereads = 1,
        .load = load,
        .open = open_ports,
        .run = run,
        .user = &listener,
    };
    int exit_code = daemon_main(argc, argv, &daemon);
    free(listener.children);
    credentials_free(listener.keeper.credentials);
    return exit_code;
}
