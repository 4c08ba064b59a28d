// SPDX-License-Identifier: Apache-2.0
//
// Deliveries to one destination: takes what is due, sends every object that is not confirmed yet, and says
// what follows. Not here: processes and signals.

#ifndef ISOSLICE_SCU_DELIVER_H
#define ISOSLICE_SCU_DELIVER_H

#include "conf/conf.h"
#include "core/fault.h"
#include "core/keeper.h"
#include "dicom_map/dcmtk/scu.h"
#include "spool/spool.h"

// How we meet a destination. Strings are borrowed from both; `credentials` are used where it wants TLS.
struct dcm_scu_options deliver_options(const struct conf *conf, const struct conf_destination *destination,
                                       const struct credentials *credentials);

// Loads what TLS to this destination needs; *credentials stays NULL where it has none. Errors: CONFIG, naming
// the destination.
int deliver_credentials(const struct conf *conf, const struct conf_destination *destination, uid_t user,
                        struct credentials **credentials, struct fault_note *why);

// The file of object `index` (0 ..) of a delivery.
void deliver_path(const struct spool_delivery *delivery, int64_t index, char *path, size_t size);

// One attempt at one delivery, recorded in queue and log whatever happens. Returns 0 when the queue was
// written; the delivery's own fault is in *outcome (FAULT_OK: all confirmed, and where the destination is
// asked to commit itself it is or was). *stop asks to end after the object in flight.
int deliver_one(struct spool *spool, const struct conf *conf, const struct conf_destination *destination,
                const struct keeper *keeper, const char *owner, const struct spool_delivery *delivery,
                volatile int *stop, struct fault_note *outcome, struct fault_note *why);

// Takes the lock file "send-<name>.lock" in the spool, until the process ends or closes the descriptor that
// is returned. Errors: IO, also when another process has it.
int deliver_lock(const struct conf *conf, const char *name, struct fault_note *why);

// Deliveries to this destination until *stop. Takes a lock file in the spool, so that there is one such
// process. `keeper` holds its credentials; `reload_asked` says whether they are to be read again, before the
// next connection.
int deliver_run(const struct conf *conf, const struct conf_destination *destination, struct keeper *keeper,
                int (*reload_asked)(void), volatile int *stop, struct fault_note *why);

#endif
