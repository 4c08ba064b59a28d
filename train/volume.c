// SPDX-License-Identifier: Apache-2.0
#include "train/volume.h"

#include "core/file.h"
#include "train/nifti.h"
#include "train/percentile.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PATH_SIZE = 4096, MAX_FOLDER_DEPTH = 32, PREAMBLE = 128 };

void volume_done(struct volume *volume)
{
    free(volume->voxels);
    volume->voxels = NULL;
}

size_t volume_count(const struct volume *volume)
{
    return (size_t)volume->size[0] * (size_t)volume->size[1] * (size_t)volume->size[2];
}

int volume_to_bytes(const struct volume *volume, uint8_t *bytes, struct fault_note *why)
{
    size_t n = volume_count(volume);
    if (volume->is_bytes) {
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)volume->voxels[i];
        return 0;
    }
    float *copy = malloc(n * sizeof *copy), low = volume->voxels[0];
    if (copy == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory to sort %zu voxels", n);
    memcpy(copy, volume->voxels, n * sizeof *copy);
    double high = percentile_of(copy, n, 99.95);
    free(copy);
    for (size_t i = 0; i < n; i++)
        low = volume->voxels[i] < low ? volume->voxels[i] : low;
    double scale = high > (double)low ? 255 / (high - (double)low) : 0;
    for (size_t i = 0; i < n; i++) {
        double value = ((double)volume->voxels[i] - (double)low) * scale;
        bytes[i] = (uint8_t)(value > 255 ? 255 : rint(value));
    }
    return 0;
}

// --------------------------------------------------------------------------------------------- the list

int volume_is_dicom(const char *path)
{
    char start[PREAMBLE + 4];
    FILE *file = fopen(path, "rbe");
    size_t n = file != NULL ? fread(start, 1, sizeof start, file) : 0;
    if (file != NULL)
        fclose(file);
    return n == sizeof start && memcmp(start + PREAMBLE, "DICM", 4) == 0;
}

static int add_path(char ***paths, size_t *n, const char *path, struct fault_note *why)
{
    char **larger = realloc(*paths, (*n + 1) * sizeof(char *));
    if (larger == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for path %zu", *n);
    *paths = larger;
    (*paths)[*n] = strdup(path);
    if ((*paths)[*n] == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory for path %zu", *n);
    ++*n;
    return 0;
}

static int add_folder(struct volume_list *list, const char *directory, int depth, struct fault_note *why);

// An entry of a folder `depth` levels below the one that was asked for.
static int add_entry(struct volume_list *list, const char *path, int depth, struct fault_note *why)
{
    struct stat st, link;
    if (lstat(path, &link) != 0 || stat(path, &st) != 0)
        return fault_set_errno(why, errno, "cannot look at '%s'", path);
    if (S_ISDIR(st.st_mode))
        return S_ISLNK(link.st_mode) ? 0 : add_folder(list, path, depth + 1, why);
    if (!S_ISREG(st.st_mode))
        return 0;
    if (nifti_is_name(path))
        return depth == 0 ? add_path(&list->nifti, &list->n_nifti, path, why) : 0;
    return volume_is_dicom(path) ? add_path(&list->dicom, &list->n_dicom, path, why) : 0;
}

static int is_entry(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int add_folder(struct volume_list *list, const char *directory, int depth, struct fault_note *why)
{
    struct dirent **entries = NULL;
    if (depth > MAX_FOLDER_DEPTH)
        return fault_set(why, FAULT_IO, "folders are nested deeper than %d at '%s'", MAX_FOLDER_DEPTH,
                         directory);
    int rc = 0, n = scandir(directory, &entries, is_entry, alphasort);
    if (n < 0)
        return fault_set_errno(why, errno, "cannot list '%s'", directory);
    for (int i = 0; i < n; i++) {
        char path[PATH_SIZE];
        if (rc == 0)
            rc = file_join(path, sizeof path, directory, entries[i]->d_name, why);
        if (rc == 0)
            rc = add_entry(list, path, depth, why);
        free(entries[i]);
    }
    free(entries);
    return rc;
}

int volume_list_add(struct volume_list *list, const char *path, struct fault_note *why)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return fault_set_errno(why, errno, "cannot look at '%s'", path);
    if (!S_ISDIR(st.st_mode))
        return volume_is_dicom(path) ? add_path(&list->dicom, &list->n_dicom, path, why)
                                     : add_path(&list->nifti, &list->n_nifti, path, why);
    size_t before = list->n_nifti + list->n_dicom;
    int rc = add_folder(list, path, 0, why);
    if (rc == 0 && list->n_nifti + list->n_dicom == before)
        rc = fault_set(why, FAULT_NOT_FOUND, "no NIfTI volume and no DICOM file in '%s'", path);
    return rc;
}

void volume_list_done(struct volume_list *list)
{
    for (size_t i = 0; i < list->n_nifti; i++)
        free(list->nifti[i]);
    for (size_t i = 0; i < list->n_dicom; i++)
        free(list->dicom[i]);
    free(list->nifti);
    free(list->dicom);
    memset(list, 0, sizeof *list);
}

// --------------------------------------------------------------------------------------------- reading

static int read_nifti(const char *path, const struct volume_reader *reader, struct fault_note *why)
{
    struct volume volume;
    const char *slash = strrchr(path, '/');
    int rc = nifti_read(path, &volume, why);
    if (rc != 0)
        return rc;
    rc = reader->take(reader->user, &volume, slash != NULL ? slash + 1 : path, why);
    volume_done(&volume);
    return rc;
}

int volume_list_read(const struct volume_list *list, const struct volume_reader *reader,
                     struct fault_note *why)
{
    int rc = 0;
    if (list->n_dicom > 0 && reader->series == NULL)
        return fault_set(why, FAULT_BACKEND,
                         "'%s' is one of %zu DICOM files, and this build reads none: ISOSLICE_DICOM is off",
                         list->dicom[0], list->n_dicom);
    for (size_t i = 0; rc == 0 && i < list->n_nifti; i++)
        rc = read_nifti(list->nifti[i], reader, why);
    if (rc == 0 && list->n_dicom > 0)
        rc = reader->series((const char *const *)list->dicom, list->n_dicom, reader, why);
    return rc;
}
