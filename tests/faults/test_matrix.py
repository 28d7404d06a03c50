"""The fault matrix of backups: whatever goes wrong, it is named, the good backup stays, and the cluster serves.

Each row of MATRIX brings one fault about on a real cluster, through the command line. The oracle is the same for all:
the documented exit code; a message that names the cause, what stayed unchanged and what to type; the older backup is
still good, is `latest`, and nothing of what failed counts; the service can write through every node, the verdict is
healthy; no node is desynced, no account is locked, no lease is held, no process and no half of anything is left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest

from tests.faults import restoring, stored, taking
from tests.faults.scene import Scene, require_explained
from tests.real.commands import Said

pytestmark = [pytest.mark.real, pytest.mark.faults]


@dataclass(frozen=True)
class Row:
    """A line of the matrix, where in it, what brings it about, the exit code, and words that name the cause."""

    line: str
    where: str
    bring_about: Callable[[Scene], Said]
    code: int
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.line}: {self.where}".removesuffix(": ")


def spoilt(spoil: Callable[..., object]) -> Callable[[Scene], Said]:
    return partial(stored.restore_of_spoilt, spoil=spoil)


def killed(what: Callable[..., Said], point: str) -> Callable[[Scene], Said]:
    return partial(what, point=point)


ISSUE = (  # the lines of the matrix that was asked for
    "wrong password", "server killed", "mariadb-backup killed", "controller killed", "disk full", "stream cut",
    "one bit flipped", "manifest missing", "catalogue missing", "two backups at once", "retention racing a backup",
    "DDL storm during backup", "donor leaves the cluster midway", "a stale node comes back after a restore",
    "a node that is ahead", "store unreachable midway", "clock jumping backwards", "wrong key",
)  # fmt: skip
cut = partial(killed, taking.stream_cut)
GONE = ("node2", "node3", "--accept-missing")
MIDDLE = "the stream ends in the middle, after "
# fmt: off
MATRIX = (
    Row("wrong password", "of the administrator", taking.wrong_password, 5, ("refused the account",)),
    Row("wrong password", "of the copy only", taking.password_refused_to_the_tool, 6, ("refused the account",)),
    Row("server killed", "begin", killed(taking.server_killed, "begin"), 6, ("does not answer",)),
    Row("server killed", "middle", killed(taking.server_killed, "middle"), 6, ("node2",)),
    Row("server killed", "end", killed(taking.server_killed, "end"), 6, ("node2",)),
    Row("mariadb-backup killed", "begin", killed(taking.tool_killed, "first"), 6, ("signal 9",)),
    Row("mariadb-backup killed", "middle", killed(taking.tool_killed, "middle"), 6, ("signal 9",)),
    Row("mariadb-backup killed", "end", killed(taking.tool_killed, "end"), 6, ("signal 9",)),
    Row("controller killed", "begin", killed(taking.controller_killed, "begin"), 10, ("dbha runs resume",)),
    Row("controller killed", "middle", killed(taking.controller_killed, "middle"), 10, ("dbha runs resume",)),
    Row("controller killed", "end", killed(taking.controller_killed, "end"), 10, ("dbha runs resume",)),
    Row("controller killed", "and taken up", taking.controller_killed_and_taken_up, 0),
    Row("disk full", "at the donor: nothing is needed there", taking.donor_without_room, 0),
    Row("disk full", "in the store, before", taking.store_without_room, 4, ("too little room: the backup store",)),
    Row("disk full", "in the store, midway", taking.store_full, 6, ("No space left on device",)),
    Row("disk full", "at restore of a service", restoring.no_room_to_prepare, 4, ("too little room",)),
    Row("disk full", "at restore, on one node", restoring.full_disk_on_a_node, 1, ("node2", "No space left")),
    Row("stream cut", "at 0 %", cut("begin"), 6, (MIDDLE,)),
    Row("stream cut", "in a chunk", cut("middle"), 6, (MIDDLE,)),
    Row("stream cut", "on a chunk border", cut("border"), 6, (MIDDLE,)),
    Row("stream cut", "before the last member", cut("last"), 6, (MIDDLE,)),
    Row("stream cut", "stored, at 0 %", spoilt(stored.cut_to_nothing), 4, ("its last member, is missing",)),
    Row("stream cut", "stored, in a chunk", spoilt(stored.cut_in_a_chunk), 4, ("mbstream ended",)),
    Row("stream cut", "stored, on a border", spoilt(stored.cut_on_a_border), 4, ("its last member, is missing",)),
    Row("stream cut", "stored, before the last", spoilt(stored.cut_before_the_last_member), 4, ("is missing",)),
    Row("stream cut", "stored, the file", spoilt(stored.cut_in_the_file), 4, ("bytes instead of",)),
    Row("one bit flipped", "in the stream", taking.bit_flipped_on_the_way, 6, ("zstd ended",)),
    Row("one bit flipped", "in the compressed file", spoilt(stored.stream_flipped), 4, ("its sha256 is another",)),
    Row("one bit flipped", "in a prepared tablespace", stored.page_flipped_after_prepare, 1, ("placement/filling",)),
    Row("one bit flipped", "in a tablespace of one node", restoring.page_flipped_on_a_node, 1, ("node2",)),
    Row("one bit flipped", "in a manifest", spoilt(stored.manifest_flipped), 4, ("the manifest of backup",)),
    Row("one bit flipped", "in the definitions", spoilt(stored.definitions_flipped), 4, ("definitions",)),
    Row("manifest missing", "", spoilt(stored.manifest_missing), 4, ("manifest.json",)),
    Row("manifest missing", "its second half", spoilt(stored.manifest_cut), 4, ("the manifest of backup",)),
    Row("manifest missing", "but the stream is", spoilt(stored.stream_missing), 4, ("stream",)),
    Row("catalogue missing", "what controllers know", stored.catalogue_missing, 0),
    Row("catalogue missing", "the store", stored.store_missing, 1, ("backups",)),
    Row("two backups at once", "of one controller", taking.two_at_once, 9, ("backup",)),
    Row("two backups at once", "of two", partial(taking.two_at_once, state="elsewhere"), 9, ("backup",)),
    Row("retention racing a backup", "of one controller", taking.retention_races, 9, ("backup",)),
    Row("retention racing a backup", "of two", partial(taking.retention_races, state="elsewhere"), 0),
    Row("DDL storm during backup", "", taking.structure_storm, 6, ("the structure of",)),
    Row("donor leaves the cluster midway", "", taking.donor_leaves, 6, ("node2",)),
    Row("store unreachable midway", "", taking.store_lost, 6, ("store `vault`", "does not answer")),
    Row("wrong key", "", stored.wrong_key, 5, ("is encrypted for", "the identities here are those of")),
    Row("clock jumping backwards", "two days", taking.clock_is_two_days_behind, 0),
    Row("a stale node comes back after a restore, a node that is ahead", "", restoring.old_nodes_come_back, 5, GONE),
)
# fmt: on


@pytest.mark.parametrize("row", MATRIX, ids=str)
def test_matrix(scene: Scene, row: Row) -> None:
    scene.begin()
    try:
        require_explained(row.bring_about(scene), row.code, row.words)
        scene.require_unharmed()
    finally:
        scene.tidy()


def test_every_line_is_there() -> None:
    assert {line for line in ISSUE for row in MATRIX if line in row.line} == set(ISSUE)
