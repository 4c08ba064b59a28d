// SPDX-License-Identifier: Apache-2.0
//
// The test harness, small enough to go with the engine to a machine that has a compiler and nothing else
// (which is why it is not a library). A test program is a table of named tests and TEST_MAIN. Run without
// arguments it lists them; with a name it runs that one, in this process. A failed check prints the place and
// both values and ends the process with 1; SKIP ends it with 77.

#ifndef ISOSLICE_TESTS_CHECK_H
#define ISOSLICE_TESTS_CHECK_H

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct test {
    const char *name; // "unit.<module>.<behaviour>" and so on
    void (*run)(void);
};

#define CHECK_FAIL(...)                                                                                      \
    do {                                                                                                     \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                                      \
        fprintf(stderr, __VA_ARGS__);                                                                        \
        fputc('\n', stderr);                                                                                 \
        exit(1);                                                                                             \
    } while (0)

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            CHECK_FAIL("not so: %s", #condition);                                                            \
    } while (0)

// got, want: any integer type
#define CHECK_INT(got, want)                                                                                 \
    do {                                                                                                     \
        long long got_ = (long long)(got), want_ = (long long)(want);                                        \
        if (got_ != want_)                                                                                   \
            CHECK_FAIL("%s is %lld, not %lld", #got, got_, want_);                                           \
    } while (0)

#define CHECK_STR(got, want)                                                                                 \
    do {                                                                                                     \
        const char *got_ = (got), *want_ = (want);                                                           \
        if (strcmp(got_, want_) != 0)                                                                        \
            CHECK_FAIL("%s is \"%s\", not \"%s\"", #got, got_, want_);                                       \
    } while (0)

#define CHECK_CONTAINS(text, part)                                                                           \
    do {                                                                                                     \
        const char *text_ = (text), *part_ = (part);                                                         \
        if (strstr(text_, part_) == NULL)                                                                    \
            CHECK_FAIL("%s is \"%s\", without \"%s\"", #text, text_, part_);                                 \
    } while (0)

// |got - want| <= limit; a NaN never passes
#define CHECK_NEAR(got, want, limit)                                                                         \
    do {                                                                                                     \
        double got_ = (got), want_ = (want), limit_ = (limit);                                               \
        if (!(fabs(got_ - want_) <= limit_))                                                                 \
            CHECK_FAIL("%s is %.17g, not %.17g within %g", #got, got_, want_, limit_);                       \
    } while (0)

// A call that returns a fault number and fills `why` (struct fault_note): must be 0.
#define CHECK_OK(call)                                                                                       \
    do {                                                                                                     \
        int rc_ = (call);                                                                                    \
        if (rc_ != 0)                                                                                        \
            CHECK_FAIL("%s failed: %s: %s", #call, fault_name((enum fault)rc_), why.text);                   \
    } while (0)

// The same, but must fail with exactly this fault.
#define CHECK_FAULT(call, want)                                                                              \
    do {                                                                                                     \
        int rc_ = (call);                                                                                    \
        if (rc_ != (int)(want))                                                                              \
            CHECK_FAIL("%s gave %s, not %s (%s)", #call, fault_name((enum fault)rc_), fault_name(want),      \
                       why.text);                                                                            \
    } while (0)

#define SKIP(...)                                                                                            \
    do {                                                                                                     \
        printf("skipped: ");                                                                                 \
        printf(__VA_ARGS__);                                                                                 \
        putchar('\n');                                                                                       \
        exit(77);                                                                                            \
    } while (0)

static inline int test_remove(const char *path, const struct stat *status, int flag, struct FTW *at)
{
    (void)status, (void)flag;
    return at->level > 0 ? remove(path) : 0;
}

// A test begins in an empty directory: what an earlier run left in the one of its name is taken away.
static inline void test_clear(const char *name)
{
    char here[4096];
    const char *slash = getcwd(here, sizeof here) != NULL ? strrchr(here, '/') : NULL;
    if (slash != NULL && strcmp(slash + 1, name) == 0)
        nftw(".", test_remove, 16, FTW_DEPTH | FTW_PHYS);
}

static inline int test_main(int argc, char **argv, const struct test *tests, size_t n)
{
    if (argc < 2) {
        for (size_t i = 0; i < n; i++)
            puts(tests[i].name);
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        if (strcmp(tests[i].name, argv[1]) == 0) {
            test_clear(tests[i].name);
            tests[i].run();
            return 0;
        }
    fprintf(stderr, "no test is called '%s'\n", argv[1]);
    return 2;
}

#define TEST_MAIN(tests)                                                                                     \
    int main(int argc, char **argv)                                                                          \
    {                                                                                                        \
        return test_main(argc, argv, tests, sizeof(tests) / sizeof((tests)[0]));                             \
    }

#endif
