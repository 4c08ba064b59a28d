// SPDX-License-Identifier: Apache-2.0
#include "scp/quota.h"

#include "core/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_FILE = 1 << 20 };
static const char head[] = "isoslice usage 1\n";

static int has_quota(const struct conf_sender *sender)
{
    return sender->daily_mb > 0 || sender->max_open_series > 0;
}

// "<folder>/usage-<AE title in hexadecimal>": an AE title may hold what a file name must not.
static void shared_path(char *path, size_t size, const char *incoming, const char *ae_title)
{
    int at = snprintf(path, size, "%s/%s-", incoming, QUOTA_FILE);
    for (const char *p = ae_title; *p != '\0' && at >= 0 && (size_t)at < size; p++)
        at += snprintf(path + at, size - (size_t)at, "%02x", (unsigned char)*p);
}

// ---- in the receiving process

static void *grow(void *items, size_t n, size_t *room, size_t item_size, struct fault_note *why)
{
    if (n < *room)
        return items;
    size_t wanted = *room ? 2 * *room : 64;
    void *grown = realloc(items, wanted * item_size);
    if (grown == NULL)
        fault_set(why, FAULT_NO_MEMORY, "cannot count %zu objects", wanted);
    else
        *room = wanted;
    return grown;
}

// Takes what is no longer in the folder off the account: it has its row, and the file read counts it.
static void settle(struct quota *quota)
{
    for (size_t i = quota->first; i < quota->n_sizes; i++) {
        char received[32], sealed[32];
        snprintf(received, sizeof received, "%zu.dcm", i + 1);
        snprintf(sealed, sizeof sealed, "%zu.tmp", i + 1);
        if (quota->sizes[i] != 0 && access(received, F_OK) != 0 && access(sealed, F_OK) != 0) {
            quota->pending_bytes -= quota->sizes[i];
            quota->sizes[i] = 0;
        }
        if (quota->sizes[i] == 0 && i == quota->first)
            quota->first++;
    }
    if (quota->pending_bytes == 0)
        quota->n_series = 0;
}

// A file that is not there says nothing: the indexer has not written it yet.
static int take_in(struct quota *quota, const char *path, struct fault_note *why)
{
    void *data = NULL;
    size_t size = 0;
    if (access(path, F_OK) != 0)
        return 0;
    int rc = file_read(path, MAX_FILE, &data, &size, why);
    if (rc != 0)
        return rc;
    char *text = data;
    long long used, n_open;
    if (strncmp(text, head, sizeof head - 1) != 0 ||
        sscanf(text + sizeof head - 1, "bytes %lld\nopen %lld\n", &used, &n_open) != 2 ||
        (quota->told != NULL && strcmp(quota->told, text) == 0)) {
        free(data);
        return 0;
    }
    free(quota->told);
    quota->told = text;
    quota->used_bytes = used;
    quota->n_open = n_open;
    settle(quota);
    return 0;
}

int quota_begin(struct quota *quota, const struct conf_sender *sender, const char *incoming,
                struct fault_note *why)
{
    char path[CONF_PATH_SIZE + 128];
    quota->daily_bytes = sender->daily_mb << 20;
    quota->max_open_series = sender->max_open_series;
    if (!has_quota(sender))
        return 0;
    shared_path(path, sizeof path, incoming, sender->ae_title);
    return take_in(quota, path, why);
}

int quota_fits(const struct quota *quota, int64_t n_bytes, struct fault_note *why)
{
    int64_t used = quota->used_bytes + quota->pending_bytes;
    if (quota->daily_bytes == 0 || n_bytes <= quota->daily_bytes - used)
        return 0;
    return fault_set(why, FAULT_NO_SPACE, "quota daily_mb: %lld of %lld kB used within 24 hours",
                     (long long)(used >> 10), (long long)(quota->daily_bytes >> 10));
}

int quota_check(struct quota *quota, struct fault_note *why)
{
    if (quota->daily_bytes == 0 && quota->max_open_series == 0)
        return 0;
    int rc = take_in(quota, QUOTA_FILE, why);
    return rc == 0 ? quota_fits(quota, 1, why) : rc;
}

static int is_told(const struct quota *quota, const char *series_uid)
{
    char line[UID_SIZE + 16];
    snprintf(line, sizeof line, "\nseries %s\n", series_uid);
    return quota->told != NULL && strstr(quota->told, line) != NULL;
}

int quota_admit(struct quota *quota, const char *series_uid, struct fault_note *why)
{
    int64_t n_open = quota->n_open;
    if (quota->max_open_series == 0 || is_told(quota, series_uid))
        return 0;
    for (size_t i = 0; i < quota->n_series; i++) {
        if (strcmp(quota->series[i], series_uid) == 0)
            return 0;
        n_open += !is_told(quota, quota->series[i]);
    }
    if (n_open >= quota->max_open_series)
        return fault_set(why, FAULT_NO_SPACE, "quota max_open_series: %lld of %lld series are open",
                         (long long)n_open, (long long)quota->max_open_series);
    char(*grown)[UID_SIZE] = grow(quota->series, quota->n_series, &quota->series_room, sizeof *grown, why);
    if (grown == NULL)
        return FAULT_NO_MEMORY;
    quota->series = grown;
    snprintf(quota->series[quota->n_series++], UID_SIZE, "%s", series_uid);
    return 0;
}

void quota_count(struct quota *quota, unsigned number, int64_t n_bytes)
{
    if (quota->daily_bytes == 0 && quota->max_open_series == 0)
        return;
    while (quota->n_sizes < number) { // those in between were refused
        int64_t *grown = grow(quota->sizes, quota->n_sizes, &quota->room, sizeof *grown, NULL);
        if (grown == NULL)
            return; // it counts once the indexer has seen it
        quota->sizes = grown;
        quota->sizes[quota->n_sizes++] = 0;
    }
    quota->sizes[number - 1] = n_bytes;
    quota->pending_bytes += n_bytes;
}

void quota_done(struct quota *quota)
{
    free(quota->told);
    free(quota->sizes);
    free(quota->series);
    memset(quota, 0, sizeof *quota);
}

// ---- in the indexer

static int write_changed(const char *path, const char *text, size_t size, struct fault_note *why)
{
    void *before = NULL;
    size_t before_size = 0;
    int is_same = access(path, F_OK) == 0 && file_read(path, MAX_FILE, &before, &before_size, NULL) == 0 &&
                  before_size == size && memcmp(before, text, size) == 0;
    free(before);
    return is_same ? 0 : file_write_atomic(path, text, size, why);
}

static void write_series(void *user, const char *series_uid)
{
    fprintf(user, "series %s\n", series_uid);
}

static int publish_one(struct spool *spool, const char *ae_title, int64_t now_us, struct fault_note *why)
{
    char *text = NULL, *all = NULL, path[SPOOL_PATH_SIZE + 64];
    size_t size = 0;
    int64_t n_bytes = 0, n_open = 0;
    FILE *list = open_memstream(&text, &size);
    if (list == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold what a sender uses");
    int rc = spool_usage(spool, ae_title, now_us, &n_bytes, &n_open, write_series, list, why);
    if (fclose(list) != 0 && rc == 0)
        rc = fault_set(why, FAULT_NO_MEMORY, "cannot hold what a sender uses");
    if (rc == 0) {
        int n =
            asprintf(&all, "%sbytes %lld\nopen %lld\n%s", head, (long long)n_bytes, (long long)n_open, text);
        if (n < 0)
            rc = fault_set(why, FAULT_NO_MEMORY, "cannot hold what a sender uses");
        shared_path(path, sizeof path, spool_folder(spool, SPOOL_INCOMING), ae_title);
        if (rc == 0)
            rc = write_changed(path, all, (size_t)n, why);
    }
    free(all);
    free(text);
    return rc;
}

int quota_publish(struct spool *spool, const struct conf *conf, int64_t now_us, struct fault_note *why)
{
    int rc = 0;
    for (size_t i = 0; i < conf->n_senders && rc == 0; i++)
        if (has_quota(&conf->senders[i]))
            rc = publish_one(spool, conf->senders[i].ae_title, now_us, why);
    return rc;
}

int quota_pass_on(const struct spool *spool, const struct conf *conf, const char *sender, const char *folder,
                  struct fault_note *why)
{
    char from[SPOOL_PATH_SIZE + 64], to[SPOOL_PATH_SIZE + 64];
    void *text = NULL;
    size_t size = 0, i = 0;
    while (i < conf->n_senders &&
           !(strcmp(conf->senders[i].ae_title, sender) == 0 && has_quota(&conf->senders[i])))
        i++;
    shared_path(from, sizeof from, spool_folder(spool, SPOOL_INCOMING), sender);
    if (i == conf->n_senders || access(from, F_OK) != 0)
        return 0;
    int rc = file_read(from, MAX_FILE, &text, &size, why);
    if (rc == 0)
        rc = file_join(to, sizeof to, folder, QUOTA_FILE, why);
    if (rc == 0)
        rc = write_changed(to, text, size, why);
    free(text);
    return rc;
}
