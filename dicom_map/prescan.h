// SPDX-License-Identifier: Apache-2.0
//
// The first look at an object, before any library parses it: iterative, bounded, and afraid of everything.
// Walks the elements of a DICOM file (explicit or implicit VR little endian, encapsulated pixels) and checks
// that it can be parsed within the limits below. Fuzzed. Not here: what the attributes mean.

#ifndef ISOSLICE_DICOM_MAP_PRESCAN_H
#define ISOSLICE_DICOM_MAP_PRESCAN_H

#include "core/digest.h"
#include "core/fault.h"

#include <stddef.h>
#include <stdint.h>

// Limits of what is accepted; a value of 0 in prescan_limits means this default.
enum {
    PRESCAN_MAX_DEPTH = 16,         // sequences inside sequences
    PRESCAN_MAX_ITEMS = 10000,      // items of one sequence (encapsulated fragments: 100 times that)
    PRESCAN_MAX_ELEMENTS = 1000000, // elements of the whole object
    PRESCAN_MAX_VALUE = 16 << 20,   // bytes of one value that is not pixel data
};

// What the walk found on its way; texts without padding, empty when absent.
struct prescan {
    char transfer_syntax[UID_SIZE];
    char sop_class_uid[UID_SIZE];
    char sop_instance_uid[UID_SIZE];
    char study_uid[UID_SIZE];
    char series_uid[UID_SIZE];
    char source_ae[17];           // Source Application Entity Title of the file meta information
    char digest[DIGEST_HEX_SIZE]; // SHA-256 of the data set's bytes (what follows the file meta information)
    size_t dataset_offset;        // where the data set begins
    size_t dataset_end;           // where it ends: the object's size, or where padding with zero bytes begins
    size_t fragment_offset;       // first fragment of encapsulated pixel data; 0 when there is none
    size_t fragment_size;
    size_t offset_table_size; // bytes of the offset table, whose item ends where the first fragment's begins
    size_t pixel_offset;      // first byte of native pixel data; 0 when there is none
    int has_pixel_data;
    uint32_t rows, columns, bits_allocated, samples, frames;
    // Whether the series is complete is told by these; a value that is no number counts as absent.
    int has_plane;          // Image Position and Orientation (Patient) are there
    double normal[3], z_mm; // of the image plane; its position along the normal
    int has_number, has_acquisition;
    int32_t number, acquisition;   // Instance Number, Acquisition Number
    int32_t images_in_acquisition; // 0: not told
};

// Scans a whole object in memory (`data` borrowed). Checks: preamble and group 2; every length inside its
// parent and the file; undefined length only for sequences, items, UN sequences and pixel data; known VR;
// nesting, items and element counts; tags ascending at top level; delimiters balanced; valid UIDs; native
// pixel data exactly rows * columns * samples * ceil(bits/8) * frames bytes (padding to even allowed);
// fragments inside the file. Zero bytes after the pixel data are padding (GE writes megabytes of them) and
// are let pass. Compressed pixel data of more than 64 MB when unpacked may not be a thousand times smaller.
// All four UIDs are required. Errors: NOT_DICOM, TRUNCATED, BAD_HEADER, BAD_UID, PIXEL_SIZE, TRANSFER_SYNTAX
// (deflated, big endian), NO_MEMORY.
int prescan_memory(const void *data, size_t size, struct prescan *out, struct fault_note *why);

// The same without the digest, for who makes it while the bytes arrive; out->digest stays empty.
int prescan_structure(const void *data, size_t size, struct prescan *out, struct fault_note *why);

// Checks a data set that has no file meta information, in explicit or implicit VR little endian, as a message
// brings one: lengths, nesting and counts as above; nothing is required to be in it. Errors: as above.
int prescan_dataset(const void *data, size_t size, int explicit_vr, struct fault_note *why);

// The same as prescan_memory for a file of at most `limit` bytes. Also IO, TOO_LARGE.
int prescan_file(const char *path, size_t limit, struct prescan *out, struct fault_note *why);

#endif
