// SPDX-License-Identifier: Apache-2.0
#include "scp/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static int set_limit(int resource, uint64_t value, struct fault_note *why)
{
    struct rlimit limit = {.rlim_cur = value, .rlim_max = value};
    if (setrlimit((__rlimit_resource_t)resource, &limit) != 0)
        return fault_set_errno(why, errno, "cannot set resource limit %d", resource);
    return 0;
}

int confine_resources(int64_t max_bytes, struct fault_note *why)
{
    int rc = set_limit(RLIMIT_CORE, 0, why);
    if (rc == 0)
        rc = set_limit(RLIMIT_FSIZE, (uint64_t)max_bytes + (1 << 20), why);
    if (rc == 0)
        rc = set_limit(RLIMIT_NOFILE, 64, why);
    if (rc == 0)
        rc = set_limit(RLIMIT_NPROC, 0, why);
#if !defined(__SANITIZE_ADDRESS__) // which reserves address space by the terabyte
    if (rc == 0)
        rc = set_limit(RLIMIT_AS, ((uint64_t)256 << 20) + 2 * (uint64_t)max_bytes, why);
#endif
    return rc;
}

int confine_to_folder(const char *folder, int *active, struct fault_note *why)
{
    static const uint64_t all_rights =
        (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1; // everything of the first version
    static const uint64_t wanted = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE |
                                   LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                                   LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
                                   LANDLOCK_ACCESS_FS_MAKE_DIR;
    struct landlock_ruleset_attr rules = {.handled_access_fs = all_rights};
    *active = 0;
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
    if (ruleset < 0) {
        if (errno == ENOSYS || errno == EOPNOTSUPP)
            return 0;
        return fault_set_errno(why, errno, "cannot make a Landlock rule set");
    }
    int rc = 0;
    struct landlock_path_beneath_attr beneath = {.allowed_access = wanted};
    beneath.parent_fd = open(folder, O_PATH | O_CLOEXEC);
    if (beneath.parent_fd < 0)
        rc = fault_set_errno(why, errno, "cannot open '%s'", folder);
    if (rc == 0 && syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) != 0)
        rc = fault_set_errno(why, errno, "cannot add a Landlock rule");
    if (rc == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        rc = fault_set_errno(why, errno, "cannot give up privileges");
    if (rc == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) != 0)
        rc = fault_set_errno(why, errno, "cannot enforce Landlock");
    if (beneath.parent_fd >= 0)
        close(beneath.parent_fd);
    close(ruleset);
    *active = rc == 0;
    return rc;
}
