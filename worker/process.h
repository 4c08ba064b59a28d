// SPDX-License-Identifier: Apache-2.0
//
// One stack from files to a derived series: voxels, planes, engine, objects. The only place where DICOM (at
// the arm's length of reader/) and sr_engine meet; used by isoslice-work and by isoslice run. Not here: the
// queue.

#ifndef ISOSLICE_WORKER_PROCESS_H
#define ISOSLICE_WORKER_PROCESS_H

#include "conf/conf.h"
#include "core/fault.h"
#include "dicom_map/derive.h"
#include "reader/reader.h"
#include "sr_engine/engine.h"

#include <stddef.h>
#include <stdint.h>

enum { PROCESS_NOTE_SIZE = 768 };

struct process_options {
    struct sr_options engine; // its recipe is process_stack's: the next field
    struct sr_recipe recipe;
    enum derive_spacing spacing;
    double spacing_mm; // for DERIVE_MM
    unsigned views;    // further series: bits 1 << enum view_plane; the stack's own plane is passed over
    unsigned formats;  // every series in each of these: bits 1 << enum format; at least one
    const char *site_id, *station_name, *description; // as in struct derive_request
    int number_offset;                                // likewise
    int generation, n_late;                           // as in struct derive_request
    int64_t job_time_us; // dates and times of the derived objects; 0: the latest that the sources name
};

// A stack's volumes, for pictures. Owned by the caller after process_stack (process_images_free).
struct process_images {
    struct reader_block voxels;   // [depth,height,width] stored values, read-only
    struct reader_block residual; // [n_planes,height,width]
    struct derive_plane *planes;  // [n_planes]
    size_t n_planes;
    int depth, height, width;
    double row_mm, column_mm, step_mm;
};
void process_images_free(struct process_images *images);

enum { PROCESS_MAX_SERIES = FORMAT_N * 3 }; // the planes and two views, each in every format

struct process_series {
    enum view_plane plane;
    enum format format;
    struct derive_result derived; // when there is no fault
    struct fault_note fault;      // TOO_LARGE: not one object; the others stand
};

struct process_outcome {
    char note[PROCESS_NOTE_SIZE]; // what was delivered and the numbers that say why, in sentences
    char parameters[1024];        // effective parameters in canonical form
    char weights_sha256[DIGEST_HEX_SIZE];
    size_t n_planes;
    double step_mm;
    struct sr_report report;
    struct process_series series[PROCESS_MAX_SERIES]; // the first: the stack's own planes, without fault
    size_t n_series;
};

// The form that a destination gets.
enum format process_format_for(const struct conf_destination *destination);

// The forms that are needed for those destinations whose bit is set in `to`: bits 1 << enum format. Classic
// where there is none of them, so that something is made.
unsigned process_formats_for(const struct conf *conf, unsigned to);

// Settings of the node as options; the GPU they name is chosen for this process (ops_use_gpu). The strings
// are borrowed from conf. Errors: CONFIG, INTERNAL.
int process_options_from_conf(const struct conf *conf, struct process_options *options,
                              struct fault_note *why);

// The weights file that `conf` or NULL (nothing configured) means: as configured, else beside the program
// (../share/isoslice/weights.safetensors), else ISOSLICE_WEIGHTS. Errors: WEIGHTS when there is none.
int process_find_weights(const char *configured, char *path, size_t size, struct fault_note *why);

// Does it: `directory` is an existing empty folder in the reader's output, for the first series. Each further
// one goes into a new folder beside it, process_series_folder(). `images` may be NULL. Errors: whatever the
// parts give; files may then be left in all of these folders.
int process_stack(struct reader *reader, size_t item, const struct process_options *options,
                  const char *directory, struct process_outcome *outcome, struct process_images *images,
                  struct fault_note *why);

// Of series number `i` of the outcome: `directory`, "<directory>-coronal", "<directory>-coronal-enhanced" and
// so on. Errors: INTERNAL when it does not fit.
int process_series_folder(const char *directory, const struct process_outcome *outcome, size_t i, char *path,
                          size_t size, struct fault_note *why);

// The report of one item as JSON text (owned by the caller, free); outcome NULL for an item that was not
// processed, `fault` then says why. NULL when memory is exhausted.
char *process_report(const struct source_item *item, const struct process_outcome *outcome,
                     const struct fault_note *fault);

#endif
