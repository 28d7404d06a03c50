"""Environments on disk, and the argument vectors that build them."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from dbha.errors import ConfigurationError, UnreachableError
from dbha.releases.catalogue import get_release
from dbha.releases.environments import (
    Environment,
    Wanted,
    default_root,
    list_environments,
    load,
    require,
    write_marker,
)
from dbha.releases.install import install
from dbha.releases.uv_commands import create_argv, hint_of, install_argv, parse_list

RELEASE = get_release("2026.2")
DATED = Wanted(RELEASE.requirements(), resolved_as_of="2026-11-20")
CONSTRAINED = Wanted(RELEASE.requirements(constrained=True), constraints_sha256="aa")


def environment(root: Path) -> Environment:
    directory = root / RELEASE.name
    (directory / "bin").mkdir(parents=True)
    (directory / "bin" / "python").touch()
    return Environment(
        release=RELEASE.name,
        directory=directory,
        wanted=DATED,
        installed="2026-11-23T05:00:00+00:00",
        python="3.11.7",
        packages={"nova": "34.0.0"},
        heads={"keystone": ("742c857f1dfb", "c88cdce8f248")},
    )


def test_what_a_marker_says_is_read_back(tmp_path: Path) -> None:
    written = environment(tmp_path)
    write_marker(written)
    assert load(RELEASE, tmp_path) == written
    assert list_environments(tmp_path) == (written,)
    assert require(RELEASE, tmp_path).runner.directory == f"{tmp_path}/2026.2/bin"


def test_a_directory_without_a_marker_is_not_installed(tmp_path: Path) -> None:
    environment(tmp_path)
    assert load(RELEASE, tmp_path) is None
    with pytest.raises(UnreachableError) as caught:
        require(RELEASE, tmp_path)
    assert caught.value.hint == "dbha release install 2026.2"


def test_an_environment_whose_python_is_gone_is_not_installed(tmp_path: Path) -> None:
    written = environment(tmp_path)
    write_marker(written)
    (written.directory / "bin" / "python").unlink()
    assert load(RELEASE, tmp_path) is None


def test_a_marker_of_a_later_dbha_is_not_guessed_at(tmp_path: Path) -> None:
    written = environment(tmp_path)
    (written.directory / "environment.json").write_text(json.dumps({"schema": 2}))
    assert load(RELEASE, tmp_path) is None


@pytest.mark.parametrize(
    ("built", "wanted", "enough"),
    [
        pytest.param(DATED, DATED, True, id="the same"),
        pytest.param(DATED, CONSTRAINED, False, id="constraints are now given"),
        pytest.param(CONSTRAINED, DATED, True, id="constraints were given then"),
        pytest.param(CONSTRAINED, Wanted(CONSTRAINED.requirements, "", "bb"), False, id="other constraints"),
        pytest.param(DATED, Wanted(DATED.requirements, "2026-12-01"), False, id="another day"),
    ],
)
def test_what_is_built_anew(built: Wanted, wanted: Wanted, enough: bool) -> None:
    assert built.satisfies(wanted) == enough


def test_the_default_root_is_the_users_cache() -> None:
    assert default_root({"XDG_CACHE_HOME": "/c"}) == Path("/c/dbha/releases")
    assert default_root({}) == Path.home() / ".cache" / "dbha" / "releases"


def test_packages_are_as_of_the_release_or_as_the_constraints_say(tmp_path: Path) -> None:
    dated = install_argv(tmp_path / "e", ["nova>=34,<35"], newest="2026-11-20")
    assert dated[-4:] == (f"{tmp_path}/e/bin/python", "--exclude-newer", "2026-11-20", "nova>=34,<35")
    constrained = install_argv(tmp_path / "e", ["nova>=34,<35"], constraints=tmp_path / "upper.txt")
    assert constrained[-3:] == ("--constraints", f"{tmp_path}/upper.txt", "nova>=34,<35")
    assert "--exclude-newer" not in constrained


def test_an_environment_can_be_renamed_and_ignores_the_operators_other_projects(tmp_path: Path) -> None:
    argv = create_argv(tmp_path / "e")
    assert "--relocatable" in argv
    assert argv[argv.index("--directory") + 1] == str(tmp_path)
    unset = {name for option, name in pairwise(argv) if option == "-u"}
    assert {"VIRTUAL_ENV", "UV_CONSTRAINT", "PYTHONPATH"} <= unset
    assert not any(name.startswith(("UV_INDEX", "UV_DEFAULT_INDEX")) for name in unset)


@pytest.mark.parametrize(
    ("words", "constrained", "hint"),
    [
        pytest.param("No solution found when resolving", True, "is the constraints file", id="constraints"),
        pytest.param("No solution found when resolving", False, "--constraints", id="no solution"),
        pytest.param("error: Failed to fetch: `x`", False, "UV_DEFAULT_INDEX", id="no network"),
        pytest.param(
            "error: Failed to fetch: `x`\n  cause: invalid peer certificate: UnknownIssuer",
            False,
            "UV_SYSTEM_CERTS=true",
            id="a proxy's own certificate",
        ),
        pytest.param("something else", False, "uv's words", id="anything else"),
    ],
)
def test_what_to_do_when_uv_fails(words: str, constrained: bool, hint: str) -> None:
    assert hint in hint_of(["", words], constrained=constrained)


def test_a_listing_is_versions_by_name() -> None:
    assert parse_list('[{"name": "nova", "version": "34.0.0"}]') == {"nova": "34.0.0"}


def test_a_constraints_file_that_is_not_there_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        install(RELEASE, tmp_path / "root", constraints=tmp_path / "none.txt")
    assert caught.value.problems == ("cannot be read: No such file or directory",)
    assert not (tmp_path / "root").exists()
