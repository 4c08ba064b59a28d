# SPDX-License-Identifier: Apache-2.0
"""As test_attributes.py, for a series derived as one Enhanced MR object: every element of it by its place, and every row of
the table in dicom_map/attributes.c, judged by attributes_enhanced.txt. What is there and has no line, is a failure."""
import glob
import os
import re
import sys

import numpy as np
import pydicom

import test_attributes
from test_attributes import HERE, MR, N, NORMAL, ORIGIN, ROOT, make, references, single, stripped, table, text_of

# Sequences that are looked into; all others are judged whole.
INSIDE = {0x52009229, 0x52009230, 0x00209071, 0x00209111, 0x00209113, 0x00209116, 0x00289110, 0x00289132, 0x00289145, 0x00189114,
          0x00189119, 0x00189226, 0x00189341, 0x00089124, 0x00180012}
FRAME_GROUPS = 0x52009230


def place_of(text):
    return tuple(int(part.replace(',', ''), 16) for part in text.split('/'))


def say(place):
    return '/'.join('%04x,%04x' % (tag >> 16, tag & 0xffff) for tag in place)


def expectations():
    """{place: (name, every, none, differs)}."""
    found = {}
    for line in open(os.path.join(HERE, 'attributes_enhanced.txt')):
        if line.startswith('#') or not line.strip():
            continue
        place, name, *wanted = line.rstrip('\n').split(' ; ')
        place = place_of(place)
        if len(wanted) != 3 or place in found:
            sys.exit('attributes_enhanced.txt: ' + line)
        found[place] = (name, *wanted)
    return found


def elements(dataset, before=()):
    """{place: elements}: of sequences that are looked into the first item's, of the frames' groups every frame's."""
    found = {}
    for element in dataset:
        place = (*before, int(element.tag))
        if int(element.tag) not in INSIDE or len(element.value) == 0:
            found.setdefault(place, []).append(element)
            continue
        if len(element.value) != 1 and int(element.tag) != FRAME_GROUPS:
            raise AssertionError('%d items of %s' % (len(element.value), say(place)))
        for item in element.value:
            for inner, more in elements(item, place).items():
                found.setdefault(inner, []).extend(more)
    return found


# ---- what only a function can say; each gets the elements of its place, the object, the source and the kind of source

def referenced_series(found, made, source, kind):
    item = single(found[0].value)
    return (item.SeriesInstanceUID == ROOT + '.2' and
            references(item.ReferencedInstanceSequence) == [(MR, d.SOPInstanceUID) for d in source])


def evidence(found, made, source, kind):
    study = single(found[0].value)
    series = single(study.ReferencedSeriesSequence)
    return ((study.StudyInstanceUID, series.SeriesInstanceUID) == (ROOT + '.1', ROOT + '.2') and
            references(series.ReferencedSOPSequence) == [(MR, d.SOPInstanceUID) for d in source])


def source_images(found, made, source, kind):
    return (references(found[0].value) == [(MR, d.SOPInstanceUID) for d in source] and
            all(single(i.PurposeOfReferenceCodeSequence).CodeValue == '121322' for i in found[0].value))


def code_is(value, scheme):
    def judge(found, made, source, kind):
        item = single(found[0].value)
        return (item.CodeValue, item.CodingSchemeDesignator) == (value, scheme)
    return judge


def classic(name):
    """As test_attributes.py judges it, of something at top level."""
    return lambda found, made, source, kind: test_attributes.CHECKS[name]([made], source, kind)


def organization(found, made, source, kind):
    return re.fullmatch(r'2\.25\.[1-9][0-9]*', single(found[0].value).DimensionOrganizationUID) is not None


def index(found, made, source, kind):
    uid = made.DimensionOrganizationSequence[0].DimensionOrganizationUID
    return [(i.DimensionIndexPointer, i.FunctionalGroupPointer, i.DimensionOrganizationUID, i.DimensionDescriptionLabel)
            for i in found[0].value] == [(0x00209056, 0x00209111, uid, 'Stack ID'),
                                         (0x00209057, 0x00209111, uid, 'In-Stack Position Number')]


def in_stack(found, made, source, kind):
    return [e.value for e in found] == list(range(1, 37))


def index_values(found, made, source, kind):
    return [list(e.value) for e in found] == [[1, n] for n in range(1, 37)]


def position(found, made, source, kind):
    return len(found) == 36 and all(np.abs(np.array(e.value, float) - (ORIGIN + 0.8 * k * NORMAL)).max() < 1e-5
                                    for k, e in enumerate(found))


def frames(made):
    return made.pixel_array.reshape(36, made.Rows, made.Columns)


def smallest(found, made, source, kind):
    return found[0].VR == 'US' and found[0].value == frames(made).min()


def largest(found, made, source, kind):
    return found[0].VR == 'US' and found[0].value == frames(made).max()


def scale(found, made, source, kind):
    """What an acquired plane means is unchanged, to half a step."""
    value = made.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
    slope, intercept = float(value.RescaleSlope), float(value.RescaleIntercept)
    want = np.stack([d.pixel_array * float(d.get('RescaleSlope', 1)) + float(d.get('RescaleIntercept', 0)) for d in source])
    return np.abs(frames(made)[::5] * slope + intercept - want).max() <= (slope / 2 + 1e-6 if kind == 'differs' else 1e-9)


def pixels(found, made, source, kind):
    if kind == 'differs':  # on another scale: see scale
        return found[0].VR == 'OW' and len(found[0].value) == 36 * 2 * made.Rows * made.Columns
    return found[0].VR == 'OW' and (frames(made)[::5] == np.stack([d.pixel_array for d in source])).all()


CHECKS = {f.__name__: f for f in (referenced_series, evidence, source_images, organization, index, in_stack, index_values, position,
                                  smallest, largest, scale, pixels)}
CHECKS.update(derivation_code=code_is('113085', 'DCM'), related_series=classic('related_series'), equipment=classic('equipment'),
              version=classic('version'), no_region=code_is('123037004', 'SCT'), unknown_route=code_is('261665006', 'SCT'))


def holds(cell, place, found, made, source, kind):
    """cell: as in attributes.txt; '<GGGG,EEEE' is the first slice's value of that classic attribute."""
    if cell == 'absent':
        return found is None
    if found is None:
        return False
    if cell[0] == '@':
        return CHECKS[cell[1:]](found, made, source, kind)
    if cell == 'empty':
        return all(e.VM == 0 for e in found)
    texts = ['|'.join(str(v) for v in e.value) if e.VM > 1 else '' if e.value is None else str(e.value) for e in found]
    if cell[0] == '=':
        return all(t == cell[1:] for t in texts)
    if cell[0] == '~':
        return all(re.fullmatch(cell[1:], t) for t in texts)
    tag = place_of(cell[1:])[0] if cell[0] == '<' else place[-1]
    want = source[0][tag]
    if want.VR == 'SQ':
        return len(want.value) > 0 and all(stripped(e.value) == stripped(want.value) for e in found)
    if found[0].VR == 'FD':
        return all(e.value == float(want.value) for e in found)
    return all(t == text_of(source[0], tag) for t in texts)


def derive(kind):
    source_paths = make(kind, 'in')
    done = test_attributes.derive('format=enhanced')
    if done.returncode != 0:
        sys.exit('derive_series: %s %s' % (done.stdout, done.stderr))
    return [pydicom.dcmread(p) for p in source_paths], pydicom.dcmread(single(glob.glob('out/*')))


def judge(kind):
    source, made = derive(kind)
    wanted, found, failed = expectations(), elements(made), 0
    column = {'every': 1, 'none': 2, 'differs': 3}[kind]
    for place, row in wanted.items():
        cell = row[column]
        try:
            ok = holds(cell, place, found.get(place), made, source, kind)
        except (AttributeError, AssertionError, KeyError, ValueError) as error:
            ok, cell = False, '%s (%s)' % (cell, error)
        failed += not ok
        print('%s %s %s%s' % ('ok' if ok else 'FAILED', say(place), row[0],
                              '' if ok else ': wanted %s, got %s' % (cell, found.get(place, ['nothing'])[0])))
    for place in set(found) - set(wanted):
        failed += 1
        print('FAILED: without a line: %s %s' % (say(place), found[place][0]))
    sys.exit(1 if failed else 0)


def all_rows_are_expected():
    """Every row of the classic table has a line at top level, and no line says nothing."""
    rows, wanted = table(), expectations()
    missing = ['%08x %s' % (t, rows[t][2]) for t in rows if (t,) not in wanted]
    if missing:
        sys.exit('without an expectation: %s' % missing)
    for place, (name, *cells) in wanted.items():
        for cell in cells:
            if cell not in ('same', 'first', 'empty', 'absent') and cell[0] not in '=~@<':
                sys.exit('%s: "%s" is no expectation' % (name, cell))
            if cell[0] == '@' and cell[1:] not in CHECKS:
                sys.exit('%s: no function "%s"' % (name, cell))
        if len(place) == 1 and place[0] in rows and rows[place[0]][2] != name:
            sys.exit('%s is called %s' % (say(place), name))
        if set(cells) == {'absent'} and place[0] not in rows:
            sys.exit('%s: never there, and in no table' % say(place))
    print('%d lines' % len(wanted))


TESTS = {
    'peer.enhance.attributes.all_rows_are_expected': all_rows_are_expected,
    'peer.enhance.attributes.every_one_present': lambda: judge('every'),
    'peer.enhance.attributes.every_one_absent': lambda: judge('none'),
    'peer.enhance.attributes.every_one_differs': lambda: judge('differs'),
}

if __name__ == '__main__':
    test_attributes.run_named(TESTS)
