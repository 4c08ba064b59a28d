// SPDX-License-Identifier: Apache-2.0
//
// One page of a picture: made, drawn on with cairo, written as PNG. A library of its own (isoslice_page),
// since it needs cairo. Not here: what is drawn.

#ifndef ISOSLICE_CORE_PAGE_H
#define ISOSLICE_CORE_PAGE_H

#include "core/fault.h"

struct _cairo; // cairo_t

// A page of one colour (0..1 each) with the font set. Given to the caller (page_write). Never NULL: what
// failed is told by page_write.
struct _cairo *page_new(int width, int height, const double colour[3], double font_size);

// Writes the page to `path` and frees it, also on failure. Errors: IO, NO_MEMORY.
int page_write(struct _cairo *page, const char *path, struct fault_note *why);

#endif
