// SPDX-License-Identifier: Apache-2.0
// What runs in the browser: two series in Cornerstone3D, each in its acquired plane and the two planes across it, a
// crosshair at one patient position in all six. Everything reported is read back from the viewer; nothing about the
// pixels, their window, order or place is told to it but the files' bytes.
import * as core from '@cornerstonejs/core';
import * as loader from '@cornerstonejs/dicom-image-loader';

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const sub = (a, b) => a.map((x, i) => x - b[i]);
const list = (values) => Array.from(values);

// The files of a series as a viewer's user drops them: bytes without names, in the order given.
async function openSeries(name, nFiles) {
  const ids = [];
  for (let i = 0; i < nFiles; i++) {
    const blob = await (await fetch(`series/${name}/${i}`)).blob();
    const id = loader.wadouri.fileManager.add(blob);
    await loader.prefetchPart10Instance(id, await blob.arrayBuffer()); // attributes; pixels come with the volume
    ids.push(id);
  }
  const volume = await core.volumeLoader.createAndCacheVolume(`volume:${name}`, { imageIds: ids.slice() });
  await new Promise((resolve) => volume.load(resolve));
  const order = volume.imageIds.map((id) => ids.indexOf(id));
  const windows = volume.imageIds.map((id) => {
    const { windowCenter, windowWidth } = core.metaData.get('voiLutModule', id) ?? {};
    return [windowCenter, windowWidth].map((x) => (x === undefined ? null : Number([x].flat()[0])));
  });
  const voxels = Float32Array.from(volume.voxelManager.getCompleteScalarDataArray());
  const sent = await fetch(`voxels/${name}`, { method: 'POST', body: voxels.buffer });
  if (!sent.ok) throw new Error(`voxels of ${name}: ${sent.status}`);
  return { name, volume, order, windows };
}

// How a reader looks at sagittal, coronal and axial planes: towards the eye, and up.
const HABIT = [
  { normal: [1, 0, 0], up: [0, 0, 1] },
  { normal: [0, -1, 0], up: [0, 0, 1] },
  { normal: [0, 0, -1], up: [0, -1, 0] },
];

// The body's axis nearest to a vector: 0 from right to left, 1 from front to back, 2 from feet to head.
function bodyAxis(v) {
  const size = v.map(Math.abs);
  return size.indexOf(Math.max(...size));
}

// Cameras for the plane as acquired and the two across it, from the volume's axes, those turned as readers expect them.
function cameras(volume) {
  const d = list(volume.direction);
  const [row, column, normal] = [d.slice(0, 3), d.slice(3, 6), d.slice(6, 9)];
  const minus = (v) => v.map((x) => -x);
  const across = (axis, other) => {
    const habit = HABIT[bodyAxis(axis)];
    const ups = [other, minus(other), normal, minus(normal)].sort((a, b) => dot(b, habit.up) - dot(a, habit.up));
    return { viewPlaneNormal: dot(axis, habit.normal) > 0 ? axis : minus(axis), viewUp: ups[0] };
  };
  return [{ viewPlaneNormal: minus(normal), viewUp: minus(column) }, across(column, row), across(row, column)];
}

// Patient directions of a vector in DICOM's axes, the strongest first, as viewers letter their edges.
function letters(v) {
  const pairs = [['L', 'R'], ['P', 'A'], ['H', 'F']];
  return [0, 1, 2]
    .filter((i) => Math.abs(v[i]) > 0.15)
    .sort((a, b) => Math.abs(v[b]) - Math.abs(v[a]))
    .map((i) => pairs[i][v[i] > 0 ? 0 : 1])
    .join('');
}

function draw(box, viewport, at, caption) {
  const width = box.clientWidth, height = box.clientHeight;
  const [x, y] = viewport.worldToCanvas(at);
  const towards = (dx, dy) => {
    const v = sub(viewport.canvasToWorld([width / 2 + dx, height / 2 + dy]), viewport.canvasToWorld([width / 2, height / 2]));
    const length = Math.hypot(...v);
    return { letter: letters(v.map((c) => c / length)), mm: length / Math.hypot(dx, dy) };
  };
  const right = towards(50, 0), down = towards(0, 50), left = towards(-50, 0), top = towards(0, -50);
  const bar = 50 / right.mm;
  const line = (x1, y1, x2, y2, kind = '') => `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" class="${kind}"/>`;
  const text = (tx, ty, anchor, words) => `<text x="${tx}" y="${ty}" text-anchor="${anchor}">${words}</text>`;
  const gap = 7; // what the crosshair points at stays visible
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.innerHTML =
    line(0, y, x - gap, y) + line(x + gap, y, width, y) + line(x, 0, x, y - gap) + line(x, y + gap, x, height) +
    line(width - 8 - bar, height - 8, width - 8, height - 8, 'bar') + text(width - 8 - bar / 2, height - 14, 'middle', '50 mm') +
    text(6, height - 8, 'start', caption) + text(5, height / 2 + 16, 'start', left.letter) +
    text(width - 5, height / 2 + 16, 'end', right.letter) + text(width / 2 + 8, 16, 'start', top.letter) +
    text(width / 2 + 8, height - 26, 'start', down.letter);
  box.append(svg);
}

// The grey level on the screen at a canvas position, 0 to 255, before anything is drawn over it.
function greyAt(viewport, canvasAt) {
  const canvas = viewport.getCanvas();
  const scale = canvas.width / canvas.clientWidth;
  const [x, y] = canvasAt.map((c) => Math.floor(c * scale));
  return canvas.getContext('2d').getImageData(x, y, 1, 1).data[0];
}

function rendered(element) {
  return new Promise((resolve) =>
    element.addEventListener(core.Enums.Events.IMAGE_RENDERED, () => resolve(), { once: true })
  );
}

// middle: mm, in the middle of each view before it moves to the plane through at; mmHigh: the views' height.
async function show(engine, series, at, middle, mmHigh) {
  const { name, volume } = series;
  const sheet = document.getElementById('sheet');
  const head = document.createElement('div');
  const row = document.createElement('div');
  head.className = 'head';
  row.className = 'row';
  sheet.append(head, row);
  const views = [];
  for (const [i, orientation] of cameras(volume).entries()) {
    const box = document.createElement('div'), element = document.createElement('div');
    box.className = 'view';
    element.className = 'element';
    box.append(element);
    row.append(box);
    const viewportId = `${name}:${i}`;
    engine.enableElement({ viewportId, element, type: core.Enums.ViewportType.ORTHOGRAPHIC, defaultOptions: { orientation } });
    const viewport = engine.getViewport(viewportId);
    await viewport.setVolumes([{ volumeId: volume.volumeId }]);
    const { focalPoint, position } = viewport.getCamera();
    viewport.setCamera({
      parallelScale: mmHigh / 2,
      focalPoint: middle,
      position: position.map((x, axis) => x + middle[axis] - focalPoint[axis]),
    });
    viewport.jumpToWorld(at);
    const done = rendered(element);
    viewport.render();
    await done;
    const canvasAt = viewport.worldToCanvas(at);
    const camera = viewport.getCamera();
    views.push({
      canvas: list(canvasAt),
      position: list(viewport.canvasToWorld(canvasAt)),
      offPlane: dot(sub(camera.focalPoint, at), camera.viewPlaneNormal),
      normal: list(camera.viewPlaneNormal),
      up: list(camera.viewUp),
      mmPerPixel: (2 * camera.parallelScale) / box.clientHeight,
      value: viewport.getIntensityFromWorld(at),
      window: viewport.getProperties().voiRange,
      grey: greyAt(viewport, canvasAt),
    });
    draw(box, viewport, at, `${['sagittal', 'coronal', 'axial'][bodyAxis(camera.viewPlaneNormal)]}, ${i === 0 ? 'acquired' : 'cross plane'}`);
  }
  const { lower, upper } = views[0].window;
  const number = (x, digits = 1) => (Number(x.toFixed(digits)) + 0).toFixed(digits).replace('-', '\u2212');
  const { windowWidth, windowCenter } = core.utilities.windowLevel.toWindowLevel(lower, upper);
  const size = list(volume.spacing).map((s) => number(s, 2)).join(' \u00d7 ');
  head.innerHTML = `<b>${name}</b>   ${volume.dimensions[2]} planes of ${size} mm   window ${number(windowCenter, 0)} / ${number(windowWidth, 0)}` +
    `   at ${at.map((x) => number(x)).join(', ')} mm: ${number(views[0].value, 0)}`;
  return {
    dimensions: list(volume.dimensions),
    spacing: list(volume.spacing),
    origin: list(volume.origin),
    direction: list(volume.direction),
    frameOfReference: engine.getViewport(`${name}:0`).getFrameOfReferenceUID(),
    order: series.order,
    windows: series.windows,
    views,
  };
}

// series: {NAME: number of files}, the source first; at: mm in the patient's axes.
window.shoot = async ({ series, at }) => {
  core.init();
  loader.init({ maxWebWorkers: 1 });
  const opened = [];
  for (const name of Object.keys(series)) opened.push(await openSeries(name, series[name]));
  const engine = new core.RenderingEngine('engine');
  const { dimensions, spacing, imageData } = opened[0].volume;
  const middle = list(imageData.indexToWorld(list(dimensions).map((n) => (n - 1) / 2)));
  const mm = list(dimensions).map((n, i) => n * spacing[i]);
  const mmHigh = 1.02 * Math.max(0.9 * mm[0], mm[1], mm[2]);
  const report = { version: core.version, renderer: core.getRenderingCapabilities().renderer, series: {} };
  for (const one of opened) report.series[one.name] = await show(engine, one, at, middle, mmHigh);
  const { width, height } = document.getElementById('sheet').getBoundingClientRect();
  return { ...report, size: [Math.ceil(width), Math.ceil(height)] };
};
window.ready = true;
