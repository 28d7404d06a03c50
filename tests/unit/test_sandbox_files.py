"""The files, ports and places of a sandbox."""

import json
from dataclasses import astuple
from pathlib import Path

import pytest
import yaml

from dbha.config import load_configuration
from dbha.config.model import DirectoryStore
from dbha.errors import UnreachableError, UnsafeError
from dbha.inventory import parse_inventory
from dbha.sandbox.files import SERVICES, inventory_data, random_secrets, write_atomically, write_files
from dbha.sandbox.layout import Layout, read_sandbox, runtime_root, socket_directory
from dbha.sandbox.ports import FIRST_PORT, LAST_PORT, NodePorts, choose_ports, reserve, reserving

PORTS = (NodePorts(24000, 24001, 24002, 24003), NodePorts(24010, 24011, 24012, 24013))


def test_the_configuration_is_valid_and_says_what_it_allows(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_files(layout, release="2025.1", ports=PORTS, sockets=tmp_path / "sockets")
    configuration = load_configuration(layout.configuration)
    assert {policy.release for policy in configuration.services.values()} == {"2025.1"}
    assert set(configuration.services) == set(SERVICES)
    assert configuration.upgrade.allow_hops == ("2025.1 -> 2026.2",)
    assert configuration.backup.stores["local"] == DirectoryStore(directory=tmp_path / "backups")
    assert configuration.state == tmp_path / "state"
    assert "does not test" in layout.configuration.read_text()
    assert layout.secrets.stat().st_mode & 0o777 == 0o600


def test_the_inventory_is_one_that_dbha_reads(tmp_path: Path) -> None:
    data = inventory_data(Layout(tmp_path), PORTS, tmp_path / "sockets", user="nobody")
    hosts = data["galera"]["hosts"]  # type: ignore[index]
    shared = data["all"]["vars"]  # type: ignore[index]
    listing = {
        "galera": {"hosts": list(hosts)},
        "_meta": {"hostvars": {name: {**shared, **host} for name, host in hosts.items()}},
    }
    nodes = parse_inventory(listing, "test")
    assert [(node.name, node.port, node.ssh) for node in nodes] == [
        ("node1", 24000, None),
        ("node2", 24010, None),
    ]


def test_a_sandbox_is_read_back(tmp_path: Path) -> None:
    write_files(Layout(tmp_path), release="2025.1", ports=PORTS, sockets=tmp_path / "sockets")
    sandbox = read_sandbox(tmp_path)
    assert [node.datadir for node in sandbox.nodes] == [f"{tmp_path}/nodes/node{n}/data" for n in (1, 2)]
    assert sandbox.sockets == tmp_path / "sockets"
    assert not sandbox.layout.bootstrapped.exists()


def test_a_link_to_a_sandbox_is_not_one(tmp_path: Path) -> None:
    write_files(Layout(tmp_path / "real"), release="2025.1", ports=PORTS, sockets=tmp_path / "sockets")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UnsafeError, match="is not a sandbox"):
        read_sandbox(tmp_path / "link")


def test_passwords_are_new_each_time() -> None:
    first, second = random_secrets(), random_secrets()
    assert set(first) == {"admin_password", *(f"{service}_password" for service in SERVICES)}
    assert len({*first.values(), *second.values()}) == 10


def test_a_file_keeps_its_old_content_until_the_new_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \udcff")
    assert path.read_text() == "old"
    write_atomically(path, "new", mode=0o600)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)


def test_ports_are_neither_reserved_nor_in_use() -> None:
    chosen = choose_ports(2, reserved={24002}, is_free=lambda port: port != 24011, start=FIRST_PORT)
    assert [ports.sql for ports in chosen] == [24020, 24030]


def test_the_search_for_ports_goes_around_the_end() -> None:
    chosen = choose_ports(2, reserved=frozenset(), is_free=lambda port: True, start=LAST_PORT - 10)
    assert [ports.sql for ports in chosen] == [LAST_PORT - 9, FIRST_PORT]
    assert all(port <= LAST_PORT for ports in chosen for port in astuple(ports))


def test_too_few_ports_are_said() -> None:
    with pytest.raises(UnreachableError, match="no 3 groups of free ports"):
        choose_ports(3, reserved=frozenset(), is_free=lambda port: False)


def test_a_reservation_ends_with_its_sandbox(tmp_path: Path) -> None:
    sandbox, root = tmp_path / "sandbox", tmp_path / "root"
    for directory in (sandbox, root, root / "one", root / "half"):
        directory.mkdir()
    (root / "half" / "ports.json").write_text('{"directory": ')
    reserve(root / "one", sandbox, PORTS)
    with reserving(root) as reserved:
        assert reserved == {port for ports in PORTS for port in astuple(ports)}
    sandbox.rmdir()
    with reserving(root) as reserved:
        assert reserved == frozenset()
    assert json.loads((root / "one" / "ports.json").read_text())["directory"] == str(sandbox)


def test_sockets_have_short_paths_however_deep_the_sandbox_is(tmp_path: Path) -> None:
    deep = tmp_path / ("deep/" * 30)
    assert len(str(socket_directory(deep, {}) / "node9.sock")) < 60


def test_a_runtime_directory_that_others_write_to_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert runtime_root({"XDG_RUNTIME_DIR": str(tmp_path)}).parent == Path("/tmp")
    tmp_path.chmod(0o700)
    assert runtime_root({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "dbha"


def test_yaml_of_the_inventory_is_stable(tmp_path: Path) -> None:
    data = inventory_data(Layout(tmp_path), PORTS, tmp_path / "sockets", user="nobody")
    assert yaml.safe_load(yaml.safe_dump(data)) == data
