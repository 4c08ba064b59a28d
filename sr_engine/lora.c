// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/lora.h"

#include "sr_engine/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANDOM_LORA = 23 };

static size_t add_factor(struct net *layout, const char *name, const char *factor, int rows, int columns)
{
    struct net_tensor *tensor = &layout->tensors[layout->n_tensors++];
    size_t stem = strlen(name) - strlen(".weight");
    snprintf(tensor->name, sizeof tensor->name, "%.*s.lora_%s", (int)stem, name, factor);
    tensor->n_dims = 2;
    tensor->shape[0] = rows;
    tensor->shape[1] = columns;
    tensor->count = (size_t)rows * (size_t)columns;
    tensor->fan_in = columns;
    tensor->offset = layout->n_parameters;
    layout->n_parameters += tensor->count;
    return tensor->offset;
}

static void lay_out(struct lora *lora, const struct net *net)
{
    lora->net.config = net->config;
    for (int i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *tensor = &net->tensors[i];
        int n_out = tensor->shape[0], n_in = tensor->fan_in;
        if (tensor->n_dims == 1 || n_out == 1 || (tensor->n_dims == 5 && tensor->shape[1] == 1))
            continue;
        struct lora_layer *layer = &lora->layers[lora->n_layers++];
        *layer = (struct lora_layer){.weight = tensor->offset, .n_out = n_out, .n_in = n_in};
        layer->a = add_factor(&lora->net, tensor->name, "A", lora->rank, n_in);
        layer->b = add_factor(&lora->net, tensor->name, "B", n_out, lora->rank);
    }
}

int lora_open(struct lora *lora, const struct net *net, int rank, uint64_t seed, const float *parameters,
              struct fault_note *why)
{
    memset(lora, 0, sizeof *lora);
    lora->rank = rank;
    lay_out(lora, net);
    size_t n = lora->net.n_parameters;
    lora->n_start = net->n_parameters;
    lora->start = malloc(lora->n_start * sizeof *lora->start);
    lora->factors = calloc(4 * n, sizeof *lora->factors);
    if (lora->start == NULL || lora->factors == NULL) {
        lora_close(lora);
        return fault_set(why, FAULT_NO_MEMORY, "no memory for corrections of rank %d", rank);
    }
    lora->gradients = lora->factors + n;
    lora->moment1 = lora->gradients + n;
    lora->moment2 = lora->moment1 + n;
    memcpy(lora->start, parameters, lora->n_start * sizeof *parameters);
    for (int l = 0; l < lora->n_layers; l++) {
        const struct lora_layer *layer = &lora->layers[l];
        struct random_stream stream = random_open(seed, RANDOM_LORA, (uint64_t)l);
        double bound = 1 / sqrt(layer->n_in);
        for (int i = 0; i < rank * layer->n_in; i++)
            lora->factors[layer->a + (size_t)i] = (float)(bound * (2 * random_unit(&stream) - 1));
    }
    return 0;
}

void lora_close(struct lora *lora)
{
    free(lora->start);
    free(lora->factors);
    lora->start = lora->factors = lora->gradients = lora->moment1 = lora->moment2 = NULL;
}

// dB = dW A^T and dA = B^T dW.
static void layer_gradients(const struct lora *lora, const struct lora_layer *layer, const float *dw)
{
    const float *a = lora->factors + layer->a, *b = lora->factors + layer->b;
    float *da = lora->gradients + layer->a, *db = lora->gradients + layer->b;
    size_t n_in = (size_t)layer->n_in, rank = (size_t)lora->rank;
    memset(da, 0, rank * n_in * sizeof *da);
    for (size_t o = 0; o < (size_t)layer->n_out; o++)
        for (size_t r = 0; r < rank; r++) {
            const float *row = dw + o * n_in, *ar = a + r * n_in;
            float *dar = da + r * n_in, share = b[o * rank + r], sum = 0;
            for (size_t i = 0; i < n_in; i++) {
                sum += row[i] * ar[i];
                dar[i] += share * row[i];
            }
            db[o * rank + r] = sum;
        }
}

void lora_step(struct lora *lora, struct sr_adam adam, const float *gradients)
{
    for (int l = 0; l < lora->n_layers; l++)
        layer_gradients(lora, &lora->layers[l], gradients + lora->layers[l].weight);
    double correct1 = 1 - pow((double)adam.beta1, adam.step),
           correct2 = 1 - pow((double)adam.beta2, adam.step);
    for (size_t i = 0; i < lora->net.n_parameters; i++) {
        double g = (double)lora->gradients[i];
        double m = (double)adam.beta1 * (double)lora->moment1[i] + (1 - (double)adam.beta1) * g;
        double v = (double)adam.beta2 * (double)lora->moment2[i] + (1 - (double)adam.beta2) * g * g;
        lora->moment1[i] = (float)m;
        lora->moment2[i] = (float)v;
        lora->factors[i] -=
            (float)((double)adam.rate * (m / correct1) / (sqrt(v / correct2) + (double)adam.epsilon));
    }
}

void lora_apply(const struct lora *lora, float *parameters)
{
    memcpy(parameters, lora->start, lora->n_start * sizeof *parameters);
    for (int l = 0; l < lora->n_layers; l++) {
        const struct lora_layer *layer = &lora->layers[l];
        size_t n_in = (size_t)layer->n_in, rank = (size_t)lora->rank;
        for (size_t o = 0; o < (size_t)layer->n_out; o++)
            for (size_t r = 0; r < rank; r++) {
                const float *a = lora->factors + layer->a + r * n_in;
                float *w = parameters + layer->weight + o * n_in;
                float share = lora->factors[layer->b + o * rank + r];
                for (size_t i = 0; i < n_in; i++)
                    w[i] += share * a[i];
            }
    }
}
