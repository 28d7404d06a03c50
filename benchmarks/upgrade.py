"""The upgrade: dbha beside the same native commands by hand, one after the other, plus a bare backup."""

import shutil
from pathlib import Path

from benchmarks.backup import bare_seconds
from benchmarks.cloud import RELEASE, TARGET, Cloud, cloud, shell, timed
from dbha.releases.environments import default_root

_BY_HAND = (
    ("nova", "nova-manage", "api_db sync"),
    ("nova", "nova-manage", "db sync"),
    ("keystone", "keystone-manage", "db_sync"),
    ("glance", "glance-manage", "db sync"),
    ("placement", "placement-manage", "db sync"),
)


def measure(instances: int) -> list[dict[str, object]]:
    """Return the wall time of both sides on the same cloud: by hand first, then put back, then dbha."""
    with cloud(instances) as made:
        made.dbha("backup", "create", "--verify", "--label", "base")
        by_hand = _by_hand(made)
        _put_back(made)
        ours = made.dbha("upgrade", "run", "--to", TARGET, "--yes")
    return [
        {"side": "dbha upgrade run", "seconds": round(ours, 1), "ratio": round(ours / by_hand, 2)},
        {"side": "bare backup and native commands by hand", "seconds": round(by_hand, 1), "ratio": 1.0},
    ]


def _by_hand(made: Cloud) -> float:
    environment = default_root({}) / TARGET / "bin"
    configuration = _write_configurations(made)
    commands = "; ".join(
        f'{environment}/{tool} --config-file "$CONF/{name}.conf" {arguments}'
        for name, tool, arguments in _BY_HAND
    )
    backup = bare_seconds(made)
    native = timed(lambda: shell(commands, CONF=configuration))
    shutil.rmtree(configuration)
    return backup + native


def _write_configurations(made: Cloud) -> Path:
    directory = made.directory / "by-hand"
    directory.mkdir(mode=0o700)
    account = made.cluster.account
    base = (
        f"mysql+pymysql://{account.user}:{account.password.reveal()}@{made.writer.address}:{made.writer.port}"
    )
    for name, sections in {
        "nova": {"api_database": "nova_api", "database": "nova"},
        "keystone": {"database": "keystone"},
        "glance": {"database": "glance"},
        "placement": {"placement_database": "placement"},
    }.items():
        text = "\n".join(
            f"[{section}]\nconnection = {base}/{database}" for section, database in sections.items()
        )
        (directory / f"{name}.conf").write_text(text)
    return directory


def _put_back(made: Cloud) -> None:
    """Bring the schemas back to where they were, so that dbha has the same work to do."""
    made.dbha("restore", "latest", "--yes")
    with made.cluster.session(made.writer) as session:
        if session.value("SELECT COUNT(*) FROM dbha.service_release WHERE `release` <> %s", [RELEASE]):
            raise RuntimeError("the releases were not put back")
