# SPDX-License-Identifier: Apache-2.0
"""What the golden values from PyTorch share: planes by the network, files as the C tests read them."""
import json
import struct

import numpy as np
import torch


def decode(net, stack, planes):
    """Planes [(stack, slice, t)], those of one stack together, of stack [N,1,W,H,D] -> [P,W,H]."""
    ys = []
    for i in range(stack.shape[0]):
        features = net.features(stack[i:i + 1])
        ys += [net.decode_slice(stack[i:i + 1], features, int(s) + t)[0] for k, s, t in planes if k == i]
    return torch.stack(ys)


def save(path, tensors):
    """safetensors, F32, in the order of the names: not that of the state dict, on purpose."""
    head, blob, at = {'__metadata__': {'architecture': 'SA-INR P0', 'note': 'golden "\u00e9" \\ test'}}, [], 0
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
