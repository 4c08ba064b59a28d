# SPDX-License-Identifier: Apache-2.0
"""Golden values of the network from PyTorch, for test_torch.c.

usage: torch_golden.py BENCH OUT [conditioned]     BENCH: folder of sainr_ref.py; OUT: an existing folder
Writes weights.safetensors, gradients.safetensors (of the mean L1 against target), and raw little-endian float32:
stack [N,D,H,W], planes [P,6] (stack, slice, t, log2(n)/3, thickness/spacing, log2(ratio)/3), target and y [P,H,W];
volume [D,H,W], positions [K], result [K,H,W] of sainr_ref.interpolate; spline [K,H,W], scipy's cubic B-spline of the
volume. Seed 5; sizes stand below. With `conditioned` the network is P1, the decoder having 68 inputs.
"""
import json
import os
import struct
import sys

import numpy as np
import torch
from scipy import ndimage

BENCH, OUT = sys.argv[1], sys.argv[2]
CONDITIONED = sys.argv[3:] == ['conditioned']
sys.path.insert(0, BENCH)
import sainr_ref  # noqa: E402


class ConditionedMLP(sainr_ref.MLP):
    """The decoder with four inputs more; `conditions` is set before each plane."""

    def __init__(self):
        super().__init__(68)

    def forward(self, x):
        c = torch.tensor(self.conditions, dtype=torch.float32)
        return super().forward(torch.cat([x, c.expand(*x.shape[:-1], 4)], -1))


def decode(net, x, features, slice, t, sampling):
    """One plane; sampling: the last three conditions."""
    net.imnet.conditions = [2 * t - 1, *sampling]
    return net.decode_slice(x, features, slice + t)


def interpolate(net, volume, positions, sampling):
    """sainr_ref.interpolate with conditions."""
    low, high = float(volume.min()), float(volume.max())
    x = torch.from_numpy(((volume - low) / (high - low)).astype(np.float32).transpose(2, 1, 0)[None, None].copy())
    with torch.no_grad():
        features = net.features(x)
        y = [decode(net, x, features, int(p), p - int(p), sampling)[0].clamp(0, 1) for p in positions]
    return torch.stack(y).numpy().transpose(0, 2, 1) * (high - low) + low


def save(name, tensors):
    network = 'SA-INR P1' if CONDITIONED else 'SA-INR P0'
    head, blob, at = {'__metadata__': {'architecture': network, 'note': 'golden "\u00e9" \\ test'}}, [], 0
    for key in sorted(tensors):  # not the order of the state dict, on purpose
        data = tensors[key].detach().numpy().astype('<f4').tobytes()
        head[key] = {'dtype': 'F32', 'shape': list(tensors[key].shape), 'data_offsets': [at, at + len(data)]}
        at += len(data)
        blob.append(data)
    text = json.dumps(head).encode()
    with open(os.path.join(OUT, name), 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + b''.join(blob))


def raw(name, array):
    np.ascontiguousarray(array, '<f4').tofile(os.path.join(OUT, name))


torch.manual_seed(5)
torch.set_num_threads(1)
net = sainr_ref.SAINR()
if CONDITIONED:
    net.imnet = ConditionedMLP()
with torch.no_grad():
    net.attentionLayer.q.weight *= 4
    net.attentionLayer.k.weight *= 4
    net.imnet.layers[8].weight *= 2

n, d, h, w = 2, 3, 9, 17  # one side below the window of 13, one above
planes = [(0, 0, 0.25), (0, 0, 0.5), (0, 1, 0.75), (0, 2, 0.0), (1, 0, 0.0), (1, 1, 0.3125)]
samplings = [(0.1 + 0.2 * i, 1.2 - 0.25 * i, (0.9, -0.3)[i % 2]) for i in range(len(planes))]
stack = torch.rand(n, 1, w, h, d)
target = torch.rand(len(planes), w, h)
ys = []
for i in range(n):
    features = net.features(stack[i:i + 1])
    ys += [decode(net, stack[i:i + 1], features, s, t, c)[0] for (k, s, t), c in zip(planes, samplings) if k == i]
y = torch.stack(ys)
(y - target).abs().mean().backward()
save('weights.safetensors', net.state_dict())
save('gradients.safetensors', {k: p.grad for k, p in net.named_parameters()})
raw('stack.f32', stack[:, 0].numpy().transpose(0, 3, 2, 1))
raw('planes.f32', np.hstack([planes, samplings]))
raw('target.f32', target.numpy().transpose(0, 2, 1))
raw('y.f32', y.detach().numpy().transpose(0, 2, 1))

volume = (np.random.RandomState(5).rand(4, 13, 10) * 900 + 40).astype(np.float32)
positions = [0, 0.25, 0.5, 1, 1.625, 2.75, 3]
raw('volume.f32', volume)
raw('positions.f32', np.array(positions))
# test_torch.c's stack: 7 planes over 3 slice distances, unknown thickness, slices 4 pixels apart
sampling = [np.log2((len(positions) - 1) / 3) / 3, 1, np.log2(4) / 3]
raw('result.f32', interpolate(net, volume, positions, sampling) if CONDITIONED
    else sainr_ref.interpolate(net, volume, positions))
coefficients = ndimage.spline_filter1d(volume.astype(np.float64), 3, axis=0, mode='mirror')
grid = np.meshgrid(positions, np.arange(13), np.arange(10), indexing='ij')
# interpolation along the slice axis alone: the in-plane coordinates are whole, so filter those axes as well
for axis in (1, 2):
    coefficients = ndimage.spline_filter1d(coefficients, 3, axis=axis, mode='mirror')
raw('spline.f32', ndimage.map_coordinates(coefficients, grid, order=3, mode='mirror', prefilter=False))
