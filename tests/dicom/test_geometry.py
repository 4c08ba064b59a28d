# SPDX-License-Identifier: Apache-2.0
"""Where things lie: landmarks at known patient positions, found again in the derived series, for every order and sign of the
axes; pixels far from square.

Environment: ISOSLICE_BIN (build folder).
"""
import glob
import itertools
import json
import os
import subprocess
import sys

import numpy
import pydicom

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [HERE, os.path.join(HERE, '..', 'node')]
import make_series
from support import check, equal, files_of, fresh, isoslice, run, run_named

DERIVE = os.path.join(os.environ['ISOSLICE_BIN'], 'tests', 'dicom', 'derive_series')
# A turned frame of three axes: none of them along one of the patient's.
TURNED = numpy.array([[0.96, -0.168, -0.224], [0.28, 0.576, 0.768], [0.0, -0.8, 0.6]])
CORNER = numpy.array([-33.25, 41.5, -12.125])


def write(folder, volume, row, column, advance, pixel, distance):
    """volume [slices, rows, columns] as a series; pixel: between rows, between columns; slices go along `advance`."""
    make_series.N = len(volume)
    make_series.make('bare', fresh(folder))
    for path in files_of(folder):
        d = pydicom.dcmread(path)
        k = int(d.InstanceNumber) - 1
        d.Rows, d.Columns = volume.shape[1:]
        d.ImageOrientationPatient = ['%.10g' % v for v in (*row, *column)]
        d.ImagePositionPatient = ['%.10g' % v for v in CORNER + k * distance * advance]
        d.PixelSpacing, d.SliceThickness = ['%.10g' % v for v in pixel], '%.10g' % (0.9 * distance)
        d.PixelData = volume[k].astype('<u2').tobytes()
        d.save_as(path)


def derive(*options):
    print(run(DERIVE, 'in', fresh('out'), *options))
    return sorted((pydicom.dcmread(p) for p in glob.glob('out/*.dcm')), key=lambda d: int(d.InstanceNumber))


def refusal():
    done = subprocess.run([DERIVE, 'in', fresh('out')], capture_output=True, text=True)
    check(done.returncode != 0 and not os.listdir('out'), 'it was derived: ' + done.stdout)
    return done.stdout


def places(planes):
    """Patient position of every voxel, from the headers alone."""
    out = []
    for d in planes:
        axes = numpy.array(d.ImageOrientationPatient, float)
        r, c = numpy.mgrid[:d.Rows, :d.Columns]
        out.append(numpy.array(d.ImagePositionPatient, float) + c[..., None] * float(d.PixelSpacing[1]) * axes[:3] +
                   r[..., None] * float(d.PixelSpacing[0]) * axes[3:])
    return numpy.stack(out)


LANDMARKS = [(5, 4, 9, 3000), (2, 11, 3, 2000)]  # slice, row, column, value


def find(values, where, at, reach):
    """Centre of what is bright within `reach` mm of a place."""
    near = numpy.linalg.norm(where - at, axis=-1) < reach
    check(near.any(), 'nothing lies within %g mm' % reach)
    weights = numpy.where(near, values, 0).astype(float)
    check(weights.sum() > 0, 'nothing bright lies within %g mm of the landmark' % reach)
    brightest = where.reshape(-1, 3)[weights.argmax()]
    return brightest, (weights[..., None] * where).sum((0, 1, 2)) / weights.sum()


def landmarks():
    """Axes in every order and with every sign: what is bright stays where it is in the patient, within half a voxel."""
    volume = numpy.zeros((9, 16, 14))
    for k, r, c, value in LANDMARKS:
        volume[k, r, c] = value
    pixel, distance, n = 0.9, 4.0, 0
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            row, column, advance = (signs[i] * TURNED[:, order[i]] for i in range(3))
            write('in', volume, row, column, advance, (pixel, pixel), distance)
            planes = derive()
            values, where = numpy.stack([d.pixel_array for d in planes]), places(planes)
            for k, r, c, value in LANDMARKS:
                at = CORNER + k * distance * advance + r * pixel * column + c * pixel * row
                brightest, centre = find(values, where, at, 0.99 * distance)
                for name, got in (('brightest voxel', brightest), ('centre', centre)):
                    off = [abs((got - at) @ axis) for axis in (row, column, advance)]
                    check(max(off[:2]) < 1e-4 and off[2] <= pixel / 2 + 1e-4, '%s of %s %s lies %s mm off' % (name, order, signs, off))
            way = numpy.array(planes[-1].ImagePositionPatient, float) - numpy.array(planes[0].ImagePositionPatient, float)
            check(way @ advance > 0, 'the numbers run against the source of %s %s' % (order, signs))
            n += 1
    equal(n, 48, 'orders and signs')


def blobs(shape, pixel, distance):
    """Smooth spots off the grid, and where they are: in mm along slices, rows and columns."""
    spots = [(15.3, 13.1, 9.7), (22.6, 6.2, 14.4)]
    k, r, c = numpy.meshgrid(*(numpy.arange(n) for n in shape), indexing='ij')
    out = numpy.zeros(shape)
    for z, y, x in spots:
        out += 3000 * numpy.exp(-((k * distance - z) ** 2 / 32 + (r * pixel[0] - y) ** 2 / 8 + (c * pixel[1] - x) ** 2 / 8))
    return numpy.rint(out), spots


def oblong(pixel, shape, **options):
    def test():
        """Resampled to the smaller pixel: values as scipy has them, geometry as dcm2niix reads it, spots where they were."""
        volume, spots = blobs(shape, pixel, 4.0)
        row, column, advance = TURNED.T
        write('in', volume, row, column, advance, pixel, 4.0)
        if options.get('varies'):
            for path in files_of('in'):
                d = pydicom.dcmread(path)
                d.RescaleSlope, d.RescaleIntercept = '%.6g' % (1 + 0.1 * int(d.InstanceNumber)), '-7'
                d.save_as(path)
        planes = derive()
        print(run(os.path.join(HERE, 'check_derived.sh'), 'in', 'out'))
        fine = min(pixel)
        size = [int((n - 1) * p / fine + 1e-4) + 1 for n, p in zip(shape[1:], pixel)]
        for d in planes:
            equal([float(v) for v in d.PixelSpacing], [fine, fine], 'pixel spacing')
            equal([d.Rows, d.Columns], size, 'rows and columns')
            equal(list(d.ImageType), ['DERIVED', 'SECONDARY', 'OTHER', 'RESAMPLED'], 'Image Type')
            what = '%s resampled from %.3f to %.3f mm (cubic B-spline)' % ('rows' if pixel[0] > fine else 'columns', max(pixel), fine)
            check(what in d.DerivationDescription, d.DerivationDescription)
        off = numpy.linalg.norm(numpy.array(planes[0].ImagePositionPatient, float) - CORNER)
        check(off < 1e-4, 'the first plane lies %g mm off' % off)
        if options.get('varies'):
            return
        values, where = numpy.stack([d.pixel_array for d in planes]), places(planes)
        for z, y, x in spots:
            at = CORNER + z * advance + y * column + x * row
            _, centre = find(values, where, at, 3.0)
            check(numpy.linalg.norm(centre - at) < fine / 2, 'a spot lies %s mm off' % (centre - at))
    return test


def kept_and_refused():
    """1 : 1.5 is kept to the last value; beyond 1 : 4 is refused."""
    for pixel in ((1.2, 0.8), (0.8, 1.2)):
        volume, _ = blobs((9, 12, 15), pixel, 4.0)
        write('in', volume, *TURNED.T, pixel, 4.0)
        planes = derive('spacing=4')
        equal(len(planes), 9, 'planes')
        for k, d in enumerate(planes):
            equal([float(v) for v in d.PixelSpacing], list(pixel), 'pixel spacing')
            check((d.pixel_array == volume[k]).all(), 'values of plane %d' % k)
            check('resampled from' not in d.DerivationDescription, d.DerivationDescription)
    for pixel, verdict in (((0.81, 3.2), 'OK'), ((0.8, 3.21), 'NON_SQUARE_PIXELS')):
        volume, _ = blobs((9, 12, 15), pixel, 4.0)
        write('in', volume, *TURNED.T, pixel, 4.2)
        item, = json.loads(isoslice('inspect', '--json', 'in', ok=(0, 3)).stdout)
        equal(item['verdict'], verdict, str(pixel))
    check('NON_SQUARE_PIXELS' in refusal(), 'derived')


def run_says_so():
    """isoslice run over pixels far from square; inspect foresees its grid, the report says what was done."""
    volume, _ = blobs((8, 24, 60), (1.8, 0.6), 4.0)
    write('in', volume, *TURNED.T, (1.8, 0.6), 4.0)
    item, = json.loads(isoslice('inspect', '--json', 'in').stdout)
    equal((item['rows'], item['columns'], item['pixel_mm']), (70, 60, [0.6, 0.6]), 'the grid')
    isoslice('new-weights', 'start.safetensors')
    isoslice('run', '--no-finetune', '--fallback', '--weights', 'start.safetensors', '--report', 'r.json', 'in', 'done')
    report, = json.load(open('r.json'))
    equal(report['size'], [8, 70, 60], 'size')
    check('resampled in plane to 0.600 mm: no plane keeps its stored values' in report['warnings'], report['warnings'])
    check('factor 7; none along the rows, which were resampled' in json.dumps(report), report)
    out, = glob.glob('done/*')
    equal(len(files_of(out)), item['planes'], 'planes')
    print(run(os.path.join(HERE, 'check_derived.sh'), 'in', out, 'values=any'))


TESTS = {'peer.geometry.landmarks_48': landmarks, 'peer.geometry.oblong_rows': oblong((1.8, 0.6), (9, 14, 40)),
         'peer.geometry.oblong_columns': oblong((0.7, 1.6), (9, 30, 15)),
         'peer.geometry.oblong_rescale_varies': oblong((2.0, 0.5), (9, 12, 40), varies=1),
         'peer.geometry.oblong_kept_and_refused': kept_and_refused, 'peer.geometry.oblong_run': run_says_so}

if __name__ == '__main__':
    run_named(TESTS)
