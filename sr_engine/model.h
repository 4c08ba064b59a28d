// SPDX-License-Identifier: Apache-2.0
//
// The network on a device: what is computed in which order, written once for all backends. Not here:
// arithmetic (ops.h), where samples come from (finetune.h), tiling (interpolate.h).

#ifndef ISOSLICE_SR_ENGINE_MODEL_H
#define ISOSLICE_SR_ENGINE_MODEL_H

#include "core/fault.h"
#include "sr_engine/net.h"
#include "sr_engine/ops.h"

#include <stddef.h>

// A network with its parameters on one device; caller's storage.
struct model {
    const struct sr_ops *ops;
    struct sr_device *device;
    struct net net;
    struct sr_buffer *parameters; // arena
};

// Opens a device of `ops`; parameters are zero until they are set. Errors: those of ops->open and buffer_new.
int model_open(struct model *model, const struct sr_ops *ops, struct net_config config, int threads,
               struct fault_note *why);
// A model that was zeroed but never opened is fine.
void model_close(struct model *model);

// Whole arenas of net.n_parameters floats.
int model_set_parameters(struct model *model, const float *parameters, struct fault_note *why);
int model_get_parameters(struct model *model, float *parameters, struct fault_note *why);

// The encoder for use: `stack` [N,1,D,H,W] into `maps[1]` [N,C,D,H,W]; maps[0] of the same extent is scratch.
// Source: SA-INR Encoder.forward; the head is computed twice so that two maps are enough.
int model_encode(struct model *model, const struct sr_buffer *stack, struct sr_buffer *maps[2],
                 struct fault_note *why);

// Everything that training keeps on the device, for one fixed shape of batch; caller's storage.
struct trainer {
    struct model *model;                       // borrowed
    struct sr_extent extent;                   // of a batch: n samples of d retained slices
    int n_targets;                             // planes per gap
    int n_losses;                              // room in `losses`
    int step;                                  // optimiser steps taken
    int first_conv;                            // convolutions before it are not trained; 0: all are
    int borrows;                               // the last three buffers are another trainer's
    struct sr_buffer *stack, *planes, *target; // the batch: filled by ops->cut or uploads
    struct sr_buffer *y, *dy, *losses;
    struct sr_buffer *h[NET_MAX_BLOCKS + 1]; // inputs of the blocks; the last is the tail's
    struct sr_buffer *r[NET_MAX_BLOCKS];     // after each block's ReLU
    struct sr_buffer *features, *dfeatures, *dh, *dr;
    struct sr_buffer *gradients, *moment1, *moment2;
};

// Errors: NO_MEMORY, DEVICE. On failure nothing is held.
int trainer_open(struct trainer *trainer, struct model *model, struct sr_extent extent, int n_targets,
                 int n_losses, struct fault_note *why);
// The same for another shape of batch, on the optimiser of `first`, which has to outlive it: gradients,
// moments and what is trained are that one's. `step` is each one's own.
int trainer_open_beside(struct trainer *trainer, const struct trainer *first, struct sr_extent extent,
                        int n_targets, int n_losses, struct fault_note *why);
// A trainer that was zeroed but never opened is fine.
void trainer_close(struct trainer *trainer);
// Bytes of buffers that trainer_open would take.
size_t trainer_bytes(const struct net *net, struct sr_extent extent, int n_targets);

// y [n_planes,h,w] for the batch that lies in stack and planes, keeping what trainer_backward needs.
int trainer_forward(struct trainer *trainer, struct fault_note *why);
// L1 against target into losses[index], and the gradients of everything that is trained.
int trainer_backward(struct trainer *trainer, int index, struct fault_note *why);
// Both in one, as fast as the backend can; y may be left as it was.
int trainer_learn(struct trainer *trainer, int index, struct fault_note *why);
// One Adam step at learning rate `rate` and second-moment decay `beta2`, beta1 0.9, epsilon 1e-8, and the
// repacking of the parameters.
int trainer_update(struct trainer *trainer, double rate, double beta2, struct fault_note *why);

#endif
