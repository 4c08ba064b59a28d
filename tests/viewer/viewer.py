# SPDX-License-Identifier: Apache-2.0
"""Series as a viewer shows them, and whether that is what their files say and what their source looks like.

look() opens series side by side in Cornerstone3D in Chromium; belies() compares what the viewer reports of one series with
pydicom's reading of its files; departs() compares a derived series with its source, both as the viewer has them. The
last two return what is wrong, one sentence each. Everything is in mm in the patient's axes (LPS).
"""
import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pydicom
from scipy import ndimage

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'node'))
from support import *

NEAR_MM = 30  # the neighbourhood of the crosshair in which a derived series is laid over its source


class Files:
    """A series as pydicom reads it: the files sorted along the normal, which positions decide alone."""

    def __init__(self, paths):
        images = [(pydicom.dcmread(path), path) for path in paths]
        first = images[0][0]
        self.row, self.column = (np.array(first.ImageOrientationPatient[i:i + 3], float) for i in (0, 3))
        self.normal = np.cross(self.row, self.column)
        images.sort(key=lambda pair: self.normal @ np.array(pair[0].ImagePositionPatient, float))
        self.paths = [path for _, path in images]
        self.positions = np.array([image.ImagePositionPatient for image, _ in images], float)
        along = self.positions @ self.normal
        self.spacing = np.array([first.PixelSpacing[1], first.PixelSpacing[0], (along[-1] - along[0]) / (len(along) - 1)], float)
        self.windows = [self.window(image) for image, _ in images]
        self.frame = str(first.FrameOfReferenceUID)
        self.voxels = np.stack([self.values(image, path) for image, path in images])  # [slice, row, column]

    @staticmethod
    def window(image):
        """(center, width) as the file gives it; None where it gives none."""
        first = lambda value: float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)
        if image.get('WindowWidth') in (None, '') or first(image.WindowWidth) == 0:
            return None
        return first(image.WindowCenter), first(image.WindowWidth)

    @staticmethod
    def values(image, path):
        if image.file_meta.TransferSyntaxUID.is_compressed:
            subprocess.run(['dcmdjpeg', path, 'decoded.dcm'], check=True)
            image = pydicom.dcmread('decoded.dcm')
            os.unlink('decoded.dcm')
        return image.pixel_array * float(image.get('RescaleSlope', 1)) + float(image.get('RescaleIntercept', 0))

    def middle(self):
        """The middle of the middle one of the acquired slices."""
        n, rows, columns = self.voxels.shape
        return self.positions[(n - 1) // 2] + self.row * self.spacing[0] * (columns // 2) + self.column * self.spacing[1] * (rows // 2)


class Shown:
    """A series as the viewer reports it."""

    def __init__(self, report, paths, voxels):
        self.__dict__.update(report)
        self.paths = [paths[i] for i in self.order]
        self.spacing, self.origin = np.array(self.spacing), np.array(self.origin)
        self.axes = np.array(self.direction).reshape(3, 3)  # of a row, of a column, of the stack
        self.voxels = np.fromfile(voxels, '<f4').reshape(self.dimensions[::-1])

    def world(self, index):
        """mm of indices [..., 3] (column, row, slice)."""
        return self.origin + (index * self.spacing) @ self.axes

    def index(self, world):
        return ((world - self.origin) @ self.axes.T) / self.spacing

    def sample(self, world):
        """Values at positions [..., 3], linear between voxels; not a number outside."""
        index = self.index(world)
        # a position on the outermost voxels is inside in spite of the viewer's single precision
        index = np.where(np.abs(index - np.round(index)) < 1e-4, np.round(index), index)
        return ndimage.map_coordinates(self.voxels.astype(float), np.moveaxis(index, -1, 0)[::-1], order=1, cval=np.nan)


def look(series, at, picture, modules):
    """Opens series, {name: paths}, in the order of their names' appearance, each one's files in an order that says nothing.

    Writes the picture. Returns ({name: Shown}, the viewer's whole report). Works in the folder viewer/ of the current one.
    """
    work = os.path.abspath('viewer')
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work + '/profile')
    shuffled = {name: random.Random(len(paths)).sample(paths, len(paths)) for name, paths in series.items()}
    with open(work + '/job.json', 'w') as f:
        json.dump({'chromium': os.environ.get('CHROMIUM', 'chromium'), 'modules': modules, 'profile': work + '/profile', 'voxels': work,
                   'at': list(at), 'series': {name: [os.path.abspath(p) for p in paths] for name, paths in shuffled.items()},
                   'picture': os.path.abspath(picture)}, f)
    done = subprocess.run(['node', os.path.join(HERE, 'browse.js'), work + '/job.json'], capture_output=True, text=True, timeout=240)
    check(done.returncode == 0, 'browse.js: exit %d\n%s%s' % (done.returncode, done.stdout, done.stderr))
    report = json.loads(done.stdout)
    shown = {name: Shown(report['series'][name], shuffled[name], '%s/%s.f32' % (work, name)) for name in series}
    shutil.rmtree(work)
    return shown, report


def far(got, want, limit):
    return not np.all(np.abs(np.asarray(got, float) - np.asarray(want, float)) <= limit)


def window_limits(window):
    """Lower and upper value of a window, PS3.3 section C.11.2.1.2."""
    center, width = window
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def belies(shown, files, at):
    """What the viewer says of a series other than its files do."""
    wrong = []

    def compare(what, got, want, limit):
        if far(got, want, limit):
            wrong.append('%s: the viewer has %s, the files %s' % (what, got, want))

    n, rows, columns = files.voxels.shape
    compare('columns, rows, planes', shown.dimensions, [columns, rows, n], 0)
    compare('spacing', shown.spacing, files.spacing, 1e-4)
    compare('orientation', shown.axes, [files.row, files.column, files.normal], 1e-5)
    compare('position of the first plane', shown.origin, files.positions[0], 1e-3)
    if shown.frameOfReference != files.frame:
        wrong.append('frame of reference: the viewer has %s, the files %s' % (shown.frameOfReference, files.frame))
    if shown.paths != files.paths:
        plane = next(i for i, pair in enumerate(zip(shown.paths, files.paths)) if pair[0] != pair[1])
        wrong.append('order of the planes: the viewer has %s as plane %d, by the positions that is %s' %
                     (shown.paths[plane], plane + 1, files.paths[plane]))
    if wrong:
        return wrong
    compare('voxels', np.abs(shown.voxels - files.voxels).max(), 0, 1e-6 * np.abs(files.voxels).max() if files.voxels.dtype.kind == 'f' else 0)
    for got, want in zip(shown.windows, files.windows):
        if want:
            compare('window of a file', got, want, 1e-3)
    middle = files.windows[n // 2]
    limits = window_limits(middle) if middle else (files.voxels[n // 2].min(), files.voxels[n // 2].max())
    index = shown.index(np.array(at))
    nearest = [files.voxels[k, j, i] for k in {round(index[2] - 0.01), round(index[2] + 0.01)}
               for j in {round(index[1] - 0.01), round(index[1] + 0.01)} for i in {round(index[0] - 0.01), round(index[0] + 0.01)}]
    for number, view in enumerate(shown.views):
        name = 'view %d, ' % (number + 1)
        compare(name + 'window', [view['window']['lower'], view['window']['upper']], limits, 1e-3 * (1 + abs(limits[1])))
        compare(name + 'position at the crosshair', view['position'], at, 0.01)
        compare(name + 'distance of the plane from the crosshair', view['offPlane'], 0, 0.01)
        if min(abs(view['value'] - v) for v in nearest) > 1e-6 * max(1, abs(view['value'])):
            wrong.append('%svalue at the crosshair: the viewer has %g, the files %s' % (name, view['value'], nearest))
        # On the screen: the interpolated value through the window, somewhere within a screen pixel's reach.
        reach = view['mmPerPixel'] * np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
        right = np.cross(view['up'], view['normal'])
        values = shown.sample(np.array(at) + reach @ np.array([right, view['up']]))
        levels = np.clip(255 * (values - limits[0]) / (limits[1] - limits[0]), 0, 255)
        if not np.nanmin(levels) - 3 <= view['grey'] <= np.nanmax(levels) + 3:
            wrong.append('%sgrey level at the crosshair: %g, should be %.0f to %.0f' % (name, view['grey'], np.nanmin(levels), np.nanmax(levels)))
    return wrong


def departs(derived, source, at, linear=False, cross=False):
    """How a derived series is not where, or does not look as, its source is and does, both as the viewer has them.

    linear: it must be the source's linear interpolation, rounded, in every voxel. cross: its planes are another pair of the
    source's axes.
    """
    wrong = []
    if derived.frameOfReference != source.frameOfReference:
        wrong.append('frame of reference: derived %s, source %s' % (derived.frameOfReference, source.frameOfReference))
    along = np.abs(derived.axes @ source.axes.T)
    if far(derived.axes, source.axes, 1e-4) if not cross else far(along, np.round(along), 1e-4) or np.round(along[2, 2]) != 0:
        wrong.append('orientation: derived %s, source %s' % (derived.axes.tolist(), source.axes.tolist()))

    # One window for all derived planes: the source's, where that has one; the (lower) median where it has one per slice.
    have = np.array([w for w in source.windows if w[1]], float)
    if len(have):
        want = np.sort(have, axis=0)[(len(have) - 1) // 2]
        if far(derived.windows, want, 1):
            wrong.append('window: derived %s, source %s' % (derived.windows[0], want.tolist()))
        if len(np.unique(have, axis=0)) == 1 and len(have) == len(source.windows):
            for got, want in zip(derived.views, source.views):
                if far([got['window'][end] for end in ('lower', 'upper')], [want['window'][end] for end in ('lower', 'upper')], 1):
                    wrong.append('window on the screen: derived %s, source %s' % (got['window'], want['window']))
    elif any(w[1] for w in derived.windows):
        wrong.append('window: derived %s, source none' % derived.windows[0])

    index = np.stack(np.meshgrid(*(np.arange(n) for n in derived.dimensions), indexing='ij'), -1).reshape(-1, 3)
    world = derived.world(index)
    values = derived.voxels.transpose(2, 1, 0).reshape(-1)
    if linear:
        apart = np.abs(values - source.sample(world))
        if not np.nanmax(apart) <= 0.501 or np.isnan(apart).any():
            wrong.append('values: up to %g from the linear interpolation of the source, %d of %d outside of it' %
                         (np.nanmax(apart), np.isnan(apart).sum(), len(apart)))

    near = np.linalg.norm(world - at, axis=1) <= NEAR_MM
    world, values = world[near], values[near]
    if len(values) < 1000:
        return wrong + ['position: %d derived voxels within %d mm of the crosshair' % (len(values), NEAR_MM)]
    if len(values) > 15000:
        keep = np.random.default_rng(1).choice(len(values), 15000, replace=False)
        world, values = world[keep], values[keep]
    there = source.sample(world)
    inside = np.isfinite(there)
    alike = np.corrcoef(values[inside], there[inside])[0, 1]
    if not alike >= 0.9:
        wrong.append('content: its correlation with the source around the crosshair is %.3f' % alike)
    span = source.views[0]['window']['upper'] - source.views[0]['window']['lower']
    brighter = (values[inside].mean() - there[inside].mean()) / span
    if not abs(brighter) <= 0.05:
        wrong.append('values: around the crosshair they are %+.1f %% of the window from the source' % (100 * brighter))
    offset = offset_mm(source, world, values)
    if far(offset, 0, derived.spacing / 2):
        wrong.append('position: what lies around the crosshair is displaced by %s mm along rows, columns and stack' %
                     ', '.join('%.2f' % x for x in offset))
    return wrong


def offset_mm(source, world, values, reach_mm=6.0, step_mm=0.5):
    """How far, along each of the source's axes, content lies from where the source has it; at most about reach_mm.

    Coordinate descent on the mean squared difference, twice round."""
    steps = np.arange(-reach_mm, reach_mm + step_mm / 2, step_mm)
    offset = np.zeros(3)
    for axis in [0, 1, 2] * 2:
        base = world - offset @ source.axes
        misfit = np.array([np.nanmean((source.sample(base - step * source.axes[axis]) - values) ** 2) for step in steps])
        best = min(max(int(np.argmin(misfit)), 1), len(steps) - 2)
        a, b, c = misfit[best - 1:best + 2]  # the bottom of the parabola through three
        offset[axis] += steps[best] + np.clip(step_mm * 0.5 * (a - c) / max(a - 2 * b + c, 1e-30), -step_mm, step_mm)
    return offset


def modules_folder(folder):
    """The viewer's node_modules, installed into folder as package-lock.json says."""
    return os.path.join(npm_folder(HERE, folder), 'node_modules')
