// SPDX-License-Identifier: Apache-2.0
//
// From a stack and a residual to a derived series: where the new planes lie, what they hold, and every
// attribute. Not here: how the residual was computed, the queue, sending.

#ifndef ISOSLICE_DICOM_MAP_DERIVE_H
#define ISOSLICE_DICOM_MAP_DERIVE_H

#include "core/digest.h"
#include "core/fault.h"
#include "dicom_map/format.h"
#include "dicom_map/source.h"
#include "dicom_map/view.h"

#include <stddef.h>
#include <stdint.h>

// One plane of the derived series, between two acquired ones.
struct derive_plane {
    int slice;          // index of the acquired slice at or below it
    double t;           // share of the way to the next, 0 <= t < 1
    double position[3]; // Image Position (Patient), mm: P_i + t (P_{i+1} - P_i)
    double z_mm;        // distance from the first acquired plane along the normal
};

enum derive_spacing { DERIVE_ISOTROPIC, DERIVE_RECUR, DERIVE_MM };

// Most planes of a derived series.
enum { DERIVE_MAX_PLANES = 4096 };

// Positions of the derived planes: first = first acquired plane, last <= last acquired centre (tolerance 1e-4
// of a step: positions are rounded texts). ISOTROPIC: step = the smaller in-plane spacing exactly. RECUR: the
// nearest step at which acquired planes recur. MM: step = `mm`. *planes is given to the caller (free).
// Errors: TOO_MANY_PLANES (more than that), NOTHING_TO_DO for slices closer than `mm`, USAGE for a step below
// 0.05 mm, NO_MEMORY. Source: dicom.md 1.7 in spirit, PS3.3 C.7.6.2.
int derive_plan(const struct source *source, size_t item, enum derive_spacing mode, double mm,
                struct derive_plane **planes, size_t *n_planes, double *step_mm, struct fault_note *why);

// What goes into the derived series besides pixels. All strings ASCII, borrowed for the call.
struct derive_request {
    const struct source *source;
    size_t item;
    const struct derive_plane *planes; // [n_planes]
    size_t n_planes;
    double step_mm;
    const float *voxels;   // [depth,height,width] stored values, as source_load_voxels gave them
    const float *residual; // [n_planes,height,width], stored units; value = linear(voxels) + residual
    const char *site_id;   // the installation, part of every UID
    int64_t job_time_us; // wall clock, recorded once per job: all dates and times of the new objects; 0: the
                         // latest time that the sources name
    const char *model_name; // e.g. "SA-INR"
    const char *model_version;
    const char *weights_sha256; // 64 hex digits
    const char *parameters;     // the effective parameters in canonical form, e.g. "steps=200;seed=1;..."
    const char *method;         // what was delivered: "tuned", "base", "cubic", "linear"
    const char *quality;  // one sentence with this subject's measured numbers; goes into the derived objects
    int generation;       // 0; raised when an earlier output was withdrawn
    int n_late;           // of the sources, those that an earlier series lacks; 0: there was none
    enum view_plane view; // VIEW_ACQUIRED: the planes; another: the same voxels in that plane (view.h)
    enum format format;
    int number_offset;        // of Series Number; 0: DERIVE_NUMBER_OFFSET
    const char *description;  // template of Series Description (description.h); NULL: DESCRIPTION_DEFAULT
    const char *station_name; // of this node; may be NULL
    const char *directory;    // existing empty folder; IM0001.dcm ... are written there, each durable; of an
                              // enhanced series that is the only one
};

// Series Number: the source's plus the offset, twice for the second stack of its series and so on; a hundred
// times the source's plus 1, 2, ... where that is the offset or more; nine times the offset plus 1, 2, ...
// where there is none. A view's is ten offsets further on for each view, an enhanced series' forty (where the
// source's number is the offset or more: tens and 40).
enum { DERIVE_NUMBER_OFFSET = 1000 };

struct derive_result {
    char series_uid[UID_SIZE];
    size_t n_objects; // files: images, or 1
    size_t n_clamped; // voxels clamped to the range that the stored type can hold
    int series_number;
};

// Writes the series. Values: linear interpolation in double of the two stored neighbours, plus residual,
// rounded once (to nearest, ties to even), clamped. A view holds the same values; its images lie on one grid,
// that of the first plane and the step, so where slices drift in plane (at most 0.1 mm) that is not followed.
// An enhanced object holds what the classic images do, in the order of their Instance Numbers; it is written
// frame by frame.
// Errors: TOO_LARGE, before anything is read or written, when its pixel data would not fit the 32 bits of
// their length; IO, NO_SPACE, DECODE, NOT_FINITE when a residual is not finite, NOTHING_TO_DO when `view` is
// the plane that the stack has, INTERNAL. On failure files may be left in `directory`; the caller removes it.
int derive_write(const struct derive_request *request, struct derive_result *result, struct fault_note *why);

// The Series Instance UID that derive_write would give, without writing. Same errors.
int derive_series_uid(const struct derive_request *request, char series_uid[UID_SIZE],
                      struct fault_note *why);

#endif
