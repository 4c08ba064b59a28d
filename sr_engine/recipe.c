// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/recipe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUE_SIZE = 32 };

struct sr_recipe sr_recipe_default(void)
{
    return (struct sr_recipe){.batch = 2,
                              .slices = 4,
                              .targets = 3,
                              .rate = 3e-5,
                              .rate_woken = 4e-4,
                              .rate_end = 0.02,
                              .beta2 = 0.999,
                              .warm_up = 10,
                              .part = SR_PART_ALL,
                              .rank = 4,
                              .axes = SR_AXES_BOTH,
                              .factor_low = 0.5,
                              .true_share = 0.5,
                              .detail = 1,
                              .second_round = 1,
                              .blend = 1,
                              .ensemble = 2,
                              .acquired = SR_ACQUIRED_ONE,
                              .consistency = 0.5};
}

struct sr_recipe sr_recipe_bare(void)
{
    struct sr_recipe recipe = sr_recipe_default();
    recipe.ensemble = 1;
    recipe.consistency = 0;
    return recipe;
}

enum kind { WHOLE, REAL, CHOICE };

struct entry {
    const char *name;
    enum kind kind;
    size_t offset;
    double least, most;
    const char *choices[5]; // of CHOICE
    const char *help;
};

#define FIELD(name) offsetof(struct sr_recipe, name)
static const struct entry table[] = {
    {"batch", WHOLE, FIELD(batch), 1, 8, {0}, "samples of a step"},
    {"slices", WHOLE, FIELD(slices), 2, 32, {0}, "retained slices of a sample"},
    {"targets", WHOLE, FIELD(targets), 1, 8, {0}, "planes of every gap that a step learns from"},
    {"rate", REAL, FIELD(rate), 1e-7, 1, {0}, "highest learning rate"},
    {"rate-woken", REAL, FIELD(rate_woken), 1e-7, 1, {0}, "the same for weights that were never trained"},
    {"rate-end", REAL, FIELD(rate_end), 0, 1, {0}, "last learning rate, share of the highest"},
    {"beta2", REAL, FIELD(beta2), 0.5, 0.99999, {0}, "decay of Adam's second moment"},
    {"warm-up", WHOLE, FIELD(warm_up), 0, 10000, {0}, "steps of rising rate, at most a tenth of all"},
    {"average", REAL, FIELD(average), 0, 0.9999, {0}, "decay of the averaged weights; 0: not averaged"},
    {"part", CHOICE, FIELD(part), 0, 0, {"all", "decoder", "tail", "lora"}, "what of the network is trained"},
    {"rank", WHOLE, FIELD(rank), 1, 32, {0}, "of part=lora"},
    {"axes", CHOICE, FIELD(axes), 0, 0, {"both", "rows", "columns"}, "along which pairs are cut"},
    {"factor-low", REAL, FIELD(factor_low), 0.25, 1, {0}, "least drawn factor, share of the true one"},
    {"true-share", REAL, FIELD(true_share), 0, 1, {0}, "share of samples with the true factor"},
    {"detail", CHOICE, FIELD(detail), 0, 0, {"no", "yes"}, "places drawn in proportion to their gradient"},
    {"second-round",
     REAL,
     FIELD(second_round),
     0,
     1,
     {0},
     "share of steps on pairs of an isotropic estimate"},
    {"blend",
     CHOICE,
     FIELD(blend),
     0,
     0,
     {"no", "yes"},
     "weights between the first and the last are tried, too"},
    {"ensemble", CHOICE, FIELD(ensemble), 0, 0, {"1", "2", "4", "8"}, "averaged passes over flipped stacks"},
    {"acquired",
     CHOICE,
     FIELD(acquired),
     0,
     0,
     {"one", "both", "kept"},
     "attention windows at acquired slices"},
    {"consistency", REAL, FIELD(consistency), 0, 1, {0}, "share of the correction towards the slices"},
};
enum { N_ENTRIES = sizeof table / sizeof table[0] };

static int is_ensemble(const struct entry *entry)
{
    return entry->offset == FIELD(ensemble);
}

// A choice as it is kept: its number, but an ensemble its number of passes.
static int kept_choice(const struct entry *entry, int index)
{
    return is_ensemble(entry) ? 1 << index : index;
}

static int *whole_of(const struct sr_recipe *recipe, const struct entry *entry)
{
    return (int *)((char *)recipe + entry->offset);
}

static double *real_of(const struct sr_recipe *recipe, const struct entry *entry)
{
    return (double *)((char *)recipe + entry->offset);
}

static void say_choices(const struct entry *entry, char *out, size_t size)
{
    int n = 0;
    out[0] = '\0';
    for (int i = 0; entry->choices[i] != NULL && n >= 0 && (size_t)n < size; i++)
        n += snprintf(out + n, size - (size_t)n, "%s%s", i > 0 ? "|" : "", entry->choices[i]);
}

static int set_choice(struct sr_recipe *recipe, const struct entry *entry, const char *value,
                      struct fault_note *why)
{
    char choices[64];
    for (int i = 0; entry->choices[i] != NULL; i++)
        if (strcmp(value, entry->choices[i]) == 0) {
            *whole_of(recipe, entry) = kept_choice(entry, i);
            return 0;
        }
    say_choices(entry, choices, sizeof choices);
    return fault_set(why, FAULT_CONFIG, "'%s' is one of %s, not '%s'", entry->name, choices, value);
}

static int set_number(struct sr_recipe *recipe, const struct entry *entry, const char *value,
                      struct fault_note *why)
{
    char *end;
    double number = strtod(value, &end);
    if (end == value || *end != '\0' || !(number >= entry->least && number <= entry->most) ||
        (entry->kind == WHOLE && number != floor(number)))
        return fault_set(why, FAULT_CONFIG, "'%s' is a %snumber from %g to %g, not '%s'", entry->name,
                         entry->kind == WHOLE ? "whole " : "", entry->least, entry->most, value);
    if (entry->kind == WHOLE)
        *whole_of(recipe, entry) = (int)number;
    else
        *real_of(recipe, entry) = number;
    return 0;
}

static int set_one(struct sr_recipe *recipe, const char *text, size_t length, struct fault_note *why)
{
    char name[VALUE_SIZE], value[VALUE_SIZE];
    const char *equals = memchr(text, '=', length);
    size_t n_name = equals != NULL ? (size_t)(equals - text) : length;
    size_t n_value = equals != NULL ? length - n_name - 1 : 0;
    if (equals == NULL || n_name >= sizeof name || n_value >= sizeof value)
        return fault_set(why, FAULT_CONFIG, "'%.*s' is not name=value", (int)(length > 60 ? 60 : length),
                         text);
    memcpy(name, text, n_name);
    name[n_name] = '\0';
    memcpy(value, equals + 1, n_value);
    value[n_value] = '\0';
    for (size_t i = 0; i < N_ENTRIES; i++)
        if (strcmp(table[i].name, name) == 0)
            return table[i].kind == CHOICE ? set_choice(recipe, &table[i], value, why)
                                           : set_number(recipe, &table[i], value, why);
    return fault_set(why, FAULT_CONFIG, "a recipe has no '%s'", name);
}

int sr_recipe_set(struct sr_recipe *recipe, const char *text, struct fault_note *why)
{
    int rc = 0;
    while (rc == 0) {
        size_t length = strcspn(text, ":");
        rc = set_one(recipe, text, length, why);
        if (text[length] == '\0')
            break;
        text += length + 1;
    }
    return rc;
}

// The value as sr_recipe_set reads it: the shortest decimal that is the same number again.
static void say_value(const struct sr_recipe *recipe, const struct entry *entry, char *out)
{
    if (entry->kind == WHOLE) {
        snprintf(out, VALUE_SIZE, "%d", *whole_of(recipe, entry));
    } else if (entry->kind == CHOICE) {
        int index = 0;
        while (entry->choices[index + 1] != NULL && kept_choice(entry, index) != *whole_of(recipe, entry))
            index++;
        snprintf(out, VALUE_SIZE, "%s", entry->choices[index]);
    } else {
        double value = *real_of(recipe, entry);
        for (int digits = 1; digits <= 17; digits++) {
            snprintf(out, VALUE_SIZE, "%.*g", digits, value);
            if (strtod(out, NULL) == value)
                break;
        }
    }
}

static int is_default(const struct sr_recipe *recipe, const struct entry *entry)
{
    struct sr_recipe normal = sr_recipe_default();
    if (entry->kind == REAL)
        return *real_of(recipe, entry) == *real_of(&normal, entry);
    return *whole_of(recipe, entry) == *whole_of(&normal, entry);
}

int sr_recipe_say(const struct sr_recipe *recipe, char *out, size_t size, struct fault_note *why)
{
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < N_ENTRIES; i++) {
        char value[VALUE_SIZE];
        if (is_default(recipe, &table[i]))
            continue;
        say_value(recipe, &table[i], value);
        int added = snprintf(out + n, size - n, "%s%s=%s", n > 0 ? ":" : "", table[i].name, value);
        if (added < 0 || (size_t)added >= size - n)
            return fault_set(why, FAULT_CONFIG, "the recipe is too long to be written down");
        n += (size_t)added;
    }
    return 0;
}

int sr_recipe_help(size_t index, char *out, size_t size)
{
    char values[64], normal[VALUE_SIZE];
    struct sr_recipe recipe = sr_recipe_default();
    if (index >= N_ENTRIES)
        return 0;
    const struct entry *entry = &table[index];
    if (entry->kind == CHOICE)
        say_choices(entry, values, sizeof values);
    else
        snprintf(values, sizeof values, "%g..%g", entry->least, entry->most);
    say_value(&recipe, entry, normal);
    snprintf(out, size, "%-12s %-22s %s (default %s)", entry->name, values, entry->help, normal);
    return 1;
}
