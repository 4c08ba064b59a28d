# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by and for PyTorch.

usage: peer_torch.py save VALUES.f32 TENSORS.txt   writes plain.pt, nested.pt, half.pt, module.pt, strided.pt, missing.pt,
                                                   unknown.pt from the arena
       peer_torch.py load FILE VALUES.f32 TENSORS.txt   the file's state dict is the arena
TENSORS.txt: a line a tensor: name and sizes.
"""
import collections
import sys

import numpy
import torch


def tensors(values, names):
    arena = numpy.fromfile(values, '<f4')
    found, at = collections.OrderedDict(), 0
    for line in open(names):
        name, *shape = line.split()
        shape = [int(n) for n in shape]
        n = int(numpy.prod(shape))
        found[name] = torch.from_numpy(arena[at:at + n].reshape(shape).copy())
        at += n
    assert at == len(arena)
    return found


def save(state):
    state._metadata = collections.OrderedDict({'': {'version': 1}})
    torch.save(state, 'plain.pt')
    torch.save({'model': {'name': 'sainr', 'args': {'lr': 1e-4, 'win': (7, 7, 2), 'n': 2 ** 40}, 'sd': state},
                'optimizer': {'state': {}, 'param_groups': [{'lr': 1e-4, 'betas': (0.9, 0.999), 'params': [0, 1]}]},
                'epoch': 7}, 'nested.pt')
    torch.save({k: v.half() for k, v in state.items()}, 'half.pt')
    torch.save({'module.' + k: torch.nn.Parameter(v) for k, v in state.items()}, 'module.pt')
    whole = torch.cat([v.reshape(-1) for v in state.values()])  # all in one storage, matrices stored transposed
    at, strided = 0, {}
    for k, v in state.items():
        strided[k] = whole[at:at + v.numel()].view(v.shape)
        if v.dim() == 2:
            strided[k] = v.t().contiguous().t()
        at += v.numel()
    torch.save(strided, 'strided.pt')
    names = list(state)
    torch.save({k: v for k, v in state.items() if k != names[2]}, 'missing.pt')
    torch.save({**state, 'gate.weight': torch.zeros(2, 3)}, 'unknown.pt')


if sys.argv[1] == 'save':
    save(tensors(sys.argv[2], sys.argv[3]))
else:
    want, got = tensors(sys.argv[3], sys.argv[4]), torch.load(sys.argv[2])
    assert list(want) == list(got), (list(want), list(got))
    for name, value in want.items():
        assert got[name].shape == value.shape and torch.equal(got[name], value), name
