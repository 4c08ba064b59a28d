// SPDX-License-Identifier: Apache-2.0
//
// What a recipe can ask for: the notation, each kind of fine-tune, taking a run up again, and each use of the
// network.
#include "core/file.h"
#include "sr_engine/consistency.h"
#include "sr_engine/finetune.h"
#include "sr_engine/interpolate.h"
#include "sr_engine/lora.h"
#include "sr_engine/random.h"
#include "tests/engine/support.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct net_config toy = {
    .channels = 6, .blocks = 2, .hidden = 9, .hidden_layers = 2, .dilation = 2};

enum { DEPTH = 6, HEIGHT = 44, WIDTH = 48, STEPS = 9 };

// --------------------------------------------------------------------------------------------- notation

static void recipe_notation(void)
{
    struct fault_note why = {0};
    struct sr_recipe recipe = sr_recipe_default(), again = sr_recipe_default();
    char text[256], line[160];
    CHECK_OK(sr_recipe_say(&recipe, text, sizeof text, &why));
    CHECK_STR(text, "");
    CHECK_OK(sr_recipe_set(&recipe, "part=lora:rank=8:rate=0.0015:ensemble=4:acquired=kept:batch=2", &why));
    CHECK_INT(recipe.part, SR_PART_LORA);
    CHECK_INT(recipe.ensemble, 4);
    CHECK_OK(sr_recipe_say(&recipe, text, sizeof text, &why));
    CHECK_STR(text, "rate=0.0015:part=lora:rank=8:ensemble=4:acquired=kept"); // a default is not said
    CHECK_OK(sr_recipe_set(&again, text, &why));
    char twice[256];
    CHECK_OK(sr_recipe_say(&again, twice, sizeof twice, &why));
    CHECK_STR(twice, text);
    CHECK_NEAR(again.rate, 0.0015, 0);
    CHECK_INT(again.rank, 8);
    CHECK_FAULT(sr_recipe_say(&recipe, text, 20, &why), FAULT_CONFIG);
    size_t n = 0;
    while (sr_recipe_help(n, line, sizeof line))
        n++;
    CHECK_INT((int)n, 20);
}

static void recipe_faults(void)
{
    static const struct {
        const char *text, *part;
    } cases[] = {{"", "name=value"},        {"rate", "name=value"},
                 {"speed=3", "no 'speed'"}, {"rank=0", "from 1 to 32"},
                 {"rank=1.5", "whole"},     {"rate=fast", "'fast'"},
                 {"rate=", "''"},           {"part=some", "all|"},
                 {"ensemble=3", "1|2|4|8"}, {"rate=1e-4:", "name=value"},
                 {"rate=nan", "number"},    {"consistency=1.01", "0 to 1"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fault_note why = {0};
        struct sr_recipe recipe = sr_recipe_default();
        CHECK_FAULT(sr_recipe_set(&recipe, cases[i].text, &why), FAULT_CONFIG);
        CHECK_CONTAINS(why.text, cases[i].part);
    }
}

// --------------------------------------------------------------------------------------------- a toy subject

struct subject {
    struct model model;
    float *voxels, *start;
    struct pairs pairs;
    struct sr_recipe recipe;
    struct sr_options options;
    struct sr_report report;
    struct finetune run;
};

static const struct interpolate_limits limits = {.memory_bytes = (size_t)1 << 28, .phase = "check"};

// Waves, so that there is something to learn and no place is flat.
static float *make_voxels(void)
{
    float *voxels = support_alloc(sizeof *voxels * DEPTH * HEIGHT * WIDTH);
    for (int z = 0; z < DEPTH; z++)
        for (int row = 0; row < HEIGHT; row++)
            for (int column = 0; column < WIDTH; column++)
                voxels[(z * HEIGHT + row) * WIDTH + column] =
                    (float)(0.5 + 0.25 * sin(0.9 * row + 0.2 * z) + 0.25 * sin(0.7 * column + 0.1 * row));
    return voxels;
}

static void open_subject(struct subject *subject, const char *recipe)
{
    struct fault_note why = {0};
    struct sr_stack stack = {
        .depth = DEPTH, .height = HEIGHT, .width = WIDTH, .row_mm = 1, .column_mm = 1, .slice_mm = 4};
    memset(subject, 0, sizeof *subject);
    subject->voxels = make_voxels();
    stack.voxels = subject->voxels;
    subject->recipe = sr_recipe_default();
    CHECK_OK(sr_recipe_set(&subject->recipe, "slices=2:rate=2e-3", &why));
    if (recipe[0] != '\0')
        CHECK_OK(sr_recipe_set(&subject->recipe, recipe, &why));
    subject->options = (struct sr_options){.steps = STEPS, .seed = 3, .clip = 1};
    CHECK_OK(pairs_plan(&subject->pairs, &stack, subject->voxels, &subject->recipe, &why));
    CHECK(subject->pairs.slices == 2);
    CHECK_OK(model_open(&subject->model, support_ops("ref"), toy, 1, &why));
    subject->start = support_parameters(&subject->model.net, 5);
    CHECK_OK(model_set_parameters(&subject->model, subject->start, &why));
    CHECK_OK(finetune_open(&subject->run, &subject->model, &subject->pairs, &subject->options, &limits,
                           &subject->report, &why));
}

static void close_subject(struct subject *subject)
{
    finetune_close(&subject->run);
    pairs_done(&subject->pairs);
    model_close(&subject->model);
    free(subject->voxels);
    free(subject->start);
}

static void begin_subject(struct subject *subject)
{
    struct fault_note why = {0};
    CHECK_OK(finetune_plan(&subject->run, 0, &why));
    CHECK_INT(subject->run.n_steps, STEPS);
    CHECK_OK(finetune_begin(&subject->run, &why));
}

static void step_to(struct subject *subject, int step)
{
    struct fault_note why = {0};
    while (subject->run.step < step)
        CHECK_OK(finetune_step(&subject->run, &why));
}

// The parameters that the last step left, and how many of a range moved away from the start.
static float *parameters_of(struct subject *subject)
{
    struct fault_note why = {0};
    float *values = support_alloc(subject->model.net.n_parameters * sizeof *values);
    CHECK_OK(model_get_parameters(&subject->model, values, &why));
    return values;
}

static size_t n_moved(const struct subject *subject, const float *now, size_t from, size_t to)
{
    size_t n = 0;
    for (size_t i = from; i < to; i++)
        n += support_differ(&now[i], &subject->start[i], 1) != 0;
    return n;
}

// --------------------------------------------------------------------------------------------- what is
// trained

static void only_part(const char *recipe, int tail_moves, int rest_moves)
{
    struct subject subject;
    open_subject(&subject, recipe);
    begin_subject(&subject);
    step_to(&subject, 3);
    const struct net *net = &subject.model.net;
    float *now = parameters_of(&subject);
    size_t tail = net->convs[net->n_convs - 1].weight, decoder = net->query.weight;
    printf("%s: %zu of %zu moved before the tail, %zu of %zu in it, %zu of %zu after\n", recipe,
           n_moved(&subject, now, 0, tail), tail, n_moved(&subject, now, tail, decoder), decoder - tail,
           n_moved(&subject, now, decoder, net->n_parameters), net->n_parameters - decoder);
    CHECK_INT(n_moved(&subject, now, 0, tail) > 0, rest_moves);
    CHECK_INT(n_moved(&subject, now, tail, decoder) > 0, tail_moves);
    CHECK(n_moved(&subject, now, decoder, net->n_parameters) > 0);
    free(now);
    close_subject(&subject);
}

static void parts(void)
{
    only_part("part=all", 1, 1);
    only_part("part=tail", 1, 0);
    only_part("part=decoder", 0, 0);
    only_part("part=lora", 1, 1);
}

// The gradient of what is trained does not depend on what else is.
static void part_gradients(void)
{
    struct fault_note why = {0};
    float *gradients[2];
    size_t decoder = 0, n = 0;
    for (int i = 0; i < 2; i++) {
        struct subject subject;
        open_subject(&subject, i == 0 ? "part=all" : "part=tail");
        begin_subject(&subject);
        step_to(&subject, 1);
        n = subject.model.net.n_parameters;
        decoder = subject.model.net.convs[subject.model.net.n_convs - 1].weight;
        gradients[i] = support_alloc(n * sizeof **gradients);
        CHECK_OK(subject.model.ops->download(subject.model.device, subject.run.trainer.gradients,
                                             gradients[i], &why));
        close_subject(&subject);
    }
    support_equal("gradients", gradients[1] + decoder, gradients[0] + decoder, n - decoder);
    free(gradients[0]);
    free(gradients[1]);
}

// d(sum G W)/dA and /dB by central differences, W = start + B A.
static void lora_gradients(void)
{
    struct fault_note why = {0};
    struct net net;
    struct lora lora;
    const double step = 1e-2;
    net_init(&net, toy);
    size_t n = net.n_parameters;
    float *start = support_parameters(&net, 1), *g = support_random(2, n, -1, 1);
    float *plus = support_alloc(n * sizeof *plus), *minus = support_alloc(n * sizeof *minus);
    CHECK_OK(lora_open(&lora, &net, 3, 7, start, &why));
    lora_apply(&lora, plus);
    support_equal("before any step", plus, start, n);
    float *some = support_random(4, lora.net.n_parameters, -0.3, 0.3);
    memcpy(lora.factors, some, lora.net.n_parameters * sizeof *some);
    lora_step(&lora, (struct sr_adam){.rate = 0, .beta1 = 0.9F, .beta2 = 0.9F, .epsilon = 1e-8F, .step = 1},
              g);
    int seen = 0;
    for (size_t i = 0; i < lora.net.n_parameters; i += 7, seen++) {
        double sum = 0;
        lora.factors[i] = some[i] + (float)step;
        lora_apply(&lora, plus);
        lora.factors[i] = some[i] - (float)step;
        lora_apply(&lora, minus);
        lora.factors[i] = some[i];
        for (size_t k = 0; k < n; k++)
            sum += (double)g[k] * ((double)plus[k] - (double)minus[k]);
        CHECK_NEAR(lora.gradients[i], sum / (2 * step), 2e-4);
    }
    printf("%d factors' values, %d layers\n", seen, lora.n_layers);
    CHECK(seen > 100);
    lora_close(&lora);
    free(some);
    free(plus);
    free(minus);
    free(start);
    free(g);
}

static void lora_needs_trained_weights(void)
{
    struct fault_note why = {0};
    struct subject subject;
    struct finetune run;
    open_subject(&subject, "");
    const struct net_linear *last = &subject.model.net.linears[subject.model.net.n_linears - 1];
    memset(subject.start + last->weight, 0, (size_t)last->n_in * sizeof *subject.start);
    memset(subject.start + last->bias, 0, sizeof *subject.start);
    CHECK_OK(model_set_parameters(&subject.model, subject.start, &why));
    subject.pairs.recipe.part = SR_PART_LORA;
    CHECK_FAULT(
        finetune_open(&run, &subject.model, &subject.pairs, &subject.options, &limits, &subject.report, &why),
        FAULT_CONFIG);
    finetune_close(&run);
    close_subject(&subject);
}

// --------------------------------------------------------------------------------------------- pairs

static void pairs_follow_the_recipe(void)
{
    enum { DRAWS = 400 };
    struct subject plain, wide;
    open_subject(&plain, "axes=columns:true-share=1");
    open_subject(&wide, "factor-low=0.5:true-share=0:axes=rows");
    int seen[5] = {0};
    for (uint64_t i = 0; i < DRAWS; i++) {
        struct sr_cut a = pairs_draw(&plain.pairs, 1, i, 1), b = pairs_draw(&wide.pairs, 1, i, 1);
        CHECK_INT(a.axis, 2);
        CHECK_INT(a.factor, 4);
        CHECK_NEAR(a.fwhm, 4, 1e-6);
        CHECK_INT(b.axis, 1);
        CHECK(b.factor >= 2 && b.factor <= 4);
        CHECK_NEAR(b.fwhm, b.factor, 1e-6);
        seen[b.factor]++;
    }
    for (int factor = 2; factor <= 4; factor++)
        CHECK(seen[factor] > DRAWS / 5);
    close_subject(&plain);
    close_subject(&wide);
}

// Half of the image is nearly flat: few samples come from there.
static void detail_draws_detail(void)
{
    enum { DRAWS = 600, SIDE = 160 };
    struct fault_note why = {0};
    double mean[2];
    float *voxels = support_random(1, (size_t)DEPTH * SIDE * SIDE, 0, 1);
    struct sr_stack stack = {
        .depth = DEPTH, .height = SIDE, .width = SIDE, .row_mm = 1, .column_mm = 1, .slice_mm = 3};
    for (size_t i = 0; i < (size_t)DEPTH * SIDE * SIDE; i++)
        if (i % SIDE < SIDE / 2)
            voxels[i] *= 0.1F;
    for (int is_detail = 0; is_detail < 2; is_detail++) {
        struct sr_recipe recipe = sr_recipe_default();
        struct pairs pairs;
        double sum = 0;
        CHECK_OK(sr_recipe_set(&recipe, is_detail ? "detail=yes:axes=rows" : "detail=no:axes=rows", &why));
        CHECK_OK(pairs_plan(&pairs, &stack, voxels, &recipe, &why));
        for (uint64_t i = 0; i < DRAWS; i++)
            sum += pairs_draw(&pairs, 1, i, 1).column + 0.5 * pairs.columns;
        mean[is_detail] = sum / DRAWS;
        pairs_done(&pairs);
    }
    printf("mean column %.1f, with detail %.1f of %d\n", mean[0], mean[1], SIDE);
    CHECK(mean[1] > mean[0] + 8);
    free(voxels);
}

// --------------------------------------------------------------------------------------------- what a run
// costs

enum { REAL_DEPTH = 20, REAL_SIDE = 192 };

static struct pairs plan_real(const float *voxels, struct pairs_check *checks)
{
    struct fault_note why = {0};
    struct sr_recipe recipe = sr_recipe_default();
    struct sr_stack stack = {.depth = REAL_DEPTH,
                             .height = REAL_SIDE,
                             .width = REAL_SIDE,
                             .row_mm = 1,
                             .column_mm = 1,
                             .slice_mm = 5};
    struct pairs pairs;
    CHECK_OK(pairs_plan(&pairs, &stack, voxels, &recipe, &why));
    for (int axis = 1; axis <= 2; axis++)
        CHECK_OK(pairs_check_init(&checks[axis - 1], &pairs, axis, 0, 3, &why));
    return pairs;
}

// However short a run, most of its work is its steps; a long one checks, blends and estimates all it can.
static void steps_get_the_time(void)
{
    float *voxels = support_alloc(sizeof *voxels * REAL_DEPTH * REAL_SIDE * REAL_SIDE);
    for (int i = 0; i < REAL_DEPTH * REAL_SIDE * REAL_SIDE; i++)
        voxels[i] = (float)(0.5 + 0.4 * sin(0.2 * (i % REAL_SIDE)));
    struct pairs_check checks[2];
    struct pairs pairs = plan_real(voxels, checks);
    struct finetune_cost cost = finetune_cost(&pairs, checks, 2);
    struct finetune_extras before = {0}, extras = {0};
    CHECK(cost.first > 0 && cost.second > cost.first && cost.check > 0);
    for (int n = 1; n <= SR_PLANNED_STEPS; n++, before = extras) {
        double steps = finetune_steps_cost(cost, 1, n);
        extras = finetune_extras(&pairs, cost, 1, n);
        CHECK(extras.n_checks == 1 || (extras.n_checks + extras.n_blends) * cost.check <= 0.25 * steps);
        CHECK(extras.side == FINETUNE_SIDE_LEAST ||
              finetune_estimate_cost(&pairs, extras.side) <= 0.5 * steps);
        CHECK(extras.n_checks >= before.n_checks && extras.n_blends >= before.n_blends &&
              extras.side >= before.side);
        if (n == 1)
            CHECK(extras.n_checks == 1 && extras.n_blends == 0 && extras.side == FINETUNE_SIDE_LEAST);
    }
    CHECK_INT(extras.n_checks, FINETUNE_CHECKS);
    CHECK_INT(extras.n_blends, FINETUNE_BLENDS);
    CHECK_INT(extras.side, FINETUNE_SIDE);
    // an image that is smaller than the part is estimated whole, without margins
    struct estimate_part part = finetune_part(&pairs, 2 * REAL_SIDE);
    CHECK_INT(part.rows, REAL_SIDE);
    part = finetune_part(&pairs, FINETUNE_SIDE_LEAST);
    CHECK_INT(part.slices, REAL_DEPTH);
    CHECK(part.rows < FINETUNE_SIDE_LEAST && part.rows >= FINETUNE_SIDE_LEAST - 2 * ESTIMATE_MARGIN);
    for (int i = 0; i < 2; i++)
        pairs_check_done(&checks[i]);
    pairs_done(&pairs);
    free(voxels);
}

// As many checks as planned, the last one after the last step.
static void checks_are_spread(void)
{
    for (int planned = 1; planned <= 4; planned++) {
        struct subject subject;
        struct fault_note why = {0};
        int n = 0;
        open_subject(&subject, "second-round=0");
        begin_subject(&subject);
        subject.run.extras.n_checks = planned;
        subject.run.extras.n_blends = 0;
        while (subject.run.step < STEPS) {
            subject.run.last_error = -1;
            CHECK_OK(finetune_step(&subject.run, &why));
            n += subject.run.last_error >= 0;
        }
        CHECK_INT(n, planned);
        CHECK(subject.run.last_error >= 0);
        close_subject(&subject);
    }
}

// --------------------------------------------------------------------------------------------- rounds,
// averages

// The second round's pairs lie in an isotropic estimate, more than the stack's slices high.
static void second_round(void)
{
    struct subject subject;
    open_subject(&subject, "second-round=0.5");
    begin_subject(&subject);
    step_to(&subject, STEPS);
    const struct finetune *run = &subject.run;
    CHECK_INT(run->round_start, 5);
    CHECK(run->estimate.maker != NULL && run->estimate.trainer.model != NULL);
    CHECK_INT(run->estimate.pairs.depth, (DEPTH - 1) * 4 + 1);
    CHECK_INT(run->estimate.pairs.rows, (DEPTH - 1) * 4 + 1);
    CHECK_INT(subject.pairs.rows, DEPTH);
    // acquired slices stand in the estimate where they lay, but for what the network adds
    double off = 0;
    for (size_t i = 0; i < (size_t)HEIGHT * WIDTH; i++)
        off += fabs((double)run->estimate.voxels[(size_t)8 * HEIGHT * WIDTH + i] -
                    (double)subject.voxels[(size_t)2 * HEIGHT * WIDTH + i]);
    CHECK(off / (HEIGHT * WIDTH) < 0.2);
    close_subject(&subject);
}

// The last weights are kept unless others do better by more than 0.1 dB; then weights between the first and
// the last are tried, and kept where they do best; the run's own stay where they are.
static void blends(void)
{
    struct fault_note why = {0};
    int n_blended = 0, n_last = 0;
    for (int rate = 0; rate < 3; rate++) {
        struct subject plain, blended;
        char recipe[64];
        snprintf(recipe, sizeof recipe, "rate=%g:blend=no", rate == 0 ? 3e-2 : rate == 1 ? 1e-2 : 1e-3);
        open_subject(&plain, recipe);
        begin_subject(&plain);
        step_to(&plain, STEPS);
        *strrchr(recipe, ':') = '\0';
        open_subject(&blended, recipe);
        begin_subject(&blended);
        step_to(&blended, STEPS);
        size_t n = plain.model.net.n_parameters;
        float *last = parameters_of(&plain), *now = parameters_of(&blended);
        double share = blended.report.share_best;
        support_equal("last", now, last, n);
        CHECK_NEAR(plain.report.share_best, 1, 0);
        CHECK_NEAR(blended.run.last_error, plain.run.last_error, 0);
        printf("%s: step %d, share %g: error %.6g, without %.6g\n", recipe, blended.report.step_best, share,
               blended.run.best_error, plain.run.best_error);
        if (plain.report.step_best == STEPS) {
            n_last++;
            support_equal("kept", plain.run.best, last, n);
        } else {
            CHECK(plain.run.last_error > plain.run.best_error * pow(10, 0.01));
        }
        if (share < 1) {
            n_blended++;
            CHECK_INT(blended.report.step_best, STEPS);
            CHECK(blended.run.best_error < plain.run.best_error);
            for (size_t i = 0; i < n; i++)
                now[i] = blended.start[i] + (float)share * (last[i] - blended.start[i]);
            support_equal("best", blended.run.best, now, n);
        } else {
            CHECK_NEAR(blended.run.best_error, plain.run.best_error, 0);
            support_equal("best", blended.run.best, plain.run.best, n);
        }
        CHECK_OK(finetune_end(&blended.run, &why));
        free(last);
        free(now);
        close_subject(&plain);
        close_subject(&blended);
    }
    CHECK(n_blended > 0 && n_last > 0 && n_blended + n_last <= 3);
}

static void average_is_kept(void)
{
    struct fault_note why = {0};
    struct subject subject;
    open_subject(&subject, "average=0.5");
    begin_subject(&subject);
    size_t n = subject.model.net.n_parameters;
    float *want = support_alloc(n * sizeof *want);
    memcpy(want, subject.start, n * sizeof *want);
    for (int step = 1; step <= STEPS; step++) {
        step_to(&subject, step);
        float *now = parameters_of(&subject), keep = (float)fmin(0.5, (double)step / (step + 10));
        for (size_t i = 0; i < n; i++)
            want[i] = keep * want[i] + (1 - keep) * now[i];
        free(now);
    }
    float *got = support_alloc(n * sizeof *got);
    CHECK_OK(subject.model.ops->download(subject.model.device, subject.run.averaged, got, &why));
    support_close("average", got, want, n, 1e-6, 0);
    if (subject.report.step_best == STEPS && subject.report.share_best == 1)
        support_equal("best", subject.run.best, got, n);
    free(got);
    free(want);
    close_subject(&subject);
}

// --------------------------------------------------------------------------------------------- taken up

static const char *const resumed[] = {"", "average=0.9:detail=yes", "part=lora:rank=2:average=0.8",
                                      "part=decoder:second-round=0.6",
                                      "second-round=0.4:average=0.9:targets=2"};

static float *run_whole(const char *recipe)
{
    struct fault_note why = {0};
    struct subject subject;
    open_subject(&subject, recipe);
    begin_subject(&subject);
    step_to(&subject, STEPS);
    CHECK_OK(finetune_end(&subject.run, &why));
    CHECK_INT(subject.report.steps_done, STEPS);
    float *best = parameters_of(&subject);
    close_subject(&subject);
    return best;
}

// Goes on from what the folder holds, or begins; saves at a third of the steps and at the end. To step
// `stop`.
static void sit(struct subject *subject, const char *recipe, const char *out, int stop)
{
    struct fault_note why = {0};
    int found;
    double minutes;
    open_subject(subject, recipe);
    CHECK_OK(file_make_directory(out, &why));
    CHECK_OK(finetune_load(&subject->run, out, &found, &minutes, &why));
    if (!found)
        begin_subject(subject);
    while (subject->run.step < stop) {
        CHECK_OK(finetune_step(&subject->run, &why));
        if (subject->run.step % 6 == 3)
            CHECK_OK(finetune_save(&subject->run, out, 0.5, &why));
    }
}

static float *run_in_parts(const char *recipe, const char *out)
{
    struct fault_note why = {0};
    struct subject subject;
    sit(&subject, recipe, out, STEPS);
    CHECK_OK(finetune_end(&subject.run, &why));
    float *best = parameters_of(&subject);
    close_subject(&subject);
    return best;
}

static void taken_up(void)
{
    for (size_t i = 0; i < sizeof resumed / sizeof resumed[0]; i++) {
        float *whole = run_whole(resumed[i]);
        struct subject subject;
        char out[16];
        snprintf(out, sizeof out, "out%zu", i);
        for (int stop = 2; stop < STEPS; stop += 3) { // some sittings lose steps
            sit(&subject, resumed[i], out, stop);
            close_subject(&subject);
        }
        float *parts = run_in_parts(resumed[i], out);
        struct net net;
        net_init(&net, toy);
        support_equal(resumed[i][0] != '\0' ? resumed[i] : "plain", parts, whole, net.n_parameters);
        free(parts);
        free(whole);
    }
}

static void of_something_else(void)
{
    struct fault_note why = {0};
    struct subject subject;
    int found;
    double minutes;
    sit(&subject, "average=0.9", "out", 3);
    close_subject(&subject);
    open_subject(&subject, "");
    CHECK_FAULT(finetune_load(&subject.run, "out", &found, &minutes, &why), FAULT_CONFIG);
    CHECK_CONTAINS(why.text, "another recipe");
    close_subject(&subject);
    open_subject(&subject, "average=0.9");
    subject.options.seed++;
    CHECK_FAULT(finetune_load(&subject.run, "out", &found, &minutes, &why), FAULT_CONFIG);
    CHECK_CONTAINS(why.text, "another seed");
    subject.options.seed--;
    subject.options.steps++;
    CHECK_FAULT(finetune_load(&subject.run, "out", &found, &minutes, &why), FAULT_CONFIG);
    CHECK_CONTAINS(why.text, "another number of steps");
    subject.options.steps--;
    subject.run.source++;
    CHECK_FAULT(finetune_load(&subject.run, "out", &found, &minutes, &why), FAULT_CONFIG);
    CHECK_CONTAINS(why.text, "another stack");
    subject.run.source--;
    CHECK_OK(finetune_load(&subject.run, "out", &found, &minutes, &why));
    CHECK_INT(subject.run.step, 3);
    close_subject(&subject);
    static const char other[] = "isoslice training state 1\nstage mr\nstep 1\nminutes 1\nseed 3\n";
    CHECK_OK(file_write_atomic("out/state", other, strlen(other), &why));
    open_subject(&subject, "average=0.9");
    CHECK_FAULT(finetune_load(&subject.run, "out", &found, &minutes, &why), FAULT_BAD_HEADER);
    close_subject(&subject);
}

// Killed before every call that changes the disk: the run is taken up and ends with the bits of one that was
// never stopped. Without estimates, which would take most of the time; runs with them are taken up above.
static void dies_at_every_file_call(void)
{
    static const char recipe[] = "average=0.8:batch=1:targets=1:second-round=0";
    float *whole = run_whole(recipe);
    struct net net;
    int n_deaths = 0;
    net_init(&net, toy);
    for (int n = 1;; n++) {
        int status;
        char spec[16];
        snprintf(spec, sizeof spec, "%d", n);
        CHECK(file_remove_tree("out", NULL) == 0);
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            setenv("ISOSLICE_CRASH_AT", spec, 1);
            file_arm_crash_point();
            struct subject subject;
            sit(&subject, recipe, "out", 4);
            _exit(0);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        if (WIFEXITED(status)) {
            CHECK_INT(WEXITSTATUS(status), 0);
            break; // fewer calls than n: it came through
        }
        CHECK_INT(WTERMSIG(status), SIGKILL);
        n_deaths++;
        float *parts = run_in_parts(recipe, "out");
        support_equal("weights", parts, whole, net.n_parameters);
        free(parts);
    }
    printf("%d deaths\n", n_deaths);
    CHECK(n_deaths > 40);
    free(whole);
}

// --------------------------------------------------------------------------------------------- use

enum { ROWS = 29, COLUMNS = 33, PLANES = 9 };

static const struct sr_plane wanted[PLANES] = {{0, 0},   {0, 0.25}, {1, 0},   {1, 0.5}, {2, 0},
                                               {2, 0.9}, {3, 0},    {3, 0.5}, {4, 0}};

// A reference backend that refuses buffers of more than `most_values`, and counts the refusals.
static size_t most_values;
static int n_refused;

static int stingy_buffer(struct sr_device *device, struct sr_extent extent, int channels,
                         struct sr_buffer **buffer, struct fault_note *why)
{
    if ((size_t)extent.n * (size_t)extent.d * (size_t)extent.h * (size_t)extent.w * (size_t)channels <=
        most_values)
        return support_ops("ref")->buffer_new(device, extent, channels, buffer, why);
    n_refused++;
    return fault_set(why, FAULT_NO_MEMORY, "refusal %d", n_refused);
}

// Memory that the device refuses is done without: the same result from smaller tiles, or the first refusal.
static void refused_memory(void)
{
    struct fault_note why = {0};
    struct model model;
    struct interpolate_limits how = {.memory_bytes = (size_t)1 << 30, .phase = "use"};
    enum { BIG = 160 };
    const struct sr_plane planes[] = {{0, 0.5}, {1, 0.25}};
    size_t size = (size_t)2 * BIG * BIG;
    float *stack = support_random(1, (size_t)3 * BIG * BIG, 0, 1), *whole = support_random(9, size, 5, 6),
          *parts = support_random(9, size, 5, 6);
    CHECK_OK(model_open(&model, support_ops("ref"), toy, 1, &why));
    float *parameters = support_parameters(&model.net, 5);
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    CHECK_OK(interpolate_planes(&model, stack, 3, BIG, BIG, planes, 2, &how, whole, &why));
    struct sr_ops stingy = *model.ops;
    const struct sr_ops *real = model.ops;
    stingy.buffer_new = stingy_buffer;
    model.ops = &stingy;
    most_values = (size_t)3 * BIG * BIG * (size_t)toy.channels / 2;
    CHECK_OK(interpolate_planes(&model, stack, 3, BIG, BIG, planes, 2, &how, parts, &why));
    printf("%d refusals\n", n_refused);
    CHECK(n_refused > 0);
    support_close("in smaller tiles", parts, whole, size, 1e-5, 1e-6);
    most_values = 10;
    n_refused = 0;
    CHECK_INT(interpolate_planes(&model, stack, 3, BIG, BIG, planes, 2, &how, parts, &why), FAULT_NO_MEMORY);
    CHECK_STR(why.text, "refusal 1");
    CHECK(n_refused > 1);
    model.ops = real;
    model_close(&model);
    free(parameters);
    free(stack);
    free(whole);
    free(parts);
}

// What the toy network adds on the wanted planes of a stack of 5 slices.
static float *use(const float *stack, const struct sr_plane *planes, int n_planes, const char *text,
                  size_t memory)
{
    struct fault_note why = {0};
    struct model model;
    struct sr_recipe recipe = sr_recipe_default();
    struct interpolate_limits how = {.memory_bytes = memory, .phase = "use", .use = &recipe};
    if (text[0] != '\0')
        CHECK_OK(sr_recipe_set(&recipe, text, &why));
    CHECK_OK(model_open(&model, support_ops("ref"), toy, 1, &why));
    float *parameters = support_parameters(&model.net, 5);
    CHECK_OK(model_set_parameters(&model, parameters, &why));
    float *residual = support_random(9, (size_t)n_planes * ROWS * COLUMNS, 5, 6); // to be overwritten
    CHECK_OK(
        interpolate_planes(&model, stack, 5, ROWS, COLUMNS, planes, (size_t)n_planes, &how, residual, &why));
    model_close(&model);
    free(parameters);
    return residual;
}

static size_t at(int plane, int row, int column)
{
    return ((size_t)plane * ROWS + (size_t)row) * COLUMNS + (size_t)column;
}

// An ensemble of 8 is the mean of eight plain passes over stacks that were turned over by hand.
static void ensemble_is_the_mean(void)
{
    float *stack = support_random(1, (size_t)5 * ROWS * COLUMNS, 0, 1);
    float *turned = support_alloc(sizeof *turned * 5 * ROWS * COLUMNS);
    float *mean = support_alloc(sizeof *mean * PLANES * ROWS * COLUMNS);
    memset(mean, 0, sizeof *mean * PLANES * ROWS * COLUMNS);
    for (int flip = 0; flip < 8; flip++) {
        struct sr_plane planes[PLANES];
        for (int k = 0; k < PLANES; k++) {
            double place = wanted[k].slice + wanted[k].t;
            place = flip & 1 ? 4 - place : place;
            planes[k].slice = (int)place;
            planes[k].t = place - planes[k].slice;
        }
        for (int z = 0; z < 5; z++)
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < COLUMNS; column++)
                    turned[at(z, row, column)] =
                        stack[at(flip & 1 ? 4 - z : z, flip & 2 ? ROWS - 1 - row : row,
                                 flip & 4 ? COLUMNS - 1 - column : column)];
        float *pass = use(turned, planes, PLANES, "", (size_t)1 << 28);
        for (int k = 0; k < PLANES; k++)
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < COLUMNS; column++)
                    mean[at(k, row, column)] += pass[at(k, flip & 2 ? ROWS - 1 - row : row,
                                                        flip & 4 ? COLUMNS - 1 - column : column)] /
                                                8;
        free(pass);
    }
    float *whole = use(stack, wanted, PLANES, "ensemble=8", (size_t)1 << 28);
    support_close("ensemble", whole, mean, (size_t)PLANES * ROWS * COLUMNS, 1e-5, 0);
    float *tiled = use(stack, wanted, PLANES, "ensemble=8", (size_t)1200 << 10);
    support_close("in tiles", tiled, mean, (size_t)PLANES * ROWS * COLUMNS, 1e-5, 0);
    free(tiled);
    free(whole);
    free(mean);
    free(turned);
    free(stack);
}

static void acquired_planes(void)
{
    enum { PLANE = ROWS * COLUMNS };
    static const struct sr_plane near[] = {{0, 1 - 1e-7}, {1, 0}, {3, 1 - 1e-7}};
    float *stack = support_random(1, (size_t)5 * PLANE, 0, 1);
    float *one = use(stack, wanted, PLANES, "", (size_t)1 << 28);
    float *kept = use(stack, wanted, PLANES, "acquired=kept", (size_t)1 << 28);
    float *both = use(stack, wanted, PLANES, "acquired=both", (size_t)1 << 28);
    float *sides = use(stack, near, 3, "", (size_t)1 << 28);
    for (int k = 0; k < PLANES; k++) {
        float *zero = support_alloc(PLANE * sizeof *zero), *at_one = one + (size_t)k * PLANE;
        memset(zero, 0, PLANE * sizeof *zero);
        support_equal("kept", kept + (size_t)k * PLANE, wanted[k].t == 0 ? zero : at_one, PLANE);
        if (wanted[k].t > 0 || k == 0)
            support_equal("both, elsewhere", both + (size_t)k * PLANE, at_one, PLANE);
        free(zero);
    }
    float *mean = support_alloc(PLANE * sizeof *mean);
    for (int i = 0; i < PLANE; i++)
        mean[i] = 0.5F * (sides[i] + sides[PLANE + i]);
    support_close("both, slice 1", both + (size_t)2 * PLANE, mean, PLANE, 1e-5, 0);
    CHECK(support_differ(both + (size_t)2 * PLANE, one + (size_t)2 * PLANE, PLANE));
    support_close("both, last slice", both + (size_t)8 * PLANE, sides + (size_t)2 * PLANE, PLANE, 1e-5, 0);
    free(mean);
    free(sides);
    free(both);
    free(kept);
    free(one);
    free(stack);
}

// Blurred again and taken at the slices' places, the corrected volume gives the slices, but for the
// outermost, half of which were measured where no plane is.
static double worst_slice(const float *stack, const struct sr_plane *planes, int n, double profile,
                          const float *residual)
{
    double sigma = profile / 2.3548200450309493, worst = 0;
    for (int d = 1; d < 4; d++)
        for (size_t i = 0; i < (size_t)ROWS * COLUMNS; i++) {
            double sum = 0, total = 0;
            for (int k = 0; k < n; k++) {
                double off = planes[k].slice + planes[k].t - d;
                if (fabs(off) > 3 * sigma)
                    continue;
                int next = planes[k].slice < 4 ? planes[k].slice + 1 : 4;
                double value = (1 - planes[k].t) * (double)stack[at(planes[k].slice, 0, 0) + i] +
                               planes[k].t * (double)stack[at(next, 0, 0) + i] +
                               (double)residual[at(k, 0, 0) + i];
                sum += exp(-0.5 * off * off / (sigma * sigma)) * value;
                total += exp(-0.5 * off * off / (sigma * sigma));
            }
            worst = fmax(worst, fabs(sum / total - (double)stack[at(d, 0, 0) + i]));
        }
    return worst;
}

static void consistency_agrees(void)
{
    enum { N = 17 };
    struct fault_note why = {0};
    struct sr_plane planes[N];
    for (int k = 0; k < N; k++)
        planes[k] = (struct sr_plane){k / 4, (k % 4) / 4.0};
    float *stack = support_random(1, (size_t)5 * ROWS * COLUMNS, 0, 1);
    for (int i = 0; i < 3; i++) {
        static const double profiles[] = {0.6, 1, 1.4};
        float *residual = support_random(2, (size_t)N * ROWS * COLUMNS, -0.1, 0.1);
        double before = worst_slice(stack, planes, N, profiles[i], residual);
        double share = 0.5, whole = 1;
        CHECK_OK(consistency_apply(stack, 5, (size_t)ROWS * COLUMNS, planes, N, profiles[i], 0, &share,
                                   residual, &why));
        CHECK_NEAR(share, 0.5, 0);
        double half = worst_slice(stack, planes, N, profiles[i], residual);
        CHECK_NEAR(half, 0.5 * before, 1e-5);
        CHECK_OK(consistency_apply(stack, 5, (size_t)ROWS * COLUMNS, planes, N, profiles[i], 0, &whole,
                                   residual, &why));
        double after = worst_slice(stack, planes, N, profiles[i], residual);
        printf("profile %.1f: off by %.3f, half-way %.3f, %.2g\n", profiles[i], before, half, after);
        CHECK(before > 0.1);
        CHECK_NEAR(after, 0, 1e-5);
        free(residual);
    }
    free(stack);
}

// A slice is left out where its profile reaches beyond the planes; what it does not see stays as it is.
static void consistency_leaves_ends(void)
{
    enum { N = 9, AREA = ROWS * COLUMNS };
    struct fault_note why = {0};
    struct sr_plane planes[N];
    for (int k = 0; k < N; k++)
        planes[k] = (struct sr_plane){k / 4, (k % 4) / 4.0};
    float *stack = support_random(1, (size_t)5 * AREA, 0, 1),
          *residual = support_alloc(sizeof *residual * N * AREA);
    double all = 1, none = 1;
    memset(residual, 0, sizeof *residual * N * AREA);
    CHECK_OK(consistency_apply(stack, 5, AREA, planes, 5, 0.6, 0, &none, residual, &why));
    CHECK_NEAR(none, 0, 0); // slices 0 and 1 lie at the ends, the others beyond
    for (size_t i = 0; i < (size_t)N * AREA; i++)
        CHECK_NEAR(residual[i], 0, 0);
    CHECK_OK(consistency_apply(stack, 5, AREA, planes, N, 0.6, 0, &all, residual, &why));
    CHECK_NEAR(all, 1, 0);
    for (int k = 0; k < N; k++) { // only slice 1 is in, whose profile reaches 0.76 to either side
        double largest = 0;
        for (size_t i = 0; i < AREA; i++)
            largest = fmax(largest, fabs((double)residual[(size_t)k * AREA + i]));
        printf("plane %d is moved by up to %.3f\n", k, largest);
        CHECK((largest > 0) == (k > 0 && k < N - 1));
    }
    free(residual);
    free(stack);
}

// White noise is measured, structure is not; and where the misfit is nothing but noise, nothing is corrected.
static void consistency_knows_noise(void)
{
    enum { SIDE = 96, SLICES = 5, N = 17 };
    struct fault_note why = {0};
    const size_t plane = (size_t)SIDE * SIDE;
    float *stack = support_alloc(sizeof *stack * SLICES * plane),
          *u = support_random(3, SLICES * plane * 12, 0, 1);
    struct sr_plane planes[N];
    double sigma, before = 0, after = 0, share = 1, all = 1;
    for (int k = 0; k < N; k++)
        planes[k] = (struct sr_plane){k / 4, (k % 4) / 4.0};
    for (size_t i = 0; i < SLICES * plane; i++) {
        double sum = 0; // of twelve uniform ones: nearly normal, variance 1
        for (size_t k = 0; k < 12; k++)
            sum += (double)u[12 * i + k];
        double clean = i % SIDE < SIDE / 3 ? 0 : 0.6 + 0.2 * sin(0.2 * (double)(i % SIDE));
        stack[i] = (float)(clean > 0 ? clean + 0.02 * (sum - 6) : 0);
    }
    float *residual = support_alloc(sizeof *residual * N * plane);
    memset(residual, 0, sizeof *residual * N * plane);
    CHECK_OK(consistency_noise(stack, SLICES, SIDE, SIDE, planes, N, 1, residual, &sigma, &why));
    printf("sigma %.4f, of the slices 0.02\n", sigma); // most of a slice's noise stands on its own plane, too
    CHECK(sigma > 0.002 && sigma < 0.02);
    CHECK_OK(consistency_apply(stack, SLICES, plane, planes, N, 1, sigma, &share, residual, &why));
    for (size_t i = 0; i < N * plane; i++)
        after += (double)residual[i] * (double)residual[i];
    memset(residual, 0, sizeof *residual * N * plane);
    CHECK_OK(consistency_apply(stack, SLICES, plane, planes, N, 1, 0, &all, residual, &why));
    for (size_t i = 0; i < N * plane; i++)
        before += (double)residual[i] * (double)residual[i];
    printf("correction %.3g, with the noise known %.3g\n", before, after);
    CHECK(before > 0 && after < 0.05 * before);
    CHECK(share < 0.25); // what is put back is share times the misfit
    CHECK_NEAR(all, 1, 0);
    // an error with the shapes of tissue is no noise
    for (size_t i = 0; i < N * plane; i++)
        residual[i] = 0.1F * sinf(0.3F * (float)(i % SIDE) + 0.2F * (float)(i / SIDE % SIDE));
    CHECK_OK(consistency_noise(stack, SLICES, SIDE, SIDE, planes, N, 1, residual, &sigma, &why));
    share = 1;
    CHECK_OK(consistency_apply(stack, SLICES, plane, planes, N, 1, sigma, &share, residual, &why));
    printf("of a smooth error %.3f is put right\n", share);
    CHECK(share > 0.9 && share < 1);
    free(residual);
    free(u);
    free(stack);
}

static const struct test tests[] = {
    {"unit.recipe.notation", recipe_notation},
    {"unit.recipe.faults", recipe_faults},
    {"unit.finetune.parts", parts},
    {"unit.finetune.part_gradients", part_gradients},
    {"unit.finetune.steps_get_the_time", steps_get_the_time},
    {"unit.finetune.checks_are_spread", checks_are_spread},
    {"unit.finetune.second_round", second_round},
    {"unit.finetune.blends", blends},
    {"unit.finetune.average", average_is_kept},
    {"unit.finetune.taken_up", taken_up},
    {"unit.finetune.of_something_else", of_something_else},
    {"crash.finetune.every_file_call", dies_at_every_file_call},
    {"unit.lora.gradients", lora_gradients},
    {"unit.lora.needs_trained_weights", lora_needs_trained_weights},
    {"unit.pairs.follow_the_recipe", pairs_follow_the_recipe},
    {"unit.pairs.detail", detail_draws_detail},
    {"unit.interpolate.ensemble", ensemble_is_the_mean},
    {"unit.interpolate.acquired", acquired_planes},
    {"unit.consistency.agrees", consistency_agrees},
    {"unit.consistency.knows_noise", consistency_knows_noise},
    {"unit.consistency.leaves_ends", consistency_leaves_ends},
    {"unit.interpolate.refused_memory", refused_memory},
};

TEST_MAIN(tests)
