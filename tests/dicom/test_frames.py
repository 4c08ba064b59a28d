# SPDX-License-Identifier: Apache-2.0
"""Enhanced MR as input: its frames are the slices that classic MR would have been, whatever their order, their encoding and the
objects they are spread over. What is derived is judged by check_derived.py and compared with what the classic series gives.

Environment: ISOSLICE_BIN (build folder), ISOSLICE_SHARED (real data).
"""
import glob
import json
import os
import struct
import subprocess
import sys

import numpy
import pydicom
from pydicom.encaps import generate_pixel_data_fragment
from pydicom.filebase import DicomBytesIO

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [HERE, os.path.join(HERE, '..', 'node')]
import make_enhanced
import make_series
from support import check, equal, files_of, fresh, isoslice, run, run_named, shared_series

DERIVE = os.path.join(os.environ['ISOSLICE_BIN'], 'tests', 'dicom', 'derive_series')


def enhanced(variant='ascii', **options):
    """Folder `classic` and the same as Enhanced MR in `in`."""
    make_series.make(variant, fresh('classic'))
    make_enhanced.make('classic', fresh('in'), **options)


def derive(source, out, *options):
    return dict(line.split(' ', 1) for line in run(DERIVE, source, fresh(out), *options).splitlines())


def refusal(source='in'):
    done = subprocess.run([DERIVE, source, fresh('out')], capture_output=True, text=True)
    check(done.returncode != 0 and not os.listdir('out'), 'it was derived: ' + done.stdout)
    return done.stdout + done.stderr


def inspect(folder='in'):
    return json.loads(isoslice('inspect', '--json', folder, ok=(0, 3)).stdout)


def check_derived(source, out, *options):
    print(run(os.path.join(HERE, 'check_derived.sh'), source, out, *options))


def planes(folder):
    return [pydicom.dcmread(p) for p in sorted(glob.glob(folder + '/*.dcm'))]


def same_pixels(a, b):
    """Positions and pixels, plane by plane."""
    first, second = planes(a), planes(b)
    equal(len(first), len(second), 'planes')
    for x, y in zip(first, second):
        equal(list(x.ImagePositionPatient), list(y.ImagePositionPatient), 'position')
        check(x.PixelData == y.PixelData, 'pixels of %s' % x.InstanceNumber)


def like_classic(variant, **options):
    def test():
        enhanced(variant, **options)
        derive('in', 'out')
        check_derived('in', 'out')
        if 'rescale' not in options:
            derive('classic', 'expected')
            same_pixels('out', 'expected')
    return test


def attributes():
    """What stands in the functional groups comes out where classic MR has it."""
    enhanced(order='shuffled')
    derive('in', 'out')
    source, = planes('in')
    order = [i + 1 for i in numpy.argsort([float(numpy.dot([-0.224, 0.768, 0.6], [float(v) for v in g.PlanePositionSequence[0].ImagePositionPatient]))
                                           for g in source.PerFrameFunctionalGroupsSequence])]
    for d in planes('out'):
        want = {'ScanningSequence': ['SE', 'IR'], 'SequenceVariant': ['SK', 'MTC', 'SP', 'OSP'], 'ScanOptions': ['FC', 'PFP', 'SP', 'FS'],
                'EchoTime': 90, 'RepetitionTime': 4000, 'InversionTime': 150.5, 'FlipAngle': 150, 'EchoTrainLength': 11,
                'NumberOfAverages': 2, 'ImagingFrequency': 63.6, 'ImagedNucleus': '1H', 'MagneticFieldStrength': 1.5, 'SAR': 1.25,
                'PercentSampling': 90, 'PercentPhaseFieldOfView': 80, 'PixelBandwidth': 217.5, 'NumberOfPhaseEncodingSteps': 200,
                'InPlanePhaseEncodingDirection': 'COL', 'SequenceName': '*tseir2d1_11', 'ContrastBolusAgent': 'Gadolinium',
                'AcquisitionNumber': 3, 'AcquisitionDate': '20260105', 'AcquisitionTime': '101033.25', 'MRAcquisitionType': '2D',
                'AcquisitionDateTime': '20260105101033.25+0100', 'PixelSpacing': [0.8, 0.8], 'SliceThickness': 0.8,
                'SpacingBetweenSlices': 0.8, 'WindowCenter': 404, 'WindowWidth': 800, 'BurnedInAnnotation': 'NO',
                'SOPClassUID': '1.2.840.10008.5.1.4.1.1.4', 'ImageType': ['DERIVED', 'SECONDARY', 'OTHER', 'RESAMPLED']}
        for name, value in want.items():
            equal(d.get(name), value, name)
        check('RescaleSlope' not in d and 'ContrastBolusAgentSequence' not in d and 'Laterality' not in d, 'what is not to be there')
        image, = d.SourceImageSequence
        equal((image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID), (source.SOPClassUID, source.SOPInstanceUID), 'source image')
        equal([int(n) for n in image.ReferencedFrameNumber], order, 'frames, by position')
        instance, = d.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        check(instance.ReferencedSOPInstanceUID == source.SOPInstanceUID and 'ReferencedFrameNumber' not in instance, 'instance')
        reference, = d.ReferencedImageSequence
        equal((reference.ReferencedSOPInstanceUID, int(reference.ReferencedFrameNumber)), ('1.2.3.905', 2), 'referenced image')
        scanner = d.ContributingEquipmentSequence[0]
        equal((scanner.Manufacturer, scanner.DeviceSerialNumber), ('TestScanner', '12345'), 'the scanner')


def composed_attributes():
    """Echo Number, Acquisition Matrix and Body Part Examined from where Enhanced MR has their like; nothing where it has not."""
    for options, want in (
            ({}, {'AcquisitionMatrix': [256, 0, 0, 200], 'BodyPartExamined': 'KNEE', 'EchoNumbers': None}),
            ({'phase': 'ROW', 'echo': '2'}, {'AcquisitionMatrix': [0, 256, 200, 0], 'EchoNumbers': 2}),
            ({'phase': 'OTHER', 'region': '12738006:SCT'}, {'AcquisitionMatrix': None, 'BodyPartExamined': 'BRAIN',
                                                                 'InPlanePhaseEncodingDirection': None}),
            ({'region': '80891009:SCT'}, {'BodyPartExamined': None}),     # heart, or within it
            ({'region': 'T-D9200:99LOCAL'}, {'BodyPartExamined': None})):
        make_series.make('bare', fresh('classic'))
        make_enhanced.make('classic', fresh('in'), **options)
        derive('in', 'out')
        for d in planes('out'):
            for name, value in want.items():
                equal(d.get(name), value, '%s of %s' % (name, options))
        check_derived('in', 'out')


def anatomy_codes():
    """Every code of the table is one of its region, as pydicom's dictionary of the standard has them."""
    from pydicom.sr._concepts_dict import concepts
    from pydicom.sr._snomed_dict import mapping
    import re
    text = open(os.path.join(HERE, '../../dicom_map/anatomy.c')).read()
    rows = re.findall(r'\{"(\w+)", "(\d+)", (NULL|"\d+"), "([\w-]+)", "([^"]+)"\}', text)
    equal(len(rows), text.count('{"'), 'rows that this test can read')
    meanings = {}
    for keyword, codes in concepts['SCT'].items():
        for code, (meaning, _) in codes.items():
            meanings.setdefault(code, []).append(meaning.lower())
    for part, code, old, srt, meaning in rows:
        known = old.strip('"') if old != 'NULL' else code
        equal(mapping['SRT'].get(srt), known, 'SNOMED CT of %s, %s' % (srt, part))
        words = set(re.findall('[a-z]+', meaning.lower())) - {'and', 'region', 'joint', 'structure'}
        said = ' '.join(meanings.get(known, []))
        # what the dictionary calls otherwise
        said += {'CALCANEUS': ' calcaneus', 'SELLA': ' sella turcica', 'SSPINE': ' sacrum', 'SKULL': ' skull', 'ORBIT': ' orbital'}.get(part, '')
        check(all(w[:5] in said for w in words), '%s: %s is %s' % (part, known, said))
    for column in range(4):
        values = [r[column] for r in rows if r[column] != 'NULL']
        equal(len(values), len(set(values)), 'values of column %d' % column)
    check(not {r[1] for r in rows} & {r[2].strip('"') for r in rows}, 'one code is old and new')


def legacy_attributes():
    """A conversion's unassigned attributes are classic ones; private ones among them stay behind."""
    enhanced('gated', **{'class': 'legacy'})
    derive('in', 'out')
    for d in planes('out'):
        equal((d.EchoTime, d.RepetitionTime, d.EchoTrainLength, d.ScanningSequence, d.SequenceVariant), (90, 4000, 11, 'IR', 'MP'), 'kept')
        check(not any(e.tag.is_private for e in d.iterall()), 'a private element')


def several_objects():
    """One series in several objects, each of several frames or of one: each is named with its frames."""
    for parts, frames in (('2', [[1, 2, 3, 4]] * 2), ('8', [None] * 8)):
        enhanced(parts=parts)
        derive('in', 'out')
        check_derived('in', 'out')
        derive('classic', 'expected')
        same_pixels('out', 'expected')
        made = planes('out')[0]
        got = [i.get('ReferencedFrameNumber') for i in made.SourceImageSequence]
        equal([f and [int(n) for n in f] for f in got], frames, 'frames of %s objects' % parts)
        equal(len(made.ReferencedSeriesSequence[0].ReferencedInstanceSequence), int(parts), 'instances')


def dimensions():
    """What tells frames apart parts them into stacks; where nothing does, they are refused."""
    for by in ('echo', 'stack', 'temporal', 'acquisition'):
        enhanced(split=by)
        items = inspect()
        equal([(i['verdict'], i['slices']) for i in items], [('OK', 8)] * 2, 'stacks by ' + by)
        uids = []
        for n in range(2):
            uids.append(derive('in', 'out', 'item=%d' % n)['series'])
            frames = [int(f) for f in planes('out')[0].SourceImageSequence[0].ReferencedFrameNumber]
            equal(sorted(frames), list(range(8 * n + 1, 8 * n + 9)), 'frames of stack %d by %s' % (n, by))
        check(uids[0] != uids[1], 'two stacks have one UID')
        if by == 'echo':
            equal({d.EchoTime for d in planes('out')}, {110}, 'echo time of the second')
    for by, verdict in (('diffusion', 'DIFFUSION'), ('nothing', 'DUPLICATE_POSITIONS')):
        enhanced(split=by)
        equal({i['verdict'] for i in inspect()}, {verdict}, 'split by ' + by)


def refusals():
    for drop, verdict, why in (('position', 'NO_POSITION', 'Image Position'), ('groups', 'MULTIFRAME', 'without functional groups'),
                               ('sequence', 'MULTIFRAME', 'Echo Pulse Sequence')):
        enhanced(drop=drop)
        item, = inspect()
        equal(item['verdict'], verdict, 'without ' + drop)
        check(why in item['reason'], item['reason'])


def edited(change, paths):
    for path in paths:
        d = pydicom.dcmread(path)
        change(d)
        d.save_as(path)


def phases():
    """Phase images were interpolated like intensities, half a turn off where they wrap; wherever the file says that it is one."""
    def says(component):
        def change(d):
            d.add_new(0x00430010, 'LO', 'GEMS_PARM_01')
            d.add_new(0x0043102F, 'SS', component)
        return change

    def implicit(d):  # private attributes then come without a VR
        says([1, 0])(d)
        d.is_implicit_VR, d.file_meta.TransferSyntaxUID = True, '1.2.840.10008.1.2'

    def typed(d):
        d.ImageType = ['ORIGINAL', 'PRIMARY', 'P', 'ND']

    def neither(d):
        d.ImageType = ['ORIGINAL', 'PRIMARY', 'OTHER']
        says(0)(d)

    for change, verdict in ((typed, 'PHASE'), (says(1), 'PHASE'), (implicit, 'PHASE'), (neither, 'OK')):
        make_series.make('ascii', fresh('in'))
        edited(change, files_of('in'))
        equal([i['verdict'] for i in inspect()], [verdict], change.__name__)

    def frame_type(**values):
        def change(d):
            group = d.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0]
            for name, value in values.items():
                setattr(group, name, value)
        return change

    for values in ({'ComplexImageComponent': 'PHASE'}, {'FrameType': ['ORIGINAL', 'PRIMARY', 'P', 'NONE']}):
        enhanced()
        edited(frame_type(**values), files_of('in'))
        equal([i['verdict'] for i in inspect()], ['PHASE'], 'enhanced, %s' % values)
    enhanced()
    edited(frame_type(ComplexImageComponent='REAL'), files_of('in'))
    equal([i['verdict'] for i in inspect()], ['OK'], 'enhanced, real')


def frames_that_lie():
    """A number of frames that the pixels do not hold."""
    enhanced()
    path, = files_of('in')
    for n in (7, 9, 1000000):
        d = pydicom.dcmread(path)
        d.NumberOfFrames = n
        d.save_as('in/part0.dcm')
        equal({i['verdict'] for i in inspect()}, {'PIXEL_SIZE'}, '%d frames' % n)


CODERS = {'rle': ['dcmcrle'], 'jpeg': ['dcmcjpeg', '+e1'], 'jpegls': ['dcmcjpls', '+el'], 'j2k': ['gdcmconv', '--j2k']}


def fragments_of(d):
    data = DicomBytesIO(d.PixelData)
    data.is_little_endian = True
    data.seek(8 + struct.unpack('<4xI', data.read(8))[0])
    return list(generate_pixel_data_fragment(data))


def encapsulated(fragments, table):
    """Fragments as they are, behind an offset table as it is."""
    item = lambda data: struct.pack('<HHI', 0xfffe, 0xe000, len(data)) + data
    return item(b''.join(struct.pack('<I', v) for v in table)) + b''.join(item(f) for f in fragments)  # pydicom adds the end


def write(d, fragments, table):
    d.PixelData = encapsulated(fragments, table)
    d['PixelData'].is_undefined_length = True
    d['PixelData'].VR = 'OB'
    d.save_as(fresh('other') + '/1.dcm')
    return 'other'


def starts(fragments, which):
    at = numpy.cumsum([0] + [8 + len(f) for f in fragments])
    return [int(at[i]) for i in which]


def compressed(coder):
    def test():
        """Every way to put frames into fragments gives the pixels of the native object; what does not add up is a fault."""
        enhanced(order='shuffled')
        derive('in', 'expected')
        run(*CODERS[coder], 'in/part0.dcm', fresh('coded') + '/1.dcm')
        derive('coded', 'out')
        same_pixels('out', 'expected')
        check_derived('coded', 'out')
        whole = fragments_of(pydicom.dcmread('coded/1.dcm'))
        equal(len(whole), 8, 'fragments that %s makes' % coder)
        halves = [part for f in whole for part in (f[:len(f) // 4 * 2], f[len(f) // 4 * 2:])]
        for fragments, table in ((whole, []), (whole, starts(whole, range(8))), (halves, starts(halves, range(0, 16, 2)))):
            derive(write(pydicom.dcmread('coded/1.dcm'), fragments, table), 'out')
            same_pixels('out', 'expected')
        good = starts(whole, range(8))
        for fragments, table in ((halves, []), (whole[:7], []), (whole, good[:7]), (whole, good + [good[-1] + 8]), (whole, [0] * 8),
                                 (whole, good[::-1]), (whole, [v + 2 for v in good]), (whole, good[:7] + [0xfffffff0]),
                                 (whole, [good[1]] + good[1:])):
            text = refusal(write(pydicom.dcmread('coded/1.dcm'), fragments, table))
            check('DECODE' in text, '%d fragments, table %s: %s' % (len(fragments), table, text))
    return test


def philips_phantom():
    """A real object, and the same phantom in classic form: other scans (their stored values are scaled otherwise), one grid."""
    one, other = shared_series('philips_t1_phantom_enhanced'), shared_series('philips_t1_phantom')
    derive(one, 'out')
    check_derived(one, 'out')
    derive(other, 'expected')
    got, want = planes('out'), planes('expected')
    equal(len(got), len(want), 'planes')
    for x, y in zip(got, want):
        for name in ('ImagePositionPatient', 'ImageOrientationPatient', 'PixelSpacing', 'SliceThickness'):
            a, b = (numpy.atleast_1d(numpy.array(d[name].value, float)) for d in (x, y))
            check(abs(a - b).max() < 1e-4, '%s: %s, %s' % (name, a, b))
        for name in ('Rows', 'Columns', 'EchoTime', 'RepetitionTime', 'FlipAngle', 'ScanningSequence', 'NumberOfAverages',
                     'ImagingFrequency', 'EchoTrainLength', 'FrameOfReferenceUID', 'PatientPosition', 'InPlanePhaseEncodingDirection',
                     'AcquisitionMatrix', 'BodyPartExamined'):
            equal(x.get(name), y.get(name), name)
    volumes = [numpy.stack([d.pixel_array for d in series]).astype(float).ravel() for series in (got, want)]
    alike = numpy.corrcoef(*volumes)[0, 1]
    print('correlation %.4f' % alike)
    check(alike > 0.98, 'the volumes are not of one phantom: %.4f' % alike)


TESTS = {'peer.frames.shuffled': like_classic('ascii', order='shuffled'), 'peer.frames.legacy': like_classic('ascii', **{'class': 'legacy'}),
         'peer.frames.rescale_varies': like_classic('ascii', rescale='varies', order='shuffled'),
         'peer.frames.eight_bit': like_classic('eight', order='shuffled'), 'peer.frames.signed': like_classic('signed', order='shuffled'),
         'peer.frames.high_bit': like_classic('high', order='shuffled'), 'peer.frames.utf8': like_classic('utf8'),
         'peer.frames.attributes': attributes, 'peer.frames.composed_attributes': composed_attributes,
         'unit.anatomy.codes': anatomy_codes, 'peer.frames.legacy_attributes': legacy_attributes,
         'peer.frames.several_objects': several_objects, 'peer.frames.dimensions': dimensions, 'peer.frames.refusals': refusals, 'peer.frames.phases': phases,
         'peer.frames.number_that_lies': frames_that_lie, 'peer.frames.philips_phantom': philips_phantom}
TESTS.update({'peer.frames.compressed.' + coder: compressed(coder) for coder in CODERS})

if __name__ == '__main__':
    run_named(TESTS)
