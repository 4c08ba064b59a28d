// SPDX-License-Identifier: Apache-2.0
#include "worker/rules.h"

#include <fnmatch.h>
#include <string.h>

int rules_fits(const char *patterns, const char *text)
{
    char pattern[CONF_TEXT_SIZE];
    const char *p = patterns;
    while (*p != '\0') {
        size_t n = strcspn(p, "|");
        if (n < sizeof pattern) {
            memcpy(pattern, p, n);
            pattern[n] = '\0';
            if (fnmatch(pattern, text, FNM_CASEFOLD | FNM_NOESCAPE) == 0)
                return 1;
        }
        p += n;
        p += *p == '|';
    }
    return patterns[0] == '\0';
}

static int fits_texts(const struct conf_rule *rule, const char *sender, const struct source_item *item)
{
    if (sender != NULL && !rules_fits(rule->sender, sender))
        return 0;
    for (int i = 0; i < N_LABELS; i++)
        if (!rules_fits(rule->labels[i], item->labels[i]))
            return 0;
    return 1;
}

const struct conf_rule *rules_find(const struct conf *conf, const char *sender,
                                   const struct source_item *item)
{
    for (size_t i = 0; i < conf->n_rules; i++)
        if (fits_texts(&conf->rules[i], sender, item) && item->slice_mm >= conf->rules[i].min_slice_mm)
            return &conf->rules[i];
    return NULL;
}

unsigned rules_allow(const struct conf *conf, const char *sender, const struct source_item *item)
{
    unsigned to = ~0u;
    for (size_t i = 0; i < conf->n_rules; i++) {
        const struct conf_rule *rule = &conf->rules[i];
        int is_measured = item->slice_mm > 0;
        if (!fits_texts(rule, sender, item) || (is_measured && item->slice_mm < rule->min_slice_mm))
            continue;
        to &= rule->to;
        if (is_measured || rule->min_slice_mm <= 0)
            break;
    }
    return to;
}
