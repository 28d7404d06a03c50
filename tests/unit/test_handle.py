"""Which nodes are worked on at the same time."""

import threading

import pytest

from dbha.cluster.handle import host_by_host
from dbha.inventory import Node, SshSettings


def node(name: str, host: str | None) -> Node:
    return Node(name, "127.0.0.1", 3306, "/var/lib/mysql", ssh=SshSettings(host) if host else None)


def test_hosts_go_side_by_side_and_the_nodes_of_one_in_turn() -> None:
    nodes = (node("a1", "a"), node("b1", "b"), node("a2", "a"), node("here1", None), node("here2", None))
    begun = threading.Barrier(
        3, timeout=10
    )  # broken, and the test fails, unless three hosts are at it at once
    at_work: dict[SshSettings | None, int] = {}

    def work(one: Node) -> str:
        assert at_work.setdefault(one.ssh, 0) == 0, f"{one} began while another node of its host was at work"
        at_work[one.ssh] = 1
        if one.name in {"a1", "b1", "here1"}:
            begun.wait()
        at_work[one.ssh] = 0
        return one.name.upper()

    assert host_by_host(work, nodes) == {each.name: each.name.upper() for each in nodes}


def test_an_error_on_one_host_does_not_keep_others_from_their_work() -> None:
    done: list[str] = []

    def work(one: Node) -> None:
        if one.name == "a1":
            raise ValueError("a1 is broken")
        done.append(one.name)

    with pytest.raises(ValueError, match="a1 is broken"):
        host_by_host(work, (node("a1", "a"), node("a2", "a"), node("b1", "b"), node("b2", "b")))
    assert done == ["b1", "b2"]


def test_no_nodes() -> None:
    assert host_by_host(lambda one: one.name, ()) == {}
