// SPDX-License-Identifier: Apache-2.0
//
// Text as JSON has it. For writers of a few lines that need no JSON library.

#ifndef ISOSLICE_CORE_QUOTE_H
#define ISOSLICE_CORE_QUOTE_H

#include <stdio.h>

// Writes `text` in double quotes, escaped; bytes from 0x80 on as they are. Source: RFC 8259 section 7.
void quote_json(FILE *out, const char *text);

#endif
