// SPDX-License-Identifier: Apache-2.0
//
// isoslice bench: how fast the engine is on this machine, part by part, beside the machine's own peak.

#include "cli/command.h"
#include "core/clock.h"
#include "core/version.h"
#include "sr_engine/interpolate.h"
#include "sr_engine/model.h"
#include "sr_engine/weights.h"

#include <dlfcn.h>
#include <getopt.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Products of a direct computation, model by model: each is two floating-point operations.
#define ENCODER_MACS   1881792.0 // a voxel
#define MLP_MACS       213248.0  // a query
#define ATTENTION_MACS 24832.0   // a query, keys and values folded into it
#define GAP_MACS       28928.0   // a pixel and gap: both folded queries and both rows of scores
#define POSITION_MACS  10564.0   // a query: blend of scores, softmax, weighted sum, value
#define ADAM_FLOPS     14.0      // a parameter
#define ADAM_BYTES     28.0      // a parameter: four read, three written

enum { TARGETS = 3, GAP_FEW = 2, GAP_MANY = 10, PEAK_SIDE = 2048, PEAK_RUNS = 2, MAX_REPEATS = 100 };

struct bench {
    const char *backend;
    int threads, repeats, is_whole, is_cpu_time;
    int side;         // of the stack that is interpolated
    const char *only; // part of the names that are wanted; NULL: all
    struct model model;
    double peak_gflops; // 0: not measured
    char peak_note[160];
};

static void print_help(void)
{
    puts("usage: isoslice bench [options]\n\n"
         "Measures each part of the engine and prints GFLOP/s and their ratio to the machine's own peak: a "
         "matrix\n"
         "product of 2048 x 2048 single-precision numbers by oneDNN with as many threads, in the same run "
         "(libdnnl\n"
         "is looked for when the program runs; without it there are no ratios). Best of several runs. "
         "Counted are\n"
         "the operations of direct convolutions, two for each product, so a part that needs fewer, as "
         "Winograd's\n"
         "algorithm does, can pass 100 %.\n\n"
         "  --backend NAME   auto, cpu, cuda, cuda16 or ref (default cpu)\n"
         "  --threads N      0: all processors (default)\n"
         "  --repeats N      runs of each part (default 5)\n"
         "  --cpu-time       count the processors' time, divided by the threads, instead of the wall clock: "
         "for a\n"
         "                   machine that has other work; waiting threads count as working\n"
         "  --interpolation  also a whole stack, 256 x 256 x 24 to factor 5 (a minute or so)\n"
         "  --side N         rows and columns of that stack instead, 32 to 1024\n"
         "  --only TEXT      only the parts whose names contain it, without the peak");
}

// --------------------------------------------------------------------------------------------- peak

typedef int (*sgemm_fn)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t, const float *,
                        int64_t, float, float *, int64_t);

static int count_processors(void);

// Seconds since some moment: of the clock on the wall, or of the processors that worked for us.
static double now(const struct bench *bench)
{
    struct timespec t;
    if (!bench->is_cpu_time || clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) != 0)
        return clock_monotonic_s();
    return ((double)t.tv_sec + 1e-9 * (double)t.tv_nsec) /
           (bench->threads > 0 ? bench->threads : count_processors());
}

static int count_processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

// Looked up when needed, so that no other command has to load it.
static sgemm_fn find_sgemm(struct bench *bench)
{
    static const char *const names[] = {"libdnnl.so.3", "libdnnl.so.2"};
    char threads[16];
    void *library = NULL, *symbol;
    snprintf(threads, sizeof threads, "%d", bench->threads > 0 ? bench->threads : count_processors());
    setenv("OMP_NUM_THREADS", threads, 1); // read when the library is loaded
    for (size_t i = 0; library == NULL && i < sizeof names / sizeof names[0]; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    symbol = library != NULL ? dlsym(library, "dnnl_sgemm") : NULL;
    sgemm_fn sgemm = NULL;
    memcpy(&sgemm, &symbol, sizeof sgemm);
    snprintf(bench->peak_note, sizeof bench->peak_note,
             symbol != NULL ? "oneDNN, %s threads" : "not measured: libdnnl is not installed", threads);
    return sgemm;
}

// Raises the peak to what is measured now.
static int measure_peak(struct bench *bench, struct fault_note *why)
{
    static sgemm_fn sgemm;
    static int is_sought;
    size_t n = (size_t)PEAK_SIDE * PEAK_SIDE;
    if (!is_sought) {
        sgemm = find_sgemm(bench);
        is_sought = 1;
    }
    if (sgemm == NULL)
        return 0;
    float *memory = malloc(3 * n * sizeof *memory);
    if (memory == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for matrices");
    for (size_t i = 0; i < 3 * n; i++)
        memory[i] = (float)(i % 97) * 0.01F - 0.5F;
    int rc = 0;
    for (int i = 0; rc == 0 && i < PEAK_RUNS * bench->repeats; i++) {
        double start = now(bench);
        if (sgemm('N', 'N', PEAK_SIDE, PEAK_SIDE, PEAK_SIDE, 1, memory, PEAK_SIDE, memory + n, PEAK_SIDE, 0,
                  memory + 2 * n, PEAK_SIDE) != 0)
            rc = fault_set(why, FAULT_DEVICE, "oneDNN's matrix product failed");
        double gflops = 2e-9 * (double)n * PEAK_SIDE / (now(bench) - start);
        bench->peak_gflops = gflops > bench->peak_gflops ? gflops : bench->peak_gflops;
    }
    free(memory);
    return rc;
}

// --------------------------------------------------------------------------------------------- parts

struct row {
    char name[64];
    double gflop, seconds;
};

enum { MAX_ROWS = 24 };

struct table {
    int n;
    struct row rows[MAX_ROWS];
};

static const char adam_name[] = "Adam alone";

static int is_wanted(const struct bench *bench, const char *name)
{
    return bench->only == NULL || strstr(name, bench->only) != NULL;
}

static void add_row(struct table *table, const char *name, double gflop, double seconds)
{
    struct row *row = &table->rows[table->n++];
    snprintf(row->name, sizeof row->name, "%s", name);
    row->gflop = gflop;
    row->seconds = seconds;
}

// Stack, planes and target of a training batch with all withheld positions of factor TARGETS + 1.
static int fill_batch(struct trainer *trainer, int n_targets, struct fault_note *why)
{
    const struct sr_ops *ops = trainer->model->ops;
    struct sr_device *device = trainer->model->device;
    struct sr_extent e = trainer->extent;
    size_t plane = (size_t)e.h * (size_t)e.w, n_planes = (size_t)e.n * (size_t)(e.d - 1) * (size_t)n_targets;
    size_t n_stack = (size_t)e.n * (size_t)e.d * plane, n_target = n_planes * plane;
    float *values = malloc((n_stack > n_target ? n_stack : n_target) * sizeof *values);
    float *planes = malloc(n_planes * SR_PLANE_FLOATS * sizeof *planes);
    int rc;
    if (values == NULL || planes == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for a batch");
        goto out;
    }
    for (size_t i = 0; i < (n_stack > n_target ? n_stack : n_target); i++)
        values[i] = (float)(i * 2654435761U % 1000) * 0.001F;
    for (size_t i = 0; i < n_planes; i++) {
        size_t gap = i / (size_t)n_targets, stack = gap / (size_t)(e.d - 1);
        planes[i * SR_PLANE_FLOATS + SR_PLANE_STACK] = (float)stack;
        planes[i * SR_PLANE_FLOATS + SR_PLANE_SLICE] = (float)(gap % (size_t)(e.d - 1));
        planes[i * SR_PLANE_FLOATS + SR_PLANE_T] =
            (float)(i % (size_t)n_targets + 1) / (float)(n_targets + 1);
    }
    rc = ops->upload(device, trainer->stack, values, why);
    if (rc == 0)
        rc = ops->upload(device, trainer->planes, planes, why);
    if (rc == 0)
        rc = ops->upload(device, trainer->target, values, why);
out:
    free(planes);
    free(values);
    return rc;
}

// What is timed: each function runs once and leaves the device idle.
typedef int (*part_fn)(struct trainer *trainer, struct fault_note *why);

static int encode(struct trainer *trainer, struct fault_note *why)
{
    struct sr_buffer *maps[2] = {trainer->dh, trainer->features};
    return model_encode(trainer->model, trainer->stack, maps, why);
}

static int decode(struct trainer *trainer, struct fault_note *why)
{
    struct sr_window window = {0, 0, trainer->extent.h, trainer->extent.w};
    return trainer->model->ops->decode_forward(trainer->model->device, trainer->features, trainer->stack,
                                               trainer->planes, window, 0, trainer->y, why);
}

static int backward(struct trainer *trainer, struct fault_note *why)
{
    return trainer_backward(trainer, 0, why);
}

static int update(struct trainer *trainer, struct fault_note *why)
{
    return trainer_update(trainer, 1e-4, 0.999, why);
}

static int whole_step(struct trainer *trainer, struct fault_note *why)
{
    int rc = trainer_learn(trainer, 0, why);
    return rc != 0 ? rc : trainer_update(trainer, 1e-4, 0.999, why);
}

static int adam(struct trainer *trainer, struct fault_note *why)
{
    struct sr_adam scalars = {.rate = 1e-6F, .beta1 = 0.9F, .beta2 = 0.999F, .epsilon = 1e-8F, .step = 10};
    return trainer->model->ops->adam(trainer->model->device, scalars, trainer->gradients, trainer->moment1,
                                     trainer->moment2, trainer->model->parameters, why);
}

static int measure(const struct bench *bench, struct trainer *trainer, part_fn part, double *seconds,
                   struct fault_note *why)
{
    const struct sr_ops *ops = trainer->model->ops;
    int rc = part(trainer, why); // once for caches and scratch memory
    if (rc == 0)
        rc = ops->synchronize(trainer->model->device, why);
    *seconds = 1e30;
    for (int i = 0; rc == 0 && i < bench->repeats; i++) {
        double start = now(bench);
        rc = part(trainer, why);
        if (rc == 0)
            rc = ops->synchronize(trainer->model->device, why);
        double took = now(bench) - start;
        *seconds = took < *seconds ? took : *seconds;
    }
    return rc;
}

static double voxels_of(struct sr_extent e)
{
    return (double)e.n * e.d * e.h * e.w;
}

static double queries_of(struct sr_extent e, int n_targets)
{
    return (double)e.n * (e.d - 1) * e.h * e.w * n_targets;
}

static int bench_stack(struct bench *bench, int depth, struct table *table, struct fault_note *why)
{
    struct trainer trainer = {0};
    struct sr_extent e = {1, depth, 64, 64};
    double encoder = 2e-9 * ENCODER_MACS * voxels_of(e), seconds = 0;
    double decoder = 2e-9 * (MLP_MACS + ATTENTION_MACS) * queries_of(e, TARGETS);
    const struct {
        const char *name;
        part_fn part;
        double gflop;
    } parts[] = {
        {"encoder forward", encode, encoder},
        {"decoder forward (attention and MLP)", decode, decoder},
        {"training step: forward", trainer_forward, encoder + decoder},
        {"training step: backward", backward, 2 * (encoder + decoder)},
        {"training step: Adam and repacking", update,
         1e-9 * ADAM_FLOPS * (double)bench->model.net.n_parameters},
        {"training step, whole", whole_step, 3 * (encoder + decoder)},
    };
    enum { N_PARTS = sizeof parts / sizeof parts[0] };
    char name[64];
    int n_wanted = depth == 4 && is_wanted(bench, adam_name);
    for (int i = 0; i < N_PARTS; i++) {
        snprintf(name, sizeof name, "%s, 64x64x%d", parts[i].name, depth);
        n_wanted += is_wanted(bench, name);
    }
    if (n_wanted == 0)
        return 0;
    int rc = trainer_open(&trainer, &bench->model, e, TARGETS, 1, why);
    if (rc == 0)
        rc = fill_batch(&trainer, TARGETS, why);
    for (int i = 0; rc == 0 && i < N_PARTS; i++) {
        snprintf(name, sizeof name, "%s, 64x64x%d", parts[i].name, depth);
        if (!is_wanted(bench, name))
            continue;
        rc = measure(bench, &trainer, parts[i].part, &seconds, why);
        add_row(table, name, parts[i].gflop, seconds);
    }
    if (rc == 0 && depth == 4 && is_wanted(bench, adam_name)) {
        rc = measure(bench, &trainer, adam, &seconds, why);
        add_row(table, adam_name, 1e-9 * ADAM_FLOPS * (double)bench->model.net.n_parameters, seconds);
    }
    trainer_close(&trainer);
    return rc;
}

// A gap's planes share its window and scores: the time of `targets` planes is a + targets * b. From two
// numbers of planes come a, the attention's scores, and b, a plane's weighted sum and MLP.
static int bench_attention(struct bench *bench, struct table *table, struct fault_note *why)
{
    static const int targets[2] = {GAP_FEW, GAP_MANY};
    struct sr_extent e = {1, 4, 64, 64};
    double seconds[2] = {0}, gaps = queries_of(e, 1);
    int rc = 0;
    for (int i = 0; rc == 0 && i < 2; i++) {
        struct trainer trainer = {0};
        rc = trainer_open(&trainer, &bench->model, e, targets[i], 1, why);
        if (rc == 0)
            rc = fill_batch(&trainer, targets[i], why);
        if (rc == 0)
            rc = measure(bench, &trainer, decode, &seconds[i], why);
        trainer_close(&trainer);
    }
    double each = (seconds[1] - seconds[0]) / (GAP_MANY - GAP_FEW), fixed = seconds[0] - GAP_FEW * each;
    add_row(table, "attention: scores of a gap", 2e-9 * GAP_MACS * gaps, fixed);
    add_row(table, "decoder: each further plane of a gap", 2e-9 * (MLP_MACS + POSITION_MACS) * gaps, each);
    return rc;
}

static int bench_interpolation(struct bench *bench, struct table *table, struct fault_note *why)
{
    enum { DEPTH = 24, FACTOR = 5, PLANES = (DEPTH - 1) * FACTOR + 1 };
    int side = bench->side;
    size_t plane = (size_t)side * (size_t)side;
    char name[64];
    struct interpolate_limits limits = {.memory_bytes = (size_t)4 << 30, .phase = "interpolate"};
    float *stack = malloc(DEPTH * plane * sizeof *stack),
          *residual = malloc(PLANES * plane * sizeof *residual);
    struct sr_plane *planes = malloc(PLANES * sizeof *planes);
    int rc;
    if (stack == NULL || residual == NULL || planes == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for a stack of %d slices", DEPTH);
        goto out;
    }
    for (size_t i = 0; i < DEPTH * plane; i++)
        stack[i] = (float)(i * 2654435761U % 1000) * 0.001F;
    for (int k = 0; k < PLANES; k++)
        planes[k] = (struct sr_plane){k / FACTOR, (double)(k % FACTOR) / FACTOR};
    double start = now(bench);
    rc = interpolate_planes(&bench->model, stack, DEPTH, side, side, planes, PLANES, &limits, residual, why);
    double seconds = now(bench) - start;
    double gflop = 2e-9 * (ENCODER_MACS * DEPTH + (MLP_MACS + ATTENTION_MACS) * PLANES) * (double)plane;
    snprintf(name, sizeof name, "interpolation, %dx%dx%d to factor %d", side, side, DEPTH, FACTOR);
    if (rc == 0)
        add_row(table, name, gflop, seconds);
out:
    free(planes);
    free(residual);
    free(stack);
    return rc;
}

static void print_table(const struct bench *bench, const struct table *table)
{
    printf("isoslice %s, %s, %s\n\n", ISOSLICE_VERSION, bench->model.ops->describe(bench->model.device),
           bench->is_cpu_time ? "processor time" : "wall clock");
    if (bench->peak_gflops > 0)
        printf("Peak: %.0f GFLOP/s, single-precision product of 2048 x 2048 matrices (%s).\n\n",
               bench->peak_gflops, bench->peak_note);
    else if (bench->only == NULL)
        printf("Peak: %s.\n\n", bench->peak_note);
    puts("| part | GFLOP | ms | GFLOP/s | of peak |\n|---|---|---|---|---|");
    for (int i = 0; i < table->n; i++) {
        const struct row *row = &table->rows[i];
        double rate = row->gflop / row->seconds;
        printf("| %s | %.4g | %.2f | %.1f |", row->name, row->gflop, 1e3 * row->seconds, rate);
        if (bench->peak_gflops > 0)
            printf(" %.0f %% |\n", 100 * rate / bench->peak_gflops);
        else
            puts(" |");
        if (strcmp(row->name, adam_name) == 0)
            printf("| Adam alone: memory, GB/s | | | %.1f | |\n",
                   1e-9 * ADAM_BYTES * (double)bench->model.net.n_parameters / row->seconds);
    }
}

static int run(struct bench *bench, struct fault_note *why)
{
    const struct sr_ops *ops;
    struct table table = {0};
    int rc = bench->only == NULL ? measure_peak(bench, why) : 0; // first: it starts its library's threads
    if (rc == 0)
        rc = ops_find(bench->backend, &ops, why);
    if (rc == 0)
        rc = model_open(&bench->model, ops, net_config_p0(), bench->threads, why);
    if (rc != 0)
        return rc;
    float *parameters = malloc(bench->model.net.n_parameters * sizeof *parameters);
    if (parameters == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for the weights");
    } else {
        weights_init(&bench->model.net, 1, parameters);
        rc = model_set_parameters(&bench->model, parameters, why);
    }
    free(parameters);
    for (int depth = 4; rc == 0 && depth <= 16; depth *= 4) {
        rc = bench_stack(bench, depth, &table, why);
        if (rc == 0 && bench->only == NULL)
            rc = measure_peak(bench, why); // between the parts: the best of all counts
    }
    if (rc == 0 && bench->only == NULL)
        rc = bench_attention(bench, &table, why);
    if (rc == 0 && bench->is_whole)
        rc = bench_interpolation(bench, &table, why);
    if (rc == 0 && bench->only == NULL)
        rc = measure_peak(bench, why);
    if (rc == 0 && table.n == 0)
        rc = fault_set(why, FAULT_USAGE, "no part's name contains '%s'", bench->only);
    if (rc == 0)
        print_table(bench, &table);
    model_close(&bench->model);
    return rc;
}

int command_bench(int argc, char **argv)
{
    enum { BACKEND = 256, THREADS, REPEATS, CPU_TIME, INTERPOLATION, SIDE, ONLY };
    static const struct option options[] = {{"backend", required_argument, NULL, BACKEND},
                                            {"threads", required_argument, NULL, THREADS},
                                            {"repeats", required_argument, NULL, REPEATS},
                                            {"cpu-time", no_argument, NULL, CPU_TIME},
                                            {"interpolation", no_argument, NULL, INTERPOLATION},
                                            {"side", required_argument, NULL, SIDE},
                                            {"only", required_argument, NULL, ONLY},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    static struct bench bench = {.backend = "cpu", .repeats = 5, .side = 256};
    struct fault_note why;
    long long value = 0;
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        int ok = 1;
        switch (c) {
        case BACKEND:
            bench.backend = optarg;
            ok = command_is_backend(optarg);
            break;
        case THREADS:
            ok = command_parse_int(optarg, 0, 1024, &value);
            bench.threads = (int)value;
            break;
        case REPEATS:
            ok = command_parse_int(optarg, 1, MAX_REPEATS, &value);
            bench.repeats = (int)value;
            break;
        case CPU_TIME:
            bench.is_cpu_time = 1;
            break;
        case INTERPOLATION:
            bench.is_whole = 1;
            break;
        case SIDE:
            ok = command_parse_int(optarg, 32, 1024, &value);
            bench.side = (int)value;
            break;
        case ONLY:
            bench.only = optarg;
            break;
        case 'h':
            print_help();
            return 0;
        default:
            return command_usage_error("bench", "bad arguments");
        }
        if (!ok)
            return command_usage_error("bench", "bad value '%s'", optarg);
    }
    if (optind != argc)
        return command_usage_error("bench", "takes no arguments");
    return run(&bench, &why) == 0 ? 0 : command_fault("bench", &why);
}
