// SPDX-License-Identifier: Apache-2.0
//
// A configuration file. One that is accepted prints as a file that reads back to the same print.
#include "conf/conf.h"
#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

static int load(const void *data, size_t size, struct conf *conf, struct fault_note *why)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("conf", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    FUZZ_CHECK(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    return conf_load(path, conf, why);
}

static char *dump(const struct conf *conf, size_t *size)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, size);
    FUZZ_CHECK(out != NULL);
    conf_dump(conf, out);
    FUZZ_CHECK(fclose(out) == 0 && text != NULL);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct conf conf;
    struct fault_note why = {0};
    int rc = load(data, size, &conf, &why);
    if (rc != 0) {
        FUZZ_CHECK(rc == (int)why.fault && why.text[0] != '\0');
        return 0;
    }
    size_t n = 0, n_again = 0;
    char *text = dump(&conf, &n);
    rc = load(text, n, &conf, &why);
    if (rc != 0)
        fprintf(stderr, "%s\n%s\n", why.text, text);
    FUZZ_CHECK(rc == 0);
    char *again = dump(&conf, &n_again);
    FUZZ_CHECK(n == n_again && memcmp(text, again, n) == 0);
    free(text);
    free(again);
    return 0;
}
