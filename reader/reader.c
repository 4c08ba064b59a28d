// SPDX-License-Identifier: Apache-2.0
#include "reader/reader.h"

#include "core/clock.h"
#include "core/confine.h"
#include "core/version.h"
#include "dicom_map/stack.h"
#include "reader/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SIDE = 4096, MAX_PLANES = 4096, MAX_ITEMS = 100000, MAX_ENVIRONMENT = 16 };
static const uint64_t MAX_ANSWER_BYTES = (uint64_t)256 << 20;

struct reader {
    char **paths;
    size_t n_paths;
    struct reader_options options;
    char output[WIRE_PATH_SIZE];
    pid_t pid;                 // 0: none
    int fd;                    // -1: none
    struct source_item *items; // in one piece with their z_mm
    size_t n_items;
};

struct answer {
    void *data; // owned
    size_t size;
};

// ---- memory to share

int reader_block_new(size_t n, struct reader_block *block, struct fault_note *why)
{
    *block = (struct reader_block)READER_BLOCK_NONE;
    size_t size = n * sizeof *block->data;
    int fd = memfd_create("isoslice", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return fault_set_errno(why, errno, "cannot make memory to share");
    void *data = MAP_FAILED;
    // Nobody who gets it can make it shorter than what is mapped.
    if (ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0)
        data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        int saved = errno;
        close(fd);
        if (saved == EFBIG || saved == EINVAL)
            saved = ENOMEM;
        return fault_set_errno(why, saved, "cannot share %zu floats", n);
    }
    *block = (struct reader_block){.data = data, .n = n, .fd = fd};
    return 0;
}

void reader_block_free(struct reader_block *block)
{
    if (block->data != NULL) {
        munmap(block->data, block->n * sizeof *block->data);
        close(block->fd);
    }
    *block = (struct reader_block)READER_BLOCK_NONE;
}

// From here on its contents stay as they are: the seal is refused as long as anybody could still write.
static int block_seal(struct reader_block *block, struct fault_note *why)
{
    size_t size = block->n * sizeof *block->data;
    munmap(block->data, size);
    void *data = MAP_FAILED;
    int is_sealed = fcntl(block->fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL) == 0;
    if (is_sealed)
        data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, block->fd, 0);
    if (data != MAP_FAILED) {
        block->data = data;
        return 0;
    }
    int saved = errno;
    close(block->fd);
    *block = (struct reader_block)READER_BLOCK_NONE;
    if (!is_sealed)
        return fault_set(why, FAULT_READER, "the reading process did not let go of the voxels");
    return fault_set_errno(why, saved, "cannot map %zu bytes", size);
}

// ---- the process

static void end_process(struct reader *reader)
{
    if (reader->fd >= 0)
        close(reader->fd);
    reader->fd = -1;
    if (reader->pid > 0) {
        kill(reader->pid, SIGKILL);
        waitpid(reader->pid, NULL, 0);
    }
    reader->pid = 0;
}

// Ends a process that hung up or answered nonsense, and says of what it died.
static int say_end(struct reader *reader, const char *doing, struct fault_note *why)
{
    int status = 0;
    close(reader->fd);
    reader->fd = -1;
    pid_t pid = reader->pid;
    reader->pid = 0;
    kill(pid, SIGKILL); // it may only have hung up; one that is dying already keeps its reason
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        return fault_set(
            why, FAULT_READER,
            "the reading process was ended while it %s: it tried a system call that it must not make", doing);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU)
        return fault_set(why, FAULT_READER, "the reading process used up its processor time while it %s",
                         doing);
    if (WIFSIGNALED(status))
        return fault_set(why, FAULT_READER, "the reading process died of signal %d (%s) while it %s",
                         WTERMSIG(status), strsignal(WTERMSIG(status)), doing);
    return fault_set(why, FAULT_READER, "the reading process ended with exit code %d while it %s",
                     WEXITSTATUS(status), doing);
}

static int refuse(struct reader *reader, const char *doing, const char *what, struct fault_note *why)
{
    end_process(reader);
    return fault_set(why, FAULT_READER, "the reading process %s while it %s", what, doing);
}

// Beside this program, unless ISOSLICE_READER names another.
static int find_program(char *path, size_t size, struct fault_note *why)
{
    const char *named = getenv("ISOSLICE_READER");
    if (named != NULL) {
        snprintf(path, size, "%s", named);
    } else {
        ssize_t n = readlink("/proc/self/exe", path, size - 32);
        path[n > 0 ? n : 0] = '\0';
        char *slash = strrchr(path, '/');
        snprintf(slash != NULL ? slash + 1 : path, 32, "isoslice-read");
    }
    return access(path, X_OK) == 0 ? 0 : fault_set_errno(why, errno, "cannot start '%s'", path);
}

// What its libraries and its run time look at; nothing else of ours is its business.
static void pick_environment(char **out)
{
    static const char *const names[] = {
        "TZ=", "TZDIR=", "DCMDICTPATH=", "OPENSSL_CONF=", "UBSAN_OPTIONS=", "LD_LIBRARY_PATH="};
    static char no_leaks[] = "ASAN_OPTIONS=detect_leaks=0"; // its checker is a tracer
    size_t n = 0;
    for (char **entry = environ; *entry != NULL; entry++)
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            if (strncmp(*entry, names[i], strlen(names[i])) == 0 && n < MAX_ENVIRONMENT - 2)
                out[n++] = *entry;
    if (CONFINE_IS_SANITIZED)
        out[n++] = no_leaks;
    out[n] = NULL;
}

// posix_spawn and a program of its own rather than a fork: a worker has threads, gigabytes and perhaps a GPU
// mapped, and a forked copy would begin with all of that inside its limits.
static int spawn(struct reader *reader, int theirs, const char *program, struct fault_note *why)
{
    char parent[16], *environment[MAX_ENVIRONMENT];
    char *const arguments[] = {(char *)program, parent, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t blocked, by_default;
    snprintf(parent, sizeof parent, "%d", (int)getpid());
    pick_environment(environment);
    // A signal to the whole group (a terminal's, a service manager's) is for the parent, who then ends this
    // one.
    sigemptyset(&blocked);
    const int ours[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
        sigaddset(&blocked, ours[i]);
    sigfillset(&by_default);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, theirs, WIRE_FD);
    posix_spawn_file_actions_addclosefrom_np(&actions, WIRE_FD + 1);
    posix_spawnattr_setsigmask(&attributes, &blocked);
    posix_spawnattr_setsigdefault(&attributes, &by_default);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int failed = posix_spawn(&reader->pid, program, &actions, &attributes, arguments, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (failed == 0)
        return 0;
    reader->pid = 0;
    return fault_set_errno(why, failed, "cannot start '%s'", program);
}

static int start(struct reader *reader, struct fault_note *why)
{
    char program[WIRE_PATH_SIZE];
    int ends[2];
    int rc = find_program(program, sizeof program, why);
    if (rc != 0)
        return rc;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return fault_set_errno(why, errno, "cannot make a socket pair");
    rc = spawn(reader, ends[1], program, why);
    close(ends[1]);
    if (rc != 0) {
        close(ends[0]);
        return rc;
    }
    const struct timeval patience = {.tv_sec = READER_CALL_S}; // with one that does not listen
    setsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    reader->fd = ends[0];
    return 0;
}

// Soft limits, which its own hands are too tied to raise. Sanitizer builds have no limit of memory.
static void allow(const struct reader *reader, uint64_t memory_bytes, double cpu_s)
{
    clockid_t clock;
    struct timespec used = {0};
    struct rlimit limit;
    if (prlimit(reader->pid, RLIMIT_CPU, NULL, &limit) == 0 &&
        clock_getcpuclockid(reader->pid, &clock) == 0 && clock_gettime(clock, &used) == 0) {
        limit.rlim_cur = (rlim_t)used.tv_sec + 1 + (rlim_t)ceil(cpu_s);
        if (limit.rlim_max == RLIM_INFINITY || limit.rlim_cur <= limit.rlim_max)
            prlimit(reader->pid, RLIMIT_CPU, &limit, NULL);
    }
    if (!CONFINE_IS_SANITIZED && prlimit(reader->pid, RLIMIT_AS, NULL, &limit) == 0) {
        limit.rlim_cur = memory_bytes;
        if (limit.rlim_max == RLIM_INFINITY || limit.rlim_cur <= limit.rlim_max)
            prlimit(reader->pid, RLIMIT_AS, &limit, NULL);
    }
}

// ---- asking

struct call {
    struct wire_request request;
    const void *head; // of the payload
    size_t head_size;
    const void *tail; // the rest of it
    size_t tail_size;
    int fds[WIRE_MAX_FDS];
    int n_fds;
    uint64_t shared_bytes; // that it will map
    double cpu_s;
    const char *doing; // "opened the files"
};

static int send_bytes(int fd, const void *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = send(fd, (const char *)data + at, size - at, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return 0;
        at += n > 0 ? (size_t)n : 0;
    }
    return 1;
}

static int send_call(int fd, const struct call *call)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(WIRE_MAX_FDS * sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = (void *)&call->request, .iov_len = sizeof call->request};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (call->n_fds > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE((size_t)call->n_fds * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN((size_t)call->n_fds * sizeof(int));
        memcpy(CMSG_DATA(header), call->fds, (size_t)call->n_fds * sizeof(int));
    }
    ssize_t n;
    do
        n = sendmsg(fd, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n > 0 && send_bytes(fd, (const char *)&call->request + n, sizeof call->request - (size_t)n) &&
           send_bytes(fd, call->head, call->head_size) && send_bytes(fd, call->tail, call->tail_size);
}

// 1: all there; 0: it hung up; -1: too late.
static int receive_bytes(int fd, void *data, size_t size, double until_s)
{
    for (size_t at = 0; at < size;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        double left_s = until_s - clock_monotonic_s();
        if (left_s <= 0)
            return -1;
        int n_ready = poll(&ready, 1, (int)(1000 * fmin(left_s, 1000)) + 1);
        if (n_ready == 0 || (n_ready < 0 && errno == EINTR))
            continue;
        ssize_t n = read(fd, (char *)data + at, size - at);
        if (n == 0 || (n < 0 && errno != EINTR))
            return 0;
        at += n > 0 ? (size_t)n : 0;
    }
    return 1;
}

// Control characters come from nobody's file name into a log or a terminal.
static void clean(char *text, size_t size)
{
    text[size - 1] = '\0';
    for (char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

static int is_fault(int fault)
{
    return fault != FAULT_OK && strcmp(fault_name((enum fault)fault), "UNKNOWN") != 0;
}

static int fault_of_answer(const struct reader *reader, const struct call *call, struct wire_answer *head,
                           struct fault_note *why)
{
    clean(head->text, sizeof head->text);
    if (head->fault == FAULT_NO_MEMORY && !CONFINE_IS_SANITIZED)
        return fault_set(why, FAULT_READER,
                         "the reading process needed more than its %llu MB while it %s: %s",
                         (unsigned long long)((reader->options.memory_bytes + call->shared_bytes) >> 20),
                         call->doing, head->text);
    return fault_set(why, (enum fault)head->fault, "%s", head->text);
}

// One request of a process that runs. Without a fault the answer's payload is given to the caller (free), if
// it has the size that is wanted (or any, for SIZE_MAX).
static int ask(struct reader *reader, const struct call *call, size_t wanted, struct answer *answer,
               struct fault_note *why)
{
    struct wire_answer head;
    double until_s = clock_monotonic_s() + 4 * call->cpu_s + 60;
    if (call->request.kind != WIRE_OPEN)
        allow(reader, reader->options.memory_bytes + call->shared_bytes, call->cpu_s);
    *answer = (struct answer){0};
    if (!send_call(reader->fd, call))
        return say_end(reader, call->doing, why);
    int got = receive_bytes(reader->fd, &head, sizeof head, until_s);
    if (got > 0 && head.fault != FAULT_OK && !is_fault(head.fault))
        return refuse(reader, call->doing, "answered with a fault that there is not", why);
    if (got > 0 && head.fault != FAULT_OK)
        return fault_of_answer(reader, call, &head, why);
    if (got > 0 && (head.size > MAX_ANSWER_BYTES || (wanted != SIZE_MAX && head.size != wanted)))
        return refuse(reader, call->doing, "answered at another length than it can", why);
    void *data = got > 0 ? malloc(head.size + 1) : NULL;
    if (got > 0 && data == NULL) {
        end_process(reader);
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold an answer of %llu bytes",
                         (unsigned long long)head.size);
    }
    if (got > 0)
        got = receive_bytes(reader->fd, data, head.size, until_s);
    if (got > 0) {
        *answer = (struct answer){.data = data, .size = head.size};
        return 0;
    }
    free(data);
    if (got < 0)
        return refuse(reader, call->doing, "did not answer in time", why);
    return say_end(reader, call->doing, why);
}

// ---- opening

static int is_length(double value, double most)
{
    return isfinite(value) && value > 0 && value <= most;
}

static int item_is_possible(const struct source_item *item)
{
    if (item->verdict != FAULT_OK)
        return is_fault((int)item->verdict);
    for (int axis = 0; axis < 3; axis++)
        if (!isfinite(item->normal[axis]))
            return 0;
    return item->depth >= 1 && item->depth <= STACK_MAX_SLICES && item->height >= 1 &&
           item->height <= MAX_SIDE && item->width >= 1 && item->width <= MAX_SIDE &&
           item->n_images == (size_t)item->depth && is_length(item->row_mm, 1e6) &&
           is_length(item->column_mm, 1e6) && is_length(item->slice_mm, 1e6) && item->resampled_axis >= 0 &&
           item->resampled_axis <= 2 && isfinite(item->thickness_mm) && isfinite(item->gap_mm);
}

// Items as they came, made safe to look at; *n_positions: z_mm of all stacks. 0 when they cannot be.
static int check_items(struct source_item *items, size_t n, size_t *n_positions)
{
    *n_positions = 0;
    for (size_t i = 0; i < n; i++) {
        struct source_item *item = &items[i];
        clean(item->study_uid, sizeof item->study_uid);
        clean(item->series_uid, sizeof item->series_uid);
        clean(item->reason, sizeof item->reason);
        clean(item->warnings, sizeof item->warnings);
        for (int k = 0; k < N_LABELS; k++)
            clean(item->labels[k], LABEL_SIZE);
        item->z_mm = NULL;
        if (item->verdict != FAULT_OK)
            item->depth = item->height = item->width = 0;
        if (!item_is_possible(item))
            return 0;
        *n_positions += item->verdict == FAULT_OK ? (size_t)item->depth : 0;
    }
    return 1;
}

// How many items an answer of `size` bytes holds: as many as there are before the positions that they need.
static int split_items(struct answer *answer, size_t *n, size_t *n_positions)
{
    struct source_item *items = answer->data;
    size_t left = answer->size;
    for (*n = 0, *n_positions = 0; left != *n_positions * sizeof(double); ++*n) {
        size_t more;
        if (left < sizeof *items || *n >= MAX_ITEMS || !check_items(&items[*n], 1, &more))
            return 0;
        left -= sizeof *items;
        *n_positions += more;
    }
    return 1;
}

// Takes the items of an answer, or compares them with what was there before. 0 when they cannot be.
static int take_items(struct reader *reader, struct answer *answer)
{
    size_t n, n_positions;
    if (!split_items(answer, &n, &n_positions))
        return 0;
    struct source_item *items = answer->data;
    double *z_mm = (double *)(void *)(items + n);
    for (size_t i = 0; i < n_positions; i++)
        if (!isfinite(z_mm[i]))
            return 0;
    for (size_t i = 0; i < n; i++) {
        items[i].z_mm = items[i].verdict == FAULT_OK ? z_mm : NULL;
        z_mm += items[i].verdict == FAULT_OK ? items[i].depth : 0;
    }
    if (reader->items != NULL) { // of the process before
        int is_same = n == reader->n_items;
        for (size_t i = 0; is_same && i < n; i++)
            is_same =
                items[i].verdict == reader->items[i].verdict && items[i].depth == reader->items[i].depth &&
                items[i].height == reader->items[i].height && items[i].width == reader->items[i].width &&
                strcmp(items[i].series_uid, reader->items[i].series_uid) == 0;
        return is_same;
    }
    reader->items = items;
    reader->n_items = n;
    answer->data = NULL;
    return 1;
}

static char *join_paths(const struct reader *reader, size_t *size)
{
    *size = 0;
    for (size_t i = 0; i < reader->n_paths; i++)
        *size += strlen(reader->paths[i]) + 1;
    char *text = malloc(*size + 1), *at = text;
    for (size_t i = 0; text != NULL && i < reader->n_paths; i++)
        at = stpcpy(at, reader->paths[i]) + 1;
    return text;
}

// Of the files named, the size of the largest beyond what memory_bytes has room for.
static uint64_t largest_beyond(const char *const *paths, size_t n_paths)
{
    uint64_t largest = SOURCE_MAX_BYTES;
    struct stat st;
    for (size_t i = 0; i < n_paths; i++)
        if (stat(paths[i], &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size > largest)
            largest = (uint64_t)st.st_size;
    if (largest > SOURCE_MAX_ENHANCED_BYTES)
        largest = SOURCE_MAX_ENHANCED_BYTES;
    return largest - SOURCE_MAX_BYTES;
}

// Starts the process and has it open the files.
static int begin(struct reader *reader, struct fault_note *why)
{
    struct wire_open open_request = {.to_learn = (uint32_t)reader->options.to_learn,
                                     .n_paths = (uint32_t)reader->n_paths,
                                     .memory_bytes = reader->options.memory_bytes,
                                     .cpu_s = (uint64_t)ceil(reader->options.cpu_s)};
    struct answer answer = {0};
    size_t size;
    snprintf(open_request.version, sizeof open_request.version, "%s", ISOSLICE_VERSION);
    snprintf(open_request.output, sizeof open_request.output, "%s", reader->output);
    char *paths = join_paths(reader, &size);
    struct call call = {.request = {.kind = WIRE_OPEN, .size = sizeof open_request + size},
                        .head = &open_request,
                        .head_size = sizeof open_request,
                        .tail = paths,
                        .tail_size = size,
                        .cpu_s = reader->options.cpu_s,
                        .doing = "opened the files"};
    int rc = paths != NULL ? start(reader, why) : fault_set(why, FAULT_NO_MEMORY, "cannot hold the paths");
    if (rc == 0)
        rc = ask(reader, &call, SIZE_MAX, &answer, why);
    free(paths);
    if (rc == 0 && !take_items(reader, &answer))
        rc = refuse(reader, call.doing, "listed what cannot be", why);
    free(answer.data);
    if (rc != 0)
        end_process(reader);
    return rc;
}

int reader_open(const char *const *paths, size_t n_paths, const struct reader_options *options,
                struct reader **out, struct fault_note *why)
{
    struct reader *reader = calloc(1, sizeof *reader);
    int rc = 0;
    if (reader == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold a reader");
    reader->fd = -1;
    reader->options = options != NULL ? *options : (struct reader_options){0};
    if (reader->options.memory_bytes == 0)
        reader->options.memory_bytes = READER_MEMORY_BYTES;
    if (reader->options.cpu_s == 0)
        reader->options.cpu_s = READER_OPEN_S;
    if (reader->options.output != NULL && snprintf(reader->output, sizeof reader->output, "%s",
                                                   reader->options.output) >= (int)sizeof reader->output)
        rc = fault_set(why, FAULT_IO, "the path of '%.80s...' is too long", reader->options.output);
    reader->options.output = reader->output;
    reader->paths = calloc(n_paths + 1, sizeof *reader->paths);
    for (size_t i = 0; rc == 0 && i < n_paths; i++) {
        if (reader->paths != NULL && (reader->paths[i] = strdup(paths[i])) != NULL)
            reader->n_paths++;
        else
            rc = fault_set(why, FAULT_NO_MEMORY, "cannot hold the paths");
    }
    if (rc == 0)
        reader->options.memory_bytes += largest_beyond(paths, n_paths);
    if (rc == 0)
        rc = begin(reader, why);
    if (rc == 0)
        *out = reader;
    else
        reader_free(reader);
    return rc;
}

void reader_free(struct reader *reader)
{
    if (reader == NULL)
        return;
    end_process(reader);
    for (size_t i = 0; i < reader->n_paths; i++)
        free(reader->paths[i]);
    free(reader->paths);
    free(reader->items);
    free(reader);
}

size_t reader_n_items(const struct reader *reader)
{
    return reader->n_items;
}

const struct source_item *reader_item(const struct reader *reader, size_t item)
{
    return &reader->items[item];
}

pid_t reader_pid(const struct reader *reader)
{
    return reader->pid;
}

// ---- stacks

// Finds the stack, and another process where the last one died.
static int prepare(struct reader *reader, size_t item, const struct source_item **stack,
                   struct fault_note *why)
{
    if (item >= reader->n_items || reader->items[item].verdict != FAULT_OK)
        return fault_set(why, FAULT_INTERNAL, "item %zu is not a stack", item);
    *stack = &reader->items[item];
    return reader->pid > 0 ? 0 : begin(reader, why);
}

static size_t pixels_of(const struct source_item *stack)
{
    return (size_t)stack->height * (size_t)stack->width;
}

static int planes_are_possible(const struct source_item *stack, const struct derive_plane *planes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct derive_plane *plane = &planes[i];
        if (plane->slice < 0 || plane->slice >= stack->depth || !(plane->t >= 0 && plane->t < 1) ||
            (plane->t > 0 && plane->slice + 1 >= stack->depth) || !isfinite(plane->z_mm))
            return 0;
        for (int axis = 0; axis < 3; axis++)
            if (!isfinite(plane->position[axis]))
                return 0;
    }
    return 1;
}

int reader_plan(struct reader *reader, size_t item, enum derive_spacing mode, double mm,
                struct derive_plane **planes, size_t *n_planes, double *step_mm, struct fault_note *why)
{
    const struct source_item *stack = NULL;
    struct answer answer = {0};
    const struct wire_plan plan = {.mode = (int32_t)mode, .mm = mm};
    struct call call = {.request = {.kind = WIRE_PLAN, .item = (uint32_t)item, .size = sizeof plan},
                        .head = &plan,
                        .head_size = sizeof plan,
                        .cpu_s = READER_CALL_S,
                        .doing = "planned the planes"};
    int rc = prepare(reader, item, &stack, why);
    if (rc == 0)
        rc = ask(reader, &call, SIZE_MAX, &answer, why);
    if (rc != 0 || stack == NULL || answer.data == NULL)
        return rc;
    struct wire_planned planned = {0};
    if (answer.size >= sizeof planned)
        memcpy(&planned, answer.data, sizeof planned);
    size_t n = (size_t)planned.n_planes;
    struct derive_plane *list = n >= 1 && n <= MAX_PLANES ? malloc(n * sizeof *list) : NULL;
    if (list == NULL || answer.size != sizeof planned + n * sizeof *list ||
        !is_length(planned.step_mm, 1e6)) {
        rc = refuse(reader, call.doing, "planned what cannot be", why);
    } else {
        memcpy(list, (const char *)answer.data + sizeof planned, n * sizeof *list);
        if (!planes_are_possible(stack, list, n))
            rc = refuse(reader, call.doing, "planned planes outside the stack", why);
    }
    free(answer.data);
    if (rc != 0) {
        free(list);
        return rc;
    }
    *planes = list;
    *n_planes = n;
    *step_mm = planned.step_mm;
    return 0;
}

int reader_load_voxels(struct reader *reader, size_t item, struct reader_block *voxels,
                       struct fault_note *why)
{
    const struct source_item *stack = NULL;
    struct answer answer = {0};
    struct reader_block block = READER_BLOCK_NONE;
    int rc = prepare(reader, item, &stack, why);
    if (rc == 0 && stack != NULL)
        rc = reader_block_new((size_t)stack->depth * pixels_of(stack), &block, why);
    if (rc != 0)
        return rc;
    struct call call = {.request = {.kind = WIRE_VOXELS, .item = (uint32_t)item},
                        .fds = {block.fd},
                        .n_fds = 1,
                        .shared_bytes = block.n * sizeof(float),
                        .cpu_s = READER_CALL_S + 1e-6 * (double)block.n,
                        .doing = "decoded the pixels"};
    rc = ask(reader, &call, 0, &answer, why);
    if (rc == 0)
        free(answer.data);
    if (rc == 0)
        rc = block_seal(&block, why);
    if (rc == 0)
        *voxels = block;
    else
        reader_block_free(&block);
    return rc;
}

static int fill(char *to, size_t size, const char *text)
{
    return snprintf(to, size, "%s", text != NULL ? text : "") < (int)size;
}

static int fill_derive(struct wire_derive *wire, const struct derive_request *request)
{
    *wire = (struct wire_derive){.n_planes = request->n_planes,
                                 .step_mm = request->step_mm,
                                 .job_time_us = request->job_time_us,
                                 .generation = request->generation,
                                 .n_late = request->n_late,
                                 .view = (int32_t)request->view,
                                 .format = (int32_t)request->format,
                                 .number_offset = request->number_offset,
                                 .has_description = request->description != NULL,
                                 .has_station_name = request->station_name != NULL};
    return fill(wire->site_id, sizeof wire->site_id, request->site_id) &&
           fill(wire->model_name, sizeof wire->model_name, request->model_name) &&
           fill(wire->model_version, sizeof wire->model_version, request->model_version) &&
           fill(wire->weights_sha256, sizeof wire->weights_sha256, request->weights_sha256) &&
           fill(wire->method, sizeof wire->method, request->method) &&
           fill(wire->station_name, sizeof wire->station_name, request->station_name) &&
           fill(wire->parameters, sizeof wire->parameters, request->parameters) &&
           fill(wire->quality, sizeof wire->quality, request->quality) &&
           fill(wire->description, sizeof wire->description, request->description) &&
           fill(wire->directory, sizeof wire->directory, request->directory);
}

static int result_is_possible(const struct derive_result *result, const struct derive_request *request,
                              const struct source_item *stack)
{
    size_t height = (size_t)stack->height, width = (size_t)stack->width, n = result->n_objects;
    int is_possible = n == height || n == width;
    if (request->format == FORMAT_ENHANCED)
        is_possible = n == 1;
    else if (request->view == VIEW_ACQUIRED)
        is_possible = n == request->n_planes;
    return uid_is_valid(result->series_uid) && is_possible &&
           result->n_clamped <= request->n_planes * height * width;
}

// An answer that tells what was written; *told is untouched on failure.
static int ask_result(struct reader *reader, const struct call *call, struct derive_result *told,
                      struct fault_note *why)
{
    struct answer answer = {0};
    int rc = ask(reader, call, sizeof *told, &answer, why);
    if (rc != 0)
        return rc;
    if (answer.data == NULL)
        return refuse(reader, call->doing, "answered nothing", why);
    memcpy(told, answer.data, sizeof *told);
    told->series_uid[sizeof told->series_uid - 1] = '\0';
    free(answer.data);
    return 0;
}

static int fill_notice(struct wire_notice *wire, const struct notice_request *request)
{
    *wire = (struct wire_notice){.job_time_us = request->job_time_us,
                                 .number_offset = request->number_offset,
                                 .has_station_name = request->station_name != NULL};
    return fill(wire->site_id, sizeof wire->site_id, request->site_id) &&
           fill(wire->station_name, sizeof wire->station_name, request->station_name) &&
           fill(wire->code, sizeof wire->code, request->code) &&
           fill(wire->sentence, sizeof wire->sentence, request->sentence) &&
           fill(wire->directory, sizeof wire->directory, request->directory);
}

int reader_notice(struct reader *reader, size_t item, const struct notice_request *request,
                  const struct reader_block *pixels, struct derive_result *result, struct fault_note *why)
{
    struct wire_notice wire;
    struct derive_result told = {0};
    if (item >= reader->n_items || pixels->n != (size_t)NOTICE_ROWS * NOTICE_COLUMNS ||
        !fill_notice(&wire, request))
        return fault_set(why, FAULT_INTERNAL, "a notice that does not fit its item");
    int rc = reader->pid > 0 ? 0 : begin(reader, why);
    if (rc != 0)
        return rc;
    if (fcntl(pixels->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) != 0)
        return fault_set_errno(why, errno, "cannot seal the pixels");
    struct call call = {.request = {.kind = WIRE_NOTICE, .item = (uint32_t)item, .size = sizeof wire},
                        .head = &wire,
                        .head_size = sizeof wire,
                        .fds = {pixels->fd},
                        .n_fds = 1,
                        .shared_bytes = pixels->n * sizeof(float),
                        .cpu_s = READER_CALL_S,
                        .doing = "wrote a notice"};
    rc = ask_result(reader, &call, &told, why);
    if (rc != 0)
        return rc;
    if (!uid_is_valid(told.series_uid) || told.n_objects != 1)
        return refuse(reader, call.doing, "told of a notice that cannot be", why);
    *result = told;
    return 0;
}

int reader_derive(struct reader *reader, size_t item, const struct derive_request *request,
                  const struct reader_block *voxels, const struct reader_block *residual,
                  struct derive_result *result, struct fault_note *why)
{
    const struct source_item *stack = NULL;
    struct wire_derive wire;
    struct derive_result told = {0};
    int rc = prepare(reader, item, &stack, why);
    if (rc != 0 || stack == NULL)
        return rc;
    size_t n_pixels = pixels_of(stack), n_derived = request->n_planes * n_pixels;
    if (request->n_planes > MAX_PLANES || voxels->n != (size_t)stack->depth * n_pixels ||
        residual->n != n_derived || !fill_derive(&wire, request))
        return fault_set(why, FAULT_INTERNAL, "a derived series that does not fit its stack");
    if (fcntl(residual->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) != 0)
        return fault_set_errno(why, errno, "cannot seal the residual");
    struct call call = {.request = {.kind = WIRE_DERIVE,
                                    .item = (uint32_t)item,
                                    .size = sizeof wire + request->n_planes * sizeof *request->planes},
                        .head = &wire,
                        .head_size = sizeof wire,
                        .tail = request->planes,
                        .tail_size = request->n_planes * sizeof *request->planes,
                        .fds = {voxels->fd, residual->fd},
                        .n_fds = 2,
                        .shared_bytes = (voxels->n + residual->n) * sizeof(float),
                        .cpu_s = READER_CALL_S + 1e-6 * (double)(voxels->n + residual->n),
                        .doing = "wrote the derived series"};
    rc = ask_result(reader, &call, &told, why);
    if (rc != 0)
        return rc;
    if (!result_is_possible(&told, request, stack))
        return refuse(reader, call.doing, "told of a series that cannot be", why);
    *result = told;
    return 0;
}
