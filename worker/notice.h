// SPDX-License-Identifier: Apache-2.0
//
// Notices: what a person in front of the archive is told when no series was derived. Which faults are worth
// one, and what it looks like. Not here: its attributes (dicom_map/notice.h), who gets it.

#ifndef ISOSLICE_WORKER_NOTICE_H
#define ISOSLICE_WORKER_NOTICE_H

#include "core/fault.h"
#include "reader/reader.h"
#include "worker/process.h"

#include <stddef.h>

// Zero for what nobody would expect a series from (localizers, three-dimensional series, what a rule leaves
// alone ...), and where it is in doubt whose study it is.
int notice_is_due(enum fault fault);

// Draws the notice for an item of the reader and writes it into `directory`, an existing empty folder in the
// reader's output. `why_not`: what kept the item from being processed. Errors: those of reader_notice.
int notice_make(struct reader *reader, size_t item, const struct process_options *options,
                const struct fault_note *why_not, const char *directory, struct derive_result *result,
                struct fault_note *why);

#endif
