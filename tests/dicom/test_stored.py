# SPDX-License-Identifier: Apache-2.0
"""Stored values, where nothing is interpolated (a spacing equal to the slice distance): out comes what went in, to the last bit, for
every layout of samples that MR has; what lies in the bits around them does not get in.

Environment: ISOSLICE_BIN (build folder).
"""
import glob
import json
import os
import subprocess
import sys

import numpy
import pydicom

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [HERE, os.path.join(HERE, '..', 'node')]
import make_enhanced
import make_series
from support import check, equal, files_of, fresh, isoslice, run_named

DERIVE = os.path.join(os.environ['ISOSLICE_BIN'], 'tests', 'dicom', 'derive_series')
ROWS, COLUMNS, N = 9, 13, 6


def write(allocated, stored, signed, high, overlay=False, padding=None):
    """Series `in` of that layout, every other bit rubbish; -> its values by Instance Number."""
    make_series.N = N
    make_series.make('bare', fresh('in'))
    rng = numpy.random.default_rng(1000 * allocated + 50 * stored + 7 * high + signed)
    low, most = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    values = {}
    for path in files_of('in'):
        d = pydicom.dcmread(path)
        v = rng.integers(low, most + 1, (ROWS, COLUMNS))
        v[0, :3] = low, most, low
        if padding is not None:
            v[2:4, 5:] = padding
        values[int(d.InstanceNumber)] = v
        shift = high + 1 - stored
        mask = ((1 << stored) - 1) << shift
        rubbish = rng.integers(0, 1 << allocated, v.shape) & ~mask
        words = (v << shift & mask) | rubbish
        d.Rows, d.Columns, d.BitsAllocated, d.BitsStored, d.HighBit = ROWS, COLUMNS, allocated, stored, high
        d.PixelRepresentation = signed
        data = words.astype('<u%d' % (allocated // 8)).tobytes()
        d.PixelData = data + bytes(len(data) % 2)
        d['PixelData'].VR = 'OB' if allocated == 8 else 'OW'
        if overlay:  # in the bits above, as scanners once kept graphics (PS3.3 C.9.2, retired)
            for n, bit in enumerate(range(high + 1, allocated)):
                group = 0x6000 + 2 * n
                for element, vr, value in ((0x10, 'US', ROWS), (0x11, 'US', COLUMNS), (0x40, 'CS', 'G'), (0x50, 'SS', [1, 1]),
                                           (0x100, 'US', allocated), (0x102, 'US', bit)):
                    d.add_new((group << 16) | element, vr, value)
        if padding is not None:
            d.add_new(0x00280120, 'SS' if signed else 'US', padding)
        d.save_as(path)
    return values


def compare(values, stored, signed, what):
    done = subprocess.run([DERIVE, 'in', fresh('out'), 'spacing=4'], capture_output=True, text=True)
    check(done.returncode == 0, '%s: %s' % (what, done.stdout + done.stderr))
    check('clamped 0\n' in done.stdout, done.stdout)
    made = [pydicom.dcmread(p) for p in glob.glob('out/*.dcm')]
    equal(len(made), N, 'planes of ' + what)
    for d in made:
        equal((d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation), (16, stored, stored - 1, signed), 'layout of ' + what)
        words = numpy.frombuffer(d.PixelData, '<u2').reshape(ROWS, COLUMNS).astype(int)
        check((words >> stored == 0).all(), 'bits above those stored, of ' + what)
        got = numpy.where(words >> (stored - 1), words - (1 << stored), words) if signed else words
        wrong = int((got != values[int(d.InstanceNumber)]).sum())
        check(wrong == 0, '%d of %d values of %s differ' % (wrong, got.size, what))
        equal((d.SmallestImagePixelValue, d.LargestImagePixelValue), (got.min(), got.max()), 'range of ' + what)
        check('PixelPaddingValue' not in d and not any(e.tag.group & 0xff00 == 0x6000 for e in d), 'overlay or padding of ' + what)


def layouts(allocated):
    def test():
        """Every number of stored bits, with and without sign, at every place in the sample; as Enhanced MR as well."""
        for stored in range(5 if allocated == 8 else 8, allocated + 1):
            for signed in (0, 1):
                for high in sorted({stored - 1, (stored + allocated) // 2 - 1, allocated - 1}):
                    what = '%d of %d bits up to %d%s' % (stored, allocated, high, ', signed' if signed else '')
                    values = write(allocated, stored, signed, high)
                    compare(values, stored, signed, what)
                if stored in (allocated, allocated - 4):
                    make_enhanced.make('in', fresh('frames'), order='shuffled')
                    compare_by_position(by_position(values), stored, signed, what + ', as frames')
    return test


def position(d):
    return float(numpy.dot(numpy.array(d.ImagePositionPatient, float), [-0.224, 0.768, 0.6]))


def by_position(values):
    return [values[int(d.InstanceNumber)] for d in sorted((pydicom.dcmread(p) for p in files_of('in')), key=position)]


def compare_by_position(values, stored, signed, what):
    subprocess.run([DERIVE, 'frames', fresh('out'), 'spacing=4'], check=True, capture_output=True)
    made = sorted((pydicom.dcmread(p) for p in glob.glob('out/*.dcm')), key=position)
    equal(len(made), N, 'planes of ' + what)
    for d, want in zip(made, values):
        words = numpy.frombuffer(d.PixelData, '<u2').reshape(ROWS, COLUMNS).astype(int)
        got = numpy.where(words >> (stored - 1), words - (1 << stored), words) if signed else words
        check((got == want).all(), 'values of ' + what)


def overlays():
    """Graphics in the bits above, and the elements that describe them, stay behind."""
    for stored, signed in ((10, 0), (12, 0), (12, 1)):
        compare(write(16, stored, signed, stored - 1, overlay=True), stored, signed, 'overlays above %d bits' % stored)


def padding():
    """Padding is a value like others: it comes out as it went in, and is not called padding any more, for between two slices it
    would be mixed with values that are none."""
    for stored, signed, value in ((12, 0, 0), (12, 0, 4095), (16, 1, -32768), (16, 1, -2000), (16, 0, 65535)):
        values = write(16, stored, signed, stored - 1, padding=value)
        check(all((v == value).sum() >= 16 for v in values.values()), 'no padding was written')
        compare(values, stored, signed, 'padding %d' % value)


def refused():
    """MONOCHROME1, colours and layouts that MR does not have are refused by name."""
    for changes, why in (({'PhotometricInterpretation': 'MONOCHROME1'}, "'MONOCHROME1'"),
                         ({'PhotometricInterpretation': 'PALETTE COLOR'}, "'PALETTE COLOR'"),
                         ({'BitsStored': 17}, 'stored 17'), ({'HighBit': 16}, 'high bit 16'), ({'HighBit': 9}, 'high bit 9'),
                         ({'PixelRepresentation': 2}, 'representation 2')):
        write(16, 12, 0, 11)
        for path in files_of('in'):
            d = pydicom.dcmread(path)
            for name, value in changes.items():
                setattr(d, name, value)
            d.save_as(path)
        item, = json.loads(isoslice('inspect', '--json', 'in', ok=(3,)).stdout)
        equal(item['verdict'], 'PHOTOMETRIC', str(changes))
        check(why in item['reason'], item['reason'])


TESTS = {'peer.stored.layouts_8': layouts(8), 'peer.stored.layouts_16': layouts(16), 'peer.stored.overlays': overlays,
         'peer.stored.padding': padding, 'peer.stored.refused': refused}

if __name__ == '__main__':
    run_named(TESTS)
