// SPDX-License-Identifier: Apache-2.0
//
// Takes away what a process that handles strangers' bytes does not need: privileges, memory and processor
// time without end, files outside its folders (Landlock), and system calls (seccomp). What is taken does not
// come back. A fault here means that the process must not go on. Needs libseccomp. Not here: which process
// gets what, and users (user.h).

#ifndef ISOSLICE_CORE_CONFINE_H
#define ISOSLICE_CORE_CONFINE_H

#include "core/fault.h"

#include <stdint.h>

// 1 in builds with AddressSanitizer, which reserves address space by the terabyte and starts threads of its
// own: there memory_bytes and confine_calls do nothing.
#if defined(__SANITIZE_ADDRESS__)
#    define CONFINE_IS_SANITIZED 1
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define CONFINE_IS_SANITIZED 1
#    endif
#endif
#if !defined(CONFINE_IS_SANITIZED)
#    define CONFINE_IS_SANITIZED 0
#endif

// Of this process; 0 leaves a limit as it is. No core dumps and no further processes in any case.
struct confine_limits {
    uint64_t memory_bytes; // address space
    uint64_t file_bytes;   // one file; beyond it EFBIG
    uint64_t n_files;      // open at a time
    uint64_t cpu_s;        // processor time; SIGXCPU ends the process
    int is_raisable;       // memory and time are soft limits, which another process may raise (prlimit)
};
int confine_resources(const struct confine_limits *limits, struct fault_note *why);

// All capabilities, the way to get any by a program with set-user-ID, and being traced or dumped. Errors:
// INTERNAL.
int confine_privileges(struct fault_note *why);

// Files: confine_files_begin, one confine_files_add for each path, confine_files_enforce. From then on the
// process reaches only those; metadata of others can still be read. A second round narrows further. Comes
// after confine_privileges. Where there is no Landlock *rules is -1 and all three do nothing: see
// confine_has_landlock. Errors: IO for a path that cannot be opened, INTERNAL.
enum confine_right {
    CONFINE_READ, // a file, or a folder and everything below
    CONFINE_WRITE // a folder: also make, change, rename and remove regular files and folders below it
};
int confine_files_begin(int *rules, struct fault_note *why);
int confine_files_add(int rules, const char *path, enum confine_right right, struct fault_note *why);
int confine_files_enforce(int rules, struct fault_note *why); // takes `rules`

// 0: the kernel lacks it, or a container does not let it through.
int confine_has_landlock(void);

// System calls. Listed ones work; those that a break-in would want (network, processes, programs, other
// processes, mounts, kernel interfaces) kill the process with SIGSYS, so that they are noticed; all others
// answer ENOSYS, so that a C library that tries something new first falls back to what it did before. No
// memory becomes executable. Errors: INTERNAL.
enum confine_calls {
    CONFINE_RECEIVER, // one connected socket, files, clocks
    CONFINE_READER    // one connected Unix socket, files; no signal handlers, no clocks to sleep by
};
int confine_calls(enum confine_calls which, struct fault_note *why);

#endif
