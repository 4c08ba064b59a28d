// SPDX-License-Identifier: Apache-2.0
//
// The small subcommands: echo, check-config, phantom, new-weights.

#include "cli/command.h"
#include "conf/conf.h"
#include "core/clock.h"
#include "core/file.h"
#include "dicom_map/dcmtk/scp.h"
#include "dicom_map/phantom.h"
#include "scu/deliver.h"
#include "sr_engine/engine.h"
#include "worker/process.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Who will run the node, as far as one can tell: node.user, or for root the owner of the spool.
static uid_t user_of_node(const struct conf *conf)
{
    struct stat st;
    struct user user;
    if (conf->user[0] != '\0' && user_find(conf->user, &user, NULL) == 0)
        return user.uid;
    return geteuid() == 0 && stat(conf->spool, &st) == 0 ? st.st_uid : geteuid();
}

// ---- echo

static int echo_one(const struct conf *conf, const struct conf_destination *destination,
                    struct fault_note *why)
{
    struct credentials *credentials = NULL;
    struct dcm_scu *scu = NULL;
    double start_s = clock_monotonic_s();
    int rc = deliver_credentials(conf, destination, user_of_node(conf), &credentials, why);
    if (rc == 0 && credentials != NULL)
        rc = credentials_check_time(credentials, clock_wall_us(), why);
    struct dcm_scu_options options = deliver_options(conf, destination, credentials);
    if (rc == 0)
        rc = dcm_scu_open(&options, &scu, why);
    if (rc == 0)
        rc = dcm_scu_echo(scu, why);
    dcm_scu_close(scu);
    credentials_free(credentials);
    if (rc == 0)
        printf("%s: '%s' at %s:%lld answers%s, %.0f ms\n", destination->name, destination->ae_title,
               destination->host, (long long)destination->port, destination->tls ? " with TLS" : "",
               1000 * (clock_monotonic_s() - start_s));
    return rc;
}

int command_echo(int argc, char **argv)
{
    const char *config = COMMAND_CONFIG_FILE;
    static struct conf conf;
    struct fault_note why;
    int at = 1, n_asked = 0, n_silent = 0;
    if (at < argc && (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0)) {
        puts("usage: isoslice echo [--config FILE] [DESTINATION ...]\n\n"
             "Asks each destination (all of the configuration, without names) with C-ECHO whether it answers "
             "to "
             "us.\n"
             "Exit code: 0 all answer; 1 some do not.\n\n"
             "  --config FILE  default " COMMAND_CONFIG_FILE);
        return 0;
    }
    if (at + 1 < argc && strcmp(argv[at], "--config") == 0) {
        config = argv[at + 1];
        at += 2;
    }
    if (conf_load(config, &conf, &why) != 0 || dcm_network_init(&why) != 0)
        return command_fault("echo", &why);
    for (int i = at; i < argc; i++)
        if (conf_find_destination(&conf, argv[i]) == NULL)
            return command_usage_error("echo", "no destination is called '%s'", argv[i]);
    for (size_t i = 0; i < conf.n_destinations; i++) {
        int wanted = at == argc;
        for (int k = at; k < argc; k++)
            wanted |= strcmp(argv[k], conf.destinations[i].name) == 0;
        if (!wanted)
            continue;
        n_asked++;
        if (echo_one(&conf, &conf.destinations[i], &why) != 0) {
            n_silent++;
            command_fault("echo", &why);
        }
    }
    if (n_asked == 0)
        return command_usage_error("echo", "no destination is configured");
    return n_silent > 0 ? 1 : 0;
}

// ---- check-config

static void say_warning(void *user, int is_over, const char *text)
{
    (void)is_over;
    fprintf(stderr, "isoslice check-config: warning: %s: %s\n", (const char *)user, text);
}

// Everything about TLS that a daemon would refuse to start with, or not use; returns how many.
static int check_tls(const struct conf *conf)
{
    struct fault_note why;
    struct credentials *credentials = NULL;
    uid_t user = user_of_node(conf);
    int n = 0;
    int is_used = conf->tls_port != 0;
    for (size_t i = 0; i < conf->n_senders; i++)
        is_used = is_used || (conf->commitment && conf->senders[i].report_tls);
    if (is_used) {
        struct credentials_files files = conf_node_files(conf, user);
        if (credentials_load(&files, &credentials, &why) == 0 &&
            credentials_check_time(credentials, clock_wall_us(), &why) == 0)
            credentials_warn(credentials, clock_wall_us(), say_warning, "node.tls");
        else
            n++, fprintf(stderr, "isoslice check-config: node.tls: %s\n", why.text);
        credentials_free(credentials);
    }
    for (size_t i = 0; i < conf->n_destinations; i++) {
        char name[64];
        snprintf(name, sizeof name, "destination '%s'", conf->destinations[i].name);
        if (deliver_credentials(conf, &conf->destinations[i], user, &credentials, &why) != 0)
            n++, fprintf(stderr, "isoslice check-config: %s\n", why.text);
        else if (credentials != NULL && credentials_check_time(credentials, clock_wall_us(), &why) != 0)
            n++, fprintf(stderr, "isoslice check-config: %s: %s\n", name, why.text);
        else if (credentials != NULL)
            credentials_warn(credentials, clock_wall_us(), say_warning, name);
        credentials_free(credentials);
    }
    return n;
}

// What the worker would refuse to start with. A file that is not named is looked for beside the program,
// which need not be installed where this runs.
static int check_weights(const struct conf *conf)
{
    struct fault_note why;
    char path[CONF_PATH_SIZE];
    if (conf->weights[0] == '\0' || process_find_weights(conf->weights, path, sizeof path, &why) == 0)
        return 0;
    fprintf(stderr, "isoslice check-config: bad 'weights' in 'work': %s\n", why.text);
    return 1;
}

// Not wrong, but perhaps not meant.
static void tell_unasked(const struct conf *conf)
{
    for (size_t i = 0; i < conf->n_destinations; i++) {
        const struct conf_destination *destination = &conf->destinations[i];
        if (strcmp(destination->commitment, "auto") == 0 && !conf_may_report(conf, destination))
            printf("destination '%s' is not asked to commit itself to what it gets: '%s' is not among the "
                   "senders\n",
                   destination->name, destination->ae_title);
    }
}

int command_check_config(int argc, char **argv)
{
    static const struct option options[] = {{"dump-config", no_argument, NULL, 'd'},
                                            {"sample", no_argument, NULL, 's'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    static struct conf conf;
    struct fault_note why;
    int c, dump = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 'd':
            dump = 1;
            break;
        case 's':
            conf_sample(stdout);
            return 0;
        case 'h':
            puts("usage: isoslice check-config [--dump-config] FILE\n"
                 "       isoslice check-config --sample\n\n"
                 "Checks a configuration file; errors name file, line, column, key, value and what would be "
                 "legal.\n"
                 "Keys, certificates and weights that a daemon would refuse are named too; run this as its "
                 "user, or as root.\n\n"
                 "  --dump-config  print every setting that is in force, with its explanation\n"
                 "  --sample       print the sample file, which is the manual\n\n"
                 "Exit code: 0 valid; 2 not.");
            return 0;
        default:
            return command_usage_error("check-config", "bad arguments");
        }
    }
    if (argc - optind != 1)
        return command_usage_error("check-config", "needs one FILE");
    struct process_options process;
    if (conf_load(argv[optind], &conf, &why) != 0 || process_options_from_conf(&conf, &process, &why) != 0)
        return command_fault("check-config", &why);
    struct user user;
    if (geteuid() == 0 && user_find(conf.user, &user, &why) != 0)
        return command_fault("check-config", &why);
    if (check_tls(&conf) + check_weights(&conf) > 0)
        return 2;
    if (dump) {
        conf_dump(&conf, stdout);
        return 0;
    }
    printf("%s: valid, %zu senders, %zu destinations\n", argv[optind], conf.n_senders, conf.n_destinations);
    tell_unasked(&conf);
    return 0;
}

// ---- phantom

int command_phantom(int argc, char **argv)
{
    enum { SEED = 256, MATRIX, SLICES, TRUTH };
    static const struct option options[] = {{"seed", required_argument, NULL, SEED},
                                            {"matrix", required_argument, NULL, MATRIX},
                                            {"slices", required_argument, NULL, SLICES},
                                            {"truth", no_argument, NULL, TRUTH},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct phantom_options phantom = {0};
    struct fault_note why;
    long long value;
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        int ok = 1;
        switch (c) {
        case SEED:
            ok = command_parse_int(optarg, 1, 2147483647, &value);
            phantom.seed = (uint32_t)value;
            break;
        case MATRIX:
            ok = command_parse_int(optarg, 32, 1024, &value);
            phantom.width = phantom.height = (int)value;
            break;
        case SLICES:
            ok = command_parse_int(optarg, 5, 200, &value);
            phantom.n_slices = (int)value;
            break;
        case TRUTH:
            phantom.is_isotropic = 1;
            break;
        case 'h':
            puts(
                "usage: isoslice phantom [options] DIR\n\n"
                "Computes a head-like phantom and writes it as a thick-slice T2-weighted series into DIR.\n\n"
                "  --seed N    of its details (default 1)\n"
                "  --matrix N  rows and columns (default 192)\n"
                "  --slices N  slices (default 20)\n"
                "  --truth     thin slices through the same range instead, to compare a result with");
            return 0;
        default:
            return command_usage_error("phantom", "bad arguments");
        }
        if (!ok)
            return command_usage_error("phantom", "bad value '%s'", optarg);
    }
    if (argc - optind != 1)
        return command_usage_error("phantom", "needs one DIR");
    int rc = file_make_directory(argv[optind], &why);
    if (rc == 0)
        rc = phantom_write(argv[optind], &phantom, &why);
    return rc == 0 ? 0 : command_fault("phantom", &why);
}

// ---- new-weights

int command_new_weights(int argc, char **argv)
{
    struct fault_note why;
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        puts("usage: isoslice new-weights FILE\n\n"
             "Writes untrained weights (safetensors) whose last layer is zero: the bare network then gives "
             "linear\n"
             "interpolation exactly, and a fine-tune starts from it.");
        return 0;
    }
    if (argc != 2 || argv[1][0] == '-')
        return command_usage_error("new-weights", "needs one FILE");
    return sr_write_start_weights(argv[1], 1, &why) == 0 ? 0 : command_fault("new-weights", &why);
}
