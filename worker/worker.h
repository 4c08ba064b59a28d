// SPDX-License-Identifier: Apache-2.0
//
// Jobs from the queue, one at a time: takes a lease, processes every stack, makes the derived series durable,
// and ends the job in one transaction. A second thread keeps the lease alive. Not here: signals and the
// command line.

#ifndef ISOSLICE_WORKER_WORKER_H
#define ISOSLICE_WORKER_WORKER_H

#include "conf/conf.h"
#include "core/fault.h"

// Jobs until *stop; a job in hand is then given back. Errors: those of opening the spool, CONFIG, WEIGHTS.
int worker_run(const struct conf *conf, volatile int *stop, struct fault_note *why);

#endif
