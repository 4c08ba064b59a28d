// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/object_file.h"

#include "core/file.h"
#include "dicom_map/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

// Preamble and file meta information, PS3.10 section 7.1, before the data set.
static size_t build_meta(const char *sop_class_uid, const char *sop_uid, uint8_t out[512])
{
    const struct {
        unsigned element;
        const char *vr, *text;
    } rows[] = {{0x0002, "UI", sop_class_uid},
                {0x0003, "UI", sop_uid},
                {0x0010, "UI", "1.2.840.10008.1.2.1"},
                {0x0012, "UI", ISOSLICE_IMPLEMENTATION_CLASS_UID},
                {0x0013, "SH", ISOSLICE_IMPLEMENTATION_VERSION_NAME}};
    static const uint8_t start[] = {'D', 'I', 'C', 'M', 2,   0,   0, 0, 'U', 'L', 4, 0, 0, 0,
                                    0,   0, // length follows
                                    2,   0,   1,   0,   'O', 'B', 0, 0, 2,   0,   0, 0, 0, 1};
    memset(out, 0, 512);
    memcpy(out + 128, start, sizeof start);
    size_t at = 128 + sizeof start;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t n = strlen(rows[i].text), padded = n + (n & 1);
        const uint8_t header[8] = {2,
                                   0,
                                   (uint8_t)rows[i].element,
                                   0,
                                   (uint8_t)rows[i].vr[0],
                                   (uint8_t)rows[i].vr[1],
                                   (uint8_t)padded,
                                   0};
        memcpy(out + at, header, sizeof header);
        memcpy(out + at + 8, rows[i].text, n);
        if (n & 1)
            out[at + 8 + n] = rows[i].vr[0] == 'U' ? 0 : ' ';
        at += 8 + padded;
    }
    size_t length = at - (128 + 16);
    out[128 + 12] = (uint8_t)length;
    out[128 + 13] = (uint8_t)(length >> 8);
    return at;
}

int object_file_begin(struct object_file *file, const char *directory, const char *name,
                      const char *sop_class_uid, const char *sop_instance_uid, struct fault_note *why)
{
    uint8_t meta[512];
    size_t meta_size = build_meta(sop_class_uid, sop_instance_uid, meta);
    file->fd = -1;
    int rc = file_join(file->path, sizeof file->path, directory, name, why);
    if (rc != 0)
        return rc;
    snprintf(file->temporary, sizeof file->temporary, "%s.tmp", file->path);
    file->fd = file_ops.open(file->temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file->fd < 0)
        return fault_set_errno(why, errno, "cannot create '%s'", file->temporary);
    rc = file_write_all(file->fd, meta, meta_size, file->temporary, why);
    return rc == 0 ? 0 : object_file_end(file, rc, why);
}

int object_file_append(struct object_file *file, const void *data, size_t size, struct fault_note *why)
{
    return file_write_all(file->fd, data, size, file->temporary, why);
}

int object_file_end(struct object_file *file, int rc, struct fault_note *why)
{
    if (file->fd < 0)
        return rc;
    if (rc == 0 && file_ops.fsync(file->fd) != 0)
        rc = fault_set_errno(why, errno, "cannot sync '%s'", file->temporary);
    if (file_ops.close(file->fd) != 0 && rc == 0)
        rc = fault_set_errno(why, errno, "cannot close '%s'", file->temporary);
    file->fd = -1;
    if (rc == 0 && file_ops.rename(file->temporary, file->path) != 0)
        rc = fault_set_errno(why, errno, "cannot rename to '%s'", file->path);
    if (rc != 0)
        file_ops.unlink(file->temporary);
    return rc;
}

int object_file_write(const char *directory, const char *name, const char *sop_class_uid,
                      const char *sop_instance_uid, const void *dataset, size_t size, struct fault_note *why)
{
    struct object_file file;
    int rc = object_file_begin(&file, directory, name, sop_class_uid, sop_instance_uid, why);
    if (rc != 0)
        return rc;
    rc = object_file_append(&file, dataset, size, why);
    return object_file_end(&file, rc, why);
}
