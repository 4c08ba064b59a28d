// SPDX-License-Identifier: Apache-2.0
#include "scu/ask.h"

#include "core/clock.h"
#include "core/log.h"
#include "dicom_map/dcmtk/scu.h"
#include "scu/deliver.h"
#include "spool/spool.h"

#include <math.h>
#include <unistd.h>

enum { POLL_MS = 200, MAX_QUESTIONS = 32 };
static const double pause_min_s = 5, pause_max_s = 300;

// One association for all questions. Those that it did not come to are left.
static int ask_all(const struct conf *conf, const struct conf_destination *destination,
                   const struct credentials *credentials, struct spool *spool,
                   const struct spool_question *questions, size_t n, struct fault_note *why)
{
    struct dcm_scu_options options = deliver_options(conf, destination, credentials);
    struct dcm_scu *scu = NULL;
    options.is_query = 1;
    int rc = dcm_scu_open(&options, &scu, why);
    for (size_t i = 0; i < n && rc == 0; i++) {
        int64_t asked_us = clock_wall_us(), n_images = -1; // before: what comes meanwhile makes it stale
        rc = dcm_scu_count(scu, questions[i].study_uid, questions[i].series_uid, &n_images, why);
        if (rc == 0)
            rc = spool_told(spool, questions[i].series_uid, n_images, asked_us, why);
        if (rc == 0)
            log_debug("'%s' has %lld images of series '%s'", destination->name, (long long)n_images,
                      questions[i].series_uid);
    }
    dcm_scu_close(scu);
    return rc;
}

int ask_run(const struct conf *conf, const struct conf_destination *destination, struct keeper *keeper,
            int (*reload_asked)(void), volatile int *stop, struct fault_note *why)
{
    struct spool *spool = NULL;
    struct spool_question questions[MAX_QUESTIONS];
    double pause_s = 0, next_s = 0;
    int rc = spool_open(conf->spool, &spool, why);
    while (rc == 0 && !*stop) {
        struct fault_note fault;
        size_t n = 0;
        keeper_tick(keeper, reload_asked());
        int round_rc = 0;
        if (clock_monotonic_s() >= next_s)
            round_rc =
                spool_to_ask(spool, conf->quiet_s, clock_wall_us(), questions, MAX_QUESTIONS, &n, &fault);
        if (round_rc == 0 && n > 0)
            round_rc = keeper_check(keeper, &fault);
        if (round_rc == 0 && n > 0)
            round_rc = ask_all(conf, destination, keeper->credentials, spool, questions, n, &fault);
        if (round_rc != 0) {
            pause_s = fmin(pause_max_s, fmax(pause_min_s, 2 * pause_s));
            next_s = clock_monotonic_s() + pause_s;
            log_warning("asking '%s': %s: %s; again in %.0f s", destination->name,
                        fault_name((enum fault)round_rc), fault.text, pause_s);
        } else if (n > 0) {
            pause_s = 0;
        }
        usleep(POLL_MS * 1000);
    }
    spool_close(spool);
    return rc;
}
