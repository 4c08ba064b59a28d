// SPDX-License-Identifier: Apache-2.0
#include "core/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int real_open(const char *path, int flags, mode_t mode)
{
    return open(path, flags | O_CLOEXEC, mode);
}

struct file_ops file_ops = {
    .open = real_open,
    .write = write,
    .fsync = fsync,
    .fdatasync = fdatasync,
    .close = close,
    .rename = rename,
    .unlink = unlink,
    .mkdir = mkdir,
};

// ---- crash points: the N-th call ends the process, or fails

static long crash_countdown;
static int crash_errno;

static int crash_here(void)
{
    if (--crash_countdown != 0)
        return 0;
    if (crash_errno == 0)
        raise(SIGKILL);
    errno = crash_errno;
    return 1;
}

static int crash_open(const char *path, int flags, mode_t mode)
{
    return crash_here() ? -1 : real_open(path, flags, mode);
}

static ssize_t crash_write(int fd, const void *data, size_t size)
{
    return crash_here() ? -1 : write(fd, data, size);
}

static int crash_fsync(int fd)
{
    return crash_here() ? -1 : fsync(fd);
}

static int crash_fdatasync(int fd)
{
    return crash_here() ? -1 : fdatasync(fd);
}

static int crash_close(int fd)
{
    int failed = crash_here();
    int saved = errno;
    int rc = close(fd);
    if (failed) {
        errno = saved;
        return -1;
    }
    return rc;
}

static int crash_rename(const char *from, const char *to)
{
    return crash_here() ? -1 : rename(from, to);
}

static int crash_unlink(const char *path)
{
    return crash_here() ? -1 : unlink(path);
}

static int crash_mkdir(const char *path, mode_t mode)
{
    return crash_here() ? -1 : mkdir(path, mode);
}

void file_arm_crash_point(void)
{
    const char *spec = getenv("ISOSLICE_CRASH_AT");
    if (spec == NULL)
        return;
    char *end;
    crash_countdown = strtol(spec, &end, 10);
    crash_errno = *end == ':' ? (int)strtol(end + 1, NULL, 10) : 0;
    file_ops = (struct file_ops){crash_open,  crash_write,  crash_fsync,  crash_fdatasync,
                                 crash_close, crash_rename, crash_unlink, crash_mkdir};
}

// ---- writing

int file_write_all(int fd, const void *data, size_t size, const char *path, struct fault_note *why)
{
    const char *p = data;
    while (size > 0) {
        ssize_t n = file_ops.write(fd, p, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fault_set_errno(why, n == 0 ? EIO : errno, "cannot write '%s'", path);
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

static int sync_parent(const char *path, struct fault_note *why)
{
    char parent[4096];
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return file_sync_directory(".", why);
    size_t n = slash == path ? 1 : (size_t)(slash - path);
    if (n >= sizeof parent)
        return fault_set(why, FAULT_INTERNAL, "path too long: %zu bytes", strlen(path));
    memcpy(parent, path, n);
    parent[n] = '\0';
    return file_sync_directory(parent, why);
}

int file_commit(int fd, const char *temporary, const char *final, struct fault_note *why)
{
    int rc = 0;
    if (file_ops.fsync(fd) != 0)
        rc = fault_set_errno(why, errno, "cannot sync '%s'", temporary);
    if (file_ops.close(fd) != 0 && rc == 0)
        rc = fault_set_errno(why, errno, "cannot close '%s'", temporary);
    if (rc == 0 && file_ops.rename(temporary, final) != 0)
        rc = fault_set_errno(why, errno, "cannot rename '%s'", temporary);
    if (rc == 0)
        return sync_parent(final, why);
    file_ops.unlink(temporary);
    return rc;
}

int file_write_atomic(const char *path, const void *data, size_t size, struct fault_note *why)
{
    char temporary[4096];
    int n = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (n < 0 || (size_t)n >= sizeof temporary)
        return fault_set(why, FAULT_INTERNAL, "path too long: %zu bytes", strlen(path));
    int fd = file_ops.open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        return fault_set_errno(why, errno, "cannot create '%s'", temporary);
    int rc = file_write_all(fd, data, size, temporary, why);
    if (rc != 0) {
        file_ops.close(fd);
        file_ops.unlink(temporary);
        return rc;
    }
    return file_commit(fd, temporary, path, why);
}

int file_sync_directory(const char *directory, struct fault_note *why)
{
    int fd = file_ops.open(directory, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fault_set_errno(why, errno, "cannot open directory '%s'", directory);
    int rc = 0;
    if (file_ops.fsync(fd) != 0)
        rc = fault_set_errno(why, errno, "cannot sync directory '%s'", directory);
    if (file_ops.close(fd) != 0 && rc == 0)
        rc = fault_set_errno(why, errno, "cannot close directory '%s'", directory);
    return rc;
}

int file_make_directory(const char *path, struct fault_note *why)
{
    struct stat st;
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return 0;
        return fault_set(why, FAULT_IO, "not a directory: '%s'", path);
    }
    char parent[4096];
    size_t n = strlen(path);
    if (n >= sizeof parent)
        return fault_set(why, FAULT_INTERNAL, "path too long: %zu bytes", n);
    memcpy(parent, path, n + 1);
    char *slash = strrchr(parent, '/');
    if (slash != NULL && slash != parent) {
        *slash = '\0';
        int rc = file_make_directory(parent, why);
        if (rc != 0)
            return rc;
    }
    if (file_ops.mkdir(path, 0700) != 0 && errno != EEXIST)
        return fault_set_errno(why, errno, "cannot make directory '%s'", path);
    return sync_parent(path, why);
}

int file_remove_tree(const char *path, struct fault_note *why)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? 0 : fault_set_errno(why, errno, "cannot look at '%s'", path);
    if (!S_ISDIR(st.st_mode)) {
        if (file_ops.unlink(path) != 0 && errno != ENOENT)
            return fault_set_errno(why, errno, "cannot remove '%s'", path);
        return 0;
    }
    DIR *dir = opendir(path);
    if (dir == NULL)
        return fault_set_errno(why, errno, "cannot open directory '%s'", path);
    int rc = 0;
    struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        char child[4096];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        rc = file_join(child, sizeof child, path, entry->d_name, why);
        if (rc == 0)
            rc = file_remove_tree(child, why);
    }
    closedir(dir);
    if (rc == 0 && rmdir(path) != 0 && errno != ENOENT)
        rc = fault_set_errno(why, errno, "cannot remove directory '%s'", path);
    return rc;
}

// ---- reading

int file_read(const char *path, size_t limit, void **data, size_t *size, struct fault_note *why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fault_set_errno(why, errno, "cannot open '%s'", path);
    struct stat st;
    int rc = 0;
    char *buffer = NULL;
    size_t got = 0, want = 0;
    if (fstat(fd, &st) != 0)
        rc = fault_set_errno(why, errno, "cannot look at '%s'", path);
    else if (!S_ISREG(st.st_mode))
        rc = fault_set(why, FAULT_IO, "not a regular file: '%s'", path);
    else if ((uint64_t)st.st_size > limit)
        rc = fault_set(why, FAULT_TOO_LARGE, "file too large: '%s' has %lld bytes, limit %zu", path,
                       (long long)st.st_size, limit);
    if (rc == 0) {
        want = (size_t)st.st_size;
        buffer = malloc(want + 1);
        if (buffer == NULL)
            rc = fault_set(why, FAULT_NO_MEMORY, "cannot hold '%s': %zu bytes", path, want);
    }
    while (rc == 0 && got < want) {
        ssize_t n = read(fd, buffer + got, want - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = fault_set_errno(why, errno, "cannot read '%s'", path);
        else if (n == 0)
            break;
        else
            got += (size_t)n;
    }
    close(fd);
    if (rc != 0 || buffer == NULL) {
        free(buffer);
        return rc;
    }
    buffer[got] = '\0';
    *data = buffer;
    *size = got;
    return 0;
}

int file_join(char *out, size_t size, const char *directory, const char *name, struct fault_note *why)
{
    int n = snprintf(out, size, "%s/%s", directory, name);
    if (n < 0 || (size_t)n >= size)
        return fault_set(why, FAULT_INTERNAL, "path too long: '%s/%s'", directory, name);
    return 0;
}

int64_t file_free_bytes(const char *path)
{
    struct statvfs fs;
    if (statvfs(path, &fs) != 0)
        return -1;
    return (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
}
