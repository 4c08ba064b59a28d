// SPDX-License-Identifier: Apache-2.0
//
// What the terms of Image Type and its kin say of an image. Pure C: no DICOM library, no files. Source: PS3.3
// C.8.3.1.1.1 and C.8.13.3.1.1; vendors add terms of their own.

#ifndef ISOSLICE_DICOM_MAP_TERMS_H
#define ISOSLICE_DICOM_MAP_TERMS_H

#include "dicom_map/slice.h"

// What the values are.
enum component { COMPONENT_MAGNITUDE, COMPONENT_PHASE, COMPONENT_REAL, COMPONENT_IMAGINARY };

// Non-zero when `term` is one of the values, which backslashes part.
int terms_have(const char *values, const char *term);

// As Complex Image Component of Enhanced MR says it, GE in a private attribute, or all vendors in Image Type.
// PHASE where any of them says so; MAGNITUDE where none says anything.
enum component terms_component(const struct slice *slice);

#endif
