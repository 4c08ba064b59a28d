# SPDX-License-Identifier: Apache-2.0
"""A peer without DCMTK in it, both ways: dcmjs-dimse, which proposes implicit VR first and PDUs of 262144 bytes."""
import sqlite3

import pydicom

from support import *

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'dcmjs')


def peer_folder():
    return npm_folder(HERE, os.path.abspath(os.path.join('..', 'dcmjs-peer')), files=['peer.js'])


def peer(verb, *args, timeout_s=60):
    done = subprocess.run(['node', 'peer.js', verb, *map(str, args)], cwd=peer_folder(), capture_output=True, text=True,
                          timeout=timeout_s)
    check(done.returncode == 0, 'peer.js %s: exit %d\n%s%s' % (verb, done.returncode, done.stdout, done.stderr))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    check(not [l for l in lines if 'error' in l], 'peer.js %s: %s' % (verb, lines))
    return lines


def statuses(lines):
    return [line['status'] for line in lines if 'status' in line]


def receiver(**settings):
    open('start.safetensors', 'w').close()  # nothing is computed here
    return Node(receive__quiet_s=60, **settings).start('receive')


def echo():
    node = receiver()
    try:
        equal(statuses(peer('echo', node.port, 'ISOSLICE')), [0], 'C-ECHO')
        lines = peer('echo', node.port, 'OTHER')
        check([l for l in lines if 'rejected' in l] and not statuses(lines), 'answer to another called AE title: %s' % lines)
        equal(node.stop(), {'receive': 0}, 'exit codes')
    finally:
        node.stop()


def store():
    """A series in one association, in what it proposes first; every value is kept."""
    good = phantom('source', slices=9, matrix=512)
    node = receiver()
    try:
        lines = peer('store', node.port, 'ISOSLICE', *map(os.path.abspath, good))
        equal(statuses(lines), [0] * len(good), 'C-STORE')
        accepted = [c for l in lines if 'accepted' in l for c in l['accepted'] if c['abstractSyntax'] == MR and c['result'] == 0]
        check(accepted, 'no MR context was accepted: %s' % lines[0])
        wait_for('all kept', 10, lambda: len(glob.glob(node.spool + '/store/*.dcm')) == len(good))
        kept = node.stored()
        for path in good:
            sent = pydicom.dcmread(path)
            got = pydicom.dcmread(kept[str(sent.SOPInstanceUID)])
            equal(got.PixelData, sent.PixelData, 'pixels')
            equal(got.ImagePositionPatient, sent.ImagePositionPatient, 'position')
            equal(str(got.PatientName), str(sent.PatientName), 'name')
        syntaxes = {str(pydicom.dcmread(p).file_meta.TransferSyntaxUID) for p in kept.values()}
        check(syntaxes <= {EXPLICIT, IMPLICIT}, 'transfer syntaxes kept: %s' % syntaxes)
        print('kept in %s' % syntaxes)
        equal(statuses(peer('store', node.port, 'ISOSLICE', *map(os.path.abspath, good[:2]))), [0, 0], 'the same again')
        equal(node.rows('series')[0]['images'], len(good), 'images of the series')
        equal(node.stop(), {'receive': 0}, 'exit codes')
    finally:
        node.stop()


def commitment():
    """It asks whether its images are kept, and gets the report on the same association."""
    good = phantom('source', slices=5)
    node = receiver()
    try:
        paths = [os.path.abspath(p) for p in good]
        equal(statuses(peer('store', node.port, 'ISOSLICE', *paths[:-1])), [0] * 4, 'C-STORE')
        lines = peer('commit', node.port, 'ISOSLICE', *paths[:-1])
        equal(statuses(lines), [0], 'N-ACTION')
        equal([l for l in lines if 'event' in l], [{'event': 1, 'kept': 4, 'failed': 0}], 'report of those that are kept')
        lines = peer('commit', node.port, 'ISOSLICE', *paths)
        equal([l for l in lines if 'event' in l], [{'event': 2, 'kept': 4, 'failed': 1}], 'report with one that never came')
    finally:
        node.stop()


def archive():
    """Our derived series goes to its server; what it answers otherwise is tried again."""
    good = phantom('source', slices=7)
    folder, port = peer_folder(), free_port()
    os.makedirs('got')
    serve = lambda *status: subprocess.Popen(['node', 'peer.js', 'serve', str(port), os.path.abspath('got'), *status], cwd=folder)
    server = serve(str(0xA700))
    node = Node(port, receive__quiet_s=1).start()
    try:
        storescu(node, good)
        wait_for('a refused delivery', 120, lambda: [r for r in node.rows('delivery') if 'PEER_BUSY' in r['note']])
        equal(os.listdir('got'), [], 'files of the busy archive')
        server.kill()
        server.wait()
        server = serve()
        node.wait_idle(60)
        equal([r['state'] for r in node.rows('delivery')], ['SENT'], 'delivery')
        derived = {str(pydicom.dcmread(p).SOPInstanceUID): p for d in glob.glob(node.spool + '/derived/*') for p in files_of(d)}
        equal(sorted(n[:-4] for n in os.listdir('got')), sorted(derived), 'instances in the archive')
        for uid, path in derived.items():
            equal(pydicom.dcmread('got/%s.dcm' % uid).PixelData, pydicom.dcmread(path).PixelData, 'pixels')
    finally:
        node.stop()
        server.kill()
        server.wait()


def archive_that_commits():
    """Its server commits itself to what it has, over a client of its own that proposes no role; what somebody deletes meanwhile it
    gets again."""
    good = phantom('source', matrix=32, slices=5)
    folder, port = peer_folder(), free_port()
    os.makedirs('got')
    node = Node(port, senders=[{'ae_title': ae, 'address': '127.0.0.1'} for ae in ('SENDER', 'TESTPACS')], work__steps=1,
                work__spacing='3', receive__commitment=False)
    server = subprocess.Popen(['node', 'peer.js', 'serve', str(port), os.path.abspath('got'), '0', str(node.port)], cwd=folder,
                              stdout=open('server.log', 'ab'))
    reports = lambda: [json.loads(line) for line in open('server.log')]
    try:
        node.start()
        storescu(node, good)
        row = wait_for('a delivery', 60, lambda: [r for r in node.rows('delivery') if r['state'] == 'SENT'])[0]
        equal(row['note'], 'committed by the destination', 'note')
        equal(reports(), [{'reported': 0, 'kept': row['images'], 'failed': 0}], 'reports')
        server.kill()
        server.wait()
        # an archive that forgets two of them before it is asked
        for name in sorted(os.listdir('got'))[:2]:
            os.unlink('got/' + name)
        node.kill_whole('send')
        database = sqlite3.connect(node.spool + '/queue.db')
        database.execute("UPDATE delivery SET state='WAITING', not_before_us=0")
        database.commit()
        database.close()
        server = subprocess.Popen(['node', 'peer.js', 'serve', str(port), os.path.abspath('got'), '0', str(node.port)], cwd=folder,
                                  stdout=open('server.log', 'ab'))
        node.start('send')
        wait_for('all there again', 60, lambda: [r['state'] for r in node.rows('delivery')] == ['SENT'])
        equal(len(os.listdir('got')), row['images'], 'instances in the archive')
        equal(reports()[1:], [{'reported': 0, 'kept': row['images'] - 2, 'failed': 2}, {'reported': 0, 'kept': row['images'], 'failed': 0}],
              'reports')
    finally:
        node.stop()
        server.kill()
        server.wait()


TESTS = {'peer.dcmjs.echo': echo, 'peer.dcmjs.store': store, 'peer.dcmjs.commitment': commitment, 'peer.dcmjs.archive': archive,
         'peer.dcmjs.archive_that_commits': archive_that_commits}

if __name__ == '__main__':
    run_named(TESTS)
