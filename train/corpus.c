// SPDX-License-Identifier: Apache-2.0
#include "train/corpus.h"

#include "core/file.h"
#include "train/nifti.h"
#include "train/video.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PATH_SIZE = 4096,
    MAX_SIDE = 1 << 16,
    MAX_ITEMS = 1 << 16,
    PACK_HEADER_BYTES = 16, // magic, kind, number of items
    PACK_NAME_BYTES = 64,
    PACK_ENTRY_BYTES = 96, // name, three sizes, thick axis, offset, room that older packs may have used
    PACK_ALIGN = 64,
};
static const char pack_magic[8] = "ISOPACK1";

void corpus_init(struct corpus *corpus, enum corpus_kind kind)
{
    memset(corpus, 0, sizeof *corpus);
    corpus->kind = kind;
}

void corpus_done(struct corpus *corpus)
{
    for (size_t i = 0; i < corpus->n_items; i++)
        free(corpus->items[i].owned);
    for (size_t i = 0; i < corpus->n_maps; i++)
        munmap(corpus->maps[i].data, corpus->maps[i].size);
    free(corpus->items);
    free(corpus->maps);
    corpus->items = NULL;
    corpus->maps = NULL;
    corpus->n_items = corpus->n_maps = 0;
}

static size_t item_bytes(const struct corpus_item *item)
{
    return (size_t)item->size[0] * (size_t)item->size[1] * (size_t)item->size[2];
}

size_t corpus_voxels(const struct corpus *corpus)
{
    size_t sum = 0;
    for (size_t i = 0; i < corpus->n_items; i++)
        sum += item_bytes(&corpus->items[i]);
    return sum;
}

static int append(struct corpus *corpus, const struct corpus_item *item, struct fault_note *why)
{
    struct corpus_item *larger = realloc(corpus->items, (corpus->n_items + 1) * sizeof *larger);
    if (larger == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for item %zu", corpus->n_items);
    corpus->items = larger;
    corpus->items[corpus->n_items++] = *item;
    return 0;
}

static void name_item(struct corpus_item *item, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    const char *from = path;
    for (const char *at = path; at < path + n; at++)
        if (*at == '/')
            from = at + 1;
    snprintf(item->name, sizeof item->name, "%.*s", (int)(path + n - from), from);
}

// --------------------------------------------------------------------------------------------- single items

static int ends_with(const char *name, const char *suffix)
{
    size_t length = strlen(name), n = strlen(suffix);
    return length > n && strcasecmp(name + length - n, suffix) == 0;
}

static int add_volume(struct corpus *corpus, const struct volume *volume, const char *name,
                      struct fault_note *why)
{
    struct corpus_item item = {.thick_axis = -1};
    int thickest = 0, finest = 0;
    for (int i = 0; i < 3; i++) {
        item.size[i] = volume->size[i];
        thickest = volume->spacing_mm[i] > volume->spacing_mm[thickest] ? i : thickest;
        finest = volume->spacing_mm[i] < volume->spacing_mm[finest] ? i : finest;
    }
    if (volume->spacing_mm[thickest] > CORPUS_THICK_RATIO * volume->spacing_mm[finest])
        item.thick_axis = thickest;
    // of a name that is too long the end is kept: UIDs differ there
    size_t length = strlen(name), room = sizeof item.name - 1;
    snprintf(item.name, sizeof item.name, "%s", name + (length > room ? length - room : 0));
    item.voxels = item.owned = malloc(volume_count(volume));
    int rc = item.owned == NULL ? fault_set(why, FAULT_NO_MEMORY, "no memory for '%s'", name)
                                : volume_to_bytes(volume, item.owned, why);
    if (rc == 0)
        rc = append(corpus, &item, why);
    if (rc != 0)
        free(item.owned);
    return rc;
}

static int add_video(struct corpus *corpus, const char *path, int is_folder, struct fault_note *why)
{
    struct video video;
    struct corpus_item item = {.thick_axis = -1};
    int rc = is_folder ? video_read_folder(path, &video, why) : video_read_file(path, &video, why);
    if (rc != 0)
        return rc;
    name_item(&item, path);
    item.size[0] = video.width;
    item.size[1] = video.height;
    item.size[2] = video.n_frames;
    item.voxels = item.owned = video.frames;
    rc = append(corpus, &item, why);
    if (rc != 0)
        video_done(&video);
    return rc;
}

// --------------------------------------------------------------------------------------------- packed files

static void put32(unsigned char *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

static void put64(unsigned char *at, uint64_t value)
{
    put32(at, (uint32_t)value);
    put32(at + 4, (uint32_t)(value >> 32));
}

static uint32_t get32(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t get64(const unsigned char *at)
{
    return get32(at) | (uint64_t)get32(at + 4) << 32;
}

static size_t aligned(size_t at)
{
    return (at + PACK_ALIGN - 1) / PACK_ALIGN * PACK_ALIGN;
}

static unsigned char *make_index(const struct corpus *corpus, size_t *size)
{
    *size = aligned(PACK_HEADER_BYTES + corpus->n_items * PACK_ENTRY_BYTES);
    unsigned char *index = calloc(*size, 1);
    if (index == NULL)
        return NULL;
    memcpy(index, pack_magic, sizeof pack_magic);
    put32(index + 8, (uint32_t)corpus->kind);
    put32(index + 12, (uint32_t)corpus->n_items);
    size_t at = *size;
    for (size_t i = 0; i < corpus->n_items; i++) {
        const struct corpus_item *item = &corpus->items[i];
        unsigned char *entry = index + PACK_HEADER_BYTES + i * PACK_ENTRY_BYTES,
                      *tail = entry + PACK_NAME_BYTES;
        memcpy(entry, item->name, strlen(item->name));
        for (int k = 0; k < 3; k++)
            put32(tail + 4 * (ptrdiff_t)k, (uint32_t)item->size[k]);
        put32(tail + 12, (uint32_t)(item->thick_axis + 1));
        put64(tail + 16, at);
        at += aligned(item_bytes(item));
    }
    return index;
}

int corpus_save(const struct corpus *corpus, const char *path, struct fault_note *why)
{
    static const unsigned char filler[PACK_ALIGN];
    char temporary[PATH_SIZE];
    size_t index_bytes;
    int n = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (n < 0 || (size_t)n >= sizeof temporary)
        return fault_set(why, FAULT_IO, "path too long: %zu bytes", strlen(path));
    unsigned char *index = make_index(corpus, &index_bytes);
    if (index == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory to pack %zu items", corpus->n_items);
    int fd = file_ops.open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int rc = fd < 0 ? fault_set_errno(why, errno, "cannot create '%s'", temporary)
                    : file_write_all(fd, index, index_bytes, temporary, why);
    free(index);
    if (fd < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < corpus->n_items; i++) {
        size_t bytes = item_bytes(&corpus->items[i]);
        rc = file_write_all(fd, corpus->items[i].voxels, bytes, temporary, why);
        if (rc == 0)
            rc = file_write_all(fd, filler, aligned(bytes) - bytes, temporary, why);
    }
    if (rc == 0)
        return file_commit(fd, temporary, path, why);
    file_ops.close(fd);
    file_ops.unlink(temporary);
    return rc;
}

static int parse_entry(const unsigned char *file, size_t size, const unsigned char *entry, const char *path,
                       struct corpus_item *item, struct fault_note *why)
{
    const unsigned char *tail = entry + PACK_NAME_BYTES;
    memset(item, 0, sizeof *item);
    memcpy(item->name, entry, sizeof item->name - 1);
    uint64_t bytes = 1, offset = get64(tail + 16);
    for (int k = 0; k < 3; k++) {
        uint32_t side = get32(tail + 4 * (ptrdiff_t)k);
        if (side < 1 || side > MAX_SIDE)
            return fault_set(why, FAULT_BAD_HEADER, "packed file '%s' has an item with a side of %u", path,
                             side);
        item->size[k] = (int)side;
        bytes *= side;
    }
    uint32_t axis = get32(tail + 12);
    if (axis > 3 || offset > size || bytes > size - offset)
        return fault_set(why, FAULT_BAD_HEADER, "packed file '%s' has an item that lies outside it", path);
    item->thick_axis = (int)axis - 1;
    item->voxels = file + offset;
    return 0;
}

static int parse_pack(struct corpus *corpus, const unsigned char *file, size_t size, const char *path,
                      struct fault_note *why)
{
    uint32_t kind = get32(file + 8), n = get32(file + 12);
    if (kind != (uint32_t)corpus->kind)
        return fault_set(why, FAULT_BAD_HEADER, "packed file '%s' is for the other stage", path);
    if (n < 1 || n > MAX_ITEMS || (uint64_t)n * PACK_ENTRY_BYTES > size - PACK_HEADER_BYTES)
        return fault_set(why, FAULT_BAD_HEADER, "packed file '%s' announces %u items in %zu bytes", path, n,
                         size);
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        struct corpus_item item;
        rc = parse_entry(file, size, file + PACK_HEADER_BYTES + (size_t)i * PACK_ENTRY_BYTES, path, &item,
                         why);
        if (rc == 0)
            rc = append(corpus, &item, why);
    }
    return rc;
}

static int add_pack(struct corpus *corpus, const char *path, struct fault_note *why)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
    if (fd < 0)
        return fault_set_errno(why, errno, "cannot open '%s'", path);
    unsigned char magic[PACK_HEADER_BYTES];
    if (fstat(fd, &st) != 0)
        rc = fault_set_errno(why, errno, "cannot look at '%s'", path);
    else if (read(fd, magic, sizeof magic) != sizeof magic ||
             memcmp(magic, pack_magic, sizeof pack_magic) != 0)
        rc = fault_set(why, FAULT_NOT_FOUND, "'%s' is neither data for this stage nor a packed file", path);
    struct corpus_map *larger = NULL;
    if (rc == 0 && (larger = realloc(corpus->maps, (corpus->n_maps + 1) * sizeof *larger)) == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory to map '%s'", path);
    } else if (rc == 0) {
        corpus->maps = larger;
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) {
            rc = fault_set_errno(why, errno, "cannot map '%s'", path);
        } else {
            larger[corpus->n_maps++] = (struct corpus_map){data, (size_t)st.st_size};
            rc = parse_pack(corpus, data, (size_t)st.st_size, path, why);
        }
    }
    close(fd);
    return rc;
}

// --------------------------------------------------------------------------------------------- folders

static int holds_png(const char *directory)
{
    DIR *dir = opendir(directory);
    const struct dirent *entry;
    int found = 0;
    while (dir != NULL && !found && (entry = readdir(dir)) != NULL)
        found = ends_with(entry->d_name, ".png");
    if (dir != NULL)
        closedir(dir);
    return found;
}

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

// Adds one clip of a folder; 0 when it is none.
static int add_entry(struct corpus *corpus, const char *path, struct fault_note *why)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return fault_set_errno(why, errno, "cannot look at '%s'", path);
    if (S_ISREG(st.st_mode) && video_is_file(path))
        return add_video(corpus, path, 0, why);
    return S_ISDIR(st.st_mode) && holds_png(path) ? add_video(corpus, path, 1, why) : 0;
}

static int add_folder(struct corpus *corpus, const char *directory, progress_fn progress, void *user,
                      struct fault_note *why)
{
    struct dirent **entries = NULL;
    size_t before = corpus->n_items;
    int rc = 0, n = scandir(directory, &entries, is_visible, alphasort);
    if (n < 0)
        return fault_set_errno(why, errno, "cannot list '%s'", directory);
    for (int i = 0; i < n; i++) {
        char path[PATH_SIZE];
        if (rc == 0)
            rc = file_join(path, sizeof path, directory, entries[i]->d_name, why);
        if (rc == 0)
            rc = add_entry(corpus, path, why);
        if (rc == 0 && progress != NULL && progress(user, "read", i + 1, n, NULL) != 0)
            rc = fault_set(why, FAULT_CANCELLED, "stopped on request while reading '%s'", directory);
        free(entries[i]);
    }
    free(entries);
    if (rc == 0 && corpus->n_items == before)
        rc = fault_set(why, FAULT_NOT_FOUND, "nothing for this stage in '%s'", directory);
    return rc;
}

// --------------------------------------------------------------------------------------------- volumes

struct volumes {
    struct corpus *corpus;
    progress_fn progress;
    void *progress_user;
    size_t n_nifti, n_files, n_taken, n_done;
};

static int take_volume(void *user, const struct volume *volume, const char *name, struct fault_note *why)
{
    struct volumes *volumes = user;
    int rc = add_volume(volumes->corpus, volume, name, why);
    if (rc != 0)
        return rc;
    volumes->n_done +=
        volumes->n_taken++ < volumes->n_nifti ? 1 : (size_t)volume->size[2]; // one file a slice
    if (volumes->progress != NULL &&
        volumes->progress(volumes->progress_user, "read", (double)volumes->n_done, (double)volumes->n_files,
                          NULL) != 0)
        return fault_set(why, FAULT_CANCELLED, "stopped on request after reading '%s'", name);
    return 0;
}

static void leave_out(void *user, const char *name, const char *reason)
{
    const struct corpus *corpus = ((const struct volumes *)user)->corpus;
    if (corpus->left_out != NULL)
        corpus->left_out(corpus->left_out_user, name, reason);
}

static int add_volumes(struct corpus *corpus, const char *path, progress_fn progress, void *user,
                       struct fault_note *why)
{
    struct volume_list list = {0};
    size_t before = corpus->n_items;
    int rc = volume_list_add(&list, path, why);
    struct volumes volumes = {.corpus = corpus,
                              .progress = progress,
                              .progress_user = user,
                              .n_nifti = list.n_nifti,
                              .n_files = list.n_nifti + list.n_dicom};
    struct volume_reader reader = {
        .series = corpus->series, .take = take_volume, .left_out = leave_out, .user = &volumes};
    if (rc == 0)
        rc = volume_list_read(&list, &reader, why);
    if (rc == 0 && corpus->n_items == before)
        rc = fault_set(why, FAULT_NOT_FOUND, "none of %zu DICOM files in '%s' is of a stack that can serve",
                       list.n_dicom, path);
    volume_list_done(&list);
    return rc;
}

int corpus_add(struct corpus *corpus, const char *path, progress_fn progress, void *progress_user,
               struct fault_note *why)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return fault_set_errno(why, errno, "cannot look at '%s'", path);
    int is_folder = S_ISDIR(st.st_mode);
    if (corpus->kind == CORPUS_MR)
        return is_folder || nifti_is_name(path) || volume_is_dicom(path)
                   ? add_volumes(corpus, path, progress, progress_user, why)
                   : add_pack(corpus, path, why);
    if (is_folder)
        return holds_png(path) ? add_video(corpus, path, 1, why)
                               : add_folder(corpus, path, progress, progress_user, why);
    return video_is_file(path) ? add_video(corpus, path, 0, why) : add_pack(corpus, path, why);
}
