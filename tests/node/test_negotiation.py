# SPDX-License-Identifier: Apache-2.0
"""What the receiver accepts and refuses when an association is made, context by context; and compressed objects received."""
import os
import re
import socket
import struct
import subprocess
import sys

import pydicom

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'dicom'))
from support import (EXPLICIT, IMPLICIT, MR, Node, RawSender, check, context_item, equal, files_of, phantom, program, run_named, storescu,
                     wait_for)

ENHANCED, LEGACY = '1.2.840.10008.5.1.4.1.1.4.1', '1.2.840.10008.5.1.4.1.1.4.4'
VERIFICATION, COMMITMENT = '1.2.840.10008.1.1', '1.2.840.10008.1.20.1'
SYNTAX = '1.2.840.10008.1.2'
# In the order of preference.
ACCEPTED = [EXPLICIT, IMPLICIT, SYNTAX + '.4.70', SYNTAX + '.4.57', SYNTAX + '.4.80', SYNTAX + '.5', SYNTAX + '.4.90']
REFUSED = {
    'deflated': [SYNTAX + '.1.99'], 'big endian': [SYNTAX + '.2'],
    'lossy or retired JPEG': [SYNTAX + '.4.%d' % n for n in (*range(50, 57), *range(58, 67))], 'JPEG-LS near-lossless': [SYNTAX + '.4.81'],
    'JPEG 2000': [SYNTAX + '.4.91', SYNTAX + '.4.92', SYNTAX + '.4.93'], 'JPIP': [SYNTAX + '.4.94', SYNTAX + '.4.95', SYNTAX + '.4.204', SYNTAX + '.4.205'],
    'MPEG-2': [SYNTAX + '.4.100', SYNTAX + '.4.100.1', SYNTAX + '.4.101'],
    'H.264': [SYNTAX + '.4.%d' % n for n in (102, 103, 104, 105, 106)] + [SYNTAX + '.4.102.1'], 'HEVC': [SYNTAX + '.4.107', SYNTAX + '.4.108'],
    'high throughput JPEG 2000': [SYNTAX + '.4.201', SYNTAX + '.4.202', SYNTAX + '.4.203'], 'JPEG XL': [SYNTAX + '.4.110', SYNTAX + '.4.111'],
    'video over IP': [SYNTAX + '.7.1', SYNTAX + '.7.2', SYNTAX + '.7.3'], 'MIME and XML': [SYNTAX + '.6.1', SYNTAX + '.6.2'],
    'private': ['1.2.840.113619.5.2', '1.2.3.4'],
}


def answers(port, contexts):
    """{number: (result, transfer syntax)} for {number: (abstract, syntaxes)}."""
    first, *rest = sorted(contexts)
    check(first == 1, 'the first context is number 1')
    abstract, syntaxes = contexts[1]
    equal(len(syntaxes), 1, 'syntaxes of context 1')
    sender = RawSender(port, abstract=abstract, syntax=syntaxes[0],
                       more=b''.join(context_item(n, contexts[n][0], *contexts[n][1]) for n in rest))
    kind, body = sender.answer
    sender.close()
    equal(kind, 2, 'the answer to the association request')
    found, at = {}, 68
    while at < len(body):
        item, _, length = struct.unpack('>BBH', body[at:at + 4])
        if item == 0x21:
            number, _, result, _ = body[at + 4:at + 8]
            size = struct.unpack('>H', body[at + 10:at + 12])[0]
            found[number] = (result, body[at + 12:at + 12 + size].decode().rstrip('\0'))
        at += 4 + length
    equal(sorted(found), sorted(contexts), 'contexts answered')
    return found


def introduction(pdu):
    """(implementation class UID, version name) of the user information in the body of an association request or answer."""
    at, names = 68, {}
    while at < len(pdu):
        item, _, length = struct.unpack('>BBH', pdu[at:at + 4])
        if item == 0x50:  # user information: go into it
            length = 0
        elif item in (0x52, 0x55):
            names[item] = pdu[at + 4:at + 4 + length].decode()
        at += 4 + length
    return names.get(0x52), names.get(0x55)


def both_sides_say_who_they_are():
    """In what they answer, in what they ask, and as the conformance statement has it; the same as in the objects they write."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'docs', 'CONFORMANCE.md')) as f:
        stated = dict(re.findall(r'^\| implementation (class UID|version name) \| ([^ ,]+)', f.read(), re.M))
    ours = (stated['class UID'], stated['version name'])
    with socket.create_server(('127.0.0.1', 0)) as pacs:
        node = Node(pacs.getsockname()[1]).start('receive')
        try:
            sender = RawSender(node.port)
            equal(introduction(sender.answer[1]), ours, 'as the answering side')
            sender.close()
            asking = subprocess.Popen([program('isoslice'), 'echo', '--config', node.config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            connection, _ = pacs.accept()
            with connection, connection.makefile('rb') as stream:
                kind, _, length = struct.unpack('>BBI', stream.read(6))
                equal(kind, 1, 'what isoslice echo begins with')
                equal(introduction(stream.read(length)), ours, 'as the asking side')
            asking.wait(60)
        finally:
            node.stop()
    meta = pydicom.dcmread(phantom('in')[0]).file_meta
    equal((meta.ImplementationClassUID, meta.ImplementationVersionName), ours, 'in an object')


def lossy_deflated_and_video_are_refused():
    node = Node().start('receive')
    try:
        every = [(what, syntax) for what, syntaxes in REFUSED.items() for syntax in syntaxes]
        check(len(every) > 40, 'only %d syntaxes' % len(every))
        for abstract in (MR, ENHANCED, LEGACY):
            found = answers(node.port, {2 * i + 1: (abstract, [syntax]) for i, (_, syntax) in enumerate(every)})
            for i, (what, syntax) in enumerate(every):
                equal(found[2 * i + 1][0], 4, 'result for %s (%s) of %s' % (syntax, what, abstract))
        # all in one context, and a good one after them: the good one
        found = answers(node.port, {1: (MR, [EXPLICIT]), 3: (MR, [s for _, s in every]), 5: (MR, [s for _, s in every] + [SYNTAX + '.4.90'])})
        equal(found[1], (0, EXPLICIT), 'context 1')
        equal(found[3][0], 4, 'result for all of them')
        equal(found[5], (0, SYNTAX + '.4.90'), 'context 5')
    finally:
        equal(node.stop(), {'receive': 0}, 'exit codes')


def lossless_is_accepted_in_order_of_preference():
    node = Node().start('receive')
    try:
        for abstract in (MR, ENHANCED, LEGACY):
            found = answers(node.port, {2 * i + 1: (abstract, [syntax]) for i, syntax in enumerate(ACCEPTED)})
            for i, syntax in enumerate(ACCEPTED):
                equal(found[2 * i + 1], (0, syntax), 'answer for %s of %s' % (syntax, abstract))
            # the proposer's order does not matter
            contexts = {2 * i + 1: (abstract, ACCEPTED[i:][::-1]) for i in range(1, len(ACCEPTED))}
            found = answers(node.port, {1: (abstract, [EXPLICIT]), **contexts})
            for i in range(1, len(ACCEPTED)):
                equal(found[2 * i + 1], (0, ACCEPTED[i]), 'choice from %s on' % ACCEPTED[i])
    finally:
        equal(node.stop(), {'receive': 0}, 'exit codes')


def other_classes_are_refused():
    """Unknown SOP classes are refused as such (3), and what carries no images has no compression."""
    node = Node().start('receive')
    try:
        found = answers(node.port, {1: (MR, [EXPLICIT]), 3: ('1.2.840.10008.5.1.4.1.1.2', [EXPLICIT]), 5: ('1.2.840.10008.5.1.4.1.1.66', [EXPLICIT]),
                                    7: ('1.2.840.10008.5.1.4.1.2.2.1', [IMPLICIT]), 9: ('1.2.3.4', [EXPLICIT]),
                                    11: (VERIFICATION, [SYNTAX + '.4.90']), 13: (VERIFICATION, [IMPLICIT]), 15: (VERIFICATION, [SYNTAX + '.1.99'])})
        equal([found[n][0] for n in sorted(found)], [0, 3, 3, 3, 3, 4, 0, 4], 'results')
    finally:
        equal(node.stop(), {'receive': 0}, 'exit codes')


def in_store(node, prefix):
    """The files of six objects whose UIDs begin so, once all are in the store (they begin elsewhere)."""
    kept = {uid: path for uid, path in node.stored().items() if uid.startswith(prefix)}
    return kept if len(kept) == 6 and all('/store/' in path for path in kept.values()) else None


def compressed_objects_arrive_as_sent():
    """storescu sends a series in each compression; what was kept has the values of the uncompressed one."""
    import numpy
    import pydicom
    from test_decode import compress, fresh, others, ours, series
    series('plain', 'u12')
    want = others('plain')
    node = Node().start('receive')
    try:
        for syntax, coder, option in (('.4.70', ['dcmcjpeg', '+e1'], '-xs'), ('.4.80', ['dcmcjpls', '+el'], '-xt'),
                                      ('.4.90', ['gdcmconv', '--j2k'], '-xv'), ('.5', ['dcmcrle'], '-xr')):
            compress(coder, 'plain', fresh('coded'))
            for n, path in enumerate(files_of('coded')):  # a series of its own
                d = pydicom.dcmread(path)
                d.SeriesInstanceUID = '1.2.3.9' + syntax
                d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = '1.2.3.9%s.%d' % (syntax, n + 1)
                d.save_as(path)
            storescu(node, files_of('coded'), extra=(option, '-R'))
            kept = wait_for('%s in the store' % syntax, 20, lambda syntax=syntax: in_store(node, '1.2.3.9%s.' % syntax))
            fresh('kept')
            for n, path in enumerate(kept.values()):
                equal(str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID), SYNTAX + syntax, 'transfer syntax kept')
                os.symlink(path, 'kept/%d.dcm' % n)
            check(bool(numpy.array_equal(ours('kept'), want)), '%s: values differ' % syntax)
    finally:
        equal(node.stop(), {'receive': 0}, 'exit codes')


def statement_names_what_is_accepted():
    """The conformance statement lists just the classes and transfer syntaxes of these tests, the latter in the order of preference."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'docs', 'CONFORMANCE.md')
    with open(path) as f:
        named = [word for line in f for word in line.split() if word.startswith('1.2.840.10008.') and word != '1.2.840.10008.3.1.1.1']
    equal([uid for uid in named if uid.startswith(SYNTAX + '.') or uid == SYNTAX], ACCEPTED, 'transfer syntaxes')
    equal([uid for uid in named if uid not in ACCEPTED], [VERIFICATION, MR, ENHANCED, LEGACY, COMMITMENT], 'classes')


TESTS = {
    'unit.docs.statement_names_what_is_accepted': statement_names_what_is_accepted,
    'unit.negotiation.both_sides_say_who_they_are': both_sides_say_who_they_are,
    'unit.receive.lossy_deflated_and_video_are_refused': lossy_deflated_and_video_are_refused,
    'unit.receive.lossless_in_order_of_preference': lossless_is_accepted_in_order_of_preference,
    'unit.receive.other_classes_are_refused': other_classes_are_refused,
    'peer.receive.compressed_objects_arrive_as_sent': compressed_objects_arrive_as_sent,
}

if __name__ == '__main__':
    run_named(TESTS)
