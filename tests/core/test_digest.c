// SPDX-License-Identifier: Apache-2.0
#include "core/digest.h"
#include "core/file.h"
#include "tests/support/check.h"

static struct fault_note why;

// FIPS 180-4's example, and the same through a file.
static void sha256_of_abc(void)
{
    static const char *const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    char hex[DIGEST_HEX_SIZE];
    CHECK_OK(digest_of("abc", 3, hex, &why));
    CHECK_STR(hex, want);
    CHECK_OK(file_write_atomic("f", "abc", 3, &why));
    CHECK_OK(digest_of_file("f", hex, &why));
    CHECK_STR(hex, want);
    CHECK_FAULT(digest_of_file("none", hex, &why), FAULT_IO);
}

static void uid_is_stable_and_valid(void)
{
    char a[UID_SIZE], b[UID_SIZE];
    CHECK_OK(uid_from_name("isoslice/series/1|x", a, &why));
    CHECK_OK(uid_from_name("isoslice/series/1|x", b, &why));
    CHECK_STR(a, b);
    CHECK(strncmp(a, "2.25.", 5) == 0 && strlen(a) <= 44 && uid_is_valid(a));
    // Python: uuid.uuid5(uuid.UUID('6f0c2b9e-41d7-4a83-9c55-1eb8703da264'), 'isoslice/series/1|x').int
    CHECK_STR(a, "2.25.11278958104056446218832983313709799157");
    CHECK_OK(uid_from_name("isoslice/series/1|y", b, &why));
    CHECK(strcmp(a, b) != 0);
}

static void uid_rules(void)
{
    CHECK(uid_is_valid("1.2.840.10008.1.1"));
    CHECK(uid_is_valid("0.0"));
    CHECK(uid_is_valid("1234567890123456789012345678901234567890123456789012345678901234"));
    CHECK(!uid_is_valid("12345678901234567890123456789012345678901234567890123456789012345"));
    CHECK(!uid_is_valid(""));
    CHECK(!uid_is_valid("1..2"));
    CHECK(!uid_is_valid(".1"));
    CHECK(!uid_is_valid("1."));
    CHECK(!uid_is_valid("1.02"));
    CHECK(!uid_is_valid("1.2a"));
    CHECK(!uid_is_valid("../../tmp/x"));
    CHECK(!uid_is_valid("1.2\n"));
}

static const struct test tests[] = {
    {"unit.digest.sha256_of_abc", sha256_of_abc},
    {"unit.digest.uid_is_stable_and_valid", uid_is_stable_and_valid},
    {"unit.digest.uid_rules", uid_rules},
};
TEST_MAIN(tests)
