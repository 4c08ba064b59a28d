// SPDX-License-Identifier: Apache-2.0
//
// Takes away what a receiving process does not need: files outside one folder (Landlock), new processes, core
// dumps, memory and file size without end. Not here: users and seccomp, which the service manager sets.

#ifndef ISOSLICE_SCP_CONFINE_H
#define ISOSLICE_SCP_CONFINE_H

#include "core/fault.h"

#include <stdint.h>

// Resource limits of this process. max_bytes: of one file. Errors: INTERNAL.
int confine_resources(int64_t max_bytes, struct fault_note *why);

// From now on this process reaches files below `folder` only. Stacks: a second call narrows further. *active
// = 0 when the kernel has no Landlock; that is no fault. Errors: IO, INTERNAL.
int confine_to_folder(const char *folder, int *active, struct fault_note *why);

#endif
