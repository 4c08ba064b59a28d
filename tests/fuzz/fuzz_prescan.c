// SPDX-License-Identifier: Apache-2.0
//
// A file: the pre-scan, and where it passes, the fragments of compressed pixels put together and the look at
// a JPEG or JPEG-LS codestream.
#include "core/digest.h"
#include "dicom_map/codestream.h"
#include "dicom_map/prescan.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct prescan scan;
    struct fault_note why = {0};
    void *codestream = NULL;
    size_t n = 0;
    int rc = prescan_memory(data, size, &scan, &why);
    FUZZ_CHECK(rc == 0 || (rc == (int)why.fault && why.text[0] != '\0'));
    prescan_dataset(data, size, (int)(size & 1), &why);
    if (rc != 0)
        return 0;
    FUZZ_CHECK(uid_is_valid(scan.sop_instance_uid) && uid_is_valid(scan.series_uid));
    FUZZ_CHECK(scan.dataset_offset <= scan.dataset_end && scan.dataset_end <= size);
    FUZZ_CHECK(scan.fragment_offset + scan.fragment_size <= size);
    FUZZ_CHECK(scan.pixel_offset <= size);
    if (codestream_join(data, size, &scan, scan.frames - 1, &codestream, &n, &why) != 0)
        return 0;
    FUZZ_CHECK(n <= size);
    void *exact = exact_copy(codestream, n);
    static const char *const syntaxes[] = {SYNTAX_JPEG, SYNTAX_JPEG_SV1, SYNTAX_JPEG_LS};
    for (int i = 0; i < 3; i++)
        codestream_check(syntaxes[i], exact, n, (int)scan.rows, (int)scan.columns, (int)scan.bits_allocated,
                         &why);
    free(exact);
    free(codestream);
    return 0;
}
