// SPDX-License-Identifier: Apache-2.0
//
// Weights files: safetensors, F32 or F16, tensors named and shaped as net.h has them. Not here: other
// architectures, other dtypes, training state beyond what callers store as further files. Files come from
// people and networks: every size is checked against the file before it is used. Everything may include this.

#ifndef ISOSLICE_SR_ENGINE_WEIGHTS_H
#define ISOSLICE_SR_ENGINE_WEIGHTS_H

#include "core/fault.h"
#include "sr_engine/net.h"

#include <stddef.h>
#include <stdint.h>

enum { WEIGHTS_MAX_METADATA = 32, WEIGHTS_MAX_FILE_BYTES = 64 << 20, WEIGHTS_MAX_HEADER_BYTES = 1 << 20 };

// One entry of the file's __metadata__. Owner: where the struct came from.
struct weights_pair {
    char key[64];
    char value[1024];
};

// What a file says about itself; caller's storage.
struct weights_metadata {
    int n_pairs;
    struct weights_pair pairs[WEIGHTS_MAX_METADATA];
};

// The value of `key`, or NULL.
const char *weights_metadata_get(const struct weights_metadata *metadata, const char *key);
// Sets `key`, over an old value. Text that does not fit is cut; nothing happens when the table is full.
void weights_metadata_set(struct weights_metadata *metadata, const char *key, const char *value);

// Reads a file into `parameters` [net->n_parameters], caller's. `metadata` may be NULL.
// Errors: IO, NO_MEMORY, TOO_LARGE; WEIGHTS when the file is not safetensors, or a tensor is missing,
// unknown, of another shape or dtype, overlaps another, or holds a value that is not finite. Outputs are
// untouched on failure.
int weights_load(const char *path, const struct net *net, float *parameters,
                 struct weights_metadata *metadata, struct fault_note *why);

// The same from memory; `name` stands in messages.
int weights_parse(const void *data, size_t size, const char *name, const struct net *net, float *parameters,
                  struct weights_metadata *metadata, struct fault_note *why);

// Writes `parameters` as F32, durable before it returns. `metadata` may be NULL. Errors: IO, NO_SPACE,
// NO_MEMORY.
int weights_save(const char *path, const struct net *net, const float *parameters,
                 const struct weights_metadata *metadata, struct fault_note *why);

// PyTorch's default initialisation: every weight and bias uniform in +-1/sqrt(fan_in); the last layer zero,
// so that the network adds exactly nothing to linear interpolation. Values are a function of `seed` alone.
void weights_init(const struct net *net, uint64_t seed, float *parameters);

// When the last layer is all zero nothing before it has any effect, so its scale is free: it is raised from
// PyTorch's to that of He et al. (arXiv 1502.01852) for head and decoder and half-way for the residual
// branches, biases halved. The network then learns from the first step, where it would stand still for a
// hundred. Returns 1 when it did so.
int weights_wake(const struct net *net, float *parameters);

#endif
