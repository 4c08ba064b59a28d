// SPDX-License-Identifier: Apache-2.0
//
// Which of the configuration's rules decides on a stack: whether it is processed, and who gets what is
// derived from it. Not here: what the program itself refuses (dicom_map/stack.h), which no rule changes.

#ifndef ISOSLICE_WORKER_RULES_H
#define ISOSLICE_WORKER_RULES_H

#include "conf/conf.h"
#include "dicom_map/source.h"

// The first rule that fits a stack which came from `sender` (calling AE title; NULL: not known, which fits
// every rule's sender); NULL when none fits: it is processed and goes to every destination.
const struct conf_rule *rules_find(const struct conf *conf, const char *sender,
                                   const struct source_item *item);

// Who may be told of an item, also of one whose slice distance is not known since it was refused: bits as in
// conf_rule.to, set for a destination that every rule which may decide sends to; all are where none may.
unsigned rules_allow(const struct conf *conf, const char *sender, const struct source_item *item);

// 1 when `text` fits one of the patterns that '|' parts, or there is none. Case does not count, '*' stands
// for any characters, '?' for one, [a-c] for one of those (fnmatch(3) in the C locale); everything else for
// itself, the backslash, too.
int rules_fits(const char *patterns, const char *text);

#endif
