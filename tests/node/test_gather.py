# SPDX-License-Identifier: Apache-2.0
"""When a series is complete: never early, never twice, and no later than it must."""
import calendar
import sqlite3
import statistics

from objects import *
from support import *

SERIES = UID + '.20'


def plane(k, series=SERIES, z=None, number=None, acquisition=1, expected=None, rows=4):
    """Image k of a series, 5 mm apart, as (UID, bytes)."""
    more = explicit(0x20, 0x12, b'IS', even(str(acquisition), b' ')) + \
        explicit(0x20, 0x13, b'IS', even(str(k + 1 if number is None else number), b' ')) + \
        explicit(0x20, 0x32, b'DS', even('-10\\-20\\%g' % (5 * k if z is None else z), b' ')) + \
        explicit(0x20, 0x37, b'DS', even('1\\0\\0\\0\\1\\0', b' '))
    if expected is not None:
        more += explicit(0x20, 0x1002, b'IS', even(str(expected), b' '))
    uid = '%s.%d.%d' % (series, acquisition, k + 1)
    return uid, dataset(uid=uid, series=series, more=more, rows=rows)


def send(sender, ks, **names):
    for k in ks:
        uid, data = plane(k, **names)
        equal(sender.store(data, sop_instance=uid), 0, 'status of image %d' % k)


def send_alone(node, ks, calling='SENDER', **names):
    sender = RawSender(node.port, calling=calling)
    send(sender, ks, **names)
    sender.release()


def receiver(**settings):
    open('start.safetensors', 'w').close()  # nothing is computed here
    return Node(**{'receive__dimse_timeout_s': 60, **settings}).start('receive')


def jobs(node):
    """Of every job: (series, images, seconds since 1970 when it was made)."""
    db = sqlite3.connect(node.spool + '/queue.db')
    try:
        return db.execute("SELECT series_uid, (SELECT count(*) FROM object o WHERE o.series_uid=j.series_uid AND o.id<=j.last_object),"
                          " created_us*1e-6 FROM job j ORDER BY id").fetchall()
    finally:
        db.close()


def note_of(node):
    return node.rows('series')[0]['note']


def no_job_for(node, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        equal(jobs(node), [], 'jobs so far')
        time.sleep(0.1)


def wait_job(node, timeout_s, n=1):
    wait_for('a job', timeout_s, lambda: len(jobs(node)) >= n)
    return jobs(node)


def never_twice(node, want):
    time.sleep(2)
    equal([j[:2] for j in jobs(node)], want, 'jobs in the end')


def quiet_time():
    """Not before the quiet time, and within a second after it."""
    node = receiver(receive__quiet_s=2)
    try:
        send_alone(node, range(5))
        last = time.time()
        made = wait_job(node, 10)[0]
        check(made[2] - last >= 1.8, 'made %.2f s after the last image' % (made[2] - last))
        check(made[2] - last <= 3.2, 'made %.2f s after the last image' % (made[2] - last))
        never_twice(node, [(SERIES, 5)])
    finally:
        node.stop()


def open_association():
    """While a sender of the series has an association open it is not complete, whoever sent last."""
    node = receiver(receive__quiet_s=1)
    try:
        first, second = RawSender(node.port), RawSender(node.port, calling='STORESCU')
        for k in range(0, 6, 2):  # interleaved
            send(first, [k])
            send(second, [k + 1])
        second.release()
        no_job_for(node, 3)
        send(first, [6])
        first.release()
        wait_job(node, 4)
        never_twice(node, [(SERIES, 7)])
    finally:
        node.stop()


def two_series_interleaved():
    """Two senders, a series each, image by image: two jobs with what is theirs."""
    node = receiver(receive__quiet_s=1)
    try:
        first, second = RawSender(node.port), RawSender(node.port, calling='STORESCU')
        for k in range(5):
            send(first, [k], series=SERIES + '.1')
            send(second, [k], series=SERIES + '.2')
        first.release()
        wait_for('the first job', 4, lambda: [j[:2] for j in jobs(node)] == [(SERIES + '.1', 5)])
        send(second, [5], series=SERIES + '.2')
        second.release()
        wait_job(node, 4, n=2)
        never_twice(node, [(SERIES + '.1', 5), (SERIES + '.2', 6)])
    finally:
        node.stop()


def reconnects_in_time():
    """A sender that is back within the quiet time goes on with the same series."""
    node = receiver(receive__quiet_s=2)
    try:
        for k in range(4):
            send_alone(node, [k])
            no_job_for(node, 1)
        wait_job(node, 4)
        never_twice(node, [(SERIES, 4)])
    finally:
        node.stop()


def hole(**names):
    """A hole keeps the series waiting beyond the quiet time; filled after 3 s it is complete at the usual time."""
    def test():
        node = receiver(receive__quiet_s=1)
        try:
            send_alone(node, [0, 1, 2, 4, 5], **names)
            no_job_for(node, 3)
            check('incomplete' in note_of(node) and '1 ' in note_of(node), 'the note is %r' % note_of(node))
            send_alone(node, [3], **names)
            wait_job(node, 3)
            equal(note_of(node), '', 'the note of a complete series')
            never_twice(node, [(SERIES, 6)])
        finally:
            node.stop()
    return test


def hole_of_numbers():
    """Positions without a hole, but an Instance Number is missing: an end of an interleaved acquisition has not come."""
    node = receiver(receive__quiet_s=1, receive__incomplete_s=3)
    try:
        sender = RawSender(node.port)
        for k, number in enumerate([1, 4, 2, 5]):  # 3 is the last plane
            send(sender, [k], number=number)
        sender.release()
        no_job_for(node, 2)
        check('after Instance Number 2' in note_of(node), 'the note is %r' % note_of(node))
        wait_job(node, 4)
    finally:
        node.stop()


def hole_never_filled():
    """After the long time the job is made all the same, and refused by name; nothing is interpolated over the hole."""
    good = phantom('source', slices=9)
    node = Node(free_port(), receive__quiet_s=0.5, receive__incomplete_s=4).start()
    try:
        storescu(node, good[:3] + good[4:])
        sent = time.monotonic()
        wait_for('a job', 10, lambda: jobs(node))
        check(time.monotonic() - sent > 3.5, 'the job was made after %.1f s' % (time.monotonic() - sent))
        node.wait_idle(60)
        job = node.rows('job')[0]
        check(job['state'] in ('REFUSED', 'FAILED') and 'MISSING_SLICES' in job['note'], 'the job is %s' % job)
        check('incomplete: 1 positions' in note_of(node), 'the note is %r' % note_of(node))
        equal(node.rows('delivery'), [], 'deliveries')
    finally:
        node.stop()


def count_reached():
    """As many images as Images in Acquisition announces: no waiting, though the association stays open."""
    node = receiver(receive__quiet_s=60)
    try:
        sender = RawSender(node.port)
        send(sender, range(5), expected=6)
        no_job_for(node, 2)
        send(sender, [5], expected=6)
        last = time.time()
        made = wait_job(node, 4)[0]
        check(made[2] - last < 2, 'made %.2f s after the last image' % (made[2] - last))
        sender.release()
        never_twice(node, [(SERIES, 6)])
    finally:
        node.stop()


def count_not_reached():
    """Fewer than announced: the long time counts, then the job is made and the series says what is missing."""
    node = receiver(receive__quiet_s=1, receive__incomplete_s=4)
    try:
        send_alone(node, range(6), expected=8)
        last = time.time()
        no_job_for(node, 3)
        equal(note_of(node), 'incomplete: 6 of 8 images of an acquisition came', 'the note')
        made = wait_job(node, 4)[0]
        check(3.8 < made[2] - last < 5.5, 'made %.2f s after the last image' % (made[2] - last))
        check('6 of 8' in note_of(node) and 'quiet' in note_of(node), 'the note is %r' % note_of(node))
        never_twice(node, [(SERIES, 6)])
    finally:
        node.stop()


def count_exceeded():
    """More images than announced (between-slice interpolation): the announcement counts for nothing, and did not start early."""
    node = receiver(receive__quiet_s=2)
    try:
        sender = RawSender(node.port)
        for k in range(8):
            send(sender, [k], expected=4)
            no_job_for(node, 0.4)
        sender.release()
        no_job_for(node, 1)
        wait_job(node, 4)
        never_twice(node, [(SERIES, 8)])
    finally:
        node.stop()


def count_of_two_acquisitions():
    """Every acquisition that has begun must be whole."""
    node = receiver(receive__quiet_s=60)
    try:
        sender = RawSender(node.port)
        send(sender, range(0, 3), expected=4, acquisition=1)
        send(sender, range(4, 8), expected=4, acquisition=2)
        no_job_for(node, 2)
        send(sender, [3], expected=4, acquisition=1)
        wait_job(node, 3)
        sender.release()
        never_twice(node, [(SERIES, 8)])
    finally:
        node.stop()


def late_image():
    """An image that comes after its job was made: another job and another derived series, which says so, as do log and queue."""
    import pydicom
    good = phantom('source', slices=9)
    pacs = Orthanc().start()
    node = Node(pacs.dicom, receive__quiet_s=1).start()
    try:
        storescu(node, good[:-1])
        node.wait_idle(120)
        storescu(node, good)
        node.wait_idle(120)
        equal([r['state'] for r in node.rows('job')], ['DONE', 'DONE'], 'jobs')
        check("1 images are late: an earlier job went without them" in open('node.log').read(), 'the log says nothing of it')
        equal([dict(node.show(id))['late images'] for id in ('j1', 'j2')], ['0', '1'], 'late images of the jobs')
        counts = pacs.fetch('back')
        equal(len(counts), 2, 'derived series')
        texts = []
        for uid in counts:
            d = pydicom.dcmread(files_of('back/' + uid)[0], stop_before_pixels=True)
            texts.append((counts[uid], str(d.SeriesDescription), str(d.DerivationDescription)))
        first, second = sorted(texts)
        check('late' not in first[1] and 'came after' not in first[2], 'the first series says %s' % (first,))
        check('+1 late]' in second[1] and 'Made again: 1 images came after' in second[2], 'the second series says %s' % (second,))
        check(second[2].endswith('Not for primary diagnosis.') and len(second[1]) <= 64, 'the second series says %s' % (second,))
    finally:
        node.stop()
        pacs.stop()


def restarted():
    """Killed while it gathers, while it waits for a hole to be filled, and after the job was made: one job, with everything."""
    node = receiver(receive__quiet_s=2)
    try:
        send_alone(node, [0, 1])
        node.kill('receive')
        node.start('receive')
        send_alone(node, [2, 4])
        no_job_for(node, 1)
        node.kill('receive')
        node.start('receive')
        no_job_for(node, 3)
        check('incomplete' in note_of(node), 'the note is %r' % note_of(node))
        node.kill('receive')
        node.start('receive')
        send_alone(node, [3])
        node.kill('receive')
        node.start('receive')
        wait_job(node, 5)
        node.kill('receive')
        node.start('receive')
        send_alone(node, [3, 4])  # again: nothing new
        time.sleep(1)
        never_twice(node, [(SERIES, 5)])
    finally:
        node.stop()


def clock_put_back():
    """A series that came while the clock was a day ahead: it goes on at once when that is put right, and the log says so once."""
    node = receiver(receive__quiet_s=4)
    try:
        send_alone(node, range(5))
        wait_for('the rows', 5, lambda: any(r['images'] == 5 for r in node.rows('series')))
        db = sqlite3.connect(node.spool + '/queue.db', timeout=30)
        db.execute('UPDATE series SET changed_us=changed_us+86400*1000000')
        db.commit()
        db.close()
        wait_job(node, 15)
        equal(open('node.log').read().count('1 rows of the queue lay in the future'), 1, 'lines about it')
        equal([j[:2] for j in jobs(node)], [(SERIES, 5)], 'jobs')
    finally:
        node.stop()


def archive(n_there, node_settings, pacs=None):
    """A node whose archive has the first n_there images of the series; gives (pacs, node)."""
    pacs = pacs or Orthanc().start()
    os.makedirs('archived')
    for k in range(n_there):
        uid, data = plane(k)
        meta = explicit(2, 2, b'UI', even(MR)) + explicit(2, 3, b'UI', even(uid)) + explicit(2, 0x10, b'UI', even(EXPLICIT))
        with open('archived/%d.dcm' % k, 'wb') as f:
            f.write(bytes(128) + b'DICM' + explicit(2, 0, b'UL', struct.pack('<I', len(meta))) + meta + data)
    subprocess.run(['storescu', '-aec', 'TESTPACS', '127.0.0.1', str(pacs.dicom), *files_of('archived')], check=True)
    open('start.safetensors', 'w').close()
    node = Node(pacs.dicom, destination={'query': True}, **node_settings).start('receive', 'send')
    return pacs, node


def archive_says_complete():
    """The archive has as many as came, and still so after 10 s, when the sender has left: no waiting for the quiet time."""
    pacs, node = archive(6, {'receive__quiet_s': 60, 'node__log_level': 'debug'})
    try:
        sender = RawSender(node.port)
        send(sender, range(5))
        wait_for('the note', 9, lambda: any('the archive has 6 images, 5 came' in r['note'] for r in node.rows('series')))
        send(sender, [5])
        sender.release()
        last = time.time()
        made = wait_job(node, 20)[0]
        check(10 < made[2] - last < 15, 'made %.2f s after the last image' % (made[2] - last))
        never_twice(node, [(SERIES, 6)])
    finally:
        node.stop()
        pacs.stop()


def archive_says_incomplete():
    """The archive has more: the long time counts, then the job is made."""
    pacs, node = archive(9, {'receive__quiet_s': 3, 'receive__incomplete_s': 6})
    try:
        send_alone(node, range(6))
        last = time.time()
        made = wait_job(node, 9)[0]
        check(5.8 < made[2] - last < 7.5, 'made %.2f s after the last image' % (made[2] - last))
        check('the archive has 9 images, 6 came' in note_of(node), 'the note is %r' % note_of(node))
        never_twice(node, [(SERIES, 6)])
    finally:
        node.stop()
        pacs.stop()


def archive_is_dead(hanging):
    def test():
        """An archive that is not there, or says nothing, costs nothing: the quiet time counts."""
        listening = socket.socket()
        listening.bind(('127.0.0.1', 0))
        if hanging:
            listening.listen(10)
        open('start.safetensors', 'w').close()
        node = Node(listening.getsockname()[1], destination={'query': True}, receive__quiet_s=2).start('receive', 'send')
        try:
            send_alone(node, range(6))
            last = time.time()
            made = wait_job(node, 8)[0]
            check(1.8 < made[2] - last < 3.5, 'made %.2f s after the last image' % (made[2] - last))
            wait_for('a line about it', 30, lambda: "asking 'pacs'" in open('node.log').read())
        finally:
            node.stop()
            listening.close()
    return test


def starts_within_a_second():
    """From the end of the quiet time to the worker's beginning: below a second, in the median of seven."""
    node = Node(free_port(), receive__quiet_s=1).start()
    try:
        delays = []
        for n in range(7):
            series = '%s.%d' % (SERIES, n)
            send_alone(node, range(3), series=series)
            wait_for('the job begun', 15, lambda: "series '%s', attempt" % series in open('node.log').read())
            line = [l for l in open('node.log') if "series '%s', attempt" % series in l][0]
            begun = calendar.timegm(time.strptime(line[:19], '%Y-%m-%dT%H:%M:%S')) + float(line[19:23])
            db = sqlite3.connect(node.spool + '/queue.db')
            last = db.execute('SELECT max(received_us)*1e-6 FROM object WHERE series_uid=?', (series,)).fetchone()[0]
            db.close()
            delays.append(begun - last - 1)
        print('delays: %s' % ['%.2f' % d for d in delays])
        check(min(delays) >= -0.01, 'too early: %s' % delays)
        check(statistics.median(delays) < 1, 'median %.2f s of %s' % (statistics.median(delays), delays))
    finally:
        node.stop()


TESTS = {
    'unit.gather.quiet_time': quiet_time,
    'unit.gather.open_association': open_association,
    'unit.gather.two_series_interleaved': two_series_interleaved,
    'unit.gather.reconnects_in_time': reconnects_in_time,
    'unit.gather.hole_is_waited_for': hole(),
    'unit.gather.hole_is_waited_for_with_count': hole(expected=6),
    'unit.gather.hole_of_numbers': hole_of_numbers,
    'unit.gather.hole_never_filled': hole_never_filled,
    'unit.gather.count_reached': count_reached,
    'unit.gather.count_not_reached': count_not_reached,
    'unit.gather.count_exceeded': count_exceeded,
    'unit.gather.count_of_two_acquisitions': count_of_two_acquisitions,
    'unit.gather.starts_within_a_second': starts_within_a_second,
    'unit.gather.clock_put_back': clock_put_back,
    'peer.gather.late_image': late_image,
    'crash.gather.restarted': restarted,
    'peer.gather.archive_says_complete': archive_says_complete,
    'peer.gather.archive_says_incomplete': archive_says_incomplete,
    'peer.gather.archive_is_dead': archive_is_dead(False),
    'peer.gather.archive_hangs': archive_is_dead(True),
}

if __name__ == '__main__':
    run_named(TESTS)
