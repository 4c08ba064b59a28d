# SPDX-License-Identifier: Apache-2.0
"""A case by the bench's own program, as raw floats: stack.f32 and truth.f32. usage: peer_case.py MAKE_CASE ARGUMENTS ..."""
import os
import subprocess
import sys

import numpy

subprocess.run(['/usr/bin/python3', *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL,
               env={**os.environ, 'PYTHONDONTWRITEBYTECODE': '1'})
case = numpy.load(sys.argv[3] + '/truth.npz')
case['thick'].astype('<f4').tofile('stack.f32')
case['truth'].astype('<f4').tofile('truth.f32')
with open('shape.txt', 'w') as out:
    out.write('%d %d %d %d\n' % (len(case['thick']), *case['truth'].shape))
