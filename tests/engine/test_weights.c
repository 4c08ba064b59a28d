// SPDX-License-Identifier: Apache-2.0
//
// Weights files: what is written is read again, and a file from anywhere else cannot do harm.
#include "core/file.h"
#include "sr_engine/engine.h"
#include "sr_engine/weights.h"
#include "tests/engine/support.h"

#include <stdint.h>

static const struct net_config toy = {
    .channels = 2, .blocks = 1, .hidden = 3, .hidden_layers = 1, .dilation = 1};

// A sound file of the toy network in memory, to be spoilt; the caller frees.
static unsigned char *sound_file(struct net *net, size_t *size)
{
    struct fault_note why = {0};
    void *data;
    net_init(net, toy);
    float *parameters = support_alloc(net->n_parameters * sizeof *parameters);
    weights_init(net, 3, parameters);
    CHECK_OK(weights_save("sound.safetensors", net, parameters, NULL, &why));
    CHECK_OK(file_read("sound.safetensors", 1 << 20, &data, size, &why));
    free(parameters);
    return data;
}

// Replaces `from` in the header by `to` of the same length, reads, and wants the fault's sentence to contain
// `says`.
static void spoil(const char *from, const char *to, const char *says)
{
    struct fault_note why = {0};
    struct net net;
    size_t size;
    unsigned char *data = sound_file(&net, &size);
    float *parameters = support_alloc(net.n_parameters * sizeof *parameters);
    CHECK_INT(strlen(from), strlen(to));
    unsigned char *at = memmem(data, size, from, strlen(from));
    CHECK(at != NULL);
    for (size_t i = 0; to[i] != '\0'; i++)
        at[i] = (unsigned char)to[i];
    parameters[0] = 42;
    CHECK_FAULT(weights_parse(data, size, "spoilt", &net, parameters, NULL, &why), FAULT_WEIGHTS);
    CHECK_CONTAINS(why.text, says);
    CHECK_NEAR(parameters[0], 42, 0); // untouched on failure
    free(parameters);
    free(data);
}

static void written_is_read(void)
{
    struct fault_note why = {0};
    struct net net;
    struct weights_metadata out = {0}, in = {0};
    net_init(&net, net_config_p0());
    float *a = support_parameters(&net, 4), *b = support_alloc(net.n_parameters * sizeof *b);
    weights_metadata_set(&out, "training", "quote \" back \\ newline \n \303\251");
    weights_metadata_set(&out, "version", "1");
    weights_metadata_set(&out, "version", "2");
    CHECK_OK(weights_save("w.safetensors", &net, a, &out, &why));
    CHECK_OK(weights_load("w.safetensors", &net, b, &in, &why));
    support_equal("parameters", b, a, net.n_parameters);
    CHECK_INT(in.n_pairs, 2);
    CHECK_STR(weights_metadata_get(&in, "training"), "quote \" back \\ newline \n \303\251");
    CHECK_STR(weights_metadata_get(&in, "version"), "2");
    CHECK(weights_metadata_get(&in, "absent") == NULL);
    free(a);
    free(b);
}

static void parameter_count(void)
{
    struct net net;
    net_init(&net, net_config_p0());
    CHECK_INT(net.n_parameters, 2109697);
    CHECK_STR(net.tensors[0].name, "encoder.head.0.weight");
    CHECK_STR(net.tensors[net.n_tensors - 1].name, "imnet.layers.8.bias");
    CHECK_INT(net.n_tensors, 52);
}

// A decoder with four inputs more, as could once be trained: refused by name, with both shapes.
static void wider_decoder(void)
{
    struct fault_note why = {0};
    struct net net, wide;
    size_t more = 0;
    net_init(&net, net_config_p0());
    wide = net;
    for (int i = 0; i < wide.n_tensors; i++) {
        struct net_tensor *tensor = &wide.tensors[i];
        tensor->offset += more;
        if (strcmp(tensor->name, "imnet.layers.0.weight") == 0) {
            more = 4 * (size_t)tensor->shape[0];
            tensor->shape[1] += 4;
            tensor->count += more;
        }
    }
    CHECK_INT(more, 1024);
    wide.n_parameters += more;
    float *p = support_random(5, wide.n_parameters, -1, 1), *got = support_random(6, net.n_parameters, 1, 2);
    float before = got[0];
    CHECK_OK(weights_save("wide.safetensors", &wide, p, NULL, &why));
    CHECK_FAULT(weights_load("wide.safetensors", &net, got, NULL, &why), FAULT_WEIGHTS);
    CHECK_CONTAINS(why.text, "tensor 'imnet.layers.0.weight' of weights file 'wide.safetensors' is 256x68, "
                             "the network's is 256x64");
    CHECK_NEAR(got[0], before, 0); // untouched on failure
    free(p);
    free(got);
}

static void start_is_pytorch_like(void)
{
    struct fault_note why = {0};
    struct net net;
    struct weights_metadata metadata = {0};
    net_init(&net, net_config_p0());
    float *p = support_alloc(net.n_parameters * sizeof *p),
          *again = support_alloc(net.n_parameters * sizeof *again);
    CHECK_OK(sr_write_start_weights("start.safetensors", 7, &why));
    CHECK_OK(weights_load("start.safetensors", &net, p, &metadata, &why));
    CHECK_STR(weights_metadata_get(&metadata, "architecture"), "SA-INR P0");
    weights_init(&net, 7, again);
    support_equal("from the same seed", p, again, net.n_parameters);
    for (int i = 0; i + 2 < net.n_tensors; i++) { // all but the last layer
        const struct net_tensor *tensor = &net.tensors[i];
        double bound = 1 / sqrt(tensor->fan_in), most = 0;
        for (size_t k = 0; k < tensor->count; k++)
            most = fabs((double)p[tensor->offset + k]) > most ? fabs((double)p[tensor->offset + k]) : most;
        if (!(most <= bound && most > 0.8 * bound))
            CHECK_FAIL("%s reaches %g, bound %g", tensor->name, most, bound);
    }
    const struct net_linear *last = &net.linears[net.n_linears - 1];
    for (int i = 0; i < last->n_in; i++)
        CHECK_NEAR(p[last->weight + (size_t)i], 0, 0);
    CHECK_NEAR(p[last->bias], 0, 0);
    free(p);
    free(again);
}

// A file written by hand: half precision, one tensor after the other in any order.
static void half_precision(void)
{
    struct fault_note why = {0};
    struct net net;
    char header[8192] = "{", shape[64];
    size_t at = 1, n = 0;
    net_init(&net, toy);
    for (int i = net.n_tensors - 1; i >= 0; i--) {
        const struct net_tensor *tensor = &net.tensors[i];
        size_t used = 0;
        for (int k = 0; k < tensor->n_dims; k++)
            used +=
                (size_t)snprintf(shape + used, sizeof shape - used, "%s%d", k ? ", " : "", tensor->shape[k]);
        at += (size_t)snprintf(header + at, sizeof header - at,
                               "%s \"%s\" :\n{\"data_offsets\":[%zu,%zu], \"shape\":[%s],\"dtype\":\"F16\"}",
                               i + 1 < net.n_tensors ? "," : "", tensor->name, n * 2, (n + tensor->count) * 2,
                               shape);
        n += tensor->count;
    }
    at += (size_t)snprintf(header + at, sizeof header - at, "}");
    size_t size = 8 + at + n * 2;
    unsigned char *file = support_alloc(size);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)(at >> (8 * i));
    memcpy(file + 8, header, at);
    for (size_t i = 0; i < n; i++) { // -1.5 everywhere, but a subnormal at the very first
        file[8 + at + 2 * i] = i == 0 ? 0x01 : 0x00;
        file[8 + at + 2 * i + 1] = i == 0 ? 0x00 : 0xBE;
    }
    float *p = support_alloc(net.n_parameters * sizeof *p);
    CHECK_OK(weights_parse(file, size, "half", &net, p, NULL, &why));
    CHECK_NEAR(p[0], -1.5, 0);
    CHECK_NEAR(p[net.tensors[net.n_tensors - 1].offset], 0x1p-24, 0);
    free(p);
    free(file);
}

static void truncated(void)
{
    struct fault_note why = {0};
    struct net net;
    size_t size;
    unsigned char *data = sound_file(&net, &size);
    float *p = support_alloc(net.n_parameters * sizeof *p);
    CHECK_OK(weights_parse(data, size, "whole", &net, p, NULL, &why));
    for (size_t n = 0; n < size;
         n++) { // in a block of its own, so that a byte too far is seen by a sanitizer
        unsigned char *cut = malloc(n ? n : 1);
        CHECK(cut != NULL);
        memcpy(cut, data, n);
        CHECK_FAULT(weights_parse(cut, n, "cut", &net, p, NULL, &why), FAULT_WEIGHTS);
        free(cut);
    }
    free(p);
    free(data);
}

// Every byte of the header replaced by others: a fault or a sound result, never a crash.
static void garbled(void)
{
    struct fault_note why = {0};
    struct net net;
    size_t size;
    unsigned char *data = sound_file(&net, &size);
    float *p = support_alloc(net.n_parameters * sizeof *p);
    const unsigned char bytes[] = {0, '"', '\\', '{', '}', '[', '9', ',', 0xFF};
    size_t header = (size_t)data[0] + 256 * (size_t)data[1], refused = 0;
    for (size_t at = 0; at < 8 + header; at++)
        for (size_t i = 0; i < sizeof bytes; i++) {
            unsigned char old = data[at];
            data[at] = bytes[i];
            int rc = weights_parse(data, size, "garbled", &net, p, NULL, &why);
            CHECK(rc == 0 || rc == FAULT_WEIGHTS);
            refused += rc != 0;
            data[at] = old;
        }
    CHECK(refused > 8 * header); // spaces at the end and in between are all that may change
    free(p);
    free(data);
}

static void huge_header(void)
{
    struct fault_note why = {0};
    struct net net;
    size_t size;
    unsigned char *data = sound_file(&net, &size);
    float *p = support_alloc(net.n_parameters * sizeof *p);
    memset(data, 0xFF, 8);
    CHECK_FAULT(weights_parse(data, size, "huge", &net, p, NULL, &why), FAULT_WEIGHTS);
    CHECK_CONTAINS(why.text, "announces a header of 18446744073709551615 bytes");
    free(p);
    free(data);
}

static void wrong_shape(void)
{
    spoil("\"shape\":[2,1,3,3,3]", "\"shape\":[1,2,3,3,3]",
          "'encoder.head.0.weight' of weights file 'spoilt' is 1x2x3x3x3");
}

static void unknown_tensor(void)
{
    spoil("imnet.layers.2.bias", "imnet.layers.9.bias",
          "has a tensor 'imnet.layers.9.bias' that the network has not");
}

static void missing_tensor(void)
{
    struct fault_note why = {0};
    struct net net;
    size_t size;
    unsigned char *data = sound_file(&net, &size);
    struct net_config larger = toy;
    larger.blocks = 2;
    net_init(&net, larger);
    float *p = support_alloc(net.n_parameters * sizeof *p);
    CHECK_FAULT(weights_parse(data, size, "small", &net, p, NULL, &why), FAULT_WEIGHTS);
    CHECK_CONTAINS(why.text, "encoder.body.1.");
    free(p);
    free(data);
}

static void overlapping(void)
{
    spoil("\"data_offsets\":[216,224]", "\"data_offsets\":[208,216]", "tensors overlap or leave a hole");
}

static void outside(void)
{
    spoil("\"data_offsets\":[216,224]", "\"data_offsets\":[216,999]",
          "lies at bytes 216 to 999, but needs 8 of the");
}

static void other_dtype(void)
{
    spoil("\"F32\"", "\"F64\"", "is F64, not F32 or F16");
}

static void not_finite(void)
{
    struct fault_note why = {0};
    struct net net;
    net_init(&net, toy);
    float *p = support_alloc(net.n_parameters * sizeof *p);
    p[net.n_parameters - 1] = NAN;
    CHECK_OK(weights_save("nan.safetensors", &net, p, NULL, &why));
    CHECK_FAULT(weights_load("nan.safetensors", &net, p, NULL, &why), FAULT_WEIGHTS);
    CHECK_CONTAINS(
        why.text, "'imnet.layers.2.bias' of weights file 'nan.safetensors' holds a value that is not finite");
    free(p);
}

static void absent(void)
{
    struct fault_note why = {0};
    struct net net;
    net_init(&net, toy);
    float *p = support_alloc(net.n_parameters * sizeof *p);
    CHECK_FAULT(weights_load("absent.safetensors", &net, p, NULL, &why), FAULT_IO);
    free(p);
}

static const struct test tests[] = {
    {"unit.weights.written_is_read", written_is_read},
    {"unit.weights.half_precision", half_precision},
    {"unit.weights.start_is_pytorch_like", start_is_pytorch_like},
    {"unit.weights.truncated", truncated},
    {"fuzz.weights.garbled", garbled},
    {"unit.weights.huge_header", huge_header},
    {"unit.weights.wrong_shape", wrong_shape},
    {"unit.weights.unknown_tensor", unknown_tensor},
    {"unit.weights.missing_tensor", missing_tensor},
    {"unit.weights.overlapping", overlapping},
    {"unit.weights.outside", outside},
    {"unit.weights.other_dtype", other_dtype},
    {"unit.weights.not_finite", not_finite},
    {"unit.weights.absent", absent},
    {"unit.weights.wider_decoder", wider_decoder},
    {"unit.net.parameter_count", parameter_count},
};

TEST_MAIN(tests)
