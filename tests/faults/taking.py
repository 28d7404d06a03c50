"""What goes wrong while a backup is taken. Each function brings one fault about and returns what dbha said."""

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dbha.backup.store import Status
from dbha.sandbox import kill_node
from tests.faults.scene import DONOR, Scene
from tests.real.commands import Said, Started
from tests.real.places import SftpHost, sftp_server
from tests.real.processes import eventually


def wrong_password(scene: Scene) -> Said:
    return scene.run("backup", "create", DBHA_SECRET_ADMIN_PASSWORD="wrong")


def password_refused_to_the_tool(scene: Scene) -> Said:
    """As when it is changed between the first look at the donor and the copy."""
    return scene.backup_spoilt(tool="backup", more=["--password=wrong"])


def server_killed(scene: Scene, point: str) -> Said:
    def act(_: Started) -> None:
        kill_node(scene.cloud.directory, scene.donor.name)
        scene.require_writes(without=DONOR)

    return scene.backup_while(point, act)


def tool_killed(scene: Scene, point: str) -> Said:
    """Retention, which wants one backup only and has two, is to follow; but for a failed one nothing is deleted."""
    copy = scene.copy_of_older()
    said = scene.backup_while(point, lambda _: os.kill(scene.tool(), signal.SIGKILL), "--prune")
    scene.store.delete(copy.name)
    return said


def controller_killed(scene: Scene, point: str) -> Said:
    """Nothing else may begin; given up, nothing of it is left. Return how the next command is refused."""
    scene.backup_until_killed(point)
    said = scene.run("backup", "create")
    scene.cloud.run("runs", "abandon", "--yes")
    for backup in scene.store.list():
        if backup.status is Status.INTERRUPTED:
            scene.cloud.run("backup", "delete", backup.id, "--yes")
    return said


def controller_killed_and_taken_up(scene: Scene) -> Said:
    """The same run ends as it would have ended."""
    scene.backup_until_killed("middle")
    said = scene.run("runs", "resume")
    scene.require_good(said)
    return said


def stream_cut(scene: Scene, point: str) -> Said:
    """By a tool that says itself that all went well."""
    return scene.backup_spoilt(tool="backup", at=point, do="cut")


def bit_flipped_on_the_way(scene: Scene) -> Said:
    return scene.backup_spoilt("--verify", tool="zstd", flip=5 << 20)


def structure_storm(scene: Scene) -> Said:
    with _changing_structure(scene):
        return scene.run("backup", "create")


@contextmanager
def _changing_structure(scene: Scene) -> Iterator[None]:
    done, changed = threading.Event(), threading.Semaphore(0)

    def change() -> None:
        with scene.cloud.session() as session:
            session.execute("CREATE TABLE placement.storm (id INT PRIMARY KEY)")
            while not done.is_set():
                session.execute("ALTER TABLE placement.storm ADD COLUMN c INT")
                session.execute("ALTER TABLE placement.storm DROP COLUMN c")
                changed.release()
            session.execute("DROP TABLE placement.storm")

    storm = threading.Thread(target=change)
    storm.start()
    changed.acquire()
    try:
        yield
    finally:
        done.set()
        storm.join()


def donor_leaves(scene: Scene) -> Said:
    """It is cut off from the others, and its server goes on serving whoever asks it."""

    def isolate(how: int) -> None:
        with scene.cloud.session(DONOR) as session:
            session.execute(f"SET GLOBAL wsrep_provider_options = 'gmcast.isolate={how}'")

    def act(_: Started) -> None:
        isolate(1)
        eventually(lambda: _is_out(scene), "the donor did not leave")
        scene.require_writes(without=DONOR)

    try:
        return scene.backup_while("middle", act)
    finally:
        isolate(0)


def _is_out(scene: Scene) -> bool | None:
    with scene.cloud.session(DONOR) as session:
        (row,) = session.rows("SHOW GLOBAL STATUS LIKE 'wsrep_cluster_status'")
    return True if row["Value"] != "Primary" else None


def store_full(scene: Scene) -> Said:
    """The store is a small file system of its own, and is full once the copy is in its middle."""
    disk = scene.small_disk("full-store")
    command = f"head -c 1G /dev/zero > {shlex.quote(str(disk))}/filling"
    with scene.ordered(tool="backup", at="middle", do="run", command=command):
        policy = scene.policy(lambda policy: policy["backup"]["stores"]["local"].update(directory=str(disk)))
        return scene.run("backup", "create", configuration=policy, wrapper=scene.mounted(disk, 160))


def store_without_room(scene: Scene) -> Said:
    disk = scene.small_disk("small-store")
    policy = scene.policy(lambda policy: policy["backup"]["stores"]["local"].update(directory=str(disk)))
    return scene.run("backup", "create", configuration=policy, wrapper=scene.mounted(disk, 8))


def store_lost(scene: Scene) -> Said:
    """A store elsewhere goes away midway, for longer than dbha is patient; its older backups are there later."""
    directory = scene.cloud.directory / "vault"
    directory.mkdir()
    with sftp_server(directory) as server:
        vault = SftpHost(server, directory / "backups")
        stores = {"vault": {**vault.policy(), "patience_s": 2}}
        policy = scene.policy(lambda policy: policy["backup"]["stores"].update(stores))
        scene.cloud.run("backup", "copy", scene.older, "--to", "vault", configuration=policy)
        said = scene.backup_while("middle", lambda _: server.stop(), "--store", "vault", configuration=policy)
        server.start()
        scene.cloud.run(
            "backup", "verify", scene.older, "--store", "vault", "--level", "hash", configuration=policy
        )
        complete = [each.id for each in vault.store().list() if each.status is Status.COMPLETE]
    assert complete == [scene.older]
    return said


def two_at_once(scene: Scene, **changes: Any) -> Said:
    """The second is refused, and the first one ends well; `changes` make the second one another controller's."""
    refused: list[Said] = []
    policy = scene.policy(lambda policy: policy.update(changes))
    first = scene.backup_while(
        "middle", lambda _: refused.append(scene.run("backup", "create", configuration=policy))
    )
    scene.require_good(first)
    return refused[0]


def retention_races(scene: Scene, **changes: Any) -> Said:
    """Retention wants one backup only, while another is written."""
    copy = scene.copy_of_older()
    pruned: list[Said] = []
    policy = scene.policy(lambda policy: policy.update(changes))
    first = scene.backup_while(
        "middle", lambda _: pruned.append(scene.run("backup", "prune", "--yes", configuration=policy))
    )
    assert scene.older in [backup.id for backup in scene.store.list()]
    scene.require_good(first)
    scene.store.delete(copy.name)  # the newest then: it was not deleted, either
    return pruned[0]


def donor_without_room(scene: Scene) -> Said:
    """A copy needs no room on the donor: it is good although the temporary files of no tool have a place."""
    script = (
        "mount --rbind /tmp /mnt && mount -t tmpfs -o size=1m small /tmp && for each in /mnt/*/; do"
        ' place="/tmp/$(basename "$each")"; mkdir "$place" && mount --rbind "$each" "$place"; done;'
        " head -c 2M /dev/zero > /tmp/filling;"
    )
    said = scene.run(
        "backup", "create", "--json", wrapper=scene.mounted(scene.small_disk("unused"), 1, script)
    )
    scene.require_good(said)
    return said


def clock_is_two_days_behind(scene: Scene) -> Said:
    """The new backup looks older than the older one; whoever prunes after it deletes neither."""
    said = scene.run("backup", "create", "--verify", "--prune", wrapper=("faketime", "-f", "-2d"))
    new, older = scene.store.list()
    assert (older.id, new.verified, new.created < older.created) == (scene.older, True, True)
    scene.store.delete(new.id)
    return said
