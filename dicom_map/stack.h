// SPDX-License-Identifier: Apache-2.0
//
// Sorts the images of one series into stacks that form a grid, or says why not, with the numbers. Positions
// and orientations decide; Instance Number, Slice Location, file names and order do not. The result is the
// same for every order of the input. Pure C: no DICOM library, no files. Source: PS3.3 C.7.6.2 for the plane;
// the rules are listed in dicom_map/README.md.

#ifndef ISOSLICE_DICOM_MAP_STACK_H
#define ISOSLICE_DICOM_MAP_STACK_H

#include "core/fault.h"
#include "dicom_map/slice.h"

#include <stddef.h>

// A stack, or images refused for one reason.
struct stack {
    enum fault verdict; // FAULT_OK: a stack
    char reason[512];   // empty for FAULT_OK
    char warnings[512]; // "; "-joined
    size_t *members;    // [n] indices into the slices given; by position where positions were compared
    size_t n;
    double *z_mm;     // [n] along the normal, ascending; NULL when refused
    double normal[3]; // row x column
    double slice_mm;  // median distance; 0 when refused
};

// Limits, so that tests and the manual name the same numbers.
enum { STACK_MIN_SLICES = 5, STACK_MAX_SLICES = 2000, STACK_LOCALIZER_SLICES = 8 };

// What stacks are wanted for. Learning takes thin and three-dimensional ones and pixels of any shape as well:
// they are not interpolated, they show what lies between slices.
enum stack_use { STACK_TO_DERIVE, STACK_TO_LEARN };

// Sorts the slices of one series. *stacks is given to the caller (stack_free): stacks first, in order of
// position, then refusals; every slice is in exactly one of them, except exact copies of the same object,
// which are dropped. Errors: NO_MEMORY.
int stack_sort(const struct slice *slices, size_t n, enum stack_use use, struct stack **stacks,
               size_t *n_stacks, struct fault_note *why);
void stack_free(struct stack *stacks, size_t n_stacks);

#endif
