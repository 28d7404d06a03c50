"""Marks, and `dbha backup keep | delete | prune | check` on a directory store, without any server."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.keep import UNREADABLE, KeepMark, refuse_kept
from dbha.backup.manifest import Verification, new_backup_id
from dbha.backup.store import Status
from dbha.cli.main import run
from dbha.cluster.lock import ControllerLock
from dbha.errors import UnsafeError, UsageError
from dbha.journal import Journal
from tests.unit.test_backup_store import complete

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FIRST = "20261123T043000Z-3f2a"
MARK = KeepMark(backup=FIRST, kept=True, note="before the move", when=NOW)


@pytest.mark.parametrize(
    ("changes", "holds", "words"),
    [
        pytest.param({}, True, "kept: before the move", id="for ever"),
        pytest.param(
            {"until": date(2026, 11, 23)}, True, "kept until 2026-11-23: before the move", id="today"
        ),
        pytest.param({"until": date(2026, 11, 22)}, False, "kept until 2026-11-22", id="until yesterday"),
        pytest.param({"kept": False}, False, "kept", id="cleared"),
    ],
)
def test_when_a_mark_holds(changes: dict[str, object], holds: bool, words: str) -> None:
    mark = MARK.model_copy(update=changes)
    assert mark.holds(NOW) is holds
    assert str(mark).startswith(words)
    if holds:
        with pytest.raises(UnsafeError, match=words) as refused:
            refuse_kept(FIRST, mark, NOW)
        assert refused.value.hint.startswith(f"dbha backup keep {FIRST} --clear")
    else:
        refuse_kept(FIRST, mark, NOW)


def test_a_mark_is_durable_and_can_be_replaced(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    complete(store, FIRST)
    assert store.list()[0].mark is None
    store.record_mark(MARK)
    assert DirectoryStore(tmp_path).list()[0].mark == MARK
    cleared = MARK.model_copy(update={"kept": False})
    store.record_mark(cleared)
    assert store.list()[0].mark == cleared
    with pytest.raises(UsageError):
        store.record_mark(MARK.model_copy(update={"backup": "20261123T043000Z-ffff"}))


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b"other"])
def test_a_mark_that_cannot_be_read_keeps(tmp_path: Path, damage: bytes) -> None:
    store = DirectoryStore(tmp_path)
    complete(store, FIRST)
    store.record_mark(MARK)
    path = tmp_path / FIRST / "keep.json"
    path.write_bytes(path.read_bytes().replace(b"true", b"false") if damage == b"other" else damage)
    mark = store.list()[0].mark
    assert mark is not None and mark.holds(NOW) and mark.note == UNREADABLE
    store.record_mark(MARK.model_copy(update={"kept": False}))
    assert not any(backup.mark.holds(NOW) for backup in store.list() if backup.mark)


# --- the command line ----------------------------------------------------------------------------------------


class Site:
    """A configuration with a store of its own; no node of it exists."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self._capsys = directory, capsys
        self.store = DirectoryStore(directory / "backups")
        self.configuration = directory / "dbha.yml"
        node = {"galera_address": "192.0.2.1", "ansible_connection": "local"}
        inventory = {"galera": {"hosts": {"db1": node}}}
        (directory / "inventory.yml").write_text(yaml.safe_dump(inventory))
        (directory / "secrets.yml").touch(mode=0o600)
        (directory / "secrets.yml").write_text("admin_password: hidden")
        self.configure(retention={"last": 2})

    def configure(self, **backup: object) -> None:
        policy = {
            "cluster": "lab", "inventory": "inventory.yml", "state": "state", "secrets": {"file": "secrets.yml"},
            "services": {"keystone": {"release": "2025.1"}},
            "backup": {"stores": {"local": {"directory": "backups"}}, **backup},
        }  # fmt: skip
        self.configuration.write_text(yaml.safe_dump(policy))

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Run a verb of `dbha backup` and return what it printed, the talk last."""
        code = run(["-c", str(self.configuration), "backup", *arguments])
        said = self._capsys.readouterr()
        assert code == expect, said
        return said.out + said.err

    def backup(self, *, days: float, verified: bool = False, base: str = "") -> str:
        """Put a backup of that age into the store and return its id."""
        backup_id = new_backup_id(datetime.now(UTC) - timedelta(days=days))
        manifest = complete(self.store, backup_id, base=self.store.manifest(base) if base else None)
        if verified:
            self.verify(backup_id, manifest.stream.sha256, "")
        return backup_id

    def verify(self, backup_id: str, sha256: str, problem: str) -> None:
        self.store.record_verification(
            Verification(
                backup=backup_id, outcome="bad" if problem else "good", problem=problem, when=NOW,
                stream_sha256=sha256, tool_version="1", dbha_version="1",
            )
        )  # fmt: skip

    def ids(self) -> list[str]:
        return [backup.id for backup in self.store.list()]


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    return Site(tmp_path, capsys)


@pytest.fixture
def five(site: Site) -> list[str]:
    """Five backups, the oldest first, of which the oldest is the only verified one."""
    return [site.backup(days=days, verified=days == 5) for days in (5, 4, 3, 2, 1)]


def test_keep_and_delete(site: Site, five: list[str]) -> None:
    assert "is kept: before the move" in site.run("keep", five[1], "--note", "before the move")
    said = site.run("delete", five[1], "--yes", expect=4)
    assert f"backup {five[1]} is kept: before the move" in said and "nothing was changed" in said
    assert "before the move" in site.run("show", five[1])
    by_id = {each["id"]: each for each in json.loads(site.run("list", "--json"))}
    assert (by_id[five[1]]["kept"], by_id[five[1]]["kept_note"]) == (True, "before the move")
    assert (by_id[five[0]]["kept"], by_id[five[0]]["kept_until"]) == (False, None)
    site.run("keep", five[1], "--clear")
    site.run("delete", five[1], "--yes")
    assert five[1] not in site.ids()


def test_keep_until_a_day(site: Site, five: list[str]) -> None:
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
    answer = json.loads(site.run("keep", "latest", "--until", tomorrow, "--json"))
    assert (answer["schema"], answer["backup"], answer["mark"]["until"]) == (1, five[-1], tomorrow)
    assert tomorrow in site.run("list")
    site.run("keep", "latest", "--until", "2001-01-01", expect=2)
    site.run("keep", "latest", "--until", tomorrow, "--clear", expect=2)
    site.run("keep", "20010101T000000Z-0001", expect=2)
    assert site.store.list()[-1].mark is not None


def test_what_is_not_whole_cannot_be_kept(site: Site) -> None:
    site.store.begin(FIRST).abandon("why", b"")
    assert "there is nothing to keep" in site.run("keep", FIRST, expect=4)


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


def check(site: Site, *options: str, expect: int) -> str:
    return site.run("check", *options, expect=expect)


def test_what_others_are_based_on_is_not_deleted(site: Site) -> None:
    full = site.backup(days=3)
    monday, tuesday = (site.backup(days=days, base=full) for days in (2, 1))
    said = site.run("delete", full, "--yes", expect=4)
    assert f"backup {full} is the base of {monday}, {tuesday}" in said
    assert f"dbha backup delete {tuesday}\n" in said
    assert site.ids() == [full, monday, tuesday]
    site.run("keep", monday)
    site.configure(retention={"last": 1})
    site.run("prune", "--yes")
    assert site.ids() == [full, monday, tuesday]
    site.run("keep", monday, "--clear")
    site.run("prune", "--yes")
    assert site.ids() == [full, tuesday]


def test_what_lost_its_base_is_shown_as_orphaned(site: Site) -> None:
    full = site.backup(days=3)
    first = site.backup(days=2, base=full)
    second = site.backup(days=1, base=first)
    assert f"{first}  +{full}  complete" in site.run("list")
    site.verify(full, site.store.manifest(full).stream.sha256, "a byte is another")
    listed = json.loads(site.run("list", "--json"))
    assert [(each["kind"], each["base"], each["depth"], each["status"]) for each in listed] == [
        ("full", None, 0, "bad"), ("incremental", full, 1, "orphaned"), ("incremental", first, 2, "orphaned"),
    ]  # fmt: skip
    assert listed[1]["reason"] == f"its base {full} is bad: a byte is another"
    site.run("show", expect=1)  # there is no complete backup
    assert "orphaned" in site.run("show", second)
    site.store.delete(full)
    listed = json.loads(site.run("list", "--json"))
    assert listed[0]["reason"] == f"its base {full} is not there"
    site.configure(retention={"last": 1})
    site.run("prune", "--yes")
    assert site.ids() == [first, second]
    site.run("prune", "--bad", "--yes")
    assert site.ids() == []


def test_a_base_is_copied_first(site: Site) -> None:
    site.configure(stores={"local": {"directory": "backups"}, "vault": {"directory": "vault"}})
    full = site.backup(days=2)
    increment = site.backup(days=1, base=full)
    said = json.loads(site.run("copy", increment, "--to", "vault", "--json"))
    assert (said["backup"], said["copied"]) == (increment, True)
    assert [(each["backup"], each["copied"]) for each in said["bases"]] == [(full, True)]
    vault = DirectoryStore(site.directory / "vault")
    assert [(each.id, each.status) for each in vault.list()] == [
        (full, Status.COMPLETE),
        (increment, Status.COMPLETE),
    ]
    assert f"{full}  6 B  is in vault already" in site.run("copy", increment, "--to", "vault")
    site.store.delete(full)
    assert "is orphaned" in site.run("copy", increment, "--to", "vault", expect=4)


def test_check(site: Site) -> None:
    assert "age: CRITICAL (there is no complete backup)" in check(site, expect=1)
    assert check(site, "--nagios", expect=2).startswith("BACKUP CRITICAL - age: there is no complete backup;")
    site.backup(days=0.1, verified=True)
    assert "age: OK" in check(site, expect=0)
    assert check(site, "--nagios", expect=0).startswith("BACKUP OK - 7 tests passed | age_s=86")
    site.configure(check={"warning_age_h": 1})
    assert check(site, "--nagios", expect=1).startswith("BACKUP WARNING - age: ")
    answer = json.loads(check(site, "--json", expect=1))
    assert (answer["schema"], answer["level"]) == (1, "WARNING")
    assert [each["name"] for each in answer["tests"]] == [
        "age", "verified", "full", "size", "failures", "minimum", "room",
    ]  # fmt: skip
    check(site, "--json", "--nagios", expect=2)


def test_what_keeps_check_from_looking_is_unknown_to_nagios(site: Site) -> None:
    site.configuration.write_text("{}")
    assert check(site, "--nagios", expect=3).startswith("BACKUP UNKNOWN - ")


def test_neither_inventory_nor_password_is_needed(site: Site, five: list[str]) -> None:
    (site.directory / "inventory.yml").unlink()
    (site.directory / "secrets.yml").unlink()
    check(site, "--nagios", expect=1)
    site.run("keep", five[1])
    site.run("prune", "--yes")
    assert site.ids() == [*five[:2], *five[3:]]
