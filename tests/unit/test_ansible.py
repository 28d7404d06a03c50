"""Running playbooks: results, errors, and secrets that are left nowhere. No host but this one is needed."""

import os
import subprocess
from pathlib import Path

import pytest

from dbha import ansible
from dbha.ansible import HostUnreachableError, PlaybookError, end_leftovers, playbook_directory, run_playbook
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


def test_a_service_manager_that_is_not_supported_is_said(tmp_path: Path) -> None:
    hosts = inventory(tmp_path)
    hosts.write_text(hosts.read_text().replace("all:", "galera:"))
    with pytest.raises(PlaybookError, match="must be one of: process, got: systemd"):
        run_playbook(
            "start",
            inventory=hosts,
            run_directory=tmp_path / "run",
            variables={"mariadb_service_manager": "systemd"},
            secrets={},
        )
