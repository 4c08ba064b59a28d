// SPDX-License-Identifier: Apache-2.0
//
// Files that are either wholly there or not at all. Every call that changes a disk goes through one small
// table, so that tests can stop or fail a program at the n-th call. Not here: what the files mean. Everybody
// may include this.

#ifndef ISOSLICE_CORE_FILE_H
#define ISOSLICE_CORE_FILE_H

#include "core/fault.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// The system calls that change a disk; same contract as the calls of that name, errno included.
struct file_ops {
    int (*open)(const char *path, int flags, mode_t mode);
    ssize_t (*write)(int fd, const void *data, size_t size);
    int (*fsync)(int fd);
    int (*fdatasync)(int fd);
    int (*close)(int fd);
    int (*rename)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*mkdir)(const char *path, mode_t mode);
};

// The table in use; the system's own calls unless a test replaced it.
extern struct file_ops file_ops;

// Installs the crash point that ISOSLICE_CRASH_AT asks for, if the environment has it: "N" ends the process
// with SIGKILL just before the N-th call (from 1) through file_ops; "N:E" makes the N-th call fail with errno
// number E. Called by programs at start; without the variable it does nothing.
void file_arm_crash_point(void);

// All of `data`, over partial writes and EINTR. Errors: IO, NO_SPACE, TOO_LARGE.
int file_write_all(int fd, const void *data, size_t size, const char *path, struct fault_note *why);

// Makes what was written under `temporary` durable as `final`: fsync, close (always), rename, fsync of the
// directory. On failure `temporary` is unlinked and `final` untouched. Both names lie in the same directory.
int file_commit(int fd, const char *temporary, const char *final, struct fault_note *why);

// A whole file at once: `path` with ".tmp" appended is written, then committed. Mode 0600.
int file_write_atomic(const char *path, const void *data, size_t size, struct fault_note *why);

// fsync of a directory, so that names in it are durable.
int file_sync_directory(const char *directory, struct fault_note *why);

// Makes `path` and its missing parents, mode 0700; an existing directory is fine. The parent is synced.
int file_make_directory(const char *path, struct fault_note *why);

// Removes a directory and everything in it (links are removed, not followed). A missing one is fine.
int file_remove_tree(const char *path, struct fault_note *why);

// The whole file in memory, a zero byte after it that is not counted. *data is owned by the caller (free).
// Errors: IO, TOO_LARGE when it is larger than `limit`, NO_MEMORY.
int file_read(const char *path, size_t limit, void **data, size_t *size, struct fault_note *why);

// "a/b" joined into out; INTERNAL when it does not fit.
int file_join(char *out, size_t size, const char *directory, const char *name, struct fault_note *why);

// Bytes free for us on the file system of `path`, or -1.
int64_t file_free_bytes(const char *path);

#endif
