// SPDX-License-Identifier: Apache-2.0
#include "core/keeper.h"

#include "core/clock.h"
#include "core/log.h"

enum { WARNING_INTERVAL_S = 86400 };

static void warn(void *user, int is_over, const char *text)
{
    const struct keeper *keeper = user;
    if (is_over)
        log_error("TLS of %s: %s", keeper->whose, text);
    else
        log_warning("TLS of %s: %s", keeper->whose, text);
}

void keeper_tick(struct keeper *keeper, int reload)
{
    struct fault_note why;
    if (keeper->credentials == NULL)
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
