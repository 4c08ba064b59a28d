# SPDX-License-Identifier: Apache-2.0
"""What is taken besides classic MR, and what is not: Enhanced MR is kept as it came and processed, or refused by name; other
classes are refused where they are proposed."""
import os
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'dicom'))
import make_enhanced
from objects import *
from roundtrip import roundtrip
from support import *

ENHANCED, LEGACY = '1.2.840.10008.5.1.4.1.1.4.1', '1.2.840.10008.5.1.4.1.1.4.4'
REFUSED_CLASSES = {'ct': '1.2.840.10008.5.1.4.1.1.2', 'enhanced_ct': '1.2.840.10008.5.1.4.1.1.2.1',
                   'basic_text_sr': '1.2.840.10008.5.1.4.1.1.88.11', 'enhanced_sr': '1.2.840.10008.5.1.4.1.1.88.22',
                   'raw_data': '1.2.840.10008.5.1.4.1.1.66', 'secondary_capture': '1.2.840.10008.5.1.4.1.1.7',
                   'mr_spectroscopy': '1.2.840.10008.5.1.4.1.1.4.2', 'encapsulated_pdf': '1.2.840.10008.5.1.4.1.1.104.1'}


def sequence(group, number, *items):
    body = b''.join(struct.pack('<HHI', 0xfffe, 0xe000, len(i)) + i for i in items)
    return explicit(group, number, b'SQ', body)


def frames(n, uid, sop_class):
    """A multi-frame object: shared orientation, a position for every frame."""
    orientation = sequence(0x20, 0x9116, explicit(0x20, 0x37, b'DS', even('1\\0\\0\\0\\1\\0', b' ')))
    measures = sequence(0x28, 0x9110, explicit(0x18, 0x50, b'DS', b'5 ') + explicit(0x28, 0x30, b'DS', b'1\\1 '))
    per_frame = [sequence(0x20, 0x9113, explicit(0x20, 0x32, b'DS', even('0\\0\\%d' % (5 * k), b' '))) for k in range(n)]
    more = explicit(0x20, 0x13, b'IS', b'1 ') + explicit(0x20, 0x52, b'UI', even(UID + '.3'))
    pixels = bytes(range(256)) * (n * 2 * 16 * 16 // 256)
    return dataset(uid=uid, sop_class=sop_class, rows=16, columns=16, pixels=pixels, more=more, series=uid + '.9', replace={
        (0x28, 2): explicit(0x28, 2, b'US', us(1)) + explicit(0x28, 4, b'CS', b'MONOCHROME2 ') +
        explicit(0x28, 8, b'IS', even(str(n), b' ')),
        (0x7fe0, 0x10): sequence(0x5200, 0x9229, orientation + measures) + sequence(0x5200, 0x9230, *per_frame) +
        explicit(0x7fe0, 0x10, b'OW', pixels)})


def refused_by_name(node, series_uid, codes):
    jobs = {r['uid']: r for r in node.rows('job')}
    job = jobs.get(series_uid)
    check(job and job['state'] == 'REFUSED', 'the job is %s' % job)
    verdicts = {v for k, v in node.show(job['id']) if k == 'stack verdict'}
    check(verdicts and verdicts <= set(codes), 'the verdicts are %s, not of %s' % (verdicts, codes))


def synthetic():
    """Frames that nothing says the pulse sequence of, which classic MR has to say: accepted, answered 0000, kept byte for byte,
    refused for processing by name, nothing delivered."""
    node = Node(free_port(), receive__quiet_s=0.5).start()
    try:
        sent = {}
        for n, sop_class in enumerate([ENHANCED, LEGACY]):
            uid = '%s.4.%d' % (UID, n)
            data = frames(9, uid, sop_class)
            sender = RawSender(node.port, abstract=sop_class)
            equal(sender.answer[0], 2, 'answer')
            equal(sender.answer[1][sender.answer[1].find(b'\x21\0') + 6], 0, 'result of the context')
            equal(sender.store(data, sop_class=sop_class, sop_instance=uid), 0, 'status')
            sender.release()
            sent[uid] = data
        node.wait_idle(60)
        kept = node.datasets()
        equal(set(kept), set(sent), 'objects kept')
        for uid, data in sent.items():
            equal(kept[uid], data, 'bytes of ' + uid)
            refused_by_name(node, uid + '.9', ['MULTIFRAME'])
        equal(node.rows('delivery'), [], 'deliveries')
    finally:
        node.stop()


def sizes():
    """One object of Enhanced MR may be as large as a series; a classic one may not."""
    open('start.safetensors', 'w').close()  # nothing is computed here
    node = Node(receive__quiet_s=60, receive__max_object_mb=1, receive__max_enhanced_mb=3).start('receive')
    try:
        for n, (sop_class, n_bytes, status) in enumerate([(MR, 2 << 20, 0xa700), (ENHANCED, 2 << 20, 0), (LEGACY, 2 << 20, 0),
                                                          (ENHANCED, 4 << 20, 0xa700), (MR, 1 << 19, 0)]):
            uid = '%s.6.%d' % (UID, n)
            n_frames = n_bytes // 512
            data = frames(n_frames, uid, sop_class) if sop_class != MR else \
                dataset(uid=uid, rows=512, columns=n_bytes // 1024, pixels=bytes(n_bytes), series=uid + '.9')
            sender = RawSender(node.port, abstract=sop_class)
            equal(sender.store(data, sop_class=sop_class, sop_instance=uid), status, 'status of %d bytes of %s' % (n_bytes, sop_class))
            if status:
                check('limit of %d MB' % (1 if sop_class == MR else 3) in sender.comment, sender.comment)
            sender.release()
        equal(sorted(node.stored()), ['%s.6.%d' % (UID, n) for n in (1, 2, 4)], 'objects kept')
    finally:
        equal(node.stop(), {'receive': 0}, 'exit codes')


def derived(**options):
    def test():
        """From association to PACS and back, in the form that classic MR has."""
        phantom('classic')
        make_enhanced.make('classic', 'source', **options)
        roundtrip('source', send_folder)
    return test


def philips_phantom():
    """The centre of a vendor's own object."""
    crop_series(shared_series('philips_t1_phantom_enhanced'), 'source')
    roundtrip('source', send_folder)


def real(name, codes):
    def test():
        """A vendor's own, as it lies."""
        import pydicom
        source = shared_series(name)
        sent = {}
        for path in files_of(source):
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True)
                sent[str(header.SOPInstanceUID)] = (path, str(header.SeriesInstanceUID), str(header.SOPClassUID))
            except pydicom.errors.InvalidDicomError:
                pass  # the folder's README
        check({c for _, _, c in sent.values()} <= {ENHANCED, LEGACY}, 'not enhanced: %s' % sent)
        node = Node(free_port(), receive__quiet_s=0.5).start()
        try:
            send_folder(node, source)
            node.wait_idle(60)
            kept = node.stored()
            equal(set(kept), set(sent), 'objects kept')
            for uid, (path, series, _) in sent.items():
                got, want = pydicom.dcmread(kept[uid]), pydicom.dcmread(path)
                equal(got.file_meta.TransferSyntaxUID, want.file_meta.TransferSyntaxUID, 'transfer syntax')
                equal(got.PixelData, want.PixelData, 'pixels')
                equal(len(got), len(want), 'elements')
                refused_by_name(node, series, codes)
            equal(node.rows('delivery'), [], 'deliveries')
        finally:
            node.stop()
    return test


def other_classes():
    """Refused where they are proposed, beside an MR context that is accepted and works."""
    open('start.safetensors', 'w').close()  # nothing is computed here
    node = Node(receive__quiet_s=60).start('receive')
    try:
        more = b''.join(context_item(3 + 2 * n, uid, EXPLICIT, IMPLICIT) for n, uid in enumerate(REFUSED_CLASSES.values()))
        sender = RawSender(node.port, more=more)
        equal(sender.answer[0], 2, 'answer')
        body, results = sender.answer[1][68:], {}
        while body:
            kind, n = body[0], struct.unpack('>H', body[2:4])[0]
            if kind == 0x21:
                results[body[4]] = body[6]
            body = body[4 + n:]
        equal(results.pop(1), 0, 'result of MR')
        equal(results, {3 + 2 * n: 3 for n in range(len(REFUSED_CLASSES))}, 'results (3: abstract syntax not supported)')
        equal(sender.store(dataset(), sop_instance=UID), 0, 'status of an MR image')
        sender.release()
        equal(len(node.stored()), 1, 'objects kept')
    finally:
        node.stop()


TESTS = {
    'peer.enhanced.synthetic': synthetic,
    'peer.enhanced.other_classes': other_classes,
    'unit.enhanced.sizes': sizes,
    'peer.enhanced.derived': derived(order='shuffled'),
    'peer.enhanced.legacy_derived': derived(**{'class': 'legacy'}),
    'peer.enhanced.philips_phantom': philips_phantom,
    'peer.enhanced.philips': real('enhanced_philips', ['MULTIFRAME', 'NOTHING_TO_DO', 'DUPLICATE_POSITIONS']),
    'peer.enhanced.siemens': real('enhanced_siemens', ['MULTIFRAME', 'NOTHING_TO_DO', 'DUPLICATE_POSITIONS']),
}

if __name__ == '__main__':
    run_named(TESTS)
