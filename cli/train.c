// SPDX-License-Identifier: Apache-2.0
//
// isoslice train video|mr: stages 1 and 2 on a person's own data.

#include "cli/command.h"
#include "core/progress.h"
#include "train/series.h"
#include "train/training.h"

#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_STOPPED = 3, MAX_PATHS = 64 };

struct list {
    int n;
    const char *paths[MAX_PATHS];
};

struct train {
    struct training_job job;
    struct list data, validation;
    const char *prepare;
    struct corpus corpus, kept_aside;
    struct progress progress;
};

static volatile int train_stop;

static void on_interrupt(int number)
{
    (void)number;
    train_stop = 1;
}

static void print_help(void)
{
    puts("usage: isoslice train video --data PATH ... --out DIR [options]\n"
         "       isoslice train mr    --data PATH ... --out DIR [options]\n"
         "       isoslice train video|mr --data PATH ... --prepare FILE\n"
         "       isoslice train subject --data PATH --out DIR [options]   (see its own --help)\n\n"
         "Stage 1 (video): the network learns to fill in the frames that were left out of a clip.\n"
         "  PATH: a video file, a folder of PNG frames in the order of their names, or a folder of either;\n"
         "  gray, reduced to a short side of 90 pixels. Crops that hardly move are mostly passed over.\n"
         "Stage 2 (mr): it learns to fill in the planes between thick slices that are simulated from\n"
         "  high-resolution volumes: slice profile, then every n-th plane from a random offset.\n"
         "  PATH: .nii or .nii.gz files, folders of them (uint8, int16, uint16 or float32), or folders with "
         "DICOM\n"
         "  series somewhere below, whatever the file names; both may lie in one folder. A DICOM stack is a\n"
         "  volume, thin and 3D ones too; what cannot serve is left out, the reason is printed. Any axis "
         "serves as\n"
         "  slice axis unless its spacing is more than 2.5 times the finest; thick stacks serve in plane.\n"
         "Both: L1, Adam, the rate rising over the first steps and falling along half a cosine, flips along\n"
         "every axis, weights averaged over the steps.\n\n"
         "DIR gets weights.safetensors (averaged, for use), raw, adam_m and adam_v.safetensors, state, "
         "log.csv\n"
         "and loss.png. The same command goes on where DIR's run stopped; on the ref and cpu backends, with\n"
         "--steps, to the same bits as a run that was never stopped. Ctrl-C saves first.\n\n"
         "  --val PATH ...    volumes kept aside; validation PSNR (factor 4, Gaussian profile of width 4, "
         "all\n"
         "                    planes between, middle 96 voxels, z) at every checkpoint\n"
         "  --init FILE       weights to begin with (default: random, scaled so that they learn at once)\n"
         "  --plain-start     random as PyTorch has it, the last layer a tenth\n"
         "  --minutes M       wall clock of the run, all sittings together (default 60)\n"
         "  --steps N         steps instead\n"
         "  --batch N         samples a step (default 1)\n"
         "  --slices N        retained slices of a sample, 2 to 32 (default 8; video 16)\n"
         "  --crop N          rows and columns of a sample (default 64)\n"
         "  --factors A,B     spacing of retained slices, drawn from A to B, 1 to 16 (default 2,8)\n"
         "  --places N        places drawn for a sample, of which the one whose slices differ most is taken\n"
         "                    (default 3; video 1)\n"
         "  --rate R          highest learning rate (default 1e-4)\n"
         "  --warm-up N       steps of rising rate (default 200)\n"
         "  --clip-norm X     longest gradient, 0: any (default 1)\n"
         "  --seed N          of weights, samples and order (default 1)\n"
         "  --backend NAME    auto, cpu, cuda, cuda16 or ref (default auto)\n"
         "  --threads N       0: all processors (default)\n"
         "  --every MIN       minutes between checkpoints (default 3)\n"
         "  --prepare FILE    only read the data and pack them into one file, which --data accepts and maps\n"
         "                    into memory\n"
         "mr only:\n"
         "  --profile P       gauss, box or none (default gauss)\n"
         "  --thickness A,B   thickness as a share of the spacing, drawn from A to B (default 0.6,1.2)\n"
         "  --noise S         highest sigma of noise on half of the stacks, of the range (default 0.02)\n\n"
         "Exit code: 0 done; 2 usage; 3 stopped on request and saved; 1 fault.");
}

static int parse_pair(const char *text, double min, double max, double *low, double *high)
{
    char first[32];
    const char *comma = strchr(text, ',');
    if (comma == NULL || (size_t)(comma - text) >= sizeof first)
        return 0;
    snprintf(first, sizeof first, "%.*s", (int)(comma - text), text);
    return command_parse_real(first, min, max, low) && command_parse_real(comma + 1, min, max, high) &&
           *low <= *high;
}

static int add_path(struct list *list, const char *path)
{
    if (list == NULL || list->n == MAX_PATHS)
        return 0;
    list->paths[list->n++] = path;
    return 1;
}

enum {
    DATA = 256,
    VAL,
    OUT,
    INIT,
    MINUTES,
    STEPS,
    BATCH,
    SLICES,
    CROP,
    FACTORS,
    PLACES,
    RATE,
    WARM_UP,
    CLIP_NORM,
    SEED,
    BACKEND,
    THREADS,
    EVERY,
    PREPARE,
    PROFILE,
    THICKNESS,
    NOISE,
    PLAIN_START
};

static const struct option options[] = {{"data", required_argument, NULL, DATA},
                                        {"val", required_argument, NULL, VAL},
                                        {"out", required_argument, NULL, OUT},
                                        {"init", required_argument, NULL, INIT},
                                        {"minutes", required_argument, NULL, MINUTES},
                                        {"steps", required_argument, NULL, STEPS},
                                        {"batch", required_argument, NULL, BATCH},
                                        {"slices", required_argument, NULL, SLICES},
                                        {"crop", required_argument, NULL, CROP},
                                        {"factors", required_argument, NULL, FACTORS},
                                        {"places", required_argument, NULL, PLACES},
                                        {"rate", required_argument, NULL, RATE},
                                        {"warm-up", required_argument, NULL, WARM_UP},
                                        {"clip-norm", required_argument, NULL, CLIP_NORM},
                                        {"seed", required_argument, NULL, SEED},
                                        {"backend", required_argument, NULL, BACKEND},
                                        {"threads", required_argument, NULL, THREADS},
                                        {"every", required_argument, NULL, EVERY},
                                        {"prepare", required_argument, NULL, PREPARE},
                                        {"profile", required_argument, NULL, PROFILE},
                                        {"thickness", required_argument, NULL, THICKNESS},
                                        {"noise", required_argument, NULL, NOISE},
                                        {"plain-start", no_argument, NULL, PLAIN_START},
                                        {"help", no_argument, NULL, 'h'},
                                        {NULL, 0, NULL, 0}};

static int parse_whole(const char *text, long long min, long long max, int *value)
{
    long long read;
    if (!command_parse_int(text, min, max, &read))
        return 0;
    *value = (int)read;
    return 1;
}

// One option that sets a number or a name of the sample's or the recipe's; 0 for a bad value.
static int set_learning(struct training_job *job, int option)
{
    double low, high;
    long long value;
    switch (option) {
    case BATCH:
        return parse_whole(optarg, 1, 256, &job->sample.batch);
    case SLICES:
        return parse_whole(optarg, 2, SR_CUT_MAX_SLICES, &job->sample.slices);
    case CROP:
        return parse_whole(optarg, 16, 512, &job->sample.crop);
    case FACTORS:
        if (!parse_pair(optarg, 1, SAMPLE_MAX_FACTOR, &low, &high))
            return 0;
        job->sample.factor_min = (int)low;
        job->sample.factor_max = (int)high;
        return low == rint(low) && high == rint(high);
    case PLACES:
        return parse_whole(optarg, 1, 64, &job->sample.places);
    case RATE:
        return command_parse_real(optarg, 1e-9, 1, &job->recipe.rate);
    case WARM_UP:
        return parse_whole(optarg, 0, 1000000, &job->recipe.warm_up);
    case CLIP_NORM:
        return command_parse_real(optarg, 0, 1e9, &job->recipe.clip_norm);
    case SEED:
        if (!command_parse_int(optarg, 0, 2147483647, &value))
            return 0;
        job->sample.seed = (uint64_t)value;
        return 1;
    case PROFILE:
        return profile_parse(optarg, &job->sample.profile);
    case THICKNESS:
        return parse_pair(optarg, 0.05, 3, &job->sample.thickness_low, &job->sample.thickness_high);
    default:
        return command_parse_real(optarg, 0, 1, &job->sample.noise);
    }
}

// One option about the run as a whole.
static int set_job(struct train *train, int option)
{
    struct training_job *job = &train->job;
    long long value;
    switch (option) {
    case OUT:
        job->out = optarg;
        return 1;
    case INIT:
        job->init = optarg;
        return 1;
    case PLAIN_START:
        job->plain_start = 1;
        return 1;
    case PREPARE:
        train->prepare = optarg;
        return 1;
    case MINUTES:
        return command_parse_real(optarg, 0.01, 1e6, &job->minutes);
    case STEPS:
        if (!command_parse_int(optarg, 1, 100000000, &value))
            return 0;
        job->steps = (long)value;
        return 1;
    case BACKEND:
        job->backend = optarg;
        return command_is_backend(optarg);
    case THREADS:
        return parse_whole(optarg, 0, 1024, &job->threads);
    default:
        return command_parse_real(optarg, 0.01, 1e6, &job->every_minutes);
    }
}

// 0: go on; -1: help was printed; else an exit code.
static int parse(struct train *train, int argc, char **argv)
{
    struct training_job *job = &train->job;
    struct list *list = NULL;
    int c, is_mr_option = 0;
    const char *stage = argc > 1 ? argv[1] : "";
    if (strcmp(stage, "--help") == 0 || strcmp(stage, "-h") == 0) {
        print_help();
        return -1;
    }
    int is_mr = strcmp(stage, "mr") == 0;
    if (!is_mr && strcmp(stage, "video") != 0)
        return command_usage_error("train", "needs a stage, video, mr or subject, not '%s'", stage);
    *job = (struct training_job){.stage = stage,
                                 .backend = "auto",
                                 .config = net_config_p0(),
                                 .sample = sample_default(is_mr ? CORPUS_MR : CORPUS_VIDEO),
                                 .recipe = training_default(),
                                 .minutes = 60,
                                 .every_minutes = 3,
                                 .log_steps = 20,
                                 .validate_crop = 96};
    optind = 1;
    while ((c = getopt_long(argc - 1, argv + 1, "-h", options, NULL)) != -1) {
        int ok;
        if (c == 'h') {
            print_help();
            return -1;
        }
        if (c == '?')
            return command_usage_error("train", "bad arguments");
        if (c == DATA || c == VAL) {
            list = c == DATA ? &train->data : &train->validation;
            ok = add_path(list, optarg);
        } else if (c == 1) { // a further value of --data or --val
            ok = add_path(list, optarg);
        } else {
            list = NULL;
            is_mr_option |= c >= PROFILE && c <= NOISE;
            int is_learning = (c >= BATCH && c <= SEED) || (c >= PROFILE && c <= NOISE);
            ok = is_learning ? set_learning(job, c) : set_job(train, c);
        }
        if (!ok)
            return command_usage_error("train", "bad value '%s'", optarg);
    }
    if (is_mr_option && !is_mr)
        return command_usage_error("train", "--profile, --thickness and --noise are of mr");
    if (train->data.n == 0 || (job->out == NULL) == (train->prepare == NULL))
        return command_usage_error("train", "needs --data and either --out or --prepare");
    return 0;
}

static void leave_out(void *user, const char *name, const char *reason)
{
    progress_done(user);
    fprintf(stderr, "isoslice train: '%s' left out: %s\n", name, reason);
}

static int read_list(struct train *train, const struct list *list, enum corpus_kind kind,
                     struct corpus *corpus, struct fault_note *why)
{
    int rc = 0;
    corpus_init(corpus, kind);
    corpus->series = series_read;
    corpus->left_out = leave_out;
    corpus->left_out_user = &train->progress;
    for (int i = 0; rc == 0 && i < list->n; i++)
        rc = corpus_add(corpus, list->paths[i], progress_show, &train->progress, why);
    progress_done(&train->progress);
    return rc;
}

static int work(struct train *train, struct fault_note *why)
{
    struct training_job *job = &train->job;
    struct training_report report;
    enum corpus_kind kind = strcmp(job->stage, "mr") == 0 ? CORPUS_MR : CORPUS_VIDEO;
    int rc = read_list(train, &train->data, kind, &train->corpus, why);
    if (rc == 0)
        rc = read_list(train, &train->validation, CORPUS_MR, &train->kept_aside, why);
    if (rc != 0)
        return rc;
    printf("%zu items, %.1f million voxels; %zu volumes kept aside\n", train->corpus.n_items,
           1e-6 * (double)corpus_voxels(&train->corpus), train->kept_aside.n_items);
    fflush(stdout);
    if (train->prepare != NULL)
        return corpus_save(&train->corpus, train->prepare, why);
    job->corpus = &train->corpus;
    job->validation = train->validation.n > 0 ? &train->kept_aside : NULL;
    job->progress = progress_show;
    job->progress_user = &train->progress;
    rc = training_run(job, &report, why);
    progress_done(&train->progress);
    if (rc != 0 && rc != FAULT_CANCELLED)
        return rc;
    printf("%s; step %ld", report.backend, report.step);
    if (report.resumed_at > 0)
        printf(" (taken up at %ld)", report.resumed_at);
    printf(", %.1f minutes, L1 %.5f\n", report.minutes, report.loss);
    if (job->validation != NULL)
        printf("validation before: %.3f dB, linear %.3f dB\n", report.start_network_db,
               report.start_linear_db);
    if (report.validated)
        printf("validation after:  %.3f dB, linear %.3f dB\n", report.network_db, report.linear_db);
    printf("weights: %s/weights.safetensors\n", job->out);
    return rc;
}

int command_train(int argc, char **argv)
{
    static struct train train;
    struct fault_note why;
    if (argc > 1 && strcmp(argv[1], "subject") == 0)
        return command_train_subject(argc - 1, argv + 1);
    int code = parse(&train, argc, argv);
    if (code != 0)
        return code < 0 ? 0 : code;
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    progress_init(&train.progress, &train_stop);
    int rc = work(&train, &why);
    corpus_done(&train.corpus);
    corpus_done(&train.kept_aside);
    if (rc == FAULT_CANCELLED) {
        fprintf(stderr, "isoslice train: %s; the same command goes on from there\n", why.text);
        return EXIT_STOPPED;
    }
    return rc == 0 ? 0 : command_fault("train", &why);
}
