// SPDX-License-Identifier: Apache-2.0
#include "core/keeper.h"

#include "core/clock.h"
#include "core/log.h"

enum { WARNING_INTERVAL_S = 86400, TRY_INTERVAL_S = 60 };

static void warn(void *user, int is_over, const char *text)
{
    const struct keeper *keeper = user;
    if (is_over)
        log_error("TLS of %s: %s", keeper->whose, text);
    else
        log_warning("TLS of %s: %s", keeper->whose, text);
}

// The clock may have been set since, without another file.
static void try_to_use(struct keeper *keeper, int reload)
{
    struct fault_note late = {0}, why = {0};
    int64_t now_us = clock_wall_us();
    double now_s = clock_monotonic_s();
    int rc = credentials_check_time(keeper->credentials, now_us, &late);
    if (rc != 0 && (reload || now_s >= keeper->next_try_s)) {
        rc = credentials_refresh(&keeper->credentials, now_us, &why);
        keeper->next_try_s = now_s + TRY_INTERVAL_S;
    }
    keeper->is_in_use = rc == 0;
    if (rc == 0) {
        if (keeper->next_warning_s > 0)
            log_info("TLS of %s is in use from here on: its certificate is valid", keeper->whose);
        keeper->next_warning_s = 0;
    } else if (reload || now_s >= keeper->next_warning_s) {
        int was_read = why.fault == FAULT_OK || why.fault == FAULT_TLS;
        log_error("TLS of %s is not in use: %s%s%s", keeper->whose, late.text,
                  was_read ? "" : "; read again: ", was_read ? "" : why.text);
        keeper->next_warning_s = now_s + WARNING_INTERVAL_S;
    }
}

int keeper_check(const struct keeper *keeper, struct fault_note *why)
{
    return keeper->credentials == NULL || keeper->is_in_use
               ? 0
               : credentials_check_time(keeper->credentials, clock_wall_us(), why);
}

void keeper_tick(struct keeper *keeper, int reload)
{
    struct fault_note why;
    if (keeper->credentials == NULL)
        return;
    if (!keeper->is_in_use)
        try_to_use(keeper, reload);
    if (!keeper->is_in_use)
        return;
    if (reload) {
        keeper->next_warning_s = 0;
        if (credentials_refresh(&keeper->credentials, clock_wall_us(), &why) == 0)
            log_info("TLS of %s: certificates read again", keeper->whose);
        else
            log_error("TLS of %s: the certificates in use stay: %s", keeper->whose, why.text);
    }
    if (clock_monotonic_s() < keeper->next_warning_s)
        return;
    if (!credentials_can_reload(keeper->credentials))
        log_warning(
            "TLS of %s: the key cannot be read by who this runs as: after it was changed, restart; SIGHUP "
            "will not do",
            keeper->whose);
    keeper->next_warning_s = clock_monotonic_s() + WARNING_INTERVAL_S;
    credentials_warn(keeper->credentials, clock_wall_us(), warn, keeper);
}
