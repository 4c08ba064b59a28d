// SPDX-License-Identifier: Apache-2.0
//
// Random numbers as a pure function of (seed, stream, counter): no state to save, the same draws on every
// machine and in any order. Everything in sr_engine may include this.

#ifndef ISOSLICE_SR_ENGINE_RANDOM_H
#define ISOSLICE_SR_ENGINE_RANDOM_H

#include <stdint.h>

// One stream of numbers; caller's storage, copied freely.
struct random_stream {
    uint64_t state;
};

// The finaliser of splitmix64. Source: Steele, Lea, Flood, Fast splittable pseudorandom number generators,
// 2014.
static inline uint64_t random_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

// The stream that belongs to item `index` (a step, a tensor) of `purpose` under `seed`.
static inline struct random_stream random_open(uint64_t seed, uint64_t purpose, uint64_t index)
{
    uint64_t state = random_mix(seed + 0x9E3779B97F4A7C15u);
    state = random_mix(state ^ (purpose + 0x9E3779B97F4A7C15u));
    return (struct random_stream){random_mix(state ^ (index + 0x9E3779B97F4A7C15u))};
}

static inline uint64_t random_next(struct random_stream *stream)
{
    stream->state += 0x9E3779B97F4A7C15u;
    return random_mix(stream->state);
}

// Uniform in [0, 1), 53 bits.
static inline double random_unit(struct random_stream *stream)
{
    return (double)(random_next(stream) >> 11) * 0x1p-53;
}

// Uniform integer in [low, high], low <= high. The bias is below 2^-32 for ranges below 2^31.
static inline int random_between(struct random_stream *stream, int low, int high)
{
    uint64_t range = (uint64_t)((int64_t)high - low) + 1;
    return (int)(low + (int64_t)(((random_next(stream) >> 32) * range) >> 32));
}

#endif
