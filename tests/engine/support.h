// SPDX-License-Identifier: Apache-2.0
//
// What the engine's tests share: random values, comparing tensors as the contract means it, stacks made by
// formula.

#ifndef ISOSLICE_TESTS_ENGINE_SUPPORT_H
#define ISOSLICE_TESTS_ENGINE_SUPPORT_H

#include "core/fault.h"
#include "sr_engine/model.h"
#include "sr_engine/ops.h"
#include "tests/support/check.h"

#include <stddef.h>
#include <stdint.h>

// n values, uniform in [low, high), a function of seed; the caller frees.
float *support_random(uint64_t seed, size_t n, double low, double high);
void *support_alloc(size_t bytes);

// Ends the test unless max|got-want| <= limit * max|want| + floor; `what` stands in the message.
void support_close(const char *what, const float *got, const float *want, size_t n, double limit,
                   double floor);

// The same for the gradients of all parameters, tensor by tensor: 1e-4 of each tensor's largest.
void support_close_gradients(const struct net *net, const float *got, const float *want);

// Ends the test unless all n values are the same bits.
void support_equal(const char *what, const float *got, const float *want, size_t n);

// 1 when any of n values are not the same bits.
int support_differ(const float *a, const float *b, size_t n);

// The backend, or a failed test; SKIP where it is not built at all (NULL is never returned).
const struct sr_ops *support_ops(const char *name);

// A new buffer holding `from` (NULL: zeros) in the order [N,C,D,H,W].
struct sr_buffer *support_buffer(const struct sr_ops *ops, struct sr_device *device, struct sr_extent extent,
                                 int channels, const float *from);
// The buffer's values; the caller frees.
float *support_values(const struct sr_ops *ops, struct sr_device *device, const struct sr_buffer *buffer,
                      size_t n);

// Raw little-endian floats, n of them or a failed test; the caller frees.
float *support_read_floats(const char *path, size_t n);

// The folder with the shared data, or SKIP.
const char *support_shared(void);

// Random parameters as PyTorch would start them, but with a last layer that is not zero and attention that is
// not flat.
float *support_parameters(const struct net *net, uint64_t seed);

#endif
