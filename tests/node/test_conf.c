// SPDX-License-Identifier: Apache-2.0
#include "conf/conf.h"
#include "core/file.h"
#include "tests/support/check.h"

static struct fault_note why;
static struct conf conf;

static int load(const char *text)
{
    struct fault_note ignored;
    if (file_write_atomic("c.yaml", text, strlen(text), &ignored) != 0)
        CHECK_FAIL("cannot write c.yaml: %s", ignored.text);
    return conf_load("c.yaml", &conf, &why);
}

static void defaults_and_lists(void)
{
    CHECK_OK(load("node:\n  ae_title: NODE\nsenders:\n  - {ae_title: A, address: 10.1.0.0/16}\n"
                  "destinations:\n  - name: p\n    ae_title: PACS\n    host: pacs.example\n    port: 104\n"));
    CHECK_STR(conf.ae_title, "NODE");
    CHECK_INT(conf.port, 11112);
    CHECK_NEAR(conf.quiet_s, 60, 0);
    CHECK_INT(conf.finetune, 1);
    CHECK_INT(conf.n_senders, 1);
    CHECK_INT(conf.destinations[0].port, 104);
    CHECK(conf_find_sender(&conf, "A", 0x0a010203, NULL) == &conf.senders[0]);
    CHECK(conf_find_sender(&conf, "A", 0x0a020203, NULL) == NULL);
    CHECK(conf_find_sender(&conf, "a", 0x0a010203, NULL) == NULL);
    CHECK(conf_find_destination(&conf, "p") == &conf.destinations[0]);
    CHECK(conf_find_destination(&conf, "q") == NULL);
}

// Every error says where, which key, which value and what would be legal.
static void errors_name_place_and_range(void)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"node:\n  port: 70000\n", "c.yaml:2:9: bad 'port': '70000' is not a whole number from 0 to 65535"},
        {"node:\n  port: 1.5\n", "c.yaml:2:9: bad 'port': '1.5' is not a whole number from 0 to 65535"},
        {"node:\n  prot: 104\n", "c.yaml:2:3: unknown key 'prot' in 'node'"},
        {"nod:\n  port: 104\n", "c.yaml:1:1: unknown key 'nod' in 'top level'"},
        {"receive: {quiet_s: soon}\n", "bad 'quiet_s': 'soon' is not a number from 0.1 to 86400"},
        {"receive: {quiet_s: nan}\n", "bad 'quiet_s': 'nan' is not a number"},
        {"work: {backend: gpu}\n", "bad 'backend': 'gpu' is not one of auto|cpu|cuda|cuda16|ref"},
        {"work: {backend: cp}\n", "bad 'backend': 'cp' is not one of"},
        {"work: {finetune: maybe}\n", "bad 'finetune': 'maybe' is not true or false"},
        {"work: {spacing: 99}\n", "bad 'spacing': '99' is not isotropic, recur, or 0.05 to 20 (mm)"},
        {"work: {views: saggital}\n", "bad 'views': 'saggital' is not all, or sagittal, coronal, axial"},
        {"work: {views: 'axial,'}\n", "bad 'views': 'axial,' is not all"},
        {"work: {views: 'axial,axial'}\n", "bad 'views': 'axial,axial' is not all"},
        {"work: {views: 'axial,coronal,sagittal,axial'}\n", "is not all"},
        {"work: {views: 'all,axial'}\n", "bad 'views': 'all,axial' is not all"},
        {"derive: {series_number: 9}\n", "bad 'series_number': '9' is not a whole number from 10 to 100000"},
        {"derive: {description: '{source} {patient} NFPD'}\n",
         "bad 'description': '{source} {patient} NFPD' is not"},
        {"derive: {description: '{source} sharp'}\n",
         "is not printable ASCII with NFPD and {source}, {kind}"},
        {"node: {ae_title: 'A\\B'}\n", "bad 'ae_title': 'A\\B' is not 1 to 16 printable"},
        {"node: {ae_title: SEVENTEEN_LETTERS}\n", "is not 1 to 16 printable"},
        {"node: {port: 1, port: 2}\n", "c.yaml:1:17: key 'port' given twice in 'node'"},
        {"node: {port: 1}\nnode: {port: 2}\n", "c.yaml:2:1: key 'node' given twice"},
        {"senders: [{ae_title: A}]\n", "c.yaml:1:11: missing key 'address' in 'senders'"},
        {"senders: [{ae_title: A, address: 300.1.1.1}]\n", "'300.1.1.1' is not an IPv4 address or network"},
        {"senders: {ae_title: A}\n", "bad 'senders': must be a list"},
        {"destinations: [{name: p, ae_title: P, host: h, port: 1, format: both}]\n",
         "bad 'format': 'both' is not one of classic|enhanced"},
        {"node: [1]\n", "bad 'node': must be a mapping"},
        // found by fuzzing: printed, it read back as another text
        {"site_id: \"a\\nb\"\n", "is not a text of 1 to 64 characters, none of them a control character"},
        {"node: {bind: example}\n", "'example' is not an IPv4 address"},
        {"send: {retry_min_s: 100, retry_max_s: 10}\n",
         "bad 'retry_max_s': 10 is less than 'retry_min_s', 100"},
        {"node: {tls: {prot: 2762}}\n", "c.yaml:1:14: unknown key 'prot' in 'node.tls'"},
        {"node: {tls: 2762}\n", "bad 'node.tls': must be a mapping"},
        {"node:\n  tls: {port: 2762}\n  ae_title: N\n  tls: {port: 2763}\n",
         "key 'port' given twice in 'node.tls'"},
        {"node: {tls: {port: 2762, certificate: c, ca: a}}\n", "bad 'node.tls': TLS needs a key"},
        {"node: {tls: {port: 2762, key: k, ca: a}}\n", "bad 'node.tls': TLS needs a certificate"},
        {"node: {port: 0}\n", "neither 'port' nor 'tls.port' is a port to listen at"},
        {"node: {tls: {port: 11112, certificate: c, key: k, ca: a}}\n", "'port' is that of 'node', 11112"},
        {"senders: [{ae_title: A, address: 10.0.0.1, certificate_sha256: abc}]\n",
         "'abc' is not SHA-256 fingerprints: 64 hexadecimal digits each"},
        {"senders: [{ae_title: A, address: 10.0.0.1, certificate_name: mr}]\n",
         "'A' must show a certificate, but 'node.tls' has no port"},
        {"destinations: [{name: p, ae_title: A, host: h, port: 1, tls: true}]\n",
         "bad 'p': TLS needs a certificate"},
        {"destinations: [{name: p, ae_title: A, host: h, port: 1, tls: true, own_certificate: c, own_key: "
         "k}]\n",
         "bad 'p': TLS needs a ca"},
        {"a: [\n", "not YAML"},
        {"- 1\n", "c.yaml:1:1: bad file: must be a mapping"},
        {"", "c.yaml:1:1: the file is empty"},
        {"destinations:\n- {name: a, ae_title: A, host: h, port: 1}\n- {name: a, ae_title: B, host: h, port: "
         "1}\n",
         "name 'a' given twice"},
        {"rules: [{sender: A}]\n", "missing key 'name' in 'rules'"},
        {"rules: [{name: a, acton: ignore}]\n", "unknown key 'acton' in 'rules'"},
        {"rules: [{name: a, action: drop}]\n", "bad 'action': 'drop' is not one of process|ignore"},
        {"rules: [{name: a, min_slice_mm: -1}]\n", "bad 'min_slice_mm': '-1' is not a number from 0 to 1000"},
        {"rules: [{name: a, model: A}, {name: a, model: B}]\n", "bad 'rules': name 'a' given twice"},
        {"rules: [{name: a, action: ignore}, {name: b, model: B}]\n",
         "bad 'rules': 'b' is never looked at, 'a' before it fits all"},
        {"rules: [{name: a, destinations: 'p, q'}]\n"
         "destinations: [{name: p, ae_title: P, host: h, port: 1}]\n",
         "bad 'rules': 'a' names destination 'q', which there is not"},
        {"rules: [{name: a, destinations: 'p,'}]\n"
         "destinations: [{name: pp, ae_title: P, host: h, port: 1}]\n",
         "bad 'rules': 'a' names destination 'p', which there is not"},
        {"rules: [{name: a, action: ignore, destinations: p}]\n"
         "destinations: [{name: p, ae_title: P, host: h, port: 1}]\n",
         "bad 'rules': 'a' ignores series, but has destinations"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        why.text[0] = '\0';
        int rc = load(cases[i].text);
        if (rc != FAULT_CONFIG)
            CHECK_FAIL("case %zu gave %s", i, fault_name((enum fault)rc));
        CHECK_CONTAINS(why.text, cases[i].message);
    }
    CHECK_FAULT(conf_load("none.yaml", &conf, &why), FAULT_IO);
}

static void dump_to(const struct conf *values, const char *path, char **text)
{
    void *data;
    size_t size;
    FILE *file = fopen(path, "we");
    CHECK(file != NULL);
    conf_dump(values, file);
    fclose(file);
    CHECK_OK(file_read(path, 1 << 20, &data, &size, &why));
    *text = data;
}

static void views_are_a_set(void)
{
    static const struct {
        const char *text;
        unsigned views;
    } cases[] = {{"", 0},
                 {"all", 7},
                 {"sagittal", 1},
                 {"coronal", 2},
                 {"axial", 4},
                 {"axial,sagittal", 5},
                 {"sagittal,coronal,axial", 7}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned views = 99;
        CHECK_INT(conf_parse_views(cases[i].text, &views), 1);
        CHECK_INT(views, cases[i].views);
    }
}

static void dump_reads_back(void)
{
    static struct conf again;
    char *first, *second;
    CHECK_OK(load(
        "site_id: 'a \"b\" \\c'\nreceive: {quiet_s: 0.3}\nwork: {spacing: 0.5, weights: /x y, "
        "views: 'axial,coronal'}\n"
        "derive: {series_number: 5000, description: '{source} NFPD {method}'}\n"
        "senders: [{ae_title: 'A B', address: 10.0.0.1, certificate_name: 'CN=a,O=b'}]\n"
        "node: {tls: {port: 2762, certificate: c.pem, key: k.pem, ca: a.pem}}\n"
        "destinations: [{name: p, ae_title: P, host: h, port: 1, tls: true, ca: b.pem, format: enhanced}, "
        "{name: q, ae_title: Q, host: h, port: 2}]\n"
        "rules: [{name: knees, body_part: 'KNEE|*EXTREMITY', sender: MR?, min_slice_mm: 2.5, destinations: ' "
        "q'},"
        " {name: rest, action: ignore}]\n"));
    dump_to(&conf, "d.yaml", &first);
    CHECK_OK(conf_load("d.yaml", &again, &why));
    dump_to(&again, "e.yaml", &second);
    CHECK_STR(second, first);
    CHECK_STR(again.site_id, "a \"b\" \\c");
    CHECK_NEAR(again.quiet_s, 0.3, 0);
    CHECK_STR(again.views, "axial,coronal");
    CHECK_INT(again.series_number, 5000);
    CHECK_STR(again.description, "{source} NFPD {method}");
    CHECK_STR(again.weights, "/x y");
    CHECK_INT(again.senders[0].network, 0x0a000001);
    CHECK_STR(again.senders[0].certificate_name, "CN=a,O=b");
    CHECK_INT(again.tls_port, 2762);
    CHECK_STR(again.tls_key, "k.pem");
    CHECK_INT(again.destinations[0].tls, 1);
    CHECK_STR(again.destinations[0].format, "enhanced");
    CHECK_STR(again.destinations[1].format, "classic");
    CHECK_INT(again.n_rules, 2);
    CHECK_STR(again.rules[0].labels[LABEL_BODY_PART], "KNEE|*EXTREMITY");
    CHECK_STR(again.rules[0].sender, "MR?");
    CHECK_NEAR(again.rules[0].min_slice_mm, 2.5, 0);
    CHECK_INT(again.rules[0].to, 2);
    CHECK_INT(again.rules[1].to, 0);
    struct credentials_files files = conf_destination_files(&again, &again.destinations[0], 7);
    CHECK_STR(files.certificate, "c.pem");
    CHECK_STR(files.ca, "b.pem");
    CHECK_INT(files.user, 7);
    free(first);
    free(second);
}

// The committed sample is what the schema prints, and it is valid.
static void sample_is_the_schema(void)
{
    FILE *file = fopen("sample.yaml", "we");
    CHECK(file != NULL);
    conf_sample(file);
    fclose(file);
    void *want, *got;
    size_t want_size, got_size;
    CHECK_OK(file_read("sample.yaml", 1 << 20, &want, &want_size, &why));
    CHECK_OK(file_read(SAMPLE_FILE, 1 << 20, &got, &got_size, &why));
    CHECK_STR(got, want);
    CHECK_OK(conf_load(SAMPLE_FILE, &conf, &why));
    free(want);
    free(got);
}

static const struct test tests[] = {
    {"unit.conf.defaults_and_lists", defaults_and_lists},
    {"unit.conf.errors_name_place_and_range", errors_name_place_and_range},
    {"unit.conf.views_are_a_set", views_are_a_set},
    {"unit.conf.dump_reads_back", dump_reads_back},
    {"unit.conf.sample_is_the_schema", sample_is_the_schema},
};
TEST_MAIN(tests)
