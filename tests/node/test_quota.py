# SPDX-License-Identifier: Apache-2.0
"""What one sender may take, and a disk that runs full: on a real file system that small, at every stage of an object."""
import re
import sqlite3

from objects import *
from support import *

QUOTA_SENDERS = lambda **quota: [{'ae_title': 'SENDER', 'address': '127.0.0.0/8', **quota},
                                 {'ae_title': 'STORESCU', 'address': '127.0.0.0/8'}]
REJECTED_CONGESTION = (3, 2, 3, 1)


def receiver(**settings):
    open('start.safetensors', 'w').close()  # nothing is computed here
    return Node(receive__dimse_timeout_s=60, **settings).start('receive')


def sized(kb, uid, series=UID + '.2'):
    """An object of about so many kB."""
    return dataset(uid=uid, rows=kb, columns=512, series=series)


def uids(start=1):
    n = start
    while True:
        yield '%s.5.%d' % (UID, n)
        n += 1


def answer_of(sender):
    return (sender.answer[0],) + tuple(sender.answer[1][1:4])


def wait_indexed(node):
    wait_for('all indexed', 30, lambda: not glob.glob(node.spool + '/incoming/*/*.dcm'))
    # every association has been told: that comes at the end of the indexer's round
    wait_for('usage of %d bytes said' % node.stored_bytes(), 30, lambda: all(b >= node.stored_bytes() for b in said_bytes(node)))


def said_bytes(node):
    """What each open association has been told that its sender uses."""
    said = while_moving(lambda: [open(path).read() for path in glob.glob(node.spool + '/incoming/*/usage')])
    return [int(re.search(r'^bytes (\d+)$', text, re.M).group(1)) for text in said]


def leftovers(node):
    def look():
        return [p for p in glob.glob(node.spool + '/incoming/*/*') + glob.glob(node.spool + '/incoming/.a*')
                if os.path.getsize(p) > 0 and not p.endswith(('/sender', '/usage', '.dcm'))]
    return while_moving(look)


def nothing_left_behind(node):
    """Of refused objects; one that was acknowledged gets its final name right after the answer."""
    wait_for('nothing but acknowledged objects', 3, lambda: not leftovers(node))


def is_kept(node, uid):
    wait_for('%s, which was acknowledged, kept' % uid, 3, lambda: uid in node.stored())


def daily_bytes():
    """1 MB a day: what fits is kept to the last object, the rest is A700 and says why; others are not touched; a restart forgets
    nothing; a day later there is room again."""
    node = receiver(senders=QUOTA_SENDERS(daily_mb=1), receive__quiet_s=60)
    try:
        name = uids()
        sender = RawSender(node.port)
        statuses = [sender.store(sized(100, uid), sop_instance=uid) for uid in (next(name) for _ in range(12))]
        equal(statuses, [0] * 10 + [0xA700] * 2, 'statuses of 12 objects of 100 kB')
        check('daily_mb' in sender.comment, 'the Error Comment is %r' % sender.comment)
        uid = next(name)
        equal(sender.store(sized(10, uid), sop_instance=uid), 0, 'status of 10 kB that still fit')
        nothing_left_behind(node)
        equal(len(node.stored()), 11, 'objects kept')
        sender.release()
        other = RawSender(node.port, calling='STORESCU')
        uid = next(name)
        equal(other.store(sized(100, uid), sop_instance=uid), 0, 'status of another sender')
        other.release()
        wait_indexed(node)
        node.kill('receive')
        node.start('receive')
        again = RawSender(node.port)
        uid = next(name)
        equal(again.store(sized(100, uid), sop_instance=uid), 0xA700, 'status after a restart')
        db = sqlite3.connect(node.spool + '/queue.db')
        db.execute('UPDATE object SET received_us = received_us - 86401000000')
        db.commit()
        db.close()
        wait_for('room a day later', 20, lambda: again.store(sized(100, uid), sop_instance=uid) == 0)
        again.release()
        log = open('node.log').read()
        n = len(re.findall('refused: NO_SPACE: quota daily_mb', log))
        check(n >= 3, '%d refusals in the log' % n)
        equal(node.stop(), {'receive': 0}, 'exit codes')
    finally:
        node.stop()


def clock_put_back():
    """What came while the clock was a year ahead counted as of the last 24 hours for a year: its sender was refused all that time."""
    node = receiver(senders=QUOTA_SENDERS(daily_mb=1), receive__quiet_s=60)
    try:
        name = uids()
        sender = RawSender(node.port)
        for _ in range(10):
            uid = next(name)
            equal(sender.store(sized(100, uid), sop_instance=uid), 0, 'status')
        sender.release()
        wait_for('all indexed', 10, lambda: not glob.glob(node.spool + '/incoming/a*'))
        node.stop()
        db = sqlite3.connect(node.spool + '/queue.db')
        db.execute('UPDATE object SET received_us = received_us + 365 * 86400000000')
        db.commit()
        db.close()
        node.start('receive')
        sender = RawSender(node.port)
        uid = next(name)
        wait_for('room', 5, lambda: sender.store(sized(100, uid), sop_instance=uid) == 0)
        sender.release()
    finally:
        node.stop()


def duplicates_are_free():
    """The same object again takes nothing of the quota."""
    node = receiver(senders=QUOTA_SENDERS(daily_mb=1), receive__quiet_s=60)
    try:
        sender = RawSender(node.port)
        uid = UID + '.6'
        for n in range(25):
            equal(sender.store(sized(100, uid), sop_instance=uid), 0, 'status of sending number %d' % (n + 1))
            if n % 5 == 4:
                other = UID + '.6.%d' % n  # a new one, so that the indexer says again what is used
                equal(sender.store(sized(1, other), sop_instance=other), 0, 'status of a small one')
                wait_indexed(node)
        sender.release()
    finally:
        node.stop()


def associations_share_it():
    """Four associations of one sender at once do not get it four times."""
    node = receiver(senders=QUOTA_SENDERS(daily_mb=1), receive__quiet_s=60)
    try:
        name = uids()
        senders = [RawSender(node.port) for _ in range(4)]
        n_kept = 0
        for n in range(16):
            uid = next(name)
            n_kept += senders[n % 4].store(sized(100, uid), sop_instance=uid) == 0
            wait_indexed(node)
        equal(n_kept, 10, 'objects of 100 kB kept of four associations in turn')
        [s.release() for s in senders]
        node.stop()
        shutil.rmtree('spool')
        # At once: each may take what the others received within a round of the indexer, and no more.
        node = receiver(senders=QUOTA_SENDERS(daily_mb=1), receive__quiet_s=60)
        senders = [RawSender(node.port) for _ in range(4)]
        for n in range(48):
            uid = next(name)
            senders[n % 4].store(sized(100, uid), sop_instance=uid)
        wait_indexed(node)
        total = node.stored_bytes()
        check(total <= 4 << 20, '%d bytes kept of 1 MB a day' % total)
        refused = []
        for s in senders:
            uid = next(name)
            refused.append(s.store(sized(100, uid), sop_instance=uid))
        equal(refused, [0xA700] * 4, 'statuses once all is indexed')
        [s.release() for s in senders]
    finally:
        node.stop()


def open_series():
    """Two series open at a time; a third is refused until one of them is complete."""
    node = receiver(senders=QUOTA_SENDERS(max_open_series=2), receive__quiet_s=1)
    try:
        name = uids()

        def send(sender, series):
            uid = next(name)
            return sender.store(sized(1, uid, series='%s.8.%d' % (UID, series)), sop_instance=uid)
        sender = RawSender(node.port)
        equal([send(sender, series) for series in (1, 2, 1, 2, 3, 2, 3, 1)], [0, 0, 0, 0, 0xA700, 0, 0xA700, 0], 'statuses')
        wait_indexed(node)
        equal([send(sender, series) for series in (1, 2, 3)], [0, 0, 0xA700], 'statuses once they are indexed')
        check('max_open_series' in sender.comment, 'the Error Comment is %r' % sender.comment)
        second = RawSender(node.port)
        equal([send(second, series) for series in (3, 2)], [0xA700, 0], 'statuses in another association')
        sender.release()
        second.release()
        wait_for('both series complete', 10, lambda: [r['state'] for r in node.rows('series')] == ['QUEUED'] * 2)
        time.sleep(0.5)
        third = RawSender(node.port)
        equal(send(third, 3), 0, 'status of the third, later')
        third.release()
    finally:
        node.stop()


# ---- a disk of its own: a tmpfs in a mount namespace of this process

def with_own_mounts(test):
    def run():
        if os.environ.get('ISOSLICE_TEST_MOUNTS') != '1':
            os.environ['ISOSLICE_TEST_MOUNTS'] = '1'
            mode = ['--mount'] if os.geteuid() == 0 and can_mount(['--mount']) else ['--map-root-user', '--mount']
            sys.stdout.flush()
            os.execvp('unshare', ['unshare', *mode, sys.executable, *sys.argv])
        test()
    return run


def can_mount(mode):
    probe = 'mount -t tmpfs tmpfs "$1"'
    os.makedirs('probe', exist_ok=True)
    return subprocess.run(['unshare', *mode, 'sh', '-c', probe, 'sh', 'probe'], capture_output=True).returncode == 0


class Disk:
    def __init__(self, folder='spool'):
        os.makedirs(folder)
        self.folder = folder
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64m,nr_inodes=10000,mode=0700', 'tmpfs', folder], check=True)

    def leave(self, n_bytes=None, n_inodes=None):
        """So much is free from now on; None: plenty."""
        for _ in range(20):  # what is used may change in between
            s = os.statvfs(self.folder)
            size = (s.f_blocks - s.f_bfree) * s.f_frsize + (64 << 20 if n_bytes is None else n_bytes)
            inodes = s.f_files - s.f_ffree + (10000 if n_inodes is None else n_inodes)
            done = subprocess.run(['mount', '-o', 'remount,size=%d,nr_inodes=%d' % (size, inodes), self.folder], capture_output=True)
            if done.returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError('cannot change the size of the disk: %s' % done.stderr)


def runs_full(free_kb, object_kbs):
    @with_own_mounts
    def test():
        """Objects of many sizes around what is free: every one of them ends at another place of its way."""
        disk = Disk()
        node = receiver(receive__disk_reserve_mb=0, receive__quiet_s=60)
        try:
            name = uids()
            acknowledged, refused = {}, []
            sender = RawSender(node.port)
            equal(sender.answer[0], 2, 'answer')
            uid = next(name)
            equal(sender.store(sized(1, uid), sop_instance=uid), 0, 'status on an empty disk')
            acknowledged[uid] = sized(1, uid)
            n_inodes = {'of an object': 1, 'plenty': None}
            for kb in object_kbs:
                for what, inodes in n_inodes.items():
                    uid = next(name)
                    data = sized(kb, uid)
                    wait_for('all indexed', 10, lambda: not glob.glob(node.spool + '/incoming/*/*.dcm'))
                    disk.leave(free_kb << 10, inodes)
                    status = sender.store(data, sop_instance=uid)
                    check(status in (0, 0xA700), 'status %r of %d kB with %d kB free' % (status, kb, free_kb))
                    check(status == 0 or sender.comment != '', 'no Error Comment')
                    if status == 0:
                        acknowledged[uid] = data
                        is_kept(node, uid)
                    else:
                        refused.append(uid)
                        nothing_left_behind(node)
                    fresh = RawSender(node.port)  # another association on the full disk
                    check(fresh.answer[0] == 2 or answer_of(fresh) == REJECTED_CONGESTION, 'answer %r' % (answer_of(fresh),))
                    if fresh.answer[0] == 2:
                        other = next(name)
                        status = fresh.store(sized(kb, other), sop_instance=other)
                        check(status in (0, 0xA700), 'status %r in another association' % status)
                        if status == 0:
                            acknowledged[other] = sized(kb, other)
                        else:
                            refused.append(other)
                    fresh.close()
                    disk.leave()
            check(refused, 'nothing was refused')
            check(len(acknowledged) > 1, 'nothing was kept')
            uid = next(name)
            equal(sender.store(sized(1, uid), sop_instance=uid), 0, 'status in the same association once there is space')
            acknowledged[uid] = sized(1, uid)
            sender.release()
            wait_for('the spool at rest', 20, lambda: not glob.glob(node.spool + '/incoming/*'))
            kept = node.datasets()
            equal(set(kept), set(acknowledged), 'objects kept')
            for uid, data in kept.items():
                equal(data, acknowledged[uid], 'bytes of ' + uid)
            equal(sum(r['images'] for r in node.rows('series')), len(acknowledged), 'objects in the queue')
            equal(glob.glob(node.spool + '/incoming/.a*'), [], 'hidden folders')
            print('%d kept, %d refused' % (len(acknowledged), len(refused)))
            equal(node.stop(), {'receive': 0}, 'exit codes')
        finally:
            node.stop()
    return test


@with_own_mounts
def inodes_run_out():
    """Not a file more: at every stage that makes one."""
    disk = Disk()
    node = receiver(receive__disk_reserve_mb=0, receive__quiet_s=60)
    try:
        name, acknowledged = uids(), set()
        answers = []
        for n in range(12):
            wait_for('no association open', 10, lambda: not glob.glob(node.spool + '/incoming/*'))
            disk.leave(None, n)
            sender = RawSender(node.port)
            answers.append(answer_of(sender))
            if sender.answer[0] == 2:
                uid = next(name)
                status = sender.store(sized(1, uid), sop_instance=uid)
                answers.append(status)
                check(status in (0, 0xA700), 'status %r with %d inodes' % (status, n))
                if status == 0:
                    acknowledged.add(uid)
                    is_kept(node, uid)
            else:
                equal(answer_of(sender), REJECTED_CONGESTION, 'answer with %d inodes' % n)
            sender.close()
            equal(glob.glob(node.spool + '/incoming/.a*'), [], 'hidden folders')
        disk.leave()
        check(REJECTED_CONGESTION in answers and 0 in answers, 'answers: %s' % answers)
        uid = next(name)
        sender = RawSender(node.port)
        equal(sender.store(sized(1, uid), sop_instance=uid), 0, 'status once there is space')
        sender.release()
        wait_for('the spool at rest', 20, lambda: not glob.glob(node.spool + '/incoming/*'))
        equal(set(node.stored()), acknowledged | {uid}, 'objects kept')
    finally:
        node.stop()


@with_own_mounts
def reserve():
    """Below the reserve: objects of open associations are A700, new associations are rejected as congestion; and all by itself it
    is over when there is space."""
    disk = Disk()
    node = receiver(receive__disk_reserve_mb=1, receive__quiet_s=60)
    try:
        name = uids()
        sender = RawSender(node.port)
        uid = next(name)
        equal(sender.store(sized(1, uid), sop_instance=uid), 0, 'status above the reserve')
        disk.leave(900 << 10)
        uid = next(name)
        equal(sender.store(sized(1, uid), sop_instance=uid), 0xA700, 'status below the reserve')
        check('reserve' in sender.comment, 'the Error Comment is %r' % sender.comment)
        rejected = RawSender(node.port)
        equal(answer_of(rejected), REJECTED_CONGESTION, 'answer below the reserve')
        rejected.close()
        wait_for('the line about it', 5, lambda: 'NO_SPACE: association rejected: disk below its reserve' in open('node.log').read())
        disk.leave()
        equal(sender.store(sized(1, uid), sop_instance=uid), 0, 'status in the same association with space again')
        sender.release()
        uid = next(name)
        sender = RawSender(node.port)
        equal(sender.store(sized(1, uid), sop_instance=uid), 0, 'status in a new association')
        sender.release()
        wait_for('the spool at rest', 20, lambda: not glob.glob(node.spool + '/incoming/*'))
        equal(len(node.stored()), 3, 'objects kept')
    finally:
        node.stop()


TESTS = {
    'unit.quota.daily_bytes': daily_bytes,
    'unit.quota.clock_put_back': clock_put_back,
    'unit.quota.duplicates_are_free': duplicates_are_free,
    'unit.quota.associations_share_it': associations_share_it,
    'unit.quota.open_series': open_series,
    'crash.disk.full_at_8_kb': runs_full(8, [1, 2, 3, 4, 5, 6, 7, 8, 10, 12]),
    'crash.disk.full_at_16_kb': runs_full(16, [1, 6, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20]),
    'crash.disk.full_at_64_kb': runs_full(64, [1, 40, 54, 57, 58, 59, 60, 61, 62, 63, 64, 66, 100]),
    'crash.disk.full_at_1_mb': runs_full(1024, [500, 1000, 1015, 1019, 1020, 1021, 1022, 1023, 1024, 1030, 2000]),
    'crash.disk.inodes_run_out': inodes_run_out,
    'crash.disk.reserve': reserve,
}

if __name__ == '__main__':
    run_named(TESTS)
