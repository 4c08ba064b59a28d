// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/ops.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef ISOSLICE_HAVE_CUDA
#    define ISOSLICE_HAVE_CUDA 0
#endif

struct backend {
    const char *name;
    const struct sr_ops *(*table)(void);
    const char *absent; // why there is no table
    int by_name_only;   // "auto" passes it over
};

// In the order in which "auto" tries them.
static const struct backend backends[] = {
// A wrong pixel can hurt a patient, and no GPU has run this code yet: who wants it has to name it until every
// line of cuda/UNVERIFIED.md that concerns results is gone.
#if ISOSLICE_HAVE_CUDA
    {"cuda", ops_cuda, NULL, 1},
    {"cuda16", ops_cuda16, NULL, 1},
#else
    {"cuda", NULL, "this program was built without CUDA", 1},
    {"cuda16", NULL, "this program was built without CUDA", 1},
#endif
    {"cpu", ops_cpu, NULL, 0},
    {"ref", ops_ref, NULL, 0},
};

int ops_use_gpu(int number, struct fault_note *why)
{
    char text[16];
    if (number < 0)
        return 0;
    snprintf(text, sizeof text, "%d", number);
    if (setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1) != 0 || setenv("CUDA_VISIBLE_DEVICES", text, 1) != 0)
        return fault_set(why, FAULT_INTERNAL, "cannot choose GPU %d: %s", number, strerror(errno));
    return 0;
}

int ops_find(const char *name, const struct sr_ops **ops, struct fault_note *why)
{
    int is_auto = strcmp(name, "auto") == 0;
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {
        const struct backend *backend = &backends[i];
        if (!is_auto && strcmp(name, backend->name) != 0)
            continue;
        if (is_auto && backend->by_name_only)
            continue;
        if (backend->table == NULL)
            return fault_set(why, FAULT_BACKEND, "no backend '%s': %s", name, backend->absent);
        const struct sr_ops *table = backend->table();
        if (table->usable(why)) {
            *ops = table;
            return 0;
        }
        if (!is_auto)
            return FAULT_BACKEND;
    }
    return fault_set(why, FAULT_BACKEND, "no backend '%.40s': it is auto, cpu, cuda, cuda16 or ref", name);
}
