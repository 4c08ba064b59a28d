// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/support.h"

#include "sr_engine/random.h"
#include "sr_engine/weights.h"

#include <unistd.h>

float *support_random(uint64_t seed, size_t n, double low, double high)
{
    float *values = support_alloc(n * sizeof *values);
    struct random_stream stream = random_open(seed, 77, 0);
    for (size_t i = 0; i < n; i++)
        values[i] = (float)(low + (high - low) * random_unit(&stream));
    return values;
}

void *support_alloc(size_t bytes)
{
    void *memory = calloc(bytes ? bytes : 1, 1);
    CHECK(memory != NULL);
    return memory;
}

void support_close(const char *what, const float *got, const float *want, size_t n, double limit,
                   double floor)
{
    double most = 0, off = 0;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!isfinite(got[i]))
            CHECK_FAIL("%s: value %zu of %zu is %g, not %g", what, i, n, (double)got[i], (double)want[i]);
        most = fabs((double)want[i]) > most ? fabs((double)want[i]) : most;
        if (d > off) {
            off = d;
            at = i;
        }
    }
    if (!(off <= limit * most + floor))
        CHECK_FAIL("%s: value %zu of %zu is %.9g, not %.9g: off by %.3g of max %.3g, limit %.1g", what, at, n,
                   (double)got[at], (double)want[at], off, most, limit * most + floor);
    printf("%s: off by %.2g of max %.3g\n", what, off, most);
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

int support_differ(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bits_of(a[i]) != bits_of(b[i]))
            return 1;
    return 0;
}

void support_close_gradients(const struct net *net, const float *got, const float *want)
{
    for (int i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *tensor = &net->tensors[i];
        // the key's bias moves all scores alike: its true gradient is zero, what is left is rounding
        int inert = tensor->offset == net->key.bias;
        support_close(tensor->name, got + tensor->offset, want + tensor->offset, tensor->count,
                      inert ? 0 : 1e-4, inert ? 1e-6 : 0);
    }
}

void support_equal(const char *what, const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bits_of(got[i]) != bits_of(want[i]))
            CHECK_FAIL("%s: value %zu of %zu is %.9g, not %.9g", what, i, n, (double)got[i], (double)want[i]);
}

const struct sr_ops *support_ops(const char *name)
{
    const struct sr_ops *ops;
    struct fault_note why = {0};
    CHECK_OK(ops_find(name, &ops, &why));
    return ops;
}

struct sr_buffer *support_buffer(const struct sr_ops *ops, struct sr_device *device, struct sr_extent extent,
                                 int channels, const float *from)
{
    struct sr_buffer *buffer;
    struct fault_note why = {0};
    CHECK_OK(ops->buffer_new(device, extent, channels, &buffer, &why));
    if (from != NULL)
        CHECK_OK(ops->upload(device, buffer, from, &why));
    return buffer;
}

float *support_values(const struct sr_ops *ops, struct sr_device *device, const struct sr_buffer *buffer,
                      size_t n)
{
    struct fault_note why = {0};
    float *values = support_alloc(n * sizeof *values);
    CHECK_OK(ops->download(device, buffer, values, &why));
    return values;
}

float *support_read_floats(const char *path, size_t n)
{
    float *values = support_alloc(n * sizeof *values);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        CHECK_FAIL("cannot open '%s'", path);
    size_t got = fread(values, sizeof *values, n, file);
    int more = fgetc(file);
    fclose(file);
    if (got != n || more != EOF)
        CHECK_FAIL("'%s' holds %zu floats%s, not %zu", path, got, more != EOF ? " and more" : "", n);
    return values;
}

const char *support_shared(void)
{
    const char *shared = getenv("ISOSLICE_SHARED");
    if (shared == NULL)
        shared = ISOSLICE_SHARED_DEFAULT;
    if (access(shared, R_OK) != 0)
        SKIP("no shared data");
    return shared;
}

float *support_parameters(const struct net *net, uint64_t seed)
{
    float *parameters = support_alloc(net->n_parameters * sizeof *parameters);
    weights_init(net, seed, parameters);
    struct random_stream stream = random_open(seed, 78, 0);
    const struct net_linear *last = &net->linears[net->n_linears - 1];
    for (int i = 0; i < last->n_in; i++)
        parameters[last->weight + (size_t)i] = (float)(random_unit(&stream) - 0.5) * 0.2F;
    parameters[last->bias] = 0.03F;
    for (size_t i = 0; i < (size_t)net->query.n_in * (size_t)net->query.n_out; i++) {
        parameters[net->query.weight + i] *= 4;
        parameters[net->key.weight + i] *= 4;
    }
    return parameters;
}
