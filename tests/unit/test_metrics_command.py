"""`dbha metrics` where no node answers, and where its file cannot be written."""

from pathlib import Path

import pytest

from dbha.cli.main import run
from tests.unit.backup_site import Site


def metrics(site: Site, *arguments: str) -> int:
    return run(["-c", str(site.configuration), "metrics", *arguments])


def test_a_cluster_that_is_away_is_a_value(site: Site, tmp_path: Path) -> None:
    site.configuration.write_text(site.configuration.read_text() + "limits: {observe_timeout_s: 0.2}\n")
    site.backup(days=1, verified=True)
    file = tmp_path / "dbha.prom"
    assert metrics(site, "--textfile", str(file)) == 0
    text = file.read_text()
    assert 'dbha_cluster_verdict{cluster="lab",verdict="down"} 1.0' in text
    assert 'dbha_observation_success{cluster="lab",part="cluster"} 0.0' in text
    assert 'dbha_backup_check_level{cluster="lab",store="local",test="age"} 0.0' in text


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("dbha.txt", 2, "node_exporter reads only files whose name ends in .prom"),
        ("no/such/dbha.prom", 5, "cannot be written: No such file or directory"),
        ("backups.prom", 5, "cannot be written: Is a directory"),
    ],
)
def test_a_file_that_cannot_be(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, code: int, words: str
) -> None:
    site.configuration.write_text(site.configuration.read_text() + "limits: {observe_timeout_s: 0.2}\n")
    (tmp_path / "backups.prom").mkdir()
    before = sorted(tmp_path.iterdir())
    assert metrics(site, "--textfile", str(tmp_path / name)) == code
    assert words in capsys.readouterr().err
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert set(before) <= set(tmp_path.iterdir())


def test_a_wrong_inventory_is_a_mistake(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.directory / "inventory.yml").write_text("galrea: {hosts: {db1: {}}}")
    assert metrics(site) == 3
    assert "did you mean `galrea`?" in capsys.readouterr().err
