"""The TLS parameters and their file: what is wrong is told at the start, with its place."""

from __future__ import annotations

import subprocess

import pytest

from serpy.api import ConfigError, Server
from serpy.config import Settings
from serpy.modules.tls import exports
from serpy.modules.tls.config import complete, context_of, parse


def make_pair(folder, name):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", f"/CN={name}", "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two certificates and their keys, a.pem a.key b.pem b.key, and one file that is neither."""
    path = tmp_path_factory.mktemp("tls")
    make_pair(path, "a")
    make_pair(path, "b")
    (path / "junk.pem").write_text("no certificate\n")
    return path


class Program:
    """As much of a compiled script as the module looks at."""

    def __init__(self, path):
        self.path = str(path)


def load(folder, text, **params):
    """The module after ``init`` with *text* as its configuration file."""
    (folder / "tls.cfg").write_text(text)
    server = Server(Settings())
    server.program = Program(folder / "serpy.conf")
    module = exports().module
    module.config = "tls.cfg"
    for name, value in params.items():
        setattr(module, name, value)
    module.init(server)
    return module


GOOD = """
# a comment
[server:default]
method = TLSv1.2+
private_key = a.key
certificate = "a.pem"   ; another
verify_certificate = no
ca_list = b.pem
[server:192.0.2.1:5061]
certificate = b.pem
private_key = b.key
[client:default]
verify_certificate = yes
ca_list = a.pem
"""


def test_sections_take_what_they_do_not_say_from_the_default_one(folder):
    module = load(folder, GOOD)
    by_name = {domain.name: domain.values for domain in module.domains}
    assert list(by_name) == ["server:default", "server:192.0.2.1:5061", "client:default"]
    assert by_name["server:192.0.2.1:5061"]["ca_list"] == "b.pem"
    assert by_name["server:192.0.2.1:5061"]["certificate"] == "b.pem"
    assert "certificate" not in by_name["client:default"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[server:default]\nprivate_key = a.key\n", "needs a certificate", id="no-certificate"),
        pytest.param(
            "[server:default]\ncertificate = a.pem\nprivate_key = b.key\n", "does not belong", id="key-of-another"
        ),
        pytest.param("[server:default]\ncertificate = none.pem\n", "there is no file", id="missing-file"),
        pytest.param("[server:default]\ncertificate = junk.pem\n", "cannot use", id="not-a-certificate"),
        pytest.param(
            "[server:default]\ncertificate = a.pem\nprivate_key = a.key\nca_list = junk.pem\n", "ca_list", id="bad-ca-list"
        ),
        pytest.param(
            "[server:default]\ncertificate = a.pem\nprivate_key = a.key\nmethod = TLSv9\n", "unknown method", id="method"
        ),
        pytest.param(
            "[server:default]\ncertificate = a.pem\nprivate_key = a.key\nmethod = SSLv3\n", "broken", id="old-method"
        ),
        pytest.param(
            "[server:default]\ncertificate = a.pem\nprivate_key = a.key\ncipher_list = nothing\n", "no cipher", id="ciphers"
        ),
        pytest.param(
            "[server:default]\ncertificate = a.pem\nprivate_key = a.key\nrequire_certificate = yes\n", "ca_list",
            id="require-without-ca",
        ),
        pytest.param("[server:default]\ncertficate = a.pem\n", r"tls\.cfg:2: unknown setting 'certficate'", id="unknown-key"),
        pytest.param("[servr:default]\n", r"tls\.cfg:1: bad section", id="unknown-section"),
        pytest.param("[server:1.2.3.4:99999]\n", "bad port", id="port"),
        pytest.param("certificate = a.pem\n", "before the first section", id="value-without-section"),
        pytest.param("[server:default]\nverify_certificate = maybe\n", "yes or no", id="switch"),
        pytest.param("[client:default]\n[client:default]\n", "a second section", id="twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_file_is_told_at_the_start(folder, text, message):
    with pytest.raises(ConfigError, match=message):
        load(folder, text)


def test_all_errors_of_a_file_come_at_once(folder):
    with pytest.raises(ConfigError) as caught:
        load(folder, "[server:default]\nx = 1\n[bad]\ny = 2\n")
    assert str(caught.value).count("tls.cfg:") == 3


def test_a_file_that_is_not_there_is_an_error(folder):
    server = Server(Settings())
    server.program = Program(folder / "serpy.conf")
    module = exports().module
    module.config = "other.cfg"
    with pytest.raises(ConfigError, match=r"cannot read .*other\.cfg"):
        module.init(server)


def test_a_key_with_a_password_is_refused(folder):
    subprocess.run(
        ["openssl", "ec", "-in", str(folder / "a.key"), "-aes128", "-passout", "pass:x", "-out", str(folder / "p.key")],
        check=True, capture_output=True,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="password"):
        load(folder, "[server:default]\ncertificate = a.pem\nprivate_key = p.key\n")


def test_parameters_are_the_default_of_all_sections(folder):
    domains = complete(parse("[server:[2001:db8::1]]\n", "x"), {"certificate": "a.pem", "private_key": "a.key"})
    assert [domain.name for domain in domains] == ["server:[2001:db8::1]:5061", "server:default", "client:default"]
    assert context_of(domains[0], str(folder)).get_ca_certs() == []


def test_a_bad_reload_leaves_the_old_settings(folder):
    module = load(folder, GOOD)
    (folder / "tls.cfg").write_text("[server:default]\ncertificate = none.pem\n")
    with pytest.raises(ConfigError):
        module.reload()
    assert len(module.domains) == 3
    assert module.options()["domains"] == ["server:default", "server:192.0.2.1:5061", "client:default"]
    (folder / "tls.cfg").write_text(GOOD)
    assert module.reload().startswith("Ok")


def test_there_are_no_tls_connections():
    module = exports().module
    assert module.list_connections() == []
    assert module.info()["opened_connections"] == 0


def test_selects_are_undefined_and_unknown_ones_refused():
    module = exports().module
    assert module.resolve(("peer", "verified"))(None) is None
    with pytest.raises(ValueError, match="peer"):
        module.resolve(("pear",))


def test_without_a_file_nothing_is_read():
    module = exports().module
    module.init(Server(Settings()))
    assert module.domains == []
