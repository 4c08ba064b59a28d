// SPDX-License-Identifier: Apache-2.0
#include "conf/conf.h"

#include "dicom_map/description.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

// ---- the schema

enum conf_type {
    TYPE_TEXT,
    TYPE_AE,
    TYPE_PATH,
    TYPE_INT,
    TYPE_REAL,
    TYPE_BOOL,
    TYPE_CHOICE,
    TYPE_SPACING,
    TYPE_VIEWS,
    TYPE_DESCRIPTION,
    TYPE_CIDR,
    TYPE_SHA256
};

struct conf_key {
    const char *section; // NULL: top level; "a.b": a mapping b within a
    const char *name;
    enum conf_type type;
    size_t offset, size;  // of the field (size for texts)
    double min, max;      // of numbers; of the length of texts
    const char *fallback; // default, as it would stand in the file; NULL in lists: required
    const char *choices;  // TYPE_CHOICE: "a|b|c"
    const char *help;
};

#define FIELD(name) offsetof(struct conf, name), sizeof(((struct conf *)0)->name)

static const struct conf_key keys[] = {
    {NULL, "site_id", TYPE_TEXT, FIELD(site_id), 1, 64, "default", NULL,
     "Names this installation; part of every UID we make. Two sites must not share one."},
    {"node", "ae_title", TYPE_AE, FIELD(ae_title), 1, 16, "ISOSLICE", NULL,
     "Our AE title, called by senders."},
    {"node", "bind", TYPE_TEXT, FIELD(bind), 7, 15, "127.0.0.1", NULL,
     "IPv4 address to listen at; 0.0.0.0 for all. The default is reached from this machine only."},
    {"node", "port", TYPE_INT, FIELD(port), 0, 65535, "11112", NULL,
     "TCP port to listen at without TLS; 0: none."},
    {"node", "spool", TYPE_PATH, FIELD(spool), 1, CONF_PATH_SIZE - 1, "/var/lib/isoslice", NULL,
     "Folder of everything received, computed and queued. Holds patient data: mode 0700."},
    {"node", "user", TYPE_TEXT, FIELD(user), 0, USER_NAME_SIZE - 1, "", NULL,
     "User that daemons become when root starts them, once ports are bound and keys are read; the spool must "
     "be "
     "theirs. A key that only root can read is not read again on SIGHUP. Empty: they stay who they are."},
    {"node", "log_level", TYPE_CHOICE, FIELD(log_level), 0, 0, "info", "error|warning|info|debug",
     "What is logged."},
    {"node", "station_name", TYPE_AE, FIELD(station_name), 1, 16, "ISOSLICE", NULL,
     "Station Name (0008,1010) of the derived series."},
    {"node.tls", "port", TYPE_INT, FIELD(tls_port), 0, 65535, "0", NULL,
     "TCP port to listen at with TLS, beside or instead of node.port; 0: none. The usual one is 2762."},
    {"node.tls", "certificate", TYPE_PATH, FIELD(tls_certificate), 0, CONF_PATH_SIZE - 1, "", NULL,
     "Our certificate (PEM), then those between it and its root."},
    {"node.tls", "key", TYPE_PATH, FIELD(tls_key), 0, CONF_PATH_SIZE - 1, "", NULL,
     "Its private key (PEM, not encrypted); a file of root or of the user who runs this, mode 0600 or 0400."},
    {"node.tls", "ca", TYPE_PATH, FIELD(tls_ca), 0, CONF_PATH_SIZE - 1, "", NULL,
     "Certificates (PEM) of those who may vouch for peers. A peer without such a certificate is refused."},
    {"node.tls", "crl", TYPE_PATH, FIELD(tls_crl), 0, CONF_PATH_SIZE - 1, "", NULL,
     "Their revocation lists (PEM), one for every CA that issued a peer's certificate; where it is missing "
     "or has "
     "expired, its peers are refused. Empty: none are asked for."},

    {"receive", "max_associations", TYPE_INT, FIELD(max_associations), 1, 1000, "32", NULL,
     "Associations at a time; more are rejected as a local limit."},
    {"receive", "max_associations_per_address", TYPE_INT, FIELD(max_associations_per_address), 1, 1000, "8",
     NULL, "The same, from one address."},
    {"receive", "acse_timeout_s", TYPE_REAL, FIELD(acse_timeout_s), 1, 600, "10", NULL,
     "Seconds a peer may take to ask for its association."},
    {"receive", "dimse_timeout_s", TYPE_REAL, FIELD(dimse_timeout_s), 1, 3600, "60", NULL,
     "Seconds of silence within an association, and in which a fragment of a message must be whole."},
    {"receive", "association_limit_s", TYPE_REAL, FIELD(association_limit_s), 1, 86400, "1800", NULL,
     "Seconds an association may last altogether."},
    {"receive", "max_object_mb", TYPE_INT, FIELD(max_object_mb), 1, 4096, "512", NULL,
     "Size of one object; larger ones are answered A700."},
    {"receive", "max_enhanced_mb", TYPE_INT, FIELD(max_enhanced_mb), 1, 2048, "2048", NULL,
     "The same of Enhanced MR, where one object is a whole series."},
    {"receive", "disk_reserve_mb", TYPE_INT, FIELD(disk_reserve_mb), 0, 1e9, "1024", NULL,
     "Space that stays free on the spool's disk; below it new associations are rejected as congestion and "
     "objects answered A700."},
    {"receive", "quiet_s", TYPE_REAL, FIELD(quiet_s), 0.1, 86400, "60", NULL,
     "A series is complete when its sender has no association open and nothing came for this long; sooner "
     "when "
     "as many images came as its headers say, or as the archive (query) does twice, 10 s apart."},
    {"receive", "incomplete_s", TYPE_REAL, FIELD(incomplete_s), 0.1, 604800, "900", NULL,
     "The same when images are known to be missing: by that number, a gap in positions or in Instance "
     "Numbers. "
     "Then the job is made all the same, and says so. Less than quiet_s counts as quiet_s."},
    {"receive", "commitment", TYPE_BOOL, FIELD(commitment), 0, 0, "true", NULL,
     "Answer senders that ask whether their images are kept (storage commitment). They are for keep_days."},

    {"work", "backend", TYPE_CHOICE, FIELD(backend), 0, 0, "auto", "auto|cpu|cuda|cuda16|ref",
     "What computes."},
    {"work", "gpu", TYPE_INT, FIELD(gpu), -1, 63, "-1", NULL,
     "Which GPU, numbered as nvidia-smi does; -1: the first. With several, a worker for each, with a "
     "configuration of its own."},
    {"work", "weights", TYPE_PATH, FIELD(weights), 0, CONF_PATH_SIZE - 1, "", NULL,
     "Weights file (safetensors); empty: the one installed with the program."},
    {"work", "finetune", TYPE_BOOL, FIELD(finetune), 0, 0, "true", NULL,
     "Adapt the network to every subject."},
    {"work", "steps", TYPE_INT, FIELD(steps), 0, 100000, "0", NULL,
     "Steps of that adaptation; 0: as many as budget_s allows, at most 600."},
    {"work", "budget_s", TYPE_REAL, FIELD(budget_s), 1, 86400, "120", NULL, "Seconds of that adaptation."},
    {"work", "recipe", TYPE_TEXT, FIELD(recipe), 0, 255, "", NULL,
     "How it learns and how the network is used, name=value with colons between (isoslice train subject "
     "--help has the names); empty: the defaults."},
    {"work", "seed", TYPE_INT, FIELD(seed), 0, 2147483647, "1", NULL, "Of its random choices."},
    {"work", "threads", TYPE_INT, FIELD(threads), 0, 1024, "0", NULL, "0: all processors."},
    {"work", "memory_mb", TYPE_INT, FIELD(memory_mb), 0, 1e9, "0", NULL,
     "Working memory of the engine; 0: 3072, halved until it is at most half of what is free."},
    {"work", "spacing", TYPE_SPACING, FIELD(spacing), 0, 0, "isotropic", NULL,
     "Spacing of the derived planes: isotropic (exactly the in-plane spacing), recur (the nearest spacing at "
     "which "
     "acquired planes recur) or a number of millimetres."},
    {"work", "views", TYPE_VIEWS, FIELD(views), 0, 0, "", NULL,
     "Further series of the same voxels in other planes, each delivered like the first: sagittal, coronal, "
     "axial "
     "with commas between, or all. Nothing is resampled for them; of an oblique stack they are the volume's "
     "own "
     "planes. The stack's own plane is there anyway. Empty: none."},
    {"work", "preview", TYPE_BOOL, FIELD(preview), 0, 0, "false", NULL,
     "Write a picture of linear interpolation and the result beside each report in the spool."},
    {"work", "lease_s", TYPE_REAL, FIELD(lease_s), 1, 3600, "60", NULL,
     "A job whose worker was not heard of for this long is given to another."},
    {"work", "max_attempts", TYPE_INT, FIELD(max_attempts), 1, 1000, "20", NULL,
     "After so many attempts that ended without an answer a job is held."},

    {"derive", "series_number", TYPE_INT, FIELD(series_number), 10, 100000, "1000", NULL,
     "Offset of Series Number. A series derived from 7 is 1007, from the second stack of 7 it is 2007; its "
     "sagittal, "
     "coronal and axial views are 11007, 21007 and 31007. Source numbers of the offset and more are "
     "multiplied by "
     "100 instead, and 1, 2, ... added."},
    {"derive", "description", TYPE_DESCRIPTION, FIELD(description), 0, 0, DESCRIPTION_DEFAULT, NULL,
     "Series Description. {source} is the source's, cut so that the whole keeps to 64 bytes; {kind} SR-AI or "
     "INTERP; "
     "{method} tuned, base, cubic or linear; {spacing} millimetres, as 0.60; {view} SAG, COR or AX with a "
     "blank "
     "before it, or nothing; {late} +2 late with a blank before it, or nothing. NFPD, not for primary "
     "diagnosis, must "
     "stand in it."},

    {"send", "connect_timeout_s", TYPE_REAL, FIELD(connect_timeout_s), 1, 600, "10", NULL,
     "Seconds to wait for a destination to answer the call."},
    {"send", "retry_min_s", TYPE_REAL, FIELD(retry_min_s), 0.1, 86400, "5", NULL,
     "Pause after the first temporary failure; it doubles with every further one."},
    {"send", "retry_max_s", TYPE_REAL, FIELD(retry_max_s), 0.1, 86400, "900", NULL, "Longest pause."},
    {"send", "give_up_h", TYPE_REAL, FIELD(give_up_h), 0.001, 8760, "72", NULL,
     "A delivery that failed for so many hours is held."},
    {"send", "commitment_h", TYPE_REAL, FIELD(commitment_h), 0.001, 720, "24", NULL,
     "Hours that a destination may take to answer a request for storage commitment before it is asked "
     "again."},

    {"retention", "keep_days", TYPE_INT, FIELD(keep_days), 0, 36500, "14", NULL,
     "Days that received and derived objects are kept after all was delivered; 0: for ever."},
};
enum { N_KEYS = sizeof keys / sizeof keys[0] };

#define SENDER_FIELD(name) offsetof(struct conf_sender, name), sizeof(((struct conf_sender *)0)->name)
#define DESTINATION_FIELD(name)                                                                              \
    offsetof(struct conf_destination, name), sizeof(((struct conf_destination *)0)->name)

static const struct conf_key sender_keys[] = {
    {"senders", "ae_title", TYPE_AE, SENDER_FIELD(ae_title), 1, 16, NULL, NULL, "Its calling AE title."},
    {"senders", "address", TYPE_CIDR, SENDER_FIELD(address), 7, 18, NULL, NULL,
     "Its IPv4 address, or a network as 192.0.2.0/24."},
    {"senders", "certificate_sha256", TYPE_SHA256, SENDER_FIELD(certificate_sha256), 0,
     CREDENTIALS_SHA256_SIZE - 1, "", NULL,
     "SHA-256 fingerprints of its certificates. With these or the next it must use TLS, with such a one."},
    {"senders", "certificate_name", TYPE_TEXT, SENDER_FIELD(certificate_name), 0, CONF_TEXT_SIZE - 1, "",
     NULL,
     "Host name or address in its certificate, or the whole subject as CN=mr1,O=Hospital. Without both: any "
     "of a known CA."},
    {"senders", "report_port", TYPE_INT, SENDER_FIELD(report_port), 0, 65535, "0", NULL,
     "TCP port where it takes storage commitment reports; 0: only on the association that asked."},
    {"senders", "report_host", TYPE_TEXT, SENDER_FIELD(report_host), 0, CONF_TEXT_SIZE - 1, "", NULL,
     "Host name or address of that port. Empty: the address that the request came from."},
    {"senders", "report_tls", TYPE_BOOL, SENDER_FIELD(report_tls), 0, 0, "false", NULL,
     "Report with TLS, with the files of node.tls."},
    {"senders", "daily_mb", TYPE_INT, SENDER_FIELD(daily_mb), 0, 1e9, "0", NULL,
     "What may be kept of this AE title within 24 hours; more is answered A700. 0: no such limit."},
    {"senders", "max_open_series", TYPE_INT, SENDER_FIELD(max_open_series), 0, 10000, "0", NULL,
     "Series of this AE title that may be gathering at a time; more are answered A700. 0: no such limit."},
};
static const struct conf_key destination_keys[] = {
    {"destinations", "name", TYPE_TEXT, DESTINATION_FIELD(name), 1, 32, NULL, NULL,
     "Our name for it, unique."},
    {"destinations", "ae_title", TYPE_AE, DESTINATION_FIELD(ae_title), 1, 16, NULL, NULL, "Its AE title."},
    {"destinations", "host", TYPE_TEXT, DESTINATION_FIELD(host), 1, 255, NULL, NULL, "Host name or address."},
    {"destinations", "port", TYPE_INT, DESTINATION_FIELD(port), 1, 65535, NULL, NULL, "TCP port."},
    {"destinations", "tls", TYPE_BOOL, DESTINATION_FIELD(tls), 0, 0, "false", NULL, "Use TLS."},
    {"destinations", "ca", TYPE_PATH, DESTINATION_FIELD(ca), 0, CONF_PATH_SIZE - 1, "", NULL,
     "Who may vouch for it (PEM). Empty, as with the next three: that of node.tls."},
    {"destinations", "crl", TYPE_PATH, DESTINATION_FIELD(crl), 0, CONF_PATH_SIZE - 1, "", NULL,
     "Their revocation lists; of node.tls only together with its ca."},
    {"destinations", "own_certificate", TYPE_PATH, DESTINATION_FIELD(own_certificate), 0, CONF_PATH_SIZE - 1,
     "", NULL, "What we show."},
    {"destinations", "own_key", TYPE_PATH, DESTINATION_FIELD(own_key), 0, CONF_PATH_SIZE - 1, "", NULL,
     "Its private key."},
    {"destinations", "certificate_sha256", TYPE_SHA256, DESTINATION_FIELD(certificate_sha256), 0,
     CREDENTIALS_SHA256_SIZE - 1, "", NULL, "SHA-256 fingerprints of its certificates."},
    {"destinations", "certificate_name", TYPE_TEXT, DESTINATION_FIELD(certificate_name), 0,
     CONF_TEXT_SIZE - 1, "", NULL,
     "Name in its certificate, as for senders. Empty: host, unless there are fingerprints."},
    {"destinations", "format", TYPE_CHOICE, DESTINATION_FIELD(format), 0, 0, "classic", "classic|enhanced",
     "What it gets of every derived series: one MR object for each image, or one Enhanced MR object. There "
     "is "
     "no falling back: a destination that does not accept Enhanced MR gets nothing, and its deliveries are "
     "held."},
    {"destinations", "query", TYPE_BOOL, DESTINATION_FIELD(query), 0, 0, "false", NULL,
     "Ask it how many images a series has (C-FIND, Study Root), so that a complete one starts before quiet_s "
     "and one that lacks some does not. At most one."},
    {"destinations", "commitment", TYPE_CHOICE, DESTINATION_FIELD(commitment), 0, 0, "auto",
     "auto|required|never",
     "Ask it to commit itself to what it got (storage commitment), and send again what it lacks. Its AE "
     "title "
     "must be among the senders, or it could not answer. auto: where it takes the request; required: else "
     "its "
     "deliveries are held; never."},
    {"destinations", "notices", TYPE_BOOL, DESTINATION_FIELD(notices), 0, 0, "false", NULL,
     "Where a series was expected and none could be derived, send it an image that says why, into the study "
     "of the "
     "source (Secondary Capture)."},
};

#define RULE_FIELD(name) offsetof(struct conf_rule, name), sizeof(((struct conf_rule *)0)->name)
#define RULE_PATTERN(name, label, help)                                                                      \
    {                                                                                                        \
        "rules", name, TYPE_TEXT, RULE_FIELD(labels[label]), 0, CONF_TEXT_SIZE - 1, "", NULL, help           \
    }

static const struct conf_key rule_keys[] = {
    {"rules", "name", TYPE_TEXT, RULE_FIELD(name), 1, 32, NULL, NULL,
     "What the log and the queue call it, unique."},
    {"rules", "sender", TYPE_TEXT, RULE_FIELD(sender), 0, CONF_TEXT_SIZE - 1, "", NULL,
     "Calling AE title of who sent the series. This and the next are patterns: * is any characters, ? one, | "
     "stands between patterns of which one is enough, upper and lower case are the same. Empty: any."},
    RULE_PATTERN("manufacturer", LABEL_MANUFACTURER, "(0008,0070) of the series."),
    RULE_PATTERN("model", LABEL_MODEL, "Manufacturer's Model Name (0008,1090)."),
    RULE_PATTERN("station", LABEL_STATION, "Station Name (0008,1010)."),
    RULE_PATTERN("institution", LABEL_INSTITUTION, "Institution Name (0008,0080)."),
    RULE_PATTERN("body_part", LABEL_BODY_PART, "Body Part Examined (0018,0015)."),
    RULE_PATTERN("study_description", LABEL_STUDY_DESCRIPTION, "(0008,1030)."),
    RULE_PATTERN("series_description", LABEL_SERIES_DESCRIPTION, "(0008,103E)."),
    RULE_PATTERN("protocol", LABEL_PROTOCOL, "Protocol Name (0018,1030)."),
    RULE_PATTERN("sequence", LABEL_SEQUENCE, "Sequence Name (0018,0024)."),
    RULE_PATTERN("image_type", LABEL_IMAGE_TYPE, "(0008,0008), its values with backslashes between."),
    {"rules", "min_slice_mm", TYPE_REAL, RULE_FIELD(min_slice_mm), 0, 1000, "0", NULL,
     "Slices at least so far apart."},
    {"rules", "action", TYPE_CHOICE, RULE_FIELD(action), 0, 0, "process", "process|ignore",
     "process, or ignore: nothing is derived, the queue says BY_RULE and the rule's name."},
    {"rules", "destinations", TYPE_TEXT, RULE_FIELD(destinations), 0, CONF_TEXT_SIZE - 1, "", NULL,
     "Names of the destinations that get what is derived, with commas between. Empty: all."},
};
enum {
    N_RULE_KEYS = sizeof rule_keys / sizeof rule_keys[0],
    N_SENDER_KEYS = sizeof sender_keys / sizeof sender_keys[0],
    N_DESTINATION_KEYS = sizeof destination_keys / sizeof destination_keys[0],
    MAX_LIST_KEYS = 32
};
_Static_assert((int)N_DESTINATION_KEYS <= (int)MAX_LIST_KEYS && (int)N_SENDER_KEYS <= (int)MAX_LIST_KEYS &&
                   (int)N_RULE_KEYS <= (int)MAX_LIST_KEYS,
               "read_list has a flag per key");

static const char *const section_help[][2] = {
    {"node", "The node itself."},
    {"node.tls",
     "Encrypted and mutually authenticated connections (DICOM's BCP 195 profile: TLS 1.2 and 1.3)."},
    {"receive", "Reception (isoslice-receive)."},
    {"work", "Computation (isoslice-work)."},
    {"derive", "What derived series are called."},
    {"send", "Sending (isoslice-send)."},
    {"retention", "How long patient data stay here."},
    {"senders", "Who may send to us; everybody else is refused. A list."},
    {"destinations", "Where derived series are sent. A list."},
    {"rules",
     "What becomes of which series. A list: the first rule that fits decides; what none fits is processed "
     "and "
     "sent to every destination. A rule without conditions fits all: the last may be one. What Isoslice "
     "itself refuses no rule makes it process. isoslice rules tries them on files."},
};

// ---- one small parser per kind of value; each names the legal range

static int parse_number(const char *text, double *value)
{
    char *end;
    errno = 0;
    *value = strtod(text, &end);
    return *text != '\0' && *end == '\0' && errno == 0 && isfinite(*value);
}

static int parse_cidr(const char *text, uint32_t *network, uint32_t *mask)
{
    char address[INET_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t n = slash ? (size_t)(slash - text) : strlen(text);
    if (n >= sizeof address)
        return 0;
    memcpy(address, text, n);
    address[n] = '\0';
    long bits = 32;
    if (slash != NULL) {
        char *end;
        bits = strtol(slash + 1, &end, 10);
        if (slash[1] == '\0' || *end != '\0' || bits < 0 || bits > 32)
            return 0;
    }
    struct in_addr parsed;
    if (inet_pton(AF_INET, address, &parsed) != 1)
        return 0;
    *mask = bits == 0 ? 0 : (uint32_t)(0xffffffffu << (32 - bits));
    *network = ntohl(parsed.s_addr) & *mask;
    return 1;
}

static int ae_title_is_valid(const char *text)
{
    size_t n = strlen(text);
    if (n < 1 || n > 16 || text[0] == ' ' || text[n - 1] == ' ')
        return 0;
    for (const char *p = text; *p != '\0'; p++)
        if (*p < 0x20 || *p > 0x7e || *p == '\\')
            return 0;
    return 1;
}

int conf_parse_spacing(const char *text, int *mode, double *mm)
{
    *mm = 0;
    if (strcmp(text, "isotropic") == 0) {
        *mode = 0;
        return 1;
    }
    if (strcmp(text, "recur") == 0) {
        *mode = 1;
        return 1;
    }
    *mode = 2;
    return parse_number(text, mm) && *mm >= 0.05 && *mm <= 20;
}

int conf_parse_views(const char *text, unsigned *views)
{
    static const char *const names[] = {"sagittal", "coronal", "axial"};
    unsigned found = 0;
    int is_all = strcmp(text, "all") == 0;
    for (const char *p = text; !is_all && *p != '\0';) {
        size_t n = strcspn(p, ",");
        unsigned bit = 0;
        for (unsigned i = 0; i < 3; i++)
            if (strlen(names[i]) == n && strncmp(p, names[i], n) == 0)
                bit = 1u << i;
        if (bit == 0 || (found & bit) != 0 || (p[n] == ',' && p[n + 1] == '\0'))
            return 0;
        found |= bit;
        p += n + (p[n] == ',');
    }
    *views = is_all ? 7 : found;
    return 1;
}

// What no setting needs, and what would come back from a printed file as something else.
static int has_control(const char *text)
{
    for (const char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7F)
            return 1;
    return 0;
}

static int choice_is_valid(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *p = choices; n > 0 && p != NULL; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strncmp(p, text, n) == 0 && (p[n] == '|' || p[n] == '\0'))
            return 1;
    return 0;
}

// Stores `text` in the field, or writes what would have been legal into `legal` and returns 0.
static int set_value(const struct conf_key *key, void *base, const char *text, char *legal, size_t legal_size)
{
    char *field = (char *)base + key->offset;
    double number;
    switch (key->type) {
    case TYPE_TEXT:
    case TYPE_PATH:
        snprintf(legal, legal_size, "a text of %.0f to %.0f characters, none of them a control character",
                 key->min, key->max);
        if ((double)strlen(text) < key->min || (double)strlen(text) > key->max || has_control(text))
            return 0;
        break;
    case TYPE_AE:
        snprintf(legal, legal_size, "1 to 16 printable ASCII characters, no backslash, no space at the ends");
        if (!ae_title_is_valid(text))
            return 0;
        break;
    case TYPE_CHOICE:
        snprintf(legal, legal_size, "one of %s", key->choices);
        if (!choice_is_valid(key->choices, text))
            return 0;
        break;
    case TYPE_SPACING: {
        int mode;
        snprintf(legal, legal_size, "isotropic, recur, or 0.05 to 20 (mm)");
        if (!conf_parse_spacing(text, &mode, &number))
            return 0;
        break;
    }
    case TYPE_VIEWS: {
        unsigned views;
        snprintf(legal, legal_size, "all, or sagittal, coronal, axial with commas between, each once");
        if (!conf_parse_views(text, &views))
            return 0;
        break;
    }
    case TYPE_DESCRIPTION:
        snprintf(
            legal, legal_size,
            "printable ASCII with NFPD and {source}, {kind}, {method}, {spacing}, {view}, {late}; at most 64 "
            "characters besides the source's");
        if (!description_is_valid(text) || strlen(text) >= key->size)
            return 0;
        break;
    case TYPE_CIDR: {
        struct conf_sender *sender = base;
        snprintf(legal, legal_size, "an IPv4 address or network such as 192.0.2.0/24");
        if (!parse_cidr(text, &sender->network, &sender->mask))
            return 0;
        break;
    }
    case TYPE_SHA256:
        snprintf(legal, legal_size, "SHA-256 fingerprints: 64 hexadecimal digits each, up to %.0f characters",
                 key->max);
        if (text[0] != '\0' && (!credentials_sha256_is_valid(text) || (double)strlen(text) > key->max))
            return 0;
        break;
    case TYPE_INT:
        snprintf(legal, legal_size, "a whole number from %.0f to %.0f", key->min, key->max);
        if (!parse_number(text, &number) || number != floor(number) || number < key->min || number > key->max)
            return 0;
        *(int64_t *)(void *)field = (int64_t)number;
        return 1;
    case TYPE_REAL:
        snprintf(legal, legal_size, "a number from %g to %g", key->min, key->max);
        if (!parse_number(text, &number) || number < key->min || number > key->max)
            return 0;
        *(double *)(void *)field = number;
        return 1;
    case TYPE_BOOL:
        snprintf(legal, legal_size, "true or false");
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return 0;
        *(int *)(void *)field = strcmp(text, "true") == 0;
        return 1;
    }
    snprintf(field, key->size, "%s", text);
    return 1;
}

void conf_defaults(struct conf *conf)
{
    char legal[CONF_TEXT_SIZE];
    memset(conf, 0, sizeof *conf);
    for (size_t i = 0; i < N_KEYS; i++)
        set_value(&keys[i], conf, keys[i].fallback, legal, sizeof legal);
}

// ---- reading

struct reader {
    const char *path;
    yaml_document_t document;
    struct fault_note *why;
};

static int error_at(const struct reader *reader, yaml_mark_t mark, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int error_at(const struct reader *reader, yaml_mark_t mark, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return fault_set(reader->why, FAULT_CONFIG, "%s:%zu:%zu: %s", reader->path, mark.line + 1,
                     mark.column + 1, text);
}

static const char *scalar(const yaml_node_t *node)
{
    return (const char *)node->data.scalar.value;
}

static int has_section(const struct conf_key *table, size_t n_table, const char *section)
{
    for (size_t i = 0; i < n_table; i++)
        if (table[i].section != NULL && strcmp(table[i].section, section) == 0)
            return 1;
    return 0;
}

// One mapping of scalars, and of such mappings where the table has a section "a.b". `seen` has a flag per
// key.
static int read_mapping(struct reader *reader, yaml_node_t *node, const char *section,
                        const struct conf_key *table, size_t n_table, void *base, char *seen)
{
    const char *where = section ? section : "top level";
    if (node->type != YAML_MAPPING_NODE)
        return error_at(reader, node->start_mark, "bad '%s': must be a mapping of keys to values", where);
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top;
         pair++) {
        yaml_node_t *key = yaml_document_get_node(&reader->document, pair->key);
        yaml_node_t *value = yaml_document_get_node(&reader->document, pair->value);
        if (key->type != YAML_SCALAR_NODE)
            return error_at(reader, key->start_mark, "bad key in '%s': must be a plain word", where);
        char inner[64];
        snprintf(inner, sizeof inner, "%s.%.32s", where, scalar(key));
        if (has_section(table, n_table, inner)) {
            int rc = value->type == YAML_SCALAR_NODE && *scalar(value) == '\0'
                         ? 0
                         : read_mapping(reader, value, inner, table, n_table, base, seen);
            if (rc != 0)
                return rc;
            continue;
        }
        size_t i = 0;
        while (i < n_table && !((section == NULL) == (table[i].section == NULL) &&
                                (section == NULL || strcmp(section, table[i].section) == 0) &&
                                strcmp(table[i].name, scalar(key)) == 0))
            i++;
        if (i == n_table)
            return error_at(reader, key->start_mark, "unknown key '%s' in '%s'", scalar(key), where);
        if (seen[i]++)
            return error_at(reader, key->start_mark, "key '%s' given twice in '%s'", scalar(key), where);
        if (value->type != YAML_SCALAR_NODE)
            return error_at(reader, value->start_mark, "bad '%s': must be a single value", scalar(key));
        char legal[CONF_TEXT_SIZE];
        if (!set_value(&table[i], base, scalar(value), legal, sizeof legal))
            return error_at(reader, value->start_mark, "bad '%s': '%s' is not %s", scalar(key), scalar(value),
                            legal);
    }
    return 0;
}

// A list of mappings. Keys without a default are required.
static int read_list(struct reader *reader, yaml_node_t *node, const struct conf_key *table, size_t n_table,
                     void *items, size_t item_size, size_t max_items, size_t *n_items)
{
    const char *section = table[0].section;
    if (node->type == YAML_SCALAR_NODE && *scalar(node) == '\0')
        return 0; // "senders:" with nothing below it
    if (node->type != YAML_SEQUENCE_NODE)
        return error_at(reader, node->start_mark, "bad '%s': must be a list", section);
    yaml_node_item_t *item = node->data.sequence.items.start;
    for (; item < node->data.sequence.items.top; item++) {
        yaml_node_t *entry = yaml_document_get_node(&reader->document, *item);
        char legal[CONF_TEXT_SIZE], seen[MAX_LIST_KEYS] = {0};
        void *into = (char *)items + *n_items * item_size;
        if (*n_items == max_items)
            return error_at(reader, entry->start_mark, "too many '%s': at most %zu", section, max_items);
        for (size_t i = 0; i < n_table; i++)
            if (table[i].fallback != NULL)
                set_value(&table[i], into, table[i].fallback, legal, sizeof legal);
        int rc = read_mapping(reader, entry, section, table, n_table, into, seen);
        if (rc != 0)
            return rc;
        for (size_t i = 0; i < n_table; i++)
            if (!seen[i] && table[i].fallback == NULL)
                return error_at(reader, entry->start_mark, "missing key '%s' in '%s'", table[i].name,
                                section);
        ++*n_items;
    }
    return 0;
}

static int read_section(struct reader *reader, yaml_node_t *key, yaml_node_t *value, struct conf *conf,
                        char *seen)
{
    const char *name = scalar(key);
    if (strcmp(name, "senders") == 0)
        return read_list(reader, value, sender_keys, N_SENDER_KEYS, conf->senders, sizeof conf->senders[0],
                         CONF_MAX_SENDERS, &conf->n_senders);
    if (strcmp(name, "destinations") == 0)
        return read_list(reader, value, destination_keys, N_DESTINATION_KEYS, conf->destinations,
                         sizeof conf->destinations[0], CONF_MAX_DESTINATIONS, &conf->n_destinations);
    if (strcmp(name, "rules") == 0)
        return read_list(reader, value, rule_keys, N_RULE_KEYS, conf->rules, sizeof conf->rules[0],
                         CONF_MAX_RULES, &conf->n_rules);
    for (size_t i = 0; i < N_KEYS; i++) {
        if (keys[i].section == NULL && strcmp(keys[i].name, name) == 0) {
            char legal[CONF_TEXT_SIZE];
            if (value->type != YAML_SCALAR_NODE)
                return error_at(reader, value->start_mark, "bad '%s': must be a single value", name);
            if (!set_value(&keys[i], conf, scalar(value), legal, sizeof legal))
                return error_at(reader, value->start_mark, "bad '%s': '%s' is not %s", name, scalar(value),
                                legal);
            return 0;
        }
        if (keys[i].section != NULL && strcmp(keys[i].section, name) == 0) {
            if (value->type == YAML_SCALAR_NODE && *scalar(value) == '\0')
                return 0;
            return read_mapping(reader, value, name, keys, N_KEYS, conf, seen);
        }
    }
    return error_at(reader, key->start_mark, "unknown key '%s' in 'top level'", name);
}

static int check_files(struct reader *reader, yaml_mark_t mark, const char *whose,
                       const struct credentials_files *files)
{
    const char *missing = files->certificate[0] == '\0' ? "certificate"
                          : files->key[0] == '\0'       ? "key"
                          : files->ca[0] == '\0'        ? "ca"
                                                        : NULL;
    return missing ? error_at(reader, mark, "bad '%s': TLS needs a %s", whose, missing) : 0;
}

static int check_tls(struct reader *reader, const struct conf *conf, yaml_mark_t mark)
{
    int rc = 0;
    if (conf->port == 0 && conf->tls_port == 0)
        return error_at(reader, mark, "bad 'node': neither 'port' nor 'tls.port' is a port to listen at");
    if (conf->port == conf->tls_port)
        return error_at(reader, mark, "bad 'node.tls': 'port' is that of 'node', %lld",
                        (long long)conf->port);
    int is_used = conf->tls_port != 0;
    for (size_t i = 0; i < conf->n_senders; i++)
        is_used = is_used || conf->senders[i].report_tls;
    if (is_used) {
        struct credentials_files files = conf_node_files(conf, 0);
        rc = check_files(reader, mark, "node.tls", &files);
    }
    for (size_t i = 0; i < conf->n_senders && rc == 0; i++)
        if (conf->tls_port == 0 && conf_sender_is_pinned(&conf->senders[i]))
            rc = error_at(reader, mark,
                          "bad 'senders': '%s' must show a certificate, but 'node.tls' has no port",
                          conf->senders[i].ae_title);
    for (size_t i = 0; i < conf->n_destinations && rc == 0; i++) {
        struct credentials_files files = conf_destination_files(conf, &conf->destinations[i], 0);
        if (conf->destinations[i].tls)
            rc = check_files(reader, mark, conf->destinations[i].name, &files);
    }
    return rc;
}

static int fits_all(const struct conf_rule *rule)
{
    int n = rule->sender[0] != '\0' || rule->min_slice_mm > 0;
    for (int i = 0; i < N_LABELS; i++)
        n += rule->labels[i][0] != '\0';
    return n == 0;
}

// Finds the destinations that a rule names.
static int resolve_rule(struct reader *reader, const struct conf *conf, struct conf_rule *rule,
                        yaml_mark_t mark)
{
    int is_ignored = strcmp(rule->action, "ignore") == 0;
    rule->to = rule->destinations[0] == '\0' && !is_ignored ? ~0u : 0;
    if (is_ignored && rule->destinations[0] != '\0')
        return error_at(reader, mark, "bad 'rules': '%s' ignores series, but has destinations", rule->name);
    for (const char *p = rule->destinations; *p != '\0';) {
        size_t n, i = 0;
        p += strspn(p, " ");
        n = strcspn(p, ",");
        while (n > 0 && p[n - 1] == ' ')
            n--;
        while (i < conf->n_destinations &&
               !(strlen(conf->destinations[i].name) == n && strncmp(conf->destinations[i].name, p, n) == 0))
            i++;
        if (i == conf->n_destinations)
            return error_at(reader, mark, "bad 'rules': '%s' names destination '%.*s', which there is not",
                            rule->name, (int)n, p);
        rule->to |= 1u << i;
        p += strcspn(p, ",");
        p += *p == ',';
    }
    return 0;
}

static int check_rules(struct reader *reader, struct conf *conf, yaml_mark_t mark)
{
    int rc = 0;
    for (size_t i = 0; i < conf->n_rules && rc == 0; i++) {
        for (size_t j = 0; j < i; j++)
            if (strcmp(conf->rules[i].name, conf->rules[j].name) == 0)
                return error_at(reader, mark, "bad 'rules': name '%s' given twice", conf->rules[i].name);
            else if (fits_all(&conf->rules[j]))
                return error_at(reader, mark, "bad 'rules': '%s' is never looked at, '%s' before it fits all",
                                conf->rules[i].name, conf->rules[j].name);
        rc = resolve_rule(reader, conf, &conf->rules[i], mark);
    }
    return rc;
}

static int check_whole(struct reader *reader, struct conf *conf, yaml_mark_t mark)
{
    for (size_t i = 0; i < conf->n_destinations; i++)
        if (strcmp(conf->destinations[i].commitment, "required") == 0 &&
            !conf_may_report(conf, &conf->destinations[i]))
            return error_at(
                reader, mark,
                "bad 'destinations': '%s' is to commit itself, but '%s' is not among the senders, "
                "so that its answer would be rejected",
                conf->destinations[i].name, conf->destinations[i].ae_title);
    for (size_t i = 0; i < conf->n_destinations; i++)
        for (size_t j = 0; j < i; j++)
            if (conf->destinations[i].query && conf->destinations[j].query)
                return error_at(reader, mark, "bad 'destinations': 'query' is true for both '%s' and '%s'",
                                conf->destinations[j].name, conf->destinations[i].name);
            else if (strcmp(conf->destinations[i].name, conf->destinations[j].name) == 0)
                return error_at(reader, mark, "bad 'destinations': name '%s' given twice",
                                conf->destinations[i].name);
    struct in_addr parsed;
    if (inet_pton(AF_INET, conf->bind, &parsed) != 1)
        return error_at(reader, mark, "bad 'bind': '%s' is not an IPv4 address", conf->bind);
    if (conf->retry_max_s < conf->retry_min_s)
        return error_at(reader, mark, "bad 'retry_max_s': %g is less than 'retry_min_s', %g",
                        conf->retry_max_s, conf->retry_min_s);
    int rc = check_rules(reader, conf, mark);
    return rc != 0 ? rc : check_tls(reader, conf, mark);
}

static int read_document(struct reader *reader, struct conf *conf)
{
    char seen[N_KEYS] = {0};
    yaml_node_t *root = yaml_document_get_root_node(&reader->document);
    if (root == NULL)
        return fault_set(reader->why, FAULT_CONFIG, "%s:1:1: the file is empty", reader->path);
    if (root->type != YAML_MAPPING_NODE)
        return error_at(reader, root->start_mark, "bad file: must be a mapping of keys to values");
    yaml_node_pair_t *first = root->data.mapping.pairs.start, *top = root->data.mapping.pairs.top;
    for (yaml_node_pair_t *pair = first; pair < top; pair++) {
        yaml_node_t *key = yaml_document_get_node(&reader->document, pair->key);
        yaml_node_t *value = yaml_document_get_node(&reader->document, pair->value);
        if (key->type != YAML_SCALAR_NODE)
            return error_at(reader, key->start_mark, "bad key: must be a plain word");
        for (yaml_node_pair_t *earlier = first; earlier < pair; earlier++)
            if (strcmp(scalar(yaml_document_get_node(&reader->document, earlier->key)), scalar(key)) == 0)
                return error_at(reader, key->start_mark, "key '%s' given twice in 'top level'", scalar(key));
        int rc = read_section(reader, key, value, conf, seen);
        if (rc != 0)
            return rc;
    }
    return check_whole(reader, conf, root->start_mark);
}

int conf_load(const char *path, struct conf *conf, struct fault_note *why)
{
    struct reader reader = {.path = path, .why = why};
    yaml_parser_t parser;
    FILE *file = fopen(path, "rbe");
    if (file == NULL)
        return fault_set_errno(why, errno, "cannot open '%s'", path);
    if (!yaml_parser_initialize(&parser)) {
        fclose(file);
        return fault_set(why, FAULT_NO_MEMORY, "cannot start the YAML parser");
    }
    yaml_parser_set_input_file(&parser, file);
    int rc;
    conf_defaults(conf);
    if (!yaml_parser_load(&parser, &reader.document)) {
        rc = error_at(&reader, parser.problem_mark, "not YAML: %s",
                      parser.problem ? parser.problem : "cannot be read");
    } else {
        rc = read_document(&reader, conf);
        yaml_document_delete(&reader.document);
    }
    yaml_parser_delete(&parser);
    fclose(file);
    return rc;
}

// ---- printing

static void print_help(FILE *out, const char *indent, const char *help)
{
    // Wrapped at 100 columns.
    size_t column = 0;
    for (const char *p = help; *p != '\0';) {
        size_t n = strcspn(p, " ");
        if (column == 0 || column + 1 + n > 96) {
            fprintf(out, "%s%s#", column ? "\n" : "", indent);
            column = strlen(indent) + 1;
        }
        fprintf(out, " %.*s", (int)n, p);
        column += 1 + n;
        p += n;
        p += strspn(p, " ");
    }
    fputc('\n', out);
}

static void print_range(FILE *out, const struct conf_key *key)
{
    switch (key->type) {
    case TYPE_INT:
        fprintf(out, "   # %.0f to %.0f", key->min, key->max);
        break;
    case TYPE_REAL:
        fprintf(out, "   # %g to %g", key->min, key->max);
        break;
    case TYPE_CHOICE:
        fprintf(out, "   # %s", key->choices);
        break;
    default:
        break;
    }
}

static void print_value(FILE *out, const struct conf_key *key, const void *base)
{
    const char *field = (const char *)base + key->offset;
    switch (key->type) {
    case TYPE_INT:
        fprintf(out, "%lld", (long long)*(const int64_t *)(const void *)field);
        return;
    case TYPE_REAL:
        fprintf(out, "%.17g", *(const double *)(const void *)field);
        return;
    case TYPE_BOOL:
        fputs(*(const int *)(const void *)field ? "true" : "false", out);
        return;
    case TYPE_CHOICE:
        fputs(field, out);
        return;
    default:
        break;
    }
    fputc('"', out);
    for (const char *p = field; *p != '\0'; p++) {
        if (*p == '"' || *p == '\\')
            fputc('\\', out);
        fputc(*p, out);
    }
    fputc('"', out);
}

static void print_list(FILE *out, const struct conf_key *table, size_t n_table, const void *items,
                       size_t item_size, size_t n_items)
{
    for (size_t i = 0; i < n_table; i++) {
        char line[CONF_TEXT_SIZE];
        snprintf(line, sizeof line, "%s: %s", table[i].name, table[i].help);
        print_help(out, "  ", line);
    }
    for (size_t item = 0; item < n_items; item++) {
        for (size_t i = 0; i < n_table; i++) {
            fprintf(out, "  %s %s: ", i == 0 ? "-" : " ", table[i].name);
            print_value(out, &table[i], (const char *)items + item * item_size);
            fputc('\n', out);
        }
    }
}

static void print_section_head(FILE *out, const char *section)
{
    const char *dot = strchr(section, '.');
    for (size_t i = 0; i < sizeof section_help / sizeof section_help[0]; i++) {
        if (strcmp(section_help[i][0], section) != 0)
            continue;
        if (dot == NULL)
            fputc('\n', out);
        print_help(out, dot != NULL ? "  " : "", section_help[i][1]);
        fprintf(out, "%s%s:\n", dot != NULL ? "  " : "", dot != NULL ? dot + 1 : section);
    }
}

void conf_dump(const struct conf *conf, FILE *out)
{
    const char *section = NULL;
    fputs("# Isoslice's configuration. Every key may be left out; its default is then used.\n", out);
    fputs(
        "# isoslice check-config FILE checks it, isoslice check-config --dump-config FILE prints what is in "
        "force.\n\n",
        out);
    for (size_t i = 0; i < N_KEYS; i++) {
        const char *indent = keys[i].section == NULL ? "" : strchr(keys[i].section, '.') ? "    " : "  ";
        if (keys[i].section != NULL && (section == NULL || strcmp(section, keys[i].section) != 0)) {
            section = keys[i].section;
            print_section_head(out, section);
        }
        print_help(out, indent, keys[i].help);
        fprintf(out, "%s%s: ", indent, keys[i].name);
        print_value(out, &keys[i], conf);
        print_range(out, &keys[i]);
        fputc('\n', out);
    }
    print_section_head(out, "senders");
    print_list(out, sender_keys, N_SENDER_KEYS, conf->senders, sizeof conf->senders[0], conf->n_senders);
    print_section_head(out, "destinations");
    print_list(out, destination_keys, N_DESTINATION_KEYS, conf->destinations, sizeof conf->destinations[0],
               conf->n_destinations);
    print_section_head(out, "rules");
    print_list(out, rule_keys, N_RULE_KEYS, conf->rules, sizeof conf->rules[0], conf->n_rules);
}

void conf_sample(FILE *out)
{
    struct conf *conf = malloc(sizeof *conf);
    if (conf == NULL)
        return;
    conf_defaults(conf);
    conf->senders[0] = (struct conf_sender){.ae_title = "MR1", .address = "192.0.2.0/24"};
    conf->n_senders = 1;
    conf->destinations[0] = (struct conf_destination){.name = "pacs",
                                                      .ae_title = "PACS",
                                                      .host = "192.0.2.10",
                                                      .port = 104,
                                                      .format = "classic",
                                                      .commitment = "auto"};
    conf->n_destinations = 1;
    conf->rules[0] = (struct conf_rule){.name = "no localizers",
                                        .action = "ignore",
                                        .labels[LABEL_SERIES_DESCRIPTION] = "*localizer*|*scout*"};
    conf->n_rules = 1;
    conf_dump(conf, out);
    free(conf);
}

const struct conf_sender *conf_find_sender(const struct conf *conf, const char *ae_title, uint32_t address,
                                           const struct conf_sender *after)
{
    for (size_t i = after ? (size_t)(after - conf->senders) + 1 : 0; i < conf->n_senders; i++)
        if (strcmp(conf->senders[i].ae_title, ae_title) == 0 &&
            (address & conf->senders[i].mask) == conf->senders[i].network)
            return &conf->senders[i];
    return NULL;
}

int conf_sender_is_pinned(const struct conf_sender *sender)
{
    return sender->certificate_sha256[0] != '\0' || sender->certificate_name[0] != '\0';
}

struct credentials_files conf_node_files(const struct conf *conf, uid_t user)
{
    return (struct credentials_files){.certificate = conf->tls_certificate,
                                      .key = conf->tls_key,
                                      .ca = conf->tls_ca,
                                      .crl = conf->tls_crl,
                                      .user = user};
}

struct credentials_files conf_destination_files(const struct conf *conf,
                                                const struct conf_destination *destination, uid_t user)
{
    struct credentials_files files = conf_node_files(conf, user);
    if (destination->own_certificate[0] != '\0')
        files.certificate = destination->own_certificate;
    if (destination->own_key[0] != '\0')
        files.key = destination->own_key;
    if (destination->ca[0] != '\0') { // the node's lists are not of that CA
        files.ca = destination->ca;
        files.crl = destination->crl;
    } else if (destination->crl[0] != '\0') {
        files.crl = destination->crl;
    }
    return files;
}

const struct conf_destination *conf_find_destination(const struct conf *conf, const char *name)
{
    for (size_t i = 0; i < conf->n_destinations; i++)
        if (strcmp(conf->destinations[i].name, name) == 0)
            return &conf->destinations[i];
    return NULL;
}

int conf_may_report(const struct conf *conf, const struct conf_destination *destination)
{
    for (size_t i = 0; i < conf->n_senders; i++)
        if (strcmp(conf->senders[i].ae_title, destination->ae_title) == 0)
            return 1;
    return 0;
}

int conf_asks_commitment(const struct conf *conf, const struct conf_destination *destination)
{
    return strcmp(destination->commitment, "never") != 0 && conf_may_report(conf, destination);
}

double conf_pause_s(const struct conf *conf, int attempts)
{
    return fmin(conf->retry_max_s, conf->retry_min_s * ldexp(1.0, attempts < 30 ? attempts : 30));
}

int64_t conf_largest_object(const struct conf *conf)
{
    int64_t mb = conf->max_enhanced_mb > conf->max_object_mb ? conf->max_enhanced_mb : conf->max_object_mb;
    return mb << 20;
}

enum log_level conf_log_level(const struct conf *conf)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    for (int i = 0; i < 4; i++)
        if (strcmp(conf->log_level, names[i]) == 0)
            return (enum log_level)i;
    return LOG_LEVEL_INFO;
}

int conf_load_daemon(void *user, const char *path, struct daemon_settings *settings, struct fault_note *why)
{
    struct conf *conf = user;
    int rc = conf_load(path, conf, why);
    if (rc != 0)
        return rc;
    settings->level = conf_log_level(conf);
    settings->spool = conf->spool;
    return user_find(conf->user, &settings->user, why);
}
