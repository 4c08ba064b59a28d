// SPDX-License-Identifier: Apache-2.0
//
// isoslice eval: how near methods come to the truth on thick slices simulated from high-resolution volumes.

#include "cli/command.h"
#include "core/file.h"
#include "core/progress.h"
#include "train/evaluate.h"
#include "train/series.h"
#include "worker/process.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 4096 };

struct eval {
    struct evaluation evaluation;
    struct volume_list volumes;
    int n_taken;
    const char *out;
    char weights[PATH_SIZE];
    char *methods; // the list, cut at its commas
    struct progress progress;
};

static volatile int eval_stop;

static void on_interrupt(int number)
{
    (void)number;
    eval_stop = 1;
}

static void print_help(void)
{
    puts("usage: isoslice eval --data PATH ... --out DIR [options]\n\n"
         "Simulates thick slices from high-resolution volumes (.nii, .nii.gz, folders of them, or folders "
         "with DICOM\n"
         "series somewhere below), interpolates them with every method and compares the results with the "
         "truth at all planes from the first slice's "
         "centre to\n"
         "the last's. DIR gets report.md, report.json and a picture of every case.\n\n"
         "  --factor N       voxels from slice to slice, 2 to 32 (default 4)\n"
         "  --axis A         slice axis: x, y or z of the file (default z)\n"
         "  --profile P      slice profile: gauss, box or none (default gauss)\n"
         "  --gap F          share of the spacing that no slice covers (default 0)\n"
         "  --noise S        sigma of Gaussian noise on the slices, share of the range (default 0)\n"
         "  --crop X0:X1,Y0:Y1,Z0:Z1   part of the volume, voxels of the file; empty: from the start, to the "
         "end\n"
         "  --methods LIST   of linear, cubic (B-spline), lanczos, base, tuned, or weights files, separated "
         "by\n"
         "                   commas (default linear,cubic,lanczos,base); behind base, tuned and files a "
         "recipe\n"
         "                   may follow, NAME=VALUE after colons: tuned:part=lora:rank=8. Its names: "
         "isoslice\n"
         "                   train subject --help\n"
         "  --weights FILE   of base and tuned (default: those that are installed)\n"
         "  --steps N        steps of the fine-tune of tuned\n"
         "  --budget S       seconds of it instead (default 120), for at most 600 steps\n"
         "  --seed N         of fine-tune and noise (default 1)\n"
         "  --backend NAME   auto, cpu, cuda, cuda16 or ref\n"
         "  --threads N      0: all processors\n"
         "  --memory MB      working memory of the engine; 0: 3072, halved until half of what is free\n\n"
         "The slice: thickness T = N (1 - F) voxels; gauss: full width at half maximum T, to 3 sigma; box: "
         "width T.\n"
         "Weights are divided by their sum inside the volume; slices are the N-th planes from the N/2-th, "
         "rounded\n"
         "to whole numbers; the volume's 99.95th percentile is 2000.\n"
         "The numbers: range R = 99.9th percentile of the truth; truth and result clipped to [0, R].\n"
         "  psnr          10 log10(R^2 / mean squared difference), all voxels\n"
         "  psnr_between  of the planes between the acquired slices\n"
         "  psnr_head     of the voxels whose truth is above 0.02 R\n"
         "  ssim3d        structural similarity, cube of 7, uniform weights, sample covariance, K1 0.01, K2 "
         "0.03\n"
         "  ssim_planes   the same in the planes across the slices, mean of every 4th in either direction\n"
         "Mean and standard deviation (n - 1) over the volumes; s: seconds of a volume.\n\n"
         "Exit code: 0 done; 2 usage; 1 fault.");
}

static int parse_crop(const char *text, struct simulate_recipe *recipe)
{
    const char *at = text;
    for (int i = 0; i < 3; i++) {
        char *end;
        long first = strtol(at, &end, 10), last;
        if (first < 0 || *end != ':')
            return 0;
        at = end + 1;
        last = strtol(at, &end, 10);
        if (last < 0 || *end != (i < 2 ? ',' : '\0') || (end != at && last <= first) || last > 4096 ||
            first > 4096)
            return 0;
        recipe->first[i] = (int)first;
        recipe->last[i] = (int)last;
        at = end + 1;
    }
    return 1;
}

// Fills methods from the list and the weights that they need.
static int take_methods(struct eval *eval, const char *list, const char *weights, struct fault_note *why)
{
    struct evaluation *evaluation = &eval->evaluation;
    int needs_weights = 0;
    char *rest = eval->methods = strdup(list);
    if (rest == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for the methods");
    for (char *at = strsep(&rest, ","); at != NULL; at = strsep(&rest, ",")) {
        if (*at == '\0' || evaluation->n_methods == EVALUATE_MAX_METHODS)
            return fault_set(why, FAULT_USAGE, "'%s' is not a list of 1 to %d methods", list,
                             EVALUATE_MAX_METHODS);
        struct evaluate_method *method = &evaluation->methods[evaluation->n_methods++];
        int rc = evaluate_method_of(at, method, why);
        if (rc != 0)
            return rc;
        needs_weights |= method->kind == EVALUATE_BASE || method->kind == EVALUATE_TUNED;
    }
    if (!needs_weights)
        return 0;
    int rc = process_find_weights(weights, eval->weights, sizeof eval->weights, why);
    evaluation->engine.weights_path = eval->weights;
    return rc;
}

enum {
    DATA = 256,
    OUT,
    FACTOR,
    AXIS,
    PROFILE,
    GAP,
    NOISE,
    CROP,
    METHODS,
    WEIGHTS,
    STEPS,
    BUDGET,
    SEED,
    BACKEND,
    THREADS,
    MEMORY
};

static const struct option options[] = {{"data", required_argument, NULL, DATA},
                                        {"out", required_argument, NULL, OUT},
                                        {"factor", required_argument, NULL, FACTOR},
                                        {"axis", required_argument, NULL, AXIS},
                                        {"profile", required_argument, NULL, PROFILE},
                                        {"gap", required_argument, NULL, GAP},
                                        {"noise", required_argument, NULL, NOISE},
                                        {"crop", required_argument, NULL, CROP},
                                        {"methods", required_argument, NULL, METHODS},
                                        {"weights", required_argument, NULL, WEIGHTS},
                                        {"steps", required_argument, NULL, STEPS},
                                        {"budget", required_argument, NULL, BUDGET},
                                        {"seed", required_argument, NULL, SEED},
                                        {"backend", required_argument, NULL, BACKEND},
                                        {"threads", required_argument, NULL, THREADS},
                                        {"memory", required_argument, NULL, MEMORY},
                                        {"help", no_argument, NULL, 'h'},
                                        {NULL, 0, NULL, 0}};

static int set_simulation(struct simulate_recipe *recipe, int option)
{
    long long value;
    switch (option) {
    case FACTOR:
        if (!command_parse_int(optarg, 2, SIMULATE_MAX_FACTOR, &value))
            return 0;
        recipe->factor = (int)value;
        return 1;
    case AXIS:
        recipe->axis = optarg[0] - 'x';
        return optarg[0] >= 'x' && optarg[0] <= 'z' && optarg[1] == '\0';
    case PROFILE:
        return profile_parse(optarg, &recipe->profile);
    case GAP:
        return command_parse_real(optarg, 0, 0.95, &recipe->gap);
    case NOISE:
        return command_parse_real(optarg, 0, 1, &recipe->noise);
    default:
        return parse_crop(optarg, recipe);
    }
}

static int set_engine(struct evaluation *evaluation, int option)
{
    struct sr_options *engine = &evaluation->engine;
    long long value;
    int is_number = 1;
    switch (option) {
    case STEPS:
        is_number = command_parse_int(optarg, 1, 100000, &value);
        engine->steps = is_number ? (int)value : 0;
        return is_number;
    case BUDGET:
        return command_parse_real(optarg, 1, 86400, &engine->budget_s);
    case SEED:
        is_number = command_parse_int(optarg, 0, 2147483647, &value);
        engine->seed = evaluation->recipe.seed = is_number ? (uint64_t)value : 0;
        return is_number;
    case THREADS:
        is_number = command_parse_int(optarg, 0, 1024, &value);
        engine->threads = is_number ? (int)value : 0;
        return is_number;
    case MEMORY:
        is_number = command_parse_int(optarg, 0, 1000000000, &value);
        engine->memory_bytes = is_number ? (size_t)value << 20 : 0;
        return is_number;
    default:
        engine->backend = optarg;
        return command_is_backend(optarg);
    }
}

// 0: go on; -1: help was printed; else an exit code.
static int parse(struct eval *eval, int argc, char **argv)
{
    struct evaluation *evaluation = &eval->evaluation;
    const char *methods = "linear,cubic,lanczos,base", *weights = NULL;
    struct fault_note why;
    int c, last = 0;
    evaluation->recipe =
        (struct simulate_recipe){.axis = 2, .factor = 4, .profile = PROFILE_GAUSS, .seed = 1};
    evaluation->engine = (struct sr_options){.backend = "auto",
                                             .clip = 1,
                                             .budget_s = 120,
                                             .seed = 1,
                                             .progress = progress_show,
                                             .progress_user = &eval->progress};
    optind = 1;
    while ((c = getopt_long(argc, argv, "-h", options, NULL)) != -1) {
        int ok = 1;
        if (c == 'h') {
            print_help();
            return -1;
        }
        if (c == '?')
            return command_usage_error("eval", "bad arguments");
        if (c == DATA || (c == 1 && last == DATA)) {
            if (volume_list_add(&eval->volumes, optarg, &why) != 0)
                return command_fault("eval", &why);
            c = DATA;
        } else if (c == OUT) {
            eval->out = optarg;
        } else if (c == METHODS) {
            methods = optarg;
        } else if (c == WEIGHTS) {
            weights = optarg;
        } else if (c >= FACTOR && c <= CROP) {
            ok = set_simulation(&evaluation->recipe, c);
        } else {
            ok = c != 1 && set_engine(evaluation, c);
        }
        if (!ok)
            return command_usage_error("eval", "bad value '%s'", optarg);
        last = c;
    }
    if (eval->volumes.n_nifti + eval->volumes.n_dicom == 0 || eval->out == NULL)
        return command_usage_error("eval", "needs --data and --out");
    return take_methods(eval, methods, weights, &why) == 0 ? 0 : command_fault("eval", &why);
}

static void print_case(const struct evaluation *evaluation)
{
    const struct evaluate_case *scores = &evaluation->cases[evaluation->n_cases - 1];
    printf("%s\n", scores->name);
    for (size_t m = 0; m < evaluation->n_methods; m++) {
        printf("  %-16s", evaluation->methods[m].name);
        for (int k = 0; k < SCORE_N; k++)
            printf(" %s %.*f", score_name((enum score_kind)k), k >= SCORE_SSIM_3D ? 4 : 3,
                   scores->scores[m].values[k]);
        printf("  %.1f s\n", scores->scores[m].seconds);
    }
    fflush(stdout);
}

static void print_means(const struct evaluation *evaluation)
{
    printf("mean of %zu (standard deviation)\n", evaluation->n_cases);
    for (size_t m = 0; m < evaluation->n_methods; m++) {
        printf("  %-16s", evaluation->methods[m].name);
        for (int k = 0; k < SCORE_N; k++) {
            double mean, deviation;
            int digits = k >= SCORE_SSIM_3D ? 4 : 3;
            evaluate_mean(evaluation, m, (enum score_kind)k, &mean, &deviation);
            printf(" %s %.*f", score_name((enum score_kind)k), digits, mean);
            if (evaluation->n_cases > 1)
                printf(" (%.*f)", digits, deviation);
        }
        putchar('\n');
    }
}

static void leave_out(void *user, const char *name, const char *reason)
{
    struct eval *eval = user;
    progress_done(&eval->progress);
    fprintf(stderr, "isoslice eval: '%s' left out: %s\n", name, reason);
}

static int take_volume(void *user, const struct volume *volume, const char *name, struct fault_note *why)
{
    struct eval *eval = user;
    char path[PATH_SIZE], picture[64];
    snprintf(picture, sizeof picture, "case%03d.png", ++eval->n_taken);
    int rc = file_join(path, sizeof path, eval->out, picture, why);
    if (rc == 0)
        rc = evaluate_volume(&eval->evaluation, volume, name, path, why);
    progress_done(&eval->progress);
    if (rc == FAULT_NOTHING_TO_DO) {
        leave_out(eval, name, why->text);
        return 0;
    }
    if (rc == 0)
        print_case(&eval->evaluation);
    return rc;
}

static int work(struct eval *eval, struct fault_note *why)
{
    struct evaluation *evaluation = &eval->evaluation;
    struct volume_reader reader = {
        .series = series_read, .take = take_volume, .left_out = leave_out, .user = eval};
    char path[PATH_SIZE];
    int rc = file_make_directory(eval->out, why);
    if (rc == 0)
        rc = volume_list_read(&eval->volumes, &reader, why);
    if (rc == 0 && eval->n_taken == 0)
        rc = fault_set(why, FAULT_NOT_FOUND, "none of %zu DICOM files is of a stack that can serve",
                       eval->volumes.n_dicom);
    if (rc == 0 && evaluation->n_cases == 0)
        rc = fault_set(why, FAULT_NOTHING_TO_DO, "no volume was large enough");
    if (rc != 0)
        return rc;
    print_means(evaluation);
    rc = file_join(path, sizeof path, eval->out, "report.md", why);
    if (rc == 0)
        rc = evaluate_write_markdown(evaluation, path, why);
    if (rc == 0)
        rc = file_join(path, sizeof path, eval->out, "report.json", why);
    return rc != 0 ? rc : evaluate_write_json(evaluation, path, why);
}

int command_eval(int argc, char **argv)
{
    static struct eval eval;
    struct fault_note why;
    int code = parse(&eval, argc, argv);
    if (code == 0) {
        struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        progress_init(&eval.progress, &eval_stop);
        code = work(&eval, &why) == 0 ? 0 : command_fault("eval", &why);
    }
    evaluate_done(&eval.evaluation);
    volume_list_done(&eval.volumes);
    free(eval.methods);
    return code < 0 ? 0 : code;
}
