# SPDX-License-Identifier: Apache-2.0
"""The scores of score.h by scikit-image. usage: peer_scores.py TRUTH.f32 RESULT.f32 D H W FACTOR; prints five numbers."""
import sys

import numpy
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

shape = [int(n) for n in sys.argv[3:6]]
factor = int(sys.argv[6])
truth, result = (numpy.fromfile(p, '<f4').reshape(shape) for p in sys.argv[1:3])
span = float(numpy.percentile(truth, 99.9))
truth, result = (numpy.clip(v, 0, span).astype(float) for v in (truth, result))
between = numpy.arange(shape[0]) % factor != 0
head = truth > 0.02 * span
psnr = lambda a, b: peak_signal_noise_ratio(a, b, data_range=span)
ssim = lambda a, b: structural_similarity(a, b, data_range=span)
planes = [ssim(truth[:, y], result[:, y]) for y in range(0, shape[1], 4)]
planes += [ssim(truth[:, :, x], result[:, :, x]) for x in range(0, shape[2], 4)]
for value in (psnr(truth, result), psnr(truth[between], result[between]), psnr(truth[head], result[head]),
              ssim(truth, result), numpy.mean(planes)):
    print('%.12g' % value)
