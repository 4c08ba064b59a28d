// SPDX-License-Identifier: Apache-2.0
#include "core/clock.h"
#include "core/daemon.h"
#include "core/fault.h"
#include "core/file.h"
#include "core/quote.h"
#include "tests/support/check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct fault_note why;

static void fault_rows_are_unique(void)
{
    static const enum fault all[] = {
#define X(id, number, class, status, text) FAULT_##id,
        FAULT_TABLE(X)
#undef X
    };
    size_t n = sizeof all / sizeof all[0];
    for (size_t i = 0; i < n; i++) {
        CHECK(all[i] < 0);
        for (size_t j = 0; j < i; j++)
            CHECK(all[i] != all[j]);
        CHECK_INT(fault_from_name(fault_name(all[i])), all[i]);
        CHECK(fault_class_of(all[i]) != FAULT_CLASS_NONE);
    }
    CHECK_STR(fault_name((enum fault) - 9999), "UNKNOWN");
    CHECK_INT(fault_class_of((enum fault) - 9999), FAULT_CLASS_BUG);
}

static void fault_dimse_statuses(void)
{
    CHECK_INT(fault_dimse_status(FAULT_OK), 0);
    CHECK_INT(fault_dimse_status(FAULT_NO_SPACE), 0xA700);
    CHECK_INT(fault_dimse_status(FAULT_SOP_MISMATCH), 0xA900);
    CHECK_INT(fault_dimse_status(FAULT_BAD_HEADER), 0xC000);
    CHECK_INT(fault_dimse_status(FAULT_QUEUE), 0x0110);
}

static void fault_errno_kinds(void)
{
    CHECK_INT(fault_set_errno(&why, ENOSPC, "cannot write '%s'", "x"), FAULT_NO_SPACE);
    CHECK_STR(why.text, "cannot write 'x': No space left on device");
    CHECK_INT(fault_set_errno(NULL, EACCES, "x"), FAULT_IO);
    CHECK_INT(fault_set_errno(&why, EDQUOT, "x"), FAULT_NO_SPACE);
    CHECK_INT(fault_set_errno(&why, EFBIG, "x"), FAULT_TOO_LARGE);
}

static void file_atomic_roundtrip(void)
{
    void *data;
    size_t size;
    CHECK_OK(file_make_directory("a/b/c", &why));
    CHECK_OK(file_make_directory("a/b/c", &why));
    CHECK_OK(file_write_atomic("a/b/c/f", "hello", 5, &why));
    CHECK_OK(file_read("a/b/c/f", 5, &data, &size, &why));
    CHECK_INT(size, 5);
    CHECK_STR(data, "hello");
    free(data);
    CHECK_FAULT(file_read("a/b/c/f", 4, &data, &size, &why), FAULT_TOO_LARGE);
    CHECK_FAULT(file_read("a/b/c/none", 4, &data, &size, &why), FAULT_IO);
    CHECK(access("a/b/c/f.tmp", F_OK) != 0);
    struct stat st;
    CHECK_INT(stat("a/b/c/f", &st), 0);
    CHECK_INT(st.st_mode & 0777, 0600);
    CHECK_OK(file_remove_tree("a", &why));
    CHECK_OK(file_remove_tree("a", &why));
    CHECK(access("a", F_OK) != 0);
}

// Stopped before, or failing at, every single file call, the old contents or the new ones stand there, never
// others.
static void file_atomic_survives_every_crash(void)
{
    CHECK_OK(file_write_atomic("f", "old", 3, &why));
    int ended = 0;
    for (int call = 1; call < 40 && !ended; call++) {
        for (int kind = 0; kind < 2; kind++) {
            char spec[32];
            snprintf(spec, sizeof spec, kind ? "%d:%d" : "%d", call, EIO);
            pid_t pid = fork();
            CHECK(pid >= 0);
            if (pid == 0) {
                setenv("ISOSLICE_CRASH_AT", spec, 1);
                file_arm_crash_point();
                _exit(file_write_atomic("f", "new!", 4, &why) == 0 ? 0 : 3);
            }
            int status;
            CHECK_INT(waitpid(pid, &status, 0), pid);
            void *data;
            size_t size;
            CHECK_OK(file_read("f", 10, &data, &size, &why));
            int is_new = strcmp(data, "new!") == 0;
            CHECK(is_new || strcmp(data, "old") == 0);
            int claimed = WIFEXITED(status) && WEXITSTATUS(status) == 0;
            CHECK(is_new || !claimed);
            if (kind == 0) {
                CHECK(claimed || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
                ended = claimed;
            }
            free(data);
            CHECK_OK(file_write_atomic("f", "old", 3, &why));
        }
    }
    CHECK(ended);
}

static void clock_formats(void)
{
    char iso[25], date[9], time[14];
    clock_iso(1767608100123456, iso);
    CHECK_STR(iso, "2026-01-05T10:15:00.123Z");
    setenv("TZ", "UTC0", 1);
    clock_dicom(1767608100123456, date, time);
    CHECK_STR(date, "20260105");
    CHECK_STR(time, "101500.123456");
    double a = clock_monotonic_s(), b = clock_monotonic_s();
    CHECK(b >= a);
}

static void quote_escapes(void)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    CHECK(out != NULL);
    quote_json(out, "a\"b\\c\n\x1f\xc3\xa4");
    CHECK_INT(fclose(out), 0);
    CHECK_STR(text, "\"a\\\"b\\\\c\\u000a\\u001f\xc3\xa4\"");
    free(text);
}

// A process between this one and a child of its own, which says what daemon_follows gave it and waits; the
// middle one ends before that, or after. Returns what was said; the pipe's end is left in *fd.
static int said_below(int dies_first, int *fd)
{
    int said[2], go[2];
    char answer = 0;
    CHECK(pipe(said) == 0 && pipe(go) == 0);
    pid_t middle = fork();
    if (middle == 0) {
        pid_t parent = getpid();
        if (fork() == 0) {
            close(go[0]);
            close(go[1]);
            while (dies_first && getppid() == parent)
                usleep(1000);
            answer = daemon_follows(parent) ? 'y' : 'n';
            CHECK(write(said[1], &answer, 1) == 1);
            while (answer == 'y')
                pause();
            _exit(0);
        }
        close(go[1]);
        CHECK(dies_first || read(go[0], &answer, 1) == 0);
        _exit(0);
    }
    close(said[1]);
    close(go[0]);
    CHECK(middle > 0 && read(said[0], &answer, 1) == 1);
    close(go[1]);
    CHECK(waitpid(middle, NULL, 0) == middle);
    *fd = said[0];
    return answer;
}

// Nothing outlives the process that started it, not even when that ended before it could be followed.
static void daemon_follows_the_living(void)
{
    int fd;
    char more;
    CHECK_INT(said_below(0, &fd), 'y');
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    CHECK(poll(&ended, 1, 20000) == 1 && read(fd, &more, 1) == 0); // it got its signal
    close(fd);
    CHECK_INT(said_below(1, &fd), 'n');
    close(fd);
}

static const struct test tests[] = {
    {"unit.fault.rows_are_unique", fault_rows_are_unique},
    {"unit.fault.dimse_statuses", fault_dimse_statuses},
    {"unit.fault.errno_kinds", fault_errno_kinds},
    {"unit.file.atomic_roundtrip", file_atomic_roundtrip},
    {"crash.file.atomic_survives_every_crash", file_atomic_survives_every_crash},
    {"unit.clock.formats", clock_formats},
    {"unit.quote.escapes", quote_escapes},
    {"unit.daemon.follows_the_living", daemon_follows_the_living},
};
TEST_MAIN(tests)
