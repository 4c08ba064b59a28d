// SPDX-License-Identifier: Apache-2.0
#include "core/user.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

int user_find(const char *name, struct user *user, struct fault_note *why)
{
    struct passwd entry, *found = NULL;
    char text[4096];
    memset(user, 0, sizeof *user);
    user->uid = geteuid();
    user->gid = getegid();
    if (name[0] == '\0')
        return 0;
    int rc = getpwnam_r(name, &entry, text, sizeof text, &found);
    if (rc != 0)
        return fault_set(why, FAULT_CONFIG, "bad 'node.user': cannot look up '%s': %s", name, strerror(rc));
    if (found == NULL)
        return fault_set(why, FAULT_CONFIG, "bad 'node.user': there is no user '%s'", name);
    if (geteuid() != 0 && entry.pw_uid != geteuid())
        return fault_set(why, FAULT_CONFIG,
                         "bad 'node.user': only root can become '%s' (user %u), and this runs as user %u",
                         name, (unsigned)entry.pw_uid, (unsigned)geteuid());
    snprintf(user->name, sizeof user->name, "%s", name);
    user->is_other = entry.pw_uid != geteuid();
    user->uid = entry.pw_uid;
    if (user->is_other)
        user->gid = entry.pw_gid;
    return 0;
}

int user_find_for(const char *name, const char *folder, struct user *user, struct fault_note *why)
{
    struct passwd entry, *found = NULL;
    char text[4096];
    struct stat st;
    if (name[0] != '\0' || geteuid() != 0 || stat(folder, &st) != 0 || st.st_uid == 0)
        return user_find(name, user, why);
    if (getpwuid_r(st.st_uid, &entry, text, sizeof text, &found) != 0 || found == NULL)
        return fault_set(why, FAULT_CONFIG, "'%s' belongs to user %u, who has no name", folder,
                         (unsigned)st.st_uid);
    return user_find(entry.pw_name, user, why);
}

// A process that could become root again has not become another user.
static int can_go_back(const struct user *user)
{
    uid_t real, effective, saved;
    gid_t real_group, effective_group, saved_group;
    if (getresuid(&real, &effective, &saved) != 0 ||
        getresgid(&real_group, &effective_group, &saved_group) != 0)
        return 1;
    if (real != user->uid || effective != user->uid || saved != user->uid)
        return 1;
    if (real_group != user->gid || effective_group != user->gid || saved_group != user->gid)
        return 1;
    return user->uid != 0 && (setuid(0) == 0 || seteuid(0) == 0 || setgroups(0, NULL) == 0);
}

int user_become(const struct user *user, struct fault_note *why)
{
    int signal_at_death = 0;
    if (!user->is_other)
        return 0;
    pid_t parent = getppid();
    prctl(PR_GET_PDEATHSIG, &signal_at_death);
    // initgroups is setgroups with the groups that the system lists for the user: a GPU's device may need
    // one.
    if (initgroups(user->name, user->gid) != 0 || setresgid(user->gid, user->gid, user->gid) != 0 ||
        setresuid(user->uid, user->uid, user->uid) != 0)
        return fault_set(why, FAULT_INTERNAL, "cannot become user '%s': %s", user->name, strerror(errno));
    if (can_go_back(user))
        return fault_set(why, FAULT_INTERNAL, "user '%s' could become root again", user->name);
    // The kernel takes both away with the change. A process of this user from its start would have them.
    prctl(PR_SET_PDEATHSIG, signal_at_death);
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    if (signal_at_death != 0 && getppid() != parent)
        return fault_set(why, FAULT_CANCELLED, "the process that started this one has ended");
    return 0;
}

int user_check_owner(const struct user *user, const char *folder, struct fault_note *why)
{
    struct stat st;
    if (stat(folder, &st) == 0 && st.st_uid == user->uid)
        return 0;
    return fault_set(
        why, FAULT_CONFIG,
        "'%s' must be a folder of user '%s': install -d -m 0700 -o %s '%s' (what is in it: chown -R)", folder,
        user->name, user->name, folder);
}
