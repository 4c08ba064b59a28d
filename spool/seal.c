// SPDX-License-Identifier: Apache-2.0
#include "spool/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const size_t block_size = 1 << 18;

void seal_make(XXH128_hash_t sum, char seal[SEAL_SIZE])
{
    XXH128_canonical_t bytes;
    XXH128_canonicalFromHash(&bytes, sum);
    memset(seal, 0, SEAL_SIZE);
    int n = snprintf(seal, SEAL_SIZE, "ISOSLICE SEAL XXH3 ");
    for (size_t i = 0; i < sizeof bytes.digest; i++)
        snprintf(seal + n + 2 * i, 3, "%02x", bytes.digest[i]);
}

// Reads until `size` bytes are there or the file ends. *got: how many.
static int read_block(int fd, const char *path, char *to, size_t size, size_t *got, struct fault_note *why)
{
    *got = 0;
    while (*got < size) {
        ssize_t n = read(fd, to + *got, size - *got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fault_set_errno(why, errno, "cannot read '%s'", path);
        if (n == 0)
            break;
        *got += (size_t)n;
    }
    return 0;
}

int seal_is_whole(const char *path, struct fault_note *why)
{
    char found[SEAL_SIZE], wanted[SEAL_SIZE];
    size_t got = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC), whole = 0;
    if (fd < 0)
        return fault_set_errno(why, errno, "cannot open '%s'", path);
    char *block = malloc(block_size);
    XXH3_state_t *state = XXH3_createState();
    int rc = block != NULL && state != NULL ? 0 : fault_set(why, FAULT_NO_MEMORY, "cannot read '%s'", path);
    if (rc == 0)
        rc = read_block(fd, path, found, sizeof found, &got, why);
    if (rc == 0 && got == sizeof found) {
        XXH3_128bits_reset(state);
        do {
            rc = read_block(fd, path, block, block_size, &got, why);
            XXH3_128bits_update(state, block, got);
        } while (rc == 0 && got == block_size);
        seal_make(XXH3_128bits_digest(state), wanted);
        whole = memcmp(found, wanted, sizeof found) == 0;
    }
    XXH3_freeState(state);
    free(block);
    close(fd);
    return rc != 0 ? rc : whole;
}
