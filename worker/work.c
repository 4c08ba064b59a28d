// SPDX-License-Identifier: Apache-2.0
//
// isoslice-work: one per GPU, or one on the CPU.

#include "core/daemon.h"
#include "worker/worker.h"

static int run(void *conf, struct fault_note *why)
{
    return worker_run(conf, &daemon_stop, why);
}

int main(int argc, char **argv)
{
    static struct conf conf;
    const struct daemon daemon = {
        .name = "isoslice-work",
        .purpose = "Worker: turns gathered series into isotropic derived series.",
        .load = conf_load_daemon,
        .run = run,
        .user = &conf,
    };
    return daemon_main(argc, argv, &daemon);
}
