# SPDX-License-Identifier: Apache-2.0
"""Rules of the configuration: which series are processed, and who gets what is derived."""
import pydicom

from support import *


def with_texts(files, **texts):
    for path in files:
        d = pydicom.dcmread(path)
        for name, value in texts.items():
            setattr(d, name, value)
        d.save_as(path)
    return files


def add_rules(config, *rules):
    with open(config, 'a') as f:
        f.write('rules:\n' + ''.join('  - %s\n' % json.dumps(rule) for rule in rules))


def rules_are_tried_on_files():
    """isoslice rules names the rule and what it decides, by the file's own texts, and never a patient's name."""
    with_texts(phantom('in/knee', slices=6), BodyPartExamined='KNEE', SeriesDescription='pd_tse_sag', Manufacturer='ACME',
               ManufacturerModelName='One', StationName='MR1', InstitutionName='Clinic', StudyDescription='Knee left',
               ProtocolName='knee routine', SequenceName='*tse2d', PatientName='Secret^Name', PatientID='SECRET-ID')
    with_texts(phantom('in/head', seed=2, slices=6), BodyPartExamined='HEAD', SeriesDescription='t2')
    for path in phantom('in/few', seed=3, slices=6)[4:]:
        os.remove(path)
    with open('c.yaml', 'w') as f:
        f.write('destinations:\n  - {name: pacs, ae_title: A, host: h, port: 1}\n  - {name: research, ae_title: B, host: h, port: 1}\n')

    def say(*arguments, ok=(0,)):
        return isoslice('rules', '--config', 'c.yaml', *arguments, 'in', ok=ok).stdout
    said = say()
    equal(said.count("no rule fits: processed, sent to 'pacs', 'research'\n"), 2, said)
    equal(said.count('refused, whatever the rules: NOTHING_TO_DO'), 1, said)
    check(said.endswith('2 to process, 1 not\n'), said)
    check('Secret' not in said and 'SECRET' not in said, said)
    add_rules('c.yaml', {'name': 'knees', 'body_part': 'KNEE', 'sender': 'MR1', 'destinations': 'research'},
              {'name': 'no t2', 'series_description': 't2*', 'action': 'ignore'})
    said = say()
    check("rule 'knees': processed, sent to 'research'\n" in said and "rule 'no t2': ignored\n" in said, said)
    said = say('--sender', 'MR2')
    check("no rule fits: processed, sent to 'pacs', 'research'\n" in said and 'knees' not in said, said)
    texts = {'manufacturer': 'ACME', 'model': 'One', 'station': 'MR1', 'institution': 'Clinic', 'body_part': 'KNEE',
             'study_description': 'Knee left', 'series_description': 'pd_tse_sag', 'protocol': 'knee routine', 'sequence': '*tse2d'}
    kinds = pydicom.dcmread(files_of('in/knee')[0]).ImageType
    texts['image_type'] = '\\'.join(kinds)
    for key, text in texts.items():  # each under the name that it is printed with
        check(re.search('^  %s +%s$' % (key, re.escape(text)), said, re.M), '%s: %s' % (key, said))
        open('one.yaml', 'w').close()
        add_rules('one.yaml', {'name': 'one', key: text.replace('*', '?'), 'action': 'ignore'})
        alone = isoslice('rules', '--config', 'one.yaml', 'in/knee', ok=(3,)).stdout
        check("rule 'one': ignored\n" in alone, '%s: %s' % (key, alone))
    add_rules('c2.yaml', {'name': 'nothing', 'action': 'ignore'})
    equal(isoslice('rules', '--config', 'c2.yaml', 'in', ok=(3,)).stdout.count("rule 'nothing': ignored"), 2, 'ignored')
    isoslice('rules', '--config', 'none.yaml', 'in', ok=(1,))
    isoslice('rules', '--config', 'c.yaml', ok=(2,))


def series_go_their_ways():
    """Three series from two senders: one goes to both archives, one to the second only and in its form alone, one nowhere, which
    is a refusal; when the rule is gone and a person asks again, it is derived as well."""
    node = Node(free_port(), more=[{'name': 'research', 'port': free_port(), 'format': 'enhanced'}], work__finetune=False,
                work__spacing=4)
    plain = open(node.config).read()
    add_rules(node.config, {'name': 'knees', 'body_part': 'kn*', 'destinations': 'research'},
              {'name': 'not of that one', 'sender': 'STORE*', 'action': 'ignore'})
    node.start('receive', 'work')
    try:
        sent = {'KNEE': 'SENDER', 'HEAD': 'SENDER', 'NECK': 'STORESCU'}
        uids = {}
        for seed, (part, sender) in enumerate(sent.items()):
            files = with_texts(phantom('in%d' % seed, seed=seed + 1, slices=6), BodyPartExamined=part)
            uids[part] = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
            storescu(node, files, calling=sender)

        def jobs():
            rows = {r['uid']: r for r in node.rows('job')}
            return rows if len(rows) == 3 and all(r['state'] not in ('WAITING', 'LEASED') for r in rows.values()) else None

        def targets():
            return sorted(dict(node.show(d['id']))['destination'] for d in node.rows('delivery'))
        rows = wait_for('three jobs', 120, jobs)
        job = {part: rows[uid] for part, uid in uids.items()}
        equal({part: r['state'] for part, r in job.items()}, {'KNEE': 'DONE', 'HEAD': 'DONE', 'NECK': 'REFUSED'}, 'jobs')
        check("BY_RULE: rule 'not of that one'" in job['NECK']['note'], job['NECK'])
        derived = sorted(os.listdir(node.spool + '/derived'))
        equal(targets(), ['pacs', 'research', 'research'], 'deliveries')
        equal(len(derived), 3, 'folders of derived series: %s' % derived)  # of the knee the enhanced object alone
        knee = [d for d in derived if d.startswith(job['KNEE']['id'] + '-')]
        equal(len(knee), 1, 'folders of the knee: %s' % derived)
        equal(len(files_of(node.spool + '/derived/' + knee[0])), 1, 'objects of the knee')
        node.stop()
        with open(node.config, 'w') as f:
            f.write(plain)
        node.start('receive', 'work')
        isoslice('queue', '--config', node.config, 'retry', job['NECK']['id'])
        wait_for('the ignored one DONE', 60, lambda: {r['id']: r['state'] for r in node.rows('job')}[job['NECK']['id']] == 'DONE')
        equal(targets(), ['pacs', 'pacs', 'research', 'research', 'research'], 'deliveries')
    finally:
        node.stop()


TESTS = {
    'unit.rules.rules_are_tried_on_files': rules_are_tried_on_files,
    'peer.rules.series_go_their_ways': series_go_their_ways,
}

if __name__ == '__main__':
    run_named(TESTS)
