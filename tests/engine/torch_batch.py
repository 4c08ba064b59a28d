# SPDX-License-Identifier: Apache-2.0
"""Gradients of one training batch from PyTorch.

usage: torch_batch.py BENCH N D H W     BENCH: folder of sainr_ref.py; run where weights.safetensors and, as raw little-endian
float32, stack [N,D,H,W], planes [P,3] (stack, slice, t) and target [P,H,W] lie
Writes gradients.safetensors (of the mean L1 against target) and y.f32 [P,H,W]. Ends with 1 where a ReLU's input or
y - target comes so near to zero that rounding decides its sign, and with it the gradient: other weights are needed.
"""
import sys

import numpy as np
import torch

import torch_files

sys.path.insert(0, sys.argv[1])
import sainr_ref  # noqa: E402

n, d, h, w = (int(v) for v in sys.argv[2:6])
torch.set_num_threads(1)
net = sainr_ref.SAINR()
net.load_state_dict(sainr_ref.load_safetensors('weights.safetensors')[0])
stack = torch.from_numpy(np.fromfile('stack.f32', '<f4').reshape(n, 1, d, h, w).transpose(0, 1, 4, 3, 2).copy())
planes = np.fromfile('planes.f32', '<f4').reshape(-1, 3).tolist()
target = torch.from_numpy(np.fromfile('target.f32', '<f4').reshape(-1, h, w).transpose(0, 2, 1).copy())
nearest = []
for module in net.modules():
    if isinstance(module, torch.nn.ReLU):
        module.register_forward_pre_hook(lambda _, inputs: nearest.append(float(inputs[0].abs().min())))
y = torch_files.decode(net, stack, planes)
nearest.append(float((y - target).abs().min()))
print('nothing is nearer to zero than %.2g' % min(nearest))
if min(nearest) < 1.5e-7:
    sys.exit('rounding decides the sign of a value of %.2g' % min(nearest))
torch_files.save_gradients('gradients.safetensors', net, y, target)
torch_files.raw('y.f32', y.detach().numpy().transpose(0, 2, 1))
