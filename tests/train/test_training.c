// SPDX-License-Identifier: Apache-2.0
//
// Training runs: the same losses as the reference trainer's, resuming after a kill at any moment, and
// learning.
#include "core/file.h"
#include "sr_engine/weights.h"
#include "tests/engine/support.h"
#include "train/training.h"

// Fontconfig keeps what it has read of the fonts until the end.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libfontconfig";
}

#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// --------------------------------------------------------------------------------------------- a tiny run

enum { SIDE = 20, TINY_STEPS = 4 };

static struct net_config tiny_config(void)
{
    return (struct net_config){.channels = 3, .blocks = 1, .hidden = 5, .hidden_layers = 1, .dilation = 1};
}

// A volume of soft waves.
static void make_volume(struct corpus *corpus, int thick_axis)
{
    struct corpus_item *item = support_alloc(sizeof *item);
    uint8_t *voxels = support_alloc((size_t)SIDE * SIDE * SIDE);
    for (int z = 0; z < SIDE; z++)
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x++)
                voxels[(z * SIDE + y) * SIDE + x] =
                    (uint8_t)(128 + 60 * sin(0.4 * z + 0.3 * x) + 50 * cos(0.5 * y - 0.3 * z));
    *item = (struct corpus_item){.name = "waves", .size = {SIDE, SIDE, SIDE}, .thick_axis = thick_axis};
    item->voxels = item->owned = voxels;
    corpus_init(corpus, CORPUS_MR);
    corpus->items = item;
    corpus->n_items = 1;
}

static struct training_job tiny_job(const struct corpus *corpus, const char *out)
{
    struct training_job job = {.stage = "mr",
                               .out = out,
                               .backend = "ref",
                               .config = tiny_config(),
                               .sample = sample_default(CORPUS_MR),
                               .recipe = training_default(),
                               .steps = TINY_STEPS,
                               .every_steps = 2,
                               .log_steps = 2,
                               .validate_crop = 16,
                               .corpus = corpus};
    job.sample.slices = 3;
    job.sample.crop = 8;
    job.sample.factor_max = 4;
    job.recipe.rate = 1e-2;
    job.recipe.warm_up = 4;
    return job;
}

static void run_tiny(const struct corpus *corpus, const char *out, struct training_report *report)
{
    struct fault_note why = {0};
    struct training_job job = tiny_job(corpus, out);
    CHECK_OK(training_run(&job, report, &why));
}

static void check_same_run(const char *a, const char *b)
{
    static const char *const parts[] = {"weights", "raw", "adam_m", "adam_v"};
    struct net net;
    struct fault_note why = {0};
    net_init(&net, tiny_config());
    float *x = support_alloc(net.n_parameters * sizeof *x), *y = support_alloc(net.n_parameters * sizeof *y);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s.safetensors", a, parts[i]);
        CHECK_OK(weights_load(path, &net, x, NULL, &why));
        snprintf(path, sizeof path, "%s/%s.safetensors", b, parts[i]);
        CHECK_OK(weights_load(path, &net, y, NULL, &why));
        support_equal(parts[i], x, y, net.n_parameters);
    }
    free(x);
    free(y);
}

static int stop_at;

static int stop_there(void *user, const char *phase, double done, double total, const char *detail)
{
    (void)total, (void)detail;
    if (strcmp(phase, "train") != 0)
        return 0;
    *(int *)user = (int)lrint(done);
    return stop_at > 0 && (int)lrint(done) >= stop_at;
}

static void stopped_and_resumed(void)
{
    struct corpus corpus;
    struct training_report report;
    struct fault_note why = {0};
    int seen = 0;
    make_volume(&corpus, -1);
    run_tiny(&corpus, "whole", &report);
    CHECK_INT(report.step, TINY_STEPS);
    CHECK_INT(report.resumed_at, 0);
    struct training_job job = tiny_job(&corpus, "parts");
    job.progress = stop_there;
    job.progress_user = &seen;
    stop_at = 3; // between two checkpoints: asked to stop, it saves
    CHECK_FAULT(training_run(&job, &report, &why), FAULT_CANCELLED);
    CHECK_INT(report.step, 3);
    stop_at = 0;
    CHECK_OK(training_run(&job, &report, &why));
    CHECK_INT(report.resumed_at, 3);
    CHECK_INT(report.step, TINY_STEPS);
    check_same_run("whole", "parts");
    corpus_done(&corpus);
}

static void other_run_is_refused(void)
{
    struct corpus corpus;
    struct training_report report;
    struct fault_note why = {0};
    make_volume(&corpus, -1);
    run_tiny(&corpus, "out", &report);
    struct training_job job = tiny_job(&corpus, "out");
    job.sample.seed = 2;
    CHECK_FAULT(training_run(&job, &report, &why), FAULT_CONFIG);
    CHECK_CONTAINS(why.text, "seed 1");
    job = tiny_job(&corpus, "out");
    job.stage = "video";
    CHECK_FAULT(training_run(&job, &report, &why), FAULT_CONFIG);
    CHECK_CONTAINS(why.text, "stage 'mr'");
    corpus_done(&corpus);
}

// Once a state named its network in a line at the end.
static void older_state_is_resumed(void)
{
    static const char line[] = "network SA-INR P0\n";
    struct corpus corpus;
    struct training_report report;
    struct fault_note why = {0};
    void *text;
    size_t size;
    make_volume(&corpus, -1);
    run_tiny(&corpus, "out", &report);
    CHECK_OK(file_read("out/state", 4096, &text, &size, &why));
    char *longer = support_alloc(size + sizeof line);
    memcpy(longer, text, size);
    memcpy(longer + size, line, sizeof line);
    CHECK_OK(file_write_atomic("out/state", longer, size + sizeof line - 1, &why));
    struct training_job job = tiny_job(&corpus, "out");
    CHECK_OK(training_run(&job, &report, &why));
    CHECK_INT(report.resumed_at, TINY_STEPS);
    free(longer);
    free(text);
    corpus_done(&corpus);
}

// The process dies before its n-th call that changes the disk, for every n; each time the run is taken up,
// and it ends with the bits of a run that was never stopped.
static void dies_at_every_file_call(void)
{
    struct corpus corpus;
    struct training_report report;
    int n_deaths = 0;
    make_volume(&corpus, -1);
    run_tiny(&corpus, "whole", &report);
    for (int n = 1;; n++) {
        int status;
        char spec[16], out[32];
        snprintf(spec, sizeof spec, "%d", n);
        snprintf(out, sizeof out, "run%d", n % 2);
        CHECK(file_remove_tree(out, NULL) == 0);
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            setenv("ISOSLICE_CRASH_AT", spec, 1);
            file_arm_crash_point();
            run_tiny(&corpus, out, &report);
            _exit(0);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        if (WIFEXITED(status)) {
            CHECK_INT(WEXITSTATUS(status), 0);
            break; // fewer calls than n: it came through
        }
        CHECK_INT(WTERMSIG(status), SIGKILL);
        n_deaths++;
        run_tiny(&corpus, out, &report);
        CHECK_INT(report.step, TINY_STEPS);
        check_same_run("whole", out);
    }
    printf("%d deaths\n", n_deaths);
    CHECK(n_deaths > 80);
    corpus_done(&corpus);
}

static void killed_at_any_time(void)
{
    struct corpus corpus;
    struct training_report report;
    int n_resumed = 0;
    make_volume(&corpus, -1);
    run_tiny(&corpus, "whole", &report);
    for (int i = 0; i < 12; i++) {
        const struct timespec nap = {0, 8000000L * (i + 1)};
        int status;
        CHECK(file_remove_tree("out", NULL) == 0);
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            run_tiny(&corpus, "out", &report);
            for (;;) // done before its time: wait for the end
                pause();
        }
        nanosleep(&nap, NULL);
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
        run_tiny(&corpus, "out", &report);
        n_resumed += report.resumed_at > 0;
        check_same_run("whole", "out");
    }
    printf("%d of 12 were taken up\n", n_resumed);
    CHECK(n_resumed > 0);
    corpus_done(&corpus);
}

// Both shapes of batch with one optimiser, and the loss falls.
static void learns_from_stacks_and_volumes(void)
{
    struct corpus corpus, thick;
    struct training_report report;
    struct fault_note why = {0};
    make_volume(&corpus, -1);
    make_volume(&thick, 2);
    corpus.items = realloc(corpus.items, 2 * sizeof *corpus.items);
    CHECK(corpus.items != NULL);
    corpus.items[corpus.n_items++] = thick.items[0];
    struct training_job job = tiny_job(&corpus, "out");
    job.validation = &corpus;
    job.plain_start = 1;
    job.steps = 400;
    job.every_steps = 200;
    job.recipe.rate = 3e-3;
    job.sample.batch = 2;
    job.sample.noise = 0;
    job.sample.places = 1; // of waves, where slices differ most is one phase alone
    CHECK_OK(training_run(&job, &report, &why));
    CHECK(report.validated);
    printf("validation: %.3f dB -> %.3f dB, linear %.3f dB\n", report.start_network_db, report.network_db,
           report.linear_db);
    CHECK(report.network_db > report.linear_db + 0.5);
    free(thick.items);
    corpus_done(&corpus);
}

static void log_survives(void)
{
    struct history history = {0}, back = {0};
    struct fault_note why = {0};
    const struct history_row rows[] = {
        {0, 0, 0, NAN, 20.5, 20.25}, {10, 1.5, 1e-4, 0.25, NAN, NAN}, {20, 2.5, 2e-4, 0.125, 21.5, 20.25}};
    for (size_t i = 0; i < 3; i++)
        CHECK_OK(history_add(&history, &rows[i], &why));
    CHECK_OK(history_save(&history, "log.csv", &why));
    CHECK_OK(history_load(&back, "log.csv", 10, &why));
    CHECK_INT(back.n_rows, 2);
    CHECK_INT(back.rows[1].step, 10);
    CHECK_NEAR(back.rows[1].loss, 0.25, 0);
    CHECK(isnan(back.rows[1].network_db) && isnan(back.rows[0].loss));
    CHECK_NEAR(back.rows[0].network_db, 20.5, 0);
    CHECK_OK(history_draw(&history, "test", "loss.png", &why));
    CHECK(access("loss.png", R_OK) == 0);
    const char damaged[] = "step,minutes,rate,loss,val_psnr_db,val_linear_psnr_db\n0,0,x,1,,\n";
    CHECK_OK(file_write_atomic("bad.csv", damaged, sizeof damaged - 1, &why));
    CHECK_FAULT(history_load(&back, "bad.csv", 10, &why), FAULT_BAD_HEADER);
    history_done(&back);
    history_done(&history);
}

// --------------------------------------------------------------------------------------------- the reference

enum { REFERENCE_STEPS = 20 };

static void run_reference(const char *stage, const char *const *paths, int n_paths)
{
    char program[512], script[512];
    const char *shared = support_shared();
    char *argv[16] = {"/usr/bin/python3", script, program, (char *)stage, "start.safetensors"};
    int status;
    snprintf(program, sizeof program, "%s/bench/train_ref.py", shared);
    snprintf(script, sizeof script, "%s/reference.py", ISOSLICE_TESTS_TRAIN);
    for (int i = 0; i < n_paths; i++) {
        static char full[8][512];
        snprintf(full[i], sizeof full[i], "%s/data/%s", shared, paths[i]);
        argv[5 + i] = full[i];
    }
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        execv(argv[0], argv);
        _exit(127);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        CHECK_FAIL("the reference trainer ended with status %d", status);
}

// Reads the batch of `step`, planes made of its t.
static void read_batch(int step, const struct sr_extent *e, struct sample_batch *batch)
{
    char path[32];
    size_t gaps = (size_t)e->n * (size_t)(e->d - 1), plane = (size_t)e->h * (size_t)e->w;
    size_t n_stack = (size_t)e->n * (size_t)e->d * plane;
    snprintf(path, sizeof path, "%02d.f32", step);
    float *all = support_read_floats(path, n_stack + gaps + gaps * plane);
    batch->extent = *e;
    memcpy(batch->stack, all, n_stack * sizeof *all);
    for (size_t i = 0; i < gaps; i++) {
        size_t stack = i / (size_t)(e->d - 1);
        batch->planes[SR_PLANE_FLOATS * i + SR_PLANE_STACK] = (float)stack;
        batch->planes[SR_PLANE_FLOATS * i + SR_PLANE_SLICE] = (float)(i % (size_t)(e->d - 1));
        batch->planes[SR_PLANE_FLOATS * i + SR_PLANE_T] = all[n_stack + i];
    }
    memcpy(batch->target, all + n_stack + gaps, gaps * plane * sizeof *all);
    free(all);
}

// The first 20 losses on the reference trainer's own batches, from the same weights: warm-up, cosine,
// clipping of the gradient, Adam. Limit: each loss within 1e-4 of its size. A forward pass in fp32 is good to
// some 1e-6 of the range (sums of 1,728 terms), that is 1e-4 of a loss of 1e-2; and where a gradient is no
// larger than its rounding Adam may step to either side, but 20 steps of warm-up move no weight by more than
// 1e-4.
static void check_losses(const char *stage, const char *const *paths, int n_paths)
{
    struct fault_note why = {0};
    struct training training;
    struct sample_batch batch;
    struct sample_recipe sample = {.batch = 2, .slices = 3, .crop = 16, .places = 1, .planar_share = 1};
    struct training_recipe recipe = training_default();
    double worst = 0;
    int n_planar = 0;
    sample.factor_min = 2;
    sample.factor_max = 8;
    CHECK_OK(training_open(&training, "cpu", 0, net_config_p0(), &sample, &recipe, &why));
    CHECK_OK(sample_batch_init(&batch, &sample, &why));
    float *start = support_alloc(training.model.net.n_parameters * sizeof *start);
    training_start_weights(&training.model.net, 3, start);
    CHECK_OK(weights_save("start.safetensors", &training.model.net, start, NULL, &why));
    CHECK_OK(training_set_weights(&training, start, &why));
    run_reference(stage, paths, n_paths);
    FILE *list = fopen("batches.txt", "r");
    CHECK(list != NULL);
    for (int step = 1; step <= REFERENCE_STEPS; step++) {
        struct sr_extent e;
        double want, got;
        CHECK_INT(fscanf(list, "%d %d %d %d %lf", &e.n, &e.d, &e.h, &e.w, &want), 5);
        read_batch(step, &e, &batch);
        n_planar += e.h < e.w;
        double rate = training_rate(&recipe, step - 1, (double)(step - 1) / REFERENCE_STEPS);
        CHECK_OK(training_step(&training, &batch, rate, &got, &why));
        printf("step %d: %.9g, reference %.9g\n", step, got, want);
        worst = fmax(worst, fabs(got - want) / want);
        CHECK_NEAR(got, want, 1e-4 * want);
    }
    printf("off by at most %.2g; %d batches in plane\n", worst, n_planar);
    fclose(list);
    free(start);
    sample_batch_done(&batch);
    training_close(&training);
}

static void losses_of_mr(void)
{
    const char *const paths[] = {"mr/train/sct_spine_t2.nii.gz", "mr/train/niimath_t1.nii.gz",
                                 "mr/stacks/ms_patient01_study1_T2W.nii.gz"};
    check_losses("mr", paths, 3);
}

static void losses_of_video(void)
{
    const char *const paths[] = {"video/011_Video-Depth-Anything.mp4", "video/014_LivePortrait.mp4",
                                 "video/017_LivePortrait.mp4"};
    check_losses("video", paths, 3);
}

static const struct test tests[] = {
    {"unit.training.resume_is_exact", stopped_and_resumed},
    {"unit.training.other_run_is_refused", other_run_is_refused},
    {"unit.training.older_state_is_resumed", older_state_is_resumed},
    {"unit.training.learns", learns_from_stacks_and_volumes},
    {"unit.history.round_trip", log_survives},
    {"crash.training.every_file_call", dies_at_every_file_call},
    {"crash.training.kill", killed_at_any_time},
    {"peer.training.losses_mr", losses_of_mr},
    {"peer.training.losses_video", losses_of_video},
};

TEST_MAIN(tests)
