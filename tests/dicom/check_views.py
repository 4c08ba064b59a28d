# SPDX-License-Identifier: Apache-2.0
"""check_views.py SOURCE PLANES VIEW NAME: is VIEW the series PLANES, derived from SOURCE, shown in NAME planes?

dciodvfy and dcentvfy as in check_derived.py. Every voxel of the view lies, by its headers, within 1e-4 mm of one of the
planes' voxels and has its stored value; all of them are there. dcm2niix makes the same volume of both. Rows and columns
run as readers expect. Everything that is not about geometry is as in PLANES. Prints what is wrong and ends with 1.
"""
import glob
import os
import sys
import tempfile

import nibabel
import numpy as np
import pydicom

import check_derived
from check_derived import fail, read_source, run

# across, along rows, along columns: axis of the patient and sense
READERS = {"sagittal": ((0, 1), (1, 1), (2, -1)), "coronal": ((1, 1), (0, 1), (2, -1)), "axial": ((2, 1), (0, 1), (1, 1))}
OWN = {"SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ImageType", "DerivationDescription",
       "DerivationCodeSequence", "ImageComments", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing",
       "SliceThickness", "SpacingBetweenSlices", "SliceLocation", "InstanceNumber", "Rows", "Columns", "PixelData",
       "SmallestImagePixelValue", "LargestImagePixelValue", "AcquisitionMatrix", "InPlanePhaseEncodingDirection"}


def vector(values):
    return np.array(values, float)


class Volume:
    """Images as one grid: voxel (column, row, image), from the headers alone."""

    def __init__(self, images):
        self.images = images
        first = images[0]
        axes = vector(first.ImageOrientationPatient)
        spacing = vector(first.PixelSpacing)
        self.origin = vector(first.ImagePositionPatient)
        self.across = np.cross(axes[:3], axes[3:])
        positions = np.array([vector(d.ImagePositionPatient) for d in images])
        if np.dot(positions[-1] - positions[0], self.across) < 0:
            self.across = -self.across
        self.step = float(first.SpacingBetweenSlices)
        self.axes = np.stack([axes[:3] * spacing[1], axes[3:] * spacing[0], self.across * self.step])
        self.values = np.stack([d.pixel_array for d in images]).astype(np.int64)
        line = self.origin + np.arange(len(images))[:, None] * self.axes[2]
        self.bend = np.abs(positions - line).max()

    def positions(self):
        """[image, row, column, 3] of every voxel."""
        n, rows, columns = self.values.shape
        return (self.origin + np.arange(n)[:, None, None, None] * self.axes[2] +
                np.arange(rows)[None, :, None, None] * self.axes[1] +
                np.arange(columns)[None, None, :, None] * self.axes[0])


def check_voxels(planes, view):
    if view.values.size != planes.values.size:
        fail("%d voxels, not %d" % (view.values.size, planes.values.size))
        return
    places = view.positions().reshape(-1, 3)
    index = (places - planes.origin) @ np.linalg.inv(planes.axes)
    whole = np.rint(index).astype(int)
    worst = np.abs((index - whole) @ planes.axes).max()
    print("voxels lie within %.2g mm of the planes', which are straight to %.2g mm" % (worst, planes.bend))
    if worst > 1e-4:
        fail("a voxel lies %g mm from the planes' voxel" % worst)
    if view.bend > 1e-4:
        fail("the view's images are off their line by %g mm" % view.bend)
    size = np.array(planes.values.shape[::-1])
    if (whole < 0).any() or (whole >= size).any():
        fail("voxels outside the planes")
        return
    flat = (whole[:, 2] * size[1] + whole[:, 1]) * size[0] + whole[:, 0]
    if len(np.unique(flat)) != len(flat):
        fail("voxels of the planes are missing in the view")
    different = int(np.sum(planes.values.reshape(-1)[flat] != view.values.reshape(-1)))
    if different:
        fail("%d of %d voxels have another value" % (different, len(flat)))


def nifti(folder, scratch, name):
    run("dcm2niix", "-b", "n", "-z", "n", "-o", scratch, "-f", name, folder)
    found = glob.glob(os.path.join(scratch, name + "*.nii"))
    if len(found) != 1:
        fail("dcm2niix made %d volumes of %s" % (len(found), folder))
        return None
    return nibabel.load(found[0])


def check_nifti(planes_dir, view_dir, bend):
    with tempfile.TemporaryDirectory() as scratch:
        a, b = nifti(planes_dir, scratch, "planes"), nifti(view_dir, scratch, "view")
        if a is None or b is None:
            return
        values_a, values_b = np.asarray(a.dataobj), np.asarray(b.dataobj)
        index = np.stack(np.meshgrid(*[np.arange(n) for n in b.shape], indexing="ij"), -1).reshape(-1, 3)
        world = index @ b.affine[:3, :3].T + b.affine[:3, 3]
        in_a = (world - a.affine[:3, 3]) @ np.linalg.inv(a.affine[:3, :3]).T
        whole = np.rint(in_a).astype(int)
        off = np.abs((in_a - whole) @ a.affine[:3, :3].T).max()
        # float32 affines; and dcm2niix takes the last plane's position too, which the view's line leaves out
        if off > 5e-3 + 2 * bend:
            fail("dcm2niix sees the view %g mm from the planes" % off)
        if (whole < 0).any() or (whole >= np.array(a.shape)).any() or values_a.size != values_b.size:
            fail("dcm2niix sees volumes of %s and %s" % (a.shape, b.shape))
        elif (values_a[tuple(whole.T)] != values_b.reshape(-1)).any():
            fail("dcm2niix sees other values")


def check_tags(planes, view, name):
    first, made = planes.images[0], view.images[0]
    across, along_row, along_column = READERS[name]
    axes = vector(made.ImageOrientationPatient)
    others = [other for other in READERS if other != name]
    for direction, (axis, sense), what in ((axes[:3], along_row, "rows"), (axes[3:], along_column, "columns"),
                                           (view.across, across, "images")):
        if direction[axis] * sense <= 0:
            fail("%s run to %s" % (what, direction))
    positions = [np.dot(vector(d.ImagePositionPatient), view.across) for d in view.images]
    if [int(d.InstanceNumber) for d in view.images] != list(range(1, len(view.images) + 1)) or positions != sorted(positions):
        fail("Instance Numbers do not rise with position")
    if any(abs(float(d.SliceLocation) - p) > 1e-5 for d, p in zip(view.images, positions)):
        fail("Slice Location")
    if list(made.ImageType) != ["DERIVED", "SECONDARY", "MPR", "RESAMPLED"]:
        fail("Image Type %s" % made.ImageType)
    if [i.CodeValue for i in made.DerivationCodeSequence] != ["113085", "113072"]:
        fail("derivation codes")
    if name not in made.DerivationDescription or any(other in made.DerivationDescription for other in others):
        fail("the description says " + made.DerivationDescription)
    short = {"sagittal": "SAG", "coronal": "COR", "axial": "AX"}[name]
    if " %s NFPD]" % short not in made.SeriesDescription or len(made.SeriesDescription) > 64:
        fail("Series Description " + made.SeriesDescription)
    if "NOT FOR PRIMARY DIAGNOSIS" not in made.ImageComments or "reformatted" not in made.ImageComments:
        fail("Image Comments")
    if made.SeriesInstanceUID == first.SeriesInstanceUID or made.SeriesNumber == first.SeriesNumber:
        fail("the view is not a series of its own")
    uids = {d.SOPInstanceUID for d in view.images} | {d.SOPInstanceUID for d in planes.images}
    if len(uids) != len(view.images) + len(planes.images):
        fail("SOP Instance UIDs are not unique")
    if {d.SeriesInstanceUID for d in view.images} != {made.SeriesInstanceUID}:
        fail("more than one series")
    if "AcquisitionMatrix" in made or "InPlanePhaseEncodingDirection" in made:
        fail("attributes of the acquired rows are kept")
    for key in {e.keyword for e in first} | {e.keyword for e in made}:
        if key not in OWN and first.get(key) != made.get(key):
            fail("%s differs from the planes'" % key)
    for d in view.images:
        if (d.SmallestImagePixelValue, d.LargestImagePixelValue) != (d.pixel_array.min(), d.pixel_array.max()):
            fail("smallest and largest value of " + d.SOPInstanceUID)
            break


def main():
    source_dir, planes_dir, view_dir, name = sys.argv[1:5]
    read = lambda folder: [pydicom.dcmread(p) for p in sorted(glob.glob(os.path.join(folder, "IM*.dcm")))]
    planes, view = Volume(read(planes_dir)), Volume(read(view_dir))
    allow = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "dciodvfy.allow")
    with tempfile.TemporaryDirectory() as scratch:
        source = read_source(source_dir, planes.images[0].ReferencedSeriesSequence[0].SeriesInstanceUID, scratch)
        check_derived.check_iod(source, sorted(glob.glob(os.path.join(view_dir, "*.dcm"))), allow)
        both = sorted(glob.glob(os.path.join(planes_dir, "*.dcm")) + glob.glob(os.path.join(view_dir, "*.dcm")))
        for line in run("dcentvfy", *[p for p, _ in source], *both)[:5]:
            fail("dcentvfy: " + line)
    check_voxels(planes, view)
    check_nifti(planes_dir, view_dir, planes.bend)
    check_tags(planes, view, name)
    print("%d images of %d x %d, %s" % (len(view.images), view.images[0].Columns, view.images[0].Rows, name))
    sys.exit(1 if check_derived.failures else 0)


main()
