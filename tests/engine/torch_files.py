# SPDX-License-Identifier: Apache-2.0
"""What the golden values from PyTorch share: the networks P0 and P1, planes by them, files as the C tests read them.
sainr_ref is passed in, since its folder is only known to the programs."""
import json
import struct

import numpy as np
import torch


def network(sainr_ref, conditioned):
    """The reference network P0, or P1, whose decoder has four inputs more; net.imnet.conditions is set before each plane."""
    class ConditionedMLP(sainr_ref.MLP):
        def __init__(self):
            super().__init__(68)

        def forward(self, x):
            c = torch.tensor(self.conditions, dtype=torch.float32)
            return super().forward(torch.cat([x, c.expand(*x.shape[:-1], 4)], -1))

    net = sainr_ref.SAINR()
    if conditioned:
        net.imnet = ConditionedMLP()
    return net


def decode_plane(net, x, features, slice, t, sampling):
    """sampling: the last three conditions; P0 does not look at them."""
    net.imnet.conditions = [2 * t - 1, *sampling]
    return net.decode_slice(x, features, slice + t)


def decode(net, stack, planes):
    """Planes [(stack, slice, t, three conditions)], those of one stack together, of stack [N,1,W,H,D] -> [P,W,H]."""
    ys = []
    for i in range(stack.shape[0]):
        features = net.features(stack[i:i + 1])
        ys += [decode_plane(net, stack[i:i + 1], features, int(s), t, c)[0] for k, s, t, *c in planes if k == i]
    return torch.stack(ys)


def save(path, tensors):
    """safetensors, F32, in the order of the names: not that of the state dict, on purpose."""
    name = 'SA-INR P1' if tensors['imnet.layers.0.weight'].shape[1] == 68 else 'SA-INR P0'
    head, blob, at = {'__metadata__': {'architecture': name, 'note': 'golden "\u00e9" \\ test'}}, [], 0
    for key in sorted(tensors):
        data = tensors[key].detach().numpy().astype('<f4').tobytes()
        head[key] = {'dtype': 'F32', 'shape': list(tensors[key].shape), 'data_offsets': [at, at + len(data)]}
        at += len(data)
        blob.append(data)
    text = json.dumps(head).encode()
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + b''.join(blob))


def save_gradients(path, net, y, target):
    """Of the mean L1, of every parameter."""
    (y - target).abs().mean().backward()
    save(path, {k: p.grad for k, p in net.named_parameters()})


def raw(path, array):
    np.ascontiguousarray(array, '<f4').tofile(path)
