// SPDX-License-Identifier: Apache-2.0
#include "core/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct digest {
    EVP_MD_CTX *context;
};

struct digest *digest_new(void)
{
    struct digest *digest = calloc(1, sizeof *digest);
    if (digest == NULL)
        return NULL;
    digest->context = EVP_MD_CTX_new();
    if (digest->context == NULL || EVP_DigestInit_ex(digest->context, EVP_sha256(), NULL) != 1) {
        digest_free(digest);
        return NULL;
    }
    return digest;
}

void digest_add(struct digest *digest, const void *data, size_t size)
{
    EVP_DigestUpdate(digest->context, data, size);
}

void digest_finish(struct digest *digest, char hex[DIGEST_HEX_SIZE])
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    EVP_DigestFinal_ex(digest->context, sum, &n);
    for (unsigned i = 0; i < 32; i++)
        snprintf(hex + 2 * (size_t)i, 3, "%02x", sum[i]);
    digest_free(digest);
}

void digest_free(struct digest *digest)
{
    if (digest == NULL)
        return;
    EVP_MD_CTX_free(digest->context);
    free(digest);
}

int digest_of(const void *data, size_t size, char hex[DIGEST_HEX_SIZE], struct fault_note *why)
{
    struct digest *digest = digest_new();
    if (digest == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot start a digest");
    digest_add(digest, data, size);
    digest_finish(digest, hex);
    return 0;
}

int digest_of_file(const char *path, char hex[DIGEST_HEX_SIZE], struct fault_note *why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fault_set_errno(why, errno, "cannot open '%s'", path);
    struct digest *digest = digest_new();
    int rc = digest ? 0 : fault_set(why, FAULT_NO_MEMORY, "cannot start a digest");
    static const size_t block = 1 << 16;
    char *buffer = malloc(block);
    if (rc == 0 && buffer == NULL)
        rc = fault_set(why, FAULT_NO_MEMORY, "cannot hold %zu bytes", block);
    while (rc == 0) {
        ssize_t n = read(fd, buffer, block);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = fault_set_errno(why, errno, "cannot read '%s'", path);
        if (n <= 0)
            break;
        digest_add(digest, buffer, (size_t)n);
    }
    free(buffer);
    close(fd);
    if (rc == 0)
        digest_finish(digest, hex);
    else
        digest_free(digest);
    return rc;
}

int uid_from_name(const char *name, char uid[UID_SIZE], struct fault_note *why)
{
    // Isoslice's namespace: a random UUID, made once, never changed.
    static const unsigned char namespace[16] = {0x6f, 0x0c, 0x2b, 0x9e, 0x41, 0xd7, 0x4a, 0x83,
                                                0x9c, 0x55, 0x1e, 0xb8, 0x70, 0x3d, 0xa2, 0x64};
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int ok = context != NULL && EVP_DigestInit_ex(context, EVP_sha1(), NULL) == 1 &&
             EVP_DigestUpdate(context, namespace, sizeof namespace) == 1 &&
             EVP_DigestUpdate(context, name, strlen(name)) == 1 && EVP_DigestFinal_ex(context, sum, &n) == 1;
    EVP_MD_CTX_free(context);
    if (!ok)
        return fault_set(why, FAULT_INTERNAL, "cannot compute a SHA-1");
    sum[6] = (unsigned char)((sum[6] & 0x0f) | 0x50);
    sum[8] = (unsigned char)((sum[8] & 0x3f) | 0x80);
    unsigned __int128 value = 0;
    for (int i = 0; i < 16; i++)
        value = value << 8 | sum[i];
    char digits[40];
    int at = sizeof digits;
    digits[--at] = '\0';
    do {
        digits[--at] = (char)('0' + (int)(value % 10));
        value /= 10;
    } while (value != 0);
    snprintf(uid, UID_SIZE, "2.25.%s", digits + at);
    return 0;
}

int uid_is_valid(const char *uid)
{
    size_t n = strlen(uid);
    if (n == 0 || n >= UID_SIZE)
        return 0;
    for (const char *p = uid;;) {
        size_t digits = strspn(p, "0123456789");
        if (digits == 0 || (digits > 1 && p[0] == '0'))
            return 0;
        p += digits;
        if (*p == '\0')
            return 1;
        if (*p++ != '.')
            return 0;
    }
}
