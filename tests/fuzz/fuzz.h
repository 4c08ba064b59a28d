// SPDX-License-Identifier: Apache-2.0
//
// What the libFuzzer targets share: reading choices out of the input, and checks that stop the target.

#ifndef ISOSLICE_TESTS_FUZZ_H
#define ISOSLICE_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Ends the target, which libFuzzer reports with the input that led here.
#define FUZZ_CHECK(condition)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                          \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

struct choices {
    const uint8_t *data;
    size_t left;
};

// The next byte; zeros after the end.
static inline unsigned choose_byte(struct choices *c)
{
    if (c->left == 0)
        return 0;
    c->left--;
    return *c->data++;
}

static inline unsigned choose_16(struct choices *c)
{
    unsigned low = choose_byte(c);
    return low | choose_byte(c) << 8;
}

// A copy in a block of exactly its size, so that AddressSanitizer sees a byte read behind it.
static inline void *exact_copy(const void *data, size_t size)
{
    void *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL)
        abort();
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

#endif
