// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { MAX_THREADS = 256, SPINS = 4000 }; // some 20 us: the usual pause between two loops

struct pool {
    int n_threads, n_started;
    pthread_t threads[MAX_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    atomic_uint generation; // of the loop; changed under the lock
    atomic_int next;        // task to be taken
    int n_tasks, stop;
    atomic_int active; // threads besides the caller that work on the loop; changed under the lock
    pool_task task;
    void *user;
};

struct member {
    struct pool *pool;
    int thread;
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void take_tasks(struct pool *pool, int n_tasks, pool_task task, void *user, int thread)
{
    for (;;) {
        int i = atomic_fetch_add(&pool->next, 1);
        if (i >= n_tasks)
            return;
        task(user, i, thread);
    }
}

static void *work(void *argument)
{
    struct member member = *(struct member *)argument;
    struct pool *pool = member.pool;
    unsigned seen = 0;
    free(argument);
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load(&pool->generation) == seen; i++)
            relax();
        pthread_mutex_lock(&pool->lock);
        while (atomic_load(&pool->generation) == seen && !pool->stop)
            pthread_cond_wait(&pool->begin, &pool->lock);
        seen = atomic_load(&pool->generation);
        int stop = pool->stop, n_tasks = pool->n_tasks, wanted = atomic_load(&pool->next) < n_tasks;
        pool_task task = pool->task;
        void *user = pool->user;
        if (wanted)
            atomic_fetch_add(&pool->active, 1);
        pthread_mutex_unlock(&pool->lock);
        if (stop)
            return NULL;
        if (!wanted)
            continue;
        take_tasks(pool, n_tasks, task, user, member.thread);
        pthread_mutex_lock(&pool->lock);
        if (atomic_fetch_sub(&pool->active, 1) == 1)
            pthread_cond_signal(&pool->end);
        pthread_mutex_unlock(&pool->lock);
    }
}

static int processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
    return 1;
}

int pool_open(int threads, struct pool **pool, struct fault_note *why)
{
    struct pool *made = calloc(1, sizeof *made);
    if (made == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for threads");
    made->n_threads = threads > 0 ? threads : processors();
    made->n_threads = made->n_threads < MAX_THREADS ? made->n_threads : MAX_THREADS;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->begin, NULL);
    pthread_cond_init(&made->end, NULL);
    for (int i = 1; i < made->n_threads; i++) {
        struct member *member = malloc(sizeof *member);
        if (member != NULL)
            *member = (struct member){made, i};
        if (member == NULL || pthread_create(&made->threads[made->n_started], NULL, work, member) != 0) {
            free(member);
            pool_close(made);
            return fault_set(why, FAULT_NO_MEMORY, "thread %d of %d cannot be started", i + 1, threads);
        }
        made->n_started++;
    }
    *pool = made;
    return 0;
}

void pool_close(struct pool *pool)
{
    if (pool == NULL)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = 1;
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->n_started; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->begin);
    pthread_cond_destroy(&pool->end);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

int pool_threads(const struct pool *pool)
{
    return pool->n_threads;
}

void pool_run(struct pool *pool, int n_tasks, pool_task task, void *user)
{
    if (pool->n_threads == 1 || n_tasks <= 1) {
        for (int i = 0; i < n_tasks; i++)
            task(user, i, 0);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->task = task;
    pool->user = user;
    pool->n_tasks = n_tasks;
    atomic_store(&pool->next, 0);
    atomic_fetch_add(&pool->generation, 1);
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->lock);
    take_tasks(pool, n_tasks, task, user, 0);
    for (int i = 0; i < SPINS && atomic_load(&pool->active) > 0; i++)
        relax();
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->active) > 0)
        pthread_cond_wait(&pool->end, &pool->lock);
    pool->n_tasks = 0; // who comes late finds nothing
    pthread_mutex_unlock(&pool->lock);
}
