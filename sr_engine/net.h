// SPDX-License-Identifier: Apache-2.0
//
// Where every parameter of the network lies. All parameters are one arena of floats; gradients and Adam's
// moments are arenas of the same layout, so that the optimiser is one loop and a weights file one copy. Not
// here: values (weights.h) and what is computed with them (ops.h, model.h). Everything in sr_engine and cuda
// may include this.

#ifndef ISOSLICE_SR_ENGINE_NET_H
#define ISOSLICE_SR_ENGINE_NET_H

#include <stddef.h>

enum {
    NET_MAX_BLOCKS = 8,
    NET_MAX_CONVS = 2 * NET_MAX_BLOCKS + 2,
    NET_MAX_LINEARS = 8,
    NET_MAX_TENSORS = 2 * (NET_MAX_CONVS + 3 + NET_MAX_LINEARS),
    NET_WINDOW = 7,                                // columns and rows of the attention window
    NET_WINDOW_SIZE = 2 * NET_WINDOW * NET_WINDOW, // neighbours of one query: both slices
};

// The sizes of an SA-INR. net_config_p0() is the only one that weights files hold; smaller ones serve the
// tests.
struct net_config {
    int channels;      // of every feature map
    int blocks;        // residual blocks of the encoder, 1..NET_MAX_BLOCKS
    int hidden;        // units of a hidden layer of the decoder
    int hidden_layers; // 1..NET_MAX_LINEARS - 1
    int dilation;      // in-plane distance of neighbours in the attention window, voxels
};

// One tensor as the weights file names and shapes it (row-major, last axis fastest).
// Convolution kernels are [out,in,x,y,z] with x = column, y = row, z = slice: the order of the authors' state
// dict.
struct net_tensor {
    char name[48];
    int n_dims;
    int shape[5];
    size_t offset; // first value in the arena
    size_t count;  // number of values
    int fan_in;    // inputs that one output value sums over
};

// A 3x3x3 convolution with zero padding 1; weight and bias are offsets in the arena.
struct net_conv {
    int c_in, c_out;
    size_t weight, bias;
};

// y = W x + b, W [out,in].
struct net_linear {
    int n_in, n_out;
    size_t weight, bias;
};

struct net {
    struct net_config config;
    int n_tensors;
    struct net_tensor tensors[NET_MAX_TENSORS];
    int n_convs; // 0: head; 2j-1 and 2j: the convolutions of block j; last: tail
    struct net_conv convs[NET_MAX_CONVS];
    struct net_linear query, key, value; // of the window attention
    int n_linears;
    struct net_linear linears[NET_MAX_LINEARS]; // the decoder's layers; the last has one output
    size_t n_parameters;
};

// The network of the paper: 64 channels, 8 blocks, 4 x 256 hidden units, dilation 2; 2,109,697 parameters.
// Source: SA-INR Encoder, AttentionLayer, MLP, with the options of the released SAINR.yaml.
struct net_config net_config_p0(void);

// What weights files call the network.
extern const char net_architecture[];

// Lays the arena out, in the order in which the authors' state dict lists its tensors.
void net_init(struct net *net, struct net_config config);

#endif
