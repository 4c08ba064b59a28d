// SPDX-License-Identifier: Apache-2.0
// browse.js JOB.json: serves the page and the files of JOB on loopback, opens it in Chromium, which it speaks to over
// a pipe, writes the picture and the voxels that the viewer holds, and prints what the viewer says as one JSON object.
//   JOB: {chromium (program), modules (a node_modules folder), profile (empty folder), at (mm), series: {NAME: [FILE, ...]},
//         picture (file), voxels (folder)}
'use strict';
const fs = require('fs');
const http = require('http');
const path = require('path');
const { spawn } = require('child_process');

const job = JSON.parse(fs.readFileSync(process.argv[2]));

function bundle() {
  const made = require(path.join(job.modules, 'esbuild')).buildSync({
    entryPoints: {
      page: path.join(__dirname, 'page.js'),
      // The name under which the library starts its worker, beside the file that it is bundled into.
      decodeImageFrameWorker: path.join(job.modules, '@cornerstonejs/dicom-image-loader/dist/esm/decodeImageFrameWorker.js'),
    },
    bundle: true,
    format: 'esm',
    outdir: '/',
    write: false,
    logLevel: 'error',
    nodePaths: [job.modules],
    external: ['fs', 'path'],
    alias: { xmlbuilder2: path.join(__dirname, 'absent.js') }, // writes files; for Node, not for browsers
  });
  return Object.fromEntries(made.outputFiles.map((f) => [f.path, f.contents]));
}

function serve(scripts) {
  const server = http.createServer((request, response) => {
    const [, kind, name, index] = decodeURIComponent(request.url).split('/');
    const answer = (type, body) => response.writeHead(200, { 'Content-Type': type }).end(body);
    const file = kind === 'series' && Object.hasOwn(job.series, name) && job.series[name][Number(index)];
    if (request.method === 'POST' && kind === 'voxels' && Object.hasOwn(job.series, name))
      request.pipe(fs.createWriteStream(path.join(job.voxels, name + '.f32'))).on('finish', () => answer('text/plain', ''));
    else if (request.url === '/') answer('text/html', fs.readFileSync(path.join(__dirname, 'page.html')));
    else if (scripts[request.url]) answer('text/javascript', scripts[request.url]);
    else if (file) answer('application/dicom', fs.readFileSync(file));
    else response.writeHead(404).end();
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

class Chromium {
  constructor() {
    const flags = [
      '--headless=new', '--remote-debugging-pipe', `--user-data-dir=${job.profile}`, '--no-first-run', '--disable-gpu-sandbox',
      '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
      '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1', '--use-gl=angle', '--use-angle=swiftshader',
      '--enable-unsafe-swiftshader', '--force-device-scale-factor=1', '--hide-scrollbars', 'about:blank',
    ];
    if (process.getuid() === 0) flags.unshift('--no-sandbox'); // it refuses to start otherwise
    this.process = spawn(job.chromium, flags, {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'],
      env: { ...process.env, HOME: job.profile }, // where else it would leave files
    });
    this.said = '';
    this.next = 1;
    this.asked = new Map();
    this.log = [];
    this.process.stderr.on('data', (data) => (this.said = (this.said + data).slice(-4000)));
    let rest = '';
    this.process.stdio[4].on('data', (data) => {
      const messages = (rest + data).split('\0');
      rest = messages.pop();
      messages.forEach((text) => this.hear(JSON.parse(text)));
    });
    this.gone = new Promise((resolve) => {
      this.process.on('error', (error) => resolve(error.message)); // it did not start
      this.process.on('exit', (code, signal) => resolve(`exit ${code ?? signal}`));
    });
    this.gone.then((why) => {
      this.ended = `Chromium ended: ${why}\n${this.said}`;
      for (const { reject } of this.asked.values()) reject(new Error(this.ended));
    });
    this.process.stdio[3].on('error', () => {}); // said by exit
  }

  hear(message) {
    const waiting = this.asked.get(message.id);
    this.asked.delete(message.id);
    if (waiting && message.error) waiting.reject(new Error(`${waiting.method}: ${message.error.message}`));
    else if (waiting) waiting.resolve(message.result);
    else if (message.method === 'Runtime.exceptionThrown') {
      const { exception, text } = message.params.exceptionDetails;
      this.log.push(exception?.description ?? text);
    } else if (message.method === 'Runtime.consoleAPICalled' && ['error', 'warning'].includes(message.params.type))
      this.log.push(message.params.args.map((a) => a.description ?? a.value).join(' '));
  }

  ask(method, params = {}, sessionId = undefined) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      if (this.ended) return reject(new Error(this.ended));
      this.asked.set(id, { resolve, reject, method });
      this.process.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + '\0');
    });
  }

  async stop() {
    const late = setTimeout(() => this.process.kill('SIGKILL'), 3000);
    this.ask('Browser.close').catch(() => {});
    await this.gone;
    clearTimeout(late);
  }
}

async function main() {
  const scripts = bundle();
  const server = await serve(scripts);
  const chromium = new Chromium();
  try {
    const { targetId } = await chromium.ask('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await chromium.ask('Target.attachToTarget', { targetId, flatten: true });
    const ask = (method, params) => chromium.ask(method, params, sessionId);
    const evaluate = async (expression) => {
      const done = await ask('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
      if (done.exceptionDetails)
        throw new Error(`${done.exceptionDetails.exception?.description ?? done.exceptionDetails.text}\n${chromium.log.join('\n')}`);
      return done.result.value;
    };
    await ask('Runtime.enable');
    await ask('Page.enable');
    await ask('Emulation.setDeviceMetricsOverride', { width: 1000, height: 700, deviceScaleFactor: 1, mobile: false });
    await ask('Page.navigate', { url: `http://127.0.0.1:${server.address().port}/` });
    for (let i = 0; !(await evaluate('window.ready === true')); i++) {
      if (i > 300) throw new Error(`the page did not start\n${chromium.log.join('\n')}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const series = Object.fromEntries(Object.entries(job.series).map(([name, files]) => [name, files.length]));
    const report = await evaluate(`shoot(${JSON.stringify({ series, at: job.at })})`);
    const [width, height] = report.size;
    const shot = await ask('Page.captureScreenshot', {
      format: 'png', captureBeyondViewport: true, clip: { x: 0, y: 0, width, height, scale: 1 },
    });
    fs.writeFileSync(job.picture, Buffer.from(shot.data, 'base64'));
    process.stdout.write(JSON.stringify({ ...report, log: chromium.log }) + '\n');
  } finally {
    await chromium.stop();
    server.close();
    server.closeAllConnections();
  }
}

main().catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
});
