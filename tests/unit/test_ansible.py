"""Running playbooks: results, errors, and secrets that are left nowhere. No host but this one is needed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbha import ansible
from dbha.ansible import (
    HostUnreachableError,
    PlaybookError,
    end_leftovers,
    playbook_directory,
    run_playbook,
    start_ahead,
)
from dbha.secrets import Secret

PASSWORD = "correct-horse-battery"

GOOD = """
- name: Play
  hosts: all
  tasks:
    - name: Make a file
      ansible.builtin.copy: {content: "{{ text }}", dest: "{{ directory }}/{{ inventory_hostname }}", mode: "0600"}
    - name: Use the password
      ansible.builtin.command: {argv: [sha256sum], stdin: "{{ password }}"}
      changed_when: false
      no_log: true
"""
BAD = """
- name: Play
  hosts: all
  tasks:
    - name: Give up
      ansible.builtin.fail: {msg: "the disk of {{ inventory_hostname }} is full"}
      when: inventory_hostname == 'two'
"""
LOOK = """
- name: Play
  hosts: all
  tasks:
    - name: Look around
      ansible.builtin.debug: {msg: "{{ lookup('ansible.builtin.env', 'DBHA_SECRET_ADMIN_PASSWORD') }}"}
    - name: Look at the settings
      ansible.builtin.assert:
        that:
          - lookup('ansible.builtin.config', 'DEFAULT_GATHERING') == 'explicit'
          - lookup('ansible.builtin.config', 'HOST_KEY_CHECKING')
          - not lookup('ansible.builtin.config', 'RETRY_FILES_ENABLED')
          - lookup('ansible.builtin.config', 'DEFAULT_FORKS') == 20
"""


@pytest.fixture
def playbooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "playbooks"
    directory.mkdir()
    (directory / "ansible.cfg").write_text((playbook_directory() / "ansible.cfg").read_text())
    for name, text in {"good": GOOD, "bad": BAD, "look": LOOK, "broken": "- hosts: ["}.items():
        (directory / f"{name}.yml").write_text(text)
    monkeypatch.setattr(ansible, "playbook_directory", lambda: directory)
    return tmp_path


def inventory(directory: Path, *, unreachable: bool = False) -> Path:
    path = directory / "inventory.yml"
    local = '{ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}'
    lost = "{ansible_host: 127.0.0.1, ansible_port: 1, ansible_ssh_common_args: -F none}"
    path.write_text(f"all: {{hosts: {{one: {local}, two: {lost if unreachable else local}}}}}\n")
    return path


def test_a_playbook_counts_and_tells_and_leaves_no_secret(playbooks: Path) -> None:
    lines: list[str] = []
    for expected in (1, 0):
        result = run_playbook(
            "good",
            inventory=inventory(playbooks),
            run_directory=playbooks / "run",
            variables={"text": "hello", "directory": str(playbooks)},
            secrets={"password": Secret(PASSWORD)},
            on_line=lines.append,
        )
        assert (result.changed_anything, sum(result.changed.values())) == (bool(expected), expected * 2)
        assert result.ok == {"one": 2, "two": 2}
    assert lines == ["Make a file", "Use the password"] * 2
    left = [path for path in (playbooks / "run").rglob("*") if path.is_file()]
    assert left
    assert [path for path in left if PASSWORD.encode() in path.read_bytes()] == []


def test_the_limit_leaves_other_hosts_alone(playbooks: Path) -> None:
    result = run_playbook(
        "bad",
        inventory=inventory(playbooks),
        run_directory=playbooks / "run",
        variables={},
        secrets={},
        limit=["one"],
    )
    assert not result.changed_anything


def test_a_failure_names_host_task_and_reason(playbooks: Path) -> None:
    with pytest.raises(PlaybookError, match=r"^bad: two: Give up: the disk of two is full$") as caught:
        run_playbook(
            "bad", inventory=inventory(playbooks), run_directory=playbooks / "run", variables={}, secrets={}
        )
    assert [(failure.host, failure.task) for failure in caught.value.failures] == [("two", "Give up")]
    assert str(playbooks / "run") in caught.value.hint


def test_a_host_that_cannot_be_reached(playbooks: Path) -> None:
    with pytest.raises(HostUnreachableError, match=r"two: Make a file: ") as caught:
        run_playbook(
            "good",
            inventory=inventory(playbooks, unreachable=True),
            run_directory=playbooks / "run",
            variables={"text": "hello", "directory": str(playbooks)},
            secrets={"password": Secret(PASSWORD)},
        )
    assert caught.value.exit_code == 5
    assert caught.value.unchanged == ""  # host one was reached, and changed


def test_a_playbook_that_is_none(playbooks: Path) -> None:
    with pytest.raises(PlaybookError, match="broken: controller: ansible-playbook: "):
        run_playbook(
            "broken",
            inventory=inventory(playbooks),
            run_directory=playbooks / "run",
            variables={},
            secrets={},
        )


def test_nothing_of_the_operators_environment_counts(
    playbooks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBHA_SECRET_ADMIN_PASSWORD", PASSWORD)
    monkeypatch.setenv("ANSIBLE_HOST_KEY_CHECKING", "False")
    monkeypatch.setenv("ANSIBLE_FORKS", "1")
    monkeypatch.setenv("PATH", os.defpath)
    run_playbook(
        "look", inventory=inventory(playbooks), run_directory=playbooks / "run", variables={}, secrets={}
    )
    left = [path for path in (playbooks / "run").rglob("*") if path.is_file()]
    assert [path for path in left if PASSWORD.encode() in path.read_bytes()] == []


def test_every_playbook_is_found() -> None:
    names = {path.stem for path in playbook_directory().glob("*.yml")}
    assert {"bootstrap", "configure", "start", "stop"} <= names


def test_what_an_interrupted_run_left_is_ended(playbooks: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "DBHA_RUN_DIRECTORY": str(playbooks / "run")}
    other = {**environment, "DBHA_RUN_DIRECTORY": str(playbooks / "run2")}
    with (
        subprocess.Popen(["sleep", "60"], env=environment) as left,
        subprocess.Popen(["sleep", "60"], env=other) as kept,
    ):
        end_leftovers(playbooks / "run")
        assert left.wait(5) == -9
        assert kept.poll() is None
        kept.kill()


def test_what_is_started_ahead_waits_for_its_variables(playbooks: Path) -> None:
    where: dict[str, Any] = {"inventory": inventory(playbooks), "run_directory": playbooks / "run"}
    for _ in range(2):
        start_ahead("good", **where)
    wait_until(lambda: marked(playbooks / "run"))
    variables = {"text": "hello", "directory": str(playbooks)}
    run_playbook("bad", **where, variables={}, secrets={}, limit=["one"])  # another one leaves it alone
    assert not (playbooks / "one").exists()
    result = run_playbook("good", **where, variables=variables, secrets={"password": Secret(PASSWORD)})
    assert (result.changed_anything, (playbooks / "one").read_text()) == (True, "hello")
    assert len(list((playbooks / "run" / "artifacts").iterdir())) == 2


def test_one_that_was_started_ahead_and_killed_is_started_anew(playbooks: Path) -> None:
    where: dict[str, Any] = {"inventory": inventory(playbooks), "run_directory": playbooks / "run"}
    start_ahead("bad", **where, limit=["one"])
    wait_until(lambda: marked(playbooks / "run"))
    for pid in marked(playbooks / "run"):
        os.kill(pid, 9)
    wait_until(lambda: all(run.has_ended for run in ansible._ahead.values()))
    run_playbook("bad", **where, variables={}, secrets={}, limit=["one"])


@pytest.mark.parametrize("end", ["sys.exit()", "os.kill(os.getpid(), 9)"])
def test_what_was_started_ahead_ends_with_the_controller(playbooks: Path, end: str) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from dbha import ansible; from tests.unit.test_ansible"
        " import marked; ansible.playbook_directory = lambda: Path(sys.argv[1]) / 'playbooks'; run ="
        " Path(sys.argv[1]) / 'run'; ansible.start_ahead('good', inventory=Path(sys.argv[2]), run_directory=run)\n"
        f"while not marked(run): time.sleep(0.02)\n{end}"
    )
    argv = [sys.executable, "-c", script, str(playbooks), str(inventory(playbooks))]
    subprocess.run(argv, check=False, timeout=60, cwd=Path(__file__).parents[2])
    wait_until(lambda: not marked(playbooks / "run"))
    assert not (playbooks / "one").exists()


def marked(run_directory: Path) -> list[int]:
    """Return the processes of runs in a directory."""
    mark = os.fsencode(f"DBHA_RUN_DIRECTORY={run_directory}")
    return [pid for pid in ansible._process_ids() if mark in ansible._environment_of(pid)]


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_service_manager_that_is_not_supported_is_said(tmp_path: Path) -> None:
    hosts = inventory(tmp_path)
    hosts.write_text(hosts.read_text().replace("all:", "galera:"))
    with pytest.raises(PlaybookError, match="must be one of: process, systemd, got: upstart"):
        run_playbook(
            "start",
            inventory=hosts,
            run_directory=tmp_path / "run",
            variables={"mariadb_service_manager": "upstart"},
            secrets={},
        )
