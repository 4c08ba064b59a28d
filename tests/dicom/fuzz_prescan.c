// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer target for the pre-scan; built with clang and -DISOSLICE_FUZZ=ON only.
#include "dicom_map/prescan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct prescan found;
    struct fault_note why;
    prescan_memory(data, size, &found, &why);
    return 0;
}
