// SPDX-License-Identifier: Apache-2.0
#include "scp/object.h"

#include "core/file.h"
#include "dicom_map/identity.h"
#include "dicom_map/prescan.h"
#include "spool/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

// ---- file meta information

struct meta {
    unsigned char bytes[1024];
    size_t size;
};

static void meta_bytes(struct meta *meta, const void *data, size_t size)
{
    memcpy(meta->bytes + meta->size, data, size);
    meta->size += size;
}

// One element of group 0002 with a short-form VR; texts are padded to even length.
static void meta_element(struct meta *meta, unsigned element, const char *vr, const void *value, size_t size)
{
    size_t even = size + (size & 1);
    unsigned char head[8] = {0x02,
                             0x00,
                             (unsigned char)element,
                             (unsigned char)(element >> 8),
                             (unsigned char)vr[0],
                             (unsigned char)vr[1],
                             (unsigned char)even,
                             (unsigned char)(even >> 8)};
    meta_bytes(meta, head, sizeof head);
    meta_bytes(meta, value, size);
    if (size & 1)
        meta_bytes(meta, strcmp(vr, "UI") == 0 ? "\0" : " ", 1);
}

static void meta_text(struct meta *meta, unsigned element, const char *vr, const char *text)
{
    meta_element(meta, element, vr, text, strlen(text));
}

static void meta_build(struct meta *meta, const struct object_command *command)
{
    static const unsigned char version[] = {0x02, 0x00, 0x01, 0x00, 'O', 'B', 0, 0, 2, 0, 0, 0, 0x00, 0x01};
    enum { PREAMBLE = 128 + 4, LENGTH_ELEMENT = 12 };
    memset(meta, 0, sizeof *meta);
    memcpy(meta->bytes + 128, "DICM", 4);
    meta->size = PREAMBLE + LENGTH_ELEMENT;
    meta_bytes(meta, version, sizeof version);
    meta_text(meta, 0x0002, "UI", command->sop_class_uid);
    meta_text(meta, 0x0003, "UI", command->sop_instance_uid);
    meta_text(meta, 0x0010, "UI", command->transfer_syntax);
    meta_text(meta, 0x0012, "UI", ISOSLICE_IMPLEMENTATION_CLASS_UID);
    meta_text(meta, 0x0013, "SH", ISOSLICE_IMPLEMENTATION_VERSION_NAME);
    meta_text(meta, 0x0016, "AE", command->calling_ae);
    size_t end = meta->size;
    uint32_t length = (uint32_t)(end - PREAMBLE - LENGTH_ELEMENT);
    unsigned char value[4] = {(unsigned char)length, (unsigned char)(length >> 8),
                              (unsigned char)(length >> 16), (unsigned char)(length >> 24)};
    meta->size = PREAMBLE;
    meta_element(meta, 0x0000, "UL", value, sizeof value);
    meta->size = end;
}

int object_has_digest(const char *path, size_t limit, const char *digest, struct fault_note *why)
{
    struct prescan scan;
    int rc = prescan_file(path, limit, &scan, why);
    if (rc == FAULT_NO_MEMORY)
        return rc;
    if (rc == 0 && strcmp(scan.digest, digest) != 0)
        rc = fault_set(why, FAULT_DAMAGED_FILE, "its bytes are not those that were received");
    return rc == 0;
}

// ---- the object

enum { FIRST_FILES = 4, FILES_AHEAD = 16, MAX_FILES_AHEAD = 64 };

static void name_of(char *name, size_t size, unsigned number)
{
    snprintf(name, size, "%u.tmp", number);
}

// Makes empty files for objects to come until there are `n`. Returns how many were made.
static unsigned make_files(struct object *object, unsigned n)
{
    unsigned before = object->n_made;
    while (object->n_made < n) {
        char name[32];
        name_of(name, sizeof name, object->n_made + 1);
        int fd = file_ops.open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
        if (fd < 0)
            break;
        file_ops.close(fd);
        object->n_made++;
    }
    return object->n_made - before;
}

// The next file's name is made durable, and with it those of all files that were made ahead.
static int need_name(struct object *object, struct fault_note *why)
{
    if (object->number < object->n_names)
        return 0;
    if (object->n_made == object->n_names && make_files(object, object->n_made + FIRST_FILES) == 0)
        return fault_set_errno(why, errno, "cannot create a file");
    int rc = file_sync_directory(".", why);
    if (rc == 0)
        object->n_names = object->n_made;
    return rc;
}

int object_disk_is_low(const char *folder, const struct object_limits *limits, struct fault_note *why)
{
    int64_t free_bytes = file_free_bytes(folder);
    if (free_bytes < 0 || free_bytes >= limits->reserve_bytes)
        return 0;
    return fault_set(why, FAULT_NO_SPACE, "disk below its reserve: %lld MB free",
                     (long long)(free_bytes >> 20));
}

int object_begin(struct object *object, const struct object_command *command, struct fault_note *why)
{
    object->fd = -1;
    int rc = object_disk_is_low(".", &object->limits, why);
    if (rc != 0)
        return rc;
    if (object->buffer == NULL)
        object->buffer = malloc(OBJECT_BUFFER_BYTES);
    if (object->sum == NULL)
        object->sum = XXH3_createState();
    if (object->buffer == NULL || object->sum == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold %d bytes", OBJECT_BUFFER_BYTES);
    rc = need_name(object, why);
    if (rc != 0)
        return rc;
    object->number++;
    name_of(object->temporary, sizeof object->temporary, object->number);
    snprintf(object->final, sizeof object->final, "%u.dcm", object->number);
    object->fd = file_ops.open(object->temporary, O_RDWR, 0);
    if (object->fd < 0)
        return fault_set_errno(why, errno, "cannot open '%s'", object->temporary);
    struct meta meta;
    meta_build(&meta, command);
    int is_enhanced = strcmp(command->sop_class_uid, ENHANCED_MR_IMAGE_STORAGE) == 0 ||
                      strcmp(command->sop_class_uid, LEGACY_ENHANCED_MR_IMAGE_STORAGE) == 0;
    object->max_bytes = is_enhanced ? object->limits.max_enhanced_bytes : object->limits.max_bytes;
    memcpy(object->buffer, meta.bytes, meta.size);
    object->n_bytes = (int64_t)meta.size;
    object->n_written = 0;
    return 0;
}

// From the buffer to the file, once an object turns out to be larger than that; then its sum is begun as
// well.
static int spill(struct object *object, struct fault_note *why)
{
    size_t size = (size_t)object->n_bytes;
    XXH3_128bits_reset(object->sum);
    XXH3_128bits_update(object->sum, object->buffer + SEAL_SIZE, size - SEAL_SIZE);
    object->n_written = object->n_bytes;
    return file_write_all(object->fd, object->buffer, size, "object", why);
}

int object_write(struct object *object, const void *data, size_t size, struct fault_note *why)
{
    if ((int64_t)size > object->max_bytes - object->n_bytes)
        return fault_set(why, FAULT_TOO_LARGE, "object above the limit of %lld MB",
                         (long long)(object->max_bytes >> 20));
    if (object->n_written == 0 && (int64_t)size <= OBJECT_BUFFER_BYTES - object->n_bytes) {
        memcpy(object->buffer + object->n_bytes, data, size);
        object->n_bytes += (int64_t)size;
        return 0;
    }
    int rc = object->n_written == 0 ? spill(object, why) : 0;
    if (rc != 0)
        return rc;
    object->n_bytes += (int64_t)size;
    object->n_written = object->n_bytes;
    XXH3_128bits_update(object->sum, data, size);
    return file_write_all(object->fd, data, size, "object", why);
}

// What came must be sound and must be what the command announced.
static int check(const struct prescan *scan, const struct object_command *command, struct fault_note *why)
{
    if (strcmp(scan->sop_class_uid, command->sop_class_uid) != 0)
        return fault_set(why, FAULT_SOP_MISMATCH, "SOP Class UID differs from the command's");
    if (strcmp(scan->sop_instance_uid, command->sop_instance_uid) != 0)
        return fault_set(why, FAULT_SOP_MISMATCH, "SOP Instance UID differs from the command's");
    if (scan->series_uid[0] == '\0' || scan->study_uid[0] == '\0')
        return fault_set(why, FAULT_BAD_HEADER, "Study or Series Instance UID is missing");
    return 0;
}

// The whole object, in the buffer or as its file is mapped.
static int check_structure(struct object *object, const struct object_command *command,
                           struct fault_note *why)
{
    struct prescan scan;
    size_t size = (size_t)object->n_bytes;
    int is_mapped = object->n_written > 0;
    void *data = is_mapped ? mmap(NULL, size, PROT_READ, MAP_SHARED, object->fd, 0) : object->buffer;
    if (data == MAP_FAILED)
        return fault_set_errno(why, errno, "cannot map %zu bytes", size);
    int rc = prescan_structure(data, size, &scan, why);
    if (rc == 0)
        rc = check(&scan, command, why);
    if (rc == 0 && object->limits.admit != NULL)
        rc = object->limits.admit(object->limits.admit_user, scan.series_uid, why);
    if (is_mapped)
        munmap(data, size);
    return rc;
}

// What the file still lacks: the whole object, or only its seal.
static int write_sealed(struct object *object, struct fault_note *why)
{
    char seal[SEAL_SIZE];
    size_t size = (size_t)object->n_bytes;
    if (object->n_written == 0) {
        seal_make(XXH3_128bits(object->buffer + SEAL_SIZE, size - SEAL_SIZE), seal);
        memcpy(object->buffer, seal, sizeof seal);
        return file_write_all(object->fd, object->buffer, size, "object", why);
    }
    seal_make(XXH3_128bits_digest(object->sum), seal);
    if (lseek(object->fd, 0, SEEK_SET) != 0)
        return fault_set_errno(why, errno, "cannot go to the preamble");
    return file_write_all(object->fd, seal, sizeof seal, "seal", why);
}

int object_commit(struct object *object, const struct object_command *command, struct fault_note *why)
{
    int rc = check_structure(object, command, why);
    if (rc == 0)
        rc = write_sealed(object, why);
    if (rc == 0 && file_ops.fdatasync(object->fd) != 0)
        rc = fault_set_errno(why, errno, "cannot sync '%s'", object->temporary);
    object->is_committed = rc == 0;
    if (rc != 0)
        object_cancel(object);
    return rc;
}

void object_settle(struct object *object)
{
    if (object->is_committed) {
        file_ops.close(object->fd);
        object->fd = -1;
        object->is_committed = 0;
        file_ops.rename(object->temporary, object->final); // failed: the indexer finds the seal later
    }
    // The more objects came, the more are likely to follow; two files a time keep up with them.
    unsigned ahead = object->n_made - object->number,
             n = object->number < FILES_AHEAD ? FILES_AHEAD : MAX_FILES_AHEAD;
    if (ahead < n)
        make_files(object, object->number < FILES_AHEAD ? object->number + n : object->n_made + 2);
}

void object_cancel(struct object *object)
{
    if (object->fd < 0)
        return;
    file_ops.close(object->fd);
    file_ops.unlink(object->temporary);
    object->fd = -1;
}

void object_finish(struct object *object)
{
    if (object->is_committed)
        object_settle(object);
    object_cancel(object);
    while (object->number < object->n_made) {
        char name[32];
        name_of(name, sizeof name, ++object->number);
        file_ops.unlink(name);
    }
    free(object->buffer);
    object->buffer = NULL;
    XXH3_freeState(object->sum);
    object->sum = NULL;
}
