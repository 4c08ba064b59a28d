// SPDX-License-Identifier: Apache-2.0
//
// Loaded before libc (LD_PRELOAD): a program's first fork fails, as on a machine that has no process to
// spare.

#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

pid_t fork(void)
{
    static int n_calls;
    pid_t (*next)(void);
    if (n_calls++ == 0) {
        errno = EAGAIN;
        return -1;
    }
    *(void **)&next = dlsym(RTLD_NEXT, "fork"); // as POSIX has it: C knows no such conversion
    return next();
}
