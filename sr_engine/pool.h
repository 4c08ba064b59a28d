// SPDX-License-Identifier: Apache-2.0
//
// Threads that wait for loops to share. Why not OpenMP: its threads spin between loops, which halves the
// speed of a machine that has anything else to do, and a loop ends only when every thread has turned up. Here
// a thread that comes late finds nothing to do and nobody waits for it. Only the cpu backend includes this.

#ifndef ISOSLICE_SR_ENGINE_POOL_H
#define ISOSLICE_SR_ENGINE_POOL_H

#include "core/fault.h"

struct pool;

// One turn of the loop; `thread` is in [0, pool_threads) and unique among those running at the same time.
typedef void (*pool_task)(void *user, int task, int thread);

// threads: how many run a loop, the caller included; 0: all processors allowed to this process.
// Owner: *pool is the caller's. Errors: NO_MEMORY.
int pool_open(int threads, struct pool **pool, struct fault_note *why);
// NULL is fine.
void pool_close(struct pool *pool);
int pool_threads(const struct pool *pool);

// task(user, 0..n_tasks-1), in any order and on any thread; returns when all have ended. Not from within a
// task.
void pool_run(struct pool *pool, int n_tasks, pool_task task, void *user);

#endif
