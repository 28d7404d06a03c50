"""What operators and scripts are shown of verdicts on backups."""

import pytest
from click.testing import CliRunner

from dbha import console as console_module
from dbha.backup.levels import Level
from dbha.backup.manifest import Verification
from dbha.backup.store import Status, StoredBackup
from dbha.backup.verdicts import with_verdict
from dbha.cli.backup import create, in_verdict
from dbha.console import Console
from dbha.health.status import backup_as_json
from tests.unit.test_backup_levels import verdicts
from tests.unit.test_backup_manifest import MANIFEST


def stored(*words: str) -> StoredBackup:
    record: Verification | None = None
    for verdict in verdicts(*words):
        record = with_verdict(record, MANIFEST.id, verdict)
    return StoredBackup(MANIFEST.id, Status.COMPLETE, "", 10, MANIFEST, record)


@pytest.mark.parametrize(
    ("given", "listed", "level", "at", "last"),
    [
        ([], "-", None, None, None),
        (["good prepare"], "prepare 2026-11-23 04:30", "prepare", "04:30", "04:30"),
        (["good boot", "good hash"], "boot 2026-11-23 04:30", "boot", "04:30", "05:30"),
        (["good boot", "bad hash"], "BAD at hash 2026-11-23 05:30", None, None, None),
        (["bad hash", "good pages"], "pages 2026-11-23 05:30", "pages", "05:30", "05:30"),
        (["bad boot", "good hash"], "BAD at boot 2026-11-23 04:30", None, None, None),
    ],
)
def test_verdicts_in_the_list(
    given: list[str], listed: str, level: str | None, at: str | None, last: str | None
) -> None:
    backup = stored(*given)
    assert in_verdict(backup) == listed
    shown = backup_as_json(backup)
    assert shown["verified_level"] == level
    assert shown["verified_at"] == (at and f"2026-11-23T{at}:00+00:00")
    assert shown["verified"] == (last and f"2026-11-23T{last}:00+00:00")
    assert [f"{each['outcome']} {each['level']}" for each in shown["verdicts"]] == given


@pytest.mark.parametrize(
    ("arguments", "verify"),
    [
        ([], None),
        (["--verify"], Level.PREPARE),
        (["--verify", "--json"], Level.PREPARE),
        (["--verify", "--label", "x"], Level.PREPARE),
        (["--verify", "boot"], Level.BOOT),
        (["--verify=hash"], Level.HASH),
    ],
)
def test_verify_needs_no_level(arguments: list[str], verify: str | None) -> None:
    with create.make_context("create", list(arguments)) as context:
        assert context.params["verify"] == verify


def test_an_unknown_level_is_a_mistake_of_the_caller() -> None:
    found = CliRunner().invoke(create, ["--verify", "bogus"])
    assert (found.exit_code, "'hash', 'prepare', 'pages', 'boot'" in found.output) == (2, True)


def test_progress_in_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console_module, "_MEASURE_INTERVAL_S", 0.0)
    with Console().task("verify it") as task:
        task.measure(1 << 20, 4 << 20)
        task.count("files", 3, 312)
    assert capsys.readouterr().err == "verify it: 1.0 MiB of 4.0 MiB\nverify it: 3 of 312 files\n"
