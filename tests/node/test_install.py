# SPDX-License-Identifier: Apache-2.0
"""cmake --install: what units, commands and a later installation take for granted about each other."""
from support import *


def install(*options, **environment):
    done = subprocess.run(['cmake', '--install', BIN, *options], capture_output=True, text=True,
                          env={**os.environ, **environment})
    check(done.returncode == 0, done.stdout + done.stderr)


def text(path):
    with open(path) as f:
        return f.read()


def keeps_the_configuration():
    """A site brings its node up to date: its own senders and destinations stand. Once the sample was written over them, and the
    node came up listening to nobody and sending nowhere. Commands look where the units do; once they looked in /etc whatever
    the prefix, and so found nothing after the README's own installation."""
    root = os.path.abspath('root')
    install(DESTDIR=root)
    units = glob.glob(root + '/**/isoslice-*.service', recursive=True)
    equal(len(units), 3, 'units')
    for unit in units:
        started, config = re.search(r'^ExecStart=(\S+) --config (\S+)$', text(unit), re.M).groups()
        check(os.access(root + started, os.X_OK), '%s: no %s' % (unit, started))
        equal(text(root + config), isoslice('check-config', '--sample').stdout, 'the configuration of a first installation')
        for command in ('queue', 'echo'):
            check('default ' + config in isoslice(command, '--help').stdout, '%s does not look for %s' % (command, config))
    with open(root + config, 'w') as f:
        f.write('site_id: ours\n')
    install(DESTDIR=root)
    equal(text(root + config), 'site_id: ours\n', 'the configuration after a second installation')


def units_stop_by_their_main_process():
    """Daemons with children end them in their order, with a grace. Once systemd signalled every process of the receiver: an
    association died at once at every stop, was logged as crashed, and the indexer did not see the last that had come."""
    root = os.path.abspath('root')
    install(DESTDIR=root)
    for unit in glob.glob(root + '/**/isoslice-*.service', recursive=True):
        service = text(unit).split('[Service]')[1]
        equal(re.findall(r'^KillMode=(.*)$', service, re.M), ['mixed'], 'KillMode of ' + unit)
        check('time-sync.target' in re.search(r'^After=(.*)$', text(unit), re.M).group(1).split(), 'starts before the clock is set')
        equal(re.findall(r'^TimeoutStopSec=(.*)$', service, re.M), ['60'], 'TimeoutStopSec of ' + unit)  # their graces are 10 s


def help_says_who_reads_again():
    """SIGHUP is for who has certificates, in --help as in the units. Once the worker, which has none, said so too."""
    root = os.path.abspath('root')
    install(DESTDIR=root)
    said = {}
    for unit in glob.glob(root + '/**/isoslice-*.service', recursive=True):
        name = os.path.basename(unit)[:-len('.service')]
        said[name] = 'SIGHUP' in run(program(name), '--help')
        equal(said[name], 'ExecReload=' in text(unit), 'SIGHUP in the --help of ' + name)
    equal(said, {'isoslice-receive': True, 'isoslice-work': False, 'isoslice-send': True}, 'SIGHUP in --help')
    check('SIGHUP' in run(program('isoslice'), 'node', '--help'), 'isoslice node --help')


def goes_below_another_prefix():
    """cmake --install --prefix: whole, and nothing outside."""
    install('--prefix', 'elsewhere')
    check(os.path.exists('elsewhere/etc/isoslice/isoslice.yaml'), 'no configuration')
    program = os.path.abspath('elsewhere/bin/isoslice')
    phantom('in', slices=6)
    done = subprocess.run([program, 'run', '--no-finetune', 'in', 'out'], capture_output=True, text=True)
    check(done.returncode == 0, done.stdout + done.stderr)  # finds its weights and its reader


run_named({
    'unit.install.keeps_the_configuration': keeps_the_configuration,
    'unit.install.units_stop_by_their_main_process': units_stop_by_their_main_process,
    'unit.install.help_says_who_reads_again': help_says_who_reads_again,
    'unit.install.goes_below_another_prefix': goes_below_another_prefix,
})
