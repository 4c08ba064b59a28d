# SPDX-License-Identifier: Apache-2.0
"""Peers that break the protocol or send what would kill a parser, one test per line of the table below.

In every test another sender has an object half sent before the hostile one comes, and goes on sending while it is there.
Afterwards: that object was answered 0000 and is the only one kept, the node answers, the log has exactly one warning or error
about the peer, with the name of a fault in it, nothing is left in the spool, and the daemon has the processes and the memory
that it had.
"""
import threading

from objects import *
from support import *

MEMORY_SLACK_KB = 3000  # of the listener and the indexer together; one hostile object held would be more
RLE, JPEG_LS, DEFLATED = '1.2.840.10008.1.2.5', '1.2.840.10008.1.2.4.80', '1.2.840.10008.1.2.1.99'
RELEASE = struct.pack('>BBII', 5, 0, 4, 0)
ABORT = struct.pack('>BBII', 7, 0, 4, 0)


# ---- what is sent

def nested(depth):
    """Sequences of undefined length, one in the other."""
    one = struct.pack('<HH2sHI', 0x0040, 0x0275, b'SQ', 0, 0xffffffff) + struct.pack('<HHI', 0xfffe, 0xe000, 0xffffffff)
    end = struct.pack('<HHIHHI', 0xfffe, 0xe00d, 0, 0xfffe, 0xe0dd, 0)
    return one * depth + end * depth


def fragments(size):
    """Encapsulated pixel data: an empty offset table and one fragment of `size` bytes."""
    return struct.pack('<HH2sHI', 0x7fe0, 0x10, b'OB', 0, 0xffffffff) + struct.pack('<HHI', 0xfffe, 0xe000, 0) + \
        struct.pack('<HHI', 0xfffe, 0xe000, size) + bytes([1]) * size + struct.pack('<HHI', 0xfffe, 0xe0dd, 0)


def command_set(field, *more, dataset_type=1):
    """A command: 0000,0100 = field; more: further elements."""
    body = element(0, 0x0002, MR.encode()) + element(0, 0x0100, us(field)) + element(0, 0x0110, us(1)) + \
        element(0, 0x0700, us(0)) + element(0, 0x0800, us(dataset_type)) + b''.join(more)
    return element(0, 0, struct.pack('<I', len(body))) + body


STORE = command_set(1, element(0, 0x1000, UID.encode()))


def associate_rq(contexts=None, user=None, called=b'ISOSLICE        ', calling=b'SENDER          ', version=1, context=None):
    user = item(0x51, struct.pack('>I', 65536)) + item(0x52, b'1.2.3.4') if user is None else user
    body = struct.pack('>HH', version, 0) + called + calling + bytes(32) + \
        (item(0x10, b'1.2.840.10008.3.1.1.1') if context is None else context) + \
        (context_item(1, MR, EXPLICIT) if contexts is None else contexts) + (user if user[:1] == b'\x50' else item(0x50, user))
    return struct.pack('>BBI', 1, 0, len(body)) + body


# ---- what hostile peers do. Each gets (node, expected answer) and leaves nothing open.

def connect(node):
    return socket.create_connection(('127.0.0.1', node.port), timeout=20)


def ended(connection):
    """Reads until the other side hangs up; returns what it had said."""
    got = b''
    try:
        while True:
            part = connection.recv(65536)
            if not part:
                break
            got += part
    except ConnectionError:
        pass
    connection.close()
    return got


def is_refused(got):
    """Nothing, an A-ABORT or an A-ASSOCIATE-RJ."""
    check(got == b'' or got[0] in (3, 7), 'the answer was %r' % got[:40])


def raw(data, then=is_refused):
    """Bytes on a fresh connection."""
    def act(node):
        connection = connect(node)
        try:
            connection.sendall(data() if callable(data) else data)
        except ConnectionError:
            pass
        then(ended(connection))
    return act


def after_accept(*pieces, abstract=MR, syntax=EXPLICIT):
    """An accepted association, then bytes as they are, then waiting for the other side to hang up."""
    def act(node):
        sender = RawSender(node.port, abstract=abstract, syntax=syntax)
        equal(sender.answer[0], 2, 'answer to the association request')
        try:
            for piece in pieces:
                sender.socket.sendall(piece)
        except ConnectionError:
            pass
        got = ended(sender.socket)
        check(got[:1] in (b'', b'\x07') or got[:1] == b'\x04' and got[-10:-9] == b'\x07', 'the answer was %r' % got[:40])
    return act


def pdata(flags, data, context=1, length=None, pdu_length=None):
    body = struct.pack('>IBB', len(data) + 2 if length is None else length, context, flags) + data
    return struct.pack('>BBI', 4, 0, len(body) if pdu_length is None else pdu_length) + body


def stored(status, data, syntax=EXPLICIT, **names):
    """An object in an association that is released in order."""
    def act(node):
        sender = RawSender(node.port, syntax=syntax)
        equal(sender.answer[0], 2, 'answer to the association request')
        names.setdefault('sop_instance', UID)
        equal(sender.store(data() if callable(data) else data, **names), status, 'status')
        sender.socket.sendall(RELEASE)
        equal(sender.pdu()[0], 6, 'answer to the release')
        sender.close()
    return act


def deflated(node):
    sender = RawSender(node.port, syntax=DEFLATED)
    equal(sender.answer[0], 2, 'answer to the association request')
    at = sender.answer[1].find(b'\x21\0')
    equal(sender.answer[1][at + 6], 4, 'result of the context (transfer syntaxes not supported)')
    sender.socket.sendall(RELEASE)
    equal(sender.pdu()[0], 6, 'answer to the release')
    sender.close()


def dripping(data, every_s=0.25):
    """A few bytes at a time: must end by the node's timers, each of 1 s here."""
    def act(node):
        connection = connect(node)
        start = time.monotonic()
        payload = data if isinstance(data, bytes) else data(connection)
        try:
            for at in range(len(payload)):
                connection.sendall(payload[at:at + 1])
                time.sleep(every_s)
                check(time.monotonic() - start < 8, 'still open after 8 s')
        except ConnectionError:
            pass
        connection.close()
    return act


def accepted(connection):
    """Asks for an association by hand; the payload to drip afterwards."""
    connection.sendall(associate_rq())
    head = connection.recv(6)
    equal(head[0], 2, 'answer to the association request')
    n, got = struct.unpack('>I', head[2:])[0], b''
    while len(got) < n:
        got += connection.recv(n - len(got))


def drip_command(connection):
    accepted(connection)
    return pdata(3, STORE)


def drip_object(connection):
    accepted(connection)
    connection.sendall(pdata(3, STORE))
    return pdata(2, dataset())


def empty_fragments(node):
    """PDVs without data for ever: no progress, though never silent."""
    connection = connect(node)
    accepted(connection)
    connection.sendall(pdata(3, STORE))
    start = time.monotonic()
    try:
        while True:
            connection.sendall(pdata(0, b''))
            time.sleep(0.2)
            check(time.monotonic() - start < 8, 'still open after 8 s')
    except ConnectionError:
        pass
    connection.close()


def endless_command(begin):
    """A command without a last fragment: what is taken of it must be bounded."""
    def act(node):
        connection = connect(node)
        accepted(connection)
        connection.sendall(pdata(1, begin))
        piece = pdata(1, bytes(60000))
        sent = 0
        try:
            for _ in range(1000):
                connection.sendall(piece)
                sent += len(piece)
        except ConnectionError:
            pass
        connection.close()
        check(sent < 10 << 20, 'the node took %d MB of a command' % (sent >> 20))  # some of it lies in the kernel
    return act


def reset_in_the_middle(node):
    connection = connect(node)
    accepted(connection)
    connection.sendall(pdata(3, STORE) + pdata(0, dataset()[:40]))
    time.sleep(0.2)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    connection.close()


def closed_at_once(node):
    connect(node).close()


def many_contexts(n, number=lambda i: 2 * i + 1):
    return b''.join(context_item(number(i) & 255, MR, EXPLICIT) for i in range(n))


def silent(node):
    is_refused(ended(connect(node)))


def silent_after_accept(node):
    connection = connect(node)
    accepted(connection)
    got = ended(connection)
    check(got == b'' or got[0] == 7, 'the answer was %r' % got[:40])


def find_command(field):
    return pdata(3, command_set(field)) + pdata(2, explicit(8, 0x52, b'CS', b'SERIES'))


def with_length(number, length, value=b'\x01\x00'):
    """A command whose one element lies about its length."""
    body = element(0, 0x0002, MR.encode()) + struct.pack('<HHI', 0, number, length) + value
    return pdata(3, element(0, 0, struct.pack('<I', len(body))) + body)


def lacks(*absent, extra=b''):
    """A C-STORE command without some of its elements."""
    parts = {0x0002: MR.encode(), 0x0100: us(1), 0x0110: us(1), 0x0700: us(0), 0x0800: us(1), 0x1000: UID.encode()}
    body = b''.join(element(0, number, value) for number, value in parts.items() if number not in absent) + extra
    return pdata(3, element(0, 0, struct.pack('<I', len(body))) + body)


# name -> (fault in the log's one line, or None where there is nothing to complain of; what is done; objects kept of it)
LINES = {
    # objects: dicom.md 5.1
    'sequences_5000_deep': ('BAD_HEADER', stored(0xC000, lambda: dataset(more=nested(5000)))),
    'sequences_20000_deep': ('BAD_HEADER', stored(0xC000, lambda: dataset(more=nested(20000)))),
    'sequences_20000_deep_implicit': ('BAD_HEADER', stored(0xC000, lambda: (
        element(8, 0x16, MR.encode()) + element(8, 0x18, UID.encode()) +
        (struct.pack('<HHI', 0x40, 0x275, 0xffffffff) + struct.pack('<HHI', 0xfffe, 0xe000, 0xffffffff)) * 20000), syntax=IMPLICIT)),
    'element_length_fffffff0': ('TRUNCATED', stored(0xC000, dataset(
        more=explicit(0x20, 0x4000, b'UT', b'abcd', length=0xfffffff0)))),
    'pixel_length_fffffff0': ('TRUNCATED', stored(0xC000, dataset(replace={
        (0x7fe0, 0x10): explicit(0x7fe0, 0x10, b'OW', bytes(32), length=0xfffffff0)}))),
    'pixels_20_bytes_for_512': ('PIXEL_SIZE', stored(0xC000, dataset(rows=512, columns=512, pixels=bytes(20)))),
    'rle_65535_in_536_bytes': ('PIXEL_SIZE', stored(0xC000, dataset(rows=65535, columns=65535, pixels=b'', replace={
        (0x7fe0, 0x10): fragments(536)}), syntax=RLE)),
    'jpegls_65535_in_562_bytes': ('PIXEL_SIZE', stored(0xC000, dataset(rows=65535, columns=65535, pixels=b'', replace={
        (0x7fe0, 0x10): fragments(562)}), syntax=JPEG_LS)),
    'deflated_is_not_negotiated': ('NOT_NEGOTIATED', deflated),
    'path_as_uid': ('BAD_UID', stored(0x0117, dataset(), sop_instance='../../../../tmp/x')),
    'path_as_uid_in_data': ('BAD_UID', stored(0x0117, dataset(uid='../../../../tmp/x'))),
    # objects: dicom.md 5.2
    'uid_with_control_characters': ('BAD_UID', stored(0x0117, dataset(), sop_instance='1.2\n2026 error: x\x1b[31m')),
    'rows_as_ul': ('BAD_HEADER', stored(0xC000, dataset(replace={
        (0x28, 0x10): explicit(0x28, 0x10, b'UL', struct.pack('<I', 0x10004))}))),
    'frames_2_31': ('BAD_HEADER', stored(0xC000, dataset(replace={
        (0x28, 2): explicit(0x28, 2, b'US', us(1)) + explicit(0x28, 8, b'IS', b'2147483648')}))),
    'meta_header_in_data': ('BAD_HEADER', stored(0xC000, explicit(2, 0x10, b'UI', even(DEFLATED)) + dataset())),
    'meta_header_at_the_end': ('BAD_HEADER', stored(0xC000, dataset() + explicit(2, 0x10, b'UI', even(DEFLATED)))),
    'tags_descending': ('BAD_HEADER', stored(0xC000, dataset(more=explicit(8, 0x70, b'LO', b'AB')))),
    'unknown_vr': ('BAD_HEADER', stored(0xC000, dataset(more=explicit(0x20, 0x4000, b'??', b'abcd')))),
    'native_pixels_without_length': ('BAD_HEADER', stored(0xC000, dataset(replace={(0x7fe0, 0x10): fragments(32)}))),
    'other_class_in_data': ('SOP_MISMATCH', stored(0xA900, dataset(sop_class='1.2.840.10008.5.1.4.1.1.2'))),
    'other_class_in_command': ('SOP_MISMATCH', stored(0xA900, dataset(), sop_class='1.2.840.10008.5.1.4.1.1.2')),
    'other_instance_in_data': ('SOP_MISMATCH', stored(0xA900, dataset(uid='1.2.3.4'))),
    'empty_data_set': ('BAD_UID', stored(0x0117, b'')),
    'cut_off': ('TRUNCATED', stored(0xC000, dataset()[:-20])),
    'too_large': ('TOO_LARGE', stored(0xA700, lambda: bytes(3 << 20))),
    'text': ('BAD_HEADER', stored(0xC000, b'Lorem ipsum dolor sit amet, and so on.')),
    'odd_length_text': (None, stored(0, dataset(
        more=explicit(0x20, 0x4000, b'LT', b'odd') + explicit(0x21, 0x10, b'LO', b'odder'))), 1),
    'million_empty_items': ('BAD_HEADER', stored(0xC000, lambda: dataset(more=struct.pack(
        '<HH2sHI', 0x40, 0x275, b'SQ', 0, 0xffffffff) + struct.pack('<HHI', 0xfffe, 0xe000, 0) * 100000))),
    # before an association
    'silent': ('TIMEOUT', silent),
    'closed_at_once': ('PEER_ABORTED', closed_at_once),
    'half_pdu_header': ('TIMEOUT', raw(b'\x01\0\0')),
    'half_associate': ('TIMEOUT', raw(associate_rq()[:60])),
    'associate_length_2_31': ('PROTOCOL', raw(struct.pack('>BBI', 1, 0, 0x7fffffff) + bytes(100))),
    'associate_length_2_32': ('PROTOCOL', raw(struct.pack('>BBI', 1, 0, 0xffffffff) + bytes(100))),
    'associate_length_0': ('PROTOCOL', raw(struct.pack('>BBI', 1, 0, 0))),
    'associate_length_4': ('PROTOCOL', raw(struct.pack('>BBI', 1, 0, 4) + bytes(4))),
    'associate_version_0': ('PROTOCOL', raw(associate_rq(version=0))),
    'associate_dripping': ('TIMEOUT', dripping(associate_rq())),
    'http_request': ('PROTOCOL', raw(b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')),
    'tls_hello': ('PROTOCOL', raw(b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' + bytes(508))),
    'data_before_association': ('PROTOCOL', raw(pdata(3, STORE))),
    'release_before_association': ('PROTOCOL', raw(RELEASE)),
    'abort_before_association': ('PEER_ABORTED', raw(ABORT)),
    'accept_before_association': ('PROTOCOL', raw(b'\x02' + associate_rq()[1:])),
    'unknown_pdu_type': ('PROTOCOL', raw(struct.pack('>BBI', 0x42, 0, 4) + bytes(4))),
    # the association request
    'contexts_129': ('PROTOCOL', raw(lambda: associate_rq(many_contexts(129)))),
    'contexts_3000': ('PROTOCOL', raw(lambda: associate_rq(many_contexts(3000)))),
    'contexts_with_one_id': ('PROTOCOL', raw(lambda: associate_rq(many_contexts(5, lambda i: 1)))),
    'context_id_even': ('PROTOCOL', raw(associate_rq(context_item(2, MR, EXPLICIT)))),
    'context_without_syntax': ('PROTOCOL', raw(associate_rq(item(0x20, bytes([1, 0, 0, 0]) + item(0x30, MR.encode()))))),
    'context_item_too_long': ('PROTOCOL', raw(associate_rq(struct.pack('>BBHBBBB', 0x20, 0, 60000, 1, 0, 0, 0) +
                                                           item(0x30, MR.encode()) + item(0x40, EXPLICIT.encode())))),
    'abstract_syntax_too_long': ('PROTOCOL', raw(associate_rq(context_item(1, '1' * 3000, EXPLICIT)))),
    'syntax_length_lies': ('PROTOCOL', raw(associate_rq(item(0x20, bytes([1, 0, 0, 0]) + item(0x30, MR.encode()) + struct.pack(
        '>BBH', 0x40, 0, 500) + EXPLICIT.encode())))),
    'context_item_length_0': ('PROTOCOL', raw(associate_rq(struct.pack('>BBH', 0x20, 0, 0)))),
    'no_application_context': ('ACCESS', raw(associate_rq(context=b'', contexts=b'', user=b'\x50\0\0\0'))),
    'application_context_unknown': ('ACCESS', raw(associate_rq(context=item(0x10, b'1.2.3')))),
    'application_context_too_long': ('PROTOCOL', raw(associate_rq(context=item(0x10, b'1' * 3000)))),
    'user_item_too_long': ('PROTOCOL', raw(associate_rq(user=b'\x50\0\xff\xff' + item(0x51, bytes(4))))),
    'user_sub_item_too_long': ('PROTOCOL', raw(associate_rq(user=struct.pack('>BBHI', 0x51, 0, 4, 65536) + struct.pack(
        '>BBH', 0x52, 0, 9000) + b'1.2.3.4'))),
    'max_pdu_item_length_0': ('PROTOCOL', raw(associate_rq(user=struct.pack('>BBH', 0x51, 0, 0)))),
    'implementation_uid_too_long': ('PROTOCOL', raw(associate_rq(user=item(0x51, struct.pack('>I', 65536)) +
                                                                 item(0x52, b'1' * 3000)))),
    'implementation_name_too_long': ('PROTOCOL', raw(associate_rq(user=item(0x51, struct.pack('>I', 65536)) +
                                                                  item(0x52, b'1.2') + item(0x55, b'A' * 3000)))),
    'role_item_length_lies': ('PROTOCOL', raw(associate_rq(user=item(0x51, struct.pack('>I', 65536)) + struct.pack(
        '>BBHH', 0x54, 0, 4, 60000) + b'1.2.840.10008'))),
    'extended_negotiation_lies': ('PROTOCOL', raw(associate_rq(user=item(0x51, struct.pack('>I', 65536)) + struct.pack(
        '>BBHH', 0x56, 0, 6, 60000) + b'1.2.'))),
    'user_identity_lies': ('PROTOCOL', raw(associate_rq(user=item(0x51, struct.pack('>I', 65536)) + struct.pack(
        '>BBHBBH', 0x58, 0, 8, 2, 0, 60000) + b'abcd'))),
    'ae_titles_of_control_characters': ('ACCESS', raw(associate_rq(calling=b'\x01\n\x1b[31mERROR\0\xff\xff\xff', called=b'ISOSLICE' +
                                                                   b' ' * 8))),
    'ae_titles_of_bytes_ff': ('ACCESS', raw(associate_rq(calling=b'\xff' * 16, called=b'\xff' * 16))),
    # within an association
    'two_associate_requests': ('PROTOCOL', after_accept(associate_rq())),
    'unknown_pdu_after_accept': ('PROTOCOL', after_accept(struct.pack('>BBI', 0x42, 0, 4) + bytes(4))),
    'pdu_length_2_31': ('PROTOCOL', after_accept(struct.pack('>BBI', 4, 0, 0x7fffffff) + bytes(100))),
    'pdu_above_announced': ('PROTOCOL', after_accept(struct.pack('>BBI', 4, 0, 131072 + 100) + bytes(131172))),
    'pdu_length_0': ('PROTOCOL', after_accept(struct.pack('>BBI', 4, 0, 0))),
    'pdu_length_3': ('PROTOCOL', after_accept(struct.pack('>BBI', 4, 0, 3) + bytes(3))),
    'pdv_length_0': ('PROTOCOL', after_accept(pdata(3, STORE, length=0))),
    'pdv_length_1': ('PROTOCOL', after_accept(pdata(3, STORE, length=1))),
    'pdv_length_2': ('TIMEOUT', after_accept(pdata(1, b''))),
    'pdv_length_odd': ('PROTOCOL', after_accept(pdata(3, STORE) + pdata(2, dataset()[:51]))),
    'pdv_length_ffffffff': ('PROTOCOL', after_accept(pdata(3, STORE, length=0xffffffff))),
    'pdv_length_fffffffc': ('PROTOCOL', after_accept(pdata(3, STORE, length=0xfffffffc))),
    'pdv_length_80000000': ('PROTOCOL', after_accept(pdata(3, STORE, length=0x80000000))),
    'pdv_past_its_pdu': ('PROTOCOL', after_accept(pdata(3, STORE, length=len(STORE) + 1000))),
    'second_pdv_past_its_pdu': ('PROTOCOL', after_accept(struct.pack('>BBI', 4, 0, len(STORE) + 6 + 10) + struct.pack(
        '>IBB', len(STORE) + 2, 1, 3) + STORE + struct.pack('>IBB', 0xfffffff8, 1, 0) + bytes(4))),
    'context_never_negotiated': ('PROTOCOL', after_accept(pdata(3, STORE, context=77) + pdata(2, dataset(), context=77))),
    'data_in_another_context': ('PROTOCOL', after_accept(pdata(3, STORE) + pdata(2, dataset(), context=3))),
    'data_without_command': ('PROTOCOL', after_accept(pdata(2, dataset()))),
    'command_after_command': ('PROTOCOL', after_accept(pdata(3, STORE) + pdata(3, STORE))),
    'command_amid_data': ('PROTOCOL', after_accept(pdata(3, STORE) + pdata(0, dataset()[:40]) + pdata(3, STORE))),
    'command_without_data_set': ('PROTOCOL', after_accept(pdata(3, command_set(1, element(0, 0x1000, UID.encode()),
                                                                               dataset_type=0x0101)))),
    'command_is_empty': ('PROTOCOL', after_accept(pdata(3, b''))),
    'command_is_zeros': ('PROTOCOL', after_accept(pdata(3, bytes(64)))),
    'command_is_noise': ('PROTOCOL', after_accept(pdata(3, bytes((i * 37 + 11) & 255 for i in range(900))))),
    'command_without_field': ('PROTOCOL', after_accept(lacks(0x0100) + pdata(2, dataset()))),
    'command_without_class': ('PROTOCOL', after_accept(lacks(0x0002) + pdata(2, dataset()))),
    'command_without_instance': ('PROTOCOL', after_accept(lacks(0x1000) + pdata(2, dataset()))),
    'command_without_data_set_type': ('PROTOCOL', after_accept(lacks(0x0800) + pdata(2, dataset()))),
    'command_length_lies': ('PROTOCOL', after_accept(with_length(0x0100, 0xfffffff0))),
    'command_field_of_4_bytes': ('PROTOCOL', after_accept(lacks(0x0100, extra=element(0, 0x0100, bytes(4))) + pdata(2, dataset()))),
    'command_field_empty': ('PROTOCOL', after_accept(with_length(0x0100, 0, b''))),
    'command_class_of_3000_bytes': ('PROTOCOL', after_accept(lacks(0x0002, extra=element(0, 0x0002, b'1' * 3000)) + pdata(2, dataset()))),
    'command_uid_of_65_characters': ('PROTOCOL', after_accept(lacks(0x1000, extra=element(0, 0x1000, b'1.' + b'2' * 63)) +
                                                              pdata(2, dataset()))),
    'command_sequences_5000_deep': ('PROTOCOL', after_accept(pdata(3, STORE + struct.pack('<HHIHHI', 0, 0x5000, 0xffffffff, 0xfffe, 0xe000,
                                                                                         0xffffffff) * 5000))),
    'command_without_end': ('PROTOCOL', endless_command(b'')),
    'command_value_of_100_mb': ('PROTOCOL', endless_command(struct.pack('<HHI', 0, 0x5010, 100 << 20))),
    'command_value_of_4_gb': ('PROTOCOL', endless_command(struct.pack('<HHI', 0, 0x5010, 0xfffffffe))),
    'command_dripping': ('TIMEOUT', dripping(drip_command)),
    'object_dripping': ('TIMEOUT', dripping(drip_object)),
    'object_of_empty_fragments': ('TIMEOUT', empty_fragments),
    'silent_after_accept': ('TIMEOUT', silent_after_accept),
    'half_object_then_silence': ('TIMEOUT', after_accept(pdata(3, STORE) + pdata(0, dataset()[:40]))),
    'half_pdu_then_silence': ('TIMEOUT', after_accept(pdata(3, STORE)[:20])),
    'abort_amid_object': ('PEER_ABORTED', after_accept(pdata(3, STORE) + pdata(0, dataset()[:40]) + ABORT)),
    'reset_amid_object': ('PEER_ABORTED', reset_in_the_middle),
    'release_amid_object': ('PROTOCOL', after_accept(pdata(3, STORE) + pdata(0, dataset()[:40]) + RELEASE)),
    'find_command': ('PROTOCOL', after_accept(find_command(0x0020))),
    'move_command': ('PROTOCOL', after_accept(find_command(0x0021))),
    'get_command': ('PROTOCOL', after_accept(find_command(0x0010))),
    'cancel_command': ('PROTOCOL', after_accept(pdata(3, command_set(0x0fff, dataset_type=0x0101)))),
    'n_create_command': ('PROTOCOL', after_accept(find_command(0x0140))),
    'n_action_on_mr': ('PROTOCOL', after_accept(pdata(3, command_set(0x0130, dataset_type=0x0101)))),
    'response_without_request': ('PROTOCOL', after_accept(pdata(3, command_set(0x8001, dataset_type=0x0101)))),
    'unknown_command': ('PROTOCOL', after_accept(pdata(3, command_set(0x7777, dataset_type=0x0101)))),
}


# ---- what is watched

class Bystander:
    """Another sender: half an object before, a little of it every 100 ms, the rest on finish()."""

    def __init__(self, node):
        self.uid = UID + '.99'
        self.data = dataset(uid=self.uid, rows=64, columns=64)
        self.sender = RawSender(node.port, calling='STORESCU')
        equal(self.sender.answer[0], 2, 'answer to the bystander')
        self.sender.command(sop_instance=self.uid)
        self.at = 0
        self.send(len(self.data) // 4 * 2)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.feed, daemon=True)
        self.thread.start()

    def send(self, n, flags=0):
        self.sender.pdv(flags, self.data[self.at:self.at + n])
        self.at += n

    def feed(self):
        while not self.over.wait(0.1):
            try:
                self.send(20)
            except OSError:
                return

    def finish(self):
        self.over.set()
        self.thread.join()
        self.send(len(self.data) - self.at, 2)
        kind, body = self.sender.pdu()
        equal(kind, 4, 'PDU for the bystander')
        at = body.find(struct.pack('<HHI', 0, 0x0900, 2))
        equal(struct.unpack('<H', body[at + 8:at + 10])[0], 0, "status of the bystander's object")
        self.sender.socket.sendall(RELEASE)
        equal(self.sender.pdu()[0], 6, "answer to the bystander's release")
        self.sender.close()


def complaints(offset):
    with open('node.log', 'rb') as f:
        f.seek(offset)
        lines = f.read().decode('ascii').splitlines()  # a byte of a peer that got through unescaped fails here
    return [line for line in lines if line.split(' ')[1] in ('warning', 'error')]


def processes(pid):
    return subprocess.run(['pgrep', '-P', str(pid)], capture_output=True, text=True).stdout.split()


def memory_kb(pids):
    total = 0
    for pid in pids:
        with open('/proc/%s/status' % pid) as f:
            total += sum(int(line.split()[1]) for line in f if line.startswith('RssAnon'))
    return total


def line_test(fault, act, n_kept=0):
    def test():
        open('start.safetensors', 'w').close()  # nothing is computed here
        node = Node(receive__acse_timeout_s=1, receive__dimse_timeout_s=1, receive__max_object_mb=1, receive__quiet_s=60)
        node.start('receive')
        bystander = None
        try:
            wait_for('no association open', 10, lambda: not glob.glob(node.spool + '/incoming/*'))
            parent = node.processes['receive'].pid
            before = processes(parent)
            memory = memory_kb([parent, *before])
            bystander = Bystander(node)
            offset = os.path.getsize('node.log')
            act(node)
            wait_for('the hostile process ended', 10, lambda: len(processes(parent)) == len(before) + 1)
            wait_for('the hostile folder empty', 10, lambda: len(glob.glob(node.spool + '/incoming/*')) == 1)
            found = complaints(offset)
            equal(len(found), 0 if fault is None else 1, 'complaints in the log: %s; their number' % found)
            check(fault is None or re.search(r'\b%s\b' % fault, found[0]), 'the line does not name %s: %s' % (fault, found))
            equal(node.echo(), 0, 'echo afterwards')
            bystander.finish()
            wait_for('the spool at rest', 10, lambda: not glob.glob(node.spool + '/incoming/*'))
            kept = node.stored()
            check(bystander.uid in kept, "the bystander's object is not kept")
            equal(len(kept), 1 + n_kept, 'objects kept')
            equal(glob.glob(node.spool + '/aside/*'), [], 'objects aside')
            equal(processes(parent), before, 'processes afterwards')
            grown = memory_kb([parent, *before]) - memory
            check(grown < MEMORY_SLACK_KB or IS_SANITIZED, 'the daemon has grown by %d kB' % grown)
            equal(node.stop(), {'receive': 0}, 'exit codes')
        finally:
            if bystander:
                bystander.over.set()
                bystander.sender.close()
            node.stop()
    return test


TESTS = {'peer.hostile.' + name: line_test(*line) for name, line in LINES.items()}

if __name__ == '__main__':
    run_named(TESTS)
