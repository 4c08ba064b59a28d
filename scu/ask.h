// SPDX-License-Identifier: Apache-2.0
//
// Asks the archive how many images a series has that is still gathering, so that a complete one need not wait
// for the quiet time. Only the answer goes into the queue; what follows from it is the indexer's. An archive
// that does not answer costs nothing but the answer. Not here: gathering (spool.h).

#ifndef ISOSLICE_SCU_ASK_H
#define ISOSLICE_SCU_ASK_H

#include "conf/conf.h"
#include "core/fault.h"
#include "core/keeper.h"

// Asks `destination` until *stop. Arguments as those of deliver_run. Errors: those of opening the spool.
int ask_run(const struct conf *conf, const struct conf_destination *destination, struct keeper *keeper,
            int (*reload_asked)(void), volatile int *stop, struct fault_note *why);

#endif
