// SPDX-License-Identifier: Apache-2.0
//
// The forms that a derived series can have. Not here: what they look like (derive.h). No DICOM library.

#ifndef ISOSLICE_DICOM_MAP_FORMAT_H
#define ISOSLICE_DICOM_MAP_FORMAT_H

// Classic: one MR object for each image. Enhanced: one Enhanced MR object with a frame for each; as a series
// of its own, since a series is of one kind.
enum format { FORMAT_CLASSIC, FORMAT_ENHANCED, FORMAT_N };

// "classic", "enhanced".
const char *format_name(enum format format);
// 0 when `text` is neither; *format is then untouched.
int format_from_name(const char *text, enum format *format);

#endif
