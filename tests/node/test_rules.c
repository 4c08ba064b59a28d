// SPDX-License-Identifier: Apache-2.0
#include "tests/support/check.h"
#include "worker/rules.h"

static void patterns(void)
{
    static const struct {
        const char *patterns, *text;
        int fits;
    } cases[] = {
        {"", "", 1},
        {"", "anything", 1},
        {"KNEE", "KNEE", 1},
        {"knee", "KNEE", 1},
        {"KNEE", "KNEES", 0},
        {"KNEE", "", 0},
        {"*", "", 1},
        {"?*", "", 0},
        {"*t2*tra*", "Ax T2 TSE TRA fs", 1},
        {"*t2*tra*", "Ax T1 TSE TRA fs", 0},
        {"KNEE|*SPINE", "CSPINE", 1},
        {"KNEE|*SPINE", "KNEE|CSPINE", 1}, // by the second
        {"KNEE|*SPINE", "HEAD", 0},
        {"KNEE|", "", 0}, // nothing behind the bar is no pattern
        {"|", "KNEE", 0},
        {"MR[1-3]", "MR2", 1},
        {"MR[1-3]", "MR4", 0},
        {"ORIGINAL\\PRIMARY\\M\\*", "ORIGINAL\\PRIMARY\\M\\ND", 1},
        {"ORIGINAL\\PRIMARY\\M\\*", "ORIGINAL\\PRIMARY\\P\\ND", 0},
        {"*\\*", "KNEE", 0},
        {"T\xd6*", "T\xd6T", 1}, // Latin-1
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (rules_fits(cases[i].patterns, cases[i].text) != cases[i].fits)
            CHECK_FAIL("case %zu: '%s' and '%s'", i, cases[i].patterns, cases[i].text);
    char longest[CONF_TEXT_SIZE];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    CHECK_INT(rules_fits(longest, longest), 1);
    CHECK_INT(rules_fits(longest, longest + 1), 0);
}

// Each condition has to fit, and the first rule that does decides.
static void first_that_fits(void)
{
    static struct conf conf;
    struct source_item item = {.slice_mm = 4};
    snprintf(item.labels[LABEL_BODY_PART], LABEL_SIZE, "KNEE");
    snprintf(item.labels[LABEL_SERIES_DESCRIPTION], LABEL_SIZE, "pd_tse_sag");
    CHECK(rules_find(&conf, "MR1", &item) == NULL);
    conf.n_rules = 3;
    conf.rules[0] = (struct conf_rule){
        .name = "a", .sender = "MR1", .labels[LABEL_BODY_PART] = "KNEE", .min_slice_mm = 3};
    conf.rules[1] = (struct conf_rule){.name = "b", .labels[LABEL_SERIES_DESCRIPTION] = "*sag*"};
    conf.rules[2] = (struct conf_rule){.name = "c"};
    CHECK(rules_find(&conf, "MR1", &item) == &conf.rules[0]);
    CHECK(rules_find(&conf, NULL, &item) == &conf.rules[0]);
    CHECK(rules_find(&conf, "MR2", &item) == &conf.rules[1]);
    CHECK(rules_find(&conf, "MR11", &item) == &conf.rules[1]);
    item.slice_mm = 2.9;
    CHECK(rules_find(&conf, "MR1", &item) == &conf.rules[1]);
    item.slice_mm = 4;
    item.labels[LABEL_BODY_PART][0] = '\0';
    CHECK(rules_find(&conf, "MR1", &item) == &conf.rules[1]);
    item.labels[LABEL_SERIES_DESCRIPTION][0] = '\0';
    CHECK(rules_find(&conf, "MR1", &item) == &conf.rules[2]);
    conf.n_rules = 2;
    CHECK(rules_find(&conf, "MR1", &item) == NULL);
    for (int i = 0; i < N_LABELS; i++) { // every label is looked at, under a name of its own
        conf.rules[0] = (struct conf_rule){.name = "one"};
        conf.n_rules = 1;
        snprintf(conf.rules[0].labels[i], CONF_TEXT_SIZE, "x");
        CHECK(rules_find(&conf, "MR1", &item) == NULL);
        snprintf(item.labels[i], LABEL_SIZE, "X");
        CHECK(rules_find(&conf, "MR1", &item) == &conf.rules[0]);
        item.labels[i][0] = '\0';
        for (int k = 0; k < i; k++)
            CHECK(strcmp(label_name((enum label)i), label_name((enum label)k)) != 0);
    }
}

// With a distance the deciding rule says who; without one nobody is told whom a rule that might decide passes
// over.
static void who_may_be_told(void)
{
    struct conf conf;
    struct source_item item = {0};
    conf_defaults(&conf);
    CHECK_INT(rules_allow(&conf, "MR1", &item), ~0u);
    conf.n_rules = 3;
    memset(conf.rules, 0, sizeof conf.rules);
    snprintf(conf.rules[0].sender, sizeof conf.rules[0].sender, "MR2");
    conf.rules[1].min_slice_mm = 3;
    conf.rules[1].to = 6;
    conf.rules[2].to = 3;
    CHECK_INT(rules_allow(&conf, "MR1", &item), 2);
    CHECK_INT(rules_allow(&conf, "MR2", &item), 0); // ignored
    item.slice_mm = 2;
    CHECK_INT(rules_allow(&conf, "MR1", &item), 3);
    item.slice_mm = 3;
    CHECK_INT(rules_allow(&conf, "MR1", &item), 6);
    conf.n_rules = 2; // none that fits all
    item.slice_mm = 2;
    CHECK_INT(rules_allow(&conf, "MR1", &item), ~0u);
    item.slice_mm = 0;
    CHECK_INT(rules_allow(&conf, "MR1", &item), 6);
}

static const struct test tests[] = {
    {"unit.rules.patterns", patterns},
    {"unit.rules.first_that_fits", first_that_fits},
    {"unit.rules.who_may_be_told", who_may_be_told},
};
TEST_MAIN(tests)
