# SPDX-License-Identifier: Apache-2.0
"""What was acknowledged is kept: through a power cut at every system call of a reception, through kill -9 under load, with two hundred
associations and a hundred thousand objects. Each test in an empty directory of its own."""
import collections
import glob
import multiprocessing
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import pydicom

from support import *

TRACED = 'openat,write,pwrite64,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,fsync,fdatasync,chdir,lseek,close'


# ---- a disk that loses what was not synced

class Inode:
    def __init__(self, is_folder):
        self.is_folder = is_folder
        self.now = {} if is_folder else bytearray()  # name -> Inode, or bytes
        self.safe = {} if is_folder else b''

    def sync(self):
        self.safe = dict(self.now) if self.is_folder else bytes(self.now)


class Disk:
    """Follows the file calls of one process below one folder."""

    def __init__(self, root):
        self.root, self.inode = root, Inode(True)
        self.cwd, self.open = None, {}  # descriptor -> [Inode, offset]

    def find(self, path):
        """(folder, name) of a path, or (None, None) outside."""
        if path.startswith(self.root):
            folder, parts = self.inode, path[len(self.root):].strip('/').split('/')
        elif path.startswith('/') or self.cwd is None:
            return None, None
        else:
            folder, parts = self.cwd, [p for p in path.split('/') if p != '.'] or ['']
        for part in parts[:-1]:
            folder = folder.now[part]
        return folder, parts[-1]

    def lookup(self, path):
        folder, name = self.find(path)
        return folder if folder is None or name == '' else folder.now.get(name)

    def call(self, name, args, result):
        """One call that succeeded; returns what it changed or made safe."""
        if name == 'openat':
            folder, leaf = self.find(args[1])
            if folder is not None:
                inode = self.lookup(args[1])
                if inode is None:
                    inode = folder.now[leaf] = Inode(False)
                self.open[result] = [inode, 0]
        elif name in ('mkdir', 'mkdirat'):
            folder, leaf = self.find(args[name == 'mkdirat'])
            if folder is not None:
                folder.now[leaf] = Inode(True)
        elif name == 'chdir':
            self.cwd = self.lookup(args[0])
        elif name in ('rename', 'renameat', 'renameat2'):
            old, new = (args[0], args[1]) if name == 'rename' else (args[1], args[3])
            (a, leaf_a), (b, leaf_b) = self.find(old), self.find(new)
            b.now[leaf_b] = a.now.pop(leaf_a)
        elif name in ('unlink', 'unlinkat'):
            folder, leaf = self.find(args[name == 'unlinkat'])
            folder.now.pop(leaf)
        elif name == 'close':
            self.open.pop(int(args[0]), None)
        elif int(args[0]) in self.open:
            entry = self.open[int(args[0])]
            inode, at = entry
            if name in ('write', 'pwrite64'):
                at = int(args[3]) if name == 'pwrite64' else at
                inode.now[at:at + result] = args[1][:result]
                entry[1] = at + result if name == 'write' else entry[1]
            elif name == 'lseek':
                entry[1] = result
            elif name == 'ftruncate':
                inode.now[int(args[1]):] = bytes(max(0, int(args[1]) - len(inode.now)))
            else:
                inode.sync()

    def after_cut(self, names, data):
        """{path: bytes} that a power cut leaves. names: 'kept' or 'lost'; data: 'kept', 'lost' or 'garbled'; of what was not synced."""
        found = {}

        def walk(folder, path):
            for name, inode in (folder.now if names == 'kept' else folder.safe).items():
                if inode.is_folder:
                    found[path + name + '/'] = None
                    walk(inode, path + name + '/')
                elif data == 'garbled' and inode.now != inode.safe:
                    found[path + name] = bytes(b ^ 0x5a if inode.safe[i:i + 1] != bytes([b]) else b for i, b in enumerate(inode.now))
                else:
                    found[path + name] = bytes(inode.now if data == 'kept' else inode.safe)

        walk(self.inode, '')
        return found


def text_of(argument):
    """strace -xx -y: "\\x61" as bytes decoded, 3</path> as 3."""
    if argument.startswith('"'):
        return bytes(int(h, 16) for h in re.findall(r'\\x(..)', argument))
    return re.match(r'[^<]*', argument).group(0)


def calls_of(path):
    """(name, arguments, result) of every call that succeeded; paths as text, data as bytes."""
    for line in open(path):
        match = re.match(r'(\w+)\((.*)\) += (\d+)', line)
        if not match:
            continue
        name, inside, result = match.group(1), match.group(2), int(match.group(3))
        args = [text_of(a) for a in re.findall(r'"[^"]*"|[^,"\s][^,"]*', inside)]
        if name not in ('write', 'pwrite64'):
            args = [a.decode() if isinstance(a, bytes) else a for a in args]
        yield name, args, result


def acknowledged_in(data):
    """SOP Instance UID that a written piece of a PDU says is stored, or None."""
    if element(0, 0x0100, struct.pack('<H', 0x8001)) not in data or element(0, 0x0900, b'\0\0') not in data:
        return None
    at = data.index(struct.pack('<HH', 0, 0x1000))
    n = struct.unpack('<I', data[at + 4:at + 8])[0]
    return data[at + 8:at + 8 + n].rstrip(b'\0').decode()


def trace_reception(node, paths):
    """Sends `paths` in one association with every file call of its process on record; returns the record's path."""
    tracer = subprocess.Popen(['strace', '-ff', '-y', '-xx', '-s', '1000000', '-e', 'trace=' + TRACED, '-o', os.path.abspath('trace'),
                               '-p', str(node.processes['receive'].pid)], stderr=subprocess.PIPE, text=True)
    check('attached' in tracer.stderr.readline(), 'strace did not attach')
    sender = RawSender(node.port)
    equal(sender.answer[0], 2, 'association')
    for path in paths:
        equal(sender.store(dataset_of(path), piece=120000, sop_instance=str(pydicom.dcmread(path).SOPInstanceUID)), 0, 'status of ' + path)
    sender.close()
    wait_for('the folder gone', 20, lambda: not glob.glob(node.spool + '/incoming/a*'))
    tracer.terminate()
    tracer.wait()
    traces = [p for p in glob.glob('trace.*') if any(name == 'chdir' for name, _, _ in calls_of(p))]
    equal(len(traces), 1, 'processes that enter a folder')
    return traces[0]


def power_cut_at_every_call(matrix=32, n=3, n_states=40):
    """A power cut after every file call of a reception, with what was not synced kept, lost or garbled: what had been acknowledged is
    there after a restart with its bytes, and nothing is taken for an image that is none."""
    good = phantom('source', matrix=matrix, slices=5)[:n]
    want = {str(pydicom.dcmread(p).SOPInstanceUID): dataset_of(p) for p in good}
    node = Node(receive__quiet_s=3600).start('receive')
    try:
        trace = trace_reception(node, good)
    finally:
        node.stop()
    disk, acknowledged, states = Disk(node.spool + '/incoming'), set(), {}
    for name, args, result in calls_of(trace):
        uid = acknowledged_in(args[1]) if name == 'write' else None
        if uid:
            acknowledged.add(uid)
        disk.call(name, args, result)
        for names in ('kept', 'lost'):
            for data in ('kept', 'lost', 'garbled'):
                state = disk.after_cut(names, data)
                key = tuple(sorted((p, b if b is None else bytes(b)) for p, b in state.items())), frozenset(acknowledged)
                states.setdefault(key, (state, set(acknowledged), '%s: names %s, data %s' % (name, names, data)))
    equal(acknowledged, set(want), 'acknowledged')
    check(len(states) > n_states, 'only %d different states' % len(states))
    n_kept = collections.Counter()
    for state, must, what in states.values():
        shutil.rmtree('spool', ignore_errors=True)
        for path, content in sorted(state.items()):
            path = os.path.join(node.spool, 'incoming', path)
            os.makedirs(path if content is None else os.path.dirname(path), mode=0o700, exist_ok=True)
            if content is not None:
                open(path, 'wb').write(content)
        os.makedirs(node.spool, mode=0o700, exist_ok=True)
        node.start('receive', wait=False)
        try:
            wait_for('indexed after ' + what, 20,
                     lambda: os.path.exists(node.spool + '/queue.db') and not glob.glob(node.spool + '/incoming/a*'))
            kept = node.datasets()
            check(must <= set(kept), 'lost after a cut at %s: %s' % (what, must - set(kept)))
            for uid, data in kept.items():
                equal(data, want[uid], 'bytes after a cut at ' + what)
            n_kept[len(kept)] += 1
        finally:
            node.kill('receive')
    check(all(n_kept[n] > 0 for n in range(len(good) + 1)), 'states by images kept: %s' % n_kept)
    print('%d states, by images kept: %s' % (len(states), dict(n_kept)))


def power_cut_while_a_large_one_comes():
    """The same for an object that is written as it comes, being too large to be held."""
    power_cut_at_every_call(matrix=768, n=1, n_states=30)


def rows_outlive_names():
    """A power cut after which the queue has its rows, but no rename of a file is on the disk: every file finds its place again."""
    good = phantom('source', matrix=32, slices=6)
    node = Node(receive__quiet_s=3600).start('receive')
    try:
        storescu(node, good)
        wait_for('indexed', 20, lambda: len(glob.glob(node.spool + '/store/*.dcm')) == len(good))
        wait_for('no folder left', 20, lambda: not glob.glob(node.spool + '/incoming/a*'))
        node.kill('receive')
        for path in glob.glob(node.spool + '/store/*.dcm'):
            association, name = os.path.basename(path).rsplit('-', 1)
            os.makedirs(node.spool + '/incoming/' + association, exist_ok=True)
            os.rename(path, '%s/incoming/%s/%s' % (node.spool, association, name.replace('.dcm', '.tmp')))
        node.start('receive')
        wait_for('in the store again', 20, lambda: len(glob.glob(node.spool + '/store/*.dcm')) == len(good))
        equal([(r['state'], r['images']) for r in node.rows('series')], [('GATHERING', len(good))], 'series')
    finally:
        node.stop()


def synced_before_answered():
    """By the calls of the process itself: every answer follows a sync of that object's file, whose name was synced before."""
    good = phantom('source', matrix=32, slices=9)
    node = Node(receive__quiet_s=3600).start('receive')
    try:
        trace = trace_reception(node, good)
    finally:
        node.stop()
    disk, answers, n_syncs = Disk(node.spool + '/incoming'), 0, 0
    for name, args, result in calls_of(trace):
        if name == 'write' and acknowledged_in(args[1]):
            answers += 1
            safe = [inode for folder in disk.inode.safe.values() if folder.is_folder
                    for inode in folder.safe.values() if inode.safe.startswith(b'ISOSLICE SEAL')]
            equal(len(safe), answers, 'sealed and synced files with synced names before answer %d' % answers)
        disk.call(name, args, result)
        n_syncs += name in ('fsync', 'fdatasync')
    equal(answers, len(good), 'answers')
    check(n_syncs <= len(good) + 6, '%d syncs for %d objects' % (n_syncs, len(good)))
    print('%d answers, %d syncs' % (answers, n_syncs))


# ---- what cannot be read

def unreadable_files_stop_no_other():
    """One file in incoming/ that could not be read ended every round: nothing was indexed any more, no series gathered, no commitment
    answered, while the node went on acknowledging. Folders stand for the files here, since root may read every file: a name that is
    there and cannot be read."""
    good, other = phantom('source', matrix=32, slices=5), phantom('other', seed=2, matrix=32, slices=5)
    node = Node().start('receive')
    try:
        storescu(node, good)
        wait_for('a job', 20, lambda: node.rows('job'))
        node.kill('receive', signal.SIGTERM)
        kept = sorted(glob.glob(node.spool + '/store/*.dcm'))[0]  # as a crash may leave it, with its row
        association, number = os.path.basename(kept)[:-4].rsplit('-', 1)
        unmoved = '%s/incoming/%s/%s.tmp' % (node.spool, association, number)
        os.makedirs(unmoved)
        os.rename(kept, 'kept.dcm')
        os.makedirs(node.spool + '/incoming/a1000000000000000p1/1.dcm')
        open(node.spool + '/incoming/a1000000000000000p2', 'w').close()
        os.makedirs(node.spool + '/commitments/a1000000000000000p1-9.commit')
        log = len(open('node.log').read())
        node.start('receive')
        storescu(node, other)
        wait_for('the other series a job', 10, lambda: len(node.rows('job')) == 2)
        time.sleep(1)
        lines = open('node.log').read()[log:].splitlines()
        said = [line for line in lines if 'indexing:' in line]
        check(len(said) == 1 and 'IO: ' in said[0] and 'and 2 more' in said[0], 'what is said: %s' % said)
        said = [line for line in lines if 'commitment request cannot be read' in line]
        check(len(said) == 1 and 'p1-9.commit' in said[0], 'what is said of the request: %s' % said)
        check(not [line for line in lines if 'not on the disk' in line], 'what could not be read counts as lost')
        equal([r['state'] for r in node.rows('series')], ['QUEUED', 'QUEUED'], 'series')
        os.rmdir(unmoved)
        shutil.move('kept.dcm', unmoved)  # and now it can be read
        os.rmdir(node.spool + '/incoming/a1000000000000000p1/1.dcm')
        wait_for('it in its place', 10, lambda: os.path.exists(kept))
        wait_for('the empty folder gone', 10, lambda: not os.path.exists(node.spool + '/incoming/a1000000000000000p1'))
    finally:
        node.stop()


# ---- what is lost or damaged, and comes again

def only(node, kind='series'):
    rows = node.rows(kind)
    equal(len(rows), 1, kind + ' rows')
    return rows[0]


def lost_and_damaged_are_replaced():
    """What came again under a known digest was dropped as a duplicate although the kept file was lost, or damaged: acknowledged and
    gone, the series FAILED for ever. Now it takes the place of the kept one, and the series is processed."""
    good = phantom('source', matrix=32, slices=6)
    want = {str(pydicom.dcmread(p).SOPInstanceUID): dataset_of(p) for p in good}
    node = Node().start('receive')
    try:
        storescu(node, good)
        wait_for('a job', 20, lambda: node.rows('job'))
        node.kill('receive', signal.SIGTERM)
        kept = node.stored()
        lost, damaged = (kept[str(pydicom.dcmread(good[i]).SOPInstanceUID)] for i in (2, 4))
        os.unlink(lost)
        with open(damaged, 'r+b') as f:
            f.seek(-7, os.SEEK_END)
            f.write(b'other')
        node.start('receive')
        wait_for('the loss seen', 20, lambda: only(node)['state'] == 'FAILED')
        storescu(node, good)
        wait_for('gathered again', 20, lambda: only(node)['state'] == 'QUEUED')
        wait_for('nothing waits', 20, lambda: not glob.glob(node.spool + '/incoming/a*'))
        equal(node.datasets(), want, 'what is kept')
        equal(set(node.stored().values()), set(kept.values()), 'names in the store')
        log = open('node.log').read()
        check('which was lost, came again' in log and 'which was damaged' in log, 'the log does not tell both')
        storescu(node, good)
        time.sleep(1)
        equal(only(node)['state'], 'QUEUED', 'series after all came once more')
    finally:
        node.stop()


def replacing_dies_at_every_file_call():
    """Killed before its n-th file call while the only copy replaces a lost or damaged one: after a restart it is kept, and processed."""
    good = phantom('source', matrix=32, slices=5)
    node = Node(receive__quiet_s=0.2).start('receive')
    try:
        storescu(node, good)
        wait_for('a job', 20, lambda: node.rows('job'))
        node.kill('receive', signal.SIGTERM)
        shutil.copytree(node.spool, 'before')
        n_crashed = 0
        for call in range(1, 20):
            shutil.rmtree(node.spool)
            shutil.copytree('before', node.spool)
            path = sorted(glob.glob(node.spool + '/store/*.dcm'))[call % len(good)]
            whole = open(path, 'rb').read()
            os.makedirs(node.spool + '/incoming/a9p9', mode=0o700)
            shutil.copy(path, node.spool + '/incoming/a9p9/1.dcm')
            os.unlink(path)
            if call % 2:
                open(path, 'wb').write(whole[:-9])
            else:  # as a start before had found it
                db = sqlite3.connect(node.spool + '/queue.db')
                db.execute("UPDATE series SET state='FAILED', note='LOST_FILE: it'")
                db.commit()
                db.close()
            node.start('receive', env={'ISOSLICE_CRASH_AT': str(call)})
            time.sleep(0.5)
            node.kill_whole('receive')
            is_over = os.path.exists(path) and open(path, 'rb').read() == whole and only(node)['state'] == 'QUEUED'
            n_crashed += not is_over
            node.start('receive', wait=False)
            wait_for('the whole file in its place after call %d' % call, 10, lambda: os.path.exists(path) and open(path, 'rb').read() == whole)
            wait_for('queued after call %d' % call, 10, lambda: only(node)['state'] == 'QUEUED')
            wait_for('nothing waits after call %d' % call, 10, lambda: not glob.glob(node.spool + '/incoming/a9*'))
            node.kill_whole('receive')
            if is_over and call > 1:
                break
        check(n_crashed >= 2, 'only %d calls were reached' % n_crashed)
        check(is_over, 'no end of the file calls')
    finally:
        node.stop()


def lost_rows_are_made_again():
    """The queue was lost, or an earlier one copied back: files in the store that no row named stayed there and were never entered. What
    is in the store and in no row comes in again, with what was kept aside; the same bytes under a row that had lost its file are its."""
    good = phantom('source', matrix=32, slices=6)
    other = phantom('other', seed=2, matrix=32, slices=6)
    node = Node(receive__quiet_s=0.2).start('receive')
    try:
        storescu(node, good)
        wait_for('a job', 20, lambda: node.rows('job'))
        node.kill('receive', signal.SIGTERM)
        shutil.copy(node.spool + '/queue.db', 'earlier.db')
        node.start('receive')
        changed = pydicom.dcmread(good[0])
        changed.PatientComments = 'other bytes'
        changed.save_as('changed.dcm')
        storescu(node, other + ['changed.dcm'])
        wait_for('all in their places', 20, lambda: len(glob.glob(node.spool + '/store/*.dcm')) == 12 and
                 len(glob.glob(node.spool + '/aside/*.dcm')) == 1)
        node.kill('receive', signal.SIGTERM)
        kept, n_aside = node.stored(), set(os.listdir(node.spool + '/aside'))
        open(node.spool + '/store/foreign.dcm', 'wb').write(b'no image')
        for queue in (None, 'earlier.db'):
            [os.unlink(path) for path in glob.glob(node.spool + '/queue.db*')]
            if queue:
                shutil.copy(queue, node.spool + '/queue.db')
            node.start('receive')
            wait_for('both series', 20, lambda: sorted((r['state'], r['images']) for r in node.rows('series')) ==
                     [('CONFLICT', 7), ('QUEUED', 6)])
            wait_for('nothing waits', 20, lambda: not glob.glob(node.spool + '/incoming/a*'))
            equal(node.stored(), kept, 'files of the store')
            equal(set(os.listdir(node.spool + '/aside')), n_aside, 'files aside')
            node.kill('receive', signal.SIGTERM)
        log = open('node.log').read()
        check("12 files in '" in log and "6 files in '" in log, 'the log does not count them')
        check('1 files in' in log and 'not what was received' in log, 'the log does not tell of the foreign one')
        check('not on the disk' not in log, 'something counts as lost')
    finally:
        node.stop()


# ---- purging

def count_files(node):
    return {f: sum(len(files) for _, _, files in os.walk(node.spool + '/' + f)) for f in ('store', 'aside', 'derived', 'reports')}


def purge_goes_on_after_a_kill():
    """Killed in the middle of a purge, the next start took what was gone for a loss: FAILED, never purged, and what was sent again was
    dropped. Now it ends the purge before anything else, even where it would not begin one any more."""
    good = phantom('source', matrix=32, slices=5)
    node = Node(work__finetune=False, work__recipe='consistency=0').start('receive', 'work')
    try:
        storescu(node, good)
        wait_for('a job done', 60, lambda: [r for r in node.rows('job') if r['state'] == 'DONE'])
        node.stop()
        db = sqlite3.connect(node.spool + '/queue.db')
        for table in ('series', 'job'):
            db.execute('UPDATE %s SET changed_us=changed_us-%d' % (table, 10 * 86400 * 1000000))
        db.commit()
        db.close()
        before = count_files(node)
        shutil.copytree(node.spool, 'before')
        for call in (2, sum(before.values()) - 3):
            shutil.rmtree(node.spool)
            shutil.copytree('before', node.spool)
            node = Node(retention__keep_days=1)
            node.start('receive', env={'ISOSLICE_CRASH_AT': str(call)})
            wait_for('the purge begun', 10, lambda: count_files(node) != before)
            time.sleep(0.3)
            node.kill_whole('receive')
            check(sum(count_files(node).values()) > 0, 'not killed in its middle: %s' % count_files(node))
            node = Node(retention__keep_days=0).start('receive')
            wait_for('purged', 10, lambda: node.rows() == [])
            equal(sum(count_files(node).values()), 0, 'files left')
            storescu(node, good)
            wait_for('taken as new', 10, lambda: [r['images'] for r in node.rows('series')] == [len(good)])
            equal(len(node.stored()), len(good), 'kept')
            node.stop()
    finally:
        node.stop()


def removed_by_a_person():
    """The series that is named goes within seconds, with every file and row of it; the other stays. What is sent again is new."""
    good, other = phantom('source', matrix=32, slices=5), phantom('other', seed=2, matrix=32, slices=5)
    node = Node(work__finetune=False, work__recipe='consistency=0').start('receive', 'work')
    try:
        storescu(node, good + other)
        wait_for('both jobs done', 60, lambda: [r['state'] for r in node.rows('job')] == ['DONE', 'DONE'])
        uid = str(pydicom.dcmread(good[0], stop_before_pixels=True).SeriesInstanceUID)
        series = [r for r in node.rows('series') if r['uid'] == uid][0]
        names = [str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in other]
        isoslice('queue', '--config', node.config, 'remove', series['id'])
        wait_for('the series gone', 10, lambda: len(node.rows('series')) == 1 and len(node.rows('job')) == 1)
        equal(sorted(node.stored()), sorted(names), 'images left')
        equal({f: len(os.listdir(node.spool + '/' + f)) for f in ('derived', 'reports', 'work', 'aside')},
              {'derived': 1, 'reports': 1, 'work': 0, 'aside': 0}, 'what is left of results')
        check('1 series removed, as a person wanted' in open('node.log').read(), 'the log does not say so')
        done = isoslice('queue', '--config', node.config, 'remove', series['id'], ok=(1, 2))
        check('no such thing in the queue' in done.stderr, done.stderr)
        storescu(node, good)
        wait_for('it is done again', 60, lambda: [r['state'] for r in node.rows('job')] == ['DONE', 'DONE'])
    finally:
        node.stop()


def sent_again_after_a_removal():
    """Sent again right after a person's removal, while the series was still there: every image was acknowledged, dropped as a duplicate,
    and then what it was a duplicate of was removed. A new one among them keeps the series, and the log says so."""
    good = phantom('source', matrix=32, slices=6)
    node = Node(receive__quiet_s=3600).start('receive')
    try:
        storescu(node, good[1:])
        for _ in range(3):
            old = wait_for('indexed', 10, lambda: [r for r in node.rows('series') if r['images'] == 5])[0]
            isoslice('queue', '--config', node.config, 'remove', old['id'])
            storescu(node, good[1:])
            wait_for('the old one gone', 10, lambda: old['id'] not in [r['id'] for r in node.rows('series')])
            wait_for('nothing waits', 10, lambda: not glob.glob(node.spool + '/incoming/a*'))
            equal([r['images'] for r in node.rows('series')], [5], 'images of the new one')
            equal(len(node.stored()), 5, 'kept')
        last = only(node)['id']
        isoslice('queue', '--config', node.config, 'remove', last)
        storescu(node, good)
        wait_for('nothing waits', 10, lambda: not glob.glob(node.spool + '/incoming/a*'))
        equal(len(node.stored()), 6, 'kept')
        is_said = 'another image of it came before it was gone' in open('node.log').read()
        equal(is_said, only(node)['id'] == last, 'said that it stays')  # or it was gone before any came
    finally:
        node.stop()


# ---- load

def with_uid(data, old, i, series=None):
    """A data set with another SOP Instance UID of the same length."""
    return data.replace(old, (b'1.2.826.0.1.%012d' % (10 ** 11 + i)).ljust(len(old), b'7'))


def image(matrix):
    path = phantom('source', matrix=matrix, slices=5)[0]
    return dataset_of(path), str(pydicom.dcmread(path).SOPInstanceUID).encode()


def keep_sending(port, first, n, data, uid, acknowledged):
    """Sends n images until each was acknowledged, over as many associations as it takes; appends their numbers."""
    left = list(range(first, first + n))
    while left:
        try:
            sender = RawSender(port)
            if sender.answer[0] != 2:
                raise OSError('not accepted')
            while left:
                other = with_uid(data, uid, left[0])
                name = with_uid(uid, uid, left[0]).decode()
                status = sender.store(other, sop_instance=name)
                if status is None:
                    raise OSError('association broke')
                if status == 0:
                    acknowledged.append(left.pop(0))
        except OSError:
            time.sleep(0.05)


def killed_under_load():
    """kill -9 of the listener, of the indexer and of associations, 50 times at random moments while 4 senders bring 2,000 images."""
    data, uid = image(32)
    n_senders, n_each, n_kills = 4, 500, 50
    rng = random.Random(3)
    node = Node(receive__quiet_s=3600, receive__max_associations_per_address=32).start('receive')
    acknowledged = [[] for _ in range(n_senders)]
    threads = [threading.Thread(target=keep_sending, args=(node.port, i * n_each, n_each, data, uid, acknowledged[i]), daemon=True)
               for i in range(n_senders)]
    kills = collections.Counter()
    try:
        [t.start() for t in threads]
        start = time.monotonic()
        while any(t.is_alive() for t in threads):
            n_done = sum(map(len, acknowledged))
            check(time.monotonic() - start < 300, 'only %d images after 300 s' % n_done)
            if sum(kills.values()) < n_kills and n_done * n_kills >= sum(kills.values()) * n_senders * n_each:
                time.sleep(rng.random() * 0.03)
                listener = node.processes['receive'].pid
                children = subprocess.run(['pgrep', '-P', str(listener)], capture_output=True, text=True).stdout.split()
                if rng.random() < 0.3 or not children:
                    node.kill('receive')
                    node.start('receive', wait=False)
                    kills['listener'] += 1
                else:
                    os.kill(int(rng.choice(children)), signal.SIGKILL)
                    kills['child'] += 1
            time.sleep(0.002)
        equal(sum(kills.values()), n_kills, 'kills %s' % kills)
        wait_for('indexed', 60, lambda: not glob.glob(node.spool + '/incoming/a*'))
        kept = node.datasets()
        want = {with_uid(uid, uid, i).decode(): with_uid(data, uid, i) for part in acknowledged for i in part}
        equal(len(want), n_senders * n_each, 'acknowledged')
        equal(set(kept) ^ set(want), set(), 'kept and acknowledged')
        for name, data in kept.items():
            equal(data, want[name], 'bytes of ' + name)
        equal([r['images'] for r in node.rows('series')], [len(want)], 'objects in the queue')
        print('%s, %.0f s' % (dict(kills), time.monotonic() - start))
    finally:
        node.stop()


def private_mb(pid):
    fields = dict(line.split(':', 1) for line in open('/proc/%s/smaps_rollup' % pid) if ':' in line)
    return sum(int(fields[k].split()[0]) for k in ('Private_Clean', 'Private_Dirty')) / 1024


def two_hundred_associations():
    """Opened at once, an image through each while all are open, none above 20 MB of its own."""
    data, uid = image(256)
    n = 200
    node = Node(receive__quiet_s=3600, receive__max_associations=250, receive__max_associations_per_address=250).start('receive')
    senders, failures = [None] * n, []

    def open_one(i):
        try:
            senders[i] = RawSender(node.port)
        except OSError as e:
            failures.append(e)

    try:
        threads = [threading.Thread(target=open_one, args=(i,)) for i in range(n)]
        start = time.monotonic()
        [t.start() for t in threads]
        [t.join() for t in threads]
        took = time.monotonic() - start
        equal(failures, [], 'failures')
        equal({s.answer[0] for s in senders}, {2}, 'answers')
        for i, sender in enumerate(senders):
            equal(sender.store(with_uid(data, uid, i), sop_instance=with_uid(uid, uid, i).decode()), 0, 'status on association %d' % i)
        pids = subprocess.run(['pgrep', '-P', str(node.processes['receive'].pid)], capture_output=True, text=True).stdout.split()
        equal(len(pids), n + 1, 'processes beside the listener')
        mb = sorted(private_mb(p) for p in pids)
        if 'asan' not in subprocess.run(['ldd', program('isoslice-receive')], capture_output=True, text=True).stdout:
            check(mb[-1] <= 20, 'private memory %.1f MB' % mb[-1])
        [s.close() for s in senders]
        wait_for('all kept', 60, lambda: len(node.stored()) == n and not glob.glob(node.spool + '/incoming/a*'))
        print('%d associations in %.2f s, private memory at most %.1f MB' % (n, took, mb[-1]))
    finally:
        node.stop()


def hundred_thousand_objects():
    """A spool of 100,000 objects, 2,000 of which a crash left before their rows and 1,000 before their move, is reconciled within 30 s."""
    data, uid = image(32)
    n, n_unmoved, n_new = 100000, 1000, 2000
    node = Node(receive__quiet_s=3600).start('receive')
    sender = RawSender(node.port)
    equal(sender.store(data, sop_instance=uid.decode()), 0, 'status')
    sender.close()
    wait_for('indexed', 20, lambda: glob.glob(node.spool + '/store/*.dcm') and not glob.glob(node.spool + '/incoming/a*'))
    node.stop()
    original = glob.glob(node.spool + '/store/*.dcm')[0]
    bytes_of_original = open(original, 'rb').read()
    queue = sqlite3.connect(node.spool + '/queue.db')
    row = list(queue.execute('SELECT * FROM object').fetchone())
    names = [d[0] for d in queue.execute('SELECT * FROM object').description]

    def rows():
        for i in range(1, n - n_new):
            made = dict(zip(names, row))
            made.update(name='a%dp1-%d.dcm' % (i // 1000, i), sop_uid='1.2.826.0.2.%d' % i)
            yield [made[k] for k in names if k != 'id']
    with queue:
        queue.executemany('INSERT INTO object(%s) VALUES(%s)' % (','.join(k for k in names if k != 'id'), ','.join('?' * (len(names) - 1))),
                          rows())
    queue.close()
    for i in range(1, n):
        folder = node.spool + ('/incoming/a%dp1' % (i // 1000) if i >= n - n_new - n_unmoved else '/store')
        name = '%d.dcm' % i if 'incoming' in folder else 'a%dp1-%d.dcm' % (i // 1000, i)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if i >= n - n_new:
            open(folder + '/' + name, 'wb').write(with_uid(bytes_of_original, uid, i))
        elif i >= n - n_new - n_unmoved:
            open(folder + '/' + name, 'wb').write(bytes_of_original.replace(uid, (b'1.2.826.0.2.%d' % i).ljust(len(uid), b'\0')))
        else:
            if i % 50000 == 1:
                original = '%s/original%d' % (node.spool, i)  # ext4 takes 65,000 links to a file
                open(original, 'wb').write(bytes_of_original)
            os.link(original, folder + '/' + name)
    start = time.monotonic()
    node.start('receive', wait=False)
    try:
        wait_for('reconciled', 120, lambda: 'reconciled' in open('node.log').read().split('stopping')[-1])
        took = time.monotonic() - start
        equal([(r['state'], r['images']) for r in node.rows('series')], [('GATHERING', n)], 'series')
        equal(glob.glob(node.spool + '/incoming/a*'), [], 'incoming')
        check(took <= 30, 'took %.1f s' % took)
        print('%d objects reconciled in %.1f s' % (n, took))
    finally:
        node.stop()


TESTS = {
    'crash.receive.power_cut_at_every_call': power_cut_at_every_call,
    'crash.receive.power_cut_large': power_cut_while_a_large_one_comes,
    'crash.receive.rows_outlive_names': rows_outlive_names,
    'unit.receive.unreadable_files_stop_no_other': unreadable_files_stop_no_other,
    'unit.receive.lost_and_damaged_are_replaced': lost_and_damaged_are_replaced,
    'unit.receive.lost_rows_are_made_again': lost_rows_are_made_again,
    'crash.receive.replacing_at_every_call': replacing_dies_at_every_file_call,
    'crash.receive.purge_goes_on': purge_goes_on_after_a_kill,
    'unit.queue.removed_by_a_person': removed_by_a_person,
    'unit.queue.sent_again_after_a_removal': sent_again_after_a_removal,
    'crash.receive.killed_under_load': killed_under_load,
    'unit.receive.synced_before_answered': synced_before_answered,
    'unit.receive.two_hundred_associations': two_hundred_associations,
    'unit.receive.hundred_thousand_objects': hundred_thousand_objects,
}

if __name__ == '__main__':
    run_named(TESTS)
