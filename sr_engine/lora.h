// SPDX-License-Identifier: Apache-2.0
//
// Fine-tuning by corrections of low rank: every matrix W [out,in] of the network stays as it is and B A is
// added, A [rank,in], B [out,rank]; a convolution kernel [out,in,3,3,3] counts as [out,27 in]. Biases, the
// head (one input channel) and the last layer (one output) are not adapted. The factors' gradients follow
// from those of the whole network on the host, so every backend can do it. Source: Hu et al., arXiv
// 2106.09685, with alpha = rank. Not here: steps and samples (finetune.h).

#ifndef ISOSLICE_SR_ENGINE_LORA_H
#define ISOSLICE_SR_ENGINE_LORA_H

#include "core/fault.h"
#include "sr_engine/net.h"
#include "sr_engine/ops.h"

#include <stdint.h>

enum { LORA_MAX_LAYERS = NET_MAX_CONVS + 3 + NET_MAX_LINEARS };

struct lora_layer {
    size_t weight;   // first value of W in the network's arena
    int n_out, n_in; // its shape as a matrix
    size_t a, b;     // first values of the factors in their own arena
};

// The factors and their optimiser; caller's storage.
struct lora {
    struct net net;     // layout of the factors' arena: NAME.lora_A [rank,in] and NAME.lora_B [out,rank]
    int rank, n_layers; //
    struct lora_layer layers[LORA_MAX_LAYERS];
    size_t n_start;   // parameters of the network
    float *start;     // [n_start] the weights that are corrected
    float *factors;   // [net.n_parameters]
    float *gradients; // [net.n_parameters]
    float *moment1;   // [net.n_parameters]
    float *moment2;   // [net.n_parameters]
};

// Takes over `parameters` [net->n_parameters] as what is corrected. A is uniform in +-1/sqrt(in) from `seed`,
// B zero, so that nothing changes at first. Errors: NO_MEMORY; nothing is held then.
int lora_open(struct lora *lora, const struct net *net, int rank, uint64_t seed, const float *parameters,
              struct fault_note *why);
// A struct that was zeroed but never opened is fine.
void lora_close(struct lora *lora);

// One step of Adam on the factors, given the gradients of the whole network [n_start].
void lora_step(struct lora *lora, struct sr_adam adam, const float *gradients);
// The corrected weights into parameters [n_start].
void lora_apply(const struct lora *lora, float *parameters);

#endif
