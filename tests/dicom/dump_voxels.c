// SPDX-License-Identifier: Apache-2.0
//
// dump_voxels SOURCE OUT: the stored values of the first stack in SOURCE as 32-bit integers, slices in order
// of position; prints slices, rows and columns. For test_decode.py.
#include "dicom_map/source.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(int rc, const char *text)
{
    fprintf(stderr, "%s: %s\n", fault_name((enum fault)rc), text);
    return 1;
}

int main(int argc, char **argv)
{
    struct fault_note why = {0};
    struct source *source = NULL;
    if (argc != 3)
        return 2;
    const char *path = argv[1];
    int rc = source_open(&path, 1, &source, &why);
    if (rc != 0)
        return fail(rc, why.text);
    const struct source_item *item = source_item(source, 0);
    if (item == NULL || item->verdict != FAULT_OK) {
        rc = item != NULL ? (int)item->verdict : FAULT_NOT_FOUND;
        fail(rc, item != NULL ? item->reason : "no stack");
        source_free(source);
        return 1;
    }
    size_t n = (size_t)item->depth * (size_t)item->height * (size_t)item->width;
    float *voxels = malloc(n * sizeof *voxels);
    FILE *out = fopen(argv[2], "wb");
    if (voxels == NULL || out == NULL)
        rc = fail(FAULT_IO, "cannot hold or write the voxels");
    else
        rc = source_load_voxels(source, 0, voxels, &why);
    if (rc == 0)
        printf("%d %d %d\n", item->depth, item->height, item->width);
    else
        fail(rc, why.text);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        int32_t value = (int32_t)voxels[i];
        rc = fwrite(&value, sizeof value, 1, out) != 1;
    }
    if (out != NULL && fclose(out) != 0)
        rc = 1;
    free(voxels);
    source_free(source);
    return rc != 0;
}
