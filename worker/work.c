// SPDX-License-Identifier: Apache-2.0
//
// isoslice-work: one per GPU, or one on the CPU.

#include "core/daemon.h"
#include "core/log.h"
#include "worker/worker.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    int exit_code;
    const char *config =
        daemon_arguments(argc, argv, "isoslice-work",
                         "Worker: turns gathered series into isotropic derived series.", &exit_code);
    if (config == NULL)
        return exit_code;
    static struct conf conf;
    struct fault_note why;
    int rc = conf_load(config, &conf, &why);
    if (rc != 0) {
        fprintf(stderr, "isoslice-work: %s\n", why.text);
        return 2;
    }
    daemon_init();
    log_init("isoslice-work", conf_log_level(&conf));
    rc = worker_run(&conf, &daemon_stop, &why);
    if (rc != 0)
        log_error("cannot go on: %s: %s", fault_name((enum fault)rc), why.text);
    return rc == 0 ? 0 : 1;
}
