// SPDX-License-Identifier: Apache-2.0
//
// Simulated cases and scores: against scikit-image, against the bench's own program, and what must hold by
// itself.
#include "core/file.h"
#include "sr_engine/random.h"
#include "sr_engine/weights.h"
#include "tests/engine/support.h"
#include "train/evaluate.h"

// Fontconfig keeps what it has read of the fonts until the end.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libfontconfig";
}

#include <sys/wait.h>
#include <unistd.h>

static void run_python(const char *script, char *const *arguments)
{
    char path[512];
    char *argv[24] = {"/usr/bin/python3", path};
    int status;
    snprintf(path, sizeof path, "%s/%s", ISOSLICE_TESTS_TRAIN, script);
    for (int i = 0; arguments[i] != NULL; i++)
        argv[2 + i] = arguments[i];
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        execv(argv[0], argv);
        _exit(127);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        CHECK_FAIL("%s ended with status %d", script, status);
}

static void write_floats(const char *path, const float *values, size_t n)
{
    struct fault_note why = {0};
    CHECK_OK(file_write_atomic(path, values, n * sizeof *values, &why));
}

// Waves over a black rim, and the same disturbed.
static void make_pair(int depth, int height, int width, float *truth, float *result)
{
    struct random_stream stream = random_open(1, 80, 0);
    for (int z = 0, i = 0; z < depth; z++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++, i++) {
                double wave = 900 + 600 * sin(0.7 * z + 0.2 * x) * cos(0.3 * y) + 80 * random_unit(&stream);
                truth[i] = x < 4 ? 0 : (float)wave;
                result[i] = truth[i] + (float)(150 * (random_unit(&stream) - 0.5) + 40 * sin(0.5 * x));
            }
}

static void scores_of_skimage(void)
{
    static const int shapes[][4] = {{21, 30, 26, 4}, {9, 7, 40, 3}, {33, 16, 8, 2}};
    for (size_t c = 0; c < sizeof shapes / sizeof shapes[0]; c++) {
        struct fault_note why = {0};
        const int *s = shapes[c];
        size_t n = (size_t)s[0] * (size_t)s[1] * (size_t)s[2];
        float *truth = support_alloc(n * sizeof *truth), *result = support_alloc(n * sizeof *result);
        double values[SCORE_N];
        char numbers[4][16];
        char *arguments[] = {"truth.f32", "result.f32", numbers[0], numbers[1], numbers[2], numbers[3], NULL};
        make_pair(s[0], s[1], s[2], truth, result);
        write_floats("truth.f32", truth, n);
        write_floats("result.f32", result, n);
        for (int i = 0; i < 4; i++)
            snprintf(numbers[i], sizeof numbers[i], "%d", s[i]);
        int out = dup(STDOUT_FILENO); // the script prints into a file
        CHECK(freopen("scores.txt", "w", stdout) != NULL);
        run_python("peer_scores.py", arguments);
        fflush(stdout);
        dup2(out, STDOUT_FILENO);
        close(out);
        CHECK_OK(score_volumes(truth, result, s[0], s[1], s[2], s[3], values, &why));
        FILE *list = fopen("scores.txt", "r");
        CHECK(list != NULL);
        for (int k = 0; k < SCORE_N; k++) { // the contract: within 1e-4
            double want;
            CHECK_INT(fscanf(list, "%lf", &want), 1);
            fprintf(stderr, "%s: %.9g, scikit-image %.9g\n", score_name((enum score_kind)k), values[k], want);
            CHECK_NEAR(values[k], want, 1e-4);
        }
        fclose(list);
        free(truth);
        free(result);
    }
}

static void scores_of_equals(void)
{
    struct fault_note why = {0};
    float truth[9 * 9 * 9], result[9 * 9 * 9];
    double values[SCORE_N];
    make_pair(9, 9, 9, truth, result);
    CHECK_OK(score_volumes(truth, truth, 9, 9, 9, 4, values, &why));
    CHECK_NEAR(values[SCORE_SSIM_3D], 1, 1e-12);
    CHECK_NEAR(values[SCORE_SSIM_PLANES], 1, 1e-12);
    CHECK(values[SCORE_PSNR] > 150);
    CHECK_OK(score_volumes(truth, result, 3, 27, 9, 4, values, &why));
    CHECK(isnan(values[SCORE_SSIM_3D]));
    CHECK(isfinite(values[SCORE_PSNR]));
}

// --------------------------------------------------------------------------------------------- cases

enum { NX = 17, NY = 19, NZ = 23 };

static void make_volume(struct volume *volume)
{
    struct random_stream stream = random_open(2, 80, 0);
    *volume = (struct volume){.size = {NX, NY, NZ}, .spacing_mm = {0.5, 0.75, 1}};
    volume->voxels = support_alloc((size_t)NX * NY * NZ * sizeof *volume->voxels);
    for (int i = 0; i < NX * NY * NZ; i++)
        volume->voxels[i] = (float)(100 + 900 * random_unit(&stream) + 300 * sin(0.05 * i));
}

static void write_nifti(const struct volume *volume, const char *path)
{
    struct fault_note why = {0};
    unsigned char file[352 + NX * NY * NZ * 4] = {0};
    const int16_t dims[8] = {3, NX, NY, NZ, 1, 1, 1, 1}, type[2] = {16, 32};
    const float spacing[4] = {1, 0.5F, 0.75F, 1}, offset = 352;
    const int32_t size = 348;
    memcpy(file, &size, 4);
    memcpy(file + 40, dims, sizeof dims);
    memcpy(file + 70, type, sizeof type);
    memcpy(file + 76, spacing, sizeof spacing);
    memcpy(file + 108, &offset, 4);
    memcpy(file + 344, "n+1", 4);
    memcpy(file + 352, volume->voxels, (size_t)NX * NY * NZ * 4);
    CHECK_OK(file_write_atomic(path, file, sizeof file, &why));
}

static void cases_of_bench(void)
{
    static const struct {
        char *axis, *factor, *profile, *gap;
        struct simulate_recipe recipe;
    } cases[] = {
        {"2", "4", "gauss", "0", {.axis = 2, .factor = 4, .profile = PROFILE_GAUSS}},
        {"0", "3", "gauss", "0.4", {.axis = 0, .factor = 3, .profile = PROFILE_GAUSS, .gap = 0.4}},
        {"1", "5", "box", "0", {.axis = 1, .factor = 5, .profile = PROFILE_BOX}},
        {"1", "4", "box", "0.25", {.axis = 1, .factor = 4, .profile = PROFILE_BOX, .gap = 0.25}},
        {"2", "2", "none", "0", {.axis = 2, .factor = 2, .profile = PROFILE_NONE}},
    };
    char program[512];
    struct volume volume;
    snprintf(program, sizeof program, "%s/bench/make_case.py", support_shared());
    make_volume(&volume);
    write_nifti(&volume, "volume.nii");
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct fault_note why = {0};
        struct simulate_case got;
        struct simulate_recipe recipe = cases[c].recipe;
        int shape[4];
        char *arguments[] = {program,          "volume.nii", "case",          "--axis",
                             cases[c].axis,    "--factor",   cases[c].factor, "--profile",
                             cases[c].profile, "--gap",      cases[c].gap,    "--crop",
                             "1:16,0:18,2:",   NULL};
        recipe.first[0] = 1;
        recipe.first[2] = 2;
        recipe.last[0] = 16;
        recipe.last[1] = 18;
        run_python("peer_case.py", arguments);
        CHECK_OK(simulate_run(&volume, &recipe, &got, &why));
        FILE *file = fopen("shape.txt", "r");
        CHECK(file != NULL && fscanf(file, "%d %d %d %d", &shape[0], &shape[1], &shape[2], &shape[3]) == 4);
        fclose(file);
        CHECK_INT(got.depth, shape[0]);
        CHECK_INT(got.truth_depth, shape[1]);
        CHECK_INT(got.height, shape[2]);
        CHECK_INT(got.width, shape[3]);
        size_t plane = (size_t)got.height * (size_t)got.width;
        float *stack = support_read_floats("stack.f32", (size_t)got.depth * plane);
        float *truth = support_read_floats("truth.f32", (size_t)got.truth_depth * plane);
        // rounded to whole numbers: a sum in another order may fall to the other side
        support_close("stack", got.stack, stack, (size_t)got.depth * plane, 0, 1);
        size_t n_off = 0;
        for (size_t i = 0; i < (size_t)got.depth * plane; i++)
            n_off += got.stack[i] != stack[i];
        printf("%zu of %zu stored values differ\n", n_off, (size_t)got.depth * plane);
        CHECK(n_off <= (size_t)got.depth * plane / 500);
        support_close("truth", got.truth, truth, (size_t)got.truth_depth * plane, 1e-6, 0);
        free(stack);
        free(truth);
        simulate_done(&got);
    }
    volume_done(&volume);
}

static void cases_are_refused(void)
{
    struct fault_note why = {0};
    struct simulate_case got;
    struct volume volume;
    make_volume(&volume);
    struct simulate_recipe recipe = {.axis = 0, .factor = 10, .profile = PROFILE_BOX};
    CHECK_FAULT(simulate_run(&volume, &recipe, &got, &why), FAULT_NOTHING_TO_DO);
    recipe = (struct simulate_recipe){.axis = 2, .factor = 2, .first = {NX, 0, 0}};
    CHECK_FAULT(simulate_run(&volume, &recipe, &got, &why), FAULT_NOTHING_TO_DO);
    volume_done(&volume);
}

// What is done to a network's result: after a fine-tune as in a job, else only what the recipe asks for.
static void recipes_of_methods(void)
{
    static const struct {
        const char *text;
        double consistency;
    } cases[] = {{"base", 0},    {"some.safetensors", 0},  {"base:consistency=0.25", 0.25},
                 {"tuned", 0.5}, {"tuned:rate=1e-3", 0.5}, {"tuned:consistency=0", 0}};
    struct fault_note why = {0};
    struct evaluate_method method;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_OK(evaluate_method_of(cases[i].text, &method, &why));
        CHECK_NEAR(method.recipe.consistency, cases[i].consistency, 0);
    }
    CHECK_FAULT(evaluate_method_of("cubic:rate=1", &method, &why), FAULT_CONFIG);
}

// Methods that reproduce straight lines do so; all pass through the slices; start weights give linear
// interpolation; tables hold what was measured.
static void methods_and_tables(void)
{
    struct fault_note why = {0};
    struct evaluation evaluation = {.recipe = {.axis = 2, .factor = 4, .profile = PROFILE_NONE, .seed = 1},
                                    .engine = {.backend = "cpu", .clip = 1, .seed = 1}};
    static const char *const names[] = {"linear", "cubic", "lanczos", "start.safetensors"};
    struct simulate_case input = {
        .depth = 5, .truth_depth = 17, .height = 8, .width = 8, .spacing_mm = {1, 1, 1}};
    float stack[5 * 64], result[17 * 64];
    struct volume volume;
    void *text;
    size_t size;
    for (int i = 0; i < 5 * 64; i++) {
        int slice = i / 64;
        stack[i] = (float)(100 * slice + i % 64);
    }
    input.stack = stack;
    CHECK_OK(sr_write_start_weights("start.safetensors", 1, &why));
    for (size_t m = 0; m < 4; m++) {
        CHECK_OK(evaluate_method_of(names[m], &evaluation.methods[m], &why));
        CHECK_STR(evaluation.methods[m].name, names[m]);
        CHECK_INT(evaluation.methods[m].kind, m == 3 ? EVALUATE_FILE : (int)m);
        CHECK_OK(evaluate_interpolate(&evaluation, &evaluation.methods[m], &input, result, &why));
        for (int k = 0; k < 17; k++)
            for (int i = 0; i < 64; i++)
                if (k % 4 == 0 || m == 0 || m == 3)
                    CHECK_NEAR((double)result[k * 64 + i], 25.0 * k + i, 1e-3);
    }
    evaluation.n_methods = 4;
    make_volume(&volume);
    CHECK_OK(evaluate_volume(&evaluation, &volume, "volume.nii", "case.png", &why));
    CHECK_OK(evaluate_volume(&evaluation, &volume, "volume.nii", NULL, &why));
    CHECK(access("case.png", R_OK) == 0);
    double mean, deviation;
    evaluate_mean(&evaluation, 0, SCORE_PSNR, &mean, &deviation);
    CHECK_NEAR(mean, evaluation.cases[0].scores[0].values[SCORE_PSNR], 1e-9);
    CHECK_NEAR(deviation, 0, 1e-9);
    CHECK_NEAR(evaluation.cases[0].scores[3].values[SCORE_PSNR], mean, 1e-6);
    CHECK_OK(evaluate_write_markdown(&evaluation, "report.md", &why));
    CHECK_OK(evaluate_write_json(&evaluation, "report.json", &why));
    CHECK_OK(file_read("report.md", 1 << 20, &text, &size, &why));
    char cell[64];
    snprintf(cell, sizeof cell, "| linear | %.2f ± 0.00 |", mean);
    CHECK_CONTAINS((const char *)text, cell);
    free(text);
    evaluate_done(&evaluation);
    volume_done(&volume);
}

static const struct test tests[] = {
    {"peer.score.skimage", scores_of_skimage},
    {"unit.score.equal_volumes", scores_of_equals},
    {"peer.simulate.bench_cases", cases_of_bench},
    {"unit.simulate.refusals", cases_are_refused},
    {"unit.evaluate.recipes_of_methods", recipes_of_methods},
    {"unit.evaluate.methods_and_tables", methods_and_tables},
};

TEST_MAIN(tests)
