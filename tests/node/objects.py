# SPDX-License-Identifier: Apache-2.0
"""Small MR objects, element by element, without any DICOM library: as the raw-socket sender of support.py sends them."""
import struct

MR = '1.2.840.10008.5.1.4.1.1.4'
UID = '1.2.826.0.1.3680043.2.1143.7'
LONG_VRS = (b'OB', b'OW', b'SQ', b'UN', b'UT')


def explicit(group, number, vr, value, length=None):
    length = len(value) if length is None else length
    head = struct.pack('<HH2s', group, number, vr)
    return head + (struct.pack('<HI', 0, length) if vr in LONG_VRS else struct.pack('<H', length)) + value


def us(value):
    return struct.pack('<H', value)


def even(text, pad=b'\0'):
    return text.encode() + pad * (len(text) & 1)


def dataset(pixels=None, rows=4, columns=4, replace=None, more=b'', uid=UID, sop_class=MR, series=UID + '.2'):
    """A small MR object; replace: {(group, element): bytes of the whole element}; more: elements after the UIDs."""
    elements = [(0x0008, 0x0016, explicit(8, 0x16, b'UI', even(sop_class))), (0x0008, 0x0018, explicit(8, 0x18, b'UI', even(uid))),
                (0x0008, 0x0060, explicit(8, 0x60, b'CS', b'MR')), (0x0010, 0x0010, explicit(0x10, 0x10, b'PN', b'X^Y ')),
                (0x0020, 0x000d, explicit(0x20, 0x0d, b'UI', even(UID + '.1'))),
                (0x0020, 0x000e, explicit(0x20, 0x0e, b'UI', even(series))), (0x0020, 0xffff, more),
                (0x0028, 0x0002, explicit(0x28, 2, b'US', us(1))), (0x0028, 0x0010, explicit(0x28, 0x10, b'US', us(rows))),
                (0x0028, 0x0011, explicit(0x28, 0x11, b'US', us(columns))),
                (0x0028, 0x0100, explicit(0x28, 0x100, b'US', us(16))),
                (0x7fe0, 0x0010, explicit(0x7fe0, 0x10, b'OW', bytes(2 * rows * columns) if pixels is None else pixels))]
    return b''.join((replace or {}).get((g, e), data) for g, e, data in elements)
