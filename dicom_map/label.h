// SPDX-License-Identifier: Apache-2.0
//
// The texts of a series by which people tell series apart and rules choose: what made it, where, of what,
// how. Not here: names and IDs of patients, which nothing is chosen by; rules (worker/rules.h).

#ifndef ISOSLICE_DICOM_MAP_LABEL_H
#define ISOSLICE_DICOM_MAP_LABEL_H

enum label {
    LABEL_MANUFACTURER,       // (0008,0070)
    LABEL_MODEL,              // (0008,1090) Manufacturer's Model Name
    LABEL_STATION,            // (0008,1010) Station Name
    LABEL_INSTITUTION,        // (0008,0080) Institution Name
    LABEL_BODY_PART,          // (0018,0015) Body Part Examined
    LABEL_STUDY_DESCRIPTION,  // (0008,1030)
    LABEL_SERIES_DESCRIPTION, // (0008,103E)
    LABEL_PROTOCOL,           // (0018,1030) Protocol Name
    LABEL_SEQUENCE,           // (0018,0024) Sequence Name
    LABEL_IMAGE_TYPE,         // (0008,0008), all values with backslashes between
    N_LABELS
};
enum { LABEL_SIZE = 132 }; // longer ones are cut

// As the configuration calls it, "body_part".
const char *label_name(enum label label);

#endif
