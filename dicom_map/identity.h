// SPDX-License-Identifier: Apache-2.0
//
// How Isoslice names itself in DICOM objects and on the network, which is also how it knows its own output
// again; and the names of the SOP classes that it deals with.

#ifndef ISOSLICE_DICOM_MAP_IDENTITY_H
#define ISOSLICE_DICOM_MAP_IDENTITY_H

#define ISOSLICE_MANUFACTURER                "Isoslice"
#define ISOSLICE_MODEL_NAME                  "Isoslice"

// Fixed for all versions. Under 2.25 because the project has no registered root; PS3.5 B.2 prefers a root of
// one's own here but does not forbid this.
#define ISOSLICE_IMPLEMENTATION_CLASS_UID    "2.25.289137705612844913274650138842967310581"
#define ISOSLICE_IMPLEMENTATION_VERSION_NAME "ISOSLICE_0.1"

#define MR_IMAGE_STORAGE                     "1.2.840.10008.5.1.4.1.1.4"
#define ENHANCED_MR_IMAGE_STORAGE            "1.2.840.10008.5.1.4.1.1.4.1"
#define LEGACY_ENHANCED_MR_IMAGE_STORAGE     "1.2.840.10008.5.1.4.1.1.4.4"
#define SECONDARY_CAPTURE_STORAGE            "1.2.840.10008.5.1.4.1.1.7"

#endif
