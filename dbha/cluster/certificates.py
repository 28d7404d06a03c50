"""Certificates of the nodes: those that dbha makes with a CA of its own, or one's own, in one directory.

`ca.crt`, and for each node `NODE.crt` and `NODE.key`; `ca.key` where dbha is the CA. What is there is used as it is;
what is missing is made, if dbha may. The CA's key never leaves the controller, a node's key goes to that node alone.
"""

import datetime
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dbha.errors import ConfigurationError
from dbha.inventory import Node
from dbha.secrets import Secret

_VALID_DAYS = 3650
_CLOCK_SKEW = datetime.timedelta(days=1)  # of hosts whose clock is behind
CA_FILE = "ca.crt"
_CA_KEY_FILE = "ca.key"
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """What goes to one node, as PEM."""

    ca: str
    certificate: str
    key: Secret


@dataclass(frozen=True, slots=True)
class Certificates:
    """The directory of certificates; `makes_missing`: dbha is the CA."""

    directory: Path
    makes_missing: bool

    @property
    def ca_file(self) -> Path:
        """The CA's certificate, which every node's is checked with."""
        return self.directory / CA_FILE

    def of(self, nodes: Sequence[Node]) -> Mapping[str, NodeFiles]:
        """Return what goes to each node, by name; makes what is missing.

        Raises ConfigurationError that names every missing file, where dbha is not the CA.
        """
        if self.makes_missing:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_missing(nodes)
        self._require(nodes)
        ca = self.ca_file.read_text(encoding="ascii")
        return {
            node.name: NodeFiles(
                ca,
                self._path(node, "crt").read_text(encoding="ascii"),
                Secret(self._path(node, "key").read_text(encoding="ascii")),
            )
            for node in nodes
        }

    def first_end(self, nodes: Sequence[Node]) -> tuple[str, datetime.datetime]:
        """Return the file whose certificate ends first, and when. Raises ConfigurationError for missing files."""
        self._require(nodes)
        paths = [self.ca_file, *(self._path(node, "crt") for node in nodes)]
        ends = {
            path.name: x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc for path in paths
        }
        name = min(ends, key=lambda each: ends[each])
        return name, ends[name]

    def _require(self, nodes: Sequence[Node]) -> None:
        wanted = [self.ca_file, *(self._path(node, kind) for node in nodes for kind in ("crt", "key"))]
        if missing := [path for path in wanted if not path.exists()]:
            raise ConfigurationError(
                str(self.directory), [f"{path.name}: there is no such file" for path in missing]
            )

    def _path(self, node: Node, kind: str) -> Path:
        return self.directory / f"{node.name}.{kind}"

    def _make_missing(self, nodes: Sequence[Node]) -> None:
        if not self.ca_file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            _write(self.directory / _CA_KEY_FILE, _key_bytes(key))
            _write(self.ca_file, _ca_certificate(key).public_bytes(_PEM))
        for node in nodes:
            if not self._path(node, "crt").exists():
                key = ec.generate_private_key(ec.SECP256R1())
                _write(self._path(node, "key"), _key_bytes(key))
                _write(self._path(node, "crt"), self._signed(node, key).public_bytes(_PEM))

    def _signed(self, node: Node, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        try:
            ca_key = serialization.load_pem_private_key((self.directory / _CA_KEY_FILE).read_bytes(), None)
        except FileNotFoundError as error:
            words = f"{_CA_KEY_FILE}: it is needed to make the certificate of {node.name}"
            raise ConfigurationError(str(self.directory), [words]) from error
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        ca = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        usages = [
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        ]  # nodes are both to each other
        return (
            _begun(node.name, ca.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(_names(node)), critical=False)
            .sign(ca_key, hashes.SHA256())
        )


def _names(node: Node) -> list[x509.GeneralName]:
    try:
        return [x509.IPAddress(ipaddress.ip_address(node.address)), x509.DNSName(node.name)]
    except ValueError:
        return [x509.DNSName(name) for name in dict.fromkeys((node.address, node.name))]


def _ca_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return (
        _begun("internal CA of dbha", None, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def _begun(name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
    )


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, content: bytes) -> None:
    """Write a file that is there complete or not at all, and only its owner's to read."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
