# SPDX-License-Identifier: Apache-2.0
"""Storage commitment for senders (PS3.4 annex J): with Orthanc as the one who asks, and with a raw socket that speaks both roles.
Each test in an empty directory of its own."""
import glob
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pydicom

from pki import *
from support import *

PUSH, PUSH_INSTANCE = '1.2.840.10008.1.20.1', '1.2.840.10008.1.20.1.1'
CT = '1.2.840.10008.5.1.4.1.1.2'
COMMITMENT = 3  # our presentation context of it


def uids(path):
    d = pydicom.dcmread(path, stop_before_pixels=True)
    return str(d.SOPClassUID), str(d.SOPInstanceUID)


def message(field, **more):
    """A command set: PS3.7 annex E."""
    numbers = {'requested_class': 0x0003, 'message': 0x0110, 'answers': 0x0120, 'data': 0x0800, 'status': 0x0900,
               'affected_class': 0x0002, 'affected': 0x1000, 'requested': 0x1001, 'event': 0x1002, 'action': 0x1008}
    values = {0x0100: field, **{numbers[name]: value for name, value in more.items()}}
    body = b''.join(element(0, n, v.encode() if isinstance(v, str) else struct.pack('<H', v)) for n, v in sorted(values.items()))
    return element(0, 0, struct.pack('<I', len(body))) + body


def elements(data):
    """[(tag, value)] of implicit VR little endian; sequences as lists of items."""
    found = []
    at = 0
    while at + 8 <= len(data):
        group, number, n = struct.unpack('<HHI', data[at:at + 8])
        at += 8
        if (group, number) in ((0x0008, 0x1198), (0x0008, 0x1199)):
            items = []
            end = at + n if n != 0xffffffff else len(data)
            while at < end:
                tag, m = struct.unpack('<II', data[at:at + 8])
                at += 8
                if tag == 0xe0ddfffe:
                    break
                if m == 0xffffffff:
                    m = data.index(b'\xfe\xff\x0d\xe0\0\0\0\0', at) - at
                    items.append(dict(elements(data[at:at + m])))
                    at += m + 8
                else:
                    items.append(dict(elements(data[at:at + m])))
                    at += m
            found.append(((group, number), items))
        else:
            found.append(((group, number), data[at:at + n]))
            at += n
    return found


def text(value):
    return value.rstrip(b'\0 ').decode()


class Report:
    """What an N-EVENT-REPORT says: event type, transaction, kept and failed instances."""

    def __init__(self, command, data):
        self.event = struct.unpack('<H', command[0, 0x1002])[0]
        data = dict(elements(data))
        self.transaction = text(data[0x0008, 0x1195])
        name = lambda i: (text(i[0x0008, 0x1150]), text(i[0x0008, 0x1155]))
        self.kept = [name(i) for i in data.get((0x0008, 0x1199), [])]
        self.failed = {name(i): struct.unpack('<H', i[0x0008, 0x1197])[0] for i in data.get((0x0008, 0x1198), [])}


def references(instances, transaction):
    """Action information: PS3.4 table J.3-1."""
    body = element(0x0008, 0x1195, transaction.encode()) if transaction else b''
    if instances is not None:
        body += element(0x0008, 0x1199, b''.join(
            struct.pack('<HHI', 0xfffe, 0xe000, len(i)) + i
            for i in (element(0x0008, 0x1150, c.encode()) + element(0x0008, 0x1155, u.encode()) for c, u in instances)))
    return body


class Committer(RawSender):
    def __init__(self, node, port=None, **names):
        super().__init__(port or node.port, more=context_item(COMMITMENT, PUSH, IMPLICIT), **names)

    def receive(self, timeout_s=20):
        """(command elements, data set) of the next message; (None, kind of PDU) when it is none."""
        self.socket.settimeout(timeout_s)
        command = data = b''
        while True:
            kind, body = self.pdu()
            if kind != 4:
                return None, kind
            at = 0
            while at < len(body):
                n, _, flags = struct.unpack('>IBB', body[at:at + 6])
                part = body[at + 6:at + 4 + n]
                at += 4 + n
                if flags & 1:
                    command += part
                else:
                    data += part
                if flags & 2 and (not flags & 1 or dict(elements(command))[0, 0x0800] == b'\x01\x01'):
                    return dict(elements(command)), data

    def ask(self, instances, transaction, data=None, action=1, instance=PUSH_INSTANCE):
        """N-ACTION; the status."""
        data = references(instances, transaction) if data is None else data
        self.pdv(3, message(0x0130, requested_class=PUSH, message=7, data=1, requested=instance, action=action), COMMITMENT)
        for at in range(0, max(len(data), 1), 30000):
            self.pdv(2 if at + 30000 >= len(data) else 0, data[at:at + 30000], COMMITMENT)
        command, _ = self.receive()
        if command is None:
            return None
        equal(struct.unpack('<H', command[0, 0x0100])[0], 0x8130, 'command')
        return struct.unpack('<H', command[0, 0x0900])[0]

    def report(self, timeout_s=20, status=0):
        """Waits for a report on this association and answers it."""
        command, data = self.receive(timeout_s)
        check(command is not None, 'no report on the association but PDU %r' % data)
        equal(struct.unpack('<H', command[0, 0x0100])[0], 0x0100, 'command')
        number = struct.unpack('<H', command[0, 0x0110])[0]
        self.pdv(3, message(0x8100, affected_class=PUSH, answers=number, data=0x0101, status=status, affected=PUSH_INSTANCE),
                 COMMITMENT)
        return Report(command, data)

    def release(self):
        self.socket.sendall(struct.pack('>BBII', 5, 0, 4, 0))
        equal(self.pdu()[0], 6, 'answer to the release')
        self.close()


class Listener:
    """Where a sender takes reports: accepts the one context with the node as SCP; keeps the reports and the roles proposed."""

    def __init__(self, port=None, status=0, wrap=None):
        self.reports, self.roles, self.status, self.wrap = [], [], status, wrap
        self.server = socket.socket()
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.server.bind(('127.0.0.1', port or 0))
        self.port = self.server.getsockname()[1]
        self.server.listen(8)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            try:
                self.serve(self.wrap(connection) if self.wrap else connection)
            except (OSError, struct.error):  # the node did not go on
                pass
            connection.close()

    def serve(self, connection):
        peer = Committer.__new__(Committer)
        peer.socket = connection
        kind, request = peer.pdu()
        at = request.find(b'\x54\0', 68)
        n = struct.unpack('>H', request[at + 2:at + 4])[0]
        role = request[at:at + 4 + n]
        self.roles.append((role[6:-2].decode(), role[-2], role[-1]))
        number = request[request.find(b'\x20\0', 68) + 4]
        accepted = item(0x21, struct.pack('>BBBB', number, 0, 0, 0) + item(0x40, IMPLICIT.encode()))
        body = request[:68] + item(0x10, b'1.2.840.10008.3.1.1.1') + accepted + item(
            0x50, item(0x51, struct.pack('>I', 65536)) + item(0x52, b'1.2.3.4') + role)
        connection.sendall(struct.pack('>BBI', 2, 0, len(body)) + body)
        command, data = peer.receive()
        if command is None:
            return
        self.reports.append(Report(command, data))
        message_id = struct.unpack('<H', command[0, 0x0110])[0]
        peer.pdv(3, message(0x8100, affected_class=PUSH, answers=message_id, data=0x0101, status=self.status,
                            affected=PUSH_INSTANCE), number)
        if peer.pdu()[0] == 5:
            connection.sendall(struct.pack('>BBII', 6, 0, 4, 0))

    def close(self):
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


def senders_with(port, **more):
    return [{'ae_title': 'SENDER', 'address': '127.0.0.0/8', 'report_port': port, **more}]


def pending(node):
    return sorted(os.path.basename(p) for p in glob.glob(node.spool + '/commitments/*'))


def states(node):
    return [line.split()[1] for p in glob.glob(node.spool + '/commitments/*.commit') for line in open(p) if line.startswith('state ')]


def wait_over(node):
    """The incoming folder is looked at first: a request goes from there to the commitments."""
    wait_for('no commitment left in the spool', 20, lambda: not [
        p for suffix in ('commit', 'outcome', 'reported') for p in glob.glob(node.spool + '/incoming/*/*.' + suffix)] and not pending(node))


def on_the_same_association():
    """Images, the request right after them, the report on the association that stays open; nothing is reported elsewhere."""
    good = phantom('source', slices=6)
    names = [uids(p) for p in good]
    listener = Listener()
    node = Node(senders=senders_with(listener.port)).start('receive', 'send')
    try:
        sender = Committer(node)
        for path, (_, uid) in zip(good, names):
            equal(sender.store(dataset_of(path), sop_instance=uid), 0, 'status of an image')
        start = time.monotonic()
        equal(sender.ask(names, '1.2.3.1'), 0, 'status of the request')
        report = sender.report()
        took = time.monotonic() - start
        check(took < 5, 'the report took %.1f s' % took)
        equal((report.event, report.transaction, report.kept, report.failed), (1, '1.2.3.1', names, {}), 'report')
        # a second one, with images between the request and its report
        equal(sender.ask(names[:1] + [(MR, '1.2.3.4.5')], '1.2.3.2'), 0, 'status of the second request')
        equal(sender.store(dataset_of(good[0]), sop_instance=names[0][1]), 0, 'status of an image meanwhile')
        report = sender.report()
        equal((report.event, report.transaction, report.kept, report.failed),
              (2, '1.2.3.2', names[:1], {(MR, '1.2.3.4.5'): 0x0112}), 'second report')
        sender.release()
        wait_over(node)
        time.sleep(1)
        equal(listener.reports, [], 'reports elsewhere')
        wait_for('the folder of the association gone', 10, lambda: not glob.glob(node.spool + '/incoming/a*'))
        equal(node.stop(), {'receive': 0, 'send': 0}, 'exit codes')
    finally:
        node.stop()
        listener.close()


def reasons():
    """Every kind of failure by its reason: unknown, lost, damaged, of another class, disputed; and what is sound beside them."""
    good = phantom('source', slices=8)
    names = [uids(p) for p in good]
    node = Node().start('receive', 'send')
    try:
        storescu(node, good)
        changed = pydicom.dcmread(good[5])
        changed.PixelData = bytes(len(changed.PixelData))
        changed.save_as('changed.dcm')
        storescu(node, ['changed.dcm'])
        wait_for('all in the store', 20, lambda: len(glob.glob(node.spool + '/store/*.dcm')) == len(good) and
                 len(glob.glob(node.spool + '/aside/*.dcm')) == 1)
        kept = node.stored()
        os.unlink(kept[names[1][1]])
        with open(kept[names[2][1]], 'r+b') as f:  # one bit of one pixel
            f.seek(-10, os.SEEK_END)
            byte = f.read(1)[0]
            f.seek(-10, os.SEEK_END)
            f.write(bytes([byte ^ 1]))
        with open(kept[names[3][1]], 'r+b') as f:
            f.truncate(os.path.getsize(kept[names[3][1]]) // 2)
        asked = list(names)
        asked[4] = (CT, names[4][1])
        asked.append((MR, '1.2.3.4.5'))
        sender = Committer(node)
        equal(sender.ask(asked, '1.2.3.3'), 0, 'status of the request')
        report = sender.report()
        equal(report.event, 2, 'event type')
        equal(report.failed, {names[1]: 0x0112, names[2]: 0x0110, names[3]: 0x0110, asked[4]: 0x0119, names[5]: 0x0110,
                              (MR, '1.2.3.4.5'): 0x0112}, 'failed instances')
        equal(report.kept, [names[0], names[6], names[7]], 'kept instances')
        sender.release()
        wait_over(node)
        log = open('node.log').read()
        check('is damaged: its bytes are not those that were received' in log, 'the log does not name the damaged file')
    finally:
        node.stop()


def bad_requests():
    """Each gets its status and the association goes on; without the setting there is no such context."""
    good = phantom('source', slices=5)
    names = [uids(p) for p in good]
    node = Node().start('receive')
    try:
        sender = Committer(node)
        deep = b''
        for _ in range(20):
            deep = struct.pack('<HHIHHI', 0x0008, 0x1115, len(deep) + 8, 0xfffe, 0xe000, len(deep)) + deep
        table = [('another action', dict(action=2), 0x0123), ('another instance', dict(instance='1.2.3'), 0x0112),
                 ('no transaction', dict(transaction=''), 0x0115), ('a bad transaction', dict(transaction='1.02.3'), 0x0115),
                 ('no sequence', dict(instances=None), 0x0115), ('no items', dict(instances=[]), 0x0115),
                 ('a bad UID', dict(instances=[(MR, '1..2')]), 0x0115), ('a path', dict(instances=[(MR, '../../x')]), 0x0115),
                 ('no class', dict(instances=[('', '1.2.3')]), 0x0115), ('text', dict(data=b'this is no data set.'), 0x0115),
                 ('half', dict(data=references(names, '1.2.3')[:-7] + b'\0'), 0x0115), ('nothing', dict(data=b''), 0x0115),
                 ('deep nesting alone', dict(data=deep), 0x0115),
                 ('too many', dict(instances=[(MR, '1.2.%d' % i) for i in range(5001)]), 0x0213),
                 ('too large', dict(data=element(0x0008, 0x1195, b'1.2.3') + element(0x0009, 0x0010, bytes(5 << 20))), 0x0213)]
        got = {what: sender.ask(**{'instances': names, 'transaction': '1.2.3', **how}) for what, how, _ in table}
        equal(got, {what: status for what, _, status in table}, 'status')
        equal(sender.store(dataset_of(good[0]), sop_instance=names[0][1]), 0, 'an image afterwards')
        equal(sender.ask(names[:1], '1.2.3'), 0, 'a good request afterwards')
        equal(sender.report().kept, names[:1], 'its report')
        sender.pdv(3, message(0x8100, affected_class=PUSH, answers=999, data=0x0101, status=0), COMMITMENT)  # answers nothing
        equal(sender.receive()[0], None, 'what follows an answer to nothing')
        sender.close()
        equal(node.echo(), 0, 'echo afterwards')
        nested = struct.pack('<HHIHHI', 0x0008, 0x1115, 0xffffffff, 0xfffe, 0xe000, 0xffffffff) * 200000
        sender = Committer(node)
        equal(sender.ask([], '', data=nested), 0x0115, 'status of endless nesting')
        equal(sender.ask(names[:1], '1.2.3'), 0, 'a good request after it')
        sender.close()
    finally:
        node.stop()
    node = Node(receive__commitment=False).start('receive')
    try:
        sender = Committer(node)
        at = sender.answer[1].find(struct.pack('>BBHB', 0x21, 0, 8, COMMITMENT))
        at = at if at >= 0 else sender.answer[1].find(struct.pack('>BBHB', 0x21, 0, 25, COMMITMENT))
        check(at >= 0, 'no answer to the context')
        equal(sender.answer[1][at + 6], 3, 'result of the context when it is switched off')
        sender.close()
    finally:
        node.stop()


def reversed_roles():
    """The asking association is released at once: the report comes on one of ours, with the node proposed as SCP. The sender is
    down at first and then refuses once: it is told again."""
    good = phantom('source', slices=5)
    names = [uids(p) for p in good]
    port = free_port()
    node = Node(senders=senders_with(port)).start('receive', 'send')
    try:
        sender = Committer(node)
        for path, (_, uid) in zip(good, names):
            sender.store(dataset_of(path), sop_instance=uid)
        equal(sender.ask(names, '1.2.3.4'), 0, 'status of the request')
        sender.release()
        wait_for('a failed attempt', 20, lambda: 'will be tried again' in open('node.log').read())
        listener = Listener(port, status=0x0110)
        wait_for('a refused report', 20, lambda: 'answered the report with 0x0110' in open('node.log').read())
        listener.status = 0
        wait_over(node)
        listener.close()
        check(len(listener.reports) >= 2, '%d reports' % len(listener.reports))
        for report in listener.reports:
            equal((report.event, report.transaction, report.kept, report.failed), (1, '1.2.3.4', names, {}), 'report')
        equal(set(listener.roles), {(PUSH, 0, 1)}, 'roles proposed (class, SCU, SCP)')
    finally:
        node.stop()


def no_way_to_report():
    """A sender without a port that hangs up: held, said, and reported once the configuration knows where."""
    good = phantom('source', slices=5)
    names = [uids(p) for p in good]
    node = Node().start('receive', 'send')
    listener = Listener()
    try:
        sender = Committer(node)
        sender.store(dataset_of(good[0]), sop_instance=names[0][1])
        equal(sender.ask(names[:1], '1.2.3.5'), 0, 'status of the request')
        sender.release()
        wait_for('held', 20, lambda: states(node) == ['HELD'])
        check('no entry of this sender has a report_port' in open('node.log').read(), 'the log does not say why')
        node.stop()
        node = Node(senders=senders_with(listener.port)).start('receive', 'send')
        wait_over(node)
        equal([r.kept for r in listener.reports], [names[:1]], 'reports')
    finally:
        node.stop()
        listener.close()


def restart_between():
    """All daemons killed right after the request was answered, before anybody looked at it; after a restart it is reported."""
    good = phantom('source', slices=5)
    names = [uids(p) for p in good]
    port = free_port()
    node = Node(senders=senders_with(port)).start('receive', 'send')
    try:
        sender = Committer(node)
        for path, (_, uid) in zip(good, names):
            sender.store(dataset_of(path), sop_instance=uid)
        equal(sender.ask(names, '1.2.3.6'), 0, 'status of the request')
        node.kill('receive')
        node.kill('send')
        sender.close()
        left = pending(node) + [os.path.basename(p) for p in glob.glob(node.spool + '/incoming/*/*.commit')]
        check(len(left) >= 1, 'requests on the disk: %s' % left)
        listener = Listener(port)
        node.start('receive', 'send')
        wait_over(node)
        equal([(r.event, r.transaction, r.kept) for r in listener.reports], [(1, '1.2.3.6', names)], 'reports after the restart')
        # and with the report still due
        listener.close()
        sender = Committer(node)
        equal(sender.ask(names, '1.2.3.7'), 0, 'status of the second request')
        sender.release()
        wait_for('a failed attempt', 20, lambda: states(node) == ['WAITING'])
        node.kill('send')
        node.kill('receive')
        listener = Listener(port)
        node.start('receive', 'send')
        wait_over(node)
        equal([(r.event, r.transaction, r.kept) for r in listener.reports], [(1, '1.2.3.7', names)], 'reports after the second')
        listener.close()
    finally:
        node.stop()


def with_tls():
    """Request and report over TLS; a listener with another certificate than the sender's is not told."""
    good = phantom('source', slices=5)
    names = [uids(p) for p in good]
    ca = Authority('ca')
    own, theirs, other = ca.issue('node'), ca.issue('sender'), ca.issue('other')

    def server(identity):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*identity)
        context.load_verify_locations(ca.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        return lambda connection: context.wrap_socket(connection, server_side=True)

    client = ssl.create_default_context(cafile=ca.ca)
    client.check_hostname = False
    client.load_cert_chain(*theirs)
    tls_port, port = free_port(), free_port()
    node = Node(senders=senders_with(port, report_tls=True, certificate_name='sender') +
                [{'ae_title': 'STORESCU', 'address': '127.0.0.1'}],
                node__tls={'port': tls_port, 'certificate': own[0], 'key': own[1], 'ca': ca.ca})
    node.echo = lambda: subprocess.run(['echoscu', '-aec', 'ISOSLICE', '-aet', 'STORESCU', '127.0.0.1', str(node.port)],
                                       capture_output=True).returncode
    node.start('receive', 'send')
    connect = lambda: client.wrap_socket(socket.create_connection(('127.0.0.1', tls_port), timeout=20))
    try:
        sender = Committer(node, connection=connect())
        sender.store(dataset_of(good[0]), sop_instance=names[0][1])
        equal(sender.ask(names[:1], '1.2.3.8'), 0, 'status')
        equal(sender.report().kept, names[:1], 'report on the same association')
        equal(sender.ask(names[:1], '1.2.3.9'), 0, 'status')
        sender.release()
        listener = Listener(port, wrap=server(other))
        wait_for('a refusal', 20, lambda: "its certificate is not the expected one but 'CN=other'" in open('node.log').read())
        listener.close()
        equal(listener.reports, [], 'reports to the wrong one')
        listener = Listener(port, wrap=server(theirs))
        wait_over(node)
        equal([(r.transaction, r.kept) for r in listener.reports], [('1.2.3.9', names[:1])], 'reports')
        listener.close()
    finally:
        node.stop()


def orthanc():
    """Orthanc sends, asks, and takes the report: all kept; one unknown to us; one damaged on our disk."""
    good = phantom('source', slices=6)
    names = [uids(p) for p in good]
    pacs = Orthanc()
    node = Node(senders=[{'ae_title': 'TESTPACS', 'address': '127.0.0.1', 'report_port': pacs.dicom},
                         {'ae_title': 'SENDER', 'address': '127.0.0.1'}])
    settings = json.load(open('orthanc/orthanc.json'))
    settings['DicomModalities'] = {'node': {'AET': 'ISOSLICE', 'Host': '127.0.0.1', 'Port': node.port,
                                            'AllowStorageCommitment': True}}
    json.dump(settings, open('orthanc/orthanc.json', 'w'))

    def post(path, body):
        request = urllib.request.Request('http://127.0.0.1:%d%s' % (pacs.http, path), data=body if isinstance(body, bytes)
                                         else json.dumps(body).encode(), method='POST')
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def ask(instances):
        transaction = post('/modalities/node/storage-commitment', {'DicomInstances': [list(i) for i in instances]})['ID']
        return wait_for('the outcome at Orthanc', 30, lambda: [
            r for r in [pacs.get('/storage-commitment/' + transaction)] if r['Status'] != 'Pending'])[0]

    pacs.start()
    node.start('receive', 'send')
    try:
        ids = [post('/instances', open(p, 'rb').read())['ID'] for p in good]
        post('/modalities/node/store', ids)
        outcome = ask(names)
        equal(outcome['Status'], 'Success', 'outcome of all: %s' % outcome)
        equal(sorted(i['SOPInstanceUID'] for i in outcome['Success']), sorted(u for _, u in names), 'instances')
        outcome = ask(names[:2] + [(MR, '1.2.3.4.5')])
        equal(outcome['Status'], 'Failure', 'outcome with an unknown one')
        equal([(i['SOPInstanceUID'], i['Description']) for i in outcome['Failures']],
              [('1.2.3.4.5', 'One or more of the elements in the Referenced SOP Instance Sequence was not available')], 'failures')
        equal(len(outcome['Success']), 2, 'kept beside it')
        path = node.stored()[names[3][1]]
        with open(path, 'r+b') as f:
            f.seek(-10, os.SEEK_END)
            f.write(b'\xff\xff')
        outcome = ask(names)
        equal([i['SOPInstanceUID'] for i in outcome['Failures']], [names[3][1]], 'damaged')
        equal(len(outcome['Success']), len(names) - 1, 'kept beside the damaged one')
        wait_over(node)
    finally:
        node.stop()
        pacs.stop()


def receiver_dies_at_every_file_call():
    """Killed, or out of space, before its n-th file call, for every n: a request that was answered 0000 is reported after a
    restart, and rightly."""
    good = phantom('source', matrix=32, slices=5)[:1]
    name = uids(good[0])
    quiet = 0
    for call in range(1, 120):
        shutil.rmtree('spool', ignore_errors=True)
        listener = Listener()
        node = Node(receive__quiet_s=60, senders=senders_with(listener.port))
        answered = stored = False
        try:
            node.start('receive', env={'ISOSLICE_CRASH_AT': '%d%s' % (call, ':28' if call % 2 else '')})
            for _ in range(100):
                if node.processes['receive'].poll() is not None:
                    break
                try:
                    sender = Committer(node)
                except OSError:
                    time.sleep(0.05)
                    continue
                try:
                    if sender.answer[0] == 2:
                        stored = sender.store(dataset_of(good[0]), sop_instance=name[1]) == 0
                        answered = sender.ask([name], '1.2.3.%d' % call) == 0
                except OSError:
                    pass
                sender.close()
                break
            time.sleep(0.4)  # the indexer's turn, and its crash
            if node.processes['receive'].poll() is None:
                node.kill('receive')
            else:
                node.processes.pop('receive')
            node.start('receive', 'send')
            if answered:
                wait_for('a report after a crash at file call %d' % call, 20, lambda: listener.reports)
                for report in listener.reports:
                    equal(report.transaction, '1.2.3.%d' % call, 'transaction')
                    # one that was answered A700 after its rename may be there all the same: then it is rightly called kept
                    kept = stored or name[1] in node.stored()
                    equal((report.kept, report.failed), ([name], {}) if kept else ([], {name: 0x0112}),
                          'outcome after a crash at file call %d' % call)
            wait_over(node)
            quiet = quiet + 1 if answered and stored else 0
            if quiet >= 14:
                return
        finally:
            node.stop()
            listener.close()
    raise AssertionError('the crash point never moved past the last file call')


TESTS = {
    'peer.commitment.on_the_same_association': on_the_same_association,
    'peer.commitment.reasons': reasons,
    'peer.commitment.bad_requests': bad_requests,
    'peer.commitment.reversed_roles': reversed_roles,
    'peer.commitment.no_way_to_report': no_way_to_report,
    'peer.commitment.restart_between': restart_between,
    'peer.commitment.with_tls': with_tls,
    'peer.commitment.orthanc': orthanc,
    'crash.commitment.receiver_dies_at_every_file_call': receiver_dies_at_every_file_call,
}

if __name__ == '__main__':
    run_named(TESTS)
