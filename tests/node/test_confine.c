// SPDX-License-Identifier: Apache-2.0
//
// Inside a confined process everything that it must not do is tried.
#include "core/confine.h"
#include "core/file.h"
#include "core/user.h"
#include "tests/support/check.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static struct fault_note why;

enum { WORKED = 0, REFUSED = 10, NOT_CONFINED = 99 };

// What is done inside; gives WORKED or REFUSED.
typedef int attempt_fn(void);

static const struct confine_limits usual = {
    .memory_bytes = 512u << 20, .file_bytes = 4u << 20, .n_files = 64, .cpu_s = 2};

static int confine(enum confine_calls calls, const struct confine_limits *limits)
{
    int rules;
    return confine_resources(limits, &why) != 0 || confine_privileges(&why) != 0 ||
           confine_files_begin(&rules, &why) != 0 ||
           confine_files_add(rules, "inside", CONFINE_WRITE, &why) != 0 ||
           confine_files_add(rules, "given", CONFINE_READ, &why) != 0 ||
           confine_files_enforce(rules, &why) != 0 || confine_calls(calls, &why) != 0;
}

// Wait status of a process that tries it, confined.
static int status_of(enum confine_calls calls, const struct confine_limits *limits, attempt_fn *attempt)
{
    int status;
    mkdir("inside", 0700);
    mkdir("given", 0700);
    CHECK_OK(file_write_atomic("given/file", "1", 1, &why));
    CHECK_OK(file_write_atomic("outside", "1", 1, &why));
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        signal(SIGXFSZ, SIG_IGN);
        if (confine(calls, limits) != 0)
            _exit(NOT_CONFINED);
        _exit(attempt());
    }
    CHECK_INT(waitpid(pid, &status, 0), pid);
    return status;
}

#define REFUSED_IF(condition) ((condition) ? REFUSED : WORKED)

struct attempt {
    const char *name;
    attempt_fn *fn;
};

static void check_all(const struct attempt *attempts, size_t n, int want_signal, int want_code)
{
    static const enum confine_calls both[] = {CONFINE_RECEIVER, CONFINE_READER};
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < 2; j++) {
            int status = status_of(both[j], &usual, attempts[i].fn);
            int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
            if (number != want_signal || (want_signal == 0 && WEXITSTATUS(status) != want_code))
                CHECK_FAIL("%s as %s: signal %d and exit code %d, not signal %d and exit code %d",
                           attempts[i].name, j == 0 ? "receiver" : "reader", number,
                           WIFEXITED(status) ? WEXITSTATUS(status) : -1, want_signal, want_code);
        }
}

#define CHECK_ALL(attempts, want_signal, want_code)                                                          \
    check_all(attempts, sizeof(attempts) / sizeof((attempts)[0]), want_signal, want_code)

// ---- files

static int read_passwd(void)
{
    return REFUSED_IF(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
}
static int list_root(void)
{
    return REFUSED_IF(open("/", O_RDONLY | O_DIRECTORY) < 0 && errno == EACCES);
}
static int read_beside(void)
{
    return REFUSED_IF(open("outside", O_RDONLY) < 0 && errno == EACCES);
}
static int write_beside(void)
{
    return REFUSED_IF(open("new", O_WRONLY | O_CREAT, 0600) < 0 && errno == EACCES);
}
static int climb(void)
{
    return REFUSED_IF(open("inside/../outside", O_RDONLY) < 0 && errno == EACCES);
}
static int change_given(void)
{
    return REFUSED_IF(open("given/file", O_WRONLY) < 0 && errno == EACCES && unlink("given/file") != 0);
}
static int remove_beside(void)
{
    return REFUSED_IF(unlink("outside") != 0);
}
static int rename_out(void)
{
    int fd = open("inside/a", O_WRONLY | O_CREAT, 0600);
    return REFUSED_IF(fd >= 0 && rename("inside/a", "outside") != 0);
}
static int make_link(void)
{
    return REFUSED_IF(symlink("/etc/passwd", "inside/link") != 0);
}
static int read_memory_of_parent(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)getppid());
    return REFUSED_IF(open(path, O_RDONLY) < 0);
}
static int file_too_large(void)
{
    static char block[1 << 20];
    int fd = open("inside/large", O_WRONLY | O_CREAT, 0600);
    ssize_t n = 0;
    for (int i = 0; i < 8 && n >= 0; i++)
        n = write(fd, block, sizeof block);
    return REFUSED_IF(fd >= 0 && n < 0 && errno == EFBIG);
}

static void files(void)
{
    static const struct attempt refused[] = {
        {"reading /etc/passwd", read_passwd},
        {"listing /", list_root},
        {"reading beside the folder", read_beside},
        {"writing beside the folder", write_beside},
        {"climbing out of the folder", climb},
        {"changing what may be read", change_given},
        {"removing beside the folder", remove_beside},
        {"renaming out of the folder", rename_out},
        {"making a link", make_link},
        {"the parent's memory", read_memory_of_parent},
        {"a file beyond the limit", file_too_large},
    };
    if (!confine_has_landlock())
        CHECK_FAIL("this kernel has no Landlock: what a confined process may reach cannot be shown");
    CHECK_ALL(refused, 0, REFUSED);
}

// ---- what must work

static int keep_a_file(void)
{
    struct fault_note note;
    void *data = NULL;
    size_t size = 0;
    if (file_write_atomic("inside/file", "abc", 3, &note) != 0 || file_sync_directory("inside", &note) != 0)
        return 1;
    if (file_read("inside/file", 10, &data, &size, &note) != 0 || size != 3)
        return 2;
    free(data);
    if (file_read("given/file", 10, &data, &size, &note) != 0 || size != 1)
        return 3;
    free(data);
    if (file_make_directory("inside/folder", &note) != 0 || file_remove_tree("inside/folder", &note) != 0)
        return 4;
    return file_free_bytes("inside") > 0 ? WORKED : 5;
}
static int take_memory(void)
{
    const size_t size = 64u << 20;
    char *p = malloc(size);
    if (p == NULL)
        return 1;
    memset(p, 1, size);
    char *moved = realloc(p, 2 * size);
    int code = moved != NULL && moved[size - 1] == 1 ? WORKED : 2;
    free(moved != NULL ? moved : p);
    return code;
}
static void what_is_needed_works(void)
{
    static const struct attempt work[] = {{"keeping a file", keep_a_file}, {"memory", take_memory}};
    CHECK_ALL(work, 0, WORKED);
}

// A container's filter may keep Landlock away, with the one error or the other: a process is then confined by
// the rest, as on a kernel without it.
static int confined_below(const int *error)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    if (filter == NULL ||
        seccomp_rule_add(filter, SCMP_ACT_ERRNO((uint16_t)*error), SCMP_SYS(landlock_create_ruleset), 0) !=
            0 ||
        seccomp_load(filter) != 0)
        return 1;
    seccomp_release(filter);
    if (confine_has_landlock())
        return 2;
    if (confine(CONFINE_READER, &usual) != 0)
        return 3;
    return keep_a_file();
}

static void container_without_landlock(void)
{
    static const int errors[] = {EPERM, ENOSYS, EOPNOTSUPP};
    mkdir("inside", 0700);
    mkdir("given", 0700);
    CHECK_OK(file_write_atomic("given/file", "1", 1, &why));
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        int status;
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0)
            _exit(confined_below(&errors[i]));
        CHECK_INT(waitpid(pid, &status, 0), pid);
        CHECK(WIFEXITED(status));
        CHECK_INT(WEXITSTATUS(status), WORKED);
    }
}

#if !CONFINE_IS_SANITIZED // there these do nothing

// ---- system calls

static int make_socket(void)
{
    return REFUSED_IF(socket(AF_INET, SOCK_STREAM, 0) < 0);
}
static int make_unix_socket(void)
{
    int ends[2];
    return REFUSED_IF(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0);
}
static int connect_out(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(80)};
    return REFUSED_IF(connect(0, (struct sockaddr *)&to, sizeof to) < 0);
}
static int bind_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    return REFUSED_IF(bind(0, (struct sockaddr *)&at, sizeof at) < 0);
}
static int run_program(void)
{
    char *const arguments[] = {"true", NULL};
    execv("/bin/true", arguments);
    return REFUSED;
}
static int make_process(void)
{
    return REFUSED_IF(fork() < 0);
}
static int kill_parent(void)
{
    return REFUSED_IF(kill(getppid(), 0) != 0);
}
static int kill_thread_of_parent(void)
{
    return REFUSED_IF(syscall(SYS_tgkill, getppid(), getppid(), 0) != 0);
}
static int trace_parent(void)
{
    return REFUSED_IF(ptrace(PTRACE_ATTACH, getppid(), 0, 0) != 0);
}
static int open_handle(void)
{
    return REFUSED_IF(syscall(SYS_open_by_handle_at, 0, NULL, 0) < 0);
}
static int mount_something(void)
{
    return REFUSED_IF(mount("none", "inside", "tmpfs", 0, NULL) != 0);
}
static int load_bpf(void)
{
    return REFUSED_IF(syscall(SYS_bpf, 0, NULL, 0) < 0);
}
static int set_up_io_uring(void)
{
    return REFUSED_IF(syscall(SYS_io_uring_setup, 1, NULL) < 0);
}
static int become_root(void)
{
    return REFUSED_IF(setuid(0) != 0);
}
static int leave_namespace(void)
{
    return REFUSED_IF(syscall(SYS_unshare, 0x10000000) != 0);
}

static void a_break_in_is_killed(void)
{
    static const struct attempt deadly[] = {
        {"socket", make_socket},
        {"socketpair", make_unix_socket},
        {"connect", connect_out},
        {"bind", bind_port},
        {"execve", run_program},
        {"fork", make_process},
        {"kill of the parent", kill_parent},
        {"tgkill of the parent", kill_thread_of_parent},
        {"ptrace", trace_parent},
        {"open_by_handle_at", open_handle},
        {"mount", mount_something},
        {"bpf", load_bpf},
        {"io_uring_setup", set_up_io_uring},
        {"setuid", become_root},
        {"unshare", leave_namespace},
    };
    CHECK_ALL(deadly, SIGSYS, 0);
}

static int truncate_by_name(void)
{
    return REFUSED_IF(truncate("outside", 0) != 0 && errno == ENOSYS);
}
static int change_mode(void)
{
    return REFUSED_IF(chmod("outside", 0777) != 0 && errno == ENOSYS);
}
static int unknown_call(void)
{
    return REFUSED_IF(syscall(1000) < 0 && errno == ENOSYS);
}
static int executable_memory(void)
{
    return REFUSED_IF(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
                          MAP_FAILED &&
                      errno == EPERM);
}
static int raise_a_limit(void)
{
    struct rlimit limit = {1u << 30, 1u << 30};
    return REFUSED_IF(setrlimit(RLIMIT_AS, &limit) != 0);
}
static int too_much_memory(void)
{
    return REFUSED_IF(mmap(NULL, 600u << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED &&
                      errno == ENOMEM);
}

static void the_rest_is_refused(void)
{
    static const struct attempt refused[] = {
        {"truncate by name", truncate_by_name},     {"chmod", change_mode},
        {"a call that is not known", unknown_call}, {"executable memory", executable_memory},
        {"raising a limit", raise_a_limit},         {"memory beyond the limit", too_much_memory},
    };
    CHECK_ALL(refused, 0, REFUSED);
}

static int give_up(void)
{
    abort();
    return WORKED;
}

static void abort_ends_as_ever(void)
{
    static const struct attempt abortion[] = {{"abort", give_up}};
    CHECK_ALL(abortion, SIGABRT, 0);
}

#endif

static int spin(void)
{
    volatile unsigned n = 0;
    while (n != 1) // which an even number never is
        n += 2;
    return WORKED;
}

static void time_is_limited(void)
{
    struct confine_limits short_time = usual;
    short_time.cpu_s = 1;
    short_time.is_raisable = 1; // else the hard limit comes at the same moment, with SIGKILL
    int status = status_of(CONFINE_READER, &short_time, spin);
    CHECK_INT(WIFSIGNALED(status) ? WTERMSIG(status) : 0, SIGXCPU);
}

// ---- users

static int become_nobody(void)
{
    struct user nobody;
    struct fault_note note;
    int signal_at_death = 0;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (user_find("nobody", &nobody, &note) != 0 || !nobody.is_other || user_become(&nobody, &note) != 0)
        return 1;
    if (getuid() == 0 || geteuid() != nobody.uid || getegid() != nobody.gid || setuid(0) == 0)
        return 2;
    prctl(PR_GET_PDEATHSIG, &signal_at_death);
    if (signal_at_death != SIGTERM)
        return 3;
    return open("secret", O_RDONLY) < 0 && errno == EACCES ? WORKED : 4;
}

static void another_user(void)
{
    struct user user;
    int status;
    CHECK_FAULT(user_find("no-such-user", &user, &why), FAULT_CONFIG);
    CHECK_CONTAINS(why.text, "there is no user 'no-such-user'");
    CHECK_OK(user_find("", &user, &why));
    CHECK_INT(user.is_other, 0);
    CHECK_INT(user.uid, geteuid());
    if (geteuid() != 0) {
        CHECK_FAULT(user_find("root", &user, &why), FAULT_CONFIG);
        CHECK_CONTAINS(why.text, "only root can become 'root'");
        return;
    }
    CHECK_OK(file_write_atomic("secret", "1", 1, &why)); // mode 0600
    pid_t pid = fork();
    if (pid == 0)
        _exit(become_nobody());
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK_INT(status, 0);
    CHECK_OK(user_find("nobody", &user, &why));
    CHECK_FAULT(user_check_owner(&user, ".", &why), FAULT_CONFIG);
    CHECK_CONTAINS(why.text, "install -d -m 0700 -o nobody");
}

static const struct test tests[] = {
    {"unit.confine.files", files},
    {"unit.confine.what_is_needed_works", what_is_needed_works},
    {"unit.confine.container_without_landlock", container_without_landlock},
#if !CONFINE_IS_SANITIZED
    {"unit.confine.a_break_in_is_killed", a_break_in_is_killed},
    {"unit.confine.the_rest_is_refused", the_rest_is_refused},
    {"unit.confine.abort_ends_as_ever", abort_ends_as_ever},
#endif
    {"unit.confine.time_is_limited", time_is_limited},
    {"unit.user.another_user", another_user},
};
TEST_MAIN(tests)
