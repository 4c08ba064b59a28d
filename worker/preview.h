// SPDX-License-Identifier: Apache-2.0
//
// A picture for people: linear interpolation and the result side by side in the two cross planes. Not a
// medical image: 8 bits, one window.

#ifndef ISOSLICE_WORKER_PREVIEW_H
#define ISOSLICE_WORKER_PREVIEW_H

#include "core/fault.h"
#include "worker/process.h"

// Writes a PNG. `method` names what was delivered. Errors: IO, NO_SPACE, NO_MEMORY.
int preview_write(const struct process_images *images, const char *method, const char *path,
                  struct fault_note *why);

#endif
