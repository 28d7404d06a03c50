"""The inventory as `ansible-inventory --list` tells it, and what is remembered of it."""

from pathlib import Path
from typing import Any

import pytest

from dbha.errors import ConfigurationError
from dbha.inventory import load_inventory, parse_inventory
from dbha.inventory_cache import fingerprint_of, load_inventory_cached


def listing(**hosts: dict[str, Any]) -> dict[str, Any]:
    return {"galera": {"hosts": list(hosts)}, "_meta": {"hostvars": hosts}}


def problems_of(found: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse_inventory(found, "inventory.yml")
    return list(caught.value.problems)


def test_nodes_are_in_the_inventory_s_order_with_their_ssh_settings() -> None:
    nodes = parse_inventory(
        listing(db2={"ansible_host": "10.0.0.2", "ansible_user": "root"}, db1={"galera_address": "10.0.0.1"}),
        "i",
    )
    assert [node.name for node in nodes] == ["db2", "db1"]
    assert nodes[0].address == "10.0.0.2"
    assert nodes[0].ssh is not None
    assert nodes[0].ssh.user == "root"
    assert nodes[1].address == "10.0.0.1"


def test_a_local_node_needs_no_ssh() -> None:
    (node,) = parse_inventory(listing(a={"ansible_connection": "local", "mariadb_port": 4000}), "i")
    assert node.ssh is None
    assert node.port == 4000


def test_groups_of_groups_are_followed() -> None:
    found = {"galera": {"children": ["dbs"]}, "dbs": {"hosts": ["a"]}, "_meta": {"hostvars": {"a": {}}}}
    assert [node.name for node in parse_inventory(found, "i")] == ["a"]


def test_two_nodes_of_one_address_are_refused() -> None:
    assert problems_of(listing(a={"ansible_host": "10.0.0.1"}, b={"ansible_host": "10.0.0.1"})) == [
        "a and b: the same address 10.0.0.1:3306",
        "a and b: the same datadir /var/lib/mysql on 10.0.0.1",
    ]


def test_a_missing_group_suggests_the_one_that_was_meant() -> None:
    assert problems_of({"galerra": {"hosts": ["a"]}}) == [
        "group `galera` has no hosts; did you mean `galerra`?"
    ]


def test_a_port_that_is_none_is_named() -> None:
    assert problems_of(listing(a={"mariadb_port": "many"})) == [
        "a.mariadb_port: must be a port number, found 'many'"
    ]


def write(directory: Path, port: int) -> Path:
    path = directory / "inventory.yml"
    path.write_text(
        "galera:\n  hosts:\n    a: {ansible_connection: local, admin_password: hidden, "
        f"mariadb_port: {port}, galera_address: 127.0.0.1}}\n"
    )
    return path


def test_the_cache_gives_the_same_nodes_and_keeps_nothing_else(tmp_path: Path) -> None:
    path, cache = write(tmp_path, 4000), tmp_path / "state" / "inventory.json"
    first = load_inventory_cached(path, cache)
    assert first == load_inventory_cached(path, cache) == load_inventory(path)
    assert "hidden" not in cache.read_text()


def test_a_change_of_any_file_is_noticed(tmp_path: Path) -> None:
    path, cache = write(tmp_path, 4000), tmp_path / "inventory.json"
    load_inventory_cached(path, cache)
    write(tmp_path, 4001)
    assert load_inventory_cached(path, cache)[0].port == 4001
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "a.yml").write_text("mariadb_datadir: /srv/a\n")
    assert load_inventory_cached(path, cache)[0].datadir == "/srv/a"


def test_an_inventory_that_is_a_program_is_always_asked(tmp_path: Path) -> None:
    path = write(tmp_path, 4000)
    path.chmod(0o755)
    assert fingerprint_of(path) is None


def test_a_damaged_cache_is_no_cache(tmp_path: Path) -> None:
    path, cache = write(tmp_path, 4000), tmp_path / "inventory.json"
    cache.write_text("{}")
    assert load_inventory_cached(path, cache)[0].port == 4000
