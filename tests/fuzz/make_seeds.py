# SPDX-License-Identifier: Apache-2.0
"""make_seeds.py OUT: first inputs for the fuzz targets, from made-up series and public compressors (dcmcjpeg, dcmcjpls,
dcmcrle, gdcmconv, ffmpeg). No real data. The committed corpus was grown from these (run --merge)."""
import glob
import os
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [HERE + '/../dicom', HERE + '/../node']
os.environ.setdefault('ISOSLICE_BIN', '.')
import make_series
import numpy
import pydicom
from pydicom.encaps import encapsulate, generate_pixel_data_fragment
from pydicom.filebase import DicomBytesIO
from support import MR, EXPLICIT, IMPLICIT, context_item, dataset_of, element, item

VERIFICATION, COMMITMENT, INSTANCE = '1.2.840.10008.1.1', '1.2.840.10008.1.20.1', '1.2.840.10008.1.20.1.1'
LOSSLESS = {'jpeg': ['dcmcjpeg', '+e1'], 'jpeg57': ['dcmcjpeg', '+el'], 'jpegls': ['dcmcjpls', '+el'], 'rle': ['dcmcrle'],
            'implicit': ['dcmconv', '+ti'], 'j2k': ['gdcmconv', '--j2k']}


def put(out, target, name, data):
    os.makedirs(os.path.join(out, target), exist_ok=True)
    with open(os.path.join(out, target, name), 'wb') as f:
        f.write(data)


def fragments_of(path):
    data = DicomBytesIO(pydicom.dcmread(path).PixelData)
    data.is_little_endian = True
    length = struct.unpack('<4xI', data.read(8))[0]  # the offset table
    data.seek(8 + length)
    return list(generate_pixel_data_fragment(data))


def packets(stream):
    """Parameters and packets of a codestream of one tile, as the target takes them."""
    cod, qcd, sod, eoc = stream.index(b'\xff\x52'), stream.index(b'\xff\x5c'), stream.index(b'\xff\x93'), stream.rindex(b'\xff\xd9')
    length = struct.unpack('>H', stream[qcd + 2:qcd + 4])[0]
    bits, levels = stream[42] & 15, stream[cod + 9]
    head = bytes([0xC0, bits, levels, stream[15] - 1, stream[11] - 1, stream[cod + 4], stream[cod + 5], stream[cod + 7] - 1,
                  *stream[cod + 10:cod + 13]])
    return head + stream[qcd + 4:qcd + 2 + length] + stream[sod + 2:eoc]


def objects(out, folder):
    """prescan, rle and j2k: one image of several kinds, in every encoding."""
    for variant in ('bare', 'full', 'signed', 'eight', 'iso2022'):
        make_series.make(variant, folder)
        path = folder + '/0.dcm'
        d = pydicom.dcmread(path)
        values = d.pixel_array.copy()
        values[:, : values.shape[1] // 2] = 7  # runs
        d.PixelData = values.tobytes() + bytes(values.nbytes % 2)
        d.save_as(path)
        put(out, 'prescan', variant, open(path, 'rb').read())
        for name, command in LOSSLESS.items():
            coded = '%s/%s-%s' % (folder, variant, name)
            if variant == 'signed' and name.startswith('jpeg5') or variant == 'signed' and name == 'jpeg':
                continue
            subprocess.run(command + [path, coded], check=True)
            put(out, 'prescan', variant + '-' + name, open(coded, 'rb').read())
            if name in ('rle', 'j2k'):
                fragments = fragments_of(coded)
                head = struct.pack('<BH', d.BitsAllocated // 8 - 1, values.size - 1) if name == 'rle' else b'\x80\0\0'
                put(out, name, variant, head + b''.join(fragments))
                if name == 'j2k':  # the same packets, in a codestream that the target builds
                    put(out, name, variant + '-packets', packets(b''.join(fragments)))
    nested = pydicom.dcmread(folder + '/0.dcm')
    for depth in (3, 15, 16, 17):
        inner = pydicom.Dataset()
        for _ in range(depth):
            outer = pydicom.Dataset()
            outer.ReferencedImageSequence = [inner]
            outer['ReferencedImageSequence'].is_undefined_length = depth % 2 == 1
            inner = outer
        nested.ReferencedImageSequence = [inner]
        nested.save_as(folder + '/nested')
        put(out, 'prescan', 'nested%d' % depth, open(folder + '/nested', 'rb').read())
    jpeg = pydicom.dcmread(folder + '/eight-jpeg')
    stream = b''.join(fragments_of(folder + '/eight-jpeg'))
    for table in (False, True):
        jpeg.PixelData = encapsulate([stream], fragments_per_frame=3, has_bot=table)
        jpeg.save_as(folder + '/fragments')
        put(out, 'prescan', 'fragments%d' % table, open(folder + '/fragments', 'rb').read())


def other_j2k(out, folder):
    """j2k: another encoder's codestreams, with tiles and progressions."""
    values = (numpy.add.outer(numpy.arange(40), numpy.arange(48)) * 300).astype('<u2')
    for kind, size, shift in (('gray', 1, 8), ('gray16le', 2, 0)):
        raw = (values >> shift).astype('<u%d' % size).tobytes()
        for n, more in enumerate(([], ['-tile_width', '16', '-tile_height', '16'], ['-prog', '2', '-sop', '1', '-eph', '1'],
                                  ['-pred', '0'])):
            done = subprocess.run(['ffmpeg', '-loglevel', 'error', '-f', 'rawvideo', '-pix_fmt', kind, '-s', '48x40', '-i', '-', '-c:v',
                                   'jpeg2000', '-format', 'j2k', '-pred', '1', *more, '-f', 'image2pipe', '-'], input=raw,
                                  capture_output=True, check=True)
            put(out, 'j2k', 'ffmpeg-%s-%d' % (kind, n), b'\x80\0\0' + done.stdout)


def stacks(out):
    for n, step in ((3, 80), (8, 80), (20, 60), (12, 10)):
        put(out, 'stack', 'plain%d-%d' % (n, step), bytes([0, 1, 2, n - 1, step, 0]))
        put(out, 'stack', 'gap%d-%d' % (n, step), bytes([1, 1, 2, n - 1, step, 1]) + bytes([0, 0] * 4 + [0x82, 0]))
        put(out, 'stack', 'copies%d-%d' % (n, step), bytes([0, 9, 9, n - 1, step, 0]) + bytes([0, 0, 0, 0, 0xF0, 0, 0xF9, 1, 0xFF, 0]))
        for bit in range(7):
            put(out, 'stack', 'odd%d-%d-%d' % (bit, n, step), bytes([0, 9, 9, n - 1, step, 3]) + bytes([0, 1 << bit, 1, 2, 3]) * n)


def configurations(out):
    sample = open(HERE + '/../../conf/isoslice.yaml').read()
    put(out, 'conf', 'sample', sample.encode())
    put(out, 'conf', 'plain', '\n'.join(line for line in sample.splitlines() if not line.strip().startswith('#')).encode())
    put(out, 'conf', 'flow', b'node: {ae_title: A, port: 104}\nsenders: [{ae_title: B, address: 10.0.0.0/8}]\n'
                             b'destinations:\n  - {name: p, ae_title: C, host: h, port: 104, tls: false}\n')
    for line in sample.splitlines():
        name = line.strip().split(':')[0]
        if name and name.isidentifier() and line.startswith('  '):
            put(out, 'conf', 'one-' + name, ('work:\n%s\n' % line).encode())


def pdu(kind, body):
    return struct.pack('<BH', kind, len(body)) + body


def request(*contexts, user=b'', calling='SENDER', called='ISOSLICE'):
    body = struct.pack('>HH', 1, 0) + called.ljust(16).encode() + calling.ljust(16).encode() + bytes(32)
    return body + item(0x10, b'1.2.840.10008.3.1.1.1') + b''.join(contexts) + \
        item(0x50, item(0x51, struct.pack('>I', 65536)) + item(0x52, b'1.2.3.4') + user)


def command(**elements):
    body = b''.join(element(0, int(tag[1:], 16), value) for tag, value in sorted(elements.items()))
    return element(0, 0, struct.pack('<I', len(body))) + body


def us(value):
    return struct.pack('<H', value)


def sessions(out, folder):
    make_series.make('bare', folder)
    data = dataset_of(folder + '/0.dcm')
    contexts = [context_item(1, MR, EXPLICIT, IMPLICIT), context_item(3, VERIFICATION, IMPLICIT), context_item(5, COMMITMENT, EXPLICIT),
                context_item(7, MR, '1.2.840.10008.1.2.4.90'), context_item(9, MR, '1.2.840.10008.1.2.4.50')]
    role = lambda scu, scp: item(0x54, struct.pack('>H', len(COMMITMENT)) + COMMITMENT.encode() + bytes([scu, scp]))
    user = role(1, 0) + item(0x53, b'\0\1\0\1') + item(0x55, b'SEEDS')
    open_ = pdu(1, request(*contexts, user=user))
    close = pdu(5, bytes(4))
    echo = pdu(4, b'\x03\x03' + command(e0002=VERIFICATION.encode(), e0100=us(0x30), e0110=us(1), e0800=us(0x101)))
    store = pdu(4, b'\x01\x03' + command(e0002=MR.encode(), e0100=us(1), e0110=us(2), e0700=us(0), e0800=us(1), e1000=b'1.2.3'))
    parts = pdu(4, b'\x01\x00' + data[:700]) + pdu(4, b'\x01\x02' + data[700:1500])
    reference = element(8, 0x1150, MR.encode()) + element(8, 0x1155, b'1.2.3')
    sequence = b'\x08\x00\x99\x11SQ\0\0' + struct.pack('<I', len(reference) + 8) + b'\xfe\xff\x00\xe0' + \
        struct.pack('<I', len(reference)) + reference
    transaction = struct.pack('<HH', 8, 0x1195) + b'UI' + us(6) + b'1.2.9\0'
    action = pdu(4, b'\x05\x03' + command(e0003=COMMITMENT.encode(), e0100=us(0x130), e0110=us(3), e0800=us(1), e1001=INSTANCE.encode(),
                                          e1008=us(1))) + pdu(4, b'\x05\x02' + transaction + sequence)
    report = pdu(4, b'\x05\x03' + command(e0002=COMMITMENT.encode(), e0100=us(0x8100), e0120=us(1), e0800=us(0x101), e0900=us(0)))
    failed = element(8, 0x1197, us(0x112)) + reference
    failures = b'\x08\x00\x98\x11SQ\0\0' + struct.pack('<I', len(failed) + 8) + b'\xfe\xff\x00\xe0' + \
        struct.pack('<I', len(failed)) + failed
    tell = lambda event, body: pdu(4, b'\x05\x03' + command(
        e0002=COMMITMENT.encode(), e0100=us(0x100), e0110=us(4), e0800=us(1), e1000=INSTANCE.encode(), e1002=us(event))) + \
        pdu(4, b'\x05\x02' + body)
    talks = {'told': pdu(1, request(*contexts, user=role(0, 1))) + tell(1, transaction + sequence) + tell(2, transaction + failures + sequence) + tell(3, b'') + close,
             'echo': open_ + echo + close, 'store': open_ + store + parts + close, 'abort': open_ + pdu(7, bytes(4)),
             'commit': open_ + action + report + close, 'all': open_ + echo + store + parts + action + echo + close,
             'other-pdu': open_ + pdu(9, b'x'), 'cut': open_ + store, 'find': open_ + echo.replace(us(0x30), us(0x20))}
    for name, talk in talks.items():
        put(out, 'scp', name, b'\1' + talk)
    for bit in range(1, 5):
        put(out, 'scp', 'refused%d' % bit, bytes([1 | 1 << bit]) + talks['all'])
    body = request(*contexts, user=user)
    put(out, 'scp', 'raw', b'\0' + struct.pack('>BBI', 1, 0, len(body)) + body + struct.pack('>BBI', 5, 0, 4) + bytes(4))


def main():
    out = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        objects(out, folder)
        other_j2k(out, folder)
        sessions(out, folder)
    stacks(out)
    configurations(out)
    print({t: len(glob.glob('%s/%s/*' % (out, t))) for t in os.listdir(out)})


main()
