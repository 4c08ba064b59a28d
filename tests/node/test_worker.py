# SPDX-License-Identifier: Apache-2.0
"""What the worker does with kept objects that are not what was received any more, and with a lease that it has lost."""
import ctypes
import sqlite3

import pydicom

from support import *


def put_bytes(path, offset, data):
    with open(path, 'r+b') as f:
        f.seek(offset, os.SEEK_END)
        f.write(data)


def one_byte_of_the_pixels(path):
    with open(path, 'rb') as f:
        f.seek(-1001, os.SEEK_END)
        byte = f.read(1)[0]
    put_bytes(path, -1001, bytes([byte ^ 0x40]))


def the_end(path):
    os.truncate(path, os.path.getsize(path) - 100)


def the_seal(path):
    with open(path, 'r+b') as f:
        f.write(b'\0' * 128)


def head_under_a_new_seal(path):
    """Something writes into the store that makes seals, too: the seal is whole and the file no image."""
    with open(path, 'rb') as f:
        content = b'none' + f.read()[132:]
    library = ctypes.CDLL('libxxhash.so.0')
    library.XXH3_128bits.restype = type('Hash', (ctypes.Structure,), {'_fields_': [('low', ctypes.c_uint64), ('high', ctypes.c_uint64)]})
    library.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    checksum = library.XXH3_128bits(content, len(content))
    with open(path, 'wb') as f:
        f.write(('ISOSLICE SEAL XXH3 %016x%016x' % (checksum.high, checksum.low)).encode().ljust(128, b'\0') + content)


def damaged_files_fail_the_job():
    """A disk spoils one slice of seven after it was acknowledged. Once its pixels went into the derived series as they were;
    and where it could not be read at all, a series was made from the other six. Nothing is derived, the file is named, and the
    job is done when the bytes are back and a person says so."""
    faults = {one_byte_of_the_pixels: 'DAMAGED_FILE', the_end: 'DAMAGED_FILE', the_seal: 'DAMAGED_FILE', head_under_a_new_seal: 'NOT_DICOM'}
    for n, (damage, fault) in enumerate(faults.items()):
        shutil.rmtree('spool', ignore_errors=True)
        node = Node(free_port(), work__finetune=False, work__spacing=4).start('receive')
        try:
            storescu(node, phantom('sent%d' % n, seed=n + 1, slices=7))
            wait_for('a job', 30, lambda: node.rows('job'))
            wait_for('everything in its place', 10, lambda: len(glob.glob(node.spool + '/store/*.dcm')) == 7)
            last = max(glob.glob(node.spool + '/store/*.dcm'),
                       key=lambda p: int(pydicom.dcmread(p, stop_before_pixels=True).InstanceNumber))
            whole = open(last, 'rb').read()
            damage(last)
            node.start('work')
            job = wait_for('the job FAILED', 60, lambda: [r for r in node.rows('job') if r['state'] not in ('WAITING', 'LEASED')])[0]
            said = '%s %s' % (job['note'], node.show(job['id']))
            equal(job['state'], 'FAILED', '%s: state (%s)' % (damage.__name__, said))
            check(fault in said and os.path.basename(last) in said, '%s: %s' % (damage.__name__, said))
            equal(os.listdir(node.spool + '/derived'), [], 'derived')
            equal(node.rows('delivery'), [], 'deliveries')
            with open(last, 'wb') as f:
                f.write(whole)
            isoslice('queue', '--config', node.config, 'retry', job['id'])
            wait_for('the job DONE', 60, lambda: node.rows('job')[0]['state'] == 'DONE')
            equal(len(node.rows('delivery')), 1, 'deliveries once it is whole')
        finally:
            node.stop()


def sleeper_spares_the_next():
    """A worker sleeps past its lease (a suspended machine), another takes the job; when the first wakes up and cleans up, the
    second goes on and finishes. Once the first removed the folder that the second was writing."""
    node = Node(free_port(), work__steps=10, work__lease_s=2).start('receive')
    workers = []

    def log():
        return open('node.log', errors='replace').read()

    def new_worker():
        workers.append(subprocess.Popen([program('isoslice-work'), '--config', node.config], stderr=node.log))
    try:
        storescu(node, phantom('sent', slices=8))
        wait_for('a job', 30, lambda: node.rows('job'))
        new_worker()
        wait_for('the first at work', 60, lambda: 'job j1: fine-tune' in log())
        workers[0].send_signal(signal.SIGSTOP)
        new_worker()
        wait_for('the second at work', 60, lambda: 'attempt 2' in log() and log().count('job j1: fine-tune 0 %') == 2)
        workers[0].send_signal(signal.SIGCONT)
        wait_for('the first aware of it', 60, lambda: 'job j1: its lease was lost' in log() or
                 re.search(r'job j1: .*(somebody else|lease)', log()))
        wait_for('the job done', 120, lambda: node.rows('job')[0]['state'] not in ('LEASED', 'WAITING'))
        equal(node.rows('job')[0]['state'], 'DONE', 'state')
        check('attempt 3' not in log(), 'it was done three times')
        [delivery] = node.rows('delivery')
        equal(len(files_of(node.spool + '/derived/j1-s0')), delivery['images'], 'images of the derived series')
        wait_for('work/ empty', 10, lambda: os.listdir(node.spool + '/work') == [])
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
            worker.wait(60)
        node.stop()


def series_without_its_picture():
    """A preview that cannot be written is no reason to withhold what it would have shown."""
    node = Node(free_port(), work__steps=1, work__preview=True).start('receive')
    try:
        os.makedirs(node.spool + '/reports/j1-s0.png/in-the-way')
        storescu(node, phantom('sent', slices=6))
        node.start('work')
        wait_for('the job done', 60, lambda: [r for r in node.rows('job') if r['state'] not in ('LEASED', 'WAITING')])
        equal(node.rows('job')[0]['state'], 'DONE', 'state')
        equal(len(node.rows('delivery')), 1, 'deliveries')
        check('job j1: no picture: ' in open('node.log').read(), 'the log does not say so')
    finally:
        node.stop()


def a_fault_that_stays_is_told():
    """The folder to work in is not to be had. Attempts that are made again by themselves are warnings, the last one is an error,
    and so is the job held after it. Once each attempt wanted a person, and nothing said that the job was held; nor of one that
    killed its worker every time."""
    node = Node(work__max_attempts=3, send__retry_min_s=0.3).start('work')
    try:
        wait_for('the worker', 20, lambda: 'working with' in open('node.log').read())
        os.rmdir(node.spool + '/work')
        open(node.spool + '/work', 'w').close()
        database = sqlite3.connect(node.spool + '/queue.db')
        now_us = int(time.time() * 1e6)
        for series, attempts in (('1.2.3', 0), ('1.2.4', 3)):
            database.execute("INSERT INTO job(series_uid, state, last_object, attempts, created_us, changed_us)"
                             " VALUES(?, 'WAITING', 0, ?, ?3, ?3)", (series, attempts, now_us))
        database.commit()
        wait_for('both held', 30, lambda: database.execute("SELECT count(*) FROM job WHERE state='HELD'").fetchone()[0] == 2)
        database.close()
        held = lambda id: sum(' error ' in line and 'job %s is held: tried 3 times' % id in line for line in open('node.log'))
        wait_for('the lines', 5, lambda: (held('j1'), held('j2')) == (1, 1))
        equal([line.split()[1] for line in open('node.log') if 'job j1: temporary fault' in line], ['warning', 'warning', 'error'],
              'what the attempts were logged as')
    finally:
        node.stop()


def a_wider_spacing_is_refused():
    """work.spacing is 8 mm and the slices are 5.5 mm apart: nothing to do, as with any series that is thin already. Once such a
    job FAILED with an error for a person to look at, every time."""
    node = Node(free_port(), work__spacing='8').start('receive', 'work')
    try:
        storescu(node, phantom('sent', matrix=32, slices=6))
        node.wait_idle(60)
        job, = node.rows('job')
        equal(job['state'], 'REFUSED', 'the job (%s)' % job['note'])
        check('NOTHING_TO_DO' in job['note'] and '8 mm' in job['note'], job['note'])
        check(not [line for line in open('node.log') if ' error ' in line], 'errors in the log')
    finally:
        node.stop()


def anew_gives_other_uids():
    """What was derived was withdrawn from the archive, which takes those UIDs no more: done anew it has the same voxels under other
    UIDs, and those again when it is only done again. An id that is none does not keep the next from being done."""
    node = Node(free_port(), work__finetune=False, work__spacing=4).start('receive', 'work')

    def derived():
        wait_for('the job DONE', 60, lambda: [r['state'] for r in node.rows('job')] == ['DONE'])
        objects = [pydicom.dcmread(p) for p in files_of(node.spool + '/derived/j1-s0')]
        return {str(d.SOPInstanceUID): d for d in objects} | {'series': str(objects[0].SeriesInstanceUID)}
    try:
        storescu(node, phantom('sent', slices=6))
        wait_for('a job', 30, lambda: node.rows('job'))
        first = derived()
        done = isoslice('queue', '--config', node.config, 'anew', 'j7', 's1', 'j1', ok=(1, 2))
        check("'j7'" in done.stderr and "'s1'" in done.stderr and "'j1'" not in done.stderr, done.stderr)
        second = derived()
        equal(set(first) & set(second), {'series'}, 'UIDs of both')
        check(first['series'] != second['series'], 'the same series')

        def voxels(made):
            return [d.PixelData for d in sorted((d for uid, d in made.items() if uid != 'series'), key=lambda d: int(d.InstanceNumber))]
        check(voxels(first) == voxels(second), 'other voxels')
        isoslice('queue', '--config', node.config, 'retry', 'j1')
        again = derived()
        equal((sorted(again), again['series']), (sorted(second), second['series']), 'UIDs of a job that is done again')
        equal(len(node.rows('delivery')), 1, 'deliveries')
    finally:
        node.stop()


TESTS = {
    'unit.worker.a_fault_that_stays_is_told': a_fault_that_stays_is_told,
    'unit.worker.anew_gives_other_uids': anew_gives_other_uids,
    'unit.work.a_wider_spacing_is_refused': a_wider_spacing_is_refused,
    'unit.worker.damaged_files_fail_the_job': damaged_files_fail_the_job,
    'unit.worker.series_without_its_picture': series_without_its_picture,
    'unit.worker.sleeper_spares_the_next': sleeper_spares_the_next,
}

if __name__ == '__main__':
    run_named(TESTS)
