# SPDX-License-Identifier: Apache-2.0
"""The commands of training and evaluation as a person meets them: help, usage errors, an interrupt that saves."""
import os
import signal
import struct
import subprocess
import sys
import time

import numpy

PROGRAM = os.environ.get('ISOSLICE_BIN', '') + '/cli/isoslice'


def isoslice(*arguments, code=0):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True)
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def volume(path, side):
    """Soft waves as a NIfTI file."""
    i = numpy.arange(side)
    v = 120 + 50 * numpy.sin(0.3 * i)[:, None, None] + 40 * numpy.cos(0.4 * i)[None, :, None] + 30 * numpy.sin(0.5 * i)
    head = bytearray(352)
    struct.pack_into('<i', head, 0, 348)
    struct.pack_into('<8h', head, 40, 3, side, side, side, 1, 1, 1, 1)
    struct.pack_into('<2h', head, 70, 2, 8)
    struct.pack_into('<8f', head, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into('<f', head, 108, 352)
    head[344:348] = b'n+1\0'
    with open(path, 'wb') as f:
        f.write(bytes(head) + v.astype('u1').tobytes(order='F'))


def help_and_usage():
    assert 'second-round' in isoslice('train', 'subject', '--help')
    for command in ('train', 'eval', 'bench', 'convert-weights'):
        assert 'usage: isoslice ' + command in isoslice(command, '--help')
    assert '--profile' in isoslice('train', 'mr', '--help')
    for bad in (['train'], ['train', 'subjects'], ['train', 'mr', '--out', 'o'], ['train', 'mr', '--data', '.'],
                ['train', 'mr', '--data', '.', '--out', 'o', '--factors', '8,2'],
                ['train', 'video', '--data', '.', '--out', 'o', '--noise', '0.1'], ['eval'],
                ['eval', '--data', sys.argv[0], '--out', 'o', '--crop', '1:2'],
                ['eval', '--data', sys.argv[0], '--out', 'o', '--factor', '1'], ['bench', 'all'],
                ['bench', '--repeats', '0'], ['convert-weights', 'one']):
        assert '--help' in isoslice(*bad, code=2), bad
    assert 'NOT_FOUND' in isoslice('train', 'mr', '--data', '.', '--out', 'o', code=1)


def interrupt_saves():
    os.mkdir('data')
    volume('data/a.nii', 48)
    command = [PROGRAM, 'train', 'mr', '--data', 'data', '--out', 'run', '--steps', '400', '--slices', '2', '--crop', '16',
               '--factors', '2,3']
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in child.stderr:  # it has begun
        if line.startswith('train:'):
            break
    child.send_signal(signal.SIGINT)
    rest = child.stderr.read()
    assert child.wait() == 3, (child.returncode, rest)
    assert 'goes on from there' in rest, rest
    step = int([l for l in open('run/state') if l.startswith('step')][0].split()[1])
    assert 0 < step < 400, step
    assert os.path.exists('run/loss.png') and open('run/log.csv').readline().startswith('step,minutes,rate,loss')
    out = isoslice(*command[1:-6], '--steps', str(step + 3), *command[-6:])
    assert 'taken up at %d' % step in out, out


def pixels(folder):
    import pydicom
    slices = [pydicom.dcmread(os.path.join(root, name)) for root, _, names in os.walk(folder) for name in names]
    return [s.PixelData for s in sorted(slices, key=lambda s: s.InstanceNumber)]


def subject_is_the_workers():
    """Stopped and taken up it ends with the same bits, and isoslice run with its weights gives the pixels of a run that
    adapts by itself."""
    isoslice('new-weights', 'start.safetensors')
    isoslice('phantom', '--matrix', '48', '--slices', '6', 'in')
    command = ['train', 'subject', '--data', 'in', '--weights', 'start.safetensors', '--steps', '16', '--recipe',
               'average=0.9:detail=yes', '--recipe', 'rate-woken=1e-3']
    out = isoslice(*command, '--out', 'whole')
    assert 'step 16 of 16' in out and 'linear interpolation' in out, out
    child = subprocess.Popen([PROGRAM, *command, '--out', 'parts'], stderr=subprocess.PIPE, text=True)
    for line in child.stderr:
        if line.startswith('fine-tune: 1'):
            break
    child.send_signal(signal.SIGINT)
    rest = child.stderr.read()
    assert child.wait() == 3 and 'goes on from there' in rest, (child.returncode, rest)
    assert 'taken up at' in isoslice(*command, '--out', 'parts')
    tuned = open('whole/weights.safetensors', 'rb').read()
    assert tuned == open('parts/weights.safetensors', 'rb').read()
    assert tuned != open('start.safetensors', 'rb').read()
    assert 'another recipe' in isoslice(*command, '--recipe', 'rate=1e-3', '--out', 'parts', code=2)
    isoslice('run', '--weights', 'whole/weights.safetensors', 'in', 'used')
    isoslice('run', '--weights', 'start.safetensors', '--steps', '16', '--recipe', 'average=0.9:detail=yes:rate-woken=1e-3',
             'in', 'adapted')
    used, adapted = pixels('used'), pixels('adapted')
    assert len(used) > 6 and used == adapted, (len(used), len(adapted))
    assert [row for row in open('whole/log.csv')][-1].startswith('16,') and os.path.exists('whole/loss.png')
    assert 'no \'speed\'' in isoslice('train', 'subject', '--data', 'in', '--out', 'x', '--recipe', 'speed=1', code=2)
    assert 'NOT_FOUND' in isoslice('train', 'subject', '--data', 'nowhere', '--out', 'x', code=1)


def eval_writes_tables():
    os.mkdir('data')
    volume('data/a.nii', 40)
    volume('data/b.nii', 44)
    out = isoslice('eval', '--data', 'data', '--methods', 'linear,cubic,lanczos', '--axis', 'x', '--out', 'out')
    assert 'mean of 2' in out, out
    assert sorted(os.listdir('out')) == ['case001.png', 'case002.png', 'report.json', 'report.md'], os.listdir('out')
    import json
    report = json.load(open('out/report.json'))
    assert [m['method'] for m in report['methods']] == ['linear', 'cubic', 'lanczos'] and len(report['cases']) == 6
    values = [c['psnr'] for c in report['cases'] if c['method'] == 'cubic']
    assert abs(report['methods'][1]['psnr']['mean'] - sum(values) / 2) < 1e-6


def packed(path):
    """Sizes and voxels of the only volume in a packed file, as corpus.c lays it out."""
    data = open(path, 'rb').read()
    assert data[:8] == b'ISOPACK1' and struct.unpack_from('<I', data, 12)[0] == 1, data[:16]
    x, y, z, axis, offset = struct.unpack_from('<4IQ', data, 16 + 64)
    return axis - 1, numpy.frombuffer(data, 'u1', x * y * z, offset).reshape(x, y, z, order='F')


def dicom_as_nifti():
    """A series read by isoslice, and by pydicom by way of nibabel: the same voxels to learn from."""
    import nibabel
    import pydicom
    isoslice('phantom', '--truth', '--matrix', '48', '--slices', '8', 'in/a/b')
    slices = [pydicom.dcmread('in/a/b/' + name) for name in os.listdir('in/a/b')]
    slices.sort(key=lambda s: float(s.ImagePositionPatient[2]))
    pixels = numpy.stack([s.pixel_array.T for s in slices], -1)  # x = column, y = row
    mm = [float(v) for v in slices[0].PixelSpacing]
    dz = float(slices[1].ImagePositionPatient[2]) - float(slices[0].ImagePositionPatient[2])
    nibabel.save(nibabel.Nifti1Image(pixels.astype('i2'), numpy.diag([mm[1], mm[0], dz, 1])), 'v.nii')
    isoslice('train', 'mr', '--data', 'in', '--prepare', 'dicom.pack')
    isoslice('train', 'mr', '--data', 'v.nii', '--prepare', 'nifti.pack')
    (axis, ours), (theirs_axis, theirs) = packed('dicom.pack'), packed('nifti.pack')
    assert ours.shape == theirs.shape == pixels.shape, (ours.shape, theirs.shape, pixels.shape)
    assert axis == theirs_axis == -1, (axis, theirs_axis)
    assert numpy.array_equal(ours, theirs), numpy.abs(ours.astype(int) - theirs).max()
    assert ours.max() == 255 and ours.std() > 20, (ours.max(), ours.std())
    isoslice('train', 'mr', '--data', 'in', '--val', 'in', '--out', 'run', '--steps', '2', '--slices', '2', '--crop', '16',
             '--factors', '2,3')
    results = []
    for data in ('in', 'v.nii'):
        isoslice('eval', '--data', data, '--methods', 'linear,cubic', '--axis', 'x', '--out', 'out-' + data)
        import json
        results.append([(c['psnr'], c['ssim3d']) for c in json.load(open('out-' + data + '/report.json'))['cases']])
    assert results[0] == results[1] and len(results[0]) == 2, results


def refused_dicom_is_named():
    isoslice('phantom', '--matrix', '48', '--slices', '9', 'in/good')
    isoslice('phantom', '--matrix', '48', '--slices', '9', '--seed', '2', 'in/bad')
    os.unlink('in/bad/IM0004.dcm')
    out = isoslice('train', 'mr', '--data', 'in', '--prepare', 'all.pack')
    assert "#0' left out: MISSING_SLICES: 1 missing (1 after slice 3)" in out and '1 items' in out, out
    out = isoslice('train', 'mr', '--data', 'in/bad', '--prepare', 'none.pack', code=1)
    assert 'MISSING_SLICES' in out and 'NOT_FOUND' in out, out
    out = isoslice('eval', '--data', 'in/bad', '--methods', 'linear', '--out', 'out', code=1)
    assert 'MISSING_SLICES' in out and 'NOT_FOUND' in out, out


def weights_there_and_back():
    isoslice('new-weights', 'a.safetensors')
    isoslice('convert-weights', 'a.safetensors', 'a.pt')
    isoslice('convert-weights', 'a.pt', 'b.safetensors')
    isoslice('convert-weights', 'b.safetensors', 'b.pt')
    assert open('a.pt', 'rb').read() == open('b.pt', 'rb').read()
    assert 'WEIGHTS' in isoslice('convert-weights', sys.argv[0], 'c.pt', code=1)


def values_of(path):
    """The values of a safetensors file as they lie in it, and its header without metadata."""
    import json
    data = open(path, 'rb').read()
    n = struct.unpack('<Q', data[:8])[0]
    header = json.loads(data[8:8 + n])
    metadata = header.pop('__metadata__')
    return numpy.frombuffer(data[8 + n:], '<f4'), header, metadata


def mean_of_weights():
    """Of three files, the odd one twice; a file that is none of ours is named and nothing is written."""
    isoslice('new-weights', 'a.safetensors')
    values, data = values_of('a.safetensors')[0], open('a.safetensors', 'rb').read()
    other = numpy.random.default_rng(1).normal(size=values.size).astype('<f4')
    open('b.safetensors', 'wb').write(data[:-values.nbytes] + other.tobytes())
    isoslice('convert-weights', '--mean', 'm.safetensors', 'a.safetensors', 'b.safetensors', 'a.safetensors')
    (a, layout, _), (b, _, _), (m, mean_layout, metadata) = (values_of(n + '.safetensors') for n in 'abm')
    assert mean_layout == layout and metadata['mean_of'] == '3', metadata
    want = ((a.astype('f8') * 2 + b) / 3).astype('<f4')
    assert (m == want).all() and (a != b).mean() > 0.9, 'not the mean'
    open('none.safetensors', 'wb').write(b'none')
    out = isoslice('convert-weights', '--mean', 'x.safetensors', 'a.safetensors', 'none.safetensors', code=1)
    assert 'WEIGHTS' in out and 'none.safetensors' in out and not os.path.exists('x.safetensors'), out
    isoslice('convert-weights', '--mean', 'x.safetensors', 'a.safetensors', code=2)


TESTS = {'peer.commands.mean_of_weights': mean_of_weights, 'peer.commands.help_and_usage': help_and_usage, 'peer.commands.interrupt_saves': interrupt_saves,
         'peer.commands.subject_is_the_workers': subject_is_the_workers,
         'peer.commands.eval_tables': eval_writes_tables, 'peer.commands.dicom_as_nifti': dicom_as_nifti,
         'peer.commands.refused_dicom_is_named': refused_dicom_is_named, 'peer.commands.convert_weights': weights_there_and_back}

if len(sys.argv) < 2:
    print('\n'.join(TESTS))
else:
    import shutil
    for name in os.listdir('.'):
        shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)
    TESTS[sys.argv[1]]()
