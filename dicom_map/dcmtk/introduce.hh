// SPDX-License-Identifier: Apache-2.0
//
// Inside the DCMTK cage only, C++: who speaks, for the peer's log. Without it DCMTK names itself.

#ifndef ISOSLICE_DICOM_MAP_DCMTK_INTRODUCE_H
#define ISOSLICE_DICOM_MAP_DCMTK_INTRODUCE_H

#include "dcmtk/config/osconfig.h"

#include "dcmtk/dcmnet/assoc.h"
#include "dcmtk/ofstd/ofstd.h"

extern "C" {
#include "dicom_map/identity.h"
}

// Implementation class UID and version name of either side's user information. Source: PS3.7 D.3.3.2.
inline void introduce(T_ASC_Parameters *params)
{
    DUL_ASSOCIATESERVICEPARAMETERS &dul = params->DULparams;
    for (char *uid : {params->ourImplementationClassUID, dul.callingImplementationClassUID,
                      dul.calledImplementationClassUID})
        OFStandard::strlcpy(uid, ISOSLICE_IMPLEMENTATION_CLASS_UID, sizeof dul.callingImplementationClassUID);
    for (char *name : {params->ourImplementationVersionName, dul.callingImplementationVersionName,
                       dul.calledImplementationVersionName})
        OFStandard::strlcpy(name, ISOSLICE_IMPLEMENTATION_VERSION_NAME,
                            sizeof dul.callingImplementationVersionName);
}

#endif
