# SPDX-License-Identifier: Apache-2.0
"""A series through a whole node and a PACS."""
import glob
import os
import subprocess

import pydicom

from support import *

CHECK_DERIVED = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'dicom', 'check_derived.sh')


def roundtrip(source, send, n_series=1, timeout_s=600, **settings):
    """Source folder through the running node into Orthanc and back out; the derived files are then checked."""
    pacs = Orthanc().start()
    node = Node(pacs.dicom, **settings).start()
    try:
        send(node, source)
        node.wait_idle(timeout_s)
        states = [(r['kind'], r['state'], r['note']) for r in node.rows()]
        equal([s for k, s, n in states if k == 'job'], ['DONE'] * n_series, 'job states %s' % states)
        equal([s for k, s, n in states if k == 'delivery'], ['SENT'] * n_series, 'delivery states')
        counts = pacs.fetch('back')
        equal(len(counts), n_series, 'series in the PACS')
        for uid, count in counts.items():
            derived = glob.glob(node.spool + '/derived/*')
            sent = {pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID: p for d in derived for p in files_of(d)}
            for path in files_of('back/' + uid):
                back = pydicom.dcmread(path)
                equal(dataset_of(path), dataset_of(sent[back.SOPInstanceUID]), 'bytes of %s' % back.SOPInstanceUID)
            subprocess.run([CHECK_DERIVED, source, 'back/' + uid, 'values=any'], check=True)
        equal(node.stop(), {'receive': 0, 'work': 0, 'send': 0}, 'exit codes')
        return counts
    finally:
        node.stop()
        pacs.stop()
