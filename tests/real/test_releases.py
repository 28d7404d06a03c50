"""Real releases on a real server: environments, the heads their code has, and their syncs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest

from dbha.errors import UnreachableError
from dbha.releases.catalogue import RELEASES, get_release, release_of_heads
from dbha.releases.configuration import Endpoint, ToolConfiguration, render_config
from dbha.releases.environments import Environment, default_root, list_environments, load, require
from dbha.releases.install import install
from dbha.releases.probe import probe
from dbha.releases.release import Release
from dbha.releases.runner import NativeResult, Runner
from dbha.releases.tools import Tools
from dbha.secrets import Secret
from dbha.services import (
    CHARACTER_SET,
    COLLATION,
    GLANCE,
    KEYSTONE,
    NOVA,
    SERVICES,
    NativeCommand,
    Outcome,
    Service,
    SyncMethod,
    cell_mapping_commands,
)

pytestmark = [pytest.mark.real, pytest.mark.releases]

# Everything that means something in a URL, in an INI file, in configparser or to a shell.
PASSWORD = "p%:/@#?&=+ '$!\\x%41"
PORT = 23617
OLD, NEW = get_release("2025.1"), get_release("2026.2")


def installed(release: Release) -> Environment:
    """Return the environment all tests of this machine share, built by whichever needs it first."""
    return install(release, default_root(os.environ))


# --- environments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_the_installed_code_has_the_heads_of_the_catalogue(release: Release) -> None:
    environment = installed(release)
    answer = probe(environment.runner)
    expected = {
        name: heads for service in SERVICES.values() for name, heads in release.heads_of(service).items()
    }
    assert answer.problems == {}
    assert answer.heads == expected
    assert environment.heads == expected


def test_a_second_install_changes_nothing() -> None:
    environment = installed(NEW)
    before = {path.name: path.stat().st_mtime_ns for path in environment.directory.iterdir()}
    said: list[str] = []
    again = install(NEW, default_root(os.environ), on_line=said.append)
    assert said == []
    assert again == environment
    assert {path.name: path.stat().st_mtime_ns for path in environment.directory.iterdir()} == before


def test_a_marker_says_what_was_installed() -> None:
    environment = installed(NEW)
    assert environment.packages["nova"].startswith("34.")
    assert environment.wanted.resolved_as_of == NEW.resolved_as_of
    assert environment in list_environments(default_root(os.environ))


def test_an_interrupted_install_leaves_nothing_and_the_next_two_build_it_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dbha.releases.catalogue import get_release;"
        "from dbha.releases.install import install;"
        f"install(get_release('{NEW.name}'), Path(sys.argv[1]), on_line=lambda line: print(line, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as building:
        assert building.stdout
        for line in building.stdout:
            if b"Resolved" in line:
                break
        os.kill(building.pid, signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert load(NEW, tmp_path) is None
    with pytest.raises(UnreachableError) as caught:
        require(NEW, tmp_path)
    assert caught.value.hint == f"dbha release install {NEW.name}"

    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: install(NEW, tmp_path, on_line=said.append), range(2))
    assert first == second
    assert sum("Installed" in line for line in said) == 1
    assert "another process is installing this release; waiting for it" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{NEW.name}.lock", NEW.name]
    assert probe(first.runner).heads == first.heads


def test_without_a_package_index_uv_s_words_and_a_way_out_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(UnreachableError) as caught:
        install(OLD, tmp_path / "root")
    assert "uv said:" in str(caught.value)
    assert "Failed to fetch" in str(caught.value)
    assert "UV_DEFAULT_INDEX" in caught.value.hint
    assert load(OLD, tmp_path / "root") is None
    assert [path.name for path in (tmp_path / "root").iterdir()] == [f".{OLD.name}.lock"]


def test_constraints_that_cannot_be_met_are_explained(tmp_path: Path) -> None:
    constraints = tmp_path / "upper-constraints.txt"
    constraints.write_text("nova===1.0.0\n")
    with pytest.raises(UnreachableError) as caught:
        install(OLD, tmp_path / "root", constraints=constraints)
    assert "No solution found" in str(caught.value)
    assert "constraints file" in caught.value.hint


# --- syncs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A MariaDB with a binary log, and accounts without SUPER."""

    socket: Path

    def sql(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        connection = pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())

    def create(self, service: Service) -> None:
        self.sql(f"CREATE OR REPLACE USER '{service.name}_dbha'@'%%' IDENTIFIED BY %s", PASSWORD)
        for database in service.database_names:
            # Not CREATE OR REPLACE: that stops half way at the first foreign key.
            self.sql(f"DROP DATABASE IF EXISTS {database}")
            self.sql(f"CREATE DATABASE {database} CHARACTER SET {CHARACTER_SET} COLLATE {COLLATION}")
            self.sql(f"GRANT ALL ON {database}.* TO '{service.name}_dbha'@'%'")

    def heads(self, service: Service) -> dict[str, tuple[str, ...]]:
        found = {
            name: self.sql(f"SELECT version_num FROM {name}.alembic_version")
            for name in service.database_names
        }
        return {name: tuple(sorted(str(row[0]) for row in rows)) for name, rows in found.items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("mariadb")
    data, socket = directory / "data", directory / "socket"
    account = f"--user={Path('/').owner()}" if os.geteuid() == 0 else ""
    common = ["--no-defaults", f"--datadir={data}", *([account] if account else [])]
    create = ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(create, check=True, capture_output=True)
    options = [f"--socket={socket}", f"--port={PORT}", "--bind-address=127.0.0.1", "--log-bin=binlog"]
    log = (directory / "log").open("wb")
    with log, subprocess.Popen(["mariadbd", *common, *options], stdout=log, stderr=log) as process:
        try:
            yield _wait_for(Server(socket), process)
        finally:
            process.terminate()


def _wait_for(server: Server, process: subprocess.Popen[bytes]) -> Server:
    deadline_s = time.monotonic() + 60
    while True:
        try:
            server.sql("SELECT 1")
        except pymysql.err.OperationalError:
            assert process.poll() is None, "mariadbd ended"
            assert time.monotonic() < deadline_s, "mariadbd does not answer"
            time.sleep(0.2)
        else:
            return server


def run(environment: Environment, service: Service, command: NativeCommand) -> NativeResult:
    endpoint = Endpoint("127.0.0.1", PORT, f"{service.name}_dbha", Secret(PASSWORD))
    return native(environment.runner, command, render_config(command, endpoint))


def native(runner: Runner, command: NativeCommand, configuration: ToolConfiguration) -> NativeResult:
    with Tools(runner) as tools:
        return tools.run(command, configuration, timeout_s=300)


def sync(
    environment: Environment, service: Service, method: SyncMethod = SyncMethod.OFFLINE
) -> list[NativeResult]:
    results: list[NativeResult] = []
    for stage in service.stages(method):
        with ThreadPoolExecutor() as pool:
            results += pool.map(lambda command: run(environment, service, command), stage)
    return results


@pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))
def test_sync_and_upgrade_reach_the_heads_of_the_code(server: Server, service: Service) -> None:
    server.create(service)
    for release in (OLD, NEW):
        environment = installed(release)
        for result in sync(environment, service):
            assert result.meaning.outcome is Outcome.DONE, result.tail
            assert not any("%41" in line or "x%2541" in line for line in result.tail)
        expected = {name: environment.heads[name] for name in service.database_names}
        assert server.heads(service) == expected
        assert release in release_of_heads(service, expected)
    if service.check:
        assert run(installed(NEW), service, service.check).is_success


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_keystone_of_every_release_takes_any_password_and_reaches_the_heads_of_its_code(
    server: Server, release: Release
) -> None:
    server.create(KEYSTONE)
    environment = installed(release)
    (result,) = sync(environment, KEYSTONE)
    assert result.is_success, result.tail
    assert server.heads(KEYSTONE) == {"keystone": environment.heads["keystone"]}


def test_missing_cells_are_mapped_without_a_password(server: Server) -> None:
    server.create(NOVA)
    environment = installed(NEW)
    assert run(environment, NOVA, NOVA.stages()[0][0]).is_success
    for command in cell_mapping_commands(NOVA, ["nova_cell0", "nova"]):
        result = run(environment, NOVA, command)
        assert result.meaning.outcome is Outcome.DONE, result.tail
    mappings = server.sql(
        "SELECT name, transport_url, database_connection FROM nova_api.cell_mappings ORDER BY id"
    )
    place = "{scheme}://{username}:{password}@{hostname}:{port}"
    assert mappings == [
        ("cell0", "none:///", place + "/nova_cell0?{query}"),
        ("cell1", place + "/{path}?{query}", place + "/nova?{query}"),
    ]


def test_old_code_on_a_newer_schema_fails_and_changes_nothing(server: Server) -> None:
    server.create(NOVA)
    assert all(result.is_success for result in sync(installed(NEW), NOVA))
    _, cell0, cell1 = sync(installed(OLD), NOVA)
    for result in (cell0, cell1):
        assert result.returncode == 255
        assert "old code on a newer schema" in result.meaning.sentence
        assert any("Can't locate revision" in line for line in result.tail)
    assert server.heads(NOVA) == {name: installed(NEW).heads[name] for name in NOVA.database_names}


def test_glance_expanded_without_super_is_broken_for_good(server: Server) -> None:
    server.create(GLANCE)
    (expand,) = GLANCE.stages(SyncMethod.PHASES)[0]
    first = run(installed(NEW), GLANCE, expand)
    assert first.meaning.outcome is Outcome.FAILED
    assert any("1419" in line for line in first.tail)
    again = run(installed(NEW), GLANCE, expand)
    assert again.meaning.outcome is Outcome.FAILED
    assert any("1060" in line for line in again.tail)


def test_keystone_in_phases_ends_where_the_offline_sync_does(server: Server) -> None:
    server.create(KEYSTONE)
    assert KEYSTONE.check
    due = [run(installed(NEW), KEYSTONE, KEYSTONE.check).meaning]
    for (command,) in KEYSTONE.stages(SyncMethod.PHASES):
        result = run(installed(NEW), KEYSTONE, command)
        assert result.is_success, result.tail
        due.append(run(installed(NEW), KEYSTONE, KEYSTONE.check).meaning)
    assert [meaning.outcome for meaning in due] == [Outcome.MORE, Outcome.MORE, Outcome.MORE, Outcome.DONE]
    assert "--expand" in due[0].sentence
    assert "--contract" in due[1].sentence
    assert server.heads(KEYSTONE)["keystone"] == installed(NEW).heads["keystone"]


def test_a_refused_password_is_a_failure_that_shows_none(server: Server) -> None:
    server.create(GLANCE)
    endpoint = Endpoint("127.0.0.1", PORT, "glance_dbha", Secret("wrong-one"))
    ((command,),) = GLANCE.stages()
    result = native(installed(NEW).runner, command, render_config(command, endpoint))
    assert result.meaning.outcome is Outcome.FAILED
    assert any("Access denied" in line for line in result.tail)
    assert "wrong-one" not in repr(result)
