"""The CA that dbha makes, and one's own certificates."""

from pathlib import Path

import pytest
from cryptography import x509

from dbha.cluster.certificates import Certificates
from dbha.errors import ConfigurationError
from dbha.inventory import Node

NODES = (Node("db1", "10.0.0.11", 3306, "/data"), Node("db2", "db2.example.com", 3306, "/data"))


def test_what_is_missing_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "tls", makes_missing=True)
    first, again = certificates.of(NODES), certificates.of(NODES)
    assert {name: each.certificate for name, each in first.items()} == {
        name: each.certificate for name, each in again.items()
    }
    names = sorted(path.name for path in (tmp_path / "tls").iterdir())
    assert names == ["ca.crt", "ca.key", "db1.crt", "db1.key", "db2.crt", "db2.key"]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()} == {0o600}
    assert "PRIVATE" not in repr(first)


def test_a_certificate_is_for_the_address_of_its_node_alone(tmp_path: Path) -> None:
    found = Certificates(tmp_path, makes_missing=True).of(NODES)
    ca = x509.load_pem_x509_certificate(found["db1"].ca.encode())
    for node, names in ((NODES[0], {"10.0.0.11", "db1"}), (NODES[1], {"db2.example.com", "db2"})):
        certificate = x509.load_pem_x509_certificate(found[node.name].certificate.encode())
        certificate.verify_directly_issued_by(ca)
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert {str(name.value) for name in said} == names


def test_a_node_that_is_new_gets_a_certificate_of_the_same_ca(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path, makes_missing=True)
    assert certificates.of(NODES[:1])["db1"].ca == certificates.of(NODES)["db2"].ca
    (tmp_path / "ca.key").unlink()
    (tmp_path / "db2.crt").unlink()
    with pytest.raises(ConfigurationError) as refused:
        certificates.of(NODES)
    assert refused.value.problems == ("ca.key: it is needed to make the certificate of db2",)


def test_ones_own_certificates_are_used_and_never_made(tmp_path: Path) -> None:
    own = Certificates(tmp_path, makes_missing=False)
    with pytest.raises(ConfigurationError) as refused:
        own.of(NODES)
    named = [problem.partition(":")[0] for problem in refused.value.problems]
    assert named == ["ca.crt", "db1.crt", "db1.key", "db2.crt", "db2.key"]
    Certificates(tmp_path, makes_missing=True).of(NODES)
    assert own.of(NODES).keys() == {"db1", "db2"}
    name, _ = own.first_end(NODES)
    assert name == "ca.crt"
