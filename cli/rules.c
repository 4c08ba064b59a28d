// SPDX-License-Identifier: Apache-2.0
#include "worker/rules.h"
#include "cli/command.h"
#include "reader/reader.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXIT_SOMETHING = 0, EXIT_NOTHING = 3 };

static void print_help(void)
{
    puts(
        "usage: isoslice rules [options] PATH ...\n\n"
        "Says which rule of the configuration decides on each stack of the DICOM files below the PATHs, and\n"
        "what becomes of it. The texts that rules look at are printed as the files have them; none is a\n"
        "patient's. Reads headers only and changes nothing.\n\n"
        "  --config FILE     default " COMMAND_CONFIG_FILE "\n"
        "  --sender AE       as if this AE title had sent them (default: any; a rule's sender then always "
        "fits)\n\n"
        "Exit code: 0 something would be processed; 3 nothing; 2 usage or configuration; 1 internal fault.");
}

// What becomes of a stack, as one line.
static int print_decision(const struct conf *conf, const char *sender, const struct source_item *item)
{
    if (item->verdict != FAULT_OK) {
        printf("  refused, whatever the rules: %s: %s\n", fault_name(item->verdict), item->reason);
        return 0;
    }
    const struct conf_rule *rule = rules_find(conf, sender, item);
    if (rule == NULL)
        printf("  no rule fits: processed");
    else
        printf("  rule '%s': %s", rule->name, rule->to == 0 ? "ignored\n" : "processed");
    if (rule != NULL && rule->to == 0)
        return 0;
    const char *between = ", sent to ";
    for (size_t i = 0; i < conf->n_destinations; i++)
        if (rule == NULL || (rule->to >> i & 1) != 0) {
            printf("%s'%s'", between, conf->destinations[i].name);
            between = ", ";
        }
    puts(conf->n_destinations == 0 ? ", sent nowhere: there is no destination" : "");
    return 1;
}

static size_t print_all(const struct conf *conf, const char *sender, const struct reader *reader)
{
    size_t n_processed = 0, n = reader_n_items(reader);
    for (size_t i = 0; i < n; i++) {
        const struct source_item *item = reader_item(reader, i);
        printf("%s stack %d\n", item->series_uid[0] ? item->series_uid : "(no series)", item->stack_index);
        for (int k = 0; k < N_LABELS; k++)
            if (item->labels[k][0] != '\0')
                printf("  %-19s%s\n", label_name((enum label)k), item->labels[k]);
        if (item->slice_mm > 0)
            printf("  %-19s%.4g mm apart\n", "slices", item->slice_mm);
        n_processed += (size_t)print_decision(conf, sender, item);
    }
    printf("%zu to process, %zu not\n", n_processed, n - n_processed);
    return n_processed;
}

int command_rules(int argc, char **argv)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"sender", required_argument, NULL, 's'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const struct reader_options limits = {.memory_bytes = READER_MEMORY_BYTES_ANY,
                                          .cpu_s = READER_OPEN_S_ANY};
    const char *config = COMMAND_CONFIG_FILE, *sender = NULL;
    struct fault_note why;
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 'c':
            config = optarg;
            break;
        case 's':
            sender = optarg;
            break;
        case 'h':
            print_help();
            return 0;
        default:
            return command_usage_error("rules", "bad arguments");
        }
    }
    if (optind == argc)
        return command_usage_error("rules", "needs a PATH");
    struct conf *conf = malloc(sizeof *conf);
    struct reader *reader = NULL;
    size_t n_processed = 0;
    int rc = conf != NULL ? conf_load(config, conf, &why) : fault_set(&why, FAULT_NO_MEMORY, "no memory");
    if (rc == 0)
        rc = reader_open((const char *const *)argv + optind, (size_t)(argc - optind), &limits, &reader, &why);
    if (rc == 0)
        n_processed = print_all(conf, sender, reader);
    reader_free(reader);
    free(conf);
    if (rc != 0)
        return command_fault("rules", &why);
    return n_processed > 0 ? EXIT_SOMETHING : EXIT_NOTHING;
}
