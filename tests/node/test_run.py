# SPDX-License-Identifier: Apache-2.0
"""isoslice run on files: what comes out, what is refused, exit codes. Each test in an empty directory of its own."""
import glob
import hashlib
import json
import os
import re
import shutil
import sys

import numpy
import pydicom

from support import *


def start_weights():
    isoslice('new-weights', 'start.safetensors')
    return ['--weights', 'start.safetensors']


def derived(out):
    """{folder name: data sets by position} of OUT."""
    found = {}
    for folder in sorted(glob.glob(out + '/*')):
        sets = [pydicom.dcmread(p) for p in sorted(glob.glob(folder + '/IM*.dcm'))]
        found[os.path.basename(folder)] = sets
    return found


def digest(folder):
    return {os.path.relpath(p, folder): hashlib.sha256(open(p, 'rb').read()).hexdigest() for p in files_of(folder)}


def start_weights_give_linear():
    """Exactly linear interpolation of the stored values, rounded once, to nearest, ties to even."""
    phantom('in', slices=7)
    isoslice('run', 'in', 'out', '--no-finetune', *start_weights())
    source = [pydicom.dcmread(p) for p in files_of('in')]
    orientation = [float(x) for x in source[0].ImageOrientationPatient]
    normal = numpy.cross(orientation[:3], orientation[3:])
    z = lambda d: float(numpy.dot([float(x) for x in d.ImagePositionPatient], normal))
    source.sort(key=z)
    (name, planes), = derived('out').items()
    planes.sort(key=z)
    step = float(source[0].PixelSpacing[0])
    equal(float(planes[0].SpacingBetweenSlices), step, 'spacing between the planes')
    zs = numpy.array([z(d) for d in source])
    stored = numpy.stack([d.pixel_array.astype(float) for d in source])
    for k, plane in enumerate(planes):
        at = zs[0] + k * step
        check(abs(z(plane) - at) < 1e-3, 'plane %d lies at %g, not %g' % (k, z(plane), at))
        i = min(max(int(numpy.searchsorted(zs, at + 1e-6) - 1), 0), len(zs) - 2)
        t = (at - zs[i]) / (zs[i + 1] - zs[i])
        want = stored[i] * (1 - t) + stored[i + 1] * t
        off = numpy.abs(plane.pixel_array - want)
        check(off.max() <= 0.5 + 1e-3, 'plane %d is off linear by %g' % (k, off.max()))
    last = zs[-1] - z(planes[-1])
    check(-1e-3 < last < step, 'the last plane lies %g mm before the last slice' % last)


def same_input_same_bytes():
    """Fine-tuned twice with the same seed: the same files, with another number of threads too, which once gave the same voxels
    other UIDs; with another seed: another UID."""
    phantom('in', slices=6)
    weights = start_weights()
    isoslice('run', 'in', 'a', '--steps', '3', '--seed', '5', '--threads', '1', *weights)
    shutil.copytree('in', 'renamed/deep/er')
    for n, path in enumerate(files_of('renamed')):
        os.rename(path, os.path.join(os.path.dirname(path), 'x%d' % (99 - n)))
    isoslice('run', 'renamed', 'b', '--steps', '3', '--seed', '5', '--threads', '2', *weights)
    equal(digest('b'), digest('a'), 'files of the second run')
    isoslice('run', 'in', 'c', '--steps', '3', '--seed', '6', *weights)
    check(set(derived('c')).isdisjoint(derived('a')), 'another seed has the same series UID')


def other_pixels_other_uid():
    """What changes a voxel, or where it lies, changes every UID: an archive keeps what it has under a known one."""
    paths = phantom('in', slices=8)
    options = ['--no-finetune', '--recipe', 'consistency=0.5', '--threads', '1']

    def uids(out):
        return {d.SOPInstanceUID for planes in derived(out).values() for d in planes}

    def changed(name, change, *more):
        os.makedirs(name)
        for n, path in enumerate(paths):
            d = pydicom.dcmread(path)
            change(n, d)
            d.save_as('%s/%d.dcm' % (name, n))
        isoslice('run', name, name + '-out', *options, *more)
        return uids(name + '-out')

    def thinner(n, d):
        d.SliceThickness = 3

    def moved(n, d):
        if 0 < n < len(paths) - 1:
            d.ImagePositionPatient = [float(x) + 0.03 for x in d.ImagePositionPatient]

    def off_the_grid(n, d):
        d.PixelSpacing = [1.1, 1.1]
        if 0 < n < len(paths) - 1:
            d.ImagePositionPatient = [float(x) + 0.0003 * (-1) ** n for x in d.ImagePositionPatient]

    def of_another(n, d):
        d.PatientID = 'another'

    seen = changed('same', lambda n, d: None)
    equal(changed('again', lambda n, d: None), seen, 'UIDs of the same files')
    for name, change, *more in (('thinner', thinner), ('moved', moved), ('patient', of_another), ('tiled', lambda n, d: None, '--memory', '110'),
                                ('grid', off_the_grid), ('recur', off_the_grid, '--spacing', 'recur')):
        found = changed(name, change, *more)
        check(seen.isdisjoint(found), 'UIDs are the same: ' + name)
        seen |= found


def exit_codes():
    weights = start_weights()
    isoslice('run', ok=(2,))
    isoslice('run', 'in', 'out', '--spacing', 'wide', ok=(2,))
    isoslice('run', 'in', 'out', '--no-finetune', '--steps', '3', ok=(2,))
    isoslice('run', 'nowhere', 'out', *weights, ok=(1,))
    os.makedirs('text')
    open('text/readme.txt', 'w').write('this is no DICOM file\n')
    done = isoslice('run', 'text', 'out', *weights, ok=(3,))
    check('NOT_DICOM' in done.stdout, done.stdout)
    os.makedirs('empty')
    done = isoslice('run', 'empty', 'out', *weights, ok=(3,))
    check("no file below 'empty'" in done.stdout, done.stdout)
    isoslice('run', 'text', 'out', '--weights', 'text/readme.txt', ok=(3,))
    paths = phantom('mixed', slices=6)
    shutil.copy('text/readme.txt', 'mixed/note')
    done = isoslice('run', 'mixed', 'out', '--no-finetune', *weights, '--report', 'r.json')
    report = json.load(open('r.json'))
    equal(sorted(r['verdict'] for r in report), ['NOT_DICOM', 'OK'], 'verdicts')
    isoslice('run', 'mixed', 'out', '--weights', 'text/readme.txt', ok=(4,))
    os.makedirs('ct')
    for path in paths:
        d = pydicom.dcmread(path)
        d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = '1.2.840.10008.5.1.4.1.1.2'
        d.Modality = 'CT'
        d.save_as('ct/' + os.path.basename(path))
    done = isoslice('run', 'ct', 'out', *weights, ok=(3,))
    check('NOT_MR' in done.stdout, done.stdout)


def truncated_file_is_named():
    """A file that ends early is said to be so, and its stack is not made without it in silence."""
    paths = phantom('in', slices=8)
    weights = start_weights()
    data = open(paths[3], 'rb').read()
    open(paths[3], 'wb').write(data[:len(data) // 2])
    done = isoslice('run', 'in', 'out', '--no-finetune', *weights, ok=(3,))
    check('TRUNCATED' in done.stdout and 'MISSING_SLICES' in done.stdout, done.stdout)


def report_and_preview():
    phantom('in', slices=8)
    done = isoslice('run', 'in', 'out', '--steps', '4', '--fallback', '--report', 'r.json', '--preview', 'p.png', *start_weights())
    r, = json.load(open('r.json'))
    equal(r['steps'], 4, 'steps')
    check(r['in_plane_patches']['measured'] and r['acquired_slices_left_out']['measured'], r)
    for name in ('linear', 'cubic', 'base', 'tuned'):
        check(10 < r['in_plane_patches']['psnr_db'][name] < 80, '%s: %r' % (name, r))
    check(r['delivered'] in ('linear', 'cubic', 'base', 'tuned'), r['delivered'])
    check(open('p.png', 'rb').read(8) == b'\x89PNG\r\n\x1a\n', 'p.png is no PNG')
    image, = derived('out').values()
    check('NOT FOR PRIMARY DIAGNOSIS' in image[0].ImageComments, image[0].ImageComments)
    # what was measured stands in the report, in what is said and in every derived object alike
    for name in ('worst_plane_noise', 'worst_plane_intensity'):
        check(0.3 < r[name]['ratio'] < 3 and 0 <= r[name]['plane'] < r['planes'], r)
    worst = 'Worst plane against the acquired slices: noise %.2f, intensity %.3f.' % (
        r['worst_plane_noise']['ratio'], r['worst_plane_intensity']['ratio'])
    check('%s %d voxels clamped.' % (worst, r['voxels_clamped']) in done.stdout, done.stdout)
    for d in image:
        check(worst in d.DerivationDescription and 'Voxels clamped: %d.' % r['voxels_clamped'] in d.DerivationDescription and
              d.DerivationDescription.endswith('Not for primary diagnosis.'), d.DerivationDescription)
    check(all(ord(c) < 128 for c in done.stdout), 'output is not ASCII')


def picture_that_cannot_be_written():
    # the series is derived all the same, and the exit code says that something asked for is missing
    phantom('in', slices=6)
    done = isoslice('run', 'in', 'out', '--no-finetune', '--report', 'r.json', '--preview', 'nowhere/p.png', *start_weights(), ok=(1,))
    check('1 derived, 0 refused, 0 failed' in done.stdout, done.stdout)
    check('derived, but no picture of it: IO: ' in done.stderr and 'nowhere/p.png' in done.stderr, done.stderr)
    r, = json.load(open('r.json'))
    check(r['planes'] > 6 and 'fault' not in r, r)
    equal([len(images) for images in derived('out').values()], [r['planes']], 'series on disk')


def corrects_only_when_asked():
    """A network that is asked for as it is gets no correction towards the slices, unless that is asked for, too."""
    phantom('in', slices=8)
    weights = start_weights()
    for more, least, most, said in (
            (['--no-finetune'], 0, 0, True), (['--steps', '2'], 0, 0, True),
            (['--no-finetune', '--recipe', 'consistency=0.4'], 0.1, 0.4, True), (['--no-finetune', '--recipe', 'consistency=0.5'], 0.1, 0.5, False)):
        isoslice('run', 'in', 'out', *weights, *more, '--report', 'r.json')
        r, = json.load(open('r.json'))
        check(least <= r['consistency'] <= most, '%r: %r' % (more, r['consistency']))
        equal('consistency=' in r['parameters'], said, '%r: %s' % (more, r['parameters']))
        shutil.rmtree('out')


def voxels_of(images, planes):
    """{voxel of the planes' grid: stored value}, placed by the headers alone."""
    axes = numpy.array(planes[0].ImageOrientationPatient, float)
    spacing = [float(v) for v in planes[0].PixelSpacing]
    origin, last = (numpy.array(planes[i].ImagePositionPatient, float) for i in (0, -1))
    grid = numpy.linalg.inv([spacing[1] * axes[:3], spacing[0] * axes[3:], (last - origin) / (len(planes) - 1)])
    found = {}
    for d in images:
        axes = numpy.array(d.ImageOrientationPatient, float)
        rows, columns = numpy.indices(d.pixel_array.shape)
        spacing = [float(v) for v in d.PixelSpacing]
        places = (numpy.array(d.ImagePositionPatient, float) + columns[..., None] * spacing[1] * axes[:3] +
                  rows[..., None] * spacing[0] * axes[3:])
        index = (places.reshape(-1, 3) - origin) @ grid
        check(numpy.abs(index - numpy.rint(index)).max() < 1e-4, 'a pixel lies between the voxels')
        found.update(zip(map(tuple, numpy.rint(index).astype(int)), d.pixel_array.reshape(-1)))
    return found


def views():
    """Further series of the same voxels, and the first one as it is without them."""
    phantom('in', slices=7)
    weights = start_weights()
    isoslice('run', 'in', 'alone', '--no-finetune', *weights)
    done = isoslice('run', 'in', 'out', '--no-finetune', '--views', 'all', '--report', 'r.json', *weights)
    alone = digest('alone')
    report, = json.load(open('r.json'))
    series = derived('out')
    equal(len(series), 3, 'series')
    planes = series.pop(report['derived_series_uid'])
    equal({k: v for k, v in digest('out').items() if k.startswith(report['derived_series_uid'])}, alone,
          'the planes, with views and without')
    want = voxels_of(planes, planes)
    check(len(want) == len(planes) * planes[0].pixel_array.size, 'places of the planes are not unique')
    equal({v['derived_series_uid'] for v in report['views']}, set(series), 'series of the report')
    for view in report['views']:
        images = series[view['derived_series_uid']]
        equal(len(images), view['images'], 'images')
        check(view['derived_series_uid'] in done.stdout and view['plane'] in images[0].DerivationDescription, done.stdout)
        got = voxels_of(images, planes)
        check(got == want, 'the %s view has other voxels' % view['plane'])
    kinds = [v['plane'] for v in report['views']]
    check(len(set(kinds)) == 2 and set(kinds) < {'sagittal', 'coronal', 'axial'}, kinds)
    check(not glob.glob('out/.isoslice*'), 'something is left behind')
    # one that is asked for by name; the stack's own plane is there anyway
    own = ({'sagittal', 'coronal', 'axial'} - set(kinds)).pop()
    isoslice('run', 'in', 'one', '--no-finetune', '--views', '%s,%s' % (own, kinds[0]), *weights)
    equal(set(derived('one')), {report['derived_series_uid'], report['views'][0]['derived_series_uid']}, 'series')
    isoslice('run', 'in', 'bad', '--views', 'frontal', ok=(2,))


def formats():
    """One Enhanced MR object for each series, as a series of its own; the same bytes every time."""
    phantom('in', slices=7)
    weights = start_weights()
    isoslice('run', 'in', 'classic', '--no-finetune', '--format', 'classic', '--views', 'all', *weights)
    isoslice('run', 'in', 'plain', '--no-finetune', '--views', 'all', *weights)
    equal(digest('classic'), digest('plain'), 'classic is what comes unasked')
    done = isoslice('run', 'in', 'out', '--no-finetune', '--format', 'enhanced', '--views', 'all', '--report', 'r.json', *weights)
    isoslice('run', 'in', 'again', '--no-finetune', '--format', 'enhanced', '--views', 'all', *weights)
    equal(digest('out'), digest('again'), 'bytes')
    equal(sorted({os.path.basename(p) for p in files_of('out')}), ['IM0001.dcm'], 'files')
    report, = json.load(open('r.json'))
    equal([report['format']] + [v['format'] for v in report['views']], ['enhanced'] * 3, 'formats of the report')
    made, classic = derived('out'), derived('classic')
    equal(set(made), {v['derived_series_uid'] for v in [report, *report['views']]}, 'series of the report')
    check(not set(made) & set(classic) and len(made) == len(classic) == 3, 'series %s and %s' % (set(made), set(classic)))
    check(report['derived_series_uid'] in done.stdout, done.stdout)
    check_enhanced = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'dicom', 'check_enhanced.py')
    for uid, images in classic.items():
        same, = [u for u, (d,) in made.items() if d.SeriesDescription == images[0].SeriesDescription and
                 int(d.SeriesNumber) == int(images[0].SeriesNumber) + 40000]
        subprocess.run(['/usr/bin/python3', '-W', 'ignore', check_enhanced, 'in', 'classic/' + uid, 'out/' + same], check=True)
    isoslice('run', 'in', 'bad', '--format', 'legacy', ok=(2,))
    # routed back, it is known
    done = isoslice('run', 'out', 'bad', *weights, ok=(3,))
    check('OWN_OUTPUT' in done.stdout, done.stdout)


def names_from_the_configuration():
    """Series Number, Series Description and Station Name as configured; other bytes have another UID."""
    phantom('in', slices=6)
    weights = start_weights()
    with open('node.yaml', 'w') as f:
        f.write("derive: {series_number: 5000, description: '{source} {kind}{view} NFPD'}\nwork: {views: all}\n")
    isoslice('run', 'in', 'out', '--no-finetune', *weights)
    isoslice('run', 'in', 'named', '--no-finetune', '--config', 'node.yaml', *weights)
    with open('station.yaml', 'w') as f:
        f.write('node: {station_name: MR7}\n')
    isoslice('run', 'in', 'station', '--no-finetune', '--config', 'station.yaml', *weights)
    (uid_there, there), = derived('station').items()
    equal(there[0].StationName, 'MR7', 'Station Name')
    check(uid_there not in derived('out'), 'another Station Name has the same series UID')
    number = int(pydicom.dcmread(files_of('in')[0]).SeriesNumber)
    source = str(pydicom.dcmread(files_of('in')[0]).SeriesDescription)
    (uid, images), = derived('out').items()
    named = derived('named')
    check(uid not in named and len(named) == 3, 'series %s and %s' % (uid, sorted(named)))
    found = {int(images[0].SeriesNumber): str(images[0].SeriesDescription) for images in named.values()}
    check(found.pop(5000 + number) == source + ' SR-AI NFPD', found)
    names = {50000: 'SAG', 100000: 'COR', 150000: 'AX'}
    check(len(found) == 2 and all(text == '%s SR-AI %s NFPD' % (source, names[n - 5000 - number]) for n, text in found.items()),
          found)


def spacing_options():
    phantom('in', slices=6)
    weights = start_weights()
    isoslice('run', 'in', 'mm', '--no-finetune', '--spacing', '2.5', *weights)
    planes, = derived('mm').values()
    equal(float(planes[0].SliceThickness), 2.5, 'thickness')
    isoslice('run', 'in', 'recur', '--no-finetune', '--spacing', 'recur', *weights)
    planes, = derived('recur').values()
    source = [pydicom.dcmread(p) for p in files_of('in')]
    positions = {tuple(round(float(x), 3) for x in d.ImagePositionPatient) for d in planes}
    for d in source:
        check(tuple(round(float(x), 3) for x in d.ImagePositionPatient) in positions, 'an acquired plane does not recur')


def card_names_the_weights():
    """The model card speaks of the very file that is shipped."""
    models = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'models')
    data = open(models + '/weights.safetensors', 'rb').read()
    check(hashlib.sha256(data).hexdigest() in open(models + '/MODEL_CARD.md').read(), 'the card has another SHA-256')
    n = struct.unpack('<Q', data[:8])[0]
    metadata = json.loads(data[8:8 + n])['__metadata__']
    equal(sorted(metadata), ['architecture', 'training', 'version'], 'metadata')


def card_gives_the_numbers():
    """The shipped file reproduces, on a volume that it has not seen, the PSNR that the card states."""
    name = 'ljms19_flair'
    volume = os.path.join(SHARED, 'data', 'mr', 'val', name + '.nii.gz')
    if not os.path.exists(volume):
        skip('no shared data')
    models = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'models')
    row = re.search(r'^\| %s \|(.*)\|$' % name, open(models + '/MODEL_CARD.md').read(), re.M)
    stated = [float(cell.split(',')[0]) for cell in row.group(1).split('|')]
    isoslice('eval', '--data', volume, '--crop', '20:148,20:148,20:148', '--methods', 'linear,cubic,base', '--weights',
             models + '/weights.safetensors', '--out', 'eval')
    got = [case['psnr'] for case in json.load(open('eval/report.json'))['cases']]
    for method, want, psnr in zip(('linear', 'cubic', 'base'), stated, got):
        check(abs(psnr - want) <= 0.0051, '%s: %.4f dB, the card says %.2f' % (method, psnr, want))  # two decimals


def help_everywhere():
    for command in ('run', 'inspect', 'node', 'queue', 'echo', 'check-config', 'phantom', 'new-weights', 'train', 'eval'):
        check('usage: isoslice ' + command in isoslice(command, '--help').stdout, command)
        check(command in isoslice('--help').stdout, command)
    check(isoslice('--version').stdout.startswith('isoslice '), 'version')
    for name in ('isoslice-receive', 'isoslice-work', 'isoslice-read', 'isoslice-send'):
        for option, text in (('--help', 'usage: ' + name), ('--version', name + ' ')):
            done = subprocess.run([program(name), option], capture_output=True, text=True)
            check(done.returncode == 0 and text in done.stdout, '%s %s: %s' % (name, option, done))
        equal(subprocess.run([program(name)], capture_output=True).returncode, 2, name + ' without arguments')
    isoslice('no-such-command', ok=(2,))


def check_config_asks_the_worker():
    """What conf itself cannot judge but the worker refuses to start with: weights that are not there (once valid), and a recipe's
    mistake, with its key and value."""
    with open('good.safetensors', 'w') as f:
        f.write('there')
    for setting, words in (('weights: nowhere.safetensors', ["bad 'weights' in 'work'", 'nowhere.safetensors']),
                           ('recipe: "part=lora:foo=1"', ["bad 'recipe' in 'work'", 'part=lora:foo=1', "no 'foo'"])):
        with open('bad.yaml', 'w') as f:
            f.write('work: {%s}\n' % setting)
        said = isoslice('check-config', 'bad.yaml', ok=(2,)).stderr
        check(all(word in said for word in words), said)
    with open('good.yaml', 'w') as f:
        f.write('work: {weights: good.safetensors, recipe: "part=lora"}\n')
    check('valid' in isoslice('check-config', 'good.yaml').stdout, 'a good one')


run_named({
    'unit.check_config.asks_the_worker': check_config_asks_the_worker,
    'unit.run.start_weights_give_linear': start_weights_give_linear,
    'unit.run.same_input_same_bytes': same_input_same_bytes,
    'unit.run.other_pixels_other_uid': other_pixels_other_uid,
    'unit.run.exit_codes': exit_codes,
    'unit.run.truncated_file_is_named': truncated_file_is_named,
    'unit.run.views': views,
    'peer.run.formats': formats,
    'unit.run.names_from_the_configuration': names_from_the_configuration,
    'unit.run.report_and_preview': report_and_preview,
    'unit.run.picture_that_cannot_be_written': picture_that_cannot_be_written,
    'unit.run.corrects_only_when_asked': corrects_only_when_asked,
    'unit.run.spacing_options': spacing_options,
    'unit.run.help_everywhere': help_everywhere,
    'unit.models.card_names_the_weights': card_names_the_weights,
    'peer.models.card_gives_the_numbers': card_gives_the_numbers,
})
