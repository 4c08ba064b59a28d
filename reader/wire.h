// SPDX-License-Identifier: Apache-2.0
//
// What passes between reader.c and the process that reads (serve.c), over a Unix stream socket: a request,
// its payload, an answer, its payload; one at a time. Both ends are of one build and one machine, so structs
// pass as they lie in memory; the asking end believes none of the numbers. For these two only.

#ifndef ISOSLICE_READER_WIRE_H
#define ISOSLICE_READER_WIRE_H

#include "core/digest.h"
#include "dicom_map/derive.h"
#include "dicom_map/notice.h"
#include "dicom_map/source.h"

#include <stdint.h>

enum { WIRE_FD = 3, WIRE_PATH_SIZE = 4096, WIRE_MAX_FDS = 2 };

enum wire_kind {
    WIRE_OPEN = 1, // wire_open, paths each with its zero byte -> source_item[], then z_mm of every stack
    WIRE_PLAN,     // wire_plan -> wire_planned, derive_plane[]
    WIRE_VOXELS,   // with the memory to fill -> nothing
    WIRE_DERIVE,   // wire_derive, derive_plane[]; with the memory of voxels and residual -> derive_result
    WIRE_NOTICE,   // wire_notice; with the memory of its pixels -> derive_result
};

struct wire_request {
    uint32_t kind; // enum wire_kind
    uint32_t item;
    uint64_t size; // of the payload
};

struct wire_answer {
    int32_t fault; // enum fault; not FAULT_OK: no payload
    uint32_t reserved;
    uint64_t size;
    char text[sizeof(((struct fault_note *)0)->text)];
};

struct wire_open {
    char version[32]; // of the asking program; another one is refused
    uint32_t to_learn, n_paths;
    uint64_t memory_bytes, cpu_s; // limits to begin with
    char output[WIRE_PATH_SIZE];  // folder to write into; "": none
};

struct wire_plan {
    int32_t mode; // enum derive_spacing
    uint32_t reserved;
    double mm;
};

struct wire_planned {
    uint64_t n_planes;
    double step_mm;
};

// struct derive_request without its pointers.
struct wire_derive {
    uint64_t n_planes;
    double step_mm;
    int64_t job_time_us;
    int32_t generation, n_late, has_station_name, view, // enum view_plane
        format,                                         // enum format
        number_offset, has_description;
    char site_id[128], model_name[64], model_version[256], weights_sha256[DIGEST_HEX_SIZE], method[32],
        station_name[64];
    char parameters[1024], quality[1024], description[128];
    char directory[WIRE_PATH_SIZE];
};

// struct notice_request without its pointers.
struct wire_notice {
    int64_t job_time_us;
    int32_t number_offset, has_station_name;
    char site_id[128], station_name[64], code[32], sentence[sizeof(((struct fault_note *)0)->text)];
    char directory[WIRE_PATH_SIZE];
};

#endif
