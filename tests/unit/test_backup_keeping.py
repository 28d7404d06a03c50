"""Marks, and `dbha backup keep | delete | copy | check` on a directory store, without any server."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.keep import UNREADABLE, refuse_kept
from dbha.backup.store import Status
from dbha.errors import UnsafeError, UsageError
from tests.unit.backup_site import MARK, NOW, Site
from tests.unit.test_backup_store import FIRST, complete


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


# --- the command line ---


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


def check(site: Site, *options: str, expect: int) -> str:
    return site.run("check", *options, expect=expect)


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
