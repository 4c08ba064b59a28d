// SPDX-License-Identifier: Apache-2.0
//
// The configuration: one YAML file, read by libyaml into one checked struct. The schema table in conf.c is
// the only place that knows keys, ranges, defaults and explanations; the sample file and --dump-config are
// printed from it. Unknown keys are errors. Not here: what the settings do.

#ifndef ISOSLICE_CONF_CONF_H
#define ISOSLICE_CONF_CONF_H

#include "core/credentials.h"
#include "core/daemon.h"
#include "core/fault.h"
#include "dicom_map/label.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
    CONF_MAX_SENDERS = 64,
    CONF_MAX_DESTINATIONS = 16,
    CONF_MAX_RULES = 64,
    CONF_TEXT_SIZE = 256,
    CONF_PATH_SIZE = 1024
};

// Who may send to us. Default deny: a sender that is not listed is refused.
struct conf_sender {
    char ae_title[17];
    char address[CONF_TEXT_SIZE];                     // IPv4 network, "192.0.2.0/24" or one address
    uint32_t network, mask;                           // the same, host byte order
    char certificate_sha256[CREDENTIALS_SHA256_SIZE]; // fingerprints; empty: any that our CA vouches for
    char certificate_name[CONF_TEXT_SIZE];            // name in it; empty: any
    char report_host[CONF_TEXT_SIZE];                 // empty: where the request came from
    int64_t report_port;                              // 0: none
    int report_tls;
    int64_t daily_mb, max_open_series; // quotas; 0: none
};

// A PACS that derived series are sent to.
struct conf_destination {
    char name[33];     // ours, unique
    char ae_title[17]; // called AE title
    char host[CONF_TEXT_SIZE];
    int64_t port;
    int tls;                                          // the keys below are without meaning otherwise
    char ca[CONF_PATH_SIZE], crl[CONF_PATH_SIZE];     // empty: those of node.tls
    char own_certificate[CONF_PATH_SIZE];             // likewise
    char own_key[CONF_PATH_SIZE];                     // likewise
    char certificate_sha256[CREDENTIALS_SHA256_SIZE]; // of theirs; empty: any that the CA vouches for
    char certificate_name[CONF_TEXT_SIZE]; // in theirs; empty: host, unless certificate_sha256 is set
    char format[16];                       // of what it gets: classic, enhanced
    int query;                             // it is the archive that is asked how many images a series has
    char commitment[16];                   // whether it is asked to commit itself: auto, required, never
    int notices;                           // it is told why there is no derived series
};

// What becomes of series that look so; patterns as in worker/rules.h, empty: any.
struct conf_rule {
    char name[33]; // unique
    char sender[CONF_TEXT_SIZE];
    char labels[N_LABELS][CONF_TEXT_SIZE];
    double min_slice_mm;               // least slice distance
    char action[16];                   // process, ignore
    char destinations[CONF_TEXT_SIZE]; // names with commas between; empty: all
    unsigned to;                       // the same: bit i for destinations[i] of struct conf; 0: ignored
};

struct conf {
    char site_id[65];
    char ae_title[17];
    char bind[CONF_TEXT_SIZE];
    int64_t port;     // 0: none
    int64_t tls_port; // 0: none
    char tls_certificate[CONF_PATH_SIZE], tls_key[CONF_PATH_SIZE], tls_ca[CONF_PATH_SIZE],
        tls_crl[CONF_PATH_SIZE];
    char spool[CONF_PATH_SIZE];
    char user[USER_NAME_SIZE]; // that daemons started by root become; empty: they stay root
    char log_level[16];        // error, warning, info, debug
    char station_name[17];

    int64_t max_associations, max_associations_per_address;
    double acse_timeout_s, dimse_timeout_s, association_limit_s;
    int64_t max_object_mb, max_enhanced_mb, disk_reserve_mb;
    double quiet_s, incomplete_s;
    int commitment; // answer storage commitment requests

    char backend[16];             // auto, cpu, cuda, cuda16, ref
    int64_t gpu;                  // -1: the first
    char weights[CONF_PATH_SIZE]; // empty: the weights that were installed with the program
    int finetune;
    int64_t steps;
    double budget_s;
    char recipe[256]; // name=value, ':' between: how the fine-tune learns and the network is used
    int64_t seed;
    int64_t threads;
    int64_t memory_mb;
    char spacing[32];      // isotropic, recur or a number in mm
    char views[32];        // what conf_parse_views takes
    int64_t series_number; // of derived series: offset
    char description[128]; // of derived series: template
    int preview;           // a picture beside each report
    double lease_s;
    int64_t max_attempts;

    double retry_min_s, retry_max_s, give_up_h;
    double commitment_h; // that a destination has to answer
    double connect_timeout_s;
    int64_t keep_days; // of received and derived objects once everything was delivered; 0: for ever

    struct conf_sender senders[CONF_MAX_SENDERS];
    size_t n_senders;
    struct conf_destination destinations[CONF_MAX_DESTINATIONS];
    size_t n_destinations;
    struct conf_rule rules[CONF_MAX_RULES]; // the first that fits decides
    size_t n_rules;
};

// The defaults: valid, but with no sender and no destination.
void conf_defaults(struct conf *conf);

// Reads and checks `path`. Errors: IO; CONFIG with "file:line:col: ..." naming key, value and legal range.
// *conf is unspecified on failure.
int conf_load(const char *path, struct conf *conf, struct fault_note *why);

// Prints every setting with its explanation, as a file that conf_load reads back to the same values.
void conf_dump(const struct conf *conf, FILE *out);

// Prints the sample file: the defaults, one example sender and destination.
void conf_sample(FILE *out);

// The sender that this AE title at this IPv4 address (host byte order) is, or NULL: refused. `after`: NULL,
// or the one that an earlier call gave, for the next (one AE title may stand for several machines).
const struct conf_sender *conf_find_sender(const struct conf *conf, const char *ae_title, uint32_t address,
                                           const struct conf_sender *after);

// Whether a sender is bound to a certificate; then it is accepted with that one only, and never without TLS.
int conf_sender_is_pinned(const struct conf_sender *sender);

// The files of our end, as acceptor and for a destination with TLS. Texts are borrowed from both; `user` may
// own the key.
struct credentials_files conf_node_files(const struct conf *conf, uid_t user);
struct credentials_files conf_destination_files(const struct conf *conf,
                                                const struct conf_destination *destination, uid_t user);

// Whether a destination is listed as a sender, too, and so may tell what it committed itself to.
int conf_may_report(const struct conf *conf, const struct conf_destination *destination);

// Whether a destination is to be asked to commit itself.
int conf_asks_commitment(const struct conf *conf, const struct conf_destination *destination);

// Seconds until the next attempt after `attempts` failed ones: retry_min_s doubled each time, at most
// retry_max_s.
double conf_pause_s(const struct conf *conf, int attempts);

const struct conf_destination *conf_find_destination(const struct conf *conf, const char *name);

// "spacing" as mode and millimetres: 0 isotropic, 1 recur, 2 in mm. Returns 0 when `text` is none of them.
// Shared with the command line.
int conf_parse_spacing(const char *text, int *mode, double *mm);

// "views" as a set: bit 0 sagittal, 1 coronal, 2 axial; names with commas between, "all", or "". Returns 0
// when `text` is none of them. Shared with the command line.
int conf_parse_views(const char *text, unsigned *views);

// Bytes of the largest object that is received, of whatever class.
int64_t conf_largest_object(const struct conf *conf);

// log_level as the log takes it.
enum log_level conf_log_level(const struct conf *conf);

// conf_load as the daemons' load (core/daemon.h): `conf` is a struct conf *. Errors: also CONFIG for
// node.user.
int conf_load_daemon(void *conf, const char *path, struct daemon_settings *settings, struct fault_note *why);

#endif
