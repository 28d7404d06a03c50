"""Back to just before a mistake: the whole cluster, or one service while another keeps writing; exactly, or not."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dbha.backup.binlog.gtid import Gtid, latest, parse_gtids
from dbha.backup.encryption import Identities
from dbha.backup.proof import checksums_everywhere
from dbha.secrets import Secret
from tests.real.cloud import Cloud
from tests.real.conftest import running_sandbox
from tests.real.restored import wait_for
from tests.real.sealing import configured, identity_text, require_nowhere

pytestmark = pytest.mark.real

LOCAL = {101, 102, 103}
SERVICES = """
CREATE TABLE placement.alembic_version (version_num VARCHAR(32) PRIMARY KEY);
INSERT INTO placement.alembic_version VALUES ('a082b8bb98d0');
CREATE TABLE placement.allocations (id INT PRIMARY KEY AUTO_INCREMENT, consumer VARCHAR(36));
CREATE TABLE keystone.alembic_version (version_num VARCHAR(32) PRIMARY KEY);
INSERT INTO keystone.alembic_version VALUES ('11c3b243b4cb');
CREATE TABLE keystone.token (id INT PRIMARY KEY AUTO_INCREMENT, word VARCHAR(36))
"""
COLUMN = "ALTER TABLE placement.allocations ADD COLUMN consumer_type INT DEFAULT 7"
NEW_HEAD = "UPDATE placement.alembic_version SET version_num = 'b5c396305c25'"


@dataclass
class Known:
    """What the cluster had at a point: the transaction that came next, the time, the checksum of each table."""

    next: Gtid
    time: datetime
    checksums: dict[str, int] = field(default_factory=dict)


@dataclass
class Ledger:
    """A cloud with a backup, and what it had at points after it."""

    cloud: Cloud
    backup: str
    rows: Known  # some rows were added
    altered: Known  # the schema was changed, and so was its head
    dropped: Known  # a table was dropped by mistake


def position(cloud: Cloud) -> Gtid:
    with cloud.session() as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")
        session.value("SELECT COUNT(*) FROM placement.allocations")
        found = latest(parse_gtids(str(session.value("SELECT @@GLOBAL.gtid_binlog_pos"))), LOCAL)
    assert found is not None
    return found


def known(cloud: Cloud) -> Known:
    """Return what the cluster has now, with a clear second on both sides."""
    last = position(cloud)
    time.sleep(1.1)
    found = Known(replace(last, sequence=last.sequence + 1), datetime.now(UTC), checksums_now(cloud))
    time.sleep(1.1)
    return found


def checksums_now(cloud: Cloud) -> dict[str, int]:
    """Return the checksums of the services' tables, which are equal on all nodes."""
    first, *others = checksums_everywhere(
        cloud.cluster, ("placement", "keystone"), cloud.cluster.nodes
    ).values()
    assert all(other == first for other in others)
    return first


def of(service: str, checksums: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in checksums.items() if name.startswith(f"{service}.")}


def write(cloud: Cloud, number: int, count: int) -> None:
    with cloud.session(number) as session:
        for row in range(count):
            session.execute("INSERT INTO placement.allocations (consumer) VALUES (%s)", [f"row {row}"])


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with running_sandbox(nodes=3) as running:
        cloud = Cloud(running, running.directory / "dbha.yml")
        cloud.run("database", "create")
        cloud.execute(*SERVICES.strip().split(";"))
        write(cloud, 0, 50)
        backup = cloud.json("backup", "create", "--verify")["backup"]["id"]
        write(cloud, 0, 2000)
        write(cloud, 1, 50)
        rows = known(cloud)
        cloud.execute(COLUMN, NEW_HEAD, "INSERT INTO placement.allocations (consumer) VALUES ('altered')")
        altered = known(cloud)
        cloud.execute("DROP TABLE placement.allocations")
        cloud.execute("CREATE TABLE placement.allocations (id INT PRIMARY KEY)")
        dropped = known(cloud)
        cloud.execute("INSERT INTO keystone.token (word) VALUES ('after the mistake')")
        cloud.run("backup", "archive", "--once")
        yield Ledger(cloud, backup, rows, altered, dropped)


@contextmanager
def keystone_writes(cloud: Cloud) -> Iterator[list[str]]:
    """Insert rows as keystone all the time; yield the words that were acknowledged."""
    words: list[str] = []
    ended = threading.Event()

    def work() -> None:
        with cloud.session(1) as session:
            while not ended.is_set():
                word = f"word {len(words)}"
                session.execute("INSERT INTO keystone.token (word) VALUES (%s)", [word])
                words.append(word)
                time.sleep(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield words
    finally:
        ended.set()
        thread.join()


def archive_of(cloud: Cloud) -> Path:
    return cloud.running.configuration.state / "archive"


def logs_of(cloud: Cloud) -> list[Path]:
    """Return the logs that are archived, the longest first."""
    found = [path for path in archive_of(cloud).glob("*/*/binlog.*-*") if path.suffix != ".json"]
    return sorted(found, key=lambda path: path.stat().st_size, reverse=True)


def test_what_is_refused_before_anything_is_touched(ledger: Ledger) -> None:
    cloud, before = ledger.cloud, checksums_now(ledger.cloud)
    (shown,) = cloud.json("backup", "list")
    window = shown["restorable"]
    status = cloud.json("backup", "archive", "--status")
    assert status["reaches_until"] == window["until"]
    until = parse_gtids(window["until"]["gtid"])[0]
    far = replace(until, sequence=until.sequence + 1)
    for arguments, words in (
        (("--to", str(far)), f"reaches from .*{window['from']['gtid']} to .*{until}"),
        (("--to", window["from"]["gtid"]), "no backup can be brought to just before"),
        (("--to", "2001-01-01T00:00:00Z"), "no backup can be brought"),
        ((ledger.backup, "--to", str(far)), f"{far} cannot be reached: the logs end with {until}"),
        ((ledger.backup, "--to", "2001-01-01T00:00:00"), "was finished at .*, after 2001"),
        ((ledger.backup, "--service", "placement", "--to", str(far)), "cannot be reached"),
    ):
        said = cloud.run("restore", *arguments, "--yes", expect=4)
        assert re.search(words, said.stderr)
        assert "nothing was changed" in said.stderr
    assert "no point in time" in cloud.run("restore", "--to", "yesterday", "--yes", expect=2).stderr
    log = logs_of(cloud)[0]
    content = log.read_bytes()
    try:
        log.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])
        said = cloud.run("restore", "--to", str(ledger.altered.next), "--yes", expect=1)
        assert "was changed since it was archived" in said.stderr
        log.write_bytes(content)
        with gap_in(log):
            said = cloud.run("restore", ledger.backup, "--to", str(ledger.altered.next), "--yes", expect=4)
            assert re.search("cannot be brought further|cannot be reached", said.stderr)
    finally:
        log.write_bytes(content)
    assert checksums_now(cloud) == before
    assert cloud.json("status")["verdict"] == "healthy"


@contextmanager
def gap_in(log: Path) -> Iterator[None]:
    """Take a log's record away, and what is known of its transactions with it."""
    record = log.with_name(f"{log.name}.json")
    hidden = record.rename(record.with_name("hidden"))
    try:
        yield
    finally:
        hidden.rename(record)


def test_a_service_goes_back_to_just_before_a_dropped_table(ledger: Ledger) -> None:
    """Its schema had changed since the backup: structure, heads and rows are those of the point."""
    cloud = ledger.cloud
    with keystone_writes(cloud) as words:
        arguments = ("restore", "--service", "placement", "--to", str(ledger.altered.next), "--yes")
        cloud.run(*arguments, fault="after:intend:replay")
        cloud.run("runs", "resume", fault="before:done:replay")
        cloud.run("runs", "resume", fault="before:done:restore:placement:import:node2")
        cloud.run("runs", "resume")
    now = checksums_now(cloud)
    assert of("placement", now) == of("placement", ledger.altered.checksums)
    with cloud.session(2) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")
        assert set(words) <= set(session.column("SELECT word FROM keystone.token"))
        assert session.column("SELECT version_num FROM placement.alembic_version") == ["b5c396305c25"]
        assert "consumer_type" in session.rows("SHOW CREATE TABLE placement.allocations")[0]["Create Table"]
    assert not (cloud.running.configuration.state / "points").exists()
    assert cloud.locked_accounts() == []
    # What a restore imports is in no log: the archive says so, and reaches no further from that backup.
    cloud.execute("INSERT INTO placement.allocations (consumer) VALUES ('after the restore')")
    cloud.run("backup", "archive", "--once", expect=0)
    (shown,) = cloud.json("backup", "list")
    assert "a service was restored" in shown["restorable"]["reason"]


def test_the_whole_cluster_goes_back_to_a_time(ledger: Ledger) -> None:
    """Killed in the middle of the replay, and again after it, it ends the same."""
    cloud = ledger.cloud
    moment = ledger.rows.time.isoformat(timespec="microseconds")
    killed_in_the_replay(cloud, "restore", "latest", "--to", moment, "--yes")
    cloud.run("runs", "resume", fault="before:done:replay:node2")
    cloud.run("runs", "resume", fault="before:done:begin")
    cloud.run("runs", "resume")
    require_at(ledger, ledger.rows)
    assert positions_meet(cloud)


def killed_in_the_replay(cloud: Cloud, *arguments: str) -> None:
    with cloud.started(*arguments) as command:
        wait_for(
            "the replay",
            lambda: any(
                path.stat().st_size > 5000
                for path in cloud.directory.glob("nodes/*/data.dbha/*/new/dbha-replay.0*")
            ),
        )
        command.process.kill()


def require_at(ledger: Ledger, point: Known) -> None:
    cloud = ledger.cloud
    status = cloud.json("status")
    assert (status["verdict"], status["reasons"], status["interrupted_run"]) == ("healthy", [], None)
    assert checksums_now(cloud) == point.checksums
    assert cloud.locked_accounts() == []
    assert not list(cloud.directory.glob("nodes/*/data/dbha-replay*"))


def positions_meet(cloud: Cloud) -> bool:
    """Return whether all nodes have given the same GTIDs, and a write gets the same one on each."""
    cloud.execute("INSERT INTO keystone.token (word) VALUES ('of the new history')")
    found = set()
    for number in range(3):
        with cloud.session(number) as session:
            session.execute("SET SESSION wsrep_sync_wait = 1")
            session.value("SELECT COUNT(*) FROM keystone.token")
            found.add(str(session.value("SELECT @@GLOBAL.gtid_binlog_pos")))
    return len(found) == 1


def test_gtids_that_are_given_again_are_not_mixed(ledger: Ledger) -> None:
    """The new history gives numbers again that the old one gave: a GTID needs a backup to say which."""
    cloud = ledger.cloud
    backup = cloud.json("backup", "create", "--verify")["backup"]["id"]
    cloud.execute("INSERT INTO keystone.token (word) VALUES ('of the new history, after its backup')")
    again = position(cloud)
    write(cloud, 0, 5)
    cloud.run("backup", "archive", "--once")
    old, new = cloud.json("backup", "list")
    assert old["timeline"] != new["timeline"]
    assert new["id"] == backup
    assert new["restorable"]["reason"] == ""
    assert again.sequence <= parse_gtids(old["restorable"]["until"]["gtid"])[0].sequence, (
        "nothing was given again"
    )
    said = cloud.run("restore", "--to", str(again), "--yes", "--dry-run", expect=2)
    assert "is another transaction in each of the timelines" in said.stderr
    cloud.run("restore", ledger.backup, "--to", str(ledger.altered.next), "--yes")
    require_at(ledger, ledger.altered)
    run = cloud.last_run()["id"]
    cloud.run("restore", "--undo", run, "--yes")  # the count goes on there, too
    assert positions_meet(cloud)
    assert position(cloud).sequence > again.sequence
    cloud.run("backup", "archive", "--once")
    assert cloud.json("backup", "list")[-1]["restorable"]["reason"] == ""


def test_an_incremental_backup_that_is_encrypted_goes_further(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service, and then the whole cluster: both open the chain, apply the increment, and replay upon that."""
    cloud, identity = ledger.cloud, identity_text()
    recipients = Identities(Secret(identity)).recipients
    monkeypatch.setattr(
        cloud, "configuration", configured(cloud, "sealed", identity=identity, recipients=recipients)
    )
    cloud.run("backup", "create")
    cloud.execute("INSERT INTO keystone.token (word) VALUES ('in the increment')")
    increment = cloud.json("backup", "create", "--incremental", "--verify")["backup"]
    assert (increment["kind"], increment["recipients"]) == ("incremental", list(recipients))
    cloud.execute("INSERT INTO keystone.token (word) VALUES ('in the log')")
    point = known(cloud)
    cloud.execute("DELETE FROM keystone.token")
    cloud.run("backup", "archive", "--once")
    arguments = ("restore", increment["id"], "--to", str(point.next), "--yes")
    cloud.run(*arguments, "--service", "keystone")
    assert checksums_now(cloud) == point.checksums
    cloud.execute("DELETE FROM keystone.token")
    cloud.run(*arguments)
    require_at(ledger, point)
    secret = next(line for line in identity.splitlines() if line.startswith("AGE-SECRET-KEY"))
    require_nowhere(secret, cloud.running.configuration.state, archive_of(cloud))
