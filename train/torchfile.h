// SPDX-License-Identifier: Apache-2.0
//
// PyTorch checkpoints (torch.save since 1.6): a zip archive, nothing compressed, of a pickle and raw
// storages. The pickle is read by a machine that knows exactly the operations that torch.save writes and runs
// nothing: names of functions other than those that rebuild tensors are kept as names. Files come from people
// and networks: every size is checked against the file before it is used. Not here: safetensors (weights.h).

#ifndef ISOSLICE_TRAIN_TORCHFILE_H
#define ISOSLICE_TRAIN_TORCHFILE_H

#include "core/fault.h"
#include "sr_engine/net.h"

#include <stddef.h>

enum { TORCHFILE_MAX_BYTES = 1 << 30 };

// 1 when `data` begins like a zip archive.
int torchfile_is(const void *data, size_t size);

// Reads the network's tensors from the dictionary of the checkpoint that holds most of them: the state dict
// itself, or one inside {"model": {"sd": ...}} and the like; "module." before every name is taken off.
// float32, float16, bfloat16 and float64, any strides. parameters [net->n_parameters], untouched on failure;
// `name` stands in messages. Errors: NO_MEMORY; WEIGHTS when the file is not such a checkpoint, or tensors
// are missing, unknown (all are named, as far as the sentence reaches), of another shape, or not finite.
int torchfile_parse(const void *data, size_t size, const char *name, const struct net *net, float *parameters,
                    struct fault_note *why);

// Writes a state dict as torch.save does, durable before it returns. Errors: IO, NO_SPACE, NO_MEMORY.
int torchfile_save(const char *path, const struct net *net, const float *parameters, struct fault_note *why);

#endif
