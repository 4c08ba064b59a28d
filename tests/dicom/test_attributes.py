# SPDX-License-Identifier: Apache-2.0
"""Every row of the table in dicom_map/attributes.c, by name, in series derived from three sources: all slices have
every attribute with one value, none has any that may be missing, every slice has values of its own.
attributes.txt says what is to become of each; a row that it lacks is a failure. Names as in ctest."""
import glob
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

HERE = os.path.dirname(os.path.abspath(__file__))
N, ROWS, COLUMNS = 8, 20, 24
MR = '1.2.840.10008.5.1.4.1.1.4'
ROOT = '1.2.826.0.1.3680043.10.99'
ROW, COLUMN = np.array([0.96, 0.28, 0.0]), np.array([-0.168, 0.576, -0.8])
NORMAL = np.cross(ROW, COLUMN)
ORIGIN = np.array([-20.5, 31.25, 7.0])

# What a default by value representation would make wrong: values that decide whether this is a stack, or that have a
# form of their own. A function gets the slice's number, 0 where all are to be the same.
GIVEN = {
    0x00080005: 'ISO_IR 100', 0x00080008: 'ORIGINAL\\PRIMARY\\M\\ND', 0x00080016: MR, 0x00080060: 'MR',
    0x00080018: None, 0x0020000E: None, 0x00200013: None, 0x00200032: None, 0x7FE00010: None,
    0x00080022: '20260104', 0x00080032: lambda i: '1010%02d.5' % i, 0x0008002A: lambda i: '202601041010%02d.5' % i,
    0x00080201: lambda i: '-0%d30' % (3 + i % 4), 0x00080070: 'TestScanner',
    0x0020000D: ROOT + '.1', 0x00200052: ROOT + '.3', 0x00200037: '\\'.join('%.10g' % v for v in (*ROW, *COLUMN)),
    # one spacing within what a stack tolerates, written in four ways
    0x00280030: lambda i: ('0.8\\0.8', '0.8004\\0.8', '0.80\\0.800', '0.8\\0.7996')[i % 4],
    0x00180050: '3.5', 0x00180088: '4', 0x00180023: '2D',
    0x00180020: lambda i: ('IR', 'SE\\IR', 'IR\\GR', 'EP\\IR')[i % 4],
    0x00180021: lambda i: ('SK', 'SP', 'MP', 'OSP')[i % 4], 0x00180022: lambda i: ('PFP', 'PER', 'FC', 'RG')[i % 4],
    0x00180081: '90', 0x00180080: '4000', 0x00180082: '150', 0x00181314: '120', 0x00180086: '1', 0x00200100: '1',
    0x00181060: '300', 0x00189087: 0.0, 0x00189089: [0.0, 0.0, 1.0], 0x00200011: '7', 0x00200012: lambda i: str(i + 1),
    0x00280002: 1, 0x00280004: 'MONOCHROME2', 0x00280010: ROWS, 0x00280011: COLUMNS, 0x00280100: 16, 0x00280101: 12,
    0x00280102: 11, 0x00280103: 0, 0x00280120: lambda i: i, 0x00280301: 'NO', 0x00282110: '01',
    0x00281050: lambda i: str(400 + 2 * i), 0x00281051: lambda i: str(800 + 2 * i), 0x00281052: '1',
    0x00281053: lambda i: str(2 + i), 0x00281054: 'normalized', 0x00281055: 'A', 0x00181310: lambda i: [0, 256, 200 + i, 0],
    0x00282112: lambda i: str(8 + i), 0x00282114: lambda i: 'ISO_10918_%d' % (i + 1),
    0x00100020: 'T1', 0x00100021: 'ISSUER', 0x00180010: 'Gd', 0x00180024: '*tse2d1_11', 0x00181030: 't2_tse_ax',
    0x00101010: lambda i: '0%02dY' % (44 + i), 0x00080080: lambda i: 'Hospital %d' % i,
}
# Without these a source is refused; attributes.txt calls those that are copied "required".
NEEDED = {0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x0020000D, 0x0020000E, 0x00200013, 0x00200032, 0x00200037,
          0x00200052, 0x00280002, 0x00280004, 0x00280010, 0x00280011, 0x00280030, 0x00280100, 0x00280101, 0x00280102,
          0x00280103, 0x7FE00010}
BY_VR = {'AS': lambda i: '0%02dY' % (20 + i), 'CS': lambda i: 'C%d' % i, 'DA': lambda i: '202501%02d' % (i + 1),
         'DS': lambda i: '%d.5' % (i + 1), 'DT': lambda i: '202501%02d' % (i + 1), 'FD': lambda i: float(i + 1),
         'IS': lambda i: str(i + 1), 'TM': lambda i: '1200%02d' % i, 'UI': lambda i: ROOT + '.50.%d' % (i + 1),
         'US': lambda i: i + 1}


def table():
    """Rows of attributes.c: {tag: (VR, rule, name)}."""
    text = open(os.path.join(HERE, '../../dicom_map/attributes.c')).read()
    rows = re.findall(r'\{0x([0-9A-F]{8}), "([A-Z]{2})", ATTRIBUTE_([A-Z_]+), "([^"]*)"\}', text)
    if len(rows) != text.count(', ATTRIBUTE_') or len({r[0] for r in rows}) != len(rows):
        sys.exit('attributes.c has rows that this test cannot read')
    return {int(tag, 16): (vr, rule, name) for tag, vr, rule, name in rows}


def expectations():
    """{tag: (name, every, none, differs)} of attributes.txt."""
    found = {}
    for line in open(os.path.join(HERE, 'attributes.txt')):
        if line.startswith('#') or not line.strip():
            continue
        tag, name, *wanted = line.rstrip('\n').split(' ; ')
        tag = int(tag.replace(',', ''), 16)
        if len(wanted) != 3 or tag in found:
            sys.exit('attributes.txt: ' + line)
        found[tag] = (name, *wanted)
    return found


def all_rows_are_expected():
    rows, wanted = table(), expectations()
    missing = ['%08x %s' % (t, rows[t][2]) for t in rows if t not in wanted]
    spare = ['%08x %s' % (t, wanted[t][0]) for t in wanted if t not in rows]
    names = ['%08x %s' % (t, rows[t][2]) for t in rows if t in wanted and rows[t][2] != wanted[t][0]]
    # what is required of a source is required of the derived object as well
    odd = [wanted[t][0] for t in wanted if t in rows and (wanted[t][2] == 'required') != (rows[t][1] == 'COPY_FIRST_OR_FAIL')]
    if odd:
        sys.exit('required of one only, source or derived object: %s' % odd)
    if missing or spare or names:
        sys.exit('without an expectation: %s\nexpected but no row: %s\nother names: %s' % (missing, spare, names))
    # and no row is expected to be everything at once
    for tag, (name, *cells) in wanted.items():
        for cell in cells:
            if cell not in ('same', 'first', 'empty', 'absent', 'required', 'key') and cell[0] not in '=~@':
                sys.exit('%s: "%s" is no expectation' % (name, cell))
            if cell[0] == '@' and cell[1:] not in CHECKS:
                sys.exit('%s: no function "%s"' % (name, cell))
    print('%d rows' % len(rows))


# ---- sources

def value_of(tag, vr, i):
    if tag in GIVEN:
        return GIVEN[tag](i) if callable(GIVEN[tag]) else GIVEN[tag]
    if vr == 'SQ':
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = 'T%08X' % tag, '99TEST', 'number %s' % i
        item.add_new(0x00091001, 'LO', 'private')
        return Sequence([item])
    return BY_VR[vr](i) if vr in BY_VR else 'V%08X%s' % (tag, '' if i is None else i)


def make(kind, folder):
    """Eight oblique slices, 4 mm apart. Returns the data sets in order of position."""
    os.makedirs(folder)
    rng = np.random.default_rng(20261122)
    made, wanted = [], expectations()
    for i in range(N):
        uid = ROOT + '.40.%d' % (i + 1)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MR, uid
        meta.TransferSyntaxUID = '1.2.840.10008.1.2.1'
        d = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        d.is_little_endian, d.is_implicit_VR = True, False
        for tag, (vr, _, _) in table().items():
            if kind == 'none' and tag not in NEEDED:
                continue
            own = kind == 'differs' and wanted[tag][3] != 'key'
            value = value_of(tag, vr, i if own else None if tag not in GIVEN and vr not in BY_VR else 0)
            if value is not None:
                d.add_new(tag, 'US' if vr == 'OW' else vr, value)
        d.SOPInstanceUID, d.SeriesInstanceUID, d.InstanceNumber = uid, ROOT + '.2', i + 1
        d.ImagePositionPatient = ['%.9f' % v for v in ORIGIN + 4.0 * i * NORMAL]
        d.PixelData = rng.integers(0, 4096, (ROWS, COLUMNS)).astype('<u2').tobytes()
        d['PixelData'].VR = 'OW'
        if kind != 'none':
            d.DeviceUID = '1.2.3.77'
            d.add_new(0x00291010, 'OB', b'private')
            d.add_new(0x60000010, 'US', 20)
            d.add_new(0x50000010, 'US', 4)
        path = os.path.join(folder, '%d.dcm' % ((i * 5) % N))
        d.save_as(path, write_like_original=False)
        made.append(path)
    return made


# ---- what only a function can say; each gets the derived objects, the source's data sets and the kind of source

def single(sequence):
    if len(sequence) != 1:
        raise AssertionError('%d items' % len(sequence))
    return sequence[0]


def references(items):
    return [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in items]


def referenced_series(out, source, kind):
    item = single(out[0].ReferencedSeriesSequence)
    return (item.SeriesInstanceUID == ROOT + '.2' and
            references(item.ReferencedInstanceSequence) == [(MR, d.SOPInstanceUID) for d in source])


def related_series(out, source, kind):
    item = single(out[0].RelatedSeriesSequence)
    return ((item.StudyInstanceUID, item.SeriesInstanceUID) == (ROOT + '.1', ROOT + '.2') and
            single(item.PurposeOfReferenceCodeSequence).CodeValue == '121323')


def source_images(out, source, kind):
    items = out[0].SourceImageSequence
    return (references(items) == [(MR, d.SOPInstanceUID) for d in source] and
            all(single(i.PurposeOfReferenceCodeSequence).CodeValue == '121322' for i in items))


def derivation_code(out, source, kind):
    item = single(out[0].DerivationCodeSequence)
    return (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) == ('113085', 'DCM', 'Spatial resampling')


def equipment(out, source, kind):
    items = out[0].ContributingEquipmentSequence
    purposes = [i.PurposeOfReferenceCodeSequence[0].CodeValue if 'PurposeOfReferenceCodeSequence' in i else '-'
                for i in items]
    # the source's own item stands between the scanner and us
    return (purposes == (['109101', '109102'] if kind != 'every' else ['109101', '-', '109102']) and
            items[0].Manufacturer == ('UNKNOWN' if kind == 'none' else 'TestScanner') and
            items[-1].Manufacturer == 'Isoslice' and
            (kind != 'every' or items[1].CodeValue == 'T0018A001'))


def version(out, source, kind):
    return re.fullmatch(r'\d+\.\d+\.\d+.*', str(out[0].SoftwareVersions)) is not None


def instance_number(out, source, kind):
    return [int(d.InstanceNumber) for d in out] == list(range(1, len(out) + 1))


def place_of(d):
    return np.array([float(v) for v in d.ImagePositionPatient])


def position(out, source, kind):
    return len(out) == 36 and all(np.abs(place_of(d) - (ORIGIN + 0.8 * k * NORMAL)).max() < 1e-5
                                  for k, d in enumerate(out))


def location(out, source, kind):
    return all(abs(float(d.SliceLocation) - place_of(d) @ NORMAL) < 1e-5 for d in out)


def smallest(out, source, kind):
    return all(d['SmallestImagePixelValue'].VR == 'US' and d.SmallestImagePixelValue == d.pixel_array.min() for d in out)


def largest(out, source, kind):
    return all(d['LargestImagePixelValue'].VR == 'US' and d.LargestImagePixelValue == d.pixel_array.max() for d in out)


def real_values(datasets):
    return np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in datasets])


def common_scale(out, source, kind):
    slope, _ = single(list({(float(d.RescaleSlope), float(d.RescaleIntercept)) for d in out}))
    # what an acquired plane means is unchanged, to half a step of the new scale
    return np.abs(real_values(out[::5]) - real_values(source)).max() <= slope / 2 + 1e-6


def pixels(out, source, kind):
    if kind == 'differs':  # on another scale: see common_scale
        return all(len(d.PixelData) == 2 * ROWS * COLUMNS for d in out)
    return all((d.pixel_array == s.pixel_array).all() for d, s in zip(out[::5], source))


CHECKS = {f.__name__: f for f in (referenced_series, related_series, source_images, derivation_code, equipment, version,
                                  instance_number, position, location, smallest, largest, common_scale, pixels)}


# ---- judging

def text_of(dataset, tag):
    element = dataset[tag]
    value = element.value
    if value is None:
        return ''
    return '|'.join(str(v) for v in value) if element.VM > 1 else str(value)


def stripped(sequence):
    """Items without their private elements, which never pass."""
    items = []
    for item in sequence:
        copy = Dataset()
        for element in item:
            if not element.tag.is_private:
                copy.add(element)
        items.append(copy)
    return items


def raw(path, tag):
    element = pydicom.dcmread(path).get_item(tag)
    return None if element is None else element.value or b''


def holds(cell, tag, vr, out, out_paths, source, source_paths, kind):
    if cell == 'absent':
        return all(tag not in d for d in out)
    if cell[0] == '@':
        return all(tag in d for d in out) and CHECKS[cell[1:]](out, source, kind)
    if not all(tag in d for d in out):
        return False
    if cell == 'empty':
        return all(d[tag].VM == 0 for d in out)
    if cell[0] == '=':
        return all(text_of(d, tag) == cell[1:] for d in out)
    if cell[0] == '~':
        return all(re.fullmatch(cell[1:], text_of(d, tag)) for d in out)
    if vr == 'SQ':
        return all(stripped(d[tag].value) == stripped(source[0][tag].value) and
                   len(d[tag].value) > 0 and not any(e.tag.is_private for e in d[tag].value[0]) for d in out)
    return raw(out_paths[0], tag) == raw(source_paths[0], tag) and all(d[tag] == out[0][tag] for d in out)


def derive(*arguments):
    os.makedirs('out')
    program = os.path.join(os.environ['ISOSLICE_BIN'], 'tests/dicom/derive_series')
    return subprocess.run([program, 'in', 'out', *arguments], env={**os.environ, 'TZ': 'UTC'}, capture_output=True, text=True)


def required_ones_are_required():
    required = [(tag, name) for tag, (name, _, cell, _) in expectations().items() if cell == 'required']
    taken = []
    for tag, name in required:
        for path in make('none', 'in'):
            d = pydicom.dcmread(path)
            del d[tag]
            d.save_as(path)
        done = derive()
        if done.returncode == 0 or glob.glob('out/*'):
            taken.append(name)
        for folder in ('in', 'out'):
            shutil.rmtree(folder)
    if taken or not required:
        sys.exit('a source was taken without %s' % taken)


def earliest_acquisition_of_those_that_say_it():
    """One slice of eight lost its date to a de-identifier, another its time: the derived series then had neither."""
    for path in make('differs', 'in'):
        d = pydicom.dcmread(path)
        if d.InstanceNumber == 3:
            del d.AcquisitionDate
        if d.InstanceNumber == 1:
            del d.AcquisitionTime
        d.save_as(path)
    done = derive()
    if done.returncode != 0:
        sys.exit('derive_series: %s %s' % (done.stdout, done.stderr))
    got = {(d.get('AcquisitionDate'), d.get('AcquisitionTime')) for d in map(pydicom.dcmread, glob.glob('out/*.dcm'))}
    if got != {('20260104', '101001.5')}:  # of the second
        sys.exit('acquired at %s' % got)


def nothing_is_written_without_type_1():
    """A Pixel Spacing that can be read and cannot be copied (hundreds of values, one of them too long for its VR): a derived
    series without one went out once, because the slices wrote the same spacing in two ways."""
    for path in make('every', 'in'):
        d = pydicom.dcmread(path)
        value = ('0.8\\0.8\\' + '0' * 16 + '1' + '\\1e5' * 250).encode()
        d[0x00280030] = RawDataElement(Tag(0x00280030), 'DS', len(value), value + b' ' * (len(value) % 2), 0, False, True)
        d.save_as(path)
    for form in ('classic', 'enhanced'):
        done = derive('format=' + form)
        if 'verdict OK' not in done.stdout:
            sys.exit('not a stack any more: %s' % done.stdout)
        if done.returncode == 0 or 'INTERNAL' not in done.stderr or 'Pixel Spacing' not in done.stderr or glob.glob('out/*'):
            sys.exit('%s: %s %s, written: %s' % (form, done.returncode, done.stderr, glob.glob('out/*')))
        shutil.rmtree('out')


def judge(kind):
    source_paths = make(kind, 'in')
    done = derive()
    if done.returncode != 0 or 'verdict OK' not in done.stdout:
        sys.exit('derive_series: %s %s' % (done.stdout, done.stderr))
    out_paths = sorted(glob.glob('out/*.dcm'))
    source, out = [[pydicom.dcmread(p) for p in paths] for paths in (source_paths, out_paths)]
    wanted, failed = expectations(), 0
    column = {'every': 1, 'none': 2, 'differs': 3}[kind]
    for tag, (vr, _, name) in table().items():
        cell = wanted[tag][column]
        try:
            ok = holds(cell, tag, vr, out, out_paths, source, source_paths, kind)
        except (AttributeError, AssertionError, KeyError, ValueError) as error:
            ok, cell = False, '%s (%s)' % (cell, error)
        if not ok:
            failed += 1
            print('FAILED (%04x,%04x) %s: wanted %s, got %s, source %s' % (
                tag >> 16, tag & 0xffff, name, cell, out[0].get(tag, 'nothing'), source[0].get(tag, 'nothing')))
        else:
            print('ok (%04x,%04x) %s' % (tag >> 16, tag & 0xffff, name))
    rows = table()
    strangers = {e.tag for d in out for e in d if int(e.tag) not in rows}
    if strangers:
        failed += 1
        print('FAILED: in no row of the table: %s' % strangers)
    # every source must say something: what is expected to be copied or kept out was there
    for tag, (vr, _, name) in rows.items():
        if kind != 'none' and tag not in source[0]:
            failed += 1
            print('FAILED: the source has no %s' % name)
        if kind == 'differs' and wanted[tag][3] in ('first', 'absent', 'empty') and tag != 0x00080005 and \
                source[0][tag] == source[1][tag] and tag not in SAME_ANYHOW:
            failed += 1
            print('FAILED: the slices do not differ in %s' % name)
    sys.exit(1 if failed else 0)


def run_named(tests):
    """main of a test program: lists its tests, or runs the one that is named."""
    if len(sys.argv) < 2:
        print('\n'.join(sorted(tests)))
        return
    for leftover in ('in', 'out'):
        shutil.rmtree(leftover, ignore_errors=True)
    tests[sys.argv[1]]()


# May not differ, or the source is refused, and is never passed on: nothing to tell apart.
SAME_ANYHOW = {0x00181060, 0x00189087, 0x00189089, 0x00200100, 0x00281055}

TESTS = {
    'peer.attributes.all_rows_are_expected': all_rows_are_expected,
    'peer.attributes.every_one_present': lambda: judge('every'),
    'peer.attributes.every_one_absent': lambda: judge('none'),
    'peer.attributes.required_ones_are_required': required_ones_are_required,
    'peer.attributes.nothing_is_written_without_type_1': nothing_is_written_without_type_1,
    'peer.attributes.earliest_acquisition': earliest_acquisition_of_those_that_say_it,
    'peer.attributes.every_one_differs': lambda: judge('differs'),
}

if __name__ == '__main__':
    run_named(TESTS)
