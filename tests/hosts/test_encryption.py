"""TLS by the CA that dbha made: for clients, between the nodes, and for a state transfer."""

from pathlib import Path

import pytest

from dbha.cluster.certificates import Certificates
from dbha.cluster.handle import Cluster
from dbha.database import NodeUnreachableError
from tests.hosts.ground import run
from tests.hosts.site import HostedCluster

pytestmark = [pytest.mark.real, pytest.mark.hosts]


def test_dbha_speaks_tls_to_every_node_and_only_to_the_right_one(
    hosted: HostedCluster, tmp_path: Path
) -> None:
    for node in hosted.cluster.nodes:
        with hosted.cluster.session(node) as session:
            assert session.rows("SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0]["Value"]
    other = Certificates(tmp_path, makes_missing=True)
    other.of(hosted.cluster.nodes)
    stranger = Cluster("lab", hosted.cluster.nodes, hosted.cluster.account, tls_ca_file=other.ca_file)
    with (
        pytest.raises(NodeUnreachableError, match="certificate verify failed"),
        stranger.session(stranger.nodes[0]),
    ):
        pass
    said = hosted.run("sql", "-e", "SHOW SESSION STATUS LIKE 'Ssl_cipher'").stdout
    assert said.split()[-1] not in ("Ssl_cipher", "Value")


@pytest.mark.parametrize("port", [3306, 4567])
def test_a_node_shows_its_own_certificate(hosted: HostedCluster, port: int) -> None:
    machine = hosted.lab["node2"]
    protocol = ("-starttls", "mysql") if port == 3306 else ()
    said = run(
        "openssl", "s_client", "-connect", f"{machine.address}:{port}", *protocol, "-verify_return_error",
        "-CAfile", str(hosted.certificates.ca_file), "-cert", str(hosted.directory / "tls/node1.crt"),
        "-key", str(hosted.directory / "tls/node1.key"), stdin=b"",
    ).decode(errors="replace")  # fmt: skip
    # In it may be what the server said meanwhile, in its own protocol.
    assert "subject=CN = node2" in said and "Verify return code: 0 (ok)" in said


def test_a_node_without_data_gets_all_of_it_encrypted(hosted: HostedCluster) -> None:
    machine = hosted.lab["node3"]
    line = "systemctl stop mariadb && find /var/lib/mysql -mindepth 1 -delete && systemctl start mariadb"
    machine.run("sh", "-c", line)
    hosted.wait_until_synced()
    said = machine.run("cat", "/var/log/mysql/error.log")
    assert "Using openssl based encryption with socat" in said
