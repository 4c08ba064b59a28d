// SPDX-License-Identifier: Apache-2.0
//
// Tells the service manager how a daemon is (the protocol of sd_notify(3), a datagram to NOTIFY_SOCKET).
// Nothing happens where there is no service manager.

#ifndef ISOSLICE_CORE_NOTIFY_H
#define ISOSLICE_CORE_NOTIFY_H

// "READY=1", "STOPPING=1", "WATCHDOG=1", "STATUS=..."; failures are silent, they change nothing for us.
void notify_manager(const char *state);

#endif
