// SPDX-License-Identifier: Apache-2.0
//
// isoslice train subject: stage 3 on one stack, as the worker does it, with checkpoints and a log.

#include "train/subject.h"
#include "cli/command.h"
#include "core/progress.h"
#include "train/nifti.h"
#include "worker/process.h"

#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { EXIT_STOPPED = 3, PATH_SIZE = 4096 };

struct subject {
    struct subject_job job;
    struct sr_options options;
    struct sr_recipe recipe;
    struct sr_stack stack;
    float *voxels;    // of the stack
    const char *data; // folder of a DICOM series, or a NIfTI file
    int wanted;       // number of the stack, from 1; 0: the only one
    char weights[PATH_SIZE];
    struct progress progress;
};

static volatile int subject_stop;

static void on_interrupt(int number)
{
    (void)number;
    subject_stop = 1;
}

static void print_help(void)
{
    char line[160];
    puts("usage: isoslice train subject --data PATH --out DIR [options]\n\n"
         "Stage 3: adapts the network to one stack of thick slices, on pairs cut from an isotropic\n"
         "estimate of it: along rows and columns, where the stack is fine, blurred and thinned out like "
         "slices. The same code "
         "runs in\n"
         "the node; here it can be watched, stopped and taken up, and its weights used by isoslice run "
         "--weights.\n"
         "  PATH: a folder with DICOM files (searched recursively) or a .nii or .nii.gz file whose last axis "
         "has\n"
         "  the slices.\n\n"
         "DIR gets weights.safetensors (the last, unless others did clearly better on a\n"
         "held-out part of the image), raw and the optimiser's "
         "moments,\n"
         "state, log.csv and loss.png. The same command goes on where DIR's run stopped, on the ref and cpu\n"
         "backends to the same bits as a run that was never stopped. Ctrl-C saves first.\n\n"
         "  --stack K         of several stacks in PATH the K-th, in the order of isoslice run\n"
         "  --thickness MM    of a slice of a NIfTI file (default: the spacing of its slices)\n"
         "  --weights FILE    to begin with (default: those that are installed)\n"
         "  --steps N         steps\n"
         "  --budget S        seconds instead (default 120); turned into a number of steps, at most 600, "
         "which a\n"
         "                    run that is taken up keeps\n"
         "  --seed N          of samples and order (default 1)\n"
         "  --backend NAME    auto, cpu, cuda, cuda16 or ref\n"
         "  --threads N       0: all processors\n"
         "  --every MIN       minutes between checkpoints (default 3)\n"
         "  --recipe TEXT     NAME=VALUE of the table below, ':' between, or the option again\n");
    for (size_t i = 0; sr_recipe_help(i, line, sizeof line); i++)
        printf("    %s\n", line);
    puts("\nensemble, acquired and consistency are of the use of the network: here acquired alone counts, in "
         "the\n"
         "checks. Where isoslice run is asked for the bare network ensemble is 1 and consistency 0.\n\n"
         "Exit code: 0 done; 2 usage; 3 stopped on request and saved; 1 fault.");
}

enum { DATA = 256, OUT, STACK, THICKNESS, WEIGHTS, STEPS, BUDGET, SEED, BACKEND, THREADS, EVERY, RECIPE };

static int set_option(struct subject *subject, int option, const char **weights)
{
    struct sr_options *engine = &subject->options;
    long long value = 0;
    int is_whole = 1;
    switch (option) {
    case DATA:
        subject->data = optarg;
        return 1;
    case OUT:
        subject->job.out = optarg;
        return 1;
    case STACK:
        is_whole = command_parse_int(optarg, 1, 100000, &value);
        subject->wanted = (int)value;
        return is_whole;
    case THICKNESS:
        return command_parse_real(optarg, 0.001, 1000, &subject->stack.thickness_mm);
    case WEIGHTS:
        *weights = optarg;
        return 1;
    case STEPS:
        is_whole = command_parse_int(optarg, 1, 100000, &value);
        engine->steps = (int)value;
        return is_whole;
    case BUDGET:
        return command_parse_real(optarg, 1, 86400, &engine->budget_s);
    case SEED:
        is_whole = command_parse_int(optarg, 0, 2147483647, &value);
        engine->seed = (uint64_t)value;
        return is_whole;
    case THREADS:
        is_whole = command_parse_int(optarg, 0, 1024, &value);
        engine->threads = (int)value;
        return is_whole;
    case EVERY:
        return command_parse_real(optarg, 0.001, 1e6, &subject->job.every_minutes);
    default:
        engine->backend = optarg;
        return command_is_backend(optarg);
    }
}

// 0: go on; -1: help was printed; else an exit code.
static int parse(struct subject *subject, int argc, char **argv)
{
    static const struct option options[] = {{"data", required_argument, NULL, DATA},
                                            {"out", required_argument, NULL, OUT},
                                            {"stack", required_argument, NULL, STACK},
                                            {"thickness", required_argument, NULL, THICKNESS},
                                            {"weights", required_argument, NULL, WEIGHTS},
                                            {"steps", required_argument, NULL, STEPS},
                                            {"budget", required_argument, NULL, BUDGET},
                                            {"seed", required_argument, NULL, SEED},
                                            {"backend", required_argument, NULL, BACKEND},
                                            {"threads", required_argument, NULL, THREADS},
                                            {"every", required_argument, NULL, EVERY},
                                            {"recipe", required_argument, NULL, RECIPE},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const char *weights = NULL;
    struct fault_note why;
    int c;
    subject->recipe = sr_recipe_default();
    subject->options = (struct sr_options){.backend = "auto", .clip = 1, .budget_s = 120, .seed = 1};
    subject->job = (struct subject_job){.every_minutes = 3, .log_steps = 10};
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 'h') {
            print_help();
            return -1;
        }
        if (c == '?')
            return command_usage_error("train subject", "bad arguments");
        if (c == RECIPE && sr_recipe_set(&subject->recipe, optarg, &why) != 0)
            return command_fault("train subject", &why);
        if (c != RECIPE && !set_option(subject, c, &weights))
            return command_usage_error("train subject", "bad value '%s'", optarg);
    }
    if (subject->data == NULL || subject->job.out == NULL || optind != argc)
        return command_usage_error("train subject", "needs --data and --out");
    if (process_find_weights(weights, subject->weights, sizeof subject->weights, &why) != 0)
        return command_fault("train subject", &why);
    return 0;
}

// --------------------------------------------------------------------------------------------- the stack

static int read_nifti(struct subject *subject, struct fault_note *why)
{
    struct volume volume;
    struct sr_stack *stack = &subject->stack;
    int rc = nifti_read(subject->data, &volume, why);
    if (rc != 0)
        return rc;
    *stack = (struct sr_stack){.depth = volume.size[2],
                               .height = volume.size[1],
                               .width = volume.size[0],
                               .row_mm = volume.spacing_mm[1],
                               .column_mm = volume.spacing_mm[0],
                               .slice_mm = volume.spacing_mm[2],
                               .thickness_mm = stack->thickness_mm};
    subject->voxels = volume.voxels;
    volume.voxels = NULL;
    volume_done(&volume);
    return 0;
}

// Prints the stacks that are there and finds the one that is wanted.
static const struct source_item *choose_item(const struct subject *subject, const struct reader *reader,
                                             size_t *index, struct fault_note *why)
{
    int n = 0;
    const struct source_item *chosen = NULL;
    for (size_t i = 0; i < reader_n_items(reader); i++) {
        const struct source_item *item = reader_item(reader, i);
        if (item->verdict != FAULT_OK) {
            printf("%zu images refused: %s: %s\n", item->n_images, fault_name(item->verdict), item->reason);
            continue;
        }
        printf("stack %d: series %s, %dx%dx%d, pixels %.4g x %.4g mm, slices %.4g mm apart\n", ++n,
               item->series_uid, item->width, item->height, item->depth, item->column_mm, item->row_mm,
               item->slice_mm);
        if (chosen == NULL && (subject->wanted == 0 || subject->wanted == n)) {
            chosen = item;
            *index = i;
        }
    }
    fflush(stdout);
    if (chosen == NULL)
        fault_set(why, FAULT_NOTHING_TO_DO, "'%s' holds %d stacks to learn from", subject->data, n);
    if (chosen != NULL && subject->wanted == 0 && n > 1) {
        fault_set(why, FAULT_USAGE, "'%s' holds %d stacks: choose one with --stack", subject->data, n);
        return NULL;
    }
    return chosen;
}

static int read_series(struct subject *subject, struct fault_note *why)
{
    struct reader *reader = NULL;
    struct reader_block voxels = READER_BLOCK_NONE;
    const struct reader_options options = {.memory_bytes = READER_MEMORY_BYTES_ANY,
                                           .cpu_s = READER_OPEN_S_ANY};
    size_t index = 0;
    int rc = reader_open(&subject->data, 1, &options, &reader, why);
    if (rc != 0)
        return rc;
    const struct source_item *item = choose_item(subject, reader, &index, why);
    if (item == NULL) {
        rc = why->fault;
        goto out;
    }
    subject->stack = (struct sr_stack){.depth = item->depth,
                                       .height = item->height,
                                       .width = item->width,
                                       .row_mm = item->row_mm,
                                       .column_mm = item->column_mm,
                                       .slice_mm = item->slice_mm,
                                       .thickness_mm = item->thickness_mm,
                                       .smooth_axis = item->resampled_axis};
    rc = reader_load_voxels(reader, index, &voxels, why);
    if (rc == 0) {
        subject->voxels = malloc(voxels.n * sizeof *subject->voxels);
        if (subject->voxels == NULL)
            rc = fault_set(why, FAULT_NO_MEMORY, "no memory for a stack of %zu voxels", voxels.n);
        else
            memcpy(subject->voxels, voxels.data, voxels.n * sizeof *subject->voxels);
    }
out:
    reader_block_free(&voxels);
    reader_free(reader);
    return rc;
}

static void say_db(const char *what, double value)
{
    if (isfinite(value))
        printf("  %-34s %.2f dB\n", what, value);
}

static int work(struct subject *subject, struct fault_note *why)
{
    struct stat status;
    struct subject_report report;
    int rc = stat(subject->data, &status) != 0
                 ? fault_set(why, FAULT_NOT_FOUND, "there is no '%s'", subject->data)
             : S_ISDIR(status.st_mode) ? read_series(subject, why)
                                       : read_nifti(subject, why);
    if (rc != 0)
        return rc;
    subject->stack.voxels = subject->voxels;
    subject->options.weights_path = subject->weights;
    subject->options.recipe = &subject->recipe;
    subject->options.progress = progress_show;
    subject->options.progress_user = &subject->progress;
    subject->job.stack = &subject->stack;
    subject->job.options = &subject->options;
    rc = subject_run(&subject->job, &report, why);
    progress_done(&subject->progress);
    if (rc != 0 && rc != FAULT_CANCELLED)
        return rc;
    printf("%s; step %d of %d", report.backend, report.step, report.n_steps);
    if (report.resumed_at > 0)
        printf(" (taken up at %d)", report.resumed_at);
    printf(", %.1f minutes, L1 %.5f\nheld-out part of the image:\n", report.minutes, report.loss);
    say_db("linear interpolation", report.linear_db);
    say_db("the weights before", report.start_db);
    say_db("those that are kept", report.best_db);
    if (report.share_best < 1)
        printf("kept: %.0f %% of the way to ", 100 * report.share_best);
    else
        printf("kept: ");
    printf("step %d: %s/weights.safetensors\n", report.step_best, subject->job.out);
    return rc;
}

int command_train_subject(int argc, char **argv)
{
    static struct subject subject;
    struct fault_note why;
    int code = parse(&subject, argc, argv);
    if (code != 0)
        return code < 0 ? 0 : code;
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    progress_init(&subject.progress, &subject_stop);
    int rc = work(&subject, &why);
    free(subject.voxels);
    if (rc == FAULT_CANCELLED) {
        fprintf(stderr, "isoslice train subject: %s; the same command goes on from there\n", why.text);
        return EXIT_STOPPED;
    }
    return rc == 0 ? 0 : command_fault("train subject", &why);
}
