# SPDX-License-Identifier: Apache-2.0
"""What the tests of the running node share: the node, a PACS (Orthanc), senders, a raw-socket sender, series to send.

Everything listens on 127.0.0.1 at free ports and lives in the current directory. Environment: ISOSLICE_BIN (folder of
the programs), ISOSLICE_SHARED (real data).
"""
import glob
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
import urllib.request

BIN = os.environ['ISOSLICE_BIN']
SHARED = os.environ.get('ISOSLICE_SHARED', '')
IS_SANITIZED = os.environ.get('ISOSLICE_SANITIZE') == '1'  # then there are no limits of memory, and what is freed is kept a while
MR = '1.2.840.10008.5.1.4.1.1.4'
EXPLICIT, IMPLICIT = '1.2.840.10008.1.2.1', '1.2.840.10008.1.2'
# The real series that are processed, in the order of their README.
PLAIN = ['siemens_t1_sag_jpegll', 'siemens_t1_ax_jpegll', 'siemens_t2_ax_jpegll', 'siemens_flair_ax_jpegll',
         'siemens_t1_sag', 'philips_t1_phantom', 'ge_pd_oblique_uneven']


def skip(reason):
    print('skipped: ' + reason)
    sys.exit(77)


def shared_series(name):
    """Folder of a real series; ends the test as skipped where there is none."""
    folder = os.path.join(SHARED, 'data', 'dicom', name)
    if not os.path.isdir(folder):
        skip('no shared data')
    return folder


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def equal(got, want, what):
    check(got == want, '%s is %r, not %r' % (what, got, want))


def fresh(folder):
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder


def run(*command):
    """What a program prints that has to succeed."""
    done = subprocess.run(command, capture_output=True)
    check(done.returncode == 0,
          '%s: exit %d\n%s' % (' '.join(command), done.returncode, (done.stdout + done.stderr).decode(errors='replace')))
    return done.stdout.decode()


def wait_for(what, timeout_s, probe):
    """probe() until it is true; returns its value."""
    until = time.monotonic() + timeout_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError('%s did not happen within %g s' % (what, timeout_s))
        time.sleep(0.1)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def program(name):
    return os.path.join(BIN, {'isoslice': 'cli', 'isoslice-receive': 'scp', 'isoslice-work': 'worker',
                              'isoslice-send': 'scu', 'isoslice-read': 'reader'}[name], name)


def isoslice(*args, ok=(0,), env=None):
    done = subprocess.run([program('isoslice'), *args], capture_output=True, text=True,
                          env={**os.environ, **(env or {})})
    check(done.returncode in ok, 'isoslice %s: exit %d\n%s%s' % (' '.join(args), done.returncode, done.stdout, done.stderr))
    return done


def installed_layout():
    """A folder with the programs side by side, as an installation has them."""
    os.makedirs('bin', exist_ok=True)
    for name in ('isoslice', 'isoslice-receive', 'isoslice-work', 'isoslice-read', 'isoslice-send'):
        if not os.path.exists('bin/' + name):
            os.symlink(program(name), 'bin/' + name)


def while_moving(look):
    """What look() returns; again when a file that it had seen was moved or removed meanwhile."""
    while True:
        try:
            return look()
        except FileNotFoundError:
            pass


def children(pid):
    """{pid: name} of a process's children."""
    found = {}
    for path in glob.glob('/proc/[0-9]*/status'):
        try:
            status = dict(line.rstrip('\n').split(':\t', 1) for line in open(path) if ':\t' in line)
        except OSError:
            continue
        if status['PPid'].strip() == str(pid):
            found[int(status['Pid'])] = status['Name']
    return found


class Node:
    """isoslice-receive, -work and -send, each startable and killable on its own."""

    def __init__(self, pacs_port=None, senders=None, destination=None, more=(), **settings):
        """senders: a dictionary each, instead of the usual two; destination: more keys of the one; more: destinations besides."""
        self.port = free_port()
        self.spool = os.path.abspath('spool')
        self.config = os.path.abspath('isoslice.yaml')
        self.log = open('node.log', 'ab')
        self.processes = {}
        self.last_listed = None, 0, []
        self.weights = os.path.abspath('start.safetensors')
        if not os.path.exists(self.weights):
            isoslice('new-weights', self.weights)
        sections = {
            'node': {'ae_title': 'ISOSLICE', 'port': self.port, 'spool': self.spool},
            'receive': {'quiet_s': 1, 'disk_reserve_mb': 1, 'dimse_timeout_s': 20, 'acse_timeout_s': 5},
            'work': {'weights': self.weights, 'steps': 2, 'lease_s': 3, 'backend': 'cpu'},
            'send': {'retry_min_s': 0.5, 'retry_max_s': 2, 'connect_timeout_s': 3},
        }
        for key, value in settings.items():
            section, name = key.split('__')
            sections.setdefault(section, {})[name] = value
        senders = senders or [{'ae_title': ae, 'address': '127.0.0.0/8'} for ae in ('SENDER', 'STORESCU')]
        with open(self.config, 'w') as f:
            for section, values in sections.items():
                f.write('%s:\n' % section)
                for name, value in values.items():
                    f.write('  %s: %s\n' % (name, json.dumps(value)))
            f.write('senders:\n')
            for sender in senders:
                f.write('  - %s\n' % json.dumps(sender))
            if pacs_port:
                f.write('destinations:\n  - %s\n' % json.dumps({'name': 'pacs', 'ae_title': 'TESTPACS', 'host': '127.0.0.1',
                                                               'port': pacs_port, **(destination or {})}))
            for other in more:
                f.write('  - %s\n' % json.dumps({'ae_title': 'TESTPACS', 'host': '127.0.0.1', **other}))

    def start(self, *names, env=None, wait=True):
        for name in names or ('receive', 'work', 'send'):
            self.processes[name] = subprocess.Popen([program('isoslice-' + name), '--config', self.config],
                                                    stderr=self.log, env={**os.environ, **(env or {})})
        if 'receive' in (names or ('receive',)) and wait and not env:
            self.wait_listening()
        return self

    def wait_listening(self):
        wait_for('the node listening', 20, lambda: self.echo() == 0)

    def echo(self, calling='SENDER', called='ISOSLICE'):
        return subprocess.run(['echoscu', '-to', '5', '-aet', calling, '-aec', called, '127.0.0.1', str(self.port)],
                              capture_output=True).returncode

    def kill(self, name, number=signal.SIGKILL):
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(60)

    def kill_whole(self, name):
        """The same, and waits until its children have noticed: nothing of it touches the spool any more."""
        family = children(self.processes[name].pid)
        self.kill(name)
        wait_for('the children of isoslice-%s gone' % name, 20, lambda: not any(os.path.exists('/proc/%d' % pid) for pid in family))

    def stop(self):
        for process in self.processes.values():
            process.terminate()
        codes = {name: process.wait(60) for name, process in self.processes.items()}
        self.processes = {}
        return codes

    def database_stamp(self):
        """What changes with every commit to the queue, and with every request for a commitment, which is a file of its own; None
        while it is being made."""
        requests = glob.glob(self.spool + '/commitments/*')
        try:
            return [(path, s.st_ino, s.st_size, s.st_mtime_ns) for path, s in
                    ((path, os.stat(path)) for path in [self.spool + '/queue.db', self.spool + '/queue.db-wal', *requests])]
        except FileNotFoundError:
            return None

    def listed(self):
        """The lines of `queue list`. While the database has not changed, those of at most a second ago: who asks ten times a second
        would keep a core busy."""
        stamp, now = self.database_stamp(), time.monotonic()  # before it is read: a commit meanwhile gives another
        if stamp is None or self.last_listed[0] != stamp or now > self.last_listed[1] + 1:
            self.last_listed = stamp, now, isoslice('queue', '--config', self.config, 'list').stdout.splitlines()
        return self.last_listed[2]

    def rows(self, kind=None):
        """`queue list` as dictionaries."""
        out = self.listed()
        rows = []
        for line in out:
            words = line.split()
            if words and re.fullmatch(r'[sjd]\d+|c\d+p\d+-\d+', words[0]):
                rows.append({'id': words[0], 'kind': words[1], 'state': words[2], 'images': int(words[3]), 'uid': words[-1],
                             'note': ''})
            elif rows and line.startswith('       '):
                rows[-1]['note'] = line.strip()
        return [r for r in rows if kind is None or r['kind'] == kind]

    def show(self, id):
        lines = isoslice('queue', '--config', self.config, 'show', id).stdout.splitlines()
        return [(line[:16].strip(), line[16:].strip()) for line in lines]

    def stored(self):
        """SOP instance UID -> file, of everything acknowledged and kept: what is sealed counts before it is renamed."""
        return while_moving(self.stored_now)

    def datasets(self):
        """SOP instance UID -> data set, of the same: one that is moved between look and reading is looked for again."""
        return while_moving(lambda: {uid: dataset_of(path) for uid, path in self.stored_now().items()})

    def stored_bytes(self):
        return while_moving(lambda: sum(os.path.getsize(path) for path in self.stored_now().values()))

    def stored_now(self):
        import pydicom
        found = {}
        for path in (glob.glob(self.spool + '/incoming/*/*.tmp') + glob.glob(self.spool + '/incoming/*/*.dcm') +
                     glob.glob(self.spool + '/store/*.dcm')):
            with open(path, 'rb') as f:
                if f.read(13) != b'ISOSLICE SEAL':
                    continue
            found[str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = path
        return found

    def idle(self):
        if glob.glob(self.spool + '/incoming/*/*.dcm'):
            return False
        rows = self.rows()
        busy = [r for r in rows if r['kind'] != 'commitment' and r['state'] in ('GATHERING', 'WAITING', 'LEASED', 'SENDING', 'ASKED')]
        return bool(rows) and not busy

    def wait_idle(self, timeout_s):
        try:
            wait_for('the queue at rest', timeout_s, self.idle)
        except AssertionError:
            print(isoslice('queue', '--config', self.config, 'list').stdout)
            raise


def queue_of(node, *deliveries):
    """A queue that nobody has open, with a derived series of three objects and its deliveries: (destination, state), changed and
    leased a day ago."""
    node.start('send')
    wait_for('a spool', 20, lambda: isoslice('queue', '--config', node.config, 'list', ok=(0, 1)).returncode == 0)
    node.kill_whole('send')
    database = sqlite3.connect(node.spool + '/queue.db')
    day_ago = int((time.time() - 86400) * 1e6)
    database.execute("INSERT INTO series(series_uid, sender, state, changed_us) VALUES('1.2.3', 'SENDER', 'QUEUED', ?)", (day_ago,))
    database.execute("INSERT INTO job(series_uid, state, last_object, created_us, changed_us) VALUES('1.2.3', 'DONE', 0, ?1, ?1)",
                     (day_ago,))
    database.execute("INSERT INTO result(job_id, stack_index, verdict, note, derived_name, derived_uid, n_objects)"
                     " VALUES(1, 0, 0, '', 'j1-s0', '1.2.4', 3)")
    for destination, state in deliveries:
        database.execute("INSERT INTO delivery(result_id, destination, state, created_us, changed_us, owner, lease_until_us)"
                         " VALUES(1, ?2, ?3, ?4, ?1, 'send:1', ?1)", (day_ago, destination, state, int(time.time() * 1e6)))
    database.commit()
    database.close()


class Orthanc:
    def __init__(self, folder='orthanc', **settings):
        self.http, self.dicom, self.folder = free_port(), free_port(), folder
        os.makedirs(folder, exist_ok=True)
        with open(folder + '/orthanc.json', 'w') as f:
            json.dump({'Name': 'TESTPACS', 'StorageDirectory': os.path.abspath(folder + '/db'),
                       'IndexDirectory': os.path.abspath(folder + '/db'), 'Plugins': [], 'HttpPort': self.http,
                       'RemoteAccessAllowed': False, 'AuthenticationEnabled': False, 'DicomAet': 'TESTPACS',
                       'DicomCheckCalledAet': True, 'DicomPort': self.dicom, 'DicomAlwaysAllowEcho': True,
                       'DicomAlwaysAllowStore': True, 'DicomAlwaysAllowFind': True,
                       'OverwriteInstances': False, 'StableAge': 1, **settings}, f)
        self.process = None

    def start(self):
        self.process = subprocess.Popen(['Orthanc', self.folder + '/orthanc.json'], stdout=open(self.folder + '/log', 'ab'),
                                        stderr=subprocess.STDOUT, env={**os.environ, 'TCP_NODELAY': '1'})
        wait_for('Orthanc up', 30, self.is_up)
        return self

    def is_up(self):
        try:
            return self.get('/system')
        except OSError:
            return None

    def get(self, path):
        with urllib.request.urlopen('http://127.0.0.1:%d%s' % (self.http, path), timeout=20) as answer:
            return json.load(answer)

    def fetch(self, folder):
        """Every instance that Isoslice made, into folder/<series>/; returns {series uid: count}."""
        counts = {}
        for series in self.get('/series?expand'):
            uid = series['MainDicomTags']['SeriesInstanceUID']
            os.makedirs(os.path.join(folder, uid), exist_ok=True)
            for n, instance in enumerate(series['Instances']):
                url = 'http://127.0.0.1:%d/instances/%s/file' % (self.http, instance)
                with urllib.request.urlopen(url, timeout=20) as answer, \
                        open(os.path.join(folder, uid, 'IM%04d.dcm' % n), 'wb') as f:
                    f.write(answer.read())
            counts[uid] = len(series['Instances'])
        return counts

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(30)
            self.process = None


def storescu(node, paths, calling='SENDER', extra=(), ok=(0,)):
    done = subprocess.run(['storescu', '-aet', calling, '-aec', 'ISOSLICE', *extra, '127.0.0.1', str(node.port), *paths],
                          capture_output=True, text=True, env={**os.environ, 'TCP_NODELAY': '1'})
    if ok is not None:
        check(done.returncode in ok, 'storescu: exit %d\n%s%s' % (done.returncode, done.stdout, done.stderr))
    return done


def files_of(folder):
    return sorted(p for p in glob.glob(folder + '/**/*', recursive=True) if os.path.isfile(p))


def send_folder(node, folder, calling='SENDER'):
    """Sends a folder as it lies, compressed objects in their own transfer syntax."""
    done = subprocess.run(['dcmsend', '-v', '-dn', '-aet', calling, '-aec', 'ISOSLICE', '+sd', '+r', '127.0.0.1', str(node.port),
                           folder], capture_output=True, text=True, env={**os.environ, 'TCP_NODELAY': '1'})
    check(done.returncode == 0, 'dcmsend: exit %d\n%s%s' % (done.returncode, done.stdout, done.stderr))
    statuses = re.findall(r'with status (\w+) *: (\d+)', done.stdout + done.stderr)
    check(statuses and all(status == 'SUCCESS' for status, _ in statuses), 'dcmsend: %s' % statuses)


def phantom(folder, seed=1, matrix=64, slices=8):
    isoslice('phantom', '--seed', str(seed), '--matrix', str(matrix), '--slices', str(slices), folder)
    return files_of(folder)


def crop_series(folder, out, size=64):
    """The centre of every image of a real series as objects in the source's transfer syntax."""
    import numpy
    import pydicom
    os.makedirs(out, exist_ok=True)
    for number, path in enumerate(files_of(folder)):
        raw = pydicom.dcmread(path)
        compressed = raw.file_meta.TransferSyntaxUID.is_compressed
        if compressed:
            subprocess.run(['dcmdjpeg', path, 'tmp.dcm'], check=True)
            raw = pydicom.dcmread('tmp.dcm')
        for element in [e for e in raw if e.tag.group == 0]:
            del raw[element.tag]  # zeros after the end of a file, read as elements
        rows, columns = min(size, raw.Rows), min(size, raw.Columns)
        top, left = (raw.Rows - rows) // 2, (raw.Columns - columns) // 2
        planes = [(raw, raw, raw)]
        if 'PerFrameFunctionalGroupsSequence' in raw:
            shared = raw.SharedFunctionalGroupsSequence[0]
            planes = [[g.get(macro, shared.get(macro))[0] for macro in ('PlanePositionSequence', 'PlaneOrientationSequence',
                                                                        'PixelMeasuresSequence')]
                      for g in raw.PerFrameFunctionalGroupsSequence]
        n = len(planes)
        pixels = numpy.frombuffer(raw.PixelData, '<u2')[:n * raw.Rows * raw.Columns].reshape(n, raw.Rows, raw.Columns)
        for where, turned, measured in planes:
            orientation = [float(x) for x in turned.ImageOrientationPatient]
            position = [float(p) + left * float(measured.PixelSpacing[1]) * orientation[i] + top * float(measured.PixelSpacing[0]) *
                        orientation[3 + i] for i, p in enumerate(where.ImagePositionPatient)]
            where.ImagePositionPatient = ['%.10g' % p for p in position]
        raw.Rows, raw.Columns = rows, columns
        raw.PixelData = pixels[:, top:top + rows, left:left + columns].tobytes()
        target = os.path.join(out, '%04d.dcm' % number)
        raw.save_as(target)
        if compressed:
            subprocess.run(['dcmcjpeg', '+e1', '+un', target, target], check=True)
    return files_of(out)


OFFLINE = r'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH|ECONNRESET|ENOTCACHED|ERR_SOCKET_TIMEOUT'


def npm_folder(source, folder, files=()):
    """folder, with what source's package-lock.json names installed in it by its digests, once, and files of source beside
    it; ends the test as skipped without network."""
    import fcntl
    os.makedirs(folder, exist_ok=True)
    stamp = os.path.join(folder, 'installed')
    want = open(os.path.join(source, 'package-lock.json')).read()
    with open(os.path.join(folder, 'lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(stamp) or open(stamp).read() != want:
            for name in ('package.json', 'package-lock.json'):
                shutil.copy(os.path.join(source, name), folder)
            done = subprocess.run(['npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline'], cwd=folder,
                                  capture_output=True, text=True)
            if done.returncode != 0 and re.search(OFFLINE, done.stdout + done.stderr):
                skip('no network')
            check(done.returncode == 0, 'npm ci: exit %d\n%s%s' % (done.returncode, done.stdout, done.stderr))
            with open(stamp, 'w') as f:
                f.write(want)
        for name in files:
            shutil.copy(os.path.join(source, name), folder)
    return folder


# ---- a sender without any DICOM library, for what a library would not send

def element(group, number, value):
    """Implicit VR little endian, as in commands."""
    value += b'\0' * (len(value) & 1)
    return struct.pack('<HHI', group, number, len(value)) + value


def item(kind, body):
    """An item of an association PDU."""
    return struct.pack('>BBH', kind, 0, len(body)) + body


def context_item(number, abstract, *syntaxes):
    return item(0x20, struct.pack('>BBBB', number, 0, 0, 0) + item(0x30, abstract.encode()) +
                b''.join(item(0x40, syntax.encode()) for syntax in syntaxes))


class RawSender:
    def __init__(self, port, abstract=MR, syntax=EXPLICIT, calling='SENDER', called='ISOSLICE', connection=None, more=b'',
                 max_pdu=65536):
        """connection: an open one to use, e.g. with TLS; more: contexts after the first, as items."""
        self.socket = connection or socket.create_connection(('127.0.0.1', port), timeout=20)
        user = item(0x51, struct.pack('>I', max_pdu)) + item(0x52, b'1.2.3.4')
        body = struct.pack('>HH', 1, 0) + called.ljust(16).encode() + calling.ljust(16).encode() + bytes(32) + \
            item(0x10, b'1.2.840.10008.3.1.1.1') + context_item(1, abstract, syntax) + more + item(0x50, user)
        self.socket.sendall(struct.pack('>BBI', 1, 0, len(body)) + body)
        self.answer = self.pdu()
        at = self.answer[1].find(b'\x51\0\0\4')
        self.max_pdu = struct.unpack('>I', self.answer[1][at + 4:at + 8])[0] if at >= 0 else 0  # that the node takes

    def pdu(self):
        """(type, body) of the next PDU; (None, b'') when the connection ended."""
        try:
            head = self.read(6)
            if len(head) < 6:
                return None, b''
            kind, _, n = struct.unpack('>BBI', head)
            return kind, self.read(n)
        except OSError:
            return None, b''

    def read(self, n):
        data = b''
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                break
            data += part
        return data

    def pdv(self, flags, data, context=1):
        body = struct.pack('>IBB', len(data) + 2, context, flags) + data
        self.socket.sendall(struct.pack('>BBI', 4, 0, len(body)) + body)

    def command(self, sop_class=MR, sop_instance='1.2.3'):
        body = element(0, 0x0002, sop_class.encode()) + element(0, 0x0100, struct.pack('<H', 1)) + \
            element(0, 0x0110, struct.pack('<H', 1)) + element(0, 0x0700, struct.pack('<H', 0)) + \
            element(0, 0x0800, struct.pack('<H', 1)) + element(0, 0x1000, sop_instance.encode())
        self.pdv(3, element(0, 0, struct.pack('<I', len(body))) + body)

    def store(self, data, piece=30000, **names):
        """Sends a data set as given; returns the status, or None when the association ended."""
        self.command(**names)
        for at in range(0, max(len(data), 1), piece):
            self.pdv(2 if at + piece >= len(data) else 0, data[at:at + piece])
        kind, body = self.pdu()
        if kind != 4:
            return None
        at = body.find(struct.pack('<HHI', 0, 0x0900, 2))
        comment = body.find(struct.pack('<HH', 0, 0x0902))
        self.comment = body[comment + 8:].rstrip(b' \0').decode('ascii') if comment >= 0 else ''
        return struct.unpack('<H', body[at + 8:at + 10])[0] if at >= 0 else None

    def release(self):
        self.socket.sendall(struct.pack('>BBII', 5, 0, 4, 0))
        equal(self.pdu()[0], 6, 'answer to the release')
        self.close()

    def close(self):
        self.socket.close()


def dataset_of(path):
    """The bytes after the file meta information of a DICOM file."""
    data = open(path, 'rb').read()
    length = struct.unpack('<I', data[140:144])[0]
    return data[144 + length:]


def run_named(tests):
    """main of a test program: lists its tests, or runs the one that is named."""
    if len(sys.argv) < 2:
        print('\n'.join(sorted(tests)))
        return
    for leftover in os.listdir('.'):
        shutil.rmtree(leftover, ignore_errors=True) if os.path.isdir(leftover) else os.unlink(leftover)
    try:
        tests[sys.argv[1]]()
    except BaseException:
        if os.path.exists('node.log'):
            print('---- node.log, last lines'), print(''.join(open('node.log', errors='replace').readlines()[-60:]))
        raise
