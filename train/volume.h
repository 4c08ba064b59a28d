// SPDX-License-Identifier: Apache-2.0
//
// Volumes for stage 2 and for evaluation, whatever format they lie in: which there are, and one after the
// other. NIfTI is read here; DICOM series come through a function that the caller passes (series.h), since
// nothing here knows DICOM. Not here: what is done with a volume.

#ifndef ISOSLICE_TRAIN_VOLUME_H
#define ISOSLICE_TRAIN_VOLUME_H

#include "core/fault.h"
#include "core/progress.h"

#include <stddef.h>
#include <stdint.h>

enum { VOLUME_MAX_VOXELS = 1 << 28 };

// A volume; caller's storage.
struct volume {
    int size[3];          // x, y, z; x fastest in memory
    double spacing_mm[3]; // absolute values
    int is_bytes;         // stored as uint8 without scaling
    float *voxels;        // owner: volume_done
};

void volume_done(struct volume *volume);
size_t volume_count(const struct volume *volume);

// 8 bits a voxel: bytes as they are stored; other types stretched from the least value to the 99.95th
// percentile. bytes [n voxels], caller's. Errors: NO_MEMORY.
int volume_to_bytes(const struct volume *volume, uint8_t *bytes, struct fault_note *why);

// Files that hold volumes; caller's storage, zeroed before.
struct volume_list {
    char **nifti, **dicom; // paths; owner: volume_list_done
    size_t n_nifti, n_dicom;
};

// Adds what lies at `path`: a NIfTI file, a DICOM file, or a folder with NIfTI files in it and DICOM files
// anywhere below it (whatever their names; links to folders are not followed). A file that is not DICOM
// counts as NIfTI. Errors: IO, NO_MEMORY, NOT_FOUND when the folder holds neither.
int volume_list_add(struct volume_list *list, const char *path, struct fault_note *why);
void volume_list_done(struct volume_list *list);

// Whether the file begins as a DICOM file does: 'DICM' after 128 bytes. Source: PS3.10 section 7.1.
int volume_is_dicom(const char *path);

struct volume_reader;

// Reads the stacks that DICOM files hold and gives each to reader->take, each that cannot serve to
// reader->left_out.
typedef int (*volume_series_fn)(const char *const *paths, size_t n_paths, const struct volume_reader *reader,
                                struct fault_note *why);

// Who gets the volumes.
struct volume_reader {
    volume_series_fn series; // NULL: this program reads no DICOM
    // `name` has no patient data: a file's name, or a series UID and the stack's number. Returns 0 to go on.
    int (*take)(void *user, const struct volume *volume, const char *name, struct fault_note *why);
    void (*left_out)(void *user, const char *name, const char *reason);
    void *user;
};

// All volumes of the list, one in memory at a time: NIfTI in the order of the list, then stacks by series UID
// and place. Errors: BACKEND when DICOM is there and no function reads it; those of the readers and of take.
int volume_list_read(const struct volume_list *list, const struct volume_reader *reader,
                     struct fault_note *why);

#endif
