// SPDX-License-Identifier: Apache-2.0
//
// The cage around DCMTK's data sets: parse, look up, build, encode, decode pixels. Opaque handles, numbers
// and bytes; no exception and no type of DCMTK passes. What the attributes mean is decided in C, outside.
// Objects must have passed prescan_memory before they are parsed here: DCMTK recurses as deep as the input
// says.

#ifndef ISOSLICE_DICOM_MAP_DCMTK_OBJECT_H
#define ISOSLICE_DICOM_MAP_DCMTK_OBJECT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "core/fault.h"

struct dcm_object; // owns a data set
struct dcm_item;   // borrowed from an object: the data set itself or an item of one of its sequences

// Once per process, later calls cost nothing: checks that the data dictionary is there, registers the
// decoders (JPEG, JPEG-LS), silences DCMTK's log. Called by all functions that make objects. Errors:
// CONFIG.
int dcm_setup(struct fault_note *why);

// Parses a data set in memory (borrowed for the call). `header_only` stops at the pixel data. *object is
// given to the caller (dcm_object_free). Errors: BAD_HEADER, CONFIG, NO_MEMORY.
int dcm_object_parse(const void *dataset, size_t size, const char *transfer_syntax, int header_only,
                     struct dcm_object **object, struct fault_note *why);
// An empty one.
int dcm_object_new(struct dcm_object **object, struct fault_note *why);
void dcm_object_free(struct dcm_object *object);

// The data set itself.
struct dcm_item *dcm_root(const struct dcm_object *object);

// 1 when the element is there, with or without a value.
int dcm_has(const struct dcm_item *item, uint32_t tag);
// The whole value as text, values separated by backslashes, bytes as they are in the object, padding at the
// end removed, cut to what fits. Returns its length, 0 for an empty value, -1 when absent or not a text.
long dcm_get_text(const struct dcm_item *item, uint32_t tag, char *out, size_t size);
// Value number `index` of a binary number (US SS UL SL FL FD). 1 when there is one. Private attributes in
// implicit VR have no VR that is known here: they count as SS.
int dcm_get_number(const struct dcm_item *item, uint32_t tag, int index, double *out);
// A tag that is a value (AT), the first one. 1 when there is one.
int dcm_get_tag(const struct dcm_item *item, uint32_t tag, uint32_t *out);
// Item number `index` of a sequence, or NULL.
const struct dcm_item *dcm_get_item(const struct dcm_item *item, uint32_t tag, int index);
// 1 when both lack the element or both have it with the same value (sequences: item for item).
int dcm_equal(const struct dcm_item *a, const struct dcm_item *b, uint32_t tag);

// Copies one element, bytes as they are; in sequences without private elements and group lengths. Does
// nothing when the source has none.
int dcm_copy(struct dcm_item *to, const struct dcm_item *from, uint32_t tag, struct fault_note *why);
// Appends one item of a sequence as a copy, as dcm_copy.
int dcm_copy_item(struct dcm_item *to, uint32_t sequence, const struct dcm_item *item,
                  struct fault_note *why);
// Sets a text; `vr` of two letters. An empty text makes an empty element.
int dcm_put_text(struct dcm_item *to, uint32_t tag, const char *vr, const char *text, struct fault_note *why);
// Sets one 16-bit value as US or SS.
int dcm_put_short(struct dcm_item *to, uint32_t tag, int is_signed, int value, struct fault_note *why);
// Sets `n` binary numbers; `vr` is US, UL or FD, and each number one that it holds.
int dcm_put_numbers(struct dcm_item *to, uint32_t tag, const char *vr, const double *numbers, int n,
                    struct fault_note *why);
// Sets a tag as a value (AT).
int dcm_put_tag(struct dcm_item *to, uint32_t tag, uint32_t value, struct fault_note *why);
// Removes an element, if it is there.
int dcm_remove(struct dcm_item *to, uint32_t tag, struct fault_note *why);
// Sets the pixel data, as OW.
int dcm_put_pixels(struct dcm_item *to, const uint16_t *words, size_t n, struct fault_note *why);
// Appends an empty item to a sequence, which is made when it is not there; *item is borrowed from `to`.
int dcm_add_item(struct dcm_item *to, uint32_t tag, struct dcm_item **item, struct fault_note *why);

// The data set in explicit VR little endian, explicit lengths. *data is given to the caller (free).
int dcm_object_encode(const struct dcm_object *object, void **data, size_t *size, struct fault_note *why);

// Decodes the pixel data of a single-frame object into `size` bytes of little-endian samples, caller's
// storage. Native, JPEG lossless and JPEG-LS ones, the last two after codestream_check; others are decoded
// elsewhere (rle.h, j2k.h). Errors: DECODE, PIXEL_SIZE, NO_MEMORY.
int dcm_object_decode(struct dcm_object *object, void *samples, size_t size, struct fault_note *why);

#ifdef __cplusplus
}
#endif

#endif
