// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"
#include "conf/conf.h"
#include "core/file.h"
#include "core/progress.h"
#include "worker/preview.h"
#include "worker/process.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EXIT_DERIVED = 0, EXIT_FAULT = 1, EXIT_NOTHING = 3, EXIT_SOME_FAILED = 4 };

struct run {
    const char *in, *out;
    const char *report, *preview;
    char weights[CONF_PATH_SIZE + 64];
    struct conf conf;
    struct process_options options;
    struct progress progress;
    char work[CONF_PATH_SIZE]; // below OUT: all that the reader can write
    size_t n_derived, n_refused, n_failed;
    size_t n_unseen; // derived, but their picture could not be written
    FILE *report_file;
};

static volatile int run_stop;

static void on_interrupt(int number)
{
    (void)number;
    run_stop = 1;
}

static void print_help(void)
{
    puts(
        "usage: isoslice run [options] IN OUT\n\n"
        "Derives an isotropic series from every thick-slice 2D MR stack below the folder IN (file names do "
        "not "
        "matter)\n"
        "and writes each into a folder of its own below OUT, named by its series UID, as IM0001.dcm, "
        "IM0002.dcm, "
        "...\n\n"
        "  --config FILE     settings of a node (default: built-in defaults)\n"
        "  --weights FILE    bare network with these weights: neither fine-tune nor fall-back unless asked "
        "for\n"
        "  --backend NAME    auto, cpu, cuda, cuda16 or ref\n"
        "  --no-finetune     bare network, not adapted to the subject, no fall-back\n"
        "  --finetune        adapt to the subject although --weights is given\n"
        "  --fallback        deliver the best of tuned, base, cubic and linear on held-out data although "
        "--weights or\n"
        "                    --no-finetune is given\n"
        "  --spacing S       isotropic (default: exactly the in-plane spacing), recur, or millimetres\n"
        "  --views LIST      further series of the same voxels: sagittal, coronal, axial with commas "
        "between, or "
        "all\n"
        "  --format F        classic (default): one MR object for each plane; enhanced: one Enhanced MR "
        "object, "
        "IM0001.dcm\n"
        "  --seed N          of all random choices (default 1)\n"
        "  --steps N         steps of the fine-tune; implies --finetune\n"
        "  --budget S        seconds of the fine-tune instead, for at most 600 steps; implies --finetune\n"
        "  --recipe TEXT     how the fine-tune learns and the network is used, NAME=VALUE with colons "
        "between;\n"
        "                    isoslice train subject --help has the names; consistency is 0 with\n"
        "                    --weights and --no-finetune unless it is named\n"
        "  --threads N       0: all processors\n"
        "  --memory MB       working memory of the engine; 0: 3072, halved until half of what is free\n"
        "  --report FILE     what was found, done and measured, as JSON\n"
        "  --preview FILE    picture: linear interpolation and the result in the two cross planes (PNG); "
        "further "
        "stacks\n"
        "                    go to FILE with -2, -3, ... before its suffix\n\n"
        "Exit code: 0 every stack was derived; 2 usage; 3 nothing in IN was to be processed, the reasons are "
        "printed;\n"
        "4 some stacks failed; 1 internal fault, or a picture could not be written.");
}

static int parse(struct run *run, int argc, char **argv)
{
    enum {
        CONFIG = 256,
        WEIGHTS,
        BACKEND,
        NO_FINETUNE,
        FINETUNE,
        FALLBACK,
        SPACING,
        VIEWS,
        FORMAT,
        SEED,
        STEPS,
        BUDGET,
        RECIPE,
        THREADS,
        MEMORY,
        REPORT,
        PREVIEW
    };
    static const struct option options[] = {{"config", required_argument, NULL, CONFIG},
                                            {"weights", required_argument, NULL, WEIGHTS},
                                            {"backend", required_argument, NULL, BACKEND},
                                            {"no-finetune", no_argument, NULL, NO_FINETUNE},
                                            {"finetune", no_argument, NULL, FINETUNE},
                                            {"fallback", no_argument, NULL, FALLBACK},
                                            {"spacing", required_argument, NULL, SPACING},
                                            {"views", required_argument, NULL, VIEWS},
                                            {"format", required_argument, NULL, FORMAT},
                                            {"seed", required_argument, NULL, SEED},
                                            {"steps", required_argument, NULL, STEPS},
                                            {"budget", required_argument, NULL, BUDGET},
                                            {"recipe", required_argument, NULL, RECIPE},
                                            {"threads", required_argument, NULL, THREADS},
                                            {"memory", required_argument, NULL, MEMORY},
                                            {"report", required_argument, NULL, REPORT},
                                            {"preview", required_argument, NULL, PREVIEW},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const char *weights = NULL, *spacing = NULL, *views = NULL, *backend = NULL;
    long long seed = -1, steps = -1, threads = -1, memory = -1;
    double budget = -1;
    char recipe[sizeof run->conf.recipe] = "";
    enum format format = FORMAT_CLASSIC;
    int no_finetune = 0, finetune = 0, fallback = 0, c;
    struct fault_note why;
    conf_defaults(&run->conf);
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        int ok = 1;
        switch (c) {
        case CONFIG:
            if (conf_load(optarg, &run->conf, &why) != 0)
                return command_fault("run", &why);
            break;
        case WEIGHTS:
            weights = optarg;
            break;
        case BACKEND:
            backend = optarg;
            ok = command_is_backend(optarg);
            break;
        case NO_FINETUNE:
            no_finetune = 1;
            break;
        case FINETUNE:
            finetune = 1;
            break;
        case FALLBACK:
            fallback = 1;
            break;
        case SPACING: {
            int mode;
            double mm;
            spacing = optarg;
            ok = conf_parse_spacing(optarg, &mode, &mm);
            break;
        }
        case VIEWS: {
            unsigned set;
            views = optarg;
            ok = conf_parse_views(optarg, &set);
            break;
        }
        case FORMAT:
            ok = format_from_name(optarg, &format);
            break;
        case SEED:
            ok = command_parse_int(optarg, 0, 2147483647, &seed);
            break;
        case STEPS:
            ok = command_parse_int(optarg, 1, 100000, &steps);
            finetune = 1;
            break;
        case BUDGET:
            ok = command_parse_real(optarg, 1, 86400, &budget);
            finetune = 1;
            break;
        case RECIPE:
            ok = snprintf(recipe, sizeof recipe, "%s", optarg) < (int)sizeof recipe;
            break;
        case THREADS:
            ok = command_parse_int(optarg, 0, 1024, &threads);
            break;
        case MEMORY:
            ok = command_parse_int(optarg, 0, 1000000000, &memory);
            break;
        case REPORT:
            run->report = optarg;
            break;
        case PREVIEW:
            run->preview = optarg;
            break;
        case 'h':
            print_help();
            return -1;
        default:
            return command_usage_error("run", "bad arguments");
        }
        if (!ok)
            return command_usage_error("run", "bad value '%s'", optarg);
    }
    if (argc - optind != 2)
        return command_usage_error("run", "needs IN and OUT");
    if (no_finetune && finetune)
        return command_usage_error("run", "--no-finetune contradicts --finetune, --steps and --budget");
    run->in = argv[optind];
    run->out = argv[optind + 1];
    if (spacing != NULL)
        snprintf(run->conf.spacing, sizeof run->conf.spacing, "%s", spacing);
    if (views != NULL)
        snprintf(run->conf.views, sizeof run->conf.views, "%s", views);
    if (backend != NULL)
        snprintf(run->conf.backend, sizeof run->conf.backend, "%s", backend);
    if (seed >= 0)
        run->conf.seed = seed;
    if (steps >= 0)
        run->conf.steps = steps;
    if (budget >= 0) {
        run->conf.budget_s = budget;
        run->conf.steps = steps >= 0 ? steps : 0;
    }
    if (recipe[0] != '\0')
        snprintf(run->conf.recipe, sizeof run->conf.recipe, "%s", recipe);
    if (threads >= 0)
        run->conf.threads = threads;
    if (memory >= 0)
        run->conf.memory_mb = memory;
    int bare = no_finetune || (weights != NULL && !finetune);
    if (process_options_from_conf(&run->conf, &run->options, &why) != 0 ||
        process_find_weights(weights ? weights : run->conf.weights, run->weights, sizeof run->weights,
                             &why) != 0)
        return command_fault("run", &why);
    if (no_finetune || weights != NULL) {
        // the network as it is: what is done to its result has to be asked for
        run->options.recipe = sr_recipe_bare();
        if (recipe[0] != '\0' && sr_recipe_set(&run->options.recipe, recipe, &why) != 0)
            return command_fault("run", &why);
    }
    run->options.formats = 1u << format;
    run->options.engine.finetune = bare ? 0 : (finetune || run->conf.finetune);
    run->options.engine.choose = fallback || !(no_finetune || weights != NULL);
    run->options.engine.weights_path = run->weights;
    run->options.engine.progress = progress_show;
    run->options.engine.progress_user = &run->progress;
    run->options.job_time_us = 0; // no job record: the same input is to give the same bytes
    return 0;
}

// ---- one item

static void report_item(struct run *run, const struct source_item *item,
                        const struct process_outcome *outcome, const struct fault_note *fault)
{
    char *text = run->report_file != NULL ? process_report(item, outcome, fault) : NULL;
    if (text != NULL)
        fprintf(run->report_file, "%s\n%s", run->n_derived + run->n_refused + run->n_failed > 0 ? "," : "",
                text);
    free(text);
}

static int write_preview(const struct run *run, const struct process_images *images,
                         const struct process_outcome *outcome, struct fault_note *why)
{
    char path[CONF_PATH_SIZE], caption[64];
    const char *dot = strrchr(run->preview, '.');
    int stem =
        dot != NULL && strchr(dot, '/') == NULL ? (int)(dot - run->preview) : (int)strlen(run->preview);
    if (run->n_derived == 0)
        snprintf(path, sizeof path, "%s", run->preview);
    else
        snprintf(path, sizeof path, "%.*s-%zu%s", stem, run->preview, run->n_derived + 1,
                 run->preview + stem);
    snprintf(caption, sizeof caption, "Isoslice (%s)", sr_method_name(outcome->report.delivered));
    int rc = preview_write(images, caption, path, why);
    if (rc == 0)
        printf("  picture: %s\n", path);
    return rc;
}

// A derived series stays one without its picture.
static void show(struct run *run, const struct process_images *images, const struct process_outcome *outcome)
{
    struct fault_note why;
    if (write_preview(run, images, outcome, &why) == 0)
        return;
    fprintf(stderr, "isoslice run: derived, but no picture of it: %s: %s\n", fault_name(why.fault), why.text);
    run->n_unseen++;
}

// From the folder of work to the one named by its UID.
static int publish(const struct run *run, const char *work, const char *series_uid, char *final, size_t size,
                   struct fault_note *why)
{
    int rc = file_join(final, size, run->out, series_uid, why);
    if (rc == 0)
        rc = file_remove_tree(final, why); // the same series from an earlier run
    if (rc == 0 && file_ops.rename(work, final) != 0)
        rc = fault_set_errno(why, errno, "cannot move '%s'", work);
    return rc;
}

// Every series but the first.
static int publish_series(const struct run *run, const char *work, const struct process_outcome *outcome,
                          struct fault_note *why)
{
    char folder[CONF_PATH_SIZE + 64], final[CONF_PATH_SIZE + UID_SIZE];
    int rc = 0;
    for (size_t i = 1; rc == 0 && i < outcome->n_series; i++) {
        const struct process_series *series = &outcome->series[i];
        if (series->fault.fault != FAULT_OK)
            return fault_set(why, series->fault.fault, "%s", series->fault.text);
        rc = process_series_folder(work, outcome, i, folder, sizeof folder, why);
        if (rc == 0)
            rc = publish(run, folder, series->derived.series_uid, final, sizeof final, why);
        if (rc == 0)
            printf("  %zu %s %s in %s\n", series->derived.n_objects, view_name(series->plane),
                   series->format == FORMAT_ENHANCED ? "object" : "images", final);
    }
    return rc;
}

static int derive_item(struct run *run, struct reader *reader, size_t i, struct process_outcome *outcome,
                       struct fault_note *why)
{
    char work[CONF_PATH_SIZE + 32], final[CONF_PATH_SIZE + UID_SIZE];
    struct process_images images = {0};
    snprintf(work, sizeof work, "%s/%zu", run->work, i);
    int rc = file_make_directory(work, why);
    if (rc == 0)
        rc = process_stack(reader, i, &run->options, work, outcome, run->preview ? &images : NULL, why);
    progress_done(&run->progress);
    if (rc == 0)
        rc = publish(run, work, outcome->series[0].derived.series_uid, final, sizeof final, why);
    if (rc == 0) {
        printf("  %zu planes, %.4g mm apart, in %s\n  %s\n", outcome->n_planes, outcome->step_mm, final,
               outcome->note);
        rc = publish_series(run, work, outcome, why);
    }
    if (rc == 0 && run->preview != NULL)
        show(run, &images, outcome);
    process_images_free(&images);
    file_remove_tree(work, NULL);
    return rc;
}

static int do_item(struct run *run, struct reader *reader, size_t i, struct fault_note *why)
{
    const struct source_item *item = reader_item(reader, i);
    struct process_outcome outcome;
    if (item->verdict != FAULT_OK) {
        struct fault_note refusal = {.fault = item->verdict};
        snprintf(refusal.text, sizeof refusal.text, "%s", item->reason);
        printf("series %s: %zu images refused: %s: %s\n", item->series_uid[0] ? item->series_uid : "(none)",
               item->n_images, fault_name(item->verdict), item->reason);
        report_item(run, item, NULL, &refusal);
        run->n_refused++;
        return 0;
    }
    printf("series %s stack %d: %dx%dx%d, pixels %.4g x %.4g mm, slices %.4g mm apart, %.4g mm thick\n",
           item->series_uid, item->stack_index, item->width, item->height, item->depth, item->column_mm,
           item->row_mm, item->slice_mm, item->thickness_mm);
    if (item->warnings[0] != '\0')
        printf("  warning: %s\n", item->warnings);
    fflush(stdout);
    int rc = derive_item(run, reader, i, &outcome, why);
    report_item(run, item, &outcome, rc == 0 ? NULL : why);
    if (rc == 0) {
        run->n_derived++;
        return 0;
    }
    if (fault_class_of((enum fault)rc) == FAULT_CLASS_REFUSAL) { // found only when planes were planned
        printf("  refused: %s: %s\n", fault_name((enum fault)rc), why->text);
        run->n_refused++;
        return 0;
    }
    run->n_failed++;
    fprintf(stderr, "isoslice run: series %s stack %d failed: %s: %s\n", item->series_uid, item->stack_index,
            fault_name((enum fault)rc), why->text);
    return rc == FAULT_CANCELLED ? rc : 0;
}

// Opens IN in a process that can write below OUT only, which is therefore made first.
static int open_in(struct run *run, struct reader **reader, struct fault_note *why)
{
    const char *paths[] = {run->in};
    const struct reader_options options = {
        .memory_bytes = READER_MEMORY_BYTES_ANY, .cpu_s = READER_OPEN_S_ANY, .output = run->work};
    struct stat st;
    if (stat(run->in, &st) != 0)
        return fault_set_errno(why, errno, "cannot look at '%s'", run->in);
    int is_new = stat(run->out, &st) != 0;
    if (snprintf(run->work, sizeof run->work, "%s/.isoslice-%d", run->out, (int)getpid()) >=
        (int)sizeof run->work)
        return fault_set(why, FAULT_USAGE, "the path of OUT is too long");
    int rc = file_remove_tree(run->work, why);
    if (rc == 0)
        rc = file_make_directory(run->work, why);
    if (rc == 0)
        rc = reader_open(paths, 1, &options, reader, why);
    if (rc != 0) {
        file_remove_tree(run->work, NULL);
        if (is_new)
            rmdir(run->out);
    }
    return rc;
}

static int run_all(struct run *run, struct fault_note *why)
{
    struct reader *reader = NULL;
    int rc = open_in(run, &reader, why);
    if (rc != 0)
        return rc;
    if (rc == 0 && run->report != NULL) {
        run->report_file = fopen(run->report, "we");
        if (run->report_file == NULL)
            rc = fault_set_errno(why, errno, "cannot create '%s'", run->report);
        else
            fputs("[", run->report_file);
    }
    if (rc == 0 && reader_n_items(reader) == 0)
        printf("there is no file below '%s'\n", run->in);
    for (size_t i = 0; rc == 0 && i < reader_n_items(reader); i++)
        rc = do_item(run, reader, i, why);
    if (run->report_file != NULL) {
        fputs("\n]\n", run->report_file);
        int failed = ferror(run->report_file);
        if ((fclose(run->report_file) != 0 || failed) && rc == 0)
            rc = fault_set(why, FAULT_IO, "cannot write '%s'", run->report);
    }
    reader_free(reader);
    file_remove_tree(run->work, NULL);
    return rc;
}

int command_run(int argc, char **argv)
{
    static struct run run;
    struct fault_note why;
    int code = parse(&run, argc, argv);
    if (code != 0)
        return code < 0 ? 0 : code;
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    progress_init(&run.progress, &run_stop);
    int rc = run_all(&run, &why);
    progress_done(&run.progress);
    if (rc != 0 && rc != FAULT_CANCELLED)
        return command_fault("run", &why);
    printf("%zu derived, %zu refused, %zu failed\n", run.n_derived, run.n_refused, run.n_failed);
    if (run.n_failed > 0)
        return EXIT_SOME_FAILED;
    if (run.n_unseen > 0)
        return EXIT_FAULT;
    return run.n_derived > 0 ? EXIT_DERIVED : EXIT_NOTHING;
}
