// SPDX-License-Identifier: Apache-2.0
//
// The user that a daemon started by root becomes, for good. Not here: what is done before that (ports, keys).

#ifndef ISOSLICE_CORE_USER_H
#define ISOSLICE_CORE_USER_H

#include "core/fault.h"

#include <sys/types.h>

enum { USER_NAME_SIZE = 33 };

struct user {
    char name[USER_NAME_SIZE];
    uid_t uid;
    gid_t gid;
    int is_other; // not who we are: user_become has something to do
};

// Looks up `name` (node.user); "": who we are. Errors: CONFIG when there is no such user, or it is another
// and we are not root.
int user_find(const char *name, struct user *user, struct fault_note *why);

// The same for one who only works on `folder`, which belongs to the daemons: without a `name` root becomes
// the owner of the folder, so that what is written there stays theirs. A folder that is not there: who we
// are. Errors: as above; CONFIG when the owner has no name.
int user_find_for(const char *name, const char *folder, struct user *user, struct fault_note *why);

// Becomes that user, with its groups, and makes sure that there is no way back. Does nothing when we are that
// user already. The signal at the parent's death stays as it was. Errors: INTERNAL; the process must then
// end.
int user_become(const struct user *user, struct fault_note *why);

// Whether `folder` is that user's. Errors: CONFIG with what to do.
int user_check_owner(const struct user *user, const char *folder, struct fault_note *why);

#endif
