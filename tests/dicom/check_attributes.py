# SPDX-License-Identifier: Apache-2.0
"""check_attributes.py VARIANT SOURCE OUT: what must hold of a series derived from one of make_series.py's."""
import glob
import os
import sys

import pydicom

variant, source_dir, out_dir = sys.argv[1:4]
source = sorted((pydicom.dcmread(p) for p in glob.glob(source_dir + "/*.dcm")), key=lambda d: d.SOPInstanceUID)
paths = sorted(glob.glob(out_dir + "/*.dcm"))
out = [pydicom.dcmread(p) for p in paths]
first, made = source[0], out[0]
untouched = {id(d): pydicom.dcmread(d.filename) for d in (first, made)}
failures = []


def check(condition, text):
    if not condition:
        failures.append(text)
        print("FAILED:", text)


def raw(dataset, keyword):
    """The bytes of one element's value, as they are in the file."""
    element = untouched[id(dataset)].get_item(keyword)
    return None if element is None else element.value or b""


def same(*keywords):
    for keyword in keywords:
        check(keyword in made, keyword + " is missing")
        check(raw(made, keyword) == raw(first, keyword), keyword + " is not the source's, byte for byte")


def absent(*keywords):
    for keyword in keywords:
        check(keyword not in made, keyword + " is there")


same("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
     "StudyID", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator",
     "ImageOrientationPatient", "PixelSpacing", "MRAcquisitionType")
(absent if variant == "unsaid" else same)("ScanningSequence", "SequenceVariant")
check(list(made.ImageType) == ["DERIVED", "SECONDARY", "OTHER", "RESAMPLED"], "Image Type")
check(made.Manufacturer == "Isoslice", "Manufacturer")
check(made.SliceThickness == made.SpacingBetweenSlices == 0.8, "Slice Thickness, Spacing Between Slices")
check(made.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1", "transfer syntax")
check(made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID, "SOP instance of the file meta information")
check(made.DerivationCodeSequence[0].CodeValue == "113085", "derivation code")
check([i.ReferencedSOPInstanceUID for i in made.SourceImageSequence] == [d.SOPInstanceUID for d in source],
      "Source Image Sequence")
check(made.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322", "purpose of the source")
check(made.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID, "Referenced Series Sequence")
check(len(made.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == len(source), "referenced instances")
check(made.RelatedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID, "Related Series Sequence")
equipment = made.ContributingEquipmentSequence
check(equipment[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109101", "acquisition equipment")
check(equipment[0].Manufacturer == "TestScanner", "the scanner's manufacturer")
check(equipment[-1].PurposeOfReferenceCodeSequence[0].CodeValue == "109102", "processing equipment")
check(equipment[-1].Manufacturer == "Isoslice", "our manufacturer")
check("left-out slices: linear 30.1 dB" in made.DerivationDescription, "the measured numbers are not said")
check(all("neural" not in str(d.DerivationDescription) for d in out), "interpolation is called a network")
check("SpecificCharacterSet" in made or "SpecificCharacterSet" not in first, "character set lost")
for d in out:
    check(d.SeriesInstanceUID == made.SeriesInstanceUID and d.ContentDate == made.ContentDate, "series is not one")
absent("WindowCenterWidthExplanation", "PixelPaddingValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries",
       "PerformingPhysicianName", "OperatorsName", "ReferencedPerformedProcedureStepSequence", "TriggerTime",
       "PerformedProcedureStepID", "SeriesDescriptionCodeSequence", "DiffusionBValue", "TemporalPositionIdentifier",
       "NumberOfTemporalPositions")
check(not any(0x6000 <= e.tag.group <= 0x60FF for e in made), "overlays")

if variant == "full":
    same("TimezoneOffsetFromUTC", "PatientComments", "EthnicGroup", "PatientAge", "PatientSize",
         "PatientWeight", "AdditionalPatientHistory", "Occupation", "StudyDescription", "NameOfPhysiciansReadingStudy",
         "InstitutionName", "BodyPartExamined", "Laterality", "ProtocolName", "ContrastBolusAgent",
         "ContrastBolusVolume", "BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio",
         "LossyImageCompressionMethod", "NumberOfAverages", "ImagingFrequency", "ImagedNucleus",
         "EchoNumbers", "MagneticFieldStrength", "NumberOfPhaseEncodingSteps", "PercentSampling",
         "PercentPhaseFieldOfView", "PixelBandwidth", "SequenceName", "AngioFlag", "FlipAngle", "SAR",
         "AcquisitionMatrix", "InPlanePhaseEncodingDirection", "AcquisitionNumber",
         "EchoTrainLength", "RepetitionTime")
    absent("RescaleSlope", "RescaleIntercept", "RescaleType", "InversionTime")
    check(str(made.EchoTime) == "90", "an Echo Time of too many digits is not shortened: %s" % made.EchoTime)
    check(made.ScanOptions == "PFP", "Scan Options: %s" % made.ScanOptions)
    check(made.RequestAttributesSequence[0].RequestedProcedureID == "RP1", "Request Attributes Sequence")
    check(not any(e.tag.is_private for e in made.RequestAttributesSequence[0]), "private element in a copied item")
    check(made.ProcedureCodeSequence[0].CodeValue == "P1", "Procedure Code Sequence")
    check(made.ReferencedStudySequence[0].ReferencedSOPInstanceUID == "1.2.3.900", "Referenced Study Sequence")
    check(made.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.902", "Referenced Image Sequence")
    check(len(equipment) == 3 and equipment[1].Manufacturer == "Anonymizer Inc", "earlier contributing equipment")
    check(equipment[0].DeviceSerialNumber == "12345" and equipment[0].SoftwareVersions == "syngo MR E11" and
          equipment[0].StationName == "MR1" and equipment[0].InstitutionName == "Hospital" and
          "DeviceUID" not in equipment[0], "the scanner's details")
    check(equipment[0].ContributionDescription == "Source series 7", "the source's series number")
    check((made.WindowCenter, made.WindowWidth) == (400, 800), "the first window")
    # the job's moment, 2026-01-05 10:00:00.123456 UTC, in the source's time zone
    check((made.ContentDate, made.ContentTime) == ("20260105", "063000.123456"), "time zone: " + made.ContentTime)
    check(made.SeriesNumber == 1007, "series number")
    check(made.StationName == "NODE1", "our station name")
if variant != "bare":
    check((made.AcquisitionDate, made.AcquisitionTime) == ("20260105", "101033.25"), "earliest acquisition")
if variant == "bare":
    absent("AcquisitionDate", "AcquisitionTime", "AcquisitionNumber", "WindowCenter", "WindowWidth", "RescaleSlope",
           "LossyImageCompression", "BurnedInAnnotation", "BodyPartExamined", "Laterality", "InstitutionName",
           "TimezoneOffsetFromUTC", "SpecificCharacterSet")
    check(made.SeriesDescription == "[INTERP 0.80mm NFPD]", "series description: " + made.SeriesDescription)
    check(made.PatientPosition == "" and made.RepetitionTime is None, "empty where type 2C is missing")
if variant == "gated":
    check("InversionTime" in made, "Inversion Time of an inversion recovery")
if variant == "utf8":
    check(raw(made, "SpecificCharacterSet") == raw(first, "SpecificCharacterSet"), "character set")
    description = made.SeriesDescription
    check(len(description.encode()) <= 64 and description == ("ä山" * 8) + "ä [INTERP 0.80mm NFPD]", description)
if variant == "misspelt":
    check(untouched[id(made)].SpecificCharacterSet == "ISO_IR 100", "character set")
    check(raw(made, "PatientName").strip() == b"M\xfcller^J\xfcrgen", "bytes of the patient's name")
if variant == "iso2022":
    check(raw(made, "SpecificCharacterSet") == raw(first, "SpecificCharacterSet"), "character set")
    check(made.SeriesDescription == "[INTERP 0.80mm NFPD]", "series description: " + made.SeriesDescription)
    check(b"\x1b$B" in raw(made, "PatientName"), "escape sequences of the patient's name")
if variant == "ascii":
    check(made.SeriesDescription == "D" * 43 + " [INTERP 0.80mm NFPD]", "series description")
    check(made.SeriesNumber == 123401, "series number %s" % made.SeriesNumber)
if variant == "varies":
    check(made.RescaleSlope == 2.75 and made.RescaleType == "normalized", "common rescale")
    check(len({(d.RescaleSlope, d.RescaleIntercept) for d in out}) == 1, "one rescale for all")
if variant == "signed":
    check(made["SmallestImagePixelValue"].VR == "SS" and min(d.SmallestImagePixelValue for d in out) < -30000,
          "signed smallest value")
if variant == "high":
    check((made.BitsStored, made.HighBit) == (12, 11), "high bit")
if variant == "eight":
    check((made.BitsAllocated, made.BitsStored, made.HighBit) == (16, 8, 7), "8 bits")
if variant == "reversed":
    check([int(d.InstanceNumber) for d in out] == list(range(len(out), 0, -1)), "numbers fall with position")
print("%d objects, variant %s" % (len(out), variant))
sys.exit(1 if failures else 0)
