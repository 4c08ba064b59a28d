// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/checkpoint.h"

#include "core/file.h"
#include "sr_engine/weights.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_SIZE = 4096, MAX_STATE_BYTES = 4096 };
static const char state_head[] = "isoslice training state 1\n";

static int part_path(char *path, const char *directory, const char *name, int is_next, struct fault_note *why)
{
    int n = snprintf(path, PATH_SIZE, "%s/%s%s.safetensors", directory, name, is_next ? ".next" : "");
    if (n < 0 || n >= PATH_SIZE)
        return fault_set(why, FAULT_IO, "path too long: '%s'", directory);
    return 0;
}

static int save_part(const char *directory, const struct checkpoint_part *part,
                     const struct checkpoint_state *state, struct fault_note *why)
{
    char path[PATH_SIZE], text[32];
    struct weights_metadata metadata = {0};
    int rc = part_path(path, directory, part->name, 1, why);
    if (rc != 0)
        return rc;
    snprintf(text, sizeof text, "%ld", state->step);
    weights_metadata_set(&metadata, "architecture", net_architecture);
    weights_metadata_set(&metadata, "stage", state->stage);
    weights_metadata_set(&metadata, "step", text);
    return weights_save(path, part->net, part->values, &metadata, why);
}

// The new names become the old ones'; a part that already has is left alone.
static int rename_parts(const char *directory, const struct checkpoint_part *parts, int n_parts,
                        struct fault_note *why)
{
    char next[PATH_SIZE], final[PATH_SIZE];
    int rc = 0;
    for (int i = 0; rc == 0 && i < n_parts; i++) {
        rc = part_path(next, directory, parts[i].name, 1, why);
        if (rc == 0)
            rc = part_path(final, directory, parts[i].name, 0, why);
        if (rc == 0 && file_ops.rename(next, final) != 0 && errno != ENOENT)
            rc = fault_set_errno(why, errno, "cannot rename '%s'", next);
    }
    return rc != 0 ? rc : file_sync_directory(directory, why);
}

int checkpoint_save(const char *directory, const struct checkpoint_state *state,
                    const struct checkpoint_part *parts, int n_parts, struct fault_note *why)
{
    char path[PATH_SIZE], text[MAX_STATE_BYTES];
    int rc = file_join(path, sizeof path, directory, "state", why);
    for (int i = 0; rc == 0 && i < n_parts; i++)
        rc = save_part(directory, &parts[i], state, why);
    if (rc != 0)
        return rc;
    int n = snprintf(text, sizeof text, "%sstage %s\nstep %ld\nminutes %.17g\nseed %" PRIu64 "\n%s",
                     state_head, state->stage, state->step, state->minutes, state->seed, state->extra);
    rc = file_write_atomic(path, text, (size_t)n, why); // from here on the new parts are the ones that count
    return rc != 0 ? rc : rename_parts(directory, parts, n_parts, why);
}

int checkpoint_read_state(const char *directory, struct checkpoint_state *state, int *found,
                          struct fault_note *why)
{
    char path[PATH_SIZE];
    void *text = NULL;
    size_t size;
    int end = 0;
    *found = 0;
    memset(state, 0, sizeof *state);
    int rc = file_join(path, sizeof path, directory, "state", why);
    if (rc != 0 || (access(path, F_OK) != 0 && errno == ENOENT))
        return rc;
    rc = file_read(path, MAX_STATE_BYTES, &text, &size, why);
    if (rc != 0)
        return rc;
    const char *at = text;
    *found = strncmp(at, state_head, sizeof state_head - 1) == 0 &&
             sscanf(at + sizeof state_head - 1, "stage %15s step %ld minutes %lf seed %" SCNu64 "%n",
                    state->stage, &state->step, &state->minutes, &state->seed, &end) == 4 &&
             state->step >= 0 && state->step < INT32_MAX && state->minutes >= 0;
    if (*found) {
        at += sizeof state_head - 1 + (size_t)end;
        snprintf(state->extra, sizeof state->extra, "%s", *at == '\n' ? at + 1 : at);
    }
    free(text);
    return *found ? 0 : fault_set(why, FAULT_BAD_HEADER, "'%s' is not the state of a training run", path);
}

// Of the two files that a part may be in, the one of the state's step.
static int load_part(const char *directory, const struct checkpoint_part *part, long step,
                     struct fault_note *why)
{
    char path[PATH_SIZE];
    for (int is_next = 1; is_next >= 0; is_next--) {
        struct weights_metadata metadata = {0};
        int rc = part_path(path, directory, part->name, is_next, why);
        if (rc != 0)
            return rc;
        if (is_next && access(path, F_OK) != 0)
            continue;
        rc = weights_load(path, part->net, part->values, &metadata, why);
        if (rc != 0)
            return rc;
        const char *text = weights_metadata_get(&metadata, "step");
        if (text != NULL && strtol(text, NULL, 10) == step)
            return 0;
    }
    return fault_set(why, FAULT_WEIGHTS, "'%s' is not of step %ld, at which the run was saved", path, step);
}

int checkpoint_load(const char *directory, const struct checkpoint_state *state,
                    const struct checkpoint_part *parts, int n_parts, struct fault_note *why)
{
    int rc = 0;
    for (int i = 0; rc == 0 && i < n_parts; i++)
        rc = load_part(directory, &parts[i], state->step, why);
    return rc != 0 ? rc : rename_parts(directory, parts, n_parts, why);
}

int checkpoint_has_part(const char *directory, const char *name)
{
    char path[PATH_SIZE];
    return part_path(path, directory, name, 0, NULL) == 0 && access(path, F_OK) == 0;
}
