// SPDX-License-Identifier: Apache-2.0
//
// What a run of training leaves behind so that it can go on: several arenas as weights files and one text
// file that says which step they are of. A checkpoint is the old one or the new one, never a mixture,
// whenever the process dies: every part is written durably under a new name, then the text, from which on the
// new parts are the ones that count, then the names are exchanged. Not here: what the arenas mean. Training
// and fine-tune include this.

#ifndef ISOSLICE_SR_ENGINE_CHECKPOINT_H
#define ISOSLICE_SR_ENGINE_CHECKPOINT_H

#include "core/fault.h"
#include "sr_engine/net.h"

#include <stdint.h>

enum { CHECKPOINT_MAX_PARTS = 8, CHECKPOINT_EXTRA_SIZE = 1024 };

// One arena: NAME.safetensors in the folder.
struct checkpoint_part {
    const char *name;      // "weights", "raw", "adam_m" ...
    const struct net *net; // the arena's layout; borrowed
    float *values;         // [net->n_parameters]; borrowed
};

// What the text file says.
struct checkpoint_state {
    char stage[16];
    long step;
    double minutes;
    uint64_t seed;
    char extra[CHECKPOINT_EXTRA_SIZE]; // further lines, the caller's own, each ended by '\n'; may be empty
};

// Errors: IO, NO_SPACE, NO_MEMORY.
int checkpoint_save(const char *directory, const struct checkpoint_state *state,
                    const struct checkpoint_part *parts, int n_parts, struct fault_note *why);

// *found is 0 when the folder holds none. Errors: IO, BAD_HEADER.
int checkpoint_read_state(const char *directory, struct checkpoint_state *state, int *found,
                          struct fault_note *why);

// Fills the values of all parts with those of state->step and tidies names up that a dying process left.
// Errors: IO, WEIGHTS for a part that is missing, damaged, of another network or of another step.
int checkpoint_load(const char *directory, const struct checkpoint_state *state,
                    const struct checkpoint_part *parts, int n_parts, struct fault_note *why);

// 1 when part `name` is there, of whatever step.
int checkpoint_has_part(const char *directory, const char *name);

#endif
