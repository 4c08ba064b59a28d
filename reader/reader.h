// SPDX-License-Identifier: Apache-2.0
//
// dicom_map at arm's length: DICOM files are parsed, decoded and written by a process of their own
// (isoslice-read), which has no network, sees only the files it is given, and may use so much memory and
// time. The calls are those of source.h and derive.h. Nothing that the process answers is believed: sizes,
// indices and texts are checked, memory that it filled is sealed before it is looked at. When the process
// dies, of whatever, that call gives READER; the next call starts another one. Not here: what the process
// does (serve.h).

#ifndef ISOSLICE_READER_READER_H
#define ISOSLICE_READER_READER_H

#include "core/fault.h"
#include "dicom_map/derive.h"
#include "dicom_map/notice.h"
#include "dicom_map/source.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct reader;

// Limits of the process. Memory: address space of memory_bytes, what the largest file named has over 512 MB
// (2 GB are the most), and 4 bytes for every voxel of the stack and, when it is written, for every one of the
// derived series. Time: cpu_s for opening; for every further call
// READER_CALL_S and a second per million voxels. Longer than four times that on the clock, and a minute, is
// too long as well.
struct reader_options {
    uint64_t memory_bytes; // 0: READER_MEMORY_BYTES
    double cpu_s;          // 0: READER_OPEN_S
    int to_learn;          // as source_open_to_learn; reader_derive is then refused
    const char *output;    // existing folder that it may write into; NULL: none. Copied
};
#define READER_MEMORY_BYTES     ((uint64_t)2 << 30)
#define READER_MEMORY_BYTES_ANY ((uint64_t)8 << 30) // for folders of any size, which a person names
enum { READER_OPEN_S = 300, READER_OPEN_S_ANY = 3600, READER_CALL_S = 60 };

// Floats in memory that can be handed to the process.
struct reader_block {
    float *data; // read-only when it came from reader_load_voxels
    size_t n;
    int fd; // -1 when data is NULL
};
#define READER_BLOCK_NONE                                                                                    \
    {                                                                                                        \
        NULL, 0, -1                                                                                          \
    }
// Writable, zeroed. Errors: NO_MEMORY.
int reader_block_new(size_t n, struct reader_block *block, struct fault_note *why);
void reader_block_free(struct reader_block *block);

// As source_open. `options` may be NULL. *reader is given to the caller (reader_free). Errors: also READER.
int reader_open(const char *const *paths, size_t n_paths, const struct reader_options *options,
                struct reader **reader, struct fault_note *why);
// Ends the process. NULL is fine.
void reader_free(struct reader *reader);

size_t reader_n_items(const struct reader *reader);
// Owned by the reader, as its z_mm. Texts hold no control characters.
const struct source_item *reader_item(const struct reader *reader, size_t item);

// As derive_plan. Errors: also READER.
int reader_plan(struct reader *reader, size_t item, enum derive_spacing mode, double mm,
                struct derive_plane **planes, size_t *n_planes, double *step_mm, struct fault_note *why);

// As source_load_voxels, into new memory [depth,height,width] that nobody can change any more. *voxels is
// given to the caller. Errors: also READER.
int reader_load_voxels(struct reader *reader, size_t item, struct reader_block *voxels,
                       struct fault_note *why);

// As derive_write; of `request` source, item, voxels and residual are not looked at, and `directory` lies in
// options->output. From now on the process can read `residual`; only the caller can change it. Errors: also
// READER.
int reader_derive(struct reader *reader, size_t item, const struct derive_request *request,
                  const struct reader_block *voxels, const struct reader_block *residual,
                  struct derive_result *result, struct fault_note *why);

// As notice_write, of any item; of `request` source, item and pixels are not looked at, and `directory` lies
// in options->output. pixels: NOTICE_ROWS * NOTICE_COLUMNS floats. Errors: also READER.
int reader_notice(struct reader *reader, size_t item, const struct notice_request *request,
                  const struct reader_block *pixels, struct derive_result *result, struct fault_note *why);

// The process; 0 when there is none. For tests.
pid_t reader_pid(const struct reader *reader);

#endif
