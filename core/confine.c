// SPDX-License-Identifier: Apache-2.0
#include "core/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// ---- resources

static int set_limit(int resource, uint64_t value, int is_raisable, struct fault_note *why)
{
    struct rlimit limit;
    if (getrlimit((__rlimit_resource_t)resource, &limit) != 0)
        return fault_set_errno(why, errno, "cannot read resource limit %d", resource);
    if (limit.rlim_max != RLIM_INFINITY && value > limit.rlim_max)
        value = limit.rlim_max; // whoever started us was stricter
    limit.rlim_cur = value;
    if (!is_raisable)
        limit.rlim_max = value;
    if (setrlimit((__rlimit_resource_t)resource, &limit) != 0)
        return fault_set_errno(why, errno, "cannot set resource limit %d", resource);
    return 0;
}

int confine_resources(const struct confine_limits *limits, struct fault_note *why)
{
    int rc = set_limit(RLIMIT_CORE, 0, 0, why);
    if (rc == 0)
        rc = set_limit(RLIMIT_NPROC, 0, 0, why);
    if (rc == 0 && limits->file_bytes > 0)
        rc = set_limit(RLIMIT_FSIZE, limits->file_bytes, 0, why);
    if (rc == 0 && limits->n_files > 0)
        rc = set_limit(RLIMIT_NOFILE, limits->n_files, 0, why);
    if (rc == 0 && limits->cpu_s > 0)
        rc = set_limit(RLIMIT_CPU, limits->cpu_s, limits->is_raisable, why);
    if (rc == 0 && limits->memory_bytes > 0 && !CONFINE_IS_SANITIZED)
        rc = set_limit(RLIMIT_AS, limits->memory_bytes, limits->is_raisable, why);
    return rc;
}

// ---- privileges

int confine_privileges(struct fault_note *why)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return fault_set_errno(why, errno, "cannot give up new privileges");
    if (syscall(SYS_capset, &header, none) != 0) // the ambient ones go with the permitted
        return fault_set_errno(why, errno, "cannot give up capabilities");
    // The leak checker of the sanitizer builds is a tracer.
    if (!CONFINE_IS_SANITIZED && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        return fault_set_errno(why, errno, "cannot forbid tracing");
    return 0;
}

// ---- files

int confine_has_landlock(void)
{
    return syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) >= 1;
}

int confine_files_begin(int *rules, struct fault_note *why)
{
    // Everything of the first version. What later ones add is out of reach of confine_calls.
    struct landlock_ruleset_attr handled = {.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1};
    *rules = (int)syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0);
    // Not in this kernel, switched off at boot, or kept away by the filter of a container
    // (landlock_create_ruleset(2) itself knows no EPERM).
    if (*rules < 0 && errno != ENOSYS && errno != EOPNOTSUPP && errno != EPERM)
        return fault_set_errno(why, errno, "cannot make a Landlock rule set");
    return 0;
}

int confine_files_add(int rules, const char *path, enum confine_right right, struct fault_note *why)
{
    static const uint64_t on_files = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE;
    static const uint64_t rights[] = {
        [CONFINE_READ] = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR,
        [CONFINE_WRITE] = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE |
                          LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                          LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
                          LANDLOCK_ACCESS_FS_MAKE_DIR,
    };
    struct landlock_path_beneath_attr beneath = {.allowed_access = rights[right]};
    struct stat st;
    if (rules < 0)
        return 0;
    beneath.parent_fd = open(path, O_PATH | O_CLOEXEC);
    if (beneath.parent_fd < 0)
        return fault_set_errno(why, errno, "cannot open '%s'", path);
    int rc = 0;
    if (fstat(beneath.parent_fd, &st) == 0 && !S_ISDIR(st.st_mode))
        beneath.allowed_access &= on_files;
    if (syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) != 0)
        rc = fault_set_errno(why, errno, "cannot add a Landlock rule");
    close(beneath.parent_fd);
    return rc;
}

int confine_files_enforce(int rules, struct fault_note *why)
{
    int rc = 0;
    if (rules < 0)
        return 0;
    if (syscall(SYS_landlock_restrict_self, rules, 0) != 0)
        rc = fault_set_errno(why, errno, "cannot enforce Landlock");
    close(rules);
    return rc;
}

// ---- system calls

// What both need: open files, memory, time, their end.
static const char *const allowed[] = {
    "read", "write", "readv", "writev", "pread64", "pwrite64", "close", "lseek", "openat", "open", "fstat",
    "newfstatat", "stat", "lstat", "statx", "statfs", "fstatfs", "access", "faccessat", "faccessat2",
    "readlink", "readlinkat", "getcwd", "getdents64", "fcntl", "fsync", "fdatasync", "ftruncate", "rename",
    "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir",
    //
    "brk", "munmap", "mremap", "madvise", "futex", "getrandom", "sysinfo", "sched_getaffinity", "sched_yield",
    "getrlimit", "uname", "getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid",
    "clock_gettime", "clock_getres", "gettimeofday", "time", "times", "getrusage",
    //
    "recvmsg", "sendmsg", "recvfrom", "sendto", "rt_sigreturn", "exit", "exit_group", "restart_syscall"};

// A new folder of its own within the one given, locked; waiting for a peer.
static const char *const allowed_receiver[] = {"chdir",
                                               "flock",
                                               "landlock_create_ruleset",
                                               "landlock_add_rule",
                                               "landlock_restrict_self",
                                               "poll",
                                               "ppoll",
                                               "select",
                                               "pselect6",
                                               "shutdown",
                                               "alarm",
                                               "setitimer",
                                               "setsockopt",
                                               "getsockopt",
                                               "getsockname",
                                               "getpeername",
                                               "nanosleep",
                                               "clock_nanosleep",
                                               "rt_sigaction",
                                               "rt_sigprocmask"};

static const char *const deadly[] = {
    // network and programs
    "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "execve", "execveat", "fork",
    "vfork", "clone", "clone3",
    // other processes
    "kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_getfd", "pidfd_send_signal",
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp",
    // who and where we are
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups",
    "capset", "unshare", "setns", "chroot", "pivot_root", "mount", "umount2", "move_mount", "fsopen",
    "fsconfig", "fsmount", "open_tree", "mount_setattr", "open_by_handle_at", "mknod", "mknodat",
    // the kernel
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
    "add_key", "request_key", "keyctl", "init_module", "finit_module", "delete_module", "kexec_load",
    "kexec_file_load", "reboot", "swapon", "swapoff", "iopl", "ioperm", "acct", "quotactl", "settimeofday",
    "clock_settime", "adjtimex", "clock_adjtime", "sethostname", "setdomainname", "syslog"};

static int add_names(scmp_filter_ctx filter, uint32_t action, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int number = seccomp_syscall_resolve_name(names[i]);
        int rc = number == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(filter, action, number, 0);
        if (rc != 0)
            return rc; // a call that this architecture or libseccomp lacks is none
    }
    return 0;
}

#define N_NAMES(names) (sizeof(names) / sizeof((names)[0]))

// Calls that are allowed with some arguments only.
static int add_conditional(scmp_filter_ctx filter)
{
    static const int with_protection[] = {SCMP_SYS(mmap), SCMP_SYS(mprotect)};
    const scmp_datum_t self = (scmp_datum_t)getpid();
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < 2; i++) {
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, with_protection[i], 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
        if (rc == 0)
            rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), with_protection[i], 1,
                                  SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, PROT_EXEC));
    }
    if (rc == 0) // what ends a program in despair
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, self));
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_NE, self));
    if (rc == 0) // to read a limit, not to set one
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, SCMP_A2(SCMP_CMP_EQ, 0));
    return rc;
}

int confine_calls(enum confine_calls which, struct fault_note *why)
{
    if (CONFINE_IS_SANITIZED)
        return 0;
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (filter == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot make a system call filter");
    int rc = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (rc == 0)
        rc =
            seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); // a search tree: every call passes through
    if (rc == 0)
        rc = add_names(filter, SCMP_ACT_ALLOW, allowed, N_NAMES(allowed));
    if (rc == 0 && which == CONFINE_RECEIVER)
        rc = add_names(filter, SCMP_ACT_ALLOW, allowed_receiver, N_NAMES(allowed_receiver));
    if (rc == 0)
        rc = add_names(filter, SCMP_ACT_KILL_PROCESS, deadly, N_NAMES(deadly));
    if (rc == 0)
        rc = add_conditional(filter);
    if (rc == 0)
        rc = seccomp_load(filter);
    seccomp_release(filter);
    return rc == 0 ? 0 : fault_set(why, FAULT_INTERNAL, "cannot filter system calls: error %d", -rc);
}
