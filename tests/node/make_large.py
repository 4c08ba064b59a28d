# SPDX-License-Identifier: Apache-2.0
"""make_large.py PATH enhanced|classic N: N frames of 4096 x 4096 zeros, which take no place on the disk; a classic object holds
one and is padded with zeros to that size."""
import os
import struct
import sys

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence

SIZE = 4096
path, kind, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
sop_class = '1.2.840.10008.5.1.4.1.1.4' + ('.1' if kind == 'enhanced' else '')
meta = FileMetaDataset()
meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = sop_class, '1.2.3.4', '1.2.840.10008.1.2.1'
d = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
d.is_little_endian, d.is_implicit_VR = True, False
d.SOPClassUID, d.SOPInstanceUID, d.StudyInstanceUID, d.SeriesInstanceUID = sop_class, '1.2.3.4', '1.2.3.5', '1.2.3.6'
d.FrameOfReferenceUID, d.Modality, d.PatientID, d.MRAcquisitionType = '1.2.3.7', 'MR', 'P', '2D'
d.ImageType = ['ORIGINAL', 'PRIMARY', 'T1', 'NONE']
d.SamplesPerPixel, d.PhotometricInterpretation, d.Rows, d.Columns = 1, 'MONOCHROME2', SIZE, SIZE
d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0


def item(**values):
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return Sequence([made])


frames = n if kind == 'enhanced' else 1
if kind == 'enhanced':
    d.NumberOfFrames, d.EchoPulseSequence = n, 'SPIN'
    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.1, 0.1], SliceThickness=4)
    d.SharedFunctionalGroupsSequence = Sequence([shared])
    d.PerFrameFunctionalGroupsSequence = Sequence(
        [item(PlanePositionSequence=item(ImagePositionPatient=[0, 0, 5 * k]))[0] for k in range(n)])
else:
    d.ImageOrientationPatient, d.ImagePositionPatient, d.PixelSpacing = [1, 0, 0, 0, 1, 0], [0, 0, 0], [0.1, 0.1]
d.save_as(path, write_like_original=False)
length = frames * SIZE * SIZE * 2
with open(path, 'ab') as f:
    f.write(struct.pack('<HH2sHI', 0x7fe0, 0x10, b'OW', 0, length))
os.truncate(path, os.path.getsize(path) + n * SIZE * SIZE * 2)
