// SPDX-License-Identifier: Apache-2.0
#include "train/nifti.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

enum {
    HEADER_BYTES = 348,
    AT_DIM = 40,
    AT_TYPE = 70,
    AT_PIXDIM = 76,
    AT_OFFSET = 108,
    AT_SLOPE = 112,
    AT_INTERCEPT = 116,
    AT_MAGIC = 344,
    MAX_SIDE = 4096,
    MAX_OFFSET = 1 << 24,
};

enum { TYPE_UINT8 = 2, TYPE_INT16 = 4, TYPE_FLOAT32 = 16, TYPE_UINT16 = 512 };

struct reader {
    gzFile file;
    const char *path;
    int is_big_endian;
    unsigned char header[HEADER_BYTES];
    int type;
    size_t type_bytes;
    long offset;
    float slope, intercept;
};

static unsigned get16(const struct reader *reader, const unsigned char *at)
{
    return reader->is_big_endian ? (unsigned)at[0] << 8 | at[1] : (unsigned)at[1] << 8 | at[0];
}

static float get_float(const struct reader *reader, const unsigned char *at)
{
    uint32_t bits = 0;
    float value;
    for (int i = 0; i < 4; i++)
        bits = bits << 8 | at[reader->is_big_endian ? i : 3 - i];
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int read_all(struct reader *reader, void *to, size_t size, struct fault_note *why)
{
    unsigned char *at = to;
    while (size > 0) {
        unsigned part = size > 1U << 24 ? 1U << 24 : (unsigned)size;
        int n = gzread(reader->file, at, part);
        if (n < 0)
            return fault_set(why, FAULT_DECODE, "cannot decompress '%s'", reader->path);
        if (n == 0)
            return fault_set(why, FAULT_TRUNCATED, "'%s' ends %zu bytes early", reader->path, size);
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

static int parse_type(struct reader *reader, struct volume *volume, struct fault_note *why)
{
    reader->type = (int)get16(reader, reader->header + AT_TYPE);
    switch (reader->type) {
    case TYPE_UINT8:
        reader->type_bytes = 1;
        break;
    case TYPE_INT16:
    case TYPE_UINT16:
        reader->type_bytes = 2;
        break;
    case TYPE_FLOAT32:
        reader->type_bytes = 4;
        break;
    default:
        return fault_set(why, FAULT_BAD_HEADER,
                         "'%s' has data type %d; uint8, int16, uint16 and float32 are read", reader->path,
                         reader->type);
    }
    reader->slope = get_float(reader, reader->header + AT_SLOPE);
    reader->intercept = get_float(reader, reader->header + AT_INTERCEPT);
    if (!isfinite(reader->slope) || !isfinite(reader->intercept) || reader->slope == 0) {
        reader->slope = 1; // as the format has it: no scaling
        reader->intercept = 0;
    }
    volume->is_bytes = reader->type == TYPE_UINT8 && reader->slope == 1 && reader->intercept == 0;
    return 0;
}

static int parse_header(struct reader *reader, struct volume *volume, struct fault_note *why)
{
    const unsigned char *h = reader->header;
    const char *path = reader->path;
    int rc = read_all(reader, reader->header, HEADER_BYTES, why);
    if (rc != 0)
        return rc;
    if (memcmp(h + AT_MAGIC, "n+1", 4) != 0)
        return fault_set(why, FAULT_BAD_HEADER, "'%s' is not a single-file NIfTI-1 volume", path);
    reader->is_big_endian = h[0] == 0;
    unsigned n_dims = get16(reader, h + AT_DIM);
    if (n_dims < 3 || n_dims > 7)
        return fault_set(why, FAULT_BAD_HEADER, "'%s' has %u dimensions, not 3 to 7", path, n_dims);
    size_t count = 1;
    for (int i = 0; i < 3; i++) {
        unsigned size = get16(reader, h + AT_DIM + 2 * (ptrdiff_t)(i + 1));
        double spacing = fabs((double)get_float(reader, h + AT_PIXDIM + 4 * (ptrdiff_t)(i + 1)));
        if (size < 1 || size > MAX_SIDE)
            return fault_set(why, FAULT_TOO_LARGE, "'%s' has %u voxels on axis %d, not 1 to %d", path, size,
                             i, MAX_SIDE);
        if (!(spacing > 0) || !isfinite(spacing))
            return fault_set(why, FAULT_BAD_HEADER, "'%s' has a spacing of %g mm on axis %d", path, spacing,
                             i);
        volume->size[i] = (int)size;
        volume->spacing_mm[i] = spacing;
        count *= size;
    }
    if (count > VOLUME_MAX_VOXELS)
        return fault_set(why, FAULT_TOO_LARGE, "'%s' has %zu voxels, more than %d", path, count,
                         VOLUME_MAX_VOXELS);
    float offset = get_float(reader, h + AT_OFFSET);
    if (!(offset >= HEADER_BYTES && offset <= MAX_OFFSET))
        return fault_set(why, FAULT_BAD_HEADER, "'%s' has its voxels at byte %g", path, (double)offset);
    reader->offset = (long)offset;
    return parse_type(reader, volume, why);
}

static float value_at(const struct reader *reader, const unsigned char *at)
{
    switch (reader->type) {
    case TYPE_UINT8:
        return (float)*at;
    case TYPE_INT16:
        return (float)(int16_t)get16(reader, at);
    case TYPE_UINT16:
        return (float)get16(reader, at);
    default:
        return get_float(reader, at);
    }
}

static int read_voxels(struct reader *reader, struct volume *volume, struct fault_note *why)
{
    size_t n = volume_count(volume), bytes = reader->type_bytes;
    volume->voxels = malloc(n * sizeof *volume->voxels);
    if (volume->voxels == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for %zu voxels of '%s'", n, reader->path);
    // read into the end of the array, converted towards its front: no second block of memory
    unsigned char *raw = (unsigned char *)volume->voxels + n * (sizeof(float) - bytes);
    if (gzseek(reader->file, reader->offset, SEEK_SET) < 0)
        return fault_set(why, FAULT_TRUNCATED, "'%s' ends before its voxels", reader->path);
    int rc = read_all(reader, raw, n * bytes, why);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        unsigned char stored[4];
        memcpy(stored, raw + i * bytes, bytes);
        float value = value_at(reader, stored) * reader->slope + reader->intercept;
        if (!isfinite(value))
            rc = fault_set(why, FAULT_NOT_FINITE, "voxel %zu of '%s' is not finite", i, reader->path);
        volume->voxels[i] = value;
    }
    return rc;
}

int nifti_read(const char *path, struct volume *volume, struct fault_note *why)
{
    struct reader reader = {.path = path};
    memset(volume, 0, sizeof *volume);
    reader.file = gzopen(path, "rbe");
    if (reader.file == NULL)
        return fault_set_errno(why, errno, "cannot open '%s'", path);
    int rc = parse_header(&reader, volume, why);
    if (rc == 0)
        rc = read_voxels(&reader, volume, why);
    gzclose(reader.file);
    if (rc != 0)
        volume_done(volume);
    return rc;
}

int nifti_is_name(const char *name)
{
    static const char *const endings[] = {".nii", ".nii.gz"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t n = strlen(endings[i]);
        if (length > n && strcasecmp(name + length - n, endings[i]) == 0)
            return 1;
    }
    return 0;
}
