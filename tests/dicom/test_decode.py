# SPDX-License-Identifier: Apache-2.0
"""Compressed series, decoded by us and by others, bit for bit: what one implementation has compressed (DCMTK, GDCM, ffmpeg),
we and another decode to the original values. Kinds of pixels: 8 bit of odd size, 12 in 16, 16 with and without sign, 12 with
sign; codestreams in one fragment and in several, with and without offset table. Real series likewise.

Environment: ISOSLICE_BIN (build folder), ISOSLICE_SHARED (real data).
"""
import glob
import os
import shutil
import struct
import subprocess
import sys

import numpy
import pydicom
from pydicom.encaps import encapsulate, generate_pixel_data_fragment
from pydicom.filebase import DicomBytesIO
from pydicom.uid import UID

sys.path += [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'node')]
import make_series
from support import check, equal, files_of, run_named, shared_series

BUILD = os.path.join(os.environ['ISOSLICE_BIN'], 'tests', 'dicom')
# name -> (bits allocated, bits stored, signed, rows, columns)
KINDS = {'u8_odd': (8, 8, 0, 21, 19), 'u12': (16, 12, 0, 20, 24), 'u16_odd': (16, 16, 0, 23, 37), 's16': (16, 16, 1, 32, 20),
         's12_odd': (16, 12, 1, 17, 21)}
# Compressors of each syntax. DCMTK's for lossless JPEG takes no signs of 16 bits; GDCM's knows selection value 1 only.
CODERS = {
    'jpeg57': ('1.2.840.10008.1.2.4.57', [['dcmcjpeg', '+el', '+sv', '4']]),
    'jpeg70': ('1.2.840.10008.1.2.4.70', [['dcmcjpeg', '+e1'], ['gdcmconv', '--jpeg']]),
    'jpegls': ('1.2.840.10008.1.2.4.80', [['dcmcjpls', '+el'], ['gdcmconv', '--jpegls']]),
    'rle': ('1.2.840.10008.1.2.5', [['dcmcrle'], ['gdcmconv', '--rle']]),
    'j2k': ('1.2.840.10008.1.2.4.90', [['gdcmconv', '--j2k'], ['ffmpeg']]),
}
DECODERS = {'jpeg57': [['dcmdjpeg'], ['gdcmconv', '--raw']], 'jpeg70': [['dcmdjpeg'], ['gdcmconv', '--raw']],
            'jpegls': [['dcmdjpls'], ['gdcmconv', '--raw']], 'rle': [['dcmdrle'], ['gdcmconv', '--raw']], 'j2k': [['gdcmconv', '--raw']]}


def run(*command, **more):
    done = subprocess.run(command, capture_output=True, **more)
    check(done.returncode == 0, '%s: exit %d\n%s' % (' '.join(command), done.returncode, done.stderr.decode(errors='replace')))
    return done.stdout


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder


def series(folder, kind, n=6):
    """A series of that kind; runs, a slope, every extreme and rubbish in each image."""
    allocated, stored, signed, rows, columns = KINDS[kind]
    make_series.N = n
    make_series.make('bare', fresh(folder))
    rng = numpy.random.default_rng(7)
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    for path in files_of(folder):
        d = pydicom.dcmread(path)
        values = numpy.clip(numpy.add.outer(numpy.arange(rows), numpy.arange(columns)) * (high - low) // 60 + low, low, high)
        values[rows // 3: rows // 2] = 5
        values[rows // 2: rows // 2 + 4] = rng.integers(low, high + 1, (4, columns))
        values[0, :4], values[-1, -4:] = (low, high, low, high), (high, high, low, int(d.InstanceNumber))
        d.Rows, d.Columns, d.BitsAllocated, d.BitsStored, d.HighBit = rows, columns, allocated, stored, stored - 1
        d.PixelRepresentation = signed
        data = values.astype('<i%d' % (allocated // 8)).tobytes()
        d.PixelData = data + bytes(len(data) % 2)
        d['PixelData'].VR = 'OB' if allocated == 8 else 'OW'
        if allocated == 16:  # bits above those stored: zero
            words = numpy.frombuffer(data, '<u2') & ((1 << stored) - 1)
            d.PixelData = words.astype('<u2').tobytes()
        d.save_as(path)


def values_of(path):
    """Stored values of one native object, by numpy alone."""
    d = pydicom.dcmread(path)
    check(not d.file_meta.TransferSyntaxUID.is_compressed, '%s is still compressed' % path)
    n = d.Rows * d.Columns
    raw = numpy.frombuffer(d.PixelData, '<u%d' % (d.BitsAllocated // 8))[:n].astype(numpy.int64) & ((1 << d.BitsStored) - 1)
    if d.PixelRepresentation:
        raw = numpy.where(raw >> (d.BitsStored - 1), raw - (1 << d.BitsStored), raw)
    return raw.reshape(d.Rows, d.Columns)


def position_of(path):
    d = pydicom.dcmread(path, stop_before_pixels=True)
    row, column = numpy.array(d.ImageOrientationPatient[:3], float), numpy.array(d.ImageOrientationPatient[3:], float)
    return float(numpy.cross(row, column) @ numpy.array(d.ImagePositionPatient, float))


def others(folder):
    """The values of a native series, in order of position."""
    return numpy.stack([values_of(p) for p in sorted(files_of(folder), key=position_of)])


def ours(folder):
    shape = [int(v) for v in run(BUILD + '/dump_voxels', folder, 'voxels').split()]
    return numpy.fromfile('voxels', '<i4').reshape(shape)


def same(got, want, what):
    equal(got.shape, want.shape, what + ': shape')
    wrong = int((got != want).sum())
    check(wrong == 0, '%s: %d of %d values differ' % (what, wrong, want.size))


def fragments_of(d):
    data = DicomBytesIO(d.PixelData)
    data.is_little_endian = True
    data.seek(8 + struct.unpack('<4xI', data.read(8))[0])  # past the offset table
    return list(generate_pixel_data_fragment(data))


def ffmpeg_j2k(source, target):
    """One image in JPEG 2000 by ffmpeg's own encoder, in tiles; it has no signs and whole words."""
    d = pydicom.dcmread(source)
    raw = d.PixelData[:d.Rows * d.Columns * (d.BitsAllocated // 8)]
    stream = run('ffmpeg', '-loglevel', 'error', '-f', 'rawvideo', '-pix_fmt', 'gray' if d.BitsAllocated == 8 else 'gray16le', '-s',
                 '%dx%d' % (d.Columns, d.Rows), '-i', '-', '-c:v', 'jpeg2000', '-format', 'j2k', '-pred', '1', '-tile_width', '16',
                 '-tile_height', '16', '-f', 'image2pipe', '-', input=raw)
    d.BitsStored, d.HighBit = d.BitsAllocated, d.BitsAllocated - 1
    d.PixelData = encapsulate([stream])
    d['PixelData'].is_undefined_length = True
    d['PixelData'].VR = 'OB'
    d.file_meta.TransferSyntaxUID = UID(CODERS['j2k'][0])
    d.save_as(target)


def by_ffmpeg(folder):
    """The values that ffmpeg's own decoder finds in a series of JPEG 2000. The measure for what its encoder makes: of more than
    8 bits that is not always what went in (seen in 5.1 by its own decoder)."""
    planes = []
    for path in sorted(files_of(folder), key=position_of):
        d = pydicom.dcmread(path)
        raw = run('ffmpeg', '-loglevel', 'error', '-f', 'j2k_pipe', '-i', '-', '-f', 'rawvideo', '-pix_fmt',
                  'gray' if d.BitsAllocated == 8 else 'gray16le', '-', input=b''.join(fragments_of(d)))
        planes.append(numpy.frombuffer(raw, '<u%d' % (d.BitsAllocated // 8)).reshape(d.Rows, d.Columns) & ((1 << d.BitsStored) - 1))
    return numpy.stack(planes).astype(numpy.int64)


def compress(coder, source, target):
    for path in files_of(source):
        to = os.path.join(target, os.path.basename(path))
        if coder[0] == 'ffmpeg':
            ffmpeg_j2k(path, to)
        else:
            run(*coder, path, to)


def repack(source, target, n_fragments, has_table):
    for path in files_of(source):
        d = pydicom.dcmread(path)
        stream = b''.join(fragments_of(d))
        d.PixelData = encapsulate([stream], fragments_per_frame=n_fragments, has_bot=has_table)
        d['PixelData'].is_undefined_length = True
        d.save_as(os.path.join(target, os.path.basename(path)))


def is_known(coder, kind):
    """What the compressor can do."""
    if coder[0] == 'dcmcjpeg':
        return not KINDS[kind][2]
    if coder[0] == 'ffmpeg':
        return not KINDS[kind][2]
    return coder != ['gdcmconv', '--rle'] or kind != 'u8_odd'  # it asserts on odd numbers of bytes


def decode(syntax, kind):
    uid, coders = CODERS[syntax]
    series('plain', kind)
    original = others('plain')
    same(ours('plain'), original, 'native')
    n = 0
    for coder in coders:
        if not is_known(coder, kind):
            continue
        n += 1
        what = '%s %s' % (' '.join(coder), kind)
        compress(coder, 'plain', fresh('coded'))
        for path in files_of('coded'):
            equal(str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID), uid, what)
        want = by_ffmpeg('coded') if coder[0] == 'ffmpeg' else original
        if KINDS[kind][0] == 8:
            same(want, original, what + ': what was compressed')
        same(ours('coded'), want, what)
        for decoder in DECODERS[syntax]:
            fresh('decoded')
            for path in files_of('coded'):
                run(*decoder, path, 'decoded/' + os.path.basename(path))
            same(others('decoded'), want, what + ' by ' + decoder[0])
        for n_fragments in ((1,) if syntax == 'rle' else (1, 2, 5)):  # RLE: one a frame
            for has_table in (False, True):
                repack('coded', fresh('packed'), n_fragments, has_table)
                same(ours('packed'), want, '%s in %d fragments, table %d' % (what, n_fragments, has_table))
    check(n > 0 or syntax == 'jpeg57', 'nothing compressed %s' % kind)
    if n == 0:
        jpeg57_with_sign(original)


def jpeg57_with_sign(want):
    """No compressor here makes selection values with signs: the lossless JPEG of GDCM under the general syntax."""
    compress(['gdcmconv', '--jpeg'], 'plain', fresh('coded'))
    for path in files_of('coded'):
        d = pydicom.dcmread(path)
        d.file_meta.TransferSyntaxUID = UID(CODERS['jpeg57'][0])
        d.save_as(path)
    same(ours('coded'), want, 'signed, under the general syntax')


def real_as_sent(name):
    """A real series in the compression it came in: ours, DCMTK's and GDCM's values."""
    folder = shared_series(name)
    got = ours(folder)
    for decoder in ['dcmdjpeg'], ['gdcmconv', '--raw']:
        fresh('decoded')
        for n, path in enumerate(files_of(folder)):
            run(*decoder, path, 'decoded/%d.dcm' % n)
        same(got, others('decoded'), '%s by %s' % (name, decoder[0]))


def real_compressed(name):
    """A real uncompressed series compressed by GDCM in each way."""
    folder = shared_series(name)
    want = others(folder)
    same(ours(folder), want, name)
    for syntax in ('jpeg70', 'jpegls', 'rle', 'j2k'):
        compress(CODERS[syntax][1][-1] if syntax != 'j2k' else CODERS['j2k'][1][0], folder, fresh('coded'))
        same(ours('coded'), want, '%s as %s' % (name, syntax))


def derived_bytes_are_the_same():
    """Uncompressed and compressed in the five ways, by tools that leave the header alone: the same derived objects, byte for
    byte, UIDs included: they depend on the decoded values."""
    series('plain', 'u12', 8)
    run(BUILD + '/derive_series', 'plain', fresh('out'))
    want = {os.path.basename(p): open(p, 'rb').read() for p in files_of('out')}
    check(len(want) > 20, 'only %d derived objects' % len(want))
    for syntax, (_, coders) in CODERS.items():
        coder = coders[0]
        compress(coder, 'plain', fresh('coded'))
        if syntax == 'j2k':  # only the pixels of GDCM's objects, in the header that was
            for path in files_of('coded'):
                d, coded = pydicom.dcmread('plain/' + os.path.basename(path)), pydicom.dcmread(path)
                d.file_meta.TransferSyntaxUID, d.PixelData = coded.file_meta.TransferSyntaxUID, coded.PixelData
                d['PixelData'].VR, d['PixelData'].is_undefined_length = 'OB', True
                d.save_as(path)
        run(BUILD + '/derive_series', 'coded', fresh('out'))
        got = {os.path.basename(p): open(p, 'rb').read() for p in files_of('out')}
        equal(sorted(got), sorted(want), syntax + ': names')
        different = [name for name in want if got[name] != want[name]]
        equal(different, [], syntax + ': derived objects that differ')


def refusal(folder):
    done = subprocess.run([BUILD + '/dump_voxels', folder, 'voxels'], capture_output=True, text=True)
    check(done.returncode == 1, 'dump_voxels: exit %d' % done.returncode)
    return done.stderr


def lossy_is_refused():
    """Lossy codestreams under the lossless syntaxes, by other compressors, and the lossy syntaxes themselves."""
    series('plain', 'u12')
    for path in files_of('plain'):
        d = pydicom.dcmread(path)
        d.PixelData = encapsulate([run('ffmpeg', '-loglevel', 'error', '-f', 'rawvideo', '-pix_fmt', 'gray16le', '-s', '24x20', '-i', '-',
                                       '-c:v', 'jpeg2000', '-format', 'j2k', '-pred', '0', '-f', 'image2pipe', '-', input=d.PixelData)])
        d['PixelData'].VR, d['PixelData'].is_undefined_length = 'OB', True
        d.file_meta.TransferSyntaxUID = UID(CODERS['j2k'][0])
        os.makedirs('coded', exist_ok=True)
        d.save_as('coded/' + os.path.basename(path))
    check('LOSSY' in refusal('coded') and 'wavelet 0' in refusal('coded'), refusal('coded'))
    for coder, lossless in ((['dcmcjpls', '+en', '+md', '3'], 'jpegls'), (['dcmcjpeg', '+ee'], 'jpeg57')):
        compress(coder, 'plain', fresh('coded'))
        check('DERIVED' in refusal('coded') or 'TRANSFER_SYNTAX' in refusal('coded'), refusal('coded'))
        for path in files_of('coded'):
            d, plain = pydicom.dcmread(path), pydicom.dcmread('plain/' + os.path.basename(path))
            d.ImageType, d.SOPInstanceUID, d.BitsStored, d.HighBit = plain.ImageType, plain.SOPInstanceUID, 12, 11
            d.PhotometricInterpretation = 'MONOCHROME2'
            d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
            d.save_as(path)
        check('TRANSFER_SYNTAX' in refusal('coded'), refusal('coded'))
        for path in files_of('coded'):
            d = pydicom.dcmread(path)
            d.file_meta.TransferSyntaxUID = UID(CODERS[lossless][0])
            d.save_as(path)
        check('LOSSY' in refusal('coded'), refusal('coded'))


def jpeg_2000_with_a_wrong_sign():
    """Headers that say signed over unsigned codestreams are met in archives: refused, for either may be the error."""
    series('plain', 'u16_odd')
    compress(['gdcmconv', '--j2k'], 'plain', fresh('coded'))
    for path in files_of('coded'):
        d = pydicom.dcmread(path)
        d.PixelRepresentation = 1
        d.save_as(path)
    text = refusal('coded')
    check('PIXEL_SIZE' in text and 'the codestream is unsigned, the header says signed' in text, text)


TESTS = {'peer.decode.%s.%s' % (syntax, kind): (lambda syntax=syntax, kind=kind: decode(syntax, kind)) for syntax in CODERS for kind in KINDS}
TESTS.update({'peer.decode.real.' + name: (lambda name=name: real_as_sent(name)) for name in
              ('siemens_t1_sag_jpegll', 'siemens_t1_ax_jpegll', 'siemens_t2_ax_jpegll', 'siemens_flair_ax_jpegll')})
TESTS.update({'peer.decode.compressed.' + name: (lambda name=name: real_compressed(name)) for name in
              ('siemens_t1_sag', 'philips_t1_phantom', 'ge_pd_oblique_uneven')})
TESTS.update({'peer.decode.derived_bytes_are_the_same': derived_bytes_are_the_same, 'peer.decode.lossy_is_refused': lossy_is_refused,
              'peer.decode.j2k_with_a_wrong_sign': jpeg_2000_with_a_wrong_sign})

if __name__ == '__main__':
    run_named(TESTS)
