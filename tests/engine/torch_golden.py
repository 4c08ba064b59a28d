# SPDX-License-Identifier: Apache-2.0
"""Golden values of the network from PyTorch, for test_torch.c.

usage: torch_golden.py BENCH OUT     BENCH: folder of sainr_ref.py; OUT: an existing folder
Writes weights.safetensors, gradients.safetensors (of the mean L1 against target), and raw little-endian float32:
stack [N,D,H,W], planes [P,3] (stack, slice, t), target and y [P,H,W]; volume [D,H,W], positions [K], result [K,H,W]
of sainr_ref.interpolate; spline [K,H,W], scipy's cubic B-spline of the volume. Seed 5; sizes stand below.
"""
import os
import sys

import numpy as np
import torch
from scipy import ndimage

import torch_files

BENCH, OUT = sys.argv[1], sys.argv[2]
sys.path.insert(0, BENCH)
import sainr_ref  # noqa: E402


def save(name, tensors):
    torch_files.save(os.path.join(OUT, name), tensors)


def raw(name, array):
    torch_files.raw(os.path.join(OUT, name), array)


torch.manual_seed(5)
torch.set_num_threads(1)
net = sainr_ref.SAINR()
with torch.no_grad():
    net.attentionLayer.q.weight *= 4
    net.attentionLayer.k.weight *= 4
    net.imnet.layers[8].weight *= 2

n, d, h, w = 2, 3, 9, 17  # one side below the window of 13, one above
planes = [(0, 0, 0.25), (0, 0, 0.5), (0, 1, 0.75), (0, 2, 0.0), (1, 0, 0.0), (1, 1, 0.3125)]
stack = torch.rand(n, 1, w, h, d)
target = torch.rand(len(planes), w, h)
y = torch_files.decode(net, stack, planes)
save('weights.safetensors', net.state_dict())
torch_files.save_gradients(os.path.join(OUT, 'gradients.safetensors'), net, y, target)
raw('stack.f32', stack[:, 0].numpy().transpose(0, 3, 2, 1))
raw('planes.f32', np.array(planes))
raw('target.f32', target.numpy().transpose(0, 2, 1))
raw('y.f32', y.detach().numpy().transpose(0, 2, 1))

volume = (np.random.RandomState(5).rand(4, 13, 10) * 900 + 40).astype(np.float32)
positions = [0, 0.25, 0.5, 1, 1.625, 2.75, 3]
raw('volume.f32', volume)
raw('positions.f32', np.array(positions))
raw('result.f32', sainr_ref.interpolate(net, volume, positions))
coefficients = ndimage.spline_filter1d(volume.astype(np.float64), 3, axis=0, mode='mirror')
grid = np.meshgrid(positions, np.arange(13), np.arange(10), indexing='ij')
# interpolation along the slice axis alone: the in-plane coordinates are whole, so filter those axes as well
for axis in (1, 2):
    coefficients = ndimage.spline_filter1d(coefficients, 3, axis=axis, mode='mirror')
raw('spline.f32', ndimage.map_coordinates(coefficients, grid, order=3, mode='mirror', prefilter=False))
