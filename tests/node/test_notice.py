# SPDX-License-Identifier: Apache-2.0
"""What the archive is told when no series was derived: an image in the study that says why. Each test in an empty directory of its own."""
import glob
import os
import shutil
import subprocess

import numpy
import pydicom

from support import *

SECONDARY_CAPTURE = '1.2.840.10008.5.1.4.1.1.7'


def images_in(pacs, folder):
    """What the archive has, one list of data sets for each series."""
    return {uid: [pydicom.dcmread(path) for path in files_of(os.path.join(folder, uid))] for uid in pacs.fetch(folder)}


def check_notice(image, source, code, sentence):
    """Whose it is, what it says, and that it says it legibly: bright strokes on black, in rows of text."""
    equal(image.SOPClassUID, SECONDARY_CAPTURE, 'class')
    for name in ('PatientName', 'PatientID', 'PatientBirthDate', 'PatientSex', 'StudyInstanceUID', 'StudyDate', 'StudyID', 'AccessionNumber'):
        equal(image.get(name), source.get(name), name)
    check(image.SeriesInstanceUID != source.SeriesInstanceUID and image.SeriesInstanceUID.startswith('2.25.'), image.SeriesInstanceUID)
    equal((image.Modality, image.Manufacturer, image.BurnedInAnnotation), ('OT', 'Isoslice', 'NO'), 'what it is')
    equal(image.SeriesDescription, 'ISOSLICE: no result: ' + code, 'description')
    check(image.ImageComments.startswith('Isoslice made no series of series %s: %s: ' % (source.SeriesInstanceUID, code)), image.ImageComments)
    check(sentence in image.ImageComments, image.ImageComments)
    pixels = image.pixel_array
    lit = numpy.flatnonzero((pixels > 128).any(axis=1))
    equal(pixels.shape, (480, 960), 'size')
    check(pixels.max() == 255 and (pixels == 0).mean() > 0.8, 'not light on dark')
    check(len(numpy.flatnonzero(numpy.diff(lit) > 1)) >= 5, 'fewer than six rows of text')
    check(not (pixels[:, :20].any() or pixels[:, -20:].any() or pixels[-10:].any()), 'something is cut off')


def verify(path, source_lacks=()):
    """dciodvfy has nothing to say but which IOD it is, and that of the source's lack."""
    done = subprocess.run(['dciodvfy', path], capture_output=True, text=True)
    equal(sorted((done.stdout + done.stderr).splitlines()), sorted(['SCImage', *source_lacks]), 'dciodvfy')


def missing_slice_is_told():
    pacs = Orthanc().start()
    node = Node(pacs.dicom, destination={'notices': True}, work__finetune=False, work__spacing=4, receive__incomplete_s=1, node__station_name='ISO1').start()
    try:
        paths = phantom('in', slices=9)
        storescu(node, paths[:4] + paths[5:])
        node.wait_idle(120)
        equal([(r['kind'], r['state']) for r in node.rows()], [('series', 'QUEUED'), ('job', 'REFUSED'), ('delivery', 'SENT')], 'queue')
        (notice,), = images_in(pacs, 'got').values()
        source = pydicom.dcmread(paths[0])
        check_notice(notice, source, 'MISSING_SLICES', 'missing')
        equal((notice.SeriesNumber, notice.StationName), (source.SeriesNumber + 81000, 'ISO1'), 'series number, station')
        verify(files_of('got')[0])
        check(any('MISSING_SLICES: an image says so in the archive' in text for _, text in node.show('j1')), node.show('j1'))
        # the same again is the same object; when the slice has come there is a series, and no other notice
        isoslice('queue', '--config', node.config, 'retry', 'j1')
        node.wait_idle(120)
        equal(list(images_in(pacs, 'again')), [notice.SeriesInstanceUID], 'series after a retry')
        storescu(node, [paths[4]])
        node.wait_idle(120)
        classes = {uid: images[0].SOPClassUID for uid, images in images_in(pacs, 'whole').items()}
        equal(sorted(classes.values()), [MR, SECONDARY_CAPTURE], 'series once it is whole')
        derived = next(images for images in images_in(pacs, 'whole').values() if images[0].SOPClassUID == MR)[0]
        check('late' not in derived.SeriesDescription, derived.SeriesDescription)  # late for no series
    finally:
        node.stop()
        pacs.stop()


def failed_job_is_told():
    """The file that it failed for cannot say whose study it is; another can."""
    pacs = Orthanc().start()
    node = Node(pacs.dicom, destination={'notices': True}, work__finetune=False, work__spacing=4).start('receive')
    try:
        paths = phantom('in', slices=7)
        storescu(node, paths)
        wait_for('a job', 30, lambda: node.rows('job'))
        wait_for('everything in its place', 10, lambda: len(glob.glob(node.spool + '/store/*.dcm')) == 7)
        first = min(glob.glob(node.spool + '/store/*.dcm'))
        with open(first, 'r+b') as f:
            f.truncate(3000)
        node.start('work', 'send')
        node.wait_idle(60)
        equal([r['state'] for r in node.rows('job')], ['FAILED'], 'job')
        (notice,), = images_in(pacs, 'got').values()
        check_notice(notice, pydicom.dcmread(paths[0]), 'DAMAGED_FILE', 'is not what was received')
        verify(files_of('got')[0])
        check(node.rows('job')[0]['note'].startswith('DAMAGED_FILE'), node.rows('job'))
    finally:
        node.stop()
        pacs.stop()


def only_those_whom_a_rule_sends_to():
    """The rule that would decide may look at the distance of the slices, which nobody knows of a job that failed before that: then none gets a
    notice whom one of those rules would have passed over."""
    for distance, told in ((0, ['research', 'both']), (1, ['both'])):
        shutil.rmtree('spool', ignore_errors=True)
        node = Node(free_port(), destination={'notices': True}, work__finetune=False,
                    more=[{'name': name, 'port': free_port(), 'notices': True} for name in ('research', 'both')])
        with open(node.config, 'a') as f:
            f.write('rules:\n  - {name: first, sender: SENDER, min_slice_mm: %d, destinations: "research,both"}\n  - {name: rest, destinations: "pacs,both"}\n' % distance)
        node.start('receive')
        try:
            storescu(node, phantom('in%d' % distance, seed=distance + 1, slices=7))
            wait_for('a job', 30, lambda: node.rows('job'))
            wait_for('everything in its place', 10, lambda: len(glob.glob(node.spool + '/store/*.dcm')) == 7)
            with open(max(glob.glob(node.spool + '/store/*.dcm')), 'r+b') as f:
                f.truncate(3000)
            node.start('work')
            wait_for('the job', 60, lambda: [r['state'] for r in node.rows('job')] == ['FAILED'])
            waiting = [dict(node.show(r['id']))['destination'] for r in node.rows('delivery')]
            equal(waiting, told, 'destinations, least distance %d' % distance)
        finally:
            node.stop()


def patient_is_the_sources():
    """A name in a character set of several bytes, a birth date that is none, no Study ID: what is legal is copied as it
    is, what is not is empty, and nothing else of the source gets in."""
    pacs = Orthanc().start()
    node = Node(pacs.dicom, destination={'notices': True}, receive__incomplete_s=1).start()
    try:
        paths = phantom('in', slices=9)
        for path in paths:
            d = pydicom.dcmread(path)
            d.SpecificCharacterSet = ['', 'ISO 2022 IR 87']
            d.PatientName = 'Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046'
            d.add_new(0x00100030, 'DA', '2000-13-45')
            del d.StudyID
            d.OtherPatientIDs = 'SECRET'
            d.add_new(0x00091001, 'LO', 'SECRET')
            d.save_as(path)
        storescu(node, paths[:4] + paths[5:])
        node.wait_idle(120)
        (notice,), = images_in(pacs, 'got').values()
        source = pydicom.dcmread(paths[0])
        equal(list(notice.SpecificCharacterSet), list(source.SpecificCharacterSet), 'character set')
        equal((notice.PatientName, notice.PatientBirthDate, notice.StudyID), (source.PatientName, '', ''), 'patient')
        check('SECRET' not in str(notice), notice)
        equal([e.tag for e in notice if e.tag.is_private], [], 'private elements')
        verify(files_of('got')[0], ['Warning - Missing attribute or value that would be needed to build DICOMDIR - Study ID'])
    finally:
        node.stop()
        pacs.stop()


def nothing_where_nothing_was_expected():
    """Four slices are none of ours; a destination that did not ask for notices gets none; a rule that leaves a series alone is no fault."""
    node = Node(free_port(), destination={'notices': True}, more=[{'name': 'quiet', 'port': free_port()}], work__finetune=False, receive__incomplete_s=1)
    with open(node.config, 'a') as f:
        f.write('rules:\n  - {name: not these, sender: STORESCU, action: ignore}\n')
    node.start('receive', 'work')
    try:
        paths = phantom('in', slices=9)
        storescu(node, phantom('few', seed=2)[:4])
        storescu(node, phantom('other', seed=3), calling='STORESCU')
        storescu(node, paths[:4] + paths[5:])
        wait_for('three jobs', 60, lambda: [r['state'] for r in node.rows('job')] == ['REFUSED'] * 3)
        notes = {r['uid']: r['note'] for r in node.rows('job')}
        equal(sorted(note.split(':')[0] for note in notes.values()), ['BY_RULE', 'MISSING_SLICES', 'NOTHING_TO_DO'], 'verdicts')
        equal([r['note'] or 'pacs' for r in node.rows('delivery')], ['pacs'], 'deliveries')
        equal(len(files_of(node.spool + '/derived')), 1, 'derived files')
    finally:
        node.stop()


TESTS = {
    'peer.notice.missing_slice_is_told': missing_slice_is_told,
    'peer.notice.failed_job_is_told': failed_job_is_told,
    'unit.notice.only_those_whom_a_rule_sends_to': only_those_whom_a_rule_sends_to,
    'peer.notice.patient_is_the_sources': patient_is_the_sources,
    'unit.notice.nothing_where_nothing_was_expected': nothing_where_nothing_was_expected,
}

if __name__ == '__main__':
    run_named(TESTS)
