# SPDX-License-Identifier: Apache-2.0
"""Lets the reference trainer do its first 20 steps and lays its batches and losses out as plain floats.

usage: reference.py TRAIN_REF STAGE START.safetensors PATH ...   (in an empty directory)
Writes 01.f32 ... 20.f32: stack [B,D,H,W], t [B,D-1], target [B,D-1,H,W]; and batches.txt: a line a step with B, D, H,
W and the loss.
"""
import json
import os
import struct
import subprocess
import sys

import numpy

STEPS = 20


def tensors(path):
    with open(path, 'rb') as f:
        size, = struct.unpack('<Q', f.read(8))
        head = json.loads(f.read(size))
        blob = f.read()
    found = {}
    for name, entry in head.items():
        if name != '__metadata__':
            a, b = entry['data_offsets']
            found[name] = numpy.frombuffer(blob[a:b], '<f4').reshape(entry['shape'])
    return found


def main():
    program, stage, start = sys.argv[1:4]
    os.mkdir('data')
    for i, path in enumerate(sys.argv[4:]):
        os.symlink(path, 'data/%d_%s' % (i, os.path.basename(path)))
    subprocess.run(['/usr/bin/python3', program, stage, '--data', 'data', '--out', 'out', '--init', start, '--steps',
                    str(STEPS), '--batch', '2', '--slices', '3', '--crop', '16', '--seed', '5', '--dump', 'dump'],
                   check=True, env={**os.environ, 'PYTHONDONTWRITEBYTECODE': '1', 'CUDA_VISIBLE_DEVICES': ''})
    with open('batches.txt', 'w') as out:
        for step in range(1, STEPS + 1):
            t = tensors('dump/%02d.safetensors' % step)
            stack = t['stack'][:, 0].transpose(0, 3, 2, 1)
            target = t['target'].transpose(0, 3, 2, 1)
            with open('%02d.f32' % step, 'wb') as f:
                for part in (stack, t['t'], target):
                    f.write(numpy.ascontiguousarray(part, '<f4').tobytes())
            out.write('%d %d %d %d %.9g\n' % (*stack.shape, float(t['loss'][0])))


main()
