"""Bad input to the main job: a clear message, the right exit code, and nothing changed."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from dbha.releases.environments import default_root
from tests.real.cloud import LEFT_OVER_IN_KEYSTONE, NEW, OLD, Cloud
from tests.real.commands import Said

pytest_plugins = ("tests.real.cloud_fixtures",)
pytestmark = [pytest.mark.real, pytest.mark.releases]

UPGRADE = ("upgrade", "run", "--to", NEW, "--yes")


@dataclass
class Refusals:
    """Commands that are refused, one after the other; in the end all of the cloud has to be as it was."""

    cloud: Cloud
    before: tuple[list[dict[str, object]], list[tuple[str, int]]] | None = None  # runs, backups

    def begin(self) -> None:
        """Begin, unless others of their kind were just refused."""
        if self.before is None:
            self.cloud.reset()
            self.before = self.cloud.json("runs", "list"), complete_backups(self.cloud)

    def end(self) -> None:
        """Require that none of them changed anything."""
        if self.before is not None:
            (runs, backups), self.before = self.before, None
            self.cloud.assert_as_before()
            assert complete_backups(self.cloud) == backups
            started = [run for run in self.cloud.json("runs", "list") if run not in runs]
            assert [run for run in started if run["state"] not in ("refused", "rolled-back")] == []


@pytest.fixture(scope="module")
def refusals(shared_cloud: Cloud) -> Iterator[Refusals]:
    """All refusals of this file."""
    found = Refusals(shared_cloud)
    yield found
    found.end()


@pytest.fixture
def unchanged(refusals: Refusals) -> Cloud:
    """The cloud, for a command that is refused."""
    refusals.begin()
    return refusals.cloud


@pytest.fixture
def cloud(refusals: Refusals) -> Cloud:
    """The cloud, as new, for a test that may change it."""
    refusals.end()
    refusals.cloud.reset()
    return refusals.cloud


def complete_backups(cloud: Cloud) -> list[tuple[str, int]]:
    """Return the good backups; when they were last verified may change."""
    backups = cloud.json("backup", "list")
    return [(each["id"], each["stored_bytes"]) for each in backups if each["status"] == "complete"]


def policy_of(cloud: Cloud, change: Callable[[dict[str, object]], object]) -> Path:
    """Return a configuration that differs from the sandbox's."""
    policy = yaml.safe_load(cloud.configuration.read_text())
    change(policy)
    path = cloud.directory / "changed.yml"
    path.write_text(yaml.safe_dump(policy))
    return path


def refused(said: Said, *words: str) -> None:
    """Require that a refusal says these words, that nothing was changed, and nothing on stdout."""
    for word in (*words, "nothing was changed"):
        assert word in said.stderr, said
    assert said.stdout == ""
    assert "Traceback" not in said.stderr


# --- arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("2026.3", ("there is no release '2026.3'", "did you mean 2026.2")),
        ("hibiskus", ("did you mean 2026.2",)),
        ("", ("there is no release ''", "the releases are 2023.1")),
    ],
)
def test_release_that_does_not_exist(unchanged: Cloud, target: str, words: tuple[str, ...]) -> None:
    refused(unchanged.run("upgrade", "run", "--to", target, "--yes", expect=2), *words)


@pytest.mark.parametrize(
    "arguments",
    [
        (*UPGRADE, "--service", "glanse"),
        ("upgrade", "plan", "--to", NEW, "--service", "glanse"),
        ("restore", "latest", "--service", "glanse", "--yes"),
        ("sync", "glanse"),
        ("database", "create", "glanse"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_service_that_is_not_there(unchanged: Cloud, arguments: tuple[str, ...]) -> None:
    refused(unchanged.run(*arguments, expect=2), "glanse", "glance")


@pytest.mark.parametrize(
    "arguments",
    [
        ("upgrade", "run", "--to", NEW),
        ("restore", "latest"),
        ("backup", "delete", "latest"),
        ("sandbox", "down"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_no_question_without_a_terminal(unchanged: Cloud, arguments: tuple[str, ...]) -> None:
    refused(unchanged.run(*arguments, expect=2), "--yes")


@pytest.mark.parametrize("verb", [("restore", "--yes"), ("backup", "show"), ("backup", "verify")])
@pytest.mark.parametrize("name", ["20200101T000000Z-0000", "../../etc", "nonsense"])
def test_backup_that_does_not_exist(unchanged: Cloud, verb: tuple[str, ...], name: str) -> None:
    refused(unchanged.run(*verb, name, expect=2), "dbha backup list")


@pytest.mark.parametrize("verb", ["show", "resume", "abandon"])
def test_run_that_does_not_exist(unchanged: Cloud, verb: str) -> None:
    options = ("--yes",) if verb == "abandon" else ()
    refused(unchanged.run("runs", verb, "20200101T000000Z-0000", *options, expect=2), "dbha runs list")


# --- releases and hops ---------------------------------------------------------------------------------------


def test_target_equal_to_the_present(unchanged: Cloud) -> None:
    said = unchanged.run("upgrade", "run", "--to", OLD, "--yes")
    assert f"every service is at {OLD} already; nothing was changed" in said.stderr
    assert unchanged.json("upgrade", "run", "--to", OLD, "--yes")["outcome"] == "nothing to do"


def test_target_older_than_the_schema(unchanged: Cloud) -> None:
    said = unchanged.run("upgrade", "run", "--to", "2024.2", "--yes", expect=4)
    refused(said, "its schema is newer than the code of 2024.2", "that is a restore of a backup")


def test_hop_that_is_not_tested(cloud: Cloud) -> None:
    cloud.execute(
        "UPDATE placement.alembic_version SET version_num = '422ece571366'",
        "UPDATE dbha.service_release SET `release` = '2023.1' WHERE service = 'placement'",
    )
    before = cloud.snapshot()
    upgrade = ("upgrade", "run", "--to", "2024.2", "--service", "placement", "--yes")
    said = cloud.run(*upgrade, expect=4)
    refused(said, "OpenStack does not test 2023.1 to 2024.2", "--allow-hop '2023.1 -> 2024.2'")
    assert "dbha upgrade run --to 2024.1" in said.stderr
    refused(cloud.run(*upgrade, "--allow-hop", "2023.1 -> 2025.1", expect=4), "2023.1 -> 2024.2")
    cloud.assert_as_before(before)


def test_hop_that_is_accepted_by_name_is_journaled(cloud: Cloud) -> None:
    policy = policy_of(cloud, lambda policy: policy.pop("upgrade"))
    upgrade = ("upgrade", "run", "--to", NEW, "--service", "glance", "--yes")
    named = f"--allow-hop '{OLD} -> {NEW}'"
    refused(cloud.run(*upgrade, configuration=policy, expect=4), named)
    cloud.run(*upgrade, "--allow-hop", f"{OLD} -> {NEW}", configuration=policy)
    (accepted,) = cloud.last_run()["arguments"]["accepted"]
    assert f"{OLD} -> {NEW}" in accepted
    cloud.assert_upgraded("glance")


def test_schema_newer_than_the_release_that_is_said_to_run(cloud: Cloud) -> None:
    cloud.execute(
        "UPDATE keystone.alembic_version SET version_num = '742c857f1dfb' WHERE version_num = '47147121'"
    )
    before = cloud.snapshot()
    refused(cloud.upgrade("keystone", expect=4), "newer than release 2025.1", "742c857f1dfb")
    refused(cloud.run("sync", "keystone", expect=4), "742c857f1dfb", "dbha upgrade run")
    cloud.assert_as_before(before)


def test_schema_of_no_release(cloud: Cloud) -> None:
    cloud.execute("UPDATE nova.alembic_version SET version_num = 'ab450ba04102'")  # and cell0 is not there
    before = cloud.snapshot()
    refused(cloud.upgrade("nova", expect=4), "half upgraded, or changed by hand", "dbha status")
    cloud.assert_as_before(before)


def test_release_that_is_not_installed(unchanged: Cloud, tmp_path: Path) -> None:
    said = unchanged.run(*UPGRADE, expect=5, XDG_CACHE_HOME=str(tmp_path))
    refused(said, f"release {NEW} is not installed", f"dbha release install {NEW}")


def test_environment_whose_marker_is_damaged(unchanged: Cloud, tmp_path: Path) -> None:
    broken_environment(tmp_path, marker=lambda text: text[: len(text) // 2])
    said = unchanged.run(*UPGRADE, expect=5, XDG_CACHE_HOME=str(tmp_path))
    refused(said, f"release {NEW} is not installed", f"dbha release install {NEW}")


def test_environment_whose_tool_is_gone(cloud: Cloud, tmp_path: Path) -> None:
    broken_environment(tmp_path)
    said = cloud.run(*UPGRADE, "--service", "glance", expect=7, XDG_CACHE_HOME=str(tmp_path))
    assert "glance-manage cannot be run in the environment of 2026.2" in said.stderr
    assert "everything was put back" in said.stderr
    cloud.assert_as_before()


def broken_environment(cache: Path, *, marker: Callable[[str], str] = str) -> None:
    """Make an environment of the new release without its tools, as after an unlucky removal."""
    real = default_root(os.environ) / NEW
    broken = cache / "dbha" / "releases" / NEW
    (broken / "bin").mkdir(parents=True)
    for name in ("python", "python3"):
        (broken / "bin" / name).symlink_to(real / "bin" / name)
    (broken / "environment.json").write_text(marker((real / "environment.json").read_text()))


# --- configuration, inventory, secrets -----------------------------------------------------------------------


def test_configuration_with_three_mistakes(unchanged: Cloud) -> None:
    def spoil(policy: dict[str, object]) -> None:
        policy["services"]["glance"]["relese"] = "2025.1"  # type: ignore[index]
        policy["backup"]["compression_level"] = 99  # type: ignore[index]
        policy["limit"] = {"lease_ttl_s": 3}

    said = unchanged.run(*UPGRADE, configuration=policy_of(unchanged, spoil), expect=3)
    refused(
        said, "3 mistake(s)", "services.glance.relese: unknown key; did you mean `release`?",
        "backup.compression_level", "99", "limit: unknown key; did you mean `limits`?",
    )  # fmt: skip


def test_inventory_with_two_nodes_of_one_address(unchanged: Cloud) -> None:
    inventory = yaml.safe_load((unchanged.directory / "inventory.yml").read_text())
    hosts = inventory["galera"]["hosts"]
    hosts["node3"]["mariadb_port"] = hosts["node2"]["mariadb_port"]
    twins = unchanged.directory / "twins.yml"
    twins.write_text(yaml.safe_dump(inventory))
    policy = policy_of(unchanged, lambda policy: policy.update(inventory="twins.yml", state="elsewhere"))
    said = unchanged.run(*UPGRADE, configuration=policy, expect=3)
    refused(said, "node2 and node3: the same address")
    refused(unchanged.run("status", configuration=policy, expect=3), "node2 and node3: the same address")


@pytest.mark.parametrize(
    "arguments",
    [
        UPGRADE, ("sync",), ("database", "create"),
        ("restore", "latest", "--yes"), ("restore", "latest", "--service", "keystone", "--yes"),
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)  # fmt: skip
def test_wrong_administrator_password(unchanged: Cloud, arguments: tuple[str, ...]) -> None:
    said = unchanged.run(*arguments, expect=5, DBHA_SECRET_ADMIN_PASSWORD="wrong")
    refused(said, "refused the account", "node1")
    assert "wrong" not in said.stderr


def test_secrets_that_others_may_read(unchanged: Cloud) -> None:
    secrets = unchanged.directory / "secrets.yml"
    open_to_all = unchanged.directory / "open.yml"
    shutil.copy(secrets, open_to_all)
    open_to_all.chmod(0o644)
    policy = policy_of(unchanged, lambda policy: policy.update(secrets={"file": "open.yml"}))
    said = unchanged.run(*UPGRADE, configuration=policy, expect=3)
    open_to_all.unlink()
    refused(said, "others may read it", "chmod 600")


def test_configuration_that_is_not_there(unchanged: Cloud) -> None:
    nowhere = unchanged.directory / "nowhere.yml"
    refused(unchanged.run(*UPGRADE, configuration=nowhere, expect=3), str(nowhere), "no such file")


# --- room ----------------------------------------------------------------------------------------------------


def on_small_disk(directory: Path, size_mib: int) -> tuple[str, ...]:
    """Return what runs a command that sees a small file system at `directory`; nobody else sees it."""
    script = f'mount -t tmpfs -o size={size_mib}m small "$0" && exec "$@"'
    alone = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--mount")
    return (*alone, "sh", "-c", script, str(directory))


def test_disk_without_room_for_the_backup(unchanged: Cloud) -> None:
    disk = unchanged.directory / "small"
    disk.mkdir(exist_ok=True)
    wrapper = on_small_disk(disk, 16)
    if unchanged.run("release", "list", wrapper=wrapper, expect=None).code != 0:
        pytest.skip("this machine does not let this user mount anything")
    policy = policy_of(
        unchanged,
        lambda policy: policy["backup"]["stores"]["local"].update(directory=str(disk)),  # type: ignore[index]
    )
    said = unchanged.run(*UPGRADE, configuration=policy, wrapper=wrapper, expect=4)
    refused(said, "too little room: the backup store:", "MiB needed, 16 MiB free")


def test_backup_that_cannot_be_written_whole(cloud: Cloud) -> None:
    good = complete_backups(cloud)
    said = cloud.run(*UPGRADE, wrapper=("prlimit", f"--fsize={3 << 19}", "--"), expect=6)
    assert "the store cannot take it: File too large" in said.stderr
    assert "no schema was changed, and older backups are as they were" in said.stderr
    assert complete_backups(cloud) == good
    last = cloud.json("backup", "list")[-1]
    assert (last["status"], last["verified"]) == ("failed", None)
    cloud.assert_as_before()


# --- backups that went bad -----------------------------------------------------------------------------------


def test_upgrade_never_begins_with_tables_aside(cloud: Cloud) -> None:
    cloud.execute("CREATE DATABASE dbha_aside_20200101t000000z_0000_keystone")
    cloud.leave_index(LEFT_OVER_IN_KEYSTONE)
    said = cloud.upgrade("keystone", expect=4)
    refused(said, "left over from an earlier run", "dbha_aside_20200101t000000z_0000_keystone")
    cloud.execute("DROP DATABASE dbha_aside_20200101t000000z_0000_keystone")
    cloud.drop_index(LEFT_OVER_IN_KEYSTONE)
    cloud.assert_as_before()
