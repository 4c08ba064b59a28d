# SPDX-License-Identifier: Apache-2.0
"""TLS of both roles: who is let in and whom we trust, against DCMTK's and OpenSSL's programs. Each test in an empty directory
of its own, with CAs of its own."""
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time

import pydicom

from pki import *
from support import *

PROFILE = ['+py']  # DCMTK's non-downgrading BCP 195


class TlsNode(Node):
    """A node that listens with TLS: `tls_port`; without it too when plain=True."""

    def __init__(self, ca, own, *args, plain=False, crl='', **settings):
        self.ca = ca
        self.client = ca.issue('client')  # of the sender that asks whether the node is up
        self.tls_port = free_port()
        settings.setdefault('receive__acse_timeout_s', 2)
        if not plain:
            settings['node__port'] = 0
        super().__init__(*args, node__tls={'port': self.tls_port, 'certificate': own[0], 'key': own[1], 'ca': ca.ca, 'crl': crl},
                         **settings)

    def echo(self, calling='SENDER', called='ISOSLICE', identity=None, port=None, extra=()):
        key = ['+tls', (identity or self.client)[1], (identity or self.client)[0]]
        return subprocess.run(['echoscu', '-to', '5', '-aet', calling, '-aec', called, *key, '+cf', self.ca.ca, *PROFILE, *extra,
                               '127.0.0.1', str(port or self.tls_port)], capture_output=True).returncode

    def said(self):
        return open('node.log', errors='replace').read()

    def wait_said(self, *words, timeout_s=10, times=1):
        wait_for('the log saying %s' % (words,), timeout_s, lambda: sum(
            all(word in line for word in words) for line in self.said().splitlines()) >= times)

    def hang_up(self, name='receive'):
        self.processes[name].send_signal(signal.SIGHUP)

    def connect(self, identity=None):
        """A TLS connection of Python's ssl to the node, and what the node shows."""
        context = ssl.create_default_context(cafile=self.ca.ca)
        context.check_hostname = False
        context.load_cert_chain(*(identity or self.client))
        return context.wrap_socket(socket.create_connection(('127.0.0.1', self.tls_port), timeout=20))


def s_client(port, *args):
    """openssl s_client: (its exit code, everything it said)."""
    done = subprocess.run(['openssl', 's_client', '-connect', '127.0.0.1:%d' % port, *args], input='', capture_output=True,
                          text=True, timeout=30)
    return done.returncode, done.stdout + done.stderr


def is_closed(connection, timeout_s=10):
    """Whether the other side ends the connection; anything it says first (an alert, an abort) is read."""
    connection.settimeout(timeout_s)
    try:
        while connection.recv(1000):
            pass
    except socket.timeout:
        return False
    except OSError:
        pass
    return True


def pacs_args(ca, own, port, folder='got'):
    os.makedirs(folder, exist_ok=True)
    return ['storescp', '-od', folder, '+tls', own[1], own[0], '+cf', ca.ca, *PROFILE, str(port)]


def start_pacs(*args, **kwargs):
    return subprocess.Popen(pacs_args(*args, **kwargs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            env={**os.environ, 'TCP_NODELAY': '1'})


def end(process):
    process.kill()
    process.wait()


def listening(port):
    def probe():
        try:
            socket.create_connection(('127.0.0.1', port), timeout=5).close()
            return True
        except OSError:
            return False
    return probe


def both_ways_accepted():
    """A sender with TLS, the node listening with TLS alone, a PACS with TLS: the derived series arrives."""
    good = phantom('source', slices=6)
    ca = Authority('ca')
    port = free_port()
    pacs = start_pacs(ca, ca.issue('pacs', san='DNS:pacs.example,IP:127.0.0.1'), port)
    client = ca.issue('mr1', san='DNS:mr1.example')
    node = TlsNode(ca, ca.issue('node'), port, destination={'tls': True}, crl=ca.crl).start()
    try:
        extra = ['+tls', client[1], client[0], '+cf', ca.ca, *PROFILE]
        done = subprocess.run(['storescu', '-aet', 'SENDER', '-aec', 'ISOSLICE', *extra, '127.0.0.1', str(node.tls_port), *good],
                              capture_output=True, text=True, env={**os.environ, 'TCP_NODELAY': '1'})
        equal(done.returncode, 0, 'exit code of storescu: %s' % done.stderr)
        node.wait_idle(120)
        row = node.rows('delivery')[0]
        equal(row['state'], 'SENT', 'delivery')
        derived = {p: open(p, 'rb').read() for p in files_of(node.spool + '/derived')}
        equal(len(derived), row['images'], 'derived images')
        equal(sorted(dataset_of(p) for p in files_of('got')), sorted(dataset_of(p) for p in derived), 'data sets in the PACS')
        check('with TLS' in isoslice('echo', '--config', node.config).stdout, 'isoslice echo')
        node.wait_said('from', 'with TLS')
        check('PRIVATE KEY' not in node.said(), 'a private key in the log')
        equal(node.stop(), {'receive': 0, 'work': 0, 'send': 0}, 'exit codes')
    finally:
        node.stop()
        end(pacs)


def versions_and_ciphers():
    """TLS 1.2 with forward secrecy and TLS 1.3 are spoken, nothing older or weaker."""
    ca = Authority('ca')
    node = TlsNode(ca, ca.issue('node')).start('receive')
    identity = ['-cert', node.client[0], '-key', node.client[1], '-CAfile', ca.ca]
    lax = ['-cipher', 'ALL:@SECLEVEL=0']  # so that it is not the client who refuses
    try:
        for accepted in (['-tls1_3'], ['-tls1_2'], ['-tls1_2', '-cipher', 'DHE-RSA-AES256-GCM-SHA384'],
                         ['-tls1_2', '-cipher', 'ECDHE-RSA-AES128-GCM-SHA256']):
            code, text = s_client(node.tls_port, *identity, *accepted)
            check(code == 0 and 'Verify return code: 0' in text, '%s: exit %d\n%s' % (accepted, code, text[-600:]))
        for refused in (['-tls1', *lax], ['-tls1_1', *lax], ['-tls1_2', '-cipher', 'AES128-SHA:@SECLEVEL=0'],
                        ['-tls1_2', '-cipher', 'ECDHE-RSA-AES128-SHA256'], ['-tls1_2', '-cipher', 'AES256-GCM-SHA384']):
            code, text = s_client(node.tls_port, *identity, *refused)
            check(code != 0 and 'Cipher is (NONE)' in text, '%s: exit %d\n%s' % (refused, code, text[-600:]))
            check('alert' in text, '%s was not refused by the node:\n%s' % (refused, text[-600:]))
        equal(node.echo(), 0, 'echo afterwards')
    finally:
        node.stop()


def untrusted_peers_are_refused():
    """No certificate, an unknown CA, expired, not valid yet, revoked: no association, and a sentence in the log."""
    ca, other = Authority('ca'), Authority('other')
    expired = ca.issue('expired', days=(-10, -1))
    future = ca.issue('future', days=(1, 10))
    revoked = ca.issue('revoked')
    ca.revoke(revoked[0])
    node = TlsNode(ca, ca.issue('node'), crl=ca.crl).start('receive')
    try:
        for identity, sentence in ((other.issue('client'), 'unable to get local issuer certificate'),
                                   (expired, 'certificate has expired'), (future, 'certificate is not yet valid'),
                                   (revoked, 'certificate revoked')):
            check(node.echo(identity=identity) != 0, 'accepted although %s' % sentence)
            node.wait_said('no association with 127.0.0.1: TLS', sentence)
        for version in ('-tls1_2', '-tls1_3'):
            s_client(node.tls_port, version, '-CAfile', ca.ca)
        node.wait_said('no association with 127.0.0.1: TLS', 'peer did not return a certificate', times=2)
        equal(node.echo(), 0, 'echo of a good sender')
    finally:
        node.stop()


def expired_revocation_list_refuses_everybody():
    ca = Authority('ca')
    openssl('ca', '-gencrl', '-crlsec', '12', '-config', ca.config, '-out', ca.crl)
    node = TlsNode(ca, ca.issue('node'), crl=ca.crl)
    node.start('receive')
    try:
        wait_for('the refusal of a good sender', 60, lambda: node.echo() != 0)
        node.wait_said('no association', 'CRL has expired')
        ca.list_revoked()
        node.hang_up()
        node.wait_said('certificates read again')
        equal(node.echo(), 0, 'echo with a fresh list')
    finally:
        node.stop()


def pinned_senders():
    """A sender entry that names a certificate is that certificate's alone, and never to be had without TLS."""
    ca = Authority('ca')
    mr1, mr2 = ca.issue('mr1', san='DNS:mr1.example'), ca.issue('mr2', subject='/O=Hospital/CN=mr2')
    by = lambda ae, **pin: {'ae_title': ae, 'address': '127.0.0.0/8', **pin}
    senders = [by('FINGER', certificate_sha256='00' * 32 + ', ' + sha256(mr1[0])), by('NAME', certificate_name='mr1.example'),
               by('SUBJECT', certificate_name='CN=mr2,O=Hospital'), by('SENDER'),
               by('TWICE', certificate_name='mr1.example'), by('TWICE', certificate_name='CN=mr2,O=Hospital'),
               by('BOTH', certificate_sha256=sha256(mr1[0]), certificate_name='mr2')]
    node = TlsNode(ca, ca.issue('node'), plain=True, senders=senders).start('receive')
    try:
        table = {('FINGER', mr1): 1, ('FINGER', mr2): 0, ('NAME', mr1): 1, ('NAME', mr2): 0, ('SUBJECT', mr2): 1, ('SUBJECT', mr1): 0,
                 ('TWICE', mr1): 1, ('TWICE', mr2): 1, ('TWICE', node.client): 0, ('BOTH', mr1): 0, ('BOTH', mr2): 0,
                 ('SENDER', mr1): 1, ('NOBODY', mr1): 0}
        got = {key: int(node.echo(calling=key[0], identity=key[1]) == 0) for key in table}
        equal(got, table, 'who was let in')
        node.wait_said("the certificate is not that sender's but 'CN=mr2,O=Hospital', sha256 " +
                       sha256(mr2[0]).replace(':', '').lower(), "calling 'FINGER'")
        answer = RawSender(node.tls_port, calling='NAME', connection=node.connect(mr2)).answer
        equal((answer[0],) + tuple(answer[1][1:4]), (3, 1, 1, 3), 'rejection of another certificate')
        answer = RawSender(node.port, calling='FINGER').answer
        equal((answer[0],) + tuple(answer[1][1:4]), (3, 1, 1, 3), 'rejection without TLS')
        node.wait_said("this sender must use TLS and show its certificate: calling 'FINGER'")
        equal(RawSender(node.port, calling='SENDER').answer[0], 2, 'answer to one that is not pinned')
    finally:
        node.stop()


def hostile_peers_delay_nobody():
    """Plain DICOM at the TLS port, TLS at the plain one, garbage, silence, half a handshake: each ends by itself, in time, and
    delays nobody."""
    ca = Authority('ca')
    node = TlsNode(ca, ca.issue('node'), plain=True).start('receive')
    try:
        plain = RawSender(node.tls_port)
        check(plain.answer[0] in (None, 21), 'the answer to plain DICOM is PDU %r' % plain.answer[0])  # 21: a TLS alert
        check(is_closed(plain.socket), 'plain DICOM at the TLS port stays connected')
        node.wait_said('no association', 'wrong version number')
        check(node.echo(port=node.port) != 0, 'TLS at the plain port was accepted')

        hello = ssl.MemoryBIO()
        engine = ssl.create_default_context(cafile=ca.ca).wrap_bio(ssl.MemoryBIO(), hello, server_hostname='node')
        try:
            engine.do_handshake()
        except ssl.SSLWantReadError:
            pass
        hello = hello.read()
        peers = {'garbage': os.urandom(500).replace(b'\x16', b'x'), 'silence': b'', 'half a hello': hello[:len(hello) // 2],
                 'a hello alone': hello, 'half a record': b'\x16\x03\x01\x40\x00' + bytes(100)}
        start = time.monotonic()
        sockets = {}
        for name, data in peers.items():
            sockets[name] = socket.create_connection(('127.0.0.1', node.tls_port))
            sockets[name].sendall(data)
        trickle = socket.create_connection(('127.0.0.1', node.tls_port))
        took = time.monotonic()
        equal(node.echo(), 0, 'echo beside them')
        took = time.monotonic() - took
        check(took < 1.5, 'echo beside them took %.1f s' % took)
        done = 0
        for byte in hello:  # each byte in time, the handshake not
            try:
                trickle.sendall(bytes([byte]))
                done += 1
            except OSError:
                break
            time.sleep(0.1)
        took = time.monotonic() - start
        check(done < len(hello) and took < 8, 'a trickled handshake of %d bytes lasted %.1f s' % (done, took))
        for name, connection in sockets.items():
            check(is_closed(connection, 4), 'still connected: ' + name)
        node.wait_said('the TLS handshake was not complete after 2 s', times=4)
        wait_for('no process left of them', 10, lambda: subprocess.run(
            ['pgrep', '-c', '-P', str(node.processes['receive'].pid)], capture_output=True, text=True).stdout.strip() == '1')
        equal(node.echo(), 0, 'echo afterwards')
        equal(node.stop(), {'receive': 0}, 'exit codes')
    finally:
        node.stop()


def silence_within_an_association():
    """After the handshake: half a TLS record, then nothing. The association ends by its time limit."""
    ca = Authority('ca')
    node = TlsNode(ca, ca.issue('node'), receive__dimse_timeout_s=2).start('receive')
    try:
        sender = RawSender(node.tls_port, connection=node.connect())
        equal(sender.answer[0], 2, 'association')
        raw = socket.socket(fileno=os.dup(sender.socket.fileno()))
        raw.sendall(b'\x17\x03\x03\x40\x00' + bytes(50))
        start = time.monotonic()
        check(is_closed(raw, 10), 'still connected')
        took = time.monotonic() - start
        check(took < 6, 'it took %.1f s' % took)
        node.wait_said('ended: ')
        equal(node.echo(), 0, 'echo afterwards')
    finally:
        node.stop()


def reload_of_reception():
    """SIGHUP: the new certificate for the associations that follow; the open one goes on; broken files change nothing."""
    good = phantom('source', slices=5)
    uids = [str(pydicom.dcmread(p).SOPInstanceUID) for p in good]
    ca = Authority('ca')
    first, second, late = ca.issue('first'), ca.issue('second'), ca.issue('late')
    shown = lambda node: dict(x[0] for x in node.connect().getpeercert()['subject'])['commonName']
    for n, name in enumerate(('own.pem', 'own.key')):
        shutil.copy(first[n], name)
    node = TlsNode(ca, (os.path.abspath('own.pem'), os.path.abspath('own.key')), crl=ca.crl).start('receive')
    try:
        equal(shown(node), 'first', 'certificate at start')
        sender = RawSender(node.tls_port, connection=node.connect())
        equal(sender.store(dataset_of(good[0]), sop_instance=uids[0]), 0, 'status before')
        for n, name in enumerate(('own.pem', 'own.key')):
            shutil.copy(second[n], name)
        equal(shown(node), 'first', 'certificate before the signal')
        node.hang_up()
        node.wait_said('certificates read again')
        equal(shown(node), 'second', 'certificate after it')
        equal(sender.store(dataset_of(good[1]), sop_instance=uids[1]), 0, 'status in the association that was open')

        open('own.pem', 'w').write('-----BEGIN CERTIFICATE-----\nnonsense\n')
        node.hang_up()
        node.wait_said('the certificates in use stay', 'own.pem', 'holds no readable certificate')
        equal(shown(node), 'second', 'certificate after a broken file')
        shutil.copy(first[0], 'own.pem')  # with the other's key
        node.hang_up()
        node.wait_said('the certificates in use stay', 'is not that of certificate')
        os.chmod('own.key', 0o644)
        shutil.copy(second[0], 'own.pem')
        node.hang_up()
        node.wait_said('the certificates in use stay', 'can be used by others')
        equal(shown(node), 'second', 'certificate after three broken pairs')
        equal(sender.store(dataset_of(good[2]), sop_instance=uids[2]), 0, 'status in the open association')

        os.chmod('own.key', 0o600)
        equal(node.echo(identity=late), 0, 'echo before revocation')
        ca.revoke(late[0])
        node.hang_up()
        node.wait_said('certificates read again', times=2)
        check(node.echo(identity=late) != 0, 'a sender was let in after its certificate had been revoked')
        equal(node.echo(), 0, 'echo of another')
        sender.close()
        equal(node.stop(), {'receive': 0}, 'exit codes')
    finally:
        node.stop()


def bad_files_are_refused_at_start():
    """Keys that others can read or that are somebody else's, a weak certificate and the like: no start, one sentence, and
    check-config says the same, of an expired certificate too; what runs out soon is warned of."""
    ca = Authority('ca')
    own = ca.issue('node')
    encrypted = os.path.abspath('encrypted.key')
    openssl('rsa', '-aes128', '-passout', 'pass:secret', '-in', own[1], '-out', encrypted)
    os.chmod(encrypted, 0o600)
    shared = os.path.abspath('shared.key')
    shutil.copy(own[1], shared)
    os.chmod(shared, 0o640)
    text = os.path.abspath('text.pem')
    open(text, 'w').write('hello\n')
    cases = [((own[0], shared), 'shared.key\' can be used by others: its mode is 0640, which must be 0600 or 0400'),
             ((own[0], encrypted), 'cannot be read, or is encrypted'), ((own[0], '/none.key'), "cannot open private key '/none.key'"),
             ((own[0], ca.issue('another')[1]), 'is not that of certificate'), ((text, own[1]), 'holds no readable certificate'),
             (ca.issue('weak', bits=1024), 'too small')]
    if os.geteuid() == 0:
        foreign = os.path.abspath('foreign.key')
        shutil.copy(own[1], foreign)
        os.chmod(foreign, 0o600)
        os.chown(foreign, 12345, 12345)
        cases.append(((own[0], foreign), "foreign.key' belongs to user 12345, which must be 0 (root) or 0"))
    for identity, sentence in cases:
        node = TlsNode(ca, identity, 104, destination={'tls': True})
        for name in ('isoslice-receive', 'isoslice-send'):
            done = subprocess.run([program(name), '--config', node.config], capture_output=True, text=True, timeout=20)
            equal(done.returncode, 2, 'exit code of %s with %s' % (name, identity))
            check(sentence in done.stderr and len(done.stderr.splitlines()) == 1, '%s said %r, not %r' % (name, done.stderr, sentence))
        done = isoslice('check-config', node.config, ok=(2,))
        for where in ('node.tls: ', "destination 'pacs': "):
            check(any(where in line and sentence in line for line in done.stderr.splitlines()), 'check-config said %r' % done.stderr)
    for identity, sentence in ((ca.issue('old', days=(-9, -2)), 'has expired: it was valid until'),
                               (ca.issue('early', days=(2, 9)), 'is not valid yet: it will be from')):
        node = TlsNode(ca, identity, 104, destination={'tls': True})
        said = isoslice('check-config', node.config, ok=(2,)).stderr.splitlines()
        for where in ('node.tls: ', "destination 'pacs': "):
            check(any(where in line and sentence in line for line in said), 'check-config said %r' % said)
        said = isoslice('echo', '--config', node.config, ok=(1,)).stderr
        check(sentence in said, 'echo said %r' % said)
    node = TlsNode(ca, ca.issue('soon', days=(-300, 9.5)), 104, destination={'tls': True})
    done = isoslice('check-config', node.config)
    check('expires in 9 days' in done.stderr, 'check-config said %r' % done.stderr)
    node.start('receive', 'send')
    try:
        node.wait_said('warning', 'TLS of reception', 'expires in 9 days')
        node.wait_said('warning', 'TLS of pacs', 'expires in 9 days')
        node.hang_up()
        node.wait_said('warning', 'TLS of reception', 'expires in 9 days', times=2)
    finally:
        node.stop()


def a_certificate_out_of_its_time_stops_nothing_else():
    """One destination's certificate has expired, that of reception is not valid yet, as on a machine whose clock is not set. Once
    nothing was sent anywhere and nothing received, not even without TLS, until a person started them again. The rest works;
    reception begins when the time has come, the destination is sent to when it has another certificate."""
    ca = Authority('ca')
    old, new = ca.issue('old', days=(-9, -2)), ca.issue('new')
    node = TlsNode(ca, ca.issue('early', days=(8 / 86400, 9)), free_port(), plain=True, send__retry_max_s=0.5, more=[
        {'name': 'second', 'port': free_port(), 'tls': True, 'ca': ca.ca, 'own_certificate': old[0], 'own_key': old[1]}])
    queue_of(node, ('pacs', 'WAITING'), ('second', 'WAITING'))
    node.start('receive', 'send', wait=False)
    try:
        node.wait_said('error', 'TLS of reception is not in use', 'is not valid yet')
        node.wait_said('error', 'TLS of second is not in use', 'has expired')
        check(not listening(node.tls_port)(), 'the port with TLS is open')
        wait_for('the port without TLS', 10, lambda: Node.echo(node) == 0)
        wait_for('an attempt at the first', 10, lambda: 'CONNECT' in node.rows('delivery')[0]['note'])
        waiting = wait_for('an attempt at the second', 10, lambda: [r for r in node.rows('delivery') if 'has expired' in r['note']])[0]
        equal((waiting['state'], waiting['note'][:4]), ('WAITING', 'TLS:'), 'the second')
        wait_for('the port with TLS', 30, lambda: node.echo() == 0)
        node.wait_said('TLS of reception is in use from here on')
        for n in (0, 1):
            shutil.copy(new[n], old[n])
        node.hang_up('send')
        wait_for('another attempt at the second', 10, lambda: 'CONNECT' in node.rows('delivery')[1]['note'])
        equal(node.said().count('TLS of reception is not in use'), 1, 'lines about it')
        equal(node.stop(), {'receive': 0, 'send': 0}, 'exit codes')
    finally:
        node.stop()


def wrong_pacs_gets_nothing():
    """A destination that is not who it should be gets nothing: the delivery waits with its reason, and goes out once the right
    one answers."""
    phantom('source', slices=5)
    ca, other = Authority('ca'), Authority('other')
    right = ca.issue('pacs', san='DNS:pacs.example')
    revoked = ca.issue('revoked', san='DNS:pacs.example')
    ca.revoke(revoked[0])
    wrong = {'the TLS handshake failed: self-signed certificate in certificate chain': other.issue('pacs', san='DNS:pacs.example'),
             "its certificate is not the expected one but 'CN=elsewhere'": ca.issue('elsewhere', san='DNS:elsewhere.example'),
             'certificate has expired': ca.issue('expired', san='DNS:pacs.example', days=(-9, -1)),
             'certificate revoked': revoked}
    port = free_port()
    node = TlsNode(ca, ca.issue('node'), port, plain=True, crl=ca.crl, send__retry_max_s=0.5,
                   destination={'tls': True, 'certificate_name': 'pacs.example'}).start()
    pacs = None
    try:
        storescu(node, files_of('source'))
        wait_for('a delivery', 120, lambda: node.rows('delivery'))
        for sentence, identity in wrong.items():
            pacs = start_pacs(other if identity == list(wrong.values())[0] else ca, identity, port)
            wait_for('the delivery waiting for: %s' % sentence, 20, lambda: [
                r for r in node.rows('delivery') if r['state'] == 'WAITING' and sentence in r['note'] and 'TLS' in r['note']])
            end(pacs)
        # without TLS, without a word, and one that does not take our certificate
        pacs = subprocess.Popen(['storescp', '-od', 'got', str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for('the delivery waiting for a PACS without TLS', 20, lambda: [
            r for r in node.rows('delivery') if r['state'] == 'WAITING' and 'the TLS handshake failed' in r['note'] and
            'self-signed' not in r['note'] and 'revoked' not in r['note']])
        end(pacs)
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            silent.bind(('127.0.0.1', port))
            silent.listen(8)
            wait_for('the delivery waiting for a silent PACS', 20, lambda: [
                r for r in node.rows('delivery') if r['state'] == 'WAITING' and 'not complete after 3 s' in r['note']])
        ours_unknown = Authority('third')
        args = pacs_args(ours_unknown, right, port)
        pacs = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for('the delivery waiting for a PACS that does not know our CA', 20, lambda: [
            r for r in node.rows('delivery') if r['state'] == 'WAITING' and 'alert' in r['note']])
        end(pacs)
        equal(files_of('got'), [], 'files at any of them')
        pacs = start_pacs(ca, right, port)
        node.wait_idle(30)
        equal([r['state'] for r in node.rows('delivery')], ['SENT'], 'delivery to the right one')
        equal(len(files_of('got')), node.rows('delivery')[0]['images'], 'files at the right one')
    finally:
        node.stop()
        if pacs:
            end(pacs)


def echo_checks_the_destination():
    """`isoslice echo`: by host name, fingerprint, name; with certificates of its own."""
    ca, theirs = Authority('ca'), Authority('theirs')
    port = free_port()
    theirs_pem = theirs.issue('pacs', san='DNS:localhost')
    ours = theirs.issue('ours')
    pacs = start_pacs(theirs, theirs_pem, port)
    table = [({}, 1, 'the TLS handshake failed'), ({'ca': theirs.ca}, 1, ''),
             ({'ca': theirs.ca, 'own_certificate': ours[0], 'own_key': ours[1]}, 1, 'its certificate is not the expected one'),
             ({'ca': theirs.ca, 'own_certificate': ours[0], 'own_key': ours[1], 'host': 'localhost'}, 0, 'with TLS'),
             ({'ca': theirs.ca, 'own_certificate': ours[0], 'own_key': ours[1], 'certificate_sha256': sha256(theirs_pem[0])}, 0, ''),
             ({'ca': theirs.ca, 'own_certificate': ours[0], 'own_key': ours[1], 'certificate_sha256': sha256(ours[0])}, 1, 'expected'),
             ({'ca': theirs.ca, 'own_certificate': ours[0], 'own_key': ours[1], 'certificate_name': 'CN=pacs'}, 0, '')]
    try:
        wait_for('the PACS up', 20, listening(port))
        for destination, code, words in table:
            node = TlsNode(ca, ca.issue('node'), port, destination={'tls': True, **destination})
            done = isoslice('echo', '--config', node.config, ok=(0, 1))
            equal(done.returncode, code, 'exit code with %s: %s%s' % (destination, done.stdout, done.stderr))
            check(words in done.stdout + done.stderr, '%r not in %r' % (words, done.stdout + done.stderr))
    finally:
        end(pacs)


def reload_of_sending():
    """SIGHUP to the whole node reaches reception and every destination; a new own certificate is shown at the next connection."""
    ca, second = Authority('ca'), Authority('second')
    old, new = ca.issue('node'), second.issue('node')
    for n, name in enumerate(('own.pem', 'own.key')):
        shutil.copy(old[n], name)
    port = free_port()
    both = os.path.abspath('both.pem')
    open(both, 'w').write(open(ca.ca).read() + open(second.ca).read())
    node = TlsNode(ca, (os.path.abspath('own.pem'), os.path.abspath('own.key')), port, plain=True, send__retry_max_s=0.5,
                   destination={'tls': True, 'ca': both, 'certificate_name': 'CN=pacs'})
    installed_layout()
    for name in os.listdir('bin'):
        real = os.path.realpath('bin/' + name)
        os.unlink('bin/' + name)
        shutil.copy(real, 'bin/' + name)
    phantom('source', slices=5)
    process = subprocess.Popen(['bin/isoslice', 'node', '--config', node.config], stderr=node.log)
    pacs = start_pacs(second, second.issue('pacs'), port)  # knows our new certificate's CA only
    try:
        node.wait_listening()
        storescu(node, files_of('source'))
        wait_for('a refusal', 120, lambda: [r for r in node.rows('delivery') if 'alert' in r['note']])
        for n, name in enumerate(('own.pem', 'own.key')):
            shutil.copy(new[n], name)
        process.send_signal(signal.SIGHUP)
        node.wait_said('TLS of reception: certificates read again')
        node.wait_said('TLS of pacs: certificates read again')
        node.wait_idle(30)
        equal([r['state'] for r in node.rows('delivery')], ['SENT'], 'delivery')
        process.terminate()
        equal(process.wait(60), 0, 'exit code')
    finally:
        process.kill()
        process.wait()
        end(pacs)


TESTS = {
    'peer.tls.both_ways_accepted': both_ways_accepted,
    'peer.tls.versions_and_ciphers': versions_and_ciphers,
    'peer.tls.untrusted_peers_are_refused': untrusted_peers_are_refused,
    'peer.tls.expired_revocation_list_refuses_everybody': expired_revocation_list_refuses_everybody,
    'peer.tls.pinned_senders': pinned_senders,
    'peer.tls.hostile_peers_delay_nobody': hostile_peers_delay_nobody,
    'peer.tls.silence_within_an_association': silence_within_an_association,
    'peer.tls.reload_of_reception': reload_of_reception,
    'peer.tls.bad_files_are_refused_at_start': bad_files_are_refused_at_start,
    'peer.tls.a_certificate_out_of_its_time_stops_nothing_else': a_certificate_out_of_its_time_stops_nothing_else,
    'peer.tls.wrong_pacs_gets_nothing': wrong_pacs_gets_nothing,
    'peer.tls.echo_checks_the_destination': echo_checks_the_destination,
    'peer.tls.reload_of_sending': reload_of_sending,
}

if __name__ == '__main__':
    run_named(TESTS)
