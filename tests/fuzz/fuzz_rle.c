// SPDX-License-Identifier: Apache-2.0
//
// RLE. Input: bytes of a sample (1 or 2), samples, codestream. What is decoded, encoded again in the plainest
// way, must decode to the same.
#include "dicom_map/rle.h"
#include "tests/fuzz/fuzz.h"

static void put32(uint8_t *at, size_t v)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(v >> 8 * i);
}

// Literals of one byte, which is the plainest way.
static void check_round_trip(const uint8_t *samples, size_t n, int sample_bytes)
{
    size_t segment = 2 * n, size = 64 + segment * (size_t)sample_bytes;
    uint8_t *coded = calloc(1, size), *again = malloc(n * (size_t)sample_bytes + 1);
    FUZZ_CHECK(coded != NULL && again != NULL);
    put32(coded, (size_t)sample_bytes);
    for (int byte = 0; byte < sample_bytes; byte++) {
        put32(coded + 4 + 4 * (size_t)byte, 64 + segment * (size_t)byte);
        for (size_t i = 0; i < n; i++)
            coded[64 + segment * (size_t)byte + 2 * i + 1] =
                samples[i * (size_t)sample_bytes + (size_t)(sample_bytes - 1 - byte)];
    }
    struct fault_note why;
    FUZZ_CHECK(rle_decode(coded, size, n, sample_bytes, again, &why) == 0);
    FUZZ_CHECK(memcmp(again, samples, n * (size_t)sample_bytes) == 0);
    free(coded);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct choices c = {data, size};
    struct fault_note why = {0};
    int sample_bytes = 1 + (int)(choose_byte(&c) & 1);
    size_t n = 1 + choose_16(&c) % 5000;
    uint8_t *samples = malloc(n * (size_t)sample_bytes);
    void *codestream = exact_copy(c.data, c.left);
    FUZZ_CHECK(samples != NULL);
    int rc = rle_decode(codestream, c.left, n, sample_bytes, samples, &why);
    FUZZ_CHECK(rc == 0 || (rc == FAULT_DECODE && why.text[0] != '\0'));
    if (rc == 0)
        check_round_trip(samples, n, sample_bytes);
    free(codestream);
    free(samples);
    return 0;
}
