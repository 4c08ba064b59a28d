// SPDX-License-Identifier: Apache-2.0
//
// Every way to refuse a series is explained to the person who meets it.
#include "core/fault.h"
#include "core/file.h"
#include "tests/support/check.h"

static void every_refusal_is_explained(void)
{
    struct fault_note why;
    void *text = NULL;
    size_t size = 0;
    CHECK_OK(file_read(REFUSALS_FILE, 1 << 20, &text, &size, &why));
    int n = 0;
    for (int number = -1; number > -1000; number--) {
        enum fault fault = (enum fault)number;
        if (fault_class_of(fault) != FAULT_CLASS_REFUSAL)
            continue;
        char row[64];
        snprintf(row, sizeof row, "\n| %s | ", fault_name(fault));
        CHECK_CONTAINS((const char *)text, row);
        n++;
    }
    CHECK(n >= 20);
    // and no row names what is not in the table
    for (char *p = text; (p = strstr(p, "\n| ")) != NULL; p++) {
        char name[64] = "";
        sscanf(p + 3, "%60[A-Z0-9_]", name);
        if (strlen(name) > 3 && fault_from_name(name) == FAULT_OK)
            CHECK_FAIL("'%s' is explained, but there is no such fault", name);
    }
    free(text);
}

static const struct test tests[] = {
    {"unit.refusals.every_refusal_is_explained", every_refusal_is_explained},
};
TEST_MAIN(tests)
