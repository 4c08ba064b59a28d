// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/ops.h"

#include <stddef.h>
#include <string.h>

#ifndef ISOSLICE_HAVE_CUDA
#    define ISOSLICE_HAVE_CUDA 0
#endif

struct backend {
    const char *name;
    const struct sr_ops *(*table)(void);
    const char *absent; // why there is no table
};

// In the order in which "auto" tries them.
static const struct backend backends[] = {
#if ISOSLICE_HAVE_CUDA
    {"cuda", ops_cuda, NULL},
#else
    {"cuda", NULL, "this program was built without CUDA"},
#endif
    {"cpu", ops_cpu, NULL},
    {"ref", ops_ref, NULL},
};

int ops_find(const char *name, const struct sr_ops **ops, struct fault_note *why)
{
    int is_auto = strcmp(name, "auto") == 0;
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {
        const struct backend *backend = &backends[i];
        if (!is_auto && strcmp(name, backend->name) != 0)
            continue;
        if (backend->table == NULL) {
            if (is_auto)
                continue;
            return fault_set(why, FAULT_BACKEND, "no backend '%s': %s", name, backend->absent);
        }
        const struct sr_ops *table = backend->table();
        if (table->usable(why)) {
            *ops = table;
            return 0;
        }
        if (!is_auto)
            return FAULT_BACKEND;
    }
    return fault_set(why, FAULT_BACKEND, "no backend '%.40s': it is auto, cpu, cuda or ref", name);
}
