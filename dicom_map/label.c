// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/label.h"

const char *label_name(enum label label)
{
    static const char *const names[N_LABELS] = {
        "manufacturer",       "model",    "station",  "institution", "body_part", "study_description",
        "series_description", "protocol", "sequence", "image_type",
    };
    return label < N_LABELS ? names[label] : "unknown";
}
