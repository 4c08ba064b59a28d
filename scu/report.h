// SPDX-License-Identifier: Apache-2.0
//
// Outcomes of storage commitment that the association which asked was not told: reported to the sender's own
// port, with the roles reversed, until it confirms. Not here: what is kept (scp/commitment.h), processes and
// signals.

#ifndef ISOSLICE_SCU_REPORT_H
#define ISOSLICE_SCU_REPORT_H

#include "conf/conf.h"
#include "core/fault.h"
#include "core/keeper.h"

// Reports what is due until *stop. `keeper` holds the node's credentials where a sender wants TLS;
// `reload_asked` as in deliver_run. One per spool, which a lock file in it keeps so.
int report_run(const struct conf *conf, struct keeper *keeper, int (*reload_asked)(void), volatile int *stop,
               struct fault_note *why);

#endif
