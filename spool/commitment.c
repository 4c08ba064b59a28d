// SPDX-License-Identifier: Apache-2.0
#include "spool/commitment.h"

#include "core/file.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILE = 4 << 20 };
// A request is read again after so long, whatever was said of it: clocks are put right, people edit files.
enum { IDLE_MAX_S = 60 };

static const char *const state_names[] = {"CHECKING", "OFFERED", "WAITING", "HELD"};
enum { N_STATES = sizeof state_names / sizeof state_names[0] };
static const char *const first_line = "isoslice commitment 1";

// ---- writing

int spool_commitment_write(const char *path, const struct spool_commitment *commitment,
                           struct fault_note *why)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold a commitment request");
    fprintf(out, "%s\nsender %s\naddress %s\nstate %s\n", first_line, commitment->sender, commitment->address,
            state_names[commitment->state]);
    fprintf(out, "created_us %lld\nchanged_us %lld\nnot_before_us %lld\nattempts %d\n",
            (long long)commitment->created_us, (long long)commitment->changed_us,
            (long long)commitment->not_before_us, commitment->attempts);
    fprintf(out, "checked %zu\n", commitment->n_checked);
    fputs("note ", out);
    for (const char *p = commitment->note; *p != '\0'; p++)
        fputc(*p == '\n' ? ' ' : *p, out);
    fprintf(out, "\ntransaction %s\n", commitment->request.transaction_uid);
    for (size_t i = 0; i < commitment->request.n; i++) {
        const struct commitment_item *item = &commitment->request.items[i];
        fprintf(out, "item %s %s %u\n", item->sop_class_uid, item->sop_instance_uid, item->reason);
    }
    fputs("end\n", out);
    int rc = fclose(out) != 0 || text == NULL
                 ? fault_set(why, FAULT_NO_MEMORY, "cannot hold a commitment request")
                 : file_write_atomic(path, text, size, why);
    free(text);
    return rc;
}

// ---- reading

static int read_item(const char *line, struct commitment *request)
{
    struct commitment_item *item = &request->items[request->n];
    char end;
    if (sscanf(line, "item %64[0-9.] %64[0-9.] %u%c", item->sop_class_uid, item->sop_instance_uid,
               &item->reason, &end) != 3)
        return 0;
    request->n++;
    return 1;
}

static int read_state(const char *name, enum spool_commitment_state *state)
{
    for (int i = 0; i < N_STATES; i++)
        if (strcmp(state_names[i], name) == 0) {
            *state = (enum spool_commitment_state)i;
            return 1;
        }
    return 0;
}

static int read_number(const char *text, int64_t *value)
{
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return *text != '\0' && *end == '\0' && errno == 0;
}

// One line, without its end. Returns 0 when it is none of ours.
static int read_line(const char *line, struct spool_commitment *out)
{
    const char *space = strchr(line, ' ');
    const char *value = space ? space + 1 : "";
    size_t n = space ? (size_t)(space - line) : strlen(line);
    int64_t number = 0;
#define IS(name) (n == strlen(name) && strncmp(line, name, n) == 0)
    if (IS("item"))
        return read_item(line, &out->request);
    if (IS("sender"))
        return snprintf(out->sender, sizeof out->sender, "%s", value) < (int)sizeof out->sender;
    if (IS("address"))
        return snprintf(out->address, sizeof out->address, "%s", value) < (int)sizeof out->address;
    if (IS("transaction"))
        return snprintf(out->request.transaction_uid, UID_SIZE, "%s", value) < UID_SIZE;
    if (IS("note"))
        return snprintf(out->note, sizeof out->note, "%s", value) >= 0;
    if (IS("state"))
        return read_state(value, &out->state);
    if (!read_number(value, &number))
        return 0;
    if (IS("created_us"))
        out->created_us = number;
    else if (IS("changed_us"))
        out->changed_us = number;
    else if (IS("not_before_us"))
        out->not_before_us = number;
    else if (IS("attempts"))
        out->attempts = (int)number;
    else if (IS("checked") && number >= 0)
        out->n_checked = (size_t)number;
    else
        return 0;
#undef IS
    return 1;
}

int spool_commitment_read(const char *path, struct spool_commitment *out, struct fault_note *why)
{
    void *data = NULL;
    size_t size, n_lines = 0;
    int rc = file_read(path, MAX_FILE, &data, &size, why);
    if (rc != 0)
        return rc;
    memset(out, 0, sizeof *out);
    char *text = data;
    for (char *p = text; (p = strchr(p, '\n')) != NULL; p++)
        n_lines++;
    out->request.items = calloc(n_lines + 1, sizeof *out->request.items);
    if (out->request.items == NULL)
        rc = fault_set(why, FAULT_NO_MEMORY, "cannot hold a commitment request");
    int is_first = 1, has_end = 0;
    for (char *line = text, *end; rc == 0 && !has_end && (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = '\0';
        if (!is_first && strcmp(line, "end") == 0)
            has_end = 1;
        else if (is_first ? strcmp(line, first_line) != 0 : !read_line(line, out))
            rc = fault_set(why, FAULT_BAD_HEADER, "'%s' has a bad line: '%.80s'", path, line);
        is_first = 0;
    }
    if (rc == 0 && (!has_end || out->n_checked > out->request.n || out->request.n == 0 ||
                    !uid_is_valid(out->request.transaction_uid)))
        rc = fault_set(why, FAULT_BAD_HEADER, "'%s' is not a whole commitment request", path);
    free(data);
    if (rc != 0)
        spool_commitment_done(out);
    return rc;
}

void spool_commitment_done(struct spool_commitment *commitment)
{
    free(commitment->request.items);
    commitment->request.items = NULL;
    commitment->request.n = 0;
}

// ---- times

int spool_commitment_put_times_right(struct spool_commitment *commitment, double longest_pause_s,
                                     int64_t now_us)
{
    const int64_t later_us = now_us + SPOOL_CLOCK_SLACK_S * INT64_C(1000000);
    const int64_t pause_us = (int64_t)(1e6 * longest_pause_s);
    int is_ahead = 0;
    int64_t *const past[] = {&commitment->created_us, &commitment->changed_us};
    for (size_t i = 0; i < sizeof past / sizeof past[0]; i++)
        if (*past[i] > later_us) {
            *past[i] = now_us;
            is_ahead = 1;
        }
    if (commitment->not_before_us > later_us + pause_us) {
        commitment->not_before_us = now_us + pause_us;
        is_ahead = 1;
    }
    return is_ahead;
}

// ---- for people

const char *spool_commitment_state_name(enum spool_commitment_state state)
{
    return state_names[state];
}

int spool_commitment_path(const struct spool *spool, const char *id, char *path)
{
    // Digits, 'p' and '-' only: no other file can be named.
    if (id[0] != 'c' || strlen(id) > 80 || strspn(id + 1, "0123456789p-") != strlen(id + 1) ||
        strchr(id, '-') == NULL)
        return 0;
    snprintf(path, SPOOL_PATH_SIZE + 128, "%s/a%s.commit", spool_folder(spool, SPOOL_COMMITMENTS), id + 1);
    return 1;
}

int spool_commitment_retry(const struct spool *spool, const char *id, int64_t now_us, struct fault_note *why)
{
    char path[SPOOL_PATH_SIZE + 128];
    struct spool_commitment commitment;
    if (!spool_commitment_path(spool, id, path) || access(path, F_OK) != 0)
        return fault_set(why, FAULT_NOT_FOUND, "no such thing in the queue: '%s'", id);
    int rc = spool_commitment_read(path, &commitment, why);
    if (rc != 0)
        return rc;
    if (commitment.state != SPOOL_COMMITMENT_HELD && commitment.state != SPOOL_COMMITMENT_WAITING)
        rc = fault_set(why, FAULT_USAGE, "cannot retry '%s': it is %s, must be one of HELD WAITING", id,
                       state_names[commitment.state]);
    commitment.state = SPOOL_COMMITMENT_WAITING;
    commitment.attempts = 0;
    commitment.not_before_us = 0;
    commitment.created_us = commitment.changed_us = now_us; // the time to give up counts anew
    if (rc == 0)
        rc = spool_commitment_write(path, &commitment, why);
    spool_commitment_done(&commitment);
    return rc;
}

// ---- all of them

static int is_request(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return entry->d_name[0] == 'a' && n > 7 && strcmp(entry->d_name + n - 7, ".commit") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

struct spool_idle_entry {
    char name[NAME_MAX + 1];
    ino_t inode; // a request is written anew under another one
    struct timespec changed;
    double until_s;
};

void spool_idle_done(struct spool_idle *idle)
{
    free(idle->entries);
    *idle = (struct spool_idle){0};
}

struct round {
    struct spool_idle *before, now; // both in the order of the list
    size_t at, room;                // in `before`; of `now`
    double now_s;
    int (*each)(void *user, const char *path, const char *name, double *idle_s, struct fault_note *why);
    void *user;
    struct fault_note first; // the first fault of a request; FAULT_OK: none yet
};

// The file as it is before it is read, with what the last round said of the same one.
static int look_at(struct round *round, const char *path, const char *name, struct spool_idle_entry *entry)
{
    const struct spool_idle *before = round->before;
    struct stat st;
    if (stat(path, &st) != 0)
        return 0;
    *entry = (struct spool_idle_entry){.inode = st.st_ino, .changed = st.st_mtim};
    snprintf(entry->name, sizeof entry->name, "%s", name);
    while (round->at < before->n && strcmp(before->entries[round->at].name, name) < 0)
        round->at++;
    if (round->at < before->n) {
        const struct spool_idle_entry *known = &before->entries[round->at];
        if (strcmp(known->name, name) == 0 && known->inode == entry->inode &&
            known->changed.tv_sec == entry->changed.tv_sec &&
            known->changed.tv_nsec == entry->changed.tv_nsec)
            entry->until_s = known->until_s;
    }
    return 1;
}

static int remember(struct round *round, const struct spool_idle_entry *entry, struct fault_note *why)
{
    struct spool_idle *now = &round->now;
    if (now->n == round->room) {
        size_t room = round->room ? 2 * round->room : 64;
        struct spool_idle_entry *grown = realloc(now->entries, room * sizeof *grown);
        if (grown == NULL)
            return fault_set(why, FAULT_NO_MEMORY, "cannot remember %zu commitments", room);
        now->entries = grown;
        round->room = room;
    }
    now->entries[now->n++] = *entry;
    return 0;
}

static int one_of_round(void *user, const char *path, const char *name, struct fault_note *why)
{
    struct round *round = user;
    struct spool_idle_entry entry;
    struct fault_note fault = {0};
    double idle_s = 0;
    if (!look_at(round, path, name, &entry))
        return 0; // gone meanwhile
    if (round->now_s >= entry.until_s) {
        int rc = round->each(round->user, path, name, &idle_s, &fault);
        if (rc != 0 && round->first.fault == FAULT_OK) {
            round->first = fault;
            round->first.fault = (enum fault)rc;
        }
        if (rc != 0)
            return 0; // read again in the next round, whatever it said
        entry.until_s = round->now_s + (idle_s < IDLE_MAX_S ? idle_s : IDLE_MAX_S);
    }
    return remember(round, &entry, why);
}

int spool_commitment_round(const struct spool *spool, struct spool_idle *idle, double now_s,
                           int (*each)(void *user, const char *path, const char *name, double *idle_s,
                                       struct fault_note *why),
                           void *user, struct fault_note *why)
{
    struct round round = {.before = idle, .now_s = now_s, .each = each, .user = user};
    int rc = spool_commitment_list(spool, one_of_round, &round, why);
    free(idle->entries);
    *idle = round.now; // after a fault of this function the first of them: the others are read again
    if (rc == 0 && round.first.fault != FAULT_OK) {
        *why = round.first;
        rc = (int)why->fault;
    }
    return rc;
}

int spool_commitment_list(const struct spool *spool,
                          int (*each)(void *user, const char *path, const char *name, struct fault_note *why),
                          void *user, struct fault_note *why)
{
    const char *folder = spool_folder(spool, SPOOL_COMMITMENTS);
    struct dirent **entries = NULL;
    int rc = 0, n = scandir(folder, &entries, is_request, by_name); // names begin with the time
    if (n < 0)
        return fault_set_errno(why, errno, "cannot read directory '%s'", folder);
    for (int i = 0; i < n; i++) {
        char path[SPOOL_PATH_SIZE + 280];
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        if (rc == 0)
            rc = each(user, path, entries[i]->d_name, why);
        free(entries[i]);
    }
    free(entries);
    return rc;
}
