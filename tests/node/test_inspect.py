# SPDX-License-Identifier: Apache-2.0
"""isoslice inspect: what it says of real series and of stacks of our own. Each test in an empty directory of its own."""
import json
import os
import random
import shutil

import pydicom

from support import *

# Folder of the shared data -> verdicts that its README allows. Derived: (columns, rows, slices, pixel mm, distance mm).
EXPECTED = {
    'siemens_t1_sag_jpegll': (512, 512, 19, 0.449, 6.5), 'siemens_t1_ax_jpegll': (384, 512, 23, 0.449, 6.5),
    'siemens_t2_ax_jpegll': (224, 256, 23, 0.898, 6.5), 'siemens_flair_ax_jpegll': (224, 256, 23, 0.898, 6.5),
    'siemens_t1_sag': (256, 256, 35, 1.016, 4.8), 'philips_t1_phantom': (256, 256, 24, 1.0, 5.5),
    'ge_pd_oblique_uneven': (256, 256, 20, 0.859, 6.972),
    'philips_t1_phantom_enhanced': (256, 256, 24, 1.0, 5.5), 'siemens_localizer': {'LOCALIZER'}, 'siemens_mosaic': {'MOSAIC'},
    'uih_vframe': {'MOSAIC'}, 'siemens_diffusion_trace': {'DIFFUSION'}, 'canon_dti_80': {'DUPLICATE_POSITIONS', 'DIFFUSION'},
    'hitachi_shoulder_4slices_1': {'NO_FRAME_OF_REFERENCE'}, 'hitachi_shoulder_4slices_2': {'NO_FRAME_OF_REFERENCE'},
    'philips_two_orientations_1': {'NO_FRAME_OF_REFERENCE'}, 'philips_two_orientations_2': {'NO_FRAME_OF_REFERENCE'},
    'enhanced_philips': {'NOTHING_TO_DO', 'DUPLICATE_POSITIONS'}, 'enhanced_siemens': {'NOTHING_TO_DO', 'DUPLICATE_POSITIONS'},
}


def inspect(*args, ok=(0, 3)):
    return json.loads(isoslice('inspect', '--json', *args, ok=ok).stdout)


def expected_of_real_series():
    """Every real series gets the verdict that the data's README expects, in JSON and in the table."""
    shared_series('siemens_t1_sag')
    found = set(os.listdir(os.path.join(SHARED, 'data', 'dicom')))
    equal(found, set(EXPECTED), 'folders of real series')
    for name, want in EXPECTED.items():
        folder = shared_series(name)
        items = inspect(folder, ok=(0,) if isinstance(want, tuple) else (3,))
        table = isoslice('inspect', folder, ok=(0, 3)).stdout
        if isinstance(want, set):
            check({i['verdict'] for i in items} <= want, '%s: %s' % (name, [i['verdict'] for i in items]))
            check(all(i['class'] == 'refusal' and any(c.isdigit() for c in i['reason']) for i in items), '%s: no numbers' % items)
            check(all(i['verdict'] + ': ' + i['reason'] in table for i in items), table)
            continue
        i, = items
        equal(i['verdict'], 'OK', name)
        equal((i['columns'], i['rows'], i['slices'], round(i['pixel_mm'][0], 3), round(i['slice_mm'], 3)), want, name)
        span = i['positions_mm'][-1] - i['positions_mm'][0]
        equal(i['planes'], int(span / i['step_mm'] + 1e-6) + 1, 'planes of ' + name)
        check('%d planes' % i['planes'] in table, table)
    uneven, = inspect(shared_series('ge_pd_oblique_uneven'))
    check('uneven' in uneven['warnings'] and 'Spacing Between Slices' in uneven['warnings'], uneven['warnings'])


def agrees_with_run():
    """What inspect foresees is what run does: planes, spacing, refusals, whatever the names and the order of the files."""
    good = phantom('in/good', slices=7)
    os.makedirs('in/holed')
    for path in phantom('other', seed=2, slices=9):
        if not path.endswith('4.dcm'):
            shutil.copy(path, 'in/holed')
    open('in/note.txt', 'w').write('not DICOM\n')
    before = inspect('in')
    isoslice('new-weights', 'start.safetensors')
    isoslice('run', '--no-finetune', '--weights', 'start.safetensors', '--report', 'r.json', 'in', 'out', ok=(0,))
    keys = ('series_uid', 'verdict', 'reason', 'planes', 'step_mm')
    did = [{k: i[k] for k in keys if k in i} for i in json.load(open('r.json'))]
    said = [{k: i[k] for k in keys if k in i and not (k == 'reason' and i['verdict'] == 'OK')} for i in before]
    equal([{k: v for k, v in i.items() if not (k == 'reason' and i['verdict'] == 'OK')} for i in did], said, 'what run did')
    equal(sorted(i['verdict'] for i in before), ['MISSING_SLICES', 'NOT_DICOM', 'OK'], 'verdicts')
    names = random.Random(1).sample(range(1000), len(good))
    for path, n in zip(good, names):
        os.rename(path, 'in/good/%d' % n)
    equal(inspect('in'), before, 'after the files were renamed')


def spacing_and_exit_codes():
    phantom('in', slices=6)
    planes = {s: inspect('--spacing', s, 'in')[0] for s in ('isotropic', 'recur', '2.5')}
    equal(planes['2.5']['step_mm'], 2.5, 'step')
    check(planes['recur']['planes'] > planes['2.5']['planes'], planes)
    isoslice('inspect', ok=(2,))
    isoslice('inspect', '--spacing', 'wide', 'in', ok=(2,))
    isoslice('inspect', 'nowhere', ok=(1,))
    os.makedirs('empty')
    equal(inspect('empty', ok=(3,)), [], 'of nothing')
    phantom('long', matrix=32, slices=60)
    tiny = inspect('--spacing', '0.06', 'long', ok=(3,))[0]
    equal((tiny['verdict'], tiny['class']), ('TOO_MANY_PLANES', 'refusal'), 'a spacing of 0.06 mm over 60 slices')
    shutil.move('in', 'both/near')
    shutil.move('long', 'both/far')
    for path in files_of('both/far'):  # twice as far apart
        d = pydicom.dcmread(path)
        d.ImagePositionPatient = [2 * x for x in d.ImagePositionPatient]
        d.SliceThickness, d.SpacingBetweenSlices = 10, 11
        d.save_as(path)
    # once the nearer stack was a usage error that hid all others
    both = inspect('--spacing', '8', 'both', ok=(0,))
    equal(sorted(i['verdict'] for i in both), ['NOTHING_TO_DO', 'OK'], 'a spacing of 8 mm of slices 5.5 and 11 mm apart')


def says_no_names():
    """No patient's name, ID or birth date, in either form."""
    for path in phantom('in', slices=6):
        d = pydicom.dcmread(path)
        d.PatientName, d.PatientID, d.PatientBirthDate = 'SECRET^NAME', 'SECRETID', '19010203'
        d.save_as(path)
    text = isoslice('inspect', 'in').stdout + isoslice('inspect', '--json', 'in').stdout
    for secret in ('SECRET', '19010203'):
        check(secret not in text, secret)


run_named({
    'peer.inspect.expected_of_real_series': expected_of_real_series,
    'unit.inspect.agrees_with_run': agrees_with_run,
    'unit.inspect.spacing_and_exit_codes': spacing_and_exit_codes,
    'unit.inspect.says_no_names': says_no_names,
})
