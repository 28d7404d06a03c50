"""The systemd units: systemd itself finds nothing wrong with them, and they are as closed as they say."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from dbha.cli.main import cli

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
SERVICES = sorted(unit.name for unit in UNITS.glob("*.service"))
PROGRAM = "/usr/local/bin/dbha"
MOST_EXPOSURE = 20  # of 100; what is left is the network, and the machine's other processes and users
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed: the units are not checked",
)


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    argv = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def with_a_program(directory: Path) -> list[Path]:
    """Return copies of all units that start a program which is on this machine: verify looks for it."""
    for unit in UNITS.iterdir():
        (directory / unit.name).write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
    return sorted(directory.iterdir())


@needs_systemd
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    done = analyze("verify", *with_a_program(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_verify_would_notice(tmp_path: Path, name: str) -> None:
    units = with_a_program(tmp_path)
    service = tmp_path / name
    service.write_text(service.read_text().replace("ProtectClock=", "ProtectClok="))
    assert "ProtectClok" in analyze("verify", *units).stderr


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_the_services_may_do_little(tmp_path: Path, name: str) -> None:
    with_a_program(tmp_path)
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE}", tmp_path / name)
    assert done.returncode == 0, done.stdout[-200:]


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda path: path.name)
def test_what_a_unit_starts_is_a_command_of_dbha(unit: Path) -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert (program, arguments[:2]) == (PROGRAM, ["-c", "/etc/dbha/dbha.yml"])
    command: click.Command = cli
    names = arguments[2:]
    while isinstance(command, click.Group):
        command = command.commands[names.pop(0)]
    command.make_context("dbha", names)  # raises UsageError for an option that there is not


def test_a_missed_night_is_made_up_for_and_not_all_controllers_begin_at_once() -> None:
    timer = (UNITS / "dbha-backup.timer").read_text()
    assert "Persistent=true" in timer and "RandomizedDelaySec=" in timer
