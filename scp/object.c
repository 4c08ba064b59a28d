// SPDX-License-Identifier: Apache-2.0
#include "scp/object.h"

#include "core/file.h"
#include "dicom_map/identity.h"
#include "dicom_map/prescan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

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

// ---- the object

int object_begin(struct object *object, const struct object_command *command, struct fault_note *why)
{
    object->fd = -1;
    int64_t free_bytes = file_free_bytes(".");
    if (free_bytes >= 0 && free_bytes < object->limits.reserve_bytes)
        return fault_set(why, FAULT_NO_SPACE, "disk below its reserve: %lld MB free",
                         (long long)(free_bytes >> 20));
    object->number++;
    object->n_bytes = 0;
    snprintf(object->temporary, sizeof object->temporary, "%u.tmp", object->number);
    snprintf(object->final, sizeof object->final, "%u.dcm", object->number);
    object->fd = file_ops.open(object->temporary, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (object->fd < 0)
        return fault_set_errno(why, errno, "cannot create a file");
    struct meta meta;
    meta_build(&meta, command);
    int rc = object_write(object, meta.bytes, meta.size, why);
    if (rc != 0)
        object_cancel(object);
    return rc;
}

int object_write(struct object *object, const void *data, size_t size, struct fault_note *why)
{
    if ((int64_t)size > object->limits.max_bytes - object->n_bytes)
        return fault_set(why, FAULT_TOO_LARGE, "object above the limit of %lld MB",
                         (long long)(object->limits.max_bytes >> 20));
    object->n_bytes += (int64_t)size;
    return file_write_all(object->fd, data, size, "object", why);
}

// What was written must be sound and must be what the command announced.
static int check(const struct object *object, const struct object_command *command, struct fault_note *why)
{
    struct prescan scan;
    int rc = prescan_file(object->temporary, (size_t)object->limits.max_bytes, &scan, why);
    if (rc != 0)
        return rc;
    if (strcmp(scan.sop_class_uid, command->sop_class_uid) != 0)
        return fault_set(why, FAULT_SOP_MISMATCH, "SOP Class UID differs from the command's");
    if (strcmp(scan.sop_instance_uid, command->sop_instance_uid) != 0)
        return fault_set(why, FAULT_SOP_MISMATCH, "SOP Instance UID differs from the command's");
    if (scan.series_uid[0] == '\0' || scan.study_uid[0] == '\0')
        return fault_set(why, FAULT_BAD_HEADER, "Study or Series Instance UID is missing");
    return 0;
}

int object_commit(struct object *object, const struct object_command *command, struct fault_note *why)
{
    int rc = check(object, command, why);
    if (rc != 0) {
        object_cancel(object);
        return rc;
    }
    int fd = object->fd;
    object->fd = -1;
    return file_commit(fd, object->temporary, object->final, why);
}

void object_cancel(struct object *object)
{
    if (object->fd < 0)
        return;
    file_ops.close(object->fd);
    file_ops.unlink(object->temporary);
    object->fd = -1;
}
