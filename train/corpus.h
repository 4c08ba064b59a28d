// SPDX-License-Identifier: Apache-2.0
//
// What training reads, at 8 bits a voxel: volumes, thick stacks and clips, from NIfTI files, DICOM series,
// video files, folders of PNG pictures, or packed into one file that is mapped into memory. Not here: what is
// cut from them (sample.h).

#ifndef ISOSLICE_TRAIN_CORPUS_H
#define ISOSLICE_TRAIN_CORPUS_H

#include "core/fault.h"
#include "core/progress.h"
#include "train/volume.h"

#include <stddef.h>
#include <stdint.h>

enum corpus_kind { CORPUS_MR, CORPUS_VIDEO };

// An axis whose spacing is more than this times the finest cannot be the slice axis of a sample.
#define CORPUS_THICK_RATIO 2.5

// One volume or clip.
struct corpus_item {
    char name[64];         // of its file; of a DICOM stack the series UID and the stack's number
    int size[3];           // x, y, z; x fastest in memory; of a clip columns, rows, frames
    int thick_axis;        // the axis that is too coarse to be a slice axis; -1: none
    const uint8_t *voxels; // owner: the corpus
    uint8_t *owned;        // NULL when mapped
};

// Caller's storage.
struct corpus {
    enum corpus_kind kind;
    size_t n_items;
    struct corpus_item *items;
    size_t n_maps;
    struct corpus_map {
        void *data;
        size_t size;
    } * maps;
    // Set by the caller after corpus_init, if DICOM is to be read; kept by corpus_done.
    volume_series_fn series;
    void (*left_out)(void *user, const char *name, const char *reason); // may be NULL
    void *left_out_user;
};

void corpus_init(struct corpus *corpus, enum corpus_kind kind);
void corpus_done(struct corpus *corpus);

// Adds what lies at `path`. MR: a .nii or .nii.gz file, or a folder with such files in it, DICOM files
// anywhere below it, or both; a stack of a DICOM series is one item, one that cannot serve goes to `left_out`
// with its reason. Video: a video file, a folder of PNG pictures, or a folder of either. Both: a file that
// corpus_save wrote. `progress` may be NULL. Errors: IO, NO_MEMORY, CANCELLED, NOT_FOUND when nothing usable
// is there, those of the readers, BACKEND for DICOM without `series`, BAD_HEADER for a packed file that is
// damaged or of the other kind.
int corpus_add(struct corpus *corpus, const char *path, progress_fn progress, void *progress_user,
               struct fault_note *why);

// Packs all items into one file, durable before it returns. Errors: IO, NO_SPACE.
int corpus_save(const struct corpus *corpus, const char *path, struct fault_note *why);

// Voxels of all items.
size_t corpus_voxels(const struct corpus *corpus);

#endif
