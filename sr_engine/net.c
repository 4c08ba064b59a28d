// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/net.h"

#include <stdio.h>
#include <string.h>

const char net_architecture[] = "SA-INR P0";

struct net_config net_config_p0(void)
{
    return (struct net_config){.channels = 64, .blocks = 8, .hidden = 256, .hidden_layers = 4, .dilation = 2};
}

static size_t add_tensor(struct net *net, const char *layer, const char *part, int n_dims, const int *shape,
                         int fan_in)
{
    struct net_tensor *tensor = &net->tensors[net->n_tensors++];
    snprintf(tensor->name, sizeof tensor->name, "%s.%s", layer, part);
    tensor->n_dims = n_dims;
    tensor->count = 1;
    for (int i = 0; i < n_dims; i++) {
        tensor->shape[i] = shape[i];
        tensor->count *= (size_t)shape[i];
    }
    tensor->fan_in = fan_in;
    tensor->offset = net->n_parameters;
    net->n_parameters += tensor->count;
    return tensor->offset;
}

static void add_conv(struct net *net, const char *layer, int c_in, int c_out)
{
    struct net_conv *conv = &net->convs[net->n_convs++];
    conv->c_in = c_in;
    conv->c_out = c_out;
    conv->weight = add_tensor(net, layer, "weight", 5, (const int[]){c_out, c_in, 3, 3, 3}, c_in * 27);
    conv->bias = add_tensor(net, layer, "bias", 1, &c_out, c_in * 27);
}

static struct net_linear add_linear(struct net *net, const char *layer, int n_in, int n_out)
{
    struct net_linear linear = {.n_in = n_in, .n_out = n_out};
    linear.weight = add_tensor(net, layer, "weight", 2, (const int[]){n_out, n_in}, n_in);
    linear.bias = add_tensor(net, layer, "bias", 1, &n_out, n_in);
    return linear;
}

void net_init(struct net *net, struct net_config config)
{
    char layer[40];
    memset(net, 0, sizeof *net);
    net->config = config;
    add_conv(net, "encoder.head.0", 1, config.channels);
    for (int block = 0; block < config.blocks; block++)
        for (int i = 0; i < 3; i += 2) { // body.1 is the ReLU
            snprintf(layer, sizeof layer, "encoder.body.%d.body.%d", block, i);
            add_conv(net, layer, config.channels, config.channels);
        }
    snprintf(layer, sizeof layer, "encoder.body.%d", config.blocks);
    add_conv(net, layer, config.channels, config.channels);
    net->query = add_linear(net, "attentionLayer.q", config.channels, config.channels);
    net->key = add_linear(net, "attentionLayer.k", config.channels, config.channels);
    net->value = add_linear(net, "attentionLayer.v", config.channels, config.channels);
    for (int i = 0; i <= config.hidden_layers; i++) {
        snprintf(layer, sizeof layer, "imnet.layers.%d", 2 * i);
        net->linears[net->n_linears++] = add_linear(net, layer, i == 0 ? config.channels : config.hidden,
                                                    i == config.hidden_layers ? 1 : config.hidden);
    }
}
