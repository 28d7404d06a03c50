"""`dbha backup prune` on a directory store, without any server: what goes, what stays, and who may come between."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dbha.backup.manifest import new_backup_id
from dbha.backup.store import Status
from dbha.cluster.lock import ControllerLock
from dbha.journal import Journal
from tests.unit.backup_site import MARK, Site


def test_prune_without_rules_says_what_to_write(site: Site, five: list[str]) -> None:
    site.configure()
    for verb in (("prune", "--yes"), ("prune", "--dry-run"), ("create", "--prune")):
        said = site.run(*verb, expect=3)
        assert "backup.retention: missing" in said and "retention: {last: 3" in said
    site.configure(retention={"failed_days": 3})
    assert "at least one of last, days" in site.run("prune", "--dry-run", expect=3)
    assert site.ids() == five


def test_prune_needs_a_yes_and_a_dry_run_does_not(site: Site, five: list[str]) -> None:
    said = site.run("prune", "--dry-run")
    assert said.count("no rule wants it") == 2 and "the last verified one" in said
    assert "needs a yes" in site.run("prune", expect=2)
    assert site.ids() == five


def test_prune_on_a_terminal_only_says_what_it_would_do(
    site: Site, five: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbha.cli.keeping.at_a_terminal", lambda: True)
    assert "nothing was deleted" in site.run("prune", "--yes")
    assert site.ids() == five
    site.run("prune", "--no-dry-run", "--yes")
    assert len(site.ids()) == 3


def test_prune_deletes_what_it_says_and_the_second_time_nothing(site: Site, five: list[str]) -> None:
    site.run("keep", five[2], "--note", "mine")
    planned = json.loads(site.run("prune", "--dry-run", "--json"))
    assert planned["dry_run"] and planned["deleted"] == []
    said = {each["id"]: (each["decision"], each["reason"]) for each in planned["backups"]}
    assert said[five[1]] == ("delete", "no rule wants it")
    assert said[five[2]] == ("keep", "kept: mine")
    done = json.loads(site.run("prune", "--yes", "--json").partition("\n}\n")[0] + "}")
    assert done["deleted"] == [five[1]]
    assert site.ids() == [five[0], *five[2:]]
    assert "deleted" not in site.run("prune", "--yes")
    assert "backup" in (site.directory / "state/log/dbha.log").read_text()


def test_prune_sweeps_what_was_cut_off_and_leaves_what_is_being_written(site: Site, five: list[str]) -> None:
    cut_off = site.backup(days=0.5)
    (site.store.directory / cut_off).rename(site.store.directory / f"{cut_off}.deleting")
    left = site.store.directory / f"{new_backup_id()}.partial"
    left.mkdir()
    draft = site.store.begin("20261123T043000Z-ffff")
    site.run("prune", "--yes")
    draft.abandon("the test ends", b"")
    assert not left.exists() and cut_off not in site.ids()
    assert site.ids() == sorted([five[0], *five[3:], "20261123T043000Z-ffff"])


def test_bad_ones_go_only_when_asked_for(site: Site, five: list[str]) -> None:
    site.verify(five[-1], "0" * 64, "its tail is missing")
    site.run("prune", "--yes")
    assert site.ids() == [five[0], *five[2:]], "it does not count as one of the last 2, and it stays"
    site.run("prune", "--bad", "--yes")
    assert site.ids() == [five[0], *five[2:4]]


def test_prune_spares_what_a_run_needs_and_waits_for_its_end(site: Site, five: list[str]) -> None:
    journal = Journal(site.directory / "state/journal.sqlite")
    run_id = journal.start_run("restore", {"spec": [{"backup_id": five[1]}]}, version="1")
    journal.close()
    assert f"run {run_id} needs it" in site.run("prune", "--dry-run")
    assert run_id in site.run("prune", "--yes", expect=10)
    assert site.ids() == five
    site.run("keep", five[1])  # keeping is possible all the same


def test_a_verdict_that_comes_meanwhile_counts(
    site: Site, five: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def finds_the_newest_two_bad(*_: object, **__: object) -> None:
        for backup_id in five[-2:]:
            site.verify(backup_id, "0" * 64, "its tail is missing")

    monkeypatch.setattr("dbha.cli.keeping.confirm", finds_the_newest_two_bad)
    site.run("prune")
    assert site.ids() == five, "what was to go is now among the last 2 good ones"


@pytest.mark.parametrize("arguments", [("prune", "--yes"), ("create",), ("delete", "latest", "--yes")])
def test_while_another_run_goes_on_nothing_is_deleted(
    site: Site, five: list[str], arguments: tuple[str, ...]
) -> None:
    with ControllerLock.acquire(site.directory / "state/locks/lab.lock", workflow="upgrade"):
        assert "is busy: a run that just starts (upgrade)" in site.run(*arguments, expect=9)
        site.run("keep", five[1])
    assert site.ids() == five


def test_a_mark_that_is_set_meanwhile_counts(
    site: Site, five: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def keeps(*_: object, **__: object) -> None:
        site.store.record_mark(MARK.model_copy(update={"backup": five[1]}))

    monkeypatch.setattr("dbha.cli.keeping.confirm", keeps)
    site.run("prune")
    assert site.ids() == [five[0], five[1], *five[3:]]


def test_a_store_that_fails_says_what_is_left(
    site: Site, five: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("dbha.backup.directory_store.shutil.rmtree", fails)
    said = site.run("prune", "--yes", expect=1)
    assert "cannot be deleted: Input/output error" in said and "are as they were" in said
    monkeypatch.undo()
    assert site.store.list()[1].status is Status.INTERRUPTED
    site.run("prune", "--yes")
    assert len(site.ids()) == 3


@pytest.fixture
def sixty(site: Site) -> list[str]:
    """As many backups, so that a process can be met in the middle of deleting all but the last two."""
    return [site.backup(days=days, verified=True) for days in range(60, 0, -1)]


@contextmanager
def pruning(site: Site) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a process that is in the middle of it."""
    argv = [sys.executable, "-c", "from dbha.cli.main import main; main()", "-c", str(site.configuration)]
    with subprocess.Popen(
        [*argv, "backup", "prune", "--yes"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while len(site.ids()) > 55:
            assert process.poll() is None
        yield process


def test_a_prune_that_is_killed_is_finished_by_the_next(site: Site, sixty: list[str]) -> None:
    with pruning(site) as process:
        process.kill()
    left = site.store.list()
    assert 2 < len(left) <= 55 and set(sixty[-2:]) <= {each.id for each in left}
    assert {each.status for each in left} <= {Status.COMPLETE, Status.INTERRUPTED}
    site.run("prune", "--yes")
    assert site.ids() == sixty[-2:]


def test_a_prune_that_is_asked_to_stop_ends_between_two(site: Site, sixty: list[str]) -> None:
    with pruning(site) as process:
        process.terminate()
    assert process.returncode == 143
    assert len(site.ids()) > 2
    assert {each.status for each in site.store.list()} == {Status.COMPLETE}


def test_while_one_prunes_another_is_refused(site: Site, sixty: list[str]) -> None:
    with pruning(site) as process:
        process.send_signal(signal.SIGSTOP)
        site.run("prune", "--yes", expect=9)
        process.send_signal(signal.SIGCONT)
    assert (process.returncode, site.ids()) == (0, sixty[-2:])
