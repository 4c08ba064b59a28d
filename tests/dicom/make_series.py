# SPDX-License-Identifier: Apache-2.0
"""make_series.py VARIANT FOLDER: a small MR series (8 slices of 24 x 20, 0.8 mm, 4 mm apart, oblique), for tests.

Variants: bare (types 1 and 2 only), full (every optional attribute that is copied or must not be), utf8, iso2022,
misspelt (the character set), unsaid (how it was acquired),
signed, varies (rescale differs from slice to slice), eight (8 bit, odd size), high (12 bits at the top of 16, rubbish
below the values' range), gated (triggered,
inversion recovery), reversed (Instance Number falls with position), ascii (a series description at the limit).
"""
import os
import sys

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

N = 8


def code(value, meaning):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def fill(dataset):
    """Everything optional."""
    d = dataset
    d.TimezoneOffsetFromUTC = "-0330"
    d.PatientComments, d.EthnicGroup, d.OtherPatientIDs = "comment", "group", "ID2"
    d.PatientAge, d.PatientSize, d.PatientWeight = "044Y", "1.8", "72.5"
    d.AdditionalPatientHistory, d.Occupation = "history", "occupation"
    d.StudyDescription, d.NameOfPhysiciansReadingStudy = "study", "Reader^R"
    d.ProcedureCodeSequence = Sequence([code("P1", "procedure")])
    d.ReferencedStudySequence = Sequence([Dataset()])
    d.ReferencedStudySequence[0].ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    d.ReferencedStudySequence[0].ReferencedSOPInstanceUID = "1.2.3.900"
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP1", "SPS1"
    request.add_new(0x00091001, "LO", "private inside")
    d.RequestAttributesSequence = Sequence([request])
    d.ReferencedPerformedProcedureStepSequence = Sequence([Dataset()])
    d.ReferencedPerformedProcedureStepSequence[0].ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.3"
    d.ReferencedPerformedProcedureStepSequence[0].ReferencedSOPInstanceUID = "1.2.3.901"
    d.PerformedProcedureStepID, d.PerformedProcedureStepStartDate = "PPS1", "20260105"
    d.PerformedProcedureStepStartTime, d.PerformedProcedureStepDescription = "101000", "step"
    d.PerformingPhysicianName, d.OperatorsName = "Performer^P", "Operator^O"
    d.SeriesDescriptionCodeSequence = Sequence([code("S1", "series")])
    d.InstitutionName, d.StationName, d.DeviceSerialNumber = "Hospital", "MR1", "12345"
    d.SoftwareVersions, d.DeviceUID = "syngo MR E11", "1.2.3.77"
    d.BodyPartExamined, d.Laterality, d.ProtocolName = "KNEE", "L", "t2_tse_ax"
    d.ContrastBolusAgent, d.ContrastBolusVolume = "Gd", "10"
    d.ImageComments, d.BurnedInAnnotation = "source comment", "NO"
    d.LossyImageCompression, d.LossyImageCompressionRatio, d.LossyImageCompressionMethod = "01", "8", "ISO_10918_1"
    d.PixelPaddingValue, d.SmallestPixelValueInSeries, d.LargestPixelValueInSeries = 0, 0, 4095
    d.WindowCenter, d.WindowWidth, d.WindowCenterWidthExplanation = [400, 500], [800, 900], ["A", "B"]
    d.InversionTime, d.NumberOfAverages, d.ImagingFrequency, d.ImagedNucleus = "100", "2", "63.6", "1H"
    d.EchoNumbers, d.MagneticFieldStrength, d.NumberOfPhaseEncodingSteps = "1", "1.5", "200"
    d.PercentSampling, d.PercentPhaseFieldOfView, d.PixelBandwidth = "90", "87.5", "120"
    d.SequenceName, d.AngioFlag, d.FlipAngle, d.SAR = "*tse2d1_11", "N", "150", "0.1"
    d.AcquisitionMatrix, d.InPlanePhaseEncodingDirection = [0, 256, 200, 0], "ROW"
    d.ScanOptions = ["PFP", "VENDOR"]
    d.EchoTime = "89.99999999999999999"  # longer than a DS may be
    d.TriggerTime, d.DiffusionBValue = "0", 0.0
    d.TemporalPositionIdentifier, d.NumberOfTemporalPositions = "1", "1"
    d.SpacingBetweenSlices, d.SliceLocation = "4", "0"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3.902"
    reference.PurposeOfReferenceCodeSequence = Sequence([code("121311", "Localizer")])
    reference.PurposeOfReferenceCodeSequence[0].CodingSchemeDesignator = "DCM"
    d.ReferencedImageSequence = Sequence([reference])
    earlier = Dataset()
    earlier.Manufacturer = "Anonymizer Inc"
    earlier.PurposeOfReferenceCodeSequence = Sequence([code("109103", "Modifying Equipment")])
    earlier.PurposeOfReferenceCodeSequence[0].CodingSchemeDesignator = "DCM"
    d.ContributingEquipmentSequence = Sequence([earlier])
    d.add_new(0x00290010, "LO", "TEST HEADER")
    d.add_new(0x00291010, "OB", b"private")
    d.add_new(0x60000010, "US", 20)
    d.add_new(0x60000011, "US", 24)
    d.add_new(0x60000040, "CS", "G")
    d.add_new(0x60000050, "SS", [1, 1])
    d.add_new(0x60000100, "US", 1)
    d.add_new(0x60000102, "US", 0)
    d.add_new(0x60003000, "OW", bytes(60))


def make(variant, folder):
    os.makedirs(folder, exist_ok=True)
    rows, columns = (21, 19) if variant == "eight" else (20, 24)
    row, column = np.array([0.96, 0.28, 0.0]), np.array([-0.168, 0.576, -0.8])
    normal = np.cross(row, column)
    rng = np.random.default_rng(20261122)
    for i in range(N):
        uid = "1.2.826.0.1.3680043.10.99.%d.%d" % (sum(variant.encode()), i + 1)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", uid
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        d.is_little_endian, d.is_implicit_VR = True, False
        d.SOPClassUID, d.SOPInstanceUID, d.Modality = "1.2.840.10008.5.1.4.1.1.4", uid, "MR"
        d.StudyInstanceUID = "1.2.826.0.1.3680043.10.99.1"
        d.SeriesInstanceUID = "1.2.826.0.1.3680043.10.99.2.%d" % sum(variant.encode())
        d.FrameOfReferenceUID = "1.2.826.0.1.3680043.10.99.3"
        d.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = "Test^Person", "T1", "19700101", "O"
        d.StudyDate, d.StudyTime, d.StudyID, d.AccessionNumber = "20260105", "100000", "S1", "A1"
        d.ReferringPhysicianName = ""
        d.SeriesNumber, d.Manufacturer = "7", "TestScanner"
        d.PositionReferenceIndicator = ""
        d.AcquisitionDate, d.AcquisitionTime, d.AcquisitionNumber = "20260105", "1010%02d.25" % (40 - i), "1"
        d.ScanningSequence, d.SequenceVariant, d.ScanOptions, d.MRAcquisitionType = "SE", "SK", "", "2D"
        d.EchoTime, d.EchoTrainLength, d.RepetitionTime = "90", "11", "4000"
        d.SliceThickness, d.PixelSpacing = "3.5", ["0.8", "0.8"]
        d.ImageOrientationPatient = ["%.10g" % v for v in (*row, *column)]
        position = np.array([-20.5, 31.25, 7.0]) + 4.0 * i * normal
        d.ImagePositionPatient = ["%.9f" % v for v in position]
        d.InstanceNumber = N - i if variant == "reversed" else i + 1
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.Rows, d.Columns, d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = rows, columns, 16, 12, 11, 0
        d.BodyPartExamined, d.PatientPosition = "BRAIN", "HFS"
        values = rng.integers(0, 4096, (rows, columns))
        if variant == "bare":
            del d.BodyPartExamined
            for name in ("AcquisitionDate", "AcquisitionTime", "AcquisitionNumber"):
                delattr(d, name)
            del d.PatientPosition, d.RepetitionTime
        if variant == "gated":
            d.ScanOptions, d.TriggerTime, d.ScanningSequence, d.SequenceVariant = ["CG", "PFP"], "300", "IR", "MP"
        if variant == "full":
            fill(d)
        if variant == "utf8":
            d.SpecificCharacterSet = "ISO_IR 192"
            d.PatientName = "Müller^Jürgen=山田^太郎"
            d.SeriesDescription = "ä山" * 30
        if variant == "unsaid":
            del d.ScanningSequence, d.SequenceVariant
        if variant == "misspelt":
            value, name = b"ISO-IR 100", b"M\xfcller^J\xfcrgen "
            d[0x00080005] = RawDataElement(Tag(0x00080005), "CS", len(value), value, 0, False, True)
            d[0x00100010] = RawDataElement(Tag(0x00100010), "PN", len(name), name, 0, False, True)
        if variant == "iso2022":
            d.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
            name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
            d[0x00100010] = RawDataElement(Tag(0x00100010), "PN", len(name), name, 0, False, True)
            text = b"\x1b$B" + b";3ED" * 12 + b"\x1b(B"
            d[0x0008103E] = RawDataElement(Tag(0x0008103E), "LO", len(text), text, 0, False, True)
        if variant == "ascii":
            d.SeriesDescription = "D" * 64
            d.SeriesNumber = "1234"
        if variant == "varies":
            d.RescaleSlope, d.RescaleIntercept, d.RescaleType = "%.6g" % (1 + 0.25 * i), "-3", "normalized"
        if variant == "full":
            d.RescaleSlope, d.RescaleIntercept = "1.0", "0"
        if variant == "signed":
            d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 15, 1
            values = rng.integers(-32768, 32768, (rows, columns))
        if variant == "high":
            d.HighBit = 15
            values = values << 4 | rng.integers(0, 16, (rows, columns))
        if variant == "eight":
            d.BitsAllocated = d.BitsStored = 8
            d.HighBit = 7
            values = rng.integers(0, 256, (rows, columns))
            data = values.astype("<u1").tobytes()
            d.PixelData = data + bytes(len(data) % 2)
            d["PixelData"].VR = "OB"
        else:
            d.PixelData = (values & 0xFFFF).astype("<u2").tobytes()
            d["PixelData"].VR = "OW"
        d.save_as(os.path.join(folder, "%d.dcm" % ((i * 5) % N)), write_like_original=False)


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[2])
