# SPDX-License-Identifier: Apache-2.0
"""Certificate authorities for the tests, made with the openssl program."""
import os
import subprocess
import time

CONFIG = '''
[ca]
default_ca = this
[this]
dir = %(dir)s
database = %(dir)s/index
new_certs_dir = %(dir)s
serial = %(dir)s/serial
crlnumber = %(dir)s/crlnumber
certificate = %(dir)s/ca.pem
private_key = %(dir)s/ca.key
default_md = sha256
default_crl_days = 30
policy = any
unique_subject = no
copy_extensions = copy
[any]
organizationName = optional
commonName = supplied
'''


def openssl(*args, **options):
    done = subprocess.run(['openssl', *args], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise AssertionError('openssl %s: exit %d\n%s' % (' '.join(args), done.returncode, done.stderr))
    return done.stdout


class Authority:
    """A CA in a folder of its own: `ca`, its certificate; `crl`, its revocation list."""

    def __init__(self, folder):
        self.dir = os.path.abspath(folder)
        os.makedirs(self.dir)
        self.config, self.ca, self.crl = (os.path.join(self.dir, name) for name in ('config', 'ca.pem', 'crl.pem'))
        with open(self.config, 'w') as f:
            f.write(CONFIG % {'dir': self.dir})
        for name, text in (('index', ''), ('serial', '1000\n'), ('crlnumber', '01\n')):
            with open(os.path.join(self.dir, name), 'w') as f:
                f.write(text)
        openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '3650', '-subj', '/CN=CA of ' + folder,
                '-addext', 'keyUsage=critical,keyCertSign,cRLSign', '-keyout', self.dir + '/ca.key', '-out', self.ca)
        self.list_revoked()

    def issue(self, name, subject=None, san=None, days=(-1, 365), bits=2048):
        """(certificate, key) files; days: from and until when, counted from now."""
        certificate, key = (os.path.join(self.dir, name + end) for end in ('.pem', '.key'))
        request = os.path.join(self.dir, name + '.csr')
        extension = ['-addext', 'subjectAltName=' + san] if san else []
        openssl('req', '-newkey', 'rsa:%d' % bits, '-nodes', '-subj', subject or '/CN=' + name, *extension, '-keyout', key,
                '-out', request)
        os.chmod(key, 0o600)
        first, last = (time.strftime('%Y%m%d%H%M%SZ', time.gmtime(time.time() + 86400 * d)) for d in days)
        openssl('ca', '-batch', '-notext', '-config', self.config, '-startdate', first, '-enddate', last, '-in', request,
                '-out', certificate)
        return certificate, key

    def revoke(self, certificate):
        openssl('ca', '-config', self.config, '-revoke', certificate)
        self.list_revoked()

    def list_revoked(self):
        openssl('ca', '-gencrl', '-config', self.config, '-out', self.crl)


def sha256(certificate):
    return openssl('x509', '-in', certificate, '-noout', '-fingerprint', '-sha256').split('=')[1].strip()
