// SPDX-License-Identifier: Apache-2.0
//
// A notice: one Secondary Capture image in the study of a source series, which says in writing why nothing
// was derived from that series, where people look for it. Not here: when one is made, and what the writing
// looks like (worker/notice.h).

#ifndef ISOSLICE_DICOM_MAP_NOTICE_H
#define ISOSLICE_DICOM_MAP_NOTICE_H

#include "dicom_map/derive.h"

enum { NOTICE_ROWS = 480, NOTICE_COLUMNS = 960 };

// All strings ASCII, borrowed for the call.
struct notice_request {
    const struct source *source;
    size_t item; // a stack or a refusal, with an image at least
    const char *site_id;
    const char *station_name; // of this node; may be NULL
    int64_t job_time_us;      // wall clock; all dates and times of the new object
    const char *code;         // a fault's name
    const char *sentence;     // the fault's own, without patient data
    const float *pixels;      // [NOTICE_ROWS,NOTICE_COLUMNS] 0 (black) to 255
    int number_offset;        // as in struct derive_request
    const char *directory;    // existing empty folder; IM0001.dcm is written there, durable
};

// Writes it. The same source, code and sentence give the same UIDs. Patient and study are those of the item's
// first image; what there is not legal in its VR is left out, or empty where it has to be there. Errors:
// NOT_FOUND for an item without images, IO (also when the file has changed), NO_SPACE, those of the parser,
// INTERNAL.
int notice_write(const struct notice_request *request, struct derive_result *result, struct fault_note *why);

#endif
