// SPDX-License-Identifier: Apache-2.0
//
// Every way in which Isoslice can fail or refuse, in one table: a number, a name, what kind of fault it is,
// what a DIMSE peer is told, and one sentence. Not here: logging (log.h) and what a program does next;
// libraries only return the fault and fill the note. Everybody may include this.

#ifndef ISOSLICE_CORE_FAULT_H
#define ISOSLICE_CORE_FAULT_H

// What follows from a fault. TEMP: the same work may succeed later, try again. PERM: it will fail again, hold
// it and say why. REFUSAL: the input is sound but not for us; no error, no retry. BUG: ours; hold, keep
// everything.
enum fault_class {
    FAULT_CLASS_NONE,
    FAULT_CLASS_TEMP,
    FAULT_CLASS_PERM,
    FAULT_CLASS_REFUSAL,
    FAULT_CLASS_BUG
};

// X(identifier, number, class, DIMSE C-STORE status when it decides one, sentence)
// Numbers are stable: they stand in queues and reports. Status values: PS3.4 B.2.3, PS3.7 annex C.
#define FAULT_TABLE(X)                                                                                       \
    X(USAGE, -1, PERM, 0x0110, "the command line is not as --help says")                                     \
    X(CONFIG, -2, PERM, 0x0110, "the configuration is not valid")                                            \
    X(IO, -3, TEMP, 0xA700, "a file operation failed")                                                       \
    X(NO_SPACE, -4, TEMP, 0xA700, "the disk or the quota is full")                                           \
    X(TOO_LARGE, -5, PERM, 0xA700, "an object is larger than the limit")                                     \
    X(NO_MEMORY, -6, TEMP, 0xA700, "memory is exhausted")                                                    \
    X(CANCELLED, -7, TEMP, 0x0110, "stopped on request")                                                     \
    X(TIMEOUT, -8, TEMP, 0x0110, "the peer said nothing for too long")                                       \
    X(INTERNAL, -9, BUG, 0x0110, "an internal check failed")                                                 \
    X(NOT_FOUND, -10, PERM, 0x0112, "there is no such thing")                                                \
    X(NOT_DICOM, -20, PERM, 0xC000, "the file is not DICOM")                                                 \
    X(TRUNCATED, -21, PERM, 0xC000, "the object ends before its data do")                                    \
    X(BAD_HEADER, -22, PERM, 0xC000, "the object breaks a rule or a limit of its encoding")                  \
    X(BAD_UID, -23, PERM, 0x0117, "a UID is missing or malformed")                                           \
    X(SOP_MISMATCH, -24, PERM, 0xA900, "data set and command disagree")                                      \
    X(TRANSFER_SYNTAX, -25, PERM, 0x0122, "the transfer syntax is not supported")                            \
    X(DECODE, -26, PERM, 0xC000, "the pixel data cannot be decoded")                                         \
    X(PIXEL_SIZE, -27, PERM, 0xC000, "the pixel data do not have the size that the header gives")            \
    X(READER, -30, PERM, 0, "the process that reads and writes DICOM files died or was ended")               \
    X(LOSSY, -28, PERM, 0xC000, "the pixel data are compressed with loss under a lossless transfer syntax")  \
    X(CONNECT, -40, TEMP, 0, "the peer cannot be reached")                                                   \
    X(ASSOCIATION_REJECTED, -41, TEMP, 0, "the peer rejected the association")                               \
    X(NOT_NEGOTIATED, -42, PERM, 0, "the peer accepts no usable presentation context")                       \
    X(PEER_ABORTED, -43, TEMP, 0, "the association broke")                                                   \
    X(PEER_BUSY, -44, TEMP, 0, "the peer answered with a temporary failure")                                 \
    X(PEER_REFUSED, -45, PERM, 0, "the peer answered with a permanent failure")                              \
    X(ACCESS, -46, PERM, 0x0124, "the peer is not allowed to do this")                                       \
    X(TLS, -47, TEMP, 0, "no trusted TLS connection to the peer")                                            \
    X(PROTOCOL, -48, PERM, 0, "the peer broke a rule of the network protocol")                               \
    X(CRASHED, -49, BUG, 0x0110, "a process died that should not have")                                      \
    X(NOT_COMMITTED, -50, TEMP, 0, "the destination does not commit itself to what it got")                  \
    X(QUEUE, -60, TEMP, 0, "the queue database failed")                                                      \
    X(LEASE_LOST, -61, TEMP, 0, "somebody else has taken the job over")                                      \
    X(CONFLICT, -62, PERM, 0, "other bytes came under a known SOP Instance UID")                             \
    X(LOST_FILE, -63, PERM, 0, "a file that the queue names is missing")                                     \
    X(DAMAGED_FILE, -64, PERM, 0, "a kept file is not what was received")                                    \
    X(WEIGHTS, -80, PERM, 0, "the weights file is not the network's")                                        \
    X(BACKEND, -81, PERM, 0, "the compute backend is not available")                                         \
    X(DEVICE, -82, TEMP, 0, "the compute device failed")                                                     \
    X(NOT_FINITE, -83, BUG, 0, "a computed value is not finite")                                             \
    X(NOT_MR, -100, REFUSAL, 0, "not an MR image")                                                           \
    X(OWN_OUTPUT, -101, REFUSAL, 0, "this series was made by Isoslice")                                      \
    X(DERIVED, -102, REFUSAL, 0, "the images are derived, not original")                                     \
    X(MOSAIC, -103, REFUSAL, 0, "one image holds a whole volume as tiles")                                   \
    X(LOCALIZER, -104, REFUSAL, 0, "the series is a localizer")                                              \
    X(DIFFUSION, -105, REFUSAL, 0, "the series is diffusion weighted")                                       \
    X(NO_POSITION, -106, REFUSAL, 0, "image position, orientation or pixel spacing is missing")              \
    X(NO_FRAME_OF_REFERENCE, -107, REFUSAL, 0, "the Frame of Reference UID is missing")                      \
    X(BAD_GEOMETRY, -108, REFUSAL, 0, "position or orientation is not a valid geometry")                     \
    X(BURNED_IN, -109, REFUSAL, 0, "the pixels carry burned-in annotation")                                  \
    X(PHOTOMETRIC, -110, REFUSAL, 0, "the photometric interpretation or bit depth is not supported")         \
    X(MULTIFRAME, -111, REFUSAL, 0, "the frames of a multi-frame object cannot be told apart or described")  \
    X(MIXED_PATIENT, -112, REFUSAL, 0, "patient, study or frame of reference differ within the series")      \
    X(SHEARED, -113, REFUSAL, 0, "the slices are shifted against each other in plane")                       \
    X(DUPLICATE_POSITIONS, -114, REFUSAL, 0, "several images lie at the same position")                      \
    X(MISSING_SLICES, -115, REFUSAL, 0, "slices are missing")                                                \
    X(NON_UNIFORM, -116, REFUSAL, 0, "the slice positions are not evenly spaced")                            \
    X(SKIP_3D, -117, REFUSAL, 0, "the acquisition is three-dimensional")                                     \
    X(NOTHING_TO_DO, -118, REFUSAL, 0, "too few slices, or already near-isotropic")                          \
    X(NON_SQUARE_PIXELS, -119, REFUSAL, 0, "the pixels are too far from square")                             \
    X(TOO_MANY_PLANES, -120, REFUSAL, 0, "the result would have too many planes")                            \
    X(NO_PIXELS, -121, REFUSAL, 0, "the object has no pixel data")                                           \
    X(IN_CONFLICT, -122, REFUSAL, 0, "the series is in conflict until a person decides")                     \
    X(PHASE, -123, REFUSAL, 0, "the values are phases, which wrap around")                                   \
    X(BY_RULE, -124, REFUSAL, 0, "a rule of the configuration leaves the series alone")

enum fault {
    FAULT_OK = 0,
#define X(id, number, class, status, text) FAULT_##id = (number),
    FAULT_TABLE(X)
#undef X
};

// A fault with its sentence. Lower case, no full stop, the error first, the subject in single quotes, then
// numbers. Never a patient's name, ID or birth date.
struct fault_note {
    enum fault fault;
    char text[512];
};

// Fills *why (which may be NULL) and returns `fault`, so that callers write: return fault_set(why, FAULT_IO,
// ...).
int fault_set(struct fault_note *why, enum fault fault, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// As fault_set, for a failed system call: appends strerror(errno_value) and turns ENOSPC, EDQUOT, EFBIG and
// ENOMEM into their own faults.
int fault_set_errno(struct fault_note *why, int errno_value, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// The name as the table spells it, e.g. "NO_SPACE"; "OK" for 0, "UNKNOWN" for a number not in the table.
const char *fault_name(enum fault fault);

// The table's sentence.
const char *fault_text(enum fault fault);

enum fault_class fault_class_of(enum fault fault);

// The class as a word: "temporary", "permanent", "refusal", "bug", "none".
const char *fault_class_name(enum fault_class kind);

// What a C-STORE peer is answered when this fault decides it; 0x0000 for FAULT_OK, 0x0110 where the table has
// none.
unsigned fault_dimse_status(enum fault fault);

// The fault of that name (as in the table), or FAULT_OK when there is none.
enum fault fault_from_name(const char *name);

#endif
