// SPDX-License-Identifier: Apache-2.0
//
// What a training run has seen: a table that is kept as CSV and drawn as a picture. Not here: when rows are
// added.

#ifndef ISOSLICE_TRAIN_HISTORY_H
#define ISOSLICE_TRAIN_HISTORY_H

#include "core/fault.h"

#include <stddef.h>

// One row; NaN where a number was not measured.
struct history_row {
    long step;
    double minutes, rate, loss;   // loss: mean L1 of the steps since the row before
    double network_db, linear_db; // validation
};

// Caller's storage; zeroed is empty.
struct history {
    size_t n_rows, room;
    struct history_row *rows;
};

int history_add(struct history *history, const struct history_row *row, struct fault_note *why);
void history_done(struct history *history);

// Reads the rows up to and including `last_step`; a missing file is an empty history. Errors: IO, NO_MEMORY,
// BAD_HEADER for a file that is not such a table.
int history_load(struct history *history, const char *path, long last_step, struct fault_note *why);
// Errors: IO, NO_SPACE, NO_MEMORY.
int history_save(const struct history *history, const char *path, struct fault_note *why);

// Loss over steps on a logarithmic scale, below it validation PSNR of network and linear interpolation. PNG.
// Errors: IO, NO_MEMORY.
int history_draw(const struct history *history, const char *title, const char *path, struct fault_note *why);

#endif
