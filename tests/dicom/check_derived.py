# SPDX-License-Identifier: Apache-2.0
"""check_derived.py SOURCE OUT [crop=N] [residual=R] [spacing=MM] [values=any]: is OUT a valid series derived from SOURCE?

dciodvfy prints "MRImage" and allowed lines only; dcentvfy prints nothing for both series together; dcm2niix reads one
volume with three equal spacings where the source says that it lies; every value is linear interpolation of the
source's stored values, computed here again. Prints what is wrong and ends with 1.
"""
import glob
import os
import re
import subprocess
import sys
import tempfile

import nibabel
import numpy as np
import pydicom
from scipy import ndimage

failures = []


def fail(text):
    failures.append(text)
    print("FAILED:", text)


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return [line for line in done.stdout.decode("latin-1").splitlines() if line.strip()]


def walk_uids(dataset, found):
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                walk_uids(item, found)
        elif element.VR == "UI":
            values = element.value if element.VM > 1 else [element.value]
            found.update(str(value) for value in values)


def frames_of(dataset):
    """Every frame of an Enhanced MR object as a data set that has at top level what is looked at here."""
    size = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
    shared = dataset.SharedFunctionalGroupsSequence[0]
    uids = set()
    walk_uids(dataset, uids)
    for i, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame = pydicom.Dataset()
        for element in dataset:
            if element.VR != "SQ" and element.keyword not in ("PixelData", "InstanceNumber"):
                frame.add(element)
        for macro in ("PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation"):
            for element in groups.get(macro + "Sequence", shared.get(macro + "Sequence", [pydicom.Dataset()]))[0]:
                frame.add(element)
        frame.PixelData = dataset.PixelData[i * size : (i + 1) * size]
        frame.InstanceNumber = i + 1
        frame.other_uids = sorted(uids)
        yield frame


def read_source(folder, series_uid, scratch):
    """The instances of one series, decompressed where needed, by position."""
    found = []
    for path in sorted(glob.glob(os.path.join(folder, "**", "*"), recursive=True)):
        if not os.path.isfile(path):
            continue
        try:
            dataset = pydicom.dcmread(path)
        except pydicom.errors.InvalidDicomError:
            continue
        if dataset.SeriesInstanceUID != series_uid:
            continue
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            plain = os.path.join(scratch, os.path.basename(path))
            tool = "dcmdrle" if dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.5" else "dcmdjpeg"
            if "1.2.4.90" in dataset.file_meta.TransferSyntaxUID:
                tool = "gdcmconv --raw"
            if "1.2.4.8" in dataset.file_meta.TransferSyntaxUID:
                tool = "dcmdjpls"
            subprocess.run([*tool.split(), path, plain], check=True)
            dataset = pydicom.dcmread(plain)
        if "PerFrameFunctionalGroupsSequence" in dataset:
            found += [(path, frame) for frame in frames_of(dataset)]
        else:
            found.append((path, dataset))
    first = found[0][1]
    normal = normal_of(first)
    found.sort(key=lambda pair: np.dot(np.array(pair[1].ImagePositionPatient, float), normal))
    return found


def normal_of(dataset):
    axes = np.array(dataset.ImageOrientationPatient, float)
    normal = np.cross(axes[:3], axes[3:])
    return normal / np.linalg.norm(normal)


def stored_values(dataset):
    samples = np.frombuffer(dataset.PixelData, "<u1" if dataset.BitsAllocated == 8 else "<u2")
    samples = samples[: dataset.Rows * dataset.Columns].astype(np.int64)
    samples >>= dataset.HighBit + 1 - dataset.BitsStored
    samples &= (1 << dataset.BitsStored) - 1
    if dataset.PixelRepresentation:
        samples = np.where(samples >= 1 << (dataset.BitsStored - 1), samples - (1 << dataset.BitsStored), samples)
    return samples.reshape(dataset.Rows, dataset.Columns)


def crop_of(size, crop):
    return (size - crop) // 2 if crop and size > crop else 0


def far_from_square(dataset):
    pixel = [float(v) for v in dataset.PixelSpacing]
    return max(pixel) > 1.5 * min(pixel)


def squared(dataset, values):
    """Slices resampled in plane to the smaller pixel, by scipy; kept within each slice's range."""
    pixel = [float(v) for v in dataset.PixelSpacing]
    axis = 1 if pixel[0] > pixel[1] else 2
    step = min(pixel) / max(pixel)
    at = np.arange(int((values.shape[axis] - 1) / step + 1e-4) + 1) * step
    made = ndimage.spline_filter1d(values, order=3, axis=axis, mode="mirror")
    lines = np.moveaxis(made, axis, 0)
    out = np.stack([ndimage.map_coordinates(lines[:, i, j], [at], order=3, mode="mirror", prefilter=False)
                    for i in range(lines.shape[1]) for j in range(lines.shape[2])], axis=1)
    out = np.moveaxis(out.reshape(len(at), lines.shape[1], lines.shape[2]), 0, axis)
    low, high = values.min(axis=(1, 2), keepdims=True), values.max(axis=(1, 2), keepdims=True)
    return np.clip(out, low, high).astype(np.float32).astype(float)


def check_iod(source, derived_paths, allow_path, iod="MRImage"):
    first = source[0][1]
    uids = set()
    for _, dataset in source:
        walk_uids(dataset, uids)
        uids.update(getattr(dataset, "other_uids", []))
    source_lines = set(run("dciodvfy", source[0][0]))
    slope = float(getattr(first, "RescaleSlope", 1))
    intercept = float(getattr(first, "RescaleIntercept", 0))
    varies = len({(getattr(d, "RescaleSlope", 1), getattr(d, "RescaleIntercept", 0)) for _, d in source}) > 1
    laterality = bool(getattr(first, "Laterality", ""))
    allowed = []
    with open(allow_path) as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                condition, pattern = line.rstrip("\n").split("\t")
                allowed.append((condition, re.compile(pattern)))

    def is_allowed(line):
        for condition, pattern in allowed:
            match = pattern.fullmatch(line.strip())
            if match and {
                "no_laterality": lambda: not laterality,
                "has_laterality": lambda: laterality,
                "own_uid": lambda: match.group("uid") in uids,
                "rescale": lambda: varies or slope != 1 or intercept != 0,
                "same_line": lambda: line in source_lines,
            }[condition]():
                return True
        return False

    bad = {}
    for path in derived_paths:
        lines = run("dciodvfy", path)
        if iod not in lines:
            fail("dciodvfy does not say %s of %s" % (iod, path))
        for line in lines:
            if line != iod and not is_allowed(line):
                bad[line] = bad.get(line, 0) + 1
    for line, count in sorted(bad.items()):
        fail("dciodvfy, %d times: %s" % (count, line))
    entity_lines = run("dcentvfy", *sorted({path for path, _ in source}), *derived_paths)
    for line in entity_lines[:5]:
        fail("dcentvfy: " + line)


def check_geometry(source, derived, out, scratch, crop, spacing):
    first = source[0][1]
    pixel = [float(v) for v in first.PixelSpacing]
    if far_from_square(first):
        pixel = [min(pixel)] * 2
    step = spacing or min(pixel)
    run("dcm2niix", "-b", "n", "-z", "n", "-o", scratch, "-f", "derived", out)
    volumes = glob.glob(os.path.join(scratch, "derived*.nii"))
    if len(volumes) != 1:
        fail("dcm2niix made %d volumes" % len(volumes))
        return
    image = nibabel.load(volumes[0])
    if tuple(sorted(image.shape)) != tuple(sorted((derived[0].Columns, derived[0].Rows, len(derived)))):
        fail("dcm2niix read %s" % (image.shape,))
    zooms = [float(v) for v in image.header.get_zooms()[:3]]
    want = [pixel[1], pixel[0], step]
    if any(abs(a - b) > 1e-4 * b for a, b in zip(zooms, want)):
        fail("dcm2niix reads spacings of %s, not %s" % (zooms, want))
    if not spacing and max(zooms) - min(zooms) > 1e-4 * step and abs(pixel[0] - pixel[1]) < 1e-9:
        fail("three spacings are not equal: %s" % zooms)
    # Where the corners of the volume must lie, from the source's header; its sagittal, coronal and axial axes may be
    # turned about by dcm2niix, the corners stay.
    axes = np.array(first.ImageOrientationPatient, float)
    row, column, normal = axes[:3], axes[3:], normal_of(first)
    start = np.array(first.ImagePositionPatient, float)
    start = start + row * pixel[1] * crop_of(first.Columns, crop) + column * pixel[0] * crop_of(first.Rows, crop)
    size = (derived[0].Columns - 1, derived[0].Rows - 1, len(derived) - 1)
    inputs_start = np.array(first.ImagePositionPatient, float)
    drift = np.array(source[-1][1].ImagePositionPatient, float) - np.array(first.ImagePositionPatient, float)
    along = drift / np.dot(drift, normal)
    want, got = [], []
    for i in (0, 1):
        for j in (0, 1):
            for k in (0, 1):
                lps = start + row * pixel[1] * i * size[0] + column * pixel[0] * j * size[1] + along * step * k * size[2]
                want.append(lps * (-1, -1, 1))
                corner = [i, j, k] * (np.array(image.shape[:3]) - 1)
                got.append(image.affine[:3, :3] @ corner + image.affine[:3, 3])
    worst = max(min(np.linalg.norm(a - b) for b in got) for a in want)
    # positions that do not lie on a line (GE) are followed slice by slice; one affine cannot
    bend = max(
        np.linalg.norm(np.array(d.ImagePositionPatient, float) - inputs_start - along * np.dot(
            np.array(d.ImagePositionPatient, float) - inputs_start, normal))
        for _, d in source
    )
    print("corners within %.5f mm, positions bent by %.5f mm" % (worst, bend))
    if worst > 0.005 + 2 * bend:
        fail("a corner of the volume lies %.3f mm from where the source says" % worst)


def check_tags(source, derived):
    """Orientation copied, positions straight, numbers 1..N in the source's direction, windows and ranges."""
    first = source[0][1]
    for key in ("ImageOrientationPatient", "FrameOfReferenceUID", "StudyInstanceUID", "PatientID"):
        if any(getattr(d, key) != getattr(first, key) for d in derived):
            fail(key + " is not the source's")
    if list(derived[0].ImagePositionPatient) != list(first.ImagePositionPatient) and not CROPPED:
        fail("the first plane does not lie at the first acquired one")
    numbers = [int(d.InstanceNumber) for d in derived]
    if sorted(numbers) != list(range(1, len(derived) + 1)):
        fail("Instance Numbers are not 1 to N")
    at = np.arange(len(source)) - (len(source) - 1) / 2
    rises = np.dot(at, [int(d.InstanceNumber) for _, d in source]) >= 0
    if (numbers[-1] > numbers[0]) != rises:
        fail("Instance Numbers run against the source's")
    if any("WindowWidth" in d and float(d.WindowWidth) < 1 for d in derived):
        fail("a window width below 1")
    if len({d.SOPInstanceUID for d in derived}) != len(derived) or any(
        not d.SOPInstanceUID.startswith("2.25.") for d in derived
    ):
        fail("SOP Instance UIDs are not unique ones under 2.25")
    for d in derived:
        if any(e.tag.is_private for e in d.iterall()):
            fail("a private element in " + d.SOPInstanceUID)
            break
        if (d.SmallestImagePixelValue, d.LargestImagePixelValue) != (d.pixel_array.min(), d.pixel_array.max()):
            fail("smallest and largest value of " + d.SOPInstanceUID)
            break
    claims = " ".join(str(derived[0].get(key, "")) for key in ("DerivationDescription", "SeriesDescription"))
    if str(derived[0].DerivationDescription).startswith("Inter-slice interpolation") and re.search("neural|AI|super", claims):
        fail("interpolation is said to be more than that: " + claims)
    if "NOT FOR PRIMARY DIAGNOSIS" not in derived[0].ImageComments or derived[0].ContentQualification != "RESEARCH":
        fail("it is not said that this is not for diagnosis")


def check_pixels(source, derived, crop, residual, spacing):
    first = source[0][1]
    normal = normal_of(first)
    values = np.stack([stored_values(d) for _, d in source]).astype(float)
    scales = [(float(getattr(d, "RescaleSlope", 1)), float(getattr(d, "RescaleIntercept", 0))) for _, d in source]
    varies = len(set(scales)) > 1
    top, left = crop_of(first.Rows, crop), crop_of(first.Columns, crop)
    if not far_from_square(first):
        values = values[:, top : top + derived[0].Rows, left : left + derived[0].Columns]
    if varies:
        slope, intercept = float(derived[0].RescaleSlope), float(derived[0].RescaleIntercept)
        for i, (a, b) in enumerate(scales):
            values[i] = ((a * values[i] + b - intercept) / slope).astype(np.float32)
    resampled = far_from_square(first)
    if resampled:
        values = squared(first, values)
    z = np.array([np.dot(np.array(d.ImagePositionPatient, float), normal) for _, d in source])
    step = spacing or min(float(v) for v in first.PixelSpacing)
    low = -(1 << (first.BitsStored - 1)) if first.PixelRepresentation else 0
    high = low + (1 << first.BitsStored) - 1
    if len(derived) != int(np.floor((z[-1] - z[0]) / step + 1e-6)) + 1:
        fail("%d planes of %.4f mm" % (len(derived), step))
        return
    wrong = ties = 0
    for k, plane in enumerate(derived):
        at = z[0] + k * step
        below = max(0, int(np.searchsorted(z, at + 1e-6 * step, "right")) - 1)
        t = 0.0
        if below + 1 < len(z) and at - z[below] > 1e-6 * step:
            t = (at - z[below]) / (z[below + 1] - z[below])
        exact = (1 - t) * values[below] + t * values[below + 1] if t > 0 else values[below]
        exact = exact + residual
        want = np.clip(np.rint(exact), low, high).astype(int)
        different = plane.pixel_array.astype(int) != want
        # the last digit of t is not defined by the header; where it decides a rounding, either side is right
        # (of resampled pixels also the last of a float: 65536 * 2^-24)
        tie = np.abs(np.abs(exact - np.floor(exact)) - 0.5) < (4e-3 if resampled else 1e-7)
        wrong += int(np.sum(different & ~tie)) + int(np.sum(np.abs(plane.pixel_array.astype(int) - want) > 1))
        ties += int(np.sum(different & tie))
    print("%d values, %d rounded the other way at a tie" % (values[0].size * len(derived), ties))
    if wrong:
        fail("%d values are not linear interpolation" % wrong)


if __name__ == "__main__":
    arguments = dict(argument.split("=") for argument in sys.argv[3:])
    CROPPED = int(arguments.get("crop", 0))
    out_paths = sorted(glob.glob(os.path.join(sys.argv[2], "*.dcm")))
    out = [pydicom.dcmread(path) for path in out_paths]
    with tempfile.TemporaryDirectory() as scratch_folder:
        inputs = read_source(sys.argv[1], out[0].ReferencedSeriesSequence[0].SeriesInstanceUID, scratch_folder)
        mm = float(arguments.get("spacing", 0))
        check_iod(inputs, out_paths, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "dciodvfy.allow"))
        check_geometry(inputs, out, sys.argv[2], scratch_folder, CROPPED, mm)
        check_tags(inputs, out)
        if arguments.get("values") != "any":
            check_pixels(inputs, out, CROPPED, float(arguments.get("residual", 0)), mm)
    print("%d objects checked" % len(out))
    sys.exit(1 if failures else 0)
