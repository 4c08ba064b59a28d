# SPDX-License-Identifier: Apache-2.0
"""The node from association to PACS, and what goes wrong on the way. Each test in an empty directory of its own."""
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pydicom

from roundtrip import roundtrip
from support import *

def phantom_roundtrip():
    phantom('source')
    roundtrip('source', lambda node, source: storescu(node, files_of(source)))


def copied_layout():
    """As installed_layout, with files instead of links: isoslice node looks for the daemons where its own file lies."""
    installed_layout()
    for path in glob.glob('bin/*'):
        real = os.path.realpath(path)
        os.unlink(path)
        shutil.copy(real, path)


def node_command_does_not_spin():
    """A daemon that cannot start, since another program has its port, is tried after longer and longer pauses; once it was every
    second, for ever, three lines of log each. One that is not there at all is an error at once; once that spun as well."""
    copied_layout()
    node = Node()
    with socket.socket() as other:
        other.bind(('127.0.0.1', node.port))
        other.listen()
        process = subprocess.Popen(['bin/isoslice', 'node', '--config', node.config], stderr=node.log)
        try:
            again = 'isoslice-receive ended (exit code 1); starting it again in 4 s'
            wait_for('the third pause', 30, lambda: again in open('node.log').read())
        finally:
            process.terminate()
        equal(process.wait(60), 0, 'exit code')
    log = open('node.log').read()
    equal(log.count('isoslice-receive ended'), 3, 'times that it ended')
    check('Address already in use' in log, log)
    os.unlink('bin/isoslice-work')
    done = subprocess.run(['bin/isoslice', 'node', '--config', node.config], capture_output=True, text=True, timeout=20)
    equal(done.returncode, 1, 'exit code without the worker')
    check('isoslice-work' in done.stderr and 'No such file' in done.stderr, done.stderr)


def node_command_roundtrip():
    """`isoslice node` starts and stops all three."""
    phantom('source')
    pacs = Orthanc().start()
    node = Node(pacs.dicom)
    copied_layout()
    process = subprocess.Popen(['bin/isoslice', 'node', '--config', node.config], stderr=node.log)
    try:
        node.wait_listening()
        storescu(node, files_of('source'))
        node.wait_idle(300)
        equal(len(pacs.fetch('back')), 1, 'series in the PACS')
        children = subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True, text=True).stdout.split()
        equal(len(children), 3, 'daemons')
        os.kill(int(children[0]), signal.SIGKILL)
        wait_for('the daemon started again', 20, lambda: len(subprocess.run(
            ['pgrep', '-P', str(process.pid)], capture_output=True, text=True).stdout.split()) == 3)
        process.terminate()
        equal(process.wait(60), 0, 'exit code')
        for child in children:
            check(not os.path.exists('/proc/' + child), 'process %s outlived the node' % child)
    finally:
        process.kill()
        pacs.stop()


def real_series(name):
    def test():
        source = shared_series(name)
        crop_series(source, 'source', 48)
        roundtrip('source', send_folder)
    return test


REFUSED = {
    'siemens_localizer': ['LOCALIZER'], 'siemens_mosaic': ['MOSAIC'], 'uih_vframe': ['MOSAIC'],
    'siemens_diffusion_trace': ['DIFFUSION'], 'canon_dti_80': ['DUPLICATE_POSITIONS', 'DIFFUSION'],
    'hitachi_shoulder_4slices_1': ['NO_FRAME_OF_REFERENCE'], 'hitachi_shoulder_4slices_2': ['NO_FRAME_OF_REFERENCE'],
    'philips_two_orientations_1': ['NO_FRAME_OF_REFERENCE'], 'philips_two_orientations_2': ['NO_FRAME_OF_REFERENCE'],
    'enhanced_philips': ['NOTHING_TO_DO', 'DUPLICATE_POSITIONS'],
    'enhanced_siemens': ['NOTHING_TO_DO', 'DUPLICATE_POSITIONS'],
}


def refused_series():
    """Every real series that is not for us is kept, acknowledged, and refused with its code; nothing is sent."""
    expected = {}
    for name, codes in REFUSED.items():
        for path in files_of(shared_series(name)):
            try:
                expected[str(pydicom.dcmread(path, stop_before_pixels=True, force=True).SeriesInstanceUID)] = (name, codes)
            except AttributeError:
                pass
    node = Node(free_port()).start()
    try:
        for name in REFUSED:
            send_folder(node, shared_series(name))
        node.wait_idle(120)
        jobs = {r['uid']: r for r in node.rows('job')}
        wrong = []
        for uid, (name, codes) in expected.items():
            job = jobs.get(uid)
            verdicts = {v for k, v in node.show(job['id']) if k == 'stack verdict'} if job else {'(no job)'}
            if not job or job['state'] != 'REFUSED' or not verdicts <= set(codes):
                wrong.append('%s: %s %s, not %s' % (name, job and job['state'], sorted(verdicts), codes))
        check(not wrong, '\n'.join(wrong))
        equal(node.rows('delivery'), [], 'deliveries')
    finally:
        node.stop()


def access_is_denied_by_default():
    node = Node().start('receive')
    try:
        equal(node.echo(), 0, 'echo of a listed sender')
        equal(RawSender(node.port, calling='NOBODY').answer[0], 3, 'PDU for an unknown calling AE')
        answer = RawSender(node.port, calling='NOBODY').answer
        equal(tuple(answer[1][1:4]), (1, 1, 3), 'rejection of an unknown calling AE')
        answer = RawSender(node.port, called='OTHER').answer
        equal(tuple(answer[1][1:4]), (1, 1, 7), 'rejection of an unknown called AE')
        equal(node.stop(), {'receive': 0}, 'exit codes')
    finally:
        node.stop()


def too_many_associations_are_rejected():
    node = Node(receive__max_associations=2).start('receive')
    try:
        wait_for('no association open', 10, lambda: not glob.glob(node.spool + '/incoming/a*'))
        senders = [RawSender(node.port) for _ in range(2)]
        equal([s.answer[0] for s in senders], [2, 2], 'answers')
        third = RawSender(node.port)
        equal((third.answer[0],) + tuple(third.answer[1][1:4]), (3, 2, 3, 2), 'the third')
        senders[0].close()
        wait_for('room again', 10, lambda: node.echo() == 0)
    finally:
        node.stop()


def one_address_leaves_room_for_others():
    """Connections beyond the limit of their address took every place, since each is told so by a process that waits for its request:
    another address was hung up on without a word."""
    node = Node(receive__max_associations=10, receive__max_associations_per_address=2, receive__acse_timeout_s=20).start('receive')
    mine = []
    try:
        wait_for('no association open', 10, lambda: not glob.glob(node.spool + '/incoming/a*'))
        mine = [socket.create_connection(('127.0.0.1', node.port)) for _ in range(40)]
        wait_for('those beyond the limit', 10, lambda: len(children(node.processes['receive'].pid)) == 1 + 2 + 16)
        for n in range(2, 6):  # as many as there may be, of other addresses
            for _ in range(2):
                mine.append(socket.create_connection(('127.0.0.1', node.port), source_address=('127.0.0.%d' % n, 0), timeout=20))
                sender = RawSender(node.port, connection=mine[-1])
                equal(sender.answer[0], 2, 'answer to 127.0.0.%d' % n)
        said = [line for line in open('node.log') if 'hung up on 127.0.0.1: too many associations' in line]
        check(0 < len(said) < 3, 'said %d times' % len(said))
    finally:
        [s.close() for s in mine]
        node.stop()


def silent_peer_delays_nobody():
    node = Node().start('receive')
    try:
        silent = [socket.create_connection(('127.0.0.1', node.port)) for _ in range(4)]
        half = socket.create_connection(('127.0.0.1', node.port))
        half.sendall(b'\x01\0\0\0')
        start = time.monotonic()
        equal(node.echo(), 0, 'echo beside silent peers')
        took = time.monotonic() - start
        check(took < 2, 'echo beside silent peers took %.1f s' % took)
        half.settimeout(20)
        equal(half.recv(100), b'', 'what a half PDU gets')  # closed by the ACSE time limit
        [s.close() for s in silent]
    finally:
        node.stop()


def bad_objects_get_their_status():
    """Hostile or broken objects fail by themselves: a status each, the association and the node go on."""
    good = phantom('source', slices=6)
    data = dataset_of(good[0])
    uid = str(pydicom.dcmread(good[0]).SOPInstanceUID)
    tag = lambda group, number, vr, value: struct.pack('<HH2sH', group, number, vr, len(value)) + value
    nested = b''
    for _ in range(40):
        nested = struct.pack('<HH2sHI', 0x0008, 0x1115, b'SQ', 0, len(nested) + 8) + \
            struct.pack('<HHI', 0xfffe, 0xe000, len(nested)) + nested
    node = Node().start('receive')
    try:
        sender = RawSender(node.port)
        equal(sender.answer[0], 2, 'association accepted')
        equal(sender.store(b'this is a text file, not a data set.'), 0xC000, 'status of a text')
        equal(sender.store(data[:len(data) // 4 * 2], sop_instance=uid), 0xC000, 'status of half an object')
        equal(sender.store(b'', sop_instance=uid), 0x0117, 'status of nothing: it names no UID')
        equal(sender.store(nested, sop_instance=uid), 0xC000, 'status of deep nesting')
        equal(sender.store(data, sop_instance='1.2.3.4'), 0xA900, 'status of another SOP Instance UID')
        equal(sender.store(data, sop_instance='../../../tmp/x'), 0x0117, 'status of a path as UID')
        equal(sender.store(data, sop_instance=uid), 0, 'status of a sound object, same association')
        equal(sender.store(data, sop_instance=uid), 0, 'status of the same again')
        # another abstract syntax than the context's
        equal(sender.store(data, sop_class='1.2.840.10008.5.1.4.1.1.2', sop_instance=uid), 0xA900, 'status of a CT command')
        sender.close()
        odd = RawSender(node.port)
        equal(odd.store(data[:101], sop_instance=uid), None, 'an odd fragment ends its association')
        odd.close()
        ct = RawSender(node.port, abstract='1.2.840.10008.5.1.4.1.1.2')
        check(ct.answer[0] == 2 and ct.answer[1].find(b'\x21\0') >= 0, 'answer to a CT context')
        at = ct.answer[1].find(b'\x21\0')
        equal(ct.answer[1][at + 6], 3, 'result of the CT context (abstract syntax not supported)')
        ct.close()
        storescu(node, good)
        wait_for('all kept', 20, lambda: len(node.stored()) == len(good))
        equal(node.stop(), {'receive': 0}, 'exit codes')
    finally:
        node.stop()


def changed_bytes_are_a_conflict():
    """Other bytes under a known UID: acknowledged, kept aside, nothing overwritten, the series not processed until released."""
    good = phantom('source', slices=6)
    changed = pydicom.dcmread(good[2])
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as('changed.dcm')
    pacs = Orthanc().start()
    node = Node(pacs.dicom, receive__quiet_s=2).start()
    try:
        storescu(node, good)
        storescu(node, ['changed.dcm'])
        wait_for('the conflict seen', 20, lambda: [r for r in node.rows('series') if r['state'] == 'CONFLICT'])
        time.sleep(4)
        equal([r['state'] for r in node.rows('job') if r['state'] != 'HELD'], [], 'jobs while in conflict')
        equal(len(glob.glob(node.spool + '/aside/*.dcm')), 1, 'files aside')
        equal(node.datasets()[str(changed.SOPInstanceUID)], dataset_of(good[2]), 'the first version')
        storescu(node, good)
        time.sleep(1)
        equal([r['state'] for r in node.rows('series')], ['CONFLICT'], 'series after the first version came again')
        isoslice('queue', '--config', node.config, 'release', 's1')
        node.wait_idle(300)
        equal(len(pacs.fetch('back')), 1, 'series in the PACS after release')
    finally:
        node.stop()
        pacs.stop()


def a_conflict_stops_what_waits_to_be_sent():
    """The archive was down when other bytes came under a known UID: on its return it got what had been derived from the disputed ones.
    Now it gets nothing until the series is released, and then the series once."""
    good = phantom('source', matrix=32, slices=5)
    changed = pydicom.dcmread(good[2])
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as('changed.dcm')
    port = free_port()
    node = Node(port, work__finetune=False, work__recipe='consistency=0').start()
    peer = None
    try:
        storescu(node, good)
        row = wait_for('a delivery', 60, lambda: node.rows('delivery'))[0]
        storescu(node, ['changed.dcm'])
        wait_for('the conflict seen', 20, lambda: [r for r in node.rows('series') if r['state'] == 'CONFLICT'])
        equal([(r['state'], r['note']) for r in node.rows('delivery')], [('HELD', 'the series is in conflict')], 'deliveries')
        os.makedirs('got')
        peer = subprocess.Popen(['storescp', '-od', 'got', str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(2)
        equal(len(os.listdir('got')), 0, 'objects sent in conflict')
        isoslice('queue', '--config', node.config, 'release', 's1')
        node.wait_idle(60)
        equal([r['state'] for r in node.rows('delivery')], ['SENT'], 'deliveries after release')
        equal(len(os.listdir('got')), row['images'], 'objects sent after release')
    finally:
        node.stop()
        if peer:
            peer.kill()


def late_slice_makes_a_new_series():
    good = phantom('source', slices=9)
    pacs = Orthanc().start()
    node = Node(pacs.dicom).start()
    try:
        storescu(node, good[:-1])
        node.wait_idle(300)
        storescu(node, good)
        node.wait_idle(300)
        equal([r['state'] for r in node.rows('job')], ['DONE', 'DONE'], 'jobs')
        counts = pacs.fetch('back')
        equal(len(counts), 2, 'derived series')
        check(len(set(counts.values())) == 2, 'both have %s planes' % list(counts.values()))
        storescu(node, good)  # the same bytes again: nothing happens
        time.sleep(3)
        equal(len(node.rows('job')), 2, 'jobs after the same bytes again')
    finally:
        node.stop()
        pacs.stop()


def derived_is_found_and_moved(make_source):
    """A derived series and its views arrive each by a delivery of its own; the archive then finds them, says how many
    images they have, and moves them to a third node, values and UIDs unchanged. make_source() fills the folder source."""
    make_source()
    third_port = free_port()
    pacs = Orthanc(DicomAlwaysAllowMove=True,
                   DicomModalities={'third': {'AET': 'THIRD', 'Host': '127.0.0.1', 'Port': third_port}}).start()
    node = Node(pacs.dicom, work__views='all', work__finetune=False, work__spacing=2).start()  # other tests have more planes
    os.makedirs('moved')
    quick = {**os.environ, 'TCP_NODELAY': '1'}
    third = subprocess.Popen(['storescp', '-aet', 'THIRD', '-od', 'moved', '-uf', str(third_port)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=quick)
    try:
        send_folder(node, 'source')
        node.wait_idle(300)
        equal([r['state'] for r in node.rows('delivery')], ['SENT'] * 3, 'deliveries')
        made = {}
        for path in glob.glob(node.spool + '/derived/*/*.dcm'):
            d = pydicom.dcmread(path)
            made.setdefault(str(d.SeriesInstanceUID), {})[str(d.SOPInstanceUID)] = d
        equal(len(made), 3, 'derived series')
        study = str(pydicom.dcmread(files_of('source')[0]).StudyInstanceUID)
        peer = ['-S', '-aet', 'ISOSLICE', '-aec', 'TESTPACS', '127.0.0.1', str(pacs.dicom)]
        os.makedirs('answers')
        subprocess.run(['findscu', '-X', '-od', 'answers', *peer, '-k', 'QueryRetrieveLevel=SERIES', '-k', 'StudyInstanceUID=' + study,
                        '-k', 'SeriesInstanceUID=', '-k', 'NumberOfSeriesRelatedInstances=', '-k', 'SeriesDescription=',
                        '-k', 'SeriesNumber='], check=True, capture_output=True, env=quick)
        found = [pydicom.dcmread(p, force=True) for p in files_of('answers')]
        equal({str(d.SeriesInstanceUID): int(d.NumberOfSeriesRelatedInstances) for d in found},
              {uid: len(images) for uid, images in made.items()}, 'series and their images as the archive finds them')
        for d in found:
            image = next(iter(made[str(d.SeriesInstanceUID)].values()))
            equal((str(d.SeriesDescription), int(d.SeriesNumber)), (str(image.SeriesDescription), int(image.SeriesNumber)),
                  'what it says of them')
        for uid in made:
            subprocess.run(['movescu', *peer[:-2], '-aem', 'THIRD', *peer[-2:], '-k', 'QueryRetrieveLevel=SERIES',
                            '-k', 'StudyInstanceUID=' + study, '-k', 'SeriesInstanceUID=' + uid], check=True, capture_output=True,
                           env=quick)
        moved = {}
        for path in files_of('moved'):
            d = pydicom.dcmread(path)
            moved.setdefault(str(d.SeriesInstanceUID), {})[str(d.SOPInstanceUID)] = d
        equal({uid: sorted(images) for uid, images in moved.items()}, {uid: sorted(images) for uid, images in made.items()},
              'objects of the third node')
        for uid, images in moved.items():
            for sop, d in images.items():
                want = made[uid][sop]
                same = d.file_meta.TransferSyntaxUID == want.file_meta.TransferSyntaxUID and \
                    dataset_of(d.filename) == dataset_of(want.filename)  # element by element takes long
                check(same or d == want, 'object %s is another one at the third node' % sop)
    finally:
        third.terminate()
        third.wait()
        node.stop()
        pacs.stop()


def real_series_is_moved(name):
    def test():
        source = shared_series(name)
        derived_is_found_and_moved(lambda: crop_series(source, 'source'))
    return test


def no_positions_are_refused():
    os.makedirs('source')
    for path in phantom('whole', slices=6):
        d = pydicom.dcmread(path)
        del d.ImagePositionPatient
        d.save_as('source/' + os.path.basename(path))
    node = Node(free_port()).start()
    try:
        storescu(node, files_of('source'))
        node.wait_idle(60)
        job = node.rows('job')[0]
        equal(job['state'], 'REFUSED', 'job')
        check('NO_POSITION' in job['note'], 'the note is %r' % job['note'])
    finally:
        node.stop()


def dead_pacs_is_tried_again():
    """Nothing is lost while the PACS is down; the same bytes and UIDs arrive when it is back."""
    phantom('source', slices=6)
    pacs = Orthanc()
    node = Node(pacs.dicom).start()
    try:
        storescu(node, files_of('source'))
        wait_for('a failed attempt', 120, lambda: [r for r in node.rows('delivery') if 'CONNECT' in r['note']])
        equal(node.echo(), 0, 'echo while the PACS is down')
        derived = {p: open(p, 'rb').read() for d in glob.glob(node.spool + '/derived/*') for p in files_of(d)}
        node.kill('send')
        node.start('send')
        pacs.start()
        node.wait_idle(60)
        equal([r['state'] for r in node.rows('delivery')], ['SENT'], 'delivery')
        equal({p: open(p, 'rb').read() for p in derived}, derived, 'derived files after the retries')
        equal(list(pacs.fetch('back').values()), [len(derived)], 'instances in the PACS')
    finally:
        node.stop()
        pacs.stop()


def permanent_answer_is_held():
    phantom('source', slices=6)
    port = free_port()
    peer = subprocess.Popen(['storescp', '--refuse', str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    node = Node(port).start()
    try:
        storescu(node, files_of('source'))
        wait_for('a rejection', 120, lambda: [r for r in node.rows('delivery') if 'ASSOCIATION_REJECTED' in r['note']])
        row = node.rows('delivery')[0]
        isoslice('queue', '--config', node.config, 'hold', row['id'], ok=(0, 2))
        wait_for('held', 20, lambda: node.rows('delivery')[0]['state'] == 'HELD' or
                 isoslice('queue', '--config', node.config, 'hold', row['id'], ok=(0, 2)) and None)
        peer.kill()
        peer.wait()
        os.makedirs('got')
        peer = subprocess.Popen(['storescp', '-od', 'got', str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(3)
        equal(len(os.listdir('got')), 0, 'objects sent while held')
        status = lambda code: [line.split()[:3] for line in isoslice('queue', '--config', node.config, 'status', ok=(code,)).stdout.splitlines()]
        equal(status(3), [['KIND', 'STATE', 'NUMBER'], ['series', 'QUEUED', '1'], ['job', 'DONE', '1'], ['delivery', 'HELD', '1'],
                          ['waiting', 'for', 'a']], 'status')
        isoslice('queue', '--config', node.config, 'release', row['id'])
        node.wait_idle(60)
        equal(status(0)[3], ['delivery', 'SENT', '1'], 'status')
        equal(len(os.listdir('got')), row['images'], 'objects sent after release')
    finally:
        node.stop()
        peer.kill()


def answers(node):
    """Accepts, or rejects with a reason."""
    try:
        sender = RawSender(node.port)
    except OSError:
        return False
    sender.close()
    return sender.answer[0] in (2, 3)


def full_disk_answers_a700():
    """A disk that runs full at every file call of an object: A700, no file, the node answers. Real disks: test_quota.py."""
    good = phantom('source', matrix=128, slices=6)
    uid = str(pydicom.dcmread(good[0]).SOPInstanceUID)
    # 28: ENOSPC, at every file call of the reception of one object
    for call in range(1, 60):
        node = Node()
        node.start('receive', env={'ISOSLICE_CRASH_AT': '%d:28' % call})
        try:
            wait_for('the node up or ended', 20, lambda: answers(node) or node.processes['receive'].poll() is not None)
            if node.processes['receive'].poll() is None:
                sender = RawSender(node.port)
                status = sender.store(dataset_of(good[0]), sop_instance=uid) if sender.answer[0] == 2 else 'rejected'
                sender.close()
                check(status in (0, 0xA700, 'rejected'), 'status %r with ENOSPC at file call %d' % (status, call))
                if status == 0:
                    check(uid in node.stored(), 'acknowledged but not kept, ENOSPC at file call %d' % call)
                check(answers(node), 'no answer after ENOSPC at file call %d' % call)
        finally:
            node.stop()
            shutil.rmtree('spool', ignore_errors=True)


def receiver_dies_at_every_file_call():
    """Killed before its n-th file call, for every n: what was acknowledged is there after a restart, with its bytes."""
    good = phantom('source', matrix=32, slices=5)[:2]
    want = {str(pydicom.dcmread(p).SOPInstanceUID): dataset_of(p) for p in good}
    ended = 0
    for call in range(1, 200):
        shutil.rmtree('spool', ignore_errors=True)
        node = Node(receive__quiet_s=60)
        node.start('receive', env={'ISOSLICE_CRASH_AT': str(call)})
        acknowledged = set()
        try:
            for _ in range(100):
                if node.processes['receive'].poll() is not None:
                    break
                try:
                    sender = RawSender(node.port)
                except OSError:
                    time.sleep(0.05)
                    continue
                if sender.answer[0] == 2:
                    for uid, data in want.items():
                        try:
                            if sender.store(data, sop_instance=uid) == 0:
                                acknowledged.add(uid)
                        except OSError:
                            break
                sender.close()
                break
            time.sleep(0.3)  # the indexer's turn, and its crash
            if node.processes['receive'].poll() is None:
                node.kill('receive')
            else:
                node.processes.pop('receive')
            node.start('receive')
            wait_for('all acknowledged kept', 20, lambda: acknowledged <= set(node.stored()))
            kept = node.datasets()
            for uid in acknowledged:
                equal(kept[uid], want[uid], 'bytes after a crash at file call %d' % call)
            storescu(node, good)
            wait_for('indexed', 20, lambda: not glob.glob(node.spool + '/incoming/*/*'))
            equal([r['images'] for r in node.rows('series')], [len(good)], 'objects in the queue')
            ended = ended + 1 if len(acknowledged) == len(want) else 0
            if ended >= 12:
                return
        finally:
            node.stop()
    raise AssertionError('the crash point never moved past the last file call')


def killed_daemons_lose_nothing():
    """kill -9 of each daemon at random moments while several series pass: every acknowledged image is kept with its bytes, every
    job is done once, the PACS holds each derived series once."""
    import random
    rng = random.Random(7)
    n_series = 5
    series = [phantom('source%d' % i, seed=i + 1, matrix=48, slices=7) for i in range(n_series)]
    want = {str(pydicom.dcmread(p).SOPInstanceUID): dataset_of(p) for paths in series for p in paths}
    pacs = Orthanc().start()
    node = Node(pacs.dicom, work__lease_s=2, work__max_attempts=200, receive__quiet_s=2).start()
    try:
        kills = {'receive': 0, 'work': 0, 'send': 0}
        senders = [[paths, 0] for paths in series]
        start = time.monotonic()
        while True:
            for state in senders:  # resend until every image was acknowledged
                if not state[1]:
                    state[1] = storescu(node, state[0], ok=None).returncode == 0
                if rng.random() < 0.7 and sum(kills.values()) < 24:
                    name = rng.choice(['receive', 'work', 'send'])
                    time.sleep(rng.random())
                    node.kill(name)
                    kills[name] += 1
                    node.start(name)
            if sum(kills.values()) >= 24 and all(done for _, done in senders) and node.idle():
                break
            check(time.monotonic() - start < 400, 'not at rest after 400 s: %s' % node.rows())
        node.wait_idle(120)
        check(min(kills.values()) >= 3, 'kills: %s' % kills)
        kept = node.datasets()
        equal(set(kept), set(want), 'images kept')
        for uid, data in kept.items():
            equal(data, want[uid], 'bytes of ' + uid)
        done = {}
        for row in node.rows('job'):
            equal(row['state'], 'DONE', 'job %s' % row)
            done.setdefault(row['uid'], []).append(row['images'])
        equal(len(done), n_series, 'series with a job')
        for uid, images in done.items():  # a sender killed half-way may make a first, partial job; never two of the same images
            equal(len(set(images)), len(images), 'jobs of series %s by their images %s' % (uid, images))
        counts = pacs.fetch('back')
        equal(len(counts), sum(len(images) for images in done.values()), 'derived series in the PACS')
        for uid, count in counts.items():
            numbers = sorted(int(pydicom.dcmread(p, stop_before_pixels=True).InstanceNumber) for p in files_of('back/' + uid))
            equal(numbers, list(range(1, count + 1)), 'instance numbers of ' + uid)
        print('kills: %s' % kills)
    finally:
        node.stop()
        pacs.stop()


def unknown_destination_is_told():
    """A destination renamed in the file, and only the worker started again: its delivery waited for a sender that knew nothing of
    it, without a word. Log and queue say so; sent when the sender reads the file, held when it starts without that destination."""
    good = phantom('source', matrix=32, slices=6)
    node = Node(free_port(), work__finetune=False, send__retry_max_s=1).start('receive', 'send')
    try:
        old = open(node.config).read()
        with open(node.config, 'w') as f:
            f.write(old.replace('"pacs"', '"archive"'))
        node.start('work')
        storescu(node, good)
        wait_for('the note', 60, lambda: any('waits for nobody' in r['note'] for r in node.rows('delivery')))
        time.sleep(2.5)
        equal([r['state'] for r in node.rows('delivery')], ['WAITING'], 'the delivery')
        equal(open('node.log').read().count("d1 waits for nobody: destination 'archive'"), 1, 'lines about it')
        node.kill('send', signal.SIGTERM)
        node.start('send')
        wait_for('an attempt', 10, lambda: 'cannot reach' in node.rows('delivery')[0]['note'])
        node.kill('send', signal.SIGTERM)
        with open(node.config, 'w') as f:
            f.write(old)
        node.start('send')
        wait_for('it held', 10, lambda: node.rows('delivery')[0]['state'] == 'HELD')
    finally:
        node.stop()


def delivery_of_a_dead_sender_is_told():
    """A sender was killed in the middle, then its destination was renamed. Once the delivery stayed SENDING for ever, without a
    word, and its series could not be purged: nobody of that name started and took it back."""
    node = Node(free_port())
    queue_of(node, ('gone', 'SENDING'), ('gone', 'WAITING'), ('pacs', 'SENDING'))
    node.start('send')
    try:
        wait_for('both held', 10, lambda: [r['state'] for r in node.rows('delivery')][:2] == ['HELD'] * 2)
        wait_for('the lines', 5, lambda: open('node.log').read().count("is held: destination 'gone' is not in the configuration") == 2)
        wait_for('an attempt of the third', 10, lambda: node.rows('delivery')[2]['note'] != '')
    finally:
        node.stop()


def names_of_destinations_do_not_meet():
    """Names that look alike as file names. Once 'a/b' and 'a_b' kept each other from being sent to, and a destination called
    'reports' kept commitments from being reported."""
    names = ['pacs', 'a/b', 'a_b', 'reports', 'x' * 32]
    node = Node(free_port(), more=[{'name': name, 'port': free_port()} for name in names[1:]])
    queue_of(node, *((name, 'WAITING') for name in names))
    node.start('send')
    try:
        wait_for('an attempt at each', 10, lambda: all(r['note'] for r in node.rows('delivery')))
        wait_for('their locks', 5, lambda: len(glob.glob(node.spool + '/send-*.lock')) == 6)
        time.sleep(1.5)  # one that ends is started again after a second
        check('already' not in open('node.log').read(), 'one sender keeps another from sending')
    finally:
        node.stop()


def sender_that_cannot_start_is_tried_again():
    """No process to be had at the moment the sender starts. Once its destination got nothing from then on, without a word."""
    node = Node(free_port())
    queue_of(node, ('pacs', 'WAITING'))
    lax = {'ASAN_OPTIONS': os.environ.get('ASAN_OPTIONS', '') + ':verify_asan_link_order=0'}
    node.start('send', env={'LD_PRELOAD': os.environ['ISOSLICE_FORKLESS'], **lax})
    try:
        wait_for('an attempt', 10, lambda: node.rows('delivery')[0]['note'] != '')
        lines = [line for line in open('node.log') if 'cannot start the process' in line]
        check(lines and " error " in lines[0] and "'pacs'" in lines[0], lines)
    finally:
        node.stop()


def hung_peer_does_not_hold_up_the_stop():
    """An archive takes an image and does not answer. Once a stop waited for it as long as receive.dimse_timeout_s, and whoever had
    asked killed everything first. It is taken again at the next start."""
    good = phantom('source', matrix=32, slices=6)
    port = free_port()
    node = Node(port, receive__dimse_timeout_s=100)
    queue_of(node, ('pacs', 'WAITING'))
    os.makedirs(node.spool + '/derived/j1-s0')
    for n, path in enumerate(good[:3]):
        shutil.copy(path, node.spool + '/derived/j1-s0/IM%04d.dcm' % (n + 1))
    asleep = subprocess.Popen(['storescp', '--ignore', '--sleep-after', '100', str(port)])
    try:
        wait_for('the archive up', 10, lambda: subprocess.run(['echoscu', '127.0.0.1', str(port)]).returncode == 0)
        node.start('send')
        wait_for('the delivery under way', 10, lambda: node.rows('delivery')[0]['state'] == 'SENDING')
        time.sleep(1)
        start = time.monotonic()
        equal(node.kill('send', signal.SIGTERM), 0, 'exit code')
        took = time.monotonic() - start
        check(5 < took < 15, 'the stop took %.1f s' % took)
        asleep.kill()
        asleep.wait()
        node.start('send')
        wait_for('another attempt', 10, lambda: 'CONNECT' in node.rows('delivery')[0]['note'])
    finally:
        asleep.kill()
        asleep.wait()
        node.stop()


def given_up_is_told():
    """A PACS is down for longer than give_up_h. Once the delivery was held with the log still promising to try again, so that
    nobody knew to release it. Log and note say that it was given up, after how long and why; nothing is tried any more."""
    phantom('source', matrix=32, slices=6)
    node = Node(free_port(), work__finetune=False, send__give_up_h=0.001, send__retry_max_s=1).start()
    try:
        storescu(node, files_of('source'))
        row = wait_for('it held', 60, lambda: [r for r in node.rows('delivery') if r['state'] == 'HELD'])[0]
        said = 'given up after 0.001 h'
        check(said in row['note'] and 'cannot reach' in row['note'], row['note'])
        time.sleep(1.5)
        lines = [line for line in open('node.log') if 'delivery d1' in line]
        check(' error ' in lines[-1] and 'is held' in lines[-1] and said in lines[-1], lines[-1])
        equal(sum('is held' in line for line in lines), 1, 'lines that say held')
        check(len(lines) > 1 and all('will be tried again' in line for line in lines[:-1]), lines)
    finally:
        node.stop()


TESTS = {
    'peer.node.phantom_roundtrip': phantom_roundtrip,
    'peer.node.command_roundtrip': node_command_roundtrip,
    'unit.node.does_not_spin': node_command_does_not_spin,
    'peer.node.refused_series': refused_series,
    'unit.receive.access_is_denied_by_default': access_is_denied_by_default,
    'unit.receive.too_many_associations_are_rejected': too_many_associations_are_rejected,
    'unit.receive.one_address_leaves_room_for_others': one_address_leaves_room_for_others,
    'unit.receive.silent_peer_delays_nobody': silent_peer_delays_nobody,
    'unit.receive.bad_objects_get_their_status': bad_objects_get_their_status,
    'unit.receive.full_disk_answers_a700': full_disk_answers_a700,
    'unit.queue.changed_bytes_are_a_conflict': changed_bytes_are_a_conflict,
    'unit.queue.conflict_stops_what_waits': a_conflict_stops_what_waits_to_be_sent,
    'unit.queue.late_slice_makes_a_new_series': late_slice_makes_a_new_series,
    'peer.node.derived_is_found_and_moved': lambda: derived_is_found_and_moved(lambda: phantom('source', slices=6)),
    'unit.work.no_positions_are_refused': no_positions_are_refused,
    'peer.send.dead_pacs_is_tried_again': dead_pacs_is_tried_again,
    'unit.send.unknown_destination_is_told': unknown_destination_is_told,
    'unit.send.given_up_is_told': given_up_is_told,
    'unit.send.delivery_of_a_dead_sender_is_told': delivery_of_a_dead_sender_is_told,
    'unit.send.names_of_destinations_do_not_meet': names_of_destinations_do_not_meet,
    'unit.send.one_that_cannot_start_is_tried_again': sender_that_cannot_start_is_tried_again,
    'unit.send.hung_peer_does_not_hold_up_the_stop': hung_peer_does_not_hold_up_the_stop,
    'peer.send.hold_and_release': permanent_answer_is_held,
    'crash.receive.dies_at_every_file_call': receiver_dies_at_every_file_call,
    'crash.node.killed_daemons_lose_nothing': killed_daemons_lose_nothing,
}
TESTS.update({'peer.node.%s' % name: real_series(name) for name in PLAIN})
TESTS.update({'peer.node.moved.' + name: real_series_is_moved(name) for name in [*PLAIN, 'philips_t1_phantom_enhanced']})

if __name__ == '__main__':
    run_named(TESTS)
