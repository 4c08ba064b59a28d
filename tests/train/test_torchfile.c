// SPDX-License-Identifier: Apache-2.0
//
// PyTorch checkpoints: written and read by PyTorch, and hostile ones.
#include "core/file.h"
#include "tests/engine/support.h"
#include "train/torchfile.h"

#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

static void run_python(const char *mode, const char *a, const char *b, const char *c)
{
    char script[512];
    int status;
    char *argv[] = {"/usr/bin/python3", script, (char *)mode, (char *)a, (char *)b, (char *)c, NULL};
    snprintf(script, sizeof script, "%s/peer_torch.py", ISOSLICE_TESTS_TRAIN);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        execv(argv[0], argv);
        _exit(127);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        CHECK_FAIL("peer_torch.py %s ended with status %d", mode, status);
}

static void tiny_net(struct net *net)
{
    net_init(net,
             (struct net_config){.channels = 3, .blocks = 1, .hidden = 5, .hidden_layers = 2, .dilation = 1});
}

// The arena and its tensors as files for the script.
static float *write_arena(const struct net *net)
{
    struct fault_note why = {0};
    float *values = support_parameters(net, 4);
    CHECK_OK(file_write_atomic("values.f32", values, net->n_parameters * sizeof *values, &why));
    FILE *out = fopen("tensors.txt", "w");
    CHECK(out != NULL);
    for (int i = 0; i < net->n_tensors; i++) {
        fputs(net->tensors[i].name, out);
        for (int k = 0; k < net->tensors[i].n_dims; k++)
            fprintf(out, " %d", net->tensors[i].shape[k]);
        fputc('\n', out);
    }
    CHECK(fclose(out) == 0);
    return values;
}

static int parse_file(const char *path, const struct net *net, float *values, struct fault_note *why)
{
    void *data;
    size_t size;
    CHECK(file_read(path, TORCHFILE_MAX_BYTES, &data, &size, why) == 0);
    int rc = torchfile_parse(data, size, path, net, values, why);
    free(data);
    return rc;
}

static void read_checkpoints(void)
{
    static const char *const files[] = {"plain.pt", "nested.pt", "module.pt", "strided.pt"};
    struct fault_note why = {0};
    struct net net;
    tiny_net(&net);
    float *want = write_arena(&net), *got = support_alloc(net.n_parameters * sizeof *got);
    run_python("save", "values.f32", "tensors.txt", NULL);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        memset(got, 0, net.n_parameters * sizeof *got);
        CHECK_OK(parse_file(files[i], &net, got, &why));
        support_equal(files[i], got, want, net.n_parameters);
    }
    CHECK_OK(parse_file("half.pt", &net, got, &why));
    for (size_t i = 0; i < net.n_parameters; i++) // 11 bits of fraction
        CHECK_NEAR((double)got[i], (double)want[i], 0x1p-11 * fabs((double)want[i]) + 0x1p-25);
    memcpy(got, want, net.n_parameters * sizeof *got);
    CHECK_FAULT(parse_file("missing.pt", &net, got, &why), FAULT_WEIGHTS);
    CHECK_CONTAINS(why.text, net.tensors[2].name);
    CHECK_CONTAINS(why.text, "unknown: none");
    CHECK_FAULT(parse_file("unknown.pt", &net, got, &why), FAULT_WEIGHTS);
    CHECK_CONTAINS(why.text, "missing: none; unknown: gate.weight");
    support_equal("after faults", got, want, net.n_parameters);
    struct net other;
    net_init(&other,
             (struct net_config){.channels = 4, .blocks = 1, .hidden = 5, .hidden_layers = 2, .dilation = 1});
    float *large = support_alloc(other.n_parameters * sizeof *large);
    CHECK_FAULT(parse_file("plain.pt", &other, large, &why), FAULT_WEIGHTS);
    CHECK_CONTAINS(why.text, "another shape");
    free(large);
    free(want);
    free(got);
}

static void write_checkpoint(void)
{
    struct fault_note why = {0};
    struct net net;
    tiny_net(&net);
    float *want = write_arena(&net), *got = support_alloc(net.n_parameters * sizeof *got);
    CHECK_OK(torchfile_save("ours.pt", &net, want, &why));
    run_python("load", "ours.pt", "values.f32", "tensors.txt");
    CHECK_OK(parse_file("ours.pt", &net, got, &why));
    support_equal("ours.pt", got, want, net.n_parameters);
    free(want);
    free(got);
}

// Cut off anywhere; every byte of pickle and archive structure changed in several ways: refused or read,
// never more.
static void hostile(void)
{
    struct fault_note why = {0};
    struct net net;
    tiny_net(&net);
    float *values = support_parameters(&net, 4), *got = support_alloc(net.n_parameters * sizeof *got);
    void *data;
    size_t size, n_refused = 0, n_tried = 0;
    CHECK_OK(torchfile_save("ours.pt", &net, values, &why));
    CHECK_OK(file_read("ours.pt", TORCHFILE_MAX_BYTES, &data, &size, &why));
    unsigned char *bytes = data;
    for (size_t n = 0; n < size; n++) {
        unsigned char *cut = support_alloc(n); // its own block, so that a read past its end is seen
        memcpy(cut, bytes, n);
        CHECK_FAULT(torchfile_parse(cut, n, "cut", &net, got, &why), FAULT_WEIGHTS);
        free(cut);
    }
    static const unsigned char changes[] = {0x01, 0x80, 0xff, 0x28};
    for (size_t i = 0; i < size; i++)
        for (size_t c = 0; c < sizeof changes; c++) {
            bytes[i] ^= changes[c];
            int rc = torchfile_parse(bytes, size, "changed", &net, got, &why);
            CHECK(rc == 0 || rc == FAULT_WEIGHTS);
            n_refused += rc != 0;
            n_tried++;
            bytes[i] ^= changes[c];
        }
    printf("%zu of %zu changes refused\n", n_refused, n_tried);
    CHECK(n_refused > n_tried / 2); // contents are under a checksum
    free(data);
    free(values);
    free(got);
}

static void put32(unsigned char *at, size_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

// An archive with this pickle alone and a right checksum, so that the machine itself is what refuses.
static int parse_pickle(const void *pickle, size_t n, struct fault_note *why)
{
    enum { LOCAL = 30, CENTRAL = 46, END = 22, NAME = 10 };
    static const char name[] = "a/data.pkl";
    struct net net;
    float got[2000];
    tiny_net(&net);
    CHECK(net.n_parameters <= 2000);
    unsigned char *file = support_alloc(LOCAL + CENTRAL + END + 2 * NAME + n),
                  *central = file + LOCAL + NAME + n, *end = central + CENTRAL + NAME;
    put32(file, 0x04034b50);
    put32(file + 26, NAME);
    memcpy(file + LOCAL, name, NAME);
    memcpy(file + LOCAL + NAME, pickle, n);
    put32(central, 0x02014b50);
    put32(central + 16, crc32_z(0, pickle, n));
    put32(central + 20, n);
    put32(central + 24, n);
    put32(central + 28, NAME);
    memcpy(central + CENTRAL, name, NAME);
    put32(end, 0x06054b50);
    put32(end + 8, 1 | 1 << 16);
    put32(end + 12, CENTRAL + NAME);
    put32(end + 16, (size_t)(central - file));
    int rc = torchfile_parse(file, (size_t)(end + END - file), "made", &net, got, why);
    free(file);
    return rc;
}

static void hostile_pickles(void)
{
    static const struct {
        const char *pickle;
        size_t n;
        const char *part; // of the sentence
    } cases[] = {
#define P(text, part) {text, sizeof(text) - 1, part}
        P("\x80\x02}.", "holds no tensor"),
        P("\x80\x04}.", "protocol"),
        P("", "ends early"),
        P("\x80\x02u.", "mark"),
        P("\x80\x02R.", "stack is empty"),
        P("\x80\x02(R.", "stack is empty"),
        P("\x80\x02q", "ends early"),
        P("\x80\x02q\x01.", "remember"),
        P("\x80\x02h\x05.", "recalled"),
        P("\x80\x02}r\xff\xff\xff\xff.", "remember"),
        P("\x80\x02X\xff\xff\xff\x7f"
          "abc.",
          "ends early"),
        P("\x80\x02"
          "cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
          "holds no tensor"), // kept as a name, not run
        P("\x80\x02"
          "cos\nsystem",
          "ends early"),
        P("\x80\x02"
          "ctorch._utils\n_rebuild_tensor_v2\n)R.",
          "without its parts"),
        P("\x80\x02)Q.", "no storage"),
        P("\x80\x02}(X\x01\x00\x00\x00"
          "au.",
          "key without"),
        P("\x80\x02K\x01(K\x01K\x02u.", "holds none"),
        P("\x80\x02(u.", "without a container"),
        P("\x80\x02\x8a\x09"
          "123456789.",
          "64 bits"),
        P("\x80\x02\x93.", "0x93"),
        P("\x80\x02"
          "i",
          "0x69"),
#undef P
    };
    struct fault_note why = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fprintf(stderr, "case %zu\n", i);
        CHECK_FAULT(parse_pickle(cases[i].pickle, cases[i].n, &why), FAULT_WEIGHTS);
        CHECK_CONTAINS(why.text, cases[i].part);
    }
    enum { MANY = 1 << 20 };
    char *deep = support_alloc(MANY);
    memset(deep, '(', MANY);
    CHECK_FAULT(parse_pickle(deep, MANY, &why), FAULT_WEIGHTS);
    CHECK_CONTAINS(why.text, "too");
    free(deep);
}

static const struct test tests[] = {
    {"peer.torchfile.read", read_checkpoints},
    {"peer.torchfile.write", write_checkpoint},
    {"fuzz.torchfile.changed_bytes", hostile},
    {"unit.torchfile.hostile_pickles", hostile_pickles},
};

TEST_MAIN(tests)
