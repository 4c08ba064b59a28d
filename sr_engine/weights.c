// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/weights.h"

#include "core/file.h"
#include "core/quote.h"
#include "sr_engine/engine.h"
#include "sr_engine/random.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PREFIX_BYTES = 8, MAX_NAME = 128, MAX_TENSORS_IN_FILE = NET_MAX_TENSORS, RANDOM_INIT = 1 };

const char *weights_metadata_get(const struct weights_metadata *metadata, const char *key)
{
    for (int i = 0; i < metadata->n_pairs; i++)
        if (strcmp(metadata->pairs[i].key, key) == 0)
            return metadata->pairs[i].value;
    return NULL;
}

void weights_metadata_set(struct weights_metadata *metadata, const char *key, const char *value)
{
    int i = 0;
    while (i < metadata->n_pairs && strcmp(metadata->pairs[i].key, key) != 0)
        i++;
    if (i == WEIGHTS_MAX_METADATA)
        return;
    if (i == metadata->n_pairs)
        metadata->n_pairs++;
    snprintf(metadata->pairs[i].key, sizeof metadata->pairs[i].key, "%s", key);
    snprintf(metadata->pairs[i].value, sizeof metadata->pairs[i].value, "%s", value);
}

// --------------------------------------------------------------------------------------------- header:
// strict JSON

// Only what a safetensors header can hold: objects of strings, arrays of non-negative integers.
struct json {
    const char *at, *end;
    const char *file;
    struct fault_note *why;
};

struct entry {
    char name[MAX_NAME];
    int is_half;
    int n_dims;
    int shape[5];
    uint64_t begin, end;
};

static int json_fail(const struct json *json, const char *what)
{
    fault_set(json->why, FAULT_WEIGHTS, "malformed header of weights file '%s': %s", json->file, what);
    return FAULT_WEIGHTS;
}

static void json_space(struct json *json)
{
    while (json->at < json->end &&
           (*json->at == ' ' || *json->at == '\t' || *json->at == '\n' || *json->at == '\r'))
        json->at++;
}

// 1 and past it when the next character is `c`.
static int json_take(struct json *json, char c)
{
    json_space(json);
    if (json->at == json->end || *json->at != c)
        return 0;
    json->at++;
    return 1;
}

static int json_hex4(struct json *json, unsigned *code)
{
    *code = 0;
    if (json->end - json->at < 4)
        return json_fail(json, "a \\u escape is cut off");
    for (int i = 0; i < 4; i++) {
        char c = *json->at++;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return json_fail(json, "a \\u escape has a character that is no hex digit");
        *code = *code * 16 + (unsigned)digit;
    }
    return 0;
}

// UTF-8 of one code point appended at *n, as long as it fits; text that does not fit is cut.
static void put_utf8(char *out, size_t size, size_t *n, unsigned code)
{
    char bytes[4];
    size_t count = 0;
    if (code < 0x80) {
        bytes[count++] = (char)code;
    } else if (code < 0x800) {
        bytes[count++] = (char)(0xC0 | (code >> 6));
        bytes[count++] = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        bytes[count++] = (char)(0xE0 | (code >> 12));
        bytes[count++] = (char)(0x80 | ((code >> 6) & 0x3F));
        bytes[count++] = (char)(0x80 | (code & 0x3F));
    } else {
        bytes[count++] = (char)(0xF0 | (code >> 18));
        bytes[count++] = (char)(0x80 | ((code >> 12) & 0x3F));
        bytes[count++] = (char)(0x80 | ((code >> 6) & 0x3F));
        bytes[count++] = (char)(0x80 | (code & 0x3F));
    }
    if (*n + count < size) {
        memcpy(out + *n, bytes, count);
        *n += count;
    }
}

static int json_escape(struct json *json, unsigned *code)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (json->at == json->end)
        return json_fail(json, "a string is cut off");
    char c = *json->at++;
    const char *plain = c != '\0' ? strchr(from, c) : NULL;
    if (plain != NULL) {
        *code = (unsigned char)to[plain - from];
        return 0;
    }
    if (c != 'u')
        return json_fail(json, "a string has an unknown escape");
    int rc = json_hex4(json, code);
    if (rc != 0 || *code < 0xD800 || *code > 0xDFFF)
        return rc != 0 ? rc : *code == 0 ? json_fail(json, "a string holds a zero character") : 0;
    unsigned low;
    if (*code > 0xDBFF || json->end - json->at < 2 || json->at[0] != '\\' || json->at[1] != 'u')
        return json_fail(json, "a surrogate stands alone");
    json->at += 2;
    rc = json_hex4(json, &low);
    if (rc == 0 && (low < 0xDC00 || low > 0xDFFF))
        rc = json_fail(json, "a surrogate stands alone");
    *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
    return rc;
}

static int json_string(struct json *json, char *out, size_t size)
{
    size_t n = 0;
    if (!json_take(json, '"'))
        return json_fail(json, "a string is expected");
    for (;;) {
        if (json->at == json->end)
            return json_fail(json, "a string is cut off");
        unsigned char c = (unsigned char)*json->at++;
        if (c == '"')
            break;
        if (c < 0x20)
            return json_fail(json, "a string holds a control character");
        if (c == '\\') {
            unsigned code;
            int rc = json_escape(json, &code);
            if (rc != 0)
                return rc;
            put_utf8(out, size, &n, code);
        } else if (n + 1 < size) {
            out[n++] = (char)c;
        }
    }
    out[n] = '\0';
    return 0;
}

static int json_count(struct json *json, uint64_t *value)
{
    json_space(json);
    const char *start = json->at;
    *value = 0;
    while (json->at < json->end && *json->at >= '0' && *json->at <= '9') {
        if (*value > (UINT64_MAX >> 1) / 10)
            return json_fail(json, "a number is too large");
        *value = *value * 10 + (uint64_t)(*json->at++ - '0');
    }
    if (json->at == start || (json->at - start > 1 && *start == '0'))
        return json_fail(json, "a whole number is expected");
    return 0;
}

// [n, n, ...] of at most `limit` numbers.
static int json_counts(struct json *json, uint64_t *values, int limit, int *n)
{
    *n = 0;
    if (!json_take(json, '['))
        return json_fail(json, "a list of numbers is expected");
    if (json_take(json, ']'))
        return 0;
    do {
        if (*n == limit)
            return json_fail(json, "a list has too many numbers");
        int rc = json_count(json, &values[(*n)++]);
        if (rc != 0)
            return rc;
    } while (json_take(json, ','));
    return json_take(json, ']') ? 0 : json_fail(json, "a list does not end");
}

static int read_metadata(struct json *json, struct weights_metadata *metadata)
{
    if (!json_take(json, '{'))
        return json_fail(json, "__metadata__ is no object");
    if (json_take(json, '}'))
        return 0;
    do {
        struct weights_pair pair;
        int rc = json_string(json, pair.key, sizeof pair.key);
        if (rc != 0)
            return rc;
        if (!json_take(json, ':'))
            return json_fail(json, "a colon is missing");
        rc = json_string(json, pair.value, sizeof pair.value);
        if (rc != 0)
            return rc;
        weights_metadata_set(metadata, pair.key, pair.value);
    } while (json_take(json, ','));
    return json_take(json, '}') ? 0 : json_fail(json, "__metadata__ does not end");
}

static int read_dtype(struct json *json, struct entry *entry)
{
    char text[16];
    int rc = json_string(json, text, sizeof text);
    if (rc != 0)
        return rc;
    entry->is_half = strcmp(text, "F16") == 0;
    if (!entry->is_half && strcmp(text, "F32") != 0)
        return fault_set(json->why, FAULT_WEIGHTS,
                         "tensor '%.60s' of weights file '%s' is %s, not F32 or F16", entry->name, json->file,
                         text);
    return 0;
}

static int read_shape(struct json *json, struct entry *entry)
{
    uint64_t numbers[5];
    int rc = json_counts(json, numbers, 5, &entry->n_dims);
    for (int i = 0; rc == 0 && i < entry->n_dims; i++) {
        if (numbers[i] > INT32_MAX)
            rc = json_fail(json, "a shape is too large");
        else
            entry->shape[i] = (int)numbers[i];
    }
    return rc;
}

static int read_entry(struct json *json, struct entry *entry)
{
    int seen = 0;
    if (!json_take(json, '{'))
        return json_fail(json, "a tensor's entry is no object");
    do {
        char key[32];
        int bit = 0, rc = json_string(json, key, sizeof key);
        if (rc == 0 && !json_take(json, ':'))
            rc = json_fail(json, "a colon is missing");
        if (rc != 0)
            return rc;
        if (strcmp(key, "dtype") == 0) {
            bit = 1;
            rc = read_dtype(json, entry);
        } else if (strcmp(key, "shape") == 0) {
            bit = 2;
            rc = read_shape(json, entry);
        } else if (strcmp(key, "data_offsets") == 0) {
            uint64_t offsets[2];
            int n;
            bit = 4;
            rc = json_counts(json, offsets, 2, &n);
            if (rc == 0 && n != 2)
                rc = json_fail(json, "data_offsets are not two numbers");
            if (rc == 0) {
                entry->begin = offsets[0];
                entry->end = offsets[1];
            }
        } else {
            rc = json_fail(json, "a tensor's entry has an unknown key");
        }
        if (rc != 0)
            return rc;
        if (seen & bit)
            return json_fail(json, "a key of a tensor's entry comes twice");
        seen |= bit;
    } while (json_take(json, ','));
    if (!json_take(json, '}') || seen != 7)
        return json_fail(json, "a tensor's entry is incomplete");
    return 0;
}

static int read_header(struct json *json, struct entry *entries, int *n_entries,
                       struct weights_metadata *metadata)
{
    int seen_metadata = 0;
    *n_entries = 0;
    if (!json_take(json, '{'))
        return json_fail(json, "it is no JSON object");
    if (!json_take(json, '}')) {
        do {
            char name[MAX_NAME];
            int rc = json_string(json, name, sizeof name);
            if (rc == 0 && !json_take(json, ':'))
                rc = json_fail(json, "a colon is missing");
            if (rc != 0)
                return rc;
            if (strcmp(name, "__metadata__") == 0) {
                if (seen_metadata++)
                    return json_fail(json, "__metadata__ comes twice");
                rc = read_metadata(json, metadata);
            } else if (*n_entries == MAX_TENSORS_IN_FILE) {
                rc = json_fail(json, "it lists more tensors than the network has");
            } else {
                struct entry *entry = &entries[(*n_entries)++];
                memcpy(entry->name, name, sizeof name);
                rc = read_entry(json, entry);
            }
            if (rc != 0)
                return rc;
        } while (json_take(json, ','));
        if (!json_take(json, '}'))
            return json_fail(json, "it does not end");
    }
    json_space(json);
    return json->at == json->end ? 0 : json_fail(json, "something follows the JSON object");
}

// --------------------------------------------------------------------------------------------- tensors

static float half_to_float(uint16_t half)
{
    int sign = half >> 15, exponent = (half >> 10) & 31, fraction = half & 1023;
    float value = exponent == 0    ? ldexpf((float)fraction, -24)
                  : exponent == 31 ? (fraction != 0 ? NAN : INFINITY)
                                   : ldexpf((float)(fraction + 1024), exponent - 25);
    return sign ? -value : value;
}

static void shape_text(char *out, size_t size, int n_dims, const int *shape)
{
    size_t n = 0;
    out[0] = '\0';
    for (int i = 0; i < n_dims && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, "%s%d", i > 0 ? "x" : "", shape[i]);
}

static int check_entry(const struct entry *entry, const struct net_tensor *tensor, uint64_t data_bytes,
                       const char *file, struct fault_note *why)
{
    char got[64], want[64];
    shape_text(got, sizeof got, entry->n_dims, entry->shape);
    shape_text(want, sizeof want, tensor->n_dims, tensor->shape);
    if (strcmp(got, want) != 0)
        return fault_set(why, FAULT_WEIGHTS, "tensor '%s' of weights file '%s' is %s, the network's is %s",
                         tensor->name, file, got, want);
    uint64_t bytes = (uint64_t)tensor->count * (entry->is_half ? 2 : 4);
    if (entry->end > data_bytes || entry->begin > entry->end || entry->end - entry->begin != bytes)
        return fault_set(why, FAULT_WEIGHTS,
                         "tensor '%s' of weights file '%s' lies at bytes %" PRIu64 " to %" PRIu64
                         ", but needs %" PRIu64 " of the %" PRIu64 " there are",
                         tensor->name, file, entry->begin, entry->end, bytes, data_bytes);
    return 0;
}

static int copy_entry(const struct entry *entry, const unsigned char *data, const struct net_tensor *tensor,
                      const char *file, float *out, struct fault_note *why)
{
    const unsigned char *from = data + entry->begin;
    for (size_t i = 0; i < tensor->count; i++) {
        float value;
        if (entry->is_half) {
            value = half_to_float((uint16_t)(from[2 * i] | from[2 * i + 1] << 8));
        } else {
            uint32_t bits = (uint32_t)from[4 * i] | (uint32_t)from[4 * i + 1] << 8 |
                            (uint32_t)from[4 * i + 2] << 16 | (uint32_t)from[4 * i + 3] << 24;
            memcpy(&value, &bits, sizeof value);
        }
        if (!isfinite(value))
            return fault_set(why, FAULT_WEIGHTS,
                             "tensor '%s' of weights file '%s' holds a value that is not finite",
                             tensor->name, file);
        out[i] = value;
    }
    return 0;
}

static const struct net_tensor *find_tensor(const struct net *net, const char *name)
{
    for (int i = 0; i < net->n_tensors; i++)
        if (strcmp(net->tensors[i].name, name) == 0)
            return &net->tensors[i];
    return NULL;
}

static int by_begin(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static int copy_tensors(struct entry *entries, int n_entries, const unsigned char *data, uint64_t data_bytes,
                        const char *file, const struct net *net, float *parameters, struct fault_note *why)
{
    unsigned char found[NET_MAX_TENSORS] = {0};
    for (int i = 0; i < n_entries; i++) {
        const struct net_tensor *tensor = find_tensor(net, entries[i].name);
        if (tensor == NULL)
            return fault_set(why, FAULT_WEIGHTS,
                             "weights file '%s' has a tensor '%.60s' that the network has not", file,
                             entries[i].name);
        if (found[tensor - net->tensors]++)
            return fault_set(why, FAULT_WEIGHTS, "weights file '%s' lists tensor '%s' twice", file,
                             tensor->name);
        int rc = check_entry(&entries[i], tensor, data_bytes, file, why);
        if (rc == 0)
            rc = copy_entry(&entries[i], data, tensor, file, parameters + tensor->offset, why);
        if (rc != 0)
            return rc;
    }
    for (int i = 0; i < net->n_tensors; i++)
        if (!found[i])
            return fault_set(why, FAULT_WEIGHTS, "weights file '%s' lacks tensor '%s'", file,
                             net->tensors[i].name);
    qsort(entries, (size_t)n_entries, sizeof entries[0], by_begin);
    uint64_t at = 0;
    for (int i = 0; i < n_entries; at = entries[i++].end)
        if (entries[i].begin != at)
            return fault_set(why, FAULT_WEIGHTS,
                             "tensor '%.60s' of weights file '%s' begins at byte %" PRIu64 ", where %" PRIu64
                             " is due: tensors overlap or leave a hole",
                             entries[i].name, file, entries[i].begin, at);
    if (at != data_bytes)
        return fault_set(why, FAULT_WEIGHTS, "weights file '%s' has %" PRIu64 " bytes after its last tensor",
                         file, data_bytes - at);
    return 0;
}

int weights_parse(const void *data, size_t size, const char *name, const struct net *net, float *parameters,
                  struct weights_metadata *metadata, struct fault_note *why)
{
    const unsigned char *bytes = data;
    uint64_t header_bytes = 0;
    struct entry *entries = NULL;
    struct weights_metadata *read = NULL;
    float *values = NULL;
    int n_entries = 0, rc;
    if (size < PREFIX_BYTES)
        return fault_set(why, FAULT_WEIGHTS, "weights file '%s' has %zu bytes and no header", name, size);
    for (int i = PREFIX_BYTES - 1; i >= 0; i--)
        header_bytes = header_bytes << 8 | bytes[i];
    if (header_bytes > size - PREFIX_BYTES || header_bytes > WEIGHTS_MAX_HEADER_BYTES)
        return fault_set(why, FAULT_WEIGHTS,
                         "weights file '%s' announces a header of %" PRIu64 " bytes in a file of %zu", name,
                         header_bytes, size);
    entries = calloc(MAX_TENSORS_IN_FILE, sizeof *entries);
    read = calloc(1, sizeof *read);
    values = malloc(net->n_parameters * sizeof *values);
    if (entries == NULL || read == NULL || values == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory to read weights file '%s'", name);
        goto out;
    }
    struct json json = {.at = (const char *)bytes + PREFIX_BYTES, .file = name, .why = why};
    json.end = json.at + header_bytes;
    rc = read_header(&json, entries, &n_entries, read);
    if (rc == 0)
        rc = copy_tensors(entries, n_entries, bytes + PREFIX_BYTES + header_bytes,
                          size - PREFIX_BYTES - header_bytes, name, net, values, why);
    if (rc == 0) {
        memcpy(parameters, values, net->n_parameters * sizeof *values);
        if (metadata != NULL)
            *metadata = *read;
    }
out:
    free(values);
    free(read);
    free(entries);
    return rc;
}

int weights_load(const char *path, const struct net *net, float *parameters,
                 struct weights_metadata *metadata, struct fault_note *why)
{
    void *data = NULL;
    size_t size;
    int rc = file_read(path, WEIGHTS_MAX_FILE_BYTES, &data, &size, why);
    if (rc == 0)
        rc = weights_parse(data, size, path, net, parameters, metadata, why);
    free(data);
    return rc;
}

// --------------------------------------------------------------------------------------------- writing

static void put_header(FILE *out, const struct net *net, const struct weights_metadata *metadata)
{
    fputs("{\"__metadata__\":{", out);
    for (int i = 0; metadata != NULL && i < metadata->n_pairs; i++) {
        if (i > 0)
            fputc(',', out);
        quote_json(out, metadata->pairs[i].key);
        fputc(':', out);
        quote_json(out, metadata->pairs[i].value);
    }
    fputc('}', out);
    for (int i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *tensor = &net->tensors[i];
        fprintf(out, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", tensor->name);
        for (int k = 0; k < tensor->n_dims; k++)
            fprintf(out, "%s%d", k > 0 ? "," : "", tensor->shape[k]);
        fprintf(out, "],\"data_offsets\":[%zu,%zu]}", tensor->offset * 4,
                (tensor->offset + tensor->count) * 4);
    }
    fputc('}', out);
}

int weights_save(const char *path, const struct net *net, const float *parameters,
                 const struct weights_metadata *metadata, struct fault_note *why)
{
    char *header = NULL;
    size_t header_bytes = 0;
    unsigned char *file = NULL;
    int rc;
    FILE *out = open_memstream(&header, &header_bytes);
    if (out == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory to write weights file '%s'", path);
    put_header(out, net, metadata);
    if (fclose(out) != 0) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory to write weights file '%s'", path);
        goto out;
    }
    size_t padded = (header_bytes + 7) / 8 * 8, size = PREFIX_BYTES + padded + net->n_parameters * 4;
    file = malloc(size);
    if (file == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory to write weights file '%s'", path);
        goto out;
    }
    for (int i = 0; i < PREFIX_BYTES; i++)
        file[i] = (unsigned char)((uint64_t)padded >> (8 * i));
    memcpy(file + PREFIX_BYTES, header, header_bytes);
    memset(file + PREFIX_BYTES + header_bytes, ' ', padded - header_bytes);
    unsigned char *to = file + PREFIX_BYTES + padded;
    for (size_t i = 0; i < net->n_parameters; i++) {
        uint32_t bits;
        memcpy(&bits, &parameters[i], sizeof bits);
        for (int k = 0; k < 4; k++)
            *to++ = (unsigned char)(bits >> (8 * k));
    }
    rc = file_write_atomic(path, file, size, why);
out:
    free(file);
    free(header);
    return rc;
}

void weights_init(const struct net *net, uint64_t seed, float *parameters)
{
    for (int i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *tensor = &net->tensors[i];
        struct random_stream stream = random_open(seed, RANDOM_INIT, (uint64_t)i);
        double bound = 1 / sqrt(tensor->fan_in);
        for (size_t k = 0; k < tensor->count; k++)
            parameters[tensor->offset + k] = (float)(bound * (2 * random_unit(&stream) - 1));
    }
    const struct net_linear *last = &net->linears[net->n_linears - 1];
    memset(parameters + last->weight, 0, (size_t)last->n_in * (size_t)last->n_out * sizeof *parameters);
    memset(parameters + last->bias, 0, (size_t)last->n_out * sizeof *parameters);
}

int weights_wake(const struct net *net, float *parameters)
{
    const struct net_linear *last = &net->linears[net->n_linears - 1];
    const double he = sqrt(6), branch = 1.5, bias = 0.5;
    for (int i = 0; i < last->n_in * last->n_out; i++)
        if (parameters[last->weight + (size_t)i] != 0)
            return 0;
    for (int i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *tensor = &net->tensors[i];
        int is_body = strncmp(tensor->name, "encoder.body.", 13) == 0;
        int is_attention = strncmp(tensor->name, "attentionLayer.", 15) == 0;
        double gain = tensor->n_dims == 1 ? bias : is_body ? branch : he;
        if (is_attention || tensor->offset >= last->weight)
            continue;
        for (size_t k = 0; k < tensor->count; k++)
            parameters[tensor->offset + k] *= (float)gain;
    }
    return 1;
}

int sr_write_start_weights(const char *path, uint64_t seed, struct fault_note *why)
{
    struct net net;
    struct weights_metadata metadata = {0};
    char text[32];
    net_init(&net, net_config_p0());
    float *parameters = malloc(net.n_parameters * sizeof *parameters);
    if (parameters == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for the start weights");
    weights_init(&net, seed, parameters);
    snprintf(text, sizeof text, "%" PRIu64, seed);
    weights_metadata_set(&metadata, "architecture", net_architecture);
    weights_metadata_set(&metadata, "version", "1");
    weights_metadata_set(&metadata, "training", "none: random start, last layer zero");
    weights_metadata_set(&metadata, "seed", text);
    int rc = weights_save(path, &net, parameters, &metadata, why);
    free(parameters);
    return rc;
}
