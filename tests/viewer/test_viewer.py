# SPDX-License-Identifier: Apache-2.0
"""Derived series in a viewer that is not ours, beside their source: same place, same turn, same window, same values."""
from viewer import *

MODULES = os.path.join(os.path.dirname(os.getcwd()), 'npm')


def derive(source, *options, views=0):
    """The series that isoslice makes of a folder as {name: files}: derived, and its views across."""
    isoslice('run', '--threads', '1', *options, source, 'out')
    series = [files_of(d) for d in glob.glob('out/*') if os.path.isdir(d)]
    equal(len(series), 1 + views, 'derived series')
    normal = Files(files_of(source)).normal
    series.sort(key=lambda paths: -abs(Files(paths).normal @ normal))
    return dict(zip(['derived', 'view 1', 'view 2'], series))


def start_weights():
    """Weights with which the network adds nothing: linear interpolation, exactly."""
    isoslice('new-weights', 'start.safetensors')
    return ['--no-finetune', '--weights', 'start.safetensors']


def side_by_side(series, linear=False):
    """Shows the series, source first; asserts that the viewer reads each as pydicom does. Returns, per derived series, what is
    wrong with it."""
    modules = modules_folder(MODULES)
    files = {name: Files(paths) for name, paths in series.items()}
    at = files['source'].middle()
    shown, report = look(series, at.tolist(), 'viewer.png', modules)
    print('Cornerstone3D %s, %s' % (report['version'], report['renderer']))
    for name, one in shown.items():
        equal(belies(one, files[name], at), [], name)
        print('%s: %s planes, window %s, at the crosshair %g' % (name, one.dimensions, one.views[0]['window'], one.views[0]['value']))
    return {name: departs(one, shown['source'], at, linear, name.startswith('view')) for name, one in shown.items() if name != 'source'}


def phantom_linear():
    """Oblique; every voxel is the source's linear interpolation at the position that the viewer gives it, in the views too."""
    source = phantom('source', matrix=80, slices=9)
    derived = derive('source', '--views', 'all', *start_weights(), views=2)
    wrong = side_by_side({'source': source, **derived}, linear=True)
    equal(wrong, {'derived': [], 'view 1': [], 'view 2': []}, 'wrong')


def phantom_shipped():
    """With the weights as shipped."""
    source = phantom('source', matrix=96, slices=9)
    equal(side_by_side({'source': source, **derive('source', '--no-finetune')}), {'derived': []}, 'wrong')


def changed(paths, folder, change):
    """The series with change(images), sorted along the normal, applied."""
    os.makedirs(folder)
    images = [pydicom.dcmread(path) for path in Files(paths).paths]
    change(images)
    for number, image in enumerate(images):
        image.save_as('%s/%04d.dcm' % (folder, number))
    return files_of(folder)


def move(image, mm, direction):
    image.ImagePositionPatient = ['%.10g' % (float(x) + mm * d) for x, d in zip(image.ImagePositionPatient, direction)]


def reverse(images):
    for image, position in zip(images, [image.ImagePositionPatient for image in reversed(images)]):
        image.ImagePositionPatient = position


def rewindow(images):
    for image in images:
        image.WindowWidth = image.WindowWidth * 1.01


def shift_along(axis, mm):
    def change(images):
        row, column = (np.array(images[0].ImageOrientationPatient[i:i + 3], float) for i in (0, 3))
        for image in images:
            move(image, mm, [row, column, np.cross(row, column)][axis])
    return change


def turn(images):
    """Columns say that they run the other way, from the other end; the first plane's middle stays."""
    for image in images:
        column = np.array(image.ImageOrientationPatient[3:], float)
        move(image, float(image.PixelSpacing[0]) * (image.Rows - 1), column)
        image.ImageOrientationPatient = list(image.ImageOrientationPatient[:3]) + ['%.10g' % -x for x in column]


def brighten(images):
    for image in images:
        image.PixelData = (image.pixel_array * 1.25).astype(image.pixel_array.dtype).tobytes()


# What is done to a good derived series, and the word with which it must be found out.
FAULTS = {
    'reversed': (reverse, 'content'),
    'rewindowed': (rewindow, 'window'),
    'shifted in plane': (shift_along(0, 3.0), 'position'),
    'shifted through plane': (shift_along(2, -3.0), 'position'),
    'shifted by 0.7 voxels': (shift_along(1, 0.7), 'position'),
    'turned': (turn, 'orientation'),
    'brightened': (brighten, 'values'),
}


def phantom_faults():
    """Whatever is put wrong in a derived series is found, and nothing in the good one beside it."""
    source = phantom('source', matrix=80, slices=9)
    series = {'source': source, **derive('source', *start_weights())}
    for name, (change, _) in FAULTS.items():
        series[name] = changed(series['derived'], name, change)
    wrong = side_by_side(series)
    equal(wrong['derived'], [], 'wrong with the good one')
    for name, (_, word) in FAULTS.items():
        print('%s: %s' % (name, wrong[name]))
        check([text for text in wrong[name] if text.startswith(word)], '%s: not found by its %s: %s' % (name, word, wrong[name]))


def real(name):
    def test():
        crop_series(shared_series(name), 'source')
        series = {'source': files_of('source'), **derive('source', *start_weights())}
        equal(side_by_side(series), {'derived': []}, 'wrong')
    return test


TESTS = {'peer.viewer.phantom': phantom_linear, 'peer.viewer.shipped': phantom_shipped, 'peer.viewer.faults': phantom_faults,
         **{'peer.viewer.' + name: real(name) for name in ('siemens_t1_sag', 'ge_pd_oblique_uneven', 'philips_t1_phantom',
                                                           'siemens_flair_ax_jpegll')}}

if __name__ == '__main__':
    run_named(TESTS)
