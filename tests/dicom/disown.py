# SPDX-License-Identifier: Apache-2.0
"""disown.py FOLDER: takes from derived objects what says that they are ours and derived, so that they can be read like any
others. Enhanced MR also gets an Echo Pulse Sequence, which reading asks for."""
import glob
import os
import sys

import pydicom

for path in glob.glob(os.path.join(sys.argv[1], "*.dcm")):
    d = pydicom.dcmread(path)
    d.Manufacturer = "Other"
    del d.ContributingEquipmentSequence
    d.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    if "SharedFunctionalGroupsSequence" in d:
        d.EchoPulseSequence = "SPIN"
        d.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0].FrameType = d.ImageType
    d.save_as(path)
