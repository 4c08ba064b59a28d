# SPDX-License-Identifier: Apache-2.0
"""What the running node's processes may do, and what a broken one takes with it: one association, one series."""
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time

from pki import Authority
from support import *
from test_tls import TlsNode


def status_of(pid):
    return dict(line.rstrip('\n').split(':\t', 1) for line in open('/proc/%d/status' % pid) if ':\t' in line)


def check_confined(pid, what):
    status = status_of(pid)
    equal(status['NoNewPrivs'], '1', 'NoNewPrivs of ' + what)
    for name in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb'):
        equal(int(status[name], 16), 0, '%s of %s' % (name, what))
    if not IS_SANITIZED:
        equal(status['Seccomp'], '2', 'Seccomp of ' + what)
        limits = open('/proc/%d/limits' % pid).read()
        check('Max address space         unlimited' not in limits, 'no limit of memory for %s:\n%s' % (what, limits))


def live_association():
    """An open association's process: filter, no privileges, no descriptor but its socket, its folder and the streams."""
    node = Node().start('receive')
    try:
        before = set(children(node.processes['receive'].pid))
        sender = RawSender(node.port)
        equal(sender.answer[0], 2, 'answer')
        new = [pid for pid in children(node.processes['receive'].pid) if pid not in before]
        equal(len(new), 1, 'processes of the association')
        check_confined(new[0], 'an association')
        if os.geteuid() == 0:
            links = [os.readlink(p) for p in glob.glob('/proc/%d/fd/*' % new[0])]
            sockets = {link for link in links if link.startswith('socket:')}  # its own, which its time limits hold too
            equal(len(sockets), 1, 'sockets among %s' % links)
            check(not [link for link in links if 'queue.db' in link], 'the queue is open: %s' % links)
        sender.close()
    finally:
        node.stop()


def misreader(what):
    """Path of a reader that does this (tests/node/misread.c)."""
    os.makedirs('readers', exist_ok=True)
    path = os.path.abspath('readers/' + what)
    if not os.path.exists(path):
        os.symlink(os.path.join(BIN, 'tests/node/misread'), path)
    return path


def wait_job(node, uid, timeout_s=120):
    def over():
        rows = [r for r in node.rows('job') if r['uid'] == uid]
        return rows and rows[0]['state'] not in ('WAITING', 'LEASED') and rows[0]
    return wait_for('the end of the job', timeout_s, over)


def uid_of(path):
    import pydicom
    return str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID)


def broken_reader_costs_one_series():
    """Crash, too much memory, a forbidden call: the series of 7 slices FAILs by name, the next one is DONE, same worker."""
    bad, good = phantom('bad', seed=1, slices=7), phantom('good', seed=2, slices=8)
    cases = [('segfault', 'died of signal 11')]
    if not IS_SANITIZED:
        cases += [('memory', 'died of signal 6'), ('socket', 'a system call that it must not make')]
    for what, text in cases:
        shutil.rmtree('spool', ignore_errors=True)
        node = Node().start('receive')
        node.start('work', env={'ISOSLICE_READER': misreader(what + '7')})
        try:
            worker = node.processes['work'].pid
            storescu(node, bad)
            row = wait_job(node, uid_of(bad[0]))
            equal(row['state'], 'FAILED', '%s: state (%s)' % (what, row['note']))
            check('READER' in row['note'] or any('READER' in line for _, line in node.show(row['id'])), 'note: %s' % row)
            said = row['note'] + ' '.join(line for _, line in node.show(row['id']))
            check(IS_SANITIZED or text in said, '%s: %s' % (what, said))
            storescu(node, good)
            row = wait_job(node, uid_of(good[0]))
            equal(row['state'], 'DONE', '%s: state of the next job (%s)' % (what, row['note']))
            equal(node.processes['work'].poll(), None, 'the worker')
            equal(os.listdir(node.spool + '/work'), [], 'left in work/')
            check(worker == node.processes['work'].pid, 'another worker')
        finally:
            node.stop()


def killed_reader_costs_one_series():
    """kill -9 of isoslice-read while the worker computes; it is confined, and gone when the job is over."""
    bad, good = phantom('bad', seed=1, slices=7), phantom('good', seed=2, slices=8)
    node = Node(work__steps=5 if IS_SANITIZED else 30, work__lease_s=30).start('receive', 'work')
    try:
        worker = node.processes['work'].pid
        storescu(node, bad)

        def computing():
            readers = [pid for pid, name in children(worker).items() if name == 'isoslice-read']
            return readers if 'fine-tune' in open('node.log').read() else None
        reader = wait_for('the fine-tune', 60, computing)[0]
        check_confined(reader, 'the reader')
        os.kill(reader, signal.SIGTERM)  # as a service manager does to all processes: nothing comes of it
        time.sleep(0.2)
        check(reader in children(worker), 'the reader took a signal that was meant for its parent')
        os.kill(reader, signal.SIGKILL)
        row = wait_job(node, uid_of(bad[0]))
        equal(row['state'], 'FAILED', 'state (%s)' % row['note'])
        storescu(node, good)
        row = wait_job(node, uid_of(good[0]))
        equal(row['state'], 'DONE', 'state of the next job (%s)' % row['note'])
        equal(node.processes['work'].pid, worker, 'worker')
        equal(children(worker), {}, 'readers left')
    finally:
        node.stop()


def stopped_worker_gives_its_job_back():
    """SIGTERM to worker and reader alike, as from a service manager: the job is WAITING, not FAILED, and done later."""
    files = phantom('source', slices=7)
    node = Node(work__steps=400, work__lease_s=30).start('receive')
    try:
        node.processes['work'] = subprocess.Popen([program('isoslice-work'), '--config', node.config], stderr=node.log,
                                                  start_new_session=True)
        worker = node.processes['work'].pid
        storescu(node, files)
        wait_for('the fine-tune', 60, lambda: 'fine-tune' in open('node.log').read())
        os.killpg(worker, signal.SIGTERM)
        equal(node.processes.pop('work').wait(60), 0, 'exit code')
        equal([r['state'] for r in node.rows('job')], ['WAITING'], 'state')
    finally:
        node.stop()


def run_goes_on_after_a_broken_series():
    """isoslice run: the series after a broken one is derived; exit code 4."""
    phantom('in/bad', seed=1, slices=7)
    phantom('in/good', seed=2, slices=8)
    isoslice('new-weights', 'start.safetensors')
    # Both stacks are in one source; whichever comes first, a crash on one of them leaves the other.
    first = min((uid_of(files_of('in/' + name)[0]), slices) for name, slices in (('bad', 7), ('good', 8)))
    done = isoslice('run', '--backend', 'cpu', '--weights', 'start.safetensors', 'in', 'out', ok=(4, 0),
                    env={'ISOSLICE_READER': misreader('segfault%d' % first[1])})
    equal(done.returncode, 4, 'exit code: %s' % done.stdout)
    check('READER' in done.stderr, done.stderr)
    done = isoslice('run', '--backend', 'cpu', '--weights', 'start.safetensors', 'in', 'out2')
    check('2 derived' in done.stdout, done.stdout)
    equal([name for name in os.listdir('out2') if name.startswith('.')], [], 'left below OUT')


def another_user():
    """Started by root, the node becomes node.user; as anybody else it says why it cannot."""
    if os.geteuid() != 0:
        node = Node(node__user='root')
        done = subprocess.run([program('isoslice-receive'), '--config', node.config], capture_output=True, text=True)
        equal(done.returncode, 2, 'exit code')
        check("only root can become 'root'" in done.stderr, done.stderr)
        return
    folder = tempfile.mkdtemp()
    try:
        os.chmod(folder, 0o755)
        shutil.copytree('.', folder, dirs_exist_ok=True)
        os.chdir(folder)
        nobody = pwd.getpwnam('nobody')
        node = Node(node__user='nobody', work__preview=True)
        os.chmod(node.weights, 0o644)
        done = subprocess.run([program('isoslice-receive'), '--config', node.config], capture_output=True, text=True)
        check(done.returncode == 1 and 'must be a folder of user' in done.stderr, '%d %s' % (done.returncode, done.stderr))
        os.mkdir(node.spool, 0o700)
        os.chown(node.spool, nobody.pw_uid, nobody.pw_gid)
        node.start()
        for name, process in node.processes.items():
            status = wait_for('the change of user', 10, lambda: status_of(process.pid) if
                              status_of(process.pid)['Uid'].split()[0] != '0' else None)
            equal(status['Uid'].split(), [str(nobody.pw_uid)] * 4, 'users of ' + name)
            equal(status['Gid'].split(), [str(nobody.pw_gid)] * 4, 'groups of ' + name)
            equal(int(status['CapPrm'], 16), 0, 'capabilities of ' + name)
        files = phantom('source', slices=7)
        storescu(node, files)
        row = wait_job(node, uid_of(files[0]))
        equal(row['state'], 'DONE', 'state (%s)' % row['note'])
        for path in glob.glob(node.spool + '/**', recursive=True):
            equal(os.stat(path).st_uid, nobody.pw_uid, 'owner of ' + path)  # `queue list` as root ran meanwhile
        equal(node.stop(), {'receive': 0, 'work': 0, 'send': 0}, 'exit codes')
        log = open('node.log').read()
        check(log.count("running as user 'nobody'") == 3, log)
        node = Node(node__user='no-such-user')
        done = subprocess.run([program('isoslice-work'), '--config', node.config], capture_output=True, text=True)
        check(done.returncode == 2 and "no user 'no-such-user'" in done.stderr, '%d %s' % (done.returncode, done.stderr))
        isoslice('check-config', node.config, ok=(2,))
    finally:
        os.chdir('/')
        shutil.rmtree(folder)


def queue_stays_its_owners():
    """Root looks at the queue of a node that runs as another user without node.user, as the units do: what is written there
    stays the owner's. Once it became root's, and no daemon came up again."""
    folder = tempfile.mkdtemp()
    try:
        os.chmod(folder, 0o755)
        spool = os.path.join(folder, 'spool')
        node = Node(node__spool=spool)
        node.spool = spool
        done = isoslice('queue', '--config', node.config, 'status', ok=(1,))
        check('NOT_FOUND: there is no spool at' in done.stderr, done.stderr)
        check(not os.path.exists(spool), 'a spool was made by who only looked')
        node.start('receive')
        equal(node.stop(), {'receive': 0}, 'exit codes')
        if os.geteuid() != 0:
            equal(isoslice('queue', '--config', node.config, 'list').stdout, 'nothing\n', 'the queue')
            return
        nobody = pwd.getpwnam('nobody')
        os.unlink(spool + '/queue.lock')  # made again by the next who opens the queue
        for path in [spool, *glob.glob(spool + '/**', recursive=True)]:
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        equal(isoslice('queue', '--config', node.config, 'list').stdout, 'nothing\n', 'the queue')
        check(os.path.exists(spool + '/queue.lock'), 'nothing was written')
        for path in [spool, *glob.glob(spool + '/**', recursive=True)]:
            equal(os.stat(path).st_uid, nobody.pw_uid, 'owner of ' + path)
    finally:
        shutil.rmtree(folder)


def keys_of_another_user():
    """A key that only root can read serves a node that became node.user; SIGHUP cannot read it again, says so and changes
    nothing. One of that user's is read again."""
    ca = Authority('ca')
    own = ca.issue('own')
    is_root = os.geteuid() == 0
    folder = tempfile.mkdtemp()  # where another user can go
    node = None
    try:
        os.chmod(folder, 0o755)
        files = [shutil.copy(path, folder) for path in (*own, ca.ca)]
        for path in files:
            os.chmod(path, 0o600 if path.endswith('.key') else 0o644)
        ca.ca = files[2]
        spool = os.path.join(folder, 'spool')
        os.mkdir(spool, 0o700)
        if is_root:
            nobody = pwd.getpwnam('nobody')
            os.chown(spool, nobody.pw_uid, nobody.pw_gid)
        node = TlsNode(ca, files[:2], node__spool=spool, **({'node__user': 'nobody'} if is_root else {}))
        node.spool = spool
        node.start('receive')
        if is_root:
            node.wait_said('SIGHUP will not do')
        else:
            os.chmod(files[1], 0)
        node.hang_up()
        node.wait_said('the certificates in use stay')
        equal(node.echo(), 0, 'echo after it')
        os.chmod(files[1], 0o600)
        if is_root:
            os.chown(files[1], nobody.pw_uid, nobody.pw_gid)
        node.hang_up()
        node.wait_said('certificates read again')
        equal(node.echo(), 0, 'echo with the key read again')
        equal(node.stop(), {'receive': 0}, 'exit codes')
    finally:
        if node:
            node.stop()
        shutil.rmtree(folder)


run_named({
    'peer.contained.keys_of_another_user': keys_of_another_user,
    'peer.contained.live_association': live_association,
    'peer.contained.queue_stays_its_owners': queue_stays_its_owners,
    'peer.contained.broken_reader_costs_one_series': broken_reader_costs_one_series,
    'peer.contained.killed_reader_costs_one_series': killed_reader_costs_one_series,
    'peer.contained.stopped_worker_gives_its_job_back': stopped_worker_gives_its_job_back,
    'peer.contained.run_goes_on_after_a_broken_series': run_goes_on_after_a_broken_series,
    'peer.contained.another_user': another_user,
})
