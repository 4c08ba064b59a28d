// SPDX-License-Identifier: Apache-2.0
#include "train/nifti.h"

#include "train/percentile.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
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
    MAX_VOXELS = 1 << 28,
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

static int parse_type(struct reader *reader, struct nifti *nifti, struct fault_note *why)
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
    nifti->is_bytes = reader->type == TYPE_UINT8 && reader->slope == 1 && reader->intercept == 0;
    return 0;
}

static int parse_header(struct reader *reader, struct nifti *nifti, struct fault_note *why)
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
        nifti->size[i] = (int)size;
        nifti->spacing_mm[i] = spacing;
        count *= size;
    }
    if (count > MAX_VOXELS)
        return fault_set(why, FAULT_TOO_LARGE, "'%s' has %zu voxels, more than %d", path, count, MAX_VOXELS);
    float offset = get_float(reader, h + AT_OFFSET);
    if (!(offset >= HEADER_BYTES && offset <= MAX_OFFSET))
        return fault_set(why, FAULT_BAD_HEADER, "'%s' has its voxels at byte %g", path, (double)offset);
    reader->offset = (long)offset;
    return parse_type(reader, nifti, why);
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

static int read_voxels(struct reader *reader, struct nifti *nifti, struct fault_note *why)
{
    size_t n = nifti_count(nifti), bytes = reader->type_bytes;
    nifti->voxels = malloc(n * sizeof *nifti->voxels);
    if (nifti->voxels == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for %zu voxels of '%s'", n, reader->path);
    // read into the end of the array, converted towards its front: no second block of memory
    unsigned char *raw = (unsigned char *)nifti->voxels + n * (sizeof(float) - bytes);
    if (gzseek(reader->file, reader->offset, SEEK_SET) < 0)
        return fault_set(why, FAULT_TRUNCATED, "'%s' ends before its voxels", reader->path);
    int rc = read_all(reader, raw, n * bytes, why);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        unsigned char stored[4];
        memcpy(stored, raw + i * bytes, bytes);
        float value = value_at(reader, stored) * reader->slope + reader->intercept;
        if (!isfinite(value))
            rc = fault_set(why, FAULT_NOT_FINITE, "voxel %zu of '%s' is not finite", i, reader->path);
        nifti->voxels[i] = value;
    }
    return rc;
}

int nifti_read(const char *path, struct nifti *nifti, struct fault_note *why)
{
    struct reader reader = {.path = path};
    memset(nifti, 0, sizeof *nifti);
    reader.file = gzopen(path, "rbe");
    if (reader.file == NULL)
        return fault_set_errno(why, errno, "cannot open '%s'", path);
    int rc = parse_header(&reader, nifti, why);
    if (rc == 0)
        rc = read_voxels(&reader, nifti, why);
    gzclose(reader.file);
    if (rc != 0)
        nifti_done(nifti);
    return rc;
}

void nifti_done(struct nifti *nifti)
{
    free(nifti->voxels);
    nifti->voxels = NULL;
}

size_t nifti_count(const struct nifti *nifti)
{
    return (size_t)nifti->size[0] * (size_t)nifti->size[1] * (size_t)nifti->size[2];
}

int nifti_to_bytes(const struct nifti *nifti, uint8_t *bytes, struct fault_note *why)
{
    size_t n = nifti_count(nifti);
    if (nifti->is_bytes) {
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)nifti->voxels[i];
        return 0;
    }
    float *copy = malloc(n * sizeof *copy), low = nifti->voxels[0];
    if (copy == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory to sort %zu voxels", n);
    memcpy(copy, nifti->voxels, n * sizeof *copy);
    double high = percentile_of(copy, n, 99.95);
    free(copy);
    for (size_t i = 0; i < n; i++)
        low = nifti->voxels[i] < low ? nifti->voxels[i] : low;
    double scale = high > (double)low ? 255 / (high - (double)low) : 0;
    for (size_t i = 0; i < n; i++) {
        double value = ((double)nifti->voxels[i] - (double)low) * scale;
        bytes[i] = (uint8_t)(value > 255 ? 255 : rint(value));
    }
    return 0;
}
