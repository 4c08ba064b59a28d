# SPDX-License-Identifier: Apache-2.0
"""enlarge.py FOLDER SIZE: images of SIZE x SIZE zeros instead of those that lie there."""
import glob
import os
import sys

import pydicom

size = int(sys.argv[2])
for path in glob.glob(os.path.join(sys.argv[1], "*.dcm")):
    d = pydicom.dcmread(path)
    d.Rows = d.Columns = size
    d.PixelData = bytes(size * size * d.BitsAllocated // 8)
    d.save_as(path)
