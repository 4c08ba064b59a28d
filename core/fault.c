// SPDX-License-Identifier: Apache-2.0
#include "core/fault.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct fault_row {
    enum fault fault;
    const char *name;
    enum fault_class class;
    unsigned dimse_status;
    const char *text;
};

static const struct fault_row rows[] = {
#define X(id, number, class, status, text) {FAULT_##id, #id, FAULT_CLASS_##class, status, text},
    FAULT_TABLE(X)
#undef X
};

static const struct fault_row *row_of(enum fault fault)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].fault == fault)
            return &rows[i];
    return NULL;
}

int fault_set(struct fault_note *why, enum fault fault, const char *format, ...)
{
    if (why != NULL) {
        va_list args;
        why->fault = fault;
        va_start(args, format);
        vsnprintf(why->text, sizeof why->text, format, args);
        va_end(args);
    }
    return (int)fault;
}

int fault_set_errno(struct fault_note *why, int errno_value, const char *format, ...)
{
    enum fault fault = FAULT_IO;
    if (errno_value == ENOSPC || errno_value == EDQUOT)
        fault = FAULT_NO_SPACE;
    else if (errno_value == EFBIG)
        fault = FAULT_TOO_LARGE;
    else if (errno_value == ENOMEM)
        fault = FAULT_NO_MEMORY;
    if (why != NULL) {
        char head[400];
        va_list args;
        va_start(args, format);
        vsnprintf(head, sizeof head, format, args);
        va_end(args);
        why->fault = fault;
        snprintf(why->text, sizeof why->text, "%s: %s", head, strerror(errno_value));
    }
    return (int)fault;
}

const char *fault_name(enum fault fault)
{
    const struct fault_row *row = row_of(fault);
    if (fault == FAULT_OK)
        return "OK";
    return row ? row->name : "UNKNOWN";
}

const char *fault_text(enum fault fault)
{
    const struct fault_row *row = row_of(fault);
    if (fault == FAULT_OK)
        return "no fault";
    return row ? row->text : "a fault without a row in the table";
}

enum fault_class fault_class_of(enum fault fault)
{
    const struct fault_row *row = row_of(fault);
    if (fault == FAULT_OK)
        return FAULT_CLASS_NONE;
    return row ? row->class : FAULT_CLASS_BUG;
}

const char *fault_class_name(enum fault_class kind)
{
    switch (kind) {
    case FAULT_CLASS_TEMP:
        return "temporary";
    case FAULT_CLASS_PERM:
        return "permanent";
    case FAULT_CLASS_REFUSAL:
        return "refusal";
    case FAULT_CLASS_BUG:
        return "bug";
    case FAULT_CLASS_NONE:
        break;
    }
    return "none";
}

unsigned fault_dimse_status(enum fault fault)
{
    const struct fault_row *row = row_of(fault);
    if (fault == FAULT_OK)
        return 0x0000;
    return row && row->dimse_status ? row->dimse_status : 0x0110;
}

enum fault fault_from_name(const char *name)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].name, name) == 0)
            return rows[i].fault;
    return FAULT_OK;
}
