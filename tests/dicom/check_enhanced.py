# SPDX-License-Identifier: Apache-2.0
"""check_enhanced.py SOURCE CLASSIC ENHANCED: one Enhanced MR object against the classic series of the same stack.

dciodvfy and dcentvfy say nothing of it that the source is not the reason of; every frame has the pixels and the place of its
classic image, in the order of Instance Numbers; dcm2niix reads the same grid and values from both; what both must say is
the same, what must not be is not.
"""
import glob
import os
import subprocess
import sys
import tempfile

import nibabel
import numpy as np
import pydicom

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
import check_derived
from check_derived import fail

ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
SAME = ("StudyInstanceUID FrameOfReferenceUID PatientID PatientName StudyID AccessionNumber Rows Columns BitsAllocated BitsStored "
        "HighBit PixelRepresentation SamplesPerPixel PhotometricInterpretation ImageComments ContentQualification Manufacturer "
        "ManufacturerModelName SoftwareVersions StationName SeriesDescription ContributingEquipmentSequence RelatedSeriesSequence "
        "ReferencedSeriesSequence ContentDate ContentTime InstanceCreatorUID MagneticFieldStrength ProtocolName "
        "PatientPosition SpecificCharacterSet RequestAttributesSequence").split()
OTHER = "SOPClassUID SOPInstanceUID SeriesInstanceUID SeriesNumber".split()


def numbers(value):
    return np.array([float(v) for v in np.atleast_1d(value)])


def check_header(made, classic):
    first = classic[0]
    for key in SAME:
        if made.get(key) != first.get(key):
            fail("%s is %r, not %r" % (key, made.get(key), first.get(key)))
    for key in OTHER:
        if any(made.get(key) == d.get(key) for d in classic):
            fail("%s is that of the classic series: %s" % (key, made.get(key)))
    wanted = {"SOPClassUID": ENHANCED, "VolumetricProperties": "VOLUME", "VolumeBasedCalculationTechnique": "NONE",
              "PixelPresentation": "MONOCHROME", "BurnedInAnnotation": "NO", "DimensionOrganizationType": "3D",
              "ImageType": ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"], "PresentationLUTShape": "IDENTITY"}
    for key, value in wanted.items():
        if made.get(key) != value:
            fail("%s is %s" % (key, made.get(key)))
    if not made.SOPInstanceUID.startswith("2.25.") or made.file_meta.MediaStorageSOPInstanceUID != made.SOPInstanceUID or \
            made.file_meta.MediaStorageSOPClassUID != ENHANCED or made.file_meta.TransferSyntaxUID != "1.2.840.10008.1.2.1":
        fail("file meta information: %s" % made.file_meta)
    if any(e.tag.is_private for e in made.iterall()):
        fail("a private element")
    if int(made.NumberOfFrames) != len(classic) or len(made.PerFrameFunctionalGroupsSequence) != len(classic):
        fail("%s frames for %d images" % (made.NumberOfFrames, len(classic)))
    organization = made.DimensionOrganizationSequence[0].DimensionOrganizationUID
    pointers = [(i.DimensionIndexPointer, i.FunctionalGroupPointer, i.DimensionOrganizationUID == organization)
                for i in made.DimensionIndexSequence]
    if pointers != [(0x00209056, 0x00209111, True), (0x00209057, 0x00209111, True)]:
        fail("dimensions: %s" % pointers)


def check_shared(made, classic):
    first, shared = classic[0], made.SharedFunctionalGroupsSequence[0]
    measures, derivation = shared.PixelMeasuresSequence[0], shared.DerivationImageSequence[0]
    for key in ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"):
        if measures[key].value != first[key].value:
            fail("%s is %s" % (key, measures[key].value))
    if list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) != list(first.ImageOrientationPatient):
        fail("orientation")
    value = shared.PixelValueTransformationSequence[0]
    if (float(value.RescaleSlope), float(value.RescaleIntercept)) != (float(first.get("RescaleSlope", 1)), float(first.get("RescaleIntercept", 0))):
        fail("rescale is %s" % value)
    window = shared.get("FrameVOILUTSequence", [pydicom.Dataset()])[0]
    if (window.get("WindowCenter"), window.get("WindowWidth")) != (first.get("WindowCenter"), first.get("WindowWidth")):
        fail("window is %s" % window)
    for key in ("DerivationDescription", "DerivationCodeSequence", "SourceImageSequence"):
        if derivation.get(key) != first.get(key):
            fail("%s is %s" % (key, derivation.get(key)))
    evidence = made.SourceImageEvidenceSequence[0]
    listed = {i.ReferencedSOPInstanceUID for i in evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence}
    if listed != {i.ReferencedSOPInstanceUID for i in first.SourceImageSequence} or evidence.StudyInstanceUID != first.StudyInstanceUID:
        fail("Source Image Evidence Sequence")
    anatomy, kind = shared.FrameAnatomySequence[0], shared.MRImageFrameTypeSequence[0]
    if anatomy.FrameLaterality not in ("R", "L", "U", "B") or len(anatomy.AnatomicRegionSequence) != 1:
        fail("anatomy: %s" % anatomy)
    if kind.FrameType != made.ImageType or any(kind[k].value != made[k].value for k in (
            "PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique", "ComplexImageComponent", "AcquisitionContrast")):
        fail("MR Image Frame Type: %s" % kind)


def check_frames(made, classic):
    pixels = made.pixel_array.reshape(-1, made.Rows, made.Columns)
    wrong = far = 0
    for i, (groups, d) in enumerate(zip(made.PerFrameFunctionalGroupsSequence, classic)):
        wrong += not np.array_equal(pixels[i], d.pixel_array)
        place = numbers(groups.PlanePositionSequence[0].ImagePositionPatient)
        far = max(far, np.abs(place - numbers(d.ImagePositionPatient)).max())
        content = groups.FrameContentSequence[0]
        if content.StackID != "1" or content.InStackPositionNumber != i + 1 or list(content.DimensionIndexValues) != [1, i + 1]:
            fail("content of frame %d: %s" % (i + 1, content))
    if wrong:
        fail("%d frames have not the pixels of their images" % wrong)
    if far > 1e-4:
        fail("a frame lies %.6f mm from its image" % far)
    if (made.SmallestImagePixelValue, made.LargestImagePixelValue) != (pixels.min(), pixels.max()):
        fail("smallest and largest value")


def volume_of(folder, scratch, name):
    subprocess.run(["dcm2niix", "-b", "n", "-z", "n", "-o", scratch, "-f", name, folder], check=True, stdout=subprocess.DEVNULL)
    found = glob.glob(os.path.join(scratch, name + "*.nii"))
    if len(found) != 1:
        fail("dcm2niix made %d volumes of %s" % (len(found), folder))
        return None
    return nibabel.load(found[0])


def check_volume(classic_folder, enhanced_folder, scratch):
    classic, made = volume_of(classic_folder, scratch, "classic"), volume_of(enhanced_folder, scratch, "enhanced")
    if classic is None or made is None:
        return
    zooms = [np.array(v.header.get_zooms()[:3], float) for v in (classic, made)]
    if classic.shape != made.shape or np.abs(zooms[0] - zooms[1]).max() > 1e-4:
        fail("dcm2niix: %s voxels of %s mm, of the classic series %s of %s" % (made.shape, zooms[1], classic.shape, zooms[0]))
    elif np.abs(classic.affine - made.affine).max() > 1e-4:
        fail("dcm2niix: affine\n%s\nof the classic series\n%s" % (made.affine, classic.affine))
    elif not np.array_equal(np.asarray(classic.dataobj), np.asarray(made.dataobj)):
        fail("dcm2niix reads other values")


def main(source_folder, classic_folder, enhanced_folder):
    paths = sorted(glob.glob(os.path.join(enhanced_folder, "*")))
    if [os.path.basename(p) for p in paths] != ["IM0001.dcm"]:
        fail("not one object: %s" % paths)
        return
    classic_paths = sorted(glob.glob(os.path.join(classic_folder, "*.dcm")))
    classic = sorted((pydicom.dcmread(p) for p in classic_paths), key=lambda d: int(d.InstanceNumber))
    made = pydicom.dcmread(paths[0])
    with tempfile.TemporaryDirectory() as scratch:
        source = check_derived.read_source(source_folder, made.ReferencedSeriesSequence[0].SeriesInstanceUID, scratch)
        allow = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "dciodvfy.allow")
        check_derived.check_iod(source, paths, allow, "EnhancedMRImage")
        check_header(made, classic)
        check_shared(made, classic)
        check_frames(made, classic)
        check_volume(classic_folder, enhanced_folder, scratch)
    print("%s frames checked" % made.NumberOfFrames)


if __name__ == "__main__":
    main(*sys.argv[1:4])
    sys.exit(1 if check_derived.failures else 0)
