# SPDX-License-Identifier: Apache-2.0
"""Storage commitments as a person sees them in the queue, and how little a large one or a dead target costs the others."""
from objects import *
from support import *
from test_commitment import Committer, Listener, pending, senders_with, states, wait_over


def receiver(*names, **settings):
    open('start.safetensors', 'w').close()  # nothing is computed here
    return Node(receive__quiet_s=60, **settings).start(*(names or ('receive', 'send')))


def kept(node, n, rows=4):
    """n objects in the node; [(class, UID)]."""
    sender = RawSender(node.port)
    names = []
    for k in range(n):
        uid = '%s.7.%d' % (UID, k)
        equal(sender.store(dataset(uid=uid, rows=rows, columns=512), sop_instance=uid), 0, 'status')
        names.append((MR, uid))
    sender.release()
    wait_for('all indexed', 10, lambda: not glob.glob(node.spool + '/incoming/*'))
    return names


def queue(node, *args, ok=(0,)):
    return isoslice('queue', '--config', node.config, *args, ok=ok)


def check_metrics(node, known, n_stopped):
    """Every state that --help knows, as Prometheus reads it; `known` has some of their numbers, None for any; the others are 0."""
    text = queue(node, 'metrics').stdout
    line = r'(# (HELP|TYPE) isoslice_\w+ .*|isoslice_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.]+)'
    equal([bad for bad in text.splitlines() if not re.fullmatch(line, bad)], [], 'lines that are no metrics')
    numbers = {(kind, state): int(n) for kind, state, n in re.findall(r'^isoslice_queue\{kind="(\w+)",state="(\w+)"\} (\d+)$', text, re.M)}
    ages = {(kind, state): float(s) for kind, state, s in re.findall(r'^isoslice_queue_oldest_seconds\{kind="(\w+)",state="(\w+)"\} ([0-9.]+)$', text, re.M)}
    states = isoslice('queue', '--help').stdout.split('States: ')[1].split('.')[0]
    every = {({'series': 'series', 'jobs': 'job', 'deliveries': 'delivery', 'commitments': 'commitment'}[words[0]], state)
             for words in (kind.split() for kind in states.split(';')) for state in words[1:]}
    equal((set(numbers), set(ages)), (every, every), 'states')
    for state, n in numbers.items():
        check(known.get(state, 0) in (n, None), '%s: %d' % (state, n))
        check((ages[state] > 0) == (n > 0) and ages[state] < 60, '%s since %g s' % (state, ages[state]))
    check('\nisoslice_queue_stopped %d\n' % n_stopped in text, text)
    check(float(re.search(r'^isoslice_spool_free_bytes (\d+)$', text, re.M).group(1)) > 1e6, text)
    check(re.search(r'^isoslice_info\{version="\d+\.\d+\.\d+"\} 1$', text, re.M), text)


def in_the_queue():
    """Listed with sender, state, number of instances and note; shown with the outcome of each; retried on request; not to be held."""
    node = receiver()
    listener = None
    try:
        names = kept(node, 3) + [(MR, '1.2.3.4.5')]
        sender = Committer(node)
        equal(sender.ask(names, '1.2.3.7'), 0, 'status of the request')
        sender.release()
        wait_for('held', 30, lambda: states(node) == ['HELD'])
        row = node.rows('commitment')[0]
        equal((row['state'], row['images'], row['uid']), ('HELD', 4, '1.2.3.7'), 'the row')
        check(row['note'].startswith('CONFIG: no entry of this sender has a report_port'), 'the note is %r' % row['note'])
        check('SENDER' in queue(node, 'list', 'HELD').stdout and 'series' not in queue(node, 'list', 'HELD').stdout, 'list HELD')
        status = queue(node, 'status', ok=(3,)).stdout
        check(re.search(r'^commitment HELD +1  20', status, re.M) and status.endswith('waiting for a person: 1\n'), 'status: %s' % status)
        check_metrics(node, {('commitment', 'HELD'): 1, ('series', 'FAILED'): 0, ('series', 'GATHERING'): None, ('series', 'QUEUED'): None}, 1)
        shown = node.show(row['id'])
        equal([v for k, v in shown if k == 'instance'], ['%s kept' % uid for _, uid in names[:3]] +
              ['1.2.3.4.5 failed, reason 0x0112'], 'instances')
        equal(dict(shown)['sender'], 'SENDER', 'sender')
        refused = queue(node, 'hold', row['id'], ok=(1, 2))
        check("cannot hold '%s'" % row['id'] in refused.stderr, 'the refusal is %r' % refused.stderr)
        for verb in ('show', 'retry', 'release'):
            missing = queue(node, verb, 'c1p1-1', ok=(1, 2))
            check("no such thing in the queue: 'c1p1-1'" in missing.stderr, '%s of none: %r' % (verb, missing.stderr))
        queue(node, 'show', 'c../../x-1', ok=(1, 2))
        node.kill('send')
        queue(node, 'retry', row['id'])
        equal(node.rows('commitment')[0]['state'], 'WAITING', 'state after retry')
        node.stop()
        listener = Listener()
        node = receiver(senders=senders_with(listener.port))
        wait_over(node)
        equal([r.kept for r in listener.reports], [names[:3]], 'reports')
        equal(node.rows('commitment'), [], 'commitments in the end')
    finally:
        node.stop()
        if listener:
            listener.close()


def retried_now():
    """One that waits for its next attempt is reported at once when a person says so; one that is not due for a person is refused."""
    port = free_port()
    node = receiver(senders=senders_with(port), send__retry_min_s=30, send__retry_max_s=60)
    try:
        names = kept(node, 2)
        sender = Committer(node)
        equal(sender.ask(names, '1.2.3.8'), 0, 'status of the request')
        sender.close()
        wait_for('a failed attempt', 30, lambda: [r for r in node.rows('commitment') if 'CONNECT' in r['note']])
        listener = Listener(port)
        time.sleep(1)
        equal(listener.reports, [], 'reports before')
        node.kill('send')
        queue(node, 'retry', node.rows('commitment')[0]['id'])
        node.start('send')
        wait_over(node)
        equal([r.kept for r in listener.reports], [names], 'reports')
        listener.close()
    finally:
        node.stop()


def reported_to_who_asked():
    """Two machines of one AE title in two networks, each with a port of its own: the one that asked is told. Once the first entry
    was taken, whatever address had asked. Where none of the entries' networks has the address, the first is."""
    elsewhere, here = Listener(), Listener()
    node = receiver('receive', senders=[{'ae_title': 'SENDER', 'address': '10.1.0.0/16', 'report_host': '127.0.0.1',
                                         'report_port': elsewhere.port}, *senders_with(here.port)])
    try:
        names = kept(node, 1)
        sender = Committer(node)
        equal(sender.ask(names, '1.2.3.11'), 0, 'status of the request')
        sender.close()
        wait_for('checked', 20, lambda: states(node) == ['WAITING'])
        [path] = glob.glob(node.spool + '/commitments/*.commit')
        request = open(path).read()
        node.start('send')
        wait_over(node)
        equal([len(listener.reports) for listener in (elsewhere, here)], [0, 1], 'reports')
        with open(path + '.new', 'w') as f:
            f.write(request.replace('address 127.0.0.1\n', 'address 192.0.2.1\n'))
        os.rename(path + '.new', path)
        wait_over(node)
        equal([len(listener.reports) for listener in (elsewhere, here)], [1, 1], 'reports')
    finally:
        node.stop()
        elsewhere.close()
        here.close()


def clock_put_back():
    """Requests from while the clock was a year ahead: the one with an unknown instance was waited for and the one that was to be reported
    waited, both for a year; the one that was given up would have been kept a year longer."""
    node = Node(senders=senders_with(free_port()), receive__quiet_s=60, send__retry_max_s=1, send__connect_timeout_s=1)
    ahead = int((time.time() + 365 * 86400) * 1e6)
    os.makedirs(node.spool + '/commitments', mode=0o700)
    for n, state in enumerate(('CHECKING', 'WAITING', 'HELD')):
        with open('%s/commitments/a1p1-%d.commit' % (node.spool, n), 'w') as f:
            f.write('isoslice commitment 1\nsender %s\naddress 127.0.0.1\nstate %s\ncreated_us %d\nchanged_us %d\nnot_before_us %d\n'
                    'attempts 0\nchecked 0\nnote x\ntransaction 1.2.3.%d\nitem %s 1.2.3 0\nend\n' %
                    ('SENDER' if n < 2 else 'NOBODY', state, ahead, ahead, ahead, n, MR))

    def times(n):
        text = open('%s/commitments/a1p1-%d.commit' % (node.spool, n)).read()
        return [int(t) / 1e6 - time.time() for t in re.findall(r'^(?:created|changed|not_before)_us (\d+)$', text, re.M)]
    try:
        node.start('receive', 'send')
        wait_for('checked', 12, lambda: 'commitment a1p1-0: 0 of 1 instances are kept' in open('node.log').read())
        wait_for('the waiting one tried', 5, lambda: "commitment a1p1-1: report to 'SENDER' will be tried again" in open('node.log').read())
        for n in range(3):
            check(max(times(n)) < 60, 'request %d lies %s s ahead' % (n, times(n)))
    finally:
        node.stop()


def large_request_delays_nobody():
    """4000 instances, 4 GB to be read again: meanwhile what others send is indexed as ever, and the answer is right."""
    node = receiver('receive')
    try:
        names = kept(node, 4, rows=1000)  # 1 MB each
        sender = Committer(node)
        start = time.monotonic()
        equal(sender.ask(names * 1000, '1.2.3.9'), 0, 'status of the request')
        worst, n = 0, 0
        other = RawSender(node.port, calling='STORESCU')
        while n < 8:
            uid = '%s.6.%d' % (UID, n)
            equal(other.store(dataset(uid=uid, series=UID + '.60'), sop_instance=uid), 0, 'status')
            sent = time.monotonic()
            wait_for('it is indexed', 10, lambda: not glob.glob(node.spool + '/incoming/*/*.dcm'))
            worst = max(worst, time.monotonic() - sent)
            n += 1
        still_checking = states(node) == ['CHECKING']
        other.release()
        check(still_checking, 'the request was done within %.1f s: nothing is shown by this' % (time.monotonic() - start))
        check(worst < 2, 'an object waited %.1f s for its row' % worst)
        sender.close()
        node.kill('receive')  # what was checked is not lost
        node.start('receive')
        wait_for('checked', 100, lambda: states(node) == ['WAITING'])
        shown = node.show(node.rows('commitment')[0]['id'])
        equal(len([v for k, v in shown if k == 'instance' and v.endswith(' kept')]), 4000, 'instances kept')
        print('worst %.2f s, checked after %.1f s' % (worst, time.monotonic() - start))
    finally:
        node.stop()


def dead_target_delays_nobody():
    """A target that takes calls and says nothing, with six requests of its own: another's report comes within two attempts."""
    dead = socket.socket()
    dead.bind(('127.0.0.1', 0))
    dead.listen(20)
    listener = Listener()
    senders = [{'ae_title': 'STORESCU', 'address': '127.0.0.0/8', 'report_port': dead.getsockname()[1]},
               *senders_with(listener.port)]
    node = receiver('receive', senders=senders, send__connect_timeout_s=2, send__retry_min_s=5, send__retry_max_s=60)
    try:
        names = kept(node, 2)
        for n in range(6):
            sender = Committer(node, calling='STORESCU')
            equal(sender.ask(names, '1.2.3.%d' % (20 + n)), 0, 'status of the request')
            sender.close()
        sender = Committer(node)
        equal(sender.ask(names, '1.2.3.10'), 0, 'status of the request')
        sender.close()
        wait_for('all checked', 20, lambda: states(node) == ['WAITING'] * 7)
        start = time.monotonic()
        node.start('send')
        wait_for('the report to the other', 30, lambda: listener.reports)
        took = time.monotonic() - start
        check(took < 6, 'the report to the other took %.1f s' % took)  # one attempt is 2 s of connect_timeout_s
        equal([r.transaction for r in listener.reports], ['1.2.3.10'], 'reports')
        wait_for('six left', 10, lambda: len(pending(node)) == 6)
        print('after %.1f s' % took)
    finally:
        node.stop()
        listener.close()
        dead.close()


TESTS = {
    'peer.commitment.in_the_queue': in_the_queue,
    'peer.commitment.retried_now': retried_now,
    'peer.commitment.reported_to_who_asked': reported_to_who_asked,
    'peer.commitment.clock_put_back': clock_put_back,
    'peer.commitment.large_request_delays_nobody': large_request_delays_nobody,
    'peer.commitment.dead_target_delays_nobody': dead_target_delays_nobody,
}

if __name__ == '__main__':
    run_named(TESTS)
