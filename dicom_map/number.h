// SPDX-License-Identifier: Apache-2.0
//
// Numbers as DICOM writes them: decimal strings of at most 16 characters, always with a decimal point,
// whatever the locale of the program. Not here: which attribute they belong to.

#ifndef ISOSLICE_DICOM_MAP_NUMBER_H
#define ISOSLICE_DICOM_MAP_NUMBER_H

#include <stddef.h>

enum { NUMBER_DS_SIZE = 17 };

// Value number `index` of a backslash-separated DS or IS text. 1 when it is there, whole and finite.
int number_at(const char *text, int index, double *out);

// DS of `value`: `precision` significant digits, fewer until it fits into 16 characters. "-0" becomes "0".
// Source: PS3.5 table 6.2-1.
void number_ds(double value, int precision, char out[NUMBER_DS_SIZE]);

// What a reader of that text will take it for.
double number_rounded(double value, int precision);

// The value in the middle of `n` values (lower one of the two for even n); sorts `values`. n > 0.
double number_median(double *values, size_t n);

#endif
