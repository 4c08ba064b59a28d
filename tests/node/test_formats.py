# SPDX-License-Identifier: Apache-2.0
"""Destinations that get different forms of what was derived: one MR object for each image, or one Enhanced MR object."""
import sys

import pydicom

from support import *

ENHANCED = '1.2.840.10008.5.1.4.1.1.4.1'
CHECK_ENHANCED = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'dicom', 'check_enhanced.py')
ONLY_MR = '''[[TransferSyntaxes]]
[Uncompressed]
TransferSyntax1 = LittleEndianExplicit
TransferSyntax2 = LittleEndianImplicit
[[PresentationContexts]]
[OnlyMR]
PresentationContext1 = VerificationSOPClass\\Uncompressed
PresentationContext2 = MRImageStorage\\Uncompressed
[[Profiles]]
[Default]
PresentationContexts = OnlyMR
'''


def check_form(classic, enhanced):
    subprocess.run(['/usr/bin/python3', '-W', 'ignore', CHECK_ENHANCED, 'source', classic, enhanced], check=True)


def one_form_each():
    """Two archives, each with its form of the planes and of two views; the second finds and moves its objects."""
    phantom('source', slices=6)
    third_port = free_port()
    classic = Orthanc('classic').start()
    enhanced = Orthanc('enhanced', DicomAlwaysAllowMove=True,
                       DicomModalities={'third': {'AET': 'THIRD', 'Host': '127.0.0.1', 'Port': third_port}}).start()
    node = Node(classic.dicom, more=[{'name': 'new', 'port': enhanced.dicom, 'format': 'enhanced'}], work__views='all').start()
    os.makedirs('moved')
    third = subprocess.Popen(['storescp', '-aet', 'THIRD', '-od', 'moved', '-uf', str(third_port)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        storescu(node, files_of('source'))
        node.wait_idle(300)
        equal([r['state'] for r in node.rows('job')], ['DONE'], 'job')
        equal([r['state'] for r in node.rows('delivery')], ['SENT'] * 6, 'deliveries')
        planes, objects = classic.fetch('planes'), enhanced.fetch('objects')
        equal((len(planes), sorted(objects.values())), (3, [1, 1, 1]), 'series of the two archives')
        check(not set(planes) & set(objects), 'one series is in both')
        numbers = {}
        for folder, counts in (('planes', planes), ('objects', objects)):
            for uid in counts:
                d = pydicom.dcmread(files_of('%s/%s' % (folder, uid))[0], stop_before_pixels=True)
                equal(str(d.SOPClassUID), ENHANCED if folder == 'objects' else MR, 'class')
                numbers[int(d.SeriesNumber)] = '%s/%s' % (folder, uid)
        for number, folder in numbers.items():
            if folder.startswith('planes'):
                object_folder = numbers[number + 40000]
                os.rename(files_of(object_folder)[0], object_folder + '/IM0001.dcm')
                check_form(folder, object_folder)
        made = {str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID): p for p in files_of('objects')}
        study = str(d.StudyInstanceUID)
        peer = ['-S', '-aet', 'ISOSLICE', '-aec', 'TESTPACS', '127.0.0.1', str(enhanced.dicom)]
        os.makedirs('answers')
        subprocess.run(['findscu', '-X', '-od', 'answers', *peer, '-k', 'QueryRetrieveLevel=SERIES', '-k', 'StudyInstanceUID=' + study,
                        '-k', 'SeriesInstanceUID=', '-k', 'NumberOfSeriesRelatedInstances='], check=True, capture_output=True)
        found = [pydicom.dcmread(p, force=True) for p in files_of('answers')]
        equal({str(d.SeriesInstanceUID): int(d.NumberOfSeriesRelatedInstances) for d in found}, objects, 'what the archive finds')
        for uid in objects:
            subprocess.run(['movescu', *peer[:-2], '-aem', 'THIRD', *peer[-2:], '-k', 'QueryRetrieveLevel=SERIES',
                            '-k', 'StudyInstanceUID=' + study, '-k', 'SeriesInstanceUID=' + uid], check=True, capture_output=True)
        moved = {str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID): p for p in files_of('moved')}
        equal(set(moved), set(made), 'objects of the third node')
        for uid, path in moved.items():
            equal(dataset_of(path), dataset_of(made[uid]), 'bytes of ' + uid)
        # and what comes back to us is known
        send_folder(node, 'objects')
        node.wait_idle(60)
        jobs = [r for r in node.rows('job') if r['uid'] in objects]
        equal(sorted({r['state'] for r in jobs}), ['REFUSED'], 'jobs of what came back')
        check(len(jobs) == 3 and all('OWN_OUTPUT' in r['note'] for r in jobs), jobs)
        equal(node.stop(), {'receive': 0, 'work': 0, 'send': 0}, 'exit codes')
    finally:
        third.terminate()
        third.wait()
        node.stop()
        classic.stop()
        enhanced.stop()


def enhanced_alone():
    """Where no destination wants the classic form, it is not made."""
    phantom('source', slices=6)
    pacs = Orthanc().start()
    node = Node(pacs.dicom, destination={'format': 'enhanced'}).start()
    try:
        storescu(node, files_of('source'))
        node.wait_idle(300)
        equal([(r['state'], r['images']) for r in node.rows('delivery')], [('SENT', 1)], 'delivery')
        equal([os.path.basename(p) for p in files_of(node.spool + '/derived')], ['IM0001.dcm'], 'derived objects')
        report, = [json.load(open(p)) for p in glob.glob(node.spool + '/reports/*.json')]
        equal((report['format'], report['views']), ('enhanced', []), 'report')
        (uid, count), = pacs.fetch('back').items()
        equal((uid, count), (report['derived_series_uid'], 1), 'series in the archive')
    finally:
        node.stop()
        pacs.stop()


def peer_without_enhanced():
    """It gets nothing, by name, and nothing else instead; the others get theirs. Kept, and sent when it has learnt it."""
    phantom('source', slices=6)
    with open('only_mr.cfg', 'w') as f:
        f.write(ONLY_MR)
    os.makedirs('got')
    port, pacs = free_port(), Orthanc().start()
    peer = subprocess.Popen(['storescp', '-xf', 'only_mr.cfg', 'Default', '-od', 'got', str(port)],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    node = Node(pacs.dicom, more=[{'name': 'old', 'port': port, 'format': 'enhanced'}]).start()
    try:
        storescu(node, files_of('source'))
        node.wait_idle(300)
        rows = node.rows('delivery')
        equal(sorted(r['state'] for r in rows), ['HELD', 'SENT'], 'deliveries')
        held, = [r for r in rows if r['state'] == 'HELD']
        check('NOT_NEGOTIATED' in held['note'] and ENHANCED in held['note'], held['note'])
        equal(os.listdir('got'), [], 'what the peer got')
        equal([r['state'] for r in node.rows('job')], ['DONE'], 'job')
        kept, = [p for p in files_of(node.spool + '/derived') if len(os.listdir(os.path.dirname(p))) == 1]
        peer.terminate()
        peer.wait()
        peer = subprocess.Popen(['storescp', '-od', 'got', '-uf', str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        isoslice('queue', '--config', node.config, 'retry', held['id'])
        node.wait_idle(60)
        equal([r['state'] for r in node.rows('delivery')], ['SENT', 'SENT'], 'deliveries')
        got, = files_of('got')
        equal(dataset_of(got), dataset_of(kept), 'bytes')
    finally:
        peer.terminate()
        peer.wait()
        node.stop()
        pacs.stop()


def too_large_for_one_object():
    """The classic form is made and sent all the same; what is missing is said by name."""
    phantom('source', slices=6)
    os.symlink(os.path.join(BIN, 'tests/node/misread'), 'too-large')
    pacs = Orthanc().start()
    node = Node(pacs.dicom, more=[{'name': 'new', 'port': free_port(), 'format': 'enhanced'}])
    try:
        node.start(env={'ISOSLICE_READER': os.path.abspath('too-large')})
        node.wait_listening()
        storescu(node, files_of('source'))
        node.wait_idle(300)
        job, = node.rows('job')
        check(job['state'] == 'FAILED' and 'TOO_LARGE' in job['note'], job)
        equal([r['state'] for r in node.rows('delivery')], ['SENT'], 'deliveries')
        (uid, count), = pacs.fetch('back').items()
        equal([os.path.basename(p) for p in glob.glob(node.spool + '/derived/*')], ['j1-s0'], 'derived series')
        equal(len(files_of(node.spool + '/derived/j1-s0')), count, 'images in the archive')
        report, = [json.load(open(p)) for p in glob.glob(node.spool + '/reports/*.json')]
        equal((report['derived_series_uid'], report['format']), (uid, 'classic'), 'report')
        equal([(v['format'], v.get('verdict')) for v in report['views']], [('enhanced', 'TOO_LARGE')], 'the other series')
    finally:
        node.stop()
        pacs.stop()


TESTS = {
    'peer.formats.one_form_each': one_form_each,
    'peer.formats.enhanced_alone': enhanced_alone,
    'peer.formats.peer_without_enhanced': peer_without_enhanced,
    'peer.formats.too_large_for_one_object': too_large_for_one_object,
}

if __name__ == '__main__':
    run_named(TESTS)
