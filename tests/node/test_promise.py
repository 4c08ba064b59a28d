# SPDX-License-Identifier: Apache-2.0
"""Storage commitment of destinations: the node asks after it has sent. With Orthanc, and with an archive of our own that commits
itself here, there, partly, late or not at all. Each test in an empty directory of its own."""
import glob
import json
import os
import shutil
import socket
import sqlite3
import ssl
import struct
import threading
import time

from pki import Authority
from support import *
from test_commitment import PUSH, PUSH_INSTANCE, Committer, element, elements, message, references, text

RECEIVED, HERE, THERE, BEFORE = 'received', 'here', 'there', 'before'


class Archive:
    """A PACS with storage commitment. `how` it tells: HERE on the association that asked, BEFORE its answer there, THERE on one of
    its own to the node, or None: never. `lacks`: instances that it calls missing once, by their place in the series, with a reason."""

    def __init__(self, how=THERE, lacks=(), reason=0x0112, status=0, accepts=True, silent_about=(), calling='TESTPACS',
                 wrap=lambda connection: connection, wrap_call=lambda connection: connection):
        self.how, self.lacks, self.reason, self.status, self.accepts = how, set(lacks), reason, status, accepts
        self.silent_about, self.calling = set(silent_about), calling
        self.wrap, self.wrap_call = wrap, wrap_call  # around connections that come, and that it makes
        self.node_port = None
        self.stored, self.asked, self.answers = [], [], []  # instance UIDs; [(transaction, [instance])]; statuses of reports
        self.server = socket.create_server(('127.0.0.1', 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        peer = Committer.__new__(Committer)
        try:
            peer.socket = connection = self.wrap(connection)
            contexts = self.accept(peer)
            while True:
                command, data = peer.receive(60)
                if command is None:
                    if data == 5:
                        connection.sendall(struct.pack('>BBII', 6, 0, 4, 0))
                    return
                field = struct.unpack('<H', command[0, 0x0100])[0]
                number = struct.unpack('<H', command[0, 0x0110])[0]
                if field == 0x0001:
                    self.stored.append(text(command[0, 0x1000]))
                    peer.pdv(3, message(0x8001, affected_class=MR, answers=number, data=0x0101, status=0,
                                        affected=text(command[0, 0x1000])), contexts[MR])
                elif field == 0x0130:
                    self.act(peer, contexts[PUSH], number, data)
        except (OSError, struct.error, KeyError):
            pass
        finally:
            connection.close()

    def accept(self, peer):
        """Associates; {SOP class: context}, the first of each that is implicit."""
        _, request = peer.pdu()
        at, ours, answer = 68, {}, b''
        while at < len(request):
            kind, _, n = struct.unpack('>BBH', request[at:at + 4])
            body = request[at + 4:at + 4 + n]
            at += 4 + n
            if kind != 0x20:
                continue
            m = struct.unpack('>H', body[6:8])[0]
            abstract = text(body[8:8 + m])
            good = IMPLICIT.encode() in body[8 + m:] and abstract not in ours and (abstract != PUSH or self.accepts)
            if good:
                ours[abstract] = body[0]
            answer += item(0x21, struct.pack('>BBBB', body[0], 0, 0 if good else 3, 0) + item(0x40, IMPLICIT.encode()))
        body = request[:68] + item(0x10, b'1.2.840.10008.3.1.1.1') + answer + item(
            0x50, item(0x51, struct.pack('>I', 65536)) + item(0x52, b'1.2.3.4'))
        peer.socket.sendall(struct.pack('>BBI', 2, 0, len(body)) + body)
        return ours

    def act(self, peer, context, number, data):
        data = dict(elements(data))
        transaction = text(data[0x0008, 0x1195])
        asked = [(text(i[0x0008, 0x1150]), text(i[0x0008, 0x1155])) for i in data[0x0008, 0x1199]]
        self.asked.append((transaction, [u for _, u in asked]))
        report = self.report_of(transaction, asked)
        if self.how == BEFORE:
            self.tell(peer, context, report)
        peer.pdv(3, message(0x8130, affected_class=PUSH, answers=number, data=0x0101, status=self.status,
                            affected=PUSH_INSTANCE, action=1), context)
        if self.status == 0 and self.how == HERE:
            self.tell(peer, context, report)
        elif self.status == 0 and self.how == THERE:
            self.call(report)

    def report_of(self, transaction, asked):
        """(event type, data set): PS3.4 table J.3-2."""
        failed = [asked[i] for i in sorted(self.lacks)]
        kept = [a for i, a in enumerate(asked) if i not in self.lacks | self.silent_about]
        self.stored = [u for u in self.stored if u not in [f for _, f in failed]]
        self.lacks, self.silent_about = set(), set()
        data = references(kept or None, transaction)
        if failed:
            items = b''.join(struct.pack('<HHI', 0xfffe, 0xe000, len(i)) + i for i in (
                element(0x0008, 0x1150, c.encode()) + element(0x0008, 0x1155, u.encode()) +
                element(0x0008, 0x1197, struct.pack('<H', self.reason)) for c, u in failed))
            data = references(None, transaction) + element(0x0008, 0x1198, items) + references(kept, '')
        return 2 if failed else 1, data

    def tell(self, peer, context, report):
        event, data = report
        peer.pdv(3, message(0x0100, affected_class=PUSH, message=77, data=1, affected=PUSH_INSTANCE, event=event), context)
        peer.pdv(2, data, context)
        command, _ = peer.receive(20)
        equal(struct.unpack('<H', command[0, 0x0100])[0], 0x8100, 'command')
        self.answers.append(struct.unpack('<H', command[0, 0x0900])[0])

    def call(self, report, calling=None):
        """An association to the node, with ourselves as SCP."""
        role = item(0x54, struct.pack('>H', len(PUSH)) + PUSH.encode() + b'\0\1')
        connection = self.wrap_call(socket.create_connection(('127.0.0.1', self.node_port), timeout=20))
        peer = Committer.__new__(Committer)
        peer.socket = connection
        body = struct.pack('>HH', 1, 0) + b'ISOSLICE'.ljust(16) + (calling or self.calling).encode().ljust(16) + bytes(32) + \
            item(0x10, b'1.2.840.10008.3.1.1.1') + context_item(1, PUSH, IMPLICIT) + \
            item(0x50, item(0x51, struct.pack('>I', 65536)) + item(0x52, b'1.2.3.4') + role)
        connection.sendall(struct.pack('>BBI', 1, 0, len(body)) + body)
        kind, answer = peer.pdu()
        equal(kind, 2, 'the association of a report')
        check(role in answer, 'the node does not leave us the role of the SCP: %r' % answer)
        self.tell(peer, 1, report)
        peer.release()

    def close(self):
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


SENDERS = [{'ae_title': ae, 'address': '127.0.0.0/8'} for ae in ('SENDER', 'TESTPACS')]


def node_with(archive, senders=SENDERS, destination=None, **settings):
    """A node that sends to the archive and has one series to derive, which is so small that this takes a second."""
    good = phantom('source', matrix=32, slices=5)
    node = Node(archive.port, senders=senders, destination=destination, work__steps=1, work__spacing='3', **settings)
    archive.node_port = node.port
    node.start()
    storescu(node, good)
    return node


def delivery_when(node, probe, timeout_s=60):
    """The one delivery, once it is so."""
    return wait_for('the delivery as wanted', timeout_s, lambda: [r for r in node.rows('delivery') if probe(r)])[0]


def is_sent(row):
    return row['state'] == 'SENT'


def committed(how):
    archive = Archive(how)
    node = node_with(archive)
    try:
        row = delivery_when(node, is_sent)
        equal(row['note'], 'committed by the destination', 'note')
        equal(archive.answers, [0], 'answers to the report')
        equal(len(archive.asked), 1, 'requests')
        transaction, asked = archive.asked[0]
        equal(asked, archive.stored, 'what was asked for, in the order of sending')
        equal(dict(node.show(row['id']))['commitment'], transaction, 'the transaction that the queue shows')
        check('committed by \'pacs\'' in open('node.log').read(), 'the log does not say so')
        wait_for('nothing left in the incoming folder', 10, lambda: not glob.glob(node.spool + '/incoming/a*'))
        equal(node.stop(), {'receive': 0, 'work': 0, 'send': 0}, 'exit codes')
    finally:
        node.stop()
        archive.close()


def on_an_association_of_its_own():
    committed(THERE)


def on_the_association_that_asked():
    committed(HERE)


def before_the_answer():
    committed(BEFORE)


def orthanc():
    """Orthanc commits itself to what it has; to what was deleted there meanwhile it does not, and gets it again."""
    pacs = Orthanc()
    good = phantom('source', matrix=32, slices=5)
    node = Node(pacs.dicom, senders=SENDERS, work__steps=1, work__spacing='3')
    settings = json.load(open('orthanc/orthanc.json'))
    settings['DicomModalities'] = {'node': {'AET': 'ISOSLICE', 'Host': '127.0.0.1', 'Port': node.port, 'AllowStorageCommitment': True}}
    json.dump(settings, open('orthanc/orthanc.json', 'w'))
    pacs.start()
    node.start()
    try:
        storescu(node, good)
        row = delivery_when(node, is_sent)
        equal(row['note'], 'committed by the destination', 'note')
        equal(sum(pacs.fetch('fetched').values()), row['images'], 'images at Orthanc')
    finally:
        node.stop()
        pacs.stop()


def what_it_lacks_is_sent_again():
    """Two of the objects: reported as failed, then as not mentioned at all; the others are not sent again."""
    for how, more in ((THERE, {'lacks': (1, 3)}), (HERE, {'silent_about': (1, 3)})):
        shutil.rmtree('spool', ignore_errors=True)
        archive = Archive(how, **more)
        node = node_with(archive)
        try:
            row = delivery_when(node, is_sent)
            (first, asked), (second, again) = archive.asked
            check(first != second, 'one transaction twice')
            equal(again, asked, 'what the second request asks for')
            equal(archive.stored[-2:], [asked[1], asked[3]], 'what was sent again')
            equal(len(archive.stored), len(asked) + (0 if 'lacks' in more else 2), 'objects sent')
            check('does not commit itself to 2 objects, they will be sent again' in open('node.log').read(), 'the log does not say so')
        finally:
            node.stop()
            archive.close()


def reasons_that_last_hold():
    """The class of an instance is another there: the same bytes again would change nothing."""
    archive = Archive(THERE, lacks=(2,), reason=0x0119)
    node = node_with(archive)
    try:
        row = delivery_when(node, lambda r: r['state'] == 'HELD')
        check('NOT_COMMITTED' in row['note'] and 'reason 0x0119' in row['note'], 'note: %s' % row['note'])
        isoslice('queue', '--config', node.config, 'release', row['id'])  # a person has mended it
        delivery_when(node, is_sent)
        equal(len(archive.asked), 2, 'requests')
    finally:
        node.stop()
        archive.close()


def without_commitment():
    """An archive that has none, one that refuses, one that is no sender and so could not tell: confirmed is enough, and said. With
    `required` the first two are held; `never` does not ask."""
    table = [({'accepts': False}, {}, SENDERS, 'SENT', 'not committed: '),
             ({'status': 0x0211}, {}, SENDERS, 'SENT', 'not committed: peer answered 0x0211'),
             ({}, {}, SENDERS[:1], 'SENT', ''),
             ({'accepts': False}, {'commitment': 'required'}, SENDERS, 'HELD', 'NOT_NEGOTIATED'),
             ({'status': 0x0211}, {'commitment': 'required'}, SENDERS, 'HELD', 'PEER_REFUSED'),
             ({}, {'commitment': 'never'}, SENDERS, 'SENT', '')]
    for about, destination, senders, state, note in table:
        shutil.rmtree('spool', ignore_errors=True)
        archive = Archive(**about)
        node = node_with(archive, senders, destination)
        try:
            row = delivery_when(node, lambda r: r['state'] == state)
            check(note in row['note'] and (note or not row['note']), '%s %s: note %r' % (about, destination, row['note']))
            equal(len(archive.asked), 1 if 'status' in about else 0, 'requests')
            equal(len(archive.stored), row['images'], 'objects sent')
        finally:
            node.stop()
            archive.close()
    node = Node(1, senders=SENDERS[:1], destination={'commitment': 'required'})
    done = isoslice('check-config', node.config, ok=(2,))
    check("'pacs' is to commit itself, but 'TESTPACS' is not among the senders" in done.stderr, done.stderr)


def no_answer():
    """It takes the request and never tells: asked again, with another transaction; in the end confirmed is enough, but not where
    commitment is required. Nothing is sent twice for that."""
    for commitment, state, note in (('auto', 'SENT', 'not committed within'), ('required', 'HELD', 'given up after')):
        shutil.rmtree('spool', ignore_errors=True)
        archive = Archive(None)
        node = node_with(archive, destination={'commitment': commitment}, send__commitment_h=0.001, send__give_up_h=0.003)
        try:
            row = delivery_when(node, lambda r: r['state'] == 'ASKED')
            equal(row['note'], 'every object was confirmed; its commitment is waited for', 'note')
            row = delivery_when(node, lambda r: r['state'] == state)
            check(note in row['note'], 'note: %s' % row['note'])
            check(len(archive.asked) >= 2, 'asked once only')
            equal(len({t for t, _ in archive.asked}), len(archive.asked), 'transactions')
            equal(len(archive.stored), row['images'], 'objects sent')
        finally:
            node.stop()
            archive.close()


def reports_of_strangers():
    """Another sender, an unknown transaction, a report that came twice, a broken one: nothing changes, and the right one counts."""
    archive = Archive(None)
    node = node_with(archive)
    try:
        delivery_when(node, lambda r: r['state'] == 'ASKED')
        transaction, asked = archive.asked[0]
        right = (1, references([(MR, u) for u in asked], transaction))
        archive.call(right, calling='SENDER')
        archive.call((1, references([(MR, u) for u in asked], '1.2.3.4')))
        for broken in ((7, right[1]), (1, b''), (1, right[1][:-8]), (1, references([], transaction)),
                       (1, references([(MR, '1..2')], transaction))):
            archive.call(broken)
        equal(archive.answers, [0, 0, 0x0113, 0x0115, 0x0115, 0x0115, 0x0115], 'answers')
        time.sleep(2)
        equal([r['state'] for r in node.rows('delivery')], ['ASKED'], 'state after reports of others')
        log = open('node.log').read()
        check("'SENDER' reports a commitment that 'pacs' was asked for; not believed" in log, 'the stranger is not named')
        check("transaction '1.2.3.4', which nobody waits for" in log, 'the unknown transaction is not named')
        archive.call(right)
        delivery_when(node, is_sent)
        archive.call(right)
        time.sleep(1)
        equal([r['state'] for r in node.rows('delivery')], ['SENT'], 'state after the same report again')
        storescu(node, files_of('source'), calling='TESTPACS')  # who tells may send, too
    finally:
        node.stop()
        archive.close()


def with_tls():
    """Request and report over TLS. A report without it, or with another certificate than the archive's, does not come in."""
    ca = Authority('ca')
    own, theirs, other = ca.issue('node'), ca.issue('pacs', san='DNS:localhost'), ca.issue('other')
    inward = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inward.load_cert_chain(*theirs)
    inward.load_verify_locations(ca.ca)
    inward.verify_mode = ssl.CERT_REQUIRED

    def outward(identity):
        context = ssl.create_default_context(cafile=ca.ca)
        context.check_hostname = False
        context.load_cert_chain(*identity)
        return context.wrap_socket

    tls_port = free_port()
    archive = Archive(None, wrap=lambda connection: inward.wrap_socket(connection, server_side=True), wrap_call=outward(theirs))
    senders = [SENDERS[0], {'ae_title': 'TESTPACS', 'address': '127.0.0.1', 'certificate_name': 'localhost'}]
    node = node_with(archive, senders, {'tls': True, 'host': 'localhost'},
                     node__tls={'port': tls_port, 'certificate': own[0], 'key': own[1], 'ca': ca.ca})
    try:
        row = delivery_when(node, lambda r: r['state'] == 'ASKED')
        transaction, asked = archive.asked[0]
        report = 1, references([(MR, u) for u in asked], transaction)
        for port, wrap in ((node.port, lambda connection: connection), (tls_port, outward(other))):
            archive.node_port, archive.wrap_call = port, wrap
            try:
                archive.call(report)
                raise RuntimeError('a report came in that should not')
            except AssertionError as rejected:
                check('the association of a report is 3, not 2' in str(rejected), str(rejected))
        time.sleep(1)
        equal([r['state'] for r in node.rows('delivery')], ['ASKED'], 'state')
        archive.node_port, archive.wrap_call = tls_port, outward(theirs)
        archive.call(report)
        equal(archive.answers, [0], 'answers')
        equal(delivery_when(node, is_sent)['id'], row['id'], 'the delivery')
    finally:
        node.stop()
        archive.close()


def told_while_nobody_indexes():
    """The report is durable when it is answered: the receiving processes killed right after it, it counts after the restart."""
    archive = Archive(None)
    node = node_with(archive)
    try:
        delivery_when(node, lambda r: r['state'] == 'ASKED')
        transaction, asked = archive.asked[0]
        indexer = list(children(node.processes['receive'].pid))
        for pid in indexer:
            os.kill(pid, 19)  # SIGSTOP: nothing is indexed
        archive.call((1, references([(MR, u) for u in asked], transaction)))
        equal(archive.answers, [0], 'answer')
        equal([r['state'] for r in node.rows('delivery')], ['ASKED'], 'state before it is looked at')
        equal(len(glob.glob(node.spool + '/incoming/*/*.told')), 1, 'reports on the disk')
        for pid in indexer:
            os.kill(pid, 9)
        node.kill('receive')
        node.start('receive')
        equal(delivery_when(node, is_sent)['note'], 'committed by the destination', 'note')
        wait_for('the report gone', 10, lambda: not glob.glob(node.spool + '/incoming/*/*.told'))
    finally:
        node.stop()
        archive.close()


def sender_dies_after_asking():
    """isoslice-send killed between the request and its answer: asked again after the restart; the answer to the first counts for
    nothing any more, nothing is sent twice."""
    archive = Archive(None)
    hangs = threading.Event()
    act = archive.act

    def hang(peer, context, number, data):
        archive.act = act
        archive.asked.append((text(dict(elements(data))[0x0008, 0x1195]), None))
        hangs.set()
        time.sleep(5)

    archive.act = hang
    node = node_with(archive)
    try:
        check(hangs.wait(60), 'nothing was asked')
        for pid in [node.processes['send'].pid, *children(node.processes['send'].pid)]:
            os.kill(pid, 9)
        node.processes.pop('send').wait(60)
        node.start('send')
        delivery_when(node, lambda r: r['state'] == 'ASKED')
        (first, _), (second, asked) = archive.asked
        check(first != second, 'one transaction twice')
        archive.call((1, references([(MR, u) for u in asked], first)))
        time.sleep(1)
        equal([r['state'] for r in node.rows('delivery')], ['ASKED'], 'state after an answer to the first request')
        archive.call((1, references([(MR, u) for u in asked], second)))
        delivery_when(node, is_sent)
        equal(archive.stored, asked, 'objects sent')
    finally:
        node.stop()
        archive.close()


def older_queue():
    """A queue from before there was such a state keeps its rows, their order and their ties."""
    archive = Archive(accepts=False)
    node = node_with(archive)
    try:
        delivery_when(node, is_sent)
        node.stop()
        before = isoslice('queue', '--config', node.config, 'list').stdout
        database = sqlite3.connect(node.spool + '/queue.db')
        database.executescript("""
            PRAGMA foreign_keys=OFF; BEGIN; DROP TABLE promised; DROP INDEX delivery_transaction;
            CREATE TABLE old(id INTEGER PRIMARY KEY AUTOINCREMENT, result_id INTEGER NOT NULL REFERENCES result(id) ON DELETE CASCADE,
             destination TEXT NOT NULL, state TEXT NOT NULL CHECK(state IN ('WAITING','SENDING','SENT','HELD')),
             created_us INTEGER NOT NULL, changed_us INTEGER NOT NULL, not_before_us INTEGER NOT NULL DEFAULT 0,
             owner TEXT NOT NULL DEFAULT '', lease_until_us INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
             note TEXT NOT NULL DEFAULT '');
            INSERT INTO old SELECT id, result_id, destination, state, created_us, changed_us, not_before_us, owner, lease_until_us,
             attempts, note FROM delivery;
            DROP TABLE delivery; ALTER TABLE old RENAME TO delivery; COMMIT;""")
        n_sent = database.execute('SELECT count(*) FROM sent').fetchone()[0]
        check(n_sent > 0, 'no object was sent')
        database.close()
        equal(isoslice('queue', '--config', node.config, 'list').stdout, before, 'the list')
        database = sqlite3.connect(node.spool + '/queue.db')
        equal(database.execute('PRAGMA foreign_key_check').fetchall(), [], 'rows without what they belong to')
        equal(database.execute('SELECT count(*) FROM sent').fetchone()[0], n_sent, 'objects sent')
        check("'ASKED'" in database.execute("SELECT sql FROM sqlite_master WHERE name='delivery'").fetchone()[0], 'the table is the old one')
        database.close()
        archive.accepts = True
        node.start()
        isoslice('queue', '--config', node.config, 'retry', 'd1')
        delivery_when(node, lambda r: r['note'] == 'committed by the destination')
    finally:
        node.stop()
        archive.close()


TESTS = {
    'peer.promise.on_an_association_of_its_own': on_an_association_of_its_own,
    'peer.promise.on_the_association_that_asked': on_the_association_that_asked,
    'peer.promise.before_the_answer': before_the_answer,
    'peer.promise.orthanc': orthanc,
    'peer.promise.what_it_lacks_is_sent_again': what_it_lacks_is_sent_again,
    'peer.promise.reasons_that_last_hold': reasons_that_last_hold,
    'peer.promise.without_commitment': without_commitment,
    'peer.promise.no_answer': no_answer,
    'peer.promise.reports_of_strangers': reports_of_strangers,
    'peer.promise.with_tls': with_tls,
    'crash.promise.told_while_nobody_indexes': told_while_nobody_indexes,
    'crash.promise.sender_dies_after_asking': sender_dies_after_asking,
    'peer.promise.older_queue': older_queue,
}

if __name__ == '__main__':
    run_named(TESTS)
