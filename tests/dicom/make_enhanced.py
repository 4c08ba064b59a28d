# SPDX-License-Identifier: Apache-2.0
"""make_enhanced.py SOURCE FOLDER [key=value ...]: a classic MR series as one Enhanced MR object, for tests.

Keys: order (sorted, or shuffled: frames in no order of position), class (enhanced, or legacy: Legacy Converted, which keeps
classic attributes as they were), rescale (varies: another slope in every frame), split (echo, stack, temporal, acquisition: the
frames twice, told apart by that), drop (position, groups, sequence: leaves that out), parts (n: as many objects of the same series),
phase (direction of phase encoding), region (CODE:SCHEME of the anatomy), echo (index of the echo, as a dimension).
"""
import copy
import glob
import os
import sys

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence

ENHANCED, LEGACY = '1.2.840.10008.5.1.4.1.1.4.1', '1.2.840.10008.5.1.4.1.1.4.4'
TOP = ('SpecificCharacterSet PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate StudyTime StudyID '
       'AccessionNumber ReferringPhysicianName SeriesNumber Manufacturer SeriesInstanceUID FrameOfReferenceUID Rows Columns '
       'PositionReferenceIndicator BodyPartExamined PatientPosition MRAcquisitionType BitsAllocated BitsStored HighBit '
       'PixelRepresentation SamplesPerPixel PhotometricInterpretation ProtocolName SeriesDescription').split()


def item(**values):
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return Sequence([made])


def frame_of(d, number, options):
    """Functional groups of one frame."""
    g = Dataset()
    g.PlanePositionSequence = item(ImagePositionPatient=d.ImagePositionPatient)
    if options.get('drop') == 'position':
        del g.PlanePositionSequence
    g.FrameContentSequence = item(StackID='1', InStackPositionNumber=1 + (number * 7) % 5, TemporalPositionIndex=1,
                                  FrameAcquisitionNumber=3, DimensionIndexValues=[1, number, int(options.get('echo', 1))],
                                  FrameAcquisitionDateTime=d.get('AcquisitionDate', '20260105') + d.get('AcquisitionTime', '101010') + '+0100')
    slope = 1 + 0.25 * (number % 4) if options.get('rescale') == 'varies' else 1
    g.PixelValueTransformationSequence = item(RescaleIntercept='-3' if slope != 1 or options.get('rescale') else '0',
                                              RescaleSlope='%.6g' % slope, RescaleType='US')
    g.FrameVOILUTSequence = item(WindowCenter='%d' % (400 + number), WindowWidth='800')
    if options.get('class') == 'legacy':
        kept = Dataset()
        kept.EchoTime, kept.InstanceNumber = d.EchoTime, number
        g.UnassignedPerFrameConvertedAttributesSequence = Sequence([kept])
    else:
        g.MREchoSequence = item(EffectiveEchoTime=float(d.EchoTime))
    return g


def shared_of(d, options):
    g = Dataset()
    g.PlaneOrientationSequence = item(ImageOrientationPatient=d.ImageOrientationPatient)
    g.PixelMeasuresSequence = item(PixelSpacing=d.PixelSpacing, SliceThickness=d.SliceThickness, SpacingBetweenSlices='4')
    g.MRImageFrameTypeSequence = item(FrameType=['ORIGINAL', 'PRIMARY', 'T2', 'NONE'], ComplexImageComponent='MAGNITUDE',
                                      PixelPresentation='MONOCHROME', VolumetricProperties='VOLUME',
                                      VolumeBasedCalculationTechnique='NONE', AcquisitionContrast='T2')
    if options.get('class') == 'legacy':
        kept = Dataset()
        for name in ('ScanningSequence', 'SequenceVariant', 'ScanOptions', 'EchoTrainLength', 'RepetitionTime', 'FlipAngle'):
            if name in d:
                setattr(kept, name, d[name].value)
        kept.add_new(0x00091001, 'LO', 'private inside')
        g.UnassignedSharedConvertedAttributesSequence = Sequence([kept])
        return g
    g.MRTimingAndRelatedParametersSequence = item(RepetitionTime='4000', FlipAngle='150', EchoTrainLength='11')
    sar = Dataset()
    sar.SpecificAbsorptionRateDefinition, sar.SpecificAbsorptionRateValue = 'IEC_WHOLE_BODY', 1.25
    g.MRTimingAndRelatedParametersSequence[0].SpecificAbsorptionRateSequence = Sequence([sar])
    g.MRModifierSequence = item(InversionRecovery='YES', InversionTimes=[150.5], FlowCompensation='SLICE_SELECT', Spoiling='RF',
                                T2Preparation='NO', SpatialPresaturation='SLAB', PartialFourier='YES',
                                PartialFourierDirection='PHASE')
    g.MRImagingModifierSequence = item(MagnetizationTransfer='OFF_RESONANCE', PixelBandwidth='217.5', TransmitterFrequency=63.6)
    g.MRAveragesSequence = item(NumberOfAverages='2')
    g.MRFOVGeometrySequence = item(InPlanePhaseEncodingDirection='COLUMN', PercentSampling='90', PercentPhaseFieldOfView='80',
                                   MRAcquisitionPhaseEncodingStepsInPlane=200)
    if 'phase' in options:
        g.MRFOVGeometrySequence[0].InPlanePhaseEncodingDirection = options['phase']
    g.MRFOVGeometrySequence[0].MRAcquisitionFrequencyEncodingSteps = 256
    g.FrameAnatomySequence = item(FrameLaterality='U')
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = options.get('region', 'T-D9200:SRT').split(':') + ['region']
    g.FrameAnatomySequence[0].AnatomicRegionSequence = Sequence([region])
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID, reference.ReferencedFrameNumber = ENHANCED, '1.2.3.905', 2
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = '121311', 'DCM', 'Localizer'
    reference.PurposeOfReferenceCodeSequence = Sequence([purpose])
    g.ReferencedImageSequence = Sequence([reference])
    return g


def describe(d, options):
    """The pulse sequence, at top level."""
    if options.get('class') == 'legacy':
        return
    d.PulseSequenceName, d.EchoPulseSequence, d.MultipleSpinEcho = '*tseir2d1_11', 'SPIN', 'YES'
    d.SteadyStatePulseSequence, d.EchoPlanarPulseSequence, d.SegmentedKSpaceTraversal = 'NONE', 'NO', 'PARTIAL'
    d.SpectrallySelectedSuppression, d.OversamplingPhase, d.ResonantNucleus, d.MagneticFieldStrength = 'FAT', '2D', '1H', '1.5'
    if options.get('drop') == 'sequence':
        del d.EchoPulseSequence
    agent = Dataset()
    agent.CodeValue, agent.CodingSchemeDesignator, agent.CodeMeaning = 'C-17800', 'SRT', 'Gadolinium'
    agent.ContrastBolusAgentNumber = 1
    d.ContrastBolusAgentSequence = Sequence([agent])


def split(groups, frames, by):
    """The frames a second time, told apart."""
    again = [copy.deepcopy(g) for g in groups]
    for g in again:
        if by == 'echo':
            g.MREchoSequence[0].EffectiveEchoTime += 20
        elif by == 'stack':
            g.FrameContentSequence[0].StackID = '2'
        elif by == 'temporal':
            g.FrameContentSequence[0].TemporalPositionIndex = 2
        elif by == 'acquisition':
            g.FrameContentSequence[0].FrameAcquisitionNumber = 4
        elif by == 'diffusion':
            g.MRDiffusionSequence = item(DiffusionBValue=1000.0, DiffusionDirectionality='ISOTROPIC')
        elif by != 'nothing':
            raise SystemExit('split by ' + by)
    return groups + again, frames + frames


def make(source, folder, **options):
    os.makedirs(folder, exist_ok=True)
    classic = [pydicom.dcmread(p) for p in glob.glob(os.path.join(source, '**', '*.dcm'), recursive=True)]
    classic.sort(key=lambda d: int(d.InstanceNumber))
    if options.get('order') == 'shuffled':
        classic = [classic[i] for i in np.random.default_rng(3).permutation(len(classic))]
    n_parts = int(options.get('parts', 1))
    for part in range(n_parts):
        write(classic[part::n_parts], os.path.join(folder, 'part%d.dcm' % part), part, options)


def write(classic, path, part, options):
    first = classic[0]
    uid = first.SeriesInstanceUID + '.77.%d' % part
    sop_class = LEGACY if options.get('class') == 'legacy' else ENHANCED
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid
    meta.TransferSyntaxUID = first.file_meta.TransferSyntaxUID
    d = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    d.is_little_endian, d.is_implicit_VR = True, first.is_implicit_VR
    for name in TOP:
        if name in first:
            setattr(d, name, first[name].value)
    d.SOPClassUID, d.SOPInstanceUID, d.Modality = sop_class, uid, 'MR'
    d.ImageType, d.InstanceNumber = ['ORIGINAL', 'PRIMARY', 'T2', 'NONE'], part + 1
    d.ContentDate, d.ContentTime, d.AcquisitionDateTime = first.StudyDate, '120000', first.StudyDate + '115959'
    d.BurnedInAnnotation, d.LossyImageCompression = 'NO', '00'
    d.DeviceSerialNumber, d.SoftwareVersions, d.ManufacturerModelName = '12345', 'X1', 'Model'
    describe(d, options)
    if 'echo' in options:
        d.DimensionIndexSequence = Sequence([
            item(DimensionIndexPointer=p, FunctionalGroupPointer=f)[0]
            for p, f in ((0x00209056, 0x00209111), (0x00209057, 0x00209111), (0x00189082, 0x00189114))])
    groups = [frame_of(c, i + 1, options) for i, c in enumerate(classic)]
    frames = [c.PixelData[:c.Rows * c.Columns * (c.BitsAllocated // 8)] for c in classic]
    if 'split' in options:
        groups, frames = split(groups, frames, options['split'])
    d.NumberOfFrames = len(frames)
    d.SharedFunctionalGroupsSequence = Sequence([shared_of(first, options)])
    if options.get('drop') == 'groups':
        groups = groups[:-1]
    d.PerFrameFunctionalGroupsSequence = Sequence(groups)
    data = b''.join(frames)
    d.PixelData = data + bytes(len(data) % 2)
    d['PixelData'].VR = 'OB' if d.BitsAllocated == 8 else 'OW'
    d.save_as(path, write_like_original=False)


if __name__ == '__main__':
    make(sys.argv[1], sys.argv[2], **dict(a.split('=') for a in sys.argv[3:]))
