// SPDX-License-Identifier: Apache-2.0
#include "train/series.h"

#include "reader/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = UID_SIZE + 16, REASON_SIZE = 640 };

static void name_stack(const struct source_item *item, char *name)
{
    if (item->series_uid[0] != '\0')
        snprintf(name, NAME_SIZE, "%s#%d", item->series_uid, item->stack_index);
    else
        snprintf(name, NAME_SIZE, "%zu files", item->n_images);
}

static void leave_out(const struct volume_reader *reader, const struct source_item *item, enum fault fault,
                      const char *sentence)
{
    char name[NAME_SIZE], reason[REASON_SIZE];
    if (reader->left_out == NULL)
        return;
    name_stack(item, name);
    snprintf(reason, sizeof reason, "%s: %s", fault_name(fault), sentence);
    reader->left_out(reader->user, name, reason);
}

// What lies in the files, as opposed to what went wrong here.
static int is_of_the_data(int fault)
{
    switch (fault) {
    case FAULT_DECODE:
    case FAULT_PIXEL_SIZE:
    case FAULT_TRANSFER_SYNTAX:
    case FAULT_TRUNCATED:
    case FAULT_BAD_HEADER:
    case FAULT_TOO_LARGE:
    case FAULT_READER:
        return 1;
    default:
        return 0;
    }
}

static int load(struct reader *reader, size_t i, struct volume *volume, struct fault_note *why)
{
    const struct source_item *item = reader_item(reader, i);
    *volume = (struct volume){.size = {item->width, item->height, item->depth},
                              .spacing_mm = {item->column_mm, item->row_mm, item->slice_mm}};
    size_t n = volume_count(volume);
    if (n > VOLUME_MAX_VOXELS)
        return fault_set(why, FAULT_TOO_LARGE, "the stack has %zu voxels, more than %d", n,
                         VOLUME_MAX_VOXELS);
    struct reader_block voxels = READER_BLOCK_NONE;
    int rc = reader_load_voxels(reader, i, &voxels, why);
    if (rc != 0)
        return rc;
    volume->voxels = malloc(n * sizeof *volume->voxels);
    if (volume->voxels != NULL)
        memcpy(volume->voxels, voxels.data, n * sizeof *volume->voxels);
    else
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for a stack of %zu voxels", n);
    reader_block_free(&voxels);
    return rc;
}

static int read_stack(struct reader *files, size_t i, const struct volume_reader *reader,
                      struct fault_note *why)
{
    const struct source_item *item = reader_item(files, i);
    struct volume volume;
    struct fault_note note;
    char name[NAME_SIZE];
    if (item->verdict != FAULT_OK) {
        leave_out(reader, item, item->verdict, item->reason);
        return 0;
    }
    int rc = load(files, i, &volume, &note);
    if (is_of_the_data(rc)) {
        leave_out(reader, item, (enum fault)rc, note.text);
        return 0;
    }
    if (rc != 0)
        return fault_set(why, (enum fault)rc, "%s", note.text);
    name_stack(item, name);
    rc = reader->take(reader->user, &volume, name, why);
    volume_done(&volume);
    return rc;
}

int series_read(const char *const *paths, size_t n_paths, const struct volume_reader *reader,
                struct fault_note *why)
{
    struct reader *files = NULL;
    const struct reader_options options = {
        .memory_bytes = READER_MEMORY_BYTES_ANY, .cpu_s = READER_OPEN_S_ANY, .to_learn = 1};
    int rc = reader_open(paths, n_paths, &options, &files, why);
    for (size_t i = 0; rc == 0 && i < reader_n_items(files); i++)
        rc = read_stack(files, i, reader, why);
    reader_free(files);
    return rc;
}
